//! USB: the UHCI host controller of the PIIX3, and a tablet and a keyboard to plug into it.
//!
//! Specifications: Intel's *Universal Host Controller Interface Design Guide* 1.1 ("UHCI"), *Universal Serial Bus
//! Specification* 1.1 and 2.0 ("USB"), *Device Class Definition for Human Interface Devices* 1.11 ("HID").
//!
//! ```text
//!   vCPU ── I/O ports ──▶ Uhci ──▶ Controller ── walks the schedule in guest memory
//!   thread `timers` ────────┘           │ transactions (under the controller's lock)
//!                                       ▼
//!   front end ── set, key ──▶ UsbDevice: Hid<Pointer> = Tablet, Hid<Keys> = Keyboard
//!                                       └── wake: there is something to say
//! ```
//!
//! Frames last a millisecond, yet nothing need happen in each: [`Uhci`] says when they are made up for.

mod bus;
mod control;
mod descriptors;
mod hid;
mod keyboard;
mod tablet;
mod uhci;
mod usages;

pub use bus::{Response, Speed, Token, Transaction, UsbDevice, Wake};
pub use hid::Hid;
pub use keyboard::{Keyboard, Keys};
pub use tablet::{Pointer, TABLET_MAX, Tablet};
pub use uhci::{PORTS, PortsTaken, USB_FUNCTION, USB_SLOT, Uhci};
