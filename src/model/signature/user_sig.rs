//! UserSig and PrivateMapKey: the tickets of an application's users (API.md §3).
//!
//! Owns: reading, checking and making them. Must not touch: the look-up of applications and their keys.
//! Law: a ticket is a stranger's text: its size is bounded before it is unpacked and after, and nothing of it is
//! believed before its signature was compared.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use serde_json::{Map, Value, json};

use super::{hmac_sha256, same};
use crate::model::{RoomId, SdkAppId, Secret, Timestamp, UserId};

/// Longest ticket that is looked at, and longest content that it may unpack to, in bytes.
const LONGEST: usize = 4096;

/// Decodes with or without padding: what comes through URLs has often lost it.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The privileges of a PrivateMapKey, as bits.
pub mod privilege {
    pub const ENTER: u32 = 2;
    pub const SEND_AUDIO: u32 = 4;
    pub const RECEIVE_AUDIO: u32 = 8;
    pub const SEND_VIDEO: u32 = 16;
    pub const RECEIVE_VIDEO: u32 = 32;
    pub const SEND_AUX: u32 = 64;
    pub const RECEIVE_AUX: u32 = 128;
}

/// Why a ticket was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserSigError {
    #[error("is not a ticket: {0}")]
    Unreadable(&'static str),
    #[error("was made for another user")]
    WrongUser,
    #[error("was made for another application")]
    WrongApp,
    #[error("was made for another room")]
    WrongRoom,
    #[error("does not give the privilege to enter the room")]
    NoPrivilege,
    #[error("has expired")]
    Expired,
    #[error("was not signed with the secret key of the application")]
    WrongSignature,
}

/// What a ticket says of itself. Not to be believed before [`check_user_sig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSigFacts {
    pub identifier: String,
    pub app: SdkAppId,
    /// Unix seconds at which it was made.
    pub made_at: i64,
    /// Seconds for which it is good.
    pub lasts: i64,
    /// Base64 of the user's own bytes; a PrivateMapKey has its room and privileges there.
    pub userbuf: Option<String>,
    signature: String,
}

impl UserSigFacts {
    /// Unpacks a ticket without believing it.
    pub fn read(sig: &str) -> Result<UserSigFacts, UserSigError> {
        let unreadable = UserSigError::Unreadable;
        if sig.is_empty() || sig.len() > LONGEST {
            return Err(unreadable("it must be 1 to 4096 bytes long"));
        }
        let base64: String = sig
            .chars()
            .map(|c| match c {
                '*' => '+',
                '-' => '/',
                '_' => '=',
                other => other,
            })
            .collect();
        let packed = TOLERANT.decode(base64).map_err(|_| unreadable("it is not base64"))?;
        let text = inflate(&packed).ok_or(unreadable("it does not unpack to at most 4096 bytes"))?;
        let fields: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|_| unreadable("it holds no JSON object"))?;
        let text_of = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let number_of = |name: &str| fields.get(name).and_then(Value::as_i64);
        if text_of("TLS.ver").as_deref() != Some("2.0") {
            return Err(unreadable("its version is not 2.0"));
        }
        let app = number_of("TLS.sdkappid").and_then(|n| u32::try_from(n).ok());
        let userbuf = match fields.get("TLS.userbuf") {
            None => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => return Err(unreadable("its userbuf is not text")),
        };
        let (Some(identifier), Some(app), Some(made_at), Some(lasts), Some(signature)) =
            (text_of("TLS.identifier"), app, number_of("TLS.time"), number_of("TLS.expire"), text_of("TLS.sig"))
        else {
            return Err(unreadable("identifier, sdkappid, time, expire or sig is missing"));
        };
        Ok(UserSigFacts { identifier, app: SdkAppId(app), made_at, lasts, userbuf, signature })
    }

    /// Unix seconds from which on it is no longer good.
    pub fn expires_at(&self) -> i64 {
        self.made_at.saturating_add(self.lasts)
    }

    fn text_to_sign(&self) -> String {
        text_to_sign(&self.identifier, self.app, self.made_at, self.lasts, self.userbuf.as_deref())
    }
}

fn text_to_sign(identifier: &str, app: SdkAppId, made_at: i64, lasts: i64, userbuf: Option<&str>) -> String {
    let mut text = format!("TLS.identifier:{identifier}\nTLS.sdkappid:{app}\nTLS.time:{made_at}\nTLS.expire:{lasts}\n");
    if let Some(userbuf) = userbuf {
        text.push_str(&format!("TLS.userbuf:{userbuf}\n"));
    }
    text
}

/// zlib, up to [`LONGEST`] bytes; `None` for what is longer, cut short or no zlib.
fn inflate(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(LONGEST);
    let status = Decompress::new(true).decompress_vec(packed, &mut out, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd).then_some(out)
}

fn deflate(text: &[u8]) -> Vec<u8> {
    // Deflate makes at most a few bytes more of what it cannot shrink.
    let mut out = Vec::with_capacity(text.len() + text.len() / 100 + 64);
    let status = Compress::new(Compression::default(), true).compress_vec(text, &mut out, FlushCompress::Finish);
    debug_assert_eq!(status.ok(), Some(Status::StreamEnd));
    out
}

/// Checks a UserSig against the application's secret key and what the request says of itself.
///
/// The moment at which it was made is not checked: no rule says what one from the future is.
pub fn check_user_sig(
    sig: &str,
    key: &Secret,
    app: SdkAppId,
    user: &UserId,
    now: Timestamp,
) -> Result<UserSigFacts, UserSigError> {
    let facts = UserSigFacts::read(sig)?;
    if facts.identifier != user.as_str() {
        return Err(UserSigError::WrongUser);
    }
    if facts.app != app {
        return Err(UserSigError::WrongApp);
    }
    let expected = STANDARD.encode(hmac_sha256(key.expose().as_bytes(), facts.text_to_sign().as_bytes()));
    if !same(expected.as_bytes(), facts.signature.as_bytes()) {
        return Err(UserSigError::WrongSignature);
    }
    if now.secs() >= facts.expires_at() {
        return Err(UserSigError::Expired);
    }
    Ok(facts)
}

fn gen_with(key: &str, app: SdkAppId, user: &str, now: Timestamp, lasts: i64, userbuf: Option<&[u8]>) -> String {
    let userbuf = userbuf.map(|bytes| STANDARD.encode(bytes));
    let made_at = now.secs();
    let text = text_to_sign(user, app, made_at, lasts, userbuf.as_deref());
    let mut fields = json!({
        "TLS.ver": "2.0",
        "TLS.identifier": user,
        "TLS.sdkappid": app.0,
        "TLS.expire": lasts,
        "TLS.time": made_at,
        "TLS.sig": STANDARD.encode(hmac_sha256(key.as_bytes(), text.as_bytes())),
    });
    if let Some(userbuf) = userbuf {
        fields["TLS.userbuf"] = Value::String(userbuf);
    }
    STANDARD.encode(deflate(fields.to_string().as_bytes())).replace('+', "*").replace('/', "-").replace('=', "_")
}

/// Makes a UserSig that is good for `lasts` seconds.
pub fn gen_user_sig(key: &str, app: SdkAppId, user: &str, now: Timestamp, lasts: i64) -> String {
    gen_with(key, app, user, now, lasts, None)
}

/// Which room a PrivateMapKey opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateRoom {
    Number(u32),
    Text(String),
}

/// The content of a PrivateMapKey's userbuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateMap {
    pub account: String,
    pub app: SdkAppId,
    pub room: PrivateRoom,
    /// Unix seconds.
    pub expires_at: u32,
    /// Bits of [`privilege`].
    pub privileges: u32,
}

impl PrivateMap {
    /// All big-endian: `u8 ver | u16 len | account | u32 app | u32 room | u32 expiry | u32 privileges | u32 0`, and for
    /// string rooms (ver 1) `u16 len | room`.
    pub fn read(bytes: &[u8]) -> Result<PrivateMap, UserSigError> {
        let cut = UserSigError::Unreadable("its userbuf is cut short");
        let (version, rest) = bytes.split_first().ok_or(cut.clone())?;
        let (account, rest) = counted(rest).ok_or(cut.clone())?;
        let (app, rest) = word(rest).ok_or(cut.clone())?;
        let (number, rest) = word(rest).ok_or(cut.clone())?;
        let (expires_at, rest) = word(rest).ok_or(cut.clone())?;
        let (privileges, rest) = word(rest).ok_or(cut.clone())?;
        let (_account_type, rest) = word(rest).ok_or(cut.clone())?;
        let utf8 = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| UserSigError::Unreadable("its userbuf holds no UTF-8"))
        };
        let (room, rest) = match version {
            0 => (PrivateRoom::Number(number), rest),
            1 => {
                let (room, rest) = counted(rest).ok_or(cut)?;
                (PrivateRoom::Text(utf8(room)?), rest)
            }
            _ => return Err(UserSigError::Unreadable("its userbuf has an unknown version")),
        };
        if !rest.is_empty() {
            return Err(UserSigError::Unreadable("its userbuf is too long"));
        }
        Ok(PrivateMap { account: utf8(account)?, app: SdkAppId(app), room, expires_at, privileges })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let length = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
        let (version, number, text) = match &self.room {
            PrivateRoom::Number(number) => (0, *number, None),
            PrivateRoom::Text(text) => (1, 0, Some(text)),
        };
        let mut bytes = vec![version];
        bytes.extend(length(&self.account));
        bytes.extend(self.account.as_bytes());
        for word in [self.app.0, number, self.expires_at, self.privileges, 0] {
            bytes.extend(word.to_be_bytes());
        }
        if let Some(text) = text {
            bytes.extend(length(text));
            bytes.extend(text.as_bytes());
        }
        bytes
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Checks a PrivateMapKey. Without the application's key only its form is checked.
pub fn check_private_map_key(
    ticket: &str,
    key: Option<&Secret>,
    app: SdkAppId,
    user: &UserId,
    room: &RoomId,
    now: Timestamp,
) -> Result<PrivateMap, UserSigError> {
    let facts = match key {
        Some(key) => check_user_sig(ticket, key, app, user, now)?,
        None => UserSigFacts::read(ticket)?,
    };
    let userbuf = facts.userbuf.as_deref().ok_or(UserSigError::Unreadable("it has no userbuf"))?;
    let bytes = TOLERANT.decode(userbuf).map_err(|_| UserSigError::Unreadable("its userbuf is not base64"))?;
    let map = PrivateMap::read(&bytes)?;
    if key.is_none() {
        return Ok(map);
    }
    let wanted = match room {
        RoomId::Number(number) => PrivateRoom::Number(*number),
        RoomId::Text(text) => PrivateRoom::Text(text.clone()),
    };
    if map.account != user.as_str() {
        return Err(UserSigError::WrongUser);
    }
    if map.app != app {
        return Err(UserSigError::WrongApp);
    }
    if map.room != wanted {
        return Err(UserSigError::WrongRoom);
    }
    if now.secs() >= i64::from(map.expires_at) {
        return Err(UserSigError::Expired);
    }
    if map.privileges & privilege::ENTER == 0 {
        return Err(UserSigError::NoPrivilege);
    }
    Ok(map)
}

/// Makes a PrivateMapKey for `map.account` that is good for `lasts` seconds.
pub fn gen_private_map_key(key: &str, map: &PrivateMap, now: Timestamp, lasts: i64) -> String {
    gen_with(key, map.app, &map.account, now, lasts, Some(&map.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_ms(seconds.saturating_mul(1000))
    }

    #[test]
    fn every_recorded_ticket_is_checked() {
        let all = vectors::all();
        let entries = all["usersig"].as_array().unwrap();
        assert_eq!(entries.len(), 7);
        for entry in entries {
            let key = Secret::new(vectors::text(entry, "key"));
            let sig = vectors::text(entry, "sig");
            let app = SdkAppId(u32::try_from(entry["sdkappid"].as_u64().unwrap()).unwrap());
            let user = UserId::parse(vectors::text(entry, "identifier")).unwrap();
            let made = entry["time"].as_i64().unwrap();
            let lasts = entry["expire"].as_i64().unwrap();

            let facts = check_user_sig(sig, &key, app, &user, at(made)).expect("a recorded ticket");
            assert_eq!(facts.text_to_sign(), vectors::text(entry, "string_to_sign"));
            assert_eq!(facts.signature, vectors::text(&entry["decoded"], "TLS.sig"));
            assert_eq!((facts.made_at, facts.lasts), (made, lasts));

            let check =
                |key: &Secret, app, user: &UserId, now| check_user_sig(sig, key, app, user, at(now)).map(|_| ());
            assert_eq!(check(&key, app, &user, made + lasts - 1), Ok(()));
            assert_eq!(check(&key, app, &user, made + lasts), Err(UserSigError::Expired));
            assert_eq!(check(&Secret::new("other"), app, &user, made), Err(UserSigError::WrongSignature));
            assert_eq!(check(&key, SdkAppId(app.0 + 1), &user, made), Err(UserSigError::WrongApp));
            assert_eq!(check(&key, app, &UserId::parse("x").unwrap(), made), Err(UserSigError::WrongUser));
        }
    }

    #[test]
    fn recorded_private_map_keys_are_read_and_checked() {
        let all = vectors::all();
        let with_room = |entry: &&Value| entry.get("userbuf_parsed").is_some();
        let entries: Vec<&Value> = all["usersig"].as_array().unwrap().iter().filter(with_room).collect();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            let key = Secret::new(vectors::text(entry, "key"));
            let sig = vectors::text(entry, "sig");
            let parsed = &entry["userbuf_parsed"];
            let app = SdkAppId(1_400_000_000);
            let user = UserId::parse("xiaojun").unwrap();
            let room = match entry["room"].as_str() {
                Some(text) => RoomId::text(text).unwrap(),
                None => RoomId::Number(10000),
            };
            let now = at(entry["time"].as_i64().unwrap());
            let map = check_private_map_key(sig, Some(&key), app, &user, &room, now).unwrap();
            assert_eq!(map.account, vectors::text(parsed, "account"));
            assert_eq!(u64::from(map.expires_at), parsed["expire_abs"].as_u64().unwrap());
            assert_eq!(u64::from(map.privileges), parsed["privilege"].as_u64().unwrap());
            assert_eq!(PrivateMap::read(&map.to_bytes()), Ok(map.clone()));

            let check = |key, room: &RoomId, now| check_private_map_key(sig, key, app, &user, room, now).map(|_| ());
            assert_eq!(check(None, &room, now), Ok(()));
            assert_eq!(check(Some(&key), &RoomId::Number(1), now), Err(UserSigError::WrongRoom));
            assert_eq!(check(Some(&key), &room, at(i64::from(map.expires_at))), Err(UserSigError::Expired));
        }
    }

    #[test]
    fn a_ticket_without_the_right_to_enter_is_refused() {
        let key = Secret::new("k");
        let app = SdkAppId(1400000001);
        let user = UserId::parse("u").unwrap();
        let mut map = PrivateMap {
            account: "u".into(),
            app,
            room: PrivateRoom::Text("r".into()),
            expires_at: 2000,
            privileges: privilege::SEND_AUDIO,
        };
        let room = RoomId::text("r").unwrap();
        let check = |map: &PrivateMap| {
            let ticket = gen_private_map_key(key.expose(), map, at(1000), 1000);
            check_private_map_key(&ticket, Some(&key), app, &user, &room, at(1500)).map(|_| ())
        };
        assert_eq!(check(&map), Err(UserSigError::NoPrivilege));
        map.privileges = 42;
        assert_eq!(check(&map), Ok(()));
        let plain = gen_user_sig(key.expose(), app, user.as_str(), at(1000), 1000);
        assert!(check_private_map_key(&plain, None, app, &user, &room, at(1500)).is_err());
    }

    #[test]
    fn a_bomb_does_not_unpack() {
        let bomb = STANDARD.encode(deflate(&vec![b' '; 2_000_000]));
        assert!(bomb.len() < LONGEST);
        let refused = UserSigFacts::read(&bomb.replace('+', "*").replace('/', "-").replace('=', "_"));
        assert_eq!(refused, Err(UserSigError::Unreadable("it does not unpack to at most 4096 bytes")));
    }

    #[test]
    fn padding_may_be_lost() {
        let key = Secret::new("k");
        let (app, user) = (SdkAppId(1), UserId::parse("someone").unwrap());
        for lasts in 60..63 {
            let sig = gen_user_sig(key.expose(), app, user.as_str(), at(0), lasts);
            assert!(check_user_sig(sig.trim_end_matches('_'), &key, app, &user, at(1)).is_ok());
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_good(user in "[a-zA-Z0-9_\u{4e00}-\u{4eff} -]{1,20}", key in ".{0,64}", app in 1u32.., made in 0i64..4_000_000_000, lasts in 1i64..100_000_000) {
            let user = UserId::parse(&user).unwrap();
            let key = Secret::new(key);
            let sig = gen_user_sig(key.expose(), SdkAppId(app), user.as_str(), at(made), lasts);
            prop_assert!(check_user_sig(&sig, &key, SdkAppId(app), &user, at(made)).is_ok());
            prop_assert_eq!(check_user_sig(&sig, &key, SdkAppId(app), &user, at(made + lasts)), Err(UserSigError::Expired));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = UserSigFacts::read(&text);
            let _ = UserSigFacts::read(&STANDARD.encode(&bytes));
            let _ = UserSigFacts::read(&STANDARD.encode(deflate(&bytes)));
            let _ = UserSigFacts::read(&STANDARD.encode(deflate(text.as_bytes())));
            let _ = PrivateMap::read(&bytes);
        }
    }
}
