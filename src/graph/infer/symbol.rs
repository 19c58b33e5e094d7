//! Symbolic extents: sums of products of names with whole coefficients, in a normal form, so that equal extents get equal names.
//!
//! Division that does not come out even, and all else, becomes a name: `floor((H - 1)/2)`.

use crate::graph::Dim;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Sums of more terms are not followed.
const TERMS_MAX: usize = 12;
/// Nor are names longer than this.
const NAME_BYTES_MAX: usize = 160;

/// A polynomial over names; the empty one is 0. A name may itself be an expression we do not look into.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expr {
    /// Coefficient by the sorted names of a product; none is 0.
    terms: BTreeMap<Vec<Arc<str>>, i64>,
}

impl Expr {
    /// A known number.
    pub fn number(value: i64) -> Self {
        let terms = if value == 0 { BTreeMap::new() } else { BTreeMap::from([(Vec::new(), value)]) };
        Expr { terms }
    }

    /// A name that stands for itself.
    fn atom(name: &str) -> Self {
        Expr { terms: BTreeMap::from([(vec![Arc::from(name)], 1)]) }
    }

    /// An extent; a name that we wrote ourselves is read back.
    pub fn of(dim: &Dim) -> Self {
        match dim {
            Dim::Fixed(extent) => Expr::number(i64::try_from(*extent).unwrap_or(i64::MAX)),
            Dim::Named(name) => parse(name).unwrap_or_else(|| Expr::atom(name)),
        }
    }

    /// The number, if it is one.
    pub fn constant(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// As an extent. `None` when it is negative or too long to write.
    pub fn dim(&self) -> Option<Dim> {
        match self.constant() {
            Some(value) => usize::try_from(value).ok().map(Dim::Fixed),
            None => {
                let name = self.to_string();
                (name.len() <= NAME_BYTES_MAX).then(|| Dim::named(&name))
            }
        }
    }

    /// The sum; `None` on overflow or when it gets too long, as for all below.
    pub fn add(&self, other: &Expr) -> Option<Expr> {
        let mut terms = self.terms.clone();
        for (names, &coefficient) in &other.terms {
            let sum = terms.get(names).copied().unwrap_or(0).checked_add(coefficient)?;
            if sum == 0 {
                terms.remove(names)
            } else {
                terms.insert(names.clone(), sum)
            };
        }
        (terms.len() <= TERMS_MAX).then_some(Expr { terms })
    }

    /// The difference.
    pub fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.mul(&Expr::number(-1))?)
    }

    /// The product.
    pub fn mul(&self, other: &Expr) -> Option<Expr> {
        let mut sum = Expr::default();
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let mut names: Vec<Arc<str>> = a.iter().chain(b).cloned().collect();
                names.sort();
                sum = sum.add(&Expr { terms: BTreeMap::from([(names, x.checked_mul(*y)?)]) })?;
            }
        }
        Some(sum)
    }

    /// The quotient when it comes out even for every value of the names.
    pub fn div_exact(&self, by: &Expr) -> Option<Expr> {
        if self == by && !by.terms.is_empty() {
            return Some(Expr::number(1));
        }
        let (divisor, &coefficient) = by.terms.iter().next().filter(|_| by.terms.len() == 1)?;
        let mut terms = BTreeMap::new();
        for (names, &value) in &self.terms {
            let mut rest = names.clone();
            for name in divisor {
                let at = rest.iter().position(|other| other == name)?;
                rest.remove(at);
            }
            if value.checked_rem(coefficient)? != 0 {
                return None;
            }
            terms.insert(rest, value.checked_div(coefficient)?);
        }
        Some(Expr { terms })
    }

    /// The quotient rounded down; a name of its own when it does not come out even. `None` for a division by zero.
    pub fn div_floor(&self, by: &Expr) -> Option<Expr> {
        match (self.constant(), by.constant()) {
            (_, Some(0)) => None,
            (Some(a), Some(b)) => {
                let quotient = a.checked_div(b)?;
                let down = a.checked_rem(b)? != 0 && (a < 0) != (b < 0);
                Some(Expr::number(quotient - i64::from(down)))
            }
            _ => self.div_exact(by).or_else(|| {
                let name = format!("floor(({self})/({by}))");
                (name.len() <= NAME_BYTES_MAX).then(|| Expr::atom(&name))
            }),
        }
    }

    /// The value with names replaced by numbers; `None` when a name has none.
    pub fn evaluate(&self, value: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut sum = 0i64;
        for (names, &coefficient) in &self.terms {
            let product = names.iter().try_fold(coefficient, |product, name| product.checked_mul(value(name)?))?;
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }

    /// Whether no coefficient is negative: then the value is not, as extents never are.
    pub fn is_sum_without_minus(&self) -> bool {
        self.terms.values().all(|&coefficient| coefficient > 0)
    }

    /// The names in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.terms.keys().flatten().map(|name| &**name)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // The constant comes last, as people write it.
        let (constants, products): (Vec<_>, Vec<_>) = self.terms.iter().partition(|(names, _)| names.is_empty());
        for (i, (names, &coefficient)) in products.into_iter().chain(constants).enumerate() {
            match (i, coefficient < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let size = coefficient.unsigned_abs();
            match (size, names.is_empty()) {
                (1, false) => {}
                (_, true) => write!(f, "{size}")?,
                (_, false) => write!(f, "{size}*")?,
            }
            f.write_str(&names.join("*"))?;
        }
        Ok(())
    }
}

/// Reads back what [`Display`](fmt::Display) wrote. `None` for anything else.
fn parse(text: &str) -> Option<Expr> {
    let mut sum = Expr::default();
    for (negative, term) in terms(text) {
        let mut product = Expr::number(if negative { -1 } else { 1 });
        for factor in split_outside(term, '*') {
            let factor = factor.trim();
            if factor.is_empty() {
                return None;
            }
            let one = match factor.parse::<i64>() {
                Ok(number) => Expr::number(number),
                Err(_) => Expr::atom(factor),
            };
            product = product.mul(&one)?;
        }
        sum = sum.add(&product)?;
    }
    Some(sum)
}

/// Terms with their signs. Signs stand between blanks, or first.
fn terms(text: &str) -> Vec<(bool, &str)> {
    let (mut depth, mut start, mut negative) = (0i32, 0, false);
    let mut found = Vec::new();
    if let Some(rest) = text.strip_prefix('-') {
        (start, negative) = (text.len() - rest.len(), true);
    }
    let bytes = text.as_bytes();
    for i in 0..bytes.len() {
        match bytes[i] {
            b'(' => depth += 1,
            b')' => depth -= 1,
            sign @ (b'+' | b'-') if depth == 0 && i > start && bytes[i - 1] == b' ' && bytes.get(i + 1) == Some(&b' ') => {
                found.push((negative, text[start..i].trim()));
                (start, negative) = (i + 1, sign == b'-');
            }
            _ => {}
        }
    }
    found.push((negative, text[start..].trim()));
    found
}

fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut start) = (0i32, 0);
    let mut parts = Vec::new();
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            c if c == separator && depth == 0 => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(text: &str) -> Expr {
        Expr::of(&Dim::named(text))
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["N", "2*N + 1", "-N + 3", "8*H*N - 4", "floor((H - 1)/(2)) + 1", "a b", "-1*", "*"] {
            assert_eq!(expr(&expr(text).to_string()), expr(text), "{text}");
        }
        assert_eq!(expr("1 + N*2").to_string(), "2*N + 1");
    }

    #[test]
    fn equal_sums_are_one() {
        let n = expr("N");
        let twice = n.add(&n).unwrap();
        assert_eq!(twice, n.mul(&Expr::number(2)).unwrap());
        assert_eq!(twice.sub(&twice).unwrap().constant(), Some(0));
        assert_eq!(twice.div_exact(&n).unwrap().constant(), Some(2));
        assert_eq!(Expr::number(-7).div_floor(&Expr::number(2)).unwrap().constant(), Some(-4));
        assert_eq!(Expr::number(7).div_floor(&Expr::number(-2)).unwrap().constant(), Some(-4));
        assert_eq!(n.div_floor(&Expr::number(2)).unwrap().to_string(), "floor((N)/(2))");
    }
}
