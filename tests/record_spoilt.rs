//! Packets that line or malice has spoilt: none of them may end the process, and none of them another's recording.
//!
//! Law: what is spoilt, and how, follows from the seed (`HOLDFAST_SEED` tries one of your own) and from what the encoders
//! gave. GStreamer's elements are C: what kills one kills this whole file, and would have killed the box.

mod mixing;
mod recording;

use std::time::{Duration, Instant};

use holdfast::media::{LaneEnd, MediaEngine, MediaNews};
use holdfast::model::mix::Layout;
use holdfast::model::{Codec, LaneKind, MediaTime};
use mixing::play::{Play, assert_sound_steady, assert_steady, guest, scene_for};
use mixing::{H264, badge};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use recording::*;

const CODECS: [Codec; 5] = [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];
/// 24 frames each, 33 ms apart.
const ROUNDS: u64 = 30;
const ROUND_MS: u64 = 24 * 33;

fn seed(unless: u64) -> StdRng {
    let seed = std::env::var("HOLDFAST_SEED").map_or(unless, |seed| seed.parse().expect("HOLDFAST_SEED is a number"));
    println!("HOLDFAST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Good streams of a codec, 24 frames each, as different encoders send them.
fn good(codec: Codec) -> Vec<Vec<Frame>> {
    let source = |format: &str, encoder: &str| {
        let caps = format!("video/x-raw,format={format},width=64,height=48,framerate=30/1");
        packets(&format!("videotestsrc num-buffers=24 pattern=ball ! {caps} ! {encoder}"), 0)
    };
    let x264 = |rest: &str| format!("x264enc key-int-max=6 {rest} pt=96 mtu=300");
    match codec {
        Codec::H264 => vec![
            source("I420", &x264("tune=zerolatency speed-preset=ultrafast ! rtph264pay")),
            source("I420", &x264("aud=true interlaced=true bframes=2 ! rtph264pay")),
            source(
                "I420",
                &x264(
                    "option-string=nal-hrd=vbr:pic-struct=1:weightp=2:cqm=jvt:vbv-bufsize=500:vbv-maxrate=500 ! rtph264pay",
                ),
            ),
            source("Y444", &x264("! rtph264pay")),
            source("I420", &x264("tune=zerolatency ! rtph264pay aggregate-mode=zero-latency config-interval=-1")),
        ],
        Codec::Vp8 => vec![source("I420", "vp8enc deadline=1 keyframe-max-dist=4 ! rtpvp8pay pt=96 mtu=300")],
        Codec::Vp9 => {
            vec![source("I420", "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=4 ! rtpvp9pay pt=96 mtu=300")]
        }
        Codec::Av1 => vec![av1_in_rtp(source(
            "I420",
            "av1enc cpu-used=8 usage-profile=realtime lag-in-frames=0 keyframe-max-dist=4 ! av1parse \
             ! video/x-av1,stream-format=obu-stream,alignment=tu",
        ))],
        Codec::Opus => vec![opus(24, 0)],
    }
}

/// Frames of good streams, one after the other, of whose packets every other one is spoilt.
fn spoilt(codec: Codec, rounds: u64, dice: &mut StdRng) -> Vec<Frame> {
    let streams = good(codec);
    let payloads: Vec<Vec<u8>> = streams.iter().flatten().flatten().map(|packet| packet.rtp[12..].to_vec()).collect();
    let (mut frames, mut number) = (Vec::new(), 0_u16);
    for round in 0..rounds {
        let stream = streams.choose(dice).expect("there is one");
        for (n, frame) in (0_u64..).zip(stream) {
            let at = MediaTime(BASE + (round * ROUND_MS + n * 33) * MS);
            let stamp = u32::try_from(at.0 / 100_000 * 9).expect("small");
            let mut out = Frame::new();
            for packet in frame {
                let payload = packet.rtp[12..].to_vec();
                let (payload, times) = if dice.random_ratio(1, 2) {
                    (spoil(codec, payload, &payloads, dice), dice.random_range(1..3))
                } else {
                    (payload, 1)
                };
                for _ in 0..times {
                    let numbers = [&number.to_be_bytes()[..], &stamp.to_be_bytes(), &[1, 2, 3, 4]].concat();
                    number = number.wrapping_add(1);
                    let rtp = [&packet.rtp[..2], &numbers, &payload].concat().into();
                    out.push(holdfast::media::stamped::StampedPacket { rtp, at, after_loss: false });
                }
            }
            frames.push(out);
        }
    }
    frames
}

fn spoil(codec: Codec, mut payload: Vec<u8>, others: &[Vec<u8>], dice: &mut StdRng) -> Vec<u8> {
    // what elements read of a payload is at its beginning
    let place = |payload: &[u8], dice: &mut StdRng| dice.random_range(0..payload.len().clamp(1, 48));
    match dice.random_range(0..8) {
        _ if payload.is_empty() => {}
        0..3 => {
            for _ in 0..dice.random_range(1..5) {
                let n = place(&payload, dice);
                payload[n] ^= 1 << dice.random_range(0..8);
            }
        }
        3 => payload.truncate(dice.random_range(0..payload.len())),
        4 => {
            let (from, length) = (place(&payload, dice), dice.random_range(1..9));
            let by = *[0, 1, 0x80, 0xff].choose(dice).expect("there are four");
            payload.iter_mut().skip(from).take(length).for_each(|byte| *byte = by);
        }
        5 => {
            let n = place(&payload, dice);
            let more: Vec<u8> = (0..dice.random_range(1..5)).map(|_| dice.random()).collect();
            payload.splice(n..n, more);
        }
        6 if codec == Codec::H264 => payload[0] = payload[0] & 0xe0 | dice.random_range(0..32),
        _ => payload = others.choose(dice).expect("there are some").clone(),
    }
    payload
}

#[test]
fn spoilt_packets_cost_pictures_and_not_the_lane() {
    for (n, codec) in (1..).zip(CODECS) {
        let frames = spoilt(codec, ROUNDS, &mut seed(n));
        let mut b = Site::new();
        let ann = b.publish(codec);
        let kind = if codec == Codec::Opus { LaneKind::Audio } else { LaneKind::Video };
        let order = b.order(kind, Some(&ann), Some(&ann));
        b.start(&order);
        for frame in &frames {
            ann.push(std::slice::from_ref(frame));
            while let Ok(news) = b.news.try_recv() {
                assert!(!matches!(news, MediaNews::LaneEnded { .. }), "{codec:?}: {news:?}");
            }
        }
        // the good that comes behind it, after a gap, is recorded; how much of it comes in a second is the machine's
        let good = good(codec).remove(0);
        let gap = MediaTime(BASE + (ROUNDS * ROUND_MS + 2_500) * MS);
        let (mut last, mut at) = (frames, gap.0 + 2_500 * MS);
        let since = Instant::now();
        'recorded: loop {
            assert!(since.elapsed() < Duration::from_secs(60), "{codec:?}: nothing of the good end is recorded");
            let mut next = stamped(good.clone(), |n, _| at + n as u64 * 33 * MS);
            go_on_after(&last, &mut next);
            at += ROUND_MS * MS;
            ann.push(&next);
            last = next;
            while let Ok(news) = b.news.try_recv() {
                match news {
                    MediaNews::SegmentClosed(segment) if segment.start >= b.clock.wall(gap) => break 'recorded,
                    MediaNews::LaneEnded { end, .. } => panic!("{codec:?}: {end:?}"),
                    _ => {}
                }
            }
        }
        b.engine.finish_lane(&order.run);
        let end = loop {
            if let MediaNews::LaneEnded { end, .. } = b.next() {
                break end;
            }
        };
        assert_eq!(end, LaneEnd::Finished, "{codec:?}");
    }
}

#[test]
fn spoilt_packets_of_some_disturb_no_other_in_a_mix() {
    let mut dice = seed(11);
    let mut play = Play::new();
    let seconds = 8;
    let ann = play.track(Codec::H264, badge(1, (320, 180), seconds * 30, H264));
    let mut people = vec![guest("ann", Some(ann), None)];
    for (n, codec) in CODECS.into_iter().enumerate() {
        let track = play.track(codec, spoilt(codec, seconds * 1_000 / ROUND_MS, &mut dice));
        let (picture, sound) = if codec == Codec::Opus { (None, Some(track)) } else { (Some(track), None) };
        people.push(guest(&format!("user{n}"), picture, sound));
    }
    let scene = scene_for(&Layout::default(), mixing::SIZE, &people.iter().collect::<Vec<_>>());
    let order = play.order(scene.clone());
    play.start(vec![order]);
    play.until(seconds * 1_000);
    let told = play.finish();
    let joined = play.joined(&told);
    assert_steady(&times(&joined, "v"), 15);
    assert_sound_steady(&times(&joined, "a"), 48_000);
    let film = mixing::Film::read(&joined, mixing::SIZE);
    for (at, picture) in play.between(&film, 500.0, seconds as f64 * 1_000.0 - 200.0) {
        assert_eq!(film.badges(picture, &scene)[0], Some(1), "at {at} ms");
    }
}
