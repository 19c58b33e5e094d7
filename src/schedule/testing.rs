//! Indexes for tests: a model a curve or several, on devices without names of their own.

use super::{DeviceId, Index, Line, Measured, Model, ModelId, Nanos};
use schema::{Batch, DeviceName, Share};

/// The records of the first model on the whole of the first device, with these times in nanoseconds.
pub(crate) fn curve(batches: &[u32], time: impl Fn(u64) -> u64) -> Vec<Measured> {
    let record = |&batch: &u32| Measured {
        model: ModelId(0),
        device: DeviceId(0),
        share: Share::WHOLE,
        batch: Batch::new(batch).unwrap(),
        time: Nanos(time(u64::from(batch))),
        spread: Nanos::ZERO,
        upload: None,
        download: None,
        energy_mj: None,
    };
    batches.iter().map(record).collect()
}

/// The same records for another model, device and share, in per cents.
pub(crate) fn placed(records: Vec<Measured>, model: u16, device: u16, percent: f64) -> Vec<Measured> {
    let share = Share::percent(percent).unwrap();
    let place = |record| Measured { model: ModelId(model), device: DeviceId(device), share, ..record };
    records.into_iter().map(place).collect()
}

/// The reference device of papers: 1 ms a row and 8 ms fixed, of which a part is transfers, half of it each way.
pub(crate) fn reference(batches: &[u32], transfers: f64) -> Vec<Measured> {
    let line = |part: f64| Some(Line { per_row_ns: 1e6 * part, fixed_ns: 8e6 * part });
    let records = curve(batches, |b| (b + 8) * 1_000_000);
    records
        .into_iter()
        .map(|record| Measured { upload: line(transfers / 2.0), download: line(transfers / 2.0), ..record })
        .collect()
}

/// An index over the records, with models and devices as they name.
pub(crate) fn index(curves: &[Vec<Measured>]) -> Index {
    let all: Vec<Measured> = curves.concat();
    let models = all.iter().map(|record| record.model.0 + 1).max().unwrap_or(1);
    let devices = all.iter().map(|record| record.device.0 + 1).max().unwrap_or(1);
    let model = |at| Model { name: format!("m{at}"), weight: 1.0 };
    let device = |at| DeviceName(format!("d{at}"));
    Index::new(1, (0..models).map(model).collect(), (0..devices).map(device).collect(), all).unwrap()
}
