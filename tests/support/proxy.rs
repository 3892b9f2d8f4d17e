//! A line between box and storage on which everything goes wrong that can: by word of the test, or by a seeded script.
#![allow(dead_code, reason = "each test file uses its share")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of requests. A change reaches connections that are open, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// The call is taken and dropped at once.
    Refuse,
    /// The call is taken and nothing is said.
    Stall,
    /// Broken off after so many bytes of the requests.
    Cut(usize),
    /// The storage hears everything, and what it answers is lost.
    Deaf,
    /// One bit of every larger stretch of a request is another one.
    Corrupt,
    /// Bytes a second of each connection.
    Slow(usize),
    /// The storage's front answers everything with this status and code.
    Answer(u16, &'static str),
}

pub struct Proxy {
    pub endpoint: String,
    mode: watch::Sender<Mode>,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    bytes: AtomicUsize,
}

impl Proxy {
    /// `target` as `http://host:port`.
    pub async fn to(target: &str, mode: Mode) -> Proxy {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (mode, word) = watch::channel(mode);
        let seen = Arc::new(Seen::default());
        let counted = seen.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                while connections.try_join_next().is_some() {}
                let (target, word, counted) = (target.clone(), word.clone(), counted.clone());
                // whatever ends it is what the script wanted, or the other side
                connections.spawn(async move { drop(connection(near, target, word, &counted).await) });
            }
        });
        Proxy { endpoint, mode, seen, accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Calls that were taken.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Bytes of requests that came in.
    pub fn bytes(&self) -> usize {
        self.seen.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// For as long the storage may take to end what it was asked for.
const LINGERS: Duration = Duration::from_secs(5);

/// One connection, as the mode of the moment wants it.
async fn connection(mut near: TcpStream, target: String, word: watch::Receiver<Mode>, seen: &Seen) -> io::Result<()> {
    let mut changes = word.clone();
    changes.mark_unchanged();
    let mode = *word.borrow();
    match mode {
        Mode::Refuse => Ok(()),
        // until the mode changes; then it is dropped
        Mode::Stall => {
            let _ = changes.changed().await;
            Ok(())
        }
        Mode::Answer(status, code) => {
            tokio::select! {
                answered = answer(&mut near, status, code, seen) => answered,
                _ = changes.changed() => Ok(()),
            }
        }
        _ => pump(near, TcpStream::connect(target).await?, word, seen).await,
    }
}

async fn pump(near: TcpStream, far: TcpStream, word: watch::Receiver<Mode>, seen: &Seen) -> io::Result<()> {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let word_up = word.clone();
    let up = async {
        let (mut chunk, mut sent) = (vec![0; 16 * 1024], 0);
        loop {
            let n = near_in.read(&mut chunk).await?;
            if n == 0 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            seen.bytes.fetch_add(n, Ordering::SeqCst);
            let mode = *word_up.borrow();
            match mode {
                Mode::Pass | Mode::Deaf => {}
                Mode::Cut(limit) if sent + n >= limit => {
                    far_out.write_all(&chunk[..n.min(limit.saturating_sub(sent))]).await?;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Mode::Cut(_) => {}
                Mode::Corrupt if n > 2048 => chunk[n - 1] ^= 4,
                Mode::Corrupt => {}
                Mode::Slow(rate) => tokio::time::sleep(Duration::from_secs_f64(n as f64 / rate as f64)).await,
                Mode::Refuse | Mode::Answer(..) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Mode::Stall => return stalled(&word_up).await,
            }
            sent += n;
            far_out.write_all(&chunk[..n]).await?;
        }
    };
    let down = async {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let n = far_in.read(&mut chunk).await?;
            if n == 0 {
                return near_out.shutdown().await;
            }
            let mode = *word.borrow();
            match mode {
                Mode::Deaf | Mode::Refuse => return Err(io::ErrorKind::ConnectionAborted.into()),
                Mode::Stall => return stalled(&word).await,
                _ => near_out.write_all(&chunk[..n]).await?,
            }
        }
    };
    // the first that fails takes the other with it
    let ended = tokio::try_join!(up, down).map(drop);
    // A storage ends what it was asked for, whoever has gone meanwhile; a light one (s3s-fs) stops in the middle of
    // putting an upload together when its caller hangs up, and has half of it for ever.
    let _ = tokio::time::timeout(LINGERS, far_in.read(&mut [0; 1])).await;
    ended
}

/// Nothing moves until the mode is another; then the connection is gone.
async fn stalled(word: &watch::Receiver<Mode>) -> io::Result<()> {
    let mut word = word.clone();
    let _ = word.wait_for(|mode| *mode != Mode::Stall).await;
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// Hears a request out and answers it as a storage would.
async fn answer(near: &mut TcpStream, status: u16, code: &str, seen: &Seen) -> io::Result<()> {
    let (mut request, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    let head = loop {
        let n = near.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        seen.bytes.fetch_add(n, Ordering::SeqCst);
        request.extend_from_slice(&chunk[..n]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).map(str::trim);
    let mut left = length.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0).saturating_sub(request.len() - head);
    while left > 0 {
        let n = near.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        left = left.saturating_sub(n);
    }
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the script says</Message></Error>");
    let shown = if text.starts_with("head ") { "" } else { &body };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{shown}"
    );
    near.write_all(answer.as_bytes()).await?;
    near.shutdown().await
}
