use pyo3::PyErr;
use pyo3::exceptions::PyException;
use std::fmt::Display;

pyo3::create_exception!(wirt._core, CoreError, PyException, "What the core refused or failed to do, in one sentence.");

/// Any error of the core as a [`CoreError`] with its sentence.
pub fn core_error(error: impl Display) -> PyErr {
    CoreError::new_err(error.to_string())
}
