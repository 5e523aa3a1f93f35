use hv::{Bus, GuestMemory, Vm};
use hv_kvm::{KvmVm, Verdict};
use pyo3::prelude::*;
use recompiler::{Instruments, RecompilerVm};
use std::sync::Arc;

/// Makes the VM of the accelerator of this name, with processors of the model of that name.
pub fn create(
    name: &str,
    memory: Arc<GuestMemory>,
    bus: Arc<dyn Bus>,
    cpus: u32,
    model: &str,
    instruments: Instruments,
) -> Result<Arc<dyn Vm>, hv::Error> {
    let model = hv::CpuModel::from_name(model)
        .ok_or_else(|| hv::Error::Unavailable(format!("there is no processor model {model}")))?;
    match name {
        "kvm" => Ok(KvmVm::new(memory, bus, cpus, model)?),
        "recompiler" => Ok(RecompilerVm::new(memory, bus, cpus, model, instruments)?),
        _ => Err(hv::Error::Unavailable(format!("there is no accelerator {name}"))),
    }
}

/// What KVM is worth on this host.
#[pyclass(frozen, get_all, name = "Probe", module = "wirt._core")]
pub struct ProbeResult {
    /// `hardware`, `emulating` or `unavailable`.
    verdict: &'static str,
    text: String,
    api_version: Option<i32>,
    instructions: Option<u64>,
    emulated: Option<u64>,
    ns_per_instruction: Option<f64>,
}

#[pyfunction]
pub fn probe(py: Python<'_>) -> ProbeResult {
    let probe = py.detach(hv_kvm::probe);
    ProbeResult {
        verdict: match probe.verdict {
            Verdict::Hardware => "hardware",
            Verdict::Emulating => "emulating",
            Verdict::Unavailable(_) => "unavailable",
        },
        text: probe.to_string(),
        api_version: probe.api_version,
        instructions: probe.figures.map(|figures| figures.instructions),
        emulated: probe.figures.and_then(|figures| figures.emulated),
        ns_per_instruction: probe.figures.map(|figures| figures.ns_per_instruction),
    }
}
