//! The Python module `wirt._core`: the machine's Rust parts as thin classes. `python/wirt/_core.pyi` describes them.
//!
//! Blocking calls let other Python threads run and notice Ctrl-C. vCPU and I/O threads take the interpreter's lock
//! only to call a device written in Python.
#![allow(missing_docs)] // The stubs document the classes for those who see them.

mod accelerator;
mod balloon;
mod device;
mod display;
mod errors;
mod hardware;
mod input;
mod machine;
mod medium;
mod memory;
mod net;
mod pci_devices;
mod registers;
mod screen;
mod terminal;
mod waiting;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    hv::Tsc::begin_measuring();
    module.add_class::<accelerator::ProbeResult>()?;
    module.add_class::<balloon::Balloon>()?;
    module.add_class::<device::Action>()?;
    module.add_class::<machine::Event>()?;
    module.add_class::<machine::IrqLine>()?;
    module.add_class::<machine::Machine>()?;
    module.add_class::<medium::Medium>()?;
    module.add_class::<memory::GuestMemory>()?;
    module.add_class::<net::Network>()?;
    module.add_class::<display::PixelFormat>()?;
    module.add_class::<screen::Frame>()?;
    module.add_class::<screen::Screen>()?;
    module.add_class::<terminal::Terminal>()?;
    module.add("CoreError", module.py().get_type::<errors::CoreError>())?;
    module.add_function(wrap_pyfunction!(display::vnc_colour_map, module)?)?;
    module.add_function(wrap_pyfunction!(display::vnc_response, module)?)?;
    module.add_function(wrap_pyfunction!(accelerator::probe, module)?)
}
