//! Headless Chromium as a publisher, with its fake camera and microphone or with files in their place, and as a player.

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use tempfile::TempDir;
use tokio::process::Command;

use super::daemon::encoded;
use super::{Running, program};

const PAGE: &str = include_str!("publish.html");
const PLAYER: &str = include_str!("play.html");

/// Serves the harness's own pages, so that they come from another origin than the box.
pub struct Origin {
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Origin {
    pub async fn start() -> Origin {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/publish", get(|| async { Html(PAGE) }));
        let router = router.route("/play", get(|| async { Html(PLAYER) }));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives as long as the test");
        });
        Origin { address, server }
    }

    /// The page's address; `more` as in `&codec=VP8&seconds=10`.
    pub fn page(&self, whip: &str, token: &str, more: &str) -> String {
        format!("http://{}/publish?whip={}&token={}{more}", self.address, encoded(whip), encoded(token))
    }
}

impl Origin {
    /// The page that plays what lies at `source`, and says so.
    pub fn player(&self, source: &str) -> String {
        format!("http://{}/play?src={}", self.address, encoded(source))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A camera picture and a sound in place of Chromium's own.
pub struct Feed<'a> {
    pub y4m: &'a Path,
    pub wav: &'a Path,
}

pub struct Browser {
    running: Running,
    profile: TempDir,
}

impl Browser {
    pub fn open(url: &str, feed: Option<&Feed>) -> Browser {
        let profile = TempDir::new().expect("a temporary folder can be made");
        let mut command = Command::new(program("chromium"));
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"])
            .args(["--autoplay-policy=no-user-gesture-required", "--disable-background-timer-throttling"])
            .args(["--disable-renderer-backgrounding", "--no-proxy-server", "--disable-background-networking"])
            .args(["--disable-component-update", "--enable-logging=stderr", "--ignore-certificate-errors"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path()); // it is killed, and so leaves behind what it has there
        if let Some(feed) = feed {
            command.arg(format!("--use-file-for-fake-video-capture={}", feed.y4m.display()));
            command.arg(format!("--use-file-for-fake-audio-capture={}", feed.wav.display()));
        }
        command.arg(url);
        Browser { running: Running::start("chromium", &mut command), profile }
    }

    /// The first console line with `words` in it.
    pub async fn says(&self, words: &str) -> String {
        self.running.lines.wait_for(words, |line| line.contains(words).then(|| line.to_owned())).await
    }

    /// What the player says of this step: the numbers behind its name.
    pub async fn plays(&self, step: &str) -> Vec<f64> {
        let (words, wrong) = (format!("play: {step} "), "play: error");
        let told = |line: &str| (line.contains(&words) || line.contains(wrong)).then(|| line.to_owned());
        let line = self.running.lines.wait_for(&words, told).await;
        let (_, said) = line.split_once(&words).unwrap_or_else(|| panic!("waiting for {step}: {line}"));
        let said = said.split('"').next().unwrap_or_default();
        said.split(' ').map(|number| number.parse().unwrap_or_else(|_| panic!("{step}: {line}"))).collect()
    }

    /// The tab is gone in an instant.
    pub async fn kill(&mut self) {
        self.running.kill().await;
    }
}
