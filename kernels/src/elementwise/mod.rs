//! A fused expression over elements, with broadcasting.
//!
//! **Inputs**: 1 to 16, named `a` … `p` in the expression, f32, i64, i32 or bool. **Output** `y`: the expression's type, the shape the
//! inputs broadcast to.
//!
//! **Attribute** `expr`: the text of an [`Expression`], such as `mul(a,sigmoid(add(a,b)))`; see [`expression::FUNCTIONS`]. **Task**:
//! `expr` in canonical spelling, the operands `a` … and `y` with their types and layouts.
//!
//! **Layouts**: any operand in rows; or the output in `Channels` or `Columns` and each input either in the same kind of layout with
//! the output's shape (halos may differ), or in `Channels` with height and width 1, or in rows with any shape that broadcasts (a bias
//! `[C,1,1]` over channels or `[K]` over columns is fast, a full-size tensor in rows is slow but right). With an output in rows every
//! input is in rows.

pub mod expression;
mod geometry;
mod host_rows;
mod host_tiles;
mod program;
mod reference;
mod tile;

pub use expression::Expression;

use crate::{BuildError, Facts, Layout, OperandSpec, Operator, Signature, Task, Variant, strides};
use expression::INPUTS_MAX;
use schema::DType;

/// A fused elementwise expression.
pub static ELEMENTWISE: Operator = Operator {
    id: "elementwise",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| {
        let calls = Expression::parse(task.word("expr")).map_or(0, |expression| expression.calls());
        calls * task.ints("y").iter().product::<usize>() as u64
    },
    bytes: |task| signature(task).map_or(0, |s| s.inputs.iter().chain(&s.outputs).map(|spec| spec.bytes() as u64).sum()),
    reference: reference::compute,
    row_wise: |facts, varies| (0..varies.len()).all(|input| crate::rows::along(facts, varies, input)),
};

static VARIANTS: &[&Variant] = &[&host_tiles::TILES, &host_rows::ROWS];

/// The names of the inputs.
static NAMES: [&str; INPUTS_MAX] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("elementwise");
    let text = facts.attributes.string("expr").ok_or_else(|| bare.refused("attribute 'expr' is missing"))?;
    let expression = Expression::parse(text).map_err(|reason| bare.refused(format!("expression '{text}': {reason}")))?;
    let mut task = bare.with_word("expr", &expression).with_operand("y", facts.output("elementwise", 0)?);
    if facts.inputs.len() > INPUTS_MAX {
        return Err(task.refused(format!("{} inputs, the limit is {INPUTS_MAX}", facts.inputs.len())));
    }
    for (index, name) in NAMES.iter().enumerate().take(facts.inputs.len()) {
        task = task.with_operand(name, facts.input("elementwise", index)?);
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let expression = Expression::parse(task.word("expr")).map_err(|reason| task.refused(reason))?;
    let mut inputs = Vec::new();
    for name in NAMES {
        match task.operand(name)? {
            Some(spec) => inputs.push(OperandSpec { fill: fill(spec.dtype), ..spec }),
            None => break,
        }
    }
    if inputs.is_empty() || expression.inputs() > inputs.len() {
        return Err(task.refused(format!("the expression needs {} inputs, there are {}", expression.inputs(), inputs.len())));
    }
    let y = task.required("y")?;
    let types: Vec<DType> = inputs.iter().map(|spec| spec.dtype).collect();
    let dtype = expression.dtype(&types).map_err(|reason| task.refused(reason))?;
    if dtype != Some(y.dtype) {
        return Err(task.refused(format!("the output is {} and the expression another type", y.dtype)));
    }
    let shape = strides::broadcast(inputs.iter().map(|spec| &spec.shape[..]));
    if shape.as_ref() != Some(&y.shape) {
        return Err(task.refused(format!("the inputs do not broadcast to {:?}", y.shape)));
    }
    for spec in &inputs {
        if !layout_fits(spec, &y) {
            return Err(
                task.refused(format!("operand '{}' cannot be {} beside an output in {}", spec.name, spec.layout, y.layout))
            );
        }
    }
    if y.layout != Layout::Rows && y.dtype != DType::F32 {
        return Err(task.refused("only f32 has blocked layouts"));
    }
    program::Program::compile(&expression, &types).map_err(|reason| task.refused(reason))?;
    Ok(Signature { inputs, outputs: vec![y] })
}

fn fill(dtype: DType) -> crate::Fill {
    match dtype {
        DType::Bool => crate::Fill::Mask,
        DType::I64 | DType::I32 => crate::Fill::Whole(100),
        _ => crate::Fill::Signed,
    }
}

fn layout_fits(spec: &OperandSpec, y: &OperandSpec) -> bool {
    match (spec.layout, y.layout) {
        (Layout::Rows, _) => true,
        (Layout::Channels { .. }, Layout::Channels { .. }) => {
            spec.dtype == DType::F32 && spec.shape[..2] == y.shape[..2] && (spec.shape == y.shape || spec.shape[2..] == [1, 1])
        }
        (Layout::Columns, Layout::Columns) => spec.dtype == DType::F32 && spec.shape == y.shape,
        _ => false,
    }
}
