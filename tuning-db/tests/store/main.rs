//! The store under test: what is promised about durability, damage, reading and merging.

mod basics;
mod sample;
