//! The picture of the lights in docs/ is drawn from the table that the box blinks by, and its page names every state.

use std::fmt::Write;
use std::path::Path;

use holdfast::model::lamps::{Light, Row, TABLE};

const ROW: u32 = 30;
const TOP: u32 = 34;
const LEFT: u32 = 370;
/// A second is so wide, and so many are shown.
const SECOND: u32 = 90;
const SECONDS: u32 = 4;

/// One state: a dot that blinks as the light does, its words, and its rhythm along the time.
fn line(svg: &mut String, row: &Row, y: u32) {
    let cycle: u32 = row.rhythm.0.iter().map(|ms| u32::from(*ms)).sum();
    let mut lit = Vec::new();
    let mut at = 0;
    while cycle > 0 && at < SECONDS * 1000 {
        for (i, ms) in row.rhythm.0.iter().enumerate() {
            if i % 2 == 0 && at < SECONDS * 1000 {
                lit.push((at, u32::from(*ms).min(SECONDS * 1000 - at)));
            }
            at += u32::from(*ms);
        }
    }
    let middle = y + ROW / 2;
    let mut blink = String::new();
    if cycle > 0 {
        let mut sum = 0.0;
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for (i, ms) in row.rhythm.0.iter().enumerate() {
            times.push(format!("{:.4}", sum / f64::from(cycle)));
            values.push(if i % 2 == 0 { "1" } else { "0" });
            sum += f64::from(*ms);
        }
        let (times, values) = (times.join(";"), values.join(";"));
        write!(
            blink,
            "<animate attributeName=\"fill-opacity\" calcMode=\"discrete\" dur=\"{cycle}ms\" keyTimes=\"{times}\" \
             values=\"{values}\" repeatCount=\"indefinite\"/>"
        )
        .expect("writing to a String");
    }
    let filled = if cycle > 0 { "1" } else { "0" };
    writeln!(
        svg,
        "<circle cx=\"16\" cy=\"{middle}\" r=\"7\" class=\"lamp\" fill-opacity=\"{filled}\">{blink}</circle>\
         <text x=\"34\" y=\"{}\">{}</text>",
        middle + 4,
        row.says
    )
    .expect("writing to a String");
    writeln!(svg, "<path class=\"base\" d=\"M{LEFT} {}h{}\"/>", middle + 7, SECOND * SECONDS)
        .expect("writing to a String");
    for (from, long) in lit {
        let (x, width) = (LEFT + from * SECOND / 1000, (long * SECOND / 1000).max(1));
        writeln!(svg, "<rect class=\"lit\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"14\"/>", middle - 7)
            .expect("writing to a String");
    }
}

fn picture() -> String {
    let rows = u32::try_from(TABLE.len() + 2 * Light::ALL.len()).expect("a small table");
    let (width, height) = (LEFT + SECOND * SECONDS + 20, TOP + rows * ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <style>.lamp{{fill:#c60;stroke:#555}}.lit{{fill:#c60}}.base{{stroke:#999;fill:none}}.head{{font-weight:bold;\
         font-size:15px}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for second in 0..=SECONDS {
        let x = LEFT + second * SECOND;
        writeln!(svg, "<text x=\"{x}\" y=\"18\" text-anchor=\"middle\">{second} s</text>")
            .expect("writing to a String");
    }
    let mut y = TOP;
    for light in Light::ALL {
        let title = match light {
            Light::Power => "Power and health",
            Light::Recording => "Recording",
            Light::Upload => "Upload",
        };
        writeln!(svg, "<text class=\"head\" x=\"8\" y=\"{}\">{title}</text>", y + 20).expect("writing to a String");
        y += ROW;
        for row in TABLE.iter().filter(|row| row.light == light) {
            line(&mut svg, row, y);
            y += ROW;
        }
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
fn the_picture_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/panel.svg");
    let drawn = picture();
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if kept != drawn {
        std::fs::write(&path, &drawn).expect("docs/ is part of the project");
        panic!("docs/panel.svg was not the picture of the table; it is drawn anew: look at it and commit it");
    }
}

#[test]
fn the_page_names_every_state() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/panel.md");
    let page = std::fs::read_to_string(path).expect("docs/panel.md is part of the project");
    for row in TABLE {
        let rhythm: Vec<String> = row.rhythm.0.iter().map(u16::to_string).collect();
        let rhythm = if rhythm.is_empty() { "dark".to_owned() } else { rhythm.join(" ") };
        let line = format!("| {} | `{}` | {} | {rhythm} |", row.light.name(), row.name, row.says);
        assert!(page.contains(&line), "docs/panel.md lacks the line\n{line}");
    }
}
