//! The picture of a scene: everybody's tiles, the background, the watermarks.
//!
//! Owns: the canvas and what was painted on it last. Must not touch: who is shown (the scene says), decoding, encoding.
//! Law: what has not changed is not painted again; whatever is missing (an image that did not come, a font) leaves the
//! rest as it should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x4;
use fast_image_resize::{ResizeOptions, Resizer};
use gstreamer as gst;

use super::MediaError;
use super::canvas::{Overlay, Painter, Planes, Saved, Shape, Yuv};
use super::scale::Scaler;
use super::stills::{Still, Stills};
use super::words::{self, Style, Words};
use crate::model::Timestamp;
use crate::model::fit::{Cut, place};
use crate::model::layout::{Scene, Tile};
use crate::model::mix::{Colour, Fit, Place, Rect, Size, Watermark};

const BLACK: Yuv = Yuv([16, 128, 128]);
/// Timestamps are as high as one part in so many of the canvas, and stand so many pixels from its edges.
const TIMESTAMP_PART: u32 = 32;
const LEAST_TIMESTAMP: u32 = 14;
const MARGIN: u32 = 8;

/// What there is to see of a tile's track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// No picture has come yet, or there is no track.
    Nothing,
    /// It has stopped, and is to be black.
    Black,
    /// The picture of this number.
    Picture(u64),
}

/// Who has the pictures.
pub(super) trait Views {
    fn seen(&self, tile: &Tile) -> Seen;
    /// Pixels for the tile, which of them are shown, and where.
    fn placed(&self, tile: &Tile) -> Option<(Planes<'_>, Cut, Rect)>;
}

pub(super) struct Stage {
    shape: Shape,
    canvas: gst::Buffer,
    scaler: Scaler,
    scene: Scene,
    stills: Stills,
    version: u64,
    /// The background alone, painted once for each scene.
    ground: Vec<u8>,
    /// What each tile showed last; empty: everything is to be painted.
    painted: Vec<Seen>,
    /// `None`: to be made.
    marks: Option<Vec<Mark>>,
    /// What stands under the watermarks.
    under: Vec<Saved>,
    overlays: BTreeMap<(String, [u32; 2], u8), Arc<Overlay>>,
    troubles: Vec<String>,
}

struct Mark {
    x: u32,
    y: u32,
    overlay: Option<Arc<Overlay>>,
    clock: Option<Clock>,
}

/// A timestamp, written anew with each second.
struct Clock {
    words: Words,
    zone: i32,
    text: String,
}

impl Stage {
    pub fn new(size: Size, stills: Stills) -> Stage {
        let shape = Shape::of(size);
        Stage {
            shape,
            canvas: gst::Buffer::from_mut_slice(vec![0_u8; shape.bytes]),
            scaler: Scaler::default(),
            scene: Scene::default(),
            version: stills.version(),
            stills,
            ground: Vec::new(),
            painted: Vec::new(),
            marks: None,
            under: Vec::new(),
            overlays: BTreeMap::new(),
            troubles: Vec::new(),
        }
    }

    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Shows this from the next picture on.
    pub fn set(&mut self, scene: Scene) {
        // who comes and goes changes nothing of them, and words take their time
        let marks = self.marks.take().filter(|_| scene.watermarks == self.scene.watermarks);
        self.scene = scene;
        self.begin_anew();
        self.marks = marks;
    }

    /// Writes what the scene has of words, which takes its time when it is the first of the process.
    pub fn make_ready(&mut self, wall: Timestamp) {
        self.make_marks();
        self.turn_clocks(wall);
    }

    fn begin_anew(&mut self) {
        self.ground.clear();
        self.painted.clear();
        self.overlays.clear();
        self.marks = None;
    }

    /// What could not be shown since the last call.
    pub fn take_troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles)
    }

    /// The picture of a moment, without a time stamp. Whoever keeps it has it for good: the next one is painted on a
    /// copy then.
    pub fn picture(&mut self, wall: Timestamp, views: &impl Views) -> Result<gst::Buffer, MediaError> {
        let version = self.stills.version();
        if version != self.version {
            self.version = version;
            self.begin_anew();
        }
        let seen: Vec<Seen> = self.scene.tiles.iter().map(|tile| views.seen(tile)).collect();
        let all = self.painted.len() != seen.len() || self.ground.is_empty();
        if self.marks.is_none() {
            self.make_marks();
        }
        let ticked = self.turn_clocks(wall);
        if !all && !ticked && seen == self.painted {
            return Ok(self.canvas.copy());
        }
        self.paint(&seen, all, views)?;
        self.painted = seen;
        Ok(self.canvas.copy())
    }

    fn paint(&mut self, seen: &[Seen], all: bool, views: &impl Views) -> Result<(), MediaError> {
        if self.ground.is_empty() {
            self.ground = self.make_ground();
        }
        let mut canvas = std::mem::take(&mut self.canvas);
        {
            // one that an encoder still reads is left to it
            let buffer = canvas.make_mut();
            let mut map =
                buffer.map_writable().map_err(|_| MediaError::Pipeline("the canvas cannot be written".into()))?;
            let mut painter = Painter { shape: self.shape, bytes: map.as_mut_slice() };
            for saved in self.under.drain(..).rev() {
                painter.restore(&saved);
            }
            self.paint_tiles(&mut painter, seen, all, views);
            for mark in self.marks.iter().flatten() {
                if let Some(overlay) = &mark.overlay {
                    let rect = clipped(mark.x, mark.y, overlay.size(), self.shape.size);
                    self.under.push(painter.save(rect));
                    painter.overlay(overlay, mark.x, mark.y);
                }
            }
        }
        self.canvas = canvas;
        Ok(())
    }

    fn paint_tiles(&mut self, painter: &mut Painter<'_>, seen: &[Seen], all: bool, views: &impl Views) {
        let shows =
            |track| self.scene.tiles.iter().zip(seen).any(|(t, seen)| t.track == Some(track) && *seen != Seen::Nothing);
        let in_sight = self.scene.in_sight(shows);
        let tiles = std::mem::take(&mut self.scene.tiles);
        let changed: Vec<bool> = (0..tiles.len()).map(|n| all || seen[n] != self.painted[n]).collect();
        let everything = all || shows_what_is_below(&tiles, seen, &changed, &in_sight);
        if everything {
            painter.bytes.copy_from_slice(&self.ground);
        }
        let mut fresh: Vec<Rect> = Vec::new();
        for (n, tile) in tiles.iter().enumerate() {
            let touched = everything || changed[n] || fresh.iter().any(|rect| overlap(*rect, tile.rect));
            if !in_sight[n] || !touched {
                continue;
            }
            if !everything && !fills(tile, seen[n]) && !fresh.iter().any(|rect| overlap(*rect, tile.rect)) {
                copy(painter, &self.ground, tile.rect);
            }
            self.paint_tile(painter, tile, seen[n], views);
            fresh.push(tile.rect);
        }
        self.scene.tiles = tiles;
    }

    fn paint_tile(&mut self, painter: &mut Painter<'_>, tile: &Tile, seen: Seen, views: &impl Views) {
        let rect = tile.rect;
        if let Some(url) = tile.image.as_ref().filter(|_| !(seen != Seen::Nothing && fills(tile, seen))) {
            // beside a picture it is what the bars show, of which nothing may be free
            let fit = if seen == Seen::Nothing { tile.fit } else { Fit::Crop };
            self.image(painter, &url.clone(), fit, rect);
        }
        match seen {
            Seen::Nothing => {}
            Seen::Black if tile.alpha == 0 => painter.fill(rect, BLACK),
            Seen::Black => painter.picture(&mut self.scaler, &black(), Cut::whole(DOT), rect, tile.alpha),
            Seen::Picture(_) => {
                if let Some((planes, cut, landing)) = views.placed(tile) {
                    painter.picture(&mut self.scaler, &planes, cut, landing, tile.alpha);
                }
            }
        }
    }

    /// An image, where it has come.
    fn image(&mut self, painter: &mut Painter<'_>, url: &str, fit: Fit, rect: Rect) {
        let Some(still) = self.stills.get(url) else { return };
        let (cut, landing) = place(fit, Size { width: still.width, height: still.height }, rect);
        if let Some(overlay) = self.overlay(url, &still, cut, landing, fit) {
            painter.overlay(&overlay, landing.x, landing.y);
        }
    }

    fn overlay(&mut self, url: &str, still: &Still, cut: Cut, landing: Rect, fit: Fit) -> Option<Arc<Overlay>> {
        let key = (url.to_owned(), [landing.width, landing.height], fit as u8);
        if let Some(overlay) = self.overlays.get(&key) {
            return Some(overlay.clone());
        }
        let rgba = scaled(still, cut, landing)?;
        let overlay = Arc::new(Overlay::new(landing.width, landing.height, &rgba, self.shape.size.height)?);
        self.overlays.insert(key, overlay.clone());
        Some(overlay)
    }

    fn make_ground(&mut self) -> Vec<u8> {
        let shape = self.shape;
        let mut ground = vec![0; shape.bytes];
        let mut painter = Painter { shape, bytes: &mut ground };
        painter.fill(shape.whole(), Yuv::colour(self.scene.background, shape.size.height));
        if let Some((url, fit)) = self.scene.background_image.clone() {
            self.image(&mut painter, &url, fit, shape.whole());
        }
        ground
    }

    fn make_marks(&mut self) {
        let mut marks = Vec::new();
        for mark in self.scene.watermarks.clone() {
            match self.make_mark(&mark) {
                Ok(mark) => marks.extend(mark),
                Err(e) => self.troubles.push(e.to_string()),
            }
        }
        self.marks = Some(marks);
    }

    fn make_mark(&mut self, mark: &Watermark) -> Result<Option<Mark>, MediaError> {
        let lines = self.shape.size.height;
        match mark {
            Watermark::Image { url, rect } => {
                let Some(still) = self.stills.get(url) else { return Ok(None) };
                let landing = Rect { width: rect.width & !1, height: rect.height & !1, ..*rect };
                let whole = Cut::whole(Size { width: still.width, height: still.height });
                let overlay = self.overlay(url, &still, whole, landing, Fit::Stretch);
                Ok(overlay.map(|overlay| Mark { x: rect.x, y: rect.y, overlay: Some(overlay), clock: None }))
            }
            Watermark::Text { rect, text, font_size, colour, background } => {
                let style = Style { font_size: *font_size, colour: *colour, background: *background };
                let mut still = Words::new(rect.width, rect.height, &style)?.render(text)?;
                clip(&mut still, clipped(rect.x, rect.y, self.shape.size, self.shape.size));
                let overlay = Overlay::new(still.width, still.height, &still.rgba, lines).map(Arc::new);
                Ok(Some(Mark { x: rect.x, y: rect.y, overlay, clock: None }))
            }
            Watermark::Timestamp { place, zone } => {
                let font_size = (lines / TIMESTAMP_PART).max(LEAST_TIMESTAMP);
                let size = words::timestamp_size(font_size)?;
                let size = Size { width: size.width.next_multiple_of(2), height: size.height.next_multiple_of(2) };
                let style = Style { font_size, colour: Colour(0x00ff_ffff), background: None };
                let words = Words::new(size.width, size.height, &style)?;
                let (x, y) = corner(*place, size, self.shape.size);
                let clock = Some(Clock { words, zone: *zone, text: String::new() });
                Ok(Some(Mark { x, y, overlay: None, clock }))
            }
        }
    }

    /// Writes the timestamps of a new second; `true` if there are any.
    fn turn_clocks(&mut self, wall: Timestamp) -> bool {
        let mut turned = false;
        for mark in self.marks.iter_mut().flatten() {
            let Some(clock) = &mut mark.clock else { continue };
            let text = words::timestamp(wall, clock.zone);
            if text == clock.text {
                continue;
            }
            match clock.words.render(&text) {
                Ok(still) => {
                    mark.overlay =
                        Overlay::new(still.width, still.height, &still.rgba, self.shape.size.height).map(Arc::new);
                }
                Err(e) => self.troubles.push(e.to_string()),
            }
            clock.text = text;
            turned = true;
        }
        turned
    }
}

/// Whether something that is painted lets another tile be seen that is not painted anew below it: it would stand on itself.
fn shows_what_is_below(tiles: &[Tile], seen: &[Seen], changed: &[bool], in_sight: &[bool]) -> bool {
    let mut fresh: Vec<Rect> = Vec::new();
    for (n, tile) in tiles.iter().enumerate().filter(|(n, _)| in_sight[*n]) {
        if !changed[n] && !fresh.iter().any(|rect| overlap(*rect, tile.rect)) {
            continue;
        }
        let stands_on_others = tiles[..n].iter().any(|other| overlap(other.rect, tile.rect));
        if stands_on_others && !fills(tile, seen[n]) && !fresh.iter().any(|rect| rect.contains(&tile.rect)) {
            return true;
        }
        fresh.push(tile.rect);
    }
    false
}

/// The least picture there is.
const DOT: Size = Size { width: 2, height: 2 };

fn black() -> Planes<'static> {
    Planes { size: DOT, planes: [&[16; 4], &[128], &[128]], strides: [2, 1, 1] }
}

/// Whether nothing of what is below can be seen through the tile.
fn fills(tile: &Tile, seen: Seen) -> bool {
    let solid = match seen {
        Seen::Nothing => false,
        Seen::Black => true,
        Seen::Picture(_) => matches!(tile.fit, Fit::Stretch | Fit::Crop),
    };
    solid && tile.alpha == 0
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

/// Puts a part of another picture of the same shape where it belongs.
fn copy(painter: &mut Painter<'_>, from: &[u8], rect: Rect) {
    let shape = painter.shape;
    let planes = Planes {
        size: shape.size,
        planes: [&from[..shape.offsets[1]], &from[shape.offsets[1]..shape.offsets[2]], &from[shape.offsets[2]..]],
        strides: shape.strides,
    };
    let cut = Cut { x: rect.x.into(), y: rect.y.into(), width: rect.width.into(), height: rect.height.into() };
    painter.picture(&mut Scaler::default(), &planes, cut, rect, 0);
}

fn scaled(still: &Still, cut: Cut, landing: Rect) -> Option<Vec<u8>> {
    let view = TypedImageRef::<U8x4>::from_buffer(still.width, still.height, &still.rgba).ok()?;
    let mut rgba = vec![0; landing.width as usize * landing.height as usize * 4];
    let mut target = TypedImage::<U8x4>::from_buffer(landing.width, landing.height, &mut rgba).ok()?;
    let options = ResizeOptions::new().crop(cut.x, cut.y, cut.width, cut.height);
    Resizer::new().resize_typed(&view, &mut target, &options).ok()?;
    drop(target);
    Some(rgba)
}

/// Keeps the upper left corner of the size of `rect`: what is outside of the canvas is carried along by nobody.
fn clip(still: &mut Still, rect: Rect) {
    let (width, height) = (still.width.min(rect.width), still.height.min(rect.height));
    let row = still.width as usize * 4;
    if (width, height) == (still.width, still.height) || row == 0 {
        return;
    }
    let rows = still.rgba.chunks_exact(row).take(height as usize);
    still.rgba = rows.flat_map(|row| &row[..width as usize * 4]).copied().collect();
    (still.width, still.height) = (width, height);
}

fn clipped(x: u32, y: u32, size: Size, canvas: Size) -> Rect {
    let (x, y) = (x & !1, y & !1);
    Rect {
        x: x.min(canvas.width),
        y: y.min(canvas.height),
        width: size.width.min(canvas.width.saturating_sub(x)),
        height: size.height.min(canvas.height.saturating_sub(y)),
    }
}

fn corner(place: Place, size: Size, canvas: Size) -> (u32, u32) {
    let (free_x, free_y) = (canvas.width.saturating_sub(size.width), canvas.height.saturating_sub(size.height));
    let (left, centre, right) = (MARGIN.min(free_x), free_x / 2, free_x.saturating_sub(MARGIN));
    let (top, middle, bottom) = (MARGIN.min(free_y), free_y / 2, free_y.saturating_sub(MARGIN));
    let (x, y) = match place {
        Place::TopLeft => (left, top),
        Place::TopRight => (right, top),
        Place::BottomLeft => (left, bottom),
        Place::BottomRight => (right, bottom),
        Place::TopCentre => (centre, top),
        Place::BottomCentre => (centre, bottom),
        Place::Centre => (centre, middle),
    };
    (x & !1, y & !1)
}
