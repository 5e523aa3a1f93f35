/// Index of a general register in [`CpuState::gpr`], in instruction encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Gpr {
    Rax = 0,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// Index of a segment register in [`CpuState::segments`], in instruction encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum SegmentRegister {
    Es = 0,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// A segment register with its hidden part. Intel SDM volume 3A, section 3.4.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Last valid offset in bytes (the granularity bit is already applied).
    pub limit: u32,
    /// The visible selector.
    pub selector: u16,
    /// Access rights as in bits 8..=23 of a descriptor's second doubleword, moved to bit 0: type 0..=3, S 4, DPL 5..=6,
    /// P 7, AVL 12, L 13, D/B 14, G 15. P = 0 means unusable (a null selector).
    pub access: u16,
}

impl Segment {
    /// Code or data (1) as against a system segment (0).
    pub const S: u16 = 1 << 4;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// 64-bit code.
    pub const L: u16 = 1 << 13;
    /// 32-bit default operation size, or a 32-bit stack.
    pub const DB: u16 = 1 << 14;
    /// The limit is counted in 4 KiB units.
    pub const G: u16 = 1 << 15;

    /// Descriptor privilege level, 0..=3.
    pub fn dpl(&self) -> u8 {
        ((self.access >> 5) & 3) as u8
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Last valid byte offset.
    pub limit: u16,
}

/// Whether a processor runs. Values as in KVM's `KVM_MP_STATE_*` for x86.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MpState {
    /// Running.
    #[default]
    Runnable,
    /// An application processor before INIT.
    Uninitialized,
    /// Waits for a start-up IPI.
    WaitForSipi,
    /// In HLT.
    Halted,
}

/// Events that were under way when the state was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuEvents {
    /// An exception to be delivered before the next instruction: vector and error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// An external interrupt acknowledged but not yet delivered.
    pub interrupt: Option<u8>,
    /// Interrupts are held off for one instruction (after STI or a load of SS).
    pub interrupt_shadow: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
}

/// Bytes kept for the XSAVE area (standard format): x87, SSE, AVX, AVX-512 and PKRU fit.
pub const XSAVE_AREA_SIZE: usize = 4096;

/// x87, SSE and AVX state as XSAVE lays it out in its standard format. Intel SDM volume 1, section 13.4.
#[derive(Clone, PartialEq, Eq)]
pub struct Fpu {
    /// The area. XSTATE_BV (offset 512) says which parts are valid; the others are in their initial state.
    pub area: Box<[u8; XSAVE_AREA_SIZE]>,
}

impl Default for Fpu {
    /// The state after RESET: FCW 0x37F (as FNINIT leaves it), MXCSR 0x1F80, all registers zero.
    fn default() -> Self {
        let mut area = Box::new([0; XSAVE_AREA_SIZE]);
        area[0..2].copy_from_slice(&0x37Fu16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        area[28..32].copy_from_slice(&0xFFFFu32.to_le_bytes());
        Fpu { area }
    }
}

impl std::fmt::Debug for Fpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fpu").finish_non_exhaustive()
    }
}

/// The complete architectural state of one processor, the same for every accelerator.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuState {
    /// General registers, indexed by [`Gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; bit 1 is always set.
    pub rflags: u64,
    /// Segment registers, indexed by [`SegmentRegister`].
    pub segments: [Segment; 6],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page table root and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Task priority, 0..=15.
    pub cr8: u64,
    /// Extended control register 0: the XSAVE features that are on.
    pub xcr0: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Debug address registers 0..=3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Model-specific registers as (index, value), those not named above. Ascending by index.
    pub msrs: Vec<(u32, u64)>,
    /// The guest's time-stamp counter when the state was taken. `None`: it runs on as it is, and so stays in step with those
    /// of other vCPUs.
    pub tsc: Option<u64>,
    /// x87, SSE and AVX registers.
    pub fpu: Fpu,
    /// Local APIC registers in `kvm_lapic_state` layout; `None` where the board has no local APIC.
    pub apic: Option<Box<[u8; 1024]>>,
    /// Events under way.
    pub events: CpuEvents,
    /// Running, halted or waiting.
    pub mp_state: MpState,
}

impl CpuState {
    /// The state after power-on or RESET. Intel SDM volume 3A, table 10-1.
    pub fn reset() -> Self {
        let data = Segment { base: 0, limit: 0xFFFF, selector: 0, access: 0x93 };
        let code = Segment { base: 0xFFFF_0000, limit: 0xFFFF, selector: 0xF000, access: 0x9B };
        let mut gpr = [0; 16];
        gpr[Gpr::Rdx as usize] = 0x600;
        CpuState {
            gpr,
            rip: 0xFFF0,
            rflags: 2,
            segments: [data, code, data, data, data, data],
            tr: Segment { base: 0, limit: 0xFFFF, selector: 0, access: 0x8B },
            ldtr: Segment { base: 0, limit: 0xFFFF, selector: 0, access: 0x82 },
            gdtr: DescriptorTable { base: 0, limit: 0xFFFF },
            idtr: DescriptorTable { base: 0, limit: 0xFFFF },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            xcr0: 1,
            efer: 0,
            apic_base: 0xFEE0_0800,
            dr: [0; 4],
            dr6: 0xFFFF_0FF0,
            dr7: 0x400,
            msrs: Vec::new(),
            tsc: Some(0),
            fpu: Fpu::default(),
            apic: None,
            events: CpuEvents::default(),
            mp_state: MpState::Runnable,
        }
    }
}
