//! A packet between the one who receives it and those who record it.
//!
//! Owns: what every track's packets have, whoever sent them. Must not touch: where they come from and go to.
//! Law: nobody behind the hub reads a packet's header for its order or its time: both are settled when it is stamped.

use bytes::Bytes;

use crate::model::MediaTime;

/// One RTP packet, in order, stamped on the box's media clock.
#[derive(Debug, Clone)]
pub struct StampedPacket {
    /// The packet as RFC 3550 writes it; no header extensions, no padding, never an empty payload.
    pub rtp: Bytes,
    pub at: MediaTime,
    /// Packets before this one were lost for good.
    pub after_loss: bool,
}

impl StampedPacket {
    /// Behind the header and its list of sources.
    pub fn payload(&self) -> Option<&[u8]> {
        let sources = usize::from(self.rtp.first()? & 0x0f);
        self.rtp.get(12 + 4 * sources..).filter(|payload| !payload.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_begins_after_the_contributing_sources() {
        let of = |bytes: Vec<u8>| StampedPacket { rtp: bytes.into(), at: MediaTime(0), after_loss: false };
        let mut rtp = vec![0x82; 12];
        rtp.extend([0; 8]);
        assert_eq!(of(rtp.clone()).payload(), None);
        rtp.push(7);
        assert_eq!(of(rtp).payload(), Some(&[7_u8][..]));
        assert_eq!(of(Vec::new()).payload(), None);
    }
}
