//! Uploads against two real S3 servers (s3s-fs and moto) and the local store, behind one suite.
//!
//! Owns: the servers, a line between box and server that can be cut, what `ObjectStore` promises. Must not touch: how
//! the promises are kept.
//! Law: what a destination holds is byte for byte what was on the shelf, and nothing leaves the shelf before.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast::config::{Config, StorageKind};
use holdfast::model::recording::{Destination, Fate, StorageKeys, Vendor};
use holdfast::model::segment::{ClosedSegment, LocalName, object_key};
use holdfast::model::{Lane, LaneKind, LaneRun, MediaId, Secret, TaskId, Timestamp, UserId};
use holdfast::spool::{ShelfFile, Spool};
use holdfast::store::records;
use holdfast::store::seal::BoxKey;
use holdfast::store::{Batch, Store};
use holdfast::upload::local::Local;
use holdfast::upload::s3::{S3, Settings};
use holdfast::upload::{Body, Class, ObjectStore, Uploader};
use holdfast::vault::{Key, Vault};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const GUARD: Duration = Duration::from_secs(60);
const KEYS: (&str, &str) = ("AKIATEST", "secretsecret");
/// What object names are made of.
const KEY: &str = "p1/p2/hAb+c-9../1400_d2FyZCAzPw..__UserId_s_Pz8-+A..__UserId_e_main_video_20210531014551884.ts";

// ---- servers ----------------------------------------------------------------------------------------------------

struct Server {
    child: Child,
    endpoint: String,
    /// Checks signatures.
    strict: bool,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(variable: &str, default: &str) -> PathBuf {
    let path =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(default), PathBuf::from);
    assert!(path.exists(), "{} is missing: run scripts/setup, or name another one in {variable}", path.display());
    path
}

impl Server {
    async fn s3s() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary("HOLDFAST_S3S", ".tools/bin/s3s-fs"));
        command.args(["--host", "127.0.0.1", "--port", "0", "--access-key", KEYS.0, "--secret-key", KEYS.1]);
        command.arg(dir.path()).env("RUST_LOG", "info").env("NO_COLOR", "1");
        Server::start(command, dir, true).await
    }

    async fn moto() -> Server {
        let mut command = Command::new(binary("HOLDFAST_MOTO", ".venv/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        Server::start(command, tempfile::tempdir().unwrap(), false).await
    }

    /// Both say where they listen, each in its own words.
    async fn start(mut command: Command, dir: tempfile::TempDir, strict: bool) -> Server {
        let (output, input) = std::io::pipe().unwrap();
        command.stdout(input.try_clone().unwrap()).stderr(input);
        let child = command.spawn().unwrap();
        drop(command);
        let (told, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut told = Some(told);
            // read to the end: a full pipe would stop the server
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let endpoint = line.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:"));
                if let (Some(endpoint), Some(told)) = (endpoint, told.take_if(|_| endpoint.is_some())) {
                    let _ = told.send(endpoint.to_owned());
                }
            }
        });
        let mut server = Server { child, endpoint: String::new(), strict, _dir: dir };
        server.endpoint = tokio::time::timeout(GUARD, heard).await.expect("the server starts").expect("and says where");
        server
    }

    fn settings(&self, bucket: &str) -> Settings {
        Settings {
            endpoint: Some(self.endpoint.clone()),
            region: "eu-central-1".into(),
            bucket: bucket.into(),
            keys: keys(KEYS.0, KEYS.1),
            path_style: true,
            timeout: Duration::from_secs(20),
        }
    }

    /// The referee's own client.
    fn client(&self) -> aws_sdk_s3::Client {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .http_client(http)
            .endpoint_url(&self.endpoint)
            .region(aws_sdk_s3::config::Region::new("eu-central-1"))
            .credentials_provider(aws_sdk_s3::config::Credentials::new(KEYS.0, KEYS.1, None, None, "test"))
            .force_path_style(true);
        aws_sdk_s3::Client::from_conf(config.build())
    }

    async fn make_bucket(&self, bucket: &str) {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::EuCentral1)
            .build();
        self.client().create_bucket().bucket(bucket).create_bucket_configuration(place).send().await.unwrap();
    }

    async fn read(&self, bucket: &str, key: &str) -> Vec<u8> {
        let answer = self.client().get_object().bucket(bucket).key(key).send().await.unwrap();
        answer.body.collect().await.unwrap().to_vec()
    }
}

fn keys(access: &str, secret: &str) -> StorageKeys {
    StorageKeys { access_key: Secret::new(access), secret_key: Secret::new(secret) }
}

/// A line to a server that can be cut: then every connection is broken off, the open ones too.
struct Line {
    endpoint: String,
    up: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Line {
    async fn to(server: &Server, up: bool) -> Line {
        let target = server.endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let up = Arc::new(AtomicBool::new(up));
        let is_up = up.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                if !is_up.load(Ordering::SeqCst) {
                    // in the middle of the request, not before it
                    let _ = near.read(&mut [0; 64]).await;
                    continue;
                }
                let target = target.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Line { endpoint, up, accepting }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// ---- what every bucket promises ---------------------------------------------------------------------------------

fn body(dir: &Path, contents: &[u8], in_memory: bool) -> Body {
    let path = dir.join("body");
    let _ = fs::remove_file(&path);
    fs::write(&path, contents).unwrap();
    Body {
        file: ShelfFile::plain(path),
        bytes: in_memory.then(|| contents.to_vec().into()),
        size: contents.len() as u64,
    }
}

/// The same out of a sealed file.
fn sealed_body(dir: &Path, contents: &[u8]) -> Body {
    let (path, task) = (dir.join("sealed"), TaskId::parse("hTask").unwrap());
    let _ = fs::remove_file(&path);
    let vault = Vault::new(Some(Key::new([5; 32])), vec![]);
    let mut output = vault.create(&path, &holdfast::model::segment::identity(&task, "sealed")).unwrap();
    contents.chunks(1_000_000).for_each(|chunk| output.write(chunk).unwrap());
    output.finish().unwrap();
    Body { file: ShelfFile::sealed(&vault, &task, path), bytes: None, size: contents.len() as u64 }
}

/// Puts bodies of all kinds, small, empty, large and again, and gives back what must be there then.
async fn conforms(bucket: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..6 * 1024 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut expected = BTreeMap::new();
    for (key, contents, in_memory) in [
        (KEY, &b"\x47first"[..], true),
        ("t/empty.ts", &b""[..], true),
        ("t/large-in-memory.ts", &large[..], true),
        ("t/large-from-file.ts", &large[..], false),
        ("t/list.m3u8", &b"#EXTM3U\n"[..], true),
    ] {
        assert_eq!(bucket.head(key).await.unwrap(), None, "{key}");
        for _ in 0..2 {
            bucket.put(key, &body(dir.path(), contents, in_memory), "video/mp2t").await.unwrap();
            assert_eq!(bucket.head(key).await.unwrap(), Some(contents.len() as u64), "{key}");
        }
        expected.insert(key.to_owned(), contents.to_vec());
    }
    for _ in 0..2 {
        bucket.put("t/sealed.ts", &sealed_body(dir.path(), &large), "video/mp2t").await.unwrap();
    }
    expected.insert("t/sealed.ts".into(), large);
    bucket.put("t/list.m3u8", &body(dir.path(), b"#EXTM3U\n#EXT-X-ENDLIST\n", true), "x/y").await.unwrap();
    expected.insert("t/list.m3u8".into(), b"#EXTM3U\n#EXT-X-ENDLIST\n".to_vec());
    expected
}

async fn s3_conforms(server: Server) {
    server.make_bucket("clinic-125").await;
    let bucket = S3::new(server.settings("clinic-125")).unwrap();
    for (key, contents) in conforms(&bucket).await {
        assert!(server.read("clinic-125", &key).await == contents, "{key}");
    }

    let dir = tempfile::tempdir().unwrap();
    let small = body(dir.path(), b"x", true);
    // each of the two is strict where the other is not: s3s-fs makes buckets as it needs them
    if server.strict {
        let wrong = Settings { keys: keys(KEYS.0, "not the secret"), ..server.settings("clinic-125") };
        let refused = S3::new(wrong).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Refused, "SignatureDoesNotMatch"), "{refused}");
        let wrong = Settings { keys: keys("NOBODY", KEYS.1), ..server.settings("clinic-125") };
        let refused = S3::new(wrong).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!(refused.class, Class::Refused, "{refused}");
        assert!(!refused.to_string().contains(KEYS.1) && !refused.to_string().contains("not the secret"));
    } else {
        let nowhere = S3::new(server.settings("no-such-bucket")).unwrap();
        let refused = nowhere.put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Refused, "NoSuchBucket"), "{refused}");
        let facts = server.client().head_object().bucket("clinic-125").key(KEY).send().await.unwrap();
        assert_eq!(facts.content_type(), Some("video/mp2t"));
    }

    let line = Line::to(&server, false).await;
    let cut = Settings { endpoint: Some(line.endpoint.clone()), ..server.settings("clinic-125") };
    let cut = S3::new(cut).unwrap();
    let failed = cut.put("t/cut.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!((failed.class, failed.code.as_str()), (Class::Later, "ConnectionError"), "{failed}");
    line.up.store(true, Ordering::SeqCst);
    cut.put("t/cut.ts", &small, "video/mp2t").await.unwrap();

    let nobody = Settings { endpoint: Some("http://127.0.0.1:9".into()), ..server.settings("clinic-125") };
    let failed = S3::new(nobody).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!(failed.class, Class::Later, "{failed}");

    // a server that takes the call and says nothing
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let silence =
        Settings { endpoint: Some(endpoint), timeout: Duration::from_secs(1), ..server.settings("clinic-125") };
    let failed = S3::new(silence).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!((failed.class, failed.code.as_str()), (Class::Later, "RequestTimeout"), "{failed}");
}

#[tokio::test]
async fn s3s_conforms() {
    s3_conforms(Server::s3s().await).await;
}

#[tokio::test]
async fn moto_conforms() {
    s3_conforms(Server::moto().await).await;
}

#[tokio::test]
async fn the_local_store_conforms() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Local::new(root.path().to_owned(), "clinic-125".into());
    for (key, contents) in conforms(&bucket).await {
        assert!(fs::read(root.path().join("clinic-125").join(&key)).unwrap() == contents, "{key}");
    }
}

// ---- the way from the shelf -------------------------------------------------------------------------------------

/// Shelf, index and uploader of one box.
struct Appliance {
    dir: tempfile::TempDir,
    store: Store,
    spool: Arc<Spool>,
    box_key: Arc<BoxKey>,
    to: mpsc::Sender<(TaskId, Fate)>,
    fates: mpsc::Receiver<(TaskId, Fate)>,
    cancel: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Appliance {
    async fn new() -> Appliance {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("index")).unwrap().store;
        let (to, fates) = mpsc::channel(1024);
        let spool = Spool::open(&dir.path().join("spool"), store.clone(), to.clone()).unwrap();
        spool.recover().await.unwrap();
        let box_key = Arc::new(BoxKey::load_or_create(&dir.path().join("box.key")).unwrap());
        let cancel = CancellationToken::new();
        Appliance { dir, store, spool, box_key, to, fates, cancel, running: Vec::new() }
    }

    fn upload_to(&mut self, endpoint: &str, change: impl FnOnce(&mut Config)) {
        let mut config = Config::default();
        config.server.state_dir = self.dir.path().to_owned();
        config.storage.s3_endpoint = Some(endpoint.into());
        config.storage.path_style = true;
        config.upload.retry_longest_seconds = 1;
        config.upload.timeout_seconds = 20;
        change(&mut config);
        let (store, spool, key) = (self.store.clone(), self.spool.clone(), self.box_key.clone());
        let uploader = Uploader::new(Arc::new(config), store, spool, key, self.to.clone());
        self.running.push(tokio::spawn(uploader.run(self.cancel.clone())));
    }

    async fn create(&self, task: &str, bucket: &str, secret: &str) -> TaskId {
        self.create_at(Vendor::S3, task, bucket, secret).await
    }

    async fn create_at(&self, vendor: Vendor, task: &str, bucket: &str, secret: &str) -> TaskId {
        let task = TaskId::parse(task).unwrap();
        let destination =
            Destination { vendor, region: "eu-central-1".into(), bucket: bucket.into(), prefix: vec!["p1".into()] };
        let (keys, sig) = (keys(KEYS.0, secret), Secret::new("sig"));
        let batch = records::put_destination(Batch::new(), &task, &destination, &keys, &sig, &self.box_key);
        self.store.commit(batch).await.unwrap();
        self.spool.begin_task(&task).await.unwrap();
        task
    }

    /// Writes a segment and hands it over; its object is `<index>.ts`.
    fn spool(&self, task: &TaskId, index: u32, contents: &[u8]) -> ClosedSegment {
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Audio);
        let mut segment = ClosedSegment {
            run: LaneRun { task: task.clone(), lane, run: 0 },
            index,
            start: Timestamp(i64::from(index)),
            duration: Duration::from_secs(10),
            bytes: contents.len() as u64,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        fs::write(self.spool.task_dir(task).join(&segment.part_name), contents).unwrap();
        let object = format!("{index}.ts");
        let key = object_key(&["p1".into()], task, &object);
        self.spool.accept_segment(segment.clone(), object, key).unwrap();
        segment
    }

    fn publish(&self, task: &TaskId, version: u64, text: &str) {
        let key = object_key(&["p1".into()], task, "l.m3u8");
        self.spool.accept_playlist(task, "l.m3u8".into(), key, version, text.into()).unwrap();
    }

    async fn fate(&mut self) -> (TaskId, Fate) {
        tokio::time::timeout(GUARD, self.fates.recv()).await.expect("a fate comes").unwrap()
    }

    /// Fates until `n` objects were uploaded.
    async fn until_uploaded(&mut self, n: usize) -> Vec<(TaskId, Fate)> {
        let (mut seen, mut uploaded) = (Vec::new(), 0);
        while uploaded < n {
            let (task, fate) = self.fate().await;
            uploaded += usize::from(matches!(fate, Fate::SegmentUploaded { .. } | Fate::PlaylistUploaded { .. }));
            seen.push((task, fate));
        }
        seen
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        for running in self.running.drain(..) {
            tokio::time::timeout(GUARD, running).await.expect("it stops").unwrap();
        }
        self.store.close().await.unwrap();
    }
}

fn contents(task: &TaskId, index: u32) -> Vec<u8> {
    format!("{task} {index} ").repeat(500 + index as usize).into_bytes()
}

async fn everything_arrives(server: Server) {
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    appliance.upload_to(&server.endpoint, |_| {});
    let tasks = [appliance.create("hA", "clinic", KEYS.1).await, appliance.create("hB", "clinic", KEYS.1).await];
    for task in &tasks {
        for index in 0..12 {
            appliance.spool(task, index, &contents(task, index));
        }
        appliance.publish(task, 1, "#EXTM3U\n");
    }
    let fates = appliance.until_uploaded(26).await;
    for task in &tasks {
        let of_task: Vec<&Fate> = fates.iter().filter(|(t, _)| t == task).map(|(_, fate)| fate).collect();
        let spooled = of_task.iter().filter(|fate| matches!(fate, Fate::Spooled(_))).count();
        assert_eq!((of_task.len(), spooled), (25, 12), "{of_task:?}");
        assert!(of_task.contains(&&Fate::PlaylistUploaded { object: "l.m3u8".into(), version: 1 }));
        for index in 0..12 {
            assert!(of_task.contains(&&Fate::SegmentUploaded { object: format!("{index}.ts") }));
            assert!(server.read("clinic", &format!("p1/{task}/{index}.ts")).await == contents(task, index));
        }
        assert!(appliance.spool.pending(task).is_empty());
        appliance.publish(task, 2, "#EXTM3U\n#EXT-X-ENDLIST\n");
    }
    appliance.until_uploaded(2).await;
    for task in &tasks {
        assert_eq!(server.read("clinic", &format!("p1/{task}/l.m3u8")).await, b"#EXTM3U\n#EXT-X-ENDLIST\n");
        appliance.spool.forget_task(task).await.unwrap();
        assert!(!appliance.spool.task_dir(task).exists());
        assert!(records::load_keys(&appliance.store, &appliance.box_key, task).await.unwrap().is_none());
    }
    appliance.stop().await;
}

#[tokio::test]
async fn everything_arrives_at_s3s() {
    everything_arrives(Server::s3s().await).await;
}

#[tokio::test]
async fn everything_arrives_at_moto() {
    everything_arrives(Server::moto().await).await;
}

#[tokio::test]
async fn a_destination_that_refuses_is_told_and_holds_up_no_other() {
    let (server, cos) = tokio::join!(Server::s3s(), Server::moto());
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    let no_bucket = appliance.create_at(Vendor::Cos, "hNoBucket", "nowhere", KEYS.1).await;
    let wrong_key = appliance.create("hWrongKey", "clinic", "wrong").await;
    let good = appliance.create("hGood", "clinic", KEYS.1).await;
    for index in 0..30 {
        for task in [&no_bucket, &wrong_key] {
            appliance.spool(task, index, &contents(task, index));
        }
    }
    for index in 0..10 {
        appliance.spool(&good, index, &contents(&good, index));
    }
    appliance.spool.drained().await.unwrap();
    appliance.upload_to(&server.endpoint, |config| {
        config.upload.concurrency = 2;
        config.storage.cos_endpoint = Some(cos.endpoint.clone());
    });

    let (mut codes, mut arrived) = (BTreeMap::new(), 0);
    while arrived < 10 || codes.len() < 2 {
        match appliance.fate().await {
            (task, Fate::UploadFailed { code, .. }) => drop(codes.insert(task, code)),
            (task, Fate::SegmentUploaded { .. }) => {
                assert_eq!(task, good);
                arrived += 1;
            }
            _ => {}
        }
    }
    let expected = [(no_bucket.clone(), "NoSuchBucket"), (wrong_key.clone(), "SignatureDoesNotMatch")];
    assert_eq!(codes, expected.map(|(task, code)| (task, code.to_owned())).into());
    assert_eq!(appliance.spool.pending(&no_bucket).segments, 30, "what was refused stays");

    // somebody makes the bucket
    cos.make_bucket("nowhere").await;
    appliance.until_uploaded(30).await;
    assert!(cos.read("nowhere", "p1/hNoBucket/29.ts").await == contents(&no_bucket, 29));
    assert_eq!(appliance.spool.pending(&wrong_key).segments, 30);
    appliance.stop().await;
}

#[tokio::test]
async fn an_outage_is_sat_out_oldest_first() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let line = Line::to(&server, false).await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hOut", "clinic", KEYS.1).await;
    appliance.upload_to(&line.endpoint, |config| config.upload.concurrency = 1);
    for index in 0..8 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    let mut failures = 0;
    while failures < 2 {
        let (_, fate) = appliance.fate().await;
        assert!(!matches!(fate, Fate::SegmentUploaded { .. }));
        failures += u32::from(matches!(fate, Fate::UploadFailed { .. }));
    }
    assert_eq!(appliance.spool.pending(&task).segments, 8);
    line.up.store(true, Ordering::SeqCst);
    let order: Vec<String> = appliance
        .until_uploaded(8)
        .await
        .into_iter()
        .filter_map(|(_, fate)| match fate {
            Fate::SegmentUploaded { object } => Some(object),
            _ => None,
        })
        .collect();
    assert_eq!(order, (0..8).map(|n| format!("{n}.ts")).collect::<Vec<_>>());
    assert!(server.read("clinic", "p1/hOut/7.ts").await == contents(&task, 7));
    appliance.stop().await;
}

#[tokio::test]
async fn a_file_that_rotted_on_the_shelf_is_lost_and_never_uploaded() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hRot", "clinic", KEYS.1).await;
    let rotten = appliance.spool(&task, 0, &contents(&task, 0));
    let sound = appliance.spool(&task, 1, &contents(&task, 1));
    appliance.spool.drained().await.unwrap();
    let path = appliance.spool.task_dir(&task).join(LocalName::of(&rotten).to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();

    appliance.upload_to(&server.endpoint, |_| {});
    let fates: Vec<Fate> =
        [appliance.fate().await, appliance.fate().await, appliance.fate().await, appliance.fate().await]
            .into_iter()
            .map(|(_, fate)| fate)
            .collect();
    let lost = fates.iter().find_map(|fate| match fate {
        Fate::Lost { segment, .. } => Some(segment.index),
        _ => None,
    });
    assert_eq!(lost, Some(0));
    assert!(fates.contains(&Fate::Spooled(sound)));
    assert!(fates.contains(&Fate::SegmentUploaded { object: "1.ts".into() }));
    assert!(server.client().head_object().bucket("clinic").key("p1/hRot/0.ts").send().await.is_err());
    appliance.stop().await;
}

#[tokio::test]
async fn the_local_store_takes_everything_without_a_network() {
    let mut appliance = Appliance::new().await;
    appliance.upload_to("http://127.0.0.1:9", |config| config.storage.kind = StorageKind::Local);
    let task = appliance.create("hLocal", "clinic", KEYS.1).await;
    for index in 0..5 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    appliance.publish(&task, 1, "#EXTM3U\n");
    appliance.until_uploaded(6).await;
    let folder = appliance.dir.path().join("files/clinic/p1/hLocal");
    for index in 0..5 {
        assert!(fs::read(folder.join(format!("{index}.ts"))).unwrap() == contents(&task, index));
    }
    assert_eq!(fs::read_to_string(folder.join("l.m3u8")).unwrap(), "#EXTM3U\n");
    assert!(appliance.spool.pending(&task).is_empty());
    appliance.stop().await;
}

#[tokio::test]
async fn stopping_in_the_middle_of_an_upload_keeps_the_file() {
    // takes the call and never answers
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hStop", "clinic", KEYS.1).await;
    let segment = appliance.spool(&task, 0, &contents(&task, 0));
    appliance.upload_to(&format!("http://{}", silent.local_addr().unwrap()), |_| {});
    let (mut call, _) = silent.accept().await.unwrap();
    call.read_exact(&mut [0; 16]).await.unwrap();
    appliance.cancel.cancel();
    for running in appliance.running.drain(..) {
        tokio::time::timeout(GUARD, running).await.expect("it stops").unwrap();
    }
    assert_eq!(appliance.spool.pending(&task).segments, 1);
    assert!(appliance.spool.task_dir(&task).join(LocalName::of(&segment).to_string()).exists());
    assert!(appliance.spool.lease(1).await.unwrap().is_some(), "the next one may have it");
    appliance.stop().await;
}
