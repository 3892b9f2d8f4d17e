//! The sources of packed files: segments of a task's folder, read one at a time.
//!
//! Owns: opening them, whatever they are called by now, and keeping the last few in memory. Must not touch: what is
//! made of them.
//! Law: what is read is what was planned: contents with another checksum are refused.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::units::Demuxed;
use crate::model::TaskId;
use crate::model::segment::{KEPT_SUFFIX, identity};
use crate::vault::Vault;

/// Files of both tracks, and one that is shared by two neighbours.
const CACHED: usize = 3;

/// A task's folder.
#[derive(Debug, Clone)]
pub struct Shelf {
    pub task: TaskId,
    pub dir: PathBuf,
    pub vault: Vault,
}

impl Shelf {
    /// All of a segment. It may get its other name at any moment.
    pub fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let kept = format!("{file}{KEPT_SUFFIX}");
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for name in [file, kept.as_str(), file] {
            match self.vault.open(&self.dir.join(name), &identity(&self.task, name)) {
                Ok(mut input) => {
                    let mut bytes = Vec::with_capacity(usize::try_from(input.len()).unwrap_or(0));
                    input.read_to_end(&mut bytes)?;
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The files of the folder.
    pub fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// What was read of late.
#[derive(Debug)]
pub struct Loader {
    shelf: Shelf,
    cached: VecDeque<(u32, Arc<Demuxed>)>,
}

impl Loader {
    pub fn new(shelf: Shelf) -> Loader {
        Loader { shelf, cached: VecDeque::new() }
    }

    /// The n-th source, and its checksum where it was read just now.
    pub fn load(&mut self, n: u32, file: &str) -> io::Result<(Arc<Demuxed>, Option<u32>)> {
        if let Some(at) = self.cached.iter().position(|(there, _)| *there == n)
            && let Some(found) = self.cached.remove(at)
        {
            let demuxed = found.1.clone();
            self.cached.push_back(found);
            return Ok((demuxed, None));
        }
        let bytes = self.shelf.read(file)?;
        let (crc32, demuxed) = (crc32fast::hash(&bytes), Arc::new(Demuxed::of(&bytes)));
        if self.cached.len() >= CACHED {
            self.cached.pop_front();
        }
        self.cached.push_back((n, demuxed.clone()));
        Ok((demuxed, Some(crc32)))
    }

    /// The clock of a file that is not read yet.
    pub fn peek(&self, file: &str) -> Option<i64> {
        let demuxed = Demuxed::of(&self.shelf.read(file).ok()?);
        (!demuxed.is_empty()).then_some(demuxed.first)
    }

    /// What was read last is not what it should be.
    pub fn forget_newest(&mut self) {
        self.cached.pop_back();
    }

    /// The same of one that was planned.
    pub fn load_planned(&mut self, n: u32, file: &str, planned: u32) -> io::Result<Arc<Demuxed>> {
        let (demuxed, crc32) = self.load(n, file)?;
        if crc32.is_some_and(|crc32| crc32 != planned) {
            self.cached.retain(|(there, _)| *there != n);
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not what was packed")));
        }
        Ok(demuxed)
    }
}
