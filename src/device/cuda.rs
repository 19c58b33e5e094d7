//! NVIDIA GPUs: not in this build.

use super::Backend;

/// NVIDIA GPUs reached through CUDA.
pub const BACKEND: Backend =
    Backend { name: "cuda", find: || Err("not in this build yet; the cpu runs every model (--device cpu)".to_owned()) };
