//! An element that does to a stream what drivers do; its name in a launch description says which.
//!
//! `deaf` lets no request for a keyframe through. `stuck` keeps its 21st buffer for ever, and the thread that brought it.

use std::sync::atomic::{AtomicU32, Ordering};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;

pub struct Faulty {
    sink: gst::Pad,
    src: gst::Pad,
    taken: AtomicU32,
}

#[glib::object_subclass]
impl ObjectSubclass for Faulty {
    const NAME: &'static str = "HoldfastFaulty";
    type Type = FaultyElement;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let template = |name| class.pad_template(name).expect("made below");
        let sink = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|_, parent, buffer| {
                Faulty::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.chain(buffer))
            })
            .event_function(|pad, parent, event| {
                Faulty::catch_panic_pad_function(parent, || false, |this| this.event(pad, event))
            })
            .flags(gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION)
            .build();
        let src = gst::Pad::builder_from_template(&template("src")).flags(gst::PadFlags::PROXY_CAPS).build();
        Faulty { sink, src, taken: AtomicU32::new(0) }
    }
}

impl Faulty {
    fn is(&self, fault: &str) -> bool {
        self.obj().name() == fault
    }

    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if self.is("stuck") && self.taken.fetch_add(1, Ordering::Relaxed) == 20 {
            loop {
                std::thread::park();
            }
        }
        self.src.push(buffer)
    }

    fn event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        let asks = event.structure().is_some_and(|asked| asked.name() == "GstForceKeyUnit");
        if asks && self.is("deaf") { true } else { gst::Pad::event_default(pad, Some(&*self.obj()), event) }
    }
}

impl ObjectImpl for Faulty {
    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            self.obj().add_pad(pad).expect("a new element has none");
        }
    }
}

impl GstObjectImpl for Faulty {}

impl ElementImpl for Faulty {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static OF: std::sync::OnceLock<gst::subclass::ElementMetadata> = std::sync::OnceLock::new();
        Some(OF.get_or_init(|| {
            gst::subclass::ElementMetadata::new("Faulty", "Generic", "Fails as drivers do", "Holdfast")
        }))
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static OF: std::sync::OnceLock<Vec<gst::PadTemplate>> = std::sync::OnceLock::new();
        OF.get_or_init(|| {
            let template = |name, direction| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &gst::Caps::new_any())
                    .expect("any caps are good")
            };
            vec![template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
        })
    }
}

glib::wrapper! {
    pub struct FaultyElement(ObjectSubclass<Faulty>) @extends gst::Element, gst::Object;
}

/// Makes `faulty` known to launch descriptions of this process.
pub fn register() {
    gst::init().expect("GStreamer starts");
    gst::Element::register(None, "faulty", gst::Rank::NONE, FaultyElement::static_type()).expect("it is ours");
}
