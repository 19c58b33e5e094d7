//! What is there, what it can do, and how a share of it is granted.
//!
//! [`found`] lists every device of every backend, absent ones with the reason; [`open`] turns a name a user gave (`cpu`, `cpu:avx2`)
//! into a [`Machine`], whose [`Machine::grant`] hands out core sets. Nothing here runs a kernel: what a device *is* becomes its key
//! ([`schema::Device`]), what it runs *under* becomes the environment that makes records stale ([`schema::Environment`]).

pub(crate) mod cgroup;
mod cores;
mod cpu;
mod cuda;
mod energy;
mod fingerprint;
mod gpu;
pub mod share;
mod wgpu;

pub use cores::confined;
pub use energy::energy_uj;
pub use fingerprint::{kernel_set, kernel_set_hash};
pub use gpu::gpu;
pub use share::{Grant, GrantError};

use cube_kernels::Adapter;
use kernels::{Isa, Limits};
use schema::{Device, DeviceKey, DeviceName, Environment};
use thiserror::Error;

/// A kind of device: its name and what it finds on this machine.
pub struct Backend {
    pub name: &'static str,
    pub find: Find,
}

/// How the devices of a kind are found.
pub enum Find {
    /// The processor, which is always here.
    Host(fn() -> Machine),
    /// Devices with memory of their own, or the one line that says why there is none.
    Adapters(fn() -> Result<Vec<Adapter>, String>),
}

impl Backend {
    /// Every device of this kind.
    ///
    /// # Errors
    /// The one line that says why there is none.
    pub fn found(&self) -> Result<Vec<Machine>, String> {
        match self.find {
            Find::Host(whole) => Ok(vec![whole()]),
            Find::Adapters(find) => Ok(self.machines(&find()?)),
        }
    }
}

/// The kind of that name.
fn backend(name: &str) -> Option<&'static Backend> {
    BACKENDS.iter().find(|backend| backend.name == name)
}

/// The kinds of device, in the order they are listed. A new kind is one file and one line here.
pub static BACKENDS: &[Backend] = &[cpu::BACKEND, wgpu::BACKEND, cuda::BACKEND];

/// A device that is here.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The name it is addressed by and the text its key is the hash of.
    pub device: Device,
    pub environment: Environment,
    /// For people: `AMD EPYC 7B13, 8 of 64 cores (cgroup), AVX2+FMA`.
    pub summary: String,
    /// Of the whole device.
    pub limits: Limits,
    /// The operating system's numbers of the cores that may be granted, hyperthreads of one core beside each other.
    pub cores: Vec<usize>,
    /// Multiprocessors, where the driver counts them.
    pub multiprocessors: Option<u32>,
    /// Engines that copy while it computes.
    pub copy_engines: u32,
    /// A driver that computes on the host's processor.
    pub software: bool,
}

/// A device that was looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    Present(Machine),
    /// Not here; `reason` is one line and says what to do.
    Absent {
        name: DeviceName,
        reason: String,
    },
}

/// Why a name stands for no device here.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum DeviceError {
    #[error("{name}: no such device; there are {known}; see `tunewright devices`")]
    Unknown { name: String, known: String },
    #[error("{name} is absent: {reason}")]
    Absent { name: String, reason: String },
}

/// Every device of every backend, absent kinds with their reason.
pub fn found() -> Vec<Found> {
    let list = |backend: &Backend| match backend.found() {
        Ok(machines) => machines.into_iter().map(Found::Present).collect(),
        Err(reason) => vec![Found::Absent { name: DeviceName(backend.name.to_owned()), reason }],
    };
    BACKENDS.iter().flat_map(list).collect()
}

/// The device of that name: `cpu`, or `cpu:scalar` and the like with the instruction set capped.
///
/// # Errors
/// [`DeviceError::Unknown`] for a name no backend knows, [`DeviceError::Absent`] for one that is not here.
pub fn open(name: &str) -> Result<Machine, DeviceError> {
    let (kind, part) = match name.split_once(':') {
        Some((kind, part)) => (kind, Some(part)),
        None => (name, None),
    };
    let known = || BACKENDS.iter().map(|backend| backend.name).collect::<Vec<_>>().join(", ");
    let unknown = || DeviceError::Unknown { name: name.to_owned(), known: known() };
    let absent = |reason: String| DeviceError::Absent { name: name.to_owned(), reason };
    let machines = backend(kind).ok_or_else(unknown)?.found().map_err(absent)?;
    if let Some(machine) = machines.iter().find(|machine| machine.device.name.0 == name) {
        return Ok(machine.clone());
    }
    match (kind, part) {
        ("cpu", Some(part)) => {
            let isa = Isa::parse(part).ok_or_else(|| DeviceError::Unknown {
                name: name.to_owned(),
                known: "cpu, cpu:avx512, cpu:avx2, cpu:neon, cpu:scalar".to_owned(),
            })?;
            let whole = machines.first().ok_or_else(unknown)?;
            whole.capped(isa).ok_or_else(|| absent(format!("this processor's instruction set is {}", whole.limits.isa)))
        }
        _ => Err(unknown()),
    }
}

/// Bytes of memory that this process and its children may use: the machine's, or what their control group allows.
pub fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    cgroup::memory_bytes().map_or(machine, |group| group.min(machine))
}

impl Machine {
    /// What it is, as the key of its records.
    pub fn key(&self) -> DeviceKey {
        self.device.key()
    }

    /// Every share it can give, ascending, in per cents.
    pub fn shares_pct(&self) -> Vec<f64> {
        share::possible(self).into_iter().map(schema::Share::as_percent).collect()
    }

    /// The mechanisms of its shares, by the smallest share each gives.
    pub fn mechanisms(&self) -> Vec<String> {
        share::mechanism_names(self)
    }

    /// What it lacks to give more shares, in one line.
    pub fn lacks(&self) -> Option<String> {
        share::lacks(self)
    }

    /// The error of a share that it granted but whose worker did not get it.
    pub fn refused(&self, share: schema::Share, why: String) -> GrantError {
        share::refused(self, share, why)
    }

    /// The first part of the device that is that large, for this process itself and not for a worker.
    ///
    /// # Errors
    /// As [`grant`](Self::grant); [`GrantError::Refused`] for a part that the driver gives to whoever starts with it.
    pub fn grant_here(&self, share: schema::Share) -> Result<Grant, GrantError> {
        let grant = self.grant(share)?;
        match grant.by_driver() {
            None => Ok(grant),
            Some(_) => Err(self.refused(share, format!("{} gives parts to workers only", grant.grant.mechanism))),
        }
    }

    /// The first part of the device that is that large.
    ///
    /// # Errors
    /// [`GrantError`] says which shares it can give.
    pub fn grant(&self, share: schema::Share) -> Result<Grant, GrantError> {
        share::grant(self, share, 0)
    }

    /// The `slot`-th part that is that large; parts of different slots are disjoint. There are [`Machine::slots`] of them.
    ///
    /// # Errors
    /// [`GrantError`] for a share it cannot give or a slot it does not have.
    pub fn grant_slot(&self, share: schema::Share, slot: usize) -> Result<Grant, GrantError> {
        share::grant(self, share, slot)
    }

    /// How many disjoint parts of that size there are; 0 when it cannot give the share.
    pub fn slots(&self, share: schema::Share) -> usize {
        share::slots(self, share)
    }

    /// The cores of its first so many parts of that size, and those that are left.
    pub fn divided(&self, share: schema::Share, parts: usize) -> (Vec<usize>, Vec<usize>) {
        let granted = (0..parts.min(self.slots(share))).filter_map(|slot| self.grant_slot(share, slot).ok());
        let taken: Vec<usize> = granted.flat_map(|grant| grant.cores).collect();
        let left = self.cores.iter().copied().filter(|core| !taken.contains(core)).collect();
        (taken, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_here_and_the_others_are_or_say_why_not() {
        let found = found();
        assert!(matches!(&found[0], Found::Present(machine) if machine.device.name.0 == "cpu"));
        for kind in ["wgpu", "cuda"] {
            let listed = |f: &Found| match f {
                Found::Present(machine) => machine.device.name.0.starts_with(&format!("{kind}:")) && machine.limits.gpu.is_some(),
                Found::Absent { name, reason } => name.0 == kind && !reason.is_empty(),
            };
            assert!(found.iter().any(listed), "{kind} is listed");
        }
    }

    #[test]
    fn a_software_driver_gives_the_shares_of_its_cores_and_a_graphics_card_all_or_nothing() {
        let whole = open("cpu").unwrap();
        let gpu = kernels::GpuLimits {
            shared_bytes: 32 << 10,
            units_per_cube: 1024,
            cube_dim: [1024; 3],
            cubes_per_axis: 65_535,
            bindings: 31,
            buffer_bytes: 128 << 20,
            turns: None,
            software: false,
            plane_units: None,
            narrow: kernels::NarrowTypes::NONE,
            matrix: kernels::NarrowTypes::NONE,
        };
        let machine = |software: bool| Machine {
            device: Device { name: DeviceName("wgpu:0".into()), text: "kind=wgpu".into() },
            limits: Limits { gpu: Some(gpu), ..whole.limits },
            software,
            ..whole.clone()
        };
        let (software, card) = (machine(true), machine(false));
        assert_eq!(software.shares_pct(), whole.shares_pct());
        assert_eq!(card.shares_pct(), [100.0]);
        let least = schema::Share::percent(whole.shares_pct()[0]).unwrap();
        let grant = software.grant(least).unwrap();
        assert_eq!((grant.grant.mechanism.as_str(), grant.cores.len()), ("worker_threads", 1));
        assert_eq!(software.slots(least), whole.cores.len());
        assert_eq!(card.grant(schema::Share::WHOLE).unwrap().grant.mechanism, "whole");
        assert_eq!(card.slots(schema::Share::WHOLE), 1);
    }

    #[test]
    fn a_capped_cpu_is_a_device_of_its_own() {
        let (whole, scalar) = (open("cpu").unwrap(), open("cpu:scalar").unwrap());
        assert_eq!(scalar.limits.isa, Isa::Scalar);
        assert_eq!(scalar.device.name.0, "cpu:scalar");
        assert_ne!(whole.key(), scalar.key());
        assert_eq!(whole.limits.units, scalar.limits.units);
    }

    #[test]
    fn unknown_and_absent_names_say_so() {
        assert!(matches!(open("tpu"), Err(DeviceError::Unknown { .. })));
        assert!(matches!(open("cpu:quantum"), Err(DeviceError::Unknown { .. })));
        assert!(matches!(open("cuda:3"), Err(DeviceError::Absent { .. })));
        let foreign = if cfg!(target_arch = "x86_64") { "cpu:neon" } else { "cpu:avx2" };
        assert!(matches!(open(foreign), Err(DeviceError::Absent { .. })));
    }
}
