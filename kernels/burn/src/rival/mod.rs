//! Burn's operations on operands prepared beforehand, to be timed beside our kernels.

use super::{B, lend};
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::{ActivationOps, ConvOptions, FloatTensorOps, ModuleOps};

/// One operation with its operands, which are shared and not copied when it runs.
pub struct Rival {
    run: Box<dyn Fn() -> FlexTensor + Send + Sync>,
}

impl Rival {
    fn new(run: impl Fn() -> FlexTensor + Send + Sync + 'static) -> Self {
        Rival { run: Box::new(run) }
    }

    /// The product of `a` `[m, k]` and `b` `[k, n]`.
    pub fn gemm(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Self {
        let (a, b) = (lend(a, &[m, k]), lend(b, &[k, n]));
        Self::new(move || B::float_matmul(a.clone(), b.clone()))
    }

    /// Products of `batch` pairs of matrices.
    pub fn batched_gemm(a: &[f32], b: &[f32], batch: usize, [m, k, n]: [usize; 3]) -> Self {
        let (a, b) = (lend(a, &[batch, m, k]), lend(b, &[batch, k, n]));
        Self::new(move || B::float_matmul(a.clone(), b.clone()))
    }

    /// A convolution of `x` `[n, c, h, w]` with `w` `[k, c / groups, kh, kw]`, pads alike at both ends.
    pub fn conv2d(
        x: &[f32],
        image: [usize; 4],
        w: &[f32],
        kernel: [usize; 4],
        strides: [usize; 2],
        pads: [usize; 2],
        groups: usize,
    ) -> Self {
        let (x, w) = (lend(x, &image), lend(w, &kernel));
        let options = ConvOptions::new(strides, pads, [1, 1], groups);
        Self::new(move || B::conv2d(x.clone(), w.clone(), None, options.clone()))
    }

    /// A maximum over windows of planes `[n, c, h, w]`.
    pub fn max_pool(x: &[f32], image: [usize; 4], kernel: [usize; 2], strides: [usize; 2], pads: [usize; 2]) -> Self {
        let x = lend(x, &image);
        Self::new(move || B::max_pool2d(x.clone(), kernel, strides, pads, [1, 1], false))
    }

    /// A mean over windows of planes `[n, c, h, w]`.
    pub fn average_pool(x: &[f32], image: [usize; 4], kernel: [usize; 2], strides: [usize; 2], pads: [usize; 2]) -> Self {
        let x = lend(x, &image);
        Self::new(move || B::avg_pool2d(x.clone(), kernel, strides, pads, false, false))
    }

    /// A softmax of each row.
    pub fn softmax(x: &[f32], [rows, columns]: [usize; 2]) -> Self {
        let x = lend(x, &[rows, columns]);
        Self::new(move || B::softmax(x.clone(), 1))
    }

    /// A layer normalisation of each row.
    pub fn layer_norm(x: &[f32], [rows, columns]: [usize; 2], scale: &[f32], bias: &[f32]) -> Self {
        let (x, scale, bias) = (lend(x, &[rows, columns]), lend(scale, &[columns]), lend(bias, &[columns]));
        Self::new(move || B::layer_norm(x.clone(), scale.clone(), Some(bias.clone()), 1e-5))
    }

    /// Sums of each row.
    pub fn sum_rows(x: &[f32], [rows, columns]: [usize; 2]) -> Self {
        let x = lend(x, &[rows, columns]);
        Self::new(move || B::float_sum_dim(x.clone(), 1))
    }

    /// The chain `tanh(max(x · a + b, 0))`, elementwise.
    pub fn chain(x: &[f32], a: &[f32], b: &[f32]) -> Self {
        let (x, a, b) = (lend(x, &[x.len()]), lend(a, &[a.len()]), lend(b, &[b.len()]));
        Self::new(move || B::float_tanh(B::relu(B::float_add(B::float_mul(x.clone(), a.clone()), b.clone()))))
    }

    /// A copy of a matrix with rows and columns exchanged.
    pub fn transpose(x: &[f32], [rows, columns]: [usize; 2]) -> Self {
        let x = lend(x, &[rows, columns]);
        Self::new(move || B::float_transpose(x.clone()).to_contiguous())
    }

    /// Computes it once and gives the number of elements, so that nothing is optimised away.
    pub fn run(&self) -> usize {
        (self.run)().layout().num_elements()
    }

    /// Computes it once and gives the result.
    pub fn result(&self) -> Vec<f32> {
        (self.run)().into_data().into_vec::<f32>().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_compute() {
        let product = Rival::gemm(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 0.0, 2.0], [2, 2, 2]);
        assert_eq!(product.result(), [1.0, 4.0, 3.0, 8.0]);
        assert_eq!(product.run(), 4);
        assert_eq!(Rival::transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]).result(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(Rival::sum_rows(&[1.0, 2.0, 3.0, 4.0], [2, 2]).result(), [3.0, 7.0]);
        assert_eq!(Rival::chain(&[-1.0, 0.0], &[1.0, 1.0], &[0.0, 0.0]).result(), [0.0, 0.0]);
    }
}
