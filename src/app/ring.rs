//! The last lines of the log, in memory, for a debug bundle.
//!
//! Owns: the lines. Must not touch: what is logged (the filter and the parts decide; none of them logs a secret).
//! Law: bounded by lines and bytes; the oldest go first.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MOST_LINES: usize = 4000;
const MOST_BYTES: usize = 1024 * 1024;
const LONGEST_LINE: usize = 4096;

struct Ring {
    lines: VecDeque<String>,
    bytes: usize,
}

static RING: Mutex<Ring> = Mutex::new(Ring { lines: VecDeque::new(), bytes: 0 });

fn ring() -> MutexGuard<'static, Ring> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    fn push(&mut self, line: &str) {
        let line: String = line.chars().take(LONGEST_LINE).collect();
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// Takes one event of the log at a time, as the log's own writers do.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut ring = ring();
        String::from_utf8_lossy(text).lines().for_each(|line| ring.push(line));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All of it, oldest first.
pub fn text() -> String {
    let ring = ring();
    ring.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_within_bounds() {
        let mut ring = Ring { lines: VecDeque::new(), bytes: 0 };
        (0..MOST_LINES + 10).for_each(|n| ring.push(&n.to_string()));
        assert_eq!((ring.lines.len(), ring.lines.front().map(String::as_str)), (MOST_LINES, Some("10")));
        (0..1000).for_each(|_| ring.push(&"é".repeat(LONGEST_LINE * 2)));
        let bytes: usize = ring.lines.iter().map(String::len).sum();
        assert!(bytes == ring.bytes && bytes <= MOST_BYTES, "{bytes} {}", ring.bytes);
    }
}
