//! ONNX nodes by Burn's operations give what the plain references give.

use burn_ops::{evaluate, takes};
use kernels::reference::{self, Budget, Call};
use kernels::{Attribute, Attributes, Datum, Tensor};

/// A node that Burn takes, with the extents of its operands; `axis` is an operand of one integer behind them.
pub struct Case {
    pub op: &'static str,
    pub attributes: Attributes,
    shapes: &'static [&'static [usize]],
    axis: Option<i64>,
}

impl Case {
    /// Numbers that look random and are the same everywhere, in [-1, 1), or in [1, 3) where the operator needs them.
    pub fn tensors(&self) -> Vec<Tensor> {
        let shift = if self.op == "Acosh" { 2.0 } else { 0.0 };
        let noise = |(i, shape): (usize, &&[usize])| {
            let mut state = (i as u32 + 7).wrapping_mul(2_654_435_761).wrapping_add(1);
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0 + shift
            };
            Tensor::new(shape.to_vec(), (0..shape.iter().product()).map(|_| next()).collect())
        };
        let axis = self.axis.map(|axis| Tensor::new(vec![], vec![axis]));
        self.shapes.iter().enumerate().map(noise).chain(axis).collect()
    }

    /// What the reference computes.
    pub fn expected(&self) -> Tensor {
        let data: Vec<Datum> = self.tensors().into_iter().map(Datum::Tensor).collect();
        let inputs: Vec<Option<&Datum>> = data.iter().map(Some).collect();
        let (op, attributes, budget) = (self.op, &self.attributes, &Budget::unlimited());
        let expected = reference::evaluate(&Call { op, attributes, inputs: &inputs, outputs: 1, budget }).unwrap();
        expected[0].tensor().unwrap().clone()
    }

    /// Asserts that these are the reference's elements.
    pub fn agrees(&self, found: &[f32]) {
        let expected = self.expected();
        let expected = expected.values::<f32>().unwrap();
        assert_eq!(found.len(), expected.len(), "{}", self.op);
        for (i, (a, b)) in found.iter().zip(expected.iter()).enumerate() {
            let (op, shapes) = (self.op, self.shapes);
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{op} {shapes:?} element {i}: {a}, the reference has {b}");
        }
    }
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// Nodes that Burn takes on some engine; on devices our kernels take convolutions over planes.
pub fn cases() -> Vec<Case> {
    let none = Attributes::default;
    let turned =
        none().with("transB", Attribute::Int(1)).with("alpha", Attribute::Float(0.5)).with("beta", Attribute::Float(2.0));
    let strided = none().with("strides", ints(&[2, 1])).with("pads", ints(&[1, 2, 1, 2])).with("dilations", ints(&[1, 2]));
    let transposed =
        none().with("strides", ints(&[2, 2])).with("pads", ints(&[1, 1, 1, 1])).with("output_padding", ints(&[1, 0]));
    let window = none().with("kernel_shape", ints(&[3, 2])).with("strides", ints(&[2, 2])).with("pads", ints(&[1, 1, 1, 1]));
    let case = |op, attributes, shapes| Case { op, attributes, shapes, axis: None };
    let running = |op, axis| Case { op, attributes: none(), shapes: &[&[3, 4, 5]], axis: Some(axis) };
    let mut cases = vec![
        case("MatMul", none(), &[&[5, 7], &[7, 3]]),
        case("MatMul", none(), &[&[2, 3, 4, 5], &[2, 3, 5, 6]]),
        case("Gemm", turned, &[&[4, 6], &[5, 6], &[5]]),
        case("Gemm", none().with("transA", Attribute::Int(1)), &[&[6, 4], &[6, 5], &[4, 1]]),
        case("Conv", none().with("pads", ints(&[1, 1])), &[&[2, 4, 9], &[6, 4, 3], &[6]]),
        case("Conv", strided.with("group", Attribute::Int(2)), &[&[2, 4, 11, 9], &[6, 2, 3, 3], &[6]]),
        case("Conv", none(), &[&[1, 2, 5, 6, 7], &[3, 2, 2, 3, 3]]),
        case("ConvTranspose", transposed, &[&[2, 4, 5, 4], &[4, 3, 3, 3], &[3]]),
        case("ConvTranspose", none(), &[&[1, 2, 3, 4, 5], &[2, 3, 2, 3, 3]]),
        case("MaxPool", window.clone(), &[&[2, 3, 9, 8]]),
        case("AveragePool", window.clone(), &[&[2, 3, 9, 8]]),
        case("AveragePool", window.with("count_include_pad", Attribute::Int(1)), &[&[2, 3, 9, 8]]),
        case("Softmax", none(), &[&[3, 4, 17]]),
        case("Softmax", none().with("axis", Attribute::Int(1)), &[&[3, 4, 17]]),
        case("LogSoftmax", none(), &[&[3, 40]]),
        case("LayerNormalization", none(), &[&[3, 4, 24], &[24], &[24]]),
        case("LayerNormalization", none(), &[&[3, 24], &[24]]),
        running("CumSum", 1),
        running("CumSum", -1),
        running("CumProd", 0),
    ];
    let unary = ["Tan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"];
    cases.extend(unary.map(|op| case(op, none(), &[&[3, 5, 7]])));
    cases
}

#[test]
fn burn_agrees_with_the_references() {
    for case in cases() {
        let tensors = case.tensors();
        let operands: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
        let found = evaluate(case.op, &case.attributes, &operands);
        assert_eq!(found.is_none(), !takes(case.op), "{}", case.op);
        let Some(found) = found else { continue };
        let found = found.unwrap();
        assert_eq!(found[0].shape(), case.expected().shape(), "{}", case.op);
        case.agrees(&found[0].values::<f32>().unwrap());
    }
}

#[test]
fn what_burn_does_otherwise_is_left_to_the_reference() {
    let filled = |shape: &[usize]| Tensor::new(shape.to_vec(), vec![0.5f32; shape.iter().product()]);
    let x = filled(&[1, 1, 5, 5]);
    let uneven = Attributes::default().with("kernel_shape", ints(&[2, 2])).with("pads", ints(&[0, 0, 1, 1]));
    assert!(evaluate("MaxPool", &uneven, &[Some(&x)]).is_none());
    let whole = Tensor::new(vec![2, 2], vec![1i32; 4]);
    assert!(evaluate("MatMul", &Attributes::default(), &[Some(&whole), Some(&whole)]).is_none());
    assert!(evaluate("MatMul", &Attributes::default(), &[Some(&x), None]).is_none());
    assert!(evaluate("Conv", &Attributes::default(), &[Some(&x), Some(&filled(&[1, 1, 9, 9]))]).is_none());
    assert!(evaluate("Gather", &Attributes::default(), &[Some(&x)]).is_none());
}
