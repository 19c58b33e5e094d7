//! Single elements out of lines: the innermost axis. The indices are brought inside once for all lines.

use super::Extents;
use crate::embedding::{Indices, row_of};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::strided_copy::by_width;
use crate::{BuildError, Element, Kernel, Operands, Request, Rule, Variant};

/// The innermost axis.
pub static LINES: Variant = Variant {
    id: "gather.host_lines",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[
        Rule { reason: "the axis is not the innermost", holds: |task, _, _| Extents::of(task).is_ok_and(|e| e.inner == 1) },
        PARTITION_RULE,
    ],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Lines { extents: Extents::of(request.task)?, parts: row_split::parts(request.config, request.limits) }))
}

struct Lines {
    extents: Extents,
    parts: usize,
}

impl Lines {
    fn copy<T: Element>(&self, operands: &mut Operands<'_>) {
        let e = self.extents;
        let x = operands.input::<T>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, e.wide);
        let (y, places) = operands.output_and_scratch::<T, u64>(0);
        let places = &mut places[..e.count];
        for (i, place) in places.iter_mut().enumerate() {
            *place = row_of(indices.at(i), e.extent) as u64;
        }
        let places = &*places;
        row_split::rows(y, e.count, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(e.count).enumerate() {
                let line = &x[(first + i) * e.extent..][..e.extent];
                y.iter_mut().zip(places).for_each(|(y, &place)| *y = line[place as usize]);
            }
        });
    }
}

impl Kernel for Lines {
    fn scratch_bytes(&self) -> usize {
        self.extents.count * size_of::<u64>()
    }

    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.extents.dtype, self.copy(operands));
    }
}
