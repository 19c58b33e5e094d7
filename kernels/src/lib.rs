//! What can be computed, how, and when that is legal, as data.
//!
//! Two kinds of names exist. *ONNX operators* keep ONNX's names (`Conv`, `ReduceSum`), mean what the newest opset says, and are
//! computed by the plain code in [`mod@reference`]. *Operators* in snake case (`gemm`, `conv2d`) are ours: what the passes lower a
//! graph to, each with several [`Variant`]s, knobs and rules. Nothing here chooses between variants, and nothing here knows the
//! graph or the store.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod attention;
pub mod attribute;
pub mod caches;
#[allow(unsafe_code)]
pub mod conv2d;
#[allow(unsafe_code)]
pub mod conv_transpose2d;
pub mod convolution;
pub mod copy;
#[allow(unsafe_code)]
pub mod depthwise;
pub mod elementwise;
pub mod embedding;
pub mod epilogue;
pub mod gather;
#[allow(unsafe_code)]
pub mod gemm;
pub mod gru;
pub mod knob;
pub mod layer_norm;
pub mod layout;
pub mod limits;
pub mod lstm;
#[allow(unsafe_code)]
pub mod operand;
pub mod operator;
#[allow(unsafe_code)]
pub mod packed;
#[allow(unsafe_code)]
pub mod partition;
pub mod plane;
pub mod pool;
#[allow(unsafe_code)]
mod recurrent;
pub mod reduce;
pub mod reference;
pub mod reorder;
pub mod resize;
pub mod row_split;
mod rows;
#[allow(unsafe_code)]
pub mod simd;
pub mod softmax;
pub mod strided_copy;
pub mod strides;
pub mod task;
mod task_operands;
pub mod tensor;
#[allow(unsafe_code)]
pub mod thread_pool;
pub mod transpose;

pub use attribute::{Attribute, Attributes};
pub use knob::{Knob, Rule, Values};
pub use layout::Layout;
pub use limits::{GpuLimits, Isa, Limits, Narrow, NarrowTypes, RELAXED};
pub use operand::{Inputs, Operand, OperandMut, Operands};
pub use operator::{
    Build, BuildError, Facts, Fill, Kernel, OperandFacts, OperandSpec, Operator, Reference, Request, Signature, Variant,
    VariantFacts,
};
pub use packed::Packed;
pub use task::{Param, Task};
pub use task_operands::from_front;
pub use tensor::{Datum, Element, Tensor};
pub use thread_pool::ThreadPool;

/// Every operator with variants, in a fixed order. A new operator is one folder and one line here.
#[rustfmt::skip]
pub static OPERATORS: &[&Operator] = &[
    &gemm::GEMM,
    &conv2d::CONV2D,
    &conv_transpose2d::CONV_TRANSPOSE2D,
    &depthwise::DEPTHWISE,
    &elementwise::ELEMENTWISE,
    &copy::COPY,
    &transpose::TRANSPOSE,
    &reorder::REORDER,
    &softmax::SOFTMAX,
    &layer_norm::LAYER_NORM,
    &reduce::REDUCE,
    &pool::POOL,
    &resize::RESIZE,
    &embedding::EMBEDDING,
    &gather::GATHER,
    &attention::ATTENTION,
    &lstm::LSTM,
    &gru::GRU,
];

/// The operator of that id.
pub fn operator(id: &str) -> Option<&'static Operator> {
    OPERATORS.iter().copied().find(|operator| operator.id == id)
}
