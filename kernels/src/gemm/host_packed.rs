//! The general product: panels of B, packed when built where B is constant and before use where it is not.
//!
//! A in rows or in blocks of sixteen is read in place; only a transposed A is copied. Every shape is legal.

use super::Shape;
use super::pack::{pack_a_transposed, pack_b};
use super::product::{Addresses, Parts, Product, Steps, Tail, offset};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::{Ahead, BLOCKS_MAX, Tiles};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::{Config, KnobValue};

/// See the module.
pub static PACKED: Variant = Variant {
    id: "gemm.host_packed",
    revision: 2,
    knobs: &[
        Knob::pairs("tile", TILES),
        Knob::ints("kc", &[128, 192, 256, 384, 512, 1 << 20]),
        Knob::ints("mc", &[48, 96, 192, 384, 1 << 20]),
        Knob::names("prefetch", &["none", "near", "next"]),
        Knob::names("partition", &["one", "rows", "columns", "batch"]),
    ],
    rules: &[
        Rule { reason: "this instruction set has no such tile", holds: |_, c, l| tile_fits(c, l) },
        Rule {
            reason: "one thread is granted, and another partition would do the same",
            holds: |_, c, l| l.units > 1 || c.name("partition") == Some("one"),
        },
        Rule {
            reason: "there is one product, not a batch",
            holds: |t, c, _| c.name("partition") != Some("batch") || folded(t).is_some_and(|s| s.batch() > 1),
        },
        Rule {
            reason: "a lesser kc already takes all of k at once",
            holds: |t, c, _| at_most_next(c.int("kc"), &[128, 192, 256, 384, 512, 1 << 20], t.int("k")),
        },
        Rule {
            reason: "a lesser mc already takes all rows at once",
            holds: |t, c, _| at_most_next(c.int("mc"), &[48, 96, 192, 384, 1 << 20], folded(t).map_or(0, |s| s.m)),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostPacked::new(request)?)),
};

/// The register tiles of all instruction sets, positions × columns.
pub const TILES: &[(i64, i64)] = &[
    (6, 16),
    (5, 16),
    (4, 16),
    (3, 32),
    (2, 32),
    (2, 48),
    (1, 64),
    (14, 32),
    (12, 32),
    (8, 32),
    (14, 16),
    (9, 48),
    (8, 48),
    (7, 64),
];

/// The rule that a tile exists on the instruction set.
pub fn tile_fits(config: &Config, limits: &Limits) -> bool {
    let Some((positions, columns)) = config.pair("tile") else { return false };
    Tiles::of(limits.isa, false).has(positions as usize, columns as usize)
}

/// Whether `value` is not more than the least of `values` that reaches `need`: greater ones do the same.
pub fn at_most_next(value: Option<i64>, values: &[i64], need: usize) -> bool {
    let least = values.iter().copied().find(|&value| value >= need as i64);
    value.is_some_and(|value| least.is_none_or(|least| value <= least))
}

/// The least of `values` that reaches `need`, but at most `most`.
pub fn at_most(values: &[i64], need: usize, most: i64) -> i64 {
    values.iter().copied().find(|&value| value >= need as i64 || value >= most).unwrap_or(most)
}

/// The tile for that many positions and panels where nothing was measured.
pub fn default_tile(isa: Isa, positions: usize, panels: usize) -> (i64, i64) {
    match (isa, positions) {
        (Isa::Avx512, 1..=4) if panels >= 4 => (7, 64),
        (Isa::Avx512, 5..=9) if panels >= 3 => (9, 48),
        (Isa::Avx512, _) if panels >= 2 => (14, 32),
        (Isa::Avx512, _) => (14, 16),
        (Isa::Avx2, 1) if panels >= 2 => (1, 64),
        (Isa::Avx2, 2) if panels >= 2 => (2, 48),
        (Isa::Avx2, 3) if panels >= 2 => (3, 32),
        (Isa::Avx2, _) => (6, 16),
        _ => (4, 16),
    }
}

/// Below so many floating-point operations a second thread costs more than it brings: about 5 µs of one core.
pub const ALONE_FLOPS: usize = 400_000;

fn folded(task: &Task) -> Option<Shape> {
    Shape::of(task).ok().map(Shape::folded)
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let Some(shape) = folded(task) else { return Vec::new() };
    let panels = shape.n.div_ceil(BLOCK);
    let tile = default_tile(crate::simd::available(limits.isa), shape.m, panels);
    let units = limits.units as usize;
    let flops = 2 * shape.batch() * shape.m * shape.n * shape.k;
    let weights_bytes = 4 * shape.n * shape.k;
    let partition = if units == 1 || flops < ALONE_FLOPS {
        "one"
    } else if shape.batch() >= units {
        "batch"
    } else if panels >= 2 * units && (shape.m < 16 * units || shape.n > shape.m) {
        "columns"
    } else {
        "rows"
    };
    // Weights from beyond L2: while several tiles pass over a panel they can bring the next; a single tile streams all of B.
    let cold = shape.b_constant && weights_bytes as u64 > limits.l2_bytes / 2;
    let prefetch = match (cold, shape.m > tile.0 as usize) {
        (true, true) => "next",
        (true, false) => "near",
        (false, _) => "none",
    };
    let kc = if shape.m <= tile.0 as usize { 1 << 20 } else { 256 };
    vec![
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(at_most(&[128, 192, 256, 384, 512, 1 << 20], shape.k, kc)),
        KnobValue::Int(at_most(&[48, 96, 192, 384, 1 << 20], shape.m, 192)),
        KnobValue::Name(prefetch.to_owned()),
        KnobValue::Name(partition.to_owned()),
    ]
}

/// The value of a config's knob `prefetch`.
pub fn ahead(config: &Config) -> Ahead {
    match config.name("prefetch") {
        Some("near") => Ahead::Near,
        Some("next") => Ahead::Next,
        _ => Ahead::Nothing,
    }
}

/// How the work is split over threads.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Partition {
    One,
    Rows,
    Columns,
    Batch,
}

impl Partition {
    /// The value of a config's knob `partition`.
    pub fn of(config: &Config) -> Self {
        match config.name("partition") {
            Some("rows") => Partition::Rows,
            Some("columns") => Partition::Columns,
            Some("batch") => Partition::Batch,
            _ => Partition::One,
        }
    }
}

/// A product with its tables, and with B where that is constant.
struct HostPacked {
    shape: Shape,
    product: Product,
    /// For each product of the batch, which A and which B.
    pairs: Vec<(usize, usize)>,
    b: Option<Packed>,
    bias: Option<Packed>,
    partition: Partition,
    parts: usize,
}

impl HostPacked {
    fn new(request: &Request<'_>) -> Result<Self, BuildError> {
        let shape = Shape::of(request.task)?.folded();
        let (config, limits) = (request.config, request.limits);
        let tile = config.pair("tile").map_or((1, 16), |(positions, columns)| (positions as usize, columns as usize));
        let a_blocked = shape.trans_a || shape.a == Layout::Columns;
        let a_at = (0..shape.m).map(|row| offset(row * if a_blocked { BLOCK } else { shape.k })).collect();
        let c_blocked = shape.c == Layout::Columns;
        let product = Product::new(Parts {
            tiles: Tiles::fetching(limits.isa, ahead(config)),
            tile,
            positions: shape.m,
            a_at,
            c_at: (0..shape.m).map(|row| offset(row * if c_blocked { BLOCK } else { shape.n })).collect(),
            a_packed: false,
            c_packed: false,
            steps: Steps::even(shape.k, if a_blocked { shape.m * BLOCK } else { BLOCK }),
            slice_k: config.int("kc").unwrap_or(256) as usize,
            columns: shape.n,
            c_block: if c_blocked { shape.m * BLOCK } else { BLOCK },
            tail: if c_blocked { Tail::of_blocks(&shape.epilogue, shape.b_constant) } else { Tail::Absent },
            block_positions: config.int("mc").unwrap_or(192) as usize,
            alpha: shape.alpha,
            epilogue: shape.epilogue,
        });
        let b = shape.b_constant.then(|| prepare_b(request, &shape, &product)).transpose()?;
        let bias = match (shape.b_constant, shape.epilogue.bias) {
            (true, true) => Some(padded(&constant(request, 2, "bias", shape.n)?)),
            _ => None,
        };
        let partition = Partition::of(config);
        let parts = if partition == Partition::One { 1 } else { limits.units as usize };
        Ok(HostPacked { pairs: shape.pairs(), shape, product, b, bias, partition, parts })
    }

    /// f32 of one packed B.
    fn b_len(&self) -> usize {
        self.product.panels() * self.product.panel_len()
    }

    /// f32 of scratch space for a packed A, 0 where A is read in place.
    fn a_len(&self) -> usize {
        if self.shape.trans_a { self.shape.m * self.shape.k.next_multiple_of(BLOCK) } else { 0 }
    }

    /// f32 of scratch space for one thread that works alone on a product.
    fn region_len(&self) -> usize {
        self.a_len() + if self.b.is_some() { 0 } else { self.b_len() }
    }

    /// One product by one thread, or all threads together.
    fn multiply(&self, run: &Run<'_>, index: usize, scratch: &mut [f32], parts: usize) {
        let (shape, product) = (&self.shape, &self.product);
        let (a_index, b_index) = self.pairs[index];
        let (a_packed, b_packed) = scratch.split_at_mut(self.a_len());
        let a = &run.a[a_index * a_elements(shape)..][..a_elements(shape)];
        let mut addresses = Addresses { a: a.as_ptr(), ..run.addresses };
        if shape.trans_a {
            pack_a_transposed(a, shape.m, a_packed);
            addresses.a = a_packed.as_ptr();
        }
        let raw = self.b.is_none().then(|| &run.b[b_index * shape.k * shape.n..][..shape.k * shape.n]);
        let pack_to = Shared(b_packed.as_mut_ptr());
        let panel_len = product.panel_len();
        addresses.b = match &self.b {
            Some(b) => b[b_index * self.b_len()..].as_ptr(),
            None => pack_to.get(),
        };
        let c_elements = run.c_elements;
        // SAFETY: index < batch, so the products' places are inside C and the residual, which lies as C.
        unsafe {
            addresses.c = addresses.c.add(index * c_elements);
            if !addresses.residual.is_null() {
                addresses.residual = addresses.residual.add(index * c_elements);
            }
        }
        let pack = |panels: std::ops::Range<usize>| {
            if let Some(raw) = raw {
                let len = panels.len() * panel_len;
                // SAFETY: the parts take disjoint ranges of panels, and scratch holds them all.
                let to = unsafe { std::slice::from_raw_parts_mut(pack_to.get().add(panels.start * panel_len), len) };
                pack_b(raw, shape.k, shape.n, shape.trans_b, panels.start, to);
            }
        };
        let (positions, panels) = (product.positions(), product.panels());
        match self.partition {
            Partition::Columns => for_each_part(parts, &|part| {
                let own = share(panels, product.tile_blocks(), parts, part);
                pack(own.clone());
                // SAFETY: operands have the sizes of the signature; parts write disjoint panels, and packed theirs before.
                unsafe { product.run(&addresses, 0..positions, own) };
            }),
            _ => {
                if raw.is_some() {
                    for_each_part(parts, &|part| pack(share(panels, 1, parts, part)));
                }
                for_each_part(parts, &|part| {
                    let own = share(positions, product.tile_positions(), parts, part);
                    // SAFETY: operands have the sizes of the signature; parts write disjoint positions, and all is packed.
                    unsafe { product.run(&addresses, own, 0..panels) };
                });
            }
        }
    }
}

/// The operands of a run.
struct Run<'a> {
    a: &'a [f32],
    b: &'a [f32],
    addresses: Addresses,
    c_elements: usize,
}

/// f32 of one A.
fn a_elements(shape: &Shape) -> usize {
    if shape.a == Layout::Columns { shape.m * shape.k.next_multiple_of(BLOCK) } else { shape.m * shape.k }
}

/// f32 of one C.
fn c_elements(shape: &Shape) -> usize {
    if shape.c == Layout::Columns { shape.m * shape.n.next_multiple_of(BLOCK) } else { shape.m * shape.n }
}

/// The values of a constant operand.
pub fn constant<'a>(
    request: &Request<'a>,
    index: usize,
    name: &str,
    elements: usize,
) -> Result<std::borrow::Cow<'a, [f32]>, BuildError> {
    let tensor = request.constants.get(index).copied().flatten();
    let values = tensor.and_then(|tensor| tensor.values::<f32>()).filter(|values| values.len() == elements);
    values.ok_or_else(|| super::refuse(request.task, format!("constant '{name}' of {elements} f32 is missing")))
}

/// Values followed by zeros, so that a tile may read past them.
pub fn padded(values: &[f32]) -> Packed {
    let mut packed = Packed::zeroed(values.len() + BLOCK * BLOCKS_MAX);
    packed[..values.len()].copy_from_slice(values);
    packed
}

fn prepare_b(request: &Request<'_>, shape: &Shape, product: &Product) -> Result<Packed, BuildError> {
    let count: usize = shape.batch_b.iter().product();
    let b = constant(request, 1, "b", count * shape.k * shape.n)?;
    let len = product.panels() * product.panel_len();
    let mut packed = Packed::zeroed(count * len);
    for (b, packed) in b.chunks_exact(shape.k * shape.n).zip(packed.chunks_exact_mut(len)) {
        pack_b(b, shape.k, shape.n, shape.trans_b, 0, packed);
    }
    Ok(packed)
}

impl Kernel for HostPacked {
    fn scratch_bytes(&self) -> usize {
        let regions = if self.partition == Partition::Batch { self.parts } else { 1 };
        4 * regions * self.region_len()
    }

    fn prepared_bytes(&self) -> usize {
        [&self.b, &self.bias].into_iter().flatten().map(Packed::bytes).sum()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        let shape = &self.shape;
        let a = operands.input::<f32>(0).expect("A is not optional");
        let b = if self.b.is_some() { &[][..] } else { operands.input::<f32>(1).expect("B is not optional") };
        let bias = match &self.bias {
            Some(bias) => Some(&bias[..]),
            None if shape.epilogue.bias => operands.input::<f32>(2),
            None => None,
        };
        let residual = if shape.epilogue.residual { operands.input::<f32>(3) } else { None };
        let c_elements = c_elements(shape);
        let (c, scratch) = operands.output_and_scratch::<f32, f32>(0);
        let batch = self.pairs.len();
        assert_eq!(c.len(), batch * c_elements, "C is as the signature says");
        assert!(residual.is_none_or(|residual| residual.len() == c.len()), "the residual lies as C");
        assert!(bias.is_none_or(|bias| bias.len() >= shape.n) && scratch.len() * 4 >= self.scratch_bytes(), "operands suffice");
        let addresses = Addresses {
            a: a.as_ptr(),
            b: b.as_ptr(),
            c: c.as_mut_ptr(),
            bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        let run = Run { a, b, addresses, c_elements };
        let region = self.region_len();
        if self.partition == Partition::Batch {
            let scratch = Shared(scratch.as_mut_ptr());
            for_each_part(self.parts, &|part| {
                // SAFETY: each part has a region of its own; scratch holds all regions.
                let own = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * region), region) };
                for index in share(batch, 1, self.parts, part) {
                    self.multiply(&run, index, own, 1);
                }
            });
        } else {
            for index in 0..batch {
                self.multiply(&run, index, &mut scratch[..region], self.parts);
            }
        }
    }
}
