//! Issues the queries of a run and waits for what comes back.

use super::arrivals::Arrivals;
use super::clock::Clock;
use super::early_stopping::EarlyStopping;
use super::samples::{Draw, Library, Sample};
use super::settings::{Mode, Scenario, Settings, SettingsError};
use super::system::{Done, Responses, SystemUnderTest};
use crate::schedule::Nanos;
use std::sync::Arc;

/// A query as it went.
#[derive(Copy, Clone, Debug)]
pub(super) struct Issued {
    /// From the start of the run.
    pub scheduled: Nanos,
    pub issued: Nanos,
    /// Its first sample; those up to the next query's first are its own.
    pub first: u64,
}

/// Why a run stopped issuing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// What was asked for is done.
    Complete,
    /// More queries were under way than [`Settings::outstanding_max`].
    Overrun(u64),
    /// A sample failed, for this reason.
    Failed(String),
}

/// What happened in a run.
pub struct Run {
    pub settings: Settings,
    pub end: End,
    /// Times that the latencies were looked at.
    pub looks: u32,
    /// Outputs to be logged, with their samples, in the order of the samples.
    pub outputs: Vec<(Sample, Vec<u8>)>,
    pub(super) queries: Vec<Issued>,
    /// The model of each sample, where there are several.
    pub(super) models: Vec<u16>,
    /// From the start of the run.
    pub(super) done: Vec<Done>,
    /// Answers to samples that had one already, or that nobody asked for.
    pub(super) strange: u64,
}

struct Driver<'a> {
    settings: &'a Settings,
    system: &'a dyn SystemUnderTest,
    clock: &'a dyn Clock,
    responses: Arc<Responses>,
    draw: Draw<'a>,
    start: Nanos,
    /// Of the query at hand.
    samples: Vec<Sample>,
    mixed: bool,
    queries: Vec<Issued>,
    models: Vec<u16>,
    logged: Vec<Sample>,
    issued_samples: u64,
}

/// Runs a scenario.
///
/// # Errors
/// [`SettingsError`]. What goes wrong in the system ends the run and is told by [`Run::end`].
pub fn run(
    settings: &Settings,
    library: &Library,
    system: &dyn SystemUnderTest,
    clock: &Arc<dyn Clock>,
) -> Result<Run, SettingsError> {
    settings.check()?;
    let rate = settings.target_qps * settings.duration_min.as_secs_f64();
    let expected = match settings.scenario {
        Scenario::Offline => settings.offline_samples(),
        _ => (rate as u64).max(settings.queries_min).saturating_mul(settings.samples_per_query),
    };
    let mut driver = Driver {
        settings,
        system,
        clock: clock.as_ref(),
        responses: Arc::new(Responses::new(Arc::clone(clock))),
        draw: Draw::new(settings, library, expected),
        start: clock.now(),
        samples: Vec::new(),
        mixed: library.models() > 1,
        queries: Vec::new(),
        models: Vec::new(),
        logged: Vec::new(),
        issued_samples: 0,
    };
    let (end, looks) = match settings.scenario {
        Scenario::SingleStream | Scenario::MultiStream => (driver.stream(), 1),
        Scenario::Server => driver.serve(),
        Scenario::Offline => (driver.at_once(library), 1),
    };
    Ok(driver.into_run(end, looks))
}

/// Samples a second that a system answers when it gets them at once: asks for twice as many until that takes `long`.
///
/// # Errors
/// What the system failed with.
pub fn rate_at_once(library: &Library, system: &dyn SystemUnderTest, clock: &Arc<dyn Clock>, long: Nanos) -> Result<f64, String> {
    let mut count = library.samples().clamp(1, 16);
    loop {
        let settings = Settings { samples_min: count, target_qps: f64::MIN_POSITIVE, ..Settings::published(Scenario::Offline) };
        let run = run(&settings, library, system, clock).map_err(|error| error.to_string())?;
        if let End::Failed(why) = run.end {
            return Err(why);
        }
        let took = run.done.iter().filter_map(|done| done.at()).max().unwrap_or(Nanos::ZERO);
        if took >= long || count >= super::SAMPLES_MAX / 2 {
            return Ok(count as f64 / took.max(Nanos(1)).as_secs_f64());
        }
        count *= 2;
    }
}

impl Driver<'_> {
    /// Each query when the one before is over.
    fn stream(&mut self) -> End {
        let mut end = Nanos::ZERO;
        while self.drawn(self.settings.samples_per_query) {
            let now = self.clock.now();
            self.issue(now);
            let over = self.responses.wait();
            self.clock.wait_until(over);
            if let Some(failed) = self.failed() {
                return failed;
            }
            end = end.max(now - self.start);
            let enough = end >= self.settings.duration_min && self.queries.len() as u64 >= self.settings.queries_min;
            if enough && self.settings.mode == Mode::Performance {
                break;
            }
        }
        self.system.flush();
        End::Complete
    }

    /// Each query when it is scheduled. Then, if the settings allow and the percentile is kept, as many more as early stopping wants.
    fn serve(&mut self) -> (End, u32) {
        let arrivals = Arrivals::new(self.settings.target_qps, self.settings.seeds.schedule);
        let mut arrivals = arrivals.peekable();
        let mut stopping = EarlyStopping::new(self.settings.percentile, self.settings.confidence());
        let (mut looks, mut wanted, mut from) = (0, None, self.start);
        loop {
            if let Some(early) = self.serve_until(&mut arrivals, from, wanted) {
                self.system.flush();
                self.responses.wait();
                // What failed meanwhile says more than that there was too much.
                return (self.failed().unwrap_or(early), looks + 1);
            }
            self.system.flush();
            let over = self.responses.wait();
            self.clock.wait_until(over);
            looks += 1;
            if let Some(failed) = self.failed() {
                return (failed, looks);
            }
            let queries = self.queries.len() as u64;
            let (late, hopeful) = (self.late(), self.settings.mode == Mode::Performance);
            let hopeful = hopeful && (late as f64) < (1.0 - self.settings.percentile) * queries as f64;
            let least = stopping.queries_min(late);
            if queries >= least || looks >= self.settings.looks_max || !hopeful {
                return (End::Complete, looks);
            }
            wanted = Some(least);
            // The stream of gaps goes on from now: nobody was late while nothing was scheduled.
            from = self.clock.now() - arrivals.peek().copied().unwrap_or(Nanos::ZERO);
        }
    }

    /// Issues until the last query was scheduled late enough, or until there are so many queries; why it ended before that, if so.
    fn serve_until(&mut self, arrivals: &mut std::iter::Peekable<Arrivals>, from: Nanos, wanted: Option<u64>) -> Option<End> {
        let settings = self.settings;
        let mut last = Nanos::ZERO;
        loop {
            let queries = self.queries.len() as u64;
            let enough = match wanted {
                Some(wanted) => queries >= wanted,
                None => last >= settings.duration_min && queries >= settings.queries_min,
            };
            if enough && settings.mode == Mode::Performance || !self.drawn(settings.samples_per_query) {
                return None;
            }
            let at = arrivals.next().expect("arrivals have no end");
            last = at;
            self.clock.wait_until(from + at);
            self.issue(from + at);
            let (outstanding, failed) = {
                let heard = self.responses.heard();
                (heard.waits / settings.samples_per_query, heard.failure.clone())
            };
            if let Some(why) = failed {
                return Some(End::Failed(why));
            }
            if outstanding > settings.outstanding_max {
                return Some(End::Overrun(outstanding));
            }
        }
    }

    /// One query of everything.
    fn at_once(&mut self, library: &Library) -> End {
        let count = match self.settings.mode {
            Mode::Performance => self.settings.offline_samples(),
            Mode::Accuracy => library.samples(),
        };
        if self.drawn(count) {
            self.issue(self.start);
        }
        self.system.flush();
        let over = self.responses.wait();
        self.clock.wait_until(over);
        self.failed().unwrap_or(End::Complete)
    }

    /// Draws the samples of the next query, if there is one.
    fn drawn(&mut self, count: u64) -> bool {
        self.draw.query(count, &mut self.samples);
        !self.samples.is_empty()
    }

    fn issue(&mut self, scheduled: Nanos) {
        let first = self.issued_samples;
        self.issued_samples += self.samples.len() as u64;
        if self.mixed {
            self.models.extend(self.samples.iter().map(|sample| sample.model));
        }
        self.logged.extend(self.samples.iter().filter(|sample| sample.logged));
        self.responses.expect(self.samples.len());
        let issued = self.clock.now();
        self.system.issue(&self.samples, &self.responses);
        self.queries.push(Issued { scheduled: scheduled - self.start, issued: issued - self.start, first });
    }

    fn failed(&self) -> Option<End> {
        self.responses.heard().failure.clone().map(End::Failed)
    }

    /// Server queries over the bound, refused ones included.
    fn late(&self) -> u64 {
        let bound = self.settings.target_latency.unwrap_or(Nanos::NEVER);
        let heard = self.responses.heard();
        let late = |query: &&Issued| match heard.done[query.first as usize] {
            Done::Answered(at) => at - self.start - query.scheduled > bound,
            _ => true,
        };
        self.queries.iter().filter(late).count() as u64
    }

    fn into_run(self, end: End, looks: u32) -> Run {
        let mut heard = std::mem::take(&mut *self.responses.heard());
        for done in &mut heard.done {
            if let Done::Answered(at) | Done::Refused(at) | Done::Failed(at) = done {
                *at = *at - self.start;
            }
        }
        heard.outputs.sort_unstable_by_key(|(sample, _)| *sample);
        let sample = |id: u64| self.logged.binary_search_by_key(&id, |sample| sample.id).ok().map(|at| self.logged[at]);
        let outputs = heard.outputs.into_iter().filter_map(|(id, bytes)| Some((sample(id)?, bytes))).collect();
        Run {
            settings: self.settings.clone(),
            end,
            looks,
            outputs,
            queries: self.queries,
            models: self.models,
            done: heard.done,
            strange: heard.strange,
        }
    }
}
