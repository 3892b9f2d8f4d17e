//! The official Python SDK, unmodified, against the door on a real port.

mod door;

use std::sync::{Arc, Mutex};

use door::{API_ID, API_KEY, APP, APP_KEY, Bench, Heard};
use holdfast::config::{Config, Limits};
use holdfast::model::recording::{Subscribers, Vendor};
use holdfast::model::{RoomId, Timestamp};
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
    let creates: Vec<&Heard> = heard.iter().filter(|heard| matches!(heard, Heard::Create { .. })).collect();
    assert_eq!(creates.len(), 6);
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

    for name in ["unsigned payload", "token", "english", "common client"] {
        assert!(outcomes[name].get("ok").is_some(), "{name}: {}", outcomes[name]);
    }
    for (name, code) in [
        ("wrong key", "AuthFailure.SignatureFailure"),
        ("unknown id", "AuthFailure.SecretIdNotFound"),
        ("unknown action", "InvalidAction"),
        ("mixed", "UnsupportedOperation"),
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
