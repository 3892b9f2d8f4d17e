//! The upload budget, kept: whoever sends asks here first.
//!
//! Owns: the one bucket of tokens of all uploads. Must not touch: sockets, files.
//! Law: who asked first is served first; what is paused is told so at once and does not wait for hours with an open
//! request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::WallClock;
use crate::model::budget::{Bucket, Budget, Rate};

/// The wall clock may step while somebody sleeps: it is looked at again at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_FOR_WINDOW: Duration = Duration::from_secs(5);

/// The budget gives nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

pub struct Pacer {
    budget: RwLock<Budget>,
    clock: WallClock,
    bucket: Mutex<Bucket>,
    /// Held by the one who waits for tokens; the others stand in line for it.
    turn: tokio::sync::Mutex<()>,
    epoch: Instant,
}

impl Pacer {
    pub fn new(budget: Budget, clock: WallClock) -> Arc<Pacer> {
        let (bucket, turn) = (Mutex::default(), tokio::sync::Mutex::new(()));
        let budget = RwLock::new(budget);
        Arc::new(Pacer { budget, clock, bucket, turn, epoch: Instant::now() })
    }

    /// Another budget from now on; who waits for tokens looks again within a second.
    pub fn set(&self, budget: Budget) {
        *self.budget.write().unwrap_or_else(PoisonError::into_inner) = budget;
    }

    pub fn rate(&self) -> Rate {
        self.budget().rate_at((self.clock)())
    }

    /// Returns when `bytes` may go out.
    pub async fn take(&self, bytes: usize) -> Result<(), Closed> {
        if self.rate() == Rate::Unlimited {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        loop {
            let rate = match self.rate() {
                Rate::Unlimited => return Ok(()),
                Rate::Closed => return Err(Closed),
                Rate::BytesPerSecond(rate) => rate,
            };
            let taken = self.bucket().take(bytes, rate, self.epoch.elapsed());
            match taken {
                Ok(()) => return Ok(()),
                Err(wait) => tokio::time::sleep(wait.min(LOOK_AGAIN)).await,
            }
        }
    }

    /// Counts what goes out in any case; others wait for it.
    pub fn charge(&self, bytes: usize) {
        if matches!(self.rate(), Rate::BytesPerSecond(_)) {
            self.bucket().charge(bytes);
        }
    }

    /// Returns when another rate may hold.
    pub async fn changed(&self) {
        let until_change = || self.budget().until_change((self.clock)());
        let Some(mut until) = until_change() else {
            return std::future::pending().await;
        };
        let before = self.rate();
        loop {
            tokio::time::sleep(until.min(LOOK_AGAIN_FOR_WINDOW) + Duration::from_millis(1)).await;
            if self.rate() != before {
                return;
            }
            until = until_change().unwrap_or(LOOK_AGAIN_FOR_WINDOW);
        }
    }

    fn budget(&self) -> Budget {
        self.budget.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::model::budget::{TimeOfDay, UtcOffset, Window};

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_rate_and_a_window_closes_and_opens() {
        let began = Instant::now();
        // 11:59:00 by the wall
        let clock: WallClock = Arc::new(move || {
            let elapsed = i64::try_from(began.elapsed().as_micros()).unwrap();
            Timestamp((11 * 3600 + 59 * 60) * 1_000_000 + elapsed)
        });
        let time = |text| TimeOfDay::parse(text).unwrap();
        let windows = vec![Window { from: time("12:00"), to: time("13:00"), bytes_per_second: 0 }];
        let budget = Budget { windows, otherwise: Some(10_000), utc_offset: UtcOffset::default() };
        let pacer = Pacer::new(budget, clock);

        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let pacer = pacer.clone();
            streams.spawn(async move {
                let mut sent = 0;
                while pacer.take(1_000).await.is_ok() {
                    sent += 1_000;
                }
                sent
            });
        }
        let sent: Vec<usize> = streams.join_all().await;
        let seconds = began.elapsed().as_secs();
        assert_eq!(seconds, 60, "they are told when the window closes, not when it opens again");
        assert!((590_000..=611_000).contains(&sent.iter().sum::<usize>()), "{sent:?}");
        assert!(sent.iter().max().unwrap() - sent.iter().min().unwrap() <= 10_000, "{sent:?}");

        pacer.changed().await;
        assert_eq!(began.elapsed().as_secs(), 3660);
        assert_eq!(pacer.take(1_000).await, Ok(()));
        assert_eq!(Pacer::new(Budget::default(), pacer.clock.clone()).take(usize::MAX).await, Ok(()));
    }
}
