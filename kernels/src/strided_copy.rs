//! Copies between strided places: what transposes, slices, concatenations and expansions come down to.

use crate::row_split;
use crate::strides::collapse;

/// A box of elements to copy: `to[t + Σ iₖ·tₖ] = from[f + Σ iₖ·fₖ]`.
#[derive(Clone, Debug)]
pub struct Piece {
    dims: Vec<usize>,
    from: usize,
    from_strides: Vec<isize>,
    to: usize,
    to_strides: Vec<isize>,
}

impl Piece {
    /// A piece; axes that both sides walk as one are joined. Offsets are those of the first element.
    pub fn new(mut dims: Vec<usize>, from: usize, from_strides: Vec<isize>, to: usize, to_strides: Vec<isize>) -> Self {
        let mut strides = [from_strides, to_strides];
        if !dims.contains(&0) {
            collapse(&mut dims, &mut strides);
        }
        let [from_strides, to_strides] = strides;
        Piece { dims, from, from_strides, to, to_strides }
    }

    /// The joined extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Where the first element lies in the source.
    pub fn from(&self) -> usize {
        self.from
    }

    /// Where the first element goes in the target.
    pub fn to(&self) -> usize {
        self.to
    }

    /// The strides of the target, joined.
    pub fn to_strides(&self) -> &[isize] {
        &self.to_strides
    }

    /// The strides of the source, joined.
    pub fn from_strides(&self) -> &[isize] {
        &self.from_strides
    }

    /// Copies in `parts` threads along the outermost axis, whose stride in `to` must be the greatest.
    pub fn copy<T: Copy + Send + Sync>(&self, from: &[T], to: &mut [T], parts: usize) {
        if self.dims.contains(&0) {
            return;
        }
        let (Some(&outer), true) = (self.dims.first(), parts > 1) else {
            return self.walk(0, from, self.from as isize, to, self.to as isize);
        };
        if let (&[from_stride], &[1]) = (&self.from_strides[..], &self.to_strides[..]) {
            return row_split::rows(&mut to[self.to..self.to + outer], RUN_GRAIN, parts, &|first, run| {
                let at = self.from as isize + (first * RUN_GRAIN) as isize * from_stride;
                line(run.len(), (from, at, from_stride), (run, 0, 1));
            });
        }
        let stride = self.to_strides[0] as usize;
        let rest: usize = self.dims.iter().zip(&self.to_strides).skip(1).map(|(&dim, &s)| (dim - 1) * s as usize).sum();
        let end = self.to + (outer - 1) * stride + rest + 1;
        row_split::rows(&mut to[self.to..end], stride, parts, &|first, rows| {
            let count = rows.len().div_ceil(stride);
            for i in 0..count {
                let at = self.from as isize + (first + i) as isize * self.from_strides[0];
                self.walk(1, from, at, rows, (i * stride) as isize);
            }
        });
    }

    fn walk<T: Copy>(&self, axis: usize, from: &[T], f: isize, to: &mut [T], t: isize) {
        let Some(&dim) = self.dims.get(axis) else {
            to[t as usize] = from[f as usize];
            return;
        };
        let (fs, ts) = (self.from_strides[axis], self.to_strides[axis]);
        if axis + 1 < self.dims.len() {
            for i in 0..dim as isize {
                self.walk(axis + 1, from, f + i * fs, to, t + i * ts);
            }
            return;
        }
        line(dim, (from, f, fs), (to, t, ts));
    }
}

/// Elements of one run that a thread copies at least.
const RUN_GRAIN: usize = 4096;

/// Copies `dim` elements from `f` on, `fs` apart, to `t` on, `ts` apart.
fn line<T: Copy>(dim: usize, (from, f, fs): (&[T], isize, isize), (to, t, ts): (&mut [T], isize, isize)) {
    match (fs, ts) {
        (1, 1) => to[t as usize..][..dim].copy_from_slice(&from[f as usize..][..dim]),
        (0, 1) => to[t as usize..][..dim].fill(from[f as usize]),
        (_, 1) => {
            for (i, to) in to[t as usize..][..dim].iter_mut().enumerate() {
                *to = from[(f + i as isize * fs) as usize];
            }
        }
        _ => {
            for i in 0..dim as isize {
                to[(t + i * ts) as usize] = from[(f + i * fs) as usize];
            }
        }
    }
}

/// Calls a generic function for the unsigned type as wide as a dtype: `by_width!(dtype, f(args))` is `f::<u32>(args)` for f32.
/// Types of other widths are none of the kernels' operands.
macro_rules! by_width {
    ($dtype:expr, $($function:ident).+($($argument:expr),*)) => {
        match $dtype.bytes() {
            1 => $($function).+::<u8>($($argument),*),
            2 => $($function).+::<u16>($($argument),*),
            4 => $($function).+::<u32>($($argument),*),
            _ => $($function).+::<u64>($($argument),*),
        }
    };
}
pub(crate) use by_width;

/// Whether elements of the type can be copied by [`by_width`].
pub fn is_copied(dtype: schema::DType) -> bool {
    matches!(dtype.bytes(), 1 | 2 | 4 | 8)
}
