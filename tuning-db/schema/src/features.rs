//! What can be said of a model's work without running it: the facts a prediction of its time on other devices starts from.

use crate::{Batch, ModelKey};
use serde::{Deserialize, Serialize};

/// Facts of a model at one batch, as its graph is after the passes. Source of the list: papers §1.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Elements of all constants.
    pub parameters: u64,
    /// Floating-point operations of one run; an operator that is not ours counts an operation for each element of its results.
    pub flops: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    pub weights_bytes: u64,
    /// The most that inputs and results hold at once, if each goes after its last use.
    pub activation_bytes: u64,
    /// Nodes by kind, bodies included.
    pub convs: u32,
    pub depthwise_convs: u32,
    pub gemms: u32,
    pub attentions: u32,
    pub recurrents: u32,
    pub embeddings: u32,
    pub elementwises: u32,
    pub others: u32,
    /// Nodes of the longest path.
    pub depth: u32,
    /// Most nodes that are as far from the inputs, and their mean in thousandths.
    pub width_max: u32,
    pub width_milli: u32,
    /// m·n·k of the largest matrix product.
    pub gemm_max: u64,
    /// Of `flops` the part in operators that have kernels of ours, per million.
    pub tuned_ppm: u32,
}

/// The features of a model, and of which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFeatures {
    pub model: ModelKey,
    pub batch: Batch,
    /// The symbolic axes that were fixed besides the batch, sorted by name.
    pub dims: Vec<(String, u64)>,
    /// Raised when a feature means something else than before; of two the higher one stands.
    pub revision: u16,
    pub features: Features,
}
