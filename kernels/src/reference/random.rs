//! Operators that draw numbers. A seed gives the same numbers everywhere: those of numpy's `RandomState`. Without one the seed is 0.

use super::call::one;
use super::number::{Real, load};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("RandomUniform", |call| draw(call, false, shape_attribute)),
    ("RandomNormal", |call| draw(call, true, shape_attribute)),
    ("RandomUniformLike", |call| draw(call, false, shape_of_input)),
    ("RandomNormalLike", |call| draw(call, true, shape_of_input)),
    ("Bernoulli", bernoulli),
    ("Multinomial", multinomial),
    ("Dropout", dropout),
];

/// The Mersenne twister MT19937 (Matsumoto and Nishimura 1998), seeded and read as numpy's `RandomState` does.
struct Twister {
    state: Vec<u32>,
    at: usize,
    spare: Option<f64>,
}

impl Twister {
    const SIZE: usize = 624;

    fn new(seed: u32) -> Self {
        let mut state = Vec::with_capacity(Self::SIZE);
        state.push(seed);
        for i in 1..Self::SIZE as u32 {
            let last: u32 = state[i as usize - 1];
            state.push((last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i));
        }
        Twister { state, at: Self::SIZE, spare: None }
    }

    /// A generator by the attribute `seed`.
    fn of(call: &Call<'_>) -> Self {
        // numpy takes whole seeds; a fraction is cut off. In opset 12 and later Dropout's seed is a whole number.
        let seed = call.attributes.int("seed").unwrap_or_else(|| call.attributes.float("seed").map_or(0, |seed| seed as i64));
        Self::new(seed as u32)
    }

    fn next(&mut self) -> u32 {
        if self.at == Self::SIZE {
            for i in 0..Self::SIZE {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::SIZE] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % Self::SIZE] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in [0, 1), with 53 bits.
    fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next() >> 5), u64::from(self.next() >> 6));
        ((high << 26) + low) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Marsaglia's polar method.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (a, b) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = a * a + b * b;
            if square < 1.0 && square != 0.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(factor * a);
                return factor * b;
            }
        }
    }
}

/// The type asked for, or that of the first input, or f32.
fn result_type(call: &Call<'_>) -> Result<DType> {
    match call.attributes.int("dtype") {
        Some(code) => DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}"))),
        None => Ok(call.optional(0)?.map_or(DType::F32, Tensor::dtype)),
    }
}

fn shape_attribute(call: &Call<'_>) -> Result<Vec<usize>> {
    call.extents(call.ints("shape").ok_or_else(|| call.attribute_error("no shape"))?)
}

fn shape_of_input(call: &Call<'_>) -> Result<Vec<usize>> {
    Ok(call.tensor(0)?.shape().to_vec())
}

fn draw(call: &Call<'_>, normal: bool, shape: fn(&Call<'_>) -> Result<Vec<usize>>) -> Result<Vec<Datum>> {
    let (shape, dtype) = (shape(call)?, result_type(call)?);
    if !dtype.is_float() {
        return Err(call.dtype_error(dtype));
    }
    let count = call.budget.take(dtype, &shape)?;
    call.budget.work(count as u64)?;
    let number = |name: &str, default: f32| f64::from(call.float(name, default));
    let mut twister = Twister::of(call);
    let values = match normal {
        true => {
            let (mean, scale) = (number("mean", 0.0), number("scale", 1.0));
            (0..count).map(|_| mean + scale * twister.normal()).collect()
        }
        false => {
            let (low, high) = (number("low", 0.0), number("high", 1.0));
            (0..count).map(|_| low + (high - low) * twister.uniform()).collect()
        }
    };
    one(f64::store(dtype, shape, values))
}

fn bernoulli(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, dtype) = (call.tensor(0)?, result_type(call)?);
    if matches!(dtype, DType::String | DType::C64 | DType::C128) {
        return Err(call.dtype_error(dtype));
    }
    call.budget.take(dtype, x.shape())?;
    let mut twister = Twister::of(call);
    let values = load::<f64>(call.op, x)?.iter().map(|&p| if twister.uniform() < p { 1.0 } else { 0.0 }).collect();
    one(f64::store(dtype, x.shape().to_vec(), values))
}

/// Draws classes from rows of unnormalised log probabilities `[n, classes]`.
fn multinomial(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let &[rows, classes] = x.shape() else {
        return Err(call.shape_error(format_args!("input {:?}", x.shape())));
    };
    let samples = call.extents(&[call.int("sample_size", 1)])?[0];
    let dtype = match DType::of_code(call.int("dtype", 6)) {
        Some(dtype @ (DType::I32 | DType::I64)) => dtype,
        _ => return Err(call.attribute_error("dtype is neither int32 nor int64")),
    };
    let count = call.budget.take(dtype, &[rows, samples])?;
    call.budget.work((count as u64).saturating_mul(classes as u64))?;
    let mut twister = Twister::of(call);
    let mut out = Vec::with_capacity(count);
    for row in load::<f64>(call.op, x)?.chunks_exact(classes.max(1)) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = row.iter().map(|v| (v - top).exp()).collect();
        let total: f64 = shares.iter().sum();
        for _ in 0..samples {
            let mut left = twister.uniform() * total;
            let class = shares.iter().position(|share| {
                left -= share;
                left < 0.0
            });
            out.push(class.unwrap_or(classes.saturating_sub(1)) as f64);
        }
    }
    call.same_shape("result", &[out.len()], &[count])?;
    one(f64::store(dtype, vec![rows, samples], out))
}

/// The identity but in training, where elements vanish with a probability and the others grow to make up for it.
fn dropout(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let ratio = match call.optional(1)? {
        Some(ratio) => load::<f64>(call.op, ratio)?.first().copied().unwrap_or(0.5),
        None => f64::from(call.float("ratio", 0.5)),
    };
    let training = call.optional(2)?.is_some_and(|flag| flag.bytes().first().is_some_and(|&byte| byte != 0));
    let shape = x.shape().to_vec();
    call.budget.take(x.dtype(), &shape)?;
    if !training || ratio == 0.0 {
        let mask = call.wants(1).then(|| Tensor::bools(shape, vec![true; x.len()]).into());
        return Ok(std::iter::once(x.clone().into()).chain(mask).collect());
    }
    let mut twister = Twister::of(call);
    let values = load::<f64>(call.op, x)?;
    let mask: Vec<bool> = values.iter().map(|_| twister.uniform() >= ratio).collect();
    let scale = 1.0 / (1.0 - ratio);
    let kept = values.iter().zip(&mask).map(|(&v, &keep)| if keep { v * scale } else { 0.0 }).collect();
    Ok(vec![f64::store(x.dtype(), shape.clone(), kept).into(), Tensor::bools(shape, mask).into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_numpy() {
        // numpy.random.RandomState(0).uniform(size=2) and .normal(size=2)
        let mut twister = Twister::new(0);
        assert!((twister.uniform() - 0.548_813_503_927_324_8).abs() < 1e-15);
        assert!((twister.uniform() - 0.715_189_366_372_419_4).abs() < 1e-15);
        let mut twister = Twister::new(0);
        assert!((twister.normal() - 1.764_052_345_967_664).abs() < 1e-14);
        assert!((twister.normal() - 0.400_157_208_367_223_3).abs() < 1e-14);
    }
}
