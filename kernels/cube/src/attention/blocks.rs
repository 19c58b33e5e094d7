//! A cube for a block of queries of one head, which go through the keys together, a block of them at a time: K and V are brought to
//! shared memory once for all queries, and the softmax is mended as greater scores turn up.
//!
//! Source: Dao et al. 2022 (FlashAttention), algorithm 1, with the queries in the outer loop as in Dao 2023. Sums are divided once, at
//! the end.

use super::operands::{K, Q, V, Y, first, keys_seen, numbers, of_mask};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNITS, cubes_for, refuse, units_of, upload_words};
use crate::team::{Fold, start};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::attention::Shape;
use kernels::{BuildError, Knob, Request, Rule, Task};
use schema::{Config, KnobValue};

/// Elements of y that a unit computes at most: their loop is unrolled.
const SUMS_MAX: u32 = 32;

pub static BLOCKS: CubeVariant = CubeVariant {
    id: "attention.cube_blocks",
    revision: 1,
    knobs: &[
        Knob::ints("units", &[32, 64, 128, 256]),
        // Queries and keys.
        Knob::pairs("block", &[(4, 16), (8, 8), (8, 16), (8, 32), (16, 16), (16, 32), (32, 16), (32, 32)]),
    ],
    rules: &[
        PLAIN,
        UNITS,
        turns_end!(turns),
        Rule {
            reason: "more queries of a block than units of a cube, or too many elements of y for a unit",
            holds: |task, config, _| {
                Form::of(task, config).is_some_and(|form| form.queries <= form.units && form.sums() <= SUMS_MAX)
            },
        },
        Rule {
            reason: "a block does not fit into the memory of a cube",
            holds: |task, config, limits| {
                let fits = |(form, gpu): (Form, kernels::GpuLimits)| form.shared_bytes() <= gpu.shared_bytes as usize;
                Form::of(task, config).zip(limits.gpu).is_some_and(fits)
            },
        },
    ],
    default: |_, _| vec![KnobValue::Int(64), KnobValue::Pair(8, 16)],
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let form = Form::of(task, config)?;
    let shared_out = |values: u32| values.div_ceil(form.units) as usize;
    let bring = |rows: u32, columns: u32| looped(shared_out(rows * columns), 0);
    let scores = looped(shared_out(form.queries * form.keys), looped(form.depth as usize, 0));
    let row = looped(form.keys as usize, 0);
    let weights = looped(shared_out(form.queries * form.keys), 0) + row;
    let sums = form.sums() as usize * looped(form.keys as usize, 0);
    let block = bring(form.keys, form.depth) + bring(form.keys, form.width) + scores + row + weights + sums;
    Some(bring(form.queries, form.depth) + looped(form.all_keys.div_ceil(form.keys) as usize, block))
}

/// What is computed, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    units: u32,
    /// Of a block.
    queries: u32,
    /// Of a block.
    keys: u32,
    all_keys: u32,
    depth: u32,
    width: u32,
    masked: bool,
    causal: bool,
}

impl Form {
    fn of(task: &Task, config: &Config) -> Option<Form> {
        let (shape, (queries, keys)) = (Shape::of(task).ok()?, config.pair("block")?);
        Some(Form {
            units: units_of(config),
            queries: queries as u32,
            keys: keys as u32,
            all_keys: shape.keys as u32,
            depth: shape.depth as u32,
            width: shape.width as u32,
            masked: shape.mask.is_some(),
            causal: shape.causal,
        })
    }

    /// Elements of y that a unit computes.
    fn sums(&self) -> u32 {
        (self.queries * self.width).div_ceil(self.units)
    }

    /// Between two keys in shared memory: odd where the depth is even, so that units with neighbouring keys meet different banks.
    fn pitch(&self) -> u32 {
        self.depth + 1
    }

    /// Q, K, V, the scores; the greatest score, the sum and the factor of each query.
    fn shared_bytes(&self) -> usize {
        let [queries, keys, pitch, width] = [self.queries, self.keys, self.pitch(), self.width].map(|n| n as usize);
        ((queries + keys) * pitch + keys * width + queries * (keys + 3)) * size_of::<f32>()
    }
}

struct Blocks {
    form: Form,
    /// See [`numbers`].
    geometry: Buffer,
    /// Of all heads.
    blocks: u32,
    scale: f32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let (task, shape) = (request.task, Shape::of(request.task)?);
    let form = Form::of(task, request.config).ok_or_else(|| refuse(task, &"it says nothing of blocks"))?;
    Ok(Box::new(Blocks {
        form,
        geometry: upload_words(task, gpu, &numbers(&shape))?,
        blocks: (shape.images * shape.heads * shape.queries.div_ceil(form.queries as usize)) as u32,
        scale: shape.scale,
    }))
}

impl CubeKernel for Blocks {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].as_ref().expect("the task has Q, K and V"));
        let mask: Vec<Buffer> = inputs.iter().skip(3).flatten().cloned().collect();
        with_client!(gpu, client => blocks_of_queries::launch::<f32, _>(
            client,
            cubes_for(self.blocks, 1, gpu),
            CubeDim::new_1d(self.form.units),
            q.array(),
            k.array(),
            v.array(),
            Buffer::sequence(&mask),
            outputs[0].array(),
            self.geometry.words(),
            self.blocks,
            self.scale,
            self.form,
        ));
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn blocks_of_queries<F: Float + CubeElement>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    mask: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    blocks: u32,
    scale: F,
    #[comptime] form: Form,
) {
    let of_block = comptime!(form.queries);
    let keys = comptime!(form.keys);
    let pitch = comptime!(form.pitch());
    let width = comptime!(form.width);
    let mut slab_q = SharedMemory::<F>::new(comptime!((form.queries * form.pitch()) as usize));
    let mut slab_k = SharedMemory::<F>::new(comptime!((form.keys * form.pitch()) as usize));
    let mut slab_v = SharedMemory::<F>::new(comptime!((form.keys * form.width) as usize));
    let mut scores = SharedMemory::<F>::new(comptime!((form.queries * form.keys) as usize));
    let mut greatest = SharedMemory::<F>::new(comptime!(form.queries as usize));
    let mut total = SharedMemory::<F>::new(comptime!(form.queries as usize));
    let mut factor = SharedMemory::<F>::new(comptime!(form.queries as usize));
    let mut sums = Array::<F>::new(comptime!(form.sums() as usize));
    #[unroll]
    for i in 0..comptime!(form.sums()) {
        sums[comptime!(i as usize)] = F::new(0.0);
    }
    let block = CUBE_POS as u32;
    // The same for all units of a cube.
    if block < blocks {
        let (heads, queries) = (g[0], g[1]);
        let blocks_of_head = queries.div_ceil(of_block);
        let first_query = block % blocks_of_head * of_block;
        let head = block / blocks_of_head % heads;
        let image = block / (blocks_of_head * heads);
        let group = head / g[4];
        let of_q = first(g, image, head, Q);
        let of_k = first(g, image, group, K);
        let of_v = first(g, image, group, V);
        let of_y = first(g, image, head, Y);
        for i in range_stepped(UNIT_POS, of_block * form.depth, form.units) {
            // Queries that the head lacks are computed as its last and not stored.
            let query = min(first_query + i / form.depth, queries - 1);
            slab_q[(i / form.depth * pitch + i % form.depth) as usize] =
                q[(of_q + query * g[comptime!(Q + 3)] + i % form.depth) as usize];
        }
        if UNIT_POS < of_block {
            greatest[UNIT_POS as usize] = start::<F>(Fold::Max);
            total[UNIT_POS as usize] = F::new(0.0);
        }
        let last_query = min(first_query + of_block, queries) - 1;
        let all_seen = keys_seen(last_query, queries, form.all_keys, form.causal);

        for first_key in range_stepped(0u32, all_seen, form.keys) {
            for i in range_stepped(UNIT_POS, keys * form.depth, form.units) {
                let key = min(first_key + i / form.depth, form.all_keys - 1);
                slab_k[(i / form.depth * pitch + i % form.depth) as usize] =
                    k[(of_k + key * g[comptime!(K + 3)] + i % form.depth) as usize];
            }
            for i in range_stepped(UNIT_POS, keys * width, form.units) {
                let key = min(first_key + i / width, form.all_keys - 1);
                slab_v[i as usize] = v[(of_v + key * g[comptime!(V + 3)] + i % width) as usize];
            }
            sync_cube();
            for i in range_stepped(UNIT_POS, of_block * keys, form.units) {
                let query = min(first_query + i / keys, queries - 1);
                let key = first_key + i % keys;
                let mut score = start::<F>(Fold::Max);
                if key < keys_seen(query, queries, form.all_keys, form.causal) {
                    score = F::new(0.0);
                    for j in 0..form.depth {
                        score += slab_q[(i / keys * pitch + j) as usize] * slab_k[(i % keys * pitch + j) as usize];
                    }
                    score *= scale;
                    if comptime!(form.masked) {
                        score += mask.index(0usize)[of_mask(g, image, head, query, key) as usize];
                    }
                }
                scores[i as usize] = score;
            }
            sync_cube();
            if UNIT_POS < of_block {
                let before = greatest[UNIT_POS as usize];
                let mut now = before;
                for j in 0..keys {
                    now = max(now, scores[(UNIT_POS * keys + j) as usize]);
                }
                greatest[UNIT_POS as usize] = now;
                factor[UNIT_POS as usize] = F::exp(before - now);
            }
            sync_cube();
            for i in range_stepped(UNIT_POS, of_block * keys, form.units) {
                let query = min(first_query + i / keys, queries - 1);
                let visible = first_key + i % keys < keys_seen(query, queries, form.all_keys, form.causal);
                let weight = F::exp(scores[i as usize] - greatest[(i / keys) as usize]);
                // Where a query has seen no key yet, what it does not see is as great as the greatest.
                scores[i as usize] = select(visible, weight, F::new(0.0));
            }
            sync_cube();
            if UNIT_POS < of_block {
                let mut sum = total[UNIT_POS as usize] * factor[UNIT_POS as usize];
                for j in 0..keys {
                    sum += scores[(UNIT_POS * keys + j) as usize];
                }
                total[UNIT_POS as usize] = sum;
            }
            #[unroll]
            for i in 0..comptime!(form.sums()) {
                let element = i * form.units + UNIT_POS;
                if element < comptime!(form.queries * form.width) {
                    let mut sum = sums[comptime!(i as usize)] * factor[(element / width) as usize];
                    for j in 0..keys {
                        sum += scores[(element / width * keys + j) as usize] * slab_v[(j * width + element % width) as usize];
                    }
                    sums[comptime!(i as usize)] = sum;
                }
            }
            // Nobody may write the next block before everybody has read this one.
            sync_cube();
        }
        // Also where no key is seen.
        sync_cube();

        #[unroll]
        for i in 0..comptime!(form.sums()) {
            let element = i * form.units + UNIT_POS;
            let query = first_query + element / width;
            if element < comptime!(form.queries * form.width) && query < queries {
                // It is at least 1 where any key is seen.
                let sum = max(total[(element / width) as usize], F::new(1e-30));
                let at = of_y + query * g[comptime!(Y + 3)] + element % width;
                y[at as usize] = sums[comptime!(i as usize)] / sum;
            }
        }
    }
}
