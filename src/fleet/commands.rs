//! Commands (`command/<request-id>`): each is done once, and its status told from accepted to done or failed.
//!
//! Owns: which commands there are, how far each is (under its own prefix of the index), what is told of it. Must not
//! touch: what they do: the house hands in [`Hands`].
//! Law: a command is written down before it is told, and told before it is begun; a repeated one is answered with how far
//! it is; what a restart cut short is told after it ([`crate::model::command`]). Arguments are neither kept nor logged.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Class, Incoming, Outgoing, Part};
use crate::model::command::{self, Progress, REBOOT, Refusal, Request};
use crate::model::{RoomId, WallClock};
use crate::rooms::{Rooms, TaskStatus};
use crate::store::{self, Batch, Store};

/// What the line hears for us, and what our topics begin with.
pub const FILTER: &str = "command/+";
const TOPIC: &str = "command/";
/// In the index.
const KEPT: &str = "command/";
/// Of commands that have ended so many are remembered; the status of an older one goes from the broker, too.
const KEEP: usize = 200;
/// Commands at once; one more is refused.
const AT_ONCE: usize = 8;
/// Longest result; one that is longer is told as such.
const MOST_RESULT: usize = 64 * 1024;
const IDENTIFY: u64 = 15;

pub type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// The API's own call by its action and JSON: the object that it answers as `Response`.
pub type Call = Arc<dyn Fn(String, Value) -> Doing<Value> + Send + Sync>;
/// What does one command, by its `args`.
pub type Hand = Arc<dyn Fn(Value) -> Doing<Result<Value, Refusal>> + Send + Sync>;

/// Commands that are the API's own calls.
const CALLS: &[(&str, &str)] = &[
    ("start_recording", "CreateCloudRecording"),
    ("describe_recording", "DescribeCloudRecording"),
    ("modify_recording", "ModifyCloudRecording"),
    ("stop_recording", "DeleteCloudRecording"),
    ("pause_recording", "PauseCloudRecording"),
    ("resume_recording", "ResumeCloudRecording"),
];

/// What the house does for operators.
#[derive(Clone)]
pub struct Hands {
    pub call: Call,
    pub rooms: Rooms,
    /// All lights blink for so long.
    pub identify: Arc<dyn Fn(Duration) + Send + Sync>,
    /// Asks the machine to start anew; comes back at once.
    pub reboot: Arc<dyn Fn() -> Doing<Result<(), String>> + Send + Sync>,
    /// Further commands by their names: `debug_bundle`, `add_source`, …
    pub more: BTreeMap<&'static str, Hand>,
}

/// The part of the line that has the commands.
pub struct Commands {
    pub incoming: mpsc::Receiver<Incoming>,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub store: Store,
    pub clock: WallClock,
    /// Of this life of the machine.
    pub boot: String,
    pub hands: Hands,
}

impl Part for Commands {
    async fn live(&mut self, cancel: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.run(cancel).await?)
    }
}

/// One life of the part.
struct Desk<'a> {
    house: &'a mut Commands,
    all: BTreeMap<String, Progress>,
    order: u64,
    running: JoinSet<(String, Result<Value, Refusal>)>,
}

impl Commands {
    /// Until `cancel`. What runs then is told as cut short after the next start.
    pub async fn run(&mut self, cancel: CancellationToken) -> Result<(), store::Error> {
        let mut all = BTreeMap::new();
        for (key, bytes) in self.store.scan(KEPT).await? {
            match serde_json::from_slice::<Progress>(&bytes) {
                Ok(progress) => drop(all.insert(progress.request_id.clone(), progress)),
                Err(error) => {
                    tracing::error!(key, %error, "the record of a command cannot be read; it is let go");
                    self.store.commit(Batch::new().delete(key)).await?;
                }
            }
        }
        let order = all.values().map(|progress| progress.order).max().unwrap_or_default();
        let mut desk = Desk { house: self, all, order, running: JoinSet::new() };
        desk.after_restart().await?;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                heard = desk.house.incoming.recv() => match heard {
                    Some(message) => desk.heard(message).await?,
                    None => return Ok(()),
                },
                Some(Ok((id, outcome))) = desk.running.join_next(), if !desk.running.is_empty() => {
                    desk.ended(&id, outcome).await?;
                }
            }
        }
    }
}

impl Desk<'_> {
    fn now(&self) -> crate::model::Timestamp {
        (self.house.clock)()
    }

    /// What a life before this one left is ended, and told again: its last word may not have gone out.
    async fn after_restart(&mut self) -> Result<(), store::Error> {
        let (boot, now) = (self.house.boot.clone(), self.now());
        let cut: Vec<String> = self
            .all
            .values_mut()
            .filter_map(|progress| progress.after_restart(&boot, now).then(|| progress.request_id.clone()))
            .collect();
        for id in cut {
            self.keep(&id).await?;
            self.tell(&id).await;
        }
        Ok(())
    }

    async fn heard(&mut self, message: Incoming) -> Result<(), store::Error> {
        let id = message.topic.strip_prefix(TOPIC).unwrap_or_default().to_owned();
        if message.payload.is_empty() {
            // somebody cleared a retained message
            return Ok(());
        }
        if !command::is_id(&id) {
            tracing::warn!("a command has no id that one can have; it is not heard");
            return Ok(());
        }
        if self.all.contains_key(&id) {
            tracing::info!(request = id, "a command came again: it is told how far it is");
            self.tell(&id).await;
            return Ok(());
        }
        let request = command::parse(&message.payload);
        let name = request.as_ref().map(|request| request.command.clone()).unwrap_or_default();
        self.order += 1;
        let now = self.now();
        let mut progress = Progress::accept(&id, &name, self.order, &self.house.boot, now);
        let wanted = request.and_then(|request| match request.has_expired(now) {
            true => Err(Refusal::new("expired", "it came after it had expired")),
            false => self.hand(&request).map(|hand| (hand, request)),
        });
        let busy = self.running.len() >= AT_ONCE;
        let wanted = wanted.and_then(|wanted| match busy {
            true => Err(Refusal::new("busy", format!("{AT_ONCE} commands are being done"))),
            false => Ok(wanted),
        });
        let taken = match wanted {
            Ok(wanted) => Some(wanted),
            Err(refusal) => {
                tracing::warn!(request = id, command = progress.command, code = refusal.code, "a command is refused");
                progress.end(Err(refusal), now);
                None
            }
        };
        self.all.insert(id.clone(), progress);
        self.keep(&id).await?;
        self.tell(&id).await;
        metrics::counter!("holdfast_commands_total").increment(1);
        let Some((hand, request)) = taken else { return self.forget_the_oldest().await };
        tracing::info!(request = id, command = request.command, "a command");
        let now = self.now();
        if let Some(progress) = self.all.get_mut(&id) {
            progress.begin(now);
        }
        self.keep(&id).await?;
        self.tell(&id).await;
        self.running.spawn(async move {
            // in a task of its own, so that a panic in it is told as its end
            let done = tokio::spawn(async move { hand(request.args).await }).await;
            (id, done.unwrap_or_else(|_| Err(Refusal::new("failed", "it broke; the log says how"))))
        });
        Ok(())
    }

    async fn ended(&mut self, id: &str, outcome: Result<Value, Refusal>) -> Result<(), store::Error> {
        let now = self.now();
        let Some(progress) = self.all.get_mut(id) else { return Ok(()) };
        if progress.command == REBOOT && outcome.is_ok() {
            // it is done when the machine has started anew, and told then
            return Ok(());
        }
        let outcome = outcome.and_then(|result| match result.to_string().len() <= MOST_RESULT {
            true => Ok(result),
            false => Err(Refusal::new("too_long", "it is done, and its result is longer than a message may be")),
        });
        progress.end(outcome, now);
        tracing::info!(request = id, command = progress.command, state = ?progress.state, "a command ended");
        self.keep(id).await?;
        self.tell(id).await;
        self.forget_the_oldest().await
    }

    async fn keep(&self, id: &str) -> Result<(), store::Error> {
        let Some(progress) = self.all.get(id) else { return Ok(()) };
        let bytes = serde_json::to_vec(progress).expect("a record has text keys");
        self.house.store.commit(Batch::new().put(format!("{KEPT}{id}"), bytes)).await
    }

    async fn tell(&self, id: &str) {
        let Some(progress) = self.all.get(id) else { return };
        self.say(id, progress.told().to_string().into_bytes()).await;
    }

    async fn say(&self, id: &str, payload: Vec<u8>) {
        let topic = format!("{TOPIC}{id}/status");
        // the line has gone only while the box ends
        let _ = self.house.outgoing.send(Outgoing { topic, payload, retain: true, class: Class::Reply }).await;
    }

    async fn forget_the_oldest(&mut self) -> Result<(), store::Error> {
        for id in command::too_many(self.all.values(), KEEP) {
            self.house.store.commit(Batch::new().delete(format!("{KEPT}{id}"))).await?;
            self.all.remove(&id);
            // an empty message takes the retained one from the broker
            self.say(&id, Vec::new()).await;
        }
        Ok(())
    }

    /// What does it.
    fn hand(&self, request: &Request) -> Result<Hand, Refusal> {
        let hands = &self.house.hands;
        let name = request.command.as_str();
        if let Some((_, action)) = CALLS.iter().find(|(command, _)| *command == name) {
            return Ok(api_call(hands.call.clone(), action));
        }
        if let Some(hand) = hands.more.get(name) {
            return Ok(hand.clone());
        }
        match name {
            "discard_recording" => Ok(discard(hands.call.clone())),
            "list_recordings" => Ok(list(hands.rooms.clone())),
            "identify" => Ok(identify(hands.identify.clone())),
            REBOOT => {
                let reboot = hands.reboot.clone();
                Ok(Arc::new(move |_| {
                    let doing = reboot();
                    Box::pin(async move { doing.await.map(|()| json!({})).map_err(|why| Refusal::new("failed", why)) })
                }))
            }
            _ => Err(Refusal::new("unknown_command", "this box has no such command")),
        }
    }
}

/// The API's `Error` is the command's.
fn api_call(call: Call, action: &'static str) -> Hand {
    Arc::new(move |args| {
        let doing = call(action.to_owned(), args);
        Box::pin(async move {
            let answer = doing.await;
            match answer.get("Error") {
                None => Ok(answer),
                Some(error) => {
                    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
                    Err(Refusal::new(text("Code"), text("Message")))
                }
            }
        })
    })
}

/// DeleteCloudRecording with our own `Discard`.
fn discard(call: Call) -> Hand {
    let delete = api_call(call, "DeleteCloudRecording");
    Arc::new(move |mut args| {
        args["Discard"] = true.into();
        delete(args)
    })
}

fn list(rooms: Rooms) -> Hand {
    Arc::new(move |_| {
        let rooms = rooms.clone();
        Box::pin(async move {
            let tasks = rooms.list().await.map_err(|error| Refusal::new("failed", error.to_string()))?;
            let line = |task: crate::rooms::TaskLine| {
                let (room, numeric) = match &task.room {
                    RoomId::Number(number) => (number.to_string(), true),
                    RoomId::Text(text) => (text.clone(), false),
                };
                json!({
                    "SdkAppId": task.app, "RoomId": room, "RoomIdType": u8::from(numeric),
                    "UserId": task.recorder.as_str(), "TaskId": task.view.task.as_str(),
                    "Status": match task.view.status {
                        TaskStatus::Idle => "Idle",
                        TaskStatus::InProgress => "InProgress",
                        TaskStatus::Exited => "Exited",
                    },
                    "Paused": task.view.paused, "CreateTime": super::rfc3339(task.created),
                })
            };
            Ok(json!({ "recordings": tasks.into_iter().map(line).collect::<Vec<_>>() }))
        })
    })
}

fn identify(identify: Arc<dyn Fn(Duration) + Send + Sync>) -> Hand {
    Arc::new(move |args| {
        let seconds = match args.get("seconds") {
            None => Ok(IDENTIFY),
            Some(seconds) => seconds
                .as_u64()
                .filter(|seconds| (1..=3600).contains(seconds))
                .ok_or_else(|| Refusal::new("bad_request", "args.seconds must be 1 to 3600")),
        };
        if let Ok(seconds) = seconds {
            identify(Duration::from_secs(seconds));
        }
        Box::pin(async move { seconds.map(|seconds| json!({ "seconds": seconds })) })
    })
}

#[cfg(test)]
mod tests;
