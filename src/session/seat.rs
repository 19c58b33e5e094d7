//! A device that a session runs on: its cores, its plans, what is predicted there, and whether it is still there.

use super::SessionError;
use super::index::Index;
use super::instances::Instances;
use super::lanes::Lanes;
use super::place::{Candidate, Here};
use crate::device::Machine;
use schema::{DeviceKey, DeviceName, EnvironmentKey, Share};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use tuning_db::ModelRecords;

/// See the module.
pub(super) struct Seat {
    machine: Machine,
    /// Of the machine: both are hashes of texts, and asked for by every request.
    keys: (DeviceKey, EnvironmentKey),
    /// How the machine grants shares.
    mechanism: String,
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
        Ok(Seat {
            keys: (machine.key(), machine.environment.key()),
            mechanism: machine.grant(Share::WHOLE)?.grant.mechanism,
            index: RwLock::new(Arc::new(Index::of_artifacts(candidates))),
            lanes: Lanes::new(&machine),
            instances: Instances::default(),
            lost: OnceLock::new(),
            machine,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &DeviceName {
        &self.machine.device.name
    }

    /// As placements are judged by.
    pub fn here(&self) -> Here<'_> {
        let (device, environment) = self.keys;
        Here { device, name: self.name(), environment, mechanism: &self.mechanism }
    }

    /// The present predictions.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Predicts by these records from now on.
    pub fn predict_by(&self, records: &ModelRecords, candidates: &[Candidate]) {
        let index = Arc::new(Index::of(candidates, records, &self.here()));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }

    /// What it died of; `None` while it lives.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Nothing is run here any more.
    pub fn lose(&self, why: String) {
        tracing::warn!("{}: {why}; its requests go to the next device", self.name().0);
        // Another thread may have been first: its reason stands.
        let _ = self.lost.set(why);
    }
}
