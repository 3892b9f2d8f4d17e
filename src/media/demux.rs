//! Transport streams read back: whole pictures and single frames of sound, with their times.
//!
//! Owns: packets, PES and ADTS of a file of one program. Must not touch: where files lie, what becomes of the media.
//! Law: whatever stands in a file, nothing panics and memory is bounded; what was given is whole.
//! Sources: ISO/IEC 13818-1 §2.4.3 (packets, PES), §2.4.4 (tables); ISO/IEC 14496-3 §1.A.2 (ADTS).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};

use crate::model::merge::SoundForm;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const TYPE_H264: u8 = 0x1b;
const TYPE_ADTS: u8 = 0x0f;
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
/// No picture has more bytes; a file that says so is none.
const MOST_BYTES: usize = 32 << 20;
/// Samples in an AAC frame.
pub(super) const FRAME: i64 = 1024;
/// Stamps count in 33 bits.
const WRAP: i64 = 1 << 33;

/// Times are ticks of 90 kHz that do not turn over: they go on from the first one of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unit {
    /// One access unit of H.264, as a byte stream.
    Picture { pts: i64, dts: i64, key: bool, bytes: Vec<u8> },
    /// One AAC frame with its ADTS header.
    Sound { pts: i64, form: SoundForm, header: usize, bytes: Vec<u8> },
}

/// What an index of ADTS says in samples per second.
pub(super) fn rate_index(rate: u32) -> Option<u8> {
    RATES.iter().position(|known| *known == rate).and_then(|index| u8::try_from(index).ok())
}

pub(super) struct Demux<R> {
    from: R,
    map: Option<u16>,
    streams: BTreeMap<u16, Stream>,
    ready: VecDeque<Unit>,
    /// A stamp that others are near to.
    near: Option<i64>,
    packets: u64,
    over: bool,
    fault: Option<String>,
    unknown: Option<u8>,
}

struct Stream {
    picture: bool,
    pes: Vec<u8>,
    random_access: bool,
    counter: Option<u8>,
    /// Sound that has not made a frame yet.
    rest: Vec<u8>,
    /// When the frame that `rest` begins is heard.
    rest_at: i64,
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
    pub fn next_unit(&mut self) -> io::Result<Option<Unit>> {
        loop {
            if let Some(unit) = self.ready.pop_front() {
                return Ok(Some(unit));
            }
            if self.over {
                return Ok(None);
            }
            self.read()?;
        }
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
        let torn = (there > 0 && there < PACKET) || (there == PACKET && packet[0] != SYNC);
        if torn {
            let at = self.bytes();
            self.fault =
                Some(if at == 0 { "it is no transport stream".into() } else { format!("it is torn at byte {at}") });
        }
        if there < PACKET || torn {
            self.over = true;
            let pids: Vec<u16> = self.streams.keys().copied().collect();
            for pid in pids {
                self.complete(pid, torn);
            }
            if self.packets == 0 && self.fault.is_none() {
                self.fault = Some("it is empty".into());
            }
            return Ok(());
        }
        self.packets += 1;
        self.packet(&packet);
        Ok(())
    }

    fn packet(&mut self, packet: &[u8; PACKET]) {
        let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
        let begins = packet[1] & 0x40 != 0;
        let adapted = packet[3] & 0x20 != 0;
        let skipped = 4 + if adapted { 1 + usize::from(packet[4]) } else { 0 };
        if packet[3] & 0x10 == 0 {
            return;
        }
        let Some(payload) = packet.get(skipped..) else { return };
        if pid == 0 {
            self.map = self.map.or_else(|| section(payload, 0x00).and_then(first_map));
        } else if Some(pid) == self.map {
            if let Some(body) = section(payload, 0x02) {
                self.programme(body);
            }
        } else if self.streams.contains_key(&pid) {
            if begins {
                self.complete(pid, false);
            }
            let stream = self.streams.get_mut(&pid).expect("looked at above");
            let counter = packet[3] & 0x0f;
            let missing = stream.counter.is_some_and(|before| counter != (before + 1) & 0x0f && counter != before);
            stream.counter = Some(counter);
            if missing && self.fault.is_none() {
                self.fault = Some(format!("packets are missing before byte {}", (self.packets - 1) * PACKET as u64));
            }
            if begins {
                stream.random_access = adapted && packet[4] > 0 && packet[5] & 0x40 != 0;
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
                let stream = Stream {
                    picture,
                    pes: Vec::new(),
                    random_access: false,
                    counter: None,
                    rest: Vec::new(),
                    rest_at: 0,
                };
                self.streams.insert(pid, stream);
            }
        }
    }

    /// Makes units of what a stream's PES holds. `torn`: its end is missing.
    fn complete(&mut self, pid: u16, torn: bool) {
        let Some(stream) = self.streams.get_mut(&pid) else { return };
        let pes = std::mem::take(&mut stream.pes);
        let Some(head) = PesHead::read(&pes) else { return };
        let whole = head.length.is_none_or(|length| pes.len() >= 6 + length);
        let end = head.length.map_or(pes.len(), |length| pes.len().min(6 + length));
        let body = pes.get(head.body..end).unwrap_or_default();
        let (pts, dts) = match (head.pts, self.near) {
            (Some(pts), near) => {
                let pts = unturned(pts, near.unwrap_or(pts));
                self.near = Some(pts);
                (Some(pts), head.dts.map_or(pts, |dts| unturned(dts, pts)))
            }
            (None, _) => (None, 0),
        };
        if stream.picture {
            // an end that is torn off, or a hole in it, would be shown as rubbish
            let Some(pts) = pts.filter(|_| whole && !torn && !body.is_empty()) else { return };
            let key = stream.random_access && has_unit(body, 7) || has_unit(body, 5);
            self.ready.push_back(Unit::Picture { pts, dts, key, bytes: body.to_vec() });
            return;
        }
        let mut new_at = pts;
        if stream.rest.is_empty() {
            stream.rest_at = new_at.take().unwrap_or(stream.rest_at);
        }
        let before = stream.rest.len();
        stream.rest.extend_from_slice(body);
        let mut at = 0;
        loop {
            if at >= before
                && let Some(pts) = new_at.take()
            {
                // the first frame that begins here
                stream.rest_at = pts;
            }
            match Adts::read(&stream.rest[at..]) {
                Frame::Whole(adts) => {
                    let bytes = stream.rest[at..at + adts.length].to_vec();
                    let form = adts.form;
                    self.ready.push_back(Unit::Sound { pts: stream.rest_at, form, header: adts.header, bytes });
                    stream.rest_at += FRAME * 90_000 / i64::from(adts.form.rate);
                    at += adts.length;
                }
                Frame::None => at += 1,
                Frame::Short => break,
            }
        }
        stream.rest.drain(..at);
    }
}

/// A table's body behind its numbers, without its check sum, where it begins in this packet.
fn section(payload: &[u8], table: u8) -> Option<&[u8]> {
    let at = 1 + usize::from(*payload.first()?);
    let head = payload.get(at..at + 3)?;
    if head[0] != table {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([head[1], head[2]])) & 0x0fff;
    // what does not fit into a packet is cut: no table of one program is longer
    let body = &payload[at + 3..payload.len().min(at + 3 + length.saturating_sub(4))];
    body.get(5..)
}

fn first_map(body: &[u8]) -> Option<u16> {
    let programs = body.chunks_exact(4).find(|entry| entry[..2] != [0, 0])?;
    Some(u16::from_be_bytes([programs[2], programs[3]]) & 0x1fff)
}

struct PesHead {
    pts: Option<i64>,
    dts: Option<i64>,
    /// Where its payload begins.
    body: usize,
    /// Bytes behind the length, where it is said.
    length: Option<usize>,
}

impl PesHead {
    fn read(pes: &[u8]) -> Option<PesHead> {
        let [0, 0, 1, _, high, low, _, flags, header, rest @ ..] = pes else { return None };
        let body = 9 + usize::from(*header);
        let stamp = |at: usize| {
            let [a, b, c, d, e, ..] = *rest.get(at..)? else { return None };
            let bits = |byte: u8, mask: u8, shift: u32| (i64::from(byte & mask) >> 1) << shift;
            Some(bits(a, 0x0e, 30) | i64::from(b) << 22 | bits(c, 0xfe, 15) | i64::from(d) << 7 | bits(e, 0xfe, 0))
        };
        let pts = if flags & 0x80 != 0 && *header >= 5 { stamp(0) } else { None };
        let dts = if flags & 0xc0 == 0xc0 && *header >= 10 { stamp(5) } else { None };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        (body <= pes.len()).then_some(PesHead { pts, dts, body, length: (length > 0).then_some(length) })
    }
}

/// The stamp, as often around as brings it next to `near`.
fn unturned(stamp: i64, near: i64) -> i64 {
    let off = (stamp - near).rem_euclid(WRAP);
    near + if off > WRAP / 2 { off - WRAP } else { off }
}

/// Whether a byte stream holds a NAL unit of this type.
fn has_unit(bytes: &[u8], kind: u8) -> bool {
    units(bytes).any(|unit| unit[0] & 0x1f == kind)
}

/// The NAL units of a byte stream, without start codes and the zeros behind them (H.264 annex B).
pub(super) fn units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = start_code(bytes, 0).map(|(_, behind)| behind);
    std::iter::from_fn(move || {
        let begin = at?;
        let next = start_code(bytes, begin);
        at = next.map(|(_, behind)| behind);
        Some(&bytes[begin..next.map_or(bytes.len(), |(code, _)| code)])
    })
    .map(|unit| &unit[..unit.len() - unit.iter().rev().take_while(|byte| **byte == 0).count()])
    .filter(|unit| !unit.is_empty())
}

/// Where the next `00 00 01` begins and ends.
fn start_code(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some([a, b, c]) = bytes.get(at..at + 3) {
        match (a, b, c) {
            (0, 0, 1) => return Some((at, at + 3)),
            (_, _, 0 | 1) => at += 1,
            // no start code can begin at any of the three
            _ => at += 3,
        }
    }
    None
}

struct Adts {
    form: SoundForm,
    header: usize,
    length: usize,
}

enum Frame {
    Whole(Adts),
    /// No frame begins here.
    None,
    /// More bytes are needed to tell.
    Short,
}

impl Adts {
    fn read(bytes: &[u8]) -> Frame {
        let [a, b, c, d, e, f, g, ..] = *bytes else { return Frame::Short };
        if a != 0xff || b & 0xf6 != 0xf0 {
            return Frame::None;
        }
        let header = if b & 1 == 0 { 9 } else { 7 };
        let length = usize::from(d & 0x03) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let channels = (c & 1) << 2 | d >> 6;
        let Some(rate) = RATES.get(usize::from(c >> 2 & 0x0f)) else { return Frame::None };
        // several blocks in a frame, and channels that are told elsewhere, are sent by nobody
        if length <= header || g & 0x03 != 0 || channels == 0 {
            return Frame::None;
        }
        if bytes.len() < length {
            return Frame::Short;
        }
        let form = SoundForm { rate: *rate, channels, object: (c >> 6) + 1 };
        Frame::Whole(Adts { form, header, length })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::media::ts::{Streams, TsWriter};

    fn adts(payload: &[u8]) -> Vec<u8> {
        let length = payload.len() + 7;
        let mut frame =
            vec![0xff, 0xf1, 0x4c, 0x40 | (length >> 11) as u8, (length >> 3) as u8, (length << 5) as u8 | 0x1f, 0xfc];
        frame.extend_from_slice(payload);
        frame
    }

    fn all(bytes: &[u8]) -> (Vec<Unit>, Option<String>) {
        let mut demux = Demux::new(bytes);
        let mut units = Vec::new();
        while let Some(unit) = demux.next_unit().expect("memory can be read") {
            units.push(unit);
        }
        (units, demux.fault().map(str::to_owned))
    }

    fn told(units: &[Unit]) -> Vec<(char, i64, bool)> {
        let one = |unit: &Unit| match unit {
            Unit::Picture { pts, key, .. } => ('p', *pts, *key),
            Unit::Sound { pts, .. } => ('s', *pts, true),
        };
        units.iter().map(one).collect()
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
        let (units, fault) = all(&file());
        assert_eq!(fault, None);
        let mut told = told(&units);
        told.sort_by_key(|unit| (unit.0, unit.1));
        assert_eq!(told, [('p', 900_000, true), ('p', 903_600, false), ('s', 900_000, true), ('s', 901_920, true)]);
        let sound = units.iter().find_map(|unit| match unit {
            Unit::Sound { form, header, bytes, .. } => Some((*form, bytes.len() - header)),
            Unit::Picture { .. } => None,
        });
        assert_eq!(sound, Some((SoundForm { rate: 48_000, channels: 1, object: 2 }, 300)));
    }

    #[test]
    fn a_torn_file_gives_what_is_whole() {
        let mut torn = file();
        torn.extend_from_slice(&file()[..90]);
        let (units, fault) = all(&torn);
        // whether the second picture goes on in what is missing cannot be known
        assert_eq!(told(&units).iter().filter(|unit| unit.0 == 'p').count(), 1);
        assert_eq!(told(&units).iter().filter(|unit| unit.0 == 's').count(), 2);
        assert!(fault.is_some_and(|fault| fault.starts_with("it is torn at byte")));
        assert_eq!(all(b"").1.as_deref(), Some("it is empty"));
        assert_eq!(all(&[7; 1000]).1.as_deref(), Some("it is no transport stream"));
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
        assert_eq!(told(&all(&out).0), [('s', 90_000, true), ('s', 91_920, true), ('s', 93_870, true)]);
    }

    #[test]
    fn stamps_go_on_where_they_turn_over() {
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: false, sound: true }, false, &mut out);
        let near = |ticks: i64| Duration::from_micros(ticks as u64 * 100 / 9 + 1);
        ts.sound(near(WRAP - 900), &adts(&[1; 30]), &mut out);
        ts.sound(near(WRAP + 1020), &adts(&[1; 30]), &mut out);
        assert_eq!(told(&all(&out).0), [('s', WRAP - 900, true), ('s', WRAP + 1020, true)]);
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
            let _ = all(&bytes);
            let _ = units(&bytes).count();
        }
    }
}
