use crate::accelerator;
use crate::errors::core_error;
use crate::input::Usb;
use crate::memory::GuestMemory;
use crate::registers::{Changes, to_python};
use crate::terminal::duplicate;
use crate::waiting::{interruptible, timeout};
use block::{BlockError, Disk, Patience, PatientDisk, RawFile};
use board::{Buses, Chipset, CmosConfig};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use recompiler::Instruments;
use std::fs::File;
use std::sync::{Arc, OnceLock};
use virtio::Interfaces;

/// One machine on one accelerator.
#[pyclass(frozen, module = "wirt._core")]
pub struct Machine {
    machine: Arc<board::Machine>,
    /// Let go of at the close: PCI functions hold files and threads.
    chipset: Mutex<Option<Chipset>>,
    /// As the chipset.
    pub usb: Mutex<Usb>,
    interfaces: Interfaces,
    /// Where requests of disks wait instead of failing, if they are to.
    patience: OnceLock<Arc<Patience>>,
}

impl Machine {
    /// The interfaces of its virtio devices.
    pub fn interfaces(&self) -> Interfaces {
        self.interfaces
    }

    /// The board's machine, to put devices into.
    pub fn board(&self) -> &Arc<board::Machine> {
        &self.machine
    }

    /// What is behind a disk's duplicated descriptor.
    ///
    /// # Errors
    /// When it is no file or block device.
    pub fn disk(&self, fd: i32, readonly: bool) -> PyResult<Arc<dyn Disk>> {
        let disk = RawFile::new(File::from(duplicate(fd)?), readonly)
            .map_err(|error| core_error(format!("the size of a disk cannot be found: {error}")))?;
        Ok(match self.patience.get() {
            Some(patience) => Arc::new(PatientDisk::new(Arc::new(disk), patience.clone())),
            None => Arc::new(disk),
        })
    }

    /// # Errors
    /// After the close.
    pub fn chipset(&self) -> PyResult<MappedMutexGuard<'_, Chipset>> {
        MutexGuard::try_map(self.chipset.lock(), Option::as_mut).map_err(|_| core_error(board::MachineError::Closed))
    }
}

#[pymethods]
impl Machine {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    #[pyo3(signature = (memory, cpus, accelerator, cpu = "host", dump_block = None, perf_map = None, firmware = None, virtio = "transitional"))]
    fn new(
        py: Python<'_>,
        memory: &GuestMemory,
        cpus: u32,
        accelerator: &str,
        cpu: &str,
        dump_block: Option<u64>,
        perf_map: Option<Vec<(u64, String)>>,
        firmware: Option<u64>,
        virtio: &str,
    ) -> PyResult<Self> {
        let interfaces = match virtio {
            "transitional" => Interfaces::Transitional,
            "modern" => Interfaces::Modern,
            "legacy" => Interfaces::Legacy,
            _ => return Err(PyValueError::new_err(format!("virtio has no interface {virtio:?}"))),
        };
        let memory = memory.memory.clone();
        py.detach(|| {
            let buses = Arc::new(Buses::new());
            let mut instruments = Instruments::default().dump_block(dump_block);
            if let Some(symbols) = perf_map {
                instruments = instruments.perf_map(symbols).map_err(core_error)?;
            }
            let vm = accelerator::create(accelerator, memory.clone(), buses.clone(), cpus, cpu, instruments)
                .map_err(core_error)?;
            let layout = memory.layout();
            let top =
                layout.regions().iter().filter(|region| !region.readonly).map(|region| region.address + region.size);
            let (below, above): (Vec<u64>, Vec<u64>) = top.partition(|end| *end <= 1 << 32);
            let cmos = CmosConfig {
                memory_below_4g: below.into_iter().max().unwrap_or(0),
                memory_above_4g: above.into_iter().max().map_or(0, |end| end - (1 << 32)),
                cpus,
            };
            let chipset = Chipset::new(&vm, &memory, &buses, &cmos, firmware).map_err(core_error)?;
            let machine = board::Machine::new(memory, buses, vm);
            for id in 0..cpus {
                machine.add_vcpu(chipset.lapic(id), Arc::new(with_thread_state)).map_err(core_error)?;
            }
            Ok(Machine {
                machine,
                chipset: Mutex::new(Some(chipset)),
                usb: Mutex::default(),
                interfaces,
                patience: OnceLock::new(),
            })
        })
    }

    #[getter]
    fn accelerator(&self) -> &'static str {
        self.machine.vm().accelerator()
    }

    #[getter]
    fn cpus(&self) -> u32 {
        self.machine.cpus()
    }

    #[getter]
    fn state(&self) -> &'static str {
        self.machine.state_name()
    }

    fn press_power_button(&self) -> PyResult<()> {
        self.chipset()?.press_power_button();
        Ok(())
    }

    fn press_nmi_button(&self, py: Python<'_>) -> PyResult<()> {
        if self.chipset()?.press_nmi_button() {
            return Ok(());
        }
        py.detach(|| {
            (0..self.machine.cpus()).try_for_each(|cpu| {
                self.machine.with_vcpu(cpu, |vcpu| vcpu.pulse_nmi()).map_err(core_error)?.map_err(core_error)
            })
        })
    }

    fn assign_pci_resources(&self) -> PyResult<()> {
        self.chipset()?.pci().assign_resources().map_err(core_error)
    }

    fn irq_line(&self, gsi: u32) -> PyResult<IrqLine> {
        Ok(IrqLine { line: self.chipset()?.lines().line(gsi).map_err(core_error)? })
    }

    fn bus_map(&self) -> Vec<(&'static str, u64, u64, String)> {
        self.machine.buses().map()
    }

    fn start(&self) -> PyResult<()> {
        self.machine.start().map_err(core_error)
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            self.machine.pause().map_err(core_error)?;
            self.chipset()?.pause();
            // A request that waits does so until the machine goes on.
            if !self.patience.get().is_some_and(|patience| patience.is_waiting()) {
                self.chipset()?.pci().pause();
            }
            Ok(())
        })
    }

    fn resume(&self) -> PyResult<()> {
        self.chipset()?.resume();
        self.chipset()?.pci().resume();
        self.patience.get().inspect(|patience| patience.try_again());
        self.machine.resume().map_err(core_error)
    }

    fn wait_on_io_errors(&self, told: Py<PyAny>) {
        let stopped = move |error: BlockError| tell(&told, &error.to_string());
        self.patience.get_or_init(|| Patience::new(stopped));
    }

    fn kill(&self) {
        self.patience.get().inspect(|patience| patience.end());
        self.machine.kill();
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            self.patience.get().inspect(|patience| patience.end());
            self.machine.close();
            let chipset = self.chipset.lock().take();
            drop(chipset);
            *self.usb.lock() = Usb::default();
        });
    }

    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Event>> {
        let timeout = self::timeout(timeout)?;
        Ok(interruptible(py, timeout, |slice| self.machine.wait(Some(slice)))?.map(|event| Event { event }))
    }

    fn registers<'py>(&self, py: Python<'py>, cpu: u32) -> PyResult<Bound<'py, PyDict>> {
        let state = py.detach(|| self.machine.with_vcpu(cpu, |vcpu| vcpu.state())).map_err(core_error)?;
        to_python(py, &state.map_err(core_error)?)
    }

    fn set_registers(&self, py: Python<'_>, cpu: u32, values: &Bound<'_, PyDict>) -> PyResult<()> {
        let changes = Changes::from_python(values)?;
        let outcome = py.detach(|| {
            self.machine.with_vcpu(cpu, move |vcpu| {
                let mut state = vcpu.state()?;
                changes.apply(&mut state);
                // Written back, the counter would fall behind those of the other vCPUs.
                state.tsc = None;
                vcpu.set_state(&state)
            })
        });
        outcome.map_err(core_error)?.map_err(core_error)
    }

    fn translate(&self, py: Python<'_>, cpu: u32, linear: u64) -> PyResult<Option<u64>> {
        py.detach(|| self.machine.with_vcpu(cpu, move |vcpu| vcpu.translate(linear))).map_err(core_error)
    }

    fn listings(&self) -> String {
        self.machine.vm().listings()
    }

    fn statistics<'py>(&self, py: Python<'py>, cpu: u32) -> PyResult<Bound<'py, PyDict>> {
        let counters = py.detach(|| self.machine.with_vcpu(cpu, |vcpu| vcpu.statistics())).map_err(core_error)?;
        let result = PyDict::new(py);
        for (name, value) in counters {
            result.set_item(name, value)?;
        }
        Ok(result)
    }
}

/// Calls what Python has given; what it raises is reported as what a thread raises.
pub fn tell(told: &Py<PyAny>, event: &str) {
    Python::try_attach(|py| {
        if let Err(error) = told.call1(py, (event,)) {
            error.write_unraisable(py, None);
        }
    });
}

/// Keeps Python's state for this thread while `life` goes on, without the interpreter's lock. Otherwise each call of a
/// Python device would make it and throw it away, which costs several times what the call does.
fn with_thread_state(life: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(life));
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A vCPU thread may wait for the interpreter's lock, which this thread holds.
        self.patience.get().inspect(|patience| patience.end());
        Python::try_attach(|py| py.detach(|| self.machine.close()));
    }
}

/// How a machine's run ended.
#[pyclass(frozen, module = "wirt._core")]
pub struct Event {
    event: Arc<board::Event>,
}

#[pymethods]
impl Event {
    #[getter]
    fn kind(&self) -> &'static str {
        match *self.event {
            board::Event::Shutdown => "shutdown",
            board::Event::Reset => "reset",
            board::Event::Exit(_) => "exit",
            board::Event::TripleFault { .. } => "triple-fault",
            board::Event::Halted { .. } => "halted",
            board::Event::InternalError { .. } => "internal-error",
            board::Event::Killed => "killed",
        }
    }

    #[getter]
    fn status(&self) -> Option<u8> {
        if let board::Event::Exit(status) = *self.event { Some(status) } else { None }
    }

    #[getter]
    fn vcpu(&self) -> Option<u32> {
        match *self.event {
            board::Event::TripleFault { vcpu }
            | board::Event::Halted { vcpu }
            | board::Event::InternalError { vcpu, .. } => Some(vcpu),
            _ => None,
        }
    }

    #[getter]
    fn message(&self) -> Option<&str> {
        if let board::Event::InternalError { error, .. } = &*self.event { Some(&error.what) } else { None }
    }

    #[getter]
    fn instruction(&self) -> Option<&[u8]> {
        if let board::Event::InternalError { error, .. } = &*self.event { Some(&error.instruction) } else { None }
    }

    #[getter]
    fn registers<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        match &*self.event {
            board::Event::InternalError { error, .. } => {
                error.state.as_ref().map(|state| to_python(py, state)).transpose()
            }
            _ => Ok(None),
        }
    }
}

/// A Python device's connection to an interrupt line.
#[pyclass(frozen, module = "wirt._core")]
pub struct IrqLine {
    line: board::IrqLine,
}

#[pymethods]
impl IrqLine {
    fn set(&self, py: Python<'_>, high: bool) {
        py.detach(|| self.line.set(high));
    }

    fn pulse(&self, py: Python<'_>) {
        py.detach(|| self.line.pulse());
    }
}
