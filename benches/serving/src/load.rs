//! Plays a trace against a runtime in real time.

use super::Failed;
use kernels::Tensor;
use schema::DType;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use tunewright::execute::Port;
use tunewright::runtime::{Decision, Pending, Request, Runtime, RuntimeError};
use tunewright::schedule::{Index, Model, Nanos};
use tunewright::simulate::Arrival;

/// Before the instant of an arrival the issuer does not sleep any more.
const SPIN: Duration = Duration::from_micros(100);
/// Requests one after the other that tell how long runs take now, and how much that varies.
const CALIBRATION: usize = 200;
const CALIBRATION_TIME: Duration = Duration::from_secs(5);

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    Answered {
        /// From the instant it was to be submitted.
        latency: Duration,
        decision: Decision,
    },
    Refused {
        retry_after: Option<Duration>,
    },
    Failed,
}

impl Outcome {
    /// Whether it was answered after its deadline; `None` without an answer.
    pub fn is_late(&self) -> Option<bool> {
        let Outcome::Answered { decision, .. } = self else { return None };
        Some(decision.in_time == Some(false))
    }

    /// A line for a log.
    fn line(&self, policy: &str, arrival: &Arrival) -> serde_json::Value {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let at_ms = arrival.at.as_secs_f64() * 1e3;
        match self {
            Outcome::Answered { latency, decision } => serde_json::json!({
                "policy": policy, "at_ms": at_ms, "model": decision.model, "latency_ms": ms(*latency), "late": self.is_late(),
                "waited_ms": ms(decision.waited), "predicted_ms": ms(decision.predicted), "actual_ms": ms(decision.actual),
                "device": decision.device.0, "share": decision.share.as_percent(), "batch": decision.batch.rows(), "rows": decision.rows,
            }),
            Outcome::Refused { retry_after } => serde_json::json!({
                "policy": policy, "at_ms": at_ms, "model": arrival.model.0, "refused": true, "retry_after_ms": retry_after.map(ms),
            }),
            Outcome::Failed => serde_json::json!({ "policy": policy, "at_ms": at_ms, "model": arrival.model.0, "failed": true }),
        }
    }
}

/// What became of all, in the order of arrival.
pub struct Played {
    pub outcomes: Vec<Outcome>,
}

impl Played {
    /// Of the answered ones, ascending.
    pub fn latencies(&self) -> Vec<Nanos> {
        let latency = |outcome: &Outcome| match outcome {
            Outcome::Answered { latency, .. } => Some(Nanos(latency.as_nanos() as u64)),
            _ => None,
        };
        let mut latencies: Vec<Nanos> = self.outcomes.iter().filter_map(latency).collect();
        latencies.sort_unstable();
        latencies
    }

    pub fn in_time(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_late() == Some(false)).count()
    }

    /// What runs took meanwhile, each counted once.
    pub fn state(&self, index: &Index) -> State {
        let run = |outcome: &Outcome| {
            let Outcome::Answered { decision, .. } = outcome else { return None };
            let recorded = index.curves().iter().find_map(|curve| {
                let here = index.devices()[usize::from(curve.device.0)] == decision.device && curve.share == decision.share;
                let of = index.models()[usize::from(curve.model.0)].name == decision.model;
                curve.rows.iter().find(|row| here && of && row.batch == decision.batch)
            })?;
            let recorded = recorded.stages.total().as_secs_f64() * f64::from(decision.repeats);
            Some(((decision.actual.as_secs_f64() / recorded).ln(), 1.0 / decision.requests as f64))
        };
        State::of(self.outcomes.iter().filter_map(run).collect())
    }

    /// Appends a line of JSON for each request.
    ///
    /// # Errors
    /// What the file says.
    pub fn log(&self, to: &mut impl Write, policy: &str, trace: &[Arrival]) -> io::Result<()> {
        self.outcomes.iter().zip(trace).try_for_each(|(outcome, arrival)| writeln!(to, "{}", outcome.line(policy, arrival)))
    }

    /// |predicted / actual − 1| of each answer.
    pub fn errors(&self) -> impl Iterator<Item = f64> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Answered { decision, .. } => {
                Some((decision.predicted.as_secs_f64() / decision.actual.as_secs_f64() - 1.0).abs())
            }
            _ => None,
        })
    }
}

/// Inputs of one row.
fn inputs(runtime: &Runtime, model: &str) -> Result<Vec<(String, Tensor)>, Failed> {
    let tensor = |port: &Port| {
        let (dtype, shape) = (port.ty.dtype()?, port.ty.fixed_shape()?);
        let count: usize = shape.iter().product();
        let tensor = match dtype {
            DType::F32 => Tensor::new(shape, (0..count).map(|at| (at as f32 * 0.37).sin().abs()).collect()),
            _ => Tensor::from_bytes(dtype, shape, vec![0; count * dtype.bytes()].into())?,
        };
        Some((port.name.clone(), tensor))
    };
    let (inputs, _) = runtime.ports(model)?;
    inputs.iter().map(tensor).collect::<Option<_>>().ok_or_else(|| format!("'{model}' has an input of an open size").into())
}

/// Submits every request when it is due, and waits for all answers.
///
/// # Errors
/// Another error than a refusal.
pub fn play(runtime: &Runtime, trace: &[Arrival]) -> Result<Played, Failed> {
    let index = runtime.index();
    let names: Vec<&str> = index.models().iter().map(Model::plain_name).collect();
    let made = names.iter().map(|name| inputs(runtime, name)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now() + Duration::from_millis(50);
    let mut pending: Vec<(Duration, Result<Pending, Option<Duration>>)> = Vec::with_capacity(trace.len());
    for arrival in trace {
        let due = start + Duration::from_nanos(arrival.at.0);
        std::thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let model = usize::from(arrival.model.0);
        let request =
            made[model].iter().fold(Request::new(names[model]), |request, (name, tensor)| request.input(name, tensor.clone()));
        let late = due.elapsed();
        // The deadline counts from the instant it was to be submitted, whenever that really was.
        let within = Duration::from_nanos((arrival.deadline - arrival.at).0);
        let request = if arrival.deadline < Nanos::NEVER { request.deadline(within.saturating_sub(late)) } else { request };
        pending.push((
            late,
            match runtime.submit(request) {
                Ok(pending) => Ok(pending),
                Err(error @ RuntimeError::Refused { .. }) => Err(error.retry_after()),
                Err(error) => return Err(error.into()),
            },
        ));
    }
    let outcome = |(late, submitted): (Duration, Result<Pending, Option<Duration>>)| match submitted.map(Pending::wait) {
        Err(retry_after) => Outcome::Refused { retry_after },
        Ok(Err(error)) => error.retry_after().map_or(Outcome::Failed, |after| Outcome::Refused { retry_after: Some(after) }),
        Ok(Ok(answer)) => Outcome::Answered { latency: late + answer.decision.latency, decision: answer.decision },
    };
    Ok(Played { outcomes: pending.into_iter().map(outcome).collect() })
}

/// What runs take, beside what the records say.
#[derive(Copy, Clone, Debug)]
pub struct State {
    /// The median over the recorded time.
    pub slower: f64,
    /// The deviation of the logarithm.
    pub noise: f64,
}

impl State {
    /// Of logarithms of times over recorded ones, each with what it counts.
    fn of(mut logs: Vec<(f64, f64)>) -> State {
        let all: f64 = logs.iter().map(|(_, counts)| counts).sum();
        let mean = logs.iter().map(|(log, counts)| log * counts).sum::<f64>() / all;
        let noise = (logs.iter().map(|(log, counts)| (log - mean).powi(2) * counts).sum::<f64>() / all).sqrt();
        logs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = 0.0;
        let middle = logs.iter().find(|(_, counts)| {
            below += counts;
            below >= all / 2.0
        });
        State { slower: middle.map_or(f64::NAN, |(log, _)| log.exp()), noise }
    }
}

/// Of requests one after the other, each of which is recorded to take `alone`.
///
/// # Errors
/// What the runtime says.
pub fn state_of(runtime: &Runtime, model: &str, alone: Nanos) -> Result<State, Failed> {
    let inputs = inputs(runtime, model)?;
    let (mut logs, start) = (Vec::new(), Instant::now());
    while logs.len() < CALIBRATION && start.elapsed() < CALIBRATION_TIME {
        let request = inputs.iter().fold(Request::new(model), |request, (name, tensor)| request.input(name, tensor.clone()));
        logs.push(((runtime.run(request)?.decision.actual.as_secs_f64() / alone.as_secs_f64()).ln(), 1.0));
    }
    Ok(State::of(logs))
}
