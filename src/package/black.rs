//! A black picture of any size in H.264, made without an encoder.
//!
//! Owns: its parameter sets and its one slice. Must not touch: where it is shown.
//! Law: the same size gives the same bytes for ever, since what was uploaded of a file must be what is made again.
//! Sources: ITU-T H.264 §7.3 (syntax), §8.3.3 (Intra_16x16 DC prediction), §9.2.1 (coeff_token).
//!
//! The first macroblock is raw samples (I_PCM) of black; every other one is predicted from its neighbours and has nothing
//! to add: one byte each.

/// Parameter sets and the slice, each a NAL unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Black {
    pub sps: Vec<u8>,
    pub pps: Vec<u8>,
    pub slice: Vec<u8>,
}

const LUMA: u32 = 16;
const CHROMA: u32 = 128;
/// Constrained baseline.
const PROFILE: u32 = 66;
const CONSTRAINTS: u32 = 0xc0;
/// Of macroblock types of I slices (table 7-11).
const I_16X16_DC: u32 = 3;
const I_PCM: u32 = 25;
/// A picture has at most so many macroblocks (table A-1) and its level.
const LEVELS: [(u32, u32); 5] = [(396, 20), (1_620, 30), (3_600, 31), (8_192, 40), (36_864, 51)];

impl Black {
    /// A picture of even width and height; other ones are rounded up.
    pub fn new(width: u32, height: u32) -> Black {
        let (across, down) = (width.max(2).div_ceil(16), height.max(2).div_ceil(16));
        let (right, bottom) = ((across * 16 - width.max(2)) / 2, (down * 16 - height.max(2)) / 2);
        let blocks = across * down;
        let level = LEVELS.iter().find(|(most, _)| blocks <= *most).map_or(52, |(_, level)| *level);
        let mut sps = Pen::default();
        sps.fixed(8, PROFILE).fixed(8, CONSTRAINTS).fixed(8, level);
        // id 0, frame numbers of 4 bits, order of output is that of decoding, one reference frame
        sps.golomb(0).golomb(0).golomb(2).golomb(1).fixed(1, 0);
        sps.golomb(across - 1).golomb(down - 1).fixed(1, 1).fixed(1, 1);
        match right + bottom {
            0 => sps.fixed(1, 0),
            _ => sps.fixed(1, 1).golomb(0).golomb(right).golomb(0).golomb(bottom),
        };
        sps.fixed(1, 0);

        let mut pps = Pen::default();
        // ids, CAVLC, one slice group, no further references, no weights
        pps.golomb(0).golomb(0).fixed(1, 0).fixed(1, 0).golomb(0).golomb(0).golomb(0).fixed(1, 0).fixed(2, 0);
        // QP 26, and the filter's control in each slice
        pps.golomb(0).golomb(0).golomb(0).fixed(1, 1).fixed(1, 0).fixed(1, 0);

        let mut slice = Pen::default();
        // first macroblock, type I for the whole picture, PPS 0, frame number, idr_pic_id
        slice.golomb(0).golomb(7).golomb(0).fixed(4, 0).golomb(0);
        // no_output_of_prior_pics, long_term_reference; QP delta 0; no deblocking
        slice.fixed(1, 0).fixed(1, 0).golomb(0).golomb(1);
        slice.golomb(I_PCM).align();
        for sample in 0..384 {
            slice.fixed(8, if sample < 256 { LUMA } else { CHROMA });
        }
        for block in 1..blocks {
            slice.golomb(I_16X16_DC).golomb(0).golomb(0);
            // no coefficients, in the table that the raw neighbour (16 of them) asks for
            match block == 1 && across > 1 || block == across {
                true => slice.fixed(6, 0b00_0011),
                false => slice.fixed(1, 1),
            };
        }
        Black { sps: sps.nal(0x67), pps: pps.nal(0x68), slice: slice.nal(0x65) }
    }
}

#[derive(Default)]
struct Pen {
    bytes: Vec<u8>,
    bits: u32,
}

impl Pen {
    fn fixed(&mut self, count: u32, value: u32) -> &mut Pen {
        for bit in (0..count).rev() {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("pushed above");
            *last |= ((value >> bit & 1) as u8) << (7 - self.bits % 8);
            self.bits += 1;
        }
        self
    }

    /// ue(v)
    fn golomb(&mut self, value: u32) -> &mut Pen {
        let length = (value + 1).ilog2();
        self.fixed(length, 0).fixed(length + 1, value + 1)
    }

    fn align(&mut self) -> &mut Pen {
        self.fixed((8 - self.bits % 8) % 8, 0)
    }

    /// With its end, and its emulation prevention (§7.4.1.1).
    fn nal(mut self, header: u8) -> Vec<u8> {
        self.fixed(1, 1).align();
        let mut nal = vec![header];
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros >= 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}
