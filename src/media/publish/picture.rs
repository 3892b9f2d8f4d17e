//! Makes RTP: a test picture and its beeps, or a media file, encoded by GStreamer at the pace of a clock.
//!
//! Owns: the publisher's pipeline. Must not touch: the network.
//! Law: picture and sound leave one pipeline with one clock; what a packet's time stamp means travels with it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer::prelude::*;
use gstreamer::{self as gst, ClockTime};
use gstreamer_app::{AppSink, AppSinkCallbacks};
use tokio::sync::mpsc;

use super::draw::{Canvas, flash, write_text};
use super::link::Packet;
use super::{PublishError, Source, TestPicture, VideoCodec};
use crate::model::TrackKind;

/// RTP packets that may wait between the pipeline and the network.
const QUEUE: usize = 512;
const SECOND: u64 = 1_000_000_000;
const BEEP: u64 = SECOND / 10;
/// Below every MTU that a hospital's VPN leaves.
const MTU: u32 = 1150;

/// A packet out of the pipeline.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub kind: TrackKind,
    pub packet: Packet,
}

#[derive(Debug)]
enum Told {
    Packet(TrackKind, Made),
    Over,
    Failed(String),
}

/// A packet of a [`Script`].
#[derive(Debug, Clone)]
pub struct Made {
    pub kind: TrackKind,
    /// Simulcast layer, counted from the smallest; 0 without simulcast.
    pub layer: usize,
    /// Since the script's beginning
    pub at: Duration,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
}

/// RTP packets that were made beforehand, to be sent many times: cheap publishers for benches and tests.
#[derive(Debug, Clone)]
pub struct Script {
    pub packets: Vec<Made>,
    pub length: Duration,
}

/// A running pipeline.
pub(super) struct Picture {
    pipeline: gst::Pipeline,
    told: mpsc::Receiver<Told>,
}

fn failed(error: impl std::fmt::Display) -> PublishError {
    PublishError::Pipeline(error.to_string())
}

fn launch(description: &str) -> Result<gst::Pipeline, PublishError> {
    gst::init().map_err(failed)?;
    let element = gst::parse::launch(description).map_err(failed)?;
    element.downcast::<gst::Pipeline>().map_err(|_| failed("it is no pipeline"))
}

fn video_chain(codec: VideoCodec, bitrate: u32, keyframe_frames: u32) -> String {
    match codec {
        VideoCodec::H264 => format!(
            "x264enc name=encoder tune=zerolatency speed-preset=superfast threads=1 bframes=0 bitrate={} \
             key-int-max={keyframe_frames} ! video/x-h264,profile=constrained-baseline,stream-format=byte-stream ! \
             rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu={MTU} pt=102",
            bitrate / 1000
        ),
        VideoCodec::Vp8 => format!(
            "vp8enc name=encoder deadline=1 cpu-used=8 threads=1 error-resilient=partitions target-bitrate={bitrate} \
             keyframe-max-dist={keyframe_frames} ! rtpvp8pay picture-id-mode=2 mtu={MTU} pt=96"
        ),
    }
}

const AUDIO_CHAIN: &str = "opusenc bitrate=64000 frame-size=20 inband-fec=true packet-loss-percentage=5 ! \
                           rtpopuspay pt=111 perfect-rtptime=false";

/// `seconds`: so much as fast as possible; otherwise live and without end.
fn test_pipeline(
    picture: &TestPicture,
    codec: VideoCodec,
    seconds: Option<u32>,
    to: &mpsc::Sender<Told>,
) -> Result<gst::Pipeline, PublishError> {
    let TestPicture { width, height, fps, bitrate, colour, .. } = picture;
    if *fps == 0 || *width < 16 || *height < 16 || width % 2 != 0 || height % 2 != 0 || *bitrate < 10_000 {
        return Err(failed("a test picture needs even sizes from 16, a rate, and at least 10 kbit/s"));
    }
    let (frames, sounds) = match seconds {
        Some(seconds) => (format!("num-buffers={}", seconds * fps), format!("num-buffers={}", seconds * 50)),
        None => (String::new(), String::new()),
    };
    let live = seconds.is_none();
    let video = video_chain(codec, *bitrate, if live { fps * 60 } else { fps * 2 });
    let background = 0xff00_0000u32 | colour;
    let pipeline = launch(&format!(
        "videotestsrc is-live={live} {frames} pattern=ball animation-mode=running-time background-color={background} ! \
         video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 ! identity name=paint ! queue ! {video} ! \
         appsink name=video sync=false \
         audiotestsrc is-live={live} {sounds} samplesperbuffer=960 wave=silence ! \
         audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=2 ! identity name=beep ! queue ! \
         {AUDIO_CHAIN} ! appsink name=audio sync=false"
    ))?;
    paint(&pipeline, picture)?;
    listen(&pipeline, TrackKind::Video, to)?;
    listen(&pipeline, TrackKind::Audio, to)?;
    Ok(pipeline)
}

/// Draws flash, clock and label on every frame that passes, and the beep into the sound beside it.
///
/// Live sources begin at whatever moment their clock shows, each at its own; full seconds count from the first frame,
/// for both.
fn paint(pipeline: &gst::Pipeline, picture: &TestPicture) -> Result<(), PublishError> {
    let pad_of = |name: &str| pipeline.by_name(name).and_then(|paint| paint.static_pad("src"));
    let (video, audio) = (pad_of("paint").zip(pad_of("beep"))).ok_or_else(|| failed("nothing to paint on"))?;
    let origin: Arc<OnceLock<u64>> = Arc::default();
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (label, flashes) = (picture.label.clone(), picture.flash_beep);
    let beat = Arc::clone(&origin);
    video.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let Some(at) = buffer.pts() else { return gst::PadProbeReturn::Ok };
        let Ok(mut map) = buffer.make_mut().map_writable() else { return gst::PadProbeReturn::Ok };
        let Some(mut canvas) = Canvas::i420(&mut map, width, height) else { return gst::PadProbeReturn::Ok };
        let since = at.nseconds().saturating_sub(*beat.get_or_init(|| at.nseconds()));
        // Frame times are rounded down.
        if flashes && (since + 1_000_000) % SECOND < BEEP {
            flash(&mut canvas);
        }
        let (seconds, millis) = (since / SECOND, since / 1_000_000 % 1000);
        let clock = format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let scale = (height / 90).max(1);
        write_text(&mut canvas, &clock, 2 * scale, 2 * scale, scale);
        write_text(&mut canvas, &label, 2 * scale, height.saturating_sub(10 * scale), scale);
        gst::PadProbeReturn::Ok
    });
    audio.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let (Some(at), Some(origin)) = (buffer.pts(), origin.get()) else { return gst::PadProbeReturn::Ok };
        let Ok(mut map) = buffer.make_mut().map_writable() else { return gst::PadProbeReturn::Ok };
        for (n, samples) in map.chunks_exact_mut(4).enumerate() {
            let at = at.nseconds() + n as u64 * SECOND / 48_000;
            let value = at.checked_sub(*origin).map_or(0, |since| tone(since, flashes)).to_le_bytes();
            samples[..2].copy_from_slice(&value);
            samples[2..].copy_from_slice(&value);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// The sound at a moment: a loud 1 kHz for a tenth of each second, or a low hum all the time.
fn tone(since: u64, beeps: bool) -> i16 {
    let (hertz, loud) = if beeps { (1000.0, 0.6) } else { (440.0, 0.05) };
    if beeps && since % SECOND >= BEEP {
        return 0;
    }
    let phase = (since % SECOND) as f64 / SECOND as f64 * hertz * std::f64::consts::TAU;
    (phase.sin() * loud * f64::from(i16::MAX)) as i16
}

fn file_pipeline(
    path: &std::path::Path,
    codec: VideoCodec,
    to: &mpsc::Sender<Told>,
) -> Result<gst::Pipeline, PublishError> {
    let path = path.canonicalize().map_err(|error| failed(format!("{}: {error}", path.display())))?;
    let uri = url::Url::from_file_path(&path).map_err(|()| failed("the file has no address"))?;
    let source = gst::ElementFactory::make("uridecodebin").property("uri", uri.as_str()).build().map_err(failed)?;
    let pipeline = gst::Pipeline::new();
    pipeline.add(&source).map_err(failed)?;
    let (weak, to) = (pipeline.downgrade(), to.clone());
    source.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        if let Err(error) = add_branch(&pipeline, pad, codec, &to) {
            let _ = to.try_send(Told::Failed(error.to_string()));
        }
    });
    Ok(pipeline)
}

/// Encodes a stream of the file; the first sound and the first picture, since a participant has no more.
fn add_branch(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    codec: VideoCodec,
    to: &mpsc::Sender<Told>,
) -> Result<(), PublishError> {
    let caps = pad.current_caps().or_else(|| Some(pad.query_caps(None)));
    let name = caps.and_then(|caps| caps.structure(0).map(|structure| structure.name().to_string()));
    let (kind, chain) = match name.as_deref() {
        Some("video/x-raw") => {
            let video = video_chain(codec, 2_500_000, 1800);
            (TrackKind::Video, format!("queue ! videoconvert ! videorate drop-only=true max-rate=30 ! {video}"))
        }
        Some("audio/x-raw") => {
            let sound = format!("audioconvert ! audioresample ! audio/x-raw,rate=48000 ! {AUDIO_CHAIN}");
            (TrackKind::Audio, format!("queue ! {sound}"))
        }
        _ => return Ok(()),
    };
    if pipeline.by_name(kind.as_str()).is_some() {
        return Ok(());
    }
    let description = format!("{chain} ! appsink name={} sync=true async=false", kind.as_str());
    let branch = gst::parse::bin_from_description(&description, true).map_err(failed)?;
    pipeline.add(&branch).map_err(failed)?;
    listen(pipeline, kind, to)?;
    let entry = branch.static_pad("sink").ok_or_else(|| failed("a branch without entry"))?;
    branch.sync_state_with_parent().map_err(failed)?;
    pad.link(&entry).map_err(failed)?;
    Ok(())
}

/// Sends what comes out of the sink of this kind to `to`.
fn listen(pipeline: &gst::Pipeline, kind: TrackKind, to: &mpsc::Sender<Told>) -> Result<(), PublishError> {
    let sink = pipeline.by_name(kind.as_str()).and_then(|sink| sink.downcast::<AppSink>().ok());
    let sink = sink.ok_or_else(|| failed("a pipeline without sink"))?;
    let to = to.clone();
    let callbacks = AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let Some(made) = read(&sample, kind) else { return Ok(gst::FlowSuccess::Ok) };
            // The pipeline waits for the network; nobody else does.
            to.blocking_send(Told::Packet(kind, made)).map_err(|_| gst::FlowError::Eos)?;
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    sink.set_callbacks(callbacks);
    Ok(())
}

/// A packet and the running time of what it holds.
fn read(sample: &gst::Sample, kind: TrackKind) -> Option<Made> {
    let buffer = sample.buffer()?;
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let at = segment.to_running_time(buffer.pts()?)?;
    let map = buffer.map_readable().ok()?;
    let [first, second, _, _, a, b, c, d, _, _, _, _, rest @ ..] = map.as_slice() else { return None };
    // The payloaders write neither extensions nor padding; contributing sources would stand here.
    let payload = rest.get(usize::from(first & 0x0f) * 4..)?;
    Some(Made {
        kind,
        layer: 0,
        at: Duration::from_nanos(at.nseconds()),
        timestamp: u32::from_be_bytes([*a, *b, *c, *d]),
        marker: second & 0x80 != 0,
        payload: Bytes::copy_from_slice(payload),
    })
}

impl Picture {
    pub fn new(source: &Source, codec: VideoCodec) -> Result<Picture, PublishError> {
        gst::init().map_err(failed)?;
        let (to, told) = mpsc::channel(QUEUE);
        let pipeline = match source {
            Source::TestPicture(picture) => test_pipeline(picture, codec, None, &to)?,
            Source::File(path) => file_pipeline(path, codec, &to)?,
        };
        Picture::of(pipeline, told, to)
    }

    fn of(
        pipeline: gst::Pipeline,
        told: mpsc::Receiver<Told>,
        to: mpsc::Sender<Told>,
    ) -> Result<Picture, PublishError> {
        let bus = pipeline.bus().ok_or_else(|| failed("a pipeline without bus"))?;
        bus.set_sync_handler(move |_, message| {
            let word = match message.view() {
                gst::MessageView::Eos(_) => Some(Told::Over),
                gst::MessageView::Error(error) => Some(Told::Failed(error.error().to_string())),
                _ => None,
            };
            if let Some(word) = word {
                // These are the pipeline's own threads: they may wait for room.
                let _ = to.blocking_send(word);
            }
            gst::BusSyncReply::Drop
        });
        Ok(Picture { pipeline, told })
    }

    pub fn play(&mut self) -> Result<(), PublishError> {
        self.pipeline.set_state(gst::State::Playing).map_err(failed)?;
        Ok(())
    }

    /// The next packet; `None` when the source is over.
    pub async fn next(&mut self) -> Result<Option<Fresh>, PublishError> {
        match self.told.recv().await {
            Some(Told::Packet(kind, made)) => {
                let now = Instant::now();
                let running = self.pipeline.current_running_time().unwrap_or(ClockTime::ZERO);
                let late = Duration::from_nanos(running.nseconds()).saturating_sub(made.at);
                let captured = now.checked_sub(late).unwrap_or(now);
                let packet = Packet { timestamp: made.timestamp, marker: made.marker, payload: made.payload, captured };
                Ok(Some(Fresh { kind, packet }))
            }
            Some(Told::Over) | None => Ok(None),
            Some(Told::Failed(why)) => Err(PublishError::Pipeline(why)),
        }
    }

    /// The next frame becomes a keyframe.
    pub fn keyframe(&self) {
        // Straight to the encoder: on its way there it would make the payloader send parameter sets of its own.
        let Some(pad) = self.pipeline.by_name("encoder").and_then(|encoder| encoder.static_pad("src")) else { return };
        let request = gst::Structure::builder("GstForceKeyUnit").field("all-headers", true).build();
        pad.send_event(gst::event::CustomUpstream::new(request));
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // A thread that waits for room in the channel must find it closed, or stopping would wait for it.
        self.told.close();
        while self.told.try_recv().is_ok() {}
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Script {
    /// Encodes `seconds` of the test picture as fast as the machine can. Blocks.
    pub fn record(picture: &TestPicture, codec: VideoCodec, seconds: u32) -> Result<Script, PublishError> {
        gst::init().map_err(failed)?;
        let (to, told) = mpsc::channel(QUEUE);
        let pipeline = test_pipeline(picture, codec, Some(seconds), &to)?;
        let mut running = Picture::of(pipeline, told, to)?;
        running.play()?;
        let mut packets = Vec::new();
        loop {
            match running.told.blocking_recv() {
                Some(Told::Packet(_, made)) => packets.push(made),
                Some(Told::Over) | None => break,
                Some(Told::Failed(why)) => return Err(PublishError::Pipeline(why)),
            }
        }
        // Stable: packets of one frame keep their order.
        packets.sort_by_key(|made: &Made| made.at);
        Ok(Script { packets, length: Duration::from_secs(u64::from(seconds)) })
    }

    /// One publisher's simulcast out of scripts of the same length, smallest first: all their pictures, the sound of
    /// the first.
    pub fn simulcast(layers: &[Script]) -> Script {
        let mut packets: Vec<Made> = Vec::new();
        for (layer, script) in layers.iter().enumerate() {
            let of_layer = script.packets.iter().filter(|made| layer == 0 || made.kind == TrackKind::Video);
            packets.extend(of_layer.map(|made| match made.kind {
                TrackKind::Video => Made { layer, ..made.clone() },
                TrackKind::Audio => made.clone(),
            }));
        }
        // Stable: packets of one frame keep their order.
        packets.sort_by_key(|made| made.at);
        Script { packets, length: layers.first().map_or(Duration::ZERO, |script| script.length) }
    }
}
