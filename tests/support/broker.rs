//! Debian's mosquitto on loopback, for boxes and whoever steers them.

use tempfile::TempDir;
use tokio::process::Command;

use super::{Running, free_tcp, listening};

pub struct Broker {
    port: u16,
    running: Running,
    dir: TempDir,
}

fn launch(dir: &TempDir, port: u16) -> Running {
    let conf = dir.path().join("mosquitto.conf");
    std::fs::write(&conf, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).expect("the folder is ours");
    let path = ["/usr/sbin/mosquitto", "mosquitto"].into_iter().find(|path| std::path::Path::new(path).exists());
    let program = path.expect("mosquitto is missing: run scripts/setup");
    Running::start("mosquitto", Command::new(program).arg("-c").arg(conf))
}

impl Broker {
    pub async fn start() -> Broker {
        let (dir, address) = (TempDir::new().expect("a temporary folder can be made"), free_tcp());
        let running = launch(&dir, address.port());
        listening(address, "mosquitto").await;
        Broker { port: address.port(), running, dir }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn stop(&mut self) {
        self.running.terminate().await;
    }

    /// On the same port, with nothing that it knew.
    pub async fn start_again(&mut self) {
        self.running = launch(&self.dir, self.port);
        listening(([127, 0, 0, 1], self.port).into(), "mosquitto").await;
    }
}
