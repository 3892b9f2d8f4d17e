//! The session with the broker: opened again for ever, and everything that goes over it.
//!
//! Owns: connecting, birth and will, sending what waits, handing on what comes in. Must not touch: what messages mean.
//! Law: birth and will carry the number of their session, which rises with every session: a will of an older one, or of
//! this one while it lives, is answered with the birth, so that the retained state is true. A message counts as sent
//! when the broker has acknowledged it, and as heard when its part has it. Nothing that a broker does or says ends more
//! than its session.
//! Source: MQTT 5.0 §3.1.2.5 (will), §4.4 (delivery), §4.6 (order).

mod broker;
mod session;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::Outgoing as Went;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, Publish, SubscribeReasonCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::broker::{Refusal, WINDOW, options};
use self::session::{Sent, Session};
use super::queue::{Bounds, Content, Id, Queue, announced, last_session, note_announced, note_session};
use super::{Figures, Incoming, Outgoing, discovery, rfc3339, root};
use crate::config::Fleet;
use crate::health::Reporter;
use crate::model::WallClock;
use crate::model::backlog::backoff;
use crate::store::{self, Store};

/// Messages of the box's parts that wait for the line to look at them.
const PARTS: usize = 256;
/// Messages of the operators that wait for the part that they are meant for.
const HEARD: usize = 64;
/// Acknowledged messages are forgotten in groups, this late at most.
const FORGET: Duration = Duration::from_millis(50);
const FORGET_AT: usize = 64;
/// What the broker refused is offered again so much later.
const OFFER_AGAIN: Duration = Duration::from_secs(60);
/// Events are looked for so late while nobody takes them, or many wait: a look reads all that wait.
const COLLECT: Duration = Duration::from_secs(5);
const MANY: usize = 1000;
/// A part that takes nothing is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A session of this length begins a new row of failures.
const STEADY: Duration = Duration::from_secs(60);
/// At the end: for what waits, and for the last word.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
const LAST_WORD: Duration = Duration::from_secs(1);
/// Numbers beyond it cannot be told exactly by everybody who reads JSON.
const MOST_SESSIONS: u64 = 1 << 53;

struct Listener {
    filter: &'static str,
    to: mpsc::Sender<Incoming>,
}

/// The box's side of the broker.
pub struct Line {
    settings: watch::Receiver<Arc<Fleet>>,
    store: Store,
    clock: WallClock,
    health: Reporter,
    news: Arc<Notify>,
    outgoing: mpsc::Receiver<Outgoing>,
    listeners: Vec<Listener>,
    connected: watch::Sender<bool>,
    figures: watch::Sender<Figures>,
}

/// What the box's parts hold of the line. Cloned freely.
#[derive(Clone)]
pub struct Ends {
    pub outgoing: mpsc::Sender<Outgoing>,
    /// Whether there is a session.
    pub connected: watch::Receiver<bool>,
    /// How it goes.
    pub figures: watch::Receiver<Figures>,
}

impl Line {
    /// `news` is notified after each commit that put events down for the operators. A crypto provider of rustls must be
    /// installed in the process.
    pub fn new(
        settings: watch::Receiver<Arc<Fleet>>,
        store: Store,
        clock: WallClock,
        health: Reporter,
        news: Arc<Notify>,
    ) -> (Line, Ends) {
        let (to, outgoing) = mpsc::channel(PARTS);
        let (connected, is_connected) = watch::channel(false);
        let (figures, seen) = watch::channel(Figures::default());
        let line = Line { settings, store, clock, health, news, outgoing, listeners: Vec::new(), connected, figures };
        (line, Ends { outgoing: to, connected: is_connected, figures: seen })
    }

    /// What is sent to topics below the box's own that match `filter` (`+` stands for one level).
    pub fn hear(&mut self, filter: &'static str) -> mpsc::Receiver<Incoming> {
        let (to, heard) = mpsc::channel(HEARD);
        self.listeners.push(Listener { filter, to });
        heard
    }

    /// One life, until `cancel`; says good-bye then.
    pub async fn run(&mut self, cancel: CancellationToken) -> Result<(), store::Error> {
        // a life before this one may have ended in the middle
        self.connected.send_replace(false);
        let bounds = bounds(&self.settings.borrow_and_update());
        let queue = Queue::open(self.store.clone(), bounds).await?;
        let last = last_session(&self.store).await?;
        let announced = announced(&self.store).await?;
        let now = Instant::now();
        let mut life = Life {
            told_dropped: queue.dropped(),
            line: self,
            queue,
            link: Link::Down { due: Some(now) },
            last,
            noted: last,
            attempts: 0,
            away_since: now,
            why: "no session yet".into(),
            acknowledged: Vec::new(),
            forget_at: None,
            collect_at: None,
            refused: Vec::new(),
            offer_at: None,
            announced,
        };
        life.live(cancel).await;
        Ok(())
    }
}

fn bounds(fleet: &Fleet) -> Bounds {
    Bounds { messages: fleet.keep_messages, bytes: fleet.keep_bytes }
}

/// Whether the session of `old` is good under `new`, too.
fn same_session(old: &Fleet, new: &Fleet) -> bool {
    let Fleet { retry_first_seconds, retry_longest_seconds, unreachable_minutes, telemetry_seconds, .. } = *new;
    let (keep_messages, keep_bytes) = (new.keep_messages, new.keep_bytes);
    let of_old = Fleet {
        retry_first_seconds,
        retry_longest_seconds,
        unreachable_minutes,
        telemetry_seconds,
        keep_messages,
        keep_bytes,
        ..old.clone()
    };
    of_old == *new
}

enum Link {
    /// `None`: nobody wants a session.
    Down {
        due: Option<Instant>,
    },
    Open(Box<Session>),
}

/// One life of the line.
struct Life<'a> {
    line: &'a mut Line,
    queue: Queue,
    link: Link,
    /// The greatest number of a session that a broker may have heard of.
    last: u64,
    /// The greatest number that is noted in the index.
    noted: u64,
    /// Failures in a row.
    attempts: u32,
    away_since: Instant,
    why: String,
    acknowledged: Vec<Id>,
    forget_at: Option<Instant>,
    collect_at: Option<Instant>,
    refused: Vec<Id>,
    offer_at: Option<Instant>,
    told_dropped: super::queue::Dropped,
    /// Below which prefix Home Assistant was told of the box.
    announced: Option<String>,
}

impl Link {
    async fn event(&mut self) -> Option<Result<Box<Event>, Refusal>> {
        match self {
            Link::Open(session) => session.events.recv().await,
            Link::Down { .. } => std::future::pending().await,
        }
    }
}

/// What the line wakes up for.
enum Turn {
    Stop,
    Message(Outgoing),
    News,
    Session(Option<Result<Box<Event>, Refusal>>),
    Settings,
    Time,
}

impl Life<'_> {
    async fn live(&mut self, cancel: CancellationToken) {
        loop {
            self.send_what_waits();
            self.tell();
            let wake = self.wake();
            let Life { line, link, .. } = self;
            let turn = tokio::select! {
                biased;
                () = cancel.cancelled() => Turn::Stop,
                event = link.event() => Turn::Session(event),
                () = changed(&mut line.settings) => Turn::Settings,
                Some(message) = line.outgoing.recv() => Turn::Message(message),
                () = line.news.notified() => Turn::News,
                () = sleep_until(wake) => Turn::Time,
            };
            match turn {
                Turn::Stop => break,
                Turn::Message(message) => self.queue.put(message, (self.line.clock)()).await,
                Turn::News => {
                    let at_once = self.is_up() && self.queue.len() < MANY;
                    let wait = if at_once { Duration::ZERO } else { COLLECT };
                    self.collect_at.get_or_insert(Instant::now() + wait);
                }
                Turn::Session(event) => self.heard(event).await,
                Turn::Settings => self.settings_changed().await,
                Turn::Time => {}
            }
            self.on_time().await;
        }
        self.farewell().await;
    }

    /// When something is due although nothing happens.
    fn wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let (due, held) = match &self.link {
            Link::Down { due } => (*due, None),
            Link::Open(session) => (None, (!session.held.is_empty()).then(|| now + ASK_AGAIN)),
        };
        let told = self.away_since + self.line.settings.borrow().unreachable_after();
        let tell = (!self.is_up() && told > now).then_some(told);
        [due, held, self.forget_at, self.collect_at, self.offer_at, tell].into_iter().flatten().min()
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        if self.forget_at.is_some_and(|at| at <= now) || self.acknowledged.len() >= FORGET_AT {
            self.forget().await;
        }
        if self.collect_at.is_some_and(|at| at <= now) {
            self.collect().await;
        }
        if self.offer_at.is_some_and(|at| at <= now) {
            self.offer_at = None;
            std::mem::take(&mut self.refused).into_iter().for_each(|id| self.queue.again(id));
        }
        self.hand_on();
        if matches!(&self.link, Link::Down { due: Some(due) } if *due <= now) {
            self.connect().await;
        }
        self.tell_health();
    }

    fn is_up(&self) -> bool {
        matches!(&self.link, Link::Open(session) if session.up)
    }

    async fn collect(&mut self) {
        self.collect_at = None;
        if let Err(error) = self.queue.collect().await {
            tracing::error!(%error, "the events for the broker cannot be read");
        }
    }

    async fn forget(&mut self) {
        self.forget_at = None;
        let ids = std::mem::take(&mut self.acknowledged);
        self.queue.acknowledged(&ids).await;
    }

    async fn connect(&mut self) {
        let fleet = self.line.settings.borrow().clone();
        if !fleet.enabled {
            self.link = Link::Down { due: None };
            return;
        }
        let number = self.last + 1;
        if self.noted < number {
            match note_session(&self.line.store, number).await {
                Ok(()) => self.noted = number,
                Err(error) => tracing::error!(%error, "the session's number cannot be noted: it may come again"),
            }
        }
        let state = |online: bool| {
            json!({
                "session": number,
                "online": online,
                "since": rfc3339((self.line.clock)()),
                "version": env!("CARGO_PKG_VERSION"),
            })
            .to_string()
        };
        let (birth, will) = (state(true), state(false));
        let (for_options, topic) = (fleet.clone(), format!("{}state", root(&fleet.box_id)));
        let made = tokio::task::spawn_blocking(move || options(&for_options, (&topic, &will))).await;
        let options = match made {
            Ok(Ok(options)) => options,
            Ok(Err(why)) => return self.down(Refusal::before(why)).await,
            Err(error) => return self.down(Refusal::before(error.to_string())).await,
        };
        tracing::debug!(broker = fleet.broker, session = number, "connecting");
        self.link = Link::Open(Box::new(Session::open(number, fleet, options, birth)));
    }

    /// The session is over, or did not come to be.
    async fn down(&mut self, refusal: Refusal) {
        self.forget().await;
        let was_up = self.is_up();
        let mut steady = false;
        if let Link::Open(session) = &self.link {
            steady = session.up && session.began.elapsed() >= STEADY;
            if refusal.heard || session.up {
                self.last = self.last.max(session.number);
            }
            if let (true, Some(Sent::Kept(id))) = (refusal.too_large, session.sending.front().copied()) {
                tracing::error!(why = refusal.why, "a message is dropped: no session could carry it");
                self.queue.refuse(id).await;
            }
        }
        self.queue.unsent();
        self.refused.clear();
        self.offer_at = None;
        if was_up {
            self.line.connected.send_replace(false);
            self.away_since = Instant::now();
        }
        self.attempts = if steady { 1 } else { self.attempts.saturating_add(1) };
        let fleet = self.line.settings.borrow().clone();
        let first = Duration::from_secs(fleet.retry_first_seconds);
        let longest = Duration::from_secs(fleet.retry_longest_seconds);
        let wait = backoff(self.attempts, first, longest, rand::random());
        metrics::counter!("holdfast_fleet_sessions_lost_total").increment(1);
        if refusal.taken_over {
            tracing::error!(box_id = fleet.box_id, "another client of the broker has this box's name");
        }
        if was_up || refusal.why != self.why {
            tracing::warn!(broker = fleet.broker, why = refusal.why, ?wait, "no session with the broker");
        } else {
            tracing::debug!(broker = fleet.broker, why = refusal.why, ?wait, "no session with the broker");
        }
        self.why = refusal.why;
        self.link = Link::Down { due: Some(Instant::now() + wait) };
    }

    async fn heard(&mut self, event: Option<Result<Box<Event>, Refusal>>) {
        let event = match event {
            Some(Ok(event)) => *event,
            Some(Err(refusal)) => return self.down(refusal).await,
            None => return self.down(Refusal { heard: true, ..Refusal::before("the session broke".into()) }).await,
        };
        let Link::Open(session) = &mut self.link else { return };
        match event {
            Event::Outgoing(Went::Publish(packet)) => {
                if let Some(what) = session.sending.pop_front() {
                    session.in_flight.insert(packet, what);
                }
            }
            Event::Incoming(Packet::ConnAck(_)) => self.greet().await,
            Event::Incoming(Packet::PubAck(ack)) => {
                let Some(what) = session.in_flight.remove(&ack.pkid) else { return };
                let taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                match what {
                    Sent::Kept(id) if taken => {
                        self.acknowledged.push(id);
                        self.forget_at.get_or_insert_with(|| Instant::now() + FORGET);
                    }
                    Sent::Kept(id) => {
                        metrics::counter!("holdfast_fleet_refused_total").increment(1);
                        tracing::warn!(reason = ?ack.reason, "the broker refuses a message; it is offered again");
                        self.refused.push(id);
                        self.offer_at.get_or_insert_with(|| Instant::now() + OFFER_AGAIN);
                    }
                    Sent::Birth if !taken => {
                        tracing::error!(reason = ?ack.reason, "the broker does not let the box tell its state");
                        session.births = session.births.saturating_sub(1);
                    }
                    Sent::Birth | Sent::Passing => {}
                }
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                for (filter, code) in session.filters.iter().zip(&ack.return_codes) {
                    if !matches!(code, SubscribeReasonCode::Success(_)) {
                        tracing::error!(filter, ?code, "the broker does not let the box hear a topic");
                    }
                }
            }
            Event::Incoming(Packet::Publish(publish)) => self.message(publish).await,
            _ => {}
        }
    }

    /// A session is there: subscriptions first, so that the birth comes back.
    async fn greet(&mut self) {
        let Link::Open(session) = &mut self.link else { return };
        session.up = true;
        session.began = Instant::now();
        session.filters = std::iter::once("state").chain(self.line.listeners.iter().map(|l| l.filter)).collect();
        let filters = session.filters.iter().map(|filter| Filter::new(session.topic(filter), QoS::AtLeastOnce));
        if let Err(error) = session.client.try_subscribe_many(filters.collect::<Vec<_>>()) {
            tracing::debug!(%error, "the session takes no subscription");
        }
        session.bear();
        let (fleet, number) = (session.fleet.clone(), session.number);
        self.last = self.last.max(number);
        let away = self.away_since.elapsed();
        tracing::info!(
            broker = fleet.broker,
            session = number,
            ?away,
            waiting = self.queue.len(),
            "the broker is there"
        );
        let (dropped, told) = (self.queue.dropped(), self.told_dropped);
        if dropped != told {
            let (events, replies) = (dropped.events - told.events, dropped.replies - told.replies);
            tracing::warn!(events, replies, "what had to be dropped while the broker was away");
            self.told_dropped = dropped;
        }
        self.announce(&fleet).await;
        if self.collect_at.is_some() {
            self.collect().await;
        }
        self.line.connected.send_replace(true);
    }

    /// Tells Home Assistant of the box, or takes back what it was told.
    async fn announce(&mut self, fleet: &Fleet) {
        let wanted = fleet.home_assistant.then(|| fleet.home_assistant_prefix.clone());
        let Link::Open(session) = &mut self.link else { return };
        if let Some(old) = self.announced.as_ref().filter(|old| wanted.as_ref() != Some(*old)) {
            for (topic, _) in discovery::configs(old, &fleet.box_id) {
                session.publish(topic, Vec::new(), true, Sent::Passing);
            }
        }
        for (topic, config) in wanted.iter().flat_map(|prefix| discovery::configs(prefix, &fleet.box_id)) {
            session.publish(topic, config.to_string().into_bytes(), true, Sent::Passing);
        }
        if self.announced != wanted {
            match note_announced(&self.line.store, wanted.as_deref()).await {
                Ok(()) => self.announced = wanted,
                Err(error) => tracing::error!(%error, "that Home Assistant was told cannot be noted"),
            }
        }
    }

    async fn message(&mut self, publish: Publish) {
        let Link::Open(session) = &mut self.link else { return };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let below = topic.strip_prefix(&root(&session.fleet.box_id)).unwrap_or_default();
        if below == "state" {
            session.acknowledge(&publish);
            return self.own_state(&publish.payload).await;
        }
        match self.line.listeners.iter().position(|listener| matches(listener.filter, below)) {
            // of those that need no acknowledgement any number may come
            Some(_) if session.held.len() >= 4 * usize::from(WINDOW) => {
                tracing::warn!(topic, "a message of the broker is dropped: too many wait");
                session.acknowledge(&publish);
            }
            Some(listener) => session.held.push_back((listener, publish)),
            None => session.acknowledge(&publish),
        }
    }

    /// What the broker tells everybody of this box.
    async fn own_state(&mut self, payload: &[u8]) {
        let Link::Open(session) = &mut self.link else { return };
        let told: Option<(u64, bool)> = serde_json::from_slice::<Value>(payload)
            .ok()
            .and_then(|state| Some((state["session"].as_u64()?, state["online"].as_bool()?)))
            .filter(|(number, _)| *number < MOST_SESSIONS);
        match told {
            Some((number, true)) if number == session.number => session.births = session.births.saturating_sub(1),
            Some((number, _)) if number > session.number => {
                tracing::error!(
                    number,
                    own = session.number,
                    "the broker knows of a later session of this box: the index has lost it, or another box has its name"
                );
                self.last = self.last.max(number);
                let why = "its number is taken".to_owned();
                self.down(Refusal { heard: true, ..Refusal::before(why) }).await;
            }
            // a birth that is still on its way comes after this, and puts it right
            _ if session.births > 0 => {}
            _ => {
                let number = told.map(|(number, _)| number);
                tracing::info!(?number, own = session.number, "the broker took the box for dead: told otherwise");
                session.bear();
            }
        }
    }

    /// Hands what was heard to the parts that it is meant for, each in its order.
    fn hand_on(&mut self) {
        let Link::Open(session) = &mut self.link else { return };
        let mut full = vec![false; self.line.listeners.len()];
        for (at, publish) in std::mem::take(&mut session.held) {
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            let below = topic.strip_prefix(&root(&session.fleet.box_id)).unwrap_or_default().to_owned();
            let message = Incoming { topic: below, payload: publish.payload.clone(), retained: publish.retain };
            let sent = if full[at] { None } else { Some(self.line.listeners[at].to.try_send(message)) };
            match sent {
                Some(Ok(())) => session.acknowledge(&publish),
                Some(Err(mpsc::error::TrySendError::Closed(_))) => {
                    tracing::error!(topic, "nobody is there for a message of the broker");
                    session.acknowledge(&publish);
                }
                Some(Err(mpsc::error::TrySendError::Full(_))) | None => {
                    full[at] = true;
                    session.held.push_back((at, publish));
                }
            }
        }
    }

    fn send_what_waits(&mut self) {
        let Link::Open(session) = &mut self.link else { return };
        while session.has_room()
            && let Some((id, content)) = self.queue.next()
        {
            let (topic, payload, retain) = match content {
                Content::Message { topic, payload, retain } => (session.topic(topic), payload.clone(), *retain),
                Content::Event(event) => {
                    let topic = session.topic(&format!("event/{}", event.body.event_type()));
                    (topic, event.to_json((self.line.clock)()).into_bytes(), false)
                }
            };
            session.publish(topic, payload, retain, Sent::Kept(id));
            self.queue.sent(id);
        }
    }

    async fn settings_changed(&mut self) {
        let fleet = self.line.settings.borrow_and_update().clone();
        self.queue.bound(bounds(&fleet));
        let (same, up) = match &self.link {
            Link::Open(session) => (same_session(&session.fleet, &fleet), session.up),
            Link::Down { .. } => (false, false),
        };
        if same {
            return;
        }
        tracing::info!(broker = fleet.broker, "the broker's settings have changed");
        self.say_good_bye().await;
        self.queue.unsent();
        if up {
            self.line.connected.send_replace(false);
            self.away_since = Instant::now();
        }
        self.attempts = 0;
        self.link = Link::Down { due: Some(Instant::now()) };
    }

    /// Sends what can be sent in a moment, and ends in order.
    async fn farewell(&mut self) {
        self.collect().await;
        while let Ok(message) = self.line.outgoing.try_recv() {
            self.queue.put(message, (self.line.clock)()).await;
        }
        let until = Instant::now() + LAST_MESSAGES;
        while self.is_up() && !self.queue.is_empty() {
            self.send_what_waits();
            let event = tokio::select! {
                event = self.link.event() => event,
                () = tokio::time::sleep_until(until) => break,
            };
            self.heard(event).await;
            self.forget().await;
        }
        self.say_good_bye().await;
        self.forget().await;
        self.line.connected.send_replace(false);
    }

    /// An orderly end says itself what the will would have said, and takes the will back.
    async fn say_good_bye(&mut self) {
        let Link::Open(session) = &mut self.link else { return };
        if !session.up {
            return;
        }
        self.last = self.last.max(session.number);
        let mut state: Value = serde_json::from_str(&session.birth).expect("the line wrote it");
        state["online"] = false.into();
        session.publish(session.topic("state"), state.to_string().into_bytes(), true, Sent::Passing);
        let until = Instant::now() + LAST_WORD;
        let mut leaving = false;
        loop {
            let Link::Open(session) = &mut self.link else { return };
            if !leaving && session.sending.is_empty() && session.in_flight.is_empty() {
                leaving = session.client.try_disconnect().is_ok();
            }
            let event = tokio::select! {
                event = self.link.event() => event,
                () = tokio::time::sleep_until(until) => return,
            };
            match event {
                Some(Ok(event)) => match *event {
                    // what the broker still says of this session needs no answer
                    Event::Incoming(Packet::Publish(_)) => {}
                    Event::Outgoing(Went::Disconnect) => return,
                    event => self.heard(Some(Ok(Box::new(event)))).await,
                },
                Some(Err(_)) | None => return,
            }
        }
    }

    fn tell(&self) {
        let figures = Figures {
            waiting: self.queue.len() as u64,
            waiting_bytes: self.queue.bytes(),
            dropped_events: self.queue.dropped().events,
            dropped_replies: self.queue.dropped().replies,
        };
        self.line.figures.send_if_modified(|known| std::mem::replace(known, figures) != figures);
        metrics::gauge!("holdfast_fleet_connected").set(if self.is_up() { 1.0 } else { 0.0 });
        metrics::gauge!("holdfast_fleet_waiting").set(figures.waiting as f64);
    }

    fn tell_health(&self) {
        let limit = self.line.settings.borrow().unreachable_after();
        if self.is_up() {
            self.line.health.ok("fleet");
        } else if self.line.settings.borrow().enabled && self.away_since.elapsed() >= limit {
            self.line.health.degraded("fleet", format!("the broker is out of reach: {}", self.why));
        }
    }
}

async fn changed(settings: &mut watch::Receiver<Arc<Fleet>>) {
    if settings.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether a topic is one of a filter; `+` stands for one level.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic) = (filter.split('/'), topic.split('/'));
    let same = filter.clone().zip(topic.clone()).all(|(f, t)| f == "+" || f == t);
    same && filter.count() == topic.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels() {
        assert!(matches("twin/desired", "twin/desired") && matches("command/+", "command/7"));
        for topic in ["command", "command/7/status", "twin/7", "commands/7"] {
            assert!(!matches("command/+", topic), "{topic}");
        }
    }

    #[test]
    fn what_does_not_concern_the_session_leaves_it_alone() {
        let old = Fleet { box_id: "b".into(), ..Fleet::default() };
        assert!(same_session(&old, &Fleet { telemetry_seconds: 7, keep_messages: 11, ..old.clone() }));
        assert!(!same_session(&old, &Fleet { broker: "mqtts://other".into(), ..old.clone() }));
    }
}
