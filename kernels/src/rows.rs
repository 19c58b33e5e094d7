//! What operators say of the rows of a batch; see [`Operator::row_wise`](crate::Operator::row_wise).

use crate::{Facts, from_front};

/// Input `first` varies, and beside it none but those in `also`.
pub(crate) fn only(varies: &[bool], first: usize, also: &[usize]) -> bool {
    varies.iter().enumerate().all(|(input, &varies)| if input == first { varies } else { !varies || also.contains(&input) })
}

/// An input that is broadcast to the first output goes along with its rows: it varies and has as many, or it is the same for all of
/// them.
pub(crate) fn along(facts: &Facts<'_>, varies: &[bool], input: usize) -> bool {
    let Some(operand) = facts.optional(input) else { return true };
    let Some(Some(output)) = facts.outputs.first() else { return false };
    let full = operand.shape.len() == output.shape.len();
    if varies[input] {
        full && operand.shape.first() == output.shape.first()
    } else {
        operand.shape.len() < output.shape.len() || (full && operand.shape.first() == Some(&1))
    }
}

/// The attribute `axis` of an operator whose first input it counts in, from the front.
pub(crate) fn axis(facts: &Facts<'_>, default: i64) -> Option<usize> {
    from_front(facts.attributes.int("axis").unwrap_or(default), facts.optional(0)?.shape.len())
}
