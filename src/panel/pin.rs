//! A pin of a Raspberry Pi, by its BCM number.
//!
//! Owns: the pin. Must not touch: which light or button it is.
//! Law: elsewhere than on a Pi every pin is an error to open, and nothing else.

use std::io;
use std::time::Duration;

use rppal::gpio::{self, Gpio, Level, Trigger};

use super::contact::Contact;
use super::lamp::Lamp;
use crate::config::panel::Pull;

fn failed(error: gpio::Error) -> io::Error {
    match error {
        gpio::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

fn level(on: bool, active_low: bool) -> Level {
    if on != active_low { Level::High } else { Level::Low }
}

pub(super) struct OutputPin {
    pin: gpio::OutputPin,
    active_low: bool,
}

impl OutputPin {
    pub(super) fn open(number: u8, active_low: bool) -> io::Result<OutputPin> {
        let pin = Gpio::new().and_then(|gpio| gpio.get(number)).map_err(failed)?;
        let mut pin = match level(false, active_low) {
            Level::High => pin.into_output_high(),
            Level::Low => pin.into_output_low(),
        };
        // it stays as it was left: an input would let the lamp float
        pin.set_reset_on_drop(false);
        Ok(OutputPin { pin, active_low })
    }
}

impl Lamp for OutputPin {
    fn set(&mut self, lit: bool) -> io::Result<()> {
        self.pin.write(level(lit, self.active_low));
        Ok(())
    }
}

pub(super) struct InputPin {
    pin: gpio::InputPin,
    active_low: bool,
}

impl InputPin {
    pub(super) fn open(number: u8, active_low: bool, pull: Pull) -> io::Result<InputPin> {
        let pin = Gpio::new().and_then(|gpio| gpio.get(number)).map_err(failed)?;
        let mut pin = match pull {
            Pull::None => pin.into_input(),
            Pull::Up => pin.into_input_pullup(),
            Pull::Down => pin.into_input_pulldown(),
        };
        pin.set_interrupt(Trigger::Both, None).map_err(failed)?;
        Ok(InputPin { pin, active_low })
    }
}

impl Contact for InputPin {
    fn closed(&mut self) -> io::Result<bool> {
        Ok(self.pin.read() == level(true, self.active_low))
    }

    fn edge(&mut self, within: Duration) -> io::Result<Option<(bool, Duration)>> {
        let event = self.pin.poll_interrupt(false, Some(within)).map_err(failed)?;
        Ok(event.map(|event| ((event.trigger == Trigger::RisingEdge) != self.active_low, event.timestamp)))
    }
}
