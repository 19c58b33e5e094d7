//! What LSTM and GRU share: sequences, directions, states, packed weights.
//!
//! Both read `X [t, n, i]`, `W [d, g·h, i]`, `R [d, g·h, h]`, `B [d, 2·g·h]`, `sequence_lens [n]` (i32), `initial_h [d, n, h]` and, LSTM
//! only, `initial_c`, and write `Y [t, d, n, h]`, `Y_h [d, n, h]` and, LSTM only, `Y_c`: ONNX's order of inputs, of outputs and of
//! gates (`iofc`, `zrh`), all f32 in rows, time first. Functions are the default ones (sigmoid, tanh, tanh); no peepholes, no clipping.
//!
//! **Attributes**: `direction` (`forward`, `reverse`, `bidirectional`), GRU also `linear_before_reset`. Absent inputs and outputs are
//! those the node lacks. **Task**: `t` `n` `i` `h`, `direction`, `w=const` where W, R and B are constant, `bias`, `lens`, `h0`, `c0` as
//! 1 where they are there, `outputs` as a list of 0 and 1, `linear_before_reset`.

mod cell;
mod host_dots;
mod host_packed;
pub(crate) mod reference;
mod weights;

pub(crate) use host_dots::{GRU_DOTS, LSTM_DOTS};
pub(crate) use host_packed::{GRU_PACKED, LSTM_PACKED};

use crate::layout::{BLOCK, Layout};
use crate::{BuildError, Facts, Fill, OperandSpec, Param, Signature, Task};
use schema::DType;

/// Which cell.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Lstm,
    /// The reset gate is applied before the product with `R`.
    Gru,
    /// The reset gate is applied after it (`linear_before_reset`).
    GruAfter,
}

impl Cell {
    /// Rows of the weights for each hidden unit.
    pub fn gates(self) -> usize {
        if self == Cell::Lstm { 4 } else { 3 }
    }
}

/// A task as numbers.
#[derive(Clone, Debug)]
pub struct Shape {
    pub cell: Cell,
    pub steps: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    /// For each direction whether it runs backwards.
    pub reversed: Vec<bool>,
    pub constant: bool,
    pub bias: bool,
    pub lens: bool,
    pub initial_h: bool,
    pub initial_c: bool,
    /// Which outputs are asked for.
    pub outputs: [bool; 3],
}

/// The task of a node.
pub(crate) fn task(operator: &str, facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new(operator);
    let (x, w, r) = (facts.input(operator, 0)?, facts.input(operator, 1)?, facts.input(operator, 2)?);
    let ([t, n, i], [directions, rows, width], [_, _, h]) = (&x.shape[..], &w.shape[..], &r.shape[..]) else {
        return Err(bare.refused("X, W and R have three axes"));
    };
    let direction = facts.attributes.string("direction").unwrap_or("forward");
    let mut task = bare.with_int("t", *t).with_int("n", *n).with_int("i", *i).with_int("h", *h).with_word("direction", direction);
    let b = facts.optional(3);
    if w.constant && r.constant && b.is_none_or(|b| b.constant) {
        task = task.with_word("w", "const");
    }
    for (index, name) in [(3, "bias"), (4, "lens"), (5, "h0"), (6, "c0")] {
        if facts.optional(index).is_some() {
            task = task.with_int(name, 1);
        }
    }
    if facts.optional(7).is_some() {
        return Err(task.refused("peepholes have no kernels"));
    }
    if facts.attributes.int("linear_before_reset").unwrap_or(0) != 0 {
        task = task.with_int("linear_before_reset", 1);
    }
    let outputs: Vec<usize> = (0..3).map(|index| usize::from(facts.outputs.get(index).is_some_and(Option::is_some))).collect();
    let task = task.with_ints("outputs", &outputs);
    let shape = Shape::of(&task)?;
    let fits = *directions == shape.reversed.len() && *rows == shape.cell.gates() * h && width == i;
    let floats = facts.inputs.iter().enumerate().all(|(index, operand)| {
        let want = if index == 4 { DType::I32 } else { DType::F32 };
        operand.as_ref().is_none_or(|operand| operand.dtype == want && operand.layout == Layout::Rows)
    });
    if !fits || !floats {
        return Err(task.refused("the operands do not fit"));
    }
    Ok(task)
}

impl Shape {
    /// Reads a task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let dim = |name: &str| match task.get(name) {
            Some(Param::Int(value)) if (1..1 << 24).contains(value) => Ok(*value as usize),
            _ => Err(task.refused(format!("'{name}' is no extent"))),
        };
        let cell = match (task.operator(), task.int("linear_before_reset")) {
            ("lstm", _) => Cell::Lstm,
            (_, 1) => Cell::GruAfter,
            _ => Cell::Gru,
        };
        let reversed = match task.word("direction") {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(task.refused(format!("'direction' is '{other}'"))),
        };
        let has = |name: &str| task.int(name) == 1;
        let outputs = task.ints("outputs");
        let outputs = [0, 1, 2].map(|index| outputs.get(index) == Some(&1));
        let shape = Shape {
            cell,
            steps: dim("t")?,
            batch: dim("n")?,
            input: dim("i")?,
            hidden: dim("h")?,
            reversed,
            constant: task.word("w") == "const",
            bias: has("bias"),
            lens: has("lens"),
            initial_h: has("h0"),
            initial_c: has("c0"),
            outputs,
        };
        let largest = [shape.steps * shape.batch, shape.padded() * 4, shape.batch].into_iter().max().unwrap_or(0);
        if (largest as u64) * (shape.input.max(shape.padded() * 4) as u64) >= 1 << 31 {
            return Err(task.refused("the sequence is too large for 32-bit offsets"));
        }
        if cell != Cell::Lstm && (shape.initial_c || shape.outputs[2]) {
            return Err(task.refused("a GRU has no cell state"));
        }
        Ok(shape)
    }

    /// Hidden units up to a whole block.
    pub(crate) fn padded(&self) -> usize {
        self.hidden.next_multiple_of(BLOCK)
    }

    /// One or two.
    pub fn directions(&self) -> usize {
        self.reversed.len()
    }

    /// What goes in and out.
    pub fn signature(&self) -> Signature {
        let (t, n, i, h, d) = (self.steps, self.batch, self.input, self.hidden, self.directions());
        let rows = self.cell.gates() * h;
        let there = |there: bool, shape: Vec<usize>| if there { shape } else { vec![0] };
        let weight = |name, shape: Vec<usize>| OperandSpec {
            constant: self.constant,
            fill: Fill::Scaled(h),
            ..OperandSpec::f32(name, shape)
        };
        let lens = OperandSpec {
            dtype: DType::I32,
            fill: Fill::Whole(t + 1),
            ..OperandSpec::f32("sequence_lens", there(self.lens, vec![n]))
        };
        let mut inputs = vec![
            OperandSpec::f32("X", vec![t, n, i]),
            weight("W", vec![d, rows, i]),
            weight("R", vec![d, rows, h]),
            weight("B", there(self.bias, vec![d, 2 * rows])),
            lens,
            OperandSpec::f32("initial_h", there(self.initial_h, vec![d, n, h])),
        ];
        let mut outputs = vec![
            OperandSpec::f32("Y", there(self.outputs[0], vec![t, d, n, h])),
            OperandSpec::f32("Y_h", there(self.outputs[1], vec![d, n, h])),
        ];
        if self.cell == Cell::Lstm {
            inputs.push(OperandSpec::f32("initial_c", there(self.initial_c, vec![d, n, h])));
            outputs.push(OperandSpec::f32("Y_c", there(self.outputs[2], vec![d, n, h])));
        }
        Signature { inputs, outputs }
    }
}

pub(crate) fn signature(task: &Task) -> Result<Signature, BuildError> {
    Ok(Shape::of(task)?.signature())
}

/// Two per multiply-add of the products, and about 30 per unit and step for the gates.
pub(crate) fn flops(task: &Task) -> u64 {
    Shape::of(task).map_or(0, |s| {
        let per_step = 2 * s.cell.gates() * s.hidden * (s.input + s.hidden) + 30 * s.hidden;
        (s.directions() * s.steps * s.batch * per_step) as u64
    })
}

pub(crate) fn bytes(task: &Task) -> u64 {
    signature(task).map_or(0, |s| s.inputs.iter().chain(&s.outputs).map(|spec| spec.bytes() as u64).sum())
}
