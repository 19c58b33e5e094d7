//! NVIDIA GPUs, by the driver's own library.
//!
//! CubeCL's runtime panics where the driver, the run-time compiler or the toolkit's headers are missing, at different moments. Each is
//! looked for here first, in the places where it will look.

use super::{Adapter, AdapterKind, Handle};
use cubecl::cuda::{CudaDevice, install};
use cudarc::driver::result::{self, device};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute};
use kernels::{GpuLimits, NarrowTypes};
use std::panic::catch_unwind;
use std::path::Path;

/// The driver this build's bindings are of, as CUDA counts: the least it works with.
const DRIVER_MIN: i32 = 12080;

/// Every CUDA device, in the driver's order. The error is one line: what is missing, or that the driver fell over.
///
/// # Errors
/// One line that says why there is none and what to do.
pub fn cuda_adapters() -> Result<Vec<Adapter>, String> {
    catch_unwind(enumerate).unwrap_or_else(|_| Err("the NVIDIA driver panicked when it was asked for its devices".to_owned()))
}

#[allow(unsafe_code)]
fn enumerate() -> Result<Vec<Adapter>, String> {
    // SAFETY: it opens the library by its usual names and closes it again; what its initialisers do is the driver's own business.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver found (libcuda.so.1)".to_owned());
    }
    result::init().map_err(|error| format!("the NVIDIA driver does not start: {error}"))?;
    let driver = driver_version()?;
    if driver < DRIVER_MIN {
        return Err(format!(
            "the NVIDIA driver is for CUDA {}; this build wants {} or newer",
            dotted(driver),
            dotted(DRIVER_MIN)
        ));
    }
    let count = device::get_count().map_err(|error| format!("the NVIDIA driver does not count its devices: {error}"))?;
    if count == 0 {
        return Err("the NVIDIA driver finds no device (is CUDA_VISIBLE_DEVICES empty?)".to_owned());
    }
    // SAFETY: as above.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(
            "CUDA's run-time compiler is missing (libnvrtc.so); install it, or name its folder in LD_LIBRARY_PATH".to_owned()
        );
    }
    headers(install::cuda_path().as_deref())?;
    (0..count).map(|number| adapter(number, driver)).collect()
}

/// Generated kernels include the toolkit's headers.
fn headers(toolkit: Option<&Path>) -> Result<(), String> {
    let header = |path: &Path| path.join("include/cuda_runtime.h").is_file();
    match toolkit {
        Some(path) if header(path) => Ok(()),
        Some(path) => Err(format!("{} has no include/cuda_runtime.h; set CUDA_PATH to a CUDA toolkit", path.display())),
        None => Err("no CUDA toolkit found; set CUDA_PATH to one: kernels are compiled with its headers".to_owned()),
    }
}

#[allow(unsafe_code)]
fn driver_version() -> Result<i32, String> {
    let mut version = 0;
    // SAFETY: it writes one integer to where it is told.
    let done = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    done.result().map(|()| version).map_err(|error| format!("the NVIDIA driver does not tell its version: {error}"))
}

/// `12.8` of 12080.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn adapter(number: i32, driver: i32) -> Result<Adapter, String> {
    let told = |error| format!("cuda:{number} does not say what it is: {error}");
    let card = device::get(number).map_err(told)?;
    let ask = |attribute| attribute_of(card, attribute).map_err(told);
    let (major, minor) = (
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let multiprocessors = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let integrated = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
    let memory = memory_of(card).map_err(told)?;
    let cubes = [
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
        ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
    ];
    let limits = GpuLimits {
        shared_bytes: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        units_per_cube: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        cube_dim: [
            ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)?,
            ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)?,
            ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)?,
        ],
        cubes_per_axis: cubes.into_iter().min().unwrap_or(1),
        bindings: BINDINGS,
        // CubeCL's pages are a quarter of the memory.
        buffer_bytes: memory / 4,
        turns: None,
        software: false,
        plane_units: Some(ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?),
        narrow: narrow((major, minor)),
        matrix: matrix((major, minor)),
    };
    Ok(Adapter {
        name: device::get_name(card).map_err(told)?,
        kind: if integrated { AdapterKind::Integrated } else { AdapterKind::Discrete },
        identity: format!(
            "compute_capability={major}.{minor}\nmultiprocessors={multiprocessors}\nmemory={}GiB",
            memory.div_ceil(1 << 30)
        ),
        driver: format!("driver=CUDA {}", dotted(driver)),
        version: format!("CUDA {}", dotted(driver)),
        limits,
        multiprocessors: Some(multiprocessors),
        copy_engines: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)?,
        handle: Handle::Cuda(CudaDevice::new(number as usize)),
    })
}

/// How many multiprocessors this process has of a device: a client of NVIDIA's Multi-Process Service has as many as its percentage is.
/// `None` when the driver does not say.
pub(crate) fn multiprocessors(number: usize) -> Option<u32> {
    let card = device::get(i32::try_from(number).ok()?).ok()?;
    attribute_of(card, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).ok()
}

/// Types in memory, by compute capability: CUDA C++ Programming Guide, table "Feature Support per Compute Capability".
fn narrow(capability: (u32, u32)) -> NarrowTypes {
    NarrowTypes { f16: capability >= (5, 3), bf16: capability >= (8, 0), tf32: false }
}

/// Types of warp matrix instructions, by compute capability: CUDA C++ Programming Guide, "Element Types and Matrix Sizes".
fn matrix(capability: (u32, u32)) -> NarrowTypes {
    NarrowTypes { f16: capability >= (7, 0), bf16: capability >= (8, 0), tf32: capability >= (8, 0) }
}

/// Buffers of one launch: a kernel's parameters take 4,096 bytes on every card, of which each buffer's pointer takes eight; CubeCL's own
/// numbers want room as well.
const BINDINGS: u32 = 256;

#[allow(unsafe_code)]
fn attribute_of(card: CUdevice, attribute: CUdevice_attribute) -> Result<u32, result::DriverError> {
    // SAFETY: the driver gave this device.
    unsafe { device::get_attribute(card, attribute) }.map(|value| u32::try_from(value).unwrap_or(0))
}

#[allow(unsafe_code)]
fn memory_of(card: CUdevice) -> Result<u64, result::DriverError> {
    // SAFETY: the driver gave this device.
    unsafe { device::total_mem(card) }.map(|bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_toolkit_it_says_what_to_set() {
        assert!(headers(None).unwrap_err().contains("CUDA_PATH"));
        let empty = std::env::temp_dir();
        assert!(headers(Some(&empty)).unwrap_err().contains("has no include/cuda_runtime.h"));
    }

    #[test]
    fn asking_never_panics_and_the_answer_is_a_device_or_one_line() {
        match cuda_adapters() {
            Ok(all) => assert!(all.iter().all(|adapter| adapter.limits.units_per_cube > 0)),
            Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why}"),
        }
    }

    #[test]
    fn matrix_instructions_came_with_volta_and_their_wider_types_with_ampere() {
        assert_eq!((narrow((6, 1)).names(), matrix((6, 1)).names()), (vec!["f16"], vec![]));
        assert_eq!((narrow((7, 5)).names(), matrix((7, 5)).names()), (vec!["f16"], vec!["f16"]));
        assert_eq!((narrow((9, 0)).names(), matrix((9, 0)).names()), (vec!["f16", "bf16"], vec!["f16", "bf16", "tf32"]));
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!((dotted(12080), dotted(13000)), ("12.8".to_owned(), "13.0".to_owned()));
    }
}
