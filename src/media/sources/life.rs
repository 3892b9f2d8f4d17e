//! One life of a pipeline that fetches media: from its start to the word that ends it.
//!
//! Owns: the pipeline's state and bus, the stamps of what comes out of it. Must not touch: what is fetched, whether there
//! is a next life.
//! Law: a driver that hangs costs a thread, never the task that waits for it; a stamp is when its media was captured, by
//! the pipeline's times on the one monotonic clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::seat::{Made, Seat};
use crate::media::MediaClock;
use crate::model::encoder::PictureEncoder;
use crate::model::mix::Size;
use crate::model::{Codec, MediaTime, TrackKind, encoder};

/// A device or a server that has not begun after so long will not.
const START_WITHIN: Duration = Duration::from_secs(20);
/// A teardown waits for what is on the other side.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Nothing has come for so long: it is begun anew.
const SILENT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);
/// A source is asked for a keyframe at most so often.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(500);
/// Words of the bus that wait; the first ones tell what is wrong.
const WORDS: usize = 16;

/// H.264 of any source as the hub has it: parameter sets before each keyframe, since cameras may tell them once, or in
/// the session's description alone. It goes nowhere but through memory, so packets may be large.
pub(super) const H264_OUT: &str = "h264parse config-interval=-1 ! \
    capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au ! \
    rtph264pay pt=102 mtu=16000 aggregate-mode=zero-latency config-interval=0 ! \
    appsink name=video sync=false async=false";
/// Samples of any source as the hub has them. A drift of more than 10 ms is told by the stamps, which recordings
/// follow; less is jitter.
pub(super) const SOUND_OUT: &str = "audioconvert ! audioresample ! \
    capsfilter caps=audio/x-raw,rate=48000,channels=[1,2] ! \
    opusenc bitrate=96000 frame-size=20 tolerance=10000000 ! \
    rtpopuspay pt=111 perfect-rtptime=false ! appsink name=audio sync=false async=false";
/// Opus that is Opus already.
pub(super) const OPUS_OUT: &str = "rtpopuspay pt=111 perfect-rtptime=false ! appsink name=audio sync=false async=false";

/// The largest picture that is encoded here; what is larger is made smaller first.
pub(super) const LARGEST: Size = Size { width: 1920, height: 1080 };

/// What may have to make a keyframe, by its factory: a recording's wish goes to all that are there.
const KEYFRAME_MAKERS: [&str; 2] = ["rtph264depay", "v4l2src"];

/// Pictures in memory to `H264_OUT`, by the board's best encoder. When it is too slow, pictures are left out here.
pub(super) fn encoded(encoders: &[PictureEncoder], size: Size, fps: u32, bitrate: u32) -> Result<String, String> {
    let encoder = encoders.first().ok_or("the board has no encoder of pictures: install gstreamer1.0-plugins-ugly")?;
    // keyframes come when a recording asks for them, and otherwise every 10 s
    let coding = encoder::Coding { size, fps, bitrate, gop: 10 };
    let Size { width, height } = LARGEST;
    Ok(format!(
        "queue max-size-buffers=3 max-size-bytes=0 max-size-time=0 leaky=downstream ! videoconvert ! videoscale ! \
         capsfilter caps=\"video/x-raw,format=I420,width=(int)[16,{width},2],height=(int)[16,{height},2],\
         pixel-aspect-ratio=1/1\" ! {} ! {H264_OUT}",
        (encoder.chain)(&coding)
    ))
}

/// How GStreamer's monotonic clock and the box's media clock stand to each other. Both follow the kernel's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meridian {
    /// GStreamer's time minus media time, ns.
    ahead: i128,
}

impl Meridian {
    pub fn new(media: &MediaClock) -> Meridian {
        let clock = gst::SystemClock::obtain();
        // who was interrupted between the readings knows less than who was not
        let tries = (0..16).map(|_| {
            let before = Instant::now();
            let shown = clock.time().nseconds();
            let took = before.elapsed();
            (took, i128::from(shown) - i128::from(media.at(before + took / 2).0))
        });
        let (_, ahead) = tries.min_by_key(|(took, _)| *took).expect("there were tries");
        Meridian { ahead }
    }

    fn media(self, at: u64) -> MediaTime {
        MediaTime(u64::try_from(i128::from(at) - self.ahead).unwrap_or(0))
    }
}

/// A pipeline, and what its bus says.
pub(super) struct Life {
    pub pipeline: gst::Pipeline,
    words: mpsc::Receiver<String>,
    say: mpsc::Sender<String>,
    encoder: Option<&'static str>,
}

impl Life {
    /// `encoder`: the factory of what makes the pictures.
    pub fn new(pipeline: gst::Pipeline, encoders: &[PictureEncoder]) -> Life {
        let (say, words) = mpsc::channel(WORDS);
        if let Some(bus) = pipeline.bus() {
            let say = say.clone();
            bus.set_sync_handler(move |_, message| {
                let word = match message.view() {
                    gst::MessageView::Eos(_) => Some("it ended".to_owned()),
                    // not its debug text, which names addresses
                    gst::MessageView::Error(error) => Some(error.error().message().trim().to_owned()),
                    _ => None,
                };
                // when many wait, the first one is the cause
                let _ = word.map(|word| say.try_send(word));
                gst::BusSyncReply::Drop
            });
        }
        // the sound card's clock would be taken otherwise, and it is not the one that stamps are told by
        pipeline.use_clock(Some(&gst::SystemClock::obtain()));
        Life { pipeline, words, say, encoder: encoders.first().map(|encoder| encoder.factory) }
    }

    /// Ends the life from any thread.
    pub fn mouth(&self) -> mpsc::Sender<String> {
        self.say.clone()
    }

    /// Lives until it is told to stop (`None`) or something ends it, and says what.
    pub async fn run(
        mut self,
        seat: &Seat,
        kinds: &[TrackKind],
        stop: &CancellationToken,
        flows: &(dyn Fn() + Sync),
    ) -> Option<String> {
        let began = Instant::now();
        let why = self.live(seat, kinds, stop, flows, began).await;
        for kind in kinds {
            seat.lost(*kind);
        }
        let pipeline = self.pipeline.clone();
        let _ = aside(STOP_WITHIN, move || pipeline.set_state(gst::State::Null)).await;
        why
    }

    async fn live(
        &mut self,
        seat: &Seat,
        kinds: &[TrackKind],
        stop: &CancellationToken,
        flows: &(dyn Fn() + Sync),
        began: Instant,
    ) -> Option<String> {
        let pipeline = self.pipeline.clone();
        let started = tokio::select! {
            started = aside(START_WITHIN, move || pipeline.set_state(gst::State::Playing)) => started,
            () = stop.cancelled() => return None,
        };
        match started {
            None => return Some("it does not start".into()),
            // the bus knows better
            Some(Err(_)) => return Some(self.words.try_recv().unwrap_or_else(|_| "it does not start".into())),
            Some(Ok(_)) => {}
        }
        let bell = seat.bell();
        let mut asked: Option<Instant> = None;
        let mut look = tokio::time::interval(LOOK);
        let mut flowing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                Some(word) = self.words.recv() => return Some(word),
                () = bell.notified(), if kinds.contains(&TrackKind::Video) => {
                    let due = asked.is_none_or(|at| at.elapsed() >= KEYFRAME_PAUSE);
                    if due && seat.keyframe_wished() {
                        asked = Some(Instant::now());
                        self.ask_for_keyframe();
                    }
                }
                _ = look.tick() => {
                    let heard = kinds.iter().filter_map(|kind| seat.heard(*kind)).max().filter(|at| *at > began);
                    if !flowing && heard.is_some() {
                        flowing = true;
                        flows();
                    }
                    if heard.unwrap_or(began).elapsed() >= SILENT {
                        return Some(format!("nothing has come for {} s", SILENT.as_secs()));
                    }
                }
            }
        }
    }

    fn ask_for_keyframe(&self) {
        // straight to who makes it: on its way there it would make the payloader send parameter sets of its own
        for factory in KEYFRAME_MAKERS.into_iter().chain(self.encoder) {
            for element in self.pipeline.iterate_all_by_element_factory_name(factory).into_iter().flatten() {
                let request = gst::Structure::builder("GstForceKeyUnit").field("all-headers", true).build();
                let pad = element.static_pad("src");
                pad.map(|pad| pad.send_event(gst::event::CustomUpstream::new(request)));
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.pipeline.current_state() != gst::State::Null {
            let pipeline = self.pipeline.clone();
            std::thread::spawn(move || pipeline.set_state(gst::State::Null));
        }
    }
}

/// Does something that may block, on a thread of its own; `None`: it has not come back in time, and is left behind.
pub(super) async fn aside<T: Send + 'static>(limit: Duration, what: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, wait) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("source".into()).spawn(move || drop(done.send(what())));
    spawned.ok()?;
    tokio::time::timeout(limit, wait).await.ok()?.ok()
}

/// Hands what comes out of the sink of this kind, if there is one, to the seat.
pub(super) fn listen(within: &gst::Bin, kind: TrackKind, seat: &Arc<Seat>, meridian: Meridian) -> Result<(), String> {
    let Some(sink) = within.by_name(kind.as_str()) else { return Ok(()) };
    let sink = sink.downcast::<AppSink>().map_err(|_| "a sink of another kind")?;
    let seat = Arc::clone(seat);
    let codec = if kind == TrackKind::Audio { Codec::Opus } else { Codec::H264 };
    let callbacks = AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            if let Some((base, (made, running))) = sink.base_time().zip(read(&sample)) {
                seat.packet(kind, codec, made, meridian.media(base.nseconds() + running));
            }
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    sink.set_callbacks(callbacks);
    Ok(())
}

/// A packet, and the running time of what it holds, ns.
fn read(sample: &gst::Sample) -> Option<(Made, u64)> {
    let buffer = sample.buffer()?;
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let running = segment.to_running_time(buffer.pts()?)?;
    let map = buffer.map_readable().ok()?;
    // the payloaders write neither extensions nor contributing sources nor padding
    let [_, second, _, _, a, b, c, d, _, _, _, _, payload @ ..] = map.as_slice() else { return None };
    let made = Made {
        timestamp: u32::from_be_bytes([*a, *b, *c, *d]),
        marker: second & 0x80 != 0,
        payload: Bytes::copy_from_slice(payload),
    };
    Some((made, running.nseconds()))
}

/// A text as it may stand between quotation marks in a launch description.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A pipeline of a launch description whose sinks feed the seat.
pub(super) fn launch(description: &str, seat: &Arc<Seat>, meridian: Meridian) -> Result<gst::Pipeline, String> {
    let failed = |error: gst::glib::Error| error.message().to_owned();
    let pipeline = gst::parse::launch(description).map_err(failed)?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "the description is of one element")?;
    for kind in [TrackKind::Audio, TrackKind::Video] {
        listen(pipeline.upcast_ref(), kind, seat, meridian)?;
    }
    Ok(pipeline)
}
