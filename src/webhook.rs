//! The news: takes events from the outbox to the clinic's server.
//!
//! Owns: signed POSTs, their order and repetition. Must not touch: what is said: that was decided when the event was
//! committed.
//! Law: events of one task go in the order of their `seq`, one at a time; a task that waits holds up no other, and an
//! application whose server fails holds up no other application; an event leaves the outbox only when the server has
//! answered 200, or after the configured days, which is told. A crash repeats events, by which `EventId` stays the same.
//! Sources: RECORDING.md §8, API.md §4.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::model::backlog::backoff;
use crate::model::event::Event;
use crate::model::signature::callback_sign;
use crate::model::{SdkAppId, TaskId, Timestamp};
use crate::store::records::{OUTBOX, OutboxEntry};
use crate::store::{self, Batch, Store};

/// The only source of wall time here.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Requests at once to one application's server, and to all.
const PER_APP: usize = 4;
const AT_ONCE: usize = 32;

/// One task's events go one after the other.
type Line = (SdkAppId, TaskId);

/// Drains the outbox.
pub struct Webhook {
    config: Arc<Config>,
    store: Store,
    clock: WallClock,
    news: Arc<Notify>,
    client: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// An event that waits.
#[derive(Debug)]
struct Waiting {
    key: String,
    event: Event,
    /// How old it was when it was taken in, and when that was: a wall clock that is set makes no event old.
    age: Duration,
    since: Instant,
}

/// A task's part of the outbox.
#[derive(Debug)]
struct Queue {
    events: VecDeque<Waiting>,
    attempts: u32,
    next_try: Instant,
    in_flight: bool,
}

/// What came of one try.
enum Outcome {
    Taken,
    /// The server has it, the outbox could not be told.
    Unrecorded,
    Failed(String),
}

impl Webhook {
    /// `news` is notified after each commit that put events into the outbox ([`store::records::put_event`]). A crypto
    /// provider of rustls must be installed in the process.
    pub fn new(config: Arc<Config>, store: Store, clock: WallClock, news: Arc<Notify>) -> Result<Webhook, Error> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(config.callbacks.timeout_seconds.max(1)))
            // only 200 counts, and a proxy of the environment is nobody's setting
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Webhook { config, store, clock, news, client })
    }

    /// Until `cancel`. Requests in flight are dropped then; their events are still in the outbox.
    pub async fn run(self, cancel: CancellationToken) {
        let webhook = Arc::new(self);
        let mut queues = BTreeMap::<Line, Queue>::new();
        let mut flights = JoinSet::<(Line, Outcome)>::new();
        let mut look = true;
        while !cancel.is_cancelled() {
            if look && let Err(error) = webhook.collect(&mut queues).await {
                tracing::error!(%error, "the outbox cannot be read");
            }
            look = false;
            webhook.drop_old(&mut queues).await;
            webhook.launch(&mut queues, &mut flights);
            metrics::gauge!("holdfast_outbox_events")
                .set(queues.values().map(|q| q.events.len()).sum::<usize>() as f64);

            let wake =
                queues.values().filter(|q| !q.in_flight).map(|q| q.next_try).filter(|at| *at > Instant::now()).min();
            tokio::select! {
                () = cancel.cancelled() => break,
                () = webhook.news.notified() => look = true,
                landed = flights.join_next(), if !flights.is_empty() => match landed {
                    Some(Ok((line, outcome))) => webhook.landed(&mut queues, &line, outcome),
                    Some(Err(error)) => {
                        tracing::error!(%error, "a callback ended in a panic");
                        queues.clear();
                        flights.shutdown().await;
                        look = true;
                    }
                    None => {}
                },
                () = sleep_until(wake), if wake.is_some() => {}
                // an outbox that could not be read, and old events, are looked at again in any case
                () = tokio::time::sleep(Duration::from_secs(60)) => look = true,
            }
        }
        flights.shutdown().await;
    }

    /// Takes in what the outbox holds and the queues do not.
    async fn collect(&self, queues: &mut BTreeMap<Line, Queue>) -> Result<(), store::Error> {
        let records = self.store.scan(OUTBOX).await?;
        let known: BTreeSet<String> = queues.values().flat_map(|q| q.events.iter().map(|w| w.key.clone())).collect();
        let mut unwanted = Batch::new();
        for (key, bytes) in records {
            if known.contains(&key) {
                continue;
            }
            let event = match OutboxEntry::from_bytes(&key, &bytes) {
                Ok(entry) => entry.event,
                Err(error) => {
                    tracing::error!(%error, "an event in the outbox cannot be read: dropped");
                    metrics::counter!("holdfast_callbacks_total", "outcome" => "unreadable").increment(1);
                    unwanted = unwanted.delete(key);
                    continue;
                }
            };
            if self.address(event.app).is_none() {
                metrics::counter!("holdfast_callbacks_total", "outcome" => "nobody").increment(1);
                unwanted = unwanted.delete(key);
                continue;
            }
            let queue = queues.entry((event.app, event.task.clone())).or_insert_with(|| Queue {
                events: VecDeque::new(),
                attempts: 0,
                next_try: Instant::now(),
                in_flight: false,
            });
            let place = queue.events.partition_point(|w| w.event.seq < event.seq);
            let (age, since) = ((self.clock)().since(event.at), Instant::now());
            queue.events.insert(place, Waiting { key, event, age, since });
        }
        if !unwanted.is_empty() {
            self.store.commit(unwanted).await?;
        }
        Ok(())
    }

    /// Gives up events that nobody took for the configured time.
    async fn drop_old(&self, queues: &mut BTreeMap<Line, Queue>) {
        let keep = Duration::from_secs(self.config.callbacks.keep_hours * 3600);
        for ((app, task), queue) in queues.iter_mut().filter(|(_, queue)| !queue.in_flight) {
            while let Some(old) = queue.events.front()
                && old.age + old.since.elapsed() > keep
            {
                if let Err(error) = self.store.commit(Batch::new().delete(old.key.clone())).await {
                    tracing::error!(%error, "an old event cannot be dropped");
                    break;
                }
                let (seq, event) = (old.event.seq, old.event.body.event_type());
                tracing::error!(%app, %task, seq, event, "an event was not taken in {} h: dropped", keep.as_secs() / 3600);
                metrics::counter!("holdfast_callbacks_total", "outcome" => "dropped").increment(1);
                queue.events.pop_front();
            }
        }
        queues.retain(|_, queue| queue.in_flight || !queue.events.is_empty());
    }

    /// Sends the first event of every task whose time has come.
    fn launch(self: &Arc<Self>, queues: &mut BTreeMap<Line, Queue>, flights: &mut JoinSet<(Line, Outcome)>) {
        let now = Instant::now();
        let mut of_app = BTreeMap::<SdkAppId, usize>::new();
        for ((app, _), _) in queues.iter().filter(|(_, queue)| queue.in_flight) {
            *of_app.entry(*app).or_default() += 1;
        }
        // who waits longest goes first
        let mut due: Vec<_> = queues.iter_mut().filter(|(_, q)| !q.in_flight && q.next_try <= now).collect();
        due.sort_by_key(|(_, queue)| queue.next_try);
        for (line, queue) in due {
            let busy = of_app.entry(line.0).or_default();
            let Some(first) = queue.events.front().filter(|_| *busy < PER_APP && flights.len() < AT_ONCE) else {
                continue;
            };
            *busy += 1;
            queue.in_flight = true;
            let (webhook, line, key, event) = (self.clone(), line.clone(), first.key.clone(), first.event.clone());
            flights.spawn(async move {
                let outcome = webhook.deliver(&key, &event).await;
                (line, outcome)
            });
        }
    }

    async fn deliver(&self, key: &str, event: &Event) -> Outcome {
        let Some((app, url)) = self.address(event.app) else { return Outcome::Failed("no address".into()) };
        let body = event.to_json((self.clock)());
        // exactly so: receivers compare it as text
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        request = request.header("SdkAppId", event.app.to_string());
        if let Some(key) = app.callback_key.as_ref().filter(|key| !key.is_empty()) {
            request = request.header("Sign", callback_sign(key.expose(), body.as_bytes()));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status() == reqwest::StatusCode::OK => {}
            Ok(answer) => return Outcome::Failed(format!("status {}", answer.status().as_u16())),
            // an address may hold a password
            Err(error) => return Outcome::Failed(chain(&error.without_url())),
        }
        match self.store.commit(Batch::new().delete(key)).await {
            Ok(()) => Outcome::Taken,
            Err(error) => {
                tracing::error!(%error, key, "an event that was taken cannot be deleted");
                Outcome::Unrecorded
            }
        }
    }

    fn landed(&self, queues: &mut BTreeMap<Line, Queue>, line: &Line, outcome: Outcome) {
        let Some(queue) = queues.get_mut(line) else { return };
        queue.in_flight = false;
        let (app, task) = line;
        let Some((seq, event)) = queue.events.front().map(|w| (w.event.seq, w.event.body.event_type())) else { return };
        match outcome {
            Outcome::Taken | Outcome::Unrecorded => {
                metrics::counter!("holdfast_callbacks_total", "outcome" => "ok").increment(1);
                tracing::debug!(%app, %task, seq, event, "told");
                queue.events.pop_front();
                queue.attempts = 0;
                queue.next_try = Instant::now();
            }
            Outcome::Failed(why) => {
                queue.attempts = queue.attempts.saturating_add(1);
                let callbacks = &self.config.callbacks;
                let first = Duration::from_secs(callbacks.retry_first_seconds);
                let longest = Duration::from_secs(callbacks.retry_longest_seconds);
                let wait = backoff(queue.attempts, first, longest, rand::random());
                queue.next_try = Instant::now() + wait;
                metrics::counter!("holdfast_callbacks_total", "outcome" => "failed").increment(1);
                tracing::warn!(%app, %task, seq, event, why, ?wait, "an event was not taken");
            }
        }
        if queue.events.is_empty() {
            queues.remove(line);
        }
    }

    fn address(&self, app: SdkAppId) -> Option<(&config::App, &str)> {
        let app = self.config.app(app)?;
        Some((app, app.callback_url.as_deref().filter(|url| !url.is_empty())?))
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
