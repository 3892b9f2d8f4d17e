//! The debug bundle: what somebody far away needs to see of a box, in one `.tar.gz`.
//!
//! Owns: packing, bounds, and what is struck out of every text. Must not touch: where the texts come from, the network.
//! Law: no media and no secrets: texts come from sources that hold none, addresses lose their logins and queries here all
//! the same, and every secret of the configuration that is given is struck out wherever it stands.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::model::{Secret, Timestamp};

/// Of one file so much of its end is kept.
const MOST_OF_ONE: usize = 4 * 1024 * 1024;
/// Secrets that are shorter would strike out words.
const SHORTEST_SECRET: usize = 6;
const STRUCK: &str = "[struck out]";

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub name: String,
    pub text: String,
}

impl Page {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Page {
        Page { name: name.into(), text: text.into() }
    }
}

/// Packs the pages.
pub fn pack(pages: &[Page], secrets: &[Secret], now: Timestamp) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for page in pages {
        let text = strike(&page.text, secrets);
        let text = end_of(&text, MOST_OF_ONE);
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.ms() / 1000).unwrap_or_default());
        header.set_cksum();
        tar.append_data(&mut header, format!("holdfast-debug/{}", page.name), text.as_bytes())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

fn end_of(text: &str, most: usize) -> &str {
    let from = text.len().saturating_sub(most);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

/// A text without secrets, and with addresses that say no more than where.
pub fn strike(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(Secret::expose).filter(|secret| secret.len() >= SHORTEST_SECRET) {
        text = text.replace(secret, STRUCK);
    }
    addresses(&text)
}

/// `scheme://login@host/path?query` becomes `scheme://host/path?…`.
fn addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "\"'<>`|\\".contains(c)).unwrap_or(after.len());
        let (address, left) = after.split_at(end);
        let (place, query) = match address.find(['?', '#']) {
            Some(at) => (&address[..at], "?…"),
            None => (address, ""),
        };
        // a password may hold a slash where somebody wrote it carelessly: all up to the last @ goes
        out.push_str(place.rsplit_once('@').map_or(place, |(_, bare)| bare));
        out.push_str(query);
        rest = left;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn addresses_lose_logins_and_queries_and_secrets_are_struck_out() {
        let secrets = ["hush-hush", "abc"].map(Secret::new);
        for (text, left) in [
            ("nothing here", "nothing here"),
            ("rtsp://cam:p@ss/w@10.0.0.7:554/a?token=1 fails", "rtsp://10.0.0.7:554/a?… fails"),
            ("\"https://x.example/b#hush\" and http://y/", "\"https://x.example/b?…\" and http://y/"),
            ("key=hush-hush, abc", "key=[struck out], abc"),
            ("://", "://"),
        ] {
            assert_eq!(strike(text, &secrets), left);
        }
    }

    #[test]
    fn a_bundle_is_an_archive_of_its_pages() {
        let long = format!("{}é-end", "x".repeat(MOST_OF_ONE));
        let pages = [Page::new("log.txt", "a line with hush-hush"), Page::new("deep/long.txt", long)];
        let packed = pack(&pages, &[Secret::new("hush-hush")], Timestamp::from_ms(5_000)).expect("memory takes it");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut found = Vec::new();
        for entry in archive.entries().expect("it is one") {
            let mut entry = entry.expect("it is whole");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("it is text");
            found.push((entry.path().expect("a name").display().to_string(), text));
        }
        assert_eq!(found[0], ("holdfast-debug/log.txt".into(), "a line with [struck out]".into()));
        assert!(found[1].1.ends_with("é-end") && found[1].1.len() <= MOST_OF_ONE, "{}", found[1].0);
    }
}
