//! The three lamps together, each on the wire that the configuration names.
//!
//! Owns: which lamp is which light, what is told of one that fails. Must not touch: rhythms.
//! Law: a lamp that cannot be opened or set is told once, and asked again in silence.

use std::io;
use std::path::Path;

use super::Last;
use super::lamp::Lamp;
use super::led::Led;
use super::line::OutputLine;
use super::pin::OutputPin;
use crate::config::panel::{Lights, Wire};
use crate::model::lamps::{FAILED_HALF, Light};

struct Slot {
    lamp: Box<dyn Lamp>,
    /// As it was set; `None`: not by us, or in vain.
    lit: Option<bool>,
    troubled: bool,
}

/// The lamps there are, by their lights.
pub(super) struct Bank([Option<Slot>; Light::ALL.len()]);

impl Bank {
    pub(super) fn none() -> Bank {
        Bank([const { None }; Light::ALL.len()])
    }

    pub(super) fn open(lights: &Lights, leds: &Path) -> Bank {
        Bank(Light::ALL.map(|light| {
            let lamp = lights.of(light)?;
            let wire = lamp.wire()?;
            match open(wire, lamp.active_low, leds) {
                Ok(lamp) => {
                    tracing::info!(light = light.name(), ?wire, "a light is there");
                    Some(Slot { lamp, lit: None, troubled: false })
                }
                Err(error) => {
                    tracing::warn!(light = light.name(), ?wire, %error, "a light cannot be had: it stays as it is");
                    None
                }
            }
        }))
    }

    pub(super) fn has(&self, light: Light) -> bool {
        self.0[light as usize].is_some()
    }

    pub(super) fn set(&mut self, light: Light, lit: bool) {
        let Some(slot) = &mut self.0[light as usize] else { return };
        if slot.lit == Some(lit) {
            return;
        }
        let done = slot.lamp.set(lit);
        slot.lit = done.is_ok().then_some(lit);
        slot.told(light, done.err());
    }

    /// The box is gone: nothing is recorded or carried, and the power light says whether that was meant.
    pub(super) fn leave(&mut self, last: Last) {
        for light in Light::ALL {
            let Some(slot) = &mut self.0[light as usize] else { continue };
            slot.lit = None;
            let alone = match (last, light) {
                (Last::Failed, Light::Power) => slot.lamp.blink_alone(FAILED_HALF),
                _ => Ok(false),
            };
            let done = match alone {
                Ok(true) => Ok(()),
                // no kernel to do it: dark, which is what a box without power is
                Ok(false) | Err(_) => slot.lamp.set(false),
            };
            slot.told(light, done.err());
        }
    }
}

impl Slot {
    fn told(&mut self, light: Light, error: Option<io::Error>) {
        match error {
            Some(error) if !self.troubled => tracing::warn!(light = light.name(), %error, "a light cannot be set"),
            None if self.troubled => tracing::info!(light = light.name(), "a light can be set again"),
            _ => return,
        }
        self.troubled = !self.troubled;
    }
}

fn open(wire: Wire<'_>, active_low: bool, leds: &Path) -> io::Result<Box<dyn Lamp>> {
    Ok(match wire {
        Wire::Led(name) => Box::new(Led::open(leds, name, active_low)?),
        Wire::Line { chip, line } => Box::new(OutputLine::open(chip, line, active_low)?),
        Wire::Pin(pin) => Box::new(OutputPin::open(pin, active_low)?),
    })
}
