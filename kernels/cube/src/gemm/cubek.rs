//! Cubek's routines, with what its blueprints leave open as knobs. Bias, residual and activation take a second launch over the result:
//! cubek's have none.
//!
//! Three levels: a *tile* is multiplied in the registers of a unit or in a tensor core, a *partition* is so many tiles of one unit or
//! plane, a *stage* so many partitions of one cube. Widths of loads, and whether bounds are checked, follow from the product. A cube
//! computes one stage of C and ends; cubek's strategies by multiprocessors only number the cubes in another way, so none of them leaves
//! part of a device idle, and none is a choice here. Loads are cyclic: each other way to load is another instance of a routine.

use super::{FITS_BUFFERS, Prepared, finished, folded, parts};
use crate::epilogue::Finish;
use crate::gpu::{Buffer, Client, Gpu, with_client};
use crate::operator::{cubes_for, refuse};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use cubek_kernels::{Blueprint, Order, Product, Routine, Sizes, Stage, Swizzle};
use kernels::epilogue::Epilogue;
use kernels::gemm::Shape;
use kernels::{BuildError, Knob, Limits, Narrow, RELAXED, Request, Rule, Task};
use schema::{Config, KnobValue};

/// One stage of A and B in shared memory, or two.
const ROUTINE: Knob = Knob::names("routine", &["simple", "double"]);

/// Tiles of B that a partition holds at a time: with two, it loads one while it multiplies with the other.
const HELD: Knob = Knob::ints("held", &[1, 2]);

/// The order in which cubes take the stages of C: by place, or by number along columns, or along strips of rows to and fro.
const ORDER: Knob = Knob::names("order", &["grid", "columns", "strips"]);

/// Rows of stages in a strip: what cubek takes itself.
const STRIP: u32 = 4;

pub static UNIT: CubeVariant = CubeVariant {
    id: "gemm.cubek_unit",
    revision: 1,
    knobs: &[
        ROUTINE,
        Knob::pairs("tile", &[(1, 4), (4, 4), (4, 8), (8, 4), (8, 8)]),
        Knob::ints("tile_k", &[1, 4, 8]),
        Knob::pairs("partition", &[(1, 1), (1, 2), (2, 2), (2, 4)]),
        Knob::ints("partition_k", &[1, 2, 4]),
        Knob::pairs("stage", &[(1, 32), (4, 8), (8, 8), (8, 16), (16, 16)]),
        HELD,
        ORDER,
        Knob::names("swizzle", &["none", "b128"]),
    ],
    rules: &[TURNS, FITS_BUFFERS, TAKEN, WRITTEN, UNITS, SHARED, CUBES],
    default: unit_default,
    build,
};

pub static CMMA: CubeVariant = CubeVariant {
    id: "gemm.cubek_cmma",
    revision: 1,
    knobs: &[
        ROUTINE,
        // Of A and B in shared memory and tensor cores.
        Knob::names("type", &["tf32", "f16", "bf16"]),
        Knob::pairs("tile", &[(16, 16), (32, 8), (8, 32)]),
        Knob::pairs("partition", &[(1, 1), (1, 2), (2, 2), (2, 4), (4, 4)]),
        Knob::ints("partition_k", &[1, 2, 4]),
        Knob::pairs("stage", &[(1, 1), (2, 2), (4, 2), (2, 4), (4, 4)]),
        HELD,
        ORDER,
    ],
    rules: &[
        TURNS,
        FITS_BUFFERS,
        RELAXED,
        Rule {
            reason: "the device has no matrix instructions for the type",
            holds: |_, config, limits| {
                let narrow = config.name("type").and_then(Narrow::parse);
                let plane = limits.gpu.and_then(|gpu| gpu.plane_units);
                narrow.zip(limits.gpu).is_some_and(|(narrow, gpu)| gpu.matrix.has(narrow)) && plane == Some(cubek_kernels::PLANE)
            },
        },
        TAKEN,
        WRITTEN,
        UNITS,
        SHARED,
        CUBES,
    ],
    default: |_, _| {
        let word = |word: &str| KnobValue::Name(word.to_owned());
        let (one, pair) = (KnobValue::Int(1), |a, b| KnobValue::Pair(a, b));
        vec![word("simple"), word("tf32"), pair(16, 16), pair(2, 2), KnobValue::Int(2), pair(2, 2), one, word("grid")]
    },
    build,
};

/// Rows of a vector get tiles of one row. A unit of 4 × 8 sums spills nothing on NVIDIA's cards.
fn unit_default(task: &Task, _: &Limits) -> Vec<KnobValue> {
    let word = |word: &str| KnobValue::Name(word.to_owned());
    let few = folded(task).is_some_and(|shape| shape.m < 8);
    let (tile, partition, partition_k, stage) = if few { ((1, 4), (1, 1), 1, (1, 32)) } else { ((4, 4), (1, 2), 2, (8, 8)) };
    vec![
        word("simple"),
        KnobValue::Pair(tile.0, tile.1),
        KnobValue::Int(4),
        KnobValue::Pair(partition.0, partition.1),
        KnobValue::Int(partition_k),
        KnobValue::Pair(stage.0, stage.1),
        KnobValue::Int(1),
        word("grid"),
        word("none"),
    ]
}

const TURNS: Rule = turns_end!(turns);

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(blueprint(config)?.turns(folded(task)?.k))
}

const TAKEN: Rule = Rule {
    reason: "units that are no whole planes, two tiles of B of a partition that has one, or a tile that tensor cores do not have",
    holds: |task, config, limits| holds(task, config, limits, |blueprint, _| blueprint.refusal().is_none()),
};

/// Products of tiles that are written out one after the other, and loads of a stage.
const WRITTEN_MAX: u32 = 32;

const WRITTEN: Rule = Rule {
    reason: "so much is written out that drivers compile it for long",
    holds: |task, config, limits| {
        holds(task, config, limits, |blueprint, sizes| {
            blueprint.partition.iter().product::<u32>() <= WRITTEN_MAX && blueprint.loads(sizes) <= WRITTEN_MAX
        })
    },
};

const UNITS: Rule = Rule {
    reason: "more units than a cube of the device has",
    holds: |task, config, limits| {
        holds(task, config, limits, |blueprint, _| {
            let (units, plane) = (blueprint.units(), blueprint.plane());
            let fits = |gpu: kernels::GpuLimits| {
                units <= gpu.units_per_cube && plane <= gpu.cube_dim[0] && units / plane <= gpu.cube_dim[1]
            };
            limits.gpu.is_some_and(fits)
        })
    },
};

const SHARED: Rule = Rule {
    reason: "more shared memory than a cube of the device has",
    holds: |task, config, limits| {
        let most = limits.gpu.map_or(0, |gpu| gpu.shared_bytes);
        holds(task, config, limits, |blueprint, sizes| blueprint.shared_bytes(sizes) <= most)
    },
};

/// What has no room or no whole strips cubek would launch in another order, and call it by the same name.
const CUBES: Rule = Rule {
    reason: "more cubes than the device can launch in that order, or rows of stages that fill no whole strips",
    holds: |task, config, limits| {
        let most = limits.gpu.map_or(0, |gpu| gpu.cubes_per_axis as usize);
        holds(task, config, limits, |blueprint, sizes| {
            let ([m, n], batch) = (blueprint.cubes(sizes), sizes.products());
            match blueprint.order {
                Order::Grid => m.max(n).max(batch) <= most,
                Order::Columns => m * n * batch < most,
                Order::Strips(rows) => m * n * batch < most && m.is_multiple_of(rows as usize),
            }
        })
    },
};

/// Whether something holds for the products of a task, of which there are several where a constant B is taken apart.
fn holds(task: &Task, config: &Config, limits: &Limits, one: impl Fn(&Blueprint, &Sizes) -> bool) -> bool {
    blueprint(config).zip(sizes(task, limits)).is_some_and(|(blueprint, all)| all.iter().all(|sizes| one(&blueprint, sizes)))
}

/// The products of a task: one for each part of B.
fn sizes(task: &Task, limits: &Limits) -> Option<Vec<Sizes>> {
    let shape = folded(task)?;
    Some(parts(&shape, limits).iter().map(|&(_, columns)| part(&shape, columns)).collect())
}

/// The product with so many columns of B.
fn part(shape: &Shape, columns: u32) -> Sizes {
    Sizes {
        m: shape.m,
        n: columns as usize,
        k: shape.k,
        trans_a: shape.trans_a,
        trans_b: shape.trans_b,
        batch_a: shape.batch_a.clone(),
        batch_b: shape.batch_b.clone(),
    }
}

/// The blueprint that a config of either variant names.
fn blueprint(config: &Config) -> Option<Blueprint> {
    let cmma = config.variant == CMMA.id;
    let routine = match (cmma, config.name("routine")? == "double") {
        (false, false) => Routine::SimpleUnit,
        (false, true) => Routine::DoubleUnit,
        (true, false) => Routine::SimpleCmma,
        (true, true) => Routine::DoubleCmma,
    };
    let stage_type = match config.name("type").and_then(Narrow::parse) {
        None => Stage::F32,
        Some(Narrow::Tf32) => Stage::Tf32,
        Some(Narrow::F16) => Stage::F16,
        Some(Narrow::Bf16) => Stage::Bf16,
    };
    let tile_k = match config.int("tile_k") {
        Some(k) => k as u32,
        None if stage_type == Stage::Tf32 => 8,
        None => 16,
    };
    let pair = |name: &str| config.pair(name).map(|(m, n)| [m as u32, n as u32]);
    let ([tile_m, tile_n], [partition_m, partition_n]) = (pair("tile")?, pair("partition")?);
    Some(Blueprint {
        routine,
        stage_type,
        tile: [tile_m, tile_n, tile_k],
        partition: [partition_m, partition_n, config.int("partition_k")? as u32],
        stage: pair("stage")?,
        two_tiles: config.int("held")? == 2,
        order: match config.name("order")? {
            "columns" => Order::Columns,
            "strips" => Order::Strips(STRIP),
            _ => Order::Grid,
        },
        swizzle: if config.name("swizzle") == Some("b128") { Swizzle::B128 } else { Swizzle::None },
    })
}

struct Kernel {
    prepared: Prepared,
    /// For each part of B.
    products: Vec<Product>,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let (task, limits) = (request.task, request.limits);
    let named = blueprint(request.config).zip(sizes(task, limits));
    let (blueprint, sizes) = named.ok_or_else(|| refuse(task, &"it names no blueprint"))?;
    let products =
        sizes.iter().map(|sizes| checked(gpu, sizes, &blueprint)).collect::<Result<_, _>>().map_err(|why| refuse(task, &why))?;
    Ok(Box::new(Kernel { prepared: Prepared::new(request, gpu)?, products }))
}

/// The product, or what cubek says against it.
fn checked(gpu: &Gpu, sizes: &Sizes, blueprint: &Blueprint) -> Result<Product, String> {
    match gpu.client {
        Client::Wgpu(client) => Product::on_wgpu(client, sizes, blueprint),
        Client::Cuda(client) => Product::on_cuda(client, sizes, blueprint),
        #[cfg(feature = "sources")]
        Client::Sources(client) => Product::new(client, sizes, blueprint),
    }
}

impl Kernel {
    /// Whether the sums are the result.
    fn bare(&self) -> bool {
        let shape = &self.prepared.shape;
        shape.alpha == 1.0 && shape.epilogue == Epilogue::default() && self.products.len() == 1
    }
}

impl CubeKernel for Kernel {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn scratch_bytes(&self) -> Vec<usize> {
        let shape = &self.prepared.shape;
        let widest = self.prepared.parts.iter().map(|&(_, columns)| columns as usize).max().unwrap_or(0);
        if self.bare() { Vec::new() } else { vec![shape.batch() * shape.m * widest * size_of::<f32>()] }
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]) {
        let (a, extra) = self.prepared.weights.operands(inputs);
        let shape = &self.prepared.shape;
        let sums = scratch.first().unwrap_or(&outputs[0]);
        for (product, (b, first, columns)) in self.products.iter().zip(self.prepared.launches(inputs)) {
            let operands = [&a.handle, &b.handle, &sums.handle];
            match gpu.client {
                Client::Wgpu(client) => product.launch_on_wgpu(client, operands),
                Client::Cuda(client) => product.launch_on_cuda(client, operands),
                #[cfg(feature = "sources")]
                Client::Sources(client) => product.launch(client, operands),
            }
            if self.bare() {
                continue;
            }
            let elements = (shape.batch() * shape.m) as u32 * columns;
            with_client!(gpu, client => finished_sums::launch::<f32, _>(
                client,
                cubes_for(elements, FINISHING_UNITS, gpu),
                CubeDim::new_1d(FINISHING_UNITS),
                sums.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                elements,
                columns,
                first,
                shape.n as u32,
                shape.alpha,
                shape.epilogue.into(),
            ));
        }
    }
}

/// Units of a cube of the second launch.
const FINISHING_UNITS: u32 = 64;

/// A unit for each of the sums, which are `columns` wide and those of C from column `first`; C is `width` wide.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn finished_sums<F: Float + CubeElement>(
    sums: &Array<F>,
    extra: &Sequence<Array<F>>,
    c: &mut Array<F>,
    elements: u32,
    columns: u32,
    first: u32,
    width: u32,
    alpha: F,
    #[comptime] finish: Finish,
) {
    let i = ABSOLUTE_POS as u32;
    if i < elements {
        let column = first + i % columns;
        let at = i / columns * width + column;
        c[at as usize] = finished::<F>(sums[i as usize] * alpha, extra, column, at, finish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an H200 has, by the adapter of CUDA.
    fn limits() -> Limits {
        let matrix = kernels::NarrowTypes { f16: true, bf16: true, tf32: true };
        let gpu = kernels::GpuLimits {
            shared_bytes: 227 << 10,
            units_per_cube: 1024,
            cube_dim: [1024, 1024, 64],
            cubes_per_axis: 65_535,
            bindings: 256,
            buffer_bytes: 20 << 30,
            turns: None,
            software: false,
            plane_units: Some(32),
            narrow: matrix,
            matrix,
        };
        Limits { gpu: Some(gpu), ..Limits::of_core(0, 1) }
    }

    fn set(variant: &CubeVariant, task: &Task, limits: &Limits, name: &str, value: KnobValue) -> Result<(), String> {
        let mut config = variant.default_config(task, limits);
        let knob = config.knobs.iter_mut().find(|(knob, _)| knob == name).expect("the variant has the knob");
        knob.1 = value;
        variant.check(task, &config, limits).map_err(|why| why.to_string())
    }

    #[test]
    fn defaults_are_legal_for_products_of_real_models_and_tensor_cores_only_where_narrow_types_are_allowed() {
        let limits = limits();
        for text in [
            "gemm b=const epilogue=bias+gelu k=768 m=128 n=3072",
            "gemm b=const k=2048 m=1 n=1000 trans_b=1",
            "gemm b=dynamic k=64 m=384 n=384 trans_b=1 batch_a=[12] batch_b=[12]",
            "gemm b=dynamic k=31 m=65 n=17 trans_a=1",
        ] {
            let task = Task::parse(text).unwrap();
            let check = |variant: &CubeVariant, limits: &Limits| {
                variant.check(&task, &variant.default_config(&task, limits), limits).map_err(|why| why.to_string())
            };
            assert_eq!(check(&UNIT, &limits), Ok(()), "{text}");
            assert_eq!(check(&CMMA, &limits.relaxed()), Ok(()), "{text}");
            assert!(check(&CMMA, &limits).unwrap_err().contains(RELAXED.reason), "{text}");
        }
    }

    #[test]
    fn what_is_illegal_says_why() {
        let (limits, task) = (limits().relaxed(), Task::parse("gemm b=dynamic k=512 m=640 n=512").unwrap());
        let gpu = limits.gpu.unwrap();
        let with = |gpu| Limits { gpu: Some(gpu), ..limits };
        let unit = |limits: &Limits, name, value| set(&UNIT, &task, limits, name, value).unwrap_err();
        let cmma = |limits: &Limits, name, value| set(&CMMA, &task, limits, name, value).unwrap_err();
        let (one, two) = (KnobValue::Int(1), KnobValue::Int(2));
        let word = |word: &str| KnobValue::Name(word.to_owned());
        // 640 rows are 20 stages of 32 rows, in strips of four; 16 × 4 × 2 rows are 5 of 128.
        assert!(set(&UNIT, &task, &limits, "order", word("strips")).is_ok());
        let odd = Task::parse("gemm b=dynamic k=512 m=600 n=512").unwrap();
        assert!(set(&UNIT, &odd, &limits, "order", word("strips")).unwrap_err().contains("strips"));
        assert!(unit(&with(kernels::GpuLimits { units_per_cube: 63, ..gpu }), "held", one.clone()).contains("units"));
        // Stages of 32 × 8 and 8 × 64 floats, and 4 × 4 sums of 64 units.
        let bytes = (32 * 8 + 8 * 64 + 16 * 64) * 4;
        assert!(set(&UNIT, &task, &with(kernels::GpuLimits { shared_bytes: bytes, ..gpu }), "held", one.clone()).is_ok());
        assert!(unit(&with(kernels::GpuLimits { shared_bytes: bytes - 1, ..gpu }), "held", one.clone()).contains("shared"));
        let turns = with(kernels::GpuLimits { turns: Some(60_000), ..gpu });
        assert!(unit(&turns, "partition", KnobValue::Pair(2, 4)).contains("turns"));
        let narrower = kernels::NarrowTypes { bf16: false, ..gpu.matrix };
        assert!(cmma(&with(kernels::GpuLimits { matrix: narrower, ..gpu }), "type", word("bf16")).contains("matrix"));
        assert!(cmma(&limits, "tile", KnobValue::Pair(32, 8)).contains("tensor cores"));
        let lonely = Task::parse("gemm b=dynamic k=512 m=1 n=512").unwrap();
        assert!(set(&UNIT, &lonely, &limits, "held", two).unwrap_err().contains("two tiles"));
    }

    /// Every config before the rules.
    fn all(variant: &'static CubeVariant) -> impl Iterator<Item = Config> {
        let count: usize = variant.knobs.iter().map(|knob| knob.values.len()).product();
        (0..count).map(move |mut at| {
            let mut value = |knob: &Knob| {
                let value = knob.values.nth(at % knob.values.len());
                at /= knob.values.len();
                value
            };
            variant.config(variant.knobs.iter().map(&mut value).collect())
        })
    }

    /// Our verdict, which knows no device, against cubek's, on every config and products that divide and that do not.
    fn verdicts_agree(variant: &'static CubeVariant, gpu: &Gpu) {
        let mut taken = 0;
        for text in [
            "gemm b=dynamic k=512 m=640 n=512",
            "gemm b=dynamic k=31 m=65 n=17 trans_a=1",
            "gemm b=dynamic k=9 m=5 n=10 batch_a=[3] batch_b=[3] trans_b=1",
        ] {
            let task = Task::parse(text).unwrap();
            let sizes = &sizes(&task, &limits()).unwrap()[0];
            for config in all(variant) {
                let blueprint = blueprint(&config).unwrap();
                let cubek = checked(gpu, sizes, &blueprint);
                assert_eq!(blueprint.refusal().is_none(), cubek.is_ok(), "{config} on '{text}': {:?}", cubek.err());
                taken += usize::from(cubek.is_ok());
            }
        }
        assert!(taken > 1000, "{taken}");
    }

    #[test]
    fn routines_of_units_are_refused_where_cubek_refuses_them() {
        match crate::wgpu_adapters() {
            Ok(all) => verdicts_agree(&UNIT, &Gpu::open(&all[0]).unwrap()),
            Err(why) if std::env::var_os("TUNEWRIGHT_GPU").is_none() => eprintln!("skipped: {why}"),
            Err(why) => panic!("{why}"),
        }
    }

    #[cfg(feature = "sources")]
    #[test]
    fn routines_of_tensor_cores_are_refused_where_cubek_refuses_them() {
        verdicts_agree(&CMMA, &Gpu::keeping_sources());
    }
}
