//! The general variant: sweeps over the lines of the axis, one vector lane per softmax; along the last axis, sweeps over the row.

use super::Extents;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes, math};
use crate::strides::offset_of;
use crate::{BuildError, Isa, Kernel, Operands, Request, Variant};

/// Any axis.
pub static SWEEPS: Variant = Variant {
    id: "softmax.host_sweeps",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Sweeps { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Sweeps {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

/// Softmaxes beside each other that are computed together when the axis is not the last.
const SIDE: usize = 128;

impl Kernel for Sweeps {
    fn run(&self, operands: &mut Operands<'_>) {
        let e = &self.extents;
        let (x, mask) = (operands.input::<f32>(0).unwrap_or_default(), operands.input::<f32>(1));
        row_split::rows(operands.output::<f32>(0), e.len * e.inner, self.parts, &|first, y| {
            simd::run(self.isa, Part { extents: e, first, x, mask, y });
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

impl Routine for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let e = self.extents;
        for (i, y) in self.y.chunks_exact_mut(e.len * e.inner).enumerate() {
            let outer = self.first + i;
            let x = &self.x[outer * y.len()..][..y.len()];
            logits(s, e, outer, x, self.mask, y);
            if e.inner == 1 {
                row(s, e.log, y);
            } else {
                for start in (0..e.inner).step_by(SIDE) {
                    side_by_side(s, e, start, SIDE.min(e.inner - start), y);
                }
            }
        }
    }
}

/// `y = scale · x + mask`
#[inline(always)]
pub fn logits<S: Simd>(s: S, e: &Extents, outer: usize, x: &[f32], mask: Option<&[f32]>, y: &mut [f32]) {
    let scale = s.splat(e.scale);
    lanes::map(s, x, y, |x| s.mul(x, scale));
    let (Some(place), Some(mask)) = (&e.mask, mask) else { return };
    let base = offset_of(outer, &place.outer.0, &place.outer.1);
    if e.inner == 1 && place.len == 1 {
        return lanes::zip_in_place(s, &mask[base as usize..][..e.len], y, |y, m| s.add(y, m));
    }
    for (i, y) in y.chunks_exact_mut(e.inner).enumerate() {
        let base = base + i as isize * place.len;
        for (inner, y) in y.iter_mut().enumerate() {
            *y += mask[(base + offset_of(inner, &place.inner.0, &place.inner.1)) as usize];
        }
    }
}

/// Softmax of one row in place.
#[inline(always)]
pub fn row<S: Simd>(s: S, log: bool, y: &mut [f32]) {
    let most = s.splat(lanes::greatest(s, y));
    if log {
        let mut sum = s.zero();
        let whole = y.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            sum = s.add(sum, math::exp(s, s.sub(lanes::load(s, y, at), most)));
        }
        let mut total = s.sum(sum);
        let mut rest = [f32::NEG_INFINITY; 16];
        rest[..y.len() - whole].copy_from_slice(&y[whole..]);
        for at in (0..y.len() - whole).step_by(S::LANES) {
            total += s.sum(math::exp(s, s.sub(lanes::load(s, &rest, at), most)));
        }
        let less = s.add(most, s.splat(total.ln()));
        return lanes::map_in_place(s, y, |y| s.sub(y, less));
    }
    lanes::each_in_place!(S, s, y, x => math::exp(s, s.sub(x, most)));
    let scale = s.splat(1.0 / lanes::sum(s, y));
    lanes::map_in_place(s, y, |y| s.mul(y, scale));
}

/// `count` softmaxes from column `start` on, along the lines of `y`.
#[inline(always)]
fn side_by_side<S: Simd>(s: S, e: &Extents, start: usize, count: usize, y: &mut [f32]) {
    let (mut most, mut sum) = ([f32::NEG_INFINITY; SIDE], [0.0; SIDE]);
    let (most, sum) = (&mut most[..count], &mut sum[..count]);
    let line = |i: usize| i * e.inner + start..i * e.inner + start + count;
    for i in 0..e.len {
        lanes::zip_in_place(s, &y[line(i)], most, |most, y| s.max(most, y));
    }
    for i in 0..e.len {
        let y = &mut y[line(i)];
        lanes::zip_in_place(s, most, y, |y, most| s.sub(y, most));
        if e.log {
            let mut exponentials = [0.0; SIDE];
            lanes::each!(S, s, &mut exponentials[..count], x = y => math::exp(s, x));
            lanes::zip_in_place(s, &exponentials[..count], sum, |sum, e| s.add(sum, e));
        } else {
            lanes::each_in_place!(S, s, y, x => math::exp(s, x));
            lanes::zip_in_place(s, y, sum, |sum, y| s.add(sum, y));
        }
    }
    if e.log {
        sum.iter_mut().for_each(|sum| *sum = sum.ln());
    } else {
        lanes::map_in_place(s, sum, |sum| s.div(s.splat(1.0), sum));
    }
    for i in 0..e.len {
        let y = &mut y[line(i)];
        if e.log {
            lanes::zip_in_place(s, sum, y, |y, sum| s.sub(y, sum));
        } else {
            lanes::zip_in_place(s, sum, y, |y, scale| s.mul(y, scale));
        }
    }
}
