//! Where observations come from and go to: the store behind a small trait, and one in memory for tests and for tuning without a
//! database.

use schema::{
    Config, Device, DeviceKey, Environment, ModelFeatures, ModelKey, NewObservation, Observation, ObservationId, Outcome, Picos,
    Share, Subject, TaskKey,
};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why records cannot be read or written: the store's own words.
#[derive(Debug, Error)]
pub enum RecordsError {
    #[error(transparent)]
    Store(#[from] tuning_db::StoreError),
}

/// The timed configs of a task: its text, and medians by config.
pub type Timed = (String, Vec<(Config, Picos)>);

/// What the loop needs of a database.
pub trait Records {
    /// Says what a task's key stands for. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn name_task(&mut self, key: TaskKey, text: &str) -> Result<(), RecordsError>;

    /// Says what a model's key stands for.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn name_model(&mut self, key: ModelKey, name: &str) -> Result<(), RecordsError>;

    /// Says what a model's graph is like at a batch.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn put_features(&mut self, features: &ModelFeatures) -> Result<(), RecordsError>;

    /// Says what a device's and an environment's key stand for.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn name_device(&mut self, device: &Device, environment: &Environment) -> Result<(), RecordsError>;

    /// Hands over an observation. It counts once [`Records::commit`] has returned.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn append(&mut self, observation: NewObservation) -> Result<(), RecordsError>;

    /// Waits until everything handed over is on disk, and gives the ids in order.
    ///
    /// # Errors
    /// [`RecordsError`]; what was not acknowledged must not be counted.
    fn commit(&mut self) -> Result<Vec<ObservationId>, RecordsError>;

    /// Every trial and final of a task on a share of a device.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn of_task(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError>;

    /// Every trial and final of a task on the other shares of a device.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn of_other_shares(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError>;

    /// Every run of a model on a share of a device.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn of_model(&self, model: ModelKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError>;

    /// Timed configs of at most `most` tasks of an operator on a share of a device: what a prior learns from.
    ///
    /// # Errors
    /// [`RecordsError`].
    fn of_operator(&self, operator: &str, device: DeviceKey, share: Share, most: usize) -> Result<Vec<Timed>, RecordsError>;
}

/// Records that live as long as the process.
#[derive(Debug, Default)]
pub struct InMemory {
    observations: Vec<Observation>,
    tasks: BTreeMap<TaskKey, String>,
    writer: [u8; 16],
    uncommitted: Vec<ObservationId>,
}

impl InMemory {
    /// None yet.
    pub fn new() -> Self {
        InMemory::default()
    }

    /// Everything that was handed over, in order.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Trials and finals of a task on a device.
    fn of_device(&self, task: TaskKey, device: DeviceKey) -> impl Iterator<Item = &Observation> {
        self.observations.iter().filter(move |one| match &one.subject {
            Subject::Trial { task: of, .. } | Subject::Final { task: of, .. } => *of == task && one.device == device,
            Subject::Model(_) => false,
        })
    }
}

impl Records for InMemory {
    fn name_task(&mut self, key: TaskKey, text: &str) -> Result<(), RecordsError> {
        self.tasks.insert(key, text.to_owned());
        Ok(())
    }

    fn name_model(&mut self, _: ModelKey, _: &str) -> Result<(), RecordsError> {
        Ok(())
    }

    fn put_features(&mut self, _: &ModelFeatures) -> Result<(), RecordsError> {
        Ok(())
    }

    fn name_device(&mut self, _: &Device, _: &Environment) -> Result<(), RecordsError> {
        Ok(())
    }

    fn append(&mut self, observation: NewObservation) -> Result<(), RecordsError> {
        let id = ObservationId { writer: self.writer, seq: self.observations.len() as u64 + 1 };
        self.observations.push(observation.with_id(id));
        self.uncommitted.push(id);
        Ok(())
    }

    fn commit(&mut self) -> Result<Vec<ObservationId>, RecordsError> {
        Ok(std::mem::take(&mut self.uncommitted))
    }

    fn of_task(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        Ok(self.of_device(task, device).filter(|one| one.share == share).cloned().collect())
    }

    fn of_other_shares(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        Ok(self.of_device(task, device).filter(|one| one.share != share).cloned().collect())
    }

    fn of_model(&self, model: ModelKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, RecordsError> {
        let about = |observation: &&Observation| match &observation.subject {
            Subject::Model(record) => record.model == model && observation.device == device && observation.share == share,
            _ => false,
        };
        Ok(self.observations.iter().filter(about).cloned().collect())
    }

    fn of_operator(&self, operator: &str, device: DeviceKey, share: Share, most: usize) -> Result<Vec<Timed>, RecordsError> {
        let named = self.tasks.iter().filter(|(_, text)| text.split(' ').next() == Some(operator));
        let timed = named.map(|(key, text)| Ok((text.clone(), medians(&self.of_task(*key, device, share)?))));
        timed.filter(|timed| timed.as_ref().map_or(true, |(_, timed)| !timed.is_empty())).take(most).collect()
    }
}

/// The last median of each config that was timed alone, in the order of the configs.
pub fn medians(observations: &[Observation]) -> Vec<(Config, Picos)> {
    let mut times = BTreeMap::new();
    for observation in observations {
        if let (Subject::Trial { config, .. }, Outcome::Ok { timing, .. }) = (&observation.subject, &observation.outcome) {
            times.insert(config.clone(), timing.median);
        }
    }
    times.into_iter().collect()
}
