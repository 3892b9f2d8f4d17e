//! The waiting line of uploads: single cases, and laws over random moves.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits { at_once: usize::MAX, per_line: 2, segments: true };

fn waiting(task: &str, object: &str) -> Waiting {
    Waiting { task: TaskId::parse(task).unwrap(), object: object.into() }
}

fn leased(backlog: &mut Backlog, now: Duration) -> Option<String> {
    backlog.lease(now, LIMITS).map(|lease| lease.waiting.object)
}

#[test]
fn oldest_first() {
    let mut backlog = Backlog::default();
    backlog.put(waiting("t1", "second"), "line", Class::Segment, 2, 1);
    backlog.put(waiting("t2", "first"), "line", Class::Segment, 1, 1);
    backlog.put(waiting("t1", "third"), "line", Class::Segment, 3, 1);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("first"));
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("second"));
    assert_eq!(leased(&mut backlog, SECOND), None, "two at once of one destination");
    backlog.done(&waiting("t2", "first"), SECOND);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("third"));
}

#[test]
fn playlists_and_segments_take_turns() {
    let mut backlog = Backlog::default();
    for n in 0..3 {
        backlog.put(waiting("t", &format!("s{n}")), "line", Class::Segment, n, 1);
        backlog.put(waiting("t", &format!("p{n}")), "line", Class::Playlist, 10 + n, 1);
    }
    let order: Vec<_> =
        std::iter::from_fn(|| backlog.lease(SECOND, Limits::per_line(9))).map(|l| l.waiting.object).collect();
    assert_eq!(order, ["p0", "s0", "p1", "s1", "p2", "s2"]);
}

#[test]
fn a_destination_that_fails_waits_and_is_probed_and_others_go_on() {
    let mut backlog = Backlog::default();
    for n in 0..3 {
        backlog.put(waiting("t", &format!("bad{n}")), "bad", Class::Segment, n, 1);
    }
    backlog.put(waiting("u", "good"), "good", Class::Segment, 9, 1);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("bad0"));
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("good"), "the one with fewer in flight");
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("bad1"));
    backlog.failed(&waiting("t", "bad0"), Fault::Line, 5 * SECOND);
    backlog.failed(&waiting("t", "bad1"), Fault::Line, 4 * SECOND);
    assert_eq!(leased(&mut backlog, SECOND), None);
    assert_eq!(backlog.next_wake(SECOND), Some(5 * SECOND));

    let probe = backlog.lease(5 * SECOND, LIMITS).unwrap();
    assert_eq!((probe.waiting.object.as_str(), probe.attempts, probe.line_failures), ("bad0", 1, 2));
    assert_eq!(leased(&mut backlog, 5 * SECOND), None, "one probe at a time");
    backlog.done(&probe.waiting, 5 * SECOND);
    assert_eq!(leased(&mut backlog, 5 * SECOND).as_deref(), Some("bad1"));
    assert_eq!(leased(&mut backlog, 5 * SECOND).as_deref(), Some("bad2"));
}

#[test]
fn a_file_that_fails_by_itself_holds_nobody_up() {
    let mut backlog = Backlog::default();
    backlog.put(waiting("t", "cursed"), "line", Class::Segment, 1, 1);
    backlog.put(waiting("t", "fine"), "line", Class::Segment, 2, 1);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("cursed"));
    backlog.failed(&waiting("t", "cursed"), Fault::File, 9 * SECOND);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("fine"));
    assert_eq!(backlog.next_wake(SECOND), Some(9 * SECOND));
    assert_eq!(leased(&mut backlog, 9 * SECOND).as_deref(), Some("cursed"));
}

#[test]
fn a_newer_playlist_waits_for_the_older_one_in_flight() {
    let mut backlog = Backlog::default();
    backlog.put(waiting("t", "list"), "line", Class::Playlist, 1, 10);
    assert!(backlog.lease(SECOND, LIMITS).is_some());
    backlog.put(waiting("t", "list"), "line", Class::Playlist, 2, 20);
    assert_eq!(backlog.lease(SECOND, LIMITS), None);
    backlog.again(&waiting("t", "list"), SECOND);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("list"));
    let task = TaskId::parse("t").unwrap();
    assert_eq!(backlog.pending(&task), Pending { segments: 0, playlists: 1, bytes: 20 });
    backlog.done(&waiting("t", "list"), SECOND);
    assert!(backlog.pending(&task).is_empty());
}

#[test]
fn a_forgotten_task_leaves_the_others() {
    let mut backlog = Backlog::default();
    for (task, object) in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")] {
        backlog.put(waiting(task, object), "line", Class::Segment, 1, 1);
    }
    backlog.remove_task(&TaskId::parse("b").unwrap());
    assert_eq!(backlog.total(), Pending { segments: 2, playlists: 0, bytes: 2 });
}

#[derive(Debug, Clone)]
enum Move {
    Put {
        line: u8,
        object: u8,
        playlist: bool,
    },
    Lease,
    Land(usize),
    /// Of one that has landed: written down, or not.
    Settle(usize, bool),
    Done(usize),
    Again(usize),
    Fail(usize, u8, u8),
    Return(usize),
    Live(u8),
    Wait(u8),
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (0..3u8, 0..12u8, any::<bool>())
            .prop_map(|(line, object, playlist)| Move::Put { line, object, playlist }),
        4 => Just(Move::Lease),
        2 => (0..9usize).prop_map(Move::Land),
        2 => (0..9usize, any::<bool>()).prop_map(|(n, done)| Move::Settle(n, done)),
        1 => (0..9usize).prop_map(Move::Done),
        1 => (0..9usize).prop_map(Move::Again),
        2 => (0..9usize, 0..3u8, any::<u8>()).prop_map(|(n, line, wait)| Move::Fail(n, line, wait)),
        1 => (0..9usize).prop_map(Move::Return),
        1 => any::<u8>().prop_map(Move::Wait),
        1 => (0..8u8).prop_map(Move::Live),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_in_flight_twice(moves in prop::collection::vec(any_move(), 0..200)) {
        let mut backlog = Backlog::default();
        let (mut now, mut order) = (Duration::ZERO, 0);
        let (mut flying, mut there) = (Vec::<Waiting>::new(), BTreeSet::<Waiting>::new());
        let mut landed = Vec::<Waiting>::new();
        for step in moves {
            let pick = |n: usize, flying: &mut Vec<Waiting>| {
                (!flying.is_empty()).then(|| flying.swap_remove(n % flying.len()))
            };
            match step {
                Move::Put { line, object, playlist } => {
                    order += 1;
                    let who = waiting(&format!("t{line}"), &format!("o{object}{playlist}"));
                    let class = if playlist { Class::Playlist } else { Class::Segment };
                    backlog.put(who.clone(), &line.to_string(), class, order, 1);
                    there.insert(who);
                }
                Move::Lease => if let Some(lease) = backlog.lease(now, LIMITS) {
                    prop_assert!(!flying.contains(&lease.waiting) && !landed.contains(&lease.waiting));
                    flying.push(lease.waiting.clone());
                    let of_line = flying.iter().filter(|w| w.task == lease.waiting.task).count();
                    let segments = flying.iter().filter(|w| w.task == lease.waiting.task && w.object.ends_with("false"));
                    prop_assert!(of_line <= 3 && segments.count() <= 2);
                },
                Move::Land(n) => if let Some(who) = pick(n, &mut flying) {
                    backlog.landed(&who, now);
                    landed.push(who);
                },
                Move::Settle(n, done) => if let Some(who) = pick(n, &mut landed) {
                    if done {
                        backlog.done(&who, now);
                        there.remove(&who);
                    } else {
                        backlog.failed(&who, Fault::File, now + SECOND);
                    }
                },
                Move::Done(n) => if let Some(who) = pick(n, &mut flying) {
                    backlog.done(&who, now);
                    there.remove(&who);
                },
                Move::Again(n) => if let Some(who) = pick(n, &mut flying) { backlog.again(&who, now) },
                Move::Fail(n, line, wait) => if let Some(who) = pick(n, &mut flying) {
                    let fault = [Fault::Line, Fault::File, Fault::Either(SECOND)][usize::from(line)];
                    backlog.failed(&who, fault, now + Duration::from_secs(wait.into()));
                },
                Move::Return(n) => if let Some(who) = pick(n, &mut flying) { backlog.returned(&who) },
                Move::Live(bits) => {
                    let live = (0..3u8).filter(|n| bits >> n & 1 == 1);
                    backlog.set_live(live.map(|n| TaskId::parse(format!("t{n}").as_str()).unwrap()).collect());
                }
                Move::Wait(secs) => now += Duration::from_secs(secs.into()),
            }
            prop_assert_eq!(backlog.total().segments + backlog.total().playlists, there.len());
        }
        // everything still there can be carried in the end, one way or the other
        for who in flying.into_iter().chain(landed) {
            prop_assert!(!backlog.remove_idle(&who));
            backlog.returned(&who);
        }
        while let Some(at) = backlog.next_wake(now).filter(|_| !there.is_empty()) {
            now = now.max(at);
            while let Some(lease) = backlog.lease(now, LIMITS) {
                prop_assert!(there.remove(&lease.waiting));
                backlog.done(&lease.waiting, now);
            }
        }
        while let Some(lease) = backlog.lease(now, LIMITS) {
            prop_assert!(there.remove(&lease.waiting));
            backlog.done(&lease.waiting, now);
        }
        prop_assert!(there.is_empty());
    }

    #[test]
    fn backoff_grows_to_its_cap(first in 0..10_000u64, longest in 0..1_000_000u64, spread in 0.0..=1.0f64) {
        let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
        let mut before = Duration::ZERO;
        for attempts in 1..40 {
            let wait = backoff(attempts, first, longest, spread);
            prop_assert!(wait >= before && wait <= longest);
            before = wait;
        }
    }
}

#[test]
fn backoff_doubles() {
    let waits: Vec<u64> = (1..=6).map(|n| backoff(n, SECOND, 10 * SECOND, 0.0).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    assert_eq!(backoff(1, SECOND, 10 * SECOND, 1.0), Duration::from_millis(500));
    assert_eq!(backoff(u32::MAX, SECOND, 300 * SECOND, 0.0), 300 * SECOND);
}

/// A destination with an old backlog of 200 files, and `tasks` that are being recorded, whose segments come in the order
/// in which they are called.
fn overloaded(tasks: usize) -> Backlog {
    let mut backlog = Backlog::default();
    for n in 0..200 {
        backlog.put(waiting("old", &format!("{n:03}")), "line", Class::Segment, n, 1);
    }
    backlog.set_live((0..tasks).map(|n| TaskId::parse(format!("live{n}").as_str()).unwrap()).collect());
    backlog
}

#[test]
fn every_fourth_segment_is_the_newest_of_one_task_after_the_other_that_is_recorded() {
    let mut backlog = overloaded(2);
    for n in 0..4u64 {
        for task in ["live0", "live1"] {
            backlog.put(waiting(task, &format!("{task}-{n}")), "line", Class::Segment, 200 + n, 1);
        }
    }
    let mut order = Vec::new();
    while order.len() < 16 {
        let lease = backlog.lease(SECOND, LIMITS).unwrap();
        backlog.done(&lease.waiting, SECOND);
        order.push(lease.waiting.object);
    }
    let expected = [
        "000", "001", "002", "live0-3", "003", "004", "005", "live1-3", "006", "007", "008", "live0-2", "009", "010",
        "011", "live1-2",
    ];
    assert_eq!(order, expected);

    // what is no longer recorded waits in its turn
    backlog.set_live(BTreeSet::new());
    let next: Vec<_> =
        std::iter::from_fn(|| backlog.lease(SECOND, Limits::per_line(9))).map(|l| l.waiting.object).collect();
    assert_eq!(next, ["012", "013", "014", "015", "016", "017", "018", "019", "020"]);
}

#[test]
fn what_has_landed_gives_its_place_to_the_next_and_stays_until_it_is_written_down() {
    let mut backlog = overloaded(0);
    let limits = Limits::per_line(1);
    let mut landed = Vec::new();
    while let Some(lease) = backlog.lease(SECOND, limits) {
        assert_eq!(backlog.lease(SECOND, limits), None, "one flies at a time");
        backlog.landed(&lease.waiting, SECOND);
        landed.push(lease.waiting);
    }
    assert_eq!(landed.len(), LANDED, "a disk that does not take it down stops it");
    assert_eq!(backlog.total().segments, 200);
    backlog.done(&landed[0], SECOND);
    assert_eq!(backlog.total().segments, 199);
    // the index refused it: it goes up once more
    backlog.failed(&landed[1], Fault::File, SECOND);
    assert_eq!(backlog.lease(SECOND, limits).unwrap().waiting, landed[1]);
}

#[test]
fn a_few_that_wait_go_oldest_first_recorded_or_not() {
    let mut backlog = Backlog::default();
    backlog.set_live([TaskId::parse("t").unwrap()].into());
    for n in 0..4u64 {
        backlog.put(waiting("t", &n.to_string()), "line", Class::Segment, n, 1);
    }
    let order: Vec<_> =
        std::iter::from_fn(|| backlog.lease(SECOND, Limits::per_line(9))).map(|l| l.waiting.object).collect();
    assert_eq!(order, ["0", "1", "2", "3"]);
}

#[test]
fn destinations_that_hang_give_their_places_back_and_others_take_turns() {
    let limits = Limits { at_once: 2, per_line: 2, segments: true };
    let mut backlog = Backlog::default();
    for (line, first) in [("dead", 0), ("a", 100), ("b", 200)] {
        for n in 0..20 {
            backlog.put(waiting(line, &format!("{line}{n:02}")), line, Class::Segment, first + n, 1);
        }
    }
    let taken = |backlog: &mut Backlog, now| backlog.lease(now, limits).map(|lease| lease.waiting);
    let first: Vec<_> = std::iter::from_fn(|| taken(&mut backlog, SECOND)).collect();
    assert_eq!(first, [waiting("a", "a00"), waiting("b", "b00")], "two places, two destinations");
    backlog.done(&first[0], SECOND);
    backlog.done(&first[1], SECOND);
    let second: Vec<_> = std::iter::from_fn(|| taken(&mut backlog, SECOND)).collect();
    assert_eq!(second, [waiting("dead", "dead00"), waiting("a", "a01")]);
    backlog.done(&second[1], 2 * SECOND);
    let third = taken(&mut backlog, 2 * SECOND).unwrap();
    assert_eq!(third, waiting("b", "b01"));
    backlog.done(&third, 3 * SECOND);
    // nothing of the dead one lands: it is no longer counted among those that are well
    assert_eq!(backlog.next_wake(3 * SECOND), Some(SECOND + SLOW));
    let late = SECOND + SLOW;
    let fourth: Vec<_> = std::iter::from_fn(|| taken(&mut backlog, late)).collect();
    assert_eq!(fourth, [waiting("a", "a02"), waiting("b", "b02"), waiting("dead", "dead01")]);
}

#[test]
fn a_file_that_the_storage_chokes_on_is_not_the_only_one_that_is_tried() {
    let mut backlog = Backlog::default();
    for n in 0..2 {
        backlog.put(waiting("t", &format!("s{n}")), "line", Class::Segment, n, 1);
    }
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("s0"));
    backlog.failed(&waiting("t", "s0"), Fault::Either(10 * SECOND), 2 * SECOND);
    assert_eq!(leased(&mut backlog, SECOND), None);
    assert_eq!(leased(&mut backlog, 2 * SECOND).as_deref(), Some("s1"));
    backlog.done(&waiting("t", "s1"), 2 * SECOND);
    assert_eq!(backlog.next_wake(2 * SECOND), Some(12 * SECOND));
    assert_eq!(leased(&mut backlog, 12 * SECOND).as_deref(), Some("s0"));
}

#[test]
fn while_segments_may_not_go_playlists_do() {
    let limits = Limits { segments: false, ..LIMITS };
    let mut backlog = Backlog::default();
    backlog.put(waiting("t", "s"), "line", Class::Segment, 1, 1);
    backlog.put(waiting("t", "p"), "line", Class::Playlist, 2, 1);
    assert_eq!(backlog.lease(SECOND, limits).unwrap().waiting.object, "p");
    assert_eq!(backlog.lease(SECOND, limits), None);
    assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("s"));
}

proptest! {
    /// Whatever comes in between: of four segments in a row at least one is of a task that is recorded while one of it
    /// waits, at least three are the oldest that wait while there are old ones, and nobody waits for ever.
    #[test]
    fn neither_the_old_nor_the_new_starve(arrivals in prop::collection::vec(0..4usize, 1..150)) {
        let mut backlog = overloaded(3);
        let mut order = 200u64;
        let mut there: BTreeSet<(u64, Waiting)> = (0..200).map(|n| (n, waiting("old", &format!("{n:03}")))).collect();
        let mut since_fresh = 0;
        let mut old_taken = 0;
        for arriving in &arrivals {
            for n in 0..*arriving {
                let who = waiting(&format!("live{n}"), &format!("{order:06}"));
                backlog.put(who.clone(), "line", Class::Segment, order, 1);
                there.insert((order, who));
                order += 1;
            }
            let lease = backlog.lease(SECOND, LIMITS).unwrap();
            backlog.done(&lease.waiting, SECOND);
            let oldest = there.first().unwrap().clone();
            let fresh = lease.waiting.task.as_str() != "old";
            let newest_of_task = there.iter().rev().find(|(_, w)| w.task == lease.waiting.task).unwrap().clone();
            if fresh {
                prop_assert_eq!(&lease.waiting, &newest_of_task.1);
                since_fresh = 0;
            } else {
                prop_assert_eq!(&lease.waiting, &oldest.1);
                old_taken += 1;
                since_fresh += 1;
                let one_waits = there.iter().any(|(_, w)| w.task.as_str() != "old");
                prop_assert!(!one_waits || since_fresh < FRESH_SEGMENTS + 1);
            }
            there.retain(|(_, w)| *w != lease.waiting);
        }
        prop_assert!(old_taken >= arrivals.len() * (FRESH_SEGMENTS - 1) / FRESH_SEGMENTS);
    }
}
