//! A push button: from a contact that closes and opens, bouncing, to what was meant.
//!
//! Owns: when a press is one, and whether it is short or long. Must not touch: lines, clocks: time is an argument, counted
//! from anywhere as long as it never goes back.
//! Law: a contact counts once it has kept still; one press is one meaning: a long one is told while it is held, and its
//! release means nothing; a button that is held when somebody begins to look has not been pressed.

use std::time::Duration;

/// What was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    Short,
    /// Held for long enough; told while it still is.
    Long,
}

#[derive(Debug, Clone)]
pub struct Presses {
    /// A contact that has not changed for so long has settled.
    still: Duration,
    long: Duration,
    /// As the line is, and since when.
    closed: bool,
    since: Duration,
    /// As it settled.
    settled: bool,
    /// When the press that is on began; `None`: none is on, or it has been told.
    begun: Option<Duration>,
}

impl Presses {
    pub fn new(still: Duration, long: Duration, closed: bool) -> Presses {
        Presses { still, long, closed, since: Duration::ZERO, settled: closed, begun: None }
    }

    /// The contact closed or opened.
    pub fn edge(&mut self, closed: bool, at: Duration) -> Option<Press> {
        let press = self.advance(at);
        if closed != self.closed {
            (self.closed, self.since) = (closed, at);
        }
        press
    }

    /// What time alone makes of it.
    pub fn advance(&mut self, now: Duration) -> Option<Press> {
        if self.closed != self.settled && now.saturating_sub(self.since) >= self.still {
            self.settled = self.closed;
            if self.settled {
                self.begun = Some(self.since);
            } else if let Some(begun) = self.begun.take() {
                // whoever slept over the long press sees it at its release
                let held = self.since.saturating_sub(begun);
                return Some(if held >= self.long { Press::Long } else { Press::Short });
            }
        }
        // while it opens it is not known whether it is held
        let held = self.settled && self.closed;
        match self.begun {
            Some(begun) if held && now.saturating_sub(begun) >= self.long => {
                self.begun = None;
                Some(Press::Long)
            }
            _ => None,
        }
    }

    /// When time alone makes something of it.
    pub fn next(&self) -> Option<Duration> {
        if self.closed != self.settled {
            return Some(self.since + self.still);
        }
        self.begun.map(|begun| begun + self.long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STILL: u64 = 30;
    const LONG: u64 = 5000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Plays edges at their times, waking when asked to, until `end`.
    fn played(first: bool, edges: &[(u64, bool)], end: u64) -> Vec<(u64, Press)> {
        let mut presses = Presses::new(ms(STILL), ms(LONG), first);
        let mut told = Vec::new();
        let mut edges = edges.iter().peekable();
        loop {
            let wake = presses.next().map(|at| at.as_millis() as u64);
            let edge = edges.peek().map(|(at, _)| *at);
            let now = [wake, edge].into_iter().flatten().min().unwrap_or(u64::MAX).min(end);
            let press = match edges.next_if(|(at, _)| *at == now) {
                Some((at, closed)) => presses.edge(*closed, ms(*at)),
                None => presses.advance(ms(now)),
            };
            told.extend(press.map(|press| (now, press)));
            if now >= end {
                return told;
            }
        }
    }

    #[test]
    fn short_long_held_and_bouncing() {
        assert_eq!(played(false, &[(100, true), (300, false)], 9000), [(330, Press::Short)]);
        // long: told while it is held, once, and not again at its release
        assert_eq!(played(false, &[(100, true), (60_000, false)], 90_000), [(5100, Press::Long)]);
        // it bounces when it closes and when it opens
        let bouncing = [
            (100, true),
            (103, false),
            (109, true),
            (115, false),
            (118, true),
            (400, false),
            (405, true),
            (411, false),
        ];
        assert_eq!(played(false, &bouncing, 9000), [(441, Press::Short)]);
        // a touch that never settles is none
        assert_eq!(played(false, &[(100, true), (120, false)], 9000), []);
        // and a loose contact within a long press does not end it
        assert_eq!(played(false, &[(0, true), (2000, false), (2010, true)], 9000), [(5000, Press::Long)]);
        // held from before
        assert_eq!(played(true, &[(8000, false), (9000, true), (9200, false)], 20_000), [(9230, Press::Short)]);
        // two of them
        let two = [(0, true), (100, false), (200, true), (300, false)];
        assert_eq!(played(false, &two, 9000), [(130, Press::Short), (330, Press::Short)]);
        // just before it is long, and not: bounces at the release are not held
        assert_eq!(played(false, &[(0, true), (4990, false)], 9000), [(5020, Press::Short)]);
    }

    #[test]
    fn whoever_sleeps_over_a_long_press_still_tells_it() {
        let mut presses = Presses::new(ms(STILL), ms(LONG), false);
        assert_eq!(presses.edge(true, ms(0)), None);
        assert_eq!(presses.advance(ms(40)), None);
        assert_eq!(presses.edge(false, ms(7000)), Some(Press::Long));
        assert_eq!(presses.advance(ms(8000)), None);
    }

    proptest! {
        /// With any bounces shorter than the stillness around clean presses, as many are told as there were, each rightly.
        #[test]
        fn bounces_change_nothing(
            clean in proptest::collection::vec((100_u64..12_000, 100_u64..3000), 0..6),
            bounces in proptest::collection::vec(1_u64..STILL, 0..6),
        ) {
            let mut edges = Vec::new();
            let mut expected = Vec::new();
            let mut at = 50;
            let settle = |edges: &mut Vec<(u64, bool)>, at: u64, to: bool| {
                edges.push((at, to));
                let mut when = at;
                for pair in bounces.chunks_exact(2).filter(|_| bounces.len() >= 2) {
                    edges.push((when + pair[0], !to));
                    edges.push((when + pair[0] + pair[1], to));
                    when += pair[0] + pair[1];
                }
                when
            };
            for (held, after) in clean {
                let closed = settle(&mut edges, at, true);
                // from the last closing on, and without the span that the release bounces in
                let opened = settle(&mut edges, closed + held, false);
                expected.push(if held >= LONG { Press::Long } else { Press::Short });
                at = opened + after;
            }
            // the bounces of a release that was nearly long may look like one that was: left out
            prop_assume!(!edges.windows(2).any(|pair| pair[0].1 && pair[1].0 - pair[0].0 > LONG - 400 && pair[1].0 - pair[0].0 < LONG));
            let told: Vec<Press> = played(false, &edges, at + 20_000).into_iter().map(|(_, press)| press).collect();
            prop_assert_eq!(told, expected);
        }
    }
}
