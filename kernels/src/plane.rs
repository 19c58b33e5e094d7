//! One plane of 16 channels inside its halo: the part of a [`Layout::Channels`](crate::Layout::Channels) tensor that kernels walk.

use crate::OperandSpec;
use crate::layout::{BLOCK, Layout};

/// `height × width` positions of 16 channels, with `halo` positions of zeros on every side.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Plane {
    pub height: usize,
    pub width: usize,
    pub halo: usize,
}

impl Plane {
    /// The planes of an operand in [`Layout::Channels`].
    pub fn of(spec: &OperandSpec) -> Option<Plane> {
        match (spec.layout, &spec.shape[..]) {
            (Layout::Channels { halo }, &[_, _, height, width]) => Some(Plane { height, width, halo }),
            _ => None,
        }
    }

    /// Elements of one line of positions, halo included.
    pub fn line(&self) -> usize {
        (self.width + 2 * self.halo) * BLOCK
    }

    /// Elements of the plane, halo included.
    pub fn len(&self) -> usize {
        (self.height + 2 * self.halo) * self.line()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the first position of row `y` lies.
    pub fn row(&self, y: usize) -> usize {
        (y + self.halo) * self.line() + self.halo * BLOCK
    }

    /// Writes zeros around the positions.
    pub fn clear_halo(&self, plane: &mut [f32]) {
        if self.halo == 0 {
            return;
        }
        let (line, edge) = (self.line(), self.halo * BLOCK);
        let (above, below) = (self.halo * line, (self.halo + self.height) * line);
        plane[..above].fill(0.0);
        plane[below..].fill(0.0);
        for line in plane[above..below].chunks_exact_mut(line) {
            let end = line.len() - edge;
            line[..edge].fill(0.0);
            line[end..].fill(0.0);
        }
    }

    /// Writes zeros into the lanes from `lanes` on, at every position.
    pub fn clear_lanes(plane: &mut [f32], lanes: usize) {
        if lanes < BLOCK {
            plane.chunks_exact_mut(BLOCK).for_each(|position| position[lanes..].fill(0.0));
        }
    }
}

/// Blocks of 16 channels.
pub fn blocks(channels: usize) -> usize {
    channels.div_ceil(BLOCK)
}

/// The channels of block `block`: 16, or fewer in the last.
pub fn lanes(channels: usize, block: usize) -> usize {
    (channels - block * BLOCK).min(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_halo_is_cleared() {
        let plane = Plane { height: 2, width: 3, halo: 1 };
        let mut values = vec![1.0; plane.len()];
        plane.clear_halo(&mut values);
        assert_eq!(values.iter().sum::<f32>(), (2 * 3 * BLOCK) as f32);
        assert!(values[plane.row(1)..][..3 * BLOCK].iter().all(|&x| x == 1.0));
        Plane::clear_lanes(&mut values, 5);
        assert_eq!(values.iter().sum::<f32>(), (2 * 3 * 5) as f32);
    }
}
