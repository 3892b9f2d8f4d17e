//! What can be saved of a transport stream whose writer died.
//!
//! Owns: finding the last whole packet, a keyframe and the length in time. Must not touch: where the file lies.
//! Law: what it calls usable begins with whole 188-byte packets and can be decoded from some frame on.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use crate::container::packet::{PACKET, Packet, PesHead, clock_difference};

/// Stuffing; its counter says nothing.
const NULL_PID: u16 = 0x1fff;
/// Of a picture, enough to find its parameter sets.
const FIRST_BYTES: usize = 4096;
/// Length of a lone frame, when there is no second one to measure by.
const LONE_FRAME: Duration = Duration::from_millis(40);

/// The usable part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usable {
    /// Whole packets from the beginning; what follows is torn.
    pub bytes: u64,
    pub duration: Duration,
}

/// Presentation times of one elementary stream.
#[derive(Debug, Clone, Copy)]
struct Times {
    video: bool,
    first: i64,
    /// Relative to `first`.
    earliest: i64,
    latest: i64,
    count: i64,
    /// Bytes of the PES packet at hand that are still to come, where it states its length.
    missing: Option<usize>,
    /// One of its PES packets is all there, as far as can be told.
    whole: bool,
}

impl Times {
    fn came(&mut self, bytes: usize) {
        self.missing = self.missing.map(|missing| missing.saturating_sub(bytes));
        // one that does not say how long it is, as pictures need not, is over when the next one begins
        self.whole |= self.missing == Some(0);
    }
}

/// What whole packets have told.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    keyframe: bool,
    streams: BTreeMap<u16, Times>,
}

impl Seen {
    fn packet(&mut self, packet: Packet<'_>) {
        self.bytes += PACKET as u64;
        let (pid, came) = (packet.pid(), packet.payload().map_or(0, <[u8]>::len));
        let Some((video, pts, head)) = pes_start(packet) else {
            if let Some(times) = self.streams.get_mut(&pid) {
                times.came(came);
            }
            return;
        };
        self.keyframe |= video && packet.random_access();
        let begun = Times { video, first: pts, earliest: 0, latest: 0, count: 0, missing: None, whole: false };
        let times = self.streams.entry(pid).or_insert(begun);
        // what came before it has ended
        times.whole |= times.count > 0;
        times.missing = head.length.map(|length| length + 6);
        times.came(came);
        let after_first = clock_difference(pts, times.first);
        times.earliest = times.earliest.min(after_first);
        times.latest = times.latest.max(after_first);
        times.count += 1;
    }
}

/// Reads a transport stream to its end or to the first byte that is none. `None`: it holds nothing that plays: no
/// keyframe where `wants_picture`, no frame at all otherwise, or the only frame is torn.
pub fn examine(from: impl Read, wants_picture: bool) -> io::Result<Option<Usable>> {
    usable(from, wants_picture, false)
}

/// `closed`: its writer ended it, and with it the frames at hand.
fn usable(mut from: impl Read, wants_picture: bool, closed: bool) -> io::Result<Option<Usable>> {
    let (mut packet, mut held) = ([0; PACKET], None);
    let mut seen = Seen::default();
    loop {
        if !read_whole(&mut from, &mut packet)? {
            held.iter().filter_map(Packet::of).for_each(|packet| seen.packet(packet));
            if closed {
                seen.streams.values_mut().for_each(|times| times.whole |= times.missing.is_none());
            }
            break;
        }
        if Packet::of(&packet).is_none() {
            // no end of a file but a hole in it: the hole may have begun within the packet before, which does not count
            break;
        }
        held.replace(packet).iter().filter_map(Packet::of).for_each(|packet| seen.packet(packet));
    }
    let Seen { bytes, keyframe, streams } = seen;
    let measured = streams.values().find(|times| times.video).or(streams.values().next());
    // sound that is whole does not make a torn picture play
    let plays =
        (keyframe || !wants_picture) && streams.values().any(|times| times.whole && (times.video || !wants_picture));
    let Some(times) = measured.filter(|_| plays) else { return Ok(None) };
    let span = u64::try_from(times.latest - times.earliest).unwrap_or(0);
    // the last frame lasts as long as the others did
    let span = Duration::from_micros(span * 100 / 9);
    let frame = if times.count > 1 { span / u32::try_from(times.count - 1).unwrap_or(u32::MAX) } else { LONE_FRAME };
    Ok(Some(Usable { bytes, duration: span + frame }))
}

/// What a whole file says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checked {
    pub usable: Option<Usable>,
    /// The first bytes of the first picture, from its PES header on.
    pub first_picture: Vec<u8>,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// Reads a file that was closed: whole packets, tables first, no packet missing, pictures from a keyframe on.
pub fn check(from: impl Read, wants_picture: bool) -> io::Result<Checked> {
    let mut watch = Watch { from, checked: Checked::default(), at: 0, packet: Vec::new(), tables: Tables::default() };
    let usable = usable(&mut watch, wants_picture, true)?;
    // what examine left unread, behind a hole
    io::copy(&mut watch, &mut io::sink())?;
    let Watch { mut checked, at, packet, tables, .. } = watch;
    if !packet.is_empty() {
        checked.faults.push(format!("{} bytes behind its last whole packet", packet.len()));
    }
    if at == 0 {
        checked.faults.push("it is empty".into());
    } else if !tables.programs {
        checked.faults.push("it has no PMT".into());
    }
    if wants_picture && !tables.pictures {
        checked.faults.push("it has no picture".into());
    } else if usable.is_none() {
        checked.faults.push("nothing in it plays".into());
    }
    Ok(Checked { usable, ..checked })
}

/// Sees every packet on its way to [`examine`].
struct Watch<R> {
    from: R,
    checked: Checked,
    at: u64,
    packet: Vec<u8>,
    tables: Tables,
}

#[derive(Default)]
struct Tables {
    map: Option<u16>,
    programs: bool,
    pictures: bool,
    picture_pid: Option<u16>,
    counters: BTreeMap<u16, u8>,
}

impl<R: Read> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        for byte in &buffer[..n] {
            self.packet.push(*byte);
            if self.packet.len() == PACKET {
                let packet: [u8; PACKET] = std::mem::take(&mut self.packet).try_into().expect("as long as a packet");
                match Packet::of(&packet) {
                    Some(packet) => self.seen(packet),
                    None => self.fault("no packet begins here"),
                }
                self.at += PACKET as u64;
            }
        }
        Ok(n)
    }
}

impl<R> Watch<R> {
    fn fault(&mut self, what: &str) {
        // the first ones tell where it begins; a torn file has thousands
        if self.checked.faults.len() < 3 {
            self.checked.faults.push(format!("byte {}: {what}", self.at));
        }
    }

    fn seen(&mut self, packet: Packet<'_>) {
        let (pid, counter) = (packet.pid(), packet.counter());
        if pid != NULL_PID && packet.payload().is_some() {
            let before = self.tables.counters.insert(pid, counter);
            if before.is_some_and(|before| counter != (before + 1) & 0x0f) {
                self.fault(&format!("packets of PID {pid} are missing"));
            }
        }
        match pid {
            0 if packet.begins() => self.tables.map = packet.first_map(),
            _ if self.at == 0 => self.fault("it does not begin with its tables"),
            _ if Some(pid) == self.tables.map => self.tables.programs = true,
            _ => self.picture(pid, packet),
        }
    }

    fn picture(&mut self, pid: u16, packet: Packet<'_>) {
        let begins = pes_start(packet).is_some_and(|(video, ..)| video);
        if begins {
            if !self.tables.pictures && !packet.random_access() {
                self.fault("its first picture is no keyframe");
            }
            if self.tables.pictures && self.tables.picture_pid == Some(pid) {
                // the second picture: the first one is over
                self.tables.picture_pid = None;
            } else if !self.tables.pictures {
                self.tables.picture_pid = Some(pid);
            }
            self.tables.pictures = true;
        }
        if self.tables.picture_pid == Some(pid) && self.checked.first_picture.len() < FIRST_BYTES {
            self.checked.first_picture.extend_from_slice(packet.payload().unwrap_or_default());
        }
    }
}

/// `false` at the end of the file, also when the last packet is not whole.
fn read_whole(from: &mut impl Read, packet: &mut [u8; PACKET]) -> io::Result<bool> {
    match from.read_exact(packet) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Of sound or of a picture, the head of the PES packet that begins here, and when that is played.
fn pes_start(packet: Packet<'_>) -> Option<(bool, i64, PesHead)> {
    let head = packet.pes()?;
    let video = match head.stream_id {
        0xe0..=0xef => true,
        // sound, and private streams, which hold Opus
        0xc0..=0xdf | 0xbd => false,
        _ => return None,
    };
    Some((video, head.pts?, head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::container::packet::{SYNC, WRAP};

    fn packet(pid: u16, stream_id: u8, pts: i64, keyframe: bool) -> Vec<u8> {
        let mut packet = vec![0xff; PACKET];
        packet[..6].copy_from_slice(&[
            SYNC,
            0x40 | (pid >> 8) as u8,
            pid as u8,
            0x30,
            1,
            if keyframe { 0x40 } else { 0 },
        ]);
        packet[6..15].copy_from_slice(&[0, 0, 1, stream_id, 0, 0, 0x80, 0x80, 5]);
        packet[15] = 0x21 | ((pts >> 29) & 0x0e) as u8;
        packet[16] = (pts >> 22) as u8;
        packet[17] = (pts >> 14) as u8 | 1;
        packet[18] = (pts >> 7) as u8;
        packet[19] = (pts << 1) as u8 | 1;
        packet
    }

    #[test]
    fn a_torn_end_is_cut_and_the_length_counts_the_last_frame() {
        let mut file: Vec<u8> = (0..3).flat_map(|n| packet(64, 0xe0, 900_000 + n * 3_000, n == 0)).collect();
        let whole = file.len() as u64;
        file.extend_from_slice(&[SYNC; 100]);
        let usable = examine(&file[..], true).unwrap().unwrap();
        assert_eq!(usable.bytes, whole);
        assert_eq!(usable.duration.as_millis(), 99);

        // zeros where the disk had not yet written
        file.truncate(whole as usize);
        file.extend_from_slice(&[SYNC; PACKET]);
        file.extend_from_slice(&[0; 4096]);
        assert_eq!(examine(&file[..], true).unwrap(), Some(usable));
    }

    #[test]
    fn a_lone_frame_that_is_torn_does_not_play() {
        // a keyframe of three packets, by the length that it states
        let mut file = packet(64, 0xe0, 900_000, true);
        let length = (PACKET - 6 + 2 * (PACKET - 4) - 6) as u16;
        file[10..12].copy_from_slice(&length.to_be_bytes());
        for counter in [1, 2] {
            assert_eq!(examine(&file[..], true).unwrap(), None, "{} bytes", file.len());
            let mut next = vec![0xff; PACKET];
            next[..4].copy_from_slice(&[SYNC, 0, 64, 0x10 | counter]);
            file.extend(next);
        }
        assert_eq!(examine(&file[..], true).unwrap().unwrap().bytes, file.len() as u64);
        // nor does sound that is all there help it
        let sound =
            [&file[..2 * PACKET], &packet(65, 0xc0, 900_000, false), &packet(65, 0xc0, 902_000, false)].concat();
        assert_eq!(examine(&sound[..], true).unwrap(), None);
        assert!(examine(&sound[..], false).unwrap().is_some());
        // a hole may have begun within its last packet, and then it is not all there
        let torn = [&file[..], &[0; PACKET]].concat();
        assert_eq!(examine(&torn[..], true).unwrap(), None);
        // what begins behind it shows that it has ended
        file.truncate(2 * PACKET);
        file.extend(packet(64, 0xe0, 903_000, false));
        assert!(examine(&file[..], true).unwrap().is_some());
    }

    #[test]
    fn the_clock_may_turn_over() {
        let file: Vec<u8> = (0..4).flat_map(|n| packet(64, 0xe0, (WRAP - 3_000 + n * 3_000) % WRAP, n == 0)).collect();
        assert_eq!(examine(&file[..], true).unwrap().unwrap().duration.as_millis(), 133);
    }

    #[test]
    fn a_picture_needs_a_keyframe_and_sound_does_not() {
        let video: Vec<u8> = (0..3).flat_map(|n| packet(64, 0xe0, n * 3_000, false)).collect();
        assert_eq!(examine(&video[..], true).unwrap(), None);
        let sound: Vec<u8> = (0..3).flat_map(|n| packet(65, 0xc0, n * 1_920, false)).collect();
        assert_eq!(examine(&sound[..], false).unwrap().unwrap().duration.as_millis(), 63);
        assert_eq!(examine(&sound[..], true).unwrap(), None);
        assert_eq!(examine(&[][..], false).unwrap(), None);
        // a picture that does not say how long it is may be torn, unless another one follows
        let pictures = [packet(64, 0xe0, 0, true), packet(64, 0xe0, 3_600, false)].concat();
        assert_eq!(examine(&pictures[..PACKET], true).unwrap(), None);
        assert!(examine(&pictures[..], true).unwrap().is_some());
        // or the file was closed behind it
        assert!(usable(&pictures[..PACKET], true, true).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000), pid in 0..8191u16) {
            let mut file = [packet(pid, 0xe0, 0, true), packet(pid, 0xe0, 3_600, false)].concat();
            file.extend(bytes.chunks(PACKET - 1).flat_map(|chunk| [&[SYNC], chunk].concat()));
            let usable = examine(&file[..], true).unwrap().unwrap();
            prop_assert_eq!(usable.bytes % PACKET as u64, 0);
        }
    }
}
