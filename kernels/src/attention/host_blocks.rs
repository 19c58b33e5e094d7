//! Blocks of queries: keys and values of a head packed into panels, two products with the softmax of the block between them.

use super::Shape;
use super::host_rows::{add_mask, partition};
use crate::epilogue::Epilogue;
use crate::gemm::host_packed::default_tile;
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::tile::Tiles;
use crate::simd::transpose::transpose;
use crate::simd::{self, Routine, Simd};
use crate::softmax::row;
use crate::{BuildError, Isa, Kernel, Knob, Operands, Request, Rule, Variant};
use schema::KnobValue;
use std::ptr::null;

/// More than a few queries.
pub static BLOCKS: Variant = Variant {
    id: "attention.host_blocks",
    revision: 1,
    knobs: &[Knob::ints("queries", &[12, 24, 48, 96]), PARTITION],
    rules: &[
        Rule {
            reason: "there are too few queries to pack the keys for",
            holds: |task, _, _| Shape::of(task).is_ok_and(|s| s.queries >= 4),
        },
        Rule {
            reason: "there are fewer heads than threads",
            holds: |task, config, limits| {
                let heads = |s: Shape| s.images * s.heads >= limits.units as usize;
                config.name("partition") != Some("rows") || Shape::of(task).is_ok_and(heads)
            },
        },
        PARTITION_RULE,
    ],
    default: |task, limits| {
        let few = Shape::of(task).is_ok_and(|s| s.images * s.heads < limits.units as usize);
        let one = KnobValue::Name("one".to_owned());
        vec![KnobValue::Int(48), if few { one } else { partition(task, limits) }]
    },
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    let block = (request.config.int("queries").unwrap_or(48) as usize).min(shape.queries);
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
    /// f32 of scratch space of one part: keys, values, scores.
    fn lens(&self) -> [usize; 3] {
        let (s, keys) = (&self.shape, self.shape.keys.next_multiple_of(BLOCK));
        [keys * s.depth, s.keys * s.width.next_multiple_of(BLOCK), self.block * keys]
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
        let heads = s.images * s.heads;
        let sizes = q.len() >= heads * s.queries * s.depth && y.len() >= heads * s.queries * s.width;
        assert!(sizes && size_of_val(scratch) >= self.scratch_bytes(), "operands are as the signature says");
        let (y, scratch, lens) = (Shared(y.as_mut_ptr()), Shared(scratch.as_mut_ptr()), self.lens());
        let room: usize = lens.iter().sum();
        for_each_part(self.parts, &|part| {
            // SAFETY: each part has `room` f32 of its own in the scratch space.
            let own = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * room), room) };
            let (keys, rest) = own.split_at_mut(lens[0]);
            let (values, scores) = rest.split_at_mut(lens[1]);
            let mut packed = None;
            for index in share(heads, 1, self.parts, part) {
                let (image, head) = (index / s.heads, index % s.heads);
                let group = (image, s.group(head));
                if packed != Some(group) {
                    self.pack(group, k, v, keys, values);
                    packed = Some(group);
                }
                for first in (0..s.queries).step_by(self.block) {
                    let count = self.block.min(s.queries - first);
                    let q = &q[s.q.at(image, head) + first * s.q.stride()..];
                    let to_scores =
                        Addresses { a: q.as_ptr(), b: keys.as_ptr(), c: scores.as_mut_ptr(), bias: null(), residual: null() };
                    // SAFETY: `q` holds the rows, the panels are packed, and the scores have room for a block.
                    unsafe { self.scores.run(&to_scores, 0..count, 0..self.scores.panels()) };
                    simd::run(self.isa, Softmax { shape: s, mask, place: [image, head, first], count, scores: &mut *scores });
                    let at = s.y.at(image, head) + first * s.y.stride();
                    // SAFETY: the rows of this head are inside the output.
                    let c = unsafe { y.get().add(at) };
                    let to_values = Addresses { a: scores.as_ptr(), b: values.as_ptr(), c, bias: null(), residual: null() };
                    // SAFETY: as above; no other part writes rows of this head.
                    unsafe { self.values.run(&to_values, 0..count, 0..self.values.panels()) };
                }
            }
        });
    }
}

/// The softmax of a block of scores in place; keys beyond those seen become 0.
struct Softmax<'a> {
    shape: &'a Shape,
    mask: Option<&'a [f32]>,
    /// Image, head, first query.
    place: [usize; 3],
    count: usize,
    scores: &'a mut [f32],
}

impl Routine for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (s, [image, head, first]) = (self.shape, self.place);
        let keys = s.keys.next_multiple_of(BLOCK);
        for (i, scores) in self.scores.chunks_exact_mut(keys).take(self.count).enumerate() {
            let (seen, hidden) = scores.split_at_mut(s.seen(first + i));
            hidden.fill(0.0);
            seen.iter_mut().for_each(|score| *score *= s.scale);
            if let Some(mask) = self.mask {
                add_mask(s, mask, [image, head, first + i], seen);
            }
            row(simd, false, seen);
        }
    }
}
