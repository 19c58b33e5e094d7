//! Operators, variants and kernels: the three levels from *what* to *how* to *ready to run*.

use crate::{Attributes, Knob, Layout, Limits, Operands, Rule, Task, Tensor};
use schema::{Config, DType, KnobValue};
use thiserror::Error;

/// The plain computation of an operator on its inputs.
pub type Reference = fn(&Task, &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError>;

/// A kind of calculation with kernels.
pub struct Operator {
    /// Snake case; the operator's name in tasks and graphs.
    pub id: &'static str,
    /// Every variant. The first whose own default is legal for a task is the task's default, and one of them is legal for every task.
    pub variants: &'static [&'static Variant],
    /// The task a graph's node of this operator stands for: from its attributes (named as the task's parameters: `epilogue`, `strides`)
    /// and its operands' types and layouts.
    pub task: fn(&Facts<'_>) -> Result<Task, BuildError>,
    /// What goes in and out. The one place that checks a task's parameters.
    pub signature: fn(&Task) -> Result<Signature, BuildError>,
    /// Floating-point operations of one run, two per multiply-add, counted for the direct algorithm.
    pub flops: fn(&Task) -> u64,
    /// Bytes that one run must at least read and write.
    pub bytes: fn(&Task) -> u64,
    /// The plain computation: accumulates in f64, takes and gives the tensors in [`Layout::Rows`].
    pub reference: Reference,
    /// Whether the parts of every output along axis 0 depend on the same parts alone of the inputs that vary (`varies`, by input), each
    /// along its own axis 0: then a batch may be computed in parts. Said of facts that a task can be made of.
    pub row_wise: fn(facts: &Facts<'_>, varies: &[bool]) -> bool,
}

/// What a graph knows of a node whose operator is ours, once shapes are chosen.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub attributes: &'a Attributes,
    /// Absent optional inputs are `None`.
    pub inputs: &'a [Option<OperandFacts>],
    pub outputs: &'a [Option<OperandFacts>],
}

/// What a graph knows of one operand.
#[derive(Clone, Debug, PartialEq)]
pub struct OperandFacts {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub layout: Layout,
    pub constant: bool,
}

/// How a variant is made ready to run on the host: checks the config, packs the constants.
pub type Build = fn(&Request<'_>) -> Result<Box<dyn Kernel>, BuildError>;

/// One kernel of an operator; `B` makes it ready on the kind of device it's for, the host where nothing is said.
pub struct Variant<B = Build> {
    /// `operator.where_idea`, such as `gemm.host_packed`.
    pub id: &'static str,
    /// Raised when speed or results can change: older trials become stale.
    pub revision: u32,
    pub knobs: &'static [Knob],
    /// Tested in order; the first that fails is the reason a config is illegal.
    pub rules: &'static [Rule],
    /// A legal value for every knob, in the knobs' order, for a task on a device without any measurement.
    pub default: fn(&Task, &Limits) -> Vec<KnobValue>,
    /// Makes it ready to run.
    pub build: B,
}

/// What is asked of [`Variant::build`].
pub struct Request<'a> {
    pub task: &'a Task,
    pub config: &'a Config,
    pub limits: &'a Limits,
    /// The constant operands by input index, in [`Layout::Rows`]; `None` for what is only known at run time. A kernel keeps what it
    /// prepares from them, and reads nothing at run time where the signature says `constant`.
    pub constants: &'a [Option<&'a Tensor>],
}

/// A variant made ready for one task and config, with its constants prepared. Running it allocates nothing.
pub trait Kernel: Send + Sync {
    /// Bytes of scratch space one run needs, 64-byte aligned, contents undefined.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Bytes held for prepared constants.
    fn prepared_bytes(&self) -> usize {
        0
    }

    /// Computes the outputs. A kernel that splits does so over the [`ThreadPool`](crate::ThreadPool) its caller is in.
    fn run(&self, operands: &mut Operands<'_>);
}

/// The operands of a task, in the order of the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub inputs: Vec<OperandSpec>,
    pub outputs: Vec<OperandSpec>,
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub struct OperandSpec {
    pub name: &'static str,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub layout: Layout,
    /// Known when the kernel is built.
    pub constant: bool,
    pub fill: Fill,
}

/// What to fill an operand with when measuring and testing.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in [−1, 1].
    Signed,
    /// Uniform in ±1/√n: weights of sums of n terms. A recurrence with greater ones is chaotic, and no two orders of adding agree.
    Scaled(usize),
    /// Uniform in [0.5, 1.5]: scales, variances.
    Positive,
    /// Indices along an axis of that extent: whole numbers from 0 up to it, exclusive. Who runs a kernel refuses what lies outside
    /// `-extent..extent` before the run.
    Index(usize),
    /// Whole numbers from 0 up to this bound, exclusive.
    Whole(usize),
    /// 0 and 1: masks.
    Mask,
}

impl OperandSpec {
    /// An f32 operand in rows, uniform in [−1, 1], not constant.
    pub fn f32(name: &'static str, shape: Vec<usize>) -> Self {
        OperandSpec { name, dtype: DType::F32, shape, layout: Layout::Rows, constant: false, fill: Fill::Signed }
    }

    /// In another layout.
    #[must_use]
    pub fn in_layout(self, layout: Layout) -> Self {
        OperandSpec { layout, ..self }
    }

    /// Known when the kernel is built.
    #[must_use]
    pub fn constant(self) -> Self {
        OperandSpec { constant: true, ..self }
    }

    /// Bytes in memory, in its layout.
    pub fn bytes(&self) -> usize {
        self.layout.elements(&self.shape) * self.dtype.bytes()
    }
}

/// Why a kernel cannot be made.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BuildError {
    /// The task lacks a parameter or has one that makes no sense: a bug of who made it, or a damaged artifact.
    #[error("task '{task}': {reason}")]
    Task { task: String, reason: String },
    /// The config breaks a rule here.
    #[error("config '{config}' is illegal for '{task}': {reason}")]
    Illegal { task: String, config: String, reason: String },
    /// No such operator or variant in this build.
    #[error("unknown {what} '{name}'")]
    Unknown { what: &'static str, name: String },
}

impl Operator {
    /// The variant of that id.
    pub fn variant(&self, id: &str) -> Option<&'static Variant> {
        self.variants.iter().copied().find(|variant| variant.id == id)
    }

    /// The config used without tuning.
    pub fn default_config(&self, task: &Task, limits: &Limits) -> Config {
        let facts = || self.variants.iter().map(|variant| variant.facts());
        VariantFacts::default_of(facts(), task, limits).unwrap_or_else(|| self.variants[0].default_config(task, limits))
    }

    /// Makes the variant a config names ready to run.
    ///
    /// # Errors
    /// [`BuildError::Unknown`] for a variant this build lacks, [`BuildError::Illegal`] for a config that breaks a rule here.
    pub fn build(&self, request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
        let id = &request.config.variant;
        let variant = self.variant(id).ok_or_else(|| BuildError::Unknown { what: "variant", name: id.clone() })?;
        variant.check(request.task, request.config, request.limits)?;
        (variant.build)(request)
    }
}

/// A variant as data: everything but how it is made ready. What chooses among variants needs no more.
#[derive(Copy, Clone)]
pub struct VariantFacts {
    pub id: &'static str,
    pub revision: u32,
    pub knobs: &'static [Knob],
    pub rules: &'static [Rule],
    pub default: fn(&Task, &Limits) -> Vec<KnobValue>,
}

impl<B> Variant<B> {
    /// What is known of it as data.
    pub fn facts(&self) -> VariantFacts {
        VariantFacts { id: self.id, revision: self.revision, knobs: self.knobs, rules: self.rules, default: self.default }
    }

    /// The config with every knob at its default.
    pub fn default_config(&self, task: &Task, limits: &Limits) -> Config {
        self.facts().default_config(task, limits)
    }

    /// The config with these values, in the knobs' order.
    pub fn config(&self, values: Vec<KnobValue>) -> Config {
        self.facts().config(values)
    }

    /// Whether the config is legal for the task here.
    ///
    /// # Errors
    /// [`BuildError::Illegal`] with the reason: a foreign revision, an unknown knob or value, or the first rule that fails.
    pub fn check(&self, task: &Task, config: &Config, limits: &Limits) -> Result<(), BuildError> {
        self.facts().check(task, config, limits)
    }
}

impl VariantFacts {
    /// The default of a task among these variants: the first of theirs that is legal. It is strict: narrower types are never used
    /// where no tuning chose them.
    pub fn default_of(variants: impl IntoIterator<Item = VariantFacts>, task: &Task, limits: &Limits) -> Option<Config> {
        let limits = &limits.strict();
        let mut defaults = variants.into_iter().map(|variant| (variant, variant.default_config(task, limits)));
        defaults.find(|(variant, config)| variant.check(task, config, limits).is_ok()).map(|(_, config)| config)
    }

    /// The config with every knob at its default.
    pub fn default_config(&self, task: &Task, limits: &Limits) -> Config {
        let values = (self.default)(task, limits);
        debug_assert_eq!(values.len(), self.knobs.len(), "{} has a default for every knob", self.id);
        self.config(values)
    }

    /// The config with these values, in the knobs' order.
    pub fn config(&self, values: Vec<KnobValue>) -> Config {
        let knobs = self.knobs.iter().map(|knob| knob.name.to_owned()).zip(values).collect();
        Config { variant: self.id.to_owned(), revision: self.revision, knobs }
    }

    /// Whether the config is legal for the task here.
    ///
    /// # Errors
    /// [`BuildError::Illegal`] with the reason: a foreign revision, an unknown knob or value, or the first rule that fails.
    pub fn check(&self, task: &Task, config: &Config, limits: &Limits) -> Result<(), BuildError> {
        let illegal = |reason: String| BuildError::Illegal { task: task.to_string(), config: config.to_string(), reason };
        if config.revision != self.revision {
            return Err(illegal(format!("this build has revision {}", self.revision)));
        }
        let known =
            config.knobs.len() == self.knobs.len()
                && self.knobs.iter().zip(&config.knobs).all(|(knob, (name, value))| {
                    knob.name == name && (0..knob.values.len()).any(|i| knob.values.nth(i) == *value)
                });
        if !known {
            return Err(illegal("its knobs or their values are not this variant's".to_owned()));
        }
        match self.rules.iter().find(|rule| !(rule.holds)(task, config, limits)) {
            Some(rule) => Err(illegal(rule.reason.to_owned())),
            None => Ok(()),
        }
    }
}
