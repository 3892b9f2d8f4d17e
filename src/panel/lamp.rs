//! What a lamp is, whatever it hangs on.
//!
//! Owns: the trait. Must not touch: which light it is, rhythms.

use std::io;
use std::time::Duration;

/// Something that is lit or dark.
pub(super) trait Lamp: Send {
    fn set(&mut self, lit: bool) -> io::Result<()>;

    /// Blinks evenly from now on without this process, where that is possible; `false` where it is not.
    fn blink_alone(&mut self, _half: Duration) -> io::Result<bool> {
        Ok(false)
    }
}
