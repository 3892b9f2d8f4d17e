//! `[automatic]`: rooms that are recorded without anybody asking for it.
//!
//! Owns: the table, its defaults and faults, the template that it makes. Must not touch: what follows from a template.
//! Law: limits are those of the API (API.md §1.5, §1.7, §1.8); what is switched off is checked like what is on, but for
//! what only a recording needs.
//! Source: RECORDING.md §9.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::mix::{LayoutMode, MixSpec, Size, VideoParams};
use crate::model::output::Output;
use crate::model::recording::{Destination, StorageKeys, StreamType, Vendor};
use crate::model::template::{Pattern, Template};
use crate::model::{SdkAppId, Secret};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    AudioVideo,
    Audio,
    Video,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// each stream apart
    Single,
    /// one picture and one sound out of everybody
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Hls,
    Mp4,
    /// sound alone
    Aac,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MixLayout {
    Grid,
    Floating,
    ScreenShare,
}

/// The picture of a mixed recording.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    pub layout: MixLayout,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    pub bitrate: u32,
}

impl Default for Mix {
    fn default() -> Self {
        let VideoParams { size, fps, bitrate, .. } = VideoParams::default();
        Mix { layout: MixLayout::Grid, width: size.width, height: size.height, fps, bitrate }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Automatic {
    pub enabled: bool,
    /// Rooms of this application alone.
    pub sdk_app_id: Option<SdkAppId>,
    /// Patterns of rooms that are recorded, and of those that are not all the same; `*` stands for anything.
    pub rooms: Vec<String>,
    pub except: Vec<String>,
    pub content: Content,
    pub mode: Mode,
    pub mix: Mix,
    pub format: Format,
    /// Longest packed file (mp4, aac).
    pub file_minutes: u64,
    /// Who is back within it goes on in the same file; when all have left for longer, the recording ends.
    pub resume_seconds: u64,
    pub vendor: Vendor,
    pub region: String,
    pub bucket: String,
    pub access_key: Secret,
    pub secret_key: Secret,
    pub prefix: Vec<String>,
    /// Where events of automatic recordings go, in place of the application's own address.
    pub callback_url: Option<String>,
    pub callback_key: Option<Secret>,
}

impl Default for Automatic {
    fn default() -> Self {
        Automatic {
            enabled: false,
            sdk_app_id: None,
            rooms: vec!["*".into()],
            except: Vec::new(),
            content: Content::AudioVideo,
            mode: Mode::Single,
            mix: Mix::default(),
            format: Format::Hls,
            file_minutes: 1440,
            resume_seconds: 30,
            vendor: Vendor::S3,
            region: String::new(),
            bucket: String::new(),
            access_key: Secret::new(""),
            secret_key: Secret::new(""),
            prefix: Vec::new(),
            callback_url: None,
            callback_key: None,
        }
    }
}

impl Automatic {
    /// `None` while it is switched off.
    pub fn template(&self) -> Option<Template> {
        self.enabled.then(|| self.what())
    }

    /// What would be recorded, switched on or not.
    pub fn what(&self) -> Template {
        let even = |side: u32| (side & !1).max(2);
        let mode = match self.mix.layout {
            MixLayout::Grid => LayoutMode::Grid,
            MixLayout::Floating => LayoutMode::Floating { large: None },
            MixLayout::ScreenShare => LayoutMode::ScreenShare { large: None, large_on_the_right: false },
        };
        let mut mix = MixSpec::default();
        mix.video.size = Size { width: even(self.mix.width), height: even(self.mix.height) };
        (mix.video.fps, mix.video.bitrate, mix.layout.mode) = (self.mix.fps, self.mix.bitrate, mode);
        let patterns = |texts: &[String]| texts.iter().cloned().map(Pattern).collect();
        Template {
            app: self.sdk_app_id,
            rooms: patterns(&self.rooms),
            except: patterns(&self.except),
            streams: match self.content {
                Content::AudioVideo => StreamType::AudioVideo,
                Content::Audio => StreamType::Audio,
                Content::Video => StreamType::Video,
            },
            mix: (self.mode == Mode::Mixed).then_some(mix),
            output: match self.format {
                Format::Hls => Output::Hls,
                Format::Mp4 => Output::Mp4,
                Format::Aac => Output::Aac,
            },
            file_length: Duration::from_secs(self.file_minutes * 60),
            resume_wait: Duration::from_secs(self.resume_seconds),
            destination: Destination {
                vendor: self.vendor.clone(),
                region: self.region.clone(),
                bucket: self.bucket.clone(),
                prefix: self.prefix.clone(),
            },
            keys: StorageKeys { access_key: self.access_key.clone(), secret_key: self.secret_key.clone() },
        }
    }

    /// `cloud`: the files go to a storage that wants keys. `known`: whether the box has this application.
    pub(super) fn faults(&self, cloud: bool, known: impl Fn(SdkAppId) -> bool) -> Vec<String> {
        self.faults_of("automatic", self.enabled, cloud, known)
    }

    /// The same of a table of these words by the name of `table`. `used`: something is recorded by it.
    pub(super) fn faults_of(
        &self,
        table: &str,
        used: bool,
        cloud: bool,
        known: impl Fn(SdkAppId) -> bool,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(format!("{table}.{fault}"));
            }
        };
        check((1..=1440).contains(&self.file_minutes), "file_minutes must be 1 to 1440");
        check((1..=86_400).contains(&self.resume_seconds), "resume_seconds must be 1 to 86400");
        check(self.format != Format::Aac || self.content == Content::Audio, "format aac is for content audio alone");
        check(self.sdk_app_id.is_none_or(known), "sdk_app_id is no application of this file");
        let Mix { width, height, fps, bitrate, .. } = self.mix;
        let canvas = (1..=1920).contains(&width) && (1..=1920).contains(&height) && width * height <= 1920 * 1080;
        check(canvas, "mix.width and .height must be 1 to 1920, and no more than 1920x1080 pixels together");
        check((1..=60).contains(&fps), "mix.fps must be 1 to 60");
        check((64_000..=8_192_000).contains(&bitrate), "mix.bitrate must be 64000 to 8192000");
        let short = |patterns: &[String]| patterns.iter().all(|pattern| (1..=128).contains(&pattern.len()));
        check(short(&self.rooms) && short(&self.except), "rooms and .except must hold texts of 1 to 128 bytes");
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let parts = self.prefix.iter().all(|part| !part.is_empty() && part.len() <= 128 && plain(part));
        check(
            parts && self.prefix.iter().map(|part| part.len() + 1).sum::<usize>() <= 512,
            "prefix must hold texts of 1 to 128 letters, digits, _ and -, 512 together",
        );
        let bucket = self.bucket.split('.').all(|part| !part.is_empty() && plain(part)) && self.bucket.len() <= 255;
        check(self.bucket.is_empty() || bucket, "bucket must be letters, digits, -, _ and single dots");
        let region = self.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && self.region.len() <= 64;
        check(region, "region must be at most 64 letters, digits and -");
        if let Some(address) = &self.callback_url {
            let fits = url::Url::parse(address).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
            check(fits, "callback_url is not an http or https address");
        }
        check(self.callback_key.as_ref().is_none_or(|key| !key.is_empty()), "callback_key is empty");
        check(self.callback_key.is_none() || self.callback_url.is_some(), "callback_key is there without callback_url");
        if used {
            check(!self.rooms.is_empty(), "rooms is empty: nothing would be recorded");
            check(!self.bucket.is_empty(), "bucket is missing");
            check(!cloud || !self.region.is_empty(), "region is missing");
            let keys = !self.access_key.is_empty() && !self.secret_key.is_empty();
            check(!cloud || keys, "access_key and .secret_key are missing");
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::model::output::Output;
    use crate::model::recording::StreamType;
    use std::time::Duration;

    #[test]
    fn every_fault_is_named_and_no_key_is_shown() {
        let bad = r#"
            [automatic]
            enabled = true
            sdk_app_id = 7
            rooms = [""]
            format = "aac"
            file_minutes = 0
            resume_seconds = 86401
            secret_key = "hush-hush"
            bucket = "../x"
            prefix = ["a/b"]
            callback_url = "ftp://x"
            mix = { width = 1920, height = 1920, fps = 61, bitrate = 1 }
        "#;
        let told = Config::parse(bad).expect_err("many faults").to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 13, "{told}");
        assert!(lines.iter().all(|line| line.starts_with("automatic.")) && !told.contains("hush"), "{told}");
        let unknown = Config::parse("[automatic]\nroom = 'x'").expect_err("an unknown key").to_string();
        assert!(unknown.contains("room"), "{unknown}");
    }

    #[test]
    fn a_table_makes_a_template_when_it_is_switched_on() {
        let text = |enabled: bool| {
            format!(
                "[[apps]]\nsdk_app_id = 7\n[storage]\nkind = 'local'\n[automatic]\nenabled = {enabled}\nsdk_app_id = 7\n\
                 rooms = ['ward*']\nexcept = ['*private']\ncontent = 'audio'\nformat = 'aac'\nfile_minutes = 60\n\
                 resume_seconds = 5\nbucket = 'rec'\nmode = 'mixed'\nmix = {{ layout = 'floating', width = 641 }}\n"
            )
        };
        assert_eq!(Config::parse(&text(false)).expect("valid").automatic.template(), None);
        let template = Config::parse(&text(true)).expect("valid").automatic.template().expect("it is on");
        assert_eq!((template.streams, template.output), (StreamType::Audio, Output::Aac));
        assert_eq!((template.file_length, template.resume_wait), (Duration::from_secs(3600), Duration::from_secs(5)));
        assert_eq!(template.mix.expect("mixed").video.size.width, 640);
        assert!(Config::default().automatic.template().is_none());
    }
}
