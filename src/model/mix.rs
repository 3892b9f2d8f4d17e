//! What a mixed recording is asked to be: canvas, sound, layout, watermarks.
//!
//! Owns: `MixTranscodeParams` and `MixLayoutParams` as types of the model, their defaults. Must not touch: where the
//! pictures go (`layout`), the wire's own names and limits (`api`).
//! Law: a spec that is here has been validated; sizes are even.
//! Sources: RECORDING.md §4, API.md §1.8 and §1.9.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MediaId, TaskId, UserId};

/// Pixels; both even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

/// A rectangle on the canvas, pixels from its top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Rect {
    pub fn contains(&self, inner: &Rect) -> bool {
        self.x <= inner.x
            && self.y <= inner.y
            && inner.x + inner.width <= self.x + self.width
            && inner.y + inner.height <= self.y + self.height
    }
}

/// 0x00RRGGBB
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Colour(pub u32);

impl Colour {
    /// `#RRGGBB`, either case.
    pub fn parse(text: &str) -> Option<Colour> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(digits, 16).ok().map(Colour)
    }
}

/// `RenderMode`: how a picture fills a rectangle of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// 0
    Stretch,
    /// 1: what stands over is cut off
    #[default]
    Crop,
    /// 2: all of it is shown, the background beside it
    Letterbox,
    /// 3: at most a fifth of its width or height is cut off, the background beside what is left
    Smart,
}

/// `VideoParams`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoParams {
    /// An odd side that was asked for has lost one pixel: H.264 with 4:2:0 has none.
    pub size: Size,
    /// 1 … 60, constant
    pub fps: u32,
    /// bits per second
    pub bitrate: u32,
    /// Most seconds between two keyframes.
    pub gop: u32,
}

impl Default for VideoParams {
    fn default() -> Self {
        VideoParams { size: Size { width: 360, height: 640 }, fps: 15, bitrate: 550_000, gop: 10 }
    }
}

/// `AudioParams`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioParams {
    /// 48000, 44100 or 16000 Hz
    pub rate: u32,
    /// 1 or 2
    pub channels: u32,
    /// bits per second
    pub bitrate: u32,
}

impl Default for AudioParams {
    fn default() -> Self {
        AudioParams { rate: 48_000, channels: 2, bitrate: 64_000 }
    }
}

/// One stream of one user: `MaxResolutionUserId` with `MediaId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub user: UserId,
    pub media: MediaId,
}

/// `MixLayoutMode` with what belongs to each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutMode {
    /// 3
    #[default]
    Grid,
    /// 1; without a name the first to enter is large
    Floating { large: Option<Named> },
    /// 2; without a name the large place is background
    ScreenShare { large: Option<Named>, large_on_the_right: bool },
    /// 4
    Custom(Vec<Pane>),
}

/// `MixLayout`: one place of a custom layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pane {
    /// As asked for; odd edges are moved to even ones when it is laid out.
    pub rect: Rect,
    /// `None`: whoever entered next and has no place of their own.
    pub user: Option<UserId>,
    pub media: MediaId,
    /// 0 opaque … 255 not to be seen
    pub alpha: u8,
    pub fit: Fit,
    /// `ImageLayer`: smaller is further back.
    pub layer: i32,
    /// `SubBackgroundImage`
    pub image: Option<String>,
}

/// `WaterMarkParams`, one of `WaterMarkList`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watermark {
    Image {
        url: String,
        rect: Rect,
    },
    Text {
        rect: Rect,
        text: String,
        /// pixels
        font_size: u32,
        colour: Colour,
        background: Option<Colour>,
    },
    Timestamp {
        /// `Pos`
        place: Place,
        /// Hours east of UTC.
        zone: i32,
    },
}

/// `Pos` of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
    TopCentre,
    BottomCentre,
    Centre,
}

/// `MixLayoutParams`. Its default is a grid on black.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layout {
    pub mode: LayoutMode,
    pub background: Colour,
    /// `BackgroundImageUrl` with `BackgroundImageRenderMode`
    pub background_image: Option<(String, Fit)>,
    /// `RenderMode` of the templates; a custom layout's panes have their own.
    pub fit: Fit,
    /// `DefaultSubBackgroundImage`: stands where a user sends no picture.
    pub placeholder: Option<String>,
    /// `PlaceHolderMode` 1: a custom layout shows it also where the named user is not there or sends nothing at all.
    pub hold_places: bool,
    /// `PureAudioDisableLayout`: who sends sound alone takes no place of a template.
    pub sound_takes_no_place: bool,
    pub watermarks: Vec<Watermark>,
}

impl Layout {
    /// Every picture that must be fetched for it, each once.
    pub fn image_urls(&self) -> Vec<&str> {
        let panes = match &self.mode {
            LayoutMode::Custom(panes) => panes.as_slice(),
            _ => &[],
        };
        let marks = self.watermarks.iter().filter_map(|mark| match mark {
            Watermark::Image { url, .. } => Some(url),
            Watermark::Text { .. } | Watermark::Timestamp { .. } => None,
        });
        let background = self.background_image.iter().map(|(url, _)| url);
        let mut urls: Vec<&str> = Vec::new();
        for url in background.chain(&self.placeholder).chain(panes.iter().filter_map(|p| p.image.as_ref())).chain(marks)
        {
            if !urls.contains(&url.as_str()) {
                urls.push(url);
            }
        }
        urls
    }
}

/// A task shows an image that somebody must fetch.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageWant {
    pub task: TaskId,
    pub url: String,
}

/// What is asked of whoever fetches images, in the order in which it came to be so.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageOrder {
    Fetch(ImageWant),
    /// Which tasks show which images, by address. What is not among them nobody waits for any more.
    Shown(BTreeMap<String, BTreeSet<TaskId>>),
}

/// It could not be fetched or decoded, which is told once of each task and address (event 309). It may still come.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageFailure {
    pub task: TaskId,
    pub url: String,
    pub why: String,
}

// An address may carry a signature in its query, or a password.
impl fmt::Debug for ImageWant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageWant").field("task", &self.task).finish_non_exhaustive()
    }
}

impl fmt::Debug for ImageOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageOrder::Fetch(want) => want.fmt(f),
            ImageOrder::Shown(shown) => f.debug_struct("Shown").field("images", &shown.len()).finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for ImageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFailure").field("task", &self.task).field("why", &self.why).finish_non_exhaustive()
    }
}

/// `RecordMode` 2, whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MixSpec {
    pub video: VideoParams,
    pub audio: AudioParams,
    pub layout: Layout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_six_hexadecimal_digits() {
        assert_eq!(Colour::parse("#1a2B3c"), Some(Colour(0x001a_2b3c)));
        for wrong in ["", "#", "1a2b3c", "#1a2b3", "#1a2b3cd", "#+a2b3c", "#1a2b3g"] {
            assert_eq!(Colour::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_image_is_named_once() {
        let pane = |image: &str| Pane {
            rect: Rect { x: 0, y: 0, width: 2, height: 2 },
            user: None,
            media: MediaId::Main,
            alpha: 0,
            fit: Fit::Crop,
            layer: 0,
            image: Some(image.into()),
        };
        let layout = Layout {
            mode: LayoutMode::Custom(vec![pane("b"), pane("a"), pane("b")]),
            background_image: Some(("a".into(), Fit::Crop)),
            watermarks: vec![Watermark::Image { url: "c".into(), rect: Rect { x: 0, y: 0, width: 2, height: 2 } }],
            ..Layout::default()
        };
        assert_eq!(layout.image_urls(), ["a", "b", "c"]);
    }
}
