//! How the broker is reached, and what it means when it is not.
//!
//! Owns: TLS and the words of a connection that is asked for; the reading of failures. Must not touch: what is sent.
//! Law: without TLS only where the table says so; no error shows a password or any of what a key file holds.
//! Source: MQTT 5.0 §3.1 (CONNECT), §3.2.2.2 (reason codes).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill};
use rumqttc::v5::{ConnectionError, MqttOptions, StateError};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Fleet;

/// Messages on their way at once, in each direction.
pub(super) const WINDOW: u16 = 16;
/// Largest message that is taken: a desired configuration with many applications is far from it.
const LARGEST: u32 = 1024 * 1024;
/// From the name to the broker's word.
const CONNECT_SECONDS: u64 = 20;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub why: String,
    /// The broker may have taken the will of the session that was tried.
    pub heard: bool,
    /// Another client came with this box's name.
    pub taken_over: bool,
    /// The message that was sent last is larger than the broker takes.
    pub too_large: bool,
}

impl Refusal {
    pub fn before(why: String) -> Refusal {
        Refusal { why, heard: false, taken_over: false, too_large: false }
    }
}

/// Everything that a session is opened with. Blocks: files are read anew, so that they can be renewed under the box.
pub(super) fn options(fleet: &Fleet, will: (&str, &str)) -> Result<MqttOptions, String> {
    let broker = fleet.address().ok_or("fleet.broker is no address")?;
    let mut options = MqttOptions::new(format!("holdfast-{}", fleet.box_id), &broker.host, broker.port);
    if broker.tls {
        let config = Arc::new(tls(fleet)?);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    } else if !fleet.allow_plain {
        return Err("fleet.broker is mqtt://, and fleet.allow_plain is not set".into());
    }
    if let Some(user) = &fleet.username {
        options.set_credentials(user, fleet.password.as_ref().map_or("", |password| password.expose()));
    }
    let (topic, payload) = will;
    options
        .set_keep_alive(Duration::from_secs(fleet.keepalive_seconds.max(5)))
        .set_clean_start(false)
        .set_connection_timeout(CONNECT_SECONDS)
        .set_connect_properties(ConnectProperties {
            session_expiry_interval: Some(u32::try_from(fleet.session_hours * 3600).unwrap_or(u32::MAX)),
            receive_maximum: Some(WINDOW),
            max_packet_size: Some(LARGEST),
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        })
        .set_last_will(LastWill::new(topic, payload.to_owned(), QoS::AtLeastOnce, true, None))
        // twice the window: numbers of packets come round, and one that hangs must not meet a new one
        .set_outgoing_inflight_upper_limit(WINDOW * 4)
        // a message is acknowledged when its part has it
        .set_manual_acks(true);
    Ok(options)
}

fn tls(fleet: &Fleet) -> Result<ClientConfig, String> {
    let said = |path: &Path, why: String| format!("{}: {why}", path.display());
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let all = all.map_err(|e| said(path, e.to_string()))?;
        if all.is_empty() { Err(said(path, "no certificate in it".into())) } else { Ok(all) }
    };
    let mut roots = RootCertStore::empty();
    match &fleet.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| said(path, e.to_string()))?;
            }
        }
        None => {
            let (taken, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if taken == 0 {
                return Err("the system has no authorities that could vouch for the broker: set fleet.ca".into());
            }
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (&fleet.client_certificate, &fleet.client_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| said(key, e.to_string()))?;
    builder.with_client_auth_cert(chain, private).map_err(|e| said(key, e.to_string()))
}

/// What a failure means, in words for a technician.
pub(super) fn reason(error: &ConnectionError) -> Refusal {
    let mut refusal = Refusal { why: error.to_string(), heard: true, taken_over: false, too_large: false };
    match error {
        ConnectionError::Tls(error) => {
            refusal.heard = false;
            refusal.why = format!("TLS: {}", chain(error));
        }
        ConnectionError::ConnectionRefused(code) => {
            refusal.heard = false;
            refusal.why = format!("the broker refuses the box: {code:?}");
        }
        ConnectionError::Io(error) => {
            refusal.heard = !matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::InvalidData
            );
            refusal.why = chain(error);
        }
        ConnectionError::Timeout(_) => refusal.why = format!("no answer within {CONNECT_SECONDS} s"),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            refusal.taken_over = format!("{reason_code:?}").contains("TakenOver");
            refusal.why = format!("the broker ended the session: {reason_code:?}");
        }
        ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { pkt_size, max }) => {
            refusal.too_large = true;
            refusal.why = format!("a message of {pkt_size} bytes, and the broker takes {max}");
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => refusal.why = "the broker is not heard".into(),
        _ => {}
    }
    refusal
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none_are_named_and_their_contents_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let fleet = |broker: &str| Fleet {
            enabled: true,
            box_id: "b".into(),
            broker: broker.into(),
            ca: Some(file.clone()),
            ..Fleet::default()
        };
        let told = |fleet: &Fleet| options(fleet, ("t", "p")).map(drop).expect_err("it must fail");
        assert!(told(&fleet("mqtts://broker")).starts_with(&format!("{}: ", file.display())));
        std::fs::write(&file, "hush-hush, no certificate").unwrap();
        let why = told(&fleet("mqtts://broker"));
        assert!(why.contains("no certificate in it") && !why.contains("hush"), "{why}");
        assert!(told(&fleet("mqtt://broker")).contains("allow_plain"));
        let plain = Fleet { allow_plain: true, ..fleet("mqtt://broker") };
        assert!(options(&plain, ("t", "p")).is_ok());
    }

    #[test]
    fn a_number_that_no_broker_heard_is_used_again() {
        let io = |kind| ConnectionError::Io(io::Error::from(kind));
        assert!(!reason(&io(io::ErrorKind::ConnectionRefused)).heard);
        assert!(reason(&io(io::ErrorKind::ConnectionReset)).heard);
        let code = rumqttc::v5::mqttbytes::v5::ConnectReturnCode::NotAuthorized;
        let refused = reason(&ConnectionError::ConnectionRefused(code));
        assert!(!refused.heard && refused.why.contains("NotAuthorized"), "{refused:?}");
    }
}
