//! Packed files, once they are planned: how each is made, and what its task knows of it.
//!
//! Owns: what is kept of them, on the shelf and in the task. Must not touch: which segments belong to a file, bytes.
//! Law: a plan gives the same bytes again with the segments that it names.
//! Sources: RECORDING.md §6, §8 (310).

use serde::{Deserialize, Serialize};

use super::output::Container;
use super::segment::LOST_SUFFIX;
use super::{LaneKind, MediaId, Timestamp};

/// How to make one file. It is kept on the shelf: with the segments that it names it gives the same bytes again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilePlan {
    pub v: u32,
    pub container: Container,
    pub black_after: Option<i64>,
    pub start: Timestamp,
    pub sources: Vec<Source>,
    pub bytes: u64,
    /// CRC-32 of all that stands before its media; of a file without that, of its sources' sums.
    pub crc32: u32,
    /// Its segments go up in a list as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub listed: bool,
}

pub const PLAN_VERSION: u32 = 1;

/// What follows a packed file's name when a file holds its plan.
pub const PLAN_SUFFIX: &str = ".plan";

/// The file whose plan this was, if it was given up without being up. It may have been sent all the same.
pub fn of_given_up_plan(name: &str) -> Option<&str> {
    name.strip_suffix(LOST_SUFFIX)?.strip_suffix(PLAN_SUFFIX)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub file: String,
    /// Where on the file's line its first unit is, in ticks.
    pub at: i64,
    /// CRC-32 of its contents.
    pub crc32: u32,
    /// Which of its pictures belong to the file: the first, and the first that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<(u32, u32)>,
    /// Which of its frames of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sounds: Option<(u32, u32)>,
    /// How many pictures and frames of sound of it are to be packed, into this file or others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<(u32, u32)>,
}

/// A file that was planned, as its task knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFile {
    /// File name at the destination.
    pub object: String,
    pub user: String,
    pub media: MediaId,
    pub kind: LaneKind,
    pub start: Timestamp,
    pub end: Timestamp,
    pub bytes: u64,
    pub crc32: u32,
    /// The destination has it.
    #[serde(default)]
    pub uploaded: bool,
}

/// What came of packing a task's segments.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Packed {
    /// Each with the text of its plan.
    pub files: Vec<(PackedFile, String)>,
    /// Segments that could not be read, and why.
    pub broken: Vec<(String, String)>,
    /// What a file holds that waits to go up is not known yet: nothing was planned, and is to be asked for again.
    pub unready: bool,
}
