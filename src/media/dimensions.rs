//! How large a keyframe's picture is, read from the RTP payload that begins it.
//!
//! Owns: the few fields of H.264 parameter sets and of VP8's and VP9's frame headers that say so, or that say whether a
//! decoder knows such a picture. Must not touch: any other payload.
//! Law: what is torn or makes no sense has no size; nothing panics.

use super::keyframe::vp8_frame;
use crate::model::Codec;

/// No camera sends more, and no size of a stranger's is worth more.
const LARGEST: u32 = 16_384;
/// Parameter sets are some tens of bytes; scaling lists may make them some hundreds.
const LONGEST: usize = 1024;

/// Whether a codec's payloads say their size here.
pub(super) fn tells_size(codec: Codec) -> bool {
    matches!(codec, Codec::H264 | Codec::Vp8)
}

/// Width and height in pixels, if the payload says them.
pub(super) fn picture_size(codec: Codec, payload: &[u8]) -> Option<(u32, u32)> {
    let (width, height) = match codec {
        Codec::H264 => h264(payload)?,
        Codec::Vp8 => vp8_frame_size(vp8_frame(payload)?)?,
        Codec::Vp9 | Codec::Av1 | Codec::Opus => return None,
    };
    let sane = |side: u32| (1..=LARGEST).contains(&side);
    (sane(width) && sane(height)).then_some((width, height))
}

/// Width and height that an H.264 byte stream begins with (Annex B).
pub fn stream_size(bytes: &[u8]) -> Option<(u32, u32)> {
    const SPS: u8 = 7;
    let unit = bytes.windows(4).position(|w| w[..3] == [0, 0, 1] && w[3] & 0x1f == SPS)?;
    Some(sps(&bytes[unit + 4..])?.shown)
}

/// Width and height that a sequence parameter set says, its header with it.
pub(super) fn set_size(set: &[u8]) -> Option<(u32, u32)> {
    Some(sps(set.get(1..)?)?.shown)
}

/// Width and height of what is coded by a sequence parameter set, its header with it, of which a part may be shown.
/// `None` for one that decoders may read in another way than it is read here, or whose pictures are of a kind that
/// GStreamer has no name for: profiles of extensions, and other depths than 8 and 10 bits.
pub(super) fn coded_size(set: &[u8]) -> Option<(u32, u32)> {
    let known = |sizes: Sizes| sizes.common.then_some(sizes.coded);
    let coded = known(sps(set.get(1..)?)?)?;
    // libav reads a set anew with what stands against emulation in it, when it makes no sense without
    match sps_of(Bits::raw(set.get(1..)?)) {
        Some(other) if known(other) != Some(coded) => None,
        _ => Some(coded),
    }
}

/// Whether a picture parameter set of H.264, its header with it, has one group of slices: GStreamer's parser takes the
/// memory for a map of groups of whatever size it is told, and no decoder of ours knows them (§7.3.2.2).
pub(super) fn has_one_slice_group(set: &[u8]) -> bool {
    let groups = || {
        let mut bits = Bits::of(set.get(1..)?);
        bits.golomb()?; // pic_parameter_set_id
        bits.golomb()?; // seq_parameter_set_id
        bits.fixed(2)?; // entropy coding, order of fields
        bits.golomb()
    };
    groups() == Some(0)
}

/// Width and height that a frame of VP8 says (RFC 6386 §9.1): keyframes do, behind the frame tag and the start code, in
/// 14 bits each.
pub(super) fn vp8_frame_size(frame: &[u8]) -> Option<(u32, u32)> {
    let [tag, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..] = *frame else { return None };
    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    (tag & 0x01 == 0).then(|| (side(a, b), side(c, d)))
}

/// Width and height that a frame of VP9 says (bitstream specification §6.2): all may, but for those that take them from
/// a frame before.
pub(super) fn vp9_frame_size(frame: &[u8]) -> Option<(u32, u32)> {
    const SRGB: u32 = 7;
    let mut bits = Bits::raw(frame);
    bits.fixed(2)?; // frame_marker
    let profile = bits.fixed(1)? | bits.fixed(1)? << 1;
    if profile == 3 {
        bits.flag()?;
    }
    if bits.flag()? {
        return None; // show_existing_frame
    }
    let (inter, shown, resilient) = (bits.flag()?, bits.flag()?, bits.flag()?);
    let alone = inter && !shown && bits.flag()?;
    if inter && !resilient {
        bits.fixed(2)?; // reset_frame_context
    }
    if !inter || alone {
        bits.fixed(24)?; // frame_sync_code
        if !inter || profile > 0 {
            if profile >= 2 {
                bits.flag()?; // ten_or_twelve_bit
            }
            let coloured = bits.fixed(3)? != SRGB;
            if coloured {
                bits.flag()?; // color_range
            }
            if profile & 1 == 1 {
                bits.fixed(if coloured { 3 } else { 1 })?; // subsampling
            }
        }
    }
    if inter {
        bits.fixed(8)?; // refresh_frame_flags
    }
    if inter && !alone {
        bits.fixed(3 * 4)?; // ref_frame_idx, ref_frame_sign_bias
        for _ in 0..3 {
            if bits.flag()? {
                return None; // found_ref
            }
        }
    }
    Some((bits.fixed(16)? + 1, bits.fixed(16)? + 1))
}

/// RFC 6184 §5.2: a sequence parameter set alone, aggregated (STAP-A), or the start of a fragmented one (FU-A).
fn h264(payload: &[u8]) -> Option<(u32, u32)> {
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let (first, rest) = payload.split_first()?;
    match first & 0x1f {
        SPS => Some(sps(rest)?.shown),
        FU_A => {
            let (fu, unit) = rest.split_first()?;
            (fu & 0x80 != 0 && fu & 0x1f == SPS).then(|| sps(unit))?.map(|sizes| sizes.shown)
        }
        STAP_A => {
            let mut rest = rest;
            while let [high, low, units @ ..] = rest {
                let unit = units.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
                if let Some((header, set)) = unit.split_first()
                    && header & 0x1f == SPS
                {
                    return Some(sps(set)?.shown);
                }
                rest = &units[unit.len()..];
            }
            None
        }
        _ => None,
    }
}

/// Width and height of a sequence parameter set.
#[derive(Clone, Copy)]
struct Sizes {
    /// A profile and a depth as cameras and browsers send them.
    common: bool,
    coded: (u32, u32),
    shown: (u32, u32),
}

/// ITU-T H.264 §7.3.2.1.1, up to the cropping.
fn sps(unit: &[u8]) -> Option<Sizes> {
    sps_of(Bits::of(unit))
}

fn sps_of(mut bits: Bits) -> Option<Sizes> {
    let profile = bits.fixed(8)?;
    let mut common = matches!(profile, 66 | 77 | 88 | 100 | 110 | 122 | 244 | 44);
    bits.fixed(16)?; // constraints, level
    bits.golomb()?; // seq_parameter_set_id
    // Of a monochrome or separated picture every sample counts for itself.
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.golomb()?;
        let lists = if chroma == 3 { 12 } else { 8 };
        let coloured = chroma > 0;
        if chroma == 3 && bits.flag()? {
            chroma = 0;
        }
        let deeper = (bits.golomb()?, bits.golomb()?);
        common &= deeper == (0, 0) || (deeper == (2, 2) && coloured);
        bits.flag()?; // qpprime_y_zero_transform_bypass_flag
        if bits.flag()? {
            for list in 0..lists {
                if bits.flag()? {
                    bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.golomb()?; // log2_max_frame_num_minus4
    match bits.golomb()? {
        0 => drop(bits.golomb()?),
        1 => {
            bits.flag()?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb().filter(|cycle| *cycle < 256)? {
                bits.golomb()?;
            }
        }
        2 => {}
        _ => return None,
    }
    bits.golomb()?; // max_num_ref_frames
    bits.flag()?;
    let blocks = |count: u32| count.checked_add(1)?.checked_mul(16);
    let (width, lines) = (blocks(bits.golomb()?)?, blocks(bits.golomb()?)?);
    // Two fields make a frame.
    let fields = if bits.flag()? { 1 } else { 2 };
    if fields == 2 {
        bits.flag()?;
    }
    bits.flag()?; // direct_8x8_inference_flag
    let height = lines.checked_mul(fields)?;
    let coded = (width, height);
    if !bits.flag()? {
        return Some(Sizes { common, coded, shown: coded });
    }
    let (across, down) = match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let mut cut = |unit: u32| bits.golomb()?.checked_add(bits.golomb()?)?.checked_mul(unit);
    let (sides, ends) = (cut(across)?, cut(down * fields)?);
    Some(Sizes { common, coded, shown: (width.checked_sub(sides)?, height.checked_sub(ends)?) })
}

/// Bits of what says a size.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    /// Of a NAL unit, without its emulation prevention (§7.4.1.1).
    fn of(unit: &[u8]) -> Bits {
        let mut bytes: Vec<u8> = Vec::with_capacity(unit.len().min(LONGEST));
        let mut zeros = 0;
        for byte in &unit[..unit.len().min(LONGEST)] {
            if zeros >= 2 && *byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if *byte == 0 { zeros + 1 } else { 0 };
            bytes.push(*byte);
        }
        Bits { bytes, at: 0 }
    }

    /// As they stand there.
    fn raw(bytes: &[u8]) -> Bits {
        Bits { bytes: bytes[..bytes.len().min(LONGEST)].to_vec(), at: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `count` bits, 32 at most.
    fn fixed(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// ue(v) (§9.1); of se(v) it is the code number.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.fixed(zeros)?;
        ((1 << zeros) - 1 + u64::from(rest)).try_into().ok()
    }

    /// §7.3.2.1.1.1: a step of 0 to the next scale ends the list.
    fn skip_scaling_list(&mut self, size: usize) -> Option<()> {
        let mut last: i64 = 8;
        for _ in 0..size {
            let code = i64::from(self.golomb()?);
            let step = if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 };
            last = (last + step).rem_euclid(256);
            if last == 0 {
                break;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes parameter sets as an encoder does.
    #[derive(Default)]
    struct Pen {
        bits: Vec<bool>,
    }

    impl Pen {
        fn fixed(mut self, count: u32, value: u32) -> Pen {
            self.bits.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
            self
        }
        fn golomb(self, value: u32) -> Pen {
            let length = (value + 1).ilog2();
            self.fixed(length, 0).fixed(length + 1, value + 1)
        }
        fn golombs(self, values: &[u32]) -> Pen {
            values.iter().fold(self, |pen, value| pen.golomb(*value))
        }
        fn unit(mut self) -> Vec<u8> {
            self.bits.push(true);
            let mut unit = vec![0x67];
            for byte in self.bits.chunks(8) {
                let byte = byte.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << (7 - at));
                if byte <= 3 && unit.len() > 2 && unit.ends_with(&[0, 0]) {
                    unit.push(3);
                }
                unit.push(byte);
            }
            unit
        }
    }

    /// Baseline, order of pictures by count 0; `cut` is left, right, top, bottom in chroma samples.
    fn baseline(blocks: (u32, u32), cut: Option<[u32; 4]>) -> Vec<u8> {
        let pen = Pen::default().fixed(8, 66).fixed(16, 0xc01f).golombs(&[0, 0, 0, 2, 1]).fixed(1, 0);
        let pen = pen.golombs(&[blocks.0 - 1, blocks.1 - 1]).fixed(2, 0b11);
        match cut {
            Some(cut) => pen.fixed(1, 1).golombs(&cut),
            None => pen.fixed(1, 0),
        }
        .fixed(1, 0)
        .unit()
    }

    fn size(unit: &[u8]) -> Option<(u32, u32)> {
        picture_size(Codec::H264, unit)
    }

    #[test]
    fn blocks_and_cropping_make_the_size() {
        assert_eq!(size(&baseline((80, 45), None)), Some((1280, 720)));
        assert_eq!(size(&baseline((40, 23), Some([0, 0, 0, 4]))), Some((640, 360)));
        assert_eq!(size(&baseline((20, 12), Some([0, 0, 0, 6]))), Some((320, 180)));
        assert_eq!(size(&baseline((1, 1), Some([8, 8, 0, 0]))), None, "nothing is left");
    }

    #[test]
    fn encoders_write_it_like_this() {
        let cases: [(&str, &str, (u32, u32)); 4] = [
            ("x264, baseline", "6742c015d901419f9f016a0c0c0d4a000003000200000300791e2c5c90", (320, 180)),
            ("x264, High", "67640028acd940780227e5c05a808080a0000003002000000791e30632c0", (1920, 1080)),
            ("OpenH264", "6742c01e8c8d405017fcb00f08846a", (640, 360)),
            ("x264, 4:4:4, fields", "67f4001e919b2816849b011000000300100000030321f14299600000", (720, 576)),
        ];
        for (encoder, text, expected) in cases {
            assert_eq!(size(&hex::decode(text).unwrap()), Some(expected), "{encoder}");
        }
    }

    #[test]
    fn high_profiles_scaling_lists_fields_and_the_other_count() {
        let pen = Pen::default().fixed(8, 100).fixed(16, 0x0028).golombs(&[0, 1, 0, 0]).fixed(1, 0);
        // a list of 16 that ends at once (delta_scale -8), six that are not there, one of 64 steps of 0
        let pen = pen.fixed(2, 0b11).golomb(16).fixed(6, 0).fixed(1, 1).golombs(&[0; 64]);
        // pic_order_cnt_type 1 with two offsets, interlaced
        let pen = pen.golombs(&[0, 1]).fixed(1, 0).golombs(&[0, 0, 2, 5, 6, 4]).fixed(1, 0);
        let unit = pen.golombs(&[119, 33]).fixed(1, 0).fixed(2, 0b11).fixed(1, 1).golombs(&[0, 0, 0, 2]).fixed(1, 0);
        assert_eq!(size(&unit.unit()), Some((1920, 1080)));
        // 4:4:4 has twelve lists and is cut by single samples
        let pen = Pen::default().fixed(8, 244).fixed(16, 0x0028).golombs(&[0, 3]).fixed(1, 0).golombs(&[0, 0]);
        let pen = pen.fixed(2, 0b01).fixed(12, 0).golombs(&[0, 2, 1]).fixed(1, 0).golombs(&[9, 9]).fixed(2, 0b11);
        assert_eq!(size(&pen.fixed(1, 1).golombs(&[1, 2, 3, 4]).unit()), Some((157, 153)));
    }

    #[test]
    fn it_is_found_alone_aggregated_and_fragmented() {
        let set = baseline((20, 15), None);
        let mut stap = vec![0x78, 0, 2, 0x09, 0x10, 0, set.len() as u8];
        stap.extend(&set);
        assert_eq!(size(&stap), Some((320, 240)));
        stap.truncate(stap.len() - 3);
        assert_eq!(size(&stap), None, "torn");
        let mut fragment = vec![0x7c, 0x87];
        fragment.extend(&set[1..]);
        assert_eq!(size(&fragment), Some((320, 240)));
        fragment[1] = 0x07;
        assert_eq!(size(&fragment), None, "not its start");
        assert_eq!(size(&[0x65, 1, 2]), None);
    }

    #[test]
    fn vp9_says_it_in_all_frames_but_those_that_take_it_from_another() {
        let frame = |bits: &[&str]| -> Vec<u8> {
            let octet =
                |bits: &[u8]| bits.iter().enumerate().fold(0, |octet, (n, bit)| octet | (bit - b'0') << (7 - n));
            bits.concat().as_bytes().chunks(8).map(octet).collect()
        };
        let sync = "010010011000001101000010";
        // 640 × 361, less one
        let size = "00000010011111110000000101101000";
        let told = Some((640, 361));
        // marker, profile, not an old frame again; key, shown, not resilient; colours
        assert_eq!(vp9_frame_size(&frame(&["10000", "010", sync, "0010", size])), told);
        assert_eq!(vp9_frame_size(&frame(&["10100", "010", sync, "0010", "110", size])), told, "profile 1");
        assert_eq!(vp9_frame_size(&frame(&["10010", "010", sync, "1", "0010", size])), told, "profile 2");
        let (refresh, references) = ("00000001", "000000100100");
        assert_eq!(vp9_frame_size(&frame(&["10000", "100", "1", "00", sync, refresh, size])), told, "alone");
        assert_eq!(vp9_frame_size(&frame(&["10000", "110", "00", refresh, references, "000", size])), told);
        assert_eq!(vp9_frame_size(&frame(&["10000", "110", "00", refresh, references, "01", size])), None);
        assert_eq!(vp9_frame_size(&frame(&["10001", "000", size])), None, "an old frame again");
    }

    #[test]
    fn vp8_says_it_in_its_keyframes() {
        let frame = [0x10, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x42, 0xe0, 0x01];
        assert_eq!(picture_size(Codec::Vp8, &frame), Some((640, 480)));
        let mut extended = vec![0x90, 0x80, 0x81, 0x02];
        extended.extend(&frame[1..]);
        assert_eq!(picture_size(Codec::Vp8, &extended), Some((640, 480)));
        let mut predicted = frame;
        predicted[1] |= 1;
        assert_eq!(picture_size(Codec::Vp8, &predicted), None);
        assert_eq!(picture_size(Codec::Vp9, &frame), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(payload in prop::collection::vec(any::<u8>(), 0..60), first in prop::sample::select(vec![0x67, 0x78, 0x7c, 0x10])) {
            let mut begun = vec![first, 0x87];
            begun.extend(&payload);
            for codec in [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus] {
                let _ = picture_size(codec, &payload);
                let _ = picture_size(codec, &begun);
            }
        }

        #[test]
        fn every_size_is_read(width in 1u32..1024, height in 1u32..1024, cut in 0u32..8) {
            let read = size(&baseline((width, height), Some([0, cut, cut, 0])));
            let expected = (width * 16 - cut * 2, height * 16 - cut * 2);
            prop_assert_eq!(read, (expected.0 > 0 && expected.1 > 0).then_some(expected));
        }
    }
}
