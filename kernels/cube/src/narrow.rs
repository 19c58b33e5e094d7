//! Products of operands that are rounded to a narrow type on their way to shared memory, with f32 sums: what kernels for `--numerics relaxed`
//! have in common.
//!
//! A cube computes a tile of C; each of its planes, 32 units, a part of it in tiles of 16 × 16. These are multiplied either by the device's
//! matrix instructions or by the units of the plane, which share the elements of a tile. Everything around the multiplication is one code,
//! so that a device without matrix instructions tests it for those that have them.
//!
//! Slabs lie in shared memory as the operands do in theirs, so that vectors stay vectors. 16 bytes behind each of their lines keep units
//! that read along a column out of each other's banks, and every tile at the 32 bytes that matrix instructions ask for.

use crate::turns::looped;
use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;
use half::{bf16, f16};
use kernels::{BuildError, Knob, Limits, Narrow, Request, Rule, Tensor};
use schema::{Config, KnobValue};

/// Of C: rows and columns of a cube.
const TILE: Knob = Knob::pairs(
    "tile",
    &[(16, 64), (32, 32), (32, 64), (64, 32), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128)],
);

/// Of C: rows and columns of a plane.
const PLANE: Knob = Knob::pairs("plane", &[(16, 16), (16, 32), (32, 16), (32, 32), (32, 64), (64, 32), (64, 64)]);

/// Whether matrix instructions multiply, or units.
const MULTIPLY: Knob = Knob::names("multiply", &["matrix", "units"]);

const TYPES: Knob = Knob::names("type", &["f16", "bf16", "tf32"]);
const DEPTH: Knob = Knob::ints("k", &[16, 32, 64]);
const BUFFERS: Knob = Knob::ints("buffers", &[1, 2]);

/// Values that a unit brings at once.
const VECTOR: Knob = Knob::ints("vector", &[1, 4]);

/// The knobs of a [`NarrowTiling`].
pub const KNOBS: &[Knob] = &[TYPES, MULTIPLY, TILE, PLANE, DEPTH, BUFFERS, VECTOR];

/// Those of one whose units bring value by value.
pub const KNOBS_OF_SCALARS: &[Knob] = &[TYPES, MULTIPLY, TILE, PLANE, DEPTH, BUFFERS];

/// Values for [`KNOBS`].
pub fn default_of_vectors(vector: u32, limits: &Limits) -> Vec<KnobValue> {
    let scalars = default_of_scalars(limits);
    scalars.into_iter().chain([KnobValue::Int(i64::from(vector))]).collect()
}

/// Values for [`KNOBS_OF_SCALARS`].
pub fn default_of_scalars(limits: &Limits) -> Vec<KnobValue> {
    let matrix = limits.gpu.is_some_and(|gpu| gpu.matrix.f16 && gpu.plane_units == Some(PLANE_UNITS));
    vec![
        KnobValue::Name("f16".to_owned()),
        KnobValue::Name(if matrix { "matrix" } else { "units" }.to_owned()),
        KnobValue::Pair(64, 64),
        KnobValue::Pair(32, 32),
        KnobValue::Int(32),
        KnobValue::Int(1),
    ]
}

/// The device holds the type, and has the instructions.
pub const TYPE: Rule = Rule {
    reason: "the device lacks the type, or matrix instructions for it",
    holds: |_, config, limits| {
        NarrowTiling::of(config).zip(limits.gpu).is_some_and(|(t, gpu)| match t.matrix {
            true => gpu.matrix.has(t.narrow) && gpu.plane_units == Some(PLANE_UNITS),
            false => gpu.narrow.has(t.narrow),
        })
    },
};

/// The plane's tile divides the cube's.
pub const DIVIDES: Rule =
    Rule { reason: "the plane's tile does not divide the cube's", holds: |_, config, _| NarrowTiling::of(config).is_some() };

/// Vectors of one slab that a unit brings at most: the loop is unrolled, and what it brings stays in registers.
const LOADS_MAX: u32 = 16;

/// Every unit brings as much to shared memory as the others, and not much.
pub const SHARES_OUT: Rule = Rule {
    reason: "the units of a cube do not share the slabs out evenly, or each brings too much",
    holds: |_, config, _| {
        NarrowTiling::of(config).is_some_and(|t| {
            let brings = |lines: u32| lines * t.k / t.vector;
            let evenly = |lines: u32| brings(lines).is_multiple_of(t.units()) && brings(lines) / t.units() <= LOADS_MAX;
            evenly(t.rows) && evenly(t.columns)
        })
    },
};

/// Sums of a unit that multiplies, all of them written out: see [`crate::epilogue::written_max`]; these are finished one by one.
const SUMS_MAX: u32 = 64;

/// What units multiply is not too much code, and what matrix instructions sum up has room in registers.
pub const WRITTEN: Rule = Rule {
    reason: "a unit has more sums than are written out",
    holds: |_, config, _| NarrowTiling::of(config).is_some_and(|t| t.matrix || t.tiles() * OF_UNIT <= SUMS_MAX),
};

/// A cube of the device has that many units and that much shared memory.
pub const FITS: Rule = Rule {
    reason: "more units than a cube of the device has, or more shared memory",
    holds: |_, config, limits| {
        NarrowTiling::of(config)
            .zip(limits.gpu)
            .is_some_and(|(t, gpu)| t.units() <= gpu.units_per_cube.min(gpu.cube_dim[0]) && t.shared_bytes() <= gpu.shared_bytes)
    },
};

/// Rows and columns of the tiles that are multiplied.
pub const SIDE: u32 = 16;

/// Units of a plane: those of NVIDIA's cards. Where units multiply, a plane is only a way of counting them.
pub const PLANE_UNITS: u32 = 32;

/// Elements of a tile for each unit of its plane.
pub const OF_UNIT: u32 = SIDE * SIDE / PLANE_UNITS;

/// Of a tile, rows and columns of a unit that multiplies: eight units stand below each other, four side by side.
const UNIT_ROWS: u32 = 2;
const UNIT_COLUMNS: u32 = 4;

/// The sizes of a tile and how it is multiplied, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct NarrowTiling {
    pub narrow: Narrow,
    /// By matrix instructions, else by units.
    pub matrix: bool,
    /// Of C, for a cube.
    pub rows: u32,
    pub columns: u32,
    /// Of C, for a plane.
    pub plane_rows: u32,
    pub plane_columns: u32,
    /// Depth of a slab.
    pub k: u32,
    /// Slabs of each operand in shared memory.
    pub buffers: u32,
    /// Values that a unit brings at once.
    pub vector: u32,
}

impl NarrowTiling {
    /// The tiling a config names; `None` where the tiles do not divide.
    pub fn of(config: &Config) -> Option<NarrowTiling> {
        let narrow = Narrow::parse(config.name("type")?)?;
        let matrix = config.name("multiply")? == "matrix";
        let ((rows, columns), (plane_rows, plane_columns)) = (config.pair("tile")?, config.pair("plane")?);
        let (k, buffers) = (config.int("k")?, config.int("buffers")?);
        let vector = config.int("vector").unwrap_or(1);
        let whole = rows % plane_rows == 0 && columns % plane_columns == 0;
        let [rows, columns, plane_rows, plane_columns, k, buffers, vector] =
            [rows, columns, plane_rows, plane_columns, k, buffers, vector].map(|value| value as u32);
        whole.then_some(NarrowTiling { narrow, matrix, rows, columns, plane_rows, plane_columns, k, buffers, vector })
    }

    /// Of a cube.
    pub fn units(self) -> u32 {
        self.planes() * PLANE_UNITS
    }

    fn planes(self) -> u32 {
        self.rows / self.plane_rows * self.planes_across()
    }

    fn planes_across(self) -> u32 {
        self.columns / self.plane_columns
    }

    /// Of a plane.
    pub fn tiles(self) -> u32 {
        self.tiles_down() * self.tiles_across()
    }

    fn tiles_down(self) -> u32 {
        self.plane_rows / SIDE
    }

    fn tiles_across(self) -> u32 {
        self.plane_columns / SIDE
    }

    /// Terms that one matrix instruction adds up.
    fn depth(self) -> u32 {
        if self.narrow == Narrow::Tf32 { 8 } else { 16 }
    }

    /// Turns of a unit's loops over `k` terms of each sum, where units multiply.
    pub fn turns(self, k: usize) -> usize {
        let epilogue = self.tiles() as usize * looped(OF_UNIT as usize, 0);
        looped(k.div_ceil(self.k as usize), looped(self.k as usize, 0)).saturating_add(epilogue)
    }

    /// Of one value in shared memory.
    fn bytes(self) -> u32 {
        if self.narrow == Narrow::Tf32 { 4 } else { 2 }
    }

    /// Slabs of rows of A.
    pub fn slab_a(self, deep: bool) -> Slab {
        Slab { lines: self.rows, deep }
    }

    /// Slabs of columns of B.
    pub fn slab_b(self, deep: bool) -> Slab {
        Slab { lines: self.columns, deep }
    }

    /// Slabs however they lie, and a tile of sums for each plane.
    fn shared_bytes(self) -> u32 {
        let most = |lines: u32| [true, false].map(|deep| Slab { lines, deep }.values(self)).into_iter().max().unwrap_or(0);
        (most(self.rows) + most(self.columns)) * self.buffers * self.bytes() + self.planes() * SIDE * SIDE * 4
    }

    /// Vectors of all slabs of one operand.
    pub fn slab_vectors(self, slab: Slab) -> usize {
        (slab.values(self) * self.buffers / self.vector) as usize
    }

    /// The type of values in shared memory.
    pub fn storage(self) -> StorageType {
        let kind = match self.narrow {
            Narrow::F16 => FloatKind::F16,
            Narrow::Bf16 => FloatKind::BF16,
            Narrow::Tf32 => FloatKind::TF32,
        };
        ElemType::Float(kind).into()
    }
}

/// Prepares the constants of a kernel, with the weight rounded where it is `constant` and that halves its bytes; gives the weight's type
/// in memory as well.
pub fn prepare<T>(
    request: &Request<'_>,
    t: NarrowTiling,
    constant: bool,
    prepare: impl FnOnce(&Request<'_>) -> Result<T, BuildError>,
) -> Result<(T, StorageType), BuildError> {
    let weight = request.constants.get(1).copied().flatten().filter(|_| constant);
    let Some(weight) = weight.and_then(|weight| rounded(weight, t.narrow)) else {
        return Ok((prepare(request)?, ElemType::Float(FloatKind::F32).into()));
    };
    let mut constants: Vec<Option<&Tensor>> = request.constants.to_vec();
    constants[1] = Some(&weight);
    Ok((prepare(&Request { constants: &constants, ..*request })?, t.storage()))
}

/// A constant in the narrow type, where that is held in half the bytes.
fn rounded(tensor: &Tensor, narrow: Narrow) -> Option<Tensor> {
    let values = tensor.values::<f32>()?;
    let shape = tensor.shape().to_vec();
    match narrow {
        Narrow::F16 => Some(Tensor::new(shape, values.iter().map(|&x| f16::from_f32(x)).collect())),
        Narrow::Bf16 => Some(Tensor::new(shape, values.iter().map(|&x| bf16::from_f32(x)).collect())),
        Narrow::Tf32 => None,
    }
}

/// How the slabs of an operand lie: so many rows of A or columns of B; where they are `deep`, k is innermost.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slab {
    lines: u32,
    deep: bool,
}

impl Slab {
    fn inner(self, t: NarrowTiling) -> u32 {
        if self.deep { t.k } else { self.lines }
    }

    fn outer(self, t: NarrowTiling) -> u32 {
        if self.deep { self.lines } else { t.k }
    }

    fn stride(self, t: NarrowTiling) -> u32 {
        self.inner(t) + 16 / t.bytes()
    }

    fn values(self, t: NarrowTiling) -> u32 {
        self.outer(t) * self.stride(t)
    }

    /// Vectors that a unit brings.
    pub fn loads(self, t: NarrowTiling) -> u32 {
        self.lines * t.k / t.vector / t.units()
    }
}

/// The places along the outer and the inner axis of a slab where a vector begins that a unit brings.
#[cube]
pub fn vector_spot(load: u32, #[comptime] slab: Slab, #[comptime] t: NarrowTiling) -> (u32, u32) {
    let i = load * comptime!(t.units()) + UNIT_POS;
    let across = comptime!(slab.inner(t) / t.vector);
    (i / across, i % across * t.vector)
}

/// What a unit brings to a slab of a matrix, from line `first` and place `first_k` on; beyond `count` lines and `k` places there are zeros.
/// Vectors divide the matrix' inner axis.
#[cube]
#[allow(clippy::too_many_arguments, reason = "the matrix, the place in it and the slab")]
pub fn bring<V: Numeric, N: Size>(
    matrix: &Array<Vector<V, N>>,
    start: u32,
    first: u32,
    count: u32,
    first_k: u32,
    k: u32,
    #[comptime] slab: Slab,
    #[comptime] t: NarrowTiling,
) -> Array<Vector<V, N>> {
    let mut held = Array::<Vector<V, N>>::new(comptime!(slab.loads(t) as usize));
    #[unroll]
    for load in 0..comptime!(slab.loads(t)) {
        let (outer, inner) = vector_spot(load, slab, t);
        let (line, at_k) = if comptime!(slab.deep) { (first + outer, first_k + inner) } else { (first + inner, first_k + outer) };
        let mut value = Vector::<V, N>::new(V::from_int(0));
        if line < count && at_k < k {
            let at = if comptime!(slab.deep) { line * k + at_k } else { at_k * count + line };
            value = matrix[((start + at) / t.vector) as usize];
        }
        held[comptime!(load as usize)] = value;
    }
    held
}

/// Rounds what a unit brings, and writes it to the slab that stands at `place`.
#[cube]
pub fn lay<V: Numeric, E: Numeric, N: Size>(
    held: &Array<Vector<V, N>>,
    slabs: &mut SharedMemory<Vector<E, N>>,
    place: u32,
    #[comptime] slab: Slab,
    #[comptime] t: NarrowTiling,
) {
    #[unroll]
    for load in 0..comptime!(slab.loads(t)) {
        let (outer, inner) = vector_spot(load, slab, t);
        let at = place * comptime!(slab.values(t)) + outer * comptime!(slab.stride(t)) + inner;
        slabs[(at / t.vector) as usize] = Vector::<E, N>::cast_from(held[comptime!(load as usize)]);
    }
}

/// Where a value lies in the slab that stands at `place`.
#[cube]
fn spot_in_slab(place: u32, line: u32, at_k: u32, #[comptime] slab: Slab, #[comptime] t: NarrowTiling) -> u32 {
    let within =
        if comptime!(slab.deep) { line * comptime!(slab.stride(t)) + at_k } else { at_k * comptime!(slab.stride(t)) + line };
    place * comptime!(slab.values(t)) + within
}

/// The sums of a plane: a fragment for each tile where matrix instructions make them, else a unit's own elements, tile by tile.
#[derive(CubeType)]
pub struct Sums {
    fragments: Sequence<cmma::Matrix<f32>>,
    own: Array<f32>,
}

/// All zero.
#[cube]
pub fn no_sums(#[comptime] t: NarrowTiling) -> Sums {
    let mut fragments = Sequence::<cmma::Matrix<f32>>::new();
    let mut own = Array::<f32>::new(comptime!(if t.matrix { 1 } else { (t.tiles() * OF_UNIT) as usize }));
    if comptime!(t.matrix) {
        #[unroll]
        for _ in 0..comptime!(t.tiles()) {
            fragments.push(cmma::Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                comptime!(SIDE as usize),
                comptime!(SIDE as usize),
                comptime!(t.depth() as usize),
                MatrixLayout::Undefined,
                0.0f32,
            ));
        }
    } else {
        #[unroll]
        for i in 0..comptime!((t.tiles() * OF_UNIT) as usize) {
            own[i] = 0.0f32;
        }
    }
    Sums { fragments, own }
}

/// The first row and column of a plane's part of the cube's tile.
#[cube]
fn plane_spot(#[comptime] t: NarrowTiling) -> (u32, u32) {
    let plane = UNIT_POS / comptime!(PLANE_UNITS);
    (plane / comptime!(t.planes_across()) * t.plane_rows, plane % comptime!(t.planes_across()) * t.plane_columns)
}

/// Adds the product of the slabs at `place` to the sums of each plane.
#[cube]
pub fn add_products<E: Numeric, N: Size>(
    a: &SharedMemory<Vector<E, N>>,
    b: &SharedMemory<Vector<E, N>>,
    place: u32,
    sums: &mut Sums,
    #[comptime] slab_a: Slab,
    #[comptime] slab_b: Slab,
    #[comptime] t: NarrowTiling,
) {
    if comptime!(t.matrix) {
        multiply_by_matrix::<E, N>(a, b, place, &sums.fragments, slab_a, slab_b, t);
    } else {
        multiply_by_units::<E, N>(a, b, place, &mut sums.own, slab_a, slab_b, t);
    }
}

/// By matrix instructions.
#[cube]
fn multiply_by_matrix<E: Numeric, N: Size>(
    a: &SharedMemory<Vector<E, N>>,
    b: &SharedMemory<Vector<E, N>>,
    place: u32,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] slab_a: Slab,
    #[comptime] slab_b: Slab,
    #[comptime] t: NarrowTiling,
) {
    let (first_row, first_column) = plane_spot(t);
    #[unroll]
    for step in 0..comptime!(t.k / t.depth()) {
        let at_k = step * comptime!(t.depth());
        let mut rows = Sequence::<cmma::Matrix<Vector<E, N>>>::new();
        #[unroll]
        for i in 0..comptime!(t.tiles_down()) {
            let at = spot_in_slab(place, first_row + i * comptime!(SIDE), at_k, slab_a, t) / t.vector;
            rows.push(cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::A,
                comptime!(SIDE as usize),
                comptime!(SIDE as usize),
                comptime!(t.depth() as usize),
                comptime!(if slab_a.deep { MatrixLayout::RowMajor } else { MatrixLayout::ColMajor }),
                &a.slice(at as usize, (at + 1) as usize),
                comptime!(slab_a.stride(t)),
            ));
        }
        #[unroll]
        for j in 0..comptime!(t.tiles_across()) {
            let at = spot_in_slab(place, first_column + j * comptime!(SIDE), at_k, slab_b, t) / t.vector;
            let column = cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::B,
                comptime!(SIDE as usize),
                comptime!(SIDE as usize),
                comptime!(t.depth() as usize),
                comptime!(if slab_b.deep { MatrixLayout::ColMajor } else { MatrixLayout::RowMajor }),
                &b.slice(at as usize, (at + 1) as usize),
                comptime!(slab_b.stride(t)),
            );
            #[unroll]
            for i in 0..comptime!(t.tiles_down()) {
                let sum = sums.index(comptime!((i * t.tiles_across() + j) as usize));
                cmma::execute::<Vector<E, N>, Vector<E, N>, f32, f32>(rows.index(comptime!(i as usize)), &column, sum, sum);
            }
        }
    }
}

/// By the units of each plane: each multiplies its rows and columns of every tile.
#[cube]
fn multiply_by_units<E: Numeric, N: Size>(
    a: &SharedMemory<Vector<E, N>>,
    b: &SharedMemory<Vector<E, N>>,
    place: u32,
    sums: &mut Array<f32>,
    #[comptime] slab_a: Slab,
    #[comptime] slab_b: Slab,
    #[comptime] t: NarrowTiling,
) {
    let (first_row, first_column) = plane_spot(t);
    let (unit_row, unit_column) = unit_spot();
    let mut rows = Array::<f32>::new(comptime!((t.tiles_down() * UNIT_ROWS) as usize));
    let mut columns = Array::<f32>::new(comptime!((t.tiles_across() * UNIT_COLUMNS) as usize));
    for at_k in 0..t.k {
        #[unroll]
        for i in 0..comptime!(t.tiles_down() * UNIT_ROWS) {
            let row = first_row + unit_row + comptime!(i / UNIT_ROWS * SIDE + i % UNIT_ROWS);
            rows[comptime!(i as usize)] = value_at::<E, N>(a, spot_in_slab(place, row, at_k, slab_a, t), t);
        }
        #[unroll]
        for j in 0..comptime!(t.tiles_across() * UNIT_COLUMNS) {
            let column = first_column + unit_column + comptime!(j / UNIT_COLUMNS * SIDE + j % UNIT_COLUMNS);
            columns[comptime!(j as usize)] = value_at::<E, N>(b, spot_in_slab(place, column, at_k, slab_b, t), t);
        }
        #[unroll]
        for i in 0..comptime!(t.tiles_down() * UNIT_ROWS) {
            #[unroll]
            for j in 0..comptime!(t.tiles_across() * UNIT_COLUMNS) {
                let tile = comptime!(i / UNIT_ROWS * t.tiles_across() + j / UNIT_COLUMNS);
                let element = comptime!((tile * OF_UNIT + i % UNIT_ROWS * UNIT_COLUMNS + j % UNIT_COLUMNS) as usize);
                sums[element] += rows[comptime!(i as usize)] * columns[comptime!(j as usize)];
            }
        }
    }
}

/// One value of a slab.
#[cube]
fn value_at<E: Numeric, N: Size>(slabs: &SharedMemory<Vector<E, N>>, at: u32, #[comptime] t: NarrowTiling) -> f32 {
    if comptime!(t.vector == 1) {
        f32::cast_from(slabs[at as usize])
    } else {
        let vector = slabs[(at / t.vector) as usize];
        f32::cast_from(vector[(at % t.vector) as usize])
    }
}

/// The first row and column of a unit's elements of a tile, where units multiply.
#[cube]
fn unit_spot() -> (u32, u32) {
    let unit = UNIT_POS % comptime!(PLANE_UNITS);
    let across = comptime!(SIDE / UNIT_COLUMNS);
    (unit / across * comptime!(UNIT_ROWS), unit % across * comptime!(UNIT_COLUMNS))
}

/// Lays a tile of each plane's sums where all units of the plane read it. They have all read the one before.
#[cube]
pub fn show_tile(sums: &Sums, shown: &mut SharedMemory<f32>, #[comptime] tile: u32, #[comptime] t: NarrowTiling) {
    let start = UNIT_POS / comptime!(PLANE_UNITS) * comptime!(SIDE * SIDE);
    wait_for_plane(t);
    if comptime!(t.matrix) {
        cmma::store(
            &mut shown.slice_mut(start as usize, (start + comptime!(SIDE * SIDE)) as usize),
            sums.fragments.index(comptime!(tile as usize)),
            comptime!(SIDE),
            MatrixLayout::RowMajor,
        );
    } else {
        let (unit_row, unit_column) = unit_spot();
        #[unroll]
        for i in 0..comptime!(OF_UNIT) {
            let (row, column) = (unit_row + comptime!(i / UNIT_COLUMNS), unit_column + comptime!(i % UNIT_COLUMNS));
            shown[(start + row * comptime!(SIDE) + column) as usize] = sums.own[comptime!((tile * OF_UNIT + i) as usize)];
        }
    }
    wait_for_plane(t);
}

/// The sum that a unit finishes as its `i`-th of the tile that is shown, and its row and column in the cube's tile: neighbours stand side
/// by side.
#[cube]
pub fn shown_sum(shown: &SharedMemory<f32>, i: u32, #[comptime] tile: u32, #[comptime] t: NarrowTiling) -> (f32, u32, u32) {
    let (first_row, first_column) = plane_spot(t);
    let element = i * comptime!(PLANE_UNITS) + UNIT_POS % comptime!(PLANE_UNITS);
    let sum = shown[(UNIT_POS / comptime!(PLANE_UNITS) * comptime!(SIDE * SIDE) + element) as usize];
    let row = first_row + comptime!(tile / t.tiles_across() * SIDE) + element / comptime!(SIDE);
    let column = first_column + comptime!(tile % t.tiles_across() * SIDE) + element % comptime!(SIDE);
    (sum, row, column)
}

/// Values of all that is shown.
pub fn shown_values(t: NarrowTiling) -> usize {
    (t.planes() * SIDE * SIDE) as usize
}

/// Where planes are only counted, all units of the cube wait for each other.
#[cube]
fn wait_for_plane(#[comptime] t: NarrowTiling) {
    if comptime!(t.matrix) {
        sync_plane();
    } else {
        sync_cube();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_of_a_slab_lies_where_matrix_instructions_take_it() {
        for narrow in Narrow::ALL {
            for (k, vector) in [(16, 1), (32, 4), (64, 4)] {
                let t = NarrowTiling {
                    narrow,
                    matrix: true,
                    rows: 32,
                    columns: 64,
                    plane_rows: 32,
                    plane_columns: 32,
                    k,
                    buffers: 2,
                    vector,
                };
                for slab in [t.slab_a(true), t.slab_a(false), t.slab_b(true), t.slab_b(false)] {
                    let (line, along) = if slab.deep { (SIDE, t.depth()) } else { (t.depth(), SIDE) };
                    for step in [line * slab.stride(t), along, slab.values(t)] {
                        assert_eq!(step * t.bytes() % 32, 0, "{t:?} {slab:?}");
                    }
                    assert_eq!(slab.stride(t) * t.bytes() % 16, 0);
                    assert_eq!(slab.stride(t) % t.vector, 0);
                }
            }
        }
    }
}
