//! From model records to an index and the fleet that they were measured on.

use super::{DeviceId, Engines, Facts, Fleet, FleetDevice, Index, IndexError, Line, Measured, Model, ModelId, Nanos, Wake};
use schema::{DeviceKey, DeviceName, ModelFeatures, ModelRecord, Observation, Outcome, Share, Subject, Timing};
use std::collections::BTreeMap;

/// What records tell of models, devices and shares. Trials and failed runs tell nothing. Of several records of a model at one batch on one
/// share of a device the fastest counts: that is the plan which an artifact would keep. A model with fixed axes is one of its own for
/// each choice, named `bert[seq=128]`. Devices of one name that are not the same are told apart by their keys, as `cpu#3f0c`.
///
/// A device has as many workers of each recorded share as fit into it. `engines` is what copies on devices other than hosts. On a host copying
/// takes cores that compute: two halves that copy and compute in turns do at least as much as one that computes while the other copies
/// (`simulate::proofs::host`), so what pays there is decided between its shares.
///
/// # Errors
/// [`IndexError`] when a record makes no sense.
pub fn from_records<'a>(
    generation: u64,
    engines: Engines,
    records: impl IntoIterator<Item = &'a Observation>,
) -> Result<(Fleet, Index), IndexError> {
    let mut fastest = BTreeMap::new();
    let mut devices: BTreeMap<(&DeviceName, DeviceKey), Vec<Share>> = BTreeMap::new();
    let mut models: BTreeMap<String, ()> = BTreeMap::new();
    for record in records {
        let (Subject::Model(of), Outcome::Ok { timing, .. }) = (&record.subject, &record.outcome) else { continue };
        let name = name_of(of);
        let device = (&record.device_name, record.device);
        devices.entry(device).or_default().push(record.share);
        models.insert(name.clone(), ());
        let place = fastest.entry((name, device, record.share, of.batch)).or_insert((of, timing));
        if timing.median < place.1.median {
            *place = (of, timing);
        }
    }
    let measured = fastest.iter().map(|((name, device, share, _), (of, timing))| {
        let model = models.keys().position(|known| known == name).expect("every record's model was kept");
        let at = devices.keys().position(|known| known == device).expect("every record's device was kept");
        measured((ModelId(model as u16), DeviceId(at as u16), *share), of, timing)
    });
    let measured = measured.collect();
    let fleet_device = |((name, _), shares): (&(&DeviceName, DeviceKey), &Vec<Share>)| FleetDevice {
        engines: if name.0.starts_with("cpu") { Engines::None } else { engines },
        gap: Nanos::ZERO,
        workers: workers(shares),
        // Records do not say which units a share was of.
        overlaps: Vec::new(),
    };
    let fleet = Fleet { devices: devices.iter().map(fleet_device).collect() };
    let same_name = |name: &DeviceName| devices.keys().filter(|(other, _)| *other == name).count();
    let device_name = |(name, key): &(&DeviceName, DeviceKey)| match same_name(name) {
        1 => (*name).clone(),
        _ => DeviceName(format!("{name}#{}", &key.to_string()[..4])),
    };
    let names = devices.keys().map(device_name).collect();
    let models = models.into_keys().map(|name| Model { name, weight: 1.0 }).collect();
    Ok((fleet, Index::new(generation, models, names, measured)?))
}

/// What the records that made an index tell besides times, with the features of its models and how its devices wake. A model's features count at all its batches,
/// measured or not.
pub fn facts<'a>(
    index: &Index,
    records: impl IntoIterator<Item = &'a Observation>,
    features: &[ModelFeatures],
    wakes: &BTreeMap<DeviceKey, Wake>,
) -> Facts {
    let mut facts = Facts::default();
    let mut models = BTreeMap::new();
    for record in records {
        let (Subject::Model(of), Outcome::Ok { timing, .. }) = (&record.subject, &record.outcome) else { continue };
        let key = format!("{}#{}", record.device_name, &record.device.to_string()[..4]);
        let device = index.devices().iter().position(|name| *name == record.device_name || name.0 == key);
        let (Some(model), Some(device)) = (index.model(&name_of(of)), device) else { continue };
        let device = DeviceId(device as u16);
        models.insert((of.model, &of.dims), model);
        facts.units.insert((device, record.share), record.grant.units);
        facts.wakes.extend(wakes.get(&record.device).map(|wake| (device, *wake)));
        let samples = facts.samples.entry((model, device, record.share, of.batch)).or_default();
        *samples = (*samples).max(timing.n);
    }
    for of in features {
        if let Some(model) = models.get(&(of.model, &of.dims)) {
            facts.features.insert((*model, of.batch), of.features);
        }
    }
    facts
}

fn name_of(record: &ModelRecord) -> String {
    let dims: Vec<String> = record.dims.iter().map(|(name, extent)| format!("{name}={extent}")).collect();
    if dims.is_empty() { record.model_name.clone() } else { format!("{}[{}]", record.model_name, dims.join(",")) }
}

fn measured((model, device, share): (ModelId, DeviceId, Share), record: &ModelRecord, timing: &Timing) -> Measured {
    Measured {
        model,
        device,
        share,
        batch: record.batch,
        time: timing.median.into(),
        spread: timing.mad.into(),
        upload: record.upload.map(Line::from),
        download: record.download.map(Line::from),
        energy_mj: record.energy_mj.map(|energy| energy as f64),
    }
}

/// As many workers of each share as the device holds.
fn workers(shares: &[Share]) -> Vec<Share> {
    let mut distinct = shares.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.iter().rev().flat_map(|&share| vec![share; 1000 / usize::from(share.as_per_mille())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use schema::{Batch, FailureClass, Picos};

    fn record(model: &str, device: (&str, u8), percent: f64, rows: u32, nanos: u64) -> Observation {
        let timing = Timing { mad: Picos(1500), ..made_up::timing(Picos(nanos * 1000)) };
        let line = |slope_ps| Some(schema::Line { slope_ps, intercept_ps: -5 });
        let record = ModelRecord {
            batch: Batch::new(rows).unwrap(),
            upload: line(2000),
            download: line(1000),
            energy_mj: Some(7),
            ..made_up::model_record(model, timing)
        };
        Observation {
            device: DeviceKey([device.1; 16]),
            device_name: DeviceName(device.0.into()),
            share: Share::percent(percent).unwrap(),
            ..made_up::observation(Subject::Model(Box::new(record)), timing)
        }
    }

    #[test]
    fn records_become_models_devices_workers_and_rows() {
        let mut failed = record("b", ("wgpu:0", 3), 50.0, 8, 1);
        failed.outcome = Outcome::Failed { class: FailureClass::Crash, detail: String::new() };
        let records = [
            record("b", ("cpu", 1), 50.0, 1, 200),
            record("b", ("cpu", 1), 50.0, 1, 100),
            record("a", ("cpu", 1), 100.0, 4, 900),
            record("a", ("wgpu:0", 3), 25.0, 4, 300),
            failed,
        ];
        let (fleet, index) = from_records(5, Engines::Two, &records).unwrap();
        assert_eq!(index.models().iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((index.generation(), index.devices().len(), index.row_count()), (5, 2, 3));
        let shares = |at: usize| fleet.devices[at].workers.iter().map(|share| share.as_percent()).collect::<Vec<_>>();
        assert_eq!((shares(0), shares(1)), (vec![100.0, 50.0, 50.0], vec![25.0; 4]));
        assert_eq!((fleet.devices[0].engines, fleet.devices[1].engines), (Engines::None, Engines::Two));
        let (_, curve) = index.curves_of(index.model("b").unwrap()).next().unwrap();
        let row = curve.rows[0];
        assert_eq!((row.stages.total(), row.stages.upload, row.stages.download), (Nanos(100), Nanos(2), Nanos(1)));
        assert_eq!((row.spread, row.energy_mj), (Nanos(2), Some(7.0)));
    }

    #[test]
    fn devices_of_one_name_and_models_of_other_axes_are_told_apart() {
        let mut other = record("a", ("cpu", 2), 100.0, 1, 100);
        let Subject::Model(of) = &mut other.subject else { panic!() };
        of.dims = vec![("seq".into(), 128)];
        let (_, index) = from_records(1, Engines::None, &[record("a", ("cpu", 1), 100.0, 1, 100), other]).unwrap();
        assert_eq!(index.devices().iter().map(|name| name.0.as_str()).collect::<Vec<_>>(), ["cpu#0101", "cpu#0202"]);
        assert!(index.model("a").is_some() && index.model("a[seq=128]").is_some());
        assert_eq!(from_records(1, Engines::None, &[]).unwrap().1.models().len(), 0);
    }
}
