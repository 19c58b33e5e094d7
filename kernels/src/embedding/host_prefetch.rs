//! Bags with the sum in registers, and rows fetched some look-ups ahead.

use super::host_rows::Indices;
use super::{Bag, Extents, row_of};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;

/// Bags, and tables that are not in cache.
pub static PREFETCH: Variant = Variant {
    id: "embedding.host_prefetch",
    revision: 1,
    knobs: &[Knob::ints("ahead", &[0, 4, 8, 16]), PARTITION],
    rules: &[Rule { reason: "there are no bags to sum", holds: |task, _, _| Bag::of(task) != Bag::None }, PARTITION_RULE],
    default: |task, limits| vec![KnobValue::Int(8), super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Prefetch {
        extents: Extents::of(request.task)?,
        ahead: request.config.int("ahead").unwrap_or(8) as usize,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Prefetch {
    extents: Extents,
    ahead: usize,
    parts: usize,
    isa: Isa,
}

impl Kernel for Prefetch {
    fn run(&self, operands: &mut Operands<'_>) {
        let table = operands.input::<f32>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, self.extents.wide);
        row_split::rows(operands.output::<f32>(0), self.extents.width, self.parts, &|first, y| {
            simd::run(self.isa, Part { prefetch: self, first, table, indices, y });
        });
    }
}

struct Part<'a> {
    prefetch: &'a Prefetch,
    first: usize,
    table: &'a [f32],
    indices: Indices<'a>,
    y: &'a mut [f32],
}

/// Vectors of a row that are summed together.
const WIDE: usize = 4;

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { prefetch, first, table, indices, y } = self;
        let (e, ahead) = (prefetch.extents, prefetch.ahead);
        let share = s.splat(if e.kind == Bag::Mean { 1.0 / e.bag as f32 } else { 1.0 });
        let last = (first + y.len() / e.width) * e.bag;
        for (i, y) in y.chunks_exact_mut(e.width).enumerate() {
            let start = (first + i) * e.bag;
            let row = |j: usize| &table[row_of(indices.at(start + j), e.rows) * e.width..][..e.width];
            let step = WIDE * S::LANES;
            let mut at = 0;
            while at + step <= e.width {
                let mut sums = [s.zero(); WIDE];
                for j in 0..e.bag {
                    if ahead > 0 && start + j + ahead < last {
                        let next = &table[row_of(indices.at(start + j + ahead), e.rows) * e.width + at..];
                        for line in (0..step).step_by(16) {
                            s.prefetch(next.as_ptr().wrapping_add(line));
                        }
                    }
                    let row = row(j);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.add(*sum, lanes::load(s, row, at + v * S::LANES));
                    }
                }
                for (v, &sum) in sums.iter().enumerate() {
                    lanes::store(s, y, at + v * S::LANES, s.mul(sum, share));
                }
                at += step;
            }
            if at < e.width {
                let y = &mut y[at..];
                y.fill(0.0);
                for j in 0..e.bag {
                    lanes::zip_in_place(s, &row(j)[at..], y, |y, x| s.add(y, x));
                }
                lanes::map_in_place(s, y, |y| s.mul(y, share));
            }
        }
    }
}
