//! Kept innermost axes, accumulators in registers: of some columns, several lines are folded before the accumulators go back to the
//! output. Narrow lines are so read in one stream, wide ones in as many as are folded at once.

use super::host_folds::Folds;
use super::{KEPT_RULE, Kind, PLAIN_RULE};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Variant};
use schema::KnobValue;

/// Axes before the innermost.
pub static REGISTERS: Variant = Variant {
    id: "reduce.host_registers",
    revision: 1,
    knobs: &[
        // Vectors of columns.
        Knob::ints("vectors", &[2, 4, 8]),
        // Lines folded at once.
        Knob::ints("depth", &[4, 8, 16, 1 << 20]),
        // Lines fetched ahead.
        Knob::ints("ahead", &[0, 4, 16]),
        PARTITION,
    ],
    rules: &[PLAIN_RULE, KEPT_RULE, PARTITION_RULE],
    default: |task, limits| {
        let partition = super::partition(task, limits);
        vec![KnobValue::Int(4), KnobValue::Int(8), KnobValue::Int(0), partition]
    },
    build,
};

/// Elements that threads share out at least: a cache line.
const UNIT: usize = 16;

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let knob = |name: &str| request.config.int(name).map(|value| value as usize);
    let folds = Folds::of(request.task)?;
    Ok(Box::new(Registers {
        vectors: knob("vectors").unwrap_or(4),
        depth: knob("depth").unwrap_or(8),
        ahead: knob("ahead").unwrap_or(0) * folds.inner().1,
        folds,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Registers {
    folds: Folds,
    vectors: usize,
    depth: usize,
    /// How many elements behind those that are read others are fetched; 0: none are.
    ahead: usize,
    parts: usize,
    isa: Isa,
}

impl Kernel for Registers {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        row_split::rows(operands.output::<f32>(0), UNIT, self.parts, &|first, y| {
            let part = Part { registers: self, first: first * UNIT, x, y };
            match self.vectors {
                2 => simd::run(self.isa, Columns::<2>(part)),
                4 => simd::run(self.isa, Columns::<4>(part)),
                _ => simd::run(self.isa, Columns::<8>(part)),
            }
        });
    }
}

struct Part<'a> {
    registers: &'a Registers,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// A part of the output, `V` vectors of columns at a time.
struct Columns<'a, const V: usize>(Part<'a>);

impl<const V: usize> Routine for Columns<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0.registers.folds.kind {
            Kind::Sum | Kind::Mean | Kind::LogSum => self.go(s, |a, x| s.add(a, x)),
            Kind::L1 => self.go(s, |a, x| s.add(a, s.abs(x))),
            Kind::L2 | Kind::SumSquare => self.go(s, |a, x| s.mul_add(x, x, a)),
            Kind::Max => self.go(s, |a, x| s.max(a, x)),
            Kind::Min => self.go(s, |a, x| s.min(a, x)),
            Kind::Prod => self.go(s, |a, x| s.mul(a, x)),
        }
    }
}

impl<const V: usize> Columns<'_, V> {
    #[inline(always)]
    fn go<S: Simd>(self, s: S, step: impl Fn(S::V, S::V) -> S::V + Copy) {
        let Part { registers, first, x, y } = self.0;
        let folds = &registers.folds;
        let (extent, stride) = folds.inner();
        let mut at = 0;
        while at < y.len() {
            let within = (first + at) % folds.line;
            let length = (folds.line - within).min(y.len() - at);
            let y = &mut y[at..at + length];
            let base = folds.base(first + at);
            y.fill(folds.kind.start());
            for outer in (0..folds.folds()).step_by(extent.max(1)) {
                let x = &x[base + folds.fold(outer)..];
                for index in (0..extent).step_by(registers.depth) {
                    let lines = Lines { x: &x[index * stride..], stride, count: registers.depth.min(extent - index) };
                    lines.fold::<S, V>(s, registers.ahead, y, step);
                }
            }
            if matches!(folds.kind, Kind::Mean | Kind::L2 | Kind::LogSum) {
                y.iter_mut().for_each(|y| *y = folds.kind.finish(*y, folds.count));
            }
            at += length;
        }
    }
}

/// Lines that are folded at once, as long as the output they are folded onto.
#[derive(Copy, Clone)]
struct Lines<'a> {
    x: &'a [f32],
    stride: usize,
    count: usize,
}

impl Lines<'_> {
    /// Folds them onto `y` and fetches what lies `ahead` elements behind them.
    #[inline(always)]
    fn fold<S: Simd, const V: usize>(self, s: S, ahead: usize, y: &mut [f32], step: impl Fn(S::V, S::V) -> S::V + Copy) {
        let mut at = 0;
        while at + V * S::LANES <= y.len() {
            self.columns::<S, V>(s, ahead, at, y, step);
            at += V * S::LANES;
        }
        while at + S::LANES <= y.len() {
            self.columns::<S, 1>(s, 0, at, y, step);
            at += S::LANES;
        }
        if at < y.len() {
            let mut acc = lanes::load_part(s, &y[at..]);
            for line in 0..self.count {
                acc = step(acc, lanes::load_part(s, &self.x[line * self.stride..][at..y.len()]));
            }
            lanes::store_part(s, &mut y[at..], acc);
        }
    }

    /// Folds `V` vectors of each from column `at` on.
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(self, s: S, ahead: usize, at: usize, y: &mut [f32], step: impl Fn(S::V, S::V) -> S::V) {
        let y = &mut y[at..at + V * S::LANES];
        let mut acc = [s.zero(); V];
        for (v, acc) in acc.iter_mut().enumerate() {
            *acc = lanes::load(s, y, v * S::LANES);
        }
        for line in 0..self.count {
            let line = &self.x[line * self.stride + at..][..V * S::LANES];
            if ahead > 0 {
                for element in (0..V * S::LANES).step_by(LINE) {
                    s.prefetch(line.as_ptr().wrapping_add(ahead + element));
                }
            }
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = step(*acc, lanes::load(s, line, v * S::LANES));
            }
        }
        for (v, acc) in acc.into_iter().enumerate() {
            lanes::store(s, y, v * S::LANES, acc);
        }
    }
}

/// Elements of a cache line.
const LINE: usize = 16;
