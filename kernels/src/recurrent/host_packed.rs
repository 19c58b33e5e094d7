//! Packed weights: the input's products for many steps as one gemm, then step by step the state's products and the gates.
//!
//! The sums of one gate lie together, and threads share out blocks of 16 units: every thread reads the whole state of the step
//! before and writes its own blocks of the next, so there are two states. A part of a step is one routine, so the instruction set is
//! looked up once for it.
//!
//! The state's products of many sequences are the microkernel's, which reads the weights once for all of them. Those of few run row
//! by row over weights whose gates are woven into one stream.

use super::cell::{self, Gate};
use super::weights::{Weights, biases, panels, woven};
use super::{Cell, Shape};
use crate::epilogue::Epilogue;
use crate::gemm::host_packed::default_tile;
use crate::gemm::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::Tiles;
use crate::simd::{self, FlushDenormals, Routine, Simd};
use crate::{BuildError, Inputs, Isa, Kernel, Knob, Limits, Operands, Packed, Request, Rule, Task, Variant};
use schema::KnobValue;
use std::ops::Range;
use std::ptr::null;

/// LSTM with constant weights.
pub static LSTM_PACKED: Variant = Variant { id: "lstm.host_packed", revision: 2, knobs: KNOBS, rules: RULES, default, build };

/// GRU with constant weights.
pub static GRU_PACKED: Variant = Variant { id: "gru.host_packed", revision: 2, knobs: KNOBS, rules: RULES, default, build };

static KNOBS: &[Knob] = &[
    // Steps whose input products are computed at once.
    Knob::ints("ahead", &[1, 8, 32, 1 << 20]),
    // How the state's products are computed: row by row over woven weights, or all rows by the microkernel.
    Knob::names("state", &["rows", "tiles"]),
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
        reason: "row by row, the weights would be read for each of more than 4 sequences",
        holds: |task, config, _| config.name("state") != Some("rows") || Shape::of(task).is_ok_and(|s| s.batch <= ROWS_MAX),
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

/// The most sequences whose products are worth computing row by row.
const ROWS_MAX: usize = 4;

/// How many f32 ahead of its use a line of woven weights is fetched: 4 KiB.
const NEAR: usize = 1024;

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
    // As many rows of the input as a few tiles have: more would push the weights out of L2.
    let ahead = match s.batch {
        _ if s.lens => 1 << 20,
        1 => 32,
        2..8 => 8,
        _ => 1,
    };
    vec![
        KnobValue::Int(ahead),
        KnobValue::Name(if s.batch == 1 { "rows" } else { "tiles" }.to_owned()),
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
    let rows = request.config.name("state") == Some("rows");
    let directions = (0..shape.directions()).map(|d| Direction::new(&shape, &weights, d, rows)).collect();
    Ok(Box::new(Sequence {
        of_x: product(ahead * shape.batch, shape.input, shape.input, gates * padded, true),
        of_h: product(shape.batch, shape.hidden, padded, before * padded, false),
        of_reset: (shape.cell == Cell::Gru).then(|| product(shape.batch, shape.hidden, padded, padded, false)),
        directions,
        rows,
        near,
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
    fn new(shape: &Shape, weights: &Weights<'_>, d: usize, rows: bool) -> Self {
        let (gates, hidden, padded) = (shape.cell.gates(), shape.hidden, shape.padded());
        let w = &weights.w[d * gates * hidden * shape.input..];
        let r = &weights.r[d * gates * hidden * hidden..];
        let before = if shape.cell == Cell::Gru { 2 } else { gates };
        let (mut bias_x, mut bias_h) = (Packed::zeroed(gates * padded), Packed::zeroed(padded));
        biases(shape, &weights.b, d, &mut bias_x, &mut bias_h);
        let of_state = if rows { woven } else { panels };
        Direction {
            w: panels(shape, w, shape.input, 0..gates),
            r: of_state(shape, r, hidden, 0..before),
            r_reset: of_state(shape, r, hidden, before..gates),
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
    /// The state's products are computed row by row over woven weights.
    rows: bool,
    /// Woven weights are fetched ahead.
    near: bool,
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
                    let from = read(from, n * s.padded(), s.hidden);
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
        let blocks = self.shape.padded() / BLOCK;
        for half in [Half::First, Half::Reset] {
            if half == Half::Reset && self.of_reset.is_none() {
                continue;
            }
            for_each_part(self.parts, &|part| {
                // The caller's thread flushes already.
                let _flush = (self.parts > 1).then(FlushDenormals::new);
                let own = share(blocks, 1, self.parts, part);
                simd::run(self.isa, Part { sequence: self, direction: &self.directions[d], half, space, now, own, time });
            });
        }
        let Some(y) = y else { return };
        let s = &self.shape;
        for n in 0..s.batch {
            if let Some((t, _)) = time(n) {
                // SAFETY: the output has the size of the signature, and no other direction writes here.
                unsafe {
                    let state = read(space.states[now ^ 1], n * s.padded(), s.hidden);
                    slice(y, ((t * s.directions() + d) * s.batch + n) * s.hidden, s.hidden).copy_from_slice(state);
                }
            }
        }
    }
}

/// A step, or where a GRU's reset comes before the last product, its two halves: all threads wait for the reset state.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Half {
    First,
    Reset,
}

/// One thread's blocks of one half of a step.
struct Part<'a, T> {
    sequence: &'a Sequence,
    direction: &'a Direction,
    half: Half,
    space: Space,
    /// Which state is the one before.
    now: usize,
    own: Range<usize>,
    time: &'a T,
}

impl<T: Fn(usize) -> Option<(usize, usize)>> Routine for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.own.is_empty() {
            return;
        }
        // SAFETY: the parts of a step have different blocks, and the state before is only read.
        unsafe {
            self.products(s);
            for n in 0..self.sequence.shape.batch {
                let row = (self.time)(n).map(|time| time.1);
                match self.half {
                    Half::First => self.gates(s, n, row),
                    Half::Reset => self.reset_gates(s, n, row),
                }
            }
        }
    }
}

impl<T> Part<'_, T> {
    /// The products of the state, or of the reset state, with the weights of the part's blocks.
    ///
    /// # Safety
    /// This thread alone writes the sums of its blocks, and nobody writes the state.
    #[inline(always)]
    unsafe fn products<S: Simd>(&self, s: S) {
        let (sequence, shape) = (self.sequence, &self.sequence.shape);
        let (product, weights, state, sums) = match (self.half, &sequence.of_reset) {
            (Half::Reset, Some(product)) => (product, &self.direction.r_reset, self.space.reset, self.space.of_reset),
            _ => (&sequence.of_h, &self.direction.r, self.space.states[self.now], self.space.h),
        };
        let blocks = shape.padded() / BLOCK;
        let gates = product.panels() / blocks;
        if !sequence.rows {
            let addresses = Addresses { a: state.get(), b: weights.as_ptr(), c: sums.get(), bias: null(), residual: null() };
            for gate in 0..gates {
                let panels = gate * blocks + self.own.start..gate * blocks + self.own.end;
                // SAFETY: states hold batch · padded f32 and `sums` that for every gate; the parts write disjoint panels.
                unsafe { product.run(&addresses, 0..shape.batch, panels) };
            }
            return;
        }
        for n in 0..shape.batch {
            for block in self.own.clone() {
                let panel = &weights[block * gates * shape.hidden * BLOCK..][..gates * shape.hidden * BLOCK];
                // SAFETY: as above; `state` holds `hidden` f32 for each sequence.
                unsafe {
                    let state = read(state, n * shape.padded(), shape.hidden);
                    let sums = sums.get().add(n * gates * shape.padded() + block * BLOCK);
                    match (gates, sequence.near) {
                        (1, false) => row_sums::<S, 1, 8, false>(s, panel, state, sums, shape.padded()),
                        (1, true) => row_sums::<S, 1, 8, true>(s, panel, state, sums, shape.padded()),
                        (2, false) => row_sums::<S, 2, 4, false>(s, panel, state, sums, shape.padded()),
                        (2, true) => row_sums::<S, 2, 4, true>(s, panel, state, sums, shape.padded()),
                        (3, false) => row_sums::<S, 3, 2, false>(s, panel, state, sums, shape.padded()),
                        (3, true) => row_sums::<S, 3, 2, true>(s, panel, state, sums, shape.padded()),
                        (_, false) => row_sums::<S, 4, 2, false>(s, panel, state, sums, shape.padded()),
                        (_, true) => row_sums::<S, 4, 2, true>(s, panel, state, sums, shape.padded()),
                    }
                }
            }
        }
    }

    /// The sums of a gate for the part's units of one sequence.
    ///
    /// # Safety
    /// Nobody writes these sums meanwhile.
    #[inline(always)]
    unsafe fn gate<'b>(&self, n: usize, row: usize, gate: usize, of_h: usize) -> Gate<'b> {
        let shape = &self.sequence.shape;
        let (padded, first, len) = (shape.padded(), self.own.start * BLOCK, self.own.len() * BLOCK);
        let x_at = ((row * shape.batch + n) * shape.cell.gates() + gate) * padded + first;
        let h_at = (n * of_h + gate.min(of_h - 1)) * padded + first;
        // SAFETY: row < ahead, n < batch, own ⊆ blocks and gate < gates keep both inside the space.
        unsafe { Gate { x: read(self.space.x, x_at, len), h: read(self.space.h, h_at, len) } }
    }

    /// The gates of one sequence, up to where a GRU needs its second product.
    ///
    /// # Safety
    /// This thread alone touches its blocks of the state after and of what is computed here.
    #[inline(always)]
    unsafe fn gates<S: Simd>(&self, s: S, n: usize, row: Option<usize>) {
        let (shape, space) = (&self.sequence.shape, self.space);
        let (first, len) = (self.own.start * BLOCK, self.own.len() * BLOCK);
        let at = n * shape.padded() + first;
        // SAFETY: n < batch and own ⊆ blocks keep all inside the space; by this function's contract nobody else writes them.
        unsafe {
            let (before, after) = (read(space.states[self.now], at, len), slice(space.states[self.now ^ 1], at, len));
            let Some(row) = row else { return after.copy_from_slice(before) };
            match shape.cell {
                Cell::Lstm => {
                    let gates =
                        [self.gate(n, row, 0, 4), self.gate(n, row, 1, 4), self.gate(n, row, 2, 4), self.gate(n, row, 3, 4)];
                    cell::Lstm { gates, c: slice(space.cell, at, len), h: after }.run(s);
                }
                Cell::GruAfter => {
                    let gates = [self.gate(n, row, 0, 3), self.gate(n, row, 1, 3), self.gate(n, row, 2, 3)];
                    cell::GruAfter { gates, bias: &self.direction.bias_h[first..first + len], before, h: after }.run(s);
                }
                Cell::Gru => {
                    let r = self.gate(n, row, 1, 2);
                    cell::Reset { r, before, out: slice(space.reset, at, len) }.run(s);
                }
            }
        }
    }

    /// The last gate of a GRU whose reset comes first.
    ///
    /// # Safety
    /// As for [`gates`](Self::gates).
    #[inline(always)]
    unsafe fn reset_gates<S: Simd>(&self, s: S, n: usize, row: Option<usize>) {
        let Some(row) = row else { return };
        let len = self.own.len() * BLOCK;
        let at = n * self.sequence.shape.padded() + self.own.start * BLOCK;
        // SAFETY: as in `gates`.
        unsafe {
            let z = self.gate(n, row, 0, 2);
            let g = Gate { x: self.gate(n, row, 2, 2).x, h: read(self.space.of_reset, at, len) };
            let (before, h) = (read(self.space.states[self.now], at, len), slice(self.space.states[self.now ^ 1], at, len));
            cell::Gru { z, g, before, h }.run(s);
        }
    }
}

/// The products of one state with one block's woven weights of `G` gates, each gate's sixteen at `sums`, `stride` apart. `U` values
/// of k go into sums of their own, so that there are enough additions under way.
///
/// # Safety
/// Sixteen f32 are writable at `sums + gate · stride` for every gate.
#[inline(always)]
unsafe fn row_sums<S: Simd, const G: usize, const U: usize, const AHEAD: bool>(
    s: S,
    weights: &[f32],
    state: &[f32],
    sums: *mut f32,
    stride: usize,
) {
    assert!(weights.len() >= G * BLOCK * state.len(), "there are weights for every value of the state");
    let (weights, state, k) = (weights.as_ptr(), state.as_ptr(), state.len());
    for lane in (0..BLOCK).step_by(S::LANES) {
        let mut acc = [[s.zero(); G]; U];
        let mut i = 0;
        while i + U <= k {
            for (u, acc) in acc.iter_mut().enumerate() {
                // SAFETY: i + u < k.
                unsafe { multiply::<S, G, AHEAD>(s, acc, weights, state, i + u, lane) };
            }
            i += U;
        }
        while i < k {
            // SAFETY: i < k.
            unsafe { multiply::<S, G, AHEAD>(s, &mut acc[0], weights, state, i, lane) };
            i += 1;
        }
        let mut sum = acc[0];
        for acc in &acc[1..] {
            for (sum, &acc) in sum.iter_mut().zip(acc) {
                *sum = s.add(*sum, acc);
            }
        }
        for (g, &sum) in sum.iter().enumerate() {
            // SAFETY: by this function's contract; lane + LANES ≤ 16.
            unsafe { s.store(sums.add(g * stride + lane), sum) };
        }
    }
}

/// Adds the products of the `i`-th value of a state with the `G` gates' weights from `lane` on.
///
/// # Safety
/// `state` has more than `i` values, and `weights` `16 · G` for each.
#[inline(always)]
unsafe fn multiply<S: Simd, const G: usize, const AHEAD: bool>(
    s: S,
    acc: &mut [S::V; G],
    weights: *const f32,
    state: *const f32,
    i: usize,
    lane: usize,
) {
    // SAFETY: by this function's contract; a prefetch may go anywhere.
    unsafe {
        let x = s.splat(*state.add(i));
        for (g, acc) in acc.iter_mut().enumerate() {
            let at = weights.add((i * G + g) * BLOCK + lane);
            if AHEAD {
                s.prefetch(at.wrapping_add(NEAR));
            }
            *acc = s.mul_add(x, s.load(at), *acc);
        }
    }
}

/// A stretch of shared memory to read.
///
/// # Safety
/// It is inside the allocation and initialised, and nobody writes it while the slice lives.
unsafe fn read<'a>(shared: Shared<f32>, at: usize, len: usize) -> &'a [f32] {
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(shared.get().add(at), len) }
}

/// A stretch of shared memory to write.
///
/// # Safety
/// It is inside the allocation and initialised, and only its holder touches it while the slice lives.
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
                crate::thread_pool::join(
                    || self.direction(0, &inputs, first, results),
                    || self.direction(1, &inputs, second, results),
                );
            }
            (count, _) => {
                for d in 0..count {
                    self.direction(d, &inputs, self.space(d, scratch), results);
                }
            }
        }
    }
}
