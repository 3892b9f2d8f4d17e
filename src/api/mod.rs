//! The door: everything that comes in by HTTP, and the only place that names axum.
//!
//! Owns: routes, who may call, codes, limits, the pages. Must not touch: store, spool, upload: it asks `rooms` and the
//! WHIP server, and answers.
//! Law: an API call is answered with HTTP 200 and `application/json`, whatever became of it (API.md §0.1); nothing
//! secret is logged or answered; every stranger's input is bounded before it is read.

mod call;
pub mod console;
pub mod error;
mod fields;
mod files;
pub mod flat;
pub mod limits;
mod mix;
pub mod schema;
pub mod tls;
pub mod whip;
pub mod wire;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::Value;

use crate::config::Live;
use crate::health::{Reporter, Summary};
use crate::model::WallClock;
use crate::model::lamps::{self, Light};
use crate::rooms::Rooms;

pub use tls::{serve_http, serve_https};
pub use whip::WhipDoor;

/// What the door needs of the house.
#[derive(Clone)]
pub struct Door {
    pub config: Live,
    pub rooms: Rooms,
    pub whip: Arc<dyn WhipDoor>,
    pub clock: WallClock,
    pub health: Reporter,
    pub metrics: PrometheusHandle,
}

struct Inner {
    door: Door,
    rate: limits::Rate,
}

/// The API's own calls, for those who operate the box over a line of their own.
pub fn operators(door: Door) -> impl Fn(String, Value) -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync {
    let inner = Arc::new(Inner { rate: limits::Rate::default(), door });
    move |action, params| {
        let inner = inner.clone();
        Box::pin(async move { call::operate(&inner, &action, params).await })
    }
}

/// All routes: the API on `/`, `/whip`, `/whip-session`, `/files`, `/publish`, `/console`, `/healthz`, `/metrics`.
pub fn router(door: Door) -> Router {
    let files = files::router(door.config.clone());
    let whip = whip::router(&door);
    let inner = Arc::new(Inner { rate: limits::Rate::default(), door });
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
struct HealthAnswer {
    /// `ok`, `degraded` or `failed`
    status: &'static str,
    /// What the box is at: `starting`, `idle`, `recording`, `stopping`; absent where it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    doing: Option<&'static str>,
    reasons: Vec<String>,
    /// What each light of the front shows, or would if it were there.
    lights: BTreeMap<&'static str, &'static str>,
}

/// 200 as long as the box records what it is asked to record.
async fn healthz(State(inner): State<Arc<Inner>>) -> Response {
    let (code, status, doing, reasons) = match inner.door.health.summary() {
        Summary::Idle => (StatusCode::OK, "ok", Some("idle"), Vec::new()),
        Summary::Recording => (StatusCode::OK, "ok", Some("recording"), Vec::new()),
        Summary::Degraded(reasons) => (StatusCode::OK, "degraded", None, reasons),
        Summary::Failed(reasons) => (StatusCode::SERVICE_UNAVAILABLE, "failed", None, reasons),
        Summary::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "failed", Some("starting"), vec!["the box is starting".to_owned()])
        }
        Summary::Stopping => {
            (StatusCode::SERVICE_UNAVAILABLE, "failed", Some("stopping"), vec!["the box is shutting down".to_owned()])
        }
    };
    let facts = *inner.door.health.facts().borrow();
    let lights = Light::ALL.map(|light| (light.name(), lamps::shown(light, &facts))).into();
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (code, [no_store], axum::Json(HealthAnswer { status, doing, reasons, lights })).into_response()
}

async fn prometheus(State(inner): State<Arc<Inner>>) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], inner.door.metrics.render()).into_response()
}
