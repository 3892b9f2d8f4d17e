//! A packed file that goes up in parts: broken off in the middle by a crash, it goes on with the next part.

use std::process::Command;
use std::time::Duration;

use holdfast::model::fate::Fate;
use holdfast::model::output::{Container, LARGEST, LONGEST, Limits};
use holdfast::model::package::{Group, Life, Order, Part};
use holdfast::model::segment::LocalName;
use holdfast::model::{Lane, LaneKind, MediaId, TaskId, Timestamp, UserId};
use holdfast::package::Packer;
use holdfast::store::records::{self, PartsEntry};

#[path = "support/carrier.rs"]
mod carrier;

use carrier::{Appliance, GUARD, KEYS, Server};

const BUCKET: &str = "clinic";
const OBJECT: &str = "1400_5.mp4";
const MIB: u64 = 1024 * 1024;

/// What is known of its parts now.
async fn parts(appliance: &Appliance, task: &TaskId) -> Option<PartsEntry> {
    let key = records::parts_key(task, OBJECT);
    let bytes = appliance.store.get(&key).await.expect("the index answers")?;
    Some(PartsEntry::from_bytes(&key, &bytes).expect("a record of ours"))
}

fn in_parts(config: &mut holdfast::config::Config) {
    config.upload.multipart_from_bytes = 5 * MIB;
    config.upload.part_bytes = 5 * MIB;
}

#[tokio::test]
async fn after_a_crash_the_next_part_is_the_first_that_has_no_record() {
    let server = Server::s3s().await;
    server.make_bucket(BUCKET).await;
    let appliance = Appliance::new().await;
    let task = appliance.create("hPacked", BUCKET, KEYS.1).await;
    let dir = appliance.spool.task_dir(&task);
    let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Video);
    let name = LocalName {
        lane,
        run: 0,
        index: 0,
        start: Timestamp::from_ms(1_800_000_000_000),
        size: Some((640, 360)),
        discontinuity: true,
        duration: Some(Duration::from_secs(4)),
    };
    let noise = "color=gray:size=640x360:rate=30,noise=alls=100:allf=t";
    let mut draw = Command::new("ffmpeg");
    draw.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", noise, "-t", "4", "-c:v", "libx264", "-qp", "8"]);
    draw.args(["-preset", "ultrafast", "-g", "30", "-bf", "0", "-pix_fmt", "yuv420p", "-f", "mpegts"]);
    assert!(draw.arg(dir.join(name.to_string())).status().expect("ffmpeg runs; apt install ffmpeg").success());
    let part = Part { file: name.to_string(), kind: LaneKind::Video, start: name.start };
    let life = Life { offset: Duration::ZERO, pieces: vec![part], first: 0 };
    let (stem, begin) = ("1400_5".to_owned(), name.start);
    let group = Group { user: "ann".into(), media: MediaId::Main, stem, begin, lives: vec![life] };
    let limits = Limits { length: LONGEST, bytes: LARGEST };
    let order = Order::new(Container::Mp4, limits, vec![group]);
    let (to, from) = std::sync::mpsc::sync_channel(1);
    let packer = Packer::new();
    packer.plan(&task, dir.clone(), Default::default(), order, move |packed| drop(to.send(packed))).unwrap();
    let packed = tokio::task::spawn_blocking(move || from.recv_timeout(GUARD)).await.unwrap().expect("a plan");
    let (file, plan) = packed.files[0].clone();
    assert!(file.object == OBJECT && file.bytes > 16 * MIB, "{file:?}");
    let opened = packer.open(&task, dir, Default::default(), &plan).expect("it opens");
    let whole =
        tokio::task::spawn_blocking(move || opened.stretch(0, u64::MAX)).await.unwrap().expect("it can be made");
    assert_eq!(whole.len() as u64, file.bytes);

    let key = format!("p1/hPacked/{OBJECT}");
    appliance.spool.accept_package(&task, OBJECT.into(), key.clone(), (file.bytes, file.crc32), plan).unwrap();
    appliance.spool.drained().await.unwrap();
    let mut appliance = appliance;
    appliance.upload_to(&server.endpoint, in_parts);
    let begun = async {
        loop {
            if let Some(there) = parts(&appliance, &task).await.filter(|there| !there.parts.is_empty()) {
                return there;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let begun = tokio::time::timeout(GUARD, begun).await.expect("a part arrives");
    assert!((begun.parts.len() as u64) < file.bytes.div_ceil(5 * MIB), "broken off in the middle");
    let kept = appliance.crash().await;

    let mut appliance = Appliance::over(kept).await;
    assert_eq!(appliance.recovered.tasks[&task].packages, [OBJECT], "its plan waits");
    let there = parts(&appliance, &task).await.expect("what arrived is known");
    assert!(there.upload == begun.upload && there.parts.len() >= begun.parts.len());
    appliance.upload_to(&server.endpoint, in_parts);
    let told = appliance.fate().await;
    assert_eq!(told, (task.clone(), Fate::PackageUploaded { object: OBJECT.into() }));
    assert!(server.read(BUCKET, &key).await == whole, "what is there is what was planned");
    let facts = server.client().list_multipart_uploads().bucket(BUCKET).send().await;
    assert!(facts.is_err() || facts.is_ok_and(|all| all.uploads().is_empty()), "nothing was begun anew");
    assert_eq!(parts(&appliance, &task).await, None);
    let appliance = Appliance::over(appliance.stop().await).await;
    assert_eq!(appliance.recovered.tasks[&task].packed, [OBJECT], "told until its task has noted it");
}
