//! The door: everything that comes in by HTTP, and the only place that names axum.
//!
//! Owns: routes, who may call, codes, limits, the pages. Must not touch: store, spool, upload: it asks `rooms` and the
//! WHIP server, and answers.
//! Law: an API call is answered with HTTP 200 and `application/json`, whatever became of it (API.md §0.1); nothing
//! secret is logged or answered; every stranger's input is bounded before it is read.

mod call;
pub mod console;
pub mod error;
mod files;
pub mod flat;
pub mod limits;
pub mod schema;
pub mod tls;
pub mod whip;
pub mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use crate::config::{Config, StorageKind};
use crate::model::Timestamp;
use crate::rooms::Rooms;

pub use whip::WhipDoor;

/// The wall clock, read where wall time is needed.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How the box is, for `/healthz`.
pub type HealthCheck = Arc<dyn Fn() -> Standing + Send + Sync>;

/// The box's state in one word, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Ok,
    Degraded(Vec<String>),
    Failed(Vec<String>),
}

/// What the door needs of the house.
#[derive(Clone)]
pub struct Door {
    pub config: Arc<Config>,
    pub rooms: Rooms,
    pub whip: Arc<dyn WhipDoor>,
    pub clock: WallClock,
    pub health: HealthCheck,
    /// Without it `/metrics` answers 404.
    pub metrics: Option<PrometheusHandle>,
}

struct Inner {
    door: Door,
    rate: limits::Rate,
}

/// All routes: the API on `/`, `/whip`, `/whip-session`, `/files`, `/publish`, `/console`, `/healthz`, `/metrics`.
pub fn router(door: Door) -> Router {
    let files = match door.config.storage.kind {
        StorageKind::Local => files::router(&door.config.local_root()),
        StorageKind::Cloud => Router::new(),
    };
    let whip = whip::router(&door);
    let inner = Arc::new(Inner { rate: limits::Rate::new(door.config.limits.requests_per_second), door });
    Router::new()
        .route("/", any(call::root))
        .route("/healthz", get(healthz))
        .route("/metrics", get(prometheus))
        .with_state(inner)
        .merge(whip)
        .merge(files)
        .merge(console::router())
}

#[derive(Serialize)]
struct HealthAnswer<'a> {
    status: &'a str,
    reasons: &'a [String],
}

async fn healthz(State(inner): State<Arc<Inner>>) -> Response {
    let standing = (inner.door.health)();
    let (code, status, reasons) = match &standing {
        Standing::Ok => (StatusCode::OK, "ok", &[][..]),
        Standing::Degraded(reasons) => (StatusCode::OK, "degraded", &reasons[..]),
        Standing::Failed(reasons) => (StatusCode::SERVICE_UNAVAILABLE, "failed", &reasons[..]),
    };
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (code, [no_store], axum::Json(HealthAnswer { status, reasons })).into_response()
}

async fn prometheus(State(inner): State<Arc<Inner>>) -> Response {
    let Some(handle) = &inner.door.metrics else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], handle.render()).into_response()
}
