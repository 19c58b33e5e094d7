//! Progress of a tuning: a status line on a terminal, a line now and then elsewhere, events with `--json=lines`.

use crate::cli::Screen;
use crate::cli::failure::escape;
use crate::cli::quantity::show_time;
use crate::cli::screen::JsonForm;
use crate::report::Refused;
use crate::tune::Event;
use schema::Picos;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Redraws of the status line are at least so far apart.
const REDRAW: Duration = Duration::from_millis(100);
/// Lines where stderr is no terminal are at least so far apart.
const LINE: Duration = Duration::from_secs(10);

/// What only events tell: for the report.
#[derive(Debug, Default)]
pub struct Seen {
    pub sentinels: Vec<Picos>,
    pub refused: Vec<Refused>,
}

/// What is shown while a tuning runs.
pub struct Progress<'a> {
    screen: &'a mut Screen,
    name: String,
    start: Instant,
    drawn: Instant,
    budget: Option<Duration>,
    task: String,
    best: f64,
    noise: char,
    measured: u64,
    refused: u64,
    seen: Seen,
}

impl<'a> Progress<'a> {
    pub fn new(screen: &'a mut Screen, models: &[PathBuf]) -> Self {
        let name = match models {
            [one] => one.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            several => format!("{} models", several.len()),
        };
        let now = Instant::now();
        screen.status(&format!("tune {name}   importing"));
        Progress {
            screen,
            name,
            start: now,
            drawn: now,
            budget: None,
            task: String::new(),
            best: 1.0,
            noise: '–',
            measured: 0,
            refused: 0,
            seen: Seen::default(),
        }
    }

    /// Shows one event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Start { budget, tasks, distinct, known, .. } => {
                self.budget = *budget;
                if !self.screen.shows_status() {
                    self.screen.note(&format!(
                        "tune {}: {tasks} tasks, {distinct} distinct, {known} known from the database",
                        escape(&self.name)
                    ));
                }
            }
            Event::Task { number, of, task, share, .. } => {
                let operator: String = task.chars().take(60).collect();
                self.task = format!("task {number}/{of} share {share} {operator}");
            }
            Event::Rehearsal { number, of, share, .. } => self.task = format!("rehearsal {number}/{of} share {share}"),
            Event::Trial { outcome, .. } => {
                self.measured += 1;
                self.refused += u64::from(outcome.is_err());
            }
            Event::Best { model_gain, noise, .. } => {
                self.best = self.best.max(*model_gain);
                self.noise = format!("{noise:?}").chars().next().unwrap_or('–');
            }
            Event::Warn { what } => self.screen.warn("tune", &escape(what)),
            Event::Result { model, device, batch, share, default, tuned, .. } => {
                if !self.screen.shows_status() {
                    let line = format!(
                        "{}: {device} share {share}, batch {batch}: {} became {}",
                        escape(model),
                        show_time(*default),
                        show_time(*tuned)
                    );
                    self.screen.note(&line);
                }
            }
            Event::Split { batch, share, split, .. } => self.task = format!("batch {batch} share {share} in {split}"),
            Event::Sentinels { times } => self.seen.sentinels.extend(times),
            Event::Final { .. } | Event::Saved { .. } | Event::Disturbed { .. } | Event::Phases { .. } | Event::End { .. } => {}
        }
        if let Event::Trial { task, config, share, outcome: Err(why), .. }
        | Event::Final { task, config, share, outcome: Err(why), .. } = event
        {
            let (task, config) = (task.clone(), config.to_string());
            self.seen.refused.push(Refused { task, config, share: *share, class: why.class, detail: why.detail.clone() });
        }
        if self.screen.json == Some(JsonForm::Lines)
            && let Some((name, fields)) = fields(event)
        {
            self.screen.event(name, fields);
        }
        self.draw();
    }

    /// Ends the progress.
    pub fn finish(self) -> Seen {
        self.screen.status("");
        self.seen
    }

    fn draw(&mut self) {
        let terminal = std::io::stderr().is_terminal();
        if self.drawn.elapsed() < if terminal { REDRAW } else { LINE } {
            return;
        }
        self.drawn = Instant::now();
        let passed = self.start.elapsed().as_secs_f64();
        let text = format!(
            "best {:.2}{}   noise {}   measured {}   refused {}",
            self.best,
            self.screen.sign("×", "x"),
            self.noise,
            self.measured,
            self.refused
        );
        let spent = match self.budget {
            Some(budget) => format!("{passed:.0} / {:.0} s", budget.as_secs_f64()),
            None => format!("{passed:.0} s"),
        };
        if terminal {
            let bar = self.bar(passed);
            let line = format!("tune {}   {bar}{spent}   {}   {text}", escape(&self.name), escape(&self.task));
            self.screen.status(&line);
        } else {
            self.screen.note(&format!("tune {}: {spent}, {}, {text}", escape(&self.name), escape(&self.task)));
        }
    }

    /// The part of the budget that is spent, which is known; never a guessed total.
    fn bar(&self, passed: f64) -> String {
        let Some(budget) = self.budget else { return String::new() };
        let full = ((passed / budget.as_secs_f64().max(1e-9)).min(1.0) * 12.0).round() as usize;
        let (done, left) = (self.screen.sign("█", "#"), self.screen.sign("░", "."));
        format!("{}{}  ", done.repeat(full), left.repeat(12 - full))
    }
}

/// The event's name and fields; a warning is the screen's to tell.
fn fields(event: &Event) -> Option<(&'static str, Value)> {
    let fields = match event {
        Event::Start { models, tasks, distinct, known, budget } => json!({
            "models": models, "tasks": tasks, "distinct": distinct, "known": known,
            "budget_ns": budget.map(|budget| u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX)),
        }),
        Event::Task { number, of, task, device, share } => {
            json!({"number": number, "of": of, "task": task, "device": device, "share_pct": share.as_percent()})
        }
        Event::Sentinels { .. } => return None,
        Event::Rehearsal { number, of, device, share } => {
            json!({"number": number, "of": of, "device": device, "share_pct": share.as_percent()})
        }
        Event::Final { id, task, config, device, share, outcome } => json!({
            "id": id.to_string(), "task": task, "config": config.to_string(), "device": device, "share_pct": share.as_percent(),
            "ratio": outcome.as_ref().ok().map(|ratio| ratio.ppm as f64 * 1e-6),
            "ratio_lo": outcome.as_ref().ok().map(|ratio| ratio.lo_ppm as f64 * 1e-6),
            "ratio_hi": outcome.as_ref().ok().map(|ratio| ratio.hi_ppm as f64 * 1e-6),
            "failure": outcome.as_ref().err().map(|why| super::result::class_name(why.class)),
        }),
        Event::Trial { id, task, config, device, share, outcome } => json!({
            "id": id.to_string(), "task": task, "config": config.to_string(), "device": device, "share_pct": share.as_percent(),
            "median_ns": outcome.as_ref().ok().map(|(median, _)| median.as_nanos()), "noise": outcome.as_ref().ok().map(|(_, grade)| format!("{grade:?}")),
            "failure": outcome.as_ref().err().map(|why| super::result::class_name(why.class)),
        }),
        Event::Best { task, config, share, gain, model_gain, noise } => json!({
            "task": task, "config": config.to_string(), "share_pct": share.as_percent(), "ratio": gain,
            "model_ratio": model_gain, "noise": format!("{noise:?}"),
        }),
        Event::Split { model, batch, share, split } => json!({
            "model": model, "batch": batch.rows(), "share_pct": share.as_percent(), "parts": split.parts(), "lanes": split.lanes(),
        }),
        Event::Saved { observations } => json!({"observations": observations}),
        Event::Disturbed { device, share, slots, discarded } => {
            json!({"device": device, "share_pct": share.as_percent(), "slots": slots, "discarded": discarded})
        }
        Event::Phases { phases } => super::result::phases(phases),
        Event::Warn { .. } => return None,
        Event::Result { model, device, batch, share, default, tuned, ratio, kept } => json!({
            "model": model, "device": device, "batch": batch.rows(), "share_pct": share.as_percent(),
            "default_ns": default.as_nanos(), "tuned_ns": tuned.as_nanos(), "ratio": ratio.ppm as f64 * 1e-6, "tuned_kept": kept,
        }),
        Event::End { stop, measured, reused } => json!({"stopped": stop.to_string(), "measured": measured, "reused": reused}),
    };
    let name = match event {
        Event::Start { .. } => "start",
        Event::Task { .. } => "task",
        Event::Trial { .. } => "trial",
        Event::Final { .. } => "final",
        Event::Rehearsal { .. } => "rehearsal",
        Event::Best { .. } => "best",
        Event::Split { .. } => "split",
        Event::Saved { .. } => "saved",
        Event::Disturbed { .. } => "disturbed",
        Event::Phases { .. } => "phases",
        Event::Warn { .. } | Event::Sentinels { .. } => return None,
        Event::Result { .. } => "row",
        Event::End { .. } => "end",
    };
    Some((name, fields))
}
