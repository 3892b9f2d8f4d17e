//! Calls of strangers: JSON, and the flat parameters of the older signature.
#![no_main]

use holdfast::api::error::Code;
use holdfast::api::{flat, wire};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const ACTIONS: [&str; 10] = [
    "CreateCloudRecording",
    "DescribeCloudRecording",
    "ModifyCloudRecording",
    "DeleteCloudRecording",
    "RemoveUser",
    "RemoveUserByStrRoomId",
    "DismissRoom",
    "DismissRoomByStrRoomId",
    "PauseCloudRecording",
    "ResumeCloudRecording",
];

// The first byte says which action; the rest is JSON, or lines of `name=value`.
fuzz_target!(|call: (u8, &str)| {
    let (action, text) = call;
    let action = wire::Action::parse(ACTIONS[usize::from(action) % ACTIONS.len()]).expect("it is an action");
    if let Ok(Value::Object(params)) = serde_json::from_str(text) {
        let _ = wire::read(action, &params);
        return;
    }
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let params: Vec<(String, String)> = text.lines().filter_map(pair).collect();
    if let Ok(params) = flat::restore(action.fields(), &params, Code::BodyParamsError) {
        let _ = wire::read(action, &params);
    }
});
