//! Transport streams read back: whole pictures and single frames of sound, with their times.
//!
//! Owns: how packets make units, in a file of one programme. Must not touch: where files lie, what becomes of the media.
//! Law: whatever stands in a file, nothing panics and memory is bounded; what is given is whole, byte for byte, and what is
//! torn breaks nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::ops::Range;

use super::adts::{FRAME, Frame, SoundForm};
use super::packet::{PACKET, Packet, PesHead};
pub use super::packet::{WRAP, clock_difference};
use super::{TYPE_ADTS, TYPE_H264};

/// No picture has more bytes; a file that says so is none.
const MOST_BYTES: usize = 32 << 20;

/// Times are ticks of 90 kHz that do not turn over: they go on from the first one of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit<'a> {
    Picture(Picture<'a>),
    Sound(Sound<'a>),
}

/// What the stream says is one access unit of H.264, as a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture<'a> {
    pub pts: i64,
    pub dts: i64,
    /// The stream says that a decoder can begin here.
    pub random_access: bool,
    pub bytes: &'a [u8],
}

/// One AAC frame with its ADTS header of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound<'a> {
    pub pts: i64,
    pub form: SoundForm,
    pub header: usize,
    pub bytes: &'a [u8],
}

pub struct Demux<R> {
    from: R,
    map: Option<u16>,
    streams: BTreeMap<u16, Stream>,
    /// What was found and not given yet; no packet is read before all of it is.
    ready: VecDeque<Ready>,
    /// A stamp that others are near to.
    near: Option<i64>,
    packets: u64,
    over: bool,
    fault: Option<String>,
    unknown: Option<u8>,
}

struct Stream {
    picture: bool,
    /// The PES that is being read.
    pes: Vec<u8>,
    random_access: bool,
    counter: Option<u8>,
    /// What units are given from: of pictures the last PES, of sound what has not made a frame yet as well.
    media: Vec<u8>,
    /// What of it was given.
    given: usize,
    /// When sound's last PES is heard, and how many frames are heard between that and the next one.
    heard: i64,
    since: i64,
}

/// A unit in the media of a stream.
struct Ready {
    pid: u16,
    at: Range<usize>,
    pts: i64,
    what: What,
}

enum What {
    Picture { dts: i64, random_access: bool },
    Sound { form: SoundForm, header: usize },
}

impl<R: Read> Demux<R> {
    pub fn new(from: R) -> Demux<R> {
        Demux {
            from,
            map: None,
            streams: BTreeMap::new(),
            ready: VecDeque::new(),
            near: None,
            packets: 0,
            over: false,
            fault: None,
            unknown: None,
        }
    }

    /// What was found wrong so far; media before it is good.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The type of a stream that it holds besides, and that is not known here.
    pub fn unknown(&self) -> Option<u8> {
        self.unknown
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        self.packets * PACKET as u64
    }

    /// The next one in the order of the file; `None` at its end, or where it is none any more.
    pub fn next_unit(&mut self) -> io::Result<Option<Unit<'_>>> {
        let Ready { pid, at, pts, what } = loop {
            if let Some(ready) = self.ready.pop_front() {
                break ready;
            }
            if self.over {
                return Ok(None);
            }
            self.read()?;
        };
        let bytes = self.streams.get(&pid).and_then(|stream| stream.media.get(at)).unwrap_or_default();
        Ok(Some(match what {
            What::Picture { dts, random_access } => Unit::Picture(Picture { pts, dts, random_access, bytes }),
            What::Sound { form, header } => Unit::Sound(Sound { pts, form, header, bytes }),
        }))
    }

    fn read(&mut self) -> io::Result<()> {
        let mut packet = [0; PACKET];
        let mut there = 0;
        while there < PACKET {
            match self.from.read(&mut packet[there..]) {
                Ok(0) => break,
                Ok(n) => there += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let whole = Packet::of(&packet).filter(|_| there == PACKET);
        let torn = there > 0 && whole.is_none();
        if torn {
            let at = self.bytes();
            self.fault =
                Some(if at == 0 { "it is no transport stream".into() } else { format!("it is torn at byte {at}") });
        }
        let Some(packet) = whole else {
            self.over = true;
            let pids: Vec<u16> = self.streams.keys().copied().collect();
            for pid in pids {
                self.complete(pid, torn);
            }
            if self.packets == 0 && self.fault.is_none() {
                self.fault = Some("it is empty".into());
            }
            return Ok(());
        };
        self.packets += 1;
        self.packet(packet);
        Ok(())
    }

    fn packet(&mut self, packet: Packet<'_>) {
        let Some(payload) = packet.payload() else { return };
        let (pid, begins) = (packet.pid(), packet.begins());
        if pid == 0 {
            self.map = self.map.or_else(|| packet.first_map());
        } else if Some(pid) == self.map {
            if let Some(body) = packet.section(0x02) {
                self.programme(body);
            }
        } else if let Some(stream) = self.streams.get_mut(&pid) {
            let counter = packet.counter();
            let missing = stream.counter.is_some_and(|before| counter != (before + 1) & 0x0f && counter != before);
            stream.counter = Some(counter);
            if missing && self.fault.is_none() {
                self.fault = Some(format!("packets are missing before byte {}", (self.packets - 1) * PACKET as u64));
            }
            if begins || missing {
                // what goes on behind a hole is not what was begun before it
                self.complete(pid, !begins);
            }
            let stream = self.streams.get_mut(&pid).expect("looked at above");
            if missing && !stream.picture {
                // nor is a frame
                stream.broken();
            }
            if begins {
                stream.random_access = packet.random_access();
            } else if stream.pes.is_empty() {
                // the beginning of it was not there
                return;
            }
            if stream.pes.len() + payload.len() <= MOST_BYTES {
                stream.pes.extend_from_slice(payload);
            }
        }
    }

    fn programme(&mut self, body: &[u8]) {
        let Some(info) = body.get(2..4) else { return };
        let mut at = 4 + (usize::from(u16::from_be_bytes([info[0], info[1]])) & 0x0fff);
        while let Some([kind, high, low, more, less]) = body.get(at..at + 5) {
            let pid = u16::from_be_bytes([*high, *low]) & 0x1fff;
            at += 5 + (usize::from(u16::from_be_bytes([*more, *less])) & 0x0fff);
            let picture = *kind == TYPE_H264;
            if !picture && *kind != TYPE_ADTS {
                self.unknown = Some(*kind);
                continue;
            }
            // the first of each kind
            if self.streams.values().all(|stream| stream.picture != picture) {
                self.streams.insert(pid, Stream::new(picture));
            }
        }
    }

    /// Makes units of what a stream's PES holds. `torn`: its end is missing.
    fn complete(&mut self, pid: u16, torn: bool) {
        let Some(stream) = self.streams.get_mut(&pid) else { return };
        let Some(head) = PesHead::read(&stream.pes) else {
            stream.pes.clear();
            return;
        };
        let bytes = stream.pes.len();
        let whole = head.length.is_none_or(|length| bytes >= 6 + length);
        let end = head.length.map_or(bytes, |length| bytes.min(6 + length));
        let body = head.body.min(end)..end;
        let pts = head.pts.map(|pts| unturned(pts, self.near.unwrap_or(pts)));
        self.near = pts.or(self.near);
        if stream.picture {
            std::mem::swap(&mut stream.pes, &mut stream.media);
            stream.pes.clear();
            // an end that is torn off, or a hole in it, would be shown as rubbish
            let Some(pts) = pts.filter(|_| whole && !torn && !body.is_empty()) else { return };
            let dts = head.dts.map_or(pts, |dts| unturned(dts, pts));
            let what = What::Picture { dts, random_access: stream.random_access };
            self.ready.push_back(Ready { pid, at: body, pts, what });
            return;
        }
        self.ready.extend(stream.frames(pid, body, pts));
    }
}

impl Stream {
    fn new(picture: bool) -> Stream {
        Stream {
            picture,
            pes: Vec::new(),
            random_access: false,
            counter: None,
            media: Vec::new(),
            given: 0,
            heard: 0,
            since: 0,
        }
    }

    /// The frame that was begun has no end. What is ready stays where it is.
    fn broken(&mut self) {
        self.given = self.media.len();
    }

    /// The frames that end in this PES of sound.
    fn frames(&mut self, pid: u16, body: Range<usize>, pts: Option<i64>) -> Vec<Ready> {
        self.media.drain(..self.given);
        let before = self.media.len();
        self.media.extend_from_slice(&self.pes[body]);
        self.pes.clear();
        // of the first frame that begins here
        let mut stamp = pts;
        let mut ready = Vec::new();
        let mut at = 0;
        loop {
            if at >= before
                && let Some(pts) = stamp.take()
            {
                (self.heard, self.since) = (pts, 0);
            }
            match Frame::read(&self.media[at..]) {
                Frame::Whole(adts) => {
                    let pts = self.heard + self.since * FRAME * 90_000 / i64::from(adts.form.rate);
                    let what = What::Sound { form: adts.form, header: adts.header };
                    ready.push(Ready { pid, at: at..at + adts.length, pts, what });
                    self.since += 1;
                    at += adts.length;
                }
                Frame::None => at += 1,
                Frame::Short => break,
            }
        }
        self.given = at;
        ready
    }
}

/// The stamp, as often around as brings it next to `near`.
fn unturned(stamp: i64, near: i64) -> i64 {
    near + clock_difference(stamp, near)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::container::adts::header;
    use crate::container::h264;
    use crate::container::ts_out::{Streams, TsWriter};

    const FORM: SoundForm = SoundForm { rate: 48_000, channels: 1, object: 2 };

    fn adts(payload: &[u8]) -> Vec<u8> {
        [&header(FORM, payload.len()), payload].concat()
    }

    /// Of each unit: its kind, its time, whether one can begin with it; and its bytes.
    type Told = (char, i64, bool);

    fn read(bytes: &[u8]) -> (Vec<(Told, Vec<u8>)>, Option<String>) {
        let mut demux = Demux::new(bytes);
        let mut units = Vec::new();
        while let Some(unit) = demux.next_unit().expect("memory can be read") {
            units.push(match unit {
                Unit::Picture(picture) => (('p', picture.pts, picture.random_access), picture.bytes.to_vec()),
                Unit::Sound(sound) => {
                    assert_eq!((sound.form, sound.header), (FORM, 7));
                    (('s', sound.pts, true), sound.bytes.to_vec())
                }
            });
        }
        (units, demux.fault().map(str::to_owned))
    }

    fn told(bytes: &[u8]) -> Vec<Told> {
        read(bytes).0.into_iter().map(|(told, _)| told).collect()
    }

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: true, sound: true }, false, &mut out);
        ts.picture(Duration::from_secs(10), true, &[0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x65, 9, 9], &mut out);
        ts.sound(Duration::from_secs(10), &[adts(&[1; 300]), adts(&[2; 20])].concat(), &mut out);
        ts.picture(Duration::from_millis(10_040), false, &[0, 0, 0, 1, 0x41, 8], &mut out);
        out
    }

    #[test]
    fn what_was_written_reads_back() {
        let (mut units, fault) = read(&file());
        assert_eq!(fault, None);
        units.sort();
        let told: Vec<Told> = units.iter().map(|(told, _)| *told).collect();
        assert_eq!(told, [('p', 900_000, true), ('p', 903_600, false), ('s', 900_000, true), ('s', 901_920, true)]);
        let nals: Vec<&[u8]> = h264::units(&units[0].1).collect();
        assert_eq!(nals, [&[9, 0xf0][..], &[0x67, 1, 2], &[0x65, 9, 9]]);
        assert_eq!([&units[2].1, &units[3].1], [&adts(&[1; 300]), &adts(&[2; 20])]);
    }

    #[test]
    fn a_torn_file_gives_what_is_whole() {
        let mut torn = file();
        torn.extend_from_slice(&file()[..90]);
        let (units, fault) = read(&torn);
        // whether the second picture goes on in what is missing cannot be known
        assert_eq!(units.iter().filter(|(told, _)| told.0 == 'p').count(), 1);
        assert_eq!(units.iter().filter(|(told, _)| told.0 == 's').count(), 2);
        assert!(fault.is_some_and(|fault| fault.starts_with("it is torn at byte")));
        assert_eq!(read(b"").1.as_deref(), Some("it is empty"));
        assert_eq!(read(&[7; 1000]).1.as_deref(), Some("it is no transport stream"));
    }

    #[test]
    fn a_hole_costs_what_it_is_in() {
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: true, sound: true }, false, &mut out);
        let picture = [&[0, 0, 0, 1, 0x65][..], &[7; 500]].concat();
        let mut holes = Vec::new();
        for n in 0..3 {
            holes.push(out.len() / PACKET + 1);
            ts.picture(Duration::from_millis(n * 40), true, &picture, &mut out);
            holes.push(out.len() / PACKET + 1);
            ts.sound(Duration::from_millis(n * 40), &[adts(&[1; 100]), adts(&[2; 300])].concat(), &mut out);
        }
        // the second packet of the second picture and of its sound
        let packets = out.chunks(PACKET).enumerate();
        let left: Vec<&[u8]> = packets.filter(|(n, _)| !holes[2..4].contains(n)).map(|(_, packet)| packet).collect();
        let (units, fault) = read(&left.concat());
        assert!(fault.is_some_and(|fault| fault.starts_with("packets are missing")));
        let mut told: Vec<(char, i64)> = units.iter().map(|(told, _)| (told.0, told.1)).collect();
        told.sort_unstable();
        // of the sound, the frame before the hole is whole
        assert_eq!(
            told,
            [('p', 0), ('p', 7200), ('s', 0), ('s', 1920), ('s', 3600), ('s', 7200), ('s', 9120)],
            "one picture and one frame"
        );
        let whole = |(told, bytes): &(Told, Vec<u8>)| match told.0 {
            'p' => bytes.ends_with(&picture),
            _ => *bytes == adts(&[1; 100]) || *bytes == adts(&[2; 300]),
        };
        assert!(units.iter().all(whole), "byte for byte");
    }

    #[test]
    fn frames_may_begin_in_one_pes_and_end_in_the_next() {
        let frames = [adts(&[1; 100]), adts(&[2; 100]), adts(&[3; 100])].concat();
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: false, sound: true }, false, &mut out);
        ts.sound(Duration::from_secs(1), &frames[..150], &mut out);
        ts.sound(Duration::from_millis(1043), &frames[150..], &mut out);
        // the second frame goes on from the first; the third is the first that begins in the second PES
        assert_eq!(told(&out), [('s', 90_000, true), ('s', 91_920, true), ('s', 93_870, true)]);
    }

    #[test]
    fn stamps_go_on_where_they_turn_over() {
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: false, sound: true }, false, &mut out);
        let near = |ticks: i64| Duration::from_micros(ticks as u64 * 100 / 9 + 1);
        ts.sound(near(WRAP - 900), &adts(&[1; 30]), &mut out);
        ts.sound(near(WRAP + 1020), &adts(&[1; 30]), &mut out);
        assert_eq!(told(&out), [('s', WRAP - 900, true), ('s', WRAP + 1020, true)]);
        assert_eq!((clock_difference(10, WRAP - 10), clock_difference(WRAP - 10, 10)), (20, -20));
    }

    proptest! {
        #[test]
        fn strangers_files_never_panic(holes in prop::collection::vec((0usize..2000, any::<u8>()), 0..40), cut in 0usize..2000) {
            let mut bytes = file();
            for (at, byte) in holes {
                let n = bytes.len();
                bytes[at % n] = byte;
            }
            bytes.truncate(cut.max(188));
            let mut demux = Demux::new(&bytes[..]);
            while let Some(unit) = demux.next_unit().expect("memory can be read") {
                let bytes = match unit {
                    Unit::Picture(picture) => picture.bytes,
                    Unit::Sound(sound) => &sound.bytes[sound.header..],
                };
                prop_assert!(!bytes.is_empty());
            }
        }
    }
}
