//! Along the last axis: scale, mask and maximum in one pass, exp and sum in a second with several accumulators, scaling in a third.

use super::host_sweeps::row;
use super::{Extents, Mask, partition};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes, math};
use crate::strides::offset_of;
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;

/// The last axis, fused passes.
pub static ROWS: Variant = Variant {
    id: "softmax.host_rows",
    revision: 1,
    knobs: &[Knob::ints("unroll", &[1, 2, 4]), PARTITION],
    rules: &[
        Rule { reason: "the axis is not the last", holds: |task, _, _| Extents::of(task).is_ok_and(|e| e.inner == 1) },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![KnobValue::Int(2), partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Rows {
        extents: Extents::of(request.task)?,
        unroll: request.config.int("unroll").unwrap_or(2) as usize,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Rows {
    extents: Extents,
    unroll: usize,
    parts: usize,
    isa: Isa,
}

impl Kernel for Rows {
    fn run(&self, operands: &mut Operands<'_>) {
        let (x, mask) = (operands.input::<f32>(0).unwrap_or_default(), operands.input::<f32>(1));
        row_split::rows(operands.output::<f32>(0), self.extents.len, self.parts, &|first, y| {
            let part = Part { extents: &self.extents, first, x, mask, y };
            match self.unroll {
                1 => simd::run(self.isa, Unrolled::<1>(part)),
                2 => simd::run(self.isa, Unrolled::<2>(part)),
                _ => simd::run(self.isa, Unrolled::<4>(part)),
            }
        });
    }
}

struct Part<'a> {
    extents: &'a Extents,
    first: usize,
    x: &'a [f32],
    mask: Option<&'a [f32]>,
    y: &'a mut [f32],
}

struct Unrolled<'a, const U: usize>(Part<'a>);

impl<const U: usize> Routine for Unrolled<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { extents: e, first, x, mask, y } = self.0;
        let scale = s.splat(e.scale);
        for (i, y) in y.chunks_exact_mut(e.len).enumerate() {
            let x = &x[(first + i) * e.len..][..e.len];
            match (&e.mask, mask) {
                (Some(place), Some(mask)) => {
                    let base = offset_of(first + i, &place.outer.0, &place.outer.1) as usize;
                    masked(s, place, &mask[base..], scale, x, y);
                    if e.log {
                        row(s, true, y);
                    } else {
                        finish::<S, U>(s, lanes::greatest(s, y), y);
                    }
                }
                _ if e.log => {
                    lanes::map(s, x, y, |x| s.mul(x, scale));
                    row(s, true, y);
                }
                _ => {
                    // max(scale · x) needs no pass of its own when scale is not negative.
                    let most = if e.scale >= 0.0 { e.scale * lanes::greatest(s, x) } else { e.scale * least(s, x) };
                    exponentials::<S, U>(s, scale, most, x, y);
                }
            }
        }
    }
}

#[inline(always)]
fn least<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (all, rest) =
        lanes::fold::<S, 4>(s, x, s.splat(f32::NEG_INFINITY), |acc, x| s.max(acc, s.sub(s.zero(), x)), |a, b| s.max(a, b));
    -rest.iter().fold(s.greatest(all), |most, &x| most.max(-x))
}

/// `y = scale · x + mask`
#[inline(always)]
fn masked<S: Simd>(s: S, place: &Mask, mask: &[f32], scale: S::V, x: &[f32], y: &mut [f32]) {
    if place.len == 1 {
        lanes::zip(s, x, &mask[..x.len()], y, |x, m| s.mul_add(x, scale, m));
    } else {
        let added = s.splat(mask[0]);
        lanes::map(s, x, y, |x| s.mul_add(x, scale, added));
    }
}

/// `y = exp(scale · x − most)`, then divided by its sum.
#[inline(always)]
fn exponentials<S: Simd, const U: usize>(s: S, scale: S::V, most: f32, x: &[f32], y: &mut [f32]) {
    let shift = s.splat(-most);
    let step = U * S::LANES;
    let mut sums = [s.zero(); U];
    let mut at = 0;
    while at + step <= x.len() {
        for (u, sum) in sums.iter_mut().enumerate() {
            let e = math::exp(s, s.mul_add(lanes::load(s, x, at + u * S::LANES), scale, shift));
            lanes::store(s, y, at + u * S::LANES, e);
            *sum = s.add(*sum, e);
        }
        at += step;
    }
    let mut sum = sums[0];
    for &other in &sums[1..] {
        sum = s.add(sum, other);
    }
    let mut total = s.sum(sum);
    let rest = &x[at..];
    lanes::each!(S, s, &mut y[at..], x = rest => math::exp(s, s.mul_add(x, scale, shift)));
    total += lanes::sum(s, &y[at..]);
    let factor = s.splat(1.0 / total);
    lanes::map_in_place(s, y, |y| s.mul(y, factor));
}

/// Softmax of logits in place, whose greatest is known.
#[inline(always)]
fn finish<S: Simd, const U: usize>(s: S, most: f32, y: &mut [f32]) {
    let shift = s.splat(most);
    let step = U * S::LANES;
    let mut sums = [s.zero(); U];
    let mut at = 0;
    while at + step <= y.len() {
        for (u, sum) in sums.iter_mut().enumerate() {
            let e = math::exp(s, s.sub(lanes::load(s, y, at + u * S::LANES), shift));
            lanes::store(s, y, at + u * S::LANES, e);
            *sum = s.add(*sum, e);
        }
        at += step;
    }
    let mut sum = sums[0];
    for &other in &sums[1..] {
        sum = s.add(sum, other);
    }
    let mut total = s.sum(sum);
    lanes::each_in_place!(S, s, &mut y[at..], x => math::exp(s, s.sub(x, shift)));
    total += lanes::sum(s, &y[at..]);
    let factor = s.splat(1.0 / total);
    lanes::map_in_place(s, y, |y| s.mul(y, factor));
}
