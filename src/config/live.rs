//! The configuration in force, which may become another while the box runs.
//!
//! Owns: the one value that all parts read. Must not touch: who changes it and why.
//! Law: whoever decides one thing reads it once and decides by that: a change comes between two decisions, never in the
//! middle of one.

use std::sync::Arc;

use tokio::sync::watch;

use super::Config;

/// Cloned freely; all clones see the same.
#[derive(Debug, Clone)]
pub struct Live(watch::Sender<Arc<Config>>);

impl Live {
    pub fn new(config: impl Into<Arc<Config>>) -> Live {
        Live(watch::Sender::new(config.into()))
    }

    /// What holds at this moment.
    pub fn now(&self) -> Arc<Config> {
        self.0.borrow().clone()
    }

    pub fn set(&self, config: impl Into<Arc<Config>>) {
        self.0.send_replace(config.into());
    }

    /// Another one from the one in force.
    pub fn change(&self, change: impl FnOnce(&mut Config)) {
        self.0.send_modify(|config| change(Arc::make_mut(config)));
    }

    /// For parts that made something of it: wakes at each change.
    pub fn changes(&self) -> watch::Receiver<Arc<Config>> {
        self.0.subscribe()
    }
}

impl From<Config> for Live {
    fn from(config: Config) -> Live {
        Live::new(config)
    }
}

impl From<Arc<Config>> for Live {
    fn from(config: Arc<Config>) -> Live {
        Live::new(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_clones_see_a_change_and_what_was_read_stays_as_it_was() {
        let live = Live::from(Config::default());
        let (other, before) = (live.clone(), live.now());
        let mut changes = other.changes();
        live.change(|config| config.limits.tasks = 7);
        changes.changed().await.expect("there is a sender");
        assert_eq!((other.now().limits.tasks, changes.borrow().limits.tasks), (7, 7));
        assert_eq!(before.limits.tasks, Config::default().limits.tasks);
        live.set(Config::default());
        assert_eq!(other.now().limits.tasks, before.limits.tasks);
    }
}
