//! What a task's folder knows of its task, so that a lost index can be made again.
//!
//! Owns: [`Shape`], the contents of `task.json`, and how a task comes out of it. Must not touch: files.
//! Law: nothing is in a shape that the names of files or the journal of uploads tell, so that it changes when lanes
//! begin and end, not with every segment; it holds no secret; a shape is written after the index has the same state, so
//! that the index is never behind it unless it lost something.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::discard::Discard;
use super::packing::Packing;
use super::record::Record;
use super::takeover::TookUp;
use super::{Effect, Phase, Policy, RecordingTask, SEGMENT_LOST};
use crate::model::event::{Event, EventBody};
use crate::model::piece::{Piece, PieceFate};
use crate::model::recording::RecordingSpec;
use crate::model::segment::{ClosedSegment, LocalName, segment_name};
use crate::model::{Lane, TaskId, Timestamp};

const VERSION: u32 = 1;

/// Numbers of events are reserved so many at once, and before the last of them are used: by then it is on the disk.
const RESERVE: u64 = 128;
const RESERVE_LEFT: u64 = 64;

/// Why a text is no shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a task's shape: {0}")]
pub struct BadShape(String);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    v: u32,
    pub id: TaskId,
    edition: u64,
    spec: RecordingSpec,
    created: Timestamp,
    takeover: u8,
    phase: Phase,
    took_up: Option<TookUp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discard: Option<Discard>,
    next_run: u32,
    /// No event has this number or a higher one.
    seq_limit: u64,
    lists: Vec<List>,
    told: Vec<Told>,
    /// 305 with Status 1 was sent. Beside `told`, which may lack what was taken before a shape had it.
    #[serde(default)]
    told_left_behind: bool,
    #[serde(default, skip_serializing_if = "Packing::is_new")]
    packing: Packing,
}

/// A playlist; its name follows from the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct List {
    takeover: u8,
    lane: Lane,
    #[serde(default)]
    part: u32,
    #[serde(default)]
    over: bool,
    runs: Vec<u32>,
    begin: Option<Timestamp>,
    /// The destination has it with its ENDLIST.
    complete: bool,
    /// 307 and 304 were sent.
    #[serde(default)]
    told_slice: bool,
    #[serde(default)]
    told_file: bool,
}

/// An event that says in which state the task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    seq: u64,
    at: Timestamp,
    body: EventBody,
}

/// What the shelf knows of a task's segments and lists.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The destination has acknowledged them: (facts, object).
    pub uploaded: Vec<(LocalName, String)>,
    /// They existed and are gone.
    pub lost: Vec<LocalName>,
    /// They wait for the destination: (object, segment).
    pub spooled: Vec<(String, ClosedSegment)>,
    /// They lie on the disk, and the index does not know it.
    pub adopted: Vec<ClosedSegment>,
    /// Versions of lists that wait for the destination.
    pub playlists: Vec<(String, u64)>,
}

impl Shape {
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a shape has text keys and no floats")
    }

    pub fn parse(text: &str) -> Result<Shape, BadShape> {
        let shape: Shape = serde_json::from_str(text).map_err(|e| BadShape(e.to_string()))?;
        match shape.v {
            VERSION => Ok(shape),
            other => Err(BadShape(format!("version {other} is not known here"))),
        }
    }
}

/// The takeover that an object's name tells.
fn takeover_of(object: &str) -> u8 {
    let digits = object.strip_prefix("ha").and_then(|rest| rest.split_once('_'));
    digits.and_then(|(digits, _)| digits.parse().ok()).unwrap_or(0)
}

impl RecordingTask {
    /// The shape, if it has changed since it was last taken. The index gets the task as it is after this call; then the
    /// shape is to be written.
    pub fn take_shape(&mut self) -> Option<Shape> {
        if !std::mem::take(&mut self.reshaped) {
            return None;
        }
        if self.lies_there.take().is_some_and(|there| *there == self.shape()) {
            return None;
        }
        self.edition = self.edition.saturating_add(1);
        Some(self.shape())
    }

    /// The folder lacks something beside the shape: both are written again.
    pub fn describe_anew(&mut self) {
        self.lies_there = None;
        self.reshaped = true;
    }

    /// There is something to take.
    pub fn is_reshaped(&self) -> bool {
        self.reshaped
    }

    fn shape(&self) -> Shape {
        let list = |record: &Record| List {
            takeover: record.takeover,
            lane: record.lane.clone(),
            part: record.part,
            over: record.over,
            runs: record.runs.clone(),
            begin: record.begin,
            complete: record.closed.is_some_and(|closed| record.arrived >= closed),
            told_slice: record.told_slice,
            told_file: record.told_file,
        };
        Shape {
            v: VERSION,
            id: self.id.clone(),
            edition: self.edition,
            spec: self.spec.clone(),
            created: self.created,
            takeover: self.takeover,
            phase: self.phase,
            took_up: self.took_up,
            paused: self.paused,
            discard: self.discard.clone(),
            next_run: self.next_run,
            seq_limit: self.seq_limit,
            lists: self.records.iter().map(list).collect(),
            told: self.told.iter().map(|e| Told { seq: e.seq, at: e.at, body: e.body.clone() }).collect(),
            told_left_behind: self.told_left_behind,
            packing: self.packing.clone(),
        }
    }

    /// The folder's word beside the index's, before `restore`, and whether the index was believed. It is not when it
    /// knows nothing, or only an older state: then the task is made of the shape, without its pieces.
    pub fn reconcile_index(indexed: Option<RecordingTask>, shape: Shape) -> (RecordingTask, bool) {
        let there = Some(Box::new(shape.clone()));
        let (mut task, known) = RecordingTask::of_both(indexed, shape);
        task.lies_there = there;
        (task, known)
    }

    fn of_both(indexed: Option<RecordingTask>, shape: Shape) -> (RecordingTask, bool) {
        match indexed {
            Some(mut task) if task.edition >= shape.edition => {
                task.told = shape.told.into_iter().map(|told| task.event(told)).collect();
                task.seq_limit = shape.seq_limit;
                (task, true)
            }
            _ => (RecordingTask::from_shape(shape), false),
        }
    }

    fn from_shape(shape: Shape) -> RecordingTask {
        let Shape {
            id,
            edition,
            spec,
            created,
            takeover,
            phase,
            took_up,
            paused,
            discard,
            next_run,
            seq_limit,
            lists,
            told,
            told_left_behind,
            packing,
            ..
        } = shape;
        let left_behind = told_left_behind;
        let slice = |file: &str| {
            told.iter().any(|t| matches!(&t.body, EventBody::FileSlice { playlist, .. } if playlist == file))
        };
        let info =
            |file: &str| told.iter().any(|t| matches!(&t.body, EventBody::FileInfo { playlist } if playlist == file));
        let record = |list: List| {
            let mut record = Record::new(list.takeover, list.lane, list.part, &spec);
            record.over = list.over;
            record.runs = list.runs;
            record.begin = list.begin;
            record.told_slice = list.told_slice || slice(&record.file_name);
            record.told_file = list.told_file || info(&record.file_name);
            if list.complete {
                (record.version, record.arrived, record.closed) = (1, 1, Some(1));
            }
            record
        };
        let records = lists.into_iter().map(record).collect();
        let (mut task, _) = RecordingTask::create(id, spec, Policy::default(), created);
        task.takeover = takeover;
        task.phase = phase;
        task.took_up = took_up;
        task.paused = paused;
        task.discard = discard;
        task.edition = edition;
        task.next_run = next_run;
        task.next_seq = seq_limit;
        task.seq_limit = seq_limit;
        task.packing = packing;
        task.told_stop = told.iter().any(|t| matches!(t.body, EventBody::UploadStop { status: 0 | 2 }));
        task.told_left_behind =
            left_behind || told.iter().any(|t| matches!(t.body, EventBody::UploadStop { status: 1 }));
        task.records = records;
        task.told = told.into_iter().map(|told| task.event(told)).collect();
        task
    }

    fn event(&self, told: Told) -> Event {
        Event {
            app: self.spec.app,
            room: self.spec.room.clone(),
            recorder: self.spec.recorder.clone(),
            task: self.id.clone(),
            seq: told.seq,
            at: told.at,
            body: told.body,
        }
    }

    /// The index has lost something, and nobody knows which events were still to be delivered: all that say in which
    /// state the task is, and those that its folder `kept` beside them, are told again, under their old numbers; what is
    /// new has a number that nobody has used.
    pub fn tell_again(&mut self, kept: &[Event]) -> Vec<Effect> {
        self.next_seq = kept.iter().map(|event| event.seq + 1).fold(self.next_seq.max(self.seq_limit), u64::max);
        // the folder says so before the first of them is used: it may be the next to be believed
        self.seq_limit = self.next_seq.saturating_add(RESERVE);
        self.reshaped = true;
        self.told.iter().chain(kept).cloned().map(Effect::Announce).collect()
    }

    /// Losses that the index has just heard of by the folder's journal, and that nobody is known to have been told.
    pub fn tell_losses(&mut self, lacking: &[Piece], kept: &[Event], now: Timestamp) -> Vec<Effect> {
        if self.is_discarded() {
            return Vec::new();
        }
        let told = |object: &str| {
            kept.iter().any(|event| match &event.body {
                EventBody::UploadError { code, message } => code == SEGMENT_LOST && message.starts_with(object),
                _ => false,
            })
        };
        let untold = lacking.iter().filter(|piece| piece.fate == PieceFate::Lost && !told(&piece.object));
        let messages: Vec<String> = untold.map(|piece| format!("{}: it was lost", piece.object)).collect();
        let body = |message| EventBody::UploadError { code: SEGMENT_LOST.into(), message };
        messages.into_iter().map(|message| self.announce(body(message), now)).collect()
    }

    /// An event that waits in the outbox. The process may have died before a shape had it.
    pub fn recall(&mut self, event: &Event) {
        let place = self.told.partition_point(|told| told.seq < event.seq);
        if event.body.is_state() && self.told.get(place).is_none_or(|told| told.seq != event.seq) {
            self.told.insert(place, event.clone());
            self.reshaped = true;
        }
    }

    pub(super) fn note_told(&mut self, event: &Event) {
        if self.next_seq.saturating_add(RESERVE_LEFT) > self.seq_limit {
            self.seq_limit = self.next_seq.saturating_add(RESERVE);
            self.reshaped = true;
        }
        if event.body.is_state() {
            self.told.push(event.clone());
            self.reshaped = true;
        }
    }

    /// What the shelf knows beside what the index says of the task's pieces, before `restore`. Answers with all pieces,
    /// and with those of them that the index lacks or has in an older state.
    pub fn mend(&mut self, pieces: Vec<Piece>, found: &Found) -> (Vec<Piece>, Vec<Piece>) {
        let mut mending = Mending::new(self, pieces);
        for (name, object) in &found.uploaded {
            mending.settled(name, object.clone(), PieceFate::Uploaded);
        }
        for (object, segment) in &found.spooled {
            mending.on_its_way(&LocalName::of(segment), object.clone());
        }
        for segment in &found.adopted {
            let written = LocalName::parse(&segment.part_name).filter(|name| name.duration.is_some());
            let run = &segment.run;
            let takeover = mending.task.takeover_of_run(run.run);
            match written {
                Some(name) => mending.on_its_way(&name, mending.task.object_of(&name, takeover)),
                None => mending.task.know_run(takeover, &run.lane, run.run),
            }
        }
        // last, since these alone may give way: nothing of this name is or will be anywhere
        for name in &found.lost {
            let (takeover, mut name) = (mending.task.takeover_of_run(name.run), name.clone());
            while mending.objects.contains(&mending.task.object_of(&name, takeover)) {
                name.start = name.start.plus(Duration::from_millis(1));
            }
            mending.settled(&name, mending.task.object_of(&name, takeover), PieceFate::Lost);
        }
        let Mending { pieces, changed, .. } = mending;
        for (object, version) in &found.playlists {
            for record in self.records.iter_mut().filter(|record| record.file_name == *object) {
                record.version = record.version.max(*version);
            }
        }
        let lacking = pieces.iter().zip(changed).filter(|(_, changed)| *changed).map(|(piece, _)| piece.clone());
        let lacking = lacking.collect();
        (pieces, lacking)
    }

    /// A run that the records do not know began after they were last written: in the life that they describe.
    fn takeover_of_run(&self, run: u32) -> u8 {
        let record = self.records.iter().find(|record| record.runs.contains(&run));
        record.map_or(self.takeover, |record| record.takeover)
    }

    fn object_of(&self, name: &LocalName, takeover: u8) -> String {
        segment_name(self.spec.app, &self.spec.room, takeover, &name.lane, name.start)
    }

    fn know_run(&mut self, takeover: u8, lane: &Lane, run: u32) {
        self.next_run = self.next_run.max(run.saturating_add(1));
        if self.records.iter().any(|record| record.lane == *lane && record.runs.contains(&run)) {
            return;
        }
        let found = self.records.iter().rposition(|r| r.takeover == takeover && r.lane == *lane);
        let at = found.unwrap_or_else(|| {
            self.records.push(Record::new(takeover, lane.clone(), 0, &self.spec));
            self.records.len() - 1
        });
        self.records[at].runs.push(run);
        self.reshaped = true;
    }
}

/// The pieces of one task while they are being completed.
struct Mending<'a> {
    task: &'a mut RecordingTask,
    places: BTreeMap<(u32, u32), usize>,
    objects: BTreeSet<String>,
    pieces: Vec<Piece>,
    changed: Vec<bool>,
}

impl<'a> Mending<'a> {
    fn new(task: &'a mut RecordingTask, pieces: Vec<Piece>) -> Mending<'a> {
        let places = pieces.iter().enumerate().map(|(at, piece)| ((piece.run, piece.index), at)).collect();
        let objects = pieces.iter().map(|piece| piece.object.clone()).collect();
        for piece in &pieces {
            task.know_run(piece.takeover, &piece.lane, piece.run);
        }
        Mending { task, places, objects, changed: vec![false; pieces.len()], pieces }
    }

    fn settled(&mut self, name: &LocalName, object: String, fate: PieceFate) {
        let Some(at) = self.places.get(&(name.run, name.index)).copied() else {
            return self.add(name, object, fate);
        };
        let open = matches!(self.pieces[at].fate, PieceFate::Closing | PieceFate::Spooled);
        // a loss is told with its reason by whoever found it
        if open && fate == PieceFate::Uploaded {
            self.pieces[at].fate = fate;
            self.changed[at] = true;
        }
    }

    fn on_its_way(&mut self, name: &LocalName, object: String) {
        if !self.places.contains_key(&(name.run, name.index)) {
            self.add(name, object, PieceFate::Closing);
        }
    }

    fn add(&mut self, name: &LocalName, object: String, fate: PieceFate) {
        if !self.objects.insert(object.clone()) {
            return;
        }
        let takeover = takeover_of(&object);
        self.task.know_run(takeover, &name.lane, name.run);
        self.places.insert((name.run, name.index), self.pieces.len());
        self.pieces.push(Piece {
            takeover,
            lane: name.lane.clone(),
            run: name.run,
            index: name.index,
            object,
            start: name.start,
            duration: name.duration.unwrap_or_default(),
            size: name.size,
            discontinuity: name.discontinuity,
            fate,
        });
        self.changed.push(true);
    }
}
