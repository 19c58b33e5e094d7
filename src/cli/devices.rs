//! `tunewright devices`: what is here and what it can give. Absent devices are listed with the reason and are no error.

use super::table::{Align, lay_out};
use super::{Exit, Failure, Screen, screen::Paint};
use crate::device::{self, DeviceError, Found, GrantError, Machine};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tunewright devices\n  tunewright devices --json")]
pub struct Arguments {}

pub fn run(_: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let found = device::found();
    screen.result(
        || json!({"schema": "devices.result", "version": 1, "devices": found.iter().map(object).collect::<Vec<_>>()}),
        |screen| lay_out(&found.iter().map(|found| row(screen, found)).collect::<Vec<_>>(), &[Align::Left; 4]),
    );
    Ok(Exit::Done)
}

/// The device of that name.
///
/// # Errors
/// Unknown or absent, in the form of the command line.
pub fn open(name: &str) -> Result<Machine, Failure> {
    device::open(name).map_err(|error| match error {
        DeviceError::Unknown { name, known } => {
            Failure::new("device.unknown", name, format!("no such device; there are {known}")).remedy("see tunewright devices")
        }
        DeviceError::Absent { name, reason } => Failure::new("device.absent", name, reason),
    })
}

/// A share that is not granted.
pub fn from_grant(error: &GrantError) -> Failure {
    let text = error.to_string();
    let (what, remedy) = text.split_once("; ").unwrap_or((&text, ""));
    Failure::new("device.share", what, "").remedy(remedy)
}

fn row(screen: &Screen, found: &Found) -> Vec<String> {
    match found {
        Found::Present(machine) => vec![
            screen.paint(Paint::Bold, &machine.device.name.to_string()),
            machine.summary.clone(),
            format!("shares {}", shares(machine)),
            format!("by {}{}", mechanism(machine), machine.lacks().map_or_else(String::new, |why| format!(" ({why})"))),
        ],
        Found::Absent { name, reason } => vec![name.to_string(), format!("absent: {reason}")],
    }
}

/// `25 50 75 100`, or `12.5 … 100 in steps of 12.5` where there are many.
fn shares(machine: &Machine) -> String {
    let shares = machine.shares_pct();
    match shares[..] {
        [first, second, .., last] if shares.len() > 6 => format!("{first} … {last} in steps of {}", second - first),
        _ => shares.iter().map(f64::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// How the device gives its shares, in words.
fn mechanism(machine: &Machine) -> String {
    machine.mechanisms().join(", ").replace('_', " ")
}

fn object(found: &Found) -> Value {
    match found {
        Found::Present(machine) => {
            let mut object = json!({
                "name": machine.device.name.0, "present": true, "summary": machine.summary, "key": machine.key().to_string(),
                "environment": machine.environment.key().to_string(), "units": machine.limits.units, "isa": machine.limits.isa.name(),
                "shares_pct": machine.shares_pct(), "mechanism": mechanism(machine), "l1d_bytes": machine.limits.l1d_bytes,
                "l2_bytes": machine.limits.l2_bytes, "l3_bytes": machine.limits.l3_bytes,
            });
            if let Some(gpu) = machine.limits.gpu {
                object["gpu"] = json!({
                    "shared_bytes": gpu.shared_bytes, "units_per_cube": gpu.units_per_cube, "cube_dim": gpu.cube_dim,
                    "cubes_per_axis": gpu.cubes_per_axis, "bindings": gpu.bindings, "buffer_bytes": gpu.buffer_bytes,
                    "narrow": gpu.narrow.names(), "matrix": gpu.matrix.names(),
                });
            }
            object
        }
        Found::Absent { name, reason } => json!({"name": name.0, "present": false, "reason": reason}),
    }
}
