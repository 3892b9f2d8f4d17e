//! What a task's folder says of its task: enough to make a lost index again.
//!
//! Owns: `task.json`, `destination.json` and the journal `uploaded.txt` (`uploaded-2.txt` …). Must not touch: what a
//! shape means; segments.
//! Law: `task.json` and `destination.json` are whole or not there. A line of the journal is on the disk before the
//! record of its upload, and before the file that it speaks of is unlinked. A journal whose write or sync failed, or
//! whose end is torn, is read and never written to again: the next line begins another one. Keys are in
//! `destination.json` as in the index: sealed with the box's key.
//!
//! ```text
//! task.json         the shape of the task (model::task::Shape)
//! destination.json  {"v":1,"destination":<record dest/<task>>,"keys":"<record keys/<task>, hex>"}
//! hold.txt          which segments stay until they are packed: copies | all; without it none. "all gone": they are
//!                   packed, and whichever is missing was let go
//! uploaded.txt      <crc32 of the rest> up|lost <local name> <object>
//!                   <crc32 of the rest> told <event>
//!                   <crc32 of the rest> stored <file, and the sealed session by which VOD is to commit it>
//!                   <crc32 of the rest> vod <file, and what VOD made of it>
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Disk;
use crate::crash;
use crate::model::output::Hold;
use crate::model::segment::{LocalName, UNFINISHED};
use crate::model::vod::{Committed, Stored};

pub const TASK: &str = "task.json";
pub const DESTINATION: &str = "destination.json";
/// Says which segments stay until their task lets them go: `copies`, or `all`; `all gone` once it has.
pub const HOLD: &str = "hold.txt";
const JOURNAL: &str = "uploaded";

/// What the journal says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Its destination has acknowledged it.
    Uploaded,
    /// What it held is gone.
    Lost,
}

impl Note {
    fn word(self) -> &'static str {
        match self {
            Note::Uploaded => "up",
            Note::Lost => "lost",
        }
    }
}

/// What a folder says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Told {
    /// The text of `task.json`.
    pub shape: Option<String>,
    pub destination: Option<Destination>,
    pub noted: Noted,
    /// The journal to be written to.
    pub journal: u32,
}

/// What journals say, each in the order in which it was noted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Noted {
    pub segments: Vec<(Note, LocalName, String)>,
    /// Events that no shape holds, as they were noted.
    pub events: Vec<String>,
    /// Files that are stored at VOD, before they are committed.
    pub stored: Vec<Stored>,
    /// Files that VOD has.
    pub committed: Vec<Committed>,
    /// Lines that could not be read.
    pub torn: usize,
}

impl Noted {
    fn add(&mut self, later: Noted) {
        let Noted { segments, events, stored, committed, torn } = later;
        self.segments.extend(segments);
        self.events.extend(events);
        self.stored.extend(stored);
        self.committed.extend(committed);
        self.torn += torn;
    }
}

/// Two records of the index, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub destination: Vec<u8>,
    pub keys: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct DestinationFile {
    v: u32,
    destination: serde_json::Value,
    keys: String,
}

/// Whether a file of a task's folder is of this module.
pub fn is_ours(name: &str) -> bool {
    name == TASK || name == DESTINATION || name == HOLD || journal_number(name).is_some()
}

fn journal_name(number: u32) -> String {
    match number {
        0 | 1 => format!("{JOURNAL}.txt"),
        n => format!("{JOURNAL}-{n}.txt"),
    }
}

fn journal_number(name: &str) -> Option<u32> {
    let number = match name.strip_prefix(JOURNAL)?.strip_suffix(".txt")? {
        "" => 1,
        n => n.strip_prefix('-')?.parse().ok()?,
    };
    (journal_name(number) == name).then_some(number)
}

/// Reads all that a folder says. `names`: of the files in it.
pub fn read<'a>(dir: &Path, names: impl Iterator<Item = &'a str>) -> io::Result<Told> {
    let names: BTreeSet<&str> = names.collect();
    let mut told = Told::default();
    if names.contains(TASK) {
        told.shape = Some(fs::read_to_string(dir.join(TASK))?);
    }
    if names.contains(DESTINATION) {
        told.destination = read_destination(&fs::read(dir.join(DESTINATION))?);
    }
    (told.noted, told.journal) = read_journals(dir, names.into_iter())?;
    Ok(told)
}

/// What the journals among these files say, and the one to be written to.
pub fn read_journals<'a>(dir: &Path, names: impl Iterator<Item = &'a str>) -> io::Result<(Noted, u32)> {
    let (mut noted, mut journal) = (Noted::default(), 1);
    let journals: BTreeSet<u32> = names.filter_map(journal_number).collect();
    for number in journals {
        let bytes = fs::read(dir.join(journal_name(number)))?;
        let whole = bytes.is_empty() || bytes.ends_with(b"\n");
        journal = if whole { number } else { number.saturating_add(1) };
        noted.add(read_journal(&bytes));
    }
    Ok((noted, journal))
}

/// What a line of the journal says of a segment.
pub fn of_segment(note: Note, name: &str, object: &str) -> String {
    format!("{} {name} {object}", note.word())
}

/// The line that keeps an event; `event` has no end of line.
pub fn of_event(event: &str) -> String {
    format!("{TOLD}{event}")
}

pub fn of_stored(stored: &Stored) -> String {
    format!("{STORED}{}", serde_json::to_string(stored).expect("it has text keys and no floats"))
}

pub fn of_committed(committed: &Committed) -> String {
    format!("{COMMITTED}{}", serde_json::to_string(committed).expect("it has text keys and no floats"))
}

const TOLD: &str = "told ";
const STORED: &str = "stored ";
const COMMITTED: &str = "vod ";

enum Line {
    Segment(Note, LocalName, String),
    Event(String),
    Stored(Stored),
    Committed(Committed),
}

/// What a journal says, and how many of its lines cannot be read.
pub fn read_journal(bytes: &[u8]) -> Noted {
    let mut noted = Noted::default();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match parse_line(line) {
            Some(Line::Segment(note, name, object)) => noted.segments.push((note, name, object)),
            Some(Line::Event(event)) => noted.events.push(event),
            Some(Line::Stored(stored)) => noted.stored.push(stored),
            Some(Line::Committed(committed)) => noted.committed.push(committed),
            None => noted.torn += 1,
        }
    }
    noted
}

/// A line of a journal.
pub fn line(rest: &str) -> String {
    format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let (crc, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(rest.as_bytes()) {
        return None;
    }
    if let Some(event) = rest.strip_prefix(TOLD) {
        return Some(Line::Event(event.to_owned()));
    }
    if let Some(stored) = rest.strip_prefix(STORED) {
        return serde_json::from_str(stored).ok().map(Line::Stored);
    }
    if let Some(committed) = rest.strip_prefix(COMMITTED) {
        return serde_json::from_str(committed).ok().map(Line::Committed);
    }
    let mut words = rest.split(' ');
    let note = match words.next()? {
        "up" => Note::Uploaded,
        "lost" => Note::Lost,
        _ => return None,
    };
    let (name, object) = (LocalName::parse(words.next()?)?, words.next()?.to_owned());
    words.next().is_none().then_some(Line::Segment(note, name, object))
}

/// Adds a line to the journal of this number. One at a time, since a line that follows half a line is lost with it; the
/// file is to be synced then, and lines of others may be written meanwhile.
pub fn note(dir: &Path, journal: u32, rest: &str, disk: &dyn Disk) -> io::Result<File> {
    let path = dir.join(journal_name(journal));
    let new = !path.exists();
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    if new {
        disk.sync(&File::open(dir)?)?;
    }
    file.write_all(line(rest).as_bytes())?;
    crash::point("journal.written");
    Ok(file)
}

/// The records that `destination.json` keeps; `None`: it is torn.
pub fn read_destination(bytes: &[u8]) -> Option<Destination> {
    let file: DestinationFile = serde_json::from_slice(bytes).ok().filter(|file: &DestinationFile| file.v == 1)?;
    let destination = serde_json::to_vec(&file.destination).ok()?;
    Some(Destination { destination, keys: hex::decode(&file.keys).ok()? })
}

/// The text of `destination.json`; `None` when the record is not what this module can keep.
pub fn destination_text(records: &Destination) -> Option<Vec<u8>> {
    let destination = serde_json::from_slice(&records.destination).ok()?;
    serde_json::to_vec(&DestinationFile { v: 1, destination, keys: hex::encode(&records.keys) }).ok()
}

/// How a task's folder holds its segments, and whether those that it held are let go.
pub fn read_hold(dir: &Path) -> io::Result<(Hold, bool)> {
    match fs::read_to_string(dir.join(HOLD)) {
        Ok(text) => match text.trim() {
            "copies" => Ok((Hold::Copies, false)),
            "all" => Ok((Hold::All, false)),
            ALL_GONE => Ok((Hold::All, true)),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{HOLD} says '{other}'"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Hold::Nothing, false)),
        Err(error) => Err(error),
    }
}

const ALL_GONE: &str = "all gone";

/// Whoever calls syncs the folder afterwards.
pub fn write_hold(dir: &Path, hold: Hold, disk: &dyn Disk) -> io::Result<()> {
    let word = match hold {
        Hold::Nothing => return Ok(()),
        Hold::Copies => "copies",
        Hold::All => "all",
    };
    replace(dir, HOLD, word.as_bytes(), disk)
}

/// Notes that what was held ([`Hold::All`]) is needed no more; whoever calls syncs the folder afterwards.
pub fn write_all_gone(dir: &Path, disk: &dyn Disk) -> io::Result<()> {
    replace(dir, HOLD, ALL_GONE.as_bytes(), disk)
}

/// Writes a file whole or not at all; whoever calls syncs the folder afterwards.
pub fn replace(dir: &Path, name: &str, bytes: &[u8], disk: &dyn Disk) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}{}", UNFINISHED));
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    crash::point("folder.written");
    disk.sync(&file)?;
    crash::point("folder.synced");
    fs::rename(&unfinished, dir.join(name))?;
    crash::point("folder.renamed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::vod::{Media, Which};
    use crate::model::{Lane, LaneKind, MediaId, Timestamp, UserId};
    use crate::spool::RealDisk;

    fn name(index: u32) -> LocalName {
        LocalName {
            lane: Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Video),
            run: 0,
            index,
            start: Timestamp(i64::from(index)),
            size: Some((640, 360)),
            discontinuity: false,
            duration: Some(Duration::from_secs(10)),
        }
    }

    fn add(dir: &Path, journal: u32, index: u32) {
        let (name, object) = (name(index).to_string(), format!("{index}.ts"));
        note(dir, journal, &of_segment(Note::Uploaded, &name, &object), &RealDisk).unwrap();
    }

    fn told(dir: &Path) -> Told {
        let names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        read(dir, names.iter().map(String::as_str)).unwrap()
    }

    #[test]
    fn a_torn_journal_is_read_and_another_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(told(dir.path()), Told { journal: 1, ..Told::default() });
        (0..3).for_each(|index| add(dir.path(), 1, index));
        note(dir.path(), 1, &of_segment(Note::Lost, &name(3).to_string(), "3.ts"), &RealDisk).unwrap();
        let whole = told(dir.path());
        assert_eq!((whole.noted.segments.len(), whole.noted.torn, whole.journal), (4, 0, 1));
        assert_eq!(whole.noted.segments[2], (Note::Uploaded, name(2), "2.ts".into()));
        assert_eq!(whole.noted.segments[3].0, Note::Lost);

        let path = dir.path().join("uploaded.txt");
        let bytes = fs::read(&path).unwrap();
        for cut in 1..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let torn = told(dir.path());
            let lines = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            // the last byte of a line is no part of its contents
            assert!(
                torn.noted.segments.len() == lines || bytes[cut] == b'\n' && torn.noted.segments.len() == lines + 1
            );
            assert_eq!(torn.journal, if bytes[cut - 1] == b'\n' { 1 } else { 2 });
        }
        add(dir.path(), 2, 7);
        let both = told(dir.path());
        assert_eq!((both.noted.segments.len(), both.noted.torn, both.journal), (5, 0, 2));

        // a hole that the disk left in it costs the lines that it meets
        let mut holed = bytes.clone();
        let at = holed.len() / 2;
        holed[at..at + 8].fill(0);
        fs::write(&path, &holed).unwrap();
        let holed = told(dir.path());
        assert!(holed.noted.torn >= 1 && holed.noted.segments.len() >= 3, "{holed:?}");
    }

    #[test]
    fn events_are_kept_beside_the_segments() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), 1, 0);
        let event = r#"{"seq":7,"body":{"upload_error":{"code":"SlowDown","message":"wait a moment"}}}"#;
        note(dir.path(), 1, &of_event(event), &RealDisk).unwrap();
        add(dir.path(), 1, 1);
        let told = told(dir.path());
        let noted = told.noted;
        assert_eq!((noted.segments.len(), noted.torn, noted.events), (2, 0, vec![event.to_owned()]));
    }

    #[test]
    fn what_vod_has_is_kept_beside_the_segments() {
        let dir = tempfile::tempdir().unwrap();
        let which = Which { object: "a b.mp4".into(), bytes: 7, crc32: 9 };
        let stored = Stored { which: which.clone(), session: "00ff".into() };
        let media = Media { file_id: "5285".into(), url: "http://v.example/a b".into() };
        let committed = Committed { which, media };
        for line in [of_stored(&stored), of_committed(&committed)] {
            note(dir.path(), 1, &line, &RealDisk).unwrap();
        }
        let noted = told(dir.path()).noted;
        assert_eq!((noted.stored, noted.committed, noted.torn), (vec![stored], vec![committed], 0));
    }

    #[test]
    fn only_our_names_are_ours() {
        for ours in ["task.json", "destination.json", "uploaded.txt", "uploaded-2.txt", "uploaded-17.txt"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["uploaded-1.txt", "uploaded-02.txt", "uploaded-.txt", "uploaded", "task.json.tmp", "a.ts"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn a_destination_reads_back_byte_by_byte() {
        let records = Destination {
            destination: br#"{"v":1,"destination":{"vendor":"s3","region":"r"},"line":"x"}"#.to_vec(),
            keys: vec![1, 2, 255],
        };
        assert_eq!(read_destination(&destination_text(&records).unwrap()), Some(records));
        assert_eq!(read_destination(b"{}"), None);
    }
}
