//! The board's figures: measured at the first start, kept in the state directory, shown by `holdfast probe`.
//!
//! Owns: `board.json` and `board.trying`, the table that a person reads. Must not touch: how it is measured (`media`),
//! what follows from it (`model::board`).
//! Law: figures are used only on the board that they were measured on; an encoder that took the process down twice is
//! not tried a third time. A file that cannot be read or written costs a probe, never the start.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tracing::{info, warn};

use super::{Error, failed};
use crate::config::Config;
use crate::media::{self, probe};
use crate::model::board::{Board, KeptBoard, Makeup, PROBED, Tried};
use crate::model::encoder::mixing_encoders;
use crate::model::mix::Size;

const KEPT: &str = "board.json";

/// One line for each encoder that is about to be tried, and one that says that the process outlived it. It is there only
/// while a probe runs, or after one that did not live to its end.
const TRYING: &str = "board.trying";
const OUTLIVED: &str = "-";

/// What people ask about: sizes and rates of mixed recordings.
const EXAMPLES: [(Size, u32); 4] = [
    (Size { width: 1280, height: 720 }, 15),
    (Size { width: 1280, height: 720 }, 30),
    (Size { width: 1920, height: 1080 }, 30),
    (Size { width: 640, height: 360 }, 15),
];

/// The board that mixed recordings are admitted by; `None` when the configuration says that all are.
pub(super) async fn known(config: &Config) -> Option<Arc<Board>> {
    if !config.limits.probe {
        return None;
    }
    let state = config.server.state_dir.clone();
    let board = match tokio::task::spawn_blocking(move || read_or_measure(&state)).await {
        Ok(board) => board,
        Err(e) => {
            warn!(error = %e, "the board was not measured: every mixed recording is admitted");
            return None;
        }
    };
    for encoder in &board.encoders {
        if let Tried::Fails(why) = &encoder.tried {
            warn!(encoder = encoder.factory, why, "encoder is not used; remove board.json to have it tried again");
        }
    }
    let (size, fps) = EXAMPLES[0];
    let at_once = board.at_once(size, fps, config.limits.mix_publishers);
    info!(encoders = ?board.working(), at_once, "mixed recordings of 1280x720@15 that the box takes");
    Some(Arc::new(board))
}

fn read_or_measure(state: &Path) -> Board {
    let makeup = probe::makeup(mixing_encoders());
    if let Some(board) = kept(&state.join(KEPT), &makeup) {
        return board;
    }
    let trying = state.join(TRYING);
    let shunned = died_twice(&fs::read_to_string(&trying).unwrap_or_default());
    info!("measuring the board; this happens once");
    let board = probe::probe(mixing_encoders(), probe::TRIAL_LIMIT, &shunned, |factory| {
        if let Err(e) = note(&trying, factory.unwrap_or(OUTLIVED)) {
            warn!(error = %e, "what is tried cannot be noted down");
        }
    });
    if let Err(e) = keep(state, &KeptBoard { makeup, board: board.clone() }) {
        // the next one must know whom to shun, and nothing more
        warn!(error = %e, "the board's figures cannot be kept: the next start measures again");
        let deaths = shunned.iter().flat_map(|factory| [factory.as_str(), factory]).map(|line| format!("{line}\n"));
        if !shunned.is_empty() && fs::write(&trying, deaths.collect::<String>()).is_ok() {
            return board;
        }
    }
    let _ = fs::remove_file(&trying);
    board
}

fn kept(file: &Path, makeup: &Makeup) -> Option<Board> {
    let bytes = fs::read(file).ok()?;
    match serde_json::from_slice::<KeptBoard>(&bytes) {
        Ok(kept) if kept.makeup == *makeup => Some(kept.board),
        Ok(_) => {
            info!("the board is not the one that was measured: it is measured again");
            None
        }
        Err(e) => {
            warn!(error = %e, "the board's figures cannot be read: it is measured again");
            None
        }
    }
}

/// Encoders during whose trial the process ended twice; once may have been a power cut.
fn died_twice(lines: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = lines.lines().collect();
    let outlived = |n: usize| lines.get(n + 1) == Some(&OUTLIVED);
    let mut once = BTreeSet::new();
    let deaths = (0..lines.len()).filter(|n| lines[*n] != OUTLIVED && !outlived(*n)).map(|n| lines[n]);
    deaths.filter(|factory| !once.insert(*factory)).map(str::to_owned).collect()
}

fn note(trying: &Path, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(trying)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}

/// All of it or nothing, after a power cut too.
fn keep(state: &Path, kept: &KeptBoard) -> io::Result<()> {
    let part = state.join("board.json.part");
    let mut file = fs::File::create(&part)?;
    file.write_all(&serde_json::to_vec_pretty(kept)?)?;
    file.sync_all()?;
    fs::rename(&part, state.join(KEPT))?;
    fs::File::open(state)?.sync_all()
}

#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Publishers that a mixed recording is taken to have.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=25))]
    publishers: u32,
}

/// `holdfast probe`: code 0 if an encoder works.
pub fn run(args: &ProbeArgs) -> Result<ExitCode, Error> {
    media::init().map_err(failed("media"))?;
    let board = probe::probe(mixing_encoders(), probe::TRIAL_LIMIT, &BTreeSet::new(), |_| ());
    if args.json {
        println!("{:#}", as_json(&board, args.publishers));
    } else {
        print!("{}", as_table(&board, args.publishers));
    }
    Ok(if board.working().is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(board: &Board, publishers: u32) -> serde_json::Value {
    let at_once = EXAMPLES.iter().map(|(size, fps)| {
        let count = board.at_once(*size, *fps, publishers);
        json!({ "width": size.width, "height": size.height, "fps": fps, "count": count })
    });
    json!({ "board": board, "publishers": publishers, "at_once": at_once.collect::<Vec<_>>() })
}

fn as_table(board: &Board, publishers: u32) -> String {
    let frame = u64::from(PROBED.size.width) * u64::from(PROBED.size.height);
    let mut table = format!("{:<16}{:<10}{:>10}{:>14}{:>10}\n", "encoder", "", "720p fps", "fps per core", "PSNR dB");
    // writing to a String cannot fail
    for row in mixing_encoders() {
        let kind = if row.hardware { "device" } else { "software" };
        let _ = match board.encoders.iter().find(|encoder| encoder.factory == row.factory).map(|e| &e.tried) {
            None => writeln!(table, "{:<16}{kind:<10}not there ({})", row.factory, row.package),
            Some(Tried::Fails(why)) => writeln!(table, "{:<16}{kind:<10}does not work: {why}", row.factory),
            Some(Tried::Works(speed)) => writeln!(
                table,
                "{:<16}{kind:<10}{:>10}{:>14}{:>10}",
                row.factory,
                speed.fps(),
                speed.pixels_per_core_second / frame,
                speed.luma_db
            ),
        };
    }
    let _ = writeln!(
        table,
        "\n{} cores, of which mixing may use {}; a core decodes {} and composes {} million pixels a second.",
        board.cores,
        board.most_cores(),
        board.decode / 1_000_000,
        board.compose / 1_000_000
    );
    let at_once = EXAMPLES
        .iter()
        .map(|(size, fps)| format!("{}x{}@{fps}: {}", size.width, size.height, board.at_once(*size, *fps, publishers)));
    let at_once = at_once.collect::<Vec<_>>().join(", ");
    let _ = writeln!(table, "Mixed recordings at once, of {publishers} publishers with 640x360@30 each: {at_once}.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::board::{Measured, Speed};

    fn board() -> Board {
        let speed = Speed { pixels_per_second: 200 * 921_600, pixels_per_core_second: 120 * 921_600, luma_db: 37 };
        let encoders = vec![
            Measured { factory: "vah264enc".into(), hardware: true, tried: Tried::Fails("green".into()) },
            Measured { factory: "x264enc".into(), hardware: false, tried: Tried::Works(speed) },
        ];
        Board { cores: 2, encoders, decode: 300_000_000, compose: 400_000_000 }
    }

    fn makeup() -> Makeup {
        let factories = BTreeSet::from(["x264enc".to_owned()]);
        Makeup { version: 1, gstreamer: "1.22.0".into(), cores: 2, factories }
    }

    #[test]
    fn the_table_says_what_works_and_how_much_fits() {
        let table = as_table(&board(), 4);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines.contains(&"x264enc         software         200           120        37"), "{table}");
        assert!(lines.contains(&"vah264enc       device    does not work: green"), "{table}");
        assert!(lines.contains(&"openh264enc     software  not there (gstreamer1.0-plugins-bad)"), "{table}");
        assert!(table.contains("1280x720@15: 4, 1280x720@30: 3, 1920x1080@30: 1, 640x360@15: 7."), "{table}");
        let json = as_json(&board(), 4);
        assert_eq!((&json["at_once"][0]["count"], &json["board"]["cores"]), (&json!(4), &json!(2)));
    }

    #[test]
    fn figures_are_kept_for_the_board_they_are_of() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join(KEPT);
        assert_eq!(kept(&file, &makeup()), None);
        keep(dir.path(), &KeptBoard { makeup: makeup(), board: board() }).expect("the folder is ours");
        assert_eq!(kept(&file, &makeup()), Some(board()));
        let more = Makeup { factories: BTreeSet::from(["x264enc".into(), "vah264enc".into()]), ..makeup() };
        assert_eq!(kept(&file, &more), None);
        fs::write(&file, "{").expect("the folder is ours");
        assert_eq!(kept(&file, &makeup()), None);
    }

    /// A start that dies notes all that it tried before as well: only the one under trial is to blame.
    #[test]
    fn who_took_the_process_down_twice_is_shunned() {
        let dir = tempfile::tempdir().expect("a folder");
        let trying = dir.path().join(TRYING);
        let shunned = || died_twice(&fs::read_to_string(&trying).unwrap_or_default());
        let start = |lines: &[&str]| {
            lines.iter().for_each(|line| note(&trying, line).expect("the folder is ours"));
        };
        assert!(shunned().is_empty());
        start(&["nvv4l2h264enc", OUTLIVED, "x264enc", OUTLIVED, "openh264enc"]);
        assert!(shunned().is_empty(), "once may have been a power cut");
        start(&["nvv4l2h264enc"]);
        start(&["nvv4l2h264enc", OUTLIVED, "x264enc", OUTLIVED, "openh264enc"]);
        assert_eq!(shunned(), BTreeSet::from(["openh264enc".to_owned()]));
        // what dies when all were tried is none of them
        start(&["nvv4l2h264enc", OUTLIVED, "x264enc", OUTLIVED]);
        assert_eq!(shunned(), BTreeSet::from(["openh264enc".to_owned()]));
        start(&["nvv4l2h264enc"]);
        assert_eq!(shunned(), BTreeSet::from(["nvv4l2h264enc".to_owned(), "openh264enc".to_owned()]));
    }
}
