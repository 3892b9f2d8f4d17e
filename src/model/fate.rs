//! What became of files: the one word that shelf, packer and carriers have for the tasks.
//!
//! Owns: `Fate`. Must not touch: what follows from it ([`super::task`]).

use super::packed::Packed;
use super::segment::ClosedSegment;
use super::vod::Media;

/// What became of a file on the shelf; told to the actor by `spool` and `upload`.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// The segment is synced, renamed and indexed.
    Spooled(ClosedSegment),
    /// Its contents cannot be trusted (a sync failed) or it is gone.
    Lost { segment: ClosedSegment, why: String },
    /// The destination has the segment. `object` is its file name (without prefix and task id).
    SegmentUploaded { object: String },
    /// The destination has this version of a playlist.
    PlaylistUploaded { object: String, version: u64 },
    /// This version of a playlist cannot be had any more, and did not reach the destination.
    PlaylistLost { object: String, version: u64 },
    /// What the task's segments are packed into.
    Packaged(Packed),
    /// The plan of a packed file waits on the shelf, as it did before the restart.
    PackageWaits { object: String },
    /// The destination has the packed file.
    PackageUploaded { object: String },
    /// A packed file cannot be made any more as it was planned, and did not reach the destination.
    PackageLost { object: String, why: String },
    /// VOD has the packed file, and this is what it made of it.
    VodCommitted { object: String, media: Media },
    /// VOD or its storage refused the file or did not answer; it stays and will be tried again. `refused`: the same
    /// would be refused again.
    VodFailed { object: String, code: String, message: String, refused: bool },
    /// The destination refused or did not answer; the file stays on the shelf and will be tried again.
    UploadFailed { code: String, message: String },
    /// Of a discarded task nothing lies on the shelf any more; so much was removed.
    Cleared { files: u64, bytes: u64 },
    /// Of a discarded task the destination has nothing any more; so much was removed, and so many uploads in parts were
    /// given up. `media`: of VOD, the FileIds.
    Erased { objects: u64, bytes: u64, uploads: u64, media: Vec<String> },
}
