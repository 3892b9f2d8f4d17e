//! The API's contract: what goes in, what is answered, and with which code what is wrong is refused.

mod door;

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use door::{
    API_ID, API_KEY, APP, APP_KEY, Bench, Heard, KEYLESS_APP, NOW, OTHER_ID, OTHER_KEY, create, generous, golden,
    layout, signed, task, with, without,
};
use holdfast::api::error::{Code, Whose};
use holdfast::api::schema;
use holdfast::config::Config;
use holdfast::model::board::Overload;
use holdfast::model::output::Output;
use holdfast::model::recording::{MediaFilter, StreamType, Subscribers, Subscription, Vendor};
use holdfast::model::signature::{PrivateMap, PrivateRoom, V1Method, gen_private_map_key, gen_user_sig, sign_v1};
use holdfast::model::vod::Vod;
use holdfast::model::{RoomId, RoomKey, Secret, Timestamp, UserId};
use holdfast::rooms::Error;
use serde_json::{Value, json};

fn room(number: u32) -> RoomKey {
    RoomKey { app: APP, room: RoomId::Number(number) }
}

#[tokio::test]
async fn every_action_reaches_the_actor_and_is_answered() {
    let bench = Bench::new();
    let by_task = json!({"SdkAppId": APP.0, "TaskId": task().as_str()});
    let deny = json!({"SubscribeStreamUserIds": {"UnSubscribeAudioUserIds": ["carol", "9.*$"]}});
    let modify =
        json!({"SdkAppId": APP.0, "TaskId": task().as_str(), "SubscribeStreamUserIds": deny["SubscribeStreamUserIds"]});
    let users = |room: Value| json!({"SdkAppId": APP.0, "RoomId": room, "UserIds": ["a", "b"]});
    let of_room = |room: Value| json!({"SdkAppId": APP.0, "RoomId": room});
    let ids = || vec![UserId::parse("a").unwrap(), UserId::parse("b").unwrap()];
    let text = RoomKey { app: APP, room: RoomId::Text("12".into()) };
    let calls = [
        ("DescribeCloudRecording", by_task.clone(), Heard::Describe { app: APP, task: task() }),
        (
            "ModifyCloudRecording",
            modify,
            Heard::Modify {
                app: APP,
                task: task(),
                subscription: Subscription {
                    audio: Subscribers::AllBut(vec!["carol".into(), "9.*$".into()]),
                    video: Subscribers::Everybody,
                },
                layout: None,
            },
        ),
        ("DeleteCloudRecording", by_task.clone(), Heard::Delete { app: APP, task: task() }),
        (
            "DeleteCloudRecording",
            with(by_task.clone(), "Discard", json!(false)),
            Heard::Delete { app: APP, task: task() },
        ),
        (
            "DeleteCloudRecording",
            with(by_task.clone(), "Discard", json!(true)),
            Heard::Discard { app: APP, task: task(), by: API_ID.into() },
        ),
        ("PauseCloudRecording", by_task.clone(), Heard::Pause { app: APP, task: task(), pause: true }),
        ("ResumeCloudRecording", by_task, Heard::Pause { app: APP, task: task(), pause: false }),
        ("RemoveUser", users(json!(12)), Heard::RemoveUsers { room: room(12), users: ids() }),
        ("RemoveUserByStrRoomId", users(json!("12")), Heard::RemoveUsers { room: text.clone(), users: ids() }),
        ("DismissRoom", of_room(json!(12)), Heard::Dismiss { room: room(12) }),
        ("DismissRoomByStrRoomId", of_room(json!("12")), Heard::Dismiss { room: text }),
    ];
    let mut answers = String::new();
    let mut note = |action: &str, mut response: Value| {
        response["RequestId"] = json!("<uuid>");
        answers.push_str(&format!("{action}\n{}\n", json!({ "Response": response })));
    };
    note("CreateCloudRecording", bench.call("CreateCloudRecording", &create()).await.response());
    for (action, params, wanted) in calls {
        note(action, bench.call(action, &params).await.response());
        assert_eq!(bench.last(), wanted, "{action}");
    }
    golden("api_answers.txt", &answers);
}

#[tokio::test]
async fn create_becomes_a_spec() {
    let bench = Bench::new();
    assert_eq!(bench.code("CreateCloudRecording", &create()).await, "ok");
    let Heard::Create { spec, keys, user_sig } = bench.last() else { panic!("a Create") };
    assert_eq!(spec.room_key(), room(7));
    assert_eq!((spec.streams, spec.media), (StreamType::AudioVideo, MediaFilter::Both));
    assert_eq!(spec.max_idle, Duration::from_secs(30));
    assert_eq!(spec.call_expiry, Duration::from_secs(72 * 3600));
    assert_eq!((spec.av_merge, spec.fill_black), (false, false));
    assert_eq!(spec.subscription, Subscription::default());
    assert_eq!(spec.destination.vendor, Vendor::Cos);
    assert_eq!(spec.destination.prefix, ["p1", "p2"]);
    assert_eq!(keys.secret_key.expose(), "sk+/=&storage");
    assert!(!user_sig.is_empty());

    let mut all = create();
    all["RoomIdType"] = json!(0);
    all["ResourceExpiredHour"] = json!(6);
    all["StorageParams"]["CloudStorage"]["Vendor"] = json!(1);
    all["StorageParams"]["CloudVod"] = json!(null);
    all["RecordParams"] = json!({
        "RecordMode": 1, "MaxIdleTime": 86400, "StreamType": 2, "OutputFormat": 0, "AvMerge": 1,
        "MaxMediaFileDuration": 1440, "MediaId": 2, "FillType": 1, "SubscribeAbility": 1,
        "SubscribeStreamUserIds": {
            "SubscribeAudioUserIds": ["alice", "bob.*$"], "UnSubscribeAudioUserIds": [],
            "SubscribeVideoUserIds": [], "UnSubscribeVideoUserIds": ["carol"],
        },
    });
    all["MixTranscodeParams"] = json!({
        "VideoParams": {"Width": 1280, "Height": 720, "Fps": 15, "BitRate": 550000, "Gop": 10},
        "AudioParams": {"SampleRate": 1, "Channel": 2, "BitRate": 64000},
    });
    all["MixLayoutParams"] = layout();
    assert_eq!(bench.code("CreateCloudRecording", &all).await, "ok");
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    assert_eq!(spec.room, RoomId::Text("7".into()));
    assert_eq!((spec.streams, spec.media), (StreamType::Video, MediaFilter::Aux));
    assert_eq!((spec.max_idle, spec.call_expiry), (Duration::from_secs(86400), Duration::from_secs(6 * 3600)));
    assert_eq!((spec.av_merge, spec.fill_black), (true, true));
    assert_eq!(spec.subscription.audio, Subscribers::Only(vec!["alice".into(), "bob.*$".into()]));
    assert_eq!(spec.subscription.video, Subscribers::AllBut(vec!["carol".into()]));
    assert_eq!(spec.destination.vendor, Vendor::S3);
}

#[tokio::test]
async fn formats_of_output_and_lengths_of_files_are_taken_as_asked() {
    let bench = Bench::with(Config { limits: generous(), ..door::config() });
    let formats = [Output::Hls, Output::HlsMp4, Output::HlsAac, Output::Mp4, Output::Aac];
    for (number, format) in formats.into_iter().enumerate() {
        let mut params = with(create(), "RecordParams/OutputFormat", json!(number));
        params = with(params, "RecordParams/MaxMediaFileDuration", json!(number + 1));
        assert_eq!(bench.code("CreateCloudRecording", &params).await, "ok");
        let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
        assert_eq!((spec.output, spec.file_length), (format, Duration::from_secs((number as u64 + 1) * 60)));
        let sound = if format == Output::Aac { StreamType::Audio } else { StreamType::AudioVideo };
        assert_eq!(spec.streams, sound, "{format:?}");
        // there is no aac of pictures
        let silent = with(params, "RecordParams/StreamType", json!(2));
        let code = if matches!(number, 2 | 4) { "InvalidParameter.OutputFormat" } else { "ok" };
        assert_eq!(bench.code("CreateCloudRecording", &silent).await, code, "{format:?}");
    }
    assert_eq!(bench.code("CreateCloudRecording", &create()).await, "ok");
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    assert_eq!((spec.output, spec.file_length), (Output::Hls, Duration::from_secs(24 * 3600)));
}

#[tokio::test]
async fn each_bad_field_of_create_is_refused_by_its_name() {
    let bench = Bench::with(Config { limits: generous(), ..door::config() });
    let mut base = create();
    base["MixTranscodeParams"] = json!({
        "VideoParams": {"Width": 1280, "Height": 720, "Fps": 15, "BitRate": 550000, "Gop": 10},
        "AudioParams": {"SampleRate": 1, "Channel": 2, "BitRate": 64000},
    });
    base["MixLayoutParams"] = layout();
    let required = [
        "SdkAppId",
        "RoomId",
        "UserId",
        "UserSig",
        "RecordParams",
        "StorageParams",
        "RecordParams/RecordMode",
        "StorageParams/CloudStorage",
        "StorageParams/CloudStorage/Vendor",
        "StorageParams/CloudStorage/Region",
        "StorageParams/CloudStorage/Bucket",
        "StorageParams/CloudStorage/AccessKey",
        "StorageParams/CloudStorage/SecretKey",
        "MixTranscodeParams/VideoParams/Width",
        "MixTranscodeParams/VideoParams/Gop",
        "MixTranscodeParams/AudioParams/Channel",
        "MixLayoutParams/MixLayoutMode",
    ];
    for path in required {
        let name = path.rsplit('/').next().unwrap();
        for params in [without(base.clone(), path), with(base.clone(), path, Value::Null)] {
            let got = bench.call("CreateCloudRecording", &params).await;
            assert_eq!(got.code(), format!("MissingParameter.{name}"));
            assert!(got.message().contains(&path.replace('/', ".")), "{}", got.message());
        }
    }

    let out_of_range = "InvalidParameter.OutOfRange";
    let list = "RecordParams/SubscribeStreamUserIds";
    let faults = [
        ("SdkAppId", json!(0), "InvalidParameter.SdkAppId"),
        ("SdkAppId", json!("1400000001"), "InvalidParameter.SdkAppId"),
        ("SdkAppId", json!(4294967296u64), "InvalidParameter.SdkAppId"),
        ("SdkAppId", json!(1400000099), "InvalidParameter.SdkAppId"),
        ("RoomId", json!(7), "InvalidParameter.RoomId"),
        ("RoomId", json!("0"), "InvalidParameter.RoomId"),
        ("RoomId", json!("4294967295"), "InvalidParameter.RoomId"),
        ("RoomId", json!("ward"), "InvalidParameter.RoomId"),
        ("RoomIdType", json!(2), out_of_range),
        ("RoomIdType", json!("1"), "InvalidParameter.RoomIdType"),
        ("UserId", json!("x".repeat(65)), "InvalidParameter.UserId"),
        ("UserId", json!("a\nb"), "InvalidParameter.UserId"),
        ("UserSig", json!("eJw-wrong"), "InvalidParameter.UserSig"),
        ("UserSig", json!(5), "InvalidParameter.UserSig"),
        ("PrivateMapKey", json!("eJw-wrong"), "InvalidParameter.PrivateMapKey"),
        ("ResourceExpiredHour", json!(5), out_of_range),
        ("ResourceExpiredHour", json!(721), out_of_range),
        ("RecordParams", json!([]), "InvalidParameter.RecordParams"),
        ("RecordParams/RecordMode", json!(0), out_of_range),
        ("RecordParams/RecordMode", json!(3), out_of_range),
        ("RecordParams/RecordMode", json!(1.5), "InvalidParameter.RecordMode"),
        ("RecordParams/MaxIdleTime", json!(4), out_of_range),
        ("RecordParams/MaxIdleTime", json!(86401), out_of_range),
        ("RecordParams/StreamType", json!(3), out_of_range),
        ("RecordParams/OutputFormat", json!(5), out_of_range),
        ("RecordParams/AvMerge", json!(2), out_of_range),
        ("RecordParams/AvMerge", json!(true), "InvalidParameter.AvMerge"),
        ("RecordParams/MaxMediaFileDuration", json!(0), out_of_range),
        ("RecordParams/MaxMediaFileDuration", json!(1441), out_of_range),
        ("RecordParams/MediaId", json!(3), out_of_range),
        ("RecordParams/FillType", json!(-1), out_of_range),
        ("RecordParams/SubscribeAbility", json!(2), out_of_range),
        ("RecordParams/Nonsense", json!(2), "UnknownParameter"),
        ("Nonsense", json!(2), "UnknownParameter"),
        (list, json!({"SubscribeAudioUserIds": "alice"}), "InvalidParameter.SubscribeAudioUserIds"),
        (list, json!({"SubscribeAudioUserIds": [7]}), "InvalidParameter.SubscribeAudioUserIds"),
        (list, json!({"UnSubscribeVideoUserIds": vec!["u"; 33]}), "InvalidParameter.UnSubscribeVideoUserIds"),
        (
            list,
            json!({"SubscribeAudioUserIds": ["a"], "UnSubscribeAudioUserIds": ["b"]}),
            "InvalidParameter.SubscribeAudioUserIds",
        ),
        (
            list,
            json!({"SubscribeVideoUserIds": ["a"], "UnSubscribeVideoUserIds": ["b"]}),
            "InvalidParameter.SubscribeVideoUserIds",
        ),
        ("StorageParams/CloudVod", json!({}), "InvalidParameter.StorageParams"),
        ("StorageParams/CloudStorage/Vendor", json!(2), out_of_range),
        ("StorageParams/CloudStorage/Region", json!("a.b"), "InvalidParameter.Region"),
        ("StorageParams/CloudStorage/Region", json!(""), "MissingParameter.Region"),
        ("StorageParams/CloudStorage/Bucket", json!("../etc"), "InvalidParameter.Bucket"),
        ("StorageParams/CloudStorage/Bucket", json!(".."), "InvalidParameter.Bucket"),
        ("StorageParams/CloudStorage/AccessKey", json!("a b"), "InvalidParameter.AccessKey"),
        ("StorageParams/CloudStorage/SecretKey", json!(5), "InvalidParameter.SecretKey"),
        ("StorageParams/CloudStorage/FileNamePrefix", json!(["a/b"]), "InvalidParameter.FileNamePrefix"),
        ("StorageParams/CloudStorage/FileNamePrefix", json!([".."]), "InvalidParameter.FileNamePrefix"),
        ("StorageParams/CloudStorage/FileNamePrefix", json!([""]), "InvalidParameter.FileNamePrefix"),
        (
            "StorageParams/CloudStorage/FileNamePrefix",
            json!(vec!["x".repeat(100); 6]),
            "InvalidParameter.FileNamePrefix",
        ),
        ("MixTranscodeParams/VideoParams/Width", json!(1921), out_of_range),
        ("MixTranscodeParams/VideoParams/Height", json!(0), out_of_range),
        ("MixTranscodeParams/VideoParams/Height", json!(1600), "ok"),
        ("MixTranscodeParams/VideoParams/Fps", json!(61), out_of_range),
        ("MixTranscodeParams/VideoParams/BitRate", json!(63_999), out_of_range),
        ("MixTranscodeParams/AudioParams/SampleRate", json!(48000), out_of_range),
        ("MixTranscodeParams/AudioParams/BitRate", json!(128_001), out_of_range),
        ("MixLayoutParams/MixLayoutMode", json!(5), out_of_range),
        ("MixLayoutParams/MixLayoutList", json!([]), "MissingParameter.MixLayoutList"),
        ("MixLayoutParams/MixLayoutList/0/Left", json!(1), out_of_range),
        ("MixLayoutParams/MixLayoutList/0/Alpha", json!(256), out_of_range),
        ("MixLayoutParams/MixLayoutList/0/RenderMode", json!(4), out_of_range),
        ("MixLayoutParams/BackGroundColor", json!("FFA500"), "InvalidParameter.BackGroundColor"),
        ("MixLayoutParams/BackgroundImageUrl", json!("http://a.b/c.gif"), "InvalidParameter.CheckSuffixFailed"),
        ("MixLayoutParams/BackgroundImageUrl", json!("http://a.b/室.png"), "InvalidParameter.CheckContentFailed"),
        ("MixLayoutParams/BackgroundImageUrl", json!("ftp://a.b/c.png"), "InvalidParameter.BackgroundImageUrl"),
        ("MixLayoutParams/PureAudioDisableLayout", json!(1), "InvalidParameter.PureAudioDisableLayout"),
        ("MixLayoutParams/MediaId", json!(2), out_of_range),
        ("MixLayoutParams/WaterMarkList/0/WaterMarkType", json!(1), "MissingParameter.WaterMarkChar"),
        ("MixLayoutParams/WaterMarkList/0/WaterMarkImage/Left", json!(1279), out_of_range),
        ("MixLayoutParams/WaterMarkList/1/WaterMarkChar/FontColor", json!("red"), "InvalidParameter.FontColor"),
        ("MixLayoutParams/WaterMarkList/1/WaterMarkChar/Font", json!("Arial"), "InvalidParameter.Font"),
        ("MixLayoutParams/WaterMarkList/2/WaterMarkTimestamp/Pos", json!(7), out_of_range),
    ];
    let secrets = ["sk+/=&storage", "AKIDstorage"];
    for (path, value, code) in faults {
        let got = bench.call("CreateCloudRecording", &with(base.clone(), path, value.clone())).await;
        assert_eq!(got.code(), code, "{path} = {value}: {}", got.message());
        let name = path.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap();
        let about = code == "ok" || code.ends_with(name) || got.message().contains(name);
        let about_list = path == list && got.message().contains("SubscribeStreamUserIds");
        let both = path == "StorageParams/CloudVod" && got.message().contains("not both");
        assert!(about || about_list || both || code.starts_with("Missing"), "{path}: {}", got.message());
        assert!(secrets.iter().all(|secret| !got.text().contains(secret)));
    }
    let product = with(
        with(base.clone(), "MixTranscodeParams/VideoParams/Width", json!(1920)),
        "MixTranscodeParams/VideoParams/Height",
        json!(1920),
    );
    assert_eq!(bench.code("CreateCloudRecording", &product).await, out_of_range);
    let no_storage = with(base, "StorageParams", json!({}));
    assert_eq!(bench.code("CreateCloudRecording", &no_storage).await, "MissingParameter.CloudStorage");
}

#[tokio::test]
async fn what_the_box_does_not_do_is_refused_after_all_else_was_found_good() {
    let bench = Bench::with(Config { limits: generous(), ..door::config() });
    let vod = json!({"CloudVod": {"TencentVod": {
        "Procedure": "p", "ExpireTime": 86400, "StorageRegion": "ap-chongqing", "ClassId": 0, "SubAppId": 1500000001,
        "SessionContext": "s", "SourceContext": "s", "MediaType": 0, "UserDefineRecordId": "rec-1_a",
    }}});
    let refused = [("StorageParams", vod.clone(), "CloudVod")];
    for (path, value, named) in refused {
        let params = with(create(), path, value);
        let got = bench.call("CreateCloudRecording", &params).await;
        assert_eq!(got.code(), "UnsupportedOperation", "{path}");
        assert!(got.message().contains(named), "{}", got.message());
        let worse = with(params, "ResourceExpiredHour", json!(1));
        assert_eq!(bench.code("CreateCloudRecording", &worse).await, "InvalidParameter.OutOfRange", "{path}");
    }
    for (field, value, code) in [
        ("MediaType", json!(2), "InvalidParameter.MediaType"),
        ("MediaType", json!(5), "InvalidParameter.OutOfRange"),
        ("ExpireTime", json!(-1), "InvalidParameter.OutOfRange"),
        ("UserDefineRecordId", json!("a b"), "InvalidParameter.UserDefineRecordId"),
        ("SourceContext", json!("s".repeat(251)), "InvalidParameter.SourceContext"),
    ] {
        let params = with(
            with(create(), "StorageParams", vod.clone()),
            &format!("StorageParams/CloudVod/TencentVod/{field}"),
            value,
        );
        assert_eq!(bench.code("CreateCloudRecording", &params).await, code, "{field}");
    }
    let by_key = json!({"SdkAppId": APP.0, "TaskId": "t", "RecorderKey": "k"});
    assert_eq!(bench.code("DescribeCloudRecording", &by_key).await, "UnsupportedOperation");
    assert!(bench.heard.lock().unwrap().is_empty(), "nothing of it reached the actor");
}

#[tokio::test]
async fn vod_is_taken_where_the_box_has_keys_for_it() {
    let mut config = Config { limits: generous(), ..door::config() };
    config.vod.secret_id = Some("AKIDvod".into());
    config.vod.secret_key = Some(Secret::new("vod-secret"));
    let bench = Bench::with(config);
    let asked = |vod: Value| with(create(), "StorageParams", json!({ "CloudVod": { "TencentVod": vod } }));
    let full = json!({
        "Procedure": "p", "ExpireTime": 86400, "StorageRegion": "ap-chongqing", "ClassId": 7, "SubAppId": 1500000001,
        "SessionContext": "s", "SourceContext": "o", "MediaType": 3, "UserDefineRecordId": "rec-1_a",
    });
    assert_eq!(bench.code("CreateCloudRecording", &asked(full)).await, "ok");
    let Heard::Create { spec, keys, .. } = bench.last() else { panic!("a Create") };
    let vod = Vod {
        procedure: Some("p".into()),
        expire_seconds: 86400,
        storage_region: Some("ap-chongqing".into()),
        class_id: 7,
        sub_app: Some(1500000001),
        session_context: Some("s".into()),
        source_context: Some("o".into()),
        lists: true,
        record_id: Some("rec-1_a".into()),
    };
    assert_eq!((spec.vod(), spec.output, spec.av_merge), (Some(&vod), Output::Mp4, true));
    assert!(keys.access_key.is_empty() && keys.secret_key.is_empty(), "the box's own do");
    let plain = with(create(), "StorageParams", json!({ "CloudVod": {} }));
    assert_eq!(bench.code("CreateCloudRecording", &plain).await, "ok");
    let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
    assert_eq!((spec.vod(), spec.output, spec.av_merge), (Some(&Vod::default()), Output::Mp4, false));
    for (media_type, output, lists) in [(1, Output::Lists, true), (2, Output::Aac, false), (4, Output::Aac, true)] {
        // OutputFormat means nothing here
        let params = with(asked(json!({ "MediaType": media_type })), "RecordParams/OutputFormat", json!(1));
        let params = with(params, "RecordParams/StreamType", json!(1));
        assert_eq!(bench.code("CreateCloudRecording", &params).await, "ok");
        let Heard::Create { spec, .. } = bench.last() else { panic!("a Create") };
        assert_eq!((spec.output, spec.vod().map(|vod| vod.lists)), (output, Some(lists)), "{media_type}");
        assert_eq!(spec.streams, StreamType::Audio);
    }
    let both = with(create(), "StorageParams/CloudVod", json!({}));
    assert_eq!(bench.code("CreateCloudRecording", &both).await, "InvalidParameter.StorageParams");
}

#[tokio::test]
async fn the_other_actions_check_their_fields() {
    let bench = Bench::with(Config { limits: generous(), ..door::config() });
    let users = |users: Value| json!({"SdkAppId": APP.0, "RoomId": 1, "UserIds": users});
    for (action, params, code) in [
        ("DescribeCloudRecording", json!({"SdkAppId": APP.0}), "MissingParameter.TaskId"),
        ("DescribeCloudRecording", json!({"SdkAppId": APP.0, "TaskId": "-abc"}), "InvalidParameter.TaskId"),
        ("DescribeCloudRecording", json!({"SdkAppId": APP.0, "TaskId": "a/b"}), "InvalidParameter.TaskId"),
        ("DeleteCloudRecording", json!({"TaskId": "t"}), "MissingParameter.SdkAppId"),
        (
            "ModifyCloudRecording",
            json!({"SdkAppId": APP.0, "TaskId": "t", "MixLayoutParams": {}}),
            "MissingParameter.MixLayoutMode",
        ),
        ("ModifyCloudRecording", json!({"SdkAppId": APP.0, "TaskId": "t", "MixLayoutParams": layout()}), "ok"),
        ("RemoveUser", users(json!(vec!["a"; 10])), "ok"),
        ("RemoveUser", users(json!(vec!["a"; 11])), "InvalidParameter.UserIds"),
        ("RemoveUser", users(json!([])), "MissingParameter.UserIds"),
        ("RemoveUser", users(json!([""])), "InvalidParameter.UserIds"),
        ("RemoveUser", json!({"SdkAppId": APP.0, "RoomId": "1", "UserIds": ["a"]}), "InvalidParameter.RoomId"),
        ("RemoveUser", json!({"SdkAppId": APP.0, "RoomId": 0, "UserIds": ["a"]}), "InvalidParameter.RoomId"),
        ("RemoveUserByStrRoomId", json!({"SdkAppId": APP.0, "RoomId": 1, "UserIds": ["a"]}), "InvalidParameter.RoomId"),
        (
            "RemoveUserByStrRoomId",
            json!({"SdkAppId": APP.0, "RoomId": "室", "UserIds": ["a"]}),
            "InvalidParameter.RoomId",
        ),
        ("DismissRoom", json!({"SdkAppId": APP.0}), "MissingParameter.RoomId"),
        ("DismissRoom", json!({"SdkAppId": APP.0, "RoomId": 4294967295u32}), "InvalidParameter.RoomId"),
        ("DismissRoomByStrRoomId", json!({"SdkAppId": APP.0, "RoomId": ""}), "MissingParameter.RoomId"),
    ] {
        assert_eq!(bench.code(action, &params).await, code, "{action} {params}");
    }
}

#[tokio::test]
async fn every_outcome_of_the_actor_has_its_code() {
    let bench = Bench::new();
    for (error, code) in [
        (Error::TaskUnknown, "ResourceNotFound"),
        (Error::RoomUnknown, "FailedOperation.RoomNotExist"),
        (Error::TooManyTasks { running: 100, limit: 100 }, "FailedOperation.RestrictedConcurrency"),
        (Error::BoardFull(Overload::NoEncoder), "FailedOperation.RestrictedConcurrency"),
        (Error::RecorderInUse, "InvalidParameter.UserId"),
        (Error::CallsExpired, "ResourceNotFound"),
        (Error::NotMixed, "FailedOperation.NotAllowed"),
        (Error::DiskFull("/var/lib/x".into()), "ResourceInsufficient.RequestRejection"),
        (Error::DiskFailed("/var/lib/x: EIO".into()), "InternalError.CRInternalError"),
        (Error::Busy, "ResourceInsufficient.RequestRejection"),
        (Error::ShuttingDown, "ResourceInsufficient.RequestRejection"),
        (Error::Store("/var/lib/x: EIO".into()), "InternalError.CRInternalError"),
        (Error::Spool("/var/lib/x: ENOSPC".into()), "InternalError.CRInternalError"),
    ] {
        bench.fail.lock().unwrap().push_back(error);
        let got = bench.call("CreateCloudRecording", &create()).await;
        assert_eq!(got.code(), code);
        assert!(!got.text().contains("/var/lib"), "{}", got.text());
    }
}

#[test]
fn the_code_table_is_the_golden_one() {
    let mut codes: Vec<Code> = Code::PLAIN.to_vec();
    let names: BTreeSet<&'static str> = schema::all_names();
    codes.extend(names.iter().map(|name| Code::Invalid(name)));
    codes.extend(names.iter().chain(&["Action", "Version"]).map(|name| Code::Missing(name)));
    let mut lines: Vec<String> = codes
        .iter()
        .map(|code| {
            let whose = if code.whose() == Whose::Caller { "caller" } else { "box" };
            format!("{} {whose} {}", code.text(), if code.retryable() { "later" } else { "no" })
        })
        .collect();
    lines.sort();
    lines.dedup();
    golden(
        "error_codes.txt",
        &format!("# code, whose fault, whether the same request may succeed later\n{}\n", lines.join("\n")),
    );
}

#[tokio::test]
async fn only_signed_requests_are_taken() {
    let bench = Bench::new();
    let body = json!({"SdkAppId": APP.0, "TaskId": "t"}).to_string();
    let good = || signed("DescribeCloudRecording", body.as_bytes(), API_ID, API_KEY);
    let authorized = |value: Option<&str>| {
        let mut request = good();
        request.headers_mut().remove("authorization");
        if let Some(value) = value {
            request.headers_mut().insert("authorization", value.parse().unwrap());
        }
        request
    };
    assert_eq!(bench.send(good()).await.code(), "ok");
    let described = "DescribeCloudRecording";
    let mut late = good();
    late.headers_mut().insert("x-tc-timestamp", (NOW - 301).to_string().parse().unwrap());
    let mut changed = good();
    *changed.body_mut() = Body::from(body.replace("\"t\"", "\"u\""));
    for (request, code) in [
        (authorized(None), "AuthFailure.InvalidAuthorization"),
        (authorized(Some("SKIP")), "AuthFailure.InvalidAuthorization"),
        (authorized(Some("Bearer x")), "AuthFailure.InvalidAuthorization"),
        (authorized(Some("TC3-HMAC-SHA256 nonsense")), "AuthFailure.InvalidAuthorization"),
        (signed(described, body.as_bytes(), "AKIDNOBODY", API_KEY), "AuthFailure.SecretIdNotFound"),
        (signed(described, body.as_bytes(), API_ID, "wrong"), "AuthFailure.SignatureFailure"),
        (late, "AuthFailure.SignatureExpire"),
        (changed, "AuthFailure.SignatureFailure"),
    ] {
        assert_eq!(bench.send(request).await.code(), code);
    }
    assert_eq!(bench.heard.lock().unwrap().len(), 1);

    let nobody = Bench::with(Config { api_keys: Vec::new(), ..door::config() });
    assert_eq!(nobody.send(good()).await.code(), "AuthFailure.SecretIdNotFound");
}

#[tokio::test]
async fn the_sdks_recorded_requests_are_taken_as_they_came() {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let open = Config { apps: Vec::new(), ..door::config() };
    let bench = Bench::with(open);
    let mut outcomes = Vec::new();
    for entry in vectors["requests"].as_array().unwrap() {
        let text = |name: &str| entry[name].as_str().unwrap();
        let mut request = Request::builder().method(text("method")).uri(text("target"));
        let mut stamp = url::form_urlencoded::parse(text("body").as_bytes())
            .find(|(name, _)| name == "Timestamp")
            .and_then(|(_, value)| value.parse::<i64>().ok());
        for header in entry["headers"].as_array().unwrap() {
            let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
            if name == "X-TC-Timestamp" {
                stamp = value.parse().ok();
            }
            request = request.header(name, value);
        }
        *bench.now.lock().unwrap() = Timestamp::from_ms(stamp.expect("a timestamp") * 1000);
        let got = bench.send(request.body(Body::from(text("body").to_owned())).unwrap()).await;
        outcomes.push((got.code(), got.message()));
    }
    let codes: Vec<&str> = outcomes.iter().map(|(code, _)| code.as_str()).collect();
    // The recorded room has a character that a string room must not have.
    assert_eq!(
        codes,
        ["InvalidParameter.RoomId", "InvalidParameter.RoomId", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok"],
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn forms_and_queries_are_restored() {
    let bench = Bench::new();
    let flat = |action: &str, more: &[(&str, &str)]| {
        let mut params: Vec<(String, String)> = [
            ("Action", action),
            ("Version", "2019-07-22"),
            ("Timestamp", &NOW.to_string()),
            ("Nonce", "5"),
            ("SecretId", API_ID),
            ("SignatureMethod", "HmacSHA256"),
            ("RequestClient", "test"),
            ("Region", "ap-guangzhou"),
        ]
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        params.shrink_to_fit();
        params
    };
    let encode = |method: &str, mut params: Vec<(String, String)>| {
        let signature = sign_v1(V1Method::HmacSha256, &Secret::new(API_KEY), method, "box.lan", &params);
        params.push(("Signature".into(), signature));
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
    };
    let sig = door::user_sig("rec_bot");
    let create = flat(
        "CreateCloudRecording",
        &[
            ("SdkAppId", "1400000001"),
            ("RoomId", "7"),
            ("UserId", "rec_bot"),
            ("UserSig", &sig),
            ("RecordParams.RecordMode", "1"),
            ("RecordParams.SubscribeStreamUserIds.SubscribeAudioUserIds.0", "a b&c"),
            ("StorageParams.CloudStorage.Vendor", "1"),
            ("StorageParams.CloudStorage.Region", "us-east-1"),
            ("StorageParams.CloudStorage.Bucket", "b"),
            ("StorageParams.CloudStorage.AccessKey", "1234"),
            ("StorageParams.CloudStorage.SecretKey", "k+/="),
            ("StorageParams.CloudStorage.FileNamePrefix.0", "1"),
            ("StorageParams.CloudStorage.FileNamePrefix.1", "2"),
            ("MixLayoutParams.MixLayoutMode", "3"),
            ("MixLayoutParams.PureAudioDisableLayout", "True"),
        ],
    );
    let form = |body: String| {
        Request::post("/")
            .header("Host", "box.lan:8080")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Body::from(body))
            .unwrap()
    };
    let got = bench.send(form(encode("POST", create.clone()))).await;
    assert_eq!(got.code(), "ok", "{}", got.message());
    let Heard::Create { spec, keys, .. } = bench.last() else { panic!("a Create") };
    assert_eq!(spec.destination.prefix, ["1", "2"]);
    assert_eq!(keys.access_key.expose(), "1234");
    assert_eq!(spec.subscription.audio, Subscribers::Only(vec!["a b&c".into()]));

    let query = |text: String| Request::get(format!("/?{text}")).header("Host", "box.lan").body(Body::empty()).unwrap();
    assert_eq!(bench.send(query(encode("GET", create.clone()))).await.code(), "ok");
    // Signed for the other method.
    assert_eq!(bench.send(query(encode("POST", create))).await.code(), "AuthFailure.SignatureFailure");
    let twice = flat("DeleteCloudRecording", &[("SdkAppId", "1"), ("SdkAppId", "2"), ("TaskId", "t")]);
    assert_eq!(bench.send(query(encode("GET", twice.clone()))).await.code(), "InvalidParameter.UrlParamsError");
    assert_eq!(bench.send(form(encode("POST", twice))).await.code(), "InvalidParameter.BodyParamsError");
    let letters = flat("DeleteCloudRecording", &[("SdkAppId", "x"), ("TaskId", "t")]);
    assert_eq!(bench.send(query(encode("GET", letters))).await.code(), "InvalidParameter.SdkAppId");
    let unknown = flat("DeleteCloudRecording", &[("SdkAppId", "1400000001"), ("TaskId", "t"), ("More.0", "t")]);
    assert_eq!(bench.send(query(encode("GET", unknown))).await.code(), "UnknownParameter");
}

#[tokio::test]
async fn action_version_and_method_are_checked() {
    let bench = Bench::new();
    let body = json!({"SdkAppId": APP.0, "TaskId": "t"}).to_string();
    for action in ["CreateCloudModeration", "describecloudrecording", "DescribeCloudRecording "] {
        let code = bench.send(signed(action.trim(), body.as_bytes(), API_ID, API_KEY)).await.code();
        assert_eq!(code, if action.ends_with(' ') { "ok" } else { "InvalidAction" });
    }
    let changed = |name: &'static str, value: Option<&str>| {
        let mut request = signed("DescribeCloudRecording", body.as_bytes(), API_ID, API_KEY);
        request.headers_mut().remove(name);
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    for (request, code) in [
        (changed("x-tc-version", Some("2017-03-12")), "NoSuchVersion"),
        (changed("x-tc-version", None), "MissingParameter.Version"),
        (changed("x-tc-action", None), "MissingParameter.Action"),
    ] {
        assert_eq!(bench.send(request).await.code(), code);
    }
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
        let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
        assert_eq!(bench.send(request).await.code(), "UnsupportedProtocol", "{method}");
    }
    let bare = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(bench.send(bare).await.code(), "AuthFailure.InvalidAuthorization");
    let person = Request::get("/").header("Accept", "text/html,*/*;q=0.8").body(Body::empty()).unwrap();
    let got = bench.send(person).await;
    assert_eq!((got.status, got.header("location")), (StatusCode::SEE_OTHER, "/console"));
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_named() {
    let bench = Bench::new();
    for (body, named) in [
        (&b"\xef\xbb\xbf{}"[..], "byte order mark"),
        (b"{\"a\":\"\xff\"}", "UTF-8"),
        (b"{", "line 1"),
        (b"[]", "object"),
        (b"", "empty"),
        (b"null", "object"),
    ] {
        let got = bench.send(signed("DescribeCloudRecording", body, API_ID, API_KEY)).await;
        assert_eq!(got.code(), "InvalidParameter.BodyParamsError");
        assert!(got.message().contains(named), "{}", got.message());
    }
    let deep = "[".repeat(100_000);
    let got = bench.send(signed("DescribeCloudRecording", deep.as_bytes(), API_ID, API_KEY)).await;
    assert_eq!(got.code(), "InvalidParameter.BodyParamsError");
    let mut form = signed("DescribeCloudRecording", b"SdkAppId=1", API_ID, API_KEY);
    form.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    // The content type was signed, so this is no good signature either way; a form with a good one is refused as such.
    assert_eq!(bench.send(form).await.code(), "AuthFailure.SignatureFailure");
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let bench = Bench::new();
    let large = vec![b' '; 10 * 1024 * 1024 + 1];
    let got = bench.send(signed("DescribeCloudRecording", &large, API_ID, API_KEY)).await;
    assert_eq!(got.code(), "RequestSizeLimitExceeded");
    let got = bench.send(signed("DescribeCloudRecording", &large[1..], API_ID, API_KEY)).await;
    assert_eq!(got.code(), "InvalidParameter.BodyParamsError");
    let form = |length: usize| {
        Request::post("/")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Body::from(vec![b'a'; length]))
            .unwrap()
    };
    assert_eq!(bench.send(form(1024 * 1024 + 1)).await.code(), "RequestSizeLimitExceeded");
    assert_eq!(bench.send(form(1024 * 1024)).await.code(), "AuthFailure.InvalidAuthorization");
    let query = |length: usize| Request::get(format!("/?{}", "a".repeat(length))).body(Body::empty()).unwrap();
    assert_eq!(bench.send(query(32 * 1024 + 1)).await.code(), "RequestSizeLimitExceeded");
    assert_eq!(bench.send(query(32 * 1024)).await.code(), "AuthFailure.InvalidAuthorization");
}

#[tokio::test]
async fn the_rate_of_each_action_is_limited() {
    let bench = Bench::with(Config {
        limits: holdfast::config::Limits { requests_per_second: 3, ..Default::default() },
        ..door::config()
    });
    let params = json!({"SdkAppId": APP.0, "TaskId": "t"});
    let began = std::time::Instant::now();
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(bench.code("DescribeCloudRecording", &params).await);
    }
    let passed = codes.iter().filter(|code| *code == "ok").count();
    let most = 3 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 1);
    assert!((3..=most).contains(&passed), "{codes:?}");
    assert!(codes.iter().all(|code| code == "ok" || code == "RequestLimitExceeded"));
    assert_eq!(bench.code("DeleteCloudRecording", &params).await, "ok");
    // Strangers do not use up the rate of those who may call.
    let stranger = || signed("RemoveUser", b"{}", API_ID, "wrong");
    for _ in 0..5 {
        assert_eq!(bench.send(stranger()).await.code(), "AuthFailure.SignatureFailure");
    }
    let remove = json!({"SdkAppId": APP.0, "RoomId": 1, "UserIds": ["a"]});
    assert_eq!(bench.code("RemoveUser", &remove).await, "ok");
}

#[tokio::test]
async fn applications_and_keys_belong_together() {
    let bench = Bench::new();
    let describe = |app: u32| json!({"SdkAppId": app, "TaskId": "t"}).to_string();
    let by = |id: &str, key: &str, app: u32| signed("DescribeCloudRecording", describe(app).as_bytes(), id, key);
    assert_eq!(bench.send(by(API_ID, API_KEY, APP.0)).await.code(), "ok");
    assert_eq!(bench.send(by(API_ID, API_KEY, 1400000099)).await.code(), "InvalidParameter.SdkAppId");
    assert_eq!(bench.send(by(OTHER_ID, OTHER_KEY, KEYLESS_APP.0)).await.code(), "ok");
    assert_eq!(bench.send(by(OTHER_ID, OTHER_KEY, APP.0)).await.code(), "UnauthorizedOperation.SdkAppId");
    let open = Bench::with(Config { apps: Vec::new(), ..door::config() });
    assert_eq!(open.send(by(API_ID, API_KEY, 99)).await.code(), "ok");
}

#[tokio::test]
async fn the_recorders_tickets_are_checked_where_there_is_a_key() {
    let bench = Bench::new();
    let now = |late: i64| Timestamp::from_ms((NOW + late) * 1000);
    let coded = async |params: Value| {
        let got = bench.call("CreateCloudRecording", &params).await;
        (got.code(), got.message())
    };
    for (sig, told) in [
        (gen_user_sig(APP_KEY, APP, "somebody", now(0), 3600), "another user"),
        (gen_user_sig(APP_KEY, KEYLESS_APP, "rec_bot", now(0), 3600), "another application"),
        (gen_user_sig(APP_KEY, APP, "rec_bot", now(-3600), 3600), "expired"),
        (gen_user_sig("other key", APP, "rec_bot", now(0), 3600), "secret key"),
    ] {
        let (code, message) = coded(with(create(), "UserSig", json!(sig))).await;
        assert_eq!(code, "InvalidParameter.UserSig");
        assert!(message.contains(told), "{message}");
    }
    let mut keyless = with(create(), "SdkAppId", json!(KEYLESS_APP.0));
    keyless["UserSig"] = json!("whatever");
    assert_eq!(coded(keyless.clone()).await.0, "ok");
    keyless["PrivateMapKey"] = json!("whatever");
    assert_eq!(coded(keyless).await.0, "InvalidParameter.PrivateMapKey");

    let map = |number: u32| PrivateMap {
        account: "rec_bot".into(),
        app: APP,
        room: PrivateRoom::Number(number),
        expires_at: u32::try_from(NOW + 60).unwrap(),
        privileges: 42,
    };
    let ticket = |number: u32| json!(gen_private_map_key(APP_KEY, &map(number), now(0), 60));
    assert_eq!(coded(with(create(), "PrivateMapKey", ticket(7))).await.0, "ok");
    let (code, message) = coded(with(create(), "PrivateMapKey", ticket(8))).await;
    assert_eq!(code, "InvalidParameter.PrivateMapKey");
    assert!(message.contains("another room"), "{message}");
}

#[tokio::test]
async fn no_secret_is_printed() {
    let printed = std::sync::Arc::new(std::sync::Mutex::new(Vec::<u8>::new()));
    #[derive(Clone)]
    struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink(printed.clone());
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || sink.clone()).finish();
    // For the whole process: the other tests' calls are printed too, and hold the same secrets.
    tracing::subscriber::set_global_default(subscriber).expect("the first subscriber");
    let bench = Bench::new();
    let sig = create()["UserSig"].as_str().unwrap().to_owned();
    assert_eq!(bench.code("CreateCloudRecording", &create()).await, "ok");
    for path in ["RecordParams", "StorageParams/CloudStorage/Bucket", "StorageParams/CloudStorage/SecretKey", "UserSig"]
    {
        assert_ne!(bench.code("CreateCloudRecording", &with(create(), path, json!([]))).await, "ok");
    }
    bench.fail.lock().unwrap().push_back(Error::Store("disk".into()));
    assert_ne!(bench.code("CreateCloudRecording", &create()).await, "ok");
    let heard = format!("{:?}", bench.heard.lock().unwrap());
    let text = String::from_utf8(printed.lock().unwrap().clone()).unwrap();
    assert!(text.matches("CreateCloudRecording").count() >= 6, "{text}");
    for secret in ["sk+/=&storage", "AKIDstorage", sig.as_str(), API_KEY, APP_KEY, "Signature="] {
        assert!(!text.contains(secret), "{text}");
        assert!(!heard.contains(secret));
    }
}
