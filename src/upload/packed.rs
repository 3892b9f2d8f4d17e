//! Packed files on their way: made while they go up, part by part, and never all there.
//!
//! Owns: what of a packed file is sent next. Must not touch: how it is made (`package`).
//! Law: after a restart the next part is the first that has no record, since the same plan gives the same bytes; where it
//! does not, its upload is given up and its task plans anew.

use md5::{Digest, Md5};

use super::body::Contents;
use super::*;
use crate::package::Packaged;
use crate::store::Batch;
use crate::store::records::{PartEntry, PartsEntry};

/// A part up to this size is made once and sent from memory; a larger one is made twice.
const IN_MEMORY: u64 = 64 * 1024 * 1024;

impl Contents for Packaged {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        Packaged::read_at(self, buf, at)
    }
}

impl Uploader {
    /// The next step of a leased packed file.
    pub(super) async fn carry_packed(&self, job: &UploadJob, line: &Line) -> Result<Went, Broken> {
        let entry = job.entry();
        let file = self.packed(job).await?;
        let large = entry.bytes >= self.config.now().upload.multipart_from_bytes;
        let went = match line.store.parts().filter(|_| large) {
            Some(parts) => self.carry_packed_part(job, line, parts, &file).await?,
            None => {
                let body = stretch(&file, 0, entry.bytes).await?.paced(&self.pacer);
                let answered = line.store.put(&entry.object_key, &body, content_type(&entry.object)).await?;
                self.confirm(entry, line, &body.tag(), &answered).await?;
                Went::Up
            }
        };
        if matches!(went, Went::Up) {
            self.packer.close(&file);
        }
        Ok(went)
    }

    /// The file that a plan on the shelf tells of.
    pub(super) async fn packed(&self, job: &UploadJob) -> Result<Packaged, Broken> {
        let (plan, task, packer) = (job.file(), job.task().clone(), self.packer.clone());
        let (dir, vault) = job.folder();
        let vault = vault.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            io::Read::read_to_string(&mut plan.open()?, &mut text)?;
            packer.open(&task, dir, vault, &text)
        });
        let file = opened.await.map_err(io::Error::other).flatten().map_err(broken)?;
        if file.len() != job.entry().bytes || file.crc32() != job.entry().crc32 {
            return Err(Broken::Local("the plan is not that of the file".into()));
        }
        Ok(file)
    }

    async fn carry_packed_part(
        &self,
        job: &UploadJob,
        line: &Line,
        parts: &dyn PartStore,
        file: &Packaged,
    ) -> Result<Went, Broken> {
        let entry = job.entry();
        let part_bytes = self.config.now().upload.part_bytes.max(entry.bytes.div_ceil(parts::MOST_PARTS));
        let mut record = match self.parts_of(entry).await? {
            Some(there) if fits(&there, entry, part_bytes) => there,
            other => {
                if let Some(other) = other {
                    parts.abort(&other.object_key, &other.upload).await?;
                }
                self.begin(entry, part_bytes, parts).await?
            }
        };
        let count = entry.bytes.div_ceil(part_bytes);
        let there = record.parts.len() as u64;
        if there < count {
            let at = there * part_bytes;
            let body = stretch(file, at, part_bytes.min(entry.bytes - at)).await?.paced(&self.pacer);
            let number = u32::try_from(there + 1).expect("there are at most ten thousand parts");
            let began = std::time::Instant::now();
            let tag = match parts.put_part(&entry.object_key, &record.upload, number, &body).await {
                Ok(tag) => tag,
                Err(error) => return Err(self.part_failed(job, &record, parts, error).await),
            };
            metrics::histogram!("holdfast_upload_seconds").record(began.elapsed().as_secs_f64());
            metrics::counter!("holdfast_package_uploaded_bytes_total").increment(body.size);
            tracing::info!(task = %entry.task, object = entry.object, number, of = count, "a part of a packed file has arrived");
            record.parts.push(PartEntry { tag, md5: hex::encode(body.md5) });
            self.commit(Batch::new().put(record.key(), record.to_bytes())).await?;
            if there + 1 < count {
                return Ok(Went::On);
            }
        }
        let all = record
            .parts
            .iter()
            .fold(Md5::new(), |all, part| all.chain_update(hex::decode(&part.md5).unwrap_or_default()));
        let expected = format!("{}-{count}", hex::encode(all.finalize()));
        self.complete_parts(job, line, parts, &record, &expected).await
    }
}

/// Whether what was begun is this file, cut in this way.
fn fits(there: &PartsEntry, entry: &SpoolEntry, part_bytes: u64) -> bool {
    (there.bytes, there.crc32, there.part_bytes) == (entry.bytes, entry.crc32, part_bytes)
        && there.object_key == entry.object_key
        && there.parts.len() as u64 <= entry.bytes.div_ceil(part_bytes)
}

/// What it means that a packed file cannot be made.
pub(super) fn broken(error: io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Broken::Local(error.to_string()),
        _ if matches!(vault::Error::of(&error), Some(vault::Error::Head)) => Broken::Local(error.to_string()),
        // a disk that cannot be read just now holds up this file alone
        _ => PutError::new(Class::Never, LOCAL_READ_ERROR, error.to_string()).into(),
    }
}

/// A stretch of a packed file, with its sum.
async fn stretch(file: &Packaged, at: u64, size: u64) -> Result<Body, Broken> {
    let of = file.clone();
    let made = tokio::task::spawn_blocking(move || {
        if size <= IN_MEMORY {
            return of.stretch(at, size).map(Body::of_bytes);
        }
        let (mut sum, mut done) = (Md5::new(), 0);
        while done < size {
            let block = of.stretch(at + done, (size - done).min(IN_MEMORY / 16))?;
            sum.update(&block);
            done += block.len() as u64;
        }
        Ok(Body::new(Arc::new(of), at, size, sum.finalize().into()))
    });
    made.await.map_err(io::Error::other).flatten().map_err(broken)
}
