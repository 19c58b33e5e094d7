//! `softmax(scale · Q·Kᵀ + mask) · V` per image and head.
//!
//! **Inputs**: `q` `[b, h, s, d]`, `k` `[b, g, t, d]`, `v` `[b, g, t, e]`, all f32 rows, `g` dividing `h` (grouped queries); `mask` f32
//! rows, optional, added, any shape that broadcasts to `[b, h, s, t]`. **Output** `y` `[b, h, s, e]`. **Attributes**: `scale` (float,
//! default 1); `causal` (1: query `i` sees keys up to `i + t − s`; default 0); `q_order`, `k_order`, `v_order`, `y_order`: `bhsd`
//! (default) or `bshd`, which means that the operand's shape is `[b, s, h, d]`, so that transposes of heads need no pass of their
//! own. **Task**: the operands and the attributes.

mod host_blocks;
mod host_rows;
mod reference;

use crate::{BuildError, Facts, Layout, OperandSpec, Operator, Signature, Task, Variant, strides};
use schema::DType;

/// Attention of all heads.
pub static ATTENTION: Operator = Operator {
    id: "attention",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| {
        Shape::of(task).map_or(0, |s| (s.images * s.heads * s.queries * s.keys * (2 * s.depth + 2 * s.width + 6)) as u64)
    },
    bytes: |task| signature(task).map_or(0, |s| s.inputs.iter().chain(&s.outputs).map(|spec| spec.bytes() as u64).sum()),
    reference: reference::compute,
    row_wise: |facts, varies| varies.iter().take(3).all(|varies| *varies) && crate::rows::along(facts, varies, 3),
};

static VARIANTS: &[&Variant] = &[&host_rows::ROWS, &host_blocks::BLOCKS];

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let mut task = Task::new("attention");
    for (index, name) in ["q", "k", "v"].into_iter().enumerate() {
        task = task.with_operand(name, facts.input("attention", index)?);
    }
    if let Some(mask) = facts.optional(3) {
        task = task.with_operand("mask", mask);
    }
    for name in ["q_order", "k_order", "v_order", "y_order"] {
        match facts.attributes.string(name) {
            None | Some("bhsd") => {}
            Some("bshd") => task = task.with_word(name, "bshd"),
            Some(other) => return Err(task.refused(format!("'{name}' is '{other}'"))),
        }
    }
    task = task.with_float("scale", facts.attributes.float("scale").unwrap_or(1.0));
    if facts.attributes.int("causal").unwrap_or(0) != 0 {
        task = task.with_int("causal", 1);
    }
    signature(&task)?;
    Ok(task)
}

/// The matrices of one operand: rows of `columns` contiguous f32.
#[derive(Copy, Clone, Debug)]
struct Matrices {
    heads: usize,
    rows: usize,
    columns: usize,
    /// Heads stand behind rows in memory.
    swapped: bool,
}

impl Matrices {
    /// Where the matrix of a head begins.
    fn at(&self, image: usize, head: usize) -> usize {
        let image = image * self.heads * self.rows * self.columns;
        image + head * self.columns * if self.swapped { 1 } else { self.rows }
    }

    /// From one row to the next.
    fn stride(&self) -> usize {
        self.columns * if self.swapped { self.heads } else { 1 }
    }

    fn shape(&self, images: usize) -> Vec<usize> {
        let (first, second) = if self.swapped { (self.rows, self.heads) } else { (self.heads, self.rows) };
        vec![images, first, second, self.columns]
    }
}

/// A task as numbers.
#[derive(Clone, Debug)]
struct Shape {
    images: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    depth: usize,
    width: usize,
    q: Matrices,
    k: Matrices,
    v: Matrices,
    y: Matrices,
    /// Strides of the mask along image, head, query and key.
    mask: Option<[usize; 4]>,
    scale: f32,
    causal: bool,
}

impl Shape {
    fn of(task: &Task) -> Result<Self, BuildError> {
        let matrices = |name: &'static str, order: &str| -> Result<(usize, Matrices), BuildError> {
            let spec = task.required(name)?;
            let swapped = task.word(order) == "bshd";
            match spec.shape[..] {
                [images, first, second, columns]
                    if spec.layout == Layout::Rows && spec.dtype == DType::F32 && spec.shape.iter().product::<usize>() > 0 =>
                {
                    let (heads, rows) = if swapped { (second, first) } else { (first, second) };
                    Ok((images, Matrices { heads, rows, columns, swapped }))
                }
                _ => Err(task.refused(format!("'{name}' is no f32 of four axes in rows"))),
            }
        };
        let ((images, q), (images_k, k), (images_v, v)) =
            (matrices("q", "q_order")?, matrices("k", "k_order")?, matrices("v", "v_order")?);
        let fits = images == images_k
            && images == images_v
            && q.columns == k.columns
            && k.rows == v.rows
            && k.heads == v.heads
            && q.heads.is_multiple_of(k.heads);
        let scale = task.float("scale").filter(|scale| scale.is_finite());
        let (true, Some(scale)) = (fits, scale) else { return Err(task.refused("the operands do not fit")) };
        let all = [images, q.heads, q.rows, k.rows];
        let largest = images.max(1) * q.heads * q.rows.max(k.rows) * q.columns.max(v.columns);
        if largest >= 1 << 31 || q.rows * k.rows >= 1 << 40 {
            return Err(task.refused("the operands are too large for 32-bit offsets"));
        }
        let mask = match task.operand("mask")? {
            None => None,
            Some(mask) => {
                let strides = strides::broadcast_strides(&mask.shape, &all);
                let strides = strides.filter(|_| mask.dtype == DType::F32 && mask.layout == Layout::Rows);
                let strides = strides.ok_or_else(|| task.refused("the mask does not broadcast"))?;
                Some([strides[0], strides[1], strides[2], strides[3]])
            }
        };
        let y = Matrices { columns: v.columns, swapped: task.word("y_order") == "bshd", ..q };
        Ok(Shape {
            images,
            heads: q.heads,
            queries: q.rows,
            keys: k.rows,
            depth: q.columns,
            width: v.columns,
            q,
            k,
            v,
            y,
            mask,
            scale,
            causal: task.int("causal") == 1,
        })
    }

    /// Keys that a query sees.
    fn seen(&self, query: usize) -> usize {
        if self.causal { (query + 1 + self.keys).saturating_sub(self.queries).min(self.keys) } else { self.keys }
    }

    /// The head of keys and values that a head of queries uses.
    fn group(&self, head: usize) -> usize {
        head / (self.heads / self.k.heads)
    }

    /// Where the mask of a query begins.
    fn mask_at(&self, [image, head, query]: [usize; 3]) -> usize {
        self.mask.map_or(0, |[i, h, q, _]| image * i + head * h + query * q)
    }
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let shape = Shape::of(task)?;
    let mut inputs = vec![task.required("q")?, task.required("k")?, task.required("v")?];
    inputs.extend(task.operand("mask")?);
    Ok(Signature { inputs, outputs: vec![OperandSpec::f32("y", shape.y.shape(shape.images))] })
}
