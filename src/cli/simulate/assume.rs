//! What is assumed beyond the records: rows that nobody measured, and what runs beside each other cost one another.

use crate::cli::Failure;
use crate::schedule::{Hole, Index, ModelId, fill};
use std::collections::BTreeSet;

/// The index with every model on every share that some model was measured on, in each batch that its features are known of.
///
/// # Errors
/// [`Failure`] when the records are too few to predict from, or know a model at a batch that no index takes.
pub fn filled(index: &Index) -> Result<Index, Failure> {
    if index.foresight().is_none() {
        let why = "the records are too few to predict from: forests learn from 16 rows on, of models whose features are known";
        return Err(Failure::new("usage.value", "--fill", why).remedy("tune more models or batches"));
    }
    let shares: BTreeSet<_> = index.curves().iter().map(|curve| (curve.device, curve.share)).collect();
    let at = |&(model, batch)| shares.iter().map(move |&(device, share)| Hole { model, device, share, batch });
    let holes: Vec<Hole> = index.facts().features.keys().flat_map(at).collect();
    fill(index, &holes).map_err(|error| Failure::new("input.malformed", "the records", error))
}

/// Rows that are predicted and not measured.
pub fn predicted(index: &Index) -> usize {
    index.facts().samples.values().filter(|&&samples| samples == 0).count()
}

/// The index with each run that works beside another taking so many times as long.
pub fn beside(index: Index, factor: f64) -> Index {
    let models = index.models().len() as u16;
    let pairs = (0..models).flat_map(|a| (a..models).map(move |b| (ModelId(a), ModelId(b))));
    let known = |index: Index, (a, b)| index.with_interference(a, b, factor).expect("the models are the index' own");
    if factor > 1.0 { pairs.fold(index, known) } else { index }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::Training;
    use crate::schedule::testing::{curve, index, placed};
    use crate::schedule::{Facts, Nanos};
    use schema::{Batch, Features};

    /// Twelve models of which one was not measured on the second device, where all others take twice as long.
    #[test]
    fn what_nobody_measured_is_filled_by_what_others_took_there() {
        let time = |model: u64| move |rows: u64| (model + 1) * rows * 100_000;
        let on = |device: u16| {
            move |model: u16| {
                placed(curve(&[1, 2], move |rows| time(u64::from(model))(rows) * (u64::from(device) + 1)), model, device, 100.0)
            }
        };
        let records: Vec<_> = (0..12).map(on(0)).chain((0..11).map(on(1))).collect();
        let of = |model: u16, rows: u32| {
            let features = Features { flops: u64::from(model + 1) * u64::from(rows) * 1_000_000, ..Features::default() };
            ((ModelId(model), Batch::new(rows).unwrap()), features)
        };
        let features = (0..12).flat_map(|model| [of(model, 1), of(model, 2)]).collect();
        let known = index(&records).with_facts(Facts { features, ..Facts::default() });
        assert!(filled(&known).is_err(), "nothing was learnt");
        let known = known.taught(&Training::default());
        let filled = filled(&known).unwrap();
        assert_eq!((known.row_count(), filled.row_count(), predicted(&filled)), (46, 48, 2));
        let (_, curve) = filled.curves_of(ModelId(11)).nth(1).unwrap();
        let predicted = curve.rows[0].stages.total();
        assert!(predicted > Nanos(1_800_000) && predicted < Nanos(3_000_000), "{predicted}, the law says 2.4 ms");
    }

    #[test]
    fn all_pairs_cost_each_other_the_same() {
        let two = index(&[curve(&[1], |rows| rows), placed(curve(&[1], |rows| rows), 1, 0, 100.0)]);
        assert!(!beside(two.clone(), 1.0).has_interference());
        let two = beside(two, 1.5);
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert_eq!(two.interference(ModelId(a), ModelId(b)), 1.5);
        }
    }
}
