//! Single things that go wrong between box and storage: files in parts, hanging and refusing destinations, a budget,
//! answers that do not fit.
//!
//! Law: what has arrived is not sent again, what does not fit is not forgotten, and nobody waits for another's fault.

use std::fs;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use holdfast::health::Summary;
use holdfast::model::TaskId;
use holdfast::model::budget::{TimeOfDay, Window};
use holdfast::model::fate::Fate;
use holdfast::model::segment::LocalName;
use holdfast::model::{Timestamp, WallClock};
use holdfast::store::records::{self, PartsEntry};
use md5::{Digest, Md5};

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/proxy.rs"]
mod proxy;

use carrier::{Appliance, GUARD, KEYS, Server, contents};
use proxy::{Mode, Proxy};

const MIB: usize = 1024 * 1024;

fn large() -> Vec<u8> {
    (0..17 * MIB as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn in_parts(appliance: &mut Appliance, endpoint: &str) {
    appliance.upload_to(endpoint, |config| {
        config.upload.multipart_from_bytes = 6 * MIB as u64;
        config.upload.part_bytes = 5 * MIB as u64;
        config.upload.timeout_seconds = 2;
    });
}

/// Returns when so many parts of `0.ts` are recorded.
async fn until_parts(appliance: &Appliance, task: &TaskId, n: usize) -> PartsEntry {
    let key = records::parts_key(task, "0.ts");
    let there = async {
        loop {
            if let Some(bytes) = appliance.store.get(&key).await.unwrap() {
                let record = PartsEntry::from_bytes(&key, &bytes).unwrap();
                if record.parts.len() >= n {
                    return record;
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(GUARD, there).await.expect("parts arrive")
}

/// Two of four parts of a file have arrived when the line stalls and the box dies.
async fn halfway(server: &Server) -> (Appliance, Proxy, TaskId) {
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Slow(8 * MIB)).await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hLarge", "clinic", KEYS.1).await;
    in_parts(&mut appliance, &proxy.endpoint);
    appliance.spool(&task, 0, &large());
    until_parts(&appliance, &task, 2).await;
    proxy.set(Mode::Stall);
    let appliance = Appliance::over(appliance.crash().await).await;
    (appliance, proxy, task)
}

async fn arrives_whole(appliance: &mut Appliance, server: &Server, task: &TaskId) {
    for (_, fate) in appliance.until_uploaded(1).await {
        assert!(matches!(fate, Fate::SegmentUploaded { .. }), "{fate:?}");
    }
    assert!(server.read("clinic", &format!("p1/{task}/0.ts")).await == large());
    assert!(appliance.store.scan(records::PARTS).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_large_file_goes_on_where_it_stopped() {
    let server = Server::s3s().await;
    let (mut appliance, proxy, task) = halfway(&server).await;
    let before = proxy.bytes();
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    arrives_whole(&mut appliance, &server, &task).await;
    let again = proxy.bytes() - before;
    // two of the parts, or one when a third had just arrived
    assert!(again < 7 * MIB + 64 * 1024, "{again} bytes were sent in the second life");
    drop(appliance.stop().await);
}

#[tokio::test]
async fn an_upload_that_the_storage_forgot_begins_anew_and_leaves_nothing() {
    let server = Server::moto().await;
    let (mut appliance, proxy, task) = halfway(&server).await;
    let client = server.client();
    for upload in client.list_multipart_uploads().bucket("clinic").send().await.unwrap().uploads() {
        let (key, id) = (upload.key().unwrap(), upload.upload_id().unwrap());
        client.abort_multipart_upload().bucket("clinic").key(key).upload_id(id).send().await.unwrap();
    }
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    arrives_whole(&mut appliance, &server, &task).await;
    assert!(client.list_multipart_uploads().bucket("clinic").send().await.unwrap().uploads().is_empty());
    drop(appliance.stop().await);
}

/// A storage that died while it put the parts together may show them, and refuse all that could go on with them.
#[tokio::test]
async fn an_upload_that_cannot_go_on_begins_anew() {
    let server = Server::s3s().await;
    let (mut appliance, proxy, task) = halfway(&server).await;
    let begun = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".upload-");
    let there = std::fs::read_dir(server._dir.path()).unwrap().map(|file| file.unwrap().path());
    let uploads: Vec<_> = there.filter(begun).collect();
    assert_eq!(uploads.len(), 1, "{uploads:?}");
    std::fs::remove_file(&uploads[0]).unwrap();
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    let refused = appliance.until_uploaded(1).await;
    let failures = refused.iter().filter(|(_, fate)| matches!(fate, Fate::UploadFailed { .. })).count();
    assert!(failures >= 3, "it is not given up in haste: {refused:?}");
    assert!(server.read("clinic", &format!("p1/{task}/0.ts")).await == large());
    drop(appliance.stop().await);
}

#[tokio::test]
async fn a_large_file_that_rots_halfway_is_lost_and_its_parts_are_given_up() {
    let server = Server::moto().await;
    let (mut appliance, proxy, task) = halfway(&server).await;
    let (_, segment) = appliance.recovered.tasks[&task].spooled[0].clone();
    let path = appliance.spool.task_dir(&task).join(LocalName::of(&segment).to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[16 * MIB] ^= 1;
    fs::write(&path, bytes).unwrap();
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    let (_, fate) = appliance.fate().await;
    assert!(matches!(fate, Fate::Lost { .. }), "{fate:?}");
    assert!(server.client().list_multipart_uploads().bucket("clinic").send().await.unwrap().uploads().is_empty());
    assert!(appliance.store.scan(records::PARTS).await.unwrap().is_empty());
    drop(appliance.stop().await);
}

#[tokio::test]
async fn what_was_begun_for_a_file_that_is_gone_is_swept_away() {
    let server = Server::moto().await;
    let (appliance, proxy, task) = halfway(&server).await;
    // dropped from the shelf by somebody else
    let key = records::spool_key(&task, "0.ts");
    appliance.store.commit(holdfast::store::Batch::new().delete(key)).await.unwrap();
    let mut appliance = Appliance::over(appliance.crash().await).await;
    proxy.set(Mode::Pass);
    in_parts(&mut appliance, &proxy.endpoint);
    let swept = async {
        while !appliance.store.scan(records::PARTS).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(GUARD, swept).await.expect("the record goes");
    assert!(server.client().list_multipart_uploads().bucket("clinic").send().await.unwrap().uploads().is_empty());
    drop(appliance.stop().await);
}

#[tokio::test]
async fn destinations_that_hang_do_not_slow_another() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let stalled = Proxy::to(&server.endpoint, Mode::Stall).await;
    let mut appliance = Appliance::new().await;
    let hangs = appliance.create_at(holdfast::model::recording::Vendor::Cos, "hHangs", "clinic", KEYS.1).await;
    let good = appliance.create("hGood", "clinic", KEYS.1).await;
    for index in 0..20 {
        appliance.spool(&hangs, index, &contents(&hangs, index));
    }
    appliance.spool.drained().await.unwrap();
    appliance.upload_to(&server.endpoint, |config| {
        config.storage.cos_endpoint = Some(stalled.endpoint.clone());
        config.upload.concurrency = 2;
        config.upload.per_destination = 1;
        config.upload.timeout_seconds = 30;
    });
    for index in 0..40 {
        appliance.spool(&good, index, &contents(&good, index));
    }
    let began = tokio::time::Instant::now();
    let arrived = appliance.until_uploaded(40).await;
    assert!(arrived.iter().all(|(task, fate)| *task == good || matches!(fate, Fate::Spooled(_))));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(appliance.spool.pending(&hangs).segments, 20);
    drop(appliance.crash().await);
}

#[tokio::test]
async fn expired_credentials_are_told_and_health_names_the_bucket_and_all_goes_on_when_they_are_good_again() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Answer(403, "ExpiredToken")).await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hExpired", "clinic", KEYS.1).await;
    appliance.upload_to(&proxy.endpoint, |_| {});
    for index in 0..10 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    let failed = loop {
        if let (_, Fate::UploadFailed { code, message }) = appliance.fate().await {
            break (code, message);
        }
    };
    assert_eq!(failed, ("ExpiredToken".to_owned(), "as the script says".to_owned()));
    assert_eq!(appliance.degraded().await, ["upload: bucket clinic: ExpiredToken"]);
    assert_eq!(appliance.spool.pending(&task).segments, 10);
    proxy.set(Mode::Pass);
    appliance.until_uploaded(10).await;
    let mut summary = appliance.health.watch();
    let well = summary.wait_for(|summary| *summary == Summary::Idle);
    tokio::time::timeout(GUARD, well).await.expect("health is well again").unwrap();
    drop(appliance.stop().await);
}

#[tokio::test]
async fn the_budget_holds_over_all_uploads_and_playlists_do_not_wait_for_it() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Pass).await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hThin", "clinic", KEYS.1).await;
    for index in 0..4 {
        appliance.spool(&task, index, &vec![7; 200_000]);
    }
    appliance.spool.drained().await.unwrap();
    appliance.publish(&task, 1, "#EXTM3U\n");
    appliance.spool.drained().await.unwrap();
    let began = tokio::time::Instant::now();
    appliance.upload_to(&proxy.endpoint, |config| config.upload.bytes_per_second = Some(200_000));
    let mut order = Vec::new();
    while order.len() < 5 {
        match appliance.fate().await.1 {
            Fate::PlaylistUploaded { .. } => order.push((began.elapsed(), true)),
            Fate::SegmentUploaded { .. } => order.push((began.elapsed(), false)),
            _ => {}
        }
    }
    let took = began.elapsed().as_secs_f64();
    // a second's worth is in the bucket of tokens at the beginning: one segment goes at once, too
    assert!(took >= 2.9, "800 kB at 200 kB/s took {took} s");
    let playlist = order.iter().position(|(_, playlist)| *playlist);
    assert!(playlist <= Some(1), "the playlist does not wait behind a second of segments: {order:?}");
    drop(appliance.stop().await);
}

#[tokio::test]
async fn in_a_window_of_nothing_only_playlists_go() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hNight", "clinic", KEYS.1).await;
    let hour = Arc::new(AtomicI64::new(12));
    let clock: WallClock = {
        let hour = hour.clone();
        Arc::new(move || Timestamp(hour.load(Ordering::SeqCst) * 3_600_000_000))
    };
    appliance.clock = clock;
    appliance.upload_to(&server.endpoint, |config| {
        let time = |text| TimeOfDay::parse(text).unwrap();
        config.upload.budget = vec![Window { from: time("11:00"), to: time("13:00"), bytes_per_second: 0 }];
    });
    for index in 0..3 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    appliance.spool.drained().await.unwrap();
    appliance.publish(&task, 1, "#EXTM3U\n");
    let arrived = appliance.until_uploaded(1).await;
    assert!(matches!(arrived.last(), Some((_, Fate::PlaylistUploaded { .. }))), "{arrived:?}");
    assert_eq!(appliance.spool.pending(&task).segments, 3);
    hour.store(14, Ordering::SeqCst);
    appliance.until_uploaded(3).await;
    drop(appliance.stop().await);
}

// ---- answers that do not fit ------------------------------------------------------------------------------------

/// A storage whose HEAD answers by script: `None` is 403.
struct Liar {
    heads: Mutex<Vec<Option<(u64, String)>>>,
    puts: AtomicUsize,
}

async fn lie(State(liar): State<Arc<Liar>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let tag = format!("\"{}\"", hex::encode(Md5::digest(&body)));
    if method == Method::PUT {
        let sent = base64::engine::general_purpose::STANDARD.decode(&headers["content-md5"]).unwrap();
        assert_eq!(hex::encode(sent), tag.trim_matches('"'), "what is sent is what was summed");
        liar.puts.fetch_add(1, Ordering::SeqCst);
        return [("etag", tag)].into_response();
    }
    match liar.heads.lock().unwrap().remove(0) {
        Some((size, tag)) => [("etag", format!("\"{tag}\"")), ("content-length", size.to_string())].into_response(),
        None => StatusCode::FORBIDDEN.into_response(),
    }
}

#[tokio::test]
async fn what_the_storage_holds_is_asked_again_and_must_fit() {
    let contents = b"G segment".to_vec();
    let (size, tag) = (contents.len() as u64, hex::encode(Md5::digest(&contents)));
    let liar = Arc::new(Liar {
        heads: Mutex::new(vec![
            Some((size, "0123456789abcdef0123456789abcdef".into())),
            Some((size - 1, tag.clone())),
            Some((size, tag)),
            None,
        ]),
        puts: AtomicUsize::new(0),
    });
    let router = Router::new().fallback(lie).with_state(liar.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let mut appliance = Appliance::new().await;
    let task = appliance.create("hLiar", "clinic", KEYS.1).await;
    appliance.upload_to(&endpoint, |_| {});
    appliance.spool(&task, 0, &contents);
    let fates = appliance.until_uploaded(1).await;
    let told: Vec<&str> = (fates.iter())
        .map(|(_, fate)| match fate {
            Fate::UploadFailed { code, .. } => code.as_str(),
            Fate::SegmentUploaded { .. } => "up",
            _ => "spooled",
        })
        .collect();
    assert_eq!(told, ["spooled", "ChecksumMismatch", "ChecksumMismatch", "up"]);
    assert_eq!(liar.puts.load(Ordering::SeqCst), 3);

    // keys that may write and not read: the sum that the storage made of what it took has to do
    appliance.spool(&task, 1, &contents);
    let fates = appliance.until_uploaded(1).await;
    assert!(!fates.iter().any(|(_, fate)| matches!(fate, Fate::UploadFailed { .. })), "{fates:?}");
    drop(appliance.stop().await);
    serving.abort();
}
