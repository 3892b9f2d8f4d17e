//! What commands of the operators do, joined of the house's parts.
//!
//! Owns: what goes into a debug bundle, how the machine is asked to start anew. Must not touch: how commands are told.
//! Law: nothing waits for a command; a bundle goes only to where the configuration lets it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::ring;
use crate::config::document::part;
use crate::config::{Live, Source};
use crate::fleet::bundle::{self, Page};
use crate::fleet::commands::{Call, Hand, Hands};
use crate::fleet::twin::Rotation;
use crate::images::Outlet;
use crate::media::graphs;
use crate::media::sources::Sources;
use crate::model::board::Board;
use crate::model::command::Refusal;
use crate::model::{Secret, WallClock};
use crate::panel::Panel;
use crate::rooms::Rooms;

/// Files of the shelf that are listed.
const MOST_FILES: usize = 20_000;
/// A command that has not come back by then has been taken by somebody.
const REBOOT_WITHIN: Duration = Duration::from_secs(20);
/// Which life of the machine this is; by the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Another one for each life of the machine. A machine that does not say has none but this.
pub(super) fn boot() -> String {
    std::fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// What a bundle is made of.
#[derive(Clone)]
pub(super) struct Sight {
    pub live: Live,
    pub metrics: PrometheusHandle,
    pub board: Option<Arc<Board>>,
    pub clock: WallClock,
    pub health: crate::health::Reporter,
}

pub(super) fn hands(
    call: Call,
    rooms: Rooms,
    panel: &Panel,
    sources: &Sources,
    sight: Sight,
    rotations: mpsc::Sender<Rotation>,
) -> Hands {
    let live = sight.live.clone();
    Hands {
        call,
        rooms,
        identify: Arc::new(panel.identifier()),
        reboot: Arc::new(move || Box::pin(reboot(live.now().fleet.reboot_command.clone()))),
        more: BTreeMap::from([
            ("add_source", add_source(sources.clone(), sight.live.clone())),
            ("remove_source", remove_source(sources.clone())),
            ("rotate_keys", rotate_keys(rotations)),
            ("debug_bundle", debug_bundle(sight)),
        ]),
    }
}

/// Runs the command that the configuration has for it.
async fn reboot(command: Vec<String>) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("fleet.reboot_command is empty: this box is not started anew from afar".into());
    };
    warn!(program, "the operators start the machine anew");
    let mut child = tokio::process::Command::new(program);
    let ran = child.args(arguments).stdin(std::process::Stdio::null()).status();
    match tokio::time::timeout(REBOOT_WITHIN, ran).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => Ok(()),
    }
}

/// `args`: one entry of `[[sources]]`. It lasts until the box starts again, or is given other sources by its configuration.
fn add_source(sources: Sources, live: Live) -> Hand {
    Arc::new(move |args| {
        let refused = |why: String| Refusal::new("bad_request", why);
        let read = part::<Source>(args).map_err(|fault| refused(format!("{}: {}", fault.field, fault.reason)));
        let config = live.now();
        let made = read.and_then(|source| {
            let spec = source.spec(|app| config.app(app).is_some()).map_err(|faults| refused(faults.join("; ")))?;
            sources.add(spec).map_err(|error| refused(error.to_string()))?;
            Ok(json!({ "name": source.name }))
        });
        Box::pin(std::future::ready(made))
    })
}

/// `args`: a document of keys alone. The twin takes it, so that there is one truth of which keys hold.
fn rotate_keys(rotations: mpsc::Sender<Rotation>) -> Hand {
    Arc::new(move |args| {
        let rotations = rotations.clone();
        Box::pin(async move {
            let gone = || Refusal::new("failed", "this box is not configured by documents");
            let (answer, answered) = oneshot::channel();
            rotations.send(Rotation { args, answer }).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        })
    })
}

fn remove_source(sources: Sources) -> Hand {
    Arc::new(move |args| {
        let name = args.get("name").and_then(Value::as_str).unwrap_or_default();
        let removed = sources.remove(name).map(|()| json!({ "name": name }));
        Box::pin(std::future::ready(removed.map_err(|error| Refusal::new("bad_request", error.to_string()))))
    })
}

fn debug_bundle(sight: Sight) -> Hand {
    Arc::new(move |args| {
        let sight = sight.clone();
        Box::pin(async move {
            let refused = |why: String| Refusal::new("bad_request", why);
            let Some(url) = args.get("url").and_then(Value::as_str) else {
                return Err(refused("args.url is not there: the signed address that takes the bundle by PUT".into()));
            };
            let outlet = Outlet::new(&sight.live.now().fleet.bundle_allow).map_err(|e| Refusal::new("failed", e))?;
            outlet.check(url).map_err(refused)?;
            let packed = tokio::task::spawn_blocking(move || pack(&sight)).await;
            let packed = packed.map_err(|_| Refusal::new("failed", "it could not be collected"))?;
            let packed = packed.map_err(|e| Refusal::new("failed", e.to_string()))?;
            let bytes = packed.len();
            outlet.put(url, packed, "application/gzip").await.map_err(|why| Refusal::new("not_taken", why))?;
            info!(bytes, "a debug bundle is with the operators");
            Ok(json!({ "bytes": bytes }))
        })
    })
}

fn pack(sight: &Sight) -> std::io::Result<Vec<u8>> {
    let config = sight.live.now();
    let mut pages = vec![
        Page::new(
            "about.txt",
            format!("holdfast {}\nhealth {:?}\n", env!("CARGO_PKG_VERSION"), sight.health.summary()),
        ),
        Page::new("log.txt", ring::text()),
        Page::new("config.txt", format!("{config:#?}\n")),
        Page::new("metrics.txt", sight.metrics.render()),
        Page::new("shelf.txt", listing(&config.spool_dir())),
    ];
    if let Some(board) = &sight.board {
        pages.push(Page::new("probe.json", format!("{:#}\n", json!(**board))));
    }
    let graphs = graphs::drawn().into_iter();
    pages.extend(graphs.map(|(name, graph)| Page::new(format!("pipelines/{name}.dot"), graph)));
    bundle::pack(&pages, &secrets(&config), (sight.clock)())
}

/// Every secret that the configuration holds, by its type; the list is complete when no `Secret` is left out.
fn secrets(config: &crate::config::Config) -> Vec<Secret> {
    let apps = config.apps.iter().flat_map(|app| [app.secret_key.as_ref(), app.callback_key.as_ref()]);
    let keys = config.api_keys.iter().map(|key| Some(&key.secret_key));
    let records = [&config.automatic, &config.panel.button.record];
    let records = records
        .into_iter()
        .flat_map(|record| [Some(&record.access_key), Some(&record.secret_key), record.callback_key.as_ref()]);
    let sources = config.sources.iter().flat_map(|source| [source.password.as_ref(), source.token.as_ref()]);
    let others = [config.vod.secret_key.as_ref(), config.fleet.password.as_ref()];
    apps.chain(keys).chain(sources).chain(records).chain(others).flatten().cloned().collect()
}

/// Names and sizes, nothing of what the files hold.
fn listing(dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = entry.metadata().map(|about| about.len()).unwrap_or_default();
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            lines.push(format!("{bytes:>12} {name}\n"));
            if lines.len() >= MOST_FILES {
                lines.push(format!("and more than {MOST_FILES}\n"));
                folders.clear();
                break;
            }
        }
    }
    lines.sort_unstable_by(|a, b| a[13.min(a.len())..].cmp(&b[13.min(b.len())..]));
    lines.concat()
}
