//! S3 and COS, by aws-sdk-s3.
//!
//! Owns: requests to a bucket, and what its errors mean. Must not touch: retries (the uploader's) and keys at rest.
//! Law: one call is one try; `Ok` only when the storage's own answer fits what was sent.
//! Sources: API.md §6: COS knows no `aws-chunked` bodies and no CRC headers, so checksums are sent only where a call
//! requires them; what guards the bytes is `Content-MD5`, which both check.

use std::io::{self, Read};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine;
use bytes::Bytes;
use http_body_util::channel::Channel;

use super::{Body, Class, ObjectStore, PutError};
use crate::model::recording::StorageKeys;

/// The slowest line that a PUT is given time for, beside the configured time-out.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// Bytes that are read at once, and how many of these may wait for the line.
const CHUNK: usize = 256 * 1024;
const CHUNKS: usize = 4;
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
    pub timeout: Duration,
}

/// One bucket.
pub struct S3 {
    client: aws_sdk_s3::Client,
    bucket: String,
    timeout: Duration,
}

impl S3 {
    pub fn new(settings: Settings) -> Result<S3, PutError> {
        let Settings { endpoint, region, bucket, keys, path_style, timeout } = settings;
        // it becomes part of a host's name
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(PutError::new(Class::Refused, "InvalidRegion", "the region holds other than a-z, 0-9 and -"));
        }
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let credentials =
            Credentials::new(keys.access_key.expose(), keys.secret_key.expose(), None, None, "the task's own");
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
        Ok(S3 { client: aws_sdk_s3::Client::from_conf(config.build()), bucket, timeout })
    }

    fn within(&self, size: u64) -> aws_sdk_s3::config::Builder {
        let timeout = self.timeout + Duration::from_secs(size / SLOWEST_BYTES_PER_SECOND);
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT.min(timeout)).operation_timeout(timeout);
        aws_sdk_s3::Config::builder().timeout_config(timeouts.build())
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put(&self, key: &str, body: &Body, content_type: &str) -> Result<(), PutError> {
        let stream = match &body.bytes {
            Some(bytes) => ByteStream::from(bytes.clone()),
            None if body.file.is_sealed() => opened(body),
            None => ByteStream::from_path(body.file.path())
                .await
                .map_err(|e| PutError::new(Class::Never, "LocalReadError", e.to_string()))?,
        };
        let md5 = body.md5();
        let answer = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type(content_type)
            .content_length(i64::try_from(body.size).unwrap_or(i64::MAX))
            .set_content_md5(md5.map(|md5| base64::engine::general_purpose::STANDARD.encode(md5)))
            .body(stream)
            .customize()
            .config_override(self.within(body.size))
            .send()
            .await
            .map_err(|e| classify(&e))?;

        // a storage that encrypts answers with a tag that is no MD5: then the size has to do
        let tag = answer.e_tag().map(|tag| tag.trim_matches('"').to_ascii_lowercase());
        if md5.is_some() && tag == md5.map(hex::encode) {
            return Ok(());
        }
        match self.head(key).await? {
            Some(size) if size == body.size => Ok(()),
            found => {
                let message = format!("{} bytes were sent, and the storage holds {found:?}", body.size);
                Err(PutError::new(Class::Later, "IncompleteBody", message))
            }
        }
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, PutError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        match request.customize().config_override(self.within(0)).send().await {
            Ok(answer) => Ok(Some(answer.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0))),
            Err(e) if e.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(e) => Err(classify(&e)),
        }
    }
}

/// A sealed file's contents, some chunks ahead of the line. What ends before its size breaks the request.
fn opened(body: &Body) -> ByteStream {
    let (mut to, from) = Channel::<Bytes, io::Error>::new(CHUNKS);
    let (file, runtime) = (body.file.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let mut read = || -> io::Result<()> {
            let mut input = file.open()?;
            loop {
                let mut chunk = vec![0; CHUNK];
                let n = input.read(&mut chunk)?;
                if n == 0 {
                    return Ok(());
                }
                chunk.truncate(n);
                if runtime.block_on(to.send_data(chunk.into())).is_err() {
                    // the request is over
                    return Ok(());
                }
            }
        };
        if let Err(error) = read() {
            to.abort(error);
        }
    });
    ByteStream::from_body_1_x(from)
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
        (SdkError::TimeoutError(_), _) => {
            PutError::new(Class::Later, "RequestTimeout", "the storage did not answer in time")
        }
        // it names hosts and causes, never keys
        _ => PutError::new(Class::Later, "ConnectionError", chain(error)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// By code where its status misleads; S3 has some 400s that are worth a repeat.
fn class_of(status: u16, code: &str) -> Class {
    match code {
        "RequestTimeout"
        | "RequestTimeTooSkewed"
        | "SlowDown"
        | "BadDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch" => Class::Later,
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
            408 | 425 | 429 | 500.. => Class::Later,
            300..=399 | 401..=404 => Class::Refused,
            _ => Class::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    #[test]
    fn codes_tell_more_than_status() {
        assert_eq!(class_of(503, "SlowDown"), Class::Later);
        assert_eq!(class_of(400, "RequestTimeout"), Class::Later);
        assert_eq!(class_of(400, "AuthorizationHeaderMalformed"), Class::Refused);
        assert_eq!(class_of(404, "NoSuchBucket"), Class::Refused);
        assert_eq!(class_of(403, "Http403"), Class::Refused);
        assert_eq!(class_of(301, "Http301"), Class::Refused);
        assert_eq!(class_of(400, "EntityTooLarge"), Class::Never);
        assert_eq!(class_of(500, "InternalError"), Class::Later);
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
                timeout: CONNECT,
            };
            assert_eq!(S3::new(settings).err().unwrap().class, Class::Refused, "{region}");
        }
    }
}
