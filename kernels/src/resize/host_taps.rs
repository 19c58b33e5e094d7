//! The general variant: one or four taps per place; in planes 16 channels at a time.

use super::Tap;
use crate::layout::BLOCK;
use crate::plane::Plane;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Operands, Request, Variant};

/// Any resizing.
pub static TAPS: Variant = Variant {
    id: "resize.host_taps",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| {
        let ns = (super::RESIZE.bytes)(task) / 10 + (super::RESIZE.flops)(task) / 16;
        vec![row_split::partition_for(ns, limits)]
    },
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let signature = super::signature(request.task)?;
    let (from, to, rows, columns) = super::both(request.task, &signature);
    Ok(Box::new(Taps {
        planes: Plane::of(&signature.inputs[0]).zip(Plane::of(&signature.outputs[0])),
        from,
        to,
        rows,
        columns,
        linear: request.task.word("mode") == "linear",
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Taps {
    planes: Option<(Plane, Plane)>,
    from: [usize; 2],
    to: [usize; 2],
    rows: Vec<Tap>,
    columns: Vec<Tap>,
    linear: bool,
    parts: usize,
    isa: Isa,
}

impl Taps {
    /// One image in rows.
    fn image(&self, x: &[f32], y: &mut [f32]) {
        let line = |row: usize| &x[row * self.from[1]..][..self.from[1]];
        for (row, y) in self.rows.iter().zip(y.chunks_exact_mut(self.to[1])) {
            let (above, below) = (line(row.first), line(row.second));
            for (column, y) in self.columns.iter().zip(y) {
                *y = above[column.first];
                if self.linear {
                    let above = above[column.first] + (above[column.second] - above[column.first]) * column.weight;
                    let below = below[column.first] + (below[column.second] - below[column.first]) * column.weight;
                    *y = above + (below - above) * row.weight;
                }
            }
        }
    }
}

impl Kernel for Taps {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let y = operands.output::<f32>(0);
        if let Some((from, to)) = self.planes {
            return row_split::rows(y, to.len(), self.parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(to.len()).enumerate() {
                    let x = &x[(first + i) * from.len()..][..from.len()];
                    simd::run(self.isa, OnePlane { taps: self, from, to, x, y });
                }
            });
        }
        let (from, to) = (self.from[0] * self.from[1], self.to[0] * self.to[1]);
        row_split::rows(y, to, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                self.image(&x[(first + i) * from..][..from], y);
            }
        });
    }
}

struct OnePlane<'a> {
    taps: &'a Taps,
    from: Plane,
    to: Plane,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for OnePlane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OnePlane { taps, from, to, x, y } = self;
        let line = |row: usize| &x[from.row(row)..][..from.width * BLOCK];
        for (index, row) in taps.rows.iter().enumerate() {
            let (above, below) = (line(row.first), line(row.second));
            let down = s.splat(row.weight);
            let y = &mut y[to.row(index)..][..to.width * BLOCK];
            for (column, y) in taps.columns.iter().zip(y.chunks_exact_mut(BLOCK)) {
                let (first, second, along) = (column.first * BLOCK, column.second * BLOCK, s.splat(column.weight));
                for lane in (0..BLOCK).step_by(S::LANES) {
                    let mut value = lanes::load(s, above, first + lane);
                    if taps.linear {
                        let mix = |a: S::V, b: S::V, weight: S::V| s.mul_add(s.sub(b, a), weight, a);
                        let below = mix(lanes::load(s, below, first + lane), lanes::load(s, below, second + lane), along);
                        value = mix(mix(value, lanes::load(s, above, second + lane), along), below, down);
                    }
                    lanes::store(s, y, lane, value);
                }
            }
        }
        to.clear_halo(y);
    }
}
