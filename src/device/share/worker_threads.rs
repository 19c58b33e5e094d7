//! Shares of a driver that computes on the processor, by the cores its threads may run on: those of the worker that opens it.

use super::{Grant, Mechanism, core_sets};
use crate::device::Machine;
use schema::Share;

/// Cores of the worker, whose threads the driver's are.
pub const MECHANISM: Mechanism = Mechanism { name: "worker_threads", possible, grant, by_driver: None };

fn possible(machine: &Machine) -> Vec<Share> {
    if machine.software { (core_sets::MECHANISM.possible)(machine) } else { Vec::new() }
}

fn grant(machine: &Machine, share: Share, slot: usize) -> Option<Grant> {
    let cores = (core_sets::MECHANISM.grant)(machine, share, slot).filter(|_| machine.software)?;
    let grant = schema::Grant { mechanism: MECHANISM.name.to_owned(), ..cores.grant };
    Some(Grant { grant, ..cores })
}
