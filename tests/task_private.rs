//! The recording machine and what must not be kept: pauses, discards, and files that end with an absence.

mod walk;

use std::time::Duration;

use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::playlist::Playlist;
use holdfast::model::task::{Input, Phase};
use proptest::prelude::*;
use walk::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever has happened before and whatever happens then: nothing of a discarded task is left, it is told once in
    /// which order it went, and it never comes back.
    #[test]
    fn a_discarded_task_goes_whole_on_every_walk(
        before in proptest::collection::vec(step(), 1..80),
        after in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(false);
        before.into_iter().for_each(|step| world.step(step));
        let (over, left) = (world.task.phase == Phase::Done, matches!(world.task.phase, Phase::Draining { .. }));
        world.apply(Input::Discard { by: "AKIDEXAMPLE".into() });
        prop_assert_eq!(world.task.is_discarded(), !over);
        after.into_iter().for_each(|step| world.step(step));
        world.finish();

        let gone = world.count(|b| matches!(b, EventBody::Erased { receipt } if receipt.by == "AKIDEXAMPLE"));
        let cleared = world.count(|b| matches!(b, EventBody::RecorderDiscarded { .. }));
        let stopped = world.count(|b| matches!(b, EventBody::RecorderStop { .. }));
        let expected = if over { (0, 0, 1) } else if left { (1, 0, 1) } else { (1, 1, 0) };
        prop_assert_eq!((gone, cleared, stopped), expected);
        if !over {
            prop_assert!(world.destination.is_empty() && world.shelf.is_empty() && world.cleared);
            let last = world.told.values().next_back().map(EventBody::event_type);
            prop_assert_eq!(last, Some(305));
        }
    }
}

/// What was said before and after is there, as two stretches of one list.
#[test]
fn a_pause_is_a_discontinuity_and_repeating_it_changes_nothing() {
    let mut world = World::new(false);
    record_something(&mut world);
    world.step(Step::Pause);
    world.step(Step::Pause);
    assert!(world.task.is_paused());
    // what was captured before the pause is told after it
    world.step(Step::Close(0));
    world.step(Step::End(0, false));
    world.step(Step::TrackUp(1, true));
    world.step(Step::Enter(1));
    world.step(Step::TrackUp(1, true));
    assert!(world.lanes.is_empty(), "nobody is recorded");
    world.step(Step::Wait(20));
    world.restart(Memory::Whole);
    assert!(world.task.is_paused(), "it survives a restart");
    world.restart(Memory::Gone);
    assert!(world.task.is_paused(), "and the loss of the index");
    world.step(Step::Enter(0));
    world.step(Step::TrackUp(0, true));
    world.step(Step::Wait(120));
    assert!(world.lanes.is_empty());
    world.step(Step::Resume);
    world.step(Step::Resume);
    assert_eq!(world.lanes.len(), 1);
    world.step(Step::Close(0));
    world.step(Step::Pause);
    world.step(Step::End(0, false));
    world.step(Step::Resume);
    world.step(Step::Close(0));
    world.finish();
    let breaks: Vec<Vec<bool>> = (world.newest_text.values())
        .map(|(_, text)| Playlist::parse(text).unwrap().items.iter().map(|item| item.discontinuity).collect())
        .collect();
    assert_eq!(breaks, [vec![false, false], vec![false, true]]);
}

/// Who is back within the wait goes on in the same list; later, the list is closed and another one begins.
#[test]
fn a_publisher_who_was_away_for_long_begins_another_file() {
    let mut world = World::new(false);
    world.task.spec.resume_wait = Some(Duration::from_secs(10));
    record_something(&mut world);
    // somebody else stays, so that the task goes on
    world.step(Step::Enter(1));
    let leave_and_wait = |world: &mut World, seconds: u16| {
        world.step(Step::Leave(0));
        while !world.lanes.is_empty() {
            world.step(Step::End(0, false));
        }
        world.step(Step::Wait(seconds));
        world.step(Step::Enter(0));
        world.step(Step::TrackUp(0, true));
        world.step(Step::Close(0));
    };
    leave_and_wait(&mut world, 9);
    assert_eq!(world.task.files().len(), 1);
    world.step(Step::Pause);
    world.step(Step::End(0, false));
    world.step(Step::Wait(30));
    world.step(Step::Resume);
    world.step(Step::Close(0));
    assert_eq!(world.task.files().len(), 1, "a pause is no absence");
    leave_and_wait(&mut world, 10);
    for _ in 0..30 {
        for step in [Step::Spooled(0), Step::Uploaded(0), Step::PlaylistUp(0)] {
            world.step(step);
        }
    }
    let names: Vec<String> = world.task.files().into_iter().map(|file| file.file_name).collect();
    let stem = "1400000001_12345__UserId_s_dXNlcjA.__UserId_e_main_audio";
    assert_eq!(names, [format!("{stem}.m3u8"), format!("{stem}_2.m3u8")]);
    let list = |world: &World, n: usize| Playlist::parse(&world.newest_text[&names[n]].1).unwrap();
    assert!(list(&world, 0).ended && list(&world, 0).items.len() == 3, "the first is closed while the task goes on");
    assert!(!list(&world, 1).ended && !list(&world, 1).items[0].discontinuity);

    // it is known after restarts, of the index and of the folder
    for memory in [Memory::Whole, Memory::Gone] {
        world.restart(memory);
        let after: Vec<String> = world.task.files().into_iter().map(|file| file.file_name).collect();
        assert_eq!(after, names);
    }
    world.finish();
    assert!(list(&world, 0).ended && list(&world, 1).ended);
}

/// An empty room ends a task that is paused like any other.
#[test]
fn a_paused_task_is_idle_as_usual() {
    let mut world = World::new(false);
    record_something(&mut world);
    world.step(Step::Pause);
    world.step(Step::End(0, false));
    world.step(Step::Spooled(0));
    world.step(Step::Leave(0));
    world.step(Step::Wait(30));
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::IdleTimeout })), 1);
}
