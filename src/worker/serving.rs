//! The worker's side of serving: plans of artifacts on segments that a runtime fills.

use super::child::{Line, Share, picos};
use super::instance::{Apart, Instance};
use super::plans::random_inputs;
use super::protocol::{Answer, Serve, Told};
use super::segment::Sizes;
use crate::artifact::{Artifact, ArtifactError, Opening};
use crate::execute::{Configs, Plan, PlanError, Port, default_plan_bytes};
use cube_kernels::Gpu;
use kernels::Limits;
use schema::{FailureClass, Split};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use thiserror::Error;

/// Why an entry has no plan.
#[derive(Debug, Error)]
pub enum EntryError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The plan of a graph of an artifact, with an entry's configs or, without one, with defaults, on this part of a device.
///
/// # Errors
/// [`EntryError`]: damaged weights, or what cannot be computed here.
///
/// # Panics
/// When the artifact has no such graph or entry.
pub fn plan_of(
    artifact: &Artifact,
    graph: usize,
    entry: Option<usize>,
    limits: &Limits,
    gpu: Option<&Gpu>,
) -> Result<Plan, EntryError> {
    let entry = entry.map(|entry| &artifact.entries()[entry]);
    let configs = entry
        .map_or_else(Configs::new, |entry| entry.configs.iter().map(|(task, config)| (task.key(), config.clone())).collect());
    // A split for other cores may not be one for these.
    let split = entry.map_or(Split::WHOLE, |entry| entry.split);
    let split = if limits.units.is_multiple_of(split.lanes()) { split } else { Split::WHOLE };
    let graph = artifact.graph(graph)?;
    let plan = match gpu {
        Some(gpu) => Plan::compile_on(gpu, graph, &configs, limits, default_plan_bytes()),
        None => Plan::compile_split(graph, split, &configs, limits, default_plan_bytes()),
    };
    Ok(plan?)
}

/// The bytes that a plan of these ports shares, without room; an input must have a fixed size.
pub fn sizes<'a>(inputs: impl Iterator<Item = &'a Port>, outputs: impl Iterator<Item = &'a Port>) -> Option<Sizes> {
    let inputs = inputs.map(|port| Some(port.ty.fixed_bytes()? as u64)).collect::<Option<_>>()?;
    Some(Sizes { inputs, outputs: outputs.map(|port| port.ty.fixed_bytes().unwrap_or(0) as u64).collect(), room: 0 })
}

/// Instances of plans in slots.
pub(super) struct Serving<'a> {
    share: &'a Share,
    line: &'a Arc<Line>,
    /// Kept while a plan of theirs is.
    artifacts: BTreeMap<FileId, Artifact>,
    slots: BTreeMap<u32, Slot>,
}

struct Slot {
    artifact: FileId,
    instance: Arc<Mutex<Instance>>,
    /// Where it runs once there is another of its plan; before that on the thread that answers asks.
    apart: Option<Apart>,
}

/// Which file one is, by its device and inode: no other has them while an artifact holds it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64, u64);

impl FileId {
    fn of(file: &File) -> io::Result<FileId> {
        let metadata = file.metadata()?;
        Ok(FileId(metadata.dev(), metadata.ino()))
    }
}

impl<'a> Serving<'a> {
    /// Without plans.
    pub fn new(share: &'a Share, line: &'a Arc<Line>) -> Self {
        Serving { share, line, artifacts: BTreeMap::new(), slots: BTreeMap::new() }
    }

    /// Makes a plan and maps its segment.
    pub fn load(&mut self, slot: u32, wanted: &Serve, files: Vec<OwnedFd>) -> Answer {
        self.drop_slots(&[slot]);
        let Ok([artifact, segment]) = <[OwnedFd; 2]>::try_from(files) else {
            return Answer::Wrong { reason: "an artifact and a segment are to come with it".to_owned() };
        };
        let loaded = self.loaded(wanted, File::from(artifact), &File::from(segment));
        let answer = match loaded {
            Ok((artifact, instance, generate_ps)) => {
                let built = Answer::Built {
                    first_ps: instance.first_ps(),
                    prepared_bytes: instance.memory_bytes(),
                    generate_ps,
                    compile_ps: 0,
                };
                let instance = Arc::new(Mutex::new(instance));
                self.slots.insert(slot, Slot { artifact, instance, apart: None });
                built
            }
            Err(detail) => Answer::Refused { class: FailureClass::Compile, detail },
        };
        self.forget_artifacts();
        answer
    }

    fn loaded(&mut self, wanted: &Serve, file: File, segment: &File) -> Result<(FileId, Instance, u64), String> {
        let id = FileId::of(&file).map_err(|error| error.to_string())?;
        let artifact: &Artifact = match self.artifacts.entry(id) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let artifact = Artifact::from_file(file, Path::new(&wanted.artifact), Opening::default());
                place.insert(artifact.map_err(|error| error.to_string())?)
            }
        };
        let (graph, entry) = (wanted.graph as usize, wanted.entry.map(|entry| entry as usize));
        if graph >= artifact.shapes().len() || entry.is_some_and(|entry| entry >= artifact.entries().len()) {
            return Err("the artifact has no such graph or entry".to_owned());
        }
        let start = Instant::now();
        let Share { limits, pool, gpu, .. } = self.share;
        let plan = pool.install(|| plan_of(artifact, graph, entry, limits, gpu.as_ref()));
        let mut plan = plan.map_err(|error| error.to_string())?;
        plan.set_pool(pool.clone());
        let generate_ps = picos(start);
        let inputs = random_inputs(artifact.outline(graph), 0)?;
        Ok((id, Instance::new(plan, segment, wanted.room, inputs)?, generate_ps))
    }

    /// Makes another instance of a slot's plan, on a segment of its own.
    pub fn another(&mut self, slot: u32, of: u32, files: Vec<OwnedFd>) -> Answer {
        let Ok([segment]) = <[OwnedFd; 1]>::try_from(files) else {
            return Answer::Wrong { reason: "a segment is to come with it".to_owned() };
        };
        let Some(first) = self.slots.get_mut(&of).filter(|_| slot != of) else { return empty(of) };
        let line = self.line;
        let made = locked(&first.instance).another(&File::from(segment)).and_then(|instance| {
            let instance = Arc::new(Mutex::new(instance));
            let apart = |slot, instance: &Arc<Mutex<Instance>>| Apart::start(slot, instance.clone(), line.clone());
            if first.apart.is_none() {
                first.apart = Some(apart(of, &first.instance)?);
            }
            let apart = Some(apart(slot, &instance)?);
            Ok(Slot { artifact: first.artifact, instance, apart })
        });
        match made {
            Ok(another) => {
                self.slots.insert(slot, another);
                Answer::Done
            }
            Err(detail) => Answer::Refused { class: FailureClass::Compile, detail },
        }
    }

    /// Frees slots.
    pub fn drop_slots(&mut self, slots: &[u32]) {
        slots.iter().for_each(|slot| drop(self.slots.remove(slot)));
        self.forget_artifacts();
    }

    fn forget_artifacts(&mut self) {
        let slots = &self.slots;
        self.artifacts.retain(|id, _| slots.values().any(|slot| slot.artifact == *id));
    }

    /// Runs a plan on what lies in its segment. `None` where another thread runs it, and answers.
    pub fn run(&mut self, slot: u32) -> Option<Answer> {
        let Some(found) = self.slots.get(&slot) else { return Some(empty(slot)) };
        match &found.apart {
            Some(apart) => apart.run().err().map(|reason| Answer::Wrong { reason }),
            None => Some(Answer::Run { slot, told: locked(&found.instance).run(&mut |_| ()) }),
        }
    }

    /// Maps a segment with more room in place of a slot's, and leaves there what had found none.
    pub fn collect(&mut self, slot: u32, files: Vec<OwnedFd>, room: u64) -> Answer {
        let Ok([segment]) = <[OwnedFd; 1]>::try_from(files) else {
            return Answer::Wrong { reason: "a segment is to come with it".to_owned() };
        };
        let Some(found) = self.slots.get(&slot) else { return empty(slot) };
        let collected = locked(&found.instance).collect(&File::from(segment), room);
        Answer::Run { slot, told: collected.unwrap_or_else(|detail| Told::Refused { detail }) }
    }
}

fn empty(slot: u32) -> Answer {
    Answer::Wrong { reason: format!("slot {slot} is empty") }
}

fn locked(instance: &Mutex<Instance>) -> std::sync::MutexGuard<'_, Instance> {
    instance.lock().unwrap_or_else(PoisonError::into_inner)
}
