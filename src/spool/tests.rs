use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::model::backlog::Fault as Blame;
use crate::model::disk::{Level, WhenFull};
use crate::model::output::Container;
use crate::model::packed::{FilePlan, PLAN_VERSION, Source};
use crate::model::{Lane, LaneKind, MediaId, Timestamp, UserId};

/// A guard against waiting for ever, never a wait.
const GUARD: Duration = Duration::from_secs(20);

struct Shelf {
    dir: tempfile::TempDir,
    store: Store,
    spool: Arc<Spool>,
    fates: mpsc::Receiver<(TaskId, Fate)>,
    task: TaskId,
}

/// How a file is made safe.
type Sync = fn(&File) -> io::Result<()>;

#[derive(Debug)]
struct Syncs(Sync);

impl Disk for Syncs {
    fn sync(&self, file: &File) -> io::Result<()> {
        (self.0)(file)
    }
    fn space(&self, dir: &Path) -> io::Result<crate::model::disk::Space> {
        RealDisk.space(dir)
    }
}

async fn shelf_with(sync: Sync) -> Shelf {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index")).unwrap().store;
    let (to, fates) = mpsc::channel(64);
    let spool =
        Spool::open_on(&dir.path().join("spool"), store.clone(), Vault::default(), to, Arc::new(Syncs(sync))).unwrap();
    let task = TaskId::parse("hTask+1..").unwrap();
    spool.recover().await.unwrap();
    spool.begin_task(&task).await.unwrap();
    Shelf { dir, store, spool, fates, task }
}

async fn shelf() -> Shelf {
    shelf_with(File::sync_all).await
}

impl Shelf {
    fn write(&self, index: u32) -> ClosedSegment {
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Video);
        let mut segment = ClosedSegment {
            run: LaneRun { task: self.task.clone(), lane, run: 0 },
            index,
            start: Timestamp(i64::from(index) * 10_000_000),
            duration: Duration::from_secs(10),
            bytes: 8,
            size: Some((640, 360)),
            discontinuity: false,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        fs::write(self.path(&segment.part_name), format!("bytes {index:02}")).unwrap();
        segment
    }

    fn accept(&self, segment: &ClosedSegment) {
        let object = format!("{:02}.ts", segment.index);
        let key = format!("{}/{object}", self.task);
        self.spool.accept_segment(segment.clone(), object, key).unwrap();
    }

    fn publish(&self, version: u64) {
        let (object, key) = ("l.m3u8".to_owned(), format!("{}/l.m3u8", self.task));
        self.spool.accept_playlist(&self.task, object, key, version, format!("version {version}")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.spool.task_dir(&self.task).join(name)
    }

    /// What lies in the folder beside what the folder says of its task.
    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.spool.task_dir(&self.task)).unwrap();
        let mut names: Vec<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !folder::is_ours(name));
        names.sort();
        names
    }

    async fn fate(&mut self) -> Fate {
        tokio::time::timeout(GUARD, self.fates.recv()).await.expect("a fate comes").expect("the spool lives").1
    }

    async fn lease(&self) -> UploadJob {
        loop {
            if let Some(job) = self.spool.lease(4).await.unwrap() {
                return job;
            }
            tokio::time::timeout(GUARD, self.spool.wait_ready()).await.expect("something becomes ready");
        }
    }

    async fn entry(&self, object: &str) -> Option<SpoolEntry> {
        let key = records::spool_key(&self.task, object);
        self.store.get(&key).await.unwrap().map(|bytes| SpoolEntry::from_bytes(&key, &bytes).unwrap())
    }
}

#[tokio::test]
async fn a_segment_goes_all_the_way() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    assert_eq!(shelf.spool.pending(&shelf.task).segments, 1, "counted from the hand-over on");
    assert_eq!(shelf.fate().await, Fate::Spooled(segment.clone()));
    let last = LocalName::of(&segment).to_string();
    assert_eq!(shelf.names(), [last.as_str()]);
    let entry = shelf.entry("01.ts").await.unwrap();
    assert_eq!((entry.crc32, entry.bytes, entry.state), (crc32fast::hash(b"bytes 01"), 8, SpoolState::Spooled));

    let refused = shelf.spool.forget_task(&shelf.task).await.unwrap_err();
    assert!(matches!(refused, Error::NotEmpty { segments: 1, playlists: 0 }));

    let job = shelf.lease().await;
    assert_eq!(fs::read(job.path()).unwrap(), b"bytes 01");
    assert_eq!(job.entry().object_key, "hTask+1../01.ts");
    assert!(shelf.spool.lease(4).await.unwrap().is_none(), "leased once");
    assert_eq!(job.ack_uploaded().await.unwrap(), Fate::SegmentUploaded { object: "01.ts".into() });
    assert!(shelf.names().is_empty());
    assert_eq!(shelf.entry("01.ts").await.unwrap().state, SpoolState::Uploaded, "until the task has noted it");
    let journal = fs::read_to_string(shelf.path("uploaded.txt")).unwrap();
    assert!(journal.ends_with(&format!(" up {last} 01.ts\n")), "{journal}");
    shelf.store.commit(records::settle(Batch::new(), &shelf.task, "01.ts")).await.unwrap();
    assert_eq!(shelf.entry("01.ts").await, None);

    assert!(shelf.spool.pending(&shelf.task).is_empty());
    shelf.spool.forget_task(&shelf.task).await.unwrap();
    assert!(!shelf.spool.task_dir(&shelf.task).exists());
    shelf.spool.forget_task(&shelf.task).await.unwrap();
}

#[tokio::test]
async fn many_segments_keep_their_order() {
    let mut shelf = shelf().await;
    let segments: Vec<_> = (0..100).map(|n| shelf.write(n)).collect();
    segments.iter().for_each(|segment| shelf.accept(segment));
    for segment in &segments {
        assert_eq!(shelf.fate().await, Fate::Spooled(segment.clone()));
    }
    for segment in &segments {
        let job = shelf.lease().await;
        assert_eq!(job.entry().segment(), Some(segment));
        job.ack_uploaded().await.unwrap();
    }
}

static SYNCS: AtomicUsize = AtomicUsize::new(0);

fn no_file_syncs(file: &File) -> io::Result<()> {
    let about = file.metadata()?;
    // folders, and the journal of what was lost
    if about.is_dir() || about.len() != 8 {
        return Ok(());
    }
    SYNCS.fetch_add(1, Ordering::SeqCst);
    Err(io::Error::other("the disk has an error"))
}

#[tokio::test]
async fn a_sync_that_fails_is_never_repeated() {
    let mut shelf = shelf_with(no_file_syncs).await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    let Fate::Lost { segment: lost, why } = shelf.fate().await else { panic!("it cannot be safe") };
    assert_eq!(lost, segment);
    assert!(why.contains("the disk has an error"), "{why}");
    shelf.spool.drained().await.unwrap();
    assert_eq!(SYNCS.load(Ordering::SeqCst), 1);
    assert!(matches!(shelf.entry("01.ts").await.unwrap().state, SpoolState::Lost { .. }));
    assert_eq!(shelf.names(), [format!("{}.lost", segment.part_name)]);
    assert!(shelf.spool.pending(&shelf.task).is_empty());
    assert!(shelf.spool.lease(4).await.unwrap().is_none());

    // told again after a restart, until the task has noted it
    let recovered = shelf.spool.recover().await.unwrap();
    assert_eq!(recovered.tasks[&shelf.task].lost, [("01.ts".to_owned(), segment, why)]);
    shelf.spool.forget_task(&shelf.task).await.unwrap();
    assert!(!shelf.spool.task_dir(&shelf.task).exists());
}

/// An index that has gone back to segments which are packed, and so are gone, loses nothing.
#[tokio::test]
async fn what_was_let_go_is_not_lost() {
    let mut shelf = shelf().await;
    shelf.spool.begin_holding(&shelf.task, Hold::All).await.unwrap();
    let segments = [shelf.write(1), shelf.write(2)];
    for segment in &segments {
        shelf.accept(segment);
        assert_eq!(shelf.fate().await, Fate::Spooled(segment.clone()));
    }
    let yesterday = shelf.store.scan(records::spool_prefix(&shelf.task)).await.unwrap();
    assert_eq!(yesterday.len(), 2);

    shelf.spool.let_go(&shelf.task).unwrap();
    shelf.spool.drained().await.unwrap();
    assert!(shelf.names().is_empty());
    // the process died before all of them were removed
    let left = LocalName::of(&segments[1]).to_string();
    fs::write(shelf.path(&left), "bytes 02").unwrap();
    let back = yesterday.into_iter().fold(Batch::new(), |batch, (key, bytes)| batch.put(key, bytes));
    shelf.store.commit(back).await.unwrap();

    let (to, _fates) = mpsc::channel(64);
    let spool = Spool::open(&shelf.dir.path().join("spool"), shelf.store.clone(), to).unwrap();
    let found = &spool.recover().await.unwrap().tasks[&shelf.task];
    assert!(found.lost.is_empty() && found.spooled.is_empty() && found.adopted.is_empty(), "{found:?}");
    assert!(shelf.names().is_empty());
    assert!(shelf.store.scan(records::spool_prefix(&shelf.task)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_segment_without_its_file_is_lost() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    fs::remove_file(shelf.path(&segment.part_name)).unwrap();
    shelf.accept(&segment);
    assert!(matches!(shelf.fate().await, Fate::Lost { .. }));
}

#[tokio::test]
async fn accepting_again_what_is_renamed_already_is_harmless() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    for _ in 0..2 {
        shelf.accept(&segment);
        assert_eq!(shelf.fate().await, Fate::Spooled(segment.clone()));
    }
    let mut renamed = shelf.write(2);
    let last = LocalName::of(&renamed).to_string();
    fs::rename(shelf.path(&renamed.part_name), shelf.path(&last)).unwrap();
    renamed.part_name = last;
    shelf.accept(&renamed);
    assert_eq!(shelf.fate().await, Fate::Spooled(renamed));
    assert_eq!(shelf.spool.pending(&shelf.task).segments, 2);
}

#[tokio::test]
async fn a_job_that_is_dropped_or_fails_goes_back() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    shelf.fate().await;
    drop(shelf.lease().await);
    let job = shelf.lease().await;
    assert_eq!(job.attempts(), 0);
    job.ack_failed(Blame::Line, Duration::from_millis(20));
    let job = shelf.lease().await;
    assert_eq!((job.attempts(), job.line_failures()), (1, 1));
    job.ack_failed(Blame::File, Duration::from_millis(20));
    let job = shelf.lease().await;
    assert_eq!((job.attempts(), job.line_failures()), (2, 1));
    let Some(Fate::Lost { why, .. }) = job.ack_lost("rot".into()).await.unwrap() else { panic!() };
    assert_eq!(why, "rot");
    assert!(shelf.spool.pending(&shelf.task).is_empty());
}

/// A list whose file is gone or not what it was is told to its task, which makes it again.
#[tokio::test]
async fn a_playlist_that_is_lost_is_told() {
    let shelf = shelf().await;
    shelf.publish(1);
    let job = shelf.lease().await;
    assert!(!job.is_superseded());
    shelf.publish(2);
    shelf.spool.drained().await.unwrap();
    assert!(job.is_superseded());
    drop(job);
    let job = shelf.lease().await;
    let lost = job.ack_lost("rot".into()).await.unwrap();
    assert_eq!(lost, Some(Fate::PlaylistLost { object: "l.m3u8".into(), version: 2 }));
    assert!(shelf.spool.pending(&shelf.task).is_empty());
    shelf.publish(3);
    assert_eq!(shelf.lease().await.entry().kind, SpoolKind::Playlist { version: 3 });
}

static NOTES: AtomicUsize = AtomicUsize::new(0);

/// The first line of a journal of uploads does not sync.
fn no_first_note(file: &File) -> io::Result<()> {
    let about = file.metadata()?;
    if about.is_dir() || about.len() == 8 || NOTES.fetch_add(1, Ordering::SeqCst) > 0 {
        return Ok(());
    }
    Err(io::Error::other("the disk has an error"))
}

#[tokio::test]
async fn an_upload_that_cannot_be_noted_is_repeated_and_noted_elsewhere() {
    let mut shelf = shelf_with(no_first_note).await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    shelf.fate().await;
    assert!(matches!(shelf.lease().await.ack_uploaded().await, Err(Error::Io { .. })));
    assert_eq!(shelf.names().len(), 1, "it stays until it is noted");
    let job = shelf.lease().await;
    job.ack_uploaded().await.unwrap();
    assert!(shelf.names().is_empty());
    // what the first journal holds is unknown: it is not written to again
    let lines = |name| fs::read_to_string(shelf.path(name)).unwrap().lines().count();
    assert_eq!((lines("uploaded.txt"), lines("uploaded-2.txt")), (1, 1));
    shelf.spool.forget_task(&shelf.task).await.unwrap();
    assert!(!shelf.spool.task_dir(&shelf.task).exists());
}

/// What a folder says of a task that is over comes back by nobody's hand.
#[tokio::test]
async fn a_forgotten_task_is_not_described_again() {
    let shelf = shelf().await;
    shelf.spool.describe_task(&shelf.task, "one".into()).await.unwrap();
    shelf.spool.redescribe_task(&shelf.task, "two".into()).unwrap();
    shelf.spool.drained().await.unwrap();
    assert_eq!(fs::read_to_string(shelf.path("task.json")).unwrap(), "two");
    shelf.spool.forget_task(&shelf.task).await.unwrap();
    shelf.spool.redescribe_task(&shelf.task, "three".into()).unwrap();
    shelf.spool.drained().await.unwrap();
    assert!(!shelf.spool.task_dir(&shelf.task).exists());

    // a stranger's file keeps the folder, and not what it says
    shelf.spool.begin_task(&shelf.task).await.unwrap();
    fs::write(shelf.path("notes.txt"), "a technician's").unwrap();
    shelf.spool.describe_task(&shelf.task, "four".into()).await.unwrap();
    shelf.spool.forget_task(&shelf.task).await.unwrap();
    assert_eq!(shelf.spool.recover().await.unwrap().tasks[&shelf.task], Shelved::default());
}

#[tokio::test]
async fn a_newer_playlist_replaces_an_older_one() {
    let shelf = shelf().await;
    for version in [1, 2, 3] {
        shelf.publish(version);
        shelf.spool.drained().await.unwrap();
    }
    assert_eq!(shelf.names(), ["l.m3u8.v3"]);
    assert_eq!(shelf.spool.pending(&shelf.task).playlists, 1);
    let job = shelf.lease().await;
    assert_eq!(fs::read_to_string(job.path()).unwrap(), "version 3");

    // the next one comes while this one flies; and an older one comes late
    shelf.publish(4);
    shelf.publish(2);
    shelf.spool.drained().await.unwrap();
    assert!(shelf.spool.lease(4).await.unwrap().is_none(), "one object is never in flight twice");
    assert_eq!(job.ack_uploaded().await.unwrap(), Fate::PlaylistUploaded { object: "l.m3u8".into(), version: 3 });
    let job = shelf.lease().await;
    assert_eq!(fs::read_to_string(job.path()).unwrap(), "version 4");
    assert_eq!(job.ack_uploaded().await.unwrap(), Fate::PlaylistUploaded { object: "l.m3u8".into(), version: 4 });
    assert!(shelf.spool.pending(&shelf.task).is_empty());
    assert!(shelf.names().is_empty());
    assert!(shelf.store.scan(records::SPOOL).await.unwrap().is_empty());

    // a playlist that was uploaded before is put there again
    shelf.publish(5);
    assert_eq!(shelf.lease().await.entry().kind, SpoolKind::Playlist { version: 5 });
}

#[tokio::test]
async fn without_its_index_the_shelf_says_so() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    shelf.store.close().await.unwrap();
    shelf.accept(&segment);
    assert!(matches!(shelf.spool.drained().await, Err(Error::Stopped)));
    assert!(matches!(shelf.spool.lease(4).await, Ok(None)));
    // the file is safe and is found after the restart
    let (to, _fates) = mpsc::channel(4);
    let store = Store::open(&shelf.dir.path().join("index")).unwrap().store;
    let spool = Spool::open(&shelf.dir.path().join("spool"), store, to).unwrap();
    let found = spool.recover().await.unwrap();
    assert_eq!(found.tasks[&shelf.task].adopted.len(), 1);
    assert!(shelf.fates.try_recv().is_err());
}

fn limits(low_bytes: u64, when_full: WhenFull) -> DiskLimits {
    DiskLimits { low_bytes, low_percent: 0, low_inodes: 0, reserve_bytes: 1 << 20, when_full }
}

/// More than any disk has: it is always nearly full, and never full.
const NEVER_ROOMY: u64 = 1 << 60;

impl Shelf {
    async fn watch(&self, low_bytes: u64, when_full: WhenFull) {
        let clock: WallClock = Arc::new(|| Timestamp(100_000_000));
        self.spool.watch_disk(limits(low_bytes, when_full), clock).await.unwrap();
    }

    async fn stands(&self, how: impl FnMut(&Standing) -> bool) -> Standing {
        let mut standing = self.spool.standing();
        let stood = tokio::time::timeout(GUARD, standing.wait_for(how)).await;
        stood.expect("the disk stands so").expect("it is watched").clone()
    }

    fn holds_reserve(&self) -> bool {
        let file = fs::metadata(self.dir.path().join("spool").join(disk::RESERVE));
        file.is_ok_and(|file| file.len() == 1 << 20)
    }
}

#[tokio::test]
async fn on_a_full_disk_the_oldest_that_is_not_on_its_way_is_given_up() {
    let mut shelf = shelf().await;
    for n in 1..=3 {
        let segment = shelf.write(n);
        shelf.accept(&segment);
        shelf.fate().await;
    }
    shelf.publish(1);
    shelf.spool.drained().await.unwrap();
    let aside = shelf.path("x.part.lost");
    fs::write(&aside, "what nobody can trust").unwrap();
    let flies = loop {
        let job = shelf.lease().await;
        if job.entry().segment().is_some() {
            break job;
        }
    };
    assert_eq!(flies.entry().object, "01.ts");
    shelf.watch(NEVER_ROOMY, WhenFull::DropOldest).await;
    for n in 2..=3 {
        let Fate::Lost { segment, why } = shelf.fate().await else { panic!("it is given up") };
        assert_eq!((segment.index, why.as_str()), (n, "given up to make room on the disk"));
        assert!(matches!(shelf.entry(&format!("0{n}.ts")).await.unwrap().state, SpoolState::Lost { .. }));
    }
    assert!(!aside.exists());
    assert_eq!(shelf.spool.pending(&shelf.task), Pending { segments: 1, playlists: 1, bytes: 17 });
    let standing = shelf.stands(|s| s.dropped == 2).await;
    assert!(standing.refuses && !standing.ends_tasks(), "{standing:?}");
    flies.ack_uploaded().await.unwrap();
    assert_eq!(shelf.names(), ["l.m3u8.v1"], "playlists stay");
    // after a restart the task hears it again, as long as it has not noted it
    let recovered = shelf.spool.recover().await.unwrap();
    assert_eq!(recovered.tasks[&shelf.task].lost.len(), 2);
}

#[tokio::test]
async fn by_default_nothing_is_given_up() {
    let mut shelf = shelf().await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    shelf.fate().await;
    shelf.watch(NEVER_ROOMY, WhenFull::RefuseNewTasks).await;
    let standing = shelf.stands(|s| s.refuses).await;
    assert!(!standing.takes_tasks() && !standing.ends_tasks(), "{standing:?}");
    assert_eq!(shelf.spool.pending(&shelf.task).segments, 1);
    assert!(!shelf.holds_reserve(), "there is no room for it");
}

#[tokio::test]
async fn the_reserve_is_given_free_on_a_full_disk_and_taken_again() {
    let shelf = shelf().await;
    shelf.watch(0, WhenFull::RefuseNewTasks).await;
    assert!(shelf.holds_reserve());
    let mut standing = shelf.spool.standing();
    shelf.spool.report(Fault::Full, "no space left on device");
    let full = tokio::time::timeout(GUARD, standing.wait_for(|s| s.full)).await.unwrap().unwrap().clone();
    assert!(full.ends_tasks() && !full.takes_tasks());
    // the disk of this test has room: the next look sees it
    let roomy = shelf.stands(|s| s.level == Level::Roomy).await;
    assert!(roomy.takes_tasks());
    assert!(shelf.holds_reserve());
    let found = shelf.spool.recover().await.unwrap();
    assert_eq!(found.unknown, 0, "the reserve is no stranger");
}

#[tokio::test]
async fn other_limits_hold_from_the_next_look_on() {
    let shelf = shelf().await;
    shelf.watch(0, WhenFull::RefuseNewTasks).await;
    assert!(shelf.holds_reserve());
    shelf.spool.keep_disk_to(DiskLimits { reserve_bytes: 0, ..limits(NEVER_ROOMY, WhenFull::RefuseNewTasks) });
    shelf.stands(|s| s.refuses).await;
    assert!(!shelf.dir.path().join("spool").join(disk::RESERVE).exists());
    shelf.spool.keep_disk_to(limits(0, WhenFull::RefuseNewTasks));
    shelf.stands(|s| s.level == Level::Roomy).await;
    assert!(shelf.holds_reserve());
}

static FAILS: AtomicUsize = AtomicUsize::new(0);

fn fails_once(file: &File) -> io::Result<()> {
    match FAILS.fetch_add(1, Ordering::SeqCst) {
        0 => Err(io::Error::from_raw_os_error(5)),
        _ => file.sync_all(),
    }
}

#[tokio::test]
async fn a_sync_that_fails_fails_the_disk_until_it_has_shown_that_it_works() {
    let mut shelf = shelf_with(fails_once).await;
    shelf.watch(0, WhenFull::RefuseNewTasks).await;
    let segment = shelf.write(1);
    shelf.accept(&segment);
    assert!(matches!(shelf.fate().await, Fate::Lost { .. }));
    let standing = shelf.stands(|s| s.failed.is_some()).await;
    assert!(standing.ends_tasks() && standing.failed.unwrap().contains("Input/output error"));
    let standing = shelf.stands(|s| s.failed.is_none()).await;
    assert!(standing.takes_tasks() && standing.failed_before.is_some(), "{standing:?}");
}

/// A folder that is removed once it is described, when the description of the other one is made safe.
static FORGOTTEN: Mutex<Option<(PathBuf, PathBuf)>> = Mutex::new(None);

fn forgets(file: &File) -> io::Result<()> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if let Some((gone, other)) = &*FORGOTTEN.lock().unwrap()
        && path.starts_with(other)
        && gone.join(folder::TASK).exists()
    {
        fs::remove_dir_all(gone)?;
    }
    file.sync_all()
}

/// A task that is described for the last time may be forgotten before its folder is synced: it was a reason to end all
/// recordings of the box.
#[tokio::test]
async fn a_folder_that_is_gone_when_it_is_to_be_synced_says_nothing_of_the_disk() {
    let shelf = shelf_with(forgets).await;
    shelf.watch(0, WhenFull::RefuseNewTasks).await;
    let later = TaskId::parse("iTask+2..").unwrap();
    assert!(later > shelf.task, "folders are described in this order");
    shelf.spool.begin_task(&later).await.unwrap();
    *FORGOTTEN.lock().unwrap() = Some((shelf.spool.task_dir(&shelf.task), shelf.spool.task_dir(&later)));
    {
        // the thread takes both at once: it is at this one, or has not begun
        let _describing = shelf.spool.shared.describing.lock().unwrap();
        shelf.spool.redescribe_task(&later, "keeps the thread busy".into()).unwrap();
        for task in [&shelf.task, &later] {
            shelf.spool.redescribe_task(task, "over".into()).unwrap();
        }
    }
    shelf.spool.drained().await.unwrap();
    assert!(!shelf.spool.task_dir(&shelf.task).exists(), "it was removed between its description and its sync");
    assert!(shelf.spool.task_dir(&later).join(folder::TASK).exists());
    // whatever was met with before is heard no later than this
    shelf.spool.report(Fault::Full, "no space left on device");
    let full = shelf.stands(|standing| standing.full).await;
    assert_eq!(full.failed, None);
}

/// The plan of a file that has all of these segments.
fn plan_of(segments: &[&ClosedSegment]) -> String {
    let source = |segment: &&ClosedSegment| Source {
        file: LocalName::of(segment).to_string(),
        at: 0,
        crc32: 0,
        pictures: Some((0, 30)),
        sounds: None,
        of: Some((30, 0)),
    };
    let sources = segments.iter().map(source).collect();
    let (v, container, start) = (PLAN_VERSION, Container::Mp4, segments[0].start);
    let plan = FilePlan { v, container, black_after: None, start, sources, bytes: 99, crc32: 7, listed: false };
    serde_json::to_string(&plan).unwrap()
}

impl Shelf {
    /// Three segments that are held, and a file of the first two of them on the shelf.
    async fn holds_three(&mut self) -> Vec<ClosedSegment> {
        self.spool.begin_holding(&self.task, Hold::All).await.unwrap();
        let segments: Vec<ClosedSegment> = (1..=3).map(|n| self.write(n)).collect();
        for segment in &segments {
            self.accept(segment);
            self.fate().await;
        }
        let (object, key) = ("a.mp4".to_owned(), format!("{}/a.mp4", self.task));
        let plan = plan_of(&[&segments[0], &segments[1]]);
        self.spool.accept_package(&self.task, object, key, (99, 7), plan).unwrap();
        self.spool.drained().await.unwrap();
        segments
    }

    fn has(&self, segment: &ClosedSegment) -> bool {
        self.path(&LocalName::of(segment).to_string()).exists()
    }

    /// What another life finds, with this index or without one.
    async fn found(&self, index: bool) -> Shelved {
        let store = match index {
            true => self.store.clone(),
            false => Store::open(&self.dir.path().join("another")).unwrap().store,
        };
        let (to, _fates) = mpsc::channel(64);
        let spool = Spool::open(&self.dir.path().join("spool"), store.clone(), to).unwrap();
        let found = spool.recover().await.unwrap().tasks.remove(&self.task).unwrap();
        if !index {
            store.close().await.unwrap();
        }
        found
    }
}

#[tokio::test]
async fn what_a_file_holds_that_is_up_goes_first_and_is_not_lost() {
    for index in [true, false] {
        let mut shelf = shelf().await;
        let segments = shelf.holds_three().await;
        let flies = shelf.lease().await;
        assert_eq!(flies.ack_uploaded().await.unwrap(), Fate::PackageUploaded { object: "a.mp4".into() });
        assert!(shelf.names().contains(&"a.mp4.plan.kept".to_owned()), "{:?}", shelf.names());
        shelf.watch(NEVER_ROOMY, WhenFull::DropOldest).await;
        let Fate::Lost { segment, .. } = shelf.fate().await else { panic!("the third is in no file") };
        assert_eq!(segment.index, 3);
        assert!(!segments.iter().any(|segment| shelf.has(segment)));
        assert_eq!(shelf.stands(|s| s.dropped > 0).await.dropped, 1, "nothing else was given up");
        assert!(shelf.fates.try_recv().is_err());
        for object in ["01.ts", "02.ts"] {
            assert_eq!(shelf.entry(object).await, None);
        }
        let found = shelf.found(index).await;
        assert_eq!(found.up.iter().map(|file| file.object.as_str()).collect::<Vec<_>>(), ["a.mp4"]);
        assert_eq!(found.packed_segments, BTreeSet::from([(0, 1), (0, 2)]));
        assert_eq!(found.noted_lost.iter().map(|name| name.index).collect::<Vec<_>>(), [3]);
        assert_eq!(found.lost.len(), usize::from(index), "the index has not yet heard that the third was told");
        shelf.spool.let_go(&shelf.task).unwrap();
        shelf.spool.drained().await.unwrap();
        shelf.spool.forget_task(&shelf.task).await.unwrap();
        assert!(!shelf.spool.task_dir(&shelf.task).exists());
    }
}

/// The records of what went may have stayed: nothing is lost by that either.
#[tokio::test]
async fn an_index_that_has_gone_back_to_what_a_file_holds_loses_none_of_it() {
    let mut shelf = shelf().await;
    let segments = shelf.holds_three().await;
    let back: Vec<SpoolEntry> =
        [shelf.entry("01.ts").await, shelf.entry("a.mp4").await].into_iter().flatten().collect();
    shelf.lease().await.ack_uploaded().await.unwrap();
    fs::remove_file(shelf.path(&LocalName::of(&segments[0]).to_string())).unwrap();
    let batch = back.iter().fold(Batch::new(), |batch, entry| batch.put(entry.key(), entry.to_bytes()));
    shelf.store.commit(batch).await.unwrap();
    let found = shelf.found(true).await;
    assert_eq!((found.lost.len(), found.spooled.len()), (0, 2));
    assert_eq!(
        (found.packed, found.packages),
        (vec!["a.mp4".to_owned()], vec![]),
        "it is up, and not to be sent again"
    );
    assert_eq!(shelf.entry("01.ts").await, None);
}

#[tokio::test]
async fn whether_a_segment_is_lost_that_a_file_waits_for_shows_when_that_is_sent() {
    let mut shelf = shelf().await;
    let segments = shelf.holds_three().await;
    shelf.watch(NEVER_ROOMY, WhenFull::DropOldest).await;
    let Fate::Lost { segment, .. } = shelf.fate().await else { panic!("no file waits for the third") };
    assert_eq!(segment.index, 3);
    assert!(!shelf.has(&segments[0]) && shelf.fates.try_recv().is_err());
    assert!(matches!(shelf.entry("01.ts").await.unwrap().state, SpoolState::Lost { .. }), "the index knows");
    let found = shelf.found(true).await;
    assert_eq!((found.waiting.len(), found.packed_segments), (1, BTreeSet::from([(0, 1), (0, 2)])));
    assert_eq!(found.lost.iter().map(|(_, segment, _)| segment.index).collect::<Vec<_>>(), [3]);
    // it cannot be made: what it had is in nothing any more
    let fate = shelf.lease().await.ack_lost("gone".into()).await.unwrap();
    assert!(matches!(fate, Some(Fate::PackageLost { .. })));
    assert_eq!(shelf.found(true).await.packed_segments, BTreeSet::new());
}

#[tokio::test]
async fn what_a_file_holds_that_is_up_goes_where_nothing_is_given_up() {
    let mut shelf = shelf().await;
    let segments = shelf.holds_three().await;
    shelf.lease().await.ack_uploaded().await.unwrap();
    shelf.watch(NEVER_ROOMY, WhenFull::RefuseNewTasks).await;
    shelf.stands(|s| s.refuses).await;
    let there: Vec<bool> = segments.iter().map(|segment| shelf.has(segment)).collect();
    assert_eq!(there, [false, false, true]);
    assert!(shelf.fates.try_recv().is_err());
}
