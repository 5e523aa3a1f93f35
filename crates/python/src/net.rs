use crate::errors::core_error;
use crate::machine::Machine;
use crate::pci_devices;
use crate::terminal::duplicate;
use ::net::{Backend, Cable, Capture, NullBackend};
use e1000::{E1000, E1000Options};
use parking_lot::Mutex;
use pyo3::prelude::*;
use std::fs::File;
use std::sync::Arc;
use virtio::{Net, NetOptions};

/// A network as one card sees it, with the cable to it. It outlives the machines that a reset makes.
#[pyclass(frozen, module = "wirt._core")]
pub struct Network {
    /// Let go of at the close, so that the peer sees an end.
    ends: Mutex<Option<Ends>>,
}

struct Ends {
    cable: Arc<Cable>,
    /// What the card is given: the cable, or a capture of what passes through it.
    backend: Arc<dyn Backend>,
}

impl Network {
    /// # Errors
    /// After the close.
    fn backend(&self) -> PyResult<Arc<dyn Backend>> {
        let ends = self.ends.lock();
        ends.as_ref().map(|ends| ends.backend.clone()).ok_or_else(|| core_error("the network is closed"))
    }
}

#[pymethods]
impl Network {
    #[new]
    #[pyo3(signature = (socket = None, capture = None, snaplen = ::net::MAX_SNAPLEN))]
    fn new(socket: Option<i32>, capture: Option<i32>, snaplen: u32) -> PyResult<Self> {
        let network: Arc<dyn Backend> = match socket {
            Some(fd) => ::net::from_socket(duplicate(fd)?).map_err(core_error)?,
            None => Arc::new(NullBackend),
        };
        let cable = Arc::new(Cable::new(network));
        let backend: Arc<dyn Backend> = match capture {
            Some(fd) => {
                let file = File::from(duplicate(fd)?);
                Arc::new(Capture::new(cable.clone(), file, snaplen).map_err(core_error)?)
            }
            None => cable.clone(),
        };
        Ok(Network { ends: Mutex::new(Some(Ends { cable, backend })) })
    }

    fn set_plugged(&self, py: Python<'_>, plugged: bool) {
        py.detach(|| {
            let cable = self.ends.lock().as_ref().map(|ends| ends.cable.clone());
            if let Some(cable) = cable {
                cable.set_plugged(plugged);
            }
        });
    }

    #[getter]
    fn plugged(&self) -> bool {
        self.ends.lock().as_ref().is_some_and(|ends| ends.cable.is_plugged())
    }

    #[getter]
    fn up(&self) -> bool {
        self.ends.lock().as_ref().is_some_and(|ends| ends.backend.is_up())
    }

    fn close(&self, py: Python<'_>) {
        let ends = self.ends.lock().take();
        py.detach(|| drop(ends));
    }
}

#[pymethods]
impl Machine {
    fn add_net(&self, slot: u8, name: &str, mac: [u8; 6], network: &Network, rom: Vec<u8>) -> PyResult<()> {
        let net = Net::new(name, NetOptions { mac, mtu: None }, network.backend()?);
        pci_devices::add_with_rom(self, slot, Arc::new(net), rom)
    }

    fn add_e1000(&self, slot: u8, name: &str, mac: [u8; 6], network: &Network, rom: Vec<u8>) -> PyResult<()> {
        let memory = self.board().memory().clone();
        let card = E1000::new(name, E1000Options { mac, rom }, memory, network.backend()?).map_err(core_error)?;
        self.chipset()?.pci().add(slot, 0, card).map_err(core_error)
    }
}
