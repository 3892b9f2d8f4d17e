//! Who is in a room, and which of their tracks a task wants.
//!
//! Owns: `Room`, presence, the subscription rules. Must not touch: sessions themselves.
//! Law: people are kept in order of entry; a numeric and a string room of the same text are two rooms (the key says so).
//! Sources: API.md §1.6 (lists), RECORDING.md §1 (25 streams, in order of entry).

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{self, Person, Scene};
use super::mix::MixSpec;
use super::recording::{RecordingSpec, StreamType, Subscribers, Subscription};
use super::{Codec, Lane, LaneKind, MediaId, SessionId, TrackId, TrackKind, UserId};

/// One live track as the room knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    pub id: TrackId,
    pub codec: Codec,
}

/// One session of a participant: the main or the auxiliary stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    pub session: SessionId,
    pub user: UserId,
    pub media: MediaId,
    /// What its offer promised; a merged lane waits for all of it.
    pub offers: BTreeSet<TrackKind>,
    pub tracks: BTreeMap<TrackKind, Track>,
}

impl Presence {
    /// Everything that the offer promised flows.
    pub fn complete(&self) -> bool {
        self.offers.iter().all(|kind| self.tracks.contains_key(kind))
    }
}

/// The people of a room, in order of entry.
#[derive(Debug, Clone, Default)]
pub struct Room {
    presences: Vec<Presence>,
}

impl Room {
    /// Somebody is there. The session of the same user and stream that was there before is answered: it must go.
    pub fn enter(
        &mut self,
        session: SessionId,
        user: UserId,
        media: MediaId,
        offers: impl IntoIterator<Item = TrackKind>,
    ) -> Option<SessionId> {
        let presence = Presence { session, user, media, offers: offers.into_iter().collect(), tracks: BTreeMap::new() };
        // The newer session takes the older one's place in the order: to the room it is the same person.
        let same = self.presences.iter_mut().find(|p| p.user == presence.user && p.media == presence.media);
        match same {
            Some(old) => Some(std::mem::replace(old, presence).session),
            None => {
                self.presences.push(presence);
                None
            }
        }
    }

    /// `true` if the session was in the room.
    pub fn leave(&mut self, session: SessionId) -> bool {
        let before = self.presences.len();
        self.presences.retain(|p| p.session != session);
        self.presences.len() != before
    }

    pub fn track_up(&mut self, session: SessionId, kind: TrackKind, track: Track) {
        if let Some(presence) = self.presences.iter_mut().find(|p| p.session == session) {
            presence.tracks.insert(kind, track);
        }
    }

    pub fn track_down(&mut self, session: SessionId, track: TrackId) {
        if let Some(presence) = self.presences.iter_mut().find(|p| p.session == session) {
            presence.tracks.retain(|_, t| t.id != track);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.presences.is_empty()
    }

    pub fn holds(&self, user: &UserId) -> bool {
        self.presences.iter().any(|p| &p.user == user)
    }

    pub fn sessions_of<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = SessionId> + 'a {
        self.presences.iter().filter(move |p| &p.user == user).map(|p| p.session)
    }

    pub fn presences(&self) -> &[Presence] {
        &self.presences
    }
}

/// Whether one list entry means this user: the very id, or a prefix where it ends in `.*$` — unless somebody in the
/// room is literally called like the pattern, in which case it means that person alone (API.md §1.6).
fn means(entry: &str, user: &UserId, room: &Room) -> bool {
    if entry == user.as_str() {
        return true;
    }
    let Some(prefix) = entry.strip_suffix(".*$") else { return false };
    let literal = room.presences.iter().any(|p| p.user.as_str() == entry);
    !literal && user.as_str().starts_with(prefix)
}

impl Subscribers {
    pub fn admits(&self, user: &UserId, room: &Room) -> bool {
        match self {
            Subscribers::Everybody => true,
            Subscribers::Only(list) => list.iter().any(|entry| means(entry, user, room)),
            Subscribers::AllBut(list) => !list.iter().any(|entry| means(entry, user, room)),
        }
    }
}

impl Subscription {
    pub fn admits(&self, kind: TrackKind, user: &UserId, room: &Room) -> bool {
        match kind {
            TrackKind::Audio => self.audio.admits(user, room),
            TrackKind::Video => self.video.admits(user, room),
        }
    }
}

/// What a lane is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Tracks of one stream; another track is another run of the lane.
    Single { audio: Option<TrackId>, video: Option<TrackId> },
    /// Everybody's; another scene is taken up while the lane runs.
    Mixed(Box<Scene>),
}

/// Whether a wanted lane should begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Now,
    /// More of what the publisher promised may still come: a merged lane had better wait a moment.
    Soon,
    /// There is nothing to record; one that runs goes on.
    NotYet,
    /// The same, and nobody is there of whom something could come.
    Nobody,
}

/// A lane that a task wants now, and what to feed it from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedLane {
    pub lane: Lane,
    pub feed: Feed,
    pub begin: Begin,
}

/// The lanes that `spec` asks of a room as it is, at most `streams` publishers' streams in order of entry.
///
/// An auxiliary stream is pictures only: the cloud knows no auxiliary sound, and its merge script stops at an
/// `aux_audio` playlist (API.md §7.2).
pub fn wanted_lanes(spec: &RecordingSpec, room: &Room, streams: usize) -> Vec<WantedLane> {
    match &spec.mix {
        Some(mix) => vec![mixed_lane(mix, spec, room, streams)],
        None => single_lanes(spec, room, streams),
    }
}

/// The one lane of a mixed recording. Unlike a lane of its own, a mix takes the sound of an auxiliary stream as well:
/// what a shared screen plays was heard in the room.
fn mixed_lane(mix: &MixSpec, spec: &RecordingSpec, room: &Room, streams: usize) -> WantedLane {
    let (mut people, mut sounds, mut admitted, mut flows) = (Vec::new(), Vec::new(), 0, false);
    for presence in &room.presences {
        let wants = |kind| spec.streams.wants(kind) && spec.subscription.admits(kind, &presence.user, room);
        let (hears, sees) = (wants(TrackKind::Audio), wants(TrackKind::Video));
        if !spec.media.wants(presence.media) || !(hears || sees) {
            continue;
        }
        admitted += 1;
        if admitted > streams {
            break;
        }
        let track = |kind, wanted: bool| presence.tracks.get(&kind).filter(|_| wanted).map(|track| track.id);
        let (audio, video) = (track(TrackKind::Audio, hears), track(TrackKind::Video, sees));
        sounds.extend(audio);
        flows |= audio.is_some() || video.is_some();
        people.push(Person { user: presence.user.clone(), media: presence.media, video });
    }
    let (kind, people) = match spec.streams {
        StreamType::Audio => (LaneKind::Audio, Vec::new()),
        StreamType::Video => (LaneKind::Video, people),
        StreamType::AudioVideo => (LaneKind::AudioVideo, people),
    };
    let scene = layout::scene(&mix.layout, mix.video.size, &people, sounds);
    let begin = match (flows, admitted) {
        (true, _) => Begin::Now,
        (false, 0) => Begin::Nobody,
        (false, _) => Begin::NotYet,
    };
    WantedLane { lane: Lane::mixed(kind), feed: Feed::Mixed(Box::new(scene)), begin }
}

fn single_lanes(spec: &RecordingSpec, room: &Room, streams: usize) -> Vec<WantedLane> {
    let mut lanes = Vec::new();
    let mut taken = 0;
    for presence in &room.presences {
        if !spec.media.wants(presence.media) {
            continue;
        }
        let admitted = |kind: TrackKind| {
            spec.streams.wants(kind)
                && spec.subscription.admits(kind, &presence.user, room)
                && !(presence.media == MediaId::Aux && kind == TrackKind::Audio)
        };
        let (hears, sees) = (admitted(TrackKind::Audio), admitted(TrackKind::Video));
        if !hears && !sees {
            continue;
        }
        taken += 1;
        if taken > streams {
            break;
        }
        let track = |kind: TrackKind, wanted: bool| presence.tracks.get(&kind).filter(|_| wanted).map(|track| track.id);
        let (audio, video) = (track(TrackKind::Audio, hears), track(TrackKind::Video, sees));
        let lane = |kind| Lane::single(presence.user.clone(), presence.media, kind);
        // Merging is for sound with pictures; a task that takes only one of them has nothing to merge.
        if spec.av_merge && hears && sees {
            if audio.is_some() || video.is_some() {
                let begin = if presence.complete() { Begin::Now } else { Begin::Soon };
                lanes.push(WantedLane { lane: lane(LaneKind::AudioVideo), feed: Feed::Single { audio, video }, begin });
            }
            continue;
        }
        if audio.is_some() {
            let feed = Feed::Single { audio, video: None };
            lanes.push(WantedLane { lane: lane(LaneKind::Audio), feed, begin: Begin::Now });
        }
        if video.is_some() {
            let feed = Feed::Single { audio: None, video };
            lanes.push(WantedLane { lane: lane(LaneKind::Video), feed, begin: Begin::Now });
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recording::tests::spec;
    use crate::model::recording::{MediaFilter, StreamType};

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a test's user id")
    }

    fn room_of(names: &[&str]) -> Room {
        let mut room = Room::default();
        for (i, name) in names.iter().enumerate() {
            let i = i as u64;
            room.enter(SessionId(i), user(name), MediaId::Main, [TrackKind::Audio, TrackKind::Video]);
            room.track_up(SessionId(i), TrackKind::Audio, Track { id: TrackId(i * 10), codec: Codec::Opus });
            room.track_up(SessionId(i), TrackKind::Video, Track { id: TrackId(i * 10 + 1), codec: Codec::H264 });
        }
        room
    }

    fn lanes(spec: &RecordingSpec, room: &Room) -> Vec<String> {
        wanted_lanes(spec, room, 25)
            .into_iter()
            .map(|w| format!("{} {} {}", w.lane.user_id(), w.lane.media, w.lane.kind.in_names()))
            .collect()
    }

    #[test]
    fn lists_take_prefixes_unless_somebody_bears_the_pattern_as_a_name() {
        let mut spec = spec();
        spec.subscription.audio = Subscribers::Only(vec!["1.*$".into()]);
        spec.subscription.video = Subscribers::AllBut(vec!["1.*$".into()]);
        assert_eq!(lanes(&spec, &room_of(&["12", "21"])), ["12 main audio", "21 main video"]);
        assert_eq!(
            lanes(&spec, &room_of(&["12", "1.*$"])),
            ["12 main video", "1.*$ main audio"],
            "the literal name takes the pattern away from everybody else"
        );
    }

    #[test]
    fn stream_type_media_id_and_merge_choose_the_lanes() {
        let mut room = room_of(&["a"]);
        room.enter(SessionId(7), user("a"), MediaId::Aux, [TrackKind::Audio, TrackKind::Video]);
        room.track_up(SessionId(7), TrackKind::Audio, Track { id: TrackId(70), codec: Codec::Opus });
        room.track_up(SessionId(7), TrackKind::Video, Track { id: TrackId(71), codec: Codec::Vp8 });
        let mut spec = spec();
        assert_eq!(lanes(&spec, &room), ["a main audio", "a main video", "a aux video"]);
        spec.media = MediaFilter::Aux;
        assert_eq!(lanes(&spec, &room), ["a aux video"]);
        spec.media = MediaFilter::Main;
        spec.streams = StreamType::Audio;
        spec.av_merge = true;
        assert_eq!(lanes(&spec, &room), ["a main audio"], "nothing to merge with");
        spec.streams = StreamType::AudioVideo;
        assert_eq!(lanes(&spec, &room), ["a main audiovideo"]);
    }

    #[test]
    fn no_more_streams_than_admitted_in_order_of_entry() {
        let room = room_of(&["a", "b", "c"]);
        let wanted = wanted_lanes(&spec(), &room, 2);
        assert!(wanted.iter().all(|w| w.lane.user != Some(user("c"))));
        assert_eq!(wanted.len(), 4);
        let mut muted = spec();
        muted.subscription.audio = Subscribers::AllBut(vec!["a".into()]);
        muted.subscription.video = Subscribers::AllBut(vec!["a".into()]);
        let wanted = wanted_lanes(&muted, &room, 2);
        assert!(wanted.iter().any(|w| w.lane.user == Some(user("c"))), "who is not subscribed takes no place");
    }

    #[test]
    fn the_newer_session_of_a_user_takes_the_older_ones_place() {
        let mut room = room_of(&["a", "b"]);
        assert_eq!(room.enter(SessionId(9), user("a"), MediaId::Main, []), Some(SessionId(0)));
        assert!(!room.leave(SessionId(0)), "the replaced session is nobody any more");
        assert_eq!(room.presences()[0].session, SessionId(9));
        assert!(room.leave(SessionId(9)) && room.leave(SessionId(1)) && room.is_empty());
    }
}
