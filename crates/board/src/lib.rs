//! The PC board: buses, interrupt controllers, timers and the small devices every PC has.

mod buses;
mod device;
mod machine;
mod vcpu_thread;

pub use buses::{ActionSink, BusError, Buses};
pub use device::{AccessSizes, Action, Device};
pub use machine::{Event, Machine, MachineError};
