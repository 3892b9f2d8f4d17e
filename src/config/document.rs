//! Configuration that comes as a document: it lies over that of the file, which lies over the defaults.
//!
//! Owns: how the layers are put together, what a document may not say, what may be shown of the result. Must not touch:
//! where documents come from and which of them holds.
//! Law: a document is taken whole or refused whole, with a reason for each field; no reason holds a value that could be a
//! secret, and nothing that is shown does.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::written;
use super::rotation::Keys;
use super::{Config, Fault, Faults};
use crate::model::twin::Version;
use crate::model::{Secret, Timestamp};

/// Whoever has this box at his own address needs more than a document.
const MOST_BYTES: usize = 256 * 1024;
const LONGEST_VERSION: usize = 128;

/// Who the box is, where its memory is, and how it is reached by those who stand before it.
const OF_THE_FILE: &[&str] = &[
    "server.state_dir",
    "server.http",
    "server.https",
    "server.certificate",
    "server.private_key",
    "fleet.enabled",
    "fleet.box_id",
    // who may write documents may not choose what is run, or what inside the clinic is reached
    "fleet.reboot_command",
    "fleet.bundle_allow",
];

/// Fields that hold secrets, by their last name: those that are not set are shown as such.
const SECRETS: &[&str] = &["secret_key", "callback_key", "access_key", "password", "token"];

/// What somebody wants of the box.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub version: Version,
    config: Map<String, Value>,
    /// Keys that a command changed since it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated: Option<Rotated>,
}

/// Keys that lie over a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotated {
    pub keys: Keys,
    /// When the last of them came.
    pub at: Timestamp,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a document is none, and the version that it names if it names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub version: Option<Version>,
    pub faults: Vec<Fault>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Document, Unread> {
        let none = |reason: String| Unread { version: None, faults: vec![Fault::whole(reason)] };
        if bytes.len() > MOST_BYTES {
            return Err(none(format!("it has more than {MOST_BYTES} bytes")));
        }
        // the error's own text may quote what stands there
        let parsed = serde_json::from_slice::<Value>(bytes)
            .map_err(|e| none(format!("it is not JSON (line {}, column {})", e.line(), e.column())))?;
        let Value::Object(mut parts) = parsed else { return Err(none("it must be a JSON object".into())) };
        let mut faults = Vec::new();
        let version = parts.remove("version").and_then(|version| serde_json::from_value::<Version>(version).ok());
        let version = version.filter(|version| match version {
            Version::Number(_) => true,
            Version::Text(text) => text.len() <= LONGEST_VERSION,
            Version::File => false,
        });
        if version.is_none() {
            let reason = format!("must be there, a whole number or a text of at most {LONGEST_VERSION} bytes");
            faults.push(Fault::new("version", reason));
        }
        let config = match parts.remove("config") {
            Some(Value::Object(tables)) => tables,
            _ => {
                faults.push(Fault::new("config", "must be there, an object of tables"));
                Map::new()
            }
        };
        faults.extend(parts.keys().map(|name| Fault::new(name, "is neither version nor config")));
        for path in OF_THE_FILE {
            let mut place = Some(&config);
            let (tables, field) = path.rsplit_once('.').unwrap_or(("", path));
            for table in tables.split('.').filter(|table| !table.is_empty()) {
                place = place.and_then(|place| place.get(table)).and_then(Value::as_object);
            }
            if place.is_some_and(|place| place.contains_key(field)) {
                faults.push(Fault::new(*path, "is set by the box's own file alone"));
            }
        }
        match version {
            Some(version) if faults.is_empty() => Ok(Document { version, config, rotated: None }),
            version => Err(Unread { version, faults }),
        }
    }

    /// What it says, as one text: two that are the same say the same. It holds its secrets.
    pub fn content(&self) -> Secret {
        let config = Value::Object(self.config.clone()).to_string();
        Secret::new(match &self.rotated {
            None => config,
            Some(rotated) => format!("{config}\n{}", rotated.keys.content().expose()),
        })
    }

    /// `None`: its keys are its own.
    pub fn rotated(&self) -> Option<&Rotated> {
        self.rotated.as_ref()
    }
}

/// The configuration of the file, without the defaults.
#[derive(Clone, Default)]
pub struct Base(Map<String, Value>);

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Base(…)")
    }
}

/// `null` takes away what the file says, so that the default holds; lists are replaced whole.
fn lay_over(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (name, value) in over {
        match (base.get_mut(name), value) {
            (_, Value::Null) => drop(base.remove(name)),
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            (_, Value::Object(above)) => {
                let mut table = Map::new();
                lay_over(&mut table, above);
                base.insert(name.clone(), Value::Object(table));
            }
            (_, value) => drop(base.insert(name.clone(), value.clone())),
        }
    }
}

impl Base {
    /// Of a file that [`Config::parse`] takes.
    pub fn parse(text: &str) -> Result<Base, Faults> {
        let table = toml::from_str::<toml::Table>(text).map_err(|e| Faults(vec![e.message().to_owned()]))?;
        match serde_json::to_value(table) {
            Ok(Value::Object(tables)) => Ok(Base(tables)),
            _ => Err(Faults(vec!["the file is no table".into()])),
        }
    }

    fn take_table(&mut self, other: &Base, name: &str) {
        match other.0.get(name) {
            Some(table) => drop(self.0.insert(name.to_owned(), table.clone())),
            None => drop(self.0.remove(name)),
        }
    }

    /// The file with a document over it, unchecked.
    fn tables(&self, document: Option<&Document>) -> Map<String, Value> {
        let mut tables = self.0.clone();
        if let Some(document) = document {
            lay_over(&mut tables, &document.config);
            if let Some(rotated) = &document.rotated {
                rotated.keys.lay_over(&mut tables);
            }
        }
        tables
    }

    /// The document with these keys over it and over those that lie there already; `None`: over the file alone.
    pub fn rotated(&self, document: Option<&Document>, mut keys: Keys, at: Timestamp) -> Result<Document, Vec<Fault>> {
        let tables = self.tables(document);
        let faults = keys.strangers(&tables);
        if !faults.is_empty() {
            return Err(faults);
        }
        keys.inherit(&tables);
        let file = || Document { version: Version::File, config: Map::new(), rotated: None };
        let mut document = document.cloned().unwrap_or_else(file);
        let before = document.rotated.take().map(|rotated| rotated.keys).unwrap_or_default();
        document.rotated = Some(Rotated { keys: before.and(&keys), at });
        Ok(document)
    }

    /// The file with a document over it, checked as a whole.
    pub fn with(&self, document: Option<&Document>) -> Result<Config, Vec<Fault>> {
        let tables = self.tables(document);
        // each table apart, so that one that cannot be read does not hide the others
        let mut faults = Vec::new();
        for (name, table) in &tables {
            let alone = Map::from_iter([(name.clone(), table.clone())]);
            faults.extend(read(alone).err());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let config = read(tables).map_err(|fault| vec![fault])?;
        let faults: Vec<Fault> = config.faults().iter().map(|told| of_text(told)).collect();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

/// The file, and the document that lies over it.
#[derive(Debug, Default)]
pub struct Layers {
    base: Base,
    document: Option<Document>,
}

impl Layers {
    pub fn new(base: Base) -> Layers {
        Layers { base, document: None }
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    pub fn set_document(&mut self, document: Option<Document>) {
        self.document = document;
    }

    /// Takes one table from a file that was changed; what holds now, the document over it. With faults nothing is taken.
    pub fn take_table(&mut self, file: &Base, name: &str) -> Result<Config, Vec<Fault>> {
        let mut base = self.base.clone();
        base.take_table(file, name);
        let config = base.with(self.document.as_ref())?;
        self.base = base;
        Ok(config)
    }
}

fn read(tables: Map<String, Value>) -> Result<Config, Fault> {
    part(Value::Object(tables))
}

/// A part of a configuration that came by itself. A fault tells its field and no value.
pub fn part<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path.is_empty() || path == "." { "-".to_owned() } else { path };
        let reason = without_value(&error.inner().to_string());
        let secret = path.rsplit(['.', '[']).next().is_some_and(|name| SECRETS.contains(&name));
        Fault::new(path, if secret { "must be a text".to_owned() } else { reason })
    })
}

/// Serde's own errors quote what stands there.
fn without_value(told: &str) -> String {
    let quotes = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    match told.split_once("expected ") {
        Some((before, expected)) if quotes.iter().any(|quote| before.starts_with(quote)) => {
            format!("is not what is expected: {expected}")
        }
        _ => told.to_owned(),
    }
}

/// Faults of a whole configuration begin with the path of their field.
fn of_text(told: &str) -> Fault {
    let field = told.split(' ').next().unwrap_or_default().trim_end_matches([':', ',']);
    Fault::new(field, told)
}

/// A configuration as it may be shown: in place of a secret, whether it is set and its fingerprint. `fingerprint` must
/// tell nothing to whoever lacks the box's key.
pub fn shown(config: &Config, fingerprint: &dyn Fn(&str) -> String) -> Value {
    let mut tables = Value::Object(written(config));
    hide("", &mut tables, fingerprint);
    tables
}

/// Likewise these keys alone, and whose they are.
pub fn keys_shown(config: &Config, keys: &Keys, fingerprint: &dyn Fn(&str) -> String) -> Value {
    let mut shown = keys.of_written(&written(config));
    hide("", &mut shown, fingerprint);
    shown
}

fn hide(name: &str, value: &mut Value, fingerprint: &dyn Fn(&str) -> String) {
    match value {
        Value::Object(table) => match table.get(Secret::DIGEST) {
            Some(Value::String(digest)) => {
                *value = serde_json::json!({"set": true, "fingerprint": fingerprint(digest)});
            }
            Some(_) => *value = serde_json::json!({"set": false}),
            None => table.iter_mut().for_each(|(name, value)| hide(name, value, fingerprint)),
        },
        Value::Null if SECRETS.contains(&name) => *value = serde_json::json!({"set": false}),
        Value::Array(items) => items.iter_mut().for_each(|item| hide("", item, fingerprint)),
        Value::String(text) => {
            if let Some(hidden) = hidden_in_address(text, fingerprint) {
                *text = hidden;
            }
        }
        _ => {}
    }
}

/// Addresses may hold user, password, or a token in the query; `None`: this text holds none.
fn hidden_in_address(text: &str, fingerprint: &dyn Fn(&str) -> String) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let (host, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
    let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
    if user.is_none() && query.is_none() {
        return None;
    }
    let user = user.map(|user| format!("(set:{})@", fingerprint(user))).unwrap_or_default();
    let query = query.map(|query| format!("?(set:{})", fingerprint(query))).unwrap_or_default();
    Some(format!("{scheme}://{user}{host}{path}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = r#"
        [[apps]]
        sdk_app_id = 7
        secret_key = "hush-file"
        [limits]
        tasks = 5
        streams_per_task = 3
        [upload]
        bytes_per_second = 100000
        [vod]
        secret_id = "of the file"
        secret_key_file = "/etc/vod"
    "#;

    fn document(config: Value) -> Document {
        Document::parse(json!({"version": 1, "config": config}).to_string().as_bytes()).expect("it is one")
    }

    fn over_file(config: Value) -> Result<Config, Vec<Fault>> {
        Base::parse(FILE).expect("TOML").with(Some(&document(config)))
    }

    #[test]
    fn a_document_lies_over_the_file_and_the_file_over_the_defaults() {
        let base = Base::parse(FILE).expect("TOML");
        let file = base.with(None).expect("valid");
        assert_eq!(Config::diff(&file, &Config::parse(FILE).expect("valid")), []);
        let both = over_file(json!({
            "limits": {"tasks": 6, "streams_per_task": null},
            "upload": {"bytes_per_second": null, "utc_offset": "+02:00",
                "budget": [{"from": "08:00", "to": "18:00", "bytes_per_second": 500000}]},
            "automatic": {"mix": {"width": 640}},
            "vod": {"secret_key_file": null, "secret_key": "hush"},
        }))
        .expect("valid");
        let defaults = Config::default();
        assert_eq!((both.limits.tasks, both.limits.streams_per_task), (6, defaults.limits.streams_per_task));
        assert_eq!((both.upload.bytes_per_second, both.upload.budget.len()), (None, 1));
        assert_eq!((both.automatic.mix.width, both.automatic.mix.height), (640, defaults.automatic.mix.height));
        assert_eq!(both.apps[0].secret_key, Some(Secret::new("hush-file")));
        assert!(both.vod.has_keys());
        assert_eq!(over_file(json!({"apps": []})).expect("valid").apps.len(), 0, "lists are replaced whole");
    }

    #[test]
    fn every_fault_has_its_field_and_no_secret_is_told() {
        let told = over_file(json!({
            "limits": {"tasks": "hush-tasks"},
            "apps": [{"sdk_app_id": 7, "secret_key": 123_456}],
            "log": {"filtr": "x"},
            "upload": {"utc_offset": "hush"},
        }))
        .expect_err("four faults");
        let fields: Vec<&str> = told.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["apps[0].secret_key", "limits.tasks", "upload.utc_offset", "log.filtr"]);
        let text = format!("{told:?}");
        assert!(!text.contains("hush-tasks") && !text.contains("123456"), "{text}");
        let told = over_file(json!({
            "limits": {"tasks": 0}, "api_keys": [{"secret_id": "", "secret_key": "hush"}], "vod": {"secret_key": "hush"},
        }))
        .expect_err("three faults");
        let fields: Vec<&str> = told.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["limits.tasks", "vod.secret_key", "api_keys[0].secret_id"]);
        assert_eq!(told[0].reason, "limits.tasks must be 1 to 10000, not 0");
        assert!(!format!("{told:?}").contains("hush"));
    }

    #[test]
    fn what_is_no_document_says_why_and_who_the_box_is_stays_the_files() {
        let told = |text: &str| Document::parse(text.as_bytes()).expect_err("it is none");
        assert_eq!(told("{\"version\": 1, hush").faults, [Fault::new("-", "it is not JSON (line 1, column 16)")]);
        assert_eq!(told("[]").faults.len(), 1);
        assert_eq!(told(&format!("\"{}\"", "x".repeat(MOST_BYTES))).faults.len(), 1);
        let unread = told(r#"{"version": 1.5, "settings": {}}"#);
        let fields: Vec<&str> = unread.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!((unread.version, fields), (None, vec!["version", "config", "settings"]));
        let identity = json!({"version": "v2", "config": {
            "server": {"state_dir": "/tmp", "http": null, "public_names": ["box"]}, "fleet": {"box_id": "other"},
        }});
        let unread = told(&identity.to_string());
        let fields: Vec<&str> = unread.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(unread.version, Some(Version::Text("v2".into())));
        assert_eq!(fields, ["server.state_dir", "server.http", "fleet.box_id"]);
        assert!(!format!("{:?}", document(json!({"log": {"filter": "hush"}}))).contains("hush"));
    }

    #[test]
    fn what_is_shown_tells_which_secrets_are_set_and_none_of_them() {
        let mut config = over_file(json!({"automatic": {"access_key": "hush-automatic"}})).expect("valid");
        config.apps[0].callback_url = Some("https://ann:hush-password@clinic.example/events?token=hush-token".into());
        let told = shown(&config, &|text| format!("{}", text.len()));
        assert!(!told.to_string().contains("hush"), "{told}");
        assert_eq!(told["apps"][0]["secret_key"], json!({"set": true, "fingerprint": "64"}));
        assert_eq!(told["apps"][0]["callback_key"], json!({"set": false}));
        assert_eq!(told["apps"][0]["callback_url"], "https://(set:17)@clinic.example/events?(set:16)");
        assert_eq!(told["automatic"]["access_key"]["set"], true);
        assert_eq!(told["automatic"]["secret_key"], json!({"set": false}));
        assert_eq!(told["vod"]["endpoint"], "https://vod.tencentcloudapi.com");
        assert_eq!(told["limits"]["tasks"], 5);
    }
}
