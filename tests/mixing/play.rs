//! A mixed recording as a test plays it: who sends what from when on, changes of the scene, and the film that came of it.
//!
//! The lane listens before anybody sends, however slow the machine; and whatever the test does late (a change of the
//! scene, a publisher who begins) is asked when it was done. So slowness alone fails no test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast::media::engine::Mixing;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneEnd, LaneFeed, LaneOrder, MediaEngine, MediaNews};
use holdfast::model::fit::place;
use holdfast::model::layout::{Person, Scene, scene};
use holdfast::model::mix::{AudioParams, Fit, Layout, Rect, Size, VideoParams};
use holdfast::model::{Codec, LaneKind, MediaId, MediaTime, TrackId, UserId};

use super::{COLOURS, Film, SIZE, near, order, site_with, video, wait_until};
use crate::recording::{Asked, BASE, Frame, MS, Publisher, Site, Told, later, times};

/// Packets are captured so long after the lane has begun to listen, at least.
const LEAD: u64 = 200;
/// A lane of sound alone does not say when it listens: it has so long.
const DEAF_LEAD: u64 = 800;

/// Somebody in the room.
#[derive(Debug, Clone)]
pub struct Guest {
    pub user: UserId,
    pub picture: Option<TrackId>,
    pub sound: Option<TrackId>,
}

pub fn guest(name: &str, picture: Option<TrackId>, sound: Option<TrackId>) -> Guest {
    Guest { user: UserId::parse(name).expect("an id"), picture, sound }
}

/// The scene of these people, in order of entry.
pub fn scene_for(layout: &Layout, size: Size, guests: &[&Guest]) -> Scene {
    let person = |g: &&Guest| Person { user: g.user.clone(), media: MediaId::Main, video: g.picture };
    let people: Vec<Person> = guests.iter().map(person).collect();
    scene(layout, size, &people, guests.iter().filter_map(|g| g.sound).collect())
}

pub struct Play {
    pub site: Site,
    /// The line of frames (0: the first is captured) begins so many ms after the lane's.
    pub lead: u64,
    waiting: BTreeMap<TrackId, (Publisher, Vec<Frame>)>,
    sending: BTreeMap<TrackId, JoinHandle<Publisher>>,
    asked: BTreeMap<TrackId, Arc<Asked>>,
    orders: Vec<LaneOrder>,
    /// Between these two moments (ms) the line of this track is held up; then all of it comes at once.
    stalls: BTreeMap<TrackId, (u64, u64)>,
}

impl Play {
    pub fn new() -> Play {
        Play::showing(Stills::default())
    }

    /// With these images.
    pub fn showing(stills: Stills) -> Play {
        holdfast::media::init().expect("GStreamer with what a recording needs");
        Play::with(Mixing::new(stills, None))
    }

    pub fn with(mixing: Mixing) -> Play {
        let (waiting, sending, asked) = Default::default();
        Play { site: site_with(mixing), lead: 0, waiting, sending, asked, orders: Vec::new(), stalls: BTreeMap::new() }
    }

    /// Opens a track; what it is to send goes out when the play starts, or with [`Play::send`].
    pub fn track(&mut self, codec: Codec, frames: Vec<Frame>) -> TrackId {
        let publisher = self.site.publish(codec);
        let id = publisher.id;
        self.asked.insert(id, publisher.asked.clone());
        self.waiting.insert(id, (publisher, frames));
        id
    }

    /// What this one sends between two moments (ms) arrives at the second.
    pub fn stall(&mut self, track: TrackId, from: u64, until: u64) {
        self.stalls.insert(track, (from, until));
    }

    /// How often the lane asked this one for a keyframe.
    pub fn asked(&self, track: TrackId) -> u64 {
        self.asked[&track].times()
    }

    /// An order for a lane of sound and pictures in the usual form.
    pub fn order(&self, scene: Scene) -> LaneOrder {
        order(&self.site, LaneKind::AudioVideo, scene, video(15), AudioParams::default())
    }

    /// One that has pictures alone.
    pub fn pictures_of(&self, scene: Scene, video: VideoParams) -> LaneOrder {
        order(&self.site, LaneKind::Video, scene, video, AudioParams::default())
    }

    /// Starts these lanes, whose runs differ; when they listen, all publishers send.
    pub fn start(&mut self, orders: Vec<LaneOrder>) {
        let now: Vec<TrackId> = self.waiting.keys().copied().collect();
        self.start_with(orders, &now);
    }

    /// Only these send from the beginning.
    pub fn start_with(&mut self, orders: Vec<LaneOrder>, tracks: &[TrackId]) {
        let mut wanted: BTreeMap<TrackId, u64> = BTreeMap::new();
        for order in &orders {
            if let LaneFeed::Mixed { scene, .. } = &order.feed
                && order.run.lane.kind.has_video()
            {
                for tile in scene.tiles.iter().filter(|tile| !tile.hidden) {
                    *wanted.entry(tile.track.unwrap_or(TrackId(0))).or_default() += 1;
                }
            }
            self.site.start(order);
        }
        wanted.remove(&TrackId(0));
        let since = Instant::now();
        while wanted.iter().any(|(track, times)| self.asked(*track) < *times) {
            assert!(since.elapsed() < Duration::from_secs(60), "the lanes do not begin to listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        let lead = if wanted.is_empty() { DEAF_LEAD } else { LEAD };
        self.lead = (self.site.clock.now().0 - BASE) / MS + lead;
        self.orders = orders;
        for track in tracks {
            let (publisher, frames) = self.waiting.remove(track).expect("it waits");
            let thread = self.thread(*track, publisher, later(frames, self.lead));
            self.sending.insert(*track, thread);
        }
    }

    fn thread(&self, track: TrackId, publisher: Publisher, frames: Vec<Frame>) -> JoinHandle<Publisher> {
        let clock = self.site.clock;
        let moment = |ms: u64| MediaTime(BASE + (self.lead + ms) * MS);
        let stall = self.stalls.get(&track).map(|(from, until)| (moment(*from), moment(*until)));
        std::thread::spawn(move || {
            for frame in frames {
                let at = frame[0].at;
                wait_until(
                    &clock,
                    stall.filter(|(from, until)| (from..until).contains(&&at)).map_or(at, |(_, until)| until),
                );
                publisher.input.push(frame);
            }
            publisher
        })
    }

    /// Ms on the line of frames.
    pub fn now(&self) -> f64 {
        (self.site.clock.now().0 as f64 - BASE as f64) / MS as f64 - self.lead as f64
    }

    /// This one begins to send a moment from now. When, ms.
    pub fn send(&mut self, track: TrackId) -> f64 {
        let (publisher, frames) = self.waiting.remove(&track).expect("it waits");
        let from = self.now().max(0.0) as u64 + 20;
        let thread = self.thread(track, publisher, later(frames, self.lead + from));
        self.sending.insert(track, thread);
        from as f64
    }

    /// What this one has left to send goes out; then its track is gone.
    pub fn end_track(&mut self, track: TrackId) {
        drop(self.sending.remove(&track).expect("it sends").join().expect("no panic"));
    }

    /// Waits until this moment of the line of frames.
    pub fn until(&self, ms: u64) {
        wait_until(&self.site.clock, MediaTime(BASE + (self.lead + ms) * MS));
    }

    /// Changes the scene; between which two moments (ms) that was.
    pub fn change(&self, scene: Scene) -> (f64, f64) {
        let before = self.now();
        self.site.engine.change_scene(&self.orders[0].run, scene);
        (before, self.now())
    }

    /// Ends the lane: what was told, which must be one unbroken recording.
    pub fn finish(&mut self) -> Told {
        self.finish_all().remove(0)
    }

    pub fn finish_all(&mut self) -> Vec<Told> {
        for order in &self.orders {
            self.site.engine.finish_lane(&order.run);
        }
        let mut told: Vec<Told> = self.orders.iter().map(|_| Told::default()).collect();
        while told.iter().any(|told| told.end.is_none()) {
            let news = self.site.next();
            told[self.whose(&news)].take(news);
        }
        for told in &told {
            assert_eq!(told.end, Some(LaneEnd::Finished));
            let fresh: Vec<bool> = told.segments.iter().map(|segment| segment.discontinuity).collect();
            assert!(fresh.iter().enumerate().all(|(n, fresh)| *fresh == (n == 0)), "no cut: {told:?}");
        }
        told
    }

    /// Takes news until the first lane's end, however it comes.
    pub fn until_end(&mut self) -> Told {
        self.site.until_end()
    }

    pub fn finish_word(&self) {
        self.site.engine.finish_lane(&self.orders[0].run);
    }

    fn whose(&self, news: &MediaNews) -> usize {
        let run = match news {
            MediaNews::FirstMedia { run, .. }
            | MediaNews::Trouble { run, .. }
            | MediaNews::EncoderLost { run, .. }
            | MediaNews::LaneEnded { run, .. } => run,
            MediaNews::SegmentClosed(segment) => &segment.run,
            other => panic!("a lane does not tell {other:?}"),
        };
        self.orders.iter().position(|order| order.run == *run).expect("of a lane of this play")
    }

    /// All segments of a lane in one file.
    pub fn joined(&self, told: &Told) -> PathBuf {
        let run = told.segments.first().expect("something was recorded").run.run;
        let joined = self.site.joined(&told.segments);
        let path = joined.with_file_name(format!("joined{run}.ts"));
        std::fs::rename(joined, &path).expect("one folder");
        path
    }

    /// The lane's pictures, whose times are exact.
    pub fn film(&self, told: &Told, size: Size, fps: u32) -> Film {
        let joined = self.joined(told);
        assert_steady(&times(&joined, "v"), fps);
        Film::read(&joined, size)
    }

    /// The pictures of a film between two moments of the line of frames, with their times.
    pub fn between<'f>(&self, film: &'f Film, from: f64, to: f64) -> Vec<(f64, &'f [u8])> {
        let lead = self.lead as f64;
        let pictures = film.pictures.iter().map(|(at, picture)| (at * 1000.0 - lead, picture.as_slice()));
        let found: Vec<_> = pictures.filter(|(at, _)| (from..to).contains(at)).collect();
        assert!(!found.is_empty(), "no picture from {from} to {to} ms");
        found
    }
}

/// Pictures follow one another at the rate and without a hole, whatever happened.
pub fn assert_steady(times: &[(f64, bool)], fps: u32) {
    let step = 1.0 / f64::from(fps);
    for (n, pair) in times.windows(2).enumerate() {
        assert!((pair[1].0 - pair[0].0 - step).abs() < 1e-4, "picture {n} and the next: {pair:?}");
    }
}

/// Frames of AAC follow one another without a hole.
pub fn assert_sound_steady(times: &[(f64, bool)], rate: u32) {
    let step = 1024.0 / f64::from(rate);
    for (n, pair) in times.windows(2).enumerate() {
        assert!((pair[1].0 - pair[0].0 - step).abs() < 1e-4, "frame {n} and the next: {pair:?}");
    }
}

/// Where a part of a picture of `source` lands in `tile`, as far as it is seen. The part is in hundredths.
fn landed(fit: Fit, source: Size, tile: Rect, part: [f64; 4]) -> Option<Rect> {
    let (cut, landing) = place(fit, source, tile);
    let line = |from: f64, length: f64, cut_from: f64, cut_length: f64, land_from: u32, land_length: u32| {
        let scale = f64::from(land_length) / cut_length;
        let at = |x: f64| (x.clamp(cut_from, cut_from + cut_length) - cut_from) * scale + f64::from(land_from);
        let (a, b) = (at(from).ceil() as u32, at(from + length).floor() as u32);
        (b > a + 3).then_some((a, b - a))
    };
    let (w, h) = (f64::from(source.width) / 100.0, f64::from(source.height) / 100.0);
    let (x, width) = line(part[0] * w, part[2] * w, cut.x, cut.width, landing.x, landing.width)?;
    let (y, height) = line(part[1] * h, part[3] * h, cut.y, cut.height, landing.y, landing.height)?;
    Some(Rect { x, y, width, height })
}

impl Film {
    /// Which badge of this size is shown so in the rectangle; `None` for none.
    pub fn fitted(&self, picture: &[u8], rect: Rect, fit: Fit, source: (u32, u32)) -> Option<usize> {
        let source = Size { width: source.0, height: source.1 };
        let mut number = 0;
        for bar in 0..5 {
            let part = [27.5 + 10.0 * f64::from(bar), 43.0, 5.0, 14.0];
            let light = self.mean(picture, landed(fit, source, rect, part)?)[0];
            number |= usize::from(light > 125.0) << bar;
        }
        let colours = [[25.0, 12.0, 50.0, 12.0], [25.0, 76.0, 50.0, 12.0]];
        let seen = colours.into_iter().filter_map(|part| landed(fit, source, rect, part));
        let mut seen = seen.map(|part| near(self.mean(picture, part), COLOURS[number % COLOURS.len()], 14.0));
        seen.next()?.then_some(number).filter(|_| seen.all(|right| right))
    }

    /// The badges of a scene's tiles, in the order of the tiles.
    pub fn badges(&self, picture: &[u8], scene: &Scene) -> Vec<Option<usize>> {
        scene.tiles.iter().map(|tile| self.badge(picture, tile.rect)).collect()
    }

    /// The first picture from `from` (of those given) on that `is`; its time.
    pub fn first<'f>(
        &self,
        pictures: &[(f64, &'f [u8])],
        from: f64,
        mut is: impl FnMut(&'f [u8]) -> bool,
    ) -> Option<f64> {
        pictures.iter().filter(|(at, _)| *at >= from).find(|(_, picture)| is(picture)).map(|(at, _)| *at)
    }
}

/// A canvas of the usual size.
pub fn whole() -> Rect {
    Rect { x: 0, y: 0, width: SIZE.width, height: SIZE.height }
}
