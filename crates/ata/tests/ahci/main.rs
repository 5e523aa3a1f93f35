//! The AHCI adapter seen by a driver.
#![allow(missing_docs)]

mod commands;
mod driver;
mod errors;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod queue;
mod registers;
mod resets;
