//! The front joined to the house: what a press begins, and `holdfast lights` for whoever has to see or set the lamps by hand.
//!
//! Owns: the one recording that the button has. Must not touch: lamps and lines (the panel's), rules of recordings.
//! Law: a press ends the button's recording if there is one, of this life or the one before, and begins one otherwise;
//! what the rooms refuse is told, and nothing else happens.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Error, failed};
use crate::config::{self, Config, Live};
use crate::health::Reporter;
use crate::model::Secret;
use crate::model::button::Press;
use crate::model::lamps::{self, Facts, Recording, Stage, State, TABLE};
use crate::model::recording::{RecordingSpec, StorageKeys};
use crate::panel::{Last, Panel};
use crate::rooms::{self, Rooms, TaskStatus};

/// How often it is looked whether the box is being updated. A light that is two seconds late is soon enough.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long identify lasts, whoever asks for it.
pub const IDENTIFY: Duration = Duration::from_secs(15);

/// Until `cancel`: the front is as the configuration in force has it. `before`: as it was begun.
pub(super) async fn follow(panel: Arc<Panel>, live: Live, mut before: config::Panel, cancel: CancellationToken) {
    let mut changes = live.changes();
    changes.mark_changed();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let now = changes.borrow_and_update().panel.clone();
        if (&now.lights, &now.button) != (&before.lights, &before.button) {
            info!("the front is configured anew");
            let (panel, now) = (panel.clone(), now.clone());
            // it waits for the button's thread to let go
            let _ = tokio::task::spawn_blocking(move || panel.configure(&now)).await;
        }
        before = now;
    }
}

/// Until `cancel`: health knows whether the box is being updated, which the file of the configuration says.
pub(super) async fn watch_updates(live: Live, health: Reporter, cancel: CancellationToken) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = look.tick() => {}
        }
        let file = live.now().panel.updating_file.clone();
        // what cannot be looked for is not there
        let updating = tokio::fs::try_exists(file).await.unwrap_or(false);
        health.tell(|facts| facts.updating = updating);
    }
}

/// Until `cancel`: a short press begins or ends the recording, a long one asks for identify.
pub(super) async fn serve_button(
    mut presses: mpsc::Receiver<Press>,
    live: Live,
    rooms: Rooms,
    identify: impl Fn(Duration),
    health: Reporter,
    cancel: CancellationToken,
) {
    loop {
        let press = tokio::select! {
            press = presses.recv() => press,
            () = cancel.cancelled() => return,
        };
        match press {
            None => return,
            Some(Press::Long) => identify(IDENTIFY),
            Some(Press::Short) => {
                let Some((spec, keys)) = live.now().panel.button.order() else {
                    warn!("the button was pressed, and no room is set for it");
                    continue;
                };
                match toggle(&rooms, spec, keys).await {
                    Ok(()) => health.ok("button"),
                    Err(error) => {
                        warn!(%error, "the button was pressed in vain");
                        health.degraded("button", format!("it was pressed in vain: {error}"));
                    }
                }
            }
        }
    }
}

async fn toggle(rooms: &Rooms, spec: RecordingSpec, keys: StorageKeys) -> Result<(), rooms::Error> {
    let room = spec.room_key();
    let ours = |task: &rooms::TaskLine| task.recorder == spec.recorder && task.view.status != TaskStatus::Exited;
    let running: Vec<_> = rooms.list().await?.into_iter().filter(ours).collect();
    if running.is_empty() {
        let task = rooms.create(spec, keys, Secret::new("")).await?;
        info!(%task, %room, "the button begins a recording");
        return Ok(());
    }
    // of another room, too, if the configuration was changed meanwhile
    for task in running {
        info!(task = %task.view.task, %room, "the button ends the recording");
        rooms.delete(task.app, task.view.task).await?;
    }
    Ok(())
}

/// Says what the lights mean, shows one state, or sets them for a box that is dead.
#[derive(Debug, Clone, clap::Args)]
pub struct LightsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Every state of every light, with its rhythm in milliseconds lit and dark by turns.
    Table,
    /// Show one state of the table, or `all` of them one after the other. The box must not run meanwhile.
    Show {
        #[arg(long)]
        config: PathBuf,
        state: String,
        #[arg(long, default_value_t = 6)]
        seconds: u64,
    },
    /// Leave the lights as a box leaves them that has failed. For whoever sees one die; the box must not run.
    Failed {
        #[arg(long)]
        config: PathBuf,
    },
    /// Leave them dark.
    Off {
        #[arg(long)]
        config: PathBuf,
    },
}

fn front(file: &PathBuf) -> Result<Panel, Error> {
    let text = std::fs::read_to_string(file).map_err(failed("configuration"))?;
    let mut config: config::Panel = Config::parse(&text).map_err(failed("configuration"))?.panel;
    // nobody would take its presses
    config.button = config::panel::Button::default();
    Ok(Panel::start(&config, mpsc::channel(1).0))
}

pub fn lights(args: &LightsArgs) -> Result<ExitCode, Error> {
    match &args.what {
        What::Table => {
            for row in TABLE {
                let rhythm: Vec<String> = row.rhythm.0.iter().map(u16::to_string).collect();
                println!("{}\t{}\t{}\t{}", row.light.name(), row.name, rhythm.join(" "), row.says);
            }
        }
        What::Show { config, state, seconds } => {
            let states: Vec<&lamps::Row> = match state.as_str() {
                "all" => TABLE.iter().collect(),
                name => vec![lamps::named(name).ok_or_else(|| Error::Start {
                    what: "lights",
                    why: format!("'{name}' is not one of the states that 'holdfast lights table' lists"),
                })?],
            };
            let panel = front(config)?;
            for row in states {
                println!("{}\t{}\t{}", row.light.name(), row.name, row.says);
                match row.state {
                    State::Identify => panel.identify(Duration::from_secs(*seconds)),
                    State::Off => {}
                    _ => panel.show(facts_of(row)),
                }
                std::thread::sleep(Duration::from_secs(*seconds));
            }
            panel.leave(Last::Off);
        }
        What::Failed { config } => front(config)?.leave(Last::Failed),
        What::Off { config } => front(config)?.leave(Last::Off),
    }
    Ok(ExitCode::SUCCESS)
}

/// Facts of which a light shows this state, and the other lights nothing but that they are well.
fn facts_of(row: &lamps::Row) -> Facts {
    let plain = Facts { stage: Stage::Running, ..Facts::default() };
    let running = Facts { recording: Recording::Running, ..plain };
    let facts = match row.state {
        State::Starting => Facts { stage: Stage::Starting, ..plain },
        State::Stopping => Facts { stage: Stage::Stopping, ..plain },
        State::Attention => Facts { degraded: true, ..plain },
        State::DiskLow => Facts { disk_low: true, ..plain },
        State::Updating => Facts { updating: true, ..plain },
        State::Failed => Facts { failed: true, ..plain },
        State::Waiting => Facts { recording: Recording::Waiting, ..plain },
        State::Paused => Facts { recording: Recording::Paused, ..plain },
        State::Recording => running,
        State::NoSound => Facts { silent: true, ..running },
        State::NoPicture => Facts { blind: true, ..running },
        State::NeitherSoundNorPicture => Facts { silent: true, blind: true, ..running },
        State::NotWritten => Facts { unwritten: true, ..running },
        State::Uploading => Facts { uploading: true, ..plain },
        State::Backlog => Facts { backlog: true, ..plain },
        State::Unreachable => Facts { unreachable: true, ..plain },
        State::Well | State::NotRecording | State::NothingToUpload | State::Off | State::Identify => plain,
    };
    debug_assert!(
        matches!(row.state, State::Off | State::Identify) || lamps::state(row.light, &facts) == row.state,
        "the facts are of this state"
    );
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lamps::Light;

    #[tokio::test]
    async fn a_box_is_updating_as_long_as_the_file_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("updating");
        let mut config = Config::default();
        config.panel.updating_file = file.clone();
        let (health, cancel) = (Reporter::default(), CancellationToken::new());
        health.started();
        let mut facts = health.facts();
        let watching = tokio::spawn(watch_updates(Live::new(config), health.clone(), cancel.clone()));
        for there in [true, false] {
            if there {
                std::fs::write(&file, "").expect("the folder is ours");
            } else {
                std::fs::remove_file(&file).expect("it is there");
            }
            let seen = facts.wait_for(|facts| facts.updating == there);
            let seen = tokio::time::timeout(Duration::from_secs(60), seen).await.expect("it is looked for");
            let shown = lamps::state(Light::Power, &seen.expect("health is there"));
            assert_eq!(shown, if there { State::Updating } else { State::Well });
        }
        cancel.cancel();
        watching.await.expect("it ends");
    }

    #[test]
    fn every_state_can_be_shown_and_leaves_the_other_lights_calm() {
        for row in TABLE.iter().filter(|row| !matches!(row.state, State::Off | State::Identify)) {
            let facts = facts_of(row);
            for light in Light::ALL {
                let shown = lamps::state(light, &facts);
                let calm = [State::Well, State::NotRecording, State::NothingToUpload].contains(&shown);
                assert_eq!(light == row.light, shown == row.state, "{} on {light:?}", row.name);
                assert!(light == row.light || calm, "{} lets {light:?} show {shown:?}", row.name);
            }
        }
    }
}
