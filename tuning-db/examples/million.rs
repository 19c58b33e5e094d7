//! A database of a million records: how large it is, how soon and with how much memory it answers.
//!
//! `million build DIR [N]` makes it, `million ask DIR A|C` opens it in a fresh process and asks.

use schema::*;
use std::path::Path;
use std::time::Instant;
use tuning_db::{OpenOptions, Query, Reader, Source, Store};

const TASKS: u64 = 2_000;
/// One record in so many is of a model.
const MODELS_EVERY: u64 = 200;

fn text(task: u64) -> String {
    format!("conv2d batch=1 c={} dilations=[1,1] epilogue=bias+relu h=56 k={} kernel=[3,3] w=56", 1 + task % 64, 1 + task)
}

fn mixed(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
}

fn subject(n: u64, timing: Timing) -> Subject {
    if n.is_multiple_of(MODELS_EVERY) {
        let model = n / MODELS_EVERY;
        return Subject::Model(Box::new(ModelRecord {
            model: ModelKey::of(&format!("model {}", model % 100)),
            model_name: format!("model{}", model % 100),
            batch: Batch::new(1 + (model / 100 % 50) as u32).unwrap_or(Batch::ONE),
            dims: Vec::new(),
            plan: PlanKey::of("plan"),
            split: Split::WHOLE,
            default: timing,
            upload: None,
            compute: Some(Line { slope_ps: 5_000_000, intercept_ps: 1_000 }),
            download: None,
            throughput_milli_per_s: 1_000_000,
            memory_bytes: 100 << 20,
            energy_mj: None,
            energy_why: Some("no counter on this device".into()),
        }));
    }
    let knobs = vec![
        ("tile".to_owned(), KnobValue::Pair(6, 16)),
        ("kc".to_owned(), KnobValue::Int((n / TASKS % 64) as i64 * 64)),
        ("mc".to_owned(), KnobValue::Int((n / TASKS / 64) as i64 * 6)),
        ("split".to_owned(), KnobValue::Name("rows".into())),
    ];
    Subject::Trial {
        task: TaskKey::of(&text(n % TASKS)),
        config: Config { variant: "conv2d.host_direct".into(), revision: 2, knobs },
    }
}

fn observation(n: u64) -> NewObservation {
    let median = 1_000_000 + mixed(n) % 10_000_000_000;
    let timing =
        Timing { median: Picos(median), mad: Picos(median / 90), p99: Picos(median + median / 20), n: 35, grade: NoiseGrade::B };
    NewObservation {
        subject: subject(n, timing),
        device: DeviceKey::of("cpu"),
        device_name: DeviceName("cpu".into()),
        share: Share::per_mille([250, 500, 750, 1000][(mixed(n) % 4) as usize]).unwrap_or(Share::WHOLE),
        grant: Grant { mechanism: "core sets".into(), units: 8 },
        numerics: Numerics::Strict,
        outcome: Outcome::Ok { timing, ratio: None },
        environment: EnvironmentKey::of("environment"),
        tool_version: "0.1.0".into(),
        seed: Seed(0),
        wall_clock_s: 1_760_000_000 + n,
    }
}

fn build(path: &Path, records: u64) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let options = || OpenOptions { snapshot_every: None, ..OpenOptions::default() };
    let store = Store::open(path, options())?;
    for task in 0..TASKS {
        store.put_task(TaskKey::of(&text(task)), &text(task))?;
    }
    let mut tickets = std::collections::VecDeque::new();
    for n in 0..records {
        tickets.push_back(store.append(observation(n))?);
        if tickets.len() > 4_096 {
            tickets.pop_front().map(|ticket| ticket.wait()).transpose()?;
        }
    }
    for ticket in tickets {
        ticket.wait()?;
    }
    println!("appended {records} in {:.1} s", started.elapsed().as_secs_f64());
    let closing = Instant::now();
    store.close()?;
    println!("snapshot and close in {:.1} s", closing.elapsed().as_secs_f64());
    let opening = Instant::now();
    let store = Store::open(path, options())?;
    println!("opened for writing in {:.0} ms", opening.elapsed().as_secs_f64() * 1e3);
    store.close()?;
    let stat = tuning_db::stat(&Reader::open(path, Source::C)?)?;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{} observations: journal {:.0} MB, index {:.0} MB, snapshots {:.0} MB",
        stat.observations,
        mb(stat.journal_bytes),
        mb(stat.index_bytes),
        mb(stat.snapshot_bytes)
    );
    Ok(())
}

fn ask(path: &Path, source: Source) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let reader = Reader::open(path, source)?;
    let rows = reader.query(&Query::parse("model=model7 and share<=50 order by p99 limit 5")?)?;
    println!("first answer by {source:?}: {} rows in {:.0} ms", rows.rows.len(), started.elapsed().as_secs_f64() * 1e3);
    let scan = Instant::now();
    let records = reader.model_records()?;
    println!("{} model records in {:.0} ms", records.rows.len(), scan.elapsed().as_secs_f64() * 1e3);
    let task = Instant::now();
    let query = Query::parse(&format!("task=\"{}\" order by p50", text(3)))?.of(tuning_db::Of::Trials);
    println!("{} trials of a task in {:.0} ms", reader.query(&query)?.rows.len(), task.elapsed().as_secs_f64() * 1e3);
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("memory unknown"));
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["build", path] => build(Path::new(path), 1_000_000),
        ["build", path, records] => build(Path::new(path), records.parse()?),
        ["ask", path, source] => ask(Path::new(path), Source::parse(source).unwrap_or_default()),
        _ => Err("million build DIR [N] | million ask DIR A|C".into()),
    }
}
