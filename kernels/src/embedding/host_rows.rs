//! The general variant: a row is copied, or added to the result.

use super::{Bag, Extents, row_of};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Variant};

/// Any table.
pub static ROWS: Variant = Variant {
    id: "embedding.host_rows",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Rows { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Rows {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

/// The indices of a run, of either width.
#[derive(Copy, Clone)]
pub enum Indices<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
}

impl<'a> Indices<'a> {
    /// Input `index` of a run.
    pub fn of(operands: &Operands<'a>, index: usize, wide: bool) -> Self {
        if wide {
            Indices::I64(operands.input(index).unwrap_or_default())
        } else {
            Indices::I32(operands.input(index).unwrap_or_default())
        }
    }

    /// The `i`-th index.
    #[inline(always)]
    pub fn at(self, i: usize) -> i64 {
        match self {
            Indices::I64(values) => values[i],
            Indices::I32(values) => i64::from(values[i]),
        }
    }
}

impl Kernel for Rows {
    fn run(&self, operands: &mut Operands<'_>) {
        let table = operands.input::<f32>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, self.extents.wide);
        row_split::rows(operands.output::<f32>(0), self.extents.width, self.parts, &|first, y| {
            simd::run(self.isa, Part { extents: self.extents, first, table, indices, y });
        });
    }
}

struct Part<'a> {
    extents: Extents,
    first: usize,
    table: &'a [f32],
    indices: Indices<'a>,
    y: &'a mut [f32],
}

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { extents: e, first, table, indices, y } = self;
        for (i, y) in y.chunks_exact_mut(e.width).enumerate() {
            let row = |j: usize| &table[row_of(indices.at((first + i) * e.bag + j), e.rows) * e.width..][..e.width];
            if e.kind == Bag::None {
                y.copy_from_slice(row(0));
                continue;
            }
            y.fill(0.0);
            for j in 0..e.bag {
                lanes::zip_in_place(s, row(j), y, |y, x| s.add(y, x));
            }
            if e.kind == Bag::Mean {
                let share = s.splat(1.0 / e.bag as f32);
                lanes::map_in_place(s, y, |y| s.mul(y, share));
            }
        }
    }
}
