//! Frames of AAC as they lie in streams: their headers, and one in which nothing is heard.
//!
//! Owns: the header's bits. Must not touch: when a frame is heard.
//! Law: what is called whole is there to its last byte.
//! Sources: ISO/IEC 14496-3 §1.A.2, ISO/IEC 13818-7 §6.2.

pub use crate::model::merge::SoundForm;

const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
/// Of 48 kHz.
const USUAL_RATE: u8 = 3;
/// Samples in a frame.
pub const FRAME: i64 = 1024;

/// A rate as streams say it.
pub fn rate_index(rate: u32) -> Option<u8> {
    RATES.iter().position(|known| *known == rate).and_then(|index| u8::try_from(index).ok())
}

/// A frame of silence without its header, as every encoder of AAC-LC could have made it; for more than two channels there
/// is none.
pub fn silence(form: SoundForm) -> Option<&'static [u8]> {
    match form.channels {
        1 => Some(&[0x00, 0xc8, 0x00, 0x80, 0x23, 0x80]),
        2 => Some(&[0x21, 0x00, 0x49, 0x90, 0x02, 0x19, 0x00, 0x23, 0x80]),
        _ => None,
    }
}

/// The header before a frame of so many bytes, without a checksum.
pub fn header(form: SoundForm, payload: usize) -> [u8; 7] {
    let length = payload + 7;
    let rate = rate_index(form.rate).unwrap_or(USUAL_RATE);
    [
        0xff,
        0xf1,
        form.object.saturating_sub(1) << 6 | rate << 2 | form.channels >> 2,
        (form.channels & 3) << 6 | (length >> 11) as u8 & 3,
        (length >> 3) as u8,
        (length << 5) as u8 | 0x1f,
        0xfc,
    ]
}

/// A frame that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adts {
    pub form: SoundForm,
    /// Bytes of its header, and of all of it.
    pub header: usize,
    pub length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    Whole(Adts),
    /// No frame begins here.
    None,
    /// More bytes are needed to tell.
    Short,
}

impl Frame {
    /// What begins here.
    pub fn read(bytes: &[u8]) -> Frame {
        let [a, b, c, d, e, f, g, ..] = *bytes else { return Frame::Short };
        if a != 0xff || b & 0xf6 != 0xf0 {
            return Frame::None;
        }
        let header = if b & 1 == 0 { 9 } else { 7 };
        let length = usize::from(d & 0x03) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let channels = (c & 1) << 2 | d >> 6;
        let Some(rate) = RATES.get(usize::from(c >> 2 & 0x0f)) else { return Frame::None };
        // several blocks in a frame, and channels that are told elsewhere, are sent by nobody
        if length <= header || g & 0x03 != 0 || channels == 0 {
            return Frame::None;
        }
        if bytes.len() < length {
            return Frame::Short;
        }
        let form = SoundForm { rate: *rate, channels, object: (c >> 6) + 1 };
        Frame::Whole(Adts { form, header, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        for (rate, channels) in [(48_000, 2), (7350, 1), (96_000, 2)] {
            let form = SoundForm { rate, channels, object: 2 };
            let silence = silence(form).expect("there is one of each form");
            let bytes = [&header(form, silence.len()), silence].concat();
            let whole = Adts { form, header: 7, length: bytes.len() };
            assert_eq!(Frame::read(&bytes), Frame::Whole(whole));
            assert_eq!(Frame::read(&bytes[..bytes.len() - 1]), Frame::Short);
            assert_eq!(Frame::read(&bytes[1..]), Frame::None);
        }
    }
}
