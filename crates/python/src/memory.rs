use crate::errors::core_error;
use hv::Region;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// Guest RAM and ROM by guest-physical address.
#[pyclass(frozen, module = "wirt._core")]
pub struct GuestMemory {
    pub memory: Arc<hv::GuestMemory>,
}

#[pymethods]
impl GuestMemory {
    #[new]
    #[pyo3(signature = (regions, size = 0))]
    fn new(regions: Vec<(u64, u64, u64, bool)>, size: u64) -> PyResult<Self> {
        let region = |(address, size, offset, readonly)| Region { address, size, offset, readonly };
        let regions: Vec<Region> = regions.into_iter().map(region).collect();
        Ok(GuestMemory { memory: Arc::new(hv::GuestMemory::with_size(&regions, size).map_err(core_error)?) })
    }

    #[getter]
    fn size(&self) -> u64 {
        self.memory.layout().regions().iter().map(|region| region.size).sum()
    }

    #[getter]
    fn regions(&self) -> Vec<(u64, u64, u64, bool)> {
        let row = |region: &Region| (region.address, region.size, region.offset, region.readonly);
        self.memory.layout().regions().iter().map(row).collect()
    }

    fn read<'py>(&self, py: Python<'py>, gpa: u64, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        if size as u64 > self.memory.size() {
            return Err(PyValueError::new_err(format!("the guest does not have {size} bytes of memory")));
        }
        PyBytes::new_with(py, size, |data| self.memory.read(gpa, data).map_err(core_error))
    }

    fn write(&self, py: Python<'_>, gpa: u64, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.memory.write(gpa, data)).map_err(core_error)
    }

    fn write_backing(&self, py: Python<'_>, offset: u64, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.memory.write_backing(offset, data)).map_err(core_error)
    }
}
