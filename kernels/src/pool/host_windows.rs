//! The general variant: window by window; in planes 16 channels at a time.

use super::host_rows::Rows;
use super::{Window, windows};
use crate::layout::{BLOCK, Layout};
use crate::plane::Plane;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Limits, Operands, Request, Task, Variant};
use schema::KnobValue;

/// Any pooling.
pub static WINDOWS: Variant = Variant {
    id: "pool.host_windows",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![partition(task, limits)],
    build,
};

/// About four taps a nanosecond.
pub fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for((super::POOL.flops)(task) / 4, limits)
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let task = request.task;
    let signature = super::signature(task)?;
    let parts = row_split::parts(request.config, request.limits);
    if signature.inputs[0].layout == Layout::Rows {
        return Ok(Box::new(Rows::new(task, &signature, parts)));
    }
    Ok(Box::new(Windows { planes: Planes::new(task)?, parts, isa: request.limits.isa }))
}

/// A pooling of planes.
pub struct Planes {
    pub from: Plane,
    pub to: Plane,
    pub rows: Vec<Window>,
    pub columns: Vec<Window>,
    pub dilations: (usize, usize),
    pub max: bool,
}

impl Planes {
    /// Of a checked task in planes.
    pub fn new(task: &Task) -> Result<Self, BuildError> {
        let signature = super::signature(task)?;
        let (x, y) = (&signature.inputs[0], &signature.outputs[0]);
        let (Some(from), Some(to)) = (Plane::of(x), Plane::of(y)) else {
            return Err(task.refused("an operand is not in planes"));
        };
        let mut axes = windows(task, x, y).into_iter();
        let (rows, columns) = (axes.next().unwrap_or_default(), axes.next().unwrap_or_default());
        let dilations = task.ints("dilations");
        let max = task.word("kind") == "max";
        Ok(Planes { from, to, rows, columns, dilations: (dilations[0], dilations[1]), max })
    }

    /// Where a fold starts.
    pub fn start(&self) -> f32 {
        if self.max { f32::NEG_INFINITY } else { 0.0 }
    }
}

struct Windows {
    planes: Planes,
    parts: usize,
    isa: Isa,
}

impl Kernel for Windows {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let (from, to) = (self.planes.from.len(), self.planes.to.len());
        row_split::rows(operands.output::<f32>(0), to, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                simd::run(self.isa, OnePlane { planes: &self.planes, x: &x[(first + i) * from..][..from], y });
            }
        });
    }
}

struct OnePlane<'a> {
    planes: &'a Planes,
    x: &'a [f32],
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
    fn go<S: Simd>(self, s: S, step: impl Fn(S::V, S::V) -> S::V) {
        let OnePlane { planes, x, y } = self;
        let (start, vectors) = (s.splat(planes.start()), BLOCK / S::LANES);
        for (oy, row) in planes.rows.iter().enumerate() {
            let to = &mut y[planes.to.row(oy)..][..planes.to.width * BLOCK];
            for (column, to) in planes.columns.iter().zip(to.chunks_exact_mut(BLOCK)) {
                let mut acc = [start; 4];
                for iy in (row.first..row.end).step_by(planes.dilations.0) {
                    let line = &x[planes.from.row(iy)..][..planes.from.width * BLOCK];
                    for ix in (column.first..column.end).step_by(planes.dilations.1) {
                        for (v, acc) in acc.iter_mut().enumerate().take(vectors) {
                            *acc = step(*acc, lanes::load(s, line, ix * BLOCK + v * S::LANES));
                        }
                    }
                }
                let share = s.splat(1.0 / (row.counted * column.counted) as f32);
                for (v, &acc) in acc.iter().enumerate().take(vectors) {
                    let folded = if planes.max { acc } else { s.mul(acc, share) };
                    lanes::store(s, to, v * S::LANES, folded);
                }
            }
        }
        // Padding channels hold zeros, of which greatest and mean are zero too.
        planes.to.clear_halo(y);
    }
}
