use crate::memory::MemoryError;

/// What an accelerator could not do. The text is one sentence that a user can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The accelerator cannot be used on this host at all (no device, no permission, missing capability).
    #[error("{0}")]
    Unavailable(String),
    /// A system call failed.
    #[error("{action}: {source}")]
    Os {
        /// What was being done, for instance `create a virtual CPU`.
        action: &'static str,
        /// The error of the system call.
        #[source]
        source: std::io::Error,
    },
    /// Guest memory could not be made or reached.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A state that was offered for loading is not one a processor can have.
    #[error("invalid CPU state: {0}")]
    InvalidState(String),
}

impl Error {
    /// The last error of the C library as [`Error::Os`].
    pub fn last_os(action: &'static str) -> Self {
        Error::Os { action, source: std::io::Error::last_os_error() }
    }
}
