//! What waits for the broker: kept over restarts, bounded, and in the order in which it is to go.
//!
//! Owns: the records below `line/` and, from when `rooms` has written them, those below `mirror/`. Must not touch: the
//! network.
//! Law: a message is committed before it is sent and leaves when the broker has acknowledged it; of a state only the
//! newest value of a topic waits; events of one task keep their order; of too many the events of least worth go first,
//! of these the oldest, and only then the oldest replies. What is dropped is counted, and the count outlasts a restart.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Class, Outgoing};
use crate::model::event::Event;
use crate::model::{TaskId, Timestamp};
use crate::store::records::{LINE, MIRROR, MessageEntry, OutboxEntry};
use crate::store::{self, Batch, Store};

const STATES: &str = "line/state/";
const REPLIES: &str = "line/reply/";
const EVENTS: &str = "line/event/";
const DROPPED: &str = "line/dropped";

/// Between errors that are repeated while they last, and events without which nobody knows how a task stands.
const WORTH_OF_OTHERS: u8 = 4;

/// One thing that waits: they sort as they are sent. Never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(Turn, u64);

/// What goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Replies,
    States,
    Events,
}

/// What was given up since the box is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub events: u64,
    pub replies: u64,
}

/// How many may wait, and what they may take together.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub messages: usize,
    pub bytes: u64,
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Content {
    Message {
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    },
    /// Its body says when it is sent.
    Event(Box<Event>),
}

#[derive(Debug)]
struct Waiting {
    key: String,
    content: Content,
    class: Class,
    worth: u8,
    bytes: u64,
    /// Given to the session that is there now.
    sent: bool,
}

pub struct Queue {
    store: Store,
    bounds: Bounds,
    all: BTreeMap<Id, Waiting>,
    /// The newest of each topic.
    states: BTreeMap<String, Id>,
    /// Mirrored events that are in `all`.
    known: BTreeSet<String>,
    bytes: u64,
    next: u64,
    dropped: Dropped,
}

impl Queue {
    /// Takes in what a life before this one left.
    pub async fn open(store: Store, bounds: Bounds) -> Result<Queue, store::Error> {
        let dropped = store.get(DROPPED).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut queue = Queue {
            store,
            bounds,
            all: BTreeMap::new(),
            states: BTreeMap::new(),
            known: BTreeSet::new(),
            bytes: 0,
            next: 0,
            dropped: dropped.unwrap_or_default(),
        };
        let mut unreadable = Batch::new();
        let mut events = Vec::new();
        for (prefix, class) in [(REPLIES, Class::Reply), (STATES, Class::State), (EVENTS, Class::Event)] {
            for (key, bytes) in queue.store.scan(prefix).await? {
                // the number is never used again
                let number = key.rsplit('/').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
                queue.next = queue.next.max(number + 1);
                let entry = match MessageEntry::from_bytes(&key, &bytes) {
                    Ok(entry) => entry,
                    Err(error) => {
                        tracing::error!(%error, "a message that waited for the broker cannot be read: dropped");
                        unreadable = unreadable.delete(key);
                        continue;
                    }
                };
                let MessageEntry { topic, payload, retain, at } = entry;
                let content = Content::Message { topic, payload, retain };
                match class {
                    Class::Event => events.push((at, key, content, WORTH_OF_OTHERS)),
                    Class::State | Class::Reply => queue.take(key, content, class, WORTH_OF_OTHERS),
                }
            }
        }
        if !unreadable.is_empty() {
            queue.store.commit(unreadable).await?;
        }
        events.extend(queue.mirrored().await?);
        queue.take_events(events);
        queue.trim().await;
        Ok(queue)
    }

    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// A message of a part of the box.
    pub async fn put(&mut self, message: Outgoing, now: Timestamp) {
        let Outgoing { topic, payload, retain, class } = message;
        let number = self.next;
        let key = match class {
            Class::State => format!("{STATES}{topic}"),
            Class::Reply => format!("{REPLIES}{number:020}"),
            Class::Event => format!("{EVENTS}{number:020}"),
        };
        let entry = MessageEntry { topic, payload, retain, at: now };
        let record = entry.to_bytes();
        let MessageEntry { topic, payload, retain, .. } = entry;
        self.take(key.clone(), Content::Message { topic, payload, retain }, class, WORTH_OF_OTHERS);
        if let Err(error) = self.store.commit(Batch::new().put(key.clone(), record)).await {
            // it is sent all the same, and would be gone with this life
            tracing::error!(%error, key, "a message to the broker cannot be kept");
        }
        self.trim().await;
    }

    /// Takes in the events that `rooms` has put down.
    pub async fn collect(&mut self) -> Result<(), store::Error> {
        let events = self.mirrored().await?;
        self.take_events(events);
        self.trim().await;
        Ok(())
    }

    /// Mirrored events that are not known yet.
    async fn mirrored(&mut self) -> Result<Vec<(Timestamp, String, Content, u8)>, store::Error> {
        let mut found = Vec::new();
        let mut unreadable = Batch::new();
        let mut latest = BTreeMap::<TaskId, Timestamp>::new();
        for (key, bytes) in self.store.scan(MIRROR).await? {
            if self.known.contains(&key) {
                continue;
            }
            match OutboxEntry::from_bytes(&key, &bytes) {
                Ok(OutboxEntry { event }) => {
                    // a wall clock that was set back does not turn a task's events around
                    let at = latest.entry(event.task.clone()).or_insert(event.at);
                    *at = event.at.max(*at);
                    let worth = event.body.worth();
                    found.push((*at, key, Content::Event(Box::new(event)), worth));
                }
                Err(error) => {
                    tracing::error!(%error, "an event for the broker cannot be read: dropped");
                    unreadable = unreadable.delete(key);
                }
            }
        }
        if !unreadable.is_empty() {
            self.store.commit(unreadable).await?;
        }
        Ok(found)
    }

    /// In the order of their time; those of one task are in order already, and the sort keeps equals as they are.
    fn take_events(&mut self, mut events: Vec<(Timestamp, String, Content, u8)>) {
        events.sort_by_key(|(at, ..)| *at);
        for (_, key, content, worth) in events {
            self.take(key, content, Class::Event, worth);
        }
    }

    fn take(&mut self, key: String, content: Content, class: Class, worth: u8) {
        let turn = match class {
            Class::Reply => Turn::Replies,
            Class::State => Turn::States,
            Class::Event => Turn::Events,
        };
        let id = Id(turn, self.next);
        self.next += 1;
        let size = match &content {
            Content::Message { topic, payload, .. } => topic.len() + payload.len(),
            Content::Event(event) => event.to_json(event.at).len(),
        };
        let bytes = (key.len() + size) as u64;
        if let (Class::State, Content::Message { topic, .. }) = (class, &content)
            && let Some(old) = self.states.insert(topic.clone(), id)
        {
            // its record is written over
            self.bytes -= self.all.remove(&old).map_or(0, |old| old.bytes);
        }
        if key.starts_with(MIRROR) {
            self.known.insert(key.clone());
        }
        self.bytes += bytes;
        self.all.insert(id, Waiting { key, content, class, worth, bytes, sent: false });
    }

    /// The next to be sent: what was asked for, then how things are, then what happened.
    pub fn next(&self) -> Option<(Id, &Content)> {
        let (id, waiting) = self.all.iter().find(|(_, waiting)| !waiting.sent)?;
        Some((*id, &waiting.content))
    }

    pub fn sent(&mut self, id: Id) {
        if let Some(waiting) = self.all.get_mut(&id) {
            waiting.sent = true;
        }
    }

    /// The broker refused it, and is asked again.
    pub fn again(&mut self, id: Id) {
        if let Some(waiting) = self.all.get_mut(&id) {
            waiting.sent = false;
        }
    }

    /// The session is over: what it did not acknowledge is sent again.
    pub fn unsent(&mut self) {
        self.all.values_mut().for_each(|waiting| waiting.sent = false);
    }

    /// The broker has them.
    pub async fn acknowledged(&mut self, ids: &[Id]) {
        let mut batch = Batch::new();
        for id in ids {
            // one that was replaced or dropped meanwhile is not there any more, and the newer one stays
            if let Some(key) = self.remove(*id) {
                batch = batch.delete(key);
            }
        }
        if !batch.is_empty()
            && let Err(error) = self.store.commit(batch).await
        {
            tracing::error!(%error, "messages that the broker has cannot be forgotten: the next start sends them again");
        }
    }

    /// One that no broker will ever take.
    pub async fn refuse(&mut self, id: Id) {
        let Some(waiting) = self.all.get(&id) else { return };
        match waiting.class {
            Class::Event => self.dropped.events += 1,
            Class::Reply => self.dropped.replies += 1,
            Class::State => {}
        }
        self.acknowledged(&[id]).await;
        self.note_dropped(Batch::new()).await;
    }

    fn remove(&mut self, id: Id) -> Option<String> {
        let waiting = self.all.remove(&id)?;
        self.bytes -= waiting.bytes;
        self.known.remove(&waiting.key);
        if let Content::Message { topic, .. } = &waiting.content
            && self.states.get(topic) == Some(&id)
        {
            self.states.remove(topic);
        }
        Some(waiting.key)
    }

    /// Of too many the least important.
    async fn trim(&mut self) {
        let too_many = |queue: &Queue| queue.all.len() > queue.bounds.messages || queue.bytes > queue.bounds.bytes;
        if !too_many(self) {
            return;
        }
        let open = |class| self.all.iter().filter(move |(_, waiting)| waiting.class == class && !waiting.sent);
        let mut events: Vec<(u8, Id)> = open(Class::Event).map(|(id, waiting)| (waiting.worth, *id)).collect();
        events.sort();
        let replies: Vec<Id> = open(Class::Reply).map(|(id, _)| *id).collect();
        let mut victims = events.into_iter().map(|(_, id)| id).chain(replies);
        let mut batch = Batch::new();
        let before = self.dropped;
        while too_many(self)
            && let Some(id) = victims.next()
        {
            match self.all.get(&id).map(|waiting| waiting.class) {
                Some(Class::Event) => self.dropped.events += 1,
                _ => self.dropped.replies += 1,
            }
            if let Some(key) = self.remove(id) {
                batch = batch.delete(key);
            }
        }
        if self.dropped != before {
            let (events, replies) = (self.dropped.events - before.events, self.dropped.replies - before.replies);
            metrics::counter!("holdfast_fleet_dropped_total").increment(events + replies);
            tracing::warn!(events, replies, waiting = self.all.len(), "more waits for the broker than may: dropped");
            self.note_dropped(batch).await;
        }
    }

    async fn note_dropped(&self, batch: Batch) {
        let count = serde_json::to_vec(&self.dropped).expect("two numbers");
        if let Err(error) = self.store.commit(batch.put(DROPPED, count)).await {
            tracing::error!(%error, "what was dropped cannot be noted");
        }
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The number of the last session that a broker may have heard of.
pub async fn last_session(store: &Store) -> Result<u64, store::Error> {
    let bytes = store.get(format!("{LINE}session")).await?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok()).unwrap_or_default())
}

pub async fn note_session(store: &Store, session: u64) -> Result<(), store::Error> {
    store.commit(Batch::new().put(format!("{LINE}session"), session.to_string().into_bytes())).await
}

/// Below which prefix Home Assistant has been told of the box.
pub async fn announced(store: &Store) -> Result<Option<String>, store::Error> {
    let bytes = store.get(format!("{LINE}home_assistant")).await?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}

pub async fn note_announced(store: &Store, prefix: Option<&str>) -> Result<(), store::Error> {
    let key = format!("{LINE}home_assistant");
    let batch = match prefix {
        Some(prefix) => Batch::new().put(key, prefix.as_bytes().to_vec()),
        None => Batch::new().delete(key),
    };
    store.commit(batch).await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::event::EventBody;
    use crate::model::{RoomId, SdkAppId, UserId};
    use crate::store::records::mirror_key;

    const WIDE: Bounds = Bounds { messages: 100, bytes: 1 << 20 };

    fn open(dir: &Path) -> Store {
        Store::open(&dir.join("index")).unwrap().store
    }

    fn message(topic: &str, payload: &str, class: Class) -> Outgoing {
        Outgoing { topic: topic.into(), payload: payload.into(), retain: class != Class::Event, class }
    }

    fn event(task: &str, seq: u64, at: i64, body: EventBody) -> Event {
        Event {
            app: SdkAppId(1),
            room: RoomId::Text("r".into()),
            recorder: UserId::parse("rec").unwrap(),
            task: TaskId::parse(task).unwrap(),
            seq,
            at: Timestamp(at),
            body,
        }
    }

    async fn announce(store: &Store, event: &Event) {
        let key = mirror_key(event.app, &event.task, event.seq);
        store.commit(Batch::new().put(key, OutboxEntry { event: event.clone() }.to_bytes())).await.unwrap();
    }

    fn name(content: &Content) -> String {
        match content {
            Content::Message { topic, payload, .. } => format!("{topic}={}", String::from_utf8_lossy(payload)),
            Content::Event(event) => format!("{}-{}", event.task, event.seq),
        }
    }

    /// Sends everything; with `take` the broker acknowledges it.
    async fn drain(queue: &mut Queue, take: bool) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some((id, content)) = queue.next() {
            sent.push(name(content));
            queue.sent(id);
            if take {
                queue.acknowledged(&[id]).await;
            }
        }
        sent
    }

    #[tokio::test]
    async fn states_are_replaced_events_keep_their_order_and_all_outlasts_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut queue = Queue::open(store.clone(), WIDE).await.unwrap();
        // the clock is set back within the first task
        announce(&store, &event("a", 0, 50, EventBody::RecorderStart { failed: false })).await;
        announce(&store, &event("a", 1, 10, EventBody::Failover)).await;
        announce(&store, &event("b", 0, 40, EventBody::Failover)).await;
        queue.collect().await.unwrap();
        queue.put(message("telemetry", "1", Class::State), Timestamp(60)).await;
        queue.put(message("alarm", "1", Class::Event), Timestamp(60)).await;
        queue.put(message("telemetry", "2", Class::State), Timestamp(61)).await;
        queue.put(message("command/x/status", "1", Class::Reply), Timestamp(62)).await;
        queue.put(message("command/x/status", "2", Class::Reply), Timestamp(63)).await;
        let expected = ["command/x/status=1", "command/x/status=2", "telemetry=2", "b-0", "a-0", "a-1", "alarm=1"];
        // nothing is acknowledged, and the process dies
        assert_eq!(drain(&mut queue, false).await, expected);
        queue.unsent();
        assert_eq!(drain(&mut queue, false).await, expected);
        store.close().await.unwrap();

        let store = open(dir.path());
        let mut queue = Queue::open(store.clone(), WIDE).await.unwrap();
        assert_eq!(drain(&mut queue, true).await, expected);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
        store.close().await.unwrap();
        let store = open(dir.path());
        assert!(Queue::open(store.clone(), WIDE).await.unwrap().is_empty());
        for prefix in [LINE, MIRROR] {
            assert!(store.scan(prefix).await.unwrap().is_empty(), "{prefix}");
        }
    }

    #[tokio::test]
    async fn what_is_replaced_while_it_is_on_its_way_does_not_take_the_newer_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut queue = Queue::open(store.clone(), WIDE).await.unwrap();
        queue.put(message("telemetry", "old", Class::State), Timestamp(1)).await;
        let (old, _) = queue.next().unwrap();
        queue.sent(old);
        queue.put(message("telemetry", "new", Class::State), Timestamp(2)).await;
        queue.acknowledged(&[old]).await;
        let mut again = Queue::open(store, WIDE).await.unwrap();
        assert_eq!(drain(&mut again, true).await, ["telemetry=new"]);
        assert_eq!(drain(&mut queue, true).await, ["telemetry=new"]);
    }

    #[tokio::test]
    async fn the_least_important_goes_first_and_is_counted_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let error = || EventBody::UploadError { code: "c".into(), message: "m".into() };
        let bodies = [EventBody::RecorderStart { failed: false }, error(), EventBody::Failover, error()];
        for (seq, body) in bodies.into_iter().enumerate() {
            announce(&store, &event("a", seq as u64, seq as i64, body)).await;
        }
        let bounds = Bounds { messages: 3, bytes: 1 << 20 };
        let mut queue = Queue::open(store.clone(), bounds).await.unwrap();
        assert_eq!(queue.dropped(), Dropped { events: 1, replies: 0 });
        queue.put(message("command/x/status", "1", Class::Reply), Timestamp(9)).await;
        assert_eq!(queue.dropped(), Dropped { events: 2, replies: 0 });
        for n in 2..=4 {
            queue.put(message("command/x/status", &n.to_string(), Class::Reply), Timestamp(9)).await;
        }
        // the events are gone, then the oldest reply
        assert_eq!(queue.dropped(), Dropped { events: 4, replies: 1 });
        let mut queue = Queue::open(store, bounds).await.unwrap();
        assert_eq!(queue.dropped(), Dropped { events: 4, replies: 1 });
        let left = ["command/x/status=2", "command/x/status=3", "command/x/status=4"];
        assert_eq!(drain(&mut queue, true).await, left);
    }

    #[tokio::test]
    async fn what_cannot_be_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let batch = ["line/reply/00000000000000000003", "line/state/x", "line/dropped", "mirror/1/a/0000000000"];
        let batch = batch.into_iter().fold(Batch::new(), |batch, key| batch.put(key, b"{torn".to_vec()));
        store.commit(batch).await.unwrap();
        let mut queue = Queue::open(store.clone(), WIDE).await.unwrap();
        assert!(queue.is_empty());
        queue.put(message("a", "1", Class::Reply), Timestamp(1)).await;
        assert_eq!(drain(&mut queue, true).await, ["a=1"]);
        assert_eq!(last_session(&store).await.unwrap(), 0);
        note_session(&store, 7).await.unwrap();
        assert_eq!(last_session(&store).await.unwrap(), 7);
    }
}
