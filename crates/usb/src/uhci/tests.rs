//! The controller against the specification, and against what drivers and hostile guests do.

mod devices;
mod function;
mod registers;
mod rig;
mod schedule;
