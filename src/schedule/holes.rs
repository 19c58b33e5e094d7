//! Places where a model could run and nobody measured it, filled with what is predicted, so that every policy can choose them.

use super::predict::{Cost, setting};
use super::{DeviceId, Index, IndexError, Line, Measured, ModelId, Nanos, Row};
use schema::{Batch, Share};

/// A batch of a model that could run on a share of a device.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub model: ModelId,
    pub device: DeviceId,
    pub share: Share,
    pub batch: Batch,
}

/// The index with a row for each hole that has none, of the predicted time and 0 samples: a run there makes it a measured one to the
/// policy that counts runs. Holes that nothing is predicted of (no features, no cost of the model at that batch anywhere) stay holes.
///
/// # Errors
/// [`IndexError`]: a hole of an unknown model or device, or of a batch beyond the largest.
pub fn fill(index: &Index, holes: &[Hole]) -> Result<Index, IndexError> {
    let Some(foresight) = index.foresight() else { return Ok(index.clone()) };
    let mut rows = Vec::with_capacity(index.row_count() + holes.len());
    for curve in index.curves() {
        rows.extend(curve.rows.iter().map(|row| measured((curve.model, curve.device, curve.share), row)));
    }
    let mut facts = index.facts().clone();
    for &Hole { model, device, share, batch } in holes {
        let known = |row: &Measured| (row.model, row.device, row.share, row.batch) == (model, device, share, batch);
        if usize::from(device.0) >= index.devices().len() || rows.iter().any(known) {
            continue;
        }
        let predictors = &foresight.predictors;
        let Some(of) = setting(index, (model, batch), (device, share)) else { continue };
        let Some(reference) = predictors.reference(index, model, batch, Cost::Time) else { continue };
        let time = Nanos::from_f64(f64::from(reference + predictors.time.ln_ratio(&of)).exp()).max(Nanos(1));
        let spread = time.scaled(f64::from(predictors.time.forest().out_of_bag()));
        let energy = || {
            let of_energy = predictors.predictor(Cost::Energy)?.ln_ratio(&of);
            Some(f64::from(predictors.reference(index, model, batch, Cost::Energy)? + of_energy).exp())
        };
        rows.push(Measured { model, device, share, batch, time, spread, upload: None, download: None, energy_mj: energy() });
        facts.samples.insert((model, device, share, batch), 0);
    }
    let filled = Index::new(index.generation(), index.models().to_vec(), index.devices().to_vec(), rows)?;
    Ok(filled.with_facts(facts).with_predictors(foresight.predictors.clone()))
}

/// A row as it was measured.
fn measured((model, device, share): (ModelId, DeviceId, Share), row: &Row) -> Measured {
    let exactly = |time: Nanos| Some(Line { per_row_ns: 0.0, fixed_ns: time.as_f64() });
    Measured {
        model,
        device,
        share,
        batch: row.batch,
        time: row.stages.total(),
        spread: row.spread,
        upload: exactly(row.stages.upload),
        download: exactly(row.stages.download),
        energy_mj: row.energy_mj,
    }
}
