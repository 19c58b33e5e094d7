//! Plans that are ready: compiled on first use, shared by what follows.
//!
//! The first request for a key compiles it while others for the same key wait; later ones take an instance that is not in use, or make
//! another one, which shares the prepared weights and only has activations of its own.

use crate::artifact::{Artifact, ArtifactError};
use crate::device::{self, Grant};
use crate::execute::{Plan, PlanError};
use crate::worker::{EntryError, plan_of};
use schema::Share;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a plan is compiled from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub artifact: usize,
    pub graph: usize,
    /// Whose configs; `None`: defaults.
    pub entry: Option<usize>,
    pub share: Share,
}

/// Instances of one key that are not in use. The first compiled stays as the pattern of others.
#[derive(Default)]
struct Family {
    pattern: Option<Plan>,
    idle: Vec<Plan>,
}

/// All plans.
#[derive(Default)]
pub(super) struct Instances(Mutex<BTreeMap<Key, Arc<Mutex<Family>>>>);

/// Why there is no instance.
pub(super) enum Failed {
    Artifact(ArtifactError),
    Plan(PlanError),
}

impl Instances {
    fn family(&self, key: &Key) -> Arc<Mutex<Family>> {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.entry(key.clone()).or_default().clone()
    }

    /// An instance nobody else uses.
    pub fn take(&self, key: &Key, artifact: &Artifact, grant: &Grant) -> Result<Plan, Failed> {
        let family = self.family(key);
        let mut family = family.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = family.idle.pop() {
            return Ok(plan);
        }
        if let Some(pattern) = &family.pattern {
            return pattern.another().map_err(Failed::Plan);
        }
        let gpu = device::gpu(&grant.device, &grant.cores).map_err(|source| Failed::Plan(PlanError::Device { source }))?;
        let plan = plan_of(artifact, key.graph, key.entry, &grant.limits, gpu.as_ref()).map_err(|error| match error {
            EntryError::Artifact(error) => Failed::Artifact(error),
            EntryError::Plan(error) => Failed::Plan(error),
        })?;
        let instance = plan.another().map_err(Failed::Plan)?;
        family.pattern = Some(plan);
        Ok(instance)
    }

    /// Gives an instance back for others.
    pub fn give_back(&self, key: &Key, plan: Plan) {
        self.family(key).lock().unwrap_or_else(PoisonError::into_inner).idle.push(plan);
    }
}
