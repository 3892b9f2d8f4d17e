//! What can be configured: types, defaults, validation, redaction.
//!
//! Owns: the meaning of settings. Must not touch: files, network (text comes in, a `Config` goes out).
//! Law: a document is taken whole or refused whole, with every fault named by its path; secrets never print.

mod alarms;
mod automatic;
mod change;
pub mod document;
mod faults;
mod fleet;
mod live;
pub mod panel;
pub mod rotation;
pub mod sources;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use alarms::Alarms;
pub use automatic::Automatic;
pub use change::Change;
pub use faults::Fault;
pub use fleet::{Broker, Fleet};
use ipnet::IpNet;
pub use live::Live;
pub use panel::Panel;
use serde::{Deserialize, Deserializer, Serialize};
pub use sources::Source;

use crate::model::budget::{Budget, UtcOffset, Window};
use crate::model::disk::{Limits as DiskLimits, WhenFull};
use crate::model::source::SourceSpec;
use crate::model::{SdkAppId, Secret};

const MIB: u64 = 1024 * 1024;

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub whip: Whip,
    pub apps: Vec<App>,
    pub api_keys: Vec<ApiKey>,
    pub limits: Limits,
    pub recording: Recording,
    pub automatic: Automatic,
    pub sources: Vec<Source>,
    pub alarms: Alarms,
    pub spool: Spool,
    pub storage: Storage,
    pub disk: Disk,
    pub upload: Upload,
    pub vod: Vod,
    pub callbacks: Callbacks,
    pub images: Images,
    pub panel: Panel,
    pub fleet: Fleet,
    pub log: Log,
}

/// The doors.
#[derive(Debug, Clone, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    pub secret_id: String,
    pub secret_key: Secret,
    /// Applications it may speak for; empty: all.
    #[serde(default)]
    pub apps: BTreeSet<SdkAppId>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// API requests per second, for each action apart.
    pub requests_per_second: u32,
    /// Recording tasks at once.
    pub tasks: usize,
    /// Streams (lanes' sources) subscribed in one task.
    pub streams_per_task: usize,
    /// Mixed recordings are admitted by what the board was measured to take; without it all are.
    pub probe: bool,
    /// Publishers that a mixed recording is taken to have: at Create nobody knows who will come.
    pub mix_publishers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { requests_per_second: 20, tasks: 100, streams_per_task: 25, probe: true, mix_publishers: 4 }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    pub segment_seconds: u64,
    /// A stream that is silent for so long gets its segment closed; its return is a discontinuity.
    pub gap_seconds: u64,
    /// Written media reaches the disk at least so often.
    pub sync_seconds: u64,
    /// What an orderly stop of the daemon does to running tasks.
    pub on_stop: OnStop,
    /// After a failure a task is taken up again: the first time, the second, and every later one so long after the one
    /// before began.
    pub takeover_seconds: [u64; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// the tasks end (302 with LeaveCode 3)
    End,
    /// the tasks wait for the next start, which takes them over (306, `ha<n>_` names)
    Resume,
}

impl Default for Recording {
    fn default() -> Self {
        Recording {
            segment_seconds: 10,
            gap_seconds: 3,
            sync_seconds: 2,
            on_stop: OnStop::End,
            takeover_seconds: [0, 30, 120],
        }
    }
}

/// The shelf: where recordings wait for their destination. With a key they lie there encrypted.
///
/// A key is a file of 32 bytes or 64 hexadecimal digits; a credential is one that systemd hands over.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    pub key_file: Option<PathBuf>,
    /// Name of a file in `$CREDENTIALS_DIRECTORY`, in place of `key_file`.
    pub key_credential: Option<String>,
    /// Keys that files on the shelf may still have, after `key_file` became another or none.
    pub old_key_files: Vec<PathBuf>,
    pub old_key_credentials: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// COS or S3, as each task says
    Cloud,
    /// a directory on the box, laid out as the bucket would be: `<root>/<bucket>/<key>`
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
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

/// The disk of the spool.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// It is nearly full when less than this is free of any of the three.
    pub low_bytes: u64,
    pub low_percent: u64,
    pub low_inodes: u64,
    /// Held back, so that running tasks can end in order on a full disk.
    pub reserve_bytes: u64,
    pub when_full: WhenFull,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            low_bytes: 536_870_912,
            low_percent: 3,
            low_inodes: 2000,
            reserve_bytes: 67_108_864,
            when_full: WhenFull::RefuseNewTasks,
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upload {
    /// Objects (and one playlist more) in flight at once to destinations that are well; as many again may be tried of those that are not.
    pub concurrency: usize,
    /// Objects in flight at once to one destination.
    pub per_destination: usize,
    /// A try ends when nothing has moved for so long.
    pub timeout_seconds: u64,
    /// Files from this size on go up in parts.
    pub multipart_from_bytes: u64,
    pub part_bytes: u64,
    /// Of all uploads together, where no window of `budget` says otherwise; absent: no bound; 0: playlists only.
    pub bytes_per_second: Option<u64>,
    /// Windows of the day with a rate of their own.
    pub budget: Vec<Window>,
    /// What the times of `budget` are told by.
    pub utc_offset: UtcOffset,
    /// First and longest wait between two tries of one object.
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    /// After the end of a task, so long for its files to arrive before 305 says Status 1.
    pub grace_seconds: u64,
    /// While more segments of it wait, a playlist is carried so often at most.
    pub list_seconds: u64,
}

impl Default for Upload {
    fn default() -> Self {
        Upload {
            concurrency: 4,
            per_destination: 3,
            timeout_seconds: 60,
            multipart_from_bytes: 64 * MIB,
            part_bytes: 16 * MIB,
            bytes_per_second: None,
            budget: Vec::new(),
            utc_offset: UtcOffset::default(),
            retry_first_seconds: 1,
            retry_longest_seconds: 300,
            grace_seconds: 60,
            list_seconds: 2,
        }
    }
}

impl Upload {
    pub fn the_budget(&self) -> Budget {
        Budget { windows: self.budget.clone(), otherwise: self.bytes_per_second, utc_offset: self.utc_offset }
    }
}

/// Tencent's VOD platform, for tasks with `CloudVod`. Its keys are the box's own: no task brings any.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vod {
    /// Of the VOD API.
    pub endpoint: String,
    /// What calls of the API say as their region.
    pub region: String,
    pub secret_id: Option<String>,
    pub secret_key: Option<Secret>,
    /// A file that holds the secret key, in place of `secret_key`.
    pub secret_key_file: Option<PathBuf>,
    /// Name of a file in `$CREDENTIALS_DIRECTORY`, in place of both.
    pub secret_key_credential: Option<String>,
    /// Endpoint of the platform's storage in place of `https://cos.<region>.myqcloud.com`.
    pub storage_endpoint: Option<String>,
}

impl Default for Vod {
    fn default() -> Self {
        Vod {
            endpoint: "https://vod.tencentcloudapi.com".into(),
            region: "ap-guangzhou".into(),
            secret_id: None,
            secret_key: None,
            secret_key_file: None,
            secret_key_credential: None,
            storage_endpoint: None,
        }
    }
}

impl Vod {
    /// Whether tasks can go there.
    pub fn has_keys(&self) -> bool {
        self.secret_id.is_some() && self.secret_key.is_some()
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    pub timeout_seconds: u64,
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    /// Events that nobody took for so long are dropped.
    pub keep_hours: u64,
    /// Events of one application that wait; of more the least important are dropped.
    pub keep_events: usize,
    /// What they may take together; of more likewise.
    pub keep_bytes: u64,
}

impl Default for Callbacks {
    fn default() -> Self {
        Callbacks {
            timeout_seconds: 5,
            retry_first_seconds: 1,
            retry_longest_seconds: 60,
            keep_hours: 72,
            keep_events: 20_000,
            keep_bytes: 32 * MIB,
        }
    }
}

/// Pictures of mixed layouts: backgrounds, placeholders, watermarks.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Networks that pictures may come from although they are loopback, private or otherwise not of the world.
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// One try of one picture, from the name to its last byte.
    pub timeout_seconds: u64,
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
}

impl Default for Images {
    fn default() -> Self {
        Images { allow: Vec::new(), timeout_seconds: 10, retry_first_seconds: 5, retry_longest_seconds: 300 }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// As `RUST_LOG`, which wins over it.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { filter: "info,rtc=warn,rtc_ice=error,rtc_dtls=error".into() }
    }
}

/// Networks in CIDR notation; an address alone is a network of one.
fn networks<'de, D: Deserializer<'de>>(document: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(document)?;
    let network = |text: String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or(address).map_err(|_| {
            let fault = format!("'{text}' is not a network such as 192.168.7.0/24 or fd12::/16");
            serde::de::Error::custom(fault)
        })
    };
    texts.into_iter().map(network).collect()
}

/// What is wrong with a document, one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

impl Config {
    /// Reads a TOML document. All faults are told at once, each with the path of its setting.
    pub fn parse(text: &str) -> Result<Config, Faults> {
        // The TOML error's own text quotes the line it stands on, and a line may hold a secret: position and cause only.
        let config: Config = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map(|n| format!("line {n}: ")).unwrap_or_default();
            Faults(vec![format!("{line}{}", e.message())])
        })?;
        let faults = config.faults();
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }

    pub fn app(&self, id: SdkAppId) -> Option<&App> {
        self.apps.iter().find(|app| app.sdk_app_id == id)
    }

    /// The sources that are switched on.
    pub fn source_specs(&self) -> Vec<SourceSpec> {
        let on = self.sources.iter().filter(|source| source.enabled);
        on.filter_map(|source| source.spec(|app| self.app(app).is_some()).ok()).collect()
    }

    pub fn ice_timeout(&self) -> Duration {
        Duration::from_secs(self.whip.ice_timeout_seconds)
    }

    /// Where segments wait for their destination.
    pub fn spool_dir(&self) -> PathBuf {
        self.server.state_dir.join("spool")
    }

    pub fn disk_limits(&self) -> DiskLimits {
        let Disk { low_bytes, low_percent, low_inodes, reserve_bytes, when_full } = self.disk;
        DiskLimits { low_bytes, low_percent, low_inodes, reserve_bytes, when_full }
    }

    pub fn index_dir(&self) -> PathBuf {
        self.server.state_dir.join("index")
    }

    pub fn local_root(&self) -> PathBuf {
        self.server.state_dir.join(&self.storage.local_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_at_all_is_the_defaults() {
        let config = Config::parse("").expect("the defaults are valid");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_vod_account_is_whole_or_not_there() {
        let told = |lines: &str| Config::parse(&format!("[vod]\n{lines}")).map(|config| config.vod.has_keys());
        assert!(!Config::default().vod.has_keys());
        assert_eq!(told("secret_id = 'a'\nsecret_key = 'hush'"), Ok(true));
        // whoever starts the box reads it
        assert_eq!(told("secret_id = 'a'\nsecret_key_file = '/etc/key'"), Ok(false));
        for (lines, fault) in [
            ("secret_id = 'a'", "vod.secret_id and its secret key go together"),
            ("secret_key = 'hush'", "vod.secret_id and its secret key go together"),
            ("secret_id = 'a'\nsecret_key = ''", "vod.secret_id or vod.secret_key is empty"),
            ("secret_id = 'a'\nsecret_key_credential = '../k'", "vod: '../k' is not the name of a credential"),
            ("endpoint = 'vod'", "vod.endpoint is not an http or https address"),
            ("region = 'a b'", "vod.region holds other than letters, digits and -"),
            (
                "secret_id = 'a'\nsecret_key = 'hush'\nsecret_key_file = '/etc/key'",
                "vod.secret_key, .secret_key_file and .secret_key_credential exclude each other",
            ),
        ] {
            assert_eq!(told(lines), Err(Faults(vec![fault.to_owned()])), "{lines}");
        }
    }

    #[test]
    fn every_fault_is_named_and_no_secret_is_shown() {
        let text = r#"
            [server]
            certificate = "/etc/cert.pem"
            [recording]
            segment_seconds = 0
            [spool]
            key_file = "/etc/key"
            key_credential = "../key"
            [[apps]]
            sdk_app_id = 1
            callback_url = "ftp://nowhere"
            [[apps]]
            sdk_app_id = 1
            secret_key = ""
        "#;
        let Faults(faults) = Config::parse(text).expect_err("seven faults");
        assert_eq!(
            faults,
            [
                "recording.segment_seconds must be 1 to 3600, not 0",
                "server.certificate and server.private_key go together",
                "spool.key_file and spool.key_credential exclude each other",
                "spool: '../key' is not the name of a credential",
                "apps[0].callback_url is not an http or https address",
                "apps[1].sdk_app_id 1 stands twice",
                "apps[1].secret_key is empty",
            ]
        );
        let budget = |windows: &str| {
            let text = format!("[upload]\nutc_offset = '+02:00'\nbytes_per_second = 100\n{windows}");
            Config::parse(&text).expect_err("at least one fault").to_string()
        };
        let told = budget(
            r#"
            [[upload.budget]]
            from = "08:00"
            to = "18:00"
            bytes_per_second = 500000
            [[upload.budget]]
            from = "22:00"
            to = "08:01"
            bytes_per_second = 1
            [[upload.budget]]
            from = "20:00"
            to = "20:00"
            bytes_per_second = 0
        "#,
        );
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "upload.bytes_per_second must be 0 or 8192 and more, not 100",
                "upload.budget[1].bytes_per_second must be 0 or 8192 and more, not 1",
                "upload.budget[0] and [1] overlap",
                "upload.budget[2].from and .to are the same",
            ]
        );
        let told = budget("[[upload.budget]]\nfrom = '25:00'\nto = '1:00'\nbytes_per_second = 0\n");
        assert!(told.contains("'25:00' is not a time of day"), "{told}");
        let torn = "[[api_keys]]\nsecret_id = 'a'\nsecret_key = 'hush-hush' oops\n";
        let told = Config::parse(torn).expect_err("not TOML").to_string();
        assert!(told.starts_with("line 3: ") && !told.contains("hush"), "{told}");
        let network = Config::parse("[images]\nallow = ['10.0.0.1', '10.0.0.300/8']").expect_err("not a network");
        assert_eq!(network.to_string(), "line 2: '10.0.0.300/8' is not a network such as 192.168.7.0/24 or fd12::/16");
        let unknown = Config::parse("[server]\nhtpp = '127.0.0.1:1'").expect_err("an unknown key").to_string();
        assert!(unknown.contains("htpp"), "{unknown}");
        let secret = Config::parse("[[api_keys]]\nsecret_id = 'a'\nsecret_key = 'hush-hush'").expect("valid");
        assert!(!format!("{secret:?}").contains("hush"));
    }
}
