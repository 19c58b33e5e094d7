//! A device that a session runs on: its cores, its plans, what is predicted there, and whether it is still there.

use super::SessionError;
use super::instances::Instances;
use super::lanes::Lanes;
use crate::device::Machine;
use crate::placement::{Candidate, Index, Site};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use tuning_db::ModelRecords;

/// See the module.
pub(super) struct Seat {
    pub site: Site,
    index: RwLock<Arc<Index>>,
    pub lanes: Lanes,
    pub instances: Instances,
    /// What it died of.
    lost: OnceLock<String>,
}

impl Seat {
    /// On an idle device, predicting by the artifacts.
    ///
    /// # Errors
    /// [`SessionError::Share`] when the device does not give all of itself.
    pub fn new(machine: Machine, candidates: &[Candidate]) -> Result<Self, SessionError> {
        let site = Site::new(machine)?;
        Ok(Seat {
            index: RwLock::new(Arc::new(Index::of_artifacts(candidates))),
            lanes: Lanes::new(&site.machine),
            instances: Instances::default(),
            lost: OnceLock::new(),
            site,
        })
    }

    /// The present predictions.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Predicts by these records from now on.
    pub fn predict_by(&self, records: &ModelRecords, candidates: &[Candidate]) {
        let index = Arc::new(Index::of(candidates, records, &self.site.here()));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }

    /// What it died of; `None` while it lives.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Nothing is run here any more.
    pub fn lose(&self, why: String) {
        tracing::warn!("{}: {why}; its requests go to the next device", self.site.name().0);
        // Another thread may have been first: its reason stands.
        let _ = self.lost.set(why);
    }
}
