//! The constants that products and convolutions have in common, and their operands at a launch.

use crate::gpu::{Buffer, Gpu};
use crate::operator::{refuse, upload_constant};
use kernels::epilogue::Epilogue;
use kernels::{BuildError, Request};

/// Weight and bias on the device, where they are constant. Operands by position: x, weight, bias, residual.
pub struct Weights {
    /// The weight; several parts of it where it does not fit into one buffer; none where it is not constant.
    weight: Vec<Buffer>,
    bias: Option<Buffer>,
    epilogue: Epilogue,
}

impl Weights {
    /// Uploads them where they are `constant`.
    pub fn new(request: &Request<'_>, gpu: &Gpu, constant: bool, epilogue: &Epilogue) -> Result<Self, BuildError> {
        let upload = |input: usize| if constant { upload_constant(request, gpu, input) } else { Ok(None) };
        Ok(Weights { weight: upload(1)?.into_iter().collect(), bias: upload(2)?, epilogue: *epilogue })
    }

    /// As [`new`](Self::new) for a constant weight in parts.
    pub fn in_parts(request: &Request<'_>, gpu: &Gpu, parts: &[Vec<f32>], epilogue: &Epilogue) -> Result<Self, BuildError> {
        let upload = |part: &Vec<f32>| gpu.upload(bytemuck::cast_slice(part)).map_err(|error| refuse(request.task, &error));
        let weight = parts.iter().map(upload).collect::<Result<_, _>>()?;
        Ok(Weights { weight, bias: upload_constant(request, gpu, 2)?, epilogue: *epilogue })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.iter().chain(&self.bias).map(Buffer::bytes).sum()
    }

    /// A part of the weight; the first is all of it where it was not taken apart.
    pub fn weight(&self, part: usize, inputs: &[Option<Buffer>]) -> Buffer {
        let given = || inputs.get(1).cloned().flatten();
        self.weight.get(part).cloned().or_else(given).expect("the task has a weight")
    }

    /// x, and what the epilogue adds: the bias, the residual, or both in this order.
    pub fn operands(&self, inputs: &[Option<Buffer>]) -> (Buffer, Vec<Buffer>) {
        let given = |i: usize| inputs.get(i).cloned().flatten();
        let x = given(0).expect("the task has an x");
        let bias = self.epilogue.bias.then(|| self.bias.clone().or_else(|| given(2))).flatten();
        let residual = self.epilogue.residual.then(|| given(3)).flatten();
        (x, bias.into_iter().chain(residual).collect())
    }
}
