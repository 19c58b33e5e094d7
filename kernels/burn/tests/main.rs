//! One binary holds all tests: the library alone compiles Burn's operations for all its engines.

mod device;
mod nodes;
mod rival;
