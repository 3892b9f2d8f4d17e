//! Starts that find things as they were, or much more than usual.

use super::*;

/// A task that was over does not record again because the index has gone back to when it was not.
#[tokio::test]
async fn an_index_of_yesterday_brings_no_finished_task_back() {
    let dir = tempfile::tempdir().unwrap();
    let (index, yesterday) = (dir.path().join("index"), dir.path().join("yesterday"));
    let mut world = World::default();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.crash().await;
    let copied = std::process::Command::new("cp").arg("-r").args([&index, &yesterday]).status().unwrap();
    assert!(copied.success());
    let life = Life::later(dir.path(), Duration::from_secs(60)).await;
    life.rooms.delete(room().app, task.clone()).await.unwrap();
    world.deliver(&life).await;
    gone(&dir.path().join("spool").join(task.as_str())).await;
    assert!(life.rooms.describe(room().app, task.clone()).await.is_err());
    life.crash().await;

    std::fs::remove_dir_all(&index).unwrap();
    std::fs::rename(&yesterday, &index).unwrap();
    let mut life = Life::later(dir.path(), Duration::from_secs(120)).await;
    assert_eq!(life.rooms.describe(room().app, task).await, Err(Error::TaskUnknown));
    assert_eq!(life.store.scan(records::TASKS).await.unwrap(), []);
    life.alice_enters().await;
    let next = life.create().await;
    assert_eq!(life.started().await.run.task, next, "nobody else records");
    life.crash().await;
}

/// The process dies after an event was committed and before the folder says so; the index is lost a life later. What was
/// told is not told anew under another number.
#[tokio::test]
async fn what_a_folder_missed_is_not_told_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    life.alice_enters().await;
    let task = life.create().await;
    let order = life.started().await;
    let shape = dir.path().join("spool").join(task.as_str()).join("task.json");
    let missed = std::fs::read(&shape).unwrap();
    life.record(&order, 0).await;
    let told = |world: &World| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1;
    world.carry_until(&life, "304", told).await;
    world.deliver(&life).await;
    life.crash().await;
    std::fs::write(&shape, missed).unwrap();

    Life::later(dir.path(), Duration::from_secs(60)).await.crash().await;
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let life = Life::later(dir.path(), Duration::from_secs(120)).await;
    life.rooms.delete(room().app, task).await.unwrap();
    world.carry_until(&life, "305", World::stopped).await;
    let slices = world.count(|e| matches!(e, EventBody::FileSlice { .. }));
    assert_eq!((slices, told(&world)), (1, true), "{:?}", world.events);
    life.crash().await;
}

#[tokio::test]
async fn a_start_that_finds_all_as_it_was_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    life.alice_enters().await;
    let task = life.create().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    life.record(&order, 1).await;
    life.rooms.delete(room().app, task.clone()).await.unwrap();
    let Some(Asked::Finish(run)) = life.asked.recv().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    let left = async {
        while world.count(|e| matches!(e, EventBody::RecorderStop { .. })) == 0 {
            life.outbox.notified().await;
            world.hear(&life).await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.expect("it leaves");
    // the outbox is written first; the actor answers when all of that step is
    let _ = life.rooms.describe(room().app, task.clone()).await;
    life.crash().await;

    // the last commit's number, and the file that says what the task is
    let written = || {
        let shape = std::fs::metadata(dir.path().join("spool").join(task.as_str()).join("task.json")).unwrap();
        let commits = std::fs::read_to_string(dir.path().join("index.lock")).unwrap();
        (std::os::unix::fs::MetadataExt::ino(&shape), shape.modified().unwrap(), commits)
    };
    let before = written();
    for later in [1, 2] {
        let life = Life::later(dir.path(), Duration::from_secs(later)).await;
        assert_eq!(life.spool.total().segments, 2);
        life.crash().await;
        assert_eq!(written(), before, "start {later}");
    }

    // what the folder lacks is written again
    std::fs::remove_file(dir.path().join("spool").join(task.as_str()).join("destination.json")).unwrap();
    Life::later(dir.path(), Duration::from_secs(3)).await.crash().await;
    assert!(dir.path().join("spool").join(task.as_str()).join("destination.json").exists());
}

#[tokio::test]
async fn without_an_index_more_files_than_the_shelf_takes_at_once_are_taken_in() {
    const FILES: u32 = 5000;
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    life.alice_enters().await;
    life.create().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    life.has_on_the_shelf(".ts").await;
    life.crash().await;
    for index in 1..FILES {
        let segment = ClosedSegment {
            run: order.run.clone(),
            index,
            start: Timestamp::from_ms(DAWN).plus(Duration::from_secs(10) * (index + 1)),
            duration: Duration::from_secs(10),
            bytes: 188,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        };
        std::fs::write(order.dir.join(LocalName::of(&segment).to_string()), [0x47; 188]).unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();

    let life = Life::later(dir.path(), Duration::from_secs(60)).await;
    assert_eq!(life.spool.total().segments, FILES as usize);
    let health = format!("{:?}", life.health.summary());
    assert!(!health.contains("shelf"), "it was asked for more than it takes: {health}");
    life.crash().await;
}
