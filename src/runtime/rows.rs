//! Rows of requests, put together to batches and taken apart again. Pure: shapes and bytes in, bytes out.
//!
//! An axis holds the rows of a tensor when its extent grows with the batch. Which it is, two graphs of a model for different batches
//! tell: nothing is guessed from names or positions. A tensor without such an axis belongs to one request, and so does a batch with it.

use crate::execute::Port;
use kernels::Tensor;
use schema::{Batch, DType};
use std::ops::Range;

/// How a port's tensors are cut into rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub name: String,
    pub dtype: DType,
    /// Of one row.
    pub shape: Vec<usize>,
    pub axis: usize,
}

/// A tensor as row-major bytes, and the rows of it that are meant.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub bytes: &'a [u8],
    /// Of the tensor.
    pub rows: usize,
    pub taken: Range<usize>,
}

impl Cut {
    /// How a port is cut that has the type `small.1` at the batch `small.0` and that of `large.1` at a larger one; `None` when not one axis
    /// holds the rows.
    pub fn between(small: (Batch, &Port), large: (Batch, &Port)) -> Option<Cut> {
        let (a, b) = (small.1.ty.fixed_shape()?, large.1.ty.fixed_shape()?);
        let (n, m) = (small.0.rows() as usize, large.0.rows() as usize);
        if a.len() != b.len() || small.1.ty.dtype() != large.1.ty.dtype() {
            return None;
        }
        let mut grown = (0..a.len()).filter(|&axis| a[axis] != b[axis]);
        let (axis, None) = (grown.next()?, grown.next()) else { return None };
        let row = a[axis] / n;
        let even = row > 0 && row * n == a[axis] && row * m == b[axis];
        let mut shape = a;
        shape[axis] = row;
        even.then_some(Cut { name: small.1.name.clone(), dtype: small.1.ty.dtype()?, shape, axis })
    }

    /// The rows of a tensor; `None` when it is none of this port.
    pub fn rows_of(&self, tensor: &Tensor) -> Option<usize> {
        let shape = tensor.shape();
        let same = |axis: usize| axis == self.axis || shape[axis] == self.shape[axis];
        if tensor.dtype() != self.dtype || shape.len() != self.shape.len() || !(0..shape.len()).all(same) {
            return None;
        }
        let row = self.shape[self.axis];
        (shape[self.axis] > 0 && shape[self.axis].is_multiple_of(row)).then(|| shape[self.axis] / row)
    }

    /// The shape of so many rows.
    pub fn shape_of(&self, rows: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[self.axis] *= rows;
        shape
    }

    /// Bytes of one row that lie together, and how many such pieces a row has.
    fn pieces(&self) -> (usize, usize) {
        let inner: usize = self.shape[self.axis..].iter().product();
        (inner * self.dtype.bytes(), self.shape[..self.axis].iter().product())
    }

    /// Puts parts together into a tensor of `batch` rows. Rows that are left over repeat the last one: they are values which the model
    /// may get.
    pub fn gather(&self, into: &mut [u8], batch: usize, parts: &[Part<'_>]) {
        let (piece, pieces) = self.pieces();
        for (outer, line) in into.chunks_exact_mut((piece * batch).max(1)).take(pieces).enumerate() {
            let mut end = 0;
            for part in parts {
                let begin = (outer * part.rows + part.taken.start) * piece;
                let bytes = &part.bytes[begin..begin + part.taken.len() * piece];
                line[end..end + bytes.len()].copy_from_slice(bytes);
                end += bytes.len();
            }
            while end < line.len() {
                line.copy_within(end - piece..end, end);
                end += piece;
            }
        }
    }

    /// Takes rows out of a tensor of `batch` rows, from the row `first` on, for the rows `into.2` of one of `into.1`, whose bytes `into.0`
    /// is to hold in the end. What has been written of it so far are the rows before these.
    pub fn scatter(&self, from: &[u8], batch: usize, first: usize, into: (&mut Vec<u8>, usize, Range<usize>)) {
        let (piece, pieces) = self.pieces();
        let (bytes, rows, taken) = into;
        let len = taken.len() * piece;
        let read = |outer: usize| &from[(outer * batch + first) * piece..][..len];
        // Bytes that come in their order need no place made for them.
        if pieces == 1 || (bytes.is_empty() && taken.len() == rows) {
            (0..pieces).for_each(|outer| bytes.extend_from_slice(read(outer)));
            return;
        }
        bytes.resize(pieces * rows * piece, 0);
        for outer in 0..pieces {
            let write = (outer * rows + taken.start) * piece;
            bytes[write..write + len].copy_from_slice(read(outer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dim, Type};
    use proptest::prelude::*;

    fn port(shape: &[usize]) -> Port {
        let shape = Some(shape.iter().map(|&extent| Dim::from(extent)).collect());
        Port { name: "x".into(), ty: Type::Tensor { dtype: DType::F32, shape } }
    }

    fn batch(rows: u32) -> Batch {
        Batch::new(rows).unwrap()
    }

    #[test]
    fn the_axis_that_grows_with_the_batch_holds_the_rows() {
        let cut = |a: (u32, &[usize]), b: (u32, &[usize])| Cut::between((batch(a.0), &port(a.1)), (batch(b.0), &port(b.1)));
        let of = |cut: Option<Cut>| cut.map(|cut| (cut.axis, cut.shape));
        assert_eq!(of(cut((1, &[1, 3, 4]), (8, &[8, 3, 4]))), Some((0, vec![1, 3, 4])));
        assert_eq!(of(cut((2, &[7, 2, 4]), (6, &[7, 6, 4]))), Some((1, vec![7, 1, 4])), "time first");
        assert_eq!(of(cut((2, &[10, 4]), (4, &[20, 4]))), Some((0, vec![5, 4])), "five lines a row");
        assert_eq!(of(cut((1, &[1, 4]), (2, &[1, 4]))), None, "nothing grows");
        assert_eq!(of(cut((1, &[1, 1]), (2, &[2, 2]))), None, "two axes grow");
        assert_eq!(of(cut((2, &[3]), (4, &[5]))), None, "not with the batch");
    }

    #[test]
    fn a_tensor_says_how_many_rows_it_has() {
        let cut = Cut { name: "x".into(), dtype: DType::F32, shape: vec![2, 3], axis: 0 };
        let rows = |shape: &[usize]| cut.rows_of(&Tensor::new(shape.to_vec(), vec![0f32; shape.iter().product()]));
        assert_eq!((rows(&[2, 3]), rows(&[8, 3])), (Some(1), Some(4)));
        assert_eq!((rows(&[3, 3]), rows(&[2, 4]), rows(&[0, 3]), rows(&[2, 3, 1])), (None, None, None, None));
        assert_eq!(cut.rows_of(&Tensor::new(vec![2, 3], vec![0i64; 6])), None);
    }

    proptest! {
        /// What is put together and taken apart is what it was, on any axis, with any padding.
        #[test]
        fn rows_come_back(
            outer in 1usize..4, row in 1usize..3, inner in 1usize..5,
            sizes in prop::collection::vec(1usize..5, 1..5), spare in 0usize..4,
        ) {
            let cut = Cut { name: "x".into(), dtype: DType::F32, shape: vec![outer, row, inner], axis: 1 };
            let mut next = 0f32;
            let tensors: Vec<Tensor> = sizes.iter().map(|&rows| {
                let count = outer * row * rows * inner;
                let values = (0..count).map(|_| { next += 1.0; next }).collect();
                Tensor::new(cut.shape_of(rows), values)
            }).collect();
            let together: usize = sizes.iter().sum();
            let batch = together + spare;
            let parts: Vec<Part<'_>> = tensors.iter().zip(&sizes)
                .map(|(tensor, &rows)| Part { bytes: tensor.bytes(), rows, taken: 0..rows }).collect();
            let mut gathered = vec![0xffu8; outer * row * batch * inner * 4];
            cut.gather(&mut gathered, batch, &parts);
            let whole = Tensor::from_bytes(DType::F32, cut.shape_of(batch), gathered.clone().into()).unwrap();
            // A plain reference: element by element.
            let (have, mut first) = (whole.values::<f32>().unwrap().into_owned(), 0);
            for (tensor, &rows) in tensors.iter().zip(&sizes) {
                let values = tensor.values::<f32>().unwrap();
                for o in 0..outer { for r in 0..row * rows { for i in 0..inner {
                    prop_assert_eq!(have[(o * row * batch + first * row + r) * inner + i], values[(o * row * rows + r) * inner + i]);
                } } }
                first += rows;
            }
            let mut first = 0;
            for (tensor, &rows) in tensors.iter().zip(&sizes) {
                let mut bytes = Vec::with_capacity(tensor.bytes().len());
                // In two steps, as a request that is larger than the batch is answered.
                let middle = rows / 2;
                cut.scatter(&gathered, batch, first, (&mut bytes, rows, 0..middle));
                cut.scatter(&gathered, batch, first + middle, (&mut bytes, rows, middle..rows));
                prop_assert_eq!(&bytes[..], tensor.bytes());
                first += rows;
            }
            // What is left over repeats the last row.
            for o in 0..outer { for r in together..batch { for l in 0..row { for i in 0..inner {
                let last = have[(o * row * batch + (together - 1) * row + l) * inner + i];
                prop_assert_eq!(have[(o * row * batch + r * row + l) * inner + i], last);
            } } } }
        }
    }
}
