//! Models made ready: imported, bound to each batch, through the passes, and taken apart into tasks.

use crate::artifact::Bound;
use crate::execute::release_constants;
use crate::graph::infer::{self, BindError};
use crate::import::{self, ImportError};
use crate::passes::{self, FoldLimits, PassError, Pipeline};
use crate::task::{self, Counted};
use kernels::BuildError;
use schema::{Batch, ModelKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A model with its graphs, one per batch.
#[derive(Debug)]
pub struct Prepared {
    pub path: PathBuf,
    /// The file's name without its extension.
    pub name: String,
    pub key: ModelKey,
    pub opset: Option<u32>,
    pub graphs: Vec<Bound>,
    /// The tasks of each graph.
    pub tasks: Vec<Vec<Counted>>,
    /// Those of each graph as a device with memory of its own computes it: everything lies in rows.
    pub tasks_in_rows: Vec<Arc<[Counted]>>,
    /// What the import ignored.
    pub warnings: Vec<String>,
}

/// Why a model cannot be made ready.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("{}: {source}", path.display())]
    Bind { path: PathBuf, source: BindError },
    #[error("{}: {source}", path.display())]
    Pass { path: PathBuf, source: PassError },
    #[error("{}: {source}", path.display())]
    Task { path: PathBuf, source: BuildError },
}

impl Prepared {
    /// Imports a model and binds it to each batch. Of `dims` those are used that the model has.
    ///
    /// # Errors
    /// [`PrepareError`] with the path.
    pub fn load(
        path: &Path,
        batches: &[Batch],
        dims: &BTreeMap<String, u64>,
        options: &import::Options,
        fold: FoldLimits,
    ) -> Result<Self, PrepareError> {
        let model = import::load(path, options)?;
        let open: BTreeSet<String> = infer::open_axes(&model.graph).into_iter().map(|(axis, _)| axis).collect();
        let own: BTreeMap<String, u64> =
            dims.iter().filter(|(axis, _)| open.contains(*axis)).map(|(a, &n)| (a.clone(), n)).collect();
        let refused = |source| PrepareError::Task { path: path.to_owned(), source };
        let (mut graphs, mut tasks, mut tasks_in_rows) = (Vec::new(), Vec::new(), Vec::new());
        for &batch in batches {
            let mut graph = model.graph.clone();
            infer::bind(&mut graph, Some(batch), &own).map_err(|source| PrepareError::Bind { path: path.to_owned(), source })?;
            Pipeline::untimed()
                .run(&mut graph, &passes::Options::new(fold))
                .map_err(|source| PrepareError::Pass { path: path.to_owned(), source })?;
            tasks.push(task::tasks(&graph).map_err(refused)?);
            let mut in_rows = graph.clone();
            in_rows.lay_in_rows();
            tasks_in_rows.push(task::tasks(&in_rows).map_err(refused)?.into());
            graphs.push(Bound { batch, dims: own.clone().into_iter().collect(), graph });
        }
        let name = path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let (key, opset) = (model.key(), u32::try_from(model.opset).ok());
        // Hashing has read every weight; while kernels are measured the workers need the memory.
        release_constants(&model.graph);
        Ok(Prepared { path: path.to_owned(), name, key, opset, graphs, tasks, tasks_in_rows, warnings: model.warnings })
    }

    /// The axes that no model has, of those that were named.
    pub fn unknown_axes<'a>(models: &[Prepared], dims: &'a BTreeMap<String, u64>) -> Vec<&'a str> {
        let has = |axis: &str| {
            models.iter().flat_map(|model| &model.graphs).any(|bound| bound.dims.iter().any(|(name, _)| name == axis))
        };
        dims.keys().map(String::as_str).filter(|axis| !has(axis)).collect()
    }
}
