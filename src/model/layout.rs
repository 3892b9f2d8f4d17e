//! Where the pictures of a mixed recording go.
//!
//! Owns: the templates' maths, who gets which place, what is painted over what. Must not touch: pixels.
//! Law: pure and exact. The cells of a grid tile the canvas without gaps or overlap; every edge is even; the same
//! people in the same order give the same scene.
//! Sources: RECORDING.md §4, API.md §1.9.

use super::mix::{Colour, Fit, Layout, LayoutMode, Named, Pane, Rect, Size, Watermark};
use super::{MediaId, TrackId, UserId};

/// Pictures of one scene.
const PICTURES: usize = 25;
/// Small ones beside the large one of a screen share.
const SMALL_ONES: usize = 24;

/// One stream of one user that a place is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub user: UserId,
    pub media: MediaId,
    /// The live track of pictures that is wanted of it.
    pub video: Option<TrackId>,
}

impl Person {
    fn is(&self, user: &UserId, media: MediaId) -> bool {
        self.user == *user && self.media == media
    }
}

/// One picture on the canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub rect: Rect,
    /// Whose place it is; `None`: a custom layout's place that is held for nobody in particular.
    pub user: Option<UserId>,
    pub media: MediaId,
    /// What is to be seen in it; `None`: no pictures are sent, `image` or the background stands there.
    pub track: Option<TrackId>,
    pub fit: Fit,
    /// 0 opaque … 255 not to be seen
    pub alpha: u8,
    /// URL of the image that stands where no picture is. With a track only a pane's own image, where the picture may
    /// leave something of its rectangle free.
    pub image: Option<String>,
    /// Nothing of it can be seen, so its track need not be decoded: it is wholly transparent, or one opaque picture
    /// that is painted later covers it, once there is one ([`Scene::in_sight`]).
    pub hidden: bool,
}

impl Tile {
    fn covers(&self, rect: &Rect) -> bool {
        self.alpha == 0 && self.track.is_some() && fills(self.fit) && self.rect.contains(rect)
    }
}

/// All that a mixed recording shows and lets hear from some moment on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    pub background: Colour,
    pub background_image: Option<(String, Fit)>,
    /// In the order in which they are painted.
    pub tiles: Vec<Tile>,
    pub watermarks: Vec<Watermark>,
    /// Every track of sound that is mixed.
    pub sounds: Vec<TrackId>,
}

impl Scene {
    /// Of each tile, whether something of it can be seen while these tracks show a picture and the others do not yet.
    pub fn in_sight(&self, shows: impl Fn(TrackId) -> bool) -> Vec<bool> {
        let covered = |at: usize| {
            let covers = |over: &Tile| over.covers(&self.tiles[at].rect) && over.track.is_some_and(&shows);
            self.tiles[at + 1..].iter().any(covers)
        };
        let sees = |(at, tile): (usize, &Tile)| !tile.hidden || (tile.alpha != u8::MAX && !covered(at));
        self.tiles.iter().enumerate().map(sees).collect()
    }
}

/// Lays out `people`, who come in order of entry, on `canvas`.
pub fn scene(layout: &Layout, canvas: Size, people: &[Person], sounds: Vec<TrackId>) -> Scene {
    let seated = || people.iter().filter(|person| person.video.is_some() || !layout.sound_takes_no_place);
    let mut tiles = match &layout.mode {
        LayoutMode::Grid => template(layout, grid(canvas, &seated().collect::<Vec<_>>())),
        LayoutMode::Floating { large } => {
            let (large, others) = split(large.as_ref(), seated());
            template(layout, floating(canvas, large, others))
        }
        LayoutMode::ScreenShare { large, large_on_the_right } => {
            let (large, others) = split(large.as_ref(), seated());
            template(layout, screen_share(canvas, large, others, *large_on_the_right))
        }
        LayoutMode::Custom(panes) => custom(layout, panes, canvas, people),
    };
    // A place that rounding left without a pixel (on a canvas of a few dozen) shows nothing.
    tiles.retain(|tile| tile.rect.width > 0 && tile.rect.height > 0);
    hide_what_is_covered(&mut tiles);
    Scene {
        background: layout.background,
        background_image: layout.background_image.clone(),
        tiles,
        watermarks: layout.watermarks.clone(),
        sounds,
    }
}

/// The named one, if there, apart from the others.
fn split<'a>(name: Option<&Named>, people: impl Iterator<Item = &'a Person>) -> (Option<&'a Person>, Vec<&'a Person>) {
    let (named, others): (Vec<&Person>, Vec<&Person>) =
        people.partition(|person| name.is_some_and(|name| person.is(&name.user, name.media)));
    (named.first().copied(), others)
}

/// Who stands where, in the order of painting.
type Places<'a> = Vec<(Rect, &'a Person)>;

fn grid<'a>(canvas: Size, people: &[&'a Person]) -> Places<'a> {
    let people = &people[..people.len().min(PICTURES)];
    let (columns, rows) = match people.len() {
        ..=1 => (1, 1),
        2 => (2, 1),
        3..=4 => (2, 2),
        5..=9 => (3, 3),
        10..=16 => (4, 4),
        _ => (5, 5),
    };
    let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let rect = |(row, column)| place(canvas, cell(column, columns), cell(row, rows));
    cells.map(rect).zip(people.iter().copied()).collect()
}

fn floating<'a>(canvas: Size, named: Option<&'a Person>, others: Vec<&'a Person>) -> Places<'a> {
    let mut others = others.into_iter();
    let Some(large) = named.or_else(|| others.next()) else { return Vec::new() };
    let small: Vec<&Person> = others.take(PICTURES - 1).collect();
    // In thousandths of the canvas.
    let (in_a_row, side, gap) = if small.len() < 17 { (4, 235, 12) } else { (5, 188, 10) };
    let mut places = vec![(place(canvas, WHOLE, WHOLE), large)];
    places.extend((0u32..).zip(small).map(|(i, person)| {
        let left = gap + i % in_a_row * (side + gap);
        let bottom = 1000 - gap - i / in_a_row * (side + gap);
        let across = Span { from: left, to: left + side, of: 1000 };
        let down = Span { from: bottom - side, to: bottom, of: 1000 };
        (place(canvas, across, down), person)
    }));
    places
}

/// The place of the large one counts among the pictures, whether somebody has it or not.
fn screen_share<'a>(canvas: Size, large: Option<&'a Person>, small: Vec<&'a Person>, mirrored: bool) -> Places<'a> {
    let small = &small[..small.len().min(SMALL_ONES)];
    let pictures = small.len() + 1;
    // The canvas is so many small ones wide and high, and so many columns of it belong to them.
    let (wide, high, columns) = match pictures {
        ..=5 => (5, 4, 1),
        6..=7 => (7, 6, 1),
        8..=9 => (9, 8, 1),
        _ => (10, 8, 2),
    };
    let (large_from, small_from) = if mirrored { (columns, 0) } else { (0, wide - columns) };
    let large_down = if pictures > 17 { Span { from: 0, to: 7, of: 8 } } else { WHOLE };
    let large_across = Span { from: large_from, to: large_from + wide - columns, of: wide };
    let mut places: Places<'a> =
        large.map(|person| (place(canvas, large_across, large_down), person)).into_iter().collect();
    places.extend((0u32..).zip(small).map(|(i, person)| {
        let (column, row) = match i.checked_sub(columns * high) {
            None => (small_from + i / high, i % high),
            // Under the large one, from its left.
            Some(past) => (large_from + past, high - 1),
        };
        (place(canvas, cell(column, wide), cell(row, high)), *person)
    }));
    places
}

fn template(layout: &Layout, places: Places<'_>) -> Vec<Tile> {
    let tile = |(rect, person): (Rect, &Person)| Tile {
        rect,
        user: Some(person.user.clone()),
        media: person.media,
        track: person.video,
        fit: layout.fit,
        alpha: 0,
        image: layout.placeholder.clone().filter(|_| person.video.is_none()),
        hidden: false,
    };
    places.into_iter().map(tile).collect()
}

/// Panes with a name are for that stream alone; the others go, in their order, to those who have none of their own.
fn custom(layout: &Layout, panes: &[Pane], canvas: Size, people: &[Person]) -> Vec<Tile> {
    let is_for = |pane: &Pane, person: &Person| pane.user.as_ref().is_some_and(|user| person.is(user, pane.media));
    let mut unnamed = people.iter().filter(|person| !panes.iter().any(|pane| is_for(pane, person)));
    let mut tiles: Vec<(i32, Tile)> = Vec::new();
    for pane in panes {
        let person = match pane.user {
            Some(_) => people.iter().find(|person| is_for(pane, person)),
            None => unnamed.next(),
        };
        let Some(rect) = on_canvas(pane.rect, canvas) else { continue };
        let track = person.and_then(|person| person.video);
        let image = match track {
            None => pane.image.as_ref().or(layout.placeholder.as_ref()),
            Some(_) => pane.image.as_ref().filter(|_| !fills(pane.fit)),
        };
        if person.is_none() && !(layout.hold_places && image.is_some()) {
            continue;
        }
        let tile = Tile {
            rect,
            user: person.map(|person| person.user.clone()).or_else(|| pane.user.clone()),
            media: person.map_or(pane.media, |person| person.media),
            track,
            fit: pane.fit,
            alpha: pane.alpha,
            image: image.cloned(),
            hidden: false,
        };
        tiles.push((pane.layer, tile));
    }
    // Stable: on one layer the later pane is in front.
    tiles.sort_by_key(|(layer, _)| *layer);
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// A picture of whatever shape leaves nothing of its rectangle free.
fn fills(fit: Fit) -> bool {
    match fit {
        Fit::Stretch | Fit::Crop => true,
        Fit::Letterbox | Fit::Smart => false,
    }
}

fn hide_what_is_covered(tiles: &mut [Tile]) {
    for at in 0..tiles.len() {
        let rect = tiles[at].rect;
        tiles[at].hidden = tiles[at].alpha == u8::MAX || tiles[at + 1..].iter().any(|over| over.covers(&rect));
    }
}

/// A stretch of one side of the canvas: from one fraction to another.
#[derive(Clone, Copy)]
struct Span {
    from: u32,
    to: u32,
    of: u32,
}

const WHOLE: Span = Span { from: 0, to: 1, of: 1 };

/// The `at`-th of `of` equal parts.
fn cell(at: u32, of: u32) -> Span {
    Span { from: at, to: at + 1, of }
}

/// Each edge is rounded by itself, so that neighbours share theirs.
fn place(canvas: Size, across: Span, down: Span) -> Rect {
    let (x, right) = (edge(canvas.width, across.from, across.of), edge(canvas.width, across.to, across.of));
    let (y, bottom) = (edge(canvas.height, down.from, down.of), edge(canvas.height, down.to, down.of));
    Rect { x, y, width: right - x, height: bottom - y }
}

/// The even pixel nearest to `part / of` of a side, the higher one if two are.
fn edge(side: u32, part: u32, of: u32) -> u32 {
    let (half, part, of) = (u64::from(side / 2), u64::from(part), u64::from(of));
    let pairs = (2 * half * part + of) / (2 * of);
    u32::try_from(2 * pairs).expect("a part is not longer than its side")
}

/// What of a pane is on the canvas, its edges moved to even pixels; at least two pixels of one that shows any.
fn on_canvas(pane: Rect, canvas: Size) -> Option<Rect> {
    let (x, width) = side_on_canvas(pane.x, pane.width, canvas.width & !1)?;
    let (y, height) = side_on_canvas(pane.y, pane.height, canvas.height & !1)?;
    Some(Rect { x, y, width, height })
}

fn side_on_canvas(from: u32, length: u32, side: u32) -> Option<(u32, u32)> {
    if length == 0 || from >= side {
        return None;
    }
    let even = |at: u32| (at + 1) & !1;
    let to = even(from.saturating_add(length).min(side));
    // One pixel at an odd place has both edges at its end: it gets the pair that it is in.
    let from = even(from).min(to - 2);
    Some((from, to - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HD: Size = Size { width: 1280, height: 720 };

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a test's user id")
    }

    /// `u0`, `u1` … with the tracks 0, 1 …
    fn people(n: u64) -> Vec<Person> {
        let person = |i| Person { user: user(&format!("u{i}")), media: MediaId::Main, video: Some(TrackId(i)) };
        (0..n).map(person).collect()
    }

    fn shown(mode: LayoutMode, canvas: Size, people: &[Person]) -> Vec<Tile> {
        scene(&Layout { mode, ..Layout::default() }, canvas, people, Vec::new()).tiles
    }

    /// `u0 0,0 1280x720`
    fn texts(tiles: &[Tile]) -> Vec<String> {
        let text = |tile: &Tile| {
            let Rect { x, y, width, height } = tile.rect;
            format!("{} {x},{y} {width}x{height}", tile.user.as_ref().map_or("-", UserId::as_str))
        };
        tiles.iter().map(text).collect()
    }

    fn named(name: &str) -> Option<Named> {
        Some(Named { user: user(name), media: MediaId::Main })
    }

    fn pane(rect: (u32, u32, u32, u32), user: Option<&str>) -> Pane {
        let (x, y, width, height) = rect;
        Pane {
            rect: Rect { x, y, width, height },
            user: user.map(self::user),
            media: MediaId::Main,
            alpha: 0,
            fit: Fit::Crop,
            layer: 0,
            image: None,
        }
    }

    #[test]
    fn a_grid_grows_with_those_who_are_shown() {
        let grid = |n| texts(&shown(LayoutMode::Grid, HD, &people(n)));
        assert!(grid(0).is_empty());
        assert_eq!(grid(1), ["u0 0,0 1280x720"]);
        assert_eq!(grid(2), ["u0 0,0 640x720", "u1 640,0 640x720"]);
        assert_eq!(grid(3), ["u0 0,0 640x360", "u1 640,0 640x360", "u2 0,360 640x360"]);
        // A third of 1280 is 426 2/3: two thirds end at 854.
        assert_eq!(grid(5)[..4], ["u0 0,0 426x240", "u1 426,0 428x240", "u2 854,0 426x240", "u3 0,240 426x240"]);
        assert_eq!(grid(10)[9], "u9 320,360 320x180");
        assert_eq!(grid(17)[16], "u16 256,432 256x144");
        assert_eq!(grid(30).len(), 25);
        assert_eq!(grid(30)[24], "u24 1024,576 256x144");
        // Half of 1918 is 959, and half of 1078 is 539.
        let odd = Size { width: 1918, height: 1078 };
        assert_eq!(
            texts(&shown(LayoutMode::Grid, odd, &people(4))),
            ["u0 0,0 960x540", "u1 960,0 958x540", "u2 0,540 960x538", "u3 960,540 958x538"]
        );
    }

    #[test]
    fn small_ones_float_from_the_lower_left_corner() {
        let floating = |large, n| texts(&shown(LayoutMode::Floating { large }, HD, &people(n)));
        assert_eq!(floating(None, 1), ["u0 0,0 1280x720"]);
        // 0.012 of 1280 is 15.36, 0.247 is 316.16; 0.753 and 0.988 of 720 are 542.16 and 711.36.
        assert_eq!(floating(None, 2), ["u0 0,0 1280x720", "u1 16,542 300x170"]);
        assert_eq!(floating(None, 6)[4..], ["u4 964,542 300x170", "u5 16,364 300x170"]);
        assert_eq!(floating(None, 17)[16], "u16 964,8 300x170");
        // From 18 on 0.188 and 0.01, five to a row.
        assert_eq!(floating(None, 18)[1], "u1 12,578 242x134");
        assert_eq!(floating(None, 18)[6], "u6 12,434 242x136");
        assert_eq!(floating(None, 30).len(), 25);
        assert_eq!(floating(named("u2"), 3), ["u2 0,0 1280x720", "u0 16,542 300x170", "u1 332,542 300x170"]);
        assert_eq!(floating(named("nobody"), 1), ["u0 0,0 1280x720"], "the first to enter stands in");
        let late = floating(named("u29"), 30);
        assert_eq!((late.len(), late[0].as_str()), (25, "u29 0,0 1280x720"), "the named one is shown, however late");
    }

    #[test]
    fn a_shared_screen_is_large_and_the_others_stand_beside_it() {
        let share = |large: &str, large_on_the_right, n| {
            texts(&shown(LayoutMode::ScreenShare { large: named(large), large_on_the_right }, HD, &people(n)))
        };
        assert_eq!(share("u0", false, 1), ["u0 0,0 1024x720"]);
        assert_eq!(
            share("u1", false, 5),
            [
                "u1 0,0 1024x720",
                "u0 1024,0 256x180",
                "u2 1024,180 256x180",
                "u3 1024,360 256x180",
                "u4 1024,540 256x180"
            ]
        );
        // 6/7 of 1280 is 1097.14; 8/9 of it is 1137.78.
        assert_eq!(share("u0", false, 7)[..2], ["u0 0,0 1098x720", "u1 1098,0 182x120"]);
        assert_eq!(share("u0", false, 9)[8], "u8 1138,630 142x90");
        let ten = share("u0", false, 10);
        assert_eq!([&ten[0], &ten[1], &ten[9]], ["u0 0,0 1024x720", "u1 1024,0 128x90", "u9 1152,0 128x90"]);
        let many = share("u0", false, 25);
        assert_eq!([&many[0], &many[16]], ["u0 0,0 1024x630", "u16 1152,630 128x90"]);
        assert_eq!([&many[17], &many[24]], ["u17 0,630 128x90", "u24 896,630 128x90"]);
        let mirrored = share("u0", true, 18);
        assert_eq!([&mirrored[0], &mirrored[1]], ["u0 256,0 1024x630", "u1 0,0 128x90"]);
        assert_eq!([&mirrored[9], &mirrored[17]], ["u9 128,0 128x90", "u17 256,630 128x90"]);
        // The large place stays background, and counts: four small ones fill the column.
        let nobody = shown(LayoutMode::ScreenShare { large: None, large_on_the_right: false }, HD, &people(4));
        assert_eq!(texts(&nobody)[..1], ["u0 1024,0 256x180"]);
        assert_eq!(texts(&nobody)[3], "u3 1024,540 256x180");
        assert_eq!(share("nobody", false, 30).len(), 24);
        assert_eq!(share("u29", false, 30).len(), 25);
    }

    #[test]
    fn the_named_stream_is_meant_and_not_the_users_other_one() {
        let mut people = people(2);
        people.push(Person { user: user("u0"), media: MediaId::Aux, video: Some(TrackId(9)) });
        let large = Some(Named { user: user("u0"), media: MediaId::Aux });
        let tiles = shown(LayoutMode::ScreenShare { large, large_on_the_right: false }, HD, &people);
        assert_eq!(tiles.iter().map(|tile| tile.track.unwrap().0).collect::<Vec<_>>(), [9, 0, 1]);
        assert_eq!((tiles[0].media, tiles[1].media), (MediaId::Aux, MediaId::Main));
    }

    #[test]
    fn who_sends_sound_alone_takes_a_place_unless_it_is_said() {
        let mut people = people(3);
        people[0].video = None;
        let mut layout = Layout { placeholder: Some("http://a/p.png".into()), fit: Fit::Smart, ..Layout::default() };
        let all = scene(&layout, HD, &people, vec![TrackId(7)]);
        assert_eq!(all.sounds, [TrackId(7)]);
        assert_eq!(all.tiles.len(), 3);
        assert_eq!((all.tiles[0].track, all.tiles[0].image.as_deref()), (None, Some("http://a/p.png")));
        assert_eq!((all.tiles[1].image.as_deref(), all.tiles[1].fit), (None, Fit::Smart));
        layout.sound_takes_no_place = true;
        assert_eq!(texts(&scene(&layout, HD, &people, Vec::new()).tiles), ["u1 0,0 640x720", "u2 640,0 640x720"]);
        layout.mode = LayoutMode::Floating { large: named("u0") };
        assert_eq!(scene(&layout, HD, &people, Vec::new()).tiles[0].user, Some(user("u1")));
    }

    #[test]
    fn panes_are_for_those_they_name_and_then_for_those_who_entered() {
        let panes = vec![
            pane((0, 0, 100, 100), None),
            pane((100, 0, 100, 100), Some("u0")),
            pane((200, 0, 100, 100), Some("absent")),
            pane((300, 0, 100, 100), None),
            pane((400, 0, 100, 100), None),
        ];
        let mut layout = Layout { mode: LayoutMode::Custom(panes), ..Layout::default() };
        let of = |layout: &Layout| scene(layout, HD, &people(3), Vec::new()).tiles;
        assert_eq!(texts(&of(&layout)), ["u1 0,0 100x100", "u0 100,0 100x100", "u2 300,0 100x100"]);
        layout.hold_places = true;
        assert_eq!(of(&layout).len(), 3, "there is no image to hold them with");
        layout.placeholder = Some("http://a/p.png".into());
        let held = of(&layout);
        assert_eq!(texts(&held)[2..], ["absent 200,0 100x100", "u2 300,0 100x100", "- 400,0 100x100"]);
        assert_eq!((held[2].track, held[2].image.as_deref()), (None, Some("http://a/p.png")));
        assert_eq!(held[0].image, None);
    }

    #[test]
    fn a_panes_own_image_goes_before_the_common_one() {
        let own = |fit| Pane { image: Some("own".into()), fit, ..pane((0, 0, 64, 64), None) };
        let with = |fit, video| {
            let mode = LayoutMode::Custom(vec![own(fit)]);
            let layout = Layout { mode, placeholder: Some("common".into()), ..Layout::default() };
            let person = Person { video, ..people(1).remove(0) };
            scene(&layout, HD, &[person], Vec::new()).tiles.remove(0).image
        };
        assert_eq!(with(Fit::Crop, None).as_deref(), Some("own"));
        assert_eq!(with(Fit::Crop, Some(TrackId(1))), None);
        assert_eq!(with(Fit::Letterbox, Some(TrackId(1))).as_deref(), Some("own"), "it is seen beside the picture");
    }

    #[test]
    fn panes_are_cut_at_the_canvas_and_moved_to_even_edges() {
        let small = Size { width: 64, height: 64 };
        let at = |rect| texts(&shown(LayoutMode::Custom(vec![pane(rect, None)]), small, &people(1))).pop();
        assert_eq!(at((60, 0, 1920, 1920)).as_deref(), Some("u0 60,0 4x64"));
        assert_eq!(at((1, 1, 9, 9)).as_deref(), Some("u0 2,2 8x8"));
        assert_eq!(at((63, 63, 1, 1)).as_deref(), Some("u0 62,62 2x2"));
        assert_eq!(at((3, 4, 1, 1)).as_deref(), Some("u0 2,4 2x2"));
        for nothing in [(64, 0, 10, 10), (0, 64, 10, 10), (0, 0, 0, 10), (0, 0, 10, 0)] {
            assert_eq!(at(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn layers_are_painted_from_the_back() {
        let layer = |layer, name| Pane { layer, ..pane((0, 0, 10, 10), Some(name)) };
        let panes = vec![layer(1, "u0"), layer(0, "u1"), layer(-5, "u2"), layer(0, "u3")];
        let tiles = shown(LayoutMode::Custom(panes), HD, &people(4));
        let order: Vec<u64> = tiles.iter().map(|tile| tile.track.unwrap().0).collect();
        assert_eq!(order, [2, 1, 3, 0]);
    }

    #[test]
    fn what_one_opaque_picture_covers_is_hidden() {
        let back = || pane((10, 10, 100, 100), Some("u0"));
        let front = || pane((0, 0, 200, 200), Some("u1"));
        let hidden = |front: Pane, video: Option<TrackId>| {
            let mut people = people(2);
            people[1].video = video;
            let tiles = shown(LayoutMode::Custom(vec![back(), front]), HD, &people);
            (tiles[0].hidden, tiles[1].hidden)
        };
        assert_eq!(hidden(front(), Some(TrackId(1))), (true, false));
        assert_eq!(hidden(Pane { fit: Fit::Stretch, ..front() }, Some(TrackId(1))), (true, false));
        for fit in [Fit::Letterbox, Fit::Smart] {
            assert_eq!(hidden(Pane { fit, ..front() }, Some(TrackId(1))), (false, false), "{fit:?}");
        }
        assert_eq!(hidden(Pane { alpha: 1, ..front() }, Some(TrackId(1))), (false, false));
        assert_eq!(hidden(Pane { alpha: 255, ..front() }, Some(TrackId(1))), (false, true));
        assert_eq!(hidden(Pane { layer: -1, ..front() }, Some(TrackId(1))), (false, false), "it is behind");
        assert_eq!(hidden(pane((11, 10, 200, 200), Some("u1")), Some(TrackId(1))), (false, false), "a pair stands out");
        assert_eq!(hidden(front(), None), (false, false), "an image may be transparent, or may not come");
    }
    #[test]
    fn what_is_hidden_is_in_sight_until_a_picture_covers_it() {
        let all = people(2);
        let [covered, over] = [&all[0], &all[1]].map(|person| person.video.expect("they send pictures"));
        let panes = |alpha| {
            let back = Pane { alpha, ..pane((10, 10, 100, 100), Some("u0")) };
            let tiles = shown(LayoutMode::Custom(vec![back, pane((0, 0, 200, 200), Some("u1"))]), HD, &all);
            Scene { tiles, ..Scene::default() }
        };
        assert_eq!(panes(0).in_sight(|_| false), [true, true]);
        assert_eq!(panes(0).in_sight(|track| track == covered), [true, true]);
        assert_eq!(panes(0).in_sight(|track| track == over), [false, true]);
        assert_eq!(panes(255).in_sight(|_| false), [false, true], "nothing of it is ever to be seen");
    }
}
