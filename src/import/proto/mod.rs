//! ONNX's messages (onnx.proto, IR version 14) as borrowed values: names are `&str` of the file, data are slices of it.
//!
//! Only the fields that mean something for inference are kept; unknown ones are skipped, as protobuf demands. Nothing is checked
//! here that needs more than one message; what a *single* message cannot be (two graphs, a path of graphs too deep) is refused here.

mod attribute;
mod graph;
mod model;
mod tensor;
mod types;

pub use attribute::{AttributeProto, Kind};
pub use graph::{GraphProto, NodeProto, ValueInfoProto};
pub use model::{FunctionProto, ModelProto, OpsetProto};
pub use tensor::{SparseProto, TensorProto};
pub use types::{DimProto, TypeProto};

use super::error::{Class, Excess, ImportError, quote};
use super::limits::{Clock, Limits};
use super::wire::Field;
use std::cell::Cell;

/// What decoding needs beside the bytes: limits, and how much of them is used.
pub struct Decoder<'l> {
    pub limits: &'l Limits,
    clock: Clock,
    nodes: Cell<u64>,
    initializers: Cell<u64>,
    graph_depth: Cell<u64>,
}

impl<'l> Decoder<'l> {
    /// Nothing used yet.
    pub fn new(limits: &'l Limits, clock: Clock) -> Self {
        Decoder { limits, clock, nodes: Cell::new(0), initializers: Cell::new(0), graph_depth: Cell::new(0) }
    }

    /// A name: UTF-8 of bounded length.
    fn name<'a>(&self, field: Field<'a>) -> Result<&'a str, ImportError> {
        let bytes = field.bytes()?;
        let allowed = self.limits.name_bytes;
        if bytes.len() as u64 > allowed {
            let start = String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes)).into_owned();
            let need = Some(bytes.len() as u64);
            return Err(ImportError::limit(
                format!("name {}", quote(&start)),
                "bytes",
                Excess { limit: "name-bytes", allowed, need },
            ));
        }
        std::str::from_utf8(bytes).map_err(|_| {
            let name = format!("name {}", quote(&String::from_utf8_lossy(bytes)));
            ImportError::new(Class::BadUtf8, name, "not UTF-8")
        })
    }

    fn count(&self, counter: &Cell<u64>, limit: &'static str, allowed: u64, what: &str) -> Result<(), ImportError> {
        counter.set(counter.get() + 1);
        self.clock.check()?;
        exceed(limit, allowed, counter.get(), what)
    }
}

/// An error when `need` is more than `allowed`.
fn exceed(limit: &'static str, allowed: u64, need: u64, what: &str) -> Result<(), ImportError> {
    if need <= allowed {
        return Ok(());
    }
    Err(ImportError::limit("", what, Excess { limit, allowed, need: Some(need) }))
}

/// Sets a field that may come once.
fn once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), ImportError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ImportError::new(Class::Malformed, "", format!("two fields where one may be: {what}"))),
    }
}
