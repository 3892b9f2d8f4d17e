//! The older signatures, HmacSHA1 and HmacSHA256, in the parameters of a form or a query (API.md §2.3).
//!
//! Owns: the text that is signed, the check. Must not touch: HTTP types; the look-up of secret ids.
//! Law: the text is made of all parameters but `Signature`, sorted by key in byte order, values as decoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{SignatureError, hmac_sha1, hmac_sha256, host_candidates, same, within_window};
use crate::model::{Secret, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V1Method {
    HmacSha1,
    HmacSha256,
}

impl V1Method {
    /// A missing `SignatureMethod` means HmacSHA1.
    pub fn parse(text: Option<&str>) -> Result<V1Method, SignatureError> {
        match text {
            None | Some("HmacSHA1") => Ok(V1Method::HmacSha1),
            Some("HmacSHA256") => Ok(V1Method::HmacSha256),
            Some(_) => Err(SignatureError::Malformed("SignatureMethod must be HmacSHA1 or HmacSHA256")),
        }
    }
}

/// What of a request takes part in its signature.
#[derive(Clone, Copy)]
pub struct V1Request<'a> {
    pub method: &'a str,
    /// The Host header as sent.
    pub host: &'a str,
    /// Decoded parameters of the form or the query, `Signature` among them.
    pub params: &'a [(String, String)],
}

impl<'a> V1Request<'a> {
    /// The one value of a parameter; a parameter that is there twice has none that could be trusted.
    fn param(&self, name: &str) -> Result<Option<&'a str>, SignatureError> {
        let mut found = self.params.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        if found.next().is_some() {
            return Err(SignatureError::Malformed("a parameter of the signature is there twice"));
        }
        Ok(value)
    }
}

fn text_to_sign(method: &str, host: &str, params: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = params.iter().filter(|(key, _)| key != "Signature").collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let pairs: Vec<String> = sorted.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{method}{host}/?{}", pairs.join("&"))
}

/// The signature over `params` for one host.
pub fn sign_v1(how: V1Method, secret_key: &Secret, method: &str, host: &str, params: &[(String, String)]) -> String {
    let text = text_to_sign(method, host, params);
    let key = secret_key.expose().as_bytes();
    match how {
        V1Method::HmacSha1 => STANDARD.encode(hmac_sha1(key, text.as_bytes())),
        V1Method::HmacSha256 => STANDARD.encode(hmac_sha256(key, text.as_bytes())),
    }
}

/// Checks a request against the key that its `SecretId` names.
pub fn verify_v1(
    request: &V1Request<'_>,
    secret_key: &Secret,
    public_names: &[String],
    now: Timestamp,
) -> Result<(), SignatureError> {
    let Some(signature) = request.param("Signature")? else {
        return Err(SignatureError::Malformed("the parameter Signature is missing"));
    };
    let Some(timestamp) = request.param("Timestamp")? else {
        return Err(SignatureError::Malformed("the parameter Timestamp is missing"));
    };
    let Some(seconds) = timestamp.parse::<i64>().ok().filter(|_| timestamp.bytes().all(|b| b.is_ascii_digit())) else {
        return Err(SignatureError::Malformed("Timestamp must be Unix seconds"));
    };
    let how = V1Method::parse(request.param("SignatureMethod")?)?;
    within_window(seconds, now.secs())?;
    for host in host_candidates(request.host, public_names) {
        let expected = sign_v1(how, secret_key, request.method, &host, request.params);
        if same(expected.as_bytes(), signature.as_bytes()) {
            return Ok(());
        }
    }
    Err(SignatureError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn requests() -> Vec<Value> {
        let all = vectors::all();
        let v1 = |entry: &&Value| entry.get("alg").is_some();
        all["requests"].as_array().unwrap().iter().filter(v1).cloned().collect()
    }

    fn params_of(entry: &Value) -> Vec<(String, String)> {
        url::form_urlencoded::parse(vectors::text(entry, "body").as_bytes()).into_owned().collect()
    }

    #[test]
    fn every_recorded_request_verifies() {
        let entries = requests();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            let params = params_of(&entry);
            let host = "127.0.0.1:18080";
            assert_eq!(text_to_sign("POST", host, &params), vectors::text(&entry, "string_to_sign"));
            let request = V1Request { method: "POST", host, params: &params };
            let stamp: i64 = request.param("Timestamp").unwrap().unwrap().parse().unwrap();
            let key = Secret::new(vectors::text(&entry, "secret_key"));
            let at = |late: i64| Timestamp::from_ms((stamp + late) * 1000);
            assert_eq!(verify_v1(&request, &key, &[], at(0)), Ok(()), "{}", entry["note"]);
            assert_eq!(verify_v1(&request, &key, &[], at(301)), Err(SignatureError::Expired(301)));
            assert_eq!(verify_v1(&request, &Secret::new("x"), &[], at(0)), Err(SignatureError::Mismatch));

            let mut changed = params.clone();
            changed.iter_mut().find(|(key, _)| key == "TaskId").unwrap().1 = "u".into();
            let request = V1Request { method: "POST", host, params: &changed };
            assert_eq!(verify_v1(&request, &key, &[], at(0)), Err(SignatureError::Mismatch));
        }
    }

    #[test]
    fn a_second_signature_does_not_slip_in() {
        let params = [("Signature", "a"), ("Signature", "b"), ("Timestamp", "1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request = V1Request { method: "GET", host: "h", params: &params };
        let outcome = verify_v1(&request, &Secret::new("k"), &[], Timestamp::from_ms(1000));
        assert!(matches!(outcome, Err(SignatureError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(
            pairs in proptest::collection::btree_map("[A-Z][A-Za-z.0-9]{0,12}", ".{0,20}", 0..8),
            key in ".{0,20}", now in 0i64..4_000_000_000, sha256 in any::<bool>(),
        ) {
            let mut params: Vec<(String, String)> = pairs.into_iter()
                .filter(|(key, _)| !["Signature", "SignatureMethod", "Timestamp"].contains(&key.as_str())).collect();
            params.push(("Timestamp".into(), now.to_string()));
            let how = if sha256 {
                params.push(("SignatureMethod".into(), "HmacSHA256".into()));
                V1Method::HmacSha256
            } else {
                V1Method::HmacSha1
            };
            let key = Secret::new(key);
            let signature = sign_v1(how, &key, "GET", "box:80", &params);
            params.push(("Signature".into(), signature));
            let request = V1Request { method: "GET", host: "box:80", params: &params };
            prop_assert_eq!(verify_v1(&request, &key, &[], Timestamp::from_ms(now * 1000)), Ok(()));
        }

        #[test]
        fn no_parameters_panic(pairs in proptest::collection::vec(("(Signature|Timestamp|SignatureMethod|.{0,5})", ".{0,20}"), 0..8)) {
            let request = V1Request { method: "GET", host: "h", params: &pairs };
            let _ = verify_v1(&request, &Secret::new("k"), &[], Timestamp(0));
        }
    }
}
