use crate::errors::core_error;
use crate::terminal::duplicate;
use block::{Disk, RawFile};
use pyo3::prelude::*;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Movements of a tray that wait to be told.
const MOST_MOVES: usize = 64;

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

    fn set_open(&self, py: Python<'_>, open: bool) {
        py.detach(|| self.medium.set_open(open));
    }

    /// Calls `told` on a thread of its own: who moves a tray has locks that must not wait for the interpreter's.
    fn watch(&self, told: Py<PyAny>) -> PyResult<()> {
        let (sender, moves) = sync_channel::<bool>(MOST_MOVES);
        let tell = move || {
            // Until the slot, which has the other end, is gone.
            for open in moves {
                Python::try_attach(|py| {
                    if let Err(error) = told.call1(py, (open,)) {
                        error.write_unraisable(py, None);
                    }
                });
            }
        };
        std::thread::Builder::new().name("tray".into()).spawn(tell)?;
        self.medium.on_move(move |open| {
            // What a guest does faster than somebody can be told of is lost.
            let _ = sender.try_send(open);
        });
        Ok(())
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
