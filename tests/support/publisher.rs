//! `holdfast publish` as a child process: a WebRTC publisher with a running clock, flash and beep.

use tokio::process::Command;

use super::{Running, SOON, within};

/// What a publisher sends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sends {
    /// `h264` (the default), `vp8`, …
    pub codec: Option<&'static str>,
    pub no_audio: bool,
    pub no_video: bool,
    /// It leaves properly after so long; otherwise it stays until it is told.
    pub seconds: Option<u64>,
}

pub struct Publisher {
    running: Running,
}

impl Publisher {
    /// Starts it; returns once it says that it is connected (a line with the word `connected`).
    pub async fn start(whip: &str, token: &str, sends: Sends) -> Publisher {
        let publisher = Publisher::launch(whip, token, sends);
        publisher
            .running
            .lines
            .wait_for("the line 'connected'", |line| line.split_whitespace().any(|w| w == "connected").then_some(()))
            .await;
        publisher
    }

    /// Starts it without awaiting anything.
    pub fn launch(whip: &str, token: &str, sends: Sends) -> Publisher {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("publish").arg(whip).args(["--token", token]).env("RUST_LOG", "info").env("NO_COLOR", "1");
        if let Some(codec) = sends.codec {
            command.args(["--codec", codec]);
        }
        if sends.no_audio {
            command.arg("--no-audio");
        }
        if sends.no_video {
            command.arg("--no-video");
        }
        if let Some(seconds) = sends.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        Publisher { running: Running::start("publish", &mut command) }
    }

    /// Vanishes: no DELETE, no goodbye.
    pub async fn vanish(&mut self) {
        self.running.kill().await;
    }

    /// Leaves as the protocol says (SIGTERM: it sends DELETE and ends with 0).
    pub async fn leave(&mut self) {
        let code = self.running.terminate().await;
        assert_eq!(code, Some(0), "a publisher that leaves ends well:\n{}", self.running.lines.text());
    }

    /// Awaits that it ended by itself: it was shown out, or its time was over.
    pub async fn ended(&mut self) -> Option<i32> {
        within(SOON, "the publisher to end", self.running.ended()).await
    }

    pub fn log(&self) -> String {
        self.running.lines.text()
    }
}
