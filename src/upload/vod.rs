//! Files that go to VOD: ApplyUpload, the upload by the keys that it gave, CommitUpload.
//!
//! Owns: the session of each file and its renewal, bundles of segments, the order of the steps. Must not touch: how a
//! packed file is made or cut (`packed`, `parts`), what is told of it.
//! Law: each step is on the disk before the next one begins, so that a restart goes on with it, and no file is committed
//! by two sessions unless the platform has forgotten the first; secrets are on the disk sealed, and in no error or log.
//! Sources: API.md §5.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::*;
use crate::model::bundle::{BUNDLE_VERSION, BundlePlan};
use crate::model::signature::sign_tc3_for;
use crate::model::vod::{self, Means, Media, Refusal, Stored, Vod};
use crate::model::{Secret, Timestamp};
use crate::package::Shelf;
use crate::store::Batch;
use crate::store::records::{DestinationEntry, PartEntry, PartsEntry};
use crate::store::vod::{VodSession, load_session};

/// More than any answer of the platform is long.
const MOST_BYTES: usize = 1 << 20;
/// A session that CommitUpload does not know, like the one before it, is given up after so long.
const GIVE_UP_SECONDS: i64 = 24 * 3600;
/// In the record of a bundle, in place of the storage's name of an upload.
const BUNDLE: &str = "bundle";

/// The VOD API, and the box's account.
pub(super) struct Platform {
    client: reqwest::Client,
    endpoint: url::Url,
    host: String,
    region: String,
    secret_id: String,
    secret_key: Secret,
}

impl Platform {
    fn new(config: &Config) -> Result<Platform, PutError> {
        let refused = |why: &str| PutError::new(Class::Refused, "VodNotConfigured", why);
        let vod = &config.vod;
        let (Some(secret_id), Some(secret_key)) = (vod.secret_id.clone(), vod.secret_key.clone()) else {
            return Err(refused("the box has no keys of a VOD account (vod.secret_id, vod.secret_key)"));
        };
        let endpoint = url::Url::parse(&vod.endpoint).map_err(|_| refused("vod.endpoint is no address"))?;
        let host = endpoint.host_str().ok_or_else(|| refused("vod.endpoint names no host"))?;
        let host = endpoint.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let timeout = Duration::from_secs(config.upload.timeout_seconds.max(1));
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| PutError::new(Class::Refused, "VodClient", chain(&e)))?;
        Ok(Platform { client, endpoint, host, region: vod.region.clone(), secret_id, secret_key })
    }

    /// One try of one call; the body of its answer.
    pub(super) async fn call(&self, action: &'static str, body: &Value, now: Timestamp) -> Result<Vec<u8>, PutError> {
        let body = body.to_string().into_bytes();
        let signed = sign_tc3_for("vod", &self.secret_id, self.secret_key.expose(), &self.host, &body, now);
        let request = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        let request = request.header("X-TC-Action", action).header("X-TC-Version", vod::VERSION);
        let request = request.header("X-TC-Region", &self.region).header("X-TC-Timestamp", now.secs().to_string());
        let sent = request.header("Authorization", signed).body(body).send().await;
        let later = |code: String, message: String| PutError::new(Class::Later, code, message);
        let broken = |e: reqwest::Error| match e.is_timeout() {
            true => later("RequestTimeout".into(), "the VOD platform did not answer in time".into()),
            false => later("ConnectionError".into(), chain(&e.without_url())),
        };
        let mut answer = sent.map_err(broken)?;
        let status = answer.status().as_u16();
        metrics::counter!("holdfast_vod_calls_total", "action" => action).increment(1);
        if status != 200 {
            return Err(later(format!("Http{status}"), format!("{action} was answered with HTTP status {status}")));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST_BYTES {
                return Err(later("BadAnswer".into(), format!("the answer to {action} does not end")));
            }
        }
        Ok(bytes)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What a refusal means for the file and for those after it.
pub(super) fn put_error(refusal: Refusal) -> PutError {
    let Refusal { code, message } = refusal;
    let class = match vod::meaning(&code) {
        Means::Later if code.starts_with("RequestLimitExceeded") => Class::Later,
        // it may be this file
        Means::Later => Class::Doubtful,
        Means::Account => Class::Refused,
        Means::File | Means::Session => Class::Never,
    };
    PutError::new(class, code, message)
}

/// How far a lease of a file that goes to VOD went.
enum VodWent {
    On,
    Committed(Media),
}

impl Uploader {
    /// A leased file of a task whose files go to VOD.
    pub(super) async fn carry_vod(&self, mut job: UploadJob, destination: &DestinationEntry, vod: &Vod) {
        let (task, entry) = (job.task().clone(), job.entry().clone());
        let line = destination.line.as_str();
        let withheld = job.withheld();
        let went = tokio::select! {
            biased;
            // dropped, it is never committed: its task is discarded
            () = withheld => return,
            went = self.try_vod(&mut job, line, vod) => went,
        };
        let fate = match went {
            Ok(VodWent::On) => {
                self.is_well(line);
                job.ack_part();
                None
            }
            Ok(VodWent::Committed(media)) => {
                self.is_well(line);
                self.committed(job, media).await
            }
            Err(Broken::Local(why)) => {
                self.abandon_parts(&entry).await;
                job.ack_lost(why).await.unwrap_or_else(|error| {
                    tracing::error!(%task, object = entry.object, %error, "a loss cannot be recorded");
                    None
                })
            }
            Err(Broken::Superseded | Broken::Anew) => {
                job.ack_failed(Fault::File, Duration::from_secs(self.config.now().upload.retry_first_seconds));
                None
            }
            Err(Broken::Put(error)) if error.class == Class::Paused => None,
            Err(Broken::Put(error)) => {
                let refused = error.class == Class::Never && error.code != LOCAL_READ_ERROR;
                let object = entry.object;
                match self.failed(job, Some((line, "of VOD")), error) {
                    Some(Fate::UploadFailed { code, message }) => {
                        Some(Fate::VodFailed { object, code, message, refused })
                    }
                    other => other,
                }
            }
        };
        self.tell(task, fate).await;
    }

    async fn committed(&self, job: UploadJob, media: Media) -> Option<Fate> {
        let (task, entry) = (job.task().clone(), job.entry().clone());
        match job.ack_committed(media).await {
            Ok(fate) => {
                metrics::counter!("holdfast_uploads_total", "outcome" => "ok").increment(1);
                metrics::counter!("holdfast_uploaded_bytes_total").increment(entry.bytes);
                tracing::info!(%task, object = entry.object, bytes = entry.bytes, "VOD has the file");
                Some(fate)
            }
            Err(error) => {
                tracing::error!(%task, object = entry.object, %error, "a commit cannot be recorded; it is repeated");
                None
            }
        }
    }

    async fn try_vod(&self, job: &mut UploadJob, line: &str, vod: &Vod) -> Result<VodWent, Broken> {
        let platform = self.platform()?;
        let platform = &*platform;
        let mut session = self.session_of(platform, job.entry(), vod).await?;
        let tried = self.try_session(platform, job, line, vod, &mut session).await;
        tried.map_err(|broken| match broken {
            Broken::Put(error) => Broken::Put(without_secrets(error, platform, &session)),
            broken => broken,
        })
    }

    /// The next step of a session.
    async fn try_session(
        &self,
        platform: &Platform,
        job: &mut UploadJob,
        line: &str,
        vod: &Vod,
        session: &mut VodSession,
    ) -> Result<VodWent, Broken> {
        if !session.stored {
            job.aim(session.applied.path.clone());
            let line = self.vod_line(platform, line, session)?;
            let bundle = job.entry().object.ends_with(".m3u8");
            let went = match bundle {
                true => self.carry_bundle(job, &line).await,
                false => self.carry_packed(job, &line).await,
            };
            match went {
                Ok(Went::On) => {
                    if !std::mem::replace(&mut session.worked, true) {
                        self.keep_session(job.entry(), session).await?;
                    }
                    return Ok(VodWent::On);
                }
                Ok(Went::Up) => {
                    session.stored = true;
                    // an index that is lost from here on must not make a second file of it
                    let sealed = session.to_sealed(&self.box_key, job.task(), &job.entry().object);
                    let noted = job.note_stored(&sealed).await;
                    noted.map_err(|e| PutError::new(Class::Never, LOCAL_READ_ERROR, e.to_string()))?;
                    crash::point("vod.kept");
                    self.keep_session(job.entry(), session).await?;
                    crash::point("vod.stored");
                }
                // keys that do not work (any more): there are others
                Err(Broken::Put(error)) if error.class == Class::Refused => {
                    self.abandon_parts(job.entry()).await;
                    let key = records::vod_key(job.task(), &job.entry().object);
                    self.commit(Batch::new().delete(key)).await?;
                    if !session.worked {
                        return Err(error.into());
                    }
                    let (task, object) = (job.task(), &job.entry().object);
                    tracing::warn!(%task, object, code = error.code, "the temporary keys do not work any more: anew");
                    metrics::counter!("holdfast_vod_sessions_renewed_total").increment(1);
                    return Err(Broken::Anew);
                }
                Err(broken) => return Err(broken),
            }
        }
        self.commit_upload(platform, job, vod, session).await
    }

    async fn commit_upload(
        &self,
        platform: &Platform,
        job: &UploadJob,
        vod: &Vod,
        session: &mut VodSession,
    ) -> Result<VodWent, Broken> {
        let now = (self.clock)();
        let answer = platform.call("CommitUpload", &vod.commit_request(&session.applied.session), now).await?;
        let refusal = match vod::read_committed(&answer) {
            Ok(media) => {
                crash::point("vod.committed");
                return Ok(VodWent::Committed(media));
            }
            Err(refusal) => refusal,
        };
        let old = session.renew_at.is_some_and(|at| now.secs() > at.saturating_add(GIVE_UP_SECONDS));
        if vod::meaning(&refusal.code) == Means::Session && (session.unknown == 0 || old) {
            let (task, object) = (job.task(), &job.entry().object);
            tracing::warn!(%task, object, code = refusal.code, "VOD does not know the session: the file goes up anew");
            metrics::counter!("holdfast_vod_sessions_renewed_total").increment(1);
            let unknown = session.unknown.saturating_add(1);
            *session = self.apply(platform, job.entry(), vod, unknown).await?;
            return Err(Broken::Anew);
        }
        Err(put_error(refusal).into())
    }

    /// The session of a stored file that the folder keeps, where the index is behind it.
    async fn stored_session(
        &self,
        entry: &SpoolEntry,
        known: Option<&VodSession>,
    ) -> Result<Option<VodSession>, PutError> {
        let noted = self.spool.noted_at_vod(&entry.task).await;
        let (stored, _) = noted.map_err(|e| PutError::new(Class::Never, LOCAL_READ_ERROR, e.to_string()))?;
        let open = |stored: &Stored| {
            let sealed = hex::decode(&stored.session).ok()?;
            VodSession::of_sealed(&self.box_key, &sealed, &entry.task, &entry.object)
        };
        let which = entry.which();
        let last = stored.iter().rfind(|stored| stored.which == which).and_then(open);
        // one that the platform has forgotten since has another in its place
        Ok(last.filter(|last| known.is_none_or(|known| last.unknown >= known.unknown)))
    }

    /// The file's session: the one that was begun, if it is of this file and its keys last, or a new one.
    async fn session_of(&self, platform: &Platform, entry: &SpoolEntry, vod: &Vod) -> Result<VodSession, Broken> {
        let known = load_session(&self.store, &self.box_key, &entry.task, &entry.object).await;
        let known = known.map_err(|e| PutError::new(Class::Later, "InternalError", e.to_string()))?;
        if known.as_ref().is_none_or(|known| !known.stored)
            && let Some(session) = self.stored_session(entry, known.as_ref()).await?
        {
            return Ok(session);
        }
        let mine = |session: &VodSession| (session.bytes, session.crc32) == (entry.bytes, entry.crc32);
        let Some(session) = known else { return self.apply(platform, entry, vod, 0).await };
        let now = (self.clock)().secs();
        let over = !session.stored && session.renew_at.is_some_and(|at| now >= at);
        match (mine(&session), over) {
            (true, false) => return Ok(session),
            (true, true) => {
                tracing::info!(task = %entry.task, object = entry.object, "the temporary keys end: new ones are asked for");
                metrics::counter!("holdfast_vod_sessions_renewed_total").increment(1);
            }
            (false, _) => {}
        }
        let anew = self.apply(platform, entry, vod, session.unknown).await?;
        Ok(anew)
    }

    /// ApplyUpload. What it gave is on the disk, sealed, when this returns; parts of another object are given up.
    async fn apply(
        &self,
        platform: &Platform,
        entry: &SpoolEntry,
        vod: &Vod,
        unknown: u32,
    ) -> Result<VodSession, Broken> {
        let now = (self.clock)();
        let answer = platform.call("ApplyUpload", &vod.apply_request(&entry.object, now), now).await;
        let applied = match answer.map(|answer| vod::read_applied(&answer)) {
            Ok(Ok(applied)) => applied,
            Ok(Err(refusal)) => return Err(without_key(put_error(refusal), platform).into()),
            Err(error) => return Err(error.into()),
        };
        // of a platform that lets uploads go on under their path, they do
        if self.parts_of(entry).await?.is_some_and(|parts| parts.object_key != applied.path) {
            self.abandon_parts(entry).await;
        }
        tracing::info!(task = %entry.task, object = entry.object, bytes = entry.bytes, "an upload to VOD begins");
        let session = VodSession {
            bytes: entry.bytes,
            crc32: entry.crc32,
            renew_at: applied.renew_at(now),
            applied,
            worked: false,
            stored: false,
            unknown,
        };
        self.keep_session(entry, &session).await?;
        crash::point("vod.applied");
        Ok(session)
    }

    async fn keep_session(&self, entry: &SpoolEntry, session: &VodSession) -> Result<(), PutError> {
        let sealed = session.to_sealed(&self.box_key, &entry.task, &entry.object);
        self.commit(Batch::new().put(records::vod_key(&entry.task, &entry.object), sealed)).await
    }

    /// The platform's storage, entered by the session's keys.
    fn vod_line(&self, platform: &Platform, name: &str, session: &VodSession) -> Result<Line, PutError> {
        let applied = &session.applied;
        let bucket = applied.bucket.clone();
        let client = format!("vod/{}", self.box_key.fingerprint(&[applied.session.expose()]));
        let line = |store| Line { name: name.to_owned(), bucket: bucket.clone(), store, asked_by_commit: true };
        if let Some(store) = self.clients().get(&client).cloned() {
            return Ok(line(store));
        }
        let (access_key, secret_key, token) = match &applied.keys {
            Some(keys) => (keys.secret_id.clone(), keys.secret_key.clone(), Some(&keys.token)),
            None => (Secret::new(platform.secret_id.as_str()), platform.secret_key.clone(), None),
        };
        let config = self.config.now();
        let endpoint = config.vod.storage_endpoint.clone();
        let settings = s3::Settings {
            endpoint: Some(endpoint.unwrap_or_else(|| cos_endpoint(&applied.region))),
            region: applied.region.clone(),
            bucket: bucket.clone(),
            keys: StorageKeys { access_key, secret_key },
            path_style: false,
            tags_of_parts: false,
            timeout: Duration::from_secs(config.upload.timeout_seconds.max(1)),
        };
        let store: Arc<dyn ObjectStore> = Arc::new(s3::S3::with_token(settings, token)?);
        Ok(line(self.keep_client(client, store, &config)))
    }

    /// The next segment of a bundle, or its list.
    async fn carry_bundle(&self, job: &UploadJob, line: &Line) -> Result<Went, Broken> {
        let entry = job.entry();
        let plan = bundle_of(job).await?;
        let fits = |there: &PartsEntry| {
            let same = (there.bytes, there.crc32, &there.object_key) == (entry.bytes, entry.crc32, &entry.object_key);
            same && there.upload == BUNDLE && there.parts.len() <= plan.files.len()
        };
        let mut record = self.parts_of(entry).await?.filter(fits).unwrap_or_else(|| PartsEntry {
            task: entry.task.clone(),
            object: entry.object.clone(),
            object_key: entry.object_key.clone(),
            upload: BUNDLE.into(),
            part_bytes: 0,
            bytes: entry.bytes,
            crc32: entry.crc32,
            parts: Vec::new(),
        });
        let Some(file) = plan.files.get(record.parts.len()) else {
            let body = Body::of_bytes(plan.text);
            self.pacer.charge(usize::try_from(body.size).unwrap_or(usize::MAX));
            self.put_beside(entry, line, entry.object_key.clone(), &body, &entry.object).await?;
            return Ok(Went::Up);
        };
        let (dir, vault) = job.folder();
        let shelf = Shelf { task: entry.task.clone(), dir, vault: vault.clone() };
        let (name, planned) = (file.file.clone(), (file.bytes, file.crc32));
        let read = tokio::task::spawn_blocking(move || shelf.read(&name)).await.map_err(io::Error::other).flatten();
        let bytes = read.map_err(packed::broken)?;
        if (bytes.len() as u64, crc32fast::hash(&bytes)) != planned {
            return Err(Broken::Local(format!("{} is not what was listed", file.name)));
        }
        let body = Body::of_bytes(bytes).paced(&self.pacer);
        let folder = entry.object_key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        self.put_beside(entry, line, format!("{folder}{}", file.name), &body, &file.name).await?;
        record.parts.push(PartEntry { tag: body.tag(), md5: hex::encode(body.md5) });
        self.commit(Batch::new().put(record.key(), record.to_bytes())).await?;
        Ok(Went::On)
    }

    async fn put_beside(
        &self,
        entry: &SpoolEntry,
        line: &Line,
        object_key: String,
        body: &Body,
        name: &str,
    ) -> Result<(), PutError> {
        let entry = SpoolEntry { object_key, bytes: body.size, ..entry.clone() };
        let answered = line.store.put(&entry.object_key, body, content_type(name)).await?;
        self.confirm(&entry, line, &body.tag(), &answered).await
    }

    /// Forgets how far a file's parts have gone; at the storage they are dropped if its keys still work.
    pub(super) async fn abandon_parts(&self, entry: &SpoolEntry) {
        let Ok(Some(record)) = self.parts_of(entry).await else { return };
        self.drop_parts(&record).await;
        self.forget_parts(&record.key()).await;
    }

    /// At the storage, if the session's keys still work. What is not committed goes there by itself in the end.
    pub(super) async fn drop_parts(&self, record: &PartsEntry) {
        let session = load_session(&self.store, &self.box_key, &record.task, &record.object).await;
        if let (Ok(Some(session)), Ok(platform), true) = (session, self.platform(), record.upload != BUNDLE)
            && let Ok(line) = self.vod_line(&platform, "", &session)
            && let Some(parts) = line.store.parts()
            && let Err(error) = parts.abort(&record.object_key, &record.upload).await
        {
            tracing::debug!(task = %record.task, object = record.object, code = error.code, "parts stay at VOD's storage");
        }
    }

    pub(super) fn platform(&self) -> Result<Arc<Platform>, PutError> {
        let mut platform = self.platform.lock().expect("nothing panics while it holds this lock");
        if let Some(platform) = &*platform {
            return Ok(platform.clone());
        }
        let made = Arc::new(Platform::new(&self.config.now())?);
        *platform = Some(made.clone());
        Ok(made)
    }
}

async fn bundle_of(job: &UploadJob) -> Result<BundlePlan, Broken> {
    let file = job.file();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        io::Read::read_to_string(&mut file.open()?, &mut text)?;
        Ok(text)
    });
    let text = read.await.map_err(io::Error::other).flatten().map_err(packed::broken)?;
    match serde_json::from_str::<BundlePlan>(&text) {
        Ok(plan) if plan.v == BUNDLE_VERSION && crc32fast::hash(plan.text.as_bytes()) == job.entry().crc32 => Ok(plan),
        _ => Err(Broken::Local("the plan is not that of the list".into())),
    }
}

/// What others say may repeat what they were told.
fn hide(mut error: PutError, secrets: &[&Secret]) -> PutError {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        error.message = error.message.replace(secret.expose(), "…");
        error.code = error.code.replace(secret.expose(), "…");
    }
    error
}

pub(super) fn without_key(error: PutError, platform: &Platform) -> PutError {
    hide(error, &[&platform.secret_key])
}

pub(super) fn without_secrets(error: PutError, platform: &Platform, session: &VodSession) -> PutError {
    let mut secrets = vec![&platform.secret_key, &session.applied.session];
    if let Some(keys) = &session.applied.keys {
        secrets.extend([&keys.secret_id, &keys.secret_key, &keys.token]);
    }
    hide(error, &secrets)
}
