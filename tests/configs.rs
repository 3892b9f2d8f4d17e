//! The configuration files that come with the box are valid, and the commented one tells the defaults as they are.

use std::path::Path;

use holdfast::config::Config;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_file_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is part of the project") {
        let name = entry.expect("it can be read").file_name().into_string().expect("plain names");
        if let Err(faults) = Config::parse(&read(&name)) {
            panic!("{name}: {faults}");
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} files");
}

/// Settings without a default of their own: their example is no default.
const EXAMPLES: &[&str] = &[
    "certificate",
    "private_key",
    "key_file",
    "key_credential",
    "s3_endpoint",
    "cos_endpoint",
    "bytes_per_second",
    "secret_id",
    "secret_key",
    "secret_key_file",
    "secret_key_credential",
    "storage_endpoint",
    "sdk_app_id",
    "region",
    "bucket",
    "access_key",
    "callback_url",
    "callback_key",
    "box_id",
    "broker",
    "ca",
    "client_certificate",
    "client_key",
    "username",
    "password",
    "password_file",
    "password_credential",
];

#[test]
fn the_commented_defaults_are_the_defaults() {
    let mut text = String::new();
    let mut in_array_table = false;
    for line in read("holdfast.toml").lines() {
        // `#key = …` and `#[[table]]` are settings; `# words` is prose.
        let Some(setting) = line.strip_prefix('#').filter(|s| !s.starts_with(' ')) else {
            if line.starts_with('[') {
                in_array_table = false;
            }
            text.push_str(line);
            text.push('\n');
            continue;
        };
        in_array_table |= setting.starts_with("[[");
        let key = setting.split('=').next().unwrap_or_default().trim();
        if !in_array_table && !EXAMPLES.contains(&key) {
            text.push_str(setting);
            text.push('\n');
        }
    }
    let told = Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    assert_eq!(format!("{told:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn every_setting_stands_in_the_commented_file() {
    let file = read("holdfast.toml");
    let source = include_str!("../src/config.rs");
    // The fields of the structs that a document is read into.
    let body = source.split("impl Config {").next().expect("there is text before it");
    let automatic = include_str!("../src/config/automatic.rs").split("impl Automatic {").next().expect("the same");
    let alarms = include_str!("../src/config/alarms.rs").split("impl Alarms {").next().expect("the same");
    let fleet = include_str!("../src/config/fleet.rs").split("impl Default").next().expect("the same");
    let sources = include_str!("../src/config/sources.rs").split("impl Source {").next().expect("the same");
    let parts = [body, automatic, alarms, fleet, sources];
    let tables = parts.iter().flat_map(|part| part.lines());
    let fields = tables.filter_map(|line| line.strip_prefix("    pub ")?.split(':').next());
    let mut seen = 0;
    for field in fields.filter(|f| !f.contains('(') && !f.contains(' ')) {
        let as_key = file.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{field} =")))
            || ["{ ", ", "].iter().any(|lead| file.contains(&format!("{lead}{field} = ")));
        let as_table = file.contains(&format!("[{field}]")) || file.contains(&format!(".{field}]]"));
        assert!(as_key || as_table, "'{field}' is not in configs/holdfast.toml");
        seen += 1;
    }
    assert!(seen > 30, "only {seen} settings found: the scan looks in the wrong place");
}

#[test]
fn the_commented_file_shows_a_whole_application_and_key() {
    let mut text = String::new();
    for line in read("holdfast.toml").lines() {
        text.push_str(line.strip_prefix('#').filter(|s| !s.starts_with(' ')).unwrap_or(line));
        text.push('\n');
    }
    let all = Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    assert_eq!((all.apps.len(), all.api_keys.len()), (1, 1));
}
