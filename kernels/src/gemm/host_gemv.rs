//! Products with few rows in A: B is read once, where it lies.
//!
//! A constant B is packed in panels as in [`host_packed`](super::host_packed), but all of k passes at once and the columns are what
//! is split. A B that is only known at run time is not packed, since packing would cost more than the product: its rows, or its
//! columns where it is given transposed, are streamed.

use super::host_packed::{ALONE_FLOPS, constant};
use super::pack::pack_b;
use super::{Shape, refuse};
use crate::epilogue::{Activation, Epilogue};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::{self, Routine, Simd, math};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::KnobValue;
use std::ops::Range;

/// The most rows of A.
const ROWS_MAX: usize = 4;

/// B streamed where it lies; see the module.
pub static STREAMED: Variant = Variant {
    id: "gemm.host_streamed",
    rules: &[
        Rule { reason: "B is packed when the kernel is built", holds: |t, _, _| folded(t).is_some_and(|s| !s.b_constant) },
        FEW_ROWS,
        IN_ROWS,
        ONE_PRODUCT,
        SPLITS,
    ],
    ..GEMV
};

/// B in panels; see the module.
pub static GEMV: Variant = Variant {
    id: "gemm.host_gemv",
    revision: 2,
    knobs: &[Knob::ints("vectors", &[1, 2, 4]), Knob::names("partition", &["one", "columns"])],
    rules: &[
        Rule { reason: "B is only known at run time", holds: |t, _, _| folded(t).is_some_and(|s| s.b_constant) },
        FEW_ROWS,
        IN_ROWS,
        ONE_PRODUCT,
        SPLITS,
    ],
    default,
    build: |request| Ok(Box::new(HostGemv::new(request)?)),
};

const FEW_ROWS: Rule = Rule { reason: "A has more than 4 rows", holds: |t, _, _| folded(t).is_some_and(|s| s.m <= ROWS_MAX) };
const IN_ROWS: Rule = Rule {
    reason: "A or C does not lie in rows, or A is given transposed",
    holds: |t, _, _| folded(t).is_some_and(|s| s.a == Layout::Rows && s.c == Layout::Rows && !s.trans_a),
};
const ONE_PRODUCT: Rule = Rule { reason: "there is a batch", holds: |t, _, _| folded(t).is_some_and(|s| s.batch() == 1) };
const SPLITS: Rule = Rule {
    reason: "one thread is granted, and another partition would do the same",
    holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
};

fn folded(task: &Task) -> Option<Shape> {
    Shape::of(task).ok().map(Shape::folded)
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let flops = 2 * task.int("m") * task.int("n") * task.int("k");
    let split = limits.units > 1 && flops >= ALONE_FLOPS / 8;
    vec![KnobValue::Int(4), KnobValue::Name(if split { "columns" } else { "one" }.to_owned())]
}

/// A product of few rows.
struct HostGemv {
    shape: Shape,
    isa: Isa,
    vectors: usize,
    b: Option<Packed>,
    bias: Option<Packed>,
    parts: usize,
}

impl HostGemv {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?.folded();
        if shape.m > ROWS_MAX {
            return Err(refuse(request.task, "A has more than 4 rows"));
        }
        let (b, bias) = if shape.b_constant {
            let b = constant(request, 1, "b", shape.k * shape.n)?;
            let mut packed = Packed::zeroed(shape.n.next_multiple_of(BLOCK) * shape.k);
            pack_b(&b, shape.k, shape.n, shape.trans_b, 0, &mut packed);
            let bias = shape.epilogue.bias.then(|| constant(request, 2, "bias", shape.n)).transpose()?;
            (Some(packed), bias.map(|bias| Packed::copy_of(&bias)))
        } else {
            (None, None)
        };
        let split = request.config.name("partition") == Some("columns");
        Ok(HostGemv {
            isa: simd::available(request.limits.isa),
            vectors: request.config.int("vectors").unwrap_or(4) as usize,
            parts: if split { request.limits.units as usize } else { 1 },
            shape,
            b,
            bias,
        })
    }
}

impl Kernel for HostGemv {
    fn prepared_bytes(&self) -> usize {
        [&self.b, &self.bias].into_iter().flatten().map(Packed::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let shape = &self.shape;
        let (m, n, k) = (shape.m, shape.n, shape.k);
        let a = operands.input::<f32>(0).expect("A is not optional");
        let bias = match &self.bias {
            Some(bias) => Some(&bias[..]),
            None if shape.epilogue.bias => operands.input::<f32>(2),
            None => None,
        };
        let residual = if shape.epilogue.residual { operands.input::<f32>(3) } else { None };
        let b = match &self.b {
            Some(b) => Columns::Panels(b),
            None => {
                let b = operands.input::<f32>(1).expect("B is not optional");
                assert_eq!(b.len(), k * n, "B is as the signature says");
                if shape.trans_b { Columns::Transposed(b) } else { Columns::Rows(b) }
            }
        };
        let c = operands.output::<f32>(0);
        assert!(a.len() == m * k && c.len() == m * n, "A and C are as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == c.len()), "the residual lies as C");
        assert!(bias.is_none_or(|bias| bias.len() >= n), "the bias is as the signature says");
        let c = Shared(c.as_mut_ptr());
        for_each_part(self.parts, &|part| {
            let columns = share(n, BLOCK * self.vectors, self.parts, part);
            for row in 0..m {
                let line = Line {
                    a: &a[row * k..][..k],
                    b,
                    n,
                    columns: columns.clone(),
                    // SAFETY: row < m, so the row is inside C.
                    c: unsafe { c.get().add(row * n) },
                    alpha: shape.alpha,
                    epilogue: &shape.epilogue,
                    bias,
                    residual: residual.map(|residual| &residual[row * n..][..n]),
                };
                match self.vectors {
                    1 => simd::run(self.isa, Wide::<1>(line)),
                    2 => simd::run(self.isa, Wide::<2>(line)),
                    _ => simd::run(self.isa, Wide::<4>(line)),
                }
            }
        });
    }
}

/// How B lies.
#[derive(Copy, Clone)]
enum Columns<'a> {
    /// `[n/16][k][16]`
    Panels(&'a [f32]),
    /// `[k, n]`
    Rows(&'a [f32]),
    /// `[n, k]`
    Transposed(&'a [f32]),
}

/// One row of C, or a part of it.
struct Line<'a> {
    a: &'a [f32],
    b: Columns<'a>,
    n: usize,
    columns: Range<usize>,
    /// The start of the row; only `columns` of it are written.
    c: *mut f32,
    alpha: f32,
    epilogue: &'a Epilogue,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

/// A line, `N` blocks of sixteen columns at a time.
struct Wide<'a, const N: usize>(Line<'a>);

impl<const N: usize> Routine for Wide<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let line = &self.0;
        let mut sums = [0f32; LINE_COLUMNS];
        let mut column = line.columns.start;
        while column < line.columns.end {
            let long = matches!(line.b, Columns::Rows(_)) && line.columns.len() > 2 * N * BLOCK;
            let width = (if long { LINE_COLUMNS } else { N * BLOCK }).min(line.columns.end - column);
            match line.b {
                Columns::Transposed(b) => {
                    for (j, sum) in sums.iter_mut().enumerate().take(width) {
                        *sum = dot(s, line.a, &b[(column + j) * line.a.len()..][..line.a.len()]);
                    }
                }
                Columns::Panels(b) => {
                    let k = line.a.len();
                    let blocks = width.div_ceil(BLOCK);
                    let from = &b[column * k..][..blocks * BLOCK * k];
                    if blocks == N {
                        stream::<S, N>(s, line.a, from, k * BLOCK, BLOCK, &mut sums);
                    } else {
                        for block in 0..blocks {
                            let sums = &mut sums[block * BLOCK..];
                            stream::<S, 1>(s, line.a, &from[block * BLOCK * k..], k * BLOCK, BLOCK, sums);
                        }
                    }
                }
                Columns::Rows(b) if long => {
                    let b = &b[column..];
                    match N {
                        1 => add_lines::<S, 2>(s, line.a, b, line.n, &mut sums[..width]),
                        2 => add_lines::<S, 4>(s, line.a, b, line.n, &mut sums[..width]),
                        _ => add_lines::<S, 8>(s, line.a, b, line.n, &mut sums[..width]),
                    }
                }
                Columns::Rows(b) if width == N * BLOCK => stream::<S, N>(s, line.a, &b[column..], BLOCK, line.n, &mut sums),
                Columns::Rows(b) => {
                    sums[..width].fill(0.0);
                    for (&x, row) in line.a.iter().zip(b.chunks_exact(line.n)) {
                        for (sum, &y) in sums.iter_mut().zip(&row[column..column + width]) {
                            *sum += x * y;
                        }
                    }
                }
            }
            end(s, line, column, &sums[..width]);
            column += width;
        }
    }
}

/// The sums of `N` blocks of sixteen columns over all k. Blocks lie `block` f32 apart, lines of k `stride`.
#[inline(always)]
fn stream<S: Simd, const N: usize>(s: S, a: &[f32], b: &[f32], block: usize, stride: usize, sums: &mut [f32]) {
    let vectors = BLOCK / S::LANES;
    assert!(a.is_empty() || b.len() >= (a.len() - 1) * stride + (N - 1) * block + BLOCK, "B has all lines");
    assert!(sums.len() >= N * BLOCK, "there is room for the sums");
    // Four blocks keep eight sums in flight on AVX2, enough to hide the latency of one.
    let mut acc = [[s.zero(); 4]; N];
    for (i, &x) in a.iter().enumerate() {
        let x = s.splat(x);
        for (n, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate().take(vectors) {
                // SAFETY: asserted above for the greatest i and n; v · LANES < 16.
                let y = unsafe { s.load(b.as_ptr().add(i * stride + n * block + v * S::LANES)) };
                *acc = s.mul_add(x, y, *acc);
            }
        }
    }
    for (n, acc) in acc.iter().enumerate() {
        for (v, &acc) in acc.iter().enumerate().take(vectors) {
            // SAFETY: asserted above.
            unsafe { s.store(sums.as_mut_ptr().add(n * BLOCK + v * S::LANES), acc) };
        }
    }
}

/// Columns of a B in rows whose sums stay in L1 while its rows pass: strips of few columns would touch a page for every k.
const LINE_COLUMNS: usize = 1024;

/// `sums = Σ a[k] · b[k · stride..]`, `U` rows at a time: as many streams that the prefetcher follows.
// Indices and not iterators: the loops over lines must unroll (163 µs and not 40 for 1024²).
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn add_lines<S: Simd, const U: usize>(s: S, a: &[f32], b: &[f32], stride: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    let mut rows = a.chunks_exact(U);
    let mut at = 0;
    for x in &mut rows {
        let mut lines = [&b[..0]; U];
        let mut factors = [s.zero(); U];
        for u in 0..U {
            lines[u] = &b[at + u * stride..][..sums.len()];
            factors[u] = s.splat(x[u]);
        }
        let mut j = 0;
        while j < sums.len() {
            let count = (sums.len() - j).min(S::LANES);
            // SAFETY: `count` columns are left in the sums and in every line.
            unsafe {
                if count == S::LANES {
                    let mut sum = s.load(sums.as_ptr().add(j));
                    for u in 0..U {
                        sum = s.mul_add(factors[u], s.load(lines[u].as_ptr().add(j)), sum);
                    }
                    s.store(sums.as_mut_ptr().add(j), sum);
                } else {
                    let mut sum = s.load_first(sums.as_ptr().add(j), count);
                    for u in 0..U {
                        sum = s.mul_add(factors[u], s.load_first(lines[u].as_ptr().add(j), count), sum);
                    }
                    s.store_first(sums.as_mut_ptr().add(j), sum, count);
                }
            }
            j += S::LANES;
        }
        at += U * stride;
    }
    for &x in rows.remainder() {
        let factor = s.splat(x);
        crate::simd::lanewise::zip_in_place(s, &b[at..][..sums.len()], sums, |sum, y| s.mul_add(factor, y, sum));
        at += stride;
    }
}

/// The inner product of two slices of one length.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [s.zero(); 4];
    let (wide_a, wide_b) = (a.chunks_exact(4 * S::LANES), b.chunks_exact(4 * S::LANES));
    let (rest_a, rest_b) = (wide_a.remainder(), wide_b.remainder());
    for (a, b) in wide_a.zip(wide_b) {
        for (v, acc) in acc.iter_mut().enumerate() {
            // SAFETY: both chunks have 4 · LANES elements.
            unsafe {
                *acc = s.mul_add(s.load(a.as_ptr().add(v * S::LANES)), s.load(b.as_ptr().add(v * S::LANES)), *acc);
            }
        }
    }
    let mut at = 0;
    while at < rest_a.len() {
        let count = rest_a.len() - at;
        // SAFETY: `count` elements are left in both.
        unsafe {
            acc[0] = s.mul_add(s.load_first(rest_a.as_ptr().add(at), count), s.load_first(rest_b.as_ptr().add(at), count), acc[0])
        };
        at += S::LANES;
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// `act(alpha · sum + bias + residual)` into C.
#[inline(always)]
fn end<S: Simd>(s: S, line: &Line<'_>, column: usize, sums: &[f32]) {
    let activation: Activation = line.epilogue.activation;
    let mut j = 0;
    while j < sums.len() {
        let (at, count) = (column + j, sums.len() - j);
        // SAFETY: `count` columns are left in the sums, in C's row, in the bias and in the residual's row.
        unsafe {
            let mut x = s.mul(s.load_first(sums.as_ptr().add(j), count), s.splat(line.alpha));
            if let Some(bias) = line.bias {
                x = s.add(x, s.load_first(bias.as_ptr().add(at), count));
            }
            if let Some(residual) = line.residual {
                x = s.add(x, s.load_first(residual.as_ptr().add(at), count));
            }
            s.store_first(line.c.add(at), x, count);
        }
        j += S::LANES;
    }
    if activation != Activation::None {
        // SAFETY: these columns were just written.
        unsafe { math::activate_in_place(s, activation, line.c.add(column), sums.len()) };
    }
}
