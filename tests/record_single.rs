//! One participant's lanes with real GStreamer: what is in the files, and what is told of them.

mod recording;

use holdfast::media::{LaneEnd, MediaEngine};
use holdfast::model::{Codec, LaneKind};
use recording::*;

#[test]
fn h264_is_cut_at_keyframes_and_nothing_of_it_changes() {
    let mut b = Box_::new();
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
    let mut b = Box_::new();
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
