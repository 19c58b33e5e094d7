//! Configs one step of one knob away.

use super::enumerate::{combination, digits};
use super::{ConfigIndex, Space};
use kernels::Values;

impl Space {
    /// The configs that differ in one knob by one step: for numbers and pairs the nearest legal value on either side, for names every
    /// legal one. Empty for a number past the end.
    pub fn neighbours(&self, index: ConfigIndex) -> Vec<ConfigIndex> {
        let Some(place) = self.enumerated().legal.get(index.index()).copied() else { return Vec::new() };
        let variant = &self.variants[usize::from(place.variant)];
        let at = digits(variant, place.combination);
        let mut found = Vec::new();
        for (knob, declared) in variant.knobs.iter().enumerate() {
            let step = |digit: usize| {
                let mut moved = at.clone();
                moved[knob] = digit;
                self.number(place.variant, combination(variant, &moved))
            };
            let (below, above) = ((0..at[knob]).rev(), at[knob] + 1..declared.values.len());
            match declared.values {
                Values::Names(_) => found.extend(below.chain(above).filter_map(step)),
                Values::Ints(_) | Values::Pairs(_) => {
                    found.extend(below.clone().find_map(step));
                    found.extend(above.clone().find_map(step));
                }
            }
        }
        found
    }

    /// The number of a combination, if it is legal. The list is sorted by variant and combination.
    fn number(&self, variant: u16, combination: u32) -> Option<ConfigIndex> {
        let legal = &self.enumerated().legal;
        let found = legal.binary_search_by_key(&(variant, combination), |place| (place.variant, place.combination)).ok()?;
        u32::try_from(found).ok().map(ConfigIndex)
    }
}
