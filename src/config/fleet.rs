//! `[fleet]`: the broker over which operators see and steer the box.
//!
//! Owns: the table, its defaults and faults. Must not touch: files and credentials that it names.
//! Law: a broker is met over TLS unless the table says otherwise in so many words; a password stands in no address.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::faults::within;
use crate::model::Secret;

/// Client ids that every broker takes have 23 characters; those of today take more, and names should say something.
const LONGEST_ID: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    pub enabled: bool,
    /// The box's name on the broker: its topics are below `holdfast/<box_id>/`.
    pub box_id: String,
    /// `mqtts://host:8883`, or `mqtt://host:1883` together with `allow_plain`.
    pub broker: String,
    /// The line may be read and changed by whoever is on the way.
    pub allow_plain: bool,
    /// Authorities that may vouch for the broker (PEM); absent: those of the system.
    pub ca: Option<PathBuf>,
    /// What the box shows of itself (PEM), read at every connection.
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// A file that holds the password, in place of `password`.
    pub password_file: Option<PathBuf>,
    /// Name of a file in `$CREDENTIALS_DIRECTORY`, in place of both.
    pub password_credential: Option<String>,
    pub keepalive_seconds: u64,
    /// So long the broker keeps for the box what was sent to it while it was away.
    pub session_hours: u64,
    /// First and longest wait between two tries to connect. It is never given up.
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    /// A broker that is out of reach for longer is told by lamps, door and metrics.
    pub unreachable_minutes: u64,
    /// Figures go out at every change that matters, and at least so often.
    pub telemetry_seconds: u64,
    /// A desired configuration is on trial for so long; one that fails it is rolled back.
    pub rollback_seconds: u64,
    /// Messages that wait for the broker; of more the least important events are dropped.
    pub keep_messages: usize,
    /// What they may take together; of more likewise.
    pub keep_bytes: u64,
    /// The box announces itself to Home Assistant, below `home_assistant_prefix`.
    pub home_assistant: bool,
    pub home_assistant_prefix: String,
    /// What starts the machine anew, for the command `reboot`; empty: nothing does.
    pub reboot_command: Vec<String>,
    /// Networks that a debug bundle may go to although they are loopback, private or otherwise not of the world.
    #[serde(deserialize_with = "super::networks")]
    pub bundle_allow: Vec<IpNet>,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            enabled: false,
            box_id: String::new(),
            broker: String::new(),
            allow_plain: false,
            ca: None,
            client_certificate: None,
            client_key: None,
            username: None,
            password: None,
            password_file: None,
            password_credential: None,
            keepalive_seconds: 30,
            session_hours: 72,
            retry_first_seconds: 1,
            retry_longest_seconds: 60,
            unreachable_minutes: 5,
            telemetry_seconds: 60,
            rollback_seconds: 300,
            keep_messages: 20_000,
            keep_bytes: 16 * 1024 * 1024,
            home_assistant: false,
            home_assistant_prefix: "homeassistant".into(),
            reboot_command: ["systemctl", "reboot"].map(str::to_owned).to_vec(),
            bundle_allow: Vec::new(),
        }
    }
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Fleet {
    /// `None`: the address is not one.
    pub fn address(&self) -> Option<Broker> {
        let url = Url::parse(&self.broker).ok()?;
        let (tls, usual) = match url.scheme() {
            "mqtts" => (true, 8883),
            "mqtt" => (false, 1883),
            _ => return None,
        };
        // an address of version 6 cannot be handed on both to the resolver and to TLS; a name can
        let host = url.host_str().filter(|host| !host.is_empty() && !host.starts_with('['))?;
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let path = matches!(url.path(), "" | "/");
        (bare && path && Host::parse(host).is_ok()).then(|| Broker {
            host: host.to_owned(),
            port: url.port().unwrap_or(usual),
            tls,
        })
    }

    pub fn unreachable_after(&self) -> Duration {
        Duration::from_secs(self.unreachable_minutes * 60)
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(format!("fleet.{fault}"));
            }
        };
        for (holds, fault) in [
            within("keepalive_seconds", self.keepalive_seconds, 5, 3600),
            within("session_hours", self.session_hours, 1, 8760),
            within("retry_first_seconds", self.retry_first_seconds, 1, 3600),
            within("unreachable_minutes", self.unreachable_minutes, 0, 1440),
            within("telemetry_seconds", self.telemetry_seconds, 1, 86_400),
            within("rollback_seconds", self.rollback_seconds, 1, 86_400),
            within("keep_messages", self.keep_messages as u64, 10, 1_000_000),
            within("keep_bytes", self.keep_bytes, 64 * 1024, 4 * 1024 * 1024 * 1024),
        ] {
            check(holds, &fault);
        }
        let first = self.retry_first_seconds;
        check(first <= self.retry_longest_seconds, &format!("retry_longest_seconds must not be below {first}"));
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        check(
            plain(&self.box_id) && self.box_id.len() <= LONGEST_ID,
            "box_id must be at most 64 letters, digits, - and _",
        );
        let prefix = &self.home_assistant_prefix;
        check(!prefix.is_empty() && plain(prefix), "home_assistant_prefix must be letters, digits, - and _");
        check(
            self.client_certificate.is_some() == self.client_key.is_some(),
            "client_certificate and .client_key go together",
        );
        let passwords = [self.password.is_some(), self.password_file.is_some(), self.password_credential.is_some()];
        let passwords = passwords.into_iter().filter(|given| *given).count();
        check(passwords <= 1, "password, .password_file and .password_credential exclude each other");
        check(self.username.is_some() || passwords == 0, "password is there without username");
        check(self.password.as_ref().is_none_or(|secret| !secret.is_empty()), "password is empty");
        if let Some(name) = &self.password_credential {
            let fits = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
            check(fits, "password_credential is not the name of a credential");
        }
        if self.enabled || !self.broker.is_empty() {
            match self.address() {
                Some(broker) => check(
                    broker.tls || self.allow_plain,
                    "broker is mqtt://, which anybody on the way reads: use mqtts://, or say allow_plain = true",
                ),
                None => check(
                    false,
                    "broker is not an address such as mqtts://broker.example:8883, without user, password and path",
                ),
            }
        }
        check(!self.enabled || !self.box_id.is_empty(), "box_id is missing");
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_fault_is_named_and_no_password_is_shown() {
        let bad = r#"
            [fleet]
            enabled = true
            box_id = "a/b"
            broker = "mqtts://ann:hush-hush@broker"
            client_key = "/etc/key"
            password = "hush-hush"
            password_file = "/etc/password"
            keepalive_seconds = 1
            retry_first_seconds = 100
            home_assistant_prefix = "a/b"
        "#;
        let told = Config::parse(bad).expect_err("many faults").to_string();
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "fleet.keepalive_seconds must be 5 to 3600, not 1",
                "fleet.retry_longest_seconds must not be below 100",
                "fleet.box_id must be at most 64 letters, digits, - and _",
                "fleet.home_assistant_prefix must be letters, digits, - and _",
                "fleet.client_certificate and .client_key go together",
                "fleet.password, .password_file and .password_credential exclude each other",
                "fleet.password is there without username",
                "fleet.broker is not an address such as mqtts://broker.example:8883, without user, password and path",
            ]
        );
        let told = |lines: &str| Config::parse(&format!("[fleet]\nenabled = true\n{lines}")).map(|config| config.fleet);
        let plain = told("box_id = 'b'\nbroker = 'mqtt://broker'").expect_err("it is plain").to_string();
        assert!(plain.starts_with("fleet.broker is mqtt://"), "{plain}");
        assert_eq!(told("broker = 'mqtts://b'").expect_err("no name").to_string(), "fleet.box_id is missing");
        for wrong in ["broker", "http://broker", "mqtts://[::1]:8883", "mqtts://broker/path", "mqtts://"] {
            assert!(told(&format!("box_id = 'b'\nbroker = '{wrong}'")).is_err(), "{wrong}");
        }
        let whole = told("box_id = 'b'\nbroker = 'mqtts://broker'\nusername = 'b'\npassword = 'hush-hush'");
        let whole = whole.expect("it is whole");
        assert_eq!(whole.address(), Some(Broker { host: "broker".into(), port: 8883, tls: true }));
        assert!(!format!("{whole:?}").contains("hush"));
        let plain = told("box_id = 'b'\nbroker = 'mqtt://10.0.0.7:1884'\nallow_plain = true").expect("it is allowed");
        assert_eq!(plain.address(), Some(Broker { host: "10.0.0.7".into(), port: 1884, tls: false }));
    }
}
