//! What CPUID shows to the guest. Intel SDM volume 2A, "CPUID".
//!
//! The model is a server processor of Intel's (Ice Lake's numbers, for which operating systems need no workaround under
//! the capabilities that [`crate::msr`] shows). What user code executes as it stands is only shown where the host has it;
//! what belongs to system code is always emulated.

use crate::mmu::PHYSICAL_BITS;
use crate::state::{Core, cr4};
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use hv::{Error, Features};
use iced_x86::{Code, CpuidFeature, Instruction};

/// Frequency of the local APIC's timer in kHz. Guests take it from the crystal of leaf 0x15.
const APIC_TIMER_KHZ: u64 = 1_000_000;
/// Guests multiply the crystal's kHz by the numerator in 32 bits.
const NUMERATOR_LIMIT: u64 = u32::MAX as u64 / APIC_TIMER_KHZ;

const MAX_BASIC: u32 = 0x16;
const MAX_HYPERVISOR: u32 = 0x4000_0010;
const MAX_EXTENDED: u32 = 0x8000_0008;

/// Family 6, model 106, stepping 6.
const SIGNATURE: u32 = 0x0006_06A6;
const VENDOR: &[u8; 12] = b"GenuineIntel";
const HYPERVISOR: &[u8; 12] = b"WirtWirtWirt";
const BRAND: &[u8; 48] = b"Wirt Virtual CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Leaf 1, EDX.
mod leaf1_edx {
    /// FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2.
    pub const ALWAYS: u32 = 0x078B_F9FF;
    pub const APIC: u32 = 1 << 9;
    pub const HTT: u32 = 1 << 28;
}

/// Leaf 1, ECX.
mod leaf1_ecx {
    /// SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, AVX, F16C, RDRAND.
    pub const NATIVE: u32 = 1
        | 1 << 1
        | 1 << 9
        | 1 << 12
        | 1 << 13
        | 1 << 19
        | 1 << 20
        | 1 << 22
        | 1 << 23
        | 1 << 25
        | 1 << 28
        | 1 << 29
        | 1 << 30;
    /// XSAVE, and the hypervisor bit.
    pub const ALWAYS: u32 = 1 << 26 | 1 << 31;
    /// Where there is a local APIC: x2APIC, TSC deadline.
    pub const LAPIC: u32 = 1 << 21 | 1 << 24;
    pub const PCID: u32 = 1 << 17;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const FMA: u32 = 1 << 12;
    pub const AVX: u32 = 1 << 28;
    pub const F16C: u32 = 1 << 29;
    /// What the recompiler itself needs: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, XSAVE enabled by the system.
    pub const NEEDED: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | OSXSAVE;
}

/// Leaf 7.
mod leaf7 {
    /// EBX: BMI1, AVX2, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
    pub const EBX_NATIVE: u32 = 1 << 3 | AVX2 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29;
    /// EBX: FSGSBASE, TSC_ADJUST, SMEP, INVPCID, deprecated FPU CS and DS, SMAP.
    pub const EBX_ALWAYS: u32 = 1 | 1 << 1 | 1 << 7 | 1 << 10 | 1 << 13 | 1 << 20;
    pub const AVX2: u32 = 1 << 5;
    /// ECX: UMIP, RDPID.
    pub const ECX_ALWAYS: u32 = 1 << 2 | 1 << 22;
    /// EDX: FSRM.
    pub const EDX_NATIVE: u32 = 1 << 4;
    /// EDX: SERIALIZE (for which guests would otherwise use IRET), IBRS and IBPB, ARCH_CAPABILITIES.
    pub const EDX_ALWAYS: u32 = 1 << 14 | 1 << 26 | 1 << 29;
}

/// Leaf 0x8000_0001.
mod extended {
    /// ECX: LZCNT, PREFETCHW.
    pub const ECX_NATIVE: u32 = 1 << 5 | 1 << 8;
    /// ECX: LAHF in 64-bit mode.
    pub const ECX_ALWAYS: u32 = 1;
    /// EDX: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
    pub const EDX_ALWAYS: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
}

/// A processor model: what does not change while a machine runs.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// Number of vCPUs.
    pub cpus: u32,
    /// Leaf 1 ECX, without what depends on the processor's state.
    leaf1_ecx: u32,
    /// Leaf 7 EBX, ECX, EDX.
    leaf7: [u32; 3],
    /// Leaf 0x8000_0001 ECX.
    extended_ecx: u32,
}

impl CpuModel {
    /// What the recompiler can run on the host's processor, limited to `wish`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the host's processor lacks what the recompiler itself needs, or what `wish` promises.
    pub fn new(cpus: u32, wish: hv::CpuModel) -> Result<Self, Error> {
        let mut model = Self::host(cpus)?;
        let offered = Features {
            leaf1_ecx: model.leaf1_ecx,
            leaf7_ebx: model.leaf7[0],
            leaf7_ecx: model.leaf7[1],
            leaf7_edx: model.leaf7[2],
            extended_ecx: model.extended_ecx,
            extended_edx: extended::EDX_ALWAYS,
        };
        let shown = wish.limit(offered, "the recompiler on this processor")?;
        model.leaf1_ecx = shown.leaf1_ecx;
        model.leaf7 = [shown.leaf7_ebx, shown.leaf7_ecx, shown.leaf7_edx];
        model.extended_ecx = shown.extended_ecx;
        Ok(model)
    }

    /// An instruction as a processor with the features shown takes it: without BMI1 and LZCNT, TZCNT and LZCNT are BSF
    /// and BSR with a prefix that means nothing; the other instructions of features that are not shown do not exist.
    pub fn as_shown(&self, mut instruction: Instruction) -> Instruction {
        if !instruction.cpuid_features().iter().all(|&feature| self.shows(feature)) {
            let older = match instruction.code() {
                Code::Tzcnt_r16_rm16 => Code::Bsf_r16_rm16,
                Code::Tzcnt_r32_rm32 => Code::Bsf_r32_rm32,
                Code::Tzcnt_r64_rm64 => Code::Bsf_r64_rm64,
                Code::Lzcnt_r16_rm16 => Code::Bsr_r16_rm16,
                Code::Lzcnt_r32_rm32 => Code::Bsr_r32_rm32,
                Code::Lzcnt_r64_rm64 => Code::Bsr_r64_rm64,
                _ => Code::INVALID,
            };
            instruction.set_code(older);
            instruction.set_has_rep_prefix(older != Code::INVALID);
        }
        instruction
    }

    /// Whether CPUID shows a feature, or it is one that needs no showing.
    fn shows(&self, feature: CpuidFeature) -> bool {
        use CpuidFeature::*;
        match feature {
            PCLMULQDQ => self.leaf1_ecx >> 1 & 1 != 0,
            FMA => self.leaf1_ecx >> 12 & 1 != 0,
            MOVBE => self.leaf1_ecx >> 22 & 1 != 0,
            AES => self.leaf1_ecx >> 25 & 1 != 0,
            AVX => self.leaf1_ecx >> 28 & 1 != 0,
            F16C => self.leaf1_ecx >> 29 & 1 != 0,
            RDRAND => self.leaf1_ecx >> 30 & 1 != 0,
            BMI1 => self.leaf7[0] >> 3 & 1 != 0,
            AVX2 => self.leaf7[0] >> 5 & 1 != 0,
            BMI2 => self.leaf7[0] >> 8 & 1 != 0,
            RDSEED => self.leaf7[0] >> 18 & 1 != 0,
            ADX => self.leaf7[0] >> 19 & 1 != 0,
            CLFLUSHOPT => self.leaf7[0] >> 23 & 1 != 0,
            CLWB => self.leaf7[0] >> 24 & 1 != 0,
            SHA => self.leaf7[0] >> 29 & 1 != 0,
            LZCNT => self.extended_ecx >> 5 & 1 != 0,
            VAES | VPCLMULQDQ => false,
            _ => true,
        }
    }

    /// The model closest to the host's processor.
    fn host(cpus: u32) -> Result<Self, Error> {
        let highest = __cpuid(0).eax;
        let leaf1 = __cpuid(1);
        let leaf7 = match highest {
            0..7 => [0; 2],
            _ => {
                let found = __cpuid_count(7, 0);
                [found.ebx, found.edx]
            }
        };
        let extended = if __cpuid(0x8000_0000).eax >= 0x8000_0001 { __cpuid(0x8000_0001).ecx } else { 0 };
        if leaf1.ecx & leaf1_ecx::NEEDED != leaf1_ecx::NEEDED {
            return Err(Error::Unavailable(
                "the recompiler needs a processor with SSE4.2, POPCNT and CMPXCHG16B and a system that enables XSAVE"
                    .into(),
            ));
        }
        // SAFETY: OSXSAVE was found set just now.
        let xcr0 = unsafe { host_xcr0() };
        Ok(Self::from_host(cpus, leaf1.ecx, leaf7, extended, xcr0 & 6 == 6))
    }

    fn from_host(cpus: u32, leaf1: u32, host7: [u32; 2], extended: u32, avx: bool) -> Self {
        let mut leaf1_ecx = leaf1 & leaf1_ecx::NATIVE | leaf1_ecx::ALWAYS | leaf1_ecx::PCID;
        let mut ebx = host7[0] & leaf7::EBX_NATIVE | leaf7::EBX_ALWAYS;
        if !avx || leaf1_ecx & leaf1_ecx::AVX == 0 {
            leaf1_ecx &= !(leaf1_ecx::AVX | leaf1_ecx::FMA | leaf1_ecx::F16C);
            ebx &= !leaf7::AVX2;
        }
        CpuModel {
            cpus: cpus.max(1),
            leaf1_ecx,
            leaf7: [ebx, leaf7::ECX_ALWAYS, host7[1] & leaf7::EDX_NATIVE | leaf7::EDX_ALWAYS],
            extended_ecx: extended & extended::ECX_NATIVE | extended::ECX_ALWAYS,
        }
    }

    /// The XCR0 bits that the guest may set: x87 and SSE, and AVX where it is shown.
    pub fn xcr0_bits(&self) -> u64 {
        if self.leaf1_ecx & leaf1_ecx::AVX != 0 { 7 } else { 3 }
    }

    /// Whether XCR0 may have this value: x87 is always on, AVX needs SSE. Intel SDM volume 1, section 13.3.
    pub fn xcr0_allowed(&self, value: u64) -> bool {
        value & !self.xcr0_bits() == 0 && value & 1 != 0 && value & 6 != 4
    }
}

/// XCR0 of the host.
///
/// # Safety
/// CPUID shows OSXSAVE.
#[target_feature(enable = "xsave")]
unsafe fn host_xcr0() -> u64 {
    // SAFETY: XGETBV exists where OSXSAVE is set.
    unsafe { _xgetbv(0) }
}

/// Bytes of the XSAVE area in its standard format for a value of XCR0.
fn xsave_size(xcr0: u64) -> u32 {
    if xcr0 & 4 != 0 { 832 } else { 576 }
}

/// Four bytes of a string as a register.
fn word(text: &[u8], index: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&text[index * 4..index * 4 + 4]);
    u32::from_le_bytes(bytes)
}

/// Leaf 0x15 for a TSC frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TscRatio {
    denominator: u32,
    numerator: u32,
    crystal_khz: u32,
}

/// The ratio for which `crystal * numerator / denominator`, rounded down as guests do, is exactly `khz`. Where no small
/// fraction of the APIC timer's frequency is, the crystal gives way (by less than 250 ppm): the TSC is what guests keep
/// time with, while an APIC timer's interval may be a little off.
fn tsc_ratio(khz: u64) -> TscRatio {
    let khz = khz.clamp(1, u64::from(u32::MAX));
    let mut best = TscRatio { denominator: 1, numerator: 1, crystal_khz: khz as u32 };
    let distance = |ratio: &TscRatio| u64::from(ratio.crystal_khz).abs_diff(APIC_TIMER_KHZ);
    for denominator in 1..=NUMERATOR_LIMIT {
        let below = khz * denominator / APIC_TIMER_KHZ;
        for numerator in [below, below + 1] {
            if !(1..=NUMERATOR_LIMIT).contains(&numerator) {
                continue;
            }
            let crystal = (khz * denominator).div_ceil(numerator);
            let product = crystal * numerator;
            if product > u64::from(u32::MAX) || product / denominator != khz {
                continue;
            }
            let ratio =
                TscRatio { denominator: denominator as u32, numerator: numerator as u32, crystal_khz: crystal as u32 };
            if distance(&ratio) < distance(&best) {
                best = ratio;
            }
        }
    }
    best
}

/// EAX, EBX, ECX, EDX.
type Registers = [u32; 4];

/// What CPUID gave for a leaf and subleaf. Translated code reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct CpuidMemo {
    /// EAX before.
    pub leaf: u32,
    /// ECX before.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX after.
    pub registers: [u32; 4],
}

/// Memos, each at the sum of its leaf and subleaf, modulo their number.
pub type CpuidMemos = [CpuidMemo; 16];

/// None: each is for a leaf that belongs elsewhere.
pub const NO_MEMOS: CpuidMemos = {
    let mut memos = [CpuidMemo { leaf: 0, subleaf: 0, registers: [0; 4] }; 16];
    let mut slot = 0;
    while slot < memos.len() {
        memos[slot].leaf = slot as u32 + 1;
        slot += 1;
    }
    memos
};

impl Core {
    /// What CPUID gives for a leaf and subleaf, kept for translated code.
    pub fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Registers {
        let registers = self.query_cpuid(leaf, subleaf);
        let slot = leaf.wrapping_add(subleaf) as usize % self.cpuid_memos.len();
        self.cpuid_memos[slot] = CpuidMemo { leaf, subleaf, registers };
        registers
    }

    /// CR4, XCR0 or the local APIC's base changed, which CPUID shows.
    pub fn forget_cpuid(&mut self) {
        self.cpuid_memos = NO_MEMOS;
    }

    /// What CPUID gives for a leaf and subleaf: EAX, EBX, ECX, EDX.
    pub fn query_cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        match leaf {
            0..=MAX_BASIC => self.basic_leaf(leaf, subleaf),
            0x4000_0000..=MAX_HYPERVISOR => self.hypervisor_leaf(leaf),
            0x8000_0000..=MAX_EXTENDED => self.extended_leaf(leaf),
            // A leaf that does not exist reads as the highest basic one.
            _ => self.basic_leaf(MAX_BASIC, subleaf),
        }
    }

    /// Bits of the APIC ID that number a processor within its package.
    fn package_shift(&self) -> u32 {
        self.cpuid.cpus.next_power_of_two().trailing_zeros()
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32) -> Registers {
        let model = &self.cpuid;
        match leaf {
            0 => [MAX_BASIC, word(VENDOR, 0), word(VENDOR, 2), word(VENDOR, 1)],
            1 => self.features(),
            // "Look at leaf 4", and 64-byte prefetching.
            2 => [0x00FE_FF01, 0xF0, 0, 0],
            4 => self.cache(subleaf),
            // ARAT: the APIC timer never stops.
            6 => [1 << 2, 0, 0, 0],
            7 if subleaf == 0 => [0, model.leaf7[0], model.leaf7[1], model.leaf7[2]],
            0xB => {
                let (shift, count, kind) = match subleaf {
                    0 => (0, 1, 1 << 8),
                    1 => (self.package_shift(), model.cpus & 0xFFFF, 2 << 8),
                    _ => (0, 0, 0),
                };
                [shift, count, kind | subleaf & 0xFF, self.id]
            }
            0xD => match subleaf {
                0 => [model.xcr0_bits() as u32, xsave_size(self.xcr0), xsave_size(model.xcr0_bits()), 0],
                // AVX: the upper halves of the YMM registers.
                2 if model.xcr0_bits() & 4 != 0 => [256, 576, 0, 0],
                _ => [0; 4],
            },
            0x15 => {
                let ratio = tsc_ratio(self.tsc.khz);
                [ratio.denominator, ratio.numerator, ratio.crystal_khz.saturating_mul(1000), 0]
            }
            0x16 => {
                let mhz = (self.tsc.khz / 1000) as u32;
                [mhz, mhz, 100, 0]
            }
            _ => [0; 4],
        }
    }

    fn features(&self) -> Registers {
        let model = &self.cpuid;
        let mut ecx = model.leaf1_ecx;
        let mut edx = leaf1_edx::ALWAYS;
        if self.cr4 & cr4::OSXSAVE != 0 {
            ecx |= leaf1_ecx::OSXSAVE;
        }
        if let Some(lapic) = &self.lapic {
            ecx |= leaf1_ecx::LAPIC;
            const ENABLED: u64 = 1 << 11;
            if lapic.read_msr(crate::msr::index::APIC_BASE).is_some_and(|base| base & ENABLED != 0) {
                edx |= leaf1_edx::APIC;
            }
        }
        if model.cpus > 1 {
            edx |= leaf1_edx::HTT;
        }
        let logical = model.cpus.next_power_of_two().min(255);
        // Cache lines of 8 quadwords for CLFLUSH.
        [SIGNATURE, self.id << 24 | logical << 16 | 8 << 8, ecx, edx]
    }

    fn cache(&self, subleaf: u32) -> Registers {
        const DATA: u32 = 1;
        const INSTRUCTIONS: u32 = 2;
        const UNIFIED: u32 = 3;
        let (kind, level, ways, sets, shared) = match subleaf {
            0 => (DATA, 1, 12, 64, 1),
            1 => (INSTRUCTIONS, 1, 8, 64, 1),
            2 => (UNIFIED, 2, 20, 1024, 1),
            3 => (UNIFIED, 3, 16, 32768, self.cpuid.cpus.next_power_of_two()),
            _ => return [0; 4],
        };
        let cores = self.cpuid.cpus.next_power_of_two().min(64) - 1;
        let eax = cores << 26 | ((shared - 1) & 0xFFF) << 14 | 1 << 8 | level << 5 | kind;
        // 64-byte lines, one partition.
        [eax, (ways - 1) << 22 | 63, sets - 1, 0]
    }

    fn hypervisor_leaf(&self, leaf: u32) -> Registers {
        match leaf {
            0x4000_0000 => [MAX_HYPERVISOR, word(HYPERVISOR, 0), word(HYPERVISOR, 1), word(HYPERVISOR, 2)],
            // Frequencies in kHz: TSC and local APIC.
            0x4000_0010 => [self.tsc.khz as u32, APIC_TIMER_KHZ as u32, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended_leaf(&self, leaf: u32) -> Registers {
        match leaf {
            0x8000_0000 => [MAX_EXTENDED, 0, 0, 0],
            0x8000_0001 => [0, 0, self.cpuid.extended_ecx, extended::EDX_ALWAYS],
            0x8000_0002..=0x8000_0004 => {
                let part = (leaf - 0x8000_0002) as usize * 4;
                std::array::from_fn(|index| word(BRAND, part + index))
            }
            // L2: 64-byte lines, 16-way code for 20 ways, 1280 KiB.
            0x8000_0006 => [0, 0, 1280 << 16 | 8 << 12 | 64, 0],
            // Invariant TSC.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => [48 << 8 | PHYSICAL_BITS, 0, 0, 0],
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Bits;
    use crate::testing;

    #[test]
    fn leaf_0x15_gives_the_tsc_frequency_exactly_and_in_32_bits() {
        let near_simple = [1_999_999, 2_000_000, 2_000_200, 2_399_997, 2_499_800, 3_000_001, 3_000_230];
        for khz in (1_000_000..4_200_000).step_by(19_997).chain(near_simple) {
            let ratio = tsc_ratio(khz);
            let product = ratio.crystal_khz.checked_mul(ratio.numerator).expect("32 bits are enough");
            assert_eq!(u64::from(product / ratio.denominator), khz);
            let off = u64::from(ratio.crystal_khz).abs_diff(APIC_TIMER_KHZ);
            assert!(off <= 250, "{khz}: the crystal is {off} ppm off");
        }
        for extreme in [0, 1, u64::MAX] {
            assert!(tsc_ratio(extreme).denominator > 0);
        }
    }

    #[test]
    fn the_model_is_intels_under_our_hypervisor() {
        let core = testing::real_mode();
        let text = |registers: &[u32]| {
            String::from_utf8(registers.iter().flat_map(|word| word.to_le_bytes()).collect()).expect("text")
        };
        let [max, ebx, ecx, edx] = core.query_cpuid(0, 0);
        assert_eq!((max, text(&[ebx, edx, ecx]).as_str()), (0x16, "GenuineIntel"));
        let [_, ebx, ecx, edx] = core.query_cpuid(0x4000_0000, 0);
        assert_eq!(text(&[ebx, ecx, edx]), "WirtWirtWirt");
        assert!(text(&core.query_cpuid(0x8000_0002, 0)).starts_with("Wirt Virtual CPU"));
        assert_eq!(core.query_cpuid(0x4000_0010, 0)[0], core.tsc.khz as u32);
        assert_eq!(core.query_cpuid(0x8000_0008, 0)[0], 48 << 8 | PHYSICAL_BITS);
        assert_eq!(core.query_cpuid(0x17, 0), core.query_cpuid(0x16, 0), "beyond the last leaf");
    }

    #[test]
    fn nothing_native_is_shown_that_the_host_lacks() {
        let model = CpuModel::from_host(1, leaf1_ecx::NEEDED, [0, 0], 0, true);
        assert_eq!(model.leaf1_ecx & leaf1_ecx::NATIVE, leaf1_ecx::NEEDED & leaf1_ecx::NATIVE);
        assert_eq!(model.leaf7, [leaf7::EBX_ALWAYS, leaf7::ECX_ALWAYS, leaf7::EDX_ALWAYS]);
        let model = CpuModel::from_host(1, u32::MAX, [u32::MAX; 2], u32::MAX, false);
        assert_eq!(model.leaf1_ecx & (leaf1_ecx::AVX | leaf1_ecx::FMA | leaf1_ecx::F16C), 0);
        assert_eq!(model.leaf7[0] & leaf7::AVX2, 0);
        assert!(model.xcr0_allowed(3) && !model.xcr0_allowed(7));
    }

    #[test]
    fn what_is_not_implemented_is_not_shown() {
        let mut core = testing::real_mode();
        core.cpuid = std::sync::Arc::new(CpuModel::from_host(4, u32::MAX, [u32::MAX; 2], u32::MAX, true));
        let [_, _, ecx, edx] = core.query_cpuid(1, 0);
        // MONITOR, VMX, PDCM, x2APIC without an APIC.
        assert_eq!(ecx & (1 << 3 | 1 << 5 | 1 << 15 | 1 << 21), 0);
        assert_ne!(edx & leaf1_edx::HTT, 0);
        let [_, ebx, ecx, edx] = core.query_cpuid(7, 0);
        // HLE, RTM, AVX-512, MPX, PT; PKU, CET, LA57; AVX-512, CET-IBT, AMX.
        assert_eq!(ebx & (1 << 4 | 1 << 11 | 1 << 14 | 1 << 16 | 1 << 25 | 1 << 30 | 1 << 31), 0);
        assert_eq!(ecx & (1 << 3 | 1 << 7 | 1 << 16), 0);
        assert_eq!(edx & (1 << 2 | 1 << 20 | 1 << 24), 0);
        assert_eq!(core.query_cpuid(0xA, 0), [0; 4], "no performance counters");
        assert_eq!(core.query_cpuid(0xD, 1), [0; 4], "no XSAVEC, XSAVES");
        assert_eq!(core.query_cpuid(0xB, 1), [2, 4, 2 << 8 | 1, 0]);
    }

    #[test]
    fn instructions_that_are_not_shown_are_what_an_older_processor_makes_of_them() {
        let decode = |bytes: &[u8]| iced_x86::Decoder::new(64, bytes, 0).decode();
        let all = CpuModel::from_host(1, u32::MAX, [u32::MAX; 2], u32::MAX, true);
        let none = CpuModel::from_host(1, leaf1_ecx::NEEDED, [0; 2], 0, false);
        let cases: [(&[u8], Code); 9] = [
            (&[0xC4, 0xE2, 0x70, 0xF2, 0xC2], Code::INVALID), // andn eax, ecx, edx
            (&[0xC4, 0xE2, 0x72, 0xF7, 0xC2], Code::INVALID), // sarx eax, edx, ecx
            (&[0xC5, 0xF8, 0x58, 0xC1], Code::INVALID),       // vaddps xmm0, xmm0, xmm1
            (&[0x66, 0x0F, 0x38, 0xDC, 0xC1], Code::INVALID), // aesenc xmm0, xmm1
            (&[0x66, 0x0F, 0x3A, 0x44, 0xC1, 0], Code::INVALID), // pclmulqdq xmm0, xmm1, 0
            (&[0x0F, 0x38, 0xF0, 0x01], Code::INVALID),       // movbe eax, [rcx]
            (&[0x0F, 0xC7, 0xF0], Code::INVALID),             // rdrand eax
            (&[0xF3, 0x48, 0x0F, 0xBC, 0xC1], Code::Bsf_r64_rm64), // tzcnt rax, rcx
            (&[0xF3, 0x0F, 0xBD, 0xC1], Code::Bsr_r32_rm32),  // lzcnt eax, ecx
        ];
        for (bytes, older) in cases {
            let instruction = decode(bytes);
            assert_eq!(all.as_shown(instruction).code(), instruction.code());
            let shown = none.as_shown(instruction);
            assert_eq!((shown.code(), shown.len()), (older, bytes.len()), "{bytes:x?}");
        }
        // Everybody's, and one that is never shown: vaesenc ymm0, ymm0, ymm1.
        for bytes in [&[0xF3, 0x0F, 0xB8, 0xC1][..], &[0x0F, 0xBC, 0xC1], &[0x0F, 0x58, 0xC1], &[0x0F, 0x05]] {
            assert_eq!(none.as_shown(decode(bytes)).code(), decode(bytes).code());
        }
        assert_eq!(all.as_shown(decode(&[0xC4, 0xE2, 0x7D, 0xDC, 0xC1])).code(), Code::INVALID);
    }

    #[test]
    fn a_memo_answers_until_what_cpuid_shows_has_changed() {
        let core = testing::core(Bits::B64, 0);
        let ask = [0xB8, 1, 0, 0, 0, 0x31, 0xC9, 0x0F, 0xA2]; // mov eax, 1; xor ecx, ecx; cpuid
        let program = [
            &ask[..],
            &ask,
            &[0x41, 0x89, 0xC8],           // mov r8d, ecx
            &[0x0F, 0x20, 0xE0],           // mov rax, cr4
            &[0x48, 0x0F, 0xBA, 0xF8, 18], // btc rax, OSXSAVE
            &[0x0F, 0x22, 0xE0],           // mov cr4, rax
            &ask,
            &[0x41, 0x89, 0xC9],                          // mov r9d, ecx
            &[0xB9, 17, 0, 0, 0, 0x31, 0xC0, 0x0F, 0xA2], // mov ecx, 17; xor eax, eax; cpuid: the same memo's place
            &ask,
            &[0xF4], // hlt
        ];
        core.memory.write(testing::CODE, &program.concat()).expect("RAM");
        let mut vcpu = crate::RecompilerVcpu::new(core, std::sync::Arc::new(testing::NoKick)).expect("a translator");
        vcpu.translate_after(0);
        assert!(matches!(hv::Vcpu::run(&mut vcpu), Ok(hv::Exit::Halted)));
        let core = &vcpu.core;
        assert_eq!(core.gpr[8] ^ core.gpr[9], u64::from(leaf1_ecx::OSXSAVE));
        assert_eq!(core.gpr[1], core.gpr[9]);
        assert_eq!([0, 3, 1, 2].map(|register| core.gpr[register] as u32), core.query_cpuid(1, 0));
    }

    #[test]
    fn a_wish_beyond_the_recompiler_is_refused() {
        let error = CpuModel::new(1, hv::CpuModel::V4).expect_err("no AVX-512 here").to_string();
        assert!(error.starts_with("the recompiler on this processor has not all features of x86-64-v4: use x86-64-v"));
        let model = CpuModel::new(1, hv::CpuModel::V2).expect("what the recompiler needs anyway");
        assert_eq!(model.leaf1_ecx & (leaf1_ecx::AVX | leaf1_ecx::FMA), 0);
        assert!(model.xcr0_allowed(3) && !model.xcr0_allowed(7));
    }

    #[test]
    fn xsave_sizes_and_osxsave_follow_the_processor() {
        let mut core = testing::real_mode();
        core.cpuid = std::sync::Arc::new(CpuModel::from_host(1, u32::MAX, [0; 2], 0, true));
        core.xcr0 = 3;
        assert_eq!(core.query_cpuid(0xD, 0), [7, 576, 832, 0]);
        core.xcr0 = 7;
        assert_eq!(core.query_cpuid(0xD, 0), [7, 832, 832, 0]);
        assert_eq!(core.query_cpuid(0xD, 2), [256, 576, 0, 0]);
        core.cr4 = 0;
        assert_eq!(core.query_cpuid(1, 0)[2] & leaf1_ecx::OSXSAVE, 0);
        core.cr4 = cr4::OSXSAVE;
        assert_ne!(core.query_cpuid(1, 0)[2] & leaf1_ecx::OSXSAVE, 0);
    }
}
