//! S3 servers on loopback: s3s-fs (checks signatures, keeps files) and moto (speaks more of S3, checks less).

use std::collections::BTreeMap;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use super::{ACCESS_KEY, BUCKET, Port, Running, SECRET_KEY, listening, program};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    S3sFs,
    Moto,
}

/// An S3 server with the bucket [`BUCKET`].
pub struct S3 {
    pub endpoint: String,
    kind: Kind,
    port: Port,
    running: Running,
    dir: TempDir,
    client: Client,
}

impl S3 {
    pub async fn start(kind: Kind) -> S3 {
        let port = Port::take();
        let dir = TempDir::new().expect("a temporary folder can be made");
        let running = launch(kind, &port, dir.path());
        listening(port.address, "the S3 server").await;
        let endpoint = format!("http://{}", port.address);
        let client = client(&endpoint);
        client.create_bucket().bucket(BUCKET).send().await.expect("the server makes a bucket");
        S3 { endpoint, kind, port, running, dir, client }
    }

    /// Takes it off the network, as an outage would. (moto forgets what it had.)
    pub async fn stop(&mut self) {
        self.running.kill().await;
    }

    /// SIGSTOP and SIGCONT: a server that takes calls and answers none.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Brings it back on the same port with the same files.
    pub async fn start_again(&mut self) {
        assert_eq!(self.kind, Kind::S3sFs, "moto keeps nothing over a restart");
        self.running = launch(self.kind, &self.port, self.dir.path());
        listening(self.port.address, "the S3 server").await;
    }

    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.client.list_objects_v2().bucket(BUCKET).prefix(prefix).set_start_after(from).send().await;
            let page = page.expect("the server lists");
            keys.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
            if page.is_truncated() != Some(true) {
                return keys;
            }
            from = keys.last().cloned();
        }
    }

    pub async fn put(&self, key: &str, body: &[u8]) {
        let put = self.client.put_object().bucket(BUCKET).key(key).body(body.to_vec().into());
        put.send().await.unwrap_or_else(|e| panic!("PUT {key}: {e:?}"));
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        let object = self.client.get_object().bucket(BUCKET).key(key).send().await;
        let object = object.unwrap_or_else(|e| panic!("GET {key}: {e:?}"));
        object.body.collect().await.expect("the body comes whole").to_vec()
    }

    /// Every object below `prefix` by its key.
    pub async fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for key in self.keys(prefix).await {
            let body = self.get(&key).await;
            all.insert(key, body);
        }
        all
    }
}

/// Every file below `root` by its path relative to it, as the local store lays them out.
pub fn local_objects(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for path in entries.map(|e| e.expect("the folder can be read").path()) {
            if path.is_dir() {
                walk(root, &path, all);
            } else {
                let key = path.strip_prefix(root).expect("walked from there").to_string_lossy().into_owned();
                all.insert(key, std::fs::read(&path).expect("the file can be read"));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

fn launch(kind: Kind, port: &Port, dir: &Path) -> Running {
    let port = port.number().to_string();
    match kind {
        Kind::S3sFs => Running::start(
            "s3s-fs",
            Command::new(program(".tools/bin/s3s-fs"))
                .args(["--host", "127.0.0.1", "--port", &port])
                .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
                .arg(dir),
        ),
        Kind::Moto => Running::start(
            "moto",
            Command::new(program(".venv/bin/moto_server")).args(["-H", "127.0.0.1", "-p", &port]).current_dir(dir),
        ),
    }
}

fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .endpoint_url(endpoint)
        .force_path_style(true)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .build();
    Client::from_conf(config)
}
