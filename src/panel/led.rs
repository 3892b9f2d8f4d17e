//! An LED of the kernel's, under `/sys/class/leds`.
//!
//! Owns: its files `brightness` and `trigger`. Must not touch: other LEDs.
//! Law: while we drive it no trigger does; what it is left to is the kernel's `timer`, which blinks without anybody.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lamp::Lamp;

const GIVEN_TRIES: u32 = 20;
const GIVEN_WAIT: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Led {
    dir: PathBuf,
    /// What `brightness` takes for lit.
    most: u32,
    active_low: bool,
    /// A trigger drives it, or may.
    triggered: bool,
    /// The kernel can blink it.
    timer: bool,
}

impl Led {
    pub(super) fn open(leds: &Path, name: &str, active_low: bool) -> io::Result<Led> {
        let dir = leds.join(name);
        // what is not there is told now, with its path, and not at the first blink
        std::fs::metadata(dir.join("brightness")).map_err(|e| of(&dir, "brightness", &e))?;
        let most = std::fs::read_to_string(dir.join("max_brightness")).ok();
        let most = most.and_then(|text| text.trim().parse().ok()).filter(|most| *most > 0).unwrap_or(255);
        let triggers = std::fs::read_to_string(dir.join("trigger")).unwrap_or_default();
        let timer = triggers.split_whitespace().any(|word| word.trim_matches(['[', ']']) == "timer");
        let mut led = Led { dir, most, active_low, triggered: true, timer };
        led.set(false)?;
        Ok(led)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        // no `create`: a file that the kernel does not have is an error, not a new file
        let opened = std::fs::OpenOptions::new().write(true).truncate(true).open(self.dir.join(file));
        let written = opened.and_then(|mut open| io::Write::write_all(&mut open, text.as_bytes()));
        written.map_err(|e| of(&self.dir, file, &e))
    }

    /// The kernel makes a trigger's files when it is chosen, and udev gives them to our group a moment later.
    fn write_when_given(&self, file: &str, text: &str) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match self.write(file, text) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && tries < GIVEN_TRIES => tries += 1,
                done => return done,
            }
            std::thread::sleep(GIVEN_WAIT);
        }
    }

    fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }
}

fn of(dir: &Path, file: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", dir.join(file).display()))
}

impl Lamp for Led {
    fn set(&mut self, lit: bool) -> io::Result<()> {
        if self.triggered && self.has("trigger") {
            self.write("trigger", "none")?;
        }
        self.triggered = false;
        let level = if lit != self.active_low { self.most } else { 0 };
        self.write("brightness", &level.to_string())
    }

    fn blink_alone(&mut self, half: Duration) -> io::Result<bool> {
        if !self.timer {
            return Ok(false);
        }
        // the timer blinks with the brightness that it finds
        self.set(true)?;
        self.triggered = true;
        self.write("trigger", "timer")?;
        let half = half.as_millis().to_string();
        for file in ["delay_on", "delay_off"] {
            self.write_when_given(file, &half)?;
        }
        Ok(true)
    }
}
