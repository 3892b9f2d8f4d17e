//! An RTSP camera (GStreamer's RTSP server) and a WHEP server (on the project's own publisher), on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{delete, post};
use holdfast::media::publish::{Link, Script, TestPicture, VideoCodec};
use holdfast::model::Codec;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Running, project};
/// What a camera sends, see `rtsp.py`.
#[derive(Debug, Clone, Copy)]
pub struct Films {
    pub video: &'static str,
    pub audio: &'static str,
    /// `RRGGBB`
    pub colour: &'static str,
    pub login: Option<(&'static str, &'static str)>,
}

pub struct Camera {
    pub port: u16,
    films: Films,
    running: Running,
    /// Over TLS: where its certificate is, of its own making.
    certificate: Option<TempDir>,
}

/// A certificate for loopback that nobody vouches for, and its key, in one file.
fn certify() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let pem = made.cert.pem() + &made.signing_key.serialize_pem();
    std::fs::write(dir.path().join("camera.pem"), pem).expect("the folder is ours");
    dir
}

async fn begin(films: Films, port: u16, certificate: Option<&TempDir>) -> (Running, u16) {
    // Debian's own: it is the one that python3-gi belongs to
    let mut command = Command::new("/usr/bin/python3");
    command.arg(project().join("tests/support/rtsp.py")).arg(port.to_string());
    command.args([films.video, films.audio, films.colour]);
    if let Some((user, password)) = films.login {
        command.args([user, password]);
    }
    if let Some(dir) = certificate {
        command.env("CERTIFICATE", dir.path().join("camera.pem"));
    }
    let running = Running::start("rtsp.py", &mut command);
    let ready = |line: &str| line.strip_prefix("ready ").and_then(|port| port.parse().ok());
    let port = running.lines.wait_for("'ready PORT' (is scripts/setup run?)", ready).await;
    (running, port)
}

impl Camera {
    pub async fn start(films: Films) -> Camera {
        let (running, port) = begin(films, 0, None).await;
        Camera { port, films, running, certificate: None }
    }

    /// One that speaks TLS alone.
    pub async fn sealed(films: Films) -> Camera {
        let certificate = certify();
        let (running, port) = begin(films, 0, Some(&certificate)).await;
        Camera { port, films, running, certificate: Some(certificate) }
    }

    /// As if its plug was pulled.
    pub async fn cut(&mut self) {
        self.running.kill().await;
    }

    /// Plugged in again, at the same address.
    pub async fn back(&mut self) {
        self.running = begin(self.films, self.port, self.certificate.as_ref()).await.0;
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "rtsps" } else { "rtsp" };
        format!("{scheme}://127.0.0.1:{}/cam", self.port)
    }
}

/// A media server that shows a script to who has the token.
pub struct Theatre {
    pub address: SocketAddr,
    /// Viewers so far, and those of them that have left as WHEP says.
    pub viewers: watch::Receiver<(u32, u32)>,
    server: tokio::task::JoinHandle<()>,
    shows: CancellationToken,
}

struct Stage {
    token: String,
    codec: VideoCodec,
    script: Script,
    viewers: watch::Sender<(u32, u32)>,
    shows: Mutex<Vec<CancellationToken>>,
    all: CancellationToken,
}

impl Theatre {
    pub async fn open(token: &str, codec: VideoCodec, picture: TestPicture) -> Theatre {
        let script = move || Script::record(&picture, codec, 4).expect("a script can be made");
        let script = tokio::task::spawn_blocking(script).await.expect("it does not panic");
        let shows = CancellationToken::new();
        let (told, viewers) = watch::channel((0, 0));
        let stage =
            Stage { token: token.into(), codec, script, viewers: told, shows: Mutex::default(), all: shows.clone() };
        let router =
            Router::new().route("/show", post(enter)).route("/seat/{n}", delete(leave)).with_state(Arc::new(stage));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives as long as the test");
        });
        Theatre { address, viewers, server, shows }
    }

    pub fn url(&self) -> String {
        format!("http://{}/show", self.address)
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        self.shows.cancel();
        self.server.abort();
    }
}

async fn enter(State(stage): State<Arc<Stage>>, headers: HeaderMap, offer: String) -> axum::response::Response {
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    if shown != Some(&format!("Bearer {}", stage.token)) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let codec = if stage.codec == VideoCodec::Vp8 { Codec::Vp8 } else { Codec::H264 };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0)).ip();
    let (link, answer) = match Link::serve(&offer, &[Codec::Opus, codec], loopback).await {
        Ok(served) => served,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let show = stage.all.child_token();
    let seat = {
        let mut shows = stage.shows.lock().expect("no handler panics");
        shows.push(show.clone());
        shows.len() - 1
    };
    stage.viewers.send_modify(|(came, _)| *came += 1);
    let script = stage.script.clone();
    tokio::spawn(async move {
        let mut link = link;
        if link.connected().await.is_ok() {
            let _ = link.play(&script, &show).await;
        }
        link.close().await;
    });
    let headers = [("content-type", "application/sdp".to_owned()), ("location", format!("/seat/{seat}"))];
    (StatusCode::CREATED, headers, answer).into_response()
}

async fn leave(State(stage): State<Arc<Stage>>, axum::extract::Path(seat): axum::extract::Path<usize>) -> StatusCode {
    let show = stage.shows.lock().expect("no handler panics").get(seat).cloned();
    let Some(show) = show else { return StatusCode::NOT_FOUND };
    show.cancel();
    stage.viewers.send_modify(|(_, left)| *left += 1);
    StatusCode::OK
}
