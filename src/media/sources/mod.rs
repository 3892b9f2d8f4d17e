//! Sources: cameras, microphones and other servers' streams that the box fetches itself and puts into rooms.
//!
//! Owns: which sources there are, their supervision: each life that ends is followed by another one. Must not touch: what
//! is recorded, health (who watches is told how each source stands).
//! Law: whatever becomes of a source, the worst is a gap in its own media; nothing of a login is ever told.
//!
//! A source has a `seat` in its room and one or two lines that feed it: a camera and a microphone fail apart.

mod alsa;
mod life;
mod rtsp;
mod seat;
mod v4l2;
mod whep;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::life::Meridian;
use self::seat::Seat;
use super::engine::Mixing;
use super::tracks::Tracks;
use super::{Ids, LeaveReason, MediaClock, MediaNews, Sessions};
use crate::model::encoder::PictureEncoder;
use crate::model::source::{Camera, Microphone, Origin, SourceSpec};
use crate::model::{MediaId, RoomKey, SessionId, TrackKind, UserId};

/// Waits between two lives: the first, and the longest to a server and to a device, which is cheap to look for.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const DEVICE_WAIT: Duration = Duration::from_secs(2);
/// How often a seat looks whether its grace is over.
const LOOK: Duration = Duration::from_millis(500);
/// All sources have gone after so long.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(4);

/// How a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Connecting,
    Live,
    /// Why there is nothing; it is tried again and again.
    Failing(String),
}

/// A source as the world may see it: nothing of its address or login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    pub name: String,
    /// `rtsp`, `v4l2`, `alsa`, `whep`
    pub kind: &'static str,
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("a source has this name already")]
    NameTaken,
    #[error("a source is in the room as this user already")]
    UserTaken,
    #[error("no source has this name")]
    Unknown,
    #[error("the box is shutting down")]
    Closed,
}

/// What every source works with.
#[derive(Clone)]
struct Kit {
    clock: MediaClock,
    meridian: Meridian,
    tracks: Tracks,
    ids: Ids,
    news: mpsc::Sender<MediaNews>,
    /// For pictures that have to be encoded, best first.
    encoders: Arc<Vec<PictureEncoder>>,
}

struct Running {
    spec: Arc<SourceSpec>,
    seat: Arc<Seat>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    kit: Kit,
    running: Mutex<BTreeMap<String, Running>>,
    /// Cancelled: no source is taken any more.
    stop: CancellationToken,
    states: Arc<watch::Sender<BTreeMap<String, SourceState>>>,
    /// Whose the sessions are that are no source's.
    others: Arc<dyn Sessions>,
    runtime: tokio::runtime::Handle,
}

/// The sources of the box. Cheap to share.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

impl Sources {
    /// Without any so far. Called on the runtime that they will run on, after [`super::init`].
    pub fn new(
        clock: MediaClock,
        tracks: Tracks,
        ids: Ids,
        news: mpsc::Sender<MediaNews>,
        mixing: &Mixing,
        others: Arc<dyn Sessions>,
    ) -> Sources {
        let encoders = Arc::new(mixing.encoders.clone());
        let kit = Kit { clock, meridian: Meridian::new(&clock), tracks, ids, news, encoders };
        let states = Arc::new(watch::Sender::new(BTreeMap::new()));
        let (running, stop, runtime) = (Mutex::default(), CancellationToken::new(), tokio::runtime::Handle::current());
        Sources { inner: Arc::new(Inner { kit, running, stop, states, others, runtime }) }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a source; returns at once. It goes on until it is removed, whatever happens to it.
    pub fn add(&self, spec: SourceSpec) -> Result<(), SourceError> {
        let mut running = self.running();
        if self.inner.stop.is_cancelled() {
            return Err(SourceError::Closed);
        }
        if running.contains_key(&spec.name) {
            return Err(SourceError::NameTaken);
        }
        let same = |other: &SourceSpec| (&other.room, &other.user, other.media) == (&spec.room, &spec.user, spec.media);
        if running.values().any(|other| same(&other.spec)) {
            return Err(SourceError::UserTaken);
        }
        let spec = Arc::new(spec);
        let kit = self.inner.kit.clone();
        let (name, seat) = (spec.name.clone(), Arc::new(Seat::new(Arc::clone(&spec), kit.clone())));
        let stop = self.inner.stop.child_token();
        let state = SourceState {
            name: name.clone(),
            kind: spec.origin.kind(),
            room: spec.room.clone(),
            user: spec.user.clone(),
            media: spec.media,
            standing: Standing::Connecting,
        };
        tracing::info!(source = name, kind = state.kind, room = %spec.room, user = %spec.user, "a source begins");
        self.inner.states.send_modify(|states| drop(states.insert(name.clone(), state)));
        let board = Board { name: name.clone(), lines: Mutex::default(), states: Arc::clone(&self.inner.states) };
        let life = run(Arc::clone(&spec), kit, Arc::clone(&seat), stop.clone(), board);
        let task = self.inner.runtime.spawn(life);
        running.insert(name, Running { spec, seat, stop, task });
        Ok(())
    }

    /// Ends a source: it leaves its room.
    pub fn remove(&self, name: &str) -> Result<(), SourceError> {
        let mut running = self.running();
        let Some(source) = running.remove(name) else { return Err(SourceError::Unknown) };
        source.stop.cancel();
        source.seat.close(LeaveReason::Left);
        self.inner.states.send_modify(|states| drop(states.remove(name)));
        tracing::info!(source = name, "a source is removed");
        Ok(())
    }

    /// From now on there are these: what is the same goes on undisturbed, what is another begins anew.
    pub fn apply(&self, specs: Vec<SourceSpec>) {
        let kept = |source: &Running| specs.iter().any(|spec| *spec == *source.spec);
        let gone: Vec<String> =
            self.running().iter().filter(|(_, source)| !kept(source)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            // nobody else removed it meanwhile, or it is as well gone
            let _ = self.remove(&name);
        }
        for spec in specs {
            let name = spec.name.clone();
            let there = self.running().contains_key(&name);
            if let Err(error) = if there { Ok(()) } else { self.add(spec) } {
                tracing::error!(source = name, %error, "the source is not taken");
            }
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<SourceState> {
        self.inner.states.borrow().values().cloned().collect()
    }

    /// For whoever shows it: wakes at each change.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<String, SourceState>> {
        self.inner.states.subscribe()
    }

    /// Ends all sources, and takes no new ones.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        let all = std::mem::take(&mut *self.running());
        let gone = async {
            for source in all.into_values() {
                source.seat.close(LeaveReason::Closed);
                let _ = source.task.await;
            }
        };
        let _ = tokio::time::timeout(SHUTDOWN_WITHIN, gone).await;
    }
}

impl Sessions for Sources {
    fn close_session(&self, session: SessionId) {
        let ours = self.running().values().any(|source| source.seat.send_out(session));
        if !ours {
            self.inner.others.close_session(session);
        }
    }
}

/// What feeds a seat.
enum Line {
    Rtsp(rtsp::Camera),
    Camera(v4l2::Eye),
    Microphone(Microphone),
    Whep(whep::Server),
}

impl Line {
    fn all(origin: &Origin) -> Vec<Line> {
        match origin.clone() {
            Origin::Rtsp { address, login, transport, insecure, bitrate } => {
                vec![Line::Rtsp(rtsp::Camera { address, login, transport, insecure, bitrate })]
            }
            Origin::Devices { camera, microphone } => {
                let eye = |camera: Camera| Line::Camera(v4l2::Eye::new(camera));
                camera.map(eye).into_iter().chain(microphone.map(Line::Microphone)).collect()
            }
            Origin::Whep { address, token, insecure } => vec![Line::Whep(whep::Server { address, token, insecure })],
        }
    }

    fn part(&self) -> &'static str {
        match self {
            Line::Rtsp(_) => "rtsp",
            Line::Camera(_) => "camera",
            Line::Microphone(_) => "microphone",
            Line::Whep(_) => "whep",
        }
    }

    fn longest_wait(&self) -> Duration {
        match self {
            Line::Rtsp(_) | Line::Whep(_) => LONGEST_WAIT,
            Line::Camera(_) | Line::Microphone(_) => DEVICE_WAIT,
        }
    }

    /// What is known of what it sends before it is there.
    fn offers(&self) -> Option<TrackKind> {
        match self {
            Line::Camera(_) => Some(TrackKind::Video),
            Line::Microphone(_) => Some(TrackKind::Audio),
            Line::Rtsp(_) | Line::Whep(_) => None,
        }
    }
}

/// Where a source's lines write how they stand.
struct Board {
    name: String,
    lines: Mutex<BTreeMap<&'static str, Standing>>,
    states: Arc<watch::Sender<BTreeMap<String, SourceState>>>,
}

impl Board {
    fn stands(&self, part: &'static str, standing: Standing) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.insert(part, standing);
        let failing = lines.values().find(|s| matches!(s, Standing::Failing(_)));
        let connecting = lines.values().find(|s| **s == Standing::Connecting);
        let whole = failing.or(connecting).cloned().unwrap_or(Standing::Live);
        let up = if whole == Standing::Live { 1.0 } else { 0.0 };
        metrics::gauge!("holdfast_source_up", "source" => self.name.clone()).set(up);
        self.states.send_if_modified(|states| {
            // a source that was removed is not written back
            let Some(state) = states.get_mut(&self.name) else { return false };
            let changed = state.standing != whole;
            state.standing = whole;
            changed
        });
    }
}

/// A source from its beginning to its end.
async fn run(spec: Arc<SourceSpec>, kit: Kit, seat: Arc<Seat>, stop: CancellationToken, board: Board) {
    let lines = Line::all(&spec.origin);
    seat.offers(lines.iter().filter_map(Line::offers));
    for line in &lines {
        board.stands(line.part(), Standing::Connecting);
    }
    let mut kept = tokio::task::JoinSet::new();
    let board = Arc::new(board);
    for line in lines {
        let (kit, seat, stop, board) = (kit.clone(), Arc::clone(&seat), stop.clone(), Arc::clone(&board));
        kept.spawn(async move { keep(&line, &kit, &seat, &stop, &board).await });
    }
    let mut look = tokio::time::interval(LOOK);
    let tell = seat.tell();
    tokio::pin!(tell);
    loop {
        tokio::select! {
            _ = look.tick() => seat.look(Instant::now()),
            () = &mut tell => {}
            () = stop.cancelled() => break,
            // a line that panicked is gone; without it the source is begun again by nobody, so it is told
            Some(Err(fault)) = kept.join_next() => {
                tracing::error!(source = spec.name, %fault, "a line of a source broke");
                board.stands("supervision", Standing::Failing("it broke, and comes back with the next start".into()));
            }
        }
    }
    seat.close(LeaveReason::Left);
    seat.tell_all().await;
    while kept.join_next().await.is_some() {}
    metrics::gauge!("holdfast_source_up", "source" => spec.name.clone()).set(0.0);
}

/// Lives of one line, one after the other.
async fn keep(line: &Line, kit: &Kit, seat: &Arc<Seat>, stop: &CancellationToken, board: &Board) {
    let (mut wait, mut turn, mut said) = (FIRST_WAIT, 0, String::new());
    loop {
        let flowed = std::sync::atomic::AtomicBool::new(false);
        let flows = || {
            flowed.store(true, std::sync::atomic::Ordering::Relaxed);
            tracing::info!(source = board.name, part = line.part(), "media flows");
            board.stands(line.part(), Standing::Live);
        };
        let ended = match line {
            Line::Rtsp(camera) => camera.live(kit, seat, turn, stop, &flows).await,
            Line::Camera(eye) => eye.live(kit, seat, stop, &flows).await,
            Line::Microphone(microphone) => alsa::live(microphone, kit, seat, stop, &flows).await,
            Line::Whep(server) => server.live(seat, stop, &flows).await,
        };
        let Some(why) = ended else { return };
        let flowed = flowed.into_inner();
        if flowed {
            wait = FIRST_WAIT;
        } else {
            turn += 1;
        }
        // what is tried every two seconds for a night says the same thing once
        if flowed || said != why {
            tracing::warn!(source = board.name, part = line.part(), why, "a source is interrupted");
            said.clone_from(&why);
        }
        metrics::counter!("holdfast_source_interruptions_total", "source" => board.name.clone()).increment(1);
        board.stands(line.part(), Standing::Failing(format!("{}: {why}", line.part())));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(line.longest_wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::stills::Stills;
    use crate::model::source::Microphone;
    use crate::model::{RoomId, SdkAppId, Timestamp};

    pub(super) fn kit() -> (Kit, mpsc::Receiver<MediaNews>) {
        crate::media::init().expect("GStreamer with what a recording needs");
        let (news, told) = mpsc::channel(64);
        let clock = MediaClock::new(Instant::now(), Timestamp(0));
        let (tracks, ids, encoders) = Default::default();
        (Kit { clock, meridian: Meridian::new(&clock), tracks, ids, news, encoders }, told)
    }

    pub(super) fn spec(name: &str) -> SourceSpec {
        SourceSpec {
            name: name.into(),
            room: RoomKey { app: SdkAppId(7), room: RoomId::text("ward").expect("a room") },
            user: UserId::parse(name).expect("a user"),
            media: MediaId::Main,
            grace: Duration::from_secs(5),
            origin: Origin::Devices { camera: None, microphone: Some(Microphone { device: "no such card".into() }) },
        }
    }

    struct Nobody(Mutex<Vec<SessionId>>);
    impl Sessions for Nobody {
        fn close_session(&self, session: SessionId) {
            self.0.lock().expect("no panic").push(session);
        }
    }

    async fn standing(sources: &Sources, name: &str, wanted: impl Fn(&Standing) -> bool) {
        let mut states = sources.watch();
        let stands = states.wait_for(|all| all.get(name).is_some_and(|state| wanted(&state.standing)));
        tokio::time::timeout(Duration::from_secs(30), stands).await.expect("in time").expect("it lives");
    }

    #[tokio::test]
    async fn sources_come_and_go_and_what_is_the_same_goes_on() {
        let (kit, _told) = kit();
        let others = Arc::new(Nobody(Mutex::default()));
        let mixing = Mixing::new(Stills::default(), None);
        let sources = Sources::new(kit.clock, kit.tracks, kit.ids, kit.news, &mixing, others.clone());
        sources.add(spec("a")).expect("the first");
        assert_eq!(sources.add(spec("a")), Err(SourceError::NameTaken));
        assert_eq!(sources.add(SourceSpec { user: spec("a").user, ..spec("b") }), Err(SourceError::UserTaken));
        assert_eq!(sources.remove("b"), Err(SourceError::Unknown));
        standing(&sources, "a", |s| matches!(s, Standing::Failing(why) if why.contains("no such card"))).await;
        sources.apply(vec![spec("a"), spec("c")]);
        let before: Vec<Standing> = sources.list().into_iter().map(|state| state.standing).collect();
        assert!(matches!(before[0], Standing::Failing(_)), "it was not begun anew: {before:?}");
        sources.apply(vec![SourceSpec { grace: Duration::from_secs(9), ..spec("c") }]);
        assert_eq!(sources.list().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["c"]);
        sources.close_session(SessionId(77));
        assert_eq!(*others.0.lock().expect("no panic"), [SessionId(77)], "no source's");
        sources.shutdown().await;
        assert_eq!(sources.add(spec("d")), Err(SourceError::Closed));
    }
}
