//! One call of the API, from its first byte to its answer.
//!
//! Owns: the order of the checks (size, signature, action, version, rate, parameters, application, tickets), the
//! question to the actor, the one log line. Must not touch: what parameters mean (`wire`).
//! Law: nothing of a request is acted upon before its signature was found good, and the answer is HTTP 200 with the
//! Content-Type `application/json` and no parameter to it (API.md §0.1).
//! Source: API.md §2.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use super::error::{ApiError, Code, Whose};
use super::wire::{self, Action, Answer, Call, CreateOrder, TaskAnswer, VERSION, ViewAnswer};
use super::{Inner, flat, limits};
use crate::config::{ApiKey, Config};
use crate::model::signature::{
    SignedHeader, Tc3Claim, Tc3Request, V1Request, check_private_map_key, check_user_sig, verify_tc3, verify_v1,
};
use crate::model::{SdkAppId, Timestamp};

/// A call is answered within so long (API.md §1.1); what the actor does later is found by the repeated call.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// A body that takes longer to arrive is not waited for.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(30);

const FORM: &str = "application/x-www-form-urlencoded";

/// What is known of a call, for its log line.
#[derive(Default)]
struct Noted {
    action: Option<Action>,
    secret_id: Option<String>,
}

pub(super) async fn root(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    if is_browser(&request) {
        return Redirect::to("/console").into_response();
    }
    let began = Instant::now();
    let request_id = uuid::Uuid::new_v4().to_string();
    let mut noted = Noted::default();
    let outcome = take(&inner, request, &mut noted).await;
    note(&noted, &outcome, &request_id, began.elapsed());
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], wire::body(&outcome, &request_id)).into_response()
}

/// A person who typed the box's address: no SDK asks for HTML, without parameters and without a signature.
fn is_browser(request: &Request) -> bool {
    let headers = request.headers();
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET
        && request.uri().query().is_none_or(str::is_empty)
        && !headers.contains_key(header::AUTHORIZATION)
        && !headers.contains_key("x-tc-action")
        && accepts.contains("text/html")
}

fn note(noted: &Noted, outcome: &Result<Answer, ApiError>, request: &str, took: Duration) {
    let action = noted.action.map_or("other", Action::name);
    let by = noted.secret_id.as_deref().unwrap_or("-");
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let code = outcome.as_ref().err().map(|error| error.code.text());
    let label = code.clone().unwrap_or("ok".into()).into_owned();
    metrics::counter!("holdfast_api_requests_total", "action" => action, "code" => label).increment(1);
    metrics::histogram!("holdfast_api_request_seconds", "action" => action).record(took.as_secs_f64());
    match outcome {
        Ok(_) => tracing::info!(request, action, by, ms, "answered"),
        Err(error) => {
            let (code, said) = (code.as_deref().unwrap_or_default(), error.outside.as_str());
            let inside = error.inside.as_deref().unwrap_or_default();
            match error.code.whose() {
                Whose::Caller => tracing::info!(request, action, by, ms, code, said, inside, "refused"),
                Whose::Box => tracing::error!(request, action, by, ms, code, said, inside, "failed"),
            }
        }
    }
}

/// A request with its signature found good.
struct Signed<'a> {
    key: &'a ApiKey,
    action: String,
    version: String,
    params: Params,
}

/// An action's parameters as they came.
enum Params {
    Flat(Vec<(String, String)>, Code),
    Json(Vec<u8>),
}

async fn take(inner: &Inner, request: Request, noted: &mut Noted) -> Result<Answer, ApiError> {
    // one configuration from the signature to the answer
    let config = inner.door.config.now();
    let signed = authenticate(Gauge { config: &config, now: (inner.door.clock)() }, request).await?;
    noted.secret_id = Some(signed.key.secret_id.clone());
    let Some(action) = Action::parse(&signed.action) else {
        return Err(match signed.action.as_str() {
            "" => ApiError::missing("Action", "Action"),
            _ => ApiError::new(Code::InvalidAction, "Action is none that this box has"),
        });
    };
    noted.action = Some(action);
    match signed.version.as_str() {
        VERSION => {}
        "" => return Err(ApiError::missing("Version", "Version")),
        _ => return Err(ApiError::new(Code::NoSuchVersion, format!("Version must be {VERSION}"))),
    }
    let limit = config.limits.requests_per_second;
    if !inner.rate.admit(action, limit, Instant::now()) {
        return Err(ApiError::new(
            Code::RequestLimitExceeded,
            format!("{} is called more than {limit} times a second", action.name()),
        ));
    }
    let params = match signed.params {
        Params::Flat(pairs, fault) => flat::restore(action.fields(), &pairs, fault)?,
        Params::Json(body) => json_object(&body)?,
    };
    let call = wire::read(action, &params)?;
    check_app(&config, signed.key, call.app())?;
    match tokio::time::timeout(ANSWER_WITHIN, perform(inner, &config, call, &signed.key.secret_id)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Err(ApiError::new(Code::CrInternalError, "the box did not answer in time; the same call may be repeated")
                .with_inside("the actor took longer than the API's limit"))
        }
    }
}

/// What a signature is held against: one configuration, and the time.
struct Gauge<'a> {
    config: &'a Config,
    now: Timestamp,
}

async fn authenticate(gauge: Gauge<'_>, request: Request) -> Result<Signed<'_>, ApiError> {
    let (parts, body) = request.into_parts();
    let method = match parts.method {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => return Err(ApiError::new(Code::UnsupportedProtocol, "the API takes GET and POST")),
    };
    let query = parts.uri.query().unwrap_or_default();
    if query.len() > limits::QUERY_BYTES {
        return Err(too_large("a query", "32 KB"));
    }
    let mut headers = plain_headers(&parts.headers);
    if !parts.headers.contains_key(header::HOST) {
        // HTTP/2 has the host in its pseudo-header.
        if let Some(authority) = parts.uri.authority() {
            headers.push(("host".to_owned(), authority.as_str().to_owned()));
        }
    }
    let kind = media_type(&parts.headers);
    let limit = if kind == FORM { (limits::FORM_BYTES, "1 MB") } else { (limits::JSON_BYTES, "10 MB") };
    let body = if method == "GET" { Vec::new() } else { read_body(body, limit.0, limit.1).await? };
    match parts.headers.get(header::AUTHORIZATION) {
        Some(authorization) => {
            let authorization = authorization.to_str().unwrap_or_default();
            by_tc3(&gauge, method, query, &headers, &kind, body, authorization)
        }
        None => by_v1(&gauge, method, query, &headers, &kind, &body),
    }
}

fn by_tc3<'a>(
    gauge: &Gauge<'a>,
    method: &str,
    query: &str,
    headers: &[SignedHeader],
    kind: &str,
    body: Vec<u8>,
    authorization: &str,
) -> Result<Signed<'a>, ApiError> {
    if authorization.trim() == "SKIP" {
        return Err(ApiError::new(Code::AuthInvalidAuthorization, "requests without a signature (SKIP) are refused"));
    }
    let claim = Tc3Claim::parse(authorization)?;
    let key = key_of(gauge.config, &claim.secret_id)?;
    let request = Tc3Request { method, query, headers, body: &body };
    verify_tc3(&request, &claim, &key.secret_key, &gauge.config.server.public_names, gauge.now)?;
    let named = |name: &str| {
        headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let params = match (method, kind) {
        ("GET", _) => Params::Flat(pairs_of(query.as_bytes()), Code::UrlParamsError),
        (_, FORM) => {
            return Err(ApiError::new(
                Code::InvalidRequest,
                "a form needs the signature HmacSHA1 or HmacSHA256; TC3-HMAC-SHA256 goes with application/json",
            ));
        }
        (_, "multipart/form-data") => {
            return Err(ApiError::new(
                Code::InvalidRequest,
                "no action of this box takes multipart/form-data: send application/json",
            ));
        }
        _ => Params::Json(body),
    };
    Ok(Signed { key, action: named("x-tc-action"), version: named("x-tc-version"), params })
}

fn by_v1<'a>(
    gauge: &Gauge<'a>,
    method: &str,
    query: &str,
    headers: &[SignedHeader],
    kind: &str,
    body: &[u8],
) -> Result<Signed<'a>, ApiError> {
    let (pairs, fault) = match (method, kind) {
        ("GET", _) => (pairs_of(query.as_bytes()), Code::UrlParamsError),
        (_, FORM) => (pairs_of(body), Code::BodyParamsError),
        _ => return Err(ApiError::new(Code::AuthInvalidAuthorization, "the Authorization header is missing")),
    };
    let named =
        |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default();
    let secret_id = named("SecretId");
    if secret_id.is_empty() {
        return Err(ApiError::new(
            Code::AuthInvalidAuthorization,
            "the request has neither an Authorization header nor the parameters of a signature",
        ));
    }
    let key = key_of(gauge.config, &secret_id)?;
    let host = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.as_str()).unwrap_or_default();
    let request = V1Request { method, host, params: &pairs };
    verify_v1(&request, &key.secret_key, &gauge.config.server.public_names, gauge.now)?;
    Ok(Signed { key, action: named("Action"), version: named("Version"), params: Params::Flat(pairs, fault) })
}

fn key_of<'a>(config: &'a Config, secret_id: &str) -> Result<&'a ApiKey, ApiError> {
    let keys = &config.api_keys;
    keys.iter()
        .find(|key| key.secret_id == secret_id)
        .ok_or_else(|| ApiError::new(Code::AuthSecretIdNotFound, "SecretId is none that this box knows"))
}

/// Names in lower case, values as text.
fn plain_headers(headers: &HeaderMap) -> Vec<SignedHeader> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// The media type alone, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn pairs_of(text: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text).into_owned().collect()
}

fn too_large(what: &str, limit: &str) -> ApiError {
    ApiError::new(Code::RequestSizeLimitExceeded, format!("{what} of this kind may have at most {limit}"))
}

/// Reads at most `limit` bytes. What is longer is read on for a while and thrown away, since a client that is still
/// sending would not see the answer.
async fn read_body(mut body: Body, limit: usize, told: &str) -> Result<Vec<u8>, ApiError> {
    let reading = async {
        let (mut kept, mut seen) = (Vec::new(), 0usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(Code::InvalidRequest, "the body broke off").with_inside(error.to_string())
            })?;
            let Ok(bytes) = frame.into_data() else { continue };
            seen = seen.saturating_add(bytes.len());
            if seen <= limit {
                kept.extend_from_slice(&bytes);
            } else {
                kept = Vec::new();
                if seen > limit.saturating_mul(4) {
                    break;
                }
            }
        }
        if seen > limit { Err(too_large("a body", told)) } else { Ok(kept) }
    };
    match tokio::time::timeout(BODY_WITHIN, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ApiError::new(Code::InvalidRequest, "the body took too long to arrive")),
    }
}

fn json_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let broken = |why: String| ApiError::new(Code::BodyParamsError, format!("the body {why}"));
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(broken("begins with a byte order mark, which JSON must not have".into()));
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(broken("is not UTF-8".into()));
    };
    if text.trim().is_empty() {
        return Err(broken("is empty; it must be a JSON object".into()));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(broken("must be a JSON object".into())),
        Err(error) => Err(broken(format!("is not JSON (line {}, column {})", error.line(), error.column()))),
    }
}

fn check_app(config: &Config, key: &ApiKey, app: SdkAppId) -> Result<(), ApiError> {
    if !config.apps.is_empty() && config.app(app).is_none() {
        return Err(ApiError::invalid("SdkAppId", "SdkAppId", "is no application of this box"));
    }
    if !key.apps.is_empty() && !key.apps.contains(&app) {
        return Err(ApiError::new(Code::UnauthorizedSdkAppId, "SecretId may not speak for this SdkAppId"));
    }
    Ok(())
}

/// The recorder's tickets, where the application has a key to check them with.
fn check_tickets(inner: &Inner, config: &Config, order: &CreateOrder) -> Result<(), ApiError> {
    let spec = &order.spec;
    let secret_key = config.app(spec.app).and_then(|app| app.secret_key.as_ref());
    let now = (inner.door.clock)();
    if let Some(secret_key) = secret_key {
        check_user_sig(order.user_sig.expose(), secret_key, spec.app, &spec.recorder, now)
            .map_err(|error| ApiError::invalid("UserSig", "UserSig", &error.to_string()))?;
    }
    if let Some(ticket) = &order.private_map_key {
        check_private_map_key(ticket.expose(), secret_key, spec.app, &spec.recorder, &spec.room, now)
            .map_err(|error| ApiError::invalid("PrivateMapKey", "PrivateMapKey", &error.to_string()))?;
    }
    Ok(())
}

/// `by`: the SecretId that signed.
async fn perform(inner: &Inner, config: &Config, call: Call, by: &str) -> Result<Answer, ApiError> {
    let rooms = &inner.door.rooms;
    match call {
        Call::Create(order) => {
            check_tickets(inner, config, &order)?;
            if order.spec.vod().is_some() && !config.vod.has_keys() {
                return Err(ApiError::unsupported(
                    "StorageParams.CloudVod needs the keys of a VOD account, and this box has none: set vod.secret_id and \
                     vod.secret_key in its configuration, or give StorageParams.CloudStorage",
                ));
            }
            let CreateOrder { spec, keys, user_sig, .. } = *order;
            let task_id = rooms.create(spec, keys, user_sig).await?;
            Ok(Answer::Task(TaskAnswer { task_id }))
        }
        Call::Describe { app, task } => Ok(Answer::View(ViewAnswer::from(rooms.describe(app, task).await?))),
        Call::Modify { app, task, subscription, layout } => {
            rooms.modify(app, task.clone(), subscription, layout).await?;
            Ok(Answer::Task(TaskAnswer { task_id: task }))
        }
        Call::Delete { app, task, discard } => {
            match discard {
                true => rooms.discard(app, task.clone(), by.to_owned()).await?,
                false => rooms.delete(app, task.clone()).await?,
            }
            Ok(Answer::Task(TaskAnswer { task_id: task }))
        }
        Call::Pause { app, task } => {
            rooms.pause(app, task.clone()).await?;
            Ok(Answer::Task(TaskAnswer { task_id: task }))
        }
        Call::Resume { app, task } => {
            rooms.resume(app, task.clone()).await?;
            Ok(Answer::Task(TaskAnswer { task_id: task }))
        }
        Call::RemoveUsers { room, users } => {
            rooms.remove_users(room, users).await?;
            Ok(Answer::Nothing {})
        }
        Call::Dismiss { room } => {
            rooms.dismiss(room).await?;
            Ok(Answer::Nothing {})
        }
    }
}
