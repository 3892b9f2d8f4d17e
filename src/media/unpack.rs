//! A track's pictures out of their packets and into a chain of elements.
//!
//! Owns: how RTP of each codec enters GStreamer, and a new chain when a stranger broke the old one. Must not touch: what
//! comes out of the chain.
//! Law: pictures go in one by one, each with its time; a packet that breaks an element for good costs the pictures until
//! the next keyframe, never the recording. An element may be broken and not say so: libvpx's decoder of VP9 refuses good
//! keyframes for ever after some bad ones.

use gstreamer as gst;

use super::MediaError;
use super::av1::Assembler;
use super::chain::{Chain, Out};
use super::keyframe::begins_keyframe;
use super::stamped::StampedPacket;
use super::tracks::TrackSource;
use crate::model::Codec;

/// A chain that was made anew has so long before it may be given up again: whoever sends nothing but what breaks it costs
/// his own pictures, not everybody's time.
const PAUSE: gst::ClockTime = gst::ClockTime::from_mseconds(200);
/// Bytes that elements may hold back before a picture comes out: without an end to a picture it is all that they get.
const MOST_HELD: usize = 16 << 20;

pub struct Unpacker {
    codec: Codec,
    chain: Chain,
    /// What the chain is made of, to make it anew.
    described: String,
    caps: gst::Caps,
    /// The chain is a new one that has not seen a keyframe.
    renewed: bool,
    /// Whether a picture has come out since the last keyframe went in; `None` before the first.
    answered: Option<bool>,
    /// Bytes that went in since something came out.
    held: usize,
    /// When the chain was made anew last, and until when it gets nothing.
    renewal: Option<gst::ClockTime>,
    rest: Option<gst::ClockTime>,
    /// AV1 has no depayloading element in Debian 12.
    av1: Option<Assembler>,
}

impl Unpacker {
    /// A chain of what takes the codec's RTP (of AV1: its units as they are in a file).
    pub fn new(source: &TrackSource, described: String) -> Result<Unpacker, MediaError> {
        let encoding = match source.codec {
            Codec::H264 => "H264",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::Av1 => "AV1",
            Codec::Opus => return Err(MediaError::Pipeline("a picture track carries Opus".into())),
        };
        let av1 = (source.codec == Codec::Av1).then(Assembler::default);
        let caps = if av1.is_some() {
            gst::Caps::builder("video/x-av1").field("stream-format", "obu-stream").field("alignment", "tu").build()
        } else {
            gst::Caps::builder("application/x-rtp")
                .field("media", "video")
                .field("payload", i32::from(source.payload_type))
                .field("clock-rate", i32::try_from(source.clock_rate).unwrap_or(90_000))
                .field("encoding-name", encoding)
                .build()
        };
        let chain = Chain::new(&described, &caps)?;
        Ok(Unpacker {
            codec: source.codec,
            chain,
            described,
            caps,
            renewed: false,
            answered: None,
            held: 0,
            renewal: None,
            rest: None,
            av1,
        })
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A keyframe of the publisher is needed: an element asked for it since the last call, or the chain is new.
    pub fn wants_keyframe(&self) -> bool {
        self.renewed || self.chain.wants_keyframe()
    }

    /// A keyframe has come out.
    pub fn renewal_is_over(&mut self) {
        self.renewed = false;
    }

    /// Pushes the packets of one picture; gives what has come out.
    pub fn push(&mut self, packets: &[StampedPacket], pts: gst::ClockTime) -> Result<Vec<Out>, MediaError> {
        if self.rest.is_some_and(|until| pts < until) {
            return Ok(Vec::new());
        }
        let mut list = gst::BufferList::new_sized(packets.len());
        {
            let list = list.get_mut().expect("a new list has one owner");
            for packet in packets {
                let mut buffer = match &mut self.av1 {
                    None => gst::Buffer::from_slice(packet.rtp.clone()),
                    Some(units) => match units.push(&packet.rtp, packet.after_loss) {
                        Some(unit) => gst::Buffer::from_slice(unit),
                        None => continue,
                    },
                };
                buffer.get_mut().expect("a new buffer has one owner").set_pts(pts);
                list.add(buffer);
            }
        }
        if list.is_empty() {
            return Ok(Vec::new());
        }
        if self.begins(packets) {
            if self.answered == Some(false) && !self.was_renewed(pts) {
                self.renew("nothing has come of a keyframe", pts)?;
            }
            self.answered = Some(false);
        }
        self.held += list.iter().map(|buffer| buffer.size()).sum::<usize>();
        let pushed = self.chain.push_list(list);
        let out = self.chain.take();
        if out.iter().any(|out| matches!(out, Out::Buffer(_))) {
            self.answered = self.answered.map(|_| true);
            self.held = 0;
        }
        if let Err(error) = pushed {
            self.renew(&error.to_string(), pts)?;
        } else if self.held > MOST_HELD {
            self.renew("nothing has come of many bytes", pts)?;
        }
        Ok(out)
    }

    /// Whether a decoder has to give a picture from here on. What is H.264 goes through parsers, which keep parameter
    /// sets that a keyframe needs.
    fn begins(&self, packets: &[StampedPacket]) -> bool {
        self.codec != Codec::H264
            && packets.iter().filter_map(StampedPacket::payload).any(|payload| begins_keyframe(self.codec, payload))
    }

    /// Just now.
    fn was_renewed(&self, pts: gst::ClockTime) -> bool {
        self.renewal.is_some_and(|at| pts < at + PAUSE)
    }

    fn renew(&mut self, why: &str, pts: gst::ClockTime) -> Result<(), MediaError> {
        tracing::debug!(why, "the pictures' elements are made anew");
        metrics::counter!("holdfast_lane_bad_packets_total", "kind" => "video").increment(1);
        self.chain = Chain::new(&self.described, &self.caps)?;
        self.renewed = true;
        self.answered = None;
        self.held = 0;
        self.rest = self.was_renewed(pts).then_some(pts + PAUSE);
        self.renewal = Some(pts);
        Ok(())
    }
}
