//! What a publisher offers, what the box answers: SDP of strangers in, two clean descriptions out (RFC 9725 §4.2).
//!
//! Owns: which media sections and codecs are taken, in which order, and the text of answers and ICE fragments. Must
//! not touch: sockets, sessions.
//! Law: nothing that a stranger wrote goes further unless it was understood here; no text makes it panic.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::model::{Codec, TrackKind};

/// No offer of a browser comes near it.
const LONGEST: usize = 64 * 1024;
const MOST_SECTIONS: usize = 32;
/// Layers of a simulcast offer that are looked at.
const MOST_LAYERS: usize = 4;

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const EXTENSIONS: [&str; 3] = [MID, RID, TRANSPORT_CC];

/// Why an offer (or a fragment) is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SdpError {
    #[error("{0}")]
    Bad(&'static str),
    #[error("no sound as Opus and no picture as H.264, VP8, VP9 or AV1 is offered for sending")]
    NoUsableMedia,
}

/// ICE user fragment and password.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Credentials {
    pub ufrag: String,
    pub pwd: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferedCodec {
    pub payload_type: u8,
    pub codec: Codec,
    /// As the offer spells it, such as `H264/90000`.
    pub rtpmap: String,
    pub fmtp: String,
    pub feedback: Vec<String>,
}

/// A media section that the box takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub kind: TrackKind,
    pub mid: String,
    /// Best first.
    pub codecs: Vec<OfferedCodec>,
    pub extensions: Vec<(u8, String)>,
    /// The main stream's SSRC where the offer names one.
    pub ssrc: Option<u32>,
    /// Layers of simulcast, as offered.
    pub rids: Vec<String>,
}

/// What stands in the answer at one place of the offer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Taken(Section),
    /// `m=` line without its port, for the refusal, and its mid.
    Refused {
        kind: String,
        protocol: String,
        formats: String,
        mid: Option<String>,
    },
}

/// An offer, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    places: Vec<Place>,
    pub credentials: Credentials,
    fingerprint: String,
    setup: String,
    bundled: bool,
    mixed_extensions: bool,
}

/// What the transport contributes to the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Local {
    pub credentials: Credentials,
    pub fingerprint: String,
    pub setup: String,
}

impl Local {
    /// Out of a description that the WebRTC core wrote.
    pub fn of(description: &str) -> Option<Local> {
        let value = |name: &str| attribute(description.lines(), name);
        Some(Local {
            credentials: Credentials { ufrag: value("ice-ufrag")?.into(), pwd: value("ice-pwd")?.into() },
            fingerprint: value("fingerprint")?.into(),
            setup: value("setup")?.into(),
        })
    }
}

fn attribute<'a>(mut lines: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    lines.find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn flag<'a>(mut lines: impl Iterator<Item = &'a str>, name: &str) -> bool {
    lines.any(|line| line.strip_prefix("a=") == Some(name))
}

/// `ice-char` of RFC 8839 §5.4.
fn ice_text(text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

fn token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),:;<=>?@[\\]".contains(&b))
}

fn credentials(ufrag: Option<&str>, pwd: Option<&str>) -> Result<Credentials, SdpError> {
    match (ufrag, pwd) {
        (Some(ufrag), Some(pwd)) if ice_text(ufrag, 4..=256) && ice_text(pwd, 22..=256) => {
            Ok(Credentials { ufrag: ufrag.into(), pwd: pwd.into() })
        }
        (Some(_), Some(_)) => Err(SdpError::Bad("ice-ufrag or ice-pwd is malformed")),
        _ => Err(SdpError::Bad("ice-ufrag or ice-pwd is missing")),
    }
}

impl Offer {
    pub fn parse(text: &str) -> Result<Offer, SdpError> {
        if text.len() > LONGEST {
            return Err(SdpError::Bad("the offer is too long"));
        }
        if text.contains('\0') || !text.trim_start().starts_with("v=0") {
            return Err(SdpError::Bad("this is not a session description"));
        }
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let mut starts: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| line.starts_with("m=")).map(|(i, _)| i).collect();
        if starts.is_empty() {
            return Err(SdpError::NoUsableMedia);
        }
        if starts.len() > MOST_SECTIONS {
            return Err(SdpError::Bad("too many media sections"));
        }
        let session = &lines[..starts[0]];
        starts.push(lines.len());

        let mut places = Vec::new();
        let mut transport = None;
        let (mut audio, mut video) = (false, false);
        for bounds in starts.windows(2) {
            let section = &lines[bounds[0]..bounds[1]];
            let place = read_section(section, places.len())?;
            let place = match place {
                // One sound and one picture make a participant's stream; what is more has no lane to go to.
                Place::Taken(taken) => match taken.kind {
                    TrackKind::Audio if !audio => {
                        audio = true;
                        Place::Taken(taken)
                    }
                    TrackKind::Video if !video => {
                        video = true;
                        Place::Taken(taken)
                    }
                    _ => refusal(section).ok_or(SdpError::Bad("a media line is malformed"))?,
                },
                refused => refused,
            };
            if matches!(place, Place::Taken(_)) && transport.is_none() {
                transport = Some(section);
            }
            places.push(place);
        }
        let Some(first) = transport else { return Err(SdpError::NoUsableMedia) };
        let value =
            |name: &str| attribute(first.iter().copied(), name).or_else(|| attribute(session.iter().copied(), name));
        let fingerprint = value("fingerprint").ok_or(SdpError::Bad("fingerprint is missing: DTLS is required"))?;
        let well_formed = fingerprint.split_once(' ').is_some_and(|(hash, hex)| {
            token(hash) && hex.len() <= 200 && hex.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
        });
        if !well_formed {
            return Err(SdpError::Bad("fingerprint is malformed"));
        }
        let setup = value("setup").unwrap_or("actpass");
        if !["actpass", "active", "passive"].contains(&setup) {
            return Err(SdpError::Bad("setup is none of actpass, active and passive"));
        }
        Ok(Offer {
            credentials: credentials(value("ice-ufrag"), value("ice-pwd"))?,
            fingerprint: fingerprint.into(),
            setup: setup.into(),
            bundled: attribute(session.iter().copied(), "group").is_some_and(|group| group.starts_with("BUNDLE")),
            mixed_extensions: flag(session.iter().copied(), "extmap-allow-mixed"),
            places,
        })
    }

    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.places.iter().filter_map(|place| match place {
            Place::Taken(section) => Some(section),
            Place::Refused { .. } => None,
        })
    }

    pub fn section_mut(&mut self, kind: TrackKind) -> Option<&mut Section> {
        self.places.iter_mut().find_map(|place| match place {
            Place::Taken(section) if section.kind == kind => Some(section),
            _ => None,
        })
    }

    pub fn codec(&self, payload_type: u8) -> Option<(TrackKind, &OfferedCodec)> {
        self.sections().find_map(|section| {
            section.codecs.iter().find(|codec| codec.payload_type == payload_type).map(|codec| (section.kind, codec))
        })
    }

    /// Every transport in one, as BUNDLE wants it; two sections without BUNDLE would need two transports.
    pub fn one_transport(&self) -> bool {
        self.bundled || self.sections().count() == 1
    }

    /// What the WebRTC core is told: the sections that are taken and nothing else.
    pub fn for_core(&self) -> String {
        let mut out = String::from("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
        line(&mut out, format_args!("a=group:BUNDLE {}", self.mids()));
        if self.mixed_extensions {
            line(&mut out, format_args!("a=extmap-allow-mixed"));
        }
        for section in self.sections() {
            section.begin(&mut out);
            transport(&mut out, &self.credentials, &self.fingerprint, &self.setup);
            line(&mut out, format_args!("a=sendonly"));
            line(&mut out, format_args!("a=msid:publisher {}", section.kind.as_str()));
            section.describe(&mut out);
            if section.rids.is_empty() {
                line(
                    &mut out,
                    format_args!("a=ssrc:{} cname:publisher", section.ssrc.unwrap_or(1 + section.kind as u32)),
                );
            } else {
                for rid in &section.rids {
                    line(&mut out, format_args!("a=rid:{rid} send"));
                }
                line(&mut out, format_args!("a=simulcast:send {}", section.rids.join(";")));
            }
        }
        out
    }

    /// What the publisher is told. `version` rises with each answer of a session.
    pub fn answer(&self, local: &Local, candidates: &[SocketAddr], session: u64, version: u32) -> String {
        let mut out = format!("v=0\r\no=- {session} {version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
        if self.bundled {
            line(&mut out, format_args!("a=group:BUNDLE {}", self.mids()));
        }
        if self.mixed_extensions {
            line(&mut out, format_args!("a=extmap-allow-mixed"));
        }
        for place in &self.places {
            let section = match place {
                Place::Taken(section) => section,
                Place::Refused { kind, protocol, formats, mid } => {
                    line(&mut out, format_args!("m={kind} 0 {protocol} {formats}"));
                    line(&mut out, format_args!("c=IN IP4 0.0.0.0"));
                    if let Some(mid) = mid {
                        line(&mut out, format_args!("a=mid:{mid}"));
                    }
                    line(&mut out, format_args!("a=inactive"));
                    continue;
                }
            };
            section.begin(&mut out);
            transport(&mut out, &local.credentials, &local.fingerprint, &local.setup);
            line(&mut out, format_args!("a=recvonly"));
            section.describe(&mut out);
            if !section.rids.is_empty() {
                for rid in &section.rids {
                    line(&mut out, format_args!("a=rid:{rid} recv"));
                }
                line(&mut out, format_args!("a=simulcast:recv {}", section.rids.join(";")));
            }
            candidate_lines(&mut out, candidates);
        }
        out
    }

    fn mids(&self) -> String {
        let mids: Vec<&str> = self.sections().map(|section| section.mid.as_str()).collect();
        mids.join(" ")
    }

    /// The body of a response to an ICE restart (RFC 9725 §4.3.3, RFC 8840 §9).
    pub fn restart_fragment(&self, local: &Credentials, candidates: &[SocketAddr]) -> String {
        let mut out = String::new();
        line(&mut out, format_args!("a=ice-ufrag:{}", local.ufrag));
        line(&mut out, format_args!("a=ice-pwd:{}", local.pwd));
        if let Some(section) = self.sections().next() {
            line(&mut out, format_args!("m={} 9 UDP/TLS/RTP/SAVPF 0", section.kind.as_str()));
            line(&mut out, format_args!("a=mid:{}", section.mid));
            candidate_lines(&mut out, candidates);
        }
        out
    }
}

impl Section {
    fn begin(&self, out: &mut String) {
        let formats: Vec<String> = self.codecs.iter().map(|codec| codec.payload_type.to_string()).collect();
        line(out, format_args!("m={} 9 UDP/TLS/RTP/SAVPF {}", self.kind.as_str(), formats.join(" ")));
        line(out, format_args!("c=IN IP4 0.0.0.0"));
        line(out, format_args!("a=mid:{}", self.mid));
        line(out, format_args!("a=rtcp-mux"));
        line(out, format_args!("a=rtcp-rsize"));
    }

    fn describe(&self, out: &mut String) {
        for codec in &self.codecs {
            let pt = codec.payload_type;
            line(out, format_args!("a=rtpmap:{pt} {}", codec.rtpmap));
            if !codec.fmtp.is_empty() {
                line(out, format_args!("a=fmtp:{pt} {}", codec.fmtp));
            }
            for feedback in &codec.feedback {
                line(out, format_args!("a=rtcp-fb:{pt} {feedback}"));
            }
        }
        for (id, uri) in &self.extensions {
            line(out, format_args!("a=extmap:{id} {uri}"));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String does not fail.
    let _ = write!(out, "{text}\r\n");
}

fn transport(out: &mut String, credentials: &Credentials, fingerprint: &str, setup: &str) {
    line(out, format_args!("a=ice-ufrag:{}", credentials.ufrag));
    line(out, format_args!("a=ice-pwd:{}", credentials.pwd));
    line(out, format_args!("a=fingerprint:{fingerprint}"));
    line(out, format_args!("a=setup:{setup}"));
}

fn candidate_lines(out: &mut String, candidates: &[SocketAddr]) {
    for (n, addr) in candidates.iter().enumerate() {
        // RFC 8445 §5.1.2: host preference 126, a local preference each, component 1.
        let priority = (126u32 << 24) + ((65535 - u32::try_from(n).unwrap_or(0)) << 8) + 255;
        let foundation = n + 1;
        let (ip, port) = (addr.ip(), addr.port());
        line(out, format_args!("a=candidate:{foundation} 1 udp {priority} {ip} {port} typ host"));
    }
    line(out, format_args!("a=end-of-candidates"));
}

fn refusal(section: &[&str]) -> Option<Place> {
    let mut words = section.first()?.strip_prefix("m=")?.split_ascii_whitespace();
    let (kind, _port, protocol) = (words.next()?, words.next()?, words.next()?);
    let formats: Vec<&str> = words.take(64).collect();
    let mid = attribute(section.iter().copied(), "mid").filter(|mid| token(mid)).map(str::to_owned);
    (token(kind) && protocol.len() <= 64 && !formats.is_empty()).then(|| Place::Refused {
        kind: kind.into(),
        protocol: protocol.into(),
        formats: formats.join(" "),
        mid,
    })
}

fn read_section(section: &[&str], index: usize) -> Result<Place, SdpError> {
    let refused = refusal(section).ok_or(SdpError::Bad("a media line is malformed"))?;
    let Place::Refused { kind, protocol, formats, mid } = &refused else { return Ok(refused) };
    let kind = match kind.as_str() {
        "audio" => TrackKind::Audio,
        "video" => TrackKind::Video,
        _ => return Ok(refused),
    };
    let port = section[0].split_ascii_whitespace().nth(1).unwrap_or("0");
    let lines = || section.iter().copied();
    let sends = !flag(lines(), "recvonly") && !flag(lines(), "inactive");
    // Port 0 is a section that is off, unless it rides in a bundle (RFC 8843 §6).
    let on = port != "0" || flag(lines(), "bundle-only");
    if !sends || !on || !protocol.ends_with("/SAVPF") && !protocol.ends_with("/SAVP") {
        return Ok(refused);
    }
    let mid = match mid {
        Some(mid) => mid.clone(),
        None => index.to_string(),
    };

    let mut codecs: Vec<(u8, OfferedCodec)> =
        formats.split(' ').filter_map(|format| read_codec(section, kind, format)).collect();
    codecs.sort_by_key(|(rank, _)| *rank);
    let mut codecs: Vec<OfferedCodec> = codecs.into_iter().map(|(_, codec)| codec).collect();
    let mut seen = std::collections::BTreeSet::new();
    codecs.retain(|codec| seen.insert(codec.payload_type));
    if codecs.is_empty() {
        return Ok(refused);
    }

    let mut extensions: Vec<(u8, String)> = Vec::new();
    for text in lines().filter_map(|line| line.strip_prefix("a=extmap:")) {
        let mut words = text.split_ascii_whitespace();
        let (Some(id), Some(uri)) = (words.next(), words.next()) else { continue };
        let id = id.split('/').next().and_then(|id| id.parse::<u8>().ok());
        if let Some(id @ 1..=14) = id
            && EXTENSIONS.contains(&uri)
            && !extensions.iter().any(|(taken, known)| *taken == id || known == uri)
        {
            extensions.push((id, uri.to_owned()));
        }
    }

    let rids: Vec<String> = lines()
        .filter_map(|line| line.strip_prefix("a=rid:")?.split_once(' '))
        .filter(|(rid, rest)| {
            rest.starts_with("send") && rid.len() <= 16 && rid.bytes().all(|b| b.is_ascii_alphanumeric())
        })
        .map(|(rid, _)| rid.to_owned())
        .take(MOST_LAYERS)
        .collect();
    let simulcast = kind == TrackKind::Video
        && rids.len() > 1
        && [MID, RID].iter().all(|uri| extensions.iter().any(|(_, known)| known == uri));
    let ssrc = lines()
        .filter_map(|line| line.strip_prefix("a=ssrc:")?.split_ascii_whitespace().next()?.parse::<u32>().ok())
        .next();
    Ok(Place::Taken(Section { kind, mid, codecs, extensions, ssrc, rids: if simulcast { rids } else { Vec::new() } }))
}

/// One format of a section, with its rank: the lower, the better for a recorder. H.264 is written as it is; what
/// the others carry must be encoded anew.
fn read_codec(section: &[&str], kind: TrackKind, format: &str) -> Option<(u8, OfferedCodec)> {
    let payload_type: u8 = format.parse().ok().filter(|pt| *pt < 128)?;
    // 64..=95 collides with RTCP on the same port (RFC 5761 §4).
    if (64..=95).contains(&payload_type) {
        return None;
    }
    let of = |name: &'static str| {
        section.iter().filter_map(move |line| {
            let (pt, value) = line.strip_prefix("a=")?.strip_prefix(name)?.split_once(' ')?;
            (pt == format).then(|| value.trim())
        })
    };
    let rtpmap = of("rtpmap:").next()?;
    let fmtp = of("fmtp:").next().unwrap_or("");
    if fmtp.len() > 512 || rtpmap.len() > 64 || !fmtp.is_ascii() {
        return None;
    }
    let mut encoding = rtpmap.split('/');
    let name = encoding.next()?.to_ascii_lowercase();
    let rate = encoding.next()?;
    let parameter = |key: &str| {
        fmtp.split(';')
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    };
    let (codec, rank) = match (kind, name.as_str(), rate) {
        (TrackKind::Audio, "opus", "48000") => (Codec::Opus, 0),
        (TrackKind::Video, "h264", "90000") => {
            let profile = parameter("profile-level-id").unwrap_or("42e01f").to_ascii_lowercase();
            let rank = match profile.get(..4) {
                Some("42e0") => 0,
                Some("4200") => 1,
                _ if profile.starts_with("42") => 2,
                _ if profile.starts_with("4d") => 3,
                _ if profile.starts_with("64") => 4,
                _ => 5,
            };
            (Codec::H264, if parameter("packetization-mode") == Some("1") { rank } else { rank + 10 })
        }
        (TrackKind::Video, "vp8", "90000") => (Codec::Vp8, 20),
        // Profile 0 is 8 bit 4:2:0; nothing on the box reads the others.
        (TrackKind::Video, "vp9", "90000") if parameter("profile-id").is_none_or(|id| id == "0") => (Codec::Vp9, 30),
        (TrackKind::Video, "av1", "90000") if parameter("profile").is_none_or(|id| id == "0") => (Codec::Av1, 40),
        _ => return None,
    };
    let offered: Vec<&str> = of("rtcp-fb:").chain(wildcard_feedback(section)).collect();
    let wanted: &[&str] = match kind {
        TrackKind::Video => &["nack", "nack pli", "ccm fir", "transport-cc"],
        TrackKind::Audio => &["transport-cc"],
    };
    let mut feedback: Vec<String> = wanted.iter().filter(|f| offered.contains(*f)).map(|f| (*f).to_owned()).collect();
    let mut fmtp = fmtp.to_owned();
    if kind == TrackKind::Audio {
        // Offers leave NACK out for sound, since calls cannot wait for it. A recorder can, and senders that
        // do not know it ignore it.
        feedback.push("nack".into());
        fmtp = opus_parameters(&fmtp);
    }
    let rtpmap = rtpmap.to_owned();
    Some((rank, OfferedCodec { payload_type, codec, rtpmap, fmtp, feedback }))
}

fn wildcard_feedback<'a>(section: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    section.iter().filter_map(|line| line.strip_prefix("a=rtcp-fb:* ")).map(str::trim)
}

/// What the box wants of Opus (RFC 7587 §6): in-band FEC, and stereo from those who have it. What a sender says of
/// itself (`sprop-…`) and limits for real-time calls are not repeated.
fn opus_parameters(offered: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut stereo = false;
    for pair in offered.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let key = pair.split('=').next().unwrap_or("");
        match key {
            "stereo" | "sprop-stereo" => stereo |= pair.ends_with("=1"),
            "minptime" | "maxaveragebitrate" | "maxplaybackrate" | "cbr" => out.push(pair.to_owned()),
            _ => {}
        }
    }
    out.push("useinbandfec=1".into());
    if stereo {
        out.push("stereo=1".into());
    }
    out.join(";")
}

/// A trickle-ice-sdpfrag (RFC 8840 §9): new credentials (an ICE restart), more candidates, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fragment {
    pub credentials: Option<Credentials>,
}

impl Fragment {
    /// Candidates are checked for shape and then left: the box answers whoever knows the password, wherever the
    /// request comes from (peer-reflexive, RFC 8445 §7.3.1.3).
    pub fn parse(text: &str) -> Result<Fragment, SdpError> {
        if text.len() > LONGEST || text.contains('\0') {
            return Err(SdpError::Bad("the fragment is too long"));
        }
        let lines = || text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        if lines().any(|line| !line.is_char_boundary(2) || !["a=", "m="].contains(&line.get(..2).unwrap_or(""))) {
            return Err(SdpError::Bad("a fragment has only a= and m= lines"));
        }
        if lines().next().is_none() {
            return Err(SdpError::Bad("the fragment is empty"));
        }
        let (ufrag, pwd) = (attribute(lines(), "ice-ufrag"), attribute(lines(), "ice-pwd"));
        let credentials = match (ufrag, pwd) {
            (None, None) => None,
            (ufrag, pwd) => Some(credentials(ufrag, pwd)?),
        };
        Ok(Fragment { credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHROMIUM: &str = include_str!("fixtures/chromium_offer.sdp");

    fn local() -> Local {
        Local {
            credentials: Credentials { ufrag: "ufragbox".into(), pwd: "p".repeat(24) },
            fingerprint: "sha-256 AA:BB".into(),
            setup: "passive".into(),
        }
    }

    #[test]
    fn h264_leads_and_extras_are_refused() {
        let offer = Offer::parse(CHROMIUM).unwrap();
        let video = offer.sections().find(|s| s.kind == TrackKind::Video).unwrap();
        assert_eq!(video.codecs[0].codec, Codec::H264);
        assert!(video.codecs[0].fmtp.contains("42e01f") && video.codecs[0].fmtp.contains("packetization-mode=1"));
        let order: Vec<Codec> = video.codecs.iter().map(|c| c.codec).collect();
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(order, sorted, "H.264, VP8, VP9, AV1");
        let answer = offer.answer(&local(), &["192.0.2.7:8189".parse().unwrap()], 7, 1);
        assert!(answer.contains("m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"), "{answer}");
        assert!(answer.contains(" 192.0.2.7 8189 typ host\r\n"));
        assert!(answer.contains("a=rtcp-fb:111 nack\r\n"));
        assert!(answer.contains("useinbandfec=1"));
        assert_eq!(answer.matches("\r\nm=").count(), CHROMIUM.matches("\nm=").count(), "as many sections as offered");
        assert!(!offer.for_core().contains("application"));
    }

    #[test]
    fn unusable_offers_say_why() {
        assert_eq!(Offer::parse(""), Err(SdpError::Bad("this is not a session description")));
        assert_eq!(Offer::parse("v=0\r\n"), Err(SdpError::NoUsableMedia));
        assert_eq!(Offer::parse(&CHROMIUM.replace("a=sendonly", "a=recvonly")), Err(SdpError::NoUsableMedia));
        let insecure = CHROMIUM.replace("a=fingerprint", "a=x");
        assert!(matches!(Offer::parse(&insecure), Err(SdpError::Bad(why)) if why.contains("fingerprint")));
        let nameless = CHROMIUM.replace("a=ice-pwd", "a=x");
        assert!(matches!(Offer::parse(&nameless), Err(SdpError::Bad(why)) if why.contains("ice-pwd")));
        assert!(matches!(Offer::parse(&CHROMIUM.repeat(20)), Err(SdpError::Bad(_))));
    }

    #[test]
    fn fragments_carry_candidates_or_new_credentials() {
        let trickle = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
                       a=mid:0\r\na=candidate:1 1 udp 1 198.51.100.1 61764 typ host\r\na=end-of-candidates\r\n";
        let fragment = Fragment::parse(trickle).unwrap();
        assert_eq!(fragment.credentials.unwrap().ufrag, "EsAw");
        assert!(Fragment::parse("a=mid:0\r\n").unwrap().credentials.is_none());
        for bad in ["", "hello", "a=ice-ufrag:abcd\r\n", "a=ice-ufrag:a b\r\na=ice-pwd:c\r\n"] {
            assert!(Fragment::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Strangers' text never panics, and what is taken is rendered into descriptions that have no foreign lines.
        #[test]
        fn survives_mutilation(cuts in prop::collection::vec((0usize..4000, 0usize..60, ".{0,12}"), 1..6)) {
            let mut text: Vec<char> = CHROMIUM.chars().collect();
            for (at, length, with) in cuts {
                let at = at.min(text.len());
                let end = (at + length).min(text.len());
                text.splice(at..end, with.chars());
            }
            let text: String = text.into_iter().collect();
            let _ = Fragment::parse(&text);
            if let Ok(offer) = Offer::parse(&text) {
                let answer = offer.answer(&local(), &[], 1, 1);
                prop_assert!(answer.lines().all(|l| matches!(l.get(..2), Some("v=" | "o=" | "s=" | "t=" | "a=" | "m=" | "c="))));
                prop_assert!(Offer::parse(&offer.for_core()).is_ok());
            }
        }
    }
}
