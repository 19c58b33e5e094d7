//! Sequences and optionals.

use super::arrange::{joined, part};
use super::call::one;
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("SequenceEmpty", |call| {
        let code = call.int("dtype", 1);
        DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?;
        Ok(vec![Datum::Sequence(Vec::new())])
    }),
    ("SequenceConstruct", |call| {
        let items = (0..call.inputs.len()).map(|index| call.tensor(index).cloned().map(Datum::Tensor));
        Ok(vec![Datum::Sequence(items.collect::<Result<_>>()?)])
    }),
    ("SequenceLength", |call| one(Tensor::scalar(sequence(call)?.len() as i64))),
    ("SequenceAt", |call| {
        let items = sequence(call)?;
        Ok(vec![items[position(call, 1, items.len(), false)?].clone()])
    }),
    ("SequenceInsert", |call| {
        let mut items = sequence(call)?.to_vec();
        let at = position(call, 2, items.len(), true)?;
        items.insert(at, call.tensor(1)?.clone().into());
        Ok(vec![Datum::Sequence(items)])
    }),
    ("SequenceErase", |call| {
        let mut items = sequence(call)?.to_vec();
        let last = items.len().checked_sub(1).ok_or_else(|| call.index_error("nothing to erase"))?;
        let at = if call.inputs.get(1).copied().flatten().is_some() { position(call, 1, items.len(), false)? } else { last };
        items.remove(at);
        Ok(vec![Datum::Sequence(items)])
    }),
    ("SplitToSequence", split_to_sequence),
    ("ConcatFromSequence", concat_from_sequence),
    ("Optional", |call| Ok(vec![Datum::Optional(call.inputs.first().copied().flatten().cloned().map(Box::new))])),
    ("OptionalHasElement", |call| {
        let has = match call.inputs.first().copied().flatten() {
            None | Some(Datum::Optional(None)) => false,
            Some(_) => true,
        };
        one(Tensor::bools(vec![], vec![has]))
    }),
    ("OptionalGetElement", |call| match call.datum(0)? {
        Datum::Optional(Some(inner)) => Ok(vec![(**inner).clone()]),
        Datum::Optional(None) => Err(call.index_error("the optional is empty")),
        other => Ok(vec![other.clone()]),
    }),
];

fn sequence<'a>(call: &Call<'a>) -> Result<&'a [Datum]> {
    match call.datum(0)? {
        Datum::Sequence(items) => Ok(items),
        Datum::Optional(Some(inner)) => match &**inner {
            Datum::Sequence(items) => Ok(items),
            _ => Err(call.shape_error("input 0 is no sequence")),
        },
        _ => Err(call.shape_error("input 0 is no sequence")),
    }
}

/// A place in a sequence, counted from either end; absent: the end.
fn position(call: &Call<'_>, index: usize, length: usize, end_too: bool) -> Result<usize> {
    let Some(values) = call.optional_whole(index)? else { return Ok(length) };
    let at = *values.first().ok_or_else(|| call.shape_error("the position is empty"))?;
    let from_front = if at < 0 { at.checked_add(length as i64) } else { Some(at) };
    let place = from_front.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < length || (end_too && at == length));
    place.ok_or_else(|| call.index_error(format_args!("position {at} of {length}")))
}

fn split_to_sequence(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let axis = call.axis("axis", 0, data.shape().len())?;
    let whole = data.shape()[axis];
    call.budget.take(DType::String, &[whole])?;
    let split = call.optional(1)?;
    let lengths = match split {
        None => vec![1; whole],
        Some(split) => {
            let values = call.extents(&call.whole(1)?)?;
            match (split.shape().is_empty(), values.as_slice()) {
                (true, &[each]) if each > 0 => (0..whole.div_ceil(each)).map(|i| each.min(whole - i * each)).collect(),
                (true, _) => return Err(call.shape_error("parts of no length")),
                (false, lengths) => lengths.to_vec(),
            }
        }
    };
    if lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) != Some(whole) {
        return Err(call.shape_error(format_args!("parts {lengths:?} of {whole}")));
    }
    call.budget.take(DType::String, &[lengths.len()])?;
    let squeeze = split.is_none() && !call.flag("keepdims", true);
    let mut items = Vec::with_capacity(lengths.len());
    let mut from = 0;
    for length in lengths {
        let item = part(call, data, axis, from, length)?;
        let mut shape = item.shape().to_vec();
        if squeeze {
            shape.remove(axis);
        }
        items.push(item.reshaped(shape).unwrap_or(item).into());
        from += length;
    }
    Ok(vec![Datum::Sequence(items)])
}

fn concat_from_sequence(call: &Call<'_>) -> Result<Vec<Datum>> {
    let tensors: Option<Vec<&Tensor>> = sequence(call)?.iter().map(Datum::tensor).collect();
    let tensors = tensors.ok_or_else(|| call.shape_error("the sequence holds no tensors"))?;
    let rank = tensors.first().map_or(0, |tensor| tensor.shape().len());
    if !call.flag("new_axis", false) {
        return joined(call, &tensors, call.axis("axis", 0, rank)?).and_then(one);
    }
    let axis = call.axis("axis", 0, rank + 1)?;
    let widened: Option<Vec<Tensor>> = tensors
        .iter()
        .map(|tensor| {
            let mut shape = tensor.shape().to_vec();
            shape.insert(axis.min(shape.len()), 1);
            tensor.reshaped(shape)
        })
        .collect();
    let widened = widened.ok_or_else(|| call.shape_error("the tensors cannot be stacked"))?;
    joined(call, &widened.iter().collect::<Vec<_>>(), axis).and_then(one)
}
