//! Cubek's single routines for matrix products, with their blueprints as plain data.
//!
//! A [`Blueprint`] is what may be chosen for a product of certain [`Sizes`]; [`Blueprint::refusal`] says what cubek would say to it,
//! without a device, and [`Blueprint::shared_bytes`] and the like what it costs. A [`Product`] is made of both once, checked by cubek
//! itself, and launched as often as wanted.
//!
//! The routines are generic and instantiated where they are called, at a cost of minutes. That is why this package is apart from those
//! whose kernels change, depends on none of them, and offers each runtime its own functions. [`Product::launch`] alone is generic, for
//! runtimes that only keep sources. Cubek has one function for all routines, `Strategy`, which would instantiate them all.
//!
//! Where we differ from cubek's own entry points: the element types of stages and registers are the blueprint's, never changed behind
//! its back (cubek makes tf32 of f32 on tensor cores); a routine with two stages checks bounds along k whenever the number of its stages
//! is odd; what a plane is for routines of units is chosen by us, since nothing in them depends on the device's.

#![deny(unsafe_code)]

mod blueprint;
mod product;

pub use blueprint::{Blueprint, Order, PLANE, Routine, Sizes, Stage, Swizzle};
pub use product::Product;
