//! From the elements that are there to the chain to use.
//!
//! Owns: the tables of encoders and decoders, best first, with what must be set on them. Must not touch: GStreamer:
//! who asks brings the set of factories that this board has.
//! Law: pure; boards differ by rows of a table.

use std::collections::BTreeSet;

use super::Codec;

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
/// and that no decoder starts threads of its own: many run at once.
pub fn mixing_decoder(codec: Codec) -> Option<&'static str> {
    match codec {
        // what would be shown torn is not shown: the last good picture stands until the next keyframe
        Codec::H264 => Some("rtph264depay ! avdec_h264 max-threads=1 output-corrupt=false"),
        Codec::Vp8 => Some("rtpvp8depay ! vp8dec max-errors=-1 threads=1"),
        Codec::Vp9 => Some("rtpvp9depay ! vp9dec max-errors=-1 threads=1"),
        Codec::Av1 => Some("av1parse ! av1dec max-errors=-1"),
        Codec::Opus => None,
    }
}

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
}
