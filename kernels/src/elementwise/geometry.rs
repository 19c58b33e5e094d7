//! Where the elements of each input lie for a stretch of the output.

use crate::layout::Layout;
use crate::plane::Plane;
use crate::strides::{broadcast_strides, collapse, offset_of};
use crate::{OperandSpec, Signature};

/// How the output is walked.
#[derive(Clone, Debug)]
pub enum Walk {
    /// As flat elements in row-major order.
    Rows {
        /// The output's axes, joined where all operands allow.
        dims: Vec<usize>,
    },
    /// Plane by plane of 16 channels.
    Blocked(Blocked),
}

/// The extents of an output in blocks of 16: `outer × ⌈channels/16⌉` planes.
#[derive(Clone, Debug)]
pub struct Blocked {
    pub outer: Vec<usize>,
    pub channels: usize,
    pub plane: Plane,
}

/// Where an input's elements lie.
#[derive(Clone, Debug)]
pub enum Access {
    /// At the output's own place.
    Direct,
    /// One element for all.
    Once,
    /// In rows, under strides along the walk's axes (blocked: along outer …, channel, y, x).
    Strided(Vec<isize>),
    /// One element per channel of a plane, under strides along outer … and channel.
    Lanes(Vec<isize>),
    /// 16 channels at a time: one position in the middle of a halo.
    BlockLanes { halo: usize },
    /// Blocked like the output, with its own halo.
    Plane { halo: usize },
}

impl Blocked {
    /// The output's plane with another halo.
    pub fn with_halo(&self, halo: usize) -> Plane {
        Plane { halo, ..self.plane }
    }
}

/// The walk over an output and the access to each input. The signature has been checked.
pub fn plan(signature: &Signature) -> (Walk, Vec<Access>) {
    let y = &signature.outputs[0];
    match y.layout {
        Layout::Rows => rows(&signature.inputs, &y.shape),
        Layout::Channels { halo } => {
            let [n, c, h, w] = y.shape[..] else { unreachable!("a Channels layout has four axes") };
            blocked(
                &signature.inputs,
                &y.shape,
                Blocked { outer: vec![n], channels: c, plane: Plane { height: h, width: w, halo } },
            )
        }
        Layout::Columns => {
            let [ref outer @ .., m, k] = y.shape[..] else { unreachable!("a Columns layout has two axes") };
            blocked(
                &signature.inputs,
                &y.shape,
                Blocked { outer: outer.to_vec(), channels: k, plane: Plane { height: 1, width: m, halo: 0 } },
            )
        }
    }
}

fn signed_strides(spec: &OperandSpec, out: &[usize]) -> Vec<isize> {
    let strides = broadcast_strides(&spec.shape, out).expect("the signature broadcasts");
    strides.into_iter().map(|stride| stride as isize).collect()
}

fn rows(inputs: &[OperandSpec], out: &[usize]) -> (Walk, Vec<Access>) {
    let mut dims = out.to_vec();
    let mut strides: Vec<Vec<isize>> = inputs.iter().map(|spec| signed_strides(spec, out)).collect();
    collapse(&mut dims, &mut strides);
    let count: usize = out.iter().product();
    let access = inputs.iter().zip(strides).map(|(spec, strides)| {
        let elements: usize = spec.shape.iter().product();
        match elements {
            1 => Access::Once,
            _ if elements == count => Access::Direct,
            _ => Access::Strided(strides),
        }
    });
    let access = access.collect();
    (Walk::Rows { dims }, access)
}

fn blocked(inputs: &[OperandSpec], out: &[usize], walk: Blocked) -> (Walk, Vec<Access>) {
    let columns = signature_is_columns(out, &walk);
    let access = inputs.iter().map(|spec| match spec.layout {
        Layout::Channels { halo } if spec.shape[..] != *out => Access::BlockLanes { halo },
        Layout::Channels { halo } => Access::Plane { halo },
        Layout::Columns => Access::Plane { halo: 0 },
        Layout::Rows if spec.shape.iter().product::<usize>() == 1 => Access::Once,
        Layout::Rows => {
            let mut strides = signed_strides(spec, out);
            if columns {
                // […, m, k] is walked as outer …, channel k, y 0, x m.
                let (m, k) = (strides[out.len() - 2], strides[out.len() - 1]);
                strides.truncate(out.len() - 2);
                strides.extend([k, 0, m]);
            }
            let spatial = strides.len() - 2;
            if strides[spatial..] == [0, 0] {
                strides.truncate(spatial);
                Access::Lanes(strides)
            } else {
                Access::Strided(strides)
            }
        }
    });
    let access = access.collect();
    (Walk::Blocked(walk), access)
}

/// Whether the walk is one over columns: then the channels are the last axis.
fn signature_is_columns(out: &[usize], walk: &Blocked) -> bool {
    walk.outer.len() + 2 == out.len()
}

/// Calls `run(at, offset, count, stride)` for the runs that make up `count` elements from the `start`-th of a walk in rows.
pub fn runs(dims: &[usize], strides: &[isize], start: usize, count: usize, mut run: impl FnMut(usize, usize, usize, usize)) {
    let (Some(&inner), Some(&stride)) = (dims.last(), strides.last()) else { return run(0, 0, count, 0) };
    let mut at = 0;
    while at < count {
        let flat = start + at;
        let length = (inner - flat % inner).min(count - at);
        run(at, offset_of(flat, dims, strides) as usize, length, stride as usize);
        at += length;
    }
}
