//! A product that cubek has checked, and its launches.

use crate::blueprint::{Blueprint, Routine, Sizes, layout};
use cubecl::client::ComputeClient;
use cubecl::cuda::CudaRuntime;
use cubecl::prelude::{AddressType, Runtime, TensorBinding};
use cubecl::server::Handle as Memory;
use cubecl::wgpu::WgpuRuntime;
use cubecl::zspace::{Shape, Strides};
use cubek_matmul::definition::{MatmulElems, MatmulProblem, TilingBlueprint};
use cubek_matmul::launch::{ConcreteInputsFactory, ConcreteOutputFactory, InputArg, OutputArg, TensorArgs, launch_kernel};
use cubek_matmul::routines::double_buffering::CyclicDoubleBufferingAlgorithm;
use cubek_matmul::routines::double_unit::DoubleUnitAlgorithm;
use cubek_matmul::routines::simple::SimpleAlgorithm;
use cubek_matmul::routines::simple_unit::SimpleUnitAlgorithm;
use cubek_matmul::routines::{DeviceSettings, ExpandInfo, LaunchInfo, Routine as Algorithm};
use cubek_std::InputBinding;

/// A product ready to be launched on devices like the one it was checked for.
#[derive(Debug)]
pub struct Product {
    routine: Routine,
    problem: MatmulProblem,
    launch: LaunchInfo<TilingBlueprint>,
}

impl Product {
    /// [`new`](Self::new) for wgpu.
    ///
    /// # Errors
    /// As there.
    pub fn on_wgpu(client: &ComputeClient<WgpuRuntime>, sizes: &Sizes, blueprint: &Blueprint) -> Result<Product, String> {
        Product::new(client, sizes, blueprint)
    }

    /// [`new`](Self::new) for CUDA.
    ///
    /// # Errors
    /// As there.
    pub fn on_cuda(client: &ComputeClient<CudaRuntime>, sizes: &Sizes, blueprint: &Blueprint) -> Result<Product, String> {
        Product::new(client, sizes, blueprint)
    }

    /// Checks a blueprint by cubek.
    ///
    /// # Errors
    /// What it says to it. It does not look at shared memory, at units or at cubes: a launch that needs too many fails at the next question.
    pub fn new<R: Runtime>(client: &ComputeClient<R>, sizes: &Sizes, blueprint: &Blueprint) -> Result<Product, String> {
        let prepare = match blueprint.routine {
            Routine::SimpleUnit => prepare::<R, SimpleUnitAlgorithm>,
            Routine::DoubleUnit => prepare::<R, DoubleUnitAlgorithm>,
            Routine::SimpleCmma => prepare::<R, SimpleAlgorithm>,
            Routine::DoubleCmma => prepare::<R, CyclicDoubleBufferingAlgorithm>,
        };
        let problem = problem(sizes, &blueprint.elements());
        let launch = prepare(client, sizes, blueprint, &problem)?;
        Ok(Product { routine: blueprint.routine, problem, launch })
    }

    /// [`launch`](Self::launch) on wgpu. Panics for a product on tensor cores: cubek has checked that there are none.
    pub fn launch_on_wgpu(&self, client: &ComputeClient<WgpuRuntime>, operands: [&Memory; 3]) {
        self.launch_units(client, operands);
    }

    /// [`launch`](Self::launch) on CUDA.
    pub fn launch_on_cuda(&self, client: &ComputeClient<CudaRuntime>, operands: [&Memory; 3]) {
        self.launch(client, operands);
    }

    /// Computes C from A and B, the operands in the order A, B, C. Returns before the device has done it. Panics where one of them is
    /// smaller than [`Sizes`] say: a bug of the caller. Instantiates the routines in the caller's package.
    pub fn launch<R: Runtime>(&self, client: &ComputeClient<R>, operands: [&Memory; 3]) {
        match self.routine {
            Routine::SimpleUnit | Routine::DoubleUnit => self.launch_units(client, operands),
            Routine::SimpleCmma => self.launch_by::<R, SimpleAlgorithm>(client, operands),
            Routine::DoubleCmma => self.launch_by::<R, CyclicDoubleBufferingAlgorithm>(client, operands),
        }
    }

    fn launch_units<R: Runtime>(&self, client: &ComputeClient<R>, operands: [&Memory; 3]) {
        match self.routine {
            Routine::SimpleUnit => self.launch_by::<R, SimpleUnitAlgorithm>(client, operands),
            Routine::DoubleUnit => self.launch_by::<R, DoubleUnitAlgorithm>(client, operands),
            Routine::SimpleCmma | Routine::DoubleCmma => {
                unreachable!("a product for tensor cores is launched where there are some")
            }
        }
    }

    fn launch_by<R: Runtime, A>(&self, client: &ComputeClient<R>, [a, b, c]: [&Memory; 3])
    where
        A: Algorithm<(), Blueprint = TilingBlueprint>,
        InputArg<TensorArgs>: ConcreteInputsFactory<A>,
        OutputArg<TensorArgs>: ConcreteOutputFactory<A>,
    {
        let (problem, launch) = (&self.problem, &self.launch);
        let (blueprint, vectors, elements) = (&launch.blueprint, &launch.vector_sizes, &launch.dtypes);
        let a = InputBinding::new(binding(a, &problem.lhs_shape, &problem.lhs_strides), elements.lhs_global);
        let b = InputBinding::new(binding(b, &problem.rhs_shape, &problem.rhs_strides), elements.rhs_global);
        let c = binding(c, &problem.out_shape, &problem.out_strides);
        let input = <InputArg<TensorArgs> as ConcreteInputsFactory<A>>::create(a, b, blueprint, problem, vectors, elements);
        let output = <OutputArg<TensorArgs> as ConcreteOutputFactory<A>>::create(c, blueprint, problem, vectors, elements);
        let launch = LaunchInfo {
            blueprint: launch.blueprint.clone(),
            dtypes: launch.dtypes.clone(),
            vector_sizes: launch.vector_sizes,
            cube_dim: launch.cube_dim,
            cube_count_plan: launch.cube_count_plan,
            address_type: launch.address_type,
        };
        launch_kernel::<TensorArgs, R, A>(client, input, output, (), launch).expect("what cubek has checked it launches");
    }
}

/// The operands as cubek wants them told.
fn problem(sizes: &Sizes, elements: &MatmulElems) -> MatmulProblem {
    let &Sizes { m, n, k, trans_a, trans_b, ref batch_a, ref batch_b } = sizes;
    let batch = sizes.batch();
    let shape = |batch: &[usize], rows, columns| Shape::from([batch, &[rows, columns]].concat());
    MatmulProblem {
        m,
        n,
        k,
        lhs_batches: Shape::from(batch_a),
        rhs_batches: Shape::from(batch_b),
        out_batches: Shape::from(&batch),
        lhs_shape: shape(batch_a, m, k),
        rhs_shape: shape(batch_b, k, n),
        out_shape: shape(&batch, m, n),
        lhs_strides: strides(batch_a, m, k, trans_a),
        rhs_strides: strides(batch_b, k, n, trans_b),
        out_strides: strides(&batch, m, n, false),
        lhs_layout: layout(trans_a),
        rhs_layout: layout(trans_b),
        out_layout: layout(false),
        lhs_scheme: None,
        rhs_scheme: None,
        global_dtypes: elements.as_global_elems(),
        address_type: AddressType::U32,
    }
}

/// Of whole matrices one after the other, in rows or, transposed, in columns.
fn strides(batch: &[usize], rows: usize, columns: usize, transposed: bool) -> Strides {
    let matrix = if transposed { [1, rows] } else { [columns, 1] };
    let mut size = rows * columns;
    let mut outer = Vec::new();
    for axis in batch.iter().rev() {
        outer.push(size);
        size *= axis;
    }
    outer.reverse();
    Strides::from([&outer[..], &matrix].concat())
}

fn prepare<R: Runtime, A: Algorithm<(), Blueprint = TilingBlueprint>>(
    client: &ComputeClient<R>,
    sizes: &Sizes,
    blueprint: &Blueprint,
    problem: &MatmulProblem,
) -> Result<LaunchInfo<TilingBlueprint>, String> {
    let settings = DeviceSettings {
        client: client.clone(),
        plane_dim: blueprint.plane(),
        vector_sizes: blueprint.vector_sizes(sizes),
        max_cube_count: client.properties().hardware.max_cube_count,
    };
    let expanded = ExpandInfo { blueprint: blueprint.tiling(sizes)?, dtypes: blueprint.elements() };
    A::prepare(problem, &settings, expanded).map_err(|refusal| format!("{refusal:?}"))
}

#[allow(unsafe_code)]
fn binding<R: Runtime>(memory: &Memory, shape: &Shape, strides: &Strides) -> TensorBinding<R> {
    let bytes = shape.iter().product::<usize>() * size_of::<f32>();
    assert!(bytes as u64 <= memory.size_in_used(), "an operand of {bytes} bytes lies in its memory");
    // SAFETY: the strides are those of whole matrices one after the other, so that no element lies beyond as many as there are.
    unsafe { TensorBinding::from_raw_parts(memory.clone(), strides.clone(), shape.clone()) }
}
