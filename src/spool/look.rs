//! The shelf as somebody sees it who only looks: what lies there, and whether each file is what its name says.
//!
//! Owns: reading the folders of all tasks, checking every file. Must not touch: any file or record of the box: it may
//! be running.
//! Law: the files are the truth and are enough; records, where they are to be had, say more. A file that goes while it
//! is looked at has gone up, and is no fault.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use super::*;
use crate::model::playlist::Playlist as Text;
use crate::model::segment::UNFINISHED;

/// Media time that a segment may lack of its name's length, where its last frame was measured by the others.
const LEAST_SLACK: Duration = Duration::from_millis(500);

/// One task's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFolder {
    pub task: TaskId,
    pub dir: PathBuf,
    /// By lane, run, index. One without a duration is being written, or its writer died.
    pub segments: Vec<LocalSegment>,
    pub playlists: Vec<FoundFile>,
    /// What was set aside, and what nobody knows.
    pub others: Vec<FoundFile>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LocalSegment {
    pub name: LocalName,
    pub file: String,
    /// Length of the file as it lies there.
    pub stored: u64,
}

/// What the index says of the shelf: by task and file name.
pub type Entries = BTreeMap<(TaskId, String), SpoolEntry>;

/// Reads the folders of all tasks, or of one.
pub fn look(spool: &Path, only: Option<&TaskId>) -> Result<Vec<TaskFolder>, Error> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(spool).map_err(at(spool))? {
        let dir = entry.map_err(at(spool))?.path();
        let name = dir.file_name().and_then(|name| name.to_str()).filter(|name| *name != "lost+found");
        let Some(task) = name.filter(|_| dir.is_dir()).and_then(|name| TaskId::parse(name).ok()) else { continue };
        if only.is_some_and(|only| *only != task) {
            continue;
        }
        let mut folder = TaskFolder { task, dir, segments: Vec::new(), playlists: Vec::new(), others: Vec::new() };
        match fs::read_dir(&folder.dir) {
            Ok(files) => {
                for file in files {
                    let file = file.map_err(at(&folder.dir))?;
                    match file.metadata() {
                        Ok(facts) => folder.sort_in(file.file_name().to_string_lossy().into_owned(), facts.len()),
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(e) => return Err(at(&file.path())(e)),
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(at(&folder.dir)(e)),
        }
        let order = |s: &LocalSegment| (s.name.lane.clone(), s.name.run, s.name.index, s.name.duration);
        folder.segments.sort_by_key(order);
        folder.playlists.sort_by(|a, b| a.name.cmp(&b.name));
        folder.others.sort_by(|a, b| a.name.cmp(&b.name));
        folders.push(folder);
    }
    folders.sort_by(|a, b| a.task.cmp(&b.task));
    Ok(folders)
}

impl TaskFolder {
    fn sort_in(&mut self, name: String, bytes: u64) {
        if let Some(local) = LocalName::parse(&name) {
            self.segments.push(LocalSegment { name: local, file: name, stored: bytes });
            return;
        }
        let file = FoundFile { task: self.task.clone(), name, bytes };
        match recovery::is_playlist(&file.name) {
            true => self.playlists.push(file),
            false if hold::is_of_packing(&file.name) => {}
            false if file.name.ends_with(UNFINISHED) || folder::is_ours(&file.name) => {}
            false => self.others.push(file),
        }
    }

    /// Opens a file of the folder; `None`: it has gone up meanwhile.
    pub fn open(&self, vault: &Vault, file: &str) -> io::Result<Option<Input>> {
        match open_plain(vault, &self.task, &self.dir.join(file)) {
            Ok(input) => Ok(Some(input)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// By what a shelf is checked.
pub struct Check<'a> {
    pub vault: &'a Vault,
    /// `None`: the index is not to be had.
    pub entries: Option<&'a Entries>,
    /// So much longer than its media a segment may be called: a picture may have stood still for so long.
    pub slack: Duration,
    /// Width and height of the picture that a byte stream begins with.
    pub size_of: fn(&[u8]) -> Option<(u32, u32)>,
}

/// What a check found.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub files: usize,
    pub bytes: u64,
    /// `<task>/<file>: <what>`
    pub faults: Vec<String>,
    /// What is no fault and worth to know.
    pub notes: Vec<String>,
}

impl Check<'_> {
    /// Reads every file of a folder whole.
    pub fn folder(&self, folder: &TaskFolder, verdict: &mut Verdict) {
        let task = &folder.task;
        for segment in &folder.segments {
            let file = &segment.file;
            let found = match self.segment(folder, segment) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(error) => vec![error.to_string()],
            };
            verdict.count(segment.stored);
            match segment.name.duration {
                Some(_) => verdict.faults.extend(found.iter().map(|what| format!("{task}/{file}: {what}"))),
                None if found.is_empty() => {
                    verdict.notes.push(format!("{task}/{file}: not closed: it is being written, or its writer died"));
                }
                None => verdict.notes.extend(found.iter().map(|what| format!("{task}/{file}: not closed: {what}"))),
            }
        }
        for playlist in &folder.playlists {
            let found = match self.playlist(folder, &playlist.name) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(error) => vec![error.to_string()],
            };
            verdict.count(playlist.bytes);
            verdict.faults.extend(found.iter().map(|what| format!("{task}/{}: {what}", playlist.name)));
        }
        for other in &folder.others {
            let what = match other.name.ends_with(LOST_SUFFIX) {
                true => "set aside, since what it holds is not known",
                false => "nobody knows what it is",
            };
            verdict.notes.push(format!("{task}/{}: {what}", other.name));
        }
        let mine = self.entries.into_iter().flatten().filter(|((of, _), _)| of == task);
        for ((_, file), entry) in mine {
            let waits = entry.state == SpoolState::Spooled && matches!(entry.kind, SpoolKind::Segment(_));
            if waits && !folder.segments.iter().any(|segment| segment.file == *file) {
                verdict.faults.push(format!("{task}/{file}: the index says that it is here, and it is gone"));
            }
        }
    }

    fn segment(&self, folder: &TaskFolder, segment: &LocalSegment) -> io::Result<Option<Vec<String>>> {
        let LocalSegment { name, file, .. } = segment;
        let Some(mut input) = folder.open(self.vault, file)? else { return Ok(None) };
        let wants_picture = wants_picture(name);
        let (mut bytes, mut crc) = (0u64, crc32fast::Hasher::new());
        let seen = Tee { from: &mut input, bytes: &mut bytes, crc: &mut crc };
        let seen = BufReader::with_capacity(256 * 1024, seen);
        let Some(named) = name.duration else {
            let usable = ts::examine(seen, wants_picture)?;
            return Ok(Some(usable.map_or_else(|| vec!["nothing in it plays".into()], |_| Vec::new())));
        };
        let checked = ts::check(seen, wants_picture)?;
        let mut found: Vec<String> = input.fault().map(str::to_owned).into_iter().collect();
        found.extend(checked.faults);
        if let Some(usable) = checked.usable {
            let (long, short) = (usable.duration + self.slack + LEAST_SLACK, named + LEAST_SLACK);
            if named > long || usable.duration > short {
                let says = |d: Duration| d.as_secs_f64();
                found.push(format!("{:.3} s of media, its name says {:.3} s", says(usable.duration), says(named)));
            }
        }
        let size = (self.size_of)(&checked.first_picture);
        if let (Some(named), Some((width, height))) = (name.size, size)
            && named != (width, height)
        {
            found.push(format!("pictures of {width}x{height}, its name says {}x{}", named.0, named.1));
        }
        found.extend(self.against_record(folder, file, bytes, crc.finalize(), segment.stored));
        Ok(Some(found))
    }

    fn playlist(&self, folder: &TaskFolder, file: &str) -> io::Result<Option<Vec<String>>> {
        let Some(mut input) = folder.open(self.vault, file)? else { return Ok(None) };
        let mut text = Vec::new();
        input.read_to_end(&mut text)?;
        let mut found: Vec<String> = input.fault().map(str::to_owned).into_iter().collect();
        let parsed = std::str::from_utf8(&text).map_err(|e| e.to_string());
        let parsed = parsed.and_then(|text| Text::parse(text).map_err(|e| e.to_string()));
        found.extend(parsed.err().map(|e| format!("no playlist: {e}")));
        let stored = fs::metadata(folder.dir.join(file)).map_or(0, |facts| facts.len());
        found.extend(self.against_record(folder, file, text.len() as u64, crc32fast::hash(&text), stored));
        Ok(Some(found))
    }

    fn against_record(&self, folder: &TaskFolder, file: &str, bytes: u64, crc: u32, stored: u64) -> Option<String> {
        let key = (folder.task.clone(), file.to_owned());
        let entry = self.entries?.get(&key).filter(|entry| entry.state == SpoolState::Spooled)?;
        if entry.stored_bytes() != stored {
            return Some(format!("{stored} bytes, its record says {}", entry.stored_bytes()));
        }
        if entry.bytes != bytes {
            return Some(format!("{bytes} bytes in it, its record says {}", entry.bytes));
        }
        (entry.crc32 != crc).then(|| "its checksum is not that of its record".to_owned())
    }
}

impl Verdict {
    fn count(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// Counts and sums what somebody else reads.
struct Tee<'a, R> {
    from: R,
    bytes: &'a mut u64,
    crc: &'a mut crc32fast::Hasher,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        *self.bytes += n as u64;
        self.crc.update(&buffer[..n]);
        Ok(n)
    }
}
