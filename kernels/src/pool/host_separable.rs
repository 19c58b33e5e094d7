//! Planes, first down the rows of a window, then along them: a window of k × k costs 2·k instead of k².
//!
//! One line of column folds is kept in scratch space per output row.

use super::host_windows::{Planes, partition};
use crate::layout::{BLOCK, Layout};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Variant};

/// Planes, in two passes.
pub static SEPARABLE: Variant = Variant {
    id: "pool.host_separable",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule {
            reason: "the input is not in planes",
            holds: |task, _, _| super::signature(task).is_ok_and(|s| s.inputs[0].layout != Layout::Rows),
        },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![partition(task, limits)],
    build: |request: &Request<'_>| -> Result<Box<dyn Kernel>, BuildError> {
        let parts = row_split::parts(request.config, request.limits);
        Ok(Box::new(Separable { planes: Planes::new(request.task)?, parts, isa: request.limits.isa }))
    },
};

struct Separable {
    planes: Planes,
    parts: usize,
    isa: Isa,
}

impl Kernel for Separable {
    fn scratch_bytes(&self) -> usize {
        self.planes.from.width * BLOCK * self.parts * size_of::<f32>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let (from, to) = (self.planes.from.len(), self.planes.to.len());
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        row_split::rows_with(y, to, scratch, self.parts, &|first, y, scratch| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                simd::run(self.isa, OnePlane { planes: &self.planes, x: &x[(first + i) * from..][..from], line: scratch, y });
            }
        });
    }
}

struct OnePlane<'a> {
    planes: &'a Planes,
    x: &'a [f32],
    line: &'a mut [f32],
    y: &'a mut [f32],
}

impl Routine for OnePlane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.planes.max {
            self.go(s, |a, x| s.max(a, x));
        } else {
            self.go(s, |a, x| s.add(a, x));
        }
    }
}

impl OnePlane<'_> {
    #[inline(always)]
    fn go<S: Simd>(self, s: S, step: impl Fn(S::V, S::V) -> S::V + Copy) {
        let OnePlane { planes, x, line, y } = self;
        let (start, vectors) = (s.splat(planes.start()), BLOCK / S::LANES);
        let input = |iy: usize| &x[planes.from.row(iy)..][..planes.from.width * BLOCK];
        for (oy, row) in planes.rows.iter().enumerate() {
            let mut rest = (row.first..row.end).step_by(planes.dilations.0);
            // The first pass of two or three rows writes the line without reading it.
            match (rest.next(), rest.next(), rest.next()) {
                (Some(a), Some(b), Some(c)) => {
                    lanes::zip3(s, input(a), input(b), input(c), line, |a, b, c| step(step(a, b), c));
                }
                (Some(a), Some(b), None) => lanes::zip(s, input(a), input(b), line, step),
                (Some(a), ..) => line.copy_from_slice(input(a)),
                (None, ..) => {}
            }
            for iy in rest {
                lanes::zip_in_place(s, input(iy), line, step);
            }
            let to = &mut y[planes.to.row(oy)..][..planes.to.width * BLOCK];
            for (column, to) in planes.columns.iter().zip(to.chunks_exact_mut(BLOCK)) {
                let mut acc = [start; 4];
                for ix in (column.first..column.end).step_by(planes.dilations.1) {
                    for (v, acc) in acc.iter_mut().enumerate().take(vectors) {
                        *acc = step(*acc, lanes::load(s, line, ix * BLOCK + v * S::LANES));
                    }
                }
                let share = s.splat(1.0 / (row.counted * column.counted) as f32);
                for (v, &acc) in acc.iter().enumerate().take(vectors) {
                    let folded = if planes.max { acc } else { s.mul(acc, share) };
                    lanes::store(s, to, v * S::LANES, folded);
                }
            }
        }
        planes.to.clear_halo(y);
    }
}
