//! A cube for each sequence and direction, from its first step to its last in one launch: the states stay in shared memory, and the units
//! share the hidden units out.

use super::cell::{Kind, Weights, cell_of_lstm, state_of_gru, state_of_lstm, steps_of};
use crate::epilogue::sigmoid;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{IN_ROWS, UNIT_KNOBS, UNITS, units_of};
use crate::turns::{allowed, looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::lstm::{Cell, Shape};
use kernels::{BuildError, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static LSTM: CubeVariant = CubeVariant {
    id: "lstm.cube_sequence",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[
        IN_ROWS,
        UNITS,
        Rule {
            reason: "the states of a sequence do not fit into the memory of a cube",
            holds: |task, _, limits| {
                let fits =
                    |(shape, gpu): (Shape, kernels::GpuLimits)| 3 * shape.hidden * size_of::<f32>() <= gpu.shared_bytes as usize;
                Shape::of(task).ok().zip(limits.gpu).is_some_and(fits)
            },
        },
        turns_end!(turns),
        Rule {
            reason: "more sequences than cubes of one launch",
            holds: |task, _, limits| {
                Shape::of(task).ok().zip(limits.gpu).is_some_and(|(shape, gpu)| shape.batch <= gpu.cubes_per_axis as usize)
            },
        },
    ],
    default,
    build,
};

pub static GRU: CubeVariant = CubeVariant { id: "gru.cube_sequence", ..LSTM };

/// 128 units, or 256 where only these are done before the driver ends their loops. With 64 a Hopper's compiler keeps 32 registers a unit
/// and spills (docs/measurements/sm90.md).
fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let ends = |units: usize| Shape::of(task).is_ok_and(|shape| allowed(Some(turns_of(&shape, units)), limits));
    vec![KnobValue::Int(if !ends(128) && ends(256) { 256 } else { 128 })]
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(turns_of(&Shape::of(task).ok()?, units_of(config).max(1) as usize))
}

fn turns_of(shape: &Shape, units: usize) -> usize {
    let rounds = shape.hidden.div_ceil(units);
    let gates = looped(shape.input, 0) + looped(shape.hidden, 0);
    // The last gate of a GRU whose state is reset first is computed apart.
    let last_gate = if shape.cell == Cell::Gru { gates } else { 0 };
    let step = looped(rounds, gates) + looped(rounds, last_gate);
    // Before the first step the states are read, behind the last they are written, with a zero for each step that a sequence lacks.
    looped(rounds, 0) + looped(shape.steps, step) + looped(rounds, looped(0, 0))
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    kind: Kind,
    hidden: u32,
    units: u32,
    /// Of the first direction; a second one runs backwards.
    backwards: bool,
    /// Weights were transposed when they were prepared, so that neighbours read neighbours.
    transposed: bool,
    bias: bool,
    lens: bool,
    initial_h: bool,
    initial_c: bool,
    /// Which outputs are asked for.
    outputs: (bool, bool, bool),
}

impl Form {
    fn gates(&self) -> u32 {
        self.kind.gates()
    }

    /// Those whose product with the state needs nothing but the state.
    fn gates_of_state(&self) -> u32 {
        if self.kind == Kind::Gru { 2 } else { self.gates() }
    }

    /// The sum that the state's part of a gate goes to.
    fn slot_of_state(&self, gate: u32) -> usize {
        if self.kind != Kind::Lstm && gate == 2 { 3 } else { gate as usize }
    }
}

struct Sequences {
    form: Form,
    shape: Shape,
    weights: Weights,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let shape = Shape::of(request.task)?;
    let form = Form {
        kind: shape.cell.into(),
        hidden: shape.hidden as u32,
        units: units_of(request.config),
        backwards: shape.reversed[0],
        transposed: shape.constant,
        bias: shape.bias,
        lens: shape.lens,
        initial_h: shape.initial_h,
        initial_c: shape.initial_c,
        outputs: (shape.outputs[0], shape.outputs[1], shape.outputs[2]),
    };
    Ok(Box::new(Sequences { form, weights: Weights::new(request, gpu, &shape)?, shape }))
}

impl CubeKernel for Sequences {
    fn prepared_bytes(&self) -> usize {
        self.weights.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let given = |i: usize| inputs.get(i).cloned().flatten();
        let x = given(0).expect("the task has an X");
        let (w, r, bias) = self.weights.operands(inputs);
        let lens: Vec<Buffer> = given(4).into_iter().collect();
        let initial: Vec<Buffer> = given(5).into_iter().chain(given(6)).collect();
        let asked: Vec<Buffer> =
            outputs.iter().zip(self.shape.outputs).filter(|(_, asked)| *asked).map(|(y, _)| y.clone()).collect();
        with_client!(gpu, client => sequences::launch::<f32, _>(
            client,
            CubeCount::Static(self.shape.batch as u32, self.shape.directions() as u32, 1),
            CubeDim::new_1d(self.form.units),
            x.array(),
            w.array(),
            r.array(),
            Buffer::sequence(&bias),
            Buffer::signed_sequence(&lens),
            Buffer::sequence(&initial),
            Buffer::sequence(&asked),
            self.shape.steps as u32,
            self.shape.batch as u32,
            self.shape.input as u32,
            self.form,
        ));
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn sequences<F: Float>(
    x: &Array<F>,
    w: &Array<F>,
    r: &Array<F>,
    bias: &Sequence<Array<F>>,
    lens: &Sequence<Array<i32>>,
    initial: &Sequence<Array<F>>,
    outputs: &mut Sequence<Array<F>>,
    steps: u32,
    batch: u32,
    input: u32,
    #[comptime] form: Form,
) {
    let (steps, batch, input) = (uniform::number(steps), uniform::number(batch), uniform::number(input));
    let hidden = comptime!(form.hidden);
    let rounds = comptime!(form.hidden.div_ceil(form.units));
    let (sequence, direction) = (CUBE_POS_X, CUBE_POS_Y);
    let directions = CUBE_COUNT_Y;
    // The state, what becomes of it in a step, and an LSTM's cells or a GRU's update gate.
    let mut h = SharedMemory::<F>::new(comptime!(form.hidden as usize));
    let mut next = SharedMemory::<F>::new(comptime!(form.hidden as usize));
    let mut c = SharedMemory::<F>::new(comptime!(form.hidden as usize));
    let of_state = (direction * batch + sequence) * hidden;
    for round in 0..rounds {
        let j = round * form.units + UNIT_POS;
        if j < hidden {
            let (mut first_h, mut first_c) = (F::new(0.0), F::new(0.0));
            if comptime!(form.initial_h) {
                first_h = initial.index(0usize)[(of_state + j) as usize];
            }
            if comptime!(form.initial_c) {
                first_c = initial.index(comptime!(usize::from(form.initial_h)))[(of_state + j) as usize];
            }
            h[j as usize] = first_h;
            c[j as usize] = first_c;
        }
    }
    sync_cube();
    let len = steps_of(lens, sequence, steps, form.lens);
    let backwards = comptime!(form.backwards) || direction == 1;

    // The same for all units of a cube.
    for step in 0..len {
        let time = select(backwards, len - 1 - step, step);
        let of_x = (time * batch + sequence) * input;
        for round in 0..rounds {
            let j = round * form.units + UNIT_POS;
            if j < hidden {
                let mut sums = biases::<F>(bias, direction, j, form);
                add_input::<F>(&mut sums, x, w, direction, of_x, input, j, 0u32, comptime!(form.gates()), form);
                add_state::<F>(&mut sums, r, &h, direction, j, 0u32, comptime!(form.gates_of_state()), form);
                if comptime!(form.kind == Kind::Lstm) {
                    let cell = cell_of_lstm::<F>(sums[0], sums[2], sums[3], c[j as usize]);
                    c[j as usize] = cell;
                    next[j as usize] = state_of_lstm::<F>(sums[1], cell);
                } else {
                    let (z, reset) = (sigmoid::<F>(sums[0]), sigmoid::<F>(sums[1]));
                    if comptime!(form.kind == Kind::Gru) {
                        c[j as usize] = z;
                        next[j as usize] = reset * h[j as usize];
                    } else {
                        next[j as usize] = state_of_gru::<F>(z, sums[2] + reset * sums[3], h[j as usize]);
                    }
                }
            }
        }
        sync_cube();
        for round in 0..rounds {
            let j = round * form.units + UNIT_POS;
            if j < hidden {
                let mut new = next[j as usize];
                if comptime!(form.kind == Kind::Gru) {
                    // The reset state stands where the others have the next one.
                    let mut sums = biases::<F>(bias, direction, j, form);
                    add_input::<F>(&mut sums, x, w, direction, of_x, input, j, 2u32, 3u32, form);
                    add_state::<F>(&mut sums, r, &next, direction, j, 2u32, 3u32, form);
                    new = state_of_gru::<F>(c[j as usize], sums[2] + sums[3], h[j as usize]);
                }
                h[j as usize] = new;
                if comptime!(form.outputs.0) {
                    outputs.index_mut(0usize)[(((time * directions + direction) * batch + sequence) * hidden + j) as usize] = new;
                }
            }
        }
        sync_cube();
    }
    for round in 0..rounds {
        let j = round * form.units + UNIT_POS;
        if j < hidden {
            if comptime!(form.outputs.0) {
                for time in len..steps {
                    outputs.index_mut(0usize)[(((time * directions + direction) * batch + sequence) * hidden + j) as usize] =
                        F::new(0.0);
                }
            }
            if comptime!(form.outputs.1) {
                outputs.index_mut(comptime!(usize::from(form.outputs.0)))[(of_state + j) as usize] = h[j as usize];
            }
            if comptime!(form.outputs.2) {
                let place = comptime!(usize::from(form.outputs.0) + usize::from(form.outputs.1));
                outputs.index_mut(place)[(of_state + j) as usize] = c[j as usize];
            }
        }
    }
}

/// The sums of a hidden unit's gates before anything is added: its biases. A GRU's last gate has two, of the input and of the state.
#[cube]
fn biases<F: Float>(bias: &Sequence<Array<F>>, direction: u32, j: u32, #[comptime] form: Form) -> Array<F> {
    let mut sums = Array::<F>::new(4usize);
    #[unroll]
    for slot in 0..4usize {
        sums[slot] = F::new(0.0);
    }
    if comptime!(form.bias) {
        let first = direction * comptime!(2 * form.gates() * form.hidden) + j;
        #[unroll]
        for gate in 0..comptime!(form.gates()) {
            sums[comptime!(gate as usize)] = bias.index(0usize)[(first + comptime!(gate * form.hidden)) as usize];
            sums[comptime!(form.slot_of_state(gate))] +=
                bias.index(0usize)[(first + comptime!((form.gates() + gate) * form.hidden)) as usize];
        }
    }
    sums
}

/// Adds what W makes of the input for some gates of a hidden unit.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what the kernel was launched with")]
fn add_input<F: Float>(
    sums: &mut Array<F>,
    x: &Array<F>,
    w: &Array<F>,
    direction: u32,
    of_x: u32,
    input: u32,
    j: u32,
    #[comptime] from: u32,
    #[comptime] to: u32,
    #[comptime] form: Form,
) {
    let rows = comptime!(form.gates() * form.hidden);
    let first = direction * rows * input;
    for i in 0..input {
        let value = x[(of_x + i) as usize];
        #[unroll]
        for gate in from..to {
            let row = comptime!(gate * form.hidden) + j;
            let at = if comptime!(form.transposed) { i * rows + row } else { row * input + i };
            sums[comptime!(gate as usize)] += value * w[(first + at) as usize];
        }
    }
}

/// Adds what R makes of the state for some gates of a hidden unit.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what the kernel was launched with")]
fn add_state<F: Float>(
    sums: &mut Array<F>,
    r: &Array<F>,
    h: &SharedMemory<F>,
    direction: u32,
    j: u32,
    #[comptime] from: u32,
    #[comptime] to: u32,
    #[comptime] form: Form,
) {
    let rows = comptime!(form.gates() * form.hidden);
    let first = direction * comptime!(form.gates() * form.hidden * form.hidden);
    for i in 0..form.hidden {
        let value = h[i as usize];
        #[unroll]
        for gate in from..to {
            let row = comptime!(gate * form.hidden) + j;
            let at = if comptime!(form.transposed) { i * rows + row } else { row * form.hidden + i };
            sums[comptime!(form.slot_of_state(gate))] += value * r[(first + at) as usize];
        }
    }
}
