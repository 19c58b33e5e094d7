//! The same program, row by row: a tile never reaches over the end of the innermost axis. So an operand that is broadcast along
//! other axes (a bias over rows) is read in place, where [`host_tiles`](super::host_tiles) must first lay several of its rows
//! behind each other.

use super::geometry::{self, Access, Walk};
use super::host_tiles::{self, STORES, STREAMED_RULE, TILE};
use crate::row_split::{PARTITION, PARTITION_RULE};
use crate::{Rule, Task, Variant};

/// Operands broadcast over rows.
pub static ROWS: Variant = Variant {
    id: "elementwise.host_rows",
    revision: 1,
    knobs: &[TILE, STORES, PARTITION],
    rules: &[
        Rule { reason: "nothing is broadcast over long rows", holds: |task, _, _| has_long_rows(task) },
        STREAMED_RULE,
        PARTITION_RULE,
    ],
    default: host_tiles::default,
    build: |request| host_tiles::build(request, true),
};

/// The shortest innermost axis that is worth tiles of its own: below it, the work around a tile is most of it.
const ROW_MIN: usize = 64;

fn has_long_rows(task: &Task) -> bool {
    super::signature(task).is_ok_and(|signature| match geometry::plan(&signature) {
        (Walk::Rows { dims }, access) => {
            dims.last().is_some_and(|&row| row >= ROW_MIN) && access.iter().any(|access| matches!(access, Access::Strided(_)))
        }
        (Walk::Blocked(_), _) => false,
    })
}
