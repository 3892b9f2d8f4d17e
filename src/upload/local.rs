//! The local store: a directory laid out as the bucket would be, `<root>/<bucket>/<key>`.
//!
//! Owns: files below its root. Must not touch: anything outside of it, whatever a key says.
//! Law: a file is there whole or not at all, and when `put` returns it outlasts a power cut. It never changes in
//! place, so who is reading an older version reads it to its end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::body::Sums;
use super::{Body, Class, Held, ObjectStore, PutError};

/// Folder below the root where files become whole; no bucket is called like it.
const UNFINISHED: &str = ".unfinished";
/// Files of one list.
const PAGE: usize = 1000;

#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
    bucket: String,
}

impl Local {
    pub fn new(root: PathBuf, bucket: String) -> Local {
        Local { root, bucket }
    }

    fn path_of(&self, key: &str) -> Result<PathBuf, PutError> {
        let mut path = self.root.clone();
        for part in std::iter::once(self.bucket.as_str()).chain(key.split('/')) {
            if !is_plain(part) {
                let message = format!("{}/{key} cannot be the name of a file", self.bucket);
                return Err(PutError::new(Class::Never, "InvalidObjectName", message));
            }
            path.push(part);
        }
        Ok(path)
    }
}

#[async_trait]
impl ObjectStore for Local {
    async fn put(&self, key: &str, body: &Body, _content_type: &str) -> Result<String, PutError> {
        let (root, path, body) = (self.root.clone(), self.path_of(key)?, body.clone());
        run(move || store(&root, &path, &body).map(|()| body.tag())).await
    }

    /// Reads the file: what it holds is asked, not what it was given.
    async fn head(&self, key: &str) -> Result<Option<Held>, PutError> {
        let path = self.path_of(key)?;
        run(move || {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            let sums = Sums::of(&file, None)?;
            Ok(Some(Held { size: sums.bytes, tag: hex::encode(sums.md5), checksum: true }))
        })
        .await
    }

    /// Folders that are empty then go with it.
    async fn delete(&self, key: &str) -> Result<(), PutError> {
        let (path, bucket) = (self.path_of(key)?, self.root.join(&self.bucket));
        run(move || {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            for folder in path.ancestors().skip(1).take_while(|folder| *folder != bucket) {
                match File::open(folder) {
                    Ok(folder) => folder.sync_all()?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                }
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, u64)>, PutError> {
        let bucket = self.path_of("x")?.parent().expect("a key has a bucket above it").to_owned();
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        run(move || {
            let mut found = Vec::new();
            // below the folder that the prefix names, as far as it names one
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            let plain = folder.is_empty() || folder.split('/').all(is_plain);
            let begins = |(key, _): &(String, u64)| key.starts_with(&prefix) && *key > after;
            if plain {
                keys_below(&bucket, folder, &mut found)?;
            }
            found.retain(begins);
            found.sort();
            found.truncate(PAGE);
            Ok(found)
        })
        .await
    }
}

/// Files in a folder of the bucket and below it, with their sizes. A folder that is not there has none.
fn keys_below(bucket: &Path, folder: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    let entries = match fs::read_dir(bucket.join(folder)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            keys_below(bucket, &key, found)?;
        } else if kind.is_file() {
            found.push((key, entry.metadata()?.len()));
        }
    }
    Ok(())
}

/// One step of a path that goes down and nowhere else. Names beginning with a dot are ours.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && !part.starts_with('.') && part.len() <= 255 && !part.contains(['/', '\\', '\0'])
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, PutError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|e| PutError::new(Class::Later, "LocalStoreError", e.to_string()))
}

fn store(root: &Path, path: &Path, body: &Body) -> io::Result<()> {
    let unfinished_dir = root.join(UNFINISHED);
    fs::create_dir_all(&unfinished_dir)?;
    let folder = path.parent().expect("a key has a bucket above it");
    make_folders(root, folder)?;

    let unfinished = unfinished_dir.join(uuid::Uuid::new_v4().to_string());
    let placed = place(&unfinished, body).and_then(|()| fs::rename(&unfinished, path));
    // renaming a link onto the same file leaves both
    let _ = fs::remove_file(&unfinished);
    placed?;
    File::open(folder)?.sync_all()
}

/// On the shelf's own file system a second name of the file does, unless it is sealed: its bytes are on the disk already.
fn place(to: &Path, body: &Body) -> io::Result<()> {
    if body.file.as_ref().is_some_and(|file| fs::hard_link(file, to).is_ok()) {
        if fs::metadata(to)?.len() == body.size {
            return Ok(());
        }
        fs::remove_file(to)?;
    }
    let mut file = File::create_new(to)?;
    body.write_to(&mut file)?;
    file.sync_all()
}

/// Makes the folders between `root` and `folder`, each durable in the one above it.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let below = folder.strip_prefix(root).expect("keys lie below the root");
    let mut path = root.to_owned();
    for step in below.components() {
        let parent = path.clone();
        path.push(step);
        match fs::create_dir(&path) {
            Ok(()) => File::open(parent)?.sync_all()?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_never_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let body = Body::of_bytes("x");
        for (bucket, key) in [
            ("b", "../x"),
            ("b", "a/../../x"),
            ("b", "/x"),
            ("b", "a//x"),
            ("b", "x/"),
            ("..", "x"),
            (".", "x"),
            ("", "x"),
            (".unfinished", "x"),
            ("b/c", "x"),
            ("b", "a\0"),
        ] {
            let local = Local::new(root.clone(), bucket.into());
            let refused = local.put(key, &body, "").await.unwrap_err();
            assert_eq!(refused.class, Class::Never, "{bucket} {key}");
        }
        assert!(!root.exists() && fs::read_dir(dir.path()).unwrap().count() == 0);
    }

    #[tokio::test]
    async fn a_file_is_linked_where_it_can_be_and_outlives_the_shelf() {
        let dir = tempfile::tempdir().unwrap();
        let (root, shelf) = (dir.path().join("root"), dir.path().join("a.ts"));
        let local = Local::new(root.clone(), "bucket".into());
        fs::write(&shelf, b"segment").unwrap();
        let body = Body::of_file(&shelf).unwrap();
        for _ in 0..2 {
            local.put("p/t/a.ts", &body, "video/mp2t").await.unwrap();
        }
        fs::remove_file(&shelf).unwrap();
        local.put("p/t/b.ts", &body, "video/mp2t").await.unwrap();
        for name in ["a.ts", "b.ts"] {
            assert_eq!(fs::read(root.join("bucket/p/t").join(name)).unwrap(), b"segment");
        }
        let held = local.head("p/t/b.ts").await.unwrap().unwrap();
        assert_eq!((held.size, held.tag), (7, body.tag()));
        assert_eq!(local.head("p/t/c.ts").await.unwrap(), None);
        assert_eq!(fs::read_dir(root.join(UNFINISHED)).unwrap().count(), 0);
    }
}
