//! GPUs, and drivers that compute on the processor, by wgpu.

use super::{Adapter, AdapterKind, Handle};
use crate::faults::Faults;
use crate::gpu::{GpuError, one_line};
use cubecl::wgpu::{AutoGraphicsApi, GraphicsApi, RuntimeOptions, WgpuDevice, init_setup};
use kernels::{GpuLimits, NarrowTypes};
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};

/// Every adapter with a compute queue that wgpu finds through the graphics interface of this system (Vulkan, Metal), in its order. The
/// error is one line: there is no driver, or it fell over.
///
/// # Errors
/// One line that says why there is none and what to do.
pub fn wgpu_adapters() -> Result<Vec<Adapter>, String> {
    let found =
        catch_unwind(enumerate).map_err(|_| "the graphics driver panicked when it was asked for its devices".to_owned())?;
    if found.is_empty() {
        return Err("no Vulkan driver found (on Debian: apt-get install mesa-vulkan-drivers, or your GPU's driver)".to_owned());
    }
    Ok(found)
}

fn enumerate() -> Vec<Adapter> {
    let backends = wgpu::Backends::from(AutoGraphicsApi::backend());
    let descriptor = wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let all = cubecl::future::block_on(instance.enumerate_adapters(backends));
    let mut counts = [0usize; 3];
    let mut software = false;
    all.iter()
        .filter_map(|adapter| {
            let info = adapter.get_info();
            let mut next = |kind: usize| {
                counts[kind] += 1;
                counts[kind] - 1
            };
            let (kind, handle) = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => (AdapterKind::Discrete, WgpuDevice::DiscreteGpu(next(0))),
                wgpu::DeviceType::IntegratedGpu => (AdapterKind::Integrated, WgpuDevice::IntegratedGpu(next(1))),
                wgpu::DeviceType::VirtualGpu => (AdapterKind::Virtual, WgpuDevice::VirtualGpu(next(2))),
                // CubeCL addresses one of them.
                wgpu::DeviceType::Cpu if !std::mem::replace(&mut software, true) => (AdapterKind::Software, WgpuDevice::Cpu),
                wgpu::DeviceType::Cpu | wgpu::DeviceType::Other => return None,
            };
            Some(Adapter {
                name: info.name,
                kind,
                identity: format!("id={:04x}:{:04x}", info.vendor, info.device),
                driver: format!("driver={}, {}", info.driver, info.driver_info),
                version: info.driver_info,
                limits: limits(adapter, kind),
                multiprocessors: None,
                copy_engines: 0,
                handle: Handle::Wgpu(handle),
            })
        })
        .collect()
}

/// A device that CubeCL computes on, with the ear at it.
#[derive(Clone)]
pub(crate) struct Opened {
    pub device: wgpu::Device,
    pub faults: Arc<Faults>,
}

/// Opens a device, or gives what was opened: CubeCL has one of each for the process. Panics when the driver refuses.
pub(crate) fn open(device: &WgpuDevice) -> Opened {
    static OPEN: Mutex<Vec<(WgpuDevice, Opened)>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, opened)) = open.iter().find(|(one, _)| one == device) {
        return opened.clone();
    }
    let setup = init_setup::<AutoGraphicsApi>(device, RuntimeOptions::default());
    let opened = Opened { device: setup.device, faults: Arc::default() };
    let faults = opened.faults.clone();
    opened.device.set_device_lost_callback(move |reason, why| {
        faults.lose(if why.is_empty() { format!("{reason:?}") } else { one_line(&why) });
    });
    let faults = opened.faults.clone();
    opened.device.on_uncaptured_error(Arc::new(move |error| match error {
        wgpu::Error::OutOfMemory { source } => {
            let said = one_line(&source.to_string());
            faults.report(GpuError::OutOfMemory(said.clone()));
            // CubeCL would keep the buffer that is none, and hand it out again.
            panic!("out of memory: {said}");
        }
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            faults.report(GpuError::Launch(one_line(&description)));
        }
    }));
    open.push((device.clone(), opened.clone()));
    opened
}

impl Opened {
    /// Destroys the device, and returns when the driver has said so.
    pub fn destroy(&self) {
        self.device.destroy();
        while self.faults.lost().is_none() {
            // It says so once its queue is empty. A poll that fails says it as well.
            let _ = self.device.poll(wgpu::PollType::Poll);
            std::thread::yield_now();
        }
    }
}

/// Mesa's software driver counts the turns of all loops of a unit together and ends every loop, silently, after 65,535
/// (`LP_MAX_TGSI_LOOP_ITERATIONS`). Other software drivers are held to the same.
const SOFTWARE_TURNS: u32 = 60_000;

/// As CubeCL reports them once the device is open.
fn limits(adapter: &wgpu::Adapter, kind: AdapterKind) -> GpuLimits {
    let limits = adapter.limits();
    GpuLimits {
        shared_bytes: limits.max_compute_workgroup_storage_size,
        units_per_cube: limits.max_compute_invocations_per_workgroup,
        cube_dim: [limits.max_compute_workgroup_size_x, limits.max_compute_workgroup_size_y, limits.max_compute_workgroup_size_z],
        cubes_per_axis: limits.max_compute_workgroups_per_dimension,
        // One is CubeCL's own.
        bindings: limits.max_storage_buffers_per_shader_stage.saturating_sub(1),
        buffer_bytes: limits.max_storage_buffer_binding_size,
        turns: (kind == AdapterKind::Software).then_some(SOFTWARE_TURNS),
        software: kind == AdapterKind::Software,
        // WGSL has no matrix instructions.
        plane_units: None,
        narrow: NarrowTypes { f16: adapter.features().contains(wgpu::Features::SHADER_F16), ..NarrowTypes::NONE },
        matrix: NarrowTypes::NONE,
    }
}
