//! Burn's operations on operands prepared beforehand, to be timed beside our kernels.
//!
//! A rival computes the first output of a task of ours, from the operands in rows, by Burn's own operations where it has them and
//! by a composition of them where it has none (recurrent layers, padding, fused chains).

mod dense;
mod expression;
mod memory;
mod recurrent;

use crate::engine::{Engine, lend, reshaped};
use burn::backend::Flex;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{TensorData, TensorMetadata, read_sync};
use kernels::epilogue::{Activation, Epilogue};
use kernels::{Task, Tensor};

/// What computes a task's first output. Operands are shared and not copied.
type Run<B> = Box<dyn Fn() -> FloatTensor<B> + Send + Sync>;

/// Makes the rival of a task, or `None` where Burn has no such operation.
type Maker<B> = fn(&Task, &[FloatTensor<B>]) -> Option<Run<B>>;

/// The makers by operator.
const fn makers<B: Engine>() -> &'static [(&'static str, Maker<B>)] {
    &[
        ("gemm", dense::gemm::<B>),
        ("conv2d", dense::convolution::<B>),
        ("depthwise", dense::depthwise::<B>),
        ("conv_transpose2d", dense::transposed::<B>),
        ("attention", dense::attention::<B>),
        ("elementwise", expression::chain::<B>),
        ("softmax", memory::softmax::<B>),
        ("layer_norm", memory::layer_norm::<B>),
        ("reduce", memory::reduce::<B>),
        ("pool", memory::pool::<B>),
        ("transpose", memory::transpose::<B>),
        ("copy", memory::copy::<B>),
        ("resize", memory::resize::<B>),
        ("gather", memory::gather::<B>),
        ("embedding", memory::embedding::<B>),
        ("lstm", recurrent::lstm::<B>),
        ("gru", recurrent::gru::<B>),
    ]
}

/// One operation with its operands.
pub struct Rival<B: Engine> {
    run: Run<B>,
    device: B::Device,
}

impl Rival<Flex> {
    /// Burn's way to a task of ours on the host. Operands are in rows, in the order of the task's signature; an absent one has the shape
    /// `[0]`. `None` where Burn has no way, or not for these parameters.
    pub fn of(task: &Task, operands: &[Tensor]) -> Option<Self> {
        Self::on(&Default::default(), task, operands)
    }
}

impl<B: Engine> Rival<B> {
    /// As [`of`](Rival::of), on a device.
    pub fn on(device: &B::Device, task: &Task, operands: &[Tensor]) -> Option<Self> {
        let (_, maker) = makers::<B>().iter().find(|(operator, _)| *operator == task.operator())?;
        let operands: Vec<FloatTensor<B>> = operands.iter().map(|tensor| lent::<B>(tensor, device)).collect::<Option<_>>()?;
        maker(task, &operands).map(|run| Rival { run, device: device.clone() })
    }

    /// Computes it once, waits for it and gives the number of elements, so that nothing is optimised away.
    pub fn run(&self) -> usize {
        let elements = (self.run)().shape().num_elements();
        B::sync(&self.device).expect("Burn's launches succeed");
        elements
    }

    /// Computes it once and gives the result, in rows.
    pub fn result(&self) -> Vec<f32> {
        let data = read_sync(B::float_into_data((self.run)())).expect("Burn's launches succeed");
        data.into_vec::<f32>().unwrap_or_default()
    }
}

/// A tensor of Burn's with the elements of one of ours: f32, or indices.
fn lent<B: Engine>(tensor: &Tensor, device: &B::Device) -> Option<FloatTensor<B>> {
    if let Some(values) = tensor.values::<f32>() {
        return Some(lend::<B>(&values, tensor.shape(), device));
    }
    let indices = TensorData::new(tensor.to_ints()?, tensor.shape().to_vec()).convert::<B::IntElem>();
    Some(B::int_from_data(indices, device))
}

/// The extents of a tensor.
fn extents<B: Engine>(tensor: &FloatTensor<B>) -> Vec<usize> {
    tensor.shape().iter().copied().collect()
}

/// The epilogue of a product or convolution: `act(x + bias + residual)`, the bias along `axis`. `None` for an activation that Burn
/// lacks.
fn finish<B: Engine>(
    task: &Task,
    operands: &[FloatTensor<B>],
    axis: usize,
) -> Option<impl Fn(FloatTensor<B>) -> FloatTensor<B> + Send + Sync + use<B>> {
    let epilogue = Epilogue::parse(task.word("epilogue"))?;
    let known = matches!(epilogue.activation, Activation::None | Activation::Relu | Activation::Gelu | Activation::Clip { .. });
    known.then_some(())?;
    let operand = |there: bool, index: usize| there.then(|| operands.get(index).cloned()).flatten();
    let (bias, residual) = (operand(epilogue.bias, 2), operand(epilogue.residual, 3));
    Some(move |mut x: FloatTensor<B>| {
        if let Some(bias) = &bias {
            let mut shape = vec![1; extents::<B>(&x).len()];
            shape[axis] = extents::<B>(bias)[0];
            x = B::float_add(x, reshaped::<B>(bias.clone(), &shape));
        }
        if let Some(residual) = &residual {
            x = B::float_add(x, residual.clone());
        }
        match epilogue.activation {
            Activation::Relu => B::relu(x),
            Activation::Gelu => B::gelu(x),
            Activation::Clip { lo, hi } => B::float_clamp(x, lo.into(), hi.into()),
            _ => x,
        }
    })
}
