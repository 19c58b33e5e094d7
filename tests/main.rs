//! The integration tests of the package: one binary, a module per subject.
//!
//! A test that needs the shared material (models, evil files) asks [`shared`] for it and returns, with a line on stderr, when this
//! checkout does not have it.

mod allocations;
mod artifact;
mod bench;
mod cli;
mod correct;
mod drive;
mod evil;
mod execute;
mod faults;
mod files;
mod flights;
mod import;
mod inference;
mod interpret;
mod interrupt;
mod models;
mod mutations;
mod npz;
mod onnx_nodes;
#[allow(dead_code)]
mod onnx_writer;
mod passes;
mod runtime;
mod sandbox;
mod schedule;
mod schemas;
mod session;
#[allow(dead_code)]
mod shared;
mod shipped;
mod stages;
mod tidy;
mod tune;
mod worker;
