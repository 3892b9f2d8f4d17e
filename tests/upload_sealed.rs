//! A sealed shelf whose disk runs full while its destination is in trouble: where the three meet.
//!
//! Owns: what a large sealed file does over a restart, and what disk pressure does to sealed files in flight. Must not
//! touch: each of the three alone (`spool_sealed`, `upload_line`, `box_disk`).
//! Law: what arrives is what was put on the shelf; what has arrived is not sent again; what flies is not given up.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast::model::TaskId;
use holdfast::model::disk::{Level, Limits, Space, WhenFull};
use holdfast::model::fate::Fate;
use holdfast::spool::{Disk, RealDisk, Standing};
use holdfast::store::records::{self, PartsEntry};
use holdfast::vault::{Key, Vault};

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/proxy.rs"]
mod proxy;

use carrier::{Appliance, GUARD, KEYS, Server, contents};
use proxy::{Mode, Proxy};

const MIB: usize = 1024 * 1024;

fn key(n: u8) -> Key {
    Key::new(std::array::from_fn(|i| i as u8 ^ n))
}

fn large() -> Vec<u8> {
    (0..17 * MIB as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn in_parts(appliance: &mut Appliance, endpoint: &str) {
    appliance.upload_to(endpoint, |config| {
        config.upload.multipart_from_bytes = 6 * MIB as u64;
        config.upload.part_bytes = 5 * MIB as u64;
        config.upload.timeout_seconds = 2;
    });
}

/// Returns when so many parts of `0.ts` are recorded.
async fn until_parts(appliance: &Appliance, task: &TaskId, n: usize) {
    let key = records::parts_key(task, "0.ts");
    let there = async {
        loop {
            let record = appliance.store.get(&key).await.unwrap();
            if record.is_some_and(|bytes| PartsEntry::from_bytes(&key, &bytes).unwrap().parts.len() >= n) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(GUARD, there).await.expect("parts arrive");
}

/// A disk with so much room as the test says.
#[derive(Debug)]
struct SmallDisk(AtomicU64);

impl Disk for SmallDisk {
    fn sync(&self, file: &fs::File) -> io::Result<()> {
        RealDisk.sync(file)
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { free_bytes: self.0.load(Ordering::SeqCst), total_bytes: 1 << 30, ..Space::default() })
    }
}

const LIMITS: Limits = Limits {
    low_bytes: 100_000,
    low_percent: 0,
    low_inodes: 0,
    reserve_bytes: 40_000,
    when_full: WhenFull::DropOldest,
};

async fn stands(appliance: &Appliance, what: &str, is: impl FnMut(&Standing) -> bool) {
    let mut standing = appliance.spool.standing();
    let stands = standing.wait_for(is);
    tokio::time::timeout(GUARD, stands).await.unwrap_or_else(|_| panic!("in vain for {what}")).expect("it is watched");
}

#[tokio::test]
async fn a_large_sealed_file_goes_on_where_it_stopped_under_a_new_key_too() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Slow(8 * MIB)).await;
    let vault = Vault::new(Some(key(1)), Vec::new());
    let mut appliance = Appliance::on(tempfile::tempdir().unwrap(), vault, Arc::new(RealDisk)).await;
    let task = appliance.create("hLarge", "clinic", KEYS.1).await;
    in_parts(&mut appliance, &proxy.endpoint);
    let segment = appliance.spool(&task, 0, &large());
    until_parts(&appliance, &task, 2).await;
    proxy.set(Mode::Stall);

    let vault = Vault::new(Some(key(2)), vec![key(1)]);
    let mut appliance = Appliance::on(appliance.crash().await, vault, Arc::new(RealDisk)).await;
    let name = holdfast::model::segment::LocalName::of(&segment).to_string();
    let lies = fs::read(appliance.spool.task_dir(&task).join(name)).unwrap();
    let plain = large();
    assert!(
        lies.len() > plain.len() && lies[MIB..2 * MIB].windows(64).all(|w| *w != plain[MIB..MIB + 64]),
        "it lies sealed"
    );
    let before = proxy.bytes();
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    let fates = appliance.until_uploaded(1).await;
    assert!(fates.iter().all(|(_, fate)| matches!(fate, Fate::SegmentUploaded { .. })), "{fates:?}");
    let again = proxy.bytes() - before;
    // two of the parts, or one when a third had just arrived
    assert!(again < 7 * MIB + 64 * 1024, "{again} bytes were sent in the second life");
    assert!(server.read("clinic", &format!("p1/{task}/0.ts")).await == large());
    assert!(appliance.store.scan(records::PARTS).await.unwrap().is_empty());
    drop(appliance.stop().await);
}

/// One sealed file hangs on the line and others wait behind it when the disk runs low: those are given up, that one is
/// not; what was given up is told, is no more on the disk, and is still known as lost when the index is gone, too.
#[tokio::test]
async fn a_disk_that_runs_low_gives_up_what_waits_and_not_what_flies() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Stall).await;
    let disk = Arc::new(SmallDisk(AtomicU64::new(1 << 29)));
    let vault = Vault::new(Some(key(1)), Vec::new());
    let mut appliance = Appliance::on(tempfile::tempdir().unwrap(), vault.clone(), disk.clone()).await;
    appliance.spool.watch_disk(LIMITS, appliance.clock.clone()).await.unwrap();
    let task = appliance.create("hTask", "clinic", KEYS.1).await;
    appliance.spool.describe_task(&task, "a shape".into()).await.unwrap();
    appliance.upload_to(&proxy.endpoint, |config| {
        config.upload.per_destination = 1;
        config.upload.timeout_seconds = 60;
    });
    appliance.spool(&task, 0, &contents(&task, 0));
    while proxy.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (1..6).for_each(|index| drop(appliance.spool(&task, index, &contents(&task, index))));
    appliance.spool.drained().await.unwrap();
    disk.0.store(90_000, Ordering::SeqCst);
    let mut lost = Vec::new();
    while lost.len() < 5 {
        if let (_, Fate::Lost { segment, why }) = appliance.fate().await {
            assert!(why.contains("given up to make room"), "{why}");
            lost.push(segment.index);
        }
    }
    assert_eq!(lost, [1, 2, 3, 4, 5], "the oldest first, and not the one that flies");
    disk.0.store(1 << 29, Ordering::SeqCst);
    stands(&appliance, "room", |standing| standing.level == Level::Roomy).await;
    proxy.set(Mode::Pass);
    appliance.until_uploaded(1).await;
    assert!(server.read("clinic", &format!("p1/{task}/0.ts")).await == contents(&task, 0));

    let dir = appliance.stop().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let appliance = Appliance::on(dir, vault, disk).await;
    let found = &appliance.recovered.tasks[&task];
    assert_eq!(found.noted_lost.iter().map(|name| name.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(found.noted_uploaded.iter().map(|(name, _)| name.index).collect::<Vec<_>>(), [0]);
    assert!(found.adopted.is_empty() && found.spooled.is_empty());
    drop(appliance.stop().await);
}

/// It is full from the start: the reserve is given free, what lies there sealed goes up, and with room again the reserve
/// is taken again.
#[tokio::test]
async fn a_sealed_shelf_on_a_full_disk_goes_up() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let disk = Arc::new(SmallDisk(AtomicU64::new(1 << 29)));
    let vault = Vault::new(Some(key(1)), Vec::new());
    let limits = Limits { when_full: WhenFull::RefuseNewTasks, ..LIMITS };
    let appliance = Appliance::on(tempfile::tempdir().unwrap(), vault.clone(), disk.clone()).await;
    appliance.spool.watch_disk(limits, appliance.clock.clone()).await.unwrap();
    let reserve = appliance.dir.path().join("spool/.reserve");
    assert!(reserve.exists());
    let task = appliance.create("hTask", "clinic", KEYS.1).await;
    (0..4).for_each(|index| drop(appliance.spool(&task, index, &contents(&task, index))));
    let dir = appliance.crash().await;

    disk.0.store(100, Ordering::SeqCst);
    let mut appliance = Appliance::on(dir, vault, disk.clone()).await;
    appliance.spool.watch_disk(limits, appliance.clock.clone()).await.unwrap();
    stands(&appliance, "a full disk", |standing| standing.full && !standing.takes_tasks()).await;
    assert!(!reserve.exists());
    appliance.upload_to(&server.endpoint, |_| {});
    appliance.until_uploaded(4).await;
    for index in 0..4 {
        assert!(server.read("clinic", &format!("p1/{task}/{index}.ts")).await == contents(&task, index));
    }
    disk.0.store(1 << 29, Ordering::SeqCst);
    stands(&appliance, "room", |standing| standing.takes_tasks()).await;
    assert!(reserve.exists());
    drop(appliance.stop().await);
}
