//! GPUs, and drivers that compute on the processor, reached through wgpu.

use super::{Backend, Grant, Machine, cores, fingerprint};
use cube_kernels::{Adapter, AdapterKind, Gpu, GpuError, adapters};
use kernels::Limits;
use schema::{Device, DeviceName, Environment};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What wgpu finds, numbered in its order: `wgpu:0`, `wgpu:1`.
pub const BACKEND: Backend = Backend {
    name: "wgpu",
    find: || Ok(adapters()?.iter().enumerate().map(|(number, adapter)| machine(number, adapter)).collect()),
};

fn machine(number: usize, adapter: &Adapter) -> Machine {
    let processor = fingerprint::processor();
    let (cores, _) = cores::cores();
    let units = u32::try_from(cores.len()).unwrap_or(u32::MAX);
    let host = Limits::of_core(cores.first().copied().unwrap_or(0), units);
    let kind = match adapter.kind {
        AdapterKind::Discrete => "discrete",
        AdapterKind::Integrated => "integrated",
        AdapterKind::Virtual => "virtual",
        AdapterKind::Software => "software",
    };
    // A driver that computes on the processor is as fast as that.
    let host_text = match adapter.kind {
        AdapterKind::Software => {
            format!("\nhost:{}", fingerprint::device_text(&processor, &host, false).replace('\n', "\nhost:"))
        }
        _ => String::new(),
    };
    Machine {
        device: Device {
            name: DeviceName(format!("wgpu:{number}")),
            text: format!(
                "kind=wgpu\nname={}\nid={:04x}:{:04x}\nclass={kind}{host_text}",
                adapter.name, adapter.vendor, adapter.device
            ),
        },
        environment: Environment {
            text: format!(
                "driver={}\ncubes={}\n{}",
                adapter.driver,
                fingerprint::cube_set_hash(),
                fingerprint::environment_text(&processor)
            ),
        },
        // The driver's name leads what it says of itself.
        summary: format!("{}, {kind}, {}", adapter.name, adapter.driver.split_once(", ").map_or("", |(_, version)| version)),
        limits: Limits { gpu: Some(adapter.limits), ..host },
        cores,
    }
}

impl Machine {
    /// Whether it is a driver that computes on the host's processor.
    pub fn is_software(&self) -> bool {
        self.limits.gpu.is_some() && self.device.text.lines().any(|line| line == "class=software")
    }
}

/// The device of a grant with its memory, opened once for the process; `None` for the processor itself. The driver's threads run on
/// the grant's cores only.
///
/// # Errors
/// [`GpuError::Lost`] when it is gone, its driver refuses, or this process holds it on other cores already.
pub fn gpu(grant: &Grant) -> Result<Option<Gpu>, GpuError> {
    static OPEN: Mutex<BTreeMap<String, (Gpu, Vec<usize>)>> = Mutex::new(BTreeMap::new());
    let name = &grant.device.0;
    let Some(number) = name.strip_prefix("wgpu:").and_then(|number| number.parse::<usize>().ok()) else { return Ok(None) };
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((gpu, cores)) = open.get(name) {
        let other = || GpuError::Lost(format!("this process holds {name} on cores {cores:?}; one process has one share of it"));
        return if *cores == grant.cores { Ok(Some(gpu.clone())) } else { Err(other()) };
    }
    let all = adapters().map_err(GpuError::Lost)?;
    let adapter = all.get(number).ok_or_else(|| GpuError::Lost(format!("{name} is no longer there")))?;
    let gpu = cores::confined(&grant.cores, || Gpu::open(adapter)).map_err(|error| GpuError::Lost(error.to_string()))??;
    open.insert(name.clone(), (gpu.clone(), grant.cores.clone()));
    Ok(Some(gpu))
}
