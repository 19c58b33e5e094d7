//! Plays a trace against a runtime in real time.

use super::Failed;
use kernels::Tensor;
use schema::DType;
use std::time::{Duration, Instant};
use tunewright::execute::Port;
use tunewright::runtime::{Pending, Request, Runtime, RuntimeError};
use tunewright::schedule::Nanos;
use tunewright::simulate::Arrival;

/// Before the instant of an arrival the issuer does not sleep any more.
const SPIN: Duration = Duration::from_micros(100);
/// Requests one after the other that tell how long runs take now, and how much that varies.
const CALIBRATION: usize = 200;
const CALIBRATION_TIME: Duration = Duration::from_secs(5);

/// What became of a request.
#[derive(Copy, Clone, Debug)]
pub enum Outcome {
    Answered {
        /// From the instant it was to be submitted.
        latency: Duration,
        in_time: bool,
        predicted: Duration,
        actual: Duration,
    },
    Refused {
        retry_after: Option<Duration>,
    },
    Failed,
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
        self.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Answered { in_time: true, .. })).count()
    }

    /// |predicted / actual − 1| of each answer.
    pub fn errors(&self) -> impl Iterator<Item = f64> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Answered { predicted, actual, .. } => Some((predicted.as_secs_f64() / actual.as_secs_f64() - 1.0).abs()),
            _ => None,
        })
    }
}

/// The name that requests give to a model of an index, which tells choices of axes apart: `gnmt` of `gnmt[T=20]`.
fn asked_by(name: &str) -> &str {
    name.split('[').next().unwrap_or(name)
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
    let names: Vec<&str> = index.models().iter().map(|model| asked_by(&model.name)).collect();
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
        Ok(Ok(answer)) => {
            let decision = &answer.decision;
            let (predicted, actual) = (decision.predicted, decision.actual);
            Outcome::Answered { latency: late + decision.latency, in_time: decision.in_time.unwrap_or(true), predicted, actual }
        }
    };
    Ok(Played { outcomes: pending.into_iter().map(outcome).collect() })
}

/// What runs take now, beside what the records say.
#[derive(Copy, Clone, Debug)]
pub struct State {
    /// The median over the recorded time.
    pub slower: f64,
    /// The deviation of the logarithm.
    pub noise: f64,
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
        logs.push((runtime.run(request)?.decision.actual.as_secs_f64() / alone.as_secs_f64()).ln());
    }
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let noise = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
    logs.sort_by(f64::total_cmp);
    Ok(State { slower: logs[logs.len() / 2].exp(), noise })
}
