//! Quantisation: scales and zero points per tensor, per axis and per block, and products of quantised operands.

use super::call::one;
use super::matmul::Product;
use super::number::{Real, load, typed};
use super::{Call, Evaluate, EvaluateError, narrow};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("QuantizeLinear", quantize_linear),
    ("DequantizeLinear", dequantize_linear),
    ("DynamicQuantizeLinear", dynamic_quantize_linear),
    ("QLinearMatMul", qlinear_matmul),
];

/// A quantised integer type with one zero point.
pub(super) struct Affine {
    dtype: DType,
    low: f64,
    high: f64,
    zero: f64,
}

/// The range of a quantised integer type.
fn range(dtype: DType) -> Option<(f64, f64)> {
    Some(match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U8 => (0.0, 255.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::U16 => (0.0, 65535.0),
        DType::I32 => (-2147483648.0, 2147483647.0),
        DType::U32 => (0.0, 4294967295.0),
        DType::I4 => (-8.0, 7.0),
        DType::U4 => (0.0, 15.0),
        DType::I2 => (-2.0, 1.0),
        DType::U2 => (0.0, 3.0),
        _ => return None,
    })
}

impl Affine {
    /// The type and value of a zero point.
    pub(super) fn of(call: &Call<'_>, zero: &Tensor) -> Result<Self> {
        let (low, high) = range(zero.dtype()).ok_or_else(|| call.dtype_error(zero.dtype()))?;
        let zero_value = load::<f64>(call.op, zero)?.first().copied();
        let zero_value = zero_value.ok_or_else(|| call.shape_error("the zero point is empty"))?;
        Ok(Affine { dtype: zero.dtype(), low, high, zero: zero_value })
    }

    /// A scaled value rounded to even, shifted and clamped.
    pub(super) fn quantize(&self, scaled: f64) -> f64 {
        (scaled.round_ties_even() + self.zero).clamp(self.low, self.high)
    }

    /// Quantised values as a tensor.
    pub(super) fn tensor(&self, shape: Vec<usize>, values: Vec<f64>) -> Tensor {
        f64::store(self.dtype, shape, values)
    }
}

/// The elements less a zero point: one for all, or one per index of axis 0 (weights).
pub(super) fn centred_by_channel(call: &Call<'_>, tensor: &Tensor, zero: Option<&Tensor>) -> Result<Vec<i32>> {
    let values = tensor.to_ints().ok_or_else(|| call.dtype_error(tensor.dtype()))?;
    let zeros = match zero {
        Some(zero) => zero.to_ints().ok_or_else(|| call.dtype_error(zero.dtype()))?,
        None => vec![0],
    };
    let channels = tensor.shape().first().copied().unwrap_or(1);
    if zeros.len() != 1 && zeros.len() != channels {
        return Err(call.shape_error(format_args!("{} zero points for {channels} channels", zeros.len())));
    }
    let chunk = (values.len() / channels.max(1)).max(1);
    let at = |i: usize| if zeros.len() == 1 { 0 } else { i / chunk };
    Ok(values.iter().enumerate().map(|(i, &value)| value.wrapping_sub(zeros[at(i)]) as i32).collect())
}

/// Which scale belongs to which element.
struct Grid {
    /// Elements after the axis.
    inner: usize,
    /// Elements along the axis, and how many of them share a scale.
    extent: usize,
    block: usize,
    /// Scales along the axis.
    scales: usize,
    kind: GridKind,
}

#[derive(PartialEq)]
enum GridKind {
    Tensor,
    Axis,
    Block,
}

impl Grid {
    fn new(call: &Call<'_>, x: &Tensor, scale: &Tensor) -> Result<Self> {
        let refuse = || call.shape_error(format_args!("scale {:?} for {:?}", scale.shape(), x.shape()));
        let rank = x.shape().len();
        if scale.len() == 1 && scale.shape().len() <= 1 {
            return Ok(Grid { inner: 1, extent: 1, block: 1, scales: 1, kind: GridKind::Tensor });
        }
        let axis = call.axis("axis", 1, rank)?;
        let extent = x.shape()[axis];
        let inner = x.shape()[axis + 1..].iter().product();
        if scale.shape().len() == 1 {
            return match scale.len() == extent {
                true => Ok(Grid { inner, extent, block: 1, scales: extent, kind: GridKind::Axis }),
                false => Err(refuse()),
            };
        }
        let fits = scale.shape().len() == rank && (0..rank).all(|i| i == axis || scale.shape()[i] == x.shape()[i]);
        let scales = *scale.shape().get(axis).filter(|_| fits).ok_or_else(refuse)?;
        let block = match usize::try_from(call.int("block_size", 0)).map_err(|_| refuse())? {
            0 => extent.div_ceil(scales.max(1)),
            block => block,
        };
        match block > 0 && extent.div_ceil(block) == scales {
            true => Ok(Grid { inner, extent, block, scales, kind: GridKind::Block }),
            false => Err(refuse()),
        }
    }

    fn at(&self, i: usize) -> usize {
        match self.kind {
            GridKind::Tensor => 0,
            GridKind::Axis => i / self.inner % self.extent,
            GridKind::Block => {
                let (outer, along) = (i / self.inner / self.extent, i / self.inner % self.extent);
                (outer * self.scales + along / self.block) * self.inner + i % self.inner
            }
        }
    }
}

/// A zero point has the shape of its scale; of one element it may have any rank.
fn same_grid(call: &Call<'_>, zero: &Tensor, scale: &Tensor) -> Result<()> {
    match zero.len() == 1 && scale.len() == 1 {
        true => Ok(()),
        false => call.same_shape("zero point", zero.shape(), scale.shape()),
    }
}

fn quantize_linear(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, scale, zero) = (call.tensor(0)?, call.tensor(1)?, call.optional(2)?);
    let wanted = match call.int("output_dtype", 0) {
        0 => None,
        code => Some(DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?),
    };
    let dtype = zero.map(Tensor::dtype).or(wanted).unwrap_or(DType::U8);
    if wanted.is_some_and(|wanted| wanted != dtype) {
        return Err(call.attribute_error(format_args!("output_dtype is not {dtype}, the zero point's type")));
    }
    let count = call.budget.take(dtype, x.shape())?;
    call.budget.work(count as u64)?;
    if let Some(zero) = zero {
        same_grid(call, zero, scale)?;
    }
    let grid = Grid::new(call, x, scale)?;
    // The division happens in the precision of the scale unless told otherwise: 5.5 / 0.1 must not turn into 54.99….
    let precision = match call.int("precision", 0) {
        0 => scale.dtype(),
        code => DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?,
    };
    let (values, scales) = (load::<f32>(call.op, x)?, load::<f32>(call.op, scale)?);
    let zeros = zero.map(|zero| load::<f64>(call.op, zero)).transpose()?;
    let quotients: Vec<f32> = values.iter().enumerate().map(|(i, &value)| value / scales[grid.at(i)]).collect();
    let quotients = match precision {
        DType::F16 | DType::Bf16 => load::<f32>(call.op, &f32::store(precision, vec![count], quotients))?.into_owned(),
        _ => quotients,
    };
    let shape = x.shape().to_vec();
    let Some((low, high)) = range(dtype) else {
        let codes = narrow::encode(dtype, &quotients, call.flag("saturate", true));
        return match dtype.is_float() && dtype.bytes() == 1 {
            true => one(typed(dtype, shape, codes)),
            false => Err(call.dtype_error(dtype)),
        };
    };
    let whole = quotients.iter().enumerate().map(|(i, &quotient)| {
        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[grid.at(i)]);
        (f64::from(quotient).round_ties_even() + zero).clamp(low, high)
    });
    one(f64::store(dtype, shape, whole.collect()))
}

fn dequantize_linear(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, scale, zero) = (call.tensor(0)?, call.tensor(1)?, call.optional(2)?);
    let dtype = match call.int("output_dtype", 0) {
        0 => scale.dtype(),
        code => DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?,
    };
    if !dtype.is_float() {
        return Err(call.dtype_error(dtype));
    }
    let count = call.budget.take(dtype, x.shape())?;
    call.budget.work(count as u64)?;
    if let Some(zero) = zero {
        same_grid(call, zero, scale)?;
    }
    let grid = Grid::new(call, x, scale)?;
    let (values, scales) = (load::<f64>(call.op, x)?, load::<f64>(call.op, scale)?);
    let zeros = zero.map(|zero| load::<f64>(call.op, zero)).transpose()?;
    let out = values.iter().enumerate().map(|(i, &value)| {
        let at = grid.at(i);
        (value - zeros.as_ref().map_or(0.0, |zeros| zeros[at])) * scales[at]
    });
    one(f64::store(dtype, x.shape().to_vec(), out.collect()))
}

fn dynamic_quantize_linear(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    call.budget.take(DType::U8, x.shape())?;
    call.budget.work(x.len() as u64)?;
    let values = load::<f32>(call.op, x)?;
    let low = values.iter().copied().fold(0f32, f32::min);
    let high = values.iter().copied().fold(0f32, f32::max);
    let scale = (high - low) / 255.0;
    let zero = if scale == 0.0 { 0.0 } else { (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even() };
    let quantize = |&v: &f32| if scale == 0.0 { 0 } else { ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8 };
    let y = Tensor::new(x.shape().to_vec(), values.iter().map(quantize).collect::<Vec<u8>>());
    Ok(vec![y.into(), Tensor::scalar(scale).into(), Tensor::scalar(zero as u8).into()])
}

/// Inputs: a, scale, zero; b, scale, zero; scale and zero of the result. Scales are one, or one per row of a and column of b.
fn qlinear_matmul(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b) = (call.tensor(0)?, call.tensor(3)?);
    let product = Product::new(call, a.shape(), b.shape())?;
    let count = product.charge(call, DType::F64)?;
    let (m, k, n) = (product.m, product.k, product.n);
    let factors = |first: usize, many: usize| -> Result<(Vec<f64>, Vec<f64>)> {
        let (scale, zero) = (load::<f64>(call.op, call.tensor(first)?)?, load::<f64>(call.op, call.tensor(first + 1)?)?);
        match (scale.len(), zero.len()) {
            (s, z) if (s == 1 || s == many) && (z == 1 || z == many) => Ok((scale.into_owned(), zero.into_owned())),
            (s, z) => Err(call.shape_error(format_args!("{s} scales and {z} zero points for {many}"))),
        }
    };
    let ((a_scale, a_zero), (b_scale, b_zero)) = (factors(1, m)?, factors(4, n)?);
    let y_scale = load::<f64>(call.op, call.tensor(6)?)?;
    let &[y_scale] = &*y_scale else {
        return Err(call.shape_error("the scale of the result is no scalar"));
    };
    let affine = Affine::of(call, call.tensor(7)?)?;
    let (x, y) = (load::<f64>(call.op, a)?, load::<f64>(call.op, b)?);
    let pick = |values: &[f64], i: usize| values[if values.len() == 1 { 0 } else { i }];
    let mut out = Vec::with_capacity(count);
    if count == 0 {
        return one(affine.tensor(product.shape, out));
    }
    product.pairs(|i, j| {
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let (row_zero, column_zero) = (pick(&a_zero, row), pick(&b_zero, column));
            let sum: f64 =
                (0..k).map(|l| (x[(i * m + row) * k + l] - row_zero) * (y[(j * k + l) * n + column] - column_zero)).sum();
            out.push(affine.quantize(sum * pick(&a_scale, row) * pick(&b_scale, column) / y_scale));
        }
    });
    one(affine.tensor(product.shape, out))
}
