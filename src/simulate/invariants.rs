//! What must hold after every instant, under every policy.
//!
//! Kept by counts of its own, so that a mistake in the core's books does not hide itself.

use super::Scenario;
use crate::schedule::{Core, DeviceId, ModelId, Nanos, RequestId, WorkerId};
use schema::Share;
use thiserror::Error;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Violation {
    #[error("request {0} was answered twice")]
    AnsweredTwice(u64),
    #[error("request {0} was answered and never accepted")]
    NeverAccepted(u64),
    #[error("{in_use} per mille of device {device} are in use")]
    Shares { device: u16, in_use: u16 },
    #[error("device {device}: a worker of {share} % and another that owns some of its units run at once")]
    Units { device: u16, share: Share },
    #[error("device {device}: the ledger says {ledger} per mille are in use, its workers hold {held}")]
    Ledger { device: u16, ledger: u16, held: u16 },
    #[error("model {model} has {held} accepted requests, the bound is {most}")]
    Queue { model: u16, held: usize, most: usize },
    #[error("model {model}: {held} accepted requests are unanswered, the core knows of {known}")]
    Lost { model: u16, held: usize, known: usize },
    #[error("model {model}: a request due at {due} still waits")]
    Starved { model: u16, due: Nanos },
    #[error("{0} accepted requests were never answered")]
    Unanswered(usize),
    #[error("a policy that waits wants to be asked again at {wake}, which is not later")]
    NoProgress { wake: Nanos },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checker {
    /// Of each accepted request whether it was answered.
    answered: Vec<bool>,
    model_of: Vec<ModelId>,
    held: Vec<usize>,
    queue_len_max: usize,
    devices: usize,
    workers: usize,
    starvation: Nanos,
}

impl Checker {
    pub fn new(scenario: &Scenario) -> Checker {
        Checker {
            answered: Vec::new(),
            model_of: Vec::new(),
            held: Vec::new(),
            queue_len_max: scenario.limits.queue_len_max,
            devices: scenario.fleet.devices.len(),
            workers: scenario.fleet.devices.iter().map(|device| device.workers.len()).sum(),
            starvation: scenario.starvation,
        }
    }

    pub fn accepted(&mut self, id: RequestId, model: ModelId) {
        assert_eq!(id.0 as usize, self.answered.len(), "requests are numbered in the order of acceptance");
        self.answered.push(false);
        self.model_of.push(model);
        let model = usize::from(model.0);
        if self.held.len() <= model {
            self.held.resize(model + 1, 0);
        }
        self.held[model] += 1;
    }

    pub fn answered(&mut self, id: RequestId) -> Result<(), Violation> {
        let answered = self.answered.get_mut(id.0 as usize).ok_or(Violation::NeverAccepted(id.0))?;
        if std::mem::replace(answered, true) {
            return Err(Violation::AnsweredTwice(id.0));
        }
        self.held[usize::from(self.model_of[id.0 as usize].0)] -= 1;
        Ok(())
    }

    /// After an instant.
    pub fn look(&mut self, core: &Core, now: Nanos) -> Result<(), Violation> {
        let view = core.view(now);
        for device in 0..self.devices as u16 {
            let in_use = view.ledger().in_use(DeviceId(device));
            if in_use > Share::WHOLE.as_per_mille() {
                return Err(Violation::Shares { device, in_use });
            }
            let workers = (0..self.workers as u16).map(|worker| view.worker(WorkerId(worker)));
            let busy = workers.filter(|worker| worker.device.0 == device && worker.in_flight() > 0);
            if let Some(two) =
                busy.clone().find(|worker| worker.overlaps().iter().any(|&other| view.worker(other).in_flight() > 0))
            {
                return Err(Violation::Units { device, share: two.share });
            }
            let held = busy.map(|worker| worker.share.as_per_mille()).sum();
            if in_use != held {
                return Err(Violation::Ledger { device, ledger: in_use, held });
            }
        }
        for (at, &held) in self.held.iter().enumerate() {
            let model = at as u16;
            if held > self.queue_len_max {
                return Err(Violation::Queue { model, held, most: self.queue_len_max });
            }
            if held != core.held(ModelId(model)) {
                return Err(Violation::Lost { model, held, known: core.held(ModelId(model)) });
            }
            if let Some(front) = view.queue(ModelId(model)).front()
                && front.due + self.starvation < now
            {
                return Err(Violation::Starved { model, due: front.due });
            }
        }
        Ok(())
    }

    /// When nothing will happen any more.
    pub fn end(&mut self, core: &Core) -> Result<(), Violation> {
        self.look(core, Nanos::ZERO)?;
        match self.held.iter().sum() {
            0 => Ok(()),
            left => Err(Violation::Unanswered(left)),
        }
    }
}
