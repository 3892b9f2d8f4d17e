//! The box as a service: what it tells systemd over a socket of the test's own, and the files that systemd is given.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::daemon::{Daemon, Settings};
use support::sdk::Sdk;
use support::{SOON, output_of, program, project, within};
use tokio::net::UnixDatagram;

/// The service manager's end of the line.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("the folder is ours");
        Manager { socket, dir }
    }

    /// As systemd would start it, with so short a watchdog.
    fn settings(&self, watchdog: Duration) -> Settings {
        let socket = self.dir.path().join("notify").display().to_string();
        let env =
            [("NOTIFY_SOCKET".to_owned(), socket), ("WATCHDOG_USEC".to_owned(), watchdog.as_micros().to_string())];
        Settings { env: env.into(), ..Settings::default() }
    }

    /// The next words.
    async fn heard(&self) -> String {
        let mut bytes = [0; 4096];
        let length = within(SOON, "a word to systemd", self.socket.recv(&mut bytes)).await.expect("the socket is ours");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    }

    /// The next words that hold `what`, and what was said before them.
    async fn wait_for(&self, what: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let words = self.heard().await;
            if words.lines().any(|line| line == what) {
                return (words, before);
            }
            before.push(words);
        }
    }

    /// What lies there already.
    fn unread(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let read = || self.socket.try_recv(&mut bytes).ok().map(|n| String::from_utf8_lossy(&bytes[..n]).into_owned());
        std::iter::from_fn(read).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_its_doors_are_open_and_lives_until_it_is_stopped() {
    let manager = Manager::new();
    let mut daemon = Daemon::start(manager.settings(Duration::from_millis(900))).await;
    let (words, before) = manager.wait_for("READY=1").await;
    assert!(before.is_empty(), "{before:?}");
    assert!(words.contains("STATUS=ready, nothing is recorded"), "{words}");
    assert_eq!(daemon.health().await["status"], "ok");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1").await;
    }

    daemon.reload("");
    let (words, _) = manager.wait_for("RELOADING=1").await;
    let since: u64 = words.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse().ok()).expect(&words);
    assert!(since > 0);
    manager.wait_for("READY=1").await;

    assert_eq!(daemon.terminate().await, Some(0));
    let (_, _) = manager.wait_for("STOPPING=1").await;
    assert!(!manager.unread().iter().any(|words| words.contains("WATCHDOG=1")), "it stops, and says nothing else");
}

/// The index is held by another box: the start fails, and nobody is told that it is ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_not_ready() {
    let holder = Daemon::start(Settings::default()).await;
    let manager = Manager::new();
    let settings = manager.settings(Duration::from_secs(1));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let config = holder.state_dir().with_file_name("holdfast.toml");
    command.arg("run").arg("--config").arg(config).envs(settings.env);
    let mut second = support::Running::start("a second box", &mut command);
    assert_eq!(second.ended().await, Some(1), "{}", second.lines.text());
    assert_eq!(manager.unread(), [""; 0]);
}

/// The rooms hang in the middle of a call: everything else turns, and the watchdog is not fed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_box_whose_rooms_hang_does_not_feed_the_watchdog() {
    let manager = Manager::new();
    let mut settings = manager.settings(Duration::from_millis(900));
    settings.crash = Some("task.committed:1:hang".to_owned());
    let daemon = Daemon::start(settings).await;
    let sdk = Sdk::start(&daemon).await;
    manager.wait_for("WATCHDOG=1").await;
    // it is never answered
    let asking = tokio::spawn(async move { sdk.create("ward", "recorder", |_| {}).await });
    daemon.logged("a part does not turn: the watchdog is not fed").await;
    manager.unread();
    // what the manager's own watch would do: nothing comes for longer than it waits
    let word = async {
        loop {
            if manager.heard().await.contains("WATCHDOG=1") {
                return;
            }
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), word).await.is_err(),
        "the rooms hang, and it says that it lives"
    );
    assert!(daemon.log().contains("who=\"the rooms\""), "{}", daemon.log());
    assert!(daemon.metric("holdfast_watchdog_unfed_total").await >= 1.0, "the door is open still");
    asking.abort();
    daemon.signal(Signal::SIGKILL);
}

fn unit(name: &str) -> PathBuf {
    project().join("systemd").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(unit(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What a program of systemd says of it; a program that is not there fails the test.
fn asked(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run scripts/setup"))
}

fn complaints(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// With the box of this build in the place of the installed one.
#[test]
fn systemd_takes_the_unit_and_finds_nothing_to_say_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path().join("holdfast.service");
    let text = read("holdfast.service");
    assert!(text.contains("ExecStart=/usr/bin/holdfast run"));
    std::fs::write(&here, text.replace("/usr/bin/holdfast", env!("CARGO_BIN_EXE_holdfast"))).expect("it is ours");
    let verified = asked(Command::new(program("systemd-analyze")).args(["verify", "--man=no"]).arg(&here));
    assert!(verified.status.success(), "{}", complaints(&verified));
    let of_ours = complaints(&verified).lines().filter(|line| line.contains("holdfast")).count();
    assert_eq!(of_ours, 0, "{}", complaints(&verified));
}

/// After an end that was not in order systemd sets the lamps of whoever could not do it any more, and at no other.
#[test]
fn the_lamps_of_a_box_that_was_killed_are_set_by_systemd() {
    let text = read("holdfast.service");
    let stop = text.lines().find_map(|line| line.strip_prefix("ExecStopPost=-/bin/sh -c '")?.strip_suffix('\''));
    let stop = stop.expect("a command runs after the end");
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("holdfast.toml");
    std::fs::write(&config, "[panel.lights]\npower = { led = \"no-such-lamp\" }\n").expect("the folder is ours");
    let here = stop.replace("/usr/bin/holdfast", env!("CARGO_BIN_EXE_holdfast"));
    let here = here.replace("/etc/holdfast/holdfast.toml", config.to_str().expect("a plain path"));
    assert!(!here.contains("/usr/bin") && !here.contains("/etc/"), "{here}");
    for (result, tries) in [("success", false), ("signal", true), ("watchdog", true), ("exit-code", true)] {
        let told = asked(Command::new("/bin/sh").args(["-c", &here]).env("SERVICE_RESULT", result));
        assert!(told.status.success(), "{result}: {}", complaints(&told));
        assert_eq!(complaints(&told).contains("no-such-lamp"), tries, "{result}: {}", complaints(&told));
    }
}

/// Rated 2.0 or better, and what the box needs is left in.
#[test]
fn the_sandbox_is_tight_and_leaves_in_what_the_box_needs() {
    let file = unit("holdfast.service");
    let mut analyze = Command::new(program("systemd-analyze"));
    let rated = asked(analyze.args(["security", "--offline=true", "--no-pager", "--threshold=20"]).arg(file));
    assert!(rated.status.success(), "{}", complaints(&rated));
    assert!(complaints(&rated).contains("Overall exposure level"), "{}", complaints(&rated));

    let text = read("holdfast.service");
    let lines: BTreeSet<&str> = text.lines().collect();
    for needed in [
        "Type=notify",
        "Restart=on-failure",
        "StartLimitIntervalSec=0",
        "WatchdogSec=60",
        "DeviceAllow=char-video4linux rw",
        "DeviceAllow=char-alsa rw",
        "DeviceAllow=char-gpiochip rw",
        "DeviceAllow=char-drm rw",
        "ReadWritePaths=-/sys/devices",
        "LimitRTPRIO=20",
        "StateDirectory=holdfast",
    ] {
        assert!(lines.contains(needed), "{needed}");
    }
    for never in ["PrivateDevices=yes", "RestrictRealtime=yes", "PrivateNetwork=yes", "ProtectSystem=no"] {
        assert!(!lines.contains(never), "{never}");
    }
    // an exit with 70 is a failure like any other
    assert!(!text.contains("RestartPreventExitStatus") && !text.contains("SuccessExitStatus"));
    let stop = lines.iter().find_map(|line| line.strip_prefix("TimeoutStopSec=")).expect("a bound of the stop");
    assert!(stop.parse::<u64>().expect("seconds") >= 60);
    let wait = read("systemd-time-wait-sync.service.d/holdfast.conf");
    assert!(wait.contains("[Service]\nTimeoutStartSec="), "a box without a network must start: {wait}");
    assert!(!text.contains("Wants=time-sync") && !text.contains("network-online"));
}

/// User, groups and folders come to be in a root of the test's own.
#[test]
fn user_groups_and_folders_come_to_be() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |path: &str| root.path().join(path);
    for folder in ["etc/holdfast", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"] {
        std::fs::create_dir_all(at(folder)).expect("it is ours");
    }
    std::fs::write(at("etc/holdfast/holdfast.toml"), "").expect("it is ours");
    std::fs::copy(unit("sysusers.conf"), at("usr/lib/sysusers.d/holdfast.conf")).expect("both are ours");
    std::fs::copy(unit("tmpfiles.conf"), at("usr/lib/tmpfiles.d/holdfast.conf")).expect("both are ours");
    let rooted = |name: &str| {
        let mut command = Command::new(program(name));
        command.arg(format!("--root={}", root.path().display()));
        command
    };
    let dry = output_of(rooted("systemd-sysusers").arg("--dry-run"));
    assert!(!at("etc/passwd").exists(), "{}", String::from_utf8_lossy(&dry));
    output_of(&mut rooted("systemd-sysusers"));
    let passwd = std::fs::read_to_string(at("etc/passwd")).expect("a user was made");
    assert!(
        passwd.lines().any(|line| line.starts_with("holdfast:") && line.contains(":/var/lib/holdfast:")),
        "{passwd}"
    );
    let groups = std::fs::read_to_string(at("etc/group")).expect("groups were made");
    for name in ["video", "audio", "render", "gpio"] {
        let member = |line: &str| line.starts_with(&format!("{name}:")) && line.ends_with(":holdfast");
        assert!(groups.lines().any(member), "{name}: {groups}");
    }

    output_of(rooted("systemd-tmpfiles").args(["--create", "--prefix=/etc/holdfast"]));
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let holdfast =
        groups.lines().find_map(|line| line.strip_prefix("holdfast:x:")?.split(':').next()).expect("a group");
    for (path, mode) in [("etc/holdfast", 0o750), ("etc/holdfast/holdfast.toml", 0o640)] {
        let meta = std::fs::metadata(at(path)).expect("it is there");
        assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (mode, 0), "{path}");
        assert_eq!(meta.gid().to_string(), holdfast, "{path}");
    }
}

/// One `KEY op "value"` of a rule.
fn pair(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_uppercase())?;
    let (key, rest) = text.split_at(end);
    let (op, value) = rest.split_once('"')?;
    // ENV{NAME}
    let op = op.strip_prefix('{').map_or(Some(op), |named| named.split_once('}').map(|(_, op)| op))?;
    Some((key, op, value.strip_suffix('"')?))
}

/// Debian 12 has no `udevadm verify`, and a board without udev has no udevadm: each rule is read here, by udev(7).
#[test]
fn every_udev_rule_is_one_and_names_groups_that_there_are() {
    let sysusers = read("sysusers.conf");
    // `m holdfast video`, and the user's own
    let of = |line: &str| -> Option<String> {
        line.split_whitespace().nth(if line.starts_with("m ") { 2 } else { 1 }).map(str::to_owned)
    };
    let groups: BTreeSet<String> = sysusers.lines().filter(|line| !line.starts_with('#')).filter_map(of).collect();
    let (mut seen, mut rules) = (BTreeSet::new(), 0);
    for line in read("udev.rules").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let pairs: Vec<_> =
            line.split(", ").map(|text| pair(text).unwrap_or_else(|| panic!("'{text}' in: {line}"))).collect();
        for (key, op, value) in &pairs {
            match *key {
                "SUBSYSTEM" | "KERNEL" | "ACTION" | "ENV" => assert_eq!(*op, "==", "{line}"),
                "GROUP" => assert!(*op == "=" && groups.contains(*value), "{line}"),
                "MODE" => assert!(*op == "=" && *value == "0660", "nothing is for everybody: {line}"),
                "RUN" => {
                    let program = value.split(' ').next().unwrap_or_default();
                    assert!(*op == "+=" && Path::new(program).exists(), "{line}");
                    let mut files = value.split(' ').skip(2);
                    let of_the_light =
                        ["brightness", "trigger", "delay_on", "delay_off"].map(|f| format!("/sys%p/{f}"));
                    assert!(files.all(|file| of_the_light.iter().any(|of| of == file)), "{line}");
                }
                other => panic!("{other} in: {line}"),
            }
        }
        assert!(pairs.iter().any(|(_, op, _)| *op == "=="), "it would mean everything: {line}");
        seen.extend(pairs.iter().filter(|(key, ..)| *key == "SUBSYSTEM").map(|(_, _, value)| value.to_string()));
        rules += 1;
    }
    assert!(rules >= 8);
    for subsystem in ["video4linux", "sound", "gpio", "leds", "drm"] {
        assert!(seen.contains(subsystem), "{subsystem}");
    }
}
