//! A mixed recording as the wire asks for it: `MixTranscodeParams` and `MixLayoutParams` become types of the model.
//!
//! Owns: their defaults, the rules that concern several of their fields. Must not touch: single fields (`schema`).
//! Law: what leaves here needs no second look: sizes are even, empty texts are gone, every watermark is of one kind.
//! Source: API.md §1.8, §1.9.

use serde_json::Value;

use super::error::{ApiError, Code};
use super::fields::Fields;
use crate::model::mix::{
    AudioParams, Colour, Fit, Layout, LayoutMode, Named, Pane, Place, Rect, Size, VideoParams, Watermark,
};
use crate::model::{MediaId, UserId};

const WHITE: Colour = Colour(0x00ff_ffff);
/// Hours east of UTC where no `TimeZone` is given.
const TIME_ZONE: i64 = 8;
const FONT_SIZE: u32 = 14;

/// `VideoParams`, and the picture's size as it was asked for: rules that speak of the picture mean that one.
pub(super) fn video(transcode: Fields<'_>) -> Result<(VideoParams, Size), ApiError> {
    let usual = VideoParams::default();
    let given = transcode.object("VideoParams");
    let asked =
        Size { width: given.unsigned("Width", usual.size.width), height: given.unsigned("Height", usual.size.height) };
    if asked.width * asked.height > 1920 * 1080 {
        return Err(ApiError::new(
            Code::OutOfRange,
            "MixTranscodeParams.VideoParams.Width times Height must be at most 1920 * 1080",
        ));
    }
    let even = |side: u32| (side & !1).max(2);
    let video = VideoParams {
        size: Size { width: even(asked.width), height: even(asked.height) },
        fps: given.unsigned("Fps", usual.fps),
        bitrate: given.unsigned("BitRate", usual.bitrate),
        gop: given.unsigned("Gop", usual.gop),
    };
    Ok((video, asked))
}

pub(super) fn audio(transcode: Fields<'_>) -> AudioParams {
    let usual = AudioParams::default();
    let given = transcode.object("AudioParams");
    AudioParams {
        rate: match given.int("SampleRate", 1) {
            2 => 44_100,
            3 => 16_000,
            _ => 48_000,
        },
        channels: given.unsigned("Channel", usual.channels),
        bitrate: given.unsigned("BitRate", usual.bitrate),
    }
}

/// `MixLayoutParams`. Modify does not know the picture's size: there, what stands out of it is cut off later.
pub(super) fn layout(given: Fields<'_>, canvas: Option<Size>) -> Result<Layout, ApiError> {
    // Panes are looked at in every mode: a request is well-formed as a whole, or not at all.
    let panes = each(given, "MixLayoutList", |picture, here| pane(picture, canvas, here))?;
    let mode = match given.int("MixLayoutMode", 3) {
        1 => LayoutMode::Floating { large: large(given)? },
        2 => LayoutMode::ScreenShare {
            large: large(given)?,
            large_on_the_right: given.int("MaxResolutionUserAlign", 0) == 1,
        },
        4 if panes.is_empty() => {
            return Err(ApiError::missing("MixLayoutList", "MixLayoutParams.MixLayoutList (MixLayoutMode is 4)"));
        }
        4 => LayoutMode::Custom(panes),
        _ => LayoutMode::Grid,
    };
    let background_image = image(given, "BackgroundImageUrl");
    Ok(Layout {
        mode,
        background: colour(given, "BackGroundColor").unwrap_or_default(),
        background_image: background_image.map(|url| (url, fit(given, "BackgroundImageRenderMode"))),
        fit: fit(given, "RenderMode"),
        placeholder: image(given, "DefaultSubBackgroundImage"),
        hold_places: given.int("PlaceHolderMode", 0) == 1,
        sound_takes_no_place: given.flag("PureAudioDisableLayout"),
        watermarks: each(given, "WaterMarkList", |mark, here| watermark(mark, canvas, here))?,
    })
}

/// Reads each entry of a list; `read` is told where it stands.
fn each<'a, T>(
    given: Fields<'a>,
    list: &str,
    read: impl Fn(Fields<'a>, &str) -> Result<T, ApiError>,
) -> Result<Vec<T>, ApiError> {
    let entry =
        |(at, value): (usize, &'a Value)| read(Fields::of_value(value), &format!("MixLayoutParams.{list}[{at}]"));
    given.list(list).iter().enumerate().map(entry).collect()
}

/// `MaxResolutionUserId` with `MediaId`.
fn large(given: Fields<'_>) -> Result<Option<Named>, ApiError> {
    let user = named(given, "MaxResolutionUserId", "MixLayoutParams")?;
    Ok(user.map(|user| Named { user, media: media(given) }))
}

fn pane(given: Fields<'_>, canvas: Option<Size>, here: &str) -> Result<Pane, ApiError> {
    Ok(Pane {
        rect: inside(rect(given), canvas, here)?,
        user: named(given, "UserId", here)?,
        media: media(given),
        alpha: u8::try_from(given.int("Alpha", 0)).unwrap_or_default(),
        fit: fit(given, "RenderMode"),
        layer: i32::try_from(given.int("ImageLayer", 0)).unwrap_or_default(),
        image: image(given, "SubBackgroundImage"),
    })
}

/// One of three kinds, whose block must be there.
fn watermark(given: Fields<'_>, canvas: Option<Size>, here: &str) -> Result<Watermark, ApiError> {
    let block = |name: &'static str| {
        if given.has(name) { Ok(given.object(name)) } else { Err(ApiError::missing(name, &format!("{here}.{name}"))) }
    };
    Ok(match given.int("WaterMarkType", 0) {
        1 => {
            let text = block("WaterMarkChar")?;
            // Font is not kept: both names of the API are one font on the box.
            Watermark::Text {
                rect: rect(text),
                text: text.text("Chars").to_owned(),
                font_size: text.unsigned("FontSize", FONT_SIZE),
                colour: colour(text, "FontColor").unwrap_or(WHITE),
                background: colour(text, "BackGroundColor"),
            }
        }
        2 => {
            let stamp = block("WaterMarkTimestamp")?;
            let place = match stamp.int("Pos", 0) {
                1 => Place::TopRight,
                2 => Place::BottomLeft,
                3 => Place::BottomRight,
                4 => Place::TopCentre,
                5 => Place::BottomCentre,
                6 => Place::Centre,
                _ => Place::TopLeft,
            };
            let zone = i32::try_from(stamp.int("TimeZone", TIME_ZONE)).unwrap_or_default();
            Watermark::Timestamp { place, zone }
        }
        _ => {
            let picture = block("WaterMarkImage")?;
            let rect = inside(rect(picture), canvas, &format!("{here}.WaterMarkImage"))?;
            Watermark::Image { url: picture.text("WaterMarkUrl").to_owned(), rect }
        }
    })
}

fn rect(given: Fields<'_>) -> Rect {
    let side = |name| given.unsigned(name, 0);
    Rect { x: side("Left"), y: side("Top"), width: side("Width"), height: side("Height") }
}

fn inside(rect: Rect, canvas: Option<Size>, here: &str) -> Result<Rect, ApiError> {
    let Some(Size { width, height }) = canvas else { return Ok(rect) };
    if rect.x + rect.width <= width && rect.y + rect.height <= height {
        return Ok(rect);
    }
    Err(ApiError::new(
        Code::OutOfRange,
        format!("{here}: Left + Width and Top + Height must be within the picture of {width} * {height}"),
    ))
}

fn named(given: Fields<'_>, field: &'static str, here: &str) -> Result<Option<UserId>, ApiError> {
    let user = given.filled(field).map(UserId::parse).transpose();
    user.map_err(|bad| ApiError::invalid(field, &format!("{here}.{field}"), bad.reason))
}

fn media(given: Fields<'_>) -> MediaId {
    if given.int("MediaId", 0) == 1 { MediaId::Aux } else { MediaId::Main }
}

fn fit(given: Fields<'_>, field: &str) -> Fit {
    match given.int(field, 1) {
        0 => Fit::Stretch,
        2 => Fit::Letterbox,
        3 => Fit::Smart,
        _ => Fit::Crop,
    }
}

fn colour(given: Fields<'_>, field: &str) -> Option<Colour> {
    given.filled(field).and_then(Colour::parse)
}

fn image(given: Fields<'_>, field: &str) -> Option<String> {
    given.filled(field).map(str::to_owned)
}
