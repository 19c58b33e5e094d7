//! What W makes of all inputs in one launch, then a launch for each step of all sequences and directions, in which cubes share the hidden units
//! out. A unit has a block of hidden units and sequences, so that a weight that is read serves several sequences.

use super::cell::{Kind, Weights, cell_of_lstm, state_of_gru, state_of_lstm, steps_of};
use crate::epilogue::{pick, sigmoid, written_max};
use crate::gemm::{CUBES_MANY, LANES, add_step, launchable, least_read};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{IN_ROWS, countable, refuse};
use crate::team::{Team, fold_sums, place_of_unit, row_of_unit};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::lstm::{Cell, Shape};
use kernels::{BuildError, GpuLimits, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static LSTM: CubeVariant = CubeVariant {
    id: "lstm.cube_steps",
    revision: 1,
    knobs: &[
        // Of the products of the inputs: rows and columns for a unit, and units of a cube.
        Knob::pairs("product", &[(1, 1), (1, 4), (1, 8), (4, 1), (4, 4), (4, 8), (8, 2), (8, 4), (8, 8), (16, 8), (16, 16)]),
        Knob::ints("units", &[8, 16, 32, 64, 128]),
        // Of a step: hidden units and sequences of a block.
        Knob::pairs(
            "block",
            &[(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 1), (2, 2), (2, 4), (2, 8), (4, 1), (4, 2), (4, 4), (4, 8)],
        ),
        // Blocks of a cube, and units of each.
        Knob::pairs("team", &[(8, 1), (16, 1), (32, 1), (64, 1), (128, 1), (8, 8), (8, 16), (8, 32), (32, 4), (32, 8)]),
        // Products of a sum that are written out one after the other.
        Knob::ints("k", &[1, 2, 4]),
    ],
    rules: &[
        IN_ROWS,
        turns_end!(turns),
        Rule {
            reason: "so much is written out that drivers compile it for long or keep it outside of registers",
            holds: |task, config, limits| {
                shape_and_form(task, config).is_some_and(|(shape, form)| {
                    let sums = shape.cell.gates() as u32 * form.hidden_units * form.sequences;
                    (sums * form.k).max(form.product.rows * form.product.columns) <= written_max(limits)
                })
            },
        },
        Rule {
            reason: "a block has more hidden units or sequences than there are, or a team more units than there are terms",
            holds: |task, config, _| {
                shape_and_form(task, config).is_some_and(|(shape, form)| {
                    form.hidden_units as usize <= shape.hidden
                        && form.sequences as usize <= shape.batch.next_power_of_two()
                        && (form.team.along * form.k) as usize <= shape.hidden.next_power_of_two()
                })
            },
        },
        Rule {
            reason: "more units than a cube of the device has, more shared memory, or more buffers than a launch has",
            holds: |task, config, limits| {
                let fits = |((shape, form), gpu): ((Shape, Form), GpuLimits)| {
                    let units = gpu.units_per_cube.min(gpu.cube_dim[0]);
                    let sums = shape.cell.gates() * (form.hidden_units * form.sequences) as usize;
                    let shared = if form.team.along > 1 { sums * form.team.shared() * size_of::<f32>() } else { 0 };
                    form.product.units <= units
                        && form.team.across * form.team.along <= units
                        && shared <= gpu.shared_bytes as usize
                        && BUFFERS_MAX <= gpu.bindings
                };
                shape_and_form(task, config).zip(limits.gpu).is_some_and(fits)
            },
        },
        Rule {
            reason: "what W makes of the inputs is larger than a buffer of the device or than its kernels count, or there are more cubes than it can launch",
            holds: |task, config, limits| {
                let fits = |((shape, form), gpu): ((Shape, Form), GpuLimits)| {
                    let (columns, product) = (shape.cell.gates() * shape.hidden, form.product);
                    let cubes = |all: usize, each: u32| launchable(all.div_ceil(each as usize), limits);
                    countable(products(&shape))
                        && (products(&shape) * size_of::<f32>()) as u64 <= gpu.buffer_bytes
                        && cubes(columns, product.columns * product.units)
                        && cubes(shape.steps * shape.batch, product.rows)
                        && cubes(shape.hidden, form.hidden_units_of_cube())
                        && cubes(shape.batch, form.sequences)
                };
                shape_and_form(task, config).zip(limits.gpu).is_some_and(fits)
            },
        },
    ],
    default,
    build,
};

pub static GRU: CubeVariant = CubeVariant { id: "gru.cube_steps", ..LSTM };

/// Of an LSTM's step: products, R, lengths; state and cell before and after; Y.
const BUFFERS_MAX: u32 = 8;

/// Products of a step with R that take longer than its launch. Mesa's lavapipe, where 100 steps of an LSTM take 8 to 24 ms at the least, computes
/// the whole of them in one launch in 18 ms with 4,096 products a step and in 38 ms with 9,216.
const PRODUCTS_ON_PROCESSORS: usize = 5_000;
/// Of one sequence in one direction, since these belong to one multiprocessor otherwise; half a megabyte of R, which it reads in about the
/// time of a launch. No card has been asked.
const PRODUCTS_ON_CARDS: usize = 1 << 17;

/// Whether a step is long enough for a launch of its own.
pub fn steps_are_long(task: &Task, limits: &Limits) -> bool {
    let Ok(shape) = Shape::of(task) else { return false };
    let products = shape.cell.gates() * shape.hidden * shape.hidden;
    match limits.gpu.is_some_and(|gpu| gpu.software) {
        true => products * shape.batch * shape.directions() >= PRODUCTS_ON_PROCESSORS,
        false => products >= PRODUCTS_ON_CARDS,
    }
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (rows, columns, hidden, batch, gates, directions) = Shape::of(task).map_or((1, 1, 1, 1, 1, 1), |s| {
        let gates = s.cell.gates();
        (s.steps * s.batch, gates * s.hidden, s.hidden, s.batch, gates, s.directions())
    });
    let pair = |(x, y): (usize, usize)| KnobValue::Pair(x as i64, y as i64);
    if limits.gpu.is_some_and(|gpu| gpu.software) {
        // Processors read lane by lane, so that what counts is how often each value is used, once every core has cubes.
        let cubes = |(i, s): (usize, usize)| hidden.div_ceil(LANES * i) * batch.div_ceil(s);
        let fits = |&(i, s): &(usize, usize)| {
            i <= hidden && s <= batch.next_power_of_two() && (i == 1 || cubes((i, s)) * directions >= CUBES_MANY)
        };
        let blocks = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2), (1, 4), (2, 4), (4, 4), (1, 8), (2, 8), (4, 8), (1, 16)];
        let least = blocks.into_iter().filter(fits).min_by_key(|&(i, s)| cubes((i, s)) * (gates * i + s)).unwrap_or((1, 1));
        vec![
            pair(least_read([directions, rows, columns], written_max(limits) / 2)),
            KnobValue::Int(LANES as i64),
            pair(least),
            pair((LANES, 1)),
            KnobValue::Int(1),
        ]
    } else {
        // A step has little for each unit of a card.
        let sequences = [4, 2].into_iter().find(|&s| s <= batch).unwrap_or(1);
        let along = [32, 16, 8].into_iter().find(|&along| along <= hidden).unwrap_or(1);
        let product = if rows >= 4 && columns >= 4 { (4, 4) } else { (1, 1) };
        vec![pair(product), KnobValue::Int(64), pair((1, sequences)), pair((8, along)), KnobValue::Int(1)]
    }
}

/// Of the launch with the most.
fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (shape, form) = shape_and_form(task, config)?;
    let (along, stretch) = (form.team.along as usize, (form.team.along * form.k) as usize);
    let sums = looped(shape.hidden / stretch, 0) + looped((shape.hidden % stretch).div_ceil(along), 0);
    Some(looped(shape.input, 0).max(sums) + looped(form.product.rows.max(form.sequences) as usize, 0))
}

/// Elements of what W makes of all inputs.
fn products(shape: &Shape) -> usize {
    shape.directions() * shape.steps * shape.batch * shape.cell.gates() * shape.hidden
}

/// What is computed, as part of the kernels' identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    kind: Kind,
    hidden: u32,
    /// Of the first direction; a second one runs backwards.
    backwards: bool,
    /// See [`Weights`].
    transposed: bool,
    bias: bool,
    lens: bool,
    /// Whether all states are asked for.
    y: bool,
    product: Product,
    /// Of a block.
    hidden_units: u32,
    sequences: u32,
    team: Team,
    k: u32,
}

/// How the products of the inputs are shared out.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Product {
    rows: u32,
    columns: u32,
    units: u32,
}

fn shape_and_form(task: &Task, config: &Config) -> Option<(Shape, Form)> {
    let shape = Shape::of(task).ok()?;
    let ((rows, columns), units) = (config.pair("product")?, config.int("units")?);
    let ((hidden_units, sequences), (across, along)) = (config.pair("block")?, config.pair("team")?);
    let form = Form {
        kind: shape.cell.into(),
        hidden: shape.hidden as u32,
        backwards: shape.reversed[0],
        transposed: shape.constant,
        bias: shape.bias,
        lens: shape.lens,
        y: shape.outputs[0],
        product: Product { rows: rows as u32, columns: columns as u32, units: units as u32 },
        hidden_units: hidden_units as u32,
        sequences: sequences as u32,
        team: Team { across: across as u32, along: along as u32 },
        k: config.int("k")? as u32,
    };
    Some((shape, form))
}

impl Form {
    /// Rows of W and R for a direction.
    fn rows(self) -> u32 {
        self.kind.gates() * self.hidden
    }

    fn hidden_units_of_cube(self) -> u32 {
        self.hidden_units * self.team.across
    }

    /// A GRU that resets the state after the product adds the state's bias in its last gate before, so that the input's is apart.
    fn bias_apart(self) -> bool {
        self.bias && self.kind == Kind::GruAfter
    }
}

/// What a launch computes of a step.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Whole,
    /// A GRU's update gate and the state as it is reset.
    Gates,
    /// Its state, of these.
    Last,
}

impl Part {
    /// The first gate whose products are added up.
    fn first_gate(self) -> u32 {
        if self == Part::Last { 2 } else { 0 }
    }

    fn gates(self, kind: Kind) -> u32 {
        match self {
            Part::Whole => kind.gates(),
            Part::Gates => 2,
            Part::Last => 1,
        }
    }
}

struct Steps {
    form: Form,
    shape: Shape,
    weights: Weights,
    /// The state or cell before the first step where none is given.
    zeros: Buffer,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let (shape, form) = shape_and_form(task, request.config).ok_or_else(|| refuse(task, &"it names no blocks and teams"))?;
    let zeros = gpu.upload(&vec![0; state_bytes(&shape)]).map_err(|error| refuse(task, &error))?;
    Ok(Box::new(Steps { form, weights: Weights::new(request, gpu, &shape)?, shape, zeros }))
}

/// Of all sequences and directions.
fn state_bytes(shape: &Shape) -> usize {
    shape.directions() * shape.batch * shape.hidden * size_of::<f32>()
}

impl CubeKernel for Steps {
    fn prepared_bytes(&self) -> usize {
        self.weights.bytes() + self.zeros.bytes()
    }

    /// What W makes of the inputs; the state before and after a step; an LSTM's cell before and after, or a GRU's gate and reset state.
    fn scratch_bytes(&self) -> Vec<usize> {
        let states = if self.shape.cell == Cell::GruAfter { 2 } else { 4 };
        let mut bytes = vec![state_bytes(&self.shape); 1 + states];
        bytes[0] = products(&self.shape) * size_of::<f32>();
        bytes
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]) {
        let given = |i: usize| inputs.get(i).cloned().flatten();
        let (w, r, bias) = self.weights.operands(inputs);
        let lens: Vec<Buffer> = given(4).into_iter().collect();
        self.products(gpu, [&given(0).expect("the task has an X"), &w], &bias, &scratch[0]);

        let compute = |part: Part, state: &Buffer, before: &[Buffer], after: &[Buffer], step: usize| {
            self.step(gpu, [&scratch[0], &r, state], [&bias, &lens], [before, after], step, part);
        };
        let y: Vec<Buffer> = outputs.iter().take(usize::from(self.form.y)).cloned().collect();
        let first = |i: usize| given(i).unwrap_or_else(|| self.zeros.clone());
        let (mut h, mut c) = (first(5), first(6));
        for step in 0..self.shape.steps {
            // The last step writes what is asked for.
            let next = |output: usize, pair: usize| {
                let last = step + 1 == self.shape.steps && self.shape.outputs[output];
                if last { outputs[output].clone() } else { scratch[pair + step % 2].clone() }
            };
            let next_h = next(1, 1);
            match self.shape.cell {
                Cell::Lstm => {
                    let next_c = next(2, 3);
                    let after: Vec<Buffer> = [next_h.clone(), next_c.clone()].into_iter().chain(y.clone()).collect();
                    compute(Part::Whole, &h, &[c], &after, step);
                    c = next_c;
                }
                Cell::GruAfter => {
                    let after: Vec<Buffer> = [next_h.clone()].into_iter().chain(y.clone()).collect();
                    compute(Part::Whole, &h, &[], &after, step);
                }
                Cell::Gru => {
                    let (update, reset) = (scratch[3].clone(), scratch[4].clone());
                    compute(Part::Gates, &h, &[], &[update.clone(), reset.clone()], step);
                    let after: Vec<Buffer> = [next_h.clone()].into_iter().chain(y.clone()).collect();
                    compute(Part::Last, &reset, &[h, update], &after, step);
                }
            }
            h = next_h;
        }
    }
}

impl Steps {
    /// What W makes of the inputs of all steps, with the biases.
    fn products(&self, gpu: &Gpu, [x, w]: [&Buffer; 2], bias: &[Buffer], to: &Buffer) {
        let (form, rows) = (self.form, (self.shape.steps * self.shape.batch) as u32);
        let product = form.product;
        let columns = form.rows().div_ceil(product.columns * product.units);
        let count = CubeCount::Static(columns, rows.div_ceil(product.rows), self.shape.directions() as u32);
        // SAFETY: every index is within its operand. Cubes along z are the directions. Rows beyond the inputs and columns beyond the rows
        // of W are computed as the last one and not stored, k is walked once, so x and W are read inside; the biases, two for each column,
        // are read and the results written only where row < rows and column < columns.
        with_client!(gpu, client => unsafe {
            products_of_inputs::launch_unchecked::<f32, _>(
                client,
                count,
                CubeDim::new_1d(product.units),
                x.array(),
                w.array(),
                Buffer::sequence(bias),
                to.array(),
                rows,
                self.shape.input as u32,
                form,
            )
        });
    }

    /// A part of a step.
    fn step(
        &self,
        gpu: &Gpu,
        [products, r, state]: [&Buffer; 3],
        [bias, lens]: [&[Buffer]; 2],
        [before, after]: [&[Buffer]; 2],
        step: usize,
        part: Part,
    ) {
        let (form, shape) = (self.form, &self.shape);
        let bias = if form.bias_apart() { bias } else { &[] };
        let count = CubeCount::Static(
            form.hidden.div_ceil(form.hidden_units_of_cube()),
            (shape.batch as u32).div_ceil(form.sequences),
            shape.directions() as u32,
        );
        // SAFETY: every index is within its operand. Cubes along z are the directions. Hidden units and sequences beyond the last are
        // computed as it, and nothing but R and the state is read and nothing written for them; terms end at the hidden units; lengths are
        // held between 0 and all steps, and so is the time. Before and after a step there are as many states as hidden units of all
        // sequences and directions, and what W made has a row for each time.
        with_client!(gpu, client => unsafe {
            step_of_sequences::launch_unchecked::<f32, _>(
                client,
                count,
                form.team.dim(),
                products.array(),
                r.array(),
                Buffer::sequence(bias),
                Buffer::signed_sequence(lens),
                state.array(),
                Buffer::sequence(before),
                Buffer::sequence(after),
                step as u32,
                shape.steps as u32,
                shape.batch as u32,
                form,
                part,
            )
        });
    }
}

/// `products` is `[d, rows, gates · hidden]`. A unit's rows are neighbours, its columns a cube's width apart, so that units that stand side by
/// side read and write side by side.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn products_of_inputs<F: Float + CubeElement>(
    x: &Array<F>,
    w: &Array<F>,
    bias: &Sequence<Array<F>>,
    products: &mut Array<F>,
    all_rows: u32,
    input: u32,
    #[comptime] form: Form,
) {
    let (all_rows, input) = (uniform::number(all_rows), uniform::number(input));
    let t = comptime!(form.product);
    let width = comptime!(form.rows());
    let direction = CUBE_POS_Z;
    let first_row = CUBE_POS_Y * t.rows;
    let first_column = CUBE_POS_X * comptime!(t.columns * t.units) + UNIT_POS_X;
    let step_w = if comptime!(form.transposed) { u32::new(0) + width } else { 1u32.runtime() };
    let mut rows = Array::<u32>::new(comptime!(t.rows as usize));
    let mut columns = Array::<u32>::new(comptime!(t.columns as usize));
    #[unroll]
    for i in 0..t.rows {
        rows[comptime!(i as usize)] = min(first_row + i, all_rows - 1) * input;
    }
    #[unroll]
    for j in 0..t.columns {
        let column = min(first_column + j * t.units, width - 1);
        columns[comptime!(j as usize)] =
            direction * width * input + if comptime!(form.transposed) { column } else { column * input };
    }
    let mut sums = Array::<F>::new(comptime!((t.rows * t.columns) as usize));
    #[unroll]
    for i in 0..comptime!((t.rows * t.columns) as usize) {
        sums[i] = F::new(0.0);
    }
    for i in 0..input {
        add_step::<F>(x, w, &rows, &columns, i, 1u32.runtime(), step_w, &mut sums, t.rows, t.columns);
    }
    for i in 0..min(t.rows, all_rows - first_row) {
        #[unroll]
        for j in 0..t.columns {
            let column = first_column + j * t.units;
            if column < width {
                let mut sum = pick::<F>(&sums, i, j, t.columns, t.rows);
                if comptime!(form.bias) {
                    let of_input = direction * comptime!(2 * width) + column;
                    sum += bias.index(0usize)[of_input as usize];
                    let of_state = bias.index(0usize)[(of_input + width) as usize];
                    let apart = comptime!(form.bias_apart()) && column >= comptime!(2 * form.hidden);
                    sum += select(apart, F::new(0.0), of_state);
                }
                products[((direction * all_rows + first_row + i) * width + column) as usize] = sum;
            }
        }
    }
}

/// `state` is what R is multiplied with. `before` and `after` are an LSTM's cell, and its state, its cell and Y; of a GRU that resets after the
/// product nothing, and the state and Y; of the two parts of another GRU first nothing, and the update gate and the reset state, then state
/// and gate, and the state and Y. A block's hidden units are a cube's width apart.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn step_of_sequences<F: Float + CubeElement>(
    products: &Array<F>,
    r: &Array<F>,
    bias: &Sequence<Array<F>>,
    lens: &Sequence<Array<i32>>,
    state: &Array<F>,
    before: &Sequence<Array<F>>,
    after: &mut Sequence<Array<F>>,
    step: u32,
    steps: u32,
    batch: u32,
    #[comptime] form: Form,
    #[comptime] part: Part,
) {
    let (step, steps, batch) = (uniform::number(step), uniform::number(steps), uniform::number(batch));
    let (hidden, width, gates) = comptime!((form.hidden, form.rows(), part.gates(form.kind)));
    let direction = CUBE_POS_Z;
    let first_hidden = CUBE_POS_X * comptime!(form.hidden_units_of_cube()) + row_of_unit(form.team);
    let first_sequence = CUBE_POS_Y * form.sequences;

    let step_r = if comptime!(form.transposed) { u32::new(0) + width } else { 1u32.runtime() };
    let mut rows = Array::<u32>::new(comptime!((gates * form.hidden_units) as usize));
    let mut states = Array::<u32>::new(comptime!(form.sequences as usize));
    #[unroll]
    for gate in 0..gates {
        #[unroll]
        for i in 0..form.hidden_units {
            let j = min(first_hidden + i * form.team.across, hidden - 1);
            let row = comptime!((part.first_gate() + gate) * form.hidden) + j;
            rows[comptime!((gate * form.hidden_units + i) as usize)] =
                direction * comptime!(form.rows() * form.hidden) + if comptime!(form.transposed) { row } else { row * hidden };
        }
    }
    #[unroll]
    for s in 0..form.sequences {
        states[comptime!(s as usize)] = (direction * batch + min(first_sequence + s, batch - 1)) * hidden;
    }
    let count = comptime!(gates * form.hidden_units);
    let mut sums = Array::<F>::new(comptime!((count * form.sequences) as usize));
    #[unroll]
    for i in 0..comptime!((count * form.sequences) as usize) {
        sums[i] = F::new(0.0);
    }
    let place = place_of_unit(form.team);
    let stretch = comptime!(form.team.along * form.k);
    for round in 0..comptime!(form.hidden / stretch) {
        #[unroll]
        for d in 0..form.k {
            let term = round * stretch + comptime!(d * form.team.along) + place;
            add_step::<F>(r, state, &rows, &states, term, step_r, 1u32.runtime(), &mut sums, count, form.sequences);
        }
    }
    for term in range_stepped(comptime!(form.hidden / stretch * stretch) + place, hidden, form.team.along) {
        add_step::<F>(r, state, &rows, &states, term, step_r, 1u32.runtime(), &mut sums, count, form.sequences);
    }
    fold_sums::<F>(&mut sums, comptime!(count * form.sequences), form.team);

    let mut sequences = min(form.sequences, batch - first_sequence);
    if comptime!(form.team.along > 1) {
        sequences = select(place == 0, sequences, u32::new(0));
    }
    for s in 0..sequences {
        let sequence = first_sequence + s;
        let len = steps_of(lens, sequence, steps, form.lens);
        let runs = step < len;
        let backwards = comptime!(form.backwards) || direction == 1;
        let time = select(runs && backwards, len - 1 - step, step);
        #[unroll]
        for i in 0..form.hidden_units {
            let j = first_hidden + i * form.team.across;
            if j < hidden {
                let at = ((direction * batch + sequence) * hidden + j) as usize;
                let of_products = ((direction * steps + time) * batch + sequence) * width + j;
                let mut of_input = Array::<F>::new(comptime!(gates as usize));
                let mut of_state = Array::<F>::new(comptime!(gates as usize));
                #[unroll]
                for gate in 0..gates {
                    let shift = comptime!((part.first_gate() + gate) * form.hidden);
                    of_input[comptime!(gate as usize)] = products[(of_products + shift) as usize];
                    let first = comptime!((gate * form.hidden_units + i) * form.sequences);
                    of_state[comptime!(gate as usize)] = pick::<F>(&sums, s, first, 1u32, form.sequences);
                }
                let mut new = F::new(0.0);
                if comptime!(part == Part::Gates) {
                    after.index_mut(0usize)[at] = sigmoid::<F>(of_input[0] + of_state[0]);
                    after.index_mut(1usize)[at] = sigmoid::<F>(of_input[1] + of_state[1]) * state[at];
                } else if comptime!(form.kind == Kind::Lstm) {
                    let old = before.index(0usize)[at];
                    let cell =
                        cell_of_lstm::<F>(of_input[0] + of_state[0], of_input[2] + of_state[2], of_input[3] + of_state[3], old);
                    new = state_of_lstm::<F>(of_input[1] + of_state[1], cell);
                    after.index_mut(1usize)[at] = select(runs, cell, old);
                } else if comptime!(part == Part::Last) {
                    new = state_of_gru::<F>(before.index(1usize)[at], of_input[0] + of_state[0], before.index(0usize)[at]);
                } else {
                    let (update, reset) = (sigmoid::<F>(of_input[0] + of_state[0]), sigmoid::<F>(of_input[1] + of_state[1]));
                    let mut inner = of_state[2];
                    if comptime!(form.bias_apart()) {
                        inner += bias.index(0usize)
                            [(direction * comptime!(2 * form.rows()) + width + comptime!(2 * form.hidden) + j) as usize];
                    }
                    new = state_of_gru::<F>(update, of_input[2] + reset * inner, state[at]);
                }
                if comptime!(part != Part::Gates) {
                    let mut kept = new;
                    if comptime!(form.lens) {
                        // A sequence that has ended keeps its state, and has zeros in Y.
                        let old = if comptime!(part == Part::Last) { before.index(0usize)[at] } else { state[at] };
                        kept = select(runs, new, old);
                        new = select(runs, new, F::new(0.0));
                    }
                    after.index_mut(0usize)[at] = kept;
                    if comptime!(form.y) {
                        let of_y = ((time * CUBE_COUNT_Z + direction) * batch + sequence) * hidden + j;
                        after.index_mut(comptime!(if form.kind == Kind::Lstm { 2usize } else { 1usize }))[of_y as usize] = new;
                    }
                }
            }
        }
    }
}
