//! The general variant: blocks of queries. Keys and values of a head are packed into panels; two products with the exponentials of the
//! block between them.
//!
//! The scores of a block stay in a cache. They are divided by their sum only in the output, which is usually narrower.

use super::Shape;
use super::host_rows::partition;
use crate::epilogue::Epilogue;
use crate::gemm::host_packed::default_tile;
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::tile::Tiles;
use crate::simd::transpose::transpose;
use crate::simd::{self, Routine, Simd, lanewise as lanes, math};
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;
use std::ptr::null;

/// Any attention.
pub static BLOCKS: Variant = Variant {
    id: "attention.host_blocks",
    revision: 2,
    knobs: &[Knob::ints("queries", &[12, 24, 48, 96, 192]), PARTITION],
    rules: &[
        Rule {
            reason: "there are fewer blocks of queries than threads",
            holds: |task, config, limits| {
                let blocks = |s: Shape| s.images * s.heads * s.queries.div_ceil(block_of(&s, config.int("queries")));
                config.name("partition") != Some("rows") || Shape::of(task).is_ok_and(|s| blocks(s) >= limits.units as usize)
            },
        },
        PARTITION_RULE,
    ],
    default: |task, limits| {
        let blocks = |s: &Shape| s.images * s.heads * s.queries.div_ceil(block_of(s, None));
        let few = Shape::of(task).is_ok_and(|s| blocks(&s) < limits.units as usize);
        let one = KnobValue::Name("one".to_owned());
        vec![KnobValue::Int(QUERIES), if few { one } else { partition(task, limits) }]
    },
    build,
};

/// Queries of a block where nothing was measured.
const QUERIES: i64 = 48;

/// Queries that pass together: at most as many as the knob says, and in each block about as many.
fn block_of(s: &Shape, queries: Option<i64>) -> usize {
    let most = queries.unwrap_or(QUERIES).max(1) as usize;
    s.queries.div_ceil(s.queries.div_ceil(most))
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    let block = block_of(&shape, request.config.int("queries"));
    let keys = shape.keys.next_multiple_of(BLOCK);
    let isa = request.limits.isa;
    let product = |k: usize, a_stride: usize, columns: usize, c_stride: usize| {
        let tile = default_tile(simd::available(isa), block, columns.div_ceil(BLOCK));
        Product::new(Parts {
            tiles: Tiles::of(isa, false),
            tile: (tile.0 as usize, tile.1 as usize),
            positions: block,
            a_at: (0..block).map(|row| offset(row * a_stride)).collect(),
            c_at: (0..block).map(|row| offset(row * c_stride)).collect(),
            a_packed: false,
            c_packed: false,
            steps: Steps::even(k, BLOCK),
            slice_k: 512,
            columns,
            c_block: BLOCK,
            tail: Tail::Absent,
            block_positions: block,
            alpha: 1.0,
            epilogue: Epilogue::default(),
        })
    };
    Ok(Box::new(Blocks {
        scores: product(shape.depth, shape.q.stride(), keys, keys),
        values: product(shape.keys, keys, shape.width, shape.y.stride()),
        block,
        parts: row_split::parts(request.config, request.limits),
        isa,
        shape,
    }))
}

struct Blocks {
    shape: Shape,
    /// Queries times keys, to a scratch of whole blocks of keys.
    scores: Product,
    /// Scores times values.
    values: Product,
    /// Queries that pass together.
    block: usize,
    parts: usize,
    isa: Isa,
}

impl Blocks {
    /// f32 of scratch space of one part: keys, values, scores, and a sum for each query.
    fn lens(&self) -> [usize; 4] {
        let (s, keys) = (&self.shape, self.shape.keys.next_multiple_of(BLOCK));
        let lines = [keys * s.depth, s.keys * s.width.next_multiple_of(BLOCK), self.block * keys, self.block];
        lines.map(|len| len.next_multiple_of(BLOCK))
    }

    /// Keys as panels `[key / 16][depth][16]`, values as panels `[column / 16][key][16]`.
    fn pack(&self, (image, group): (usize, usize), k: &[f32], v: &[f32], keys: &mut [f32], values: &mut [f32]) {
        let s = &self.shape;
        for (index, panel) in keys.chunks_exact_mut(s.depth * BLOCK).enumerate() {
            let lanes = (s.keys - index * BLOCK).min(BLOCK);
            if lanes < BLOCK {
                panel.fill(0.0);
            }
            let k = &k[s.k.at(image, group) + index * BLOCK * s.k.stride()..];
            transpose(self.isa, k, s.k.stride(), panel, BLOCK, lanes, s.depth);
        }
        for (index, panel) in values.chunks_exact_mut(s.keys * BLOCK).enumerate() {
            let lanes = (s.width - index * BLOCK).min(BLOCK);
            let v = &v[s.v.at(image, group) + index * BLOCK..];
            for (key, line) in panel.chunks_exact_mut(BLOCK).enumerate() {
                line[..lanes].copy_from_slice(&v[key * s.v.stride()..][..lanes]);
                line[lanes..].fill(0.0);
            }
        }
    }
}

impl Kernel for Blocks {
    fn scratch_bytes(&self) -> usize {
        self.parts * self.lens().iter().sum::<usize>() * size_of::<f32>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let s = &self.shape;
        let [q, k, v] = [0, 1, 2].map(|index| operands.input::<f32>(index).unwrap_or_default());
        let mask = operands.input::<f32>(3).filter(|_| s.mask.is_some());
        let (y, scratch) = operands.output_and_scratch::<f32, f32>(0);
        let sizes = [q.len(), k.len(), v.len(), y.len()] == [s.q, s.k, s.v, s.y].map(|matrices| matrices.len);
        assert!(sizes && size_of_val(scratch) >= self.scratch_bytes(), "operands are as the signature says");
        let (y, scratch, lens) = (Shared(y.as_mut_ptr()), Shared(scratch.as_mut_ptr()), self.lens());
        let (room, blocks): (usize, usize) = (lens.iter().sum(), s.queries.div_ceil(self.block));
        for_each_part(self.parts, &|part| {
            // SAFETY: each part has `room` f32 of its own in the scratch space.
            let own = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * room), room) };
            let (keys, rest) = own.split_at_mut(lens[0]);
            let (values, rest) = rest.split_at_mut(lens[1]);
            let (scores, sums) = rest.split_at_mut(lens[2]);
            let mut packed = None;
            for index in share(s.images * s.heads * blocks, 1, self.parts, part) {
                let (image, head, first) = (index / blocks / s.heads, index / blocks % s.heads, index % blocks * self.block);
                let group = (image, s.group(head));
                if packed != Some(group) {
                    self.pack(group, k, v, keys, values);
                    packed = Some(group);
                }
                let count = self.block.min(s.queries - first);
                let q = &q[s.q.at(image, head) + first * s.q.stride()..];
                let to_scores =
                    Addresses { a: q.as_ptr(), b: keys.as_ptr(), c: scores.as_mut_ptr(), bias: null(), residual: null() };
                // SAFETY: `q` holds the rows, the panels are packed, and the scores have room for a block.
                unsafe { self.scores.run(&to_scores, 0..count, 0..self.scores.panels()) };
                let place = [image, head, first];
                simd::run(self.isa, Exponentials { shape: s, mask, place, scores: &mut *scores, sums: &mut sums[..count] });
                let at = s.y.at(image, head) + first * s.y.stride();
                // SAFETY: the rows of this head are inside the output.
                let c = unsafe { y.get().add(at) };
                let to_values = Addresses { a: scores.as_ptr(), b: values.as_ptr(), c, bias: null(), residual: null() };
                // SAFETY: as above; no other part writes these rows of this head.
                unsafe { self.values.run(&to_values, 0..count, 0..self.values.panels()) };
                for (i, &sum) in sums[..count].iter().enumerate() {
                    // SAFETY: row `first + i` of this head, which this part has just written.
                    let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * s.y.stride()), s.width) };
                    simd::run(self.isa, Divide(row, sum));
                }
            }
        });
    }
}

/// Divides a row by the sum of its weights; a query that sees nothing gives zeros.
struct Divide<'a>(&'a mut [f32], f32);

impl Routine for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(if self.1 == 0.0 { 0.0 } else { 1.0 / self.1 });
        lanes::map_in_place(s, self.0, |y| s.mul(y, factor));
    }
}

/// `exp(scale · score + mask − greatest)` of a block of scores in place, with their sums; keys beyond those seen become 0.
struct Exponentials<'a> {
    shape: &'a Shape,
    mask: Option<&'a [f32]>,
    /// Image, head, first query.
    place: [usize; 3],
    scores: &'a mut [f32],
    /// One for each query of the block.
    sums: &'a mut [f32],
}

impl Routine for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, [image, head, first]) = (self.shape, self.place);
        let keys = shape.keys.next_multiple_of(BLOCK);
        for (i, (scores, sum)) in self.scores.chunks_exact_mut(keys).zip(self.sums).enumerate() {
            let (seen, hidden) = scores.split_at_mut(shape.seen(first + i));
            hidden.fill(0.0);
            let (scale, most) = match self.mask {
                // The greatest product is that of the greatest score: no pass of its own.
                None if shape.scale >= 0.0 => (shape.scale, shape.scale * lanes::greatest(s, seen)),
                None => {
                    let scale = s.splat(shape.scale);
                    lanes::map_in_place(s, seen, |score| s.mul(score, scale));
                    (1.0, lanes::greatest(s, seen))
                }
                Some(mask) => (1.0, masked(s, shape, &mask[shape.mask_at([image, head, first + i])..], seen)),
            };
            // On 32 registers four polynomials hide each other's latency.
            *sum = if S::LANES == 16 {
                exponentials::<S, 4>(s, scale, most, seen)
            } else {
                exponentials::<S, 2>(s, scale, most, seen)
            };
        }
    }
}

/// `scale · score + mask` in place; gives the greatest.
#[inline(always)]
fn masked<S: Simd>(s: S, shape: &Shape, mask: &[f32], scores: &mut [f32]) -> f32 {
    let scale = s.splat(shape.scale);
    if shape.mask.is_some_and(|strides| strides[3] == 0) {
        let added = s.splat(mask[0]);
        lanes::map_in_place(s, scores, |score| s.mul_add(score, scale, added));
        return lanes::greatest(s, scores);
    }
    let mask = &mask[..scores.len()];
    let (step, mut at) = (4 * S::LANES, 0);
    let mut most = [s.splat(f32::NEG_INFINITY); 4];
    while at + step <= scores.len() {
        for (u, most) in most.iter_mut().enumerate() {
            let place = at + u * S::LANES;
            let score = s.mul_add(lanes::load(s, scores, place), scale, lanes::load(s, mask, place));
            lanes::store(s, scores, place, score);
            *most = s.max(*most, score);
        }
        at += step;
    }
    let (rest, mask) = (&mut scores[at..], &mask[at..]);
    lanes::zip_in_place(s, mask, rest, |score, mask| s.mul_add(score, scale, mask));
    s.greatest(s.max(s.max(most[0], most[1]), s.max(most[2], most[3]))).max(lanes::greatest(s, rest))
}

/// `exp(scale · x − most)` in place; gives the sum.
#[inline(always)]
fn exponentials<S: Simd, const U: usize>(s: S, scale: f32, most: f32, x: &mut [f32]) -> f32 {
    let (scale, shift) = (s.splat(scale), s.splat(-most));
    let (step, mut at) = (U * S::LANES, 0);
    let mut sums = [s.zero(); U];
    while at + step <= x.len() {
        for (u, sum) in sums.iter_mut().enumerate() {
            let e = math::exp(s, s.mul_add(lanes::load(s, x, at + u * S::LANES), scale, shift));
            lanes::store(s, x, at + u * S::LANES, e);
            *sum = s.add(*sum, e);
        }
        at += step;
    }
    let mut sum = sums[0];
    for &other in &sums[1..] {
        sum = s.add(sum, other);
    }
    let rest = &mut x[at..];
    lanes::each_in_place!(S, s, &mut *rest, x => math::exp(s, s.mul_add(x, scale, shift)));
    s.sum(sum) + lanes::sum(s, rest)
}
