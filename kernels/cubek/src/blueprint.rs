//! What may be chosen for a product, and what follows from it.

use cubecl::prelude::{CubePrimitive, StorageType};
use cubecl::tf32;
use cubek_matmul::components::global::LoadFlows;
use cubek_matmul::components::global::read::ReaderMode;
use cubek_matmul::components::stage::PartitionBuffering;
use cubek_matmul::components::tile::TileMatmulKind;
use cubek_matmul::definition::{LoadingPrecomputeStrategy, MatmulElems, MatmulVectorSizes, TilingBlueprint, TilingScheme};
use cubek_std::cube_count::{CubeCountStrategy, GlobalOrder, HypercubeBlueprint};
use cubek_std::stage::SwizzleMode;
use cubek_std::{MatrixLayout, SwizzleModes};

/// A product or a batch of them: C is `[batch…, m, n]`, A `[batch_a…, m, k]`, B `[batch_b…, k, n]`, f32 in rows or, transposed, in
/// columns. Both batches have as many axes; those of 1 are broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub trans_a: bool,
    pub trans_b: bool,
    pub batch_a: Vec<usize>,
    pub batch_b: Vec<usize>,
}

/// A way through the product.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Routine {
    /// Units multiply tiles in registers; one stage of each operand in shared memory.
    SimpleUnit,
    /// The same with two stages: one is loaded while the other is computed with.
    DoubleUnit,
    /// Planes multiply tiles in tensor cores; one stage.
    SimpleCmma,
    /// The same with two stages.
    DoubleCmma,
}

/// The element type of A and B in shared memory and registers; sums are f32.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    F32,
    Tf32,
    F16,
    Bf16,
}

/// The order in which cubes take the stages of C.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their place: rows along x, columns along y, the batch along z.
    Grid,
    /// By their number, down the columns.
    Columns,
    /// By their number, to and fro in strips of so many rows of stages.
    Strips(u32),
}

/// Whether pieces of 16 bytes of a stage change places within 128 bytes, so that units which read a column meet different banks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    B128,
}

/// What cubek lets one choose. A *partition* is so many tiles, and computed by a unit or a plane; a *stage* is so many partitions, and
/// computed by a cube.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Blueprint {
    pub routine: Routine,
    pub stage_type: Stage,
    /// Elements along m, n, k.
    pub tile: [u32; 3],
    /// Tiles along m, n, k.
    pub partition: [u32; 3],
    /// Partitions along m, n.
    pub stage: [u32; 2],
    /// A partition loads a tile of B while it multiplies with another.
    pub two_tiles: bool,
    pub order: Order,
    pub swizzle: Swizzle,
}

/// Units of a plane, on whatever computes with tensor cores; of routines of units the most.
pub const PLANE: u32 = 32;

/// Bytes that cubek aligns stages to.
const STAGE_ALIGN: u32 = 128;

/// Bytes that it aligns the tile to which a result is written on its way out.
const OUT_ALIGN: u32 = 16;

/// Floats of the widest load.
const VECTOR_MAX: u32 = 4;

impl Sizes {
    /// The axes of C before the last two.
    pub(crate) fn batch(&self) -> Vec<usize> {
        self.batch_a.iter().zip(&self.batch_b).map(|(&a, &b)| a.max(b)).collect()
    }

    /// How many products they are.
    pub fn products(&self) -> usize {
        self.batch().iter().product()
    }
}

impl Routine {
    /// Whether it computes with tensor cores.
    pub fn is_cmma(self) -> bool {
        matches!(self, Routine::SimpleCmma | Routine::DoubleCmma)
    }

    /// Stages of each operand in shared memory.
    pub fn stages(self) -> u32 {
        match self {
            Routine::SimpleUnit | Routine::SimpleCmma => 1,
            Routine::DoubleUnit | Routine::DoubleCmma => 2,
        }
    }
}

impl Stage {
    /// Of an element.
    pub fn bytes(self) -> u32 {
        match self {
            Stage::F32 | Stage::Tf32 => 4,
            Stage::F16 | Stage::Bf16 => 2,
        }
    }

    fn storage(self) -> StorageType {
        match self {
            Stage::F32 => f32::as_type_native_unchecked().storage_type(),
            Stage::Tf32 => tf32::as_type_native_unchecked().storage_type(),
            Stage::F16 => half::f16::as_type_native_unchecked().storage_type(),
            Stage::Bf16 => half::bf16::as_type_native_unchecked().storage_type(),
        }
    }
}

impl Swizzle {
    fn mode(self) -> SwizzleMode {
        match self {
            Swizzle::None => SwizzleMode::None,
            Swizzle::B128 => SwizzleMode::B128,
        }
    }

    /// Bytes after which its pattern comes again: 8 spans.
    fn align(self) -> u32 {
        if self == Swizzle::None { 1 } else { 8 * self.mode().span_size() as u32 }
    }
}

/// The widest load of neighbours along an axis of so many elements of which a tile has so many.
fn vector(axis: usize, tile: u32) -> u32 {
    let divides = |width: &u32| axis.is_multiple_of(*width as usize) && tile.is_multiple_of(*width);
    [VECTOR_MAX, 2].into_iter().find(divides).unwrap_or(1)
}

impl Blueprint {
    /// Elements of a stage along m, n, k.
    pub fn stage_elements(&self) -> [u32; 3] {
        let [m, n] = self.stage;
        [[m, 0], [n, 1], [1, 2]].map(|[count, axis]| count * self.partition[axis as usize] * self.tile[axis as usize])
    }

    /// Units of a cube.
    pub fn units(&self) -> u32 {
        let partitions = self.stage[0] * self.stage[1];
        if self.routine.is_cmma() { partitions * PLANE } else { partitions }
    }

    /// Units along x: a plane of the device where that counts. The rest of a cube's stand along y.
    pub fn plane(&self) -> u32 {
        if self.routine.is_cmma() { PLANE } else { self.units().min(PLANE) }
    }

    /// Stages of C along m and n.
    pub fn cubes(&self, sizes: &Sizes) -> [usize; 2] {
        let [m, n, _] = self.stage_elements();
        [sizes.m.div_ceil(m as usize), sizes.n.div_ceil(n as usize)]
    }

    /// Floats of a load of A, of a load of B and of a write of C.
    fn vectors(&self, sizes: &Sizes) -> [u32; 3] {
        let [m, n, k] = self.tile;
        let a = if sizes.trans_a { vector(sizes.m, m) } else { vector(sizes.k, k) };
        let b = if sizes.trans_b { vector(sizes.k, k) } else { vector(sizes.n, n) };
        [a, b, vector(sizes.n, n)]
    }

    /// Loads of A and of B by each unit for one stage, all of them written out.
    pub fn loads(&self, sizes: &Sizes) -> u32 {
        let [m, n, k] = self.stage_elements();
        let [a, b, _] = self.vectors(sizes);
        (m * k / a).div_ceil(self.units()) + (k * n / b).div_ceil(self.units())
    }

    /// Memory that the units of a cube share. Where a runtime lets the results lie where stages lay before, it takes less.
    pub fn shared_bytes(&self, sizes: &Sizes) -> u32 {
        let [m, n, k] = self.stage_elements();
        let [a, b, c] = self.vectors(sizes);
        let stage = |elements, vector| {
            let align = STAGE_ALIGN.max(self.swizzle.align());
            self.routine.stages() * allocated(elements, vector, self.stage_type.bytes(), align)
        };
        let out = self.tile[0] * self.tile[1] * self.stage[0] * self.stage[1];
        stage(m * k, a) + stage(k * n, b) + allocated(out, c, 4, OUT_ALIGN)
    }

    /// Turns of a unit's loops over sums of `k` terms, those of loops within loops multiplied, one more each to find its end. Loops over
    /// tiles and over loads of a stage are written out; those within a tile are not.
    pub fn turns(&self, k: usize) -> usize {
        let looped = |rounds: usize, within: usize| rounds * (within + 1) + 1;
        let [.., stage_k] = self.stage_elements();
        let stages = k.div_ceil(stage_k as usize).next_multiple_of(self.routine.stages() as usize);
        if self.routine.is_cmma() {
            return looped(stages, 0);
        }
        let [[m, n, k], [rows, columns, depth]] = [self.tile, self.partition].map(|sizes| sizes.map(|size| size as usize));
        // Whichever axis comes first.
        let load = |a, b| looped(a, looped(b, 0)).max(looped(b, looped(a, 0)));
        let product = looped(k, looped(m, looped(n, 0))).max(looped(m, looped(n, looped(k, 0))));
        let stage = depth * (rows * load(m, k) + columns * load(k, n) + rows * columns * product);
        // Sums are zeroed, brought to shared memory and from there to C.
        looped(stages, stage) + 3 * rows * columns * looped(m * n, 0)
    }

    /// What cubek would not do, and why: its own checks, without a device. What a device cannot do is asked of the numbers above.
    pub fn refusal(&self) -> Option<&'static str> {
        if !self.units().is_multiple_of(self.plane()) {
            return Some("units that are no whole planes");
        }
        if self.two_tiles && self.partition[1] < 2 {
            return Some("two tiles of B at once of a partition that has one");
        }
        if self.routine.is_cmma() {
            if self.swizzle != Swizzle::None {
                return Some("tensor cores read no stage that is swizzled");
            }
            let narrow: &[[u32; 3]] = &[[16, 16, 16], [32, 8, 16], [8, 32, 16]];
            let tiles = match self.stage_type {
                Stage::F32 => &[][..],
                Stage::Tf32 => &[[16, 16, 8]],
                Stage::F16 | Stage::Bf16 => narrow,
            };
            if !tiles.contains(&self.tile) {
                return Some("a tile that tensor cores do not have for the type");
            }
        }
        None
    }

    /// As cubek has it.
    pub(crate) fn tiling(&self, sizes: &Sizes) -> Result<TilingBlueprint, &'static str> {
        let [stage_m, stage_n] = self.stage;
        let sized = |[m, n, k]: [u32; 3]| (m, n, k);
        let tiling_scheme = TilingScheme::builder()
            .with_tile_size(sized(self.tile).into())
            .with_partition_size(sized(self.partition).into())
            .with_stage_size((stage_m, stage_n, 1).into())
            .build()?;
        let (global_order, cube_count_strategy) = match self.order {
            Order::Grid => (GlobalOrder::RowMajor, CubeCountStrategy::FromProblem),
            Order::Columns => (GlobalOrder::ColMajor, CubeCountStrategy::Flattened),
            Order::Strips(rows) => (GlobalOrder::SwizzleRow(rows), CubeCountStrategy::Flattened),
        };
        let [m, n, k] = self.stage_elements().map(|elements| elements as usize);
        let swizzle = self.swizzle.mode();
        Ok(TilingBlueprint {
            plane_dim: self.plane(),
            tile_matmul: if self.routine.is_cmma() { TileMatmulKind::Cmma } else { TileMatmulKind::Register },
            tiling_scheme,
            swizzle_modes: SwizzleModes { lhs: swizzle, rhs: swizzle, ..Default::default() },
            partition_buffering: if self.two_tiles { PartitionBuffering::Double } else { PartitionBuffering::Single },
            loading_precompute_strategy: LoadingPrecomputeStrategy::Never,
            reader_mode: ReaderMode::Relaxed,
            load_flows: LoadFlows::default(),
            hypercube_blueprint: HypercubeBlueprint { global_order, cube_count_strategy },
            lhs_layout: layout(sizes.trans_a),
            rhs_layout: layout(sizes.trans_b),
            check_m_bounds: !sizes.m.is_multiple_of(m),
            check_n_bounds: !sizes.n.is_multiple_of(n),
            // With two stages an even number of them is loaded.
            check_k_bounds: !sizes.k.is_multiple_of(k * self.routine.stages() as usize),
        })
    }

    pub(crate) fn elements(&self) -> MatmulElems {
        let stage = self.stage_type.storage();
        let wide = MatmulElems::from_single_dtype(f32::as_type_native_unchecked());
        MatmulElems { lhs_stage: stage, rhs_stage: stage, lhs_register: stage, rhs_register: stage, ..wide }
    }

    pub(crate) fn vector_sizes(&self, sizes: &Sizes) -> MatmulVectorSizes {
        let [lhs, rhs, out] = self.vectors(sizes).map(|width| width as usize);
        MatmulVectorSizes { lhs, rhs, out }
    }
}

/// Of a matrix that is given transposed or not.
pub(crate) fn layout(transposed: bool) -> MatrixLayout {
    if transposed { MatrixLayout::ColMajor } else { MatrixLayout::RowMajor }
}

/// What cubek allocates for a stage, in bytes: it counts each element as a vector until it has rounded.
fn allocated(elements: u32, vector: u32, bytes: u32, align: u32) -> u32 {
    (elements * vector * bytes).next_multiple_of(align.max(vector * bytes)) / vector
}
