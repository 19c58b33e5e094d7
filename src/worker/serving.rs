//! The worker's side of serving: plans of artifacts on segments that a runtime fills.

use super::child::{Share, picos};
use super::plans::random_inputs;
use super::protocol::{Answer, Serve};
use super::segment::{Segment, Sizes};
use crate::artifact::{Artifact, ArtifactError, Opening};
use crate::execute::{Configs, Plan, PlanError, Port, default_plan_bytes};
use bytes::Bytes;
use cube_kernels::Gpu;
use kernels::{Datum, Limits, Tensor};
use schema::{FailureClass, Split};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
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

/// Plans in slots.
pub(super) struct Serving<'a> {
    share: &'a Share,
    /// Kept while a plan of theirs is.
    artifacts: BTreeMap<FileId, Artifact>,
    plans: BTreeMap<u32, Served>,
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

struct Served {
    artifact: FileId,
    plan: Plan,
    segment: Segment,
    /// Of outputs without a fixed size.
    dynamic: Vec<usize>,
    /// Outputs that found no room, with the time of their run.
    kept: Option<(Vec<Datum>, u64)>,
}

impl<'a> Serving<'a> {
    /// Without plans.
    pub fn new(share: &'a Share) -> Self {
        Serving { share, artifacts: BTreeMap::new(), plans: BTreeMap::new() }
    }

    /// Makes a plan and maps its segment.
    pub fn load(&mut self, slot: u32, wanted: &Serve, files: Vec<OwnedFd>) -> Answer {
        self.drop_slots(&[slot]);
        let Ok([artifact, segment]) = <[OwnedFd; 2]>::try_from(files) else {
            return Answer::Wrong { reason: "an artifact and a segment are to come with it".to_owned() };
        };
        let loaded = self.loaded(wanted, File::from(artifact), &File::from(segment));
        self.forget_artifacts();
        match loaded {
            Ok((served, first_ps, generate_ps)) => {
                let memory = served.plan.memory();
                let prepared_bytes = memory.prepared_bytes + memory.constant_bytes + memory.arena_bytes;
                self.plans.insert(slot, served);
                Answer::Built { first_ps, prepared_bytes, generate_ps, compile_ps: 0 }
            }
            Err(detail) => Answer::Refused { class: FailureClass::Compile, detail },
        }
    }

    fn loaded(&mut self, wanted: &Serve, file: File, segment: &File) -> Result<(Served, u64, u64), String> {
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
        let sizes = sizes(plan.inputs(), plan.outputs()).ok_or("an input has no fixed size")?;
        let mut segment = Segment::open(segment, &Sizes { room: wanted.room, ..sizes }).map_err(|error| error.to_string())?;
        let dynamic = plan.outputs().enumerate().filter(|(_, port)| port.ty.fixed_bytes().is_none()).map(|(at, _)| at).collect();
        let inputs = random_inputs(artifact.outline(graph), 0)?;
        // The runtime measures by them, too.
        for (part, input) in segment.parts().inputs.into_iter().zip(&inputs) {
            part.copy_from_slice(input.tensor().ok_or("an input is not a tensor")?.bytes());
        }
        let start = Instant::now();
        plan.run_data(inputs).map_err(|error| error.to_string())?;
        let first_ps = picos(start);
        Ok((Served { artifact: id, plan, segment, dynamic, kept: None }, first_ps, generate_ps))
    }

    /// Frees slots.
    pub fn drop_slots(&mut self, slots: &[u32]) {
        slots.iter().for_each(|slot| drop(self.plans.remove(slot)));
        self.forget_artifacts();
    }

    fn forget_artifacts(&mut self) {
        let plans = &self.plans;
        self.artifacts.retain(|id, _| plans.values().any(|served| served.artifact == *id));
    }

    /// Runs a plan on what lies in its segment.
    pub fn run(&mut self, slot: u32) -> Answer {
        let Some(served) = self.plans.get_mut(&slot) else { return Answer::Wrong { reason: format!("slot {slot} is empty") } };
        match served.run() {
            Ok(answer) => answer,
            Err(detail) => Answer::Refused { class: FailureClass::WrongResult, detail },
        }
    }

    /// Maps a segment with more room in place of a slot's, and leaves there what had found none.
    pub fn collect(&mut self, slot: u32, files: Vec<OwnedFd>, room: u64) -> Answer {
        let Ok([segment]) = <[OwnedFd; 1]>::try_from(files) else {
            return Answer::Wrong { reason: "a segment is to come with it".to_owned() };
        };
        let Some(served) = self.plans.get_mut(&slot) else { return Answer::Wrong { reason: format!("slot {slot} is empty") } };
        match served.collect(&File::from(segment), room) {
            Ok(answer) => answer,
            Err(detail) => Answer::Refused { class: FailureClass::OutOfMemory, detail },
        }
    }
}

impl Served {
    fn run(&mut self) -> Result<Answer, String> {
        let mut parts = self.segment.parts();
        let start = Instant::now();
        if self.dynamic.is_empty() {
            let inputs: Vec<&[u8]> = parts.inputs.iter().map(|part| &**part).collect();
            self.plan.run_into(&inputs, &mut parts.outputs).map_err(|error| error.to_string())?;
            return Ok(Answer::Ran { picos: picos(start), dynamic: Vec::new() });
        }
        let tensor = |(port, bytes): (&Port, &&mut [u8])| {
            let (dtype, shape) = (port.ty.dtype()?, port.ty.fixed_shape()?);
            Tensor::from_bytes(dtype, shape, Bytes::copy_from_slice(bytes)).map(Datum::Tensor)
        };
        let inputs: Option<Vec<Datum>> = self.plan.inputs().zip(&parts.inputs).map(tensor).collect();
        let outputs = self.plan.run_data(inputs.ok_or("an input has no fixed size")?).map_err(|error| error.to_string())?;
        self.kept = Some((outputs, picos(start)));
        self.leave()
    }

    fn collect(&mut self, segment: &File, room: u64) -> Result<Answer, String> {
        let sizes = sizes(self.plan.inputs(), self.plan.outputs()).ok_or("an input has no fixed size")?;
        self.segment = Segment::open(segment, &Sizes { room, ..sizes }).map_err(|error| error.to_string())?;
        self.leave()
    }

    /// Leaves what is kept in the segment, or says how much room that takes.
    fn leave(&mut self) -> Result<Answer, String> {
        let (outputs, picos) = self.kept.as_ref().ok_or("nothing is kept")?;
        let tensors: Option<Vec<&Tensor>> = outputs.iter().map(Datum::tensor).collect();
        let tensors = tensors.ok_or("an output is not a tensor")?;
        let wanted: usize = self.dynamic.iter().map(|&at| tensors[at].bytes().len()).sum();
        let mut parts = self.segment.parts();
        if wanted > parts.room.len() {
            return Ok(Answer::Room { bytes: wanted as u64 });
        }
        let mut end = 0;
        for (at, tensor) in tensors.iter().enumerate() {
            let bytes = tensor.bytes();
            if self.dynamic.contains(&at) {
                parts.room[end..end + bytes.len()].copy_from_slice(bytes);
                end += bytes.len();
            } else {
                parts.outputs[at].copy_from_slice(bytes);
            }
        }
        let shape = |&at: &usize| tensors[at].shape().iter().map(|&extent| extent as u64).collect();
        let answer = Answer::Ran { picos: *picos, dynamic: self.dynamic.iter().map(shape).collect() };
        self.kept = None;
        Ok(answer)
    }
}
