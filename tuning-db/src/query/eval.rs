//! Answers a query from any index.

use super::field::Field;
use super::rows::{Cell, Row, Rows, columns};
use super::{Direction, Expr, Mark, Of, Op, Query, Value};
use crate::index::{Flow, Index, IndexError};
use crate::key::{self, table};
use crate::record::{DeviceTextV1, parse_trial};
use crate::tables::{Best, DeviceRow, History, ModelRow, Tables, decode_as, generation_of, parse_best, parse_row};
use schema::{
    ConfigKey, DeviceKey, EnvironmentKey, Grant, Line, ModelRecord, Numerics, Observation, ObservationId, Outcome, Picos, Share,
    Subject, TaskKey, Timing,
};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// The rows a query asks for.
///
/// # Errors
/// [`IndexError`] as the index reports it, or when it holds what was never written.
pub fn rows(index: &dyn Index, query: &Query) -> Result<Rows, IndexError> {
    let tables = Tables(index);
    let facts = Facts::load(tables)?;
    let mut found: Vec<Candidate> = Vec::new();
    let stop_at = if query.order.is_empty() { query.limit } else { None };
    each_candidate(tables, query, &facts, &mut |candidate| {
        if found.len() as u64 >= stop_at.unwrap_or(u64::MAX) {
            return Ok(Flow::Break(()));
        }
        let subject = Asked { candidate: &candidate, facts: &facts, now_s: query.now_s };
        if subject.is_shown(query) && query.test.as_ref().map_or(Ok(true), |test| subject.holds(test))? {
            found.push(candidate);
        }
        Ok(Flow::Continue(()))
    })?;
    sort(&mut found, query, &facts)?;
    found.truncate(usize::try_from(query.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
    let columns = columns(query.of).to_vec();
    let mut rows = Rows::empty(query);
    for candidate in &found {
        rows.rows.push(Asked { candidate, facts: &facts, now_s: query.now_s }.row(&columns)?);
    }
    rows.generation = tables.generation()?;
    rows.watermark = tables.watermark()?.unwrap_or_default().seq;
    Ok(rows)
}

/// Every observation that a query's test holds for, stale and failed ones too, in the order of keys.
///
/// # Errors
/// As [`rows`].
pub fn observations(
    index: &dyn Index,
    query: &Query,
    take: &mut dyn FnMut(Observation) -> Result<Flow, IndexError>,
) -> Result<(), IndexError> {
    let tables = Tables(index);
    let facts = Facts::load(tables)?;
    tables.each(key::whole(table::TRIALS).as_ref(), &mut |key, value| {
        let observation = parse_trial(key, value)?;
        let Some(test) = &query.test else { return take(observation) };
        let stale = is_stale(&facts, &observation);
        let candidate = match &observation.subject {
            Subject::Model(_) => Candidate::Model(Box::new(ModelRow { observation, stale })),
            _ => Candidate::Trial { observation: Box::new(observation), stale, winner: false },
        };
        if !(Asked { candidate: &candidate, facts: &facts, now_s: query.now_s }).holds(test)? {
            return Ok(Flow::Continue(()));
        }
        match candidate {
            Candidate::Model(row) => take(row.observation),
            Candidate::Trial { observation, .. } => take(*observation),
            Candidate::Task { .. } | Candidate::Device(_) => Ok(Flow::Continue(())),
        }
    })
}

fn sort(found: &mut Vec<Candidate>, query: &Query, facts: &Facts<'_>) -> Result<(), IndexError> {
    if query.order.is_empty() {
        return Ok(());
    }
    let mut keyed = Vec::with_capacity(found.len());
    for candidate in found.drain(..) {
        let asked = Asked { candidate: &candidate, facts, now_s: query.now_s };
        let cells: Vec<Cell> = query.order.iter().map(|(field, _)| asked.cell(*field)).collect::<Result<_, _>>()?;
        keyed.push((cells, candidate));
    }
    keyed.sort_by(|(a, _), (b, _)| {
        let orders = a.iter().zip(b).zip(&query.order).map(|((a, b), (field, direction))| {
            match (scalar(*field, a, query.now_s), scalar(*field, b, query.now_s)) {
                (None, None) => Ordering::Equal,
                (None, _) => Ordering::Greater,
                (_, None) => Ordering::Less,
                (Some(a), Some(b)) if *direction == Direction::Ascending => compare(&a, &b),
                (Some(a), Some(b)) => compare(&b, &a),
            }
        });
        orders.fold(Ordering::Equal, Ordering::then)
    });
    found.extend(keyed.into_iter().map(|(_, candidate)| candidate));
    Ok(())
}

/// What all rows of an answer share.
struct Facts<'a> {
    tables: Tables<'a>,
    currents: BTreeMap<DeviceKey, EnvironmentKey>,
    history: BTreeMap<[u8; 16], History>,
    names: RefCell<HashMap<[u8; 16], Option<String>>>,
    drivers: RefCell<HashMap<(DeviceKey, EnvironmentKey), Option<String>>>,
}

impl<'a> Facts<'a> {
    fn load(tables: Tables<'a>) -> Result<Self, IndexError> {
        let (currents, history) = (tables.currents()?, tables.history()?);
        Ok(Facts { tables, currents, history, names: RefCell::default(), drivers: RefCell::default() })
    }

    fn name(&self, of: [u8; 16]) -> Result<Option<String>, IndexError> {
        if let Some(known) = self.names.borrow().get(&of) {
            return Ok(known.clone());
        }
        let name = self.tables.name(of)?;
        self.names.borrow_mut().insert(of, name.clone());
        Ok(name)
    }

    fn driver(&self, device: DeviceKey, environment: EnvironmentKey) -> Result<Option<String>, IndexError> {
        if let Some(known) = self.drivers.borrow().get(&(device, environment)) {
            return Ok(known.clone());
        }
        let key = key::device(device, environment);
        let driver = match self.tables.0.get(key.as_ref())? {
            Some(value) => {
                let text: DeviceTextV1 = decode_as(key.as_ref(), &value, crate::envelope::Kind::Device)?;
                driver_of(&text.environment.text)
            }
            None => None,
        };
        self.drivers.borrow_mut().insert((device, environment), driver.clone());
        Ok(driver)
    }
}

/// The driver in an environment's text: what follows `driver=`, `driver:` or the word `driver`.
pub fn driver_of(environment: &str) -> Option<String> {
    let mut rest = environment;
    while let Some(at) = rest.find("driver") {
        let begins = rest[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric());
        let after = &rest[at + "driver".len()..];
        let value = after.strip_prefix(['=', ':', ' ']).map(|value| value.trim_start());
        if begins && let Some(value) = value {
            let end = value.find([' ', ',', ';', '\n', '\t']).unwrap_or(value.len());
            if end > 0 {
                return Some(value[..end].to_owned());
            }
        }
        rest = after;
    }
    None
}

/// A row before it is known whether it is one.
enum Candidate {
    Model(Box<ModelRow>),
    Task { best: Box<Best>, winner: bool },
    Trial { observation: Box<Observation>, stale: bool, winner: bool },
    Device(Box<DeviceRow>),
}

type Take<'t> = &'t mut dyn FnMut(Candidate) -> Result<Flow, IndexError>;

fn each_candidate(tables: Tables<'_>, query: &Query, facts: &Facts<'_>, take: Take<'_>) -> Result<(), IndexError> {
    match query.of {
        Of::Models => tables.each(key::whole(table::MODELS).as_ref(), &mut |key, value| {
            take(Candidate::Model(Box::new(parse_row(key, value, &facts.currents)?)))
        }),
        Of::Tasks => each_best(tables, query, facts, take),
        Of::Trials | Of::Failures => each_trial(tables, query, facts, take),
        Of::Devices => {
            for row in tables.devices()? {
                if take(Candidate::Device(Box::new(row)))?.is_break() {
                    break;
                }
            }
            Ok(())
        }
    }
}

/// The task that every row must have, when the query says so: then only its part of a table is read.
fn one_task(test: Option<&Expr>) -> Option<TaskKey> {
    match test? {
        Expr::Compare(Field::Task, Op::Equal, Value::Text(text)) => {
            // Either the key or the text, whose key it then is.
            Some(TaskKey::parse(text).unwrap_or_else(|| TaskKey::of(text)))
        }
        Expr::And(all) => all.iter().find_map(|expr| one_task(Some(expr))),
        _ => None,
    }
}

type BestGroup = (TaskKey, DeviceKey, Share, Numerics);

fn each_best(tables: Tables<'_>, query: &Query, facts: &Facts<'_>, take: Take<'_>) -> Result<(), IndexError> {
    let prefix = one_task(query.test.as_ref()).map_or(key::whole(table::BESTS), key::best_prefix);
    let mut last: Option<BestGroup> = None;
    tables.each(prefix.as_ref(), &mut |key, value| {
        let best = parse_best(key, value, |device| facts.currents.get(&device).copied())?;
        let group = (best.task, best.device, best.share, best.numerics);
        // The first of a group that is not stale is its winner.
        let winner = !best.stale && last != Some(group);
        if winner {
            last = Some(group);
        }
        take(Candidate::Task { best: Box::new(best), winner })
    })
}

fn each_trial(tables: Tables<'_>, query: &Query, facts: &Facts<'_>, take: Take<'_>) -> Result<(), IndexError> {
    let prefix = one_task(query.test.as_ref()).map_or(key::whole(table::TRIALS), |task| key::trial_prefix(task.0));
    let mut winner: Option<(BestGroup, Option<ConfigKey>)> = None;
    tables.each(prefix.as_ref(), &mut |key, value| {
        let observation = parse_trial(key, value)?;
        let failed = matches!(observation.outcome, Outcome::Failed { .. });
        let (Subject::Trial { task, config } | Subject::Final { task, config }) = &observation.subject else {
            if query.of == Of::Failures && failed {
                let stale = is_stale(facts, &observation);
                return take(Candidate::Trial { observation: Box::new(observation), stale, winner: false });
            }
            return Ok(Flow::Continue(()));
        };
        if query.of == Of::Failures && !failed {
            return Ok(Flow::Continue(()));
        }
        let stale = is_stale(facts, &observation);
        let wins = if query.of == Of::Trials && !failed && !stale {
            let group = (*task, observation.device, observation.share, observation.numerics);
            if winner.as_ref().is_none_or(|(held, _)| *held != group) {
                let best = tables.bests(group.0, group.1, group.2, group.3, 1)?;
                winner = Some((group, best.first().filter(|best| !best.stale).map(|best| best.found.config.key())));
            }
            winner.as_ref().and_then(|(_, config)| *config) == Some(config.key())
        } else {
            false
        };
        take(Candidate::Trial { observation: Box::new(observation), stale, winner: wins })
    })
}

fn is_stale(facts: &Facts<'_>, observation: &Observation) -> bool {
    facts.currents.get(&observation.device).is_some_and(|current| *current != observation.environment)
}

/// A row being asked about.
struct Asked<'a> {
    candidate: &'a Candidate,
    facts: &'a Facts<'a>,
    now_s: u64,
}

/// A cell in the unit of its field's kind, for comparing.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Text(String),
    Number(f64),
}

fn compare(a: &Scalar, b: &Scalar) -> Ordering {
    match (a, b) {
        (Scalar::Number(a), Scalar::Number(b)) => a.total_cmp(b),
        (Scalar::Text(a), Scalar::Text(b)) => a.cmp(b),
        (Scalar::Number(_), Scalar::Text(_)) => Ordering::Less,
        (Scalar::Text(_), Scalar::Number(_)) => Ordering::Greater,
    }
}

fn scalar(field: Field, cell: &Cell, now_s: u64) -> Option<Scalar> {
    Some(match cell {
        Cell::Null(_) => return None,
        Cell::Text(text) if field == Field::Noise => {
            Scalar::Number(f64::from(text.bytes().next().unwrap_or(b'A').saturating_sub(b'A')))
        }
        Cell::Text(text) => Scalar::Text(text.clone()),
        Cell::Number(number) | Cell::Bytes(number) | Cell::Energy(number) => Scalar::Number(*number as f64),
        Cell::Ratio(ppm) => Scalar::Number(*ppm as f64 / 1e6),
        Cell::Share(mille) => Scalar::Number(f64::from(*mille) / 10.0),
        Cell::Time(time) => Scalar::Number(time.0 as f64),
        Cell::Rate(milli) => Scalar::Number(*milli as f64 / 1e3),
        Cell::Date(seconds) => Scalar::Number(now_s.saturating_sub(*seconds) as f64),
    })
}

fn matches(op: Op, found: &Scalar, value: &Value) -> bool {
    let value = match value {
        Value::Text(text) if op == Op::Like => {
            return matches!(found, Scalar::Text(found) if glob(text, found));
        }
        Value::Text(text) => Scalar::Text(text.clone()),
        Value::Number(number) => Scalar::Number(*number),
    };
    let order = compare(found, &value);
    match op {
        Op::Equal | Op::Like => order == Ordering::Equal,
        Op::NotEqual => order != Ordering::Equal,
        Op::Less => order == Ordering::Less,
        Op::LessEqual => order != Ordering::Greater,
        Op::Greater => order == Ordering::Greater,
        Op::GreaterEqual => order != Ordering::Less,
    }
}

/// `*` is any text, `?` any character. Linear in the text for each star.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, tried)) = star {
            star = Some((at, tried + 1));
            (p, t) = (at + 1, tried + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn null(why: &str) -> Cell {
    Cell::Null(why.to_owned())
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

fn at_batch(line: Option<Line>, batch: u32) -> Option<i64> {
    let line = line?;
    line.slope_ps.checked_mul(i64::from(batch))?.checked_add(line.intercept_ps).map(|ps| ps.max(0))
}

impl Asked<'_> {
    /// Stale and refused rows are hidden unless the query names them, or is about refusals.
    fn is_shown(&self, query: &Query) -> bool {
        (!self.mark(Mark::Stale) || query.names(Mark::Stale))
            && (!self.mark(Mark::Refused) || query.of == Of::Failures || query.names(Mark::Refused))
    }

    fn mark(&self, mark: Mark) -> bool {
        match (self.candidate, mark) {
            (Candidate::Model(row), Mark::Stale) => row.stale,
            (Candidate::Model(_), Mark::Winner) => true,
            (Candidate::Task { best, .. }, Mark::Stale) => best.stale,
            (Candidate::Task { winner, .. } | Candidate::Trial { winner, .. }, Mark::Winner) => *winner,
            (Candidate::Trial { stale, .. }, Mark::Stale) => *stale,
            (Candidate::Trial { observation, .. }, Mark::Refused) => matches!(observation.outcome, Outcome::Failed { .. }),
            (Candidate::Device(row), Mark::Stale) => !row.current,
            (_, Mark::Winner | Mark::Refused) => false,
        }
    }

    fn holds(&self, expr: &Expr) -> Result<bool, IndexError> {
        Ok(match expr {
            Expr::Or(any) => {
                for expr in any {
                    if self.holds(expr)? {
                        return Ok(true);
                    }
                }
                false
            }
            Expr::And(all) => {
                for expr in all {
                    if !self.holds(expr)? {
                        return Ok(false);
                    }
                }
                true
            }
            Expr::Not(expr) => !self.holds(expr)?,
            Expr::Mark(mark) => self.mark(*mark),
            Expr::IsNull(field) => matches!(self.cell(*field)?, Cell::Null(_)),
            Expr::Compare(field, op, value) => self.compares(*field, *op, value)?,
            Expr::In(field, values) => {
                for value in values {
                    if self.compares(*field, Op::Equal, value)? {
                        return Ok(true);
                    }
                }
                false
            }
        })
    }

    /// A field against a value. Models, tasks, devices and configs answer to their keys as well as to their names.
    fn compares(&self, field: Field, op: Op, value: &Value) -> Result<bool, IndexError> {
        let Some(found) = scalar(field, &self.cell(field)?, self.now_s) else { return Ok(false) };
        let by_name = matches(op, &found, value);
        let by_key = self.key_of(field).map(|key| matches(op, &Scalar::Text(key), value));
        Ok(match (op, by_key) {
            (Op::NotEqual, Some(by_key)) => by_name && by_key,
            (_, Some(by_key)) => by_name || by_key,
            (_, None) => by_name,
        })
    }

    fn key_of(&self, field: Field) -> Option<String> {
        Some(match field {
            Field::Model => self.model()?.model.to_string(),
            Field::Task => self.task()?.to_string(),
            Field::Config => self.config()?.1.to_string(),
            Field::Device => match self.candidate {
                Candidate::Model(row) => row.observation.device.to_string(),
                Candidate::Task { best, .. } => best.device.to_string(),
                Candidate::Trial { observation, .. } => observation.device.to_string(),
                Candidate::Device(row) => row.key.to_string(),
            },
            _ => return None,
        })
    }

    fn observation(&self) -> Option<&Observation> {
        match self.candidate {
            Candidate::Model(row) => Some(&row.observation),
            Candidate::Trial { observation, .. } => Some(observation),
            Candidate::Task { .. } | Candidate::Device(_) => None,
        }
    }

    fn model(&self) -> Option<&ModelRecord> {
        match &self.observation()?.subject {
            Subject::Model(record) => Some(record),
            _ => None,
        }
    }

    fn task(&self) -> Option<TaskKey> {
        match self.candidate {
            Candidate::Task { best, .. } => Some(best.task),
            _ => match &self.observation()?.subject {
                Subject::Trial { task, .. } | Subject::Final { task, .. } => Some(*task),
                Subject::Model(_) => None,
            },
        }
    }

    fn config(&self) -> Option<(String, ConfigKey)> {
        let config = match self.candidate {
            Candidate::Task { best, .. } => &best.found.config,
            _ => match &self.observation()?.subject {
                Subject::Trial { config, .. } | Subject::Final { config, .. } => config,
                Subject::Model(_) => return None,
            },
        };
        Some((config.to_string(), config.key()))
    }

    fn timing(&self) -> Option<Timing> {
        match self.candidate {
            Candidate::Task { best, .. } => Some(best.found.timing),
            _ => match self.observation()?.outcome {
                Outcome::Ok { timing, .. } => Some(timing),
                Outcome::Failed { .. } => None,
            },
        }
    }

    /// Against the default: ratio and its lower bound, in parts per million.
    fn ratio(&self) -> (Option<u64>, Option<u64>) {
        let measured = match self.candidate {
            Candidate::Task { best, .. } => best.found.ratio,
            _ => match self.observation().map(|observation| &observation.outcome) {
                Some(Outcome::Ok { ratio, .. }) => *ratio,
                _ => None,
            },
        };
        if let Some(ratio) = measured {
            return (Some(ratio.ppm), Some(ratio.lo_ppm));
        }
        let of_medians = self.model().zip(self.timing()).and_then(|(record, timing)| {
            let ppm = u128::from(record.default.median.0) * 1_000_000;
            u64::try_from(ppm.checked_div(u128::from(timing.median.0))?).ok()
        });
        (of_medians, None)
    }

    fn id(&self) -> Option<ObservationId> {
        match self.candidate {
            Candidate::Task { best, .. } => Some(best.found.from),
            _ => Some(self.observation()?.id),
        }
    }

    fn place(&self) -> (DeviceKey, EnvironmentKey) {
        match self.candidate {
            Candidate::Task { best, .. } => (best.device, best.found.environment),
            Candidate::Device(row) => (row.key, row.environment.key()),
            Candidate::Model(row) => (row.observation.device, row.observation.environment),
            Candidate::Trial { observation, .. } => (observation.device, observation.environment),
        }
    }

    fn cell(&self, field: Field) -> Result<Cell, IndexError> {
        Ok(match field {
            Field::Op | Field::Task => self.task_cell(field)?,
            Field::Driver => {
                let (device, environment) = self.place();
                self.facts.driver(device, environment)?.map_or_else(|| null("the environment names no driver"), text)
            }
            Field::Generation => match self.id().and_then(|id| generation_of(&self.facts.history, id)) {
                Some(generation) => Cell::Number(generation),
                None => null("not published yet"),
            },
            Field::Model | Field::Batch | Field::Transfer | Field::Compute | Field::Default => self.model_cell(field),
            Field::Throughput | Field::Memory | Field::Energy => self.model_cell(field),
            Field::Noise | Field::N | Field::P50 | Field::P99 | Field::Mad => self.timing_cell(field),
            Field::Ratio => self.ratio().0.map_or_else(|| null("never compared with the default"), Cell::Ratio),
            Field::RatioLo => self.ratio().1.map_or_else(|| null("no run-off against the default"), Cell::Ratio),
            Field::Config => self.config().map_or_else(|| null("a row of this kind has no config"), |(config, _)| text(config)),
            Field::Class => match self.observation().map(|observation| &observation.outcome) {
                Some(Outcome::Failed { class, .. }) => text(class.name()),
                _ => null("it did not fail"),
            },
            _ => self.run_cell(field),
        })
    }

    fn task_cell(&self, field: Field) -> Result<Cell, IndexError> {
        let Some(task) = self.task() else { return Ok(null("a row of this kind has no task")) };
        Ok(match (self.facts.name(task.0)?, field) {
            (Some(name), Field::Op) => text(name.split(' ').next().unwrap_or_default()),
            (Some(name), _) => text(name),
            (None, Field::Op) => null("the task's text is not in this database"),
            (None, _) => text(task.to_string()),
        })
    }

    fn timing_cell(&self, field: Field) -> Cell {
        let Some(timing) = self.timing() else { return null("it has no time") };
        match field {
            Field::Noise => text(timing.grade.name()),
            Field::N => Cell::Number(u64::from(timing.n)),
            Field::P50 => Cell::Time(timing.median),
            Field::P99 => Cell::Time(timing.p99),
            _ => Cell::Time(timing.mad),
        }
    }

    fn model_cell(&self, field: Field) -> Cell {
        let Some(record) = self.model() else { return null("a row of this kind has no model") };
        let batch = record.batch.rows();
        let time = |ps: Option<i64>| {
            ps.and_then(|ps| u64::try_from(ps).ok()).map_or_else(|| null("not measured"), |ps| Cell::Time(Picos(ps)))
        };
        match field {
            Field::Model => text(record.model_name.clone()),
            Field::Batch => Cell::Number(u64::from(batch)),
            Field::Default => Cell::Time(record.default.median),
            Field::Compute => time(at_batch(record.compute, batch)),
            Field::Transfer => match (at_batch(record.upload, batch), at_batch(record.download, batch)) {
                (None, None) => time(None),
                (up, down) => time(up.unwrap_or(0).checked_add(down.unwrap_or(0))),
            },
            Field::Throughput => Cell::Rate(record.throughput_milli_per_s),
            Field::Memory => Cell::Bytes(record.memory_bytes),
            _ => match record.energy_mj {
                Some(energy) => Cell::Energy(energy),
                None => null(record.energy_why.as_deref().unwrap_or("not measured")),
            },
        }
    }

    fn run_cell(&self, field: Field) -> Cell {
        let (device, share, grant, numerics, version, id, wall): (&str, Share, &Grant, Numerics, &str, _, Option<u64>) =
            match self.candidate {
                Candidate::Device(row) => {
                    return if field == Field::Device { text(row.device.name.0.clone()) } else { null("a device has none") };
                }
                Candidate::Task { best, .. } => {
                    let found = &best.found;
                    let name = &found.device_name.0;
                    (name, best.share, &found.grant, best.numerics, &found.tool_version, found.from, None)
                }
                Candidate::Model(row) => run(&row.observation),
                Candidate::Trial { observation, .. } => run(observation),
            };
        match field {
            Field::Device => text(device),
            Field::Share => Cell::Share(share.as_per_mille()),
            Field::Mechanism => text(grant.mechanism.clone()),
            Field::Units => Cell::Number(u64::from(grant.units)),
            Field::Numerics => text(numerics.name()),
            Field::Version => text(version),
            Field::Origin => text(id.writer.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            _ => wall.map_or_else(|| null("made of several observations"), Cell::Date),
        }
    }

    fn row(&self, columns: &[Field]) -> Result<Row, IndexError> {
        let mut notes = Vec::new();
        if let Some(task) = self.task() {
            notes.push(("task_key".to_owned(), task.to_string()));
        }
        if let Some(record) = self.model() {
            notes.push(("model_key".to_owned(), record.model.to_string()));
            notes.extend(record.dims.iter().map(|(name, size)| (format!("dim_{name}"), size.to_string())));
        }
        notes.push(("device_key".to_owned(), self.place().0.to_string()));
        notes.push(("environment_key".to_owned(), self.place().1.to_string()));
        match self.candidate {
            Candidate::Device(row) => {
                notes.push(("description".to_owned(), row.device.text.clone()));
                notes.push(("environment".to_owned(), row.environment.text.clone()));
            }
            _ => {
                if let Some(Outcome::Failed { detail, .. }) = self.observation().map(|observation| &observation.outcome) {
                    notes.push(("detail".to_owned(), detail.clone()));
                }
            }
        }
        Ok(Row {
            id: self.id().map_or_else(String::new, |id| id.to_string()),
            cells: columns.iter().map(|field| self.cell(*field)).collect::<Result<_, _>>()?,
            stale: self.mark(Mark::Stale),
            winner: self.mark(Mark::Winner),
            refused: self.mark(Mark::Refused),
            notes,
        })
    }
}

type Run<'a> = (&'a str, Share, &'a Grant, Numerics, &'a str, ObservationId, Option<u64>);

fn run(observation: &Observation) -> Run<'_> {
    let Observation { device_name, share, grant, numerics, tool_version, id, wall_clock_s, .. } = observation;
    (&device_name.0, *share, grant, *numerics, tool_version, *id, Some(*wall_clock_s))
}
