//! A source: a camera, a microphone or another server's stream that the box fetches itself and puts into a room.
//!
//! Owns: what a source is made of, and addresses that may hold a password. Must not touch: devices, sockets, how media
//! is fetched.
//! Law: an address prints without its login and without its query, since cameras take passwords in both.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::{MediaId, RoomKey, Secret, UserId};

/// A participant that the box makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// Tells it from the others.
    pub name: String,
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
    /// Who sends nothing for so long has left the room; who is back before goes on in the same files.
    pub grace: Duration,
    pub origin: Origin,
}

/// Where its media comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Rtsp {
        address: Address,
        login: Option<Login>,
        transport: Transport,
        /// Any certificate is taken (rtsps).
        insecure: bool,
        /// Of what has to be encoded here, bits per second.
        bitrate: Option<u32>,
    },
    /// At least one of the two.
    Devices { camera: Option<Camera>, microphone: Option<Microphone> },
    Whep {
        address: Address,
        token: Option<Secret>,
        /// Any certificate is taken.
        insecure: bool,
    },
}

impl Origin {
    /// As configuration names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Rtsp { .. } => "rtsp",
            Origin::Devices { camera: Some(_), .. } => "v4l2",
            Origin::Devices { camera: None, .. } => "alsa",
            Origin::Whep { .. } => "whep",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    Tcp,
    Udp,
    /// TCP; when nothing comes that way, UDP, and so on by turns. Never of rtsps, whose media goes in the TLS.
    #[default]
    Auto,
}

/// What a camera shall give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// What comes next to the size and rate that are wanted; of equals H.264, then raw pictures, then MJPEG.
    #[default]
    Auto,
    Raw,
    Mjpeg,
    H264,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// A path below /dev, the camera's name, or the place where it is plugged in.
    pub device: String,
    pub format: Format,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Of what has to be encoded here, bits per second.
    pub bitrate: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Microphone {
    /// An ALSA device, or a card's id or name.
    pub device: String,
}

/// Bits per second for pictures that are encoded here: an eighth of a bit for each pixel, which a consultation's
/// picture needs no more than.
pub fn bitrate(width: u32, height: u32, fps: u32) -> u32 {
    let pixels = u64::from(width) * u64::from(height) * u64::from(fps.max(1));
    u32::try_from((pixels / 8).clamp(200_000, 8_192_000)).expect("it is clamped")
}

/// Where a stream is fetched from. Its login stands apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// An address with one of these schemes, and the login that stood in it.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<(Address, Option<Login>), &'static str> {
        // the parser's own words quote nothing, but say less than this
        let mut url = Url::parse(text).map_err(|_| "is not an address")?;
        if !schemes.contains(&url.scheme()) || !url.has_host() {
            return Err("is not an address of its kind");
        }
        let plain = |text: &str| percent(text);
        let password = url.password().map(plain);
        let user = Some(url.username()).filter(|user| !user.is_empty()).map(plain);
        let login = user.map(|user| Login { user, password: Secret::new(password.unwrap_or_default()) });
        // both can be unset where there is a host
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok((Address(url), login))
    }

    /// The whole of it, for the one place that connects.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    /// `text` without what this address hides.
    pub fn redact(&self, text: &str) -> String {
        let text = text.replace(self.expose(), &self.to_string());
        match self.0.query().filter(|query| !query.is_empty()) {
            Some(query) => text.replace(query, "…"),
            None => text,
        }
    }
}

/// `%2F` as `/`, where it is valid.
fn percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = (*first == b'%').then(|| after.get(..2)).flatten();
        let coded =
            coded.and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())?;
        if self.0.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_without_what_it_hides() {
        let text = "rtsp://admin:s%2Fcret@10.0.0.7:8554/live?user=admin&password=hush";
        let (address, login) = Address::parse(text, &["rtsp"]).expect("an address");
        let login = login.expect("it stands in it");
        assert_eq!((login.user.as_str(), login.password.expose()), ("admin", "s/cret"));
        assert_eq!(address.to_string(), "rtsp://10.0.0.7:8554/live?…");
        assert_eq!(
            format!("{address:?} {login:?}"),
            "rtsp://10.0.0.7:8554/live?… Login { user: \"admin\", password: Secret(…) }"
        );
        assert_eq!(address.expose(), "rtsp://10.0.0.7:8554/live?user=admin&password=hush");
        let told = address.redact("rtsp://10.0.0.7:8554/live?user=admin&password=hush and user=admin&password=hush");
        assert_eq!(told, "rtsp://10.0.0.7:8554/live?… and …");
        let (plain, login) = Address::parse("rtsp://cam/", &["rtsp", "rtsps"]).expect("an address");
        assert_eq!((plain.redact("cam").as_str(), login), ("cam", None));
        for bad in ["", "cam", "http://cam/", "rtsp:cam", "rtsp://"] {
            assert!(Address::parse(bad, &["rtsp"]).is_err(), "{bad}");
        }
        assert_eq!(percent("%zz%4"), "%zz%4");
    }

    #[test]
    fn a_bitrate_follows_the_pixels() {
        assert_eq!(bitrate(1280, 720, 30), 3_456_000);
        assert_eq!(bitrate(2, 2, 0), 200_000);
        assert_eq!(bitrate(u32::MAX, 1, u32::MAX), 8_192_000);
    }
}
