//! The box as a child process: configuration, start, kill, start again with the same state.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::{API_ID, API_KEY, APP, APP_KEY, CALLBACK_KEY, Port, Running, halted};

/// What a test wants different from the plain box.
#[derive(Debug, Clone)]
pub struct Settings {
    pub callback_url: Option<String>,
    /// `None`: a local store.
    pub s3_endpoint: Option<String>,
    pub segment_seconds: u64,
    pub gap_seconds: u64,
    pub ice_timeout_seconds: u64,
    pub upload_grace_seconds: u64,
    /// Instead of a folder beside the configuration.
    pub state_dir: Option<PathBuf>,
    /// UserSigs are checked.
    pub user_sigs: bool,
    /// As `RUST_LOG`
    pub log: String,
    /// Further TOML, whole tables.
    pub more: String,
    /// Further lines of the tables `[recording]` and `[upload]`.
    pub more_recording: String,
    pub more_upload: String,
    /// The point at which the next life dies (`HOLDFAST_CRASH`).
    pub crash: Option<String>,
    /// Further variables of its environment.
    pub env: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            callback_url: None,
            s3_endpoint: None,
            segment_seconds: 4,
            gap_seconds: 3,
            ice_timeout_seconds: 5,
            upload_grace_seconds: 60,
            state_dir: None,
            user_sigs: true,
            log: "info,holdfast=debug".to_owned(),
            more: String::new(),
            more_recording: String::new(),
            more_upload: String::new(),
            crash: None,
            env: Vec::new(),
        }
    }
}

/// Where the doors are.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub udp: SocketAddr,
}

impl Doors {
    /// From `ready http=127.0.0.1:1234 https=127.0.0.1:1235 udp=127.0.0.1:1236`.
    fn parse(line: &str) -> Option<Doors> {
        let mut words = line.split_whitespace();
        if words.next() != Some("ready") {
            return None;
        }
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut doors = Doors { http: none, https: none, udp: none };
        for (name, address) in words.filter_map(|word| word.split_once('=')) {
            let address = address.parse().ok()?;
            match name {
                "http" => doors.http = address,
                "https" => doors.https = address,
                "udp" => doors.udp = address,
                _ => {}
            }
        }
        Some(doors)
    }
}

/// A running box. Its folder lives as long as this value.
pub struct Daemon {
    pub doors: Doors,
    pub settings: Settings,
    /// Logs of the lives before this one.
    earlier: Vec<String>,
    running: Running,
    dir: TempDir,
    _held: [Port; 2],
}

impl Daemon {
    pub async fn start(settings: Settings) -> Daemon {
        let dir = TempDir::new().expect("a temporary folder can be made");
        // it comes back to them after a death, and nobody else may have them meanwhile; of UDP it takes any
        let held = [Port::take(), Port::take()];
        let [http, https] = [held[0].address, held[1].address];
        let udp = SocketAddr::from(([127, 0, 0, 1], 0));
        let (running, doors) = launch(dir.path(), &settings, Doors { http, https, udp }).await;
        Daemon { doors, settings, earlier: Vec::new(), running, dir, _held: held }
    }

    /// The ports that nobody else can have taken meanwhile; of UDP any.
    fn held(&self) -> Doors {
        Doors { udp: SocketAddr::from(([127, 0, 0, 1], 0)), ..self.doors }
    }

    /// Starts it again after [`Daemon::kill`] or [`Daemon::terminate`], on the same ports of TCP, with the same state.
    pub async fn start_again(&mut self) {
        self.earlier.push(self.running.lines.text());
        let (running, doors) = launch(self.dir.path(), &self.settings, self.held()).await;
        self.running = running;
        self.doors = doors;
    }

    /// Whether it got its doors open before it came to a halt.
    pub async fn try_start_again(&mut self) -> bool {
        self.earlier.push(self.running.lines.text());
        self.running = spawn(self.dir.path(), &self.settings, self.held());
        let lines = self.running.lines.clone();
        tokio::select! {
            doors = lines.wait_for("the line 'ready http=…'", Doors::parse) => {
                self.doors = doors;
                true
            }
            () = halted(self.running.id()) => false,
        }
    }

    /// It does nothing more, and has all its files open still.
    pub async fn freeze(&mut self) {
        self.running.signal(Signal::SIGSTOP);
        halted(self.running.id()).await;
    }

    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    pub async fn kill(&mut self) {
        self.running.kill().await;
    }

    pub async fn terminate(&mut self) -> Option<i32> {
        self.running.terminate().await
    }

    /// Its exit code, once it ended by itself.
    pub async fn ended(&mut self) -> Option<i32> {
        self.running.ended().await
    }

    /// Changes what stands in its configuration beside the plain one, and says so (SIGHUP).
    pub fn reload(&mut self, more: &str) {
        self.settings.more = more.to_owned();
        let text = toml_of(self.dir.path(), &self.settings, self.doors);
        std::fs::write(self.dir.path().join("holdfast.toml"), text).expect("the folder is ours");
        self.running.signal(nix::sys::signal::Signal::SIGHUP);
    }

    /// Awaits a line of its log.
    pub async fn logged(&self, words: &str) {
        self.running.lines.wait_for(words, |line| line.contains(words).then_some(())).await;
    }

    pub fn id(&self) -> i32 {
        self.running.id()
    }

    pub fn state_dir(&self) -> PathBuf {
        state_of(self.dir.path(), &self.settings)
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.state_dir().join("spool")
    }

    /// Where the local store lays its files: `<root>/<bucket>/<key>`.
    pub fn local_root(&self) -> PathBuf {
        self.state_dir().join("files")
    }

    /// What all its lives logged.
    pub fn log(&self) -> String {
        let mut log = self.earlier.join("\n");
        log.push('\n');
        log.push_str(&self.running.lines.text());
        log
    }

    /// `http://127.0.0.1:1234/…`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.doors.http, path.trim_start_matches('/'))
    }

    /// The WHIP address of a user's main stream.
    pub fn whip(&self, room: &str, user: &str) -> String {
        self.url(&format!("whip/{}/{}", encoded(room), encoded(user)))
    }

    pub async fn health(&self) -> Value {
        let text = get(&self.url("healthz")).await;
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// One number of `/metrics`: the sum over all labels of `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = get(&self.url("metrics")).await;
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// A GET that must succeed, without proxies.
pub async fn get(url: &str) -> String {
    let client = client();
    let answer = client.get(url).send().await.unwrap_or_else(|e| panic!("GET {url}: {e}"));
    answer.text().await.unwrap_or_else(|e| panic!("GET {url}: {e}"))
}

/// An HTTP client for loopback.
pub fn client() -> reqwest::Client {
    // Whoever came first set the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client without roots of trust can be built")
}

pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String");
        }
    }
    out
}

async fn launch(dir: &Path, settings: &Settings, doors: Doors) -> (Running, Doors) {
    let running = spawn(dir, settings, doors);
    let doors = running.lines.wait_for("the line 'ready http=…'", Doors::parse).await;
    (running, doors)
}

fn spawn(dir: &Path, settings: &Settings, doors: Doors) -> Running {
    let config = dir.join("holdfast.toml");
    std::fs::write(&config, toml_of(dir, settings, doors)).expect("the folder is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("run").arg("--config").arg(&config).env("RUST_LOG", &settings.log).env("NO_COLOR", "1");
    command.envs(settings.env.iter().map(|(name, value)| (name, value)));
    if let Some(crash) = &settings.crash {
        command.env("HOLDFAST_CRASH", crash);
    }
    Running::start("holdfast", &mut command)
}

fn state_of(dir: &Path, settings: &Settings) -> PathBuf {
    settings.state_dir.clone().unwrap_or_else(|| dir.join("state"))
}

fn toml_of(dir: &Path, settings: &Settings, doors: Doors) -> String {
    let state = state_of(dir, settings);
    let callback = settings
        .callback_url
        .as_ref()
        .map_or(String::new(), |url| format!("callback_url = \"{url}\"\ncallback_key = \"{CALLBACK_KEY}\"\n"));
    let secret = if settings.user_sigs { format!("secret_key = \"{APP_KEY}\"\n") } else { String::new() };
    let storage = match &settings.s3_endpoint {
        Some(endpoint) => format!(
            "kind = \"cloud\"\ns3_endpoint = \"{endpoint}\"\ncos_endpoint = \"{endpoint}\"\npath_style = true\n"
        ),
        None => "kind = \"local\"\n".to_owned(),
    };
    // a test has its box at once, and decides itself what is too much
    let limits = "[limits]\nprobe = false\n";
    let more = match settings.more.contains("[limits]\n") {
        true => settings.more.replacen("[limits]\n", limits, 1),
        false => format!("{limits}\n{}", settings.more),
    };
    format!(
        r#"[server]
http = "{http}"
https = "{https}"
state_dir = "{state}"

[whip]
udp = "{udp}"
addresses = ["127.0.0.1"]
ice_timeout_seconds = {ice}

[[apps]]
sdk_app_id = {APP}
{secret}{callback}
[[api_keys]]
secret_id = "{API_ID}"
secret_key = "{API_KEY}"

[recording]
segment_seconds = {segment}
gap_seconds = {gap}
{more_recording}

[storage]
{storage}
[upload]
retry_first_seconds = 1
retry_longest_seconds = 2
grace_seconds = {grace}
{more_upload}

[callbacks]
retry_first_seconds = 1
retry_longest_seconds = 2

{more}
"#,
        http = doors.http,
        https = doors.https,
        udp = doors.udp,
        state = state.display(),
        ice = settings.ice_timeout_seconds,
        segment = settings.segment_seconds,
        gap = settings.gap_seconds,
        grace = settings.upload_grace_seconds,
        more = more,
        more_recording = settings.more_recording,
        more_upload = settings.more_upload,
    )
}
