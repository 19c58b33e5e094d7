//! Transposes of 4-byte elements whose innermost axis changes, eight by eight in registers.
//!
//! With the axes joined, the output's last axis `r` and the axis `c` that lies together in the input span matrices; each is
//! transposed in bands of rows, so that the lines of the output stay in cache until they are full.

use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::transpose::transpose;
use crate::strided_copy::Piece;
use crate::strides::row_major;
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Task, Variant};
use schema::KnobValue;

/// 4-byte elements, innermost axis changed.
pub static TILES: Variant = Variant {
    id: "transpose.host_tiles",
    revision: 1,
    knobs: &[Knob::ints("band", &[16, 64, 256, 1024]), PARTITION],
    rules: &[
        Rule { reason: "elements are not 4 bytes wide", holds: |task, _, _| plan(task).is_ok_and(|plan| plan.0) },
        Rule { reason: "the innermost axis stays", holds: |task, _, _| plan(task).is_ok_and(|plan| plan.1.is_some()) },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![KnobValue::Int(64), super::partition(task, limits)],
    build,
};

/// Whether elements are 4 bytes wide, and the matrices, if the innermost axis changes.
fn plan(task: &Task) -> Result<(bool, Option<Matrices>), BuildError> {
    let signature = super::signature(task)?;
    let piece = super::piece(task, &signature);
    Ok((signature.inputs[0].dtype.bytes() == 4, Matrices::of(&piece)))
}

/// The axes of the output, joined: `dims` with strides `from` and `to`, of which `column` lies together in the input.
struct Matrices {
    dims: Vec<usize>,
    from: Vec<usize>,
    to: Vec<usize>,
    column: usize,
}

impl Matrices {
    fn of(piece: &Piece) -> Option<Self> {
        let dims = piece.dims().to_vec();
        let from: Vec<usize> = piece.from_strides().iter().map(|&stride| stride as usize).collect();
        let column = from.iter().position(|&stride| stride == 1)?;
        (column + 1 < dims.len() && !dims.contains(&0)).then(|| Matrices { to: row_major(&dims), dims, from, column })
    }
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let matrices = plan(request.task)?.1.ok_or_else(|| request.task.refused("the innermost axis stays"))?;
    Ok(Box::new(Tiles {
        matrices,
        band: request.config.int("band").unwrap_or(64) as usize,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Tiles {
    matrices: Matrices,
    band: usize,
    parts: usize,
    isa: Isa,
}

impl Tiles {
    /// Transposes what lies under `axis`, of which the first has `outer` and not `dims[0]` places here.
    fn walk(&self, axis: usize, outer: usize, x: &[f32], from: usize, y: &mut [f32], to: usize) {
        let m = &self.matrices;
        let extent = |axis: usize| if axis == 0 { outer } else { m.dims[axis] };
        let last = m.dims.len() - 1;
        if axis == last {
            let (rows, columns) = (m.dims[last], extent(m.column));
            for c in (0..columns).step_by(self.band) {
                let count = self.band.min(columns - c);
                let (x, y) = (&x[from + c..], &mut y[to + c * m.to[m.column]..]);
                transpose(self.isa, x, m.from[last], y, m.to[m.column], rows, count);
            }
        } else if axis == m.column {
            self.walk(axis + 1, outer, x, from, y, to);
        } else {
            for i in 0..extent(axis) {
                self.walk(axis + 1, outer, x, from + i * m.from[axis], y, to + i * m.to[axis]);
            }
        }
    }
}

impl Kernel for Tiles {
    fn run(&self, operands: &mut Operands<'_>) {
        let m = &self.matrices;
        let x = operands.input::<f32>(0).unwrap_or_default();
        row_split::rows(operands.output::<f32>(0), m.to[0], self.parts, &|first, y| {
            self.walk(0, y.len() / m.to[0], x, first * m.from[0], y, 0);
        });
    }
}
