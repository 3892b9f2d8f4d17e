//! Mixed recordings at the door: every field of `MixTranscodeParams` and `MixLayoutParams`, its limits, its errors, and
//! what it becomes, as JSON and as a form.

mod door;

use axum::body::Body;
use axum::http::Request;
use door::{API_ID, API_KEY, APP, Bench, Heard, NOW, create, generous, layout, task, with, without};
use holdfast::config::Config;
use holdfast::model::mix::{
    AudioParams, Colour, Fit, Layout, LayoutMode, MixSpec, Named, Pane, Place, Rect, Size, VideoParams, Watermark,
};
use holdfast::model::recording::Subscription;
use holdfast::model::signature::{V1Method, sign_v1};
use holdfast::model::{MediaId, Secret, UserId};
use holdfast::rooms::Error;
use serde_json::{Value, json};

const OUT_OF_RANGE: &str = "InvalidParameter.OutOfRange";
const MODIFY: &str = "ModifyCloudRecording";
const CREATE: &str = "CreateCloudRecording";

fn bench() -> Bench {
    Bench::with(Config { limits: generous(), ..door::config() })
}

/// Create of a mixed recording, without the two optional blocks.
fn mixed() -> Value {
    with(create(), "RecordParams/RecordMode", json!(2))
}

fn transcode() -> Value {
    json!({
        "VideoParams": {"Width": 1280, "Height": 720, "Fps": 25, "BitRate": 1_500_000, "Gop": 2},
        "AudioParams": {"SampleRate": 2, "Channel": 1, "BitRate": 96_000},
    })
}

/// Everything that can be said of a mixed recording.
fn full() -> Value {
    with(with(mixed(), "MixTranscodeParams", transcode()), "MixLayoutParams", layout())
}

fn modify(layout: Value) -> Value {
    json!({"SdkAppId": APP.0, "TaskId": task().as_str(), "MixLayoutParams": layout})
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

/// What `door::layout()` becomes.
fn full_layout() -> Layout {
    Layout {
        mode: LayoutMode::Custom(vec![Pane {
            rect: rect(0, 0, 1280, 720),
            user: Some(alice()),
            media: MediaId::Aux,
            alpha: 255,
            fit: Fit::Smart,
            layer: -1,
            image: Some("https://a.b/c.jpg".into()),
        }]),
        background: Colour(0x00ff_a500),
        background_image: Some(("http://a.b/c.png".into(), Fit::Letterbox)),
        fit: Fit::Crop,
        placeholder: Some("http://a.b/c.jpeg".into()),
        hold_places: true,
        sound_takes_no_place: true,
        watermarks: vec![
            Watermark::Image { url: "http://a.b/c.png".into(), rect: rect(1, 1, 10, 10) },
            Watermark::Text {
                rect: rect(1, 1, 10, 10),
                text: "室".into(),
                font_size: 14,
                colour: Colour(0),
                background: None,
            },
            Watermark::Timestamp { place: Place::Centre, zone: 8 },
        ],
    }
}

fn full_mix() -> MixSpec {
    MixSpec {
        video: VideoParams { size: Size { width: 1280, height: 720 }, fps: 25, bitrate: 1_500_000, gop: 2 },
        audio: AudioParams { rate: 44_100, channels: 1, bitrate: 96_000 },
        layout: full_layout(),
    }
}

/// What the actor is asked to mix.
async fn mix_of(bench: &Bench, params: &Value) -> MixSpec {
    let got = bench.call(CREATE, params).await;
    assert_eq!(got.code(), "ok", "{}: {params}", got.message());
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    spec.mix.expect("a mixed recording")
}

async fn layout_of(bench: &Bench, params: Value) -> Layout {
    mix_of(bench, &with(mixed(), "MixLayoutParams", params)).await.layout
}

#[tokio::test]
async fn a_mixed_recording_is_a_spec_with_a_mix() {
    let bench = bench();
    assert_eq!(mix_of(&bench, &mixed()).await, MixSpec::default(), "a grid of 360 * 640 on black");
    assert_eq!(mix_of(&bench, &full()).await, full_mix());
    // Merging is what mixing does anyway, and who may be heard is the room's matter.
    let mut also = full();
    also["RecordParams"] =
        json!({"RecordMode": 2, "AvMerge": 1, "SubscribeAbility": 1, "FillType": 1, "StreamType": 0});
    assert_eq!(mix_of(&bench, &also).await, full_mix());
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    assert!(spec.fill_black);
    // Single streams: both blocks are checked, and mean nothing.
    let single = with(full(), "RecordParams/RecordMode", json!(1));
    assert_eq!(bench.code(CREATE, &single).await, "ok");
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    assert_eq!(spec.mix, None);
    let wrong = with(single, "MixTranscodeParams/VideoParams/Fps", json!(61));
    assert_eq!(bench.code(CREATE, &wrong).await, OUT_OF_RANGE);
}

#[tokio::test]
async fn one_block_of_transcoding_leaves_the_other_at_its_defaults() {
    let bench = bench();
    for (block, wanted) in [
        ("VideoParams", MixSpec { video: full_mix().video, ..MixSpec::default() }),
        ("AudioParams", MixSpec { audio: full_mix().audio, ..MixSpec::default() }),
    ] {
        let params = with(mixed(), "MixTranscodeParams", json!({block: transcode()[block].clone()}));
        assert_eq!(mix_of(&bench, &params).await, wanted);
    }
    assert_eq!(mix_of(&bench, &with(mixed(), "MixTranscodeParams", json!({}))).await, MixSpec::default());
    for (code, rate) in [(1, 48_000), (2, 44_100), (3, 16_000)] {
        let params = with(full(), "MixTranscodeParams/AudioParams/SampleRate", json!(code));
        assert_eq!(mix_of(&bench, &params).await.audio.rate, rate);
    }
    for ((width, height), wanted) in
        [((641, 361), (640, 360)), ((1, 1), (2, 2)), ((3, 1920), (2, 1920)), ((1919, 1080), (1918, 1080))]
    {
        let mut params = with(mixed(), "MixTranscodeParams", transcode());
        params["MixTranscodeParams"]["VideoParams"]["Width"] = json!(width);
        params["MixTranscodeParams"]["VideoParams"]["Height"] = json!(height);
        let size = mix_of(&bench, &params).await.video.size;
        assert_eq!((size.width, size.height), wanted);
    }
}

#[tokio::test]
async fn each_mode_keeps_what_belongs_to_it() {
    let bench = bench();
    let large = |media| Some(Named { user: alice(), media });
    for (params, wanted) in [
        (json!({"MixLayoutMode": 1}), LayoutMode::Floating { large: None }),
        (
            json!({"MixLayoutMode": 1, "MaxResolutionUserId": "alice"}),
            LayoutMode::Floating { large: large(MediaId::Main) },
        ),
        (
            json!({"MixLayoutMode": 1, "MaxResolutionUserId": "alice", "MediaId": 1, "MaxResolutionUserAlign": 1}),
            LayoutMode::Floating { large: large(MediaId::Aux) },
        ),
        (json!({"MixLayoutMode": 2}), LayoutMode::ScreenShare { large: None, large_on_the_right: false }),
        (
            json!({"MixLayoutMode": 2, "MaxResolutionUserId": "alice", "MediaId": 1, "MaxResolutionUserAlign": 1}),
            LayoutMode::ScreenShare { large: large(MediaId::Aux), large_on_the_right: true },
        ),
        (
            json!({"MixLayoutMode": 2, "MaxResolutionUserId": "", "MaxResolutionUserAlign": 0}),
            LayoutMode::ScreenShare { large: None, large_on_the_right: false },
        ),
        (json!({"MixLayoutMode": 3, "MaxResolutionUserId": "alice", "MixLayoutList": []}), LayoutMode::Grid),
        (
            json!({"MixLayoutMode": 4, "MixLayoutList": [{"Top": 3, "Left": 2, "Width": 5, "Height": 7, "UserId": ""}]}),
            LayoutMode::Custom(vec![Pane {
                rect: rect(2, 3, 5, 7),
                user: None,
                media: MediaId::Main,
                alpha: 0,
                fit: Fit::Crop,
                layer: 0,
                image: None,
            }]),
        ),
    ] {
        let layout = layout_of(&bench, params).await;
        assert_eq!(layout, Layout { mode: wanted, ..Layout::default() });
    }
    for (code, fit) in [(0, Fit::Stretch), (1, Fit::Crop), (2, Fit::Letterbox), (3, Fit::Smart)] {
        let layout = layout_of(
            &bench,
            json!({
                "MixLayoutMode": 4, "RenderMode": code, "BackgroundImageRenderMode": code,
                "BackgroundImageUrl": "http://a.b/c.png",
                "MixLayoutList": [{"Top": 0, "Left": 0, "Width": 5, "Height": 7, "RenderMode": code}],
            }),
        )
        .await;
        let LayoutMode::Custom(panes) = &layout.mode else { panic!("a custom layout") };
        assert_eq!((layout.fit, panes[0].fit, layout.background_image.unwrap().1), (fit, fit, fit));
    }
}

#[tokio::test]
async fn watermarks_are_of_three_kinds_and_have_defaults() {
    let bench = bench();
    let marks =
        async |marks: Value| layout_of(&bench, json!({"MixLayoutMode": 3, "WaterMarkList": marks})).await.watermarks;
    let block = json!({"Top": 1, "Left": 2, "Width": 30, "Height": 40});
    let image = with(block.clone(), "WaterMarkUrl", json!("http://a.b/c.png"));
    let text = with(block, "Chars", json!("一\nb"));
    let coloured = with(with(text.clone(), "FontColor", json!("#00ff00")), "BackGroundColor", json!("#0000FF"));
    let found = marks(json!([
        {"WaterMarkImage": image},
        {"WaterMarkType": 1, "WaterMarkChar": text},
        {"WaterMarkType": 1, "WaterMarkChar": with(coloured, "FontSize", json!(40))},
    ]))
    .await;
    let at = rect(2, 1, 30, 40);
    let plain = Watermark::Text {
        rect: at,
        text: "一\nb".into(),
        font_size: 14,
        colour: Colour(0x00ff_ffff),
        background: None,
    };
    let coloured = Watermark::Text {
        rect: at,
        text: "一\nb".into(),
        font_size: 40,
        colour: Colour(0xff00),
        background: Some(Colour(0xff)),
    };
    assert_eq!(found, [Watermark::Image { url: "http://a.b/c.png".into(), rect: at }, plain, coloured]);
    let places = [
        Place::TopLeft,
        Place::TopRight,
        Place::BottomLeft,
        Place::BottomRight,
        Place::TopCentre,
        Place::BottomCentre,
        Place::Centre,
    ];
    let stamp = |pos: usize| json!({"WaterMarkType": 2, "WaterMarkTimestamp": {"Pos": pos}});
    let wanted: Vec<Watermark> = places.into_iter().map(|place| Watermark::Timestamp { place, zone: 8 }).collect();
    assert_eq!(marks((0..7).map(stamp).collect::<Vec<_>>().into()).await, wanted);
    let west =
        json!([{"WaterMarkType": 2, "WaterMarkTimestamp": {"Pos": 0, "TimeZone": -12, "Font": "SourceHanSans"}}]);
    assert_eq!(marks(west).await, [Watermark::Timestamp { place: Place::TopLeft, zone: -12 }]);
    // Of two blocks the one that the type names is meant.
    let both = json!([{"WaterMarkImage": image, "WaterMarkTimestamp": {"Pos": 0}}]);
    assert!(matches!(marks(both).await[..], [Watermark::Image { .. }]));
}

#[tokio::test]
async fn empty_texts_and_nulls_are_as_good_as_absent() {
    let bench = bench();
    let names =
        ["BackGroundColor", "MaxResolutionUserId", "BackgroundImageUrl", "DefaultSubBackgroundImage", "WaterMarkList"];
    for nothing in [json!(""), Value::Null] {
        let mut params = json!({"MixLayoutMode": 1});
        for name in names {
            params[name] = if name == "WaterMarkList" && nothing == "" { json!([]) } else { nothing.clone() };
        }
        let wanted = Layout { mode: LayoutMode::Floating { large: None }, ..Layout::default() };
        assert_eq!(layout_of(&bench, params).await, wanted);
    }
    let text = json!({"Top": 0, "Left": 0, "Width": 9, "Height": 9, "Chars": "x", "FontColor": "", "Font": ""});
    let mark = json!({"WaterMarkType": 1, "WaterMarkChar": text, "WaterMarkImage": null});
    let layout = layout_of(&bench, json!({"MixLayoutMode": 3, "WaterMarkList": [mark]})).await;
    assert!(matches!(layout.watermarks[..], [Watermark::Text { colour: Colour(0x00ff_ffff), .. }]));
    let pane = json!({"Top": 0, "Left": 0, "Width": 9, "Height": 9, "UserId": "", "SubBackgroundImage": ""});
    let LayoutMode::Custom(panes) = layout_of(&bench, json!({"MixLayoutMode": 4, "MixLayoutList": [pane]})).await.mode
    else {
        panic!("a custom layout")
    };
    assert_eq!((&panes[0].user, &panes[0].image), (&None, &None));
}

#[tokio::test]
async fn every_number_has_its_limits() {
    let bench = bench();
    let (video, audio) = ("MixTranscodeParams/VideoParams/", "MixTranscodeParams/AudioParams/");
    let pane = "MixLayoutParams/MixLayoutList/0/";
    let marks = "MixLayoutParams/WaterMarkList/";
    let mut base = full();
    // Small, so that every rectangle's own limits are met before the picture's.
    base["MixLayoutParams"]["MixLayoutList"][0] = json!({"Top": 0, "Left": 0, "Width": 2, "Height": 2});
    let limits: [(String, i64, i64); 23] = [
        (format!("{video}Width"), 1, 1920),
        (format!("{video}Fps"), 1, 60),
        (format!("{video}BitRate"), 64_000, 8_192_000),
        (format!("{video}Gop"), 1, 3600),
        (format!("{audio}SampleRate"), 1, 3),
        (format!("{audio}Channel"), 1, 2),
        (format!("{audio}BitRate"), 32_000, 128_000),
        ("MixLayoutParams/MediaId".into(), 0, 1),
        ("MixLayoutParams/PlaceHolderMode".into(), 0, 1),
        ("MixLayoutParams/BackgroundImageRenderMode".into(), 0, 3),
        ("MixLayoutParams/RenderMode".into(), 0, 3),
        ("MixLayoutParams/MaxResolutionUserAlign".into(), 0, 1),
        (format!("{pane}Alpha"), 0, 255),
        (format!("{pane}RenderMode"), 0, 3),
        (format!("{pane}MediaId"), 0, 1),
        (format!("{pane}ImageLayer"), i32::MIN.into(), i32::MAX.into()),
        (format!("{marks}1/WaterMarkChar/Top"), 0, 2560),
        (format!("{marks}1/WaterMarkChar/Left"), 0, 2560),
        (format!("{marks}1/WaterMarkChar/Width"), 0, 2560),
        (format!("{marks}1/WaterMarkChar/Height"), 0, 2560),
        (format!("{marks}1/WaterMarkChar/FontSize"), 1, 2560),
        (format!("{marks}2/WaterMarkTimestamp/Pos"), 0, 6),
        (format!("{marks}2/WaterMarkTimestamp/TimeZone"), -12, 14),
    ];
    for (path, low, high) in limits {
        let mut base = base.clone();
        if path.ends_with("VideoParams/Width") {
            // Nothing stands in the narrowest picture.
            base["MixLayoutParams"] = json!({"MixLayoutMode": 3});
        }
        let name = path.rsplit('/').next().unwrap();
        for good in [low, high] {
            assert_eq!(bench.code(CREATE, &with(base.clone(), &path, json!(good))).await, "ok", "{path} = {good}");
        }
        for bad in [low - 1, high + 1] {
            let got = bench.call(CREATE, &with(base.clone(), &path, json!(bad))).await;
            assert_eq!(got.code(), OUT_OF_RANGE, "{path} = {bad}");
            assert!(got.message().contains(name), "{}", got.message());
        }
        for bad in [json!("1"), json!(1.5), json!(true), json!([])] {
            let code = bench.code(CREATE, &with(base.clone(), &path, bad.clone())).await;
            assert_eq!(code, format!("InvalidParameter.{name}"), "{path} = {bad}");
        }
    }
    for mode in [0, 5] {
        assert_eq!(
            bench.code(CREATE, &with(base.clone(), "MixLayoutParams/MixLayoutMode", json!(mode))).await,
            OUT_OF_RANGE
        );
    }
    for kind in [-1, 3] {
        let path = format!("{marks}0/WaterMarkType");
        assert_eq!(bench.code(CREATE, &with(base.clone(), &path, json!(kind))).await, OUT_OF_RANGE);
    }
    assert_eq!(
        bench.code(CREATE, &with(base.clone(), "MixLayoutParams/PureAudioDisableLayout", json!(1))).await,
        "InvalidParameter.PureAudioDisableLayout"
    );
    // 1920 * 1080 in either direction, and no larger.
    for ((width, height), code) in
        [((1920, 1080), "ok"), ((1080, 1920), "ok"), ((1920, 1081), OUT_OF_RANGE), ((1440, 1441), OUT_OF_RANGE)]
    {
        let mut params = with(mixed(), "MixTranscodeParams", transcode());
        params["MixTranscodeParams"]["VideoParams"]["Width"] = json!(width);
        params["MixTranscodeParams"]["VideoParams"]["Height"] = json!(height);
        assert_eq!(bench.code(CREATE, &params).await, code, "{width} * {height}");
    }
}

/// A layout with something at left, top, of a width and a height.
type Placed = fn(u32, u32, u32, u32) -> Value;

#[tokio::test]
async fn rectangles_are_within_the_picture_that_was_asked_for() {
    let bench = bench();
    let pane = |left, top, width, height| json!({"MixLayoutMode": 4, "MixLayoutList": [{"Left": left, "Top": top, "Width": width, "Height": height}]});
    let mark = |left, top, width, height| {
        let image =
            json!({"Left": left, "Top": top, "Width": width, "Height": height, "WaterMarkUrl": "http://a.b/c.png"});
        json!({"MixLayoutMode": 3, "WaterMarkList": [{"WaterMarkImage": image}]})
    };
    let kinds: [(&str, Placed); 2] = [("MixLayoutList[0]", pane), ("WaterMarkImage", mark)];
    for (named, layout) in kinds {
        // Without VideoParams the picture is 360 * 640.
        for (given, code) in [
            (layout(0, 0, 360, 640), "ok"),
            (layout(360, 640, 0, 0), "ok"),
            (layout(1, 0, 360, 640), OUT_OF_RANGE),
            (layout(0, 1, 360, 640), OUT_OF_RANGE),
        ] {
            let got = bench.call(CREATE, &with(mixed(), "MixLayoutParams", given.clone())).await;
            assert_eq!(got.code(), code, "{given}");
            assert!(code == "ok" || got.message().contains(named), "{}", got.message());
        }
        // The picture as asked for counts, also where an odd side loses a pixel of it.
        let mut odd = with(mixed(), "MixTranscodeParams", transcode());
        odd["MixTranscodeParams"]["VideoParams"]["Width"] = json!(1279);
        for (width, code) in [(1279, "ok"), (1280, OUT_OF_RANGE)] {
            let params = with(odd.clone(), "MixLayoutParams", layout(0, 0, width, 100));
            assert_eq!(bench.code(CREATE, &params).await, code);
        }
        // Modify does not know the picture: what stands out of it is cut off when it is laid out.
        assert_eq!(bench.code(MODIFY, &modify(layout(1919, 1919, 1920, 1920))).await, "ok");
    }
    for field in ["Left", "Top", "Width", "Height"] {
        for (given, most) in [(pane(0, 0, 1, 1), 1920), (mark(0, 0, 1, 1), 2560)] {
            let path = if most == 1920 {
                format!("MixLayoutParams/MixLayoutList/0/{field}")
            } else {
                format!("MixLayoutParams/WaterMarkList/0/WaterMarkImage/{field}")
            };
            for (value, code) in [(0, "ok"), (most, "ok"), (most + 1, OUT_OF_RANGE), (-1, OUT_OF_RANGE)] {
                let params = with(modify(given.clone()), &path, json!(value));
                assert_eq!(bench.code(MODIFY, &params).await, code, "{path} = {value}");
            }
        }
    }
}

#[tokio::test]
async fn every_text_has_its_rule() {
    let bench = bench();
    let marks = "MixLayoutParams/WaterMarkList/";
    let pane = "MixLayoutParams/MixLayoutList/0/";
    let images = [
        "MixLayoutParams/BackgroundImageUrl".to_owned(),
        "MixLayoutParams/DefaultSubBackgroundImage".to_owned(),
        format!("{pane}SubBackgroundImage"),
        format!("{marks}0/WaterMarkImage/WaterMarkUrl"),
    ];
    for path in images {
        let own = format!("InvalidParameter.{}", path.rsplit('/').next().unwrap());
        for (url, code) in [
            ("https://a.b:8/c(1).PNG", "ok"),
            ("http://a.b/c.jpeg", "ok"),
            ("http://a.b/c.gif", "InvalidParameter.CheckSuffixFailed"),
            ("http://a.b/c.png?x=1", "InvalidParameter.CheckSuffixFailed"),
            ("http://a.b/c 1.png", "InvalidParameter.CheckContentFailed"),
            ("file:///etc/c.png", own.as_str()),
            ("c.png", own.as_str()),
        ] {
            let got = bench.call(CREATE, &with(full(), &path, json!(url))).await;
            assert_eq!(got.code(), code, "{path} = {url}");
            assert!(!got.message().contains(url), "a value is not repeated");
        }
        assert_eq!(bench.code(CREATE, &with(full(), &path, json!(7))).await, own);
    }
    for path in [
        "MixLayoutParams/BackGroundColor".to_owned(),
        format!("{marks}1/WaterMarkChar/FontColor"),
        format!("{marks}1/WaterMarkChar/BackGroundColor"),
    ] {
        let own = format!("InvalidParameter.{}", path.rsplit('/').next().unwrap());
        for (colour, code) in
            [("#A0b1C2", "ok"), ("", "ok"), ("A0B1C2", own.as_str()), ("#A0B1C", own.as_str()), ("red", own.as_str())]
        {
            assert_eq!(bench.code(CREATE, &with(full(), &path, json!(colour))).await, code, "{path} = {colour}");
        }
    }
    for path in [format!("{marks}1/WaterMarkChar/Font"), format!("{marks}2/WaterMarkTimestamp/Font")] {
        for (font, code) in [("Tencent", "ok"), ("SourceHanSans", "ok"), ("Arial", "InvalidParameter.Font")] {
            assert_eq!(bench.code(CREATE, &with(full(), &path, json!(font))).await, code, "{path} = {font}");
        }
    }
    let chars = format!("{marks}1/WaterMarkChar/Chars");
    let longest = "室".repeat(341);
    for (text, code) in [
        (longest.as_str(), "ok"),
        ("two\nlines", "ok"),
        ("", "MissingParameter.Chars"),
        ("a\0b", "InvalidParameter.Chars"),
        ("\u{1b}[2J", "InvalidParameter.Chars"),
    ] {
        assert_eq!(bench.code(CREATE, &with(full(), &chars, json!(text))).await, code, "{text:?}");
    }
    let too_long = with(full(), &chars, json!("室".repeat(342)));
    assert_eq!(bench.code(CREATE, &too_long).await, "InvalidParameter.Chars");
    for (path, field) in
        [("MixLayoutParams/MaxResolutionUserId".to_owned(), "MaxResolutionUserId"), (format!("{pane}UserId"), "UserId")]
    {
        for bad in ["x".repeat(65), "a\nb".into()] {
            let code = bench.code(CREATE, &with(full(), &path, json!(bad))).await;
            assert_eq!(code, format!("InvalidParameter.{field}"));
        }
    }
}

#[tokio::test]
async fn what_is_required_is_told_by_its_name() {
    let bench = bench();
    let blocks = [
        ("MixTranscodeParams/VideoParams", &["Width", "Height", "Fps", "BitRate", "Gop"][..]),
        ("MixTranscodeParams/AudioParams", &["SampleRate", "Channel", "BitRate"]),
        ("MixLayoutParams", &["MixLayoutMode", "MixLayoutList"]),
        ("MixLayoutParams/MixLayoutList/0", &["Top", "Left", "Width", "Height"]),
        ("MixLayoutParams/WaterMarkList/0", &["WaterMarkImage"]),
        ("MixLayoutParams/WaterMarkList/0/WaterMarkImage", &["WaterMarkUrl", "Top", "Left", "Width", "Height"]),
        ("MixLayoutParams/WaterMarkList/1", &["WaterMarkChar"]),
        ("MixLayoutParams/WaterMarkList/1/WaterMarkChar", &["Top", "Left", "Width", "Height", "Chars"]),
        ("MixLayoutParams/WaterMarkList/2", &["WaterMarkTimestamp"]),
        ("MixLayoutParams/WaterMarkList/2/WaterMarkTimestamp", &["Pos"]),
    ];
    for (block, fields) in blocks {
        for field in fields {
            let got = bench.call(CREATE, &without(full(), &format!("{block}/{field}"))).await;
            assert_eq!(got.code(), format!("MissingParameter.{field}"), "{block}");
            assert!(got.message().contains(field), "{}", got.message());
        }
        let unknown = with(full(), &format!("{block}/Nonsense"), json!(1));
        assert_eq!(bench.code(CREATE, &unknown).await, "UnknownParameter", "{block}");
    }
    let empty = with(full(), "MixLayoutParams/MixLayoutList", json!([]));
    assert_eq!(bench.code(CREATE, &empty).await, "MissingParameter.MixLayoutList");
    for (list, of) in [
        ("MixLayoutList", json!({"Top": 0, "Left": 0, "Width": 1, "Height": 1})),
        ("WaterMarkList", json!({"WaterMarkType": 2, "WaterMarkTimestamp": {"Pos": 1}})),
    ] {
        let path = format!("MixLayoutParams/{list}");
        assert_eq!(bench.code(CREATE, &with(full(), &path, json!(vec![of.clone(); 25]))).await, "ok");
        let code = bench.code(CREATE, &with(full(), &path, json!(vec![of; 26]))).await;
        assert_eq!(code, format!("InvalidParameter.{list}"));
        assert_eq!(bench.code(CREATE, &with(full(), &path, json!({}))).await, format!("InvalidParameter.{list}"));
    }
    // Without keys of a VOD account there is no VOD.
    let vod = with(full(), "StorageParams", json!({ "CloudVod": { "TencentVod": {} } }));
    assert_eq!(bench.code(CREATE, &vod).await, "UnsupportedOperation");
}

#[tokio::test]
async fn modify_replaces_the_layout_whole() {
    let bench = bench();
    let heard = |layout| Heard::Modify { app: APP, task: task(), subscription: Subscription::default(), layout };
    assert_eq!(bench.code(MODIFY, &modify(layout())).await, "ok");
    assert_eq!(bench.last(), heard(Some(full_layout())));
    assert_eq!(bench.code(MODIFY, &modify(json!({"MixLayoutMode": 3}))).await, "ok");
    assert_eq!(bench.last(), heard(Some(Layout::default())));
    for absent in [modify(Value::Null), without(modify(Value::Null), "MixLayoutParams")] {
        assert_eq!(bench.code(MODIFY, &absent).await, "ok");
        assert_eq!(bench.last(), heard(None));
    }
    for (params, code) in [
        (json!({}), "MissingParameter.MixLayoutMode"),
        (json!({"MixLayoutMode": 4}), "MissingParameter.MixLayoutList"),
        (json!({"MixLayoutMode": 1, "MediaId": 2}), OUT_OF_RANGE),
    ] {
        assert_eq!(bench.code(MODIFY, &modify(params)).await, code);
    }
    let canvas = with(modify(layout()), "MixTranscodeParams", transcode());
    assert_eq!(bench.code(MODIFY, &canvas).await, "UnknownParameter", "the picture's size does not change");
    bench.fail.lock().unwrap().push_back(Error::NotMixed);
    let got = bench.call(MODIFY, &modify(layout())).await;
    assert_eq!(got.code(), "FailedOperation.NotAllowed");
    assert!(got.message().contains("MixLayoutParams"), "{}", got.message());
}

/// As the SDKs write a structure into a form: `A.B.0=x`. `yes` is how the language spells true.
fn flatten(value: &Value, name: &str, yes: &str, pairs: &mut Vec<(String, String)>) {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(field, value)| flatten(value, &below(field), yes, pairs)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| flatten(value, &below(&at.to_string()), yes, pairs));
        }
        Value::Bool(true) => pairs.push((name.to_owned(), yes.to_owned())),
        Value::String(text) => pairs.push((name.to_owned(), text.clone())),
        other => pairs.push((name.to_owned(), other.to_string())),
    }
}

/// A form signed with v1, `params` flattened.
fn form(action: &str, params: &Value, yes: &str) -> Request<Body> {
    let mut pairs: Vec<(String, String)> = [
        ("Action", action),
        ("Version", "2019-07-22"),
        ("Timestamp", &NOW.to_string()),
        ("Nonce", "5"),
        ("SecretId", API_ID),
        ("SignatureMethod", "HmacSHA256"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    flatten(params, "", yes, &mut pairs);
    let signature = sign_v1(V1Method::HmacSha256, &Secret::new(API_KEY), "POST", "box.lan", &pairs);
    pairs.push(("Signature".into(), signature));
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Request::post("/")
        .header("Host", "box.lan")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(Body::from(body))
        .unwrap()
}

#[tokio::test]
async fn forms_say_the_same_as_json() {
    let bench = bench();
    for yes in ["True", "true"] {
        for (action, params) in [(CREATE, full()), (MODIFY, modify(layout()))] {
            assert_eq!(bench.code(action, &params).await, "ok");
            let wanted = bench.last();
            let got = bench.send(form(action, &params, yes)).await;
            assert_eq!(got.code(), "ok", "{}", got.message());
            assert_eq!(bench.last(), wanted, "{action}");
        }
    }
    let pane = json!({"Top": 0, "Left": 0, "Width": 1, "Height": 1});
    let many = modify(json!({"MixLayoutMode": 4, "MixLayoutList": vec![pane.clone(); 12]}));
    assert_eq!(bench.send(form(MODIFY, &many, "true")).await.code(), "ok");
    let Heard::Modify { layout: Some(Layout { mode: LayoutMode::Custom(panes), .. }), .. } = bench.last() else {
        panic!("a custom layout")
    };
    assert_eq!(panes.len(), 12);
    for (params, code) in [
        (json!({"MixLayoutMode": 5}), OUT_OF_RANGE),
        (json!({"MixLayoutMode": "x"}), "InvalidParameter.MixLayoutMode"),
        (json!({"MixLayoutMode": 4}), "MissingParameter.MixLayoutList"),
        (json!({"MixLayoutMode": 4, "MixLayoutList": {"1": pane.clone()}}), "InvalidParameter.BodyParamsError"),
        (json!({"MixLayoutMode": 4, "MixLayoutList": [without(pane.clone(), "Top")]}), "MissingParameter.Top"),
        (json!({"MixLayoutMode": 4, "MixLayoutList": {"x": pane}}), "UnknownParameter"),
        (json!({"MixLayoutMode": 3, "PureAudioDisableLayout": "yes"}), "InvalidParameter.PureAudioDisableLayout"),
        (json!({"MixLayoutMode": 3, "WaterMarkList": [{"WaterMarkType": 1}]}), "MissingParameter.WaterMarkChar"),
        (json!({"MixLayoutMode": 3, "WaterMarkList": "x"}), "InvalidParameter.WaterMarkList"),
    ] {
        assert_eq!(bench.send(form(MODIFY, &modify(params.clone()), "true")).await.code(), code, "{params}");
    }
}
