//! Products of matrices: plain, general, integer, quantised.

use super::call::one;
use super::number::{Real, int_type, load, real_type};
use super::walk::{Walk, broadcast_shape, broadcast_strides};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[("MatMul", matmul), ("Gemm", gemm), ("MatMulInteger", matmul_integer)];

/// The extents of a broadcast product.
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    /// Extents before the matrices.
    pub(super) batch: Vec<usize>,
    /// The shape of the result, in which a vector operand leaves no axis.
    pub(super) shape: Vec<usize>,
    a_batch: Vec<usize>,
    b_batch: Vec<usize>,
}

impl Product {
    /// The extents for operands of these shapes.
    pub(super) fn new(call: &Call<'_>, a: &[usize], b: &[usize]) -> Result<Self> {
        let refuse = || call.shape_error(format_args!("{a:?} times {b:?}"));
        let (a_batch, m, k) = match a {
            [] => return Err(refuse()),
            [k] => (&[][..], None, *k),
            [batch @ .., m, k] => (batch, Some(*m), *k),
        };
        let (b_batch, depth, n) = match b {
            [] => return Err(refuse()),
            [k] => (&[][..], *k, None),
            [batch @ .., k, n] => (batch, *k, Some(*n)),
        };
        if depth != k {
            return Err(refuse());
        }
        let batch = broadcast_shape(call.op, &[a_batch, b_batch])?;
        let shape = batch.iter().copied().chain(m).chain(n).collect();
        Ok(Product {
            m: m.unwrap_or(1),
            k,
            n: n.unwrap_or(1),
            batch,
            shape,
            a_batch: a_batch.to_vec(),
            b_batch: b_batch.to_vec(),
        })
    }

    /// Takes bytes and work from the budget.
    pub(super) fn charge(&self, call: &Call<'_>, dtype: DType) -> Result<usize> {
        let count = call.budget.take(dtype, &self.shape)?;
        call.budget.work((count as u64).saturating_mul(self.k as u64).saturating_mul(2))?;
        Ok(count)
    }

    /// Calls `multiply(a matrix, b matrix)` for each pair, by number of the matrix.
    pub(super) fn pairs(&self, mut multiply: impl FnMut(usize, usize)) {
        let strides = (broadcast_strides(&self.a_batch, &self.batch), broadcast_strides(&self.b_batch, &self.batch));
        Walk::new(&self.batch, [0, 0], [&strides.0, &strides.1]).rows(|[a, b], length, [p, q]| {
            for i in 0..length as isize {
                multiply((a + i * p) as usize, (b + i * q) as usize);
            }
        });
    }
}

/// Adds `a · b` to `out`, row by row, so that the innermost loop runs along `b` and `out`.
pub(super) fn multiply<R: Copy>(a: &[R], b: &[R], k: usize, n: usize, out: &mut [R], fused: impl Fn(R, R, R) -> R) {
    if k == 0 || n == 0 {
        return;
    }
    for (row, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (&x, b) in row.iter().zip(b.chunks_exact(n)) {
            for (slot, &y) in out.iter_mut().zip(b) {
                *slot = fused(*slot, x, y);
            }
        }
    }
}

fn matmul(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if a.dtype() != b.dtype() {
        return Err(EvaluateError::Dtype(format!("MatMul: {} and {} are mixed", a.dtype(), b.dtype())));
    }
    let product = Product::new(call, a.shape(), b.shape())?;
    let count = product.charge(call, a.dtype())?;
    int_type!(a.dtype(), T => {
        let (x, y) = (a.reinterpret::<T>(), b.reinterpret::<T>());
        let values = every(&product, &x, &y, count, 0 as T, |sum: T, x, y| sum.wrapping_add(x.wrapping_mul(y)));
        one(Tensor::new(product.shape, values))
    }, else real_type!(a.dtype(), R => {
        let (x, y) = (load::<R>(call.op, a)?, load::<R>(call.op, b)?);
        let values = every(&product, &x, &y, count, R::default(), |sum: R, x, y| sum + x * y);
        one(R::store(a.dtype(), product.shape, values))
    }))
}

fn every<T: Copy>(product: &Product, x: &[T], y: &[T], count: usize, zero: T, fused: impl Fn(T, T, T) -> T) -> Vec<T> {
    let (m, k, n) = (product.m, product.k, product.n);
    let mut out = vec![zero; count];
    if count == 0 {
        return out;
    }
    let mut results = out.chunks_exact_mut(m * n);
    product.pairs(|i, j| {
        if let Some(out) = results.next() {
            multiply(&x[i * m * k..(i + 1) * m * k], &y[j * k * n..(j + 1) * k * n], k, n, out, &fused);
        }
    });
    out
}

fn gemm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b, c) = (call.tensor(0)?, call.tensor(1)?, call.optional(2)?);
    let (&[a_rows, a_columns], &[b_rows, b_columns]) = (a.shape(), b.shape()) else {
        return Err(call.shape_error("needs matrices"));
    };
    let (a_turned, b_turned) = (call.flag("transA", false), call.flag("transB", false));
    let (m, k) = if a_turned { (a_columns, a_rows) } else { (a_rows, a_columns) };
    let (depth, n) = if b_turned { (b_columns, b_rows) } else { (b_rows, b_columns) };
    if depth != k {
        return Err(call.shape_error(format_args!("{:?} times {:?}", a.shape(), b.shape())));
    }
    let count = call.budget.take(a.dtype(), &[m, n])?;
    call.budget.work((count as u64).saturating_mul(k as u64).saturating_mul(2))?;
    if let Some(c) = c
        && broadcast_shape(call.op, &[c.shape(), &[m, n]])? != [m, n]
    {
        return Err(call.shape_error(format_args!("bias {:?} for {m}×{n}", c.shape())));
    }
    let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
    real_type!(a.dtype(), R => {
        let (x, y) = (load::<R>(call.op, a)?, load::<R>(call.op, b)?);
        let x = if a_turned { turned(&x, a_rows, a_columns) } else { x.into_owned() };
        let y = if b_turned { turned(&y, b_rows, b_columns) } else { y.into_owned() };
        let mut out = vec![R::default(); count];
        multiply(&x, &y, k, n, &mut out, |sum: R, x, y| sum + x * y);
        let (alpha, beta) = (R::of(alpha.into()), R::of(beta.into()));
        if alpha != 1.0 {
            out.iter_mut().for_each(|slot| *slot *= alpha);
        }
        if let Some(c) = c {
            let bias = load::<R>(call.op, c)?;
            let mut slots = out.iter_mut();
            Walk::new(&[m, n], [0], [&broadcast_strides(c.shape(), &[m, n])]).rows(|[at], length, [step]| {
                for (i, slot) in slots.by_ref().take(length).enumerate() {
                    *slot += beta * bias[(at + i as isize * step) as usize];
                }
            });
        }
        one(R::store(a.dtype(), vec![m, n], out))
    })
}

/// A matrix with rows and columns exchanged.
pub(super) fn turned<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// The elements less a zero point: one for all, one per row, or one per column.
fn centred(call: &Call<'_>, tensor: &Tensor, zero: Option<&Tensor>, per_row: bool) -> Result<Vec<i32>> {
    let values = tensor.to_ints().ok_or_else(|| call.dtype_error(tensor.dtype()))?;
    let zeros = match zero {
        Some(zero) => zero.to_ints().ok_or_else(|| call.dtype_error(zero.dtype()))?,
        None => vec![0],
    };
    let (rows, columns) = match tensor.shape() {
        [.., rows, columns] => (*rows, *columns),
        [columns] => (1, *columns),
        [] => (1, 1),
    };
    let at = |i: usize| match zeros.len() {
        1 => 0,
        _ if per_row => i / columns % rows,
        _ => i % columns,
    };
    if zeros.len() != 1 && zeros.len() != if per_row { rows } else { columns } {
        return Err(call.shape_error(format_args!("{} zero points for {:?}", zeros.len(), tensor.shape())));
    }
    Ok(values.iter().enumerate().map(|(i, &value)| value.wrapping_sub(zeros[at(i)]) as i32).collect())
}

fn matmul_integer(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let product = Product::new(call, a.shape(), b.shape())?;
    let count = product.charge(call, DType::I32)?;
    let (x, y) = (centred(call, a, call.optional(2)?, true)?, centred(call, b, call.optional(3)?, false)?);
    let values = every(&product, &x, &y, count, 0i32, |sum, x, y| sum.wrapping_add(x.wrapping_mul(y)));
    one(Tensor::new(product.shape, values))
}
