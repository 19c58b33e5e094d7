//! The numbers of a convolution of either direction, as kernels read them.

use crate::gpu::{Buffer, Gpu};
use crate::operator::upload_words;
use cubecl::prelude::*;
use kernels::{BuildError, Task};

/// Extents along y and x; channels and extents of the input, of the output, of a group; kernel, strides, pads before, dilations.
#[derive(CubeType, Copy, Clone)]
pub struct Geometry {
    pub channels: u32,
    pub height: u32,
    pub width: u32,
    pub o: u32,
    pub oh: u32,
    pub ow: u32,
    pub group_c: u32,
    pub group_o: u32,
    pub kh: u32,
    pub kw: u32,
    pub stride_y: u32,
    pub stride_x: u32,
    pub pad_y: u32,
    pub pad_x: u32,
    pub dilation_y: u32,
    pub dilation_x: u32,
}

/// Reads what [`upload`] wrote.
#[cube]
pub fn read(g: &Array<u32>) -> Geometry {
    Geometry {
        channels: g[0],
        height: g[1],
        width: g[2],
        o: g[3],
        oh: g[4],
        ow: g[5],
        group_c: g[6],
        group_o: g[7],
        kh: g[8],
        kw: g[9],
        stride_y: g[10],
        stride_x: g[11],
        pad_y: g[12],
        pad_x: g[13],
        dilation_y: g[14],
        dilation_x: g[15],
    }
}

/// Writes the numbers for [`read`], in the order of its fields.
pub fn upload(
    task: &Task,
    gpu: &Gpu,
    extents: [[usize; 3]; 2],
    group: [usize; 2],
    [kernel, strides, pads, dilations]: [[usize; 2]; 4],
) -> Result<Buffer, BuildError> {
    let rest = [group, kernel, strides, pads, dilations];
    let words: Vec<u32> = extents.iter().flatten().chain(rest.iter().flatten()).map(|&number| number as u32).collect();
    upload_words(task, gpu, &words)
}
