//! When two results agree: |a − b| ≤ atol + rtol · max(|b|, rms of the output).
//!
//! A plain relative error means nothing for a logit near zero, so an expected value counts at least as much as its output's root mean
//! square. Whole numbers, truth values and texts agree only when they are equal; NaN agrees with NaN, infinities with themselves.

use kernels::{Datum, Tensor};
use schema::DType;
use thiserror::Error;

/// The greatest allowed difference.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

/// How far a result lies from what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// The greatest |a − b| / max(|b|, rms): compare it with `rtol`.
    pub relative: f64,
    /// The greatest |a − b|.
    pub absolute: f64,
    /// Flat position of the element furthest over its bound, and the two values there.
    pub worst: Option<(usize, f64, f64)>,
    /// Elements outside the tolerance.
    pub outside: usize,
}

impl Distance {
    /// Whether every element is within the tolerance.
    pub fn agrees(&self) -> bool {
        self.outside == 0
    }
}

/// Why two results cannot be compared.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Incomparable {
    #[error("it is {actual}, {expected} was expected")]
    Type { actual: String, expected: String },
    #[error("it is a sequence or optional of another form")]
    Form,
}

/// The distance of `actual` from `expected`.
///
/// # Errors
/// [`Incomparable`] when dtype, shape or form differ.
pub fn distance(actual: &Datum, expected: &Datum, tolerance: Tolerance) -> Result<Distance, Incomparable> {
    match (actual, expected) {
        (Datum::Tensor(actual), Datum::Tensor(expected)) => tensors(actual, expected, tolerance),
        (Datum::Sequence(a), Datum::Sequence(b)) if a.len() == b.len() => {
            let each: Vec<Distance> = a.iter().zip(b).map(|(a, b)| distance(a, b, tolerance)).collect::<Result<_, _>>()?;
            Ok(each.into_iter().fold(NONE, furthest))
        }
        (Datum::Optional(None), Datum::Optional(None)) => Ok(NONE),
        (Datum::Optional(Some(a)), Datum::Optional(Some(b))) => distance(a, b, tolerance),
        _ => Err(Incomparable::Form),
    }
}

const NONE: Distance = Distance { relative: 0.0, absolute: 0.0, worst: None, outside: 0 };

fn furthest(a: Distance, b: Distance) -> Distance {
    let outside = a.outside + b.outside;
    let far = if b.relative > a.relative { b } else { a };
    Distance { outside, ..far }
}

fn tensors(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<Distance, Incomparable> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        let name = |tensor: &Tensor| format!("{}{:?}", tensor.dtype(), tensor.shape());
        return Err(Incomparable::Type { actual: name(actual), expected: name(expected) });
    }
    match (floats(actual), floats(expected)) {
        (Some(a), Some(b)) => Ok(float_distance(&a, &b, tolerance)),
        _ => Ok(exact_distance(actual, expected)),
    }
}

fn float_distance(actual: &[f64], expected: &[f64], tolerance: Tolerance) -> Distance {
    let finite = expected.iter().filter(|value| value.is_finite());
    let (sum, count) = finite.fold((0.0, 0usize), |(sum, count), value| (sum + value * value, count + 1));
    let rms = (sum / count.max(1) as f64).sqrt();
    let mut distance = NONE;
    let mut worst_excess = f64::NEG_INFINITY;
    for (i, (&a, &b)) in actual.iter().zip(expected).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let scale = b.abs().max(rms);
        let difference = (a - b).abs();
        let difference = if difference.is_finite() { difference } else { f64::INFINITY };
        // An expected infinity or NaN that is not met exactly is out of every tolerance.
        let allowed = if b.is_finite() { tolerance.atol + tolerance.rtol * scale } else { 0.0 };
        distance.absolute = distance.absolute.max(difference);
        let relative = if scale > 0.0 && difference.is_finite() { difference / scale } else { f64::INFINITY };
        distance.relative = distance.relative.max(relative);
        distance.outside += usize::from(difference > allowed);
        if difference - allowed > worst_excess {
            worst_excess = difference - allowed;
            distance.worst = Some((i, a, b));
        }
    }
    distance
}

fn exact_distance(actual: &Tensor, expected: &Tensor) -> Distance {
    let mut distance = NONE;
    let different: Vec<usize> = match (actual.texts(), expected.texts()) {
        (Some(a), Some(b)) => (0..a.len()).filter(|&i| a[i] != b[i]).collect(),
        _ => {
            let width = actual.dtype().bytes().max(1);
            let pairs = actual.bytes().chunks(width).zip(expected.bytes().chunks(width));
            pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect()
        }
    };
    distance.outside = different.len();
    if let Some(&first) = different.first() {
        let value = |tensor: &Tensor| tensor.to_ints().map_or(f64::NAN, |ints| ints[first] as f64);
        let (a, b) = (value(actual), value(expected));
        distance.worst = Some((first, a, b));
        distance.absolute = (a - b).abs();
        distance.relative = f64::INFINITY;
    }
    distance
}

/// The elements of a tensor of IEEE floats as f64; `None` for other types.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.dtype() {
        DType::F32 => Some(tensor.reinterpret::<f32>().iter().map(|&value| f64::from(value)).collect()),
        DType::F64 => Some(tensor.reinterpret::<f64>().into_owned()),
        DType::F16 => Some(tensor.reinterpret::<half::f16>().iter().map(|value| value.to_f64()).collect()),
        DType::Bf16 => Some(tensor.reinterpret::<half::bf16>().iter().map(|value| value.to_f64()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { rtol: 1e-3, atol: 0.0 };

    fn compare(a: Vec<f32>, b: Vec<f32>) -> Distance {
        let tensor = |values: Vec<f32>| Datum::from(Tensor::new(vec![values.len()], values));
        distance(&tensor(a), &tensor(b), TOLERANCE).unwrap()
    }

    #[test]
    fn a_value_near_zero_is_judged_by_the_outputs_rms() {
        assert!(compare(vec![10.0, 0.005], vec![10.0, 0.0]).agrees());
        assert!(!compare(vec![10.0, 0.05], vec![10.0, 0.0]).agrees());
    }

    #[test]
    fn nan_and_infinity_agree_only_with_themselves() {
        assert!(compare(vec![f32::NAN, f32::INFINITY], vec![f32::NAN, f32::INFINITY]).agrees());
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (1.0, f32::INFINITY), (f32::INFINITY, f32::NEG_INFINITY)] {
            assert_eq!(compare(vec![a], vec![b]).outside, 1, "{a} {b}");
        }
        assert_eq!(compare(vec![1.0], vec![0.0]).outside, 1, "an output of zeros has no scale");
    }

    #[test]
    fn whole_numbers_agree_when_equal_and_shapes_must_match() {
        let ints = |values: Vec<i64>| Datum::from(Tensor::new(vec![values.len()], values));
        assert!(distance(&ints(vec![1, 2]), &ints(vec![1, 2]), TOLERANCE).unwrap().agrees());
        let differ = distance(&ints(vec![1, 3]), &ints(vec![1, 2]), TOLERANCE).unwrap();
        assert_eq!((differ.outside, differ.worst), (1, Some((1, 3.0, 2.0))));
        assert!(distance(&ints(vec![1]), &ints(vec![1, 2]), TOLERANCE).is_err());
    }
}
