//! `holdfast spool`: what lies on the shelf, whether it is whole, and copies of it for a USB stick.
//!
//! Owns: what is asked of a command line and how the answer looks. Must not touch: the box's files and records, which
//! it only reads: it works beside a running box too.
//! Law: the files are enough. The index of a box that is stopped says more; that of a running one is held.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Error, failed, keys};
use crate::config::Config;
use crate::media;
use crate::model::piece::Piece;
use crate::model::playlist::rfc3339_ms;
use crate::model::segment::room_stem;
use crate::model::task::RecordingTask;
use crate::model::{Lane, TaskId};
use crate::spool::export::{self, Copied, Names};
use crate::spool::look::{self, Check, Entries, LocalSegment, TaskFolder, Verdict};
use crate::store::records::{self, SpoolEntry, SpoolState};
use crate::store::{self};

#[derive(Debug, Clone, clap::Args)]
pub struct ShelfArgs {
    /// The box's configuration: where its state is, and its keys.
    #[arg(long, global = true, default_value = "/etc/holdfast/holdfast.toml")]
    pub config: PathBuf,
    #[command(subcommand)]
    pub task: ShelfTask,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum ShelfTask {
    /// One line for each task and lane: pieces, duration, bytes, the oldest, what waits.
    Ls,
    /// Read every file whole, and compare it with its name and its record. Exit code 1 if there is a fault.
    Verify,
    /// Copy recordings as plain files with playlists that play. Nothing that is there is written over.
    Export {
        /// An existing folder, on a USB stick for example.
        dir: PathBuf,
        /// This task alone.
        #[arg(long)]
        task: Option<String>,
    },
}

/// What the index says, where it is to be had.
#[derive(Default)]
struct Known {
    entries: Option<Entries>,
    names: BTreeMap<TaskId, Names>,
    /// Why there is no more.
    note: Option<String>,
}

pub fn run(config: &Config, task: &ShelfTask) -> Result<ExitCode, Error> {
    let spool = config.spool_dir();
    let known = known(config);
    if let Some(note) = &known.note {
        eprintln!("{note}");
    }
    let out = &mut io::stdout().lock();
    let written = |e: io::Error| Error::Start { what: "standard output", why: e.to_string() };
    match task {
        ShelfTask::Ls => {
            let folders = look::look(&spool, None).map_err(failed("spool"))?;
            list(&folders, &known, out).map_err(written)?;
            Ok(ExitCode::SUCCESS)
        }
        ShelfTask::Verify => {
            let folders = look::look(&spool, None).map_err(failed("spool"))?;
            let vault = keys::vault(config)?;
            let check = Check {
                vault: &vault,
                entries: known.entries.as_ref(),
                slack: Duration::from_secs(config.recording.gap_seconds),
                size_of: media::stream_size,
            };
            let mut verdict = Verdict::default();
            folders.iter().for_each(|folder| check.folder(folder, &mut verdict));
            told(&verdict, out).map_err(written)?;
            Ok(if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ShelfTask::Export { dir, task } => {
            let only = task.as_deref().map(TaskId::parse).transpose().map_err(failed("--task"))?;
            let folders = look::look(&spool, only.as_ref()).map_err(failed("spool"))?;
            let vault = keys::vault(config)?;
            let to = outside(&config.server.state_dir, dir)?;
            if only.is_some() && folders.is_empty() {
                return Err(Error::Start { what: "--task", why: "nothing of it is on the shelf".into() });
            }
            let mut whole = true;
            for folder in folders.iter().filter(|folder| !folder.segments.is_empty()) {
                let names = known.names.get(&folder.task).cloned().unwrap_or_default().of_folder(folder);
                let total = folder.segments.len();
                let mut progress = Progress::of(folder);
                let copied = export::export(&vault, folder, &names, &to, |copied| progress.tell(copied));
                progress.end();
                let copied = copied.map_err(failed("export"))?;
                writeln!(
                    out,
                    "{}: {} of {total} segments in {} playlists, {} bytes copied, {} files were there already",
                    folder.task, copied.segments, copied.playlists, copied.bytes, copied.there
                )
                .map_err(written)?;
                for why in &copied.left_out {
                    writeln!(out, "{why}").map_err(written)?;
                }
                whole &= copied.left_out.is_empty();
            }
            Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The folder to copy to: one that is there, and not the box's own, where it would take the room of recordings.
fn outside(state: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let refused = |why: String| Error::Start { what: "export", why: format!("{}: {why}", dir.display()) };
    let to = dir.canonicalize().map_err(|e| refused(e.to_string()))?;
    if !to.is_dir() {
        return Err(refused("it is no folder".into()));
    }
    if state.canonicalize().is_ok_and(|state| to.starts_with(state)) {
        return Err(refused("it lies in the box's state directory".into()));
    }
    Ok(to)
}

fn known(config: &Config) -> Known {
    let dir = config.index_dir();
    let all = match store::peek(&dir) {
        Ok(Some(all)) => all,
        Ok(None) => {
            let note = "the index is held by a running box, or is not there: only files are looked at".to_owned();
            return Known { note: Some(note), ..Known::default() };
        }
        Err(e) => return Known { note: Some(format!("only files are looked at: {e}")), ..Known::default() },
    };
    let (mut entries, mut names) = (Entries::new(), BTreeMap::<TaskId, Names>::new());
    for (key, bytes) in all {
        let Some((kind, rest)) = key.split_once('/').map(|(kind, rest)| (&key[..=kind.len()], rest)) else { continue };
        let of = rest.split('/').next().and_then(|task| TaskId::parse(task).ok());
        let Some(of) = of else { continue };
        match kind {
            records::TASKS => {
                if let Ok(task) = serde_json::from_slice::<RecordingTask>(&bytes) {
                    names.entry(of).or_default().room = Some(room_stem(task.spec.app, &task.spec.room));
                }
            }
            records::PIECES => {
                if let Ok(Piece { lane, run, index, object, .. }) = serde_json::from_slice(&bytes) {
                    names.entry(of).or_default().objects.insert((lane, run, index), object);
                }
            }
            records::SPOOL => {
                if let Ok(entry) = SpoolEntry::from_bytes(&key, &bytes) {
                    if let Some(segment) = entry.segment() {
                        let place = (segment.run.lane.clone(), segment.run.run, segment.index);
                        names.entry(of.clone()).or_default().objects.insert(place, entry.object.clone());
                    }
                    entries.insert((of, entry.file.clone()), entry);
                }
            }
            _ => {}
        }
    }
    Known { entries: Some(entries), names, note: None }
}

fn list(folders: &[TaskFolder], known: &Known, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<28} {:<28} {:>6} {:>12} {:>14}  {:<24} {:>7}",
        "task", "lane", "pieces", "duration", "bytes", "oldest", "waiting"
    )?;
    let (mut pieces, mut bytes) = (0, 0);
    for folder in folders {
        let mut lanes = BTreeMap::<&Lane, Vec<&LocalSegment>>::new();
        for segment in &folder.segments {
            lanes.entry(&segment.name.lane).or_default().push(segment);
        }
        for (lane, segments) in lanes {
            let gone = |segment: &&&LocalSegment| {
                let entry = known.entries.as_ref()?.get(&(folder.task.clone(), segment.file.clone()))?;
                Some(entry.state != SpoolState::Spooled)
            };
            let closed: Vec<&&LocalSegment> = segments.iter().filter(|s| s.name.duration.is_some()).collect();
            let waiting = closed.iter().filter(|s| gone(s) != Some(true)).count();
            let duration: Duration = closed.iter().filter_map(|s| s.name.duration).sum();
            let stored: u64 = segments.iter().map(|s| s.stored).sum();
            let oldest = segments.iter().map(|s| s.name.start).min().map(rfc3339_ms).unwrap_or_default();
            let open = match segments.len() - closed.len() {
                0 => String::new(),
                n => format!(" and {n} not closed"),
            };
            writeln!(
                out,
                "{:<28} {:<28} {:>6} {:>12} {stored:>14}  {oldest:<24} {waiting:>7}{open}",
                folder.task.as_str(),
                lane_text(lane),
                closed.len(),
                clock(duration),
            )?;
            pieces += segments.len();
            bytes += stored;
        }
        for (what, files) in [("playlists", &folder.playlists), ("set aside or unknown", &folder.others)] {
            if !files.is_empty() {
                let stored: u64 = files.iter().map(|file| file.bytes).sum();
                writeln!(out, "{:<28} {what:<28} {:>6} {:>12} {stored:>14}", folder.task.as_str(), files.len(), "")?;
            }
        }
    }
    writeln!(out, "{} tasks, {pieces} pieces, {bytes} bytes", folders.len())
}

fn lane_text(lane: &Lane) -> String {
    let kind = lane.kind.in_names();
    lane.user.as_ref().map_or_else(|| format!("mixed {kind}"), |user| format!("{user} {} {kind}", lane.media))
}

fn clock(duration: Duration) -> String {
    let ms = duration.as_millis();
    format!("{}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

fn told(verdict: &Verdict, out: &mut impl Write) -> io::Result<()> {
    for fault in &verdict.faults {
        writeln!(out, "{fault}")?;
    }
    for note in &verdict.notes {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "{} files, {} bytes: {} faults", verdict.files, verdict.bytes, verdict.faults.len())
}

/// A line that grows on a terminal; elsewhere the sum at the end is enough.
struct Progress<'a> {
    folder: &'a TaskFolder,
    shown: bool,
}

impl Progress<'_> {
    fn of(folder: &TaskFolder) -> Progress<'_> {
        Progress { folder, shown: io::stderr().is_terminal() }
    }

    fn tell(&mut self, copied: &Copied) {
        if self.shown {
            let total = self.folder.segments.len();
            eprint!("\r{}: {} of {total} segments, {} bytes", self.folder.task, copied.segments, copied.bytes);
        }
    }

    fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }
}
