//! What is sent: a file or a part of it, read where it lies while it goes out.
//!
//! Owns: checksums of what is sent, reading in blocks, asking the budget for each of them. Must not touch: requests.
//! Law: never more of a body is in memory than a few blocks; what was sent is what was summed, or the destination's
//! answer does not fit.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use md5::{Digest, Md5};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pace::Pacer;
use crate::model::budget::Rate;
use crate::vault::Input;

/// Read at once.
const BLOCK: usize = 256 * 1024;
/// Bodies up to this size go out as one block.
pub const SMALL: u64 = 64 * 1024;

/// Bytes that can be read from any place, again and again.
pub trait Contents: Send + Sync {
    /// As `pread`: may read less than `buf`, and nothing at the end.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Contents for File {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, at)
    }
}

impl Contents for Mutex<Input> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        // whoever panicked in the middle left a place from which the next one seeks anyhow
        let mut input = self.lock().unwrap_or_else(PoisonError::into_inner);
        input.seek(SeekFrom::Start(at))?;
        input.read(buf)
    }
}

impl Contents for Bytes {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// What all of the contents add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    pub bytes: u64,
    pub crc32: u32,
    pub md5: [u8; 16],
    /// MD5 of each part, in order, where parts were asked for.
    pub parts: Vec<[u8; 16]>,
}

impl Sums {
    /// Reads all of it once. Blocks.
    pub fn of(contents: &dyn Contents, part_bytes: Option<u64>) -> io::Result<Sums> {
        let (mut crc, mut whole, mut part) = (crc32fast::Hasher::new(), Md5::new(), Md5::new());
        let (mut bytes, mut of_part, mut parts) = (0u64, 0u64, Vec::new());
        let mut block = vec![0; BLOCK];
        loop {
            let left = part_bytes.map_or(u64::MAX, |limit| limit - of_part);
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let n = contents.read_at(&mut block[..most], bytes)?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
            crc.update(&block[..n]);
            // a file in parts is never asked for the sum of the whole
            match part_bytes {
                None => whole.update(&block[..n]),
                Some(limit) => {
                    part.update(&block[..n]);
                    of_part += n as u64;
                    if of_part == limit {
                        parts.push(std::mem::take(&mut part).finalize().into());
                        of_part = 0;
                    }
                }
            }
        }
        if of_part > 0 {
            parts.push(part.finalize().into());
        }
        Ok(Sums { bytes, crc32: crc.finalize(), md5: whole.finalize().into(), parts })
    }

    /// The ETag that S3 gives to an object made of these parts.
    pub fn tag_of_parts(&self) -> String {
        let all = self.parts.iter().fold(Md5::new(), |all, part| all.chain_update(part));
        format!("{}-{}", hex::encode(all.finalize()), self.parts.len())
    }
}

/// What to store.
#[derive(Clone)]
pub struct Body {
    contents: Arc<dyn Contents>,
    at: u64,
    pub size: u64,
    pub md5: [u8; 16],
    /// A file with just these contents, of which a second name will do.
    pub file: Option<PathBuf>,
    pacer: Option<Arc<Pacer>>,
}

impl Body {
    /// A stretch of the contents.
    pub fn new(contents: Arc<dyn Contents>, at: u64, size: u64, md5: [u8; 16]) -> Body {
        Body { contents, at, size, md5, file: None, pacer: None }
    }

    pub fn of_bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes: Bytes = bytes.into();
        let (size, md5) = (bytes.len() as u64, Md5::digest(&bytes).into());
        Body::new(Arc::new(bytes), 0, size, md5)
    }

    /// Blocks.
    pub fn of_file(path: &Path) -> io::Result<Body> {
        let file = File::open(path)?;
        let sums = Sums::of(&file, None)?;
        Ok(Body::new(Arc::new(file), 0, sums.bytes, sums.md5).linked(path))
    }

    #[must_use]
    pub fn linked(self, file: &Path) -> Body {
        Body { file: Some(file.to_owned()), ..self }
    }

    /// Each block is asked for before it goes out.
    #[must_use]
    pub fn paced(self, pacer: &Arc<Pacer>) -> Body {
        Body { pacer: Some(pacer.clone()), ..self }
    }

    /// MD5 in hex, as it stands in an ETag.
    pub fn tag(&self) -> String {
        hex::encode(self.md5)
    }

    /// All of it, into a file. Blocks.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut done = 0;
        while done < self.size {
            let block = self.block(done)?;
            to.write_all(&block)?;
            done += block.len() as u64;
        }
        Ok(())
    }

    /// The next bytes behind `done`. Blocks.
    fn block(&self, done: u64) -> io::Result<Bytes> {
        let most = usize::try_from(self.size - done).unwrap_or(BLOCK).min(BLOCK);
        let mut block = vec![0; most];
        let mut filled = 0;
        while filled < most {
            match self.contents.read_at(&mut block[filled..], self.at + done + filled as u64)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
                n => filled += n,
            }
        }
        Ok(block.into())
    }

    async fn block_off_the_runtime(&self, done: u64) -> io::Result<Bytes> {
        let body = self.clone();
        tokio::task::spawn_blocking(move || body.block(done)).await.map_err(io::Error::other)?
    }

    /// All of a small body, once the budget gives it.
    pub async fn small(&self, progress: &Progress) -> io::Result<Option<Bytes>> {
        if self.size > SMALL {
            return Ok(None);
        }
        if self.size == 0 {
            return Ok(Some(Bytes::new()));
        }
        let block = self.block_off_the_runtime(0).await?;
        self.ask(block.len(), progress).await?;
        progress.set(Stage::Sent);
        Ok(Some(block))
    }

    /// Sends itself, block by block, to whoever reads the stream.
    pub fn stream(&self, progress: Arc<Progress>) -> Stream {
        let (to, blocks) = mpsc::channel(1);
        let body = self.clone();
        tokio::spawn(async move {
            if let Err(error) = body.feed(&to, &progress).await {
                // the request may be over already
                let _ = to.send(Err(error)).await;
            }
        });
        Stream { blocks, left: self.size }
    }

    async fn feed(&self, to: &mpsc::Sender<io::Result<Bytes>>, progress: &Progress) -> io::Result<()> {
        let mut done = 0;
        while done < self.size {
            let mut block = self.block_off_the_runtime(done).await?;
            done += block.len() as u64;
            while !block.is_empty() {
                let n = match self.pacer.as_ref().map(|pacer| pacer.rate()) {
                    None | Some(Rate::Unlimited) => block.len(),
                    Some(rate) => rate.slice().min(block.len()),
                };
                tokio::select! {
                    asked = self.ask(n, progress) => asked?,
                    () = to.closed() => return Ok(()),
                }
                if to.send(Ok(block.split_to(n))).await.is_err() {
                    return Ok(());
                }
                progress.set(Stage::Sending);
            }
        }
        progress.set(Stage::Sent);
        Ok(())
    }

    async fn ask(&self, bytes: usize, progress: &Progress) -> io::Result<()> {
        let Some(pacer) = &self.pacer else { return Ok(()) };
        progress.set(Stage::Waiting);
        if pacer.take(bytes).await.is_err() {
            progress.set(Stage::Paused);
            return Err(io::Error::other("the upload budget gives nothing now"));
        }
        progress.set(Stage::Sending);
        Ok(())
    }
}

/// How far a body has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Sending,
    /// For the budget, which is not the destination's fault.
    Waiting,
    Sent,
    /// Broken off: the budget gives nothing.
    Paused,
}

/// What a body says of itself while it goes out.
#[derive(Debug)]
pub struct Progress(Mutex<(Stage, Instant)>);

impl Progress {
    pub fn start() -> Arc<Progress> {
        Arc::new(Progress(Mutex::new((Stage::Sending, Instant::now()))))
    }

    fn set(&self, stage: Stage) {
        *self.0.lock().expect("nothing panics while it holds this lock") = (stage, Instant::now());
    }

    /// Where it is, and since when.
    pub fn now(&self) -> (Stage, Instant) {
        *self.0.lock().expect("nothing panics while it holds this lock")
    }
}

/// A body on its way, of known size.
pub struct Stream {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = ready!(self.blocks.poll_recv(cx));
        if let Some(Ok(block)) = &next {
            self.left -= block.len() as u64;
        }
        Poll::Ready(next.map(|block| block.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_whole_and_of_its_parts() {
        let contents = Bytes::from_static(b"123456789");
        let whole = Sums::of(&contents, None).unwrap();
        assert_eq!((whole.bytes, whole.crc32), (9, 0xcbf4_3926));
        assert_eq!(hex::encode(whole.md5), "25f9e794323b453885f5181f1b624d0b");
        let parts = Sums::of(&contents, Some(4)).unwrap();
        assert_eq!((parts.bytes, parts.crc32), (9, 0xcbf4_3926));
        let expected: Vec<[u8; 16]> = ["1234", "5678", "9"].map(|part| Md5::digest(part).into()).into();
        assert_eq!(parts.parts, expected);
        assert_eq!(parts.tag_of_parts(), format!("{}-3", hex::encode(Md5::digest(expected.concat()))));
        assert_eq!(Sums::of(&contents, Some(3)).unwrap().parts.len(), 3);
        assert_eq!(Sums::of(&Bytes::new(), Some(3)).unwrap().parts.len(), 0);
    }

    #[tokio::test]
    async fn a_stretch_streams_in_blocks_and_a_file_that_shrinks_breaks_the_stream() {
        let contents: Vec<u8> = (0..600_000u32).map(|n| n as u8).collect();
        let mut body = Body::new(Arc::new(Bytes::from(contents.clone())), 1_000, 599_000, [0; 16]);
        let mut stream = body.stream(Progress::start());
        let mut read = Vec::new();
        while let Some(block) = stream.blocks.recv().await {
            read.extend_from_slice(&block.unwrap());
        }
        assert!(read == contents[1_000..]);
        body.size += 1;
        let mut stream = body.stream(Progress::start());
        let mut last = None;
        while let Some(block) = stream.blocks.recv().await {
            last = Some(block);
        }
        assert_eq!(last.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
