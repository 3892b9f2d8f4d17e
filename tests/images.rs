//! Pictures of layouts against a real server: what is taken, what is refused, what is told.
//!
//! Owns: a server that answers as it is told to, well or badly. Must not touch: how pictures are decoded.
//! Law: nothing that a server or a URL says leads into the box's own network, takes more than its time or bytes, or is
//! told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use holdfast::config::{self, Config};
use holdfast::images::Images;
use holdfast::media::stills::{MOST_BYTES, Stills};
use holdfast::model::TaskId;
use holdfast::model::mix::{ImageFailure, ImageOrder, ImageWant};
use image::{ImageFormat, Rgb, RgbImage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const GUARD: Duration = Duration::from_secs(30);

/// What the server does with a request.
#[derive(Clone)]
enum Page {
    Whole(Vec<u8>),
    /// A declared length, and no body.
    Declared(u64),
    /// Bytes without an end and without a length.
    Endless,
    /// A byte of a long body now and then.
    Drip,
    Status(u16),
    To(String),
}

struct Server {
    port: u16,
    host: String,
    pages: Arc<Mutex<BTreeMap<String, Vec<Page>>>>,
    seen: mpsc::Receiver<String>,
}

impl Server {
    /// On an address of this machine; all of 127/8 is.
    async fn start(host: &str) -> Server {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pages = Arc::<Mutex<BTreeMap<String, Vec<Page>>>>::default();
        let (to, seen) = mpsc::channel(1024);
        let answers = pages.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers.clone(), to.clone()));
            }
        });
        Server { port, host: host.into(), pages, seen }
    }

    /// Its answers, one after the other; the last is repeated.
    fn will(&self, path: &str, pages: &[Page]) -> String {
        self.pages.lock().unwrap().insert(path.into(), pages.to_vec());
        format!("http://{}:{}{path}", self.host, self.port)
    }

    async fn next(&mut self) -> String {
        tokio::time::timeout(GUARD, self.seen.recv()).await.expect("a request comes").unwrap()
    }

    /// Requests of which nobody has heard yet.
    fn unheard(&mut self) -> usize {
        std::iter::from_fn(|| self.seen.try_recv().ok()).count()
    }
}

async fn serve(mut stream: TcpStream, pages: Arc<Mutex<BTreeMap<String, Vec<Page>>>>, seen: mpsc::Sender<String>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    for unwanted in ["cookie:", "authorization:", "referer:"] {
        assert!(!head.to_lowercase().contains(unwanted), "{head}");
    }
    let target = head.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap().to_owned();
    let page = match pages.lock().unwrap().get_mut(&path) {
        Some(pages) if pages.len() > 1 => pages.remove(0),
        Some(pages) => pages[0].clone(),
        None => Page::Status(404),
    };
    seen.send(path).await.unwrap();
    // a client that has gone away is what some of these tests are about
    let _ = answer(&mut stream, page).await;
}

async fn answer(stream: &mut TcpStream, page: Page) -> std::io::Result<()> {
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n\r\n");
    match page {
        Page::Whole(bytes) => {
            // the type that it claims is of no interest
            let more = format!("Set-Cookie: a=b\r\nContent-Type: text/html\r\nContent-Length: {}", bytes.len());
            stream.write_all(head("200 OK", &more).as_bytes()).await?;
            stream.write_all(&bytes).await?;
        }
        Page::Declared(length) => {
            stream.write_all(head("200 OK", &format!("Content-Length: {length}")).as_bytes()).await?;
            // until the client goes
            let _ = stream.read(&mut [0; 1]).await?;
        }
        Page::Endless => {
            stream.write_all(head("200 OK", "Transfer-Encoding: chunked").as_bytes()).await?;
            let chunk = [b"10000\r\n".to_vec(), vec![0x89; 0x10000], b"\r\n".to_vec()].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Page::Drip => {
            stream.write_all(head("200 OK", "Content-Length: 100000").as_bytes()).await?;
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            loop {
                beat.tick().await;
                stream.write_all(&[0x89]).await?;
            }
        }
        Page::Status(status) => {
            stream.write_all(head(&format!("{status} No"), "Content-Length: 0").as_bytes()).await?;
        }
        Page::To(url) => {
            let more = format!("Location: {url}\r\nContent-Length: 0");
            stream.write_all(head("302 Found", &more).as_bytes()).await?;
        }
    }
    stream.shutdown().await
}

/// The fetcher at work.
struct Errand {
    stills: Stills,
    orders: mpsc::Sender<ImageOrder>,
    failures: mpsc::Receiver<ImageFailure>,
    running: JoinHandle<()>,
}

impl Errand {
    fn start(config: &config::Images) -> Errand {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        let stills = Stills::default();
        let images = Images::new(config, stills.clone()).unwrap();
        let (orders, to) = mpsc::channel(64);
        let (from, failures) = mpsc::channel(1);
        let running = tokio::spawn(images.run(to, from, CancellationToken::new()));
        Errand { stills, orders, failures, running }
    }

    async fn want(&self, task: &str, url: &str) {
        let want = ImageWant { task: TaskId::parse(task).expect("an id"), url: url.into() };
        self.orders.send(ImageOrder::Fetch(want)).await.expect("it runs");
    }

    /// This task shows these images, and no other task any.
    async fn shows(&self, task: &str, urls: &[&str]) {
        let task = BTreeSet::from([TaskId::parse(task).expect("an id")]);
        let shown = urls.iter().map(|url| ((*url).to_owned(), task.clone())).collect();
        self.orders.send(ImageOrder::Shown(shown)).await.expect("it runs");
    }

    async fn failure(&mut self) -> ImageFailure {
        tokio::time::timeout(GUARD, self.failures.recv()).await.expect("a failure is told").expect("it still runs")
    }

    /// The failure that a new task is told for this URL.
    async fn why(&mut self, url: &str) -> String {
        self.want("t", url).await;
        let news = self.failure().await;
        assert_eq!((news.task.as_str(), news.url.as_str()), ("t", url));
        assert!(self.stills.get(url).is_none());
        news.why
    }

    /// Ends when nothing is under way; gives what was told and not yet heard.
    async fn end(self) -> (Stills, Vec<ImageFailure>) {
        let Errand { stills, orders, mut failures, running } = self;
        drop(orders);
        let mut rest = Vec::new();
        while let Some(news) = tokio::time::timeout(GUARD, failures.recv()).await.expect("it comes to an end") {
            rest.push(news);
        }
        running.await.unwrap();
        (stills, rest)
    }
}

/// `allow` and quick waits.
fn images(allow: &str) -> config::Images {
    let waits = "timeout_seconds = 2\nretry_first_seconds = 1\nretry_longest_seconds = 1";
    Config::parse(&format!("[images]\nallow = [{allow}]\n{waits}")).unwrap().images
}

const HERE: &str = "'127.0.0.1'";

fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(width, height, Rgb([10, 200, 30])).write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

fn png() -> Page {
    Page::Whole(picture(4, 2, ImageFormat::Png))
}

#[tokio::test]
async fn pictures_come_once_each() {
    let mut server = Server::start("127.0.0.1").await;
    let a = server.will("/a.png", &[png()]);
    let b = server.will("/b.jpg", &[Page::Whole(picture(6, 8, ImageFormat::Jpeg))]);
    let c = server.will("/c.png", &[Page::To("/d.png".into())]);
    let _ = server.will("/d.png", &[Page::To("/a.png".into())]);
    let errand = Errand::start(&images(HERE));
    for url in [&a, &b, &format!("{c}?sig=x")] {
        for task in ["t", "u"] {
            errand.want(task, url).await;
        }
    }
    let (stills, told) = errand.end().await;
    assert_eq!(told, []);
    let size = |url: &str| stills.get(url).map(|still| (still.width, still.height));
    assert_eq!((size(&a), size(&b), size(&format!("{c}?sig=x"))), (Some((4, 2)), Some((6, 8)), Some((4, 2))));
    // a, b, c to d to a
    assert_eq!(server.unheard(), 5);
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let mut server = Server::start("127.0.0.1").await;
    let (a, b) = (server.will("/a.png", &[png()]), server.will("/b.png", &[png()]));
    let errand = Errand::start(&images(HERE));
    errand.stills.put(&a, holdfast::media::stills::decode(&picture(1, 1, ImageFormat::Png)).unwrap()).unwrap();
    errand.want("t", &a).await;
    errand.want("t", &b).await;
    assert_eq!(server.next().await, "/b.png");
    let (stills, _) = errand.end().await;
    assert_eq!((stills.get(&a).unwrap().width, stills.get(&b).unwrap().width), (1, 4));
    assert_eq!(server.unheard(), 0);
}

#[tokio::test]
async fn what_is_no_good_picture_is_told() {
    let server = Server::start("127.0.0.1").await;
    let mut errand = Errand::start(&images(HERE));
    let mut padded = picture(4, 2, ImageFormat::Png);
    padded.resize(MOST_BYTES + 1, 0);
    let half = picture(64, 64, ImageFormat::Png)[..90].to_vec();
    for (path, page, why) in [
        ("/words.png", Page::Whole(b"<html>no picture</html>".to_vec()), "neither PNG nor JPEG"),
        ("/empty.png", Page::Whole(Vec::new()), "neither PNG nor JPEG"),
        ("/half.png", Page::Whole(half), "cannot be decoded"),
        ("/wide.png", Page::Whole(picture(2561, 2, ImageFormat::Png)), "2561x2 pixels"),
        ("/heavy.png", Page::Whole(padded), "more than"),
        ("/declared.png", Page::Declared(1 << 40), "more than"),
        ("/endless.png", Page::Endless, "more than"),
        ("/drip.png", Page::Drip, "did not come within 2 s"),
        ("/short.png", Page::Declared(100), "did not come within 2 s"),
        ("/gone.png", Page::Status(404), "404"),
        ("/loop.png", Page::To("/loop.png".into()), "redirected more than 3 times"),
        // such a place the client does not even consider
        ("/file.png", Page::To("file:///etc/passwd".into()), "302"),
        ("/ftp.png", Page::To("ftp://127.0.0.1/a.png".into()), "it was redirected: its scheme is 'ftp'"),
    ] {
        let url = server.will(path, &[page]);
        let began = Instant::now();
        let told = errand.why(&url).await;
        assert!(told.contains(why), "{path}: {told}");
        assert!(began.elapsed() < Duration::from_secs(10), "{path}");
    }
}

#[tokio::test]
async fn what_is_shown_no_more_is_not_tried_and_told_anew_when_it_comes_back() {
    let mut server = Server::start("127.0.0.1").await;
    let (gone, kept) = (server.will("/gone.png", &[Page::Status(404)]), server.will("/kept.png", &[Page::Status(404)]));
    let mut errand = Errand::start(&images(HERE));
    errand.why(&gone).await;
    errand.why(&kept).await;
    errand.shows("t", &[&kept]).await;
    let _ = server.unheard();
    // what is waited for is tried each second
    let (mut tries, mut more) = (0, 0);
    while tries < 4 {
        *if server.next().await == "/kept.png" { &mut tries } else { &mut more } += 1;
    }
    assert!(more <= 1, "one may have been under way: {more}");
    assert!(errand.why(&gone).await.contains("404"));
}

#[tokio::test]
async fn a_signature_in_a_query_is_not_in_the_reason() {
    let server = Server::start("127.0.0.1").await;
    let mut errand = Errand::start(&images(HERE));
    let _ = server.will("/hop.png", &[Page::To("http://127.0.0.3:1/x.png?sig=hush".into())]);
    for path in ["/hop.png?sig=hush", "/gone.png?sig=hush"] {
        let why = errand.why(&format!("http://127.0.0.1:{}{path}", server.port)).await;
        assert!(!why.contains("hush"), "{why}");
    }
    let deaf = deaf();
    let nobody = format!("http://{}/a.png?sig=hush", deaf.local_addr().unwrap());
    let why = errand.why(&nobody).await;
    assert!(!why.contains("hush") && why.contains("refused"), "{why}");
}

/// Somebody who has a port and listens to nobody.
fn deaf() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has free ports");
    socket
}

#[tokio::test]
async fn nothing_leads_into_the_boxs_own_network() {
    let mut server = Server::start("127.0.0.1").await;
    let url = server.will("/a.png", &[png()]);
    let port = server.port;
    let mut errand = Errand::start(&images(""));
    for (url, why) in [
        (url.as_str(), "127.0.0.1 is loopback"),
        // a name that resolves to it: the same as a name that is bound anew between check and connection
        (&format!("http://localhost:{port}/a.png"), "loopback, and the configuration"),
        (&format!("http://[::ffff:127.0.0.1]:{port}/a.png"), "loopback"),
        (&format!("http://2130706433:{port}/a.png"), "loopback"),
        ("http://169.254.169.254/latest/meta-data/", "link-local"),
        ("http://[fd00:ec2::254]/latest/meta-data/", "unique local"),
        ("file:///etc/passwd", "scheme is 'file'"),
        ("ftp://127.0.0.1/a.png", "scheme is 'ftp'"),
        (&format!("http://me:secret@127.0.0.1:{port}/a.png"), "user name or password"),
        ("a.png", "not a URL"),
    ] {
        let told = errand.why(url).await;
        assert!(told.contains(why), "{url}: {told}");
    }
    assert_eq!(server.unheard(), 0, "the server was reached");
}

#[tokio::test]
async fn a_redirect_is_checked_like_the_first() {
    let server = Server::start("127.0.0.1").await;
    let mut inner = Server::start("127.0.0.2").await;
    let secret = inner.will("/a.png", &[png()]);
    let url = server.will("/hop.png", &[Page::To(secret.clone())]);
    let mut errand = Errand::start(&images(HERE));
    let told = errand.why(&url).await;
    assert!(told.contains("it was redirected: 127.0.0.2 is loopback"), "{told}");
    assert_eq!(inner.unheard(), 0, "the inner server was reached");
    drop(errand);

    // the same way is open when both ends are allowed
    let errand = Errand::start(&images("'127.0.0.1', '127.0.0.2/32'"));
    errand.want("t", &url).await;
    let (stills, told) = errand.end().await;
    assert_eq!(told, []);
    assert!(stills.get(&url).is_some());
    assert_eq!(inner.unheard(), 1);
}

/// `localhost` is ::1 too on many machines; only what is allowed of it is connected to.
#[tokio::test]
async fn a_name_is_reached_at_its_allowed_addresses() {
    let server = Server::start("127.0.0.1").await;
    let _ = server.will("/a.png", &[png()]);
    let url = format!("http://localhost:{}/a.png", server.port);
    let errand = Errand::start(&images(HERE));
    errand.want("t", &url).await;
    let (stills, told) = errand.end().await;
    assert_eq!(told, []);
    assert!(stills.get(&url).is_some());
}

#[tokio::test]
async fn a_failure_is_told_once_and_mended_in_silence() {
    let mut server = Server::start("127.0.0.1").await;
    let url = server.will("/a.png", &[Page::Status(503), Page::Status(503), png()]);
    let mut errand = Errand::start(&images(HERE));
    errand.want("t", &url).await;
    assert_eq!(errand.failure().await.why, "the server answered 503");
    // a Modify repeats the picture; another task wants it too, and is told what is known
    errand.want("t", &url).await;
    errand.want("u", &url).await;
    let second = errand.failure().await;
    assert_eq!((second.task.as_str(), second.why.as_str()), ("u", "the server answered 503"));
    for _ in 0..3 {
        server.next().await;
    }
    let (stills, told) = errand.end().await;
    assert_eq!(told, []);
    assert!(stills.get(&url).is_some(), "the server is back, and so is the picture");
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_no_other() {
    let mut server = Server::start("127.0.0.1").await;
    let errand = Errand::start(&config::Images { timeout_seconds: 60, ..images(HERE) });
    for n in 0..3 {
        errand.want("t", &server.will(&format!("/drip{n}.png"), &[Page::Drip])).await;
        server.next().await;
    }
    for n in 0..20 {
        errand.want("t", &server.will(&format!("/{n}.png"), &[png()])).await;
        assert_eq!(server.next().await, format!("/{n}.png"));
    }
}

/// Who is told of failures may be waiting to say what it wants: neither may hold up the other.
#[tokio::test]
async fn news_that_nobody_takes_stop_nothing() {
    let server = Server::start("127.0.0.1").await;
    let url = server.will("/a.png", &[png()]);
    let errand = Errand::start(&images(HERE));
    for n in 0..200 {
        errand.want("t", &format!("file:///{n}")).await;
    }
    errand.want("t", &url).await;
    let (stills, told) = errand.end().await;
    assert_eq!(told.len(), 200);
    assert!(stills.get(&url).is_some());
}
