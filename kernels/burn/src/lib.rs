//! Burn's operations behind concrete functions: for operators without a tuned kernel, and as a rival in benchmarks.
//!
//! [`evaluate`] takes an ONNX node where burn-flex does the very same and does it faster than the plain reference: products,
//! convolutions, pooling, softmax, layer normalisation, all on f32. It says `None` to everything else (other types, uneven pads,
//! rounded-up pooling, a panic of Burn), and the reference takes over. Elementwise operations, reductions and gathers are not taken:
//! Burn's are no faster than the references', which need no copy of their operands.
//!
//! [`Operation`] takes a node on the buffers of a device, by burn-wgpu or burn-cuda, where no kernel of ours does.
//!
//! No generic of Burn appears in a signature but in [`Rival`]'s, for benchmarks: a caller would compile Burn again.

mod device;
mod engine;
mod nodes;
mod rival;

pub use device::{Given, Operation};
pub use engine::Engine;
pub use nodes::{evaluate, takes};
pub use rival::Rival;

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use kernels::Tensor;

/// Burn's result as a tensor of ours, if it is one of f32.
fn taken(tensor: FlexTensor) -> Option<Tensor> {
    let data = tensor.into_data();
    if data.dtype != DType::F32 {
        return None;
    }
    let shape: Vec<usize> = data.shape.iter().copied().collect();
    let values = data.into_vec::<f32>().ok()?;
    (shape.iter().product::<usize>() == values.len()).then(|| Tensor::new(shape, values))
}
