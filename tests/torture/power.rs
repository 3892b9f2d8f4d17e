//! What a power cut leaves: less than was written, and a last write that is torn.
//!
//! The file system loses what was not synced by itself ([`SmallDisk::cut_power`]); here the sectors that the disk was just
//! writing are added: the beginning of what was lost, up to the end of some sector, and then whatever it held before.
//!
//! [`SmallDisk::cut_power`]: crate::support::small_disk::SmallDisk::cut_power

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checker::Part;
use super::{files_below, name_of};

const SECTOR: usize = 512;
/// A file grows by blocks.
const BLOCK: usize = 4096;

/// Everything random of one subject.
pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(StdRng::seed_from_u64(seed))
    }

    /// From `low` to below `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..high)
    }

    pub fn yes(&mut self) -> bool {
        self.0.random()
    }

    /// What a sector held before: nothing, or something old that is no transport stream.
    fn old_bytes(&mut self, n: usize) -> Vec<u8> {
        let zeros = self.yes();
        (0..n).map(|_| if zeros { 0 } else { self.0.random_range(0x48..=0xff) }).collect()
    }
}

/// Journals of uploads, as they are.
pub fn journals(spool: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_journal = |path: &PathBuf| name_of(path).starts_with("uploaded") && name_of(path).ends_with(".txt");
    let all = files_below(spool).into_iter().filter(is_journal);
    all.filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}

/// What a torn last write adds to `kept`, of which `written` was the whole: some sectors of what is missing, and old bytes
/// up to the end of the block.
fn torn_tail(kept: &[u8], written: &[u8], chance: &mut Chance) -> Vec<u8> {
    let lost = written.get(kept.len()..).unwrap_or_default();
    let to_sector = SECTOR - kept.len() % SECTOR;
    let to_block = BLOCK - kept.len() % BLOCK;
    let sectors = chance.between(0, (to_block.saturating_sub(to_sector) / SECTOR) as u64 + 1) as usize;
    let whole = if chance.yes() { (to_sector + sectors * SECTOR).min(lost.len()).min(to_block) } else { 0 };
    let mut tail = lost[..whole].to_vec();
    let old = chance.old_bytes(to_block - whole);
    tail.extend(old);
    tail
}

fn append(path: &Path, tail: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("it was there a moment ago");
    file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(tail)).expect("the disk has room");
}

/// Tears the last writes of what lies on the shelf after the power came back, and notes what there is in `parts`. Files
/// whose writes were all synced have none.
pub fn tear(
    spool: &Path,
    parts: &mut BTreeMap<String, Part>,
    journals: &BTreeMap<PathBuf, Vec<u8>>,
    chance: &mut Chance,
) {
    let there: BTreeMap<String, PathBuf> = files_below(spool).into_iter().map(|path| (name_of(&path), path)).collect();
    for (name, part) in parts.iter_mut() {
        let Some(path) = there.get(name) else {
            part.kept = None;
            continue;
        };
        let mut kept = fs::read(path).expect("it lies there");
        if kept.len() < part.written.len() && chance.yes() {
            let tail = torn_tail(&kept, &part.written, chance);
            append(path, &tail);
            kept.extend(tail);
            part.torn = true;
        }
        part.kept = Some(kept);
    }
    for (path, written) in journals {
        let Ok(kept) = fs::read(path) else { continue };
        // a line that was being written, of whose record nobody has heard
        if kept.len() < written.len() || chance.yes() {
            let line = b"deadbeef up dXNlcg.._main_video_r0_i7_t1_640x360_join_d1000000.ts nobody.ts";
            let next = if kept.len() < written.len() { &written[kept.len()..] } else { &line[..] };
            let torn = chance.between(0, next.len() as u64) as usize;
            let mut tail = next[..torn].to_vec();
            let old = chance.between(0, 64) as usize;
            tail.extend(vec![0; old]);
            append(path, &tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_ends_with_its_block_and_begins_as_what_was_lost() {
        let written: Vec<u8> = (0..20_000u32).map(|n| (n % 71) as u8).collect();
        let mut chance = Chance::new(7);
        let (mut some, mut none) = (0, 0);
        for kept in (0..15_000).step_by(37) {
            let tail = torn_tail(&written[..kept], &written, &mut chance);
            assert!(!tail.is_empty() && tail.len() <= BLOCK && (kept + tail.len()).is_multiple_of(BLOCK));
            let same = tail.iter().zip(&written[kept..]).take_while(|(a, b)| a == b).count();
            if same > 8 { some += 1 } else { none += 1 }
        }
        assert!(some > 50 && none > 50, "{some} with something of it, {none} without");
    }
}
