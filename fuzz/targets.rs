//! What strangers and torn disks feed, one function each: nothing panics, and what must hold of it holds.
//!
//! Owns: the bodies of the fuzz targets. Must not touch: where input comes from: libFuzzer (`fuzz_targets/`), or the kept
//! corpora and what is made of them (`tests/fuzz_corpora.rs`, on the stable toolchain, in every run of the tests).
//! Law: an input is bytes, so that a file found by one is input for the other.

#![allow(dead_code, reason = "a target of libFuzzer uses one of them")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::sync::LazyLock;

use holdfast::api::error::Code;
use holdfast::api::wire::{Action, Call};
use holdfast::api::{flat, wire};
use holdfast::config::Config;
use holdfast::media::stills;
use holdfast::model::address::refused;
use holdfast::model::layout::{Person, scene};
use holdfast::model::mix::{Layout, Size};
use holdfast::model::piece::Piece;
use holdfast::model::playlist::Playlist;
use holdfast::model::segment::{LocalName, decode_id, encode_id, identity, segment_stem};
use holdfast::model::signature::tc3::{Tc3Claim, Tc3Request, verify_tc3};
use holdfast::model::signature::user_sig::{PrivateMap, UserSigFacts, check_private_map_key, check_user_sig};
use holdfast::model::signature::v1::{V1Request, verify_v1};
use holdfast::model::task::{Found, Policy, RecordingTask, Shape};
use holdfast::model::{MediaId, RoomId, SdkAppId, Secret, TaskId, Timestamp, TrackId, UserId};
use holdfast::spool::folder::{self, Note};
use holdfast::spool::recovery::{FoundFile, plan};
use holdfast::spool::ts;
use holdfast::store::records::{DestinationEntry, OutboxEntry, PartsEntry, SpoolEntry};
use holdfast::store::seal::BoxKey;
use holdfast::vault::{Key, Vault};
use serde_json::Value;

/// A target and its name, which is also that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 15] = [
    ("address", address),
    ("api", api),
    ("config", config),
    ("folder", folder),
    ("names", names),
    ("payloads", payloads),
    ("picture", picture),
    ("playlist", playlist),
    ("records", records),
    ("sdp", sdp),
    ("shape", shape),
    ("signature", signature),
    ("stream", stream),
    ("user_sig", user_sig),
    ("vault", vault),
];

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn text(bytes: &[u8]) -> &str {
    // what is no text is cut off where it ceases to be one
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).expect("so far it is text"),
    }
}

/// Where a layout's picture is fetched from: an address of somebody's own network is never asked.
pub fn address(bytes: &[u8]) {
    let text = text(bytes);
    let asked = holdfast::images::may_be_asked(text) | holdfast::images::may_be_asked(&format!("http://{text}/"));
    let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() else { return };
    assert!(!asked || refused(address, &[]).is_none(), "{text}");
    if let IpAddr::V4(v4) = address {
        assert_eq!(refused(v4.to_ipv6_mapped().into(), &[]), refused(address, &[]));
    }
}

/// Calls of strangers: JSON, and the flat parameters of the older signature. The first byte says which action; the rest is
/// JSON, or lines of `name=value`.
pub fn api(bytes: &[u8]) {
    let Some((action, rest)) = bytes.split_first() else { return };
    let (action, text) = (Action::ALL[usize::from(*action) % Action::ALL.len()], text(rest));
    let params = match serde_json::from_str(text) {
        Ok(Value::Object(params)) => params,
        _ => {
            let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            let params: Vec<(String, String)> = text.lines().filter_map(pair).collect();
            let Ok(params) = flat::restore(action.fields(), &params, Code::BodyParamsError) else { return };
            params
        }
    };
    match wire::read(action, &params) {
        Ok(Call::Create(order)) => {
            if let Some(mix) = &order.spec.mix {
                lay_out(&mix.layout, mix.video.size);
            }
            let id = TaskId::parse("task").expect("an id");
            let (mut task, _) = RecordingTask::create(id, order.spec, Policy::default(), NOW);
            let shape = task.take_shape().expect("a new task has one");
            assert_eq!(Shape::parse(&shape.to_text()).as_ref(), Ok(&shape), "what a stranger asks for can be kept");
        }
        Ok(Call::Modify { layout: Some(layout), .. }) => lay_out(&layout, Size { width: 640, height: 360 }),
        _ => {}
    }
}

fn lay_out(layout: &Layout, canvas: Size) {
    let user = |n: u64| UserId::parse(&format!("user-{n}")).expect("an id");
    for count in [0, 1, 4, 25] {
        let person = |n| Person { user: user(n), media: MediaId::Main, video: (n % 5 != 4).then_some(TrackId(n)) };
        let people: Vec<Person> = (0..count).map(person).collect();
        for tile in scene(layout, canvas, &people, Vec::new()).tiles {
            let (right, bottom) = (tile.rect.x + tile.rect.width, tile.rect.y + tile.rect.height);
            assert!(right <= canvas.width && bottom <= canvas.height, "{:?} is not on {canvas:?}", tile.rect);
        }
    }
}

/// A configuration, which may come from afar: its faults are told and show no secret.
pub fn config(bytes: &[u8]) {
    let Ok(config) = Config::parse(text(bytes)) else { return };
    let _ = (config.disk_limits(), config.upload.the_budget());
}

/// What a task's folder says of it, torn as it may be.
pub fn folder(bytes: &[u8]) {
    let noted = folder::read_journal(bytes);
    // what is of VOD may be spelled in more than one way
    let whole = noted.torn == 0 && noted.stored.is_empty() && noted.committed.is_empty();
    let mut again = Vec::new();
    for (note, name, object) in &noted.segments {
        assert!(matches!(note, Note::Uploaded | Note::Lost));
        again.extend(folder::line(&folder::of_segment(*note, &name.to_string(), object)).into_bytes());
    }
    for event in &noted.events {
        again.extend(folder::line(&folder::of_event(event)).into_bytes());
    }
    for stored in &noted.stored {
        again.extend(folder::line(&folder::of_stored(stored)).into_bytes());
    }
    for committed in &noted.committed {
        again.extend(folder::line(&folder::of_committed(committed)).into_bytes());
    }
    assert_eq!(folder::read_journal(&again), folder::Noted { torn: 0, ..noted });
    // empty lines say nothing, and events and segments are kept apart
    let lines = |text: &[u8]| {
        let mut all: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        all.retain(|line| !line.is_empty());
        all.sort();
        all
    };
    assert!(!whole || lines(bytes) == lines(&again));
    if let Some(destination) = folder::read_destination(bytes) {
        let text = folder::destination_text(&destination).expect("it was one");
        assert_eq!(folder::read_destination(&text), Some(destination));
    }
}

/// Names that may stand on a disk: what is read is written back as it was.
pub fn names(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(name) = LocalName::parse(text) {
        assert_eq!(name.to_string(), text);
    }
    if let Some(id) = decode_id(text) {
        assert_eq!(encode_id(&id), text);
    }
    let _ = segment_stem(text);
    if let Ok(task) = TaskId::parse(text) {
        assert_eq!(TaskId::parse(task.as_str()).as_ref(), Ok(&task));
        assert!(!task.as_str().contains('/') && !task.as_str().starts_with('.'));
        let _ = identity(&task, text);
    }
}

/// Payloads of a publisher's packets, of every codec.
pub fn payloads(bytes: &[u8]) {
    holdfast::media::read_payloads(bytes);
}

/// A picture out of the net.
pub fn picture(bytes: &[u8]) {
    if let Ok(still) = stills::decode(bytes) {
        assert_eq!(still.rgba.len() as u64, 4 * u64::from(still.width) * u64::from(still.height));
    }
}

/// A playlist of a stranger or of a torn disk: what is read is written, and reads back.
pub fn playlist(bytes: &[u8]) {
    let Ok(read) = Playlist::parse(text(bytes)) else { return };
    let _ = Playlist::parse(&read.render()).expect("what render writes can be read");
}

/// Records of the index: what is read is written back the same, and recovery has a plan for it.
pub fn records(bytes: &[u8]) {
    let _ = holdfast::store::is_sum(bytes);
    if let Ok(entry) = OutboxEntry::from_bytes("out/k", bytes) {
        assert_eq!(OutboxEntry::from_bytes("out/k", &entry.to_bytes()).ok(), Some(entry.clone()));
        let sent: Value = serde_json::from_str(&entry.event.to_json(NOW)).expect("a callback is JSON");
        assert!(sent.is_object());
    }
    if let Ok(entry) = PartsEntry::from_bytes("parts/k", bytes) {
        assert_eq!(PartsEntry::from_bytes("parts/k", &entry.to_bytes()).ok(), Some(entry));
    }
    if let Ok(entry) = DestinationEntry::from_bytes("dest/k", bytes) {
        assert_eq!(DestinationEntry::from_bytes("dest/k", &entry.to_bytes()).ok(), Some(entry));
    }
    if let Ok(entry) = SpoolEntry::from_bytes("spool/k", bytes) {
        assert_eq!(SpoolEntry::from_bytes("spool/k", &entry.to_bytes()).ok(), Some(entry.clone()));
        let file = FoundFile { task: entry.task.clone(), name: entry.file.clone(), bytes: entry.stored_bytes() };
        let entries = [entry.clone(), entry];
        assert!(!plan(&[file], &entries).is_empty() && !plan(&[], &entries).is_empty());
    }
    let piece = serde_json::from_slice::<Piece>(bytes).ok();
    if let Ok(task) = serde_json::from_slice::<RecordingTask>(bytes) {
        live_again(task, piece.into_iter().collect());
    }
}

/// A publisher's offer, and the fragments that follow it.
pub fn sdp(bytes: &[u8]) {
    holdfast::media::read_description(text(bytes));
}

/// `task.json`: a task is made of it, taken up and ended.
pub fn shape(bytes: &[u8]) {
    let Ok(shape) = Shape::parse(text(bytes)) else { return };
    assert_eq!(Shape::parse(&shape.to_text()).as_ref(), Ok(&shape));
    let (task, known) = RecordingTask::reconcile_index(None, shape);
    assert!(!known);
    live_again(task, Vec::new());
}

fn live_again(mut task: RecordingTask, pieces: Vec<Piece>) {
    let _ = task.tell_again(&[]);
    let (pieces, _) = task.mend(pieces, &Found::default());
    let (mut task, _) = task.restore(pieces, Policy::default(), NOW);
    let _ = (task.settle_unfound(&BTreeSet::new(), NOW), task.deadline(), task.files());
    let _ = task.take_shape();
}

/// Signatures of strangers are read, and never believed.
pub fn signature(bytes: &[u8]) {
    let text = text(bytes);
    let key = Secret::new("a key that nobody has");
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let params: Vec<(String, String)> = text.lines().filter_map(pair).collect();
    let seconds = NOW.secs().to_string();
    for stamp in [None, Some(seconds.clone())] {
        let mut params = params.clone();
        params.extend(stamp.map(|stamp| ("Timestamp".to_owned(), stamp)));
        let host = params.iter().find(|(name, _)| name == "Host").map_or("box", |(_, host)| host.as_str());
        let request = V1Request { method: "GET", host, params: &params };
        assert!(verify_v1(&request, &key, &["trtc.tencentcloudapi.com".to_owned()], NOW).is_err());
    }
    let Ok(claim) = Tc3Claim::parse(text.lines().next().unwrap_or_default()) else { return };
    let mut headers: BTreeMap<String, String> = BTreeMap::from([("x-tc-timestamp".to_owned(), seconds)]);
    headers.insert("host".to_owned(), "box".to_owned());
    headers.extend(params.iter().map(|(name, value)| (name.to_lowercase(), value.clone())));
    let headers: Vec<(String, String)> = headers.into_iter().collect();
    let request = Tc3Request { method: "POST", query: "", headers: &headers, body: bytes };
    assert!(verify_tc3(&request, &claim, &key, &[], NOW).is_err());
}

/// A transport stream whose writer died: whole packets are kept.
pub fn stream(bytes: &[u8]) {
    for wants_picture in [false, true] {
        let usable = ts::examine(bytes, wants_picture).expect("memory can be read");
        let checked = ts::check(bytes, wants_picture).expect("memory can be read");
        if let Some(checked) = checked.usable {
            assert!(checked.bytes % 188 == 0 && checked.bytes <= bytes.len() as u64);
        }
        // of a file that was closed the last frame counts, too, and nothing else
        assert!(usable.is_none() || checked.usable == usable);
        let _ = holdfast::media::stream_size(&checked.first_picture);
    }
}

/// Tickets of strangers: read without being believed, and never believed. And what was sealed opens only as it was.
pub fn user_sig(bytes: &[u8]) {
    let _ = PrivateMap::read(bytes);
    assert!(SEALER.open(bytes, "keys/t").is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = UserSigFacts::read(text);
    let (key, user) = (Secret::new("a key that nobody has"), UserId::parse("ann").expect("an id"));
    let (app, room) = (SdkAppId(1_400_123_456), RoomId::Number(5));
    assert!(check_user_sig(text, &key, app, &user, NOW).is_err());
    assert!(check_private_map_key(text, Some(&key), app, &user, &room, NOW).is_err());
    let _ = check_private_map_key(text, None, app, &user, &room, NOW);
}

fn temporary(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("holdfast-fuzz-{}-{name}", std::process::id()))
}

static SEALER: LazyLock<BoxKey> = LazyLock::new(|| {
    let path = temporary("key");
    let _ = std::fs::remove_file(&path);
    let key = BoxKey::load_or_create(&path).expect("the temporary folder takes a file");
    let _ = std::fs::remove_file(&path);
    key
});

const PLAIN: &[u8] = b"first hand-over, second hand-over, third";

static VAULT: LazyLock<Vault> = LazyLock::new(|| {
    let key = Key::new(std::array::from_fn(|i| i as u8));
    Vault::new(Some(key), Vec::new())
});

/// A file that was sealed, whole.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = temporary("sealed");
    let _ = std::fs::remove_file(&path);
    let mut output = VAULT.create(&path, "task/file").expect("the temporary folder takes a file");
    for part in PLAIN.chunks(16) {
        output.write(part).expect("the temporary folder takes a file");
    }
    output.finish().expect("the temporary folder takes a file");
    let whole = std::fs::read(&path).expect("it was just written");
    let _ = std::fs::remove_file(&path);
    whole
});

fn unsealed(file: &[u8]) -> Option<(Vec<u8>, bool, bool)> {
    let mut input = VAULT.read(Cursor::new(file), "task/file").ok()?;
    let mut plain = Vec::new();
    input.read_to_end(&mut plain).expect("memory can be read");
    let _ = input.seek(SeekFrom::Start(3));
    let _ = input.read(&mut [0; 8]);
    Some((plain, input.is_sealed(), input.fault().is_some()))
}

/// A file of a torn or strange disk: no byte is read from a sealed one that was not sealed for it.
pub fn vault(bytes: &[u8]) {
    // as it is
    if let Some((plain, sealed, _)) = unsealed(bytes) {
        assert!(if sealed { plain.is_empty() } else { plain == bytes });
    }
    // a whole file that is cut, and changed at some places
    let Some((cut, edits)) = bytes.split_first_chunk::<2>() else { return };
    let mut file = WHOLE.clone();
    file.truncate(usize::from(u16::from_le_bytes(*cut)));
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]]));
        match file.get_mut(at) {
            Some(byte) => *byte ^= edit[2],
            None => file.push(edit[2]),
        }
    }
    if let Some((plain, true, faulty)) = unsealed(&file) {
        assert!(PLAIN.starts_with(&plain));
        assert!(faulty || file == *WHOLE);
    }
}
