//! Rows in place: mean, then squares of the differences, then the result, the row staying in L1.

use super::Extents;
use crate::layout::Layout;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;

/// Rows in, rows out.
pub static ROWS: Variant = Variant {
    id: "layer_norm.host_rows",
    revision: 1,
    knobs: &[Knob::ints("unroll", &[1, 2, 4, 8]), PARTITION],
    rules: &[
        Rule {
            reason: "input or output is not in rows",
            holds: |task, _, _| Extents::of(task).is_ok_and(|e| e.from == Layout::Rows && e.to == Layout::Rows),
        },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![KnobValue::Int(4), super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Rows {
        extents: Extents::of(request.task)?,
        unroll: request.config.int("unroll").unwrap_or(4),
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Rows {
    extents: Extents,
    unroll: i64,
    parts: usize,
    isa: Isa,
}

/// What follows the normalisation.
#[derive(Copy, Clone)]
pub struct Affine<'a> {
    pub scale: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
}

impl<'a> Affine<'a> {
    /// From inputs 1 and 2.
    pub fn of(operands: &Operands<'a>) -> Self {
        let there = |index| operands.input::<f32>(index).filter(|values| !values.is_empty());
        Affine { scale: there(1), bias: there(2) }
    }
}

impl Kernel for Rows {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let affine = Affine::of(operands);
        let e = &self.extents;
        row_split::rows(operands.output::<f32>(0), e.len, self.parts, &|first, y| {
            let part = Part { extents: e, affine, x: &x[first * e.len..][..y.len()], y };
            match self.unroll {
                1 => simd::run(self.isa, Unrolled::<1>(part)),
                2 => simd::run(self.isa, Unrolled::<2>(part)),
                4 => simd::run(self.isa, Unrolled::<4>(part)),
                _ => simd::run(self.isa, Unrolled::<8>(part)),
            }
        });
    }
}

struct Part<'a> {
    extents: &'a Extents,
    affine: Affine<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

struct Unrolled<'a, const U: usize>(Part<'a>);

impl<const U: usize> Routine for Unrolled<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { extents, affine, x, y } = self.0;
        for (x, y) in x.chunks_exact(extents.len).zip(y.chunks_exact_mut(extents.len)) {
            normalise::<S, U>(s, extents, affine, x, y);
        }
    }
}

/// One row, with `U` accumulators.
#[inline(always)]
pub fn normalise<S: Simd, const U: usize>(s: S, e: &Extents, affine: Affine<'_>, x: &[f32], y: &mut [f32]) {
    let count = x.len() as f32;
    let mean = if e.rms {
        0.0
    } else {
        let (all, rest) = lanes::fold::<S, U>(s, x, s.zero(), |acc, x| s.add(acc, x), |a, b| s.add(a, b));
        (s.sum(all) + rest.iter().sum::<f32>()) / count
    };
    let shift = s.splat(mean);
    let squares = |acc: S::V, x: S::V| {
        let x = s.sub(x, shift);
        s.mul_add(x, x, acc)
    };
    let (all, rest) = lanes::fold::<S, U>(s, x, s.zero(), squares, |a, b| s.add(a, b));
    let variance = (s.sum(all) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()) / count;
    let factor = 1.0 / (variance + e.epsilon).sqrt();
    // The difference first: it is exact where the mean is far from 0.
    let factor = s.splat(factor);
    let normal = |x: S::V| s.mul(s.sub(x, shift), factor);
    match (affine.scale, affine.bias) {
        (Some(scale), Some(bias)) => {
            lanes::zip3(s, x, scale, bias, y, |x, scale, bias| s.mul_add(normal(x), scale, bias));
        }
        (Some(scale), None) => lanes::zip(s, x, scale, y, |x, scale| s.mul(normal(x), scale)),
        (None, Some(bias)) => lanes::zip(s, x, bias, y, |x, bias| s.add(normal(x), bias)),
        (None, None) => lanes::map(s, x, y, normal),
    }
}
