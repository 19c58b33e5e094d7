//! The general variant: a small program over tiles that stay in L1.
//!
//! The output is computed a tile at a time; each step of the program is one vector loop over the tile. Inputs that lie as the output
//! does are read in place, others are first spread into a tile of their own; constants and scalars are spread once.

use super::expression::Expression;
use super::geometry::{self, Access, Blocked, Walk};
use super::program::{Class, Op, Program, SLOTS_MAX};
use super::{expression::INPUTS_MAX, tile};
use crate::layout::BLOCK;
use crate::plane::{self, Plane};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::{self, Routine, Simd, lanewise as lanes};
use crate::strides::offset_of;
use crate::{BuildError, Element, Isa, Kernel, Knob, Limits, OperandSpec, Operands, Request, Rule, Task, Variant};
use schema::{DType, KnobValue};

/// Any expression, any layout.
pub static TILES: Variant = Variant {
    id: "elementwise.host_tiles",
    revision: 2,
    knobs: &[TILE, STORES, PARTITION],
    rules: &[STREAMED_RULE, PARTITION_RULE],
    default,
    build: |request| build(request, false),
};

/// Elements of a tile.
pub const TILE: Knob = Knob::ints("tile", &[256, 512, 1024, 2048]);

/// Whether results go to the caches, or past them.
pub const STORES: Knob = Knob::names("stores", &["cached", "streamed"]);

/// The rule that goes with it.
pub const STREAMED_RULE: Rule = Rule {
    reason: "the output is no f32 beyond the last cache: streaming would send to memory what is read again soon",
    holds: |task, config, limits| config.name("stores") != Some("streamed") || is_large(task, limits),
};

fn is_large(task: &Task, limits: &Limits) -> bool {
    let large = |y: &OperandSpec| y.dtype == DType::F32 && y.bytes() as u64 > limits.l3_bytes / 2;
    super::signature(task).is_ok_and(|signature| large(&signature.outputs[0]))
}

/// A legal value for every knob.
pub fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let ns = (super::ELEMENTWISE.bytes)(task) / 10 + (super::ELEMENTWISE.flops)(task) / 8;
    vec![KnobValue::Int(512), KnobValue::Name("cached".to_owned()), row_split::partition_for(ns, limits)]
}

/// Makes the program ready; `by_rows` cuts tiles at the ends of the innermost axis, where inputs in rows are all that there is.
pub fn build(request: &Request<'_>, by_rows: bool) -> Result<Box<dyn Kernel>, BuildError> {
    let signature = super::signature(request.task)?;
    let refused = |reason: String| request.task.refused(reason);
    let expression = Expression::parse(request.task.word("expr")).map_err(refused)?;
    let types: Vec<DType> = signature.inputs.iter().map(|spec| spec.dtype).collect();
    let program = Program::compile(&expression, &types).map_err(refused)?;
    let (walk, access) = geometry::plan(&signature);
    let tile = request.config.int("tile").unwrap_or(512) as usize;
    let row = match &walk {
        Walk::Rows { dims } if by_rows => dims.last().copied().unwrap_or(1),
        _ => tile,
    };
    Ok(Box::new(Tiles {
        program,
        walk,
        access,
        types,
        dtype: signature.outputs[0].dtype,
        tile,
        row,
        streamed: request.config.name("stores") == Some("streamed"),
        parts: row_split::parts(request.config, request.limits),
        isa: request.limits.isa,
    }))
}

struct Tiles {
    program: Program,
    walk: Walk,
    access: Vec<Access>,
    types: Vec<DType>,
    dtype: DType,
    tile: usize,
    /// Elements of an output in rows behind which a new tile begins.
    row: usize,
    /// Results go past the caches.
    streamed: bool,
    parts: usize,
    isa: Isa,
}

/// The elements of an input.
#[derive(Copy, Clone)]
enum Column<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    Bool(&'a [u8]),
}

/// A type of output elements.
trait Sink: Element {
    /// The same elements as f32, when they are.
    fn floats(_out: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
    /// One element from an f32.
    fn from_float(x: f32) -> Self;
    /// One element from a whole number.
    fn from_whole(x: i64) -> Self;
}

impl Sink for f32 {
    fn floats(out: &mut [f32]) -> Option<&mut [f32]> {
        Some(out)
    }
    fn from_float(x: f32) -> f32 {
        x
    }
    fn from_whole(x: i64) -> f32 {
        x as f32
    }
}

macro_rules! whole_sink {
    ($($type:ty),*) => { $(impl Sink for $type {
        fn from_float(x: f32) -> $type {
            x as $type
        }
        fn from_whole(x: i64) -> $type {
            x as $type
        }
    })* };
}
whole_sink!(i64, i32, u8);

impl Tiles {
    /// The scratch of one part, in words of 8 bytes.
    fn scratch_words(&self) -> usize {
        (self.program.floats.len() * self.tile).div_ceil(2) + self.program.wholes.len() * self.tile
    }

    fn run_typed<T: Sink>(&self, operands: &mut Operands<'_>) {
        let mut columns = [Column::F32(&[]); INPUTS_MAX];
        for (index, (column, dtype)) in columns.iter_mut().zip(&self.types).enumerate() {
            *column = match dtype {
                DType::F32 => Column::F32(operands.input(index).unwrap_or_default()),
                DType::I64 => Column::I64(operands.input(index).unwrap_or_default()),
                DType::I32 => Column::I32(operands.input(index).unwrap_or_default()),
                _ => Column::Bool(operands.input(index).unwrap_or_default()),
            };
        }
        let (out, scratch) = operands.output_and_scratch::<T, u64>(0);
        let row = match &self.walk {
            Walk::Rows { .. } => self.row,
            Walk::Blocked(blocked) => blocked.plane.len(),
        };
        row_split::rows_with(out, row, scratch, self.parts, &|first, out, scratch| {
            simd::run(self.isa, Part { tiles: self, columns: &columns, first, out, scratch });
        });
    }
}

impl Kernel for Tiles {
    fn scratch_bytes(&self) -> usize {
        self.scratch_words() * 8 * self.parts
    }

    fn run(&self, operands: &mut Operands<'_>) {
        match self.dtype {
            DType::F32 => self.run_typed::<f32>(operands),
            DType::I64 => self.run_typed::<i64>(operands),
            DType::I32 => self.run_typed::<i32>(operands),
            _ => self.run_typed::<u8>(operands),
        }
    }
}

/// A stretch of the output on one thread.
struct Part<'a, T> {
    tiles: &'a Tiles,
    columns: &'a [Column<'a>; INPUTS_MAX],
    first: usize,
    out: &'a mut [T],
    scratch: &'a mut [u64],
}

/// The tiles of both classes: those of a part's own, and what inputs lend for the tile at hand.
struct Slots<'a> {
    floats: [&'a mut [f32]; SLOTS_MAX],
    wholes: [&'a mut [i64]; SLOTS_MAX],
    lent_floats: [Option<&'a [f32]>; INPUTS_MAX],
    lent_wholes: [Option<&'a [i64]>; INPUTS_MAX],
}

impl<'a> Slots<'a> {
    fn new(program: &Program, tile: usize, scratch: &'a mut [u64]) -> Self {
        let words = (program.floats.len() * tile).div_ceil(2);
        let (floats, wholes) = scratch.split_at_mut(words);
        let mut floats = bytemuck::cast_slice_mut::<u64, f32>(floats).chunks_exact_mut(tile);
        let mut wholes = bytemuck::cast_slice_mut::<u64, i64>(wholes).chunks_exact_mut(tile);
        let slots = Slots {
            floats: std::array::from_fn(|_| floats.next().unwrap_or_default()),
            wholes: std::array::from_fn(|_| wholes.next().unwrap_or_default()),
            lent_floats: [None; INPUTS_MAX],
            lent_wholes: [None; INPUTS_MAX],
        };
        for (i, &constant) in program.floats.constants.iter().enumerate() {
            slots.floats[program.floats.inputs.len() + i].fill(constant);
        }
        for (i, &constant) in program.wholes.constants.iter().enumerate() {
            slots.wholes[program.wholes.inputs.len() + i].fill(constant);
        }
        slots
    }

    fn float(&self, slot: usize, len: usize) -> &[f32] {
        match self.lent_floats.get(slot) {
            Some(Some(lent)) => lent,
            _ => &self.floats[slot][..len],
        }
    }

    fn whole(&self, slot: usize, len: usize) -> &[i64] {
        match self.lent_wholes.get(slot) {
            Some(Some(lent)) => lent,
            _ => &self.wholes[slot][..len],
        }
    }
}

impl<T: Sink> Routine for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { tiles, columns, first, out, scratch } = self;
        let mut slots = Slots::new(&tiles.program, tiles.tile, scratch);
        spread_once(tiles, columns, &mut slots);
        match &tiles.walk {
            Walk::Rows { dims } => {
                for (i, row) in out.chunks_mut(tiles.row).enumerate() {
                    let mut start = (first + i) * tiles.row;
                    for out in row.chunks_mut(tiles.tile) {
                        lend_rows(tiles, columns, dims, start, out.len(), &mut slots);
                        execute(s, tiles, &mut slots, out);
                        start += out.len();
                    }
                }
            }
            Walk::Blocked(walk) => {
                let Some(out) = T::floats(out) else { return };
                for (i, out) in out.chunks_mut(walk.plane.len()).enumerate() {
                    one_plane(s, tiles, walk, columns, first + i, &mut slots, out);
                }
            }
        }
        if tiles.streamed {
            simd::drain();
        }
    }
}

/// The inputs of one class: slot and input.
fn inputs(slots: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    slots.iter().copied().enumerate()
}

/// Spreads the inputs of one element.
fn spread_once(tiles: &Tiles, columns: &[Column<'_>], slots: &mut Slots<'_>) {
    for (slot, input) in inputs(&tiles.program.floats.inputs) {
        if let (Access::Once, Column::F32(&[x, ..])) = (&tiles.access[input], columns[input]) {
            slots.floats[slot].fill(x);
        }
    }
    for (slot, input) in inputs(&tiles.program.wholes.inputs) {
        if matches!(tiles.access[input], Access::Once) {
            slots.wholes[slot].fill(whole_at(columns[input], 0));
        }
    }
}

fn whole_at(column: Column<'_>, at: usize) -> i64 {
    match column {
        Column::F32(values) => values[at] as i64,
        Column::I64(values) => values[at],
        Column::I32(values) => i64::from(values[at]),
        Column::Bool(values) => i64::from(values[at] != 0),
    }
}

/// Makes `count` elements from the `start`-th of every input ready.
fn lend_rows<'a>(tiles: &Tiles, columns: &[Column<'a>], dims: &[usize], start: usize, count: usize, slots: &mut Slots<'a>) {
    for (slot, input) in inputs(&tiles.program.floats.inputs) {
        let Column::F32(values) = columns[input] else { continue };
        match &tiles.access[input] {
            Access::Direct => slots.lent_floats[slot] = Some(&values[start..start + count]),
            Access::Strided(strides) => {
                slots.lent_floats[slot] = None;
                let tile = &mut slots.floats[slot];
                let mut lent = None;
                geometry::runs(dims, strides, start, count, |at, offset, length, stride| match stride {
                    0 => tile[at..at + length].fill(values[offset]),
                    1 if length == count => lent = Some(&values[offset..offset + length]),
                    1 => tile[at..at + length].copy_from_slice(&values[offset..offset + length]),
                    _ => {
                        for (i, out) in tile[at..at + length].iter_mut().enumerate() {
                            *out = values[offset + i * stride];
                        }
                    }
                });
                slots.lent_floats[slot] = lent;
            }
            _ => {}
        }
    }
    for (slot, input) in inputs(&tiles.program.wholes.inputs) {
        let tile = &mut slots.wholes[slot];
        match (&tiles.access[input], columns[input]) {
            (Access::Direct, Column::I64(values)) => slots.lent_wholes[slot] = Some(&values[start..start + count]),
            (Access::Direct, Column::I32(values)) => {
                tile.iter_mut().zip(&values[start..start + count]).for_each(|(out, &x)| *out = i64::from(x));
            }
            (Access::Direct, Column::Bool(values)) => {
                tile.iter_mut().zip(&values[start..start + count]).for_each(|(out, &x)| *out = i64::from(x != 0));
            }
            (Access::Strided(strides), column) => {
                geometry::runs(dims, strides, start, count, |at, offset, length, stride| {
                    for (i, out) in tile[at..at + length].iter_mut().enumerate() {
                        *out = whole_at(column, offset + i * stride);
                    }
                });
            }
            _ => {}
        }
    }
}

/// Runs the program on the tile the slots hold.
#[inline(always)]
fn execute<S: Simd, T: Sink>(s: S, tiles: &Tiles, slots: &mut Slots<'_>, out: &mut [T]) {
    let (program, len) = (&tiles.program, out.len());
    let last = program.steps.len();
    for (n, step) in program.steps.iter().enumerate() {
        let [a, b, c] = step.from;
        match step.op {
            Op::Float(_) | Op::MulAdd | Op::ChooseFloat | Op::ToFloat => {
                if n + 1 == last
                    && !tiles.streamed
                    && let Some(out) = T::floats(out)
                {
                    float_step(s, step.op, slots, [a, b, c], out);
                    return;
                }
                let to = std::mem::take(&mut slots.floats[step.to]);
                float_step(s, step.op, slots, [a, b, c], &mut to[..len]);
                if n + 1 == last
                    && let Some(out) = T::floats(out)
                {
                    lanes::stream(s, &to[..len], out);
                    slots.floats[step.to] = to;
                    return;
                }
                slots.floats[step.to] = to;
            }
            Op::CompareFloat(_) | Op::ToWhole | Op::FloatToTruth => {
                let to = std::mem::take(&mut slots.wholes[step.to]);
                tile::float_to_whole(step.op, &mut to[..len], slots.float(a, len), slots.float(b, len));
                slots.wholes[step.to] = to;
            }
            _ => {
                let to = std::mem::take(&mut slots.wholes[step.to]);
                tile::whole(step.op, &mut to[..len], slots.whole(a, len), slots.whole(b, len), slots.whole(c, len));
                slots.wholes[step.to] = to;
            }
        }
    }
    match program.result {
        (Class::Float, slot) => out.iter_mut().zip(slots.float(slot, len)).for_each(|(out, &x)| *out = T::from_float(x)),
        (Class::Whole, slot) => out.iter_mut().zip(slots.whole(slot, len)).for_each(|(out, &x)| *out = T::from_whole(x)),
    }
}

#[inline(always)]
fn float_step<S: Simd>(s: S, op: Op, slots: &Slots<'_>, [a, b, c]: [usize; 3], out: &mut [f32]) {
    let len = out.len();
    match op {
        Op::ChooseFloat => tile::choose(out, slots.whole(a, len), slots.float(b, len), slots.float(c, len)),
        Op::ToFloat => out.iter_mut().zip(slots.whole(a, len)).for_each(|(out, &x)| *out = x as f32),
        _ => {
            let (a, b, c) = (slots.float(a, len), slots.float(b, len), slots.float(c, len));
            s.run(tile::FloatStep { op, out, a, b, c });
        }
    }
}

/// Computes one plane of 16 channels with its halo.
#[inline(always)]
fn one_plane<'a, S: Simd>(
    s: S,
    tiles: &Tiles,
    walk: &Blocked,
    columns: &[Column<'a>],
    index: usize,
    slots: &mut Slots<'a>,
    out: &mut [f32],
) {
    let (outer, block) = (index / plane::blocks(walk.channels), index % plane::blocks(walk.channels));
    let lanes = plane::lanes(walk.channels, block);
    spread_lanes(tiles, walk, columns, outer, block, slots);
    let flat = walk.plane.halo == 0
        && tiles.access.iter().all(|access| !matches!(access, Access::Plane { halo: 1.. } | Access::Strided(_)));
    let (height, row) =
        if flat { (1, walk.plane.height * walk.plane.width * BLOCK) } else { (walk.plane.height, walk.plane.width * BLOCK) };
    for y in 0..height {
        let mut start = 0;
        while start < row {
            let count = tiles.tile.min(row - start);
            lend_blocked(tiles, walk, columns, (outer, block, index), (y, start, count), slots);
            let at = walk.plane.row(y) + start;
            execute(s, tiles, slots, &mut out[at..at + count]);
            start += count;
        }
    }
    Plane::clear_lanes(out, lanes);
    walk.plane.clear_halo(out);
}

/// Spreads the inputs that have one element per channel.
fn spread_lanes(tiles: &Tiles, walk: &Blocked, columns: &[Column<'_>], outer: usize, block: usize, slots: &mut Slots<'_>) {
    for (slot, input) in inputs(&tiles.program.floats.inputs) {
        let Column::F32(values) = columns[input] else { continue };
        let mut lanes = [0.0; BLOCK];
        match &tiles.access[input] {
            Access::Lanes(strides) => {
                let (&channel, outer_strides) = strides.split_last().expect("a channel stride");
                let base = offset_of(outer, &walk.outer, outer_strides);
                for (lane, value) in lanes.iter_mut().enumerate().take(plane::lanes(walk.channels, block)) {
                    *value = values[(base + (block * BLOCK + lane) as isize * channel) as usize];
                }
            }
            Access::BlockLanes { halo } => {
                let side = 1 + 2 * halo;
                let at = ((outer * plane::blocks(walk.channels) + block) * side * side + halo * side + halo) * BLOCK;
                lanes.copy_from_slice(&values[at..at + BLOCK]);
            }
            _ => continue,
        }
        slots.floats[slot].chunks_exact_mut(BLOCK).for_each(|position| position.copy_from_slice(&lanes));
    }
    for (slot, input) in inputs(&tiles.program.wholes.inputs) {
        if let Access::Lanes(strides) = &tiles.access[input] {
            let (&channel, outer_strides) = strides.split_last().expect("a channel stride");
            let base = offset_of(outer, &walk.outer, outer_strides);
            for (i, out) in slots.wholes[slot].iter_mut().enumerate() {
                let channel_index = (block * BLOCK + i % BLOCK).min(walk.channels - 1);
                *out = whole_at(columns[input], (base + channel_index as isize * channel) as usize);
            }
        }
    }
}

/// Makes `count` elements from the `start`-th of row `y` ready.
fn lend_blocked<'a>(
    tiles: &Tiles,
    walk: &Blocked,
    columns: &[Column<'a>],
    (outer, block, index): (usize, usize, usize),
    (y, start, count): (usize, usize, usize),
    slots: &mut Slots<'a>,
) {
    let gather = |strides: &[isize], put: &mut dyn FnMut(usize, usize)| {
        let (outer_strides, rest) = strides.split_at(walk.outer.len());
        let base = offset_of(outer, &walk.outer, outer_strides) + y as isize * rest[1];
        for i in 0..count {
            let channel = (block * BLOCK + i % BLOCK).min(walk.channels - 1);
            let x = (start + i) / BLOCK;
            put(i, (base + channel as isize * rest[0] + x as isize * rest[2]) as usize);
        }
    };
    for (slot, input) in inputs(&tiles.program.floats.inputs) {
        let Column::F32(values) = columns[input] else { continue };
        match &tiles.access[input] {
            Access::Plane { halo } => {
                let own = walk.with_halo(*halo);
                let at = index * own.len() + own.row(y) + start;
                slots.lent_floats[slot] = Some(&values[at..at + count]);
            }
            Access::Strided(strides) => {
                let tile = &mut slots.floats[slot];
                gather(strides, &mut |i, at| tile[i] = values[at]);
            }
            _ => {}
        }
    }
    for (slot, input) in inputs(&tiles.program.wholes.inputs) {
        if let Access::Strided(strides) = &tiles.access[input] {
            let (tile, column) = (&mut slots.wholes[slot], columns[input]);
            gather(strides, &mut |i, at| tile[i] = whole_at(column, at));
        }
    }
}
