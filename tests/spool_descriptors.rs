//! A box that is short of descriptors has lost nothing: segments wait on the disk until there are some again.
//!
//! Alone in its file: the limit is the process's.

mod shelf;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast::model::LaneKind;
use holdfast::model::disk::Space;
use holdfast::model::fate::Fate;
use holdfast::model::segment::ClosedSegment;
use holdfast::spool::{Disk as Hardware, RealDisk, Spool};
use holdfast::store::Store;
use holdfast::vault::Vault;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

use shelf::{Disk, Life, name};

/// No file can be opened any more; those that are open stay so.
fn none_left() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("less is always allowed");
}

fn as_before(limit: Rlimit) {
    setrlimit(Resource::Nofile, limit).expect("it was so before");
}

/// The last descriptors go right after the first file is synced.
#[derive(Debug)]
struct Greedy(AtomicBool);

impl Hardware for Greedy {
    fn sync(&self, file: &File) -> io::Result<()> {
        let synced = file.sync_all();
        if file.metadata()?.is_file() && self.0.swap(false, Ordering::SeqCst) {
            none_left();
        }
        synced
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        RealDisk.space(dir)
    }
}

#[tokio::test]
async fn segments_wait_for_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let disk = Disk::new();
    let store = Store::open(&disk.dir.path().join("index")).expect("a fresh index").store;
    let (to, fates) = mpsc::channel(64);
    let greedy = Arc::new(Greedy(AtomicBool::new(false)));
    let dir = disk.dir.path().join("spool");
    let spool = Spool::open_on(&dir, store.clone(), Vault::default(), to, greedy.clone()).expect("a fresh shelf");
    let found = spool.recover().await.expect("an empty shelf");
    spool.begin_task(&disk.task).await.expect("its folder can be made");
    let mut life = Life { store, spool, fates, found };
    for (index, in_the_middle) in [false, true].into_iter().enumerate() {
        let called = name(u32::try_from(index).expect("two of them"), LaneKind::Audio);
        let part_name = called.clone().part().to_string();
        let segment = ClosedSegment { part_name, ..called.closed(&disk.task, Duration::from_secs(4), 188) };
        std::fs::write(disk.path(&segment.part_name), [0x47; 188]).expect("the folder is there");
        greedy.0.store(in_the_middle, Ordering::SeqCst);
        if !in_the_middle {
            none_left();
        }
        life.accept(&segment);
        // it was tried when this comes
        life.spool.drained().await.expect("the shelf lives");
        let (told, waiting) = (life.fates.try_recv(), life.spool.pending(&disk.task).segments);
        as_before(limit);
        assert!(told.is_err() && waiting == index + 1, "{told:?}, {waiting} wait");
        let Fate::Spooled(safe) = life.fate().await else { panic!("it is safe, and never lost") };
        assert_eq!(safe.index, segment.index);
    }
    life.die().await;
}
