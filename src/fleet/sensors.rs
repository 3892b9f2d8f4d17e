//! What the kernel tells of the board: load, heat, throttling, whether its clock is set.
//!
//! Owns: the reading of `/proc`, `/sys` and `/run`. Must not touch: anything else on the disk.
//! Law: what is not there, or is not as expected, is `None`; nothing is guessed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A raspberry's firmware tells of its supply here.
const THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";
/// Heat of anything that holds a processor; a sensor that says otherwise is broken.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -50.0..=200.0;

#[derive(Debug, Clone)]
pub(super) struct Sensors {
    root: PathBuf,
}

/// Ticks of all processors since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTicks {
    pub busy: u64,
    pub all: u64,
}

/// What a raspberry's firmware does about supply and heat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Throttling {
    pub under_voltage: bool,
    pub frequency_capped: bool,
    pub throttled: bool,
    pub soft_temperature_limit: bool,
    /// Any of it, at any time since the board started.
    pub since_boot: bool,
}

impl Sensors {
    pub fn of(root: &Path) -> Sensors {
        Sensors { root: root.to_owned() }
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    pub fn cpu(&self) -> Option<CpuTicks> {
        let stat = self.text("proc/stat")?;
        let mut words = stat.lines().next()?.split_whitespace();
        if words.next() != Some("cpu") {
            return None;
        }
        // user nice system idle iowait irq softirq steal; guests are in user already
        let ticks = words.take(8).map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        let (idle, waiting) = (ticks.get(3)?, ticks.get(4).unwrap_or(&0));
        let all = ticks.iter().sum::<u64>();
        Some(CpuTicks { busy: all - idle - waiting, all })
    }

    /// Of the last minute.
    pub fn load(&self) -> Option<f64> {
        self.text("proc/loadavg")?.split_whitespace().next()?.parse().ok()
    }

    /// Of the hottest zone, in degrees Celsius.
    pub fn temperature(&self) -> Option<f64> {
        let zones = fs::read_dir(self.root.join("sys/class/thermal")).ok()?.filter_map(Result::ok);
        let zones = zones.filter(|zone| zone.file_name().to_string_lossy().starts_with("thermal_zone"));
        let degrees = |zone: fs::DirEntry| {
            let text = fs::read_to_string(zone.path().join("temp")).ok()?;
            Some(text.trim().parse::<f64>().ok()? / 1000.0).filter(|degrees| PLAUSIBLE.contains(degrees))
        };
        zones.filter_map(degrees).reduce(f64::max)
    }

    pub fn throttling(&self) -> Option<Throttling> {
        let text = self.text(THROTTLED)?;
        let bits = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?;
        let bit = |n: u32| bits & (1 << n) != 0;
        Some(Throttling {
            under_voltage: bit(0),
            frequency_capped: bit(1),
            throttled: bit(2),
            soft_temperature_limit: bit(3),
            since_boot: bits >> 16 != 0,
        })
    }

    /// Whether the wall clock has been set by a server; told by systemd-timesyncd alone.
    pub fn time_synchronized(&self) -> Option<bool> {
        let folder = self.root.join("run/systemd/timesync");
        folder.is_dir().then(|| folder.join("synchronized").exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(files: &[(&str, &str)]) -> (tempfile::TempDir, Sensors) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sensors = Sensors::of(dir.path());
        (dir, sensors)
    }

    #[test]
    fn a_board_that_tells_everything() {
        let (_dir, sensors) = board(&[
            ("proc/stat", "cpu  100 5 20 800 40 1 4 0 7 0\ncpu0 50 2 10 400 20 0 2 0 3 0\n"),
            ("proc/loadavg", "1.25 0.50 0.10 2/300 4711\n"),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/thermal_zone1/temp", "61250\n"),
            // unplugged
            ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "1\n"),
            (THROTTLED, "50005\n"),
            ("run/systemd/timesync/synchronized", ""),
        ]);
        assert_eq!(sensors.cpu(), Some(CpuTicks { busy: 130, all: 970 }));
        assert_eq!((sensors.load(), sensors.temperature()), (Some(1.25), Some(61.25)));
        let throttling = sensors.throttling().unwrap();
        assert!(throttling.under_voltage && throttling.throttled && throttling.since_boot);
        assert!(!throttling.frequency_capped && !throttling.soft_temperature_limit);
        assert_eq!(sensors.time_synchronized(), Some(true));
    }

    #[test]
    fn what_is_not_there_is_not_invented() {
        let (dir, sensors) = board(&[
            ("proc/stat", "intr 7\n"),
            ("proc/loadavg", "much\n"),
            ("sys/class/thermal/thermal_zone0/temp", "hot\n"),
            (THROTTLED, "?\n"),
            ("run/systemd/timesync/clock", ""),
        ]);
        assert_eq!(
            (sensors.cpu(), sensors.load(), sensors.temperature(), sensors.throttling()),
            (None, None, None, None)
        );
        assert_eq!(sensors.time_synchronized(), Some(false));
        let nowhere = Sensors::of(&dir.path().join("nowhere"));
        assert_eq!((nowhere.cpu(), nowhere.temperature(), nowhere.time_synchronized()), (None, None, None));
    }
}
