//! Builds every part, wires the channels, and knows the order of start and stop.
//!
//! Owns: construction; the only reading of the system clock. Must not touch: rules.
//! Law: the door opens last and closes first; each stage of a stop is bounded, and the backlog is not waited for.

pub mod board;
mod commands;
mod fleet;
pub mod keys;
pub mod live;
pub mod merge;
pub mod panel;
pub mod publish;
pub mod ring;
pub mod shelf;
mod start;
pub mod systemd;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::fleet::Operators;
use self::live::{Follower, SetFilter};
use self::start::{Ground, House};
use crate::alarms::Watch;
use crate::api::{self, Door};
use crate::config::document::{Base, Layers};
use crate::config::{self, Config, Live, OnStop, Server};
use crate::fleet::commands::Call;
use crate::fleet::keep;
use crate::fleet::twin::Twin;
use crate::health::Reporter;
use crate::images::Images;
use crate::media::engine::Engine;
use crate::media::sources::{Sources, Standing};
use crate::media::whip::WhipServer;
use crate::media::{self, MediaClock};
use crate::model::alarm::Alarm;
use crate::model::board::Board;
use crate::model::button::Press;
use crate::model::{MediaTime, Timestamp, WallClock};
use crate::package::Packer;
use crate::panel::{Last, Panel};
use crate::rooms::{Actor, Parts, Rooms};
use crate::spool::{self, Spool};
use crate::store::seal::BoxKey;
use crate::store::{Store, records};
use crate::upload::Uploader;
use crate::webhook::Webhook;

/// Longest waits of an orderly stop, in its order. Their sum stays under systemd's default of 90 s.
const ROOMS_STOP: Duration = Duration::from_secs(25);
const SPOOL_STOP: Duration = Duration::from_secs(10);
const NEWS_STOP: Duration = Duration::from_secs(5);
const DOOR_STOP: Duration = Duration::from_secs(3);
const SOURCES_STOP: Duration = Duration::from_secs(5);
const LIGHTS_STOP: Duration = Duration::from_secs(2);

/// Exit codes beside 0 and 1, all of which ask systemd for another start: a part without which there is no box is gone;
/// a change of the configuration needs one.
const BROKEN: u8 = 70;
const START_AGAIN: u8 = 75;

/// How often the wall clock is looked at, and how far it must be off to have been set.
const CLOCK_LOOK: Duration = Duration::from_secs(1);
const CLOCK_STEP: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {why}")]
    Start { what: &'static str, why: String },
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Start { what, why: e.to_string() }
}

/// The system's wall clock. Everything else is told the time.
pub fn wall_clock() -> WallClock {
    Arc::new(|| {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    })
}

/// Looks at the wall clock against the monotonic one. A box without a clock battery starts in the past, and is set when
/// the network is there.
async fn watch_clock(wall: WallClock, media: MediaClock, cancel: CancellationToken) {
    let mut look = tokio::time::interval(CLOCK_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = cancel.cancelled() => return,
        }
        // a process that stood still between the readings knows nothing: it looks again
        let (before, shown, after) = (media.now(), wall(), media.now());
        if after.0 - before.0 > CLOCK_STEP.as_nanos() as u64 / 4 {
            continue;
        }
        if let Some(by_us) = media.follow(shown, MediaTime(before.0.midpoint(after.0)), CLOCK_STEP) {
            warn!(by_ms = by_us / 1000, "the wall clock was set; files that begin from now on have the new time");
            metrics::counter!("holdfast_clock_steps_total").increment(1);
        }
    }
}

/// Health says which sources give nothing, and why.
async fn watch_sources(sources: Sources, health: Reporter, cancel: CancellationToken) {
    let mut states = sources.watch();
    loop {
        let failing: Vec<String> = (states.borrow_and_update().values())
            .filter_map(|state| match &state.standing {
                Standing::Failing(why) => Some(format!("{}: {why}", state.name)),
                Standing::Connecting | Standing::Live => None,
            })
            .collect();
        if failing.is_empty() {
            health.ok("sources");
        } else {
            health.degraded("sources", failing.join("; "));
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = cancel.cancelled() => return,
        }
    }
}

/// A box that runs: where its doors are, and how to stop it.
pub struct RunningBox {
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    pub udp: SocketAddr,
    /// SHA-256 of the certificate that HTTPS shows.
    pub fingerprint: Option<String>,
    pub health: Reporter,
    /// What is wrong with what is recorded, now.
    pub alarms: watch::Receiver<Vec<Alarm>>,
    rooms: Rooms,
    panel: Arc<Panel>,
    live: Live,
    layers: Arc<Mutex<Layers>>,
    /// Somebody wants a start, and nothing is recorded.
    restart: Arc<Notify>,
    doors: CancellationToken,
    rooms_cancel: CancellationToken,
    work_cancel: CancellationToken,
    whip: Arc<WhipServer>,
    /// Cameras and the like: whoever configures the box changes them here.
    pub sources: Sources,
    spool: Arc<Spool>,
    store: Store,
    engine: Engine,
    door_tasks: Vec<JoinHandle<()>>,
    rooms_task: JoinHandle<()>,
    work_tasks: Vec<JoinHandle<()>>,
}

/// One recorder of metrics for the process; a second box in it (tests, demo) shares it.
fn metrics() -> PrometheusHandle {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    let make = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            warn!("metrics are counted by somebody else in this process");
        }
        handle
    };
    HANDLE.get_or_init(make).clone()
}

pub(crate) fn crypto() {
    // A provider that is there already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Starts the box as part of another program, whose log is its own.
pub async fn start(config: Config) -> Result<RunningBox, Error> {
    start_with(config, None, Arc::new(|_| Ok(()))).await
}

/// Starts the box: memory, shelf, carriers, media, rooms, and the doors last.
///
/// `file`: that of which `config` was read, for documents to lie over; without one none do.
async fn start_with(mut config: Config, file: Option<Base>, set_filter: SetFilter) -> Result<RunningBox, Error> {
    crypto();
    keys::all(&mut config)?;
    let clock = wall_clock();
    let media_clock = MediaClock::new(Instant::now(), clock());
    let health = Reporter::default();
    // first: whatever goes wrong from here on is seen
    let (presses_in, presses) = mpsc::channel(8);
    let panel = Arc::new(Panel::start(&config.panel, presses_in));
    panel.follow(health.facts());
    let front = config.panel.clone();
    let metrics = metrics();
    media::init().map_err(failed("media"))?;

    let box_key = state(&config)?;
    let steered = config.fleet.enabled && file.is_some();
    let layers = Arc::new(Mutex::new(Layers::new(file.unwrap_or_default())));
    let (config, twin) = match steered {
        true => live::of_the_operators(config, &box_key, &layers, &clock, &health),
        false => (config, None),
    };
    let live = Live::new(config);
    let config = live.now();
    let board = board::known(&config).await;
    let vault = keys::vault(&config)?;
    let Ground { store, spool, fates_in, fates, recovered, remembered } =
        start::ground(&config, vault, &clock, &health).await?;
    let (news_in, news) = mpsc::channel(1024);
    let (asks_in, asks) = mpsc::channel(64);
    let House { tracks, whip, stills, sources, engine } =
        start::house(&config, media_clock, board.as_deref(), news_in).await?;
    let (images_in, images_out) = mpsc::channel(256);
    let (image_failures_in, image_failures) = mpsc::channel(256);
    let images = Images::new(&config.images, stills.clone()).map_err(failed("images"))?;

    let packer = Packer::new();
    let outbox = Arc::new(Notify::new());
    let webhook = Webhook::new(live.clone(), store.clone(), clock.clone(), outbox.clone(), health.clone())
        .map_err(failed("callbacks"))?;
    let operators = fleet::line(&config, &store, &clock, &health);
    let parts = Parts {
        config: live.clone(),
        store: store.clone(),
        spool: spool.clone(),
        engine: Arc::new(engine.clone()),
        media_clock,
        box_key: box_key.clone(),
        packer: packer.clone(),
        fates: fates_in.clone(),
        board: board.clone(),
        outbox,
        mirror: operators.as_ref().map(|operators| operators.news.clone()),
        images: images_in,
        stills,
        health: health.clone(),
    };
    let actor = Actor::restore_of(parts, recovered, remembered).await.map_err(failed("rooms"))?;

    let (alarm_limits, limits) = watch::channel(config.alarms.limits());
    let (alarms_in, alarms) = watch::channel(Vec::new());
    let watch = Watch {
        engine: engine.clone(),
        clock: media_clock,
        health: health.clone(),
        recorded: actor.recorded(),
        limits,
        alarms: alarms_in,
    };
    let uploader =
        Uploader::new(live.clone(), store.clone(), spool.clone(), box_key, fates_in, clock.clone(), health.clone())
            .packing_with(packer);
    let rooms = Rooms::new(asks_in);
    let follower = Follower {
        live: live.clone(),
        rooms: rooms.clone(),
        spool: spool.clone(),
        set_filter,
        sources: sources.clone(),
        alarms: alarm_limits,
        tracks,
        fleet: operators.as_ref().map(|operators| operators.settings.clone()),
    };
    let door = Door {
        config: live.clone(),
        rooms: rooms.clone(),
        whip: whip.clone(),
        clock: clock.clone(),
        health: health.clone(),
        metrics,
    };
    let rooms_cancel = CancellationToken::new();
    let mut the_box = RunningBox {
        http: None,
        https: None,
        udp: whip.local_addr(),
        fingerprint: None,
        health: health.clone(),
        alarms,
        rooms,
        panel,
        live: live.clone(),
        layers,
        restart: Arc::new(Notify::new()),
        doors: CancellationToken::new(),
        rooms_task: tokio::spawn(actor.run(asks, news, fates, image_failures, rooms_cancel.clone())),
        rooms_cancel,
        work_cancel: CancellationToken::new(),
        whip,
        sources: sources.clone(),
        spool,
        store,
        engine,
        door_tasks: Vec::new(),
        work_tasks: Vec::new(),
    };
    the_box.work(|cancel| follower.run(cancel));
    the_box.work(|cancel| uploader.run(cancel));
    the_box.work(|cancel| webhook.run(cancel));
    the_box.work(|cancel| images.run(images_out, image_failures_in, cancel));
    the_box.work(|cancel| watch.run(cancel));
    the_box.work(|cancel| watch_clock(clock, media_clock, cancel));
    the_box.work(|cancel| watch_sources(sources.clone(), health, cancel));
    sources.apply(config.source_specs());
    the_box.serve_panel(presses, front);
    if let Some(operators) = operators {
        the_box.serve_operators(operators, twin, board, &door);
    }
    the_box.open_doors(&config.server, door).await?;
    Ok(the_box)
}

/// What the box remembers beside its index: makes the folder for it, and room where a full disk left none. The key of
/// this box.
fn state(config: &Config) -> Result<Arc<BoxKey>, Error> {
    let dir = &config.server.state_dir;
    std::fs::create_dir_all(dir)
        .map_err(|e| Error::Start { what: "state directory", why: format!("{}: {e}", dir.display()) })?;
    spool::make_room_to_start(&config.spool_dir(), &config.disk_limits());
    BoxKey::load_or_create(&dir.join("box.key")).map(Arc::new).map_err(failed("box key"))
}

async fn bounded(what: &str, limit: Duration, done: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, done).await.is_err() {
        error!(what, ?limit, "did not stop in time");
    }
}

/// Returns when every event has been taken.
async fn emptied(store: &Store) {
    while store.scan(records::OUTBOX).await.is_ok_and(|left| !left.is_empty()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl RunningBox {
    /// Something that goes on until the box has nothing left to carry.
    fn work<F>(&mut self, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.work_tasks.push(tokio::spawn(run(self.work_cancel.clone())));
    }

    /// `front`: what the panel was started with.
    fn serve_panel(&mut self, presses: mpsc::Receiver<Press>, front: config::Panel) {
        let (live, rooms, health, identify) =
            (self.live.clone(), self.rooms.clone(), self.health.clone(), self.panel.identifier());
        self.work(|cancel| panel::serve_button(presses, live, rooms, identify, health, cancel));
        let (panel, live) = (self.panel.clone(), self.live.clone());
        self.work(|cancel| panel::follow(panel, live, front, cancel));
        let (live, health) = (self.live.clone(), self.health.clone());
        self.work(|cancel| panel::watch_updates(live, health, cancel));
    }

    fn serve_operators(
        &mut self,
        mut operators: Operators,
        twin: Option<Twin>,
        board: Option<Arc<Board>>,
        door: &Door,
    ) {
        let (rotations_in, rotations) = mpsc::channel(4);
        if let Some(twin) = twin {
            let station = operators.station(twin, self.live.clone(), rotations, self.restart.clone());
            let health = self.health.clone();
            self.work(|cancel| keep("twin", station, health, cancel));
        }
        let sight = commands::Sight {
            live: self.live.clone(),
            metrics: door.metrics.clone(),
            board,
            clock: door.clock.clone(),
            health: self.health.clone(),
        };
        let call: Call = Arc::new(api::operators(door.clone()));
        let hands = commands::hands(call, self.rooms.clone(), &self.panel, &self.sources, sight, rotations_in);
        let commands = operators.commands(self.store.clone(), hands);
        let health = self.health.clone();
        self.work(|cancel| keep("commands", commands, health, cancel));
        self.work_tasks.extend(operators.start(door.metrics.clone(), self.alarms.clone(), &self.work_cancel));
    }

    /// The last step of a start: from now on the box is called.
    async fn open_doors(&mut self, server: &Server, door: Door) -> Result<(), Error> {
        let start::Doors { http, https, fingerprint, tasks } = start::doors(server, door, &self.doors).await?;
        (self.http, self.https, self.fingerprint, self.door_tasks) = (http, https, fingerprint, tasks);
        self.health.started();
        info!(?http, ?https, udp = %self.udp, "the box is ready");
        Ok(())
    }

    /// Takes `[automatic]` from a file that was changed; of a file with faults nothing is taken.
    pub async fn reload(&self, file: &Path) {
        let read = std::fs::read_to_string(file).map_err(|e| e.to_string());
        let parsed = read.and_then(|text| {
            let base = Config::parse(&text).and_then(|_| Base::parse(&text));
            base.map_err(|faults| faults.to_string())
        });
        // a document of the operators lies over this table too
        let config = parsed.and_then(|base| {
            let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            layers
                .take_table(&base, "automatic")
                .map_err(|faults| faults.iter().map(|fault| fault.reason.as_str()).collect::<Vec<_>>().join("\n"))
        });
        let taken = match config {
            Ok(config) => {
                let told = self.rooms.set_template(config.automatic.template()).await.map_err(|e| e.to_string());
                told.map(|()| self.live.change(|live| live.automatic = config.automatic))
            }
            Err(faults) => Err(faults),
        };
        match taken {
            Ok(()) => {
                info!(file = %file.display(), "[automatic] is taken from the file; all else at the next start");
            }
            Err(why) => {
                error!(file = %file.display(), why, "the file is not taken: automatic recording stays as it is");
            }
        }
    }

    /// The parts that must turn, for whoever watches over the process.
    fn signs(&self) -> systemd::Signs {
        systemd::Signs { rooms: self.rooms.clone(), store: self.store.clone(), engine: self.engine.clone() }
    }

    /// Ends recordings properly, makes everything safe, and gives what is in flight a moment. Bounded.
    pub async fn stop(self) {
        self.health.stopping();
        self.rooms_cancel.cancel();
        bounded("rooms", ROOMS_STOP, async { drop(self.rooms_task.await) }).await;
        self.doors.cancel();
        bounded("sources", SOURCES_STOP, self.sources.shutdown()).await;
        bounded("whip", DOOR_STOP, self.whip.shutdown()).await;
        bounded("doors", DOOR_STOP, async {
            for task in self.door_tasks {
                drop(task.await);
            }
        })
        .await;
        bounded("spool", SPOOL_STOP, async { drop(self.spool.drained().await) }).await;
        bounded("callbacks", NEWS_STOP, emptied(&self.store)).await;
        self.work_cancel.cancel();
        bounded("carriers", NEWS_STOP, async {
            for task in self.work_tasks {
                drop(task.await);
            }
        })
        .await;
        if let Err(e) = self.store.close().await {
            error!(error = %e, "the index did not close");
        }
        let leave = tokio::task::spawn_blocking(move || self.panel.leave(Last::Off));
        bounded("lights", LIGHTS_STOP, async { drop(leave.await) }).await;
        info!("the box has stopped");
    }

    /// As [`RunningBox::stop`], for a start that follows at once: whatever is configured, tasks wait for it.
    async fn stop_to_start_again(self) {
        self.live.change(|config| config.recording.on_stop = OnStop::Resume);
        self.stop().await;
    }

    /// Resolves when a part without which there is no box has ended by itself.
    async fn broken(&mut self) {
        // A panic or an end of the actor: both leave nobody who decides.
        let _ = (&mut self.rooms_task).await;
    }
}

fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed("runtime"))
}

/// `holdfast run`: until SIGTERM or SIGINT. SIGHUP reads `[automatic]` of the file again. A second signal leaves at once.
/// Ends by itself with code 70 after a broken part, and with 75 for a start with another configuration.
pub fn run(config: Config, base: Base, file: &Path, set_filter: SetFilter) -> Result<ExitCode, Error> {
    runtime()?.block_on(async {
        // first: without it the signal ends the process
        let mut hangup = signal(SignalKind::hangup()).map_err(failed("signals"))?;
        let mut the_box = start_with(config, Some(base), set_filter).await?;
        the_box.panel.watch_panics();
        if let Some(fingerprint) = &the_box.fingerprint {
            println!("certificate sha256={fingerprint}");
        }
        let door = |addr: Option<SocketAddr>| addr.map_or_else(|| "-".to_owned(), |a| a.to_string());
        println!("ready http={} https={} udp={}", door(the_box.http), door(the_box.https), the_box.udp);
        let service = systemd::Service::of(&the_box.health, the_box.signs());
        let mut term = signal(SignalKind::terminate()).map_err(failed("signals"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed("signals"))?;
        let restart = the_box.restart.clone();
        let again = loop {
            tokio::select! {
                _ = term.recv() => break false,
                _ = int.recv() => break false,
                _ = hangup.recv() => {
                    systemd::reloading();
                    the_box.reload(file).await;
                    systemd::ready();
                }
                () = restart.notified() => break true,
                () = the_box.broken() => {
                    service.stopping();
                    error!("the rooms are gone: leaving, so that a fresh start takes the tasks over");
                    return Ok(ExitCode::from(BROKEN));
                }
            }
        };
        service.stopping();
        let stopped = async {
            match again {
                true => the_box.stop_to_start_again().await,
                false => the_box.stop().await,
            }
        };
        tokio::select! {
            () = stopped => Ok(if again { ExitCode::from(START_AGAIN) } else { ExitCode::SUCCESS }),
            _ = term.recv() => Ok(ExitCode::FAILURE),
            _ = int.recv() => Ok(ExitCode::FAILURE),
        }
    })
}
