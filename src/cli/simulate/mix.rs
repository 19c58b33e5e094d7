//! Which models requests are for, and in what proportion: `--mix resnet50=3,bert=1/200ms/normal:8,2`.

use super::super::Failure;
use super::super::failure::nearest;
use super::super::quantity;
use super::{deadline, nanos, sizes};
use crate::schedule::{Index, ModelId, Nanos};
use crate::simulate::{Mix, Sizes};

/// A model's part, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    model: String,
    weight: f64,
    within: Option<Nanos>,
    sizes: Option<Sizes>,
}

/// All parts, in the order written.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts(Vec<Part>);

/// `MODEL=WEIGHT[/DEADLINE[/SIZES]]`, several behind commas. Commas of sizes and in brackets part nothing.
///
/// # Errors
/// Says which part is wrong and how it is written.
pub fn parts(text: &str) -> Result<Parts, String> {
    let mut parts: Vec<Part> = Vec::new();
    for part in split(text) {
        let part = self::part(&part)?;
        if parts.iter().any(|other| other.model == part.model) {
            return Err(format!("'{}' is named twice", part.model));
        }
        parts.push(part);
    }
    Ok(Parts(parts))
}

/// A comma outside of brackets begins a new part if an equals sign follows before the next one.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0usize);
    for c in text.chars() {
        depth = match c {
            '[' => depth + 1,
            ']' => depth.saturating_sub(1),
            _ => depth,
        };
        match (c, depth, parts.last_mut()) {
            (',', 0, _) => parts.push(String::new()),
            (c, _, Some(last)) => last.push(c),
            (_, _, None) => {}
        }
    }
    let mut joined: Vec<String> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if !part.contains('=') && last.contains('=') => {
                last.push(',');
                last.push_str(&part);
            }
            _ => joined.push(part),
        }
    }
    joined
}

fn part(text: &str) -> Result<Part, String> {
    let form = || format!("'{text}' is not MODEL=WEIGHT[/DEADLINE[/SIZES]], as resnet50=3/50ms/fixed:1");
    let (model, rest) = text.rsplit_once('=').ok_or_else(form)?;
    let mut fields = rest.splitn(3, '/');
    let weight = fields.next().unwrap_or_default();
    let weight =
        quantity::positive(weight).map_err(|_| format!("the weight of '{model}' is '{weight}'; it is a number over 0"))?;
    let within = fields.next().map(|text| deadline(text).map(nanos).map_err(|why| format!("'{model}': {why}"))).transpose()?;
    let sizes = fields.next().map(|text| sizes(text).map_err(|why| format!("'{model}': {why}"))).transpose()?;
    if model.is_empty() { Err(form()) } else { Ok(Part { model: model.to_owned(), weight, within, sizes }) }
}

impl Parts {
    /// The parts by the models of the records, with what is left out from the flags for all.
    ///
    /// # Errors
    /// `usage.value` for a model that has no record.
    pub fn of(&self, index: &Index, within: Nanos, sizes: Sizes) -> Result<Vec<Mix>, Failure> {
        let mix = |part: &Part| {
            let model = index.model(&part.model).ok_or_else(|| unknown(&part.model, index))?;
            let (within, sizes) = (part.within.unwrap_or(within), part.sizes.unwrap_or(sizes));
            Ok(Mix { model, weight: part.weight, within, sizes })
        };
        self.0.iter().map(mix).collect()
    }
}

/// Equally many requests of every model.
pub fn equal(index: &Index, within: Nanos, sizes: Sizes) -> Vec<Mix> {
    (0..index.models().len() as u16).map(|model| Mix { model: ModelId(model), weight: 1.0, within, sizes }).collect()
}

fn unknown(name: &str, index: &Index) -> Failure {
    let known = || index.models().iter().map(|model| model.name.as_str());
    let meant = nearest(name, known()).map(|near| format!("did you mean {near}?"));
    let remedy = meant.unwrap_or_else(|| format!("there are {}", known().collect::<Vec<_>>().join(", ")));
    Failure::new("usage.value", format!("--mix {name}"), "there is no record of such a model").remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::Batch;

    #[test]
    fn a_part_has_a_weight_and_may_have_a_deadline_and_sizes() {
        let Parts(read) = parts("a=0.7,bert[seq=40,x=1]=3/50ms/normal:8,2,c=1/1s").unwrap();
        let part = |model: &str, weight, within: Option<u64>, sizes| Part {
            model: model.into(),
            weight,
            within: within.map(Nanos),
            sizes,
        };
        let normal = Some(Sizes::Normal { mean: 8.0, deviation: 2.0 });
        let expected = [
            part("a", 0.7, None, None),
            part("bert[seq=40,x=1]", 3.0, Some(50_000_000), normal),
            part("c", 1.0, Some(1_000_000_000), None),
        ];
        assert_eq!(read, expected);
        let Parts(read) = parts("a=1/1s/fixed:4").unwrap();
        assert_eq!(read[0].sizes, Some(Sizes::Fixed(Batch::new(4).unwrap())));
    }

    #[test]
    fn what_is_no_part_is_named() {
        for (text, expected) in [
            ("a", "'a' is not MODEL=WEIGHT"),
            ("", "'' is not MODEL=WEIGHT"),
            ("=1", "'=1' is not MODEL=WEIGHT"),
            ("a=0", "the weight of 'a' is '0'"),
            ("a=-1", "the weight of 'a' is '-1'"),
            ("a=inf", "the weight of 'a' is 'inf'"),
            ("a=nan", "the weight of 'a' is 'nan'"),
            ("a=1/0s", "a deadline of 0"),
            ("a=1/5", "a time needs a unit"),
            ("a=1/5s/fixed:0", "none of fixed:1"),
            ("a=1,a=2", "'a' is named twice"),
            ("a=1,,b=1", "the weight of 'a' is '1,'"),
        ] {
            let found = parts(text).map(|_| ()).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
