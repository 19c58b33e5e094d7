//! What a worker is asked and what it answers: frames of a length and postcard, over one socket.
//!
//! Asks and answers are values that could cross a network: they name tasks, configs and files by their texts, never by address, and
//! asking twice is harmless. One answer per ask, in order; only runs of instances that run beside each other are answered when they are
//! over, with more than one [`Answer::Run`] of their slot. Only what serves comes with open files beside it ([`files`](super::files)).

use crate::device::Grant;
use crate::execute::Leg;
use kernels::{Isa, Limits};
use schema::{Config, FailureClass, Split};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// The longest frame: configs and times are kilobytes, tensors travel apart.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

/// What a worker may be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// First: what the worker owns from now on.
    Own(Owned),
    /// Makes operands for a task, random by seed. Forgets the task before.
    Open { task: String, seed: u64, max_error: f64 },
    /// Builds a config of the open task in a slot and verifies it on fresh buffers.
    Build { slot: u32, config: Config },
    /// Has the driver compile a config of a task, by one run on operands that are random by the seed. Nothing is verified and nothing is
    /// kept but the operands, which serve until another task comes.
    Compile { task: String, seed: u64, config: Config },
    /// Times slots, in order. Each lane is one sample.
    Lap { lanes: Vec<Lane> },
    /// Measures what the share can do at best.
    Probe,
    /// Times the same short work so many times, each after so long without any.
    Wake { gap_ms: u64, samples: u32 },
    /// Frees slots.
    Drop { slots: Vec<u32> },
    /// Frees the task with all its slots.
    Close,
    /// Makes the plan of an artifact's entry in a slot, with random inputs. It computes its batch in these parts; the configs are these, by
    /// the texts of their tasks; a task that is not named runs with its default.
    LoadPlan { slot: u32, artifact: String, entry: Entry, split: Split, configs: Vec<(String, Config)>, seed: u64 },
    /// Runs plans on their inputs and compares the outputs of all with those of the first.
    ComparePlans { slots: Vec<u32>, max_error: f64 },
    /// Times plans, in order: each lane one inference, or several short ones.
    LapPlans { lanes: Vec<Lane> },
    /// Runs plans, in order, and times each task inside them.
    RehearsePlans { lanes: Vec<Lane> },
    /// Times the stages of a plan apart.
    PlanStages { slot: u32, rounds: u32 },
    /// Makes a plan that runs on what a runtime leaves in a segment. Beside it come the artifact and the segment, as files. Slots of these
    /// are apart from those above.
    Serve { slot: u32, serve: Serve },
    /// Makes another instance of the plan of a slot, with the same weights. Beside it comes its segment. From now on runs of both go on at
    /// once, and tell when the device is done with each leg.
    Another { slot: u32, of: u32 },
    /// Runs the plan of a slot on what lies in its segment; answered by [`Answer::Run`].
    Run { slot: u32 },
    /// Takes the segment that comes beside it, with this much room, for a slot's, and leaves the outputs there that had found none.
    Collect { slot: u32, room: u64 },
    /// Frees slots that serve.
    Release { slots: Vec<u32> },
    /// Destroys the device, as a driver that falls over does: for tests of what follows.
    Destroy,
    /// Ends the process.
    Quit,
}

/// What a worker owns: a grant of the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owned {
    /// The device's name.
    pub device: String,
    pub cores: Vec<u32>,
    pub isa: String,
    pub units: u32,
    pub l1d_bytes: u64,
    pub l2_bytes: u64,
    pub l3_bytes: u64,
}

/// A plan to serve with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// What errors call the artifact.
    pub artifact: String,
    /// A graph of the artifact, by its place.
    pub graph: u32,
    /// Whose configs; `None`: defaults.
    pub entry: Option<u32>,
    /// The segment is of the sizes of the plan's ports and this much room.
    pub room: u64,
}

/// Which entry of an artifact, by its place.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub number: u32,
}

/// A figure of what a share can do at best.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// Floating-point operations, a multiply-add being two.
    Flops,
    /// Bytes read from each core's L2.
    L2,
    /// From L3.
    L3,
    /// And from memory.
    Memory,
}

impl Probe {
    /// All of them, in the order they are measured.
    pub const ALL: [Probe; 4] = [Probe::Flops, Probe::L2, Probe::L3, Probe::Memory];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Probe::Flops => "flops",
            Probe::L2 => "l2",
            Probe::L3 => "l3",
            Probe::Memory => "memory",
        }
    }
}

/// One sample of a lap.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lane {
    /// Work that never changes, to see how fast the machine is just now.
    Sentinel,
    /// The kernel or plan of a slot.
    Slot(u32),
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// It owns its share. `multiprocessors` are those of its device that it has, where the driver counts them.
    Owned {
        multiprocessors: Option<u32>,
    },
    /// The kernel or plan is ready and its result right. `first_ps` is the time of a run after the first; `prepared_bytes` what its
    /// constants take; `generate_ps` the time of making it and `compile_ps` that of the driver's compiler.
    Built {
        first_ps: u64,
        prepared_bytes: u64,
        generate_ps: u64,
        compile_ps: u64,
    },
    /// The kernel was compiled: the time of making it, and that of the driver's compiler with one run.
    Compiled {
        generate_ps: u64,
        compile_ps: u64,
    },
    /// The candidate is refused; the worker goes on.
    Refused {
        class: FailureClass,
        detail: String,
    },
    /// The time of each lane.
    Times {
        picos: Vec<u64>,
    },
    /// The time of each lane, and for each lane that is a plan what its tasks took in it, the mean of their nodes. A task inside of
    /// control flow is not among them.
    Rehearsed {
        picos: Vec<u64>,
        tasks: Vec<String>,
        tasks_picos: Vec<Vec<u64>>,
    },
    /// Samples of what 10⁹ operations take, or 10⁹ bytes.
    Probed {
        figures: Vec<(Probe, Vec<u64>)>,
    },
    /// The worst error of each plan's outputs against the first's, relative as in `run --rtol`; above `max_error` where they disagree.
    Errors {
        worst: Vec<f64>,
    },
    /// Medians of a plan's stages, and what it holds in memory.
    Stages {
        upload_ps: u64,
        compute_ps: u64,
        download_ps: u64,
        memory_bytes: u64,
    },
    /// What became of a run of this slot.
    Run {
        slot: u32,
        told: Told,
    },
    /// The ask makes no sense now: a bug of who asked, or a damaged artifact.
    Wrong {
        reason: String,
    },
}

/// What a worker tells of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The device is done with this leg, and more will be told.
    Passed(Leg),
    /// It is over, in so much time. Its outputs lie in its segment; those without a fixed size have these shapes.
    Ran { picos: u64, dynamic: Vec<Vec<u64>> },
    /// It is over, and its outputs without a fixed size are so large that they found no room: they are to be collected.
    Room { bytes: u64 },
    /// The model refuses the data.
    Refused { detail: String },
}

impl Owned {
    /// What a grant hands out.
    pub fn new(grant: &Grant) -> Self {
        let limits = &grant.limits;
        Owned {
            device: grant.device.0.clone(),
            cores: grant.cores.iter().filter_map(|&core| u32::try_from(core).ok()).collect(),
            isa: limits.isa.name().to_owned(),
            units: limits.units,
            l1d_bytes: limits.l1d_bytes,
            l2_bytes: limits.l2_bytes,
            l3_bytes: limits.l3_bytes,
        }
    }

    /// The limits of the host's part, or `None` for an instruction set this build does not know.
    pub fn limits(&self) -> Option<Limits> {
        let &Owned { units, l1d_bytes, l2_bytes, l3_bytes, .. } = self;
        Some(Limits {
            isa: Isa::parse(&self.isa)?,
            units,
            l1d_bytes,
            l2_bytes,
            l3_bytes,
            gpu: None,
            numerics: schema::Numerics::Strict,
        })
    }
}

/// Writes one frame.
///
/// # Errors
/// What the socket says; a value that is too long is `InvalidData`.
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&frame(value)?)?;
    to.flush()
}

/// The bytes of a value's frame.
///
/// # Errors
/// `InvalidData` when the value is too long.
pub fn frame<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let payload = postcard::to_stdvec(value).map_err(|error| invalid(error.to_string()))?;
    let len = u32::try_from(payload.len()).ok().filter(|&len| len <= FRAME_BYTES_MAX);
    let len = len.ok_or_else(|| invalid(format!("a frame of {} bytes", payload.len())))?;
    let mut frame = len.to_le_bytes().to_vec();
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// What the socket says; a frame that is too long or no such value is `InvalidData`.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    if let Err(error) = from.read_exact(&mut len) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let len = u32::from_le_bytes(len);
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    let mut payload = vec![0; len as usize];
    from.read_exact(&mut payload)?;
    decode(&payload).map(Some)
}

/// The value of a frame's payload.
///
/// # Errors
/// `InvalidData` when it is none.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    postcard::from_bytes(payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_damage_is_an_error() {
        let config = Config { variant: "gemm.host_packed".into(), revision: 1, knobs: vec![] };
        let asks = [Ask::Build { slot: 3, config }, Ask::Lap { lanes: vec![Lane::Sentinel, Lane::Slot(1)] }, Ask::Quit];
        let mut bytes = Vec::new();
        asks.iter().for_each(|ask| write(&mut bytes, ask).unwrap());
        let mut from = &bytes[..];
        for ask in &asks {
            assert_eq!(read::<Ask>(&mut from).unwrap().as_ref(), Some(ask));
        }
        assert_eq!(read::<Ask>(&mut from).unwrap(), None);
        assert!(read::<Ask>(&mut &bytes[..6]).is_err(), "cut inside a frame");
        assert!(read::<Ask>(&mut &[0xff; 64][..]).is_err(), "an absurd length");
        assert!(read::<Ask>(&mut &[1, 0, 0, 0, 0xff][..]).is_err(), "no such ask");
    }
}
