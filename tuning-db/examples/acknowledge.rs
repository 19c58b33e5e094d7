//! How many acknowledgements a second a database gives, and how long each takes: `acknowledge DIR`, in a folder that is made.
//!
//! Each thread appends one or more observations, waits for all of their tickets, and begins again.

use schema::*;
use std::path::Path;
use std::time::{Duration, Instant};
use tuning_db::{OpenOptions, Store};

/// Of each measurement.
const TIME: Duration = Duration::from_secs(5);

fn observation(n: u64) -> NewObservation {
    let median = 1_000_000 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_000;
    let timing = Timing { median: Picos(median), mad: Picos(median / 100), p99: Picos(median), n: 30, grade: NoiseGrade::A };
    let knobs = vec![("kc".into(), KnobValue::Int(n as i64)), ("tile".into(), KnobValue::Pair(6, 16))];
    NewObservation {
        subject: Subject::Trial {
            task: TaskKey::of(&format!("gemm a=rows b=const k={} m=128 n=768", n % 50)),
            config: Config { variant: "gemm.host_packed".into(), revision: 3, knobs },
        },
        device: DeviceKey::of("cpu"),
        device_name: DeviceName("cpu".into()),
        share: Share::WHOLE,
        grant: Grant { mechanism: "core sets".into(), units: 8 },
        numerics: Numerics::Strict,
        outcome: Outcome::Ok { timing, ratio: None },
        environment: EnvironmentKey::of("environment"),
        tool_version: "0.1.0".into(),
        seed: Seed(0),
        wall_clock_s: 1_760_000_000,
    }
}

/// The times of all tickets of one thread.
fn caller(store: &Store, first: u64, ahead: u64) -> Vec<Duration> {
    let (started, mut times, mut n) = (Instant::now(), Vec::new(), first);
    while started.elapsed() < TIME {
        let handed_in: Vec<_> =
            (n..n + ahead).map(|n| (Instant::now(), store.append(observation(n)).expect("is taken"))).collect();
        n += ahead;
        for (since, ticket) in handed_in {
            ticket.wait().expect("is durable");
            times.push(since.elapsed());
        }
    }
    times
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("acknowledge DIR")?;
    let options = OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() };
    let store = Store::open(Path::new(&path), options)?;
    for (round, (threads, ahead)) in [(1, 1), (2, 1), (4, 1), (1, 16), (2, 16), (1, 64)].into_iter().enumerate() {
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || caller(store, (round as u64 * 10 + thread) << 32, ahead)
                    })
                })
                .collect();
            callers.into_iter().flat_map(|caller| caller.join().expect("no panic")).collect()
        });
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let rate = times.len() as f64 / TIME.as_secs_f64();
        println!(
            "{threads} threads, {ahead} ahead: {rate:.0} per second, median {:.2} ms, 99th percentile {:.2}, worst {:.2}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    store.close()?;
    Ok(())
}
