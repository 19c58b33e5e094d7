//! Charts as SVG text: lines over a linear axis from zero, and bars.

use std::fmt::Write;

/// One line of a chart.
pub struct Series {
    pub label: String,
    /// Index into the page's palette.
    pub colour: usize,
    pub dashed: bool,
    /// x and y, ascending in x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 38.0;

/// Lines over x, both axes from zero; `unit` ends the y labels, `x_name` stands under the axis. x labels stand at the points' x.
pub fn lines(series: &[Series], x_name: &str, unit: &str) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let x_max = points().map(|point| point.0).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let step = nice_step(points().map(|point| point.1).fold(0.0, f64::max).max(f64::MIN_POSITIVE) / 4.0);
    let y_max = step * (points().map(|point| point.1).fold(0.0, f64::max) / step).ceil().max(1.0);
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / y_max * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for i in 0..=(y_max / step).round() as usize {
        let value = step * i as f64;
        let at = y(value);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT);
        let label = trim(value, step);
        let _ =
            write!(svg, "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, at + 4.0);
    }
    let mut ticks: Vec<f64> = points().map(|point| point.0).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            x(tick),
            HEIGHT - BOTTOM + 16.0
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{x_name}</text><text class=\"axis\" x=\"4\" y=\"10\">{unit}</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0
    );
    for series in series {
        let path: Vec<String> = series.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let class = format!("c{}{}", series.colour % 6, if series.dashed { " dashed" } else { "" });
        let _ = write!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" "));
        for point in &series.points {
            let (at_x, at_y) = (x(point.0), y(point.1));
            let title = format!("{}: {} {unit} at {}", series.label, trim(point.1, point.1 / 100.0), point.0);
            let _ = write!(
                svg,
                "<circle class=\"dot {class}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3.5\"><title>{title}</title></circle>"
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// A curve without points or labels: a figure's course over the run, 0 to 1.
pub fn sparkline(values: &[f64]) -> String {
    let (width, height) = (900.0, 60.0);
    let last = (values.len().max(2) - 1) as f64;
    let point =
        |(i, value): (usize, &f64)| format!("{:.1},{:.1}", i as f64 / last * width, height - value.clamp(0.0, 1.0) * height);
    let points: Vec<String> = values.iter().enumerate().map(point).collect();
    let grid = |at: f64| format!("<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{at}\" y2=\"{at}\"/>");
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\">{}{}{}\
         <polyline class=\"line c0\" points=\"{}\"/></svg>",
        grid(0.5),
        grid(height / 2.0),
        grid(height - 0.5),
        points.join(" ")
    )
}

/// 1, 2 or 5 times a power of ten, the first not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= least * 0.999).unwrap_or(10.0 * power)
}

/// A number with as many digits as the step needs.
fn trim(value: f64, step: f64) -> String {
    let digits = (-step.max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        for (least, step) in [(0.9, 1.0), (1.1, 2.0), (3.0, 5.0), (7.0, 10.0), (0.03, 0.05)] {
            assert!((nice_step(least) - step).abs() < 1e-9, "{least}");
        }
    }
}
