//! How many bytes a second uploads may take of the line, by the time of day.
//!
//! Owns: windows of the day and the rate that holds in them; the bucket of tokens by which it is kept. Must not touch:
//! clocks (wall time and monotonic time are arguments), sockets.
//! Law: over any span of time no more goes out than the rate allows, one second's burst and what was charged at once
//! (playlists) beside it; what was charged is paid back.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

const DAY_MINUTES: i64 = 24 * 60;
/// What goes out at once is a part of a second's worth, so that several streams take turns.
const SLICES_PER_SECOND: u64 = 8;
const SLICE: std::ops::RangeInclusive<u64> = 1024..=64 * 1024;

/// What is allowed at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    Unlimited,
    BytesPerSecond(u64),
    /// Playlists only.
    Closed,
}

impl Rate {
    fn of(bytes_per_second: u64) -> Rate {
        if bytes_per_second == 0 { Rate::Closed } else { Rate::BytesPerSecond(bytes_per_second) }
    }

    /// How much is best sent at once.
    pub fn slice(self) -> usize {
        let bytes = match self {
            Rate::Unlimited | Rate::Closed => *SLICE.end(),
            Rate::BytesPerSecond(rate) => (rate / SLICES_PER_SECOND).clamp(*SLICE.start(), *SLICE.end()),
        };
        usize::try_from(bytes).expect("a slice is small")
    }
}

/// Minutes since midnight, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    pub fn parse(text: &str) -> Option<TimeOfDay> {
        let (hours, minutes) = text.split_once(':')?;
        let plain = |digits: &str| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        let two = |digits: &str| plain(digits).then(|| digits.parse::<u16>().ok()).flatten();
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        (hours < 24 && minutes < 60).then_some(TimeOfDay(hours * 60 + minutes))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, document: S) -> Result<S::Ok, S::Error> {
        document.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(document: D) -> Result<Self, D::Error> {
        let text = String::deserialize(document)?;
        let fault = || serde::de::Error::custom(format!("'{text}' is not a time of day such as 08:00 or 23:30"));
        TimeOfDay::parse(&text).ok_or_else(fault)
    }
}

/// The box's distance from UTC, written `+02:00` or `-05:30`. It does not follow summer time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UtcOffset {
    minutes: i16,
}

impl UtcOffset {
    pub fn parse(text: &str) -> Option<UtcOffset> {
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let TimeOfDay(minutes) = TimeOfDay::parse(rest)?;
        let minutes = i16::try_from(minutes).expect("a day has few minutes");
        (minutes <= 14 * 60).then_some(UtcOffset { minutes: sign * minutes })
    }
}

impl Serialize for UtcOffset {
    fn serialize<S: Serializer>(&self, document: S) -> Result<S::Ok, S::Error> {
        let sign = if self.minutes < 0 { '-' } else { '+' };
        document.collect_str(&format_args!("{sign}{}", TimeOfDay(self.minutes.unsigned_abs())))
    }
}

impl<'de> Deserialize<'de> for UtcOffset {
    fn deserialize<D: Deserializer<'de>>(document: D) -> Result<Self, D::Error> {
        let text = String::deserialize(document)?;
        let fault = || serde::de::Error::custom(format!("'{text}' is not an offset from UTC such as +02:00"));
        UtcOffset::parse(&text).ok_or_else(fault)
    }
}

/// From a time of day to another, over midnight when the second is the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub from: TimeOfDay,
    pub to: TimeOfDay,
    /// 0: nothing but playlists.
    pub bytes_per_second: u64,
}

impl Window {
    fn holds(&self, minute: i64) -> bool {
        let (from, to) = (i64::from(self.from.0), i64::from(self.to.0));
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }

    /// Whether both hold at some minute.
    pub fn overlaps(&self, other: &Window) -> bool {
        self.holds(other.from.0.into()) || other.holds(self.from.0.into())
    }
}

/// The whole day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budget {
    /// None overlaps another.
    pub windows: Vec<Window>,
    /// What holds in none of them; `None` is no bound, 0 as in a window.
    pub otherwise: Option<u64>,
    pub utc_offset: UtcOffset,
}

impl Budget {
    pub fn rate_at(&self, wall: Timestamp) -> Rate {
        let minute = self.minute_of_day(wall);
        let window = self.windows.iter().find(|window| window.holds(minute)).map(|window| window.bytes_per_second);
        window.or(self.otherwise).map_or(Rate::Unlimited, Rate::of)
    }

    /// Until another rate may hold; `None` when there is but one.
    pub fn until_change(&self, wall: Timestamp) -> Option<Duration> {
        let since_midnight = self.micros_of_day(wall);
        let edges = self.windows.iter().flat_map(|window| [window.from, window.to]);
        let until = edges.map(|edge| {
            let left = (i64::from(edge.0) * 60_000_000 - since_midnight).rem_euclid(DAY_MINUTES * 60_000_000);
            if left == 0 { DAY_MINUTES * 60_000_000 } else { left }
        });
        until.min().map(|micros| Duration::from_micros(micros.unsigned_abs()))
    }

    fn micros_of_day(&self, wall: Timestamp) -> i64 {
        let local = wall.0.saturating_add(i64::from(self.utc_offset.minutes) * 60_000_000);
        local.rem_euclid(DAY_MINUTES * 60_000_000)
    }

    fn minute_of_day(&self, wall: Timestamp) -> i64 {
        self.micros_of_day(wall) / 60_000_000
    }
}

/// Tokens, a byte each. Full it holds a second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bucket {
    /// Below zero: owed.
    level: f64,
    at: Duration,
}

impl Bucket {
    /// Takes `bytes`, or says how long to wait before asking again. More than the bucket holds is given when it is full.
    pub fn take(&mut self, bytes: usize, bytes_per_second: u64, now: Duration) -> Result<(), Duration> {
        let rate = bytes_per_second.max(1) as f64;
        let filled = now.saturating_sub(self.at).as_secs_f64() * rate;
        self.level = (self.level + filled).min(rate);
        self.at = now;
        let enough = (bytes as f64).min(rate);
        if self.level >= enough {
            self.level -= bytes as f64;
            return Ok(());
        }
        // a microsecond more, so that what was rounded off does not make it wait twice
        Err(Duration::from_secs_f64((enough - self.level) / rate) + Duration::from_micros(1))
    }

    /// Takes what goes out in any case.
    pub fn charge(&mut self, bytes: usize) {
        self.level -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> TimeOfDay {
        TimeOfDay::parse(text).unwrap()
    }

    fn window(from: &str, to: &str, bytes_per_second: u64) -> Window {
        Window { from: time(from), to: time(to), bytes_per_second }
    }

    /// Seconds of a day in 2026, UTC.
    fn at(hours: i64, minutes: i64) -> Timestamp {
        Timestamp((20_600 * 86_400 + hours * 3600 + minutes * 60) * 1_000_000)
    }

    #[test]
    fn the_window_of_the_local_hour_holds() {
        let budget = Budget {
            windows: vec![window("08:00", "18:00", 500), window("22:30", "06:00", 0)],
            otherwise: Some(9_000),
            utc_offset: UtcOffset::parse("+02:00").unwrap(),
        };
        for (hours, minutes, rate) in [
            (6, 0, Rate::BytesPerSecond(500)),
            (5, 59, Rate::BytesPerSecond(9_000)),
            (15, 59, Rate::BytesPerSecond(500)),
            (16, 0, Rate::BytesPerSecond(9_000)),
            (20, 29, Rate::BytesPerSecond(9_000)),
            (20, 30, Rate::Closed),
            (23, 0, Rate::Closed),
            (3, 59, Rate::Closed),
            (4, 0, Rate::BytesPerSecond(9_000)),
        ] {
            assert_eq!(budget.rate_at(at(hours, minutes)), rate, "{hours}:{minutes} UTC");
        }
        assert_eq!(budget.until_change(at(5, 59)), Some(Duration::from_secs(60)));
        assert_eq!(budget.until_change(at(6, 0)), Some(Duration::from_secs(10 * 3600)));
        assert_eq!(budget.until_change(at(23, 0)), Some(Duration::from_secs(5 * 3600)));
        assert_eq!(Budget::default().rate_at(at(1, 1)), Rate::Unlimited);
        assert_eq!(Budget::default().until_change(at(1, 1)), None);
        // before 1970, as a box without a clock may say
        assert_eq!(budget.rate_at(Timestamp(-1)), Rate::Closed);
    }

    #[test]
    fn texts_are_times_or_refused() {
        for wrong in ["8:00", "24:00", "08:60", "08", "08:00:00", "+8:00", ""] {
            assert_eq!(TimeOfDay::parse(wrong), None, "{wrong}");
        }
        assert_eq!(UtcOffset::parse("-05:30"), Some(UtcOffset { minutes: -330 }));
        for wrong in ["02:00", "+14:01", "*02:00", "", "+2"] {
            assert_eq!(UtcOffset::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn windows_overlap_when_a_minute_is_in_both(a in 0..1440u16, b in 0..1440u16, c in 0..1440u16, d in 0..1440u16) {
            prop_assume!(a != b && c != d);
            let window = |from, to| Window { from: TimeOfDay(from), to: TimeOfDay(to), bytes_per_second: 1 };
            let (one, other) = (window(a, b), window(c, d));
            let both = (0..1440).any(|minute| one.holds(minute) && other.holds(minute));
            prop_assert_eq!(one.overlaps(&other), both);
            prop_assert_eq!(other.overlaps(&one), both);
        }

        /// However it is asked, over any span no more is given than the rate and one burst, and it is given in time.
        #[test]
        fn the_bucket_keeps_the_rate(
            rate in 1_000..2_000_000u64,
            asks in prop::collection::vec((1..100_000usize, 0..3_000u64), 1..200),
        ) {
            let (mut bucket, mut now, mut given) = (Bucket::default(), Duration::from_secs(100), 0.0);
            let began = now;
            let mut largest = 0.0f64;
            for (bytes, pause) in asks {
                now += Duration::from_millis(pause);
                largest = largest.max(bytes as f64);
                if let Err(wait) = bucket.take(bytes, rate, now) {
                    let owed = largest / rate as f64 + 1.0;
                    prop_assert!(wait.as_secs_f64() <= owed + 0.001, "{wait:?}");
                    now += wait;
                    prop_assert_eq!(bucket.take(bytes, rate, now), Ok(()));
                }
                given += bytes as f64;
                let most = (now - began).as_secs_f64() * rate as f64 + rate as f64 + largest;
                prop_assert!(given <= most + 1.0, "{given} of {most}");
            }
        }
    }

    #[test]
    fn what_was_charged_is_paid_back() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(1_000, 1_000, Duration::from_secs(10)), Ok(()));
        bucket.charge(3_000);
        let wait = bucket.take(1_000, 1_000, Duration::from_secs(10)).unwrap_err();
        assert_eq!(wait.as_secs(), 4);
    }
}
