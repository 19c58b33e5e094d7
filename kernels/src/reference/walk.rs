//! Walking over strided data in row-major order, with the longest possible contiguous rows.

use super::EvaluateError;

/// Strides of a dense row-major tensor, in elements.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![0isize; shape.len()];
    let mut step = 1usize;
    for (stride, &extent) in strides.iter_mut().zip(shape).rev() {
        *stride = step as isize;
        step = step.wrapping_mul(extent.max(1));
    }
    strides
}

/// The common shape of operands under numpy's broadcasting.
pub(crate) fn broadcast_shape(op: &str, shapes: &[&[usize]]) -> Result<Vec<usize>, EvaluateError> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for shape in shapes {
        let lead = rank - shape.len();
        for (&extent, slot) in shape.iter().zip(&mut out[lead..]) {
            if extent == *slot || extent == 1 {
                continue;
            }
            if *slot != 1 {
                return Err(EvaluateError::Shape(format!("{op}: shapes {shapes:?} do not broadcast")));
            }
            *slot = extent;
        }
    }
    Ok(out)
}

/// Strides of a dense tensor of `shape` seen as `out`: 0 along the axes it is repeated on. `shape` must broadcast to `out`.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<isize> {
    let lead = out.len() - shape.len();
    let mut strides = vec![0isize; out.len()];
    for (axis, stride) in dense_strides(shape).into_iter().enumerate() {
        if shape[axis] != 1 {
            strides[lead + axis] = stride;
        }
    }
    strides
}

/// A row-major walk over `N` operands at once. Axes that lie dense in all of them are merged.
#[derive(Clone, Debug)]
pub(crate) struct Walk<const N: usize> {
    extents: Vec<usize>,
    strides: Vec<[isize; N]>,
    start: [isize; N],
}

impl<const N: usize> Walk<N> {
    /// A walk over `extents`; each operand has a first element and one stride per axis.
    pub(crate) fn new(extents: &[usize], start: [isize; N], operands: [&[isize]; N]) -> Self {
        let mut walk = Walk { extents: Vec::new(), strides: Vec::new(), start };
        for (axis, &extent) in extents.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let here: [isize; N] = std::array::from_fn(|n| operands[n][axis]);
            match (walk.extents.last_mut(), walk.strides.last_mut()) {
                (Some(last), Some(before)) if (0..N).all(|n| before[n] == here[n].wrapping_mul(extent as isize)) => {
                    *last *= extent;
                    *before = here;
                }
                _ => {
                    walk.extents.push(extent);
                    walk.strides.push(here);
                }
            }
        }
        if walk.extents.is_empty() {
            walk.extents.push(1);
            walk.strides.push([1; N]);
        }
        walk
    }

    /// Calls `row(offsets, length, steps)` for each innermost row, in order.
    pub(crate) fn rows(&self, mut row: impl FnMut([isize; N], usize, [isize; N])) {
        if self.extents.contains(&0) {
            return;
        }
        let inner = self.extents.len() - 1;
        let (length, steps) = (self.extents[inner], self.strides[inner]);
        let mut at = vec![0usize; inner];
        let mut offsets = self.start;
        loop {
            row(offsets, length, steps);
            let mut axis = inner;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                at[axis] += 1;
                for (offset, stride) in offsets.iter_mut().zip(self.strides[axis]) {
                    *offset += stride;
                }
                if at[axis] < self.extents[axis] {
                    break;
                }
                for (offset, stride) in offsets.iter_mut().zip(self.strides[axis]) {
                    *offset -= stride * self.extents[axis] as isize;
                }
                at[axis] = 0;
            }
        }
    }
}

/// Copies a strided view of `source` in row-major order. The view must lie inside `source`.
pub(crate) fn copy_view<T: Clone>(source: &[T], start: isize, extents: &[usize], strides: &[isize]) -> Vec<T> {
    let count = extents.iter().product();
    let mut out = Vec::with_capacity(count);
    if count == 0 {
        return out;
    }
    Walk::new(extents, [start], [strides]).rows(|[at], length, [step]| {
        let at = at as usize;
        match step {
            1 => out.extend_from_slice(&source[at..at + length]),
            0 => out.resize(out.len() + length, source[at].clone()),
            _ => out.extend((0..length).map(|i| source[(at as isize + i as isize * step) as usize].clone())),
        }
    });
    out
}

/// Counts through all positions of `shape` in row-major order.
pub(crate) fn positions(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0usize; shape.len()];
    loop {
        visit(&at);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_copied_in_its_own_order() {
        let source: Vec<i32> = (0..6).collect();
        assert_eq!(copy_view(&source, 0, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(copy_view(&source, 5, &[6], &[-1]), [5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn shapes_broadcast_as_numpy_does() {
        assert_eq!(broadcast_shape("Add", &[&[2, 1, 4], &[3, 1]]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast_shape("Add", &[&[0], &[1]]).unwrap(), [0]);
        assert!(broadcast_shape("Add", &[&[2], &[3]]).is_err());
    }
}
