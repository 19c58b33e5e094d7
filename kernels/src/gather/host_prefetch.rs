//! Slices fetched some look-ups ahead: for tables that are not in cache.

use super::Extents;
use crate::embedding::Indices;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd};
use crate::strided_copy::by_width;
use crate::{BuildError, Element, Isa, Kernel, Knob, Operands, Request, Rule, Task, Variant};
use schema::KnobValue;

/// Slices of a cache line or more.
pub static PREFETCH: Variant = Variant {
    id: "gather.host_prefetch",
    revision: 1,
    knobs: &[Knob::ints("ahead", &[2, 4, 8, 16]), PARTITION],
    rules: &[
        Rule { reason: "slices are smaller than a cache line", holds: |task, _, _| slice_bytes(task) >= LINE_BYTES },
        Rule {
            reason: "what is gathered from fits into L2: it is fetched already",
            holds: |task, _, limits| {
                super::signature(task).is_ok_and(|signature| signature.inputs[0].bytes() as u64 > limits.l2_bytes)
            },
        },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![KnobValue::Int(4), super::partition(task, limits)],
    build,
};

const LINE_BYTES: usize = 64;

/// The most of a slice that is fetched ahead: the processor's own prefetcher goes on from there.
const AHEAD_BYTES_MAX: usize = 256;

fn slice_bytes(task: &Task) -> usize {
    Extents::of(task).map_or(0, |e| e.inner * e.dtype.bytes())
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Prefetch {
        extents: Extents::of(request.task)?,
        ahead: request.config.int("ahead").unwrap_or(4) as usize,
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Prefetch {
    extents: Extents,
    ahead: usize,
    parts: usize,
    isa: Isa,
}

impl Prefetch {
    fn copy<T: Element>(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<T>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, self.extents.wide);
        row_split::rows(operands.output::<T>(0), self.extents.inner, self.parts, &|first, y| {
            simd::run(self.isa, Part { prefetch: self, first, x, indices, y });
        });
    }
}

impl Kernel for Prefetch {
    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.extents.dtype, self.copy(operands));
    }
}

struct Part<'a, T> {
    prefetch: &'a Prefetch,
    first: usize,
    x: &'a [T],
    indices: Indices<'a>,
    y: &'a mut [T],
}

impl<T: Element> Routine for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { prefetch, first, x, indices, y } = self;
        let e = prefetch.extents;
        let last = first + y.len() / e.inner;
        let bytes = (e.inner * size_of::<T>()).min(AHEAD_BYTES_MAX);
        for (i, y) in y.chunks_exact_mut(e.inner).enumerate() {
            let place = first + i;
            if place + prefetch.ahead < last {
                let next = x[e.start(place + prefetch.ahead, indices)..].as_ptr().cast::<f32>();
                for line in (0..bytes).step_by(LINE_BYTES) {
                    s.prefetch(next.wrapping_byte_add(line));
                }
            }
            y.copy_from_slice(&x[e.start(place, indices)..][..e.inner]);
        }
    }
}
