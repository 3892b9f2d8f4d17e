//! How a picture of one shape fills a rectangle of another (`RenderMode`).
//!
//! Owns: what is cut off and where the rest lands. Must not touch: pixels.
//! Law: pure; the landing place is even and inside the rectangle, the cut is inside the picture and in its middle.
//! Source: API.md §1.9.

use super::mix::{Fit, Rect, Size};

/// The part of a picture that is shown, pixels; fractions are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Cut {
    /// Nothing is cut off.
    pub fn whole(size: Size) -> Cut {
        Cut { x: 0.0, y: 0.0, width: f64::from(size.width), height: f64::from(size.height) }
    }
}

/// `Fit::Smart` cuts off no more of a side than this.
const MOST_CUT: f64 = 0.2;

/// What of a picture of `size` is shown, and where. The sides of `rect` are even.
pub fn place(fit: Fit, size: Size, rect: Rect) -> (Cut, Rect) {
    let (width, height) = (f64::from(size.width.max(1)), f64::from(size.height.max(1)));
    let whole = Cut { x: 0.0, y: 0.0, width, height };
    let wanted = f64::from(rect.width.max(1)) / f64::from(rect.height.max(1));
    let has = width / height;
    // how much of the picture's longer side (as the rectangle sees it) may stay
    let kept = if has > wanted { wanted / has } else { has / wanted };
    let kept = match fit {
        Fit::Stretch => return (whole, rect),
        Fit::Crop => kept,
        Fit::Letterbox => 1.0,
        Fit::Smart => kept.max(1.0 - MOST_CUT),
    };
    let cut = if has > wanted {
        Cut { x: width * (1.0 - kept) / 2.0, width: width * kept, ..whole }
    } else {
        Cut { y: height * (1.0 - kept) / 2.0, height: height * kept, ..whole }
    };
    let shape = cut.width / cut.height;
    let landing = if shape > wanted {
        let height = even(f64::from(rect.width) / shape).min(rect.height);
        Rect { y: rect.y + (((rect.height - height) / 2) & !1), height, ..rect }
    } else {
        let width = even(f64::from(rect.height) * shape).min(rect.width);
        Rect { x: rect.x + (((rect.width - width) / 2) & !1), width, ..rect }
    };
    (cut, landing)
}

/// The nearest even number, 2 at least.
fn even(length: f64) -> u32 {
    ((length / 2.0).round() as u32 * 2).max(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size { width, height }
    }
    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }
    fn cut(x: f64, y: f64, width: f64, height: f64) -> Cut {
        Cut { x, y, width, height }
    }
    /// To a thousandth of a pixel.
    fn placed(fit: Fit, size: Size, rect: Rect) -> (Cut, Rect) {
        let (Cut { x, y, width, height }, landing) = place(fit, size, rect);
        let [x, y, width, height] = [x, y, width, height].map(|n| (n * 1e3).round() / 1e3);
        (cut(x, y, width, height), landing)
    }

    #[test]
    fn each_mode_does_what_it_is_called() {
        let (wide, square) = (size(640, 360), rect(10, 20, 360, 360));
        assert_eq!(placed(Fit::Stretch, wide, square), (cut(0.0, 0.0, 640.0, 360.0), square));
        assert_eq!(placed(Fit::Crop, wide, square), (cut(140.0, 0.0, 360.0, 360.0), square));
        let band = rect(10, 98, 360, 202);
        assert_eq!(placed(Fit::Letterbox, wide, square), (cut(0.0, 0.0, 640.0, 360.0), band));
        // a fifth of the width goes, the rest has bars
        let (cut_off, landing) = placed(Fit::Smart, wide, square);
        assert_eq!(cut_off, cut(64.0, 0.0, 512.0, 360.0));
        assert_eq!(landing, rect(10, 72, 360, 254));
        // a picture that is nearly of the right shape fills it
        let (cut_off, landing) = placed(Fit::Smart, size(640, 480), rect(0, 0, 640, 400));
        assert_eq!((cut_off, landing), (cut(0.0, 40.0, 640.0, 400.0), rect(0, 0, 640, 400)));
        // a tall one in a wide place
        let (_, landing) = place(Fit::Letterbox, size(360, 640), rect(0, 0, 640, 360));
        assert_eq!(landing, rect(218, 0, 202, 360));
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_frame(
            fit in prop::sample::select(vec![Fit::Stretch, Fit::Crop, Fit::Letterbox, Fit::Smart]),
            w in 1_u32..4000, h in 1_u32..4000, x in 0_u32..500, y in 0_u32..500, rw in 1_u32..960, rh in 1_u32..960,
        ) {
            let rect = rect(x * 2, y * 2, rw * 2, rh * 2);
            let (cut, landing) = place(fit, size(w, h), rect);
            prop_assert!(cut.x >= 0.0 && cut.y >= 0.0 && cut.width > 0.0 && cut.height > 0.0);
            prop_assert!(cut.x + cut.width <= f64::from(w) + 1e-6 && cut.y + cut.height <= f64::from(h) + 1e-6);
            prop_assert!([landing.x, landing.y, landing.width, landing.height].iter().all(|n| n % 2 == 0));
            prop_assert!(landing.width >= 2 && landing.height >= 2);
            prop_assert!(landing.x >= rect.x && landing.x + landing.width <= rect.x + rect.width);
            prop_assert!(landing.y >= rect.y && landing.y + landing.height <= rect.y + rect.height);
            if matches!(fit, Fit::Stretch | Fit::Crop) {
                prop_assert_eq!(landing, rect);
            }
            if fit == Fit::Smart {
                prop_assert!(cut.width >= 0.8 * f64::from(w) - 1e-6 && cut.height >= 0.8 * f64::from(h) - 1e-6);
            }
        }
    }
}
