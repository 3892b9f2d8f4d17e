//! Listeners: HTTP, and HTTPS with a certificate of the owner's or one that the box makes for itself.
//!
//! Owns: sockets of the door, certificate and key files. Must not touch: routes.
//! Law: a made key is readable by the box's user alone and never changes by itself, so that its fingerprint can be
//! checked once and trusted on; closing is bounded in time.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Server;

/// Requests in progress get so long when the box closes.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// A connection on which nothing was asked for so long is closed.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} holds no usable PEM: {why}")]
    Pem { path: PathBuf, why: String },
    #[error("certificate and private_key go together: only one of them is configured")]
    OneOfTwo,
    #[error("certificate and key do not fit: {0}")]
    NoFit(String),
    #[error("no certificate could be made: {0}")]
    Make(String),
}

/// A certificate with its key, ready to listen with.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
    /// SHA-256 of the certificate, `AB:CD:…`, as browsers show it.
    pub fingerprint: String,
    /// Where the certificate is: clients may be told to trust this file.
    pub path: PathBuf,
    /// It was made by this call, not found.
    pub made: bool,
}

/// The configured certificate, or the one of the state directory, or a new one that is kept there.
///
/// A new one carries `public_names`, `localhost` and the loopback addresses; to have it carry others, remove
/// `tls-certificate.pem` and `tls-key.pem` from the state directory.
pub fn identity(server: &Server) -> Result<Identity, TlsError> {
    let (certificate, key, made) = match (&server.certificate, &server.private_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone(), false),
        (None, None) => {
            let certificate = server.state_dir.join("tls-certificate.pem");
            let key = server.state_dir.join("tls-key.pem");
            let missing = !certificate.exists() || !key.exists();
            if missing {
                make(&server.public_names, &server.state_dir, &certificate, &key)?;
            }
            (certificate, key, missing)
        }
        _ => return Err(TlsError::OneOfTwo),
    };
    load(certificate, &key, made)
}

fn load(path: PathBuf, key_path: &Path, made: bool) -> Result<Identity, TlsError> {
    let pem = |path: &Path, error: &dyn std::fmt::Display| TlsError::Pem { path: path.into(), why: error.to_string() };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&path).and_then(Iterator::collect).map_err(|error| pem(&path, &error))?;
    let Some(first) = chain.first() else {
        return Err(pem(&path, &"no certificate in it"));
    };
    let fingerprint = fingerprint(first);
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| pem(key_path, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::NoFit(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::NoFit(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Identity { config: Arc::new(config), fingerprint, path, made })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let pairs: Vec<String> = Sha256::digest(certificate.as_ref()).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

fn make(names: &[String], dir: &Path, certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError::Make(error.to_string());
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut all: Vec<String> = names.to_vec();
    all.extend(own.into_iter().filter(|name| !names.contains(name)));
    let mut params = rcgen::CertificateParams::new(all).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "holdfast");
    // The box's clock may be wrong when it is first switched on.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let made = params.self_signed(&pair).map_err(failed)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    fs::create_dir_all(dir).map_err(at(dir))?;
    write_whole(key, pair.serialize_pem().as_bytes(), 0o600).map_err(at(key))?;
    write_whole(certificate, made.pem().as_bytes(), 0o644).map_err(at(certificate))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// All of it or nothing, after a power cut too.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let part = path.with_extension("pem.part");
    let _ = fs::remove_file(&part);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// A listener that serves until it is told to close.
pub type Listening = (SocketAddr, JoinHandle<()>);

fn bind(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// Serves until `cancel` says to close; requests in progress get [`CLOSE_WITHIN`] then.
fn serve(
    handle: Handle<SocketAddr>,
    serving: impl Future<Output = io::Result<()>> + Send + 'static,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        tokio::pin!(serving);
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            () = cancel.cancelled() => {
                handle.graceful_shutdown(Some(CLOSE_WITHIN));
                serving.await
            }
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "a listener ended");
        }
    })
}

/// Listens on `addr` (port 0: any) and serves `router`. The address is the one that was bound.
pub async fn serve_http(addr: SocketAddr, router: Router, cancel: CancellationToken) -> io::Result<Listening> {
    let (listener, local) = bind(addr)?;
    let handle = Handle::new();
    let server = axum_server::from_tcp(listener)?.handle(handle.clone()).first_request_timeout(FIRST_REQUEST_WITHIN);
    Ok((local, serve(handle, server.serve(router.into_make_service()), cancel)))
}

/// The same over TLS.
pub async fn serve_https(
    addr: SocketAddr,
    router: Router,
    identity: Identity,
    cancel: CancellationToken,
) -> io::Result<Listening> {
    let (listener, local) = bind(addr)?;
    let handle = Handle::new();
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(identity.config))?
        .handle(handle.clone())
        .first_request_timeout(FIRST_REQUEST_WITHIN);
    Ok((local, serve(handle, server.serve(router.into_make_service()), cancel)))
}
