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

/// The elements of a row-major tensor of `shape`, in `layout`: what kernels and tests mean by it, one element after the other.
/// Halo and padding are `T::default()`.
///
/// Panics when `values` do not fill `shape`, or the layout does not fit its rank.
pub fn to_layout<T: Copy + Default>(values: &[T], shape: &[usize], layout: Layout) -> Vec<T> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "values fill the shape {shape:?}");
    let mut laid = vec![T::default(); layout.elements(shape)];
    for (i, &value) in values.iter().enumerate() {
        laid[position(i, shape, layout)] = value;
    }
    laid
}

/// The row-major elements of a tensor of `shape` that lies in `layout`: the inverse of [`to_layout`].
///
/// Panics when `laid` has another number of elements than the layout takes, or the layout does not fit the rank.
pub fn from_layout<T: Copy>(laid: &[T], shape: &[usize], layout: Layout) -> Vec<T> {
    assert_eq!(laid.len(), layout.elements(shape), "elements of {layout} fill the shape {shape:?}");
    (0..shape.iter().product()).map(|i| laid[position(i, shape, layout)]).collect()
}

/// Where the `i`-th element in row-major order lies.
fn position(i: usize, shape: &[usize], layout: Layout) -> usize {
    match (layout, shape) {
        (Layout::Rows, _) => i,
        (Layout::Channels { halo }, &[_, c, h, w]) => {
            let (x, y, channel, image) = (i % w, i / w % h, i / (w * h) % c, i / (w * h * c));
            let block = image * c.div_ceil(BLOCK) + channel / BLOCK;
            ((block * (h + 2 * halo) + y + halo) * (w + 2 * halo) + x + halo) * BLOCK + channel % BLOCK
        }
        (Layout::Columns, &[.., m, k]) => {
            let (column, row, matrix) = (i % k, i / k % m, i / (k * m));
            ((matrix * k.div_ceil(BLOCK) + column / BLOCK) * m + row) * BLOCK + column % BLOCK
        }
        _ => panic!("layout {layout} does not fit the shape {shape:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_parse_back() {
        for layout in [Layout::Rows, Layout::Columns, Layout::Channels { halo: 0 }, Layout::Channels { halo: 3 }] {
            assert_eq!(Layout::parse(&layout.to_string()), Some(layout));
        }
        assert_eq!(Layout::parse("channels16h"), None);
    }

    #[test]
    fn layouts_convert_back_and_pad_with_zeros() {
        let shape = [2, 17, 3, 5];
        let values: Vec<f32> = (1..=2 * 17 * 3 * 5).map(|i| i as f32).collect();
        for layout in [Layout::Rows, Layout::Columns, Layout::Channels { halo: 0 }, Layout::Channels { halo: 2 }] {
            let laid = to_layout(&values, &shape, layout);
            assert_eq!(from_layout(&laid, &shape, layout), values, "{layout}");
            assert_eq!(laid.iter().filter(|&&x| x == 0.0).count(), laid.len() - values.len(), "{layout}");
        }
        // Image 1, channel 16 (block 1, lane 0), y 2, x 4, behind a halo of 2.
        let laid = to_layout(&values, &shape, Layout::Channels { halo: 2 });
        assert_eq!(laid[(((2 + 1) * 7 + 4) * 9 + 6) * 16], values[((17 + 16) * 3 + 2) * 5 + 4]);
    }
}
