//! The general variant: plain loops over lines of the output.

use super::Change;
use crate::layout::BLOCK;
use crate::plane::{self, Plane};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::{BuildError, Kernel, Operands, Request, Variant};

/// Any change of layout.
pub static LINES: Variant = Variant {
    id: "reorder.host_lines",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let signature = super::signature(request.task)?;
    let (x, y) = (&signature.inputs[0], &signature.outputs[0]);
    let change = Change::of(x, y).ok_or_else(|| request.task.refused("no such change of layout"))?;
    let channels = if x.shape.len() == 4 { x.shape[1] } else { 0 };
    Ok(Box::new(Lines { change, channels, parts: row_split::parts(request.config, request.limits) }))
}

struct Lines {
    change: Change,
    channels: usize,
    parts: usize,
}

impl Kernel for Lines {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let y = operands.output::<f32>(0);
        let (channels, parts) = (self.channels, self.parts);
        match self.change {
            Change::Copy => row_split::rows(y, 4096, parts, &|first, y| y.copy_from_slice(&x[first * 4096..][..y.len()])),
            Change::Block(plane) => row_split::rows(y, plane.len(), parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(plane.len()).enumerate() {
                    block(plane, channels, first + i, x, y);
                }
            }),
            Change::Unblock(plane) => {
                let image = plane.height * plane.width;
                row_split::rows(y, image, parts, &|first, y| {
                    for (i, y) in y.chunks_exact_mut(image.max(1)).enumerate() {
                        unblock(plane, channels, first + i, x, y);
                    }
                });
            }
            Change::Halo(from, to) => row_split::rows(y, to.len(), parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(to.len()).enumerate() {
                    let x = &x[(first + i) * from.len()..][..from.len()];
                    for row in 0..to.height {
                        y[to.row(row)..][..to.width * BLOCK].copy_from_slice(&x[from.row(row)..][..to.width * BLOCK]);
                    }
                    to.clear_halo(y);
                }
            }),
            Change::ToColumns { m, k } => row_split::rows(y, m * BLOCK, parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(m * BLOCK).enumerate() {
                    let (matrix, block) = ((first + i) / plane::blocks(k), (first + i) % plane::blocks(k));
                    let lanes = plane::lanes(k, block);
                    for (row, y) in y.chunks_exact_mut(BLOCK).enumerate() {
                        y[..lanes].copy_from_slice(&x[(matrix * m + row) * k + block * BLOCK..][..lanes]);
                        y[lanes..].fill(0.0);
                    }
                }
            }),
            Change::FromColumns { m, k } => row_split::rows(y, k, parts, &|first, y| {
                for (i, y) in y.chunks_exact_mut(k).enumerate() {
                    let (matrix, row) = ((first + i) / m, (first + i) % m);
                    for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                        let at = ((matrix * plane::blocks(k) + block) * m + row) * BLOCK;
                        y.copy_from_slice(&x[at..at + y.len()]);
                    }
                }
            }),
        }
    }
}

/// Gathers 16 channels of rows into one plane.
fn block(plane: Plane, channels: usize, index: usize, x: &[f32], y: &mut [f32]) {
    let (image, block) = (index / plane::blocks(channels), index % plane::blocks(channels));
    let lanes = plane::lanes(channels, block);
    for row in 0..plane.height {
        let to = &mut y[plane.row(row)..][..plane.width * BLOCK];
        for (column, to) in to.chunks_exact_mut(BLOCK).enumerate() {
            for (lane, to) in to.iter_mut().enumerate() {
                let channel = image * channels + block * BLOCK + lane;
                *to = if lane < lanes { x[(channel * plane.height + row) * plane.width + column] } else { 0.0 };
            }
        }
    }
    plane.clear_halo(y);
}

/// Spreads one channel of a plane into rows.
fn unblock(plane: Plane, channels: usize, index: usize, x: &[f32], y: &mut [f32]) {
    let (image, channel) = (index / channels, index % channels);
    let at = (image * plane::blocks(channels) + channel / BLOCK) * plane.len() + channel % BLOCK;
    for (row, y) in y.chunks_exact_mut(plane.width.max(1)).enumerate() {
        let from = &x[at + plane.row(row)..];
        for (column, y) in y.iter_mut().enumerate() {
            *y = from[column * BLOCK];
        }
    }
}
