//! Folded innermost axes, several rows at once with several accumulators each: while the sums of some rows leave their vectors, those
//! of others go on.

use super::host_folds::Folds;
use super::{Kind, PLAIN_RULE};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;

/// The innermost axis.
pub static ROWS: Variant = Variant {
    id: "reduce.host_rows",
    revision: 1,
    knobs: &[
        // Rows at once, accumulators of each.
        Knob::pairs("tile", &[(1, 8), (2, 4), (4, 2)]),
        PARTITION,
    ],
    rules: &[
        PLAIN_RULE,
        Rule { reason: "the innermost axis is kept", holds: |task, _, _| Folds::of(task).is_ok_and(|folds| folds.line == 1) },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![KnobValue::Pair(4, 2), super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Rows {
        folds: Folds::of(request.task)?,
        tile: request.config.pair("tile").unwrap_or((4, 2)),
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Rows {
    folds: Folds,
    tile: (i64, i64),
    parts: usize,
    isa: Isa,
}

impl Kernel for Rows {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        row_split::rows(operands.output::<f32>(0), 1, self.parts, &|first, y| {
            let part = Part { rows: self, first, x, y };
            match self.tile {
                (1, _) => simd::run(self.isa, Tile::<1, 8>(part)),
                (2, _) => simd::run(self.isa, Tile::<2, 4>(part)),
                _ => simd::run(self.isa, Tile::<4, 2>(part)),
            }
        });
    }
}

struct Part<'a> {
    rows: &'a Rows,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// A part of the output, `R` elements at a time with `U` accumulators each.
struct Tile<'a, const R: usize, const U: usize>(Part<'a>);

impl<const R: usize, const U: usize> Routine for Tile<'_, R, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0.rows.folds.kind {
            Kind::Sum | Kind::Mean | Kind::LogSum => self.go(s, |a, x| s.add(a, x), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::L1 => self.go(s, |a, x| s.add(a, s.abs(x)), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::L2 | Kind::SumSquare => self.go(s, |a, x| s.mul_add(x, x, a), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::Max => self.go(s, |a, x| s.max(a, x), |a, b| s.max(a, b), |a| s.greatest(a)),
            Kind::Min => {
                let least = |a| -s.greatest(s.sub(s.zero(), a));
                self.go(s, |a, x| s.min(a, x), |a, b| s.min(a, b), least);
            }
            Kind::Prod => {
                let product = |a| {
                    let mut lanes = [1.0; 16];
                    lanes::store(s, &mut lanes, 0, a);
                    lanes.iter().product::<f32>()
                };
                self.go(s, |a, x| s.mul(a, x), |a, b| s.mul(a, b), product);
            }
        }
    }
}

impl<const R: usize, const U: usize> Tile<'_, R, U> {
    #[inline(always)]
    fn go<S: Simd>(
        self,
        s: S,
        step: impl Fn(S::V, S::V) -> S::V + Copy,
        join: impl Fn(S::V, S::V) -> S::V + Copy,
        across: impl Fn(S::V) -> f32 + Copy,
    ) {
        let Part { rows, first, x, y } = self.0;
        let folds = &rows.folds;
        let mut at = 0;
        while at + R <= y.len() {
            let folded = several::<S, R, U>(s, (rows, first + at, x), step, join);
            for (y, folded) in y[at..at + R].iter_mut().zip(folded) {
                *y = folds.kind.finish(across(folded), folds.count);
            }
            at += R;
        }
        for (i, y) in y.iter_mut().enumerate().skip(at) {
            let [folded] = several::<S, 1, U>(s, (rows, first + i, x), step, join);
            *y = folds.kind.finish(across(folded), folds.count);
        }
    }
}

/// Folds what becomes `R` elements of the output from `first` on, to a vector each.
#[inline(always)]
fn several<S: Simd, const R: usize, const U: usize>(
    s: S,
    (rows, first, x): (&Rows, usize, &[f32]),
    step: impl Fn(S::V, S::V) -> S::V + Copy,
    join: impl Fn(S::V, S::V) -> S::V + Copy,
) -> [S::V; R] {
    let (folds, start) = (&rows.folds, s.splat(rows.folds.kind.start()));
    let mut acc = [start; R];
    let bases = folds.bases::<R>(first);
    for index in 0..folds.folds() {
        let offset = folds.fold(index);
        let mut runs: [&[f32]; R] = [&[]; R];
        for (run, base) in runs.iter_mut().zip(bases) {
            *run = &x[base + offset..][..folds.run];
        }
        let at = lanes::fold_rows::<S, R, U>(s, runs, &mut acc, start, step, join);
        if at < folds.run {
            // Lanes behind the end keep what they have.
            let there = s.first(s.splat(1.0), folds.run - at);
            for (run, acc) in runs.iter().zip(&mut acc) {
                let stepped = step(*acc, lanes::load_part(s, &run[at..]));
                *acc = s.select_less(s.zero(), there, stepped, *acc);
            }
        }
    }
    acc
}
