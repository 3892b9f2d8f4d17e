//! What one configuration changes of another, and when that holds.
//!
//! Owns: the table of fields that take a change while the box runs. Must not touch: who makes it hold.
//! Law: a field that the table does not name holds at the next start; a secret is compared and never shown.

use serde_json::{Map, Value};

use super::Config;
use crate::model::Secret;

/// When a change of a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// At once. A task that runs keeps what it began with.
    Live,
    /// At the next start of the process.
    Restart,
}

/// By the longest beginning of a field's path.
const WHEN: &[(&str, Change)] = &[
    ("server", Change::Restart),
    ("whip", Change::Restart),
    ("apps", Change::Live),
    ("api_keys", Change::Live),
    ("limits", Change::Live),
    // the board is measured at the start
    ("limits.probe", Change::Restart),
    ("recording", Change::Live),
    ("automatic", Change::Live),
    ("sources", Change::Live),
    ("alarms", Change::Live),
    ("spool", Change::Restart),
    ("storage", Change::Live),
    ("disk", Change::Live),
    ("upload", Change::Live),
    ("vod", Change::Live),
    ("callbacks", Change::Live),
    ("images", Change::Restart),
    ("panel", Change::Live),
    ("fleet", Change::Live),
    ("fleet.enabled", Change::Restart),
    ("fleet.box_id", Change::Restart),
    ("log", Change::Live),
];

/// `None`: nobody has said.
fn when(field: &str) -> Option<Change> {
    let within = |prefix: &str| field.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    WHEN.iter().filter(|(prefix, _)| within(prefix)).max_by_key(|(prefix, _)| prefix.len()).map(|(_, change)| *change)
}

/// A configuration as JSON, with digests in place of secrets.
pub(super) fn written(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(tables)) => tables,
        other => unreachable!("a configuration has text keys and no strange numbers: {other:?}"),
    }
}

/// Goes down tables; a list, and what is written for a secret, is one field.
fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<(String, Change)>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) if !before.contains_key(Secret::DIGEST) => {
            let gone =
                before.iter().filter(|(name, _)| !after.contains_key(*name)).map(|(name, old)| (name, old, None));
            let there = after.iter().map(|(name, new)| (name, before.get(name).unwrap_or(&Value::Null), Some(new)));
            for (name, old, new) in gone.chain(there) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, old, new.unwrap_or(&Value::Null), found);
            }
        }
        _ => found.push((path.to_owned(), when(path).unwrap_or(Change::Restart))),
    }
}

impl Config {
    /// Every field in which `new` differs from `old`, by its path.
    pub fn diff(old: &Config, new: &Config) -> Vec<(String, Change)> {
        let mut found = Vec::new();
        compare("", &Value::Object(written(old)), &Value::Object(written(new)), &mut found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::App;
    use crate::model::SdkAppId;

    fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(table) if !table.contains_key(Secret::DIGEST) => {
                for (name, value) in table {
                    leaves(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
                }
            }
            _ => found.push(path.to_owned()),
        }
    }

    #[test]
    fn of_every_field_somebody_has_said_when_it_holds() {
        let mut fields = Vec::new();
        leaves("", &Value::Object(written(&Config::default())), &mut fields);
        assert!(fields.len() > 80, "only {} fields found", fields.len());
        let unsaid: Vec<&String> = fields.iter().filter(|field| when(field).is_none()).collect();
        assert!(unsaid.is_empty(), "config/change.rs does not say when a change of these holds: {unsaid:?}");
    }

    #[test]
    fn a_change_is_named_by_its_path_and_secrets_count_without_being_shown() {
        let app = |key: &str| App {
            sdk_app_id: SdkAppId(7),
            secret_key: Some(Secret::new(key)),
            callback_url: None,
            callback_key: None,
        };
        let old = Config { apps: vec![app("hush")], ..Config::default() };
        assert_eq!(Config::diff(&old, &old.clone()), []);
        let mut new = Config { apps: vec![app("hush-hush")], ..Config::default() };
        new.limits.probe = false;
        new.limits.tasks = 7;
        new.automatic.mix.width = 640;
        new.automatic.secret_key = Secret::new("hush");
        new.upload.bytes_per_second = Some(10_000);
        new.whip.addresses = vec!["10.0.0.1".parse().expect("an address")];
        let told = Config::diff(&old, &new);
        let live = |field: &str| (field.to_owned(), Change::Live);
        let restart = |field: &str| (field.to_owned(), Change::Restart);
        assert_eq!(
            told,
            [
                restart("whip.addresses"),
                live("apps"),
                live("limits.tasks"),
                restart("limits.probe"),
                live("automatic.mix.width"),
                live("automatic.secret_key"),
                live("upload.bytes_per_second"),
            ]
        );
        assert!(!Value::Object(written(&new)).to_string().contains("hush"));
    }
}
