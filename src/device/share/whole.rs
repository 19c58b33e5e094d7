//! The whole device and nothing less: where no way to give a part of it is known.

use super::{Grant, Mechanism};
use crate::device::Machine;
use schema::Share;

/// All of it.
pub const MECHANISM: Mechanism = Mechanism { name: "whole", possible: |_| vec![Share::WHOLE], grant, by_driver: None };

fn grant(machine: &Machine, share: Share, slot: usize) -> Option<Grant> {
    (share == Share::WHOLE && slot == 0).then(|| Grant {
        device: machine.device.name.clone(),
        share,
        slot,
        grant: schema::Grant { mechanism: MECHANISM.name.to_owned(), units: 1 },
        cores: machine.cores.clone(),
        limits: machine.limits,
    })
}
