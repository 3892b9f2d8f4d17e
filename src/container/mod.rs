//! The two containers that the box knows, transport streams and mp4, as bytes in memory.
//!
//! Owns: their syntax and that of what lies in them (NAL units, ADTS), in and out, once for all who need it. Must not touch:
//! files, pipelines, tasks; what is done with damaged media beyond leaving it out.
//! Law: whatever comes in, nothing panics and memory is bounded; the same facts give the same bytes.
//!
//! Below `media`, which writes segments and merges them, `spool`, which sees what of one was saved, and `package`, which makes
//! files of them.

pub mod adts;
pub mod h264;
pub mod mp4;
pub mod packet;
pub mod ts_in;
pub mod ts_out;

/// Types of streams in a programme's map.
const TYPE_H264: u8 = 0x1b;
const TYPE_ADTS: u8 = 0x0f;
