//! The parameters of a gemm task, checked.

use super::refuse;
use crate::epilogue::Epilogue;
use crate::rows;
use crate::{BuildError, Facts, Layout, OperandSpec, Signature, Task};
use schema::DType;

/// A gemm task as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batch_a: Vec<usize>,
    pub batch_b: Vec<usize>,
    pub trans_a: bool,
    pub trans_b: bool,
    pub a: Layout,
    pub c: Layout,
    pub b_constant: bool,
    pub alpha: f32,
    pub epilogue: Epilogue,
}

/// The greatest number of elements of an operand: offsets are 32 bits wide.
const ELEMENTS_MAX: usize = u32::MAX as usize;

impl Shape {
    /// Reads a task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        for name in ["m", "n", "k"] {
            if task.int(name) == 0 {
                return Err(refuse(task, format!("parameter '{name}' must be at least 1")));
            }
        }
        let layout = |name: &str| match task.word(name) {
            "" | "rows" => Ok(Layout::Rows),
            "columns16" => Ok(Layout::Columns),
            other => Err(refuse(task, format!("layout '{other}' of '{name}' is neither rows nor columns16"))),
        };
        let shape = Shape {
            m: task.int("m"),
            n: task.int("n"),
            k: task.int("k"),
            batch_a: task.ints("batch_a"),
            batch_b: task.ints("batch_b"),
            trans_a: task.int("trans_a") == 1,
            trans_b: task.int("trans_b") == 1,
            a: layout("a")?,
            c: layout("c")?,
            b_constant: match task.word("b") {
                "const" => true,
                "" | "dynamic" => false,
                other => return Err(refuse(task, format!("'b' is const or dynamic and not '{other}'"))),
            },
            alpha: match task.get("alpha") {
                None => 1.0,
                Some(crate::Param::Int(alpha)) => *alpha as f32,
                Some(_) => task.word("alpha").parse().map_err(|_| refuse(task, "'alpha' is no number"))?,
            },
            epilogue: match task.word("epilogue") {
                "" => Epilogue::default(),
                text => Epilogue::parse(text).ok_or_else(|| refuse(task, "'epilogue' is not one"))?,
            },
        };
        let broadcast = shape.batch_a.iter().zip(&shape.batch_b).all(|(&a, &b)| a > 0 && b > 0 && (a == b || a == 1 || b == 1));
        if shape.batch_a.len() != shape.batch_b.len() || !broadcast {
            return Err(refuse(task, "'batch_a' and 'batch_b' do not broadcast"));
        }
        if shape.trans_a && shape.a != Layout::Rows {
            return Err(refuse(task, "a transposed A must lie in rows"));
        }
        let count = |batch: &[usize], rows: usize, columns: usize| {
            let padded = columns.checked_next_multiple_of(16)?;
            batch.iter().try_fold(rows.checked_mul(padded)?, |size, &axis| size.checked_mul(axis))
        };
        let counts = [
            count(&shape.batch_a, shape.m, shape.k),
            count(&shape.batch_a, shape.k, shape.m),
            count(&shape.batch_b, shape.k, shape.n),
            count(&shape.batch_b, shape.n, shape.k),
            count(&shape.batch_c(), shape.m, shape.n),
        ];
        if counts.iter().any(|count| count.is_none_or(|count| count > ELEMENTS_MAX)) {
            return Err(refuse(task, "an operand has 2³² elements or more"));
        }
        Ok(shape)
    }

    /// The axes of C before the last two.
    pub fn batch_c(&self) -> Vec<usize> {
        self.batch_a.iter().zip(&self.batch_b).map(|(&a, &b)| a.max(b)).collect()
    }

    /// The number of products.
    pub fn batch(&self) -> usize {
        self.batch_c().iter().product()
    }

    /// For each product, in order, which matrix of A and which of B it takes.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let axes = self.batch_c();
        let index = |at: usize, batch: &[usize]| {
            let (mut at, mut place, mut stride) = (at, 0, 1);
            for (&axis, &own) in axes.iter().zip(batch).rev() {
                if own > 1 {
                    place += at % axis * stride;
                    stride *= own;
                }
                at /= axis;
            }
            place
        };
        (0..self.batch()).map(|at| (index(at, &self.batch_a), index(at, &self.batch_b))).collect()
    }

    /// The same products with the batch folded into `m`, where A and C lie so that it makes no difference: one B for all.
    pub fn folded(mut self) -> Self {
        let rows = self.a == Layout::Rows && self.c == Layout::Rows && !self.trans_a;
        let all_of_a = self.batch_a == self.batch_c();
        if rows && all_of_a && self.batch_b.iter().all(|&axis| axis == 1) {
            self.m *= self.batch();
            self.batch_a.clear();
            self.batch_b.clear();
        }
        self
    }

    /// What goes in and out.
    pub fn signature(&self) -> Signature {
        let matrix = |batch: &[usize], rows: usize, columns: usize| [batch, &[rows, columns]].concat();
        let (ar, ac) = if self.trans_a { (self.k, self.m) } else { (self.m, self.k) };
        let (br, bc) = if self.trans_b { (self.n, self.k) } else { (self.k, self.n) };
        let constant = |spec: OperandSpec| OperandSpec { constant: self.b_constant, ..spec };
        let c = OperandSpec::f32("c", matrix(&self.batch_c(), self.m, self.n)).in_layout(self.c);
        let mut inputs = vec![
            OperandSpec::f32("a", matrix(&self.batch_a, ar, ac)).in_layout(self.a),
            constant(OperandSpec::f32("b", matrix(&self.batch_b, br, bc))),
        ];
        push_epilogue(&mut inputs, &self.epilogue, self.n, self.b_constant, &c);
        Signature { inputs, outputs: vec![c] }
    }
}

/// Adds the operands of an epilogue: a bias of `channels`, and a residual like `output`.
pub fn push_epilogue(inputs: &mut Vec<OperandSpec>, epilogue: &Epilogue, channels: usize, constant: bool, output: &OperandSpec) {
    let bias = OperandSpec { constant, ..OperandSpec::f32("bias", vec![channels]) };
    if epilogue.bias {
        inputs.push(bias);
    } else if epilogue.residual {
        inputs.push(OperandSpec { constant: false, shape: vec![0], ..bias });
    }
    if epilogue.residual {
        inputs.push(OperandSpec { name: "residual", ..output.clone() });
    }
}

/// The task of a node: attributes `epilogue`, `alpha`, `trans_a`, `trans_b`, inputs A and B of at least two axes.
pub fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("gemm");
    let operand = |i: usize, name: &str| {
        facts.inputs.get(i).and_then(Option::as_ref).ok_or_else(|| refuse(&bare, format!("operand '{name}' is missing")))
    };
    let (a, b) = (operand(0, "a")?, operand(1, "b")?);
    let c = facts.outputs.first().and_then(Option::as_ref).ok_or_else(|| refuse(&bare, "there is no result"))?;
    let flag = |name: &str| usize::from(facts.attributes.int(name).unwrap_or(0) != 0);
    let (trans_a, trans_b) = (flag("trans_a"), flag("trans_b"));
    let (&[ref batch_a @ .., ar, ac], &[ref batch_b @ .., br, bc]) = (&a.shape[..], &b.shape[..]) else {
        return Err(refuse(&bare, "both operands need two axes"));
    };
    let (m, k) = if trans_a == 1 { (ac, ar) } else { (ar, ac) };
    let (k_of_b, n) = if trans_b == 1 { (bc, br) } else { (br, bc) };
    if k != k_of_b {
        return Err(refuse(&bare, format!("A has {k} columns and B {k_of_b} rows")));
    }
    for operand in [a, b, c] {
        if operand.dtype != DType::F32 {
            return Err(refuse(&bare, format!("operands of type {} have no kernel", operand.dtype)));
        }
    }
    let rank = batch_a.len().max(batch_b.len());
    let lead = |batch: &[usize]| [&vec![1; rank - batch.len()][..], batch].concat();
    let mut task = bare
        .with_int("m", m)
        .with_int("n", n)
        .with_int("k", k)
        .with_int("trans_a", trans_a)
        .with_int("trans_b", trans_b)
        .with_word("a", a.layout)
        .with_word("c", c.layout)
        .with_word("b", if b.constant { "const" } else { "dynamic" })
        .with_word("epilogue", facts.attributes.string("epilogue").unwrap_or("none"));
    if rank > 0 {
        task = task.with_ints("batch_a", &lead(batch_a)).with_ints("batch_b", &lead(batch_b));
    }
    if let Some(alpha) = facts.attributes.float("alpha").filter(|&alpha| alpha != 1.0) {
        task = task.with_word("alpha", alpha);
    }
    Shape::of(&task)?;
    Ok(task)
}

/// The rows of A and C, or their first batch axis.
pub fn row_wise(facts: &Facts<'_>, varies: &[bool]) -> bool {
    let Some(Some(c)) = facts.outputs.first() else { return false };
    let along = |input| rows::along(facts, varies, input);
    let bias_varies = varies.get(2) == Some(&true);
    if c.shape.len() > 2 {
        return along(0) && along(1) && along(3) && !bias_varies;
    }
    rows::only(varies, 0, &[3]) && facts.attributes.int("trans_a").unwrap_or(0) == 0
}

impl Signature {
    /// Bytes of all operands together.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().chain(&self.outputs).map(OperandSpec::bytes).sum()
    }
}
