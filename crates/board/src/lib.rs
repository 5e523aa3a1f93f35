//! The PC board: buses, interrupt controllers, timers and the small devices every PC has.

mod buses;
mod device;
mod line;
mod machine;
mod state;
mod terminal;
mod uart;
mod vcpu_thread;

pub use buses::{ActionSink, BusError, Buses};
pub use device::{AccessSizes, Action, Device};
pub use line::{GSI_COUNT, IrqLine, IrqLines};
pub use machine::{Event, Machine, MachineError};
pub use state::{StateReader, StateWriter};
pub use terminal::{Output, Terminal, TerminalDevice};
pub use uart::Uart;
