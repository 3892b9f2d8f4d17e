//! Tickets of strangers: read without being believed, and never believed.
#![no_main]

use holdfast::model::signature::user_sig::{PrivateMap, UserSigFacts, check_private_map_key, check_user_sig};
use holdfast::model::{RoomId, SdkAppId, Secret, Timestamp, UserId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = PrivateMap::read(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = UserSigFacts::read(text);
    let (key, user) = (Secret::new("a key that nobody has"), UserId::parse("ann").expect("an id"));
    let (app, room, now) = (SdkAppId(1_400_123_456), RoomId::Number(5), Timestamp(1_700_000_000_000_000));
    assert!(check_user_sig(text, &key, app, &user, now).is_err());
    assert!(check_private_map_key(text, Some(&key), app, &user, &room, now).is_err());
    let _ = check_private_map_key(text, None, app, &user, &room, now);
});
