//! RTSP cameras: what they offer, and the elements that make the hub's media of it.
//!
//! Owns: which streams of a session are taken, the table of formats. Must not touch: reconnecting, the room.
//! Law: H.264 and Opus go through as they are; what a recording cannot hold is made H.264 or Opus here, once for all
//! recordings. Sound and picture are in step by the camera's sender reports, and until those come by their arrival.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;
use tokio_util::sync::CancellationToken;

use super::Kit;
use super::life::{H264_OUT, LARGEST, Life, OPUS_OUT, SOUND_OUT, encoded, listen};
use super::seat::Seat;
use crate::media::picture::UNPACK;
use crate::media::sieve;
use crate::model::TrackKind;
use crate::model::source::{Address, Login, Transport, bitrate};

/// How long packets are put in order and waited for, ms. Nobody listens live; mixed recordings are 1.3 s behind.
const LATENCY_MS: u32 = 500;

/// Pictures that are encoded anew are taken to come at such a rate, for the bits that they get.
const FPS: u32 = 25;

/// From the name of an RTP payload format to the elements that undo it, up to `H264_OUT` and the like.
fn described(kit: &Kit, kind: TrackKind, encoding: &str, bits: Option<u32>) -> Option<Result<String, String>> {
    let bits = bits.unwrap_or_else(|| bitrate(LARGEST.width, LARGEST.height, FPS));
    let coded =
        |decoder: &str| Some(encoded(&kit.encoders, LARGEST, FPS, bits).map(|out| format!("{decoder} ! {out}")));
    let heard = |decoder: &str| Some(Ok(format!("{decoder} ! {SOUND_OUT}")));
    match (kind, encoding) {
        (TrackKind::Video, "H264") => Some(Ok(format!("{UNPACK} ! {H264_OUT}"))),
        (TrackKind::Video, "H265") => {
            coded("rtph265depay ! h265parse ! avdec_h265 max-threads=2 direct-rendering=false")
        }
        (TrackKind::Video, "JPEG") => coded("rtpjpegdepay ! jpegdec max-errors=-1"),
        (TrackKind::Audio, "OPUS" | "X-GST-OPUS-DRAFT-SPITTKA-00") => {
            Some(Ok(format!("rtpopusdepay ! opusparse ! {OPUS_OUT}")))
        }
        (TrackKind::Audio, "MPEG4-GENERIC") => heard("rtpmp4gdepay ! aacparse ! avdec_aac"),
        (TrackKind::Audio, "MP4A-LATM") => heard("rtpmp4adepay ! aacparse ! avdec_aac"),
        (TrackKind::Audio, "PCMA") => heard("rtppcmadepay ! alawdec"),
        (TrackKind::Audio, "PCMU") => heard("rtppcmudepay ! mulawdec"),
        (TrackKind::Audio, "L16") => heard("rtpL16depay"),
        (TrackKind::Audio, "G722") => heard("rtpg722depay ! avdec_g722"),
        _ => None,
    }
}

fn format_of(caps: &gst::CapsRef) -> Option<(TrackKind, String)> {
    let of = caps.structure(0)?;
    let kind = match of.get::<&str>("media").ok()? {
        "audio" => TrackKind::Audio,
        "video" => TrackKind::Video,
        _ => return None,
    };
    // static payload types may come without a name (RFC 3551 §6)
    let named = of.get::<&str>("encoding-name").ok().map(str::to_ascii_uppercase);
    let number = || match of.get::<i32>("payload").ok()? {
        0 => Some("PCMU"),
        8 => Some("PCMA"),
        10 | 11 => Some("L16"),
        26 => Some("JPEG"),
        _ => None,
    };
    Some((kind, named.or_else(|| number().map(str::to_owned))?))
}

pub(super) struct Camera {
    pub address: Address,
    pub login: Option<Login>,
    pub transport: Transport,
    pub insecure: bool,
    pub bitrate: Option<u32>,
}

impl Camera {
    /// `turn`: counts the lives in which nothing came, for those who do not know which transport will do.
    pub async fn live(
        &self,
        kit: &Kit,
        seat: &Arc<Seat>,
        turn: u32,
        stop: &CancellationToken,
        flows: &(dyn Fn() + Sync),
    ) -> Option<String> {
        let life = match self.pipeline(kit, seat, turn) {
            Ok(life) => life,
            Err(why) => return Some(why),
        };
        let why = life.run(seat, &[TrackKind::Audio, TrackKind::Video], stop, flows).await;
        why.map(|why| self.address.redact(&why))
    }

    fn pipeline(&self, kit: &Kit, seat: &Arc<Seat>, turn: u32) -> Result<Life, String> {
        let source = gst::ElementFactory::make("rtspsrc")
            .build()
            .map_err(|_| "no rtspsrc: install gstreamer1.0-plugins-good")?;
        source.set_property("location", self.address.expose());
        if let Some(Login { user, password }) = &self.login {
            source.set_property("user-id", user);
            source.set_property("user-pw", password.expose());
        }
        let way = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Auto if turn.is_multiple_of(2) => "tcp",
            Transport::Auto => "udp",
        };
        source.set_property_from_str("protocols", way);
        source.set_property("latency", LATENCY_MS);
        if self.insecure {
            source.set_property_from_str("tls-validation-flags", "0");
        }
        let pipeline = gst::Pipeline::new();
        pipeline.add(&source).map_err(|e| e.to_string())?;
        let life = Life::new(pipeline, &kit.encoders);
        let say = life.mouth();
        // asked after a certificate was found wanting; the error that follows names no cause
        source.connect("accept-certificate", false, move |values| {
            let _ = say.try_send(untrusted(values.get(3)));
            Some(false.to_value())
        });

        let taken = Arc::new(Mutex::new(BTreeSet::new()));
        let (chooser, offered, known) = (Arc::clone(&taken), Arc::clone(seat), kit.clone());
        source.connect("select-stream", false, move |values| {
            let caps = values.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
            let format = caps.and_then(|caps| format_of(&caps));
            let usable = format.as_ref().filter(|(kind, name)| described(&known, *kind, name, None).is_some());
            let mut taken = chooser.lock().unwrap_or_else(PoisonError::into_inner);
            // the first of each kind: further ones are the same in other sizes
            let wanted = usable.is_some_and(|(kind, _)| taken.insert(*kind));
            tracing::info!(?format, wanted, "a stream of an RTSP source");
            offered.offers(taken.iter().copied());
            Some(wanted.to_value())
        });
        let (within, say) = (life.pipeline.downgrade(), life.mouth());
        let (kit, seat, bits) = (kit.clone(), Arc::clone(seat), self.bitrate);
        source.connect_pad_added(move |_, pad| {
            let Some(pipeline) = within.upgrade() else { return };
            if let Err(why) = branch(&pipeline, pad, &kit, &seat, bits) {
                let _ = say.try_send(why);
            }
        });
        Ok(life)
    }
}

/// What is wrong with a certificate, as GIO's flags say.
fn untrusted(flags: Option<&gst::glib::Value>) -> String {
    let read = flags.and_then(gst::glib::FlagsValue::from_value);
    let faults: Vec<&str> = read.iter().flat_map(|(_, values)| values).map(|value| value.nick()).collect();
    format!("its certificate is not trusted ({})", faults.join(", "))
}

fn branch(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    kit: &Kit,
    seat: &Arc<Seat>,
    bits: Option<u32>,
) -> Result<(), String> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let Some((kind, name)) = format_of(&caps) else { return Ok(()) };
    let description = described(kit, kind, &name, bits).ok_or(format!("{name} is not taken"))??;
    let bin = gst::parse::bin_from_description(&description, true).map_err(|e| e.message().to_owned())?;
    let torn = Arc::clone(seat);
    sieve::guard(&bin, move || torn.lost(kind));
    listen(&bin, kind, seat, kit.meridian)?;
    // what the jitter buffer gave up on
    let losses = Arc::clone(seat);
    let begun = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probed| {
        let gap = probed.buffer().is_some_and(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT));
        // the first one joins on to nothing
        if begun.swap(true, Ordering::Relaxed) && gap {
            metrics::counter!("holdfast_source_lost_total", "kind" => kind.as_str()).increment(1);
            losses.lost(kind);
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.add(&bin).map_err(|e| e.to_string())?;
    let entry = bin.static_pad("sink").ok_or("a branch without entry")?;
    bin.sync_state_with_parent().map_err(|e| e.to_string())?;
    pad.link(&entry).map_err(|e| e.to_string())?;
    Ok(())
}
