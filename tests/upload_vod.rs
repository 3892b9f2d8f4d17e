//! Files on their way to VOD: the three steps, against the official rules and a real S3 server, over crashes, ends of
//! keys, outages and refusals.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast::model::bundle::{BUNDLE_VERSION, BundleFile, BundlePlan};
use holdfast::model::fate::Fate;
use holdfast::model::output::{Container, LARGEST, LONGEST, Limits, Output};
use holdfast::model::package::{Group, Life, Order, Part};
use holdfast::model::packed::PackedFile;
use holdfast::model::recording::Vendor;
use holdfast::model::segment::LocalName;
use holdfast::model::vod::Vod;
use holdfast::model::{Lane, LaneKind, MediaId, TaskId, Timestamp, UserId};
use holdfast::package::Packer;
use holdfast::vault::Vault;
use serde_json::json;

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/vod.rs"]
mod vod;

use carrier::{Appliance, KEYS, Server};
use proxy::{Mode, Proxy};
use vod::{BUCKET, Point, SUB_APP, VOD_ID, VOD_KEY, VodServer, media_url};

const TASK: &str = "hVodTask";
const FILE: &str = "1400000001_7__UserId_s_YW5u__UserId_e_main.aac";
const LIST: &str = "1400000001_7__UserId_s_YW5u__UserId_e_main_audio.m3u8";
/// The least that S3 takes.
const PART: u64 = 5 * 1024 * 1024;

/// Minutes of noise as a lane would have written them: more than two parts.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let run = |args: &[&str]| {
            let made = Command::new("ffmpeg").args(["-v", "error"]).args(args).output();
            let made = made.expect("ffmpeg is missing: run scripts/setup");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            made.stdout
        };
        // what is coded once is as good again
        let source = "aevalsrc=random(0)*2-1|random(1)*2-1:s=48000:d=10";
        let short = run(&["-f", "lavfi", "-i", source, "-c:a", "aac", "-b:a", "512k", "-f", "adts", "-"]);
        let times = usize::try_from(2 * PART).expect("it is in memory") / short.len() + 2;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), short.repeat(times)).expect("room for it");
        run(&["-f", "aac", "-i", file.path().to_str().expect("a plain path"), "-c", "copy", "-f", "mpegts", "-"])
    })
}

fn asked() -> Vod {
    Vod {
        procedure: Some("LongVideoPreset".into()),
        expire_seconds: 86_400,
        storage_region: Some("ap-chongqing".into()),
        class_id: 7,
        sub_app: Some(SUB_APP),
        session_context: Some("visit 12".into()),
        source_context: Some("clinic".into()),
        lists: false,
        record_id: Some("rec-1".into()),
    }
}

fn name(index: u32) -> String {
    let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Audio);
    let start = Timestamp::from_ms(1_800_000_000_000 + i64::from(index) * 10_000);
    let duration = Some(Duration::from_secs(10));
    LocalName { lane, run: 0, index, start, size: None, discontinuity: false, duration }.to_string()
}

/// A box's carriers, an S3 server, and VOD in front of it.
struct Bench {
    server: Server,
    vod: VodServer,
    /// Between box and VOD's API.
    line: Proxy,
    task: TaskId,
    /// What was put on the shelf, byte by byte, as it must arrive.
    wanted: Vec<u8>,
}

impl Bench {
    async fn new(token_seconds: i64) -> (Bench, Appliance) {
        let server = Server::s3s().await;
        let vod = VodServer::lasting(&server.endpoint, KEYS, token_seconds).await;
        let line = Proxy::to(&vod.api, Mode::Pass).await;
        let appliance = Appliance::new().await;
        let vendor = Vendor::Vod(Box::new(asked()));
        let task = appliance.create_at(vendor, TASK, "", "").await;
        (Bench { server, vod, line, task, wanted: Vec::new() }, appliance)
    }

    /// Lets the box carry.
    fn go(&self, appliance: &mut Appliance) {
        self.go_later(appliance, Duration::ZERO);
    }

    /// The same when so much time has passed.
    fn go_later(&self, appliance: &mut Appliance, by: Duration) {
        appliance.clock = Arc::new(move || {
            #[expect(clippy::disallowed_methods, reason = "signatures are of the real time")]
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is set");
            Timestamp::from_ms(i64::try_from((since + by).as_millis()).expect("a time of our days"))
        });
        appliance.upload_to(&self.server.endpoint, |config| {
            config.vod.endpoint = self.line.endpoint.clone();
            config.vod.storage_endpoint = Some(self.vod.storage.clone());
            config.vod.secret_id = Some(VOD_ID.into());
            config.vod.secret_key = Some(holdfast::model::Secret::new(VOD_KEY));
            config.upload.multipart_from_bytes = PART;
            config.upload.part_bytes = PART;
        });
    }

    /// A packed file of more than two parts on the shelf.
    async fn shelve_file(&mut self, appliance: &Appliance) {
        let dir = appliance.spool.task_dir(&self.task);
        std::fs::write(dir.join(name(0)), noise()).unwrap();
        let start = Timestamp::from_ms(1_800_000_000_000);
        let part = Part { file: name(0), kind: LaneKind::Audio, start };
        let life = Life { offset: Duration::ZERO, pieces: vec![part], first: 0 };
        let stem = FILE.strip_suffix(".aac").expect("an aac").to_owned();
        let group = Group { user: "ann".into(), media: MediaId::Main, stem, begin: start, lives: vec![life] };
        let limits = Limits { length: LONGEST, bytes: LARGEST };
        let order = Order::new(Container::Adts, limits, vec![group]);
        let (packer, task, of) = (Packer::new(), self.task.clone(), dir.clone());
        let made = tokio::task::spawn_blocking(move || {
            let (to, from) = std::sync::mpsc::sync_channel(1);
            let done = move |packed| to.send(packed).expect("the test waits");
            packer.plan(&task, of.clone(), Vault::default(), order, done).expect("nothing else waits");
            let packed = from.recv_timeout(carrier::GUARD).expect("a plan in time");
            let (file, plan): (PackedFile, String) = packed.files.into_iter().next().expect("one file");
            let opened = packer.open(&task, of, Vault::default(), &plan).expect("what was planned can be made");
            (opened.stretch(0, opened.len()).expect("it can be read"), file, plan)
        });
        let (bytes, file, plan) = made.await.expect("no panic");
        assert_eq!(file.object, FILE);
        assert!(bytes.len() as u64 > 2 * PART, "{} bytes", bytes.len());
        self.wanted = bytes;
        let key = format!("{TASK}/{FILE}");
        appliance.spool.accept_package(&self.task, file.object, key, (file.bytes, file.crc32), plan).unwrap();
        appliance.spool.drained().await.unwrap();
    }

    /// A list and three segments.
    async fn shelve_bundle(&mut self, appliance: &Appliance) -> BTreeMap<String, Vec<u8>> {
        let dir = appliance.spool.task_dir(&self.task);
        let (mut all, mut files, mut text) = (BTreeMap::new(), Vec::new(), "#EXTM3U\n".to_owned());
        for index in 0..3u32 {
            let bytes = carrier::contents(&self.task, index);
            std::fs::write(dir.join(name(index)), &bytes).unwrap();
            let object = format!("s{index}.ts");
            text.push_str(&format!("#EXTINF:10.000,\n{object}\n"));
            let (length, crc32) = (bytes.len() as u64, crc32fast::hash(&bytes));
            files.push(BundleFile { file: name(index), name: object.clone(), bytes: length, crc32 });
            all.insert(object, bytes);
        }
        text.push_str("#EXT-X-ENDLIST\n");
        let (bytes, crc32) = (text.len() as u64, crc32fast::hash(text.as_bytes()));
        all.insert("f0.m3u8".into(), text.clone().into_bytes());
        let plan = serde_json::to_string(&BundlePlan { v: BUNDLE_VERSION, text, files, packed: false }).unwrap();
        appliance
            .spool
            .accept_package(&self.task, LIST.into(), format!("{TASK}/{LIST}"), (bytes, crc32), plan)
            .unwrap();
        appliance.spool.drained().await.unwrap();
        all
    }

    /// Awaits the commit, and that what VOD has is what was on the shelf. Answers with what else was told.
    async fn committed(&self, appliance: &mut Appliance) -> Vec<Fate> {
        let mut before = Vec::new();
        let (object, media) = loop {
            match appliance.fate().await {
                (_, Fate::VodCommitted { object, media }) => break (object, media),
                (_, fate) => before.push(fate),
            }
        };
        assert_eq!(object, FILE);
        let medias = self.vod.medias();
        assert_eq!(medias.len(), 1, "once: {medias:?}");
        assert_eq!(Some(&media.file_id), medias[0].file_id.as_ref());
        assert_eq!(media.url, media_url(&media.file_id));
        assert!(self.vod.object(&medias[0].key).await == self.wanted, "the bytes of the shelf");
        assert!(appliance.spool.pending(&self.task).is_empty());
        self.vod.assert_by_the_rules();
        before
    }

    /// No secret lies plain below the box's folder.
    fn assert_sealed(&self, dir: &Path) {
        let secrets = self.vod.secrets();
        assert!(secrets.len() >= 4, "{secrets:?}");
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                for secret in &secrets {
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{} holds {secret}", path.display());
                }
            }
        }
    }
}

#[test]
fn the_platform_signs_as_the_sdks_do() {
    let vectors = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert_eq!(vod::agrees_with(&vectors), 8);
    assert_eq!(holdfast::model::vod::output(1).0, Output::Lists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_in_parts_and_is_committed_with_all_that_was_asked() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.go(&mut appliance);
    assert_eq!(bench.committed(&mut appliance).await, []);
    assert_eq!((bench.vod.calls("ApplyUpload"), bench.vod.calls("CommitUpload")), (1, 1));
    let media = bench.vod.medias().remove(0);
    let mut asked = media.asked;
    assert!(asked["ExpireTime"].take().is_string());
    assert_eq!(
        asked,
        json!({
            "MediaType": "aac", "MediaName": format!("rec-1__UserDefine_u_{FILE}"), "Procedure": "LongVideoPreset",
            "StorageRegion": "ap-chongqing", "SourceContext": "clinic", "SessionContext": "visit 12",
            "ExpireTime": null, "ClassId": 7, "SubAppId": SUB_APP,
        })
    );
    assert_eq!(bench.vod.keys().await, [media.key], "and nothing else: the bucket is {BUCKET}");
    let dir = appliance.stop().await;
    bench.assert_sealed(dir.path());
}

/// What is discarded while it flies is broken off, and never committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_discarded_in_its_upload_is_not_committed() {
    for point in [Point::Write(2), Point::Commit] {
        let (mut bench, mut appliance) = Bench::new(7200).await;
        bench.shelve_file(&appliance).await;
        bench.vod.stop_at(Some(point));
        bench.go(&mut appliance);
        bench.vod.stands().await;
        appliance.spool.withhold(&bench.task);
        let grounded = appliance.spool.grounded(&bench.task);
        tokio::time::timeout(Duration::from_secs(10), grounded).await.expect("it is broken off, though nobody answers");
        bench.vod.stop_at(None);
        drop(appliance.stop().await);
        assert_eq!(bench.vod.medias().len(), 0, "{point:?}");
    }
}

/// What is told when VOD has nothing more of the task: how much went, its FileIds; and what was told before.
async fn erased(bench: &Bench, appliance: &mut Appliance) -> (u64, Vec<String>, Vec<Fate>) {
    appliance.spool.withhold(&bench.task);
    appliance.spool.erase_task(&bench.task, String::new(), Vec::new(), Vec::new()).unwrap();
    let mut before = Vec::new();
    loop {
        match appliance.fate().await {
            (_, Fate::Erased { objects, media, .. }) => return (objects, media, before),
            (_, fate) => before.push(fate),
        }
    }
}

/// What VOD has made of a discarded task goes, and the receipt names it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_of_a_discarded_task_is_deleted() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.go(&mut appliance);
    bench.committed(&mut appliance).await;
    let file_id = bench.vod.medias().remove(0).file_id.expect("committed");
    let codes = ["InternalError", "UnauthorizedOperation", "ResourceNotFound.UserNotExist"];
    codes.iter().for_each(|code| bench.vod.refuse("DeleteMedia", code));
    let (objects, media, before) = erased(&bench, &mut appliance).await;
    assert_eq!((objects, media), (1, vec![file_id]));
    let code = |fate: Fate| if let Fate::UploadFailed { code, .. } = fate { code } else { panic!("{fate:?}") };
    assert_eq!(before.into_iter().map(code).collect::<Vec<_>>(), codes, "each is told, and tried again");
    assert_eq!(bench.vod.medias(), []);
    assert_eq!(bench.vod.keys().await, Vec::<String>::new(), "no byte of it");
    bench.vod.assert_by_the_rules();
}

/// Somebody else has deleted it: that will do. A list goes with its segments.
#[tokio::test(flavor = "multi_thread")]
async fn what_vod_does_not_have_any_more_counts_as_deleted() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_bundle(&appliance).await;
    bench.go(&mut appliance);
    let (_, fate) = appliance.fate().await;
    assert!(matches!(fate, Fate::VodCommitted { .. }), "{fate:?}");
    bench.vod.refuse("DeleteMedia", "ResourceNotFound.FileNotExist");
    let (objects, _, before) = erased(&bench, &mut appliance).await;
    assert_eq!((objects, before, bench.vod.calls("DeleteMedia")), (1, vec![], 1));

    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_bundle(&appliance).await;
    bench.go(&mut appliance);
    appliance.fate().await;
    assert_eq!(erased(&bench, &mut appliance).await.0, 1);
    assert_eq!(bench.vod.keys().await, Vec::<String>::new(), "no segment of it");
}

/// Nothing of it was committed, so nobody is asked: the platform may be away.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_task_of_which_vod_has_nothing_asks_for_nothing() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.vod.stop_at(Some(Point::Write(2)));
    bench.go(&mut appliance);
    bench.vod.stands().await;
    bench.vod.stop_at(None);
    bench.line.set(Mode::Refuse);
    let (objects, media, before) = erased(&bench, &mut appliance).await;
    assert_eq!((objects, media, before), (0, vec![], vec![]));
    assert_eq!((bench.vod.calls("CommitUpload"), bench.vod.calls("DeleteMedia")), (0, 0));
}

/// A life later, of which the index is lost.
async fn without_index(bench: &Bench, appliance: Appliance) -> Appliance {
    let dir = appliance.crash().await;
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    bench.vod.stop_at(None);
    let appliance = Appliance::over(dir).await;
    appliance.create_at(Vendor::Vod(Box::new(asked())), TASK, "", "").await;
    appliance
}

/// CommitUpload was done and its answer not heard, or heard and not told; then the index is lost. The folder knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_index_has_lost_is_known_by_the_folder() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.vod.stop_at(Some(Point::Committed));
    bench.go(&mut appliance);
    bench.vod.stands().await;
    let file_id = bench.vod.medias().remove(0).file_id;
    let mut appliance = without_index(&bench, appliance).await;
    bench.shelve_file(&appliance).await;
    bench.go(&mut appliance);
    bench.committed(&mut appliance).await;
    assert_eq!((bench.vod.medias().remove(0).file_id, bench.vod.uploads().len()), (file_id.clone(), 1), "once");

    // what was noted then is known for ever
    let appliance = without_index(&bench, appliance).await;
    let noted = &appliance.recovered.tasks[&bench.task].noted_committed;
    assert_eq!(noted.iter().map(|noted| Some(noted.media.file_id.clone())).collect::<Vec<_>>(), [file_id]);
    bench.assert_sealed(appliance.stop().await.path());
}

/// The same when the task is discarded: what nobody knows of is asked for, and goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_heard_of_is_found_and_deleted() {
    for lost in [false, true] {
        let (mut bench, mut appliance) = Bench::new(7200).await;
        bench.shelve_file(&appliance).await;
        bench.vod.stop_at(Some(Point::Committed));
        bench.go(&mut appliance);
        bench.vod.stands().await;
        let file_id = bench.vod.medias().remove(0).file_id.expect("committed");
        appliance = match lost {
            true => without_index(&bench, appliance).await,
            false => Appliance::over(appliance.crash().await).await,
        };
        bench.vod.stop_at(None);
        appliance.spool.withhold(&bench.task);
        bench.go(&mut appliance);
        assert_eq!(erased(&bench, &mut appliance).await, (1, vec![file_id], vec![]), "index lost: {lost}");
        assert_eq!(bench.vod.medias(), []);
        assert_eq!((bench.vod.calls("CommitUpload"), bench.vod.uploads().len()), (2, 1));
        // asked again after a restart, it is told again
        let mut appliance = Appliance::over(appliance.crash().await).await;
        appliance.spool.withhold(&bench.task);
        bench.go(&mut appliance);
        assert_eq!(erased(&bench, &mut appliance).await.0, 1);
    }
}

/// The box dies at each step; what was done is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_repeats_none_that_counts() {
    for (point, applied, sessions) in [
        // nobody heard the answer: that session is lost, and nothing was sent in it
        (Point::Applied, 2, 2),
        (Point::Write(1), 1, 1),
        (Point::Write(2), 1, 1),
        (Point::Write(3), 1, 1),
        (Point::Commit, 1, 1),
        (Point::Committed, 1, 1),
    ] {
        let (mut bench, mut appliance) = Bench::new(7200).await;
        bench.shelve_file(&appliance).await;
        bench.vod.stop_at(Some(point));
        bench.go(&mut appliance);
        bench.vod.stands().await;
        let dir = appliance.crash().await;
        bench.assert_sealed(dir.path());
        bench.vod.stop_at(None);
        let mut appliance = Appliance::over(dir).await;
        bench.go(&mut appliance);
        bench.committed(&mut appliance).await;
        assert_eq!((bench.vod.calls("ApplyUpload"), bench.vod.uploads().len()), (applied, sessions), "{point:?}");
        // after the word of the fate was lost, it is told again
        let dir = appliance.crash().await;
        let appliance = Appliance::over(dir).await;
        let found = &appliance.recovered.tasks[&bench.task];
        let [(object, media)] = &found.committed[..] else { panic!("{found:?}") };
        assert_eq!((object.as_str(), Some(&media.file_id)), (FILE, bench.vod.medias()[0].file_id.as_ref()));
        assert!(found.packages.is_empty() && found.packed.is_empty(), "{found:?}");
    }
}

/// The keys end after the first part, once as the storage says, once by their own date.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_end_in_the_middle_are_renewed() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.vod.over_after(1);
    bench.go(&mut appliance);
    assert_eq!(bench.committed(&mut appliance).await, [], "an end that was to come is no error");
    assert_eq!(bench.vod.uploads().len(), 2);
    bench.assert_sealed(appliance.stop().await.path());

    // they end by their own date while the box is off; signatures may be five minutes ahead
    let (mut bench, mut appliance) = Bench::new(100).await;
    bench.shelve_file(&appliance).await;
    bench.vod.stop_at(Some(Point::Write(2)));
    bench.go(&mut appliance);
    bench.vod.stands().await;
    let dir = appliance.crash().await;
    bench.vod.stop_at(None);
    let mut appliance = Appliance::over(dir).await;
    bench.go_later(&mut appliance, Duration::from_secs(200));
    bench.committed(&mut appliance).await;
    assert_eq!(bench.vod.uploads().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_is_waited_for() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.line.set(Mode::Refuse);
    bench.go(&mut appliance);
    let (_, fate) = appliance.fate().await;
    assert!(
        matches!(&fate, Fate::VodFailed { object, code, refused: false, .. } if object == FILE && code == "ConnectionError"),
        "{fate:?}"
    );
    assert!(appliance.degraded().await.concat().contains("VOD"), "health says so");
    bench.line.set(Mode::Answer(503, "Scripted"));
    while !matches!(appliance.fate().await.1, Fate::VodFailed { code, .. } if code == "Http503") {}
    bench.line.set(Mode::Pass);
    bench.committed(&mut appliance).await;
    assert_eq!(bench.vod.uploads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_and_tried_again_and_show_no_secret() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    let codes = [
        ("ApplyUpload", "InvalidParameterValue.ClassId", true),
        ("ApplyUpload", "AuthFailure.SecretIdNotFound", false),
        ("CommitUpload", "InternalError", false),
        ("CommitUpload", "FailedOperation.MediaForbidedBySystem", true),
    ];
    codes.iter().for_each(|(action, code, _)| bench.vod.refuse(action, code));
    bench.go(&mut appliance);
    let told = bench.committed(&mut appliance).await;
    let said: Vec<(&str, bool)> = (told.iter())
        .map(|fate| match fate {
            Fate::VodFailed { object, code, message, refused } => {
                assert_eq!(object, FILE);
                assert!(bench.vod.secrets().iter().all(|secret| !message.contains(secret)), "{message}");
                assert!(message.contains("refused by the script"), "{message}");
                (code.as_str(), *refused)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, codes.map(|(_, code, refused)| (code, refused)));
    assert_eq!(bench.vod.uploads().len(), 1, "the file went up once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_known_any_more_is_begun_anew_and_once() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.vod.refuse("CommitUpload", "InvalidParameterValue.VodSessionKey");
    bench.go(&mut appliance);
    assert_eq!(bench.committed(&mut appliance).await, []);
    assert_eq!(bench.vod.uploads().len(), 2);

    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_file(&appliance).await;
    bench.vod.refuse("CommitUpload", "InvalidParameterValue.VodSessionKey");
    bench.vod.refuse("CommitUpload", "InvalidParameterValue.VodSessionKey");
    bench.go(&mut appliance);
    let told = bench.committed(&mut appliance).await;
    assert!(matches!(&told[..], [Fate::VodFailed { refused: true, .. }]), "{told:?}");
    assert_eq!(bench.vod.uploads().len(), 2, "it does not go up for every refusal");
}

/// A list with its segments: beside each other, the list last, and on after a crash and an end of the keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_up_with_its_segments() {
    for crash in [false, true] {
        let (mut bench, mut appliance) = Bench::new(7200).await;
        let wanted = bench.shelve_bundle(&appliance).await;
        if crash {
            bench.vod.stop_at(Some(Point::Write(3)));
        } else {
            bench.vod.over_after(2);
        }
        bench.go(&mut appliance);
        if crash {
            bench.vod.stands().await;
            appliance = Appliance::over(appliance.crash().await).await;
            bench.vod.stop_at(None);
            bench.go(&mut appliance);
        }
        let (_, fate) = appliance.fate().await;
        let Fate::VodCommitted { object, media } = fate else { panic!("{fate:?}") };
        assert_eq!(object, LIST);
        let medias = bench.vod.medias();
        assert_eq!(medias.len(), 1);
        assert_eq!(medias[0].asked["MediaType"], "m3u8");
        assert_eq!(Some(media.file_id), medias[0].file_id);
        let folder = medias[0].key.strip_suffix("f0.m3u8").expect("the list's name is VOD's").to_owned();
        for (name, bytes) in wanted {
            assert!(bench.vod.object(&format!("{folder}{name}")).await == bytes, "{name}");
        }
        assert_eq!(bench.vod.uploads().len(), if crash { 1 } else { 2 });
        bench.vod.assert_by_the_rules();
    }
}

/// A segment of a list that is damaged meanwhile is no reason to send it: the task plans anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_not_sent() {
    let (mut bench, mut appliance) = Bench::new(7200).await;
    bench.shelve_bundle(&appliance).await;
    std::fs::write(appliance.spool.task_dir(&bench.task).join(name(1)), b"other bytes").unwrap();
    bench.go(&mut appliance);
    let (_, fate) = appliance.fate().await;
    assert!(matches!(&fate, Fate::PackageLost { object, why } if object == LIST && why.contains("s1.ts")), "{fate:?}");
    assert_eq!(bench.vod.medias(), []);
}
