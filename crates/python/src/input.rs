use crate::errors::core_error;
use crate::machine::Machine;
use pyo3::prelude::*;
use std::sync::Arc;
use usb::{Keyboard, Tablet, Uhci};

/// The USB controller of a machine that was given USB devices, and the devices of people.
#[derive(Default)]
pub struct Usb {
    controller: Option<Arc<Uhci>>,
    tablet: Option<Arc<Tablet>>,
    keyboard: Option<Arc<Keyboard>>,
}

impl Usb {
    /// The keyboard, while the guest listens to it.
    fn keyboard(&self) -> Option<&Arc<Keyboard>> {
        self.keyboard.as_ref().filter(|keyboard| keyboard.in_use())
    }
}

/// Keyboards and pointers, and what plugs them in.
#[pymethods]
impl Machine {
    fn add_usb_tablet(&self) -> PyResult<()> {
        let tablet = Arc::new(Tablet::new());
        self.usb_controller()?.plug(tablet.clone()).map_err(core_error)?;
        self.usb.lock().tablet = Some(tablet);
        Ok(())
    }

    fn add_usb_keyboard(&self) -> PyResult<()> {
        let keyboard = Arc::new(Keyboard::new());
        self.usb_controller()?.plug(keyboard.clone()).map_err(core_error)?;
        self.usb.lock().keyboard = Some(keyboard);
        Ok(())
    }

    fn key(&self, code: u8, down: bool) -> PyResult<()> {
        let chipset = self.chipset()?;
        let usb = self.usb.lock();
        let listening = usb.keyboard();
        if let Some(keyboard) = listening.filter(|_| down) {
            keyboard.key(code, true);
        } else {
            // A key is let go of wherever it was pressed.
            if let Some(keyboard) = usb.keyboard.as_ref().filter(|_| !down) {
                keyboard.key(code, false);
            }
            chipset.i8042().key(code, down);
        }
        Ok(())
    }

    #[getter]
    fn keyboard_leds(&self) -> PyResult<u8> {
        let chipset = self.chipset()?;
        let usb = self.usb.lock();
        Ok(usb.keyboard().map_or_else(|| chipset.i8042().keyboard_leds(), |keyboard| keyboard.leds()))
    }

    fn mouse(&self, dx: i32, dy: i32, dz: i32, buttons: u8) -> PyResult<()> {
        self.chipset()?.i8042().mouse_move(dx, dy, dz, buttons);
        Ok(())
    }

    fn tablet(&self, x: u16, y: u16, wheel: i32, buttons: u8) -> PyResult<bool> {
        let _open = self.chipset()?;
        let usb = self.usb.lock();
        let listening = usb.tablet.as_ref().filter(|tablet| tablet.in_use());
        if let Some(tablet) = listening {
            tablet.set(x, y, buttons, wheel);
        }
        Ok(listening.is_some())
    }
}

impl Machine {
    /// The USB controller; the first who asks has it made.
    fn usb_controller(&self) -> PyResult<Arc<Uhci>> {
        let chipset = self.chipset()?;
        let mut usb = self.usb.lock();
        if let Some(uhci) = &usb.controller {
            return Ok(uhci.clone());
        }
        let uhci = Uhci::insert(self.board().memory(), chipset.timers(), chipset.pci()).map_err(core_error)?;
        usb.controller = Some(uhci.clone());
        Ok(uhci)
    }
}
