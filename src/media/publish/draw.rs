//! Light and letters on a raw I420 frame: a flash, a clock, a label, without any plugin.
//!
//! Owns: a font of five by seven dots. Must not touch: pipelines.
//! Law: nothing is drawn outside of the frame.

/// The planes of an I420 frame as GStreamer lays them out: rows rounded up to four bytes.
pub(super) struct Canvas<'a> {
    luma: &'a mut [u8],
    chroma: &'a mut [u8],
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> Canvas<'a> {
    pub fn i420(frame: &'a mut [u8], width: usize, height: usize) -> Option<Canvas<'a>> {
        let stride = width.next_multiple_of(4);
        if frame.len() < stride * height {
            return None;
        }
        let (luma, chroma) = frame.split_at_mut(stride * height);
        Some(Canvas { luma, chroma, stride, width, height })
    }

    fn dot(&mut self, x: usize, y: usize, size: usize, light: u8) {
        let right = (x + size).min(self.width);
        for row in y..(y + size).min(self.height) {
            if x < right {
                self.luma[row * self.stride + x..row * self.stride + right].fill(light);
            }
        }
    }
}

/// White, all of it.
pub(super) fn flash(canvas: &mut Canvas<'_>) {
    canvas.luma.fill(235);
    canvas.chroma.fill(128);
}

/// Text with its upper left corner at `x`, `y`; a dot is `scale` pixels wide. Characters without a shape are blanks.
pub(super) fn write_text(canvas: &mut Canvas<'_>, text: &str, x: usize, y: usize, scale: usize) {
    let count = text.chars().count();
    for row in 0..9 {
        for column in 0..count * 6 + 1 {
            canvas.dot(x + column * scale, y + row * scale, scale, 16);
        }
    }
    for (n, character) in text.chars().enumerate() {
        let left = x + (n * 6 + 1) * scale;
        for (row, bits) in shape(character).into_iter().enumerate() {
            for column in 0..5 {
                if bits >> (4 - column) & 1 == 1 {
                    canvas.dot(left + column * scale, y + (row + 1) * scale, scale, 235);
                }
            }
        }
    }
}

/// Seven rows of five dots.
fn shape(character: char) -> [u8; 7] {
    match character.to_ascii_uppercase() {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 2, 4, 8, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        ':' => [0, 4, 4, 0, 4, 4, 0],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        '-' => [0, 0, 0, 31, 0, 0, 0],
        '_' => [0, 0, 0, 0, 0, 0, 31],
        'A' => [14, 17, 17, 31, 17, 17, 17],
        'B' => [30, 17, 17, 30, 17, 17, 30],
        'C' => [14, 17, 16, 16, 16, 17, 14],
        'D' => [28, 18, 17, 17, 17, 18, 28],
        'E' => [31, 16, 16, 30, 16, 16, 31],
        'F' => [31, 16, 16, 30, 16, 16, 16],
        'G' => [14, 17, 16, 23, 17, 17, 15],
        'H' => [17, 17, 17, 31, 17, 17, 17],
        'I' => [14, 4, 4, 4, 4, 4, 14],
        'J' => [7, 2, 2, 2, 2, 18, 12],
        'K' => [17, 18, 20, 24, 20, 18, 17],
        'L' => [16, 16, 16, 16, 16, 16, 31],
        'M' => [17, 27, 21, 21, 17, 17, 17],
        'N' => [17, 17, 25, 21, 19, 17, 17],
        'O' => [14, 17, 17, 17, 17, 17, 14],
        'P' => [30, 17, 17, 30, 16, 16, 16],
        'Q' => [14, 17, 17, 17, 21, 18, 13],
        'R' => [30, 17, 17, 30, 20, 18, 17],
        'S' => [15, 16, 16, 14, 1, 1, 30],
        'T' => [31, 4, 4, 4, 4, 4, 4],
        'U' => [17, 17, 17, 17, 17, 17, 14],
        'V' => [17, 17, 17, 17, 17, 10, 4],
        'W' => [17, 17, 17, 21, 21, 21, 10],
        'X' => [17, 17, 10, 4, 10, 17, 17],
        'Y' => [17, 17, 10, 4, 4, 4, 4],
        'Z' => [31, 1, 2, 4, 8, 16, 31],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_white_on_black_and_stays_inside() {
        let mut frame = vec![100u8; 64 * 32 * 3 / 2];
        let mut canvas = Canvas::i420(&mut frame, 64, 32).expect("it fits");
        write_text(&mut canvas, "1:é LONGER THAN THE FRAME", 2, 28, 3);
        write_text(&mut canvas, "8", 0, 0, 1);
        assert_eq!(frame[0], 16);
        assert_eq!(frame[64 + 2], 235);
        assert!(frame[64 * 32..].iter().all(|chroma| *chroma == 100));
    }

    #[test]
    fn a_flash_is_white_and_a_torn_frame_is_left() {
        let mut frame = vec![16u8; 16 * 16 * 3 / 2];
        flash(&mut Canvas::i420(&mut frame, 16, 16).expect("it fits"));
        assert!(frame[..256].iter().all(|luma| *luma == 235) && frame[256..].iter().all(|chroma| *chroma == 128));
        assert!(Canvas::i420(&mut frame[..100], 16, 16).is_none());
    }
}
