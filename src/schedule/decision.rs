//! A choice with its reasons: what was predicted, which rivals there were and why they lost. Plain values of fixed size, so that
//! making one allocates nothing; words are made of them elsewhere.

use super::{CurveId, DeviceId, ModelId, Nanos, RequestId, RunId, Stages, WorkerId};
use schema::{Batch, Share};

/// Rivals that a decision keeps.
pub const RIVALS_MAX: usize = 8;

/// A run that was started, and why there.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Decision {
    pub model: ModelId,
    pub curve: CurveId,
    pub worker: WorkerId,
    pub device: DeviceId,
    pub share: Share,
    pub batch: Batch,
    /// Times the batch is run for the rows.
    pub repeats: u32,
    pub rows: u32,
    pub requests: usize,
    pub started: Nanos,
    /// Of the change of share before it; 0 when there is none.
    pub gap: Nanos,
    pub stages: Stages,
    pub spread: Nanos,
    /// When its answers are predicted.
    pub finish: Nanos,
    /// The earliest of its requests; [`Nanos::NEVER`] without one.
    pub deadline: Nanos,
    /// The row that it was predicted by has drifted.
    pub stale: bool,
    pub(super) rivals: [Option<Rival>; RIVALS_MAX],
    /// Those beyond [`RIVALS_MAX`].
    pub rivals_left_out: u32,
}

/// Another share or device that the same requests could have had.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Rival {
    pub device: DeviceId,
    pub share: Share,
    pub batch: Batch,
    /// `None` when nothing can run there.
    pub finish: Option<Nanos>,
    pub why: Why,
}

/// Why a rival lost.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No worker of that share was made.
    NoWorker,
    /// Its workers died and are being replaced.
    Away,
    /// The device is lost.
    Lost,
    /// It would miss the deadline by so much, which the chosen keeps.
    Late(Nanos),
    /// It is in use until then, and would finish later than the chosen.
    InUse(Nanos),
    /// It would finish later by so much.
    Later(Nanos),
    /// It would finish no later: the policy's rule is another.
    Rule,
}

impl Decision {
    /// The rivals by device and share.
    pub fn rivals(&self) -> impl Iterator<Item = &Rival> {
        self.rivals.iter().flatten()
    }

    pub(super) fn add_rival(&mut self, rival: Rival) {
        match self.rivals.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(rival),
            None => self.rivals_left_out += 1,
        }
    }
}

/// What the driver is to do.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation in each decision")]
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Action {
    /// Run the requests that [`Core::requests_of`](super::Core::requests_of) names.
    Start { run: RunId, decision: Decision },
    /// Answer an accepted request with a refusal.
    Refuse { request: RequestId, refusal: Refusal },
}

/// Why a request is not served.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody knows the model.
    UnknownModel,
    /// No device that is left can run the model: there is no record, no worker, or all are lost.
    NoDevice,
    /// The service ends.
    Closing,
    /// Its deadline was over when it arrived.
    DeadlinePassed,
    /// As many of its model as there may be are being served. There is room after `retry_after`, by the present rates.
    QueueFull { retry_after: Nanos },
    /// It would miss its deadline. After `retry_after` another such request would keep its own, by the present rates.
    TooLate { predicted: Nanos, retry_after: Nanos },
    /// The policy gave it up.
    Policy { retry_after: Nanos },
}

/// A row whose runs take another time than it says.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Alarm {
    pub model: ModelId,
    pub device: DeviceId,
    pub share: Share,
    pub batch: Batch,
    /// Median of actual over recorded time.
    pub ratio: f64,
}
