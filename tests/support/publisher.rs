//! `holdfast publish` as a child process: a WebRTC publisher with a running clock, flash and beep.

use std::path::Path;

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::Running;

/// What a publisher sends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sends {
    /// `h264` (the default) or `vp8`
    pub codec: Option<&'static str>,
    /// It leaves properly after so long; otherwise it stays until it is told.
    pub seconds: Option<u64>,
}

pub struct Publisher {
    running: Running,
}

impl Publisher {
    /// Starts it without awaiting anything: whether it came in is for the box to say.
    pub fn launch(whip: &str, token: &str, sends: Sends) -> Publisher {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("publish").arg(whip).args(["--token", token]);
        // A small picture: several publishers, a box and a decoder share the machine's cores.
        command.args(["--width", "640", "--height", "360", "--fps", "30", "--bitrate", "600000"]);
        command.args(["--video", sends.codec.unwrap_or("h264")]);
        if let Some(seconds) = sends.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        Publisher { running: Running::start("publish", &mut command) }
    }

    /// The same for a film, which is sent once, at its own pace.
    pub fn play(whip: &str, token: &str, film: &Path, codec: &str) -> Publisher {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("publish").arg(whip).args(["--token", token]).arg("--file").arg(film);
        command.args(["--video", codec]);
        Publisher { running: Running::start("publish", &mut command) }
    }

    /// Vanishes: no DELETE, no goodbye.
    pub async fn vanish(&mut self) {
        self.running.kill().await;
    }

    /// Leaves as the protocol says: Ctrl-C, it sends DELETE and ends with 0.
    pub async fn leave(&mut self) {
        self.running.signal(Signal::SIGINT);
        let code = self.ended().await;
        assert_eq!(code, Some(0), "a publisher that leaves ends well:\n{}", self.log());
    }

    /// Its exit code, once it ended by itself: its time was over, or it was shown out.
    pub async fn ended(&mut self) -> Option<i32> {
        self.running.ended().await
    }

    pub fn log(&self) -> String {
        self.running.lines.text()
    }
}
