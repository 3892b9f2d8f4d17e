//! One packet of a transport stream, its tables, and the head of the PES packet that begins in it.
//!
//! Owns: which bits mean what. Must not touch: what follows from one packet for the next.
//! Law: of a packet that is not what it says nothing is made up: what is not there is `None`.
//! Sources: ISO/IEC 13818-1 §2.4.3.2 (packet), §2.4.3.4 (adaptation field), §2.4.3.6 (PES header), §2.4.4 (tables).

/// Bytes of a packet, and its first one.
pub const PACKET: usize = 188;
pub const SYNC: u8 = 0x47;
/// Stamps count in 33 bits.
pub const WRAP: i64 = 1 << 33;

/// `a - b` on a clock of 33 bits: the nearest of all that it may be.
pub fn clock_difference(a: i64, b: i64) -> i64 {
    (a - b + WRAP / 2).rem_euclid(WRAP) - WRAP / 2
}

#[derive(Debug, Clone, Copy)]
pub struct Packet<'a>(&'a [u8; PACKET]);

impl<'a> Packet<'a> {
    /// `None`: no packet begins here.
    pub fn of(bytes: &'a [u8; PACKET]) -> Option<Packet<'a>> {
        (bytes[0] == SYNC).then_some(Packet(bytes))
    }

    pub fn pid(self) -> u16 {
        u16::from_be_bytes([self.0[1], self.0[2]]) & 0x1fff
    }

    /// A PES packet or a table begins with its payload.
    pub fn begins(self) -> bool {
        self.0[1] & 0x40 != 0
    }

    pub fn counter(self) -> u8 {
        self.0[3] & 0x0f
    }

    fn is_adapted(self) -> bool {
        self.0[3] & 0x20 != 0
    }

    /// The stream says that a decoder can begin here.
    pub fn random_access(self) -> bool {
        self.is_adapted() && self.0[4] > 0 && self.0[5] & 0x40 != 0
    }

    /// What it carries behind its header and its adaptation field.
    pub fn payload(self) -> Option<&'a [u8]> {
        let skipped = if self.is_adapted() { 1 + usize::from(self.0[4]) } else { 0 };
        if self.0[3] & 0x10 == 0 { None } else { self.0.get(4 + skipped..) }
    }

    /// The body of a table that begins in it, behind its numbers and without its check sum.
    pub fn section(self, table: u8) -> Option<&'a [u8]> {
        let payload = self.payload().filter(|_| self.begins())?;
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

    /// The PID of the first programme's map, of the packet that lists programmes.
    pub fn first_map(self) -> Option<u16> {
        let programs = self.section(0x00)?.chunks_exact(4).find(|entry| entry[..2] != [0, 0])?;
        Some(u16::from_be_bytes([programs[2], programs[3]]) & 0x1fff)
    }

    /// The head of the PES packet that begins in it, as far as it is whole.
    pub fn pes(self) -> Option<PesHead> {
        self.payload().filter(|_| self.begins()).and_then(PesHead::read)
    }
}

pub struct PesHead {
    pub stream_id: u8,
    pub pts: Option<i64>,
    pub dts: Option<i64>,
    /// Where its payload begins.
    pub body: usize,
    /// Bytes behind the length, where it is said: a picture's may be left open (§2.4.3.7).
    pub length: Option<usize>,
}

impl PesHead {
    pub fn read(pes: &[u8]) -> Option<PesHead> {
        let [0, 0, 1, stream_id, high, low, _, flags, header, rest @ ..] = pes else { return None };
        let body = 9 + usize::from(*header);
        let stamp = |at: usize| {
            let [a, b, c, d, e, ..] = *rest.get(at..)? else { return None };
            let bits = |byte: u8, mask: u8, shift: u32| (i64::from(byte & mask) >> 1) << shift;
            Some(bits(a, 0x0e, 30) | i64::from(b) << 22 | bits(c, 0xfe, 15) | i64::from(d) << 7 | bits(e, 0xfe, 0))
        };
        let pts = if flags & 0x80 != 0 && *header >= 5 { stamp(0) } else { None };
        let dts = if flags & 0xc0 == 0xc0 && *header >= 10 { stamp(5) } else { None };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let length = (length > 0).then_some(length);
        (body <= pes.len()).then_some(PesHead { stream_id: *stream_id, pts, dts, body, length })
    }
}
