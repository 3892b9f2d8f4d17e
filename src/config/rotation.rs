//! Keys that a command changes: what it may say, and how they lie over the configuration in force.
//!
//! Owns: which fields are keys. Must not touch: which configuration holds, how it is tried.
//! Law: nothing but keys is changed by them: applications and sources neither come nor go, and a fault tells no value.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Fault;
use crate::model::Secret;

/// What a key, or the name that goes with it, may have.
const LONGEST: usize = 4096;

/// Fields that may be said; `[]` is each entry of a list.
const FIELDS: &[&str] = &[
    "api_keys[].secret_id",
    "api_keys[].secret_key",
    "api_keys[].apps[]",
    "apps[].sdk_app_id",
    "apps[].secret_key",
    "apps[].callback_key",
    "sources[].name",
    "sources[].username",
    "sources[].password",
    "sources[].token",
    "automatic.access_key",
    "automatic.secret_key",
    "automatic.callback_key",
    "panel.button.record.access_key",
    "panel.button.record.secret_key",
    "panel.button.record.callback_key",
    "vod.secret_id",
    "vod.secret_key",
    "fleet.username",
    "fleet.password",
];

/// Lists of which single entries are meant, by this field. Other lists are replaced whole.
const ENTRIES: &[(&str, &str)] = &[("apps", "sdk_app_id"), ("sources", "name")];

/// Fields of numbers.
const NUMBERS: &[&str] = &["apps[].sdk_app_id", "api_keys[].apps[]"];

fn id_of(list: &str) -> Option<&'static str> {
    ENTRIES.iter().find(|(name, _)| *name == list).map(|(_, id)| *id)
}

/// A partial document of keys and of what says whose they are.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(Map<String, Value>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:?})", self.fields())
    }
}

impl Keys {
    pub fn parse(args: Value) -> Result<Keys, Vec<Fault>> {
        let Value::Object(tables) = args else { return Err(vec![Fault::new("-", "must be an object of tables")]) };
        let mut faults = Vec::new();
        if tables.is_empty() {
            faults.push(Fault::new("-", "holds no key"));
        }
        check("", "", &Value::Object(tables.clone()), &mut faults);
        if faults.is_empty() { Ok(Keys(tables)) } else { Err(faults) }
    }

    /// The whole of it, as one text that holds its keys.
    pub(super) fn content(&self) -> Secret {
        Secret::new(Value::Object(self.0.clone()).to_string())
    }

    /// Entries that `tables` does not have.
    pub(super) fn strangers(&self, tables: &Map<String, Value>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (list, id) in ENTRIES {
            let given = entries(&self.0, list).enumerate();
            let there =
                |entry: &Map<String, Value>| entries(tables, list).any(|known| known.get(*id) == entry.get(*id));
            let unknown = given.filter(|(_, entry)| !there(entry));
            let fault = |i| Fault::new(format!("{list}[{i}].{id}"), "is none of the configuration in force");
            faults.extend(unknown.map(|(i, _)| fault(i)));
        }
        faults
    }

    /// An API key that has a name of one in force speaks for the same applications, unless it says for which.
    pub(super) fn inherit(&mut self, tables: &Map<String, Value>) {
        let Some(Value::Array(keys)) = self.0.get_mut("api_keys") else { return };
        for key in keys.iter_mut().filter_map(Value::as_object_mut).filter(|key| !key.contains_key("apps")) {
            let before = entries(tables, "api_keys").find(|known| known.get("secret_id") == key.get("secret_id"));
            if let Some(apps) = before.and_then(|known| known.get("apps")) {
                key.insert("apps".into(), apps.clone());
            }
        }
    }

    /// What both say; of the same key what `later` says.
    pub(super) fn and(mut self, later: &Keys) -> Keys {
        lay("", &mut self.0, &later.0, true);
        self
    }

    /// Puts the keys into `tables`. An entry that is not there any more needs none.
    pub(super) fn lay_over(&self, tables: &mut Map<String, Value>) {
        lay("", tables, &self.0, false);
    }

    /// Which keys, by paths: an entry of a list by its id, and without what only says whose a key is.
    pub fn fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, value) in &self.0 {
            match (id_of(name), value) {
                (Some(id), Value::Array(given)) => {
                    for entry in given.iter().filter_map(Value::as_object) {
                        let whose = match entry.get(id) {
                            Some(Value::String(text)) => text.clone(),
                            other => other.map(Value::to_string).unwrap_or_default(),
                        };
                        found.extend(entry.keys().filter(|key| *key != id).map(|key| format!("{name}[{whose}].{key}")));
                    }
                }
                _ => leaves(name, value, &mut found),
            }
        }
        // whatever order they came in
        found.sort_unstable();
        found
    }

    /// The same fields of a configuration as it is written: with digests in place of secrets.
    pub(super) fn of_written(&self, written: &Map<String, Value>) -> Value {
        mirror("", &Value::Object(self.0.clone()), &Value::Object(written.clone()))
    }
}

fn entries<'a>(tables: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    tables.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `pattern`: the path as [`FIELDS`] has it; `path`: as it is told.
fn check(pattern: &str, path: &str, value: &Value, faults: &mut Vec<Fault>) {
    let leads = |pattern: &str| {
        let further = |field: &&str| field.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '[']));
        FIELDS.iter().any(further)
    };
    let each = format!("{pattern}[]");
    let is_list = leads(&each) || FIELDS.contains(&each.as_str());
    match value {
        Value::Object(table) if pattern.is_empty() || leads(pattern) && !is_list => {
            for (name, value) in table {
                let pattern = join(pattern, name);
                if leads(&pattern) || FIELDS.contains(&pattern.as_str()) {
                    check(&pattern, &join(path, name), value, faults);
                } else {
                    // who wrote a key where a name belongs is not told of it in plain
                    let shown = if name.len() <= 32 { join(path, name) } else { join(path, "…") };
                    faults.push(Fault::new(shown, "is no key: this changes keys alone"));
                }
            }
        }
        Value::Array(items) if is_list => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                check(&each, &path, item, faults);
                let Value::Object(entry) = item else { continue };
                if let Some(id) = id_of(pattern).filter(|id| !entry.contains_key(*id)) {
                    faults.push(Fault::new(format!("{path}.{id}"), "must be there: it says whose keys these are"));
                } else if entry.len() < 2 {
                    faults.push(Fault::new(path, "holds no key"));
                }
            }
        }
        _ if is_list => faults.push(Fault::new(path, "must be a list")),
        _ if leads(pattern) => faults.push(Fault::new(path, "must be a table")),
        Value::Number(number) if NUMBERS.contains(&pattern) && number.is_u64() => {}
        _ if NUMBERS.contains(&pattern) => faults.push(Fault::new(path, "must be a number")),
        Value::String(text) if (1..=LONGEST).contains(&text.len()) => {}
        _ => faults.push(Fault::new(path, format!("must be a text of 1 to {LONGEST} bytes"))),
    }
}

/// `add`: entries that are not there yet are added.
fn lay(path: &str, below: &mut Map<String, Value>, over: &Map<String, Value>, add: bool) {
    for (name, value) in over {
        let path = join(path, name);
        match (value, id_of(&path)) {
            (Value::Array(given), Some(id)) => {
                let list = below.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { continue };
                for entry in given.iter().filter_map(Value::as_object) {
                    let same = |known: &&mut Map<String, Value>| known.get(id) == entry.get(id);
                    match list.iter_mut().filter_map(Value::as_object_mut).find(same) {
                        Some(known) => lay("", known, entry, add),
                        None if add => list.push(Value::Object(entry.clone())),
                        None => {}
                    }
                }
            }
            (Value::Object(given), _) => {
                let table = below.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(table) = table {
                    lay(&path, table, given, add);
                }
            }
            (value, _) => {
                // where the file says in which file the key is, that is not the place any more
                ["file", "credential"].iter().for_each(|other| drop(below.remove(&format!("{name}_{other}"))));
                below.insert(name.clone(), value.clone());
            }
        }
    }
}

fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(table) => table.iter().for_each(|(name, value)| leaves(&join(path, name), value, found)),
        _ => found.push(path.to_owned()),
    }
}

fn mirror(path: &str, keys: &Value, written: &Value) -> Value {
    match (keys, written) {
        (Value::Object(keys), Value::Object(table)) if !table.contains_key(Secret::DIGEST) => {
            let of = |(name, key): (&String, &Value)| {
                (name.clone(), mirror(&join(path, name), key, table.get(name).unwrap_or(&Value::Null)))
            };
            Value::Object(keys.iter().map(of).collect())
        }
        (Value::Array(keys), Value::Array(list)) => match id_of(path) {
            Some(id) => {
                let same = |key: &Value| list.iter().find(|known| known.get(id) == key.get(id)).unwrap_or(&Value::Null);
                Value::Array(keys.iter().map(|key| mirror("", key, same(key))).collect())
            }
            None => Value::Array(list.clone()),
        },
        _ => written.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::document::{Base, Document, keys_shown};
    use crate::model::Timestamp;
    use crate::model::twin::Version;

    const FILE: &str = r#"
        [[apps]]
        sdk_app_id = 7
        secret_key = "hush-7"
        callback_key = "hush-callback"
        [[apps]]
        sdk_app_id = 8
        [[api_keys]]
        secret_id = "clinic"
        secret_key = "hush-api"
        apps = [7]
        [[sources]]
        name = "door"
        kind = "rtsp"
        sdk_app_id = 7
        room = "ward"
        user = "door"
        url = "rtsp://10.0.0.7/live"
        [fleet]
        password_file = "/etc/password"
        username = "box"
    "#;

    fn keys(args: Value) -> Keys {
        Keys::parse(args).expect("they are keys")
    }

    fn told(args: Value) -> Vec<(String, String)> {
        let faults = Keys::parse(args).expect_err("it is wrong");
        assert!(!format!("{faults:?}").contains("hush"), "{faults:?}");
        faults.into_iter().map(|fault| (fault.field, fault.reason)).collect()
    }

    #[test]
    fn nothing_but_keys_is_taken_and_each_fault_has_its_field() {
        let fields = |args: Value| told(args).into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(fields(json!([])), ["-"]);
        assert_eq!(fields(json!({})), ["-"]);
        let much = json!({
            "limits": {"tasks": 7},
            "api_keys": [{"secret_id": "", "secret_key": 7, "colour": "hush"}, "hush", {"secret_id": "x"}],
            "apps": [{"secret_key": "hush"}, {"sdk_app_id": "hush", "callback_url": "hush"}, {"sdk_app_id": 7}],
            "fleet": {"password": null, "broker": "mqtts://hush"},
            "vod": "hush",
            "panel": {"button": {"record": {"bucket": "hush"}, "room": "hush"}},
            "hush-hush-hush-hush-hush-hush-hush-hush": 1,
        });
        let mut fields = fields(much);
        fields.sort();
        let wanted = [
            "api_keys[0].colour",
            "api_keys[0].secret_id",
            "api_keys[0].secret_key",
            "api_keys[1]",
            "api_keys[2]",
            "apps[0].sdk_app_id",
            "apps[1].callback_url",
            "apps[1].sdk_app_id",
            "apps[2]",
            "fleet.broker",
            "fleet.password",
            "limits",
            "panel.button.record.bucket",
            "panel.button.room",
            "vod",
            "…",
        ];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn they_lie_over_file_and_document_and_change_nothing_else() {
        let base = Base::parse(FILE).expect("TOML");
        let document = Document::parse(br#"{"version": 3, "config": {"limits": {"tasks": 9}}}"#).expect("it is one");
        let first = json!({
            "apps": [{"sdk_app_id": 7, "secret_key": "hush-new"}],
            "api_keys": [{"secret_id": "clinic", "secret_key": "hush-new-api"}, {"secret_id": "other", "secret_key": "hush-other"}],
            "sources": [{"name": "door", "username": "viewer", "password": "hush-door"}],
            "fleet": {"password": "hush-broker"},
        });
        let over = base.rotated(Some(&document), keys(first), Timestamp(5)).expect("they fit");
        assert_eq!(over.version, Version::Number(3));
        assert_ne!(over.content(), document.content());
        let config = base.with(Some(&over)).expect("valid");
        let expose = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        assert_eq!((config.apps.len(), config.limits.tasks), (2, 9));
        assert_eq!(expose(&config.apps[0].secret_key).as_deref(), Some("hush-new"));
        assert_eq!(expose(&config.apps[0].callback_key).as_deref(), Some("hush-callback"));
        assert_eq!(config.api_keys[0].apps.len(), 1, "it speaks for the same applications as before");
        assert_eq!((config.api_keys.len(), config.api_keys[1].apps.len()), (2, 0));
        assert_eq!(config.sources[0].user, "door");
        assert_eq!(expose(&config.sources[0].password).as_deref(), Some("hush-door"));
        assert_eq!(
            (expose(&config.fleet.password).as_deref(), &config.fleet.password_file),
            (Some("hush-broker"), &None)
        );

        // others later lie over these
        let later =
            keys(json!({"apps": [{"sdk_app_id": 8, "secret_key": "hush-8"}], "fleet": {"password": "hush-last"}}));
        let both = base.rotated(Some(&over), later, Timestamp(6)).expect("they fit");
        let config = base.with(Some(&both)).expect("valid");
        assert_eq!(expose(&config.apps[0].secret_key).as_deref(), Some("hush-new"));
        assert_eq!(expose(&config.apps[1].secret_key).as_deref(), Some("hush-8"));
        assert_eq!(expose(&config.fleet.password).as_deref(), Some("hush-last"));
        let rotated = both.rotated().expect("keys were changed");
        let fields = rotated.keys.fields();
        let wanted = [
            "api_keys",
            "apps[7].secret_key",
            "apps[8].secret_key",
            "fleet.password",
            "sources[door].password",
            "sources[door].username",
        ];
        assert_eq!(fields, wanted);
        let kept = serde_json::to_vec(&both).expect("it is written");
        assert_eq!(serde_json::from_slice::<Document>(&kept).expect("it is read"), both);

        // an application that the file has no more takes its key with it, and nothing else
        let smaller = Base::parse(&FILE.replacen("[[apps]]\n        sdk_app_id = 8", "", 1)).expect("TOML");
        let config = smaller.with(Some(&both)).expect("valid");
        assert_eq!((config.apps.len(), config.api_keys[0].secret_key.expose()), (1, "hush-new-api"));

        let shown = keys_shown(&config, &rotated.keys, &|_| "f".to_owned());
        assert!(!format!("{shown} {both:?} {rotated:?}").contains("hush"));
        assert_eq!(shown["apps"][0], json!({"sdk_app_id": 7, "secret_key": {"set": true, "fingerprint": "f"}}));
        assert_eq!(shown["fleet"], json!({"password": {"set": true, "fingerprint": "f"}}));
    }

    #[test]
    fn keys_of_nobody_are_refused_and_the_file_alone_takes_keys() {
        let base = Base::parse(FILE).expect("TOML");
        let strange = json!({
            "apps": [{"sdk_app_id": 7, "secret_key": "hush"}, {"sdk_app_id": 9, "secret_key": "hush"}],
            "sources": [{"name": "gate", "token": "hush"}],
        });
        let faults = base.rotated(None, keys(strange), Timestamp(1)).expect_err("two are not there");
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["apps[1].sdk_app_id", "sources[0].name"]);
        let alone = base.rotated(None, keys(json!({"vod": {"secret_id": "a", "secret_key": "hush"}})), Timestamp(1));
        let alone = alone.expect("they fit");
        assert_eq!(alone.version, Version::File);
        assert!(base.with(Some(&alone)).expect("valid").vod.has_keys());
        // and a document cannot say that it is the file
        let unread = Document::parse(br#"{"version": null, "config": {}}"#).expect_err("it has no version");
        assert_eq!(unread.faults[0].field, "version");
    }
}
