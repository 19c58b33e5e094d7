//! Devices with memory of their own, as the kernels' package finds and opens them.

use super::{Backend, Find, Machine, cores, fingerprint};
use cube_kernels::{Adapter, AdapterKind, Gpu, GpuError};
use kernels::Limits;
use schema::{Device, DeviceName, Environment};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

impl Backend {
    /// The machines behind adapters, numbered in their order: `wgpu:0`, `wgpu:1`.
    pub(super) fn machines(&self, adapters: &[Adapter]) -> Vec<Machine> {
        adapters.iter().enumerate().map(|(number, adapter)| machine(self.name, number, adapter)).collect()
    }
}

fn machine(backend: &str, number: usize, adapter: &Adapter) -> Machine {
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
    let software = adapter.kind == AdapterKind::Software;
    let host_text = match software {
        true => format!("\nhost:{}", fingerprint::device_text(&processor, &host, false).replace('\n', "\nhost:")),
        false => String::new(),
    };
    Machine {
        device: Device {
            name: DeviceName(format!("{backend}:{number}")),
            text: format!("kind={backend}\nname={}\n{}\nclass={kind}{host_text}", adapter.name, adapter.identity),
        },
        environment: Environment {
            text: format!(
                "{}\ncubes={}\n{}",
                adapter.driver,
                fingerprint::cube_set_hash(),
                fingerprint::environment_text(&processor)
            ),
        },
        summary: format!("{}, {kind}, {}", adapter.name, adapter.version),
        limits: Limits { gpu: Some(adapter.limits), ..host },
        cores,
        multiprocessors: adapter.multiprocessors,
        copy_engines: adapter.copy_engines,
        software,
    }
}

/// The device of that name with its memory, opened once for the process; `None` for the processor itself. The driver's threads run on
/// these cores only.
///
/// # Errors
/// [`GpuError::Lost`] when it is gone, its driver refuses, or this process holds it on other cores already.
pub fn gpu(DeviceName(name): &DeviceName, cores: &[usize]) -> Result<Option<Gpu>, GpuError> {
    static OPEN: Mutex<BTreeMap<String, (Gpu, Vec<usize>)>> = Mutex::new(BTreeMap::new());
    let (backend, number) = name.split_once(':').unwrap_or((name, ""));
    let Some(Find::Adapters(find)) = super::backend(backend).map(|backend| &backend.find) else { return Ok(None) };
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((gpu, held)) = open.get(name) {
        let other = || GpuError::Lost(format!("this process holds {name} on cores {held:?}; one process has one share of it"));
        return if held == cores { Ok(Some(gpu.clone())) } else { Err(other()) };
    }
    let adapters = find().map_err(GpuError::Lost)?;
    let adapter = number.parse().ok().and_then(|number: usize| adapters.get(number));
    let adapter = adapter.ok_or_else(|| GpuError::Lost(format!("{name} is no longer there")))?;
    let gpu = cores::confined(cores, || Gpu::open(adapter)).map_err(|error| GpuError::Lost(error.to_string()))??;
    open.insert(name.clone(), (gpu.clone(), cores.to_vec()));
    Ok(Some(gpu))
}
