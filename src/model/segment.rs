//! A segment: a finished piece of a lane, its name on the shelf and its key at the destination.
//!
//! Owns: names, both directions; duration arithmetic. Must not touch: files.
//! Law: `LocalName::parse(name.to_string()) == name`; an object key is a pure function of the task and the segment,
//! so that a repeated upload is harmless.
//! Sources: RECORDING.md §2 (object names), HOUSE order on disk (local names carry their facts).

use std::time::Duration;

use base64::Engine;
use serde::{Deserialize, Serialize};

use super::{Lane, LaneRun, Timestamp};

/// base64 with `/` → `-` and `=` → `.` (RECORDING.md §2); `+` stays.
pub fn encode_bytes(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes).replace('/', "-").replace('=', ".")
}

/// A user id or a string room id as it stands in file names.
pub fn encode_id(id: &str) -> String {
    encode_bytes(id.as_bytes())
}

/// What the segmenter tells of a piece that it has finished. The bytes are with the kernel, not yet synced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClosedSegment {
    pub run: LaneRun,
    /// Counts from 0 within the run.
    pub index: u32,
    /// Wall time at which the first frame was captured.
    pub start: Timestamp,
    pub duration: Duration,
    pub bytes: u64,
    /// Pixels of the picture; `None` for sound.
    pub size: Option<(u32, u32)>,
    /// The media before it did not join on: a gap, a loss, a change of size or a new run.
    pub discontinuity: bool,
    /// Name of the `.part` file in the task's folder.
    pub part_name: String,
}

/// One lane's state of a task in the words of the API: used for Describe and for 304 and 307.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneFile {
    pub lane: Lane,
    /// The playlist's file name (without prefix and task id).
    pub file_name: String,
    /// When the lane's first data arrived: RECORDING.md §3.
    pub begin: Timestamp,
}
