//! The general variant. With the axes joined, either the innermost is folded, run by run with several accumulators, or it is kept,
//! and whole lines are folded onto a piece of the output that stays in L1.

use super::Kind;
use super::planes::Planes;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::strides::offset_of;
use crate::{BuildError, Element, Isa, Kernel, Knob, Layout, Operands, Request, Task, Variant, strides};
use schema::{DType, KnobValue};

/// Any axes, any type.
pub static FOLDS: Variant = Variant {
    id: "reduce.host_folds",
    revision: 1,
    knobs: &[Knob::ints("piece", &[64, 256, 1024]), PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![KnobValue::Int(256), super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let task = request.task;
    let signature = super::signature(task)?;
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    let (parts, isa) = (row_split::parts(request.config, request.limits), request.limits.isa);
    let x = &signature.inputs[0];
    if x.layout != Layout::Rows {
        return Ok(Box::new(Planes::new(task, &signature, kind, parts, isa)?));
    }
    let folds = Folds::new(&x.shape, &task.ints("axes"), kind, x.dtype, isa);
    Ok(Box::new(Folds { piece: request.config.int("piece").unwrap_or(256) as usize, parts, ..folds }))
}

/// Axes with the strides of the input.
type Axes = (Vec<usize>, Vec<isize>);

pub struct Folds {
    kept: Axes,
    /// Without the innermost run, if that is folded.
    folded: Axes,
    /// Elements that lie together and are folded; 1 when the innermost axis is kept.
    pub run: usize,
    /// Elements that lie together and are kept; 1 when the innermost axis is folded.
    pub line: usize,
    /// Elements folded into one.
    pub count: usize,
    pub kind: Kind,
    dtype: DType,
    piece: usize,
    parts: usize,
    isa: Isa,
}

impl Folds {
    /// The axes of a task of f32 in rows.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = super::signature(task)?;
        let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
        Ok(Folds::new(&signature.inputs[0].shape, &task.ints("axes"), kind, DType::F32, Isa::Scalar))
    }

    /// Joins the axes of a shape.
    pub fn new(shape: &[usize], axes: &[usize], kind: Kind, dtype: DType, isa: Isa) -> Self {
        let own = strides::row_major(shape);
        let count = axes.iter().map(|&axis| shape[axis]).product();
        // Neighbours of one kind are joined: kept ones through the output's strides, folded ones through strides of 0 there.
        let out: Vec<usize> = (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect();
        let target = strides::broadcast_strides(&out, shape).expect("ones broadcast");
        let signed = |strides: Vec<usize>| strides.into_iter().map(|stride| stride as isize).collect::<Vec<_>>();
        let mut dims = shape.to_vec();
        let mut both = [signed(own), signed(target)];
        strides::collapse(&mut dims, &mut both);
        let [from, to] = both;
        let (mut kept, mut folded) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (axis, &dim) in dims.iter().enumerate() {
            let list: &mut Axes = if to[axis] == 0 { &mut folded } else { &mut kept };
            list.0.push(dim);
            list.1.push(from[axis]);
        }
        let innermost_folded = to.last().is_none_or(|&stride| stride == 0);
        let (mut run, mut line) = (1, 1);
        if innermost_folded {
            run = folded.0.pop().unwrap_or(1);
            folded.1.pop();
        } else {
            line = *kept.0.last().unwrap_or(&1);
        }
        Folds { kept, folded, run, line, count, kind, dtype, piece: 256, parts: 1, isa }
    }

    /// Where the runs that are folded lie, beside each other.
    pub fn folds(&self) -> usize {
        self.folded.0.iter().product()
    }

    /// Where the kept element `flat` begins in the input.
    pub fn base(&self, flat: usize) -> usize {
        offset_of(flat, &self.kept.0, &self.kept.1) as usize
    }

    /// Where the `R` kept elements from `flat` on begin in the input.
    pub fn bases<const R: usize>(&self, flat: usize) -> [usize; R] {
        // One axis is the rule, and divisions would cost as much as a short row.
        match self.kept.1[..] {
            [stride] => std::array::from_fn(|r| (flat + r) * stride as usize),
            _ => std::array::from_fn(|r| self.base(flat + r)),
        }
    }

    /// Where the `index`-th of the folded runs lies behind the base.
    pub fn fold(&self, index: usize) -> usize {
        // One axis is the rule, and divisions would cost as much as a short line.
        match self.folded.1[..] {
            [stride] => index * stride as usize,
            _ => offset_of(index, &self.folded.0, &self.folded.1) as usize,
        }
    }

    /// The innermost axis along which folded runs lie beside each other: its extent and stride.
    pub fn inner(&self) -> (usize, usize) {
        let (extent, stride) = (self.folded.0.last(), self.folded.1.last());
        (extent.copied().unwrap_or(1), stride.map_or(0, |&stride| stride as usize))
    }

    fn whole<T: Element + num_traits::PrimInt + num_traits::WrappingAdd + num_traits::WrappingMul>(
        &self,
        operands: &mut Operands<'_>,
    ) {
        let x = operands.input::<T>(0).unwrap_or_default();
        let step = |acc: T, x: T| match self.kind {
            Kind::Max => acc.max(x),
            Kind::Min => acc.min(x),
            Kind::Prod => acc.wrapping_mul(&x),
            _ => acc.wrapping_add(&x),
        };
        let start = match self.kind {
            Kind::Max => T::min_value(),
            Kind::Min => T::max_value(),
            Kind::Prod => T::one(),
            _ => T::zero(),
        };
        row_split::rows(operands.output::<T>(0), 1, self.parts, &|first, y| {
            for (i, y) in y.iter_mut().enumerate() {
                let base = self.base(first + i);
                *y = (0..self.folds())
                    .fold(start, |acc, index| x[base + self.fold(index)..][..self.run].iter().fold(acc, |acc, &x| step(acc, x)));
            }
        });
    }
}

impl Kernel for Folds {
    fn run(&self, operands: &mut Operands<'_>) {
        match self.dtype {
            DType::I64 => return self.whole::<i64>(operands),
            DType::I32 => return self.whole::<i32>(operands),
            _ => {}
        }
        let x = operands.input::<f32>(0).unwrap_or_default();
        let unit = if self.line > 1 { self.piece } else { 1 };
        row_split::rows(operands.output::<f32>(0), unit, self.parts, &|first, y| {
            simd::run(self.isa, Part { folds: self, first: first * unit, x, y });
        });
    }
}

struct Part<'a> {
    folds: &'a Folds,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.folds.kind {
            Kind::Sum | Kind::Mean | Kind::LogSum => self.go(s, |a, x| s.add(a, x), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::L1 => self.go(s, |a, x| s.add(a, s.abs(x)), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::L2 | Kind::SumSquare => self.go(s, |a, x| s.mul_add(x, x, a), |a, b| s.add(a, b), |a| s.sum(a)),
            Kind::Max => self.go(s, |a, x| s.max(a, x), |a, b| s.max(a, b), |a| s.greatest(a)),
            Kind::Min => {
                let negated = |a| -s.greatest(s.sub(s.zero(), a));
                self.go(s, |a, x| s.min(a, x), |a, b| s.min(a, b), negated);
            }
            Kind::Prod => {
                let product = |a| {
                    let mut lanes = [1.0; 16];
                    lanes::store(s, &mut lanes, 0, a);
                    lanes.iter().product::<f32>()
                };
                self.go(s, |a, x| s.mul(a, x), |a, b| s.mul(a, b), product);
            }
        }
    }
}

/// The first lane of `a`, and `other` in the rest.
#[inline(always)]
fn one_lane<S: Simd>(s: S, a: S::V, other: f32) -> S::V {
    let mut lanes = [other; 16];
    let mut all = [0.0; 16];
    lanes::store(s, &mut all, 0, a);
    lanes[0] = all[0];
    lanes::load(s, &lanes, 0)
}

impl Part<'_> {
    #[inline(always)]
    fn go<S: Simd>(
        self,
        s: S,
        step: impl Fn(S::V, S::V) -> S::V + Copy,
        join: impl Fn(S::V, S::V) -> S::V + Copy,
        across: impl Fn(S::V) -> f32,
    ) {
        let Part { folds, first, x, y } = self;
        let (kind, start) = (folds.kind, folds.kind.start());
        if folds.line == 1 {
            for (i, y) in y.iter_mut().enumerate() {
                let base = folds.base(first + i);
                let mut acc = s.splat(start);
                // Every lane of `rests` holds the same: one of them joins in at the end.
                let mut rests = s.splat(start);
                for index in 0..folds.folds() {
                    let run = &x[base + folds.fold(index)..][..folds.run];
                    let (all, rest) = lanes::fold::<S, 4>(s, run, s.splat(start), step, join);
                    acc = join(acc, all);
                    for &x in rest {
                        rests = step(rests, s.splat(x));
                    }
                }
                let folded = across(join(acc, one_lane(s, rests, start)));
                *y = kind.finish(folded, folds.count);
            }
            return;
        }
        let mut at = 0;
        while at < y.len() {
            let within = (first + at) % folds.line;
            let length = (folds.line - within).min(y.len() - at);
            let y = &mut y[at..at + length];
            let base = folds.base(first + at);
            y.fill(start);
            for index in 0..folds.folds() {
                lanes::zip_in_place(s, &x[base + folds.fold(index)..][..length], y, step);
            }
            if matches!(kind, Kind::Mean | Kind::L2 | Kind::LogSum) {
                y.iter_mut().for_each(|y| *y = kind.finish(*y, folds.count));
            }
            at += length;
        }
    }
}
