//! The twin: what the operators want the box to be (`twin/desired`), and what it is (`twin/reported`).
//!
//! Owns: taking a document whole or refusing it whole, its trial and its way back, the report. Must not touch: how parts
//! take a change: they follow [`Live`].
//! Keys that a command changes lie over the document in force and go the same way, so that there is one truth of them.
//! Law: a document is safe on the disk before it holds; whatever it says, one that cuts the box off or makes it ill goes
//! again by itself; no secret is in a report, a log or an error.

mod kept;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::kept::{Kept, Place};
use super::{Class, Incoming, Outgoing, Part};
use crate::config::Fault;
use crate::config::document::{Document, Layers, keys_shown, shown};
use crate::config::rotation::Keys;
use crate::config::{Change, Config, Live};
use crate::health::{Reporter, Summary};
use crate::model::WallClock;
use crate::model::command::Refusal;
use crate::model::playlist::rfc3339_ms;
use crate::model::twin::{Edition, Effect, Input, Now, Reach, RolledBack, Version};
use crate::store::seal::BoxKey;

pub const DESIRED: &str = "twin/desired";
pub const REPORTED: &str = "twin/reported";

/// How this part is named to health.
const PART: &str = "configuration";
/// Hexadecimal digits of a fingerprint that is shown.
const SHOWN: usize = 8;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is left of a trial is written down so often.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Reads what a configuration only names (secrets in files); the field and the reason if it cannot.
pub type Prepare = Arc<dyn Fn(&mut Config) -> Result<(), Fault> + Send + Sync>;

/// What the twin needs of the house before anything else of it is there.
pub struct Needs {
    pub box_key: Arc<BoxKey>,
    pub layers: Arc<Mutex<Layers>>,
    pub prepare: Prepare,
    pub clock: WallClock,
    pub health: Reporter,
}

/// Keys that somebody wants changed, as the command has them.
pub struct Rotation {
    pub args: Value,
    pub answer: oneshot::Sender<Result<Value, Refusal>>,
}

/// The answer to the last document.
#[derive(Debug, Clone)]
struct Answer {
    version: Option<Version>,
    errors: Vec<Fault>,
}

/// The twin where it is on duty: what it hears, and what it can move.
pub struct Station {
    pub twin: Twin,
    pub live: Live,
    /// Of [`DESIRED`].
    pub incoming: mpsc::Receiver<Incoming>,
    pub rotations: mpsc::Receiver<Rotation>,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub connected: watch::Receiver<bool>,
    /// Notified when a change needs a start and nothing is recorded.
    pub restart: Arc<Notify>,
}

impl Part for Station {
    async fn live(&mut self, cancel: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.run(cancel).await;
        Ok(())
    }
}

pub struct Twin {
    needs: Needs,
    place: Place,
    kept: Kept,
    /// What the process began with.
    started: Arc<Config>,
    /// What holds now, as far as it can without a start.
    wanted: Arc<Config>,
    /// The file alone: what documents lie over does not take the one that should hold.
    unusable: bool,
    answer: Answer,
    born: Instant,
    /// What was left of the trial when it was written down.
    left: Option<Duration>,
    /// Fields that hold at the next start.
    pending: Vec<String>,
    /// A report is due: something has changed, or the last one found no room on its way.
    due: bool,
    /// What was kept could not be read, and nothing was kept since; what could not be kept.
    damaged: Option<String>,
    unkept: Option<String>,
}

impl Twin {
    /// Finds what holds, before any part of the box is built. `file`: the configuration of the file alone, prepared.
    pub fn begin(needs: Needs, file: Config) -> Twin {
        let place = Place::new(&file.server.state_dir, needs.box_key.clone());
        let (kept, damaged) = match place.read() {
            Ok(kept) => (kept.unwrap_or_default(), None),
            Err(why) => {
                tracing::error!(why, "what was kept of the twin cannot be read: the box's own file holds");
                (Kept::default(), Some(why))
            }
        };
        let file = Arc::new(file);
        let answer = Answer { version: None, errors: Vec::new() };
        let mut twin = Twin {
            needs,
            place,
            kept,
            started: file.clone(),
            wanted: file,
            unusable: false,
            answer,
            born: Instant::now(),
            left: None,
            pending: Vec::new(),
            due: true,
            damaged,
            unkept: None,
        };
        let effects = twin.kept.machine.apply(Input::Restarted, twin.now());
        for effect in effects {
            match effect {
                // told to health; the box starts all the same
                Effect::Keep => drop(twin.noted(twin.place.write(&twin.kept))),
                Effect::Use(edition) => twin.take_up(edition.as_ref()),
                Effect::Refuse(_) | Effect::Tell => {}
            }
        }
        twin.answer.version = twin.kept.machine.in_force().map(|edition| edition.version.clone());
        if let Some(told) = twin.kept.machine.rolled_back() {
            twin.answer = twin.after(told);
        }
        (twin.started, twin.pending) = (twin.wanted.clone(), Vec::new());
        twin
    }

    /// What the box is built with.
    pub fn config(&self) -> Config {
        (*self.wanted).clone()
    }

    /// What is done once a second while something is going on.
    async fn look(&mut self, restart: &Notify) {
        if let (Some(before), Some(now)) = (self.left, self.kept.machine.left())
            && before.saturating_sub(now) >= KEEP_EVERY
        {
            drop(self.keep().await);
        }
        if !self.pending.is_empty() && !self.needs.health.is_recording() {
            tracing::warn!(fields = ?self.pending, "a change of the configuration needs a start, and nothing is recorded");
            restart.notify_one();
        }
    }

    fn now(&self) -> Now {
        Now { uptime: self.born.elapsed(), wall: (self.needs.clock)() }
    }

    async fn desired(&mut self, message: &Incoming, live: &Live) {
        if message.topic != DESIRED {
            return tracing::debug!(topic = message.topic, "not for the twin");
        }
        if message.payload.is_empty() {
            // somebody cleared the topic: that is no wish
            return tracing::info!("no configuration is desired any more: what holds stays");
        }
        let outcome = match Document::parse(&message.payload) {
            Ok(document) => self.offer(document, live).await,
            Err(unread) => {
                self.refuse(unread.version, unread.faults);
                Ok(())
            }
        };
        if let Err(error) = outcome {
            let reason = format!("it cannot be kept on the disk: {error}");
            self.refuse(self.answer.version.clone(), vec![Fault::new("-", reason)]);
        }
        self.due = true;
    }

    fn refuse(&mut self, version: Option<Version>, errors: Vec<Fault>) {
        tracing::warn!(?version, ?errors, "a desired configuration is refused; the one before stays in force");
        metrics::counter!("holdfast_twin_documents_total", "outcome" => "refused").increment(1);
        self.answer = Answer { version, errors };
    }

    /// A document that can be read. An error: it could not be made safe, and nothing has changed.
    async fn offer(&mut self, document: Document, live: &Live) -> Result<(), std::io::Error> {
        let version = document.version.clone();
        let candidate = match self.configuration(Some(&document)) {
            Ok(config) => config,
            Err(faults) => {
                self.refuse(Some(version), faults);
                return Ok(());
            }
        };
        let fingerprint = self.place.fingerprint(document.content().expose());
        self.answer = Answer { version: Some(version.clone()), errors: Vec::new() };
        self.take(document, Edition::of_document(version.clone(), fingerprint), &candidate, live).await?;
        if self.answer.errors.is_empty() {
            tracing::info!(
                ?version,
                trial = self.kept.machine.trial().is_some(),
                "a desired configuration is in force"
            );
            metrics::counter!("holdfast_twin_documents_total", "outcome" => "accepted").increment(1);
        }
        Ok(())
    }

    /// An error: it could not be made safe, and nothing has changed.
    async fn take(
        &mut self,
        document: Document,
        edition: Edition,
        candidate: &Config,
        live: &Live,
    ) -> Result<(), std::io::Error> {
        let restart = Config::diff(&self.started, candidate).iter().any(|(_, change)| *change == Change::Restart);
        let line = Config::diff(&self.wanted, candidate).iter().any(|(field, _)| field.starts_with("fleet."));
        let period = Duration::from_secs(self.wanted.fleet.rollback_seconds);
        let before = self.kept.clone();
        self.kept.documents.insert(edition.fingerprint.clone(), document);
        let input = Input::Offered { edition, reach: Reach { line, restart }, period };
        let effects = self.kept.machine.apply(input, self.now());
        self.perform(effects, live).await.inspect_err(|_| self.kept = before)
    }

    /// Keys over the document in force; what they are now, with fingerprints.
    async fn rotate(&mut self, args: Value, live: &Live) -> Result<Value, Refusal> {
        let in_force = self.kept.machine.in_force();
        let below = in_force.and_then(|edition| self.kept.document(edition)).cloned();
        if in_force.is_some() && below.is_none() {
            return Err(Refusal::new("failed", "the document in force is not to be had: put another one first"));
        }
        let made = Keys::parse(args).and_then(|keys| {
            let asked = keys.clone();
            let document = self.layers().base().rotated(below.as_ref(), keys, (self.needs.clock)())?;
            let candidate = self.configuration(Some(&document))?;
            Ok((asked, document, candidate))
        });
        let (keys, document, candidate) = made.map_err(|faults| {
            tracing::warn!(?faults, "keys are not changed: those before stay in force");
            Refusal::new("bad_request", told_in_one(&faults))
        })?;
        let edition = self.kept.machine.with_keys(self.place.fingerprint(document.content().expose()));
        let version = edition.version.clone();
        let taken = self.take(document, edition, &candidate, live).await;
        taken.map_err(|error| Refusal::new("failed", format!("they cannot be kept on the disk: {error}")))?;
        let (fields, on_trial) = (keys.fields(), self.kept.machine.trial().is_some());
        tracing::info!(?version, ?fields, trial = on_trial, "keys were changed by a command");
        metrics::counter!("holdfast_twin_documents_total", "outcome" => "keys_rotated").increment(1);
        let keys = keys_shown(&candidate, &keys, &|text| self.shown_fingerprint(text));
        Ok(json!({ "version": version, "fields": fields, "keys": keys, "on_trial": on_trial }))
    }

    /// What is answered after something was rolled back: of keys, that the document below them holds as it did.
    fn after(&self, told: &RolledBack) -> Answer {
        let in_force = self.kept.machine.in_force();
        match in_force.filter(|edition| told.edition.rotated.is_some() && edition.same_document(&told.edition)) {
            Some(edition) => Answer { version: Some(edition.version.clone()), errors: Vec::new() },
            None if told.edition.version == Version::File => Answer { version: None, errors: Vec::new() },
            None => refused(told),
        }
    }

    fn shown_fingerprint(&self, text: &str) -> String {
        let mut whole = self.place.fingerprint(text);
        whole.truncate(SHOWN);
        whole
    }

    /// In their order. What could not be made safe is not done; what went before it was harmless.
    async fn perform(&mut self, effects: Vec<Effect>, live: &Live) -> Result<(), std::io::Error> {
        let rolled_back = self.kept.machine.rolled_back().cloned();
        let told = self.answer.version.clone();
        for effect in effects {
            match effect {
                Effect::Keep => {
                    let kept = self.keep().await;
                    // a way back is gone in any case: a box that is cut off must not stay so because its disk fails
                    if self.kept.machine.trial().is_some() {
                        kept?;
                    }
                }
                Effect::Use(edition) => {
                    self.take_up(edition.as_ref());
                    live.set(self.wanted.clone());
                    if let Some(back) = rolled_back.as_ref().filter(|back| Some(&back.edition) != edition.as_ref())
                        && self.kept.machine.trial().is_none()
                    {
                        tracing::error!(version = ?back.edition.version, why = back.why.reason(), "a desired configuration is rolled back");
                        metrics::counter!("holdfast_twin_documents_total", "outcome" => "rolled_back").increment(1);
                        self.answer = self.after(back);
                    }
                }
                Effect::Refuse(before) => {
                    let Answer { version, errors } = refused(&before);
                    self.refuse(version.or(told.clone()), errors);
                }
                Effect::Tell => self.due = true,
            }
        }
        Ok(())
    }

    /// The configuration with this document over the file, or with none.
    fn configuration(&self, document: Option<&Document>) -> Result<Config, Vec<Fault>> {
        let mut config = self.layers().base().with(document)?;
        (self.needs.prepare)(&mut config).map_err(|fault| vec![fault])?;
        Ok(config)
    }

    /// What holds from now on. A document that does not fit the file any more leaves the file alone.
    fn take_up(&mut self, edition: Option<&Edition>) {
        let document = edition.and_then(|edition| self.kept.document(edition)).cloned();
        let lost = edition.is_some() && document.is_none();
        let config = self.configuration(document.as_ref());
        self.unusable = lost || config.is_err();
        match config {
            Ok(config) => self.wanted = Arc::new(config),
            Err(faults) => {
                tracing::error!(?faults, "the document that should hold cannot: the box's own file holds");
                self.answer.errors = faults;
                match self.configuration(None) {
                    Ok(config) => self.wanted = Arc::new(config),
                    Err(faults) => tracing::error!(?faults, "and that cannot either: what held goes on"),
                }
            }
        }
        self.layers().set_document(document.filter(|_| !self.unusable));
        let differ = Config::diff(&self.started, &self.wanted).into_iter();
        self.pending = differ.filter(|(_, change)| *change == Change::Restart).map(|(field, _)| field).collect();
        self.tell_health();
    }

    fn tell_health(&self) {
        let health = &self.needs.health;
        match (&self.unkept, &self.damaged, self.unusable) {
            (Some(why), ..) => health.degraded(PART, format!("the document in force cannot be kept: {why}")),
            (_, Some(why), _) => health.degraded(PART, format!("the document that held is not to be had: {why}")),
            (.., true) => health.degraded(PART, "the document that should hold does not fit the box's own file"),
            _ => health.ok(PART),
        }
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, Layers> {
        self.needs.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(&mut self) -> std::io::Result<()> {
        self.kept.prune();
        let (place, kept) = (self.place.clone(), self.kept.clone());
        let written = tokio::task::spawn_blocking(move || place.write(&kept)).await;
        self.noted(written.map_err(std::io::Error::other).flatten())
    }

    fn noted(&mut self, written: std::io::Result<()>) -> std::io::Result<()> {
        match &written {
            Ok(()) => (self.left, self.damaged, self.unkept) = (self.kept.machine.left(), None, None),
            Err(error) => {
                tracing::error!(%error, "the twin cannot be written down");
                self.unkept = Some(error.to_string());
            }
        }
        self.tell_health();
        written
    }

    fn report(&self, live: &Live) -> Value {
        let machine = &self.kept.machine;
        let rotated =
            machine.in_force().filter(|_| !self.unusable).and_then(|edition| self.kept.document(edition)?.rotated());
        let keys_rotated =
            rotated.map(|rotated| json!({"fields": rotated.keys.fields(), "at": rfc3339_ms(rotated.at)}));
        let at = rfc3339_ms((self.needs.clock)());
        let in_force = machine.in_force().filter(|_| !self.unusable).map(|edition| &edition.version);
        let rolled_back = machine.rolled_back().map(|told| {
            json!({
                "version": told.edition.version,
                "keys_alone": told.edition.rotated.is_some(),
                "reason": told.why.reason(),
                "at": rfc3339_ms(told.at),
            })
        });
        json!({
            "version": self.answer.version,
            "accepted": self.answer.errors.is_empty(),
            "errors": self.answer.errors,
            "in_force": in_force,
            "keys_rotated": keys_rotated,
            "on_trial": machine.trial().is_some(),
            "config": shown(&live.now(), &|text| self.shown_fingerprint(text)),
            "pending_restart": self.pending,
            "rolled_back": rolled_back,
            "at": at,
        })
    }

    /// Never waits: a report that finds no room goes a second later, as things are then.
    fn tell(&mut self, live: &Live, outgoing: &mpsc::Sender<Outgoing>) {
        let payload = self.report(live).to_string().into_bytes();
        let message = Outgoing { topic: REPORTED.into(), payload, retain: true, class: Class::State };
        self.due = matches!(outgoing.try_send(message), Err(mpsc::error::TrySendError::Full(_)));
    }
}

impl Station {
    /// Until `cancel`.
    async fn run(&mut self, cancel: CancellationToken) {
        let Station { twin, live, incoming, rotations, outgoing, connected, restart } = self;
        let mut health = twin.needs.health.watch();
        health.mark_changed();
        connected.mark_changed();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if twin.due {
                twin.tell(live, outgoing);
            }
            let watched = twin.kept.machine.trial().is_some() || twin.due || !twin.pending.is_empty();
            let input = tokio::select! {
                () = cancel.cancelled() => return,
                message = incoming.recv() => match message {
                    Some(message) => {
                        twin.desired(&message, live).await;
                        continue;
                    }
                    None => return,
                },
                Some(Rotation { args, answer }) = rotations.recv() => {
                    let done = twin.rotate(args, live).await;
                    // told before its answer: whoever waited for that finds this true
                    twin.tell(live, outgoing);
                    drop(answer.send(done));
                    continue;
                }
                changed = connected.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *connected.borrow_and_update() { Input::Connected } else { Input::Disconnected }
                }
                Ok(()) = health.changed() => {
                    Input::Health { failed: matches!(*health.borrow_and_update(), Summary::Failed(_)) }
                }
                _ = look.tick(), if watched => Input::Tick,
            };
            let ticked = input == Input::Tick;
            // of a document that does not hold nothing can be said
            if !(ticked && twin.unusable) {
                let effects = twin.kept.machine.apply(input, twin.now());
                drop(twin.perform(effects, live).await);
            }
            if ticked {
                twin.look(restart).await;
            }
        }
    }
}

/// Each begins with its field.
fn told_in_one(faults: &[Fault]) -> String {
    let one = |fault: &Fault| match fault.reason.starts_with(&fault.field) {
        true => fault.reason.clone(),
        false => format!("{}: {}", fault.field, fault.reason),
    };
    faults.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn refused(told: &RolledBack) -> Answer {
    let reason = format!("it was rolled back: {}", told.why.reason());
    Answer { version: Some(told.edition.version.clone()), errors: vec![Fault::new("-", reason)] }
}
