//! `holdfast merge`: one playable file for each user of a directory of single-stream recordings.
//!
//! Owns: the command line, which files of the directory are looked at, users side by side, names, what is told. Must not
//! touch: the recordings, which are only read.
//! Law: a result has its name when it is whole and on the disk, and not before. What cannot be used is named, and the
//! rest is merged.
//! Sources: RECORDING.md §10, API.md §7.2.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, mpsc};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Error, failed};
use crate::media;
use crate::model::Timestamp;
use crate::model::merge::{self, Output, Pick, Piece, SECOND, StreamName, Wish};
use crate::model::playlist::Playlist;
use crate::model::segment::{LocalName, decode_id};

/// Everything of a directory is read once to see what it is, and once to merge it.
const READINGS: u64 = 2;

#[derive(Debug, Clone, clap::Args)]
pub struct MergeArgs {
    /// Where the recordings are: .m3u8 and .ts files of this box or of the cloud. The results are put beside them, and
    /// replace those of an earlier merge.
    #[arg(short = 'f', long)]
    pub dir: PathBuf,
    /// 0: a file for each section; 1: all sections of a user in one file, the gaps filled (black, silence). What is 15 s
    /// or more apart, with neither sound nor picture between, is another section.
    #[arg(short = 'm', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub mode: u8,
    /// With -m 1: leave the gaps out.
    #[arg(short = 's', long)]
    pub skip_gaps: bool,
    /// 0: main pictures and sound; 1: main pictures, aux ones where there are none; 2: aux pictures and sound.
    #[arg(short = 'a', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub aux: u8,
    /// Pictures a second, from 5 to 120; what is beyond is drawn to the nearest. Where pictures have to be coded anew
    /// for another reason: 15. Without one they are copied as they are.
    #[arg(short = 'p', long, allow_negative_numbers = true)]
    pub fps: Option<i64>,
    /// Width and height of the pictures. Where they have to be coded anew without it: those of the largest.
    #[arg(short = 'r', long, num_args = 2, value_names = ["W", "H"])]
    pub size: Option<Vec<u32>>,
}

impl MergeArgs {
    fn wish(&self) -> Result<Wish, Error> {
        let size = match self.size.as_deref() {
            Some([width, height]) => Some(merge::size(*width, *height).map_err(failed("-r"))?),
            _ => None,
        };
        let pick = match self.aux {
            0 => Pick::Main,
            1 => Pick::Auto,
            _ => Pick::Aux,
        };
        Ok(Wish { whole: self.mode == 1, skip_gaps: self.skip_gaps, pick, fps: self.fps.map(merge::fps), size })
    }
}

/// A segment by its name.
struct Found {
    path: PathBuf,
    stream: StreamName,
    stamp: String,
    start: Timestamp,
    bytes: u64,
    /// Ticks; 0 when no playlist has it.
    listed: i64,
}

/// What a directory holds.
#[derive(Default)]
struct Listing {
    users: BTreeMap<String, Vec<Found>>,
    /// By user: what cannot be used.
    faults: BTreeMap<String, Vec<String>>,
}

/// What came of one user.
#[derive(Default)]
struct Told {
    made: Vec<String>,
    /// Not used, or not made; each names its file.
    faults: Vec<String>,
}

pub fn run(args: &MergeArgs) -> Result<ExitCode, Error> {
    let wish = args.wish()?;
    if wish.skip_gaps && !wish.whole {
        eprintln!("-s says nothing without -m 1: sections are files of their own");
    }
    let mut listing = list(&args.dir)?;
    media::init().map_err(failed("media"))?;
    let bytes: u64 = listing.users.values().flatten().map(|found| found.bytes).sum();
    let bar = progress(bytes * READINGS);
    let users = std::mem::take(&mut listing.users);
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(users.len());
    let waiting = Mutex::new(users.into_iter());
    let (tell, told) = mpsc::sync_channel(workers);
    let mut whole = true;
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (tell, waiting, bar) = (tell.clone(), &waiting, &bar);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((user, found)) = next else { return };
                    let work = || merge_user(&args.dir, &user, &found, &wish, &|bytes| bar.inc(bytes));
                    // a fault of ours in one user's files takes nothing from the others
                    let told = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Told {
                        made: Vec::new(),
                        faults: vec![format!("{user}: merging it failed inside; please tell us of it")],
                    });
                    if tell.send((user, told)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (user, mut told) in told {
            told.faults.splice(0..0, listing.faults.remove(&user).unwrap_or_default());
            whole &= told.faults.is_empty();
            bar.suspend(|| say(&user, &told));
        }
    });
    for (user, faults) in listing.faults {
        whole = false;
        bar.suspend(|| say(&user, &Told { made: Vec::new(), faults }));
    }
    bar.finish_and_clear();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress(bytes: u64) -> ProgressBar {
    // nothing is drawn where it is no terminal
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {bytes_per_sec}  {eta} left");
    bar.with_style(style.expect("the template is a constant"))
}

/// One line for a user, and one for each file of theirs that could not be used.
fn say(user: &str, told: &Told) {
    for fault in &told.faults {
        eprintln!("{fault}");
    }
    let plain = decode_id(user).map_or_else(|| user.to_owned(), |plain| format!("{user} ({plain:?})"));
    let made = match (told.made.is_empty(), told.faults.is_empty()) {
        (false, _) => told.made.join(", "),
        (true, false) => "nothing made".to_owned(),
        (true, true) => "nothing made: there is nothing of what the options ask for".to_owned(),
    };
    println!("{plain}: {made}");
}

/// The single-stream files of a directory, by user.
fn list(dir: &Path) -> Result<Listing, Error> {
    let refused = |e: io::Error| Error::Start { what: "merge", why: format!("{}: {e}", dir.display()) };
    let mut listing = Listing::default();
    let mut lengths = BTreeMap::<String, (i64, String)>::new();
    for entry in fs::read_dir(dir).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        // single-stream names are ASCII; what is something else is not ours
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if LocalName::parse(&name).is_some() {
            return Err(of_the_shelf(&path));
        }
        if let Some(stream) = StreamName::of_playlist(&name) {
            let text = fs::read(&path).map_err(|e| e.to_string());
            match text.and_then(|text| Playlist::parse(&String::from_utf8_lossy(&text)).map_err(|e| e.to_string())) {
                Ok(playlist) => lengths.extend(playlist.items.into_iter().map(|item| {
                    let file = item.name.rsplit('/').next().unwrap_or_default().to_owned();
                    let ticks = i64::try_from(item.duration.as_millis()).unwrap_or(0).saturating_mul(SECOND / 1000);
                    (file, (ticks, stream.user.clone()))
                })),
                // its segments are found by their names
                Err(why) => {
                    listing.fault(&stream.user, format!("{name}: {why}; its segments are as long as they play"))
                }
            }
        } else if let Some((stream, stamp, start)) = StreamName::of_segment(&name) {
            let bytes = match entry.path().metadata() {
                Ok(file) if file.is_file() => file.len(),
                Ok(_) => continue,
                Err(e) => {
                    listing.fault(&stream.user, format!("{name}: {e}; skipped"));
                    continue;
                }
            };
            if media::merge::is_sealed(&path).unwrap_or(false) {
                return Err(of_the_shelf(&path));
            }
            let found = Found { stamp: stamp.to_owned(), start, bytes, listed: 0, stream, path };
            listing.users.entry(found.stream.user.clone()).or_default().push(found);
        }
    }
    for found in listing.users.values_mut().flatten() {
        let name = found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.listed = lengths.remove(&name).map_or(0, |(ticks, _)| ticks);
    }
    for (file, (_, user)) in lengths {
        listing.fault(&user, format!("{file}: its playlist lists it, and it is not there; skipped"));
    }
    if listing.users.is_empty() && listing.faults.is_empty() {
        let why = format!("{}: there is no single-stream recording in it", dir.display());
        return Err(Error::Start { what: "merge", why });
    }
    Ok(listing)
}

impl Listing {
    fn fault(&mut self, user: &str, fault: String) {
        self.faults.entry(user.to_owned()).or_default().push(fault);
    }
}

fn of_the_shelf(path: &Path) -> Error {
    let why = format!(
        "{} lies there as the box's own shelf keeps it: copy the recordings out first, with `holdfast spool export DIR`, \
         and merge the copies",
        path.display()
    );
    Error::Start { what: "merge", why }
}

fn merge_user(dir: &Path, user: &str, found: &[Found], wish: &Wish, read: &dyn Fn(u64)) -> Told {
    let mut told = Told::default();
    let mut pieces = Vec::with_capacity(found.len());
    let name = |found: &Found| found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (file, one) in found.iter().enumerate() {
        let contents = match media::merge::examine(&one.path, read) {
            Ok(contents) => contents,
            Err(why) => {
                told.faults.push(format!("{}: {why}; skipped", name(one)));
                continue;
            }
        };
        if let Some(fault) = contents.fault {
            told.faults.push(format!("{}: {fault}; what plays of it is used", name(one)));
        }
        pieces.push(Piece {
            file,
            stream: one.stream.clone(),
            start: one.start,
            stamp: one.stamp.clone(),
            listed: one.listed,
            sizes: contents.sizes,
            picture: contents.picture,
            sound: contents.sound,
            forms: contents.forms,
        });
    }
    let paths: Vec<PathBuf> = found.iter().map(|found| found.path.clone()).collect();
    for output in merge::plan(user, &pieces, wish) {
        match write(dir, &output, &paths, read) {
            Ok(notes) => {
                told.made.push(format!("{} {}", output.name, clock(output.length)));
                told.faults.extend(notes);
            }
            Err(why) => told.faults.push(format!("{}: not made: {why}", output.name)),
        }
    }
    told
}

/// Makes a result under another name, and gives it its own when it is on the disk.
fn write(dir: &Path, output: &Output, files: &[PathBuf], read: &dyn Fn(u64)) -> Result<Vec<String>, String> {
    let part = dir.join(format!(".{}.part", output.name));
    let told = |e: io::Error| e.to_string();
    // what an earlier merge that was stopped has left is written over
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part).map_err(told)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err("another merge is making it".into()),
        Err(TryLockError::Error(e)) => return Err(e.to_string()),
    }
    let made = file.set_len(0).map_err(told).and_then(|()| {
        let (file, notes) = media::merge::make(output, files, file, read).map_err(|e| e.to_string())?;
        file.sync_all().map_err(told)?;
        fs::rename(&part, dir.join(&output.name)).map_err(told)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(told)?;
        Ok(notes)
    });
    if made.is_err() {
        // it may not be there any more
        let _ = fs::remove_file(&part);
    }
    made
}

fn clock(ticks: i64) -> String {
    let ms = ticks / (SECOND / 1000);
    format!("{}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}
