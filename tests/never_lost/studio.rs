//! The media engine of the walk: its segments are files of known bytes, and the model knows each of them.
//!
//! Owns: lanes that run, segments that were written. Must not touch: what becomes of them.
//! Law: no two segments hold the same bytes, and each holds a transport stream that plays alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast::media::{LaneEnd, LaneOrder, LeaveReason, MediaClock, MediaEngine, MediaError, MediaNews};
use holdfast::model::layout::Scene;
use holdfast::model::segment::{ClosedSegment, LocalName, identity};
use holdfast::model::{Lane, LaneRun, MediaTime, SessionId, TaskId};
use tokio::sync::{mpsc, watch};

const PACKET: usize = 188;
/// Of sound, by 90 kHz: a tenth of a second.
const FRAME: u64 = 9_000;

/// A segment that was closed and announced, or whose writer died.
#[derive(Clone)]
pub struct Written {
    pub task: TaskId,
    pub lane: Lane,
    pub run: u32,
    pub index: u32,
    pub bytes: Vec<u8>,
    pub part: std::path::PathBuf,
    /// The disk did something meanwhile by which it may be lost.
    pub doomed: bool,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Written { lane, run, index, bytes, doomed, .. } = self;
        write!(f, "{lane:?} run {run} segment {index}, {} bytes{}", bytes.len(), if *doomed { ", doomed" } else { "" })
    }
}

#[derive(Debug)]
struct Running {
    order: LaneOrder,
    next: u32,
    /// It takes nothing any more.
    paused: bool,
}

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<LaneRun, Running>,
    written: Vec<Written>,
    /// Of these nothing may be taken.
    paused: BTreeSet<TaskId>,
    /// The disk is ill.
    ill: bool,
}

#[derive(Debug)]
pub struct Studio {
    state: Mutex<State>,
    lanes: watch::Sender<usize>,
}

/// One life's engine.
pub struct Engine {
    studio: Arc<Studio>,
    news: mpsc::Sender<MediaNews>,
    clock: MediaClock,
}

impl Studio {
    pub fn new() -> Arc<Studio> {
        Arc::new(Studio { state: Mutex::default(), lanes: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Returns when a lane runs; `false`: none does for a while, and none is going to.
    pub async fn records(&self) -> bool {
        let mut lanes = self.lanes.subscribe();
        let there = tokio::time::timeout(Duration::from_millis(500), lanes.wait_for(|lanes| *lanes > 0)).await;
        there.is_ok()
    }

    /// From now on, and over restarts, a lane that runs takes what nobody may have.
    pub fn pause(&self, task: &TaskId) {
        let mut state = self.state();
        state.paused.insert(task.clone());
        let taking = state.lanes.iter().filter(|(run, lane)| run.task == *task && !lane.paused);
        let taking: Vec<&LaneRun> = taking.map(|(run, _)| run).collect();
        assert!(taking.is_empty(), "{taking:?} take what comes though their task is paused");
    }

    pub fn resume(&self, task: &TaskId) {
        self.state().paused.remove(task);
    }

    pub fn written(&self) -> Vec<Written> {
        self.state().written.clone()
    }

    /// Each lane writes a segment and tells of it.
    pub fn record(&self, packets: usize, clock: MediaClock, news: &mpsc::Sender<MediaNews>) {
        let mut state = self.state();
        let taking = state.lanes.iter().filter(|(_, lane)| !lane.paused);
        let runs: Vec<LaneRun> = taking.map(|(run, _)| run.clone()).collect();
        for run in runs {
            state.write(&run, packets, false, clock, news);
        }
    }

    /// The process dies: the lanes with it, some of them in the middle of a segment.
    pub fn die(&self, in_the_middle: bool, clock: MediaClock, news: &mpsc::Sender<MediaNews>) {
        let mut state = self.state();
        let runs: Vec<LaneRun> = state.lanes.keys().cloned().collect();
        for run in runs.iter().filter(|_| in_the_middle) {
            state.write(run, 7, true, clock, news);
        }
        state.lanes.clear();
        self.lanes.send_replace(0);
    }

    /// From now on what is written may be lost; with `all`, also what lies on the shelf.
    pub fn disk_is_ill(&self, all: bool) {
        let mut state = self.state();
        state.ill = true;
        // what is not named yet is still to be synced
        state.written.iter_mut().for_each(|written| written.doomed |= all || written.part.exists());
    }

    pub fn disk_is_well(&self) {
        self.state().ill = false;
    }

    pub fn is_ill(&self) -> bool {
        self.state().ill
    }

    /// What is on the disk is looked through, and synced, anew.
    pub fn started_while_ill(&self) {
        let mut state = self.state();
        let ill = state.ill;
        state.written.iter_mut().for_each(|written| written.doomed |= ill);
    }

    fn tell_lanes(&self, state: &State) {
        self.lanes.send_replace(state.lanes.len());
    }
}

impl State {
    fn write(&mut self, run: &LaneRun, packets: usize, torn: bool, clock: MediaClock, news: &mpsc::Sender<MediaNews>) {
        let number = self.written.len() as u64;
        let Some(lane) = self.lanes.get_mut(run) else { return };
        let index = lane.next;
        lane.next += 1;
        let mut bytes = tables();
        bytes.extend((0..packets as u64).flat_map(|n| packet(n, number)));
        let mut segment = ClosedSegment {
            run: run.clone(),
            index,
            start: clock.wall(clock.now()),
            duration: Duration::from_millis(100) * packets as u32,
            bytes: bytes.len() as u64,
            size: None,
            discontinuity: index == 0,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        let part = lane.order.dir.join(&segment.part_name);
        let mut file = lane.order.vault.create(&part, &identity(&run.task, &segment.part_name)).unwrap();
        bytes.chunks(64 * PACKET).for_each(|chunk| file.write(chunk).unwrap());
        if torn {
            file.write(&packet(99, number)[..100]).unwrap();
        } else {
            file.finish().unwrap();
        }
        self.written.push(Written {
            task: run.task.clone(),
            lane: run.lane.clone(),
            run: run.run,
            index,
            bytes,
            part,
            doomed: self.ill,
        });
        if torn {
            return;
        }
        if index == 0 {
            news.try_send(MediaNews::FirstMedia { run: run.clone(), at: segment.start }).expect("room for news");
        }
        news.try_send(MediaNews::SegmentClosed(segment)).expect("room for news");
    }
}

/// What is in a stream: one of AAC (ISO/IEC 13818-1 §2.4.4; nobody here looks at the checksums).
fn tables() -> Vec<u8> {
    let programs = [0x47, 0x40, 0, 0x10, 0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0, 0, 0, 0, 0];
    let map =
        [0x47, 0x50, 0, 0x10, 0, 2, 0xb0, 18, 0, 1, 0xc1, 0, 0, 0xe0, 65, 0xf0, 0, 0x0f, 0xe0, 65, 0xf0, 0, 0, 0, 0, 0];
    let packet = |table: &[u8]| [table, &vec![0xff; PACKET - table.len()]].concat();
    [packet(&programs), packet(&map)].concat()
}

/// What a frame of sound says of itself: the segment's number, and which of its frames it is.
pub type FrameId = (u64, u64);

/// Length of a frame with its header.
const ADTS: usize = PACKET - 20;

/// The frames of a stream of ADTS (ISO/IEC 13818-7 §6.2) that this studio made; what is between them is silence.
pub fn frames(stream: &[u8]) -> Vec<FrameId> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(header) = stream.get(at..at + 7) {
        assert!(header[0] == 0xff && header[1] & 0xf6 == 0xf0, "no frame at {at}");
        let length = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
        if length == ADTS {
            let number = |at: usize| u64::from_be_bytes(stream[at..at + 8].try_into().expect("eight bytes"));
            found.push((number(at + 7), number(at + 15)));
        }
        at += length;
    }
    assert_eq!(at, stream.len(), "the last frame is torn");
    found
}

/// The same of a segment.
pub fn frames_of_segment(bytes: &[u8]) -> Vec<FrameId> {
    frames(&bytes[2 * PACKET..].chunks(PACKET).flat_map(|packet| packet[20..].to_vec()).collect::<Vec<u8>>())
}

/// One frame of sound of the segment of this number.
fn packet(n: u64, number: u64) -> [u8; PACKET] {
    let mut packet = [0xff; PACKET];
    packet[..6].copy_from_slice(&[0x47, 0x40, 65, 0x30, 1, 0]);
    packet[6..15].copy_from_slice(&[0, 0, 1, 0xc0, 0, 0, 0x80, 0x80, 5]);
    let pts = n * FRAME;
    packet[15] = 0x21 | ((pts >> 29) & 0x0e) as u8;
    packet[16] = (pts >> 22) as u8;
    packet[17] = (pts >> 14) as u8 | 1;
    packet[18] = (pts >> 7) as u8;
    packet[19] = (pts << 1) as u8 | 1;
    // AAC-LC of 48 kHz, two channels
    let length = ADTS as u8;
    packet[20..27].copy_from_slice(&[0xff, 0xf1, 0x4c, 0x80, length >> 3, length << 5 | 0x1f, 0xfc]);
    packet[27..35].copy_from_slice(&number.to_be_bytes());
    packet[35..43].copy_from_slice(&n.to_be_bytes());
    packet
}

impl Engine {
    pub fn new(studio: Arc<Studio>, news: mpsc::Sender<MediaNews>, clock: MediaClock) -> Engine {
        Engine { studio, news, clock }
    }

    fn end(&self, run: &LaneRun, end: LaneEnd) {
        let mut state = self.studio.state();
        if end == LaneEnd::Finished {
            state.write(run, 3, false, self.clock, &self.news);
        }
        state.lanes.remove(run);
        self.studio.tell_lanes(&state);
        self.news.try_send(MediaNews::LaneEnded { run: run.clone(), end }).expect("room for news");
    }
}

impl MediaEngine for Engine {
    fn start_lane(&self, order: LaneOrder) -> Result<(), MediaError> {
        let mut state = self.studio.state();
        assert!(!state.paused.contains(&order.run.task), "{:?} begins though its task is paused", order.run);
        state.lanes.insert(order.run.clone(), Running { order, next: 0, paused: false });
        self.studio.tell_lanes(&state);
        Ok(())
    }
    fn finish_lane(&self, run: &LaneRun) {
        self.end(run, LaneEnd::Finished);
    }
    fn change_scene(&self, run: &LaneRun, _: Scene) {
        panic!("{run:?} is no mixed lane");
    }
    /// Its end comes as that of any other; the word of it may be on its way already.
    fn pause_lane(&self, run: &LaneRun, _: MediaTime) {
        if let Some(lane) = self.studio.state().lanes.get_mut(run) {
            lane.paused = true;
        }
    }
    fn kill_lane(&self, run: &LaneRun) {
        self.end(run, LaneEnd::Killed);
    }
    fn close_session(&self, session: SessionId) {
        self.news.try_send(MediaNews::Left { session, reason: LeaveReason::Left }).expect("room for news");
    }
}
