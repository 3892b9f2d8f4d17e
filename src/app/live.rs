//! What parts made of the configuration is made again when another one is in force.
//!
//! Owns: telling those parts that do not read it themselves. Must not touch: which configuration that is.
//! Law: what cannot take a change while it runs is not told of it: `config::change` names it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Live;
use crate::rooms::Rooms;
use crate::spool::Spool;

/// Sets the filter of the log while the box runs; says why if it is none.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

pub(super) struct Follower {
    pub live: Live,
    pub rooms: Rooms,
    pub spool: Arc<Spool>,
    pub set_filter: SetFilter,
}

impl Follower {
    /// Until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut changes = self.live.changes();
        let mut before = changes.borrow_and_update().clone();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let now = changes.borrow_and_update().clone();
            let template = now.automatic.template();
            if template != before.automatic.template()
                && let Err(error) = self.rooms.set_template(template).await
            {
                error!(%error, "automatic recording stays as it was");
            }
            if now.disk_limits() != before.disk_limits() {
                self.spool.keep_disk_to(now.disk_limits());
            }
            if now.log.filter != before.log.filter {
                match (self.set_filter)(&now.log.filter) {
                    Ok(()) => info!(filter = now.log.filter, "the log is filtered by this"),
                    Err(why) => error!(why, "the filter of the log stays as it was"),
                }
            }
            before = now;
        }
    }
}
