//! `[[sources]]`: cameras, microphones and other servers' streams that the box puts into a room itself.
//!
//! Owns: the table, its defaults and faults, the source that it makes. Must not touch: devices, sockets.
//! Law: a source is told whole or not at all; what another kind of source would read is a fault, not a shrug.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::source::{Address, Camera, Format, Login, Microphone, Origin, SourceSpec, Transport};
use crate::model::{MediaId, RoomId, RoomKey, SdkAppId, Secret, UserId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Rtsp,
    V4l2,
    Alsa,
    Whep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomType {
    String,
    Number,
}

/// An address as it stands in a document. It may hold a password, so it does not print.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Link(String);

impl Link {
    /// The whole of it, for whoever compares or connects.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// With its password it is written as a secret is.
impl Serialize for Link {
    fn serialize<S: serde::Serializer>(&self, document: S) -> Result<S::Ok, S::Error> {
        match Address::parse(&self.0, &["rtsp", "rtsps", "http", "https"]) {
            Ok((_, None)) => document.serialize_str(&self.0),
            _ => Secret::new(&self.0).serialize(document),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Address::parse(&self.0, &["rtsp", "rtsps", "http", "https"]) {
            Ok((address, _)) => write!(f, "{address}"),
            Err(_) => f.write_str("…"),
        }
    }
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub name: String,
    pub kind: Kind,
    #[serde(default = "yes")]
    pub enabled: bool,
    pub sdk_app_id: SdkAppId,
    pub room: String,
    /// Without it a room is a number if it can be, as at the WHIP door.
    #[serde(default)]
    pub room_type: Option<RoomType>,
    pub user: String,
    /// The user's main stream, or the auxiliary one.
    #[serde(default = "main")]
    pub stream: MediaId,
    /// Nothing came for so long: the user has left. Back before, the same files go on.
    #[serde(default = "grace")]
    pub grace_seconds: u64,
    /// rtsp, whep
    #[serde(default)]
    pub url: Option<Link>,
    /// rtsp, where they do not stand in the address
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// rtsp
    #[serde(default)]
    pub transport: Option<Way>,
    /// whep: the bearer token
    #[serde(default)]
    pub token: Option<Secret>,
    /// rtsps, https: any certificate is taken
    #[serde(default)]
    pub insecure: bool,
    /// v4l2, alsa
    #[serde(default)]
    pub device: Option<String>,
    /// v4l2: the user's sound
    #[serde(default)]
    pub microphone: Option<String>,
    /// v4l2
    #[serde(default)]
    pub format: Option<Gives>,
    #[serde(default)]
    pub width: Option<u32>,
    #[serde(default)]
    pub height: Option<u32>,
    #[serde(default)]
    pub fps: Option<u32>,
    /// v4l2, rtsp: of pictures that are encoded here
    #[serde(default)]
    pub bitrate: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Tcp,
    Udp,
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gives {
    Auto,
    Raw,
    Mjpeg,
    H264,
}

fn yes() -> bool {
    true
}

fn main() -> MediaId {
    MediaId::Main
}

fn grace() -> u64 {
    15
}

impl Source {
    /// The source that the table describes, or everything that is wrong with it. `known`: whether the box has the
    /// application.
    pub fn spec(&self, known: impl Fn(SdkAppId) -> bool) -> Result<SourceSpec, Vec<String>> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let named = (1..=64).contains(&self.name.len()) && self.name.chars().all(plain);
        check(named, "name must be 1 to 64 letters, digits, -, _ and .");
        check(known(self.sdk_app_id), "sdk_app_id is no application of the box");
        check((1..=3600).contains(&self.grace_seconds), "grace_seconds must be 1 to 3600");
        let within = |value: Option<u32>, low, high| value.is_none_or(|value| (low..=high).contains(&value));
        check(within(self.width, 16, 7680), "width must be 16 to 7680");
        check(within(self.height, 16, 4320), "height must be 16 to 4320");
        check(within(self.fps, 1, 120), "fps must be 1 to 120");
        check(within(self.bitrate, 64_000, 50_000_000), "bitrate must be 64000 to 50000000");
        let room = match self.room_type {
            Some(RoomType::String) => RoomId::text(&self.room),
            Some(RoomType::Number) => RoomId::number(&self.room),
            None => RoomId::number(&self.room).or_else(|_| RoomId::text(&self.room)),
        };
        check(room.is_ok(), "room is no room id");
        let user = UserId::parse(&self.user);
        check(user.is_ok(), "user is no user id");
        let given = [
            ("url", self.url.is_some(), &[Kind::Rtsp, Kind::Whep][..], true),
            ("username", self.username.is_some(), &[Kind::Rtsp], false),
            ("password", self.password.is_some(), &[Kind::Rtsp], false),
            ("transport", self.transport.is_some(), &[Kind::Rtsp], false),
            ("token", self.token.is_some(), &[Kind::Whep], false),
            ("insecure", self.insecure, &[Kind::Rtsp, Kind::Whep], false),
            ("device", self.device.is_some(), &[Kind::V4l2, Kind::Alsa], true),
            ("microphone", self.microphone.is_some(), &[Kind::V4l2], false),
            ("format", self.format.is_some(), &[Kind::V4l2], false),
            ("width", self.width.is_some(), &[Kind::V4l2], false),
            ("height", self.height.is_some(), &[Kind::V4l2], false),
            ("fps", self.fps.is_some(), &[Kind::V4l2], false),
            ("bitrate", self.bitrate.is_some(), &[Kind::V4l2, Kind::Rtsp], false),
        ];
        for (field, given, kinds, needed) in given {
            let its = kinds.contains(&self.kind);
            check(its || !given, &format!("{field} is not for kind {}", self.kind.as_str()));
            check(given || !its || !needed, &format!("{field} is missing"));
        }
        check(self.username.is_some() || self.password.is_none(), "password is there without username");
        for (field, device) in [("device", &self.device), ("microphone", &self.microphone)] {
            // it goes into the description of a pipeline's element
            let fits = |text: &String| (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
            check(
                device.as_ref().is_none_or(fits),
                &format!("{field} must be 1 to 256 bytes without control characters"),
            );
        }
        let origin = match self.kind {
            Kind::Rtsp | Kind::Whep => self.remote(),
            Kind::V4l2 | Kind::Alsa => Ok(self.devices()),
        };
        // what is missing was told above
        faults.extend(origin.as_ref().err().filter(|_| self.url.is_some()).cloned());
        match (faults.is_empty(), room, user, origin) {
            (true, Ok(room), Ok(user), Ok(origin)) => Ok(SourceSpec {
                name: self.name.clone(),
                room: RoomKey { app: self.sdk_app_id, room },
                user,
                media: self.stream,
                grace: Duration::from_secs(self.grace_seconds),
                origin,
            }),
            _ => Err(faults),
        }
    }

    fn remote(&self) -> Result<Origin, String> {
        let schemes: &[&str] = if self.kind == Kind::Rtsp { &["rtsp", "rtsps"] } else { &["http", "https"] };
        let url = self.url.as_ref().map_or("", Link::expose);
        let (address, inside) = Address::parse(url, schemes).map_err(|why| format!("url {why}"))?;
        if self.kind == Kind::Whep {
            if inside.is_some() {
                return Err("url holds a login: a WHEP server takes a token".into());
            }
            return Ok(Origin::Whep { address, token: self.token.clone(), insecure: self.insecure });
        }
        let login =
            self.username.clone().map(|user| Login { user, password: self.password.clone().unwrap_or_default() });
        let sealed = address.url().scheme() == "rtsps";
        let transport = match self.transport {
            Some(Way::Tcp) => Transport::Tcp,
            Some(Way::Udp) if sealed => {
                return Err("url is of rtsps, whose media goes in the TLS: transport is tcp".into());
            }
            Some(Way::Udp) => Transport::Udp,
            // UDP would carry pictures in the clear
            Some(Way::Auto) | None if sealed => Transport::Tcp,
            Some(Way::Auto) | None => Transport::Auto,
        };
        let (insecure, bitrate) = (self.insecure, self.bitrate);
        Ok(Origin::Rtsp { address, login: login.or(inside), transport, insecure, bitrate })
    }

    fn devices(&self) -> Origin {
        let device = self.device.clone().unwrap_or_default();
        if self.kind == Kind::Alsa {
            return Origin::Devices { camera: None, microphone: Some(Microphone { device }) };
        }
        let camera = Camera {
            device,
            format: match self.format {
                Some(Gives::Raw) => Format::Raw,
                Some(Gives::Mjpeg) => Format::Mjpeg,
                Some(Gives::H264) => Format::H264,
                Some(Gives::Auto) | None => Format::Auto,
            },
            width: self.width.unwrap_or(1280),
            height: self.height.unwrap_or(720),
            fps: self.fps.unwrap_or(30),
            bitrate: self.bitrate,
        };
        let microphone = self.microphone.clone().map(|device| Microphone { device });
        Origin::Devices { camera: Some(camera), microphone }
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Rtsp => "rtsp",
            Kind::V4l2 => "v4l2",
            Kind::Alsa => "alsa",
            Kind::Whep => "whep",
        }
    }
}

/// Everything that is wrong with the sources of a document.
pub(super) fn faults(sources: &[Source], known: impl Fn(SdkAppId) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let own = source.spec(&known).err().unwrap_or_default();
        faults.extend(own.into_iter().map(|fault| format!("sources[{i}].{fault}")));
        let before = &sources[..i];
        if before.iter().any(|other| other.name == source.name) {
            faults.push(format!("sources[{i}].name stands twice"));
        }
        let place = |s: &Source| (s.sdk_app_id, s.room.clone(), s.user.clone(), s.stream);
        if before.iter().any(|other| other.enabled && source.enabled && place(other) == place(source)) {
            faults.push(format!("sources[{i}].user is in the room as another source already"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::model::source::{Format, Origin, Transport};

    fn parsed(sources: &str) -> Result<Config, crate::config::Faults> {
        Config::parse(&format!("[[apps]]\nsdk_app_id = 7\n{sources}"))
    }

    const DOOR: &str = "[[sources]]\nname = 'door'\nkind = 'rtsp'\nsdk_app_id = 7\nroom = '12'\nuser = 'camera'\n";

    #[test]
    fn a_table_makes_a_source_and_its_password_is_not_shown() {
        let text = format!(
            "{DOOR}url = 'rtsp://root:hush@10.0.0.7/live?pw=hush'\ntransport = 'udp'\n\
             [[sources]]\nname = 'desk'\nkind = 'v4l2'\nsdk_app_id = 7\nroom = 'ward'\nuser = 'desk'\ndevice = 'HD Cam'\n\
             microphone = 'default'\nenabled = false\n"
        );
        let config = parsed(&text).expect("valid");
        let specs: Vec<_> = config.sources.iter().map(|s| s.spec(|_| true).expect("checked")).collect();
        let Origin::Rtsp { address, login, transport, .. } = &specs[0].origin else { panic!("{specs:?}") };
        assert_eq!((address.to_string().as_str(), *transport), ("rtsp://10.0.0.7/live?…", Transport::Udp));
        assert_eq!(login.as_ref().map(|l| l.password.expose()), Some("hush"));
        assert_eq!(specs[0].room.to_string(), "7/12");
        let Origin::Devices { camera: Some(camera), microphone: Some(_) } = &specs[1].origin else {
            panic!("{specs:?}")
        };
        assert_eq!((camera.width, camera.height, camera.fps, camera.format), (1280, 720, 30, Format::Auto));
        assert!(!format!("{config:?} {specs:?}").contains("hush"));
        assert_eq!(config.source_specs().len(), 1, "one is switched off");
    }

    #[test]
    fn every_fault_is_named_and_no_password_is_shown() {
        let text = "[[sources]]\nname = 'a b'\nkind = 'alsa'\nsdk_app_id = 8\nroom = ''\nuser = ''\nurl = 'rtsp://u:hush@x/'\nfps = 0\n";
        let told = parsed(text).expect_err("many faults").to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "sources[0].name must be 1 to 64 letters, digits, -, _ and .",
                "sources[0].sdk_app_id is no application of the box",
                "sources[0].fps must be 1 to 120",
                "sources[0].room is no room id",
                "sources[0].user is no user id",
                "sources[0].url is not for kind alsa",
                "sources[0].device is missing",
                "sources[0].fps is not for kind alsa",
            ]
        );
        for (lines, fault) in [
            ("", "url is missing"),
            ("url = 'http://x/'", "url is not an address of its kind"),
            ("url = 'rtsp://x/'\npassword = 'hush'", "password is there without username"),
            ("url = 'rtsps://x/'\ntransport = 'udp'", "url is of rtsps, whose media goes in the TLS: transport is tcp"),
        ] {
            let told = parsed(&format!("{DOOR}{lines}\n")).expect_err("one fault").to_string();
            assert_eq!(told, format!("sources[0].{fault}"));
        }
        let sealed = parsed(&format!("{DOOR}url = 'rtsps://x/'\n")).expect("valid");
        let Origin::Rtsp { transport, .. } = sealed.sources[0].spec(|_| true).expect("checked").origin else {
            panic!("another kind")
        };
        assert_eq!(transport, Transport::Tcp, "by UDP pictures would go in the clear");
        let twice = format!("{DOOR}url = 'rtsp://x/'\n{DOOR}url = 'rtsp://y/'\n");
        let told = parsed(&twice).expect_err("twice").to_string();
        assert_eq!(told, "sources[1].name stands twice\nsources[1].user is in the room as another source already");
        let torn = parsed(&format!("{DOOR}url = 'rtsp://u:hush@x/'\nurk = 1\n")).expect_err("unknown").to_string();
        assert!(torn.contains("urk") && !torn.contains("hush"), "{torn}");
    }
}
