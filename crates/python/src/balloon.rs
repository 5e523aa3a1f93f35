use crate::errors::core_error;
use crate::waiting::{interruptible, timeout};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{Arc, Weak};

/// The host's end of a balloon. Each reset makes another device; what is asked of the guest stays.
#[pyclass(frozen, module = "wirt._core")]
pub struct Balloon {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    target: Option<u64>,
    device: Weak<virtio::Balloon>,
}

impl Balloon {
    /// Asks this device from now on.
    pub fn connect(&self, device: &Arc<virtio::Balloon>) -> Result<(), String> {
        let state = &mut *self.state.lock();
        state.device = Arc::downgrade(device);
        state.target.map_or(Ok(()), |target| device.set_target(target))
    }

    fn device(&self) -> PyResult<Arc<virtio::Balloon>> {
        self.state.lock().device.upgrade().ok_or_else(|| core_error("the machine has no balloon"))
    }
}

#[pymethods]
impl Balloon {
    #[new]
    fn new() -> Self {
        Balloon { state: Mutex::default() }
    }

    fn set_target(&self, py: Python<'_>, bytes: u64) -> PyResult<()> {
        let device = self.device()?;
        py.detach(|| {
            device.set_target(bytes).map_err(core_error)?;
            self.state.lock().target = Some(bytes);
            Ok(())
        })
    }

    #[getter]
    fn target(&self) -> PyResult<u64> {
        Ok(self.device()?.target())
    }

    #[getter]
    fn size(&self) -> PyResult<u64> {
        Ok(self.device()?.size())
    }

    #[pyo3(signature = (timeout = None))]
    fn statistics<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let device = self.device()?;
        let Some(values) = interruptible(py, self::timeout(timeout)?, |slice| device.statistics(slice))? else {
            return Ok(None);
        };
        let result = PyDict::new(py);
        for (name, value) in values {
            result.set_item(name, value)?;
        }
        Ok(Some(result))
    }
}
