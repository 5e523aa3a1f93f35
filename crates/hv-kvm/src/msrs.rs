//! Model-specific registers, out of the kernel and back.

use crate::state::refused;
use crate::vm::failed;
use hv::Error;
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use std::collections::BTreeMap;

const IA32_TSC: u32 = 0x10;
/// Those that [`hv::CpuState`] holds by name: the time-stamp counter, IA32_APIC_BASE and IA32_EFER.
const NAMED: [u32; 3] = [IA32_TSC, 0x1B, 0xC000_0080];

/// The time-stamp counter, and all other registers of `indices` that can be read, ascending.
pub(crate) fn save(vcpu: &VcpuFd, indices: &[u32]) -> Result<(u64, Vec<(u32, u64)>), Error> {
    let wanted: Vec<u32> = indices.iter().copied().filter(|index| !NAMED.contains(index)).collect();
    let values = read(vcpu, &wanted)?;
    let tsc = read(vcpu, &[IA32_TSC])?.get(&IA32_TSC).copied().unwrap_or(0);
    Ok((tsc, values.into_iter().collect()))
}

/// Sets the time-stamp counter.
pub(crate) fn load_tsc(vcpu: &VcpuFd, value: u64) -> Result<(), Error> {
    if write(vcpu, IA32_TSC, value)? { Ok(()) } else { Err(refusal(IA32_TSC, value)) }
}

/// Sets registers. One that already has the value is left alone, as many can be read but not written; one that KVM does
/// not know may be zero, which is what it would read as.
///
/// # Errors
/// [`Error::InvalidState`] naming the first register that KVM does not take.
pub(crate) fn load(vcpu: &VcpuFd, registers: &[(u32, u64)]) -> Result<(), Error> {
    let indices: Vec<u32> = registers.iter().map(|(index, _)| *index).collect();
    let present = read(vcpu, &indices)?;
    for &(index, value) in registers {
        let settled = present.get(&index).copied().unwrap_or(0) == value;
        if NAMED.contains(&index) || !(settled || write(vcpu, index, value)?) {
            return Err(refusal(index, value));
        }
    }
    Ok(())
}

fn refusal(index: u32, value: u64) -> Error {
    Error::InvalidState(format!("KVM does not take {value:#x} for the model-specific register {index:#x}"))
}

/// Those of `indices` that can be read.
fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<BTreeMap<u32, u64>, Error> {
    let mut values = BTreeMap::new();
    let mut left = indices;
    while !left.is_empty() {
        let entries: Vec<_> = left
            .iter()
            .take(KVM_MAX_MSR_ENTRIES)
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut batch = table(&entries)?;
        // KVM stops at the first register that it does not read and says how many came before.
        let done = vcpu.get_msrs(&mut batch).map_err(failed("read model-specific registers"))?;
        values.extend(batch.as_slice().iter().take(done).map(|entry| (entry.index, entry.data)));
        left = &left[if done < entries.len() { done + 1 } else { done }..];
    }
    Ok(values)
}

/// Whether KVM took the value.
fn write(vcpu: &VcpuFd, index: u32, data: u64) -> Result<bool, Error> {
    let batch = table(&[kvm_msr_entry { index, data, ..Default::default() }])?;
    Ok(vcpu.set_msrs(&batch).map_err(refused("a model-specific register"))? == 1)
}

fn table(entries: &[kvm_msr_entry]) -> Result<Msrs, Error> {
    Msrs::from_entries(entries).map_err(|_| Error::InvalidState("too many model-specific registers".into()))
}
