//! The twin's memory on the disk: which documents hold, and what they say.
//!
//! Owns: one file of the state directory, sealed with the box's key, since documents hold secrets. Must not touch: what
//! follows from it.
//! Law: the file is whole or the one before is there: it is written beside, synced, and named over. One that cannot be
//! read is set aside, and the box goes on with what its own file says. A write that failed is told, and what it was for
//! does not happen; the next one writes all of it anew.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::document::Document;
use crate::model::twin::{Edition, Twin};
use crate::store::seal::BoxKey;

/// What the sealed bytes open under.
const NAME: &str = "twin";

/// All of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    pub machine: Twin,
    /// By the fingerprints of their editions.
    pub documents: BTreeMap<String, Document>,
}

impl Kept {
    pub fn document(&self, edition: &Edition) -> Option<&Document> {
        self.documents.get(&edition.fingerprint)
    }

    /// Only what may come to hold again.
    pub fn prune(&mut self) {
        let machine = &self.machine;
        let trial = machine.trial().map(|trial| &trial.edition.fingerprint);
        let good = machine.last_good().map(|good| &good.fingerprint);
        self.documents.retain(|name, _| Some(name) == trial || Some(name) == good);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    key: Arc<BoxKey>,
}

impl Place {
    pub fn new(state_dir: &Path, key: Arc<BoxKey>) -> Place {
        Place { path: state_dir.join("twin"), key }
    }

    pub fn fingerprint(&self, text: &str) -> String {
        self.key.fingerprint(&[NAME, text])
    }

    /// `None`: nothing was ever kept. An error says that something was, and is not to be had; it lies aside then.
    pub fn read(&self) -> Result<Option<Kept>, String> {
        let sealed = match fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let opened = self.key.open(&sealed, NAME).map_err(|e| e.to_string());
        // the error's own text may quote what stands there
        let kept = opened.and_then(|plain| serde_json::from_slice(&plain).map_err(|_| "it is of another form".into()));
        if kept.is_err() {
            let _ = fs::rename(&self.path, self.path.with_extension("damaged"));
        }
        kept.map(Some)
    }

    /// Blocks.
    pub fn write(&self, kept: &Kept) -> io::Result<()> {
        let plain = serde_json::to_vec(kept).map_err(io::Error::other)?;
        let sealed = self.key.seal(&plain, NAME);
        let unfinished = self.path.with_extension("new");
        let _ = fs::remove_file(&unfinished);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&sealed)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Timestamp;
    use crate::model::twin::{Input, Now, Reach};

    fn place(dir: &Path) -> Place {
        Place::new(dir, Arc::new(BoxKey::load_or_create(&dir.join("box.key")).unwrap()))
    }

    fn on_trial() -> Kept {
        let document = br#"{"version": 3, "config": {"api_keys": [{"secret_id": "a", "secret_key": "hush-hush"}]}}"#;
        let document = Document::parse(document).unwrap();
        let edition = Edition::of_document(document.version.clone(), "f".into());
        let mut kept = Kept::default();
        let now = Now { uptime: Duration::ZERO, wall: Timestamp(0) };
        let reach = Reach { line: false, restart: false };
        kept.machine.apply(Input::Offered { edition, reach, period: Duration::from_secs(9) }, now);
        kept.documents.insert("f".into(), document.clone());
        kept.documents.insert("of long ago".into(), document);
        kept
    }

    #[test]
    fn what_was_kept_is_there_and_is_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(place.read().unwrap().is_none());
        let mut kept = on_trial();
        kept.prune();
        place.write(&kept).unwrap();
        place.write(&kept).unwrap();
        let found = place.read().unwrap().expect("it was kept");
        assert_eq!(found.machine.in_force(), kept.machine.in_force());
        assert_eq!(found.machine.left(), Some(Duration::from_secs(9)));
        assert_eq!(found.documents.keys().collect::<Vec<_>>(), ["f"]);
        let on_disk = fs::read(dir.path().join("twin")).unwrap();
        assert!(!on_disk.windows(4).any(|bytes| bytes == b"hush"));
        assert!(!format!("{found:?}").contains("hush"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing lies beside it");
    }

    #[test]
    fn one_that_is_torn_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        place.write(&on_trial()).unwrap();
        let whole = fs::read(dir.path().join("twin")).unwrap();
        for torn in [&whole[..whole.len() / 2], &[]] {
            fs::write(dir.path().join("twin"), torn).unwrap();
            assert!(place.read().is_err());
            assert_eq!(fs::read(dir.path().join("twin.damaged")).unwrap(), torn);
            assert!(place.read().unwrap().is_none(), "and the box goes on without it");
        }
        place.write(&on_trial()).unwrap();
        assert!(place.read().unwrap().is_some());
    }

    #[test]
    fn a_write_that_fails_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        place.write(&on_trial()).unwrap();
        let before = fs::read(dir.path().join("twin")).unwrap();
        // something that no write gets past, for whichever user
        fs::create_dir(dir.path().join("twin.new")).unwrap();
        assert!(place.write(&Kept::default()).is_err());
        assert_eq!(fs::read(dir.path().join("twin")).unwrap(), before);
    }
}
