//! Copying a task out of the shelf, as plain files that play.
//!
//! Owns: what is written below the folder that somebody named. Must not touch: any file or record of the box.
//! Law: no file that is there is ever written over; what is told as copied is whole and on the disk. A playlist lists
//! what lies beside it, in its order, with every gap as a discontinuity, and is closed.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};

use serde::Deserialize;

use super::look::{LocalSegment, TaskFolder};
use super::*;
use crate::model::playlist::{Item, Playlist as List};
use crate::model::segment::{export_stem, lane_stem, room_stem, segment_file, segment_stem};
use crate::model::{Lane, RoomId, SdkAppId, Timestamp};

/// What is known of the names that a task's files have at the destination.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Names {
    /// Of segments: by lane, run and index, the object's name.
    pub objects: BTreeMap<(Lane, u32, u32), String>,
    /// What stands before a segment's time: by lane and run.
    pub stems: BTreeMap<(Lane, u32), String>,
    /// `<SdkAppId>_<RoomId>`; `None`: nothing says.
    pub room: Option<String>,
}

/// What of `task.json`, the task as its folder knows it, tells names.
#[derive(Deserialize)]
struct Told {
    spec: Spec,
    lists: Vec<Runs>,
}

#[derive(Deserialize)]
struct Spec {
    app: SdkAppId,
    room: RoomId,
}

/// The runs that were recorded into one playlist.
#[derive(Deserialize)]
struct Runs {
    takeover: u8,
    lane: Lane,
    runs: Vec<u32>,
}

/// What was copied, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    pub segments: usize,
    pub playlists: usize,
    pub bytes: u64,
    /// Files that were there already, with the same contents.
    pub there: usize,
    /// `<task>/<file>: <why>`
    pub left_out: Vec<String>,
}

/// Copies a folder's segments to `<to>/<task>/`, and writes their playlists. `tell` hears of every file that is done.
pub fn export(
    vault: &Vault,
    folder: &TaskFolder,
    names: &Names,
    to: &Path,
    mut tell: impl FnMut(&Copied),
) -> Result<Copied, Error> {
    let dir = to.join(folder.task.as_str());
    fs::create_dir_all(&dir).map_err(at(&dir))?;
    let mut copied = Copied::default();
    let mut lists = BTreeMap::<String, Vec<(LocalName, Item)>>::new();
    for segment in &folder.segments {
        let stem = names.stem(&segment.name);
        match piece(vault, folder, segment, names, &dir, &mut copied) {
            Ok(Some(item)) => lists.entry(stem).or_default().push((segment.name.clone(), item)),
            Ok(None) => {}
            // the target is full or gone: nothing more can be copied
            Err(Failed::To(error)) => return Err(error),
            Err(Failed::From(why)) => copied.left_out.push(format!("{}/{}: {why}", folder.task, segment.file)),
        }
        tell(&copied);
    }
    for (stem, pieces) in lists {
        let text = list(pieces).render();
        let name = format!("{stem}.m3u8");
        place(&dir, &name, &mut text.as_bytes(), &mut copied).map_err(at(&dir.join(&name)))?;
        copied.playlists += 1;
        tell(&copied);
    }
    sync_dir(&dir).map_err(at(&dir))?;
    sync_dir(to).map_err(at(to))?;
    Ok(copied)
}

enum Failed {
    From(String),
    To(Error),
}

/// Copies one segment. `None`: it has gone up meanwhile.
fn piece(
    vault: &Vault,
    folder: &TaskFolder,
    segment: &LocalSegment,
    names: &Names,
    dir: &Path,
    copied: &mut Copied,
) -> Result<Option<Item>, Failed> {
    let LocalSegment { name, file, .. } = segment;
    let from = |e: io::Error| Failed::From(e.to_string());
    let Some(mut input) = folder.open(vault, file).map_err(from)? else { return Ok(None) };
    let (mut bytes, mut duration) = (u64::MAX, name.duration);
    if duration.is_none() {
        // what its writer left: as far as it plays, as the box itself would take it up
        let usable =
            ts::examine(BufReader::with_capacity(256 * 1024, &mut input), wants_picture(name)).map_err(from)?;
        let usable = usable.ok_or_else(|| Failed::From("not closed, and nothing in it plays".into()))?;
        (bytes, duration) = (usable.bytes, Some(usable.duration));
        io::Seek::rewind(&mut input).map_err(from)?;
    }
    let object = names.object(name);
    let mut contents = Guarded { input: input.take(bytes), failed: None };
    let placed = place(dir, &object, &mut contents, copied);
    if let Some(error) = contents.failed {
        return Err(Failed::From(error));
    }
    let name_there = placed.map_err(|error| Failed::To(at(&dir.join(&object))(error)))?;
    if name.duration.is_some()
        && let Some(fault) = contents.input.get_ref().fault()
    {
        copied.left_out.push(format!("{}/{file}: copied up to where {fault}", folder.task));
    }
    copied.segments += 1;
    let duration = duration.expect("measured where it has no name");
    Ok(Some(Item {
        name: name_there,
        duration: Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        start: name.start,
        size: name.size,
        discontinuity: name.discontinuity,
    }))
}

/// Tells errors of the source from those of the target.
struct Guarded {
    input: io::Take<Input>,
    failed: Option<String>,
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).inspect_err(|e| self.failed = Some(e.to_string()))
    }
}

impl Names {
    /// Adds what the folder itself says, for a task that the index does not tell of. One that says nothing is no fault.
    pub fn of_folder(mut self, folder: &TaskFolder) -> Names {
        let text = fs::read_to_string(folder.dir.join(super::folder::TASK)).unwrap_or_default();
        let Ok(Told { spec: Spec { app, room }, lists }) = serde_json::from_str(&text) else { return self };
        for Runs { takeover, lane, runs } in lists {
            let stem = lane_stem(app, &room, takeover, &lane);
            for run in runs {
                self.stems.entry((lane.clone(), run)).or_insert_with(|| stem.clone());
            }
        }
        self.room.get_or_insert_with(|| room_stem(app, &room));
        self
    }

    /// What stands before `.m3u8` and before a segment's time.
    fn stem(&self, name: &LocalName) -> String {
        let of_run = |(lane, run, _): &(Lane, u32, u32)| *lane == name.lane && *run == name.run;
        let known = self.objects.iter().find(|(key, _)| of_run(key)).and_then(|(_, object)| segment_stem(object));
        let known = known.or_else(|| self.stems.get(&(name.lane.clone(), name.run)).map(String::as_str));
        known.map_or_else(|| export_stem(self.room.as_deref(), &name.lane), str::to_owned)
    }

    fn object(&self, name: &LocalName) -> String {
        let known = self.objects.get(&(name.lane.clone(), name.run, name.index));
        known.cloned().unwrap_or_else(|| segment_file(&self.stem(name), name.start))
    }
}

fn list(pieces: Vec<(LocalName, Item)>) -> List {
    let begin = pieces.first().map_or(Timestamp(0), |(_, item)| item.start);
    let mut before: Option<(u32, u32)> = None;
    let mut items = Vec::with_capacity(pieces.len());
    for (name, mut item) in pieces {
        // what is missing between the two is at the destination already, or lost
        let joins = before.is_some_and(|(run, index)| run == name.run && index + 1 == name.index);
        item.discontinuity |= before.is_some() && !joins;
        before = Some((name.run, name.index));
        items.push(item);
    }
    List { begin, target: 1, items, ended: true }
}

/// Writes a file under `name`, or under the next free name like it when another file has it. Says under which.
fn place(dir: &Path, name: &str, contents: &mut impl Read, copied: &mut Copied) -> io::Result<String> {
    let unfinished = dir.join(format!(".{}.unfinished", uuid::Uuid::new_v4()));
    let placed = write(&unfinished, contents).and_then(|bytes| {
        let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        for n in 1u32.. {
            let name = if n == 1 { name.to_owned() } else { format!("{stem}-{n}.{ending}") };
            let last = dir.join(&name);
            match fs::symlink_metadata(&last) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::rename(&unfinished, &last)?;
                    copied.bytes += bytes;
                    return Ok(name);
                }
                Err(e) => return Err(e),
                Ok(_) if same(&unfinished, &last)? => {
                    fs::remove_file(&unfinished)?;
                    copied.there += 1;
                    return Ok(name);
                }
                Ok(_) => {}
            }
        }
        Err(io::Error::other("every name like it is taken"))
    });
    if placed.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    placed
}

fn write(path: &Path, contents: &mut impl Read) -> io::Result<u64> {
    let mut file = File::create_new(path)?;
    let bytes = io::copy(contents, &mut file)?;
    file.flush()?;
    file.sync_all()?;
    Ok(bytes)
}

fn same(a: &Path, b: &Path) -> io::Result<bool> {
    let (left, right) = (File::open(a)?, File::open(b)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let mut left = BufReader::with_capacity(256 * 1024, left);
    let mut right = BufReader::with_capacity(256 * 1024, right);
    let (mut here, mut there) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let n = left.read(&mut here)?;
        if n == 0 {
            return Ok(true);
        }
        right.read_exact(&mut there[..n])?;
        if here[..n] != there[..n] {
            return Ok(false);
        }
    }
}
