//! ONNX nodes by Burn's operations, on whatever engine.

use super::taken;
use crate::engine::{Engine, lend, reshaped};
use burn::backend::Flex;
use burn::tensor::Shape;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, FloatTensor, FloatTensorOps, ModuleOps};
use kernels::reference::EvaluateError;
use kernels::{Attribute, Attributes, Tensor};
use schema::DType;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An operand of a node, wherever it lies.
pub trait Operand<B: Engine> {
    /// Its extents.
    fn shape(&self) -> &[usize];
    /// As a tensor of Burn's; `None` when it is not one of f32.
    fn given(&self) -> Option<FloatTensor<B>>;
    /// Its elements, when they are integers and known.
    fn ints(&self) -> Option<Vec<i64>>;
}

impl Operand<Flex> for Tensor {
    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }

    fn given(&self) -> Option<FloatTensor<Flex>> {
        self.values::<f32>().map(|values| lend::<Flex>(&values, Tensor::shape(self), &Default::default()))
    }

    fn ints(&self) -> Option<Vec<i64>> {
        self.to_ints()
    }
}

/// The operands of a node.
pub type Operands<'a, B> = &'a [Option<&'a dyn Operand<B>>];

/// An operation of Burn's for nodes that fit it; `None` for those that do not.
pub type Operation<B> = fn(&Attributes, Operands<'_, B>) -> Option<FloatTensor<B>>;

/// Windows and rows.
const fn everywhere<B: Engine>() -> &'static [(&'static str, Operation<B>)] {
    &[
        ("MaxPool", max_pool::<B>),
        ("AveragePool", average_pool::<B>),
        ("Softmax", |attributes, operands| {
            Some(B::softmax(operand::<B>(operands, 0)?.given()?, axis::<B>(attributes, operands)?))
        }),
        ("LogSoftmax", |attributes, operands| {
            Some(B::log_softmax(operand::<B>(operands, 0)?.given()?, axis::<B>(attributes, operands)?))
        }),
        ("LayerNormalization", layer_norm::<B>),
    ]
}

/// What Burn is given on the host only: on devices our kernels take products and all convolutions but those over volumes, and
/// what Burn brings for them need not be compiled.
const HOST: &[(&str, Operation<Flex>)] = &[("MatMul", matmul), ("Gemm", gemm), ("Conv", conv), ("ConvTranspose", conv_transpose)];

/// What Burn is given on devices only: it does this no faster than the host's reference, but where the operand lies. Arc functions are
/// not among them: drivers may be 4,096 units in the last place off (WGSL, accuracy of built-in functions), and Mesa's is.
const fn device<B: Engine>() -> &'static [(&'static str, Operation<B>)] {
    &[
        ("Conv", conv_volume::<B>),
        ("ConvTranspose", conv_transpose_volume::<B>),
        ("CumSum", |attributes, operands| running::<B>(attributes, operands, B::float_cumsum)),
        ("CumProd", |attributes, operands| running::<B>(attributes, operands, B::float_cumprod)),
        ("Tan", |_, operands| Some(B::float_tan(operand::<B>(operands, 0)?.given()?))),
        ("Sinh", |_, operands| Some(B::float_sinh(operand::<B>(operands, 0)?.given()?))),
        ("Cosh", |_, operands| Some(B::float_cosh(operand::<B>(operands, 0)?.given()?))),
        ("Asinh", |_, operands| Some(B::float_asinh(operand::<B>(operands, 0)?.given()?))),
        ("Acosh", |_, operands| Some(B::float_acosh(operand::<B>(operands, 0)?.given()?))),
        ("Atanh", |_, operands| Some(B::float_atanh(operand::<B>(operands, 0)?.given()?))),
    ]
}

/// The operations of the host.
fn on_host() -> impl Iterator<Item = &'static (&'static str, Operation<Flex>)> {
    HOST.iter().chain(everywhere::<Flex>())
}

/// Those of devices.
pub fn on_device<B: Engine>() -> impl Iterator<Item = &'static (&'static str, Operation<B>)> {
    device::<B>().iter().chain(everywhere::<B>())
}

/// Whether [`evaluate`] knows the operator. It may still leave a node of it to the reference.
pub fn takes(op: &str) -> bool {
    on_host().any(|(name, _)| *name == op)
}

/// Computes a node's first output by Burn, or says `None`: the node asks for something Burn does otherwise, or Burn panicked.
///
/// A caller that wants more than one output must not ask. Operands are those of the newest operator set. Nothing is taken from a budget:
/// this is for execution, where results have been sized.
///
/// # Errors
/// None at present: what Burn refuses goes to the reference, whose errors name the reason.
pub fn evaluate(op: &str, attributes: &Attributes, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, EvaluateError>> {
    let (_, operation) = on_host().find(|(name, _)| *name == op)?;
    let plain = |tensor: &&Tensor| tensor.dtype() == DType::F32 && !tensor.is_empty();
    if !inputs.iter().flatten().all(plain) {
        return None;
    }
    let operands: Vec<Option<&dyn Operand<Flex>>> =
        inputs.iter().map(|input| input.map(|tensor| tensor as &dyn Operand<Flex>)).collect();
    let computed = catch_unwind(AssertUnwindSafe(|| operation(attributes, &operands).and_then(taken)));
    computed.ok().flatten().map(|tensor| Ok(vec![tensor]))
}

fn operand<'a, B: Engine>(operands: Operands<'a, B>, index: usize) -> Option<&'a dyn Operand<B>> {
    operands.get(index).copied().flatten()
}

/// The axis of a softmax, from the front.
fn axis<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<usize> {
    let rank = i64::try_from(operand::<B>(operands, 0)?.shape().len()).ok()?;
    let axis = attributes.int("axis").unwrap_or(-1);
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&axis| (axis as i64) < rank)
}

/// Operands of equal rank with equal leading extents; Burn broadcasts otherwise, and so do we, but not always alike.
fn matmul(_: &Attributes, operands: Operands<'_, Flex>) -> Option<FloatTensor<Flex>> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    let (x, y) = (a.shape(), b.shape());
    let rank = x.len();
    let fits = rank >= 2 && y.len() == rank && x[..rank - 2] == y[..rank - 2] && x[rank - 1] == y[rank - 2];
    fits.then_some(())?;
    Some(Flex::float_matmul(a.given()?, b.given()?))
}

fn gemm(attributes: &Attributes, operands: Operands<'_, Flex>) -> Option<FloatTensor<Flex>> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    let matrix = |tensor: &dyn Operand<Flex>, flag: &str| -> Option<(FloatTensor<Flex>, usize, usize)> {
        let &[rows, columns] = tensor.shape() else { return None };
        match attributes.int(flag).unwrap_or(0) {
            0 => Some((tensor.given()?, rows, columns)),
            _ => Some((Flex::float_transpose(tensor.given()?), columns, rows)),
        }
    };
    let ((a, m, k), (b, depth, n)) = (matrix(a, "transA")?, matrix(b, "transB")?);
    if k != depth {
        return None;
    }
    let scaled = |tensor: FloatTensor<Flex>, name: &str| match attributes.float(name).unwrap_or(1.0) {
        1.0 => tensor,
        factor => Flex::float_mul_scalar(tensor, factor.into()),
    };
    let product = scaled(Flex::float_matmul(a, b), "alpha");
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
    let bias = reshaped::<Flex>(bias.given()?, &shape);
    Some(Flex::float_add(product, Flex::float_expand(scaled(bias, "beta"), Shape::from(vec![m, n]))))
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
fn bias<B: Engine>(operands: Operands<'_, B>, filters: usize) -> Option<Option<FloatTensor<B>>> {
    match operand::<B>(operands, 2) {
        None => Some(None),
        Some(bias) if *bias.shape() == [filters] => bias.given().map(Some),
        Some(_) => None,
    }
}

/// Image and kernel of a convolution.
fn convolved<B: Engine>(operands: Operands<'_, B>) -> Option<(&dyn Operand<B>, &dyn Operand<B>)> {
    let (x, w) = (operand::<B>(operands, 0)?, operand::<B>(operands, 1)?);
    (x.shape().len() == w.shape().len() && x.shape().len() >= 3).then_some((x, w))
}

/// Options of a convolution over `N` axes, if extents and groups go together.
fn options<const N: usize>(attributes: &Attributes, x: &[usize], w: &[usize]) -> Option<ConvOptions<N>> {
    let window = Window::<N>::new(attributes)?;
    let fits =
        window.fits(&x[2..], &w[2..]) && w[1].checked_mul(window.groups) == Some(x[1]) && w[0].is_multiple_of(window.groups);
    fits.then(|| ConvOptions::new(window.strides, window.pads, window.dilations, window.groups))
}

fn conv(attributes: &Attributes, operands: Operands<'_, Flex>) -> Option<FloatTensor<Flex>> {
    let (x, w) = convolved(operands)?;
    let (image, kernel) = (x.shape(), w.shape());
    let bias = bias(operands, kernel[0])?;
    match image.len() {
        3 => Some(Flex::conv1d(x.given()?, w.given()?, bias, options(attributes, image, kernel)?)),
        4 => Some(Flex::conv2d(x.given()?, w.given()?, bias, options(attributes, image, kernel)?)),
        _ => conv_volume(attributes, operands),
    }
}

fn conv_volume<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<FloatTensor<B>> {
    let (x, w) = convolved(operands)?;
    let (image, kernel) = (x.shape(), w.shape());
    let bias = bias(operands, kernel[0])?;
    (image.len() == 5).then_some(())?;
    Some(B::conv3d(x.given()?, w.given()?, bias, options(attributes, image, kernel)?))
}

/// Options of a transposed convolution over `N` axes, if extents and groups go together.
fn transposed_options<const N: usize>(attributes: &Attributes, x: &[usize], w: &[usize]) -> Option<ConvTransposeOptions<N>> {
    let window = Window::<N>::new(attributes)?;
    let extra = numbers::<N>(attributes, "output_padding", 0)?;
    let inside = (0..N).all(|i| (x[i + 2] - 1) * window.strides[i] + (w[i + 2] - 1) * window.dilations[i] >= 2 * window.pads[i]);
    let fits = inside
        && attributes.get("output_shape").is_none()
        && w[0] == x[1]
        && x[1].is_multiple_of(window.groups)
        && (0..N).all(|i| extra[i] < window.strides[i].max(window.dilations[i]));
    fits.then(|| ConvTransposeOptions::new(window.strides, window.pads, extra, window.dilations, window.groups))
}

/// The bias of a transposed convolution: `Some(None)` when it has none.
fn transposed_bias<B: Engine>(
    attributes: &Attributes,
    operands: Operands<'_, B>,
    kernel: &[usize],
) -> Option<Option<FloatTensor<B>>> {
    let groups = usize::try_from(attributes.int("group").unwrap_or(1)).ok()?;
    bias(operands, kernel[1].checked_mul(groups)?)
}

fn conv_transpose(attributes: &Attributes, operands: Operands<'_, Flex>) -> Option<FloatTensor<Flex>> {
    let (x, w) = convolved(operands)?;
    let (image, kernel) = (x.shape(), w.shape());
    let bias = transposed_bias(attributes, operands, kernel)?;
    match image.len() {
        3 => Some(Flex::conv_transpose1d(x.given()?, w.given()?, bias, transposed_options(attributes, image, kernel)?)),
        4 => Some(Flex::conv_transpose2d(x.given()?, w.given()?, bias, transposed_options(attributes, image, kernel)?)),
        _ => conv_transpose_volume(attributes, operands),
    }
}

fn conv_transpose_volume<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<FloatTensor<B>> {
    let (x, w) = convolved(operands)?;
    let (image, kernel) = (x.shape(), w.shape());
    let bias = transposed_bias(attributes, operands, kernel)?;
    (image.len() == 5).then_some(())?;
    Some(B::conv_transpose3d(x.given()?, w.given()?, bias, transposed_options(attributes, image, kernel)?))
}

/// The kernel and window of a pooling of planes; rounded-up extents are left to the reference.
fn pool<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<([usize; 2], Window<2>, FloatTensor<B>)> {
    let x = operand::<B>(operands, 0)?;
    let kernel = numbers::<2>(attributes, "kernel_shape", 0)?;
    let window = Window::<2>::new(attributes)?;
    let down = attributes.int("ceil_mode").unwrap_or(0) == 0;
    let padded = (0..2).all(|i| kernel[i] > 0 && 2 * window.pads[i] <= kernel[i]);
    let fits = x.shape().len() == 4 && down && padded && window.fits(&x.shape()[2..], &kernel);
    fits.then_some(())?;
    Some((kernel, window, x.given()?))
}

fn max_pool<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<FloatTensor<B>> {
    let (kernel, window, x) = pool::<B>(attributes, operands)?;
    Some(B::max_pool2d(x, kernel, window.strides, window.pads, window.dilations, false))
}

fn average_pool<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<FloatTensor<B>> {
    let (kernel, window, x) = pool::<B>(attributes, operands)?;
    if window.dilations != [1, 1] {
        return None;
    }
    let padding_counts = attributes.int("count_include_pad").unwrap_or(0) != 0;
    Some(B::avg_pool2d(x, kernel, window.strides, window.pads, padding_counts, false))
}

/// Over the last axis, with a scale and perhaps a bias of its length.
fn layer_norm<B: Engine>(attributes: &Attributes, operands: Operands<'_, B>) -> Option<FloatTensor<B>> {
    let (x, scale, bias) = (operand::<B>(operands, 0)?, operand::<B>(operands, 1)?, operand::<B>(operands, 2));
    let width = x.shape().last()?;
    let last = axis::<B>(attributes, operands)? + 1 == x.shape().len();
    let fits = last && scale.shape() == [*width] && bias.is_none_or(|bias| bias.shape() == [*width]);
    fits.then_some(())?;
    let bias = match bias {
        Some(bias) => Some(bias.given()?),
        None => None,
    };
    let epsilon = f64::from(attributes.float("epsilon").unwrap_or(1e-5));
    Some(B::layer_norm(x.given()?, scale.given()?, bias, epsilon))
}

/// Sums or products along an axis, each with all before it.
fn running<B: Engine>(
    attributes: &Attributes,
    operands: Operands<'_, B>,
    run: fn(FloatTensor<B>, usize) -> FloatTensor<B>,
) -> Option<FloatTensor<B>> {
    let (x, axis) = (operand::<B>(operands, 0)?, operand::<B>(operands, 1)?.ints()?);
    let plain = ["exclusive", "reverse"].iter().all(|name| attributes.int(name).unwrap_or(0) == 0);
    let (rank, &[axis]) = (x.shape().len() as i64, &axis[..]) else { return None };
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&axis| (axis as i64) < rank)?;
    plain.then_some(())?;
    Some(run(x.given()?, axis))
}
