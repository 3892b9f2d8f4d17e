//! Publishers come in: WHIP (RFC 9725) in terms of HTTP.
//!
//! Owns: the routes, tickets of publishers, statuses and headers, CORS. Must not touch: SDP, ICE, sessions
//! (`media::whip` has them).
//! Law: a session's URL cannot be guessed, so whoever has it may patch and end the session; its publisher was checked
//! when it was made. Any origin may ask (RFC 9725 §4.1), since the ticket and not a cookie lets one in.
//!
//! Which application a publisher belongs to: the query's `sdkappid`; else that of the UserSig; else the only one that
//! is configured; else, where none is configured, [`DEFAULT_APP`]. With several configured it must be told.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::{Deserialize, Serialize};

use super::call::{BODY_WITHIN, media_type};
use super::{Door, limits};
use crate::config::Live;
use crate::media::whip::{Patched, PublishOrder, Published, WhipError, WhipServer};
use crate::model::signature::{UserSigFacts, check_user_sig};
use crate::model::{MediaId, RoomId, RoomKey, SdkAppId, UserId, WallClock};

/// The application of publishers to a box that has none configured.
pub const DEFAULT_APP: SdkAppId = SdkAppId(1_400_000_000);

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ENDPOINT_METHODS: &str = "POST, OPTIONS";
const SESSION_METHODS: &str = "PATCH, DELETE, OPTIONS";
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// What the door asks of the WHIP server.
#[async_trait::async_trait]
pub trait WhipDoor: Send + Sync + 'static {
    async fn publish(&self, order: PublishOrder) -> Result<Published, WhipError>;
    /// `if_match`: the header as sent, quotes and all.
    async fn patch(&self, resource: &str, if_match: Option<&str>, fragment: &str) -> Result<Patched, WhipError>;
    async fn leave(&self, resource: &str) -> Result<(), WhipError>;
}

#[async_trait::async_trait]
impl WhipDoor for WhipServer {
    async fn publish(&self, order: PublishOrder) -> Result<Published, WhipError> {
        WhipServer::publish(self, order).await
    }
    async fn patch(&self, resource: &str, if_match: Option<&str>, fragment: &str) -> Result<Patched, WhipError> {
        WhipServer::patch(self, resource, if_match, fragment).await
    }
    async fn leave(&self, resource: &str) -> Result<(), WhipError> {
        WhipServer::leave(self, resource).await
    }
}

struct Porch {
    config: Live,
    whip: Arc<dyn WhipDoor>,
    clock: WallClock,
}

pub(super) fn router(door: &Door) -> Router {
    let porch = Porch { config: door.config.clone(), whip: door.whip.clone(), clock: door.clock.clone() };
    // Sessions are not below /whip, where their path could be that of a room and a user.
    Router::new()
        .route("/whip/{room}/{user}", any(main_endpoint))
        .route("/whip/{room}/{user}/aux", any(aux_endpoint))
        .route("/whip-session/{resource}", any(session))
        .layer(map_response(open_to_all_origins))
        .with_state(Arc::new(porch))
}

async fn open_to_all_origins(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Location, ETag, Link, Accept-Patch, Accept-Post, WWW-Authenticate, Retry-After"),
    );
    response
}

/// The answer to OPTIONS, be it a browser's preflight or a client's question.
fn options(methods: &'static str, asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let text = HeaderValue::from_static;
    headers.insert(header::ALLOW, text(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, text(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, text("Authorization, Content-Type, If-Match"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, text("86400"));
    if methods == ENDPOINT_METHODS {
        headers.insert(ACCEPT_POST, text(SDP));
    } else {
        headers.insert(ACCEPT_PATCH, text(FRAGMENT));
    }
    // A page from the internet asks before it speaks to an address of the clinic's network.
    if asked.contains_key("access-control-request-private-network") {
        headers.insert(HeaderName::from_static("access-control-allow-private-network"), text("true"));
    }
    response
}

/// A refusal, told as RFC 9457 has it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Refusal {
        Refusal { status, detail: detail.into(), header: None }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Refusal {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn unauthorized(detail: impl Into<String>, challenge: &'static str) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, challenge)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&problem).expect("texts and integers can be written as JSON");
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<WhipError> for Refusal {
    fn from(error: WhipError) -> Refusal {
        let told = error.to_string();
        match error {
            WhipError::BadOffer(_) | WhipError::BadFragment(_) => Refusal::new(StatusCode::BAD_REQUEST, told),
            WhipError::NoUsableMedia => Refusal::new(StatusCode::NOT_ACCEPTABLE, told),
            WhipError::TooMany => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, told).with(header::RETRY_AFTER, "5"),
            WhipError::Unknown => Refusal::new(StatusCode::NOT_FOUND, told),
            WhipError::PreconditionRequired => Refusal::new(StatusCode::PRECONDITION_REQUIRED, told),
            WhipError::PreconditionFailed => Refusal::new(StatusCode::PRECONDITION_FAILED, told),
            WhipError::Internal(why) => {
                tracing::error!(why, "a publisher's request failed");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the box could not do it")
            }
        }
    }
}

fn method_not_allowed(methods: &'static str) -> Response {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("this URL takes {methods}"))
        .with(header::ALLOW, methods)
        .into_response()
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    room_id_type: Option<String>,
    sdkappid: Option<String>,
}

async fn main_endpoint(
    State(porch): State<Arc<Porch>>,
    Path((room, user)): Path<(String, String)>,
    asked: Query<Asked>,
    request: Request,
) -> Response {
    endpoint(&porch, &room, &user, MediaId::Main, &asked, request).await
}

async fn aux_endpoint(
    State(porch): State<Arc<Porch>>,
    Path((room, user)): Path<(String, String)>,
    asked: Query<Asked>,
    request: Request,
) -> Response {
    endpoint(&porch, &room, &user, MediaId::Aux, &asked, request).await
}

async fn endpoint(porch: &Porch, room: &str, user: &str, media: MediaId, asked: &Asked, request: Request) -> Response {
    match *request.method() {
        Method::POST => enter(porch, room, user, media, asked, request).await.unwrap_or_else(|refusal| {
            tracing::info!(room, user, %media, status = refusal.status.as_u16(), why = refusal.detail, "publisher refused");
            refusal.into_response()
        }),
        Method::OPTIONS => options(ENDPOINT_METHODS, request.headers()),
        _ => method_not_allowed(ENDPOINT_METHODS),
    }
}

async fn enter(
    porch: &Porch,
    room: &str,
    user: &str,
    media: MediaId,
    asked: &Asked,
    request: Request,
) -> Result<Response, Refusal> {
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let user = UserId::parse(user).map_err(|error| bad(error.to_string()))?;
    let room = parse_room(room, asked.room_id_type.as_deref())?;
    let app = admit(porch, asked.sdkappid.as_deref(), &user, request.headers())?;
    if media_type(request.headers()) != SDP {
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an offer has the type application/sdp");
        return Err(refusal.with(ACCEPT_POST, SDP));
    }
    let offer = read_text(request.into_body()).await?;
    let room = RoomKey { app, room };
    let order = PublishOrder { room: room.clone(), user: user.clone(), media, offer };
    let published = porch.whip.publish(order).await?;
    tracing::info!(%room, %user, %media, session = published.session.0, "publisher taken in");
    let location = format!("/whip-session/{}", published.resource);
    let mut response = (StatusCode::CREATED, published.answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(header::LOCATION, own_value(&location)?);
    headers.insert(header::ETAG, own_value(&quoted(&published.etag))?);
    headers.insert(ACCEPT_PATCH, HeaderValue::from_static(FRAGMENT));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn session(State(porch): State<Arc<Porch>>, Path(resource): Path<String>, request: Request) -> Response {
    match *request.method() {
        Method::PATCH => patch(&porch, &resource, request).await.unwrap_or_else(Refusal::into_response),
        // Entity tags do not count here (RFC 9725 §4.3.1).
        Method::DELETE => match porch.whip.leave(&resource).await {
            Ok(()) => StatusCode::OK.into_response(),
            Err(error) => Refusal::from(error).into_response(),
        },
        Method::OPTIONS => options(SESSION_METHODS, request.headers()),
        _ => method_not_allowed(SESSION_METHODS),
    }
}

async fn patch(porch: &Porch, resource: &str, request: Request) -> Result<Response, Refusal> {
    if media_type(request.headers()) != FRAGMENT {
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("a fragment has the type {FRAGMENT}"));
        return Err(refusal.with(ACCEPT_PATCH, FRAGMENT));
    }
    let if_match = request.headers().get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let fragment = read_text(request.into_body()).await?;
    match porch.whip.patch(resource, if_match.as_deref(), &fragment).await? {
        Patched::NoContent => Ok(StatusCode::NO_CONTENT.into_response()),
        Patched::Restarted { etag, fragment } => {
            let mut response = (StatusCode::OK, fragment).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAGMENT));
            headers.insert(header::ETAG, own_value(&quoted(&etag))?);
            Ok(response)
        }
    }
}

/// A header value of our own making.
fn own_value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(|_| Refusal::from(WhipError::Internal(format!("no header value: {text:?}"))))
}

fn quoted(etag: &str) -> String {
    if etag.starts_with('"') { etag.to_owned() } else { format!("\"{etag}\"") }
}

/// Without a type, all digits that fit are a number.
fn parse_room(room: &str, kind: Option<&str>) -> Result<RoomId, Refusal> {
    let parsed = match kind {
        Some("0") => RoomId::text(room),
        Some("1") => RoomId::number(room),
        None => RoomId::number(room).or_else(|_| RoomId::text(room)),
        Some(_) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "room_id_type must be 0 (string) or 1 (number)"));
        }
    };
    parsed.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// Which application the publisher belongs to, its ticket found good where the application has a key.
fn admit(porch: &Porch, asked: Option<&str>, user: &UserId, headers: &HeaderMap) -> Result<SdkAppId, Refusal> {
    let config = porch.config.now();
    let ticket = bearer(headers);
    let asked = match asked {
        None => None,
        Some(text) => {
            let number = text.parse::<u32>().ok().filter(|number| *number != 0);
            let bad = Refusal::new(StatusCode::BAD_REQUEST, "sdkappid must be the number of an application");
            Some(SdkAppId(number.ok_or(bad)?))
        }
    };
    let of_ticket = || ticket.and_then(|sig| UserSigFacts::read(sig).ok()).map(|facts| facts.app);
    let app = match (asked.or_else(of_ticket), &config.apps[..]) {
        (Some(app), _) => app,
        (None, [only]) => only.sdk_app_id,
        (None, []) => DEFAULT_APP,
        (None, _) if ticket.is_none() => {
            return Err(Refusal::unauthorized("a UserSig is required", r#"Bearer realm="holdfast""#));
        }
        (None, _) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "several applications are configured: add ?sdkappid="));
        }
    };
    if config.apps.is_empty() {
        return Ok(app);
    }
    let Some(application) = config.app(app) else {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "sdkappid is no application of this box"));
    };
    let Some(key) = &application.secret_key else {
        return Ok(app);
    };
    let Some(sig) = ticket else {
        return Err(Refusal::unauthorized("a UserSig is required", r#"Bearer realm="holdfast""#));
    };
    check_user_sig(sig, key, app, user, (porch.clock)()).map_err(|error| {
        Refusal::unauthorized(format!("the UserSig {error}"), r#"Bearer realm="holdfast", error="invalid_token""#)
    })?;
    Ok(app)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

async fn read_text(body: Body) -> Result<String, Refusal> {
    let reading = tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, limits::SDP_BYTES));
    let Ok(read) = reading.await else {
        return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive"));
    };
    let Ok(bytes) = read else {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 256 KB, or it broke off"));
    };
    let text =
        String::from_utf8(bytes.into()).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body is empty"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_without_a_type_is_a_number_if_it_can_be() {
        let room = |name, kind| parse_room(name, kind).expect("it names a room");
        assert_eq!(room("123", None), RoomId::Number(123));
        assert_eq!(room("4294967295", None), RoomId::Text("4294967295".into()));
        assert_eq!(room("0", None), RoomId::Text("0".into()));
        assert_eq!(room("123", Some("0")), RoomId::Text("123".into()));
        assert_eq!(room("ward 5", None), RoomId::Text("ward 5".into()));
        assert!(parse_room("ward", Some("1")).is_err());
        assert!(parse_room("1", Some("2")).is_err());
        assert!(parse_room("a/b", None).is_err());
    }

    #[test]
    fn entity_tags_are_strong_and_quoted() {
        assert_eq!(quoted("abc"), "\"abc\"");
        assert_eq!(quoted("\"abc\""), "\"abc\"");
    }
}
