//! Arguments, logging, exit code. Nothing else.

#![deny(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use holdfast::app::live::SetFilter;
use holdfast::config::Config;
use holdfast::config::document::Base;
use holdfast::{app, demo};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

/// An offline-safe room recorder for clinics.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the box until SIGTERM.
    Run {
        /// TOML; see configs/.
        #[arg(long)]
        config: PathBuf,
    },
    /// Say whether a configuration is valid, and every fault of it.
    CheckConfig { file: PathBuf },
    /// Try the encoders that the board has, and say how many mixed recordings it takes at once.
    Probe(app::board::ProbeArgs),
    /// Look at the shelf, check it, or copy recordings out of it.
    Spool(app::shelf::ShelfArgs),
    /// Make one playable file of each user's single-stream recordings in a directory.
    Merge(app::merge::MergeArgs),
    /// Publish a test picture or a media file to a WHIP address.
    Publish(Box<app::publish::Args>),
    /// What the lights on the box mean; show or set them by hand.
    Lights(app::panel::LightsArgs),
    /// Box, two publishers, a recording and a receiver in one process.
    Demo(demo::DemoArgs),
}

/// To journald when systemd runs us, otherwise readable lines on stderr. What comes back sets another filter, which
/// `RUST_LOG` wins over too.
fn start_logging(filter: &str) -> SetFilter {
    let of_environment = EnvFilter::try_from_default_env();
    let fixed = of_environment.is_ok();
    let filter = of_environment.or_else(|_| EnvFilter::try_new(filter)).unwrap_or_default();
    let (filter, handle) = reload::Layer::new(filter);
    let by_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let journald = by_systemd.then(tracing_journald::layer).and_then(Result::ok);
    let stderr = journald.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    let kept = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| app::ring::Writer);
    tracing_subscriber::registry().with(filter).with(journald).with(stderr).with(kept).init();
    Arc::new(move |filter| {
        let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
        if fixed { Ok(()) } else { handle.reload(filter).map_err(|e| e.to_string()) }
    })
}

fn read_file(file: &PathBuf) -> Result<(Config, Base), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let read = Config::parse(&text).and_then(|config| Ok((config, Base::parse(&text)?)));
    read.map_err(|faults| format!("{}:\n{faults}", file.display()))
}

fn read_config(file: &PathBuf) -> Result<Config, String> {
    read_file(file).map(|(config, _)| config)
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::CheckConfig { file } => read_config(&file).map(|_| {
            println!("{}: valid", file.display());
            ExitCode::SUCCESS
        }),
        Command::Run { config: file } => read_file(&file).and_then(|(config, base)| {
            let set_filter = start_logging(&config.log.filter);
            app::run(config, base, &file, set_filter).map_err(|e| e.to_string())
        }),
        Command::Probe(args) => {
            let _ = start_logging("error");
            app::board::run(&args).map_err(|e| e.to_string())
        }
        Command::Spool(args) => read_config(&args.config).and_then(|config| {
            let _ = start_logging("error");
            app::shelf::run(&config, &args.task).map_err(|e| e.to_string())
        }),
        Command::Merge(args) => {
            let _ = start_logging("error");
            app::merge::run(&args).map_err(|e| e.to_string())
        }
        Command::Lights(args) => {
            start_logging("warn");
            app::panel::lights(&args).map_err(|e| e.to_string())
        }
        Command::Publish(args) => {
            let _ = start_logging("warn,holdfast=info,rtc_ice=error,rtc_dtls=error");
            app::publish::run(*args).map_err(|e| e.to_string())
        }
        Command::Demo(args) => {
            let _ = start_logging("warn,rtc_ice=error,rtc_dtls=error");
            demo::run(args).map_err(|e| e.to_string())
        }
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("holdfast: {why}");
        ExitCode::FAILURE
    })
}
