//! A session: artifacts on one device, run on the thread that calls, each answer with the decision behind it.
//!
//! A request names a model and brings inputs. Every entry of the model's artifacts that has these shapes is a candidate; [`placement`]
//! says which one it gets and why each other lost, [`lanes`] gives it cores that nobody else uses, and a plan is compiled once for
//! each (entry, share) and kept. Any number of threads may call [`Session::run`] at once; requests that find no free cores wait.
//!
//! Nothing here tunes, and nothing here prints. Predictions come from the records in the artifacts and, with
//! [`database`](Builder::database), from those of a tuning database: an index in memory, which [`Session::refresh`] swaps when the
//! database has a newer generation.
//!
//! ```
//! use kernels::Tensor;
//! use tunewright::session::{Request, Session};
//! # use schema::Batch;
//! # use tunewright::artifact::{Bound, Contents, write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("double.tune");
//! # let graph = tunewright::graph::text::parse("input %x: f32[1,4]\n%y: f32[1,4] = Add(%x, %x)\noutput %y as \"y\"")?;
//! # let graphs = vec![Bound { batch: Batch::ONE, dims: vec![], graph }];
//! # write(&path, &Contents::untuned("double", graphs))?;
//! let session = Session::builder().artifact(&path).open()?;
//! let request = Request::new("double").input("x", Tensor::new(vec![1, 4], vec![1f32, 2.0, 3.0, 4.0]));
//! std::thread::scope(|scope| {
//!     for _ in 0..2 {
//!         scope.spawn(|| {
//!             let answer = session.run(&request).expect("the request runs");
//!             let (name, y) = &answer.outputs[0];
//!             assert_eq!(name, "y");
//!             assert_eq!(y.tensor().unwrap().values::<f32>().unwrap()[..], [2.0, 4.0, 6.0, 8.0]);
//!             println!("{} at {} %: {}", answer.decision.device, answer.decision.share, answer.decision.rung);
//!         });
//!     }
//! });
//! # Ok(())
//! # }
//! ```

mod instances;
mod lanes;
mod seat;

pub use crate::open::DatabaseError;
pub use crate::placement::{Decision, Evidence, Prediction, Rival, Rung, Why};
pub use crate::request::Request;

use crate::artifact::{Artifact, ArtifactError};
use crate::device::{self, DeviceError, GrantError};
use crate::execute::{PlanError, Port, RunError, ports};
use crate::open::{self, Records};
use crate::placement::{self, Candidate, Wish};
use cube_kernels::GpuError;
use instances::Key;
use kernels::Datum;
use schema::{Batch, DeviceName, Picos, Share};
use seat::Seat;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Artifacts, opened, on one device and those that stand in for it.
pub struct Session {
    /// The device, then those it fails over to, in order.
    seats: Vec<Seat>,
    artifacts: Vec<Artifact>,
    candidates: Vec<Candidate>,
    database: Option<Records>,
    require_tuned: bool,
}

/// What to open, and how.
pub type Builder = open::Builder<Options>;

/// What a session is told beside what it opens.
#[derive(Clone, Debug)]
pub struct Options {
    device: String,
    failover: Vec<String>,
    require_tuned: bool,
}

/// What a request gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// By name, in the model's order.
    pub outputs: Vec<(String, Datum)>,
    pub decision: Decision,
}

/// Why there is no session, or no answer.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Share(#[from] GrantError),
    #[error("two artifacts hold a model named '{name}': {}, {}", first.display(), second.display())]
    TwoOfAName { name: String, first: PathBuf, second: PathBuf },
    #[error("there is no model '{name}'; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("'{model}' has no graph for {wanted}; it has {known}; tune it with that --batch or --dim")]
    NoGraph { model: String, wanted: String, known: String },
    #[error("'{model}': {source}")]
    Plan { model: String, source: PlanError },
    #[error("'{model}': {source}")]
    Run { model: String, source: RunError },
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("no threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl SessionError {
    /// What a device with memory of its own said.
    fn of_device(&self) -> Option<&GpuError> {
        match self {
            SessionError::Plan { source: PlanError::Device { source }, .. }
            | SessionError::Run { source: RunError::Device { source }, .. } => Some(source),
            _ => None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options { device: "cpu".to_owned(), failover: Vec::new(), require_tuned: false }
    }
}

impl Builder {
    /// On this device: `cpu` (the default), `cpu:avx2`.
    #[must_use]
    pub fn device(self, name: &str) -> Self {
        self.with(|options| options.device = name.to_owned())
    }

    /// When the device is lost, on this one from then on; may be called again for one more. Without it a request that meets a lost device is
    /// an error. A request whose launch failed, or for which the device has no memory, goes on as well, and the next one tries the device again.
    #[must_use]
    pub fn failover(self, name: &str) -> Self {
        self.with(|options| options.failover.push(name.to_owned()))
    }

    /// A request for which nothing was tuned on this device is an error, instead of running with defaults.
    #[must_use]
    pub fn require_tuned(self, require_tuned: bool) -> Self {
        self.with(|options| options.require_tuned = require_tuned)
    }

    /// Opens the artifacts and the device.
    ///
    /// # Errors
    /// [`SessionError`]: an artifact or a database that cannot be used, a device that is not here, two models of one name.
    pub fn open(self) -> Result<Session, SessionError> {
        let machines = [&self.options.device].into_iter().chain(&self.options.failover).map(|name| device::open(name));
        let machines = machines.collect::<Result<Vec<_>, _>>()?;
        let artifacts: Vec<Artifact> =
            self.artifacts.iter().map(|path| Artifact::open_as(path, self.opening)).collect::<Result<_, _>>()?;
        for (i, second) in artifacts.iter().enumerate() {
            let name = &second.provenance().model_name;
            if let Some(first) = artifacts[..i].iter().find(|first| first.provenance().model_name == *name) {
                let (first, second) = (first.path().to_owned(), second.path().to_owned());
                return Err(SessionError::TwoOfAName { name: name.clone(), first, second });
            }
        }
        let of = |(i, artifact): (usize, &Artifact)| placement::candidates(i, artifact);
        let candidates: Vec<Candidate> = artifacts.iter().enumerate().flat_map(of).collect();
        let database = self.records()?;
        let seats = machines.into_iter().map(|machine| Seat::new(machine, &candidates)).collect::<Result<_, _>>()?;
        let session = Session { seats, artifacts, candidates, database, require_tuned: self.options.require_tuned };
        session.refresh()?;
        Ok(session)
    }
}

impl Session {
    /// A builder without artifacts, on the whole processor.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Reads the database's records again if it has published any since: whether it had. Requests that run meanwhile go by the old ones.
    ///
    /// # Errors
    /// [`SessionError::Database`]; the old records stay.
    pub fn refresh(&self) -> Result<bool, SessionError> {
        let Some(database) = &self.database else { return Ok(false) };
        let held = self.seat().index().generation();
        let Some(records) = database.newer(held)? else { return Ok(false) };
        self.seats.iter().for_each(|seat| seat.predict_by(&records, &self.candidates));
        Ok(records.generation != held)
    }

    /// The names of its models.
    pub fn models(&self) -> impl ExactSizeIterator<Item = &str> {
        self.artifacts.iter().map(|artifact| artifact.provenance().model_name.as_str())
    }

    /// Which placement a request of that batch would get on an idle device, and why each other loses. Runs nothing.
    ///
    /// # Errors
    /// [`SessionError::UnknownModel`], [`SessionError::NoGraph`], [`SessionError::Share`], and with
    /// [`require_tuned`](Builder::require_tuned) [`ArtifactError::Untuned`].
    pub fn place(
        &self,
        model: &str,
        batch: Batch,
        deadline: Option<Duration>,
        share: Option<Share>,
    ) -> Result<Decision, SessionError> {
        let artifact = self.artifact(model)?;
        let fits: Vec<usize> = (self.candidates.iter().enumerate())
            .filter(|(_, candidate)| candidate.artifact == artifact && candidate.batch == batch)
            .map(|(i, _)| i)
            .collect();
        if fits.is_empty() {
            return Err(self.no_graph(artifact, format!("batch {batch}")));
        }
        let (wish, seat) = (Wish { fits: &fits, deadline, share }, self.seat());
        let choice =
            placement::choose(&self.candidates, &seat.index(), &seat.site.here(), &wish, |share| seat.lanes.can_give(share));
        let mut decision = choice.ok_or_else(|| seat.lanes.cannot_give(share.unwrap_or(Share::WHOLE)))?.decision;
        decision.lost = self.lost();
        self.check_tuned(artifact, &decision)?;
        Ok(decision)
    }

    /// Runs a request: waits until a placement is free, runs it there, and tells which it was and why.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn run(&self, request: &Request) -> Result<Answer, SessionError> {
        let artifact = self.artifact(&request.model)?;
        let fits = self.fitting(artifact, request)?;
        let last = self.seats.len() - 1;
        for seat in self.seats[..last].iter().filter(|seat| seat.lost().is_none()) {
            match self.run_on(seat, artifact, &fits, request) {
                Err(error) => match error.of_device() {
                    Some(GpuError::Lost(_)) => seat.lose(error.to_string()),
                    Some(GpuError::Launch(_) | GpuError::OutOfMemory(_)) => {
                        tracing::warn!("{}: {error}; the next device tries", seat.site.name().0)
                    }
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
        self.run_on(&self.seats[last], artifact, &fits, request)
    }

    /// Runs a request on one device.
    fn run_on(&self, seat: &Seat, artifact: usize, fits: &[usize], request: &Request) -> Result<Answer, SessionError> {
        let wish = Wish { fits, deadline: request.deadline, share: request.share };
        if let Some(share) = request.share.filter(|&share| !seat.lanes.can_give(share)) {
            return Err(seat.lanes.cannot_give(share));
        }
        let (lane, mut choice) = seat.lanes.wait(|free| {
            let choice = placement::choose(&self.candidates, &seat.index(), &seat.site.here(), &wish, free)?;
            Some((choice.decision.share, choice))
        })?;
        choice.decision.lost = self.lost();
        self.check_tuned(artifact, &choice.decision)?;
        let candidate = &self.candidates[choice.candidate];
        let key = Key {
            artifact,
            graph: candidate.graph,
            entry: candidate.entry.filter(|_| choice.decision.rung != Rung::Default),
            share: choice.decision.share,
        };
        let model = || request.model.clone();
        let mut plan = seat.instances.take(&key, &self.artifacts[artifact], lane.grant).map_err(|e| match e {
            instances::Failed::Artifact(error) => SessionError::Artifact(error),
            instances::Failed::Plan(source) => SessionError::Plan { model: model(), source },
        })?;
        plan.set_pool(lane.pool.clone());
        let start = Instant::now();
        let outputs = plan.run(&request.inputs);
        choice.decision.actual = Some(Picos::from_secs_f64(start.elapsed().as_secs_f64()));
        choice.decision.replaced = plan.replaced().len();
        let names: Vec<String> = plan.outputs().map(|port| port.name.clone()).collect();
        seat.instances.give_back(&key, plan);
        drop(lane);
        let outputs = outputs.map_err(|source| SessionError::Run { model: model(), source })?;
        Ok(Answer { outputs: names.into_iter().zip(outputs).collect(), decision: choice.decision })
    }

    /// What a model's graph of that batch wants and gives: inputs, then outputs.
    ///
    /// # Errors
    /// [`SessionError::UnknownModel`], [`SessionError::NoGraph`].
    pub fn ports(&self, model: &str, batch: Batch) -> Result<(Vec<Port>, Vec<Port>), SessionError> {
        let artifact = self.artifact(model)?;
        let mut shapes = self.artifacts[artifact].shapes();
        let index = shapes.position(|(rows, _)| rows == batch);
        let index = index.ok_or_else(|| self.no_graph(artifact, format!("batch {batch}")))?;
        Ok(ports(self.artifacts[artifact].outline(index)))
    }

    /// The first device that lives, or the last there is.
    fn seat(&self) -> &Seat {
        let last = self.seats.len() - 1;
        self.seats[..last].iter().find(|seat| seat.lost().is_none()).unwrap_or(&self.seats[last])
    }

    /// Devices that are lost.
    fn lost(&self) -> Vec<(DeviceName, String)> {
        let lost = |seat: &Seat| Some((seat.site.name().clone(), seat.lost()?.to_owned()));
        self.seats.iter().filter_map(lost).collect()
    }

    fn artifact(&self, model: &str) -> Result<usize, SessionError> {
        let known = || self.models().collect::<Vec<_>>().join(", ");
        let found = self.models().position(|name| name == model);
        found.ok_or_else(|| SessionError::UnknownModel { name: model.to_owned(), known: known() })
    }

    /// The candidates whose graph takes these inputs.
    fn fitting(&self, artifact: usize, request: &Request) -> Result<Vec<usize>, SessionError> {
        let takes = |candidate: &Candidate| {
            let graph = self.artifacts[artifact].outline(candidate.graph);
            graph.inputs.iter().map(|&id| graph.value(id)).enumerate().all(|(at, value)| {
                let given = request.find(at, &value.name).map(|at| &request.inputs[at].1);
                let shape = value.ty.shape();
                // A missing input is the plan's to tell, with its name.
                given.is_none_or(|tensor| {
                    shape.is_none_or(|shape| {
                        shape.len() == tensor.shape().len()
                            && shape.iter().zip(tensor.shape()).all(|(dim, &n)| dim.fixed().is_none_or(|fixed| fixed == n))
                    })
                })
            })
        };
        let mine = self.candidates.iter().enumerate().filter(|(_, candidate)| candidate.artifact == artifact);
        let fits: Vec<usize> = mine.filter(|(_, candidate)| takes(candidate)).map(|(i, _)| i).collect();
        if !fits.is_empty() {
            return Ok(fits);
        }
        Err(self.no_graph(artifact, request.given()))
    }

    fn no_graph(&self, artifact: usize, wanted: String) -> SessionError {
        let artifact = &self.artifacts[artifact];
        let shape = |(batch, dims): (Batch, &[(String, u64)])| {
            let dims: String = dims.iter().map(|(name, extent)| format!(" {name}={extent}")).collect();
            format!("batch {batch}{dims}")
        };
        let known: Vec<String> = artifact.shapes().map(shape).collect();
        SessionError::NoGraph { model: artifact.provenance().model_name.clone(), wanted, known: known.join(", ") }
    }

    /// With `require_tuned`, whether something was tuned on this device for the placement.
    fn check_tuned(&self, artifact: usize, decision: &Decision) -> Result<(), SessionError> {
        if !self.require_tuned || decision.rung != Rung::Default {
            return Ok(());
        }
        let (device, share) = (decision.device.0.clone(), decision.share);
        let untuned = ArtifactError::Untuned { device, share, batch: format!(", batch {}", decision.batch) };
        let path = self.artifacts[artifact].path().to_owned();
        Err(SessionError::Artifact(ArtifactError::At { path, source: Box::new(untuned) }))
    }
}
