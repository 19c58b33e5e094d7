//! A scene and a driver for the scheduler's core, for the test that counts allocations and the bench that times decisions.

use schema::{Batch, DeviceName, Share};
use std::sync::Arc;
use tunewright::schedule::{
    Action, Core, Engines, Event, Fleet, FleetDevice, Index, Limits, Line, Measured, Model, ModelId, Nanos, Priority, RunId,
    Spent, Stage, Stages, Wish, policy,
};

/// Models of the scene; each runs on both devices at every share, with six batches.
const MODELS: u16 = 4;

/// A device with copy engines and a host that gives shares.
fn fleet() -> Fleet {
    let shares = |percents: &[f64]| percents.iter().map(|&percent| Share::percent(percent).unwrap()).collect();
    let device = |engines, percents| FleetDevice { engines, gap: Nanos(20_000), workers: shares(percents), overlaps: Vec::new() };
    Fleet {
        devices: vec![device(Engines::Two, &[100.0][..]), device(Engines::None, &[100.0, 50.0, 50.0, 25.0, 25.0, 25.0, 25.0])],
    }
}

fn index() -> Index {
    let mut measured = Vec::new();
    for model in 0..MODELS {
        for (device, percent) in [(0, 100.0), (1, 100.0), (1, 50.0), (1, 25.0)] {
            for batch in [1, 2, 4, 8, 16, 32] {
                let slow = (1.0 + f64::from(model)) * if device == 0 { 1.0 } else { 3.0 + 100.0 / percent };
                let line = Line { per_row_ns: 1e4 * slow, fixed_ns: 5e4 * slow };
                measured.push(Measured {
                    model: ModelId(model),
                    device: tunewright::schedule::DeviceId(device),
                    share: Share::percent(percent).unwrap(),
                    batch: Batch::new(batch).unwrap(),
                    time: Nanos((slow * (1e5 * f64::from(batch) + 8e5)) as u64),
                    spread: Nanos(1000),
                    upload: Some(line),
                    download: Some(line),
                    energy_mj: None,
                });
            }
        }
    }
    let model = |at| Model { name: format!("m{at}"), weight: 1.0 };
    let devices = ["gpu", "cpu"].map(|name| DeviceName(name.into())).to_vec();
    Index::new(1, (0..MODELS).map(model).collect(), devices, measured).unwrap()
}

/// An idle core under a policy.
pub fn core(name: &str) -> Core {
    Core::new(&fleet(), Arc::new(index()), Limits::default(), policy(name).unwrap()).unwrap()
}

/// What happens to a run.
struct Flight {
    run: RunId,
    stages: Stages,
    gap: Nanos,
    ends: Nanos,
}

/// Sends requests of all models, a fixed time apart, and lets runs end when they were predicted to. Every call of the core goes through
/// `around`; what `around` is told is whether the call is a decision. Instants go on where `clock` stands. Returns how many were accepted.
pub fn drive(core: &mut Core, requests: u32, clock: &mut u64, around: &mut dyn FnMut(bool, &mut dyn FnMut())) -> u32 {
    let mut flights: Vec<Flight> = Vec::with_capacity(64);
    let mut accepted = 0;
    for number in 0..requests {
        *clock += 250_000;
        let now = Nanos(*clock);
        while let Some(at) = flights.iter().position(|flight| flight.ends <= now) {
            let Flight { run, stages, gap, .. } = flights.swap_remove(at);
            for stage in [Stage::Upload, Stage::Compute] {
                around(false, &mut || assert!(core.on(now, Event::Passed { run, stage }).unwrap()));
            }
            let spent = Some(Spent { stages, gap, disturbed: false });
            around(false, &mut || assert!(core.on(now, Event::Finished { run, spent }).unwrap()));
        }
        let model = ModelId(number as u16 % MODELS);
        let rows = Batch::new(1 + number % 3).unwrap();
        let deadline = if number.is_multiple_of(5) { Nanos::NEVER } else { now + Nanos(40_000_000) };
        let wish = Wish { model, rows, deadline, priority: Priority::default() };
        around(false, &mut || accepted += u32::from(core.submit(now, wish).is_ok()));
        loop {
            let mut action = None;
            around(true, &mut || action = core.step(now));
            match action {
                None => break,
                Some(Action::Start { run, decision }) => {
                    let (stages, gap, ends) = (decision.stages, decision.gap, decision.finish);
                    flights.push(Flight { run, stages, gap, ends });
                }
                Some(Action::Refuse { .. }) => {}
            }
        }
    }
    // What is in flight is forgotten by its worker, so that the next call begins with none.
    for Flight { run, .. } in flights {
        assert!(core.on(Nanos(*clock), Event::Finished { run, spent: None }).unwrap());
    }
    accepted
}
