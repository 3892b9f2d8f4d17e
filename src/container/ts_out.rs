//! MPEG transport stream, written one access unit at a time.
//!
//! Owns: the bytes of 188-byte packets: tables, PES, clock references, continuity. Must not touch: files, GStreamer.
//! Law: what is given is written at once and nothing is held back, so that a power cut costs no more than what the
//! kernel held; every byte that comes out is part of a whole packet.
//! Sources: ISO/IEC 13818-1 (packets 2.4.3, PES 2.4.3.6, tables 2.4.4), H.264 in TS 2.14.
//!
//! GStreamer's `mpegtsmux` is not used: it makes one buffer for each 188 bytes, runs a thread for each lane, and in a
//! merged lane it waits for the stream that is silent.

use std::time::Duration;

use super::packet::{PACKET, SYNC};
use super::{TYPE_ADTS, TYPE_H264};

const PID_PAT: u16 = 0x0000;
const PID_PMT: u16 = 0x1000;
const PID_PICTURE: u16 = 0x0100;
const PID_SOUND: u16 = 0x0101;
const ID_VIDEO: u8 = 0xe0;
const ID_AUDIO: u8 = 0xc0;
/// How far the clock reference runs ahead of the presentation times: the buffering that a player is promised.
const CLOCK_LEAD: Duration = Duration::from_millis(200);
/// ffmpeg, and what is built on it, does not know a shorter file for what it is.
const LEAST_PACKETS: usize = 20;
/// Access unit delimiter, "any slice type": TS wants each H.264 picture to begin with one.
const DELIMITER: [u8; 6] = [0, 0, 0, 1, 9, 0xf0];

/// Which streams a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub picture: bool,
    pub sound: bool,
}

/// Writes packets of one program; its continuity counters go on over files.
#[derive(Debug)]
pub struct TsWriter {
    streams: Streams,
    version: u8,
    counter_pat: u8,
    counter_pmt: u8,
    counter_picture: u8,
    counter_sound: u8,
    /// The next clock reference does not join on to the last one.
    jump: bool,
}

impl TsWriter {
    pub fn new() -> TsWriter {
        TsWriter {
            streams: Streams { picture: false, sound: false },
            version: 0,
            counter_pat: 0,
            counter_pmt: 0,
            counter_picture: 0,
            counter_sound: 0,
            jump: false,
        }
    }

    /// Head of a file: PAT and PMT. `jump`: the media that follows does not join on to what was written before.
    pub fn begin(&mut self, streams: Streams, jump: bool, out: &mut Vec<u8>) {
        if streams != self.streams {
            self.streams = streams;
            self.version = (self.version + 1) & 0x1f;
        }
        self.jump |= jump;
        let pat = self.pat();
        table(PID_PAT, &mut self.counter_pat, &pat, out);
        let pmt = self.pmt();
        table(PID_PMT, &mut self.counter_pmt, &pmt, out);
    }

    /// One H.264 access unit in byte-stream form.
    pub fn picture(&mut self, pts: Duration, key: bool, unit: &[u8], out: &mut Vec<u8>) {
        let delimiter: &[u8] = if begins_with_delimiter(unit) { &[] } else { &DELIMITER };
        let clock = Some(clock_reference(pts));
        let jump = std::mem::take(&mut self.jump);
        // a picture's PES may leave its length open (0)
        let header = pes_header(ID_VIDEO, pts, None);
        let pieces: [&[u8]; 3] = [&header, delimiter, unit];
        packets(PID_PICTURE, &mut self.counter_picture, Adaptation { clock, key, jump }, &pieces, out);
    }

    /// AAC frames, each with its ADTS header, that follow on one another; `pts` is that of the first.
    /// At most 65,000 bytes together, since a PES of sound states its length.
    pub fn sound(&mut self, pts: Duration, frames: &[u8], out: &mut Vec<u8>) {
        let carries_clock = !self.streams.picture;
        let clock = carries_clock.then(|| clock_reference(pts));
        let jump = carries_clock && std::mem::take(&mut self.jump);
        let header = pes_header(ID_AUDIO, pts, Some(frames.len()));
        let pieces: [&[u8]; 2] = [&header, frames];
        packets(PID_SOUND, &mut self.counter_sound, Adaptation { clock, key: true, jump }, &pieces, out);
    }

    /// Packets that carry nothing, so that a file of `bytes` has enough of them for a reader to see what it is.
    pub fn fill_up(bytes: u64, out: &mut Vec<u8>) {
        let there = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(out.len()) / PACKET;
        for _ in there..LEAST_PACKETS {
            out.extend([SYNC, 0x1f, 0xff, 0x10]);
            out.resize(out.len() + PACKET - 4, 0xff);
        }
    }

    fn pat(&self) -> Vec<u8> {
        let mut body = vec![0x00, 0x01, 0xc1, 0x00, 0x00];
        body.extend([0x00, 0x01, 0xe0 | (PID_PMT >> 8) as u8, PID_PMT as u8]);
        section(0x00, &body)
    }

    fn pmt(&self) -> Vec<u8> {
        let clock_pid = if self.streams.picture { PID_PICTURE } else { PID_SOUND };
        let mut body = vec![0x00, 0x01, 0xc1 | (self.version << 1), 0x00, 0x00];
        body.extend([0xe0 | (clock_pid >> 8) as u8, clock_pid as u8, 0xf0, 0x00]);
        let all = [(self.streams.picture, TYPE_H264, PID_PICTURE), (self.streams.sound, TYPE_ADTS, PID_SOUND)];
        for (_, kind, pid) in all.into_iter().filter(|(there, ..)| *there) {
            body.extend([kind, 0xe0 | (pid >> 8) as u8, pid as u8, 0xf0, 0x00]);
        }
        section(0x02, &body)
    }
}

impl Default for TsWriter {
    fn default() -> TsWriter {
        TsWriter::new()
    }
}

/// What the first packet of a unit says beside its payload.
#[derive(Clone, Copy)]
struct Adaptation {
    /// 90 kHz
    clock: Option<u64>,
    key: bool,
    jump: bool,
}

fn ticks(at: Duration) -> u64 {
    u64::try_from((at.as_nanos() * 9 + 50_000) / 100_000).unwrap_or(u64::MAX) & 0x1_ffff_ffff
}

fn clock_reference(pts: Duration) -> u64 {
    ticks(pts.saturating_sub(CLOCK_LEAD))
}

fn begins_with_delimiter(unit: &[u8]) -> bool {
    let after_code = match unit {
        [0, 0, 0, 1, rest @ ..] | [0, 0, 1, rest @ ..] => rest.first(),
        _ => None,
    };
    after_code.is_some_and(|byte| byte & 0x1f == 9)
}

fn pes_header(stream: u8, pts: Duration, payload: Option<usize>) -> [u8; 14] {
    let t = ticks(pts);
    let length = payload.map_or(0, |n| u16::try_from(n + 8).unwrap_or(0)).to_be_bytes();
    [
        0,
        0,
        1,
        stream,
        length[0],
        length[1],
        // data_alignment_indicator: each PES begins with an access unit
        0x84,
        0x80,
        5,
        0x21 | ((t >> 29) & 0x0e) as u8,
        (t >> 22) as u8,
        0x01 | ((t >> 14) & 0xfe) as u8,
        (t >> 7) as u8,
        0x01 | ((t << 1) & 0xfe) as u8,
    ]
}

/// Spreads `pieces`, one after the other, over packets; the last one is filled up by stuffing.
fn packets(pid: u16, counter: &mut u8, first: Adaptation, pieces: &[&[u8]], out: &mut Vec<u8>) {
    let mut left: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.reserve((left / 184 + 2) * PACKET);
    let mut pieces = pieces.iter().copied();
    let mut piece: &[u8] = &[];
    let mut start = true;
    while left > 0 {
        let mut field = [0xff_u8; 184];
        let mut used = 0;
        if start && (first.clock.is_some() || first.key || first.jump) {
            field[1] = u8::from(first.jump) << 7 | u8::from(first.key) << 6 | u8::from(first.clock.is_some()) << 4;
            used = 2;
            if let Some(base) = first.clock {
                let clock = [
                    (base >> 25) as u8,
                    (base >> 17) as u8,
                    (base >> 9) as u8,
                    (base >> 1) as u8,
                    ((base << 7) & 0x80) as u8 | 0x7e,
                    0,
                ];
                field[2..8].copy_from_slice(&clock);
                used = 8;
            }
        }
        if left < 184 - used {
            // stuffing; a field of one byte is its length alone
            let wanted = 184 - left;
            if used == 0 && wanted >= 2 {
                field[1] = 0;
            }
            used = wanted;
        }
        if used > 0 {
            field[0] = u8::try_from(used - 1).expect("an adaptation field fits a packet");
        }
        let start_bit = if start { 0x40 } else { 0 };
        let control = if used > 0 { 0x30 } else { 0x10 };
        out.extend([SYNC, start_bit | (pid >> 8) as u8, pid as u8, control | *counter]);
        out.extend_from_slice(&field[..used]);
        *counter = (*counter + 1) & 0x0f;
        start = false;

        let mut room = 184 - used;
        while room > 0 {
            if piece.is_empty() {
                piece = pieces.next().expect("room is never more than what is left");
                continue;
            }
            let (now, later) = piece.split_at(room.min(piece.len()));
            out.extend_from_slice(now);
            room -= now.len();
            left -= now.len();
            piece = later;
        }
    }
}

/// A table in one packet of its own.
fn table(pid: u16, counter: &mut u8, section: &[u8], out: &mut Vec<u8>) {
    out.extend([SYNC, 0x40 | (pid >> 8) as u8, pid as u8, 0x10 | *counter, 0]);
    *counter = (*counter + 1) & 0x0f;
    out.extend_from_slice(section);
    out.resize(out.len() + PACKET - 5 - section.len(), 0xff);
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() + 4;
    let mut bytes = vec![id, 0xb0 | (length >> 8) as u8, length as u8];
    bytes.extend_from_slice(body);
    bytes.extend(crc32_mpeg(&bytes).to_be_bytes());
    bytes
}

/// CRC-32/MPEG-2: not reflected, no final inversion.
fn crc32_mpeg(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { (crc << 1) ^ 0x04c1_1db7 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Streams = Streams { picture: true, sound: true };

    /// (pid, start, counter, payload) of each packet.
    fn split(bytes: &[u8]) -> Vec<(u16, bool, u8, Vec<u8>)> {
        assert_eq!(bytes.len() % PACKET, 0);
        bytes
            .chunks(PACKET)
            .map(|p| {
                assert_eq!(p[0], 0x47);
                let pid = u16::from(p[1] & 0x1f) << 8 | u16::from(p[2]);
                let from = if p[3] & 0x20 == 0 { 4 } else { 5 + usize::from(p[4]) };
                (pid, p[1] & 0x40 != 0, p[3] & 0x0f, p[from..].to_vec())
            })
            .collect()
    }

    #[test]
    fn a_file_begins_with_its_tables_and_their_sums_are_right() {
        let mut ts = TsWriter::new();
        let mut out = Vec::new();
        ts.begin(BOTH, false, &mut out);
        let packets = split(&out);
        assert_eq!(packets.iter().map(|p| p.0).collect::<Vec<_>>(), [PID_PAT, PID_PMT]);
        for (_, start, _, payload) in packets {
            assert!(start);
            let length = usize::from(payload[2] & 0x0f) << 8 | usize::from(payload[3]);
            assert_eq!(crc32_mpeg(&payload[1..4 + length]), 0, "a section with its own sum comes to zero");
        }
        assert_eq!(crc32_mpeg(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn payloads_of_every_length_come_back_whole() {
        let mut ts = TsWriter::new();
        ts.begin(BOTH, false, &mut Vec::new());
        let mut next = 0;
        for length in 1..800 {
            let unit: Vec<u8> = (0..length).map(|n| n as u8 | 1).collect();
            let mut out = Vec::new();
            if length % 2 == 0 {
                ts.picture(Duration::from_millis(40), length % 3 == 0, &unit, &mut out);
            } else {
                ts.sound(Duration::from_millis(40), &unit, &mut out);
            }
            let packets = split(&out);
            let whole: Vec<u8> = packets.iter().flat_map(|p| p.3.clone()).collect();
            let skip = if length % 2 == 0 { 14 + DELIMITER.len() } else { 14 };
            assert_eq!(whole[skip..], unit, "{length}");
            assert!(packets[0].1 && packets[1..].iter().all(|p| !p.1));
            if length % 2 == 0 {
                for p in &packets {
                    assert_eq!(p.2, next);
                    next = (next + 1) & 0x0f;
                }
            }
        }
    }

    #[test]
    fn times_stand_in_the_header_as_the_norm_writes_them() {
        let pts = Duration::from_nanos(95_443_717_688_888);
        let h = pes_header(ID_AUDIO, pts, Some(10));
        let read = (u64::from(h[9]) >> 1 & 7) << 30
            | u64::from(h[10]) << 22
            | (u64::from(h[11]) >> 1) << 15
            | u64::from(h[12]) << 7
            | u64::from(h[13]) >> 1;
        assert_eq!(read, ticks(pts));
        assert_eq!([h[4], h[5]], [0, 18]);
        assert_eq!(ticks(Duration::from_secs(1)), 90_000);
        // 2^33 ticks are 26.5 hours; after that they begin again
        assert_eq!(ticks(Duration::from_secs(95_444)), 95_444 * 90_000 - (1 << 33));
    }

    #[test]
    fn a_delimiter_that_is_there_is_not_doubled() {
        let mut ts = TsWriter::new();
        let mut out = Vec::new();
        ts.begin(Streams { picture: true, sound: false }, true, &mut Vec::new());
        ts.picture(Duration::ZERO, true, &[0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1], &mut out);
        assert_eq!(split(&out)[0].3[14..], [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1]);
        assert_eq!(out[5] & 0xd0, 0xd0, "jump, key and clock are told");
        let mut again = Vec::new();
        ts.picture(Duration::ZERO, false, &[0, 0, 1, 0x41, 1], &mut again);
        assert_eq!(again[5] & 0xc0, 0, "a jump is told once");
    }
}
