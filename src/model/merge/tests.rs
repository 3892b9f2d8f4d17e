//! What is made of recordings: tables of cases, and laws over any.

use proptest::prelude::*;

use super::*;

const USER: &str = "a2k+";

struct Made {
    recording: &'static str,
    media: MediaId,
    kind: LaneKind,
    /// Seconds.
    at: f64,
    length: f64,
    size: (u32, u32),
}

fn of(kind: LaneKind, at: f64, length: f64) -> Made {
    Made { recording: "1400_room", media: MediaId::Main, kind, at, length, size: (640, 360) }
}

fn sound(at: f64, length: f64) -> Made {
    of(LaneKind::Audio, at, length)
}

fn picture(at: f64, length: f64) -> Made {
    of(LaneKind::Video, at, length)
}

fn aux(at: f64, length: f64) -> Made {
    Made { media: MediaId::Aux, ..picture(at, length) }
}

fn long(seconds: f64) -> i64 {
    (seconds * SECOND as f64).round() as i64
}

fn pieces(made: &[Made]) -> Vec<Piece> {
    let piece = |(file, made): (usize, &Made)| {
        // stamps in the files count from somewhere else, in one recording from the same
        let first = long(made.at) + 7_777_777;
        let span = Span { first, last: first + long(made.length) - 3000, end: first + long(made.length), count: 10 };
        let (width, height) = made.size;
        Piece {
            file,
            stream: StreamName {
                recording: made.recording.into(),
                user: USER.into(),
                media: made.media,
                kind: made.kind,
            },
            start: Timestamp::from_ms(1_700_000_000_000 + (made.at * 1000.0) as i64),
            stamp: format!("s{file}"),
            listed: long(made.length),
            sizes: made.kind.has_video().then_some(Size { width, height }).into_iter().collect(),
            picture: made.kind.has_video().then_some(span),
            sound: made.kind.has_audio().then_some(span),
            forms: made
                .kind
                .has_audio()
                .then_some(SoundForm { rate: 48_000, channels: 1, object: 2 })
                .into_iter()
                .collect(),
        }
    };
    made.iter().enumerate().map(piece).collect()
}

/// Names and lengths in seconds.
fn told(made: &[Made], wish: &Wish) -> Vec<(String, f64)> {
    let outputs = plan(USER, &pieces(made), wish);
    outputs.into_iter().map(|output| (output.name, output.length as f64 / SECOND as f64)).collect()
}

const WHOLE: Wish = Wish { whole: true, skip_gaps: false, pick: Pick::Main, fps: None, size: None };

#[test]
fn names_say_their_streams() {
    let (stream, digits, start) =
        StreamName::of_segment("ha1_1400123456_12345__UserId_s_MTY4+jEx-Q..__UserId_e_main_video_20220330094551825.ts")
            .expect("it is one");
    assert_eq!(stream.recording, "ha1_1400123456_12345");
    assert_eq!(stream.user, "MTY4+jEx-Q..");
    assert_eq!((stream.media, stream.kind), (MediaId::Main, LaneKind::Video));
    assert_eq!(digits, "20220330094551825");
    assert_eq!(start, Timestamp::from_ms(1_648_633_551_825));
    for playlist in [
        "1_2__UserId_s_YQ..__UserId_e_aux_audio.m3u8",
        "1_2_UserId_s_YQ.._UserId_e_main_audiovideo.m3u8",
        "UserId_s_YQ..__UserId_e_main_video.m3u8",
        "1_2__UserId_s_YQ..__UserId_e_main_video_3.m3u8",
    ] {
        assert_eq!(StreamName::of_playlist(playlist).expect(playlist).user, "YQ..");
    }
    for other in [
        "1_2.m3u8",
        "1_2__UserId_s___UserId_e_main_video.m3u8",
        "1_2__UserId_s_YQ..__UserId_e_main_text.m3u8",
        "1_2__UserId_s_YQ..__UserId_e_third_video.m3u8",
        "1_2__UserId_s_YQ..__UserId_e_main_video_x.m3u8",
    ] {
        assert_eq!(StreamName::of_playlist(other), None, "{other}");
    }
    for other in ["_20221330094551825.ts", "_2022033009455182.ts", "_20220230094551825.ts", ".ts"] {
        assert_eq!(StreamName::of_segment(&format!("1_2__UserId_s_YQ..__UserId_e_main_video{other}")), None, "{other}");
    }
}

#[test]
fn fifteen_seconds_of_nothing_part_two_sections() {
    for (gap, sections) in [(14.999, 1), (15.0, 2), (15.001, 2)] {
        let made = [picture(0.0, 10.0), sound(0.0, 10.0), picture(10.0 + gap, 5.0), sound(10.0 + gap, 5.0)];
        let told = told(&made, &Wish::default());
        assert_eq!(told.len(), sections, "{gap}: {told:?}");
        let sum: f64 = told.iter().map(|(_, length)| length).sum();
        let expected = if sections == 1 { 15.0 + gap } else { 15.0 };
        assert!((sum - expected).abs() < 0.002, "{gap}: {told:?}");
    }
    // sound goes on while nothing is seen: no gap
    let one = [picture(0.0, 10.0), sound(0.0, 60.0), picture(50.0, 10.0)];
    assert_eq!(told(&one, &Wish::default()), [(format!("{USER}_s0_av.mp4"), 60.0)]);
    // sound alone is another kind of file
    let two = [sound(0.0, 10.0), picture(40.0, 10.0)];
    assert_eq!(told(&two, &Wish::default()), [(format!("{USER}_s0.m4a"), 10.0), (format!("{USER}_s1_av.mp4"), 10.0)]);
}

#[test]
fn sections_in_one_file_with_and_without_their_gaps() {
    let made = [picture(0.0, 10.0), sound(0.5, 9.0), picture(40.0, 10.0), sound(39.0, 12.0)];
    assert_eq!(told(&made, &WHOLE), [(format!("{USER}_s0_av.mp4"), 51.0)]);
    let skipped = Wish { skip_gaps: true, ..WHOLE };
    assert_eq!(told(&made, &skipped), [(format!("{USER}_s0_av.mp4"), 22.0)]);
    let filled = &plan(USER, &pieces(&made), &WHOLE)[0];
    assert_eq!(filled.sections, [(0, long(10.0)), (long(39.0), long(51.0))]);
    let coded = Picturing::Encode { size: Size { width: 640, height: 360 }, fps: 15 };
    assert_eq!(filled.picturing, Some(coded));
    let dense = &plan(USER, &pieces(&made), &skipped)[0];
    assert_eq!(dense.picturing, Some(Picturing::Copy));
    assert_eq!(dense.sections, [(0, long(10.0)), (long(10.0), long(22.0))]);
    // sound alone needs no coding to be filled
    let silent = &plan(USER, &pieces(&[sound(0.0, 5.0), sound(60.0, 5.0)]), &WHOLE)[0];
    assert_eq!((silent.name.as_str(), silent.length), ("a2k+_s0.m4a", long(65.0)));
    assert!(matches!(silent.sounding, Some(Sounding::Copy(_))));
}

#[test]
fn main_and_aux_as_asked() {
    let made =
        [sound(0.0, 100.0), picture(0.0, 20.0), picture(80.0, 20.0), aux(10.0, 20.0), aux(30.0, 45.0), aux(75.0, 25.0)];
    let pictures = |pick| {
        let outputs = plan(USER, &pieces(&made), &Wish { pick, ..Wish::default() });
        assert_eq!(outputs.len(), 1);
        let seconds = |ticks: i64| ticks / SECOND;
        outputs[0]
            .pictures
            .iter()
            .map(|placed| (placed.file, seconds(placed.from), seconds(placed.until)))
            .collect::<Vec<_>>()
    };
    assert_eq!(pictures(Pick::Main), [(1, 0, 20), (2, 80, 100)]);
    assert_eq!(pictures(Pick::Aux), [(3, 10, 30), (4, 30, 75), (5, 75, 100)]);
    assert_eq!(pictures(Pick::Auto), [(1, 0, 20), (3, 20, 30), (4, 30, 75), (5, 75, 80), (2, 80, 100)]);
    // a hole that parts no sections is no place for aux
    let short = [sound(0.0, 60.0), picture(0.0, 20.0), picture(34.0, 26.0), aux(0.0, 60.0)];
    let auto = Wish { pick: Pick::Auto, ..Wish::default() };
    assert_eq!(plan(USER, &pieces(&short), &auto)[0].pictures.len(), 2);
    // where aux is not asked for, it does not keep sections together
    let apart = [sound(0.0, 10.0), aux(0.0, 60.0), sound(50.0, 10.0)];
    assert_eq!(told(&apart, &Wish::default()).len(), 2);
    let together: Vec<f64> = told(&apart, &auto).into_iter().map(|(_, length)| length).collect();
    assert_eq!(together, [60.0]);
    // pictures of nobody
    assert!(told(&[aux(0.0, 10.0)], &Wish::default()).is_empty());
}

#[test]
fn pictures_are_coded_anew_only_where_somebody_or_something_asks_for_it() {
    let same = [picture(0.0, 10.0), picture(10.0, 10.0)];
    let other = [picture(0.0, 10.0), Made { size: (361, 643), ..picture(10.0, 10.0) }];
    let picturing = |made: &[Made], wish: Wish| plan(USER, &pieces(made), &wish)[0].picturing.expect("it has pictures");
    let encode = |width, height, fps| Picturing::Encode { size: Size { width, height }, fps };
    let size = |width, height| Some(Size { width, height });
    assert_eq!(picturing(&same, Wish::default()), Picturing::Copy);
    assert_eq!(picturing(&same, Wish { size: size(640, 360), ..Wish::default() }), Picturing::Copy);
    assert_eq!(picturing(&same, Wish { size: size(320, 180), ..Wish::default() }), encode(320, 180, 15));
    assert_eq!(picturing(&same, Wish { fps: Some(30), ..Wish::default() }), encode(640, 360, 30));
    assert_eq!(picturing(&other, Wish::default()), encode(360, 642, 15));
    assert_eq!([fps(-3), fps(4), fps(15), fps(120), fps(121)], [5, 5, 15, 120, 120]);
    assert!(super::size(640, 361).is_err() && super::size(0, 360).is_err() && super::size(640, 360).is_ok());
}

#[test]
fn a_recording_that_overlaps_another_is_put_behind_it() {
    // the clock stepped back while the box was down
    let ha = |made: Made| Made { recording: "ha1_1400_room", ..made };
    let made = [picture(0.0, 60.0), sound(0.0, 60.0), ha(picture(30.0, 20.0)), ha(sound(30.0, 20.0))];
    let outputs = plan(USER, &pieces(&made), &Wish::default());
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].length, long(80.0));
    assert_eq!(outputs[0].pictures[1].from, long(60.0));
    assert_eq!(outputs[0].sounds[1].from, long(60.0));
}

#[test]
fn stamps_are_followed_where_names_are_only_near() {
    let mut all = pieces(&[sound(0.0, 10.0), sound(10.0, 10.0), sound(20.0, 10.0)]);
    // the second one's name is 40 ms late; the third one's stamps began anew
    all[1].start = Timestamp(all[1].start.0 + 40_000);
    let third = Span { first: 5, last: 6, end: 5 + long(10.0), count: 1 };
    all[2].sound = Some(third);
    let output = &plan(USER, &all, &Wish::default())[0];
    let begins: Vec<i64> = output.sounds.iter().map(|placed| placed.from).collect();
    assert_eq!(begins, [0, long(10.0), long(20.0)]);
}

proptest! {
    /// Whatever there is: everything chosen has one place, in order, inside its result, and lengths are what they were.
    #[test]
    fn everything_has_one_place(
        made in prop::collection::vec((0u32..400, 1u32..60, 0usize..4, 0usize..3, any::<bool>()), 1..14),
        whole: bool,
        skip_gaps: bool,
        pick in prop::sample::select(vec![Pick::Main, Pick::Auto, Pick::Aux]),
    ) {
        let made: Vec<Made> = made
            .into_iter()
            .map(|(at, length, kind, recording, wide)| {
                let (media, kind) = [
                    (MediaId::Main, LaneKind::Audio),
                    (MediaId::Main, LaneKind::Video),
                    (MediaId::Aux, LaneKind::Video),
                    (MediaId::Main, LaneKind::AudioVideo),
                ][kind];
                let recording = ["1_a", "ha1_1_a", "1_b"][recording];
                let size = if wide { (640, 360) } else { (360, 640) };
                Made { recording, media, kind, at: f64::from(at), length: f64::from(length), size }
            })
            .collect();
        let all = pieces(&made);
        let wish = Wish { whole, skip_gaps, pick, ..Wish::default() };
        let outputs = plan(USER, &all, &wish);
        prop_assert_eq!(&outputs, &plan(USER, &all, &wish));
        prop_assert!(!whole || outputs.len() <= 1);
        let mut heard = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for output in &outputs {
            for pair in output.sections.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0);
                prop_assert!(skip_gaps || pair[1].0 - pair[0].1 >= GAP - 2);
            }
            prop_assert_eq!(output.sections[0].0, 0);
            prop_assert_eq!(output.sections[output.sections.len() - 1].1, output.length);
            for places in [&output.pictures, &output.sounds] {
                for placed in places {
                    prop_assert!(placed.from >= 0 && placed.from < placed.until && placed.until <= output.length);
                    let inside = |(from, until): &(i64, i64)| *from <= placed.from && placed.until <= *until;
                    prop_assert!(output.sections.iter().any(inside));
                }
                prop_assert!(places.windows(2).all(|pair| pair[0].until <= pair[1].from), "{:?}", places);
            }
            for placed in &output.sounds {
                prop_assert!(heard.insert(placed.file));
                // all of it is heard
                let span = all[placed.file].sound.expect("it was placed for it");
                prop_assert_eq!(placed.from, span.first + placed.shift);
                prop_assert!(placed.until >= span.end + placed.shift);
            }
            seen.extend(output.pictures.iter().map(|placed| placed.file));
        }
        for piece in &all {
            prop_assert!(piece.sound.is_none() || heard.contains(&piece.file));
            let chosen = match pick {
                Pick::Main => piece.stream.media == MediaId::Main,
                Pick::Auto => false,
                Pick::Aux => piece.stream.media == MediaId::Aux,
            };
            prop_assert!(piece.picture.is_none() || !chosen || seen.contains(&piece.file));
        }
    }
}
