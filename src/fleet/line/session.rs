//! One session with the broker, from CONNECT to its end.
//!
//! Owns: what of it is on its way, in both directions. Must not touch: what waits, and whether there is a next one.
//! Law: nobody waits for the network here: the event loop runs alone, and what it does not take ends the session.
//! Source: MQTT 5.0 §4.3.2 (QoS 1), §4.9 (flow control).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::queue::Id;
use super::super::root;
use super::broker::{Refusal, WINDOW, reason};
use crate::config::Fleet;

/// What one session's client takes without anybody waiting: the window both ways, subscriptions, discovery.
const REQUESTS: usize = 256;

/// What a publication was.
#[derive(Clone, Copy)]
pub(super) enum Sent {
    Birth,
    /// of no consequence when it is lost: the next session says it again
    Passing,
    Kept(Id),
}

pub(super) struct Session {
    pub number: u64,
    pub fleet: Arc<Fleet>,
    pub client: AsyncClient,
    pub events: mpsc::Receiver<Result<Box<Event>, Refusal>>,
    pump: AbortHandle,
    /// The broker has taken it.
    pub up: bool,
    pub began: Instant,
    pub birth: String,
    /// Births that were sent and have not come back.
    pub births: usize,
    pub sending: VecDeque<Sent>,
    pub in_flight: BTreeMap<u16, Sent>,
    pub filters: Vec<&'static str>,
    /// Heard, and not taken by its part yet.
    pub held: VecDeque<(usize, Publish)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Session {
    pub fn open(number: u64, fleet: Arc<Fleet>, options: MqttOptions, birth: String) -> Session {
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let (to, from) = mpsc::channel(REQUESTS);
        let pump = tokio::spawn(pump(events, to)).abort_handle();
        Session {
            number,
            fleet,
            client,
            events: from,
            pump,
            up: false,
            began: Instant::now(),
            birth,
            births: 0,
            sending: VecDeque::new(),
            in_flight: BTreeMap::new(),
            filters: Vec::new(),
            held: VecDeque::new(),
        }
    }

    pub fn topic(&self, below: &str) -> String {
        format!("{}{below}", root(&self.fleet.box_id))
    }

    pub fn publish(&mut self, topic: String, payload: Vec<u8>, retain: bool, what: Sent) {
        // it takes more than a window and a greeting; a session that does not is about to end
        match self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload) {
            Ok(()) => self.sending.push_back(what),
            Err(error) => tracing::debug!(%error, "the session takes nothing"),
        }
    }

    pub fn bear(&mut self) {
        self.births += 1;
        self.publish(self.topic("state"), self.birth.clone().into_bytes(), true, Sent::Birth);
    }

    pub fn has_room(&self) -> bool {
        self.up && self.sending.len() + self.in_flight.len() < usize::from(WINDOW)
    }

    pub fn acknowledge(&self, publish: &Publish) {
        if let Err(error) = self.client.try_ack(publish) {
            tracing::debug!(%error, "the session takes no acknowledgement");
        }
    }
}

/// Alone with the network: a session is over when this ends.
async fn pump(mut events: EventLoop, to: mpsc::Sender<Result<Box<Event>, Refusal>>) {
    loop {
        let event = events.poll().await.map(Box::new).map_err(|error| reason(&error));
        let over = event.is_err();
        if to.send(event).await.is_err() || over {
            return;
        }
    }
}
