//! Planes of light or colour, made larger or smaller.
//!
//! Owns: the weights, kept from picture to picture, and the rows at hand. Must not touch: where a plane comes from or
//! goes.
//! Law: every pixel that comes out is a weighted mean of pixels inside the cut's reach, and the weights sum to one: what
//! is even stays even, at the same level.
//!
//! The kernel is a triangle that is as wide as a pixel of the coarser of both pictures, so that nothing is left out where
//! it becomes smaller. Rows are made first, eight at a time, and then lie side by side in one vector of 16 bits each: a
//! multiplication makes eight pixels. That needs no instructions that a board might lack, and a picture that shrinks by a
//! third costs less than a third of what it did with `fast_image_resize` and AVX2 (which goes across first).

use std::collections::BTreeMap;
use std::sync::Arc;

use wide::{i16x8, u8x16, u16x8};

/// One is this many parts.
const ONE: u32 = 256;
/// Kinds of scaling that are remembered: all tiles of a scene, their two kinds of planes, and both directions.
const MOST_KEPT: usize = 256;
/// Rows that go through together.
const TOGETHER: usize = 8;
/// Half a part in each of the eight.
const HALVES: u16x8 = u16x8::new([(ONE / 2) as u16; TOGETHER]);

/// Rows of pixels inside a longer slice.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    pub bytes: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

impl<'a> Plane<'a> {
    fn row(&self, y: usize) -> Option<&'a [u8]> {
        self.bytes.get(self.stride * y..self.stride * y + self.width)
    }
}

/// A stretch of one direction: where it begins and how long it is, in pixels.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub from: f64,
    pub length: f64,
}

/// The weights of one direction.
struct Taps {
    /// For each pixel that comes out, the first that goes in.
    first: Vec<usize>,
    /// So many weights for each.
    count: usize,
    weights: Vec<u16>,
    /// The same, for each of the rows that go through together.
    wide: Vec<u16x8>,
}

impl Taps {
    /// `out` pixels out of a stretch of `len`.
    fn new(len: usize, stretch: Stretch, out: usize) -> Taps {
        let step = stretch.length / out as f64;
        let reach = step.max(1.0);
        let middle = |n: usize| stretch.from + (n as f64 + 0.5) * step;
        let weighed: Vec<(usize, Vec<u32>)> = (0..out)
            .map(|n| {
                let middle = middle(n);
                let most = len as f64;
                let from = (middle - reach).floor().clamp(0.0, most - 1.0) as usize;
                let to = ((middle + reach).ceil().clamp(0.0, most) as usize).max(from + 1);
                let weight = |x: usize| (1.0 - ((x as f64 + 0.5 - middle) / reach).abs()).max(0.0);
                let mut weights: Vec<f64> = (from..to).map(weight).collect();
                let ahead = weights.iter().take_while(|weight| **weight == 0.0).count().min(weights.len() - 1);
                weights.drain(..ahead);
                while weights.len() > 1 && weights.last() == Some(&0.0) {
                    weights.pop();
                }
                (from + ahead, whole(&weights))
            })
            .collect();
        let count = weighed.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let (mut first, mut all) = (Vec::with_capacity(out), Vec::with_capacity(out * count));
        for (from, weights) in weighed {
            // those at the far edge begin earlier, with weights of nought
            let early = (from + count).saturating_sub(len).min(from);
            first.push(from - early);
            all.extend(std::iter::repeat_n(0, early));
            all.extend(weights.iter().map(|weight| *weight as u16));
            all.resize(first.len() * count, 0);
        }
        let wide = all.iter().map(|weight| u16x8::splat(*weight)).collect();
        Taps { first, count, weights: all, wide }
    }

    fn of(&self, n: usize) -> (usize, &[u16]) {
        (self.first[n], &self.weights[n * self.count..(n + 1) * self.count])
    }

    /// The first pixel that is needed and the one after the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.first.iter().min().copied().unwrap_or(0);
        (first, self.first.iter().max().map_or(0, |last| last + self.count))
    }
}

/// Weights in parts of [`ONE`]; what rounding adds or takes is made good where it shows least.
fn whole(weights: &[f64]) -> Vec<u32> {
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        let mut all = vec![0; weights.len()];
        all[0] = ONE;
        return all;
    }
    let mut all: Vec<u32> = weights.iter().map(|weight| (weight / sum * f64::from(ONE)).round() as u32).collect();
    let given: u32 = all.iter().sum();
    let largest = all.iter_mut().max().expect("there is at least one weight");
    *largest = (*largest + ONE).saturating_sub(given);
    all
}

type Kind = (usize, [u64; 2], usize);

/// Scales planes; keeps its weights and buffers.
#[derive(Default)]
pub struct Scaler {
    kept: BTreeMap<Kind, Arc<Taps>>,
    rows: [Vec<u16>; TOGETHER],
    /// The rows side by side: one column of them in each.
    columns: Vec<u16x8>,
    /// Columns of what comes out.
    made: Vec<u16x8>,
}

impl Scaler {
    fn taps(&mut self, len: usize, stretch: Stretch, out: usize) -> Arc<Taps> {
        if self.kept.len() > MOST_KEPT {
            self.kept.clear();
        }
        let kind = (len, [stretch.from.to_bits(), stretch.length.to_bits()], out);
        self.kept.entry(kind).or_insert_with(|| Arc::new(Taps::new(len, stretch, out))).clone()
    }

    /// Fills `height` rows of `width` pixels, the first of `stride` bytes each, with the cut of a plane. A plane that has
    /// not the rows it says leaves what was there.
    pub fn scale(
        &mut self,
        plane: &Plane<'_>,
        (across, down): (Stretch, Stretch),
        (width, height): (usize, usize),
        target: &mut [u8],
        stride: usize,
    ) {
        if plane.width == 0 || plane.height == 0 || width == 0 || height == 0 {
            return;
        }
        let (across, down) = (self.taps(plane.width, across, width), self.taps(plane.height, down, height));
        let (left, right) = across.reach();
        // columns are turned into rows, and rows into columns, eight at a time
        let whole = (right - left).next_multiple_of(TOGETHER);
        self.rows.iter_mut().for_each(|row| row.resize(whole, 0));
        self.columns.resize(whole, u16x8::ZERO);
        self.made.resize(width.next_multiple_of(TOGETHER), u16x8::ZERO);
        for top in (0..height).step_by(TOGETHER) {
            let lines = TOGETHER.min(height - top);
            for (line, row) in self.rows.iter_mut().enumerate().take(lines) {
                let (first, weights) = down.of(top + line);
                if mean_of_rows(plane, left..right, first, weights, &mut row[..right - left]).is_none() {
                    return;
                }
            }
            turn(&self.rows, &mut self.columns);
            let end = target.len().min((top + lines) * stride);
            let Some(target) = target.get_mut(top * stride..end) else { return };
            go_across(&across, left, &self.columns, &mut self.made[..width]);
            put(&self.made, target, stride, width);
        }
    }
}

/// A row that is the weighted mean of some.
fn mean_of_rows(
    plane: &Plane<'_>,
    columns: std::ops::Range<usize>,
    first: usize,
    weights: &[u16],
    out: &mut [u16],
) -> Option<()> {
    let row = |n: usize| plane.row(first + n)?.get(columns.clone());
    match *weights {
        [_] => out.iter_mut().zip(row(0)?).for_each(|(out, pixel)| *out = u16::from(*pixel)),
        [a, b] => rows([row(0)?, row(1)?], [a, b], out),
        [a, b, c] => rows([row(0)?, row(1)?, row(2)?], [a, b, c], out),
        [a, b, c, d] => rows([row(0)?, row(1)?, row(2)?, row(3)?], [a, b, c, d], out),
        _ => {
            let mut sums = vec![(ONE / 2) as u16; out.len()];
            for (n, weight) in weights.iter().enumerate() {
                for (sum, pixel) in sums.iter_mut().zip(row(n)?) {
                    *sum += u16::from(*pixel) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out = sum >> 8;
            }
        }
    }
    Some(())
}

/// All slices as long as `out`, which lets the compiler take many pixels at once. The sums stay below 2¹⁶.
fn rows<const N: usize>(rows: [&[u8]; N], weights: [u16; N], out: &mut [u16]) {
    let rows = rows.map(|row| &row[..out.len()]);
    for x in 0..out.len() {
        let mut sum = (ONE / 2) as u16;
        for n in 0..N {
            sum += u16::from(rows[n][x]) * weights[n];
        }
        out[x] = sum >> 8;
    }
}

/// Lays the pixels of the rows side by side. The last rows of a picture may be fewer than eight: what the others hold is
/// not looked at.
fn turn(rows: &[Vec<u16>; TOGETHER], columns: &mut [u16x8]) {
    let (columns, _) = columns.as_chunks_mut::<TOGETHER>();
    let rows: [&[[u16; TOGETHER]]; TOGETHER] = std::array::from_fn(|y| &rows[y].as_chunks().0[..columns.len()]);
    for (n, columns) in columns.iter_mut().enumerate() {
        let mut block = [u16x8::ZERO; TOGETHER];
        for (row, from) in block.iter_mut().zip(&rows) {
            *row = u16x8::new(from[n]);
        }
        *columns = u16x8::transpose(block);
    }
}

fn go_across(taps: &Taps, left: usize, columns: &[u16x8], made: &mut [u16x8]) {
    match taps.count {
        1 => across::<1>(taps, left, columns, made),
        2 => across::<2>(taps, left, columns, made),
        3 => across::<3>(taps, left, columns, made),
        4 => across::<4>(taps, left, columns, made),
        count => {
            for ((out, weights), first) in made.iter_mut().zip(taps.wide.chunks(count)).zip(&taps.first) {
                let from = columns[first - left..].iter();
                *out = weights.iter().zip(from).fold(HALVES, |sum, (weight, column)| sum + *weight * *column);
            }
        }
    }
}

fn across<const N: usize>(taps: &Taps, left: usize, columns: &[u16x8], made: &mut [u16x8]) {
    let (weights, _) = taps.wide.as_chunks::<N>();
    for ((out, weights), first) in made.iter_mut().zip(weights).zip(&taps.first) {
        let from: &[u16x8; N] = columns[first - left..].first_chunk().expect("the columns reach to the last weight");
        let mut sum = HALVES;
        for n in 0..N {
            sum += weights[n] * from[n];
        }
        *out = sum;
    }
}

/// Takes the pixels of columns apart again, into as many rows as the target has.
fn put(made: &[u16x8], target: &mut [u8], stride: usize, width: usize) {
    for (n, columns) in made.as_chunks::<TOGETHER>().0.iter().enumerate() {
        let mut block = *columns;
        for column in &mut block {
            *column >>= 8_u32;
        }
        let from = n * TOGETHER;
        let to = width.min(from + TOGETHER);
        for (y, row) in u16x8::transpose(block).into_iter().enumerate() {
            let Some(out) = target.get_mut(y * stride + from..y * stride + to) else { break };
            let pixels = u8x16::narrow_i16x8(i16x8::new(row.to_array().map(u16::cast_signed)), i16x8::ZERO).to_array();
            match out.first_chunk_mut::<TOGETHER>() {
                Some(out) => *out = *pixels.first_chunk().expect("16 are more than 8"),
                None => out.copy_from_slice(&pixels[..to - from]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the scaler makes of a plane.
    fn scaled(plane: &Plane<'_>, cut: (Stretch, Stretch), (width, height): (usize, usize)) -> Vec<u8> {
        let mut target = vec![0; width * height];
        Scaler::default().scale(plane, cut, (width, height), &mut target, width);
        target
    }

    fn whole_of(plane: &Plane<'_>) -> (Stretch, Stretch) {
        let all = |length: usize| Stretch { from: 0.0, length: length as f64 };
        (all(plane.width), all(plane.height))
    }

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (len, from, length, out) in [
            (640, 0.0, 640.0, 426),
            (640, 13.5, 600.0, 426),
            (5, 0.0, 5.0, 1280),
            (1280, 0.0, 1280.0, 7),
            (1, 0.0, 1.0, 9),
        ] {
            let taps = Taps::new(len, Stretch { from, length }, out);
            for n in 0..out {
                let (first, weights) = taps.of(n);
                assert!(first + weights.len() <= len, "{len} to {out}");
                assert_eq!(weights.iter().map(|w| u32::from(*w)).sum::<u32>(), ONE, "{len} to {out}, {n}");
            }
        }
    }

    #[test]
    fn what_is_even_stays_at_its_level() {
        for level in [0, 16, 127, 128, 235, 255] {
            let bytes = vec![level; 64 * 37];
            let plane = Plane { bytes: &bytes, stride: 64, width: 61, height: 37 };
            for size in [(40, 24), (61, 37), (7, 5), (200, 90), (3, 1)] {
                assert!(scaled(&plane, whole_of(&plane), size).iter().all(|pixel| *pixel == level), "{level} {size:?}");
            }
        }
    }

    /// The same by the definition, with no rounding on the way.
    fn exact(plane: &Plane<'_>, (across, down): (Stretch, Stretch), size: (usize, usize)) -> Vec<f64> {
        let weight = |len: usize, stretch: Stretch, out: usize, n: usize| -> Vec<f64> {
            let step = stretch.length / out as f64;
            let middle = stretch.from + (n as f64 + 0.5) * step;
            let all: Vec<f64> =
                (0..len).map(|x| (1.0 - ((x as f64 + 0.5 - middle) / step.max(1.0)).abs()).max(0.0)).collect();
            let sum: f64 = all.iter().sum();
            all.iter().map(|w| w / sum).collect()
        };
        let mut out = Vec::new();
        for y in 0..size.1 {
            let rows = weight(plane.height, down, size.1, y);
            for x in 0..size.0 {
                let columns = weight(plane.width, across, size.0, x);
                let mut sum = 0.0;
                for (v, row) in rows.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                    for (u, column) in columns.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                        sum += row * column * f64::from(plane.bytes[plane.stride * v + u]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    #[test]
    fn a_picture_is_scaled_as_the_kernel_says() {
        // edges and slopes: a pattern that repeats nowhere, in rows that are longer than the picture
        let bytes: Vec<u8> = (0..80 * 50).map(|n: u32| (n.wrapping_mul(n) / 7 % 251) as u8).collect();
        let plane = Plane { bytes: &bytes[..80 * 49 + 71], stride: 80, width: 71, height: 50 };
        let cut = |x, w, y, h| (Stretch { from: x, length: w }, Stretch { from: y, length: h });
        for cut in [whole_of(&plane), cut(10.0, 50.0, 3.5, 40.25)] {
            for size in [(47, 33), (71, 25), (20, 50), (10, 7), (142, 99), (1, 1)] {
                let wrong = scaled(&plane, cut, size)
                    .iter()
                    .zip(exact(&plane, cut, size))
                    .map(|(a, b)| (f64::from(*a) - b).abs())
                    .fold(0.0, f64::max);
                assert!(wrong < 4.0, "{size:?}: {wrong}");
            }
        }
    }

    #[test]
    fn nothing_is_written_beside_the_rows() {
        let bytes = vec![200; 32 * 18];
        let plane = Plane { bytes: &bytes, stride: 32, width: 32, height: 18 };
        let mut target = [1; 6 * 20];
        Scaler::default().scale(&plane, whole_of(&plane), (13, 5), &mut target[..20 * 4 + 13], 20);
        for (n, pixel) in target.iter().enumerate() {
            let inside = n % 20 < 13 && n / 20 < 5;
            assert_eq!(*pixel == 200, inside, "{n}");
        }
    }

    #[test]
    fn a_plane_that_is_short_of_rows_is_left() {
        let plane = Plane { bytes: &[9; 40], stride: 10, width: 10, height: 8 };
        assert!(scaled(&plane, whole_of(&plane), (5, 4)).iter().take(2).all(|pixel| *pixel == 9 || *pixel == 0));
    }
}
