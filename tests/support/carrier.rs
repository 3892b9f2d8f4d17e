//! Real S3 servers (s3s-fs and moto), and the half of a box that carries: shelf, index, uploader, over several lives.
#![allow(dead_code, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use holdfast::config::Config;
use holdfast::health::{Reporter, Summary};
use holdfast::model::fate::Fate;
use holdfast::model::recording::{Destination, StorageKeys, Vendor};
use holdfast::model::segment::{ClosedSegment, LocalName, identity, object_key};
use holdfast::model::{Lane, LaneKind, LaneRun, MediaId, Secret, TaskId, Timestamp, UserId, WallClock};
use holdfast::spool::{Disk, RealDisk, Recovered, Spool};
use holdfast::store::records;
use holdfast::store::seal::BoxKey;
use holdfast::store::{Batch, Store};
use holdfast::upload::Uploader;
use holdfast::upload::s3::Settings;
use holdfast::vault::Vault;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const GUARD: Duration = Duration::from_secs(60);
pub const KEYS: (&str, &str) = ("AKIATEST", "secretsecret");

// ---- servers ----------------------------------------------------------------------------------------------------

pub struct Server {
    pub child: Child,
    pub endpoint: String,
    /// Checks signatures.
    pub strict: bool,
    pub _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn binary(variable: &str, default: &str) -> PathBuf {
    let path =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(default), PathBuf::from);
    assert!(path.exists(), "{} is missing: run scripts/setup, or name another one in {variable}", path.display());
    path
}

impl Server {
    pub async fn s3s() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary("HOLDFAST_S3S", ".tools/bin/s3s-fs"));
        command.args(["--host", "127.0.0.1", "--port", "0", "--access-key", KEYS.0, "--secret-key", KEYS.1]);
        command.arg(dir.path()).env("RUST_LOG", "info").env("NO_COLOR", "1");
        Server::start(command, dir, true).await
    }

    pub async fn moto() -> Server {
        let mut command = Command::new(binary("HOLDFAST_MOTO", ".venv/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        Server::start(command, tempfile::tempdir().unwrap(), false).await
    }

    /// Both say where they listen, each in its own words.
    pub async fn start(mut command: Command, dir: tempfile::TempDir, strict: bool) -> Server {
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

    pub fn settings(&self, bucket: &str) -> Settings {
        Settings {
            endpoint: Some(self.endpoint.clone()),
            region: "eu-central-1".into(),
            bucket: bucket.into(),
            keys: keys(KEYS.0, KEYS.1),
            path_style: true,
            tags_of_parts: true,
            timeout: Duration::from_secs(20),
        }
    }

    /// The referee's own client.
    pub fn client(&self) -> aws_sdk_s3::Client {
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

    pub async fn make_bucket(&self, bucket: &str) {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::EuCentral1)
            .build();
        self.client().create_bucket().bucket(bucket).create_bucket_configuration(place).send().await.unwrap();
    }

    pub async fn read(&self, bucket: &str, key: &str) -> Vec<u8> {
        let answer = self.client().get_object().bucket(bucket).key(key).send().await.unwrap();
        answer.body.collect().await.unwrap().to_vec()
    }
}

pub fn keys(access: &str, secret: &str) -> StorageKeys {
    StorageKeys { access_key: Secret::new(access), secret_key: Secret::new(secret) }
}

// ---- the way from the shelf -------------------------------------------------------------------------------------

/// Shelf, index and uploader of one box.
pub struct Appliance {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub spool: Arc<Spool>,
    pub box_key: Arc<BoxKey>,
    pub to: mpsc::Sender<(TaskId, Fate)>,
    pub fates: mpsc::Receiver<(TaskId, Fate)>,
    pub cancel: CancellationToken,
    pub running: Vec<JoinHandle<()>>,
    pub clock: WallClock,
    pub health: Reporter,
    /// What this life found on the disk.
    pub recovered: Recovered,
}

impl Appliance {
    pub async fn new() -> Appliance {
        Appliance::over(tempfile::tempdir().unwrap()).await
    }

    /// A life on what is there.
    pub async fn over(dir: tempfile::TempDir) -> Appliance {
        Appliance::on(dir, Vault::default(), Arc::new(RealDisk)).await
    }

    /// The same with keys, and on a disk that the test answers for.
    pub async fn on(dir: tempfile::TempDir, vault: Vault, disk: Arc<dyn Disk>) -> Appliance {
        let store = Store::open(&dir.path().join("index")).unwrap().store;
        let (to, fates) = mpsc::channel(1024);
        let spool = Spool::open_on(&dir.path().join("spool"), store.clone(), vault, to.clone(), disk).unwrap();
        let recovered = spool.recover().await.unwrap();
        let box_key = Arc::new(BoxKey::load_or_create(&dir.path().join("box.key")).unwrap());
        let (cancel, health) = (CancellationToken::new(), Reporter::default());
        health.started();
        let clock: WallClock = Arc::new(|| Timestamp(0));
        Appliance { dir, store, spool, box_key, to, fates, cancel, running: Vec::new(), clock, health, recovered }
    }

    pub fn upload_to(&mut self, endpoint: &str, change: impl FnOnce(&mut Config)) {
        let mut config = Config::default();
        config.server.state_dir = self.dir.path().to_owned();
        config.storage.s3_endpoint = Some(endpoint.into());
        config.storage.path_style = true;
        config.upload.retry_longest_seconds = 1;
        config.upload.timeout_seconds = 20;
        change(&mut config);
        let (store, spool, key) = (self.store.clone(), self.spool.clone(), self.box_key.clone());
        let (clock, health) = (self.clock.clone(), self.health.clone());
        let uploader = Uploader::new(Arc::new(config), store, spool, key, self.to.clone(), clock, health);
        self.running.push(tokio::spawn(uploader.run(self.cancel.clone())));
    }

    pub async fn create(&self, task: &str, bucket: &str, secret: &str) -> TaskId {
        self.create_at(Vendor::S3, task, bucket, secret).await
    }

    pub async fn create_at(&self, vendor: Vendor, task: &str, bucket: &str, secret: &str) -> TaskId {
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
    pub fn spool(&self, task: &TaskId, index: u32, contents: &[u8]) -> ClosedSegment {
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
        let part = self.spool.task_dir(task).join(&segment.part_name);
        let mut file = self.spool.vault().create(&part, &identity(task, &segment.part_name)).unwrap();
        contents.chunks(64 * 1024).for_each(|chunk| file.write(chunk).unwrap());
        file.finish().unwrap();
        let object = format!("{index}.ts");
        let key = object_key(&["p1".into()], task, &object);
        self.spool.accept_segment(segment.clone(), object, key).unwrap();
        segment
    }

    pub fn publish(&self, task: &TaskId, version: u64, text: &str) {
        let key = object_key(&["p1".into()], task, "l.m3u8");
        self.spool.accept_playlist(task, "l.m3u8".into(), key, version, text.into()).unwrap();
    }

    pub async fn fate(&mut self) -> (TaskId, Fate) {
        tokio::time::timeout(GUARD, self.fates.recv()).await.expect("a fate comes").unwrap()
    }

    /// Fates until `n` objects were uploaded.
    pub async fn until_uploaded(&mut self, n: usize) -> Vec<(TaskId, Fate)> {
        let (mut seen, mut uploaded) = (Vec::new(), 0);
        while uploaded < n {
            let (task, fate) = self.fate().await;
            uploaded += usize::from(matches!(fate, Fate::SegmentUploaded { .. } | Fate::PlaylistUploaded { .. }));
            seen.push((task, fate));
        }
        seen
    }

    pub async fn stop(mut self) -> tempfile::TempDir {
        self.cancel.cancel();
        for running in self.running.drain(..) {
            tokio::time::timeout(GUARD, running).await.expect("it stops").unwrap();
        }
        self.store.close().await.unwrap();
        self.dir
    }

    /// It dies where it is; what was told is not heard.
    pub async fn crash(mut self) -> tempfile::TempDir {
        for running in self.running.drain(..) {
            running.abort();
            let _ = running.await;
        }
        self.spool.drained().await.unwrap();
        self.store.close().await.unwrap();
        self.dir
    }

    pub async fn degraded(&self) -> Vec<String> {
        let mut summary = self.health.watch();
        let degraded = summary.wait_for(|summary| matches!(summary, Summary::Degraded(_)));
        let degraded = tokio::time::timeout(GUARD, degraded).await.expect("health says so").unwrap();
        let Summary::Degraded(why) = &*degraded else { unreachable!("waited for it") };
        why.clone()
    }
}

pub fn contents(task: &TaskId, index: u32) -> Vec<u8> {
    format!("{task} {index} ").repeat(500 + index as usize).into_bytes()
}
