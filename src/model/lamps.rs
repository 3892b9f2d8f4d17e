//! What the box's lights show: from the facts to a state of each light, and from a state to its rhythm.
//!
//! Owns: the one table of states and rhythms; which fact wins. Must not touch: lamps, clocks: how long a state has been
//! shown is an argument.
//! Law: no two states of one light share a rhythm, so that nobody needs to tell colours apart; a light that a living box
//! drives is dark only where dark is the state, and never steadily lit, so that a light left lit by a dead box is seen to
//! be; no light flashes more than three times within a second (WCAG 2.3.1); a whole cycle takes no more than 3 s.

use std::time::Duration;

/// The lights, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Light {
    /// power and health
    Power,
    Recording,
    Upload,
}

impl Light {
    pub const ALL: [Light; 3] = [Light::Power, Light::Recording, Light::Upload];

    pub fn name(self) -> &'static str {
        match self {
            Light::Power => "power",
            Light::Recording => "recording",
            Light::Upload => "upload",
        }
    }
}

/// Where in its life the box is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    #[default]
    Starting,
    Running,
    Stopping,
}

/// What the recordings are at, the liveliest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Recording {
    /// no recording is asked for
    #[default]
    Nothing,
    /// one is, and nobody is there to be recorded
    Waiting,
    /// every one that is asked for is paused
    Paused,
    /// something is taken
    Running,
}

/// Everything that the lights know of the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    pub stage: Stage,
    /// A part has failed: nothing is recorded, or soon will not be.
    pub failed: bool,
    /// A part wants to be looked at, and no other light says so.
    pub degraded: bool,
    /// The disk is nearly full.
    pub disk_low: bool,
    /// The box's own program is being replaced: pulling the plug now would hurt.
    pub updating: bool,
    pub recording: Recording,
    /// Somebody who is recorded is not heard, or not seen.
    pub silent: bool,
    pub blind: bool,
    /// A recording runs, and its files do not grow.
    pub unwritten: bool,
    /// Files are on their way to their destination.
    pub uploading: bool,
    /// The oldest has waited for longer than it should.
    pub backlog: bool,
    /// A destination that something waits for does not take it.
    pub unreachable: bool,
}

/// What one light says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Identify,
    // power
    Off,
    Starting,
    Well,
    Attention,
    DiskLow,
    Updating,
    Stopping,
    Failed,
    // recording
    NotRecording,
    Waiting,
    Paused,
    Recording,
    NoSound,
    NoPicture,
    NeitherSoundNorPicture,
    NotWritten,
    // upload
    NothingToUpload,
    Uploading,
    Backlog,
    Unreachable,
}

/// Lit and dark by turns, in milliseconds, beginning lit, again and again. Empty: dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm(pub &'static [u16]);

const DARK: Rhythm = Rhythm(&[]);
/// Lit, with a wink: all is as it should be.
const WINK: Rhythm = Rhythm(&[2800, 200]);
/// One short flash and a long pause.
const ONCE: Rhythm = Rhythm(&[200, 1800]);
const TWICE: Rhythm = Rhythm(&[200, 200, 200, 1400]);
const THRICE: Rhythm = Rhythm(&[200, 200, 200, 200, 200, 1000]);
/// Slow and even.
const SLOW: Rhythm = Rhythm(&[700, 700]);
/// Fast and even; the only one that a kernel's timer has to keep up without the box.
const FAST: Rhythm = Rhythm(&[FAST_MS, FAST_MS]);
const LONG_SHORT: Rhythm = Rhythm(&[900, 300, 300, 900]);
/// Five flashes and a pause.
const FIVE: Rhythm = Rhythm(&[170, 170, 170, 170, 170, 170, 170, 170, 170, 680]);

const FAST_MS: u16 = 250;
/// Half a cycle of a failed box's power light.
pub const FAILED_HALF: Duration = Duration::from_millis(FAST_MS as u64);

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub light: Light,
    pub state: State,
    pub rhythm: Rhythm,
    /// One word for scripts.
    pub name: &'static str,
    /// For people.
    pub says: &'static str,
}

const fn row(light: Light, state: State, rhythm: Rhythm, name: &'static str, says: &'static str) -> Row {
    Row { light, state, rhythm, name, says }
}

/// Every state of every light.
pub const TABLE: &[Row] = &[
    row(Light::Power, State::Off, DARK, "off", "no power, or the box does not work"),
    row(Light::Power, State::Starting, SLOW, "starting", "the box starts"),
    row(Light::Power, State::Well, WINK, "well", "the box is well"),
    row(Light::Power, State::Attention, TWICE, "attention", "it works, and wants to be looked at"),
    row(Light::Power, State::DiskLow, THRICE, "disk-low", "its disk is nearly full"),
    row(Light::Power, State::Updating, LONG_SHORT, "updating", "it updates itself: leave the plug in"),
    row(Light::Power, State::Stopping, ONCE, "stopping", "it shuts down: leave the plug in"),
    row(Light::Power, State::Failed, FAST, "failed", "it has failed: nothing is recorded"),
    row(Light::Power, State::Identify, FIVE, "identify", "this is the box that somebody looks for"),
    row(Light::Recording, State::NotRecording, DARK, "not-recording", "nothing is recorded"),
    row(Light::Recording, State::Waiting, ONCE, "waiting", "it will record, and waits for people"),
    row(Light::Recording, State::Paused, LONG_SHORT, "paused", "paused: nothing is recorded until it goes on"),
    row(Light::Recording, State::Recording, WINK, "recording", "it records"),
    row(Light::Recording, State::NoSound, TWICE, "no-sound", "it records, and somebody is not heard"),
    row(Light::Recording, State::NoPicture, THRICE, "no-picture", "it records, and somebody is not seen"),
    row(
        Light::Recording,
        State::NeitherSoundNorPicture,
        SLOW,
        "no-sound-no-picture",
        "it records, and neither sound nor picture comes",
    ),
    row(Light::Recording, State::NotWritten, FAST, "not-written", "it should record, and nothing is written"),
    row(Light::Recording, State::Identify, FIVE, "identify", "this is the box that somebody looks for"),
    row(Light::Upload, State::NothingToUpload, DARK, "nothing-to-upload", "everything is where it belongs"),
    row(Light::Upload, State::Uploading, WINK, "uploading", "files are on their way"),
    row(Light::Upload, State::Backlog, TWICE, "backlog", "files wait for longer than they should; they are safe here"),
    row(Light::Upload, State::Unreachable, FAST, "unreachable", "the storage takes nothing; files are safe here"),
    row(Light::Upload, State::Identify, FIVE, "identify", "this is the box that somebody looks for"),
];

/// What a light says of a box that works.
pub fn state(light: Light, facts: &Facts) -> State {
    match light {
        Light::Power => power(facts),
        Light::Recording => recording(facts),
        Light::Upload if facts.unreachable => State::Unreachable,
        Light::Upload if facts.backlog => State::Backlog,
        Light::Upload if facts.uploading => State::Uploading,
        Light::Upload => State::NothingToUpload,
    }
}

/// What keeps a hand from the plug comes first, then what is worst.
fn power(facts: &Facts) -> State {
    match facts.stage {
        _ if facts.updating => State::Updating,
        Stage::Stopping => State::Stopping,
        _ if facts.failed => State::Failed,
        Stage::Starting => State::Starting,
        Stage::Running if facts.disk_low => State::DiskLow,
        Stage::Running if facts.degraded => State::Attention,
        Stage::Running => State::Well,
    }
}

fn recording(facts: &Facts) -> State {
    match facts.recording {
        Recording::Nothing => State::NotRecording,
        Recording::Waiting => State::Waiting,
        Recording::Paused => State::Paused,
        Recording::Running if facts.unwritten => State::NotWritten,
        Recording::Running => match (facts.silent, facts.blind) {
            (true, true) => State::NeitherSoundNorPicture,
            (true, false) => State::NoSound,
            (false, true) => State::NoPicture,
            (false, false) => State::Recording,
        },
    }
}

/// How a light shows a state; dark where the state is none of its own.
pub fn rhythm(light: Light, state: State) -> Rhythm {
    TABLE.iter().find(|row| row.light == light && row.state == state).map_or(DARK, |row| row.rhythm)
}

/// What a light shows of these facts, by the name of its row.
pub fn shown(light: Light, facts: &Facts) -> &'static str {
    let state = state(light, facts);
    let row = TABLE.iter().find(|row| row.light == light && row.state == state);
    row.expect("every state of a light has its row: a test sees to it").name
}

/// The row of a state by its name for scripts; names are one light's each, but for `identify`, which is all lights'.
pub fn named(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

impl Rhythm {
    /// Whether the light is lit so long after the state began, and for how long that stays so; `None`: for ever.
    pub fn at(self, shown: Duration) -> (bool, Option<Duration>) {
        let cycle = self.cycle().as_nanos();
        if cycle == 0 {
            return (false, None);
        }
        let mut into = shown.as_nanos() % cycle;
        for (i, ms) in self.0.iter().enumerate() {
            let phase = u128::from(*ms) * 1_000_000;
            if into < phase {
                let left = u64::try_from(phase - into).expect("a phase is some 65 s at most");
                return (i % 2 == 0, Some(Duration::from_nanos(left)));
            }
            into -= phase;
        }
        unreachable!("the phases are the whole cycle")
    }

    pub fn cycle(self) -> Duration {
        self.0.iter().map(|ms| Duration::from_millis(u64::from(*ms))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Whether people could take one for the other: as many phases, and none of them half as long again.
    fn alike(a: Rhythm, b: Rhythm) -> bool {
        let close = |a: u16, b: u16| u32::from(a.max(b)) * 2 < u32::from(a.min(b)) * 3;
        let turned = |by: usize| (0..a.0.len()).all(|i| close(a.0[i], b.0[(i + by) % b.0.len()]));
        // a rhythm has no beginning for whoever looks up at it; lit phases stay lit ones
        a.0.len() == b.0.len() && (a.0.is_empty() || (0..b.0.len()).step_by(2).any(turned))
    }

    #[test]
    fn no_two_states_of_a_light_share_a_rhythm() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in TABLE[i + 1..].iter().filter(|b| b.light == a.light) {
                assert!(a.state != b.state && a.name != b.name, "{a:?} {b:?}");
                assert!(!alike(a.rhythm, b.rhythm), "{:?}: {} and {} look alike", a.light, a.name, b.name);
            }
        }
        assert!(alike(TWICE, Rhythm(&[200, 1400, 200, 200])), "the comparison sees a turned rhythm");
        assert!(alike(FAST, Rhythm(&[300, 300])) && !alike(FAST, SLOW));
    }

    #[test]
    fn a_rhythm_is_lit_and_dark_by_turns_and_short_enough_to_be_seen_whole() {
        for row in TABLE {
            assert!(row.rhythm.0.len().is_multiple_of(2), "{}", row.name);
            assert!(row.rhythm.cycle() <= Duration::from_secs(3), "{}", row.name);
            assert!(row.rhythm.0.iter().all(|ms| *ms >= 150), "{}: too short to be seen", row.name);
        }
        assert_eq!(named("failed").map(|row| row.rhythm), Some(Rhythm(&[FAST_MS, FAST_MS])));
    }

    #[test]
    fn a_state_that_is_never_shown_is_none() {
        let mut seen = BTreeSet::new();
        for bits in 0..1_u32 << 9 {
            let bit = |n: u32| bits & (1 << n) != 0;
            for stage in [Stage::Starting, Stage::Running, Stage::Stopping] {
                for recording in [Recording::Nothing, Recording::Waiting, Recording::Paused, Recording::Running] {
                    let facts = Facts {
                        stage,
                        recording,
                        failed: bit(0),
                        degraded: bit(1),
                        disk_low: bit(2),
                        updating: bit(3),
                        silent: bit(4),
                        blind: bit(5),
                        unwritten: bit(6),
                        uploading: bit(7),
                        backlog: bit(8),
                        unreachable: bit(0) && bit(8),
                    };
                    for light in Light::ALL {
                        let state = state(light, &facts);
                        assert!(
                            TABLE.iter().any(|row| (row.light, row.state) == (light, state)),
                            "{light:?} {state:?}"
                        );
                        seen.insert((light, state));
                    }
                }
            }
        }
        // a dead box shows the one, a hand that asks the other
        let unseen = TABLE.iter().filter(|row| !seen.contains(&(row.light, row.state)));
        assert!(unseen.clone().all(|row| matches!(row.state, State::Off | State::Identify)), "{:?}", unseen.count());
    }

    #[test]
    fn the_worst_is_shown() {
        let well = Facts { stage: Stage::Running, ..Facts::default() };
        let power = |facts: Facts| state(Light::Power, &facts);
        assert_eq!(power(well), State::Well);
        assert_eq!(power(Facts { degraded: true, disk_low: true, ..well }), State::DiskLow);
        assert_eq!(power(Facts { failed: true, disk_low: true, ..well }), State::Failed);
        assert_eq!(power(Facts { failed: true, stage: Stage::Starting, ..well }), State::Failed);
        assert_eq!(power(Facts { failed: true, updating: true, ..well }), State::Updating);
        assert_eq!(power(Facts { stage: Stage::Stopping, failed: true, ..well }), State::Stopping);
        let recording = |facts: Facts| state(Light::Recording, &facts);
        let running = Facts { recording: Recording::Running, ..well };
        assert_eq!(recording(Facts { silent: true, ..well }), State::NotRecording);
        assert_eq!(recording(Facts { silent: true, blind: true, ..running }), State::NeitherSoundNorPicture);
        assert_eq!(recording(Facts { silent: true, unwritten: true, ..running }), State::NotWritten);
        let upload = |facts: Facts| state(Light::Upload, &facts);
        assert_eq!(upload(Facts { uploading: true, backlog: true, ..well }), State::Backlog);
        assert_eq!(upload(Facts { uploading: true, backlog: true, unreachable: true, ..well }), State::Unreachable);
    }

    proptest! {
        #[test]
        fn no_light_flashes_more_than_three_times_in_a_second(row in 0..TABLE.len(), from_ms in 0_u64..6000) {
            let rhythm = TABLE[row].rhythm;
            let lit = |ms: u64| rhythm.at(Duration::from_millis(ms)).0;
            let begins = (from_ms..from_ms + 1000).filter(|ms| lit(*ms) && (*ms == 0 || !lit(ms - 1))).count();
            prop_assert!(begins <= 3, "{begins} flashes from {from_ms} ms");
        }

        #[test]
        fn a_phase_lasts_as_long_as_is_said(row in 0..TABLE.len(), at_us in 0_u64..10_000_000) {
            let rhythm = TABLE[row].rhythm;
            let at = Duration::from_micros(at_us);
            let (lit, left) = rhythm.at(at);
            match left {
                None => prop_assert!(!lit && rhythm.0.is_empty()),
                Some(left) => {
                    prop_assert!(!left.is_zero());
                    prop_assert_eq!(rhythm.at(at + left - Duration::from_nanos(1)).0, lit);
                    prop_assert_eq!(rhythm.at(at + left).0, !lit);
                }
            }
        }
    }
}
