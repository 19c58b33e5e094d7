//! Kernels as CUDA source, without a GPU: a device that compiles what is launched on it as cubecl-cuda would for a Hopper card, keeps the
//! source, and runs nothing. For `tests/campaigns/sm90.py`, which hands the sources to NVIDIA's compilers.

use crate::gpu::{Client, Gpu};
use cubecl::bytes::Bytes;
use cubecl::cuda::{CUDA_MAX_BINDINGS, CudaCompiler, CudaRuntime};
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::DynFut;
use cubecl::ir::{DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties, features::Plane};
use cubecl::prelude::{ComputeClient, ExecutionMode, Runtime};
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, KernelArguments, ProfileError, ProfilingToken, ServerCommunication, ServerError,
    ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{CompilationError, CubeCount, CubeTask, MemoryAllocationMode, MemoryUsage};
use cubecl_cpp::DialectWmmaCompiler;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::shared::{CompilationOptions, CppSupportedFeatures};
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::ManagedMemoryHandle;
use cubecl_runtime::storage::{BytesStorage, ComputeStorage, ManagedResource};
use kernels::{GpuLimits, NarrowTypes};
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel as CUDA would compile it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The function that is launched.
    pub entry: String,
    pub text: String,
    pub units: u32,
    pub shared_bytes: usize,
}

/// What was launched and not yet taken.
static LAUNCHED: Mutex<Vec<Result<Source, String>>> = Mutex::new(Vec::new());

/// Every source that was launched since the last call, in order, or why there is none.
pub fn take_sources() -> Vec<Result<Source, String>> {
    std::mem::take(&mut *LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Limits of an H100 or H200: CUDA C Programming Guide, compute capability 9.0.
pub const SM_90: GpuLimits = GpuLimits {
    shared_bytes: 227 << 10,
    units_per_cube: 1024,
    cube_dim: [1024, 1024, 64],
    cubes_per_axis: 65_535,
    bindings: 256,
    buffer_bytes: 20 << 30,
    turns: None,
    software: false,
    plane_units: Some(32),
    narrow: NarrowTypes { f16: true, bf16: true, tf32: false },
    matrix: NarrowTypes { f16: true, bf16: true, tf32: true },
};

impl Gpu {
    /// The device that keeps sources.
    pub fn keeping_sources() -> Gpu {
        Gpu::of_sources(Client::Sources(SourceRuntime::client(&SourceDevice)), SM_90)
    }
}

/// CUDA's compiler in front of no device.
#[derive(Clone, Debug)]
pub(crate) struct SourceRuntime;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SourceDevice;

impl Device for SourceDevice {
    fn from_id(_: DeviceId) -> Self {
        SourceDevice
    }

    fn to_id(&self) -> DeviceId {
        DeviceId { type_id: 0, index_id: 0 }
    }
}

impl Runtime for SourceRuntime {
    type Compiler = CudaCompiler;
    type Server = SourceServer;
    type Device = SourceDevice;

    fn client(device: &SourceDevice) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "sources"
    }

    fn require_array_lengths() -> bool {
        CudaRuntime::require_array_lengths()
    }

    fn max_cube_count() -> (u32, u32, u32) {
        CudaRuntime::max_cube_count()
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        CudaRuntime::can_read_tensor(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        CudaRuntime::target_properties()
    }

    fn enumerate_devices(_: u16, (): &()) -> Vec<DeviceId> {
        vec![SourceDevice.to_id()]
    }
}

#[derive(Debug)]
pub(crate) struct SourceServer {
    utilities: Arc<ServerUtilities<Self>>,
}

impl DeviceService for SourceServer {
    fn init(_: DeviceId) -> Self {
        let hardware = HardwareProperties {
            load_width: 128,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: CUDA_MAX_BINDINGS,
            max_shared_memory_size: SM_90.shared_bytes as usize,
            max_cube_count: CudaRuntime::max_cube_count(),
            max_units_per_cube: SM_90.units_per_cube,
            max_cube_dim: (SM_90.cube_dim[0], SM_90.cube_dim[1], SM_90.cube_dim[2]),
            num_streaming_multiprocessors: Some(132),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            max_vector_size: usize::MAX,
        };
        let memory = MemoryDeviceProperties { max_page_size: SM_90.buffer_bytes, alignment: 512 };
        let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System);
        cubecl_cpp::register_supported_types(&mut properties);
        properties.features.plane.insert(Plane::Ops);
        let matrix = CudaWmmaCompiler::supported_wmma_combinations(&CudaArchitecture { version: 90 });
        cubecl_cpp::shared::register_wmma_features(matrix, &mut properties);
        let policy = ContiguousMemoryLayoutPolicy::new(512);
        let utilities = ServerUtilities::new(properties, Arc::new(ServerLogger::default()), (), policy);
        SourceServer { utilities: Arc::new(utilities) }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for SourceServer {
    const SERVER_COMM_ENABLED: bool = false;
}

/// The source of a kernel, with the options that cubecl-cuda takes for compute capability 9.0.
fn source(kernel: &dyn CubeTask<CudaCompiler>, mode: ExecutionMode) -> Result<Source, CompilationError> {
    let supports_features =
        CppSupportedFeatures { grid_constants: true, clusters: true, fast_math: true, fast_tanh: true, elect_sync: true };
    let options = CompilationOptions { warp_size: 32, supports_features };
    let compiled = kernel.compile(&mut CudaCompiler::default(), &options, mode, kernel.address_type())?;
    let shared_bytes = compiled.repr.map_or(0, |kernel| kernel.shared_memory_size());
    Ok(Source { entry: compiled.entrypoint_name, text: compiled.source, units: compiled.cube_dim.num_elems(), shared_bytes })
}

#[allow(unsafe_code)]
impl ComputeServer for SourceServer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Info = ();
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = BytesStorage;

    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) {}

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn read(&mut self, _: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn get_resource(
        &mut self,
        _: Binding,
        _: StreamId,
    ) -> Result<ManagedResource<<BytesStorage as ComputeStorage>::Resource>, ServerError> {
        unreachable!("nobody asks for bytes of a device that holds none")
    }

    // SAFETY: nothing runs, so nothing is read or written.
    unsafe fn launch(&mut self, kernel: Self::Kernel, _: CubeCount, _: KernelArguments, mode: ExecutionMode, _: StreamId) {
        let source = source(&*kernel, mode).map_err(|error| error.to_string());
        LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Ok(MemoryUsage { number_allocs: 0, bytes_in_use: 0, bytes_padding: 0, bytes_reserved: 0 })
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        unreachable!("nobody times a device that runs nothing")
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        unreachable!("nobody times a device that runs nothing")
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}
