//! What a device refuses is an error in one line, and the device works afterwards. Every thread is told of such errors, so this happens in a
//! process of its own: this binary again.

use super::device;
use cube_kernels::interop::Opened;
use cube_kernels::{Gpu, GpuError};
use cubecl::prelude::*;
use cubecl::wgpu::WgpuRuntime;
use std::process::Command;

/// Without bounds that a shading language accepts: an array of nothing.
#[cube(launch_unchecked)]
fn array_of_nothing(output: &mut Array<f32>) {
    let mut held = SharedMemory::<f32>::new(0usize);
    held[UNIT_POS as usize] = 1.0;
    output[ABSOLUTE_POS] = held[UNIT_POS as usize];
}

#[cube(launch_unchecked)]
fn ones(output: &mut Array<f32>) {
    if ABSOLUTE_POS < output.len() {
        output[ABSOLUTE_POS] = 1.0;
    }
}

/// Launches a kernel of so many cubes on a buffer of four elements, by number: 0 the broken one, 1 the right one.
#[allow(unsafe_code)]
fn launch(gpu: &Gpu, kernel: usize, cubes: u32) -> Result<Vec<u8>, GpuError> {
    let buffer = gpu.upload(&[0; 16])?;
    let Some(Opened::Wgpu(client, _)) = gpu.opened() else { panic!("the device is wgpu's") };
    let (count, dim) = (CubeCount::Static(cubes, 1, 1), CubeDim::new_1d(4));
    // SAFETY: the buffer has four elements, and the kernels write no others.
    unsafe {
        let output = ArrayArg::from_raw_parts(buffer.memory().clone(), 4);
        match kernel {
            0 => array_of_nothing::launch_unchecked::<WgpuRuntime>(client, count, dim, output),
            _ => ones::launch_unchecked::<WgpuRuntime>(client, count, dim, output),
        }
    }
    gpu.sync()?;
    gpu.download(&buffer)
}

#[test]
fn what_a_device_refuses_leaves_it_working() {
    if device().is_none() {
        return;
    }
    let test = "faults::a_source_that_does_not_compile_and_a_launch_that_is_too_great_are_refused";
    let run =
        Command::new(std::env::current_exe().expect("it runs")).args(["--exact", test, "--ignored", "--nocapture"]).output();
    let run = run.expect("it runs again");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "its errors are told to every thread of its process; the test above runs it in one of its own"]
fn a_source_that_does_not_compile_and_a_launch_that_is_too_great_are_refused() {
    let Some((gpu, limits)) = device() else { return };
    let most = limits.gpu.expect("it has limits").cubes_per_axis;
    for (kernel, cubes) in [(0, 1), (1, most + 1), (0, 1)] {
        match launch(gpu, kernel, cubes) {
            Err(GpuError::Launch(why)) => assert!(!why.is_empty() && !why.contains('\n'), "{why}"),
            other => panic!("kernel {kernel} of {cubes} cubes: {other:?}"),
        }
        let ones: Vec<u8> = [1f32; 4].iter().flat_map(|one| one.to_le_bytes()).collect();
        assert_eq!(launch(gpu, 1, 1), Ok(ones), "the device works afterwards");
    }
}
