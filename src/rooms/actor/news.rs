//! What media says: who came and went, what lanes have written, what ails them.
//!
//! Owns: what each word is to rooms and tasks. Must not touch: what follows from it (tasks decide).

use crate::media::LeaveReason;
use crate::model::{MediaId, UserId};

use super::*;

impl Actor {
    pub(super) async fn news(&mut self, news: MediaNews) {
        match news {
            MediaNews::Entered { session, room, user, media, offers } => {
                self.entered(session, room, user, media, offers).await;
            }
            MediaNews::TrackUp { session, track, kind, codec } => {
                let Some(room) = self.sessions.get(&session).cloned() else { return };
                info!(%room, session = session.0, track = track.0, ?kind, ?codec, "track up");
                if let Some(there) = self.rooms.get_mut(&room) {
                    there.track_up(session, kind, Track { id: track, codec });
                }
                self.record_of_itself(&room).await;
                self.reconcile_room(&room).await;
            }
            MediaNews::TrackDown { session, track } => {
                let Some(room) = self.sessions.get(&session).cloned() else { return };
                if let Some(there) = self.rooms.get_mut(&room) {
                    there.track_down(session, track);
                }
                self.reconcile_room(&room).await;
            }
            MediaNews::Left { session, reason } => self.left(session, reason).await,
            MediaNews::FirstMedia { run, at } => {
                info!(task = %run.task, lane = ?run.lane, run = run.run, begin_ms = at.ms(), "first media");
                self.queue.push_back((run.task.clone(), Input::FirstMedia { run, at }));
            }
            MediaNews::SegmentClosed(segment) => {
                self.queue.push_back((segment.run.task.clone(), Input::SegmentClosed(segment)));
            }
            MediaNews::SegmentLost { segment, why } => {
                metrics::counter!("holdfast_segments_lost_total").increment(1);
                let fate = Fate::Lost { segment, why };
                self.tell_health(&fate);
                if let Fate::Lost { segment, why } = fate {
                    self.queue.push_back((segment.run.task.clone(), Input::SegmentLost { segment, why }));
                }
            }
            MediaNews::Trouble { run, part, why } => self.trouble(run, part, why),
            MediaNews::EncoderLost { factory, why, .. } => self.encoder_lost(factory, why),
            MediaNews::DiskRefused { fault, why } => self.parts.spool.report(fault, &why),
            MediaNews::LaneEnded { run, end } => {
                self.troubles.values_mut().for_each(|of_part| drop(of_part.remove(&run)));
                self.tell_troubles();
                let failed = match &end {
                    LaneEnd::Finished | LaneEnd::TrackGone => false,
                    LaneEnd::Killed => true,
                    LaneEnd::Failed(why) => {
                        warn!(task = %run.task, lane = ?run.lane, run = run.run, why, "lane failed");
                        true
                    }
                };
                self.queue.push_back((run.task.clone(), Input::LaneEnded { run, failed }));
            }
        }
    }

    async fn entered(
        &mut self,
        session: SessionId,
        room: RoomKey,
        user: UserId,
        media: MediaId,
        offers: Vec<TrackKind>,
    ) {
        info!(%room, %user, %media, session = session.0, "participant entered");
        self.sessions.insert(session, room.clone());
        if self.stopping {
            self.parts.engine.close_session(session);
            return;
        }
        let clash = self.tasks_in(&room, |task| task.spec.recorder == user);
        self.queue.extend(clash.into_iter().map(|id| (id, Input::Stop(LeaveCode::SameUserEntered))));
        if !self.rooms.contains_key(&room) {
            self.room_came_to_be(&room);
        }
        let there = self.rooms.entry(room.clone()).or_default();
        if let Some(older) = there.enter(session, user, media, offers) {
            info!(%room, session = older.0, "the same user entered again: the newer session stays");
            self.parts.engine.close_session(older);
        }
        self.reconcile_room(&room).await;
    }

    async fn left(&mut self, session: SessionId, reason: LeaveReason) {
        let Some(room) = self.sessions.remove(&session) else { return };
        info!(%room, session = session.0, ?reason, "participant left");
        if let Some(there) = self.rooms.get_mut(&room) {
            there.leave(session);
            if there.is_empty() {
                self.rooms.remove(&room);
                self.room_is_gone(&room);
            }
        }
        self.reconcile_room(&room).await;
    }

    /// Something of a lane works badly, or (`why` is `None`) works again.
    fn trouble(&mut self, run: LaneRun, part: &'static str, why: Option<String>) {
        match &why {
            Some(why) => warn!(task = %run.task, lane = ?run.lane, run = run.run, part, why, "lane in trouble"),
            None => info!(task = %run.task, lane = ?run.lane, run = run.run, part, "lane is well again"),
        }
        let of_part = self.troubles.entry(part).or_default();
        match why {
            Some(why) => drop(of_part.insert(run, why)),
            None => drop(of_part.remove(&run)),
        }
        self.tell_troubles();
    }
    /// What is asked for from now on has to fit on what is left.
    fn encoder_lost(&mut self, factory: &str, why: String) {
        error!(encoder = factory, why, "encoder lost: none that begins uses it, until the next start");
        if let Some(board) = &mut self.parts.board {
            Arc::make_mut(board).lose(factory, &why);
        }
        let told = format!("{factory} was lost ({why}), and is not used until the next start");
        self.parts.health.degraded("encoders", told);
    }
}
