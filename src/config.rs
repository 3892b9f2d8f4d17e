//! What can be configured: types, defaults, validation, redaction.
//!
//! Owns: the meaning of settings. Must not touch: files, network (text comes in, a `Config` goes out).
//! Law: a document is taken whole or refused whole, with every fault named by its path; secrets never print.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::model::{SdkAppId, Secret};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub whip: Whip,
    pub apps: Vec<App>,
    pub api_keys: Vec<ApiKey>,
    pub limits: Limits,
    pub recording: Recording,
    pub storage: Storage,
    pub upload: Upload,
    pub callbacks: Callbacks,
    pub log: Log,
}

/// The doors.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// API, WHIP, console, health, metrics and local files over HTTP; `None` closes the door.
    pub http: Option<SocketAddr>,
    /// The same over HTTPS.
    pub https: Option<SocketAddr>,
    /// PEM files; without them a certificate is made at first start and kept in the state directory.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Names (and addresses) that the made certificate carries and that a client may have signed as its host.
    pub public_names: Vec<String>,
    /// Everything that must outlast a restart: index, spool, box key, certificate.
    pub state_dir: PathBuf,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            http: Some(SocketAddr::from(([0, 0, 0, 0], 8080))),
            https: Some(SocketAddr::from(([0, 0, 0, 0], 8443))),
            certificate: None,
            private_key: None,
            public_names: vec!["trtc.tencentcloudapi.com".into()],
            state_dir: "/var/lib/holdfast".into(),
        }
    }
}

/// WebRTC in.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Whip {
    /// The one UDP port of all publishers.
    pub udp: SocketAddr,
    /// Addresses offered as host candidates; empty: those of the box's interfaces (or of `udp` when it names one).
    pub addresses: Vec<IpAddr>,
    /// A publisher who was not heard for so long has vanished.
    pub ice_timeout_seconds: u64,
    /// Publishers at once.
    pub max_sessions: usize,
}

impl Default for Whip {
    fn default() -> Self {
        Whip {
            udp: SocketAddr::from(([0, 0, 0, 0], 8189)),
            addresses: Vec::new(),
            ice_timeout_seconds: 10,
            max_sessions: 100,
        }
    }
}

/// One TRTC application.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    pub sdk_app_id: SdkAppId,
    /// When set, every UserSig (publishers' and recorders') is checked against it.
    #[serde(default)]
    pub secret_key: Option<Secret>,
    /// Where events go; none: nobody is called.
    #[serde(default)]
    pub callback_url: Option<String>,
    /// Key of the `Sign` header.
    #[serde(default)]
    pub callback_key: Option<Secret>,
}

/// One key pair that may sign API calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    pub secret_id: String,
    pub secret_key: Secret,
    /// Applications it may speak for; empty: all.
    #[serde(default)]
    pub apps: BTreeSet<SdkAppId>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// API requests per second, for each action apart.
    pub requests_per_second: u32,
    /// Recording tasks at once.
    pub tasks: usize,
    /// Streams (lanes' sources) subscribed in one task.
    pub streams_per_task: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { requests_per_second: 20, tasks: 100, streams_per_task: 25 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    pub segment_seconds: u64,
    /// A stream that is silent for so long gets its segment closed; its return is a discontinuity.
    pub gap_seconds: u64,
    /// Written media reaches the disk at least so often.
    pub sync_seconds: u64,
}

impl Default for Recording {
    fn default() -> Self {
        Recording { segment_seconds: 10, gap_seconds: 3, sync_seconds: 2 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// COS or S3, as each task says
    Cloud,
    /// a directory on the box, laid out as the bucket would be: `<root>/<bucket>/<key>`
    Local,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    pub kind: StorageKind,
    /// Root of the local store; relative to the state directory.
    pub local_root: PathBuf,
    /// Endpoint of S3 destinations (`Vendor` 1) in place of the region's own.
    pub s3_endpoint: Option<String>,
    /// Endpoint of COS destinations (`Vendor` 0) in place of `https://cos.<region>.myqcloud.com`.
    pub cos_endpoint: Option<String>,
    /// `http://host/bucket/key` in place of `http://bucket.host/key`.
    pub path_style: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            kind: StorageKind::Cloud,
            local_root: "files".into(),
            s3_endpoint: None,
            cos_endpoint: None,
            path_style: false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upload {
    /// Objects in flight at once.
    pub concurrency: usize,
    pub timeout_seconds: u64,
    /// First and longest wait between two tries of one object.
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    /// After the end of a task, so long for its files to arrive before 305 says Status 1.
    pub grace_seconds: u64,
}

impl Default for Upload {
    fn default() -> Self {
        Upload {
            concurrency: 4,
            timeout_seconds: 60,
            retry_first_seconds: 1,
            retry_longest_seconds: 300,
            grace_seconds: 60,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    pub timeout_seconds: u64,
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    /// Events that nobody took for so long are dropped.
    pub keep_hours: u64,
}

impl Default for Callbacks {
    fn default() -> Self {
        Callbacks { timeout_seconds: 5, retry_first_seconds: 1, retry_longest_seconds: 60, keep_hours: 72 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// As `RUST_LOG`, which wins over it.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { filter: "info".into() }
    }
}

/// What is wrong with a document, one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

impl Config {
    pub fn app(&self, id: SdkAppId) -> Option<&App> {
        self.apps.iter().find(|app| app.sdk_app_id == id)
    }

    pub fn ice_timeout(&self) -> Duration {
        Duration::from_secs(self.whip.ice_timeout_seconds)
    }

    /// Where segments wait for their destination.
    pub fn spool_dir(&self) -> PathBuf {
        self.server.state_dir.join("spool")
    }

    pub fn index_dir(&self) -> PathBuf {
        self.server.state_dir.join("index")
    }

    pub fn local_root(&self) -> PathBuf {
        self.server.state_dir.join(&self.storage.local_root)
    }
}
