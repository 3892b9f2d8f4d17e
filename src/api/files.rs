//! The local store, read-only over HTTP, where recordings can be played from.
//!
//! Owns: `/files/…`. Must not touch: what is in the store.
//! Law: there is none where the storage is the cloud's; nothing but finished files is served: no folder, no hidden name, nothing half-written.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tower_http::services::ServeDir;

use crate::config::{Live, StorageKind};

pub(super) fn router(config: Live) -> Router {
    let files = Router::new().fallback(serve).with_state(config);
    Router::new().nest("/files", files).layer(from_fn(guard))
}

/// From the local store as it is configured at this moment.
async fn serve(State(config): State<Live>, request: Request) -> Response {
    let config = config.now();
    if config.storage.kind != StorageKind::Local {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut files = ServeDir::new(config.local_root()).append_index_html_on_directories(false);
    match files.try_call(request).await {
        Ok(response) => response.into_response(),
        Err(error) => {
            tracing::warn!(%error, "a file of the local store cannot be served");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn guard(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match *request.method() {
        Method::OPTIONS => preflight(),
        _ if hidden(&path) => StatusCode::NOT_FOUND.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    let text = HeaderValue::from_static;
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, text("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        text("Accept-Ranges, Content-Length, Content-Range, Last-Modified"),
    );
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, text("nosniff"));
    // A playlist grows while it is recorded.
    headers.insert(header::CACHE_CONTROL, text("no-cache"));
    if headers.contains_key(header::CONTENT_TYPE)
        && let Some(kind) = media_type_of(&path)
    {
        response.headers_mut().insert(header::CONTENT_TYPE, text(kind));
    }
    response
}

fn preflight() -> Response {
    let text = HeaderValue::from_static;
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, text("GET, HEAD, OPTIONS")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, text("Range")),
        (header::ACCESS_CONTROL_MAX_AGE, text("86400")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Names that begin with a dot, or that are still being written. Encoded dots and separators have no honest use.
fn hidden(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let disguised = ["%2e", "%2f", "%5c", "%00", "\\"].iter().any(|trick| lower.contains(trick));
    let unfinished = |name: &str| name.starts_with('.') || name.ends_with(".part") || name.ends_with(".tmp");
    disguised || lower.split('/').any(|name| unfinished(name) || name.contains(".part."))
}

fn media_type_of(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "m3u8" => Some("application/vnd.apple.mpegurl"),
        "ts" => Some("video/mp2t"),
        "mp4" => Some("video/mp4"),
        "aac" => Some("audio/aac"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_is_hidden() {
        for path in [
            "/files/.tmp",
            "/files/b/.x/y.ts",
            "/files/b/t/a.part",
            "/files/b/t/a.part.ts",
            "/files/b/%2e%2E/c",
            "/files/a.tmp",
        ] {
            assert!(hidden(path), "{path}");
        }
        for path in ["/files/b/h+a./14_1__UserId_s_YQ..__UserId_e_main_audio.m3u8", "/files/b/t/x.ts"] {
            assert!(!hidden(path), "{path}");
        }
    }
}
