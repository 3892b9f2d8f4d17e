//! What is noticed of a live track while it is recorded: its packets, how loud it is, whether its picture is lit and moves.
//!
//! Owns: the figures of one track, and how a picture is told from black and from the one before. Must not touch: what is
//! an alarm; who looks when.
//! Law: whoever has decoded something anyway tells of it; nobody waits for it, and it costs next to nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::stamped::StampedPacket;
use crate::model::MediaTime;

/// What looks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sensing {
    /// Sound that is no louder (decibels of full scale, root mean square of some tens of milliseconds) is silence.
    pub quietest_dbfs: i32,
    /// A track's pictures are looked at so often at most; `None`: never.
    pub picture_every: Option<Duration>,
}

impl Default for Sensing {
    fn default() -> Sensing {
        Sensing { quietest_dbfs: -60, picture_every: Some(Duration::from_secs(10)) }
    }
}

/// What has been noticed of a track. Times of content are those of its capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sensed {
    /// When its newest packet arrived.
    pub arrived: Option<Instant>,
    pub received: u64,
    pub lost: u64,
    /// The least delay (arrival minus stamp, from an origin of the track's own) since it was last asked, ns.
    pub delay: Option<i64>,
    /// Up to when its content was looked at.
    pub looked: Option<MediaTime>,
    /// Sound: when it was last more than silence.
    pub heard: Option<MediaTime>,
    /// Pictures: when one was last not black, and when one last differed from those before.
    pub lit: Option<MediaTime>,
    pub moved: Option<MediaTime>,
}

/// The same for all tracks, those that live included; it may change.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedSensing(Arc<Mutex<Sensing>>);

impl SharedSensing {
    pub fn set(&self, sensing: Sensing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sensing;
    }

    fn now(&self) -> Sensing {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One track's.
#[derive(Debug)]
pub(super) struct Senses {
    sensing: SharedSensing,
    opened: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sensed: Sensed,
    next_sequence: Option<u16>,
    /// Of which time the last picture is that somebody was told to look at.
    wanted: Option<MediaTime>,
    /// The last picture that differed from the one that stood here.
    shown: Option<Thumb>,
}

impl Senses {
    pub fn new(sensing: SharedSensing) -> Senses {
        Senses { sensing, opened: Instant::now(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // a panic in between leaves figures that are still figures
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packets of the track have arrived, in order; a hole in their numbers is a loss.
    pub fn count(&self, packets: &[StampedPacket]) {
        let now = Instant::now();
        let since = i64::try_from(now.duration_since(self.opened).as_nanos()).unwrap_or(i64::MAX);
        let mut state = self.state();
        for packet in packets {
            if let Some(&[high, low]) = packet.rtp.get(2..4).and_then(|bytes| bytes.first_chunk::<2>()) {
                let sequence = u16::from_be_bytes([high, low]);
                let missing = state.next_sequence.map_or(0, |next| sequence.wrapping_sub(next));
                // a step back is no loss
                if missing < 0x8000 {
                    state.sensed.lost += u64::from(missing);
                }
                state.next_sequence = Some(sequence.wrapping_add(1));
            }
            state.sensed.received += 1;
            let delay = since.saturating_sub(i64::try_from(packet.at.0).unwrap_or(i64::MAX));
            state.sensed.delay = Some(state.sensed.delay.map_or(delay, |least| least.min(delay)));
        }
        state.sensed.arrived = Some(now);
    }

    /// Sound that was captured at `at`, decoded.
    pub fn heard(&self, at: MediaTime, pcm: &[i16]) {
        if pcm.is_empty() {
            return;
        }
        let energy: u64 = pcm.iter().map(|sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
        let mean = energy as f64 / pcm.len() as f64 / f64::from(i16::MAX).powi(2);
        let loud = 10.0 * mean.log10() > f64::from(self.sensing.now().quietest_dbfs);
        let mut state = self.state();
        state.sensed.looked = state.sensed.looked.max(Some(at));
        if loud {
            state.sensed.heard = state.sensed.heard.max(Some(at));
        }
    }

    /// Whether a picture of this time should be looked at. Who asks and is told so will.
    pub fn wants_picture(&self, at: MediaTime) -> bool {
        let Some(every) = self.sensing.now().picture_every else { return false };
        // a little early rather than a keyframe later
        let every = u64::try_from((every - every / 10).as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state();
        let due = state.wanted.is_none_or(|before| at.0 >= before.0.saturating_add(every));
        if due {
            state.wanted = Some(at);
        }
        due
    }

    pub fn saw(&self, at: MediaTime, picture: Thumb) {
        let mut state = self.state();
        state.sensed.looked = state.sensed.looked.max(Some(at));
        if !picture.is_black() {
            state.sensed.lit = state.sensed.lit.max(Some(at));
        }
        if state.shown.as_ref().is_none_or(|shown| picture.differs_from(shown)) {
            state.sensed.moved = state.sensed.moved.max(Some(at));
            state.shown = Some(picture);
        }
    }

    /// What is known, for the one who asks now and then.
    pub fn take(&self) -> Sensed {
        let mut state = self.state();
        let sensed = state.sensed;
        state.sensed.delay = None;
        sensed
    }
}

/// Points of a picture's light that are kept: columns and rows.
const COLUMNS: usize = 64;
const ROWS: usize = 36;
/// Light up to this is black: video's black is 16, and a covered lens makes some noise.
const DARK: u8 = 32;
/// A point has changed when its light has by more than this; less is what coding does to a still picture.
const CHANGE: u8 = 8;
/// So many points of a thousand may be otherwise: the few that noise or a blinking light would be.
const ODD_PER_MILLE: usize = 3;

/// A picture's light at some hundred points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thumb(Vec<u8>);

impl Thumb {
    /// Of a plane of light with rows `stride` apart; `None` when the plane is smaller than it should be.
    pub fn of(luma: &[u8], stride: usize, width: usize, height: usize) -> Option<Thumb> {
        if width == 0 || height == 0 || stride < width {
            return None;
        }
        let mut points = Vec::with_capacity(COLUMNS * ROWS);
        for row in 0..ROWS {
            let from = (row * 2 + 1) * height / (ROWS * 2) * stride;
            let line = luma.get(from..from + width)?;
            points.extend((0..COLUMNS).map(|column| line[(column * 2 + 1) * width / (COLUMNS * 2)]));
        }
        Some(Thumb(points))
    }

    fn is_black(&self) -> bool {
        few(self.0.iter().filter(|light| **light > DARK).count())
    }

    fn differs_from(&self, other: &Thumb) -> bool {
        !few(self.0.iter().zip(&other.0).filter(|(a, b)| a.abs_diff(**b) > CHANGE).count())
    }
}

fn few(points: usize) -> bool {
    points * 1000 < COLUMNS * ROWS * ODD_PER_MILLE
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn at(ms: u64) -> MediaTime {
        MediaTime(ms * 1_000_000)
    }

    fn senses(sensing: Sensing) -> Senses {
        let shared = SharedSensing::default();
        shared.set(sensing);
        Senses::new(shared)
    }

    fn packet(sequence: u16, ms: u64) -> StampedPacket {
        let mut rtp = vec![0x80, 111];
        rtp.extend(sequence.to_be_bytes());
        rtp.extend([0; 9]);
        StampedPacket { rtp: Bytes::from(rtp), at: at(ms), after_loss: false }
    }

    #[test]
    fn holes_in_the_numbers_are_losses() {
        let senses = Senses::new(SharedSensing::default());
        assert_eq!(senses.take(), Sensed::default());
        senses.count(&[packet(65_533, 0), packet(65_534, 20)]);
        senses.count(&[packet(1, 60), packet(2, 80)]);
        let sensed = senses.take();
        assert_eq!((sensed.received, sensed.lost), (4, 2), "{sensed:?}");
        assert!(sensed.arrived.is_some() && sensed.delay.is_some());
        assert_eq!(senses.take().delay, None, "of what came since the last look");
    }

    #[test]
    fn what_is_no_louder_than_the_least_is_silence() {
        let senses = senses(Sensing { quietest_dbfs: -60, picture_every: None });
        let tone = |loud: f64| -> Vec<i16> {
            (0..960).map(|n| ((f64::from(n) * 0.13).sin() * loud * 32_767.0) as i16).collect()
        };
        senses.heard(at(20), &[0; 960]);
        senses.heard(at(40), &tone(0.001));
        assert_eq!(senses.take().heard, None);
        senses.heard(at(60), &tone(0.003));
        let sensed = senses.take();
        assert_eq!((sensed.looked, sensed.heard), (Some(at(60)), Some(at(60))));
        assert!(!senses.wants_picture(at(60)), "pictures are not looked at");
    }

    #[test]
    fn a_live_track_is_looked_at_as_is_wished_now() {
        let wish = |quietest_dbfs, seconds: Option<u64>| Sensing {
            quietest_dbfs,
            picture_every: seconds.map(Duration::from_secs),
        };
        let shared = SharedSensing::default();
        let senses = Senses::new(shared.clone());
        // -40 dBFS
        let hum: Vec<i16> = (0..960).map(|n| ((f64::from(n) * 0.13).sin() * 0.01414 * 32_767.0) as i16).collect();
        senses.heard(at(20), &hum);
        shared.set(wish(-30, Some(2)));
        senses.heard(at(40), &hum);
        assert_eq!(senses.take().heard, Some(at(20)), "what was sound is silence now");
        assert!(senses.wants_picture(at(100)) && !senses.wants_picture(at(1500)));
        // oftener, never, and again: none has to wait for what was wished before
        shared.set(wish(-30, Some(1)));
        assert!(senses.wants_picture(at(1500)));
        shared.set(wish(-30, None));
        assert!(!senses.wants_picture(at(9000)));
        shared.set(wish(-30, Some(10)));
        assert!(!senses.wants_picture(at(9000)) && senses.wants_picture(at(11_000)));
    }

    /// 320×180, each point's light as the function says.
    fn thumb(light: impl Fn(usize, usize) -> u8) -> Thumb {
        let luma: Vec<u8> = (0..180).flat_map(|y| (0..320).map(move |x| (x, y))).map(|(x, y)| light(x, y)).collect();
        Thumb::of(&luma, 320, 320, 180).expect("whole")
    }

    #[test]
    fn black_and_frozen_are_told_apart_from_what_is_dim_or_noisy() {
        let noise = |x: usize, y: usize, by: usize| ((x * 7 + y * 13 + by * 5) % 6) as u8;
        assert!(thumb(|x, y| 16 + noise(x, y, 1)).is_black());
        let dim_window = thumb(|x, y| if x < 40 && y < 40 { 60 } else { 16 });
        assert!(!dim_window.is_black());
        let room = |x: usize, y: usize| ((x / 3 + y) % 200) as u8 + 20;
        let still = thumb(room);
        assert!(!thumb(|x, y| room(x, y) + noise(x, y, 3)).differs_from(&still));
        // somebody's lips, a hundredth of the picture
        let lips = thumb(|x, y| if (150..182).contains(&x) && (100..118).contains(&y) { 90 } else { room(x, y) });
        assert!(lips.differs_from(&still));
        assert_eq!(Thumb::of(&[0; 100], 320, 320, 180), None);
    }

    #[test]
    fn pictures_are_wanted_now_and_then_and_slow_changes_are_changes() {
        let senses = senses(Sensing { picture_every: Some(Duration::from_secs(1)), ..Sensing::default() });
        assert!(senses.wants_picture(at(0)) && !senses.wants_picture(at(500)) && senses.wants_picture(at(950)));
        for second in 0..20u64 {
            senses.saw(at(second * 1000), thumb(|_, _| 100 + second as u8));
        }
        let sensed = senses.take();
        assert_eq!(sensed.moved, Some(at(18_000)), "9 more than the one that stood before: {sensed:?}");
        assert_eq!((sensed.looked, sensed.lit), (Some(at(19_000)), Some(at(19_000))));
    }
}
