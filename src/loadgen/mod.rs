//! Load by the methods of MLPerf Inference's LoadGen: four scenarios, latencies from the instant a query was scheduled, and a verdict
//! that says whether enough was seen.
//!
//! [`run`] issues queries to a [`SystemUnderTest`] and hears from it through [`Responses`]; [`Run::figures`] makes latencies, rates and
//! the verdict of that. Latency counts from the scheduled instant, whenever the query was really issued: a system that stalls makes
//! everything late that should have come meanwhile (no coordinated omission). What is refused counts as late.
//!
//! It knows no runtime and no device. Time comes from a [`Clock`] that is handed in, randomness from published seeds: with a simulated
//! clock and system the same settings give the same run to the last nanosecond (`proofs`).
//!
//! Where it follows LoadGen and where not: arrival times are bit-equal to a LoadGen built with libstdc++; which sample a query has is
//! not. Streams are drawn as they go instead of generated before. Our own are: mixes of models, refusals, goodput, the limit on lateness
//! of issue, a higher confidence for a run that may look several times. Nothing here makes an MLPerf result: that word belongs to runs
//! which MLCommons has reviewed.
//!
//! Source: mlcommons/inference b66003e `loadgen/`; mlcommons/inference_policies ac93e89 `inference_rules.adoc`; Reddi et al. 2020 (arXiv
//! 1911.02549), whose MultiStream was since replaced.

mod arrivals;
mod clock;
mod drive;
mod early_stopping;
mod figures;
mod log;
mod mersenne;
mod peak;
#[cfg(test)]
mod proofs;
mod samples;
mod settings;
mod system;

pub use arrivals::Arrivals;
pub use clock::{Clock, WallClock};
pub use drive::{End, Run, rate_at_once, run};
pub use early_stopping::EarlyStopping;
pub use figures::{Condition, Figures, Latencies, PERCENTILES};
pub use log::log;
pub use peak::{Peak, find_peak};
pub use samples::{Library, Sample};
pub use settings::{DURATION_PUBLISHED, Mode, RULES, Rules, SAMPLES_MAX, Scenario, Seeds, Settings, SettingsError};
pub use system::{Outcome, Responses, SystemUnderTest};
