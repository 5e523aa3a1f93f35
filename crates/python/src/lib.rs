//! The Python module `wirt._core`.
