//! The store as the loop's records.

use super::records::{Records, RecordsError, Timed};
use schema::{Device, DeviceKey, Environment, ModelKey, NewObservation, Numerics, Observation, ObservationId, Share, TaskKey};
use std::collections::BTreeMap;
use tuning_db::{Store, Ticket};

/// Bests of one similar task that a prior looks at.
const BESTS: usize = 16;

/// A store that is open for writing.
pub struct StoreRecords<'a> {
    store: &'a Store,
    /// Handed in and not yet confirmed.
    pending: Vec<Ticket>,
    /// Tasks this process named, by operator: the similar ones whose records a prior reads.
    tasks: BTreeMap<TaskKey, String>,
}

impl<'a> StoreRecords<'a> {
    /// Records in this store.
    pub fn new(store: &'a Store) -> Self {
        StoreRecords { store, pending: Vec::new(), tasks: BTreeMap::new() }
    }
}

impl Records for StoreRecords<'_> {
    fn name_task(&mut self, key: TaskKey, text: &str) -> Result<(), RecordsError> {
        self.tasks.insert(key, text.to_owned());
        Ok(self.store.put_task(key, text)?)
    }

    fn name_model(&mut self, key: ModelKey, name: &str) -> Result<(), RecordsError> {
        Ok(self.store.put_model(key, name)?)
    }

    fn name_device(&mut self, device: &Device, environment: &Environment) -> Result<(), RecordsError> {
        Ok(self.store.put_device(device, environment)?)
    }

    fn append(&mut self, observation: NewObservation) -> Result<(), RecordsError> {
        self.pending.push(self.store.append(observation)?);
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ObservationId>, RecordsError> {
        self.pending.drain(..).map(|ticket| Ok(ticket.wait()?)).collect()
    }

    fn of_task(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        Ok(self.store.trials(task, device, share)?)
    }

    fn of_model(&self, model: ModelKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        // Runs of a model lie beside the trials of tasks, under the model's key.
        Ok(self.store.trials(TaskKey(model.0), device, share)?)
    }

    fn of_operator(&self, operator: &str, device: DeviceKey, share: Share, most: usize) -> Result<Vec<Timed>, RecordsError> {
        let named = self.tasks.iter().filter(|(_, text)| text.split(' ').next() == Some(operator));
        let mut found = Vec::new();
        for (key, text) in named {
            let bests = self.store.bests(*key, device, share, Numerics::Strict, BESTS)?;
            let timed: Vec<_> =
                bests.into_iter().filter(|best| !best.stale).map(|best| (best.found.config, best.found.timing.median)).collect();
            if timed.len() > 1 {
                found.push((text.clone(), timed));
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }
}
