//! The news: takes events from the outbox to the clinic's server.
//!
//! Owns: signed POSTs, their order and repetition. Must not touch: what is said: that was decided when the event was
//! committed.
//! Law: events of one task go in the order of their `seq`, one at a time; a task that waits holds up no other, and an
//! application whose server fails holds up no other application; an event leaves the outbox only when the server has
//! answered 200, or after the configured days, or when more wait than the configured number or bytes: then the least
//! important go first, and of these the newest. What is dropped is counted and told. A crash repeats events, by which `EventId` stays
//! the same.
//! Sources: RECORDING.md §8, API.md §4.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Live};
use crate::crash;
use crate::health::Reporter;
use crate::model::backlog::backoff;
use crate::model::event::Event;
use crate::model::signature::callback_sign;
use crate::model::template::RECORDER;
use crate::model::{SdkAppId, Secret, TaskId, Timestamp};
use crate::store::records::{OUTBOX, OutboxEntry};
use crate::store::{self, Batch, Store};

/// The only source of wall time here.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Requests at once to one application's server while it answers; one that does not is asked one event at a time.
const PER_APP: usize = 4;
/// Requests at once to all servers that answer, and to all that do not: these never have the places of those.
const AT_ONCE: usize = 32;

/// One task's events go one after the other.
type Line = (SdkAppId, TaskId);

/// Drains the outbox.
pub struct Webhook {
    config: Live,
    store: Store,
    clock: WallClock,
    news: Arc<Notify>,
    health: Reporter,
    client: reqwest::Client,
}

/// What of an application is known in this life.
#[derive(Debug, Default)]
struct Server {
    in_flight: usize,
    /// Its last answer was a failure.
    failing: bool,
    /// Events of it that were dropped, until it has taken all that was left.
    dropped: usize,
}

/// Everything that waits, and for whom.
#[derive(Debug, Default)]
struct Outbox {
    queues: BTreeMap<Line, Queue>,
    servers: BTreeMap<SdkAppId, Server>,
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
    /// What it takes in the outbox.
    bytes: u64,
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
    pub fn new(
        config: impl Into<Live>,
        store: Store,
        clock: WallClock,
        news: Arc<Notify>,
        health: Reporter,
    ) -> Result<Webhook, Error> {
        let client = reqwest::Client::builder()
            // only 200 counts, and a proxy of the environment is nobody's setting
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Webhook { config: config.into(), store, clock, news, health, client })
    }

    /// Until `cancel`. Requests in flight are dropped then; their events are still in the outbox.
    pub async fn run(self, cancel: CancellationToken) {
        let webhook = Arc::new(self);
        let mut outbox = Outbox::default();
        let mut flights = JoinSet::<(Line, Outcome)>::new();
        let mut look = true;
        while !cancel.is_cancelled() {
            if look && let Err(error) = webhook.collect(&mut outbox.queues).await {
                tracing::error!(%error, "the outbox cannot be read");
            }
            webhook.drop_old(&mut outbox).await;
            if look {
                webhook.drop_surplus(&mut outbox).await;
            }
            look = false;
            outbox.queues.retain(|_, queue| queue.in_flight || !queue.events.is_empty());
            webhook.tell_health(&mut outbox);
            webhook.launch(&mut outbox, &mut flights);
            let waiting: usize = outbox.queues.values().map(|q| q.events.len()).sum();
            metrics::gauge!("holdfast_outbox_events").set(waiting as f64);

            let due = outbox.queues.values().filter(|q| !q.in_flight).map(|q| q.next_try);
            let wake = due.filter(|at| *at > Instant::now()).min();
            tokio::select! {
                () = cancel.cancelled() => break,
                () = webhook.news.notified() => look = true,
                landed = flights.join_next(), if !flights.is_empty() => match landed {
                    Some(Ok((line, outcome))) => webhook.landed(&mut outbox, &line, outcome),
                    Some(Err(error)) => {
                        tracing::error!(%error, "a callback ended in a panic");
                        outbox.queues.clear();
                        outbox.servers.values_mut().for_each(|server| server.in_flight = 0);
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
            if address(&self.config.now(), &event).is_none() {
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
            let bytes = (key.len() + bytes.len()) as u64;
            queue.events.insert(place, Waiting { key, event, bytes, age, since });
        }
        if !unwanted.is_empty() {
            self.store.commit(unwanted).await?;
        }
        Ok(())
    }

    /// Gives up events that nobody took for the configured time.
    async fn drop_old(&self, outbox: &mut Outbox) {
        let keep = Duration::from_secs(self.config.now().callbacks.keep_hours * 3600);
        for ((app, task), queue) in outbox.queues.iter_mut().filter(|(_, queue)| !queue.in_flight) {
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
                outbox.servers.entry(*app).or_default().dropped += 1;
                queue.events.pop_front();
            }
        }
    }

    /// Of an application for which more wait than may: the least important, and of these the newest.
    async fn drop_surplus(&self, outbox: &mut Outbox) {
        let config = self.config.now();
        let callbacks = &config.callbacks;
        let mut of_app = BTreeMap::<SdkAppId, (usize, u64)>::new();
        for ((app, _), queue) in &outbox.queues {
            let (waiting, bytes) = of_app.entry(*app).or_default();
            *waiting += queue.events.len();
            *bytes += queue.events.iter().map(|w| w.bytes).sum::<u64>();
        }
        for (app, (waiting, bytes)) in of_app {
            let too_many = waiting.saturating_sub(callbacks.keep_events);
            let too_large = bytes.saturating_sub(callbacks.keep_bytes);
            if (too_many, too_large) == (0, 0) {
                continue;
            }
            let mut all = Vec::new();
            for ((_, task), queue) in outbox.queues.iter().filter(|((of, _), _)| *of == app) {
                // the first may be on its way
                let open = queue.events.iter().skip(usize::from(queue.in_flight));
                all.extend(
                    open.map(|w| {
                        (w.event.body.worth(), Reverse((w.event.at, w.event.seq)), task, w.key.clone(), w.bytes)
                    }),
                );
            }
            all.sort();
            let mut freed = 0;
            let surplus = all.into_iter().enumerate().take_while(|(n, (.., bytes))| {
                let wanted = *n < too_many || freed < too_large;
                freed += bytes;
                wanted
            });
            let keys: BTreeSet<String> = surplus.map(|(_, (.., key, _))| key).collect();
            if keys.is_empty() {
                continue;
            }
            let batch = keys.iter().fold(Batch::new(), |batch, key| batch.delete(key.clone()));
            if let Err(error) = self.store.commit(batch).await {
                tracing::error!(%error, %app, "events that are too many cannot be dropped");
                continue;
            }
            tracing::error!(%app, dropped = keys.len(), waiting, bytes, "more events wait than may: the least important are dropped");
            metrics::counter!("holdfast_callbacks_total", "outcome" => "dropped").increment(keys.len() as u64);
            outbox.servers.entry(app).or_default().dropped += keys.len();
            for (_, queue) in outbox.queues.iter_mut().filter(|((of, _), _)| *of == app) {
                queue.events.retain(|w| !keys.contains(&w.key));
            }
        }
    }

    /// What was dropped is told until the application's server has taken all that was left.
    fn tell_health(&self, outbox: &mut Outbox) {
        let mut words = Vec::new();
        for (app, server) in &mut outbox.servers {
            let waits = outbox.queues.keys().any(|(of, _)| of == app);
            if !waits && !server.failing {
                server.dropped = 0;
            }
            if server.dropped > 0 {
                words.push(format!(
                    "{} events of application {app} were dropped: its server does not take them",
                    server.dropped
                ));
            }
        }
        if words.is_empty() {
            self.health.ok("callbacks");
        } else {
            self.health.degraded("callbacks", words.join(", "));
        }
    }

    /// Sends the first event of every task whose time has come.
    fn launch(self: &Arc<Self>, outbox: &mut Outbox, flights: &mut JoinSet<(Line, Outcome)>) {
        let now = Instant::now();
        let Outbox { queues, servers } = outbox;
        // who waits longest goes first
        let mut due: Vec<_> = queues.iter_mut().filter(|(_, q)| !q.in_flight && q.next_try <= now).collect();
        due.sort_by_key(|(_, queue)| queue.next_try);
        let mut busy = [false, true].map(|failing| {
            servers.values().filter(|server| server.failing == failing).map(|server| server.in_flight).sum::<usize>()
        });
        for (line, queue) in due {
            let server = servers.entry(line.0).or_default();
            let most = if server.failing { 1 } else { PER_APP };
            let busy = &mut busy[usize::from(server.failing)];
            let Some(first) = queue.events.front().filter(|_| server.in_flight < most && *busy < AT_ONCE) else {
                continue;
            };
            *busy += 1;
            server.in_flight += 1;
            queue.in_flight = true;
            let (webhook, line, key, event) = (self.clone(), line.clone(), first.key.clone(), first.event.clone());
            flights.spawn(async move {
                let outcome = webhook.deliver(&key, &event).await;
                (line, outcome)
            });
        }
    }

    async fn deliver(&self, key: &str, event: &Event) -> Outcome {
        let config = self.config.now();
        let Some((url, sign)) = address(&config, event) else { return Outcome::Failed("no address".into()) };
        let body = event.to_json((self.clock)());
        // exactly so: receivers compare it as text
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        request = request.timeout(Duration::from_secs(config.callbacks.timeout_seconds.max(1)));
        request = request.header("SdkAppId", event.app.to_string());
        if let Some(key) = sign.filter(|key| !key.is_empty()) {
            request = request.header("Sign", callback_sign(key.expose(), body.as_bytes()));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status() == reqwest::StatusCode::OK => {}
            Ok(answer) => return Outcome::Failed(format!("status {}", answer.status().as_u16())),
            // an address may hold a password
            Err(error) => return Outcome::Failed(chain(&error.without_url())),
        }
        crash::point("webhook.sent");
        match self.store.commit(Batch::new().delete(key)).await {
            Ok(()) => {
                crash::point("webhook.forgotten");
                Outcome::Taken
            }
            Err(error) => {
                tracing::error!(%error, key, "an event that was taken cannot be deleted");
                Outcome::Unrecorded
            }
        }
    }

    fn landed(&self, outbox: &mut Outbox, line: &Line, outcome: Outcome) {
        let server = outbox.servers.entry(line.0).or_default();
        server.in_flight = server.in_flight.saturating_sub(1);
        server.failing = matches!(outcome, Outcome::Failed(_));
        let Some(queue) = outbox.queues.get_mut(line) else { return };
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
                let config = self.config.now();
                let callbacks = &config.callbacks;
                let first = Duration::from_secs(callbacks.retry_first_seconds);
                let longest = Duration::from_secs(callbacks.retry_longest_seconds);
                let wait = backoff(queue.attempts, first, longest, rand::random());
                queue.next_try = Instant::now() + wait;
                metrics::counter!("holdfast_callbacks_total", "outcome" => "failed").increment(1);
                tracing::warn!(%app, %task, seq, event, why, ?wait, "an event was not taken");
            }
        }
    }
}

/// Where an event goes, and the key of its `Sign`: automatic recordings may have an address of their own.
fn address<'a>(config: &'a Config, event: &Event) -> Option<(&'a str, Option<&'a Secret>)> {
    let automatic = &config.automatic;
    if event.recorder.as_str() == RECORDER
        && let Some(url) = &automatic.callback_url
    {
        return Some((url, automatic.callback_key.as_ref()));
    }
    let app = config.app(event.app)?;
    Some((app.callback_url.as_deref().filter(|url| !url.is_empty())?, app.callback_key.as_ref()))
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
