//! `holdfast publish`: a publisher for trying a box, or any other WHIP address.
//!
//! Owns: its arguments. Must not touch: the box.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, crypto, failed, runtime};
use crate::media;
use crate::media::publish::{self, PublishSettings, Source, TestPicture, VideoCodec};
use crate::model::Secret;

/// A test picture with a running clock, a flash and a beep each second, or a media file, to any WHIP address.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The WHIP address, for example `http://box:8080/whip/ROOM/USER`
    url: String,
    /// The UserSig (bearer token); also read from HOLDFAST_TOKEN.
    #[arg(long, env = "HOLDFAST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Publish this media file instead of the test picture.
    #[arg(long)]
    file: Option<PathBuf>,
    #[arg(long, default_value_t = 1280)]
    width: u32,
    #[arg(long, default_value_t = 720)]
    height: u32,
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Bits per second of the picture.
    #[arg(long, default_value_t = 1_500_000)]
    bitrate: u32,
    /// h264 or vp8.
    #[arg(long, default_value = "h264")]
    video: String,
    /// Text in the picture; the address's last part if not given.
    #[arg(long)]
    label: Option<String>,
    /// Leave after so many seconds; otherwise at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
    /// Take any certificate (a box's self-made one).
    #[arg(long)]
    insecure: bool,
}

pub fn run(args: Args) -> Result<ExitCode, Error> {
    crypto();
    media::init().map_err(failed("media"))?;
    let video = match args.video.as_str() {
        "h264" => VideoCodec::H264,
        "vp8" => VideoCodec::Vp8,
        other => return Err(Error::Start { what: "--video", why: format!("{other} is not one of h264, vp8") }),
    };
    let label = args.label.clone().unwrap_or_else(|| args.url.rsplit('/').next().unwrap_or_default().to_owned());
    let source = match args.file {
        Some(file) => Source::File(file),
        None => Source::TestPicture(TestPicture {
            width: args.width,
            height: args.height,
            fps: args.fps,
            bitrate: args.bitrate,
            label,
            colour: 0x0020_5080,
            flash_beep: true,
        }),
    };
    let settings = PublishSettings {
        url: args.url,
        bearer: args.token.map(Secret::new),
        insecure: args.insecure,
        source,
        video,
        duration: args.seconds.map(Duration::from_secs),
    };
    runtime()?.block_on(async {
        let cancel = CancellationToken::new();
        let on_signal = cancel.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                on_signal.cancel();
            }
        });
        let report = publish::publish(settings, cancel).await.map_err(failed("publish"))?;
        println!("{report}");
        Ok(ExitCode::SUCCESS)
    })
}
