//! V4L2 cameras: finding them again wherever they are plugged in, and choosing what they shall give.
//!
//! Owns: names and places of cameras, the choice among their formats. Must not touch: the room, what else is in a box.
//! Law: a camera is known by what it is and where it hangs, not by its number: that is another one after each plugging.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use tokio_util::sync::CancellationToken;

use super::Kit;
use super::life::{H264_OUT, Life, aside, encoded, launch, quoted};
use super::seat::Seat;
use crate::model::TrackKind;
use crate::model::mix::Size;
use crate::model::source::{Camera, Format, bitrate};

const NODES: &str = "/sys/class/video4linux";
/// A driver that does not say what it has after so long hangs.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// One node of a camera; cameras may have several, for what is no picture.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    /// `video0`
    node: String,
    /// As the driver calls it.
    name: String,
    /// Where it is plugged in: the last part of its device's path in sysfs.
    place: String,
    index: u32,
}

impl Node {
    fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.node)
    }
}

/// The nodes below `root`, those that come first of each device first.
fn nodes(root: &Path) -> Vec<Node> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut all: Vec<Node> = entries
        .filter_map(|entry| {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).map(|text| text.trim().to_owned());
            // a camera that a program feeds (v4l2loopback) hangs on nothing: it is its own place
            let place =
                fs::canonicalize(entry.path().join("device")).or_else(|_| fs::canonicalize(entry.path())).ok()?;
            Some(Node {
                node: entry.file_name().into_string().ok()?,
                name: read("name").ok()?,
                place: place.file_name()?.to_str()?.to_owned(),
                index: read("index").ok().and_then(|n| n.parse().ok()).unwrap_or(0),
            })
        })
        .collect();
    all.sort_by_key(|node| (node.index, node.node.len(), node.node.clone()));
    all
}

/// The node that is meant: by its path, or as the device that had the path (`known`), by name, or by place.
fn find(all: &[Node], device: &str, known: Option<&Node>) -> Option<Node> {
    let same = |node: &&Node| known.is_some_and(|known| node.name == known.name && node.index == known.index);
    if device.starts_with("/dev/") {
        // udev's links by id and by path lead to the node
        let path = fs::canonicalize(device).unwrap_or_else(|_| PathBuf::from(device));
        let there = all.iter().find(|node| node.path() == path);
        // another device may have the number by now
        let there = there.filter(|node| known.is_none() || same(node));
        let place = || all.iter().find(|node| same(node) && known.is_some_and(|known| known.place == node.place));
        return there.or_else(place).or_else(|| all.iter().find(same)).cloned();
    }
    let by = |fits: &dyn Fn(&Node) -> bool| all.iter().find(|node| fits(node)).cloned();
    by(&|node| node.name == device || node.place == device).or_else(|| by(&|node| node.name.contains(device)))
}

/// Raw formats that cost little to convert, the best first.
const RAW: [&str; 5] = ["I420", "NV12", "YUY2", "UYVY", "YV12"];

#[derive(Debug, Clone, PartialEq)]
struct Choice {
    format: Format,
    caps: gst::Caps,
    size: Size,
    fps: u32,
}

/// Of what the camera can give, what comes next to what is wanted.
fn choose(caps: &gst::Caps, wanted: &Camera) -> Option<Choice> {
    // afterwards no field but sizes and rates holds several values
    let mut caps = caps.clone();
    caps.normalize();
    let mut best: Option<((u32, u32, usize), Choice)> = None;
    for (structure, features) in caps.iter_with_features() {
        let format = match structure.name().as_str() {
            "video/x-raw" => Format::Raw,
            "image/jpeg" => Format::Mjpeg,
            "video/x-h264" => Format::H264,
            _ => continue,
        };
        let plain = features.contains("memory:SystemMemory");
        if !plain || (wanted.format != Format::Auto && wanted.format != format) {
            continue;
        }
        let raw = structure.get::<&str>("format").ok();
        let rank = match format {
            Format::H264 => 0,
            Format::Mjpeg => 100,
            _ => 1 + raw.and_then(|raw| RAW.iter().position(|known| *known == raw)).unwrap_or(RAW.len()),
        };
        let mut structure = structure.to_owned();
        let Some((size, fps)) = fixate(&mut structure, wanted) else { continue };
        let sides = size.width.abs_diff(wanted.width) + size.height.abs_diff(wanted.height);
        let off = (sides, fps.abs_diff(wanted.fps), rank);
        if best.as_ref().is_none_or(|(least, _)| off < *least) {
            let caps = gst::Caps::builder_full().structure(structure).build();
            best = Some((off, Choice { format, caps, size, fps }));
        }
    }
    best.map(|(_, choice)| choice)
}

/// Leaves one size and rate, next to what is wanted.
fn fixate(structure: &mut gst::Structure, wanted: &Camera) -> Option<(Size, u32)> {
    structure.fixate_field_nearest_int("width", i32::try_from(wanted.width).unwrap_or(i32::MAX));
    structure.fixate_field_nearest_int("height", i32::try_from(wanted.height).unwrap_or(i32::MAX));
    let rate = gst::Fraction::new(i32::try_from(wanted.fps).unwrap_or(30), 1);
    structure.fixate_field_nearest_fraction("framerate", rate);
    structure.fixate();
    let side = |name: &str| structure.get::<i32>(name).ok().and_then(|n| u32::try_from(n).ok());
    let size = Size { width: side("width")?, height: side("height")? };
    let rate = structure.get::<gst::Fraction>("framerate").ok();
    let whole = rate.filter(|rate| rate.denom() > 0).map(|rate| (rate.numer() + rate.denom() / 2) / rate.denom());
    let fps = whole.and_then(|fps| u32::try_from(fps).ok()).unwrap_or(wanted.fps);
    Some((size, fps.max(1)))
}

/// What the driver says that the camera can give. Opens it.
fn asked(path: &Path) -> Result<gst::Caps, String> {
    let source = gst::ElementFactory::make("v4l2src").property("device", path.to_string_lossy().as_ref()).build();
    let source = source.map_err(|_| "no v4l2src: install gstreamer1.0-plugins-good")?;
    let opened = source.set_state(gst::State::Ready).is_ok();
    let caps = source.static_pad("src").map(|pad| pad.query_caps(None));
    let _ = source.set_state(gst::State::Null);
    match caps {
        Some(caps) if opened => Ok(caps),
        _ => Err(format!("{} cannot be opened", path.display())),
    }
}

/// A camera that is looked for, over all its lives.
pub(super) struct Eye {
    camera: Camera,
    /// What it was when it was there last.
    known: Mutex<Option<Node>>,
}

impl Eye {
    pub fn new(camera: Camera) -> Eye {
        Eye { camera, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Option<Node>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn live(
        &self,
        kit: &Kit,
        seat: &Arc<Seat>,
        stop: &CancellationToken,
        flows: &(dyn Fn() + Sync),
    ) -> Option<String> {
        let known = self.known().clone();
        let Some(node) = find(&nodes(Path::new(NODES)), &self.camera.device, known.as_ref()) else {
            return Some(format!("no camera '{}' is plugged in", self.camera.device));
        };
        if known.as_ref() != Some(&node) {
            tracing::info!(?node, "a camera is there");
            *self.known() = Some(node.clone());
        }
        match self.begin(kit, seat, &node.path()).await {
            Ok(life) => life.run(seat, &[TrackKind::Video], stop, flows).await,
            Err(why) => Some(why),
        }
    }

    async fn begin(&self, kit: &Kit, seat: &Arc<Seat>, path: &Path) -> Result<Life, String> {
        let node = path.to_owned();
        let caps = aside(ASK_WITHIN, move || asked(&node)).await.ok_or("its driver does not answer")??;
        let choice = choose(&caps, &self.camera)
            .ok_or_else(|| format!("the camera gives nothing of format {:?}", self.camera.format))?;
        tracing::info!(path = %path.display(), caps = %choice.caps, "what the camera is to give");
        let bits = self.camera.bitrate.unwrap_or_else(|| bitrate(choice.size.width, choice.size.height, choice.fps));
        let out =
            |decoder: &str| encoded(&kit.encoders, choice.size, choice.fps, bits).map(|out| format!("{decoder}{out}"));
        let out = match choice.format {
            Format::H264 => H264_OUT.to_owned(),
            Format::Mjpeg => out("jpegdec max-errors=-1 ! ")?,
            Format::Raw | Format::Auto => out("")?,
        };
        let description = format!(
            "v4l2src device={} ! capsfilter caps={} ! {out}",
            quoted(&path.to_string_lossy()),
            quoted(&choice.caps.to_string()),
        );
        Ok(Life::new(launch(&description, seat, kit.meridian)?, &kit.encoders))
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn node(node: &str, name: &str, place: &str, index: u32) -> Node {
        Node { node: node.into(), name: name.into(), place: place.into(), index }
    }

    #[test]
    fn a_camera_is_found_by_path_name_and_place_and_again_under_another_number() {
        let cam = node("video0", "HD Cam", "1-1:1.0", 0);
        let data = node("video1", "HD Cam", "1-1:1.0", 1);
        let twin = node("video2", "HD Cam", "1-2:1.0", 0);
        let all = [cam.clone(), twin.clone(), data.clone()];
        for device in ["/dev/video0", "HD Cam", "1-1:1.0", "HD"] {
            assert_eq!(find(&all, device, None), Some(cam.clone()), "{device}");
        }
        assert_eq!(find(&all, "1-2:1.0", None), Some(twin.clone()));
        for device in ["/dev/video7", "hd cam", "Other"] {
            assert_eq!(find(&all, device, None), None, "{device}");
        }
        // plugged out and in again: another number, and something else under the old one
        let moved = node("video4", "HD Cam", "1-1:1.0", 0);
        let stranger = node("video0", "Grabber", "1-3:1.0", 0);
        let all = [stranger.clone(), twin.clone(), moved.clone()];
        assert_eq!(find(&all, "/dev/video0", Some(&cam)), Some(moved), "where it was, rather than its twin");
        let all = [stranger.clone(), node("video5", "HD Cam", "3-1:1.0", 0)];
        assert_eq!(find(&all, "/dev/video0", Some(&cam)).map(|n| n.node).as_deref(), Some("video5"), "another socket");
        assert_eq!(find(&[stranger], "/dev/video0", Some(&cam)), None);
    }

    #[test]
    fn nodes_are_read_from_sysfs() {
        let root = tempfile::TempDir::new().unwrap();
        let device = root.path().join("devices/vivid.0");
        fs::create_dir_all(&device).unwrap();
        for (name, index) in [
            (
                "video11", "1
",
            ),
            (
                "video10", "0
",
            ),
        ] {
            let node = root.path().join("class").join(name);
            fs::create_dir_all(&node).unwrap();
            fs::write(
                node.join("name"),
                "vivid-000-vid-cap
",
            )
            .unwrap();
            fs::write(node.join("index"), index).unwrap();
            std::os::unix::fs::symlink(&device, node.join("device")).unwrap();
        }
        fs::create_dir_all(root.path().join("class/torn")).unwrap();
        let fed = root.path().join("class/video20");
        fs::create_dir_all(&fed).unwrap();
        fs::write(fed.join("name"), "desktop\n").unwrap();
        let found = nodes(&root.path().join("class"));
        assert_eq!(found[0], node("video10", "vivid-000-vid-cap", "vivid.0", 0));
        assert_eq!(found[1], node("video20", "desktop", "video20", 0), "what hangs on no device is a camera too");
        assert_eq!((found.len(), found[2].node.as_str()), (3, "video11"));
        assert_eq!(nodes(Path::new("/nowhere")), []);
    }

    #[test]
    fn what_comes_next_to_the_wish_is_chosen() {
        gst::init().unwrap();
        let caps = gst::Caps::from_str(
            "video/x-raw, format={YUY2,NV12}, width=640, height=480, framerate={30/1,15/1};              video/x-raw, format=YUY2, width=1280, height=720, framerate=10/1;              image/jpeg, width=1280, height=720, framerate=30/1;              video/x-h264, width=1920, height=1080, framerate=30/1;              video/x-raw(memory:DMABuf), format=NV12, width=1280, height=720, framerate=30/1;              video/x-raw, format=I420, width=[32,320], height=[32,240], framerate=[0/1,60/1]",
        )
        .unwrap();
        let wish = |width, height, fps, format| {
            let camera = Camera { device: String::new(), format, width, height, fps, bitrate: None };
            choose(&caps, &camera).map(|c| format!("{:?} {}x{}@{}", c.format, c.size.width, c.size.height, c.fps))
        };
        let told = |text: &str| Some(text.to_owned());
        assert_eq!(wish(1280, 720, 30, Format::Auto), told("Mjpeg 1280x720@30"), "raw would be slow");
        assert_eq!(wish(1280, 720, 30, Format::Raw), told("Raw 1280x720@10"));
        assert_eq!(wish(640, 480, 15, Format::Auto), told("Raw 640x480@15"));
        assert_eq!(wish(4000, 3000, 30, Format::Auto), told("H264 1920x1080@30"));
        assert_eq!(wish(200, 100, 25, Format::Auto), told("Raw 200x100@25"));
        let camera =
            Camera { device: String::new(), format: Format::Auto, width: 640, height: 480, fps: 30, bitrate: None };
        let chosen = choose(&caps, &camera).unwrap().caps;
        assert!(chosen.is_fixed() && chosen.to_string().contains("NV12"), "{chosen}");
        assert_eq!(choose(&gst::Caps::new_empty(), &camera), None);
    }
}
