//! One life of the box over what the walk does to it: everything real but the frames, the disk's word and the clock.
//!
//! Owns: start, crash and stop of a life; the disk and the clock that a script rules. Must not touch: what is expected.
//! Law: a crash lets nothing end that was not safe: every task of the life is dropped where it waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use holdfast::config::Config;
use holdfast::health::Reporter;
use holdfast::media::stills::Stills;
use holdfast::media::{MediaClock, MediaNews};
use holdfast::model::disk::Space;
use holdfast::model::{Timestamp, WallClock};
use holdfast::package::Packer;
use holdfast::rooms::{Actor, Parts, Rooms};
use holdfast::spool::{Disk, Spool};
use holdfast::store::Store;
use holdfast::store::seal::BoxKey;
use holdfast::upload::Uploader;
use holdfast::vault::Vault;
use holdfast::webhook::Webhook;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::studio::{Engine, Studio};

/// Far more than anything here takes: only a hang reaches it.
pub const GUARD: Duration = Duration::from_secs(120);

/// A wall clock that is set by word of the script.
#[derive(Debug)]
pub struct Wall {
    began: Instant,
    shown: AtomicI64,
}

impl Wall {
    pub fn new(shown: Timestamp) -> Arc<Wall> {
        Arc::new(Wall { began: Instant::now(), shown: AtomicI64::new(shown.0) })
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.shown.load(Ordering::SeqCst)).plus(self.began.elapsed())
    }

    pub fn step(&self, seconds: i64) {
        self.shown.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

/// A disk of so many bytes, whose syncs fail when the script says so.
#[derive(Debug)]
pub struct ScriptedDisk {
    capacity: AtomicU64,
    /// So many more syncs fail.
    failing: AtomicU64,
}

impl ScriptedDisk {
    pub const ROOMY: u64 = 1 << 30;

    pub fn new() -> Arc<ScriptedDisk> {
        Arc::new(ScriptedDisk { capacity: Self::ROOMY.into(), failing: 0.into() })
    }

    /// Leaves so much beside what lies in `dir` now; `None`: plenty.
    pub fn leave(&self, dir: &Path, free: Option<u64>) {
        self.capacity.store(free.map_or(Self::ROOMY, |free| used(dir) + free), Ordering::SeqCst);
    }

    pub fn fails(&self) -> bool {
        self.failing.load(Ordering::SeqCst) > 0
    }

    pub fn fail(&self, syncs: u64) {
        self.failing.store(syncs, Ordering::SeqCst);
    }
}

/// Files come and go meanwhile.
fn used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

impl Disk for ScriptedDisk {
    fn sync(&self, _: &fs::File) -> io::Result<()> {
        let failing = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match failing {
            Ok(_) => Err(io::Error::from_raw_os_error(5)),
            Err(_) => Ok(()),
        }
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let total_bytes = self.capacity.load(Ordering::SeqCst);
        Ok(Space { free_bytes: total_bytes.saturating_sub(used(dir)), total_bytes, ..Space::default() })
    }
}

/// What outlasts a life.
#[derive(Clone)]
pub struct Site {
    pub dir: PathBuf,
    pub config: Arc<Config>,
    pub vault: Vault,
    pub disk: Arc<ScriptedDisk>,
    pub wall: Arc<Wall>,
    pub studio: Arc<Studio>,
}

impl Site {
    pub fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }
}

pub struct Life {
    pub rooms: Rooms,
    pub news: mpsc::Sender<MediaNews>,
    pub clock: MediaClock,
    pub spool: Arc<Spool>,
    pub store: Store,
    actor: JoinHandle<()>,
    carriers: Vec<JoinHandle<()>>,
    rooms_cancel: CancellationToken,
    work_cancel: CancellationToken,
    runtime: Runtime,
}

impl Life {
    /// As systemd does: a box whose disk refuses the start is started again, until somebody has seen to the disk.
    pub async fn begin(site: &Site) -> Life {
        for _ in 0..3 {
            let fails = site.disk.fails();
            match Life::start(site).await {
                Ok(life) => return life,
                Err(why) => assert!(fails, "the box does not start: {why}"),
            }
        }
        site.disk.fail(0);
        Life::start(site).await.expect("the box starts on a disk that works")
    }

    /// As `app::start` begins one.
    async fn start(site: &Site) -> Result<Life, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (site, handle) = (site.clone(), runtime.handle().clone());
        let life = runtime.spawn(async move {
            let wall = site.wall.clone();
            let clock: WallClock = Arc::new(move || wall.now());
            let media_clock = MediaClock::new(Instant::now(), clock());
            let health = Reporter::default();
            let box_key = Arc::new(BoxKey::load_or_create(&site.dir.join("box.key")).unwrap());
            let store = Store::open(&site.index()).unwrap().store;
            let (fates_in, fates) = mpsc::channel(1024);
            let (news, news_out) = mpsc::channel(4096);
            let (asks, asks_out) = mpsc::channel(64);
            let (images, _) = mpsc::channel(8);
            let (_, image_failures) = mpsc::channel(8);
            let spool =
                Spool::open_on(&site.spool(), store.clone(), site.vault.clone(), fates_in.clone(), site.disk.clone());
            let spool = spool.unwrap();
            let recovered = match spool.recover().await {
                Ok(recovered) => recovered,
                Err(why) => return Err((why.to_string(), spool, store)),
            };
            spool.watch_disk(site.config.disk_limits(), clock.clone()).await.unwrap();
            let outbox = Arc::new(Notify::new());
            let (config, to) = (site.config.clone(), health.clone());
            let webhook = Webhook::new(config.clone(), store.clone(), clock.clone(), outbox.clone(), to).unwrap();
            let packer = Packer::new();
            let parts = Parts {
                config: config.clone().into(),
                store: store.clone(),
                spool: spool.clone(),
                engine: Arc::new(Engine::new(site.studio.clone(), news.clone(), media_clock)),
                media_clock,
                box_key: box_key.clone(),
                packer: packer.clone(),
                fates: fates_in.clone(),
                board: None,
                outbox,
                mirror: None,
                images,
                stills: Stills::default(),
                health: health.clone(),
            };
            let actor = match Actor::restore(parts, recovered).await {
                Ok(actor) => actor,
                Err(why) => return Err((why.to_string(), spool, store)),
            };
            let (rooms_cancel, work_cancel) = (CancellationToken::new(), CancellationToken::new());
            let actor = handle.spawn(actor.run(asks_out, news_out, fates, image_failures, rooms_cancel.clone()));
            let uploader =
                Uploader::new(config, store.clone(), spool.clone(), box_key, fates_in, clock, health.clone());
            let uploader = uploader.packing_with(packer);
            let carriers =
                vec![handle.spawn(uploader.run(work_cancel.clone())), handle.spawn(webhook.run(work_cancel.clone()))];
            Ok((Rooms::new(asks), news, media_clock, spool, store, actor, carriers, rooms_cancel, work_cancel))
        });
        let begun = tokio::time::timeout(GUARD, life).await.expect("the box starts").expect("and does not panic");
        match begun {
            Ok((rooms, news, clock, spool, store, actor, carriers, rooms_cancel, work_cancel)) => {
                Ok(Life { rooms, news, clock, spool, store, actor, carriers, rooms_cancel, work_cancel, runtime })
            }
            Err((why, spool, store)) => {
                tokio::task::spawn_blocking(move || runtime.shutdown_timeout(GUARD)).await.expect("it ends");
                let _ = store.close().await;
                let _ = spool.drained().await;
                Err(why)
            }
        }
    }

    /// The wall clock was set; the watch of the box sees it.
    pub fn follow(&self, wall: &Wall) {
        self.clock.follow(wall.now(), self.clock.now(), Duration::from_secs(2));
    }

    /// It dies where it is. `index_first`: what the shelf had still to do is not recorded any more.
    pub async fn crash(self, index_first: bool) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(GUARD)).await.unwrap();
        if !index_first {
            let _ = self.spool.drained().await;
        }
        let _ = self.store.close().await;
        let _ = self.spool.drained().await;
    }

    /// As `RunningBox::stop` ends it.
    pub async fn stop(self) {
        self.rooms_cancel.cancel();
        tokio::time::timeout(GUARD, self.actor).await.expect("the rooms close").expect("and do not panic");
        let _ = self.spool.drained().await;
        self.work_cancel.cancel();
        for carrier in self.carriers {
            tokio::time::timeout(GUARD, carrier).await.expect("the carriers stop").expect("and do not panic");
        }
        let _ = self.store.close().await;
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(GUARD)).await.unwrap();
    }
}

/// What lies below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    fs::read_dir(dir).into_iter().flatten().flatten().flat_map(|entry| below(entry.path())).collect()
}
