//! Where the seconds of trials go.
//!
//! A worker's own times travel with its answers; the rest of a round trip counts for what was asked. Sums are over all slots: of two
//! that time at once each counts in full.

use std::time::Duration;

/// What is done for a trial, in the order it is done.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The strategy and its prior choose configs.
    Propose,
    /// A config becomes a kernel: constants are packed, a kernel's program is made.
    Generate,
    /// A driver makes machine code of it; kernels of the host are compiled with the program.
    Compile,
    /// A worker starts, makes operands or a plan, and frees them.
    Load,
    /// The result is compared with what it should be.
    Verify,
    /// Samples are taken.
    Time,
    /// Observations go to disk.
    Store,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 7] =
        [Phase::Propose, Phase::Generate, Phase::Compile, Phase::Load, Phase::Verify, Phase::Time, Phase::Store];

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Propose => "propose",
            Phase::Generate => "generate",
            Phase::Compile => "compile",
            Phase::Load => "load",
            Phase::Verify => "verify",
            Phase::Time => "time",
            Phase::Store => "store",
        }
    }
}

/// Time by phase.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases([Duration; Phase::ALL.len()]);

impl Phases {
    /// A phase took so much more.
    pub fn add(&mut self, phase: Phase, took: Duration) {
        let sum = &mut self.0[phase as usize];
        *sum = sum.saturating_add(took);
    }

    /// Takes in what was measured elsewhere.
    pub fn absorb(&mut self, other: Phases) {
        other.each().for_each(|(phase, took)| self.add(phase, took));
    }

    /// What a phase took.
    pub fn of(&self, phase: Phase) -> Duration {
        self.0[phase as usize]
    }

    /// Every phase with what it took, in order.
    pub fn each(&self) -> impl Iterator<Item = (Phase, Duration)> + '_ {
        Phase::ALL.into_iter().map(|phase| (phase, self.of(phase)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absorbed_is_added_phase_by_phase() {
        let (mut all, mut part) = (Phases::default(), Phases::default());
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            all.add(phase, Duration::from_secs(1));
            part.add(phase, Duration::from_secs(at as u64));
        }
        all.absorb(part);
        let found: Vec<u64> = all.each().map(|(_, took)| took.as_secs()).collect();
        assert_eq!(found, [1, 2, 3, 4, 5, 6, 7]);
    }
}
