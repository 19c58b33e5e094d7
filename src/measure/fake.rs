//! A bench that makes times up: a known landscape with noise, drift, hangs, crashes and wrong results, on a clock of its own. What
//! tests and rehearses everything that decides, in milliseconds.

use super::race::{self, Fall, Finish, Lane, Track};
use super::{Bench, Clock, Effort, MeasureError, Probe, Runoff, Trial};
use crate::space::Stream;
use kernels::{BuildError, Isa, Knob, Limits, OperandSpec, Operator, Rule, Signature, Task, Variant};
use schema::{Config, FailureClass, KnobValue, NoiseGrade, Outcome, Picos, Seed, Timing};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time before a hanging candidate is given up: the hard limit of a worker's watchdog.
const HANG: Duration = Duration::from_secs(2);
/// What verifying a candidate takes.
const VERIFY: Duration = Duration::from_millis(2);
/// And measuring what the machine can do.
const PROBE: Duration = Duration::from_millis(200);

static PLAIN: Variant =
    Variant { id: "fake.plain", revision: 1, knobs: &[], rules: &[], default: |_, _| vec![], build: |_| never_built() };

static TILED: Variant = Variant {
    id: "fake.tiled",
    revision: 1,
    knobs: &[
        Knob::ints("tile", &[1, 2, 4, 8, 16, 32, 64]),
        Knob::ints("unroll", &[1, 2, 4, 8]),
        Knob::names("split", &["none", "rows", "columns"]),
    ],
    rules: &[Rule {
        reason: "a tile has more rows than the task",
        holds: |task, config, _| config.int("tile").unwrap_or(0) <= task.int("m") as i64,
    }],
    default: |_, _| vec![KnobValue::Int(1), KnobValue::Int(1), KnobValue::Name("none".to_owned())],
    build: |_| never_built(),
};

static PACKED: Variant = Variant {
    id: "fake.packed",
    revision: 1,
    knobs: &[
        Knob::ints("kc", &[32, 64, 128, 256, 512, 1024]),
        Knob::pairs("tile", &[(1, 8), (2, 16), (4, 16), (6, 16), (8, 16)]),
        Knob::ints("prefetch", &[0, 4, 8]),
    ],
    rules: &[
        Rule {
            reason: "the accumulators exceed the registers",
            holds: |_, config, _| config.pair("tile").is_some_and(|(rows, columns)| rows * columns <= 96),
        },
        Rule {
            reason: "a block is longer than the sum",
            holds: |task, config, _| config.int("kc").unwrap_or(0) <= (2 * task.int("m").max(16)) as i64,
        },
    ],
    default: |task, _| {
        let kc = if task.int("m") >= 64 { 128 } else { 32 };
        vec![KnobValue::Int(kc), KnobValue::Pair(2, 16), KnobValue::Int(0)]
    },
    build: |_| never_built(),
};

static OPERATOR: Operator = Operator {
    id: "fake",
    variants: &[&PLAIN, &TILED, &PACKED],
    task: |_| Err(BuildError::Unknown { what: "operator", name: "fake".to_owned() }),
    signature: |task| {
        let m = task.int("m");
        let square = |name| OperandSpec::f32(name, vec![m, m]);
        Ok(Signature { inputs: vec![square("a"), square("b")], outputs: vec![square("c")] })
    },
    flops: |task| 2 * (task.int("m") as u64).pow(3),
    bytes: |task| 12 * (task.int("m") as u64).pow(2),
    reference: |_, _| Err(BuildError::Unknown { what: "operator", name: "fake".to_owned() }),
    row_wise: |_, _| false,
};

fn never_built() -> Result<Box<dyn kernels::Kernel>, BuildError> {
    Err(BuildError::Unknown { what: "variant", name: "fake".to_owned() })
}

/// The operator of the landscape: three variants, six knobs, three rules. Its kernels are never built.
pub fn operator() -> &'static Operator {
    &OPERATOR
}

/// A product of two square matrices of `m` rows.
pub fn task(m: usize) -> Task {
    Task::new("fake").with_int("m", m)
}

/// Tasks from tiny to large.
pub fn tasks() -> Vec<Task> {
    [17, 48, 96, 256, 1000].map(task).to_vec()
}

/// Limits of a made-up device.
pub fn limits() -> Limits {
    Limits {
        isa: Isa::Avx2,
        units: 2,
        l1d_bytes: 32 << 10,
        l2_bytes: 1 << 20,
        l3_bytes: 32 << 20,
        gpu: None,
        numerics: schema::Numerics::Strict,
    }
}

/// The true time of a config: what an endless measurement on a quiet machine would give.
pub fn true_time(task: &Task, config: &Config) -> Picos {
    let m = task.int("m").max(1) as f64;
    let base_s = 2.0 * m.powi(3) / 50e9 + 0.5e-6;
    let log2 = |knob: &str| (config.int(knob).unwrap_or(1).max(1) as f64).log2();
    let factor = match config.variant.as_str() {
        "fake.tiled" => {
            let (tile, unroll) = (log2("tile") - (m.log2() / 2.0).round(), log2("unroll") - 2.0);
            let split = match config.name("split") {
                Some("none") => {
                    if m < 64.0 {
                        0.8
                    } else {
                        1.6
                    }
                }
                Some("rows") => 1.0,
                _ => 1.1,
            };
            split * (1.0 + 0.06 * tile.powi(2) + 0.05 * unroll.powi(2))
        }
        "fake.packed" => {
            let kc = log2("kc") - (m.log2() - 0.5).clamp(5.0, 8.0).round();
            let tile = match config.pair("tile") {
                Some((6, 16)) => 1.0,
                Some((4, 16)) => 1.08,
                Some((2, 16)) => 1.4,
                _ => 2.2,
            };
            let prefetch = if config.int("prefetch") == Some(4) { 1.0 } else { 1.04 };
            let packing = 2e-6 / base_s;
            0.55 * tile * prefetch * (1.0 + 0.08 * kc.powi(2)) + packing
        }
        _ => 3.0,
    };
    Picos::from_secs_f64(base_s * factor)
}

/// What goes wrong, and how often. Chances are per config and follow the seed: a config that crashes crashes every time.
#[derive(Copy, Clone, Debug, Default)]
pub struct Faults {
    /// Standard deviation of a sample, relative.
    pub noise: f64,
    /// How much slower the machine gets per second, relative; comes back every ten seconds.
    pub drift_per_s: f64,
    pub hang: f64,
    pub crash: f64,
    pub wrong: f64,
}

/// A clock that moves when the fake bench works.
#[derive(Clone, Debug, Default)]
pub struct FakeClock(Arc<AtomicU64>);

impl FakeClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// The bench.
pub struct Fake {
    faults: Faults,
    seed: Seed,
    stream: Stream,
    clock: FakeClock,
    /// Every config that was verified, in order: what a test asks for duplicates and budgets.
    pub measured: Vec<(Task, Config)>,
    /// How often its limits were asked for.
    pub probes: u32,
}

impl Fake {
    /// A bench with these faults on this clock.
    pub fn new(faults: Faults, seed: Seed, clock: &FakeClock) -> Self {
        Fake { faults, seed, stream: Stream::new(seed), clock: clock.clone(), measured: Vec::new(), probes: 0 }
    }

    /// The fate of a config, fixed by the seed.
    fn fate(&self, task: &Task, config: &Config) -> Option<(FailureClass, Duration)> {
        let mut draw = Stream::named(self.seed, &format!("{task} {config}"));
        // The default of a real operator is tested on every host: it does not fail here either.
        if config.variant == PLAIN.id {
            return None;
        }
        let unit = draw.unit();
        let Faults { hang, crash, wrong, .. } = self.faults;
        match unit {
            _ if unit < hang => Some((FailureClass::Timeout, HANG)),
            _ if unit < hang + crash => Some((FailureClass::Crash, VERIFY)),
            _ if unit < hang + crash + wrong => Some((FailureClass::WrongResult, VERIFY)),
            _ => None,
        }
    }

    /// Verifies a config as the real bench does: its failure, or nothing.
    fn verify(&mut self, task: &Task, config: &Config) -> Option<(FailureClass, String)> {
        self.measured.push((task.clone(), config.clone()));
        let fate = self.fate(task, config);
        let run = Duration::from_nanos(true_time(task, config).as_nanos());
        self.clock.advance(fate.map_or(VERIFY + run, |(_, time)| time));
        fate.map(|(class, _)| (class, format!("made up for '{config}'")))
    }

    fn track<'a>(&'a mut self, task: &'a Task, configs: Vec<Config>) -> FakeTrack<'a> {
        FakeTrack { bench: self, task, configs }
    }
}

struct FakeTrack<'a> {
    bench: &'a mut Fake,
    task: &'a Task,
    configs: Vec<Config>,
}

impl Track for FakeTrack<'_> {
    type Error = MeasureError;

    fn lap(&mut self, lanes: &[Lane]) -> Result<Result<Vec<Picos>, Fall>, MeasureError> {
        let mut times = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let truth = match lane {
                Lane::Sentinel => Picos(20_000_000),
                Lane::Rival(rival) => true_time(self.task, &self.configs[*rival]),
            };
            let phase = self.bench.clock.now().as_secs_f64() % 10.0;
            let drift = 1.0 + self.bench.faults.drift_per_s * phase;
            let noise = if *lane == Lane::Sentinel { 0.0 } else { self.bench.faults.noise * self.bench.stream.normal() };
            let time = Picos::from_secs_f64(truth.as_secs_f64() * drift * (1.0 + noise).max(0.1));
            self.bench.clock.advance(Duration::from_nanos(time.as_nanos()));
            times.push(time);
        }
        Ok(Ok(times))
    }

    fn elapsed(&self) -> Duration {
        self.bench.clock.now()
    }
}

impl Bench for Fake {
    fn race(&mut self, task: &Task, configs: &[Config], effort: &Effort) -> Result<Vec<Trial>, MeasureError> {
        let failures: Vec<_> = configs.iter().map(|config| self.verify(task, config)).collect();
        let standing: Vec<Config> =
            configs.iter().zip(&failures).filter(|(_, failure)| failure.is_none()).map(|(config, _)| config.clone()).collect();
        let count = standing.len();
        let mut finishes = race::race(&mut self.track(task, standing), count, effort)?.into_iter();
        let trial = |(config, failure): (&Config, Option<(FailureClass, String)>)| match failure {
            Some((class, detail)) => Trial::failed(config, class, &detail),
            None => match finishes.next() {
                Some(Finish::Time(timing)) => Trial { config: config.clone(), outcome: Outcome::Ok { timing, ratio: None } },
                _ => Trial::failed(config, FailureClass::Crash, "fell in the race"),
            },
        };
        Ok(configs.iter().zip(failures).map(trial).collect())
    }

    fn probe(&mut self) -> Result<Vec<(Probe, Timing)>, MeasureError> {
        self.probes += 1;
        self.clock.advance(PROBE);
        let figure = |(probe, per_s): (Probe, f64)| {
            let time = Picos::from_secs_f64(1e9 / per_s);
            (probe, Timing { median: time, mad: Picos(0), p99: time, n: 9, grade: NoiseGrade::A })
        };
        let figures = [(Probe::Flops, 100e9), (Probe::L2, 80e9), (Probe::L3, 40e9), (Probe::Memory, 10e9)];
        Ok(figures.map(figure).into())
    }

    fn runoff(&mut self, task: &Task, default: &Config, rival: &Config, effort: &Effort) -> Result<Runoff, MeasureError> {
        if let Some((class, _)) = self.fate(task, rival) {
            return Ok(Runoff::Failed { rival: true, class, detail: "made up".to_owned() });
        }
        let configs = vec![default.clone(), rival.clone()];
        Ok(match race::pairs(&mut self.track(task, configs), effort, &race::LOOKS)? {
            Ok((default, rival, ratio)) => Runoff::Ok { default, rival, ratio },
            Err(fall) => Runoff::Failed { rival: fall.rival == 1, class: fall.class, detail: fall.detail },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Space;

    #[test]
    fn a_hundred_hangs_and_crashes_cost_the_candidates_only() {
        let clock = FakeClock::default();
        let mut bench = Fake::new(Faults { hang: 0.35, crash: 0.35, noise: 0.01, ..Faults::default() }, Seed(4), &clock);
        let (mut hung, mut crashed, mut timed) = (0, 0, 0);
        for task in tasks().into_iter().chain([task(128), task(384)]) {
            let space = Space::new(&task, operator(), &limits());
            let configs: Vec<Config> = space.indices().filter_map(|index| space.nth(index)).collect();
            for chunk in configs.chunks(8) {
                let trials = bench.race(&task, chunk, &Effort::SEARCH).unwrap();
                assert_eq!(trials.len(), chunk.len());
                for (trial, config) in trials.iter().zip(chunk) {
                    assert_eq!(&trial.config, config);
                    match &trial.outcome {
                        Outcome::Failed { class: FailureClass::Timeout, .. } => hung += 1,
                        Outcome::Failed { class: FailureClass::Crash, .. } => crashed += 1,
                        Outcome::Failed { class, .. } => panic!("{class:?}"),
                        Outcome::Ok { timing, .. } => {
                            let truth = true_time(&task, config);
                            assert!(timing.median.0.abs_diff(truth.0) < truth.0 / 10);
                            timed += 1;
                        }
                    }
                }
            }
        }
        assert!(hung >= 100 && crashed >= 100 && timed >= 100, "{hung} hung, {crashed} crashed, {timed} timed");
    }
}
