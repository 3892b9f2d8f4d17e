//! What the integration tests share: a real box, its publishers, its servers, and readers of what it recorded.
//!
//! Everything is on loopback, on ports of its own, in a folder of its own, so tests run side by side. Waiting is for
//! an event, with a generous guard; a part that is not installed fails the test and says how to get it.
#![allow(dead_code, reason = "each test file uses its share of the harness")]

pub mod beat;
pub mod browser;
pub mod bucket;
pub mod camera;
pub mod daemon;
pub mod probe;
pub mod publisher;
pub mod receiver;
pub mod recorded;
pub mod relay;
pub mod scene;
pub mod sdk;
pub mod small_disk;
pub mod takes;
pub mod vod;

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Guard of a wait for something that takes moments.
pub const SOON: Duration = Duration::from_secs(60);
/// Guard of a wait that includes whole segments, uploads and their retries.
pub const LATER: Duration = Duration::from_secs(180);

pub const APP: u32 = 1_400_000_001;
pub const APP_KEY: &str = "app-secret-5c1f0e9ab27d44b0";
pub const API_ID: &str = "AKIDboxtests";
pub const API_KEY: &str = "api-secret-8e0d7c55aa914f3b";
pub const CALLBACK_KEY: &str = "callbackKey0123456789";
pub const ACCESS_KEY: &str = "storage-access-93ab41";
pub const SECRET_KEY: &str = "storage-secret-1d2c77e0b6";
pub const BUCKET: &str = "consultations";

/// Awaits `what`, or fails the test with `name`.
pub async fn within<T>(guard: Duration, name: &str, what: impl Future<Output = T>) -> T {
    match tokio::time::timeout(guard, what).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {name}, in vain", guard.as_secs()),
    }
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that scripts/setup provides.
pub fn program(path: &str) -> PathBuf {
    let found = if path.contains('/') {
        Some(project().join(path)).filter(|p| p.exists())
    } else {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|d| d.join(path)).find(|p| p.exists())
    };
    found.unwrap_or_else(|| panic!("{path} is missing: run scripts/setup"))
}

/// A TCP port of loopback for a server that cannot tell which one it took.
///
/// It is held by a socket that does not listen: while that lives the kernel gives the port to nobody else, and whoever asks
/// for it by its number and with SO_REUSEADDR, as servers do, gets it. (To listen and stop is not enough: a child that
/// another test starts at that moment has a copy of the listening socket until it executes, takes the first connection,
/// and keeps the server out.)
pub struct Port {
    pub address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    pub fn take() -> Port {
        let take = || {
            let held = TcpSocket::new_v4()?;
            held.set_reuseaddr(true)?;
            held.bind(([127, 0, 0, 1], 0).into())?;
            std::io::Result::Ok(Port { address: held.local_addr()?, _held: held })
        };
        take().expect("loopback has free ports")
    }

    pub fn number(&self) -> u16 {
        self.address.port()
    }
}

/// A UDP port that nobody had a moment ago.
pub fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("loopback has free ports")
}

/// Awaits that a server takes connections.
pub async fn listening(address: SocketAddr, name: &str) {
    let connect = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(SOON, &format!("{name} to listen on {address}"), connect).await;
}

/// Lines that a child process wrote, in order, stdout and stderr together.
#[derive(Clone)]
pub struct Lines {
    name: String,
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
    told: Arc<watch::Sender<usize>>,
}

impl Lines {
    fn new(name: &str) -> Lines {
        let (told, count) = watch::channel(0);
        Lines { name: name.to_owned(), lines: Arc::default(), count, told: Arc::new(told) }
    }

    fn follow(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let to = self.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                to.lines.lock().expect("no writer panics").push(text);
                to.told.send_modify(|n| *n += 1);
            }
        });
    }

    pub fn all(&self) -> Vec<String> {
        self.lines.lock().expect("no writer panics").clone()
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// The first line that `pick` likes, once it is there.
    pub async fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> T {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = self.all().iter().find_map(|line| pick(line)) {
                    return found;
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        within(SOON, &format!("{what} from {}", self.name), found).await
    }
}

/// Returns when a child is dead, or is stopped (SIGSTOP).
pub async fn halted(id: i32) {
    // nobody tells of a child that is stopped; /proc does when it is asked
    while process_state(&id.to_string()).is_some_and(|(state, _)| !"TZX".contains(state)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns when nobody of a process group lives. A child of a child that was killed with it dies a moment later than it, and
/// has its ports until then; it is nobody's to wait for.
async fn deserted(group: Pid) {
    let lives = || {
        let processes = std::fs::read_dir("/proc").expect("Linux has /proc").filter_map(Result::ok);
        let mut states = processes.filter_map(|entry| process_state(entry.file_name().to_str()?));
        states.any(|(state, of)| of == group.as_raw() && !"ZX".contains(state))
    };
    while lives() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a process does and which group it is of (proc_pid_stat(5): the 3rd and the 5th field).
fn process_state(id: &str) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(1)?.parse().ok()?))
}

/// A child process with its own process group; it and its children die with this value.
pub struct Running {
    pub lines: Lines,
    name: String,
    child: Child,
    group: Pid,
}

impl Running {
    /// Starts it without proxies: what it talks to is on loopback.
    pub fn start(name: &str, command: &mut Command) -> Running {
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let lines = Lines::new(name);
        lines.follow(child.stdout.take().expect("stdout is piped"));
        lines.follow(child.stderr.take().expect("stderr is piped"));
        let id = child.id().expect("it was just started");
        let group = Pid::from_raw(i32::try_from(id).expect("a process id fits"));
        Running { lines, name: name.to_owned(), child, group }
    }

    pub fn id(&self) -> i32 {
        self.group.as_raw()
    }

    pub fn stdin(&mut self) -> Option<tokio::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// To it and to its children.
    pub fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = killpg(self.group, signal);
    }

    /// As a power cut would end it; returns when it is gone, and its children with it.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = within(SOON, &format!("{} to die", self.name), self.child.wait()).await;
        within(SOON, &format!("the children of {} to die", self.name), deserted(self.group)).await;
    }

    /// SIGTERM, then its exit code (`None`: a signal ended it).
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Its exit code, once it ended by itself.
    pub async fn ended(&mut self) -> Option<i32> {
        within(SOON, &format!("{} to end", self.name), self.child.wait())
            .await
            .expect("a child can be waited for")
            .code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if std::thread::panicking() {
            let all = self.lines.all();
            let from = all.len().saturating_sub(200);
            eprintln!("---- last lines of {} ----\n{}", self.name, all[from..].join("\n"));
        }
    }
}

/// Runs a program to its end; panics with its complaints when it fails. Returns stdout.
pub fn output_of(command: &mut std::process::Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run scripts/setup"));
    if !output.status.success() {
        let sizes = command.get_args().filter_map(|arg| std::fs::metadata(arg).ok()).map(|meta| meta.len());
        let sizes: Vec<u64> = sizes.collect();
        panic!("{command:?} (files of {sizes:?} bytes)\n{}", String::from_utf8_lossy(&output.stderr));
    }
    output.stdout
}
