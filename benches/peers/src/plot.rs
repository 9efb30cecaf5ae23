//! Bar charts as SVG, readable at a glance: groups of horizontal bars with names and numbers.
//!
//! One idea: what counts is how the contestants of one group compare, so each group has a scale of
//! its own, on which its longest bar has the whole width. Our bars have a colour, all others are
//! grey.

use std::fmt::Write;

const WIDTH: usize = 760;
const NAMES_WIDTH: usize = 150;
const NUMBERS_WIDTH: usize = 110;
const BAR_HEIGHT: usize = 15;
const GROUP_GAP: usize = 30;
const TITLE_HEIGHT: usize = 50;

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Whose.
    pub name: String,
    /// How long; `None` when it has nothing to show.
    pub length: Option<f64>,
    /// What is written behind it.
    pub text: String,
    /// Whether it is ours.
    pub is_ours: bool,
}

/// Bars that are compared with one another.
#[derive(Clone, Debug)]
pub struct Group {
    /// What is compared.
    pub title: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

/// A chart: a title, what the lengths mean, and groups from the top.
pub fn bars(title: &str, meaning: &str, groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TITLE_HEIGHT + rows * (BAR_HEIGHT + 3) + groups.len() * GROUP_GAP + 10;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, 12, 22, "start", "font-size=\"15\" font-weight=\"bold\"", title);
    text(&mut out, 12, 40, "start", "fill=\"#555555\"", meaning);
    let mut y = TITLE_HEIGHT;
    for group in groups {
        y += GROUP_GAP;
        text(&mut out, 12, y - 8, "start", "font-weight=\"bold\"", &group.title);
        let lengths = group.bars.iter().filter_map(|bar| bar.length);
        let longest = lengths.fold(f64::MIN_POSITIVE, f64::max);
        for bar in &group.bars {
            draw(&mut out, bar, longest, y);
            y += BAR_HEIGHT + 3;
        }
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, bar: &Bar, longest: f64, y: usize) {
    let room = (WIDTH - NAMES_WIDTH - NUMBERS_WIDTH) as f64;
    let width = bar.length.map_or(0.0, |length| (length / longest * room).max(1.0));
    let color = if bar.is_ours { "#1f6fb4" } else { "#b3b3b3" };
    let weight = if bar.is_ours { "font-weight=\"bold\"" } else { "" };
    let baseline = y + BAR_HEIGHT - 4;
    text(out, NAMES_WIDTH - 6, baseline, "end", weight, &bar.name);
    writeln!(
        out,
        "<rect x=\"{NAMES_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" \
         fill=\"{color}\"/>"
    )
    .expect("a string takes everything");
    let behind = NAMES_WIDTH + width as usize + 6;
    text(out, behind, baseline, "start", weight, &bar.text);
}

fn text(out: &mut String, x: usize, y: usize, anchor: &str, attributes: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" {attributes}>{content}</text>"
    )
    .expect("a string takes everything");
}

/// A number as people read it: three digits that count, thousands as k and M.
pub fn short(number: f64) -> String {
    let (number, unit) = match number.abs() {
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let decimals = match number.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, length: Option<f64>, is_ours: bool) -> Bar {
        let text = length.map_or("-".to_owned(), short);
        Bar { name: name.to_owned(), length, text, is_ours }
    }

    #[test]
    fn the_longest_bar_has_the_whole_width() {
        let bars_of = vec![bar("a<b", Some(10.0), true), bar("c", Some(5.0), false)];
        let group = Group { title: "one".to_owned(), bars: bars_of };
        let svg = bars("title", "meaning", &[group]);
        assert!(svg.contains("width=\"500.0\"") && svg.contains("width=\"250.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_bar_without_a_length_is_empty() {
        let group = Group { title: "one".to_owned(), bars: vec![bar("a", None, false)] };
        assert!(bars("title", "meaning", &[group]).contains("width=\"0.0\""));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.5, 12.34, 999.0, 12_345.0, 3.3e6].map(short);
        assert_eq!(texts, ["0.50", "12.3", "999", "12.3k", "3.30M"]);
    }
}
