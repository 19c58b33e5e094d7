//! How a tensor's elements lie in memory.
//!
//! A layout is part of a task: a kernel that reads blocked activations is another task than one that reads rows.

use std::fmt;

/// Channels (or columns) in one block: one AVX-512 vector of f32, two AVX2 vectors. The same for every instruction set, so that
/// layouts, and with them tasks, do not depend on it.
pub const BLOCK: usize = 16;

/// The order of a tensor's elements in memory.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Row-major, as ONNX has it.
    #[default]
    Rows,
    /// `[N, C, H, W]` as `[N][⌈C/16⌉][H + 2·halo][W + 2·halo][16]`. Whoever writes such a tensor also writes zeros into the halo and
    /// into the channels that pad the last block.
    Channels { halo: usize },
    /// `[…, M, K]` as `[…][⌈K/16⌉][M][16]`; columns that pad the last block are zeros, written by the producer.
    Columns,
}

impl Layout {
    /// The number of elements a tensor of `shape` takes in this layout.
    pub fn elements(self, shape: &[usize]) -> usize {
        match (self, shape) {
            (Layout::Channels { halo }, &[n, c, h, w]) => n * c.next_multiple_of(BLOCK) * (h + 2 * halo) * (w + 2 * halo),
            (Layout::Columns, &[ref outer @ .., m, k]) => outer.iter().product::<usize>() * m * k.next_multiple_of(BLOCK),
            _ => shape.iter().product(),
        }
    }

    /// The layout whose [`Display`](fmt::Display) form is `text`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "rows" => Some(Layout::Rows),
            "columns16" => Some(Layout::Columns),
            _ => text.strip_prefix("channels16h")?.parse().ok().map(|halo| Layout::Channels { halo }),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::Rows => f.write_str("rows"),
            Layout::Columns => f.write_str("columns16"),
            Layout::Channels { halo } => write!(f, "channels16h{halo}"),
        }
    }
}
