//! Walking the combinations of knob values and asking the rules.

use super::{ConfigIndex, Enumerated, Place};
use kernels::{Limits, Task, VariantFacts};
use schema::KnobValue;
use std::collections::HashMap;

/// Combinations of one variant that are looked at. Knobs beyond it would take seconds to enumerate, so a variant that has more is
/// cut there and reported among the refused.
const COMBINATIONS_MAX: u64 = 1 << 20;

/// Combinations of a variant that one rule refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub variant: &'static str,
    pub reason: &'static str,
    pub count: u64,
}

/// The number of combinations of a variant's knob values, before the rules.
pub(super) fn combinations(variant: &VariantFacts) -> u64 {
    variant.knobs.iter().map(|knob| knob.values.len() as u64).fold(1, u64::saturating_mul)
}

/// The knob values of a combination, the last knob turning fastest.
pub(super) fn values(variant: &VariantFacts, combination: u32) -> Vec<KnobValue> {
    let digits = digits(variant, combination);
    variant.knobs.iter().zip(digits).map(|(knob, digit)| knob.values.nth(digit)).collect()
}

/// For each knob, which of its values a combination takes.
pub(super) fn digits(variant: &VariantFacts, combination: u32) -> Vec<usize> {
    let mut rest = combination as usize;
    let mut digits = vec![0; variant.knobs.len()];
    for (digit, knob) in digits.iter_mut().zip(variant.knobs).rev() {
        *digit = rest % knob.values.len();
        rest /= knob.values.len();
    }
    digits
}

/// The combination that takes these values: the inverse of [`digits`].
pub(super) fn combination(variant: &VariantFacts, digits: &[usize]) -> u32 {
    let number = variant.knobs.iter().zip(digits).fold(0, |number, (knob, digit)| number * knob.values.len() + digit);
    u32::try_from(number).expect("a digit list comes from a combination below the limit")
}

/// Every legal config of a task, variant by variant.
pub(super) fn all(task: &Task, variants: &[VariantFacts], limits: &Limits) -> Enumerated {
    let mut enumerated = Enumerated { legal: Vec::new(), by_key: HashMap::new(), refused: Vec::new() };
    for (at, variant) in variants.iter().enumerate() {
        let at = u16::try_from(at).expect("an operator has few variants");
        let total = combinations(variant);
        let mut refused = vec![0u64; variant.rules.len()];
        for combination in 0..total.min(COMBINATIONS_MAX) as u32 {
            let config = variant.config(values(variant, combination));
            match variant.rules.iter().position(|rule| !(rule.holds)(task, &config, limits)) {
                Some(rule) => refused[rule] += 1,
                None => {
                    let index = ConfigIndex(u32::try_from(enumerated.legal.len()).expect("the limit keeps the numbers small"));
                    enumerated.legal.push(Place { variant: at, combination });
                    enumerated.by_key.insert(config.key(), index);
                }
            }
        }
        let counted = variant.rules.iter().zip(refused).filter(|(_, count)| *count > 0);
        enumerated.refused.extend(counted.map(|(rule, count)| Refused { variant: variant.id, reason: rule.reason, count }));
        if let Some(count) = total.checked_sub(COMBINATIONS_MAX).filter(|&count| count > 0) {
            let reason = "beyond the first million combinations of this variant";
            enumerated.refused.push(Refused { variant: variant.id, reason, count });
        }
    }
    enumerated
}
