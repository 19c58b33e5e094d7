//! Packed weights: the input's products for many steps as one gemm, then step by step the state's products and the gates.
//!
//! The panels of one block of 16 units lie behind each other for all gates, so that the gates of a block are computed from sums that
//! lie together, and threads can share out blocks. Every thread reads the whole state of the step before and writes its own blocks
//! of the next, so there are two states.

use super::cell::{self, Gate};
use super::weights::{Weights, biases, interleaved};
use super::{Cell, Shape};
use crate::epilogue::Epilogue;
use crate::gemm::host_packed::default_tile;
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::simd::{self, FlushDenormals};
use crate::{BuildError, Inputs, Isa, Kernel, Knob, Limits, Operands, Packed, Request, Rule, Task, Variant};
use schema::KnobValue;
use std::ops::Range;
use std::ptr::null;

/// LSTM with constant weights.
pub static LSTM_PACKED: Variant = Variant { id: "lstm.host_packed", revision: 1, knobs: KNOBS, rules: RULES, default, build };

/// GRU with constant weights.
pub static GRU_PACKED: Variant = Variant { id: "gru.host_packed", revision: 1, knobs: KNOBS, rules: RULES, default, build };

static KNOBS: &[Knob] = &[
    // Steps whose input products are computed at once.
    Knob::ints("ahead", &[1, 8, 32, 1 << 20]),
    Knob::names("prefetch", &["none", "near"]),
    Knob::names("partition", &["one", "directions", "units"]),
];

static RULES: &[Rule] = &[
    Rule { reason: "the weights are not constant", holds: |task, _, _| Shape::of(task).is_ok_and(|s| s.constant) },
    Rule {
        reason: "sequences of different lengths need the input's products of all steps",
        holds: |task, config, _| Shape::of(task).is_ok_and(|s| !s.lens) || config.int("ahead") == Some(1 << 20),
    },
    Rule {
        reason: "there is one thread: nothing to split over",
        holds: |_, config, limits| limits.units > 1 || config.name("partition") == Some("one"),
    },
    Rule {
        reason: "there is one direction",
        holds: |task, config, _| {
            config.name("partition") != Some("directions") || Shape::of(task).is_ok_and(|s| s.directions() > 1)
        },
    },
    Rule {
        reason: "there are fewer blocks of units than threads",
        holds: |task, config, limits| {
            let blocks = |s: Shape| s.padded() / BLOCK >= limits.units as usize;
            config.name("partition") != Some("units") || Shape::of(task).is_ok_and(blocks)
        },
    },
];

/// Below so many floating-point operations a step is not worth a second thread: about 4 µs of one core.
const ALONE_FLOPS: usize = 200_000;

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Ok(s) = Shape::of(task) else { return Vec::new() };
    let weights = s.cell.gates() * s.hidden * s.hidden;
    let partition = if limits.units > 1 && s.directions() > 1 {
        "directions"
    } else if limits.units > 1 && 2 * weights * s.batch > ALONE_FLOPS && s.padded() / BLOCK >= limits.units as usize {
        "units"
    } else {
        "one"
    };
    let near = 4 * weights as u64 > limits.l2_bytes / 2;
    vec![
        KnobValue::Int(if s.lens { 1 << 20 } else { 32 }),
        KnobValue::Name(if near { "near" } else { "none" }.to_owned()),
        KnobValue::Name(partition.to_owned()),
    ]
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    let weights = Weights::of(request, &shape)?;
    let (gates, padded) = (shape.cell.gates(), shape.padded());
    let ahead = (request.config.int("ahead").unwrap_or(32) as usize).min(shape.steps);
    let near = request.config.name("prefetch") == Some("near");
    let product = |positions: usize, k: usize, stride: usize, columns: usize, bias: bool| {
        let tile = default_tile(simd::available(request.limits.isa), positions, columns / BLOCK);
        Product::new(Parts {
            tiles: Tiles::of(request.limits.isa, near),
            tile: (tile.0 as usize, tile.1 as usize),
            positions,
            a_at: (0..positions).map(|row| offset(row * stride)).collect(),
            c_at: (0..positions).map(|row| offset(row * columns)).collect(),
            a_packed: false,
            c_packed: false,
            steps: Steps::even(k, BLOCK),
            slice_k: 512,
            columns,
            c_block: BLOCK,
            tail: Tail::Absent,
            block_positions: 96,
            alpha: 1.0,
            epilogue: Epilogue { bias, ..Epilogue::default() },
        })
    };
    let before = if shape.cell == Cell::Gru { 2 } else { gates };
    let directions = (0..shape.directions()).map(|d| Direction::new(&shape, &weights, d)).collect();
    Ok(Box::new(Sequence {
        of_x: product(ahead * shape.batch, shape.input, shape.input, gates * padded, true),
        of_h: product(shape.batch, shape.hidden, padded, before * padded, false),
        of_reset: (shape.cell == Cell::Gru).then(|| product(shape.batch, shape.hidden, padded, padded, false)),
        directions,
        ahead,
        apart: request.config.name("partition") == Some("directions"),
        parts: if request.config.name("partition") == Some("units") { request.limits.units as usize } else { 1 },
        isa: request.limits.isa,
        shape,
    }))
}

/// The packed weights of one direction.
struct Direction {
    w: Packed,
    r: Packed,
    /// Of a GRU whose reset comes first: the last gate's.
    r_reset: Packed,
    bias_x: Packed,
    bias_h: Packed,
}

impl Direction {
    fn new(shape: &Shape, weights: &Weights<'_>, d: usize) -> Self {
        let (gates, hidden, padded) = (shape.cell.gates(), shape.hidden, shape.padded());
        let w = &weights.w[d * gates * hidden * shape.input..];
        let r = &weights.r[d * gates * hidden * hidden..];
        let before = if shape.cell == Cell::Gru { 2 } else { gates };
        let (mut by_gate, mut bias_h) = (vec![0.0; gates * padded], Packed::zeroed(padded));
        biases(shape, &weights.b, d, &mut by_gate, &mut bias_h);
        let mut bias_x = Packed::zeroed(gates * padded);
        for (index, lanes) in bias_x.chunks_exact_mut(BLOCK).enumerate() {
            let (block, gate) = (index / gates, index % gates);
            lanes.copy_from_slice(&by_gate[gate * padded + block * BLOCK..][..BLOCK]);
        }
        Direction {
            w: interleaved(shape, w, shape.input, 0..gates),
            r: interleaved(shape, r, hidden, 0..before),
            r_reset: interleaved(shape, r, hidden, before..gates),
            bias_x,
            bias_h,
        }
    }

    fn bytes(&self) -> usize {
        [&self.w, &self.r, &self.r_reset, &self.bias_x, &self.bias_h].into_iter().map(Packed::bytes).sum()
    }
}

struct Sequence {
    shape: Shape,
    of_x: Product,
    of_h: Product,
    of_reset: Option<Product>,
    directions: Vec<Direction>,
    /// Steps whose input products are computed at once.
    ahead: usize,
    /// Directions run beside each other.
    apart: bool,
    /// Threads that share out the units.
    parts: usize,
    isa: Isa,
}

/// Where the scratch space of one direction lies. All start at multiples of 64 bytes.
#[derive(Copy, Clone)]
struct Space {
    x: Shared<f32>,
    h: Shared<f32>,
    of_reset: Shared<f32>,
    reset: Shared<f32>,
    cell: Shared<f32>,
    states: [Shared<f32>; 2],
}

/// Where a direction writes.
#[derive(Copy, Clone)]
struct Results {
    y: Option<Shared<f32>>,
    last_h: Option<Shared<f32>>,
    last_c: Option<Shared<f32>>,
}

impl Sequence {
    /// f32 of scratch space per direction, and the parts of it.
    fn lens(&self) -> [usize; 7] {
        let (s, padded) = (&self.shape, self.shape.padded());
        let (gates, state) = (s.cell.gates(), s.batch * padded);
        [self.ahead * gates * state, gates * state, state, state, state, state, state]
    }

    /// Cuts the scratch space of direction `d`.
    fn space(&self, d: usize, scratch: &mut [f32]) -> Space {
        let lens = self.lens();
        let own = &mut scratch[d * lens.iter().sum::<usize>()..];
        let mut rest = own;
        let mut parts = lens.map(|len| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(len);
            rest = behind;
            part
        });
        // States, cells and what a product may leave unwritten start as zeros; they are small.
        parts[1..].iter_mut().for_each(|part| part.fill(0.0));
        let [x, h, of_reset, reset, cell, first, second] = parts.map(|part| Shared(part.as_mut_ptr()));
        Space { x, h, of_reset, reset, cell, states: [first, second] }
    }

    /// One direction from the first step to the last.
    fn direction(&self, d: usize, inputs: &Inputs<'_>, space: Space, results: Results) {
        let _flush = FlushDenormals::new();
        let s = &self.shape;
        let x = inputs.get::<f32>(0).unwrap_or_default();
        let lens = inputs.get::<i32>(4).filter(|lens| !lens.is_empty());
        self.begin(d, inputs, space);
        let mut now = 0;
        for start in (0..s.steps).step_by(self.ahead) {
            let count = self.ahead.min(s.steps - start);
            let first = if s.reversed[d] { s.steps - start - count } else { start };
            self.input_products(d, &x[first * s.batch * s.input..], count * s.batch, space);
            for step in start..start + count {
                let time = |n: usize| {
                    let len = lens.map_or(s.steps, |lens| (lens[n].max(0) as usize).min(s.steps));
                    (step < len).then(|| if s.reversed[d] { len - 1 - step } else { step })
                };
                self.step(d, (space, now), &|n| time(n).map(|t| (t, t - first)), results.y);
                now ^= 1;
            }
        }
        self.end(d, space, now, results);
    }

    /// Loads the initial states.
    fn begin(&self, d: usize, inputs: &Inputs<'_>, space: Space) {
        let s = &self.shape;
        for (index, to) in [(5, space.states[0]), (6, space.cell)] {
            let Some(given) = inputs.get::<f32>(index).filter(|given| !given.is_empty()) else { continue };
            for n in 0..s.batch {
                let from = &given[(d * s.batch + n) * s.hidden..][..s.hidden];
                // SAFETY: the space holds batch · padded f32, and this thread alone uses it now.
                unsafe { slice(to, n * s.padded(), s.hidden) }.copy_from_slice(from);
            }
        }
    }

    /// Writes the last states.
    fn end(&self, d: usize, space: Space, now: usize, results: Results) {
        let s = &self.shape;
        for (from, to) in [(space.states[now], results.last_h), (space.cell, results.last_c)] {
            let Some(to) = to else { continue };
            for n in 0..s.batch {
                // SAFETY: outputs have the sizes of the signature, each direction writes its own part, and the steps are over.
                unsafe {
                    let from = slice(from, n * s.padded(), s.hidden);
                    slice(to, (d * s.batch + n) * s.hidden, s.hidden).copy_from_slice(from);
                }
            }
        }
    }

    /// The products of `rows` rows of the input, with their bias.
    fn input_products(&self, d: usize, x: &[f32], rows: usize, space: Space) {
        assert!(x.len() >= rows * self.shape.input, "the input holds the rows");
        let direction = &self.directions[d];
        let addresses = Addresses {
            a: x.as_ptr(),
            b: direction.w.as_ptr(),
            c: space.x.get(),
            bias: direction.bias_x.as_ptr(),
            residual: null(),
        };
        let panels = self.of_x.panels();
        let by_rows = rows >= 2 * self.parts * self.of_x.tile_positions();
        for_each_part(self.parts, &|part| {
            let (rows, panels) = if by_rows {
                (share(rows, self.of_x.tile_positions(), self.parts, part), 0..panels)
            } else {
                (0..rows, share(panels, self.of_x.tile_blocks(), self.parts, part))
            };
            // SAFETY: `x` holds the rows, the space ahead · batch rows of all panels, and the parts write disjoint ones.
            unsafe { self.of_x.run(&addresses, rows, panels) };
        });
    }

    /// One step. `time` gives for each sequence its place in time, and that place behind the first of the input's products; `None`
    /// when the sequence is over.
    fn step(
        &self,
        d: usize,
        (space, now): (Space, usize),
        time: &(impl Fn(usize) -> Option<(usize, usize)> + Sync),
        y: Option<Shared<f32>>,
    ) {
        let direction = &self.directions[d];
        let blocks = self.shape.padded() / BLOCK;
        let product = |product: &Product, b: &Packed, a: Shared<f32>, c: Shared<f32>, panels: Range<usize>| {
            let addresses = Addresses { a: a.get(), b: b.as_ptr(), c: c.get(), bias: null(), residual: null() };
            // SAFETY: states hold batch · padded f32, and `c` that for every gate; the parts write disjoint panels.
            unsafe { product.run(&addresses, 0..self.shape.batch, panels) };
        };
        let gates = self.of_h.panels() / blocks;
        for_each_part(self.parts, &|part| {
            let _flush = FlushDenormals::new();
            let own = share(blocks, 1, self.parts, part);
            product(&self.of_h, &direction.r, space.states[now], space.h, own.start * gates..own.end * gates);
            for block in own {
                for n in 0..self.shape.batch {
                    // SAFETY: this part alone touches this block, and the state before is only read.
                    unsafe { self.gates(direction, (space, now), (n, block), time(n).map(|time| time.1)) };
                }
            }
        });
        if let Some(of_reset) = &self.of_reset {
            for_each_part(self.parts, &|part| {
                let _flush = FlushDenormals::new();
                let own = share(blocks, 1, self.parts, part);
                product(of_reset, &direction.r_reset, space.reset, space.of_reset, own.clone());
                for block in own {
                    for n in 0..self.shape.batch {
                        // SAFETY: as above.
                        unsafe { self.reset_gates((space, now), (n, block), time(n).map(|time| time.1)) };
                    }
                }
            });
        }
        let Some(y) = y else { return };
        let s = &self.shape;
        for n in 0..s.batch {
            if let Some((t, _)) = time(n) {
                // SAFETY: the output has the size of the signature, and no other direction writes here.
                unsafe {
                    let state = slice(space.states[now ^ 1], n * s.padded(), s.hidden);
                    slice(y, ((t * s.directions() + d) * s.batch + n) * s.hidden, s.hidden).copy_from_slice(state);
                }
            }
        }
    }

    /// The sums of gate `gate` of one block.
    ///
    /// # Safety
    /// Nobody writes these sums meanwhile.
    unsafe fn gate<'a>(&self, space: Space, (n, block): (usize, usize), row: usize, gate: usize, of_h: usize) -> Gate<'a> {
        let (s, gates) = (&self.shape, self.shape.cell.gates());
        let x_at = ((row * s.batch + n) * s.padded() + block * BLOCK) * gates + gate * BLOCK;
        let h_at = (n * s.padded() + block * BLOCK) * of_h + gate * BLOCK;
        // SAFETY: row < ahead, n < batch, block < blocks and gate < gates keep both inside the space.
        unsafe { Gate { x: slice(space.x, x_at, BLOCK), h: slice(space.h, h_at, BLOCK) } }
    }

    /// The gates of one block of one sequence, up to where a GRU needs its second product.
    ///
    /// # Safety
    /// This thread alone touches this block of the states after and of what is computed here.
    unsafe fn gates(&self, direction: &Direction, (space, now): (Space, usize), (n, block): (usize, usize), row: Option<usize>) {
        let s = &self.shape;
        let at = n * s.padded() + block * BLOCK;
        // SAFETY: n < batch and block < blocks keep all inside the space; by this function's contract nobody else writes them.
        unsafe {
            let (before, after) = (slice(space.states[now], at, BLOCK), slice(space.states[now ^ 1], at, BLOCK));
            let Some(row) = row else { return after.copy_from_slice(before) };
            match s.cell {
                Cell::Lstm => {
                    let gates = [0, 1, 2, 3].map(|gate| self.gate(space, (n, block), row, gate, 4));
                    simd::run(self.isa, cell::Lstm { gates, c: slice(space.cell, at, BLOCK), h: after });
                }
                Cell::GruAfter => {
                    let gates = [0, 1, 2].map(|gate| self.gate(space, (n, block), row, gate, 3));
                    let bias = &direction.bias_h[block * BLOCK..][..BLOCK];
                    simd::run(self.isa, cell::GruAfter { gates, bias, before, h: after });
                }
                Cell::Gru => {
                    let r = self.gate(space, (n, block), row, 1, 2);
                    simd::run(self.isa, cell::Reset { r, before, out: slice(space.reset, at, BLOCK) });
                }
            }
        }
    }

    /// The last gate of a GRU whose reset comes first.
    ///
    /// # Safety
    /// As for [`gates`](Self::gates).
    unsafe fn reset_gates(&self, (space, now): (Space, usize), (n, block): (usize, usize), row: Option<usize>) {
        let Some(row) = row else { return };
        let at = n * self.shape.padded() + block * BLOCK;
        // SAFETY: as in `gates`.
        unsafe {
            let z = self.gate(space, (n, block), row, 0, 2);
            let g = Gate { x: self.gate(space, (n, block), row, 2, 2).x, h: slice(space.of_reset, at, BLOCK) };
            let (before, h) = (slice(space.states[now], at, BLOCK), slice(space.states[now ^ 1], at, BLOCK));
            simd::run(self.isa, cell::Gru { z, g, before, h });
        }
    }
}

/// A stretch of shared memory.
///
/// # Safety
/// It is inside the allocation and initialised, and nobody writes it while the slice lives, or only its holder does.
unsafe fn slice<'a>(shared: Shared<f32>, at: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts_mut(shared.get().add(at), len) }
}

impl Kernel for Sequence {
    fn scratch_bytes(&self) -> usize {
        self.shape.directions() * self.lens().iter().sum::<usize>() * size_of::<f32>()
    }

    fn prepared_bytes(&self) -> usize {
        self.directions.iter().map(Direction::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let (s, inputs) = (&self.shape, operands.inputs());
        let state = s.directions() * s.batch * s.hidden;
        for (index, len) in [(0, s.steps * state), (1, state), (2, state)] {
            assert!(!s.outputs[index] || operands.output::<f32>(index).len() >= len, "outputs are as the signature says");
        }
        let mut place = |index: usize| s.outputs[index].then(|| Shared(operands.output::<f32>(index).as_mut_ptr()));
        let results = Results { y: place(0), last_h: place(1), last_c: place(2) };
        if s.lens && s.outputs[0] {
            operands.output::<f32>(0).fill(0.0);
        }
        let (_, scratch) = operands.output_and_scratch::<f32, f32>(0);
        assert!(size_of_val(scratch) >= self.scratch_bytes(), "the scratch space is as asked for");
        match (self.directions.len(), self.apart) {
            (2, true) => {
                let (first, second) = (self.space(0, scratch), self.space(1, scratch));
                rayon::join(|| self.direction(0, &inputs, first, results), || self.direction(1, &inputs, second, results));
            }
            (count, _) => {
                for d in 0..count {
                    self.direction(d, &inputs, self.space(d, scratch), results);
                }
            }
        }
    }
}
