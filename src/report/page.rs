//! The page: head, styles and sections.

use super::charts::{Series, lines, sparkline};
use super::parts::{cards as hero_cards, escape, facts, head, time};
use super::{Latency, Page, TaskGain};
use schema::{FailureClass, NoiseGrade, Picos, Share};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Tasks listed one by one; the rest is summed in a line.
const TASKS_MAX: usize = 60;
/// Points of the curve of the machine's speed.
const CURVE_POINTS: usize = 450;
/// Refused candidates listed one by one.
const REFUSED_MAX: usize = 40;

/// The page as one HTML document.
pub fn html(page: &Page) -> String {
    let mut out = String::with_capacity(64 * 1024);
    head(&mut out, &page.title, "tuned", "tuned by tunewright", "");
    hero(&mut out, page);
    latency_table(&mut out, &page.latencies);
    latency_charts(&mut out, &page.latencies);
    task_table(&mut out, &page.tasks);
    steadiness(&mut out, page);
    refused(&mut out, page);
    facts(&mut out, "About this run", &page.facts);
    out.push_str("</main></body></html>\n");
    out
}

/// The gain in one number, and what it rests on.
fn hero(out: &mut String, page: &Page) {
    let gains: Vec<f64> = page.latencies.iter().map(faster).collect();
    let mean = (gains.iter().map(|gain| gain.ln()).sum::<f64>() / gains.len().max(1) as f64).exp();
    let best = gains.iter().copied().fold(1.0, f64::max);
    let kept = page.tasks.iter().filter(|task| task.kept_default).count();
    let trials: u32 = page.tasks.iter().map(|task| task.trials).sum();
    let sign = |yes: bool, class: &'static str| if yes { class } else { "" };
    let cards = [
        (format!("{mean:.2}×"), sign(mean > 1.005, "good"), "faster than the default, geometric mean".to_owned()),
        (format!("{best:.2}×"), "", format!("at best, over {} measured placements", gains.len())),
        (trials.to_string(), "", format!("configs tried for {} tasks; {kept} kept the default", page.tasks.len())),
        (page.refused.len().to_string(), sign(!page.refused.is_empty(), "warn"), "candidates refused".to_owned()),
    ];
    hero_cards(out, &cards);
}

fn latency_table(out: &mut String, rows: &[Latency]) {
    if rows.is_empty() {
        return;
    }
    out.push_str("<h2>Latency</h2><div class=\"wide card\"><table><tr class=\"head\"><th>model</th><th>device</th>");
    for name in ["share", "batch", "default", "tuned", "p99", "faster", "95 % interval", "noise"] {
        let _ = write!(out, "<th class=\"n\">{name}</th>");
    }
    out.push_str("<th>default and tuned</th></tr>");
    let most = |model: &str| rows.iter().filter(|row| row.model == model).map(|row| row.default.max(row.tuned)).max();
    for row in rows {
        let faster = faster(row);
        let class = if faster > 1.005 { "good" } else { "soft" };
        let interval = |r: schema::Ratio| format!("{:.2} … {:.2}", r.lo_ppm as f64 * 1e-6, r.hi_ppm as f64 * 1e-6);
        out.push_str("<tr>");
        cell(out, "model", "", &escape(&row.model));
        cell(out, "device", "", &escape(&row.device));
        cell(out, "share", "n", &format!("{} %", row.share));
        cell(out, "batch", "n", &row.batch.to_string());
        cell(out, "default", "n", &time(row.default));
        cell(out, "tuned", "n", &format!("<b>{}</b>", time(row.tuned)));
        cell(out, "p99", "n", &time(row.p99));
        cell(out, "faster", "n", &format!("<span class=\"{class}\">{faster:.2}×</span>"));
        cell(out, "95 % interval", "n", &row.ratio.map_or_else(|| "kept the default".to_owned(), interval));
        cell(out, "noise", "n", grade(row.grade));
        let of = most(&row.model).unwrap_or(row.default).0.max(1) as f64;
        let bar = |class: &str, time: Picos| {
            format!("<div class=\"bar plain\"><i class=\"{class}\" style=\"width:{:.1}%\"></i></div>", 100.0 * time.0 as f64 / of)
        };
        cell(out, "", "bars", &(bar("was", row.default) + &bar("", row.tuned)));
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
}

/// How much faster the tuned plan is: by the paired ratio, as in the result block, and 1 where the default was kept.
fn faster(row: &Latency) -> f64 {
    row.ratio.map_or(1.0, |ratio| ratio.ppm as f64 * 1e-6)
}

/// A cell; its label is shown where the screen is too narrow for a table.
fn cell(out: &mut String, label: &str, class: &str, html: &str) {
    let _ = write!(out, "<td data-l=\"{label}\" class=\"{class}\">{html}</td>");
}

/// For each model: latency against batch, a line per share, and against share, a line per batch. Default dashed, tuned solid.
fn latency_charts(out: &mut String, rows: &[Latency]) {
    let models: BTreeSet<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    for model in models {
        let rows: Vec<&Latency> = rows.iter().filter(|row| row.model == model).collect();
        let _ = write!(out, "<h2>{}: latency against batch and share</h2><div class=\"charts\">", escape(model));
        chart(out, &rows, "against batch", "batch", &|row| f64::from(row.batch.rows()), &|row| {
            (share_number(row), format!("share {} %", row.share))
        });
        chart(out, &rows, "against share", "share, %", &|row| row.share.as_percent(), &|row| {
            (u64::from(row.batch.rows()), format!("batch {}", row.batch))
        });
        out.push_str("</div>");
    }
}

fn share_number(row: &Latency) -> u64 {
    u64::from(row.share.as_per_mille())
}

fn chart(
    out: &mut String,
    rows: &[&Latency],
    title: &str,
    x_name: &str,
    x: &dyn Fn(&Latency) -> f64,
    group: &dyn Fn(&Latency) -> (u64, String),
) {
    let mut groups: BTreeMap<(u64, String), Vec<&Latency>> = BTreeMap::new();
    for row in rows {
        groups.entry(group(row)).or_default().push(row);
    }
    let mut series = Vec::new();
    let mut legend = String::new();
    for (colour, ((_, label), mut rows)) in groups.into_iter().enumerate() {
        rows.sort_by(|a, b| x(a).total_cmp(&x(b)));
        for (dashed, which) in [(true, "default"), (false, "tuned")] {
            let millis = |row: &&Latency| if dashed { row.default } else { row.tuned }.as_millis_f64();
            let points = rows.iter().map(|row| (x(row), millis(row))).collect();
            let dash = if dashed { " dashed" } else { "" };
            let _ = write!(legend, "<span><span class=\"key k{}{dash}\"></span>{label}, {which}</span>", colour % 6);
            series.push(Series { label: format!("{label}, {which}"), colour, dashed, points });
        }
    }
    let _ = write!(
        out,
        "<div class=\"card\"><h3>{title}</h3>{}<div class=\"legend\">{legend}</div></div>",
        lines(&series, x_name, "ms")
    );
}

/// Tasks by the time they take in the tuned model, greatest first.
fn task_table(out: &mut String, tasks: &[TaskGain]) {
    if tasks.is_empty() {
        return;
    }
    let weight = |task: &TaskGain| task.tuned.0.saturating_mul(u64::from(task.count));
    let mut sorted: Vec<&TaskGain> = tasks.iter().collect();
    sorted.sort_by_key(|task| (std::cmp::Reverse(weight(task)), &task.task, task.share));
    let mut totals: BTreeMap<Share, u64> = BTreeMap::new();
    for task in tasks {
        let total = totals.entry(task.share).or_default();
        *total = total.saturating_add(weight(task));
    }
    out.push_str(
        "<h2>Tasks</h2><div class=\"wide card\"><table><tr class=\"head\"><th>task and config</th><th class=\"n\">share</th><th class=\"n\">times</th>\
         <th class=\"n\">default</th><th class=\"n\">tuned</th><th class=\"n\">faster</th><th class=\"n\">tried</th><th>of the time</th></tr>",
    );
    for task in sorted.iter().take(TASKS_MAX) {
        let part = 100.0 * weight(task) as f64 / totals[&task.share].max(1) as f64;
        let faster = gain(task.default, task.tuned);
        let gained = if task.kept_default {
            "<span class=\"soft\">default</span>".to_owned()
        } else {
            format!("<span class=\"good\">{faster:.2}×</span>")
        };
        out.push_str("<tr>");
        let name = format!("<code>{}</code><br><code class=\"soft\">{}</code>", escape(&task.task), escape(&task.config));
        cell(out, "", "full", &name);
        cell(out, "share", "n", &format!("{} %", task.share));
        cell(out, "times", "n", &task.count.to_string());
        cell(out, "default", "n", &time(task.default));
        cell(out, "tuned", "n", &time(task.tuned));
        cell(out, "faster", "n", &gained);
        cell(out, "tried", "n", &task.trials.to_string());
        let bar = format!("<div class=\"bar\"><i style=\"width:{part:.1}%\"></i></div><span class=\"soft\">{part:.1} %</span>");
        cell(out, "of the time", "bars", &bar);
        out.push_str("</tr>");
    }
    out.push_str("</table>");
    if sorted.len() > TASKS_MAX {
        let _ = write!(out, "<p class=\"soft\">and {} more, each smaller</p>", sorted.len() - TASKS_MAX);
    }
    out.push_str("</div>");
}

fn steadiness(out: &mut String, page: &Page) {
    let Some(best) = page.sentinels.iter().min().filter(|_| page.sentinels.len() > 1) else { return };
    let speeds: Vec<f64> = page.sentinels.iter().map(|time| best.0 as f64 / time.0.max(1) as f64).collect();
    let mut sorted = speeds.clone();
    sorted.sort_by(f64::total_cmp);
    let low = 100.0 * sorted[sorted.len() / 20];
    let middle = 100.0 * sorted[sorted.len() / 2];
    let _ = write!(
        out,
        "<h2>How steady the machine was</h2><div class=\"card\"><p class=\"soft\">Work that never changes ran in each of {} rounds. As a part of the \
         best speed seen it made {middle:.0} % in the median, and over {low:.0} % in 95 of 100 rounds; rounds far below their best were thrown away.</p>{}\
         <div class=\"ends soft\"><span>start</span><span>end</span></div></div>",
        speeds.len(),
        sparkline(&thinned(&speeds))
    );
}

/// At most as many points as a curve can show: of each stretch the slowest round, which is what a reader looks for.
fn thinned(speeds: &[f64]) -> Vec<f64> {
    let stretch = speeds.len().div_ceil(CURVE_POINTS).max(1);
    speeds.chunks(stretch).map(|chunk| chunk.iter().copied().fold(f64::INFINITY, f64::min)).collect()
}

fn refused(out: &mut String, page: &Page) {
    out.push_str("<h2>Refused</h2>");
    if page.refused.is_empty() {
        out.push_str("<p class=\"lead\">Nothing: every candidate gave the right result in time.</p>");
        return;
    }
    out.push_str("<div class=\"wide card\"><table><tr class=\"head\"><th>why</th><th class=\"n\">share</th><th>task and config</th><th>detail</th></tr>");
    for candidate in page.refused.iter().take(REFUSED_MAX) {
        out.push_str("<tr>");
        cell(out, "why", "", &format!("<span class=\"bad\">{}</span>", class_name(candidate.class)));
        cell(out, "share", "n", &format!("{} %", candidate.share));
        let name =
            format!("<code>{}</code><br><code class=\"soft\">{}</code>", escape(&candidate.task), escape(&candidate.config));
        cell(out, "", "full", &name);
        cell(out, "", "full", &escape(&candidate.detail));
        out.push_str("</tr>");
    }
    out.push_str("</table>");
    if page.refused.len() > REFUSED_MAX {
        let _ = write!(out, "<p class=\"soft\">and {} more</p>", page.refused.len() - REFUSED_MAX);
    }
    out.push_str("</div>");
}

fn gain(default: Picos, tuned: Picos) -> f64 {
    default.0.max(1) as f64 / tuned.0.max(1) as f64
}

fn grade(grade: NoiseGrade) -> &'static str {
    match grade {
        NoiseGrade::A => "<span class=\"good\">A</span>",
        NoiseGrade::B => "B",
        NoiseGrade::C => "<span class=\"warn\">C</span>",
        NoiseGrade::D => "<span class=\"bad\">D</span>",
    }
}

/// The class in words.
fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::WrongResult => "wrong result",
        FailureClass::Timeout => "time-out",
        FailureClass::Crash => "crash",
        FailureClass::OutOfMemory => "out of memory",
        FailureClass::Compile => "does not compile",
        FailureClass::DeviceLost => "device lost",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Refused;
    use super::*;
    use schema::Batch;

    fn page() -> Page {
        let latency = |share: f64, batch, default, tuned| Latency {
            model: "net<1>".into(),
            device: "cpu".into(),
            share: Share::percent(share).unwrap(),
            batch: Batch::new(batch).unwrap(),
            default: Picos(default),
            tuned: Picos(tuned),
            p99: Picos(tuned + 1_000_000),
            ratio: None,
            grade: NoiseGrade::A,
        };
        Page {
            title: "<script>alert(1)</script>".into(),
            latencies: vec![latency(50.0, 1, 4_000_000_000, 2_000_000_000), latency(100.0, 4, 9_000_000_000, 4_000_000_000)],
            ..Page::default()
        }
    }

    #[test]
    fn text_from_files_is_escaped_and_scripts_are_forbidden() {
        let html = html(&page());
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;") && html.contains("net&lt;1&gt;"));
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn what_was_refused_and_how_steady_the_machine_was_is_shown() {
        let refused = Refused {
            task: "gemm k=1".into(),
            config: "gemm.host_packed@1".into(),
            share: Share::WHOLE,
            class: FailureClass::WrongResult,
            detail: "differs by 3.1e-2".into(),
        };
        // Slow twice in a thousand rounds: thinning must not hide it.
        let mut sentinels = vec![Picos(1_000_000); 1000];
        (sentinels[400], sentinels[700]) = (Picos(2_000_000), Picos(4_000_000));
        let html = html(&Page { refused: vec![refused], sentinels, ..page() });
        assert!(html.contains("wrong result") && html.contains("differs by 3.1e-2") && html.contains("kept the default"));
        assert!(html.contains("1000 rounds") && html.contains(",30.0 ") && html.contains(",45.0 "), "{html}");
    }

    #[test]
    fn an_empty_run_makes_a_page_too() {
        assert!(html(&Page::default()).ends_with("</main></body></html>\n"));
    }
}
