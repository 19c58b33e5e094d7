//! Rows of a table, as indices name them.

use crate::operator::refuse;
use cubecl::prelude::*;
use kernels::{BuildError, OperandSpec, Task};
use schema::DType;

/// Words of 32 bits that an index takes, of which the first counts: no axis has 2³¹ places.
pub fn words_of(task: &Task, indices: &OperandSpec) -> Result<u32, BuildError> {
    match indices.dtype {
        DType::I32 => Ok(1),
        DType::I64 => Ok(2),
        other => Err(refuse(task, &format!("indices are i32 or i64 and not {other}"))),
    }
}

/// The place an index means: negative ones count from the end, what lies outside is moved inside. A plan checks indices before it runs.
#[cube]
pub fn picked(indices: &Array<i32>, at: u32, extent: u32, #[comptime] words: u32) -> u32 {
    let index = indices[(at * words) as usize];
    let last = extent as i32 - 1;
    let from_start = select(index < 0, index + extent as i32, index);
    u32::cast_from(min(max(from_start, 0), last))
}
