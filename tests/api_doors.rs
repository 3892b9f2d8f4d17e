//! Everything else that comes in by HTTP: publishers, players, browsers, and those who watch the box.

mod door;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use door::{APP, APP_KEY, Bench, Got, KEYLESS_APP, NOW, user_sig};
use holdfast::api::tls;
use holdfast::config::{App, Config, Server, Storage, StorageKind};
use holdfast::media::whip::WhipError;
use holdfast::model::signature::gen_user_sig;
use holdfast::model::{MediaId, RoomId, SdkAppId, Timestamp};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n";

fn post(path: &str, ticket: Option<&str>) -> Request<Body> {
    let mut request = Request::post(path).header("Content-Type", "application/sdp");
    if let Some(ticket) = ticket {
        request = request.header("Authorization", format!("Bearer {ticket}"));
    }
    request.body(Body::from(OFFER)).unwrap()
}

fn open() -> Config {
    Config { apps: Vec::new(), ..door::config() }
}

fn problem(got: &Got) -> Value {
    assert_eq!(got.header("content-type"), "application/problem+json");
    let problem: Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(problem["status"], got.status.as_u16());
    problem
}

#[tokio::test]
async fn a_publisher_is_taken_in_as_rfc_9725_says() {
    let bench = Bench::new();
    let got = bench.send(post("/whip/7/alice", Some(&user_sig("alice")))).await;
    assert_eq!(got.status, StatusCode::CREATED, "{}", got.text());
    assert_eq!(got.header("content-type"), "application/sdp");
    assert_eq!(got.header("location"), "/whip-session/b1946ac92492d2347c6235b4d2611184");
    assert_eq!(got.header("etag"), "\"1\"");
    assert_eq!(got.header("accept-patch"), "application/trickle-ice-sdpfrag");
    assert_eq!(got.header("access-control-allow-origin"), "*");
    for name in ["Location", "ETag", "Link"] {
        assert!(got.header("access-control-expose-headers").contains(name));
    }
    assert_eq!(got.text(), "v=0\r\nanswer\r\n");
    let order = bench.publishers.orders.lock().unwrap().pop().unwrap();
    assert_eq!((order.room.app, order.room.room), (APP, RoomId::Number(7)));
    assert_eq!((order.user.as_str(), order.media, order.offer.as_str()), ("alice", MediaId::Main, OFFER));

    let path = "/whip/ward%205/%E7%94%A8%E6%88%B71/aux?room_id_type=0";
    let got = bench.send(post(path, Some(&user_sig("用户1")))).await;
    assert_eq!(got.status, StatusCode::CREATED, "{}", got.text());
    let order = bench.publishers.orders.lock().unwrap().pop().unwrap();
    assert_eq!((order.room.room, order.media), (RoomId::Text("ward 5".into()), MediaId::Aux));
    assert_eq!(order.user.as_str(), "用户1");
}

#[tokio::test]
async fn a_publishers_ticket_is_checked_where_there_is_a_key() {
    let bench = Bench::new();
    let at = |late: i64| Timestamp::from_ms((NOW + late) * 1000);
    let status = async |path: &str, ticket: Option<&str>| {
        let got = bench.send(post(path, ticket)).await;
        (got.status.as_u16(), got.header("www-authenticate").to_owned())
    };
    let (code, challenge) = status("/whip/7/alice", None).await;
    assert_eq!(code, 401);
    assert!(challenge.starts_with("Bearer"));
    for bad in [
        user_sig("bob"),
        gen_user_sig("other key", APP, "alice", at(0), 60),
        gen_user_sig(APP_KEY, APP, "alice", at(-60), 60),
        "nonsense".to_owned(),
    ] {
        let (code, challenge) = status("/whip/7/alice?sdkappid=1400000001", Some(&bad)).await;
        assert_eq!(code, 401);
        assert!(challenge.contains("invalid_token"), "{challenge}");
    }
    // The application without a key asks nobody for a ticket.
    assert_eq!(status("/whip/7/alice?sdkappid=1400000002", None).await.0, 201);
    let order = bench.publishers.orders.lock().unwrap().pop().unwrap();
    assert_eq!(order.room.app, KEYLESS_APP);
    // A ticket of one application does not open another.
    assert_eq!(status("/whip/7/alice?sdkappid=1400000099", Some(&user_sig("alice"))).await.0, 403);
    assert_eq!(status("/whip/7/alice?sdkappid=x", Some(&user_sig("alice"))).await.0, 400);
    assert_eq!(status("/whip/7/alice", Some("nonsense")).await.0, 400);
    assert!(bench.publishers.orders.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_publishers_application_is_found_out() {
    let app_of = async |config: Config, path: &str, ticket: Option<&str>| {
        let bench = Bench::with(config);
        assert_eq!(bench.send(post(path, ticket)).await.status, StatusCode::CREATED);
        bench.publishers.orders.lock().unwrap().pop().unwrap().room.app
    };
    let only = |app: u32| Config {
        apps: vec![App { sdk_app_id: SdkAppId(app), secret_key: None, callback_url: None, callback_key: None }],
        ..Config::default()
    };
    assert_eq!(app_of(open(), "/whip/1/a", None).await, SdkAppId(1_400_000_000));
    assert_eq!(app_of(open(), "/whip/1/a", Some("any-token")).await, SdkAppId(1_400_000_000));
    assert_eq!(app_of(open(), "/whip/1/a?sdkappid=5", None).await, SdkAppId(5));
    assert_eq!(app_of(open(), "/whip/1/a", Some(&user_sig("a"))).await, APP);
    assert_eq!(app_of(only(6), "/whip/1/a", None).await, SdkAppId(6));
    assert_eq!(app_of(door::config(), "/whip/1/a", Some(&user_sig("a"))).await, APP);
}

#[tokio::test]
async fn offers_that_are_none_are_refused() {
    let bench = Bench::with(open());
    let send = async |request: Request<Body>| bench.send(request).await;
    let typed = |kind: &str, body: Vec<u8>| {
        Request::post("/whip/1/a").header("Content-Type", kind).body(Body::from(body)).unwrap()
    };
    let got = send(typed("application/json", OFFER.into())).await;
    assert_eq!((got.status.as_u16(), got.header("accept-post")), (415, "application/sdp"));
    assert_eq!(send(typed("application/sdp; charset=utf-8", OFFER.into())).await.status.as_u16(), 201);
    assert_eq!(send(typed("application/sdp", Vec::new())).await.status.as_u16(), 400);
    assert_eq!(send(typed("application/sdp", vec![0xff, 0xfe])).await.status.as_u16(), 400);
    assert_eq!(send(typed("application/sdp", vec![b'a'; 256 * 1024 + 1])).await.status.as_u16(), 413);
    for path in ["/whip/a%2Fb/a", "/whip/x/a?room_id_type=1", "/whip/1/a?room_id_type=2", "/whip/1/a%0Ab"] {
        assert_eq!(send(post(path, None)).await.status.as_u16(), 400, "{path}");
    }
    for (error, status) in [
        (WhipError::BadOffer("no ICE".into()), 400),
        (WhipError::NoUsableMedia, 406),
        (WhipError::TooMany, 503),
        (WhipError::Internal("/dev/udp".into()), 500),
    ] {
        *bench.publishers.refuse.lock().unwrap() = Some(error);
        let got = send(post("/whip/1/a", None)).await;
        assert_eq!(got.status.as_u16(), status);
        assert!(!problem(&got)["detail"].as_str().unwrap().contains("/dev"));
        assert_eq!(got.header("retry-after"), if status == 503 { "5" } else { "" });
        assert_eq!(got.header("access-control-allow-origin"), "*");
    }
}

#[tokio::test]
async fn a_session_is_patched_and_left() {
    let bench = Bench::with(open());
    let patch = |if_match: Option<&str>, kind: &str| {
        let mut request = Request::patch("/whip-session/abc").header("Content-Type", kind);
        if let Some(tag) = if_match {
            request = request.header("If-Match", tag);
        }
        request.body(Body::from("a=candidate:1\r\n")).unwrap()
    };
    let fragment = "application/trickle-ice-sdpfrag";
    assert_eq!(bench.send(patch(Some("\"1\""), fragment)).await.status, StatusCode::NO_CONTENT);
    let seen = bench.publishers.patches.lock().unwrap().pop().unwrap();
    assert_eq!(seen, ("abc".into(), Some("\"1\"".into()), "a=candidate:1\r\n".into()));
    assert_eq!(bench.send(patch(None, fragment)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(bench.publishers.patches.lock().unwrap().pop().unwrap().1, None);

    *bench.publishers.restart.lock().unwrap() = true;
    let got = bench.send(patch(Some("*"), fragment)).await;
    assert_eq!((got.status, got.header("etag")), (StatusCode::OK, "\"2\""));
    assert_eq!((got.header("content-type"), got.text()), (fragment, "a=ice-ufrag:new\r\n".into()));

    let got = bench.send(patch(None, "application/sdp")).await;
    assert_eq!((got.status.as_u16(), got.header("accept-patch")), (415, fragment));
    let delete = || Request::delete("/whip-session/abc").header("If-Match", "\"old\"").body(Body::empty()).unwrap();
    assert_eq!(bench.send(delete()).await.status, StatusCode::OK);
    assert_eq!(*bench.publishers.left.lock().unwrap(), ["abc"]);
    for (error, status) in [
        (WhipError::Unknown, 404),
        (WhipError::PreconditionRequired, 428),
        (WhipError::PreconditionFailed, 412),
        (WhipError::BadFragment("no ufrag".into()), 400),
    ] {
        *bench.publishers.refuse.lock().unwrap() = Some(error);
        assert_eq!(bench.send(patch(None, fragment)).await.status.as_u16(), status);
    }
    *bench.publishers.refuse.lock().unwrap() = Some(WhipError::Unknown);
    assert_eq!(bench.send(delete()).await.status.as_u16(), 404);
}

#[tokio::test]
async fn browsers_of_any_origin_may_ask_and_other_methods_are_reserved() {
    let bench = Bench::new();
    let ask = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("Origin", "https://his.example")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Private-Network", "true")
            .body(Body::empty())
            .unwrap()
    };
    let got = bench.send(ask("OPTIONS", "/whip/1/a")).await;
    assert_eq!((got.status, got.header("accept-post")), (StatusCode::NO_CONTENT, "application/sdp"));
    assert_eq!(got.header("access-control-allow-origin"), "*");
    assert!(got.header("access-control-allow-methods").contains("POST"));
    for name in ["Authorization", "Content-Type", "If-Match"] {
        assert!(got.header("access-control-allow-headers").contains(name));
    }
    assert_eq!(got.header("access-control-allow-private-network"), "true");
    let got = bench.send(ask("OPTIONS", "/whip-session/abc")).await;
    assert!(got.header("access-control-allow-methods").contains("DELETE"));
    assert_eq!(got.header("accept-patch"), "application/trickle-ice-sdpfrag");
    for (method, path, allow) in [
        ("GET", "/whip/1/a", "POST, OPTIONS"),
        ("HEAD", "/whip/1/a/aux", "POST, OPTIONS"),
        ("PUT", "/whip/1/a", "POST, OPTIONS"),
        ("DELETE", "/whip/1/a", "POST, OPTIONS"),
        ("GET", "/whip-session/abc", "PATCH, DELETE, OPTIONS"),
        ("POST", "/whip-session/abc", "PATCH, DELETE, OPTIONS"),
    ] {
        let got = bench.send(ask(method, path)).await;
        assert_eq!((got.status.as_u16(), got.header("allow")), (405, allow), "{method} {path}");
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn health_and_figures_are_shown() {
    let bench = Bench::new();
    let health = async || {
        let got = bench.send(get("/healthz")).await;
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        (
            got.status.as_u16(),
            body["status"].as_str().unwrap().to_owned(),
            body["reasons"].clone(),
            body["lights"].clone(),
        )
    };
    let calm = serde_json::json!({"power": "well", "recording": "not-recording", "upload": "nothing-to-upload"});
    assert_eq!(health().await, (200, "ok".into(), serde_json::json!([]), calm));
    bench.health.degraded("upload", "the destination does not answer");
    let (code, status, reasons, lights) = health().await;
    assert_eq!((code, status.as_str()), (200, "degraded"));
    assert_eq!((&lights["power"], &lights["upload"]), (&"well".into(), &"unreachable".into()));
    assert!(reasons[0].as_str().unwrap().contains("destination"));
    bench.health.failed("spool", "the disk failed");
    let (code, status, _, lights) = health().await;
    assert_eq!((code, status.as_str(), &lights["power"]), (503, "failed", &"failed".into()));

    let put = Request::put("/").body(Body::empty()).unwrap();
    assert_eq!(bench.send(put).await.code(), "UnsupportedProtocol");
    let got = bench.send(get("/metrics")).await;
    assert!(got.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(
        got.text().contains("holdfast_api_requests_total{action=\"other\",code=\"UnsupportedProtocol\"}"),
        "{}",
        got.text()
    );
}

#[tokio::test]
async fn pages_load_nothing_from_elsewhere() {
    let bench = Bench::new();
    for (path, holds) in [("/publish", "application/sdp"), ("/console", "/healthz")] {
        let got = bench.send(get(path)).await;
        assert_eq!(got.status, StatusCode::OK);
        assert!(got.header("content-type").starts_with("text/html"));
        assert!(got.header("content-security-policy").contains("default-src 'none'"));
        let text = got.text();
        assert!(text.contains(holds));
        assert!(!text.contains("src=\"http") && !text.contains("href=\"http"));
    }
}

#[tokio::test]
async fn the_local_store_can_be_played_and_not_left() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("files/rec-1250000000/p1/h+a..");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1_7__UserId_s_YQ..__UserId_e_main_audio.m3u8"), "#EXTM3U\n").unwrap();
    std::fs::write(folder.join("x.ts"), b"0123456789").unwrap();
    std::fs::write(folder.join("y.part"), b"0").unwrap();
    std::fs::write(folder.join(".z.ts"), b"0").unwrap();
    std::fs::write(state.path().join("tls-key.pem"), b"secret").unwrap();
    let local = |kind| Config {
        server: Server { state_dir: state.path().into(), ..Server::default() },
        storage: Storage { kind, ..Storage::default() },
        ..Config::default()
    };
    let bench = Bench::with(local(StorageKind::Local));
    let base = "/files/rec-1250000000/p1/h+a..";
    let got = bench.send(get(&format!("{base}/1_7__UserId_s_YQ..__UserId_e_main_audio.m3u8"))).await;
    assert_eq!((got.status, got.header("content-type")), (StatusCode::OK, "application/vnd.apple.mpegurl"));
    assert_eq!(got.header("access-control-allow-origin"), "*");
    let part = Request::get(format!("{base}/x.ts")).header("Range", "bytes=2-4").body(Body::empty()).unwrap();
    let got = bench.send(part).await;
    assert_eq!((got.status, got.header("content-range")), (StatusCode::PARTIAL_CONTENT, "bytes 2-4/10"));
    assert_eq!((got.header("content-type"), got.text().as_str()), ("video/mp2t", "234"));
    let head = Request::head(format!("{base}/x.ts")).body(Body::empty()).unwrap();
    assert_eq!(bench.send(head).await.header("content-length"), "10");
    for path in [
        format!("{base}/y.part"),
        format!("{base}/.z.ts"),
        base.to_owned(),
        format!("{base}/"),
        "/files/".to_owned(),
        "/files/../tls-key.pem".to_owned(),
        "/files/%2e%2e/tls-key.pem".to_owned(),
        "/files/..%2ftls-key.pem".to_owned(),
        "/files//etc/passwd".to_owned(),
        format!("{base}/nothing.ts"),
    ] {
        assert_eq!(bench.send(get(&path)).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let write = Request::put(format!("{base}/x.ts")).body(Body::from("x")).unwrap();
    assert_eq!(bench.send(write).await.status, StatusCode::METHOD_NOT_ALLOWED);
    let cloud = Bench::with(local(StorageKind::Cloud));
    assert_eq!(cloud.send(get(&format!("{base}/x.ts"))).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn https_has_a_certificate_of_its_own_and_keeps_it() {
    use std::os::unix::fs::PermissionsExt;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let state = tempfile::tempdir().unwrap();
    let server = Server {
        state_dir: state.path().join("state"),
        public_names: vec!["box.lan".into(), "trtc.tencentcloudapi.com".into()],
        ..Server::default()
    };
    let identity = tls::identity(&server).unwrap();
    assert!(identity.made);
    assert_eq!(identity.fingerprint.split(':').count(), 32);
    let key = server.state_dir.join("tls-key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let again = tls::identity(&server).unwrap();
    assert!(!again.made);
    assert_eq!(again.fingerprint, identity.fingerprint);

    let own = Server { certificate: Some(identity.path.clone()), private_key: Some(key), ..Server::default() };
    assert_eq!(tls::identity(&own).unwrap().fingerprint, identity.fingerprint);
    assert!(tls::identity(&Server { private_key: None, ..own }).is_err());

    let bench = Bench::new();
    let cancel = CancellationToken::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let (addr, serving) =
        holdfast::api::serve_https(any, bench.router.clone(), identity.clone(), cancel.clone()).await.unwrap();
    let trusted = reqwest::Certificate::from_pem(&std::fs::read(&identity.path).unwrap()).unwrap();
    let client =
        reqwest::Client::builder().tls_certs_only([trusted]).resolve("box.lan", addr).no_proxy().build().unwrap();
    for host in ["127.0.0.1", "localhost", "box.lan"] {
        let got = client.get(format!("https://{host}:{}/healthz", addr.port())).send().await.unwrap();
        assert_eq!(got.status().as_u16(), 200, "{host}");
    }
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(30), serving).await.expect("it closes").unwrap();
    assert!(client.get(format!("https://127.0.0.1:{}/healthz", addr.port())).send().await.is_err());
}

#[tokio::test]
async fn a_host_with_a_scheme_in_it_gets_through_a_real_socket() {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let tccli = |entry: &&Value| entry["note"].as_str().unwrap().contains("tccli");
    let entry = vectors["requests"].as_array().unwrap().iter().find(tccli).unwrap();
    let bench = Bench::with(open());
    *bench.now.lock().unwrap() = Timestamp::from_ms(1795344684 * 1000);
    let cancel = CancellationToken::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let (addr, serving) = holdfast::api::serve_http(any, bench.router.clone(), cancel.clone()).await.unwrap();
    let mut text = "POST / HTTP/1.1\r\n".to_owned();
    for header in entry["headers"].as_array().unwrap() {
        let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        let value = if name == "Connection" { "close" } else { value };
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("\r\n{}", entry["body"].as_str().unwrap()));
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = socket.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\"Status\":\"InProgress\""), "{answer}");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(30), serving).await.expect("it closes").unwrap();
}
