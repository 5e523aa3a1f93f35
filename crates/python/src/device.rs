use board::{AccessSizes, Device};
use hv::with_own_floats;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the write handler of a Python device asks of the machine.
#[pyclass(frozen, module = "wirt._core")]
pub struct Action {
    action: board::Action,
}

#[pymethods]
impl Action {
    #[staticmethod]
    fn reset() -> Self {
        Action { action: board::Action::Reset }
    }

    #[staticmethod]
    fn shutdown() -> Self {
        Action { action: board::Action::Shutdown }
    }

    #[staticmethod]
    fn exit(status: u8) -> Self {
        Action { action: board::Action::Exit(status) }
    }

    fn __repr__(&self) -> String {
        match self.action {
            board::Action::None => "Action()".into(),
            board::Action::Reset => "Action.reset()".into(),
            board::Action::Shutdown => "Action.shutdown()".into(),
            board::Action::Exit(status) => format!("Action.exit({status})"),
        }
    }
}

/// A device model written in Python: an object with `read(offset, size) -> int` and
/// `write(offset, size, value) -> Action | None`.
///
/// An access takes the interpreter's lock on the vCPU's thread. An exception makes a read return all ones and a write
/// do nothing; the first is reported through `sys.unraisablehook`.
pub struct PyDevice {
    name: String,
    sizes: AccessSizes,
    device: Py<PyAny>,
    read: Py<PyAny>,
    write: Py<PyAny>,
    reported: AtomicBool,
}

impl PyDevice {
    /// Wraps `device`, which takes accesses of `sizes` bytes (smallest, largest: powers of two up to 8).
    pub fn new(device: Bound<'_, PyAny>, name: String, sizes: (u8, u8)) -> PyResult<Self> {
        let legal = |size| matches!(size, 1 | 2 | 4 | 8);
        if !legal(sizes.0) || !legal(sizes.1) || sizes.0 > sizes.1 {
            return Err(PyValueError::new_err(format!(
                "{name} takes accesses of {} to {} bytes: use 1, 2, 4 or 8, the smallest first",
                sizes.0, sizes.1
            )));
        }
        Ok(PyDevice {
            name,
            sizes: AccessSizes { min: sizes.0, max: sizes.1 },
            read: device.getattr("read")?.unbind(),
            write: device.getattr("write")?.unbind(),
            device: device.unbind(),
            reported: AtomicBool::new(false),
        })
    }

    fn report(&self, py: Python<'_>, error: PyErr) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            error.write_unraisable(py, Some(self.device.bind(py)));
        }
    }
}

impl Device for PyDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn sizes(&self) -> AccessSizes {
        self.sizes
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // The bus filled `data` with ones, which stay there when the interpreter is gone or the call fails.
        let read = |py: Python<'_>| {
            let value = self.read.call1(py, (offset, data.len())).and_then(|value| value.extract::<u64>(py));
            match value {
                Ok(value) => data.copy_from_slice(&value.to_le_bytes()[..data.len()]),
                Err(error) => self.report(py, error),
            }
        };
        with_own_floats(|| Python::try_attach(read));
    }

    fn write(&self, offset: u64, data: &[u8]) -> board::Action {
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        let write = |py: Python<'_>| {
            let answer = self.write.call1(py, (offset, data.len(), value));
            match answer.and_then(|answer| Ok(answer.extract::<Option<PyRef<'_, Action>>>(py)?.map(|a| a.action))) {
                Ok(action) => action,
                Err(error) => {
                    self.report(py, error);
                    None
                }
            }
        };
        let action = with_own_floats(|| Python::try_attach(write));
        action.flatten().unwrap_or_default()
    }
}
