//! What a request may hold: one table for each structure of the API, and the check of a request against it.
//!
//! Owns: names, types, ranges and alphabets of all fields. Must not touch: what the fields mean together (`wire`).
//! Law: a request is checked whole; the first fault is told with the field's path and the rule that it breaks, never
//! with its value. A field that is in no table is refused: `UnknownParameter`.
//! Source: API.md §1.1 – §1.9, §1.11.

use serde_json::{Map, Value};

use super::error::{ApiError, Code};

/// Why a text is not what its field takes.
pub enum Unfit {
    /// `InvalidParameter.<field>`; goes on from the field's name: "must be …"
    Rule(&'static str),
    /// `InvalidParameter.CheckSuffixFailed`
    Suffix,
    /// `InvalidParameter.CheckContentFailed`
    Content,
}

type Rule = fn(&str) -> Result<(), Unfit>;

/// The type of a field, with its limits.
pub enum Shape {
    /// Within both ends, else `InvalidParameter.OutOfRange`.
    Int(i64, i64),
    /// Within both ends, else `InvalidParameter.<field>`.
    Id(i64, i64),
    Bool,
    Text(Rule),
    Object(&'static [Field]),
    /// At most so many elements.
    List(&'static Shape, usize),
}

/// One field of a structure.
pub struct Field {
    pub name: &'static str,
    pub required: bool,
    pub shape: Shape,
}

const fn must(name: &'static str, shape: Shape) -> Field {
    Field { name, required: true, shape }
}

const fn may(name: &'static str, shape: Shape) -> Field {
    Field { name, required: false, shape }
}

const ANY_INT: Shape = Shape::Int(i32::MIN as i64, i32::MAX as i64);
const APP: Shape = Shape::Id(1, u32::MAX as i64);
const NUMERIC_ROOM: Shape = Shape::Id(1, u32::MAX as i64 - 1);
const USER: Shape = Shape::Text(user);
const FLAG: Shape = Shape::Int(0, 1);
const RENDER_MODE: Shape = Shape::Int(0, 3);
const PIXEL: Shape = Shape::Int(0, 1920);
const WATERMARK_PIXEL: Shape = Shape::Int(0, 2560);
/// Entries of one list of users; pictures of one layout; watermarks.
const LIST_USERS: usize = 32;
const PICTURES: usize = 25;

pub const CREATE: &[Field] = &[
    must("SdkAppId", APP),
    must("RoomId", Shape::Text(room)),
    must("UserId", USER),
    must("UserSig", Shape::Text(ticket)),
    must("RecordParams", Shape::Object(RECORD_PARAMS)),
    must("StorageParams", Shape::Object(STORAGE_PARAMS)),
    may("RoomIdType", FLAG),
    may("MixTranscodeParams", Shape::Object(MIX_TRANSCODE_PARAMS)),
    may("MixLayoutParams", Shape::Object(MIX_LAYOUT_PARAMS)),
    may("ResourceExpiredHour", Shape::Int(6, 720)),
    may("PrivateMapKey", Shape::Text(ticket)),
];

pub const DESCRIBE: &[Field] =
    &[must("SdkAppId", APP), must("TaskId", Shape::Text(task)), may("RecorderKey", Shape::Text(words))];

pub const MODIFY: &[Field] = &[
    must("SdkAppId", APP),
    must("TaskId", Shape::Text(task)),
    may("MixLayoutParams", Shape::Object(MIX_LAYOUT_PARAMS)),
    may("SubscribeStreamUserIds", Shape::Object(SUBSCRIBE)),
];

/// `Discard` is ours: the task goes with every byte of it.
pub const DELETE: &[Field] = &[must("SdkAppId", APP), must("TaskId", Shape::Text(task)), may("Discard", Shape::Bool)];

pub const PAUSE: &[Field] = &[must("SdkAppId", APP), must("TaskId", Shape::Text(task))];

pub const RESUME: &[Field] = PAUSE;

pub const REMOVE_USER: &[Field] =
    &[must("SdkAppId", APP), must("RoomId", NUMERIC_ROOM), must("UserIds", Shape::List(&USER, 10))];

pub const REMOVE_USER_BY_STR_ROOM_ID: &[Field] =
    &[must("SdkAppId", APP), must("RoomId", Shape::Text(room)), must("UserIds", Shape::List(&USER, 10))];

pub const DISMISS_ROOM: &[Field] = &[must("SdkAppId", APP), must("RoomId", NUMERIC_ROOM)];

pub const DISMISS_ROOM_BY_STR_ROOM_ID: &[Field] = &[must("SdkAppId", APP), must("RoomId", Shape::Text(room))];

const RECORD_PARAMS: &[Field] = &[
    must("RecordMode", Shape::Int(1, 2)),
    may("MaxIdleTime", Shape::Int(5, 86400)),
    may("StreamType", Shape::Int(0, 2)),
    may("SubscribeStreamUserIds", Shape::Object(SUBSCRIBE)),
    may("OutputFormat", Shape::Int(0, 4)),
    may("AvMerge", FLAG),
    may("MaxMediaFileDuration", Shape::Int(1, 1440)),
    may("MediaId", Shape::Int(0, 2)),
    may("FillType", FLAG),
    may("SubscribeAbility", FLAG),
];

const SUBSCRIBE: &[Field] = &[
    may("SubscribeAudioUserIds", Shape::List(&Shape::Text(pattern), LIST_USERS)),
    may("UnSubscribeAudioUserIds", Shape::List(&Shape::Text(pattern), LIST_USERS)),
    may("SubscribeVideoUserIds", Shape::List(&Shape::Text(pattern), LIST_USERS)),
    may("UnSubscribeVideoUserIds", Shape::List(&Shape::Text(pattern), LIST_USERS)),
];

const STORAGE_PARAMS: &[Field] =
    &[may("CloudStorage", Shape::Object(CLOUD_STORAGE)), may("CloudVod", Shape::Object(CLOUD_VOD))];

const CLOUD_STORAGE: &[Field] = &[
    must("Vendor", Shape::Int(0, 1)),
    must("Region", Shape::Text(region)),
    must("Bucket", Shape::Text(bucket)),
    must("AccessKey", Shape::Text(key)),
    must("SecretKey", Shape::Text(key)),
    may("FileNamePrefix", Shape::List(&Shape::Text(prefix), 32)),
];

const CLOUD_VOD: &[Field] = &[may("TencentVod", Shape::Object(TENCENT_VOD))];

const TENCENT_VOD: &[Field] = &[
    may("Procedure", Shape::Text(words)),
    may("ExpireTime", Shape::Int(0, u32::MAX as i64)),
    may("StorageRegion", Shape::Text(region)),
    may("ClassId", Shape::Int(0, i64::MAX)),
    may("SubAppId", Shape::Int(0, i64::MAX)),
    may("SessionContext", Shape::Text(session_context)),
    may("SourceContext", Shape::Text(source_context)),
    may("MediaType", Shape::Int(0, 4)),
    may("UserDefineRecordId", Shape::Text(record_id)),
];

const MIX_TRANSCODE_PARAMS: &[Field] =
    &[may("VideoParams", Shape::Object(VIDEO_PARAMS)), may("AudioParams", Shape::Object(AUDIO_PARAMS))];

/// All fields are required as soon as one is given.
const VIDEO_PARAMS: &[Field] = &[
    must("Width", Shape::Int(1, 1920)),
    must("Height", Shape::Int(1, 1920)),
    must("Fps", Shape::Int(1, 60)),
    must("BitRate", Shape::Int(64_000, 8_192_000)),
    must("Gop", Shape::Int(1, 3600)),
];

const AUDIO_PARAMS: &[Field] = &[
    must("SampleRate", Shape::Int(1, 3)),
    must("Channel", Shape::Int(1, 2)),
    must("BitRate", Shape::Int(32_000, 128_000)),
];

const MIX_LAYOUT_PARAMS: &[Field] = &[
    must("MixLayoutMode", Shape::Int(1, 4)),
    may("MixLayoutList", Shape::List(&Shape::Object(MIX_LAYOUT), PICTURES)),
    may("BackGroundColor", Shape::Text(colour)),
    may("MaxResolutionUserId", Shape::Text(user_or_nobody)),
    may("MediaId", FLAG),
    may("BackgroundImageUrl", Shape::Text(image_url)),
    may("PlaceHolderMode", FLAG),
    may("BackgroundImageRenderMode", RENDER_MODE),
    may("DefaultSubBackgroundImage", Shape::Text(image_url)),
    may("WaterMarkList", Shape::List(&Shape::Object(WATER_MARK), PICTURES)),
    may("RenderMode", RENDER_MODE),
    may("MaxResolutionUserAlign", FLAG),
    may("PureAudioDisableLayout", Shape::Bool),
];

const MIX_LAYOUT: &[Field] = &[
    must("Top", PIXEL),
    must("Left", PIXEL),
    must("Width", PIXEL),
    must("Height", PIXEL),
    may("UserId", Shape::Text(user_or_nobody)),
    may("Alpha", Shape::Int(0, 255)),
    may("RenderMode", RENDER_MODE),
    may("MediaId", FLAG),
    may("ImageLayer", ANY_INT),
    may("SubBackgroundImage", Shape::Text(image_url)),
];

const WATER_MARK: &[Field] = &[
    may("WaterMarkType", Shape::Int(0, 2)),
    may("WaterMarkImage", Shape::Object(WATER_MARK_IMAGE)),
    may("WaterMarkChar", Shape::Object(WATER_MARK_CHAR)),
    may("WaterMarkTimestamp", Shape::Object(WATER_MARK_TIMESTAMP)),
];

const WATER_MARK_IMAGE: &[Field] = &[
    must("WaterMarkUrl", Shape::Text(image_url)),
    must("Top", WATERMARK_PIXEL),
    must("Left", WATERMARK_PIXEL),
    must("Width", WATERMARK_PIXEL),
    must("Height", WATERMARK_PIXEL),
];

const WATER_MARK_CHAR: &[Field] = &[
    must("Top", WATERMARK_PIXEL),
    must("Left", WATERMARK_PIXEL),
    must("Width", WATERMARK_PIXEL),
    must("Height", WATERMARK_PIXEL),
    must("Chars", Shape::Text(chars)),
    may("FontSize", Shape::Int(1, 2560)),
    may("FontColor", Shape::Text(colour)),
    may("BackGroundColor", Shape::Text(colour)),
    may("Font", Shape::Text(font)),
];

const WATER_MARK_TIMESTAMP: &[Field] =
    &[must("Pos", Shape::Int(0, 6)), may("TimeZone", Shape::Int(-12, 14)), may("Font", Shape::Text(font))];

/// Every action's table, for those who walk over all fields.
pub const ALL: [&[Field]; 10] = [
    CREATE,
    DESCRIBE,
    MODIFY,
    DELETE,
    PAUSE,
    RESUME,
    REMOVE_USER,
    REMOVE_USER_BY_STR_ROOM_ID,
    DISMISS_ROOM,
    DISMISS_ROOM_BY_STR_ROOM_ID,
];

fn ensure(fits: bool, rule: &'static str) -> Result<(), Unfit> {
    if fits { Ok(()) } else { Err(Unfit::Rule(rule)) }
}

fn length(text: &str, most: usize) -> bool {
    text.len() <= most
}

fn room(text: &str) -> Result<(), Unfit> {
    ensure(length(text, 64), "must be 1 to 64 bytes long")
}

fn user(text: &str) -> Result<(), Unfit> {
    ensure(
        (1..=64).contains(&text.len()) && !text.chars().any(char::is_control),
        "must be 1 to 64 bytes without control characters",
    )
}

fn user_or_nobody(text: &str) -> Result<(), Unfit> {
    if text.is_empty() { Ok(()) } else { user(text) }
}

/// A user id, or a prefix in front of `.*$`.
fn pattern(text: &str) -> Result<(), Unfit> {
    ensure(
        (1..=67).contains(&text.len()) && !text.chars().any(char::is_control),
        "must hold user ids of 1 to 64 bytes without control characters; one that ends in .*$ is a prefix",
    )
}

fn ticket(text: &str) -> Result<(), Unfit> {
    ensure(
        length(text, 4096) && text.chars().all(|c| c.is_ascii_graphic()),
        "must be at most 4096 printable ASCII characters",
    )
}

fn task(text: &str) -> Result<(), Unfit> {
    ensure(length(text, 128), "must be at most 128 bytes long")
}

fn words(text: &str) -> Result<(), Unfit> {
    ensure(length(text, 1024), "must be at most 1024 bytes long")
}

/// It is drawn: what cannot be drawn does not belong there.
fn chars(text: &str) -> Result<(), Unfit> {
    ensure(
        length(text, 1024) && !text.chars().any(|c| c.is_control() && c != '\n'),
        "must be at most 1024 bytes long, without control characters other than line breaks",
    )
}

fn session_context(text: &str) -> Result<(), Unfit> {
    ensure(text.chars().count() <= 1000, "must be at most 1000 characters long")
}

fn source_context(text: &str) -> Result<(), Unfit> {
    ensure(text.chars().count() <= 250, "must be at most 250 characters long")
}

fn record_id(text: &str) -> Result<(), Unfit> {
    ensure(length(text, 64) && text.bytes().all(word_byte), "must be at most 64 letters, digits, _ and -")
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

/// It becomes part of a host name.
fn region(text: &str) -> Result<(), Unfit> {
    ensure(
        length(text, 64) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
        "must be at most 64 letters, digits and -",
    )
}

/// It becomes part of a host name, or of a path in the local store.
fn bucket(text: &str) -> Result<(), Unfit> {
    let fits = length(text, 255)
        && text.bytes().all(|b| word_byte(b) || b == b'.')
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("..");
    ensure(fits, "must be at most 255 letters, digits, -, _ and single dots, with a letter or digit at both ends")
}

fn key(text: &str) -> Result<(), Unfit> {
    ensure(
        length(text, 1024) && text.chars().all(|c| c.is_ascii_graphic()),
        "must be at most 1024 printable ASCII characters without spaces",
    )
}

fn prefix(text: &str) -> Result<(), Unfit> {
    ensure(
        (1..=128).contains(&text.len()) && text.bytes().all(word_byte),
        "must hold texts of 1 to 128 letters, digits, _ and -",
    )
}

/// Empty is as good as absent.
fn colour(text: &str) -> Result<(), Unfit> {
    let six = text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    ensure(text.is_empty() || six, "must be #RRGGBB")
}

fn font(text: &str) -> Result<(), Unfit> {
    ensure(matches!(text, "" | "Tencent" | "SourceHanSans"), "must be Tencent or SourceHanSans")
}

/// http(s), the characters that the API allows in it, and a suffix that tells a picture.
fn image_url(text: &str) -> Result<(), Unfit> {
    if text.is_empty() {
        return Ok(());
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!&()*+,%=".contains(&b);
    if !text.bytes().all(allowed) {
        return Err(Unfit::Content);
    }
    ensure(
        length(text, 2048) && (text.starts_with("http://") || text.starts_with("https://")),
        "must be an http or https URL of at most 2048 bytes",
    )?;
    let lower = text.to_ascii_lowercase();
    let pictures = [".jpg", ".jpeg", ".png"];
    if pictures.iter().any(|suffix| lower.ends_with(suffix)) { Ok(()) } else { Err(Unfit::Suffix) }
}

/// Checks a structure against its table; `null` counts as not given, since some clients send it. `path` is where it stands, empty at the top.
pub fn check(fields: &[Field], given: &Map<String, Value>, path: &str) -> Result<(), ApiError> {
    for name in given.keys() {
        if !fields.iter().any(|field| field.name == name) {
            let within = if path.is_empty() { String::new() } else { format!(" in {path}") };
            let shown: String = name.chars().take(64).filter(|c| c.is_ascii_graphic()).collect();
            return Err(ApiError::new(Code::UnknownParameter, format!("{shown} is no parameter{within}")));
        }
    }
    for field in fields {
        let value = given.get(field.name);
        let here = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        // A required text or list that is empty is as good as none.
        let empty = match (value, &field.shape) {
            (None | Some(Value::Null), _) => true,
            (Some(Value::String(text)), Shape::Text(_)) => text.is_empty() && field.required,
            (Some(Value::Array(list)), Shape::List(..)) => list.is_empty() && field.required,
            _ => false,
        };
        match value {
            _ if empty && field.required => return Err(ApiError::missing(field.name, &here)),
            Some(value) if !empty => check_value(field.name, &field.shape, value, &here)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_value(name: &'static str, shape: &Shape, value: &Value, here: &str) -> Result<(), ApiError> {
    match (shape, value) {
        (Shape::Int(low, high), Value::Number(number)) => {
            check_number(number, *low, *high, name, here, Code::OutOfRange)
        }
        (Shape::Id(low, high), Value::Number(number)) => {
            check_number(number, *low, *high, name, here, Code::Invalid(name))
        }
        (Shape::Int(..) | Shape::Id(..), _) => Err(ApiError::invalid(name, here, "must be an integer")),
        (Shape::Bool, Value::Bool(_)) => Ok(()),
        (Shape::Bool, _) => Err(ApiError::invalid(name, here, "must be true or false")),
        (Shape::Text(rule), Value::String(text)) => match rule(text) {
            Ok(()) => Ok(()),
            Err(Unfit::Rule(rule)) => Err(ApiError::invalid(name, here, rule)),
            Err(Unfit::Suffix) => {
                Err(ApiError::new(Code::CheckSuffixFailed, format!("{here} must end in .jpg, .jpeg or .png")))
            }
            Err(Unfit::Content) => Err(ApiError::new(
                Code::CheckContentFailed,
                format!("{here} must consist of letters, digits and -._~:/?#[]@!&()*+,%="),
            )),
        },
        (Shape::Text(_), _) => Err(ApiError::invalid(name, here, "must be a string")),
        (Shape::Object(fields), Value::Object(given)) => check(fields, given, here),
        (Shape::Object(_), _) => Err(ApiError::invalid(name, here, "must be an object")),
        (Shape::List(of, most), Value::Array(list)) => {
            if list.len() > *most {
                return Err(ApiError::invalid(name, here, &format!("must hold at most {most} entries")));
            }
            list.iter().enumerate().try_for_each(|(at, value)| check_value(name, of, value, &format!("{here}[{at}]")))
        }
        (Shape::List(..), _) => Err(ApiError::invalid(name, here, "must be an array")),
    }
}

fn check_number(
    number: &serde_json::Number,
    low: i64,
    high: i64,
    name: &'static str,
    here: &str,
    outside: Code,
) -> Result<(), ApiError> {
    match number.as_i64() {
        Some(n) if (low..=high).contains(&n) => Ok(()),
        None if !number.is_u64() => Err(ApiError::invalid(name, here, "must be an integer")),
        _ => Err(ApiError::new(outside, format!("{here} must be an integer from {low} to {high}"))),
    }
}

/// The names of all fields of all tables, each once, in order.
pub fn all_names() -> std::collections::BTreeSet<&'static str> {
    fn walk(shape: &Shape, names: &mut std::collections::BTreeSet<&'static str>) {
        match shape {
            Shape::Object(fields) => fields.iter().for_each(|field| {
                names.insert(field.name);
                walk(&field.shape, names);
            }),
            Shape::List(of, _) => walk(of, names),
            Shape::Int(..) | Shape::Id(..) | Shape::Bool | Shape::Text(_) => {}
        }
    }
    let mut names = std::collections::BTreeSet::new();
    ALL.iter().for_each(|fields| {
        fields.iter().for_each(|field| {
            names.insert(field.name);
            walk(&field.shape, &mut names);
        });
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fault(fields: &[Field], given: Value) -> Option<(String, String)> {
        let Value::Object(given) = given else { panic!("an object") };
        check(fields, &given, "").err().map(|error| (error.code.text().into_owned(), error.outside))
    }

    #[test]
    fn each_bad_field_has_its_code_and_is_named() {
        let good = json!({"SdkAppId": 1400000001, "TaskId": "t"});
        assert_eq!(fault(DELETE, good), None);
        for (given, code, named) in [
            (json!({"TaskId": "t"}), "MissingParameter.SdkAppId", "SdkAppId"),
            (json!({"SdkAppId": null, "TaskId": "t"}), "MissingParameter.SdkAppId", "SdkAppId"),
            (json!({"SdkAppId": "1", "TaskId": "t"}), "InvalidParameter.SdkAppId", "integer"),
            (json!({"SdkAppId": 1.5, "TaskId": "t"}), "InvalidParameter.SdkAppId", "integer"),
            (json!({"SdkAppId": 0, "TaskId": "t"}), "InvalidParameter.SdkAppId", "SdkAppId"),
            (json!({"SdkAppId": u64::MAX, "TaskId": "t"}), "InvalidParameter.SdkAppId", "SdkAppId"),
            (json!({"SdkAppId": 1, "TaskId": ""}), "MissingParameter.TaskId", "TaskId"),
            (json!({"SdkAppId": 1, "TaskId": 7}), "InvalidParameter.TaskId", "string"),
            (json!({"SdkAppId": 1, "TaskId": "t", "Task": 1}), "UnknownParameter", "Task"),
        ] {
            let (found, outside) = fault(DELETE, given).expect("a fault");
            assert_eq!(found, code);
            assert!(outside.contains(named), "{outside}");
        }
    }

    #[test]
    fn paths_lead_to_the_field() {
        let layout = |list: Value| json!({"SdkAppId": 1, "TaskId": "t", "MixLayoutParams": {"MixLayoutMode": 4, "MixLayoutList": list}});
        let picture = json!({"Top": 0, "Left": 0, "Width": 10, "Height": 10});
        assert_eq!(fault(MODIFY, layout(json!([picture]))), None);
        let (code, outside) = fault(MODIFY, layout(json!([picture, {"Top": 1}]))).expect("it is refused");
        assert_eq!(code, "MissingParameter.Left");
        assert!(outside.contains("MixLayoutParams.MixLayoutList[1].Left"), "{outside}");
        let (code, _) = fault(MODIFY, layout(json!(vec![picture; 26]))).expect("it is refused");
        assert_eq!(code, "InvalidParameter.MixLayoutList");
        let (code, _) =
            fault(MODIFY, layout(json!([{"Top": 1921, "Left": 0, "Width": 1, "Height": 1}]))).expect("it is refused");
        assert_eq!(code, "InvalidParameter.OutOfRange");
    }

    #[test]
    fn pictures_have_the_codes_of_the_cloud() {
        let url = |url: &str| {
            fault(MODIFY, json!({"SdkAppId": 1, "TaskId": "t", "MixLayoutParams": {"MixLayoutMode": 1, "BackgroundImageUrl": url}}))
                .map(|(code, _)| code)
        };
        assert_eq!(url("https://a.b/c.png"), None);
        assert_eq!(url("https://a.b/c.PNG"), None);
        assert_eq!(url("https://a.b/c.gif").expect("it is refused"), "InvalidParameter.CheckSuffixFailed");
        assert_eq!(url("https://a.b/c;.png").expect("it is refused"), "InvalidParameter.CheckContentFailed");
        assert_eq!(url("file:///etc/c.png").expect("it is refused"), "InvalidParameter.BackgroundImageUrl");
    }

    #[test]
    fn a_bucket_never_leads_out_of_the_local_store() {
        for bad in ["..", ".", "a/b", "a..b", ".a", "-a", "a.", "a\\b", "a b", "a@b"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        for good in ["rec-1250000000", "a", "my.bucket_1"] {
            assert!(bucket(good).is_ok(), "{good}");
        }
        for bad in ["a.b", "a/b", "a@evil", "a:1"] {
            assert!(region(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_json_panics(text in "\\PC{0,80}", number in any::<f64>(), which in 0usize..10) {
            let fields = ALL[which];
            for field in fields {
                for value in [json!(text), json!(number), json!([text]), json!({text.as_str(): number}), json!(null), json!(true)] {
                    let mut given = Map::new();
                    given.insert(field.name.to_owned(), value);
                    let _ = check(fields, &given, "");
                }
            }
        }
    }
}
