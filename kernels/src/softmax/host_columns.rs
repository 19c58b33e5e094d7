//! Few softmaxes beside each other, along an axis before the last: the exponentials run over whole vectors, whatever column a lane
//! belongs to, against a pattern that repeats the columns' maxima. Only maxima and sums go line by line.

use super::Extents;
use super::host_sweeps::logits;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes, math};
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Variant};

/// Lines shorter than a vector or two.
pub static COLUMNS: Variant = Variant {
    id: "softmax.host_columns",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule {
            reason: "there are not 2 to 16 softmaxes beside each other",
            holds: |task, _, _| Extents::of(task).is_ok_and(|e| (2..=COLUMNS_MAX).contains(&e.inner)),
        },
        Rule { reason: "a logarithm needs the logits again", holds: |task, _, _| Extents::of(task).is_ok_and(|e| !e.log) },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

/// The most softmaxes beside each other.
const COLUMNS_MAX: usize = 16;
/// The most lanes of a vector.
const LANES_MAX: usize = 16;

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let extents = Extents::of(request.task)?;
    Ok(Box::new(Columns { extents, parts: row_split::parts(request.config, request.limits), isa: request.limits.isa }))
}

struct Columns {
    extents: Extents,
    parts: usize,
    isa: Isa,
}

impl Kernel for Columns {
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
        let mut pattern = [0.0; COLUMNS_MAX * LANES_MAX];
        // Whole vectors and whole lines at once.
        let pattern = &mut pattern[..e.inner * S::LANES];
        for (i, y) in self.y.chunks_exact_mut(e.len * e.inner).enumerate() {
            let outer = self.first + i;
            logits(s, e, outer, &self.x[outer * y.len()..][..y.len()], self.mask, y);
            let mut fold = [f32::NEG_INFINITY; COLUMNS_MAX];
            let fold = &mut fold[..e.inner];
            for line in y.chunks_exact(e.inner) {
                lanes::zip_in_place(s, line, fold, |most, y| s.max(most, y));
            }
            repeat(fold, pattern);
            for y in y.chunks_mut(pattern.len()) {
                lanes::zip_in_place(s, pattern, y, |y, most| s.sub(y, most));
            }
            lanes::each_in_place!(S, s, y, x => math::exp(s, x));
            fold.fill(0.0);
            for line in y.chunks_exact(e.inner) {
                lanes::zip_in_place(s, line, fold, |sum, y| s.add(sum, y));
            }
            fold.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
            repeat(fold, pattern);
            for y in y.chunks_mut(pattern.len()) {
                lanes::zip_in_place(s, pattern, y, |y, scale| s.mul(y, scale));
            }
        }
    }
}

/// Fills the pattern with copies of a line.
fn repeat(line: &[f32], pattern: &mut [f32]) {
    pattern.chunks_exact_mut(line.len()).for_each(|to| to.copy_from_slice(line));
}
