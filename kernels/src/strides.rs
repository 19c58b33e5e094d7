//! Shapes as strides: broadcasting, walking, and joining axes that lie behind each other.

/// The strides of a row-major tensor, in elements.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// The shape that all of `shapes` broadcast to; `None` when they do not agree.
pub fn broadcast<'a>(shapes: impl IntoIterator<Item = &'a [usize]> + Clone) -> Option<Vec<usize>> {
    let rank = shapes.clone().into_iter().map(<[usize]>::len).max()?;
    let mut out = vec![1; rank];
    for shape in shapes {
        for (have, &dim) in out[rank - shape.len()..].iter_mut().zip(shape) {
            if *have == 1 {
                *have = dim;
            } else if dim != 1 && dim != *have {
                return None;
            }
        }
    }
    Some(out)
}

/// The strides of a row-major tensor of `shape` walked as `out`: 0 along the axes it is repeated over. `None` when it does not
/// broadcast to `out`.
pub fn broadcast_strides(shape: &[usize], out: &[usize]) -> Option<Vec<usize>> {
    let skip = out.len().checked_sub(shape.len())?;
    let mut strides = vec![0; out.len()];
    let own = row_major(shape);
    for (axis, (&dim, &stride)) in shape.iter().zip(&own).enumerate() {
        if dim == out[skip + axis] {
            strides[skip + axis] = if dim == 1 { 0 } else { stride };
        } else if dim != 1 {
            return None;
        }
    }
    Some(strides)
}

/// Drops axes of extent 1 and joins neighbours that every set of strides walks as one. `strides[k]` are operand k's.
pub fn collapse(dims: &mut Vec<usize>, strides: &mut [Vec<isize>]) {
    let mut keep = 0;
    for axis in 0..dims.len() {
        let dim = dims[axis];
        if dim == 1 {
            continue;
        }
        let joins = keep > 0 && strides.iter().all(|s| s[keep - 1] == s[axis] * dim as isize);
        if joins {
            dims[keep - 1] *= dim;
            strides.iter_mut().for_each(|s| s[keep - 1] = s[axis]);
        } else {
            dims[keep] = dim;
            strides.iter_mut().for_each(|s| s[keep] = s[axis]);
            keep += 1;
        }
    }
    dims.truncate(keep);
    strides.iter_mut().for_each(|s| s.truncate(keep));
}

/// The index along every axis of the `flat`-th element in row-major order, and with it the offset under `strides`.
pub fn offset_of(mut flat: usize, dims: &[usize], strides: &[isize]) -> isize {
    let mut offset = 0;
    for (&dim, &stride) in dims.iter().zip(strides).rev() {
        offset += (flat % dim) as isize * stride;
        flat /= dim;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_as_in_numpy() {
        let shapes: [&[usize]; 3] = [&[3, 1], &[2, 1, 4], &[]];
        assert_eq!(broadcast(shapes), Some(vec![2, 3, 4]));
        assert_eq!(broadcast([&[2][..], &[3][..]]), None);
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), Some(vec![0, 1, 0]));
        assert_eq!(broadcast_strides(&[2], &[3]), None);
        assert_eq!(broadcast([&[0][..], &[1][..]]), Some(vec![0]));
    }

    #[test]
    fn axes_that_lie_behind_each_other_are_joined() {
        let mut dims = vec![2, 1, 3, 4];
        let mut strides = vec![vec![12, 12, 4, 1], vec![0, 0, 4, 1]];
        collapse(&mut dims, &mut strides);
        assert_eq!((dims, strides), (vec![2, 12], vec![vec![12, 1], vec![0, 1]]));
    }
}
