//! What can be asked for: fields, their kinds, their units.

/// A column of the answer and a name in a question.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Model,
    Device,
    Op,
    Task,
    Config,
    Mechanism,
    Numerics,
    Origin,
    Driver,
    Version,
    Class,
    Noise,
    Share,
    Batch,
    N,
    Units,
    Generation,
    Ratio,
    RatioLo,
    P50,
    P99,
    Mad,
    Transfer,
    Compute,
    Default,
    Throughput,
    Memory,
    Energy,
    Age,
}

/// What values of a field are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// `A` to `D`, A being the best and the least.
    Grade,
    /// Per cents; `%` may stand behind.
    Percent,
    Number,
    /// In picoseconds.
    Time,
    /// Per second; `/s` may stand behind.
    Rate,
    /// In bytes.
    Bytes,
    /// In millijoules.
    Energy,
    /// In seconds.
    Age,
}

/// Every field with its name and kind.
pub static FIELDS: &[(&str, Field, Kind)] = &[
    ("model", Field::Model, Kind::Text),
    ("device", Field::Device, Kind::Text),
    ("op", Field::Op, Kind::Text),
    ("task", Field::Task, Kind::Text),
    ("config", Field::Config, Kind::Text),
    ("mechanism", Field::Mechanism, Kind::Text),
    ("numerics", Field::Numerics, Kind::Text),
    ("origin", Field::Origin, Kind::Text),
    ("driver", Field::Driver, Kind::Text),
    ("version", Field::Version, Kind::Text),
    ("class", Field::Class, Kind::Text),
    ("noise", Field::Noise, Kind::Grade),
    ("share", Field::Share, Kind::Percent),
    ("batch", Field::Batch, Kind::Number),
    ("n", Field::N, Kind::Number),
    ("units", Field::Units, Kind::Number),
    ("generation", Field::Generation, Kind::Number),
    ("ratio", Field::Ratio, Kind::Number),
    ("ratio_lo", Field::RatioLo, Kind::Number),
    ("p50", Field::P50, Kind::Time),
    ("p99", Field::P99, Kind::Time),
    ("mad", Field::Mad, Kind::Time),
    ("transfer", Field::Transfer, Kind::Time),
    ("compute", Field::Compute, Kind::Time),
    ("default", Field::Default, Kind::Time),
    ("throughput", Field::Throughput, Kind::Rate),
    ("memory", Field::Memory, Kind::Bytes),
    ("energy", Field::Energy, Kind::Energy),
    ("age", Field::Age, Kind::Age),
];

/// Units of a kind, with how much of the field's own unit one is.
pub fn units(kind: Kind) -> &'static [(&'static str, f64)] {
    match kind {
        Kind::Text | Kind::Grade | Kind::Number => &[],
        Kind::Percent => &[("%", 1.0)],
        Kind::Time => &[("ns", 1e3), ("us", 1e6), ("ms", 1e9), ("s", 1e12)],
        Kind::Rate => &[("/s", 1.0)],
        Kind::Bytes => &[("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)],
        Kind::Energy => &[("mJ", 1.0), ("J", 1e3)],
        Kind::Age => &[("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)],
    }
}

impl Field {
    /// The name.
    pub fn name(self) -> &'static str {
        FIELDS.iter().find(|(_, field, _)| *field == self).map_or("", |(name, ..)| name)
    }

    /// What its values are.
    pub fn kind(self) -> Kind {
        FIELDS.iter().find(|(_, field, _)| *field == self).map_or(Kind::Text, |(.., kind)| *kind)
    }

    /// The field of that name.
    pub fn parse(name: &str) -> Option<Self> {
        FIELDS.iter().find(|(known, ..)| *known == name).map(|(_, field, _)| *field)
    }
}

impl Kind {
    /// As it stands in messages: "p99 is …".
    pub fn description(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Grade => "a grade, A to D",
            Kind::Percent => "a share in per cents",
            Kind::Number => "a number",
            Kind::Time => "a time",
            Kind::Rate => "a rate",
            Kind::Bytes => "an amount of memory",
            Kind::Energy => "an energy",
            Kind::Age => "an age",
        }
    }

    /// The unit that messages propose; `None` when none is required.
    pub fn required_unit(self) -> Option<&'static str> {
        match self {
            Kind::Time => Some("ms"),
            Kind::Bytes => Some("MB"),
            Kind::Energy => Some("mJ"),
            Kind::Age => Some("d"),
            Kind::Text | Kind::Grade | Kind::Percent | Kind::Number | Kind::Rate => None,
        }
    }
}

/// The nearest of some names, if one is near: at most a third of its letters differ, at least one may.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

/// Letters to change, add, take away or swap with their neighbour (optimal string alignment), in either case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
