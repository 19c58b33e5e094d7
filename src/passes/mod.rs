//! Passes: what makes a graph cheaper without changing what it computes.
//!
//! In: a graph as the importer made it, with batch and named axes bound. Out: the same graph with shapes computed, constants
//! folded, patterns recognised, our operators in place of ONNX's, fused, in the layouts their kernels like. A pass is one file with
//! one function and one line in [`PASSES`]; [`Pipeline`] runs them in that order, verifies the graph after each and notes the time.
//!
//! Passes decide by facts (operators, attributes, types, constants) only: they know no device, no clock and no variant. Rewrites go
//! through [`rewrite`]: a node is replaced by nodes that make the same values, so every step of a sweep is sound by itself.

mod assign_layout;
mod eliminate_common_subexpressions;
mod eliminate_dead_code;
mod fold_batch_norm;
mod fuse_elementwise;
mod fuse_epilogue;
mod infer_and_fold;
mod lower_convolution;
mod lower_elementwise;
mod lower_lookup;
mod lower_matrix_product;
mod lower_movement;
mod lower_normalisation;
mod lower_pooling;
mod lower_recurrent;
mod lower_reduction;
mod lower_resize;
mod lowering;
mod pipeline;
mod product;
mod recognise_attention;
mod recognise_gelu;
mod recognise_hard_swish;
mod recognise_layer_norm;
mod recognise_silu;
mod recognise_softmax;
mod remove_identity;
mod replace_sequences;
mod rewrite;
mod simplify_arithmetic;
mod simplify_shapes;
mod sink_reshapes;
mod view;

pub use pipeline::{PassRun, Pipeline, Report};

use crate::graph::infer::InferError;
use crate::graph::{Graph, VerifyError};
use kernels::reference::{Budget, EvaluateError};
use std::cell::{Cell, RefCell};
use thiserror::Error;

/// One step of the pipeline.
pub struct Pass {
    /// Verb and noun; the name for `--stop-after` and of its folder of file tests.
    pub name: &'static str,
    /// One sentence for reports.
    pub about: &'static str,
    /// Changes the graph and its bodies; gives the number of changes.
    pub run: fn(&mut Graph, &Options) -> Result<usize, PassError>,
}

/// The passes in their order.
pub static PASSES: &[Pass] = &[
    Pass { name: "infer_and_fold", about: "infers types and computes what is already known", run: infer_and_fold::run },
    Pass { name: "replace_sequences", about: "pieces of a tensor need no sequence", run: replace_sequences::run },
    Pass { name: "remove_identity", about: "removes nodes that change nothing", run: remove_identity::run },
    Pass { name: "simplify_arithmetic", about: "removes arithmetic that changes nothing", run: simplify_arithmetic::run },
    Pass { name: "simplify_shapes", about: "brings moves of data to one form", run: simplify_shapes::run },
    Pass {
        name: "eliminate_common_subexpressions",
        about: "computes equal things once",
        run: eliminate_common_subexpressions::run,
    },
    Pass { name: "eliminate_dead_code", about: "removes what nobody uses", run: eliminate_dead_code::run },
    Pass { name: "fold_batch_norm", about: "puts batch normalisation into weights", run: fold_batch_norm::run },
    Pass { name: "recognise_gelu", about: "finds GELU in its parts", run: recognise_gelu::run },
    Pass { name: "recognise_silu", about: "finds SiLU in its parts", run: recognise_silu::run },
    Pass { name: "recognise_hard_swish", about: "finds hard swish in its parts", run: recognise_hard_swish::run },
    Pass { name: "recognise_layer_norm", about: "finds layer normalisation in its parts", run: recognise_layer_norm::run },
    Pass { name: "recognise_softmax", about: "finds softmax in its parts", run: recognise_softmax::run },
    Pass { name: "recognise_attention", about: "finds attention in its parts", run: recognise_attention::run },
    Pass {
        name: "lower_convolution",
        about: "convolutions become conv2d, depthwise and conv_transpose2d",
        run: lower_convolution::run,
    },
    Pass { name: "lower_matrix_product", about: "MatMul and Gemm become gemm", run: lower_matrix_product::run },
    Pass { name: "lower_pooling", about: "pooling becomes pool", run: lower_pooling::run },
    Pass { name: "lower_recurrent", about: "LSTM and GRU become ours", run: lower_recurrent::run },
    Pass { name: "lower_resize", about: "Resize becomes resize", run: lower_resize::run },
    Pass { name: "lower_normalisation", about: "softmax and layer norm become ours", run: lower_normalisation::run },
    Pass { name: "lower_lookup", about: "Gather becomes embedding, gather or a slice", run: lower_lookup::run },
    Pass { name: "lower_reduction", about: "reductions and global pooling become reduce", run: lower_reduction::run },
    Pass { name: "lower_movement", about: "what only moves data becomes transpose and copy", run: lower_movement::run },
    Pass {
        name: "lower_elementwise",
        about: "operators on elements become elementwise expressions",
        run: lower_elementwise::run,
    },
    Pass { name: "sink_reshapes", about: "moves reshapes behind what can go into a product", run: sink_reshapes::run },
    Pass {
        name: "fuse_epilogue",
        about: "puts bias, residual and activation into products and convolutions",
        run: fuse_epilogue::run,
    },
    Pass { name: "fuse_elementwise", about: "puts chains of elementwise nodes into one", run: fuse_elementwise::run },
    Pass { name: "assign_layout", about: "lays regions in blocks of channels", run: assign_layout::run },
];

/// The pass of that name.
pub fn pass(name: &str) -> Option<&'static Pass> {
    PASSES.iter().find(|pass| pass.name == name)
}

/// What passes may use, and where they note what they could not do.
#[derive(Debug)]
pub struct Options {
    /// What folding may still use.
    pub budget: Budget,
    /// Rounds of loops that may still be folded.
    pub rounds: Cell<u64>,
    /// Nodes that were not folded because a limit was reached: filled by the passes.
    pub unfolded: RefCell<Vec<Unfolded>>,
}

impl Options {
    /// With these limits.
    pub fn new(limits: FoldLimits) -> Self {
        let budget = Budget { bytes: Cell::new(limits.bytes), one_bytes: limits.one_bytes, flops: Cell::new(limits.flops) };
        Options { budget, rounds: Cell::new(limits.rounds), unfolded: RefCell::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options::new(FoldLimits::default())
    }
}

/// Limits of constant folding. Defaults as the command line's `--limit`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FoldLimits {
    /// `fold-bytes`: bytes of all folded tensors together.
    pub bytes: u64,
    /// `fold-one`: bytes of one folded tensor.
    pub one_bytes: u64,
    /// `fold-flop`: floating-point operations in all.
    pub flops: u64,
    /// `fold-rounds`: rounds of all folded loops together.
    pub rounds: u64,
}

impl Default for FoldLimits {
    fn default() -> Self {
        FoldLimits { bytes: 256 << 20, one_bytes: 64 << 20, flops: 2_000_000_000, rounds: 10_000 }
    }
}

/// A node that a limit kept from being folded. If it is needed at run time, the plan says so with these words.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfolded {
    pub node: String,
    pub op: String,
    pub reason: EvaluateError,
}

/// Why the pipeline stopped.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PassError {
    /// A pass broke the graph: a bug of ours.
    #[error("after pass {pass}: {source}")]
    Broken { pass: &'static str, source: VerifyError },
    /// A node has inputs or attributes that its operator does not allow: the model's fault.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A node of the main graph has constant inputs for which its operator is not defined: the model's fault.
    #[error("node '{node}' ({op}): {source}")]
    Evaluate { node: String, op: String, source: EvaluateError },
}
