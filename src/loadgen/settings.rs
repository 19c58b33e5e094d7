//! What a run is asked to do, by scenario.

use super::early_stopping::{CONFIDENCE, CONFIDENCE_OF_SEVERAL};
use crate::schedule::Nanos;
use thiserror::Error;

/// The duration from which on a run is as long as the published rules want it; one below it is labelled short.
pub const DURATION_PUBLISHED: Nanos = Nanos(600_000_000_000);
/// Samples of one run, whose times are held in memory.
pub const SAMPLES_MAX: u64 = 100_000_000;

/// How queries come.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One sample after the other.
    SingleStream,
    /// Several samples at once, then the next ones.
    MultiStream,
    /// At random, whatever is still under way.
    Server,
    /// Everything at once.
    Offline,
}

/// What the published rules ask of a scenario.
pub struct Rules {
    pub scenario: Scenario,
    /// LoadGen's name.
    pub name: &'static str,
    pub samples_per_query: u64,
    /// The part of the queries whose latency counts.
    pub percentile: f64,
    pub queries_min: u64,
    pub samples_min: u64,
}

/// mlcommons/inference b66003e `loadgen/mlperf.conf`, and for what it leaves open `test_settings.h`; Offline's samples from
/// mlcommons/inference_policies `inference_rules.adoc`.
pub static RULES: [Rules; 4] = [
    rules(Scenario::SingleStream, "SingleStream", 1, 0.90, 100, 0),
    rules(Scenario::MultiStream, "MultiStream", 8, 0.99, 662, 0),
    rules(Scenario::Server, "Server", 1, 0.99, 100, 0),
    rules(Scenario::Offline, "Offline", 1, 0.99, 1, 24_576),
];

const fn rules(
    scenario: Scenario,
    name: &'static str,
    samples_per_query: u64,
    percentile: f64,
    queries_min: u64,
    samples_min: u64,
) -> Rules {
    Rules { scenario, name, samples_per_query, percentile, queries_min, samples_min }
}

impl Scenario {
    /// Its row of [`RULES`].
    pub fn rules(self) -> &'static Rules {
        RULES.iter().find(|rules| rules.scenario == self).expect("every scenario has a row")
    }
}

/// Whether speed or answers are looked at.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Samples at random, for the time that was asked for.
    Performance,
    /// Every sample once; every output is logged.
    Accuracy,
}

/// Where the random streams start; each has a generator of its own.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The order of the loaded samples.
    pub qsl: u64,
    /// Which sample a query has.
    pub sample_index: u64,
    /// When queries arrive.
    pub schedule: u64,
    /// Which outputs are logged in performance mode.
    pub accuracy_log: u64,
    /// Which model of a mix a query is for. LoadGen has no mixes.
    pub mix: u64,
}

impl Seeds {
    /// mlcommons/inference b66003e `loadgen/mlperf.conf`; the last two, which it does not set, are LoadGen's default and ours.
    pub const PUBLISHED: Seeds = Seeds {
        qsl: 2_085_463_073_848_966_840,
        sample_index: 2_747_215_439_041_700_203,
        schedule: 16_159_082_839_903_944_936,
        accuracy_log: 0,
        mix: 1,
    };
}

/// Everything that a run depends on besides the system.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub scenario: Scenario,
    pub mode: Mode,
    /// Queries a second: of Server what arrives, of Offline what is expected, which decides how many samples there are.
    pub target_qps: f64,
    /// The bound of Server. In other scenarios it only decides what is in time; `None` is no bound.
    pub target_latency: Option<Nanos>,
    pub percentile: f64,
    pub samples_per_query: u64,
    pub duration_min: Nanos,
    pub queries_min: u64,
    pub samples_min: u64,
    /// A Server run ends early when more queries are under way.
    pub outstanding_max: u64,
    /// How often a Server run may look at its latencies and, where it needs more queries to pass, go on.
    pub looks_max: u32,
    /// About so many outputs are logged in performance mode.
    pub outputs_logged: u64,
    pub seeds: Seeds,
}

/// Why settings make no run.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SettingsError {
    #[error("the rate is {0}; it is more than 0 and at most 1e9 queries a second")]
    Rate(f64),
    #[error("the duration is 0")]
    Duration,
    #[error("the latency bound is {}", if *.0 { "0" } else { "missing; Server needs one" })]
    Latency(bool),
    #[error("the percentile is {0}; it is more than 0 and less than 1")]
    Percentile(f64),
    #[error("{0} samples of a query; there is at least one and at most {SAMPLES_MAX}")]
    Samples(u64),
    #[error("there is no model, or one has no samples")]
    Library,
}

impl Settings {
    /// Those of the published rules, with LoadGen's default of 100 ms as the bound of Server.
    pub fn published(scenario: Scenario) -> Self {
        let rules = scenario.rules();
        Settings {
            scenario,
            mode: Mode::Performance,
            target_qps: 1.0,
            target_latency: (scenario == Scenario::Server).then_some(Nanos(100_000_000)),
            percentile: rules.percentile,
            samples_per_query: rules.samples_per_query,
            duration_min: DURATION_PUBLISHED,
            queries_min: rules.queries_min,
            samples_min: rules.samples_min,
            outstanding_max: u64::MAX,
            looks_max: 1,
            outputs_logged: 0,
            seeds: Seeds::PUBLISHED,
        }
    }

    /// For another duration. A shorter one than the published asks for no published count either: the duration decides how many queries
    /// there are, and early stopping whether they are enough.
    #[must_use]
    pub fn lasting(self, duration: Nanos) -> Self {
        let short = duration < DURATION_PUBLISHED;
        let (queries_min, samples_min) = if short { (1, 1) } else { (self.queries_min, self.samples_min) };
        Settings { duration_min: duration, queries_min, samples_min, ..self }
    }

    /// Whether it is shorter than the published rules want.
    pub fn is_short(&self) -> bool {
        self.duration_min < DURATION_PUBLISHED
    }

    /// The confidence of each look.
    pub fn confidence(&self) -> f64 {
        if self.looks_max > 1 { CONFIDENCE_OF_SEVERAL } else { CONFIDENCE }
    }

    /// Samples of Offline's one query: what the expected rate serves in the duration and a tenth more, and at least the least count.
    pub fn offline_samples(&self) -> u64 {
        let wanted = 1.1 * self.duration_min.as_secs_f64() * self.target_qps;
        (wanted as u64).max(self.samples_min).max(1)
    }

    /// Whether they make sense.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        let open_rate = !matches!(self.scenario, Scenario::Server | Scenario::Offline);
        if !(open_rate || self.target_qps > 0.0 && self.target_qps <= 1e9) {
            return Err(SettingsError::Rate(self.target_qps));
        }
        if self.duration_min == Nanos::ZERO {
            return Err(SettingsError::Duration);
        }
        if self.target_latency == Some(Nanos::ZERO) || self.scenario == Scenario::Server && self.target_latency.is_none() {
            return Err(SettingsError::Latency(self.target_latency.is_some()));
        }
        if !(self.percentile > 0.0 && self.percentile < 1.0) {
            return Err(SettingsError::Percentile(self.percentile));
        }
        let samples = if self.scenario == Scenario::Offline { self.offline_samples() } else { self.samples_per_query };
        if !(1..=SAMPLES_MAX).contains(&samples) {
            return Err(SettingsError::Samples(samples));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let server = Settings::published(Scenario::Server);
        assert_eq!(server.check(), Ok(()));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e9] {
            let settings = Settings { target_qps: rate, ..server.clone() };
            assert!(matches!(settings.check(), Err(SettingsError::Rate(_))), "{rate}");
        }
        assert_eq!(server.clone().lasting(Nanos::ZERO).check(), Err(SettingsError::Duration));
        assert!(Settings { target_latency: None, ..server.clone() }.check().unwrap_err().to_string().contains("missing"));
        assert!(Settings { target_latency: Some(Nanos::ZERO), ..server.clone() }.check().is_err());
        assert!(Settings { percentile: 1.0, ..server }.check().is_err());
        let offline = Settings { target_qps: 1e9, ..Settings::published(Scenario::Offline) };
        assert!(matches!(offline.check(), Err(SettingsError::Samples(_))));
    }

    #[test]
    fn a_short_run_asks_for_no_published_count() {
        let offline = Settings { target_qps: 1.0, ..Settings::published(Scenario::Offline) };
        assert!(!offline.is_short() && offline.offline_samples() == 24_576);
        let short = Settings { target_qps: 100.0, ..offline }.lasting(Nanos(2_000_000_000));
        assert!(short.is_short() && short.offline_samples() == 220);
    }
}
