//! The operators' line: one session with a broker, and what goes over it in both directions.
//!
//! Owns: the topics below `holdfast/<box-id>/`, the two shapes in which its parts hand messages to the line and take them
//! from it. Must not touch: the state of rooms; it reads status and sends the API's own calls.
//! Law: the line never brings the box down, and nothing that waits for it grows without bound.

mod discovery;
pub mod line;
pub mod queue;
mod sensors;
pub mod telemetry;
pub mod twin;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::health::Reporter;
use crate::model::Timestamp;

/// Longest wait before a part that broke is begun again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A part that broke and lives for so long is well again.
const STEADY: Duration = Duration::from_secs(60);

/// What becomes of a message while nobody takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// how things are: the newest of a topic replaces the one before
    State,
    /// what happened: kept in order; of too many the least important go first
    Event,
    /// what somebody asked for: kept
    Reply,
}

/// A message to the operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Below `holdfast/<box-id>/`.
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub class: Class,
}

/// A message of the operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Below `holdfast/<box-id>/`.
    pub topic: String,
    pub payload: Bytes,
    pub retained: bool,
}

/// How the line goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// Since the box is there.
    pub dropped_events: u64,
    pub dropped_replies: u64,
}

/// What all topics of a box begin with.
fn root(box_id: &str) -> String {
    format!("holdfast/{box_id}/")
}

/// As all messages tell a time; to the millisecond.
pub fn rfc3339(at: Timestamp) -> String {
    let nanos = i128::from(at.ms()) * 1_000_000;
    // a clock outside of the years that the format knows shows its beginning
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// A part of the line that can be begun again.
pub trait Part: Send + 'static {
    /// One life, until `cancel`. An error, or an end before that, is not its last word.
    fn live(
        &mut self,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send;
}

impl Part for line::Line {
    async fn live(&mut self, cancel: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.run(cancel).await?)
    }
}

/// Keeps a part alive: whatever becomes of it, the box goes on, and the part is begun again after a while.
pub async fn keep(name: &'static str, part: impl Part, health: Reporter, cancel: CancellationToken) {
    let part = Arc::new(Mutex::new(part));
    let mut wait = Duration::from_secs(1);
    let mut broken = false;
    while !cancel.is_cancelled() {
        let (life, ended) = (part.clone(), cancel.clone());
        // in a task of its own, so that a panic in it is its own
        let life = tokio::spawn(async move { life.lock().await.live(ended).await.map_err(|error| error.to_string()) });
        tokio::pin!(life);
        let lived = tokio::select! {
            lived = &mut life => lived,
            () = tokio::time::sleep(STEADY), if broken => {
                health.ok(name);
                wait = Duration::from_secs(1);
                life.await
            }
        };
        let why = match lived {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        if cancel.is_cancelled() {
            return;
        }
        tracing::error!(part = name, why, ?wait, "a part of the operators' line broke; it is begun again");
        health.degraded(name, why);
        broken = true;
        metrics::counter!("holdfast_fleet_restarts_total", "part" => name).increment(1);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Summary;

    #[test]
    fn times_are_told_as_everybody_reads_them() {
        assert_eq!(rfc3339(Timestamp::from_ms(1_764_122_400_007)), "2025-11-26T02:00:00.007Z");
        assert_eq!(rfc3339(Timestamp(i64::MIN)), "1970-01-01T00:00:00Z");
    }

    struct Fragile(u32);

    impl Part for Fragile {
        async fn live(&mut self, cancel: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.0 += 1;
            match self.0 {
                1 => panic!("a fault of ours"),
                2 => Err("the index refused".into()),
                _ => {
                    cancel.cancel();
                    Ok(())
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_breaks_is_begun_again_and_takes_nobody_with_it() {
        let health = Reporter::default();
        health.started();
        keep("fleet", Fragile(0), health.clone(), CancellationToken::new()).await;
        assert_eq!(health.summary(), Summary::Degraded(vec!["fleet: the index refused".into()]));
    }
}
