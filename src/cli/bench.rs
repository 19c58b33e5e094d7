//! `tunewright bench`: requests against an artifact, single-stream (one after the other) or offline (as many at once as there is room
//! for), with the latencies that came and the placement that was predicted.

use super::explain::{from_session, open};
use super::failure::escape;
use super::quantity::{self, show_count, show_time};
use super::table::{Align, lay_out};
use super::{
    Exit, Failure, Global, Screen,
    model::{self, OpenFlags},
    screen::Paint,
    settings,
};
use crate::execute::Port;
use crate::session::{Decision, Request, Session};
use kernels::Tensor;
use schema::{Batch, DType, Picos, Share};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright bench resnet50.tune --duration 10s\n  tunewright bench resnet50.tune --scenario offline --share 50 --assert 'p99<40ms'"
)]
pub struct Arguments {
    /// An artifact
    file: PathBuf,
    /// single-stream: one request after the other; offline: as many at once as the shares leave room for
    #[arg(long, value_enum, default_value = "single-stream")]
    scenario: Scenario,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = quantity::duration)]
    duration: Duration,
    /// The device
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Only this share
    #[arg(long, value_name = "PER CENT", value_parser = quantity::share)]
    share: Option<Share>,
    /// Rows of a request [default: the smallest batch tuned]
    #[arg(long, value_name = "N", value_parser = quantity::batch)]
    batch: Option<Batch>,
    /// Exit with 1 unless it holds, such as 'p99<5ms' or 'throughput>100'; repeatable
    #[arg(long = "assert", value_name = "TEST", value_parser = assertion)]
    assertions: Vec<Assertion>,
    #[command(flatten)]
    open: OpenFlags,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    SingleStream,
    Offline,
}

/// A test on a figure: seconds for times, requests a second for throughput.
#[derive(Clone, Debug)]
struct Assertion {
    text: String,
    field: String,
    less: bool,
    equal: bool,
    value: f64,
}

const FIELDS: [&str; 4] = ["p50", "p99", "mean", "throughput"];

fn assertion(text: &str) -> Result<Assertion, String> {
    let at = text.find(['<', '>']).ok_or("a test is FIELD<VALUE or FIELD>VALUE; write p99<5ms")?;
    let (field, rest) = text.split_at(at);
    let equal = rest[1..].starts_with('=');
    let value = rest[1 + usize::from(equal)..].trim();
    let field = field.trim().to_owned();
    if !FIELDS.contains(&field.as_str()) {
        return Err(format!("there is no figure {field}; there are {}", FIELDS.join(", ")));
    }
    let value = if field == "throughput" {
        value.trim_end_matches("/s").parse().map_err(|_| "throughput is a number a second; write throughput>100".to_owned())?
    } else {
        quantity::duration(value)?.as_secs_f64()
    };
    Ok(Assertion { text: text.to_owned(), field, less: rest.starts_with('<'), equal, value })
}

/// What a run of requests gave.
struct Figures {
    /// Seconds, ascending.
    latencies: Vec<f64>,
    took: f64,
    decision: Decision,
}

impl Figures {
    fn get(&self, field: &str) -> f64 {
        let at =
            |part: f64| self.latencies[((self.latencies.len() as f64 * part).ceil() as usize).clamp(1, self.latencies.len()) - 1];
        match field {
            "p50" => at(0.5),
            "p99" => at(0.99),
            "mean" => self.latencies.iter().sum::<f64>() / self.latencies.len() as f64,
            _ => self.latencies.len() as f64 * f64::from(self.decision.batch.rows()) / self.took,
        }
    }
}

impl Assertion {
    fn holds(&self, figures: &Figures) -> bool {
        let found = figures.get(&self.field);
        (self.equal && found == self.value) || if self.less { found < self.value } else { found > self.value }
    }
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let opening = arguments.open.opening();
    let artifact = model::open_artifact(path, opening)?;
    let session = open(path, &arguments.device, opening, settings::database_of_records(global, &screen.settings))?;
    let name = artifact.provenance().model_name.clone();
    let smallest = artifact.shapes().map(|(batch, _)| batch).min().unwrap_or(Batch::ONE);
    let batch = arguments.batch.unwrap_or(smallest);
    let (inputs, _) = session.ports(&name, batch).map_err(|error| from_session(path, &error))?;
    let mut request = Request::new(&name);
    for port in &inputs {
        request = request.input(&port.name, zeros(path, port)?);
    }
    if let Some(share) = arguments.share {
        request = request.share(share);
    }
    let figures = measure(arguments, &session, &request)?;
    let broken: Vec<&Assertion> = arguments.assertions.iter().filter(|assertion| !assertion.holds(&figures)).collect();
    print(arguments, screen, &figures, &broken);
    Ok(if broken.is_empty() { Exit::Done } else { Exit::No })
}

/// An input of zeros: legal for every model, indices included.
fn zeros(path: &std::path::Path, port: &Port) -> Result<Tensor, Failure> {
    let open =
        || Failure::new("input.open_axis", path.display(), format!("the size of input \"{}\" is open", escape(&port.name)));
    let (dtype, shape) = (port.ty.dtype().ok_or_else(open)?, port.ty.fixed_shape().ok_or_else(open)?);
    let count: usize = shape.iter().product();
    if dtype == DType::String {
        return Ok(Tensor::strings(shape, vec![String::new(); count]));
    }
    Tensor::from_bytes(dtype, shape, vec![0; count * dtype.bytes()].into()).ok_or_else(open)
}

fn measure(arguments: &Arguments, session: &Session, request: &Request) -> Result<Figures, Failure> {
    let fail = |error| from_session(&arguments.file, &error);
    let first = session.run(request).map_err(fail)?; // compiles the plan and wakes the pool
    let lanes = match arguments.scenario {
        Scenario::SingleStream => 1,
        Scenario::Offline => (100.0 / first.decision.share.as_percent()).floor().max(1.0) as usize,
    };
    let latencies = Mutex::new(Vec::new());
    let failed = Mutex::new(None);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut own = Vec::new();
                while start.elapsed() < arguments.duration || own.is_empty() {
                    let before = Instant::now();
                    match session.run(request) {
                        Ok(_) => own.push(before.elapsed().as_secs_f64()),
                        Err(error) => {
                            *failed.lock().expect("no holder panics") = Some(error);
                            return;
                        }
                    }
                }
                latencies.lock().expect("no holder panics").extend(own);
            });
        }
    });
    let took = start.elapsed().as_secs_f64();
    if let Some(error) = failed.into_inner().expect("no holder panics") {
        return Err(fail(error));
    }
    let mut latencies = latencies.into_inner().expect("no holder panics");
    latencies.sort_by(f64::total_cmp);
    Ok(Figures { latencies, took, decision: first.decision })
}

fn print(arguments: &Arguments, screen: &mut Screen, figures: &Figures, broken: &[&Assertion]) {
    let decision = &figures.decision;
    let time = |field| Picos::from_secs_f64(figures.get(field));
    screen.result(
        || {
            json!({
                "schema": "bench.result", "version": 1, "file": arguments.file.display().to_string(),
                "scenario": if arguments.scenario == Scenario::Offline { "offline" } else { "single_stream" }, "device": decision.device.0,
                "share_pct": decision.share.as_percent(), "batch": decision.batch.rows(), "rung": decision.rung.to_string(),
                "requests": figures.latencies.len(), "took_ns": (figures.took * 1e9) as u64, "predicted_ns": decision.predicted.map(|p| p.time.as_nanos()),
                "predicted_by": decision.predicted.map(|p| p.evidence.to_string()),
                "p50_ns": time("p50").as_nanos(), "p99_ns": time("p99").as_nanos(), "mean_ns": time("mean").as_nanos(),
                "throughput_per_s": figures.get("throughput"),
                "assertions": arguments.assertions.iter().map(|a| json!({"test": a.text, "holds": a.holds(figures)})).collect::<Vec<_>>(),
            })
        },
        |screen| {
            let predicted = match decision.predicted {
                Some(p) => format!("predicted {} by the {}, measured {:.2} of it", show_time(p.time), p.evidence, figures.get("p50") / p.time.as_secs_f64()),
                None => "no record to predict from".to_owned(),
            };
            let fact = |name: &str, value: String| vec![format!("  {name}"), value];
            let mut lines = vec![format!("{}   {} share {}, batch {} ({})", arguments.file.display(), decision.device, decision.share, decision.batch, decision.rung)];
            lines.extend(lay_out(
                &[
                    fact("requests", format!("{} in {:.1} s", show_count(figures.latencies.len() as u64), figures.took)),
                    fact("latency", format!("{} median, {} p99, {} mean; {predicted}", screen.paint(Paint::Bold, &show_time(time("p50"))), show_time(time("p99")), show_time(time("mean")))),
                    fact("throughput", format!("{:.1} rows/s", figures.get("throughput"))),
                ],
                &[Align::Left; 2],
            ));
            for assertion in broken {
                lines.push(screen.paint(Paint::Red, &format!("  not met: {}", assertion.text)));
            }
            lines
        },
    );
}
