//! The page of `--report` from what simulations looked like.

use super::{Line, print::time};
use crate::report::{Part, Run, Served, Timeline, Worker};
use crate::schedule::{Decision, Fleet, Index, Nanos, Rival, Why, WorkerId};
use crate::simulate::{self, Kept};

/// Everything the page shows; `title` names where the requests came from.
pub fn page(title: String, facts: Vec<(String, String)>, fleet: &Fleet, index: &Index, span: Nanos, lines: &[Line]) -> Timeline {
    let seen = || lines.iter().filter_map(|line| Some((line, line.timeline.as_ref()?)));
    let from = seen().map(|(_, timeline)| timeline.from).max().unwrap_or_default();
    let kept = seen().map(|(_, timeline)| timeline.complete_until).min().unwrap_or(Nanos::NEVER);
    let last = |timeline: &simulate::Timeline| timeline.runs.iter().filter_map(|run| run.answered).max().unwrap_or(span);
    let end = seen().map(|(_, timeline)| last(timeline)).max().unwrap_or(span);
    Timeline {
        title,
        facts,
        models: index.models().iter().map(|model| model.name.clone()).collect(),
        span_ns: span.0,
        window_ns: (from.0, kept.min(end).max(from + Nanos(1)).0),
        cut: kept < Nanos::NEVER,
        policies: seen().map(|(line, timeline)| served(line, timeline, fleet, index)).collect(),
    }
}

fn served(line: &Line, timeline: &simulate::Timeline, fleet: &Fleet, index: &Index) -> Served {
    let latency = |part| line.figures.as_ref().and_then(|figures| figures.latency(part)).map_or_else(|| "-".into(), time);
    let part = |bucket: &simulate::Bucket| Part {
        in_time: bucket.in_time,
        late: bucket.late,
        refused: bucket.refused,
        waiting: bucket.waiting.iter().map(|&waiting| waiting as u64).collect(),
    };
    let places = fleet.devices.iter().enumerate().flat_map(|(at, device)| device.workers.iter().map(move |share| (at, share)));
    let worker = |(number, (device, share)): (usize, (usize, &schema::Share))| {
        let own = timeline.runs.iter().filter(|run| run.decision.worker == WorkerId(number as u16));
        Worker { name: format!("{}, {share} %", index.devices()[device].0), runs: own.map(|kept| run(kept, index)).collect() }
    };
    Served {
        policy: line.policy.clone(),
        figures: vec![
            (format!("{:.1}/s", line.goodput_per_s), "answered in time".to_owned()),
            (format!("{:.2} %", 100.0 * line.missed), "missed: late or refused".to_owned()),
            (latency(0.5), "median latency".to_owned()),
            (latency(0.99), "latency of 99 of 100".to_owned()),
        ],
        parts: timeline.buckets.iter().map(part).collect(),
        workers: places.enumerate().map(worker).collect(),
    }
}

fn run(kept: &Kept, index: &Index) -> Run {
    let decision = &kept.decision;
    let name = &index.models()[usize::from(decision.model.0)].name;
    let times = if decision.repeats > 1 { format!(", {} times", decision.repeats) } else { String::new() };
    let mut lines = vec![
        format!(
            "{} request(s), {} row(s) in batch {}{times}; the first had waited {}",
            decision.requests,
            decision.rows,
            decision.batch,
            time(kept.waited)
        ),
        format!("started at {}; predicted {}, {}", time(decision.started), took(decision, decision.finish), actual(kept)),
    ];
    if decision.gap > Nanos::ZERO {
        lines.push(format!("{} of it for the change of share", time(decision.gap)));
    }
    if decision.deadline < Nanos::NEVER {
        lines.push(format!("earliest deadline {}", time(decision.deadline)));
    }
    if kept.late > 0 {
        lines.push(format!("{} request(s) answered late", kept.late));
    }
    if decision.stale {
        lines.push("its record has drifted".to_owned());
    }
    let mut rivals: Vec<String> = decision.rivals().map(|rival| self::rival(rival, index)).collect();
    if decision.rivals_left_out > 0 {
        rivals.push(format!("and {} more", decision.rivals_left_out));
    }
    Run {
        model: usize::from(decision.model.0),
        start_ns: decision.started.0,
        end_ns: kept.answered.map(|at| at.0),
        late: kept.late,
        title: format!("{name} on {}, {} %", index.devices()[usize::from(decision.device.0)].0, decision.share),
        lines,
        rivals,
    }
}

fn took(decision: &Decision, until: Nanos) -> String {
    time(until - decision.started)
}

fn actual(kept: &Kept) -> String {
    kept.answered.map_or_else(|| "its worker died".to_owned(), |at| format!("took {}", took(&kept.decision, at)))
}

fn rival(rival: &Rival, index: &Index) -> String {
    let why = match rival.why {
        Why::NoWorker => "has no worker".to_owned(),
        Why::Away => "its worker is being replaced".to_owned(),
        Why::Lost => "its device is lost".to_owned(),
        Why::Late(by) => format!("would miss the deadline by {}", time(by)),
        Why::InUse(until) => format!("in use until {}", time(until)),
        Why::Later(by) => format!("would finish {} later", time(by)),
        Why::Rule => "would finish no later; the policy's rule is another".to_owned(),
    };
    format!("not {}, {} %, batch {}: {why}", index.devices()[usize::from(rival.device.0)].0, rival.share, rival.batch)
}
