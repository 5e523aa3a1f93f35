//! The PC board: buses, interrupt controllers, timers and the small devices every PC has.

mod buses;
mod device;
mod host_bridge;
mod isa_bridge;
mod line;
mod machine;
mod msix;
pub mod pci;
mod power_management;
mod state;
mod terminal;
mod uart;
mod vcpu_thread;

pub use buses::{ActionSink, BusError, Buses};
pub use device::{AccessSizes, Action, Device};
pub use host_bridge::HostBridge;
pub use isa_bridge::IsaBridge;
pub use line::{GSI_COUNT, IrqLine, IrqLines};
pub use machine::{Event, Machine, MachineError};
pub use msix::Msix;
pub use power_management::{PM_BASE, PowerManagement};
pub use state::{StateReader, StateWriter};
pub use terminal::{Output, Terminal, TerminalDevice};
pub use uart::Uart;
