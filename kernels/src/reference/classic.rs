//! Operators of the domain `ai.onnx.ml`: encoders and tree ensembles.

use super::call::one;
use super::number::{Real, load};
use super::{Call, Evaluate, EvaluateError};
use crate::{Attribute, Datum, Tensor};
use schema::DType;
use std::collections::HashMap;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("ai.onnx.ml.Binarizer", binarizer),
    ("ai.onnx.ml.LabelEncoder", label_encoder),
    ("ai.onnx.ml.Scaler", scaler),
    ("ai.onnx.ml.TreeEnsemble", tree_ensemble),
];

fn binarizer(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    call.budget.take(x.dtype(), x.shape())?;
    let threshold = f64::from(call.float("threshold", 0.0));
    let values = load::<f64>(call.op, x)?.iter().map(|&v| if v > threshold { 1.0 } else { 0.0 }).collect();
    one(f64::store(x.dtype(), x.shape().to_vec(), values))
}

/// `(x - offset) · scale`, per feature; the result is f32.
fn scaler(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    call.budget.take(DType::F32, x.shape())?;
    let features = x.shape().last().copied().unwrap_or(1);
    let (offset, scale) = (call.floats("offset").unwrap_or(&[0.0]), call.floats("scale").unwrap_or(&[1.0]));
    if [offset.len(), scale.len()].iter().any(|&count| count != 1 && count != features) {
        return Err(call.attribute_error(format_args!(
            "{} offsets and {} scales for {features} features",
            offset.len(),
            scale.len()
        )));
    }
    let pick = |values: &[f32], at: usize| f64::from(values[if values.len() == 1 { 0 } else { at % features }]);
    let values = load::<f64>(call.op, x)?.iter().enumerate().map(|(at, v)| (v - pick(offset, at)) * pick(scale, at)).collect();
    one(f64::store(DType::F32, x.shape().to_vec(), values))
}

/// A list of keys or values: texts or numbers.
enum Labels {
    Texts(Vec<String>),
    Numbers(DType, Vec<f64>),
}

impl Labels {
    fn of(call: &Call<'_>, names: [&str; 4]) -> Result<Self> {
        let [texts, ints, floats, tensor] = names;
        if let Some(values) = call.texts(texts) {
            return Ok(Labels::Texts(values.to_vec()));
        }
        if let Some(values) = call.ints(ints) {
            return Ok(Labels::Numbers(DType::I64, values.iter().map(|&v| v as f64).collect()));
        }
        if let Some(values) = call.floats(floats) {
            return Ok(Labels::Numbers(DType::F32, values.iter().map(|&v| f64::from(v)).collect()));
        }
        match call.attributes.get(tensor) {
            Some(Attribute::Tensor(tensor)) => Self::of_tensor(call, tensor),
            _ => Err(call.attribute_error(format_args!("none of {names:?}"))),
        }
    }

    fn of_tensor(call: &Call<'_>, tensor: &Tensor) -> Result<Self> {
        Ok(match tensor.texts() {
            Some(values) => Labels::Texts(values.to_vec()),
            None => Labels::Numbers(tensor.dtype(), load::<f64>(call.op, tensor)?.into_owned()),
        })
    }

    /// Keys to look up: texts as they are, numbers by their bits (all NaN are one, as are both zeros).
    fn keys(&self) -> Vec<String> {
        match self {
            Labels::Texts(values) => values.clone(),
            Labels::Numbers(_, values) => {
                values.iter().map(|v| if v.is_nan() { "nan".to_owned() } else { (v + 0.0).to_bits().to_string() }).collect()
            }
        }
    }
}

fn label_encoder(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let keys = Labels::of(call, ["keys_strings", "keys_int64s", "keys_floats", "keys_tensor"])?;
    let values = Labels::of(call, ["values_strings", "values_int64s", "values_floats", "values_tensor"])?;
    let mut places = HashMap::new();
    for (place, key) in keys.keys().into_iter().enumerate() {
        places.insert(key, place);
    }
    let asked = Labels::of_tensor(call, x)?;
    if matches!((&asked, &keys), (Labels::Texts(_), Labels::Numbers(..)) | (Labels::Numbers(..), Labels::Texts(_))) {
        return Err(call.dtype_error(x.dtype()));
    }
    let found: Vec<Option<usize>> = asked.keys().iter().map(|key| places.get(key).copied()).collect();
    let default = match call.attributes.get("default_tensor") {
        Some(Attribute::Tensor(tensor)) if tensor.len() == 1 => Some(Labels::of_tensor(call, tensor)?),
        _ => None,
    };
    let shape = x.shape().to_vec();
    match values {
        Labels::Texts(values) => {
            call.budget.take(DType::String, &shape)?;
            let default = match default {
                Some(Labels::Texts(texts)) => texts[0].clone(),
                _ => call.text("default_string", "_Unused").to_owned(),
            };
            let pick = |place: &Option<usize>| place.and_then(|place| values.get(place)).unwrap_or(&default).clone();
            one(Tensor::strings(shape, found.iter().map(pick).collect()))
        }
        Labels::Numbers(dtype, values) => {
            call.budget.take(dtype, &shape)?;
            let default = match default {
                Some(Labels::Numbers(_, numbers)) => numbers[0],
                _ if dtype == DType::I64 => call.int("default_int64", -1) as f64,
                _ => f64::from(call.float("default_float", -0.0)),
            };
            let pick = |place: &Option<usize>| place.and_then(|place| values.get(place)).copied().unwrap_or(default);
            one(f64::store(dtype, shape, found.iter().map(pick).collect()))
        }
    }
}

/// The attributes of a tree ensemble. A child is a leaf when its flag says so.
struct Trees<'a> {
    features: &'a [i64],
    modes: Vec<i64>,
    splits: Vec<f64>,
    members: Vec<Vec<f64>>,
    children: [&'a [i64]; 2],
    leaves: [&'a [i64]; 2],
    missing: &'a [i64],
    targets: &'a [i64],
    weights: Vec<f64>,
}

impl<'a> Trees<'a> {
    fn new(call: &Call<'a>) -> Result<Self> {
        let ints = |name: &str| call.ints(name).ok_or_else(|| call.attribute_error(format_args!("no {name}")));
        let tensor = |name: &str| match call.attributes.get(name) {
            Some(Attribute::Tensor(tensor)) => Ok(Some(tensor)),
            None => Ok(None),
            Some(_) => Err(call.attribute_error(format_args!("{name} is no tensor"))),
        };
        let floats = |name: &str| -> Result<Vec<f64>> {
            tensor(name)?.map_or(Ok(Vec::new()), |tensor| Ok(load::<f64>(call.op, tensor)?.into_owned()))
        };
        let modes = tensor("nodes_modes")?.and_then(Tensor::to_ints).ok_or_else(|| call.attribute_error("no nodes_modes"))?;
        // Sets of members, one per node that tests membership, each ended by NaN.
        let members = floats("membership_values")?.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect();
        let trees = Trees {
            features: ints("nodes_featureids")?,
            splits: floats("nodes_splits")?,
            members,
            children: [ints("nodes_falsenodeids")?, ints("nodes_truenodeids")?],
            leaves: [ints("nodes_falseleafs")?, ints("nodes_trueleafs")?],
            missing: call.ints("nodes_missing_value_tracks_true").unwrap_or(&[]),
            targets: ints("leaf_targetids")?,
            weights: floats("leaf_weights")?,
            modes,
        };
        let nodes = trees.modes.len();
        let lists = [trees.features, trees.children[0], trees.children[1], trees.leaves[0], trees.leaves[1]];
        match lists.iter().all(|list| list.len() == nodes)
            && trees.splits.len() == nodes
            && trees.targets.len() == trees.weights.len()
        {
            true => Ok(trees),
            false => Err(call.attribute_error("the lists of nodes or leaves differ in length")),
        }
    }

    /// Which of the two children a row goes to.
    fn test(&self, node: usize, row: &[f64]) -> Option<bool> {
        let x = *row.get(usize::try_from(self.features[node]).ok()?)?;
        if x.is_nan() && self.missing.get(node) == Some(&1) {
            return Some(true);
        }
        let split = self.splits[node];
        Some(match self.modes[node] {
            0 => x <= split,
            1 => x < split,
            2 => x >= split,
            3 => x > split,
            4 => x == split,
            5 => x != split,
            6 => {
                let set = self.modes[..node].iter().filter(|&&mode| mode == 6).count();
                self.members.get(set)?.contains(&x)
            }
            _ => return None,
        })
    }

    /// The leaf that a row falls into from a root.
    fn leaf(&self, root: usize, row: &[f64]) -> Option<usize> {
        let mut node = root;
        // A tree visits no node twice; a cycle ends here.
        for _ in 0..=self.modes.len() {
            let [no, yes] = [0, 1].map(|side| self.leaves[side].get(node).map(|&leaf| leaf != 0));
            let side = usize::from(match no? && yes? && self.children[0][node] == self.children[1][node] {
                true => true,
                false => self.test(node, row)?,
            });
            let child = usize::try_from(self.children[side][node]).ok()?;
            if self.leaves[side][node] != 0 {
                return (child < self.weights.len()).then_some(child);
            }
            node = child;
        }
        None
    }
}

fn tree_ensemble(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let &[rows, features] = x.shape() else {
        return Err(call.shape_error(format_args!("input {:?}", x.shape())));
    };
    let trees = Trees::new(call)?;
    let roots = call.extents(call.ints("tree_roots").unwrap_or(&[]))?;
    let targets = call.extents(&[call.int("n_targets", 1)])?[0];
    if call.int("post_transform", 0) != 0 {
        return Err(call.unsupported("a post_transform"));
    }
    let aggregate = call.int("aggregate_function", 1);
    let start = match aggregate {
        0 | 1 => 0.0,
        2 => f64::INFINITY,
        3 => f64::NEG_INFINITY,
        other => return Err(call.attribute_error(format_args!("aggregate_function {other}"))),
    };
    let count = call.budget.take(x.dtype(), &[rows, targets])?;
    call.budget.work((rows as u64).saturating_mul(roots.len() as u64).saturating_mul(64))?;
    let values = load::<f64>(call.op, x)?;
    let mut out = vec![start; count];
    for row in 0..rows {
        let features = &values[row * features..(row + 1) * features];
        for &root in &roots {
            let leaf = trees.leaf(root, features).ok_or_else(|| call.attribute_error("a tree leads nowhere"))?;
            let target = usize::try_from(trees.targets[leaf]).ok().filter(|&target| target < targets);
            let slot = &mut out[row * targets + target.ok_or_else(|| call.attribute_error("a leaf's target"))?];
            let weight = trees.weights[leaf];
            *slot = match aggregate {
                0 => *slot + weight / roots.len() as f64,
                1 => *slot + weight,
                2 => slot.min(weight),
                _ => slot.max(weight),
            };
        }
    }
    one(f64::store(x.dtype(), vec![rows, targets], out))
}
