//! Where the pictures of a mixed recording go.
//!
//! Owns: the templates' maths, who gets which place, what is painted over what. Must not touch: pixels.
//! Law: pure and exact. The cells of a grid tile the canvas without gaps or overlap; every edge is even; the same
//! people in the same order give the same scene.
//! Sources: RECORDING.md §4, API.md §1.9.

use super::mix::{Colour, Fit, Rect, Watermark};
use super::{MediaId, TrackId, UserId};

/// One picture on the canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub rect: Rect,
    /// Whose place it is; `None`: a custom layout's place that is held for nobody in particular.
    pub user: Option<UserId>,
    pub media: MediaId,
    /// What is to be seen in it; `None`: no pictures are sent, `image` or the background stands there.
    pub track: Option<TrackId>,
    pub fit: Fit,
    /// 0 opaque … 255 not to be seen
    pub alpha: u8,
    /// URL of the image that stands where no picture is.
    pub image: Option<String>,
}

/// All that a mixed recording shows and lets hear from some moment on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    pub background: Colour,
    pub background_image: Option<(String, Fit)>,
    /// In the order in which they are painted.
    pub tiles: Vec<Tile>,
    pub watermarks: Vec<Watermark>,
    /// Every track of sound that is mixed.
    pub sounds: Vec<TrackId>,
}

/// One whose picture or place is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub user: UserId,
    pub media: MediaId,
    /// Its live track of pictures.
    pub video: Option<TrackId>,
}
pub fn scene(layout: &super::mix::Layout, canvas: super::mix::Size, people: &[Person], sounds: Vec<TrackId>) -> Scene {
    let n = (people.len().max(1) as f64).sqrt().ceil() as u32;
    let tiles = people
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let i = i as u32;
            let e = |of: u32, k: u32| (of * k / n) & !1;
            let (c, r) = (i % n, i / n);
            Tile {
                rect: Rect {
                    x: e(canvas.width, c),
                    y: e(canvas.height, r),
                    width: e(canvas.width, c + 1) - e(canvas.width, c),
                    height: e(canvas.height, r + 1) - e(canvas.height, r),
                },
                user: Some(p.user.clone()),
                media: p.media,
                track: p.video,
                fit: layout.fit,
                alpha: 0,
                image: layout.placeholder.clone(),
            }
        })
        .collect();
    Scene {
        background: layout.background,
        background_image: layout.background_image.clone(),
        tiles,
        watermarks: layout.watermarks.clone(),
        sounds,
    }
}
