//! The keys of the configuration that it only names: those of the shelf and of the VOD account, and every secret that
//! systemd hands over.
//!
//! Owns: reading key files and systemd's credentials. Must not touch: what keys are used for.
//! Law: a key that is configured and cannot be had is an error: nothing is ever written plain because of it. No error
//! shows any of what a key file holds.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::Error;
use crate::config::Config;
use crate::model::Secret;
use crate::vault::{Key, Vault};

/// More than any key is long: a device or a film in its place is not read to its end.
const MOST_BYTES: u64 = 4096;

/// Reads all keys of the configuration. Blocks.
pub fn vault(config: &Config) -> Result<Vault, Error> {
    let spool = &config.spool;
    let current = match (&spool.key_file, &spool.key_credential) {
        (Some(file), _) => Some(key("spool.key_file", file)?),
        (None, Some(name)) => Some(key("spool.key_credential", &credential(name)?)?),
        (None, None) => None,
    };
    let mut old = Vec::new();
    for file in &spool.old_key_files {
        old.push(key("spool.old_key_files", file)?);
    }
    for name in &spool.old_key_credentials {
        old.push(key("spool.old_key_credentials", &credential(name)?)?);
    }
    match &current {
        Some(key) => info!(key = %key.id(), old = old.len(), "the shelf is encrypted"),
        None => info!(old = old.len(), "the shelf is not encrypted: no key is configured"),
    }
    Ok(Vault::new(current, old))
}

/// Reads every secret that a configuration only names. Blocks.
pub fn all(config: &mut Config) -> Result<(), Error> {
    credentials(config)?;
    vod(config)?;
    fleet(config)
}

/// What begins so is the name of a credential that systemd hands over, and stands for what is in it.
const CREDENTIAL: &str = "credential:";

/// Puts what systemd's credentials hold in the place of their names. Blocks.
fn credentials(config: &mut Config) -> Result<(), Error> {
    let apps = config.apps.iter_mut().flat_map(|app| app.secret_key.iter_mut().chain(&mut app.callback_key));
    let records = [&mut config.automatic, &mut config.panel.button.record].into_iter();
    let of_automatic = records.flat_map(|record| {
        [&mut record.access_key, &mut record.secret_key].into_iter().chain(&mut record.callback_key)
    });
    let signing = config.api_keys.iter_mut().map(|key| &mut key.secret_key);
    let of_accounts = config.vod.secret_key.iter_mut().chain(&mut config.fleet.password);
    let of_sources = config.sources.iter_mut().flat_map(|s| s.password.iter_mut().chain(&mut s.token));
    for secret in apps.chain(signing).chain(of_automatic).chain(of_accounts).chain(of_sources) {
        resolve(secret)?;
    }
    Ok(())
}

/// A secret of the configuration as it is meant: itself, or what is in the credential that it names. Blocks.
pub fn resolve(secret: &mut Secret) -> Result<(), Error> {
    let Some(name) = secret.expose().strip_prefix(CREDENTIAL) else { return Ok(()) };
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let failed =
        |why: String| Error::Start { what: "a credential of the configuration", why: format!("{name}: {why}") };
    if !plain {
        return Err(failed("this is not the name of one".into()));
    }
    let bytes = read(&credential(name)?).map_err(|e| failed(e.to_string()))?;
    let read = text_of(&bytes).ok_or_else(|| failed(format!("{} bytes that are no secret", bytes.len())))?;
    *secret = read;
    Ok(())
}

/// A line of printable characters.
fn text_of(bytes: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Secret::new(text))
}

/// Reads the VOD account's secret key where the configuration only says where it is. Blocks.
fn vod(config: &mut Config) -> Result<(), Error> {
    let vod = &mut config.vod;
    let (setting, path) = match (&vod.secret_key_file, &vod.secret_key_credential) {
        (Some(file), _) => ("vod.secret_key_file", file.clone()),
        (None, Some(name)) => ("vod.secret_key_credential", credential(name)?),
        (None, None) => return Ok(()),
    };
    vod.secret_key = Some(line_of(setting, &path)?);
    Ok(())
}

/// Reads the password for the operators' broker likewise. Blocks.
fn fleet(config: &mut Config) -> Result<(), Error> {
    let fleet = &mut config.fleet;
    let (setting, path) = match (&fleet.password_file, &fleet.password_credential) {
        (Some(file), _) => ("fleet.password_file", file.clone()),
        (None, Some(name)) => ("fleet.password_credential", credential(name)?),
        (None, None) => return Ok(()),
    };
    fleet.password = Some(line_of(setting, &path)?);
    Ok(())
}

/// A secret of visible characters.
fn line_of(setting: &'static str, path: &Path) -> Result<Secret, Error> {
    let failed = |why: String| Error::Start { what: setting, why: format!("{}: {why}", path.display()) };
    let bytes = read(path).map_err(|e| failed(e.to_string()))?;
    text_of(&bytes).ok_or_else(|| failed(format!("{} bytes that are no key", bytes.len())))
}

/// Where systemd puts a credential, one sealed to the board's TPM by systemd-creds too.
fn credential(name: &str) -> Result<PathBuf, Error> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| Error::Start {
        what: "a key of the configuration",
        why: format!("the credential '{name}' is asked for, and systemd gave none (no CREDENTIALS_DIRECTORY)"),
    })?;
    Ok(Path::new(&folder).join(name))
}

fn key(setting: &'static str, path: &Path) -> Result<Key, Error> {
    let failed = |why: String| Error::Start { what: setting, why: format!("{}: {why}", path.display()) };
    let bytes = read(path).map_err(|e| failed(e.to_string()))?;
    Key::parse(&bytes).map_err(|why| failed(format!("{} bytes: {why}", bytes.len())))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST_BYTES), &mut bytes)?;
    // tmpfiles.d gives the files in /etc/holdfast to root, and to the box's group to read
    if mode & 0o037 != 0 {
        warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "a key is open to others than its owner and its group");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).expect("valid")
    }

    #[test]
    fn the_vod_accounts_key_is_had_or_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("vod.key");
        let read = || {
            let mut config = config(&format!("[vod]\nsecret_id = 'a'\nsecret_key_file = '{}'", path.display()));
            vod(&mut config).map(|()| config.vod.secret_key)
        };
        assert!(read().expect_err("it is no key").to_string().starts_with("vod.secret_key_file: "));
        std::fs::write(&path, "of the account\n").expect("the folder is ours");
        let told = read().expect_err("it is no key").to_string();
        assert!(told.contains("15 bytes that are no key") && !told.contains("account"), "{told}");
        std::fs::write(&path, "AbC123\n").expect("the folder is ours");
        assert_eq!(read().expect("it is a key"), Some(Secret::new("AbC123")));
    }

    #[test]
    fn a_secret_that_names_a_credential_is_had_or_told() {
        let text = |secret: &str| format!("[[api_keys]]\nsecret_id = 'a'\nsecret_key = '{secret}'\n");
        let mut plain = config(&text("as it stands"));
        credentials(&mut plain).expect("nothing to read");
        assert_eq!(plain.api_keys[0].secret_key.expose(), "as it stands");
        for (secret, told) in
            [("credential:../x", "../x: this is not the name"), ("credential:k", "CREDENTIALS_DIRECTORY")]
        {
            let error = credentials(&mut config(&text(secret))).expect_err("it is not there").to_string();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(text_of(b"two words"), None);
        assert_eq!(text_of(b" AbC \n"), Some(Secret::new("AbC")));
    }

    #[test]
    fn a_key_that_is_configured_is_had_or_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let (good, short) = (dir.path().join("good"), dir.path().join("short"));
        std::fs::write(&good, (0..32).collect::<Vec<u8>>()).expect("the folder is ours");
        std::fs::write(&short, "0123456789abcdef secret").expect("the folder is ours");
        let with = |line: &str| vault(&config(&format!("[spool]\n{line}")));
        let at = |path: &Path| path.display().to_string();

        assert_eq!(vault(&Config::default()).expect("nothing to read").current(), None);
        let current = with(&format!("key_file = '{}'", at(&good))).expect("it is a key");
        assert!(current.current().is_some());
        let old = with(&format!("old_key_files = ['{}']", at(&good))).expect("it is a key");
        assert!(old.current().is_none() && old.has(&current.current().expect("had above").to_string()));

        for setting in ["key_file = '{}'", "old_key_files = ['{}']"] {
            let told = with(&setting.replace("{}", &at(&short))).expect_err("it is no key").to_string();
            assert!(told.contains("short: 23 bytes: a key is 32 bytes") && !told.contains("secret"), "{told}");
            let told =
                with(&setting.replace("{}", &at(&dir.path().join("none")))).expect_err("it is not there").to_string();
            assert!(told.starts_with("spool.") && told.contains("none: No such file"), "{told}");
        }
        let told = with("key_credential = 'spool'").expect_err("nobody handed it over").to_string();
        assert!(told.contains("CREDENTIALS_DIRECTORY"), "{told}");
    }
}
