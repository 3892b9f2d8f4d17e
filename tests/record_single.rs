//! One participant's lanes with real GStreamer: what is in the files, and what is told of them.

mod recording;

use holdfast::media::{LaneEnd, MediaEngine, MediaNews};
use holdfast::model::{Codec, LaneKind, MediaTime};
use recording::*;

#[test]
fn h264_is_cut_at_keyframes_and_nothing_of_it_changes() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    ann.push(&h264(300, (320, 240), 30, 1_000));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();

    assert!(ann.asked.times() >= 1, "a lane asks for a keyframe at once");
    assert_eq!(told.end, Some(LaneEnd::Finished));
    assert_eq!(told.first, Some(told.segments[0].start));
    // the line begins at BASE on the media clock, and the first frame is a second later
    assert_eq!(told.first.map(|at| at.0), Some(WALL.0 + ((BASE / MS) as i64 + 1_000) * 1_000));
    assert_eq!(told.segments.len(), 5);
    for segment in &told.segments {
        assert_eq!(segment.size, Some((320, 240)));
        assert_eq!(segment.discontinuity, segment.index == 0);
        assert_eq!(segment.bytes, std::fs::metadata(b.path(segment)).expect("there").len());
        assert!((segment.duration.as_secs_f64() - 2.0).abs() < 0.001, "{segment:?}");
        let path = b.path(segment);
        assert_plays_alone(&path);
        let times = times(&path, "v");
        assert_eq!(times.len(), 60);
        assert!((times[0].0 - 1.0 - 2.0 * f64::from(segment.index)).abs() < 0.001, "{times:?}");
    }
    let joined = b.joined(&told.segments);
    let all = times(&joined, "v");
    assert_eq!(all.len(), 300);
    assert!(all.windows(2).all(|w| (w[1].0 - w[0].0 - 1.0 / 30.0).abs() < 0.001), "no time is lost at a cut");
    assert_eq!(complaints(&joined), "");
}

#[test]
fn opus_becomes_aac_of_the_same_length() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    ann.push(&opus(500, 1_000));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();

    assert_eq!(told.end, Some(LaneEnd::Finished));
    assert_eq!(told.segments.len(), 5);
    assert!((told.seconds() - 10.0).abs() < 0.06, "{}", told.seconds());
    for segment in &told.segments {
        assert_eq!(segment.size, None);
        assert_plays_alone(&b.path(segment));
    }
    assert_eq!(streams(&b.path(&told.segments[0])), ["aac,48000,1"]);
    let all = times(&b.joined(&told.segments), "a");
    assert!(all.windows(2).all(|w| (w[1].0 - w[0].0 - 1024.0 / 48_000.0).abs() < 0.001));
}

const X264: &str = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay pt=96 mtu=1200";

/// Each flash has a beep; the difference, in milliseconds: sound later is positive.
fn offsets_ms(flashes: &[f64], tones: &[f64]) -> Vec<f64> {
    let near = |flash: &f64| {
        let tone = tones.iter().min_by(|a, b| (*a - flash).abs().total_cmp(&(*b - flash).abs()));
        (tone.expect("there are tones") - flash) * 1_000.0
    };
    flashes.iter().map(near).collect()
}

#[test]
fn flash_and_beep_are_together_in_two_lanes() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let heard = b.order(LaneKind::Audio, Some(&sound), None);
    let seen = b.order(LaneKind::Video, None, Some(&picture));
    b.start(&heard);
    sound.push(&later(beeps(8), 500));
    sound.settle();
    b.engine.finish_lane(&heard.run);
    let heard = b.until_end();
    b.start(&seen);
    picture.push(&later(flashes(8, X264), 500));
    picture.settle();
    b.engine.finish_lane(&seen.run);
    let seen = b.until_end();

    let tones = tone_starts(&b.joined(&heard.segments));
    let flashes = flash_starts(&b.joined(&seen.segments));
    assert_eq!(flashes.len(), 8);
    let offsets = offsets_ms(&flashes, &tones);
    println!("beep after flash, ms: {offsets:.1?}");
    assert!(offsets.iter().all(|ms| ms.abs() < 10.0), "{offsets:?}");
}

#[test]
fn a_clock_that_drifts_stays_in_step_for_two_minutes() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let mut order = b.order(LaneKind::Audio, Some(&ann), None);
    order.segment_length = std::time::Duration::from_secs(60);
    b.start(&order);
    // 100 ppm slow and then 400 ppm fast, over 60 s each
    let frames = stamped(beeps(120), |n, at| {
        let n = n as i64;
        let drift = if n < 3_000 { n * 2_000 } else { 3_000 * 2_000 - (n - 3_000) * 8_000 };
        at.wrapping_add_signed(drift + 100_000_000)
    });
    let wanted: Vec<f64> = frames.iter().step_by(50).take(120).map(|f| (f[0].at.0 - BASE) as f64 / 1e9).collect();
    ann.push(&frames);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    let tones = tone_starts(&b.joined(&told.segments));
    assert_eq!(tones.len(), 120);
    let offsets = offsets_ms(&wanted, &tones);
    let worst = offsets.iter().fold(0.0_f64, |worst, ms| worst.max(ms.abs()));
    println!("worst offset with a drifting clock: {worst:.1} ms");
    assert!(worst < 10.0, "{offsets:?}");
}

#[test]
fn silence_that_is_not_sent_and_packets_that_are_lost_keep_their_place() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    let mut frames = later(beeps(10), 200);
    let wanted: Vec<f64> = frames.iter().step_by(50).take(10).map(|f| (f[0].at.0 - BASE) as f64 / 1e9).collect();
    let mut n = 0;
    let mut lost = false;
    frames.retain_mut(|frame| {
        let place = n % 50;
        let second = n / 50;
        n += 1;
        // even seconds: DTX, one packet in 400 ms of silence; odd ones: single packets and a burst lost
        let gone =
            if second % 2 == 0 { place > 10 && place % 20 != 0 } else { place == 8 || (20..27).contains(&place) };
        if second % 2 == 1 {
            frame[0].after_loss = lost;
            lost = gone;
        }
        !gone
    });
    ann.push(&frames);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    let joined = b.joined(&told.segments);
    let all = times(&joined, "a");
    assert!(all.windows(2).all(|w| (w[1].0 - w[0].0 - 1024.0 / 48_000.0).abs() < 0.001), "sound has no holes");
    assert!(told.segments.iter().skip(1).all(|s| !s.discontinuity));
    let offsets = offsets_ms(&wanted, &tone_starts(&joined));
    assert!(offsets.iter().all(|ms| ms.abs() < 10.0), "{offsets:?}");
    assert_eq!(complaints(&joined), "");
}

#[test]
fn a_gap_is_a_jump_of_the_times_and_a_discontinuity() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    let before = h264(90, (320, 240), 30, 0);
    let mut after = h264(90, (320, 240), 30, 60_000);
    go_on_after(&before, &mut after);
    ann.push(&before);
    ann.push(&after);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    let facts: Vec<(bool, u128)> =
        told.segments.iter().map(|s| (s.discontinuity, (s.duration.as_micros() + 500) / 1000)).collect();
    assert_eq!(facts, [(true, 2_000), (false, 1_000), (true, 2_000), (false, 1_000)]);
    let starts: Vec<i64> = told.segments.iter().map(|s| (s.start.0 - told.segments[0].start.0) / 1000).collect();
    assert_eq!(starts, [0, 2_000, 60_000, 62_000]);
    assert!((times(&b.path(&told.segments[2]), "v")[0].0 - 60.0).abs() < 0.001);
    for segment in &told.segments {
        assert_plays_alone(&b.path(segment));
    }
}

#[test]
fn a_stream_that_falls_silent_is_closed_before_anything_else_happens() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    for (publisher, frames, kind) in
        [(&sound, opus(40, 500), LaneKind::Audio), (&picture, h264(30, (320, 240), 30, 500), LaneKind::Video)]
    {
        let mut order = b.order(kind, Some(&sound), Some(&picture));
        order.gap_limit = std::time::Duration::from_millis(400);
        b.start(&order);
        publisher.push(&frames);
        let mut told = Told::default();
        while told.segments.is_empty() {
            let news = b.next();
            told.take(news);
        }
        let seconds = told.seconds();
        assert!((0.75..1.05).contains(&seconds), "{seconds}");
        let mut more = later(frames.clone(), 20_000);
        go_on_after(&frames, &mut more);
        publisher.push(&more);
        publisher.settle();
        b.engine.finish_lane(&order.run);
        while told.end.is_none() {
            let news = b.next();
            told.take(news);
        }
        assert_eq!(told.segments.len(), 2);
        assert!(told.segments[1].discontinuity);
        let jump = told.segments[1].start.since(told.segments[0].start);
        assert!((jump.as_secs_f64() - 20.0).abs() < 0.001, "{jump:?}");
        for segment in &told.segments {
            assert_plays_alone(&b.path(segment));
        }
    }
}

#[test]
fn a_change_of_size_begins_a_file_that_says_its_size() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    let small = h264(45, (320, 180), 90, 0);
    let mut large = h264(45, (640, 360), 90, 1_500);
    go_on_after(&small, &mut large);
    ann.push(&small);
    ann.push(&large);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    let facts: Vec<_> = told.segments.iter().map(|s| (s.size, s.discontinuity)).collect();
    assert_eq!(facts, [(Some((320, 180)), true), (Some((640, 360)), true)]);
    for (segment, size) in told.segments.iter().zip(["h264,320,180", "h264,640,360"]) {
        assert_plays_alone(&b.path(segment));
        assert_eq!(streams(&b.path(segment)), [size]);
        assert_eq!(times(&b.path(segment), "v").len(), 45);
        assert!((segment.duration.as_secs_f64() - 1.5).abs() < 0.001);
    }
}

#[test]
fn lost_packets_cost_pictures_and_not_the_recording() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    let mut frames = h264(150, (640, 360), 30, 0);
    // every 40th packet, but never the first
    let mut n = 0;
    let mut lost = false;
    for frame in &mut frames {
        frame.retain_mut(|packet| {
            n += 1;
            let gone = n % 40 == 0;
            packet.after_loss = lost;
            lost = gone;
            !gone
        });
    }
    ann.push(&frames);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    assert!((told.seconds() - 5.0).abs() < 0.1, "{}", told.seconds());
    assert!(ann.asked.times() >= 2, "a loss asks for a keyframe");
    let all = times(&b.joined(&told.segments), "v");
    assert!(all.len() > 130 && all.windows(2).all(|w| w[1].0 > w[0].0));
    for segment in &told.segments {
        assert!(times(&b.path(segment), "v")[0].1);
    }
}

#[test]
fn a_lane_that_begins_in_mid_stream_waits_for_a_keyframe_and_asks_for_it() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let frames = h264(90, (320, 240), 60, 0);
    ann.push(&frames[..30]);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    ann.push(&frames[30..]);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert!(ann.asked.times() >= 1);
    let times = times(&b.path(&told.segments[0]), "v");
    assert_eq!((times.len(), times[0].1), (30, true));
    assert!((times[0].0 - 2.0).abs() < 0.001);
    assert_eq!(told.first, Some(told.segments[0].start));
}

#[test]
fn a_track_that_goes_ends_the_lane_and_all_it_sent_is_there() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    ann.push(&opus(100, 0));
    drop(ann);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::TrackGone));
    assert!((told.seconds() - 2.0).abs() < 0.06);
    assert!(b.engine.start_lane(order).is_err(), "its track is gone");
    assert_eq!(b.engine.lanes(), 0);
}

#[test]
fn a_lane_without_data_ends_without_files() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    assert!(b.engine.start_lane(order.clone()).is_err(), "a run is there once");
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!((told.end, told.first, told.segments.len()), (Some(LaneEnd::Finished), None, 0));
    assert_eq!(std::fs::read_dir(b.dir.path()).expect("there").count(), 0);
}

#[test]
fn a_killed_lane_tells_what_it_had_written() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    ann.push(&h264(90, (320, 240), 30, 0));
    ann.settle();
    let mut told = Told::default();
    while told.segments.is_empty() {
        let news = b.next();
        told.take(news);
    }
    b.engine.kill_lane(&order.run);
    while told.end.is_none() {
        let news = b.next();
        told.take(news);
    }
    assert_eq!(told.end, Some(LaneEnd::Killed));
    assert_eq!(told.segments.len(), 2);
    assert_plays_alone(&b.path(&told.segments[1]));
}

#[test]
fn nonsense_does_not_end_the_lane() {
    let mut b = Site::new();
    // Not every nonsense breaks a parser: H.264 gets several.
    let codecs = [Codec::Opus, Codec::Vp8].into_iter().chain([Codec::H264; 12]);
    for (mut seed, codec) in (1_u32..).zip(codecs) {
        let ann = b.publish(codec);
        let kind = if codec == Codec::Opus { LaneKind::Audio } else { LaneKind::Video };
        let order = b.order(kind, Some(&ann), Some(&ann));
        b.start(&order);
        let good = match codec {
            Codec::H264 => h264(60, (320, 240), 15, 0),
            Codec::Opus => opus(100, 0),
            _ => flashes(2, "vp8enc deadline=1 keyframe-max-dist=15 ! rtpvp8pay pt=96"),
        };
        let frames: Vec<_> = good
            .into_iter()
            .enumerate()
            .map(|(n, mut frame)| {
                if n % 7 == 3 {
                    for packet in &mut frame {
                        let mut bytes = packet.rtp.to_vec();
                        for byte in bytes.iter_mut().skip(12) {
                            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            *byte = (seed >> 24) as u8;
                        }
                        bytes.truncate(12 + (seed >> 8) as usize % 60 + 1);
                        packet.rtp = bytes.into();
                    }
                }
                frame
            })
            .collect();
        ann.push(&frames);
        ann.settle();
        b.engine.finish_lane(&order.run);
        let told = b.until_end();
        assert_eq!(told.end, Some(LaneEnd::Finished), "{codec:?}");
        // Where a parser broke, the pictures go on with the next keyframe, half a second later at most.
        let least = if codec == Codec::H264 { 0.5 } else { 1.7 };
        assert!((least..2.3).contains(&told.seconds()), "{codec:?}: {}", told.seconds());
        for segment in &told.segments {
            std::fs::remove_file(b.path(segment)).expect("it is there");
        }
    }
}

/// A subset parameter set of H.264 (type 15) for pictures of several views, as far as the number of views, which is not
/// there: GStreamer 1.22's parser of it follows a null pointer.
fn several_views_cut_short() -> Vec<u8> {
    let bits = [
        "01101111", // header: type 15
        "01110110",
        "00000000",
        "00011110", // profile 118, no constraints, level 3
        "1",
        "010",
        "1",
        "1",
        "0",
        "0", // its number, 4:2:0, 8 bits, 8 bits, not lossless, no scaling matrices
        "1",
        "011",
        "010",
        "0", // frame numbers, order by decoding, one reference, no gaps
        "000010100",
        "0001111",
        "1",
        "1",
        "0",
        "0", // 20 × 15 macroblocks, frames, no cropping, no VUI
        "1", // the extension begins
    ]
    .concat();
    let octets = bits.as_bytes().chunks(8);
    let octet = |bits: &[u8]| bits.iter().enumerate().fold(0, |octet, (n, bit)| octet | (bit - b'0') << (7 - n));
    octets.map(octet).collect()
}

#[test]
fn a_unit_of_which_the_parser_dies_costs_nothing() {
    let unit = several_views_cut_short();
    let alone = unit.clone();
    let aggregated = [&[0x78, 0, 3, 0x09, 0xf0, 0x80, 0, unit.len() as u8], &unit[..]].concat();
    let hidden = [&[0x66, 0x05, 0x01, 0, 0, 1], &unit[..]].concat();
    let fragments = [[&[0x7c, 0x8f], &unit[1..7]].concat(), [&[0x7c, 0x4f], &unit[7..]].concat()];
    // a fragment without its header, of which the depayloader copies -1 bytes
    let nothing = vec![0x7c];
    for payloads in [vec![alone], vec![aggregated], vec![hidden], fragments.to_vec(), vec![nothing]] {
        let mut b = Site::new();
        let ann = b.publish(Codec::H264);
        let order = b.order(LaneKind::Video, None, Some(&ann));
        b.start(&order);
        let good = h264(60, (320, 240), 30, 0);
        let mut frames: Vec<Frame> = Vec::new();
        for frame in &good {
            // between two pictures, with the stamp of the next; numbers follow below
            let packet = |payload: &Vec<u8>| {
                let mut packet = frame[0].clone();
                packet.rtp = [&packet.rtp[..1], &[96], &packet.rtp[2..12], payload].concat().into();
                packet
            };
            frames.push(payloads.iter().map(packet).chain(frame.clone()).collect());
        }
        go_on_after(&good, &mut frames);
        ann.push(&frames);
        ann.settle();
        b.engine.finish_lane(&order.run);
        let told = b.until_end();
        assert_eq!(told.end, Some(LaneEnd::Finished));
        let joined = b.joined(&told.segments);
        assert_eq!((times(&joined, "v").len(), complaints(&joined)), (60, String::new()));
    }
}

#[test]
fn other_codecs_become_h264() {
    for (codec, encoder) in [
        (Codec::Vp8, "vp8enc deadline=1 keyframe-max-dist=1000 ! rtpvp8pay pt=96"),
        (Codec::Vp9, "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=1000 ! rtpvp9pay pt=96"),
    ] {
        let mut b = Site::new();
        let ann = b.publish(codec);
        let order = b.order(LaneKind::Video, None, Some(&ann));
        b.start(&order);
        ann.push(&flashes(5, encoder));
        ann.settle();
        b.engine.finish_lane(&order.run);
        let told = b.until_end();
        assert_eq!(told.end, Some(LaneEnd::Finished), "{codec:?}");
        let joined = b.joined(&told.segments);
        let all = times(&joined, "v");
        assert_eq!(all.len(), 150, "{codec:?}");
        assert!(all.iter().enumerate().all(|(n, t)| (t.0 - n as f64 / 30.0).abs() < 0.002), "{codec:?}: {all:?}");
        assert_eq!(flash_starts(&joined).len(), 5, "{codec:?}");
        assert_eq!(streams(&b.path(&told.segments[0])), ["h264,160,120"]);
        for segment in &told.segments {
            assert_plays_alone(&b.path(segment));
        }
    }
}

#[test]
fn pictures_of_an_odd_size_are_recorded() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Vp8);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    ann.push(&packets(
        "videotestsrc num-buffers=60 ! video/x-raw,format=I420,width=321,height=243,framerate=30/1 \
         ! vp8enc deadline=1 ! rtpvp8pay pt=96",
        0,
    ));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    let path = b.path(&told.segments[0]);
    assert_plays_alone(&path);
    let (width, height) = told.segments[0].size.expect("pictures");
    assert!((320..=322).contains(&width) && (242..=244).contains(&height), "{width}x{height}");
    assert_eq!(times(&path, "v").len(), 60);
}

#[test]
fn what_came_is_in_the_file_long_before_it_is_closed() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let mut order = b.order(LaneKind::AudioVideo, Some(&sound), Some(&picture));
    order.segment_length = std::time::Duration::from_secs(600);
    b.start(&order);
    push_together(&sound, &opus(150, 0), &picture, &h264(90, (320, 240), 1_000, 0));
    assert!(matches!(b.next(), MediaNews::FirstMedia { .. }));
    let part = std::fs::read_dir(b.dir.path()).expect("there").next().expect("an open file").expect("readable").path();
    // no power cut is waited for: the file as the kernel has it now, with all but what one side waits for the other
    let copy = part.with_extension("ts");
    let since = std::time::Instant::now();
    loop {
        std::fs::copy(&part, &copy).expect("it can be read");
        if times(&copy, "v").len() >= 65 && times(&copy, "a").len() >= 100 {
            break;
        }
        assert!(since.elapsed() < std::time::Duration::from_secs(60), "{:?}", times(&copy, "v").len());
    }
    assert_plays_alone(&copy);
    b.engine.finish_lane(&order.run);
    assert_eq!(b.until_end().segments.len(), 1);
}

#[test]
fn av1_becomes_h264_too() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Av1);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    let units = flashes(
        2,
        "av1enc cpu-used=8 usage-profile=realtime lag-in-frames=0 keyframe-max-dist=1000 ! av1parse ! video/x-av1,stream-format=obu-stream,alignment=tu",
    );
    ann.push(&av1_in_rtp(units));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    let path = b.path(&told.segments[0]);
    assert_plays_alone(&path);
    assert_eq!((streams(&path), times(&path, "v").len()), (vec!["h264,160,120".to_owned()], 60));
    assert_eq!(flash_starts(&path).len(), 2);
}

#[test]
fn a_keyframe_that_does_not_come_is_asked_for_and_the_file_goes_on() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    ann.push(&h264(150, (320, 240), 1_000, 0));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.segments.len(), 1);
    assert!((told.seconds() - 5.0).abs() < 0.01);
    assert!(ann.asked.times() >= 2, "at the start and at the cut");
}

#[test]
fn a_merged_lane_has_both_in_step() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let order = b.order(LaneKind::AudioVideo, Some(&sound), Some(&picture));
    b.start(&order);
    push_together(&sound, &later(beeps(8), 500), &picture, &later(flashes(8, X264), 500));
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    assert_eq!(told.segments.len(), 4);
    for segment in &told.segments {
        assert_eq!(segment.size, Some((160, 120)));
        assert_eq!(segment.discontinuity, segment.index == 0);
        let path = b.path(segment);
        assert_plays_alone(&path);
        assert_eq!(streams(&path), ["h264,160,120", "aac,48000,1"]);
        assert_eq!(times(&path, "v").len(), 60);
    }
    assert!((told.seconds() - 8.0).abs() < 0.06, "{}", told.seconds());
    let joined = b.joined(&told.segments);
    let offsets = offsets_ms(&flash_starts(&joined), &tone_starts(&joined));
    println!("beep after flash in one file, ms: {offsets:.1?}");
    assert!(offsets.len() == 8 && offsets.iter().all(|ms| ms.abs() < 10.0), "{offsets:?}");
    let sounds = times(&joined, "a");
    assert!(sounds.windows(2).all(|w| (w[1].0 - w[0].0 - 1024.0 / 48_000.0).abs() < 0.001));
}

/// Pushes two streams side by side, in the order of their stamps.
fn push_together(one: &Publisher, ones: &[Frame], two: &Publisher, twos: &[Frame]) {
    let mut all: Vec<(&Publisher, &Frame)> =
        ones.iter().map(|f| (one, f)).chain(twos.iter().map(|f| (two, f))).collect();
    all.sort_by_key(|(_, frame)| frame[0].at);
    for (publisher, frame) in all {
        publisher.push(std::slice::from_ref(frame));
    }
    one.settle();
    two.settle();
}

#[test]
fn a_merged_lane_goes_on_with_whichever_side_there_is() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let order = b.order(LaneKind::AudioVideo, Some(&sound), Some(&picture));
    b.start(&order);
    // sound 0 to 16 s; pictures from 4 to 8 s and from 12 to 20 s
    let first = later(h264(120, (320, 240), 30, 0), 4_000);
    let mut second = later(h264(240, (320, 240), 30, 0), 12_000);
    go_on_after(&first, &mut second);
    let pictures: Vec<Frame> = first.into_iter().chain(second).collect();
    push_together(&sound, &opus(800, 0), &picture, &pictures);
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    let mut pictures = 0;
    for segment in &told.segments {
        let path = b.path(segment);
        assert_plays_alone(&path);
        let seen = times(&path, "v").len();
        pictures += seen;
        assert_eq!(segment.size.is_some(), seen > 0, "{segment:?}");
        assert!(!times(&path, "a").is_empty(), "sound or silence is everywhere: {segment:?}");
        assert!(segment.duration.as_secs_f64() < 5.2, "{segment:?}");
    }
    assert_eq!(pictures, 360);
    let sounds = times(&b.joined(&told.segments), "a");
    assert!(sounds.windows(2).all(|w| (w[1].0 - w[0].0 - 1024.0 / 48_000.0).abs() < 0.001));
    let end = sounds.last().expect("sound").0;
    assert!(end > 19.0, "silence goes on beside pictures: {end}");
}

#[test]
fn a_merged_lane_is_silent_where_only_pictures_come() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let order = b.order(LaneKind::AudioVideo, Some(&sound), Some(&picture));
    b.start(&order);
    let mut tones = beeps(12);
    tones.retain(|frame| !(4_500..9_500).contains(&((frame[0].at.0 - BASE) / MS)));
    push_together(&sound, &later(tones, 500), &picture, &later(flashes(12, X264), 500));
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert!(told.segments.iter().skip(1).all(|segment| !segment.discontinuity), "{told:?}");
    let joined = b.joined(&told.segments);
    let sounds = times(&joined, "a");
    assert!(sounds.windows(2).all(|w| (w[1].0 - w[0].0 - 1024.0 / 48_000.0).abs() < 0.001));
    let tones = tone_starts(&joined);
    let flashes = flash_starts(&joined);
    assert_eq!((tones.len(), flashes.len()), (7, 12));
    let offsets = offsets_ms(&tones, &flashes);
    assert!(offsets.iter().all(|ms| ms.abs() < 10.0), "{offsets:?}");
}

#[test]
fn stereo_stays_stereo() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    ann.push(&packets(
        "audiotestsrc num-buffers=150 samplesperbuffer=960 wave=pink-noise ! audio/x-raw,rate=48000,channels=2 \
         ! opusenc bitrate=128000 ! rtpopuspay pt=96",
        0,
    ));
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    for segment in &told.segments {
        assert_eq!(streams(&b.path(segment)), ["aac,48000,2"]);
        assert_plays_alone(&b.path(segment));
    }
}

#[test]
fn a_merged_lane_with_one_track_is_a_lane_of_that_track() {
    for with_sound in [true, false] {
        let mut b = Site::new();
        let ann = b.publish(if with_sound { Codec::Opus } else { Codec::H264 });
        let order = b.order(LaneKind::AudioVideo, with_sound.then_some(&ann), (!with_sound).then_some(&ann));
        b.start(&order);
        ann.push(&if with_sound { opus(250, 0) } else { h264(150, (320, 240), 30, 0) });
        drop(ann);
        let told = b.until_end();
        assert_eq!(told.end, Some(LaneEnd::TrackGone));
        assert!((told.seconds() - 5.0).abs() < 0.06, "{}", told.seconds());
        for segment in &told.segments {
            let wanted = if with_sound { "aac,48000,1" } else { "h264,320,240" };
            assert_eq!(streams(&b.path(segment)), [wanted]);
            assert_plays_alone(&b.path(segment));
        }
    }
}

#[test]
fn black_fills_the_time_in_which_pictures_had_stopped() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let mut order = b.order(LaneKind::Video, None, Some(&ann));
    order.fill_black = true;
    b.start(&order);
    let before = h264(60, (320, 240), 30, 0);
    let mut after = h264(60, (320, 240), 30, 10_000);
    go_on_after(&before, &mut after);
    ann.push(&before);
    ann.push(&after);
    ann.settle();
    b.engine.finish_lane(&order.run);
    let told = b.until_end();
    assert!((told.seconds() - 12.0).abs() < 0.1, "{} {told:?}", told.seconds());
    for segment in &told.segments {
        assert_plays_alone(&b.path(segment));
        assert_eq!(segment.size, Some((320, 240)));
    }
    let joined = b.joined(&told.segments);
    let times = times(&joined, "v");
    assert!(times.windows(2).all(|w| w[1].0 > w[0].0 && w[1].0 - w[0].0 < 1.1), "{times:?}");
    let seen = brightness(&joined);
    let dark = seen.iter().filter(|p| (2.1..9.9).contains(&p.0)).collect::<Vec<_>>();
    assert!(dark.len() >= 7 && dark.iter().all(|p| p.1 < 17.0), "{dark:?}");
}

#[test]
fn black_comes_by_the_clock_when_nothing_comes_back() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let mut order = b.order(LaneKind::Video, None, Some(&ann));
    order.fill_black = true;
    order.gap_limit = std::time::Duration::from_millis(300);
    order.segment_length = std::time::Duration::from_millis(1_000);
    order.base = MediaTime(b.clock.now().0);
    b.start(&order);
    ann.push(&stamped(h264(30, (320, 240), 15, 0), |n, _| order.base.0 + n as u64 * 33 * MS));
    let mut told = Told::default();
    while told.segments.len() < 3 {
        let news = b.next();
        told.take(news);
    }
    b.engine.finish_lane(&order.run);
    while told.end.is_none() {
        let news = b.next();
        told.take(news);
    }
    let path = b.path(&told.segments[2]);
    assert_plays_alone(&path);
    assert!(brightness(&path).iter().all(|p| p.1 < 17.0));
}

#[test]
fn two_recordings_of_one_track_do_not_know_of_each_other() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let first = b.order(LaneKind::Video, None, Some(&ann));
    let mut second = first.clone();
    second.run.run = 1;
    second.segment_length = std::time::Duration::from_secs(1);
    b.start(&first);
    b.start(&second);
    ann.push(&h264(120, (320, 240), 30, 0));
    ann.settle();
    b.engine.finish_lane(&first.run);
    b.engine.finish_lane(&second.run);
    let mut segments = [0, 0];
    let mut ends = 0;
    while ends < 2 {
        match b.next() {
            MediaNews::SegmentClosed(segment) => {
                assert_plays_alone(&b.path(&segment));
                segments[segment.run.run as usize] += 1;
            }
            MediaNews::LaneEnded { end, .. } => {
                assert_eq!(end, LaneEnd::Finished);
                ends += 1;
            }
            _ => {}
        }
    }
    assert_eq!(segments, [2, 4]);
}
