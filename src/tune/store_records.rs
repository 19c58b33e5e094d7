//! The store as the loop's records.

use super::records::{Records, RecordsError, Timed};
use schema::{
    Device, DeviceKey, Environment, ModelFeatures, ModelKey, NewObservation, Numerics, Observation, ObservationId, Share, TaskKey,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use tuning_db::query::Field;
use tuning_db::{Of, Query, Store, Ticket};

/// Bests of one similar task that a prior looks at.
const BESTS: usize = 16;
/// Rows of the database that are read to find the tasks of an operator.
const ROWS_MAX: usize = 2000;

/// A store that is open for writing.
pub struct StoreRecords<'a> {
    store: &'a Store,
    /// Handed in and not yet confirmed.
    pending: Vec<Ticket>,
    /// Tasks with records, as far as they were asked for.
    tasks: RefCell<BTreeMap<TaskKey, String>>,
    /// Operators whose tasks were looked up in the database.
    looked_up: RefCell<BTreeSet<String>>,
}

impl<'a> StoreRecords<'a> {
    /// Records in this store.
    pub fn new(store: &'a Store) -> Self {
        StoreRecords { store, pending: Vec::new(), tasks: RefCell::default(), looked_up: RefCell::default() }
    }

    /// Finds the tasks of an operator that the database has records of, once.
    fn look_up(&self, operator: &str) -> Result<(), RecordsError> {
        if !self.looked_up.borrow_mut().insert(operator.to_owned()) {
            return Ok(());
        }
        let Ok(query) = Query::parse(&format!("op={operator} limit {ROWS_MAX}")) else { return Ok(()) };
        let rows = self.store.query(&query.of(Of::Tasks))?;
        let Some(column) = rows.column(Field::Task) else { return Ok(()) };
        let texts = rows.rows.iter().filter_map(|row| row.cells.get(column)).map(|cell| cell.plain());
        self.tasks.borrow_mut().extend(texts.map(|text| (TaskKey::of(&text), text)));
        Ok(())
    }
}

impl Records for StoreRecords<'_> {
    fn name_task(&mut self, key: TaskKey, text: &str) -> Result<(), RecordsError> {
        self.tasks.borrow_mut().insert(key, text.to_owned());
        Ok(self.store.put_task(key, text)?)
    }

    fn name_model(&mut self, key: ModelKey, name: &str) -> Result<(), RecordsError> {
        Ok(self.store.put_model(key, name)?)
    }

    fn put_features(&mut self, features: &ModelFeatures) -> Result<(), RecordsError> {
        Ok(self.store.put_features(features)?)
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

    fn of_other_shares(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        let mut all = self.store.trials_of_task(task)?;
        all.retain(|one| one.device == device && one.share != share);
        Ok(all)
    }

    fn of_model(&self, model: ModelKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        // Runs of a model lie beside the trials of tasks, under the model's key.
        Ok(self.store.trials(TaskKey(model.0), device, share)?)
    }

    fn of_operator(&self, operator: &str, device: DeviceKey, share: Share, most: usize) -> Result<Vec<Timed>, RecordsError> {
        self.look_up(operator)?;
        let tasks = self.tasks.borrow();
        let named = tasks.iter().filter(|(_, text)| text.split(' ').next() == Some(operator));
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
