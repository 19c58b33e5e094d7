//! Variants for devices with memory of their own, beside those that `kernels` has for the host.

use crate::gpu::{Buffer, Gpu};
use crate::{
    attention, conv_transpose2d, conv2d, elementwise, embedding, gather, gemm, layer_norm, moves, pool, recurrent, reduce,
};
use crate::{resize, softmax};
use cubecl::CubeCount;
use kernels::{BuildError, GpuLimits, Knob, Layout, Limits, OperandSpec, Request, Rule, Task, Variant, VariantFacts};
use schema::{Config, DType, KnobValue};

/// A kernel made ready for one task and config, with its constants on the device.
pub trait CubeKernel: Send + Sync {
    /// Bytes of device memory held for constants.
    fn prepared_bytes(&self) -> usize {
        0
    }

    /// Bytes of each buffer that it writes and reads between its launches.
    fn scratch_bytes(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Launches it. `inputs` are the operands of the task by position, `None` for what is absent or was prepared; `outputs` are all of
    /// the task's, those that nobody asked for included; `scratch` is as asked for. Returns before the device has done it; launches of
    /// one thread run in order.
    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]);
}

/// Makes a variant ready for a task: checks the config, uploads the constants.
pub type CubeBuild = fn(&Request<'_>, &Gpu) -> Result<Box<dyn CubeKernel>, BuildError>;

/// A variant for devices.
pub type CubeVariant = Variant<CubeBuild>;

/// The variants of one operator of `kernels`.
pub struct CubeOperator {
    /// The operator's.
    pub id: &'static str,
    /// In the order in which they are tried as a default. None need be legal: what no variant takes is computed by the host.
    pub variants: &'static [&'static CubeVariant],
    /// Those of them that come first for some tasks on some devices, and for which.
    first: &'static [&'static CubeVariant],
    first_for: fn(&Task, &Limits) -> bool,
}

/// Every operator with variants here. A new variant is one file and one line in its operator's list.
pub static OPERATORS: &[CubeOperator] = &[
    CubeOperator::new("gemm", gemm::VARIANTS).first_for(on_processors, gemm::FIRST_ON_PROCESSORS),
    CubeOperator::new("conv2d", conv2d::VARIANTS).first_for(on_processors, conv2d::FIRST_ON_PROCESSORS),
    CubeOperator::new("depthwise", conv2d::DEPTHWISE_VARIANTS),
    CubeOperator::new("conv_transpose2d", conv_transpose2d::VARIANTS),
    CubeOperator::new("attention", attention::VARIANTS).first_for(on_processors, attention::FIRST_ON_PROCESSORS),
    CubeOperator::new("lstm", recurrent::LSTM_VARIANTS).first_for(recurrent::steps_are_long, recurrent::LSTM_OF_LONG_STEPS),
    CubeOperator::new("gru", recurrent::GRU_VARIANTS).first_for(recurrent::steps_are_long, recurrent::GRU_OF_LONG_STEPS),
    CubeOperator::new("embedding", embedding::VARIANTS),
    CubeOperator::new("gather", gather::VARIANTS),
    CubeOperator::new("resize", resize::VARIANTS),
    CubeOperator::new("elementwise", elementwise::VARIANTS),
    CubeOperator::new("pool", pool::VARIANTS),
    CubeOperator::new("reduce", reduce::VARIANTS),
    CubeOperator::new("softmax", softmax::VARIANTS),
    CubeOperator::new("layer_norm", layer_norm::VARIANTS),
    CubeOperator::new("copy", moves::VARIANTS),
    CubeOperator::new("transpose", moves::TRANSPOSE_VARIANTS),
];

/// Whether the driver computes on the host's processor.
fn on_processors(_: &Task, limits: &Limits) -> bool {
    limits.gpu.is_some_and(|gpu| gpu.software)
}

/// The variants of the operator of that id.
pub fn operator(id: &str) -> Option<&'static CubeOperator> {
    OPERATORS.iter().find(|operator| operator.id == id)
}

impl CubeOperator {
    const fn new(id: &'static str, variants: &'static [&'static CubeVariant]) -> Self {
        CubeOperator { id, variants, first: &[], first_for: on_processors }
    }

    const fn first_for(self, first_for: fn(&Task, &Limits) -> bool, first: &'static [&'static CubeVariant]) -> Self {
        CubeOperator { first, first_for, ..self }
    }

    /// The variants in the order in which they are tried as a default of a task on such a device.
    pub fn ordered(&self, task: &Task, limits: &Limits) -> impl Iterator<Item = &'static CubeVariant> {
        let first = if (self.first_for)(task, limits) { self.first } else { &[] };
        let rest = self.variants.iter().filter(|variant| !first.iter().any(|one| one.id == variant.id));
        first.iter().chain(rest).copied()
    }

    /// The variant of that id.
    pub fn variant(&self, id: &str) -> Option<&'static CubeVariant> {
        self.variants.iter().copied().find(|variant| variant.id == id)
    }

    /// Whether a config is legal for a task here.
    ///
    /// # Errors
    /// [`BuildError::Unknown`] for a variant this build lacks, [`BuildError::Illegal`] for a config that breaks a rule here.
    pub fn check(&self, task: &Task, config: &Config, limits: &Limits) -> Result<(), BuildError> {
        let unknown = || BuildError::Unknown { what: "variant", name: config.variant.clone() };
        self.variant(&config.variant).ok_or_else(unknown)?.check(task, config, limits)
    }

    /// The config used without tuning: the first variant whose default is legal; `None` when none is.
    pub fn default_config(&self, task: &Task, limits: &Limits) -> Option<Config> {
        VariantFacts::default_of(self.ordered(task, limits).map(|variant| variant.facts()), task, limits)
    }

    /// Makes the variant a config names ready to run.
    ///
    /// # Errors
    /// [`BuildError::Unknown`] for a variant this build lacks, [`BuildError::Illegal`] for a config that breaks a rule here.
    pub fn build(&self, request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
        self.check(request.task, request.config, request.limits)?;
        let unknown = || BuildError::Unknown { what: "variant", name: request.config.variant.clone() };
        (self.variant(&request.config.variant).ok_or_else(unknown)?.build)(request, gpu)
    }
}

/// The only knob of variants that have a unit for each element: the units of a cube.
pub(crate) const UNIT_KNOBS: &[Knob] = &[Knob::ints("units", &[32, 64, 128, 256])];

/// Its default.
pub(crate) fn unit_default(_: &Task, _: &Limits) -> Vec<KnobValue> {
    vec![KnobValue::Int(64)]
}

/// The value of the knob `units`; a legal config has one.
pub(crate) fn units_of(config: &Config) -> u32 {
    config.int("units").unwrap_or(1) as u32
}

/// The knob `units` is no more than a cube of the device has in a line.
pub(crate) const UNITS: Rule = Rule {
    reason: "more units than a cube of the device has",
    holds: |_, config, limits| {
        let units = config.int("units").unwrap_or(0);
        limits.gpu.is_some_and(|gpu| (1..=i64::from(gpu.units_per_cube.min(gpu.cube_dim[0]))).contains(&units))
    },
};

/// Cubes of that many units in a line, for a unit for each element: in a plane where a line of them is too long for the device.
pub(crate) fn cubes_for(elements: u32, units: u32, gpu: &Gpu) -> CubeCount {
    let cubes = elements.div_ceil(units);
    let width = cubes.min(gpu.limits().cubes_per_axis);
    CubeCount::Static(width, cubes.div_ceil(width.max(1)), 1)
}

/// What kernels here can compute with: f32 in rows, each operand in one buffer.
pub(crate) const PLAIN: Rule = Rule {
    reason: "an operand is not f32 in rows, or larger than a buffer of the device or than its kernels count",
    holds: |task, _, limits| {
        let signature = kernels::operator(task.operator()).map(|operator| (operator.signature)(task));
        let (Some(Ok(signature)), Some(gpu)) = (signature, limits.gpu) else { return false };
        signature.inputs.iter().chain(&signature.outputs).all(|spec| in_rows(spec) && in_one_buffer(spec, &gpu))
    },
};

/// What kernels here that are told by indices or lengths can compute with: as [`PLAIN`], and whole numbers among the inputs.
pub(crate) const IN_ROWS: Rule = Rule {
    reason: "an operand is neither f32 nor an index, not in rows, or larger than a buffer of the device or than its kernels count",
    holds: |task, _, limits| {
        let signature = kernels::operator(task.operator()).map(|operator| (operator.signature)(task));
        let (Some(Ok(signature)), Some(gpu)) = (signature, limits.gpu) else { return false };
        let whole = |spec: &OperandSpec| matches!(spec.dtype, DType::I32 | DType::I64) && spec.layout == Layout::Rows;
        signature.inputs.iter().all(|spec| (in_rows(spec) || whole(spec)) && in_one_buffer(spec, &gpu))
            && signature.outputs.iter().all(|spec| in_rows(spec) && in_one_buffer(spec, &gpu))
    },
};

/// Whether an operand is f32 in rows.
pub(crate) fn in_rows(spec: &OperandSpec) -> bool {
    spec.dtype == DType::F32 && spec.layout == Layout::Rows
}

/// Elements that kernels count in 32 bits. A launch may have more units than elements, by less than this.
pub(crate) const ELEMENTS_MAX: usize = 1 << 31;

/// Whether a buffer of the device holds an operand, and kernels count its elements.
pub(crate) fn in_one_buffer(spec: &OperandSpec, gpu: &GpuLimits) -> bool {
    spec.bytes() as u64 <= gpu.buffer_bytes && countable(spec.shape.iter().product())
}

/// Whether kernels count so many elements.
pub(crate) fn countable(elements: usize) -> bool {
    elements <= ELEMENTS_MAX
}

/// A constant operand on the device; `None` where the task has none there.
pub(crate) fn upload_constant(request: &Request<'_>, gpu: &Gpu, input: usize) -> Result<Option<Buffer>, BuildError> {
    let Some(tensor) = request.constants.get(input).copied().flatten() else { return Ok(None) };
    gpu.upload(tensor.bytes()).map(Some).map_err(|error| refuse(request.task, &error))
}

/// Numbers that a kernel reads, on the device.
pub(crate) fn upload_words(task: &Task, gpu: &Gpu, words: &[u32]) -> Result<Buffer, BuildError> {
    gpu.upload(bytemuck::cast_slice(words)).map_err(|error| refuse(task, &error))
}

/// A refusal of a task.
pub(crate) fn refuse(task: &Task, reason: &dyn std::fmt::Display) -> BuildError {
    BuildError::Task { task: task.to_string(), reason: reason.to_string() }
}
