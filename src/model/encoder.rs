//! From the elements that are there to the chain to use.
//!
//! Owns: the tables of encoders and decoders, best first, with what must be set on them. Must not touch: GStreamer:
//! who asks brings the set of factories that this board has.
//! Law: pure; boards differ by rows of a table. Only properties that GStreamer 1.22 (Debian 12) and 1.28 (the image)
//! both have; those of Jetson and Rockchip as their makers' plugins have them.

use std::collections::BTreeSet;

use super::Codec;
use super::mix::Size;

/// An encoder as a launch description, and what is to be known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    pub factory: &'static str,
    /// Takes raw frames, gives H.264 or AAC. Key frames come on request, never by count.
    pub described: &'static str,
    /// Pictures: what is to be set beside `described` so that each one is a keyframe.
    pub all_key: &'static str,
    /// Sound: samples of silence that decoders of its stream hear before the first sample that went in.
    pub priming: u32,
    /// Debian package that brings it.
    pub package: &'static str,
}

/// Best first. A board's own encoder is a row above the others.
const PICTURE_ENCODERS: [Encoder; 2] = [
    Encoder {
        factory: "x264enc",
        // quality, not rate: the publisher's encoder has already fixed how much there is to keep; `bitrate` (kbit/s)
        // caps it. No B frames and no look-ahead: a frame that went in is out, so nothing waits for a cut.
        described: "x264enc tune=zerolatency speed-preset=superfast pass=qual quantizer=24 bitrate=6000 key-int-max=18000 threads=2",
        all_key: "key-int-max=1",
        priming: 0,
        package: "gstreamer1.0-plugins-ugly",
    },
    Encoder {
        factory: "openh264enc",
        described: "openh264enc complexity=low rate-control=quality bitrate=2500000 gop-size=18000",
        all_key: "gop-size=1",
        priming: 0,
        package: "gstreamer1.0-plugins-bad",
    },
];

/// Best first. CPU seconds for one hour of mono, measured on x86_64: avenc_aac 16 (its default search: 27),
/// voaacenc 18.
const SOUND_ENCODERS: [Encoder; 2] = [
    Encoder {
        factory: "avenc_aac",
        described: "avenc_aac aac-coder=fast",
        all_key: "",
        priming: 1024,
        package: "gstreamer1.0-libav",
    },
    Encoder {
        factory: "voaacenc",
        described: "voaacenc",
        all_key: "",
        priming: 1600,
        package: "gstreamer1.0-plugins-bad",
    },
];

fn best(table: &[Encoder], present: &BTreeSet<&str>) -> Option<Encoder> {
    table.iter().find(|encoder| present.contains(encoder.factory)).copied()
}

/// The encoder of pictures for a board that has these factories.
pub fn picture_encoder(present: &BTreeSet<&str>) -> Option<Encoder> {
    best(&PICTURE_ENCODERS, present)
}

/// The encoder of sound for a board that has these factories.
pub fn sound_encoder(present: &BTreeSet<&str>) -> Option<Encoder> {
    best(&SOUND_ENCODERS, present)
}

/// Every factory that a table names: what to look for on a board.
pub fn candidates() -> impl Iterator<Item = &'static str> {
    PICTURE_ENCODERS.iter().chain(&SOUND_ENCODERS).map(|encoder| encoder.factory)
}

/// Bits per second of AAC at 48 kHz.
pub fn sound_bitrate(channels: u32) -> u32 {
    if channels < 2 { 64_000 } else { 96_000 }
}

/// RTP of a codec to raw pictures, as launch descriptions of depayloader and decoder; `None` for what is not decoded.
pub fn picture_decoder(codec: Codec) -> Option<&'static str> {
    match codec {
        // a packet that cannot be decoded costs a picture, never the recording
        Codec::Vp8 => Some("rtpvp8depay ! vp8dec max-errors=-1"),
        Codec::Vp9 => Some("rtpvp9depay ! vp9dec max-errors=-1"),
        // Debian 12 has no depayloader for AV1: the units come as they are in a file
        Codec::Av1 => Some("av1parse ! av1dec max-errors=-1"),
        Codec::H264 | Codec::Opus => None,
    }
}

/// RTP of a codec to raw pictures for a mixed recording; of `picture_decoder` it differs in that H.264 is decoded too,
/// by `h264`, and that no decoder starts threads of its own: many run at once.
pub fn mixing_decoder(codec: Codec, h264: Option<&H264Decoder>) -> Option<&'static str> {
    match codec {
        Codec::H264 => h264.map(|decoder| decoder.rtp),
        Codec::Vp8 => Some("rtpvp8depay ! vp8dec max-errors=-1 threads=1"),
        Codec::Vp9 => Some("rtpvp9depay ! vp9dec max-errors=-1 threads=1"),
        Codec::Av1 => Some("av1parse ! av1dec max-errors=-1"),
        Codec::Opus => None,
    }
}

/// What a mixed recording's pictures are coded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    pub size: Size,
    /// Constant.
    pub fps: u32,
    /// bits per second
    pub bitrate: u32,
    /// Most seconds between two keyframes.
    pub gop: u32,
}

impl Coding {
    pub fn pixels_per_second(&self) -> u64 {
        u64::from(self.size.width) * u64::from(self.size.height) * u64::from(self.fps)
    }

    /// Most frames between two keyframes, not above what an element takes.
    fn gop_frames(&self, most: u32) -> u32 {
        self.gop.saturating_mul(self.fps).clamp(1, most)
    }

    fn kbit(&self) -> u32 {
        self.bitrate.div_ceil(1000).max(1)
    }

    /// Threads of a software encoder. One is enough for 1280x720@15 on a core of a small board, and spares what
    /// slices cost: bits, since nothing is predicted across them. A mixed recording never has more than two.
    pub fn threads(&self) -> u32 {
        if self.pixels_per_second() <= 1280 * 720 * 15 { 1 } else { 2 }
    }

    /// H.264 (A.3.1): macroblocks of a frame and of a second. Level 4 is what small hardware has; without a level in
    /// the caps the Raspberry Pi's driver takes one that refuses 720p.
    fn level(&self) -> &'static str {
        let macroblocks = u64::from(self.size.width.div_ceil(16)) * u64::from(self.size.height.div_ceil(16));
        if macroblocks <= 8192 && macroblocks * u64::from(self.fps) <= 245_760 { "4" } else { "4.2" }
    }
}

/// An encoder for the pictures of mixed recordings.
#[derive(Debug, Clone, Copy)]
pub struct PictureEncoder {
    pub factory: &'static str,
    /// A device does the work; its pace is its own and costs the processor little.
    pub hardware: bool,
    /// Debian package that brings it, or whose plugins these are.
    pub package: &'static str,
    /// Other factories that the chain names.
    pub needs: &'static [&'static str],
    /// Launch description from `video/x-raw,format=I420` in system memory at a constant rate to an H.264 byte stream
    /// of whatever alignment the element gives (`h264parse` follows). Constant bitrate, no B frames, nothing held
    /// back where the element can do without, a keyframe whenever one is asked for (GstForceKeyUnit) where it does that:
    /// of GStreamer 1.22 v4l2h264enc and vah264enc do not, and begin anew for it.
    pub chain: fn(&Coding) -> String,
}

/// Best first. All property values are numbers where the names of an enum's values differ between versions.
const MIXING_ENCODERS: [PictureEncoder; 6] = [
    PictureEncoder {
        factory: "nvv4l2h264enc",
        hardware: true,
        package: "nvidia-l4t-gstreamer",
        needs: &["nvvidconv"],
        // It takes NVMM memory alone. control-rate 1 is constant, preset-level 1 is ultra fast; without
        // maxperf-enable its clock follows the load and a burst comes late. B frames are off unless asked for.
        chain: |coding| {
            format!(
                "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc bitrate={} control-rate=1 \
                 iframeinterval={gop} idrinterval={gop} insert-sps-pps=true preset-level=1 maxperf-enable=true",
                coding.bitrate,
                gop = coding.gop_frames(i32::MAX as u32),
            )
        },
    },
    PictureEncoder {
        factory: "v4l2h264enc",
        hardware: true,
        package: "gstreamer1.0-plugins-good",
        needs: &["videoconvert"],
        // A driver that does not have a control leaves it out: the period is the Pi's name for what others call GOP
        // size, and it is said to hang with a period of one. video_bitrate_mode 1 is constant. videoconvert does nothing
        // where the driver takes I420, and makes NV12 where not.
        chain: |coding| {
            format!(
                "videoconvert ! v4l2h264enc extra-controls=\"controls,video_bitrate_mode=1,video_bitrate={},\
                 frame_level_rate_control_enable=1,h264_i_frame_period={gop},video_gop_size={gop},video_b_frames=0,\
                 repeat_sequence_header=1\" ! capsfilter caps=video/x-h264,level=(string){}",
                coding.bitrate,
                coding.level(),
                gop = coding.gop_frames(i32::MAX as u32).max(2),
            )
        },
    },
    PictureEncoder {
        factory: "vah264enc",
        hardware: true,
        package: "gstreamer1.0-plugins-bad",
        needs: &["videoconvert"],
        // Frames in system memory are taken as NV12 and brought to the device by the element itself. Its longest
        // GOP is 1024 frames.
        chain: |coding| {
            format!(
                "videoconvert ! video/x-raw,format=NV12 ! vah264enc rate-control=cbr bitrate={} key-int-max={} \
                 b-frames=0 ref-frames=1",
                coding.kbit(),
                coding.gop_frames(1024),
            )
        },
    },
    PictureEncoder {
        factory: "mpph264enc",
        hardware: true,
        package: "gstreamer1.0-rockchip1",
        needs: &["videoconvert"],
        // No property for B frames: it has none.
        chain: |coding| {
            format!(
                "videoconvert ! video/x-raw,format=NV12 ! mpph264enc rc-mode=cbr bps={} gop={} header-mode=each-idr",
                coding.bitrate,
                coding.gop_frames(i32::MAX as u32),
            )
        },
    },
    PictureEncoder {
        factory: "x264enc",
        hardware: false,
        package: "gstreamer1.0-plugins-ugly",
        needs: &[],
        // zerolatency: no look-ahead, no B frames; with two threads they share each picture (slices), so that none
        // is held back. 200 frames of 1280x720 cost 1.4 CPU s with either number of threads (x86_64).
        chain: |coding| {
            let threads = coding.threads();
            format!(
                "x264enc byte-stream=true tune=zerolatency speed-preset=superfast pass=cbr bitrate={} \
                 vbv-buf-capacity=1000 key-int-max={} bframes=0 threads={threads} sliced-threads={}",
                coding.kbit(),
                coding.gop_frames(i32::MAX as u32),
                threads > 1,
            )
        },
    },
    PictureEncoder {
        factory: "openh264enc",
        hardware: false,
        package: "gstreamer1.0-plugins-bad",
        needs: &[],
        // It would rather leave frames out than pass the bitrate; a constant rate of frames is promised.
        chain: |coding| {
            let threads = coding.threads();
            format!(
                "openh264enc complexity=low rate-control=bitrate bitrate={} enable-frame-skip=false gop-size={} \
                 multi-thread={threads} slice-mode=n-slices num-slices={threads}",
                coding.bitrate,
                coding.gop_frames(i32::MAX as u32),
            )
        },
    },
];

/// The encoders for the pictures of mixed recordings, best first.
pub fn mixing_encoders() -> &'static [PictureEncoder] {
    &MIXING_ENCODERS
}

/// A decoder of H.264 to I420 in system memory, with one thread: there are as many of them as publishers.
#[derive(Debug, Clone, Copy)]
pub struct H264Decoder {
    pub factory: &'static str,
    /// Launch description from a byte stream of whole pictures.
    pub whole: &'static str,
    /// Launch description from RTP.
    pub rtp: &'static str,
}

/// The one to use first. What tries the board, mixes and merges uses the same: else a board would be found good for
/// pictures that nobody sees.
pub const H264_DECODERS: [H264Decoder; 2] = [
    H264Decoder {
        factory: "avdec_h264",
        whole: "avdec_h264 max-threads=1",
        // what would be shown torn is not shown: the last good picture stands until the next keyframe
        rtp: "rtph264depay ! capsfilter caps=video/x-h264,stream-format=byte-stream ! avdec_h264 max-threads=1 output-corrupt=false",
    },
    H264Decoder {
        factory: "openh264dec",
        whole: "openh264dec",
        rtp: "rtph264depay ! capsfilter caps=video/x-h264,stream-format=byte-stream ! h264parse ! capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au ! openh264dec",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_is_there_is_taken() {
        let all: BTreeSet<&str> = candidates().collect();
        assert_eq!(picture_encoder(&all).map(|e| e.factory), Some("x264enc"));
        assert_eq!(sound_encoder(&all).map(|e| e.factory), Some("avenc_aac"));
        let few = BTreeSet::from(["openh264enc", "voaacenc"]);
        assert_eq!(picture_encoder(&few).map(|e| e.factory), Some("openh264enc"));
        assert_eq!(sound_encoder(&few).map(|e| e.factory), Some("voaacenc"));
        assert_eq!(picture_encoder(&BTreeSet::new()), None);
    }

    #[test]
    fn only_pictures_that_are_not_h264_are_decoded() {
        assert_eq!(picture_decoder(Codec::H264), None);
        assert_eq!(picture_decoder(Codec::Opus), None);
        for codec in [Codec::Vp8, Codec::Vp9, Codec::Av1] {
            assert!(picture_decoder(codec).is_some());
        }
    }

    fn told(width: u32, height: u32, fps: u32, bitrate: u32, gop: u32) -> String {
        let coding = Coding { size: Size { width, height }, fps, bitrate, gop };
        let lines = mixing_encoders().iter().map(|encoder| (encoder.chain)(&coding) + "\n");
        lines.collect()
    }

    #[test]
    fn the_descriptions_are_as_they_were_reviewed() {
        let golden = include_str!("../../tests/golden/encoders.txt");
        let told = format!(
            "# 1280x720@15, 1.5 Mbit/s, a keyframe at least every 10 s\n{}\
             # 1920x1080@60, 8.192 Mbit/s, a keyframe at least every 30 s\n{}\
             # the smallest that can be asked for\n{}",
            told(1280, 720, 15, 1_500_000, 10),
            told(1920, 1080, 60, 8_192_000, 30),
            told(2, 2, 1, 64_000, 1),
        );
        assert_eq!(told, golden, "tests/golden/encoders.txt");
    }

    #[test]
    fn a_chain_names_its_encoder_and_what_it_needs() {
        let coding = Coding { size: Size { width: 640, height: 360 }, fps: 15, bitrate: 500_000, gop: 2 };
        for encoder in mixing_encoders() {
            let chain = (encoder.chain)(&coding);
            for factory in encoder.needs.iter().chain([&encoder.factory]) {
                assert!(chain.split(" ! ").any(|part| part.split(' ').next() == Some(*factory)), "{chain}");
            }
        }
        let hardware = mixing_encoders().iter().map(|encoder| encoder.hardware);
        assert!(hardware.is_sorted_by_key(|hardware| !hardware), "devices come first");
    }
}
