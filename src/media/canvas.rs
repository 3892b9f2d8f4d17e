//! The canvas of a mixed picture: planes of I420, and the few ways to put something on them.
//!
//! Owns: bytes of one picture. Must not touch: GStreamer, what is to be seen where.
//! Law: what is painted changes nothing outside of its rectangle, and all rectangles are even: a pixel of colour belongs
//! to four of light.

use super::scale::{Plane, Scaler, Stretch};
use crate::model::fit::Cut;
use crate::model::mix::{Colour, Rect, Size};

/// Where the planes of an I420 picture are in its bytes: GStreamer's own default for the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub size: Size,
    pub strides: [usize; 3],
    pub offsets: [usize; 3],
    pub bytes: usize,
}

impl Shape {
    /// Of an even size.
    pub fn of(size: Size) -> Shape {
        let round = |n: u32| n.next_multiple_of(4) as usize;
        let (luma, chroma) = (round(size.width), round(size.width / 2));
        let first = luma * size.height as usize;
        let second = first + chroma * (size.height as usize / 2);
        Shape {
            size,
            strides: [luma, chroma, chroma],
            offsets: [0, first, second],
            bytes: second + chroma * (size.height as usize / 2),
        }
    }

    pub fn whole(&self) -> Rect {
        Rect { x: 0, y: 0, width: self.size.width, height: self.size.height }
    }

    /// The rectangle of a plane that lies under `rect`.
    fn part(plane: usize, rect: Rect) -> Rect {
        if plane == 0 {
            return rect;
        }
        Rect { x: rect.x / 2, y: rect.y / 2, width: rect.width / 2, height: rect.height / 2 }
    }

    fn height(&self, plane: usize) -> u32 {
        if plane == 0 { self.size.height } else { self.size.height / 2 }
    }
}

/// A picture to be painted: planes of I420 as a decoder left them.
pub struct Planes<'a> {
    /// Pixels; any.
    pub size: Size,
    pub planes: [&'a [u8]; 3],
    pub strides: [usize; 3],
}

/// Luma and chroma of a colour: BT.709 for pictures of 720 lines or more, BT.601 below, limited range, as players
/// guess it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Yuv(pub [u8; 3]);

impl Yuv {
    pub fn of(rgb: [u8; 3], lines: u32) -> Yuv {
        let [r, g, b] = rgb.map(f32::from);
        let (kr, kb) = if lines >= 720 { (0.2126, 0.0722) } else { (0.299, 0.114) };
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (u, v) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
        let scaled = |value: f32, range: f32, zero: f32| (value * range / 255.0 + zero).round().clamp(0.0, 255.0) as u8;
        Yuv([scaled(y, 219.0, 16.0), scaled(u, 224.0, 128.0), scaled(v, 224.0, 128.0)])
    }

    pub fn colour(colour: Colour, lines: u32) -> Yuv {
        let [_, r, g, b] = colour.0.to_be_bytes();
        Yuv::of([r, g, b], lines)
    }
}

/// Something with holes: an image with alpha, some words. Colours are of a canvas of some number of lines.
#[derive(Debug)]
pub struct Overlay {
    size: Size,
    planes: [Vec<u8>; 3],
    /// How much of it is to be seen, for light and for colour.
    light: Vec<u8>,
    colour: Vec<u8>,
}

impl Overlay {
    /// From RGBA with straight alpha; an odd side loses its last pixel. `None` for what has no pixels then.
    pub fn new(width: u32, height: u32, rgba: &[u8], lines: u32) -> Option<Overlay> {
        let size = Size { width: width & !1, height: height & !1 };
        let row = width as usize * 4;
        if size.width == 0 || size.height == 0 || rgba.len() < row * height as usize {
            return None;
        }
        let (w, h) = (size.width as usize, size.height as usize);
        let mut planes = [vec![0; w * h], vec![0; w * h / 4], vec![0; w * h / 4]];
        let (mut light, mut colour) = (vec![0; w * h], vec![0; w * h / 4]);
        let pixel = |x: usize, y: usize| -> [u8; 4] {
            let at = y * row + x * 4;
            [rgba[at], rgba[at + 1], rgba[at + 2], rgba[at + 3]]
        };
        for y in 0..h {
            for x in 0..w {
                let [r, g, b, a] = pixel(x, y);
                planes[0][y * w + x] = Yuv::of([r, g, b], lines).0[0];
                light[y * w + x] = a;
            }
        }
        for y in 0..h / 2 {
            for x in 0..w / 2 {
                let four = [
                    pixel(2 * x, 2 * y),
                    pixel(2 * x + 1, 2 * y),
                    pixel(2 * x, 2 * y + 1),
                    pixel(2 * x + 1, 2 * y + 1),
                ];
                let alpha: u32 = four.iter().map(|p| u32::from(p[3])).sum();
                // what is not to be seen has no say in the colour
                let mean = |c: usize| {
                    let sum: u32 = four.iter().map(|p| u32::from(p[c]) * u32::from(p[3])).sum();
                    sum.checked_div(alpha).unwrap_or(0) as u8
                };
                let Yuv([_, u, v]) = Yuv::of([mean(0), mean(1), mean(2)], lines);
                planes[1][y * w / 2 + x] = u;
                planes[2][y * w / 2 + x] = v;
                colour[y * w / 2 + x] = (alpha / 4) as u8;
            }
        }
        Some(Overlay { size, planes, light, colour })
    }

    pub fn size(&self) -> Size {
        self.size
    }
}

/// A canvas that is being painted.
pub struct Painter<'a> {
    pub shape: Shape,
    pub bytes: &'a mut [u8],
}

impl Painter<'_> {
    fn row(&mut self, plane: usize, part: Rect, y: u32) -> &mut [u8] {
        let at = self.shape.offsets[plane] + self.shape.strides[plane] * (part.y + y) as usize + part.x as usize;
        &mut self.bytes[at..at + part.width as usize]
    }

    pub fn fill(&mut self, rect: Rect, colour: Yuv) {
        for plane in 0..3 {
            let part = Shape::part(plane, rect);
            for y in 0..part.height {
                self.row(plane, part, y).fill(colour.0[plane]);
            }
        }
    }

    /// Paints the cut of a picture over `rect`, scaled. `alpha`: 0 opaque … 255 not to be seen.
    pub fn picture(&mut self, scaler: &mut Scaler, picture: &Planes<'_>, cut: Cut, rect: Rect, alpha: u8) {
        if rect.width == 0 || rect.height == 0 || alpha == u8::MAX {
            return;
        }
        for plane in 0..3 {
            let part = Shape::part(plane, rect);
            let half = if plane == 0 { 1.0 } else { 2.0 };
            let size = match plane {
                0 => picture.size,
                _ => Size { width: picture.size.width.div_ceil(2), height: picture.size.height.div_ceil(2) },
            };
            let source = Source {
                bytes: picture.planes[plane],
                stride: picture.strides[plane],
                size,
                cut: Cut { x: cut.x / half, y: cut.y / half, width: cut.width / half, height: cut.height / half },
            };
            if alpha == 0 {
                self.plane(scaler, &source, plane, part);
            } else {
                self.blended(scaler, &source, plane, part, u16::from(u8::MAX - alpha));
            }
        }
    }

    fn plane(&mut self, scaler: &mut Scaler, source: &Source<'_>, plane: usize, part: Rect) {
        if let Some((x, y)) = source.as_it_is(part) {
            for line in 0..part.height {
                let at = source.stride * (y + line as usize) + x;
                self.row(plane, part, line).copy_from_slice(&source.bytes[at..at + part.width as usize]);
            }
            return;
        }
        let stride = self.shape.strides[plane];
        let from = self.shape.offsets[plane] + stride * part.y as usize + part.x as usize;
        let until = self.shape.offsets[plane] + stride * self.shape.height(plane) as usize;
        source.scale(scaler, part, &mut self.bytes[from..until], stride);
    }

    fn blended(&mut self, scaler: &mut Scaler, source: &Source<'_>, plane: usize, part: Rect, seen: u16) {
        let width = part.width as usize;
        let mut scaled = vec![0; width * part.height as usize];
        source.scale(scaler, part, &mut scaled, width);
        for (y, row) in (0..part.height).zip(scaled.chunks(width)) {
            for (under, over) in self.row(plane, part, y).iter_mut().zip(row) {
                *under = mix(*under, *over, seen);
            }
        }
    }

    /// Lays an overlay with its top left corner at an even place; what stands over the canvas is left out.
    pub fn overlay(&mut self, overlay: &Overlay, x: u32, y: u32) {
        let size = self.shape.size;
        let (x, y) = (x & !1, y & !1);
        if x >= size.width || y >= size.height {
            return;
        }
        let (width, height) = (overlay.size.width.min(size.width - x), overlay.size.height.min(size.height - y));
        let rect = Rect { x, y, width, height };
        for plane in 0..3 {
            let part = Shape::part(plane, rect);
            let (stride, seen) = match plane {
                0 => (overlay.size.width as usize, &overlay.light),
                _ => (overlay.size.width as usize / 2, &overlay.colour),
            };
            for line in 0..part.height {
                let at = stride * line as usize..stride * line as usize + part.width as usize;
                let over = overlay.planes[plane][at.clone()].iter().zip(&seen[at]);
                for (under, (over, seen)) in self.row(plane, part, line).iter_mut().zip(over) {
                    *under = mix(*under, *over, u16::from(*seen));
                }
            }
        }
    }

    /// What stands in a rectangle, to be put back by [`Painter::restore`].
    pub fn save(&mut self, rect: Rect) -> Saved {
        let mut bytes = Vec::with_capacity((rect.width * rect.height * 3 / 2) as usize);
        for plane in 0..3 {
            let part = Shape::part(plane, rect);
            for y in 0..part.height {
                bytes.extend_from_slice(self.row(plane, part, y));
            }
        }
        Saved { rect, bytes }
    }

    pub fn restore(&mut self, saved: &Saved) {
        let mut rest = saved.bytes.as_slice();
        for plane in 0..3 {
            let part = Shape::part(plane, saved.rect);
            for y in 0..part.height {
                let (row, after) = rest.split_at(part.width as usize);
                self.row(plane, part, y).copy_from_slice(row);
                rest = after;
            }
        }
    }
}

/// A part of a canvas as it was.
pub struct Saved {
    rect: Rect,
    bytes: Vec<u8>,
}

/// `seen` of 255 parts of `over`, the rest of `under`.
fn mix(under: u8, over: u8, seen: u16) -> u8 {
    let sum = u16::from(under) * (255 - seen) + u16::from(over) * seen + 127;
    // divides by 255 for all that can be here
    ((sum + 1 + (sum >> 8)) >> 8) as u8
}

struct Source<'a> {
    bytes: &'a [u8],
    stride: usize,
    size: Size,
    cut: Cut,
}

impl Source<'_> {
    /// Where the cut begins, when it is whole pixels and of the size that is wanted: nothing is to be scaled.
    fn as_it_is(&self, part: Rect) -> Option<(usize, usize)> {
        let whole = |n: f64| (n.fract() == 0.0).then_some(n as usize);
        let Cut { x, y, width, height } = self.cut;
        let fits = width == f64::from(part.width) && height == f64::from(part.height);
        fits.then_some((whole(x)?, whole(y)?))
    }

    fn scale(&self, scaler: &mut Scaler, part: Rect, target: &mut [u8], stride: usize) {
        let (across, down) = (f64::from(self.size.width), f64::from(self.size.height));
        let (x, y) = (self.cut.x.min(across - 1.0), self.cut.y.min(down - 1.0));
        let across = Stretch { from: x, length: self.cut.width.min(across - x) };
        let down = Stretch { from: y, length: self.cut.height.min(down - y) };
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let plane = Plane { bytes: self.bytes, stride: self.stride, width, height };
        scaler.scale(&plane, (across, down), (part.width as usize, part.height as usize), target, stride);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: Yuv = Yuv([50, 128, 128]);

    fn canvas(width: u32, height: u32) -> (Shape, Vec<u8>) {
        let shape = Shape::of(Size { width, height });
        let mut bytes = vec![0; shape.bytes];
        Painter { shape, bytes: &mut bytes }.fill(shape.whole(), GREY);
        (shape, bytes)
    }

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    fn luma(shape: &Shape, bytes: &[u8], x: usize, y: usize) -> u8 {
        bytes[shape.strides[0] * y + x]
    }

    /// A picture whose left half is dark and whose right half is bright, in rows of 100 bytes.
    fn halves(width: u32, height: u32) -> Vec<Vec<u8>> {
        let plane = |w: usize, h: usize, left: u8, right: u8| {
            (0..h).flat_map(|_| (0..100).map(move |x| if x < w / 2 { left } else { right })).collect::<Vec<u8>>()
        };
        let (w, h) = (width as usize, height as usize);
        vec![plane(w, h, 20, 220), plane(w / 2, h / 2, 90, 90), plane(w / 2, h / 2, 160, 160)]
    }

    fn planes<'a>(of: &'a [Vec<u8>], width: u32, height: u32) -> Planes<'a> {
        Planes { size: Size { width, height }, planes: [&of[0], &of[1], &of[2]], strides: [100; 3] }
    }

    fn whole(width: u32, height: u32) -> Cut {
        Cut { x: 0.0, y: 0.0, width: f64::from(width), height: f64::from(height) }
    }

    #[test]
    fn colours_are_those_of_the_standards() {
        assert_eq!(Yuv::of([0, 0, 0], 360), Yuv([16, 128, 128]));
        assert_eq!(Yuv::of([255, 255, 255], 720), Yuv([235, 128, 128]));
        assert_eq!(Yuv::of([255, 0, 0], 360), Yuv([81, 90, 240]), "BT.601");
        assert_eq!(Yuv::of([255, 0, 0], 720), Yuv([63, 102, 240]), "BT.709");
    }

    #[test]
    fn a_picture_is_scaled_into_its_rectangle_and_nowhere_else() {
        let (shape, mut bytes) = canvas(98, 66);
        let picture = halves(64, 48);
        let mut scaler = Scaler::default();
        let place = rect(20, 10, 40, 30);
        Painter { shape, bytes: &mut bytes }.picture(&mut scaler, &planes(&picture, 64, 48), whole(64, 48), place, 0);
        for y in 0..66 {
            for x in 0..98 {
                let inside = (20..60).contains(&x) && (10..40).contains(&y);
                let expected = match (inside, x) {
                    (false, _) => 50,
                    (true, ..=37) => 20,
                    (true, 42..) => 220,
                    (true, _) => continue,
                };
                assert_eq!(luma(&shape, &bytes, x, y), expected, "{x} {y}");
            }
        }
        let chroma = |plane: usize, x: usize, y: usize| bytes[shape.offsets[plane] + shape.strides[plane] * y + x];
        assert_eq!((chroma(1, 10, 5), chroma(2, 29, 19)), (90, 160));
        assert_eq!((chroma(1, 9, 5), chroma(2, 30, 19), chroma(1, 10, 20)), (128, 128, 128));
    }

    #[test]
    fn what_has_the_right_size_is_copied_and_what_is_cut_off_is_not_there() {
        let (shape, mut bytes) = canvas(64, 48);
        let picture = halves(64, 48);
        let right = Cut { x: 32.0, y: 0.0, width: 32.0, height: 48.0 };
        let mut scaler = Scaler::default();
        let mut painter = Painter { shape, bytes: &mut bytes };
        painter.picture(&mut scaler, &planes(&picture, 64, 48), right, rect(0, 0, 32, 48), 0);
        assert!((0..32).all(|x| luma(&shape, &bytes, x, 47) == 220));
        assert_eq!(luma(&shape, &bytes, 32, 47), 50);
    }

    #[test]
    fn alpha_lets_through_what_is_below() {
        let (shape, mut bytes) = canvas(64, 48);
        let picture = halves(64, 48);
        let mut scaler = Scaler::default();
        let mut painter = Painter { shape, bytes: &mut bytes };
        painter.picture(&mut scaler, &planes(&picture, 64, 48), whole(64, 48), shape.whole(), 255);
        assert_eq!(luma(&shape, painter.bytes, 60, 20), 50, "not to be seen");
        painter.picture(&mut scaler, &planes(&picture, 64, 48), whole(64, 48), shape.whole(), 128);
        let expected = (50.0 * 128.0 / 255.0 + 220.0 * 127.0 / 255.0_f64).round() as u8;
        assert_eq!(luma(&shape, &bytes, 60, 20), expected);
    }

    #[test]
    fn an_overlay_has_holes_and_can_be_taken_off_again() {
        let (shape, mut bytes) = canvas(64, 48);
        let before = bytes.clone();
        let mut rgba = vec![0; 5 * 4 * 4];
        for y in 0..4 {
            for x in 0..2 {
                rgba[(y * 5 + x) * 4..][..4].copy_from_slice(&[255, 255, 255, 255]);
            }
        }
        let overlay = Overlay::new(5, 4, &rgba, 48).expect("it has pixels");
        assert_eq!(overlay.size(), Size { width: 4, height: 4 }, "an odd side loses a pixel");
        let mut painter = Painter { shape, bytes: &mut bytes };
        let saved = painter.save(rect(62, 46, 2, 2));
        painter.overlay(&overlay, 62, 46);
        assert_eq!(luma(&shape, painter.bytes, 63, 47), 235, "and what stands over is left out");
        painter.restore(&saved);
        assert_eq!(painter.bytes, before);
        painter.overlay(&overlay, 10, 10);
        assert_eq!([10, 11, 12, 13].map(|x| luma(&shape, &bytes, x, 13)), [235, 235, 50, 50]);
        assert!(Overlay::new(1, 1, &[0; 4], 48).is_none());
    }

    #[test]
    fn mixing_is_exact_at_its_ends() {
        for under in 0..=255 {
            for over in [0, 1, 128, 255] {
                assert_eq!(mix(under, over, 0), under);
                assert_eq!(mix(under, over, 255), over);
                let half = (f64::from(under) * 127.0 + f64::from(over) * 128.0) / 255.0;
                assert!((f64::from(mix(under, over, 128)) - half).abs() <= 0.51);
            }
        }
    }
}
