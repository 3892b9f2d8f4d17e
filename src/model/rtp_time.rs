//! From RTP time stamps to the box's media time: one clock per publisher, so that sound and picture stay together.
//!
//! Owns: the arithmetic of sender reports, arrival times and wrapping counters. Must not touch: packets, sockets.
//! Law: stamps of a track strictly rise, and they advance within 5 % of what the publisher's own clock says, except
//! where the publisher really paused.
//!
//! A sender report (RFC 3550 §6.4.1) says: "my wall clock was N when my media clock was R". So each track's time
//! stamps become the publisher's wall time, which all its tracks share; sound and picture are as exact to each other
//! as the publisher says they are, however its sound card's clock drifts. The publisher's wall clock in turn is laid
//! on the box's media time by the least delay with which its reports arrive: the network can only add to that.
//! Until the first report of a track, its packets' own arrivals stand in.

use std::collections::VecDeque;

use super::MediaTime;

/// NTP time as sender reports carry it: seconds since 1900 in 32.32 fixed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(pub u64);

impl NtpTime {
    pub fn nanos(self) -> i128 {
        (i128::from(self.0) * NANOS) >> 32
    }
    pub fn from_nanos(nanos: u128) -> NtpTime {
        NtpTime(((nanos << 32) / 1_000_000_000) as u64)
    }
}

const NANOS: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;

/// How far back the least delay is looked for: long enough to meet a quiet moment, short enough that a clock off by
/// 500 ppm moves only 7 ms in it.
const WINDOW: i128 = 15 * NANOS;
/// Slowest speed at which a delay is followed: more than any crystal drifts.
const FOLLOW_PPM: i128 = 1000;
/// For so long a lower delay is believed at once: the first packets of a session often come late.
const SETTLE: i128 = 10 * NANOS;
/// A larger error is worn off over so long.
const FOLLOW_OVER: i128 = 10 * NANOS;
/// A report further than this from what the one before it foretold is a step of the sender's clock, no drift.
const STEP: i128 = 100 * MILLI;
/// Stamps further than this behind what they should be jump there; nearer ones are let catch up.
const JUMP: i128 = 500 * MILLI;
/// Stamps advance between 95 % and 105 % of the media clock.
const SLEW: i128 = 20;
/// The least step from one frame to the next.
const TICK: i128 = 1_000;

/// Least value in a window, followed slowly.
#[derive(Debug, Clone)]
struct Floor {
    /// Rising in both time and value: a sample that is later and lower makes earlier ones pointless.
    samples: VecDeque<(i128, i128)>,
    current: i128,
    at: i128,
    began: i128,
}

impl Floor {
    fn new(at: i128, value: i128) -> Floor {
        Floor { samples: VecDeque::from([(at, value)]), current: value, at, began: at }
    }

    fn add(&mut self, at: i128, value: i128) {
        while self.samples.back().is_some_and(|(_, kept)| *kept >= value) {
            self.samples.pop_back();
        }
        self.samples.push_back((at, value));
        while self.samples.len() > 1 && self.samples.front().is_some_and(|(then, _)| at - then > WINDOW) {
            self.samples.pop_front();
        }
        let target = self.samples.front().map_or(value, |(_, least)| *least);
        let passed = (at - self.at).max(0);
        self.at = self.at.max(at);
        let error = target - self.current;
        if error < 0 && at - self.began < SETTLE {
            self.current = target;
            return;
        }
        let speed = (error.abs() * passed / FOLLOW_OVER).max(passed * FOLLOW_PPM / 1_000_000);
        self.current += error.clamp(-speed, speed);
    }

    fn shift(&mut self, by: i128) {
        self.current += by;
        for (_, value) in &mut self.samples {
            *value += by;
        }
    }
}

/// "Media clock `rtp` was sender time `ntp`", both unwrapped and in nanoseconds where they can be.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    rtp: i64,
    ntp: i128,
}

/// One track's media clock.
#[derive(Debug, Clone)]
struct RtpClock {
    rate: i128,
    /// Highest time stamp seen, unwrapped.
    rtp: Option<i64>,
    anchor: Option<Anchor>,
    /// Arrival minus media time, while there is no report.
    arrivals: Option<Floor>,
    /// Last stamp given out: media time, and media clock unless that began anew since.
    last: Option<(i128, Option<i64>)>,
}

impl RtpClock {
    fn unwrap(&mut self, rtp: u32) -> i64 {
        // One cycle up, so that what came before the first stamp seen is still positive.
        let reference = *self.rtp.get_or_insert(i64::from(rtp) + (1 << 32));
        reference + i64::from(rtp.wrapping_sub(reference as u32) as i32)
    }

    fn nanos(&self, ticks: i64) -> i128 {
        i128::from(ticks) * NANOS / self.rate
    }
}

/// A track of a [`SessionClock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackClock(usize);

/// The clock of one publisher and all its tracks.
#[derive(Debug, Clone, Default)]
pub struct SessionClock {
    /// Media time minus sender time.
    sender: Option<Floor>,
    tracks: Vec<RtpClock>,
}

impl SessionClock {
    /// `rate`: ticks per second of the track's RTP time stamps, above 0.
    pub fn add_track(&mut self, rate: u32) -> TrackClock {
        let rate = i128::from(rate.max(1));
        self.tracks.push(RtpClock { rate, rtp: None, anchor: None, arrivals: None, last: None });
        TrackClock(self.tracks.len() - 1)
    }

    /// A packet of the track arrived; in any order.
    pub fn arrived(&mut self, track: TrackClock, rtp: u32, at: MediaTime) {
        let Some(clock) = self.tracks.get_mut(track.0) else { return };
        let rtp = clock.unwrap(rtp);
        clock.rtp = clock.rtp.max(Some(rtp));
        if clock.anchor.is_none() {
            let at = i128::from(at.0);
            let offset = at - clock.nanos(rtp);
            match &mut clock.arrivals {
                // A media clock that leapt has nothing to do with its past.
                Some(floor) if (offset - floor.current).abs() < 60 * NANOS => floor.add(at, offset),
                floor => *floor = Some(Floor::new(at, offset)),
            }
        }
    }

    /// A sender report of the track arrived.
    pub fn report(&mut self, track: TrackClock, ntp: NtpTime, rtp: u32, at: MediaTime) {
        let Some(clock) = self.tracks.get_mut(track.0) else { return };
        // Senders that have no wall clock say 0 (RFC 3550 §6.4.1); there is nothing to learn from that.
        if ntp.0 == 0 {
            return;
        }
        let rtp = clock.unwrap(rtp);
        let mut ntp = ntp.nanos();
        let foretold = clock.anchor.map(|anchor| anchor.ntp + clock.nanos(rtp - anchor.rtp));
        if let Some(foretold) = foretold
            && (ntp - foretold).abs() > STEP
        {
            // The sender's wall clock was set: all its tracks move together, and what was stamped stays.
            // A media clock that paused or leapt leaves the reports' own delay as it was.
            let step = ntp - foretold;
            let delay = i128::from(at.0) - ntp;
            if self.sender.as_ref().is_some_and(|floor| (delay - floor.current).abs() > step.abs() / 2) {
                self.step(step);
            }
        } else if foretold.is_none()
            && let Some(floor) = &self.sender
            && (i128::from(at.0) - ntp - floor.current).abs() > 10 * NANOS
        {
            // A report from another epoch than the other tracks': some senders count from their start, track by
            // track. Then arrival is all that ties this track to the others.
            ntp = i128::from(at.0) - floor.current;
        }
        let delay = i128::from(at.0) - ntp;
        match &mut self.sender {
            Some(floor) => floor.add(i128::from(at.0), delay),
            floor => *floor = Some(Floor::new(i128::from(at.0), delay)),
        }
        let Some(clock) = self.tracks.get_mut(track.0) else { return };
        clock.anchor = Some(Anchor { rtp, ntp });
    }

    fn step(&mut self, by: i128) {
        if let Some(floor) = &mut self.sender {
            floor.shift(-by);
        }
        for anchor in self.tracks.iter_mut().filter_map(|clock| clock.anchor.as_mut()) {
            anchor.ntp += by;
        }
    }

    /// The media time of the track's frame `rtp`. To be asked once for each frame, in the track's order: each answer
    /// is later than the one before, except that the same `rtp` again gets the same answer.
    pub fn stamp(&mut self, track: TrackClock, rtp: u32) -> MediaTime {
        let Some(clock) = self.tracks.get_mut(track.0) else { return MediaTime(0) };
        let rtp = clock.unwrap(rtp);
        let wanted = match (clock.anchor, &self.sender, &clock.arrivals) {
            (Some(anchor), Some(sender), _) => anchor.ntp + clock.nanos(rtp - anchor.rtp) + sender.current,
            (_, _, Some(arrivals)) => clock.nanos(rtp) + arrivals.current,
            _ => clock.last.map_or(0, |(at, _)| at),
        };
        let at = match clock.last {
            None => wanted,
            Some((last, None)) => wanted.max(last + TICK),
            Some((last, Some(last_rtp))) if rtp == last_rtp => last,
            Some((last, Some(last_rtp))) => {
                let step = clock.nanos(rtp - last_rtp).max(0);
                if wanted - (last + step) > JUMP {
                    wanted
                } else {
                    wanted.clamp(last + (step - step / SLEW).max(TICK), last + (step + step / SLEW).max(TICK))
                }
            }
        };
        let at = at.max(0);
        clock.last = Some((at, Some(rtp)));
        MediaTime(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// The track's media clock began anew (another SSRC, a restarted encoder): what was learnt of it is forgotten,
    /// what was stamped is not.
    pub fn restart(&mut self, track: TrackClock) {
        let Some(clock) = self.tracks.get_mut(track.0) else { return };
        clock.rtp = None;
        clock.anchor = None;
        clock.arrivals = None;
        clock.last = clock.last.map(|(at, _)| (at, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A publisher in a simulation: true times in nanoseconds, clocks that drift, a network that delays.
    struct Publisher {
        /// sender's wall clock: parts per million fast, and how far it was set
        wall_ppm: i128,
        wall_set: i128,
        /// the sound card's clock against the truth
        audio_ppm: i128,
        seed: u64,
    }

    impl Publisher {
        fn random(&mut self, below: u64) -> u64 {
            self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.seed >> 33) % below
        }
        fn wall(&self, t: i128) -> NtpTime {
            let wall = 3_900_000_000 * NANOS + t + t * self.wall_ppm / 1_000_000 + self.wall_set;
            NtpTime::from_nanos(wall as u128)
        }
        fn audio(&self, t: i128) -> u32 {
            (4_294_000_000 + (t + t * self.audio_ppm / 1_000_000) * 48_000 / NANOS) as u32
        }
        fn video(&self, t: i128) -> u32 {
            (123_456 + (t + t * self.wall_ppm / 1_000_000) * 90_000 / NANOS) as u32
        }
        fn delay(&mut self, least: i128) -> i128 {
            least + i128::from(self.random(30_000_000)) + if self.random(50) == 0 { 150 * MILLI } else { 0 }
        }
    }

    fn at(t: i128) -> MediaTime {
        MediaTime(t as u64)
    }

    /// Runs for `seconds`; gives for each second from `settled` on the error of sound and of picture against the
    /// truth, nanoseconds.
    fn run(
        mut p: Publisher,
        seconds: i128,
        settled: i128,
        mut each: impl FnMut(&mut Publisher, i128),
    ) -> Vec<(i128, i128)> {
        let mut session = SessionClock::default();
        let (audio, video) = (session.add_track(48_000), session.add_track(90_000));
        let start = 5 * NANOS;
        let mut errors = Vec::new();
        let (mut last_audio, mut last_video) = (None, None);
        for second in 0..seconds {
            let t = start + second * NANOS;
            each(&mut p, second);
            for tenth in 0..10 {
                let t = t + tenth * 100 * MILLI;
                if p.random(100) >= 5 {
                    let late = p.delay(20 * MILLI);
                    session.arrived(audio, p.audio(t), at(t + late));
                }
                if p.random(100) >= 5 {
                    let late = p.delay(60 * MILLI);
                    session.arrived(video, p.video(t), at(t + late));
                }
                let (a, v) = (session.stamp(audio, p.audio(t)), session.stamp(video, p.video(t)));
                assert!(last_audio.replace(a) < Some(a) && last_video.replace(v) < Some(v), "stamps rise");
                if second >= settled && tenth == 9 {
                    errors.push((i128::from(a.0) - t, i128::from(v.0) - t));
                }
            }
            let t = t + 950 * MILLI;
            if second % 5 == 0 && p.random(100) >= 5 {
                let late = p.delay(10 * MILLI);
                session.report(audio, p.wall(t), p.audio(t), at(t + late));
            }
            if p.random(100) >= 5 {
                let late = p.delay(10 * MILLI);
                session.report(video, p.wall(t), p.video(t), at(t + late));
            }
        }
        errors
    }

    /// The network's own least delay (10 ms here) cannot be told from a clock's offset, nor need it: it is the same
    /// for all tracks and all the time.
    fn assert_within(errors: &[(i128, i128)], between: i128, around: i128) {
        for (second, (a, v)) in errors.iter().enumerate() {
            assert!((a - v).abs() <= between, "second {second}: sound {a} and picture {v} are apart");
            assert!((a - 15 * MILLI).abs() <= around, "second {second}: {a} ns from the truth");
        }
    }

    #[test]
    fn three_hours_of_drift_jitter_and_loss() {
        for (wall_ppm, audio_ppm) in [(100, -100), (-100, 100), (0, 500), (300, 0), (0, 0)] {
            let p = Publisher { wall_ppm, wall_set: 0, audio_ppm, seed: 7 };
            let errors = run(p, 3 * 3600, 60, |_, _| ());
            assert_within(&errors, 5 * MILLI, 20 * MILLI);
        }
    }

    #[test]
    fn a_step_of_the_senders_wall_clock_moves_nothing() {
        let p = Publisher { wall_ppm: 20, wall_set: 0, audio_ppm: 60, seed: 3 };
        let errors = run(p, 600, 60, |p, second| match second {
            200 => p.wall_set += 7200 * NANOS,
            400 => p.wall_set -= 800 * MILLI,
            _ => {}
        });
        assert_within(&errors, 5 * MILLI, 20 * MILLI);
    }

    #[test]
    fn without_reports_arrival_stands_in_and_the_first_report_is_followed_gently() {
        let mut session = SessionClock::default();
        let video = session.add_track(90_000);
        let (mut last, mut error) = (None, 0);
        for frame in 0..900i128 {
            let t = NANOS + frame * NANOS / 30;
            let rtp = (t * 90_000 / NANOS) as u32;
            session.arrived(video, rtp, at(t + 80 * MILLI));
            if frame == 300 {
                session.report(video, NtpTime::from_nanos((10 * NANOS + t) as u128), rtp, at(t + 10 * MILLI));
            }
            let stamp = i128::from(session.stamp(video, rtp).0);
            error = stamp - t;
            if frame < 300 {
                assert!((error - 80 * MILLI).abs() < MILLI);
            }
            if let Some(last) = last.replace(stamp) {
                let step = stamp - last;
                assert!((31 * MILLI..36 * MILLI).contains(&step), "{step}");
            }
        }
        assert!((error - 10 * MILLI).abs() < 2 * MILLI, "{error}");
    }

    #[test]
    fn a_pause_of_the_media_clock_is_a_gap() {
        let mut session = SessionClock::default();
        let audio = session.add_track(48_000);
        session.arrived(audio, 960, at(NANOS));
        let before = session.stamp(audio, 960);
        // Muted for ten seconds; the sender's media clock stood still, and its report says so.
        session.report(audio, NtpTime::from_nanos((100 * NANOS) as u128), 960, at(NANOS));
        session.report(audio, NtpTime::from_nanos((110 * NANOS) as u128), 1920, at(11 * NANOS));
        session.arrived(audio, 1920, at(11 * NANOS));
        let after = session.stamp(audio, 1920);
        assert_eq!(before, at(NANOS));
        assert_eq!(after, at(11 * NANOS));
    }

    #[test]
    fn a_restarted_media_clock_goes_on_from_where_it_is() {
        let mut session = SessionClock::default();
        let video = session.add_track(90_000);
        session.arrived(video, 1_000_000, at(NANOS));
        assert_eq!(session.stamp(video, 1_000_000), at(NANOS));
        session.restart(video);
        session.arrived(video, 5, at(2 * NANOS));
        assert_eq!(session.stamp(video, 5), at(2 * NANOS));
    }

    proptest! {
        /// Whatever strangers send: stamps strictly rise over differing time stamps, and nothing overflows.
        #[test]
        fn stamps_rise_whatever_is_sent(
            steps in prop::collection::vec((any::<u32>(), any::<u64>(), 0u64..10_000_000_000, 0u8..4), 1..200),
        ) {
            let mut session = SessionClock::default();
            let track = session.add_track(90_000);
            let (mut now, mut rtp) = (0u64, 0u32);
            let mut last: Option<(u32, MediaTime)> = None;
            for (number, ntp, passed, what) in steps {
                now += passed;
                match what {
                    0 => session.report(track, NtpTime(ntp), number, MediaTime(now)),
                    1 => session.arrived(track, number, MediaTime(now)),
                    2 => session.restart(track),
                    _ => {}
                }
                rtp = rtp.wrapping_add(1 + number % 90_000);
                session.arrived(track, rtp, MediaTime(now));
                let stamp = session.stamp(track, rtp);
                if let Some((_, before)) = last {
                    prop_assert!(stamp > before, "{:?} after {:?}", stamp, before);
                }
                last = Some((rtp, stamp));
            }
        }
    }
}
