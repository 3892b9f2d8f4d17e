//! What a button's contact is, whatever it hangs on, and the clock of its edges.
//!
//! Owns: the trait. Must not touch: what a press is, or means.

use std::io;
use std::time::Duration;

/// Something that is closed or open.
pub(super) trait Contact: Send {
    fn closed(&mut self) -> io::Result<bool>;

    /// Waits for its next edge: whether it closed, and when by [`monotonic`]. `None`: there was none.
    fn edge(&mut self, within: Duration) -> io::Result<Option<(bool, Duration)>>;
}

/// The clock by which the kernel stamps edges: a thread that had to wait for its turn still knows how long a press was.
pub(super) fn monotonic() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}
