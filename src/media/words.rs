//! Words: text to pixels, for watermarks.
//!
//! Owns: the chain that pango writes in, the font, the text of a time. Must not touch: where the words stand.
//! Law: a text is shown as it is, whatever is in it: it is never markup. What does not fit its rectangle is cut off, and
//! signs that no font of the box can write are a fault, not a row of empty boxes.
//! Sources: API.md §1.9 (WaterMarkChar, WaterMarkTimestamp).

use std::collections::BTreeSet;
use std::sync::OnceLock;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::MediaError;
use super::chain::{Chain, Out};
use super::stills::{MOST_SIDE, Still};
use crate::model::Timestamp;
use crate::model::mix::{Colour, Size};

/// Latin and Chinese of one hand; what both `Font`s of the API (`Tencent`, `SourceHanSans`) are here: it is the same
/// design as Source Han Sans.
const FONT: &str = "Noto Sans CJK SC";
const FONT_PACKAGE: &str = "fonts-noto-cjk";
/// From here on (CJK radicals) a sign is none that a Latin font has.
const EAST: char = '\u{2e80}';

/// `video/x-raw` without features: the words shall be in the picture, not beside it. The element's own ideas (a size
/// that follows the picture's, an outline, a shadow, margins) are off.
const WRITE: &str = "textoverlay name=words auto-resize=false draw-outline=false draw-shadow=false \
    halignment=left valignment=top line-alignment=left xpad=0 ypad=0 wrap-mode=wordchar ! \
    capsfilter caps=video/x-raw,format=RGBA";

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// pixels
    pub font_size: u32,
    pub colour: Colour,
    /// Fills the rectangle behind the words.
    pub background: Option<Colour>,
}

/// Writes texts of one style into one rectangle, from its left top corner on, with line breaks where its width ends.
pub struct Words {
    chain: Chain,
    overlay: gst::Element,
    paper: gst::Buffer,
    width: u32,
    height: u32,
}

impl Words {
    pub fn new(width: u32, height: u32, style: &Style) -> Result<Words, MediaError> {
        if !(1..=MOST_SIDE).contains(&width) || !(1..=MOST_SIDE).contains(&height) || style.font_size == 0 {
            return Err(MediaError::Pipeline(format!("no words of {} px on {width}x{height}", style.font_size)));
        }
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "RGBA")
            .field("width", width as i32)
            .field("height", height as i32)
            .field("framerate", gst::Fraction::new(0, 1))
            .build();
        let chain = Chain::new(WRITE, &caps)?;
        let overlay = chain.element("words").expect("the description names it");
        overlay.set_property("font-desc", format!("{FONT} {}px", style.font_size));
        overlay.set_property("color", 0xff00_0000 | style.colour.0);
        // without a background: nothing to be seen, but of the words' colour, so that no rim shines through their edges
        let ground = style.background.unwrap_or(style.colour).0.to_be_bytes();
        let opaque = if style.background.is_some() { 255 } else { 0 };
        let pixel = [ground[1], ground[2], ground[3], opaque];
        let mut paper = gst::Buffer::from_slice(pixel.repeat(width as usize * height as usize));
        paper.get_mut().expect("a new buffer has one owner").set_pts(gst::ClockTime::ZERO);
        Ok(Words { chain, overlay, paper, width, height })
    }

    /// The rectangle with the text in it.
    pub fn render(&mut self, text: &str) -> Result<Still, MediaError> {
        let fonts = fonts()?;
        if !fonts.latin || (!fonts.east && text.contains(|c| c >= EAST)) {
            return Err(MediaError::MissingFont(FONT, FONT_PACKAGE));
        }
        self.write(text)
    }

    fn write(&mut self, text: &str) -> Result<Still, MediaError> {
        self.overlay.set_property("text", literal(text));
        self.chain.push(self.paper.copy())?;
        let written = self.chain.take().into_iter().find_map(|out| match out {
            Out::Buffer(buffer) => Some(buffer),
            Out::Caps(_) => None,
        });
        let written = written.and_then(|buffer| buffer.into_mapped_buffer_readable().ok());
        let rgba = written.map(|bytes| bytes.as_slice().to_vec()).unwrap_or_default();
        if rgba.len() != self.width as usize * self.height as usize * 4 {
            return Err(MediaError::Pipeline(format!("{} bytes of words came out", rgba.len())));
        }
        Ok(Still { width: self.width, height: self.height, rgba })
    }
}

/// The smallest rectangle with even sides, from the left top corner on, that holds all ink of the text; at most
/// 2560 x 2560, and at least 2 x 2.
pub fn measure(text: &str, font_size: u32) -> Result<Size, MediaError> {
    extent(&[text], font_size)
}

/// The rectangle that holds every timestamp.
pub fn timestamp_size(font_size: u32) -> Result<Size, MediaError> {
    // digits are equally wide, but their ink is not
    let widest: Vec<String> = (0..10).map(|n| "dddd-dd-dd dd:dd:dd".replace('d', &n.to_string())).collect();
    extent(&widest.iter().map(String::as_str).collect::<Vec<_>>(), font_size)
}

fn extent(texts: &[&str], font_size: u32) -> Result<Size, MediaError> {
    let style = Style { font_size, colour: Colour(0), background: None };
    let lines = texts.iter().map(|text| text.lines().count()).max().unwrap_or(0) as u32;
    // a line of this font is one and a half times as high as its size
    let height = font_size.saturating_mul(lines + 1).saturating_mul(2).clamp(2, MOST_SIDE);
    let mut words = Words::new(MOST_SIDE, height, &style)?;
    let (mut right, mut bottom) = (0, 0);
    for text in texts {
        let still = words.render(text)?;
        for (y, row) in still.rgba.chunks_exact(MOST_SIDE as usize * 4).enumerate() {
            if let Some(x) = row.chunks_exact(4).rposition(|pixel| pixel[3] > 0) {
                right = right.max(x as u32 + 1);
                bottom = bottom.max(y as u32 + 1);
            }
        }
    }
    let even = |side: u32| side.next_multiple_of(2).max(2);
    Ok(Size { width: even(right), height: even(bottom) })
}

/// Wall time in a zone as a timestamp watermark shows it: `YYYY-MM-DD HH:MM:SS`.
pub fn timestamp(at: Timestamp, zone_hours: i32) -> String {
    let seconds = at.secs().saturating_add(i64::from(zone_hours) * 3600);
    let there = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        there.year(),
        u8::from(there.month()),
        there.day(),
        there.hour(),
        there.minute(),
        there.second()
    )
}

/// As the element's markup writes the text literally. It would stop at a NUL, and markup forbids other control signs.
fn literal(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    gst::glib::markup_escape_text(&text).to_string()
}

/// What the fonts of the box can write.
#[derive(Debug, Clone, Copy)]
struct Fonts {
    latin: bool,
    east: bool,
}

/// Looked at once: pango takes any font that has a sign, and draws a box with its number where none has.
fn fonts() -> Result<Fonts, MediaError> {
    static FOUND: OnceLock<Fonts> = OnceLock::new();
    if let Some(fonts) = FOUND.get() {
        return Ok(*fonts);
    }
    let fonts = Fonts { latin: is_flat("\u{2014}")?, east: is_flat("\u{4e00}")? };
    if !fonts.latin || !fonts.east {
        tracing::error!(?fonts, "no font for watermarks: install {FONT_PACKAGE}");
    }
    Ok(*FOUND.get_or_init(|| fonts))
}

/// Whether the sign is a flat stroke, as these are in every hand, and not a box, which is higher than wide.
fn is_flat(sign: &str) -> Result<bool, MediaError> {
    let style = Style { font_size: 64, colour: Colour(0xff_ffff), background: None };
    let still = Words::new(128, 128, &style)?.write(sign)?;
    let inked: Vec<usize> = (0..128 * 128).filter(|i| still.rgba[i * 4 + 3] > 127).collect();
    let columns = inked.iter().map(|i| i % 128).collect::<BTreeSet<_>>().len();
    let rows = inked.iter().map(|i| i / 128).collect::<BTreeSet<_>>().len();
    Ok(rows > 0 && columns >= 4 * rows)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const RED: Style = Style { font_size: 24, colour: Colour(0xff_0000), background: None };

    fn written(width: u32, height: u32, style: &Style, text: &str) -> Still {
        crate::media::init().expect("GStreamer with what a recording needs");
        let still = Words::new(width, height, style).unwrap().render(text).unwrap();
        assert_eq!((still.width, still.height), (width, height));
        still
    }

    /// Left, top, right, bottom of what can be seen.
    fn ink(still: &Still) -> Option<(u32, u32, u32, u32)> {
        let seen = still.rgba.chunks_exact(4).enumerate().filter(|(_, pixel)| pixel[3] > 0);
        let places = seen.map(|(i, _)| (i as u32 % still.width, i as u32 / still.width));
        places.fold(None, |edges, (x, y)| {
            let (left, top, right, bottom) = edges.unwrap_or((x, y, x, y));
            Some((left.min(x), top.min(y), right.max(x), bottom.max(y)))
        })
    }

    #[test]
    fn latin_and_chinese_are_written_in_the_colour_asked_for() {
        let mut all = Vec::new();
        for text in ["Ward 7", "病房 七", "→ № ± ℃"] {
            let still = written(200, 48, &RED, text);
            let (left, top, right, bottom) = ink(&still).expect("there is ink");
            assert!(left < 8 && right > 40 && right < 190 && top < 24 && bottom < 40, "{text}: {:?}", ink(&still));
            let full = still.rgba.chunks_exact(4).filter(|pixel| pixel[3] == 255).count();
            assert!(full > 50, "{text}: {full}");
            // alpha is straight: the edges of a letter have its whole colour, too
            for pixel in still.rgba.chunks_exact(4).filter(|pixel| pixel[3] > 0) {
                assert!(pixel[0] >= 253 && pixel[1] <= 2 && pixel[2] <= 2, "{text}: {pixel:?}");
            }
            assert!(!all.contains(&still), "{text} looks like another");
            all.push(still);
        }
        let blue = written(200, 48, &Style { colour: Colour(0x00_00ff), ..RED }, "Ward 7");
        assert!(blue.rgba.chunks_exact(4).filter(|p| p[3] == 255).all(|p| p[..3] == [0, 0, 255]));
    }

    #[test]
    fn every_sign_of_markup_is_shown_as_it_is() {
        let width = |text: &str| ink(&written(400, 48, &RED, text)).map_or(0, |(_, _, right, _)| right);
        let (whole, without) = (width("<b>&amp;</b>"), width("&"));
        assert!(whole > 4 * without, "{whole} {without}");
        assert!(width("<b>&") > width("<b>"));
        // broken markup, quotation marks, what ends a description, control signs
        for text in ["<", "</span>", "a\" ! fakesink \"", "%s\\n", "'", "a\0b\u{7}c", "&#0;"] {
            assert!(width(text) > 0, "{text:?}");
        }
        assert_eq!(written(100, 48, &RED, "a\0b\u{7}c"), written(100, 48, &RED, "abc"));
    }

    #[test]
    fn words_stay_in_their_rectangle() {
        let long = "一段很长的文字 that does not fit into one line 和更多";
        let (_, _, right, bottom) = ink(&written(120, 400, &RED, long)).unwrap();
        assert!(right < 120 && bottom > 100, "it is broken into lines: {right} {bottom}");
        // cut off below, and at a width that takes no letter
        let (_, _, _, bottom) = ink(&written(120, 30, &RED, long)).unwrap();
        assert_eq!(bottom, 29);
        written(3, 3, &RED, long);
        written(1, 1, &Style { font_size: 500, ..RED }, long);
        let two = ink(&written(200, 200, &RED, "a\nb")).unwrap();
        let one = ink(&written(200, 200, &RED, "a b")).unwrap();
        assert!(two.3 > one.3 + 20);
        assert_eq!(ink(&written(20, 20, &RED, "")), None);
        assert_eq!(ink(&written(20, 20, &RED, " ")), None);
        assert!(Words::new(0, 2, &RED).is_err() && Words::new(2, 2561, &RED).is_err());
    }

    #[test]
    fn a_background_fills_the_rectangle() {
        let still = written(80, 40, &Style { background: Some(Colour(0x00_ff00)), ..RED }, "x");
        assert!(still.rgba.chunks_exact(4).all(|pixel| pixel[3] == 255));
        assert_eq!(still.rgba[still.rgba.len() - 4..], [0, 255, 0, 255]);
        assert!(still.rgba.chunks_exact(4).any(|pixel| pixel[..3] == [255, 0, 0]));
    }

    #[test]
    fn one_pen_writes_again_and_again() {
        crate::media::init().expect("GStreamer with what a recording needs");
        let style = Style { font_size: 28, colour: Colour(0xff_ffff), background: None };
        let size = timestamp_size(style.font_size).unwrap();
        let mut words = Words::new(size.width, size.height, &style).unwrap();
        let mut roomy = Words::new(640, 80, &style).unwrap();
        let (mut last, mut spent) = (None, Vec::new());
        for second in 0..50 {
            let text = timestamp(Timestamp::from_ms(1_700_000_000_000 + second * 1000), 8);
            let began = Instant::now();
            let still = words.render(&text).unwrap();
            spent.push(began.elapsed());
            assert_ne!(last.as_ref(), Some(&still), "{text}");
            let (_, top, right, bottom) = ink(&still).unwrap();
            // the rectangle is as large as needed, and not much larger
            assert!(right + 8 > size.width && bottom + 8 > size.height, "{size:?} {right} {bottom}");
            let roomy = roomy.render(&text).unwrap();
            assert_eq!(ink(&roomy), ink(&still), "{text}: nothing is cut off or broken into lines");
            assert!(bottom - top > 15);
            last = Some(still);
        }
        spent.sort();
        println!("{}x{}: {:?} in the middle, {:?} at most", size.width, size.height, spent[25], spent[49]);
    }

    #[test]
    fn a_measured_rectangle_is_just_enough() {
        crate::media::init().expect("GStreamer with what a recording needs");
        for text in ["Ward 7", "病房七号", "a\nb", "11", "j 1", "(。)", "L"] {
            let size = measure(text, 20).unwrap();
            let tight = ink(&written(size.width, size.height, &Style { font_size: 20, ..RED }, text)).unwrap();
            let loose = ink(&written(400, 200, &Style { font_size: 20, ..RED }, text)).unwrap();
            assert_eq!(tight, loose, "{text}: {size:?}");
        }
    }

    #[test]
    fn what_no_font_can_write_is_told() {
        crate::media::init().expect("GStreamer with what a recording needs");
        let fonts = fonts().unwrap();
        assert!(fonts.latin && fonts.east, "{fonts:?}");
        // never assigned, and private use: boxes with a number in them
        for sign in ["\u{378}", "\u{f0000}"] {
            assert!(!is_flat(sign).unwrap(), "{sign:?}");
        }
    }

    #[test]
    fn a_time_is_that_of_its_zone() {
        let at = Timestamp::from_ms(1_700_000_000_999);
        assert_eq!(timestamp(at, 0), "2023-11-14 22:13:20");
        assert_eq!(timestamp(at, 8), "2023-11-15 06:13:20");
        assert_eq!(timestamp(at, -12), "2023-11-14 10:13:20");
        assert_eq!(timestamp(Timestamp(0), 14), "1970-01-01 14:00:00");
        assert_eq!(timestamp(Timestamp::from_ms(1_709_164_800_000), -1), "2024-02-28 23:00:00");
        // zones and times that no caller has are no reason to fall
        timestamp(Timestamp(i64::MAX), i32::MAX);
        timestamp(Timestamp(i64::MIN), i32::MIN);
    }
}
