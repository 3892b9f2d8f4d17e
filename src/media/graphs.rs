//! Which pipelines of GStreamer there are, for whoever has to look at them from afar.
//!
//! Owns: the list of living pipelines. Must not touch: the pipelines.
//! Law: a pipeline is drawn without its elements' properties, which may be addresses and paths; it is never held alive.

use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::glib::WeakRef;
use gstreamer::prelude::*;

static LIVING: Mutex<Vec<WeakRef<gst::Pipeline>>> = Mutex::new(Vec::new());

pub(super) fn note(pipeline: &gst::Pipeline) {
    let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
    living.retain(|other| other.upgrade().is_some());
    living.push(pipeline.downgrade());
}

/// The name of each pipeline and its graph, in the language of Graphviz.
pub fn drawn() -> Vec<(String, String)> {
    let living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
    let details =
        gst::DebugGraphDetails::MEDIA_TYPE | gst::DebugGraphDetails::CAPS_DETAILS | gst::DebugGraphDetails::STATES;
    let draw = |pipeline: gst::Pipeline| (pipeline.name().to_string(), pipeline.debug_to_dot_data(details).to_string());
    living.iter().filter_map(WeakRef::upgrade).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_drawn_while_it_lives_and_tells_no_property() {
        crate::media::init().expect("GStreamer is there");
        let pipeline = gst::Pipeline::with_name("drawn-here");
        let source =
            gst::ElementFactory::make("filesrc").property("location", "/hush").build().expect("a core element");
        pipeline.add(&source).expect("a new element has no parent");
        note(&pipeline);
        let found = drawn();
        let (_, graph) = found.iter().find(|(name, _)| name == "drawn-here").expect("it lives");
        assert!(graph.starts_with("digraph") && graph.contains("GstFileSrc") && !graph.contains("hush"), "{graph}");
        drop(pipeline);
        assert!(drawn().iter().all(|(name, _)| name != "drawn-here"));
    }
}
