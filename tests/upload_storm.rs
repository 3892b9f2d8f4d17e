//! The carrier against a storage behind a scripted line, over many lives of the box, beside a simple model.
//!
//! Owns: the seeded storms, and what must be true after them: every segment that was put on the shelf is in the bucket
//! once with equal bytes, and a playlist lists only what is there. Must not touch: how the carrier does it.
//! Law: a storm is a pure function of its seed (`HOLDFAST_SEED` repeats one); after it the line is well, and a bounded
//! time later nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::model::TaskId;
use holdfast::model::fate::Fate;
use holdfast::store::records;
use holdfast::store::{Batch, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/proxy.rs"]
mod proxy;

use carrier::{Appliance, GUARD, KEYS, Server};
use proxy::{Mode, Proxy};

const MIB: usize = 1024 * 1024;
const STEPS: usize = 24;

/// What a destination must hold in the end, and what the task of each segment has heard.
#[derive(Default)]
struct Model {
    objects: BTreeMap<String, Vec<u8>>,
    next_index: BTreeMap<TaskId, u32>,
    arrived: BTreeMap<TaskId, BTreeSet<u32>>,
    versions: BTreeMap<TaskId, u64>,
}

fn key(task: &TaskId, object: &str) -> String {
    format!("p1/{task}/{object}")
}

/// The list of what has arrived, as a task would publish it.
fn playlist(arrived: &BTreeSet<u32>, ended: bool) -> String {
    let lines: String = arrived.iter().map(|n| format!("{n}.ts\n")).collect();
    if ended { format!("{lines}#EXT-X-ENDLIST\n") } else { lines }
}

impl Model {
    /// A new segment is closed.
    fn close(&mut self, random: &mut StdRng, appliance: &Appliance, task: &TaskId) {
        let size = match random.random_range(0..20) {
            0 => 11 * MIB + random.random_range(0..MIB),
            1..6 => random.random_range(100_000..900_000),
            _ => random.random_range(0..60_000),
        };
        let mut contents = vec![0; size];
        random.fill(&mut contents[..]);
        let index = self.next_index.entry(task.clone()).or_default();
        appliance.spool(task, *index, &contents);
        self.objects.insert(key(task, &format!("{index}.ts")), contents);
        *index += 1;
    }

    /// The task hears that a segment has arrived: it notes it, and its list grows.
    async fn note(&mut self, appliance: &Appliance, task: &TaskId, object: &str) {
        let Some(index) = object.strip_suffix(".ts").and_then(|n| n.parse().ok()) else { return };
        appliance.store.commit(records::settle(Batch::new(), task, object)).await.unwrap();
        let arrived = self.arrived.entry(task.clone()).or_default();
        arrived.insert(index);
        let text = playlist(arrived, false);
        self.publish(appliance, task, text);
    }

    fn publish(&mut self, appliance: &Appliance, task: &TaskId, text: String) {
        let version = self.versions.entry(task.clone()).or_default();
        *version += 1;
        appliance.publish(task, *version, &text);
        self.objects.insert(key(task, "l.m3u8"), text.into_bytes());
    }

    async fn hear(&mut self, appliance: &Appliance, (task, fate): (TaskId, Fate)) {
        match fate {
            Fate::SegmentUploaded { object } => self.note(appliance, &task, &object).await,
            Fate::Lost { segment, why } => panic!("segment {} of {task} is lost: {why}", segment.index),
            _ => {}
        }
    }

    fn all_arrived(&self) -> bool {
        let none = BTreeSet::new();
        self.next_index.iter().all(|(task, n)| self.arrived.get(task).unwrap_or(&none).len() == *n as usize)
    }
}

fn any_mode(random: &mut StdRng) -> Mode {
    match random.random_range(0..13) {
        0..3 => Mode::Pass,
        3 => Mode::Refuse,
        4 => Mode::Stall,
        5 => Mode::Cut(random.random_range(1..200_000)),
        6 => Mode::Cut(random.random_range(200_000..8 * MIB)),
        7 => Mode::Deaf,
        8 => Mode::Corrupt,
        9 => Mode::Slow(random.random_range(200_000..4_000_000)),
        10 => Mode::Answer(500, "InternalError"),
        11 => Mode::Answer(503, "SlowDown"),
        _ => Mode::Answer(403, "ExpiredToken"),
    }
}

async fn new_life(appliance: Appliance, model: &mut Model, endpoint: &str) -> Appliance {
    let mut appliance = Appliance::over(appliance.crash().await).await;
    let told: Vec<(TaskId, String)> = (appliance.recovered.tasks.iter())
        .flat_map(|(task, found)| {
            assert!(found.lost.is_empty() && found.adopted.is_empty(), "{found:?}");
            found.uploaded.iter().map(|object| (task.clone(), object.clone()))
        })
        .collect();
    carry(&mut appliance, endpoint);
    for (task, object) in told {
        model.note(&appliance, &task, &object).await;
    }
    appliance
}

fn carry(appliance: &mut Appliance, endpoint: &str) {
    appliance.upload_to(endpoint, |config| {
        config.upload.timeout_seconds = 1;
        config.upload.multipart_from_bytes = 6 * MIB as u64;
        config.upload.part_bytes = 5 * MIB as u64;
    });
}

/// Whatever the list in the bucket names is in the bucket.
async fn lists_only_what_is_there(server: &Server, task: &TaskId) {
    let client = server.client();
    let Ok(list) = client.get_object().bucket("clinic").key(key(task, "l.m3u8")).send().await else { return };
    let list = list.body.collect().await.unwrap().to_vec();
    for name in String::from_utf8(list).unwrap().lines().filter(|line| line.ends_with(".ts")) {
        let there = client.head_object().bucket("clinic").key(key(task, name)).send().await;
        assert!(there.is_ok(), "{name} of {task} is listed and not there");
    }
}

async fn records_left(store: &Store) -> Vec<String> {
    let mut left = store.scan(records::PARTS).await.unwrap();
    left.extend(store.scan(records::SPOOL).await.unwrap());
    left.into_iter().map(|(key, _)| key).collect()
}

async fn storm(seed: u64) {
    let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(seed);
    eprintln!("HOLDFAST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::s3s().await;
    server.make_bucket("clinic").await;
    let proxy = Proxy::to(&server.endpoint, Mode::Pass).await;
    let mut model = Model::default();
    let mut appliance = Appliance::new().await;
    let tasks = [appliance.create("hA", "clinic", KEYS.1).await, appliance.create("hB", "clinic", KEYS.1).await];
    appliance.spool.tell_live([tasks[1].clone()].into());
    carry(&mut appliance, &proxy.endpoint);
    // one large file at least
    let large: Vec<u8> = (0..11 * MIB + 17).map(|n| (n % 251) as u8).collect();
    appliance.spool(&tasks[0], 0, &large);
    model.objects.insert(key(&tasks[0], "0.ts"), large);
    model.next_index.insert(tasks[0].clone(), 1);

    for _ in 0..STEPS {
        match random.random_range(0..10) {
            0..4 => {
                let mode = any_mode(&mut random);
                eprintln!("{mode:?}");
                proxy.set(mode);
            }
            4..8 => {
                let task = &tasks[random.random_range(0..2)];
                model.close(&mut random, &appliance, task);
            }
            8 => {
                eprintln!("restart");
                appliance = new_life(appliance, &mut model, &proxy.endpoint).await;
            }
            _ => lists_only_what_is_there(&server, &tasks[random.random_range(0..2)]).await,
        }
        // the storm's own time: what happens meanwhile is heard
        let until = tokio::time::Instant::now() + Duration::from_millis(random.random_range(0..350));
        while let Ok(Some(told)) = tokio::time::timeout_at(until, appliance.fates.recv()).await {
            model.hear(&appliance, told).await;
        }
    }

    eprintln!("calm");
    proxy.set(Mode::Pass);
    let arriving = async {
        while !model.all_arrived() {
            let told = appliance.fate().await;
            model.hear(&appliance, told).await;
        }
    };
    tokio::time::timeout(GUARD, arriving).await.expect("everything arrives");
    for task in &tasks {
        let Some(arrived) = model.arrived.get(task) else { continue };
        let text = playlist(arrived, true);
        model.publish(&appliance, task, text);
        let last = model.versions[task];
        loop {
            let (of, fate) = appliance.fate().await;
            if of == *task && matches!(&fate, Fate::PlaylistUploaded { version, .. } if *version == last) {
                break;
            }
        }
        assert!(appliance.spool.pending(task).is_empty());
    }

    let mut there = BTreeMap::new();
    let listed = server.client().list_objects_v2().bucket("clinic").send().await.unwrap();
    for object in listed.contents() {
        let key = object.key().unwrap().to_owned();
        let bytes = server.read("clinic", &key).await;
        there.insert(key, bytes);
    }
    assert!(there.keys().eq(model.objects.keys()), "{:?} is not {:?}", there.keys(), model.objects.keys());
    for (key, bytes) in &there {
        assert!(*bytes == model.objects[key], "{key} is not what was recorded");
    }
    assert_eq!(records_left(&appliance.store).await, Vec::<String>::new());
    for task in &tasks {
        appliance.spool.forget_task(task).await.unwrap();
        assert!(!appliance.spool.task_dir(task).exists(), "nothing of it is left on the disk");
    }
    drop(appliance.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_a_storm() {
    storm(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_another_storm() {
    storm(20_261_125).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_after_a_storm_of_this_run() {
    storm(rand::random()).await;
}
