//! Pictures: RTP in, whole H.264 access units out; what is H.264 already is never touched.
//!
//! Owns: the chains for pictures, the black ones too. Must not touch: files, when to cut.
//! Law: each unit carries its time on the file's line, and says when it belongs to another stream of pictures (size or
//! encoder changed), since a decoder must then begin anew.

use std::collections::BTreeSet;
use std::time::Duration;

use gstreamer as gst;

use super::chain::{Chain, Out};
use super::stamped::StampedPacket;
use super::tracks::TrackSource;
use super::unpack::Unpacker;
use super::{MediaError, timeline};
use crate::model::MediaTime;
use crate::model::encoder::{self, Encoder};

/// H.264 with start codes, as the sieve reads it.
pub(super) const UNPACK: &str = "rtph264depay ! capsfilter caps=video/x-h264,stream-format=byte-stream";
pub(super) const PARSE: &str =
    "h264parse config-interval=-1 ! capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au";

/// RTP does not say how many pictures come in a second, and x264 keeps one back when it is not told. Times stay true.
const RATE: &str = "capssetter caps=video/x-raw,framerate=30/1";

/// Sizes that encoders take: x264enc asks an encoder that it could not open, and dies of it.
const EVEN: &str = "videoscale ! capsfilter \
    caps=\"video/x-raw,width=(int)[16,8192,2],height=(int)[16,8192,2],pixel-aspect-ratio=1/1\"";

/// How often pictures changed between the publisher's and black ones, and the publisher's their size.
pub type StreamId = (u32, u32);

/// One picture, ready for the file.
#[derive(Debug)]
pub struct PictureUnit {
    pub pts: Duration,
    pub key: bool,
    /// Pixels.
    pub size: (u32, u32),
    /// Units of one stream can be decoded one after the other.
    pub stream: StreamId,
    pub bytes: gst::Buffer,
}

/// Turns one track's packets into units.
pub struct Pictures {
    unpacker: Unpacker,
    transcodes: bool,
    size: (u32, u32),
    sizes: u32,
}

impl Pictures {
    pub fn new(source: &TrackSource, present: &BTreeSet<&str>) -> Result<Pictures, MediaError> {
        let (described, transcodes) = match encoder::picture_decoder(source.codec) {
            None => (format!("{UNPACK} ! {PARSE}"), false),
            Some(decoder) => {
                (format!("{decoder} ! {RATE} ! videoconvert ! {EVEN} ! {}", encoder_chain(present, false)?), true)
            }
        };
        Ok(Pictures { unpacker: Unpacker::new(source, described)?, transcodes, size: (0, 0), sizes: 0 })
    }

    /// Whether the pictures are encoded here, so that keyframes are ours to make.
    pub fn transcodes(&self) -> bool {
        self.transcodes
    }

    pub fn force_keyframe(&self) {
        self.unpacker.chain().force_keyframe();
    }

    /// A decoder or depayloader asked for a keyframe of the publisher since the last call.
    pub fn wants_keyframe(&self) -> bool {
        self.unpacker.wants_keyframe()
    }

    /// Takes packets; those stamped before `base` are left out. Gives the units that they completed.
    pub fn push(&mut self, packets: &[StampedPacket], base: MediaTime) -> Result<Vec<PictureUnit>, MediaError> {
        let mut units = Vec::new();
        // Picture by picture: see `unit` for why it matters which one is inside.
        for packets in packets.chunk_by(|a, b| a.at == b.at) {
            let Some(at) = timeline(packets[0].at, base) else {
                continue;
            };
            let pts = gst::ClockTime::from_nseconds(at);
            let out = self.unpacker.push(packets, pts)?;
            units.extend(self.units(out, Some(pts)));
        }
        Ok(units)
    }

    /// What is still inside.
    pub fn finish(&mut self) -> Result<Vec<PictureUnit>, MediaError> {
        let out = self.unpacker.chain().finish()?;
        Ok(self.units(out, None))
    }

    fn units(&mut self, out: Vec<Out>, inside: Option<gst::ClockTime>) -> Vec<PictureUnit> {
        let mut units = Vec::with_capacity(out.len());
        for out in out {
            match out {
                Out::Caps(caps) => {
                    let size = size_of(&caps);
                    if size != self.size {
                        self.size = size;
                        self.sizes += 1;
                    }
                }
                Out::Buffer(bytes) => {
                    let unit = unit(bytes, inside, self.size, (0, self.sizes));
                    if unit.as_ref().is_some_and(|unit| unit.key) {
                        self.unpacker.renewal_is_over();
                    }
                    units.extend(unit);
                }
            }
        }
        units
    }
}

fn encoder_chain(present: &BTreeSet<&str>, all_key: bool) -> Result<String, MediaError> {
    let encoder: Encoder =
        encoder::picture_encoder(present).ok_or(MediaError::MissingElement("x264enc", "gstreamer1.0-plugins-ugly"))?;
    let all_key = if all_key { encoder.all_key } else { "" };
    Ok(format!("capsfilter caps=video/x-raw,format=I420 ! {} {all_key} ! {PARSE}", encoder.described))
}

fn size_of(caps: &gst::Caps) -> (u32, u32) {
    let Some(of) = caps.structure(0) else {
        return (0, 0);
    };
    let side = |name| of.get::<i32>(name).ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    (side("width"), side("height"))
}

/// An access unit; `None` for one that holds no picture or was never on the line.
///
/// Some encoders (x264 behind GStreamer's payloader, when a keyframe is asked for) send parameter sets before the
/// delimiter of the unit that they belong to. The parser makes two of it: one without a picture, and one without a time,
/// which is that of the packets which are `inside`.
pub(super) fn unit(
    bytes: gst::Buffer,
    inside: Option<gst::ClockTime>,
    size: (u32, u32),
    stream: StreamId,
) -> Option<PictureUnit> {
    let pts = Duration::from_nanos(bytes.pts().or(inside)?.nseconds());
    if !shows(&bytes.map_readable().ok()?) {
        return None;
    }
    let key = !bytes.flags().contains(gst::BufferFlags::DELTA_UNIT);
    Some(PictureUnit { pts, key, size, stream, bytes })
}

/// Whether a byte stream holds a slice of a picture (H.264 table 7-1: types 1 to 5).
fn shows(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|w| w[..3] == [0, 0, 1] && (1..=5).contains(&(w[3] & 0x1f)))
}

/// Makes black pictures, each a keyframe.
pub struct Black {
    chain: Chain,
    frame: gst::Buffer,
    size: (u32, u32),
}

impl Black {
    /// Pictures of `size`.
    pub fn new(size: (u32, u32), present: &BTreeSet<&str>) -> Result<Black, MediaError> {
        // what cannot be halved cannot be I420 without padding; a player shows one row less
        let (width, height) = ((size.0 & !1).max(2), (size.1 & !1).max(2));
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", width as i32)
            .field("height", height as i32)
            .field("framerate", gst::Fraction::new(1, 1))
            .build();
        let chain = Chain::new(&encoder_chain(present, true)?, &caps)?;
        // rows of I420 in GStreamer's default layout are rounded up to four bytes
        let round = |n: u32| n.next_multiple_of(4) as usize;
        let luma = round(width) * height as usize;
        let chroma = 2 * round(width / 2) * (height as usize / 2);
        let mut bytes = vec![16; luma];
        bytes.resize(luma + chroma, 128);
        Ok(Black { chain, frame: gst::Buffer::from_slice(bytes), size: (width, height) })
    }

    pub fn picture(&mut self, pts: Duration) -> Result<Vec<PictureUnit>, MediaError> {
        let mut frame = self.frame.copy();
        frame.get_mut().expect("a new copy has one owner").set_pts(gst::ClockTime::try_from(pts).ok());
        self.chain.push(frame)?;
        let out = self.chain.take();
        let buffers = out.into_iter().filter_map(|out| match out {
            Out::Buffer(buffer) => Some(buffer),
            Out::Caps(_) => None,
        });
        Ok(buffers.filter_map(|buffer| unit(buffer, None, self.size, (0, 0))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoder_gives_a_black_keyframe_at_once() {
        crate::media::init().expect("GStreamer with what a recording needs");
        for factory in crate::media::present() {
            let present = BTreeSet::from([factory]);
            if encoder::picture_encoder(&present).is_none() {
                continue;
            }
            let mut black = Black::new((321, 243), &present).expect("it starts");
            for n in 0..5 {
                let at = Duration::from_secs(n);
                let units = black.picture(at).expect("it encodes");
                let told: Vec<_> = units.iter().map(|unit| (unit.pts, unit.key, unit.size)).collect();
                assert_eq!(told, [(at, true, (320, 242))], "{factory}");
            }
        }
    }
}
