//! Rows to planes of 16 channels and back, eight by eight in registers.

use super::Change;
use crate::layout::BLOCK;
use crate::plane::{self, Plane};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::simd::transpose::transpose;
use crate::{BuildError, Isa, Kernel, Operands, Request, Rule, Task, Variant};

/// Rows to `Channels` and back.
pub static BLOCKS: Variant = Variant {
    id: "reorder.host_blocks",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule {
            reason: "only rows to channels and back are transposes",
            holds: |task, _, _| matches!(change(task), Ok(Change::Block(_) | Change::Unblock(_))),
        },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn change(task: &Task) -> Result<Change, BuildError> {
    let signature = super::signature(task)?;
    Change::of(&signature.inputs[0], &signature.outputs[0]).ok_or_else(|| task.refused("no such change of layout"))
}

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let (blocked, plane) = match change(request.task)? {
        Change::Block(plane) => (true, plane),
        Change::Unblock(plane) => (false, plane),
        _ => return Err(request.task.refused("only rows to channels and back are transposes")),
    };
    let channels = super::signature(request.task)?.inputs[0].shape[1];
    let (parts, isa) = (row_split::parts(request.config, request.limits), request.limits.isa);
    Ok(Box::new(Blocks { plane, blocked, channels, parts, isa }))
}

struct Blocks {
    plane: Plane,
    /// To channels, not from them.
    blocked: bool,
    channels: usize,
    parts: usize,
    isa: Isa,
}

impl Blocks {
    /// The lines that are transposed together: all of a plane when nothing lies between them.
    fn lines(&self) -> (usize, usize) {
        let plane = self.plane;
        if plane.halo == 0 { (1, plane.height * plane.width) } else { (plane.height, plane.width) }
    }

    fn block(&self, index: usize, x: &[f32], y: &mut [f32]) {
        let (plane, channels) = (self.plane, self.channels);
        let (image, block) = (index / plane::blocks(channels), index % plane::blocks(channels));
        let (lanes, size) = (plane::lanes(channels, block), plane.height * plane.width);
        let x = &x[(image * channels + block * BLOCK) * size..][..lanes * size];
        let (lines, width) = self.lines();
        Plane::clear_lanes(y, lanes);
        for line in 0..lines {
            transpose(self.isa, &x[line * width..], size, &mut y[plane.row(line)..], BLOCK, lanes, width);
        }
        plane.clear_halo(y);
    }

    /// Spreads block `index` of all blocks of all images.
    fn unblock(&self, index: usize, x: &[f32], y: &mut [f32]) {
        let plane = self.plane;
        let size = plane.height * plane.width;
        let x = &x[index * plane.len()..][..plane.len()];
        let (lines, width) = self.lines();
        for line in 0..lines {
            let lanes = y.len() / size;
            transpose(self.isa, &x[plane.row(line)..], BLOCK, &mut y[line * width..], size, width, lanes);
        }
    }
}

impl Kernel for Blocks {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let y = operands.output::<f32>(0);
        let plane = self.plane;
        if self.blocked {
            row_split::rows(y, plane.len(), self.parts, &|first, y| {
                y.chunks_exact_mut(plane.len()).enumerate().for_each(|(i, y)| self.block(first + i, x, y));
            });
        } else {
            // A last block of fewer channels ends an image, so only whole images can be cut apart.
            let (size, blocks) = (plane.height * plane.width, plane::blocks(self.channels));
            let image = self.channels * size;
            let whole = self.channels.is_multiple_of(BLOCK) || y.len() == image;
            let unit = if whole { BLOCK * size } else { image };
            row_split::rows(y, unit, self.parts, &|first, y| {
                for (i, y) in y.chunks_mut(unit).enumerate() {
                    let index = if whole { first + i } else { (first + i) * blocks };
                    y.chunks_mut(BLOCK * size).enumerate().for_each(|(block, y)| self.unblock(index + block, x, y));
                }
            });
        }
    }
}
