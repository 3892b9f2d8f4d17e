//! The operators' line, put together: the session, telemetry, and whoever else speaks over it.
//!
//! Owns: construction and start of what is in `fleet`. Must not touch: what goes over the line.
//! Law: whatever becomes of the line, the box goes on.

use std::path::Path;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::commands;
use crate::config::{Config, Fleet, Live};
use crate::fleet::commands::{Commands, FILTER, Hands};
use crate::fleet::keep;
use crate::fleet::line::{Ends, Line};
use crate::fleet::telemetry::Reports;
use crate::fleet::twin::{DESIRED, Rotation, Station, Twin};
use crate::health::Reporter;
use crate::model::WallClock;
use crate::model::alarm::Alarm;
use crate::store::Store;

/// What is there of the line before it runs: parts that listen are put to it now.
pub(super) struct Operators {
    pub line: Line,
    pub ends: Ends,
    /// To be notified of events that were put down for the operators.
    pub news: Arc<Notify>,
    /// The line goes on with what is sent here.
    pub settings: Arc<watch::Sender<Arc<Fleet>>>,
    health: Reporter,
    clock: WallClock,
}

/// `None`: the box has no operators.
pub(super) fn line(config: &Config, store: &Store, clock: &WallClock, health: &Reporter) -> Option<Operators> {
    if !config.fleet.enabled {
        return None;
    }
    let (settings, seen) = watch::channel(Arc::new(config.fleet.clone()));
    let news = Arc::new(Notify::new());
    let (line, ends) = Line::new(seen, store.clone(), clock.clone(), health.clone(), news.clone());
    let settings = Arc::new(settings);
    Some(Operators { line, ends, news, settings, health: health.clone(), clock: clock.clone() })
}

impl Operators {
    /// The twin, put to the line.
    pub fn station(
        &mut self,
        twin: Twin,
        live: Live,
        rotations: mpsc::Receiver<Rotation>,
        restart: Arc<Notify>,
    ) -> Station {
        let incoming = self.line.hear(DESIRED);
        let Ends { outgoing, connected, .. } = self.ends.clone();
        Station { twin, live, incoming, rotations, outgoing, connected, restart }
    }

    /// The commands, put to the line.
    pub fn commands(&mut self, store: Store, hands: Hands) -> Commands {
        let incoming = self.line.hear(FILTER);
        let outgoing = self.ends.outgoing.clone();
        Commands { incoming, outgoing, store, clock: self.clock.clone(), boot: commands::boot(), hands }
    }

    pub fn start(
        self,
        metrics: PrometheusHandle,
        alarms: watch::Receiver<Vec<Alarm>>,
        cancel: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let Operators { line, ends, news: _, settings, health, clock } = self;
        let seen = settings.subscribe();
        let metrics = Arc::new(move || metrics.render());
        let reports = Reports::new(seen, ends, health.clone(), clock, metrics, Path::new("/")).with_alarms(alarms);
        let held = cancel.clone();
        vec![
            tokio::spawn(keep("fleet", line, health.clone(), cancel.clone())),
            tokio::spawn(keep("telemetry", reports, health, cancel.clone())),
            // the settings' sender lives as long as the line
            tokio::spawn(async move {
                held.cancelled().await;
                drop(settings);
            }),
        ]
    }
}
