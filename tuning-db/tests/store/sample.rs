//! Made-up observations.

use schema::*;

/// A small generator with a seed: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub fn device(n: u64) -> (Device, Environment) {
    let device = Device { name: DeviceName(format!("cpu:{n}")), text: format!("vendor=acme model={n} cores=8") };
    (device, environment(575))
}

pub fn environment(driver: u64) -> Environment {
    Environment { text: format!("kernel=6.1 driver={driver}.54 kernels=abc") }
}

pub fn task_text(n: u64) -> String {
    format!("gemm a=rows b=const k={} m=128 n=768", n + 1)
}

pub fn config(n: u64) -> Config {
    let knobs = vec![
        ("tile".to_owned(), KnobValue::Pair(4 + (n % 3) as i64, 16)),
        ("kc".to_owned(), KnobValue::Int(64 << (n % 5))),
        ("mc".to_owned(), KnobValue::Int(n as i64)),
        ("split".to_owned(), KnobValue::Name(if n.is_multiple_of(2) { "rows" } else { "cols" }.to_owned())),
    ];
    Config { variant: "gemm.host_packed".to_owned(), revision: 3, knobs }
}

pub fn timing(random: &mut Random) -> Timing {
    let median = 1_000_000 + random.below(1_000_000_000);
    let mad = median / 100 * random.below(4);
    Timing { median: Picos(median), mad: Picos(mad), p99: Picos(median + 3 * mad), n: 30, grade: NoiseGrade::A }
}

fn base(random: &mut Random, subject: Subject, outcome: Outcome) -> NewObservation {
    NewObservation {
        subject,
        device: device(random.below(2)).0.key(),
        device_name: DeviceName("cpu".to_owned()),
        share: Share::per_mille([250, 500, 1000][random.below(3) as usize]).unwrap(),
        grant: Grant { mechanism: "core sets".to_owned(), units: 4 },
        numerics: if random.chance(10) { Numerics::Relaxed } else { Numerics::Strict },
        outcome,
        environment: environment(if random.chance(20) { 560 } else { 575 }).key(),
        tool_version: "0.1.0".to_owned(),
        seed: Seed(0),
        wall_clock_s: 1_760_000_000 + random.below(1_000_000),
    }
}

/// A trial, sometimes a failure, sometimes a run-off.
pub fn trial(random: &mut Random) -> NewObservation {
    let task = TaskKey::of(&task_text(random.below(4)));
    let config = config(random.below(60));
    let outcome = if random.chance(10) {
        let class = FailureClass::ALL[random.below(6) as usize];
        Outcome::Failed { class, detail: "max error 3.1".to_owned() }
    } else {
        let ratio =
            random.chance(20).then(|| Ratio { ppm: 1_300_000, lo_ppm: 1_200_000, hi_ppm: 1_400_000 + random.below(1000) });
        Outcome::Ok { timing: timing(random), ratio }
    };
    let subject = if random.chance(20) { Subject::Final { task, config } } else { Subject::Trial { task, config } };
    base(random, subject, outcome)
}

pub fn model_key(n: u64) -> ModelKey {
    ModelKey::of(&format!("model {n}"))
}

/// A model run.
pub fn model(random: &mut Random) -> NewObservation {
    let n = random.below(3);
    let record = ModelRecord {
        model: model_key(n),
        model_name: format!("model{n}"),
        batch: Batch::new(1 << random.below(4)).unwrap(),
        dims: if n == 2 { vec![("seq".to_owned(), 128)] } else { Vec::new() },
        plan: PlanKey::of(&format!("plan {}", random.below(3))),
        split: if n == 1 { Split::new(4, 2).unwrap() } else { Split::WHOLE },
        default: timing(random),
        upload: Some(Line { slope_ps: 1_000, intercept_ps: 20_000 }),
        compute: random.chance(50).then_some(Line { slope_ps: 5_000_000, intercept_ps: 100 }),
        download: None,
        throughput_milli_per_s: random.below(1_000_000),
        memory_bytes: 1 << 20,
        energy_mj: None,
        energy_why: Some("no counter on this device".to_owned()),
    };
    let outcome = Outcome::Ok { timing: timing(random), ratio: None };
    base(random, Subject::Model(Box::new(record)), outcome)
}

/// Mostly trials.
pub fn any(random: &mut Random) -> NewObservation {
    if random.chance(15) { model(random) } else { trial(random) }
}

/// With an id.
pub fn identified(random: &mut Random, writer: u8, seq: u64) -> Observation {
    any(random).with_id(ObservationId { writer: [writer; 16], seq })
}
