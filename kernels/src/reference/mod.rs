//! Plain implementations of ONNX's operators at their newest opset: the last resort of execution, the engine of constant folding, and
//! what the tuned kernels are lowered from.
//!
//! A call gets attributes and data, and gives data. Everything it allocates is asked of a [`Budget`] first, so that folding a
//! hostile model costs a typed error and not the process.

mod arrange;
mod attention;
mod binary;
mod call;
mod cast;
mod classic;
mod conv;
mod einsum;
mod gather;
mod matmul;
mod narrow;
mod normalize;
mod number;
mod pool;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod sample;
mod select;
mod sequence;
mod shape;
mod spectral;
mod text;
mod training;
mod unary;
mod walk;
mod window;

use crate::{Attributes, Datum, Tensor};
use schema::DType;
use std::cell::Cell;
use thiserror::Error;

/// One call of an ONNX operator.
pub struct Call<'a> {
    /// ONNX's name, in the default domain unless prefixed (`ai.onnx.ml.Scaler`).
    pub op: &'a str,
    pub attributes: &'a Attributes,
    /// Absent optional inputs are `None`.
    pub inputs: &'a [Option<&'a Datum>],
    /// How many outputs the node has; absent ones in the middle count.
    pub outputs: usize,
    pub budget: &'a Budget,
}

/// Computes one operator.
pub type Evaluate = fn(&Call<'_>) -> Result<Vec<Datum>, EvaluateError>;

/// Why an operator could not be computed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum EvaluateError {
    #[error("no implementation of operator {0}")]
    Unsupported(String),
    #[error("{0}")]
    Attribute(String),
    #[error("{0}")]
    Shape(String),
    #[error("{0}")]
    Dtype(String),
    #[error("{0}")]
    Index(String),
    #[error("{what}: needs {need}, the limit is {limit}")]
    Budget { what: &'static str, need: u64, limit: u64 },
}

/// What a computation may use. The counters run down across calls.
#[derive(Debug)]
pub struct Budget {
    /// Bytes of all results together.
    pub bytes: Cell<u64>,
    /// Bytes of one result.
    pub one_bytes: u64,
    /// Floating-point operations.
    pub flops: Cell<u64>,
}

impl Budget {
    /// No limit but memory: for execution.
    pub fn unlimited() -> Self {
        Budget { bytes: Cell::new(u64::MAX), one_bytes: u64::MAX, flops: Cell::new(u64::MAX) }
    }

    /// Takes the bytes of a result of that type and shape, and returns its number of elements.
    ///
    /// # Errors
    /// [`EvaluateError::Budget`] when one result, or all together, would be too large.
    pub fn take(&self, dtype: DType, shape: &[usize]) -> Result<usize, EvaluateError> {
        let count = shape.iter().try_fold(1u64, |size, &dim| size.checked_mul(dim as u64));
        // A string is counted as 24 bytes, the size of its handle.
        let width = if dtype == DType::String { 24 } else { dtype.bytes() as u64 };
        let need = count.and_then(|count| count.checked_mul(width)).unwrap_or(u64::MAX);
        // Beyond the address space nothing can be had, whatever the limit.
        if need > self.one_bytes.min(isize::MAX as u64) {
            return Err(EvaluateError::Budget { what: "bytes of one tensor", need, limit: self.one_bytes });
        }
        match self.bytes.get().checked_sub(need) {
            Some(left) => self.bytes.set(left),
            None => return Err(EvaluateError::Budget { what: "bytes", need, limit: self.bytes.get() }),
        }
        Ok(count.unwrap_or(u64::MAX) as usize)
    }

    /// Takes floating-point operations.
    ///
    /// # Errors
    /// [`EvaluateError::Budget`] when they are used up.
    pub fn work(&self, flops: u64) -> Result<(), EvaluateError> {
        match self.flops.get().checked_sub(flops) {
            Some(left) => {
                self.flops.set(left);
                Ok(())
            }
            None => Err(EvaluateError::Budget { what: "floating-point operations", need: flops, limit: self.flops.get() }),
        }
    }
}

impl<'a> Call<'a> {
    /// A required tensor input.
    ///
    /// # Errors
    /// [`EvaluateError::Shape`] when it is missing or no tensor.
    pub fn tensor(&self, index: usize) -> Result<&'a Tensor, EvaluateError> {
        let missing = || EvaluateError::Shape(format!("{}: input {index} is missing or no tensor", self.op));
        self.optional(index)?.ok_or_else(missing)
    }

    /// An optional tensor input.
    ///
    /// # Errors
    /// [`EvaluateError::Shape`] when it is there and no tensor.
    pub fn optional(&self, index: usize) -> Result<Option<&'a Tensor>, EvaluateError> {
        match self.inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(Datum::Tensor(tensor)) => Ok(Some(tensor)),
            Some(_) => Err(EvaluateError::Shape(format!("{}: input {index} is no tensor", self.op))),
        }
    }
}

/// The families of operators: each a table of names and functions. A new family is one file and one line here.
pub static FAMILIES: &[&[(&str, Evaluate)]] = &[
    arrange::OPERATORS,
    attention::OPERATORS,
    binary::OPERATORS,
    cast::OPERATORS,
    classic::OPERATORS,
    conv::OPERATORS,
    einsum::OPERATORS,
    gather::OPERATORS,
    matmul::OPERATORS,
    normalize::OPERATORS,
    pool::OPERATORS,
    quantize::OPERATORS,
    random::OPERATORS,
    recurrent::OPERATORS,
    reduce::OPERATORS,
    resize::OPERATORS,
    sample::OPERATORS,
    select::OPERATORS,
    sequence::OPERATORS,
    shape::OPERATORS,
    spectral::OPERATORS,
    text::OPERATORS,
    training::OPERATORS,
    unary::OPERATORS,
];

/// Computes one operator by its plain implementation.
///
/// # Errors
/// [`EvaluateError::Unsupported`] when there is none; otherwise what the inputs or the budget do not allow.
pub fn evaluate(call: &Call<'_>) -> Result<Vec<Datum>, EvaluateError> {
    match find(call.op) {
        Some(evaluate) => evaluate(call),
        None => Err(EvaluateError::Unsupported(call.op.to_owned())),
    }
}

/// The plain implementation of an operator.
pub fn find(op: &str) -> Option<Evaluate> {
    FAMILIES.iter().flat_map(|family| family.iter()).find(|(name, _)| *name == op).map(|(_, evaluate)| *evaluate)
}
