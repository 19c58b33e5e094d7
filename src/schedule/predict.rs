//! Costs of models on devices where nobody measured them, by random forests over what was measured elsewhere (papers §1).
//!
//! What is learnt is not a best device but `ln(cost / cost on the reference)`, the reference being the host at its largest share: the
//! device is a feature, so the choice is left to whoever asks, among the devices that are present. An absolute cost needs one
//! measured cost of the same model and batch anywhere.
//!
//! Where we differ from papers §1: state (idle time, clock) is no feature but a factor, of `Wake` and of `Refit`, which needs no examples;
//! in the place of a device's bandwidth stands the mean of what its share cost in the examples (a category's mean response, by which
//! Breiman 1984 orders categories), since not every device has a probe; time per row orders devices as time does at one batch, so one
//! forest answers for latency and throughput.

use super::{Curve, CurveId, DeviceId, Index, ModelId, RowId};
use crate::forest::{Forest, ForestError, Rows, Training, grow};
use schema::{Batch, Features, Share};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values of a setting that a forest sees.
const WIDTH: usize = 25;
/// Fewer examples teach nothing.
const EXAMPLES_MIN: usize = 16;

/// A model at a batch on a share of a device, as far as it's known without running it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Setting {
    pub features: Features,
    pub batch: Batch,
    pub device: DeviceId,
    pub share: Share,
    /// 0 a host, 1 wgpu, 2 CUDA, 3 anything else.
    pub class: u8,
    pub units: u32,
}

/// What a setting cost, as the logarithm of its ratio to the reference.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Example {
    pub setting: Setting,
    pub ln_ratio: f32,
}

/// Which cost.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    Time,
    Energy,
}

/// A forest with what its features are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictor {
    forest: Forest,
    /// The mean of the examples of a share of a device.
    means: BTreeMap<(DeviceId, Share), f32>,
    mean: f32,
}

impl Predictor {
    /// Learns from examples; takes time.
    ///
    /// # Errors
    /// [`ForestError`]: no example, or too many.
    pub fn learn(examples: &[Example], training: &Training) -> Result<Predictor, ForestError> {
        let mut sums: BTreeMap<(DeviceId, Share), (f64, u32)> = BTreeMap::new();
        for Example { setting, ln_ratio } in examples {
            let (sum, count) = sums.entry((setting.device, setting.share)).or_default();
            (*sum, *count) = (*sum + f64::from(*ln_ratio), *count + 1);
        }
        let means = sums.into_iter().map(|(place, (sum, count))| (place, (sum / f64::from(count)) as f32)).collect();
        let all: f64 = examples.iter().map(|example| f64::from(example.ln_ratio)).sum();
        let mean = (all / examples.len().max(1) as f64) as f32;
        let mut rows = Rows::new(WIDTH);
        examples.iter().for_each(|example| rows.push(&vector(&example.setting, &means, mean), example.ln_ratio));
        Ok(Predictor { forest: grow(&rows, training)?, means, mean })
    }

    /// The logarithm of the setting's cost over the reference's. Allocates nothing.
    pub fn ln_ratio(&self, setting: &Setting) -> f32 {
        self.forest.predict(&vector(setting, &self.means, self.mean))
    }

    pub fn forest(&self) -> &Forest {
        &self.forest
    }
}

fn vector(setting: &Setting, means: &BTreeMap<(DeviceId, Share), f32>, mean: f32) -> [f32; WIDTH] {
    let Setting { features: f, batch, device, share, class, units } = setting;
    let log = |value: u64| ((value as f64) + 1.0).log2() as f32;
    let touched = f.input_bytes.saturating_add(f.output_bytes).saturating_add(f.weights_bytes).max(1);
    let (mut sum, mut count) = (0.0, 0);
    let own = means.iter().filter(|((of, _), _)| of == device);
    own.for_each(|(_, mean)| (sum, count) = (sum + mean, count + 1));
    let of_device = if count > 0 { sum / count as f32 } else { mean };
    [
        log(u64::from(batch.rows())),
        log(f.parameters),
        log(f.flops),
        log(f.input_bytes),
        log(f.output_bytes),
        log(f.weights_bytes),
        log(f.activation_bytes),
        (f.flops as f64 / touched as f64 + 1e-3).log2() as f32,
        f.convs as f32,
        f.depthwise_convs as f32,
        f.gemms as f32,
        f.attentions as f32,
        f.recurrents as f32,
        f.embeddings as f32,
        f.elementwises as f32,
        f.others as f32,
        f.depth as f32,
        f.width_max as f32,
        f.width_milli as f32,
        log(f.gemm_max),
        f.tuned_ppm as f32,
        f32::from(*class),
        *units as f32,
        f32::from(share.as_per_mille()),
        means.get(&(*device, *share)).copied().unwrap_or(of_device),
    ]
}

/// A forest for each cost that there are examples of.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictors {
    pub time: Predictor,
    pub energy: Option<Predictor>,
    /// How both were grown; what comes after them is grown alike.
    pub training: Training,
}

/// What is predicted of a row: the logarithms of its nanoseconds and, where energies were measured, of its millijoules.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Predicted {
    pub ln_time: Option<f32>,
    pub ln_energy: Option<f32>,
    /// Of the reference, the part of `ln_time` that no forest says.
    pub ln_reference: f32,
}

impl Predictors {
    /// Learns from the rows of an index and from what it knows of other models; `None` when that is too little. For how long it
    /// takes see [`Index::taught`].
    pub fn of(index: &Index, training: &Training) -> Option<Predictors> {
        Predictors::learn(&lessons(index, Cost::Time), &lessons(index, Cost::Energy), training)
    }

    /// Learns from examples of both costs; `None` when those of time are too few.
    pub fn learn(time: &[Example], energy: &[Example], training: &Training) -> Option<Predictors> {
        let learn = |all: &[Example]| {
            let enough = all.len() >= EXAMPLES_MIN;
            enough.then(|| Predictor::learn(&all[all.len().saturating_sub(crate::forest::ROWS_MAX)..], training).ok()).flatten()
        };
        Some(Predictors { time: learn(time)?, energy: learn(energy), training: training.clone() })
    }

    /// What is predicted of each row of an index, by its number.
    pub fn table(&self, index: &Index) -> Vec<Predicted> {
        let mut table = vec![Predicted::default(); index.row_count()];
        for (id, curve) in (0..).map(CurveId).zip(index.curves()) {
            for (at, row) in curve.rows.iter().enumerate() {
                let id = RowId { curve: id, row: at as u16 };
                let place = &mut table[index.row_number(id)];
                if let Some((time, reference)) = self.predict(index, curve, row.batch, Cost::Time) {
                    (place.ln_time, place.ln_reference) = (Some(time), reference);
                }
                place.ln_energy = self.predict(index, curve, row.batch, Cost::Energy).map(|(energy, _)| energy);
            }
        }
        table
    }

    /// The logarithm of a cost, and of the reference's.
    fn predict(&self, index: &Index, curve: &Curve, batch: Batch, cost: Cost) -> Option<(f32, f32)> {
        let predictor = self.predictor(cost)?;
        let setting = setting(index, (curve.model, batch), (curve.device, curve.share))?;
        let reference = self.reference(index, curve.model, batch, cost)?;
        Some((reference + predictor.ln_ratio(&setting), reference))
    }

    pub fn predictor(&self, cost: Cost) -> Option<&Predictor> {
        match cost {
            Cost::Time => Some(&self.time),
            Cost::Energy => self.energy.as_ref(),
        }
    }

    /// The logarithm of what a model's batch costs on the reference: measured, else what measured costs elsewhere tell of it.
    pub fn reference(&self, index: &Index, model: ModelId, batch: Batch, cost: Cost) -> Option<f32> {
        if let Some(measured) = measured_reference(index, model, batch, cost) {
            return Some(measured);
        }
        let predictor = self.predictor(cost)?;
        let told = index.curves_of(model).filter_map(|(_, curve)| {
            let ln_cost = measured(index, curve, batch, cost)?;
            Some(ln_cost - predictor.ln_ratio(&setting(index, (model, batch), (curve.device, curve.share))?))
        });
        let (sum, count) = told.fold((0.0, 0), |(sum, count), ln_cost| (sum + ln_cost, count + 1));
        (count > 0).then(|| sum / count as f32)
    }
}

/// Every measured row of an index whose model has features and whose reference was measured.
pub fn examples(index: &Index, cost: Cost) -> Vec<(RowId, Example)> {
    let mut examples = Vec::new();
    for (id, curve) in (0..).map(CurveId).zip(index.curves()) {
        for (at, row) in curve.rows.iter().enumerate() {
            let example = || {
                let setting = setting(index, (curve.model, row.batch), (curve.device, curve.share))?;
                let reference = measured_reference(index, curve.model, row.batch, cost)?;
                Some(Example { setting, ln_ratio: measured(index, curve, row.batch, cost)? - reference })
            };
            examples.extend(example().map(|example| (RowId { curve: id, row: at as u16 }, example)));
        }
    }
    examples
}

/// All that an index has to learn a cost from; its own rows are the last.
pub(super) fn lessons(index: &Index, cost: Cost) -> Vec<Example> {
    let others = index.facts().elsewhere.iter().filter(|(of, _)| *of == cost).map(|(_, example)| *example);
    others.chain(examples(index, cost).into_iter().map(|(_, example)| example)).collect()
}

/// What the rows of another index cost on devices of this one, which may have other numbers there. Models with rows of their own here are
/// left out.
pub fn examples_elsewhere(index: &Index, other: &Index) -> Vec<(Cost, Example)> {
    let known = |row: RowId| {
        let name = &other.models()[usize::from(other.curve(row.curve).model.0)].name;
        index.model(name).is_some_and(|model| index.curves_of(model).next().is_some())
    };
    let here = |device: DeviceId| {
        let name = &other.devices()[usize::from(device.0)];
        index.devices().iter().position(|own| own == name).map(|at| DeviceId(at as u16))
    };
    let of = |cost| examples(other, cost).into_iter().filter(|(row, _)| !known(*row)).map(move |(_, example)| (cost, example));
    let all = [Cost::Time, Cost::Energy].into_iter().flat_map(of);
    all.filter_map(|(cost, example)| {
        let setting = Setting { device: here(example.setting.device)?, ..example.setting };
        Some((cost, Example { setting, ..example }))
    })
    .collect()
}

/// A setting of an index; `None` when the model's features are not known.
pub fn setting(index: &Index, (model, batch): (ModelId, Batch), (device, share): (DeviceId, Share)) -> Option<Setting> {
    let features = *index.facts().features.get(&(model, batch))?;
    let units = index.facts().units.get(&(device, share)).copied().unwrap_or(0);
    Some(Setting { features, batch, device, share, class: class(&index.devices()[usize::from(device.0)].0), units })
}

impl Index {
    /// The setting of each row, by its number; `None` where the model's features are not known.
    pub(super) fn settings(&self) -> Vec<Option<Setting>> {
        let of = |curve: &Curve, batch| setting(self, (curve.model, batch), (curve.device, curve.share));
        self.curves().iter().flat_map(|curve| curve.rows.iter().map(move |row| of(curve, row.batch))).collect()
    }
}

fn class(device: &str) -> u8 {
    let kinds = ["cpu", "wgpu", "cuda"];
    kinds.iter().position(|kind| device.starts_with(kind)).unwrap_or(kinds.len()) as u8
}

/// The device that ratios are to: the first host, or the first device where there is none.
fn reference_device(index: &Index) -> DeviceId {
    let host = index.devices().iter().position(|device| class(&device.0) == 0);
    DeviceId(host.unwrap_or(0) as u16)
}

fn measured_reference(index: &Index, model: ModelId, batch: Batch, cost: Cost) -> Option<f32> {
    let device = reference_device(index);
    let (_, curve) = index.curves_of(model).find(|(_, curve)| (curve.device, curve.share) == (device, Share::WHOLE))?;
    measured(index, curve, batch, cost)
}

/// The logarithm of a measured cost.
fn measured(index: &Index, curve: &Curve, batch: Batch, cost: Cost) -> Option<f32> {
    let row = &curve.rows[curve.row_of(batch)?];
    let samples = index.facts().samples.get(&(curve.model, curve.device, curve.share, batch));
    let cost = match cost {
        _ if samples == Some(&0) => return None,
        Cost::Time => row.stages.total().as_f64(),
        Cost::Energy => row.energy_mj?,
    };
    (cost > 0.0).then(|| cost.ln() as f32)
}

/// Predictors with what they say of each row of one index.
#[derive(Clone, Debug, PartialEq)]
pub struct Foresight {
    pub predictors: Arc<Predictors>,
    /// By row number.
    pub table: Vec<Predicted>,
}
