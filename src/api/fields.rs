//! A structure of a request, read by the names of its fields.
//!
//! Owns: how a checked value is taken out. Must not touch: what is allowed (`schema`), what it means (`wire`, `mix`).
//! Law: absent, `null` and an empty text are one; reading never fails, since the schema has been there before.

use serde_json::{Map, Value};

use super::error::ApiError;
use crate::model::{RoomId, SdkAppId, Secret, TaskId};

/// A checked structure; one that was not given has no fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    pub fn of(params: &'a Map<String, Value>) -> Fields<'a> {
        Fields(Some(params))
    }
    pub fn of_value(value: &'a Value) -> Fields<'a> {
        Fields(value.as_object())
    }
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.value(name).and_then(Value::as_i64).unwrap_or(default)
    }
    /// A field that the schema keeps from 0 upwards.
    pub fn unsigned(&self, name: &str, default: u32) -> u32 {
        u32::try_from(self.int(name, default.into())).unwrap_or(default)
    }
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).and_then(Value::as_bool).unwrap_or_default()
    }
    pub fn text(&self, name: &str) -> &'a str {
        self.value(name).and_then(Value::as_str).unwrap_or_default()
    }
    /// `None` where nothing stands in it.
    pub fn filled(&self, name: &str) -> Option<&'a str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }
    pub fn secret(&self, name: &str) -> Secret {
        Secret::new(self.text(name))
    }
    pub fn list(&self, name: &str) -> &'a [Value] {
        self.value(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }
    pub fn object(&self, name: &str) -> Fields<'a> {
        Fields(self.value(name).and_then(Value::as_object))
    }
    pub fn app(&self) -> SdkAppId {
        SdkAppId(self.unsigned("SdkAppId", 0))
    }
    pub fn task(&self) -> Result<TaskId, ApiError> {
        TaskId::parse(self.text("TaskId")).map_err(ApiError::from)
    }
    pub fn room(&self, numeric: bool) -> Result<RoomId, ApiError> {
        let room = match self.value("RoomId") {
            Some(Value::Number(number)) => RoomId::number(&number.to_string()),
            _ if numeric => RoomId::number(self.text("RoomId")),
            _ => RoomId::text(self.text("RoomId")),
        };
        room.map_err(ApiError::from)
    }
}
