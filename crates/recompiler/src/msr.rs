//! Model-specific registers. Intel SDM volume 4.

use crate::interp::integer::operand::canonical;
use crate::mmu::PHYSICAL_BITS;
use crate::state::Core;
use hv::SegmentRegister;

/// Numbers of the registers that this processor has.
#[allow(missing_docs)]
pub mod index {
    pub const P5_MC_ADDR: u32 = 0x0;
    pub const P5_MC_TYPE: u32 = 0x1;
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1B;
    pub const EBL_CR_POWERON: u32 = 0x2A;
    pub const SMI_COUNT: u32 = 0x34;
    pub const CORE_THREAD_COUNT: u32 = 0x35;
    pub const FEATURE_CONTROL: u32 = 0x3A;
    pub const TSC_ADJUST: u32 = 0x3B;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8B;
    pub const PLATFORM_INFO: u32 = 0xCE;
    pub const MTRRCAP: u32 = 0xFE;
    pub const ARCH_CAPABILITIES: u32 = 0x10A;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17A;
    pub const PERF_STATUS: u32 = 0x198;
    pub const MISC_ENABLE: u32 = 0x1A0;
    pub const DEBUGCTL: u32 = 0x1D9;
    pub const MTRR_PHYSBASE0: u32 = 0x200;
    pub const MTRR_PHYSMASK7: u32 = 0x20F;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K_80000: u32 = 0x258;
    pub const MTRR_FIX16K_A0000: u32 = 0x259;
    pub const MTRR_FIX4K_C0000: u32 = 0x268;
    pub const MTRR_FIX4K_F8000: u32 = 0x26F;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2FF;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6E0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8FF;
    pub const EFER: u32 = 0xC000_0080;
    pub const STAR: u32 = 0xC000_0081;
    pub const LSTAR: u32 = 0xC000_0082;
    pub const CSTAR: u32 = 0xC000_0083;
    pub const FMASK: u32 = 0xC000_0084;
    pub const FS_BASE: u32 = 0xC000_0100;
    pub const GS_BASE: u32 = 0xC000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xC000_0102;
    pub const TSC_AUX: u32 = 0xC000_0103;
}
use index::*;

/// Machine-check banks: they never report anything.
const BANKS: u32 = 4;
const BANKS_END: u32 = MC0_CTL + 4 * BANKS - 1;

/// Memory type range registers: 8 variable ranges, fixed ranges, write-combining.
const MTRRCAP_VALUE: u64 = 1 << 10 | 1 << 8 | 8;

/// IA32_ARCH_CAPABILITIES: what a guest need not work around, as its code never runs on the host as it stands.
/// RDCL_NO 0, IBRS_ALL 1, SKIP_L1DFL_VMENTRY 3, SSB_NO 4, MDS_NO 5, PSCHANGE_MC_NO 6, TAA_NO 8, SBDR_SSDP_NO 13,
/// FBSDP_NO 14, PSDP_NO 15, BHI_NO 20, PBRSB_NO 24, GDS_NO 26, RFDS_NO 27, ITS_NO 62.
const ARCH_CAPABILITIES_VALUE: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// The microcode's revision, in the upper half as the register has it.
const MICROCODE: u64 = 0xD00_0375 << 32;

/// BTS and PEBS unavailable (bits 11 and 12).
const MISC_ENABLE_FIXED: u64 = 0x1800;

/// IA32_DEBUGCTL: record the last branches.
pub(crate) const DEBUGCTL_LBR: u64 = 1 << 0;
/// IA32_DEBUGCTL: RFLAGS.TF steps from branch to branch.
pub(crate) const DEBUGCTL_BTF: u64 = 1 << 1;

/// Registers with storage of their own; the others live in [`crate::state::Core`] or the local APIC.
#[derive(Clone, Debug)]
pub struct Msrs {
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_SPEC_CTRL: kept, without effect.
    pub spec_ctrl: u64,
    /// IA32_PAT: kept; guest memory is the host's and always write-back.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_DEBUGCTL: the single step on branches. No branches are recorded.
    pub debugctl: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_MCi_CTL, IA32_MCi_STATUS (always 0), IA32_MCi_ADDR and IA32_MCi_MISC of each bank.
    pub machine_check: [[u64; 4]; BANKS as usize],
    /// IA32_MTRR_PHYSBASE0, PHYSMASK0, PHYSBASE1, …
    pub mtrr_variable: [u64; 16],
    /// The fixed-range MTRRs, ascending by number.
    pub mtrr_fixed: [u64; 11],
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
}

impl Default for Msrs {
    fn default() -> Self {
        Msrs {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_adjust: 0,
            spec_ctrl: 0,
            pat: 0x0007_0406_0007_0406,
            misc_enable: MISC_ENABLE_FIXED | 1,
            debugctl: 0,
            mcg_status: 0,
            machine_check: Default::default(),
            mtrr_variable: [0; 16],
            mtrr_fixed: [0; 11],
            mtrr_def_type: 0,
        }
    }
}

/// The registers with storage that a saved state holds, ascending; TSC, EFER, IA32_APIC_BASE, and the FS and GS bases
/// are kept elsewhere in it.
pub(crate) fn saved() -> Vec<u32> {
    let mut list =
        vec![TSC_ADJUST, SPEC_CTRL, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, MCG_STATUS, MISC_ENABLE, DEBUGCTL];
    list.extend(MTRR_PHYSBASE0..=MTRR_PHYSMASK7);
    list.extend([MTRR_FIX64K, MTRR_FIX16K_80000, MTRR_FIX16K_A0000]);
    list.extend(MTRR_FIX4K_C0000..=MTRR_FIX4K_F8000);
    list.extend([PAT, MTRR_DEF_TYPE]);
    list.extend(MC0_CTL..=BANKS_END);
    list.extend([TSC_DEADLINE, STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX]);
    list
}

/// Memory types that an MTRR may name: UC, WC, WT, WP, WB.
fn mtrr_type(value: u64) -> bool {
    matches!(value & 0xFF, 0 | 1 | 4 | 5 | 6)
}

/// Eight memory types; the PAT also knows UC- (7).
fn eight_types(value: u64, allowed: fn(u64) -> bool) -> bool {
    value.to_le_bytes().iter().all(|&byte| allowed(u64::from(byte)))
}

/// Bank and register (CTL, STATUS, ADDR, MISC) of a machine-check register.
fn machine_check(msr: u32) -> (usize, usize) {
    let index = (msr - MC0_CTL) as usize;
    (index / 4, index % 4)
}

/// The index of a fixed-range MTRR in [`Msrs::mtrr_fixed`].
fn fixed_range(msr: u32) -> Option<usize> {
    match msr {
        MTRR_FIX64K => Some(0),
        MTRR_FIX16K_80000 => Some(1),
        MTRR_FIX16K_A0000 => Some(2),
        MTRR_FIX4K_C0000..=MTRR_FIX4K_F8000 => Some(3 + (msr - MTRR_FIX4K_C0000) as usize),
        _ => None,
    }
}

impl Core {
    /// What RDMSR gives; `None`: no such register (#GP(0)).
    pub fn read_msr(&self, msr: u32) -> Option<u64> {
        let registers = &self.msr;
        let mhz_ratio = self.tsc.khz / 100_000;
        Some(match msr {
            APIC_BASE | TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => return self.lapic.as_ref()?.read_msr(msr),
            TSC => self.tsc.now(),
            TSC_ADJUST => registers.tsc_adjust,
            TSC_AUX => registers.tsc_aux,
            EFER => self.efer,
            STAR => registers.star,
            LSTAR => registers.lstar,
            CSTAR => registers.cstar,
            FMASK => registers.fmask,
            FS_BASE => self.segments[SegmentRegister::Fs as usize].base,
            GS_BASE => self.segments[SegmentRegister::Gs as usize].base,
            KERNEL_GS_BASE => registers.kernel_gs_base,
            SYSENTER_CS => registers.sysenter_cs,
            SYSENTER_ESP => registers.sysenter_esp,
            SYSENTER_EIP => registers.sysenter_eip,
            SPEC_CTRL => registers.spec_ctrl,
            ARCH_CAPABILITIES => ARCH_CAPABILITIES_VALUE,
            BIOS_SIGN_ID => MICROCODE,
            PLATFORM_INFO => mhz_ratio << 8,
            PERF_STATUS => mhz_ratio << 8,
            CORE_THREAD_COUNT => u64::from(self.cpuid.cpus) << 16 | u64::from(self.cpuid.cpus),
            // Locked, with VMX off.
            FEATURE_CONTROL => 1,
            MISC_ENABLE => registers.misc_enable,
            DEBUGCTL => registers.debugctl,
            P5_MC_ADDR | P5_MC_TYPE | PLATFORM_ID | EBL_CR_POWERON | SMI_COUNT => 0,
            MCG_CAP => u64::from(BANKS),
            MCG_STATUS => registers.mcg_status,
            MC0_CTL..=BANKS_END => {
                let (bank, register) = machine_check(msr);
                registers.machine_check[bank][register]
            }
            MTRRCAP => MTRRCAP_VALUE,
            MTRR_PHYSBASE0..=MTRR_PHYSMASK7 => registers.mtrr_variable[(msr - MTRR_PHYSBASE0) as usize],
            MTRR_DEF_TYPE => registers.mtrr_def_type,
            PAT => registers.pat,
            _ => registers.mtrr_fixed[fixed_range(msr)?],
        })
    }

    /// WRMSR; `false`: no such register, a read-only one, or a value that it cannot hold (#GP(0)).
    #[must_use]
    pub fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            APIC_BASE | TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => {
                let written = self.lapic.as_ref().is_some_and(|lapic| lapic.write_msr(msr, value));
                if written && msr == APIC_BASE {
                    // The register page may have moved: what the TLB has for its old and new place is stale.
                    self.flush_tlb(false);
                    self.forget_cpuid();
                }
                return written;
            }
            TSC => self.shift_tsc(value.wrapping_sub(self.tsc.now())),
            TSC_ADJUST => self.shift_tsc(value.wrapping_sub(self.msr.tsc_adjust)),
            EFER => return self.write_efer(value),
            FS_BASE | GS_BASE if !canonical(value) => return false,
            FS_BASE => self.segments[SegmentRegister::Fs as usize].base = value,
            GS_BASE => self.segments[SegmentRegister::Gs as usize].base = value,
            // Commands and updates: nothing to do.
            PRED_CMD => return value & !1 == 0,
            BIOS_UPDT_TRIG | BIOS_SIGN_ID => {}
            P5_MC_ADDR | P5_MC_TYPE => return value == 0,
            _ => return self.store_msr(msr, value),
        }
        true
    }

    /// Moves the guest's time-stamp counter by a number of ticks.
    fn shift_tsc(&mut self, ticks: u64) {
        self.tsc.offset = self.tsc.offset.wrapping_add(ticks);
        self.msr.tsc_adjust = self.msr.tsc_adjust.wrapping_add(ticks);
        if let Some(lapic) = &self.lapic {
            lapic.set_tsc(self.tsc);
        }
    }

    /// Stores into a register of [`Msrs`] what it can hold. Has no other effect.
    pub(crate) fn store_msr(&mut self, msr: u32, value: u64) -> bool {
        let above_physical = value >> PHYSICAL_BITS != 0;
        let registers = &mut self.msr;
        let (valid, target) = match msr {
            STAR => (true, &mut registers.star),
            LSTAR => (canonical(value), &mut registers.lstar),
            CSTAR => (canonical(value), &mut registers.cstar),
            FMASK => (value >> 32 == 0, &mut registers.fmask),
            KERNEL_GS_BASE => (canonical(value), &mut registers.kernel_gs_base),
            TSC_AUX => (value >> 32 == 0, &mut registers.tsc_aux),
            SYSENTER_CS => (true, &mut registers.sysenter_cs),
            SYSENTER_ESP => (canonical(value), &mut registers.sysenter_esp),
            SYSENTER_EIP => (canonical(value), &mut registers.sysenter_eip),
            SPEC_CTRL => (value & !7 == 0, &mut registers.spec_ctrl),
            MISC_ENABLE => {
                registers.misc_enable = value | MISC_ENABLE_FIXED;
                return true;
            }
            DEBUGCTL => (value & !(DEBUGCTL_LBR | DEBUGCTL_BTF) == 0, &mut registers.debugctl),
            MCG_STATUS => (value == 0, &mut registers.mcg_status),
            MC0_CTL..=BANKS_END => {
                let (bank, register) = machine_check(msr);
                let valid = match register {
                    // All reporting or none.
                    0 => value == 0 || value == u64::MAX,
                    // A status is only cleared.
                    1 => value == 0,
                    _ => true,
                };
                (valid, &mut registers.machine_check[bank][register])
            }
            MTRR_PHYSBASE0..=MTRR_PHYSMASK7 => {
                let mask = msr & 1 == 1;
                let reserved = if mask { value & 0x7FF != 0 } else { value & 0xF00 != 0 || !mtrr_type(value) };
                (!above_physical && !reserved, &mut registers.mtrr_variable[(msr - MTRR_PHYSBASE0) as usize])
            }
            MTRR_DEF_TYPE => (value & !0xCFF == 0 && mtrr_type(value), &mut registers.mtrr_def_type),
            PAT => (eight_types(value, |byte| byte == 7 || mtrr_type(byte)), &mut registers.pat),
            _ => match fixed_range(msr) {
                Some(range) => (eight_types(value, mtrr_type), &mut registers.mtrr_fixed[range]),
                None => return false,
            },
        };
        if valid {
            *target = value;
        }
        valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn registers_refuse_what_they_cannot_hold() {
        let mut core = testing::real_mode();
        let cases = [
            (PAT, 0x0007_0406_0007_0406, true),
            (PAT, 0x02, false),
            (PAT, 0x0800_0000_0000_0000, false),
            (LSTAR, 0xFFFF_8000_0000_0000, true),
            (LSTAR, 0x8000_0000_0000, false),
            (KERNEL_GS_BASE, 1 << 60, false),
            (FS_BASE, 1 << 47, false),
            (TSC_AUX, 1 << 32, false),
            (FMASK, 1 << 32, false),
            (EFER, 1 << 1, false),
            (EFER, 0x901, true),
            (MTRR_PHYSBASE0, 0x8000_0006, true),
            (MTRR_PHYSBASE0, 0x8000_0002, false),
            (MTRR_PHYSBASE0 + 1, 0xFF_8000_0800, true),
            (MTRR_PHYSBASE0 + 1, 1 << 40, false),
            (MTRR_DEF_TYPE, 0xC06, true),
            (MTRR_DEF_TYPE, 0xC03, false),
            (MTRR_FIX4K_F8000, 0x0505_0505_0505_0505, true),
            (MTRR_FIX4K_F8000, 0x0205_0505_0505_0505, false),
            (SPEC_CTRL, 1, true),
            (SPEC_CTRL, 8, false),
            (PRED_CMD, 1, true),
            (MC0_CTL, u64::MAX, true),
            (MC0_CTL, 1, false),
            (MC0_CTL + 1, 1, false),
            (MC0_CTL + 2, 0xAAAA_AAAA_AAAA_AAAA, true),
            (MC0_CTL + 7, u64::MAX, true),
            (MCG_CAP, 0, false),
            (ARCH_CAPABILITIES, 0, false),
            (MTRRCAP, 0, false),
            (FEATURE_CONTROL, 5, false),
        ];
        for (msr, value, accepted) in cases {
            assert_eq!(core.write_msr(msr, value), accepted, "{msr:#x} = {value:#x}");
            if accepted && msr != PRED_CMD {
                assert_eq!(core.read_msr(msr), Some(value), "{msr:#x}");
            }
        }
    }

    #[test]
    fn what_does_not_exist_is_neither_read_nor_written() {
        let mut core = testing::real_mode();
        // Performance counters, XSS, RAPL, AMD's, KVM's; the local APIC's while there is none; a bank too many.
        let absent =
            [0xC1, 0x186, 0x38F, 0xDA0, 0x606, 0xC001_0015, 0x4B56_4D00, APIC_BASE, X2APIC_FIRST, BANKS_END + 1, 0x210];
        for msr in absent {
            assert_eq!(core.read_msr(msr), None, "{msr:#x}");
            assert!(!core.write_msr(msr, 0), "{msr:#x}");
        }
    }

    #[test]
    fn a_write_of_the_counter_shows_in_its_adjustment() {
        let mut core = testing::real_mode();
        assert!(core.write_msr(TSC, 1 << 40));
        let now = core.read_msr(TSC).unwrap_or(0);
        assert!((1 << 40..(1 << 40) + 100_000_000_000).contains(&now), "{now:#x}");
        let adjust = core.read_msr(TSC_ADJUST).unwrap_or(0);
        assert!(core.write_msr(TSC_ADJUST, adjust.wrapping_sub(1 << 40)));
        assert!(core.read_msr(TSC).unwrap_or(u64::MAX) < 100_000_000_000);
    }

    #[test]
    fn every_saved_register_can_be_read_and_stored_back() {
        let mut core = testing::real_mode();
        let list = saved();
        assert!(list.is_sorted());
        for msr in list.into_iter().filter(|&msr| msr != TSC_DEADLINE && msr != TSC_ADJUST) {
            let value = core.read_msr(msr).expect("a saved register exists");
            assert!(core.store_msr(msr, value), "{msr:#x}");
        }
    }
}
