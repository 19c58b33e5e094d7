//! What a session and the runtime are opened from: artifacts, read as far as is asked, and the records of a tuning database.

use crate::artifact::Opening;
use crate::schedule::Wake;
use crate::wake;
use schema::{DeviceKey, ModelFeatures};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tuning_db::{ModelRecords, Reader, Source, StoreError};

/// What to open, and how; `Options` are those of what is opened.
#[derive(Clone, Debug, Default)]
pub struct Builder<Options> {
    pub(crate) artifacts: Vec<PathBuf>,
    pub(crate) database: Option<PathBuf>,
    pub(crate) opening: Opening,
    pub(crate) options: Options,
}

/// Why there are no records.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct DatabaseError {
    pub path: PathBuf,
    pub source: StoreError,
}

impl<Options> Builder<Options> {
    /// With an artifact.
    #[must_use]
    pub fn artifact(mut self, path: impl AsRef<Path>) -> Self {
        self.artifacts.push(path.as_ref().to_owned());
        self
    }

    /// Predictions by the records of this tuning database, where it has some of the plans in the artifacts; it's only read.
    #[must_use]
    pub fn database(self, path: impl AsRef<Path>) -> Self {
        Builder { database: Some(path.as_ref().to_owned()), ..self }
    }

    /// How much of the artifacts is read and checked at once; by default their metadata.
    #[must_use]
    pub fn opening(self, opening: Opening) -> Self {
        Builder { opening, ..self }
    }

    /// With changed options.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// The tuning database, if one is wanted.
    pub(crate) fn records(&self) -> Result<Option<Records>, DatabaseError> {
        self.database.as_deref().map(Records::open).transpose()
    }
}

/// A tuning database that predictions come from.
pub(crate) struct Records(Reader);

impl Records {
    fn open(path: &Path) -> Result<Records, DatabaseError> {
        let reader = Reader::open(path, Source::Auto);
        reader.map(Records).map_err(|source| DatabaseError { path: path.to_owned(), source })
    }

    /// The records of whole models, unless they are of the generation `held`; 0 is none.
    ///
    /// # Errors
    /// [`DatabaseError`]: it cannot be read any more.
    pub fn newer(&self, held: u64) -> Result<Option<ModelRecords>, DatabaseError> {
        if held != 0 && self.0.generation() == held {
            return Ok(None);
        }
        self.0.model_records().map(Some).map_err(|source| self.unread(source))
    }

    /// What the graphs of all its models are like.
    ///
    /// # Errors
    /// [`DatabaseError`]: it cannot be read any more.
    pub fn features(&self) -> Result<Vec<ModelFeatures>, DatabaseError> {
        self.0.model_features().map_err(|source| self.unread(source))
    }

    /// How devices wake.
    ///
    /// # Errors
    /// [`DatabaseError`]: it cannot be read any more.
    pub fn wakes(&self) -> Result<BTreeMap<DeviceKey, Wake>, DatabaseError> {
        self.0.trials_of_task(wake::task()).map(|trials| wake::curves(&trials)).map_err(|source| self.unread(source))
    }

    fn unread(&self, source: StoreError) -> DatabaseError {
        DatabaseError { path: self.0.path().to_owned(), source }
    }
}
