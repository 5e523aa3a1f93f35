use crate::errors::core_error;
use crate::terminal::duplicate;
use block::{Disk, RawFile};
use pyo3::prelude::*;
use std::fs::File;
use std::sync::Arc;

/// The slot of a drive with removable media.
#[pyclass(frozen, module = "wirt._core")]
pub struct Medium {
    pub medium: Arc<block::Medium>,
}

#[pymethods]
impl Medium {
    #[new]
    fn new() -> Self {
        Medium { medium: block::Medium::new(None) }
    }

    fn insert(&self, py: Python<'_>, fd: i32, readonly: bool) -> PyResult<()> {
        let disk: Arc<dyn Disk> = Arc::new(RawFile::new(File::from(duplicate(fd)?), readonly).map_err(core_error)?);
        let old = self.medium.exchange(Some(disk));
        py.detach(|| drop(old));
        Ok(())
    }

    fn remove(&self, py: Python<'_>) {
        let old = self.medium.exchange(None);
        py.detach(|| drop(old));
    }

    fn request_eject(&self) {
        self.medium.request_eject();
    }

    #[getter]
    fn locked(&self) -> bool {
        self.medium.locked()
    }

    #[getter]
    fn open(&self) -> bool {
        self.medium.is_open()
    }
}
