//! Looks at what a lane of somebody's own writes: now and then it decodes one keyframe, alone, when nobody else needs
//! the processor.
//!
//! Owns: the one thread that does it. Must not touch: the lane, which never waits for it.
//! Law: a picture that cannot be looked at now is not looked at; nothing else follows from it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use super::MediaError;
use super::chain::{Chain, Out};
use super::senses::{Senses, Thumb};
use crate::model::MediaTime;

/// Keyframes that may wait: one of each of 25 publishers, whose segments end together.
const QUEUE: usize = 32;
/// Everything else goes before.
const NICE: i32 = 15;
const DECODE: &str = "h264parse ! avdec_h264 max-threads=1 output-corrupt=false ! videoconvert n-threads=1 ! \
                      capsfilter caps=video/x-raw,format=I420";

struct Keyframe {
    senses: Arc<Senses>,
    at: MediaTime,
    /// A whole access unit with its parameter sets, as a byte stream.
    unit: gst::Buffer,
}

/// A lane has this keyframe, which was captured at `at`: it is looked at if it is time to.
pub(super) fn keyframe(senses: &Arc<Senses>, at: MediaTime, unit: &gst::Buffer) {
    static LOOKER: OnceLock<Option<SyncSender<Keyframe>>> = OnceLock::new();
    if !senses.wants_picture(at) {
        return;
    }
    if let Some(looker) = LOOKER.get_or_init(start) {
        let keyframe = Keyframe { senses: senses.clone(), at, unit: unit.clone() };
        if looker.try_send(keyframe).is_err() {
            metrics::counter!("holdfast_looks_skipped_total").increment(1);
        }
    }
}

fn start() -> Option<SyncSender<Keyframe>> {
    let (to, from) = sync_channel(QUEUE);
    let spawned = std::thread::Builder::new().name("look".into()).spawn(move || run(&from));
    match spawned {
        Ok(_) => Some(to),
        Err(error) => {
            tracing::error!(%error, "there is no thread that looks at pictures: nobody will be told of black ones");
            None
        }
    }
}

fn run(from: &Receiver<Keyframe>) {
    // of this thread, where Linux is concerned
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "pictures are looked at with the priority of everything else");
    }
    while let Ok(Keyframe { senses, at, unit }) = from.recv() {
        match catch_unwind(AssertUnwindSafe(|| thumb(unit))) {
            Ok(Ok(Some(thumb))) => {
                metrics::counter!("holdfast_looks_total").increment(1);
                senses.saw(at, thumb);
            }
            Ok(Ok(None)) => tracing::debug!("a keyframe gave no picture"),
            Ok(Err(error)) => tracing::debug!(%error, "a keyframe cannot be decoded"),
            Err(_) => tracing::error!("looking at a picture met with something that it does not know"),
        }
    }
}

/// Decodes one keyframe.
fn thumb(mut unit: gst::Buffer) -> Result<Option<Thumb>, MediaError> {
    let caps =
        gst::Caps::builder("video/x-h264").field("stream-format", "byte-stream").field("alignment", "au").build();
    // the lane's own time means nothing here; its bytes are shared
    unit.make_mut().set_pts(gst::ClockTime::ZERO);
    let chain = Chain::new(DECODE, &caps)?;
    chain.push(unit)?;
    let mut info = None;
    for out in chain.finish()? {
        match out {
            Out::Caps(caps) => info = gst_video::VideoInfo::from_caps(&caps).ok(),
            Out::Buffer(buffer) => {
                let Some(frame) =
                    info.as_ref().and_then(|info| gst_video::VideoFrame::from_buffer_readable(buffer, info).ok())
                else {
                    continue;
                };
                let stride = frame.plane_stride().first().and_then(|stride| usize::try_from(*stride).ok());
                let Some((luma, stride)) = frame.plane_data(0).ok().zip(stride) else { continue };
                return Ok(Thumb::of(luma, stride, frame.width() as usize, frame.height() as usize));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::media::picture::Black;

    /// What an encoder here makes of darkness is dark, whatever its size; and what is no picture is none.
    #[test]
    fn a_keyframe_is_seen_as_it_was_drawn() {
        crate::media::init().expect("GStreamer with what a recording needs");
        let present: BTreeSet<&str> = crate::media::present();
        for size in [(320, 180), (1280, 720), (18, 34)] {
            let mut black = Black::new(size, &present).expect("it starts");
            let unit = black.picture(Duration::from_secs(7)).expect("it encodes").remove(0);
            let dark = Thumb::of(&vec![16; 64 * 36], 64, 64, 36).expect("whole");
            let began = Instant::now();
            assert_eq!(thumb(unit.bytes).expect("it decodes"), Some(dark), "{size:?}");
            println!("{size:?}: {:?}", began.elapsed());
        }
        let noise = gst::Buffer::from_slice(vec![7; 1000]);
        assert!(!matches!(thumb(noise), Ok(Some(_))));
    }
}
