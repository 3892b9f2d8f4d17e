//! A place in the WebRTC core's chain of interceptors from which packets are heard next to the wire.
//!
//! Owns: handing on what passes; how the end of a connection is noticed. Must not touch: what is made of what is heard.
//! Law: every packet goes on as it came, in its order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rtc::interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::peer_connection::transport::RTCDtlsTransportState;
use rtc::rtcp;
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use webrtc::peer_connection::transport::DtlsTransport;

/// What hears.
pub(in crate::media) trait Hear: Send + Sync {
    /// A packet came at `at`.
    fn came(&mut self, packet: &Packet, at: Instant);
    /// A packet is about to be sent.
    fn goes(&mut self, _packet: &Packet) {}
}

/// Lets somebody hear what passes.
pub(in crate::media) struct Ear<H> {
    hears: H,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

impl<H: Hear> Ear<H> {
    pub fn new(hears: H) -> Ear<H> {
        Ear { hears, reads: VecDeque::new(), writes: VecDeque::new() }
    }
}

impl<H: Hear> Protocol<TaggedPacket, TaggedPacket, ()> for Ear<H> {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, msg: TaggedPacket) -> Result<(), Error> {
        self.hears.came(&msg.message.packet, msg.now);
        self.reads.push_back(msg);
        Ok(())
    }
    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }
    fn handle_write(&mut self, msg: TaggedPacket) -> Result<(), Error> {
        self.hears.goes(&msg.message.packet);
        self.writes.push_back(msg);
        Ok(())
    }
    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }
}

impl<H: Hear> Interceptor for Ear<H> {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}

/// Those RTCP packets that are of the kind `T`; none in RTP.
pub(in crate::media) fn rtcp_of<T: 'static>(packet: &Packet) -> impl Iterator<Item = &T> {
    let packets: &[Box<dyn rtcp::Packet>] = match packet {
        Packet::Rtcp(packets) => packets,
        _ => &[],
    };
    packets.iter().filter_map(|packet| packet.as_any().downcast_ref())
}

/// Whether the other side has said by DTLS that it is over. The connection's own state does not tell: it goes on until
/// ICE has had no answer for half a minute.
pub(in crate::media) async fn is_closed<E>(transport: Result<Option<Arc<dyn DtlsTransport>>, E>) -> bool {
    match transport {
        Ok(Some(transport)) => matches!(transport.state().await, Ok(RTCDtlsTransportState::Closed)),
        // not begun yet, or our own end is gone: that is known otherwise
        Ok(None) | Err(_) => false,
    }
}
