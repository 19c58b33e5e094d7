//! Einstein sums, and determinants.

use super::call::one;
use super::number::{Real, load, real_type};
use super::walk::{Walk, dense_strides, positions};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use num_traits::Zero as _;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[("Einsum", einsum), ("Det", determinant)];

/// An index of an equation: a letter, or one of the axes under an ellipsis, counted from the back.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Index {
    Hidden(usize),
    Letter(char),
}

/// The indices of one term; an ellipsis stands for `hidden` axes.
fn term(call: &Call<'_>, text: &str, hidden: usize) -> Result<Vec<Index>> {
    let (before, after) = match text.split_once("...") {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    let letters = |text: &str| -> Result<Vec<Index>> {
        let letter = |c: char| {
            if c.is_ascii_alphabetic() {
                Ok(Index::Letter(c))
            } else {
                Err(call.attribute_error(format_args!("'{c}' in '{text}'")))
            }
        };
        text.chars().map(letter).collect()
    };
    let mut indices = letters(before)?;
    if let Some(after) = after {
        indices.extend((0..hidden).rev().map(Index::Hidden));
        indices.extend(letters(after)?);
    }
    Ok(indices)
}

/// An equation with its extents.
struct Equation {
    inputs: Vec<Vec<Index>>,
    output: Vec<Index>,
    /// Every index and how far it runs.
    extents: Vec<(Index, usize)>,
}

impl Equation {
    fn new(call: &Call<'_>, tensors: &[&Tensor]) -> Result<Self> {
        let text: String = call.text("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != tensors.len() {
            return Err(call.shape_error(format_args!("'{text}' for {} inputs", tensors.len())));
        }
        let (mut inputs, mut extents): (Vec<Vec<Index>>, Vec<(Index, usize)>) = (Vec::new(), Vec::new());
        let mut most_hidden = 0;
        for (part, tensor) in terms.iter().zip(tensors) {
            let rank = tensor.shape().len();
            let named = part.replace("...", "").chars().count();
            let hidden = if part.contains("...") { rank.checked_sub(named) } else { Some(0) };
            let hidden = hidden.ok_or_else(|| call.shape_error(format_args!("'{part}' for {:?}", tensor.shape())))?;
            most_hidden = most_hidden.max(hidden);
            let indices = term(call, part, hidden)?;
            if indices.len() != rank {
                return Err(call.shape_error(format_args!("'{part}' for {:?}", tensor.shape())));
            }
            for (&index, &extent) in indices.iter().zip(tensor.shape()) {
                match extents.iter_mut().find(|(known, _)| *known == index) {
                    None => extents.push((index, extent)),
                    Some((_, known)) if *known == extent || extent == 1 => {}
                    Some((_, known)) if *known == 1 => *known = extent,
                    Some((_, known)) => {
                        return Err(call.shape_error(format_args!("an index of '{text}' runs to {known} and {extent}")));
                    }
                }
            }
            inputs.push(indices);
        }
        let output = match right {
            Some(right) => term(call, right, most_hidden)?,
            None => {
                // Without an output: the ellipsis, then every letter that occurs once, in alphabetical order.
                let once = |index: &Index| inputs.iter().flatten().filter(|other| *other == index).count() == 1;
                let mut letters: Vec<Index> =
                    inputs.iter().flatten().copied().filter(|i| matches!(i, Index::Letter(_)) && once(i)).collect();
                letters.sort();
                (0..most_hidden).rev().map(Index::Hidden).chain(letters).collect()
            }
        };
        let known = |index: &Index| extents.iter().any(|(other, _)| other == index);
        let twice = (1..output.len()).any(|i| output[..i].contains(&output[i]));
        if twice || !output.iter().all(known) {
            return Err(call.shape_error(format_args!("the output of '{text}'")));
        }
        Ok(Equation { inputs, output, extents })
    }

    fn extent(&self, index: Index) -> usize {
        self.extents.iter().find(|(other, _)| *other == index).map_or(1, |(_, extent)| *extent)
    }

    /// Strides of an input along the given indices; 0 where it is repeated.
    fn strides(&self, indices: &[Index], shape: &[usize], along: &[Index]) -> Vec<isize> {
        let dense = dense_strides(shape);
        let stride = |index: &Index| -> isize {
            let axes = indices.iter().enumerate().filter(|(axis, other)| *other == index && shape[*axis] != 1);
            axes.map(|(axis, _)| dense[axis]).sum()
        };
        along.iter().map(stride).collect()
    }
}

/// Sums products of elements. Many operands are joined two at a time from the left, each keeping what is still needed.
fn einsum(call: &Call<'_>) -> Result<Vec<Datum>> {
    let tensors = (0..call.inputs.len()).map(|i| call.tensor(i)).collect::<Result<Vec<_>>>()?;
    let equation = Equation::new(call, &tensors)?;
    let dtype = tensors.first().map(|tensor| tensor.dtype()).ok_or_else(|| call.shape_error("no inputs"))?;
    real_type!(dtype, R => {
        let mut left = (load::<R>(call.op, tensors[0])?.into_owned(), tensors[0].shape().to_vec(), equation.inputs[0].clone());
        for i in 1..=tensors.len() {
            let last = i >= tensors.len() - 1 || tensors.len() == 1;
            let needed = |index: &Index| equation.output.contains(index) || equation.inputs[(i + 1).min(tensors.len())..].iter().flatten().any(|o| o == index);
            let right = match tensors.get(i) {
                Some(tensor) => (load::<R>(call.op, tensor)?.into_owned(), tensor.shape().to_vec(), equation.inputs[i].clone()),
                None if tensors.len() == 1 => (vec![R::of(1.0)], vec![], vec![]),
                None => break,
            };
            let kept: Vec<Index> = match last {
                true => equation.output.clone(),
                false => equation.extents.iter().map(|(index, _)| *index).filter(|index| (left.2.contains(index) || right.2.contains(index)) && needed(index)).collect(),
            };
            let gone: Vec<Index> = equation.extents.iter().map(|(index, _)| *index)
                .filter(|index| (left.2.contains(index) || right.2.contains(index)) && !kept.contains(index)).collect();
            let shape: Vec<usize> = kept.iter().map(|&index| equation.extent(index)).collect();
            let inner: Vec<usize> = gone.iter().map(|&index| equation.extent(index)).collect();
            let count = call.budget.take(dtype, &shape)?;
            let terms = inner.iter().fold(1u64, |size, &extent| size.saturating_mul(extent as u64));
            call.budget.work((count as u64).saturating_mul(terms).saturating_mul(2))?;
            let strides = |along: &[Index]| (equation.strides(&left.2, &left.1, along), equation.strides(&right.2, &right.1, along));
            let (outer_strides, inner_strides) = (strides(&kept), strides(&gone));
            let mut out = Vec::with_capacity(count);
            Walk::new(&shape, [0, 0], [&outer_strides.0, &outer_strides.1]).rows(|[a, b], length, [p, q]| {
                for n in 0..length as isize {
                    let mut sum = R::zero();
                    Walk::new(&inner, [a + n * p, b + n * q], [&inner_strides.0, &inner_strides.1]).rows(|[a, b], length, [p, q]| {
                        sum += (0..length as isize).map(|i| left.0[(a + i * p) as usize] * right.0[(b + i * q) as usize]).sum::<R>();
                    });
                    out.push(sum);
                }
            });
            left = (out, shape, kept);
            if last {
                break;
            }
        }
        one(R::store(dtype, left.1, left.0))
    })
}

/// Determinants of square matrices, by elimination with pivots.
fn determinant(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let &[ref batch @ .., rows, columns] = x.shape() else {
        return Err(call.shape_error("needs matrices"));
    };
    if rows != columns {
        return Err(call.shape_error(format_args!("a matrix of {rows}×{columns}")));
    }
    let count = call.budget.take(x.dtype(), batch)?;
    call.budget.work((x.len() as u64).saturating_mul(rows as u64))?;
    let values = load::<f64>(call.op, x)?;
    let mut out = Vec::with_capacity(count);
    let size = rows * rows;
    positions(batch, |_| {
        let mut m = values[out.len() * size..(out.len() + 1) * size].to_vec();
        let mut result = 1.0;
        for i in 0..rows {
            let pivot =
                (i..rows).fold(i, |best, row| if m[row * rows + i].abs() > m[best * rows + i].abs() { row } else { best });
            if m[pivot * rows + i] == 0.0 {
                result = 0.0;
                break;
            }
            if pivot != i {
                (0..rows).for_each(|j| m.swap(pivot * rows + j, i * rows + j));
                result = -result;
            }
            result *= m[i * rows + i];
            for row in i + 1..rows {
                let factor = m[row * rows + i] / m[i * rows + i];
                (i..rows).for_each(|j| m[row * rows + j] -= factor * m[i * rows + j]);
            }
        }
        out.push(result);
    });
    one(f64::store(x.dtype(), batch.to_vec(), out))
}
