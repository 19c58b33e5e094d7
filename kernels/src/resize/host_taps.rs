//! The general variant: one or four taps per place; in planes 16 channels at a time.

use super::Extents;
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
    default: |task, limits| vec![super::partition(task, limits, 16)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Taps { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Taps {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

impl Extents {
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
        let e = &self.extents;
        if let Some((from, to)) = e.planes {
            return row_split::rows(y, to.len(), self.parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(to.len()).enumerate() {
                    let x = &x[(first + i) * from.len()..][..from.len()];
                    simd::run(self.isa, OnePlane { extents: e, from, to, x, y });
                }
            });
        }
        let [from, to] = [e.from, e.to].map(|[height, width]| height * width);
        row_split::rows(y, to, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                e.image(&x[(first + i) * from..][..from], y);
            }
        });
    }
}

struct OnePlane<'a> {
    extents: &'a Extents,
    from: Plane,
    to: Plane,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for OnePlane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OnePlane { extents, from, to, x, y } = self;
        let line = |row: usize| &x[from.row(row)..][..from.width * BLOCK];
        for (index, row) in extents.rows.iter().enumerate() {
            let (above, below) = (line(row.first), line(row.second));
            let down = s.splat(row.weight);
            let y = &mut y[to.row(index)..][..to.width * BLOCK];
            for (column, y) in extents.columns.iter().zip(y.chunks_exact_mut(BLOCK)) {
                let (first, second, along) = (column.first * BLOCK, column.second * BLOCK, s.splat(column.weight));
                for lane in (0..BLOCK).step_by(S::LANES) {
                    let mut value = lanes::load(s, above, first + lane);
                    if extents.linear {
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
