//! What a task remembers of each of its playlists: pieces and their fates, the run that goes on.
//!
//! Owns: which pieces may be listed, when a list is complete. Must not touch: what follows from it (`task`).
//! Law: a playlist only grows; a piece that is lost leaves a gap and never comes back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::piece::{Piece, PieceFate};
use crate::model::playlist::Item;
use crate::model::recording::RecordingSpec;
use crate::model::room::Feed;
use crate::model::segment::part_name;
use crate::model::{Lane, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LiveState {
    Running,
    Finishing { until: Timestamp },
    Killed { until: Timestamp },
}

/// The run of a lane that is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) run: u32,
    pub(super) feed: Feed,
    pub(super) state: LiveState,
}

/// One playlist: a lane within one life of the task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) takeover: u8,
    pub(super) lane: Lane,
    /// Of a lane whose publisher was away for long: the how-manieth list it is, from 0.
    #[serde(default)]
    pub(super) part: u32,
    /// Nothing more is written into it: the publisher was away for too long.
    #[serde(default)]
    pub(super) over: bool,
    pub(super) file_name: String,
    /// Every run that wrote into it; late pieces find their playlist by it.
    pub(super) runs: Vec<u32>,
    pub(super) begin: Option<Timestamp>,
    pub(super) told_slice: bool,
    pub(super) told_file: bool,
    /// Version last published, and the newest that the destination is known to hold.
    pub(super) version: u64,
    pub(super) arrived: u64,
    /// The version that carries ENDLIST.
    pub(super) closed: Option<u64>,
    #[serde(skip)]
    pub(super) pieces: BTreeMap<(u32, u32), Piece>,
    #[serde(skip)]
    pub(super) live: Option<Live>,
    #[serde(skip)]
    pub(super) failures: u32,
    #[serde(skip)]
    pub(super) not_before: Option<Timestamp>,
    #[serde(skip)]
    pub(super) merge_since: Option<Timestamp>,
    /// Since when there is nothing to record for it.
    #[serde(skip)]
    pub(super) away_since: Option<Timestamp>,
    /// The list, which the disk has lost, is made again then.
    #[serde(skip)]
    pub(super) again_at: Option<Timestamp>,
    /// When it was last published in this life, and when what has arrived since is.
    #[serde(skip)]
    pub(super) listed: Option<Timestamp>,
    #[serde(skip)]
    pub(super) list_at: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(takeover: u8, lane: Lane, part: u32, spec: &RecordingSpec) -> Record {
        Record {
            takeover,
            file_name: part_name(spec.app, &spec.room, takeover, &lane, part),
            part,
            over: false,
            away_since: None,
            lane,
            runs: Vec::new(),
            begin: None,
            told_slice: false,
            told_file: false,
            version: 0,
            arrived: 0,
            closed: None,
            pieces: BTreeMap::new(),
            live: None,
            failures: 0,
            not_before: None,
            merge_since: None,
            again_at: None,
            listed: None,
            list_at: None,
        }
    }

    /// The pieces that may be listed: all up to the first whose fate is still open. So a playlist only ever grows.
    pub(super) fn items(&self) -> Vec<Item> {
        let settled = self.pieces.values().take_while(|p| matches!(p.fate, PieceFate::Uploaded | PieceFate::Lost));
        let mut after_loss = false;
        let mut items = Vec::new();
        for piece in settled {
            if piece.fate == PieceFate::Lost {
                after_loss = true;
                continue;
            }
            items.push(Item {
                name: piece.object.clone(),
                duration: piece.duration,
                start: piece.start,
                size: piece.size,
                // taken first: a piece that begins a run bridges the gap as well, and the one behind it joins it
                discontinuity: std::mem::take(&mut after_loss) || piece.discontinuity,
            });
        }
        items
    }

    pub(super) fn settled(&self) -> bool {
        self.pieces.values().all(|p| matches!(p.fate, PieceFate::Uploaded | PieceFate::Lost))
    }

    /// Nothing of it is missing at the destination, its closed playlist included.
    pub(super) fn complete(&self) -> bool {
        let listed = self.pieces.values().any(|p| p.fate == PieceFate::Uploaded);
        self.settled() && (!listed || self.closed.is_some_and(|closed| self.arrived >= closed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::recording::tests::spec;
    use crate::model::{LaneKind, MediaId, UserId};

    /// The first piece of a run breaks by itself: what was lost before it does not break behind it once more.
    #[test]
    fn a_loss_before_a_run_breaks_once() {
        let lane = Lane::single(UserId::parse("ann").expect("an id"), MediaId::Main, LaneKind::Audio);
        let mut record = Record::new(0, lane.clone(), 0, &spec());
        for (run, index, fate) in [(0, 0, PieceFate::Uploaded), (0, 1, PieceFate::Lost)]
            .into_iter()
            .chain((0..3).map(|index| (1, index, PieceFate::Uploaded)))
        {
            let (object, start, duration) = (format!("{run}-{index}.ts"), Timestamp(0), Duration::from_secs(1));
            let (lane, discontinuity) = (lane.clone(), index == 0);
            let piece =
                Piece { takeover: 0, lane, run, index, object, start, duration, size: None, discontinuity, fate };
            record.pieces.insert((run, index), piece);
        }
        let breaks: Vec<bool> = record.items().iter().map(|item| item.discontinuity).collect();
        assert_eq!(breaks, [true, true, false, false]);
    }
}
