//! What systemd is told of the box: that it is ready, reloads, stops, how it is, and that its parts turn.
//!
//! Owns: the words to the service manager; when the watchdog is fed. Must not touch: parts, beyond asking whether they
//! turn.
//! Law: the watchdog is fed only after the rooms have turned their loop, the index has answered, and no lane stands
//! still; whoever is not run by systemd tells nobody, and nothing else differs.
//! Source: sd_notify(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tracing::{debug, error, info};

use crate::health::{Reporter, Summary};
use crate::media::engine::Engine;
use crate::rooms::Rooms;
use crate::store::Store;

/// A lane's disk may hang for half a minute, and what comes meanwhile waits (see `media::inbox`).
const LANE_STANDS: Duration = Duration::from_secs(45);
/// Longer than this a line of status is of no use.
const STATUS_CHARS: usize = 400;

/// The parts whose turning makes the box alive.
pub(super) struct Signs {
    pub rooms: Rooms,
    pub store: Store,
    pub engine: Engine,
}

/// The box as a service, once it is ready. Nothing more is told when this is dropped.
pub(super) struct Service {
    tasks: Vec<JoinHandle<()>>,
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        debug!(%error, "systemd is not told");
    }
}

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the monotonic clock cannot be read"),
    }
}

impl Service {
    /// The doors are open: says so, and from now on how the box is, and that it lives.
    pub fn of(health: &Reporter, signs: Signs) -> Service {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Service { tasks: Vec::new() };
        }
        let mut summaries = health.watch();
        let status = status(&summaries.borrow_and_update());
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        let mut tasks = vec![tokio::spawn(async move {
            while summaries.changed().await.is_ok() {
                let status = self::status(&summaries.borrow_and_update());
                tell(&[NotifyState::Status(&status)]);
            }
        })];
        if let Some(limit) = sd_notify::watchdog_enabled() {
            info!(?limit, "systemd watches over the box");
            tasks.push(tokio::spawn(feed(signs, limit / 3)));
        }
        Service { tasks }
    }

    /// An orderly stop has begun; it is bounded by itself, and by systemd.
    pub fn stopping(self) {
        // from here on nobody says that it lives
        self.tasks.iter().for_each(JoinHandle::abort);
        if !self.tasks.is_empty() {
            tell(&[NotifyState::Stopping, NotifyState::Status("stopping: what was recorded is made safe")]);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Feeds the watchdog each `pause`, as long as all parts turn within it.
async fn feed(signs: Signs, pause: Duration) {
    let mut tick = tokio::time::interval(pause);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match signs.turn(pause).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(who) => {
                error!(who, "a part does not turn: the watchdog is not fed");
                metrics::counter!("holdfast_watchdog_unfed_total").increment(1);
            }
        }
    }
}

impl Signs {
    /// Whether all turn within a time; `Err`: who does not.
    async fn turn(&self, within: Duration) -> Result<(), &'static str> {
        let rooms = tokio::time::timeout(within, self.rooms.turned());
        rooms.await.ok().and_then(Result::ok).ok_or("the rooms")?;
        // an index whose disk refuses something answers as well: it is alive, and health tells of it
        let store = tokio::time::timeout(within, self.store.ping()).await;
        let answers = store.is_ok_and(|answer| !matches!(answer, Err(crate::store::Error::Stopped)));
        if !answers {
            return Err("the index");
        }
        if self.engine.standing_still(LANE_STANDS).is_empty() { Ok(()) } else { Err("a lane") }
    }
}

/// A summary in one line.
fn status(summary: &Summary) -> String {
    let text = match summary {
        Summary::Starting => "starting".to_owned(),
        Summary::Idle => "ready, nothing is recorded".to_owned(),
        Summary::Recording => "recording".to_owned(),
        Summary::Degraded(why) => format!("degraded: {}", why.join("; ")),
        Summary::Failed(why) => format!("failed: {}", why.join("; ")),
        Summary::Stopping => "stopping".to_owned(),
    };
    // a line of its own would be a word of its own to systemd
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_a_part_said() {
        let why = vec!["upload: torn\nREADY=1".to_owned(), "x".repeat(500)];
        let line = status(&Summary::Degraded(why));
        assert!(line.starts_with("degraded: upload: torn READY=1; xxx") && line.len() == STATUS_CHARS, "{line}");
        assert_eq!(status(&Summary::Recording), "recording");
    }
}
