//! What came of a simulation.

use crate::schedule::{Decision, Nanos, Refusal, Row, Stages, Waiting};

/// Counts and times. Latencies run from the arrival, whenever the request was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that arrived.
    pub offered: u64,
    /// Answered, and within the deadline if there was one.
    pub in_time: u64,
    /// Answered after the deadline.
    pub late: u64,
    /// Refused for the deadline's sake.
    pub refused_late: u64,
    /// Refused because the queue was full.
    pub refused_full: u64,
    /// Refused because no device was left, or by the policy.
    pub refused_other: u64,
    pub withdrawn: u64,
    /// Runs, and rows of their batches beyond the rows asked for.
    pub runs: u64,
    pub padded_rows: u64,
    pub rows: u64,
    /// The shortest and the longest retry time of a refusal that gave one.
    pub retry_after: Option<(Nanos, Nanos)>,
    /// Of every answered request, ascending.
    pub latencies: Vec<Nanos>,
    /// Of each device: time × share that runs took it.
    pub device_time: Vec<Nanos>,
    /// Until the last answer.
    pub took: Nanos,
    /// Millijoules; `None` when a run had none recorded.
    pub energy_mj: Option<f64>,
    /// |predicted / actual − 1| of every run, ascending.
    pub errors: Vec<f64>,
}

impl Figures {
    pub(super) fn new(devices: usize) -> Figures {
        Figures { device_time: vec![Nanos::ZERO; devices], energy_mj: Some(0.0), ..Figures::default() }
    }

    pub(super) fn accepted(&mut self) {
        self.offered += 1;
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.offered += 1;
        self.given_up(refusal);
    }

    pub(super) fn given_up(&mut self, refusal: Refusal) {
        let retry = match refusal {
            Refusal::QueueFull { retry_after } => {
                self.refused_full += 1;
                Some(retry_after)
            }
            Refusal::TooLate { retry_after, .. } => {
                self.refused_late += 1;
                Some(retry_after)
            }
            Refusal::DeadlinePassed => {
                self.refused_late += 1;
                None
            }
            _ => {
                self.refused_other += 1;
                None
            }
        };
        if let Some(retry) = retry {
            let (least, most) = self.retry_after.unwrap_or((retry, retry));
            self.retry_after = Some((least.min(retry), most.max(retry)));
        }
    }

    pub(super) fn withdrawn(&mut self) {
        self.withdrawn += 1;
    }

    pub(super) fn started(&mut self, decision: &Decision, row: &Row, stages: Stages) {
        self.runs += 1;
        self.rows += u64::from(decision.rows);
        self.padded_rows += u64::from(decision.batch.rows()) * u64::from(decision.repeats) - u64::from(decision.rows);
        // Overlapped runs share the device: each counts with what it holds longest.
        let held = stages.compute.max(stages.upload + stages.download).scaled(f64::from(decision.share.as_per_mille()) * 1e-3);
        self.device_time[usize::from(decision.device.0)] = self.device_time[usize::from(decision.device.0)] + held;
        let energy = row.energy_mj.map(|energy| energy * f64::from(decision.repeats));
        self.energy_mj = self.energy_mj.zip(energy).map(|(sum, energy)| sum + energy);
    }

    pub(super) fn predicted(&mut self, predicted: Nanos, actual: Nanos) {
        if actual > Nanos::ZERO {
            self.errors.push((predicted.as_f64() / actual.as_f64() - 1.0).abs());
        }
    }

    pub(super) fn answered(&mut self, now: Nanos, request: &Waiting) {
        if now <= request.deadline {
            self.in_time += 1;
        } else {
            self.late += 1;
        }
        self.latencies.push(now - request.arrived);
        self.took = now;
    }

    pub(super) fn end(&mut self) {
        self.latencies.sort_unstable();
        self.errors.sort_unstable_by(f64::total_cmp);
        if self.runs == 0 {
            self.energy_mj = None;
        }
    }

    /// Answers within their deadline, a second.
    pub fn goodput_per_s(&self) -> f64 {
        if self.took == Nanos::ZERO { 0.0 } else { self.in_time as f64 / self.took.as_secs_f64() }
    }

    /// Late answers and refusals, as a part of all that arrived and were not withdrawn.
    pub fn missed(&self) -> f64 {
        let wanted = self.offered - self.withdrawn;
        if wanted == 0 { 0.0 } else { (wanted - self.in_time) as f64 / wanted as f64 }
    }

    /// Of a device: the part of the time that it was in use, weighted by the shares.
    pub fn utilisation(&self, device: usize) -> f64 {
        if self.took == Nanos::ZERO { 0.0 } else { self.device_time[device].as_f64() / self.took.as_f64() }
    }

    /// The latency that this part of the answers keeps, from 0 to 1; `None` without answers.
    pub fn latency(&self, part: f64) -> Option<Nanos> {
        let at = (self.latencies.len() as f64 * part).ceil() as usize;
        self.latencies.get(at.max(1) - 1).copied()
    }

    pub fn latency_mean(&self) -> Option<Nanos> {
        let sum: f64 = self.latencies.iter().map(|latency| latency.as_f64()).sum();
        (!self.latencies.is_empty()).then(|| Nanos::from_f64(sum / self.latencies.len() as f64))
    }

    /// The median of |predicted / actual − 1| over runs; `None` without runs.
    pub fn error_median(&self) -> Option<f64> {
        self.errors.get(self.errors.len() / 2).copied()
    }
}
