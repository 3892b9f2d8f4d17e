//! Watches over what is recorded, and says what is wrong with it while somebody can still walk over.
//!
//! Owns: the rhythm of looking; the words to health, metrics, log, and to whoever else shows alarms. Must not touch:
//! recordings (no alarm ends one), how things are noticed (`media`), what is wrong (`model::alarm`).
//! Law: while nothing is recorded nothing wakes; what is shown is what is wrong now.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Reporter;
use crate::media::MediaClock;
use crate::media::engine::Engine;
use crate::media::senses::Sensed;
use crate::model::alarm::{
    Alarm, Alarms, Change, Facts, Kind, LaneFacts, Limits, Recorded, RecordedStream, StreamFacts, TrackFacts,
};
use crate::model::{MediaTime, TrackId};

/// While something is recorded it is looked at so often.
const EVERY: Duration = Duration::from_secs(1);
/// Health names so many, and counts the others.
const MOST_NAMED: usize = 5;

/// What the watch is made of.
pub struct Watch {
    pub engine: Engine,
    pub clock: MediaClock,
    pub health: Reporter,
    /// What is recorded, as the rooms tell it.
    pub recorded: watch::Receiver<Vec<Recorded>>,
    /// From when on something is an alarm; it may change.
    pub limits: watch::Receiver<Limits>,
    /// What is wrong now, for whoever shows it.
    pub alarms: watch::Sender<Vec<Alarm>>,
}

impl Watch {
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut machine = Alarms::new(*self.limits.borrow());
        self.tell(&[]);
        loop {
            let idle = self.recorded.borrow_and_update().is_empty() && machine.active().is_empty();
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.recorded.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(EVERY), if !idle => {}
            }
            machine.set_limits(*self.limits.borrow());
            let now = self.clock.now();
            let changes = machine.look(now, self.clock.wall(now), &self.facts());
            if changes.is_empty() {
                continue;
            }
            for change in &changes {
                match change {
                    Change::Raised(alarm) => {
                        metrics::counter!("holdfast_alarms_raised_total", "kind" => alarm.kind.as_str()).increment(1);
                        warn!(kind = alarm.kind.as_str(), room = %alarm.room, text = alarm.text, "alarm");
                    }
                    Change::Cleared(alarm) => {
                        info!(kind = alarm.kind.as_str(), room = %alarm.room, text = alarm.text, "alarm is over");
                    }
                }
            }
            self.tell(&machine.active());
        }
    }

    fn tell(&self, active: &[Alarm]) {
        for kind in Kind::ALL {
            let count = active.iter().filter(|alarm| alarm.kind == kind).count();
            metrics::gauge!("holdfast_alarms", "kind" => kind.as_str()).set(count as f64);
        }
        match health_words(active) {
            Some(words) => self.health.degraded("alarm", words),
            None => self.health.ok("alarm"),
        }
        self.alarms.send_replace(active.to_vec());
    }

    /// Everything that is known of what is recorded.
    fn facts(&self) -> Facts {
        let recorded = self.recorded.borrow();
        let written = self.engine.written();
        let mut facts = Facts::default();
        // one that several tasks record is asked once: of its delay only what is new is told
        let mut asked = std::collections::BTreeMap::<TrackId, Option<TrackFacts>>::new();
        let mut ask = |track: TrackId| {
            let sensed = || self.engine.sensed(track).map(|sensed| self.facts_of(&sensed));
            *asked.entry(track).or_insert_with(sensed)
        };
        for Recorded { room, task, streams, lanes } in recorded.iter() {
            for RecordedStream { user, media, sound, picture } in streams {
                let mut side = |track: &Option<TrackId>| track.and_then(|track| Some((track, ask(track)?)));
                let (sound, picture) = (side(sound), side(picture));
                let stream = StreamFacts { room: room.clone(), user: user.clone(), media: *media, sound, picture };
                // of two tasks that record different kinds the one with more is told
                let same = |other: &StreamFacts| other.room == *room && other.user == *user && other.media == *media;
                match facts.streams.iter_mut().find(|other| same(other)) {
                    Some(other) => {
                        other.sound = other.sound.or(stream.sound);
                        other.picture = other.picture.or(stream.picture);
                    }
                    None => facts.streams.push(stream),
                }
            }
            for (lane, tracks) in lanes {
                let arrived = tracks.iter().filter_map(|track| ask(*track)?.arrived).max();
                let of_lane = written.iter().filter(|(run, _)| run.task == *task && run.lane == *lane);
                let written = of_lane.filter_map(|(_, at)| *at).max();
                let (room, task, lane) = (room.clone(), task.clone(), lane.clone());
                facts.lanes.push(LaneFacts { room, task, lane, arrived, written });
            }
        }
        facts
    }

    fn facts_of(&self, sensed: &Sensed) -> TrackFacts {
        let Sensed { arrived, received, lost, delay, looked, heard, lit, moved } = *sensed;
        let arrived: Option<MediaTime> = arrived.map(|at| self.clock.at(at));
        TrackFacts { arrived, received, lost, delay, looked, heard, lit, moved }
    }
}

/// What health says of them; `None`: nothing is wrong.
fn health_words(active: &[Alarm]) -> Option<String> {
    let named: Vec<&str> = active.iter().take(MOST_NAMED).map(|alarm| alarm.text.as_str()).collect();
    let words = named.join("; ");
    match active.len() {
        0 => None,
        count if count > MOST_NAMED => Some(format!("{words}; and {} more", count - MOST_NAMED)),
        _ => Some(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MediaId, RoomId, RoomKey, SdkAppId, Timestamp};

    #[test]
    fn health_names_some_and_counts_the_rest() {
        let alarm = |n: usize| Alarm {
            kind: Kind::Black,
            room: RoomKey { app: SdkAppId(1), room: RoomId::Number(7) },
            task: None,
            user: None,
            stream: MediaId::Main,
            since: Timestamp(0),
            text: format!("u{n} is black"),
        };
        let all: Vec<Alarm> = (0..7).map(alarm).collect();
        assert_eq!(health_words(&[]), None);
        assert_eq!(health_words(&all[..2]).as_deref(), Some("u0 is black; u1 is black"));
        let most = "u0 is black; u1 is black; u2 is black; u3 is black; u4 is black; and 2 more";
        assert_eq!(health_words(&all).as_deref(), Some(most));
    }
}
