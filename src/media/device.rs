//! A chain with a driver behind it, which may keep a push for ever.
//!
//! Owns: the thread that pushes. Must not touch: what the pictures show, which encoder is the next.
//! Law: nobody waits longer than `ANSWER` for a driver. A thread that it keeps is left behind with its chain, and ends
//! when it is let go.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use gstreamer as gst;

use super::MediaError;
use super::chain::{Chain, Out};

/// A driver that takes a picture in at all does so in some milliseconds.
const ANSWER: Duration = Duration::from_secs(3);
/// Firmware may have to be loaded.
const OPENING: Duration = Duration::from_secs(10);

enum Order {
    Picture { picture: gst::Buffer, key: bool },
    End(Duration),
}

/// An encoder that is a device.
pub(super) struct Device {
    // first, so that the thread drops the last of it: to stop a driver may take as long as a push
    chain: Arc<Chain>,
    orders: SyncSender<Order>,
    answers: Receiver<Result<Vec<Out>, MediaError>>,
}

impl Device {
    pub fn open(described: String, caps: gst::Caps) -> Result<Device, MediaError> {
        let (orders, todo) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let (tell, opened) = sync_channel(1);
        let work = move || {
            let chain = match Chain::new(&described, &caps) {
                Ok(chain) => Arc::new(chain),
                // who is not there any more needs no reason
                Err(e) => return drop(tell.send(Err(e))),
            };
            if tell.send(Ok(chain.clone())).is_err() {
                return;
            }
            for order in todo {
                let done = match order {
                    Order::Picture { picture, key } => {
                        if key {
                            chain.force_keyframe();
                        }
                        chain.push(picture).map(|()| chain.take())
                    }
                    Order::End(within) => chain.finish_within(within),
                };
                if answer.send(done).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("device".into()).spawn(work);
        thread.map_err(|e| MediaError::Pipeline(format!("no thread for the encoder: {e}")))?;
        let chain = awaited(&opened, OPENING)?;
        Ok(Device { chain, orders, answers })
    }

    pub fn push(&self, picture: gst::Buffer, key: bool) -> Result<Vec<Out>, MediaError> {
        self.ask(Order::Picture { picture, key }, ANSWER)
    }

    /// What is still inside, waiting at most so long for it, and for the driver to hear of it.
    pub fn finish_within(&self, limit: Duration) -> Result<Vec<Out>, MediaError> {
        self.ask(Order::End(limit), limit + ANSWER)
    }

    /// What has come out, while the thread may hang.
    pub fn take(&self) -> Vec<Out> {
        self.chain.take()
    }

    pub fn broken(&self) -> Option<MediaError> {
        self.chain.broken()
    }

    fn ask(&self, order: Order, limit: Duration) -> Result<Vec<Out>, MediaError> {
        // one order at a time: there is room, and a thread that is gone is found out by its silence
        let _ = self.orders.send(order);
        awaited(&self.answers, limit)
    }
}

fn awaited<T>(answer: &Receiver<Result<T, MediaError>>, limit: Duration) -> Result<T, MediaError> {
    answer.recv_timeout(limit).unwrap_or_else(|gone| match gone {
        RecvTimeoutError::Disconnected => Err(MediaError::Pipeline("its thread panicked".into())),
        RecvTimeoutError::Timeout => {
            metrics::counter!("holdfast_encoder_threads_left_total").increment(1);
            Err(MediaError::Hangs(format!("no answer in {:.0} s", limit.as_secs_f64())))
        }
    })
}
