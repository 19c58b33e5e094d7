//! What a run amounts to: latencies, rates, and whether the rules are met.

use super::drive::{End, Issued, Run};
use super::early_stopping::EarlyStopping;
use super::settings::{Mode, Scenario};
use super::system::Done;
use crate::schedule::Nanos;

/// Percentiles that are always told, as LoadGen does.
pub const PERCENTILES: [f64; 6] = [0.50, 0.90, 0.95, 0.97, 0.99, 0.999];
/// Lateness of issue that any run may have.
const LATENESS_MAX: Nanos = Nanos(100_000);
/// Lateness of issue that a run may have, as a part of its bound.
const LATENESS_PART: f64 = 0.01;

/// Latencies, ascending. A sample that was refused or failed has one that is longer than every bound: [`Nanos::NEVER`].
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Nanos>);

impl Latencies {
    fn new(mut latencies: Vec<Nanos>) -> Self {
        latencies.sort_unstable();
        Latencies(latencies)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The element ⌊n·p⌋ of the n latencies, as LoadGen takes it; `None` without any, or where it falls among the unanswered.
    pub fn percentile(&self, p: f64) -> Option<Nanos> {
        let at = (self.0.len() as f64 * p) as usize;
        self.0.get(at).copied().filter(|&latency| latency != Nanos::NEVER)
    }

    /// Those that were answered.
    fn answered(&self) -> &[Nanos] {
        &self.0[..self.0.partition_point(|&latency| latency != Nanos::NEVER)]
    }

    /// The shortest.
    pub fn least(&self) -> Option<Nanos> {
        self.answered().first().copied()
    }

    /// The longest of an answered sample.
    pub fn most(&self) -> Option<Nanos> {
        self.answered().last().copied()
    }

    /// The mean over answered samples.
    pub fn mean(&self) -> Option<Nanos> {
        let answered = self.answered();
        let sum: u128 = answered.iter().map(|latency| u128::from(latency.0)).sum();
        let mean = sum.checked_div(answered.len() as u128)?;
        Some(Nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// How many are longer than a bound.
    pub fn over(&self, bound: Nanos) -> u64 {
        (self.0.len() - self.0.partition_point(|&latency| latency <= bound)) as u64
    }
}

/// One thing that a result must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `duration`, `queries`, `percentile`, `early stopping`, `lateness of issue`, `answers`.
    pub name: &'static str,
    pub met: bool,
    /// What was found and what was wanted.
    pub found: String,
}

/// What a run, or one model's part of it, amounts to.
pub struct Figures {
    pub queries: u64,
    /// Of samples, from when their query was scheduled until each was answered.
    pub samples: Latencies,
    /// Of queries: until their last sample was answered. The same as `samples` where a query has one.
    pub per_query: Option<Latencies>,
    /// From when each query was scheduled until it was issued.
    pub lateness: Latencies,
    pub refused: u64,
    pub failed: u64,
    /// Samples that were answered within the bound, or at all where there is none.
    pub in_time: u64,
    /// Until the last sample was over.
    pub took: Nanos,
    pub last_scheduled: Nanos,
    pub last_issued: Nanos,
    /// When the last query's last sample was over.
    pub last_done: Nanos,
    /// The estimate by early stopping of the scenario's percentile (SingleStream, MultiStream).
    pub estimate: Option<Nanos>,
    /// The same of the 99th percentile (SingleStream).
    pub estimate_p99: Option<Nanos>,
    /// Server: queries that early stopping wants in all, given those over the bound.
    pub queries_wanted: u64,
    pub conditions: Vec<Condition>,
}

impl Run {
    /// What the run amounts to.
    pub fn figures(&self) -> Figures {
        self.figures_of(|_| true)
    }

    /// The part of one model; its conditions are only those on answers and the percentile.
    pub fn figures_of_model(&self, model: u16) -> Figures {
        let mut figures = self.figures_of(|sample| self.models.get(sample).copied().unwrap_or(0) == model);
        figures.conditions.retain(|condition| matches!(condition.name, "answers" | "percentile"));
        figures
    }

    fn figures_of(&self, counts: impl Fn(usize) -> bool) -> Figures {
        let settings = &self.settings;
        let bound = settings.target_latency.unwrap_or(Nanos(u64::MAX - 1));
        let (mut samples, mut per_query, mut lateness) = (Vec::new(), Vec::new(), Vec::new());
        let mut figures = Figures::empty();
        for (at, query) in self.queries.iter().enumerate() {
            let end = self.queries.get(at + 1).map_or(self.done.len(), |next| next.first as usize);
            let own = (query.first as usize..end).filter(|&sample| counts(sample));
            let before = samples.len();
            samples.extend(own.map(|sample| figures.count(query, self.done[sample])));
            if samples.len() > before {
                per_query.push(samples[before..].iter().copied().max().unwrap_or(Nanos::NEVER));
                lateness.push(query.issued - query.scheduled);
                figures.last_scheduled = query.scheduled;
                figures.last_issued = query.issued;
            }
        }
        figures.queries = per_query.len() as u64;
        figures.in_time = samples.iter().filter(|&&latency| latency <= bound).count() as u64;
        figures.samples = Latencies::new(samples);
        figures.lateness = Latencies::new(lateness);
        figures.per_query = (settings.samples_per_query > 1).then(|| Latencies::new(per_query));
        self.estimate(&mut figures);
        if settings.mode == Mode::Performance {
            figures.conditions = self.performance(&figures);
        }
        figures.conditions.push(self.answers(&figures));
        figures
    }

    fn estimate(&self, figures: &mut Figures) {
        let settings = &self.settings;
        let latencies = figures.per_query.as_ref().unwrap_or(&figures.samples);
        let estimate = |percentile| {
            let estimate = EarlyStopping::new(percentile, settings.confidence()).estimate(&latencies.0);
            estimate.filter(|&latency| latency != Nanos::NEVER)
        };
        let stopping = |late| EarlyStopping::new(settings.percentile, settings.confidence()).queries_min(late);
        match settings.scenario {
            Scenario::SingleStream => {
                (figures.estimate, figures.estimate_p99) = (estimate(settings.percentile), estimate(0.99));
                figures.queries_wanted = stopping(1);
            }
            Scenario::MultiStream => {
                figures.estimate = estimate(settings.percentile);
                figures.queries_wanted = stopping(1);
            }
            Scenario::Server => {
                let late = settings.target_latency.map_or(0, |bound| figures.samples.over(bound));
                figures.queries_wanted = stopping(late);
            }
            Scenario::Offline => {}
        }
    }

    /// Conditions of performance mode.
    fn performance(&self, figures: &Figures) -> Vec<Condition> {
        let settings = &self.settings;
        let condition = |name, met, found| Condition { name, met, found };
        let seconds = |time: Nanos| format!("{:.3} s", time.as_secs_f64());
        let mut conditions = Vec::new();

        let (what, lasted) = match settings.scenario {
            Scenario::SingleStream | Scenario::MultiStream => ("the last query was issued", figures.last_issued),
            Scenario::Server => ("the last query was scheduled", figures.last_scheduled),
            Scenario::Offline => ("the longest latency was", figures.samples.most().unwrap_or(Nanos::ZERO)),
        };
        let at = if settings.scenario == Scenario::Offline { "" } else { "at " };
        let found = format!("{what} {at}{}, wanted {}", seconds(lasted), seconds(settings.duration_min));
        conditions.push(condition("duration", lasted >= settings.duration_min, found));

        let offline = settings.scenario == Scenario::Offline;
        let (count, least, what) = if offline {
            (figures.samples.count(), settings.samples_min, "samples")
        } else {
            (figures.queries, settings.queries_min, "queries")
        };
        conditions.push(condition("queries", count >= least, format!("{count} {what}, wanted {least}")));

        if let (Scenario::Server, Some(bound)) = (settings.scenario, settings.target_latency) {
            let latency = figures.samples.percentile(settings.percentile);
            let found = latency.map_or("unanswered".to_owned(), |latency| format!("{:.3} ms", latency.as_secs_f64() * 1e3));
            let found =
                format!("p{} is {found}, wanted at most {:.3} ms", 100.0 * settings.percentile, bound.as_secs_f64() * 1e3);
            conditions.push(condition("percentile", latency.is_some_and(|latency| latency <= bound), found));
        }
        if !offline {
            let (found, wanted) = (figures.queries, figures.queries_wanted);
            let found = match settings.target_latency.filter(|_| settings.scenario == Scenario::Server) {
                Some(bound) => format!("{} of {found} queries over the bound need {wanted} in all", figures.samples.over(bound)),
                None => format!("{found} queries, an estimate of p{} needs {wanted}", 100.0 * settings.percentile),
            };
            conditions.push(condition("early stopping", figures.queries >= wanted, found));
        }
        if settings.scenario == Scenario::Server {
            let part = settings.target_latency.unwrap_or(Nanos::ZERO).scaled(LATENESS_PART);
            let (late, most) = (figures.lateness.percentile(0.99).unwrap_or(Nanos::ZERO), LATENESS_MAX.max(part));
            let found = format!("p99 is {:.1} µs, wanted at most {:.1} µs", late.as_f64() * 1e-3, most.as_f64() * 1e-3);
            conditions.push(condition("lateness of issue", late <= most, found));
        }
        conditions
    }

    /// Whether everything that was issued was answered, once, and the run came to its end.
    fn answers(&self, figures: &Figures) -> Condition {
        let found = match &self.end {
            End::Overrun(outstanding) => format!("ended early: {outstanding} queries under way"),
            End::Failed(why) => format!("ended early: {why}"),
            End::Complete if self.strange > 0 => format!("{} answers to samples that wanted none", self.strange),
            End::Complete => {
                format!("{} samples, {} refused, {} failed", figures.samples.count(), figures.refused, figures.failed)
            }
        };
        let met = self.end == End::Complete && self.strange == 0 && figures.failed == 0;
        Condition { name: "answers", met, found }
    }
}

impl Figures {
    fn empty() -> Self {
        Figures {
            queries: 0,
            samples: Latencies::default(),
            per_query: None,
            lateness: Latencies::default(),
            refused: 0,
            failed: 0,
            in_time: 0,
            took: Nanos::ZERO,
            last_scheduled: Nanos::ZERO,
            last_issued: Nanos::ZERO,
            last_done: Nanos::ZERO,
            estimate: None,
            estimate_p99: None,
            queries_wanted: 0,
            conditions: Vec::new(),
        }
    }

    /// Counts a sample: its latency.
    fn count(&mut self, query: &Issued, done: Done) -> Nanos {
        let at = done.at().unwrap_or(Nanos::NEVER);
        if at != Nanos::NEVER {
            self.took = self.took.max(at);
            self.last_done = at;
        }
        match done {
            Done::Answered(at) => return at - query.scheduled,
            Done::Refused(_) => self.refused += 1,
            Done::Failed(_) | Done::Waits => self.failed += 1,
        }
        Nanos::NEVER
    }

    /// Whether every condition is met.
    pub fn is_valid(&self) -> bool {
        self.conditions.iter().all(|condition| condition.met)
    }

    /// Whether a condition is met, if it is one of this run.
    pub fn meets(&self, name: &str) -> Option<bool> {
        self.conditions.iter().find(|condition| condition.name == name).map(|condition| condition.met)
    }

    /// Latencies of queries.
    pub fn of_queries(&self) -> &Latencies {
        self.per_query.as_ref().unwrap_or(&self.samples)
    }

    /// Samples that were answered in time, a second.
    pub fn goodput_per_s(&self) -> f64 {
        per_s(self.in_time, self.took.max(self.last_scheduled))
    }

    /// Samples that were answered, a second.
    pub fn answered_per_s(&self) -> f64 {
        per_s(self.samples.answered().len() as u64, self.took)
    }

    /// Server: queries after the first, by the time the last one was over, as LoadGen counts.
    pub fn completed_per_s(&self) -> f64 {
        per_s(self.samples.count().saturating_sub(1), self.last_done)
    }

    /// Server: queries after the first, by the time the last one was scheduled, as LoadGen counts.
    pub fn scheduled_per_s(&self) -> f64 {
        per_s(self.samples.count().saturating_sub(1), self.last_scheduled)
    }
}

fn per_s(count: u64, time: Nanos) -> f64 {
    if time == Nanos::ZERO { 0.0 } else { count as f64 / time.as_secs_f64() }
}
