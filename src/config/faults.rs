//! What is wrong with a configuration that could be read, beyond what each table of a file of its own says of itself.
//!
//! Owns: the bounds of numbers, and what excludes or wants each other. Must not touch: how it is read, where it came from.
//! Law: every fault is told at once; what could be a secret none quotes, be it the whole value or a part of an address.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Config, MIB, StorageKind, sources};
use crate::model::Secret;

/// With fewer bytes a second a storage gives up waiting for the next ones.
const SLOWEST_BUDGET: u64 = 8 * 1024;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its path; `-` where it is the document as a whole.
    pub field: String,
    pub reason: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault { field: field.into(), reason: reason.into() }
    }

    pub(super) fn whole(reason: impl Into<String>) -> Fault {
        Fault::new("-", reason)
    }
}

/// Whether it is well, and the fault if it is not.
pub(super) type Check = (bool, String);

pub(super) fn within(name: &str, value: u64, low: u64, high: u64) -> Check {
    ((low..=high).contains(&value), format!("{name} must be {low} to {high}, not {value}"))
}

fn is_http(address: &str) -> bool {
    url::Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn failed(checks: Vec<Check>) -> Vec<String> {
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, fault)| fault).collect()
}

impl Config {
    /// All of them, each with the path of its setting.
    pub(super) fn faults(&self) -> Vec<String> {
        let cloud = self.storage.kind == StorageKind::Cloud;
        let known = |app| self.app(app).is_some();
        let tables = [
            self.faults_of_numbers(),
            self.faults_of_uploads(),
            self.faults_of_files(),
            self.faults_of_who(),
            self.faults_of_addresses(),
            self.alarms.faults(),
            self.automatic.faults(cloud, known),
            self.panel.faults(cloud, known),
            sources::faults(&self.sources, known),
            self.fleet.faults(),
        ];
        tables.concat()
    }

    fn faults_of_numbers(&self) -> Vec<String> {
        let longest_takeover = self.recording.takeover_seconds.into_iter().fold(0, u64::max);
        let mut checks = vec![
            within("whip.ice_timeout_seconds", self.whip.ice_timeout_seconds, 2, 300),
            within("whip.max_sessions", self.whip.max_sessions as u64, 1, 10_000),
            within("limits.requests_per_second", self.limits.requests_per_second.into(), 1, 10_000),
            within("limits.tasks", self.limits.tasks as u64, 1, 10_000),
            within("limits.streams_per_task", self.limits.streams_per_task as u64, 1, 1_000),
            within("limits.mix_publishers", self.limits.mix_publishers.into(), 1, 25),
            within("recording.segment_seconds", self.recording.segment_seconds, 1, 3600),
            within("recording.gap_seconds", self.recording.gap_seconds, 1, 60),
            within("recording.sync_seconds", self.recording.sync_seconds, 1, 60),
            within("recording.takeover_seconds", longest_takeover, 0, 3600),
            within("disk.low_percent", self.disk.low_percent, 0, 90),
            within("upload.concurrency", self.upload.concurrency as u64, 1, 64),
            within("upload.per_destination", self.upload.per_destination as u64, 1, 64),
            within("upload.multipart_from_bytes", self.upload.multipart_from_bytes, 5 * MIB, 5 * 1024 * MIB),
            within("upload.part_bytes", self.upload.part_bytes, 5 * MIB, 5 * 1024 * MIB),
            within("upload.timeout_seconds", self.upload.timeout_seconds, 1, 3600),
            within("upload.retry_first_seconds", self.upload.retry_first_seconds, 1, 3600),
            within("upload.grace_seconds", self.upload.grace_seconds, 0, 86_400),
            within("upload.list_seconds", self.upload.list_seconds, 0, 3600),
            within("callbacks.timeout_seconds", self.callbacks.timeout_seconds, 1, 60),
            within("callbacks.retry_first_seconds", self.callbacks.retry_first_seconds, 1, 3600),
            within("callbacks.keep_hours", self.callbacks.keep_hours, 1, 8760),
            within("callbacks.keep_events", self.callbacks.keep_events as u64, 100, 1_000_000),
            within("callbacks.keep_bytes", self.callbacks.keep_bytes, 64 * 1024, 4096 * MIB),
            within("images.timeout_seconds", self.images.timeout_seconds, 1, 60),
            within("images.retry_first_seconds", self.images.retry_first_seconds, 1, 3600),
        ];
        for (table, first, longest) in [
            ("upload", self.upload.retry_first_seconds, self.upload.retry_longest_seconds),
            ("callbacks", self.callbacks.retry_first_seconds, self.callbacks.retry_longest_seconds),
            ("images", self.images.retry_first_seconds, self.images.retry_longest_seconds),
        ] {
            let fault = format!("{table}.retry_longest_seconds must not be below {first}, as {longest} is");
            checks.push((first <= longest, fault));
        }
        failed(checks)
    }

    fn faults_of_uploads(&self) -> Vec<String> {
        let mut checks = Vec::new();
        let mut rate = |field: String, rate: u64| {
            let fault = format!("{field} must be 0 or {SLOWEST_BUDGET} and more, not {rate}");
            checks.push((rate == 0 || rate >= SLOWEST_BUDGET, fault));
        };
        if let Some(bytes_per_second) = self.upload.bytes_per_second {
            rate("upload.bytes_per_second".into(), bytes_per_second);
        }
        let budget = &self.upload.budget;
        for (i, window) in budget.iter().enumerate() {
            rate(format!("upload.budget[{i}].bytes_per_second"), window.bytes_per_second);
        }
        for (i, window) in budget.iter().enumerate() {
            checks.push((window.from != window.to, format!("upload.budget[{i}].from and .to are the same")));
            if let Some(j) = budget[..i].iter().position(|other| other.overlaps(window) && window.from != window.to) {
                checks.push((false, format!("upload.budget[{j}] and [{i}] overlap")));
            }
        }
        failed(checks)
    }

    /// Files and credentials that are named, and those that exclude or want each other.
    fn faults_of_files(&self) -> Vec<String> {
        let (server, spool, vod) = (&self.server, &self.spool, &self.vod);
        let mut checks = vec![
            (
                server.http.is_some() || server.https.is_some(),
                "server.http and server.https are both closed: nobody could reach the box".into(),
            ),
            (
                server.certificate.is_some() == server.private_key.is_some(),
                "server.certificate and server.private_key go together".into(),
            ),
            (
                spool.key_file.is_none() || spool.key_credential.is_none(),
                "spool.key_file and spool.key_credential exclude each other".into(),
            ),
        ];
        let of_spool = spool.key_credential.iter().chain(&spool.old_key_credentials).map(|name| ("spool", name));
        for (table, name) in of_spool.chain(vod.secret_key_credential.iter().map(|name| ("vod", name))) {
            let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
            checks.push((plain, format!("{table}: '{name}' is not the name of a credential")));
        }
        let keys = [vod.secret_key.is_some(), vod.secret_key_file.is_some(), vod.secret_key_credential.is_some()];
        let keys = keys.into_iter().filter(|given| *given).count();
        let empty = vod.secret_id.as_ref().is_some_and(String::is_empty)
            || vod.secret_key.as_ref().is_some_and(Secret::is_empty);
        let plain = vod.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        checks.extend([
            (keys <= 1, "vod.secret_key, .secret_key_file and .secret_key_credential exclude each other".into()),
            (vod.secret_id.is_some() == (keys > 0), "vod.secret_id and its secret key go together".into()),
            (!empty, "vod.secret_id or vod.secret_key is empty".into()),
            (plain, "vod.region holds other than letters, digits and -".into()),
        ]);
        failed(checks)
    }

    /// Applications and the keys of callers.
    fn faults_of_who(&self) -> Vec<String> {
        let mut checks = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, app) in self.apps.iter().enumerate() {
            checks.push((app.sdk_app_id.0 != 0, format!("apps[{i}].sdk_app_id must not be 0")));
            let new = seen.insert(app.sdk_app_id);
            checks.push((new, format!("apps[{i}].sdk_app_id {} stands twice", app.sdk_app_id)));
            let fits = app.callback_url.as_ref().is_none_or(|address| is_http(address));
            checks.push((fits, format!("apps[{i}].callback_url is not an http or https address")));
            for (name, secret) in [("secret_key", &app.secret_key), ("callback_key", &app.callback_key)] {
                checks.push((secret.as_ref().is_none_or(|s| !s.is_empty()), format!("apps[{i}].{name} is empty")));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, key) in self.api_keys.iter().enumerate() {
            checks.push((!key.secret_id.is_empty(), format!("api_keys[{i}].secret_id is empty")));
            checks.push((!key.secret_key.is_empty(), format!("api_keys[{i}].secret_key is empty")));
            checks.push((seen.insert(&key.secret_id), format!("api_keys[{i}].secret_id stands twice")));
        }
        failed(checks)
    }

    fn faults_of_addresses(&self) -> Vec<String> {
        let addresses = [
            ("storage.s3_endpoint", self.storage.s3_endpoint.as_ref()),
            ("storage.cos_endpoint", self.storage.cos_endpoint.as_ref()),
            ("vod.storage_endpoint", self.vod.storage_endpoint.as_ref()),
            ("vod.endpoint", Some(&self.vod.endpoint)),
        ];
        // an address may hold a password, so that it is not quoted
        let bad = addresses.into_iter().filter(|(_, address)| address.is_some_and(|address| !is_http(address)));
        bad.map(|(name, _)| format!("{name} is not an http or https address")).collect()
    }
}
