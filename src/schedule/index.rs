//! Predictions by (model, device, share, batch), as one generation of the records gives them. Immutable and swapped whole.

use super::{Facts, Foresight, Line, Nanos, Predictors};
use crate::forest::Training;
use schema::{Batch, DeviceName, Share};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// A model of an [`Index`], by its place there.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u16);

/// A device of an [`Index`] and of a [`Fleet`](super::Fleet), by its place in both.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// A [`Curve`] of an [`Index`], by its place there.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CurveId(pub u32);

/// A [`Row`]: its curve, and its place in it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub curve: CurveId,
    pub row: u16,
}

/// The largest batch an index takes: the table of splits has an element a row.
pub const BATCH_MAX: u32 = 1 << 16;

/// The parts of a run, one after the other.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Conversion and copy to where it is computed.
    pub upload: Nanos,
    pub compute: Nanos,
    pub download: Nanos,
}

/// One of the [`Stages`], in their order.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Upload,
    Compute,
    Download,
}

impl Stage {
    pub const ALL: [Stage; 3] = [Stage::Upload, Stage::Compute, Stage::Download];
}

impl Stages {
    /// One after the other.
    pub fn total(self) -> Nanos {
        self.upload + self.compute + self.download
    }

    /// What bounds a pipeline whose three engines work at once.
    pub fn slowest(self) -> Nanos {
        self.upload.max(self.compute).max(self.download)
    }

    pub fn get(self, stage: Stage) -> Nanos {
        [self.upload, self.compute, self.download][stage as usize]
    }

    /// Each stage made as many times as long.
    #[must_use]
    pub fn map(self, time: impl Fn(Stage, Nanos) -> Nanos) -> Stages {
        Stages {
            upload: time(Stage::Upload, self.upload),
            compute: time(Stage::Compute, self.compute),
            download: time(Stage::Download, self.download),
        }
    }

    /// Batches in flight that keep the slowest engine busy: min(3, ⌈ΣT / max T⌉) (papers §2.2, E8).
    pub fn streams(self) -> usize {
        let slowest = self.slowest().0.max(1);
        (self.total().0.div_ceil(slowest) as usize).clamp(1, 3)
    }
}

/// What was measured of one tuned batch.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Row {
    pub batch: Batch,
    /// Their sum is the measured time, whatever the fitted lines say.
    pub stages: Stages,
    /// Median absolute deviation of the measured time.
    pub spread: Nanos,
    /// Of one run of the batch; `None` where no counter told.
    pub energy_mj: Option<f64>,
}

/// The tuned batches of one model on one share of one device, and what follows from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    pub model: ModelId,
    pub device: DeviceId,
    pub share: Share,
    /// Ascending by batch; at least one.
    pub rows: Vec<Row>,
    /// Upload, compute and download over the batch.
    pub lines: [Line; 3],
    /// For 1 … B rows the row of the largest part of their cheapest split.
    first: Vec<u16>,
    /// For 1 … B rows the total time of that split.
    cost: Vec<Nanos>,
    /// For 1 … B rows the row of the cheapest batch that holds them all, the smallest of equals.
    holding: Vec<u16>,
}

impl Curve {
    /// The largest tuned batch.
    pub fn largest(&self) -> &Row {
        self.rows.last().expect("a curve has a row")
    }

    /// The row with which to begin `rows` waiting rows: the part with most rows of the split that takes least time, padding
    /// included (papers §2.5). Of more than the largest batch, that of so many.
    pub fn first_part(&self, rows: u32) -> usize {
        let largest = self.first.len();
        usize::from(self.first[(rows.max(1) as usize).min(largest) - 1])
    }

    /// The row that a long queue is worked off with.
    pub fn steady(&self) -> usize {
        self.first_part(u32::MAX)
    }

    /// The time of `rows` rows in their cheapest split.
    pub fn cost(&self, rows: u32) -> Nanos {
        let largest = self.largest().batch.rows();
        let rest = rows % largest;
        let whole = self.largest().stages.total() * (rows / largest);
        if rest == 0 { whole } else { whole + self.cost[rest as usize - 1] }
    }

    /// How a run of `rows` rows is computed: in the cheapest batch that holds them, or in the largest several times.
    pub fn fit(&self, rows: u32) -> Fit {
        match self.holding.get(rows.max(1) as usize - 1) {
            Some(&row) => Fit { row: usize::from(row), repeats: 1 },
            None => Fit { row: self.rows.len() - 1, repeats: rows.div_ceil(self.largest().batch.rows()) },
        }
    }

    /// The row of a tuned batch.
    pub fn row_of(&self, batch: Batch) -> Option<usize> {
        self.rows.iter().position(|row| row.batch == batch)
    }

    fn new(key: (ModelId, DeviceId, Share), rows: Vec<Row>) -> Curve {
        let lines = Stage::ALL.map(|stage| {
            let points: Vec<_> = rows.iter().map(|row| (row.batch.rows(), row.stages.get(stage))).collect();
            Line::through(&points)
        });
        let (first, cost) = splits(&rows);
        let holding = holding(&rows);
        Curve { model: key.0, device: key.1, share: key.2, rows, lines, first, cost, holding }
    }
}

/// Which row a run uses, and how often.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    pub row: usize,
    pub repeats: u32,
}

/// For each number of rows the cheapest split into tuned batches: the row of its largest part, and its time.
fn splits(rows: &[Row]) -> (Vec<u16>, Vec<Nanos>) {
    let largest = rows.last().map_or(0, |row| row.batch.rows() as usize);
    let (mut cost, mut first) = (vec![Nanos::ZERO; largest + 1], vec![0u16; largest + 1]);
    for q in 1..=largest {
        let split = |row: &Row| row.stages.total() + cost[q.saturating_sub(row.batch.rows() as usize)];
        // The last of the cheapest: of equal splits the one with the larger part.
        let (at, row) = rows.iter().enumerate().rev().min_by_key(|(_, row)| split(row)).expect("a curve has a row");
        cost[q] = split(row);
        let rest = q.saturating_sub(row.batch.rows() as usize);
        first[q] = if rest > 0 { first[rest].max(at as u16) } else { at as u16 };
    }
    (first.split_off(1), cost.split_off(1))
}

fn holding(rows: &[Row]) -> Vec<u16> {
    let mut holding = vec![0; rows.last().map_or(0, |row| row.batch.rows() as usize)];
    let mut cheapest = rows.len() - 1;
    for (at, row) in rows.iter().enumerate().rev() {
        if row.stages.total() <= rows[cheapest].stages.total() {
            cheapest = at;
        }
        let smaller = if at > 0 { rows[at - 1].batch.rows() as usize } else { 0 };
        holding[smaller..row.batch.rows() as usize].fill(cheapest as u16);
    }
    holding
}

/// A model at a choice of its axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub name: String,
    /// Its part of the devices when models compete, relative to the others'; above 0.
    pub weight: f64,
}

impl Model {
    /// Its name without the axes that tell its choices apart, as requests name it: `bert` of `bert[seq=128]`.
    pub fn plain_name(&self) -> &str {
        let axes = self.name.strip_suffix(']').and_then(|name| name.rsplit_once('['));
        axes.map_or(self.name.as_str(), |(name, _)| name)
    }
}

/// What an index is made from: a record of a model, with its fitted lines where there are any.
#[derive(Clone, Debug)]
pub struct Measured {
    pub model: ModelId,
    pub device: DeviceId,
    pub share: Share,
    pub batch: Batch,
    /// Of one run, upload and download included.
    pub time: Nanos,
    pub spread: Nanos,
    pub upload: Option<Line>,
    pub download: Option<Line>,
    pub energy_mj: Option<f64>,
}

/// Why records make no index.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum IndexError {
    #[error("model '{0}' is named twice")]
    ModelTwice(String),
    #[error("device '{0}' is named twice")]
    DeviceTwice(String),
    #[error("the weight of model '{model}' is {weight}; it is a number above 0")]
    Weight { model: String, weight: f64 },
    #[error(
        "models {0} and {1} beside each other take {2} times as long; it is a number from 1 on, and both are models of the index"
    )]
    Interference(u16, u16, f64),
    #[error("a record names model {model} and device {device}; there are {models} and {devices}")]
    Unknown { model: u16, device: u16, models: usize, devices: usize },
    #[error("model '{model}' on {device} at {share} %, batch {batch}: {what}")]
    Record { model: String, device: String, share: Share, batch: Batch, what: &'static str },
    #[error("the new index has other {0} than the one in use: those in use keep their places, new ones follow them")]
    Layout(&'static str),
}

/// See the module. Asking allocates nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    generation: u64,
    models: Vec<Model>,
    devices: Vec<DeviceName>,
    /// By model, device, share.
    curves: Vec<Curve>,
    /// The curves of each model.
    of_model: Vec<Range<usize>>,
    /// The first row of each curve, counted over all curves.
    row_base: Vec<usize>,
    facts: Facts,
    foresight: Option<Foresight>,
    /// By pair of models, where it is more than 1: see [`Index::with_interference`].
    interference: BTreeMap<(ModelId, ModelId), f64>,
}

impl Index {
    /// Orders the records of one generation. What was measured stands above what was fitted: the stages of a row sum up to its
    /// measured time, upload and download come from the lines, compute is the rest.
    ///
    /// # Errors
    /// [`IndexError`]: names or batches twice, unknown ids, a time of 0, a batch beyond [`BATCH_MAX`].
    pub fn new(
        generation: u64,
        models: Vec<Model>,
        devices: Vec<DeviceName>,
        mut measured: Vec<Measured>,
    ) -> Result<Index, IndexError> {
        check_names(&models, &devices)?;
        measured.sort_by_key(|record| (record.model, record.device, record.share, record.batch));
        let mut curves: Vec<Curve> = Vec::new();
        for same in measured.chunk_by(|a, b| (a.model, a.device, a.share) == (b.model, b.device, b.share)) {
            let mut rows: Vec<Row> = Vec::with_capacity(same.len());
            for record in same {
                check(record, rows.last(), &models, &devices)?;
                rows.push(row(record));
            }
            curves.push(Curve::new((same[0].model, same[0].device, same[0].share), rows));
        }
        Ok(Index::over(generation, models, devices, curves))
    }

    /// Of curves in their order.
    fn over(generation: u64, models: Vec<Model>, devices: Vec<DeviceName>, curves: Vec<Curve>) -> Index {
        let range = |model: usize| {
            let begin = curves.partition_point(|curve| usize::from(curve.model.0) < model);
            begin..curves.partition_point(|curve| usize::from(curve.model.0) <= model)
        };
        let of_model = (0..models.len()).map(range).collect();
        let bases = curves.iter().scan(0, |next, curve| {
            let base = *next;
            *next += curve.rows.len();
            Some(base)
        });
        let row_base = bases.collect();
        Index {
            generation,
            models,
            devices,
            of_model,
            row_base,
            curves,
            facts: Facts::default(),
            foresight: None,
            interference: BTreeMap::new(),
        }
    }

    /// With what is known besides times. Predictions that were made without it are gone.
    #[must_use]
    pub fn with_facts(self, facts: Facts) -> Index {
        Index { facts, foresight: None, ..self }
    }

    /// With predictions learnt from its own rows and from what it knows of other models, where that is enough. Takes 0.1 s for 720
    /// rows and a second for 4,800 (docs/measurements/schedule.md), so it belongs to the thread that makes the index, never to one
    /// that decides.
    #[must_use]
    pub fn taught(self, training: &Training) -> Index {
        match Predictors::of(&self, training) {
            Some(predictors) => self.with_predictors(Arc::new(predictors)),
            None => self,
        }
    }

    /// With predictions learnt elsewhere.
    #[must_use]
    pub fn with_predictors(self, predictors: Arc<Predictors>) -> Index {
        let table = predictors.table(&self);
        Index { foresight: Some(Foresight { predictors, table }), ..self }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn foresight(&self) -> Option<&Foresight> {
        self.foresight.as_ref()
    }

    /// The same with runs of two models taking `factor` times as long while they run side by side on shares of one device: shares part
    /// its units, not its memory bandwidth (papers §3.1). 1 where nothing was said.
    ///
    /// # Errors
    /// [`IndexError::Interference`] for a factor below 1 or no number, or a model that the index has not.
    pub fn with_interference(mut self, a: ModelId, b: ModelId, factor: f64) -> Result<Index, IndexError> {
        let known = |model: ModelId| usize::from(model.0) < self.models.len();
        if !(factor >= 1.0 && factor.is_finite() && known(a) && known(b)) {
            return Err(IndexError::Interference(a.0, b.0, factor));
        }
        let pair = (a.min(b), a.max(b));
        self.interference.insert(pair, factor);
        Ok(self)
    }

    /// Whether some pair has a factor.
    pub fn has_interference(&self) -> bool {
        !self.interference.is_empty()
    }

    /// How many times as long two models take side by side.
    pub fn interference(&self, a: ModelId, b: ModelId) -> f64 {
        let pair = (a.min(b), a.max(b));
        self.interference.get(&pair).copied().unwrap_or(1.0)
    }

    /// Which state of the records it was made from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn models(&self) -> &[Model] {
        &self.models
    }

    pub fn devices(&self) -> &[DeviceName] {
        &self.devices
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<ModelId> {
        self.models.iter().position(|model| model.name == name).map(|at| ModelId(at as u16))
    }

    pub fn curve(&self, id: CurveId) -> &Curve {
        &self.curves[id.0 as usize]
    }

    pub fn curves(&self) -> &[Curve] {
        &self.curves
    }

    /// The curves of a model by device and share; none of a model that it does not know.
    pub fn curves_of(&self, model: ModelId) -> impl Iterator<Item = (CurveId, &Curve)> {
        let range = self.of_model.get(usize::from(model.0)).cloned().unwrap_or(0..0);
        range.map(|at| (CurveId(at as u32), &self.curves[at]))
    }

    pub fn row(&self, id: RowId) -> &Row {
        &self.curve(id.curve).rows[usize::from(id.row)]
    }

    /// The number of rows of all curves.
    pub fn row_count(&self) -> usize {
        self.curves.iter().map(|curve| curve.rows.len()).sum()
    }

    /// The place of a row among all rows.
    pub fn row_number(&self, id: RowId) -> usize {
        self.row_base[id.curve.0 as usize] + usize::from(id.row)
    }

    /// The same records with other weights of the models, and of the rows those that `keep` names.
    ///
    /// # Panics
    /// Without a weight for each model.
    #[must_use]
    pub fn restricted(&self, weights: &[f64], keep: impl Fn(RowId) -> bool) -> Index {
        assert_eq!(weights.len(), self.models.len(), "each model has its weight");
        let models = self.models.iter().zip(weights).map(|(model, &weight)| Model { name: model.name.clone(), weight });
        let curve = |(at, curve): (usize, &Curve)| {
            let kept = |row: &usize| keep(RowId { curve: CurveId(at as u32), row: *row as u16 });
            let rows: Vec<Row> = (0..curve.rows.len()).filter(kept).map(|row| curve.rows[row]).collect();
            (!rows.is_empty()).then(|| Curve::new((curve.model, curve.device, curve.share), rows))
        };
        let curves = self.curves.iter().enumerate().filter_map(curve).collect();
        let index = Index::over(self.generation, models.collect(), self.devices.clone(), curves);
        Index { facts: self.facts.clone(), interference: self.interference.clone(), ..index }
    }

    /// Whether requests and workers that were numbered by this index mean the same in `next`.
    ///
    /// # Errors
    /// [`IndexError::Layout`].
    pub fn leads_to(&self, next: &Index) -> Result<(), IndexError> {
        let names = |index: &Index| index.models.iter().map(|model| model.name.clone()).collect::<Vec<_>>();
        if !names(next).starts_with(&names(self)) {
            return Err(IndexError::Layout("models"));
        }
        if next.devices != self.devices { Err(IndexError::Layout("devices")) } else { Ok(()) }
    }
}

fn check_names(models: &[Model], devices: &[DeviceName]) -> Result<(), IndexError> {
    for (at, model) in models.iter().enumerate() {
        if models[..at].iter().any(|other| other.name == model.name) {
            return Err(IndexError::ModelTwice(model.name.clone()));
        }
        if !(model.weight > 0.0 && model.weight.is_finite()) {
            return Err(IndexError::Weight { model: model.name.clone(), weight: model.weight });
        }
    }
    match devices.iter().enumerate().find(|(at, device)| devices[..*at].contains(device)) {
        Some((_, device)) => Err(IndexError::DeviceTwice(device.0.clone())),
        None => Ok(()),
    }
}

fn check(record: &Measured, before: Option<&Row>, models: &[Model], devices: &[DeviceName]) -> Result<(), IndexError> {
    let (model, device) = (record.model.0, record.device.0);
    let (Some(of), Some(on)) = (models.get(usize::from(model)), devices.get(usize::from(device))) else {
        return Err(IndexError::Unknown { model, device, models: models.len(), devices: devices.len() });
    };
    let what = if record.time == Nanos::ZERO {
        "a run takes more than 0 ns"
    } else if record.batch.rows() > BATCH_MAX {
        "its batch is larger than 65536"
    } else if before.is_some_and(|row| row.batch == record.batch) {
        "there are two records of it"
    } else {
        return Ok(());
    };
    let (model, device) = (of.name.clone(), on.0.clone());
    Err(IndexError::Record { model, device, share: record.share, batch: record.batch, what })
}

fn row(record: &Measured) -> Row {
    let of = |line: Option<Line>| Nanos::from_f64(line.unwrap_or_default().at(record.batch.rows()));
    let upload = of(record.upload).min(record.time);
    let download = of(record.download).min(record.time - upload);
    let stages = Stages { upload, compute: record.time - upload - download, download };
    Row { batch: record.batch, stages, spread: record.spread, energy_mj: record.energy_mj }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{curve, index};
    use super::*;

    fn naive(rows: &[Row], q: u32) -> u64 {
        if q == 0 {
            return 0;
        }
        rows.iter().map(|row| row.stages.total().0 + naive(rows, q.saturating_sub(row.batch.rows()))).min().unwrap()
    }

    #[test]
    fn a_split_takes_as_little_as_any_other() {
        for (k, c) in [(1, 8), (1, 1), (5, 1), (3, 0)] {
            let index = index(&[curve(&[1, 2, 5, 8], |b| c + k * b)]);
            let curve = &index.curves()[0];
            for q in 1..=20 {
                let expected =
                    if q <= 8 { naive(&curve.rows, q) } else { (c + k * 8) * u64::from(q / 8) + naive(&curve.rows, q % 8) };
                assert_eq!(curve.cost(q).0, expected, "{q} rows, {k} b + {c}");
            }
        }
    }

    /// The excess over a continuous line that papers §2.5 gives: padding alone, and splits.
    #[test]
    fn splits_cost_less_than_padding_by_the_published_figures() {
        for (c_over_k, split, padded) in [(8.0, 16.6, 25.1), (1.0, 6.2, 32.0), (0.2, 1.5, 33.0)] {
            let time = |q: u64| (1000.0 * (q as f64 + c_over_k)) as u64;
            let index = index(&[curve(&[1, 2, 4, 8, 16, 32, 64], time)]);
            let curve = &index.curves()[0];
            let excess = |cost: &dyn Fn(u32) -> f64| {
                (1..=64).map(|q| cost(q) / (1000.0 * (f64::from(q) + c_over_k)) - 1.0).sum::<f64>() / 64.0 * 100.0
            };
            let by_split = excess(&|q| curve.cost(q).as_f64());
            let by_padding = excess(&|q| curve.rows[curve.fit(q).row].stages.total().as_f64());
            assert!((by_split - split).abs() < 0.3, "c/k {c_over_k}: {by_split:.1} %, published {split}");
            assert!((by_padding - padded).abs() < 0.6, "c/k {c_over_k}: {by_padding:.1} %, published {padded}");
        }
    }

    #[test]
    fn waiting_rows_begin_with_the_largest_part() {
        let padded = index(&[curve(&[1, 2, 4, 8], |b| 8 + b)]);
        assert_eq!(padded.curves()[0].rows[padded.curves()[0].first_part(6)].batch.rows(), 8);
        let split = index(&[curve(&[1, 2, 4, 8], |b| 10 * b)]);
        assert_eq!(split.curves()[0].rows[split.curves()[0].first_part(6)].batch.rows(), 4);
        assert_eq!(split.curves()[0].rows[split.curves()[0].first_part(100)].batch.rows(), 8);
        assert_eq!(split.curves()[0].fit(20), Fit { row: 3, repeats: 3 });
    }

    #[test]
    fn a_measured_time_stands_above_the_lines() {
        let line = |per_row_ns| Some(Line { per_row_ns, fixed_ns: 0.0 });
        let measured = Measured { upload: line(30.0), download: line(90.0), time: Nanos(100), ..curve(&[1], |_| 1)[0].clone() };
        let stages = index(&[vec![measured]]).curves()[0].rows[0].stages;
        assert_eq!(stages, Stages { upload: Nanos(30), compute: Nanos(0), download: Nanos(70) });
    }

    #[test]
    fn records_that_make_no_sense_are_refused_by_name() {
        let models = || vec![Model { name: "m".into(), weight: 1.0 }];
        let devices = || vec![DeviceName("cpu".into())];
        let good = curve(&[1, 2], |b| b)[0].clone();
        let make = |records: Vec<Measured>| Index::new(1, models(), devices(), records).map(|_| ()).unwrap_err().to_string();
        assert!(make(vec![good.clone(), good.clone()]).contains("two records"));
        assert!(make(vec![Measured { time: Nanos(0), ..good.clone() }]).contains("more than 0 ns"));
        assert!(make(vec![Measured { batch: Batch::new(70_000).unwrap(), ..good.clone() }]).contains("65536"));
        assert!(make(vec![Measured { device: DeviceId(3), ..good }]).contains("device 3"));
        let twice = vec![models().remove(0), models().remove(0)];
        assert_eq!(Index::new(1, twice, devices(), vec![]), Err(IndexError::ModelTwice("m".into())));
        let index = Index::new(1, models(), devices(), vec![]).unwrap();
        for factor in [0.9, f64::NAN, f64::INFINITY] {
            assert!(index.clone().with_interference(ModelId(0), ModelId(0), factor).is_err(), "{factor}");
        }
        assert!(index.clone().with_interference(ModelId(0), ModelId(1), 1.5).is_err(), "there is one model");
        let weightless = vec![Model { name: "m".into(), weight: f64::NAN }];
        assert!(matches!(Index::new(1, weightless, devices(), vec![]), Err(IndexError::Weight { .. })));
    }
}
