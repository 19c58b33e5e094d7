//! An answer as data: cells with units, as JSON, and as columns for tables and CSV.

use super::field::Field;
use super::{Of, Query};
use crate::lock::rfc3339;
use schema::Picos;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Cell {
    /// Unknown, and why.
    Null(String),
    Text(String),
    Number(u64),
    /// Parts per million, shown as a factor.
    Ratio(u64),
    /// Per mille, shown as per cents.
    Share(u16),
    Time(Picos),
    /// Thousandths per second.
    Rate(u64),
    Bytes(u64),
    /// Millijoules.
    Energy(u64),
    /// Seconds since 1970: fields that say how old something is show when it was.
    Date(u64),
}

/// A row of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Of an observation its id, of anything else empty.
    pub id: String,
    /// In the order of [`Rows::columns`].
    pub cells: Vec<Cell>,
    pub stale: bool,
    pub winner: bool,
    pub refused: bool,
    /// What else a row of this kind says: a failure's detail, fixed axes, a device's full description.
    pub notes: Vec<(String, String)>,
}

/// An answer: rows, and where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    pub of: Of,
    pub columns: Vec<Field>,
    pub rows: Vec<Row>,
    pub generation: u64,
    /// Up to where the journal is in the answer.
    pub watermark: u64,
    /// Which way it was read; `None` when asked of the store itself.
    pub source: Option<crate::reader::Source>,
    /// Milliseconds by which the answer may lag behind what is being written; 0 for a live one.
    pub stale_by_ms: u64,
}

impl Serialize for Field {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Field::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("no field {name}")))
    }
}

/// The columns of each kind of row, in their order.
pub fn columns(of: Of) -> &'static [Field] {
    use Field::*;
    match of {
        Of::Models => &[
            Model, Device, Share, Batch, P50, P99, Mad, Noise, N, Ratio, RatioLo, Default, Throughput, Transfer, Compute, Memory,
            Energy, Mechanism, Units, Numerics, Driver, Version, Origin, Generation, Age,
        ],
        Of::Tasks => &[
            Op, Task, Device, Share, Config, P50, P99, Mad, Noise, N, Ratio, RatioLo, Mechanism, Units, Numerics, Driver,
            Version, Origin, Generation,
        ],
        Of::Trials => &[
            Op, Task, Device, Share, Config, P50, P99, Mad, Noise, N, Ratio, RatioLo, Class, Mechanism, Units, Numerics, Driver,
            Version, Origin, Generation, Age,
        ],
        Of::Devices => &[Device, Driver],
        Of::Failures => &[
            Class, Op, Task, Model, Batch, Device, Share, Config, Mechanism, Units, Numerics, Driver, Version, Origin,
            Generation, Age,
        ],
    }
}

/// Which of them a table shows unless told otherwise.
pub fn default_columns(of: Of) -> &'static [Field] {
    use Field::*;
    match of {
        Of::Models => &[Model, Device, Share, Batch, P50, P99, Throughput, Ratio, Noise, N],
        Of::Tasks => &[Op, Task, Device, Share, Config, P50, Ratio, Noise],
        Of::Trials => &[Op, Task, Device, Share, Config, P50, Mad, N, Noise],
        Of::Devices => &[Device, Driver],
        Of::Failures => &[Class, Op, Task, Device, Share, Config],
    }
}

impl Field {
    /// Name with unit, as in JSON and in the header of CSV.
    pub fn header(self) -> &'static str {
        match self {
            Field::Share => "share_pct",
            Field::P50 => "p50_ns",
            Field::P99 => "p99_ns",
            Field::Mad => "mad_ns",
            Field::Transfer => "transfer_ns",
            Field::Compute => "compute_ns",
            Field::Default => "default_ns",
            Field::Throughput => "throughput_per_s",
            Field::Memory => "memory_bytes",
            Field::Energy => "energy_mj",
            Field::Age => "measured_at",
            other => other.name(),
        }
    }
}

fn decimal(value: f64) -> Json {
    serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number)
}

impl Cell {
    /// The value in JSON, in the unit of [`Field::header`].
    pub fn json(&self) -> Json {
        match self {
            Cell::Null(_) => Json::Null,
            Cell::Text(text) => json!(text),
            Cell::Number(number) | Cell::Bytes(number) | Cell::Energy(number) => json!(number),
            Cell::Ratio(ppm) => decimal(*ppm as f64 / 1e6),
            Cell::Share(mille) => decimal(f64::from(*mille) / 10.0),
            Cell::Time(time) => json!(time.as_nanos()),
            Cell::Rate(milli) => decimal(*milli as f64 / 1e3),
            Cell::Date(seconds) => json!(rfc3339(*seconds)),
        }
    }

    /// The value as text in the unit of [`Field::header`]; empty when unknown.
    pub fn plain(&self) -> String {
        match self.json() {
            Json::Null => String::new(),
            Json::String(text) => text,
            other => other.to_string(),
        }
    }
}

impl Rows {
    /// The answer as JSON: `rows` with fixed keys, units in the names, and for each unknown value why.
    pub fn to_json(&self) -> Json {
        let rows: Vec<Json> = self.rows.iter().map(|row| self.row_json(row)).collect();
        json!({
            "of": self.of.name(),
            "source": self.source.map(|source| source.name()),
            "generation": self.generation.to_string(),
            "watermark": self.watermark.to_string(),
            "stale_by_ns": self.stale_by_ms.saturating_mul(1_000_000),
            "rows": rows,
        })
    }

    fn row_json(&self, row: &Row) -> Json {
        let mut object = Map::new();
        if !row.id.is_empty() {
            object.insert("id".into(), json!(row.id));
        }
        for (field, cell) in self.columns.iter().zip(&row.cells) {
            object.insert(field.header().into(), cell.json());
            if let Cell::Null(why) = cell {
                object.insert(format!("{}_why", field.header()), json!(why));
            }
        }
        for (mark, set) in [("stale", row.stale), ("winner", row.winner), ("refused", row.refused)] {
            object.insert(mark.into(), json!(set));
        }
        for (name, text) in &row.notes {
            object.insert(name.clone(), json!(text));
        }
        Json::Object(object)
    }

    /// Where a column is; `None` when rows of this kind do not have it.
    pub fn column(&self, field: Field) -> Option<usize> {
        self.columns.iter().position(|column| *column == field)
    }

    /// An empty answer to a query.
    pub fn empty(query: &Query) -> Self {
        Rows {
            of: query.of,
            columns: columns(query.of).to_vec(),
            rows: Vec::new(),
            generation: 0,
            watermark: 0,
            source: None,
            stale_by_ms: 0,
        }
    }
}
