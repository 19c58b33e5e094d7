//! A session as a system that another load generator measures: the other side of `tests/campaigns/loadgen.py`.
//!
//! ```text
//! cargo run --release --example loadgen_system -- answer ARTIFACT.tune SHARE BATCH LANES   a line `ID INDEX` in, a line `ID` out when it is answered
//! cargo run --release --example loadgen_system -- arrivals RATE COUNT                      instants of the Server scenario, in nanoseconds
//! ```
//! `answer` runs LANES requests at once, each on cores of its own, and says `ready` and which cores it leaves, as `ready 1,3`, when each lane has
//! run. Every request is one of zeros, as `tunewright bench` asks without `--input`.

use kernels::Tensor;
use schema::{Batch, Share};
use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::sync::Barrier;
use tunewright::device;
use tunewright::loadgen::{Arrivals, Seeds};
use tunewright::session::{Request, Session};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["answer", artifact, share, batch, lanes] => {
            answer(artifact, Share::percent(share.parse()?)?, batch.parse()?, lanes.parse()?)
        }
        ["arrivals", rate, count] => arrivals(rate.parse()?, count.parse()?),
        _ => Err("usage: loadgen_system answer ARTIFACT.tune SHARE BATCH LANES | arrivals RATE COUNT".into()),
    }
}

fn arrivals(rate: f64, count: usize) -> Outcome {
    let mut out = std::io::BufWriter::new(stdout().lock());
    for at in Arrivals::new(rate, Seeds::PUBLISHED.schedule).take(count) {
        writeln!(out, "{}", at.0)?;
    }
    Ok(())
}

fn answer(artifact: &str, share: Share, batch: u32, lanes: usize) -> Outcome {
    let batch = Batch::new(batch).ok_or("a batch is at least 1")?;
    let session = Session::builder().artifact(artifact).open()?;
    let model = session.models().next().ok_or("the artifact holds a model")?.to_owned();
    let mut request = Request::new(&model).share(share);
    for port in session.ports(&model, batch)?.0 {
        let (dtype, shape) = port.ty.dtype().zip(port.ty.fixed_shape()).ok_or("an input has an open size")?;
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.bytes()];
        request = request.input(&port.name, Tensor::from_bytes(dtype, shape, bytes.into()).ok_or("zeros are legal")?);
    }
    let warm = Barrier::new(lanes + 1);
    let (taken, left) = device::open("cpu")?.divided(share, lanes);
    let left: Vec<String> = left.iter().map(usize::to_string).collect();
    // Threads begin where this one may run.
    device::confined(&taken, || {
        std::thread::scope(|scope| {
            let lane = || -> Outcome {
                let first = session.run(&request).map(drop);
                warm.wait();
                first?;
                let mut line = String::new();
                loop {
                    line.clear();
                    // Whoever is free takes the next line: the lock of stdin is the queue.
                    if stdin().read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    let id = line.split_whitespace().next().ok_or("a line is: ID INDEX")?;
                    session.run(&request)?;
                    let mut out = stdout().lock();
                    writeln!(out, "{id}")?;
                    out.flush()?;
                }
            };
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            warm.wait();
            println!("ready {}", left.join(","));
            lanes.into_iter().try_for_each(|lane| lane.join().expect("a lane ends with its outcome"))
        })
    })?
}
