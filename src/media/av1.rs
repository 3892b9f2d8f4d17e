//! AV1 out of RTP: packets in, temporal units as a file has them out.
//!
//! Owns: putting OBUs together again. Must not touch: what is inside an OBU, GStreamer.
//! Law: a unit that lost a packet is not given; the decoder never sees half of one.
//! Source: RTP Payload Format For AV1, §4 (Debian 12's GStreamer has no depayloader for it).

/// A temporal delimiter, which RTP leaves out.
const DELIMITER: [u8; 2] = [0x12, 0x00];
/// No picture is larger; a stranger's packets do not fill the memory.
const MOST_BYTES: usize = 8 << 20;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_TILE_LIST: u8 = 8;

#[derive(Debug, Default)]
pub struct Assembler {
    unit: Vec<u8>,
    /// An OBU that goes on in the next packet.
    fragment: Option<Vec<u8>>,
    timestamp: Option<u32>,
    torn: bool,
}

impl Assembler {
    /// Takes an RTP packet (no extensions, no padding). Gives the unit that it ends.
    pub fn push(&mut self, rtp: &[u8], after_loss: bool) -> Option<Vec<u8>> {
        let sources = usize::from(rtp.first()? & 0x0f);
        let marker = rtp.get(1)? & 0x80 != 0;
        let timestamp = u32::from_be_bytes(rtp.get(4..8)?.try_into().ok()?);
        if self.timestamp != Some(timestamp) {
            // the last packet of the unit before did not come, or this is the first
            self.unit.clear();
            self.fragment = None;
            self.timestamp = Some(timestamp);
            self.torn = false;
        }
        self.torn |= after_loss && !self.begins_unit(rtp.get(12 + 4 * sources..)?);
        let taken = rtp.get(12 + 4 * sources..).and_then(|payload| self.take(payload));
        self.torn |= taken.is_none() || self.unit.len() > MOST_BYTES;
        if !marker {
            return None;
        }
        self.timestamp = None;
        let unit = std::mem::take(&mut self.unit);
        let whole = !self.torn && self.fragment.take().is_none() && !unit.is_empty();
        whole.then(|| [&DELIMITER[..], &unit].concat())
    }

    /// After a loss a packet is of use only when nothing of its own unit was lost before it.
    fn begins_unit(&self, payload: &[u8]) -> bool {
        // N: the first packet of a coded video sequence
        self.unit.is_empty() && payload.first().is_some_and(|aggregation| aggregation & 0x88 == 0x08)
    }

    fn take(&mut self, payload: &[u8]) -> Option<()> {
        let (aggregation, mut rest) = payload.split_first()?;
        let (goes_on_from, goes_on) = (aggregation & 0x80 != 0, aggregation & 0x40 != 0);
        let count = usize::from(aggregation >> 4 & 3);
        let mut n = 0;
        while !rest.is_empty() {
            n += 1;
            let length = if count > 0 && n == count { rest.len() } else { leb128(&mut rest)? };
            let element = rest.get(..length)?;
            rest = &rest[length..];
            let mut obu = match (n, goes_on_from) {
                (1, true) => self.fragment.take()?,
                (1, false) if self.fragment.is_some() => return None,
                _ => Vec::new(),
            };
            obu.extend_from_slice(element);
            if obu.len() > MOST_BYTES {
                return None;
            }
            if rest.is_empty() && goes_on {
                self.fragment = Some(obu);
            } else {
                self.close_obu(&obu)?;
            }
        }
        (count == 0 || n == count).then_some(())
    }

    /// Writes an OBU with its size, which RTP leaves out too.
    fn close_obu(&mut self, obu: &[u8]) -> Option<()> {
        let header = *obu.first()?;
        let kind = header >> 3 & 0x0f;
        if kind == OBU_TEMPORAL_DELIMITER || kind == OBU_TILE_LIST {
            return Some(());
        }
        if header & 0x02 != 0 {
            self.unit.extend_from_slice(obu);
            return Some(());
        }
        let header_bytes = if header & 0x04 != 0 { 2 } else { 1 };
        let (head, body) = obu.split_at_checked(header_bytes)?;
        self.unit.push(header | 0x02);
        self.unit.extend_from_slice(&head[1..]);
        let mut size = body.len();
        loop {
            let more = if size > 0x7f { 0x80 } else { 0 };
            self.unit.push((size & 0x7f) as u8 | more);
            size >>= 7;
            if size == 0 {
                break;
            }
        }
        self.unit.extend_from_slice(body);
        Some(())
    }
}

fn leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for n in 0..4 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(timestamp: u32, marker: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80, if marker { 0xe0 } else { 0x60 }, 0, 0];
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn elements_and_fragments_become_one_unit() {
        let mut units = Assembler::default();
        // W=2: a sequence header with a length, then the beginning of a frame, which goes on twice
        assert_eq!(units.push(&rtp(9, false, &[0x68, 3, 0x08, 1, 2, 0x30, 3]), false), None);
        assert_eq!(units.push(&rtp(9, false, &[0xd0, 4]), false), None);
        let unit = units.push(&rtp(9, true, &[0x90, 5]), false);
        assert_eq!(unit, Some(vec![0x12, 0, 0x0a, 2, 1, 2, 0x32, 3, 3, 4, 5]));
        // W=0: each with its length
        let unit = units.push(&rtp(10, true, &[0x00, 2, 0x30, 6, 2, 0x30, 7]), false);
        assert_eq!(unit, Some(vec![0x12, 0, 0x32, 1, 6, 0x32, 1, 7]));
    }

    #[test]
    fn a_unit_with_a_hole_is_not_given_and_the_next_one_is() {
        let mut units = Assembler::default();
        assert_eq!(units.push(&rtp(9, false, &[0x50, 0x30, 3]), false), None);
        assert_eq!(units.push(&rtp(9, true, &[0x90, 5]), true), None);
        assert!(units.push(&rtp(10, true, &[0x10, 0x30, 3]), false).is_some());
        // the end of one and the beginning of the next are lost
        assert_eq!(units.push(&rtp(11, false, &[0x50, 0x30, 3]), false), None);
        assert_eq!(units.push(&rtp(12, true, &[0x90, 5]), true), None);
        assert!(units.push(&rtp(13, true, &[0x18, 0x30, 3]), true).is_some(), "a new sequence needs nothing before it");
    }

    #[test]
    fn nonsense_gives_nothing_and_does_no_harm() {
        let mut units = Assembler::default();
        for payload in [&[][..], &[0x00], &[0x00, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x20, 9, 1], &[0x30, 1], &[0x90, 1]]
        {
            assert_eq!(units.push(&rtp(1, true, payload), false), None, "{payload:x?}");
        }
        assert_eq!(units.push(&[0x80, 1, 2], false), None);
    }
}
