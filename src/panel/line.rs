//! A line of a GPIO chip, by the character device (`/dev/gpiochip…`).
//!
//! Owns: finding the chip and the line, and holding the line. Must not touch: which light or button it is.
//! Law: a line is held by one process at a time, and the kernel says no to the second; lit and pressed are said of the
//! lamp and the button, the chip turns them into levels.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpiocdev::Request;
use gpiocdev::chip::Chip;
use gpiocdev::line::{Bias, EdgeDetection, EdgeKind, Value};

use super::contact::Contact;
use super::lamp::Lamp;
use crate::config::panel::{Line, Pull};

/// What the kernel tells others of whose line it is.
const CONSUMER: &str = "holdfast";

fn failed(error: gpiocdev::Error) -> io::Error {
    match error {
        gpiocdev::Error::Os(errno) => io::Error::from_raw_os_error(errno.0),
        other => io::Error::other(other.to_string()),
    }
}

/// By its path, its name, or its label.
fn chip(named: &str) -> io::Result<PathBuf> {
    if named.contains('/') {
        return Ok(named.into());
    }
    let path = Path::new("/dev").join(named);
    if path.exists() {
        return Ok(path);
    }
    let labelled =
        |path: &PathBuf| Chip::from_path(path).and_then(|chip| chip.info()).is_ok_and(|info| info.label == named);
    let found = gpiocdev::chip::chips().map_err(failed)?.into_iter().find(labelled);
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no GPIO chip is called '{named}'")))
}

/// The chip's path and the line's number.
fn find(named: &str, line: &Line) -> io::Result<(PathBuf, u32)> {
    let path = chip(named)?;
    let number = match line {
        Line::Number(number) => *number,
        Line::Name(name) => {
            let open = Chip::from_path(&path).map_err(failed)?;
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no line of {named} is called '{name}'"));
            open.find_line_info(name).ok_or_else(missing)?.offset
        }
    };
    Ok((path, number))
}

pub(super) struct OutputLine(Request);

impl OutputLine {
    pub(super) fn open(named: &str, line: &Line, active_low: bool) -> io::Result<OutputLine> {
        let (path, number) = find(named, line)?;
        let mut builder = Request::builder();
        builder.on_chip(path).with_consumer(CONSUMER).with_line(number).as_output(Value::Inactive);
        if active_low {
            builder.as_active_low();
        }
        builder.request().map(OutputLine).map_err(failed)
    }
}

impl Lamp for OutputLine {
    fn set(&mut self, lit: bool) -> io::Result<()> {
        self.0.set_lone_value(if lit { Value::Active } else { Value::Inactive }).map_err(failed)
    }
}

pub(super) struct InputLine(Request);

impl InputLine {
    pub(super) fn open(named: &str, line: &Line, active_low: bool, pull: Pull) -> io::Result<InputLine> {
        let (path, number) = find(named, line)?;
        let mut builder = Request::builder();
        builder.on_chip(path).with_consumer(CONSUMER).with_line(number).as_input();
        builder.with_edge_detection(EdgeDetection::BothEdges);
        match pull {
            Pull::None => {}
            Pull::Up => drop(builder.with_bias(Bias::PullUp)),
            Pull::Down => drop(builder.with_bias(Bias::PullDown)),
        }
        if active_low {
            builder.as_active_low();
        }
        builder.request().map(InputLine).map_err(failed)
    }
}

impl Contact for InputLine {
    fn closed(&mut self) -> io::Result<bool> {
        self.0.lone_value().map(|value| value == Value::Active).map_err(failed)
    }

    fn edge(&mut self, within: Duration) -> io::Result<Option<(bool, Duration)>> {
        if !self.0.wait_edge_event(within).map_err(failed)? {
            return Ok(None);
        }
        let event = self.0.read_edge_event().map_err(failed)?;
        Ok(Some((event.kind == EdgeKind::Rising, Duration::from_nanos(event.timestamp_ns))))
    }
}
