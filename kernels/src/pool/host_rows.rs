//! Poolings of one to three axes in rows: window by window.

use super::{Window, windows};
use crate::row_split;
use crate::{Kernel, Operands, Signature, Task};

/// A pooling in rows, of three spatial axes of which the first may be of extent 1.
pub struct Rows {
    windows: [Vec<Window>; 3],
    dilations: [usize; 3],
    from: [usize; 3],
    to: [usize; 3],
    max: bool,
    parts: usize,
}

impl Rows {
    /// Of a checked task.
    pub fn new(task: &Task, signature: &Signature, parts: usize) -> Self {
        let (x, y) = (&signature.inputs[0], &signature.outputs[0]);
        let single = vec![Window { first: 0, end: 1, counted: 1 }];
        let mut all = [single.clone(), single.clone(), single];
        let (mut dilations, mut from, mut to) = ([1; 3], [1; 3], [1; 3]);
        let given = windows(task, x, y);
        let skip = 3 - given.len();
        for (axis, windows) in given.into_iter().enumerate() {
            all[skip + axis] = windows;
            dilations[skip + axis] = task.ints("dilations")[axis];
            from[skip + axis] = x.shape[axis + 2];
            to[skip + axis] = y.shape[axis + 2];
        }
        Rows { windows: all, dilations, from, to, max: task.word("kind") == "max", parts }
    }

    fn line(&self, (depth, height): (&Window, &Window), x: &[f32], y: &mut [f32]) {
        let [dz, dy, dx] = self.dilations;
        for (width, y) in self.windows[2].iter().zip(y) {
            let mut folded = if self.max { f32::NEG_INFINITY } else { 0.0 };
            for z in (depth.first..depth.end).step_by(dz) {
                for row in (height.first..height.end).step_by(dy) {
                    let line = &x[(z * self.from[1] + row) * self.from[2]..][..self.from[2]];
                    for &x in line[width.first..width.end].iter().step_by(dx) {
                        folded = if self.max { if x > folded || x.is_nan() { x } else { folded } } else { folded + x };
                    }
                }
            }
            *y = if self.max { folded } else { folded / (depth.counted * height.counted * width.counted) as f32 };
        }
    }
}

impl Kernel for Rows {
    fn run(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<f32>(0).unwrap_or_default();
        let (from, to) = (self.from.iter().product::<usize>(), self.to.iter().product::<usize>());
        row_split::rows(operands.output::<f32>(0), to, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(to).enumerate() {
                let x = &x[(first + i) * from..][..from];
                for (line, y) in y.chunks_exact_mut(self.to[2]).enumerate() {
                    let windows = (&self.windows[0][line / self.to[1]], &self.windows[1][line % self.to[1]]);
                    self.line(windows, x, y);
                }
            }
        });
    }
}
