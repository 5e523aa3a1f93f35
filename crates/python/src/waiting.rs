use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// How long a signal (Ctrl-C) may go unnoticed.
const SLICE: Duration = Duration::from_millis(50);

/// A timeout in seconds from Python; `None` waits for ever.
pub fn timeout(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let convert = |seconds: f64| {
        let seconds = if seconds.is_nan() { -1.0 } else { seconds.min(1e9) };
        Duration::try_from_secs_f64(seconds).map_err(|_| PyValueError::new_err("a timeout is 0 seconds or more"))
    };
    seconds.map(convert).transpose()
}

/// Calls `wait` without the interpreter's lock, in slices of time between which Python handles signals, until it
/// gives a result or the time is up.
pub fn interruptible<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    wait: impl Fn(Duration) -> Option<T> + Sync,
) -> PyResult<Option<T>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let slice = left.map_or(SLICE, |left| left.min(SLICE));
        if let Some(result) = py.detach(|| wait(slice)) {
            return Ok(Some(result));
        }
        py.check_signals()?;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
    }
}
