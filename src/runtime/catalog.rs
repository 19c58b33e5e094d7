//! What is loaded: artifacts, and their models as the scheduler knows them.
//!
//! A model of the scheduler is a model at fixed axes. Where its graphs for several batches say along which axes the rows lie, requests of
//! any number of rows are put together and taken apart ([`Form::Rows`]); any other graph runs one request of exactly its shapes at a
//! time ([`Form::Whole`]).

use super::RuntimeError;
use super::rows::Cut;
use crate::artifact::{Artifact, ArtifactError, Opening};
use crate::execute::{self, Port};
use crate::placement::{self, Candidate};
use crate::request::Request;
use crate::schedule::ModelId;
use kernels::Tensor;
use schema::{Batch, DType};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// A loaded artifact.
pub(super) struct Source {
    pub artifact: Artifact,
    pub candidates: Vec<Candidate>,
    /// Keeps the file at hand for workers that are still to come, whatever becomes of its name.
    file: File,
}

impl Source {
    /// Opens an artifact.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn open(path: &Path, opening: Opening) -> Result<Source, ArtifactError> {
        let unreadable = |error| ArtifactError::Read(error).at(path);
        let file = File::open(path).map_err(unreadable)?;
        let artifact = Artifact::from_file(file.try_clone().map_err(unreadable)?, path, opening)?;
        let candidates = placement::candidates(0, &artifact);
        Ok(Source { artifact, candidates, file })
    }

    /// For workers, whatever has become of its name.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What requests call its model.
    pub fn name(&self) -> &str {
        &self.artifact.provenance().model_name
    }
}

/// A model of the scheduler.
pub(super) struct Served {
    /// Unique: `bert[seq=128]`.
    pub name: String,
    pub source: Arc<Source>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub form: Form,
    /// Ascending by rows.
    pub graphs: Vec<Bound>,
}

/// A graph of a model.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// What the scheduler counts: rows of requests, or 1 for a graph that takes one request at a time.
    pub rows: Batch,
    pub batch: Batch,
    pub graph: usize,
}

/// How requests become batches.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// By rows: how each input and output is cut.
    Rows { inputs: Vec<Cut>, outputs: Vec<Cut> },
    /// One at a time.
    Whole,
}

impl Served {
    /// How many rows a request has; `None` when it is not for this model.
    fn rows_of(&self, request: &Request) -> Option<Batch> {
        if request.inputs.len() != self.inputs.len() {
            return None;
        }
        let place = |(at, port): (usize, &Port)| request.find(at, &port.name);
        let tensors = self.inputs.iter().enumerate().map(|port| place(port).map(|at| &request.inputs[at].1));
        match &self.form {
            Form::Rows { inputs, .. } => {
                let mut rows = inputs.iter().zip(tensors).map(|(cut, tensor)| cut.rows_of(tensor?));
                let first = rows.next()??;
                let same = rows.all(|other| other == Some(first));
                same.then_some(Batch::new(u32::try_from(first).ok()?)?)
            }
            Form::Whole => {
                let fits = |(port, tensor): (&Port, &Tensor)| {
                    port.ty.dtype() == Some(tensor.dtype()) && port.ty.fixed_shape().is_some_and(|shape| shape == tensor.shape())
                };
                let all = self.inputs.iter().zip(tensors).all(|(port, tensor)| tensor.is_some_and(|tensor| fits((port, tensor))));
                all.then_some(Batch::ONE)
            }
        }
    }

    /// The inputs of a request that is for this model, in the order of the ports.
    pub fn in_order(&self, mut inputs: Vec<(String, Tensor)>) -> Vec<Tensor> {
        for (at, port) in self.inputs.iter().enumerate() {
            if let Some(found) = (at..inputs.len()).find(|&found| inputs[found].0 == port.name) {
                inputs.swap(at, found);
            }
        }
        inputs.into_iter().map(|(_, tensor)| tensor).collect()
    }

    /// What it takes, for people.
    pub fn wants(&self) -> String {
        let one = |(at, port): (usize, &Port)| match &self.form {
            Form::Rows { inputs, .. } => {
                let cut = &inputs[at];
                let shape = cut.shape.iter().enumerate().map(|(axis, &extent)| match (axis == cut.axis, extent) {
                    (false, extent) => extent.to_string(),
                    (true, 1) => "n".to_owned(),
                    (true, row) => format!("{row}n"),
                });
                format!("{}: {}[{}]", port.name, cut.dtype, shape.collect::<Vec<_>>().join(","))
            }
            Form::Whole => format!("{}: {}", port.name, port.ty),
        };
        self.inputs.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The inputs and outputs of one of its graphs.
    ///
    /// # Errors
    /// [`RuntimeError::Ports`].
    pub fn ports_of(&self, graph: usize) -> Result<(Vec<Port>, Vec<Port>), RuntimeError> {
        ports(&self.source, graph)
    }

    /// The graph that runs so many rows at once.
    pub fn bound(&self, rows: Batch) -> Option<&Bound> {
        self.graphs.iter().find(|bound| bound.rows == rows)
    }
}

/// Which models take the requests of a name: one for each choice of the axes beside the batch.
#[derive(Default)]
pub(super) struct Routes(BTreeMap<String, Vec<(ModelId, Arc<Served>)>>);

impl Routes {
    /// To the models that there are, by their numbers.
    pub fn new(models: &[Option<Arc<Served>>]) -> Routes {
        let mut routes: BTreeMap<String, Vec<(ModelId, Arc<Served>)>> = BTreeMap::new();
        for (at, served) in models.iter().enumerate().filter_map(|(at, served)| Some((at, served.as_ref()?))) {
            routes.entry(served.source.name().to_owned()).or_default().push((ModelId(at as u16), served.clone()));
        }
        Routes(routes)
    }

    /// The models of a name.
    pub fn of(&self, name: &str) -> &[(ModelId, Arc<Served>)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The model that takes a request, and the rows it has.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownModel`], [`RuntimeError::Inputs`].
    pub fn find(&self, request: &Request) -> Result<(ModelId, &Arc<Served>, Batch), RuntimeError> {
        let models = self.of(&request.model);
        if models.is_empty() {
            return Err(self.unknown(&request.model));
        }
        let found = models.iter().find_map(|(id, served)| Some((*id, served, served.rows_of(request)?)));
        found.ok_or_else(|| {
            let known: Vec<String> = models.iter().map(|(_, served)| served.wants()).collect();
            RuntimeError::Inputs { model: request.model.clone(), given: request.given(), known: known.join(", or ") }
        })
    }

    /// The error of a name that none has.
    pub fn unknown(&self, name: &str) -> RuntimeError {
        let known: Vec<&str> = self.names().collect();
        RuntimeError::UnknownModel { name: name.to_owned(), known: known.join(", ") }
    }
}

/// The models of an artifact.
///
/// # Errors
/// [`RuntimeError::Ports`] for a graph that takes or gives something else than tensors of numbers.
pub(super) fn models_of(source: &Arc<Source>) -> Result<Vec<Served>, RuntimeError> {
    let mut of_dims: Vec<(Vec<(String, u64)>, Vec<Bound>)> = Vec::new();
    for (graph, (batch, dims)) in source.artifact.shapes().enumerate() {
        let bound = Bound { rows: batch, batch, graph };
        match of_dims.iter_mut().find(|(known, _)| known == dims) {
            Some((_, graphs)) => graphs.push(bound),
            None => of_dims.push((dims.to_vec(), vec![bound])),
        }
    }
    let mut models = Vec::new();
    for (dims, mut graphs) in of_dims {
        graphs.sort_by_key(|bound| bound.batch);
        graphs.dedup_by_key(|bound| bound.batch);
        let fixed: Vec<String> = dims.iter().map(|(name, extent)| format!("{name}={extent}")).collect();
        let name = |more: Option<String>| {
            let all: Vec<String> = fixed.iter().cloned().chain(more).collect();
            if all.is_empty() { source.name().to_owned() } else { format!("{}[{}]", source.name(), all.join(",")) }
        };
        let ports = graphs.iter().map(|bound| ports(source, bound.graph)).collect::<Result<Vec<_>, _>>()?;
        let (inputs, outputs) = ports[0].clone();
        if let Some(form) = form(&graphs, &ports) {
            models.push(Served { name: name(None), source: source.clone(), inputs, outputs, form, graphs });
            continue;
        }
        let several = graphs.len() > 1;
        for (bound, (inputs, outputs)) in graphs.into_iter().zip(ports) {
            let name = name(several.then(|| format!("batch={}", bound.batch)));
            let graphs = vec![Bound { rows: Batch::ONE, ..bound }];
            models.push(Served { name, source: source.clone(), inputs, outputs, form: Form::Whole, graphs });
        }
    }
    Ok(models)
}

/// By rows, when graphs for two batches or more agree on how every port is cut.
fn form(graphs: &[Bound], ports: &[(Vec<Port>, Vec<Port>)]) -> Option<Form> {
    let largest = graphs.len() - 1;
    let cuts = |of: fn(&(Vec<Port>, Vec<Port>)) -> &Vec<Port>| {
        let between = |small: usize, port: usize| {
            let (small, large) =
                ((graphs[small].batch, &of(&ports[small])[port]), (graphs[largest].batch, &of(&ports[largest])[port]));
            Cut::between(small, large)
        };
        let agreed = |port: usize| {
            let first = between(0, port)?;
            (1..largest).all(|small| between(small, port).as_ref() == Some(&first)).then_some(first)
        };
        (0..of(&ports[0]).len()).map(agreed).collect::<Option<Vec<_>>>()
    };
    if largest == 0
        || graphs.iter().zip(ports).any(|(_, port)| port.0.len() != ports[0].0.len() || port.1.len() != ports[0].1.len())
    {
        return None;
    }
    let (inputs, outputs) = (cuts(|ports| &ports.0)?, cuts(|ports| &ports.1)?);
    (!inputs.is_empty()).then_some(Form::Rows { inputs, outputs })
}

fn ports(source: &Source, graph: usize) -> Result<(Vec<Port>, Vec<Port>), RuntimeError> {
    let (inputs, outputs) = execute::ports(source.artifact.outline(graph));
    let numbers = |port: &Port| port.ty.dtype().is_some_and(|dtype| dtype != DType::String);
    let odd = inputs.iter().find(|port| port.ty.fixed_bytes().is_none()).or_else(|| outputs.iter().find(|port| !numbers(port)));
    match odd {
        None => Ok((inputs, outputs)),
        Some(port) => {
            Err(RuntimeError::Ports { model: source.name().to_owned(), port: port.name.clone(), found: port.ty.to_string() })
        }
    }
}
