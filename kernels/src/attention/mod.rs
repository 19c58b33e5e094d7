//! `softmax(scale · Q·Kᵀ + mask) · V` per image and head.
//!
//! **Inputs**: `q` `[b, h, s, d]`, `k` `[b, g, t, d]`, `v` `[b, g, t, e]`, all f32 rows, `g` dividing `h` (grouped queries); `mask` f32
//! rows, optional, added, any shape that broadcasts to `[b, h, s, t]`. **Output** `y` `[b, h, s, e]`. **Attributes**: `scale` (float,
//! default 1); `causal` (1: query `i` sees keys up to `i + t − s`; default 0); `q_order`, `k_order`, `v_order`, `y_order`: `bhsd`
//! (default), `bshd`, which means that the operand's shape is `[b, s, h, d]`, so that transposes of heads need no pass of their own,
//! or `sbhd`, `[s, b, h, d]`; `q_heads`, `k_heads`, `v_heads`: two numbers, the first head that is read and how many (default: all), so
//! that one product may make Q, K and V side by side and be read three times. **Task**: the operands and the attributes.

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
    row_wise,
};

static VARIANTS: &[&Variant] = &[&host_blocks::BLOCKS, &host_rows::ROWS];

/// Images, where they stand first.
fn row_wise(facts: &Facts<'_>, varies: &[bool]) -> bool {
    let images_first = |order: &str| facts.attributes.string(order) != Some("sbhd");
    varies.iter().take(3).all(|varies| *varies)
        && ["q_order", "k_order", "v_order", "y_order"].into_iter().all(images_first)
        && crate::rows::along(facts, varies, 3)
}

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
            Some(order @ ("bshd" | "sbhd")) => task = task.with_word(name, order),
            Some(other) => return Err(task.refused(format!("'{name}' is '{other}'"))),
        }
    }
    for name in ["q_heads", "k_heads", "v_heads"] {
        match facts.attributes.ints(name) {
            None => {}
            Some(&[first, count]) if first >= 0 && count > 0 => task = task.with_ints(name, &[first as usize, count as usize]),
            Some(other) => return Err(task.refused(format!("'{name}' is {other:?}"))),
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
pub struct Matrices {
    /// Heads that are used.
    pub heads: usize,
    pub rows: usize,
    pub columns: usize,
    /// Where the first of them begins.
    pub first: usize,
    /// From one image, head and row to the next.
    pub strides: [usize; 3],
    /// f32 of the whole operand.
    pub len: usize,
}

impl Matrices {
    /// The matrices of an operand of that shape in that order, and their number of images. `heads` is the first head and their number;
    /// all of them when empty.
    fn of(shape: &[usize], order: &str, heads: &[usize]) -> Option<(usize, Self)> {
        let &[a, b, c, columns] = shape else { return None };
        let (images, all, rows) = match order {
            "bshd" => (a, c, b),
            "sbhd" => (b, c, a),
            _ => (a, b, c),
        };
        let strides = match order {
            "bshd" => [rows * all * columns, columns, all * columns],
            "sbhd" => [all * columns, columns, images * all * columns],
            _ => [all * rows * columns, rows * columns, columns],
        };
        let (first, heads) = match *heads {
            [first, count] if first + count <= all => (first, count),
            [] => (0, all),
            _ => return None,
        };
        let len = images * all * rows * columns;
        (len > 0).then_some((images, Matrices { heads, rows, columns, first: first * strides[1], strides, len }))
    }

    /// Where the matrix of a head begins.
    fn at(&self, image: usize, head: usize) -> usize {
        self.first + image * self.strides[0] + head * self.strides[1]
    }

    /// From one row to the next.
    fn stride(&self) -> usize {
        self.strides[2]
    }
}

/// The shape of an operand with all its heads, in that order.
fn ordered(order: &str, [images, heads, rows, columns]: [usize; 4]) -> Vec<usize> {
    match order {
        "bshd" => vec![images, rows, heads, columns],
        "sbhd" => vec![rows, images, heads, columns],
        _ => vec![images, heads, rows, columns],
    }
}

/// A task as numbers.
#[derive(Clone, Debug)]
pub struct Shape {
    pub images: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub depth: usize,
    pub width: usize,
    pub q: Matrices,
    pub k: Matrices,
    pub v: Matrices,
    pub y: Matrices,
    /// Strides of the mask along image, head, query and key.
    pub mask: Option<[usize; 4]>,
    pub scale: f32,
    pub causal: bool,
}

impl Shape {
    /// Reads a task.
    ///
    /// # Errors
    /// [`BuildError::Task`] when the operands do not fit.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let matrices = |name: &'static str, order: &str, heads: &str| -> Result<(usize, Matrices), BuildError> {
            let spec = task.required(name)?;
            Some(&spec)
                .filter(|spec| spec.layout == Layout::Rows && spec.dtype == DType::F32)
                .and_then(|spec| Matrices::of(&spec.shape, task.word(order), &task.ints(heads)))
                .ok_or_else(|| task.refused(format!("'{name}' is no f32 of four axes in rows with these heads")))
        };
        let (images, q) = matrices("q", "q_order", "q_heads")?;
        let (images_k, k) = matrices("k", "k_order", "k_heads")?;
        let (images_v, v) = matrices("v", "v_order", "v_heads")?;
        let fits = images == images_k
            && images == images_v
            && q.columns == k.columns
            && k.rows == v.rows
            && k.heads == v.heads
            && q.heads.is_multiple_of(k.heads);
        let scale = task.float("scale").filter(|scale| scale.is_finite());
        let (true, Some(scale)) = (fits, scale) else { return Err(task.refused("the operands do not fit")) };
        let all = [images, q.heads, q.rows, k.rows];
        let y_shape = ordered(task.word("y_order"), [images, q.heads, q.rows, v.columns]);
        let (_, y) = Matrices::of(&y_shape, task.word("y_order"), &[]).ok_or_else(|| task.refused("the output is empty"))?;
        let largest = [q, k, v, y].iter().map(|matrices| matrices.len).max().unwrap_or(0);
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
    let y = ordered(task.word("y_order"), [shape.images, shape.heads, shape.queries, shape.width]);
    Ok(Signature { inputs, outputs: vec![OperandSpec::f32("y", y)] })
}
