//! An instance of a plan on its segment, and the thread of one that runs beside others.

use super::child::{Line, picos};
use super::protocol::{Answer, Told};
use super::segment::{Parts, Segment, Sizes};
use super::serving::sizes;
use crate::execute::{Leg, Plan, Port, RunError};
use bytes::Bytes;
use kernels::{Datum, Tensor};
use std::fs::File;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// See the module.
pub(super) struct Instance {
    plan: Plan,
    segment: Segment,
    /// Outputs without a fixed size.
    dynamic: Vec<usize>,
    /// Outputs that found no room, with the time of their run.
    kept: Option<(Vec<Datum>, u64)>,
    /// The legs that the device is done with, once runs go in steps.
    legs: Option<Receiver<Leg>>,
    first_ps: u64,
}

impl Instance {
    /// Of a plan that is run once, on inputs that then lie in its segment.
    ///
    /// # Errors
    /// What the plan refuses, or a segment of other sizes.
    pub fn new(plan: Plan, segment: &File, room: u64, inputs: Vec<Datum>) -> Result<Instance, String> {
        let mut instance = Instance::on(plan, segment, room)?;
        // The runtime measures by them, too.
        for (part, input) in instance.segment.parts().inputs.into_iter().zip(&inputs) {
            part.copy_from_slice(input.tensor().ok_or("an input is not a tensor")?.bytes());
        }
        let start = Instant::now();
        instance.plan.run_data(inputs).map_err(|error| error.to_string())?;
        instance.first_ps = picos(start);
        Ok(instance)
    }

    fn on(plan: Plan, segment: &File, room: u64) -> Result<Instance, String> {
        let sizes = sizes(plan.inputs(), plan.outputs()).ok_or("an input has no fixed size")?;
        let segment = Segment::open(segment, &Sizes { room, ..sizes }).map_err(|error| error.to_string())?;
        let dynamic = plan.outputs().enumerate().filter(|(_, port)| port.ty.fixed_bytes().is_none()).map(|(at, _)| at).collect();
        Ok(Instance { plan, segment, dynamic, kept: None, legs: None, first_ps: 0 })
    }

    /// A second one, which shares the weights. Runs of both go in steps from now on.
    ///
    /// # Errors
    /// A plan of the host, outputs without a fixed size, a segment of other sizes, a device without memory for it.
    pub fn another(&mut self, segment: &File) -> Result<Instance, String> {
        if !self.plan.has_steps() {
            return Err("runs of the host take all its cores, one by one".to_owned());
        }
        if !self.dynamic.is_empty() {
            return Err("outputs without a fixed size are run one by one".to_owned());
        }
        let plan = self.plan.another().map_err(|error| error.to_string())?;
        let mut another = Instance::on(plan, segment, 0)?;
        another.step()?;
        if self.legs.is_none() {
            self.step()?;
        }
        Ok(another)
    }

    fn step(&mut self) -> Result<(), String> {
        let (sender, legs) = mpsc::channel();
        let tell = move |leg| {
            // Without the instance nobody wants to know.
            let _ = sender.send(leg);
        };
        self.plan.observe(tell).map_err(|error| error.to_string())?;
        self.legs = Some(legs);
        Ok(())
    }

    /// Of its first run.
    pub fn first_ps(&self) -> u64 {
        self.first_ps
    }

    /// What its plan holds.
    pub fn memory_bytes(&self) -> u64 {
        let memory = self.plan.memory();
        memory.prepared_bytes + memory.constant_bytes + memory.arena_bytes
    }

    /// Runs on what lies in the segment. In steps it tells of each leg that is not the last.
    pub fn run(&mut self, passed: &mut dyn FnMut(Leg)) -> Told {
        let told = match (&self.legs, self.dynamic.is_empty()) {
            (Some(_), _) => self.fly(passed),
            (None, true) => self.run_fixed(),
            (None, false) => self.run_dynamic(),
        };
        told.unwrap_or_else(|detail| Told::Refused { detail })
    }

    fn run_fixed(&mut self) -> Result<Told, String> {
        let (start, mut parts) = (Instant::now(), self.segment.parts());
        let inputs: Vec<&[u8]> = parts.inputs.iter().map(|part| &**part).collect();
        self.plan.run_into(&inputs, &mut parts.outputs).map_err(|error| error.to_string())?;
        Ok(Told::Ran { picos: picos(start), dynamic: Vec::new() })
    }

    fn run_dynamic(&mut self) -> Result<Told, String> {
        let start = Instant::now();
        let inputs = inputs(&self.plan, &self.segment.parts())?.into_iter().map(|(_, tensor)| Datum::Tensor(tensor)).collect();
        let outputs = self.plan.run_data(inputs).map_err(|error| error.to_string())?;
        self.kept = Some((outputs, picos(start)));
        self.leave()
    }

    fn fly(&mut self, passed: &mut dyn FnMut(Leg)) -> Result<Told, String> {
        let start = Instant::now();
        let inputs = inputs(&self.plan, &self.segment.parts())?;
        let mut begun = 0;
        let launched = launch(&mut self.plan, &inputs, &mut begun);
        // Also where it failed each leg that was begun is told once: none is left over for the next run.
        for leg in self.legs.iter().flatten().take(begun) {
            if launched.is_ok() && leg != Leg::Download {
                passed(leg);
            }
        }
        launched.map_err(|error| error.to_string())?;
        let outputs = self.plan.await_outputs().map_err(|error| error.to_string())?;
        for (part, output) in self.segment.parts().outputs.into_iter().zip(&outputs) {
            part.copy_from_slice(output.tensor().ok_or("an output is not a tensor")?.bytes());
        }
        Ok(Told::Ran { picos: picos(start), dynamic: Vec::new() })
    }

    /// Leaves the outputs of the last run in a segment with more room.
    ///
    /// # Errors
    /// Nothing was kept, or a segment of other sizes.
    pub fn collect(&mut self, segment: &File, room: u64) -> Result<Told, String> {
        let sizes = sizes(self.plan.inputs(), self.plan.outputs()).ok_or("an input has no fixed size")?;
        self.segment = Segment::open(segment, &Sizes { room, ..sizes }).map_err(|error| error.to_string())?;
        self.leave()
    }

    /// Leaves what is kept in the segment, or says how much room that takes.
    fn leave(&mut self) -> Result<Told, String> {
        let (outputs, picos) = self.kept.as_ref().ok_or("nothing is kept")?;
        let tensors: Option<Vec<&Tensor>> = outputs.iter().map(Datum::tensor).collect();
        let tensors = tensors.ok_or("an output is not a tensor")?;
        let wanted: usize = self.dynamic.iter().map(|&at| tensors[at].bytes().len()).sum();
        let mut parts = self.segment.parts();
        if wanted > parts.room.len() {
            return Ok(Told::Room { bytes: wanted as u64 });
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
        let told = Told::Ran { picos: *picos, dynamic: self.dynamic.iter().map(shape).collect() };
        self.kept = None;
        Ok(told)
    }
}

/// Begins all legs, one behind the other, and counts them.
fn launch(plan: &mut Plan, inputs: &[(String, Tensor)], begun: &mut usize) -> Result<(), RunError> {
    plan.begin_upload(inputs)?;
    *begun += 1;
    plan.begin_compute()?;
    *begun += 1;
    plan.begin_download()?;
    *begun += 1;
    Ok(())
}

/// Copies of what lies in the segment: a run may hold them longer than its turn lasts.
fn inputs(plan: &Plan, parts: &Parts<'_>) -> Result<Vec<(String, Tensor)>, String> {
    let tensor = |(port, bytes): (&Port, &&mut [u8])| {
        let tensor = Tensor::from_bytes(port.ty.dtype()?, port.ty.fixed_shape()?, Bytes::copy_from_slice(bytes))?;
        Some((port.name.clone(), tensor))
    };
    plan.inputs().zip(&parts.inputs).map(tensor).collect::<Option<_>>().ok_or_else(|| "an input has no fixed size".to_owned())
}

/// The thread of an instance whose runs go on beside those of others. It ends with this value.
pub(super) struct Apart {
    runs: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Apart {
    /// # Errors
    /// When the system gives no thread.
    pub fn start(slot: u32, instance: Arc<Mutex<Instance>>, line: Arc<Line>) -> Result<Apart, String> {
        let (runs, asked) = mpsc::channel();
        let run = move || {
            let _alarm = Alarm;
            let say = |told| line.say(&Answer::Run { slot, told });
            for () in asked {
                let told = instance.lock().unwrap_or_else(PoisonError::into_inner).run(&mut |leg| {
                    // Nobody to tell is noticed with the answer.
                    let _ = say(Told::Passed(leg));
                });
                if say(told).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name(format!("slot-{slot}")).spawn(run).map_err(|error| error.to_string())?;
        Ok(Apart { runs: Some(runs), thread: Some(thread) })
    }

    /// Has it run once more.
    ///
    /// # Errors
    /// Its thread is gone: a bug.
    pub fn run(&self) -> Result<(), String> {
        let sent = self.runs.as_ref().and_then(|runs| runs.send(()).ok());
        sent.ok_or_else(|| "the thread of this slot ended".to_owned())
    }
}

/// Ends the process where its thread panics: only so whoever waits for the run hears of it at once.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.runs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
