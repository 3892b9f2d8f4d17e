//! Tencent's VOD platform, as small as it can be: ApplyUpload, CommitUpload and DeleteMedia by the official rules, in front
//! of a real S3 server whose gate asks for the temporary token of a session.
//!
//! Its signature check is written apart from the box's own; `agrees_with` runs it over the recorded requests of the SDKs.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

pub const VOD_ID: &str = "AKIDvodaccount";
pub const VOD_KEY: &str = "vod-secret-77c1d0e4b9";
pub const BUCKET: &str = "vodcq-1250000000";
pub const SUB_APP: i64 = 1_500_000_001;
const REGION: &str = "ap-chongqing";
const GUARD: Duration = Duration::from_secs(120);

/// Where the platform stands still, for ever, when it gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// ApplyUpload is done, and its answer is not heard.
    Applied,
    /// The storage is asked for the n-th write (from 1).
    Write(usize),
    /// CommitUpload has arrived, and nothing was done.
    Commit,
    /// CommitUpload is done, and its answer is not heard.
    Committed,
}

/// What came of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// The request of ApplyUpload.
    pub asked: Value,
    /// Key of its object.
    pub key: String,
    pub file_id: Option<String>,
    /// By DeleteMedia.
    pub deleted: bool,
}

type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

#[derive(Default)]
struct Platform {
    /// By session key, in the order in which they were applied for.
    sessions: BTreeMap<String, Upload>,
    tokens: BTreeMap<String, i64>,
    /// Errors that are answered instead of the usual: (action, code).
    script: VecDeque<(&'static str, &'static str)>,
    stop_at: Option<Point>,
    /// After so many writes all tokens are over.
    over_after: Option<usize>,
    /// So many more files are committed; then the platform is ill.
    commits: Option<usize>,
    applied: usize,
    forgotten: BTreeSet<String>,
    writes: usize,
    /// What the rules do not allow and was asked all the same.
    faults: Vec<String>,
    calls: Vec<String>,
}

struct Shared {
    platform: Mutex<Platform>,
    /// Counts everything that happens.
    told: watch::Sender<usize>,
    s3: String,
    keys: (String, String),
    /// Seconds that tokens last.
    token_seconds: i64,
    bucket: String,
    clock: Clock,
    client: reqwest::Client,
    referee: aws_sdk_s3::Client,
}

pub struct VodServer {
    /// Of the API, and of the storage behind it.
    pub api: String,
    pub storage: String,
    shared: Arc<Shared>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the platform has a clock of its own")]
    let now = SystemTime::now();
    i64::try_from(now.duration_since(UNIX_EPOCH).expect("the clock is set").as_secs()).expect("a time of our days")
}

impl VodServer {
    /// In front of the S3 server at `s3`, whose keys are `keys`.
    pub async fn start(s3: &str, keys: (&str, &str)) -> VodServer {
        VodServer::lasting(s3, keys, 7200).await
    }

    /// With temporary keys that last so long.
    pub async fn lasting(s3: &str, keys: (&str, &str), token_seconds: i64) -> VodServer {
        VodServer::by_clock(s3, keys, token_seconds, BUCKET, Arc::new(now)).await
    }

    /// One of several in front of one S3 server, by a clock that the test rules.
    pub async fn by_clock(s3: &str, keys: (&str, &str), token_seconds: i64, bucket: &str, clock: Clock) -> VodServer {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client of loopback");
        let http = aws_smithy_http_client::Builder::new().build_http();
        let referee = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(s3)
            .force_path_style(true)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(keys.0, keys.1, None, None, "the platform"))
            .build();
        let referee = aws_sdk_s3::Client::from_conf(referee);
        referee.create_bucket().bucket(bucket).send().await.expect("the server makes a bucket");
        let (told, _) = watch::channel(0);
        let shared = Arc::new(Shared {
            platform: Mutex::default(),
            told,
            s3: s3.to_owned(),
            keys: (keys.0.to_owned(), keys.1.to_owned()),
            token_seconds,
            bucket: bucket.to_owned(),
            clock,
            client,
            referee,
        });
        let (api, first) = serve(Router::new().fallback(api).with_state(shared.clone())).await;
        let (storage, second) = serve(Router::new().fallback(storage).with_state(shared.clone())).await;
        VodServer { api, storage, shared, servers: vec![first, second] }
    }

    /// The `[vod]` table of a box that uses it.
    pub fn table(&self, api: &str) -> String {
        let storage = &self.storage;
        format!(
            "[vod]\nendpoint = \"{api}\"\nstorage_endpoint = \"{storage}\"\nsecret_id = \"{VOD_ID}\"\nsecret_key = \"{VOD_KEY}\"\n"
        )
    }

    fn platform(&self) -> std::sync::MutexGuard<'_, Platform> {
        self.shared.platform.lock().expect("no hand of the platform panics")
    }

    /// The next call of `action` is answered by this error.
    pub fn refuse(&self, action: &'static str, code: &'static str) {
        self.platform().script.push_back((action, code));
    }

    pub fn stop_at(&self, point: Option<Point>) {
        self.platform().stop_at = point;
    }

    pub fn over_after(&self, writes: usize) {
        self.platform().over_after = Some(writes);
    }

    /// So many more files are committed, and then none until `None` is said.
    pub fn commits(&self, commits: Option<usize>) {
        self.platform().commits = commits;
    }

    /// No key that was given works any more.
    pub fn end_keys(&self) {
        self.platform().tokens.values_mut().for_each(|expires| *expires = 0);
    }

    /// The platform knows nothing more of sessions that were not committed; of each file it forgets one only, as a box
    /// believes it once.
    pub fn forget_sessions(&self) {
        let mut platform = self.platform();
        let Platform { sessions, forgotten, .. } = &mut *platform;
        let name = |upload: &Upload| upload.asked["MediaName"].as_str().unwrap_or_default().to_owned();
        sessions.retain(|_, upload| upload.file_id.is_some() || !forgotten.insert(name(upload)));
    }

    /// Everything is as usual again.
    pub fn heal(&self) {
        let mut platform = self.platform();
        platform.script.clear();
        (platform.stop_at, platform.over_after, platform.commits) = (None, None, None);
    }

    pub fn faults(&self) -> Vec<String> {
        self.platform().faults.clone()
    }

    pub fn uploads(&self) -> Vec<Upload> {
        self.platform().sessions.values().cloned().collect()
    }

    /// Those that were committed, and are there.
    pub fn medias(&self) -> Vec<Upload> {
        self.uploads().into_iter().filter(|upload| upload.file_id.is_some() && !upload.deleted).collect()
    }

    pub fn calls(&self, action: &str) -> usize {
        self.platform().calls.iter().filter(|call| *call == action).count()
    }

    /// All that must stay among the platform and the box.
    pub fn secrets(&self) -> Vec<String> {
        let platform = self.platform();
        let all = platform.sessions.keys().chain(platform.tokens.keys()).cloned();
        all.chain([VOD_KEY.to_owned(), self.shared.keys.1.clone()]).collect()
    }

    /// Nothing was asked that the rules do not allow.
    pub fn assert_by_the_rules(&self) {
        assert_eq!(self.platform().faults, Vec::<String>::new());
    }

    /// Awaits that `pick` finds something.
    pub async fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&VodServer) -> Option<T>) -> T {
        let mut told = self.shared.told.subscribe();
        let found = async {
            loop {
                told.borrow_and_update();
                if let Some(found) = pick(self) {
                    return found;
                }
                told.changed().await.expect("the platform lives as long as this");
            }
        };
        match tokio::time::timeout(GUARD, found).await {
            Ok(found) => found,
            Err(_) => panic!("waited for {what}; calls: {:?}, uploads: {:?}", self.platform().calls, self.uploads()),
        }
    }

    /// Awaits that it stands still where [`VodServer::stop_at`] said.
    pub async fn stands(&self) {
        self.wait_for("the platform to stand still", |server| {
            server.platform().calls.last().is_some_and(|call| call == "stands still").then_some(())
        })
        .await;
    }

    pub async fn object(&self, key: &str) -> Vec<u8> {
        let object = self.shared.referee.get_object().bucket(&self.shared.bucket).key(key).send().await;
        let object = object.unwrap_or_else(|e| panic!("GET {key}: {e:?}"));
        object.body.collect().await.expect("the body comes whole").to_vec()
    }

    pub async fn keys(&self) -> Vec<String> {
        let page =
            self.shared.referee.list_objects_v2().bucket(&self.shared.bucket).send().await.expect("the server lists");
        page.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }
}

impl Drop for VodServer {
    fn drop(&mut self) {
        self.servers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn serve(router: Router) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let serving =
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it lives as long as the test") });
    (address, serving)
}

impl Shared {
    fn platform(&self) -> std::sync::MutexGuard<'_, Platform> {
        self.platform.lock().expect("no hand of the platform panics")
    }

    /// Stands still for ever if the script says so.
    async fn pass(&self, point: Point) {
        let stops = {
            let mut platform = self.platform();
            let stops = platform.stop_at == Some(point);
            if stops {
                platform.calls.push("stands still".into());
            }
            stops
        };
        self.told.send_modify(|n| *n += 1);
        if stops {
            std::future::pending::<()>().await;
        }
    }
}

// ---- the API ----------------------------------------------------------------------------------------------------

type Outcome = Result<Map<String, Value>, (String, String)>;

fn error(code: &str, message: impl Into<String>) -> (String, String) {
    (code.to_owned(), message.into())
}

async fn api(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let action = text("x-tc-action");
    shared.platform().calls.push(action.clone());
    let scripted = {
        let mut platform = shared.platform();
        let at = platform.script.iter().position(|(of, _)| *of == action);
        at.and_then(|at| platform.script.remove(at))
    };
    let outcome: Outcome = match by_the_rules(&method, &uri, &headers, &body, (shared.clock)()) {
        Err(fault) => {
            shared.platform().faults.push(format!("{action}: {}: {}", fault.0, fault.1));
            Err(fault)
        }
        // an error that repeats what it was told, as some do
        Ok(asked) => match (scripted, action.as_str()) {
            (Some((_, code)), _) => Err(error(code, format!("refused by the script: {}", Value::Object(asked)))),
            (None, "ApplyUpload") => apply(&shared, asked).await,
            (None, "DeleteMedia") => delete(&shared, asked).await,
            (None, _) => commit(&shared, asked).await,
        },
    };
    let mut response = match outcome {
        Ok(fields) => fields,
        Err((code, message)) => Map::from_iter([("Error".into(), json!({ "Code": code, "Message": message }))]),
    };
    response.insert("RequestId".into(), "7a1e6f0c-0000".into());
    shared.told.send_modify(|n| *n += 1);
    let body = json!({ "Response": response }).to_string();
    Response::builder().header("content-type", "application/json").body(Body::from(body)).expect("a plain answer")
}

/// What the SDK's request must be: its form, its signature, its fields.
fn by_the_rules(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<Map<String, Value>, (String, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if (method.as_str(), uri.path(), text("content-type")) != ("POST", "/", "application/json") {
        return Err(error("InvalidRequest", format!("{method} {uri} {}", text("content-type"))));
    }
    if text("x-tc-version") != "2018-07-17" || text("x-tc-region").is_empty() {
        return Err(error("NoSuchVersion", "version or region"));
    }
    let stamp: i64 =
        text("x-tc-timestamp").parse().map_err(|_| error("AuthFailure.InvalidAuthorization", "no stamp"))?;
    if (now - stamp).abs() > 300 {
        return Err(error("AuthFailure.SignatureExpire", "the stamp is old"));
    }
    let signed = signature("POST", "", &[("content-type", text("content-type")), ("host", text("host"))], body);
    if authorization(VOD_ID, VOD_KEY, "vod", stamp, "content-type;host", &signed) != text("authorization") {
        return Err(error("AuthFailure.SignatureFailure", "another signature"));
    }
    let asked: Value = serde_json::from_slice(body).map_err(|_| error("InvalidRequest", "no JSON"))?;
    let Value::Object(asked) = asked else { return Err(error("InvalidRequest", "no object")) };
    let fields: &[(&str, bool, usize)] = match text("x-tc-action") {
        "ApplyUpload" => &[
            ("MediaType", true, 8),
            ("MediaName", true, 1024),
            ("Procedure", true, 1024),
            ("ExpireTime", true, 20),
            ("StorageRegion", true, 64),
            ("SourceContext", true, 250),
            ("SessionContext", true, 1000),
            ("ClassId", false, 0),
            ("SubAppId", false, 0),
        ],
        "CommitUpload" => &[("VodSessionKey", true, 4096), ("SubAppId", false, 0)],
        "DeleteMedia" => &[("FileId", true, 64), ("SubAppId", false, 0)],
        _ => return Err(error("InvalidAction", "no such action")),
    };
    for (name, value) in &asked {
        let Some((_, is_text, most)) = fields.iter().find(|(known, ..)| known == name) else {
            return Err(error("UnknownParameter", name));
        };
        let fits = match value {
            Value::String(text) => *is_text && !text.is_empty() && text.chars().count() <= *most,
            Value::Number(number) => !is_text && number.is_i64(),
            _ => false,
        };
        if !fits {
            return Err(error("InvalidParameterValue", name));
        }
    }
    let must = fields[0].0;
    if !asked.contains_key(must) {
        return Err(error("MissingParameter", must));
    }
    if let Some(expires) = asked.get("ExpireTime").and_then(Value::as_str) {
        let read = time::OffsetDateTime::parse(expires, &time::format_description::well_known::Rfc3339);
        if !read.is_ok_and(|at| at.unix_timestamp() > now) {
            return Err(error("InvalidParameterValue.ExpireTime", expires));
        }
    }
    Ok(asked)
}

async fn apply(shared: &Shared, asked: Map<String, Value>) -> Outcome {
    let media_type = asked["MediaType"].as_str().unwrap_or_default().to_owned();
    if !["mp4", "aac", "m3u8"].contains(&media_type.as_str()) {
        return Err(error("InvalidParameterValue.MediaType", media_type));
    }
    let (session, token, key) = {
        let mut platform = shared.platform();
        platform.applied += 1;
        let nth = platform.applied;
        let session = format!("vod-session-{nth:03}-{}", uuid::Uuid::new_v4());
        let token = format!("vod-token-{nth:03}-{}", uuid::Uuid::new_v4());
        let key = format!("1250000000/vodtranscq{nth:03}/f0.{media_type}");
        platform.tokens.insert(token.clone(), (shared.clock)() + shared.token_seconds);
        let upload = Upload { asked: Value::Object(asked), key: key.clone(), file_id: None, deleted: false };
        platform.sessions.insert(session.clone(), upload);
        (session, token, key)
    };
    shared.pass(Point::Applied).await;
    let answer = json!({
        "VodSessionKey": session,
        "StorageBucket": shared.bucket,
        "StorageRegion": REGION,
        "MediaStoragePath": format!("/{key}"),
        "CoverStoragePath": "",
        "TempCertificate": {
            "SecretId": shared.keys.0, "SecretKey": shared.keys.1, "Token": token,
            "ExpiredTime": (shared.clock)() + shared.token_seconds,
        },
    });
    Ok(answer.as_object().expect("an object").clone())
}

async fn commit(shared: &Shared, asked: Map<String, Value>) -> Outcome {
    shared.pass(Point::Commit).await;
    let session = asked["VodSessionKey"].as_str().unwrap_or_default().to_owned();
    let found = shared.platform().sessions.get(&session).filter(|upload| !upload.deleted).cloned();
    let Some(upload) = found else {
        return Err(error("InvalidParameterValue.VodSessionKey", "no such session"));
    };
    if upload.asked.get("SubAppId") != asked.get("SubAppId") {
        return Err(error("InvalidParameterValue.SubAppId", "another application than was applied for"));
    }
    if upload.file_id.is_none() {
        let mut platform = shared.platform();
        match &mut platform.commits {
            Some(0) => return Err(error("InternalError", "no more files now")),
            Some(left) => *left -= 1,
            None => {}
        }
    }
    let (_, missing) = all_of(shared, &upload.key).await;
    if !missing.is_empty() {
        shared.platform().faults.push(format!("committed before it was there: {missing:?}"));
        return Err(error("FailedOperation.UploadCosFail", "the media is not there"));
    }
    let file_id = {
        let mut platform = shared.platform();
        // by its place among all sessions, which its key tells
        let nth: u64 = session.split('-').nth(2).and_then(|nth| nth.parse().ok()).unwrap_or(0);
        // it may have been forgotten meanwhile
        let Some(upload) = platform.sessions.get_mut(&session) else {
            return Err(error("InvalidParameterValue.VodSessionKey", "no such session"));
        };
        upload.file_id.get_or_insert_with(|| format!("52858908{nth:08}")).clone()
    };
    shared.pass(Point::Committed).await;
    let answer = json!({ "FileId": file_id, "MediaUrl": media_url(&file_id), "CoverUrl": "" });
    Ok(answer.as_object().expect("an object").clone())
}

/// Keys of what belongs to a file (a list has segments), those that are there and those that are not.
async fn all_of(shared: &Shared, key: &str) -> (Vec<String>, Vec<String>) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    let mut wanted = VecDeque::from([key.to_owned()]);
    while let Some(key) = wanted.pop_front() {
        let Ok(object) = shared.referee.get_object().bucket(&shared.bucket).key(&key).send().await else {
            missing.push(key);
            continue;
        };
        if let Some((folder, _)) = key.rsplit_once('/').filter(|_| key.ends_with(".m3u8")) {
            let text = object.body.collect().await.expect("the list comes whole").to_vec();
            let text = String::from_utf8(text).expect("a list is text");
            wanted
                .extend(text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(|l| format!("{folder}/{l}")));
        }
        there.push(key);
    }
    (there, missing)
}

async fn delete(shared: &Shared, asked: Map<String, Value>) -> Outcome {
    let file_id = asked["FileId"].as_str().unwrap_or_default().to_owned();
    let known = |upload: &&Upload| upload.file_id.as_ref() == Some(&file_id) && !upload.deleted;
    let Some(upload) = shared.platform().sessions.values().find(known).cloned() else {
        return Err(error("ResourceNotFound.FileNotExist", "no such file"));
    };
    if upload.asked.get("SubAppId") != asked.get("SubAppId") {
        return Err(error("InvalidParameterValue.SubAppId", "another application than was applied for"));
    }
    for key in all_of(shared, &upload.key).await.0 {
        let gone = shared.referee.delete_object().bucket(&shared.bucket).key(&key).send().await;
        gone.unwrap_or_else(|e| panic!("DELETE {key}: {e:?}"));
    }
    let mut platform = shared.platform();
    platform.sessions.values_mut().filter(|upload| upload.file_id.as_ref() == Some(&file_id)).for_each(|upload| {
        upload.deleted = true;
    });
    Ok(Map::new())
}

pub fn media_url(file_id: &str) -> String {
    format!("http://125.vod2.example/{file_id}/f0")
}

// ---- its storage ------------------------------------------------------------------------------------------------

/// Lets through who has a token that lasts.
async fn storage(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let refused = |status: u16, code: &str| {
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the gate</Message></Error>");
        let text = if method == Method::HEAD { String::new() } else { text };
        Response::builder()
            .status(status)
            .header("content-type", "application/xml")
            .body(Body::from(text))
            .expect("plain")
    };
    let token = headers.get("x-amz-security-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let expires = shared.platform().tokens.get(token).copied();
    match expires {
        None => return refused(403, "InvalidToken"),
        Some(expires) if (shared.clock)() >= expires => return refused(403, "ExpiredToken"),
        Some(_) => {}
    }
    let writes = method == Method::PUT;
    if writes {
        let nth = shared.platform().writes + 1;
        shared.pass(Point::Write(nth)).await;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = shared.client.request(method.clone(), format!("{}{path}", shared.s3));
    for (name, value) in headers.iter().filter(|(name, _)| !["expect", "connection"].contains(&name.as_str())) {
        request = request.header(name.clone(), value.clone());
    }
    let Ok(answer) = request.body(body).send().await else { return refused(502, "BadGateway") };
    if writes && answer.status().is_success() {
        let mut platform = shared.platform();
        platform.writes += 1;
        if platform.over_after == Some(platform.writes) {
            platform.tokens.values_mut().for_each(|expires| *expires = 0);
        }
    }
    shared.told.send_modify(|n| *n += 1);
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        response = response.header(name.clone(), value.clone());
    }
    let bytes = answer.bytes().await.expect("the storage's answer comes whole");
    response.body(if method == Method::HEAD { Body::empty() } else { Body::from(bytes) }).expect("as it was answered")
}

// ---- TC3, by the documentation ----------------------------------------------------------------------------------

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The canonical request.
fn signature(method: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    format!("{method}\n/\n{query}\n{lines}\n{}\n{}", names.join(";"), hex::encode(Sha256::digest(body)))
}

fn authorization(id: &str, key: &str, service: &str, stamp: i64, names: &str, canonical: &str) -> String {
    let date = time::OffsetDateTime::from_unix_timestamp(stamp).expect("a time of our days").date().to_string();
    let scope = format!("{date}/{service}/tc3_request");
    let text = format!("TC3-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let by_day = hmac_sha256(format!("TC3{key}").as_bytes(), &date);
    let signing = hmac_sha256(&hmac_sha256(&by_day, service), "tc3_request");
    let signature = hex::encode(hmac_sha256(&signing, &text));
    format!("TC3-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

/// The platform's signature against recorded requests of the SDKs: how many it was compared with.
pub fn agrees_with(vectors: &Value) -> usize {
    let mut seen = BTreeSet::new();
    for entry in vectors["requests"].as_array().expect("a list") {
        let Some(canonical) = entry["canonical_request"].as_str() else { continue };
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let header = |name: &str| {
            let all = entry["headers"].as_array().expect("a list");
            let found = all.iter().find(|h| h[0].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name)));
            found.and_then(|h| h[1].as_str()).unwrap_or_default().to_owned()
        };
        let stamp = header("x-tc-timestamp").parse().expect("seconds");
        let names = canonical.lines().rev().nth(1).expect("the signed names");
        let made = authorization(text("secret_id"), text("secret_key"), text("service"), stamp, names, canonical);
        let plain = |text: &str| text.replace(", ", ",");
        assert_eq!(plain(&made), plain(&header("authorization")), "{}", entry["note"]);
        if names == "content-type;host" && text("method") == "POST" && header("x-tc-content-sha256").is_empty() {
            let host = canonical.lines().find_map(|line| line.strip_prefix("host:")).expect("a host");
            let kind = canonical.lines().find_map(|line| line.strip_prefix("content-type:")).expect("a type");
            let headers = [("content-type", kind), ("host", host)];
            assert_eq!(signature("POST", "", &headers, text("body").as_bytes()), canonical, "{}", entry["note"]);
        }
        seen.insert(made);
    }
    seen.len()
}
