//! The harness itself: its readers must see what is wrong, and its servers must serve.

mod support;

use serde_json::json;
use support::beat::{self, Film};
use support::bucket::{Kind, S3};
use support::receiver::{Receiver, sign};
use support::recorded::{PREFIX, Recording};
use support::{APP, BUCKET, CALLBACK_KEY};

#[test]
fn flash_and_beep_of_the_film_fall_together() {
    let film = Film::make();
    let flashes = beat::flashes(&film.y4m);
    let beeps = beat::beeps(&film.wav);
    assert!(flashes.len() >= 9 && beeps.len() >= 9, "{flashes:?} {beeps:?}");
    for beep in &beeps[1..] {
        assert!(flashes.iter().any(|flash| (flash - beep).abs() < 0.002), "{beep} has no flash: {flashes:?}");
    }
}

/// The same through the codecs and the container of a recording, made by ffmpeg.
#[test]
fn flash_and_beep_fall_together_in_a_transport_stream() {
    let film = Film::make();
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("film.ts");
    let mut ffmpeg = std::process::Command::new(support::program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-i"]).arg(&film.y4m).arg("-i").arg(&film.wav);
    ffmpeg.args(["-c:v", "libx264", "-bf", "0", "-c:a", "aac"]).arg(&file);
    support::output_of(&mut ffmpeg);
    let (flashes, beeps) = (beat::flashes(&file), beat::beeps(&file));
    for beep in &beeps[1..] {
        let nearest = flashes.iter().map(|flash| beep - flash).min_by(|a, b| a.abs().total_cmp(&b.abs()));
        assert!(nearest.is_some_and(|off| off.abs() < 0.005), "{beep} is {nearest:?} s off: {flashes:?}");
    }
}

#[test]
fn a_callback_is_signed_as_the_published_sample_is() {
    let body = "{\n\t\"EventGroupId\":\t2,\n\t\"EventType\":\t204,\n\t\"CallbackTs\":\t1664209748188,\n\t\"EventInfo\":\t{\n\
        \t\t\"RoomId\":\t8489,\n\t\t\"EventTs\":\t1664209748,\n\t\t\"EventMsTs\":\t1664209748180,\n\
        \t\t\"UserId\":\t\"user_85034614\",\n\t\t\"Reason\":\t0\n\t}\n}";
    assert_eq!(sign("123654", body.as_bytes()), "kkoFeO3Oh2ZHnjtg8tEAQhtXK16/KI05W3BQff8IvGA=");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_checks_signatures_and_fails_when_told() {
    let receiver = Receiver::start().await;
    let body = json!({ "EventType": 301, "EventInfo": { "TaskId": "t", "EventId": "t-0" } }).to_string();
    let client = support::daemon::client();
    let post = |sign: String| client.post(&receiver.url).header("Sign", sign).body(body.clone()).send();
    receiver.fail(true);
    assert_eq!(post("wrong".into()).await.expect("the receiver is there").status(), 500);
    receiver.wait_refused(1).await;
    receiver.fail(false);
    assert_eq!(post("wrong".into()).await.expect("the receiver is there").status(), 200);
    assert_eq!(post(sign(CALLBACK_KEY, body.as_bytes())).await.expect("the receiver is there").status(), 200);
    let signed: Vec<bool> = receiver.taken().iter().map(|c| c.signed).collect();
    assert_eq!(signed, [false, true]);
    assert_eq!(receiver.event("t", 301).await.id(), "t-0");
    assert_eq!(receiver.events("t"), [301], "a repeat counts once");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_s3_servers_keep_what_they_are_given() {
    for kind in [Kind::S3sFs, Kind::Moto] {
        let mut server = S3::start(kind).await;
        // Task ids and user ids in keys hold these characters.
        let key = "clinic/day1/a+b-c../1_2__UserId_s_YQ..__UserId_e_main_audio.m3u8";
        server.put(key, b"#EXTM3U\n").await;
        assert_eq!(server.keys("clinic/").await, [key], "{kind:?}");
        assert_eq!(server.get(key).await, b"#EXTM3U\n", "{kind:?} {BUCKET}");
        if kind == Kind::S3sFs {
            server.stop().await;
            server.start_again().await;
            assert_eq!(server.get(key).await, b"#EXTM3U\n", "over a restart");
        }
    }
}

/// Two segments of two seconds, made by ffmpeg, in a list as the box writes it.
fn made_recording(second_stamp: &str) -> Recording {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let mut ffmpeg = std::process::Command::new(support::program("ffmpeg"));
    ffmpeg
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=30:d=4", "-pix_fmt", "yuv420p"])
        .args(["-c:v", "libx264", "-bf", "0", "-g", "30", "-f", "segment", "-segment_time", "2"])
        .args(["-segment_format", "mpegts"])
        .arg(dir.path().join("%d.ts"));
    support::output_of(&mut ffmpeg);
    let name = format!("{APP}_77__UserId_s_ZHI.__UserId_e_main_video");
    let (first, second) = (format!("{name}_20260131235958500.ts"), format!("{name}_{second_stamp}.ts"));
    let text = format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-TRTC-START-REC-TIME:1769903998500\n\
         #EXT-X-TRTC-VIDEO-METADATA:WIDTH:320 HEIGHT:240\n#EXTINF:2.000,\n{first}\n#EXTINF:2.000,\n{second}\n#EXT-X-ENDLIST\n"
    );
    let read = |n: &str| std::fs::read(dir.path().join(n)).expect("ffmpeg made two segments");
    let key = |name: &str| format!("{PREFIX}/task/{name}");
    let objects =
        [(key(&first), read("0.ts")), (key(&second), read("1.ts")), (key(&format!("{name}.m3u8")), text.into_bytes())];
    Recording::of(&objects.into_iter().collect(), "task")
}

#[test]
fn a_sound_recording_passes_and_a_false_stamp_does_not() {
    let recording = made_recording("20260201000000500");
    recording.assert_whole();
    let lane = recording.lane("dr", "video");
    lane.assert_sound();
    lane.assert_frames(0.01);
    let broken = made_recording("20260201000001500");
    let told = std::panic::catch_unwind(|| broken.lane("dr", "video").assert_sound());
    assert!(told.is_err(), "a name that is a second off must be seen");
}

#[test]
fn a_list_that_names_what_is_not_there_is_not_whole() {
    let mut recording = made_recording("20260201000000500");
    let (name, _) = recording.objects.pop_first().expect("it has objects");
    let told = std::panic::catch_unwind(|| recording.assert_whole());
    assert!(told.is_err(), "{name} is missing and nobody said so");
}
