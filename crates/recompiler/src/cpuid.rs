//! What CPUID shows to the guest.

use hv::Error;

/// A processor model.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// Number of vCPUs.
    pub cpus: u32,
}

impl CpuModel {
    /// The model closest to the host's processor that the recompiler can run.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the host's processor lacks what the recompiler itself needs.
    pub fn host(cpus: u32) -> Result<Self, Error> {
        Ok(CpuModel { cpus })
    }
}
