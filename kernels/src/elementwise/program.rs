//! An expression as straight-line steps over tiles.
//!
//! Tiles are of two classes: f32, and i64 for every other type (truth is 0 and 1). A slot names an input, a constant or a temporary
//! of one class; every step writes a temporary that is none of its sources.

use super::expression::{Expression, Function, Kind};
use schema::DType;

/// The most slots of one class.
pub const SLOTS_MAX: usize = 32;

/// What a step does. The classes of its sources and its result follow from it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Op {
    /// f32 → f32
    Float(Function),
    /// `a · b + c` on f32
    MulAdd,
    /// i64 → i64
    Whole(Function),
    /// f32, f32 → truth
    CompareFloat(Function),
    /// i64, i64 → truth
    CompareWhole(Function),
    /// truth → truth
    Logic(Function),
    /// truth, f32, f32 → f32
    ChooseFloat,
    /// truth, i64, i64 → i64
    ChooseWhole,
    /// i64 → f32
    ToFloat,
    /// f32 → i64
    ToWhole,
    /// f32 → truth
    FloatToTruth,
    /// i64 → truth
    WholeToTruth,
    /// i64 → i64 as if it had been i32
    Wrap32,
}

/// The class of a tile.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Class {
    Float,
    Whole,
}

/// One step. Unused sources repeat the first.
#[derive(Copy, Clone, Debug)]
pub struct Step {
    pub op: Op,
    pub to: usize,
    pub from: [usize; 3],
}

/// The slots of one class: inputs, then constants, then temporaries.
#[derive(Clone, Debug)]
pub struct Slots<T> {
    /// Input indices.
    pub inputs: Vec<usize>,
    pub constants: Vec<T>,
    pub temporaries: usize,
}

impl<T> Slots<T> {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.inputs.len() + self.constants.len() + self.temporaries
    }
}

/// Steps that compute an expression.
#[derive(Clone, Debug)]
pub struct Program {
    pub floats: Slots<f32>,
    pub wholes: Slots<i64>,
    pub steps: Vec<Step>,
    /// Where the result is when the steps are done.
    pub result: (Class, usize),
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Input(usize),
    Float(u32),
    Whole(i64),
    Op(Op, Vec<usize>),
}

/// Values in the order they are computed, each once.
struct Builder<'a> {
    inputs: &'a [DType],
    nodes: Vec<(Node, DType)>,
}

impl Program {
    /// The steps of an expression over inputs of these types; the error says why there are none.
    pub fn compile(expression: &Expression, inputs: &[DType]) -> Result<Self, String> {
        let dtype = expression.dtype(inputs)?.ok_or("the expression is a bare number")?;
        let mut builder = Builder { inputs, nodes: Vec::new() };
        let root = builder.lower(expression, dtype)?;
        builder.assign(root)
    }
}

fn class(dtype: DType) -> Class {
    if dtype == DType::F32 { Class::Float } else { Class::Whole }
}

impl Op {
    fn result(self) -> Class {
        match self {
            Op::Float(_) | Op::MulAdd | Op::ChooseFloat | Op::ToFloat => Class::Float,
            _ => Class::Whole,
        }
    }
}

impl Builder<'_> {
    fn push(&mut self, node: Node, dtype: DType) -> usize {
        if let Some(found) = self.nodes.iter().position(|known| known.0 == node && known.1 == dtype) {
            return found;
        }
        self.nodes.push((node, dtype));
        self.nodes.len() - 1
    }

    /// The value of an expression; `wanted` is the type of a bare number.
    fn lower(&mut self, expression: &Expression, wanted: DType) -> Result<usize, String> {
        match expression {
            Expression::Input(input) => Ok(self.push(Node::Input(*input), self.inputs[*input])),
            Expression::Number(number) => Ok(match class(wanted) {
                Class::Float => self.push(Node::Float(number.to_bits()), DType::F32),
                Class::Whole => self.push(Node::Whole(*number as i64), wanted),
            }),
            Expression::Cast(x, to) => self.cast(x, *to),
            Expression::Call(function, arguments) => self.call(*function, arguments, wanted),
        }
    }

    fn cast(&mut self, x: &Expression, to: DType) -> Result<usize, String> {
        let from = x.dtype(self.inputs)?.unwrap_or(DType::F32);
        let x = self.lower(x, from)?;
        if from == to {
            return Ok(x);
        }
        let op = match (class(from), to) {
            (Class::Float, DType::Bool) => Op::FloatToTruth,
            (Class::Whole, DType::Bool) => Op::WholeToTruth,
            (Class::Whole, DType::F32) => Op::ToFloat,
            (Class::Float, _) => Op::ToWhole,
            (Class::Whole, _) => Op::Wrap32,
        };
        let node = match op {
            // Only narrowing needs a step: every whole tile is 64 bits wide.
            Op::Wrap32 if to == DType::I64 => return Ok(self.alias(x, to)),
            _ => self.push(Node::Op(op, vec![x]), to),
        };
        Ok(if op == Op::ToWhole && to == DType::I32 { self.push(Node::Op(Op::Wrap32, vec![node]), to) } else { node })
    }

    /// The same tile under another type.
    fn alias(&mut self, x: usize, _to: DType) -> usize {
        x
    }

    fn call(&mut self, function: Function, arguments: &[Expression], wanted: DType) -> Result<usize, String> {
        let kind = function.row().2;
        let operands = if kind == Kind::Choose { &arguments[1..] } else { arguments };
        let mut dtype = match kind {
            Kind::Float => DType::F32,
            Kind::Logic => DType::Bool,
            Kind::Compare => DType::F32,
            _ => wanted,
        };
        for operand in operands {
            dtype = operand.dtype(self.inputs)?.unwrap_or(dtype);
        }
        if let Some(simpler) = self.simplify(function, arguments, dtype)? {
            return Ok(simpler);
        }
        let mut from = Vec::with_capacity(3);
        if kind == Kind::Choose {
            from.push(self.lower(&arguments[0], DType::Bool)?);
        }
        for operand in operands {
            from.push(self.lower(operand, dtype)?);
        }
        let float = class(dtype) == Class::Float;
        let (op, result) = match kind {
            Kind::Float => (Op::Float(function), DType::F32),
            Kind::Arithmetic if float => (Op::Float(function), DType::F32),
            Kind::Arithmetic => (Op::Whole(function), dtype),
            Kind::Compare if float => (Op::CompareFloat(function), DType::Bool),
            Kind::Compare => (Op::CompareWhole(function), DType::Bool),
            Kind::Logic => (Op::Logic(function), DType::Bool),
            Kind::Choose if float => (Op::ChooseFloat, DType::F32),
            Kind::Choose => (Op::ChooseWhole, dtype),
        };
        let node = self.push(Node::Op(op, from), result);
        // Whole tiles are 64 bits wide, so i32 is wrapped after each step that can leave its range.
        let wraps = matches!(op, Op::Whole(_)) && result == DType::I32;
        Ok(if wraps { self.push(Node::Op(Op::Wrap32, vec![node]), result) } else { node })
    }

    /// Powers with small exponents and products that are added, in fewer or cheaper steps.
    fn simplify(&mut self, function: Function, arguments: &[Expression], dtype: DType) -> Result<Option<usize>, String> {
        use Expression::{Call, Number};
        if dtype != DType::F32 {
            return Ok(None);
        }
        match (function, arguments) {
            (Function::Pow, [x, Number(power)]) => {
                let x = self.lower(x, dtype)?;
                let mut unary = |function, x| self.push(Node::Op(Op::Float(function), vec![x]), DType::F32);
                let square = Function::Square;
                Ok(match *power {
                    1.0 => Some(x),
                    2.0 => Some(unary(square, x)),
                    0.5 => Some(unary(Function::Sqrt, x)),
                    -0.5 => Some(unary(Function::Rsqrt, x)),
                    -1.0 => Some(unary(Function::Reciprocal, x)),
                    4.0 => {
                        let squared = unary(square, x);
                        Some(unary(square, squared))
                    }
                    3.0 => {
                        let squared = unary(square, x);
                        Some(self.push(Node::Op(Op::Float(Function::Mul), vec![squared, x]), DType::F32))
                    }
                    _ => None,
                })
            }
            (Function::Add, [Call(Function::Mul, product), addend] | [addend, Call(Function::Mul, product)]) => {
                let from = [&product[0], &product[1], addend].map(|x| self.lower(x, dtype));
                let [a, b, c] = from;
                Ok(Some(self.push(Node::Op(Op::MulAdd, vec![a?, b?, c?]), DType::F32)))
            }
            _ => Ok(None),
        }
    }

    /// Gives every value a slot.
    fn assign(self, root: usize) -> Result<Program, String> {
        let reached = self.reached(root);
        let mut program = Program {
            floats: Slots { inputs: Vec::new(), constants: Vec::new(), temporaries: 0 },
            wholes: Slots { inputs: Vec::new(), constants: Vec::new(), temporaries: 0 },
            steps: Vec::new(),
            result: (Class::Float, 0),
        };
        for (node, _) in self.nodes.iter().zip(&reached).filter(|(_, reached)| **reached).map(|(node, _)| node) {
            match node {
                Node::Input(input) => match class(self.inputs[*input]) {
                    Class::Float => program.floats.inputs.push(*input),
                    Class::Whole => program.wholes.inputs.push(*input),
                },
                Node::Float(bits) => program.floats.constants.push(f32::from_bits(*bits)),
                Node::Whole(value) => program.wholes.constants.push(*value),
                Node::Op(..) => {}
            }
        }
        let mut place = vec![(Class::Float, 0); self.nodes.len()];
        let last_use = self.last_uses(root);
        let mut free: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
        let mut seen = [0usize; 4];
        for (index, (node, _)) in self.nodes.iter().enumerate().filter(|(index, _)| reached[*index]) {
            place[index] = match node {
                Node::Input(input) => {
                    let class = class(self.inputs[*input]);
                    let count = &mut seen[class as usize];
                    *count += 1;
                    (class, *count - 1)
                }
                Node::Float(_) => {
                    seen[2] += 1;
                    (Class::Float, program.floats.inputs.len() + seen[2] - 1)
                }
                Node::Whole(_) => {
                    seen[3] += 1;
                    (Class::Whole, program.wholes.inputs.len() + seen[3] - 1)
                }
                Node::Op(op, from) => {
                    let class = op.result();
                    let slot = free[class as usize].pop().unwrap_or_else(|| program.new_temporary(class));
                    let sources = [0, 1, 2].map(|i| place[*from.get(i).unwrap_or(&from[0])].1);
                    program.steps.push(Step { op: *op, to: slot, from: sources });
                    let mut done = from.clone();
                    done.sort_unstable();
                    done.dedup();
                    for source in done {
                        if last_use[source] == index && matches!(self.nodes[source].0, Node::Op(..)) {
                            let (class, slot) = place[source];
                            free[class as usize].push(slot);
                        }
                    }
                    (class, slot)
                }
            };
        }
        program.result = place[root];
        if program.floats.len() > SLOTS_MAX || program.wholes.len() > SLOTS_MAX {
            return Err(format!("the expression needs more than {SLOTS_MAX} tiles at once"));
        }
        Ok(program)
    }

    fn reached(&self, root: usize) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        reached[root] = true;
        for index in (0..self.nodes.len()).rev().filter(|&index| index <= root) {
            if let (true, Node::Op(_, from)) = (reached[index], &self.nodes[index].0) {
                from.iter().for_each(|&source| reached[source] = true);
            }
        }
        reached
    }

    fn last_uses(&self, root: usize) -> Vec<usize> {
        let mut last = vec![0; self.nodes.len()];
        for (index, (node, _)) in self.nodes.iter().enumerate() {
            if let Node::Op(_, from) = node {
                from.iter().for_each(|&source| last[source] = index);
            }
        }
        last[root] = usize::MAX;
        last
    }
}

impl Program {
    fn new_temporary(&mut self, class: Class) -> usize {
        match class {
            Class::Float => {
                self.floats.temporaries += 1;
                self.floats.len() - 1
            }
            Class::Whole => {
                self.wholes.temporaries += 1;
                self.wholes.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str, inputs: &[DType]) -> Program {
        Program::compile(&Expression::parse(text).unwrap(), inputs).unwrap()
    }

    #[test]
    fn equal_parts_are_computed_once() {
        let program = compile("mul(exp(add(a,b)),neg(add(a,b)))", &[DType::F32; 2]);
        assert_eq!(program.steps.len(), 4);
        assert_eq!(program.floats.temporaries, 3);
    }

    #[test]
    fn no_step_writes_what_it_reads() {
        let program = compile("add(neg(mul(neg(a),exp(a))),mul(b,tanh(sub(a,neg(b)))))", &[DType::F32; 2]);
        for step in &program.steps {
            assert!(!step.from.contains(&step.to), "{step:?}");
        }
    }

    #[test]
    fn products_that_are_added_and_small_powers_are_one_step() {
        assert_eq!(compile("add(mul(a,b),c)", &[DType::F32; 3]).steps.len(), 1);
        assert_eq!(compile("pow(a,2)", &[DType::F32]).steps[0].op, Op::Float(Function::Square));
        assert_eq!(compile("add(mul(a,2),1)", &[DType::I64]).steps.len(), 2);
    }

    #[test]
    fn too_many_values_at_once_are_refused() {
        let text = (0..40).fold("a".to_owned(), |text, i| format!("add({text},{i}.5)"));
        assert!(Program::compile(&Expression::parse(&text).unwrap(), &[DType::F32]).is_err());
    }
}
