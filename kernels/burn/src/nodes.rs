//! ONNX nodes by Burn's operations.

use super::{B, given, taken};
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use burn::tensor::ops::{ActivationOps, ConvOptions, ConvTransposeOptions, FloatTensorOps, ModuleOps};
use kernels::reference::EvaluateError;
use kernels::{Attribute, Attributes, Tensor};
use schema::DType;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The operands of a node.
type Operands<'a> = &'a [Option<&'a Tensor>];

/// An operation of Burn's for nodes that fit it; `None` for those that do not.
type Operation = fn(&Attributes, Operands<'_>) -> Option<FlexTensor>;

static OPERATIONS: &[(&str, Operation)] = &[
    ("MatMul", matmul),
    ("Gemm", gemm),
    ("Conv", conv),
    ("ConvTranspose", conv_transpose),
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("Softmax", |attributes, operands| Some(B::softmax(given(operand(operands, 0)?)?, axis(attributes, operands)?))),
    ("LogSoftmax", |attributes, operands| Some(B::log_softmax(given(operand(operands, 0)?)?, axis(attributes, operands)?))),
    ("LayerNormalization", layer_norm),
];

/// Whether [`evaluate`] knows the operator. It may still leave a node of it to the reference.
pub fn takes(op: &str) -> bool {
    OPERATIONS.iter().any(|(name, _)| *name == op)
}

/// Computes a node's first output by Burn, or says `None`: the node asks for something Burn does otherwise, or Burn panicked.
///
/// A caller that wants more than one output must not ask. Operands are those of the newest operator set. Nothing is taken from a budget:
/// this is for execution, where results have been sized.
///
/// # Errors
/// None at present: what Burn refuses goes to the reference, whose errors name the reason.
pub fn evaluate(op: &str, attributes: &Attributes, inputs: Operands<'_>) -> Option<Result<Vec<Tensor>, EvaluateError>> {
    let (_, operation) = OPERATIONS.iter().find(|(name, _)| *name == op)?;
    let plain = |tensor: &&Tensor| tensor.dtype() == DType::F32 && !tensor.is_empty();
    if !inputs.iter().flatten().all(plain) {
        return None;
    }
    let computed = catch_unwind(AssertUnwindSafe(|| operation(attributes, inputs).and_then(taken)));
    computed.ok().flatten().map(|tensor| Ok(vec![tensor]))
}

fn operand<'a>(operands: Operands<'a>, index: usize) -> Option<&'a Tensor> {
    operands.get(index).copied().flatten()
}

/// The axis of a softmax, from the front.
fn axis(attributes: &Attributes, operands: Operands<'_>) -> Option<usize> {
    let rank = i64::try_from(operand(operands, 0)?.shape().len()).ok()?;
    let axis = attributes.int("axis").unwrap_or(-1);
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&axis| (axis as i64) < rank)
}

/// Operands of equal rank with equal leading extents; Burn broadcasts otherwise, and so do we, but not always alike.
fn matmul(_: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    let (x, y) = (a.shape(), b.shape());
    let rank = x.len();
    let fits = rank >= 2 && y.len() == rank && x[..rank - 2] == y[..rank - 2] && x[rank - 1] == y[rank - 2];
    fits.then_some(())?;
    Some(B::float_matmul(given(a)?, given(b)?))
}

fn gemm(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    let matrix = |tensor: &Tensor, flag: &str| -> Option<(FlexTensor, usize, usize)> {
        let &[rows, columns] = tensor.shape() else { return None };
        match attributes.int(flag).unwrap_or(0) {
            0 => Some((given(tensor)?, rows, columns)),
            _ => Some((B::float_transpose(given(tensor)?), columns, rows)),
        }
    };
    let ((a, m, k), (b, depth, n)) = (matrix(a, "transA")?, matrix(b, "transB")?);
    if k != depth {
        return None;
    }
    let scaled = |tensor: FlexTensor, name: &str| match attributes.float(name).unwrap_or(1.0) {
        1.0 => tensor,
        factor => B::float_mul_scalar(tensor, factor.into()),
    };
    let product = scaled(B::float_matmul(a, b), "alpha");
    let Some(bias) = operand(operands, 2) else { return Some(product) };
    let shape = match *bias.shape() {
        [] => [1, 1],
        [columns] => [1, columns],
        [rows, columns] => [rows, columns],
        _ => return None,
    };
    if (shape[0] != 1 && shape[0] != m) || (shape[1] != 1 && shape[1] != n) {
        return None;
    }
    let bias = B::float_reshape(given(bias)?, Shape::from(shape.to_vec()));
    Some(B::float_add(product, B::float_expand(scaled(bias, "beta"), Shape::from(vec![m, n]))))
}

/// A list of one number per axis.
fn numbers<const N: usize>(attributes: &Attributes, name: &str, default: usize) -> Option<[usize; N]> {
    match attributes.get(name) {
        None => Some([default; N]),
        Some(Attribute::Ints(values)) if values.len() == N => {
            let mut out = [0; N];
            for (slot, &value) in out.iter_mut().zip(values) {
                *slot = usize::try_from(value).ok().filter(|&value| value < 1 << 24)?;
            }
            Some(out)
        }
        Some(_) => None,
    }
}

/// Pads that are alike at both ends of each axis.
fn pads<const N: usize>(attributes: &Attributes) -> Option<[usize; N]> {
    match attributes.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" => {}
        "VALID" => return Some([0; N]),
        _ => return None,
    }
    let Some(Attribute::Ints(values)) = attributes.get("pads") else { return Some([0; N]) };
    if values.len() != 2 * N || values[..N] != values[N..] {
        return None;
    }
    let mut out = [0; N];
    for (slot, &value) in out.iter_mut().zip(values) {
        *slot = usize::try_from(value).ok().filter(|&value| value < 1 << 24)?;
    }
    Some(out)
}

/// Strides, pads, dilations and groups of a convolution over `N` axes whose window fits into its input.
struct Window<const N: usize> {
    strides: [usize; N],
    pads: [usize; N],
    dilations: [usize; N],
    groups: usize,
}

impl<const N: usize> Window<N> {
    fn new(attributes: &Attributes) -> Option<Self> {
        let groups = usize::try_from(attributes.int("group").unwrap_or(1)).ok().filter(|&groups| groups > 0)?;
        let (strides, dilations) = (numbers(attributes, "strides", 1)?, numbers(attributes, "dilations", 1)?);
        let window = Window { strides, pads: pads(attributes)?, dilations, groups };
        let positive = window.strides.iter().chain(&window.dilations).all(|&value| value > 0);
        positive.then_some(window)
    }

    /// Whether a kernel of these extents reaches over no more than the padded image.
    fn fits(&self, image: &[usize], kernel: &[usize]) -> bool {
        image.len() == N && kernel.len() == N && (0..N).all(|i| (kernel[i] - 1) * self.dilations[i] < image[i] + 2 * self.pads[i])
    }
}

/// The bias of a convolution: `Some(None)` when it has none.
fn bias(operands: Operands<'_>, filters: usize) -> Option<Option<FlexTensor>> {
    match operand(operands, 2) {
        None => Some(None),
        Some(bias) if bias.shape() == [filters] => given(bias).map(Some),
        Some(_) => None,
    }
}

fn conv(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    /// Options over `N` axes, if extents and groups go together.
    fn options<const N: usize>(attributes: &Attributes, x: &[usize], w: &[usize]) -> Option<ConvOptions<N>> {
        let window = Window::<N>::new(attributes)?;
        let fits =
            window.fits(&x[2..], &w[2..]) && w[1].checked_mul(window.groups) == Some(x[1]) && w[0].is_multiple_of(window.groups);
        fits.then(|| ConvOptions::new(window.strides, window.pads, window.dilations, window.groups))
    }
    let (x, w) = (operand(operands, 0)?, operand(operands, 1)?);
    let (image, kernel) = (x.shape(), w.shape());
    if image.len() != kernel.len() || image.len() < 3 {
        return None;
    }
    let bias = bias(operands, kernel[0])?;
    match image.len() {
        3 => Some(B::conv1d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        4 => Some(B::conv2d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        5 => Some(B::conv3d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        _ => None,
    }
}

fn conv_transpose(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    fn options<const N: usize>(attributes: &Attributes, x: &[usize], w: &[usize]) -> Option<ConvTransposeOptions<N>> {
        let window = Window::<N>::new(attributes)?;
        let extra = numbers::<N>(attributes, "output_padding", 0)?;
        let inside =
            (0..N).all(|i| (x[i + 2] - 1) * window.strides[i] + (w[i + 2] - 1) * window.dilations[i] >= 2 * window.pads[i]);
        let fits = inside
            && w[0] == x[1]
            && x[1].is_multiple_of(window.groups)
            && (0..N).all(|i| extra[i] < window.strides[i].max(window.dilations[i]));
        fits.then(|| ConvTransposeOptions::new(window.strides, window.pads, extra, window.dilations, window.groups))
    }
    let (x, w) = (operand(operands, 0)?, operand(operands, 1)?);
    let (image, kernel) = (x.shape(), w.shape());
    if image.len() != kernel.len() || image.len() < 3 || attributes.get("output_shape").is_some() {
        return None;
    }
    let groups = usize::try_from(attributes.int("group").unwrap_or(1)).ok()?;
    let bias = bias(operands, kernel[1].checked_mul(groups)?)?;
    match image.len() {
        3 => Some(B::conv_transpose1d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        4 => Some(B::conv_transpose2d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        5 => Some(B::conv_transpose3d(given(x)?, given(w)?, bias, options(attributes, image, kernel)?)),
        _ => None,
    }
}

/// The kernel and window of a pooling of planes; rounded-up extents are left to the reference.
fn pool(attributes: &Attributes, operands: Operands<'_>) -> Option<([usize; 2], Window<2>, FlexTensor)> {
    let x = operand(operands, 0)?;
    let kernel = numbers::<2>(attributes, "kernel_shape", 0)?;
    let window = Window::<2>::new(attributes)?;
    let down = attributes.int("ceil_mode").unwrap_or(0) == 0;
    let padded = (0..2).all(|i| kernel[i] > 0 && 2 * window.pads[i] <= kernel[i]);
    let fits = x.shape().len() == 4 && down && padded && window.fits(&x.shape()[2..], &kernel);
    fits.then_some(())?;
    Some((kernel, window, given(x)?))
}

fn max_pool(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    let (kernel, window, x) = pool(attributes, operands)?;
    Some(B::max_pool2d(x, kernel, window.strides, window.pads, window.dilations, false))
}

fn average_pool(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    let (kernel, window, x) = pool(attributes, operands)?;
    if window.dilations != [1, 1] {
        return None;
    }
    let padding_counts = attributes.int("count_include_pad").unwrap_or(0) != 0;
    Some(B::avg_pool2d(x, kernel, window.strides, window.pads, padding_counts, false))
}

/// Over the last axis, with a scale and perhaps a bias of its length.
fn layer_norm(attributes: &Attributes, operands: Operands<'_>) -> Option<FlexTensor> {
    let (x, scale, bias) = (operand(operands, 0)?, operand(operands, 1)?, operand(operands, 2));
    let width = x.shape().last()?;
    let last = axis(attributes, operands)? + 1 == x.shape().len();
    let fits = last && scale.shape() == [*width] && bias.is_none_or(|bias| bias.shape() == [*width]);
    fits.then_some(())?;
    let bias = match bias {
        Some(bias) => Some(given(bias)?),
        None => None,
    };
    let epsilon = f64::from(attributes.float("epsilon").unwrap_or(1e-5));
    Some(B::layer_norm(given(x)?, given(scale)?, bias, epsilon))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Datum;
    use kernels::reference::{self, Budget, Call};

    /// Numbers that look random and are the same everywhere.
    fn noise(shape: &[usize], seed: u32) -> Tensor {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let count = shape.iter().product();
        Tensor::new(shape.to_vec(), (0..count).map(|_| next()).collect())
    }

    fn ints(values: &[i64]) -> Attribute {
        Attribute::Ints(values.to_vec())
    }

    /// Burn's answer is the reference's.
    fn agrees(op: &str, attributes: Attributes, shapes: &[&[usize]]) {
        let tensors: Vec<Tensor> = shapes.iter().enumerate().map(|(i, shape)| noise(shape, i as u32 + 7)).collect();
        let operands: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
        let found = evaluate(op, &attributes, &operands).unwrap_or_else(|| panic!("{op} {shapes:?} is not taken")).unwrap();
        let data: Vec<Datum> = tensors.iter().cloned().map(Datum::Tensor).collect();
        let inputs: Vec<Option<&Datum>> = data.iter().map(Some).collect();
        let call = Call { op, attributes: &attributes, inputs: &inputs, outputs: 1, budget: &Budget::unlimited() };
        let expected = reference::evaluate(&call).unwrap();
        let expected = expected[0].tensor().unwrap();
        assert_eq!(found[0].shape(), expected.shape(), "{op} {shapes:?}");
        let (a, b) = (found[0].values::<f32>().unwrap(), expected.values::<f32>().unwrap());
        for (i, (a, b)) in a.iter().zip(b.iter()).enumerate() {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{op} {shapes:?} element {i}: {a}, the reference has {b}");
        }
    }

    #[test]
    fn burn_agrees_with_the_references() {
        let none = Attributes::default;
        agrees("MatMul", none(), &[&[5, 7], &[7, 3]]);
        agrees("MatMul", none(), &[&[2, 3, 4, 5], &[2, 3, 5, 6]]);
        let turned =
            none().with("transB", Attribute::Int(1)).with("alpha", Attribute::Float(0.5)).with("beta", Attribute::Float(2.0));
        agrees("Gemm", turned, &[&[4, 6], &[5, 6], &[5]]);
        agrees("Gemm", none().with("transA", Attribute::Int(1)), &[&[6, 4], &[6, 5], &[4, 1]]);
        agrees("Conv", none().with("pads", ints(&[1, 1])), &[&[2, 4, 9], &[6, 4, 3], &[6]]);
        let strided = none().with("strides", ints(&[2, 1])).with("pads", ints(&[1, 2, 1, 2])).with("dilations", ints(&[1, 2]));
        agrees("Conv", strided.with("group", Attribute::Int(2)), &[&[2, 4, 11, 9], &[6, 2, 3, 3], &[6]]);
        agrees("Conv", none(), &[&[1, 2, 5, 6, 7], &[3, 2, 2, 3, 3]]);
        let transposed =
            none().with("strides", ints(&[2, 2])).with("pads", ints(&[1, 1, 1, 1])).with("output_padding", ints(&[1, 0]));
        agrees("ConvTranspose", transposed, &[&[2, 4, 5, 4], &[4, 3, 3, 3], &[3]]);
        let window = none().with("kernel_shape", ints(&[3, 2])).with("strides", ints(&[2, 2])).with("pads", ints(&[1, 1, 1, 1]));
        agrees("MaxPool", window.clone(), &[&[2, 3, 9, 8]]);
        agrees("AveragePool", window.clone(), &[&[2, 3, 9, 8]]);
        agrees("AveragePool", window.with("count_include_pad", Attribute::Int(1)), &[&[2, 3, 9, 8]]);
        agrees("Softmax", none(), &[&[3, 4, 17]]);
        agrees("Softmax", none().with("axis", Attribute::Int(1)), &[&[3, 4, 17]]);
        agrees("LogSoftmax", none(), &[&[3, 40]]);
        agrees("LayerNormalization", none(), &[&[3, 4, 24], &[24], &[24]]);
        agrees("LayerNormalization", none(), &[&[3, 24], &[24]]);
    }

    #[test]
    fn what_burn_does_otherwise_is_left_to_the_reference() {
        let x = noise(&[1, 1, 5, 5], 1);
        let uneven = Attributes::default().with("kernel_shape", ints(&[2, 2])).with("pads", ints(&[0, 0, 1, 1]));
        assert!(evaluate("MaxPool", &uneven, &[Some(&x)]).is_none());
        let whole = Tensor::new(vec![2, 2], vec![1i32; 4]);
        assert!(evaluate("MatMul", &Attributes::default(), &[Some(&whole), Some(&whole)]).is_none());
        assert!(evaluate("MatMul", &Attributes::default(), &[Some(&x), None]).is_none());
        assert!(evaluate("Conv", &Attributes::default(), &[Some(&x), Some(&noise(&[1, 1, 9, 9], 2))]).is_none());
        assert!(evaluate("Gather", &Attributes::default(), &[Some(&x)]).is_none());
    }
}
