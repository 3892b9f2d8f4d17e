//! A command of the operators: what is asked, how far it is, and what a restart makes of it.
//!
//! Owns: the request's shape, the states, which of them end. Must not touch: what a command does, the broker, the index.
//! Law: a request id is done once: whoever repeats it is told how far it is. What a restart cut short is not done again by
//! itself, since nobody knows how much of it was done and its arguments, which may hold secrets, are not kept; a reboot is
//! done when the machine has another boot.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Timestamp;
use super::playlist::rfc3339_ms;

/// A request needs less.
const MOST_BYTES: usize = 256 * 1024;
const LONGEST_ID: usize = 64;

pub const REBOOT: &str = "reboot";

/// What is asked.
#[derive(Clone, PartialEq)]
pub struct Request {
    pub command: String,
    pub args: Value,
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// written down, not begun
    Accepted,
    Running,
    Done,
    Failed,
}

impl State {
    pub fn ends(self) -> bool {
        matches!(self, State::Done | State::Failed)
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// One of this box's words, or a code of the API.
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { code: code.into(), message: message.into() }
    }
}

/// How far a command is, as it is kept and as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub request_id: String,
    pub command: String,
    pub state: State,
    /// Of the state.
    pub at: Timestamp,
    /// The order in which commands came.
    pub order: u64,
    /// In which life of the machine it was begun.
    pub boot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Whether a topic's last level can be a request's id.
pub fn is_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(plain)
}

/// Reads a request. What is wrong is told without its values, which may be secrets.
pub fn parse(payload: &[u8]) -> Result<Request, Refusal> {
    let bad = |why: String| Refusal::new("bad_request", why);
    if payload.len() > MOST_BYTES {
        return Err(bad(format!("a request is at most {MOST_BYTES} bytes")));
    }
    let mut object: Map<String, Value> = match serde_json::from_slice(payload) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(bad("a request is a JSON object".into())),
        Err(error) => return Err(bad(format!("not JSON (line {}, column {})", error.line(), error.column()))),
    };
    let Some(Value::String(command)) = object.remove("command") else {
        return Err(bad("'command' is not there, or no text".into()));
    };
    let args = match object.remove("args") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(args @ Value::Object(_)) => args,
        Some(_) => return Err(bad("'args' is not an object".into())),
    };
    let expires_at = match object.remove("expires_at") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => match OffsetDateTime::parse(&text, &Rfc3339) {
            Ok(time) => Some(Timestamp::from_ms(
                i64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("years up to 9999 fit"),
            )),
            Err(_) => return Err(bad("'expires_at' is not a time such as 2026-11-26T07:00:00Z".into())),
        },
        Some(_) => return Err(bad("'expires_at' is no text".into())),
    };
    match object.keys().next() {
        Some(other) if other.chars().count() <= 64 => Err(bad(format!("'{other}' is no field of a request"))),
        Some(_) => Err(bad("a request has a field that none has".into())),
        None => Ok(Request { command, args, expires_at }),
    }
}

impl Request {
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| now > at)
    }
}

impl Progress {
    /// A command that came.
    pub fn accept(request_id: &str, command: &str, order: u64, boot: &str, now: Timestamp) -> Progress {
        // of a command that none is, so much is told
        let command = command.chars().take(LONGEST_ID).collect();
        Progress {
            request_id: request_id.to_owned(),
            command,
            state: State::Accepted,
            at: now,
            order,
            boot: boot.to_owned(),
            result: None,
            error: None,
        }
    }

    pub fn begin(&mut self, now: Timestamp) {
        (self.state, self.at) = (State::Running, now);
    }

    pub fn end(&mut self, outcome: Result<Value, Refusal>, now: Timestamp) {
        self.at = now;
        match outcome {
            Ok(result) => (self.state, self.result) = (State::Done, Some(result)),
            Err(error) => (self.state, self.error) = (State::Failed, Some(error)),
        }
    }

    /// What the box finds of it when it starts, in this boot of the machine. Whether something of it changed.
    pub fn after_restart(&mut self, boot: &str, now: Timestamp) -> bool {
        let outcome = match self.state {
            State::Done | State::Failed => return false,
            State::Running if self.command == REBOOT && self.boot != boot => Ok(Value::Object(Map::new())),
            State::Running if self.command == REBOOT => {
                Err(Refusal::new("interrupted", "the box was started again, and the machine was not"))
            }
            State::Running => Err(Refusal::new("interrupted", "the box went down while it ran; it may have been done")),
            State::Accepted => Err(Refusal::new("interrupted", "the box went down before it was begun")),
        };
        self.end(outcome, now);
        true
    }

    /// As operators read it.
    pub fn told(&self) -> Value {
        let mut told = serde_json::json!({
            "request_id": self.request_id,
            "command": self.command,
            "state": self.state,
            "at": rfc3339_ms(self.at),
        });
        if let Some(result) = &self.result {
            told["result"] = result.clone();
        }
        if let Some(error) = &self.error {
            told["error"] = serde_json::json!({ "code": error.code, "message": error.message });
        }
        told
    }
}

/// Of those that have ended, which are the oldest beyond `keep`.
pub fn too_many<'a>(all: impl Iterator<Item = &'a Progress>, keep: usize) -> Vec<String> {
    let mut ended: Vec<&Progress> = all.filter(|progress| progress.state.ends()).collect();
    ended.sort_by_key(|progress| std::cmp::Reverse(progress.order));
    ended.into_iter().skip(keep).map(|progress| progress.request_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn a_request_is_read_whole_or_refused_without_its_values() {
        let text = br#"{"command": "identify", "args": {"seconds": 3}, "expires_at": "2026-11-26T08:00:00+01:00"}"#;
        let request = parse(text).expect("a request");
        assert_eq!((request.command.as_str(), &request.args), ("identify", &json!({"seconds": 3})));
        let seven = at(1_795_676_400_000);
        assert_eq!(request.expires_at, Some(seven));
        assert!(!request.has_expired(seven) && request.has_expired(at(seven.ms() + 1)));
        assert_eq!(parse(br#"{"command": "reboot"}"#).expect("a request").args, json!({}));
        for (text, why) in [
            ("", "not JSON"),
            ("[1]", "a JSON object"),
            ("{}", "'command' is not there"),
            (r#"{"command": 7}"#, "no text"),
            (r#"{"command": "x", "args": "hush"}"#, "'args' is not an object"),
            (r#"{"command": "x", "expires_at": "hush"}"#, "'expires_at' is not a time"),
            (r#"{"command": "x", "argz": {"secret": "hush"}}"#, "'argz' is no field"),
        ] {
            let told = parse(text.as_bytes()).map(|_| ()).expect_err("it is wrong").to_string();
            assert!(told.contains(why) && told.starts_with("bad_request") && !told.contains("hush"), "{text}: {told}");
        }
        assert!(is_id("a-1_2.b") && !is_id("") && !is_id("a/b") && !is_id("+") && !is_id(&"x".repeat(65)));
    }

    #[test]
    fn a_restart_ends_what_it_cut_short_and_a_reboot_is_what_it_was_for() {
        let restarted = |command: &str, begun: bool, boot: &str| {
            let mut progress = Progress::accept("1", command, 1, "boot-a", at(1));
            if begun {
                progress.begin(at(2));
            }
            assert!(progress.after_restart(boot, at(3)));
            assert!(!progress.clone().after_restart("boot-c", at(4)), "an end is one");
            (progress.state, progress.error.map(|error| error.message))
        };
        assert_eq!(restarted(REBOOT, true, "boot-b"), (State::Done, None));
        for (command, begun, boot, why) in [
            (REBOOT, true, "boot-a", "the machine was not"),
            (REBOOT, false, "boot-b", "before it was begun"),
            ("start_recording", true, "boot-b", "may have been done"),
            ("start_recording", false, "boot-a", "before it was begun"),
        ] {
            let (state, told) = restarted(command, begun, boot);
            assert!(
                state == State::Failed && told.as_ref().is_some_and(|told| told.contains(why)),
                "{command}: {told:?}"
            );
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_told_has_its_shape() {
        let mut progress = Progress::accept("1", "list_recordings", 9, "b", at(1_000));
        progress.end(Ok(json!({"recordings": []})), at(2_000));
        let bytes = serde_json::to_vec(&progress).expect("plain values");
        assert_eq!(serde_json::from_slice::<Progress>(&bytes).expect("as it was written"), progress);
        let told = json!({
            "request_id": "1", "command": "list_recordings", "state": "done", "at": "1970-01-01T00:00:02.000Z",
            "result": {"recordings": []},
        });
        assert_eq!(progress.told(), told);
    }

    proptest! {
        #[test]
        fn the_newest_ends_are_kept_and_nothing_that_runs_is_let_go(ended in proptest::collection::vec(any::<bool>(), 0..30), keep in 0_usize..10) {
            let all: Vec<Progress> = ended.iter().enumerate().map(|(i, ended)| {
                let mut progress = Progress::accept(&i.to_string(), "x", i as u64, "b", at(0));
                if *ended {
                    progress.end(Ok(json!({})), at(1));
                }
                progress
            }).collect();
            let gone = too_many(all.iter(), keep);
            let count = ended.iter().filter(|ended| **ended).count();
            prop_assert_eq!(gone.len(), count.saturating_sub(keep));
            for progress in &all {
                let younger = all.iter().filter(|other| other.state.ends() && other.order > progress.order).count();
                prop_assert_eq!(gone.contains(&progress.request_id), progress.state.ends() && younger >= keep);
            }
        }
    }
}
