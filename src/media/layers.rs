//! The simulcast layers of one track: what each is worth, and which one is to be recorded.
//!
//! Owns: rates, sizes and silence of layers, and the choice among them. Must not touch: the hub, packets' contents
//! beyond their size.
//! Law: no layer is left for a smaller one in a hurry, nor for another at all before that one's keyframe is there;
//! a layer that is not recorded costs its reception and no more.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dimensions::{picture_size, tells_size};
use super::keyframe::begins_keyframe;
use super::reorder::{Reorder, WAIT};
use crate::model::rtp_time::TrackClock;
use crate::model::{Codec, TrackKind};

/// A simulcast layer that sent nothing for so long does not flow.
const LAYER_SILENT: Duration = Duration::from_millis(1000);
/// Over this time the rates of layers are compared.
const RATE_OVER: Duration = Duration::from_secs(1);
/// A smaller layer must have been enough for so long: layouts change to and fro, and each change costs a keyframe.
const LOWER_AFTER: Duration = Duration::from_secs(2);
/// Layers of one track that are listened to at once.
const MOST_LAYERS: usize = 8;
/// How often a layer is asked for a keyframe only to learn its size, and after which pause. Some senders never say.
const SIZE_ASKS: u32 = 3;
const SIZE_PAUSE: Duration = Duration::from_secs(1);

/// One RTP packet as the WebRTC core hands it over: decrypted, padding taken off.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub ssrc: u32,
    pub payload_type: u8,
    pub codec: Codec,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
}

pub(super) struct Layer {
    pub ssrc: u32,
    /// Simulcast layers have one; others replace each other.
    pub rid: Option<String>,
    pub clock: TrackClock,
    pub order: Reorder<Received>,
    pub held_until: Option<Instant>,
    heard: Instant,
    /// Bytes since `measured`, and those of the period before.
    bytes: usize,
    rate: usize,
    measured: Instant,
    /// Of the pictures since the last keyframe that said so.
    height: Option<u32>,
    tells_size: bool,
    /// It sent a keyframe.
    begun: bool,
    asked: (u32, Option<Instant>),
}

impl Layer {
    pub fn new(ssrc: u32, rid: Option<&str>, clock: TrackClock, held_until: Instant, at: Instant) -> Layer {
        Layer {
            ssrc,
            rid: rid.map(str::to_owned),
            clock,
            order: Reorder::new(WAIT),
            held_until: Some(held_until),
            heard: at,
            bytes: 0,
            rate: 0,
            measured: at,
            height: None,
            tells_size: false,
            begun: false,
            asked: (0, None),
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let due = self.order.deadline()?;
        Some(self.held_until.map_or(due, |held| held.max(due)))
    }

    /// Notes what a packet says of its layer.
    pub fn hear(&mut self, kind: TrackKind, packet: &Received, at: Instant) {
        // Probes for bandwidth have no payload; they do not make a layer flow.
        if packet.payload.is_empty() {
            return;
        }
        self.heard = at;
        self.bytes += packet.payload.len();
        if at.saturating_duration_since(self.measured) >= RATE_OVER {
            self.rate = std::mem::take(&mut self.bytes);
            self.measured = at;
        }
        self.tells_size = tells_size(packet.codec);
        if kind == TrackKind::Video && begins_keyframe(packet.codec, &packet.payload) {
            self.begun = true;
            self.height = match picture_size(packet.codec, &packet.payload) {
                Some((_, height)) => Some(height),
                // An IDR slice without parameter sets is as large as the ones before.
                None => self.height.filter(|_| self.tells_size),
            };
        }
    }

    fn flows(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < LAYER_SILENT
    }

    /// Tall enough, as far as is known.
    fn enough(&self, need: u32) -> bool {
        self.height.is_some_and(|height| height >= need)
    }

    fn forget_packets(&mut self) {
        self.order = Reorder::new(WAIT);
    }
}

/// All layers of a track. A track without simulcast has one, without a rid.
#[derive(Default)]
pub(super) struct Layers {
    pub all: Vec<Layer>,
    /// SSRC of the layer that is recorded, and of one that is to be and whose keyframe is waited for.
    pub active: Option<u32>,
    pub better: Option<u32>,
    /// A smaller layer that would do, and since when.
    lower: Option<(u32, Instant)>,
}

impl Layers {
    pub fn is_simulcast(&self) -> bool {
        self.all.len() > 1
    }

    pub fn position(&self, ssrc: u32) -> Option<usize> {
        self.all.iter().position(|layer| layer.ssrc == ssrc)
    }

    /// `false` when there are too many.
    pub fn add(&mut self, layer: Layer) -> bool {
        if self.all.len() < MOST_LAYERS {
            self.all.push(layer);
            return true;
        }
        false
    }

    /// The layer is no more; `true` when it was the active one.
    pub fn remove(&mut self, index: usize) -> bool {
        let former = self.all.remove(index);
        if self.better == Some(former.ssrc) {
            self.better = None;
        }
        let was_active = self.active == Some(former.ssrc);
        if was_active {
            self.active = None;
        }
        was_active
    }

    /// Whether the layer's packets are of use: while nothing is recorded yet, any may become the beginning.
    pub fn takes(&self, ssrc: u32) -> bool {
        self.active.is_none() || self.active == Some(ssrc) || self.better == Some(ssrc)
    }

    /// From now on this layer is recorded, and what is held of the others is of no use any more.
    pub fn activate(&mut self, ssrc: u32) {
        self.active = Some(ssrc);
        self.better = None;
        self.lower = None;
        self.all.iter_mut().filter(|layer| layer.ssrc != ssrc).for_each(Layer::forget_packets);
    }

    /// The layer to record.
    pub fn best(&self, need: u32, now: Instant) -> Option<u32> {
        self.best_of(need, |layer| layer.flows(now))
    }

    /// The layer to begin with: with a keyframe that is there one need not wait for another.
    pub fn first(&self, need: u32, now: Instant) -> Option<u32> {
        self.best_of(need, |layer| layer.flows(now) && layer.begun)
    }

    /// The smallest that is tall enough, else the tallest, else (sizes are not known) the one that carries most.
    fn best_of(&self, need: u32, may: impl Fn(&Layer) -> bool) -> Option<u32> {
        let idle = |layer: &Layer| Some(layer.ssrc) != self.active;
        let those = || self.all.iter().filter(|layer| may(layer));
        let enough = those().filter(|layer| layer.enough(need)).min_by_key(|layer| (layer.height, idle(layer)));
        let known = those().all(|layer| layer.height.is_some());
        let most = || match known {
            true => those().max_by_key(|layer| (layer.height, !idle(layer))),
            false => those().max_by_key(|layer| (layer.rate, !idle(layer))),
        };
        enough.or_else(most).map(|layer| layer.ssrc)
    }

    /// Looks whether another layer should be recorded than the one that is; `true` when one is newly waited for.
    pub fn compare(&mut self, need: u32, now: Instant) -> bool {
        let Some(active) = self.active else { return false };
        let best = self.best(need, now).filter(|best| *best != active);
        let lower = self.lower.take();
        let better = best.filter(|best| self.pays(active, *best, lower, need, now));
        if better == self.better {
            return false;
        }
        let order_of = |ssrc: Option<u32>| self.all.iter().position(|layer| Some(layer.ssrc) == ssrc);
        for index in [order_of(self.better), order_of(better)].into_iter().flatten() {
            self.all[index].forget_packets();
        }
        self.better = better;
        better.is_some()
    }

    /// Whether to leave the active layer for this one now.
    fn pays(&mut self, active: u32, best: u32, lower: Option<(u32, Instant)>, need: u32, now: Instant) -> bool {
        let of = |ssrc: u32| self.all.iter().find(|layer| layer.ssrc == ssrc);
        let (Some(active), Some(best)) = (of(active).filter(|layer| layer.flows(now)), of(best)) else {
            return true;
        };
        let short = active.height.is_some_and(|height| height < need);
        match (active.height, best.height) {
            (Some(before), Some(after)) if short => after > before,
            _ if best.enough(need) => {
                let since = match lower {
                    Some((ssrc, since)) if ssrc == best.ssrc => since,
                    _ => now,
                };
                self.lower = Some((best.ssrc, since));
                now.saturating_duration_since(since) >= LOWER_AFTER
            }
            _ => best.rate > active.rate + active.rate / 4,
        }
    }

    /// A layer whose size is worth a keyframe: it is not known and could change the choice.
    pub fn ask_size(&mut self, need: u32, now: Instant) -> Option<u32> {
        if need == u32::MAX || !self.is_simulcast() {
            return None;
        }
        let active = self.all.iter().find(|layer| Some(layer.ssrc) == self.active)?;
        let (rate, enough) = (active.rate, active.enough(need));
        let layer = self.all.iter_mut().find(|layer| {
            let due = layer.asked.1.is_none_or(|at| now.saturating_duration_since(at) >= SIZE_PAUSE);
            let unknown = layer.height.is_none() && layer.tells_size && layer.asked.0 < SIZE_ASKS;
            unknown && due && layer.flows(now) && (!enough || layer.rate < rate)
        })?;
        layer.asked = (layer.asked.0 + 1, Some(now));
        Some(layer.ssrc)
    }
}
