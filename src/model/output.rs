//! What a recording becomes: segments with lists, packed files, or both, and the bounds of a packed file.
//!
//! Owns: what each `OutputFormat` asks for. Must not touch: how a file is made.
//! Sources: API.md §1.5 (OutputFormat, MaxMediaFileDuration); RECORDING.md §6 (limits).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A file is split at these, whatever was asked for.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
pub const LARGEST: u64 = 2_000_000_000;

/// What a recording becomes (`OutputFormat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    #[default]
    Hls,
    HlsMp4,
    HlsAac,
    Mp4,
    Aac,
    /// Nothing is packed; segments go up after the end, with lists of their own (VOD).
    Lists,
}

impl Output {
    /// Segments and playlists go to the destination.
    pub fn hls(self) -> bool {
        matches!(self, Output::Hls | Output::HlsMp4 | Output::HlsAac)
    }

    /// What is packed after the end.
    pub fn container(self) -> Option<Container> {
        match self {
            Output::Hls | Output::Lists => None,
            Output::HlsMp4 | Output::Mp4 => Some(Container::Mp4),
            Output::HlsAac | Output::Aac => Some(Container::Adts),
        }
    }

    /// What becomes of segments on the shelf.
    pub fn hold(self) -> Hold {
        match (self.hls(), self.container()) {
            (true, None) => Hold::Nothing,
            (true, Some(_)) => Hold::Copies,
            (false, _) => Hold::All,
        }
    }
}

/// Which segments of a task stay on the shelf until it lets them go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    #[default]
    Nothing,
    /// Those that its destination has.
    Copies,
    /// All; none goes to the destination.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    Mp4,
    /// AAC with an ADTS header before each frame.
    Adts,
}

impl Container {
    pub fn extension(self) -> &'static str {
        match self {
            Container::Mp4 => "mp4",
            Container::Adts => "aac",
        }
    }
}

/// Bounds of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub length: Duration,
    pub bytes: u64,
}
