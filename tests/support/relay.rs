//! A bad network between a WHIP publisher and the box: seeded loss and delay on UDP, by rewriting the answer's candidates.
//!
//! The publisher is given the relay's HTTP address in place of the box's. The relay hands its offer on without its
//! candidates, and the box's answer back with its own UDP port, so that all media passes here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::daemon::{Daemon, client};

/// What the network does at present; all may be changed while it runs.
#[derive(Default)]
pub struct Weather {
    loss_permille: AtomicU32,
    delay_ms: AtomicU64,
    pub passed: AtomicU64,
    pub lost: AtomicU64,
}

impl Weather {
    /// Loss in thousandths, both ways.
    pub fn lose(&self, permille: u32) {
        self.loss_permille.store(permille, Ordering::Relaxed);
    }
    pub fn delay(&self, by: Duration) {
        self.delay_ms.store(u64::try_from(by.as_millis()).expect("a short delay"), Ordering::Relaxed);
    }
}

pub struct Relay {
    pub weather: Arc<Weather>,
    http: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

struct Road {
    box_http: SocketAddr,
    udp: SocketAddr,
    client: reqwest::Client,
}

impl Relay {
    pub async fn start(daemon: &Daemon, seed: u64) -> Relay {
        let weather = Arc::new(Weather::default());
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports"));
        let udp = socket.local_addr().expect("it is bound");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let http = listener.local_addr().expect("it is bound");
        let road = Arc::new(Road { box_http: daemon.doors.http, udp, client: client() });
        let router = Router::new().fallback(hand_on).with_state(road);
        let serve = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives as long as the test");
        });
        let carry = tokio::spawn(carry(socket, daemon.doors.udp, weather.clone(), seed));
        Relay { weather, http, tasks: vec![serve, carry] }
    }

    /// The WHIP address of a user's main stream, through the relay.
    pub fn whip(&self, room: &str, user: &str) -> String {
        format!("http://{}/whip/{room}/{user}", self.http)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn hand_on(State(road): State<Arc<Road>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if method == Method::PATCH {
        // Candidates would lead past the relay.
        return StatusCode::NO_CONTENT.into_response();
    }
    let body = without_candidates(&body);
    let mut request = road.client.request(method, format!("http://{}{uri}", road.box_http)).body(body);
    for name in ["authorization", "content-type", "if-match"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let status = answer.status();
    let mut out = HeaderMap::new();
    for name in ["location", "etag", "content-type"] {
        if let Some(value) = answer.headers().get(name) {
            out.insert(name, value.clone());
        }
    }
    let text = answer.text().await.unwrap_or_default();
    (status, out, led_here(&text, road.udp)).into_response()
}

fn without_candidates(sdp: &[u8]) -> String {
    let text = String::from_utf8_lossy(sdp);
    text.split_inclusive('\n').filter(|line| !line.starts_with("a=candidate:")).collect()
}

/// The first UDP candidate of each section, led to the relay; the others left out.
fn led_here(sdp: &str, udp: SocketAddr) -> String {
    let mut out = String::new();
    let mut led = false;
    for line in sdp.split_inclusive('\n') {
        if line.starts_with("m=") {
            led = false;
        }
        let Some(rest) = line.strip_prefix("a=candidate:") else {
            out.push_str(line);
            continue;
        };
        let mut words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
        if led || words.len() < 6 || !words[2].eq_ignore_ascii_case("udp") {
            continue;
        }
        words[4] = udp.ip().to_string();
        words[5] = udp.port().to_string();
        out.push_str(&format!("a=candidate:{}\r\n", words.join(" ")));
        led = true;
    }
    out
}

/// Carries packets both ways; each publisher address has a socket of its own towards the box.
async fn carry(near: Arc<UdpSocket>, far: SocketAddr, weather: Arc<Weather>, seed: u64) {
    let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut packet = vec![0u8; 65_536];
    loop {
        let Ok((length, from)) = near.recv_from(&mut packet).await else { continue };
        let out = match ways.entry(from) {
            Entry::Occupied(way) => way.get().clone(),
            Entry::Vacant(way) => {
                let out = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports"));
                out.connect(far).await.expect("loopback is there");
                tokio::spawn(back(out.clone(), near.clone(), from, weather.clone(), seed ^ u64::from(from.port())));
                way.insert(out).clone()
            }
        };
        let bytes = packet[..length].to_vec();
        if let Some(at) = fate(&weather, &mut dice) {
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = out.send(&bytes).await;
            });
        }
    }
}

async fn back(from: Arc<UdpSocket>, near: Arc<UdpSocket>, to: SocketAddr, weather: Arc<Weather>, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut packet = vec![0u8; 65_536];
    loop {
        let Ok(length) = from.recv(&mut packet).await else { continue };
        let bytes = packet[..length].to_vec();
        if let Some(at) = fate(&weather, &mut dice) {
            let near = near.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = near.send_to(&bytes, to).await;
            });
        }
    }
}

/// When the packet arrives; `None` if it is lost.
fn fate(weather: &Weather, dice: &mut StdRng) -> Option<Instant> {
    if dice.random_range(0..1000) < weather.loss_permille.load(Ordering::Relaxed) {
        weather.lost.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    weather.passed.fetch_add(1, Ordering::Relaxed);
    Some(Instant::now() + Duration::from_millis(weather.delay_ms.load(Ordering::Relaxed)))
}
