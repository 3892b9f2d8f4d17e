//! What the shelf does after a crash between any two steps of a segment's way, with real transport streams.
//!
//! Owns: the states in which a power cut leaves files and records. Must not touch: how they are repaired.
//! Law: no segment that has playable bytes on the disk is lost, and none is told twice as two.

mod shelf;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use holdfast::model::LaneKind;
use holdfast::model::fate::Fate;
use holdfast::model::segment::LocalName;
use holdfast::spool::Shelved;
use holdfast::store::Batch;
use holdfast::store::records::{self, SpoolEntry, SpoolState};
use holdfast::vault::Vault;
use shelf::{Disk, Life, name};

impl Disk {
    /// A life without keys.
    async fn plain(&self) -> Life {
        self.live(&Vault::default()).await
    }

    fn write(&self, name: &LocalName, bytes: &[u8]) {
        fs::create_dir_all(self.path("")).unwrap();
        fs::write(self.path(&name.to_string()), bytes).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.path("")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a life finds of the task.
    fn shelved<'a>(&self, life: &'a Life) -> &'a Shelved {
        &life.found.tasks[&self.task]
    }
}

/// A real transport stream: 100 pictures at 25 a second with a keyframe each second, or four seconds of AAC.
fn stream(kind: LaneKind) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.ts");
    let video = "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 \
         ! x264enc key-int-max=25 tune=zerolatency ! video/x-h264,profile=baseline ! h264parse";
    // 188 buffers of 1024 samples at 48 kHz are 4.01 s
    let audio = "audiotestsrc num-buffers=188 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=1 \
         ! avenc_aac ! aacparse";
    let mux = format!("mpegtsmux name=mux ! filesink location={}", out.display());
    let graph = match kind {
        LaneKind::Video => format!("{video} ! {mux}"),
        LaneKind::Audio => format!("{audio} ! {mux}"),
        LaneKind::AudioVideo => format!("{video} ! {mux} {audio} ! mux."),
    };
    let ran = Command::new("gst-launch-1.0").arg("-q").args(graph.split_whitespace()).output();
    let ran = ran.expect("gst-launch-1.0 is needed: apt-get install gstreamer1.0-tools");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success(),
        "gst-launch-1.0 needs x264enc, avenc_aac and mpegtsmux (apt-get install gstreamer1.0-plugins-ugly \
         gstreamer1.0-plugins-bad gstreamer1.0-libav): {said}"
    );
    fs::read(out).unwrap()
}

/// Frames that a decoder gets out of a file.
fn decoded(path: &Path, stream: &str) -> u32 {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", stream, "-show_entries", "stream=nb_read_frames"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe is needed: apt-get install ffmpeg");
    let text = String::from_utf8_lossy(&probe.stdout);
    text.lines().next().and_then(|n| n.trim_matches(',').trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_torn_segment_is_cut_and_adopted() {
    let whole = stream(LaneKind::Video);
    let disk = Disk::new();
    let part = name(3, LaneKind::Video).part();
    // cut in the middle of a packet, and then what a file system shows that had not yet written
    let cut = whole.len() * 6 / 10 / 188 * 188 + 77;
    disk.write(&part, &[&whole[..cut], &[0; 4096]].concat());

    let mut life = disk.plain().await;
    let [segment] = &disk.shelved(&life).adopted[..] else { panic!("{:?}", life.found) };
    let segment = segment.clone();
    assert_eq!(segment.bytes, (cut - 77) as u64);
    assert_eq!((segment.index, segment.start, segment.size), (3, part.start, Some((320, 240))));
    assert_eq!(segment.part_name, part.to_string());

    life.accept(&segment);
    assert_eq!(life.fate().await, Fate::Spooled(segment.clone()));
    let last = LocalName::of(&segment).to_string();
    assert_eq!(disk.names(), [last.as_str()]);
    let frames = decoded(&disk.path(&last), "v:0");
    let told = segment.duration.as_secs_f64() * 25.0;
    assert!(frames > 40 && (f64::from(frames) - told).abs() <= 1.0, "{frames} frames, {told} told");
    life.die().await;
}

#[tokio::test]
async fn every_cut_of_every_kind_is_adopted_or_holds_nothing() {
    for kind in [LaneKind::Video, LaneKind::Audio, LaneKind::AudioVideo] {
        let whole = stream(kind);
        let disk = Disk::new();
        let cuts: Vec<usize> = (0..12).map(|n| whole.len() * n / 11).collect();
        for (index, cut) in cuts.iter().enumerate() {
            disk.write(&name(index as u32, kind).part(), &whole[..*cut]);
        }
        let life = disk.plain().await;
        let adopted = &disk.shelved(&life).adopted;
        assert!(adopted.iter().map(|s| s.index).is_sorted());
        assert!(adopted.len() >= 10 && adopted.iter().all(|s| s.index > 0), "{kind:?}: {adopted:?}");
        let lengths: Vec<f64> = adopted.iter().map(|s| s.duration.as_secs_f64()).collect();
        assert!(lengths.is_sorted() && (lengths.last().unwrap() - 4.0).abs() < 0.1, "{kind:?}: {lengths:?}");
        // what was not adopted held nothing and is gone
        assert_eq!(disk.names().len(), adopted.len());
        assert!(!disk.path(&name(0, kind).part().to_string()).exists());
        life.die().await;
    }
}

#[tokio::test]
async fn pictures_without_a_keyframe_are_no_segment() {
    let whole = stream(LaneKind::Video);
    // without the packets that say that one may begin here
    let headless: Vec<u8> = whole
        .chunks_exact(188)
        .filter(|p| !(p[3] & 0x20 != 0 && p[4] > 0 && p[5] & 0x40 != 0))
        .flatten()
        .copied()
        .collect();
    let disk = Disk::new();
    disk.write(&name(0, LaneKind::Video).part(), &headless);
    let life = disk.plain().await;
    assert!(disk.shelved(&life).adopted.is_empty());
    assert!(disk.names().is_empty());
    life.die().await;
}

/// Renamed and not recorded; recorded; told and not noted; uploaded and not unlinked; unlinked and not noted.
#[tokio::test]
async fn a_crash_between_any_two_steps_repeats_and_loses_nothing() {
    let bytes = stream(LaneKind::Video);
    let disk = Disk::new();
    let segment_name = name(0, LaneKind::Video);
    disk.write(&segment_name, &bytes);

    // renamed, and the index does not know it: adopted, however often the process dies before it is recorded
    for _ in 0..2 {
        let life = disk.plain().await;
        let shelved = disk.shelved(&life);
        assert_eq!(shelved.adopted, [segment_name.closed(&disk.task, Duration::ZERO, bytes.len() as u64)]);
        life.die().await;
    }

    // recorded, and the task may not have heard it
    let mut life = disk.plain().await;
    let segment = disk.shelved(&life).adopted[0].clone();
    life.accept(&segment);
    life.fate().await;
    life.die().await;

    let life = disk.plain().await;
    let object = "0.ts".to_owned();
    let expected = Shelved { spooled: vec![(object.clone(), segment)], ..Shelved::default() };
    assert_eq!(disk.shelved(&life), &expected);

    // carried, and the process dies before it can say so: carried again
    let job = life.spool.lease(1).await.unwrap().expect("it waits since the last life");
    drop(job);
    let job = life.spool.lease(1).await.unwrap().expect("it went back to the shelf");
    let mut entry = job.entry().clone();
    drop(job);

    // recorded as uploaded, and the process dies before the file is unlinked
    entry.state = SpoolState::Uploaded;
    life.store.commit(Batch::new().put(entry.key(), entry.to_bytes())).await.unwrap();
    life.die().await;
    let expected = Shelved { uploaded: vec![object.clone()], ..Shelved::default() };
    for _ in 0..2 {
        let life = disk.plain().await;
        assert_eq!(disk.shelved(&life), &expected, "told until the task has noted it");
        assert!(disk.names().is_empty());
        assert!(life.spool.lease(1).await.unwrap().is_none());
        life.die().await;
    }

    // the task notes it in a commit of its own
    let life = disk.plain().await;
    life.store.commit(records::settle(Batch::new(), &disk.task, &object)).await.unwrap();
    life.spool.forget_task(&disk.task).await.unwrap();
    life.die().await;
    let life = disk.plain().await;
    assert!(life.found.tasks.is_empty());
    life.die().await;
}

#[tokio::test]
async fn a_file_that_vanished_or_shrank_is_lost_and_said_so() {
    let bytes = stream(LaneKind::Audio);
    let disk = Disk::new();
    let mut life = disk.plain().await;
    for index in 0..3 {
        disk.write(&name(index, LaneKind::Audio), &bytes);
        life.accept(&name(index, LaneKind::Audio).closed(&disk.task, Duration::ZERO, bytes.len() as u64));
        life.fate().await;
    }
    life.die().await;
    fs::remove_file(disk.path(&name(0, LaneKind::Audio).to_string())).unwrap();
    disk.write(&name(1, LaneKind::Audio), &bytes[..bytes.len() - 1]);

    for _ in 0..2 {
        let life = disk.plain().await;
        let shelved = disk.shelved(&life);
        let lost: Vec<&str> = shelved.lost.iter().map(|(object, ..)| object.as_str()).collect();
        assert_eq!(lost, ["0.ts", "1.ts"]);
        assert_eq!(shelved.spooled.len(), 1);
        assert!(shelved.adopted.is_empty());
        life.die().await;
    }
}

#[tokio::test]
async fn without_the_index_everything_on_the_shelf_is_adopted() {
    let bytes = stream(LaneKind::Audio);
    let disk = Disk::new();
    let mut life = disk.plain().await;
    for index in 0..5 {
        disk.write(&name(index, LaneKind::Audio), &bytes);
        life.accept(&name(index, LaneKind::Audio).closed(&disk.task, Duration::ZERO, bytes.len() as u64));
        life.fate().await;
    }
    life.spool.accept_playlist(&disk.task, "l.m3u8".into(), "hTask/l.m3u8".into(), 1, "#EXTM3U".into()).unwrap();
    life.spool.drained().await.unwrap();
    life.die().await;

    // not even a database any more
    fs::write(disk.dir.path().join("index/db"), b"no database").unwrap();
    fs::write(disk.dir.path().join("index/conf"), b"no configuration").unwrap();
    let life = disk.plain().await;
    let found: Vec<u32> = disk.shelved(&life).adopted.iter().map(|s| s.index).collect();
    assert_eq!(found, [0, 1, 2, 3, 4]);
    assert_eq!(disk.names().len(), 5, "a playlist that no record speaks of is written again by its task");
    life.die().await;
}

/// The index is gone, and the folders tell what the destination has: nothing is carried twice that was acknowledged.
#[tokio::test]
async fn without_the_index_what_was_uploaded_is_known() {
    let bytes = stream(LaneKind::Audio);
    let disk = Disk::new();
    let mut life = disk.plain().await;
    for index in 0..4 {
        disk.write(&name(index, LaneKind::Audio), &bytes);
        life.accept(&name(index, LaneKind::Audio).closed(&disk.task, Duration::ZERO, bytes.len() as u64));
        life.fate().await;
    }
    life.spool.describe_task(&disk.task, "the shape".into()).await.unwrap();
    for _ in 0..2 {
        let job = life.spool.lease(1).await.unwrap().expect("it waits");
        job.ack_uploaded().await.unwrap();
    }
    let job = life.spool.lease(1).await.unwrap().expect("it waits");
    assert!(job.ack_lost("rot".into()).await.unwrap().is_some());
    life.die().await;
    // the process had died before it unlinked the second, and while it wrote the journal
    disk.write(&name(1, LaneKind::Audio), &bytes);
    let journal = fs::read(disk.path("uploaded.txt")).unwrap();
    fs::write(disk.path("uploaded.txt"), [&journal[..], b"5f00ba11 up YW5u"].concat()).unwrap();

    for _ in 0..2 {
        fs::remove_dir_all(disk.dir.path().join("index")).unwrap();
        let life = disk.plain().await;
        let shelved = disk.shelved(&life);
        let uploaded: Vec<_> = shelved.noted_uploaded.iter().map(|(n, object)| (n.index, object.as_str())).collect();
        assert_eq!(uploaded, [(0, "0.ts"), (1, "1.ts")]);
        assert!(shelved.noted_lost.iter().all(|n| n.index == 2) && !shelved.noted_lost.is_empty());
        assert_eq!(shelved.adopted.iter().map(|s| s.index).collect::<Vec<_>>(), [3]);
        assert_eq!(shelved.shape.as_deref(), Some("the shape"));
        assert_eq!(life.found.unknown, 0);
        life.die().await;
    }
    assert!(!disk.path(&name(1, LaneKind::Audio).to_string()).exists());
}

/// The process died between the journal and the index: the journal was first, and is believed.
#[tokio::test]
async fn a_journal_that_is_ahead_of_the_index_is_believed() {
    let bytes = stream(LaneKind::Audio);
    let disk = Disk::new();
    let mut life = disk.plain().await;
    disk.write(&name(0, LaneKind::Audio), &bytes);
    life.accept(&name(0, LaneKind::Audio).closed(&disk.task, Duration::ZERO, bytes.len() as u64));
    life.fate().await;
    let key = records::spool_key(&disk.task, "0.ts");
    let before = life.store.get(&key).await.unwrap().unwrap();
    life.spool.lease(1).await.unwrap().expect("it waits").ack_uploaded().await.unwrap();
    life.store.commit(Batch::new().put(key, before)).await.unwrap();
    life.die().await;
    disk.write(&name(0, LaneKind::Audio), &bytes);

    for _ in 0..2 {
        let life = disk.plain().await;
        assert_eq!(disk.shelved(&life).uploaded, ["0.ts"]);
        assert!(disk.shelved(&life).spooled.is_empty() && disk.shelved(&life).adopted.is_empty());
        assert!(life.spool.lease(1).await.unwrap().is_none(), "it is not carried again");
        assert!(!disk.path(&name(0, LaneKind::Audio).to_string()).exists());
        life.die().await;
    }
}

#[tokio::test]
async fn strangers_files_and_unreadable_records_stop_nothing() {
    let bytes = stream(LaneKind::Audio);
    let disk = Disk::new();
    let mut life = disk.plain().await;
    disk.write(&name(0, LaneKind::Audio), &bytes);
    life.accept(&name(0, LaneKind::Audio).closed(&disk.task, Duration::ZERO, bytes.len() as u64));
    life.fate().await;
    let key = records::spool_key(&disk.task, "0.ts");
    assert!(SpoolEntry::from_bytes(&key, &life.store.get(&key).await.unwrap().unwrap()).is_ok());
    life.store.commit(Batch::new().put(key, b"torn".to_vec())).await.unwrap();
    life.die().await;
    fs::write(disk.path("notes.txt"), b"a technician's").unwrap();
    fs::create_dir_all(disk.dir.path().join("spool/lost+found")).unwrap();

    let life = disk.plain().await;
    assert_eq!(disk.shelved(&life).adopted.len(), 1);
    assert_eq!(life.found.unknown, 2);
    assert!(disk.path("notes.txt").exists());
    life.die().await;
}
