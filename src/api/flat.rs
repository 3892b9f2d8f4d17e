//! Flattened parameters of forms and queries, restored to the JSON that they were made of.
//!
//! Owns: `A.B.0=x` → `{"A": {"B": ["x"]}}`, and types by the schema. Must not touch: what values mean.
//! Law: the schema leads; a name that is in no table is refused, and so is a list with holes. What cannot be the type
//! that the schema wants stays text, so that the check says so with the field's name.
//! Sources: API.md §0.8, §2.3: Python writes `True`, Node `true`; empty arrays and objects have vanished.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::error::{ApiError, Code};
use super::schema::{Field, Shape};

/// Parameters that belong to the request, not to the action (API.md §2.3).
pub const OF_THE_REQUEST: [&str; 12] = [
    "Action",
    "Version",
    "Timestamp",
    "Nonce",
    "SecretId",
    "SignatureMethod",
    "RequestClient",
    "Region",
    "Token",
    "Language",
    "Signature",
    "DryRun",
];

/// What stands under one name: a value of its own, or parts.
#[derive(Default)]
struct Node<'a> {
    value: Option<&'a str>,
    parts: BTreeMap<&'a str, Node<'a>>,
}

/// Restores an action's parameters. `fault` is the code for a request whose form is broken: that of the body, or of
/// the URL.
pub fn restore(fields: &[Field], params: &[(String, String)], fault: Code) -> Result<Map<String, Value>, ApiError> {
    let mut root = Node::default();
    for (name, value) in params {
        if OF_THE_REQUEST.contains(&name.as_str()) {
            continue;
        }
        let mut node = &mut root;
        for (depth, part) in name.split('.').enumerate() {
            // The deepest structure of the API has seven levels.
            if depth > 8 {
                return Err(unknown(name));
            }
            node = node.parts.entry(part).or_default();
        }
        if node.value.replace(value).is_some() {
            return Err(ApiError::new(fault, format!("{} is given twice", shown(name))));
        }
    }
    object(fields, &root, "", fault)
}

fn shown(name: &str) -> String {
    name.chars().take(64).filter(|c| c.is_ascii_graphic()).collect()
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(Code::UnknownParameter, format!("{} is no parameter", shown(name)))
}

fn object(fields: &[Field], node: &Node<'_>, path: &str, fault: Code) -> Result<Map<String, Value>, ApiError> {
    let mut map = Map::new();
    for (name, part) in &node.parts {
        let here = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        let Some(field) = fields.iter().find(|field| field.name == *name) else {
            return Err(unknown(&here));
        };
        map.insert((*name).to_owned(), value(&field.shape, part, &here, fault)?);
    }
    Ok(map)
}

fn value(shape: &Shape, node: &Node<'_>, here: &str, fault: Code) -> Result<Value, ApiError> {
    match shape {
        Shape::Object(fields) if node.value.is_none() => Ok(Value::Object(object(fields, node, here, fault)?)),
        Shape::List(of, _) if node.value.is_none() => list(of, node, here, fault),
        // A text where a structure belongs: the check names the field.
        Shape::Object(_) | Shape::List(..) => Ok(Value::String(String::new())),
        Shape::Int(..) | Shape::Id(..) | Shape::Bool | Shape::Text(_) => {
            if let Some((part, _)) = node.parts.first_key_value() {
                return Err(unknown(&format!("{here}.{part}")));
            }
            Ok(leaf(shape, node.value.unwrap_or_default()))
        }
    }
}

fn list(of: &Shape, node: &Node<'_>, here: &str, fault: Code) -> Result<Value, ApiError> {
    let mut entries = BTreeMap::new();
    for (name, part) in &node.parts {
        let plain =
            name.bytes().all(|b| b.is_ascii_digit()) && name.len() <= 4 && (*name == "0" || !name.starts_with('0'));
        let Some(at) = name.parse::<usize>().ok().filter(|_| plain) else {
            return Err(unknown(&format!("{here}.{name}")));
        };
        entries.insert(at, value(of, part, &format!("{here}.{name}"), fault)?);
    }
    // Clients count from 0.
    if entries.keys().copied().ne(0..entries.len()) {
        return Err(ApiError::new(fault, format!("{here} has a hole: its entries count from 0")));
    }
    Ok(Value::Array(entries.into_values().collect()))
}

fn leaf(shape: &Shape, text: &str) -> Value {
    match shape {
        Shape::Int(..) | Shape::Id(..) => match text.parse::<i64>() {
            Ok(number) => Value::Number(number.into()),
            // Too long for an integer is out of range, not text.
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                Value::Number(Number::from(u64::MAX))
            }
            Err(_) => Value::String(text.to_owned()),
        },
        Shape::Bool => match text {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            _ => Value::String(text.to_owned()),
        },
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pairs(query: &str) -> Vec<(String, String)> {
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    fn restored(fields: &[Field], query: &str) -> Result<Value, String> {
        restore(fields, &pairs(query), Code::UrlParamsError)
            .map(Value::Object)
            .map_err(|error| error.code.text().into_owned())
    }

    fn whole(fields: &[Field], query: &str) -> Value {
        restored(fields, query).expect("every name and value of it fits")
    }

    #[test]
    fn what_the_sdks_flatten_comes_back() {
        let query = "SdkAppId=1400000001&TaskId=t&MixLayoutParams.MixLayoutMode=1&MixLayoutParams.PureAudioDisableLayout=True\
             &MixLayoutParams.MixLayoutList.0.Top=5&MixLayoutParams.MixLayoutList.1.Top=6\
             &SubscribeStreamUserIds.UnSubscribeAudioUserIds.0=carol&Action=ModifyCloudRecording&Nonce=5&Signature=x%3D";
        assert_eq!(
            whole(schema::MODIFY, query),
            json!({
                "SdkAppId": 1400000001, "TaskId": "t",
                "MixLayoutParams": {"MixLayoutMode": 1, "PureAudioDisableLayout": true, "MixLayoutList": [{"Top": 5}, {"Top": 6}]},
                "SubscribeStreamUserIds": {"UnSubscribeAudioUserIds": ["carol"]},
            })
        );
    }

    #[test]
    fn more_than_ten_entries_keep_their_order() {
        let query: Vec<String> =
            (0..12).map(|at| format!("SubscribeStreamUserIds.SubscribeAudioUserIds.{at}=u{at}")).collect();
        let wanted: Vec<String> = (0..12).map(|at| format!("u{at}")).collect();
        let value = whole(schema::MODIFY, &query.join("&"));
        assert_eq!(value["SubscribeStreamUserIds"]["SubscribeAudioUserIds"], json!(wanted));
    }

    #[test]
    fn a_numeric_text_stays_text_where_text_belongs() {
        let value = whole(schema::REMOVE_USER_BY_STR_ROOM_ID, "RoomId=123&SdkAppId=x");
        assert_eq!(value, json!({"RoomId": "123", "SdkAppId": "x"}));
        assert_eq!(whole(schema::REMOVE_USER, "RoomId=123"), json!({"RoomId": 123}));
    }

    #[test]
    fn broken_forms_are_refused() {
        for (query, code) in [
            ("SdkAppId=1&SdkAppId=2", "InvalidParameter.UrlParamsError"),
            ("SubscribeStreamUserIds.SubscribeAudioUserIds.1=a", "InvalidParameter.UrlParamsError"),
            ("SubscribeStreamUserIds.SubscribeAudioUserIds.x=a", "UnknownParameter"),
            ("SubscribeStreamUserIds.SubscribeAudioUserIds.00=a", "UnknownParameter"),
            ("SdkAppId.0=1", "UnknownParameter"),
            ("Nothing=1", "UnknownParameter"),
            ("a.b.c.d.e.f.g.h.i.j.k=1", "UnknownParameter"),
        ] {
            assert_eq!(restored(schema::MODIFY, query).unwrap_err(), code, "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_parameters_panic(pairs in proptest::collection::vec(("[A-Za-z0-9.]{0,40}|SubscribeStreamUserIds.SubscribeAudioUserIds.[0-9]{1,6}", ".{0,10}"), 0..10), which in 0usize..8) {
            let _ = restore(schema::ALL[which], &pairs, Code::BodyParamsError);
        }
    }
}
