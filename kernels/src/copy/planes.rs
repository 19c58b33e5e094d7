//! Channels joined, shuffled and shared out in planes of 16: what the general variant does where operands are in planes.
//!
//! Every block of an output is either a block of an input as it is, which is a copy of lines, or 16 lanes that come from anywhere.

use crate::layout::BLOCK;
use crate::plane::{self, Plane};
use crate::row_split;
use crate::{BuildError, Inputs, Kernel, Operands, Signature, Task};

/// Where the lanes of a block come from.
#[derive(Clone, Debug)]
enum Source {
    /// A block of an input.
    Block { input: usize, block: usize },
    /// For each lane the input and the channel.
    Lanes(Vec<(usize, usize)>),
}

/// The blocks of every output.
pub struct Shuffle {
    inputs: Vec<(Plane, usize)>,
    outputs: Vec<(Plane, Vec<Source>)>,
    parts: usize,
}

impl Shuffle {
    /// The sources of a checked join in planes.
    pub fn new(task: &Task, signature: &Signature, parts: usize) -> Result<Self, BuildError> {
        let planes = |spec| Plane::of(spec).ok_or_else(|| task.refused("an operand is not in planes"));
        let inputs =
            signature.inputs.iter().map(|spec| Ok((planes(spec)?, spec.shape[1]))).collect::<Result<Vec<_>, BuildError>>()?;
        let groups = super::groups(task);
        let total: usize = inputs.iter().map(|input| input.1).sum();
        let source = |j: usize| {
            let mut from = (j % groups) * (total / groups) + j / groups;
            let mut input = 0;
            while from >= inputs[input].1 {
                from -= inputs[input].1;
                input += 1;
            }
            (input, from)
        };
        let mut start = 0;
        let mut outputs = Vec::new();
        for spec in &signature.outputs {
            let channels = spec.shape[1];
            let blocks = (0..plane::blocks(channels)).map(|block| {
                let lanes = plane::lanes(channels, block);
                let sources: Vec<_> = (0..lanes).map(|lane| source(start + block * BLOCK + lane)).collect();
                Source::of(sources, &inputs)
            });
            outputs.push((planes(spec)?, blocks.collect()));
            start += channels;
        }
        Ok(Shuffle { inputs, outputs, parts })
    }

    /// Writes one block of one image.
    fn block(&self, image: usize, plane: Plane, source: &Source, x: &Inputs<'_>, y: &mut [f32]) {
        let width = plane.width * BLOCK;
        let block_of = |input: usize, block: usize| {
            let (from, channels) = self.inputs[input];
            let x = x.get::<f32>(input).unwrap_or_default();
            (from, &x[(image * plane::blocks(channels) + block) * from.len()..][..from.len()])
        };
        match source {
            Source::Block { input, block } => {
                let (from, x) = block_of(*input, *block);
                if from == plane {
                    return y.copy_from_slice(x);
                }
                for row in 0..plane.height {
                    y[plane.row(row)..][..width].copy_from_slice(&x[from.row(row)..][..width]);
                }
            }
            Source::Lanes(lanes) => {
                Plane::clear_lanes(y, lanes.len());
                for row in 0..plane.height {
                    let y = &mut y[plane.row(row)..][..width];
                    for (lane, &(input, channel)) in lanes.iter().enumerate() {
                        let (from, x) = block_of(input, channel / BLOCK);
                        let x = &x[from.row(row)..][..width];
                        for (y, x) in y.chunks_exact_mut(BLOCK).zip(x.chunks_exact(BLOCK)) {
                            y[lane] = x[channel % BLOCK];
                        }
                    }
                }
            }
        }
        plane.clear_halo(y);
    }
}

impl Source {
    fn of(lanes: Vec<(usize, usize)>, inputs: &[(Plane, usize)]) -> Self {
        let (input, first) = lanes[0];
        let aligned = first % BLOCK == 0 && lanes.iter().enumerate().all(|(i, &lane)| lane == (input, first + i));
        // A short block is whole where the input's ends as well: the rest is padding on both sides.
        let whole = lanes.len() == BLOCK || first + lanes.len() == inputs[input].1;
        if aligned && whole { Source::Block { input, block: first / BLOCK } } else { Source::Lanes(lanes) }
    }
}

impl Kernel for Shuffle {
    fn run(&self, operands: &mut Operands<'_>) {
        for (output, (plane, blocks)) in self.outputs.iter().enumerate() {
            let inputs = operands.inputs();
            row_split::rows(operands.output::<f32>(output), plane.len(), self.parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(plane.len()).enumerate() {
                    let (image, block) = ((first + i) / blocks.len(), (first + i) % blocks.len());
                    self.block(image, *plane, &blocks[block], &inputs, y);
                }
            });
        }
    }
}
