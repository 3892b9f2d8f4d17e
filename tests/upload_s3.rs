//! Uploads against two real S3 servers (s3s-fs and moto) and the local store, behind one suite.
//!
//! Owns: what `ObjectStore` promises. Must not touch: how
//! the promises are kept.
//! Law: what a destination holds is byte for byte what was on the shelf, and nothing leaves the shelf before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast::config::StorageKind;
use holdfast::model::TaskId;
use holdfast::model::fate::Fate;
use holdfast::model::recording::Vendor;
use holdfast::model::segment::LocalName;
use holdfast::store::records;
use holdfast::upload::body::Sums;
use holdfast::upload::local::Local;
use holdfast::upload::s3::{S3, Settings};
use holdfast::upload::{Body, Class, ObjectStore, PartStore};
use holdfast::vault::{Key, Vault};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/proxy.rs"]
mod proxy;

use carrier::{Appliance, GUARD, KEYS, Server, contents, keys};
use proxy::{Mode, Proxy};

/// What object names are made of.
const KEY: &str = "p1/p2/hAb+c-9../1400_d2FyZCAzPw..__UserId_s_Pz8-+A..__UserId_e_main_video_20210531014551884.ts";

// ---- what every bucket promises ---------------------------------------------------------------------------------

fn body(dir: &Path, contents: &[u8], in_memory: bool) -> Body {
    if in_memory {
        return Body::of_bytes(contents.to_vec());
    }
    let path = dir.join("body");
    let _ = fs::remove_file(&path);
    fs::write(&path, contents).unwrap();
    Body::of_file(&path).unwrap()
}

/// The same out of a sealed file.
fn sealed_body(dir: &Path, contents: &[u8]) -> Body {
    let (path, task) = (dir.join("sealed"), TaskId::parse("hTask").unwrap());
    let _ = fs::remove_file(&path);
    let vault = Vault::new(Some(Key::new([5; 32])), vec![]);
    let identity = holdfast::model::segment::identity(&task, "sealed");
    let mut output = vault.create(&path, &identity).unwrap();
    contents.chunks(1_000_000).for_each(|chunk| output.write(chunk).unwrap());
    output.finish().unwrap();
    let sealed = Arc::new(std::sync::Mutex::new(vault.open(&path, &identity).unwrap()));
    let sums = Sums::of(&*sealed, None).unwrap();
    Body::new(sealed, 0, sums.bytes, sums.md5)
}

/// Puts bodies of all kinds, small, empty, large and again, at once and in parts, and gives back what must be there.
async fn conforms(bucket: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..6 * 1024 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut expected = BTreeMap::new();
    for (key, contents, in_memory) in [
        (KEY, &b"\x47first"[..], true),
        ("t/empty.ts", &b""[..], true),
        ("t/large-in-memory.ts", &large[..], true),
        ("t/large-from-file.ts", &large[..], false),
        ("t/list.m3u8", &b"#EXTM3U\n"[..], true),
    ] {
        assert_eq!(bucket.head(key).await.unwrap(), None, "{key}");
        for _ in 0..2 {
            let body = body(dir.path(), contents, in_memory);
            let answered = bucket.put(key, &body, "video/mp2t").await.unwrap();
            let held = bucket.head(key).await.unwrap().unwrap();
            assert!(held.checksum && held.is(contents.len() as u64, &body.tag(), &answered), "{key}: {held:?}");
            assert!(!held.is(contents.len() as u64 + 1, &body.tag(), &answered));
            assert!(!held.is(contents.len() as u64, "0123456789abcdef0123456789abcdef", &answered));
        }
        expected.insert(key.to_owned(), contents.to_vec());
    }
    for _ in 0..2 {
        bucket.put("t/sealed.ts", &sealed_body(dir.path(), &large), "video/mp2t").await.unwrap();
    }
    expected.insert("t/sealed.ts".into(), large.clone());
    bucket.put("t/list.m3u8", &body(dir.path(), b"#EXTM3U\n#EXT-X-ENDLIST\n", true), "x/y").await.unwrap();
    expected.insert("t/list.m3u8".into(), b"#EXTM3U\n#EXT-X-ENDLIST\n".to_vec());
    if let Some(parts) = bucket.parts() {
        expected.insert("t/parts.mp4".into(), large.clone());
        conforms_in_parts(bucket, parts, "t/parts.mp4", &large).await;
    }
    forgets(bucket).await;
    expected
}

/// What is listed, page by page.
async fn listed(bucket: &dyn ObjectStore, prefix: &str) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let page = bucket.list(prefix, all.last().map(|(key, _)| key.as_str())).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Objects are listed by what their keys begin with, however many; they go one by one, and may be gone already.
async fn forgets(bucket: &dyn ObjectStore) {
    let task = "p1/p2/hDiscard+me-..";
    assert_eq!(listed(bucket, &format!("{task}/")).await, []);
    let mut keys: Vec<String> = (0..9).map(|n| format!("{task}/1400_d2FyZCAzPw..__UserId_s_Pz8-+A..{n}.ts")).collect();
    keys.push(format!("{task}/1400.m3u8"));
    keys.sort();
    let other = format!("{task}x/1400.m3u8");
    for (n, key) in keys.iter().chain([&other]).enumerate() {
        bucket.put(key, &Body::of_bytes(vec![7; n]), "video/mp2t").await.unwrap();
    }
    let found = listed(bucket, &format!("{task}/")).await;
    let expected: Vec<(String, u64)> = (0..).zip(&keys).map(|(n, key)| (key.clone(), n)).collect();
    assert_eq!(found, expected);
    let page = bucket.list(&format!("{task}/"), Some(&keys[7])).await.unwrap();
    assert_eq!(page, expected[8..]);
    for key in &keys {
        bucket.delete(key).await.unwrap();
        assert_eq!(bucket.head(key).await.unwrap(), None, "{key}");
        bucket.delete(key).await.unwrap();
    }
    assert_eq!(listed(bucket, &format!("{task}/")).await, []);
    assert_eq!(listed(bucket, &other).await.len(), 1, "what is another task's stays");
}

async fn conforms_in_parts(bucket: &dyn ObjectStore, parts: &dyn PartStore, key: &str, contents: &[u8]) {
    let contents = Bytes::copy_from_slice(contents);
    let part_bytes = 5 * 1024 * 1024;
    let sums = Sums::of(&contents, Some(part_bytes)).unwrap();
    let part = |n: usize| {
        let at = n as u64 * part_bytes;
        Body::new(Arc::new(contents.clone()), at, part_bytes.min(sums.bytes - at), sums.parts[n])
    };
    let given_up = parts.begin(key, "video/mp4").await.unwrap();
    parts.put_part(key, &given_up, 1, &part(0)).await.unwrap();
    parts.abort(key, &given_up).await.unwrap();
    // its answer was lost
    parts.abort(key, &given_up).await.unwrap();
    // NoSuchUpload; s3s-fs says AccessDenied, moto 500, and either may hang up before
    assert!(parts.put_part(key, &given_up, 2, &part(1)).await.is_err());
    assert!(!parts.knows(key, &given_up).await.unwrap());
    assert_eq!(bucket.head(key).await.unwrap(), None, "what is not complete is not there");

    let upload = parts.begin(key, "video/mp4").await.unwrap();
    let mut tags = Vec::new();
    for n in 0..2 {
        // a part whose answer was lost is sent once more
        parts.put_part(key, &upload, n + 1, &part(n as usize)).await.unwrap();
        tags.push(parts.put_part(key, &upload, n + 1, &part(n as usize)).await.unwrap());
    }
    assert!(parts.knows(key, &upload).await.unwrap());
    let answered = parts.complete(key, &upload, &tags).await.unwrap();
    let held = bucket.head(key).await.unwrap().unwrap();
    assert!(held.is(sums.bytes, &sums.tag_of_parts(), &answered), "{held:?}");
    assert!(held.checksum);
}

async fn s3_conforms(server: Server) {
    server.make_bucket("clinic-125").await;
    let bucket = S3::new(server.settings("clinic-125")).unwrap();
    for (key, contents) in conforms(&bucket).await {
        assert!(server.read("clinic-125", &key).await == contents, "{key}");
    }

    let dir = tempfile::tempdir().unwrap();
    let small = body(dir.path(), b"x", true);
    // each of the two is strict where the other is not: s3s-fs makes buckets as it needs them
    if server.strict {
        let wrong = Settings { keys: keys(KEYS.0, "not the secret"), ..server.settings("clinic-125") };
        let refused = S3::new(wrong).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Refused, "SignatureDoesNotMatch"), "{refused}");
        let wrong = Settings { keys: keys("NOBODY", KEYS.1), ..server.settings("clinic-125") };
        let refused = S3::new(wrong).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!(refused.class, Class::Refused, "{refused}");
        assert!(!refused.to_string().contains(KEYS.1) && !refused.to_string().contains("not the secret"));
    } else {
        let nowhere = S3::new(server.settings("no-such-bucket")).unwrap();
        let refused = nowhere.put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Refused, "NoSuchBucket"), "{refused}");
        let facts = server.client().head_object().bucket("clinic-125").key(KEY).send().await.unwrap();
        assert_eq!(facts.content_type(), Some("video/mp2t"));
    }

    let line = Proxy::to(&server.endpoint, Mode::Cut(64)).await;
    let cut = Settings { endpoint: Some(line.endpoint.clone()), ..server.settings("clinic-125") };
    let cut = S3::new(cut).unwrap();
    let failed = cut.put("t/cut.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!((failed.class, failed.code.as_str()), (Class::Later, "ConnectionError"), "{failed}");
    line.set(Mode::Pass);
    cut.put("t/cut.ts", &small, "video/mp2t").await.unwrap();

    let nobody = Settings { endpoint: Some("http://127.0.0.1:9".into()), ..server.settings("clinic-125") };
    let failed = S3::new(nobody).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!(failed.class, Class::Later, "{failed}");

    // a server that takes the call and says nothing
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let silence =
        Settings { endpoint: Some(endpoint), timeout: Duration::from_secs(1), ..server.settings("clinic-125") };
    let failed = S3::new(silence).unwrap().put("t/x.ts", &small, "video/mp2t").await.unwrap_err();
    assert_eq!((failed.class, failed.code.as_str()), (Class::Later, "RequestTimeout"), "{failed}");
}

#[tokio::test]
async fn s3s_conforms() {
    s3_conforms(Server::s3s().await).await;
}

#[tokio::test]
async fn moto_conforms() {
    s3_conforms(Server::moto().await).await;
}

#[tokio::test]
async fn the_local_store_conforms() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Local::new(root.path().to_owned(), "clinic-125".into());
    for (key, contents) in conforms(&bucket).await {
        assert!(fs::read(root.path().join("clinic-125").join(&key)).unwrap() == contents, "{key}");
    }
}

async fn everything_arrives(server: Server) {
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    appliance.upload_to(&server.endpoint, |_| {});
    let tasks = [appliance.create("hA", "clinic", KEYS.1).await, appliance.create("hB", "clinic", KEYS.1).await];
    for task in &tasks {
        for index in 0..12 {
            appliance.spool(task, index, &contents(task, index));
        }
        appliance.publish(task, 1, "#EXTM3U\n");
    }
    let fates = appliance.until_uploaded(26).await;
    for task in &tasks {
        let of_task: Vec<&Fate> = fates.iter().filter(|(t, _)| t == task).map(|(_, fate)| fate).collect();
        let spooled = of_task.iter().filter(|fate| matches!(fate, Fate::Spooled(_))).count();
        assert_eq!((of_task.len(), spooled), (25, 12), "{of_task:?}");
        assert!(of_task.contains(&&Fate::PlaylistUploaded { object: "l.m3u8".into(), version: 1 }));
        for index in 0..12 {
            assert!(of_task.contains(&&Fate::SegmentUploaded { object: format!("{index}.ts") }));
            assert!(server.read("clinic", &format!("p1/{task}/{index}.ts")).await == contents(task, index));
        }
        assert!(appliance.spool.pending(task).is_empty());
        appliance.publish(task, 2, "#EXTM3U\n#EXT-X-ENDLIST\n");
    }
    appliance.until_uploaded(2).await;
    for task in &tasks {
        assert_eq!(server.read("clinic", &format!("p1/{task}/l.m3u8")).await, b"#EXTM3U\n#EXT-X-ENDLIST\n");
        appliance.spool.forget_task(task).await.unwrap();
        assert!(!appliance.spool.task_dir(task).exists());
        assert!(records::load_keys(&appliance.store, &appliance.box_key, task).await.unwrap().is_none());
    }
    drop(appliance.stop().await);
}

#[tokio::test]
async fn everything_arrives_at_s3s() {
    everything_arrives(Server::s3s().await).await;
}

#[tokio::test]
async fn everything_arrives_at_moto() {
    everything_arrives(Server::moto().await).await;
}

#[tokio::test]
async fn a_destination_that_refuses_is_told_and_holds_up_no_other() {
    let (server, cos) = tokio::join!(Server::s3s(), Server::moto());
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    let no_bucket = appliance.create_at(Vendor::Cos, "hNoBucket", "nowhere", KEYS.1).await;
    let wrong_key = appliance.create("hWrongKey", "clinic", "wrong").await;
    let good = appliance.create("hGood", "clinic", KEYS.1).await;
    for index in 0..30 {
        for task in [&no_bucket, &wrong_key] {
            appliance.spool(task, index, &contents(task, index));
        }
    }
    for index in 0..10 {
        appliance.spool(&good, index, &contents(&good, index));
    }
    appliance.spool.drained().await.unwrap();
    appliance.upload_to(&server.endpoint, |config| {
        config.upload.concurrency = 2;
        config.storage.cos_endpoint = Some(cos.endpoint.clone());
    });

    let (mut codes, mut arrived) = (BTreeMap::new(), 0);
    while arrived < 10 || codes.len() < 2 {
        match appliance.fate().await {
            (task, Fate::UploadFailed { code, .. }) => drop(codes.insert(task, code)),
            (task, Fate::SegmentUploaded { .. }) => {
                assert_eq!(task, good);
                arrived += 1;
            }
            _ => {}
        }
    }
    let expected = [(no_bucket.clone(), "NoSuchBucket"), (wrong_key.clone(), "SignatureDoesNotMatch")];
    assert_eq!(codes, expected.map(|(task, code)| (task, code.to_owned())).into());
    assert_eq!(appliance.spool.pending(&no_bucket).segments, 30, "what was refused stays");

    // somebody makes the bucket
    cos.make_bucket("nowhere").await;
    appliance.until_uploaded(30).await;
    assert!(cos.read("nowhere", "p1/hNoBucket/29.ts").await == contents(&no_bucket, 29));
    assert_eq!(appliance.spool.pending(&wrong_key).segments, 30);
    drop(appliance.stop().await);
}

#[tokio::test]
async fn an_outage_is_sat_out_oldest_first() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let line = Proxy::to(&server.endpoint, Mode::Cut(64)).await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hOut", "clinic", KEYS.1).await;
    appliance.upload_to(&line.endpoint, |config| config.upload.concurrency = 1);
    for index in 0..8 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    let mut failures = 0;
    while failures < 2 {
        let (_, fate) = appliance.fate().await;
        assert!(!matches!(fate, Fate::SegmentUploaded { .. }));
        failures += u32::from(matches!(fate, Fate::UploadFailed { .. }));
    }
    assert_eq!(appliance.spool.pending(&task).segments, 8);
    line.set(Mode::Pass);
    appliance.until_uploaded(8).await;
    // as they landed: what is noted of them may overtake
    let landed: Vec<std::time::SystemTime> = (0..8)
        .map(|n| {
            let object = server._dir.path().join(format!("clinic/p1/hOut/{n}.ts"));
            std::fs::metadata(&object).and_then(|found| found.modified()).expect("the server keeps objects as files")
        })
        .collect();
    assert!(landed.is_sorted(), "{landed:?}");
    assert!(server.read("clinic", "p1/hOut/7.ts").await == contents(&task, 7));
    drop(appliance.stop().await);
}

#[tokio::test]
async fn a_file_that_rotted_on_the_shelf_is_lost_and_never_uploaded() {
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hRot", "clinic", KEYS.1).await;
    let rotten = appliance.spool(&task, 0, &contents(&task, 0));
    let sound = appliance.spool(&task, 1, &contents(&task, 1));
    appliance.spool.drained().await.unwrap();
    let path = appliance.spool.task_dir(&task).join(LocalName::of(&rotten).to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();

    appliance.upload_to(&server.endpoint, |_| {});
    let fates: Vec<Fate> =
        [appliance.fate().await, appliance.fate().await, appliance.fate().await, appliance.fate().await]
            .into_iter()
            .map(|(_, fate)| fate)
            .collect();
    let lost = fates.iter().find_map(|fate| match fate {
        Fate::Lost { segment, .. } => Some(segment.index),
        _ => None,
    });
    assert_eq!(lost, Some(0));
    assert!(fates.contains(&Fate::Spooled(sound)));
    assert!(fates.contains(&Fate::SegmentUploaded { object: "1.ts".into() }));
    assert!(server.client().head_object().bucket("clinic").key("p1/hRot/0.ts").send().await.is_err());
    drop(appliance.stop().await);
}

#[tokio::test]
async fn the_local_store_takes_everything_without_a_network() {
    let mut appliance = Appliance::new().await;
    appliance.upload_to("http://127.0.0.1:9", |config| config.storage.kind = StorageKind::Local);
    let task = appliance.create("hLocal", "clinic", KEYS.1).await;
    for index in 0..5 {
        appliance.spool(&task, index, &contents(&task, index));
    }
    appliance.publish(&task, 1, "#EXTM3U\n");
    appliance.until_uploaded(6).await;
    let folder = appliance.dir.path().join("files/clinic/p1/hLocal");
    for index in 0..5 {
        assert!(fs::read(folder.join(format!("{index}.ts"))).unwrap() == contents(&task, index));
    }
    assert_eq!(fs::read_to_string(folder.join("l.m3u8")).unwrap(), "#EXTM3U\n");
    assert!(appliance.spool.pending(&task).is_empty());
    drop(appliance.stop().await);
}

#[tokio::test]
async fn stopping_in_the_middle_of_an_upload_keeps_the_file() {
    // takes the call and never answers
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut appliance = Appliance::new().await;
    let task = appliance.create("hStop", "clinic", KEYS.1).await;
    let segment = appliance.spool(&task, 0, &contents(&task, 0));
    appliance.upload_to(&format!("http://{}", silent.local_addr().unwrap()), |_| {});
    let (mut call, _) = silent.accept().await.unwrap();
    call.read_exact(&mut [0; 16]).await.unwrap();
    appliance.cancel.cancel();
    for running in appliance.running.drain(..) {
        tokio::time::timeout(GUARD, running).await.expect("it stops").unwrap();
    }
    assert_eq!(appliance.spool.pending(&task).segments, 1);
    assert!(appliance.spool.task_dir(&task).join(LocalName::of(&segment).to_string()).exists());
    assert!(appliance.spool.lease(1).await.unwrap().is_some(), "the next one may have it");
    drop(appliance.stop().await);
}
