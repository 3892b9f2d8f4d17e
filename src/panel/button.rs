//! The thread that listens to the push button.
//!
//! Owns: the contact while it listens. Must not touch: what a press means ([`crate::model::button`]), what it begins.
//! Law: a button that cannot be opened is one line in the log; one that fails is listened to again, and told once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::contact::{Contact, monotonic};
use super::line::InputLine;
use super::pin::InputPin;
use crate::config::panel::{Button, Wire};
use crate::model::button::{Press, Presses};

/// Between two looks at whether it should stop.
const LOOK: Duration = Duration::from_millis(500);
/// A contact that fails is opened again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// Ends when told so; a value without a thread listens to nothing.
pub(super) struct Listener {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(button: &Button, presses: mpsc::Sender<Press>) -> Listener {
        let over = Arc::new(AtomicBool::new(false));
        if button.wire().is_none() {
            return Listener { over, thread: None };
        }
        let (button, until) = (button.clone(), over.clone());
        let listen = move || listen_again(&button, &presses, &until);
        let thread = std::thread::Builder::new().name("button".into()).spawn(listen);
        if let Err(error) = &thread {
            tracing::warn!(%error, "the button is not heard: there is no thread for it");
        }
        Listener { over, thread: thread.ok() }
    }

    /// Returns when the contact is let go.
    pub(super) fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(button: &Button) -> io::Result<Box<dyn Contact>> {
    Ok(match button.wire() {
        Some(Wire::Line { chip, line }) => Box::new(InputLine::open(chip, line, button.active_low, button.pull)?),
        Some(Wire::Pin(pin)) => Box::new(InputPin::open(pin, button.active_low, button.pull)?),
        Some(Wire::Led(_)) | None => return Err(io::ErrorKind::NotFound.into()),
    })
}

fn listen_again(button: &Button, presses: &mpsc::Sender<Press>, over: &AtomicBool) {
    let mut contact = match open(button) {
        Ok(contact) => contact,
        Err(error) => return tracing::warn!(wire = ?button.wire(), %error, "the button cannot be had: it is not heard"),
    };
    tracing::info!(wire = ?button.wire(), "the button is there");
    let mut told = false;
    while let Err(error) = listen(contact.as_mut(), button, presses, over) {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "the button fails; it is tried again");
        }
        let until = Instant::now() + AGAIN;
        while Instant::now() < until && !over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        // the line is let go before it is asked for again
        drop(contact);
        contact = loop {
            if over.load(Ordering::Relaxed) {
                return;
            }
            match open(button) {
                Ok(contact) => break contact,
                Err(_) => std::thread::sleep(LOOK),
            }
        };
    }
}

/// Until it is over, or the contact fails.
pub(super) fn listen(
    contact: &mut dyn Contact,
    button: &Button,
    presses: &mpsc::Sender<Press>,
    over: &AtomicBool,
) -> io::Result<()> {
    let mut heard = Presses::new(button.debounce(), button.long(), contact.closed()?);
    while !over.load(Ordering::Relaxed) {
        let wait = heard.next().map_or(LOOK, |at| at.saturating_sub(monotonic()).min(LOOK));
        // a millisecond late rather than early: an early look finds nothing and would spin
        let press = match contact.edge(wait + Duration::from_millis(1))? {
            Some((closed, at)) => heard.edge(closed, at),
            None => {
                // an edge that the kernel had no room for is made up for
                let closed = contact.closed()?;
                heard.edge(closed, monotonic())
            }
        };
        if let Some(press) = press {
            tracing::info!(?press, "the button");
            metrics::counter!("holdfast_button_presses_total").increment(1);
            if presses.try_send(press).is_err() {
                tracing::warn!(?press, "a press of the button is lost: nobody takes it");
            }
        }
    }
    Ok(())
}
