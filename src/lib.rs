//! tunewright tunes ONNX models for the share of the device they will run on, and schedules requests from what was measured.

#![deny(unsafe_code)]

pub mod agreement;
pub mod artifact;
pub mod cli;
pub mod device;
pub mod execute;
pub mod features;
pub mod forest;
pub mod graph;
pub mod import;
pub mod loadgen;
#[cfg(test)]
mod made_up;
pub mod measure;
pub mod npz;
pub mod open;
pub mod passes;
pub mod placement;
pub mod report;
pub mod request;
pub mod runtime;
pub mod sandbox;
pub mod schedule;
pub mod search;
pub mod session;
pub mod simulate;
pub mod space;
pub mod split;
pub mod task;
pub mod tune;
pub mod under_test;
pub mod wake;
pub mod worker;
