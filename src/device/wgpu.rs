//! GPUs through wgpu: not in this build.

use super::Backend;

/// GPUs and software GPUs reached through wgpu.
pub const BACKEND: Backend =
    Backend { name: "wgpu", find: || Err("not in this build yet; the cpu runs every model (--device cpu)".to_owned()) };
