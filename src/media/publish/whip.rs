//! The client's half of WHIP (RFC 9725): POST an offer, DELETE the session.
//!
//! Owns: the HTTP of a publisher. Must not touch: media.
//! Law: a session that was made is taken down, unless its publisher vanishes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Client, StatusCode};
use url::Url;

use super::PublishError;
use super::link::{Link, LinkState, Packet};
use crate::model::{Codec, Secret, TrackKind};

const HTTP_WITHIN: Duration = Duration::from_secs(15);

/// Where to publish, and as whom.
#[derive(Debug, Clone)]
pub struct WhipAddress {
    /// `http(s)://host:port/whip/<room>/<user>`
    pub url: String,
    pub bearer: Option<Secret>,
    /// Take any certificate.
    pub insecure: bool,
    /// Send the media here instead of to the answer's candidates: a relay that stands in for the network.
    pub via: Option<SocketAddr>,
}

/// A publisher that is connected: sends RTP packets that were made elsewhere.
pub struct RtpPublisher {
    link: Link,
    http: Client,
    resource: Option<Url>,
    bearer: Option<Secret>,
}

impl RtpPublisher {
    /// Publishes streams of these codecs (one of sound, one of pictures at most); returns once media may flow.
    pub async fn publish(address: &WhipAddress, codecs: &[Codec]) -> Result<RtpPublisher, PublishError> {
        RtpPublisher::publish_layers(address, codecs, &[]).await
    }

    /// The same with a picture in several layers (simulcast), which these rids name, smallest first.
    pub async fn publish_layers(
        address: &WhipAddress,
        codecs: &[Codec],
        rids: &[&str],
    ) -> Result<RtpPublisher, PublishError> {
        let url = Url::parse(&address.url).map_err(|error| PublishError::Address(error.to_string()))?;
        let local = local_address(&url).await?;
        let http = Client::builder()
            .tls_danger_accept_invalid_certs(address.insecure)
            .timeout(HTTP_WITHIN)
            .build()
            .map_err(|error| PublishError::Http(error.without_url()))?;
        let (mut link, offer) = Link::offer_layers(codecs, rids, local).await?;
        let mut request = http.post(url.clone()).header(CONTENT_TYPE, "application/sdp").body(offer);
        if let Some(bearer) = &address.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {}", bearer.expose()));
        }
        let response = request.send().await.map_err(|error| PublishError::Http(error.without_url()))?;
        let status = response.status();
        // A redirect may have led elsewhere; the resource is relative to where the answer came from.
        let from = response.url().clone();
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.text().await.map_err(|error| PublishError::Http(error.without_url()))?;
        if status != StatusCode::CREATED {
            return Err(PublishError::Refused(status.as_u16(), body.trim().chars().take(300).collect()));
        }
        let resource = location.and_then(|location| from.join(&location).ok());
        let answer = match address.via {
            Some(via) => through(&body, via),
            None => body,
        };
        let connected = link.answer(&answer).await;
        let publisher = RtpPublisher { link, http, resource, bearer: address.bearer.clone() };
        if let Err(error) = connected {
            let _ = publisher.leave().await;
            return Err(error);
        }
        Ok(publisher)
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Sends a packet of the stream of this kind, at once.
    pub async fn send(&self, kind: TrackKind, packet: Packet) -> Result<(), PublishError> {
        self.link.send(kind, packet).await
    }

    /// Sends a packet of a layer, counted from the smallest.
    pub async fn send_layer(&self, kind: TrackKind, layer: usize, packet: Packet) -> Result<(), PublishError> {
        self.link.send_layer(kind, layer, packet).await
    }

    /// Waits until the box asks for a keyframe; tells of which layer.
    pub async fn keyframe_asked(&mut self) -> usize {
        self.link.keyframe_asked().await
    }

    /// Keyframe requests so far.
    pub fn keyframes_asked(&self) -> u64 {
        self.link.keyframes_asked()
    }

    /// Packets and payload bytes so far.
    pub fn sent(&self) -> (u64, u64) {
        self.link.sent()
    }

    pub fn state(&self) -> tokio::sync::watch::Receiver<LinkState> {
        self.link.state()
    }

    /// DELETE, then the connection is closed. Not to be told anything any more is no fault: the box may be gone.
    pub async fn leave(self) -> Result<(), PublishError> {
        let told = match &self.resource {
            Some(resource) => {
                let mut request = self.http.delete(resource.clone());
                if let Some(bearer) = &self.bearer {
                    request = request.header(AUTHORIZATION, format!("Bearer {}", bearer.expose()));
                }
                request.send().await.map(|_| ()).map_err(|error| PublishError::Http(error.without_url()))
            }
            None => Ok(()),
        };
        self.link.close().await;
        told
    }

    /// Gone without a word, as by a power cut.
    pub fn vanish(self) {}
}

/// The answer with every candidate at `via`.
pub fn through(answer: &str, via: SocketAddr) -> String {
    let mut out = String::with_capacity(answer.len());
    for line in answer.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if line.starts_with("a=candidate:") && words.len() >= 6 {
            let (ip, port) = (via.ip().to_string(), via.port().to_string());
            let words: Vec<&str> = words
                .iter()
                .enumerate()
                .map(|(n, word)| match n {
                    4 => ip.as_str(),
                    5 => port.as_str(),
                    _ => word,
                })
                .collect();
            out.push_str(&words.join(" "));
        } else {
            out.push_str(line);
        }
        out.push_str("\r\n");
    }
    out
}

/// The address of this machine that the box would see.
pub(in crate::media) async fn local_address(url: &Url) -> Result<IpAddr, PublishError> {
    let host = url.host_str().ok_or_else(|| PublishError::Address("it names no host".into()))?;
    let host = host.trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|e| PublishError::Address(e.to_string()))?;
    let to = found.next().ok_or_else(|| PublishError::Address("the host has no address".into()))?;
    let any: SocketAddr = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("they are addresses");
    let socket = std::net::UdpSocket::bind(any).map_err(|e| PublishError::Address(e.to_string()))?;
    socket.connect(to).map_err(|e| PublishError::Address(e.to_string()))?;
    Ok(socket.local_addr().map_err(|e| PublishError::Address(e.to_string()))?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_takes_the_place_of_every_candidate() {
        let answer = "v=0\r\na=candidate:1 1 udp 2130706431 10.0.0.1 8189 typ host\r\na=mid:0\r\n";
        let through = through(answer, "127.0.0.1:4000".parse().unwrap());
        assert_eq!(through, "v=0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 4000 typ host\r\na=mid:0\r\n");
    }
}
