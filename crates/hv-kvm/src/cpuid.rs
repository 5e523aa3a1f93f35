//! What CPUID tells a guest: what this processor and KVM support together, without the features that would need help
//! from user space, and with each vCPU's own identity. Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use crate::vm::failed;
use hv::{CpuModel, Error, Features, PHYSICAL_BITS};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// The APIC timer's deadline as a time-stamp counter value.
pub(crate) const IA32_TSC_DEADLINE: u32 = 0x6E0;

/// Largest XSAVE area that [`hv::Fpu`] holds.
const XSAVE_LIMIT: u32 = hv::XSAVE_AREA_SIZE as u32;
/// First of the XCR0 components whose place in the area is left out: AMX.
const AMX_COMPONENTS: u32 = 0b11 << 17;

/// KVM's paravirtual features (leaf 0x4000_0001, EAX) that the kernel serves alone: clock (0, 3, stable 24), no delay on
/// I/O (1), steal time (5), end of interrupt (6), wake-up (7), TLB flush (9), IPIs (11), halt polling (12), yield (13).
const PARAVIRTUAL: u32 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 24;
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// KVM's local APIC timer counts nanoseconds.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// Whose leaves they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    /// And Hygon, which makes the same processors.
    Amd,
    Other,
}

impl Vendor {
    fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let first = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.ebx);
        match &first.to_le_bytes() {
            b"Genu" => Vendor::Intel,
            b"Auth" | b"Hygo" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

/// What every vCPU of a machine has in common: what `model` shows of what there is.
pub(crate) fn supported(kvm: &Kvm, model: CpuModel) -> Result<CpuId, Error> {
    let offered = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("read the supported CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut entries = offered.as_slice().to_vec();
    entries.retain(|entry| {
        let amx_component = entry.function == 0xD && [17, 18].contains(&entry.index);
        // Processor trace, SGX, AMX tiles; the hypervisor's leaves are written anew.
        !amx_component && ![0x12, 0x14, 0x1D, 0x1E].contains(&entry.function) && entry.function >> 16 != 0x4000
    });
    for entry in &mut entries {
        filter(entry, deadline);
    }
    if model != CpuModel::Host {
        limit(&mut entries, model)?;
    }
    let hypervisor = offered.as_slice().iter().find(|entry| entry.function == HYPERVISOR + 1);
    entries.push(leaf(HYPERVISOR, [HYPERVISOR_TIMING, signature(0), signature(4), signature(8)]));
    entries.push(leaf(HYPERVISOR + 1, [hypervisor.map_or(0, |entry| entry.eax & PARAVIRTUAL), 0, 0, 0]));
    table(&entries)
}

/// The table of vCPU `id` of `cpus`, whose time-stamp counter runs at `tsc_khz`.
///
/// The machine is one package of `cpus` cores without threads; the APIC ID is `id`.
pub(crate) fn of_vcpu(common: &CpuId, id: u32, cpus: u32, tsc_khz: u32) -> Result<CpuId, Error> {
    let mut entries = common.as_slice().to_vec();
    let vendor = Vendor::of(&entries);
    entries.retain(|entry| ![0xB, 0x1F].contains(&entry.function));
    for entry in &mut entries {
        identify(entry, id, cpus);
        if vendor == Vendor::Amd {
            identify_amd(entry, id, cpus);
        }
        if vendor == Vendor::Intel && entry.function == 0x15 {
            // TSC frequency = ECX * EBX / EAX hertz; the crystal is what the APIC timer counts.
            (entry.eax, entry.ebx, entry.ecx) = (APIC_BUS_KHZ, tsc_khz, APIC_BUS_KHZ * 1000);
        }
    }
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for function in [0xB, 0x1F] {
        if highest >= function {
            entries.extend(topology(function, id, cpus));
        }
    }
    entries.push(leaf(HYPERVISOR_TIMING, [tsc_khz, APIC_BUS_KHZ, 0, 0]));
    table(&entries)
}

/// Takes away what a guest could not use, could not be saved, or would let it nest virtual machines.
fn filter(entry: &mut kvm_cpuid_entry2, deadline: bool) {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= !(1 << 5); // VMX
            entry.ecx = with(entry.ecx, 24, deadline); // TSC deadline timer
            entry.ecx |= 1 << 21 | 1 << 31; // x2APIC, hypervisor present
        }
        (7, 0) => {
            entry.ebx &= !(1 << 2 | 1 << 25); // SGX, processor trace
            entry.ecx &= !(1 << 30); // SGX launch control
            entry.edx &= !(1 << 22 | 1 << 24 | 1 << 25); // AMX: BF16, tile, INT8
        }
        (7, 1) => entry.eax &= !(1 << 21), // AMX: FP16
        // Performance counters: their registers would be the host's.
        (0xA, _) | (0x8000_0022, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (0xD, 0) => {
            entry.eax &= !AMX_COMPONENTS;
            entry.ecx = entry.ecx.min(XSAVE_LIMIT);
        }
        (0x8000_0001, _) => entry.ecx &= !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28), // SVM, performance counters
        (0x8000_0008, _) => entry.eax = entry.eax & !0xFF | (entry.eax & 0xFF).min(PHYSICAL_BITS),
        (0x8000_000A, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // SVM's features
        _ => {}
    }
}

/// Takes away what `model` does not show, and the parts of the XSAVE area that go with it.
fn limit(entries: &mut Vec<kvm_cpuid_entry2>, model: CpuModel) -> Result<(), Error> {
    let mut offered = Features::default();
    for entry in entries.iter() {
        match (entry.function, entry.index) {
            (1, _) => offered.leaf1_ecx = entry.ecx,
            (7, 0) => (offered.leaf7_ebx, offered.leaf7_ecx, offered.leaf7_edx) = (entry.ebx, entry.ecx, entry.edx),
            (0x8000_0001, _) => (offered.extended_ecx, offered.extended_edx) = (entry.ecx, entry.edx),
            _ => {}
        }
    }
    let shown = model.limit(offered, "KVM on this processor")?;
    // x87 and SSE; AVX; the three components of AVX-512. Intel SDM volume 1, section 13.1.
    let avx = if shown.leaf1_ecx >> 28 & 1 != 0 { 1 << 2 } else { 0 };
    let avx512 = if shown.leaf7_ebx >> 16 & 1 != 0 { 0b111 << 5 } else { 0 };
    let components = 3 | avx | avx512;
    let component_end = |entry: &kvm_cpuid_entry2| match entry.index {
        2..32 if components >> entry.index & 1 != 0 => entry.ebx + entry.eax,
        _ => 0,
    };
    let area = entries.iter().filter(|entry| entry.function == 0xD).map(component_end).max().unwrap_or(0).max(576);
    entries.retain(|entry| entry.function != 0xD || entry.index < 2 || components >> entry.index.min(31) & 1 != 0);
    for entry in entries {
        match (entry.function, entry.index) {
            (1, _) => entry.ecx = shown.leaf1_ecx,
            (7, 0) => (entry.ebx, entry.ecx, entry.edx) = (shown.leaf7_ebx, shown.leaf7_ecx, shown.leaf7_edx),
            // Instructions alone, all newer than the levels.
            (7, 1) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            (0xD, 0) => (entry.eax, entry.ecx, entry.edx) = (components, area, 0),
            (0x8000_0001, _) => (entry.ecx, entry.edx) = (shown.extended_ecx, shown.extended_edx),
            _ => {}
        }
    }
    Ok(())
}

/// Writes APIC ID and topology into the leaves that carry them.
fn identify(entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32) {
    match entry.function {
        1 => {
            let logical = width(cpus).min(7);
            entry.ebx = (id & 0xFF) << 24 | (1 << logical).min(255) << 16 | entry.ebx & 0xFFFF;
            entry.edx = with(entry.edx, 28, cpus > 1); // the count of logical processors is valid
            entry.ecx &= !(1 << 27); // OSXSAVE follows CR4, KVM sets it
        }
        // Cores in the package, caches.
        4 if entry.eax & 0x1F != 0 => entry.eax = (cpus - 1).min(63) << 26 | share_cache(entry.eax, cpus),
        _ => {}
    }
}

/// As [`identify`], for the leaves that only AMD has or only AMD fills.
fn identify_amd(entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32) {
    match entry.function {
        0x8000_0001 => entry.ecx = with(entry.ecx, 1, cpus > 1), // the logical processors are cores (CmpLegacy)
        0x8000_0008 => entry.ecx = width(cpus) << 12 | (cpus - 1).min(255),
        0x8000_001D => entry.eax = share_cache(entry.eax, cpus),
        // Extended APIC ID, core number with one thread each, node 0 of 1.
        0x8000_001E => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (id, id & 0xFF, 0, 0),
        _ => {}
    }
}

/// How many processors share a cache (EAX of leaf 4 and of AMD's 0x8000_001D): levels 1 and 2 belong to a core, level 3
/// to the package.
fn share_cache(eax: u32, cpus: u32) -> u32 {
    let sharing = if eax >> 5 & 7 >= 3 { (cpus - 1).min(0xFFF) } else { 0 };
    sharing << 14 | eax & 0x3FFF
}

/// The levels of extended topology: a core has one thread, the package all cores.
fn topology(function: u32, id: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..leaf(function, [eax, ebx, kind | index, id])
    };
    [level(0, 0, 1, THREAD), level(1, width(cpus), cpus, CORE), level(2, 0, 0, 0)]
}

/// Bits of the APIC ID that number `cpus` processors.
fn width(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn with(register: u32, bit: u32, set: bool) -> u32 {
    register & !(1 << bit) | u32::from(set) << bit
}

/// Four bytes of the signature by which a guest recognizes KVM.
fn signature(at: usize) -> u32 {
    const KVM: [u8; 12] = *b"KVMKVMKVM\0\0\0";
    u32::from_le_bytes([KVM[at], KVM[at + 1], KVM[at + 2], KVM[at + 3]])
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

fn table(entries: &[kvm_cpuid_entry2]) -> Result<CpuId, Error> {
    CpuId::from_entries(entries).map_err(|_| Error::Unavailable("KVM has no room for so many CPUID leaves".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table.as_slice().iter().find(|entry| entry.function == function && entry.index == index).unwrap()
    }

    fn intel() -> CpuId {
        let vendor = leaf(0, [0x1F, u32::from_le_bytes(*b"Genu"), 0, 0]);
        let mut level2 = leaf(4, [0x0400_4043, 0, 0, 0]);
        level2.index = 2;
        let mut level3 = leaf(4, [0x0400_4063, 0, 0, 0]);
        level3.index = 3;
        let host_topology = leaf(0xB, [1, 2, 0x100, 99]);
        table(&[vendor, leaf(1, [0, 0x6310_0800, 0, 0]), level2, level3, host_topology, leaf(0x15, [0; 4])]).unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_everywhere() {
        let table = of_vcpu(&intel(), 5, 6, 2_000_000).unwrap();
        assert_eq!(find(&table, 1, 0).ebx, 5 << 24 | 8 << 16 | 0x0800);
        for function in [0xB, 0x1F] {
            assert_eq!(find(&table, function, 0).edx, 5);
            let core = find(&table, function, 1);
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
            assert_eq!(find(&table, function, 2).ecx, 2);
        }
        assert_eq!(table.as_slice().iter().filter(|entry| entry.function == 0xB).count(), 3);
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let table = of_vcpu(&intel(), 0, 4, 2_000_000).unwrap();
        assert_eq!(find(&table, 4, 2).eax, 3 << 26 | 0x43);
        assert_eq!(find(&table, 4, 3).eax, 3 << 26 | 3 << 14 | 0x63);
    }

    #[test]
    fn a_model_limits_the_features_and_the_xsave_area() {
        let sub = |function, index, registers| kvm_cpuid_entry2 { index, ..leaf(function, registers) };
        let all = || {
            vec![
                leaf(1, [0, 0, u32::MAX, 0]),
                sub(7, 0, [1, u32::MAX, u32::MAX, u32::MAX]),
                sub(7, 1, [u32::MAX; 4]),
                sub(0xD, 0, [0xE7, 832, 2688, 0]),
                sub(0xD, 1, [0xF, 0, 0, 0]),
                sub(0xD, 2, [256, 576, 0, 0]),
                sub(0xD, 5, [64, 1088, 0, 0]),
                sub(0xD, 6, [512, 1152, 0, 0]),
                sub(0xD, 7, [1024, 1664, 0, 0]),
                leaf(0x8000_0001, [0, 0, u32::MAX, u32::MAX]),
            ]
        };
        for (model, avx, bmi2, avx512, lzcnt, components, size, subleaves) in [
            (CpuModel::V2, 0, 0, 0, 0, 3, 576, 2),
            (CpuModel::V3, 1, 1, 0, 1, 7, 832, 3),
            (CpuModel::V4, 1, 1, 1, 1, 0xE7, 2688, 6),
        ] {
            let mut entries = all();
            limit(&mut entries, model).unwrap();
            let table = table(&entries).unwrap();
            assert_eq!(find(&table, 1, 0).ecx >> 28 & 1, avx, "{model:?}");
            assert_eq!(find(&table, 7, 0).ebx >> 8 & 1, bmi2, "{model:?}");
            assert_eq!(find(&table, 7, 0).ebx >> 16 & 1, avx512, "{model:?}");
            assert_eq!(find(&table, 0x8000_0001, 0).ecx >> 5 & 1, lzcnt, "{model:?}");
            assert_eq!((find(&table, 0xD, 0).eax, find(&table, 0xD, 0).ecx), (components, size), "{model:?}");
            assert_eq!(entries.iter().filter(|entry| entry.function == 0xD).count(), subleaves, "{model:?}");
            assert_eq!(find(&table, 7, 1).eax, 0, "{model:?}");
        }
    }

    #[test]
    fn the_tsc_leaves_give_its_frequency() {
        let table = of_vcpu(&intel(), 0, 1, 2_445_000).unwrap();
        let crystal = find(&table, 0x15, 0);
        assert_eq!(u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax), 2_445_000_000);
        assert_eq!(find(&table, HYPERVISOR_TIMING, 0).eax, 2_445_000);
    }

    #[test]
    fn nested_virtualization_and_counters_are_not_offered() {
        let mut features = leaf(1, [0, 0, u32::MAX, 0]);
        filter(&mut features, false);
        assert_eq!(features.ecx & (1 << 5 | 1 << 24), 0);
        let mut counters = leaf(0xA, [u32::MAX; 4]);
        filter(&mut counters, true);
        assert_eq!(counters.eax | counters.edx, 0);
        let mut extended = leaf(0x8000_0001, [0, 0, u32::MAX, 0]);
        filter(&mut extended, true);
        assert_eq!(extended.ecx & 1 << 2, 0);
    }
}
