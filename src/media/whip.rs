//! WebRTC in: offers become sessions, sessions become tracks.
//!
//! Owns: the life of a publisher's session. Must not touch: HTTP, tasks.
//! Law: every method answers; a session that is gone is `Unknown`.

use crate::model::{MediaId, RoomKey, SessionId, UserId};

/// A publisher asks to enter.
#[derive(Debug, Clone)]
pub struct PublishOrder {
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
    /// SDP
    pub offer: String,
}

/// A publisher was let in.
#[derive(Debug, Clone)]
pub struct Published {
    pub session: SessionId,
    /// Names the session in its URL; not to be guessed.
    pub resource: String,
    pub etag: String,
    /// SDP
    pub answer: String,
}

/// What a fragment did to a session.
#[derive(Debug, Clone)]
pub enum Patched {
    NoContent,
    Restarted { etag: String, fragment: String },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum WhipError {
    #[error("the offer cannot be taken: {0}")]
    BadOffer(String),
    #[error("the offer holds no media that the box can take")]
    NoUsableMedia,
    #[error("the box has as many publishers as it takes")]
    TooMany,
    #[error("no such session")]
    Unknown,
    #[error("If-Match is missing")]
    PreconditionRequired,
    #[error("the session has another entity tag by now")]
    PreconditionFailed,
    #[error("the fragment cannot be taken: {0}")]
    BadFragment(String),
    #[error("{0}")]
    Internal(String),
}

#[derive(Debug, Default)]
pub struct WhipServer {}

impl WhipServer {
    pub async fn publish(&self, _order: PublishOrder) -> Result<Published, WhipError> {
        Err(WhipError::Internal("WebRTC is not there yet".into()))
    }

    pub async fn patch(&self, _resource: &str, _if_match: Option<&str>, _fragment: &str) -> Result<Patched, WhipError> {
        Err(WhipError::Internal("WebRTC is not there yet".into()))
    }

    pub async fn leave(&self, _resource: &str) -> Result<(), WhipError> {
        Err(WhipError::Internal("WebRTC is not there yet".into()))
    }
}
