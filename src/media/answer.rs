//! What a WHIP request comes to, apart from the session that an offer makes.
//!
//! Owns: the errors and their statuses (RFC 9725 §4). Must not touch: HTTP.

use super::sdp::SdpError;

/// What came of a PATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// 204
    NoContent,
    /// 200 with a new ETag and an `application/trickle-ice-sdpfrag`
    Restarted { etag: String, fragment: String },
}

/// Why a WHIP request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhipError {
    /// 400
    #[error("{0}")]
    BadOffer(String),
    /// 406: understood, but nothing in it can be recorded
    #[error("no sound as Opus and no picture as H.264, VP8, VP9 or AV1 is offered for sending")]
    NoUsableMedia,
    /// 503
    #[error("as many publishers as the box takes are connected")]
    TooMany,
    /// 404
    #[error("no such session")]
    Unknown,
    /// 428
    #[error("PATCH needs If-Match")]
    PreconditionRequired,
    /// 412
    #[error("If-Match names an ICE session that is over")]
    PreconditionFailed,
    /// 400
    #[error("{0}")]
    BadFragment(String),
    /// 500
    #[error("{0}")]
    Internal(String),
}

impl From<SdpError> for WhipError {
    fn from(error: SdpError) -> WhipError {
        match error {
            SdpError::Bad(why) => WhipError::BadOffer(why.into()),
            SdpError::NoUsableMedia => WhipError::NoUsableMedia,
        }
    }
}
