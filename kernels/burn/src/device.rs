//! Burn's operations on the buffers of a device, for ONNX nodes without a kernel there: nothing crosses to the host.

use crate::engine::Engine;
use crate::nodes::{self, on_device};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_cuda::Cuda;
use burn_wgpu::Wgpu;
use cube_kernels::interop::Opened;
use cube_kernels::{Buffer, Gpu, GpuError};
use cubecl::client::ComputeClient;
use kernels::{Attribute, Attributes};

/// What is known of an operand when a plan is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// f32 in rows, in a buffer of the device.
    Floats(Vec<usize>),
    /// Integers that are known.
    Ints(Vec<i64>),
}

/// An operation of Burn's for one node.
pub struct Operation {
    work: Work,
    attributes: Attributes,
    operands: Vec<Option<Given>>,
    shape: Vec<usize>,
}

/// By engine.
enum Work {
    Wgpu(nodes::Operation<Wgpu>),
    Cuda(nodes::Operation<Cuda>),
}

impl Operation {
    /// Burn's way to a node whose only result is f32 of this shape; operands are those of the newest operator set. It is tried once on
    /// zeros, so that a plan knows before it runs; `None` where Burn does not do it, or the device does not.
    pub fn prepare(
        gpu: &Gpu,
        op: &str,
        attributes: &Attributes,
        operands: Vec<Option<Given>>,
        shape: Vec<usize>,
    ) -> Option<Operation> {
        let work = match gpu.opened()? {
            Opened::Wgpu(..) => Work::Wgpu(find(op)?),
            Opened::Cuda(..) => Work::Cuda(find(op)?),
        };
        let floats = || operands.iter().flatten().filter_map(Given::floats).chain([&shape[..]]);
        let fits = |shape: &[usize]| (1..=gpu.limits().buffer_bytes).contains(&bytes_of(shape));
        if !floats().all(fits) || !loops_end(terms(op, attributes, &floats().collect::<Vec<_>>()), gpu) {
            return None;
        }
        let zeros = |given: &Given| given.floats().map(|shape| gpu.upload(&vec![0; bytes_of(shape) as usize])).transpose();
        let inputs: Result<Vec<Option<Buffer>>, GpuError> =
            operands.iter().map(|given| given.as_ref().map_or(Ok(None), zeros)).collect();
        let operation = Operation { work, attributes: attributes.clone(), operands, shape };
        operation.run(gpu, &inputs.ok()?).ok()?;
        gpu.sync().ok()?;
        Some(operation)
    }

    /// Launches it on operands in the order of the node's, integers left out (`None`). Returns before the device has done it.
    ///
    /// # Errors
    /// [`GpuError::Launch`] when Burn does otherwise than when it was prepared, [`GpuError::Lost`] when it panics.
    pub fn run(&self, gpu: &Gpu, inputs: &[Option<Buffer>]) -> Result<Buffer, GpuError> {
        let refused = || GpuError::Launch("Burn does not do it on these operands".to_owned());
        gpu.guard(|| {
            let result = match (&self.work, gpu.opened()) {
                (Work::Wgpu(work), Some(Opened::Wgpu(client, device))) => self.on(*work, client, device, inputs),
                (Work::Cuda(work), Some(Opened::Cuda(client, device))) => self.on(*work, client, device, inputs),
                _ => None,
            };
            result.ok_or_else(refused)
        })
    }

    fn on<B, R>(
        &self,
        work: nodes::Operation<B>,
        client: &ComputeClient<R>,
        device: &R::Device,
        inputs: &[Option<Buffer>],
    ) -> Option<Buffer>
    where
        R: CubeRuntime,
        B: Engine<FloatTensorPrimitive = CubeTensor<R>>,
    {
        let placed: Vec<Option<Placed<'_, R>>> = self
            .operands
            .iter()
            .zip(inputs)
            .map(|(given, buffer)| given.as_ref().map(|given| Placed { given, buffer: buffer.as_ref(), client, device }))
            .collect();
        let operands: Vec<Option<&dyn nodes::Operand<B>>> =
            placed.iter().map(|placed| placed.as_ref().map(|placed| placed as &dyn nodes::Operand<B>)).collect();
        let result = B::in_rows(work(&self.attributes, &operands)?);
        let bytes = bytes_of(&self.shape) as usize;
        let as_said = result.dtype == DType::F32 && result.meta.shape()[..] == self.shape[..];
        (as_said && result.handle.size() as usize >= bytes).then(|| Buffer::of_memory(result.handle, bytes))
    }
}

impl Given {
    fn floats(&self) -> Option<&[usize]> {
        match self {
            Given::Floats(shape) => Some(shape),
            Given::Ints(_) => None,
        }
    }
}

/// An operand of a run.
struct Placed<'a, R: CubeRuntime> {
    given: &'a Given,
    buffer: Option<&'a Buffer>,
    client: &'a ComputeClient<R>,
    device: &'a R::Device,
}

impl<R: CubeRuntime, B: Engine<FloatTensorPrimitive = CubeTensor<R>>> nodes::Operand<B> for Placed<'_, R> {
    fn shape(&self) -> &[usize] {
        self.given.floats().unwrap_or_default()
    }

    fn given(&self) -> Option<FloatTensor<B>> {
        let (shape, buffer) = (Shape::from(self.given.floats()?.to_vec()), self.buffer?);
        Some(CubeTensor::new_contiguous(self.client.clone(), self.device.clone(), shape, buffer.memory().clone(), DType::F32))
    }

    fn ints(&self) -> Option<Vec<i64>> {
        match self.given {
            Given::Ints(values) => Some(values.clone()),
            Given::Floats(_) => None,
        }
    }
}

fn find<B: Engine>(op: &str) -> Option<nodes::Operation<B>> {
    on_device::<B>().find(|(name, _)| *name == op).map(|(_, operation)| *operation)
}

/// Bytes of f32 in rows.
fn bytes_of(shape: &[usize]) -> u64 {
    shape.iter().fold(4, |bytes, &extent| u64::saturating_mul(bytes, extent as u64))
}

/// Loops within each other at most, in Burn's kernels: a volume's channels and three axes.
const LOOPS_MAX: usize = 4;

/// Whether the driver lets a unit's loops add up so many terms; see [`kernels::GpuLimits::turns`]. Each of the loops takes one turn more to
/// find its end, so there are no more turns than so many times the terms and one.
fn loops_end(terms: usize, gpu: &Gpu) -> bool {
    gpu.limits().turns.is_none_or(|most| terms.saturating_mul(LOOPS_MAX) < most as usize)
}

/// Terms of an element of the result at most.
fn terms(op: &str, attributes: &Attributes, shapes: &[&[usize]]) -> usize {
    let longest = || shapes.iter().flat_map(|shape| *shape).copied().max().unwrap_or(0);
    match (op, shapes) {
        ("Conv", [_, [_, terms @ ..], ..]) => terms.iter().product(),
        ("ConvTranspose", [_, [channels, _, window @ ..], ..]) => channels * window.iter().product::<usize>(),
        ("MaxPool" | "AveragePool", _) => match attributes.get("kernel_shape") {
            Some(Attribute::Ints(window)) => window.iter().map(|&extent| extent.unsigned_abs() as usize).product(),
            _ => longest(),
        },
        _ => longest(),
    }
}
