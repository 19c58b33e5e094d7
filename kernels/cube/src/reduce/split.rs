//! What is folded into an element is cut into parts, each folded by a team of its own; a second launch folds the parts, always in the same
//! order. For outputs of few elements, whose teams leave most of a device idle.

use super::pass::{Kind, Manner, Pass, widest};
use super::{VECTOR, VECTORS, folded, kept, neighbours};
use crate::gpu::{Buffer, Gpu};
use crate::operator::{PLAIN, countable, refuse};
use crate::team::{TEAM_FITS, TEAM_UNITS, Team, team_default};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static SPLIT: CubeVariant = CubeVariant {
    id: "reduce.cube_split",
    revision: 1,
    knobs: &[TEAM_UNITS, VECTOR, Knob::ints("parts", PARTS)],
    rules: &[
        PLAIN,
        TEAM_FITS,
        VECTORS,
        turns_end!(turns),
        Rule {
            reason: "the output has elements enough to keep the device busy",
            holds: |task, _, limits| kept(task) <= few(limits),
        },
        Rule {
            reason: "its parts are too small to be worth a second launch",
            holds: |task, config, _| parts_of(config).is_some_and(|parts| folded(task) / parts >= PART_MIN),
        },
        Rule {
            reason: "the folds of all parts are larger than a buffer of the device or than its kernels count",
            holds: |task, config, limits| {
                let folds = parts_of(config).map(|parts| kept(task) * parts);
                folds
                    .zip(limits.gpu)
                    .is_some_and(|(folds, gpu)| countable(folds) && (folds * size_of::<f32>()) as u64 <= gpu.buffer_bytes)
            },
        },
    ],
    default,
    build,
};

const PARTS: &[i64] = &[8, 16, 32, 64, 128, 256];
/// Elements of a part at least.
const PART_MIN: usize = 64;
/// Parts of all elements together that are wanted without tuning.
const TEAMS_WANTED: usize = 64;

/// Elements of an output whose teams leave such a device idle.
fn few(limits: &Limits) -> usize {
    if limits.gpu.is_some_and(|gpu| gpu.software) { 16 } else { 1024 }
}

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (kept, folded) = (kept(task).max(1), folded(task));
    let worth = PARTS.iter().rev().copied().find(|&parts| kept * parts as usize <= TEAMS_WANTED.max(8 * kept));
    let parts = worth.filter(|&parts| folded / parts as usize >= PART_MIN).unwrap_or(PARTS[0]);
    let mut values = team_default(kept * parts as usize, folded.div_ceil(parts as usize), neighbours(task), limits);
    values.extend([KnobValue::Int(widest(task)), KnobValue::Int(parts)]);
    values
}

fn parts_of(config: &Config) -> Option<usize> {
    config.int("parts").map(|parts| parts as usize)
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (team, parts) = (Team::of(config)?, parts_of(config)?);
    Some(team.turns(1, folded(task).div_ceil(parts)).max(team.turns(1, parts)))
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let knobs = Team::of(request.config).zip(parts_of(request.config));
    let (team, parts) = knobs.ok_or_else(|| refuse(task, &"it names no units or no parts"))?;
    let vector = request.config.int("vector").unwrap_or(1) as usize;
    let manner = Manner { team, kind: Kind::of(task)?, vector };
    Ok(Box::new(TwoPasses {
        parts: Pass::of_parts(task, gpu, manner, parts)?,
        whole: Pass::over_parts(task, gpu, manner, parts)?,
        folds: kept(task) * parts,
    }))
}

struct TwoPasses {
    parts: Pass,
    whole: Pass,
    /// Of all parts and elements.
    folds: usize,
}

impl CubeKernel for TwoPasses {
    fn prepared_bytes(&self) -> usize {
        self.parts.prepared_bytes() + self.whole.prepared_bytes()
    }

    fn scratch_bytes(&self) -> Vec<usize> {
        vec![self.folds * size_of::<f32>()]
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]) {
        self.parts.launch(gpu, inputs[0].as_ref().expect("the task has an x"), &scratch[0]);
        self.whole.launch(gpu, &scratch[0], &outputs[0]);
    }
}
