//! Columns to columns: 16 columns of a few rows at a time, so that every line is read whole.

use super::Extents;
use super::host_rows::Affine;
use crate::layout::{BLOCK, Layout};
use crate::plane;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Task, Variant};
use schema::KnobValue;

/// Columns in, columns out.
pub static COLUMNS: Variant = Variant {
    id: "layer_norm.host_columns",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule {
            reason: "input or output is not in columns",
            holds: |task, _, _| Extents::of(task).is_ok_and(|e| e.from == Layout::Columns && e.to == Layout::Columns),
        },
        Rule {
            reason: "the threads share out matrices, and there is only one",
            holds: |task, config, _| config.name("partition") != Some("rows") || matrices(task) > 1,
        },
        PARTITION_RULE,
    ],
    default: |task, limits| {
        let one = KnobValue::Name("one".to_owned());
        vec![if matrices(task) > 1 { super::partition(task, limits) } else { one }]
    },
    build,
};

/// What the threads share out.
fn matrices(task: &Task) -> usize {
    task.ints("x").iter().rev().skip(2).product()
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Columns { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Columns {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

impl Kernel for Columns {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let affine = Affine::of(operands);
        let e = &self.extents;
        let matrix = e.matrix * plane::blocks(e.len) * BLOCK;
        row_split::rows(operands.output::<f32>(0), matrix, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(matrix).enumerate() {
                simd::run(self.isa, Matrix { extents: e, affine, x: &x[(first + i) * matrix..][..matrix], y });
            }
        });
    }
}

struct Matrix<'a> {
    extents: &'a Extents,
    affine: Affine<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// Rows that are normalised together.
const ROWS: usize = 4;

impl Routine for Matrix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.extents.matrix;
        let mut row = 0;
        while row + ROWS <= rows {
            band::<S, ROWS>(s, self.extents, self.affine, self.x, self.y, row);
            row += ROWS;
        }
        while row < rows {
            band::<S, 1>(s, self.extents, self.affine, self.x, self.y, row);
            row += 1;
        }
    }
}

/// The sum of `f` over the columns of each of `R` rows.
#[inline(always)]
fn sums<S: Simd, const R: usize>(
    s: S,
    (e, x, row): (&Extents, &[f32], usize),
    vector: impl Fn(S::V, usize) -> S::V,
    scalar: impl Fn(f32, usize) -> f32,
) -> [f32; R] {
    let mut acc = [[s.zero(); 2]; R];
    let whole = e.len / BLOCK;
    for block in 0..whole {
        let lines = &x[(block * e.matrix + row) * BLOCK..][..R * BLOCK];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (i, lane) in (0..BLOCK).step_by(S::LANES).enumerate() {
                acc[i % 2] = s.add(acc[i % 2], vector(lanes::load(s, lines, r * BLOCK + lane), r));
            }
        }
    }
    let mut sums = [0.0; R];
    for (r, sum) in sums.iter_mut().enumerate() {
        *sum = s.sum(s.add(acc[r][0], acc[r][1]));
        for lane in 0..e.len - whole * BLOCK {
            *sum += scalar(x[(whole * e.matrix + row + r) * BLOCK + lane], r);
        }
    }
    sums
}

/// Normalises rows `row .. row + R` of one matrix.
#[inline(always)]
fn band<S: Simd, const R: usize>(s: S, e: &Extents, affine: Affine<'_>, x: &[f32], y: &mut [f32], row: usize) {
    let (blocks, count) = (plane::blocks(e.len), e.len as f32);
    let at = |block: usize| (block * e.matrix + row) * BLOCK;
    let mean = if e.rms { [0.0; R] } else { sums::<S, R>(s, (e, x, row), |x, _| x, |x, _| x).map(|sum| sum / count) };
    let squares = sums::<S, R>(
        s,
        (e, x, row),
        |x, r| {
            let x = s.sub(x, s.splat(mean[r]));
            s.mul(x, x)
        },
        |x, r| (x - mean[r]) * (x - mean[r]),
    );
    let factor: [f32; R] = std::array::from_fn(|r| 1.0 / (squares[r] / count + e.epsilon).sqrt());
    for block in 0..blocks {
        let lanes_here = plane::lanes(e.len, block);
        let part = |values: Option<&[f32]>, otherwise: f32| {
            let mut part = [0.0; BLOCK];
            match values {
                Some(values) => part[..lanes_here].copy_from_slice(&values[block * BLOCK..][..lanes_here]),
                None => part[..lanes_here].fill(otherwise),
            }
            part
        };
        let (scale, bias) = (part(affine.scale, 1.0), part(affine.bias, 0.0));
        for r in 0..R {
            for lane in (0..BLOCK).step_by(S::LANES) {
                let place = at(block) + r * BLOCK + lane;
                let x = s.mul(s.sub(lanes::load(s, x, place), s.splat(mean[r])), s.splat(factor[r]));
                // Padding has scale 0 and bias 0, so it stays 0.
                lanes::store(s, y, place, s.mul_add(x, lanes::load(s, &scale, lane), lanes::load(s, &bias, lane)));
            }
        }
    }
}
