//! Kept innermost axes, several lines at once: a piece of the output is read and written once for that many lines of the input, which
//! are as many streams.

use super::host_folds::Folds;
use super::{KEPT_RULE, Kind, PLAIN_RULE};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Variant};
use schema::KnobValue;

/// Axes before the innermost.
pub static LINES: Variant = Variant {
    id: "reduce.host_lines",
    revision: 1,
    knobs: &[Knob::ints("lines", &[2, 4, 8]), Knob::ints("piece", &[64, 256, 1024, 4096]), PARTITION],
    rules: &[PLAIN_RULE, KEPT_RULE, PARTITION_RULE],
    default: |task, limits| vec![KnobValue::Int(4), KnobValue::Int(1024), super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Lines {
        folds: Folds::of(request.task)?,
        lines: request.config.int("lines").unwrap_or(4) as usize,
        piece: request.config.int("piece").unwrap_or(1024) as usize,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Lines {
    folds: Folds,
    lines: usize,
    piece: usize,
    parts: usize,
    isa: Isa,
}

impl Kernel for Lines {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        row_split::rows(operands.output::<f32>(0), self.piece, self.parts, &|first, y| {
            for (i, y) in y.chunks_mut(self.piece).enumerate() {
                let part = Part { folds: &self.folds, first: (first + i) * self.piece, x, y };
                match self.lines {
                    2 => simd::run(self.isa, Several::<2>(part)),
                    4 => simd::run(self.isa, Several::<4>(part)),
                    _ => simd::run(self.isa, Several::<8>(part)),
                }
            }
        });
    }
}

struct Part<'a> {
    folds: &'a Folds,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// A piece of the output, `L` lines at a time.
struct Several<'a, const L: usize>(Part<'a>);

impl<const L: usize> Routine for Several<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0.folds.kind {
            Kind::Sum | Kind::Mean | Kind::LogSum => self.go(s, |a, x| s.add(a, x)),
            Kind::L1 => self.go(s, |a, x| s.add(a, s.abs(x))),
            Kind::L2 | Kind::SumSquare => self.go(s, |a, x| s.mul_add(x, x, a)),
            Kind::Max => self.go(s, |a, x| s.max(a, x)),
            Kind::Min => self.go(s, |a, x| s.min(a, x)),
            Kind::Prod => self.go(s, |a, x| s.mul(a, x)),
        }
    }
}

impl<const L: usize> Several<'_, L> {
    #[inline(always)]
    fn go<S: Simd>(self, s: S, step: impl Fn(S::V, S::V) -> S::V + Copy) {
        let Part { folds, first, x, y } = self.0;
        let mut at = 0;
        while at < y.len() {
            let within = (first + at) % folds.line;
            let length = (folds.line - within).min(y.len() - at);
            let y = &mut y[at..at + length];
            let base = folds.base(first + at);
            let line = |index: usize| &x[base + folds.fold(index)..][..length];
            y.fill(folds.kind.start());
            let mut index = 0;
            while index + L <= folds.folds() {
                let lines: [&[f32]; L] = std::array::from_fn(|l| line(index + l));
                fold::<S, L>(s, lines, y, step);
                index += L;
            }
            for index in index..folds.folds() {
                lanes::zip_in_place(s, line(index), y, step);
            }
            if matches!(folds.kind, Kind::Mean | Kind::L2 | Kind::LogSum) {
                y.iter_mut().for_each(|y| *y = folds.kind.finish(*y, folds.count));
            }
            at += length;
        }
    }
}

/// `y = step(… step(y, lines[0]) …, lines[L − 1])`; all are of one length.
#[inline(always)]
fn fold<S: Simd, const L: usize>(s: S, lines: [&[f32]; L], y: &mut [f32], step: impl Fn(S::V, S::V) -> S::V) {
    let whole = y.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let mut acc = lanes::load(s, y, at);
        for line in &lines {
            acc = step(acc, lanes::load(s, line, at));
        }
        lanes::store(s, y, at, acc);
    }
    if whole < y.len() {
        let mut acc = lanes::load_part(s, &y[whole..]);
        for line in &lines {
            acc = step(acc, lanes::load_part(s, &line[whole..]));
        }
        lanes::store_part(s, &mut y[whole..], acc);
    }
}
