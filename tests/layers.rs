//! The walls of the house: who may import whom, where each outside crate lives, what `model` must not touch.
//!
//! The scan is of text, so a re-export can fool it; it catches what happens by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each module may name besides itself. `app`, `demo`, `main` and `lib` may name all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("crash", &[]),
    ("container", &["model"]),
    ("store", &["model", "crash"]),
    ("config", &["model"]),
    ("health", &["model"]),
    ("vault", &[]),
    ("spool", &["model", "crash", "store", "vault", "container"]),
    ("media", &["model", "crash", "vault", "container"]),
    ("package", &["model", "crash", "media", "vault", "container"]),
    ("upload", &["model", "config", "crash", "health", "store", "spool", "vault", "package"]),
    ("webhook", &["model", "config", "crash", "health", "store"]),
    ("images", &["model", "config", "media"]),
    ("panel", &["model", "config", "health"]),
    ("alarms", &["model", "health", "media"]),
    ("rooms", &["model", "config", "crash", "health", "store", "spool", "media", "package"]),
    ("api", &["model", "config", "health", "rooms", "media"]),
    ("fleet", &["model", "config", "health", "store", "rooms"]),
];

/// Modules that put the others together.
const ABOVE_ALL: &[&str] = &["app", "demo", "main", "lib"];

/// Parts of a module that another may name; without an entry: all of it.
const ONLY_PARTS: &[(&str, &str, &[&str])] =
    &[("api", "media", &["whip"]), ("images", "media", &["stills"]), ("package", "media", &["stream_size"])];

/// The session's side of `media`; the recording side knows packets, not peers.
const WEBRTC: &[&str] =
    &["media/whip", "media/mux", "media/ear", "media/peer", "media/session", "media/publish", "media/sources/whep"];

/// Outside crates and the files (by the beginning of their path under `src/`) that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("sled", &["store/"]),
    ("serde_path_to_error", &["config/"]),
    ("chacha20poly1305", &["vault/", "store/seal"]),
    ("gstreamer", &["media/"]),
    ("gstreamer_app", &["media/"]),
    ("gstreamer_video", &["media/"]),
    ("webrtc", WEBRTC),
    ("rtc", WEBRTC),
    ("axum", &["api/", "demo.rs"]),
    ("axum_server", &["api/"]),
    ("tower_http", &["api/"]),
    ("aws_sdk_s3", &["upload/"]),
    ("aws_smithy_http_client", &["upload/"]),
    ("aws_smithy_types", &["upload/"]),
    ("aws_smithy_runtime_api", &["upload/"]),
    ("http_body", &["upload/"]),
    ("image", &["media/stills"]),
    ("opus", &["media/sound"]),
    ("mp4_atom", &["container/mp4"]),
    ("memchr", &["container/h264"]),
    ("rustix", &["package/", "media/look", "spool/shelf"]),
    ("indicatif", &["app/"]),
    ("rppal", &["panel/pin"]),
    ("gpiocdev", &["panel/line"]),
    ("sd_notify", &["app/systemd"]),
    ("rumqttc", &["fleet/line"]),
    ("tar", &["fleet/bundle"]),
    ("clap", &["main.rs", "app.rs", "app/", "demo.rs"]),
    ("tracing_subscriber", &["main.rs"]),
    ("tracing_journald", &["main.rs"]),
];

/// Datagrams are stamped by the kernel with the system clock: how old they are can only be told by it.
const KERNEL_STAMPS: &str = "media/mux.rs";

/// What makes `model` depend on something else than its arguments.
const IMPURE: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "now_utc",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "thread_local!",
    "static mut",
    "tokio::",
    "futures::",
    "async fn",
    ".await",
    "rand::",
    "uuid::",
    "reqwest::",
    "tracing::",
    "metrics::",
    "println!",
    "eprintln!",
];

const MOST_LINES: usize = 800;

/// One source file, its path relative to `src/` with `/` between folders.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// `model` of `model/room.rs`, `rooms` of `rooms.rs`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(self.path);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The code without comments and without the tests at the bottom.
    fn code(&self) -> String {
        let mut code = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            code.push_str(without_comment(line));
            code.push('\n');
        }
        code
    }

    /// Names of the crate's modules that the code uses, each with what follows it (`media`, `whip`).
    fn imports(&self) -> BTreeSet<(String, String)> {
        let code = self.code();
        let mut found = paths_after(&code, "crate::");
        // At the top of a module `super` is the crate; one floor down it takes two.
        let top = !self.path.contains('/') || self.path.ends_with("/mod.rs");
        found.extend(paths_after(&code, if top { "super::" } else { "super::super::" }));
        found.retain(|(first, _)| MAY_IMPORT.iter().any(|(m, _)| m == first) || ABOVE_ALL.contains(&first.as_str()));
        found
    }
}

/// A line up to its `//`; one inside quotation marks does not count.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let bytes = line.as_bytes();
    for i in 0..bytes.len() {
        match bytes[i] {
            b'"' if i == 0 || bytes[i - 1] != b'\\' => quoted = !quoted,
            b'/' if !quoted && bytes.get(i + 1) == Some(&b'/') => return &line[..i],
            _ => {}
        }
    }
    line
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every `prefix a::b` and `prefix {a::b, c}` of the text as (a, b), (c, "").
fn paths_after(code: &str, prefix: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| is_word(c) || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        for path in branches(rest) {
            let mut parts = path.split("::");
            let first = parts.next().unwrap_or_default().trim().to_owned();
            let second: String = parts.next().unwrap_or_default().trim().chars().take_while(|c| is_word(*c)).collect();
            found.insert((first, second));
        }
    }
    found
}

/// The paths that a use tree begins with; `{a::{b, c}, d}` has `a::b`, `a::c` and `d`.
fn branches(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    let Some(inner) = tree.strip_prefix('{') else {
        let head: String = tree.chars().take_while(|c| is_word(*c)).collect();
        let Some(rest) = tree[head.len()..].strip_prefix("::") else { return vec![head] };
        return branches(rest).into_iter().map(|rest| format!("{head}::{rest}")).collect();
    };
    let mut depth = 0;
    let mut begin = 0;
    let mut all = Vec::new();
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if !inner[begin..i].trim().is_empty() {
                    all.extend(branches(&inner[begin..i]));
                }
                begin = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    all
}

/// Whether the code names the outside crate: `name::`, `use name;`, `use name as`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let starts = before.is_none_or(|c| !is_word(c) && c != ':') || code[..at].ends_with("use ::");
        let used = code[..at].trim_end().ends_with("use") && after.starts_with([' ', ';']);
        starts && (after.starts_with("::") || used)
    })
}

/// Whether an event has a field `message`: that is the name of its text, and of the two the journal keeps one.
fn takes_the_texts_name(code: &str) -> bool {
    let events = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
    let calls = events.iter().flat_map(|name| code.match_indices(name).map(|(at, _)| &code[at + name.len()..]));
    let mut fields = calls.flat_map(|rest| {
        let whole = rest.split(");").next().unwrap_or_default();
        // what stands in quotation marks is no field
        let plain: String = whole.split('"').step_by(2).collect();
        plain.split(',').map(|field| field.trim().trim_start_matches(['%', '?']).to_owned()).collect::<Vec<_>>()
    });
    fields.any(|field| field == "message" || field.starts_with("message ="))
}

/// Everything that is wrong with a file, one line for each fault.
fn faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("src/{}: {what}", source.path));
    let code = source.code();
    let module = source.module();

    match MAY_IMPORT.iter().find(|(name, _)| *name == module) {
        Some((_, allowed)) => {
            for (other, part) in source.imports() {
                if other == module {
                    continue;
                }
                if !allowed.contains(&other.as_str()) {
                    fault(format!("{module} must not name crate::{other}"));
                } else if let Some((_, _, parts)) = ONLY_PARTS.iter().find(|(a, b, _)| *a == module && *b == other)
                    && !parts.contains(&part.as_str())
                {
                    fault(format!("{module} may name only {} of crate::{other}, not '{part}'", parts.join(", ")));
                }
            }
        }
        None if ABOVE_ALL.contains(&module) => {}
        None => fault(format!("the module {module} has no place in the table of layers")),
    }

    for (name, homes) in HOMES {
        if names_crate(&code, name) && !homes.iter().any(|home| source.path.starts_with(home)) {
            fault(format!("the crate {name} lives in {}", homes.join(", ")));
        }
    }

    if module == "model" {
        for word in IMPURE.iter().filter(|word| code.contains(**word)) {
            fault(format!("model is pure, and '{word}' is not"));
        }
    }
    if module != "app" && source.path != KERNEL_STAMPS && code.contains("SystemTime::now") {
        fault("only app.rs reads the system clock".into());
    }
    if takes_the_texts_name(&code) {
        fault("a field of an event is called message, as its text is: in the journal one of the two is lost".into());
    }
    if code.contains("unbounded_channel") {
        fault("channels are bounded".into());
    }
    for (number, line) in code.lines().enumerate().filter(|(_, line)| line.contains(".unwrap()")) {
        fault(format!("line {}: expect(\"why it cannot fail\") instead of unwrap: {}", number + 1, line.trim()));
    }
    if !source.text.starts_with("//!") {
        fault("the file does not say in a //! header what it is".into());
    }
    let lines = source.text.lines().count();
    if lines > MOST_LINES {
        fault(format!("{lines} lines; past {MOST_LINES} a file is split along its seams"));
    }
    faults
}

/// A part of a module: a file of its folder, or a folder in it with all that is there. A module's own `mod.rs` is none.
fn part<'a>(source: &Source<'a>) -> Option<&'a str> {
    let part = source.path.split('/').nth(1)?;
    let part = part.strip_suffix(".rs").unwrap_or(part);
    (part != "mod").then_some(part)
}

/// Parts of a module that need each other in a circle, one line for each of them: none can be read before the others.
fn circles(sources: &[Source]) -> Vec<String> {
    let mut needs = BTreeMap::<(&str, &str), BTreeSet<String>>::new();
    for source in sources {
        let Some(part) = part(source) else { continue };
        let code = source.code();
        let inside = source.path.matches('/').count() > 1 && !source.path.ends_with("/mod.rs");
        let beside = paths_after(&code, if inside { "super::super::" } else { "super::" });
        let named = paths_after(&code, "crate::").into_iter().filter(|(module, _)| module == source.module());
        let others = beside.into_iter().map(|(other, _)| other).chain(named.map(|(_, other)| other));
        needs.entry((source.module(), part)).or_default().extend(others.filter(|other| other != part));
    }
    let reached = |module: &str, from: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from.to_owned()];
        while let Some(part) = next.pop() {
            for other in needs.get(&(module, part.as_str())).into_iter().flatten() {
                if reached.insert(other.clone()) {
                    next.push(other.clone());
                }
            }
        }
        reached
    };
    let in_circle = |(module, part): &&(&str, &str)| reached(module, part).contains(*part);
    needs
        .keys()
        .filter(in_circle)
        .map(|(module, part)| format!("src/{module}/{part} needs itself by way of others"))
        .collect()
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).expect("the folder is part of the project") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            walk(&path, visit);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            visit(&path);
        }
    }
}

#[test]
fn every_file_keeps_the_walls() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut |path| {
        // A module's tests in a file of their own: they are not the module.
        if path.ends_with("tests.rs") {
            return;
        }
        let text = std::fs::read_to_string(path).expect("a source file is readable text");
        let relative = path.strip_prefix(&root).expect("walked from there").to_string_lossy().replace('\\', "/");
        files.push((relative, text));
    });
    assert!(files.len() > 20, "only {} files seen: the scan looks in the wrong place", files.len());
    let sources: Vec<Source> = files.iter().map(|(path, text)| Source { path, text }).collect();
    let mut all: Vec<String> = sources.iter().flat_map(faults).collect();
    all.extend(circles(&sources));
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn no_test_file_is_too_long_to_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut long = Vec::new();
    walk(&root, &mut |path| {
        let lines = std::fs::read_to_string(path).expect("a test is readable text").lines().count();
        if lines > MOST_LINES {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    });
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Each made-up file breaks one wall; the scan must name it. The last ones must pass.
#[test]
fn the_scan_sees_a_broken_wall() {
    let broken: &[(&str, &str, &str)] = &[
        ("model/room.rs", "use crate::store::Store;", "model must not name crate::store"),
        ("webhook.rs", "warn!(%task, message, \"it failed\");", "a field of an event is called message"),
        (
            "webhook.rs",
            "tracing::info!(\n    message = %e,\n    \"it failed\"\n);",
            "a field of an event is called message",
        ),
        ("store/mod.rs", "use crate::{model::TaskId, rooms};", "store must not name crate::rooms"),
        ("store/mod.rs", "use super::upload;", "store must not name crate::upload"),
        ("store/records.rs", "use super::super::upload::x;", "store must not name crate::upload"),
        ("spool/mod.rs", "fn f() { crate::webhook::go() }", "spool must not name crate::webhook"),
        (
            "rooms.rs",
            "use crate::{\n    health::{self, Summary},\n    upload,\n};",
            "rooms must not name crate::upload",
        ),
        ("api/mod.rs", "use crate::media::single;", "may name only whip of crate::media, not 'single'"),
        ("api/mod.rs", "use crate::media::{tracks, whip};", "not 'tracks'"),
        ("images.rs", "use crate::media::tracks;", "may name only stills of crate::media, not 'tracks'"),
        ("images.rs", "let x = image::guess_format(b);", "the crate image lives in media/stills"),
        ("api/mod.rs", "use crate::spool::Spool;", "api must not name crate::spool"),
        ("upload/mod.rs", "use sled::Db;", "the crate sled lives in store/"),
        ("rooms.rs", "use gstreamer as gst;", "the crate gstreamer lives in media/"),
        ("package/layout.rs", "use mp4_atom::Moov;", "the crate mp4_atom lives in container/mp4"),
        ("container/ts_in.rs", "use crate::media::probe;", "container must not name crate::media"),
        ("media/single.rs", "fn f() { webrtc::x(); }", "the crate webrtc lives in"),
        ("webhook.rs", "use ::axum::Router;", "the crate axum lives in api/"),
        ("model/event.rs", "let now = Instant::now();", "'Instant::now' is not"),
        ("model/event.rs", "use std::fs;", "'std::fs' is not"),
        ("model/event.rs", "use tokio::sync::mpsc;", "'tokio::' is not"),
        ("model/event.rs", "std::thread::spawn(f);", "'std::thread' is not"),
        ("model/event.rs", "let x = rand::random();", "'rand::' is not"),
        ("spool/mod.rs", "let t = SystemTime::now();", "only app.rs reads the system clock"),
        ("rooms.rs", "let (a, b) = mpsc::unbounded_channel();", "channels are bounded"),
        ("rooms.rs", "let x = y.unwrap();", "line 2: expect("),
        ("newroom/mod.rs", "fn f() {}", "has no place in the table of layers"),
    ];
    for (path, code, expected) in broken {
        let text = format!("//! A made-up file.\n{code}\n");
        let found = faults(&Source { path, text: &text });
        assert!(found.iter().any(|f| f.contains(expected)), "{path}: {code}\nexpected: {expected}\nfound: {found:?}");
    }
    let headless = faults(&Source { path: "rooms.rs", text: "fn f() {}\n" });
    assert!(headless.iter().any(|f| f.contains("header")), "{headless:?}");
    let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(MOST_LINES));
    assert!(faults(&Source { path: "rooms.rs", text: &long }).iter().any(|f| f.contains("801 lines")));

    let sound: &[(&str, &str)] = &[
        ("model/room.rs", "use super::{MediaId, UserId};\nuse super::recording::Subscription;"),
        ("store/mod.rs", "// crate::rooms is told by others\nuse crate::model::TaskId;"),
        ("api/mod.rs", "use crate::media::whip::Door;\nuse axum::Router;"),
        ("media/whip.rs", "use webrtc::peer_connection::X;\nuse crate::model::Codec;"),
        ("app.rs", "let now = SystemTime::now();\nuse crate::{api, rooms, upload};"),
        ("rooms.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap(); crate::upload::y(); }\n}"),
        ("webhook.rs", "let url = \"http://x/\"; // .unwrap() would be wrong\nlet a = b.unwrap_or(c);"),
    ];
    for (path, code) in sound {
        let found = faults(&Source { path, text: &format!("//! A made-up file.\n{code}\n") });
        assert!(found.is_empty(), "{path}: {code}\n{found:?}");
    }
}

#[test]
fn the_scan_sees_a_circle() {
    let seen = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source { path, text }).collect();
        circles(&sources)
    };
    let three = [
        ("model/room.rs", "use super::{MediaId, task::Phase};"),
        ("model/task/shape.rs", "use crate::model::{event::Event, TaskId};"),
        ("model/event.rs", "use super::room::Room;"),
        ("model/mix.rs", "use super::room::Room;"),
        ("media/event.rs", "use super::mix::Mix;"),
    ];
    let found = seen(&three);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(["model/event ", "model/room ", "model/task "].iter().zip(&found).all(|(part, told)| told.contains(part)));
    // what stands in one folder is one part, and a module's own file is above all of them
    let open = [
        ("model/mod.rs", "pub use room::Room;"),
        ("model/room.rs", "use super::Secret;"),
        ("model/task.rs", "use super::room::Room;\nuse shape::Shape;"),
        ("model/task/shape.rs", "use super::Phase;\nuse super::super::room::Room;"),
        ("model/fate.rs", "// use super::fit::Fit;"),
        ("model/fit.rs", "use super::fate::Fate;"),
    ];
    assert_eq!(seen(&open), Vec::<String>::new());
}
