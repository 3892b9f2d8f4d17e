//! How the box is, in figures: at every change that matters, and at an interval.
//!
//! Owns: the shape of `telemetry`, and when it is sent. Must not touch: what it reads of.
//! Law: every figure is one that the box knows by itself; what it does not know is null. Nothing is measured while
//! nobody listens: who comes back gets fresh figures at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::line::Ends;
use super::sensors::{CpuTicks, Sensors, Throttling};
use super::{Class, Figures, Outgoing, Part, rfc3339};
use crate::config::Fleet;
use crate::health::{Reporter, Summary};
use crate::model::WallClock;
use crate::model::alarm::Alarm;

/// How often is looked for a change.
const LOOK: Duration = Duration::from_secs(2);

/// The box's own metrics, in the text format of Prometheus.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Telemetry {
    at: String,
    version: &'static str,
    uptime_seconds: u64,
    #[serde(flatten)]
    condition: Condition,
    packets: Packets,
    spool: SpoolFigures,
    upload: UploadFigures,
    disk: DiskFigures,
    cpu: CpuFigures,
    temperature_celsius: Option<f64>,
    broker: BrokerFigures,
}

/// A change of it is told at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Condition {
    health: Health,
    recording: bool,
    tasks: u64,
    /// Ended, and their files are still on their way.
    tasks_draining: u64,
    rooms: u64,
    sessions: u64,
    streams: u64,
    lanes: u64,
    /// Of mixed recordings that run.
    encoders: Vec<String>,
    throttling: Option<Throttling>,
    time_synchronized: Option<bool>,
    /// What is wrong with what is recorded; absent: nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Health {
    state: &'static str,
    reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Packets {
    received: u64,
    lost: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SpoolFigures {
    files: u64,
    bytes: u64,
    oldest_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct UploadFigures {
    bytes: u64,
    /// Since the last telemetry.
    bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct DiskFigures {
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CpuFigures {
    /// Of all processors, since the last telemetry.
    busy_percent: Option<u64>,
    load: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct BrokerFigures {
    waiting: u64,
    waiting_bytes: u64,
    dropped_events: u64,
    dropped_replies: u64,
}

/// What telemetry was told of last.
#[derive(Debug, Clone)]
struct Before {
    at: Instant,
    uploaded: u64,
    cpu: Option<CpuTicks>,
}

/// Sends telemetry.
pub struct Reports {
    settings: watch::Receiver<Arc<Fleet>>,
    ends: Ends,
    health: Reporter,
    clock: WallClock,
    metrics: Metrics,
    sensors: Sensors,
    began: Instant,
    before: Option<Before>,
    told: Option<(Condition, Figures)>,
    alarms: Option<watch::Receiver<Vec<Alarm>>>,
}

impl Reports {
    /// `root` is `/`.
    pub fn new(
        settings: watch::Receiver<Arc<Fleet>>,
        ends: Ends,
        health: Reporter,
        clock: WallClock,
        metrics: Metrics,
        root: &Path,
    ) -> Reports {
        let sensors = Sensors::of(root);
        Reports {
            settings,
            ends,
            health,
            clock,
            metrics,
            sensors,
            began: Instant::now(),
            before: None,
            told: None,
            alarms: None,
        }
    }

    /// Lists these as well.
    pub fn with_alarms(self, alarms: watch::Receiver<Vec<Alarm>>) -> Reports {
        Reports { alarms: Some(alarms), ..self }
    }

    /// Looks, and sends what is new or due.
    async fn look(&mut self, due: bool) {
        let (metrics, sensors) = (self.metrics.clone(), self.sensors.clone());
        // a sensor may take its time
        let read = tokio::task::spawn_blocking(move || (Exposed::parse(&metrics()), Board::read(&sensors))).await;
        let Ok((exposed, board)) = read else { return };
        let figures = *self.ends.figures.borrow();
        let mut condition = condition(&self.health.summary(), &exposed, &board);
        condition.alarms = self.alarms.as_ref().map(|alarms| alarms.borrow().clone()).unwrap_or_default();
        let dropped = |figures: &Figures| (figures.dropped_events, figures.dropped_replies);
        let same = |(told, of_line): &(Condition, Figures)| *told == condition && dropped(of_line) == dropped(&figures);
        if !due && self.told.as_ref().is_some_and(same) {
            return;
        }
        let telemetry = self.telemetry(condition.clone(), &exposed, &board, figures);
        let payload = serde_json::to_vec(&telemetry).expect("text keys and finite numbers");
        let message = Outgoing { topic: "telemetry".into(), payload, retain: true, class: Class::State };
        if self.ends.outgoing.send(message).await.is_ok() {
            self.told = Some((condition, figures));
        }
    }

    fn telemetry(&mut self, condition: Condition, exposed: &Exposed, board: &Board, figures: Figures) -> Telemetry {
        let count = |name: &str| exposed.sum(name).unwrap_or_default() as u64;
        let uploaded = count("holdfast_uploaded_bytes_total") + count("holdfast_package_uploaded_bytes_total");
        let now = Instant::now();
        let before = self.before.replace(Before { at: now, uploaded, cpu: board.cpu });
        let rate = before.as_ref().and_then(|before| {
            let ms = u64::try_from(now.duration_since(before.at).as_millis()).ok().filter(|ms| *ms > 0)?;
            Some(uploaded.saturating_sub(before.uploaded).saturating_mul(1000) / ms)
        });
        let busy = before.and_then(|before| {
            let (old, new) = (before.cpu?, board.cpu?);
            let all = new.all.checked_sub(old.all).filter(|all| *all > 0)?;
            Some((new.busy.saturating_sub(old.busy) * 100 / all).min(100))
        });
        let files = count("holdfast_spool_files");
        let known = |name: &str| exposed.sum(name).map(|value| value as u64);
        Telemetry {
            at: rfc3339((self.clock)()),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.began.elapsed().as_secs(),
            condition,
            packets: Packets { received: count("holdfast_rtp_packets_total"), lost: count("holdfast_rtp_lost_total") },
            spool: SpoolFigures {
                files,
                bytes: count("holdfast_spool_bytes"),
                oldest_seconds: known("holdfast_spool_oldest_seconds").filter(|_| files > 0),
            },
            upload: UploadFigures { bytes: uploaded, bytes_per_second: rate },
            disk: DiskFigures {
                free_bytes: known("holdfast_disk_free_bytes"),
                total_bytes: known("holdfast_disk_total_bytes"),
            },
            cpu: CpuFigures { busy_percent: busy, load: board.load },
            temperature_celsius: board.temperature,
            broker: BrokerFigures {
                waiting: figures.waiting,
                waiting_bytes: figures.waiting_bytes,
                dropped_events: figures.dropped_events,
                dropped_replies: figures.dropped_replies,
            },
        }
    }
}

impl Part for Reports {
    async fn live(&mut self, cancel: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut health = self.health.watch();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None::<Instant>;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Ok(()) = health.changed() => {}
                Ok(()) = self.ends.connected.changed() => {
                    // who listens from now on knows nothing of what was told before
                    if *self.ends.connected.borrow_and_update() {
                        last = None;
                    }
                }
                _ = look.tick() => {}
            }
            if !*self.ends.connected.borrow() {
                continue;
            }
            let every = Duration::from_secs(self.settings.borrow().telemetry_seconds);
            let due = last.is_none_or(|at| at.elapsed() >= every);
            if due {
                last = Some(Instant::now());
            }
            self.look(due).await;
        }
    }
}

fn condition(summary: &Summary, exposed: &Exposed, board: &Board) -> Condition {
    let count = |name: &str| exposed.sum(name).unwrap_or_default() as u64;
    let (state, reasons) = match summary {
        Summary::Starting => ("starting", Vec::new()),
        Summary::Idle => ("idle", Vec::new()),
        Summary::Recording => ("recording", Vec::new()),
        Summary::Degraded(why) => ("degraded", why.clone()),
        Summary::Failed(why) => ("failed", why.clone()),
        Summary::Stopping => ("stopping", Vec::new()),
    };
    let lanes = count("holdfast_lanes");
    Condition {
        health: Health { state, reasons },
        recording: lanes > 0,
        tasks: count("holdfast_tasks"),
        tasks_draining: count("holdfast_tasks_draining"),
        rooms: count("holdfast_rooms"),
        sessions: count("holdfast_sessions"),
        streams: count("holdfast_tracks"),
        lanes,
        encoders: exposed.labels("holdfast_encoders", "encoder"),
        throttling: board.throttling,
        time_synchronized: board.time_synchronized,
        alarms: Vec::new(),
    }
}

/// One reading of the sensors.
struct Board {
    cpu: Option<CpuTicks>,
    load: Option<f64>,
    temperature: Option<f64>,
    throttling: Option<Throttling>,
    time_synchronized: Option<bool>,
}

impl Board {
    fn read(sensors: &Sensors) -> Board {
        Board {
            cpu: sensors.cpu(),
            load: sensors.load(),
            temperature: sensors.temperature(),
            throttling: sensors.throttling(),
            time_synchronized: sensors.time_synchronized(),
        }
    }
}

/// The metrics, by name and labels.
#[derive(Debug, Default)]
struct Exposed(BTreeMap<String, Vec<(String, f64)>>);

impl Exposed {
    fn parse(text: &str) -> Exposed {
        let mut all = BTreeMap::<String, Vec<(String, f64)>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some(value) = value.parse::<f64>().ok().filter(|value| value.is_finite()) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            all.entry(name.to_owned()).or_default().push((labels.trim_end_matches('}').to_owned(), value));
        }
        Exposed(all)
    }

    /// Over all labels; `None`: nothing of the name was ever counted.
    fn sum(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|series| series.iter().map(|(_, value)| value).sum())
    }

    /// Values of a label where the figure is above 0.
    fn labels(&self, name: &str, label: &str) -> Vec<String> {
        let series = self.0.get(name).into_iter().flatten().filter(|(_, value)| *value > 0.0);
        let start = format!("{label}=\"");
        let value = |labels: &str| Some(labels.split(&start).nth(1)?.split('"').next()?.to_owned());
        let mut values: Vec<String> = series.filter_map(|(labels, _)| value(labels)).collect();
        values.sort();
        values
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::model::Timestamp;

    const TEXT: &str = "# TYPE holdfast_rtp_lost_total counter\nholdfast_rtp_lost_total{kind=\"audio\"} 3\n\
        holdfast_rtp_lost_total{kind=\"video\"} 4\nholdfast_tasks 2\nholdfast_lanes 1\n\
        holdfast_encoders{encoder=\"x264enc\"} 1\nholdfast_encoders{encoder=\"v4l2h264enc\"} 0\n\
        holdfast_disk_free_bytes 123456\nholdfast_spool_oldest_seconds 0\ntorn NaN\n";

    struct Told {
        reports: Reports,
        out: mpsc::Receiver<Outgoing>,
        _board: tempfile::TempDir,
    }

    fn reports(text: Arc<std::sync::Mutex<String>>) -> Told {
        let board = tempfile::tempdir().unwrap();
        let (outgoing, out) = mpsc::channel(8);
        let (_, settings) = watch::channel(Arc::new(Fleet::default()));
        let figures = Figures { waiting: 1, waiting_bytes: 2, dropped_events: 3, dropped_replies: 0 };
        let ends = Ends { outgoing, connected: watch::channel(true).1, figures: watch::channel(figures).1 };
        let metrics: Metrics = Arc::new(move || text.lock().unwrap().clone());
        let clock: WallClock = Arc::new(|| Timestamp::from_ms(0));
        let reports = Reports::new(settings, ends, Reporter::default(), clock, metrics, board.path());
        Told { reports, out, _board: board }
    }

    fn next(out: &mut mpsc::Receiver<Outgoing>) -> Option<Value> {
        out.try_recv().ok().map(|message| serde_json::from_slice(&message.payload).unwrap())
    }

    #[tokio::test]
    async fn figures_are_those_of_the_box_and_what_it_does_not_know_is_null() {
        let mut told = reports(Arc::new(TEXT.to_owned().into()));
        told.reports.look(true).await;
        let telemetry = next(&mut told.out).unwrap();
        assert_eq!(telemetry["at"], "1970-01-01T00:00:00Z");
        assert_eq!(telemetry["health"], json!({ "state": "starting", "reasons": [] }));
        assert_eq!((&telemetry["tasks"], &telemetry["recording"]), (&json!(2), &json!(true)));
        assert_eq!(telemetry["packets"], json!({ "received": 0, "lost": 7 }));
        assert_eq!(telemetry["encoders"], json!(["x264enc"]));
        assert_eq!(telemetry["disk"], json!({ "free_bytes": 123_456, "total_bytes": null }));
        assert_eq!(telemetry["spool"]["oldest_seconds"], Value::Null);
        assert_eq!(telemetry["cpu"], json!({ "busy_percent": null, "load": null }));
        for path in ["temperature_celsius", "throttling", "time_synchronized"] {
            assert_eq!(telemetry[path], Value::Null, "{path}");
        }
        assert_eq!(telemetry["broker"]["dropped_events"], 3);
    }

    #[tokio::test]
    async fn alarms_are_listed_while_they_are_active() {
        use crate::model::alarm::Kind;
        use crate::model::{MediaId, RoomId, RoomKey, SdkAppId, UserId};

        let told = reports(Arc::new(TEXT.to_owned().into()));
        let (alarms, seen) = watch::channel(Vec::new());
        let (mut reports, mut out) = (told.reports.with_alarms(seen), told.out);
        reports.look(true).await;
        assert_eq!(next(&mut out).unwrap().get("alarms"), None);
        alarms.send_replace(vec![Alarm {
            kind: Kind::Black,
            room: RoomKey { app: SdkAppId(1), room: RoomId::Text("ward".into()) },
            task: None,
            user: Some(UserId::parse("bob").unwrap()),
            stream: MediaId::Main,
            since: Timestamp::from_ms(1500),
            text: "bob in room ward has been black for 60 s".into(),
        }]);
        reports.look(false).await;
        assert_eq!(
            next(&mut out).unwrap()["alarms"],
            json!([{
                "kind": "black", "room": "ward", "user": "bob", "stream": "main", "since": "1970-01-01T00:00:01.5Z",
                "text": "bob in room ward has been black for 60 s",
            }])
        );
    }

    #[tokio::test]
    async fn only_what_matters_is_told_before_its_time() {
        let text = Arc::new(std::sync::Mutex::new(TEXT.to_owned()));
        let mut told = reports(text.clone());
        told.reports.look(true).await;
        assert!(next(&mut told.out).is_some());
        *text.lock().unwrap() = TEXT.replace("123456", "123");
        told.reports.look(false).await;
        assert!(next(&mut told.out).is_none(), "a byte more or less is no news");
        *text.lock().unwrap() = TEXT.replace("holdfast_tasks 2", "holdfast_tasks 3");
        told.reports.look(false).await;
        assert_eq!(next(&mut told.out).unwrap()["tasks"], 3);
        told.reports.health.started();
        told.reports.look(false).await;
        assert_eq!(next(&mut told.out).unwrap()["health"]["state"], "idle");
    }
}
