//! `[panel]`: the lights and the button on the box's front.
//!
//! Owns: the tables, their defaults and faults, what a press records. Must not touch: lines and lamps.
//! Law: a light or a button is named in one way of three; one that is not named is not there.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Automatic;
use crate::model::lamps::Light;
use crate::model::recording::{RecordingSpec, StorageKeys};
use crate::model::template::BUTTON;
use crate::model::{BadId, RoomId, RoomKey, SdkAppId, UserId};

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Panel {
    pub lights: Lights,
    pub button: Button,
    /// The upload light tells of a backlog once the oldest segment has waited for so long.
    pub backlog_seconds: u64,
    /// The power light says "updating" as long as there is such a file: whoever puts another program in place makes it.
    pub updating_file: PathBuf,
}

impl Default for Panel {
    fn default() -> Self {
        Panel {
            lights: Lights::default(),
            button: Button::default(),
            backlog_seconds: 300,
            updating_file: "/run/holdfast/updating".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lights {
    pub power: Option<Lamp>,
    pub recording: Option<Lamp>,
    pub upload: Option<Lamp>,
}

impl Lights {
    pub fn of(&self, light: Light) -> Option<&Lamp> {
        match light {
            Light::Power => self.power.as_ref(),
            Light::Recording => self.recording.as_ref(),
            Light::Upload => self.upload.as_ref(),
        }
    }
}

/// One lamp: an LED of the kernel's, a line of a GPIO chip, or a pin of a Raspberry Pi.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lamp {
    /// Name under `/sys/class/leds`.
    pub led: Option<String>,
    /// A GPIO chip by its path, its name (`gpiochip0`) or its label, and a line of it.
    pub chip: Option<String>,
    pub line: Option<Line>,
    /// A Raspberry Pi's GPIO by its BCM number.
    pub pin: Option<u8>,
    /// It is lit while the line is low.
    pub active_low: bool,
}

/// A line by its number on the chip or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Line {
    Number(u32),
    Name(String),
}

/// What stands behind a lamp or a button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire<'a> {
    Led(&'a str),
    Line { chip: &'a str, line: &'a Line },
    Pin(u8),
}

impl Lamp {
    /// `None`: it is named in no way, or in more than one.
    pub fn wire(&self) -> Option<Wire<'_>> {
        match (&self.led, &self.chip, &self.line, self.pin) {
            (Some(led), None, None, None) => Some(Wire::Led(led)),
            (None, Some(chip), Some(line), None) => Some(Wire::Line { chip, line }),
            (None, None, None, Some(pin)) => Some(Wire::Pin(pin)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// the board has a resistor of its own
    None,
    #[default]
    Up,
    Down,
}

/// A push button that begins and ends the recording of one room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Button {
    pub chip: Option<String>,
    pub line: Option<Line>,
    pub pin: Option<u8>,
    /// It pulls the line low while it is pressed.
    pub active_low: bool,
    pub pull: Pull,
    /// The contact counts once it has kept still for so long.
    pub debounce_ms: u64,
    /// Held for so long, it asks for identify in place of a recording.
    pub long_seconds: u64,
    /// The room that it records.
    pub sdk_app_id: Option<SdkAppId>,
    pub room: String,
    /// A recording that was begun with nobody in the room waits for so long.
    pub idle_seconds: u64,
    /// What is recorded, and where it goes, in the words of `[automatic]`.
    pub record: Automatic,
}

impl Default for Button {
    fn default() -> Self {
        Button {
            chip: None,
            line: None,
            pin: None,
            active_low: true,
            pull: Pull::Up,
            debounce_ms: 30,
            long_seconds: 5,
            sdk_app_id: None,
            room: String::new(),
            idle_seconds: 900,
            record: Automatic::default(),
        }
    }
}

/// A room by its name, as the WHIP addresses of publishers have it: digits are a number.
fn room(text: &str) -> Result<RoomId, BadId> {
    RoomId::number(text).or_else(|_| RoomId::text(text))
}

impl Button {
    /// `None`: there is none.
    pub fn wire(&self) -> Option<Wire<'_>> {
        match (&self.chip, &self.line, self.pin) {
            (Some(chip), Some(line), None) => Some(Wire::Line { chip, line }),
            (None, None, Some(pin)) => Some(Wire::Pin(pin)),
            _ => None,
        }
    }

    fn is_named(&self) -> bool {
        self.chip.is_some() || self.line.is_some() || self.pin.is_some()
    }

    pub fn long(&self) -> Duration {
        Duration::from_secs(self.long_seconds)
    }

    pub fn debounce(&self) -> Duration {
        Duration::from_millis(self.debounce_ms)
    }

    /// What a short press begins; `None` where no room is set: then it asks for nothing.
    pub fn order(&self) -> Option<(RecordingSpec, StorageKeys)> {
        let room = RoomKey { app: self.sdk_app_id?, room: room(&self.room).ok()? };
        let what = self.record.what();
        let recorder = UserId::parse(BUTTON).expect("it is a user id");
        let max_idle = Duration::from_secs(self.idle_seconds);
        // somebody pressed a button for it: it ends by the button, or when nobody has come for long
        let spec = RecordingSpec { recorder, max_idle, ..what.spec(&room) };
        Some((spec, what.keys))
    }
}

impl Panel {
    /// `cloud`: the files go to a storage that wants keys. `known`: whether the box has this application.
    pub(super) fn faults(&self, cloud: bool, known: impl Fn(SdkAppId) -> bool) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(format!("panel.{fault}"));
            }
        };
        check((10..=604_800).contains(&self.backlog_seconds), "backlog_seconds must be 10 to 604800".into());
        check(self.updating_file.is_absolute(), "updating_file must be an absolute path".into());
        let mut wires: Vec<(&str, Wire<'_>)> = Vec::new();
        for light in Light::ALL {
            let (name, Some(lamp)) = (light.name(), self.lights.of(light)) else { continue };
            let ways = "one of led = …, chip = … with line = …, pin = …";
            check(lamp.wire().is_some(), format!("lights.{name} must have {ways}"));
            if let Some(Wire::Led(led)) = lamp.wire() {
                let plain = !led.is_empty() && !led.starts_with('.') && !led.contains('/');
                check(plain, format!("lights.{name}.led is not a name under /sys/class/leds"));
            }
            wires.extend(lamp.wire().map(|wire| (name, wire)));
        }
        let button = &self.button;
        if let Some(wire) = button.wire() {
            wires.push(("button", wire));
        }
        for (i, (name, wire)) in wires.iter().enumerate() {
            let same = wires[..i].iter().find(|(_, other)| other == wire);
            check(same.is_none(), format!("{name} and {} are the same line", same.map_or("", |(other, _)| other)));
        }
        check(
            button.wire().is_some() || !button.is_named(),
            "button must have one of chip = … with line = …, pin = …".into(),
        );
        check((1..=500).contains(&button.debounce_ms), "button.debounce_ms must be 1 to 500".into());
        check((1..=60).contains(&button.long_seconds), "button.long_seconds must be 1 to 60".into());
        check((5..=86_400).contains(&button.idle_seconds), "button.idle_seconds must be 5 to 86400".into());
        let record = &button.record;
        let plain = Automatic::default();
        check(
            !record.enabled
                && record.rooms == plain.rooms
                && record.except == plain.except
                && record.sdk_app_id.is_none(),
            "button.record has enabled, rooms, except or sdk_app_id: the button has one room, which stands beside it"
                .into(),
        );
        let wanted = button.wire().is_some() && (button.sdk_app_id.is_some() || !button.room.is_empty());
        if wanted {
            check(button.sdk_app_id.is_some_and(known), "button.sdk_app_id is no application of this file".into());
            check(room(&button.room).is_ok(), "button.room is not the id of a room".into());
        }
        faults.extend(record.faults_of("panel.button.record", wanted, cloud, |_| true));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Faults};

    #[test]
    fn every_fault_is_named() {
        let bad = r#"
            [panel]
            backlog_seconds = 1
            updating_file = "updating"
            [panel.lights]
            power = { led = "a", pin = 3 }
            recording = { led = "../x" }
            upload = { chip = "gpiochip0", line = 5 }
            [panel.button]
            chip = "gpiochip0"
            line = 5
            room = "ward/3"
            long_seconds = 0
            [panel.button.record]
            rooms = ["x"]
            secret_key = "hush-hush"
        "#;
        let Faults(faults) = Config::parse(bad).expect_err("many faults");
        assert_eq!(
            faults,
            [
                "panel.backlog_seconds must be 10 to 604800",
                "panel.updating_file must be an absolute path",
                "panel.lights.power must have one of led = …, chip = … with line = …, pin = …",
                "panel.lights.recording.led is not a name under /sys/class/leds",
                "panel.button and upload are the same line",
                "panel.button.long_seconds must be 1 to 60",
                "panel.button.record has enabled, rooms, except or sdk_app_id: the button has one room, which stands beside it",
                "panel.button.sdk_app_id is no application of this file",
                "panel.button.room is not the id of a room",
                "panel.button.record.bucket is missing",
                "panel.button.record.region is missing",
                "panel.button.record.access_key and .secret_key are missing",
            ]
        );
        let half = Config::parse("[panel.button]\nchip = 'gpiochip0'").expect_err("half a line").to_string();
        assert_eq!(half, "panel.button must have one of chip = … with line = …, pin = …");
    }

    #[test]
    fn a_press_records_what_the_table_says() {
        let text = r#"
            [[apps]]
            sdk_app_id = 7
            [storage]
            kind = "local"
            [panel.button]
            pin = 17
            sdk_app_id = 7
            room = "4711"
            idle_seconds = 60
            [panel.button.record]
            bucket = "rec"
            content = "audio"
            resume_seconds = 5
        "#;
        let button = Config::parse(text).expect("valid").panel.button;
        assert_eq!(button.wire(), Some(Wire::Pin(17)));
        let (spec, _) = button.order().expect("there is a room");
        assert_eq!((spec.recorder.as_str(), spec.room), (BUTTON, RoomId::Number(4711)));
        assert_eq!((spec.max_idle, spec.resume_wait), (Duration::from_secs(60), Some(Duration::from_secs(5))));
        assert_eq!(spec.destination.bucket, "rec");
        // without a room it is a button for identify alone
        let bare =
            Config::parse("[panel.button]\nchip = '/dev/gpiochip4'\nline = 'BUTTON'").expect("valid").panel.button;
        assert!(bare.order().is_none() && bare.wire().is_some());
        assert_eq!(Config::default().panel.button.wire(), None);
    }
}
