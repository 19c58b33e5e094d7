//! Bodies, sequences and optionals. Bodies are inferred before the node that holds them is asked.

use super::facts::{Result, Site};
use super::shape::with;
use super::{Fault, Item, Rule, rule};
use crate::graph::{Dim, Graph, Node, Type};
use kernels::Tensor;
use schema::DType;

pub(super) static RULES: &[Rule] = &[
    rule("ConcatFromSequence", ". -> any", concat_from_sequence),
    rule("If", "bool -> any*", choose),
    rule("Loop", "i64? bool? .* -> any*", repeat),
    rule("Optional", ".? -> any", optional),
    rule("OptionalGetElement", ". -> any", optional_get),
    rule("OptionalHasElement", ".? -> bool", optional_has),
    rule("Scan", ".* -> any*", scan),
    rule("SequenceAt", ". index -> any", sequence_at),
    rule("SequenceConstruct", "T* -> any", sequence_construct),
    rule("SequenceEmpty", "-> any", sequence_empty),
    rule("SequenceErase", ". index? -> any", sequence_erase),
    rule("SequenceInsert", ". any index? -> any", sequence_insert),
    rule("SequenceLength", ". -> i64", sequence_length),
    rule("SequenceMap", ". .* -> any*", sequence_map),
    rule("SplitToSequence", "any index? -> any", split_to_sequence),
];

/// What two types have in common: extents that differ become open under the names `open` gives.
pub(super) fn join(a: &Type, b: &Type, open: &dyn Fn(usize) -> Dim) -> Option<Type> {
    Some(match (a, b) {
        (Type::Unknown, other) | (other, Type::Unknown) => other.clone(),
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join(a, b, open)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join(a, b, open)?)),
        (Type::Optional(a), b) | (b, Type::Optional(a)) => Type::Optional(Box::new(join(a, b, open)?)),
        (Type::Tensor { dtype: x, shape: a }, Type::Tensor { dtype: y, shape: b }) if x == y => {
            let shape = match (a, b) {
                (Some(a), Some(b)) if a.len() == b.len() => {
                    let dim = |(axis, (a, b)): (usize, (&Dim, &Dim))| if a == b { a.clone() } else { open(axis) };
                    Some(a.iter().zip(b).enumerate().map(dim).collect())
                }
                _ => None,
            };
            Type::Tensor { dtype: *x, shape }
        }
        _ => return None,
    })
}

fn outputs_of(body: &Graph) -> impl Iterator<Item = &Type> {
    body.outputs.iter().map(|&id| &body.value(id).ty)
}

fn body<'a>(site: &Site<'_, 'a>, name: &str) -> Result<&'a Graph> {
    match site.node().body(name) {
        Some(body) => Ok(body),
        None => site.attribute_error(format!("without its body {name}")),
    }
}

fn choose(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (yes, no) = (body(site, "then_branch")?, body(site, "else_branch")?);
    let joined = |(output, (a, b)): (usize, (&Type, &Type))| {
        join(a, b, &|axis| site.open(output, axis))
            .ok_or_else(|| site.error(Fault::BadDtype, format!("output {output} is {a} in one branch and {b} in the other")))
    };
    outputs_of(yes).zip(outputs_of(no)).enumerate().map(joined).collect()
}

/// Whether the condition of a `Loop` stays true: it begins so and the body hands it on, so the rounds are those that are counted.
pub fn never_stops_early(node: &Node, condition: Option<&Tensor>) -> bool {
    let begins = node.input(1).is_none() || condition.is_some_and(is_true);
    let Some(body) = node.body("body") else { return false };
    let (Some(&given), Some(&kept)) = (body.inputs.get(1), body.outputs.first()) else { return false };
    let makers = body.producers();
    let mut at = kept;
    // Follows copies back; each step goes to an earlier node.
    while let Some(maker) = makers[at.index()].map(|i| &body.nodes[i]) {
        match maker.input(0) {
            Some(before) if maker.op == "Identity" || maker.op == "Cast" && body.value(before).dtype() == Some(DType::Bool) => {
                at = before
            }
            _ => return false,
        }
    }
    begins && (at == given || body.value(at).constant.as_ref().is_some_and(is_true))
}

fn is_true(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::Bool && tensor.bytes().first().is_some_and(|&byte| byte != 0)
}

fn repeat(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let body = body(site, "body")?;
    let carried = body.inputs.len().saturating_sub(2);
    let rounds = rounds(site)?;
    let mut types = Vec::with_capacity(body.outputs.len());
    for (output, ty) in outputs_of(body).skip(1).enumerate() {
        if output < carried {
            // The body's input has the type that holds in every round.
            let every = &body.value(body.inputs[output + 2]).ty;
            // An optional that each round fills is full at the end.
            let filled = matches!(every, Type::Optional(_)) && !matches!(ty, Type::Optional(_));
            types.push(if *every == Type::Unknown || filled { ty.clone() } else { every.clone() });
        } else {
            types.push(stacked(site, ty, rounds.clone().unwrap_or_else(|| site.open(output, 0)), 0)?);
        }
    }
    Ok(types)
}

/// How often a loop runs, when that can be told.
fn rounds(site: &Site<'_, '_>) -> Result<Option<Dim>> {
    let Some(items) = site.items(0) else { return Ok(None) };
    let [Item::Int(count)] = &items[..] else { return Ok(None) };
    let exact = never_stops_early(site.node(), site.input(1).and_then(|input| input.constant));
    if let Some(count) = count.constant() {
        let (allowed, need) = (site.bounds.rounds, count.max(0) as u64);
        if need > allowed && exact {
            return Err(site.limit("loop-rounds", allowed, Some(need), "rounds of a loop"));
        }
        return Ok(exact.then_some(Dim::Fixed(need as usize)));
    }
    Ok(if exact { count.dim() } else { None })
}

/// A value of each round, one behind the other along a new axis.
fn stacked(site: &Site<'_, '_>, ty: &Type, rounds: Dim, axis: i64) -> Result<Type> {
    let (Some(dtype), Some(shape)) = (ty.dtype(), ty.shape()) else {
        return Ok(ty.dtype().map_or(Type::Unknown, |dtype| Type::Tensor { dtype, shape: None }));
    };
    let axis = site.resolve_axis("axis", axis, shape.len() + 1)?;
    let mut shape = shape.to_vec();
    shape.insert(axis, rounds);
    Ok(Type::Tensor { dtype, shape: Some(shape) })
}

/// The axes a `Scan` runs along, of its inputs or outputs.
pub(super) fn scan_axes(node: &Node, name: &str, count: usize) -> Vec<i64> {
    let mut axes = node.attributes.ints(name).map(<[i64]>::to_vec).unwrap_or_default();
    axes.resize(count, 0);
    axes
}

fn scan(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let body = body(site, "body")?;
    let scanned = site.int("num_scan_inputs", 0)?;
    let Some(states) =
        usize::try_from(scanned).ok().filter(|&count| count > 0).and_then(|count| site.inputs().checked_sub(count))
    else {
        return site.attribute_error(format!("num_scan_inputs is {scanned} of {} inputs", site.inputs()));
    };
    let mut length: Option<Dim> = None;
    let axes = scan_axes(site.node(), "scan_input_axes", scanned as usize);
    for (index, &axis) in axes.iter().enumerate() {
        let Some(shape) = site.shape(states + index) else { continue };
        let dim = &shape[site.resolve_axis("scan_input_axes", axis, shape.len())?];
        length = Some(match length {
            Some(length) => site.same(&length, dim, "lengths of what is scanned")?,
            None => dim.clone(),
        });
    }
    let length = length.unwrap_or_else(|| site.open(0, 0));
    let stacks = body.outputs.len().saturating_sub(states);
    let axes = scan_axes(site.node(), "scan_output_axes", stacks);
    let mut types = Vec::with_capacity(body.outputs.len());
    for (output, ty) in outputs_of(body).enumerate() {
        types.push(match output.checked_sub(states) {
            None => {
                let every = &body.value(body.inputs[output]).ty;
                if *every == Type::Unknown { ty.clone() } else { every.clone() }
            }
            Some(stack) => stacked(site, ty, length.clone(), axes[stack])?,
        });
    }
    Ok(types)
}

fn element<'a>(site: &Site<'_, 'a>) -> Result<&'a Type> {
    match site.ty(0) {
        Some(Type::Sequence(element)) => Ok(element),
        Some(other @ (Type::Tensor { .. } | Type::Optional(_))) => {
            Err(site.error(Fault::BadDtype, format!("input 0 is {other}, a sequence is needed")))
        }
        _ => Ok(&Type::Unknown),
    }
}

fn sequence_construct(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let mut all = Type::Unknown;
    for index in 0..site.inputs() {
        let next = site.ty(index).unwrap_or(&Type::Unknown);
        all = join(&all, next, &|axis| site.open(0, axis))
            .ok_or_else(|| site.error(Fault::BadDtype, format!("{all} and {next} in one sequence")))?;
    }
    Ok(vec![Type::Sequence(Box::new(all))])
}

fn sequence_empty(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    Ok(vec![Type::Sequence(Box::new(Type::Tensor { dtype, shape: None }))])
}

fn sequence_at(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![element(site)?.clone()])
}

fn sequence_erase(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![Type::Sequence(Box::new(element(site)?.clone()))])
}

fn sequence_insert(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (element, new) = (element(site)?, site.ty(1).unwrap_or(&Type::Unknown));
    match join(element, new, &|axis| site.open(0, axis)) {
        Some(joined) => Ok(vec![Type::Sequence(Box::new(joined))]),
        None => Err(site.error(Fault::BadDtype, format!("{new} into a sequence of {element}"))),
    }
}

fn sequence_length(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    element(site)?;
    Ok(vec![site.out(0, Some(vec![]))])
}

fn sequence_map(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    element(site)?;
    Ok(outputs_of(body(site, "body")?).map(|ty| Type::Sequence(Box::new(ty.clone()))).collect())
}

fn split_to_sequence(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let keep = site.flag("keepdims", true)?;
    let of = |shape| vec![Type::Sequence(Box::new(site.tensor(site.dtype(0), shape)))];
    let Some(shape) = site.shape(0) else { return Ok(of(None)) };
    let axis = site.axis(0, shape.len())?;
    if site.input(1).is_none() {
        let mut part = with(shape, axis, Dim::Fixed(1));
        if !keep {
            part.remove(axis);
        }
        return Ok(of(Some(part)));
    }
    let each = match site.ints(1).as_deref() {
        Some(&[size, ref rest @ ..]) if size > 0 && rest.iter().all(|&other| other == size) => {
            // Equal parts, unless the last is shorter.
            let even = shape[axis].fixed().is_some_and(|extent| (extent as u64).is_multiple_of(size as u64));
            if even || !rest.is_empty() { site.extent(size)? } else { site.open(0, axis) }
        }
        Some(sizes) if sizes.iter().any(|&size| size < 0) => return site.shape_error(format!("sizes {sizes:?}")),
        _ => site.open(0, axis),
    };
    Ok(of(Some(with(shape, axis, each))))
}

fn concat_from_sequence(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let new_axis = site.flag("new_axis", false)?;
    let element = element(site)?;
    let Some(part) = element.shape() else { return Ok(vec![site.tensor(element.dtype(), None)]) };
    let rank = part.len() + usize::from(new_axis);
    let axis = site.axis(0, rank)?;
    let mut out = part.to_vec();
    if new_axis {
        out.insert(axis, site.open(0, axis));
    } else {
        out[axis] = site.open(0, axis);
    }
    Ok(vec![site.tensor(element.dtype(), Some(out))])
}

fn optional(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let inner = match site.ty(0) {
        Some(ty) => ty.clone(),
        None => parse(site.string("type", "?")?, 0).ok_or_else(|| site.error(Fault::BadAttribute, "type cannot be read"))?,
    };
    Ok(vec![Type::Optional(Box::new(inner))])
}

/// The text of a type, as far as importers write it: `seq(f32[?])`.
fn parse(text: &str, depth: usize) -> Option<Type> {
    if depth > 8 {
        return None;
    }
    let inner = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix(')');
    if let Some(inner) = inner("seq(") {
        return Some(Type::Sequence(Box::new(parse(inner, depth + 1)?)));
    }
    if let Some(inner) = inner("opt(") {
        return Some(Type::Optional(Box::new(parse(inner, depth + 1)?)));
    }
    if text == "?" {
        return Some(Type::Unknown);
    }
    let (dtype, shape) = text.strip_suffix(']')?.split_once('[')?;
    let dtype = DType::parse(dtype)?;
    let extent = |text: &str| text.parse().map_or_else(|_| Dim::named(text), Dim::Fixed);
    let shape = match shape {
        "?" => None,
        "" => Some(vec![]),
        dims => Some(dims.split(',').map(extent).collect()),
    };
    Some(Type::Tensor { dtype, shape })
}

fn optional_get(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![match site.ty(0) {
        Some(Type::Optional(inner)) => (**inner).clone(),
        Some(other) => other.clone(),
        None => Type::Unknown,
    }])
}

fn optional_has(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.out(0, Some(vec![]))])
}
