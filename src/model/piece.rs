//! Pieces: segments as their task remembers them.
//!
//! Owns: what is kept of each. Must not touch: what follows from its fate ([`super::task`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::segment::LocalName;
use super::{Lane, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceFate {
    /// handed to the spool, which has not answered yet
    Closing,
    Spooled,
    Uploaded,
    Lost,
}

/// One segment in its task's memory. Stored one by one, since a day of recording has hundreds of thousands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    pub takeover: u8,
    pub lane: Lane,
    pub run: u32,
    pub index: u32,
    /// File name at the destination.
    pub object: String,
    pub start: Timestamp,
    pub duration: Duration,
    pub size: Option<(u32, u32)>,
    pub discontinuity: bool,
    pub fate: PieceFate,
}

impl Piece {
    /// Its file in the task's folder.
    pub fn local_file(&self) -> String {
        let Piece { lane, run, index, start, size, discontinuity, duration, .. } = self.clone();
        LocalName { lane, run, index, start, size, discontinuity, duration: Some(duration) }.to_string()
    }
}
