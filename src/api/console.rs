//! The pages: static files in the binary.
//!
//! Owns: `/console` and `/publish`. Must not touch: anything else; the pages speak to the box by its public routes.
//! Law: a page loads nothing from elsewhere, since the clinic's network may end at its walls.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

const CONSOLE: &str = include_str!("pages/console.html");
const PUBLISH: &str = include_str!("pages/publish.html");

pub(super) fn router() -> Router {
    Router::new().route("/console", get(|| page(CONSOLE))).route("/publish", get(|| page(PUBLISH)))
}

async fn page(text: &'static str) -> Response {
    let policy = HeaderValue::from_static(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; media-src blob: mediastream:; base-uri 'none'; form-action 'none'",
    );
    let no_cache = HeaderValue::from_static("no-cache");
    ([(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, no_cache)], Html(text)).into_response()
}
