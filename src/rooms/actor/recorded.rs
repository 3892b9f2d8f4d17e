//! What is recorded at the moment, for whoever watches over it.
//!
//! Owns: the list, and when it is made anew. Must not touch: what is watched, and what follows.
//! Law: who listens sees the last list and never holds up the actor.

use tokio::sync::watch;

use super::*;
use crate::model::TrackId;
use crate::model::alarm::{Recorded, RecordedStream};

pub(super) struct Told {
    list: watch::Sender<Vec<Recorded>>,
    stale: bool,
}

impl Default for Told {
    fn default() -> Told {
        Told { list: watch::Sender::new(Vec::new()), stale: true }
    }
}

impl Told {
    /// Somebody came or went, or a task became another.
    pub(super) fn is_stale(&mut self) {
        self.stale = true;
    }
}

/// The tracks that a lane is made of.
fn tracks_of(feed: &Feed) -> Vec<TrackId> {
    match feed {
        Feed::Single { audio, video } => audio.iter().chain(video).copied().collect(),
        Feed::Mixed(scene) => {
            let seen = scene.tiles.iter().filter_map(|tile| tile.track);
            scene.sounds.iter().copied().chain(seen).collect()
        }
    }
}

impl Actor {
    /// What is recorded, as it is and as it becomes.
    pub fn recorded(&self) -> watch::Receiver<Vec<Recorded>> {
        self.recorded.list.subscribe()
    }

    pub(super) fn tell_recorded(&mut self) {
        if !std::mem::take(&mut self.recorded.stale) {
            return;
        }
        let list: Vec<Recorded> = self.tasks.values().filter_map(|running| self.recorded_of(&running.task)).collect();
        self.recorded.list.send_if_modified(|told| {
            let changed = *told != list;
            if changed {
                *told = list;
            }
            changed
        });
    }

    fn recorded_of(&self, task: &RecordingTask) -> Option<Recorded> {
        let lanes: Vec<_> = task.recorded().map(|wanted| (wanted.lane.clone(), tracks_of(&wanted.feed))).collect();
        let room = task.spec.room_key();
        let there = self.rooms.get(&room)?;
        let taken: BTreeSet<TrackId> = lanes.iter().flat_map(|(_, tracks)| tracks).copied().collect();
        let streams = there.presences().iter().filter_map(|presence| {
            let track = |kind| presence.tracks.get(&kind).map(|track| track.id).filter(|track| taken.contains(track));
            let (sound, picture) = (track(TrackKind::Audio), track(TrackKind::Video));
            let recorded = sound.is_some() || picture.is_some();
            let stream = || RecordedStream { user: presence.user.clone(), media: presence.media, sound, picture };
            recorded.then(stream)
        });
        let streams: Vec<RecordedStream> = streams.collect();
        (!lanes.is_empty()).then(|| Recorded { room, task: task.id.clone(), streams, lanes })
    }
}
