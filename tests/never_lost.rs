//! Nothing is ever lost: random sequences of outages, restarts, full and failing disks, clock steps and damaged indexes,
//! of pauses, discards and packing, to a bucket and to VOD, against a model that knows only what was closed and announced.
//!
//! Owns: the steps of a walk, and the order of its end. Must not touch: what must hold then (`model`).
//! Law: a walk is a pure function of its seed, but for the timing of the machine. `HOLDFAST_WALKS` is how many there are
//! (every other one with VOD), `HOLDFAST_SEED` repeats one; a seed that once found a fault is kept in `KEPT`.
//!
//! Everything is real but the frames, the disk's word and the wall clock: shelf, index, rooms, uploader, callbacks, an S3
//! server behind a line that fails, and a receiver that refuses.

#[path = "support/carrier.rs"]
mod carrier;
#[path = "never_lost/life.rs"]
mod life;
#[path = "never_lost/model.rs"]
mod model;
#[path = "never_lost/platform.rs"]
mod platform;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "never_lost/studio.rs"]
mod studio;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrier::{KEYS, Server, keys};
use holdfast::config::{App, Config, OnStop};
use holdfast::media::MediaNews;
use holdfast::model::disk::{Level, WhenFull};
use holdfast::model::output::Output;
use holdfast::model::recording::{Destination, MediaFilter, RecordingSpec, StreamType, Subscription, Vendor};
use holdfast::model::{
    Codec, MediaId, RoomId, SdkAppId, Secret, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};
use holdfast::rooms::Error;
use holdfast::store::records;
use holdfast::vault::{Key, Vault};
use life::{GUARD, Life, ScriptedDisk, Site, Wall};
use platform::{Asked, Platform, Word};
use proxy::{Mode, Proxy};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use studio::Studio;
use support::receiver::Receiver;

const APP: SdkAppId = SdkAppId(support::APP);
/// Seeds that found a fault once.
const KEPT: [u64; 11] = [
    2_310_814_302,
    3_609_778_312,
    1_994_051_419,
    2_263_173_449,
    2_541_535_019,
    3_430_585_317,
    3_538_927_497,
    7_535_321_534,
    6_078_621_578,
    7_770_947_800,
    4_476_955_306,
];
/// Fresh ones beside them. What a change breaks is found by those that are kept; what nobody knew of, by asking for more.
const WALKS: usize = 0;
/// Seeds from here on are of walks with VOD, whose tasks end and are discarded more often.
const TO_VOD: u64 = 1 << 32;
/// Walks that go side by side: they mostly wait.
const ABREAST: usize = 4;
const STEPS: usize = 40;
/// Packets of a segment that goes up in two parts.
const LARGE: usize = 30_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Index {
    Whole,
    Gone,
    /// 64 bytes are zero, so many thousandths into what is used of it.
    Torn(usize),
    /// As it was when the life before began.
    Yesterday,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Orderly,
    Crash { index_first: bool, in_the_middle: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Create,
    Enter,
    Leave,
    /// Segments of so many packets.
    Record(usize, usize),
    End,
    Pause,
    Resume,
    Discard,
    Line(Mode),
    Vod(Word),
    Receiver {
        fails: bool,
    },
    /// So many bytes are left; `None`: plenty.
    Room(Option<u64>),
    SyncsFail(u64),
    /// Seconds.
    Clock(i64),
    /// The box is off for so many seconds by its clock.
    Restart(Ending, Index, i64),
    Wait(u64),
}

fn step(rng: &mut StdRng) -> Step {
    let modes = [
        Mode::Pass,
        Mode::Pass,
        Mode::Refuse,
        Mode::Stall,
        Mode::Cut(900),
        Mode::Deaf,
        Mode::Corrupt,
        Mode::Slow(20_000),
        Mode::Answer(403, "AccessDenied"),
        Mode::Answer(500, "InternalError"),
        Mode::Answer(503, "SlowDown"),
    ];
    match rng.random_range(0..100) {
        0..6 => Step::Create,
        6..12 => Step::Enter,
        12..14 => Step::Leave,
        14..46 => Step::Record(rng.random_range(1..4), *[3, 20, 50].choose(rng).expect("not empty")),
        46..47 => Step::Record(1, LARGE),
        47..50 => Step::End,
        50..52 => Step::Pause,
        52..54 => Step::Resume,
        54..55 => Step::Discard,
        55..66 => Step::Line(*modes.choose(rng).expect("not empty")),
        66..71 => Step::Receiver { fails: rng.random() },
        71..75 => Step::Room(*[None, None, Some(15_000), Some(400)].choose(rng).expect("not empty")),
        75..76 => Step::SyncsFail(*[1, 3, 1_000_000].choose(rng).expect("not empty")),
        76..80 => Step::Clock(*[-86_400, -3, 3, 3_600, 86_400].choose(rng).expect("not empty")),
        80..89 => {
            let ending = match rng.random_range(0..4) {
                0 => Ending::Orderly,
                _ => Ending::Crash { index_first: rng.random(), in_the_middle: rng.random() },
            };
            let index = match rng.random_range(0..10) {
                0..5 => Index::Whole,
                5 | 6 => Index::Gone,
                7 | 8 => Index::Torn(rng.random_range(0..1000)),
                _ => Index::Yesterday,
            };
            Step::Restart(ending, index, *[0, 5, 40, 200, 200, -86_400].choose(rng).expect("not empty"))
        }
        _ => Step::Wait(rng.random_range(20..500)),
    }
}

/// The same of a walk with VOD.
fn step_to_vod(rng: &mut StdRng) -> Step {
    match rng.random_range(0..100) {
        0..16 => Step::Vod(platform::word(rng)),
        16..26 => Step::End,
        26..29 => Step::Discard,
        _ => step(rng),
    }
}

/// A publisher in a room.
struct Present {
    room: u32,
    user: &'static str,
    session: SessionId,
}

struct Walk {
    seed: u64,
    site: Site,
    bucket: String,
    proxy: Proxy,
    server: Arc<Server>,
    receiver: Receiver,
    rng: StdRng,
    life: Option<Life>,
    lives: usize,
    /// Crashes that took the index, and before them what the shelf had still to write.
    blind: usize,
    tasks: Vec<(TaskId, u32)>,
    /// What each is to become.
    outputs: BTreeMap<TaskId, Output>,
    /// Every byte of them is to go.
    discarded: BTreeSet<TaskId>,
    /// Where files of some tasks go.
    vod: Option<Platform>,
    at_vod: BTreeMap<TaskId, Asked>,
    /// Some tasks are packed. A day of silence is not made then.
    packs: bool,
    /// No packed file of some tasks is longer.
    file_length: Duration,
    /// Every task becomes this.
    output: Option<Output>,
    present: Vec<Present>,
    sessions: u64,
    /// Syncs failed in this life: what folders say of their tasks may be behind.
    folders_lag: bool,
    dir: tempfile::TempDir,
}

impl Walk {
    async fn begin(seed: u64, file_length: Duration, output: Option<Output>, server: Arc<Server>) -> Walk {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let bucket = format!("walk-{seed}");
        server.make_bucket(&bucket).await;
        let proxy = Proxy::to(&server.endpoint, Mode::Pass).await;
        let receiver = Receiver::start().await;
        let mut config = Config::default();
        config.server.state_dir = dir.path().to_owned();
        config.storage.s3_endpoint = Some(proxy.endpoint.clone());
        config.storage.path_style = true;
        config.upload.retry_longest_seconds = 1;
        config.upload.timeout_seconds = 1;
        config.upload.grace_seconds = rng.random_range(0..3);
        // the least that S3 takes
        (config.upload.multipart_from_bytes, config.upload.part_bytes) = (5 << 20, 5 << 20);
        config.callbacks.retry_longest_seconds = 1;
        config.callbacks.timeout_seconds = 1;
        config.recording.on_stop = if rng.random() { OnStop::End } else { OnStop::Resume };
        config.disk.low_percent = 0;
        (config.disk.low_bytes, config.disk.low_inodes, config.disk.reserve_bytes) = (20_000, 0, 8_000);
        config.disk.when_full = if rng.random() { WhenFull::RefuseNewTasks } else { WhenFull::DropOldest };
        if output.is_some() {
            config.disk.when_full = WhenFull::DropOldest;
        }
        let (callback_url, callback_key) = (Some(receiver.url.clone()), Some(Secret::new(support::CALLBACK_KEY)));
        config.apps = vec![App { sdk_app_id: APP, secret_key: None, callback_url, callback_key }];
        let wall = Wall::new(Timestamp::from_ms(1_800_000_000_000));
        let mut vod = None;
        if seed >= TO_VOD {
            let token_seconds = *[40, 7200].choose(&mut rng).expect("not empty");
            let platform = Platform::begin(&server, seed, token_seconds, &wall).await;
            platform.tell(&mut config);
            // the platform reads a whole list before it answers; a busy machine needs more than a moment for that
            config.upload.timeout_seconds = 5;
            vod = Some(platform);
        }
        let key = rng.random::<bool>().then(|| Key::new(std::array::from_fn(|i| i as u8 ^ seed as u8)));
        let site = Site {
            dir: dir.path().to_owned(),
            config: Arc::new(config),
            vault: Vault::new(key, Vec::new()),
            disk: ScriptedDisk::new(),
            wall,
            studio: Studio::new(),
        };
        let life = Some(Life::begin(&site).await);
        let packs = rng.random::<bool>() || vod.is_some();
        let (tasks, present) = (Vec::new(), Vec::new());
        Walk {
            seed,
            site,
            bucket,
            proxy,
            server,
            receiver,
            rng,
            life,
            lives: 1,
            blind: 0,
            tasks,
            outputs: BTreeMap::new(),
            discarded: BTreeSet::new(),
            vod,
            at_vod: BTreeMap::new(),
            packs,
            file_length,
            output,
            present,
            sessions: 0,
            folders_lag: false,
            dir,
        }
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it is only taken to begin the next one")
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Create => self.create().await,
            Step::Enter => {
                let Some((_, room)) = self.tasks.choose(&mut self.rng).cloned() else { return };
                let user = *["ann", "bob"].choose(&mut self.rng).expect("not empty");
                self.enter(room, user).await;
            }
            Step::Leave => {
                let Some(Present { session, .. }) = self.present.pop() else { return };
                let left = MediaNews::Left { session, reason: holdfast::media::LeaveReason::Left };
                self.life().news.send(left).await.expect("the rooms are open");
            }
            Step::Record(times, packets) => {
                if self.site.studio.records().await {
                    for _ in 0..times {
                        self.site.studio.record(packets, self.life().clock, &self.life().news);
                    }
                }
            }
            Step::End => {
                let Some((task, _)) = self.tasks.choose(&mut self.rng).cloned() else { return };
                self.end(task).await;
            }
            Step::Pause => {
                let Some((task, _)) = self.tasks.choose(&mut self.rng).cloned() else { return };
                match self.life().rooms.pause(APP, task.clone()).await {
                    Ok(()) => self.site.studio.pause(&task),
                    Err(error) => assert_eq!(error, Error::TaskUnknown),
                }
            }
            Step::Resume => {
                let Some((task, _)) = self.tasks.choose(&mut self.rng).cloned() else { return };
                self.site.studio.resume(&task);
                let resumed = self.life().rooms.resume(APP, task).await;
                assert!(matches!(resumed, Ok(()) | Err(Error::TaskUnknown)), "{resumed:?}");
            }
            Step::Discard => {
                let Some((task, _)) = self.tasks.choose(&mut self.rng).cloned() else { return };
                match self.life().rooms.discard(APP, task.clone(), "the walk".into()).await {
                    Ok(()) => drop(self.discarded.insert(task)),
                    Err(error) => assert_eq!(error, Error::TaskUnknown),
                }
            }
            Step::Line(mode) => self.proxy.set(mode),
            Step::Vod(word) => self.vod.iter().for_each(|platform| platform.hear(word)),
            Step::Receiver { fails } => self.receiver.fail(fails),
            Step::Room(free) => self.room(free).await,
            Step::SyncsFail(n) => {
                self.site.studio.disk_is_ill(false);
                self.site.disk.fail(n);
                self.folders_lag = true;
            }
            Step::Clock(seconds) => {
                self.site.wall.step(self.bearable(seconds));
                self.life().follow(&self.site.wall);
            }
            Step::Restart(ending, index, off) => self.restart(ending, index, off).await,
            Step::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                model::lists_name_what_is_there(&self.server, &self.bucket, &self.discarded).await;
            }
        }
    }

    async fn create(&mut self) {
        let room = self.tasks.len() as u32 + 1;
        let outputs = if self.packs { &[Output::Hls, Output::HlsAac, Output::Aac][..] } else { &[Output::Hls] };
        let mut output = *outputs.choose(&mut self.rng).expect("not empty");
        output = self.output.unwrap_or(output);
        let mut spec = RecordingSpec { output, ..spec(room, &self.bucket) };
        if room % 2 == 1 {
            spec.file_length = self.file_length;
        }
        let mut at_vod = None;
        if self.vod.is_some() && self.rng.random_bool(0.75) {
            let asked;
            (output, asked) = platform::asked(&mut self.rng);
            at_vod = Some(Asked { room, output, lists: asked.lists });
            let vendor = Vendor::Vod(Box::new(asked));
            let destination = Destination { vendor, region: String::new(), bucket: String::new(), prefix: Vec::new() };
            (spec.output, spec.destination) = (output, destination);
        }
        let created = self.life().rooms.create(spec, keys(KEYS.0, KEYS.1), Secret::new("sig")).await;
        match created {
            Ok(task) => {
                self.outputs.insert(task.clone(), output);
                self.at_vod.extend(at_vod.map(|asked| (task.clone(), asked)));
                self.tasks.push((task, room));
                for user in ["ann", "bob"] {
                    if self.rng.random_bool(0.6) {
                        self.enter(room, user).await;
                    }
                }
            }
            Err(error) => assert!(self.site.studio.is_ill() || self.was_ill(), "refused: {error}"),
        }
    }

    /// The disk is not yet known to be well.
    fn was_ill(&self) -> bool {
        !self.life().spool.standing().borrow().takes_tasks()
    }

    async fn enter(&mut self, room: u32, user: &'static str) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        // who enters again replaces himself
        self.present.retain(|there| (there.room, there.user) != (room, user));
        self.present.push(Present { room, user, session });
        let news = [
            MediaNews::Entered {
                session,
                room: spec(room, "").room_key(),
                user: UserId::parse(user).unwrap(),
                media: MediaId::Main,
                offers: vec![TrackKind::Audio],
            },
            MediaNews::TrackUp { session, track: TrackId(self.sessions), kind: TrackKind::Audio, codec: Codec::Opus },
        ];
        for news in news {
            self.life().news.send(news).await.expect("the rooms are open");
        }
    }

    /// Seconds by which the clock is set.
    fn bearable(&self, seconds: i64) -> i64 {
        if self.packs { seconds.clamp(-600, 600) } else { seconds }
    }

    async fn end(&self, task: TaskId) {
        let ended = self.life().rooms.delete(APP, task).await;
        assert!(matches!(ended, Ok(()) | Err(Error::TaskUnknown)), "{ended:?}");
    }

    async fn room(&mut self, free: Option<u64>) {
        let studio = &self.site.studio;
        if free.is_some() {
            studio.disk_is_ill(self.site.config.disk.when_full == WhenFull::DropOldest);
            self.site.disk.leave(&self.site.spool(), free);
            return;
        }
        self.site.disk.leave(&self.site.spool(), None);
        self.site.disk.fail(0);
        let mut standing = self.life().spool.standing();
        let roomy = standing.wait_for(|standing| standing.level == Level::Roomy);
        tokio::time::timeout(GUARD, roomy).await.expect("the disk is looked at").expect("by who lives");
        studio.disk_is_well();
    }

    async fn restart(&mut self, ending: Ending, index: Index, off: i64) {
        let life = self.life.take().expect("there is always one");
        let (clock, news) = (life.clock, life.news.clone());
        match ending {
            Ending::Orderly => life.stop().await,
            Ending::Crash { index_first, in_the_middle } => {
                self.site.studio.die(in_the_middle, clock, &news);
                life.crash(index_first).await;
            }
        }
        self.site.studio.die(false, clock, &news);
        // an index on a disk that fails would take nothing either; the folders cannot make up for both
        let index = if self.folders_lag { Index::Whole } else { index };
        self.blind += usize::from(index != Index::Whole && matches!(ending, Ending::Crash { index_first: true, .. }));
        self.damage(index);
        self.folders_lag = self.site.disk.fails();
        self.site.wall.step(self.bearable(off));
        self.site.studio.started_while_ill();
        self.lives += 1;
        self.life = Some(Life::begin(&self.site).await);
        let before = std::mem::take(&mut self.present);
        for Present { room, user, .. } in before {
            if self.rng.random_bool(0.7) {
                self.enter(room, user).await;
            }
        }
    }

    fn damage(&self, index: Index) {
        let (dir, yesterday) = (self.site.index(), self.site.dir.join("yesterday"));
        let older = yesterday.exists();
        match index {
            Index::Whole => {}
            Index::Gone => fs::remove_dir_all(&dir).unwrap(),
            Index::Torn(thousandths) => {
                let mut bytes = fs::read(dir.join("db")).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
                let at = (used * thousandths / 1000).min(bytes.len().saturating_sub(64));
                bytes[at..at + 64].fill(0);
                fs::write(dir.join("db"), bytes).unwrap();
            }
            Index::Yesterday if older => {
                fs::remove_dir_all(&dir).unwrap();
                copy(&yesterday, &dir);
            }
            Index::Yesterday => {}
        }
        if dir.exists() {
            let _ = fs::remove_dir_all(&yesterday);
            copy(&dir, &yesterday);
        }
    }

    /// Everything is well again, every task ends, and what the model asks for must be there.
    async fn finish(mut self) {
        self.proxy.set(Mode::Pass);
        self.vod.iter().for_each(Platform::heal);
        self.receiver.fail(false);
        self.room(None).await;
        // a disk that failed would have to show for a quarter of a minute that it works
        if self.was_ill() || self.rng.random() {
            let index = if self.rng.random() { Index::Whole } else { Index::Gone };
            self.restart(Ending::Crash { index_first: true, in_the_middle: false }, index, 300).await;
        }
        for (task, _) in self.tasks.clone() {
            self.end(task).await;
        }
        // as long as something moves it is not stuck: on a machine with much to do, packing comes last
        let spool = self.site.spool();
        let folders = || fs::read_dir(&spool).unwrap().flatten().any(|entry| entry.path().is_dir());
        let moved = || (life::files(&spool), self.receiver.taken().len());
        let mut last = (moved(), Instant::now());
        while folders() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = moved();
            if now != last.0 {
                last = (now, Instant::now());
            }
            assert!(last.1.elapsed() < 3 * GUARD, "a task is stuck: {:#?}\n{}", last.0.0, self.receiver.story());
        }
        for (task, _) in &self.tasks {
            assert_eq!(self.life().rooms.describe(APP, task.clone()).await, Err(Error::TaskUnknown));
        }
        let mut kept = vec![records::TASKS, records::SPOOL, records::OUTBOX, records::PIECES, records::PARTS];
        kept.extend([records::VOD, records::ERASE]);
        for prefix in kept {
            let left = self.life().store.scan(prefix).await.unwrap();
            assert!(left.is_empty(), "in the index is left {:?}", left.iter().map(|(key, _)| key).collect::<Vec<_>>());
        }
        self.life.take().expect("there is always one").stop().await;
        let told = self.receiver.taken();
        let objects = model::objects(&self.server, &self.bucket).await;
        let written = self.site.studio.written();
        for (task, _) in &self.tasks {
            let platform = self.vod.as_ref().zip(self.at_vod.get(task));
            let times = (self.lives, self.blind);
            match (self.discarded.contains(task), platform) {
                (true, None) => model::check_discarded(task, &objects, &told, self.blind),
                (true, Some((platform, asked))) => {
                    model::check_discarded(task, &objects, &told, self.blind);
                    platform.check_discarded(task, asked.room, &told);
                }
                (false, None) => model::check(task, self.outputs[task], &written, &objects, &told, times),
                (false, Some((platform, asked))) => platform.check(task, asked, &written, &told, times).await,
            }
        }
        self.vod.iter().for_each(Platform::assert_by_the_rules);
        let (segments, lost) = (
            written.len(),
            written.iter().filter(|w| self.outputs[&w.task].hls() && !model::arrived(w, &objects)).count(),
        );
        eprintln!(
            "walk {}: {} lives, {} tasks, {segments} segments, {lost} lost",
            self.seed,
            self.lives,
            self.tasks.len()
        );
        drop(self.dir);
    }
}

fn spec(room: u32, bucket: &str) -> RecordingSpec {
    RecordingSpec {
        app: APP,
        room: RoomId::Number(room),
        mix: None,
        recorder: UserId::parse("recorder").unwrap(),
        streams: StreamType::Audio,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(3600),
        av_merge: false,
        fill_black: false,
        output: Default::default(),
        file_length: Duration::from_secs(24 * 3600),
        resume_wait: None,
        call_expiry: Duration::from_secs(10_000 * 3600),
        destination: Destination {
            vendor: Vendor::S3,
            region: "eu-central-1".into(),
            bucket: bucket.into(),
            prefix: vec!["p".into()],
        },
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            let _ = fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn walk(seed: u64, server: Arc<Server>) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut steps = vec![Step::Create, Step::Enter, Step::Record(1, 20)];
    let next = if seed >= TO_VOD { step_to_vod } else { step };
    steps.extend((0..STEPS).map(|_| next(&mut rng)));
    // one segment of those would make hundreds of files
    let large = steps.iter().any(|step| matches!(step, Step::Record(_, LARGE)));
    let file_length = if large { Duration::from_secs(24 * 3600) } else { Duration::from_secs(3) };
    take(steps, Walk::begin(seed, file_length, None, server).await).await;
}

async fn take(steps: Vec<Step>, mut walk: Walk) {
    let seed = walk.seed;
    for step in steps {
        tracing::info!(seed, ?step, "walk");
        walk.take(step).await;
    }
    walk.finish().await;
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn begin_to_tell() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // the other test of this file may have begun
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).try_init();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_closed_arrives_whatever_happens() {
    begin_to_tell();
    let seeds: Vec<u64> = match setting("HOLDFAST_SEED") {
        Some(seed) => vec![seed],
        None => {
            let fresh = setting("HOLDFAST_WALKS").map_or(WALKS, |walks| walks as usize);
            let seed = |n: usize| u64::from(rand::random::<u32>()) + if n % 2 == 1 { TO_VOD } else { 0 };
            KEPT.into_iter().chain((0..fresh).map(seed)).collect()
        }
    };
    eprintln!("HOLDFAST_SEED is one of {seeds:?}");
    let server = Arc::new(Server::s3s().await);
    let abreast = Arc::new(tokio::sync::Semaphore::new(ABREAST));
    let walks: Vec<_> = seeds
        .into_iter()
        .map(|seed| {
            let (server, abreast) = (server.clone(), abreast.clone());
            let walking = tokio::spawn(async move {
                let _place = abreast.acquire().await;
                walk(seed, server).await;
            });
            (seed, walking)
        })
        .collect();
    let mut failed = Vec::new();
    for (seed, walking) in walks {
        if let Err(error) = walking.await {
            failed.push(format!("HOLDFAST_SEED={seed}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What no chance walk meets often: a slow line has some of a task's files when the disk is full, and the box dies. What is
/// up stays, and nothing of it is called lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_up_stays_when_the_disk_takes_the_rest() {
    begin_to_tell();
    let server = Arc::new(Server::s3s().await);
    let crash = Ending::Crash { index_first: false, in_the_middle: false };
    let mut walks = tokio::task::JoinSet::new();
    for (seed, (up, index)) in (1..).zip([(300, Index::Gone), (700, Index::Whole), (1100, Index::Yesterday)]) {
        let before = [Step::Create, Step::Enter, Step::Record(4, 50), Step::Line(Mode::Slow(20_000))];
        let full = [Step::End, Step::Wait(up), Step::Room(Some(400)), Step::Wait(1200)];
        let after = [Step::Restart(crash, index, 5), Step::Wait(500), Step::Restart(crash, Index::Whole, 5)];
        let steps = before.into_iter().chain(full).chain(after).collect();
        let server = server.clone();
        walks.spawn(async move {
            take(steps, Walk::begin(seed, Duration::from_secs(3), Some(Output::Aac), server).await).await;
        });
    }
    while let Some(walked) = walks.join_next().await {
        walked.expect("what went wrong is said above");
    }
}
