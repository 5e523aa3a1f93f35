//! The PC board: buses, interrupt controllers, timers and the small devices every PC has.

mod device;

pub use device::{AccessSizes, Action, Device};
