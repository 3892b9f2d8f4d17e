//! VOD: what was asked of Tencent's VOD platform for a task's files, and the words that are exchanged with it.
//!
//! Owns: `CloudVod` as a task keeps it, the requests ApplyUpload, CommitUpload and DeleteMedia, what their answers mean,
//! what a task's folder keeps of its files. Must not touch: HTTP, signatures, the clock.
//! Law: nothing of an answer is quoted in an error but the platform's own code and message; its secrets are `Secret`s
//! from the first moment.
//! Sources: RECORDING.md §7; API.md §1.7, §5.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::output::Output;
use super::playlist::rfc3339_s;
use super::{Secret, Timestamp};

pub const VERSION: &str = "2018-07-17";
/// Of credentials that soon are worth nothing, the last minute is not used.
const MARGIN_SECONDS: i64 = 60;
/// "The file does not exist", in the words of DeleteMedia. Other things that are not found are the account's.
const GONE: [&str; 3] = ["InvalidParameterValue.FileId", "ResourceNotFound", "ResourceNotFound.FileNotExist"];

/// `StorageParams.CloudVod.TencentVod`. It holds no secret; what is absent is not sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Vod {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub procedure: Option<String>,
    /// Seconds from the upload on; 0: for ever.
    pub expire_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_region: Option<String>,
    pub class_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_app: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_context: Option<String>,
    /// Segments with their list are uploaded (`MediaType` 1, 3, 4).
    pub lists: bool,
    /// `UserDefineRecordId`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_id: Option<String>,
}

/// What `MediaType` makes of a recording: what is packed, and whether its segments go up with a list.
pub fn output(media_type: i64) -> (Output, bool) {
    match media_type {
        1 => (Output::Lists, true),
        2 => (Output::Aac, false),
        3 => (Output::Mp4, true),
        4 => (Output::Aac, true),
        _ => (Output::Mp4, false),
    }
}

impl Vod {
    /// The name of a file on the platform.
    pub fn media_name(&self, object: &str) -> String {
        match &self.record_id {
            Some(id) => format!("{id}__UserDefine_u_{object}"),
            None => object.to_owned(),
        }
    }

    /// The body of ApplyUpload. `ExpireTime` is seconds from now in the one API and a moment in the other.
    pub fn apply_request(&self, object: &str, now: Timestamp) -> Value {
        let mut body = Map::new();
        let media_type = object.rsplit_once('.').map_or("mp4", |(_, ending)| ending);
        body.insert("MediaType".into(), media_type.into());
        body.insert("MediaName".into(), self.media_name(object).into());
        let texts = [
            ("Procedure", &self.procedure),
            ("StorageRegion", &self.storage_region),
            ("SourceContext", &self.source_context),
            ("SessionContext", &self.session_context),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                body.insert(name.into(), text.as_str().into());
            }
        }
        if self.expire_seconds > 0 {
            let seconds = i64::try_from(self.expire_seconds).unwrap_or(i64::MAX);
            body.insert("ExpireTime".into(), rfc3339_s(now.secs().saturating_add(seconds)).into());
        }
        if self.class_id != 0 {
            body.insert("ClassId".into(), self.class_id.into());
        }
        if let Some(sub_app) = self.sub_app {
            body.insert("SubAppId".into(), sub_app.into());
        }
        Value::Object(body)
    }

    pub fn commit_request(&self, session: &Secret) -> Value {
        self.of_sub_app(json!({ "VodSessionKey": session.expose() }))
    }

    /// The body of DeleteMedia: the file goes with all that the platform made of it.
    pub fn delete_request(&self, file_id: &str) -> Value {
        self.of_sub_app(json!({ "FileId": file_id }))
    }

    fn of_sub_app(&self, mut body: Value) -> Value {
        if let Some(sub_app) = self.sub_app {
            body["SubAppId"] = sub_app.into();
        }
        body
    }
}

/// What CommitUpload made of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    pub file_id: String,
    pub url: String,
}

/// A file by its contents: one that was planned anew may have its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Which {
    pub object: String,
    pub bytes: u64,
    pub crc32: u32,
}

/// What VOD made of a file, as the task's folder keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    #[serde(flatten)]
    pub which: Which,
    #[serde(flatten)]
    pub media: Media,
}

/// That all of a file is stored, and by which session it is committed: the sealed record of that session, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    #[serde(flatten)]
    pub which: Which,
    pub session: String,
}

/// Keys that work for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Temporary {
    pub secret_id: Secret,
    pub secret_key: Secret,
    pub token: Secret,
    /// Unix seconds
    pub expires: i64,
}

/// What ApplyUpload gave: where the file goes, and by which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub session: Secret,
    pub bucket: String,
    pub region: String,
    /// Key of the object, without a slash before it.
    pub path: String,
    /// `None`: the account's own keys do.
    pub keys: Option<Temporary>,
}

impl Applied {
    /// When new keys are to be asked for, if that can be told at all.
    pub fn renew_at(&self, now: Timestamp) -> Option<i64> {
        let expires = self.keys.as_ref()?.expires;
        let lasts = expires.checked_sub(now.secs()).filter(|lasts| *lasts > 0)?;
        Some(expires - MARGIN_SECONDS.min(lasts / 2))
    }
}

/// Why a call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub code: String,
    pub message: String,
}

impl Refusal {
    fn unreadable(what: &str) -> Refusal {
        Refusal { code: "BadAnswer".into(), message: format!("the VOD platform's answer {what}") }
    }
}

/// What a refusal means for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// The same again later.
    Later,
    /// The account's keys or rights: people mend it.
    Account,
    /// Not this file as it was asked for.
    File,
    /// The session is not known (any more).
    Session,
}

/// By the codes of the VOD API; one that nobody knows is tried again.
pub fn meaning(code: &str) -> Means {
    let (first, second) = code.split_once('.').unwrap_or((code, ""));
    match (first, second) {
        ("InvalidParameterValue", "VodSessionKey") => Means::Session,
        ("AuthFailure" | "UnauthorizedOperation" | "OperationDenied", _)
        | ("FailedOperation", "InvalidAccount" | "InvalidVodUser" | "NoPrivileges" | "UserStatusInavlid") => {
            Means::Account
        }
        ("FailedOperation", "ClassNoFound" | "CoverType" | "MediaForbidedBySystem" | "MediaType" | "TaskDuplicate")
        | (
            "InvalidParameter"
            | "InvalidParameterValue"
            | "MissingParameter"
            | "UnknownParameter"
            | "UnsupportedOperation"
            | "ResourceNotFound"
            | "InvalidAction"
            | "NoSuchVersion",
            _,
        ) => Means::File,
        _ => Means::Later,
    }
}

/// The fields of an answer, or the platform's own refusal.
fn response(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| Refusal::unreadable("is not JSON"))?;
    let Some(response) = answer.get("Response").and_then(Value::as_object) else {
        return Err(Refusal::unreadable("has no Response"));
    };
    if let Some(error) = response.get("Error").filter(|error| !error.is_null()) {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        return Err(Refusal { code: text("Code"), message: text("Message") });
    }
    Ok(response.clone())
}

fn text(of: &Map<String, Value>, name: &str) -> Result<String, Refusal> {
    match of.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Refusal::unreadable(&format!("has no {name}"))),
    }
}

pub fn read_applied(body: &[u8]) -> Result<Applied, Refusal> {
    let response = response(body)?;
    let path = text(&response, "MediaStoragePath")?;
    let bucket = text(&response, "StorageBucket")?;
    // it becomes part of a host's name
    if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Refusal::unreadable("names no bucket"));
    }
    let keys = match response.get("TempCertificate").and_then(Value::as_object) {
        None => None,
        Some(keys) => Some(Temporary {
            secret_id: Secret::new(text(keys, "SecretId")?),
            secret_key: Secret::new(text(keys, "SecretKey")?),
            token: Secret::new(text(keys, "Token")?),
            expires: keys.get("ExpiredTime").and_then(Value::as_i64).unwrap_or(0),
        }),
    };
    Ok(Applied {
        session: Secret::new(text(&response, "VodSessionKey")?),
        bucket,
        region: text(&response, "StorageRegion")?,
        path: path.strip_prefix('/').unwrap_or(&path).to_owned(),
        keys,
    })
}

/// A file that the platform does not have (any more) is as good as deleted.
pub fn read_deleted(body: &[u8]) -> Result<(), Refusal> {
    match response(body) {
        Err(refusal) if GONE.contains(&refusal.code.as_str()) => Ok(()),
        other => other.map(drop),
    }
}

pub fn read_committed(body: &[u8]) -> Result<Media, Refusal> {
    let response = response(body)?;
    let url = response.get("MediaUrl").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Media { file_id: text(&response, "FileId")?, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(keys: Value) -> Vec<u8> {
        let response = json!({
            "StorageBucket": "vod-125", "StorageRegion": "ap-chongqing", "VodSessionKey": "session-secret",
            "MediaStoragePath": "/125/vodtranscq/a.mp4", "TempCertificate": keys, "RequestId": "r",
        });
        json!({ "Response": response }).to_string().into_bytes()
    }

    #[test]
    fn an_application_says_where_a_file_goes_and_shows_no_secret() {
        let keys =
            json!({"SecretId": "id-secret", "SecretKey": "key-secret", "Token": "token-secret", "ExpiredTime": 1000});
        let read = read_applied(&applied(keys)).unwrap();
        assert_eq!((read.bucket.as_str(), read.path.as_str()), ("vod-125", "125/vodtranscq/a.mp4"));
        assert!(!format!("{read:?}").contains("-secret"), "{read:?}");
        assert_eq!(read.renew_at(Timestamp::from_ms(0)), Some(940));
        assert_eq!(read.renew_at(Timestamp::from_ms(990_000)), Some(995), "short ones are used for half of their life");
        assert_eq!(read.renew_at(Timestamp::from_ms(2_000_000)), None, "a clock that is wrong renews nothing");
        assert_eq!(read_applied(&applied(Value::Null)).unwrap().keys, None);
    }

    #[test]
    fn what_is_no_answer_is_told_without_its_contents() {
        for body in ["", "[]", "{}", r#"{"Response":{"VodSessionKey":"hush"}}"#, r#"{"Response":"hush"}"#, "hush"] {
            for refusal in [read_applied(body.as_bytes()).unwrap_err(), read_committed(body.as_bytes()).unwrap_err()] {
                assert_eq!(
                    (refusal.code.as_str(), refusal.to_string().contains("hush")),
                    ("BadAnswer", false),
                    "{body}"
                );
            }
        }
        let evil = String::from_utf8(applied(Value::Null)).unwrap().replace("vod-125", "evil/@host");
        assert!(read_applied(evil.as_bytes()).is_err());
        let refused =
            br#"{"Response":{"Error":{"Code":"AuthFailure.SecretIdNotFound","Message":"m"},"RequestId":"r"}}"#;
        assert_eq!(read_committed(refused).unwrap_err().to_string(), "AuthFailure.SecretIdNotFound: m");
    }

    #[test]
    fn what_is_not_there_is_deleted() {
        let refused = |code: &str| json!({ "Response": { "Error": { "Code": code, "Message": "m" } } }).to_string();
        let read = |body: &str| read_deleted(body.as_bytes());
        assert_eq!(read(r#"{"Response":{"RequestId":"r"}}"#), Ok(()));
        assert_eq!(read(&refused("ResourceNotFound.FileNotExist")), Ok(()));
        assert_eq!(read(&refused("InvalidParameterValue.FileId")), Ok(()));
        for code in ["ResourceNotFound.UserNotExist", "InvalidParameterValue.SubAppId", "InternalError", ""] {
            assert_eq!(read(&refused(code)).unwrap_err().code, code);
        }
        assert_eq!(read("{}").unwrap_err().code, "BadAnswer");
        let vod = Vod { sub_app: Some(7), ..Vod::default() };
        assert_eq!(vod.delete_request("5285"), json!({ "FileId": "5285", "SubAppId": 7 }));
    }

    #[test]
    fn codes_say_what_is_to_be_done() {
        for (code, means) in [
            ("InvalidParameterValue.VodSessionKey", Means::Session),
            ("InvalidParameterValue.ClassId", Means::File),
            ("InvalidParameter.StorageRegion", Means::File),
            ("FailedOperation.MediaType", Means::File),
            ("FailedOperation.InvalidVodUser", Means::Account),
            ("AuthFailure.SignatureExpire", Means::Account),
            ("UnauthorizedOperation", Means::Account),
            ("FailedOperation.NetWorkError", Means::Later),
            ("FailedOperation", Means::Later),
            ("InternalError.DBError", Means::Later),
            ("RequestLimitExceeded", Means::Later),
            ("", Means::Later),
        ] {
            assert_eq!(meaning(code), means, "{code}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_sent_and_an_expiry_becomes_a_moment() {
        let now = Timestamp::from_ms(1_795_343_500_999);
        let plain = Vod::default().apply_request("a.mp4", now);
        assert_eq!(plain, json!({"MediaType": "mp4", "MediaName": "a.mp4"}));
        assert_eq!(Vod::default().commit_request(&Secret::new("k")), json!({"VodSessionKey": "k"}));
        let full = Vod {
            procedure: Some("p".into()),
            expire_seconds: 86_400,
            storage_region: Some("ap-chongqing".into()),
            class_id: 7,
            sub_app: Some(1_500_000_001),
            session_context: Some("s".into()),
            source_context: Some("o".into()),
            lists: true,
            record_id: Some("visit-1".into()),
        };
        assert_eq!(
            full.apply_request("a.m3u8", now),
            json!({
                "MediaType": "m3u8", "MediaName": "visit-1__UserDefine_u_a.m3u8", "Procedure": "p",
                "StorageRegion": "ap-chongqing", "SourceContext": "o", "SessionContext": "s",
                "ExpireTime": "2026-11-23T10:31:40Z", "ClassId": 7, "SubAppId": 1_500_000_001,
            })
        );
        assert_eq!(full.commit_request(&Secret::new("k")), json!({"VodSessionKey": "k", "SubAppId": 1_500_000_001}));
        let kept: Vod = serde_json::from_str(&serde_json::to_string(&full).unwrap()).unwrap();
        assert_eq!(kept, full);
    }
}
