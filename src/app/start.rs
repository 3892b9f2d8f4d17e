//! Steps of the start that stand for themselves: the shelf and its index, the house of media, the doors.
//!
//! Owns: how each is opened by the configuration. Must not touch: their order, and what is told to whom (`app`).
//! Law: what a step began is whole when it returns; whoever fails names the part and why.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Error, failed, live};
use crate::api::{self, Door, tls};
use crate::config::{Config, Server};
use crate::health::Reporter;
use crate::media::engine::{Engine, Mixing};
use crate::media::sources::Sources;
use crate::media::stills::Stills;
use crate::media::tracks::Tracks;
use crate::media::whip::{WhipServer, WhipSettings};
use crate::media::{MediaClock, MediaNews};
use crate::model::board::Board;
use crate::model::fate::Fate;
use crate::model::{TaskId, WallClock};
use crate::rooms::Remembered;
use crate::spool::{Listing, Recovered, Spool};
use crate::store::Store;
use crate::vault::Vault;

/// What recordings stand on, and what was found there.
pub(super) struct Ground {
    pub store: Store,
    pub spool: Arc<Spool>,
    pub fates_in: mpsc::Sender<(TaskId, Fate)>,
    pub fates: mpsc::Receiver<(TaskId, Fate)>,
    pub recovered: Recovered,
    pub remembered: Remembered,
}

/// The shelf is listed while the index is read, and this while the shelf is looked through: all take their time.
pub(super) async fn ground(
    config: &Config,
    vault: Vault,
    clock: &WallClock,
    health: &Reporter,
) -> Result<Ground, Error> {
    let (shelf, mut listing) = (config.spool_dir(), None);
    let list = || listing = Some(std::thread::spawn(move || Listing::of(&shelf)));
    let opened = Store::open_then(&config.index_dir(), list).map_err(failed("index"))?;
    if let Some(aside) = opened.set_aside {
        error!(aside = %aside.display(), "the index was broken and is set aside; a fresh one is in its place");
        health.degraded("index", "it was broken, and is set aside");
    }
    let store = opened.store;
    let (fates_in, fates) = mpsc::channel(1024);
    let spool =
        Spool::open_sealed(&config.spool_dir(), store.clone(), vault, fates_in.clone()).map_err(failed("spool"))?;
    let listed = move || match listing.expect("an index that is open was held before").join() {
        Ok(listing) => listing,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let remembered = tokio::spawn({
        let store = store.clone();
        async move { Remembered::of(&store).await }
    });
    let recovered = spool.recover_listed(listed).await.map_err(failed("spool"))?;
    let remembered = remembered.await.map_err(failed("rooms"))?.map_err(failed("rooms"))?;
    spool.watch_disk(config.disk_limits(), clock.clone()).await.map_err(failed("disk"))?;
    Ok(Ground { store, spool, fates_in, fates, recovered, remembered })
}

/// Where frames are.
pub(super) struct House {
    pub tracks: Tracks,
    pub whip: Arc<WhipServer>,
    pub stills: Stills,
    pub sources: Sources,
    pub engine: Engine,
}

/// `news` goes to the rooms.
pub(super) async fn house(
    config: &Config,
    clock: MediaClock,
    board: Option<&Board>,
    news: mpsc::Sender<MediaNews>,
) -> Result<House, Error> {
    let tracks = Tracks::default();
    tracks.sense(live::sensing(&config.alarms));
    let settings = WhipSettings {
        udp: config.whip.udp,
        addresses: config.whip.addresses.clone(),
        ice_timeout: config.ice_timeout(),
        max_sessions: config.whip.max_sessions,
    };
    let whip = WhipServer::bind(settings, clock, tracks.clone(), news.clone()).await.map_err(failed("whip"))?;
    let stills = Stills::default();
    let mixing = Mixing::new(stills.clone(), board);
    let sources = Sources::new(clock, tracks.clone(), whip.ids(), news.clone(), &mixing, whip.clone());
    let engine = Engine::new(clock, tracks.clone(), news, Arc::new(sources.clone()), mixing);
    Ok(House { tracks, whip, stills, sources, engine })
}

/// Where callers come in.
pub(super) struct Doors {
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    pub fingerprint: Option<String>,
    pub tasks: Vec<JoinHandle<()>>,
}

/// Until `cancel`.
pub(super) async fn doors(server: &Server, door: Door, cancel: &CancellationToken) -> Result<Doors, Error> {
    let router = api::router(door);
    let mut open = Doors { http: None, https: None, fingerprint: None, tasks: Vec::new() };
    if let Some(addr) = server.http {
        let (local, task) = api::serve_http(addr, router.clone(), cancel.clone()).await.map_err(failed("http"))?;
        open.http = Some(local);
        open.tasks.push(task);
    }
    if let Some(addr) = server.https {
        let identity = tls::identity(server).map_err(failed("certificate"))?;
        open.fingerprint = Some(identity.fingerprint.clone());
        let (local, task) = api::serve_https(addr, router, identity, cancel.clone()).await.map_err(failed("https"))?;
        open.https = Some(local);
        open.tasks.push(task);
    }
    Ok(open)
}
