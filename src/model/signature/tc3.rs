//! TC3-HMAC-SHA256: the signature of API requests in headers (API.md §2.2).
//!
//! Owns: the canonical request, its signature, the check. Must not touch: HTTP types; the look-up of secret ids.
//! Law: what the client says it signed (`SignedHeaders`, the service of its scope) is followed, not assumed; only
//! `content-type` and `host` must be among it.

use super::{SignatureError, hmac_sha256, host_candidates, same, sha256_hex, within_window};
use crate::model::{Secret, Timestamp};

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// One header of a request: its name in lower case, its value as sent.
pub type SignedHeader = (String, String);

/// What of a request takes part in its signature.
#[derive(Clone, Copy)]
pub struct Tc3Request<'a> {
    pub method: &'a str,
    /// The raw query as sent, without `?`; it counts for GET alone.
    pub query: &'a str,
    pub headers: &'a [SignedHeader],
    pub body: &'a [u8],
}

impl<'a> Tc3Request<'a> {
    /// The one value of a header; two of the same name are no value that can be signed.
    fn header(&self, name: &str) -> Result<Option<&'a str>, SignatureError> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        if found.next().is_some() {
            return Err(SignatureError::Malformed("a header of the signature is there twice"));
        }
        Ok(value)
    }
}

/// The `Authorization` header, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tc3Claim {
    pub secret_id: String,
    /// UTC day, `yyyy-mm-dd`
    pub date: String,
    /// What the client took for the service's name: not always `trtc` (API.md §0.3).
    pub service: String,
    pub signed_headers: Vec<String>,
    signature: String,
}

impl Tc3Claim {
    /// `TC3-HMAC-SHA256 Credential=<id>/<date>/<service>/tc3_request, SignedHeaders=…, Signature=…`
    pub fn parse(authorization: &str) -> Result<Tc3Claim, SignatureError> {
        let malformed = SignatureError::Malformed;
        let Some(rest) = authorization.trim().strip_prefix(ALGORITHM) else {
            return Err(malformed("the Authorization header does not begin with TC3-HMAC-SHA256"));
        };
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let Some((name, value)) = part.trim().split_once('=') else {
                return Err(malformed("the Authorization header holds a part without ="));
            };
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(malformed("the Authorization header holds an unknown part")),
            };
            if place.replace(value).is_some() {
                return Err(malformed("the Authorization header holds a part twice"));
            }
        }
        let (Some(credential), Some(headers), Some(signature)) = (credential, headers, signature) else {
            return Err(malformed("the Authorization header needs Credential, SignedHeaders and Signature"));
        };
        let scope: Vec<&str> = credential.split('/').collect();
        let [secret_id, date, service, "tc3_request"] = scope[..] else {
            return Err(malformed("Credential must be <SecretId>/<date>/<service>/tc3_request"));
        };
        if secret_id.is_empty() || service.is_empty() || !is_day(date) {
            return Err(malformed("Credential must be <SecretId>/<yyyy-mm-dd>/<service>/tc3_request"));
        }
        if signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed("Signature must be 64 hexadecimal digits"));
        }
        let signed_headers: Vec<String> = headers.split(';').map(str::to_ascii_lowercase).collect();
        if !["content-type", "host"].iter().all(|must| signed_headers.iter().any(|name| name == must)) {
            return Err(malformed("SignedHeaders must hold content-type and host"));
        }
        Ok(Tc3Claim {
            secret_id: secret_id.to_owned(),
            date: date.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: signature.to_ascii_lowercase(),
        })
    }
}

fn is_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, b)| if at == 4 || at == 7 { *b == b'-' } else { b.is_ascii_digit() })
}

/// The UTC day of Unix seconds; `None` outside the years that can be written.
fn day(seconds: i64) -> Option<String> {
    let date = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?.date();
    Some(format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()))
}

/// Whether header values went into the canonical request as sent, or in lower case as the documentation has it. The
/// action's name is in lower case in both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    AsSent,
    LowerCase,
}

fn canonical_request(
    request: &Tc3Request<'_>,
    signed_headers: &[String],
    host: &str,
    values: Values,
) -> Result<String, SignatureError> {
    let mut headers = String::new();
    for name in signed_headers {
        let value = match name.as_str() {
            "host" => host,
            name => request.header(name)?.ok_or(SignatureError::Malformed("a header of SignedHeaders is not there"))?,
        };
        let value = if values == Values::LowerCase || name == "x-tc-action" {
            value.trim().to_lowercase()
        } else {
            value.trim().to_owned()
        };
        headers.push_str(&format!("{name}:{value}\n"));
    }
    let (query, payload) = if request.method == "GET" { (request.query, &b""[..]) } else { ("", request.body) };
    let payload = match request.header("x-tc-content-sha256")? {
        Some(UNSIGNED) => UNSIGNED.as_bytes(),
        _ => payload,
    };
    let names = signed_headers.join(";");
    Ok(format!("{}\n/\n{query}\n{headers}\n{names}\n{}", request.method, sha256_hex(payload)))
}

fn string_to_sign(timestamp: &str, date: &str, service: &str, canonical: &str) -> String {
    format!("{ALGORITHM}\n{timestamp}\n{date}/{service}/tc3_request\n{}", sha256_hex(canonical.as_bytes()))
}

fn signature_of(secret_key: &Secret, date: &str, service: &str, text: &str) -> String {
    let first = format!("TC3{}", secret_key.expose());
    let by_day = hmac_sha256(first.as_bytes(), date.as_bytes());
    let by_service = hmac_sha256(&by_day, service.as_bytes());
    let signing = hmac_sha256(&by_service, b"tc3_request");
    hex::encode(hmac_sha256(&signing, text.as_bytes()))
}

/// Checks a request against the key that its claim names. `public_names` are further host values that a client may
/// have signed; see [`host_candidates`].
pub fn verify_tc3(
    request: &Tc3Request<'_>,
    claim: &Tc3Claim,
    secret_key: &Secret,
    public_names: &[String],
    now: Timestamp,
) -> Result<(), SignatureError> {
    let Some(timestamp) = request.header("x-tc-timestamp")? else {
        return Err(SignatureError::Malformed("the X-TC-Timestamp header is missing"));
    };
    let Some(seconds) = timestamp.parse::<i64>().ok().filter(|_| timestamp.bytes().all(|b| b.is_ascii_digit())) else {
        return Err(SignatureError::Malformed("X-TC-Timestamp must be Unix seconds"));
    };
    within_window(seconds, now.secs())?;
    if day(seconds).as_ref() != Some(&claim.date) {
        return Err(SignatureError::Malformed("the date of Credential is not the UTC day of X-TC-Timestamp"));
    }
    let Some(sent) = request.header("host")? else {
        return Err(SignatureError::Malformed("the Host header is missing"));
    };
    for host in host_candidates(sent, public_names) {
        for values in [Values::AsSent, Values::LowerCase] {
            let canonical = canonical_request(request, &claim.signed_headers, &host, values)?;
            let text = string_to_sign(timestamp, &claim.date, &claim.service, &canonical);
            let expected = signature_of(secret_key, &claim.date, &claim.service, &text);
            if same(expected.as_bytes(), claim.signature.as_bytes()) {
                return Ok(());
            }
        }
    }
    Err(SignatureError::Mismatch)
}

/// The `Authorization` header of a JSON call, as the official SDKs make it: POST, `content-type;host` signed.
///
/// The call must carry `Content-Type: application/json`, `Host: <host>` and `X-TC-Timestamp: <now in seconds>`.
pub fn sign_tc3(secret_id: &str, secret_key: &str, host: &str, body: &[u8], now: Timestamp) -> String {
    sign_tc3_for("trtc", secret_id, secret_key, host, body, now)
}

/// [`sign_tc3`] of a call of another service than ours.
pub fn sign_tc3_for(
    service: &str,
    secret_id: &str,
    secret_key: &str,
    host: &str,
    body: &[u8],
    now: Timestamp,
) -> String {
    let seconds = now.secs().max(0);
    let date = day(seconds).unwrap_or_default();
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    let signed = ["content-type".to_owned(), "host".to_owned()];
    let request = Tc3Request { method: "POST", query: "", headers: &headers, body };
    let canonical = canonical_request(&request, &signed, host, Values::AsSent)
        .expect("the one header that is looked up is in the list, once");
    let text = string_to_sign(&seconds.to_string(), &date, service, &canonical);
    let signature = signature_of(&Secret::new(secret_key), &date, service, &text);
    format!(
        "{ALGORITHM} Credential={secret_id}/{date}/{service}/tc3_request, SignedHeaders=content-type;host, Signature={signature}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn headers_of(entry: &Value) -> Vec<SignedHeader> {
        let list = entry["headers"].as_array().unwrap();
        list.iter().map(|h| (h[0].as_str().unwrap().to_lowercase(), h[1].as_str().unwrap().to_owned())).collect()
    }

    fn signed(key: &str, host: &str, body: &[u8], now: Timestamp) -> Vec<SignedHeader> {
        [
            ("content-type", "application/json".to_owned()),
            ("host", host.to_owned()),
            ("x-tc-timestamp", now.secs().to_string()),
            ("authorization", sign_tc3("id", key, host, body, now)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn header<'a>(headers: &'a [SignedHeader], name: &str) -> &'a str {
        &headers.iter().find(|(known, _)| known == name).unwrap().1
    }

    fn requests() -> Vec<Value> {
        let all = vectors::all();
        let tc3 = |entry: &&Value| entry.get("canonical_request").is_some();
        all["requests"].as_array().unwrap().iter().filter(tc3).cloned().collect()
    }

    fn check(entry: &Value, headers: &[SignedHeader], body: &[u8], late: i64) -> Result<(), SignatureError> {
        let claim = Tc3Claim::parse(header(headers, "authorization"))?;
        assert_eq!(claim.secret_id, vectors::text(entry, "secret_id"));
        assert_eq!(claim.service, vectors::text(entry, "service"));
        let stamp: i64 = header(headers, "x-tc-timestamp").parse().unwrap();
        let request = Tc3Request {
            method: vectors::text(entry, "method"),
            query: vectors::text(entry, "target").strip_prefix("/").unwrap().trim_start_matches('?'),
            headers,
            body,
        };
        let key = Secret::new(vectors::text(entry, "secret_key"));
        verify_tc3(&request, &claim, &key, &[], Timestamp::from_ms((stamp + late) * 1000))
    }

    #[test]
    fn every_recorded_request_verifies() {
        let entries = requests();
        assert_eq!(entries.len(), 8);
        for entry in entries {
            let headers = headers_of(&entry);
            let body = vectors::text(&entry, "body").as_bytes();
            for late in [0, 299, -299] {
                assert_eq!(check(&entry, &headers, body, late), Ok(()), "{}", entry["note"]);
            }
            assert_eq!(check(&entry, &headers, body, 301), Err(SignatureError::Expired(301)));
        }
    }

    #[test]
    fn the_steps_are_those_of_the_recorded_requests() {
        for entry in requests() {
            let headers = headers_of(&entry);
            let claim = Tc3Claim::parse(header(&headers, "authorization")).unwrap();
            let request = Tc3Request {
                method: vectors::text(&entry, "method"),
                query: vectors::text(&entry, "target").trim_start_matches(['/', '?']),
                headers: &headers,
                body: vectors::text(&entry, "body").as_bytes(),
            };
            let wanted = vectors::text(&entry, "canonical_request");
            let canonical = host_candidates(header(&headers, "host"), &[])
                .iter()
                .map(|host| canonical_request(&request, &claim.signed_headers, host, Values::AsSent).unwrap())
                .find(|canonical| canonical == wanted)
                .expect("one of the hosts gives the canonical request of the vector");
            let text = string_to_sign(header(&headers, "x-tc-timestamp"), &claim.date, &claim.service, &canonical);
            assert_eq!(text, vectors::text(&entry, "string_to_sign"));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_unless_the_payload_is_unsigned() {
        for entry in requests() {
            let headers = headers_of(&entry);
            if vectors::text(&entry, "method") == "GET" {
                continue;
            }
            let mut body = vectors::text(&entry, "body").as_bytes().to_vec();
            body[5] ^= 1;
            let unsigned = headers.iter().any(|(name, _)| name == "x-tc-content-sha256");
            let wanted = if unsigned { Ok(()) } else { Err(SignatureError::Mismatch) };
            assert_eq!(check(&entry, &headers, &body, 0), wanted, "{}", entry["note"]);
        }
    }

    #[test]
    fn a_public_name_may_have_been_signed() {
        let key = Secret::new("k");
        let now = Timestamp::from_ms(1_795_343_500_000);
        let mut headers = signed("k", "trtc.tencentcloudapi.com", b"{}", now);
        let claim = Tc3Claim::parse(header(&headers, "authorization")).unwrap();
        headers.iter_mut().find(|(name, _)| name == "host").unwrap().1 = "10.0.0.7:8080".into();
        let request = Tc3Request { method: "POST", query: "", headers: &headers, body: b"{}" };
        assert_eq!(verify_tc3(&request, &claim, &key, &[], now), Err(SignatureError::Mismatch));
        let names = ["trtc.tencentcloudapi.com".to_owned()];
        assert_eq!(verify_tc3(&request, &claim, &key, &names, now), Ok(()));
        assert_eq!(verify_tc3(&request, &claim, &Secret::new("other"), &names, now), Err(SignatureError::Mismatch));
    }

    #[test]
    fn the_day_must_be_that_of_the_timestamp() {
        let key = Secret::new("k");
        let now = Timestamp::from_ms(1_795_343_500_000);
        let headers = signed("k", "h", b"", now);
        let mut claim = Tc3Claim::parse(header(&headers, "authorization")).unwrap();
        assert_eq!(claim.date, "2026-11-22");
        claim.date = "2026-11-21".into();
        let request = Tc3Request { method: "POST", query: "", headers: &headers, body: b"" };
        assert!(matches!(verify_tc3(&request, &claim, &key, &[], now), Err(SignatureError::Malformed(_))));
    }

    #[test]
    fn what_is_not_a_claim_is_refused() {
        let good =
            "TC3-HMAC-SHA256 Credential=a/2026-11-22/trtc/tc3_request, SignedHeaders=content-type;host, Signature=";
        let sum = "0".repeat(64);
        assert!(Tc3Claim::parse(&format!("{good}{sum}")).is_ok());
        for bad in [
            "SKIP".to_owned(),
            String::new(),
            good.to_owned(),
            format!("{good}{}", "0".repeat(63)),
            format!("{good}{}", "g".repeat(64)),
            format!("{good}{sum}").replace("content-type;host", "host"),
            format!("{good}{sum}").replace("tc3_request", "tc4_request"),
            format!("{good}{sum}").replace("2026-11-22", "20261122"),
            format!("{good}{sum}, Signature={sum}"),
            format!("{good}{sum}").replace("Credential=a/", "Credential=/"),
            format!("Bearer {sum}"),
        ] {
            assert!(matches!(Tc3Claim::parse(&bad), Err(SignatureError::Malformed(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_authorization_panics(text in ".{0,200}") {
            let _ = Tc3Claim::parse(&text);
            let _ = Tc3Claim::parse(&format!("TC3-HMAC-SHA256 {text}"));
            let _ = Tc3Claim::parse(&format!("TC3-HMAC-SHA256 Credential={text}, SignedHeaders={text}, Signature={text}"));
        }

        #[test]
        fn no_request_panics(stamp in ".{0,24}", host in ".{0,40}", body in proptest::collection::vec(any::<u8>(), 0..64), now in any::<i64>()) {
            let headers = vec![
                ("x-tc-timestamp".to_owned(), stamp), ("host".to_owned(), host), ("content-type".to_owned(), String::new()),
            ];
            let request = Tc3Request { method: "POST", query: "", headers: &headers, body: &body };
            let claim = Tc3Claim {
                secret_id: "a".into(), date: "2026-11-22".into(), service: "s".into(),
                signed_headers: vec!["content-type".into(), "host".into()], signature: "0".repeat(64),
            };
            prop_assert!(verify_tc3(&request, &claim, &Secret::new("k"), &[], Timestamp(now)).is_err());
        }

        #[test]
        fn what_is_signed_verifies(key in ".{1,40}", host in "[a-z0-9.]{1,20}(:[0-9]{1,5})?", body in proptest::collection::vec(any::<u8>(), 0..200), secs in 0i64..4_000_000_000) {
            let now = Timestamp::from_ms(secs * 1000);
            let headers = signed(&key, &host, &body, now);
            let key = Secret::new(key);
            let claim = Tc3Claim::parse(header(&headers, "authorization")).unwrap();
            let request = Tc3Request { method: "POST", query: "", headers: &headers, body: &body };
            prop_assert_eq!(verify_tc3(&request, &claim, &key, &[], now), Ok(()));
        }
    }
}
