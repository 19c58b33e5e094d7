//! A device as placements are judged by.

use crate::device::{GrantError, Machine};
use schema::{DeviceKey, DeviceName, EnvironmentKey, Share};

/// What of a device placements are judged by.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Here<'a> {
    pub device: DeviceKey,
    pub name: &'a DeviceName,
    pub environment: EnvironmentKey,
    /// How it grants shares.
    pub mechanism: &'a str,
}

/// A device that is open, with what is asked of it by every request.
pub(crate) struct Site {
    pub machine: Machine,
    /// Of the machine: both are hashes of texts.
    keys: (DeviceKey, EnvironmentKey),
    /// How the machine grants shares.
    mechanism: String,
}

impl Site {
    /// Of a machine.
    ///
    /// # Errors
    /// [`GrantError`] when the device does not give all of itself.
    pub fn new(machine: Machine) -> Result<Self, GrantError> {
        let mechanism = machine.grant(Share::WHOLE)?.grant.mechanism;
        Ok(Site { keys: (machine.key(), machine.environment.key()), mechanism, machine })
    }

    /// The device's name.
    pub fn name(&self) -> &DeviceName {
        &self.machine.device.name
    }

    /// As placements are judged by.
    pub fn here(&self) -> Here<'_> {
        let (device, environment) = self.keys;
        Here { device, name: self.name(), environment, mechanism: &self.mechanism }
    }
}
