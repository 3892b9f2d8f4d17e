//! The front of the box: its lights show what the facts say, and its button is heard.
//!
//! Owns: the lamps and the one plain thread that paces them, by monotonic time; the button's thread. Must not touch:
//! reasons (health has them), what a press begins.
//! Law: a lamp that is not to be had is one line in the log and never a failure; nobody waits for a lamp; when the box
//! ends, however it ends, its lights say that nothing works and nothing is recorded.
//!
//! A steady light means a dead box (see [`crate::model::lamps`]). Whoever goes in order leaves all lights dark. Whoever
//! falls leaves the power light to the kernel's timer, where it is an LED of the kernel's, so that it goes on saying
//! "failed" without us; elsewhere it is dark. A process that was killed can do neither: `holdfast lights`, run by whoever
//! saw it die, does.

mod bank;
mod button;
mod contact;
mod lamp;
mod led;
mod line;
mod pin;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::config;
use crate::model::button::Press;
use crate::model::lamps::{self, Facts, Light, State};
use bank::Bank;

/// Where the kernel has its LEDs.
pub const LEDS: &str = "/sys/class/leds";
/// Orders that the thread has not taken yet; it takes them within moments.
const ORDERS: usize = 64;
/// After a panic that the process outlives, its lights say so for so long.
const AFTER_PANIC: Duration = Duration::from_secs(10);
/// A hook may find the lamps in the thread's hands: it has them in a moment, unless it is the thread that fell.
const HOOK_TRIES: u32 = 50;

enum Order {
    Show(Facts),
    Identify(Duration),
    Configure(Box<config::Panel>),
    Leave,
}

/// What the lights say after the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It went in order.
    Off,
    /// It fell.
    Failed,
}

/// The lamps, and until when a panic keeps them.
struct Lamps {
    bank: Bank,
    fallen_until: Option<Instant>,
}

fn hold(lamps: &Mutex<Lamps>) -> MutexGuard<'_, Lamps> {
    // lamps have no state that a panic could leave half done
    lamps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The front. Dropped without [`Panel::leave`], it says that the box has failed.
pub struct Panel {
    orders: SyncSender<Order>,
    lamps: Arc<Mutex<Lamps>>,
    presses: mpsc::Sender<Press>,
    threads: Mutex<Threads>,
}

struct Threads {
    lights: Option<JoinHandle<()>>,
    button: button::Listener,
}

impl Panel {
    /// Opens what the configuration names, and shows a box that starts. Presses go to `presses`; those that nobody takes
    /// are dropped.
    pub fn start(config: &config::Panel, presses: mpsc::Sender<Press>) -> Panel {
        Panel::start_with(config, presses, Path::new(LEDS))
    }

    /// `leds` in place of [`LEDS`].
    pub fn start_with(config: &config::Panel, presses: mpsc::Sender<Press>, leds: &Path) -> Panel {
        let bank = Bank::open(&config.lights, leds);
        let lamps = Arc::new(Mutex::new(Lamps { bank, fallen_until: None }));
        let (orders, taken) = sync_channel(ORDERS);
        let (of_thread, leds) = (lamps.clone(), leds.to_owned());
        let pace = move || pace(&of_thread, &taken, &leds);
        let thread = std::thread::Builder::new().name("lights".into()).spawn(pace);
        if let Err(error) = &thread {
            tracing::warn!(%error, "the lights stay dark: there is no thread for them");
        }
        let button = button::Listener::start(&config.button, presses.clone());
        Panel { orders, lamps, presses, threads: Mutex::new(Threads { lights: thread.ok(), button }) }
    }

    /// Shows what `facts` say from now on, until they or the panel end.
    pub fn follow(&self, mut facts: watch::Receiver<Facts>) {
        let orders = self.orders.clone();
        tokio::spawn(async move {
            loop {
                let now = *facts.borrow_and_update();
                if orders
                    .try_send(Order::Show(now))
                    .is_err_and(|e| matches!(e, std::sync::mpsc::TrySendError::Disconnected(_)))
                {
                    return;
                }
                if facts.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// For whoever has no watch.
    pub fn show(&self, facts: Facts) {
        let _ = self.orders.try_send(Order::Show(facts));
    }

    pub fn identify(&self, during: Duration) {
        identify(&self.orders, during);
    }

    /// The same for whoever must not hold the panel.
    pub fn identifier(&self) -> impl Fn(Duration) + Send + Sync + Clone + use<> {
        let orders = self.orders.clone();
        move |during| identify(&orders, during)
    }

    /// Takes other lamps and another button. What is the same is opened again. Blocks for a moment.
    pub fn configure(&self, config: &config::Panel) {
        let mut threads = self.threads();
        if threads.lights.is_none() {
            return;
        }
        let _ = self.orders.send(Order::Configure(Box::new(config.clone())));
        // two listeners at one line would be one too many
        threads.button.stop();
        threads.button = button::Listener::start(&config.button, self.presses.clone());
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a panic anywhere shows on the lights at once, even if it is the process's last.
    pub fn watch_panics(&self) {
        let lamps = Arc::downgrade(&self.lamps);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            fall(&lamps);
            before(panic);
        }));
    }

    /// The box goes: the lights say how, and nothing changes them any more. Blocks for a moment.
    pub fn leave(&self, last: Last) {
        let mut threads = self.threads();
        threads.button.stop();
        let Some(thread) = threads.lights.take() else { return };
        let _ = self.orders.send(Order::Leave);
        // a thread that fell has left the lamps as they should be
        let _ = thread.join();
        hold(&self.lamps).bank.leave(last);
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        self.leave(Last::Failed);
    }
}

fn identify(orders: &SyncSender<Order>, during: Duration) {
    // a panel without its thread has no light to show it with
    let _ = orders.try_send(Order::Identify(during));
}

/// Something panicked. If the process goes on, the thread takes the lamps back after a while.
fn fall(lamps: &Weak<Mutex<Lamps>>) {
    let Some(lamps) = lamps.upgrade() else { return };
    for _ in 0..HOOK_TRIES {
        let held = match lamps.try_lock() {
            Ok(held) => Some(held),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        if let Some(mut held) = held {
            held.fallen_until = Some(Instant::now() + AFTER_PANIC);
            held.bank.leave(Last::Failed);
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a light shows, and since when.
#[derive(Clone, Copy)]
struct Shown {
    state: State,
    since: Instant,
}

/// The thread: wakes when a light turns or an order comes, and at no other time.
fn pace(lamps: &Mutex<Lamps>, orders: &Receiver<Order>, leds: &Path) {
    let mut facts = Facts::default();
    let mut identify_until: Option<Instant> = None;
    let mut shown = [None::<Shown>; Light::ALL.len()];
    loop {
        let now = Instant::now();
        identify_until = identify_until.filter(|until| *until > now);
        let wake = {
            let mut lamps = hold(lamps);
            let fallen = lamps.fallen_until;
            lamps.fallen_until = fallen.filter(|until| *until > now);
            match lamps.fallen_until {
                Some(until) => Some(until),
                None => {
                    let state = |light| match identify_until {
                        Some(_) => State::Identify,
                        None => lamps::state(light, &facts),
                    };
                    turn(&mut lamps.bank, &mut shown, state, now).into_iter().chain(identify_until).min()
                }
            }
        };
        let order = match wake {
            Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match order {
            Ok(Order::Show(other)) => facts = other,
            Ok(Order::Identify(during)) => identify_until = Some(Instant::now() + during),
            Ok(Order::Configure(config)) => {
                let mut lamps = hold(lamps);
                // the old ones let go of their lines first
                lamps.bank.leave(Last::Off);
                lamps.bank = Bank::none();
                lamps.bank = Bank::open(&config.lights, leds);
                shown = [None; Light::ALL.len()];
            }
            Ok(Order::Leave) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Puts every lamp as it should be now; gives the moment at which the next of them turns.
fn turn(
    bank: &mut Bank,
    shown: &mut [Option<Shown>; Light::ALL.len()],
    state: impl Fn(Light) -> State,
    now: Instant,
) -> Option<Instant> {
    let mut wake: Option<Instant> = None;
    for (light, shown) in Light::ALL.into_iter().zip(shown) {
        if !bank.has(light) {
            continue;
        }
        let state = state(light);
        let since = match *shown {
            Some(before) if before.state == state => before.since,
            // a state is seen from the beginning of its rhythm
            _ => now,
        };
        *shown = Some(Shown { state, since });
        let (lit, left) = lamps::rhythm(light, state).at(now.saturating_duration_since(since));
        bank.set(light, lit);
        wake = wake.into_iter().chain(left.map(|left| now + left)).min();
    }
    wake
}

#[cfg(test)]
mod tests;
