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
