use std::io;

/// Why a disk could not do what was asked. What the system said is kept, as some of it can be cured from outside while
/// the guest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The system could not read or write; its errno. A file that is shorter than it was is EIO.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Io(i32),
    /// There is no room for what is written; ENOSPC, or EDQUOT where a quota says so.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    NoSpace(i32),
    /// Some of the bytes are not on the disk.
    #[error("beyond the end of the disk")]
    BeyondEnd,
    /// The disk cannot be written.
    #[error("the disk is read-only")]
    Readonly,
}

impl From<io::Error> for BlockError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno @ (libc::ENOSPC | libc::EDQUOT)) => BlockError::NoSpace(errno),
            Some(errno) => BlockError::Io(errno),
            None => BlockError::Io(libc::EIO),
        }
    }
}
