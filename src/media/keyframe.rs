//! Whether an RTP payload begins a keyframe, for each codec that the box takes.
//!
//! Owns: the first bytes of payload formats. Must not touch: anything else of them.
//! Law: torn payloads are no keyframes; nothing panics.

use crate::model::Codec;

/// `true` when a decoder can begin with the packet. Every sound packet can be begun with.
pub(super) fn begins_keyframe(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Opus => !payload.is_empty(),
        Codec::H264 => h264(payload),
        Codec::Vp8 => vp8(payload).unwrap_or(false),
        Codec::Vp9 => vp9(payload).unwrap_or(false),
        // Aggregation header (AV1 RTP §4.4): N says a coded video sequence begins.
        Codec::Av1 => payload.first().is_some_and(|header| header & 0x08 != 0),
    }
}

/// RFC 6184 §5.2: an IDR slice or the parameter sets before it, alone, aggregated or as a fragment's start.
fn h264(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let Some(first) = payload.first() else { return false };
    match first & 0x1f {
        IDR | SPS => true,
        FU_A => payload.get(1).is_some_and(|fu| fu & 0x80 != 0 && matches!(fu & 0x1f, IDR | SPS)),
        STAP_A => {
            let mut rest = &payload[1..];
            while let [high, low, unit @ ..] = rest {
                if unit.first().is_some_and(|nal| matches!(nal & 0x1f, IDR | SPS)) {
                    return true;
                }
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(next) = unit.get(length..) else { return false };
                rest = next;
            }
            false
        }
        _ => false,
    }
}

/// Whether a packet holds a part of a picture, or only what is said before one (parameter sets, delimiters, SEI).
///
/// Some senders (GStreamer's payloader, when a keyframe is asked for) mark a packet of parameter sets as the end of
/// an access unit, and the keyframe follows with the same time stamp.
pub(super) fn holds_picture(codec: Codec, payload: &[u8]) -> bool {
    const SEI_TO_DELIMITER: std::ops::RangeInclusive<u8> = 6..=9;
    const STAP_A: u8 = 24;
    let (Codec::H264, Some(first)) = (codec, payload.first()) else { return true };
    match first & 0x1f {
        kind if SEI_TO_DELIMITER.contains(&kind) => false,
        STAP_A => {
            let mut rest = &payload[1..];
            while let [high, low, unit @ ..] = rest {
                if unit.first().is_some_and(|nal| !SEI_TO_DELIMITER.contains(&(nal & 0x1f))) {
                    return true;
                }
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(next) = unit.get(length..) else { return true };
                rest = next;
            }
            false
        }
        _ => true,
    }
}

/// Whether no other picture is predicted from this one, so that a decoder need not see it. A packet says it of its whole
/// picture.
pub(super) fn disposable(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => h264_disposable(payload).unwrap_or(false),
        // RFC 7741 §4.2: the N bit
        Codec::Vp8 => payload.first().is_some_and(|first| first & 0x20 != 0),
        // a picture of theirs may be one of several layers
        Codec::Vp9 | Codec::Av1 | Codec::Opus => false,
    }
}

/// H.264 §7.4.1: nal_ref_idc is 0 in all slices of a picture that nothing refers to. Delimiters have 0 as well.
fn h264_disposable(payload: &[u8]) -> Option<bool> {
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let slice = |nal: u8| matches!(nal & 0x1f, 1..=4 | FU_A) && nal & 0x60 == 0;
    let first = *payload.first()?;
    if first & 0x1f != STAP_A {
        return Some(slice(first));
    }
    let mut rest = &payload[1..];
    let mut found = false;
    while let [high, low, unit @ ..] = rest {
        let nal = *unit.first()?;
        match nal & 0x1f {
            // a delimiter or what is said beside the picture
            6 | 9 => {}
            _ if slice(nal) => found = true,
            _ => return Some(false),
        }
        rest = unit.get(usize::from(u16::from_be_bytes([*high, *low]))..)?;
    }
    Some(found)
}

/// RFC 7741 §4.2, 4.3: the start of partition 0, and its P bit is clear.
fn vp8(payload: &[u8]) -> Option<bool> {
    Some(vp8_frame(payload)?.first()? & 0x01 == 0)
}

/// The start of a frame, without the payload descriptor; `None` when the packet goes on with one.
pub(super) fn vp8_frame(payload: &[u8]) -> Option<&[u8]> {
    let first = *payload.first()?;
    let mut at = 1;
    if first & 0x80 != 0 {
        let extended = *payload.get(1)?;
        at += 1;
        if extended & 0x80 != 0 {
            at += if *payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(extended & 0x40 != 0);
        at += usize::from(extended & 0x30 != 0);
    }
    if first & 0x10 != 0 && first & 0x07 == 0 { payload.get(at..) } else { None }
}

/// RFC 9628 §4.2: begins a frame, and is not predicted from others.
fn vp9(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    Some(first & 0x08 != 0 && first & 0x40 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keyframes_are_known_by_their_first_bytes() {
        let cases: [(Codec, &[u8], bool); 14] = [
            (Codec::H264, &[0x65, 1], true),
            (Codec::H264, &[0x67, 1], true),
            (Codec::H264, &[0x41, 1], false),
            (Codec::H264, &[0x7c, 0x85], true),
            (Codec::H264, &[0x7c, 0x05], false),
            (Codec::H264, &[0x78, 0, 1, 0x09, 0, 1, 0x67], true),
            (Codec::H264, &[0x78, 0, 1, 0x09, 0, 1, 0x41], false),
            (Codec::Vp8, &[0x10, 0x00], true),
            (Codec::Vp8, &[0x10, 0x01], false),
            (Codec::Vp8, &[0x90, 0x80, 0x81, 0x02, 0x00], true),
            (Codec::Vp9, &[0x08], true),
            (Codec::Vp9, &[0x48], false),
            (Codec::Av1, &[0x18], true),
            (Codec::Opus, &[], false),
        ];
        for (codec, payload, expected) in cases {
            assert_eq!(begins_keyframe(codec, payload), expected, "{codec:?} {payload:02x?}");
        }
    }

    #[test]
    fn parameter_sets_alone_are_no_picture() {
        let cases: [(Codec, &[u8], bool); 6] = [
            (Codec::H264, &[0x67, 1], false),
            (Codec::H264, &[0x78, 0, 1, 0x67, 0, 1, 0x68], false),
            (Codec::H264, &[0x78, 0, 1, 0x67, 0, 1, 0x65], true),
            (Codec::H264, &[0x7c, 0x85], true),
            (Codec::H264, &[0x41], true),
            (Codec::Vp8, &[0x67], true),
        ];
        for (codec, payload, expected) in cases {
            assert_eq!(holds_picture(codec, payload), expected, "{codec:?} {payload:02x?}");
        }
    }

    #[test]
    fn what_nothing_refers_to_is_disposable() {
        let cases: [(Codec, &[u8], bool); 9] = [
            (Codec::H264, &[0x01, 1], true),
            (Codec::H264, &[0x41, 1], false),
            (Codec::H264, &[0x09, 1], false),
            (Codec::H264, &[0x1c, 0x81], true),
            (Codec::H264, &[0x5c, 0x81], false),
            (Codec::H264, &[0x18, 0, 2, 0x09, 0x30, 0, 1, 0x01], true),
            (Codec::H264, &[0x18, 0, 2, 0x09, 0x30, 0, 1, 0x41], false),
            (Codec::Vp8, &[0x30], true),
            (Codec::Vp8, &[0x10], false),
        ];
        for (codec, payload, expected) in cases {
            assert_eq!(disposable(codec, payload), expected, "{codec:?} {payload:02x?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1] {
                let _ = begins_keyframe(codec, &payload);
                let _ = holds_picture(codec, &payload);
                let _ = disposable(codec, &payload);
            }
        }
    }
}
