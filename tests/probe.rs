//! The probe with this machine's own encoders, and with some that fail as drivers do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use holdfast::app;
use holdfast::config::Config;
use holdfast::media::{self, probe};
use holdfast::model::board::{Board, KeptBoard, Tried};
use holdfast::model::encoder::{Coding, PictureEncoder, mixing_encoders};
use holdfast::model::mix::Size;

/// A row under x264enc's name, so that it is there.
fn row(chain: fn(&Coding) -> String) -> PictureEncoder {
    PictureEncoder { factory: "x264enc", hardware: true, package: "-", needs: &[], chain }
}

fn good() -> PictureEncoder {
    *mixing_encoders().iter().find(|encoder| encoder.factory == "x264enc").expect("it is in the table")
}

fn probed(table: &[PictureEncoder], limit: Duration) -> Board {
    media::init().expect("what recordings need is installed");
    probe::probe(table, limit, &BTreeSet::new(), |_| ())
}

/// Why the first row of the table does not work.
fn fault(chain: fn(&Coding) -> String) -> String {
    let board = probed(&[row(chain)], probe::TRIAL_LIMIT);
    match &board.encoders[0].tried {
        Tried::Fails(why) => why.clone(),
        Tried::Works(speed) => panic!("it must not pass: {speed:?}"),
    }
}

#[test]
fn the_encoders_of_this_machine_work() {
    let began = Instant::now();
    let mut begun = Vec::new();
    media::init().expect("what recordings need is installed");
    let board = probe::probe(mixing_encoders(), probe::TRIAL_LIMIT, &BTreeSet::new(), |name| {
        begun.push(name.map(str::to_owned))
    });
    println!("{:?}: {board:#?}", began.elapsed());
    for factory in ["x264enc", "openh264enc"] {
        assert!(board.working().iter().any(|working| working == factory), "{factory}: {board:#?}");
    }
    let in_turn = board.encoders.iter().flat_map(|encoder| [Some(encoder.factory.clone()), None]);
    assert_eq!(begun, in_turn.collect::<Vec<_>>());
    for encoder in &board.encoders {
        if let Tried::Works(speed) = &encoder.tried {
            assert!(speed.fps() > 0 && speed.luma_db >= 24, "{encoder:?}");
        }
    }
    assert!(board.decode > 0 && board.compose > 0, "{board:#?}");
    assert!(board.at_once(Size { width: 320, height: 180 }, 15, 1) > 0, "{board:#?}");
    let makeup = probe::makeup(mixing_encoders());
    assert!(makeup.factories.contains("x264enc") && makeup.cores == board.cores, "{makeup:?}");
}

#[test]
fn an_element_that_breaks_is_a_row() {
    let why = fault(|_| "identity error-after=10 ! x264enc tune=zerolatency".into());
    assert!(why.contains("identity"), "{why}");
}

#[test]
fn a_description_that_cannot_be_built_is_a_row() {
    let why = fault(|_| "x264enc no-such-property=1".into());
    assert!(why.contains("no-such-property"), "{why}");
}

#[test]
fn a_missing_neighbour_is_named() {
    let row = PictureEncoder { needs: &["no-such-converter"], ..good() };
    let board = probed(&[row], probe::TRIAL_LIMIT);
    let Tried::Fails(why) = &board.encoders[0].tried else { panic!("it needs what is not there") };
    assert!(why.contains("no-such-converter"), "{why}");
}

#[test]
fn wrong_pictures_are_seen() {
    for chain in [(|_| "videobalance brightness=-0.5 ! x264enc tune=zerolatency".into()) as fn(&_) -> String, |_| {
        "videoflip video-direction=vert ! x264enc tune=zerolatency".into()
    }] {
        let why = fault(chain);
        assert!(why.contains("not what went in"), "{why}");
    }
}

#[test]
fn lost_pictures_are_seen() {
    let why = fault(|_| "videorate drop-only=true max-rate=15 ! x264enc tune=zerolatency".into());
    assert!(why.contains("30 pictures went in, and 1"), "{why}");
}

#[test]
fn a_panic_is_a_row() {
    let why = fault(|_| panic!("as the test says"));
    assert!(why.contains("panicked"), "{why}");
}

/// The one that hangs is left behind; the next is tried all the same.
#[test]
fn a_driver_that_hangs_is_given_up() {
    // each picture waits an hour; the time limit is for the row that works, which a busy machine needs
    let hangs = row(|_| "identity sleep-time=3600000000 ! x264enc tune=zerolatency".into());
    let board = probed(&[hangs, good()], Duration::from_secs(5));
    let Tried::Fails(why) = &board.encoders[0].tried else { panic!("it hangs") };
    assert!(why.contains("no answer in 5.0 s"), "{why}");
    assert_eq!(board.working(), ["x264enc"]);
}

#[test]
fn an_encoder_that_killed_the_process_is_not_touched_again() {
    media::init().expect("what recordings need is installed");
    let shunned = BTreeSet::from(["x264enc".to_owned()]);
    let board = probe::probe(&[good()], probe::TRIAL_LIMIT, &shunned, |name| panic!("{name:?} is touched"));
    assert!(matches!(&board.encoders[0].tried, Tried::Fails(why) if why.contains("died")), "{board:?}");
    assert_eq!(board.at_once(Size { width: 320, height: 180 }, 15, 1), 0);
}

/// The first start measures and keeps the figures; the second reads them.
#[tokio::test(flavor = "multi_thread")]
async fn a_box_measures_its_board_once() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = || {
        let mut config = Config::default();
        config.server.http = Some(loopback);
        config.server.https = None;
        config.server.state_dir = dir.path().to_owned();
        config.whip.udp = loopback;
        config
    };
    let file = dir.path().join("board.json");
    let start = async |config: Config| {
        let the_box = app::start(config).await.unwrap();
        the_box.stop().await;
    };
    let mut unmeasured = config();
    unmeasured.limits.probe = false;
    start(unmeasured).await;
    assert!(!file.exists(), "nothing is measured where nothing is admitted by it");

    let began = Instant::now();
    start(config()).await;
    println!("first start and stop: {:?}", began.elapsed());
    let mut kept: KeptBoard = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(kept.board.working().contains(&"x264enc".to_owned()), "{kept:?}");
    assert!(!dir.path().join("board.trying").exists(), "the probe came to its end");

    // figures that no probe would give: they stay as long as the board is the same
    kept.board.compose = 1;
    std::fs::write(&file, serde_json::to_vec(&kept).unwrap()).unwrap();
    start(config()).await;
    assert_eq!(serde_json::from_slice::<KeptBoard>(&std::fs::read(&file).unwrap()).unwrap(), kept);

    kept.makeup.factories.insert("an-encoder-that-went".into());
    std::fs::write(&file, serde_json::to_vec(&kept).unwrap()).unwrap();
    start(config()).await;
    let anew: KeptBoard = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(anew.board.compose > 1 && anew.makeup != kept.makeup, "{anew:?}");
}
