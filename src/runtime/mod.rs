//! The runtime: artifacts in, requests from any thread in, answers with the decision behind them out.
//!
//! A request names a model, brings inputs and may have a deadline; [`Runtime::submit`] refuses it at once, saying when to come again, or
//! accepts it and gives a [`Pending`]: a future that needs no executor, or something to wait for. What runs where, when and in which
//! batch a policy of [`schedule`](crate::schedule) decides, by the records and by what every worker was seen to take.
//!
//! Each worker owns a share of a device for good: a process, so that what happens there stays there. A thread of this process keeps it
//! (`hand`): it puts the rows of requests together in memory that both share (`rows`, [`worker::segment`](crate::worker::segment)), and puts
//! another worker in the place of one that died; what the dead one had runs again.
//!
//! Models come and go while others are served ([`load`](Runtime::load), [`unload`](Runtime::unload)). [`shutdown`](Runtime::shutdown), and
//! dropping the runtime, answer everything that was accepted first.
//!
//! For one inference after the other on the thread that calls there is a [`Session`](crate::session::Session).
//!
//! ```no_run
//! use kernels::Tensor;
//! use std::process::ExitCode;
//! use std::time::Duration;
//! use tunewright::runtime::{Request, Runtime, RuntimeError};
//!
//! fn main() -> ExitCode {
//!     // Workers are this program executed again: the first line of `main` sees to it.
//!     if let Some(code) = tunewright::worker::serve_if_asked() {
//!         return code;
//!     }
//!     match serve() {
//!         Ok(()) => ExitCode::SUCCESS,
//!         Err(error) => {
//!             eprintln!("{error}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//!
//! fn serve() -> Result<(), RuntimeError> {
//!     let runtime = Runtime::builder().artifact("mnist_cnn.tune").open()?;
//!     let image = Tensor::new(vec![1, 1, 28, 28], vec![0f32; 784]);
//!     let request = Request::new("mnist_cnn").input("image", image).deadline(Duration::from_millis(20));
//!     let answer = runtime.submit(request)?.wait()?;
//!     println!("{} at {} %, batch {}", answer.decision.device, answer.decision.share, answer.decision.batch);
//!     Ok(())
//! }
//! ```

mod catalog;
mod decision;
mod fleet;
mod flight;
mod hand;
mod learning;
mod mailbox;
mod pending;
mod predict;
mod rows;
mod shared;

pub use crate::open::DatabaseError;
pub use crate::request::Request;
pub use decision::{Decision, Evidence, Rival};
pub use pending::{Answered, Pending};

use crate::artifact::{ArtifactError, Opening};
use crate::device::{DeviceError, GrantError};
use crate::execute::Port;
use crate::forest::Training;
use crate::open::{self, Records};
use crate::schedule::{self, Alarm, Engines, IndexError, Limits, Model, ModelId, Nanos, PolicyError, Refusal, Wake, Wish};
use crate::worker::{self, SpawnError};
use catalog::{Served, Source};
use fleet::Seat;
use hand::{Given, Job, PlanKey, Spec};
use kernels::Datum;
use pending::Slot;
use predict::{PlacedAt, Table};
use schema::{DeviceKey, ModelFeatures, Share};
use shared::{Live, Shared};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use tuning_db::ModelRecords;

/// Outputs by name, in the model's order.
pub type Outputs = Vec<(String, Datum)>;

/// See the module.
pub struct Runtime {
    shared: Arc<Shared>,
    /// One loads or unloads at a time.
    loaded: Mutex<LoadedModels>,
    seats: Vec<Seat>,
    /// Those that have workers.
    shares: Vec<Share>,
    /// The hands, and the clock.
    threads: Mutex<Vec<JoinHandle<()>>>,
    opening: Opening,
    /// The policy goes by forests, which an index is to be taught for.
    foresees: bool,
}

/// What is loaded, and where its plans are.
struct LoadedModels {
    database: Option<Records>,
    known: Option<Known>,
    /// By model of the scheduler; `None` where one was unloaded.
    models: Vec<Option<Arc<Served>>>,
    names: Vec<String>,
    plans: BTreeMap<PlacedAt, predict::Loaded>,
    /// Counts changes of what is loaded as well as of the records.
    generation: u64,
}

/// What the database says of models.
struct Known {
    records: ModelRecords,
    /// What their graphs are like, and how devices wake, where the policy foresees.
    features: Vec<ModelFeatures>,
    wakes: BTreeMap<DeviceKey, Wake>,
}

impl Known {
    /// Unless it is of the generation `held`; 0 is none.
    fn read(database: &Records, held: u64, foresees: bool) -> Result<Option<Known>, DatabaseError> {
        let Some(records) = database.newer(held)? else { return Ok(None) };
        let (features, wakes) = if foresees { (database.features()?, database.wakes()?) } else { Default::default() };
        Ok(Some(Known { records, features, wakes }))
    }
}

/// What to open, and how.
pub type Builder = open::Builder<Options>;

/// What a runtime is told beside what it opens.
#[derive(Clone, Debug)]
pub struct Options {
    devices: Vec<String>,
    shares: Vec<Share>,
    at_most: Share,
    engines: Option<Engines>,
    policy: String,
    limits: Limits,
    program: Option<PathBuf>,
}

/// What a request gets.
#[derive(Clone, Debug)]
pub struct Answer {
    pub outputs: Outputs,
    pub decision: Decision,
}

/// Why there is no runtime, or no answer.
#[derive(Debug, Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Share(#[from] GrantError),
    #[error(transparent)]
    Worker(#[from] SpawnError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the records make no sense together: {0}")]
    Index(#[from] IndexError),
    #[error("a model named '{0}' is loaded already; unload it first")]
    TwoOfAName(String),
    #[error("there is no model '{name}'; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("'{model}' does not take {given}; it takes {known}")]
    Inputs { model: String, given: String, known: String },
    #[error("'{model}' cannot be served: \"{port}\" is {found}; tensors of numbers are served, inputs of a size that is known")]
    Ports { model: String, port: String, found: String },
    #[error("'{model}' runs nowhere here: {detail}")]
    Nowhere { model: String, detail: String },
    #[error(
        "'{model}' is asked for at {share} %, but the runtime, which places requests itself, has workers of {has}; open it with that share alone"
    )]
    OtherShare { model: String, share: Share, has: String },
    #[error(
        "workers of {share} % are asked for, and workers may have at most {at_most} % of a device together; ask for a smaller share"
    )]
    AboveAtMost { share: Share, at_most: Share },
    #[error("'{model}' is refused: {}", decision::words(.refusal))]
    Refused { model: String, refusal: Refusal },
    #[error("'{model}': {detail}")]
    Run { model: String, detail: String },
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("no threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl RuntimeError {
    /// After which time a refused request might be accepted; `None` when it was not refused, or coming again does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        let RuntimeError::Refused { refusal, .. } = self else { return None };
        match refusal {
            Refusal::QueueFull { retry_after } | Refusal::TooLate { retry_after, .. } | Refusal::Policy { retry_after } => {
                Some(Duration::from_nanos(retry_after.0))
            }
            _ => None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let (policy, limits) = ("batcher".to_owned(), Limits::default());
        let (devices, shares, at_most) = (Vec::new(), Vec::new(), Share::WHOLE);
        Options { devices, shares, at_most, engines: None, policy, limits, program: None }
    }
}

impl Builder {
    /// On this device; may be called again for one more. Without it on `cpu`.
    #[must_use]
    pub fn device(self, name: &str) -> Self {
        self.with(|options| options.devices.push(name.to_owned()))
    }

    /// With workers of this share of each device that can give it; may be called again for one more. Without it with workers of each share
    /// that the artifacts were tuned for and that workers may have, or, where there is none, of all that they may have.
    #[must_use]
    pub fn share(self, share: Share) -> Self {
        self.with(|options| options.shares.push(share))
    }

    /// Workers have at most this share of each device together: the rest, such as a core, is left to whoever submits. Without it they may have
    /// all of it.
    #[must_use]
    pub fn at_most(self, share: Share) -> Self {
        self.with(|options| options.at_most = share)
    }

    /// What copies on each device with memory of its own while it computes: runs of one worker overlap there. Without it what the driver says,
    /// which is nothing on wgpu (docs/adr/0012).
    #[must_use]
    pub fn engines(self, engines: Engines) -> Self {
        self.with(|options| options.engines = Some(engines))
    }

    /// Which policy decides, by its name in [`POLICIES`](schedule::POLICIES), with its argument behind a colon; `batcher` without it.
    #[must_use]
    pub fn policy(self, policy: &str) -> Self {
        self.with(|options| options.policy = policy.to_owned())
    }

    /// Bounds of queues, and what is promised.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        self.with(|options| options.limits = limits)
    }

    /// The program that is executed as a worker. Without it this one, or the `tunewright` beside it ([`worker::program`]).
    #[must_use]
    pub fn program(self, path: impl AsRef<Path>) -> Self {
        self.with(|options| options.program = Some(path.as_ref().to_owned()))
    }

    /// Opens devices and artifacts, starts the workers and makes all plans.
    ///
    /// # Errors
    /// [`RuntimeError`]: a device that is not here, a share it does not give, an artifact or a database that cannot be used, two models of
    /// one name, a model that runs nowhere.
    pub fn open(self) -> Result<Runtime, RuntimeError> {
        let (opening, database) = (self.opening, self.records()?);
        let Options { devices, shares, at_most, engines, policy, limits, program } = self.options;
        if let Some(&share) = shares.iter().find(|share| **share > at_most) {
            return Err(RuntimeError::AboveAtMost { share, at_most });
        }
        let program = match program {
            Some(program) => program,
            None => worker::program()?,
        };
        let sources: Vec<Arc<Source>> =
            self.artifacts.iter().map(|path| Ok(Arc::new(Source::open(path, opening)?))).collect::<Result<_, RuntimeError>>()?;
        let names = if devices.is_empty() { vec!["cpu".to_owned()] } else { devices };
        let seat = |name: &String| Seat::open(name, (&shares, at_most), engines, &sources);
        let mut seats = names.iter().map(seat).collect::<Result<Vec<_>, _>>()?;
        let device_names = seats.iter().map(|seat| seat.site.name().clone()).collect();
        let index = Arc::new(schedule::Index::new(0, Vec::new(), device_names, Vec::new())?);
        let policy = schedule::policy(&policy)?;
        let foresees = policy.foresees();
        let core = schedule::Core::new(&fleet::fleet(&seats), index.clone(), limits, policy)?;
        let known = database.as_ref().map(|database| Known::read(database, 0, foresees)).transpose()?.flatten();
        let loaded =
            LoadedModels { database, known, models: Vec::new(), names: Vec::new(), plans: BTreeMap::new(), generation: 0 };
        let (shared, clock) = Shared::new(core, index)?;
        let (jobs, mut threads) = fleet::hands(&mut seats, &program, &shared).inspect_err(|_| shared.close())?;
        shared.employ(jobs);
        threads.push(clock);
        let (loaded, threads) = (Mutex::new(loaded), Mutex::new(threads));
        let mut shares: Vec<Share> = seats.iter().flat_map(Seat::workers).map(|(share, _)| share).collect();
        shares.sort_unstable();
        shares.dedup();
        let runtime = Runtime { shared, loaded, seats, shares, threads, opening, foresees };
        {
            let mut loaded = runtime.loaded();
            sources.into_iter().try_for_each(|source| runtime.place(&mut loaded, source))?;
            runtime.publish(&mut loaded)?;
        }
        Ok(runtime)
    }
}

impl Runtime {
    /// A builder without artifacts, on the processor.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Hands a request over. Accepted, it will be answered, whatever happens to workers and devices meanwhile.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownModel`], [`RuntimeError::Inputs`], [`RuntimeError::OtherShare`], and [`RuntimeError::Refused`] with the time
    /// after which to come again.
    pub fn submit(&self, request: Request) -> Result<Pending, RuntimeError> {
        let routes = self.shared.routes();
        let (id, served, rows) = routes.find(&request)?;
        if let Some(share) = request.share.filter(|share| self.shares != [*share]) {
            let has: Vec<String> = self.shares.iter().map(|share| format!("{share} %")).collect();
            return Err(RuntimeError::OtherShare { model: request.model, share, has: has.join(", ") });
        }
        let Request { model, inputs, deadline, priority, .. } = request;
        let given = Arc::new(Given { inputs: served.in_order(inputs), rows: rows.rows() as usize });
        let slot: Arc<Slot> = Arc::default();
        let mut inner = self.shared.lock();
        if !inner.accepts(id, served) {
            drop(inner);
            return Err(self.shared.routes().unknown(&model));
        }
        let now = self.shared.now();
        let deadline = deadline.map_or(Nanos::NEVER, |within| now + Nanos(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX)));
        let accepted = inner.core.submit(now, Wish { model: id, rows, deadline, priority });
        let request = match accepted {
            Ok(request) => request,
            Err(refusal) => return Err(RuntimeError::Refused { model, refusal }),
        };
        inner.keep(request, Live { model: id, given, slot: slot.clone(), submitted: now, deadline, attempts: 0 });
        self.shared.pump(inner);
        Ok(Pending { slot, request, runtime: Arc::downgrade(&self.shared), over: false })
    }

    /// Hands a request over and waits for its answer.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`RuntimeError::Run`] when the model refuses the data.
    pub fn run(&self, request: Request) -> Answered {
        self.submit(request)?.wait()
    }

    /// Loads an artifact. What is loaded already is served meanwhile; workers make the plans between runs.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is loaded then.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<(), RuntimeError> {
        let source = Arc::new(Source::open(path.as_ref(), self.opening)?);
        let mut loaded = self.loaded();
        self.place(&mut loaded, source)?;
        self.publish(&mut loaded)
    }

    /// Makes the plans of an artifact's models, which are then to be published.
    fn place(&self, loaded: &mut LoadedModels, source: Arc<Source>) -> Result<(), RuntimeError> {
        if loaded.models.iter().flatten().any(|served| served.source.name() == source.name()) {
            return Err(RuntimeError::TwoOfAName(source.name().to_owned()));
        }
        let models: Vec<Arc<Served>> = catalog::models_of(&source)?.into_iter().map(Arc::new).collect();
        let mut ids = Vec::new();
        for served in models {
            let id = loaded.place(&served);
            ids.push(id);
            let made = self.make_plans(id, &served, loaded.records());
            let plans = match made {
                Ok(plans) => plans,
                Err(error) => {
                    ids.iter().for_each(|&id| self.forget(loaded, id));
                    return Err(error);
                }
            };
            loaded.plans.extend(plans);
        }
        Ok(())
    }

    /// Makes the plans of a model on every share of every device, on all workers at once.
    fn make_plans(
        &self,
        id: ModelId,
        served: &Arc<Served>,
        records: Option<&ModelRecords>,
    ) -> Result<Vec<(PlacedAt, predict::Loaded)>, RuntimeError> {
        let mut asked = Vec::new();
        for (at, seat) in self.seats.iter().enumerate() {
            for (share, workers) in seat.workers() {
                for bound in &served.graphs {
                    let choice = predict::choose(served, bound, seat, share, records);
                    let key = PlanKey { model: id, rows: bound.rows };
                    let place = PlacedAt { model: id, device: schedule::DeviceId(at as u16), share, rows: bound.rows };
                    let spec = Spec { key, served: served.clone(), entry: choice.entry };
                    let answers: Vec<_> = workers
                        .clone()
                        .map(|worker| {
                            let (loaded, answer) = channel();
                            self.shared.tell(worker, Job::Load { spec: spec.clone(), loaded });
                            answer
                        })
                        .collect();
                    asked.push((place, choice, answers));
                }
            }
        }
        let (mut plans, mut details) = (Vec::new(), Vec::new());
        for (place, choice, answers) in asked {
            let gone = || Err("its worker is gone".to_owned());
            let times: Result<Vec<_>, String> =
                answers.into_iter().map(|answer| answer.recv().unwrap_or_else(|_| gone())).collect();
            match times {
                // Workers of one share are alike, the slowest counts.
                Ok(times) => {
                    plans.extend(times.into_iter().max_by_key(|time| time.whole).map(|time| (place, choice.loaded(time))))
                }
                Err(detail) => {
                    let seat = &self.seats[usize::from(place.device.0)];
                    let detail = format!("{} at {} %: {detail}", seat.site.name().0, place.share);
                    tracing::warn!("{}, {} rows, {detail}", served.name, place.rows);
                    details.push(detail);
                }
            }
        }
        match details.into_iter().next() {
            Some(detail) if plans.is_empty() => Err(RuntimeError::Nowhere { model: served.name.clone(), detail }),
            _ => Ok(plans),
        }
    }

    /// Makes an index of what is loaded and hands it to the scheduler.
    fn publish(&self, loaded: &mut LoadedModels) -> Result<(), RuntimeError> {
        let table = Table::new(&loaded.models, &loaded.plans, &self.seats, loaded.records());
        let models = loaded.names.iter().map(|name| Model { name: name.clone(), weight: 1.0 }).collect();
        let devices = self.seats.iter().map(|seat| seat.site.name().clone()).collect();
        loaded.generation += 1;
        let index = schedule::Index::new(loaded.generation, models, devices, table.measured())?;
        let index = match self.foresees {
            true => {
                let facts = learning::facts(&index, &loaded.models, &self.seats, &table, loaded.known.as_ref())?;
                index.with_facts(facts).taught(&Training::default())
            }
            false => index,
        };
        self.shared.publish(Arc::new(index), loaded.models.clone(), table)?;
        Ok(())
    }

    /// Unloads a model: refuses what comes from now on, answers what it has accepted, then frees its plans.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownModel`].
    pub fn unload(&self, model: &str) -> Result<(), RuntimeError> {
        let mut loaded = self.loaded();
        let ids = self.shared.retire(model);
        if ids.is_empty() {
            return Err(self.shared.routes().unknown(model));
        }
        self.shared.wait_until(|inner| ids.iter().all(|&id| inner.core.held(id) == 0));
        ids.iter().for_each(|&id| self.forget(&mut loaded, id));
        self.publish(&mut loaded)
    }

    /// Frees the plans of a model, everywhere.
    fn forget(&self, loaded: &mut LoadedModels, id: ModelId) {
        if let Some(model) = loaded.models.get_mut(usize::from(id.0)) {
            *model = None;
        }
        loaded.plans.retain(|place, _| place.model != id);
        let all: Vec<_> = self.seats.iter().flat_map(Seat::workers).flat_map(|(_, workers)| workers).collect();
        for worker in all {
            let (done, freed) = channel();
            self.shared.tell(worker, Job::Unload { model: id, done });
            let _ = freed.recv();
        }
    }

    /// Reads the database's records again if it has published any since: whether it had. Nothing that runs is disturbed.
    ///
    /// # Errors
    /// [`RuntimeError::Database`]; the old records stay.
    pub fn refresh(&self) -> Result<bool, RuntimeError> {
        let mut loaded = self.loaded();
        let Some(database) = &loaded.database else { return Ok(false) };
        let held = loaded.records().map_or(0, |records| records.generation);
        let Some(known) = Known::read(database, held, self.foresees)? else { return Ok(false) };
        let newer = known.records.generation != held;
        loaded.known = Some(known);
        self.publish(&mut loaded)?;
        Ok(newer)
    }

    /// What is predicted of each model on each share at each batch, before what was seen since: for the simulator.
    pub fn index(&self) -> Arc<schedule::Index> {
        self.shared.lock().index()
    }

    /// The devices and their workers: for the simulator.
    pub fn fleet(&self) -> schedule::Fleet {
        fleet::fleet(&self.seats)
    }

    /// The names of its models, sorted.
    pub fn models(&self) -> Vec<String> {
        self.shared.routes().names().map(str::to_owned).collect()
    }

    /// What a model takes and gives at its smallest batch: inputs, then outputs.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownModel`].
    pub fn ports(&self, model: &str) -> Result<(Vec<Port>, Vec<Port>), RuntimeError> {
        let routes = self.shared.routes();
        let (_, served) = routes.of(model).first().ok_or_else(|| routes.unknown(model))?;
        Ok((served.inputs.clone(), served.outputs.clone()))
    }

    /// Rows whose runs take another time than is predicted, since this was last asked.
    pub fn take_alarms(&self) -> Vec<Alarm> {
        self.shared.lock().core.take_alarms().collect()
    }

    /// Accepts nothing more, answers what was accepted, and ends the workers. Requests that come later are refused.
    pub fn shutdown(&self) {
        self.shared.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // An answer may be what ends the runtime, on the thread that gave it; that one ends by itself.
        let others = threads.into_iter().filter(|thread| thread.thread().id() != std::thread::current().id());
        for thread in others {
            // A thread that panicked has told its story on standard error.
            let _ = thread.join();
        }
    }

    fn loaded(&self) -> MutexGuard<'_, LoadedModels> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadedModels {
    fn records(&self) -> Option<&ModelRecords> {
        self.known.as_ref().map(|known| &known.records)
    }

    /// The place of a model: that of one of its name that was unloaded, or a new one.
    fn place(&mut self, served: &Arc<Served>) -> ModelId {
        let at = match self.names.iter().position(|name| *name == served.name) {
            Some(at) => at,
            None => {
                self.names.push(served.name.clone());
                self.models.push(None);
                self.names.len() - 1
            }
        };
        self.models[at] = Some(served.clone());
        ModelId(at as u16)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shutdown();
    }
}
