//! The general variant: row by row through scratch space, whatever the layouts.

use super::Extents;
use super::host_rows::{Affine, normalise};
use crate::layout::{BLOCK, Layout};
use crate::plane;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd};
use crate::{BuildError, Isa, Kernel, Operands, Request, Variant};

/// Any layouts.
pub static TWO_PASS: Variant = Variant {
    id: "layer_norm.host_two_pass",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(TwoPass { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct TwoPass {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

impl TwoPass {
    /// Output elements that are computed together: a row, or a matrix in columns.
    fn unit(&self) -> usize {
        let e = &self.extents;
        if e.to == Layout::Columns { e.matrix * plane::blocks(e.len) * BLOCK } else { e.len }
    }
}

impl Kernel for TwoPass {
    fn scratch_bytes(&self) -> usize {
        2 * self.extents.len * self.parts * size_of::<f32>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let affine = Affine::of(operands);
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        let (unit, e) = (self.unit(), &self.extents);
        row_split::rows_with(y, unit, scratch, self.parts, &|first, y, scratch| {
            let (input, output) = scratch.split_at_mut(e.len);
            for (i, y) in y.chunks_exact_mut(unit).enumerate() {
                let rows = if e.to == Layout::Columns { e.matrix } else { 1 };
                for row in 0..rows {
                    gather(e, (first + i) * rows + row, x, input);
                    let one = OneRow { extents: e, affine, x: input, y: output };
                    simd::run(self.isa, one);
                    scatter(e, row, output, y);
                }
            }
        });
    }
}

/// Row `row` of all rows, out of the layout of the input.
fn gather(e: &Extents, row: usize, x: &[f32], to: &mut [f32]) {
    if e.from == Layout::Rows {
        return to.copy_from_slice(&x[row * e.len..][..e.len]);
    }
    let (matrix, row) = (row / e.matrix, row % e.matrix);
    for (block, to) in to.chunks_mut(BLOCK).enumerate() {
        let at = ((matrix * plane::blocks(e.len) + block) * e.matrix + row) * BLOCK;
        to.copy_from_slice(&x[at..at + to.len()]);
    }
}

/// Row `row` of a unit, into the layout of the output.
fn scatter(e: &Extents, row: usize, from: &[f32], y: &mut [f32]) {
    if e.to == Layout::Rows {
        return y.copy_from_slice(from);
    }
    for (block, from) in from.chunks(BLOCK).enumerate() {
        let y = &mut y[(block * e.matrix + row) * BLOCK..][..BLOCK];
        y[..from.len()].copy_from_slice(from);
        y[from.len()..].fill(0.0);
    }
}

struct OneRow<'a> {
    extents: &'a Extents,
    affine: Affine<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for OneRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        normalise::<S, 4>(s, self.extents, self.affine, self.x, self.y);
    }
}
