//! The recording machine against its promises, on random walks: whatever happens, in whatever order, every closed
//! segment is spooled exactly once, playlists list only what arrived and only grow, and the end is told once.

mod walk;

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::model::Timestamp;
use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::fate::Fate;
use holdfast::model::playlist::Playlist;
use holdfast::model::task::{Input, Phase, Policy};
use proptest::prelude::*;
use walk::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn promises_hold_on_every_walk(av_merge: bool, steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new(av_merge);
        for step in steps {
            world.step(step);
        }
        world.finish();

        let seqs: Vec<u64> = world.told.keys().copied().collect();
        let whole = world.index_was_lost || seqs == (0..world.told.len() as u64).collect::<Vec<_>>();
        prop_assert!(whole, "event numbers have no holes: {:?}", seqs);
        prop_assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStart { .. })), 1);
        prop_assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { .. })), 1, "302 is told once");
        prop_assert!(world.count(|b| matches!(b, EventBody::Failover)) <= 3);
        let stops: Vec<u8> = world.told.values()
            .filter_map(|b| if let EventBody::UploadStop { status } = b { Some(*status) } else { None })
            .collect();
        let expected: &[&[u8]] = if world.lost.is_empty() { &[&[0], &[1, 2]] } else { &[&[1]] };
        prop_assert!(expected.contains(&stops.as_slice()), "305 says {:?}, lost {:?}", stops, world.lost);

        // Every segment that was closed is at the destination and in its closed playlist, or was told lost.
        let mut listed = BTreeSet::new();
        for (_, text) in world.newest_text.values() {
            let list = Playlist::parse(text).unwrap();
            prop_assert!(list.ended, "an open playlist is left behind");
            listed.extend(list.items.into_iter().map(|item| item.name));
        }
        prop_assert_eq!(&listed, &world.destination);
        prop_assert_eq!(listed.len() + world.lost.len(), world.closed.len());
        let slices = world.count(|b| matches!(b, EventBody::FileSlice { .. }));
        let infos = world.count(|b| matches!(b, EventBody::FileInfo { .. }));
        prop_assert_eq!(infos, world.newest_text.len(), "304 for each playlist");
        prop_assert!(slices >= infos);
    }
}

#[test]
fn the_fourth_failure_of_the_box_ends_the_task() {
    let mut world = World::new(false);
    record_something(&mut world);
    for n in 0..3 {
        world.restart(Memory::Whole);
        assert_eq!(world.task.phase, Phase::Active);
        record_something(&mut world);
        assert_eq!(world.task.takeover, n + 1);
    }
    world.restart(Memory::Whole);
    assert_eq!(world.count(|b| matches!(b, EventBody::Failover)), 3);
    world.finish();
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::TimedOut })), 1);
}

/// A crash loop burns nothing: the task is kept, waits longer each time, and records when the box stands.
#[test]
fn a_crash_loop_uses_up_no_takeover() {
    let mut world = World::new(false);
    record_something(&mut world);
    for _ in 0..20 {
        world.restart(Memory::Whole);
        world.step(Step::Wait(1));
    }
    assert_eq!((world.task.phase, world.task.takeover), (Phase::Active, 1));
    assert_eq!(world.count(|b| matches!(b, EventBody::Failover)), 1, "the first one is at once");
    world.step(Step::Enter(0));
    world.step(Step::TrackUp(0, true));
    assert!(world.lanes.is_empty(), "held: {:?}", world.task.deadline());
    world.step(Step::Wait(120));
    // taken up; its first media come, and nothing that plays is left of them
    let run = world.nth_lane(0).expect("taken up");
    world.apply(Input::FirstMedia { run, at: world.now });
    world.lanes.clear();
    world.restart(Memory::Whole);

    world.step(Step::Enter(0));
    world.step(Step::TrackUp(0, true));
    world.step(Step::Wait(120));
    assert_eq!((world.lanes.len(), world.task.takeover), (1, 1), "taken up under the names that nobody used");
    let began = world.now;
    world.step(Step::Close(0));
    while !world.spool_orders.is_empty() {
        world.step(Step::Spooled(0));
    }
    let slices = world.count(|b| matches!(b, EventBody::FileSlice { begin, .. } if *begin == began));
    assert_eq!(slices, 1, "what recorded nothing leaves no beginning behind");
    assert!(world.task.files().iter().any(|file| file.begin == began && file.file_name.starts_with("ha1_")));
}

/// A task whose lanes bring the box down before they record anything does not do so for ever.
#[test]
fn a_task_that_brings_the_box_down_is_given_up() {
    let mut world = World::new(false);
    let mut takeovers = 0;
    while world.task.phase == Phase::Active {
        world.restart(Memory::Whole);
        world.step(Step::Enter(0));
        world.step(Step::TrackUp(0, true));
        world.step(Step::Wait(120));
        // its media never become a file that plays
        world.lanes.clear();
        takeovers += 1;
        assert!(takeovers < 20, "it ends");
    }
    assert_eq!(takeovers, 11);
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::TimedOut })), 1);
}

#[test]
fn nobody_in_the_room_for_the_idle_time_ends_it() {
    let mut world = World::new(false);
    world.step(Step::Wait(29));
    assert_eq!(world.task.phase, Phase::Active);
    world.step(Step::Enter(0));
    world.step(Step::Wait(39));
    assert_eq!(world.task.phase, Phase::Active, "somebody who sends nothing keeps the task alive");
    world.step(Step::Leave(0));
    world.step(Step::Wait(30));
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::IdleTimeout })), 1);
    assert_eq!(world.task.phase, Phase::Done);
}

#[test]
fn upload_errors_of_days_are_told_once_in_their_time_of_quiet_each_code_apart() {
    let mut world = World::new(false);
    let quiet = Policy::default().error_quiet;
    let days = Duration::from_secs(3 * 86_400);
    let began = world.now;
    let (mut told, mut tries) = (Vec::<(String, Timestamp)>::new(), 0u64);
    while world.now.since(began) < days {
        // each of thousands of files fails with words of its own, by two codes in turn and now and then by any other
        let code = match tries % 50 {
            49 => format!("Odd{tries}"),
            n if n % 2 == 0 => "ConnectionError".into(),
            _ => "SlowDown".into(),
        };
        let errors = |world: &World| world.count(|b| matches!(b, EventBody::UploadError { .. }));
        let before = errors(&world);
        let message = format!("file {tries} of request {}", tries * 7);
        world.apply(Input::Fate(Fate::UploadFailed { code: code.clone(), message }));
        if errors(&world) > before {
            told.push((code, world.now));
        }
        tries += 1;
        world.now = world.now.plus(Duration::from_secs(7));
    }
    let windows = usize::try_from(days.as_secs() / quiet.as_secs() + 1).unwrap();
    for code in ["ConnectionError", "SlowDown"] {
        let times: Vec<Timestamp> = told.iter().filter(|(c, _)| c == code).map(|(_, at)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= quiet), "{code} came too early");
        assert!((windows - 10..=windows).contains(&times.len()), "{code} was told {} times", times.len());
    }
    assert!(told.len() <= windows * 8, "{} of {tries} were told", told.len());
}
