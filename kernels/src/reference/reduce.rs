//! Reductions over axes, extreme positions, and running sums.

use super::call::one;
use super::number::{Real, int_type, load, real_type, typed};
use super::walk::{Walk, dense_strides};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use num_traits::Float as _;
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("ReduceSum", |call| sums(call, false)),
    ("ReduceMean", |call| real(call, |values, count| values.sum::<f64>() / count)),
    ("ReduceProd", |call| sums(call, true)),
    ("ReduceMax", |call| extremes(call, true)),
    ("ReduceMin", |call| extremes(call, false)),
    ("ReduceL1", |call| real(call, |values, _| values.map(f64::abs).sum())),
    ("ReduceL2", |call| real(call, |values, _| values.map(|v| v * v).sum::<f64>().sqrt())),
    ("ReduceSumSquare", |call| real(call, |values, _| values.map(|v| v * v).sum())),
    ("ReduceLogSum", |call| real(call, |values, _| values.sum::<f64>().ln())),
    ("ReduceLogSumExp", log_sum_exp),
    ("ArgMax", |call| arg(call, true)),
    ("ArgMin", |call| arg(call, false)),
    ("CumSum", |call| running(call, false)),
    ("CumProd", |call| running(call, true)),
];

/// Which axes are kept and which go, as strided walks over the input.
pub(super) struct Plan {
    pub(super) kept: Walk<1>,
    pub(super) gone: Walk<1>,
    /// The shape of the result.
    pub(super) shape: Vec<usize>,
    /// How many elements make one result.
    pub(super) count: usize,
}

impl Plan {
    /// A plan over `axes`; with `keep` they stay as 1.
    pub(super) fn new(shape: &[usize], axes: &[usize], keep: bool) -> Self {
        let strides = dense_strides(shape);
        let pick = |wanted: bool| -> (Vec<usize>, Vec<isize>) {
            (0..shape.len()).filter(|axis| axes.contains(axis) == wanted).map(|axis| (shape[axis], strides[axis])).unzip()
        };
        let (kept, gone) = (pick(false), pick(true));
        let result = (0..shape.len()).filter(|axis| keep || !axes.contains(axis));
        Plan {
            shape: result.map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect(),
            count: gone.0.iter().product(),
            kept: Walk::new(&kept.0, [0], [&kept.1]),
            gone: Walk::new(&gone.0, [0], [&gone.1]),
        }
    }

    /// Calls `each` with the elements of every result, in order.
    pub(super) fn each<T: Copy>(&self, values: &[T], mut each: impl FnMut(&[T])) {
        let mut line = Vec::with_capacity(self.count);
        self.kept.rows(|[base], length, [step]| {
            for n in 0..length as isize {
                let start = base + n * step;
                let mut direct = None;
                line.clear();
                self.gone.rows(|[at], length, [step]| {
                    let from = start + at;
                    if step == 1 && length == self.count {
                        direct = Some(from as usize);
                    } else {
                        line.extend((0..length as isize).map(|i| values[(from + i * step) as usize]));
                    }
                });
                match direct {
                    Some(from) => each(&values[from..from + self.count]),
                    None => each(&line),
                }
            }
        });
    }
}

/// The plan of a reduction whose axes are the second input; `None` when there is nothing to do.
fn plan(call: &Call<'_>) -> Result<(Option<Plan>, DType)> {
    let data = call.tensor(0)?;
    let rank = data.shape().len();
    let axes = call.optional_whole(1)?.unwrap_or_default();
    if axes.is_empty() && call.flag("noop_with_empty_axes", false) {
        return Ok((None, data.dtype()));
    }
    let axes = if axes.is_empty() { (0..rank).collect() } else { call.places(&axes, rank)? };
    let plan = Plan::new(data.shape(), &axes, call.flag("keepdims", true));
    call.budget.take(data.dtype(), &plan.shape)?;
    call.budget.work(data.len() as u64)?;
    Ok((Some(plan), data.dtype()))
}

/// A reduction computed in `f64`. Without axes it is applied to each element alone.
fn real(call: &Call<'_>, fold: impl Fn(&mut dyn Iterator<Item = f64>, f64) -> f64) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let (plan, dtype) = plan(call)?;
    let plan = plan.unwrap_or_else(|| Plan::new(data.shape(), &[], true));
    let mut out = Vec::with_capacity(plan.shape.iter().product());
    let count = plan.count as f64;
    real_type!(dtype, R => {
        let values = load::<R>(call.op, data)?;
        plan.each(&values, |line| out.push(fold(&mut line.iter().map(|v| v.wide()), count)));
    });
    one(f64::store(dtype, plan.shape, out))
}

/// Sums or products: exact modulo the width for integers, in `f64` for floats.
fn sums(call: &Call<'_>, product: bool) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    if data.dtype().is_float() {
        return match product {
            true => real(call, |values, _| values.product()),
            false if data.dtype() == DType::F32 => sum_floats(call),
            false => real(call, |values, _| values.sum()),
        };
    }
    let (plan, dtype) = plan(call)?;
    let Some(plan) = plan else { return one(data.clone()) };
    int_type!(dtype, T => {
        let mut out: Vec<T> = Vec::with_capacity(plan.shape.iter().product());
        plan.each(&data.reinterpret::<T>(), |line| out.push(match product {
            true => line.iter().fold(1 as T, |a, &b| a.wrapping_mul(b)),
            false => line.iter().fold(0 as T, |a, &b| a.wrapping_add(b)),
        }));
        one(Tensor::new(plan.shape, out))
    }, else Err(call.dtype_error(dtype)))
}

/// Sums of `f32` without a call per element.
fn sum_floats(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let (plan, _) = plan(call)?;
    let Some(plan) = plan else { return one(data.clone()) };
    let mut out = Vec::with_capacity(plan.shape.iter().product());
    plan.each(&data.reinterpret::<f32>(), |line| out.push(line.iter().map(|&v| f64::from(v)).sum::<f64>() as f32));
    one(Tensor::new(plan.shape, out))
}

/// The logarithm of the sum of exponentials, shifted by the maximum.
fn log_sum_exp(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let (plan, dtype) = plan(call)?;
    let plan = plan.unwrap_or_else(|| Plan::new(data.shape(), &[], true));
    let mut out = Vec::with_capacity(plan.shape.iter().product());
    plan.each(&load::<f64>(call.op, data)?, |line| {
        let top = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shift = if top.is_finite() { top } else { 0.0 };
        out.push(line.iter().map(|v| (v - shift).exp()).sum::<f64>().ln() + shift);
    });
    one(f64::store(dtype, plan.shape, out))
}

/// Maxima or minima; NaN wins. Of nothing: the smallest or largest value of the type.
fn extremes(call: &Call<'_>, largest: bool) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let (plan, dtype) = plan(call)?;
    let Some(plan) = plan else { return one(data.clone()) };
    let mut shape = Vec::new();
    if dtype == DType::Bool {
        let mut out = Vec::new();
        plan.each(data.bytes(), |line| {
            out.push(u8::from(if largest { line.iter().any(|&v| v != 0) } else { line.iter().all(|&v| v != 0) }))
        });
        return one(typed(dtype, plan.shape, out));
    }
    int_type!(dtype, T => {
        let mut out: Vec<T> = Vec::new();
        plan.each(&data.reinterpret::<T>(), |line| out.push(match largest {
            true => line.iter().copied().max().unwrap_or(T::MIN),
            false => line.iter().copied().min().unwrap_or(T::MAX),
        }));
        one(Tensor::new(plan.shape, out))
    }, else real_type!(dtype, R => {
        let mut out: Vec<R> = Vec::new();
        plan.each(&load::<R>(call.op, data)?, |line| out.push(match largest {
            true => line.iter().fold(R::neg_infinity(), |a, &b| if b > a || b.is_nan() { b } else { a }),
            false => line.iter().fold(R::infinity(), |a, &b| if b < a || b.is_nan() { b } else { a }),
        }));
        shape.extend(plan.shape);
        one(R::store(dtype, shape, out))
    }))
}

/// Positions of maxima or minima along one axis.
fn arg(call: &Call<'_>, largest: bool) -> Result<Vec<Datum>> {
    fn find<T: Copy + PartialOrd>(plan: &Plan, values: &[T], largest: bool, last: bool) -> Vec<i64> {
        let mut out = Vec::with_capacity(plan.shape.iter().product());
        plan.each(values, |line| {
            let mut best = 0;
            for (i, value) in line.iter().enumerate() {
                let better = if largest { *value > line[best] } else { *value < line[best] };
                if better || (last && *value == line[best]) {
                    best = i;
                }
            }
            out.push(best as i64);
        });
        out
    }
    let data = call.tensor(0)?;
    let axis = call.axis("axis", 0, data.shape().len())?;
    if data.shape()[axis] == 0 {
        return Err(call.shape_error("an empty axis has no extreme"));
    }
    let plan = Plan::new(data.shape(), &[axis], call.flag("keepdims", true));
    call.budget.take(DType::I64, &plan.shape)?;
    call.budget.work(data.len() as u64)?;
    let last = call.flag("select_last_index", false);
    let found = int_type!(data.dtype(), T => find(&plan, &data.reinterpret::<T>(), largest, last),
        else find(&plan, &load::<f64>(call.op, data)?, largest, last));
    one(Tensor::new(plan.shape, found))
}

/// Running sums or products along an axis.
fn running(call: &Call<'_>, product: bool) -> Result<Vec<Datum>> {
    fn scan<T: Copy>(
        values: &[T],
        lines: (usize, usize, usize),
        flags: (bool, bool),
        start: T,
        step: impl Fn(T, T) -> T,
    ) -> Vec<T> {
        let ((outer, extent, inner), (exclusive, reverse)) = (lines, flags);
        let mut out = values.to_vec();
        for line in 0..outer * inner {
            let base = line / inner * extent * inner + line % inner;
            let mut total = start;
            for i in 0..extent {
                let at = base + if reverse { extent - 1 - i } else { i } * inner;
                let next = step(total, values[at]);
                out[at] = if exclusive { total } else { next };
                total = next;
            }
        }
        out
    }
    let data = call.tensor(0)?;
    let axis = call.place(call.one_whole(1)?, data.shape().len())?;
    let count = call.budget.take(data.dtype(), data.shape())?;
    call.budget.work(count as u64)?;
    if count == 0 {
        return one(data.clone());
    }
    let lines = (data.shape()[..axis].iter().product(), data.shape()[axis], data.shape()[axis + 1..].iter().product());
    let flags = (call.flag("exclusive", false), call.flag("reverse", false));
    let shape = data.shape().to_vec();
    int_type!(data.dtype(), T => {
        let values = data.reinterpret::<T>();
        one(Tensor::new(shape, match product {
            true => scan(&values, lines, flags, 1 as T, |a, b| a.wrapping_mul(b)),
            false => scan(&values, lines, flags, 0 as T, |a, b| a.wrapping_add(b)),
        }))
    }, else {
        let values = load::<f64>(call.op, data)?;
        one(f64::store(data.dtype(), shape, match product {
            true => scan(&values, lines, flags, 1.0, |a, b| a * b),
            false => scan(&values, lines, flags, 0.0, |a, b| a + b),
        }))
    })
}
