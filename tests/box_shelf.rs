//! A box whose shelf is encrypted: killed, looked into, copied out of, started again.
//!
//! Owns: the whole way of an encrypted recording. Must not touch: files of the state directory, but to read them.
//! Law: nothing of a recording lies in clear on the disk; what is copied out of a killed box is what arrives later.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::probe;
use support::publisher::Sends;
use support::recorded::{PREFIX, Recording};
use support::scene::{Scene, until};

fn spool(scene: &Scene, args: &[&str]) -> Output {
    let config = scene.daemon.state_dir().with_file_name("holdfast.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("spool").arg("--config").arg(config).args(args).output().expect("the box's own program runs")
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn shows(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

/// What lies on the shelf of recordings: all but the reserve and what folders say of their tasks.
fn media(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let told = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file == ".reserve" || file == "task.json" || file == "destination.json" || file.starts_with("uploaded")
    };
    support::bucket::local_objects(dir).into_iter().filter(|(name, _)| !told(name)).collect()
}

/// No file below `dir` looks like a transport stream or a playlist.
fn assert_dark(dir: &Path) -> usize {
    let files = media(dir);
    for (name, bytes) in &files {
        let packets = bytes.chunks(188).filter(|packet| packet[0] == 0x47).count();
        assert!(packets < 4 + bytes.len() / 188 / 8, "{name} has {packets} packets in clear");
        assert!(!shows(bytes, b"#EXT") && bytes.starts_with(b"\x8ahfvault"), "{name} is not sealed");
    }
    files.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_shelf_survives_a_kill_is_copied_out_and_arrives() {
    let keys = tempfile::tempdir().expect("a temporary folder can be made");
    let key = keys.path().join("spool.key");
    std::fs::write(&key, "4f1d0c9a7be2385566a1b0c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f506\n").expect("it is ours");
    let table = format!("[spool]\nkey_file = \"{}\"\n", key.display());
    let mut scene = Scene::new(|settings| settings.more = table.clone()).await;
    let task = scene.create("clinic").await;
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;

    // beside the running box: its index is held, and the files are enough
    let folder = scene.daemon.state_dir().join("spool");
    until("segments of both kinds to wait on the shelf", || async {
        let listed = text(&spool(&scene, &["ls"]));
        assert!(listed.contains("held by a running box"), "{listed}");
        let waits = |lane: &str| {
            let line = listed.lines().find(|line| line.contains(lane))?;
            line.split_whitespace().nth(4)?.parse::<u32>().ok().filter(|pieces| *pieces >= 2)
        };
        waits("dr-wang main video").and(waits("dr-wang main audio"))
    })
    .await;
    let verified = spool(&scene, &["verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    scene.daemon.kill().await;
    publisher.vanish().await;
    assert!(assert_dark(&folder) >= 6);

    // after the kill: whole, and copied out with the names of the destination
    let verified = spool(&scene, &["verify"]);
    assert!(verified.status.success() && text(&verified).contains("not closed"), "{}", text(&verified));
    let stick = tempfile::tempdir().expect("a temporary folder can be made");
    let copied = spool(&scene, &["export", &stick.path().display().to_string(), "--task", &task]);
    assert!(copied.status.success(), "{}", text(&copied));
    let objects = support::bucket::local_objects(&stick.path().join(&task));
    let under = objects.iter().map(|(name, body)| (format!("{PREFIX}/{task}/{name}"), body.clone())).collect();
    let recording = Recording::of(&under, &task);
    recording.assert_whole();
    assert_eq!(recording.lanes.len(), 2);
    for kind in ["video", "audio"] {
        let lane = recording.lane("dr-wang", kind);
        assert!(lane.playlist.segments.len() >= 3, "{}", lane.playlist.text);
        let list = stick.path().join(&task).join(&lane.name);
        let frames = probe::packets(&list, if kind == "video" { probe::Stream::Video } else { probe::Stream::Audio });
        let (first, last) = (&frames[0], &frames[frames.len() - 1]);
        let played = last.pts - first.pts;
        assert!((played - lane.playlist.seconds()).abs() < 0.5, "{played} s of {}", lane.playlist.text);
        let files = lane.files();
        for file in &files[..files.len() - 1] {
            assert_eq!(probe::decode_errors(file), "", "{}", file.display());
        }
    }

    // a start without the key is refused, and changes nothing
    let config = folder.with_file_name("without.toml");
    let plain = std::fs::read_to_string(scene.daemon.state_dir().with_file_name("holdfast.toml")).expect("it is ours");
    std::fs::write(&config, plain.replace("key_file", "#key_file")).expect("it is ours");
    let refused = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("run").arg("--config").arg(&config).output();
    let refused = refused.expect("the box's own program runs");
    assert!(!refused.status.success() && text(&refused).contains("is sealed with the key"), "{}", text(&refused));

    // the box comes back, and the bucket: what arrives is what was copied out
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    scene.daemon.start_again().await;
    scene.receiver.event(&task, 306).await;
    let arrived = scene.finish(&task).await;
    for lane in &recording.lanes {
        for segment in &lane.playlist.segments {
            let copy = &recording.objects[&segment.name];
            assert!(arrived.objects.get(&segment.name) == Some(copy), "{} arrived otherwise", segment.name);
        }
    }
    until("the shelf to be empty", || async { media(&folder).is_empty().then_some(()) }).await;
    let log = scene.daemon.log();
    assert!(!log.contains("4f1d0c9a7be2"), "the key is in the log");
}
