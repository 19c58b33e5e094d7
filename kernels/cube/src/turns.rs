//! Turns of loops that a unit takes, of which some drivers allow only so many ([`kernels::GpuLimits::turns`]).
//!
//! A variant counts its own in a function of task and config, beside its rules, and asks by [`turns_end`].

use kernels::Limits;

/// Turns of a loop that goes round so often, with `within` turns of other loops each time; it takes one more to find its end.
pub fn looped(rounds: usize, within: usize) -> usize {
    rounds.saturating_mul(within.saturating_add(1)).saturating_add(1)
}

/// Whether a unit may take so many turns; `None` stands for what is no task of the variant.
pub fn allowed(turns: Option<usize>, limits: &Limits) -> bool {
    let Some((turns, gpu)) = turns.zip(limits.gpu) else { return false };
    gpu.turns.is_none_or(|most| turns <= most as usize)
}

/// The rule that a unit's loops come to their end. The argument counts its turns: `fn(&Task, &Config) -> Option<usize>`.
macro_rules! turns_end {
    ($count:expr) => {
        kernels::Rule {
            reason: "the loops of a unit take more turns in all than the driver lets them",
            holds: |task, config, limits| $crate::turns::allowed($count(task, config), limits),
        }
    };
}
pub(crate) use turns_end;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_within_loops_are_multiplied_and_each_takes_a_turn_to_find_its_end() {
        // for 3 { for 2 {} }: three times a turn and the three of the inner loop, and the last.
        assert_eq!((looped(0, 0), looped(2, 0), looped(3, looped(2, 0))), (1, 3, 13));
        assert_eq!(looped(usize::MAX, 1), usize::MAX);
    }
}
