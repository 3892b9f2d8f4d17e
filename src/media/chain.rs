//! A chain of GStreamer elements that the lane's own thread runs: what goes in at one end comes out before the call
//! returns.
//!
//! Owns: elements, pads, bus. Must not touch: what the media means.
//! Law: no thread and no queue of its own: a push that returns has done its work, an EOS that returns was seen at the
//! far end. So a lane is one thread, its cuts are exact, and a broken element is an error here and nowhere else.
//! An encoder that is a device has threads of its own: what it gives comes when it comes, and `finish_within` waits.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use super::MediaError;

/// What comes out of a chain, in order.
#[derive(Debug)]
pub enum Out {
    Caps(gst::Caps),
    Buffer(gst::Buffer),
}

#[derive(Default)]
struct Far {
    out: Vec<Out>,
    ended: bool,
    error: Option<String>,
    /// An element asked for a keyframe.
    wants_keyframe: bool,
    /// How the times at the far end are to be read.
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
}

impl Far {
    /// The buffer with the time that it had when it went in: x264enc adds 1000 hours and tells so in its segment.
    fn timed(&self, mut buffer: gst::Buffer) -> gst::Buffer {
        let running = self.segment.as_ref().and_then(|segment| segment.to_running_time(buffer.pts()));
        if running.is_some() && running != buffer.pts() {
            buffer.make_mut().set_pts(running);
        }
        buffer
    }
}

#[derive(Default)]
struct FarEnd {
    state: Mutex<Far>,
    /// Told when the end or an error came.
    over: Condvar,
}

type Shared = Arc<FarEnd>;

fn lock(far: &Shared) -> std::sync::MutexGuard<'_, Far> {
    far.state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Chain {
    pipeline: gst::Pipeline,
    input: gst::Pad,
    output: gst::Pad,
    far: Shared,
    described: String,
}

impl Chain {
    /// Builds and starts the elements of a launch description (`a ! b ! c`) for data of `caps`.
    pub fn new(described: &str, caps: &gst::Caps) -> Result<Chain, MediaError> {
        let far = Shared::default();
        let bin = gst::parse::bin_from_description(described, true)
            .map_err(|e| MediaError::Pipeline(format!("{described}: {e}")))?;
        let torn = far.clone();
        super::sieve::guard(&bin, move || lock(&torn).wants_keyframe = true);
        let pipeline = gst::Pipeline::new();
        super::graphs::note(&pipeline);
        pipeline.add(&bin).expect("a new bin has no parent");

        let (input, output) = (entrance(&far), exit(&far)?);
        hear_errors(&pipeline, &far);
        let chain = Chain { pipeline, input, output, far, described: described.to_owned() };
        let (Some(first), Some(last)) = (bin.static_pad("sink"), bin.static_pad("src")) else {
            return Err(chain.fault("it has no two open ends"));
        };
        chain.output.set_active(true).map_err(|e| chain.fault(&e.to_string()))?;
        chain.input.set_active(true).map_err(|e| chain.fault(&e.to_string()))?;
        chain.input.link(&first).map_err(|e| chain.fault(&e.to_string()))?;
        last.link(&chain.output).map_err(|e| chain.fault(&e.to_string()))?;
        chain.pipeline.set_state(gst::State::Playing).map_err(|e| chain.fault(&e.to_string()))?;
        chain.input.push_event(gst::event::StreamStart::new("lane"));
        chain.input.push_event(gst::event::Caps::new(caps));
        chain.input.push_event(gst::event::Segment::new(gst::FormattedSegment::<gst::ClockTime>::new().as_ref()));
        Ok(chain)
    }

    fn fault(&self, why: &str) -> MediaError {
        let told = lock(&self.far).error.take();
        MediaError::Pipeline(format!("{}: {}", self.described, told.as_deref().unwrap_or(why)))
    }

    fn flown(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) -> Result<(), MediaError> {
        match flow {
            Ok(_) => Ok(()),
            Err(e) => Err(self.fault(&format!("{e:?}"))),
        }
    }

    pub fn push(&self, buffer: gst::Buffer) -> Result<(), MediaError> {
        self.flown(self.input.push(buffer))
    }

    pub fn push_list(&self, list: gst::BufferList) -> Result<(), MediaError> {
        self.flown(self.input.push_list(list))
    }

    /// The next picture out of an encoder in this chain will be a keyframe.
    pub fn force_keyframe(&self) {
        let order = gst::Structure::builder("GstForceKeyUnit")
            .field("timestamp", gst::ClockTime::NONE)
            .field("stream-time", gst::ClockTime::NONE)
            .field("running-time", gst::ClockTime::NONE)
            .field("all-headers", true)
            .field("count", 0_u32)
            .build();
        // with the data, not against it: so it belongs to what is pushed next, whatever stands between
        self.input.push_event(gst::event::CustomDownstream::new(order));
    }

    /// The element that the description calls so, for what changes while the chain runs.
    pub fn element(&self, name: &str) -> Option<gst::Element> {
        self.pipeline.by_name(name)
    }

    /// What an element said has gone wrong: one that works in threads of its own says it while nothing is pushed.
    pub fn broken(&self) -> Option<MediaError> {
        lock(&self.far).error.is_some().then(|| self.fault(""))
    }

    /// Takes what has come out.
    pub fn take(&self) -> Vec<Out> {
        std::mem::take(&mut lock(&self.far).out)
    }

    /// Whether an element asked for a keyframe since the last call.
    pub fn wants_keyframe(&self) -> bool {
        std::mem::take(&mut lock(&self.far).wants_keyframe)
    }

    /// Sends EOS through and takes what it drove out. It has arrived at the far end when this is `Ok`.
    pub fn finish(&self) -> Result<Vec<Out>, MediaError> {
        self.input.push_event(gst::event::Eos::new());
        if !lock(&self.far).ended {
            return Err(self.fault("the end did not come through"));
        }
        Ok(self.take())
    }

    /// As [`finish`](Self::finish) for a chain with an element that works in threads of its own: waits for the end to
    /// arrive, not longer than `limit`. The sending of it may itself take as long as a stuck driver likes.
    pub fn finish_within(&self, limit: Duration) -> Result<Vec<Out>, MediaError> {
        self.input.push_event(gst::event::Eos::new());
        let waits = |far: &mut Far| !far.ended && far.error.is_none();
        let waited = self.far.over.wait_timeout_while(lock(&self.far), limit, waits);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended;
        if ended { Ok(self.take()) } else { Err(self.fault("the end did not come through in time")) }
    }
}

/// The pad that data is pushed through; what comes back against it are requests for keyframes.
fn entrance(far: &Shared) -> gst::Pad {
    let asked = far.clone();
    gst::Pad::builder(gst::PadDirection::Src)
        .name("in")
        .event_function(move |_, _, event| {
            if event.structure().is_some_and(|s| s.name() == "GstForceKeyUnit") {
                lock(&asked).wants_keyframe = true;
            }
            true
        })
        .build()
}

/// The pad that takes what comes out.
fn exit(far: &Shared) -> Result<gst::Pad, MediaError> {
    let (taken, told) = (far.clone(), far.clone());
    // a pad without a template would only take the caps that it has, and refuse a change of size
    let anything =
        gst::PadTemplate::new("out", gst::PadDirection::Sink, gst::PadPresence::Always, &gst::Caps::new_any())
            .map_err(|e| MediaError::Pipeline(e.to_string()))?;
    let exit = gst::Pad::builder_from_template(&anything)
        .name("out")
        .chain_function(move |_, _, buffer| {
            let mut far = lock(&taken);
            let buffer = far.timed(buffer);
            far.out.push(Out::Buffer(buffer));
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(move |_, _, event| {
            match event.view() {
                gst::EventView::Caps(caps) => lock(&told).out.push(Out::Caps(caps.caps_owned())),
                gst::EventView::Segment(segment) => {
                    lock(&told).segment = segment.segment().downcast_ref::<gst::ClockTime>().cloned();
                }
                gst::EventView::Eos(_) => {
                    lock(&told).ended = true;
                    told.over.notify_all();
                }
                _ => {}
            }
            true
        })
        .query_function(|pad, parent, query| match query.view_mut() {
            gst::QueryViewMut::Allocation(query) => {
                // whoever takes pictures here reads rows where they are: a decoder need not copy them. Of pictures
                // whose height is no multiple of 16 libav's decoders spare that only with a pool of ours.
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                let (caps, _) = query.get_owned();
                if let Some(info) = caps.and_then(|caps| gst_video::VideoInfo::from_caps(&caps).ok()) {
                    let size = u32::try_from(info.size()).unwrap_or(u32::MAX);
                    query.add_allocation_pool(Some(&gst_video::VideoBufferPool::new()), size, 0, 0);
                }
                true
            }
            _ => gst::Pad::query_default(pad, parent, query),
        })
        .build();
    Ok(exit)
}

/// The first error of an element is kept, and whoever waits for the end is woken.
fn hear_errors(pipeline: &gst::Pipeline, far: &Shared) {
    let heard = far.clone();
    pipeline.bus().expect("a pipeline has a bus").set_sync_handler(move |_, message| {
        if let gst::MessageView::Error(e) = message.view() {
            let from = e.src().map(|s| s.name().to_string()).unwrap_or_default();
            lock(&heard).error.get_or_insert(format!("{from}: {}", e.error()));
            heard.over.notify_all();
        }
        // nobody polls this bus; kept messages would only pile up
        gst::BusSyncReply::Drop
    });
}

impl Drop for Chain {
    fn drop(&mut self) {
        // stopping cannot be refused by elements that have no device behind them
        let _ = self.pipeline.set_state(gst::State::Null);
        let _ = self.input.set_active(false);
        let _ = self.output.set_active(false);
    }
}
