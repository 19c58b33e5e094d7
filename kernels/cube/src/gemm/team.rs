//! A team of units for each column of C, which shares k out; what is read of B serves several rows. For products with few rows, whose
//! columns alone do not fill a device.

use super::tiling::finished;
use super::{FITS_BUFFERS, Form, Prepared, folded, launchable};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::refuse;
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "gemm.cube_team",
    revision: 2,
    knobs: &[
        // Columns of a cube, and units that share the k of each: a power of two, so that halves can be folded onto each other.
        Knob::pairs(
            "units",
            &[(1, 32), (1, 64), (1, 128), (1, 256), (4, 16), (8, 8), (8, 32), (16, 4), (16, 16), (32, 2), (32, 8), (64, 4)],
        ),
        Knob::ints("rows", &[1, 2, 4, 8]),
    ],
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        Rule {
            reason: "more units than a cube of the device has, or more shared memory",
            holds: |_, config, limits| {
                Team::of(config).zip(limits.gpu).is_some_and(|(team, gpu)| {
                    team.across * team.along <= gpu.units_per_cube
                        && team.across * team.along <= gpu.cube_dim[0]
                        && team.sums() * size_of::<f32>() <= gpu.shared_bytes as usize
                })
            },
        },
        Rule {
            reason: "more rows of a cube than C has, or more cubes than the device can launch",
            holds: |task, config, limits| {
                Team::of(config).zip(folded(task)).is_some_and(|(team, shape)| {
                    (team.rows == 1 || team.rows as usize <= shape.m)
                        && launchable(shape.n.div_ceil(team.across as usize), limits)
                        && launchable(shape.m.div_ceil(team.rows as usize), limits)
                        && launchable(shape.batch(), limits)
                })
            },
        },
    ],
    default,
    build,
};

/// Units side by side read side by side: along k where columns of B lie one after the other, else across.
fn default(task: &Task, _: &Limits) -> Vec<KnobValue> {
    let units = if task.int("trans_b") == 1 { KnobValue::Pair(1, 64) } else { KnobValue::Pair(32, 8) };
    let rows = [8, 4, 2].into_iter().find(|&rows| folded(task).is_some_and(|shape| rows <= shape.m));
    vec![units, KnobValue::Int(rows.unwrap_or(1) as i64)]
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(looped(folded(task)?.k.div_ceil(Team::of(config)?.along as usize), 0))
}

/// The teams of a cube, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Team {
    /// Columns of C.
    across: u32,
    /// Units of each.
    along: u32,
    /// Rows of C.
    rows: u32,
}

impl Team {
    fn of(config: &Config) -> Option<Team> {
        let ((across, along), rows) = (config.pair("units")?, config.int("rows")?);
        Some(Team { across: across as u32, along: along as u32, rows: rows as u32 })
    }

    /// Sums of all units.
    fn sums(self) -> usize {
        (self.rows * self.along * self.across) as usize
    }
}

struct Teams {
    prepared: Prepared,
    team: Team,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let team = Team::of(request.config).ok_or_else(|| refuse(request.task, &"it says nothing of units and rows"))?;
    Ok(Box::new(Teams { prepared: Prepared::new(request, gpu)?, team }))
}

impl CubeKernel for Teams {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (a, extra) = self.prepared.weights.operands(inputs);
        let (shape, team) = (&self.prepared.shape, self.team);
        for (b, first, columns) in self.prepared.launches(inputs) {
            let rows = (shape.m as u32).div_ceil(team.rows);
            with_client!(gpu, client => columns_of_c::launch::<f32, _>(
                client,
                CubeCount::Static(columns.div_ceil(team.across), rows, shape.batch() as u32),
                // In a line, as `crate::team::Team::dim`.
                CubeDim::new_1d(team.across * team.along),
                a.array(),
                b.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.prepared.starts.words(),
                shape.m as u32,
                columns,
                shape.k as u32,
                first,
                shape.n as u32,
                shape.alpha,
                team,
                self.prepared.form(),
            ));
        }
    }
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn columns_of_c<F: Float + CubeElement>(
    a: &Array<F>,
    b: &Array<F>,
    extra: &Sequence<Array<F>>,
    c: &mut Array<F>,
    starts: &Array<u32>,
    m: u32,
    n: u32,
    k: u32,
    first: u32,
    width: u32,
    alpha: F,
    #[comptime] team: Team,
    #[comptime] form: Form,
) {
    let (m, n, k, first, width, alpha) = (
        uniform::number(m),
        uniform::number(n),
        uniform::number(k),
        uniform::number(first),
        uniform::number(width),
        uniform::float::<F>(alpha),
    );
    let (across, along) = (UNIT_POS % team.across, UNIT_POS / team.across);
    let column = CUBE_POS_X * team.across + across;
    let first_row = CUBE_POS_Y * team.rows;
    let start_a = starts[(CUBE_POS_Z * 2) as usize];
    let start_b = starts[(CUBE_POS_Z * 2 + 1) as usize];
    let mut shared = SharedMemory::<F>::new(comptime!(team.sums()));
    let mut sums = Array::<F>::new(comptime!(team.rows as usize));
    #[unroll]
    for r in 0..team.rows {
        sums[comptime!(r as usize)] = F::new(0.0);
    }
    if column < n {
        for i in range_stepped(along, k, team.along) {
            let at_b = if comptime!(form.trans_b) { column * k + i } else { i * n + column };
            let value = b[(start_b + at_b) as usize];
            #[unroll]
            for r in 0..team.rows {
                // Rows that C lacks are computed as its last and not stored.
                let row = min(first_row + r, m - 1);
                let at_a = if comptime!(form.trans_a) { i * m + row } else { row * k + i };
                sums[comptime!(r as usize)] += a[(start_a + at_a) as usize] * value;
            }
        }
    }
    #[unroll]
    for r in 0..team.rows {
        shared[((r * team.along + along) * team.across + across) as usize] = sums[comptime!(r as usize)];
    }
    sync_cube();
    #[unroll]
    for round in 0..comptime!(team.along.ilog2()) {
        let half = comptime!(team.along >> (round + 1));
        if along < half {
            #[unroll]
            for r in 0..team.rows {
                let at = (r * team.along + along) * team.across + across;
                let other = shared[(at + half * team.across) as usize];
                shared[at as usize] += other;
            }
        }
        sync_cube();
    }
    #[unroll]
    for r in 0..team.rows {
        let row = first_row + r;
        if along == comptime!(r % team.along) && column < n && row < m {
            let at = (CUBE_POS_Z * m + row) * width + first + column;
            let sum = shared[(r * comptime!(team.along * team.across) + across) as usize];
            c[at as usize] = finished::<F>(sum * alpha, extra, first + column, at, comptime!(form.finish));
        }
    }
}
