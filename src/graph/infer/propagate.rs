//! Elements of small integer tensors, followed through the arithmetic that models do on shapes.
//!
//! `Shape → Gather → Mul → Concat → Reshape` is how exporters write a flatten; each step here works on elements that are numbers, symbolic
//! expressions, truth values, or unknown. Nothing else is calculated: folding constants in general is a pass.

use super::facts::Site;
use super::shape::axis;
use super::symbol::Expr;
use crate::graph::{Dim, Type};
use kernels::Tensor;
use schema::DType;

/// Longer tensors are not followed: shapes have a handful of elements, index grids of detectors thousands.
const ITEMS_MAX: usize = 256;

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Int(Expr),
    Real(f64),
    Truth(bool),
    Unknown,
}

impl Item {
    /// A whole number.
    pub fn number(value: i64) -> Self {
        Item::Int(Expr::number(value))
    }

    /// The elements of a small constant.
    pub fn of_tensor(tensor: &Tensor) -> Option<Vec<Item>> {
        if tensor.len() > ITEMS_MAX {
            return None;
        }
        match tensor.dtype() {
            DType::F32 => Some(tensor.values::<f32>()?.iter().map(|&value| Item::Real(f64::from(value))).collect()),
            DType::F64 => Some(tensor.values::<f64>()?.iter().map(|&value| Item::Real(value)).collect()),
            DType::Bool => Some(tensor.bytes().iter().map(|&byte| Item::Truth(byte != 0)).collect()),
            _ => Some(tensor.to_ints()?.into_iter().map(Item::number).collect()),
        }
    }

    /// The number, when it is a known whole one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Item::Int(expr) => expr.constant(),
            Item::Truth(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    fn real(&self) -> Option<f64> {
        match self {
            Item::Real(value) => Some(*value),
            Item::Int(expr) => Some(expr.constant()? as f64),
            _ => None,
        }
    }

    fn expr(&self) -> Option<&Expr> {
        match self {
            Item::Int(expr) => Some(expr),
            _ => None,
        }
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Item::Truth(value) => Some(*value),
            _ => None,
        }
    }
}

/// The elements of each output, where they can be followed.
pub(super) fn items(site: &Site<'_, '_>, types: &[Type]) -> Vec<Option<Vec<Item>>> {
    let mut outputs = vec![None; types.len()];
    if site.node().op == "Split" {
        split(site, types, &mut outputs);
    } else if let Some(first) = types.first() {
        // Rank 0 and 1 mostly; a matrix is followed as its elements in a row where the operator does not mind.
        let len = first.shape().and_then(super::shape::elements).filter(|&len| len <= ITEMS_MAX as u64);
        if let Some(len) = len {
            outputs[0] = follow(site, first).filter(|items| items.len() as u64 == len);
        }
    }
    for (items, ty) in outputs.iter_mut().zip(types) {
        // Floats are followed as f64, so only exact steps may be taken for narrower ones; nothing may be followed for other types.
        let followed = matches!(ty.dtype(), Some(DType::I64 | DType::I32 | DType::F32 | DType::F64 | DType::Bool));
        if !followed {
            *items = None;
        }
    }
    outputs
}

fn follow(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    match site.node().op.as_str() {
        "Shape" => shape_of(site),
        "Size" => Some(vec![Item::Int(super::shape::product(site.shape(0)?)?)]),
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => site.items(0),
        "Cast" => Some(site.items(0)?.iter().map(|item| cast(item, ty.dtype())).collect()),
        "Gather" => gather(site),
        "Slice" => slice(site),
        "Concat" => concat(site),
        "ConstantOfShape" => constant_of_shape(site, ty),
        "Expand" => expand(site, ty),
        "Range" => range(site),
        "Where" => select(site, ty),
        "ReduceProd" | "ReduceSum" | "ReduceMin" | "ReduceMax" => reduce(site, ty),
        "Neg" | "Abs" | "Not" | "Floor" | "Ceil" | "Sqrt" => {
            let op = site.node().op.as_str();
            Some(site.items(0)?.iter().map(|item| unary(op, item).unwrap_or(Item::Unknown)).collect())
        }
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max" | "Pow" | "Equal" | "Less" | "LessOrEqual" | "Greater"
        | "GreaterOrEqual" | "And" | "Or" => binary(site, ty),
        _ => None,
    }
}

fn shape_of(site: &Site<'_, '_>) -> Option<Vec<Item>> {
    let shape = site.shape(0)?;
    let range = super::movement::shape_range(site, shape.len())?;
    Some(shape[range].iter().map(|dim| Item::Int(Expr::of(dim))).collect())
}

fn cast(item: &Item, to: Option<DType>) -> Item {
    let to = match to {
        Some(dtype) => dtype,
        None => return Item::Unknown,
    };
    match (item, to) {
        (Item::Int(_), DType::I64 | DType::I32) => item.clone(),
        (Item::Int(_), DType::F32 | DType::F64) => item.real().map_or(Item::Unknown, Item::Real),
        (Item::Int(expr), DType::Bool) => expr.constant().map_or(Item::Unknown, |value| Item::Truth(value != 0)),
        (Item::Real(value), DType::I64 | DType::I32) if value.abs() < 1e15 => Item::number(value.trunc() as i64),
        (Item::Real(value), DType::F64) => Item::Real(*value),
        (Item::Real(value), DType::F32) => Item::Real(f64::from(*value as f32)),
        (Item::Real(value), DType::Bool) => Item::Truth(*value != 0.0),
        (Item::Truth(value), DType::I64 | DType::I32) => Item::number(i64::from(*value)),
        (Item::Truth(value), DType::F32 | DType::F64) => Item::Real(f64::from(u8::from(*value))),
        (Item::Truth(_), DType::Bool) => item.clone(),
        _ => Item::Unknown,
    }
}

fn gather(site: &Site<'_, '_>) -> Option<Vec<Item>> {
    let items = site.items(0)?;
    if site.shape(0)?.len() != 1 {
        return None;
    }
    let pick = |&index: &i64| axis(index, items.len()).map(|at| items[at].clone());
    site.ints(1)?.iter().map(pick).collect()
}

fn slice(site: &Site<'_, '_>) -> Option<Vec<Item>> {
    let items = site.items(0)?;
    if site.shape(0)?.len() != 1 {
        return None;
    }
    let (start, end) = (site.int_input(1)?, site.int_input(2)?);
    let step = if site.input(4).is_some() { site.int_input(4)? } else { 1 };
    let (start, count) = super::movement::slice_range(start, end, step, items.len() as i64)?;
    (0..count).map(|i| items.get(usize::try_from(start.checked_add(i.checked_mul(step)?)?).ok()?).cloned()).collect()
}

fn concat(site: &Site<'_, '_>) -> Option<Vec<Item>> {
    let mut all = Vec::new();
    for index in 0..site.inputs() {
        let shape = site.shape(index)?;
        if shape.len() != 1 {
            return None;
        }
        // A part that is not followed leaves its neighbours known.
        let len = shape[0].fixed().filter(|&len| len <= ITEMS_MAX)?;
        all.extend(site.items(index).unwrap_or_else(|| vec![Item::Unknown; len]));
    }
    (all.len() <= ITEMS_MAX).then_some(all)
}

fn constant_of_shape(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    let len = super::shape::elements(ty.shape()?)? as usize;
    let value = match site.node().attributes.tensor("value") {
        Some(tensor) => Item::of_tensor(tensor)?.into_iter().next()?,
        None => Item::Real(0.0),
    };
    Some(vec![value; len])
}

fn expand(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    let items = site.items(0)?;
    let len = super::shape::elements(ty.shape()?)? as usize;
    match items.len() {
        1 => Some(vec![items[0].clone(); len]),
        same if same == len => Some(items),
        _ => None,
    }
}

fn range(site: &Site<'_, '_>) -> Option<Vec<Item>> {
    let (start, limit, step) = (site.int_input(0)?, site.int_input(1)?, site.int_input(2)?);
    let count = super::movement::range_len(start, limit, step)?;
    if count > ITEMS_MAX as i64 {
        return None;
    }
    (0..count).map(|i| Some(Item::number(start.checked_add(i.checked_mul(step)?)?))).collect()
}

/// The element of a broadcast operand. Only operands of one element or of the output's own size are followed.
fn at(items: &[Item], i: usize, len: usize) -> Option<&Item> {
    match items.len() {
        1 => items.first(),
        same if same == len => items.get(i),
        _ => None,
    }
}

fn select(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    let (condition, yes, no) = (site.items(0)?, site.items(1)?, site.items(2)?);
    let len = super::shape::elements(ty.shape()?)? as usize;
    let pick = |i| {
        Some(match at(&condition, i, len)?.truth() {
            Some(true) => at(&yes, i, len)?.clone(),
            Some(false) => at(&no, i, len)?.clone(),
            None => Item::Unknown,
        })
    };
    (0..len).map(pick).collect()
}

fn reduce(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    if super::shape::elements(ty.shape()?)? != 1 {
        return None;
    }
    let items = site.items(0)?;
    let op = match site.node().op.as_str() {
        "ReduceProd" => "Mul",
        "ReduceSum" => "Add",
        "ReduceMin" => "Min",
        _ => "Max",
    };
    let (first, rest) = items.split_first()?;
    Some(vec![rest.iter().try_fold(first.clone(), |sum, item| arithmetic(op, &sum, item)).unwrap_or(Item::Unknown)])
}

fn split(site: &Site<'_, '_>, types: &[Type], outputs: &mut [Option<Vec<Item>>]) {
    let Some(items) = site.items(0).filter(|_| site.shape(0).is_some_and(|shape| shape.len() == 1)) else { return };
    let mut from = 0usize;
    for (output, ty) in outputs.iter_mut().zip(types) {
        let Some([Dim::Fixed(len)]) = ty.shape() else { return };
        let Some(to) = from.checked_add(*len) else { return };
        *output = items.get(from..to).map(<[Item]>::to_vec);
        from = to;
    }
}

fn unary(op: &str, item: &Item) -> Option<Item> {
    Some(match (op, item) {
        ("Not", Item::Truth(value)) => Item::Truth(!value),
        ("Neg", Item::Int(expr)) => Item::Int(expr.mul(&Expr::number(-1))?),
        ("Neg", Item::Real(value)) => Item::Real(-value),
        ("Abs", Item::Int(expr)) => Item::number(expr.constant()?.checked_abs()?),
        ("Floor", Item::Real(value)) => Item::Real(value.floor()),
        ("Ceil", Item::Real(value)) => Item::Real(value.ceil()),
        ("Sqrt", Item::Real(value)) => Item::Real(value.sqrt()),
        _ => return None,
    })
}

fn binary(site: &Site<'_, '_>, ty: &Type) -> Option<Vec<Item>> {
    let op = site.node().op.as_str();
    let len = super::shape::elements(ty.shape()?)? as usize;
    let mut result = site.items(0)?;
    if site.inputs() == 1 {
        return Some(result);
    }
    for index in 1..site.inputs() {
        let other = site.items(index)?;
        let step = |i| Some(arithmetic(op, at(&result, i, len)?, at(&other, i, len)?).unwrap_or(Item::Unknown));
        result = (0..len).map(step).collect::<Option<_>>()?;
    }
    let narrow = ty.dtype() == Some(DType::F32);
    Some(
        result
            .into_iter()
            .map(|item| if let (true, Item::Real(value)) = (narrow, &item) { Item::Real(f64::from(*value as f32)) } else { item })
            .collect(),
    )
}

fn arithmetic(op: &str, a: &Item, b: &Item) -> Option<Item> {
    if let (Some(a), Some(b)) = (a.truth(), b.truth()) {
        return Some(Item::Truth(match op {
            "And" => a && b,
            "Or" => a || b,
            "Equal" => a == b,
            _ => return None,
        }));
    }
    if let (Some(a), Some(b)) = (a.expr(), b.expr()) {
        return integers(op, a, b);
    }
    let (Item::Real(a), Item::Real(b)) = (a, b) else { return None };
    Some(match op {
        "Add" => Item::Real(a + b),
        "Sub" => Item::Real(a - b),
        "Mul" => Item::Real(a * b),
        "Div" => Item::Real(a / b),
        "Min" => Item::Real(a.min(*b)),
        "Max" => Item::Real(a.max(*b)),
        "Pow" => Item::Real(a.powf(*b)),
        "Equal" => Item::Truth(a == b),
        "Less" => Item::Truth(a < b),
        "LessOrEqual" => Item::Truth(a <= b),
        "Greater" => Item::Truth(a > b),
        "GreaterOrEqual" => Item::Truth(a >= b),
        _ => return None,
    })
}

fn integers(op: &str, a: &Expr, b: &Expr) -> Option<Item> {
    let both = a.constant().zip(b.constant());
    // Extents are at least 0, so a name is not negative: enough to tell `N` from -1.
    let differ = |a: &Expr, b: &Expr| a.constant().is_some_and(|value| value < 0) && b.constant().is_none() && is_count(b);
    Some(Item::Int(match (op, both) {
        ("Add", _) => a.add(b)?,
        ("Sub", _) => a.sub(b)?,
        ("Mul", _) => a.mul(b)?,
        // ONNX divides whole numbers towards zero.
        ("Div", Some((x, y))) => Expr::number(x.checked_div(y)?),
        ("Div", None) if is_count(a) && b.constant().is_none_or(|by| by > 0) => a.div_floor(b)?,
        ("Mod", Some((x, y))) => {
            Expr::number(x.checked_rem(y).map(|rest| if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })?)
        }
        ("Mod", None) if a.div_exact(b).is_some() => Expr::number(0),
        ("Min", Some((x, y))) => Expr::number(x.min(y)),
        ("Max", Some((x, y))) => Expr::number(x.max(y)),
        ("Min" | "Max", None) if a == b => a.clone(),
        ("Max", None) if differ(a, b) => b.clone(),
        ("Max", None) if differ(b, a) => a.clone(),
        ("Pow", Some((x, y))) => Expr::number(x.checked_pow(u32::try_from(y).ok()?)?),
        ("Equal", None) if a == b => return Some(Item::Truth(true)),
        ("Equal", None) if differ(a, b) || differ(b, a) => return Some(Item::Truth(false)),
        (_, Some((x, y))) => {
            return Some(Item::Truth(match op {
                "Equal" => x == y,
                "Less" => x < y,
                "LessOrEqual" => x <= y,
                "Greater" => x > y,
                "GreaterOrEqual" => x >= y,
                _ => return None,
            }));
        }
        _ => return None,
    }))
}

/// Whether an expression is surely not negative: a sum of products of names without a minus.
fn is_count(expr: &Expr) -> bool {
    expr.is_sum_without_minus()
}
