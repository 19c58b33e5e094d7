//! What a device is, what it runs under, and what of it was granted.

use crate::{DeviceKey, EnvironmentKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name a user gives a device: `cpu`, `cpu:avx2`, `wgpu:0`, `cuda:1`. It addresses; [`DeviceKey`] identifies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceName(pub String);

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the hardware is: `text` lists vendor, model, units, memory and instruction sets, but no serial number and no bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: DeviceName,
    pub text: String,
}

impl Device {
    /// The hash of the text.
    pub fn key(&self) -> DeviceKey {
        DeviceKey::of(&self.text)
    }
}

/// What a device runs under: `text` lists driver, kernel, microcode, limits and the kernel set's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub text: String,
}

impl Environment {
    /// The hash of the text.
    pub fn key(&self) -> EnvironmentKey {
        EnvironmentKey::of(&self.text)
    }
}

/// What was given for a share: the mechanism and the units (cores, multiprocessors) it granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    pub mechanism: String,
    pub units: u32,
}
