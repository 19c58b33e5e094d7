//! Query by query, scores as dot products, values added up row by row.

use super::Shape;
use crate::partition::{Shared, for_each_part, share};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::softmax::row;
use crate::{BuildError, Isa, Kernel, Limits, Operands, Request, Task, Variant};
use schema::KnobValue;

/// For few queries: nothing is packed.
pub static ROWS: Variant = Variant {
    id: "attention.host_rows",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![partition(task, limits)],
    build: |request: &Request<'_>| -> Result<Box<dyn Kernel>, BuildError> {
        let parts = row_split::parts(request.config, request.limits);
        Ok(Box::new(Rows { shape: Shape::of(request.task)?, parts, isa: request.limits.isa }))
    },
};

/// About 20 floating-point operations a nanosecond.
pub fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for((super::ATTENTION.flops)(task) / 20, limits)
}

struct Rows {
    shape: Shape,
    parts: usize,
    isa: Isa,
}

impl Kernel for Rows {
    fn scratch_bytes(&self) -> usize {
        self.parts * self.shape.keys.next_multiple_of(16) * size_of::<f32>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let inputs = [0, 1, 2].map(|index| operands.input::<f32>(index).unwrap_or_default());
        let mask = operands.input::<f32>(3).filter(|_| s.mask.is_some());
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        let heads = s.images * s.heads;
        assert!(y.len() == s.y.len, "the output is as the signature says");
        assert!(size_of_val(scratch) >= self.scratch_bytes(), "the scratch space is as asked for");
        let (y, scratch, room) = (Shared(y.as_mut_ptr()), Shared(scratch.as_mut_ptr()), s.keys.next_multiple_of(16));
        for_each_part(self.parts, &|part| {
            // SAFETY: each part has `room` f32 of its own in the scratch space.
            let scores = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * room), s.keys) };
            for index in share(heads * s.queries, 1, self.parts, part) {
                let (image, head, query) = (index / s.queries / s.heads, index / s.queries % s.heads, index % s.queries);
                let at = s.y.at(image, head) + query * s.y.stride();
                // SAFETY: this row is inside the output, and no other part has it.
                let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(at), s.width) };
                simd::run(self.isa, Query { shape: s, place: [image, head, query], inputs, mask, scores: &mut *scores, y });
            }
        });
    }
}

struct Query<'a> {
    shape: &'a Shape,
    place: [usize; 3],
    inputs: [&'a [f32]; 3],
    mask: Option<&'a [f32]>,
    scores: &'a mut [f32],
    y: &'a mut [f32],
}

impl Routine for Query<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (s, [image, head, query], [q, k, v]) = (self.shape, self.place, self.inputs);
        let group = s.group(head);
        let q = &q[s.q.at(image, head) + query * s.q.stride()..][..s.depth];
        let scores = &mut self.scores[..s.seen(query)];
        for (key, score) in scores.iter_mut().enumerate() {
            *score = s.scale * lanes::dot(simd, q, &k[s.k.at(image, group) + key * s.k.stride()..][..s.depth]);
        }
        if let Some(mask) = self.mask {
            add_mask(s, mask, self.place, scores);
        }
        row(simd, false, scores);
        self.y.fill(0.0);
        for (key, &score) in scores.iter().enumerate() {
            let (v, weight) = (&v[s.v.at(image, group) + key * s.v.stride()..][..s.width], simd.splat(score));
            lanes::zip_in_place(simd, v, self.y, |y, v| simd.mul_add(v, weight, y));
        }
    }
}

/// Adds the mask of a query to its scores.
#[inline(always)]
fn add_mask(s: &Shape, mask: &[f32], place: [usize; 3], scores: &mut [f32]) {
    let (at, stride) = (s.mask_at(place), s.mask.map_or(0, |strides| strides[3]));
    if stride == 0 {
        let added = mask[at];
        scores.iter_mut().for_each(|score| *score += added);
    } else {
        scores.iter_mut().zip(&mask[at..]).for_each(|(score, added)| *score += added);
    }
}
