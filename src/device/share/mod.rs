//! How a share of a device is granted: the mechanisms, best first.

pub mod core_sets;
pub mod mps;
pub mod whole;
pub mod worker_threads;

use super::Machine;
use kernels::Limits;
use schema::{DeviceName, Share};
use std::collections::BTreeSet;
use thiserror::Error;

/// A way to give a part of a device.
pub struct Mechanism {
    pub name: &'static str,
    /// The shares it can give, ascending.
    pub possible: fn(&Machine) -> Vec<Share>,
    /// The `slot`-th disjoint part of that size, or `None` when it cannot give it.
    pub grant: fn(&Machine, Share, usize) -> Option<Grant>,
    /// Where the driver gives the part to a process that asks for it, instead of whoever grants it to a set of cores.
    pub by_driver: Option<ByDriver>,
}

/// How the driver is asked for a part, and how it is seen that it gave it.
pub struct ByDriver {
    /// What a device lacks whose driver gives parts this way, in one line.
    pub lacks: fn(&Machine) -> Option<String>,
    /// Starts what has to run, and says what the worker must find in its environment; the error is one line.
    pub environment: fn(&Grant) -> Result<Vec<(String, String)>, String>,
    /// The units of a worker that counted so many multiprocessors; the error says why they are not the share.
    pub counted: fn(&Grant, Option<u32>) -> Result<u32, String>,
}

/// The mechanisms for processors, best first. A new one is one file and one line here.
pub static MECHANISMS: &[Mechanism] = &[core_sets::MECHANISM];

/// Those for devices with memory of their own.
pub static GPU_MECHANISMS: &[Mechanism] = &[worker_threads::MECHANISM, mps::MECHANISM, whole::MECHANISM];

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

impl Grant {
    /// How the driver gives it; `None` for cores, and for a whole device.
    pub fn by_driver(&self) -> Option<&'static ByDriver> {
        let own = |mechanism: &&Mechanism| mechanism.name == self.grant.mechanism;
        MECHANISMS.iter().chain(GPU_MECHANISMS).find(own)?.by_driver.as_ref()
    }
}

/// Why a share is not granted.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum GrantError {
    #[error("{device} cannot give {share} %: it gives {}{}; choose one of these", .can.join(", "), .why.iter().map(|why| format!(" ({why})")).collect::<String>())]
    Share {
        device: String,
        share: Share,
        can: Vec<String>,
        /// Why it gives no others, where it might.
        why: Option<String>,
    },
    #[error("{device} did not give {share} %: {why}; it gives {}", .can.join(", "))]
    Refused { device: String, share: Share, can: Vec<String>, why: String },
    #[error("{device} has {slots} disjoint parts of {share} %; part {slot} was asked for")]
    Slot { device: String, share: Share, slot: usize, slots: usize },
}

/// Every share the device can give, ascending.
pub(super) fn possible(machine: &Machine) -> Vec<Share> {
    let all = mechanisms(machine).iter().flat_map(|mechanism| (mechanism.possible)(machine));
    all.collect::<BTreeSet<Share>>().into_iter().collect()
}

/// The names of the mechanisms behind them, each once.
pub(super) fn mechanism_names(machine: &Machine) -> Vec<String> {
    let mut names: Vec<String> =
        possible(machine).into_iter().filter_map(|share| Some(grant(machine, share, 0).ok()?.grant.mechanism)).collect();
    names.dedup();
    names
}

/// What the device lacks to give more.
pub(super) fn lacks(machine: &Machine) -> Option<String> {
    mechanisms(machine).iter().find_map(|mechanism| (mechanism.by_driver.as_ref()?.lacks)(machine))
}

/// The error of a share that is granted but not to be had.
pub(super) fn refused(machine: &Machine, share: Share, why: String) -> GrantError {
    let can = possible(machine).into_iter().filter(|&can| can != share).map(|share| share.to_string()).collect();
    GrantError::Refused { device: machine.device.name.0.clone(), share, can, why }
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
            Err(GrantError::Share { device, share, can, why: lacks(machine) })
        }
        slots => Err(GrantError::Slot { device, share, slot, slots }),
    }
}

/// How many disjoint parts of that size there are.
pub(super) fn slots(machine: &Machine, share: Share) -> usize {
    let units = |slot| mechanisms(machine).iter().find_map(|mechanism| (mechanism.grant)(machine, share, slot));
    (0..machine.cores.len().max(1)).take_while(|&slot| units(slot).is_some()).count()
}
