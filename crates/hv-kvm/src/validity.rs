//! Whether a processor can be in a state that somebody offers: a saved state comes from outside and is not trusted.

use hv::{CpuState, Error, MpState, Segment, SegmentRegister};

const CR0_PE: u64 = 1 << 0;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, AUTOIBRS.
const EFER_DEFINED: u64 = 0x0020_FD01;
const XCR0_X87: u64 = 1 << 0;
const XCR0_SSE: u64 = 1 << 1;
const XCR0_AVX: u64 = 1 << 2;
const XCR0_AVX512: u64 = 7 << 5;
const RFLAGS_DEFINED: u64 = 0x003F_7FD7;
const RFLAGS_ALWAYS: u64 = 1 << 1;
/// Highest exception vector; the others are interrupts.
const LAST_EXCEPTION: u8 = 31;

/// More model-specific registers than any processor has to be saved.
const MSR_LIMIT: usize = 4096;

/// Refuses a state that no processor can have, with the sentence that says why. Intel SDM volume 3A, sections 2.5 and
/// 3.4; what KVM refuses by itself is left to it.
pub(crate) fn check(state: &CpuState) -> Result<(), Error> {
    match fault(state) {
        Some(what) => Err(Error::InvalidState(what)),
        None => Ok(()),
    }
}

fn fault(state: &CpuState) -> Option<String> {
    control(state).or_else(|| segments(state)).or_else(|| others(state))
}

fn control(state: &CpuState) -> Option<String> {
    let CpuState { cr0, cr4, efer, .. } = *state;
    let paging = cr0 & CR0_PG != 0;
    let long = efer & EFER_LMA != 0;
    if cr0 >> 32 != 0 {
        Some(format!("CR0 {cr0:#x} has bits above 31"))
    } else if paging && cr0 & CR0_PE == 0 {
        Some(format!("CR0 {cr0:#x} has paging without protection"))
    } else if cr0 & CR0_NW != 0 && cr0 & CR0_CD == 0 {
        Some(format!("CR0 {cr0:#x} has NW without CD"))
    } else if efer & !EFER_DEFINED != 0 {
        Some(format!("EFER {efer:#x} has reserved bits"))
    } else if long != (paging && efer & EFER_LME != 0) {
        Some(format!("EFER {efer:#x} does not fit CR0 {cr0:#x}: LMA is LME and PG"))
    } else if long && cr4 & CR4_PAE == 0 {
        Some(format!("CR4 {cr4:#x} has no PAE in long mode"))
    } else if state.cr8 > 15 {
        Some(format!("CR8 is {}, above 15", state.cr8))
    } else {
        None
    }
}

fn segments(state: &CpuState) -> Option<String> {
    let long = state.efer & EFER_LMA != 0;
    let cs = &state.segments[SegmentRegister::Cs as usize];
    if long && cs.access & Segment::L != 0 && cs.access & Segment::DB != 0 {
        return Some("CS has both L and D".into());
    }
    if long && cs.access & Segment::L != 0 && !canonical(state.rip) {
        return Some(format!("RIP {:#x} is not canonical", state.rip));
    }
    let ordinary = state.segments.iter().zip(["ES", "CS", "SS", "DS", "FS", "GS"]);
    let system = [(&state.tr, "TR"), (&state.ldtr, "LDTR")];
    for (segment, name) in ordinary.chain(system) {
        if segment.access & Segment::P == 0 {
            continue;
        }
        let is_system = name.ends_with("TR") || name == "LDTR";
        if (segment.access & Segment::S == 0) != is_system {
            return Some(format!("{name} has the wrong kind of descriptor, access {:#x}", segment.access));
        }
        // A limit in 4 KiB units ends with 0xFFF, one in bytes has 20 bits.
        let granular = segment.access & Segment::G != 0;
        if (granular && segment.limit & 0xFFF != 0xFFF) || (!granular && segment.limit > 0xF_FFFF) {
            return Some(format!("{name} has limit {:#x} against its granularity", segment.limit));
        }
        if long && !canonical(segment.base) {
            return Some(format!("{name} has base {:#x}, which is not canonical", segment.base));
        }
    }
    None
}

fn others(state: &CpuState) -> Option<String> {
    let xcr0 = state.xcr0;
    let vector = state.events.exception.map_or(0, |(vector, _)| vector);
    if state.rflags & RFLAGS_ALWAYS == 0 || state.rflags & !RFLAGS_DEFINED != 0 {
        Some(format!("RFLAGS {:#x} has reserved bits wrong", state.rflags))
    } else if xcr0 & XCR0_X87 == 0
        || (xcr0 & XCR0_AVX != 0 && xcr0 & XCR0_SSE == 0)
        || (xcr0 & XCR0_AVX512 != 0 && xcr0 & (XCR0_AVX | XCR0_AVX512) != XCR0_AVX | XCR0_AVX512)
    {
        Some(format!("XCR0 {xcr0:#x} is not a combination that exists"))
    } else if state.dr6 >> 32 != 0 || state.dr7 >> 32 != 0 {
        Some(format!("DR6 {:#x} or DR7 {:#x} has bits above 31", state.dr6, state.dr7))
    } else if vector > LAST_EXCEPTION || vector == 2 {
        Some(format!("{vector} is not the vector of an exception"))
    } else if state.events.exception.is_some() && state.events.interrupt.is_some() {
        Some("an exception and an interrupt are being delivered at once".into())
    } else if state.mp_state == MpState::Uninitialized && state.events != hv::CpuEvents::default() {
        Some("a processor that was never started has events under way".into())
    } else if state.msrs.len() > MSR_LIMIT {
        Some(format!("{} model-specific registers are more than any processor has", state.msrs.len()))
    } else if state.msrs.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        Some("the model-specific registers are not in ascending order".into())
    } else {
        None
    }
}

/// With 57 bits, which covers 4- and 5-level paging.
fn canonical(address: u64) -> bool {
    let top = (address as i64) >> 56;
    top == 0 || top == -1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut CpuState)) -> String {
        let mut state = CpuState::reset();
        change(&mut state);
        match check(&state) {
            Err(error) => error.to_string(),
            Ok(()) => panic!("accepted {state:?}"),
        }
    }

    #[test]
    fn the_state_after_reset_is_valid() {
        check(&CpuState::reset()).unwrap();
    }

    #[test]
    fn impossible_states_are_refused_by_name() {
        assert!(refused(|state| state.cr0 = CR0_PG).contains("paging without protection"));
        assert!(refused(|state| state.efer = EFER_LMA).contains("LMA"));
        assert!(refused(|state| state.cr8 = 16).contains("CR8"));
        assert!(refused(|state| state.rflags = 0).contains("RFLAGS"));
        assert!(refused(|state| state.xcr0 = 0b101).contains("XCR0"));
        assert!(refused(|state| state.events.exception = Some((32, None))).contains("32"));
        assert!(refused(|state| state.segments[3].limit = 0x10_0000).contains("DS"));
        assert!(refused(|state| state.tr.access |= Segment::S).contains("TR"));
        assert!(refused(|state| state.msrs = vec![(5, 0), (5, 0)]).contains("ascending"));
        let long = |state: &mut CpuState| {
            (state.cr0, state.cr4, state.efer) = (CR0_PG | CR0_PE, CR4_PAE, EFER_LME | EFER_LMA);
            state.segments[SegmentRegister::Cs as usize].access = 0x209B;
        };
        assert!(refused(|state| (long(state), state.rip = 1 << 60).0).contains("canonical"));
        assert!(refused(|state| (long(state), state.cr4 = 0).0).contains("PAE"));
    }
}
