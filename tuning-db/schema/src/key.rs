//! Keys: BLAKE3 of a canonical text, cut to 16 bytes. The text is stored beside the key, so that a key can always be explained.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl Serialize for $name {
            /// Hexadecimal where people read, else the bytes.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return <[u8; $bytes]>::deserialize(deserializer).map(Self);
                }
                let hex = String::deserialize(deserializer)?;
                Self::parse(&hex).ok_or_else(|| D::Error::custom(concat!("not ", $bytes, " bytes in hexadecimal")))
            }
        }

        impl $name {
            /// The key of a canonical text.
            pub fn of(text: &str) -> Self {
                let mut cut = [0; $bytes];
                cut.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..$bytes]);
                Self(cut)
            }

            /// The key written by [`Display`](fmt::Display): hexadecimal, two digits a byte.
            pub fn parse(hex: &str) -> Option<Self> {
                let hex = hex.as_bytes();
                if hex.len() != 2 * $bytes {
                    return None;
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
                    *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

key!(
    /// What is computed: operator, static shapes, dtypes, layouts, epilogue. No model, no device, no share.
    TaskKey, 16);
key!(
    /// A variant with a value for every knob.
    ConfigKey, 16);
key!(
    /// What a device *is*: two identical cards have one key.
    DeviceKey, 16);
key!(
    /// The bytes of a model, external data included.
    ModelKey, 16);
key!(
    /// The configs of a model's tasks, as the artifact holds them: another choice for one task is another plan.
    PlanKey, 16);
key!(
    /// What a device runs under: driver, kernel, microcode, the kernels' revision. Another one makes records stale.
    EnvironmentKey, 8);

impl PlanKey {
    /// Of the plan that computes the whole batch at once with every task at its default: defaults are not part of a plan's text.
    pub fn of_defaults() -> Self {
        Self::of("")
    }
}
