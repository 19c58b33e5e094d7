//! Requests on their way through a plan: which of their rows go into its segment next, and what has come of them. Pure: bytes in, bytes out.

use super::Outputs;
use super::catalog::{Form, Served};
use super::hand::Taken;
use super::rows::{Cut, Part};
use crate::execute::Port;
use crate::schedule::RequestId;
use crate::worker::segment::Parts;
use kernels::{Datum, Tensor};
use schema::{Batch, DType};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// See the module.
pub(super) struct Flight {
    served: Arc<Served>,
    /// Rows of the plan.
    batch: usize,
    requests: Vec<Taken>,
    /// Of each request: its outputs so far, or why it has none.
    results: Vec<Result<Vec<Output>, String>>,
    /// The first is what goes through the plan now.
    portions: VecDeque<Portion>,
    disturbed: bool,
}

/// Rows that go through a plan together: of which requests, and which of each.
type Portion = Vec<(usize, Range<usize>)>;

/// An output of a request, in the order of the ports.
#[derive(Default)]
struct Output {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Flight {
    /// Of at least one request, all together, through a plan of so many rows.
    pub fn new(served: Arc<Served>, batch: Batch, requests: Vec<Taken>) -> Flight {
        let all = 0..requests.len();
        let mut flight = Flight {
            served,
            batch: batch.rows() as usize,
            requests,
            results: Vec::new(),
            portions: VecDeque::new(),
            disturbed: false,
        };
        flight.results = flight.requests.iter().map(|request| Ok(flight.room(request))).collect();
        flight.portions = flight.cut(all).collect();
        flight
    }

    /// Outputs of which nothing has come yet.
    fn room(&self, request: &Taken) -> Vec<Output> {
        match &self.served.form {
            Form::Rows { outputs, .. } => {
                let output = |cut: &Cut| {
                    let shape = cut.shape_of(request.given.rows);
                    let bytes = Vec::with_capacity(shape.iter().product::<usize>() * cut.dtype.bytes());
                    Output { shape, bytes }
                };
                outputs.iter().map(output).collect()
            }
            Form::Whole => self.served.outputs.iter().map(|_| Output::default()).collect(),
        }
    }

    /// The portions of some requests, one behind the other.
    fn cut(&self, requests: Range<usize>) -> impl Iterator<Item = Portion> {
        let total: usize = self.requests[requests.clone()].iter().map(|request| request.given.rows).sum();
        (0..total).step_by(self.batch).map(move |begin| {
            let end = (begin + self.batch).min(total);
            let mut first = 0;
            let mut portion = Portion::new();
            for at in requests.clone() {
                let rows = self.requests[at].given.rows;
                let taken = begin.saturating_sub(first)..end.saturating_sub(first).min(rows);
                if taken.start < taken.end {
                    portion.push((at, taken));
                }
                first += rows;
            }
            portion
        })
    }

    /// Puts the rows whose turn it is into the segment.
    pub fn write(&self, parts: &mut Parts<'_>) {
        let Some(portion) = self.portions.front() else { return };
        match &self.served.form {
            Form::Rows { inputs, .. } => {
                for (at, cut) in inputs.iter().enumerate() {
                    let part = |(request, taken): &(usize, Range<usize>)| {
                        let given = &self.requests[*request].given;
                        Part { bytes: given.inputs[at].bytes(), rows: given.rows, taken: taken.clone() }
                    };
                    let rows: Vec<Part<'_>> = portion.iter().map(part).collect();
                    cut.gather(parts.inputs[at], self.batch, &rows);
                }
            }
            Form::Whole => {
                let (request, _) = portion[0];
                for (part, tensor) in parts.inputs.iter_mut().zip(&self.requests[request].given.inputs) {
                    part.copy_from_slice(tensor.bytes());
                }
            }
        }
    }

    /// Takes out of the segment what came of them; `dynamic` are the shapes of outputs without a fixed size.
    pub fn read(&mut self, parts: &Parts<'_>, dynamic: &[Vec<u64>]) {
        let Some(portion) = self.portions.pop_front() else { return };
        match &self.served.form {
            Form::Rows { outputs, .. } => {
                let mut first = 0;
                for (request, taken) in portion {
                    let rows = self.requests[request].given.rows;
                    let next = first + taken.len();
                    if let Ok(results) = &mut self.results[request] {
                        for ((cut, from), output) in outputs.iter().zip(&parts.outputs).zip(results) {
                            cut.scatter(from, self.batch, first, (&mut output.bytes, rows, taken.clone()));
                        }
                    }
                    first = next;
                }
            }
            Form::Whole => {
                let (request, _) = portion[0];
                self.results[request] = whole(&self.served, parts, dynamic);
            }
        }
    }

    /// The model refuses what is in the segment. One of several requests is at fault, and the others are not to suffer for it: each goes by
    /// itself then.
    pub fn refused(&mut self, detail: String) {
        let Some(portion) = self.portions.pop_front() else { return };
        match portion[..] {
            [(request, _)] => {
                self.results[request] = Err(detail);
                self.portions.retain(|portion| portion.iter().all(|(other, _)| *other != request));
            }
            _ => {
                self.disturbed = true;
                self.results = self.requests.iter().map(|request| Ok(self.room(request))).collect();
                self.portions = (0..self.requests.len()).flat_map(|at| self.cut(at..at + 1)).collect();
            }
        }
    }

    /// Nothing more can go through.
    pub fn failed(&mut self, detail: &str) {
        self.portions.clear();
        self.results.iter_mut().for_each(|result| *result = Err(detail.to_owned()));
    }

    /// Whether all has been through.
    pub fn is_over(&self) -> bool {
        self.portions.is_empty()
    }

    /// Whether what goes through now is the last.
    pub fn is_last(&self) -> bool {
        self.portions.len() == 1
    }

    /// Requests went through again, one by one.
    pub fn disturbed(&self) -> bool {
        self.disturbed
    }

    /// The outputs of each request, or why it has none.
    pub fn answers(self) -> Vec<(RequestId, Result<Outputs, String>)> {
        let ports: Vec<(String, Option<DType>)> = match &self.served.form {
            Form::Rows { outputs, .. } => outputs.iter().map(|cut| (cut.name.clone(), Some(cut.dtype))).collect(),
            Form::Whole => self.served.outputs.iter().map(|port| (port.name.clone(), port.ty.dtype())).collect(),
        };
        let outputs = |results: Vec<Output>| {
            let output = |((name, dtype), Output { shape, bytes }): (&(String, Option<DType>), Output)| {
                let tensor = Tensor::from_bytes((*dtype)?, shape, bytes.into())?;
                Some((name.clone(), Datum::Tensor(tensor)))
            };
            let all: Option<Outputs> = ports.iter().zip(results).map(output).collect();
            all.ok_or_else(|| "an output has another size than its type says".to_owned())
        };
        self.requests.iter().zip(self.results).map(|(request, results)| (request.id, results.and_then(outputs))).collect()
    }
}

/// What one request of exactly the plan's shapes got.
fn whole(served: &Served, parts: &Parts<'_>, dynamic: &[Vec<u64>]) -> Result<Vec<Output>, String> {
    let (mut shapes, mut end) = (dynamic.iter(), 0usize);
    let output = |(port, part): (&Port, &&mut [u8])| {
        if let Some(shape) = port.ty.fixed_shape() {
            return Some(Output { shape, bytes: part.to_vec() });
        }
        let shape: Vec<usize> = shapes.next()?.iter().map(|&extent| extent as usize).collect();
        let bytes = shape.iter().try_fold(port.ty.dtype()?.bytes(), |bytes, &extent| bytes.checked_mul(extent))?;
        let place = end..end.checked_add(bytes)?;
        end = place.end;
        Some(Output { shape, bytes: parts.room.get(place)?.to_vec() })
    };
    let all: Option<Vec<Output>> = served.outputs.iter().zip(&parts.outputs).map(output).collect();
    all.ok_or_else(|| "an output has another size than the worker says".to_owned())
}
