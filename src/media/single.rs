//! A lane: one thread that takes a participant's packets and makes files of them.
//!
//! Owns: the order of what is written, silence and darkness, asking for keyframes, the end. Must not touch: bytes of
//! files, elements.
//! Law: neither side of a merged lane waits for the other for longer than `HOLD`; whatever a publisher does or leaves,
//! the lane goes on until its tracks are gone or it is told to end.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::inbox::{Batch, Inbox, Letters};
use super::mixed::BEHIND;
use super::picture::{Black, PictureUnit, Pictures};
use super::segmenter::Segmenter;
use super::sound::{Sound, SoundOut};
use super::tracks::Subscription;
use super::{LaneEnd, LaneOrder, MediaClock, MediaError, Teller, look, timeline};
use crate::model::{MediaTime, TrackKind};

/// In a merged lane, how far one side may run ahead before it is written without the other. DTX sends a packet of
/// sound every 400 ms.
const HOLD: Duration = Duration::from_millis(700);
/// The same while the first keyframe is on its way.
const HOLD_AT_START: Duration = Duration::from_millis(1_500);
/// A keyframe that did not come is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Black pictures: one each second, so far behind the clock that pictures which return are not overtaken.
const BLACK_PERIOD: Duration = Duration::from_secs(1);
const BLACK_LAG: Duration = Duration::from_millis(500);

pub(super) struct Sides {
    pub sound: Option<Subscription>,
    pub picture: Option<Subscription>,
}

/// Runs a lane to its end.
pub(super) fn run(
    order: LaneOrder,
    sides: Sides,
    inbox: &Arc<Inbox>,
    clock: MediaClock,
    teller: Teller,
    present: &BTreeSet<&str>,
) -> LaneEnd {
    let mut lane = match Lane::new(order, sides, clock, teller, present) {
        Ok(lane) => lane,
        Err(e) => return LaneEnd::Failed(e.to_string()),
    };
    match lane.live(inbox) {
        Ok(end) => end,
        Err(e) => {
            let run = &lane.order.run;
            warn!(task = %run.task, lane = ?run.lane, run = run.run, error = %e, "lane failed");
            // what is in the file is good; if it was the file that failed, this says nothing new
            let _ = lane.segmenter.close(None);
            LaneEnd::Failed(e.to_string())
        }
    }
}

struct Lane<'a> {
    order: LaneOrder,
    clock: MediaClock,
    present: &'a BTreeSet<&'a str>,
    segmenter: Segmenter,
    sound: Option<SoundSide>,
    picture: Option<PictureSide>,
    /// Units that wait for their turn, in a merged lane.
    sounds: VecDeque<SoundOut>,
    pictures: VecDeque<PictureUnit>,
    /// The recording pauses then: what is under way of before is waited for, and nothing is made of what comes after.
    until: Option<MediaTime>,
}

struct SoundSide {
    track: Option<Subscription>,
    sound: Sound,
    arrived: Instant,
    idle: bool,
}

struct PictureSide {
    track: Option<Subscription>,
    pictures: Pictures,
    /// Changes between the publisher's pictures and black ones.
    era: u32,
    size: (u32, u32),
    /// Time of the last picture that was taken, black ones too.
    last: Option<Duration>,
    arrived: Instant,
    idle: bool,
    asked: Option<Instant>,
    /// Something was lost since the last keyframe.
    torn: bool,
    black: Option<Black>,
    /// Pictures have stopped, and none but a keyframe may follow.
    dark: bool,
}

impl<'a> Lane<'a> {
    fn new(
        order: LaneOrder,
        sides: Sides,
        clock: MediaClock,
        teller: Teller,
        present: &'a BTreeSet<&'a str>,
    ) -> Result<Lane<'a>, MediaError> {
        let now = Instant::now();
        let sound = match sides.sound {
            Some(track) => {
                let sound = Sound::new(order.gap_limit, present)?;
                Some(SoundSide { track: Some(track), sound, arrived: now, idle: true })
            }
            None => None,
        };
        let picture = match sides.picture {
            Some(track) => {
                let pictures = Pictures::new(track.source(), present)?;
                track.source().feedback.request_keyframe();
                Some(PictureSide {
                    track: Some(track),
                    pictures,
                    era: 0,
                    size: (0, 0),
                    last: None,
                    arrived: now,
                    idle: true,
                    asked: Some(now),
                    torn: false,
                    black: None,
                    dark: false,
                })
            }
            None => None,
        };
        let segmenter = Segmenter::new(order.clone(), clock, teller);
        Ok(Lane {
            order,
            clock,
            present,
            segmenter,
            sound,
            picture,
            sounds: VecDeque::new(),
            pictures: VecDeque::new(),
            until: None,
        })
    }

    fn live(&mut self, inbox: &Inbox) -> Result<LaneEnd, MediaError> {
        loop {
            let Letters { batches, ended, finish, kill, until, passed, words: _ } = inbox.take(self.deadline());
            self.until = until.or(self.until);
            if kill {
                self.segmenter.close(None)?;
                return Ok(LaneEnd::Killed);
            }
            for batch in batches {
                self.batch(batch)?;
            }
            let over = |track: &mut Subscription| {
                let id = track.source().id;
                ended.contains(&id) || passed.contains(&id)
            };
            if let Some(side) = &mut self.sound {
                side.track.take_if(over);
            }
            if let Some(side) = &mut self.picture {
                side.track.take_if(over);
            }
            let gone = self.sound.as_ref().is_none_or(|side| side.track.is_none())
                && self.picture.as_ref().is_none_or(|side| side.track.is_none());
            let finish = finish || self.paused_at().is_some_and(|at| Instant::now() >= at);
            if finish || gone {
                self.end()?;
                let asked = finish || self.until.is_some();
                return Ok(if asked { LaneEnd::Finished } else { LaneEnd::TrackGone });
            }
            self.look_at_clock()?;
            self.write(false)?;
            self.segmenter.settle(Instant::now())?;
            self.ask_for_keyframe();
        }
    }

    /// When nothing can be under way any more of before the pause.
    fn paused_at(&self) -> Option<Instant> {
        self.until.map(|until| self.clock.instant(until) + BEHIND)
    }

    /// When there is something to do though nothing comes.
    fn deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(60);
        let idle = |idle: bool, arrived: Instant| (!idle).then_some(arrived + self.order.gap_limit);
        let sound = self.sound.as_ref().and_then(|side| idle(side.idle, side.arrived));
        let picture = self.picture.as_ref().and_then(|side| idle(side.idle, side.arrived));
        let dark = self.picture.as_ref().filter(|side| side.dark).map(|_| Instant::now() + BLACK_PERIOD);
        [sound, picture, dark, self.segmenter.settle_by(), self.paused_at()]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    fn batch(&mut self, batch: Batch) -> Result<(), MediaError> {
        let base = self.order.base;
        match batch.kind {
            TrackKind::Audio => {
                let Some(side) = &mut self.sound else {
                    return Ok(());
                };
                side.arrived = Instant::now();
                side.idle = false;
                self.sounds.extend(side.sound.push(&batch.packets, base)?);
                if let (Some(track), Some(newest)) = (&side.track, batch.packets.last()) {
                    track.senses().heard(newest.at, side.sound.fresh());
                }
            }
            TrackKind::Video => {
                let Some(side) = &mut self.picture else {
                    return Ok(());
                };
                side.arrived = Instant::now();
                side.idle = false;
                if batch.after_overflow || batch.packets.iter().any(|packet| packet.after_loss) {
                    side.torn = true;
                    metrics::counter!("holdfast_lane_losses_total", "kind" => "video").increment(1);
                }
                let units = side.pictures.push(&batch.packets, base)?;
                self.take_pictures(units)?;
            }
        }
        self.write(false)
    }

    /// Pictures as they come from the publisher: ends darkness, begins it at a gap.
    fn take_pictures(&mut self, units: Vec<PictureUnit>) -> Result<(), MediaError> {
        for unit in units {
            let side = self.picture.as_mut().expect("pictures come from a picture side");
            let stopped = side.last.is_some_and(|last| unit.pts >= last + self.order.gap_limit);
            if stopped && self.order.fill_black {
                side.dark = true;
            }
            if side.dark {
                let overtaken = side.last.is_some_and(|last| unit.pts <= last);
                if !unit.key || overtaken {
                    count_left_out();
                    continue;
                }
                self.fill_black(unit.pts)?;
                let side = self.picture.as_mut().expect("looked at above");
                side.dark = false;
                side.black = None;
                side.era += 1;
            }
            let side = self.picture.as_mut().expect("looked at above");
            if unit.key {
                side.torn = false;
                side.asked = None;
                if let (Some(track), Ok(since)) = (&side.track, u64::try_from(unit.pts.as_nanos())) {
                    look::keyframe(track.senses(), MediaTime(self.order.base.0 + since), &unit.bytes);
                }
            }
            side.size = unit.size;
            side.last = Some(side.last.map_or(unit.pts, |last| last.max(unit.pts)));
            self.pictures.push_back(PictureUnit { stream: (side.era, unit.stream.1), ..unit });
        }
        Ok(())
    }

    /// Black pictures after the last picture and before `until`.
    fn fill_black(&mut self, until: Duration) -> Result<(), MediaError> {
        let Some(side) = &mut self.picture else {
            return Ok(());
        };
        let Some(mut last) = side.last.filter(|_| side.size.0 > 0 && side.size.1 > 0) else {
            return Ok(());
        };
        loop {
            // the first one follows soon: the last picture of somebody who has gone is not to stand
            let step = if side.black.is_none() { BLACK_PERIOD / 10 } else { BLACK_PERIOD };
            if last + step >= until {
                break;
            }
            if side.black.is_none() {
                side.black = Some(Black::new(side.size, self.present)?);
                side.era += 1;
            }
            last += step;
            let black = side.black.as_mut().expect("made above");
            let era = side.era;
            self.pictures.extend(black.picture(last)?.into_iter().map(|unit| PictureUnit { stream: (era, 0), ..unit }));
            side.last = Some(last);
        }
        Ok(())
    }

    /// What follows from nothing having come for a while.
    fn look_at_clock(&mut self) -> Result<(), MediaError> {
        let limit = self.order.gap_limit;
        let mut stopped = false;
        if let Some(side) = &mut self.sound
            && !side.idle
            && side.arrived.elapsed() >= limit
        {
            side.idle = true;
            stopped = true;
        }
        if let Some(side) = &mut self.picture
            && !side.idle
            && side.arrived.elapsed() >= limit
        {
            side.idle = true;
            stopped = true;
            side.dark = self.order.fill_black && side.last.is_some();
        }
        let dark = self.picture.as_ref().is_some_and(|side| side.dark);
        if dark && let Some(now) = timeline(self.clock.now(), self.order.base) {
            let until = self.until.and_then(|until| timeline(until, self.order.base)).unwrap_or(u64::MAX);
            let now = Duration::from_nanos(now).saturating_sub(BLACK_LAG);
            self.fill_black(now.min(Duration::from_nanos(until)))?;
        }
        let all_idle = self.sound.as_ref().is_none_or(|side| side.idle)
            && self.picture.as_ref().is_none_or(|side| side.idle)
            && !dark;
        if stopped && all_idle {
            let run = &self.order.run;
            debug!(task = %run.task, lane = ?run.lane, run = run.run, "nothing comes");
            self.drain()?;
            self.segmenter.break_here()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), MediaError> {
        if let Some(side) = &mut self.picture {
            let units = side.pictures.finish()?;
            self.take_pictures(units)?;
        }
        self.drain()?;
        self.segmenter.close(None)
    }

    /// Ends the stretch of sound and writes all that waits.
    fn drain(&mut self) -> Result<(), MediaError> {
        self.write(true)?;
        self.segmenter.last_words();
        if let Some(side) = &mut self.sound {
            self.sounds.extend(side.sound.pause()?);
        }
        self.write(true)
    }

    /// Writes what has its turn, in the order of time; `all`: whatever waits.
    fn write(&mut self, all: bool) -> Result<(), MediaError> {
        let alone = self.sound.is_none() || self.picture.is_none();
        let all = all || alone;
        loop {
            if let Some(SoundOut::Break) = self.sounds.front() {
                self.sounds.pop_front();
                if alone {
                    self.segmenter.break_here()?;
                }
                continue;
            }
            let sound = self.sounds.front().map(sound_time);
            let picture = self.pictures.front().map(|unit| unit.pts);
            match (sound, picture) {
                (None, None) => return Ok(()),
                (Some(heard), Some(seen)) => {
                    let opens =
                        !self.segmenter.is_open() && self.pictures[0].key && seen.saturating_sub(heard) < HOLD_AT_START;
                    if opens {
                        self.segmenter.begin_at(heard);
                        self.write_picture()?;
                    } else if seen <= heard {
                        self.write_picture()?;
                    } else {
                        self.write_sound()?;
                    }
                }
                (Some(heard), None) => {
                    let fresh =
                        !self.segmenter.is_open() && self.picture.as_ref().is_some_and(|side| side.last.is_none());
                    let hold = if fresh { HOLD_AT_START } else { HOLD };
                    let newest = self.sounds.back().map_or(heard, sound_time);
                    if !all && newest.saturating_sub(heard) < hold {
                        return Ok(());
                    }
                    self.write_sound()?;
                }
                (None, Some(seen)) => {
                    let newest = self.pictures.back().map_or(seen, |unit| unit.pts);
                    if !all && newest.saturating_sub(seen) < HOLD {
                        return Ok(());
                    }
                    if let Some(side) = &mut self.sound
                        && (self.segmenter.shows() || self.pictures[0].key)
                        && side.sound.end().is_none_or(|end| end < seen)
                        && !all
                    {
                        // whoever plays a file with sound in its tables waits for sound
                        let silence = side.sound.silence_to(seen, seen)?;
                        self.sounds.extend(silence);
                        if !self.sounds.is_empty() {
                            continue;
                        }
                    }
                    self.write_picture()?;
                }
            }
        }
    }

    fn write_sound(&mut self) -> Result<(), MediaError> {
        let Some(SoundOut::Frame(frame)) = self.sounds.pop_front() else {
            return Ok(());
        };
        // a stop of all sound is a break in a lane of sound; beside pictures the encoder's line goes on
        self.segmenter.sound(&frame)
    }

    fn write_picture(&mut self) -> Result<(), MediaError> {
        let Some(unit) = self.pictures.pop_front() else {
            return Ok(());
        };
        if self.segmenter.stopped_before(unit.pts) {
            self.segmenter.break_here()?;
        }
        if !self.segmenter.picture(&unit, self.sound.is_some())? {
            count_left_out();
        }
        Ok(())
    }

    fn ask_for_keyframe(&mut self) {
        let Some(side) = &mut self.picture else {
            return;
        };
        let asked_for = side.pictures.wants_keyframe();
        let to_cut = self.segmenter.wants_keyframe() || !self.segmenter.shows() || side.dark;
        if side.idle || !(side.torn || to_cut || asked_for) {
            return;
        }
        if side.asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return;
        }
        side.asked = Some(Instant::now());
        if side.pictures.transcodes() && side.last.is_some() && to_cut {
            side.pictures.force_keyframe();
        }
        if (!side.pictures.transcodes() || side.torn || asked_for || side.last.is_none())
            && let Some(track) = &side.track
        {
            metrics::counter!("holdfast_keyframe_requests_total").increment(1);
            track.source().feedback.request_keyframe();
        }
    }
}

fn sound_time(out: &SoundOut) -> Duration {
    match out {
        SoundOut::Frame(frame) => frame.pts,
        SoundOut::Break => Duration::ZERO,
    }
}

fn count_left_out() {
    metrics::counter!("holdfast_lane_pictures_left_out_total").increment(1);
}
