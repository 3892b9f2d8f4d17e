//! What of a stranger's packets GStreamer's elements get to see.
//!
//! Owns: which packets go into depayloaders, and which units of H.264 come out. Must not touch: what is inside a unit.
//! Law: an element that would die of what a stranger sends does not see it. GStreamer is C: where it reads behind the end
//! of a packet or follows a null pointer, one packet of one participant ends the process, and with it every recording of
//! the box. What is left out here would not have been a picture.
//!
//! Found in 1.22 by sending spoilt packets, and by reading: `rtph264depay` copies -1 bytes of a fragment without header, as
//! `rtph265depay` does; `h264parse` follows a null pointer in a subset parameter set that ends early, and takes 4 GB for a
//! map of slice groups; libav's decoders make buffers by what is not written, for pictures that GStreamer has no name for.

use std::ops::Range;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::dimensions::{coded_size, has_one_slice_group, vp8_frame_size, vp9_frame_size};
use crate::container::h264::{self, FILLER, PICTURE_SET, SEQUENCE_SET};

/// The most pixels of a picture: twice those of 4K. A decoder takes the memory for whatever size it is told.
const LARGEST: u64 = 1 << 24;
/// The longest side of a picture, pixels: x264 and libvpx take no more.
const LONGEST: u32 = 1 << 14;
const START_CODE: usize = 3;

/// What stands at a pad.
enum Gate {
    /// Packets whose payload is not sound are left out.
    Packets(fn(&[u8]) -> bool),
    /// Frames of which a size is read that is too large are left out.
    Frames(fn(&[u8]) -> Option<(u32, u32)>),
    /// Units of H.264 that are not of a plain picture are left out.
    Units,
}

/// By factory and pad. Whoever unpacks H.264 asks for start codes: nothing goes on otherwise.
const GATES: &[(&str, &str, Gate)] = &[
    ("rtph264depay", "sink", Gate::Packets(h264_is_sound)),
    ("rtph264depay", "src", Gate::Units),
    ("rtph265depay", "sink", Gate::Packets(h265_is_sound)),
    ("rtpvp8depay", "src", Gate::Frames(vp8_frame_size)),
    ("rtpvp9depay", "src", Gate::Frames(vp9_frame_size)),
];

/// Puts gates at the elements that are in `bin` now. `torn` is called for each packet that is left out: pictures that
/// follow may need what was in it.
pub(super) fn guard(bin: &gst::Bin, torn: impl Fn() + Clone + Send + Sync + 'static) {
    for (factory, pad, gate) in GATES {
        for element in bin.iterate_all_by_element_factory_name(factory).into_iter().flatten() {
            let pad = element.static_pad(pad).expect("every depayloader has both");
            let torn = torn.clone();
            pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, info| {
                let passes = match &mut info.data {
                    _ if matches!(gate, Gate::Units) && !is_byte_stream(pad) => false,
                    Some(gst::PadProbeData::Buffer(buffer)) => pass(gate, buffer, &torn),
                    Some(gst::PadProbeData::BufferList(list)) => pass_list(gate, list, &torn),
                    _ => true,
                };
                // not `Drop`: what the binding has taken over and dropped, GStreamer would drop again, and complain
                if passes { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Handled }
            });
        }
    }
}

/// Units that have their lengths before them, and parameter sets beside them, are not read here.
fn is_byte_stream(pad: &gst::Pad) -> bool {
    let caps = pad.current_caps();
    let format = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<&str>("stream-format").ok());
    format == Some("byte-stream")
}

/// Whether anything of a list goes on; what does not is taken out.
fn pass_list(gate: &Gate, list: &mut gst::BufferList, torn: &dyn Fn()) -> bool {
    *list = list.iter_owned().filter_map(|mut buffer| pass(gate, &mut buffer, torn).then_some(buffer)).collect();
    !list.is_empty()
}

/// Whether anything of a buffer goes on; what does not is taken out.
fn pass(gate: &Gate, buffer: &mut gst::Buffer, torn: &dyn Fn()) -> bool {
    // what cannot be read here cannot be read by the element
    let Ok(bytes) = buffer.map_readable() else { return false };
    let left = match gate {
        Gate::Packets(sound) if payload(&bytes).is_some_and(sound) => return true,
        Gate::Frames(size) if size(&bytes).is_none_or(fits) => return true,
        Gate::Packets(_) | Gate::Frames(_) => {
            torn();
            Vec::new()
        }
        Gate::Units => match plain_units(&bytes) {
            None => return true,
            Some(left) => left,
        },
    };
    drop(bytes);
    metrics::counter!("holdfast_media_left_out_total").increment(1);
    parts(buffer, left).is_some_and(|left| {
        *buffer = left;
        true
    })
}

/// These parts of a buffer, not copied; `None` if there are none.
fn parts(buffer: &gst::Buffer, ranges: Vec<Range<usize>>) -> Option<gst::Buffer> {
    let mut left = gst::Buffer::new();
    let about = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
    buffer.copy_into(left.get_mut()?, about, ..).ok()?;
    for range in ranges {
        left.append(buffer.copy_region(gst::BufferCopyFlags::MEMORY, range).ok()?);
    }
    (left.size() > 0).then_some(left)
}

/// The payload of an RTP packet (RFC 3550 §5.1, §5.3.1); `None` if it is none.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let [first, ..] = *packet else { return None };
    let mut at = 12 + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let words = packet.get(at + 2..at + 4)?;
        at += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    let padding = if first & 0x20 != 0 { usize::from(*packet.last()?) } else { 0 };
    (first >> 6 == 2).then_some(packet)?.get(at..packet.len().checked_sub(padding)?)
}

/// Whether a decoder may make room for a picture of this size.
fn fits((width, height): (u32, u32)) -> bool {
    width.max(height) <= LONGEST && u64::from(width) * u64::from(height) <= LARGEST
}

/// RFC 6184 §5.2: one unit, several that fit exactly, or a part of one, which may be empty (§5.8) but has its header. The
/// packets of interleaved mode, which nobody agrees on with us, are not sound.
fn h264_is_sound(payload: &[u8]) -> bool {
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let Some((first, rest)) = payload.split_first() else { return false };
    match first & 0x1f {
        1..STAP_A => true,
        STAP_A => several(rest),
        FU_A => rest.first().is_some_and(|header| (1..STAP_A).contains(&(header & 0x1f))),
        _ => false,
    }
}

/// RFC 7798 §4.4, without the numbers of interleaving: the same of H.265, whose headers are an octet longer.
fn h265_is_sound(payload: &[u8]) -> bool {
    const AGGREGATION: u8 = 48;
    const FRAGMENT: u8 = 49;
    let [first, _, rest @ ..] = payload else { return false };
    match first >> 1 & 0x3f {
        0..AGGREGATION => true,
        AGGREGATION => several(rest),
        FRAGMENT => rest.len() > 1 && rest[0] & 0x3f < AGGREGATION,
        _ => false,
    }
}

/// Whether units of which each has its length before it fill this exactly.
fn several(mut rest: &[u8]) -> bool {
    let some = !rest.is_empty();
    while let [high, low, units @ ..] = rest {
        match units.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) if next.len() < units.len() => rest = next,
            _ => return false,
        }
    }
    some && rest.is_empty()
}

/// Whether this is a unit of a picture as decoders expect it (H.264 table 7-1): slices, parameter sets whose size makes
/// sense, SEI, delimiters, ends, filler. Those of H.264's extensions (several views, layers) and those without a meaning
/// are not: pictures decode without them.
fn is_plain(unit: &[u8]) -> bool {
    match h264::kind(unit) {
        SEQUENCE_SET => coded_size(unit).is_some_and(fits),
        PICTURE_SET => has_one_slice_group(unit),
        kind => (1..=FILLER).contains(&kind),
    }
}

/// The parts of a byte stream (H.264 annex B) that are plain units, start codes included; `None` when all units are.
fn plain_units(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let all: Vec<Range<usize>> = h264::places(bytes).collect();
    let plain = all.iter().filter(|place| is_plain(&bytes[(*place).clone()]));
    let plain: Vec<Range<usize>> = plain.map(|place| place.start - START_CODE..place.end).collect();
    (plain.len() < all.len()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::super::dimensions::set_size;
    use super::*;

    /// What is left of a byte stream.
    fn left(bytes: &[u8]) -> Vec<u8> {
        match plain_units(bytes) {
            None => bytes.to_vec(),
            Some(parts) => parts.into_iter().flat_map(|part| bytes[part].to_vec()).collect(),
        }
    }

    #[test]
    fn plain_units_stay_with_every_byte_of_theirs() {
        let stream = [0, 0, 0, 1, 0x68, 0xc8, 0, 0, 1, 0x68, 0xce, 0, 0, 0, 0, 1, 0x65, 7, 0, 0];
        assert_eq!(plain_units(&stream), None);
        assert_eq!(plain_units(&[]), None);
    }

    #[test]
    fn units_of_extensions_and_of_no_meaning_go() {
        for unit_type in (0..32).filter(|unit_type| !(1..=12).contains(unit_type)) {
            let alone = [0, 0, 0, 1, 0x60 | unit_type, 1, 2];
            assert_eq!(plain_units(&alone), Some(vec![]), "{unit_type}");
            let between = [&[0, 0, 0, 1, 0x68, 0xc8][..], &alone, &[0, 0, 1, 0x65, 7]].concat();
            assert_eq!(left(&between), [0, 0, 1, 0x68, 0xc8, 0, 0, 1, 0x65, 7], "{unit_type}");
        }
    }

    #[test]
    fn a_payload_is_what_is_between_the_header_and_the_padding() {
        let header = |first: u8| [first, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let packet = |first: u8, rest: &[u8]| [&header(first), rest].concat();
        assert_eq!(payload(&packet(0x80, &[7, 8])), Some(&[7, 8][..]));
        assert_eq!(payload(&packet(0x81, &[0, 0, 0, 9, 7])), Some(&[7][..]));
        assert_eq!(payload(&packet(0x90, &[0xbe, 0xde, 0, 1, 1, 2, 3, 4, 7])), Some(&[7][..]));
        assert_eq!(payload(&packet(0xa0, &[7, 0, 2])), Some(&[7][..]));
        assert_eq!(payload(&packet(0xa0, &[7, 0, 16])), None, "more padding than packet");
        assert_eq!(payload(&packet(0x90, &[0xbe, 0xde, 0, 2, 1, 2, 3, 4])), None, "more extension than packet");
        assert_eq!(payload(&packet(0x40, &[7])), None, "another version");
        assert_eq!((payload(&[]), payload(&[0x80, 96])), (None, None));
    }

    #[test]
    fn a_payload_of_h264_is_sound_or_not() {
        for sound in [&[0x65, 1][..], &[0x0a], &[0x78, 0, 1, 0x67, 0, 2, 0x68, 1], &[0x7c, 0x85, 1], &[0x7c, 0x45]] {
            assert!(h264_is_sound(sound), "{sound:?}");
        }
        let short: [&[u8]; 4] = [&[], &[0x78], &[0x78, 0], &[0x78, 0, 1]];
        let wrong: [&[u8]; 4] = [&[0x78, 0, 0], &[0x78, 0, 1, 0x67, 5], &[0x78, 0, 3, 0x67, 5], &[0x7c, 0x9c, 1]];
        let fragments: [&[u8]; 2] = [&[0x7c], &[0x7c, 0x80]];
        let strange: [&[u8]; 4] = [&[0x60, 1, 2], &[0x79, 1, 2, 3], &[0x7d, 0x85, 1, 2], &[0x7f, 1, 2]];
        for broken in short.into_iter().chain(wrong).chain(fragments).chain(strange) {
            assert!(!h264_is_sound(broken), "{broken:?}");
        }
    }

    #[test]
    fn a_payload_of_h265_is_sound_or_not() {
        for sound in [&[0x26, 1, 9][..], &[0x4a, 1], &[0x60, 1, 0, 2, 0x40, 1, 0, 2, 0x42, 1], &[0x62, 1, 0x93, 7]] {
            assert!(h265_is_sound(sound), "{sound:?}");
        }
        let short: [&[u8]; 4] = [&[], &[0x26], &[0x60, 1], &[0x60, 1, 0]];
        let wrong: [&[u8]; 4] = [&[0x60, 1, 0, 0], &[0x60, 1, 0, 3, 0x40, 1], &[0x62, 1, 0xb0, 7], &[0x64, 1, 7]];
        let fragments: [&[u8]; 2] = [&[0x62, 1], &[0x62, 1, 0x93]];
        for broken in short.into_iter().chain(wrong).chain(fragments) {
            assert!(!h265_is_sound(broken), "{broken:?}");
        }
    }

    #[test]
    fn a_picture_that_no_decoder_should_make_room_for_does_not_go_on() {
        let vp8 = |side: u16| [&[0, 0, 0, 0x9d, 1, 0x2a][..], &side.to_le_bytes(), &side.to_le_bytes()].concat();
        let fits_vp8 = |side| vp8_frame_size(&vp8(side)).is_some_and(fits);
        assert!(fits_vp8(4096) && !fits_vp8(4112));
        assert_eq!(vp8_frame_size(&[1, 0, 0, 0x9d, 1, 0x2a, 0, 16, 0, 16]), None, "it goes on with another frame");
        // baseline, number, order, references; blocks across and down; frames, cropping, no VUI, the end
        let golomb = |n: u32| {
            let bits = format!("{:b}", n + 1);
            format!("{}{bits}", "0".repeat(bits.len() - 1))
        };
        let octet = |bits: &[u8]| bits.iter().enumerate().fold(0, |octet, (n, bit)| octet | (bit - b'0') << (7 - n));
        let packed = |bits: &str| bits.as_bytes().chunks(8).map(octet).collect::<Vec<u8>>();
        let set = |across: u32, down: u32, cropping: &str| {
            let begin = ["01100111", "01000010", "00000000", "00111100", "1", "1", "011", "010", "0"].concat();
            packed(&[&begin, &golomb(across - 1), &golomb(down - 1), "1", "1", cropping, "01"].concat())
        };
        assert_eq!(coded_size(&set(20, 15, "0")), Some((320, 240)));
        assert!(is_plain(&set(20, 15, "0")));
        assert!(is_plain(&set(256, 256, "0")) && !is_plain(&set(257, 256, "0")) && !is_plain(&set(8192, 1, "0")));
        // all but 16 × 16 pixels are cut off: room is made for them all the same
        let rest = golomb((16_384 - 16) / 2);
        let cropped = set(1024, 1024, &["1", "1", &rest, "1", &rest].concat());
        assert_eq!(set_size(&cropped), Some((16, 16)));
        assert!(!is_plain(&cropped));
        assert!(!is_plain(&[0x67, 0x42]), "it ends before its size");
        // depths of 9 bits, a profile of an extension, a map of slice groups
        let high = |bits: &str| is_plain(&packed(&["01100111", "01100100", "00000000", "00111100", bits].concat()));
        let rest = ["1", "011", "010", "0", &golomb(19), &golomb(14), "1", "1", "0", "01"].concat();
        assert!(high(&["1", "010", "1", "1", "00", &rest].concat()));
        assert!(!high(&["1", "010", "010", "010", "00", &rest].concat()));
        let mut extension = set(20, 15, "0");
        extension[1] = 144;
        assert!(!is_plain(&extension));
        assert!(is_plain(&packed("0110100011001")) && !is_plain(&packed("01101000110001000111")));
    }

    #[test]
    fn what_hides_in_a_unit_behind_a_start_code_of_its_own_goes() {
        assert_eq!(left(&[0, 0, 1, 0x65, 7, 0, 0, 1, 0x6f, 1, 0, 0, 1]), [0, 0, 1, 0x65, 7]);
    }
}
