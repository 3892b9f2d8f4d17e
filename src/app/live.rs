//! What parts made of the configuration is made again when another one is in force.
//!
//! Owns: telling those parts that do not read it themselves. Must not touch: which configuration that is.
//! Law: what cannot take a change while it runs is not told of it: `config::change` names it.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Error, keys};
use crate::config::Fault;
use crate::config::document::Layers;
use crate::config::{Alarms, Config, Fleet, Live};
use crate::fleet::twin::{Needs, Twin};
use crate::health::Reporter;
use crate::media::senses::Sensing;
use crate::media::sources::Sources;
use crate::media::tracks::Tracks;
use crate::model::WallClock;
use crate::model::alarm::Limits;
use crate::rooms::Rooms;
use crate::spool::Spool;
use crate::store::seal::BoxKey;

/// Sets the filter of the log while the box runs; says why if it is none.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the box is built with: the file's configuration (whose secrets are read), or what its operators last put over it.
pub(super) fn of_the_operators(
    file: Config,
    box_key: &Arc<BoxKey>,
    layers: &Arc<Mutex<Layers>>,
    clock: &WallClock,
    health: &Reporter,
) -> (Config, Option<Twin>) {
    let needs = Needs {
        box_key: box_key.clone(),
        layers: layers.clone(),
        prepare: Arc::new(|config| keys::all(config).map_err(|Error::Start { what, why }| Fault::new(what, why))),
        clock: clock.clone(),
        health: health.clone(),
    };
    let twin = Twin::begin(needs, file);
    (twin.config(), Some(twin))
}

/// How frames are looked at for these alarms.
pub(super) fn sensing(alarms: &Alarms) -> Sensing {
    Sensing { quietest_dbfs: alarms.quietest_dbfs, picture_every: alarms.picture_every() }
}

pub(super) struct Follower {
    pub live: Live,
    pub rooms: Rooms,
    pub spool: Arc<Spool>,
    pub set_filter: SetFilter,
    pub sources: Sources,
    pub alarms: watch::Sender<Limits>,
    pub tracks: Tracks,
    /// Of the operators' line, where there is one.
    pub fleet: Option<Arc<watch::Sender<Arc<Fleet>>>>,
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
            if now.sources != before.sources {
                self.sources.apply(now.source_specs());
            }
            if now.alarms != before.alarms {
                self.tracks.sense(sensing(&now.alarms));
                self.alarms.send_replace(now.alarms.limits());
            }
            if now.log.filter != before.log.filter {
                match (self.set_filter)(&now.log.filter) {
                    Ok(()) => info!(filter = now.log.filter, "the log is filtered by this"),
                    Err(why) => error!(why, "the filter of the log stays as it was"),
                }
            }
            if let Some(fleet) = self.fleet.as_ref().filter(|_| now.fleet != before.fleet) {
                fleet.send_replace(Arc::new(now.fleet.clone()));
            }
            before = now;
        }
    }
}
