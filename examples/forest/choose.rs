//! Decisions that have a right answer, and the neighbour that a forest is compared with.

use super::passes::Passes;
use schema::Picos;
use std::collections::BTreeMap;
use tunewright::measure::noise;
use tunewright::schedule::{Example, Index, ModelId, RowId, Setting};

/// Robust deviations of a ratio's logarithm within which two places are equal.
const DEVIATIONS: f64 = 2.0;
/// A normal deviation over its median absolute deviation.
const OVER_MAD: f64 = 1.4826;

/// A place to choose, with what it costs there.
#[derive(Clone, Debug)]
pub struct Place {
    pub setting: Setting,
    pub cost: f64,
    /// Deviation of the cost's logarithm, of single runs.
    pub deviation: f64,
    /// What it took in each pass that measured it.
    pub passes: BTreeMap<usize, Picos>,
}

impl Place {
    /// Whether this one costs more than another by more than the noise: the interval of their ratio over the passes that measured both lies
    /// above 1; with too few of those, their medians differ by more than the deviations of single runs.
    fn is_dearer(&self, than: &Place) -> bool {
        let both = |(pass, own): (&usize, &Picos)| than.passes.get(pass).map(|other| (*own, *other));
        let pairs: Vec<(Picos, Picos)> = self.passes.iter().filter_map(both).collect();
        match noise::ratio(&pairs) {
            Some(ratio) if pairs.len() >= noise::PAIRS_MIN => ratio.lo_ppm > 1_000_000,
            _ => (self.cost / than.cost).ln() > DEVIATIONS * self.deviation.hypot(than.deviation),
        }
    }
}

/// Which of the places is best for a model at a batch?
#[derive(Clone, Debug)]
pub struct Decision {
    pub model: ModelId,
    /// 0 among all places, 1 between two of different devices.
    pub kind: usize,
    pub places: Vec<Place>,
}

impl Decision {
    /// What choosing a place costs over the best, as a part of that.
    pub fn regret(&self, chosen: usize) -> f64 {
        self.places[chosen].cost / self.least().cost - 1.0
    }

    fn least(&self) -> &Place {
        self.places.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).expect("a decision has places")
    }

    /// Whether the best is better than every other by more than the noise.
    pub fn can_be_told(&self) -> bool {
        let best = self.least();
        self.places.iter().filter(|place| !std::ptr::eq(*place, best)).all(|other| other.is_dearer(best))
    }
}

/// All decisions that the rows know the answer of.
pub fn decisions(index: &Index, passes: &Passes, rows: &[(RowId, Example)]) -> Vec<Decision> {
    let mut groups: BTreeMap<(ModelId, schema::Batch), Vec<Place>> = BTreeMap::new();
    for (id, example) in rows {
        let row = index.row(*id);
        let cost = row.stages.total().as_f64();
        let deviation = OVER_MAD * row.spread.as_f64() / cost;
        let place = Place { setting: example.setting, cost, deviation, passes: passes.of(index, *id) };
        groups.entry((index.curve(id.curve).model, row.batch)).or_default().push(place);
    }
    let mut decisions = Vec::new();
    for ((model, _), places) in groups.into_iter().filter(|(_, places)| places.len() > 1) {
        for (at, one) in places.iter().enumerate() {
            let others = places[at + 1..].iter().filter(|other| other.setting.device != one.setting.device);
            decisions.extend(others.map(|other| Decision { model, kind: 1, places: vec![one.clone(), other.clone()] }));
        }
        decisions.push(Decision { model, kind: 0, places });
    }
    decisions
}

/// Answers with what the most similar setting on the same place cost.
pub struct NearestNeighbour {
    known: Vec<Example>,
    /// Mean and deviation of each coordinate.
    scale: [(f64, f64); COORDINATES],
}

const COORDINATES: usize = 12;

impl NearestNeighbour {
    pub fn of(known: &[Example]) -> NearestNeighbour {
        let count = known.len().max(1) as f64;
        let mut scale = [(0.0, 0.0); COORDINATES];
        for (at, scale) in scale.iter_mut().enumerate() {
            let values = || known.iter().map(|example| coordinates(&example.setting)[at]);
            let mean = values().sum::<f64>() / count;
            *scale = (mean, (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt().max(1e-9));
        }
        NearestNeighbour { known: known.to_vec(), scale }
    }

    pub fn ln_ratio(&self, setting: &Setting) -> f64 {
        let place = |setting: &Setting| (setting.device, setting.share);
        let distance = |other: &Setting| -> f64 {
            let (a, b) = (coordinates(setting), coordinates(other));
            (0..COORDINATES).map(|at| ((a[at] - b[at]) / self.scale[at].1).powi(2)).sum()
        };
        let same = self.known.iter().filter(|example| place(&example.setting) == place(setting));
        let nearest = same.map(|example| (distance(&example.setting), example.ln_ratio)).min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map_or(f64::INFINITY, |(_, ln_ratio)| f64::from(ln_ratio))
    }
}

fn coordinates(setting: &Setting) -> [f64; COORDINATES] {
    let f = &setting.features;
    let all = f.convs + f.depthwise_convs + f.gemms + f.attentions + f.recurrents + f.embeddings + f.elementwises + f.others;
    let part = |count: u32| f64::from(count) / f64::from(all.max(1));
    let log = |value: u64| ((value + 1) as f64).ln();
    [
        log(u64::from(setting.batch.rows())),
        log(f.parameters),
        log(f.flops),
        log(f.activation_bytes),
        log(f.flops) - log(f.weights_bytes + f.input_bytes + f.output_bytes),
        part(f.convs),
        part(f.depthwise_convs),
        part(f.gemms),
        part(f.recurrents),
        part(f.embeddings),
        log(u64::from(f.depth)),
        log(f.gemm_max),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::{Batch, Features, Share};
    use tunewright::schedule::DeviceId;

    /// A place that took so many picoseconds in each pass, the median of which is its cost.
    fn place(passes: &[u64], deviation: f64) -> Place {
        let (features, batch, device) = (Features::default(), Batch::ONE, DeviceId(0));
        let setting = Setting { features, batch, device, share: Share::WHOLE, class: 0, units: 1 };
        let mut sorted = passes.to_vec();
        sorted.sort_unstable();
        let passes = passes.iter().map(|&picos| Picos(picos)).enumerate().collect();
        Place { setting, cost: sorted[(sorted.len() - 1) / 2] as f64, deviation, passes }
    }

    #[test]
    fn places_differ_where_all_of_six_passes_say_so() {
        let best = place(&[100, 130, 100, 130, 100, 130], 0.5);
        assert!(place(&[110, 140, 110, 140, 110, 140], 0.5).is_dearer(&best), "though runs of either wander further");
        assert!(!place(&[150, 129, 150, 150, 150, 150], 0.001).is_dearer(&best), "one pass disagrees");
    }

    #[test]
    fn with_few_passes_single_runs_decide() {
        let best = place(&[100, 100], 0.02);
        assert!(place(&[110, 110], 0.02).is_dearer(&best));
        assert!(!place(&[110, 110], 0.05).is_dearer(&best));
    }
}
