//! One publisher's pictures for a mix: packets in, the picture of a moment out.
//!
//! Owns: packets that wait, the decoder, the picture that is shown. Must not touch: the lane's canvas.
//! Law: a picture is decoded when its moment is near and not before, and kept only if it is shown, and then as small as
//! it is shown, so that what waits is small; nothing is decoded that cannot be shown; a publisher who breaks the decoder
//! costs their own pictures only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use super::canvas::{Painter, Planes, Shape};
use super::chain::Out;
use super::keyframe::{begins_keyframe, disposable};
use super::scale::Scaler;
use super::senses::Thumb;
use super::stamped::StampedPacket;
use super::tracks::Subscription;
use super::unpack::Unpacker;
use super::{MediaError, probe, timeline};
use crate::model::fit::{Cut, place};
use crate::model::mix::{Fit, Rect, Size};
use crate::model::{MediaTime, encoder};

/// A keyframe that did not come is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// In the second byte of an RTP packet (RFC 3550 §5.1): of pictures, the last packet of one.
const MARKER: u8 = 0x80;
/// Decoders may want some pictures before they give the first; more than this of a moment's are not pushed in ahead.
const MOST_AHEAD: usize = 4;

pub(super) struct Viewer {
    track: Subscription,
    base: MediaTime,
    packets: VecDeque<StampedPacket>,
    /// A keyframe has come, so that what waits can be decoded.
    keyed: bool,
    asked: Instant,
    unpacker: Unpacker,
    info: Option<gst_video::VideoInfo>,
    shown: Option<Shown>,
    ahead: VecDeque<Shown>,
    /// Pictures that went in after the last one that came out.
    inside: usize,
    serial: u64,
    scaler: Scaler,
    /// Bytes of small pictures that were shown, to be used again.
    spare: Vec<Vec<u8>>,
    /// Stamps (ns on the lane's line) of packets that came and whose moment has not, and the last one before it.
    coming: VecDeque<u64>,
    heard: Option<u64>,
}

/// Where a picture is to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub fit: Fit,
    pub rect: Rect,
}

/// A decoded picture: whole, as its spot wants it, or both.
pub(super) struct Shown {
    whole: Option<Whole>,
    small: Option<Small>,
    /// ns on the lane's line
    at: u64,
    /// Counts the pictures of this viewer.
    pub serial: u64,
    /// It is known that it will be shown, and all has been done that is done for such a one.
    ready: bool,
}

type Whole = gst_video::VideoFrame<gst_video::video_frame::Readable>;

/// A picture as a spot wants it: what is cut off is gone.
struct Small {
    spot: Spot,
    landing: Rect,
    shape: Shape,
    bytes: Vec<u8>,
}

impl Small {
    fn planes(&self) -> Planes<'_> {
        let [_, second, third] = self.shape.offsets;
        let planes = [&self.bytes[..second], &self.bytes[second..third], &self.bytes[third..self.shape.bytes]];
        Planes { size: self.shape.size, planes, strides: self.shape.strides }
    }
}

/// `None` for a picture whose planes cannot be read.
fn planes_of(frame: &Whole) -> Option<Planes<'_>> {
    let plane = |n: u32| frame.plane_data(n).ok();
    let stride = |n: usize| frame.plane_stride().get(n).and_then(|s| usize::try_from(*s).ok());
    Some(Planes {
        size: Size { width: frame.width(), height: frame.height() },
        planes: [plane(0)?, plane(1)?, plane(2)?],
        strides: [stride(0)?, stride(1)?, stride(2)?],
    })
}

impl Shown {
    /// What each picture like this takes of memory while it waits.
    pub fn bytes(&self) -> u64 {
        let whole = || self.whole.as_ref().map_or(0, |frame| frame.buffer().size() as u64);
        self.small.as_ref().map_or_else(whole, |small| small.bytes.len() as u64)
    }

    /// For a spot: pixels, which of them, and where they go. `None` if they cannot be read.
    pub fn placed(&self, spot: Spot) -> Option<(Planes<'_>, Cut, Rect)> {
        if let Some(small) = self.small.as_ref().filter(|small| small.spot == spot) {
            return Some((small.planes(), Cut::whole(small.shape.size), small.landing));
        }
        // for another spot than was thought: from what there is
        let whole = self.whole.as_ref().and_then(planes_of);
        let planes = whole.or_else(|| self.small.as_ref().map(Small::planes))?;
        let (cut, landing) = place(spot.fit, planes.size, spot.rect);
        Some((planes, cut, landing))
    }
}

impl Viewer {
    pub fn new(track: Subscription, base: MediaTime) -> Result<Viewer, MediaError> {
        let source = track.source();
        let decoder = encoder::mixing_decoder(source.codec, probe::decoder())
            .ok_or_else(|| MediaError::Pipeline(format!("{:?} is no picture", source.codec)))?;
        // nothing to do for what is I420 already, as nearly everything is
        let described = format!("{decoder} ! videoconvert n-threads=1 ! capsfilter caps=video/x-raw,format=I420");
        let unpacker = Unpacker::new(source, described)?;
        source.feedback.request_keyframe();
        Ok(Viewer {
            track,
            base,
            packets: VecDeque::new(),
            keyed: false,
            asked: Instant::now(),
            unpacker,
            info: None,
            shown: None,
            ahead: VecDeque::new(),
            inside: 0,
            serial: 0,
            scaler: Scaler::default(),
            spare: Vec::new(),
            coming: VecDeque::new(),
            heard: None,
        })
    }

    /// Takes packets, in order. Those before the first keyframe and after a loss, on the way or in the lane's own box,
    /// are left out until the next one: not every decoder sees that what it builds on is missing.
    pub fn take(&mut self, packets: Vec<StampedPacket>, after_overflow: bool) {
        if after_overflow {
            self.keyed = false;
        }
        let codec = self.track.source().codec;
        for packet in packets {
            let Some(at) = timeline(packet.at, self.base) else { continue };
            // also of what cannot be decoded: who sends has not stopped
            if self.coming.back() != Some(&at) {
                self.coming.push_back(at);
            }
            if packet.after_loss && self.keyed {
                self.keyed = false;
                self.drop_torn(packet.at);
            }
            self.keyed |= packet.payload().is_some_and(|payload| begins_keyframe(codec, payload));
            if self.keyed {
                self.packets.push_back(packet);
            }
        }
        self.ask_for_keyframe();
    }

    fn ask_for_keyframe(&mut self) {
        if (!self.keyed || self.unpacker.wants_keyframe()) && self.asked.elapsed() >= ASK_AGAIN {
            self.asked = Instant::now();
            metrics::counter!("holdfast_keyframe_requests_total").increment(1);
            self.track.source().feedback.request_keyframe();
        }
    }

    /// Packets were lost before one that was captured at `next`: of a picture that had begun, the rest is not coming.
    fn drop_torn(&mut self, next: MediaTime) {
        let Some(last) = self.packets.back() else { return };
        let (at, ended) = (last.at, last.rtp.get(1).is_some_and(|byte| byte & MARKER != 0));
        if at == next || !ended {
            while self.packets.pop_back_if(|packet| packet.at == at).is_some() {}
        }
    }

    /// The tallest picture that is of use, pixels.
    pub fn need(&self, height: u32) {
        self.track.need(height);
    }

    /// Stamp of the newest packet up to the moment of [`Viewer::advance`], ns on the lane's line.
    pub fn heard(&self) -> Option<u64> {
        self.heard
    }

    /// Decodes what is shown at some moments of the lane's line (ns, rising). [`Viewer::advance`] goes through them.
    /// `spot`: where all of it is shown, if that is known.
    pub fn decode(&mut self, moments: &[u64], spot: Option<Spot>) -> Result<(), MediaError> {
        let Some(last) = moments.last().copied() else { return Ok(()) };
        self.decode_until(last, moments, spot)?;
        self.ask_for_keyframe();
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.iter_mut().filter(|shown| shown.at <= last).for_each(|shown| self.make_ready(shown, spot));
        self.ahead = ahead;
        Ok(())
    }

    fn decode_until(&mut self, last: u64, moments: &[u64], spot: Option<Spot>) -> Result<(), MediaError> {
        loop {
            if self.ahead.back().is_some_and(|newest| newest.at > last) {
                return Ok(());
            }
            let Some(first) = self.packets.front() else { return Ok(()) };
            let at = timeline(first.at, self.base).unwrap_or(0);
            if at > last && (self.inside == 0 || self.inside > MOST_AHEAD) {
                return Ok(());
            }
            let count = self.packets.iter().take_while(|packet| packet.at == first.at).count();
            // one that is over before it would be shown (the next sent may be shown earlier), and that nothing refers to
            let shown = moments.iter().find(|moment| at <= **moment);
            let next = self.packets.get(count).and_then(|next| timeline(next.at, self.base));
            let over = next.zip(shown).is_some_and(|(next, shown)| (at..=*shown).contains(&next));
            let picture: Vec<StampedPacket> = self.packets.drain(..count).collect();
            if over && self.disposable(&picture) {
                continue;
            }
            let out = self.unpacker.push(&picture, gst::ClockTime::from_nseconds(at))?;
            self.inside += 1;
            self.collect(out, at, moments, spot);
        }
    }

    /// Goes on to a moment up to which was decoded. Then [`Viewer::shown`] is its picture.
    pub fn advance(&mut self, until: u64) {
        while let Some(at) = self.coming.pop_front_if(|at| *at <= until) {
            self.heard = Some(at);
        }
        while let Some(next) = self.ahead.pop_front_if(|next| next.at <= until) {
            let former = self.shown.replace(next);
            self.spare.extend(former.and_then(|shown| shown.small).map(|small| small.bytes));
        }
    }

    /// What is done for a picture that will be shown, while its pixels are in the cache.
    fn make_ready(&mut self, shown: &mut Shown, spot: Option<Spot>) {
        if std::mem::replace(&mut shown.ready, true) {
            return;
        }
        let Some(planes) = shown.whole.as_ref().and_then(planes_of) else { return };
        self.look(&planes, shown.at);
        if let Some(spot) = spot {
            shown.small = self.small(&planes, spot);
        }
    }

    /// Notes what the picture is like, now and then.
    fn look(&self, planes: &Planes<'_>, at: u64) {
        let at = MediaTime(self.base.0 + at);
        if !self.track.senses().wants_picture(at) {
            return;
        }
        let (width, height) = (planes.size.width as usize, planes.size.height as usize);
        if let Some(thumb) = Thumb::of(planes.planes[0], planes.strides[0], width, height) {
            self.track.senses().saw(at, thumb);
        }
    }

    /// `None` if that would be no smaller.
    fn small(&mut self, planes: &Planes<'_>, spot: Spot) -> Option<Small> {
        let (cut, landing) = place(spot.fit, planes.size, spot.rect);
        let shape = Shape::of(Size { width: landing.width, height: landing.height });
        let pixels = u64::from(planes.size.width) * u64::from(planes.size.height);
        if u64::from(landing.width) * u64::from(landing.height) >= pixels {
            return None;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.resize(shape.bytes, 0);
        Painter { shape, bytes: &mut bytes }.picture(&mut self.scaler, planes, cut, shape.whole(), 0);
        Some(Small { spot, landing, shape, bytes })
    }

    fn disposable(&self, picture: &[StampedPacket]) -> bool {
        let codec = self.track.source().codec;
        picture.iter().all(|packet| packet.payload().is_some_and(|payload| disposable(codec, payload)))
    }

    fn collect(&mut self, out: Vec<Out>, inside: u64, moments: &[u64], spot: Option<Spot>) {
        for out in out {
            match out {
                Out::Caps(caps) => self.info = gst_video::VideoInfo::from_caps(&caps).ok(),
                Out::Buffer(buffer) => {
                    let at = buffer.pts().map_or(inside, gst::ClockTime::nseconds);
                    let Some(info) = &self.info else { continue };
                    let Ok(frame) = gst_video::VideoFrame::from_buffer_readable(buffer, info) else { continue };
                    self.unpacker.renewal_is_over();
                    self.inside = 0;
                    self.serial += 1;
                    if moments.last().is_some_and(|last| at <= *last) {
                        self.end_former(at, moments, spot);
                    }
                    let whole = Some(frame);
                    self.ahead.push_back(Shown { whole, small: None, at, serial: self.serial, ready: false });
                }
            }
        }
    }

    /// The newest picture is over at `at`: it is kept only if it is shown at a moment of its own, and no larger than it is
    /// shown then. (The last one of all may stand for long, in other places: that one stays whole.)
    fn end_former(&mut self, at: u64, moments: &[u64], spot: Option<Spot>) {
        let Some(mut former) = self.ahead.pop_back() else { return };
        if moments.iter().any(|moment| (former.at..at).contains(moment)) {
            self.make_ready(&mut former, spot);
            if former.small.is_some() {
                former.whole = None;
            }
            self.ahead.push_back(former);
        }
    }

    pub fn shown(&self) -> Option<&Shown> {
        self.shown.as_ref()
    }
}
