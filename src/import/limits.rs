//! What an untrusted model may ask for: one number per limit, each settable by name (`--limit subgraph-depth=17`).

use super::error::{Excess, ImportError};
use std::time::Instant;
use thiserror::Error;

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident $name:literal = $default:expr;)*) => {
        /// Hard bounds of an import. The defaults admit every model we know and stop every bomb we know.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[$doc])* pub $field: u64,)* }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $($field: $default,)* }
            }
        }

        /// The names that [`Limits::set`] knows, in the order of the table.
        pub static LIMIT_NAMES: &[&str] = &[$($name),*];

        impl Limits {
            /// Changes the limit of that name (`subgraph-depth`).
            ///
            /// # Errors
            /// [`UnknownLimit`] when there is none of that name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), UnknownLimit> {
                match name {
                    $($name => self.$field = value,)*
                    _ => return Err(UnknownLimit(name.to_owned())),
                }
                Ok(())
            }

            /// The limit of that name.
            pub fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $($name => Some(self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

limits! {
    /// Bytes of the protobuf part.
    model_bytes "model-bytes" = 2 << 30;
    /// Bytes of all external files together.
    external_bytes "external-bytes" = 64 << 30;
    /// Nodes of all graphs, functions inlined: what 2 KB of functions within functions may cost (docs/adr/0009).
    nodes "nodes" = 250_000;
    /// Inputs, or outputs, of one node.
    inputs "inputs" = 16_384;
    /// Initializers of all graphs.
    initializers "initializers" = 200_000;
    /// Axes of a tensor.
    rank "rank" = 64;
    /// Elements of a tensor.
    elements "elements" = 1 << 40;
    /// Extent of one axis.
    dim "dim" = (1 << 31) - 1;
    /// Messages within messages, where the format nests them without end (types).
    nesting "nesting" = 100;
    /// Graphs within graphs.
    subgraph_depth "subgraph-depth" = 16;
    /// Functions calling functions.
    function_depth "function-depth" = 32;
    /// Bytes of names and attributes that inlining functions copies.
    inline_bytes "inline-bytes" = 256 << 20;
    /// Bytes of one name.
    name_bytes "name-bytes" = 4 << 10;
    /// Bytes of all attributes of one node, tensors and graphs not counted.
    attribute_bytes "attribute-bytes" = 16 << 20;
    /// Bytes of all texts in string tensors.
    string_bytes "string-bytes" = 64 << 20;
    /// Bytes of all folded tensors that live at a time.
    fold_bytes "fold-bytes" = 256 << 20;
    /// Bytes of one folded tensor.
    fold_one "fold-one" = 64 << 20;
    /// Floating-point operations spent on folding.
    fold_flop "fold-flop" = 2_000_000_000;
    /// Rounds of a folded `Loop` or `Scan`.
    fold_rounds "fold-rounds" = 10_000;
    /// Rounds of a `Loop` that the model states as a constant.
    loop_rounds "loop-rounds" = (1 << 31) - 1;
    /// Bytes of activations for one batch: three quarters of the machine's memory.
    plan_bytes "plan-bytes" = memory_bytes() / 4 * 3;
    /// Seconds an import may take.
    import_seconds "import-seconds" = 60;
}

/// When an import began, to hold it to `import-seconds`.
#[derive(Copy, Clone, Debug)]
pub(super) struct Clock {
    began: Instant,
    seconds: u64,
}

impl Clock {
    /// Runs from now.
    pub fn start(limits: &Limits) -> Self {
        Clock { began: Instant::now(), seconds: limits.import_seconds }
    }

    /// An error when the time is over. Asked once per node, so what one node costs is bounded by other limits.
    pub fn check(&self) -> Result<(), ImportError> {
        let spent = self.began.elapsed().as_secs();
        if spent <= self.seconds {
            return Ok(());
        }
        let excess = Excess { limit: "import-seconds", allowed: self.seconds, need: Some(spent) };
        Err(ImportError::limit("", "seconds of import", excess))
    }
}

/// No limit has that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no limit {0}; there are {names}", names = LIMIT_NAMES.join(", "))]
pub struct UnknownLimit(pub String);

/// The memory of this machine, or 16 GiB when it does not say.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    // The field's type differs between targets.
    #[allow(clippy::unnecessary_cast)]
    let bytes = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    if bytes == 0 { 16 << 30 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_sets_its_own_limit() {
        for (value, name) in LIMIT_NAMES.iter().enumerate() {
            let mut limits = Limits::default();
            limits.set(name, value as u64).unwrap();
            assert_eq!(limits.get(name), Some(value as u64));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = Limits::default().set("dims", 1).unwrap_err().to_string();
        assert!(error.starts_with("there is no limit dims; there are model-bytes,"), "{error}");
    }
}
