//! A team of units for each element of the output, which share out what is folded into it.

use super::pass::{Kind, Manner, Pass, widest};
use super::{VECTOR, VECTORS, folded, kept, neighbours};
use crate::gpu::{Buffer, Gpu};
use crate::operator::{PLAIN, refuse};
use crate::team::{TEAM_FITS, TEAM_UNITS, Team, team_default};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use kernels::{BuildError, Request, Task};
use schema::{Config, KnobValue};

pub static TEAM: CubeVariant = CubeVariant {
    id: "reduce.cube_team",
    revision: 4,
    knobs: &[TEAM_UNITS, VECTOR],
    rules: &[PLAIN, TEAM_FITS, VECTORS, turns_end!(turns)],
    default: |task, limits| {
        let mut values = team_default(kept(task), folded(task), neighbours(task), limits);
        values.push(KnobValue::Int(widest(task)));
        values
    },
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Team::of(config)?.turns(1, folded(task)))
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let task = request.task;
    let team = Team::of(request.config).ok_or_else(|| refuse(task, &"it names no units"))?;
    let vector = request.config.int("vector").unwrap_or(1) as usize;
    Ok(Box::new(OnePass(Pass::whole(task, gpu, Manner { team, kind: Kind::of(task)?, vector })?)))
}

struct OnePass(Pass);

impl CubeKernel for OnePass {
    fn prepared_bytes(&self) -> usize {
        self.0.prepared_bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        self.0.launch(gpu, inputs[0].as_ref().expect("the task has an x"), &outputs[0]);
    }
}
