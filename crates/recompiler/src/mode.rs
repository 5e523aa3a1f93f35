//! The mode a piece of code was decoded and translated for: everything besides its bytes that decides what it means.
//!
//! Outside 64-bit mode that includes the segments, as far as they are folded into translated code: CS altogether, of ES,
//! SS and DS what kind they are. Bases other than CS's and odd limits are read when the code runs, from the core.

use crate::interp::integer::operand;
use crate::state::{Bits, Core, cr0, cr4, flag};
use crate::tlb::View;
use hv::{Segment, SegmentRegister};
use iced_x86::Register;
use rustc_hash::FxHashMap;

/// What a processor's state means for the code it is about to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    flags: u32,
    /// Linear address of the code segment; 0 in 64-bit mode.
    code_base: u32,
    /// Last valid offset in the code segment.
    code_limit: u32,
}

/// How far a data segment reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Base 0, 4 GiB, readable and writable: neither arithmetic nor a check.
    Flat,
    /// 64 KiB from any base, readable and writable.
    Small,
    /// Anything else: the core's [`Window`] says what may be accessed.
    Checked,
}

/// What may be accessed in a segment, as translated code checks it: bytes from offset 0. None where there is no such
/// beginning, as in a segment that expands down: that is left to the interpreter.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Window {
    /// Bytes that may be read.
    pub read: u64,
    /// Bytes that may be written.
    pub write: u64,
}

impl Mode {
    /// No mode a processor can be in.
    pub const NONE: Mode = Mode { flags: u32::MAX, code_base: 0, code_limit: 0 };
    /// Stands for all modes outside 64-bit mode.
    pub const NUMBERED: Mode = Mode { flags: u32::MAX - 1, code_base: 0, code_limit: 0 };
    const USER: u32 = 1 << 2;
    const AC: u32 = 1 << 3;
    const STACK_32: u32 = 1 << 4;
    const SSE: u32 = 1 << 5;
    const AVX: u32 = 1 << 6;
    const PROTECTED: u32 = 1 << 7;
    /// CR4.TSD is clear.
    const TSC_FREE: u32 = 1 << 8;
    const RING_0: u32 = 1 << 9;
    const X87: u32 = 1 << 10;
    const LIGHT: u32 = 1 << 11;
    const ALIGNMENT: u32 = 1 << 12;
    /// CR4.SMAP is set.
    const SMAP: u32 = 1 << 13;
    /// What depends on the privilege level, and on RFLAGS.AC at it.
    const LEVEL: u32 = Mode::USER | Mode::AC | Mode::RING_0 | Mode::ALIGNMENT;
    /// Where the flags are in a mode. They tell 64-bit modes apart.
    pub const FLAGS: usize = std::mem::offset_of!(Mode, flags);
    /// Two bits for each of ES, CS, SS and DS.
    const REACH: u32 = 16;

    /// The mode a processor is in.
    pub fn of(core: &Core) -> Mode {
        let bits = core.bits();
        let mut flags = match bits {
            Bits::B16 => 0,
            Bits::B32 => 1,
            Bits::B64 => 2,
        };
        match core.view() {
            View::User => flags |= Mode::USER,
            View::SupervisorAc => flags |= Mode::AC,
            View::Supervisor => {}
        }
        let protected = core.protected() && !core.vm86();
        if protected {
            flags |= Mode::PROTECTED;
        }
        let control = u16::from_le_bytes([core.fpu.0[0], core.fpu.0[1]]);
        let mxcsr = u32::from_le_bytes([core.fpu.0[24], core.fpu.0[25], core.fpu.0[26], core.fpu.0[27]]);
        if mxcsr & 0x1F80 == 0x1F80 {
            flags |= Mode::LIGHT;
        }
        if core.cr0 & (cr0::EM | cr0::TS) == 0 && control & 0x3F == 0x3F {
            flags |= Mode::X87;
            if core.cr4 & cr4::OSFXSR != 0 && flags & Mode::LIGHT != 0 {
                flags |= Mode::SSE;
                if protected && core.cr4 & cr4::OSXSAVE != 0 && core.xcr0 & 7 == 7 {
                    flags |= Mode::AVX;
                }
            }
        }
        if core.cr4 & cr4::TSD == 0 {
            flags |= Mode::TSC_FREE;
        }
        if core.cr4 & cr4::SMAP != 0 {
            flags |= Mode::SMAP;
        }
        if core.cpl() == 0 {
            flags |= Mode::RING_0;
        }
        if core.cpl() == 3 && core.cr0 & cr0::AM != 0 && core.rflags & flag::AC != 0 {
            flags |= Mode::ALIGNMENT;
        }
        if bits == Bits::B64 {
            return Mode { flags, code_base: 0, code_limit: u32::MAX };
        }
        use SegmentRegister::{Cs, Ds, Es, Ss};
        if core.segments[Ss as usize].access & Segment::DB != 0 {
            flags |= Mode::STACK_32;
        }
        for name in [Es, Cs, Ss, Ds] {
            flags |= (reach(core, name) as u32) << (Mode::REACH + 2 * name as u32);
        }
        let code = &core.segments[Cs as usize];
        Mode { flags, code_base: code.base as u32, code_limit: code.limit }
    }

    /// Width of the code.
    pub fn bits(self) -> Bits {
        match self.flags & 3 {
            0 => Bits::B16,
            1 => Bits::B32,
            _ => Bits::B64,
        }
    }

    /// 64-bit code.
    pub fn long(self) -> bool {
        self.bits() == Bits::B64
    }

    /// Privilege view of data accesses.
    pub fn view(self) -> View {
        if self.flags & Mode::USER != 0 {
            View::User
        } else if self.flags & Mode::AC != 0 {
            View::SupervisorAc
        } else {
            View::Supervisor
        }
    }

    /// Real or virtual-8086 mode: a segment's base is its selector times 16.
    pub fn paragraphs(self) -> bool {
        self.flags & Mode::PROTECTED == 0
    }

    /// Virtual-8086 mode.
    pub fn vm86(self) -> bool {
        self.flags & (Mode::PROTECTED | Mode::RING_0) == 0
    }

    /// Bytes of the stack pointer.
    pub fn stack_pointer(self) -> u16 {
        if self.long() {
            8
        } else if self.flags & Mode::STACK_32 != 0 {
            4
        } else {
            2
        }
    }

    /// How far a segment (by its number) reaches. FS and GS are not part of the mode: systems have their thread pointers
    /// in them, and kernels whatever the process left there.
    pub fn reach(self, segment: usize) -> Reach {
        if segment > SegmentRegister::Ds as usize {
            return Reach::Checked;
        }
        match self.flags >> (Mode::REACH + 2 * segment as u32) & 3 {
            0 => Reach::Flat,
            1 => Reach::Small,
            _ => Reach::Checked,
        }
    }

    /// Whether the load of a segment register changes its base and nothing that belongs to the mode: in real and
    /// virtual-8086 mode, and not where real-mode code has a segment that is flat (4 GiB from 0) and would not be any more.
    pub fn loads_base(self, register: Register) -> bool {
        self.paragraphs() && self.reach(register.number()) != Reach::Flat
    }

    /// An instruction pointer as the mode keeps it: 16-bit code wraps at 64 KiB.
    pub fn truncate(self, rip: u64) -> u64 {
        match self.bits() {
            Bits::B64 => rip,
            Bits::B32 => rip & 0xFFFF_FFFF,
            Bits::B16 => rip & 0xFFFF,
        }
    }

    /// Whether code may be at an instruction pointer: within the code segment, or canonical.
    pub fn reaches(self, rip: u64) -> bool {
        if self.long() { operand::canonical(rip) } else { rip <= u64::from(self.code_limit) }
    }

    /// The mode as jump tables hold it.
    pub fn tabled(self) -> Mode {
        if self.long() { self } else { Mode::NUMBERED }
    }

    /// Last valid offset in the code segment.
    pub fn code_limit(self) -> u32 {
        self.code_limit
    }

    /// Linear address of an instruction pointer.
    pub fn linear(self, rip: u64) -> u64 {
        if self.long() { rip } else { rip.wrapping_add(u64::from(self.code_base)) & 0xFFFF_FFFF }
    }

    /// x87 and MMX instructions raise no #NM, and x87 exceptions are masked.
    pub fn x87(self) -> bool {
        self.flags & Mode::X87 != 0
    }

    /// So do SSE instructions, and theirs.
    pub fn sse(self) -> bool {
        self.flags & Mode::SSE != 0
    }

    /// So do AVX instructions.
    pub fn avx(self) -> bool {
        self.flags & Mode::AVX != 0
    }

    /// Rust may run with the guest's MXCSR: SSE exceptions are masked.
    pub fn light(self) -> bool {
        self.flags & Mode::LIGHT != 0
    }

    /// Accesses that are not aligned raise #AC, which only the interpreter looks for.
    pub fn checks_alignment(self) -> bool {
        self.flags & Mode::ALIGNMENT != 0
    }

    /// RDTSC is allowed.
    pub fn rdtsc(self) -> bool {
        self.flags & (Mode::TSC_FREE | Mode::RING_0) != 0
    }

    /// SMAP is on.
    pub fn smap(self) -> bool {
        self.flags & Mode::SMAP != 0
    }

    /// The mode with SMAP suspended by RFLAGS.AC, or not. For privilege levels below 3 with SMAP on.
    pub fn with_ac(self, ac: bool) -> Mode {
        Mode { flags: self.flags & !Mode::AC | if ac { Mode::AC } else { 0 }, ..self }
    }

    /// Of a 64-bit mode, the one at privilege level 0 or 3, with RFLAGS.AC clear, all else being the same.
    pub fn at_level(self, user: bool) -> Mode {
        Mode { flags: self.flags & !Mode::LEVEL | if user { Mode::USER } else { Mode::RING_0 }, ..self }
    }

    /// The flags, for translated code.
    pub fn flags(self) -> u32 {
        self.flags
    }

    /// Privilege level 0, where CLI, STI and SWAPGS are allowed whatever IOPL says.
    pub fn ring_0(self) -> bool {
        self.flags & Mode::RING_0 != 0
    }
}

fn reach(core: &Core, name: SegmentRegister) -> Reach {
    let segment = &core.segments[name as usize];
    let window = window(core, segment);
    match (segment.base, window.read.min(window.write)) {
        (0, 0x1_0000_0000) => Reach::Flat,
        (_, 0x1_0000) => Reach::Small,
        _ => Reach::Checked,
    }
}

fn window(core: &Core, segment: &Segment) -> Window {
    let bytes = |write| if operand::reachable_from_0(core, segment, write) { u64::from(segment.limit) + 1 } else { 0 };
    Window { read: bytes(false), write: bytes(true) }
}

impl Core {
    /// Brings what translated code checks offsets against up to date with the segment registers. Called before translated
    /// code is entered or gone on with, unless no segment register can have changed.
    pub fn update_windows(&mut self) {
        if self.bits() != Bits::B64 {
            for number in 0..self.segments.len() {
                self.windows[number] = window(self, &self.segments[number]);
            }
        }
    }
}

/// Numbers for the modes that code outside 64-bit mode was translated for: the jump tables hold all of them side by side.
#[derive(Default)]
pub struct ModeNumbers {
    numbers: FxHashMap<Mode, u32>,
    last: Option<(Mode, u32)>,
}

impl ModeNumbers {
    /// Modes told apart at most; translations are dropped before there are more.
    pub const MOST: usize = 4096;

    /// The number of a mode: 0 of 64-bit modes, which share nothing, and `None` when it has none yet.
    pub fn get(&mut self, mode: Mode) -> Option<u32> {
        if mode.long() {
            return Some(0);
        }
        match self.last {
            Some((last, number)) if last == mode => Some(number),
            _ => {
                let number = *self.numbers.get(&mode)?;
                self.last = Some((mode, number));
                Some(number)
            }
        }
    }

    /// The number of a mode, given to it if need be.
    pub fn assign(&mut self, mode: Mode) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        self.get(mode).unwrap_or_else(|| *self.numbers.entry(mode).or_insert(next))
    }

    /// No further mode gets a number.
    pub fn full(&self) -> bool {
        self.numbers.len() >= Self::MOST
    }

    /// Forgets all numbers.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{self, NoKick};
    use crate::vcpu::{RecompilerVcpu, Stop};
    use hv::SegmentRegister;
    use std::sync::Arc;

    /// Where the program lies: behind what real-mode programs keep low.
    const CODE: u64 = 0x1000;
    /// The segment that is loaded.
    const SEGMENT: u64 = 0x2000;

    #[test]
    fn a_flat_segment_of_real_mode_that_is_loaded_is_flat_no_more() {
        let loads = [
            &[0x8E, 0xDA][..],                           // mov ds, dx
            &[0x52, 0x1F],                               // push dx; pop ds
            &[0x67, 0xC5, 0x3D, 0x00, 0x30, 0x00, 0x00], // lds di, [0x3000]
        ];
        for load in loads {
            let mut core = testing::real_mode();
            core.segments[SegmentRegister::Ds as usize].limit = u32::MAX;
            core.gpr[2] = SEGMENT;
            core.gpr[4] = 0x8000;
            let code = [load, &[0x67, 0x66, 0x8B, 0x03, 0xF4]].concat(); // mov eax, [ebx]; hlt
            core.gpr[3] = 0x10;
            core.memory.write(CODE, &code).expect("RAM");
            core.memory.write(0x3000, &[0, 0, 0, 0x20]).expect("RAM");
            core.memory.write((SEGMENT << 4) + 0x10, &0x1234_5678u32.to_le_bytes()).expect("RAM");
            let mut vcpu = RecompilerVcpu::new(core, Arc::new(NoKick)).expect("a translator");
            vcpu.translate_after(0);
            assert!(matches!(vcpu.execute(), Stop::Poll));
            assert_eq!(vcpu.core.gpr[0], 0x1234_5678, "{load:x?}");
        }
    }
}
