//! The panel on made-up LEDs and contacts.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::contact::{Contact, monotonic};
use super::*;
use crate::config::panel::{Button, Lamp, Lights};
use crate::model::lamps::Stage;

const MOST: &str = "7";

/// A folder like `/sys/class/leds`, with LEDs that a kernel would have.
fn leds(names: &[&str]) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder can be made");
    for name in names {
        let led = dir.path().join(name);
        std::fs::create_dir(&led).expect("the folder is ours");
        let files = [("brightness", "0"), ("max_brightness", MOST), ("trigger", "[none] timer heartbeat")];
        for (file, text) in files.into_iter().chain([("delay_on", "0"), ("delay_off", "0")]) {
            std::fs::write(led.join(file), text).expect("the folder is ours");
        }
    }
    dir
}

fn read(leds: &TempDir, led: &str, file: &str) -> String {
    std::fs::read_to_string(leds.path().join(led).join(file)).expect("it is there").trim().to_owned()
}

/// Awaits that a file says `text`; a plain file tells nobody of its changes.
fn says(leds: &TempDir, led: &str, file: &str, text: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while read(leds, led, file) != text {
        assert!(Instant::now() < until, "{led}/{file} says '{}', not '{text}'", read(leds, led, file));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn config(lights: &[(&str, &str)]) -> config::Panel {
    let lamp = |light: &str| {
        let led = lights.iter().find(|(name, _)| *name == light)?.1;
        Some(Lamp { led: Some(led.into()), ..Lamp::default() })
    };
    let lights = Lights { power: lamp("power"), recording: lamp("recording"), upload: lamp("upload") };
    config::Panel { lights, ..config::Panel::default() }
}

const ALL: &[(&str, &str)] = &[("power", "p"), ("recording", "r"), ("upload", "u")];

fn panel(leds: &TempDir, config: &config::Panel) -> Panel {
    Panel::start_with(config, mpsc::channel(1).0, leds.path())
}

#[test]
fn lights_follow_the_facts_and_go_dark_in_the_end() {
    let leds = leds(&["p", "r", "u"]);
    let panel = panel(&leds, &config(ALL));
    // a box that starts: lit and dark by turns
    for level in [MOST, "0", MOST] {
        says(&leds, "p", "brightness", level);
    }
    assert_eq!(read(&leds, "r", "brightness"), "0");
    panel.show(Facts { stage: Stage::Running, recording: lamps::Recording::Running, ..Facts::default() });
    says(&leds, "r", "brightness", MOST);
    panel.leave(Last::Off);
    for led in ["p", "r", "u"] {
        assert_eq!((read(&leds, led, "brightness").as_str(), read(&leds, led, "trigger").as_str()), ("0", "none"));
    }
}

#[test]
fn identify_takes_all_lights_and_gives_them_back() {
    let leds = leds(&["p", "r", "u"]);
    let panel = panel(&leds, &config(ALL));
    panel.show(Facts { stage: Stage::Running, ..Facts::default() });
    panel.identify(Duration::from_millis(400));
    for level in [MOST, "0", MOST] {
        says(&leds, "r", "brightness", level);
        says(&leds, "u", "brightness", level);
    }
    says(&leds, "r", "brightness", "0");
    says(&leds, "p", "brightness", MOST);
    panel.leave(Last::Off);
}

#[test]
fn whoever_falls_leaves_the_power_light_to_the_kernel() {
    let leds = leds(&["p", "r"]);
    // no kernel has a timer for it
    std::fs::write(leds.path().join("r/trigger"), "[none]").expect("the folder is ours");
    let panel = panel(&leds, &config(&[("power", "p"), ("recording", "r")]));
    panel.show(Facts { recording: lamps::Recording::Running, ..Facts::default() });
    says(&leds, "r", "brightness", MOST);
    drop(panel);
    assert_eq!(read(&leds, "p", "trigger"), "timer");
    assert_eq!((read(&leds, "p", "delay_on"), read(&leds, "p", "delay_off")), ("250".into(), "250".into()));
    assert_eq!((read(&leds, "r", "brightness"), read(&leds, "r", "trigger")), ("0".into(), "none".into()));

    // without a timer a fallen box is as dark as one without power
    std::fs::write(leds.path().join("p/trigger"), "[none] heartbeat").expect("the folder is ours");
    drop(self::panel(&leds, &config(&[("power", "p")])));
    assert_eq!((read(&leds, "p", "brightness"), read(&leds, "p", "trigger")), ("0".into(), "none".into()));
}

#[test]
fn a_panic_shows_at_once_while_the_lights_are_still_ours() {
    let leds = leds(&["p"]);
    let panel = panel(&leds, &config(&[("power", "p")]));
    panel.show(Facts { stage: Stage::Running, ..Facts::default() });
    says(&leds, "p", "brightness", MOST);
    panel.watch_panics();
    let fell = std::thread::spawn(|| panic!("of the test, on purpose")).join();
    assert!(fell.is_err());
    assert_eq!(read(&leds, "p", "trigger"), "timer");
    // the process goes on, and ends in order
    panel.leave(Last::Off);
    assert_eq!((read(&leds, "p", "brightness"), read(&leds, "p", "trigger")), ("0".into(), "none".into()));
}

/// How the process of the test below ends; `None`: this is the process that looks on.
fn told_to_end() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var("PANEL_ENDS_BY").ok()?, std::env::var_os("PANEL_LEDS")?.into()))
}

/// A process that shows a box that is well, and ends.
fn end_by(how: &str, leds: &Path) -> ! {
    let panel = Panel::start_with(&config(ALL), mpsc::channel(1).0, leds);
    panel.show(Facts { stage: Stage::Running, recording: lamps::Recording::Running, ..Facts::default() });
    panel.watch_panics();
    match how {
        "order" => panel.leave(Last::Off),
        "error" => drop(panel),
        // nobody is left to let go of anything
        "panic" => assert!(std::thread::spawn(|| panic!("of the test, on purpose")).join().is_err()),
        "kill" => loop {
            std::thread::park();
        },
        other => unreachable!("nobody says {other}"),
    }
    std::process::exit(70)
}

#[test]
fn however_the_process_ends_its_lights_tell_the_truth() {
    if let Some((how, leds)) = told_to_end() {
        end_by(&how, &leds);
    }
    let this = std::env::current_exe().expect("a test knows its program");
    let ending = |how: &str, leds: &TempDir| {
        let mut command = std::process::Command::new(&this);
        command.args(["--exact", "panel::tests::however_the_process_ends_its_lights_tell_the_truth"]);
        command.env("PANEL_ENDS_BY", how).env("PANEL_LEDS", leds.path()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).spawn().expect("the test's program can be started")
    };
    for (how, power) in [("order", "none"), ("error", "timer"), ("panic", "timer")] {
        let leds = leds(&["p", "r", "u"]);
        let ended = ending(how, &leds).wait().expect("it ends");
        assert_eq!(ended.code(), Some(70), "{how}");
        assert_eq!(read(&leds, "p", "trigger"), power, "{how}");
        let dark: &[&str] = if power == "none" { &["p", "r", "u"] } else { &["r", "u"] };
        for led in dark {
            assert_eq!(
                (read(&leds, led, "brightness"), read(&leds, led, "trigger")),
                ("0".into(), "none".into()),
                "{how}"
            );
        }
    }

    let leds = leds(&["p", "r", "u"]);
    let mut killed = ending("kill", &leds);
    says(&leds, "p", "brightness", MOST);
    says(&leds, "r", "brightness", MOST);
    killed.kill().expect("it is ours");
    killed.wait().expect("it is dead");
    // what stands still says that the box is dead; whoever saw it die (`holdfast lights failed`) says so plainly
    assert_eq!(read(&leds, "p", "trigger"), "none");
    // a kernel's file goes on naming what it could do
    std::fs::write(leds.path().join("p/trigger"), "[none] timer heartbeat").expect("the folder is ours");
    panel(&leds, &config(ALL)).leave(Last::Failed);
    assert_eq!(read(&leds, "p", "trigger"), "timer");
    assert_eq!((read(&leds, "r", "brightness"), read(&leds, "r", "trigger")), ("0".into(), "none".into()));
}

#[test]
fn a_lamp_that_is_not_there_is_no_failure_and_others_may_come() {
    let leds = leds(&["p", "other"]);
    let missing =
        Lamp { chip: Some("no such chip".into()), line: Some(config::panel::Line::Number(1)), ..Lamp::default() };
    let mut config = config(&[("power", "nowhere"), ("upload", "p")]);
    config.lights.recording = Some(missing);
    let panel = panel(&leds, &config);
    panel.show(Facts { uploading: true, ..Facts::default() });
    says(&leds, "p", "brightness", MOST);
    config.lights.upload = Some(Lamp { led: Some("other".into()), ..Lamp::default() });
    panel.configure(&config);
    says(&leds, "other", "brightness", MOST);
    assert_eq!(read(&leds, "p", "brightness"), "0");
    panel.leave(Last::Off);
    assert_eq!(read(&leds, "other", "brightness"), "0");
}

/// Edges at their times since the first look, then nothing.
struct Script {
    edges: VecDeque<(Duration, bool)>,
    began: Option<Duration>,
    closed: bool,
    over: Arc<AtomicBool>,
}

impl Contact for Script {
    fn closed(&mut self) -> io::Result<bool> {
        Ok(self.closed)
    }

    fn edge(&mut self, within: Duration) -> io::Result<Option<(bool, Duration)>> {
        let began = *self.began.get_or_insert_with(monotonic);
        let now = monotonic() - began;
        match self.edges.front() {
            Some((at, _)) if *at <= now + within => {
                std::thread::sleep(at.saturating_sub(now));
                let (at, closed) = self.edges.pop_front().expect("it was looked at");
                self.closed = closed;
                Ok(Some((closed, began + at)))
            }
            Some(_) => {
                std::thread::sleep(within);
                Ok(None)
            }
            None => {
                std::thread::sleep(within);
                // the last edge has settled meanwhile
                self.over.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(None)
            }
        }
    }
}

#[test]
fn the_button_is_heard_once_for_each_press() {
    let (presses, mut told) = mpsc::channel(8);
    let over = Arc::new(AtomicBool::new(false));
    let ms = Duration::from_millis;
    let edges =
        [(10, true), (12, false), (15, true), (200, false), (204, true), (207, false), (300, true), (1700, false)];
    let edges = edges.map(|(at, closed)| (ms(at), closed));
    let mut script = Script { edges: edges.into(), began: None, closed: false, over: over.clone() };
    let button = Button { debounce_ms: 40, long_seconds: 1, ..Button::default() };
    button::listen(&mut script, &button, &presses, &over).expect("a script does not fail");
    drop(presses);
    let heard: Vec<Press> = std::iter::from_fn(|| told.blocking_recv()).collect();
    assert_eq!(heard, [Press::Short, Press::Long]);
}
