//! The operators' line: one session with a broker, and what goes over it in both directions.
//!
//! Owns: the topics below `holdfast/<box-id>/`, the two shapes in which its parts hand messages to the line and take them
//! from it. Must not touch: the state of rooms; it reads status and sends the API's own calls.
//! Law: the line never brings the box down, and nothing that waits for it grows without bound.

use bytes::Bytes;

/// What becomes of a message while nobody takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// how things are: the newest of a topic replaces the one before
    State,
    /// what happened: kept in order; of too many the least important go first
    Event,
    /// what somebody asked for: kept
    Reply,
}

/// A message to the operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Below `holdfast/<box-id>/`.
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub class: Class,
}

/// A message of the operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Below `holdfast/<box-id>/`.
    pub topic: String,
    pub payload: Bytes,
    pub retained: bool,
}
