//! The errand: fetches the pictures of a layout and puts them on the lanes' shelf.
//!
//! Owns: requests for pictures, when they are repeated, what is told of their failure. Must not touch: what a picture
//! must be (`media::stills`), which pictures a task wants.
//! Law: whoever may start a recording chooses the URL, so a URL is not trusted. It reaches no address that is not the
//! world's or allowed by the configuration, and a neighbour's address is not the world's: the host that is an address,
//! what a name resolves to at the moment of connecting, and each redirect are all checked. Time and bytes are bounded
//! whatever the other end says. A failure is told once for each task and URL, and then mended in silence. A URL's query
//! may be a signature and is never logged.
//! Sources: API.md §1.9, RECORDING.md §4 (event 309).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use reqwest::StatusCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use crate::config;
use crate::media::stills::{self, StillError, Stills};
use crate::model::TaskId;
use crate::model::address::{network_of, refused_beside};
use crate::model::backlog::backoff;
use crate::model::mix::{ImageFailure, ImageOrder, ImageWant};

/// Requests at once.
const AT_ONCE: usize = 4;
const MOST_REDIRECTS: usize = 3;
/// Tries of one URL; with the default waits they take some eighty minutes.
const MOST_TRIES: u32 = 20;
/// URLs that are remembered, the given up ones included.
const MOST_LINES: usize = 2048;
/// Tasks that are remembered for one URL.
const MOST_TASKS: usize = 1024;
/// News that nobody has taken yet.
const MOST_NEWS: usize = 4096;
/// Characters of a URL in the log.
const MOST_SHOWN: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a picture could not be had.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The URL itself is wrong: no try will mend it.
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error("{0}")]
    Request(String),
    #[error("the server answered {0}")]
    Status(u16),
    #[error("it did not come within {} s", .0.as_secs())]
    Late(Duration),
    #[error(transparent)]
    Still(#[from] StillError),
}

#[derive(Debug, thiserror::Error)]
enum BadUrl {
    #[error("it is not a URL: {0}")]
    Syntax(url::ParseError),
    #[error("its scheme is '{0}', not http or https")]
    Scheme(String),
    #[error("it carries a user name or password")]
    Credentials,
    #[error("it names no host")]
    Host,
    #[error(transparent)]
    Inner(#[from] Inner),
}

#[derive(Debug, thiserror::Error)]
#[error("{address} is {range}, and the configuration does not allow it")]
struct Inner {
    address: IpAddr,
    range: &'static str,
}

#[derive(Debug, thiserror::Error)]
enum BadRedirect {
    #[error("it was redirected more than {MOST_REDIRECTS} times")]
    TooMany,
    #[error("it was redirected")]
    To(#[from] BadUrl),
}

/// One URL that somebody wants.
#[derive(Default)]
struct Line {
    /// Who wants it, and whether they were told of a failure.
    tasks: BTreeMap<TaskId, bool>,
    tries: u32,
    in_flight: bool,
    /// `None`: given up, until it is wanted again.
    next_try: Option<Instant>,
    /// Of the last try.
    why: Option<String>,
}

/// Fetches pictures.
pub struct Images {
    stills: Stills,
    fetcher: Arc<Fetcher>,
    retry_first: Duration,
    retry_longest: Duration,
}

impl Images {
    /// A crypto provider of rustls must be installed in the process.
    pub fn new(config: &config::Images, stills: Stills) -> Result<Images, Error> {
        let fetcher = Fetcher::new(Outward::new(&config.allow), Duration::from_secs(config.timeout_seconds))?;
        Ok(Images {
            stills,
            fetcher: Arc::new(fetcher),
            retry_first: Duration::from_secs(config.retry_first_seconds),
            retry_longest: Duration::from_secs(config.retry_longest_seconds),
        })
    }

    /// Until `cancel`, or until nobody wants anything any more and what is under way has ended.
    pub async fn run(
        self,
        mut orders: mpsc::Receiver<ImageOrder>,
        failures: mpsc::Sender<ImageFailure>,
        cancel: CancellationToken,
    ) {
        let mut lines = BTreeMap::<String, Line>::new();
        // kept here until they are taken: whoever is told may be waiting for us to take a want
        let mut news = News::default();
        let mut flights = JoinSet::<(String, Result<(), Failure>)>::new();
        let mut open = true;
        while open || !flights.is_empty() || !news.0.is_empty() {
            self.launch(&mut lines, &mut flights);
            let wake = match flights.len() < AT_ONCE {
                true => lines.values().filter(|line| !line.in_flight).filter_map(|line| line.next_try).min(),
                false => None,
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                order = orders.recv(), if open => match order {
                    Some(ImageOrder::Fetch(want)) => self.wanted(&mut lines, want, &mut news),
                    Some(ImageOrder::Shown(shown)) => let_go(&mut lines, &shown),
                    None => open = false,
                },
                permit = failures.reserve(), if !news.0.is_empty() => match (permit, news.0.pop_front()) {
                    (Ok(permit), Some(first)) => permit.send(first),
                    // who no longer listens has no task any more
                    _ => news.0.clear(),
                },
                landed = flights.join_next(), if !flights.is_empty() => match landed {
                    Some(Ok((url, outcome))) => self.landed(&mut lines, &url, outcome, &mut news),
                    Some(Err(error)) => {
                        tracing::error!(%error, "an image's request ended in a panic");
                        // whose it was is not known
                        flights.shutdown().await;
                        for line in lines.values_mut().filter(|line| line.in_flight) {
                            line.in_flight = false;
                            line.next_try = Some(Instant::now() + self.retry_longest);
                        }
                    }
                    None => {}
                },
                () = sleep_until(wake), if wake.is_some() => {}
            }
        }
        flights.shutdown().await;
    }

    fn wanted(&self, lines: &mut BTreeMap<String, Line>, want: ImageWant, news: &mut News) {
        if self.stills.get(&want.url).is_some() {
            return;
        }
        if lines.len() >= MOST_LINES && !lines.contains_key(&want.url) {
            lines.retain(|_, line| line.in_flight || line.next_try.is_some());
            if lines.len() >= MOST_LINES {
                return news.tell(&want.task, &want.url, &format!("{MOST_LINES} other images are waited for"));
            }
        }
        let line = lines.entry(want.url.clone()).or_default();
        if line.next_try.is_none() {
            line.tries = 0;
            line.next_try = Some(Instant::now());
        }
        if line.tasks.len() >= MOST_TASKS {
            // some must go; they may be told a second time
            line.tasks.pop_first();
        }
        let told = line.tasks.entry(want.task.clone()).or_insert(false);
        // another task's tries have failed so far: this one need not wait for the next to know
        if let (Some(why), false) = (&line.why, *told) {
            *told = true;
            news.tell(&want.task, &want.url, why);
        }
    }

    fn launch(&self, lines: &mut BTreeMap<String, Line>, flights: &mut JoinSet<(String, Result<(), Failure>)>) {
        let now = Instant::now();
        let mut due: Vec<_> = lines.iter_mut().filter(|(_, line)| !line.in_flight).collect();
        due.retain(|(_, line)| line.next_try.is_some_and(|at| at <= now));
        // who waits longest goes first
        due.sort_by_key(|(_, line)| line.next_try);
        for (url, line) in due {
            if flights.len() >= AT_ONCE {
                return;
            }
            line.in_flight = true;
            line.tries += 1;
            let (fetcher, stills, url) = (self.fetcher.clone(), self.stills.clone(), url.clone());
            flights.spawn(async move {
                let outcome = fetcher.picture(&url, &stills).await;
                (url, outcome)
            });
        }
    }

    fn landed(&self, lines: &mut BTreeMap<String, Line>, url: &str, outcome: Result<(), Failure>, news: &mut News) {
        let Some(line) = lines.get_mut(url) else { return };
        line.in_flight = false;
        let image = shown(url);
        let failure = match outcome {
            Ok(()) => {
                metrics::counter!("holdfast_images_total", "outcome" => "ok").increment(1);
                tracing::info!(image, tries = line.tries, "an image is there");
                if line.tasks.is_empty() {
                    self.stills.forget(url);
                }
                lines.remove(url);
                return;
            }
            Err(failure) => failure,
        };
        metrics::counter!("holdfast_images_total", "outcome" => "failed").increment(1);
        if line.tasks.is_empty() {
            tracing::debug!(image, why = %failure, "an image that nobody shows any more cannot be had");
            lines.remove(url);
            return;
        }
        let why = failure.to_string();
        let mendable = !matches!(failure, Failure::Url(_)) && line.tries < MOST_TRIES;
        let wait = mendable.then(|| backoff(line.tries, self.retry_first, self.retry_longest, rand::random()));
        line.next_try = wait.map(|wait| Instant::now() + wait);
        if line.why.is_none() || wait.is_none() {
            tracing::warn!(image, why, ?wait, "an image cannot be had");
        } else {
            tracing::debug!(image, why, ?wait, "an image still cannot be had");
        }
        for (task, told) in line.tasks.iter_mut().filter(|(_, told)| !**told) {
            *told = true;
            news.tell(task, url, &why);
        }
        line.why = Some(why);
    }
}

/// Nobody waits for what is not shown any more: it is not tried again, and its failure is told anew when it comes back.
fn let_go(lines: &mut BTreeMap<String, Line>, shown: &BTreeMap<String, BTreeSet<TaskId>>) {
    lines.retain(|url, line| {
        let by = shown.get(url);
        line.tasks.retain(|task, _| by.is_some_and(|tasks| tasks.contains(task)));
        line.in_flight || !line.tasks.is_empty()
    });
}

/// Takes something that the box made to an address that somebody gave it, by the same rules: the world's addresses by
/// https, those that `allow` holds by http, too.
pub struct Outlet {
    client: reqwest::Client,
    outward: Outward,
}

/// What is put may be some megabytes on a slow line.
const PUT_WITHIN: Duration = Duration::from_secs(120);

impl Outlet {
    pub fn new(allow: &[IpNet]) -> Result<Outlet, String> {
        let outward = Outward::new(allow);
        let client = client(outward.clone(), Policy::none()).map_err(|error| Error::Client(error).to_string())?;
        Ok(Outlet { client, outward })
    }

    /// Whether anything may go there, as far as can be said without asking for its name.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let url = Url::parse(url).map_err(|error| BadUrl::Syntax(error).to_string())?;
        self.outward.check(&url).map_err(|error| error.to_string())?;
        let inner = |address: IpAddr| self.outward.allow.iter().any(|net| net.contains(&address));
        let allowed = match url.host() {
            Some(Host::Ipv4(address)) => inner(address.into()),
            Some(Host::Ipv6(address)) => inner(address.into()),
            _ => false,
        };
        let safe = url.scheme() == "https" || allowed;
        if safe { Ok(()) } else { Err("it is not an https address".into()) }
    }

    /// By PUT, as signed addresses want it.
    pub async fn put(&self, url: &str, body: Vec<u8>, content_type: &str) -> Result<(), String> {
        self.check(url)?;
        let request = self.client.put(url).timeout(PUT_WITHIN).header("content-type", content_type).body(body);
        let answer = request.send().await.map_err(|error| Failure::request(error).to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(Failure::Status(status.as_u16()).to_string()) }
    }
}

/// Connects to nothing but what may be reached.
fn client(outward: Outward, redirects: Policy) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .dns_resolver(Arc::new(outward))
        .redirect(redirects)
        // what the signed URL was is nothing that the next host should know
        .referer(false)
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        // a proxy would connect in our place, unchecked
        .no_proxy()
        // each request resolves and checks anew
        .pool_max_idle_per_host(0)
        .build()
}

/// What is still to be told.
#[derive(Default)]
struct News(VecDeque<ImageFailure>);

impl News {
    fn tell(&mut self, task: &TaskId, url: &str, why: &str) {
        let told = ImageFailure { task: task.clone(), url: url.to_owned(), why: why.to_owned() };
        if self.0.len() < MOST_NEWS {
            self.0.push_back(told);
        } else {
            tracing::warn!(?told, "nobody listens to news of images");
        }
    }
}

/// One request for one picture.
struct Fetcher {
    client: reqwest::Client,
    outward: Outward,
    timeout: Duration,
}

impl Fetcher {
    fn new(outward: Outward, timeout: Duration) -> Result<Fetcher, reqwest::Error> {
        let hops = outward.clone();
        let client = client(outward.clone(), Policy::custom(move |attempt| redirected(attempt, &hops)))?;
        Ok(Fetcher { client, outward, timeout })
    }

    async fn picture(&self, url: &str, stills: &Stills) -> Result<(), Failure> {
        let late = |_| Failure::Late(self.timeout);
        let bytes = tokio::time::timeout(self.timeout, self.bytes(url)).await.map_err(late)??;
        let decoded = tokio::task::spawn_blocking(move || stills::decode(&bytes)).await;
        let still = decoded.map_err(|_| StillError::Broken("the decoder gave up".into()))??;
        stills.put(url, still)?;
        Ok(())
    }

    async fn bytes(&self, url: &str) -> Result<Vec<u8>, Failure> {
        let url = Url::parse(url).map_err(BadUrl::Syntax)?;
        self.outward.check(&url)?;
        let mut answer = self.client.get(url).send().await.map_err(Failure::request)?;
        if answer.status() != StatusCode::OK {
            return Err(Failure::Status(answer.status().as_u16()));
        }
        if answer.content_length().is_some_and(|length| length > stills::MOST_BYTES as u64) {
            return Err(StillError::Bytes.into());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(Failure::request)? {
            if bytes.len() + chunk.len() > stills::MOST_BYTES {
                return Err(StillError::Bytes.into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Failure {
    /// The error's own text would name the URL with its query.
    fn request(error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        Failure::Request(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
    }
}

/// Whether a box that is in no network would ask this address for a picture, nothing being allowed by the
/// configuration, for the fuzz targets.
#[doc(hidden)]
pub fn may_be_asked(url: &str) -> bool {
    let outward = Outward { allow: Arc::default(), own: Vec::new };
    Url::parse(url).is_ok_and(|url| outward.check(&url).is_ok())
}

fn redirected(attempt: Attempt<'_>, outward: &Outward) -> reqwest::redirect::Action {
    // the first of the previous ones is the URL itself
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error(BadRedirect::TooMany);
    }
    match outward.check(attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(error) => attempt.error(BadRedirect::To(error)),
    }
}

/// What may be reached. Resolves names to those of their addresses that may be; the client connects to nothing else, so
/// a name that resolves to something else the next time has won nothing.
#[derive(Clone)]
struct Outward {
    allow: Arc<[IpNet]>,
    /// Tells the networks that the box is in; asked for each check, since they change under a running box.
    own: fn() -> Vec<IpNet>,
}

impl Outward {
    fn new(allow: &[IpNet]) -> Outward {
        Outward { allow: allow.into(), own: own_networks }
    }

    /// Whether a URL may be asked at all. A host that is an address is never resolved, so it is checked here.
    fn check(&self, url: &Url) -> Result<(), BadUrl> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadUrl::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadUrl::Credentials);
        }
        match url.host() {
            None => Err(BadUrl::Host),
            // what it resolves to is checked when it is connected to
            Some(Host::Domain(_)) => Ok(()),
            Some(Host::Ipv4(address)) => Ok(self.reaches(address.into(), &(self.own)())?),
            Some(Host::Ipv6(address)) => Ok(self.reaches(address.into(), &(self.own)())?),
        }
    }

    fn reaches(&self, address: IpAddr, own: &[IpNet]) -> Result<(), Inner> {
        refused_beside(own, address, &self.allow).map_or(Ok(()), |range| Err(Inner { address, range }))
    }
}

impl Resolve for Outward {
    fn resolve(&self, name: Name) -> Resolving {
        let outward = self.clone();
        Box::pin(async move {
            // port 0: the client puts in that of the URL
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            // once, however many addresses the name has
            let own = (outward.own)();
            let (mut reachable, mut inner) = (Vec::new(), None);
            for address in found {
                match outward.reaches(address.ip(), &own) {
                    Ok(()) => reachable.push(address),
                    Err(error) => inner = Some(error),
                }
            }
            match inner {
                Some(error) if reachable.is_empty() => Err(error.into()),
                _ => Ok(Box::new(reachable.into_iter()) as Addrs),
            }
        })
    }
}

/// The networks that the box's interfaces are in now.
fn own_networks() -> Vec<IpNet> {
    static UNREAD: Once = Once::new();
    match getifaddrs() {
        Ok(interfaces) => interfaces.flat_map(networks_of).collect(),
        Err(error) => {
            let text = "the box's own networks cannot be read: neighbours with public addresses are not refused";
            UNREAD.call_once(|| tracing::warn!(%error, "{text}"));
            Vec::new()
        }
    }
}

fn networks_of(interface: InterfaceAddress) -> impl Iterator<Item = IpNet> {
    let netmask = interface.netmask.and_then(ip);
    let shared = interface.flags.contains(InterfaceFlags::IFF_BROADCAST);
    // a point-to-point link has another end, of which the netmask is
    let ends = [interface.address, interface.destination].into_iter().flatten().filter_map(ip);
    ends.filter_map(move |end| network_of(end, netmask?, shared))
}

/// `None`: of another family, as the hardware's addresses are.
fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// A URL as the log may have it.
fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match Url::parse(bare) {
        Ok(mut url) => {
            // refused by URLs that cannot have them
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.as_str().chars().take(MOST_SHOWN).collect()
        }
        Err(_) => "(no URL)".into(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|network| network.parse().expect("a network")).collect()
    }

    /// A box whose neighbours have addresses of the world.
    fn beside_the_world(allow: &[&str]) -> Outward {
        Outward { allow: networks(allow).into(), own: || networks(&["9.9.8.77/23", "2600:1:2:3::77/64"]) }
    }

    /// Why a URL is not asked; nothing: it is.
    fn told(outward: &Outward, url: &str) -> String {
        match Url::parse(url).map_err(BadUrl::Syntax).and_then(|url| outward.check(&url)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_url_is_refused_for_what_it_is() {
        let outward = Outward { own: Vec::new, ..Outward::new(&[]) };
        let told = |url: &str| told(&outward, url);
        for url in ["http://pictures.example/a.png", "https://8.8.8.8/a.png", "http://[2600::1]:81/a.png"] {
            assert_eq!(told(url), "", "{url}");
        }
        for (url, why) in [
            ("file:///etc/passwd", "its scheme is 'file'"),
            ("ftp://pictures.example/a.png", "its scheme is 'ftp'"),
            ("data:image/png;base64,AAAA", "its scheme is 'data'"),
            ("gopher://127.0.0.1:6379/_x", "its scheme is 'gopher'"),
            ("/etc/passwd", "it is not a URL"),
            ("http://", "it is not a URL"),
            ("http://a:b@pictures.example/a.png", "it carries a user name"),
            ("http://127.0.0.1/a.png", "127.0.0.1 is loopback"),
            // the same in other clothes
            ("http://2130706433/a.png", "127.0.0.1 is loopback"),
            ("http://0x7f.1/a.png", "127.0.0.1 is loopback"),
            ("http://0177.0.0.1/a.png", "127.0.0.1 is loopback"),
            ("http://127.1/a.png", "127.0.0.1 is loopback"),
            ("http://127.0.0.1./a.png", "127.0.0.1 is loopback"),
            ("http://１２７.0.0.1/a.png", "127.0.0.1 is loopback"),
            ("http://[::1]/a.png", "::1 is loopback"),
            ("http://[::ffff:169.254.169.254]/latest", "is link-local"),
            ("http://192.168.0.1:8080/a.png", "192.168.0.1 is private"),
        ] {
            assert!(told(url).contains(why), "{url}: {}", told(url));
        }
    }

    #[test]
    fn a_neighbour_is_not_asked_whatever_its_address() {
        let (closed, open) = (beside_the_world(&[]), beside_the_world(&["9.9.9.9/32", "2600:1:2:3::9/128"]));
        for url in ["http://9.9.9.9/a.png", "http://[::ffff:9.9.9.9]/a.png", "https://[2600:1:2:3::9]:81/a.png"] {
            assert!(told(&closed, url).contains("is in the box's own network"), "{url}: {}", told(&closed, url));
            assert_eq!(told(&open, url), "", "{url}");
        }
        for url in ["http://9.9.9.8/a.png", "http://[2600:1:2:3::8]/a.png"] {
            assert!(told(&open, url).contains("is in the box's own network"), "{url}: {}", told(&open, url));
        }
        for url in ["http://9.9.10.9/a.png", "http://[2600:1:2:4::9]/a.png"] {
            assert_eq!(told(&closed, url), "", "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_does_not_lead_to_a_neighbour() {
        // an address is a name that needs nobody to resolve it
        let name = || "9.9.9.9".parse::<Name>().expect("a name");
        let error = beside_the_world(&[]).resolve(name()).await.err().expect("it is refused").to_string();
        assert!(error.contains("9.9.9.9 is in the box's own network"), "{error}");
        let reached = beside_the_world(&["9.9.9.9/32"]).resolve(name()).await.expect("it is allowed");
        assert_eq!(reached.count(), 1);
    }

    #[tokio::test]
    async fn a_redirect_does_not_lead_to_a_neighbour() {
        // another test may have been first
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let url = format!("http://{}/a.png", listener.local_addr().expect("it is bound"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.expect("it asks") > 0);
            let to = "Location: http://[2600:1:2:3::9]/b.png\r\nContent-Length: 0\r\nConnection: close";
            let _ = stream.write_all(format!("HTTP/1.1 302 Found\r\n{to}\r\n\r\n").as_bytes()).await;
        });
        let fetcher = Fetcher::new(beside_the_world(&["127.0.0.1/32"]), Duration::from_secs(10)).expect("a client");
        let error = fetcher.bytes(&url).await.expect_err("it is refused").to_string();
        assert!(error.contains("it was redirected: 2600:1:2:3::9 is in the box's own network"), "{error}");
    }

    #[test]
    fn the_box_knows_the_networks_that_it_is_in() {
        let own = own_networks();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(own.iter().any(|network| network.contains(&loopback)), "{own:?}");
        assert!(own.iter().all(|network| network.prefix_len() > 0), "{own:?}");
    }

    #[test]
    fn the_log_sees_no_query_and_no_password() {
        for url in ["https://u:hush@a.example/b.png?sig=hush#hush", "not a URL ?hush", "http://hush:hush@"] {
            let task = TaskId::parse("t").expect("an id");
            let want = format!("{:?}", ImageWant { task: task.clone(), url: url.into() });
            let news = format!("{:?}", ImageFailure { task, url: url.into(), why: String::new() });
            assert!(!want.contains("hush") && !news.contains("hush"), "{want} {news}");
        }
        assert_eq!(shown("https://u:hush@a.example/b.png?sig=hush"), "https://a.example/b.png");
        assert_eq!(shown(&format!("data:{}", "x".repeat(1000))).len(), MOST_SHOWN);
    }
}
