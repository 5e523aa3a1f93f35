//! The processor's state in its neutral form, and back.

use crate::interp::integer::operand::canonical;
use crate::interp::system::control::{CR0_BITS, CR4_BITS};
use crate::interp::system::debug::{DR6_BITS, DR6_ONES, DR7_BITS, DR7_ONES};
use crate::mmu::PHYSICAL_BITS;
use crate::msr::{self, index};
use crate::state::{Core, cr0, cr4, efer, flag};
use hv::{CpuEvents, CpuState, DescriptorTable, Error, Fpu, MpState, Segment, SegmentRegister};

/// RFLAGS bits that exist.
const RFLAGS_BITS: u64 = flag::ARITHMETIC
    | flag::FIXED
    | flag::TF
    | flag::IF
    | flag::DF
    | flag::IOPL
    | flag::NT
    | flag::RF
    | flag::VM
    | flag::AC
    | flag::VIF
    | flag::VIP
    | flag::ID;
const EFER_BITS: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
/// Where the XSAVE area keeps MXCSR, and its header with XSTATE_BV, XCOMP_BV and reserved bytes.
const MXCSR: std::ops::Range<usize> = 24..28;
const XSTATE_BV: std::ops::Range<usize> = 512..520;
const XSAVE_HEADER_REST: std::ops::Range<usize> = 520..576;

fn invalid<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::InvalidState(what.into()))
}

impl Core {
    /// The complete state, for [`hv::Vcpu::state`].
    pub fn to_state(&self) -> CpuState {
        let lapic = self.lapic.as_ref();
        let mut fpu = Fpu::default();
        fpu.area.copy_from_slice(&self.fpu.0);
        let nmi_waits = lapic.is_some_and(|lapic| lapic.pending().contains(hv::Pending::NMI));
        CpuState {
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags,
            segments: self.segments,
            tr: self.tr,
            ldtr: self.ldtr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: lapic.map_or(0, |lapic| u64::from(lapic.tpr())),
            xcr0: self.xcr0,
            efer: self.efer,
            apic_base: lapic.and_then(|lapic| lapic.read_msr(index::APIC_BASE)).unwrap_or(0),
            dr: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            msrs: msr::saved().into_iter().filter_map(|msr| Some((msr, self.read_msr(msr)?))).collect(),
            tsc: Some(self.tsc.now()),
            fpu,
            apic: lapic.map(|lapic| lapic.save()),
            events: CpuEvents {
                exception: self.events.exception,
                interrupt: self.events.interrupt,
                interrupt_shadow: self.interrupt_shadow,
                nmi_pending: self.events.nmi_pending || nmi_waits,
                nmi_masked: self.nmi_masked,
            },
            mp_state: if self.waiting_for_sipi {
                MpState::WaitForSipi
            } else if self.halted {
                MpState::Halted
            } else {
                MpState::Runnable
            },
        }
    }

    /// Loads a complete state. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::InvalidState`] for a state that this processor cannot be in.
    pub fn load_state(&mut self, state: &CpuState) -> Result<(), Error> {
        check_control(self, state)?;
        check_segments(state)?;
        check_events(state)?;
        check_fpu(self, state)?;
        let registers = self.checked_msrs(state)?;
        let pdpte = match state.cr0 & cr0::PG != 0 && state.cr4 & cr4::PAE != 0 && state.efer & efer::LMA == 0 {
            true => self.read_pdptes(state.cr3).or_else(|_| invalid("CR3 points at bad PDPTEs"))?,
            false => [0; 4],
        };

        self.gpr = state.gpr;
        self.rip = state.rip;
        self.rflags = state.rflags | flag::FIXED;
        self.segments = state.segments;
        self.tr = state.tr;
        self.ldtr = state.ldtr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0 | cr0::ET;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.pdpte = pdpte;
        self.xcr0 = state.xcr0;
        self.forget_cpuid();
        self.efer = state.efer;
        self.dr = state.dr;
        self.dr6 = state.dr6 & DR6_BITS | DR6_ONES;
        self.dr7 = state.dr7 & DR7_BITS | DR7_ONES;
        self.msr = registers;
        self.fpu.0.copy_from_slice(&state.fpu.area[..]);
        self.settle_vector_state();
        if let Some(tsc) = state.tsc {
            self.tsc.offset = self.tsc.offset.wrapping_add(tsc.wrapping_sub(self.tsc.now()));
        }
        self.interrupt_shadow = state.events.interrupt_shadow;
        self.nmi_masked = state.events.nmi_masked;
        self.events = CpuEvents {
            exception: state.events.exception,
            interrupt: state.events.interrupt,
            nmi_pending: state.events.nmi_pending,
            ..CpuEvents::default()
        };
        self.halted = state.mp_state == MpState::Halted;
        self.waiting_for_sipi = matches!(state.mp_state, MpState::Uninitialized | MpState::WaitForSipi);
        if let Some(lapic) = &self.lapic {
            lapic.set_tsc(self.tsc);
            if let Some(registers) = &state.apic {
                let deadline = state.msrs.iter().find(|(msr, _)| *msr == index::TSC_DEADLINE);
                lapic.load(registers, state.apic_base, deadline.map_or(0, |(_, value)| *value));
            }
            lapic.set_tpr(state.cr8 as u8);
        }
        self.flush_tlb(false);
        Ok(())
    }

    /// The state's model-specific registers in their own storage, on top of their values after reset.
    fn checked_msrs(&mut self, state: &CpuState) -> Result<msr::Msrs, Error> {
        let before = std::mem::take(&mut self.msr);
        let mut refused = None;
        for &(msr, value) in &state.msrs {
            match msr {
                index::TSC_ADJUST => self.msr.tsc_adjust = value,
                // Loaded with the local APIC, the segments, or another field.
                index::TSC_DEADLINE | index::APIC_BASE | index::EFER | index::TSC => {}
                index::FS_BASE | index::GS_BASE => {}
                index::X2APIC_FIRST..=index::X2APIC_LAST => {}
                _ if self.store_msr(msr, value) => {}
                // Read-only registers describe the processor that was; a zero asks for nothing.
                _ if value == 0 || self.read_msr(msr).is_some_and(|_| !msr::saved().contains(&msr)) => {}
                _ => refused = refused.or(Some((msr, value))),
            }
        }
        let loaded = std::mem::replace(&mut self.msr, before);
        match refused {
            Some((msr, value)) => invalid(format!("MSR {msr:#x} cannot hold {value:#x} on this accelerator")),
            None => Ok(loaded),
        }
    }
}

fn check_control(core: &Core, state: &CpuState) -> Result<(), Error> {
    let paging = state.cr0 & cr0::PG != 0;
    let long = state.efer & efer::LMA != 0;
    if state.cr0 & !CR0_BITS != 0
        || paging && state.cr0 & cr0::PE == 0
        || state.cr0 & cr0::NW != 0 && state.cr0 & cr0::CD == 0
    {
        return invalid(format!("CR0 cannot be {:#x}", state.cr0));
    }
    if state.cr4 & !CR4_BITS != 0 || state.cr4 & cr4::PCIDE != 0 && !long {
        return invalid(format!("CR4 cannot be {:#x} on this accelerator", state.cr4));
    }
    if state.cr3 >> PHYSICAL_BITS != 0 {
        return invalid(format!("CR3 {:#x} is beyond {PHYSICAL_BITS} bits", state.cr3));
    }
    if state.efer & !EFER_BITS != 0 {
        return invalid(format!("EFER cannot be {:#x} on this accelerator", state.efer));
    }
    if long != (paging && state.efer & efer::LME != 0) || long && state.cr4 & cr4::PAE == 0 {
        return invalid("EFER.LMA does not agree with CR0.PG, CR4.PAE and EFER.LME");
    }
    if !core.cpuid.xcr0_allowed(state.xcr0) {
        return invalid(format!("XCR0 cannot be {:#x} on this accelerator", state.xcr0));
    }
    if state.cr8 > 15 {
        return invalid(format!("CR8 {:#x} is above 15", state.cr8));
    }
    if state.rflags & !RFLAGS_BITS != 0 {
        return invalid(format!("RFLAGS cannot be {:#x}", state.rflags));
    }
    let vm86 = state.rflags & flag::VM != 0;
    if vm86 && (state.cr0 & cr0::PE == 0 || long) {
        return invalid("RFLAGS.VM is set outside of 32-bit protected mode");
    }
    if (state.dr6 | state.dr7) >> 32 != 0 {
        return invalid("DR6 and DR7 are 32 bits wide");
    }
    Ok(())
}

fn check_segments(state: &CpuState) -> Result<(), Error> {
    let long = state.efer & efer::LMA != 0;
    let code = &state.segments[SegmentRegister::Cs as usize];
    let stack = &state.segments[SegmentRegister::Ss as usize];
    let code64 = long && code.access & Segment::L != 0;
    let base = |segment: &Segment| if long { canonical(segment.base) } else { segment.base >> 32 == 0 };
    let table = |table: &DescriptorTable| if long { canonical(table.base) } else { table.base >> 32 == 0 };
    if !state.segments.iter().chain([&state.tr, &state.ldtr]).all(base)
        || ![&state.gdtr, &state.idtr].into_iter().all(table)
    {
        return invalid("a segment or table base is not an address in this mode");
    }
    if code64 && code.access & Segment::DB != 0 {
        return invalid("CS is both a 64-bit and a 32-bit segment");
    }
    if if code64 { !canonical(state.rip) } else { state.rip >> 32 != 0 } {
        return invalid(format!("RIP {:#x} is not an address in this mode", state.rip));
    }
    let expected = match (state.cr0 & cr0::PE != 0, state.rflags & flag::VM != 0) {
        (true, true) => 3,
        (true, false) => stack.dpl(),
        (false, _) => 0,
    };
    if stack.dpl() != expected {
        return invalid(format!("SS has privilege level {} in a mode with level {expected}", stack.dpl()));
    }
    Ok(())
}

fn check_events(state: &CpuState) -> Result<(), Error> {
    match state.events.exception {
        Some((vector, _)) if vector > 31 => invalid(format!("exception vector {vector} is above 31")),
        _ => Ok(()),
    }
}

fn check_fpu(core: &Core, state: &CpuState) -> Result<(), Error> {
    let area = &state.fpu.area;
    let field = |range: std::ops::Range<usize>| {
        area[range].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
    };
    if field(MXCSR) >> 16 != 0 {
        return invalid("MXCSR has reserved bits set");
    }
    if field(XSTATE_BV) & !core.cpuid.xcr0_bits() != 0 {
        return invalid(format!("XSTATE_BV {:#x} names state that this accelerator does not have", field(XSTATE_BV)));
    }
    if area[XSAVE_HEADER_REST].iter().any(|&byte| byte != 0) {
        return invalid("the XSAVE area is not in the standard format");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Bits;
    use crate::testing;

    #[test]
    fn a_state_survives_the_way_out_and_in() {
        let mut core = testing::core(Bits::B64, 3);
        core.gpr = std::array::from_fn(|index| index as u64 * 0x1111);
        core.msr.lstar = 0xFFFF_FFFF_8000_0000;
        core.msr.mtrr_fixed[10] = 0x0606_0606_0606_0606;
        core.nmi_masked = true;
        core.halted = true;
        core.events.exception = Some((14, Some(2)));
        let saved = core.to_state();
        let mut other = testing::real_mode();
        other.load_state(&saved).expect("a state that was just taken");
        let mut again = other.to_state();
        let (then, now) = (saved.tsc.expect("a saved counter"), again.tsc.expect("a saved counter"));
        assert!(now.wrapping_sub(then) < 100_000_000_000, "the counter goes on");
        again.tsc = saved.tsc;
        assert_eq!(again, saved);
        assert!(other.long_mode() && other.cpl() == 3);
    }

    #[test]
    fn a_state_without_a_counter_leaves_it_as_it_runs() {
        let mut core = testing::core(Bits::B64, 0);
        let mut state = core.to_state();
        state.tsc = None;
        let offset = core.tsc.offset;
        core.load_state(&state).expect("a state that was just taken");
        assert_eq!(core.tsc.offset, offset);
    }

    #[test]
    fn the_reset_state_is_accepted() {
        let mut core = testing::core(Bits::B64, 0);
        core.load_state(&CpuState::reset()).expect("the state after reset");
        assert_eq!((core.linear_rip(), core.bits()), (0xFFFF_FFF0, Bits::B16));
    }

    #[test]
    fn impossible_states_are_refused_and_change_nothing() {
        type Spoil = fn(&mut CpuState);
        let spoils: [(&str, Spoil); 18] = [
            ("CR0", |state| state.cr0 &= !cr0::PE),
            ("CR0", |state| state.cr0 |= 1 << 40),
            ("CR4", |state| state.cr4 |= 1 << 12),
            ("CR3", |state| state.cr3 = 1 << 50),
            ("EFER", |state| state.efer |= 1 << 12),
            ("LMA", |state| state.efer &= !efer::LMA),
            ("LMA", |state| state.cr4 &= !cr4::PAE),
            ("XCR0", |state| state.xcr0 = 4),
            ("CR8", |state| state.cr8 = 16),
            ("RFLAGS", |state| state.rflags |= 1 << 32),
            ("VM", |state| state.rflags |= flag::VM),
            ("base", |state| state.segments[4].base = 1 << 50),
            ("RIP", |state| state.rip = 1 << 50),
            ("CS", |state| state.segments[1].access |= Segment::DB),
            ("MXCSR", |state| state.fpu.area[27] = 1),
            ("XSTATE_BV", |state| state.fpu.area[513] = 1),
            ("MSR 0x277", |state| state.msrs.push((0x277, 2))),
            ("vector", |state| state.events.exception = Some((32, None))),
        ];
        let mut core = testing::core(Bits::B64, 0);
        let good = core.to_state();
        for (word, spoil) in spoils {
            let mut bad = good.clone();
            bad.gpr[0] = 1;
            spoil(&mut bad);
            let message = core.load_state(&bad).expect_err(word).to_string();
            assert!(message.contains(word), "{message}");
            assert_eq!(core.gpr[0], good.gpr[0]);
        }
    }

    #[test]
    fn unknown_registers_are_only_refused_when_they_hold_something() {
        let mut core = testing::core(Bits::B64, 0);
        let mut state = core.to_state();
        state.msrs = vec![(0x10A, 1), (0x4B56_4D00, 0)];
        core.load_state(&state).expect("nothing that matters");
        state.msrs = vec![(0x4B56_4D00, 0x1000)];
        assert!(core.load_state(&state).is_err());
    }
}
