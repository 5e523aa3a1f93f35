//! The complete state of a vCPU, out of the kernel and back.

use crate::cpuid::IA32_TSC_DEADLINE;
use crate::msrs;
use crate::validity;
use crate::vm::failed;
use hv::{CpuEvents, CpuState, DescriptorTable, Error, Fpu, Gpr, MpState, Segment, SegmentRegister, XSAVE_AREA_SIZE};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI,
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

const RFLAGS_IF: u64 = 1 << 9;

/// Reads everything. `indices` are the model-specific registers that KVM names.
pub(crate) fn save(vcpu: &VcpuFd, indices: &[u32]) -> Result<CpuState, Error> {
    // First, as this is the call that lets a pending INIT or start-up IPI change the registers.
    let mp_state = from_mp_state(vcpu.get_mp_state().map_err(failed("read the run state"))?);
    let regs = vcpu.get_regs().map_err(failed("read the general registers"))?;
    let sregs = vcpu.get_sregs().map_err(failed("read the segment and control registers"))?;
    let events = vcpu.get_vcpu_events().map_err(failed("read the pending events"))?;
    let debug = vcpu.get_debug_regs().map_err(failed("read the debug registers"))?;
    let xcrs = vcpu.get_xcrs().map_err(failed("read the extended control registers"))?;
    let xsave = vcpu.get_xsave().map_err(failed("read the x87, SSE and AVX registers"))?;
    let apic = vcpu.get_lapic().map_err(failed("read the local APIC"))?;
    let (tsc, msrs) = msrs::save(vcpu, indices)?;
    Ok(CpuState {
        gpr: gprs(&regs),
        rip: regs.rip,
        rflags: regs.rflags,
        segments: [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs].map(from_segment),
        tr: from_segment(sregs.tr),
        ldtr: from_segment(sregs.ldt),
        gdtr: DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit },
        idtr: DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit },
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        xcr0: xcr0(&xcrs),
        efer: sregs.efer,
        apic_base: sregs.apic_base,
        dr: debug.db,
        dr6: debug.dr6,
        dr7: debug.dr7,
        msrs,
        tsc: Some(tsc),
        fpu: from_xsave(&xsave),
        apic: Some(Box::new(apic.regs.map(|byte| byte as u8))),
        events: from_events(&events),
        mp_state,
    })
}

/// Writes everything. Guest memory has to be loaded before: with PAE paging, the page directory pointers come from there.
///
/// # Errors
/// [`Error::InvalidState`] when no processor can be in this state or KVM refuses it; [`Error::Unavailable`] when this
/// KVM takes the control registers and loads others, as an emulating one does with 32-bit paging. The vCPU is then
/// partly loaded and not to be run.
pub(crate) fn load(vcpu: &VcpuFd, state: &CpuState) -> Result<(), Error> {
    validity::check(state)?;
    let sregs = to_sregs(state);
    vcpu.set_sregs(&sregs).map_err(refused("the segment and control registers"))?;
    check_taken(&sregs, &vcpu.get_sregs().map_err(failed("read the segment and control registers"))?)?;
    vcpu.set_regs(&to_regs(state)).map_err(refused("the general registers"))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = state.xcr0;
    vcpu.set_xcrs(&xcrs).map_err(refused("XCR0"))?;
    // SAFETY: KVM reads more than the 4096 bytes only for features that the process has asked for with arch_prctl
    // (AMX), which this one never does.
    unsafe { vcpu.set_xsave(&to_xsave(&state.fpu)) }.map_err(refused("the x87, SSE and AVX registers"))?;
    let debug = kvm_debugregs { db: state.dr, dr6: state.dr6, dr7: state.dr7, ..Default::default() };
    vcpu.set_debug_regs(&debug).map_err(refused("the debug registers"))?;
    // The deadline comes last: it is ignored unless the APIC's timer is in its mode, and the APIC needs the clock.
    let (deadline, others): (Vec<_>, Vec<_>) = state.msrs.iter().partition(|(index, _)| *index == IA32_TSC_DEADLINE);
    if let Some(tsc) = state.tsc {
        msrs::load_tsc(vcpu, tsc)?;
    }
    msrs::load(vcpu, &others)?;
    if let Some(registers) = &state.apic {
        let apic = kvm_lapic_state { regs: registers.map(|byte| byte as _) };
        vcpu.set_lapic(&apic).map_err(refused("the local APIC"))?;
    }
    msrs::load(vcpu, &deadline)?;
    vcpu.set_mp_state(to_mp_state(state.mp_state)).map_err(refused("the run state"))?;
    vcpu.set_vcpu_events(&to_events(state)).map_err(refused("the pending events"))
}

/// `map_err` for a part of the state that KVM did not take.
pub(crate) fn refused(part: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Error {
    move |error| match error.errno() {
        libc::EINVAL => Error::InvalidState(format!("KVM refuses {part}")),
        _ => Error::Os { action: "load a processor state", source: error.into() },
    }
}

/// An emulating KVM drops what it cannot do and says nothing.
fn check_taken(wanted: &kvm_sregs, taken: &kvm_sregs) -> Result<(), Error> {
    let registers = [
        ("CR0", wanted.cr0, taken.cr0),
        ("CR3", wanted.cr3, taken.cr3),
        ("CR4", wanted.cr4, taken.cr4),
        ("EFER", wanted.efer, taken.efer),
        ("CS", wanted.cs.base, taken.cs.base),
    ];
    match registers.iter().find(|(_, wanted, taken)| wanted != taken) {
        Some((name, wanted, taken)) => Err(Error::Unavailable(format!(
            "this KVM made {name} {taken:#x} of {wanted:#x}, so it cannot run this guest: use the recompiler"
        ))),
        None => Ok(()),
    }
}

fn gprs(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

fn to_regs(state: &CpuState) -> kvm_regs {
    let gpr = |register: Gpr| state.gpr[register as usize];
    kvm_regs {
        rax: gpr(Gpr::Rax),
        rcx: gpr(Gpr::Rcx),
        rdx: gpr(Gpr::Rdx),
        rbx: gpr(Gpr::Rbx),
        rsp: gpr(Gpr::Rsp),
        rbp: gpr(Gpr::Rbp),
        rsi: gpr(Gpr::Rsi),
        rdi: gpr(Gpr::Rdi),
        r8: gpr(Gpr::R8),
        r9: gpr(Gpr::R9),
        r10: gpr(Gpr::R10),
        r11: gpr(Gpr::R11),
        r12: gpr(Gpr::R12),
        r13: gpr(Gpr::R13),
        r14: gpr(Gpr::R14),
        r15: gpr(Gpr::R15),
        rip: state.rip,
        rflags: state.rflags,
    }
}

fn to_sregs(state: &CpuState) -> kvm_sregs {
    let segment = |register: SegmentRegister| to_segment(&state.segments[register as usize]);
    let table = |table: DescriptorTable| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
    kvm_sregs {
        es: segment(SegmentRegister::Es),
        cs: segment(SegmentRegister::Cs),
        ss: segment(SegmentRegister::Ss),
        ds: segment(SegmentRegister::Ds),
        fs: segment(SegmentRegister::Fs),
        gs: segment(SegmentRegister::Gs),
        tr: to_segment(&state.tr),
        ldt: to_segment(&state.ldtr),
        gdt: table(state.gdtr),
        idt: table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

fn from_segment(segment: kvm_segment) -> Segment {
    let present = segment.present != 0 && segment.unusable == 0;
    let access = u16::from(segment.type_ & 0xF)
        | u16::from(segment.s & 1) << 4
        | u16::from(segment.dpl & 3) << 5
        | u16::from(present) << 7
        | u16::from(segment.avl & 1) << 12
        | u16::from(segment.l & 1) << 13
        | u16::from(segment.db & 1) << 14
        | u16::from(segment.g & 1) << 15;
    Segment { base: segment.base, limit: segment.limit, selector: segment.selector, access }
}

fn to_segment(segment: &Segment) -> kvm_segment {
    let bit = |position: u16| (segment.access >> position & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.access & 0xF) as u8,
        s: bit(4),
        dpl: segment.dpl(),
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: 1 - bit(7),
        padding: 0,
    }
}

fn xcr0(xcrs: &kvm_xcrs) -> u64 {
    let named = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    named.into_iter().find(|register| register.xcr == 0).map_or(1, |register| register.value)
}

fn from_xsave(xsave: &kvm_xsave) -> Fpu {
    let mut area = Box::new([0; XSAVE_AREA_SIZE]);
    for (bytes, word) in area.chunks_exact_mut(4).zip(xsave.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Fpu { area }
}

fn to_xsave(fpu: &Fpu) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    for (word, bytes) in xsave.region.iter_mut().zip(fpu.area.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    xsave
}

fn from_events(events: &kvm_vcpu_events) -> CpuEvents {
    let exception = &events.exception;
    CpuEvents {
        exception: (exception.injected != 0)
            .then(|| (exception.nr, (exception.has_error_code != 0).then_some(exception.error_code))),
        interrupt: (events.interrupt.injected != 0).then_some(events.interrupt.nr),
        interrupt_shadow: events.interrupt.shadow != 0,
        // An NMI on its way in has not happened yet: it is pending, and what masks the next one is its delivery.
        nmi_pending: events.nmi.pending != 0 || events.nmi.injected != 0,
        nmi_masked: events.nmi.masked != 0 && events.nmi.injected == 0,
    }
}

fn to_events(state: &CpuState) -> kvm_vcpu_events {
    let events = &state.events;
    let mut out =
        kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW, ..Default::default() };
    if let Some((vector, error_code)) = events.exception {
        out.exception.injected = 1;
        out.exception.nr = vector;
        out.exception.has_error_code = u8::from(error_code.is_some());
        out.exception.error_code = error_code.unwrap_or(0);
    }
    if let Some(vector) = events.interrupt {
        out.interrupt.injected = 1;
        out.interrupt.nr = vector;
    }
    if events.interrupt_shadow {
        // A processor refuses to be entered in the shadow of STI with interrupts off.
        let kind = if state.rflags & RFLAGS_IF != 0 { KVM_X86_SHADOW_INT_STI } else { KVM_X86_SHADOW_INT_MOV_SS };
        out.interrupt.shadow = kind as u8;
    }
    out.nmi.pending = u8::from(events.nmi_pending);
    out.nmi.masked = u8::from(events.nmi_masked);
    out
}

fn from_mp_state(state: kvm_mp_state) -> MpState {
    match state.mp_state {
        KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => MpState::WaitForSipi,
        KVM_MP_STATE_HALTED => MpState::Halted,
        _ => MpState::Runnable,
    }
}

fn to_mp_state(state: MpState) -> kvm_mp_state {
    let mp_state = match state {
        MpState::Runnable => KVM_MP_STATE_RUNNABLE,
        MpState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        MpState::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
        MpState::Halted => KVM_MP_STATE_HALTED,
    };
    kvm_mp_state { mp_state }
}
