//! The page about a simulation: per policy its figures, answers, refusals and queues over the whole trace, and a window of it in which each
//! worker has a row and each run is a bar with its decision.
//!
//! What a bar says is shown while a pointer is over it or it has the focus, which a tap gives it: no script is needed.

use super::parts::{cards, escape, facts, head, time};
use schema::Picos;
use std::fmt::Write;

const STYLE: &str = "
h3{font-size:14px;margin:18px 0 6px}.over{height:120px}.stack{height:110px}.axis-row{display:flex;justify-content:space-between;font-size:12px;color:var(--soft)}
.bar-in{fill:var(--soft);opacity:.6}.bar-late{fill:var(--warn)}.bar-refused{fill:var(--bad)}
.sq{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px;vertical-align:-1px}
.sq.in{background:var(--soft);opacity:.6}.sq.late{background:var(--warn)}.sq.refused{background:var(--bad)}
.f0{background:var(--s0)}.f1{background:var(--s1)}.f2{background:var(--s2)}.f3{background:var(--s3)}.f4{background:var(--s4)}.f5{background:var(--s5)}
.scroll{overflow-x:auto}.lanes{min-width:900px}.lane{position:relative;background:var(--paper);border:1px solid var(--line);border-radius:4px;margin:2px 0 8px}
.who{font-size:12.5px;color:var(--soft);position:sticky;left:0;display:inline-block}.lane a{position:absolute;height:20px;min-width:2px;border-radius:2px;opacity:.85;cursor:pointer;
border-right:1px solid var(--card)}.lane a.missed{box-shadow:inset 0 0 0 2px var(--bad)}.lane a.lost{opacity:.35}
.lane a:hover,.lane a:focus{opacity:1;outline:2px solid var(--ink);z-index:2}.why{display:none}
a:hover>.why,a:focus>.why{display:block;position:fixed;left:0;right:0;bottom:0;z-index:9;background:var(--card);color:var(--ink);border-top:2px solid var(--line);
padding:12px 20px;max-height:45vh;overflow:auto;font-size:13px;line-height:1.45}a:hover>.why{z-index:10}.why b{display:block}.why span{display:block}.why .rival{color:var(--soft)}
main{padding-bottom:46vh}";

/// Everything the page shows. Instants and times are nanoseconds, instants counted from the start of the trace.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub title: String,
    pub facts: Vec<(String, String)>,
    pub models: Vec<String>,
    /// When the last request arrives.
    pub span_ns: u64,
    /// What the window with the runs shows.
    pub window_ns: (u64, u64),
    /// Whether runs of later than the window are left out.
    pub cut: bool,
    pub policies: Vec<Served>,
}

/// What one policy made of the trace.
#[derive(Clone, Debug, Default)]
pub struct Served {
    pub policy: String,
    /// A figure and what it counts.
    pub figures: Vec<(String, String)>,
    /// Equal parts of the span.
    pub parts: Vec<Part>,
    pub workers: Vec<Worker>,
}

/// A part of the span.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub in_time: u64,
    pub late: u64,
    pub refused: u64,
    /// The most requests of each model that waited at once.
    pub waiting: Vec<u64>,
}

/// A row of the window.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    pub name: String,
    /// By their start.
    pub runs: Vec<Run>,
}

/// A bar.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub model: usize,
    pub start_ns: u64,
    /// `None` when its worker died.
    pub end_ns: Option<u64>,
    /// Requests answered late.
    pub late: usize,
    pub title: String,
    /// The decision, and why its rivals lost.
    pub lines: Vec<String>,
    pub rivals: Vec<String>,
}

/// The page as one HTML document.
pub fn html(page: &Timeline) -> String {
    let mut out = String::with_capacity(256 * 1024);
    head(&mut out, &page.title, "simulated", "what ran where and why, simulated by tunewright", STYLE);
    legend(&mut out, page);
    for served in &page.policies {
        let _ = write!(out, "<h2>{}</h2>", escape(&served.policy));
        let figures: Vec<_> = served.figures.iter().map(|(figure, what)| (escape(figure), "", escape(what))).collect();
        cards(&mut out, &figures);
        whole(&mut out, page, served);
        window(&mut out, page, served);
    }
    facts(&mut out, "About this simulation", &page.facts);
    out.push_str("</main></body></html>\n");
    out
}

fn legend(out: &mut String, page: &Timeline) {
    out.push_str("<p class=\"legend\">");
    for (at, model) in page.models.iter().enumerate() {
        let _ = write!(out, "<span><i class=\"sq f{}\"></i>{}</span>", at % 6, escape(model));
    }
    for (class, what) in [("in", "answered in time"), ("late", "answered late"), ("refused", "refused")] {
        let _ = write!(out, "<span><i class=\"sq {class}\"></i>{what}</span>");
    }
    out.push_str("</p>");
}

/// Answers and refusals, stacked, and the queues, over the whole trace.
fn whole(out: &mut String, page: &Timeline, served: &Served) {
    const HEIGHT: f64 = 100.0;
    let count = served.parts.len().max(1) as f64;
    let all = |part: &Part| part.in_time + part.late + part.refused;
    let most = served.parts.iter().map(all).max().unwrap_or(0).max(1);
    out.push_str("<div class=\"card\"><h3>Requests answered and refused</h3>");
    let _ = write!(out, "<svg class=\"stack\" viewBox=\"0 0 {count} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\">");
    for (at, part) in served.parts.iter().enumerate() {
        let mut below = 0.0;
        for (class, number) in [("in", part.in_time), ("late", part.late), ("refused", part.refused)] {
            let height = number as f64 / most as f64 * HEIGHT;
            if number > 0 {
                let top = HEIGHT - below - height;
                let _ = write!(out, "<rect class=\"bar-{class}\" x=\"{at}\" y=\"{top:.2}\" width=\"1\" height=\"{height:.2}\"/>");
            }
            below += height;
        }
    }
    out.push_str("</svg>");
    ends(out, (0, page.span_ns));
    let longest = served.parts.iter().flat_map(|part| &part.waiting).copied().max().unwrap_or(0);
    let _ = write!(out, "<h3>Requests waiting, at most {longest} of a model</h3>");
    let _ = write!(out, "<svg class=\"spark\" viewBox=\"0 0 {count} 60\" preserveAspectRatio=\"none\" role=\"img\">");
    for model in 0..page.models.len() {
        let height = |part: &Part| 59.0 - part.waiting.get(model).copied().unwrap_or(0) as f64 / longest.max(1) as f64 * 58.0;
        let points = served.parts.iter().enumerate().map(|(at, part)| format!("{:.1},{:.1}", at as f64 + 0.5, height(part)));
        let points: Vec<String> = points.collect();
        let _ = write!(out, "<polyline class=\"line c{}\" points=\"{}\"/>", model % 6, points.join(" "));
    }
    out.push_str("</svg>");
    ends(out, (0, page.span_ns));
    out.push_str("</div>");
}

fn window(out: &mut String, page: &Timeline, served: &Served) {
    let (from, to) = page.window_ns;
    let _ = write!(out, "<h3>What ran from {} to {}", nanos(from), nanos(to));
    if page.cut {
        out.push_str(", the part of the trace for which all runs of all policies are kept");
    }
    out.push_str("; point at a run, or tap it, for its decision</h3><div class=\"card scroll\"><div class=\"lanes\">");
    for worker in &served.workers {
        let runs: Vec<&Run> = worker.runs.iter().filter(|run| run.start_ns < to && run.end_ns.unwrap_or(to) > from).collect();
        let places = places(&runs);
        let rows = places.iter().max().map_or(1, |most| most + 1);
        let _ = write!(out, "<span class=\"who\">{}</span>", escape(&worker.name));
        let _ = write!(out, "<div class=\"lane\" style=\"height:{}px\">", 22 * rows + 2);
        for (run, place) in runs.iter().zip(places) {
            bar(out, run, place, page.window_ns);
        }
        out.push_str("</div>");
    }
    ends(out, page.window_ns);
    out.push_str("</div></div>");
}

/// For each run the first of the worker's rows in which it overlaps no other.
fn places(runs: &[&Run]) -> Vec<usize> {
    let mut free: Vec<u64> = Vec::new();
    let place = |run: &&Run| {
        let row = free.iter().position(|&free| free <= run.start_ns).unwrap_or(free.len());
        let end = run.end_ns.unwrap_or(run.start_ns);
        if row == free.len() {
            free.push(end);
        } else {
            free[row] = end;
        }
        row
    };
    runs.iter().map(place).collect()
}

fn bar(out: &mut String, run: &Run, place: usize, (from, to): (u64, u64)) {
    let at = |instant: u64| (instant.clamp(from, to) - from) as f64 / (to - from).max(1) as f64 * 100.0;
    let (left, right) = (at(run.start_ns), at(run.end_ns.unwrap_or(to)));
    let missed = if run.late > 0 { " missed" } else { "" };
    let lost = if run.end_ns.is_none() { " lost" } else { "" };
    let _ = write!(
        out,
        "<a class=\"f{}{missed}{lost}\" tabindex=\"0\" style=\"left:{left:.3}%;width:{:.3}%;top:{}px\"><div class=\"why\"><b>{}</b>",
        run.model % 6,
        right - left,
        1 + 22 * place,
        escape(&run.title)
    );
    for (class, lines) in [("", &run.lines), ("rival", &run.rivals)] {
        for line in lines {
            let _ = write!(out, "<span class=\"{class}\">{}</span>", escape(line));
        }
    }
    out.push_str("</div></a>");
}

fn ends(out: &mut String, (from, to): (u64, u64)) {
    let middle = from + (to - from) / 2;
    let _ = write!(
        out,
        "<div class=\"axis-row\"><span>{}</span><span>{}</span><span>{}</span></div>",
        nanos(from),
        nanos(middle),
        nanos(to)
    );
}

fn nanos(nanos: u64) -> String {
    if nanos == 0 { "0".to_owned() } else { time(Picos(nanos.saturating_mul(1000))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start_ns: u64, end_ns: u64) -> Run {
        Run { start_ns, end_ns: Some(end_ns), title: "<b>".into(), rivals: vec!["cpu 50 %: later".into()], ..Run::default() }
    }

    #[test]
    fn runs_that_overlap_lie_below_each_other() {
        let runs = [run(0, 10), run(5, 12), run(10, 20), run(11, 13), run(12, 14)];
        assert_eq!(places(&runs.iter().collect::<Vec<_>>()), [0, 1, 0, 2, 1]);
    }

    #[test]
    fn bars_stay_in_the_window_and_text_is_escaped() {
        let worker = Worker { name: "cpu, 50 %".into(), runs: vec![run(0, 300), run(900, 5000), run(2000, 2100)] };
        let part = Part { in_time: 3, late: 1, refused: 2, waiting: vec![4] };
        let served = Served { policy: "batcher".into(), parts: vec![part], workers: vec![worker], ..Served::default() };
        let page = Timeline {
            title: "<script>".into(),
            models: vec!["m&n".into()],
            span_ns: 5000,
            window_ns: (100, 1100),
            cut: true,
            policies: vec![served],
            ..Timeline::default()
        };
        let html = html(&page);
        assert!(html.contains("left:0.000%;width:20.000%") && html.contains("left:80.000%;width:20.000%"), "{html}");
        assert_eq!(html.matches("class=\"why\"").count(), 2, "the third run begins behind the window");
        assert!(!html.contains("<script") && html.contains("m&amp;n") && html.contains("&lt;b&gt;"));
        assert!(html.contains("at most 4 of a model") && html.contains("default-src 'none'") && html.contains("are kept"));
    }

    #[test]
    fn nothing_simulated_makes_a_page_too() {
        assert!(html(&Timeline::default()).ends_with("</main></body></html>\n"));
    }
}
