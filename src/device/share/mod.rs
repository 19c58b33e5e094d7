//! How a share of a device is granted: the mechanisms, best first.

pub mod core_sets;
pub mod whole;
pub mod worker_threads;

use super::Machine;
use kernels::Limits;
use schema::{DeviceName, Share};
use thiserror::Error;

/// A way to give a part of a device.
pub struct Mechanism {
    pub name: &'static str,
    /// The shares it can give, ascending.
    pub possible: fn(&Machine) -> Vec<Share>,
    /// The `slot`-th disjoint part of that size, or `None` when it cannot give it.
    pub grant: fn(&Machine, Share, usize) -> Option<Grant>,
}

/// The mechanisms for processors, best first. A new one is one file and one line here.
pub static MECHANISMS: &[Mechanism] = &[core_sets::MECHANISM];

/// Those for devices with memory of their own.
pub static GPU_MECHANISMS: &[Mechanism] = &[worker_threads::MECHANISM, whole::MECHANISM];

fn mechanisms(machine: &Machine) -> &'static [Mechanism] {
    if machine.limits.gpu.is_some() { GPU_MECHANISMS } else { MECHANISMS }
}

/// A part of a device: what a worker owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The device's name.
    pub device: DeviceName,
    pub share: Share,
    /// Which of the disjoint parts of this size.
    pub slot: usize,
    /// Mechanism and units, as stored in records.
    pub grant: schema::Grant,
    /// The cores, in the operating system's numbers.
    pub cores: Vec<usize>,
    /// Of this part: `units` are the granted cores.
    pub limits: Limits,
}

/// Why a share is not granted.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum GrantError {
    #[error("{device} cannot give {share} %: it gives {}; choose one of these", .can.join(", "))]
    Share { device: String, share: Share, can: Vec<String> },
    #[error("{device} has {slots} disjoint parts of {share} %; part {slot} was asked for")]
    Slot { device: String, share: Share, slot: usize, slots: usize },
}

/// Every share the device can give, ascending.
pub(super) fn possible(machine: &Machine) -> Vec<Share> {
    mechanisms(machine)
        .iter()
        .map(|mechanism| (mechanism.possible)(machine))
        .find(|shares| !shares.is_empty())
        .unwrap_or_default()
}

/// The part of that slot by the first mechanism that can give it.
pub(super) fn grant(machine: &Machine, share: Share, slot: usize) -> Result<Grant, GrantError> {
    if let Some(grant) = mechanisms(machine).iter().find_map(|mechanism| (mechanism.grant)(machine, share, slot)) {
        return Ok(grant);
    }
    let device = machine.device.name.0.clone();
    match slots(machine, share) {
        0 => {
            let can = possible(machine).into_iter().map(|share| share.to_string()).collect();
            Err(GrantError::Share { device, share, can })
        }
        slots => Err(GrantError::Slot { device, share, slot, slots }),
    }
}

/// How many disjoint parts of that size there are.
pub(super) fn slots(machine: &Machine, share: Share) -> usize {
    let units = |slot| mechanisms(machine).iter().find_map(|mechanism| (mechanism.grant)(machine, share, slot));
    (0..machine.cores.len().max(1)).take_while(|&slot| units(slot).is_some()).count()
}
