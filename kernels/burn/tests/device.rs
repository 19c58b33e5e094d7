//! Burn's operations on the buffers of a device give what the plain references give.

use crate::nodes::{Case, cases};
use burn_ops::{Given, Operation};
use cube_kernels::{Buffer, Gpu};
use kernels::{Attribute, Attributes, Tensor};

/// The first device of wgpu; `None`, after saying so, where there is none and the test command did not promise one.
fn gpu() -> Option<Gpu> {
    let adapters = cube_kernels::wgpu_adapters();
    match adapters.as_deref() {
        Ok([adapter, ..]) => Some(Gpu::open(adapter).unwrap()),
        none => {
            assert!(std::env::var_os("TUNEWRIGHT_GPU").is_none(), "the test command promises a Vulkan driver: {none:?}");
            eprintln!("skipped: there is no device of wgpu");
            None
        }
    }
}

#[test]
fn burn_agrees_with_the_references_on_buffers_of_a_device() {
    let Some(gpu) = gpu() else { return };
    let mut taken = 0;
    for case in cases() {
        let Case { op, attributes, .. } = &case;
        let (expected, tensors) = (case.expected(), case.tensors());
        let given = |tensor: &Tensor| match tensor.to_ints() {
            Some(ints) => Given::Ints(ints),
            None => Given::Floats(tensor.shape().to_vec()),
        };
        let operands = tensors.iter().map(|tensor| Some(given(tensor))).collect();
        let operation = Operation::prepare(&gpu, op, attributes, operands, expected.shape().to_vec());
        let convolves = op.starts_with("Conv") && tensors[0].shape().len() < 5;
        assert_eq!(operation.is_none(), ["MatMul", "Gemm"].contains(op) || convolves, "{op}: left to our kernels");
        let Some(operation) = operation else { continue };
        let floats = |tensor: &Tensor| tensor.values::<f32>().map(|_| gpu.upload(tensor.bytes()).unwrap());
        let inputs: Vec<Option<Buffer>> = tensors.iter().map(floats).collect();
        let result = gpu.download(&operation.run(&gpu, &inputs).unwrap()).unwrap();
        case.agrees(bytemuck::cast_slice(&result));
        taken += 1;
    }
    assert!(taken > 15, "{taken}");
}

#[test]
fn what_burn_or_the_device_does_not_do_is_refused_before_anything_runs() {
    let Some(gpu) = gpu() else { return };
    let prepare = |op: &str, attributes: &Attributes, operands: Vec<Option<Given>>, shape: &[usize]| {
        Operation::prepare(&gpu, op, attributes, operands, shape.to_vec()).is_some()
    };
    let none = Attributes::default();
    let row = |extent: usize| vec![Some(Given::Floats(vec![extent])), Some(Given::Ints(vec![0]))];
    assert!(prepare("CumSum", &none, row(100), &[100]));
    assert!(!prepare("CumSum", &none, row(100), &[99]), "another shape than Burn's");
    let long = prepare("CumSum", &none, row(100_000), &[100_000]);
    assert_eq!(long, gpu.limits().turns.is_none_or(|most| most > 100_000), "as many turns as the driver takes");
    assert!(!prepare("CumSum", &none.clone().with("reverse", Attribute::Int(1)), row(100), &[100]));
    assert!(!prepare("CumSum", &none, vec![Some(Given::Floats(vec![100])), None], &[100]));
    assert!(!prepare("Tan", &none, vec![Some(Given::Floats(vec![1 << 40]))], &[1 << 40]), "beyond a buffer");
    assert!(!prepare("Tan", &none, vec![Some(Given::Floats(vec![0]))], &[0]));
    assert!(!prepare("Scan", &none, vec![Some(Given::Floats(vec![4]))], &[4]));
    assert_eq!(gpu.sync(), Ok(()), "refusals leave nothing behind");
}
