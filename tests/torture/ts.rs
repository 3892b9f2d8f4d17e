//! A transport stream as the checker reads it, apart from the box's own reader.
//!
//! Sources: ISO/IEC 13818-1 §2.4.3.2 (packet), §2.4.3.6 (PES header).

use std::collections::BTreeMap;

/// What a stream is made of.
#[derive(Debug, Default)]
pub struct Ts {
    /// Whole packets, each of which begins as one, tables first.
    pub whole: bool,
    /// Of pictures and of sounds: the times, in 1/90000 s, as they follow each other.
    pictures: Vec<i64>,
    sounds: BTreeMap<u16, Vec<i64>>,
    keyframe: bool,
    /// Of the PES packet at hand of each stream: bytes that are still to come; `None` where it does not say.
    missing: BTreeMap<u16, Option<usize>>,
    /// Some PES packet is all there, of any stream and of the pictures.
    unit: bool,
    picture: bool,
    /// Of the pictures.
    picture_pid: Option<u16>,
}

impl Ts {
    pub fn read(bytes: &[u8]) -> Ts {
        let mut ts = Ts { whole: !bytes.is_empty() && bytes.len().is_multiple_of(188), ..Ts::default() };
        for (at, packet) in bytes.chunks_exact(188).enumerate() {
            let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
            ts.whole &= packet[0] == 0x47 && (at > 0 || pid == 0);
            if packet[0] != 0x47 || packet[3] & 0x10 == 0 {
                continue;
            }
            let adaptation = if packet[3] & 0x20 != 0 { 1 + usize::from(packet[4]) } else { 0 };
            if packet[1] & 0x40 == 0 {
                ts.came(pid, 184usize.saturating_sub(adaptation));
                continue;
            }
            let random_access = adaptation > 1 && packet[5] & 0x40 != 0;
            let Some(pes) = packet.get(4 + adaptation..).filter(|pes| pes.len() >= 14 && pes.starts_with(&[0, 0, 1]))
            else {
                continue;
            };
            if pes[7] & 0x80 == 0 {
                continue;
            }
            let byte = |n: usize| i64::from(pes[n]);
            let pts = (byte(9) >> 1 & 7) << 30 | byte(10) << 22 | (byte(11) >> 1) << 15 | byte(12) << 7 | byte(13) >> 1;
            let length = usize::from(u16::from_be_bytes([pes[4], pes[5]]));
            if (0xe0..=0xef).contains(&pes[3]) {
                ts.picture_pid = Some(pid);
            }
            if ts.missing.insert(pid, (length > 0).then_some(length + 6)).is_some() {
                ts.is_whole(pid);
            }
            ts.came(pid, pes.len());
            match pes[3] {
                0xe0..=0xef => {
                    ts.keyframe |= random_access;
                    ts.pictures.push(pts);
                }
                0xc0..=0xdf => ts.sounds.entry(pid).or_default().push(pts),
                _ => {}
            }
        }
        ts
    }

    fn came(&mut self, pid: u16, bytes: usize) {
        if let Some(missing) = self.missing.get_mut(&pid) {
            *missing = missing.map(|missing| missing.saturating_sub(bytes));
            if *missing == Some(0) {
                self.is_whole(pid);
            }
        }
    }

    fn is_whole(&mut self, pid: u16) {
        self.unit = true;
        self.picture |= self.picture_pid == Some(pid);
    }

    /// Something of it can be shown or heard.
    pub fn plays(&self, needs_picture: bool) -> bool {
        match needs_picture {
            true => self.keyframe && self.picture,
            false => self.unit && (self.keyframe || !self.sounds.is_empty()),
        }
    }

    /// The same of a file that was closed, and its last frame with it.
    pub fn plays_to_its_end(&self) -> bool {
        let ended = self.unit || self.missing.values().any(Option::is_none);
        ended && (self.keyframe || !self.sounds.is_empty())
    }

    /// From the first time to the last, the last frame's own length counted in; of the pictures where there are any.
    pub fn span_ms(&self) -> i64 {
        let times = Some(&self.pictures).filter(|all| !all.is_empty()).or(self.sounds.values().next());
        let Some((first, rest)) = times.and_then(|all| all.split_first()) else { return 0 };
        let (mut low, mut high) = (0, 0);
        for pts in rest {
            let after = (pts - first + (1 << 32)).rem_euclid(1 << 33) - (1 << 32);
            (low, high) = (low.min(after), high.max(after));
        }
        let span = high - low;
        let frame = if rest.is_empty() { 0 } else { span / rest.len() as i64 };
        (span + frame) / 90
    }
}
