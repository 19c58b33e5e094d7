//! Flights: runs of a plan for a device with memory of its own in three steps, none of which waits for the device.
//!
//! Upload, kernels and download of one instance follow each other on a stream of its own. [`Plan::another`] makes a second instance on
//! another stream, which shares the weights: while one computes, the next batch goes up to the other and the last one comes down. How
//! much of it happens at once is the device's: CUDA has engines for copies, wgpu one queue (docs/adr/0012).
//!
//! What a run allocates are the device's buffers of what is uploaded, what comes down, and Burn's results.
//!
//! Who wants to know when the device is done with a part has it told by [`Plan::observe`], on a thread of the instance: it alone waits.

use super::plan::{Plan, RunError};
use super::stages::{Crossing, Launch, Shared, Stage, Stages, Work, Written, wrong_index};
use crate::graph::ValueId;
use bytes::Bytes;
use cube_kernels::{Begun, Buffer, GpuError};
use kernels::{Datum, Tensor};
use schema::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// A part of a flight.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Leg {
    Upload,
    Compute,
    Download,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leg::Upload => "upload",
            Leg::Compute => "compute",
            Leg::Download => "download",
        })
    }
}

impl Plan {
    /// Begins a run: uploads what the device reads of the inputs, given by name, in any order. Returns before they are there.
    ///
    /// # Errors
    /// As [`run`](Self::run), and a device that is lost. [`RunError::OutOfTurn`] while the run before is not over, and for a plan that is
    /// not for a device with memory of its own: it runs at once.
    pub fn begin_upload<N: AsRef<str>>(&mut self, inputs: &[(N, Tensor)]) -> Result<(), RunError> {
        let inputs = self.given(inputs)?;
        let stages = self.in_turn(Leg::Upload, None)?;
        stages.upload(inputs)?;
        stages.tell(Leg::Upload)
    }

    /// Launches the kernels of the run that was begun. Returns before they have run, unless [`waits_within`](Self::waits_within) is true.
    ///
    /// # Errors
    /// What nodes refuse that the host computes, an index outside of its axis, a device that is lost: the run is over then.
    /// [`RunError::OutOfTurn`] without an upload before it.
    pub fn begin_compute(&mut self) -> Result<(), RunError> {
        let stages = self.in_turn(Leg::Compute, Some(Leg::Upload))?;
        stages.compute()?;
        stages.tell(Leg::Compute)
    }

    /// Begins to bring the outputs down. Returns before they are there.
    ///
    /// # Errors
    /// A device that is lost: the run is over then. [`RunError::OutOfTurn`] without kernels before it.
    pub fn begin_download(&mut self) -> Result<(), RunError> {
        self.in_turn(Leg::Download, Some(Leg::Compute))?.download()
    }

    /// Waits for the outputs, in order. The run is over then, whatever becomes of it.
    ///
    /// # Errors
    /// What failed on the device since the run began. [`RunError::OutOfTurn`] without a download before it.
    pub fn await_outputs(&mut self) -> Result<Vec<Datum>, RunError> {
        let last = self.stages().and_then(Stages::last_leg);
        match self.stages_mut() {
            Some(stages) if last == Some(Leg::Download) => stages.arrive(),
            _ => Err(out_of_turn("the outputs", last)),
        }
    }

    /// Whether runs can be driven in steps: it is for a device with memory of its own.
    pub fn has_steps(&self) -> bool {
        self.stages().is_some()
    }

    /// Whether a run's kernels cannot be launched in one go: the host computes something between them from what they give, and waits.
    pub fn waits_within(&self) -> bool {
        self.stages().is_none_or(Stages::waits_within)
    }

    /// Has each leg of runs in steps told in order when the device is done with it, also where it failed: whether it did is what
    /// [`await_outputs`](Self::await_outputs) says. A run that ends before its download is not told further. The observer is called on a
    /// thread of this instance, which waits for the device meanwhile. A plan of the host has nothing to tell.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn observe(&mut self, observer: impl FnMut(Leg) + Send + 'static) -> io::Result<()> {
        if let Some(stages) = self.stages_mut() {
            stages.watch = Some(Watch::start(observer)?);
        }
        Ok(())
    }

    fn in_turn(&mut self, leg: Leg, after: Option<Leg>) -> Result<&mut Stages, RunError> {
        let last = self.stages().and_then(Stages::last_leg);
        match self.stages_mut() {
            Some(stages) if last == after => Ok(stages),
            _ => Err(out_of_turn(&leg.to_string(), last)),
        }
    }
}

fn out_of_turn(step: &str, last: Option<Leg>) -> RunError {
    RunError::OutOfTurn { step: step.to_owned(), last: last.map_or_else(|| "none".to_owned(), |leg| leg.to_string()) }
}

/// A run on its way.
pub(super) struct Flight {
    places: Vec<Whereabouts>,
    leg: Leg,
    arriving: Option<Arriving>,
}

/// Where a value is during a run.
#[derive(Clone, Default)]
struct Whereabouts {
    host: Option<Datum>,
    device: Option<Buffer>,
}

/// What was begun at the end of a run: to download outputs, where any lie on the device, and to wait for everything.
struct Download {
    outputs: Option<Begun<Vec<Vec<u8>>>>,
    all: Begun<()>,
}

impl Download {
    fn wait(self) -> Result<Vec<Vec<u8>>, GpuError> {
        let outputs = self.outputs.map_or_else(|| Ok(Vec::new()), Begun::wait);
        // Launches fail late: without this nobody would have asked.
        self.all.wait()?;
        outputs
    }
}

/// Who waits for a download.
enum Arriving {
    /// Whoever asks for the outputs.
    Here(Box<Download>),
    /// The thread of the instance, which passes them on.
    Told(mpsc::Receiver<Result<Vec<Vec<u8>>, GpuError>>),
}

/// The thread that tells an observer.
pub(super) struct Watch(mpsc::Sender<Watched>);

enum Watched {
    Leg(Leg, Begun<()>),
    Download(Download, mpsc::Sender<Result<Vec<Vec<u8>>, GpuError>>),
}

impl Watch {
    fn start(mut observer: impl FnMut(Leg) + Send + 'static) -> io::Result<Watch> {
        let (sender, watched) = mpsc::channel();
        let watch = move || {
            // A stream tells its errors once, at the first question after them.
            let mut failed: Option<GpuError> = None;
            for watched in watched {
                match watched {
                    Watched::Leg(leg, begun) => {
                        failed = failed.filter(|_| leg != Leg::Upload);
                        let done = begun.wait();
                        failed = failed.or(done.err());
                        observer(leg);
                    }
                    Watched::Download(download, answer) => {
                        let outputs = download.wait();
                        // Whoever asked may be gone; the run is over all the same.
                        let _ = answer.send(failed.take().map_or(outputs, Err));
                        observer(Leg::Download);
                    }
                }
            }
        };
        thread::Builder::new().name("flight".to_owned()).spawn(watch)?;
        Ok(Watch(sender))
    }

    fn send(&self, watched: Watched) -> Result<(), RunError> {
        self.0.send(watched).map_err(|_| watcher_gone())
    }
}

fn watcher_gone() -> RunError {
    lost(GpuError::Lost("the thread that waits for it is gone".to_owned()))
}

fn lost(source: GpuError) -> RunError {
    RunError::Device { source }
}

impl Stages {
    /// Runs on data in the order of the inputs.
    pub fn run(&mut self, inputs: Vec<Datum>) -> Result<Vec<Datum>, RunError> {
        if let Some(leg) = self.last_leg() {
            return Err(out_of_turn("a run", Some(leg)));
        }
        self.upload(inputs)?;
        self.compute()?;
        // Nobody is told: it is over before anybody could act on it.
        let watch = self.watch.take();
        let arrived = self.download().and_then(|()| self.arrive());
        self.watch = watch;
        arrived
    }

    /// The last leg of the run in steps that was begun.
    pub fn last_leg(&self) -> Option<Leg> {
        self.flight.as_ref().map(|flight| flight.leg)
    }

    fn waits_within(&self) -> bool {
        self.shared.waits_within
    }

    fn upload(&mut self, inputs: Vec<Datum>) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let mut places = vec![Whereabouts::default(); shared.roots.len()];
        let given = shared.inputs.iter().copied().zip(inputs);
        for (id, datum) in given.chain(shared.known.iter().cloned()) {
            places[id.index()].host = Some(datum);
        }
        self.stream.on(|| shared.uploads.iter().try_for_each(|&id| shared.on_device(id, &mut places).map(drop)))?;
        self.flight = Some(Flight { places, leg: Leg::Upload, arriving: None });
        Ok(())
    }

    fn compute(&mut self) -> Result<(), RunError> {
        let mut flight = self.flight.take().ok_or(RunError::Absent)?;
        self.stream.on(|| self.launch_all(&mut flight.places))?;
        flight.leg = Leg::Compute;
        self.flight = Some(flight);
        Ok(())
    }

    fn launch_all(&mut self, places: &mut [Whereabouts]) -> Result<(), RunError> {
        let shared = self.shared.clone();
        self.times.iter_mut().for_each(Vec::clear);
        let mut hosts = self.hosts.iter_mut();
        for stage in &shared.stages {
            match stage {
                Stage::Device(launches) => {
                    for launch in launches {
                        let start = self.times.is_some().then(Instant::now);
                        shared.launch(launch, &self.buffers, places)?;
                        if let Some((times, start)) = self.times.as_mut().zip(start) {
                            shared.gpu.sync().map_err(lost)?;
                            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                        }
                    }
                }
                Stage::Host { inputs, outputs } => {
                    let plan = hosts.next().ok_or(RunError::Absent)?;
                    let given = inputs.iter().map(|crossing| shared.on_host(crossing, places)).collect::<Result<_, _>>()?;
                    for (id, datum) in outputs.iter().zip(plan.run_data(given)?) {
                        places[id.index()].host = Some(datum);
                    }
                }
            }
        }
        Ok(())
    }

    fn download(&mut self) -> Result<(), RunError> {
        let mut flight = self.flight.take().ok_or(RunError::Absent)?;
        let shared = &self.shared;
        let there = shared.outputs.iter().filter(|output| flight.places[output.id.index()].host.is_none());
        let there = there.map(|output| shared.buffer(output.id, &flight.places)).collect::<Result<Vec<Buffer>, _>>()?;
        let begun = self.stream.on(|| {
            let outputs = (!there.is_empty()).then(|| shared.gpu.begin_download(&there)).transpose()?;
            Ok::<_, GpuError>(Download { outputs, all: shared.gpu.begin_sync()? })
        });
        let begun = begun.map_err(lost)?;
        flight.arriving = Some(match &self.watch {
            Some(watch) => {
                let (sender, receiver) = mpsc::channel();
                watch.send(Watched::Download(begun, sender))?;
                Arriving::Told(receiver)
            }
            None => Arriving::Here(Box::new(begun)),
        });
        flight.leg = Leg::Download;
        self.flight = Some(flight);
        Ok(())
    }

    fn arrive(&mut self) -> Result<Vec<Datum>, RunError> {
        let Flight { places, arriving, .. } = self.flight.take().ok_or(RunError::Absent)?;
        let arrived = match arriving.ok_or(RunError::Absent)? {
            Arriving::Here(download) => download.wait(),
            Arriving::Told(answer) => answer.recv().map_err(|_| watcher_gone())?,
        };
        let mut arrived = arrived.map_err(lost)?.into_iter();
        let output = |output: &Crossing| match &places[output.id.index()].host {
            Some(datum) => Ok(datum.clone()),
            None => output.datum(arrived.next().ok_or(RunError::Absent)?),
        };
        self.shared.outputs.iter().map(output).collect()
    }

    /// What was begun goes to the device now, and its end to the observer.
    fn tell(&mut self, leg: Leg) -> Result<(), RunError> {
        let gpu = &self.shared.gpu;
        let told = match &self.watch {
            Some(watch) => {
                let begun = self.stream.on(|| gpu.begin_sync()).map_err(lost);
                begun.and_then(|begun| watch.send(Watched::Leg(leg, begun)))
            }
            None => self.stream.on(|| gpu.flush()).map_err(lost),
        };
        if told.is_err() {
            self.flight = None;
        }
        told
    }
}

impl Crossing {
    /// What was downloaded of it.
    fn datum(&self, bytes: Vec<u8>) -> Result<Datum, RunError> {
        let shape = self.shape.clone().ok_or(RunError::Absent)?;
        Tensor::from_bytes(DType::F32, shape, Bytes::from(bytes)).map(Datum::Tensor).ok_or(RunError::Absent)
    }
}

impl Shared {
    /// Launches a node's work on this thread's stream.
    fn launch(&self, launch: &Launch, buffers: &[Buffer], places: &mut [Whereabouts]) -> Result<(), RunError> {
        if let Some((id, extent)) = launch.indices {
            let place = &places[self.roots[id.index()].index()];
            let indices = place.host.as_ref().and_then(Datum::tensor).ok_or(RunError::Absent)?;
            if let Some(index) = wrong_index(indices, extent) {
                let (node, op) = (launch.facts.node.clone(), launch.facts.op.clone());
                return Err(RunError::Index { node, op, index, extent });
            }
        }
        let inputs = launch.inputs.iter().map(|id| id.map(|id| self.on_device(id, places)).transpose());
        let inputs: Vec<Option<Buffer>> = inputs.collect::<Result<_, _>>()?;
        match &launch.work {
            Work::Kernel { kernel, outputs, scratch } => {
                let cut = |written: &Written| buffers[written.room].cut(written.bytes);
                let rooms: Vec<Buffer> = outputs.iter().map(cut).collect();
                let scratch: Vec<Buffer> = scratch.iter().map(cut).collect();
                // Of nothing there is nothing to compute.
                if outputs.iter().any(|written| written.bytes > 0) {
                    kernel.launch(&self.gpu, &inputs, &rooms, &scratch);
                }
                for (written, buffer) in outputs.iter().zip(rooms) {
                    if let Some(root) = written.root {
                        places[root.index()] = Whereabouts { host: None, device: Some(buffer) };
                    }
                }
            }
            Work::Burn { operation, root } => {
                let buffer = operation.run(&self.gpu, &inputs).map_err(lost)?;
                places[root.index()] = Whereabouts { host: None, device: Some(buffer) };
            }
        }
        Ok(())
    }

    /// A value on the device; uploaded where it is not there yet.
    fn on_device(&self, id: ValueId, places: &mut [Whereabouts]) -> Result<Buffer, RunError> {
        if let Some(constant) = self.constants.get(&id) {
            return Ok(constant.clone());
        }
        let place = &mut places[self.roots[id.index()].index()];
        if let Some(buffer) = &place.device {
            return Ok(buffer.clone());
        }
        let tensor = place.host.as_ref().and_then(Datum::tensor).ok_or(RunError::Absent)?;
        let buffer = self.gpu.upload(tensor.bytes()).map_err(lost)?;
        place.device = Some(buffer.clone());
        Ok(buffer)
    }

    /// A value on the host; downloaded where it is not there yet.
    fn on_host(&self, crossing: &Crossing, places: &mut [Whereabouts]) -> Result<Datum, RunError> {
        let id = crossing.id;
        if let Some(datum) = &places[id.index()].host {
            return Ok(datum.clone());
        }
        let buffer = self.buffer(id, places)?;
        let datum = crossing.datum(self.gpu.download(&buffer).map_err(lost)?)?;
        places[id.index()].host = Some(datum.clone());
        Ok(datum)
    }

    /// Where a value lies on the device.
    fn buffer(&self, id: ValueId, places: &[Whereabouts]) -> Result<Buffer, RunError> {
        places[self.roots[id.index()].index()].device.clone().ok_or(RunError::Absent)
    }
}
