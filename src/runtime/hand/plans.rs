//! The plans of a hand's worker: how they are made, measured and let go.

use super::{Fault, Given, Hand, PlanKey, SHORT, Taken, refused};
use crate::execute::Port;
use crate::runtime::catalog::{Bound, Served};
use crate::schedule::{Engines, ModelId, RequestId, STREAMS_MAX, Stages};
use crate::worker::segment::{Segment, Sizes};
use crate::worker::{Answer, Ask, Serve, sizes};
use bytes::Bytes;
use kernels::Tensor;
use schema::Picos;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For making a plan.
const LOAD_MAX: Duration = Duration::from_secs(300);
/// Runs through the whole way by which a loaded plan is measured, and the time they may take.
const ROUNDS: usize = 7;
const ROUNDS_TIME: Duration = Duration::from_millis(300);

/// What a worker makes a plan of.
#[derive(Clone)]
pub(in crate::runtime) struct Spec {
    pub key: PlanKey,
    pub served: Arc<Served>,
    /// Whose configs; `None`: defaults.
    pub entry: Option<usize>,
}

/// What a plan takes here, medians of some runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Loaded {
    /// In the worker.
    pub inner: Picos,
    /// From requests to answers.
    pub whole: Picos,
    /// The parts of that, where the device's legs were told; else all of it is computing.
    pub stages: Stages,
    /// Median absolute deviation of the whole.
    pub spread: Picos,
    pub runs: u32,
}

pub(super) struct Plan {
    pub spec: Spec,
    pub sizes: Sizes,
    pub instances: Vec<Instance>,
}

/// One of a plan in the worker.
pub(super) struct Instance {
    pub slot: u32,
    pub segment: Segment,
}

impl Hand {
    /// Makes a plan in the worker, and measures it.
    pub(super) fn load(&mut self, spec: Spec) -> Result<Loaded, String> {
        let key = spec.key;
        self.make(&spec).and_then(|()| self.measure(key)).map_err(|fault| {
            self.plans.remove(&key);
            match fault {
                Fault::Refused(detail) => detail,
                Fault::Death(death) => {
                    let detail = death.detail.clone();
                    self.bury(&death);
                    detail
                }
            }
        })
    }

    pub(super) fn plan(&mut self, key: PlanKey) -> Result<&mut Plan, Fault> {
        self.plans.get_mut(&key).ok_or_else(|| refused("there is no such plan"))
    }

    pub(super) fn make(&mut self, spec: &Spec) -> Result<(), Fault> {
        let (bound, (inputs, outputs)) = spec.graph()?;
        let sizes = sizes(inputs.iter(), outputs.iter()).ok_or_else(|| refused("an input has no fixed size"))?;
        let serve = Serve {
            artifact: spec.served.source.artifact.path().display().to_string(),
            graph: bound.graph as u32,
            entry: spec.entry.map(|entry| entry as u32),
            room: 0,
        };
        // Sizes that only a run tells keep the instance until its outputs are collected.
        let fixed = outputs.iter().all(|port| port.ty.fixed_bytes().is_some());
        let count = if self.engines == Engines::None || !fixed { 1 } else { STREAMS_MAX };
        let mut instances: Vec<Instance> = Vec::with_capacity(count);
        while instances.len() < count {
            let (segment, file) = Segment::create(&sizes).map_err(no_memory)?;
            let slot = self.next_slot;
            self.next_slot += 1;
            let answer = match instances.first() {
                None => {
                    let files = [spec.served.source.file(), file.as_fd()];
                    self.ask(&Ask::Serve { slot, serve: serve.clone() }, &files, LOAD_MAX)?
                }
                Some(first) => self.ask(&Ask::Another { slot, of: first.slot }, &[file.as_fd()], LOAD_MAX)?,
            };
            match answer {
                Answer::Built { .. } | Answer::Done => instances.push(Instance { slot, segment }),
                // With fewer of them runs overlap less, or not at all.
                Answer::Refused { detail, .. } if !instances.is_empty() => {
                    tracing::warn!("of {} there is no other instance on {}: {detail}", spec.served.name, self.grant.device.0);
                    break;
                }
                other => return Err(unwelcome(other)),
            }
        }
        self.plans.insert(spec.key, Plan { spec: spec.clone(), sizes, instances });
        Ok(())
    }

    /// Times a plan on the inputs that the worker left in its segment, by the whole way that requests go.
    fn measure(&mut self, key: PlanKey) -> Result<Loaded, Fault> {
        let plan = self.plan(key)?;
        let (_, (ports, _)) = plan.spec.graph()?;
        let tensor = |(port, bytes): (&Port, &mut &mut [u8])| {
            Tensor::from_bytes(port.ty.dtype()?, port.ty.fixed_shape()?, Bytes::copy_from_slice(bytes))
        };
        let inputs: Option<Vec<Tensor>> = ports.iter().zip(&mut plan.instances[0].segment.parts().inputs).map(tensor).collect();
        let inputs = inputs.ok_or_else(|| refused("an input has no fixed size"))?;
        let given = Arc::new(Given { inputs, rows: key.rows.rows() as usize });
        let (mut rounds, began) = (Vec::new(), Instant::now());
        while rounds.is_empty() || (rounds.len() < ROUNDS && began.elapsed() < ROUNDS_TIME) {
            let requests = vec![Taken { id: RequestId(0), given: given.clone() }];
            let start = Instant::now();
            let way = self.begin(None, key, requests, LOAD_MAX)?;
            self.ways.push(way);
            let way = loop {
                if let Some(way) = self.hear(false)? {
                    break way;
                }
            };
            let (inner, spent) = (way.inner, way.spent);
            let refusals = way.flight.answers().into_iter().filter_map(|(_, answer)| answer.err());
            if let Some(detail) = refusals.last() {
                return Err(Fault::Refused(detail));
            }
            let whole = Picos((start.elapsed().as_nanos() as u64).saturating_mul(1000));
            rounds.push((whole, inner, spent));
        }
        let runs = rounds.len() as u32;
        rounds.sort_by_key(|(whole, ..)| *whole);
        let (whole, inner, stages) = rounds[rounds.len() / 2];
        let mut off: Vec<Picos> = rounds.iter().map(|(other, ..)| Picos(other.0.abs_diff(whole.0))).collect();
        off.sort_unstable();
        Ok(Loaded { inner, whole, stages, spread: off[off.len() / 2], runs })
    }

    pub(super) fn unload(&mut self, model: ModelId) {
        let mine = self.plans.iter().filter(|(key, _)| key.model == model);
        let slots = mine.flat_map(|(_, plan)| plan.instances.iter().map(|instance| instance.slot)).collect();
        let released = self.ask(&Ask::Release { slots }, &[], SHORT);
        // The artifact and the segments stay until the worker has let go of them.
        self.plans.retain(|key, _| key.model != model);
        if let Err(death) = released {
            self.bury(&death);
        }
    }
}

impl Spec {
    /// Its graph, with inputs and outputs.
    fn graph(&self) -> Result<(Bound, (Vec<Port>, Vec<Port>)), Fault> {
        let bound = *self.served.bound(self.key.rows).ok_or_else(|| refused("there is no such graph"))?;
        let ports = self.served.ports_of(bound.graph).map_err(|error| refused(error.to_string()))?;
        Ok((bound, ports))
    }
}

pub(super) fn no_memory(error: io::Error) -> Fault {
    refused(format!("no memory to share with the worker: {error}"))
}

/// An answer that is none.
fn unwelcome(answer: Answer) -> Fault {
    match answer {
        Answer::Refused { detail, .. } | Answer::Wrong { reason: detail } => Fault::Refused(detail),
        other => refused(format!("the worker answered {other:?}")),
    }
}
