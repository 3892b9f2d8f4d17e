//! Where pictures go, for every number of them: the golden table, and what holds for all canvases and people.

mod door;

use std::fmt::Write;

use door::golden;
use holdfast::model::layout::{Person, Scene, Tile, scene};
use holdfast::model::mix::{Fit, Layout, LayoutMode, Named, Pane, Rect, Size};
use holdfast::model::{MediaId, TrackId, UserId};
use proptest::prelude::*;

fn user(i: u64) -> UserId {
    UserId::parse(&format!("u{i}")).unwrap()
}

fn people(n: u64) -> Vec<Person> {
    (0..n).map(|i| Person { user: user(i), media: MediaId::Main, video: Some(TrackId(i)) }).collect()
}

fn first() -> Option<Named> {
    Some(Named { user: user(0), media: MediaId::Main })
}

fn pane(rect: Rect) -> Pane {
    Pane { rect, user: None, media: MediaId::Main, alpha: 0, fit: Fit::Crop, layer: 0, image: None }
}

/// Panes along a diagonal, at odd places; the last ones stand out of the smallest canvas.
fn panes(n: u64) -> Vec<Pane> {
    let at = |i: u32| pane(Rect { x: 17 * i, y: 31 * i, width: 101, height: 57 });
    (0..u32::try_from(n).unwrap()).map(at).collect()
}

fn laid_out(mode: LayoutMode, canvas: Size, people: &[Person]) -> Scene {
    scene(&Layout { mode, ..Layout::default() }, canvas, people, Vec::new())
}

/// A layout for so many pictures.
type Mode = fn(u64) -> LayoutMode;

/// One line for each mode and number of pictures: `n: x,y+widthxheight …` in the order of painting.
#[test]
fn every_number_of_pictures_has_its_places() {
    let mut table =
        String::from("# n: x,y+width*height of each picture in the order of painting, 0 the first to enter\n");
    for (width, height) in [(1280, 720), (1918, 1078), (362, 638)] {
        let canvas = Size { width, height };
        let modes: [(&str, Mode); 5] = [
            ("grid", |_| LayoutMode::Grid),
            ("floating", |_| LayoutMode::Floating { large: first() }),
            ("screen share", |_| LayoutMode::ScreenShare { large: first(), large_on_the_right: false }),
            ("screen share, large on the right", |_| LayoutMode::ScreenShare {
                large: first(),
                large_on_the_right: true,
            }),
            ("custom", |n| LayoutMode::Custom(panes(n))),
        ];
        for (name, mode) in modes {
            writeln!(table, "\n{name} on {width}*{height}").unwrap();
            for n in 1..=25 {
                write!(table, "{n}:").unwrap();
                for tile in laid_out(mode(n), canvas, &people(n)).tiles {
                    let Rect { x, y, width, height } = tile.rect;
                    write!(table, " {x},{y}+{width}*{height}").unwrap();
                }
                table.push('\n');
            }
        }
    }
    golden("layouts.txt", &table);
}

fn canvas() -> impl Strategy<Value = Size> {
    (32u32..=960, 32u32..=960).prop_map(|(width, height)| Size { width: 2 * width, height: 2 * height })
}

fn mode() -> impl Strategy<Value = LayoutMode> {
    let named = || proptest::option::of((0u64..30).prop_map(|i| Named { user: user(i), media: MediaId::Main }));
    prop_oneof![
        Just(LayoutMode::Grid),
        named().prop_map(|large| LayoutMode::Floating { large }),
        (named(), any::<bool>())
            .prop_map(|(large, large_on_the_right)| LayoutMode::ScreenShare { large, large_on_the_right }),
        proptest::collection::vec(any_pane(), 1..=25).prop_map(LayoutMode::Custom),
    ]
}

fn any_pane() -> impl Strategy<Value = Pane> {
    let rect = (0u32..=1920, 0u32..=1920, 0u32..=1920, 0u32..=1920).prop_map(|(x, y, width, height)| Rect {
        x,
        y,
        width,
        height,
    });
    let fit = prop_oneof![Just(Fit::Stretch), Just(Fit::Crop), Just(Fit::Letterbox), Just(Fit::Smart)];
    let alpha = prop_oneof![Just(0u8), Just(255u8), any::<u8>()];
    (rect, proptest::option::of(0u64..30), alpha, fit, -3i32..3, any::<bool>()).prop_map(
        |(rect, name, alpha, fit, layer, image)| Pane {
            rect,
            user: name.map(user),
            media: MediaId::Main,
            alpha,
            fit,
            layer,
            image: image.then(|| "http://a.b/c.png".into()),
        },
    )
}

fn crowd() -> impl Strategy<Value = Vec<Person>> {
    proptest::collection::vec(any::<bool>(), 0..30).prop_map(|sees| {
        let mut crowd = people(sees.len() as u64);
        crowd.iter_mut().zip(sees).for_each(|(person, sees)| person.video = person.video.filter(|_| sees));
        crowd
    })
}

fn area(rect: Rect) -> u64 {
    u64::from(rect.width) * u64::from(rect.height)
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

fn disjoint(tiles: &[Tile]) -> bool {
    tiles.iter().enumerate().all(|(at, tile)| tiles[at + 1..].iter().all(|other| !overlap(tile.rect, other.rect)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn tiles_are_even_and_on_the_canvas(
        mode in mode(), canvas in canvas(), crowd in crowd(), holds: bool, no_place: bool, placeholder: bool
    ) {
        let layout = Layout {
            mode,
            hold_places: holds,
            sound_takes_no_place: no_place,
            placeholder: placeholder.then(|| "http://a.b/p.png".into()),
            ..Layout::default()
        };
        let shown = scene(&layout, canvas, &crowd, vec![TrackId(1)]);
        prop_assert_eq!(&shown, &scene(&layout, canvas, &crowd, vec![TrackId(1)]), "same people, same scene");
        prop_assert!(shown.tiles.len() <= 25);
        for tile in &shown.tiles {
            let Rect { x, y, width, height } = tile.rect;
            prop_assert!([x, y, width, height].iter().all(|side| side % 2 == 0), "{:?}", tile.rect);
            prop_assert!(width >= 2 && height >= 2 && x + width <= canvas.width && y + height <= canvas.height);
            let owner = crowd.iter().find(|person| Some(&person.user) == tile.user.as_ref());
            prop_assert_eq!(tile.track, owner.and_then(|person| person.video), "nobody shows another's pictures");
        }
        if !matches!(layout.mode, LayoutMode::Custom(_)) {
            let seats = crowd.iter().filter(|person| !no_place || person.video.is_some()).count();
            let least = seats.min(24);
            prop_assert!(shown.tiles.len() >= least, "{} of {seats} have a place", shown.tiles.len());
            prop_assert!(shown.tiles.iter().all(|tile| tile.alpha == 0 && tile.image.is_some() == (placeholder && tile.track.is_none())));
        }
    }

    #[test]
    fn a_full_grid_tiles_the_canvas(canvas in canvas(), side in 1u64..=5) {
        let tiles = laid_out(LayoutMode::Grid, canvas, &people(side * side)).tiles;
        prop_assert!(disjoint(&tiles));
        let all = u64::from(canvas.width) * u64::from(canvas.height);
        prop_assert_eq!(tiles.iter().map(|tile| area(tile.rect)).sum::<u64>(), all);
        // Equal cells, but for the one pair of pixels that rounding gives or takes.
        for sizes in [tiles.iter().map(|t| t.rect.width).collect::<Vec<_>>(), tiles.iter().map(|t| t.rect.height).collect()] {
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 2);
        }
        let half = laid_out(LayoutMode::Grid, canvas, &people(2)).tiles;
        prop_assert!(disjoint(&half));
        prop_assert_eq!(half.iter().map(|tile| area(tile.rect)).sum::<u64>(), all);
    }

    #[test]
    fn no_template_lets_pictures_overlap_that_should_not(canvas in canvas(), n in 0u64..30, right: bool, named: bool) {
        prop_assert!(disjoint(&laid_out(LayoutMode::Grid, canvas, &people(n)).tiles));
        let large = first().filter(|_| named);
        let share = LayoutMode::ScreenShare { large: large.clone(), large_on_the_right: right };
        let share = laid_out(share, canvas, &people(n)).tiles;
        prop_assert!(disjoint(&share));
        // Full columns and the large picture leave nothing free.
        if named && [5, 7, 9, 17, 25].contains(&n) {
            let all = u64::from(canvas.width) * u64::from(canvas.height);
            prop_assert_eq!(share.iter().map(|tile| area(tile.rect)).sum::<u64>(), all);
        }
        let floating = laid_out(LayoutMode::Floating { large }, canvas, &people(n)).tiles;
        if let Some((large, small)) = floating.split_first() {
            prop_assert_eq!(area(large.rect), u64::from(canvas.width) * u64::from(canvas.height));
            prop_assert!(disjoint(small));
            prop_assert!(!large.hidden);
        }
    }

    #[test]
    fn layers_decide_what_is_painted_over_what(panes in proptest::collection::vec(any_pane(), 1..=25), canvas in canvas()) {
        let mut crowd = people(25);
        // Each pane is for somebody, so that a tile leads back to its pane.
        let panes: Vec<Pane> =
            panes.into_iter().zip(0..).map(|(pane, i)| Pane { user: Some(user(i)), ..pane }).collect();
        crowd.truncate(panes.len());
        let tiles = laid_out(LayoutMode::Custom(panes.clone()), canvas, &crowd).tiles;
        let place = |tile: &Tile| panes.iter().position(|pane| pane.user == tile.user).unwrap();
        let order: Vec<(i32, usize)> = tiles.iter().map(|tile| (panes[place(tile)].layer, place(tile))).collect();
        prop_assert!(order.is_sorted(), "{order:?}");
        // Whoever is hidden is seen at no pixel: it is transparent, or behind an opaque picture that holds all of it.
        for (at, tile) in tiles.iter().enumerate() {
            let covered = tiles[at + 1..].iter().any(|over| {
                let (a, b) = (tile.rect, over.rect);
                let inside = a.x >= b.x && a.y >= b.y && a.x + a.width <= b.x + b.width && a.y + a.height <= b.y + b.height;
                inside && over.alpha == 0 && over.track.is_some() && matches!(over.fit, Fit::Stretch | Fit::Crop)
            });
            prop_assert_eq!(tile.hidden, covered || tile.alpha == 255);
        }
    }
}
