//! Signatures: who may call the box, who may publish to it, and how its callbacks prove where they come from.
//!
//! Owns: TC3-HMAC-SHA256 and the v1 signatures of API requests, UserSig and PrivateMapKey, the `Sign` of callbacks;
//! checking and making of each. Must not touch: HTTP types, the configuration, the clock (time is an argument).
//! Law: strangers' input never panics, and two signatures are compared in constant time.
//! Sources: API.md §2.2, §2.3, §3, §4; every vector of `tests/vectors.json` is a test.

pub mod tc3;
pub mod user_sig;
pub mod v1;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use tc3::{SignedHeader, Tc3Claim, Tc3Request, sign_tc3, sign_tc3_for, verify_tc3};
pub use user_sig::{
    PrivateMap, PrivateRoom, UserSigError, UserSigFacts, check_private_map_key, check_user_sig, gen_private_map_key,
    gen_user_sig, privilege,
};
pub use v1::{V1Method, V1Request, sign_v1, verify_v1};

/// A request may be so much older or newer than the box's clock (API.md §2.2).
pub const WINDOW_SECONDS: i64 = 300;

/// Why a request's signature was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The parts of the signature are not there or not in the form that they must have.
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the request's timestamp is {0} s away from the clock of the box, and {WINDOW_SECONDS} s is the limit")]
    Expired(i64),
    #[error("the signature is not the one that this secret key makes of this request")]
    Mismatch,
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn hmac_sha1(key: &[u8], text: &[u8]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Equal, told in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// How far `timestamp` is from `now`, if that is within the window.
fn within_window(timestamp: i64, now: i64) -> Result<(), SignatureError> {
    let away = timestamp.abs_diff(now);
    if away > WINDOW_SECONDS.unsigned_abs() {
        return Err(SignatureError::Expired(i64::try_from(away).unwrap_or(i64::MAX)));
    }
    Ok(())
}

/// The host values that a client may have signed, in the order in which they are tried (API.md §0.2, §0.4, §2.2): as
/// sent; without the port; the same without the scheme that tccli puts before it; the box's public names.
pub fn host_candidates(sent: &str, public_names: &[String]) -> Vec<String> {
    let bare = sent.strip_prefix("http://").or_else(|| sent.strip_prefix("https://")).unwrap_or(sent);
    let mut hosts: Vec<String> = Vec::with_capacity(4 + public_names.len());
    let candidates =
        [sent, without_port(sent), bare, without_port(bare)].into_iter().chain(public_names.iter().map(String::as_str));
    for host in candidates {
        if !host.is_empty() && !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The `Sign` header of a callback: base64 of HMAC-SHA256 over the body exactly as it is sent (API.md §4).
pub fn callback_sign(key: &str, body: &[u8]) -> String {
    STANDARD.encode(hmac_sha256(key.as_bytes(), body))
}

#[cfg(test)]
pub(crate) mod vectors {
    use serde_json::Value;

    /// The recorded requests, UserSigs and callback signatures of the official SDKs.
    pub fn all() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors.json")).expect("the vectors are JSON")
    }

    pub fn text<'a>(of: &'a Value, name: &str) -> &'a str {
        of[name].as_str().unwrap_or_else(|| panic!("vector without {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callback_vectors() {
        let all = vectors::all();
        let entries = all["callback_sign"].as_array().unwrap();
        assert!(!entries.is_empty());
        for entry in entries {
            let sign = callback_sign(vectors::text(entry, "key"), vectors::text(entry, "body").as_bytes());
            assert_eq!(sign, vectors::text(entry, "sign"));
        }
    }

    #[test]
    fn hosts_are_tried_as_sent_first() {
        let names = vec!["trtc.tencentcloudapi.com".to_owned()];
        assert_eq!(
            host_candidates("http://127.0.0.1:8080", &names),
            ["http://127.0.0.1:8080", "http://127.0.0.1", "127.0.0.1:8080", "127.0.0.1", "trtc.tencentcloudapi.com"]
        );
        assert_eq!(host_candidates("box.lan", &[]), ["box.lan"]);
        assert_eq!(host_candidates("[::1]:80", &[]), ["[::1]:80", "[::1]"]);
        assert!(host_candidates("", &[]).is_empty());
    }

    #[test]
    fn the_window_has_two_ends() {
        assert_eq!(within_window(1000, 1300), Ok(()));
        assert_eq!(within_window(1300, 1000), Ok(()));
        assert_eq!(within_window(1000, 1301), Err(SignatureError::Expired(301)));
        assert_eq!(within_window(1301, 1000), Err(SignatureError::Expired(301)));
        assert_eq!(within_window(i64::MIN, i64::MAX), Err(SignatureError::Expired(i64::MAX)));
    }
}
