//! Alarms while there is still time: what is wrong with a recording that runs, said while somebody can walk over.
//!
//! Owns: what counts as silent, black, frozen, unwritten, drifting, lossy; when it is said and when taken back. Must not
//! touch: how it is found out, the recording itself.
//! Law: an alarm is raised once and cleared once, whatever the facts do in between; what is not recorded, and what has
//! not been looked at, raises none; no alarm ends anything.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::format_description::well_known::Rfc3339;

use super::{Lane, LaneKind, MediaId, MediaTime, RoomId, RoomKey, TaskId, Timestamp, TrackId, TrackKind, UserId};

/// Who has sent nothing for so long has switched microphone or camera off.
const MUTED: Duration = Duration::from_secs(5);
/// The least delay of so long is what a track's packets are measured by: the network only adds to it, and so does a sender
/// whose encoder is late for a while.
const DELAY_WINDOW: Duration = Duration::from_secs(30);
/// After so long a track's delay is what it should stay. Clocks settle until then (see `rtp_time`).
const DELAY_SETTLES: Duration = Duration::from_secs(40);

/// From when on something is an alarm. Zero: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub silent: Duration,
    pub black: Duration,
    pub frozen: Duration,
    pub nothing_written: Duration,
    pub loss_percent: u32,
    /// Over which losses are counted.
    pub loss_over: Duration,
    pub drift: Duration,
    /// Who sends nothing at all is silent, and frozen, too.
    pub muted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Silent,
    Black,
    Frozen,
    NothingWritten,
    Loss,
    Drift,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Silent, Kind::Black, Kind::Frozen, Kind::NothingWritten, Kind::Loss, Kind::Drift];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Silent => "silent",
            Kind::Black => "black",
            Kind::Frozen => "frozen",
            Kind::NothingWritten => "nothing_written",
            Kind::Loss => "loss",
            Kind::Drift => "drift",
        }
    }
}

/// What is recorded now: one task's share of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub room: RoomKey,
    pub task: TaskId,
    pub streams: Vec<RecordedStream>,
    /// Lanes that should be written, and the tracks that each is made of.
    pub lanes: Vec<(Lane, Vec<TrackId>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedStream {
    pub user: UserId,
    pub media: MediaId,
    pub sound: Option<TrackId>,
    pub picture: Option<TrackId>,
}

/// What has been seen of a track. Times of content are those of its capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackFacts {
    /// When its newest packet arrived.
    pub arrived: Option<MediaTime>,
    /// Packets since it began.
    pub received: u64,
    pub lost: u64,
    /// The least delay (arrival minus stamp, from whatever origin) of its packets since the facts before, ns.
    pub delay: Option<i64>,
    /// Up to when its content was looked at.
    pub looked: Option<MediaTime>,
    /// Sound: when it was last more than silence.
    pub heard: Option<MediaTime>,
    /// Pictures: when one was last not black, and when one last differed from those before it.
    pub lit: Option<MediaTime>,
    pub moved: Option<MediaTime>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
    pub sound: Option<(TrackId, TrackFacts)>,
    pub picture: Option<(TrackId, TrackFacts)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneFacts {
    pub room: RoomKey,
    pub task: TaskId,
    pub lane: Lane,
    /// When the newest packet of its tracks arrived.
    pub arrived: Option<MediaTime>,
    /// When its file last grew.
    pub written: Option<MediaTime>,
}

/// Everything that is recorded, and what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub streams: Vec<StreamFacts>,
    pub lanes: Vec<LaneFacts>,
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    pub kind: Kind,
    #[serde(serialize_with = "room_text")]
    pub room: RoomKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// `None`: of everybody (a mixed recording).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    pub stream: MediaId,
    /// Since when it has been wrong: that long before it was raised.
    #[serde(serialize_with = "rfc3339")]
    pub since: Timestamp,
    /// The sentence for people.
    pub text: String,
}

fn room_text<S: Serializer>(room: &RoomKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&RoomName(&room.room))
}

fn rfc3339<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.ms()) * 1_000_000);
    let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    serializer.serialize_str(text.as_deref().unwrap_or("1970-01-01T00:00:00Z"))
}

/// A room as people name it.
struct RoomName<'a>(&'a RoomId);

impl fmt::Display for RoomName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RoomId::Number(n) => n.fmt(f),
            RoomId::Text(text) => f.write_str(text),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Raised(Alarm),
    Cleared(Alarm),
}

/// Whose alarm of a kind it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Stream(RoomKey, UserId, MediaId),
    Lane(TaskId, Lane),
}

type Key = (Kind, Subject);

/// What is remembered of a track while it is recorded.
#[derive(Debug)]
struct Known {
    since: MediaTime,
    /// (when, received, lost)
    counts: VecDeque<(MediaTime, u64, u64)>,
    delays: VecDeque<(MediaTime, i64)>,
    settled: Option<i64>,
}

/// The machine. Told all that is known every second or so, it says what has changed.
#[derive(Debug)]
pub struct Alarms {
    limits: Limits,
    tracks: BTreeMap<TrackId, Known>,
    /// Since when packets have come for a lane.
    lanes: BTreeMap<(TaskId, Lane), MediaTime>,
    active: BTreeMap<Key, Alarm>,
}

fn before(now: MediaTime, by: Duration) -> MediaTime {
    MediaTime(now.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

fn between(from: MediaTime, to: MediaTime) -> Duration {
    Duration::from_nanos(to.0.saturating_sub(from.0))
}

impl TrackFacts {
    fn is_muted(&self, now: MediaTime) -> bool {
        self.arrived.is_none_or(|arrived| between(arrived, now) > MUTED)
    }
}

impl Known {
    fn new(since: MediaTime) -> Known {
        Known { since, counts: VecDeque::new(), delays: VecDeque::new(), settled: None }
    }

    fn learn(&mut self, now: MediaTime, facts: &TrackFacts, loss_over: Duration) {
        self.counts.push_back((now, facts.received, facts.lost));
        // the newest that is old enough is what losses are counted from
        while self.counts.get(1).is_some_and(|(at, ..)| between(*at, now) >= loss_over) {
            self.counts.pop_front();
        }
        if let Some(delay) = facts.delay {
            self.delays.push_back((now, delay));
        }
        while self.delays.front().is_some_and(|(at, _)| between(*at, now) > DELAY_WINDOW) {
            self.delays.pop_front();
        }
        if self.settled.is_none() && between(self.since, now) >= DELAY_SETTLES {
            self.settled = self.least_delay();
        }
    }

    fn least_delay(&self) -> Option<i64> {
        self.delays.iter().map(|(_, delay)| *delay).min()
    }

    /// How far its packets have moved against their stamps since the clocks had settled, ns.
    fn moved(&self) -> Option<i64> {
        Some(self.least_delay()? - self.settled?)
    }

    /// Lost of a hundred, once they have been counted for so long.
    fn loss(&self, now: MediaTime, over: Duration) -> Option<f64> {
        let ((at, received, lost), newest) = (self.counts.front()?, self.counts.back()?);
        let (received, lost) = (newest.1.saturating_sub(*received), newest.2.saturating_sub(*lost));
        let counted = between(*at, now) >= over && received + lost > 0;
        counted.then(|| lost as f64 * 100.0 / (received + lost) as f64)
    }
}

/// What is found to be wrong at one look.
struct Found {
    key: Key,
    since: MediaTime,
    room: RoomKey,
    text: String,
}

impl Alarms {
    pub fn new(limits: Limits) -> Alarms {
        Alarms { limits, tracks: BTreeMap::new(), lanes: BTreeMap::new(), active: BTreeMap::new() }
    }

    /// Others from now on; the next look goes by them.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What is wrong now, in a steady order.
    pub fn active(&self) -> Vec<Alarm> {
        self.active.values().cloned().collect()
    }

    /// Looks at all that is recorded. `wall` is the wall time of `now`.
    pub fn look(&mut self, now: MediaTime, wall: Timestamp, facts: &Facts) -> Vec<Change> {
        self.remember(now, facts);
        let mut found = Vec::new();
        for stream in &facts.streams {
            self.judge_stream(now, stream, &mut found);
        }
        for lane in &facts.lanes {
            self.judge_lane(now, lane, &mut found);
        }
        let mut found: BTreeMap<Key, Found> = found.into_iter().map(|found| (found.key.clone(), found)).collect();
        let mut changes = Vec::new();
        self.active.retain(|key, alarm| {
            let stays = found.remove(key).is_some();
            if !stays {
                changes.push(Change::Cleared(alarm.clone()));
            }
            stays
        });
        for (key, Found { since, room, text, .. }) in found {
            let (task, user, stream) = match &key.1 {
                Subject::Stream(_, user, media) => (None, Some(user.clone()), *media),
                Subject::Lane(task, lane) => (Some(task.clone()), lane.user.clone(), lane.media),
            };
            let for_us = i64::try_from(between(since, now).as_micros()).unwrap_or(i64::MAX);
            let since = Timestamp(wall.0.saturating_sub(for_us));
            let alarm = Alarm { kind: key.0, room, task, user, stream, since, text };
            changes.push(Change::Raised(alarm.clone()));
            self.active.insert(key, alarm);
        }
        changes
    }

    fn remember(&mut self, now: MediaTime, facts: &Facts) {
        let told: BTreeMap<TrackId, TrackFacts> =
            facts.streams.iter().flat_map(|stream| stream.sound.iter().chain(&stream.picture)).copied().collect();
        self.tracks.retain(|track, _| told.contains_key(track));
        for (track, facts) in told {
            let known = self.tracks.entry(track).or_insert_with(|| Known::new(now));
            known.learn(now, &facts, self.limits.loss_over);
        }
        let flows = |lane: &&LaneFacts| lane.arrived.is_some_and(|arrived| between(arrived, now) <= MUTED);
        let flowing: Vec<(TaskId, Lane)> =
            facts.lanes.iter().filter(flows).map(|lane| (lane.task.clone(), lane.lane.clone())).collect();
        self.lanes.retain(|lane, _| flowing.contains(lane));
        for lane in flowing {
            self.lanes.entry(lane).or_insert(now);
        }
    }

    /// Since when the content of a track has been bad, if that is for longer than the limit.
    fn bad_since(
        &self,
        now: MediaTime,
        (track, facts): (TrackId, TrackFacts),
        good: Option<MediaTime>,
        limit: Duration,
    ) -> Option<MediaTime> {
        let known = self.tracks.get(&track)?;
        let until = match (facts.is_muted(now), self.limits.muted) {
            (true, false) => return None,
            (true, true) => now,
            (false, _) => facts.looked?,
        };
        let since = good.map_or(known.since, |good| good.max(known.since));
        (!limit.is_zero() && until > since && between(since, until) >= limit).then_some(since)
    }

    fn judge_stream(&self, now: MediaTime, stream: &StreamFacts, found: &mut Vec<Found>) {
        let limits = &self.limits;
        let subject = || Subject::Stream(stream.room.clone(), stream.user.clone(), stream.media);
        let screen = if stream.media == MediaId::Aux { "'s screen" } else { "" };
        let who = format!("{}{screen} in room {}", stream.user.as_str(), RoomName(&stream.room.room));
        let mut say = |kind: Kind, since: MediaTime, text: String| {
            let (key, room) = ((kind, subject()), stream.room.clone());
            found.push(Found { key, since, room, text });
        };
        if let Some((track, facts)) = stream.sound
            && let Some(since) = self.bad_since(now, (track, facts), facts.heard, limits.silent)
        {
            say(Kind::Silent, since, format!("{who} has been silent for {} s", limits.silent.as_secs()));
        }
        if let Some((track, facts)) = stream.picture {
            let black = self.bad_since(now, (track, facts), facts.lit, limits.black);
            if let Some(since) = black.filter(|_| !facts.is_muted(now)) {
                say(Kind::Black, since, format!("{who} has been black for {} s", limits.black.as_secs()));
            }
            // what is black stands still, too, and a screen may well
            let frozen = self.bad_since(now, (track, facts), facts.moved, limits.frozen);
            if let Some(since) = frozen.filter(|_| black.is_none() && stream.media == MediaId::Main) {
                say(Kind::Frozen, since, format!("{who} has been frozen for {} s", limits.frozen.as_secs()));
            }
        }
        if let Some((_, text)) = self.loss_of(now, stream) {
            say(Kind::Loss, before(now, limits.loss_over), format!("of {who} {text}"));
        }
        if let Some(text) = self.drift_of(stream) {
            say(Kind::Drift, now, format!("of {who} {text}"));
        }
    }

    /// An alarm that is active stays until it is half as bad: it does not come and go at the limit.
    fn threshold(&self, kind: Kind, stream: &StreamFacts, limit: f64) -> f64 {
        let subject = Subject::Stream(stream.room.clone(), stream.user.clone(), stream.media);
        if self.active.contains_key(&(kind, subject)) { limit / 2.0 } else { limit }
    }

    fn loss_of(&self, now: MediaTime, stream: &StreamFacts) -> Option<(TrackKind, String)> {
        let limits = &self.limits;
        if limits.loss_percent == 0 {
            return None;
        }
        let threshold = self.threshold(Kind::Loss, stream, f64::from(limits.loss_percent));
        let sides = [(TrackKind::Audio, &stream.sound), (TrackKind::Video, &stream.picture)];
        sides.into_iter().find_map(|(kind, side)| {
            let loss = self.tracks.get(&(*side)?.0)?.loss(now, limits.loss_over)?;
            let what = if kind == TrackKind::Audio { "sound" } else { "picture" };
            let text = || format!("over {} % of the {what}'s packets are lost", limits.loss_percent);
            (loss >= threshold).then(|| (kind, text()))
        })
    }

    fn drift_of(&self, stream: &StreamFacts) -> Option<String> {
        let limit = self.limits.drift;
        if limit.is_zero() {
            return None;
        }
        let moved = |side: &Option<(TrackId, TrackFacts)>| self.tracks.get(&(*side)?.0)?.moved();
        let (sound, picture) = (moved(&stream.sound), moved(&stream.picture));
        let apart = sound.zip(picture).map(|(sound, picture)| sound - picture);
        let threshold = self.threshold(Kind::Drift, stream, limit.as_nanos() as f64);
        let over = |off: Option<i64>| off.is_some_and(|off| off.unsigned_abs() as f64 >= threshold);
        let ms = limit.as_millis();
        if over(apart) {
            Some(format!("sound and picture are {ms} ms apart"))
        } else if over(sound) || over(picture) {
            Some(format!("the clock is {ms} ms off"))
        } else {
            None
        }
    }

    fn judge_lane(&self, now: MediaTime, facts: &LaneFacts, found: &mut Vec<Found>) {
        let limit = self.limits.nothing_written;
        let Some(flows) = self.lanes.get(&(facts.task.clone(), facts.lane.clone())) else { return };
        let since = facts.written.map_or(*flows, |written| written.max(*flows));
        if limit.is_zero() || between(since, now) < limit {
            return;
        }
        let room = RoomName(&facts.room.room);
        let of = match (&facts.lane.user, facts.lane.kind) {
            (None, _) => format!("of room {room}"),
            (Some(user), LaneKind::Audio) => format!("of {}'s sound in room {room}", user.as_str()),
            (Some(user), LaneKind::Video) => format!("of {}'s picture in room {room}", user.as_str()),
            (Some(user), LaneKind::AudioVideo) => format!("of {} in room {room}", user.as_str()),
        };
        let text = format!("nothing {of} has been written for {} s", limit.as_secs());
        let key = (Kind::NothingWritten, Subject::Lane(facts.task.clone(), facts.lane.clone()));
        found.push(Found { key, since, room: facts.room.clone(), text });
    }
}

#[cfg(test)]
mod tests;
