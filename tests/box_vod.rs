//! VOD through the whole box: asked for by the SDK, recorded from WebRTC, on the platform after the end, and told of.

#[path = "support/proxy.rs"]
mod proxy;
mod support;

use std::path::{Path, PathBuf};

use proxy::{Mode, Proxy};
use serde_json::{Value, json};
use support::bucket::{Kind, S3};
use support::publisher::Sends;
use support::receiver::Callback;
use support::recorded::Playlist;
use support::scene::{Scene, until};
use support::sdk::create_params;
use support::vod::{SUB_APP, VodServer, media_url};
use support::{ACCESS_KEY, APP, SECRET_KEY, probe};

/// `clinic` and `dr-wang` as names have them.
const STEM: &str = "Y2xpbmlj__UserId_s_ZHItd2FuZw..__UserId_e_main";

struct Stage {
    scene: Scene,
    vod: VodServer,
    /// Between box and VOD's API.
    line: Proxy,
}

impl Stage {
    /// `grace`: seconds until a file that is not there is told of.
    async fn new(grace: u64) -> Stage {
        let s3 = S3::start(Kind::S3sFs).await;
        let vod = VodServer::start(&s3.endpoint, (ACCESS_KEY, SECRET_KEY)).await;
        let line = Proxy::to(&vod.api, Mode::Pass).await;
        let table = vod.table(&line.endpoint);
        let scene = Scene::with(Some(s3), |s| {
            s.segment_seconds = 2;
            s.upload_grace_seconds = grace;
            s.more = table;
        })
        .await;
        Stage { scene, vod, line }
    }

    /// Awaits that the shelf holds this many segments of the task.
    async fn has_segments(&self, task: &str, n: usize) {
        let dir = self.scene.daemon.spool_dir().join(task);
        until("segments on the shelf", || async {
            let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            (files.filter(|f| f.file_name().to_string_lossy().ends_with(".ts")).count() >= n).then_some(())
        })
        .await;
    }

    /// Awaits the task's 312 of this status; answers with its 311s up to then.
    async fn stopped(&self, task: &str, status: u8) -> Vec<Callback> {
        let stopped = |c: &&Callback| c.event() == 312 && c.payload()["Status"] == status;
        let what = format!("312 with {status}");
        self.scene.receiver.wait_for(&what, |_| self.scene.receiver.of(task).iter().find(stopped).map(drop)).await;
        self.scene.receiver.of(task).into_iter().filter(|c| c.event() == 311).collect()
    }

    /// What the platform has of a file that 311 told of, as a file.
    async fn media(&self, told: &Callback, dir: &Path, name: &str) -> PathBuf {
        let vod = &told.payload()["TencentVod"];
        let file_id = vod["FileId"].as_str().expect("a FileId");
        assert_eq!(vod["VideoUrl"], media_url(file_id));
        let media = self.vod.medias().into_iter().find(|m| m.file_id.as_deref() == Some(file_id)).expect("it is there");
        let path = dir.join(name);
        std::fs::write(&path, self.vod.object(&media.key).await).expect("the folder is ours");
        path
    }

    fn assert_silent(&self) {
        let (log, secrets) = (self.scene.daemon.log(), self.vod.secrets());
        assert!(secrets.len() >= 4, "{secrets:?}");
        let told: String = self.scene.receiver.taken().iter().map(|c| c.body.clone()).collect();
        let mut folders = vec![self.scene.daemon.state_dir()];
        let mut kept = Vec::new();
        while let Some(folder) = folders.pop() {
            // the box forgets a task meanwhile, and its folder goes
            for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                match path.is_dir() {
                    true => folders.push(path),
                    false => kept.push((path.clone(), std::fs::read(&path).unwrap_or_default())),
                }
            }
        }
        assert!(!kept.is_empty(), "the box keeps something");
        for secret in &secrets {
            assert!(!log.contains(secret), "the log holds {secret}");
            assert!(!told.contains(secret), "a callback holds {secret}");
            for (path, bytes) in &kept {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} holds {secret}", path.display());
            }
        }
        self.vod.assert_by_the_rules();
    }
}

fn to_vod(vod: Value) -> impl FnOnce(&mut Value) {
    move |p| p["StorageParams"] = json!({ "CloudVod": { "TencentVod": vod } })
}

/// mp4 with everything that can be asked; the events of the source and no others.
#[tokio::test(flavor = "multi_thread")]
async fn an_mp4_gets_its_address() {
    let stage = Stage::new(60).await;
    let (scene, vod) = (&stage.scene, &stage.vod);
    let both = scene.sdk.create("clinic", "recorder", |p| {
        p["StorageParams"]["CloudVod"] = json!({ "TencentVod": { "SubAppId": SUB_APP } });
    });
    assert_eq!(both.await.expect_err("both exclude each other").code, "InvalidParameter.StorageParams");
    // flattened, as older clients send it
    let mut params = create_params("clinic", "recorder", &scene.sdk.user_sig("recorder").await);
    to_vod(json!({
        "Procedure": "LongVideoPreset", "ExpireTime": 86_400, "StorageRegion": "ap-chongqing", "ClassId": 7,
        "SubAppId": SUB_APP, "SessionContext": "visit 12", "SourceContext": "clinic", "MediaType": 0,
        "UserDefineRecordId": "rec-1",
    }))(&mut params);
    let answer = scene.sdk.call_as("HmacSHA256", "POST", "CreateCloudRecording", params).await.expect("a task");
    let task = answer["TaskId"].as_str().expect("an id").to_owned();
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    stage.has_segments(&task, 4).await;
    assert_eq!(scene.sdk.describe(&task).await.expect("it records")["StorageFileList"], json!([]));
    scene.sdk.delete(&task).await.expect("it runs");
    let told = stage.stopped(&task, 0).await;
    let [told] = &told[..] else { panic!("one file, one 311: {told:?}") };
    let file_id = vod.medias()[0].file_id.clone().expect("committed");
    assert_eq!(
        *told.payload(),
        json!({ "Status": 0, "TencentVod": {
            "UserId": "dr-wang", "TrackType": "audio_video", "MediaId": "main",
            "FileId": file_id, "VideoUrl": media_url(&file_id),
        } })
    );
    assert_eq!(scene.receiver.events(&task), [301, 302, 311, 312]);
    let asked = &vod.medias()[0].asked;
    assert_eq!(asked["MediaName"], format!("rec-1__UserDefine_u_{APP}_{STEM}.mp4"));
    assert_eq!((asked["MediaType"].clone(), asked["ClassId"].clone()), (json!("mp4"), json!(7)));
    let dir = tempfile::tempdir().expect("a folder");
    let file = stage.media(told, dir.path(), "a.mp4").await;
    assert_eq!(probe::decode_errors(&file), "");
    assert!(
        probe::packets(&file, probe::Stream::Video).len() > 60
            && probe::packets(&file, probe::Stream::Audio).len() > 60
    );
    assert_eq!(vod.uploads().len(), 1);
    scene.gone(&task).await;
    stage.assert_silent();
}

/// hls+mp4 while the platform is away, over a kill: told as left behind, then as arrived, and nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_is_told_and_waited_for() {
    let mut stage = Stage::new(2).await;
    let ask = to_vod(json!({ "MediaType": 3, "SubAppId": SUB_APP }));
    let task = stage.scene.sdk.create("clinic", "recorder", ask).await.expect("a task");
    let _publisher = stage.scene.publish("clinic", "dr-wang", Sends::default()).await;
    stage.has_segments(&task, 3).await;
    stage.line.set(Mode::Answer(503, "Scripted"));
    stage.scene.sdk.delete(&task).await.expect("it runs");
    let waits = stage.stopped(&task, 1).await;
    let names: Vec<Value> = waits.iter().map(|c| c.payload()["TencentVod"]["CacheFile"].clone()).collect();
    assert_eq!(names, [json!(format!("{APP}_{STEM}.mp4")), json!(format!("{APP}_{STEM}_audiovideo.m3u8"))]);
    for told in &waits {
        let payload = told.payload();
        assert_eq!((payload["Status"].clone(), payload["TencentVod"]["FileId"].clone()), (json!(1), Value::Null));
        assert!(!payload["Errmsg"].as_str().expect("a reason").is_empty(), "{payload}");
    }
    stage.scene.daemon.kill().await;
    stage.line.set(Mode::Pass);
    stage.scene.daemon.start_again().await;
    let told = stage.stopped(&task, 0).await;
    let [mp4, list] = &told[2..] else { panic!("two more: {told:?}") };
    let (mp4, list) = match stage.vod.medias().iter().find(|m| m.asked["MediaType"] == "mp4").map(|m| m.file_id.clone())
    {
        Some(Some(id)) if mp4.payload()["TencentVod"]["FileId"] == id.as_str() => (mp4, list),
        _ => (list, mp4),
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = stage.media(mp4, dir.path(), "a.mp4").await;
    let text = std::fs::read_to_string(stage.media(list, dir.path(), "f0.m3u8").await).expect("a list is text");
    let playlist = Playlist::parse(&text);
    assert!(playlist.ended && !playlist.segments.is_empty(), "{text}");
    let key = stage.vod.medias().into_iter().find(|m| m.asked["MediaType"] == "m3u8").expect("a list").key;
    let folder = key.rsplit_once('/').expect("a folder").0.to_owned();
    for segment in &playlist.segments {
        let bytes = stage.vod.object(&format!("{folder}/{}", segment.name)).await;
        std::fs::write(dir.path().join(&segment.name), bytes).expect("the folder is ours");
    }
    let seen = |path: &Path| [probe::Stream::Video, probe::Stream::Audio].map(|s| probe::packets(path, s).len());
    let (there, here) = (seen(&dir.path().join("f0.m3u8")), seen(&file));
    assert_eq!(there[0], here[0], "every picture is in both");
    assert!(there[1] > 60, "sound and picture are in one list: {there:?}");
    assert_eq!(stage.vod.medias().len(), 2);
    let events = stage.scene.receiver.events(&task);
    assert!(!events.iter().any(|event| matches!(event, 303..=305 | 307 | 310)), "{events:?}");
    stage.assert_silent();
}

/// hls+aac of sound alone; what the platform refuses is told as failed, and goes when it takes it after all.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_as_a_failure_and_mended() {
    let stage = Stage::new(60).await;
    let sound = |media_type: u8| {
        move |p: &mut Value| {
            to_vod(json!({ "MediaType": media_type, "SubAppId": SUB_APP }))(p);
            p["RecordParams"]["StreamType"] = json!(1);
        }
    };
    let with_pictures = stage.scene.sdk.create("clinic", "recorder", to_vod(json!({ "MediaType": 2 }))).await;
    assert_eq!(with_pictures.expect_err("aac is of sound").code, "InvalidParameter.MediaType");
    let task = stage.scene.sdk.create("clinic", "recorder", sound(4)).await.expect("hls+aac");
    let other = stage.scene.sdk.create("clinic", "recorder2", sound(1)).await.expect("hls");
    let _publisher = stage.scene.publish("clinic", "dr-wang", Sends::default()).await;
    stage.has_segments(&task, 2).await;
    stage.has_segments(&other, 2).await;
    stage.vod.refuse("ApplyUpload", "InvalidParameterValue.ClassId");
    stage.scene.sdk.delete(&task).await.expect("it runs");
    let told = stage.stopped(&task, 0).await;
    let failed: Vec<&Callback> = told.iter().filter(|c| c.payload()["Status"] == 2).collect();
    let [failed] = failed[..] else { panic!("one was refused: {told:?}") };
    let errmsg = failed.payload()["Errmsg"].as_str().expect("a reason");
    assert!(errmsg.starts_with("InvalidParameterValue.ClassId: "), "{errmsg}");
    let there: Vec<&Callback> = told.iter().filter(|c| c.payload()["Status"] == 0).collect();
    assert_eq!(there.len(), 2, "{told:?}");
    for told in &there {
        assert_eq!(told.payload()["TencentVod"]["TrackType"], "audio");
    }
    let types = |vod: &VodServer| {
        let mut types: Vec<String> = vod.medias().iter().map(|m| m.asked["MediaType"].to_string()).collect();
        types.sort();
        types
    };
    assert_eq!(types(&stage.vod), ["\"aac\"", "\"m3u8\""]);
    stage.scene.sdk.delete(&other).await.expect("it runs");
    let told = stage.stopped(&other, 0).await;
    assert_eq!(told.iter().filter(|c| c.payload()["Status"] == 0).count(), 1, "{told:?}");
    assert_eq!(types(&stage.vod), ["\"aac\"", "\"m3u8\"", "\"m3u8\""]);
    stage.assert_silent();
}
