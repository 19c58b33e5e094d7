//! The general product: panels of B, packed when built where B is constant, and where it is not a few at a time, just before use.
//!
//! A in rows or in blocks of sixteen is read in place; only a transposed A is copied. Every shape is legal.

use super::Shape;
use super::pack::{pack_a_transposed, pack_b};
use super::product::{Addresses, Parts, Product, Steps, Tail, blocks, offset};
use crate::knob::{Knob, Rule};
use crate::layout::BLOCK;
use crate::partition::{Shared, for_each_part, share};
use crate::simd::tile::{Ahead, BLOCKS_MAX, Tiles};
use crate::{BuildError, Isa, Kernel, Layout, Limits, Operands, Packed, Request, Task, Variant};
use schema::{Config, KnobValue};
use std::ops::Range;

/// See the module.
pub static PACKED: Variant = Variant {
    id: "gemm.host_packed",
    revision: 3,
    knobs: &[
        Knob::pairs("tile", TILES),
        Knob::ints("kc", KC),
        Knob::ints("mc", MC),
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
        Rule { reason: "a lesser kc already takes all of k at once", holds: |t, c, _| at_most_next(c.int("kc"), KC, t.int("k")) },
        Rule {
            reason: "a lesser mc already takes all rows at once",
            holds: |t, c, _| at_most_next(c.int("mc"), MC, folded(t).map_or(0, |s| s.m)),
        },
    ],
    default,
    build: |request| Ok(Box::new(HostPacked::new(request)?)),
};

/// The most k in a slice.
const KC: &[i64] = &[128, 192, 256, 384, 512, 1 << 20];
/// The rows of A that pass before the next panel.
const MC: &[i64] = &[48, 96, 192, 384, 1 << 20];

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
    } else if panels >= 2 * units && (shape.m < 16 * units || shape.n > shape.m || !shape.b_constant) {
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
    // C in rows is written once where all of k passes at once: lines of it 4 KiB apart push each other out of L1.
    let kc = match shape.c {
        _ if shape.m <= tile.0 as usize => 1 << 20,
        Layout::Rows if shape.k <= 1024 => 1 << 20,
        Layout::Rows => 512,
        _ => 256,
    };
    let kc = at_most(KC, shape.k, kc);
    // Panels that are packed at run time serve all rows; else a block of A leaves a quarter of L2.
    let fits = |mc: i64| 4 * mc as u64 * shape.k.min(kc as usize) as u64 <= limits.l2_bytes / 4 * 3;
    let mc = if shape.b_constant { [192, 96].into_iter().find(|&mc| fits(mc)).unwrap_or(48) } else { 1 << 20 };
    vec![
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(kc),
        KnobValue::Int(at_most(MC, shape.m, mc)),
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

    /// f32 of scratch space of one thread for the panels of B that it packs at run time.
    fn group_len(&self) -> usize {
        if self.b.is_some() { 0 } else { self.product.tile_blocks() * self.product.panel_len() }
    }

    /// f32 of scratch space for `parts` threads that work on one product.
    fn region_len(&self, parts: usize) -> usize {
        self.a_len() + parts * self.group_len()
    }

    /// One product by one thread, or by `parts` threads together.
    fn multiply(&self, run: &Run<'_>, index: usize, scratch: &mut [f32], parts: usize) {
        let (shape, product) = (&self.shape, &self.product);
        let (a_index, b_index) = self.pairs[index];
        let (a_packed, groups) = scratch.split_at_mut(self.a_len());
        let a = &run.a[a_index * a_elements(shape)..][..a_elements(shape)];
        let mut addresses = Addresses { a: a.as_ptr(), ..run.addresses };
        if shape.trans_a {
            pack_a_transposed(a, shape.m, a_packed);
            addresses.a = a_packed.as_ptr();
        }
        let raw = match &self.b {
            Some(b) => {
                addresses.b = b[b_index * self.b_len()..].as_ptr();
                None
            }
            None => Some(&run.b[b_index * shape.k * shape.n..][..shape.k * shape.n]),
        };
        let c_elements = run.c_elements;
        // SAFETY: index < batch, so the products' places are inside C and the residual, which lies as C.
        unsafe {
            addresses.c = addresses.c.add(index * c_elements);
            if !addresses.residual.is_null() {
                addresses.residual = addresses.residual.add(index * c_elements);
            }
        }
        let (groups, group_len) = (Shared(groups.as_mut_ptr()), self.group_len());
        for_each_part(parts, &|part| {
            let (positions, panels) = match self.partition {
                Partition::Columns => (0..product.positions(), share(product.panels(), product.tile_blocks(), parts, part)),
                _ => (share(product.positions(), product.tile_positions(), parts, part), 0..product.panels()),
            };
            // SAFETY: operands have the sizes of the signature; parts write disjoint positions or panels, and each has a place of
            // its own for packed panels.
            unsafe {
                match raw {
                    None => product.run(&addresses, positions, panels),
                    Some(b) => {
                        let packed = std::slice::from_raw_parts_mut(groups.get().add(part * group_len), group_len);
                        self.multiply_packing(&addresses, b, positions, panels, packed);
                    }
                }
            }
        });
    }

    /// A part of one product whose B is not packed: as many panels as a tile takes are packed into `packed` and pass all rows of a
    /// block before the next, so that what was packed is read from the nearest cache and never goes to memory.
    ///
    /// # Safety
    /// As for [`Product::run`], but that `b` holds `[k, n]`, or `[n, k]` transposed.
    unsafe fn multiply_packing(
        &self,
        addresses: &Addresses,
        b: &[f32],
        positions: Range<usize>,
        panels: Range<usize>,
        packed: &mut [f32],
    ) {
        let (shape, product) = (&self.shape, &self.product);
        for block in blocks(&positions, product.block_positions(), product.tile_positions()) {
            for group in blocks(&panels, product.tile_blocks(), 1) {
                let packed = &mut packed[..group.len() * product.panel_len()];
                pack_b(b, shape.k, shape.n, shape.trans_b, group.start, packed);
                // The product counts panels from the first of all.
                let first = packed.as_ptr().wrapping_sub(group.start * product.panel_len());
                // SAFETY: by this function's contract; of B only the group is read, which is packed.
                unsafe { product.run(&Addresses { b: first, ..*addresses }, block.clone(), group) };
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
        4 * regions * self.region_len(self.parts / regions)
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
        if self.partition == Partition::Batch {
            let (scratch, region) = (Shared(scratch.as_mut_ptr()), self.region_len(1));
            for_each_part(self.parts, &|part| {
                // SAFETY: each part has a region of its own; scratch holds all regions.
                let own = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(part * region), region) };
                for index in share(batch, 1, self.parts, part) {
                    self.multiply(&run, index, own, 1);
                }
            });
        } else {
            for index in 0..batch {
                self.multiply(&run, index, scratch, self.parts);
            }
        }
    }
}
