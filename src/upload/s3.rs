//! S3 and COS, by aws-sdk-s3.
//!
//! Owns: requests to a bucket, and what its errors mean. Must not touch: retries (the uploader's) and keys at rest.
//! Law: one call is one try; a call with a body fails when nothing moves, not when the line is thin.
//! Sources: API.md §6: COS knows no `aws-chunked` bodies and no CRC headers, so checksums are sent only where a call
//! requires them; what guards the bytes is `Content-MD5`, which both check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine;
use tokio::time::Instant;

use super::body::{Progress, Stage};
use super::{Body, Class, Held, ObjectStore, PartStore, PutError};
use crate::model::Secret;
use crate::model::recording::StorageKeys;

/// The slowest line that what is under way is given time for, beside the configured time-out.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// What the sockets may hold of a body that has been sent.
const UNDER_WAY: u64 = 4 * 1024 * 1024;
const CONNECTION_ERROR: &str = "ConnectionError";
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A host that does not even answer the call is out of reach.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a bucket is and how it is entered.
pub struct Settings {
    /// In place of the region's own.
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    pub keys: StorageKeys,
    pub path_style: bool,
    /// The tag of an object made of parts is the MD5 of their MD5s. COS has others.
    pub tags_of_parts: bool,
    pub timeout: Duration,
}

/// One bucket.
pub struct S3 {
    client: aws_sdk_s3::Client,
    bucket: String,
    tags_of_parts: bool,
    timeout: Duration,
}

impl S3 {
    pub fn new(settings: Settings) -> Result<S3, PutError> {
        S3::with_token(settings, None)
    }

    /// With the token that belongs to temporary keys.
    pub fn with_token(settings: Settings, token: Option<&Secret>) -> Result<S3, PutError> {
        let Settings { endpoint, region, bucket, keys, path_style, tags_of_parts, timeout } = settings;
        // it becomes part of a host's name
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(PutError::new(Class::Refused, "InvalidRegion", "the region holds other than a-z, 0-9 and -"));
        }
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let token = token.map(|token| token.expose().to_owned());
        let credentials =
            Credentials::new(keys.access_key.expose(), keys.secret_key.expose(), token, None, "the task's own");
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(region))
            .credentials_provider(credentials)
            .force_path_style(path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT.min(timeout)).build());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(S3 { client: aws_sdk_s3::Client::from_conf(config.build()), bucket, tags_of_parts, timeout })
    }

    fn within(&self, timeout: Duration) -> aws_sdk_s3::config::Builder {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT.min(timeout)).operation_timeout(timeout);
        aws_sdk_s3::Config::builder().timeout_config(timeouts.build())
    }

    /// A request with a body takes as long as the line and the budget make it: it fails when nothing has moved for the
    /// time-out.
    async fn watched<T>(
        &self,
        size: u64,
        progress: &Progress,
        request: impl Future<Output = Result<T, PutError>>,
    ) -> Result<T, PutError> {
        let mut request = std::pin::pin!(request);
        let answer = self.timeout + Duration::from_secs(size.min(UNDER_WAY) / SLOWEST_BYTES_PER_SECOND);
        loop {
            let (stage, since) = progress.now();
            let due = match stage {
                Stage::Sending | Stage::Paused => since + self.timeout,
                Stage::Sent => since + answer,
                Stage::Waiting => Instant::now() + LOOK_AGAIN,
            };
            tokio::select! {
                done = &mut request => {
                    return match done {
                        Err(_) if progress.now().0 == Stage::Paused => Err(PutError::paused()),
                        done => done,
                    };
                }
                () = tokio::time::sleep_until(due) => {
                    if stage != Stage::Waiting && progress.now() == (stage, since) {
                        return Err(timed_out());
                    }
                }
            }
        }
    }

    /// A storage that refuses may hang up before it has heard all of the body, and its answer is lost with the line: a
    /// request without a body is told.
    async fn or_why<T>(&self, key: &str, progress: &Progress, sent: Result<T, PutError>) -> Result<T, PutError> {
        match sent {
            Err(error) if error.code == CONNECTION_ERROR && progress.now().0 == Stage::Sending => {
                let why = self.head(key).await.err().filter(|why| why.class == Class::Refused);
                Err(why.unwrap_or(error))
            }
            sent => sent,
        }
    }

    // Questions are asked once more when the line breaks: it may have been one that the storage had closed long ago.

    async fn head_once(&self, key: &str) -> Result<Option<Held>, PutError> {
        let cos = CosEncryption::default();
        let request = self.client.head_object().bucket(&self.bucket).key(key).customize();
        match request.config_override(self.within(self.timeout)).interceptor(cos.clone()).send().await {
            Ok(answer) => {
                let tag = tag_of(answer.e_tag());
                let kms = answer.server_side_encryption().is_some_and(|how| *how != ServerSideEncryption::Aes256);
                let customer = answer.sse_customer_algorithm().is_some();
                let of_parts = tag.split_once('-').is_some_and(|(md5, count)| {
                    is_md5(md5) && count.bytes().all(|b| b.is_ascii_digit()) && self.tags_of_parts
                });
                let plain = !kms && !customer && !cos.0.load(Ordering::Relaxed);
                let checksum = plain && (is_md5(&tag) || of_parts);
                let size = answer.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                Ok(Some(Held { size, tag, checksum }))
            }
            Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(e) => Err(classify(&e)),
        }
    }

    async fn delete_once(&self, key: &str) -> Result<(), PutError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        match request.customize().config_override(self.within(self.timeout)).send().await.map_err(|e| classify(&e)) {
            Ok(_) => Ok(()),
            // S3 says nothing of a key that is not there; others do
            Err(e) if e.code == "NoSuchKey" => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The first version of the call, which COS has, too.
    async fn list_once(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, u64)>, PutError> {
        let request =
            self.client.list_objects().bucket(&self.bucket).prefix(prefix).set_marker(after.map(str::to_owned));
        let answer = request.customize().config_override(self.within(self.timeout)).send().await;
        let answer = answer.map_err(|e| classify(&e))?;
        let object = |object: &aws_sdk_s3::types::Object| {
            let size = object.size().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            Some((object.key()?.to_owned(), size))
        };
        Ok(answer.contents().iter().filter_map(object).collect())
    }

    async fn knows_once(&self, key: &str, upload: &str) -> Result<bool, PutError> {
        let request = self.client.list_parts().bucket(&self.bucket).key(key).upload_id(upload);
        match request.customize().config_override(self.within(self.timeout)).send().await.map_err(|e| classify(&e)) {
            // s3s-fs lists no parts of what it does not know
            Ok(answer) => Ok(!answer.parts().is_empty()),
            Err(e) if e.code == super::NO_SUCH_UPLOAD => Ok(false),
            // a list that the SDK cannot read (moto's) is one
            Err(e) if e.code == "Http200" => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// The SDK's body of one of ours.
async fn sdk_body(body: &Body, progress: &Arc<Progress>) -> Result<ByteStream, PutError> {
    // small ones are signed with their SHA-256, too
    let small = body.small(progress).await.map_err(|e| match progress.now().0 {
        Stage::Paused => PutError::paused(),
        _ => PutError::new(Class::Never, "LocalReadError", e.to_string()),
    })?;
    Ok(match small {
        Some(bytes) => ByteStream::from(bytes),
        None => ByteStream::new(SdkBody::from_body_1_x(body.stream(progress.clone()))),
    })
}

fn base64_md5(body: &Body) -> String {
    base64::engine::general_purpose::STANDARD.encode(body.md5)
}

fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// An ETag without its quotation marks.
fn tag_of(tag: Option<&str>) -> String {
    tag.unwrap_or_default().trim_matches('"').to_ascii_lowercase()
}

/// Whether a tag looks like an MD5.
fn is_md5(tag: &str) -> bool {
    tag.len() == 32 && tag.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Notices that an answer came for an object that COS encrypts with keys of a key service or of the customer: then its
/// tag is no MD5, and the SDK does not show COS's own headers.
#[derive(Debug, Clone, Default)]
struct CosEncryption(Arc<AtomicBool>);

impl Intercept for CosEncryption {
    fn name(&self) -> &'static str {
        "CosEncryption"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let kms = headers.get("x-cos-server-side-encryption").is_some_and(|how| how != "AES256");
        let customer = headers.get("x-cos-server-side-encryption-customer-algorithm").is_some();
        self.0.store(kms || customer, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put(&self, key: &str, body: &Body, content_type: &str) -> Result<String, PutError> {
        let progress = Progress::start();
        let request = async {
            let request = self.client.put_object().bucket(&self.bucket).key(key).content_type(content_type);
            let request = request.content_length(length(body.size)).content_md5(base64_md5(body));
            let answer = request.body(sdk_body(body, &progress).await?).send().await.map_err(|e| classify(&e))?;
            Ok(tag_of(answer.e_tag()))
        };
        let sent = self.watched(body.size, &progress, request).await;
        self.or_why(key, &progress, sent).await
    }

    async fn head(&self, key: &str) -> Result<Option<Held>, PutError> {
        match self.head_once(key).await {
            Err(error) if error.code == CONNECTION_ERROR => self.head_once(key).await,
            answered => answered,
        }
    }

    /// One by one: for several at once COS wants a `Content-MD5` that the SDK does not send (API.md §6).
    async fn delete(&self, key: &str) -> Result<(), PutError> {
        match self.delete_once(key).await {
            Err(error) if error.code == CONNECTION_ERROR => self.delete_once(key).await,
            answered => answered,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, u64)>, PutError> {
        match self.list_once(prefix, after).await {
            Err(error) if error.code == CONNECTION_ERROR => self.list_once(prefix, after).await,
            answered => answered,
        }
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        Some(self)
    }
}

#[async_trait]
impl PartStore for S3 {
    async fn begin(&self, key: &str, content_type: &str) -> Result<String, PutError> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key).content_type(content_type);
        let answer = request.customize().config_override(self.within(self.timeout)).send().await;
        let upload = answer.map_err(|e| classify(&e))?.upload_id;
        upload
            .ok_or_else(|| PutError::new(Class::Later, "NoUploadId", "the storage began an upload and did not name it"))
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: &Body) -> Result<String, PutError> {
        let progress = Progress::start();
        let cos = CosEncryption::default();
        let request = async {
            let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(upload);
            let request = request.part_number(i32::try_from(number).unwrap_or(i32::MAX));
            let request = request.content_length(length(body.size)).content_md5(base64_md5(body));
            let request = request.body(sdk_body(body, &progress).await?);
            let answer = request.customize().interceptor(cos.clone()).send().await.map_err(|e| classify(&e))?;
            let tag = answer.e_tag().unwrap_or_default();
            let kms = answer.server_side_encryption().is_some_and(|how| *how != ServerSideEncryption::Aes256);
            let customer = answer.sse_customer_algorithm().is_some();
            let plain = tag_of(Some(tag));
            let checksum = is_md5(&plain) && !kms && !customer && !cos.0.load(Ordering::Relaxed);
            if checksum && plain != body.tag() {
                return Err(PutError::differs(format!(
                    "part {number} was sent as {}, and is held as {plain}",
                    body.tag()
                )));
            }
            Ok(tag.to_owned())
        };
        let sent = self.watched(body.size, &progress, request).await;
        self.or_why(key, &progress, sent).await
    }

    async fn complete(&self, key: &str, upload: &str, tags: &[String]) -> Result<String, PutError> {
        let part = |(i, tag): (usize, &String)| {
            CompletedPart::builder().part_number(i32::try_from(i + 1).unwrap_or(i32::MAX)).e_tag(tag).build()
        };
        let parts = tags.iter().enumerate().map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        // the storage puts the object together before it answers
        let request = request.multipart_upload(parts).customize().config_override(self.within(self.timeout * 4));
        let answer = request.send().await.map_err(|e| classify(&e))?;
        Ok(tag_of(answer.e_tag()))
    }

    async fn knows(&self, key: &str, upload: &str) -> Result<bool, PutError> {
        match self.knows_once(key, upload).await {
            Err(error) if error.code == CONNECTION_ERROR => self.knows_once(key, upload).await,
            answered => answered,
        }
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<(), PutError> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        match request.customize().config_override(self.within(self.timeout)).send().await.map_err(|e| classify(&e)) {
            Ok(_) => Ok(()),
            Err(e) if e.code == super::NO_SUCH_UPLOAD => Ok(()),
            // some say only that they would not: of one that holds nothing, nothing is to be given up
            Err(e) if e.class == Class::Refused => match self.knows(key, upload).await {
                Ok(false) => Ok(()),
                Ok(true) | Err(_) => Err(e),
            },
            Err(e) => Err(e),
        }
    }
}

fn timed_out() -> PutError {
    PutError::new(Class::Later, "RequestTimeout", "the storage did not answer in time")
}

/// What an answer means, and the storage's own words for it.
fn classify<E>(error: &SdkError<E, HttpResponse>) -> PutError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let said = error.as_service_error().map(ProvideErrorMetadata::meta);
    let code = said.and_then(|meta| meta.code());
    let message = said.and_then(|meta| meta.message());
    match (error, status) {
        (SdkError::ServiceError(_) | SdkError::ResponseError(_), Some(status)) => {
            let code = code.map_or_else(|| format!("Http{status}"), str::to_owned);
            let message = message.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
            PutError::new(class_of(status, &code), code, message)
        }
        (SdkError::TimeoutError(_), _) => timed_out(),
        // it names hosts and causes, never keys
        _ => PutError::new(Class::Later, CONNECTION_ERROR, chain(error)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// By code where its status misleads; S3 has some 400s that are worth a repeat.
fn class_of(status: u16, code: &str) -> Class {
    match code {
        "RequestTimeout" | "RequestTimeTooSkewed" | "SlowDown" | "ServiceUnavailable" => Class::Later,
        "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" | "InternalError" => Class::Doubtful,
        "NoSuchBucket"
        | "InvalidBucketName"
        | "AuthorizationHeaderMalformed"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AccessDenied"
        | "ExpiredToken"
        | "InvalidToken"
        | "PermanentRedirect" => Class::Refused,
        _ => match status {
            500 => Class::Doubtful,
            408 | 425 | 429 | 501.. => Class::Later,
            300..=399 | 401..=404 => Class::Refused,
            _ => Class::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_more_than_status() {
        assert_eq!(class_of(503, "SlowDown"), Class::Later);
        assert_eq!(class_of(400, "RequestTimeout"), Class::Later);
        assert_eq!(class_of(400, "AuthorizationHeaderMalformed"), Class::Refused);
        assert_eq!(class_of(404, "NoSuchBucket"), Class::Refused);
        assert_eq!(class_of(403, "Http403"), Class::Refused);
        assert_eq!(class_of(301, "Http301"), Class::Refused);
        assert_eq!(class_of(400, "EntityTooLarge"), Class::Never);
        assert_eq!(class_of(500, "InternalError"), Class::Doubtful);
        assert_eq!(class_of(502, "Http502"), Class::Later);
        for code in ["ExpiredToken", "InvalidAccessKeyId"] {
            assert_eq!(class_of(400, code), Class::Refused);
        }
        assert_eq!(class_of(200, "Http200"), Class::Never);
    }

    #[test]
    fn a_region_cannot_name_another_host() {
        for region in ["", "eu.example.org/", "a b", "a#"] {
            let keys = StorageKeys { access_key: Secret::new("a"), secret_key: Secret::new("b") };
            let settings = Settings {
                endpoint: None,
                region: region.into(),
                bucket: "b".into(),
                keys,
                path_style: false,
                tags_of_parts: true,
                timeout: CONNECT,
            };
            assert_eq!(S3::new(settings).err().unwrap().class, Class::Refused, "{region}");
        }
    }
}
