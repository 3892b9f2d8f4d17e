//! A shelf on a disk of its own, over several lives of the process that has it.
#![allow(dead_code, reason = "each test file uses its share")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast::model::fate::Fate;
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{Lane, LaneKind, MediaId, TaskId, Timestamp, UserId};
use holdfast::spool::{Error, Recovered, Spool};
use holdfast::store::Store;
use holdfast::vault::Vault;
use tokio::sync::mpsc;

pub const GUARD: Duration = Duration::from_secs(30);

/// A box's state directory, with one task on its shelf.
pub struct Disk {
    pub dir: tempfile::TempDir,
    pub task: TaskId,
}

/// One life of the process.
pub struct Life {
    pub store: Store,
    pub spool: Arc<Spool>,
    pub fates: mpsc::Receiver<(TaskId, Fate)>,
    pub found: Recovered,
}

impl Disk {
    pub fn new() -> Disk {
        Disk { dir: tempfile::tempdir().unwrap(), task: TaskId::parse("hTask").unwrap() }
    }

    pub async fn try_live(&self, vault: &Vault) -> Result<Life, Error> {
        let store = Store::open(&self.dir.path().join("index")).unwrap().store;
        let (to, fates) = mpsc::channel(64);
        let spool = Spool::open_sealed(&self.dir.path().join("spool"), store.clone(), vault.clone(), to).unwrap();
        let found = match spool.recover().await {
            Ok(found) => found,
            Err(error) => {
                store.close().await.unwrap();
                return Err(error);
            }
        };
        spool.begin_task(&self.task).await.unwrap();
        Ok(Life { store, spool, fates, found })
    }

    pub async fn live(&self, vault: &Vault) -> Life {
        self.try_live(vault).await.unwrap()
    }

    /// Of a file of the task.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("spool").join(self.task.as_str()).join(name)
    }
}

impl Life {
    pub fn accept(&self, segment: &ClosedSegment) {
        let object = format!("{}.ts", segment.index);
        let key = format!("{}/{object}", segment.run.task);
        self.spool.accept_segment(segment.clone(), object, key).unwrap();
    }

    pub async fn fate(&mut self) -> Fate {
        tokio::time::timeout(GUARD, self.fates.recv()).await.expect("a fate comes").expect("the spool lives").1
    }

    /// The process dies. What is not durable by now is gone.
    pub async fn die(self) {
        self.store.close().await.unwrap();
    }
}

/// Of four seconds of ann's.
pub fn name(index: u32, kind: LaneKind) -> LocalName {
    LocalName {
        lane: Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, kind),
        run: 0,
        index,
        start: Timestamp(1_700_000_000_000_000 + i64::from(index) * 10_000_000),
        size: kind.has_video().then_some((320, 240)),
        discontinuity: index == 0,
        duration: Some(Duration::from_secs(4)),
    }
}
