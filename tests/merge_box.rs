//! What this box recorded, merged: a publisher whose picture and sound the box took over the network.

mod support;

use std::process::Command;

use support::beat::Beats;
use support::probe;
use support::publisher::Sends;
use support::scene::Scene;
use support::takes::seconds;

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_of_this_box_is_merged_in_step() {
    let scene = Scene::local(|_| {}).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 3).await;
    let recording = scene.finish(&task).await;
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, bytes) in &recording.objects {
        std::fs::write(dir.path().join(name), bytes).expect("the folder is ours");
    }
    let merge = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        let out = command.arg("merge").arg("-f").arg(dir.path()).args(args).output().expect("our own program runs");
        let told = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{told}");
        assert!(told.contains("(\"dr-wang\"): "), "{told}");
        let mut results = std::fs::read_dir(dir.path())
            .expect("the folder is ours")
            .map(|entry| entry.expect("the folder is ours").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "mp4"));
        let file = results.next().expect("it was made");
        assert_eq!(results.next(), None);
        file
    };
    let (video, audio) = (recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    let copied = merge(&[]);
    assert_eq!(probe::decode_errors(&copied), "");
    let pictures: usize = video.packets(probe::Stream::Video).iter().map(Vec::len).sum();
    assert_eq!(probe::packets(&copied, probe::Stream::Video).len(), pictures, "every picture once");
    let longest = video.playlist.seconds().max(audio.playlist.seconds());
    assert!((seconds(&copied) - longest).abs() < 0.3, "{} s of {longest}", seconds(&copied));
    let beats = Beats::in_file(&copied);
    assert!(beats.largest() <= 0.045, "{beats:?}");
    let coded = merge(&["-p", "30"]);
    let beats = Beats::in_file(&coded);
    assert!(beats.largest() <= 0.060, "{beats:?}");
}
