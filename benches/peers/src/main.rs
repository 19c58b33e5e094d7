//! Our side of `peers.py` and `nvidia.py`: an artifact is loaded and run once, its outputs are written, and each line `slot SECONDS` on
//! stdin is answered by the latencies of that slot in nanoseconds.
//!
//!     peers ARTIFACT INPUTS.npz OUTPUTS.npz SHARE [DEVICE]

use kernels::Tensor;
use schema::Share;
use serde_json::json;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, stdin};
use std::path::Path;
use std::time::Instant;
use tunewright::npz;
use tunewright::session::{Request, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [artifact, inputs, outputs, share, device @ ..] = &arguments[..] else {
        return Err("usage: peers ARTIFACT INPUTS.npz OUTPUTS.npz SHARE [DEVICE]".into());
    };
    let share = Share::percent(share.parse()?)?;
    let device = device.first().map_or("cpu", String::as_str);
    let session = Session::builder().artifact(artifact).device(device).require_tuned(true).open()?;
    let model = session.models().next().ok_or("the artifact holds a model")?.to_owned();
    let mut request = Request::new(&model).share(share);
    for (name, tensor) in npz::read(Path::new(inputs), &npz::Limits::default())? {
        request = request.input(&name, tensor);
    }
    let answer = session.run(&request)?;
    let arrays: Vec<(&str, &Tensor)> =
        answer.outputs.iter().filter_map(|(name, datum)| datum.tensor().map(|tensor| (name.as_str(), tensor))).collect();
    npz::write(File::create(outputs)?, &arrays)?;
    println!("{}", json!({"ready": true, "version": env!("CARGO_PKG_VERSION"), "rung": answer.decision.rung.to_string()}));
    for line in stdin().lock().lines() {
        let line = line?;
        let seconds: f64 = line.split(' ').nth(1).ok_or("a line is: slot SECONDS")?.parse()?;
        let (start, mut latencies) = (Instant::now(), Vec::new());
        while latencies.is_empty() || start.elapsed().as_secs_f64() < seconds {
            let before = Instant::now();
            session.run(&request)?;
            latencies.push(u64::try_from(before.elapsed().as_nanos())?);
        }
        println!("{}", json!({"latency_ns": latencies}));
    }
    Ok(())
}
