//! The official Python SDK, unmodified, against the door on a real port.

mod door;

use std::sync::{Arc, Mutex};

use door::{API_ID, API_KEY, APP, APP_KEY, Bench, Heard};
use holdfast::config::{Config, Limits};
use holdfast::model::mix::{
    AudioParams, Colour, Fit, Layout, LayoutMode, MixSpec, Pane, Place, Rect, Size, VideoParams, Watermark,
};
use holdfast::model::output::Output;
use holdfast::model::recording::{Subscribers, Vendor};
use holdfast::model::{MediaId, RoomId, Timestamp, UserId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const ACTIONS: [&str; 8] = [
    "CreateCloudRecording",
    "DescribeCloudRecording",
    "ModifyCloudRecording",
    "DeleteCloudRecording",
    "RemoveUser",
    "RemoveUserByStrRoomId",
    "DismissRoom",
    "DismissRoomByStrRoomId",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_speaks_with_the_box() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/setup", python.display());
    let limits = Limits { requests_per_second: 20, ..Limits::default() };
    let config = Config { limits, ..door::config() };
    let bench = Bench::with_clock(config, Arc::new(Mutex::new(Timestamp(0))), holdfast::app::wall_clock());
    let cancel = CancellationToken::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let (addr, _serving) = holdfast::api::serve_http(any, bench.router.clone(), cancel.clone()).await.unwrap();

    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/contract.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args([&addr.to_string(), API_ID, API_KEY, &APP.to_string(), APP_KEY])
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), output).await.expect("in time").unwrap();
    cancel.cancel();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the SDK failed; if a module is missing run scripts/setup:\n{errors}");
    let outcomes: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");

    for sign in ["TC3-HMAC-SHA256", "HmacSHA1", "HmacSHA256"] {
        for method in ["POST", "GET"] {
            for name in [format!("{sign} {method} mixed"), format!("{sign} {method} mixed again")] {
                assert!(outcomes[&name]["ok"]["TaskId"].is_string(), "{name}: {}", outcomes[&name]);
            }
            for action in ACTIONS {
                let name = format!("{sign} {method} {action}");
                let answer = &outcomes[&name]["ok"];
                assert!(answer["RequestId"].is_string(), "{name}: {}", outcomes[&name]);
                if action.ends_with("CloudRecording") {
                    assert!(answer["TaskId"].is_string(), "{name}: {answer}");
                }
                if action == "DescribeCloudRecording" {
                    assert_eq!(answer["Status"], "InProgress");
                    assert_eq!(answer["StorageFileList"][1]["BeginTimeStamp"], 1622425551999i64);
                    assert_eq!(answer["StorageFileList"][1]["TrackType"], "video");
                }
            }
        }
    }
    // However it was signed and sent, the actor heard the same.
    let heard = bench.heard.lock().unwrap().clone();
    assert!(outcomes["mp4"]["ok"]["TaskId"].is_string(), "{}", outcomes["mp4"]);
    let packed = |heard: &&Heard| matches!(heard, Heard::Create { spec, .. } if spec.output != Output::Hls);
    assert_eq!(heard.iter().filter(packed).count(), 1, "the one that is to be an mp4 as well");
    let (mixed, creates): (Vec<&Heard>, Vec<&Heard>) = (heard.iter())
        .filter(|heard| matches!(heard, Heard::Create { .. }) && !packed(heard))
        .partition(|heard| matches!(heard, Heard::Create { spec, .. } if spec.mix.is_some()));
    assert_eq!((creates.len(), mixed.len()), (6, 6));
    for create in &creates {
        let Heard::Create { spec, keys, .. } = create else { unreachable!("filtered") };
        assert_eq!(spec.room, RoomId::Text("ward 5".into()));
        assert_eq!(spec.destination.vendor, Vendor::S3);
        assert_eq!(spec.destination.prefix, ["p1", "p2"]);
        assert_eq!(spec.subscription.audio, Subscribers::Only(vec!["alice".into(), "bob.*$".into()]));
        assert_eq!(spec.subscription.video, Subscribers::Everybody);
        assert_eq!(keys.secret_key.expose(), "sk+/=&");
        assert_eq!(*create, creates[0]);
    }
    for create in &mixed {
        let Heard::Create { spec, .. } = create else { unreachable!("filtered") };
        assert_eq!(spec.mix, Some(mix()));
        assert_eq!(*create, mixed[0]);
    }
    let layouts: Vec<&Layout> = (heard.iter())
        .filter_map(|heard| if let Heard::Modify { layout, .. } = heard { layout.as_ref() } else { None })
        .collect();
    assert_eq!(layouts, [&mix().layout; 6]);

    for name in ["unsigned payload", "token", "english", "common client"] {
        assert!(outcomes[name].get("ok").is_some(), "{name}: {}", outcomes[name]);
    }
    for (name, code) in [
        ("wrong key", "AuthFailure.SignatureFailure"),
        ("unknown id", "AuthFailure.SecretIdNotFound"),
        ("unknown action", "InvalidAction"),
        ("no layout list", "MissingParameter.MixLayoutList"),
        ("no room", "MissingParameter.RoomId"),
        ("wrong ticket", "InvalidParameter.UserSig"),
        ("wrong version", "NoSuchVersion"),
        ("skip", "AuthFailure.InvalidAuthorization"),
    ] {
        let outcome = &outcomes[name];
        assert_eq!(outcome["code"], code, "{name}: {outcome}");
        assert!(outcome["id"].as_str().is_some_and(|id| id.len() == 36), "{name}: {outcome}");
        assert!(outcome["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let flood: Vec<&str> = outcomes["flood"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(flood.contains(&"ok"));
    assert!(flood.contains(&"RequestLimitExceeded"), "{flood:?}");
    assert!(flood.iter().all(|code| ["ok", "RequestLimitExceeded"].contains(code)), "{flood:?}");
}

/// What contract.py asks of a mixed recording.
fn mix() -> MixSpec {
    let pane = |x, user: Option<&str>| Pane {
        rect: Rect { x, y: 0, width: 640, height: 720 },
        user: user.map(|user| UserId::parse(user).unwrap()),
        media: MediaId::Main,
        alpha: 0,
        fit: Fit::Crop,
        layer: 0,
        image: None,
    };
    let rect = Rect { x: 2, y: 1, width: 30, height: 40 };
    let alice = Pane {
        media: MediaId::Aux,
        alpha: 10,
        fit: Fit::Smart,
        layer: -1,
        image: Some("https://a.b/c(1).jpg".into()),
        ..pane(0, Some("alice"))
    };
    MixSpec {
        video: VideoParams { size: Size { width: 1280, height: 720 }, fps: 25, bitrate: 1_500_000, gop: 2 },
        audio: AudioParams { rate: 16_000, channels: 1, bitrate: 32_000 },
        layout: Layout {
            mode: LayoutMode::Custom(vec![alice, pane(640, None)]),
            background: Colour(0x00ff_a500),
            background_image: Some(("http://a.b/c.png".into(), Fit::Letterbox)),
            fit: Fit::Stretch,
            placeholder: Some("http://a.b/c.jpeg".into()),
            hold_places: true,
            sound_takes_no_place: true,
            watermarks: vec![
                Watermark::Image { url: "http://a.b/c.png".into(), rect },
                Watermark::Text {
                    rect,
                    text: "第三诊室 & co".into(),
                    font_size: 20,
                    colour: Colour(0x00ff_0000),
                    background: Some(Colour(0xff00)),
                },
                Watermark::Timestamp { place: Place::BottomCentre, zone: -3 },
            ],
        },
    }
}
