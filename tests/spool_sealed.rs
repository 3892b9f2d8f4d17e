//! The shelf with a key: what lies there is encrypted, and comes off it as it was put on.
//!
//! Owns: lives of one shelf with and without keys, crashes included. Must not touch: the format of a sealed file.
//! Law: no plain byte of a recording is on the disk, none is lost to a crash that a plain shelf would keep, and nothing
//! sealed is given up because a key is not there.

mod shelf;

use std::fs;
use std::io::Read;
use std::time::Duration;

use holdfast::model::LaneKind;
use holdfast::model::fate::Fate;
use holdfast::model::segment::{ClosedSegment, LocalName, identity};
use holdfast::spool::{Error, UploadJob};
use holdfast::store::records::{self, SpoolEntry, SpoolState};
use holdfast::vault::{Key, Vault};
use shelf::{Disk, GUARD, Life};

const PACKET: usize = 188;

fn key(n: u8) -> Key {
    Key::new(std::array::from_fn(|i| i as u8 ^ n))
}

fn sealing(n: u8, old: &[u8]) -> Vault {
    Vault::new(Some(key(n)), old.iter().map(|n| key(*n)).collect())
}

impl Disk {
    /// What the segmenter does: one hand-over for each part. `closed`: it came to its end.
    fn write(&self, vault: &Vault, name: &LocalName, parts: &[&[u8]], closed: bool) {
        fs::create_dir_all(self.path("")).unwrap();
        let name = name.to_string();
        let mut output = vault.create(&self.path(&name), &identity(&self.task, &name)).unwrap();
        for part in parts {
            output.write(part).unwrap();
        }
        if closed {
            output.finish().unwrap();
        }
    }

    /// Everything on the shelf, as it lies there.
    fn raw(&self) -> Vec<u8> {
        fs::read_dir(self.path("")).unwrap().flat_map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }
}

impl Life {
    async fn lease(&self) -> UploadJob {
        loop {
            if let Some(job) = self.spool.lease(4).await.unwrap() {
                return job;
            }
            tokio::time::timeout(GUARD, self.spool.wait_ready()).await.expect("something becomes ready");
        }
    }
}

fn contents(job: &UploadJob) -> Vec<u8> {
    let mut contents = Vec::new();
    job.file().open().unwrap().read_to_end(&mut contents).unwrap();
    assert_eq!(contents.len() as u64, job.entry().bytes);
    assert_eq!(crc32fast::hash(&contents), job.entry().crc32);
    contents
}

fn name(index: u32) -> LocalName {
    shelf::name(index, LaneKind::Audio)
}

/// Packets of sound, 100 ms each.
fn packets(n: i64) -> Vec<u8> {
    let packet = |n: i64| {
        let pts = n * 9_000;
        let mut packet = b"in-clear-".repeat(21);
        packet.truncate(PACKET);
        packet[..14].copy_from_slice(&[0x47, 0x40, 65, 0x10, 0, 0, 1, 0xc0, 0, 0, 0x80, 0x80, 5, 0x21]);
        packet[14..18].copy_from_slice(&[
            (pts >> 22) as u8,
            (pts >> 14) as u8 | 1,
            (pts >> 7) as u8,
            (pts << 1) as u8 | 1,
        ]);
        packet
    };
    (0..n).flat_map(packet).collect()
}

fn shows(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle.as_bytes())
}

#[tokio::test]
async fn what_lies_on_the_shelf_is_sealed_and_what_leaves_it_is_not() {
    let (disk, vault) = (Disk::new(), sealing(1, &[]));
    let mut life = disk.live(&vault).await;
    let stream = packets(40);
    disk.write(&vault, &name(1).part(), &[&stream[..PACKET * 10], &stream[PACKET * 10..]], true);
    let segment =
        ClosedSegment { part_name: name(1).part().to_string(), ..name(1).closed(&disk.task, Duration::ZERO, 0) };
    life.accept(&segment);
    let Fate::Spooled(told) = life.fate().await else { panic!("it is on the shelf") };
    assert_eq!(told.bytes, stream.len() as u64, "told as it arrives");
    life.spool.accept_playlist(&disk.task, "l.m3u8".into(), "k/l.m3u8".into(), 1, "#EXTM3U\n".into()).unwrap();
    life.spool.drained().await.unwrap();
    assert!(!shows(&disk.raw(), "in-clear") && !shows(&disk.raw(), "#EXTM3U"));
    life.die().await;

    // known, and kept as it is
    let life = disk.live(&vault).await;
    assert_eq!(life.found.tasks[&disk.task].spooled.len(), 1);
    let jobs = [life.lease().await, life.lease().await];
    for job in jobs {
        let expected = if job.entry().object == "1.ts" { stream.clone() } else { b"#EXTM3U\n".to_vec() };
        assert_eq!(contents(&job), expected);
        assert!(job.file().is_sealed() && job.entry().stored_bytes() > job.entry().bytes);
        job.ack_uploaded().await.unwrap();
    }
    let folder = disk.path("any").parent().expect("the task's folder").to_owned();
    let left = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.collect::<Vec<_>>(), ["uploaded.txt"], "what is left says what has gone up");
    life.die().await;
}

#[tokio::test]
async fn a_torn_segment_is_good_up_to_its_last_whole_record() {
    let (disk, vault) = (Disk::new(), sealing(1, &[]));
    let stream = packets(40);
    let parts: Vec<&[u8]> = stream.chunks(PACKET * 4).collect();
    disk.write(&vault, &name(3).part(), &parts, false);
    let path = disk.path(&name(3).part().to_string());
    let file = fs::read(&path).unwrap();
    // torn in the last hand-over, and then what a file system shows that had not yet written
    fs::write(&path, [&file[..file.len() - 100], &[0; 4096]].concat()).unwrap();

    for lives in 0..2 {
        let mut life = disk.live(&vault).await;
        let [segment] = &life.found.tasks[&disk.task].adopted[..] else { panic!("{:?}", life.found) };
        let segment = segment.clone();
        assert_eq!((segment.bytes, segment.duration.as_millis()), ((PACKET * 36) as u64, 3_600));
        if lives == 0 {
            // the process dies once more before it is on the shelf
            life.die().await;
            continue;
        }
        life.accept(&segment);
        assert!(matches!(life.fate().await, Fate::Spooled(_)));
        let job = life.lease().await;
        assert_eq!(contents(&job), stream[..PACKET * 36]);
        assert_eq!(job.file().open().unwrap().fault(), None, "its end is where it was torn");
        drop(job);
        life.die().await;
    }
    // without its record it is adopted as it is named
    fs::remove_dir_all(disk.dir.path().join("index")).unwrap();
    let life = disk.live(&vault).await;
    let [segment] = &life.found.tasks[&disk.task].adopted[..] else { panic!("{:?}", life.found) };
    assert_eq!((segment.bytes, segment.duration.as_millis()), ((PACKET * 36) as u64, 3_600));
}

/// A disk that was full when the file was to be closed.
#[tokio::test]
async fn a_segment_without_its_end_is_taken_and_closed() {
    let (disk, vault) = (Disk::new(), sealing(1, &[]));
    let mut life = disk.live(&vault).await;
    let stream = packets(8);
    disk.write(&vault, &name(1).part(), &[&stream], false);
    let part_name = name(1).part().to_string();
    life.accept(&ClosedSegment { part_name, ..name(1).closed(&disk.task, Duration::ZERO, stream.len() as u64) });
    assert!(matches!(life.fate().await, Fate::Spooled(_)));
    let job = life.lease().await;
    assert_eq!((contents(&job), job.file().open().unwrap().fault()), (stream, None));
}

#[tokio::test]
async fn plain_and_sealed_files_of_several_keys_lie_side_by_side() {
    let disk = Disk::new();
    let stream = packets(8);
    let vaults = [Vault::default(), sealing(1, &[]), sealing(2, &[1])];
    for (index, vault) in (1..).zip(&vaults) {
        let mut life = disk.live(vault).await;
        disk.write(vault, &name(index).part(), &[&stream], true);
        let part_name = name(index).part().to_string();
        life.accept(&ClosedSegment { part_name, ..name(index).closed(&disk.task, Duration::ZERO, 0) });
        assert!(matches!(life.fate().await, Fate::Spooled(_)));
        // and one that is torn in this life
        disk.write(vault, &name(index + 10).part(), &[&stream], false);
        life.die().await;
    }
    // encryption is switched off; the keys are still listed
    let life = disk.live(&Vault::new(None, vec![key(1), key(2)])).await;
    let shelved = &life.found.tasks[&disk.task];
    assert_eq!((shelved.spooled.len(), shelved.adopted.len()), (3, 3));
    assert!(shelved.adopted.iter().all(|segment| segment.bytes == stream.len() as u64));
    for sealed in [false, true, true] {
        let job = life.lease().await;
        assert_eq!((contents(&job), job.file().is_sealed()), (stream.clone(), sealed));
        job.ack_uploaded().await.unwrap();
    }
}

#[tokio::test]
async fn without_its_key_nothing_is_given_up() {
    let (disk, vault) = (Disk::new(), sealing(1, &[]));
    let stream = packets(8);
    disk.write(&vault, &name(1), &[&stream], true);
    for torn in [false, true] {
        if torn {
            fs::rename(disk.path(&name(1).to_string()), disk.path(&name(1).part().to_string())).unwrap();
        }
        let before = disk.raw();
        for wrong in [Vault::default(), sealing(2, &[3])] {
            let Err(refused) = disk.try_live(&wrong).await else { panic!("it cannot be read") };
            let told = refused.to_string();
            assert!(told.contains(&key(1).id().to_string()) && told.contains("old_key_files"), "{told}");
        }
        assert!(disk.raw() == before);
    }
    // nor what the index knows
    let mut life = disk.live(&vault).await;
    let [segment] = &life.found.tasks[&disk.task].adopted[..] else { panic!("{:?}", life.found) };
    life.accept(&segment.clone());
    assert!(matches!(life.fate().await, Fate::Spooled(_)));
    life.die().await;
    assert!(matches!(disk.try_live(&Vault::default()).await, Err(Error::MissingKey { .. })));
    let life = disk.live(&sealing(2, &[1])).await;
    assert_eq!(contents(&life.lease().await), stream);
}

#[tokio::test]
async fn a_file_that_was_changed_or_exchanged_is_lost_and_told() {
    let (disk, vault) = (Disk::new(), sealing(1, &[]));
    let stream = packets(8);
    disk.write(&vault, &name(1), &[&stream], true);
    disk.write(&vault, &name(2), &[&stream], true);
    fs::copy(disk.path(&name(1).to_string()), disk.path(&name(2).to_string())).unwrap();
    let mut life = disk.live(&vault).await;
    for segment in life.found.tasks[&disk.task].adopted.clone() {
        life.accept(&segment);
    }
    assert!(matches!(life.fate().await, Fate::Spooled(_)) != matches!(life.fate().await, Fate::Spooled(_)));
    let lost = records::spool_key(&disk.task, "2.ts");
    let entry = SpoolEntry::from_bytes(&lost, &life.store.get(&lost).await.unwrap().unwrap()).unwrap();
    assert!(matches!(&entry.state, SpoolState::Lost { why } if why.contains("not authentic")), "{entry:?}");

    // a bit that turns over later ends the file there: shorter than its record says
    let path = disk.path(&name(1).to_string());
    let mut file = fs::read(&path).unwrap();
    file[200] ^= 1;
    fs::write(&path, file).unwrap();
    let job = life.lease().await;
    let mut input = job.file().open().unwrap();
    assert_eq!(std::io::copy(&mut input, &mut std::io::sink()).unwrap(), 0);
    assert!(input.fault().unwrap().contains("damaged"));
}
