use super::*;
use crate::model::SdkAppId;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    silent: Duration::from_secs(60),
    black: Duration::from_secs(40),
    frozen: Duration::from_secs(30),
    nothing_written: Duration::from_secs(20),
    loss_percent: 5,
    loss_over: Duration::from_secs(10),
    drift: Duration::from_millis(200),
    muted: false,
};
const NONE: Limits = Limits {
    silent: Duration::ZERO,
    black: Duration::ZERO,
    frozen: Duration::ZERO,
    nothing_written: Duration::ZERO,
    loss_percent: 0,
    loss_over: Duration::from_secs(10),
    drift: Duration::ZERO,
    muted: true,
};

fn at(second: u64) -> MediaTime {
    MediaTime(second * 1_000_000_000)
}

fn wall(second: u64) -> Timestamp {
    Timestamp::from_ms(1_700_000_000_000 + 1000 * second as i64)
}

fn room() -> RoomKey {
    RoomKey { app: SdkAppId(1), room: RoomId::Number(12) }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// Sound and picture of somebody with whom all is well.
fn well(now: u64) -> TrackFacts {
    TrackFacts {
        arrived: Some(at(now)),
        received: 50 * now,
        lost: 0,
        delay: Some(7_000_000),
        looked: Some(at(now)),
        heard: Some(at(now)),
        lit: Some(at(now)),
        moved: Some(at(now)),
    }
}

fn ann(sound: TrackFacts, picture: TrackFacts) -> Facts {
    let (sound, picture) = (Some((TrackId(1), sound)), Some((TrackId(2), picture)));
    let stream = StreamFacts { room: room(), user: user("ann"), media: MediaId::Main, sound, picture };
    Facts { streams: vec![stream], lanes: Vec::new() }
}

/// Looks each second, and gives (second, whether raised, text) of each change.
fn told(limits: Limits, seconds: u64, facts: impl Fn(u64) -> Facts) -> Vec<(u64, bool, String)> {
    let mut alarms = Alarms::new(limits);
    let mut told = Vec::new();
    for second in 0..seconds {
        for change in alarms.look(at(second), wall(second), &facts(second)) {
            told.push(match change {
                Change::Raised(alarm) => (second, true, alarm.text),
                Change::Cleared(alarm) => (second, false, alarm.text),
            });
        }
    }
    told
}

#[test]
fn silence_is_said_once_and_taken_back_once() {
    let quiet = |now: u64| TrackFacts { heard: Some(at(if now < 200 { now.min(100) } else { now })), ..well(now) };
    let text = "ann in room 12 has been silent for 60 s".to_owned();
    let all = told(LIMITS, 300, |now| ann(quiet(now), well(now)));
    assert_eq!(all, [(160, true, text.clone()), (200, false, text.clone())]);
    // nothing was ever heard: counted from when the recording began
    let never = |now: u64| TrackFacts { heard: None, ..well(now) };
    assert_eq!(told(LIMITS, 100, |now| ann(never(now), well(now))), [(60, true, text)]);
    assert_eq!(told(NONE, 300, |now| ann(never(now), well(now))), []);
}

#[test]
fn who_is_muted_is_not_silent_unless_that_is_asked_for() {
    let gone = |now: u64| TrackFacts {
        arrived: Some(at(now.min(10))),
        looked: Some(at(now.min(10))),
        heard: Some(at(now.min(10))),
        moved: Some(at(now.min(10))),
        delay: None,
        received: 50 * now.min(10),
        ..well(now)
    };
    assert_eq!(told(LIMITS, 300, |now| ann(gone(now), gone(now))), []);
    let asked = told(Limits { muted: true, ..LIMITS }, 300, |now| ann(gone(now), gone(now)));
    let texts: Vec<(u64, &str)> = asked.iter().map(|(second, _, text)| (*second, text.as_str())).collect();
    assert_eq!(
        texts,
        [(40, "ann in room 12 has been frozen for 30 s"), (70, "ann in room 12 has been silent for 60 s")]
    );
}

#[test]
fn what_is_black_is_not_also_frozen_and_a_screen_may_stand_still() {
    let black = |now: u64| TrackFacts { lit: None, moved: None, ..well(now) };
    let all = told(Limits { black: Duration::from_secs(20), ..LIMITS }, 100, |now| ann(well(now), black(now)));
    assert_eq!(all, [(20, true, "ann in room 12 has been black for 20 s".to_owned())]);
    let still = |now: u64| TrackFacts { moved: None, ..well(now) };
    let all = told(LIMITS, 100, |now| ann(well(now), still(now)));
    assert_eq!(all, [(30, true, "ann in room 12 has been frozen for 30 s".to_owned())]);
    let screen = |now: u64| {
        let mut facts = ann(well(now), still(now));
        facts.streams[0].media = MediaId::Aux;
        facts
    };
    assert_eq!(told(LIMITS, 100, screen), []);
    // looked at every ten seconds only: what is not known is not said
    let seldom = |now: u64| TrackFacts { looked: Some(at(now / 10 * 10)), moved: Some(at(3)), ..well(now) };
    assert_eq!(told(LIMITS, 100, |now| ann(well(now), seldom(now))).first().map(|told| told.0), Some(40));
}

#[test]
fn losses_are_counted_over_their_time_and_do_not_flicker_at_the_limit() {
    // of 50 packets each second 2, then 3, then 2, then none
    let lossy = |now: u64| {
        let lost = (0..now).map(|s| [2, 3, 2, 0][(s / 20).min(3) as usize]).sum();
        TrackFacts { received: 50 * now - lost, lost, ..well(now) }
    };
    let all = told(LIMITS, 120, |now| ann(well(now), lossy(now)));
    let text = "of ann in room 12 over 5 % of the picture's packets are lost".to_owned();
    let (raised, cleared) = (all[0].0, all[1].0);
    assert_eq!(all, [(raised, true, text.clone()), (cleared, false, text)]);
    assert!((21..=30).contains(&raised) && (61..=70).contains(&cleared), "{raised} {cleared}");
}

#[test]
fn sound_that_leaves_its_picture_is_told() {
    let delay = |ms: u64| Some(ms as i64 * 1_000_000);
    // the whole line becomes slower: the network's matter until it is more than any network has
    let apart = |now: u64| {
        let off = now.saturating_sub(30).min(25) * 10;
        ann(TrackFacts { delay: delay(20 + off), ..well(now) }, TrackFacts { delay: delay(20), ..well(now) })
    };
    let all = told(LIMITS, 100, apart);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].2, "of ann in room 12 sound and picture are 200 ms apart");
    let both = |now: u64| {
        let off = now.saturating_sub(30).min(25) * 10;
        let facts = TrackFacts { delay: delay(20 + off), ..well(now) };
        ann(facts, facts)
    };
    assert_eq!(told(LIMITS, 100, both)[0].2, "of ann in room 12 the clock is 200 ms off");
    // single packets that are late say nothing
    let bumpy = |now: u64| {
        let facts = TrackFacts { delay: delay(if now.is_multiple_of(5) { 20 } else { 900 }), ..well(now) };
        ann(facts, well(now))
    };
    assert_eq!(told(LIMITS, 100, bumpy), []);
}

#[test]
fn a_file_that_does_not_grow_is_told_while_packets_come() {
    let task = TaskId::from_random(&[7; 16]);
    let lane = Lane::single(user("ann"), MediaId::Main, LaneKind::Video);
    let facts = |arrived: Option<u64>, written: Option<u64>| {
        let (arrived, written) = (arrived.map(at), written.map(at));
        let lane = LaneFacts { room: room(), task: task.clone(), lane: lane.clone(), arrived, written };
        Facts { streams: Vec::new(), lanes: vec![lane] }
    };
    let text = "nothing of ann's picture in room 12 has been written for 20 s".to_owned();
    assert_eq!(told(LIMITS, 60, |now| facts(Some(now), None)), [(20, true, text.clone())]);
    let stops = told(LIMITS, 60, |now| facts(Some(now), Some(if now < 40 { now.min(5) } else { now })));
    assert_eq!(stops, [(25, true, text.clone()), (40, false, text)]);
    assert_eq!(told(LIMITS, 60, |_| facts(Some(3), Some(3))), [], "nobody sends anything");
}

#[test]
fn who_leaves_takes_the_alarm_along_and_the_wire_has_plain_words() {
    let mut alarms = Alarms::new(LIMITS);
    let silent = |now: u64| ann(TrackFacts { heard: None, ..well(now) }, well(now));
    for second in 0..61 {
        alarms.look(at(second), wall(second), &silent(second));
    }
    assert_eq!(
        serde_json::to_value(alarms.active()).unwrap(),
        serde_json::json!([{
            "kind": "silent", "room": "12", "user": "ann", "stream": "main", "since": "2023-11-14T22:13:20Z",
            "text": "ann in room 12 has been silent for 60 s",
        }])
    );
    let changes = alarms.look(at(61), wall(61), &Facts::default());
    assert!(matches!(&changes[..], [Change::Cleared(alarm)] if alarm.kind == Kind::Silent));
    assert!(alarms.active().is_empty());
}

prop_compose! {
    fn track()(
        arrived in 0u64..8, looked in 0u64..20, good in [0u64..100, 0..100, 0..100], lost in 0u64..40,
        delay in proptest::option::of(-500i64..500), blind in any::<bool>(),
    ) -> (u64, u64, [u64; 3], u64, Option<i64>, bool) {
        (arrived, looked, good, lost, delay, blind)
    }
}

/// What somebody's track is told to be, some seconds before `now`.
fn facts_of(now: u64, total: (u64, u64), track: &(u64, u64, [u64; 3], u64, Option<i64>, bool)) -> TrackFacts {
    let ago = |by: u64| Some(at(now.saturating_sub(by)));
    let (arrived, looked, [heard, lit, moved], _, delay, blind) = track;
    TrackFacts {
        arrived: ago(*arrived),
        received: total.0,
        lost: total.1,
        delay: delay.map(|ms| ms * 1_000_000),
        looked: ago(*looked).filter(|_| !blind),
        heard: ago(*heard),
        lit: ago(*lit),
        moved: ago(*moved),
    }
}

proptest! {
    /// Whatever happens: raised and cleared take turns, what is active is what was raised and not cleared, content is
    /// told only after its limit, and nothing outlives the recording.
    #[test]
    fn every_alarm_is_raised_once_and_cleared_once(
        looks in proptest::collection::vec(
            (1u64..7, any::<bool>(), proptest::collection::vec((1u64..4, track(), track()), 0..3)), 1..120,
        ),
    ) {
        let mut alarms = Alarms::new(LIMITS);
        let mut standing: Vec<Alarm> = Vec::new();
        let (mut now, mut totals) = (100u64, BTreeMap::<u64, (u64, u64)>::new());
        for (step, muted, people) in looks {
            now += step;
            alarms.set_limits(Limits { muted, ..LIMITS });
            let mut streams = BTreeMap::new();
            for (n, sound, picture) in people {
                let mut side = |id: u64, track: &(u64, u64, [u64; 3], u64, Option<i64>, bool)| {
                    let total = totals.entry(id).or_default();
                    *total = (total.0 + 50 * step, total.1 + track.3);
                    Some((TrackId(id), facts_of(now, *total, track)))
                };
                let (sound, picture) = (side(2 * n, &sound), side(2 * n + 1, &picture));
                let name = user(&format!("u{n}"));
                streams.insert(n, StreamFacts { room: room(), user: name, media: MediaId::Main, sound, picture });
            }
            let facts = Facts { streams: streams.into_values().collect(), lanes: Vec::new() };
            for change in alarms.look(at(now), wall(now), &facts) {
                match change {
                    Change::Raised(alarm) => {
                        let same = |other: &Alarm| (other.kind, &other.user) == (alarm.kind, &alarm.user);
                        prop_assert!(!standing.iter().any(same), "raised twice: {alarm:?}");
                        let least = match alarm.kind {
                            Kind::Silent => 60,
                            Kind::Black => 40,
                            Kind::Frozen => 30,
                            _ => 0,
                        };
                        let lasted = (wall(now).0 - alarm.since.0) / 1_000_000;
                        prop_assert!(lasted >= least, "{lasted}: {alarm:?}");
                        standing.push(alarm);
                    }
                    Change::Cleared(alarm) => {
                        let before = standing.len();
                        standing.retain(|other| *other != alarm);
                        prop_assert_eq!(before, standing.len() + 1, "cleared and not there: {:?}", alarm);
                    }
                }
            }
            let mut active = alarms.active();
            active.sort_by(|a, b| (a.kind, &a.user).cmp(&(b.kind, &b.user)));
            standing.sort_by(|a, b| (a.kind, &a.user).cmp(&(b.kind, &b.user)));
            prop_assert_eq!(&active, &standing);
        }
        alarms.look(at(now + 1), wall(now + 1), &Facts::default());
        prop_assert!(alarms.active().is_empty());
    }
}
