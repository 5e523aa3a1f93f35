use crate::errors::core_error;
use crate::waiting::{interruptible, timeout};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The far end of a serial line.
#[pyclass(frozen, module = "wirt._core")]
pub struct Terminal {
    pub terminal: Arc<board::Terminal>,
}

#[pymethods]
impl Terminal {
    #[new]
    #[pyo3(signature = (capacity = 1 << 20))]
    fn new(capacity: usize) -> Self {
        Terminal { terminal: board::Terminal::new(capacity) }
    }

    fn copy_to(&self, fd: i32) -> PyResult<()> {
        Ok(self.terminal.copy_to(duplicate(fd)?)?)
    }

    fn hold_back(&self, py: Python<'_>, position: Option<u64>) {
        py.detach(|| self.terminal.hold_back(position));
    }

    #[pyo3(signature = (data, timeout = None))]
    fn send(&self, py: Python<'_>, data: &[u8], #[pyo3(from_py_with = seconds)] timeout: Seconds) -> PyResult<usize> {
        let sent = AtomicUsize::new(0);
        let complete = interruptible(py, timeout, |slice| {
            let before = sent.load(Ordering::Relaxed);
            let now = self.terminal.send(&data[before..], Some(slice));
            sent.store(before + now, Ordering::Relaxed);
            (before + now == data.len() || self.terminal.is_closed()).then_some(())
        });
        complete.map(|_| sent.into_inner())
    }

    #[pyo3(signature = (position, timeout = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        position: u64,
        #[pyo3(from_py_with = seconds)] timeout: Seconds,
    ) -> PyResult<(Bound<'py, PyBytes>, u64, bool)> {
        let output = interruptible(py, timeout, |slice| {
            let output = self.terminal.read(position, Some(slice));
            (!output.bytes.is_empty() || output.closed).then_some(output)
        })?;
        Ok(match output {
            Some(output) => (PyBytes::new(py, &output.bytes), output.end, output.closed),
            None => (PyBytes::new(py, &[]), position, false),
        })
    }

    #[pyo3(signature = (timeout = None))]
    fn flush(&self, py: Python<'_>, #[pyo3(from_py_with = seconds)] timeout: Seconds) -> PyResult<bool> {
        Ok(interruptible(py, timeout, |slice| self.terminal.flush(slice).then_some(()))?.is_some())
    }

    fn close(&self) {
        self.terminal.close();
    }

    #[getter]
    fn closed(&self) -> bool {
        self.terminal.is_closed()
    }

    #[getter]
    fn copy_error(&self) -> Option<String> {
        self.terminal.copy_error()
    }
}

/// A duplicate of a descriptor that Python owns.
pub fn duplicate(fd: i32) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(core_error("a file descriptor is not negative"));
    }
    // SAFETY: borrowed for the call only; the system refuses a number that is not open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
}

type Seconds = Option<std::time::Duration>;

fn seconds(value: &Bound<'_, PyAny>) -> PyResult<Seconds> {
    timeout(value.extract()?)
}
