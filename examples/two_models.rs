//! Two models served from one process: requests for both come at random from several threads, with a deadline.
//!
//! ```text
//! cargo run --release --example two_models -- A.tune B.tune [REQUESTS_PER_S [SECONDS]]
//! ```
//!
//! Prints for each model what was answered, what was in time, and the last decision with its reasons.

use kernels::Tensor;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tunewright::runtime::{Answer, Request, Runtime, RuntimeError};

const DEADLINE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    // Workers are this program executed again.
    if let Some(code) = tunewright::worker::serve_if_asked() {
        return code;
    }
    match serve(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("two_models: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [first, second, rest @ ..] = arguments else { return Err("give two artifacts: two_models A.tune B.tune".into()) };
    let number = |at: usize, otherwise: f64| rest.get(at).map_or(Ok(otherwise), |text| text.parse::<f64>());
    let (per_s, seconds) = (number(0, 50.0)?, number(1, 5.0)?);
    let runtime = Runtime::builder().artifact(first).artifact(second).open()?;
    let (gap, time) = (Duration::try_from_secs_f64(1.0 / per_s)?, Duration::try_from_secs_f64(seconds)?);
    std::thread::scope(|scope| {
        let asking: Vec<_> = runtime.models().into_iter().map(|model| scope.spawn(|| ask(&runtime, model, gap, time))).collect();
        asking.into_iter().try_for_each(|thread| thread.join().expect("a thread that asks ends by itself"))
    })?;
    runtime.shutdown();
    Ok(())
}

/// Submits requests at a fixed rate, then collects the answers.
fn ask(runtime: &Runtime, model: String, gap: Duration, time: Duration) -> Result<(), RuntimeError> {
    let (inputs, _) = runtime.ports(&model)?;
    let zeros = |port: &tunewright::execute::Port| {
        let shape = port.ty.fixed_shape()?;
        let bytes = vec![0; shape.iter().product::<usize>() * port.ty.dtype()?.bytes()];
        Some((port.name.clone(), Tensor::from_bytes(port.ty.dtype()?, shape, bytes.into())?))
    };
    let inputs: Vec<(String, Tensor)> = inputs.iter().filter_map(zeros).collect();
    let (start, mut pending, mut refused) = (Instant::now(), Vec::new(), 0);
    for number in 0.. {
        let at = gap * number;
        if at >= time {
            break;
        }
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        let request = Request::new(&model).deadline(DEADLINE);
        let request = inputs.iter().fold(request, |request, (name, tensor)| request.input(name, tensor.clone()));
        match runtime.submit(request) {
            Ok(accepted) => pending.push(accepted),
            Err(error) if error.retry_after().is_some() => refused += 1,
            Err(error) => return Err(error),
        }
    }
    let answers: Vec<Answer> = pending.into_iter().map(|pending| pending.wait()).collect::<Result<_, _>>()?;
    let in_time = answers.iter().filter(|answer| answer.decision.in_time == Some(true)).count();
    println!("{model}: {} answered, {in_time} within {DEADLINE:?}, {refused} refused", answers.len());
    if let Some(decision) = answers.last().map(|answer| &answer.decision) {
        let (device, share) = (&decision.device.0, decision.share);
        println!("  the last on {device} at {share} %, {} requests in batch {}", decision.requests, decision.batch);
        println!(
            "  waited {:?}, predicted {:?} by {}, took {:?}",
            decision.waited, decision.predicted, decision.predicted_by, decision.actual
        );
        for rival in &decision.rivals {
            println!("  not on {} at {} %: {}", rival.device.0, rival.share, rival.why);
        }
    }
    Ok(())
}
