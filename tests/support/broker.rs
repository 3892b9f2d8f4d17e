//! Debian's mosquitto with TLS on loopback, somebody who hears everything, and the schemas of what may be said.
//!
//! Every message that is looked at is held against its schema in `docs/mqtt/`.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{Port, Running, SOON, listening, output_of, program, project, within};

pub const PASSWORD: &str = "broker-password-4be81c77";
const USERS: [&str; 3] = ["watcher", "b-1", "b-2"];

/// How clients show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Certificates,
    Passwords,
}

/// What somebody told everybody.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub topic: String,
    /// It was there before somebody listened.
    pub retained: bool,
    /// `Null`: an empty one.
    pub payload: Value,
}

pub struct Broker {
    pub port: u16,
    _held: Port,
    entry: Entry,
    authority: Authority,
    running: Running,
    /// The one that listens, and those before it: over TLS it does not outlive its broker.
    watchers: Vec<Running>,
    /// So many messages were held against their schemas.
    checked: AtomicUsize,
    dir: TempDir,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("a certificate can be made").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// `<name>.pem` and `<name>.key` in `dir`.
    fn vouch(&self, dir: &Path, name: &str) {
        let mut params = CertificateParams::new(["localhost", "127.0.0.1"].map(str::to_owned)).expect("plain names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key can be made");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        std::fs::write(dir.join(format!("{name}.pem")), made.pem()).expect("the folder is ours");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("the folder is ours");
    }
}

fn mosquitto(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(|place| Path::new(place).join(name));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| program(name))
}

impl Broker {
    pub async fn start(entry: Entry) -> Broker {
        let dir = TempDir::new().expect("a temporary folder can be made");
        let authority = Authority::new("the clinic");
        std::fs::write(dir.path().join("ca.pem"), &authority.pem).expect("the folder is ours");
        std::fs::write(dir.path().join("foreign.pem"), Authority::new("somebody else").pem).expect("likewise");
        authority.vouch(dir.path(), "broker");
        USERS.iter().for_each(|user| authority.vouch(dir.path(), user));
        let passwords = dir.path().join("passwords");
        for (n, user) in USERS.iter().enumerate() {
            let mut command = std::process::Command::new(mosquitto("mosquitto_passwd"));
            let first: &[&str] = if n == 0 { &["-c"] } else { &[] };
            output_of(command.args(first).arg("-b").arg(&passwords).args([user, PASSWORD]));
        }
        std::fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).expect("the folder is ours");
        let held = Port::take();
        let port = held.number();
        std::fs::write(dir.path().join("mosquitto.conf"), conf(dir.path(), port, entry)).expect("the folder is ours");
        let running = launch(dir.path(), port).await;
        let watcher = watch(dir.path(), port, entry).await;
        Broker {
            port,
            _held: held,
            entry,
            authority,
            running,
            watchers: vec![watcher],
            checked: AtomicUsize::new(0),
            dir,
        }
    }

    /// As a power cut would end it.
    pub async fn kill(&mut self) {
        self.running.kill().await;
    }

    /// After [`Broker::kill`]: it remembers what it had told its listener.
    pub async fn start_again(&mut self) {
        self.running = launch(self.dir.path(), self.port).await;
        self.watchers.push(watch(self.dir.path(), self.port, self.entry).await);
    }

    /// The table of a box's configuration.
    pub fn fleet(&self, box_id: &str, more: &str) -> String {
        self.authority.vouch(self.dir.path(), box_id);
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let entry = match self.entry {
            Entry::Certificates => format!(
                "client_certificate = \"{}\"\nclient_key = \"{}\"",
                file(&format!("{box_id}.pem")),
                file(&format!("{box_id}.key"))
            ),
            Entry::Passwords => format!("username = \"{box_id}\"\npassword_file = \"{}\"", file("password")),
        };
        let ca = if more.contains("\nca =") { String::new() } else { format!("ca = \"{}\"", file("ca.pem")) };
        format!(
            "[fleet]\nenabled = true\nbox_id = \"{box_id}\"\nbroker = \"mqtts://127.0.0.1:{}\"\n{ca}\n{entry}\n\
             retry_longest_seconds = 2\n{more}\n",
            self.port
        )
    }

    /// An authority that never vouched for this broker.
    pub fn foreign_ca(&self) -> PathBuf {
        self.dir.path().join("foreign.pem")
    }

    /// As an operator.
    pub fn publish(&self, topic: &str, payload: &str, retain: bool) {
        let mut command = std::process::Command::new(program("mosquitto_pub"));
        command.args(client(self.dir.path(), self.port, self.entry));
        command.args(["-q", "1", "-t", topic, "-m", payload]).args(retain.then_some("-r"));
        output_of(&mut command);
    }

    /// What a newcomer finds on a topic.
    pub fn retained(&self, topic: &str) -> Value {
        let mut command = std::process::Command::new(program("mosquitto_sub"));
        command.args(client(self.dir.path(), self.port, self.entry));
        let text = output_of(command.args(["-C", "1", "-W", "30", "-t", topic]));
        serde_json::from_slice(&text).expect("retained messages are JSON")
    }

    /// Everything that was said, in its order; each as its schema wants it.
    pub fn messages(&self) -> Vec<Message> {
        let lines = self.watchers.iter().flat_map(|watcher| watcher.lines.all());
        let all: Vec<Message> = lines.filter_map(|line| parse(&line)).collect();
        all.iter().skip(self.checked.load(Ordering::SeqCst)).for_each(check);
        self.checked.fetch_max(all.len(), Ordering::SeqCst);
        all
    }

    /// The first of the messages from the `from`-th on that `pick` likes, once it is there.
    pub async fn wait_from<T>(&self, from: usize, what: &str, mut pick: impl FnMut(&Message) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = self.messages().iter().skip(from).find_map(&mut pick) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(SOON, what, found).await
    }

    pub async fn wait<T>(&self, what: &str, pick: impl FnMut(&Message) -> Option<T>) -> T {
        self.wait_from(0, what, pick).await
    }

    /// Asks a box for something, as an operator.
    pub fn ask(&self, box_id: &str, id: &str, command: &str, args: Value) {
        let request = json!({ "command": command, "args": args }).to_string();
        self.publish(&format!("holdfast/{box_id}/command/{id}"), &request, false);
    }

    /// The first status of a command that has this state.
    pub async fn status(&self, box_id: &str, id: &str, state: &str) -> Value {
        let topic = format!("holdfast/{box_id}/command/{id}/status");
        let pick = |message: &Message| {
            (message.topic == topic && message.payload["state"] == state).then(|| message.payload.clone())
        };
        self.wait(&format!("command {id} to be {state}"), pick).await
    }

    /// The result of a command that is done.
    pub async fn done(&self, box_id: &str, id: &str, command: &str, args: Value) -> Value {
        self.ask(box_id, id, command, args);
        self.status(box_id, id, "done").await["result"].clone()
    }

    /// Code and message of a command that is refused.
    pub async fn refused(&self, box_id: &str, id: &str, command: &str, args: Value) -> (String, String) {
        self.ask(box_id, id, command, args);
        let status = self.status(box_id, id, "failed").await;
        let text = |field: &str| status["error"][field].as_str().expect("by schema").to_owned();
        (text("code"), text("message"))
    }

    /// The first report of a box's twin of which this holds.
    pub async fn report(&self, box_id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("holdfast/{box_id}/twin/reported");
        let pick =
            |message: &Message| (message.topic == topic && holds(&message.payload)).then(|| message.payload.clone());
        self.wait(what, pick).await
    }

    pub fn desire(&self, box_id: &str, version: i64, config: Value) {
        let document = json!({"version": version, "config": config}).to_string();
        self.publish(&format!("holdfast/{box_id}/twin/desired"), &document, true);
    }

    /// What the box said, and not the operators, holds none of these.
    pub fn assert_told_nothing_of(&self, secrets: &[&str]) {
        for message in self.messages() {
            let by_operators = message.topic.ends_with("/twin/desired")
                || message.topic.contains("/command/") && !message.topic.ends_with("/status");
            let text = message.payload.to_string();
            let silent = secrets.iter().all(|secret| !text.contains(secret));
            assert!(by_operators || silent, "a secret is in a message: {text}");
        }
    }

    /// Everything, as bytes that went over the line.
    pub fn heard(&self) -> String {
        self.watchers.iter().map(|watcher| watcher.lines.text()).collect::<Vec<_>>().join("\n")
    }
}

fn conf(dir: &Path, port: u16, entry: Entry) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let entry = match entry {
        Entry::Certificates => "require_certificate true\nuse_identity_as_username true".to_owned(),
        Entry::Passwords => format!("allow_anonymous false\npassword_file {}", file("passwords")),
    };
    // it stays who it is, so that it can read the folder; sessions and retained messages outlast a kill
    format!(
        "user root\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n{entry}\n\
         persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n\
         log_dest stderr\nmax_queued_messages 0\n",
        file("ca.pem"),
        file("broker.pem"),
        file("broker.key"),
        dir.display(),
    )
}

async fn launch(dir: &Path, port: u16) -> Running {
    let mut command = Command::new(mosquitto("mosquitto"));
    command.arg("-c").arg(dir.join("mosquitto.conf"));
    let running = Running::start("mosquitto", &mut command);
    listening(([127, 0, 0, 1], port).into(), "mosquitto").await;
    running
}

fn client(dir: &Path, port: u16, entry: Entry) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut args = ["-V", "5", "-h", "127.0.0.1", "-p"].map(str::to_owned).to_vec();
    args.extend([port.to_string(), "--cafile".into(), file("ca.pem")]);
    match entry {
        Entry::Certificates => {
            args.extend(["--cert".into(), file("watcher.pem"), "--key".into(), file("watcher.key")]);
        }
        Entry::Passwords => args.extend(["-u".into(), "watcher".into(), "-P".into(), PASSWORD.into()]),
    }
    args
}

/// One that comes again has missed nothing: its session is kept for it.
async fn watch(dir: &Path, port: u16, entry: Entry) -> Running {
    // into a pipe it would keep its lines to itself
    let mut command = Command::new(program("stdbuf"));
    command.arg("-oL").arg(program("mosquitto_sub")).args(client(dir, port, entry));
    command.args(["-i", "watcher", "-c", "-x", "3600", "-q", "1", "-t", "#", "-F", "%j", "-d"]);
    let running = Running::start("mosquitto_sub", &mut command);
    running.lines.wait_for("a subscription", |line| line.starts_with("Subscribed").then_some(())).await;
    running
}

fn parse(line: &str) -> Option<Message> {
    let told: Value = serde_json::from_str(line).ok().filter(Value::is_object)?;
    let topic = told["topic"].as_str()?.to_owned();
    let payload = told["payload"].as_str().unwrap_or_default();
    let payload = match payload {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|e| panic!("{topic}: {e}: {text}")),
    };
    Some(Message { topic, retained: told["retain"] == json!(1), payload })
}

static SCHEMAS: LazyLock<BTreeMap<String, jsonschema::Validator>> = LazyLock::new(|| {
    let folder = std::fs::read_dir(project().join("docs/mqtt")).expect("the folder is part of the project");
    let files = folder.map(|entry| entry.expect("it can be read").path());
    let schemas = files.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".schema.json")?.to_owned();
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        Some((name.clone(), jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{name}: {e}"))))
    });
    schemas.collect()
});

/// Which schema a topic has.
fn schema_of(topic: &str) -> Option<&'static str> {
    let parts: Vec<&str> = topic.split('/').collect();
    match parts[..] {
        ["holdfast", _, "state"] => Some("state"),
        ["holdfast", _, "telemetry"] => Some("telemetry"),
        ["holdfast", _, "event", _] => Some("event"),
        ["holdfast", _, "twin", "desired"] => Some("twin-desired"),
        ["holdfast", _, "twin", "reported"] => Some("twin-reported"),
        ["holdfast", _, "command", _] => Some("command"),
        ["holdfast", _, "command", _, "status"] => Some("command-status"),
        ["homeassistant", _, _, _, "config"] => Some("home-assistant"),
        _ => None,
    }
}

/// Panics when a message is not as its schema wants it.
pub fn check(message: &Message) {
    let topic = &message.topic;
    let name = schema_of(topic).unwrap_or_else(|| panic!("{topic} is not in docs/mqtt.md"));
    if message.payload.is_null() {
        return;
    }
    let schema = SCHEMAS.get(name).unwrap_or_else(|| panic!("docs/mqtt has no {name}.schema.json"));
    let faults: Vec<String> =
        schema.iter_errors(&message.payload).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{topic}: {}\n{}", faults.join("\n"), message.payload);
}
