//! Lines over time as inline SVG: what a report needs, and no more.

use std::fmt::Write;

/// One diagram.
pub struct Plot<'a> {
    pub title: &'a str,
    pub unit: Unit,
    pub lines: Vec<Curve<'a>>,
    /// Named stretches of time, from when until when, in seconds.
    pub phases: Vec<(&'a str, f64, f64)>,
    /// From 1 upwards in powers of ten.
    pub logarithmic: bool,
}

/// One of its lines; a gap where nothing was measured. A value's place is its second.
pub struct Curve<'a> {
    pub name: &'a str,
    pub values: Vec<Option<f64>>,
}

/// What the values are.
#[derive(Clone, Copy)]
pub enum Unit {
    Count,
    Bytes,
    Micros,
    Percent,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Count if value >= 1e6 => format!("{:.1} M", value / 1e6),
            Self::Count if value >= 1e4 => format!("{:.0} k", value / 1e3),
            Self::Count if value >= 1e3 => format!("{:.1} k", value / 1e3),
            Self::Count if value.fract() == 0.0 => format!("{value:.0}"),
            Self::Count => format!("{value:.1}"),
            Self::Bytes => crate::units::bytes(value),
            Self::Micros if value >= 1e6 => format!("{:.1} s", value / 1e6),
            Self::Micros if value >= 1e3 => format!("{:.1} ms", value / 1e3),
            Self::Micros => format!("{value:.0} µs"),
            Self::Percent => format!("{value:.0} %"),
        }
    }
}

/// Where values lie in the picture.
struct Frame {
    seconds: f64,
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Frame {
    fn new(plot: &Plot) -> Self {
        let values = || {
            plot.lines
                .iter()
                .flat_map(|line| line.values.iter().flatten())
        };
        let most = values().copied().fold(0.0, f64::max);
        let longest = plot.lines.iter().map(|line| line.values.len()).max();
        let (low, high) = if plot.logarithmic {
            let least = values().copied().filter(|value| *value > 0.0);
            let least = least.fold(f64::INFINITY, f64::min).clamp(1.0, 1e12);
            let low = 10_f64.powf(least.log10().floor());
            let high = 10_f64.powf(most.max(low * 10.0).log10().ceil());
            (low, high)
        } else {
            (0.0, round_up(most))
        };
        Self {
            seconds: longest.unwrap_or(0).max(1) as f64,
            low,
            high,
            logarithmic: plot.logarithmic,
        }
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (second / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let height = HEIGHT - TOP - BOTTOM;
        TOP + height * (1.0 - part.clamp(0.0, 1.0))
    }

    /// Values that get a line across.
    fn marks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=4)
                .map(|step| self.high * f64::from(step) / 4.0)
                .collect();
        }
        let decades = (self.high / self.low).log10().round() as i32;
        (0..=decades)
            .map(|power| self.low * 10_f64.powi(power))
            .collect()
    }
}

/// The next number of the kind 1, 2, 4, 5, 8 times a power of ten, which four marks divide well.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let step = steps
        .into_iter()
        .find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// The diagram as one `<figure>`.
pub fn svg(plot: &Plot) -> String {
    let frame = Frame::new(plot);
    let mut out = String::new();
    let title = escape(plot.title);
    put(
        &mut out,
        format_args!(
            "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" aria-label=\"{title}\">\n"
        ),
    );
    draw_phases(&mut out, plot, &frame);
    draw_axes(&mut out, plot, &frame);
    for (index, line) in plot.lines.iter().enumerate() {
        draw_line(&mut out, line, &frame, index, plot.unit);
    }
    out.push_str("</svg></figure>\n");
    out
}

fn draw_phases(out: &mut String, plot: &Plot, frame: &Frame) {
    for (index, (name, from, until)) in plot.phases.iter().enumerate() {
        let (left, right) = (frame.x(*from), frame.x(*until));
        let class = if index % 2 == 0 { "even" } else { "odd" };
        let (width, height) = (right - left, HEIGHT - TOP - BOTTOM);
        let name = escape(name);
        put(
            out,
            format_args!(
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" \
             height=\"{height}\"><title>{name}</title></rect>\n"
            ),
        );
        // A name has some six units for a letter; one that does not fit is in the title alone.
        if width > name.len() as f64 * 6.0 {
            let (x, y) = (left + 3.0, TOP + 11.0);
            put(
                out,
                format_args!("<text x=\"{x:.1}\" y=\"{y}\">{name}</text>\n"),
            );
        }
    }
}

fn draw_axes(out: &mut String, plot: &Plot, frame: &Frame) {
    for mark in frame.marks() {
        let (y, right) = (frame.y(mark), WIDTH - RIGHT);
        let text = plot.unit.show(mark);
        let (below, before) = (y + 4.0, LEFT - 6.0);
        put(
            out,
            format_args!(
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
             <text class=\"end\" x=\"{before}\" y=\"{below:.1}\">{text}</text>\n"
            ),
        );
    }
    for step in 0..=6 {
        let second = frame.seconds * f64::from(step) / 6.0;
        let (x, y) = (frame.x(second), HEIGHT - BOTTOM + 15.0);
        put(
            out,
            format_args!("<text class=\"middle\" x=\"{x:.1}\" y=\"{y}\">{second:.0} s</text>\n"),
        );
    }
}

fn draw_line(out: &mut String, line: &Curve, frame: &Frame, index: usize, unit: Unit) {
    let mut path = String::new();
    let mut up = true;
    for (second, value) in line.values.iter().enumerate() {
        let Some(value) = value else {
            up = true;
            continue;
        };
        let letter = if std::mem::take(&mut up) { 'M' } else { 'L' };
        // A second's value stands in its middle.
        let (x, y) = (frame.x(second as f64 + 0.5), frame.y(*value));
        put(&mut path, format_args!("{letter}{x:.1} {y:.1}"));
    }
    let color = COLORS[index % COLORS.len()];
    let most = line.values.iter().flatten().copied().fold(0.0, f64::max);
    let name = escape(line.name);
    let (x, y) = (LEFT + 150.0 * index as f64, HEIGHT - 6.0);
    let (text, most) = (x + 14.0, unit.show(most));
    let dash = y - 4.0;
    put(
        out,
        format_args!(
            "<path class=\"line\" stroke=\"{color}\" d=\"{path}\"/>\
         <path class=\"line\" stroke=\"{color}\" d=\"M{x} {dash}h10\"/>\
         <text x=\"{text}\" y=\"{y}\">{name} (max {most})</text>\n"
        ),
    );
}

/// For text and attributes of HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

pub fn put(out: &mut String, what: std::fmt::Arguments) {
    out.write_fmt(what).expect("a String takes all");
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 42.0;
/// Told apart by people who see few colours, too (Okabe and Ito).
const COLORS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(values: &[Option<f64>], logarithmic: bool) -> String {
        svg(&Plot {
            title: "a < b",
            unit: Unit::Count,
            lines: vec![Curve {
                name: "n",
                values: values.to_vec(),
            }],
            phases: vec![("ramp", 0.0, 1.0)],
            logarithmic,
        })
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let picture = plot(&[Some(1.0), Some(2.0), None, Some(4.0)], false);
        let line = picture.split("d=\"M").nth(6).unwrap();
        let line = line.split('"').next().unwrap();
        assert_eq!(line.matches('M').count() + 1, 2, "{picture}");
        assert_eq!(line.matches('L').count(), 1);
        assert!(picture.contains("a &lt; b") && !picture.contains("a < b"));
    }

    #[test]
    fn values_lie_within_the_frame() {
        for values in [
            &[][..],
            &[Some(0.0)],
            &[Some(7.0), Some(1e9)],
            &[None, None],
        ] {
            for logarithmic in [false, true] {
                let picture = plot(values, logarithmic);
                assert!(
                    !picture.contains("NaN") && !picture.contains("inf"),
                    "{picture}"
                );
            }
        }
        let frame = Frame {
            seconds: 10.0,
            low: 10.0,
            high: 1000.0,
            logarithmic: true,
        };
        assert!((frame.y(100.0) - f64::midpoint(frame.y(10.0), frame.y(1000.0))).abs() < 1e-9);
        assert_eq!(frame.marks().len(), 3);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in [
            (0.0, 1.0),
            (3.0, 4.0),
            (10.0, 10.0),
            (1001.0, 2000.0),
            (0.07, 0.08),
        ] {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}");
        }
    }
}
