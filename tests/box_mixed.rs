//! A mixed recording of the whole box: WebRTC in, the official SDK to ask for it, a bucket to hold it, and players to
//! read it.

mod support;

use std::path::Path;
use std::process::Command;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use support::browser::{Browser, Origin};
use support::publisher::Sends;
use support::recorded::Lane;
use support::scene::{Scene, assert_story, until};
use support::{APP, output_of, probe, program};

const KIND: &str = "audiovideo";
/// `clinic` as names have it.
const ROOM: &str = "Y2xpbmlj";
const FPS: u32 = 15;

/// Colours (RGB) that no publisher sends over a whole place.
const BLUE: [u8; 3] = [32, 64, 192];
const RED: [u8; 3] = [220, 20, 20];
const BLACK: [u8; 3] = [0, 0, 0];

/// A server of one picture on loopback, all red.
struct Images {
    address: String,
    server: tokio::task::JoinHandle<()>,
}

impl Images {
    async fn start() -> Images {
        let [r, g, b] = RED;
        let mut draw = Command::new(program("ffmpeg"));
        draw.args(["-v", "error", "-f", "lavfi", "-i", &format!("color=0x{r:02x}{g:02x}{b:02x}:s=64x64")]);
        let png = output_of(draw.args(["-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-"]));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound").to_string();
        let router = Router::new()
            .route("/red.png", get(move || std::future::ready(png.clone())))
            .fallback(|| std::future::ready((StatusCode::NOT_FOUND, "there is no such picture")));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives as long as the test");
        });
        Images { address, server }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// The box may fetch from here.
    const ALLOWED: &str = "[images]\nallow = ['127.0.0.0/8']\nretry_first_seconds = 1\nretry_longest_seconds = 2\n";
}

impl Drop for Images {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Asks for a mixed recording of the room `clinic` on blue.
async fn create(scene: &Scene, change: impl FnOnce(&mut Value)) -> String {
    let task = scene.sdk.create("clinic", "recorder", |p| {
        p["RecordParams"]["RecordMode"] = json!(2);
        p["MixTranscodeParams"] = json!({
            "VideoParams": { "Width": 640, "Height": 360, "Fps": FPS, "BitRate": 800_000, "Gop": 2 },
            "AudioParams": { "SampleRate": 1, "Channel": 2, "BitRate": 64_000 },
        });
        p["MixLayoutParams"] = json!({ "MixLayoutMode": 3, "BackGroundColor": "#2040C0" });
        change(p);
    });
    task.await.expect("a mixed recording")
}

/// Colours of the recording's pictures in cells of ten by ten pixels, row by row, 64 to a row.
fn mosaic(file: &Path) -> Vec<Vec<[u8; 3]>> {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    command.args(["-an", "-vsync", "passthrough", "-vf", "scale=64:36:flags=area,format=rgb24", "-f", "rawvideo", "-"]);
    let cells = |picture: &[u8]| picture.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    output_of(&mut command).chunks_exact(64 * 36 * 3).map(cells).collect()
}

fn is(found: [u8; 3], colour: [u8; 3]) -> bool {
    found.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 28)
}

/// Every cell of this part (x, y, width, height in cells) has the colour.
fn filled(picture: &[[u8; 3]], (x, y, width, height): (usize, usize, usize, usize), colour: [u8; 3]) -> bool {
    (y..y + height).all(|row| picture[row * 64 + x..row * 64 + x + width].iter().all(|cell| is(*cell, colour)))
}

/// The lane of a mixed recording: one, of one run, whose pictures follow each other exactly.
fn assert_unbroken(lane: &Lane) {
    lane.assert_sound();
    assert_eq!(lane.playlist.discontinuities(), 0, "{}", lane.playlist.text);
    assert_eq!(lane.playlist.sizes, ["WIDTH:640 HEIGHT:360"], "{}", lane.playlist.text);
    let packets = lane.packets(probe::Stream::Video).concat();
    for pair in packets.windows(2) {
        let step = pair[1].pts - pair[0].pts;
        assert!((step - 1.0 / f64::from(FPS)).abs() < 1e-3, "{} after {}", pair[1].pts, pair[0].pts);
    }
    let played = probe::frames(&lane.joined(), probe::Stream::Video).len();
    assert_eq!(played, packets.len(), "a player shows every picture");
    assert_eq!(probe::decode_errors(&lane.joined()), "");
}

/// Create, Modify in mid-recording, Delete: one file without a cut, named and described as the cloud would. An image
/// that does not come is told, and costs nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn two_people_become_one_file_and_modify_does_not_cut_it() {
    let images = Images::start().await;
    let scene = Scene::new(|s| s.more = Images::ALLOWED.into()).await;
    let missing = images.url("missing.png");
    let task = create(&scene, |p| {
        let mark = |url: &str, left| {
            json!({ "WaterMarkType": 0, "WaterMarkImage":
            { "WaterMarkUrl": url, "Top": 280, "Left": left, "Width": 60, "Height": 60 } })
        };
        p["MixLayoutParams"]["WaterMarkList"] = json!([mark(&images.url("red.png"), 20), mark(&missing, 560)]);
    })
    .await;
    assert_eq!(scene.receiver.event(&task, 309).await.payload()["Url"], missing.as_str());
    let _wang = scene.publish("clinic", "dr-wang", Sends::default()).await;
    let _li = scene.publish("clinic", "patient-li", Sends { codec: Some("vp8"), ..Sends::default() }).await;
    scene.lanes_began(&task, 1).await;
    scene.has_segments(&task, "", KIND, 2).await;
    let described = scene.sdk.describe(&task).await.expect("it records");
    let name = format!("{APP}_{ROOM}.m3u8");
    let file = &described["StorageFileList"][0];
    assert_eq!(described["StorageFileList"].as_array().map(Vec::len), Some(1), "{described}");
    assert_eq!((&file["UserId"], &file["TrackType"]), (&json!(""), &json!("audio_video")), "{described}");
    assert_eq!(file["FileName"], name.as_str());

    // the left half is for dr-wang, who is alone now; the whole layout is replaced, watermarks too
    let modified = scene.sdk.call("ModifyCloudRecording", json!({
        "SdkAppId": APP, "TaskId": task,
        "SubscribeStreamUserIds": { "UnSubscribeVideoUserIds": ["patient-li"], "UnSubscribeAudioUserIds": ["patient-li"] },
        "MixLayoutParams": { "MixLayoutMode": 4, "BackGroundColor": "#2040C0",
            "MixLayoutList": [{ "Top": 0, "Left": 0, "Width": 320, "Height": 360, "UserId": "dr-wang" }] },
    }));
    assert_eq!(modified.await.expect("it is mixed")["TaskId"], task.as_str());
    let before = scene.segments(&task, "", KIND).await.len();
    scene.has_segments(&task, "", KIND, before + 2).await;
    let recording = scene.finish(&task).await;

    assert_eq!(recording.lanes.len(), 1, "{:?}", recording.objects.keys());
    let lane = recording.lane("", KIND);
    assert_eq!(lane.name, name);
    for segment in &lane.playlist.segments {
        assert!(segment.name.starts_with(&format!("{APP}_{ROOM}_")), "{}", segment.name);
    }
    assert_unbroken(lane);
    assert_story(&without_images(&scene, &task), 1);
    let slice = scene.receiver.event(&task, 307).await;
    assert_eq!((&slice.payload()["UserId"], &slice.payload()["TrackType"]), (&json!(""), &json!("audio_video")));
    assert_eq!(slice.payload()["BeginTimeStamp"], lane.playlist.start_ms);
    assert_eq!(file["BeginTimeStamp"], lane.playlist.start_ms);
    assert_eq!(scene.receiver.events(&task).iter().filter(|event| **event == 309).count(), 1);

    let pictures = mosaic(&lane.joined());
    // what is asked for at one moment is seen at one moment
    let halved = |p: &Vec<[u8; 3]>| filled(p, (33, 1, 30, 34), BLUE);
    let modified = pictures.iter().rposition(|p| !halved(p)).expect("at first both were to be seen") + 1;
    assert!(pictures.len() - modified > 4 * FPS as usize, "{modified} of {}", pictures.len());
    let marked = |p: &Vec<[u8; 3]>| filled(p, (3, 29, 4, 4), RED);
    for (n, picture) in pictures.iter().enumerate() {
        assert_eq!(marked(picture), n < modified, "the watermark in picture {n}, modified at {modified}");
    }
    let last = pictures.last().expect("not empty");
    assert!(!filled(last, (1, 1, 30, 34), BLUE), "dr-wang is to be seen still");
    let both = &pictures[modified - FPS as usize];
    assert!(!filled(both, (1, 1, 30, 26), BLUE) && !filled(both, (33, 1, 30, 26), BLUE), "two side by side");
}

fn without_images(scene: &Scene, task: &str) -> Vec<support::receiver::Callback> {
    scene.receiver.of(task).into_iter().filter(|callback| callback.event() != 309).collect()
}

/// More than one picture of a segment that is not closed yet has been written.
fn has_begun(shelf: &Path) -> bool {
    let files =
        std::fs::read_dir(shelf).expect("the task has a folder").map(|entry| entry.expect("it can be read").path());
    let mut unfinished = files.filter(|file| file.extension().is_some_and(|extension| extension == "part"));
    let copy = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    // it may get its final name meanwhile
    unfinished.any(|file| std::fs::copy(file, &copy).is_ok_and(|bytes| bytes > 0) && pictures_in(copy.path()) > 1)
}

fn pictures_in(file: &Path) -> usize {
    probe::frames(file, probe::Stream::Video).len()
}

/// The box dies in mid-recording: the task is taken over into a list of its own, and both parts play.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_box_goes_on_with_the_mix() {
    let mut scene = Scene::new(|_| {}).await;
    let task = create(&scene, |_| {}).await;
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "", KIND, 2).await;
    let before = scene.segments(&task, "", KIND).await;
    // the mix is made some seconds at a time, so that there may be a moment in which all of it is in closed segments
    let shelf = scene.daemon.spool_dir().join(&task);
    until("the next segment to be under way", || async { has_begun(&shelf).then_some(()) }).await;
    scene.daemon.kill().await;
    publisher.vanish().await;
    scene.daemon.start_again().await;
    assert_eq!(scene.receiver.event(&task, 306).await.payload()["Status"], 0);
    let _again = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.lanes_began(&task, 2).await;
    let second = format!("ha1_{APP}_{ROOM}.m3u8");
    until("two segments of the second life", || async {
        let recording = scene.recording(&task).await;
        let lane = recording.lanes.iter().find(|lane| lane.name == second);
        lane.is_some_and(|lane| lane.playlist.segments.len() >= 2).then_some(())
    })
    .await;
    let recording = scene.finish(&task).await;
    let names: Vec<&str> = recording.lanes.iter().map(|lane| lane.name.as_str()).collect();
    assert_eq!(names, [format!("{APP}_{ROOM}.m3u8").as_str(), second.as_str()]);
    let (old, new) = (&recording.lanes[0], &recording.lanes[1]);
    assert_unbroken(new);
    let listed: Vec<String> = old.playlist.segments.iter().map(|segment| segment.name.clone()).collect();
    assert_eq!(listed[..before.len()], before[..], "what was listed stays listed");
    assert!(listed.len() > before.len(), "the tail is there: {listed:?}");
    let files = old.files();
    let (tail, whole) = files.split_last().expect("not empty");
    for file in whole {
        assert_eq!(probe::decode_errors(file), "", "{}", file.display());
    }
    // the tail may end in half a frame, but plays up to there
    assert!(!probe::frames(tail, probe::Stream::Video).is_empty(), "{}", tail.display());
    assert_story(&scene.receiver.of(&task).into_iter().filter(|c| c.event() != 306).collect::<Vec<_>>(), 2);
}

/// What a browser's user is seen as, one letter for each stretch of pictures that lasts.
fn story(pictures: &[Vec<[u8; 3]>]) -> Vec<(char, usize)> {
    let mut story: Vec<(char, usize)> = Vec::new();
    for picture in pictures {
        let middle = (20, 10, 24, 16);
        let seen = match picture {
            p if filled(p, middle, BLACK) => 'k',
            p if filled(p, middle, BLUE) => 'b',
            p if filled(p, middle, RED) => 'r',
            _ => 'p',
        };
        match story.last_mut() {
            Some((last, count)) if *last == seen => *count += 1,
            _ => story.push((seen, 1)),
        }
    }
    story
}

/// A browser lets its camera go and takes it again, closes its tab and comes back without a camera: one unbroken
/// recording, in which the picture, black, the background and the placeholder follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_mutes_vanishes_and_comes_back_in_one_recording() {
    let images = Images::start().await;
    let scene = Scene::local(|s| {
        s.more = Images::ALLOWED.into();
        s.gap_seconds = 2;
        s.ice_timeout_seconds = 3;
    })
    .await;
    let task = create(&scene, |p| {
        p["RecordParams"]["FillType"] = json!(1);
        p["MixLayoutParams"]["DefaultSubBackgroundImage"] = json!(images.url("red.png"));
    })
    .await;
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let whip = scene.daemon.whip("clinic", "dr-wang");
    let mut browser = Browser::open(&origin.page(&whip, &token, "&off=4&on=9"), None);
    browser.says("page: camera off").await;
    browser.says("page: camera on").await;
    let now = scene.segments(&task, "", KIND).await.len();
    scene.has_segments(&task, "", KIND, now + 1).await;
    browser.kill().await;
    // gone from the room when nothing was heard of it for the time-out; the recording waits for who comes
    let now = scene.segments(&task, "", KIND).await.len();
    scene.has_segments(&task, "", KIND, now + 2).await;
    let again = Browser::open(&origin.page(&whip, &token, "&video=0"), None);
    again.says("page: state connected").await;
    let now = scene.segments(&task, "", KIND).await.len();
    scene.has_segments(&task, "", KIND, now + 2).await;
    let recording = scene.finish(&task).await;

    assert_eq!(recording.lanes.len(), 1, "{:?}", recording.objects.keys());
    let lane = recording.lane("", KIND);
    assert_unbroken(lane);
    assert_story(&scene.receiver.of(&task), 1);
    let seen = story(&mosaic(&lane.joined()));
    println!("{seen:?}");
    // whatever stood there until the first picture was decoded; and after the tab was closed the picture may be black
    // before its user is out of the room
    let letters: String = seen.iter().skip_while(|(letter, _)| *letter != 'p').map(|(letter, _)| *letter).collect();
    assert!(letters == "pkpkbr" || letters == "pkpbr", "{letters} of {seen:?}");
    let first_black = seen.iter().find(|(letter, _)| *letter == 'k').expect("found above").1 as f64 / f64::from(FPS);
    assert!(
        (1.5..6.0).contains(&first_black),
        "five seconds without a camera, two of them the gap: {first_black:.1} s"
    );
}
