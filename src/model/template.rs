//! Automatic recording: which rooms are recorded without anybody asking for it, and as what.
//!
//! Owns: the template, the patterns of rooms, the spec that follows from both. Must not touch: when a room came to be
//! (`rooms` knows).
//! Law: the same template and room give the same spec, so that one room has one recording; a template that is here has
//! been validated.
//! Source: RECORDING.md §9.

use std::time::Duration;

use super::mix::MixSpec;
use super::output::Output;
use super::recording::{Destination, MediaFilter, RecordingSpec, StorageKeys, StreamType, Subscription};
use super::{RoomKey, SdkAppId, TrackKind, UserId};

/// Automatic recordings enter rooms by this name; nobody else's may.
pub const RECORDER: &str = "holdfast-automatic";
/// And by this one those that the button on the box begins.
pub const BUTTON: &str = "holdfast-button";

/// A task takes calls for so long (the most that `ResourceExpiredHour` may say): nobody asked for less.
const CALL_EXPIRY: Duration = Duration::from_secs(720 * 3600);

/// Room ids in which `*` stands for anything, nothing too. No room id has a `*` of its own; a number is as its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    pub fn takes(&self, room: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| room.strip_prefix(first)) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// What is recorded of itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// `None`: rooms of every application.
    pub app: Option<SdkAppId>,
    pub rooms: Vec<Pattern>,
    pub except: Vec<Pattern>,
    pub streams: StreamType,
    /// `None`: each stream apart.
    pub mix: Option<MixSpec>,
    pub output: Output,
    pub file_length: Duration,
    /// Who is back within it goes on in the same file; when all have left for longer, the recording ends.
    pub resume_wait: Duration,
    pub destination: Destination,
    pub keys: StorageKeys,
}

impl Template {
    /// Whether a room is one of those that are recorded.
    pub fn takes(&self, room: &RoomKey) -> bool {
        let id = room.room.to_string();
        self.app.is_none_or(|app| app == room.app)
            && self.rooms.iter().any(|pattern| pattern.takes(&id))
            && !self.except.iter().any(|pattern| pattern.takes(&id))
    }

    /// Whether media of this kind are recorded, and so begin a recording.
    pub fn wants(&self, kind: TrackKind) -> bool {
        self.streams.wants(kind)
    }

    pub fn spec(&self, room: &RoomKey) -> RecordingSpec {
        RecordingSpec {
            app: room.app,
            room: room.room.clone(),
            recorder: UserId::parse(RECORDER).expect("it is a user id"),
            mix: self.mix.clone(),
            streams: self.streams,
            media: MediaFilter::Both,
            subscription: Subscription::default(),
            max_idle: self.resume_wait,
            av_merge: false,
            fill_black: false,
            call_expiry: CALL_EXPIRY,
            output: self.output,
            file_length: self.file_length,
            resume_wait: Some(self.resume_wait),
            destination: self.destination.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RoomId;
    use crate::model::recording::tests::spec;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, room, takes) in [
            ("*", "", true),
            ("*", "anything at all", true),
            ("", "x", false),
            ("ward", "ward", true),
            ("ward", "ward-3", false),
            ("ward*", "ward-3", true),
            ("*-private", "ward-3-private", true),
            ("*-private", "ward-3-private-not", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("12*", "12345", true),
            ("a[b]?", "a[b]?", true),
            ("**", "x", true),
        ] {
            assert_eq!(Pattern(pattern.into()).takes(room), takes, "{pattern} {room}");
        }
    }

    #[test]
    fn a_room_is_taken_by_its_application_and_patterns() {
        let base = spec();
        let template = Template {
            app: Some(base.app),
            rooms: vec![Pattern("ward*".into()), Pattern("7".into())],
            except: vec![Pattern("*private".into())],
            streams: StreamType::Audio,
            mix: None,
            output: Output::Aac,
            file_length: Duration::from_secs(3600),
            resume_wait: Duration::from_secs(30),
            destination: base.destination.clone(),
            keys: StorageKeys {
                access_key: crate::model::Secret::new("a"),
                secret_key: crate::model::Secret::new("b"),
            },
        };
        let room = |app, room| RoomKey { app, room };
        let text = |id: &str| room(base.app, RoomId::Text(id.into()));
        assert!(
            template.takes(&text("ward-1")) && !template.takes(&text("ward-private")) && !template.takes(&text("x"))
        );
        assert!(template.takes(&room(base.app, RoomId::Number(7))));
        assert!(!template.takes(&room(SdkAppId(1), RoomId::Text("ward-1".into()))));
        assert!(template.wants(TrackKind::Audio) && !template.wants(TrackKind::Video));
        let spec = template.spec(&text("ward-1"));
        assert_eq!((spec.max_idle, spec.resume_wait), (Duration::from_secs(30), Some(Duration::from_secs(30))));
    }

    proptest! {
        /// Against the plain rule: some way of putting something for each star makes the room.
        #[test]
        fn patterns_take_what_the_plain_rule_takes(pattern in "[ab*]{0,6}", room in "[ab]{0,8}") {
            fn plain(pattern: &[u8], room: &[u8]) -> bool {
                match pattern.split_first() {
                    None => room.is_empty(),
                    Some((b'*', rest)) => (0..=room.len()).any(|n| plain(rest, &room[n..])),
                    Some((c, rest)) => room.first() == Some(c) && plain(rest, &room[1..]),
                }
            }
            let expected = plain(pattern.as_bytes(), room.as_bytes());
            prop_assert_eq!(Pattern(pattern).takes(&room), expected);
        }
    }
}
