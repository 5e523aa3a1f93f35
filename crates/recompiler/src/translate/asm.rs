//! A small emitter of x86-64 machine code. Intel SDM volume 2, chapter 2.

use super::encode::{Rm, sib};

/// Host register numbers as instructions encode them.
#[allow(missing_docs)]
pub mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R10: u8 = 10;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// Condition codes as in the low four bits of Jcc and SETcc.
#[allow(missing_docs)]
pub mod condition {
    pub const AE: u8 = 3;
    pub const E: u8 = 4;
    pub const NE: u8 = 5;
    pub const BE: u8 = 6;
    pub const A: u8 = 7;
    pub const S: u8 = 8;
    pub const G: u8 = 15;
}

/// Code under construction for a known address.
pub struct Asm {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    /// Address of the first byte.
    pub base: u64,
}

/// A forward reference: a 32-bit displacement to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct Fixup(usize);

/// A forward reference of a short jump: an 8-bit displacement to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct ShortFixup(usize);

impl Asm {
    /// Starts code that will lie at `base`.
    pub fn new(base: u64) -> Self {
        Asm { bytes: Vec::with_capacity(1024), base }
    }

    /// Address of the next byte.
    pub fn here(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Appends raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a little-endian doubleword.
    pub fn dword(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// One instruction with ModRM: optional 66, REX as needed, `opcode` (1 to 3 bytes), operands.
    pub fn op(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: Rm) {
        if let Rm::Gs(_) | Rm::GsIndexed { .. } = rm {
            self.raw(&[0x65]);
        }
        let (index, base) = rm.extension_bits();
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | index << 1 | base;
        if rex != 0x40 {
            self.raw(&[rex]);
        }
        self.raw(opcode);
        self.modrm(reg, rm);
    }

    /// As [`Self::op`] for operands of 2, 4 or 8 bytes.
    pub fn sized(&mut self, size: u16, opcode: &[u8], reg: u8, rm: Rm) {
        if size == 2 {
            self.raw(&[0x66]);
        }
        self.op(size == 8, opcode, reg, rm);
    }

    /// ModRM, SIB and displacement.
    pub fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Register(register) => self.raw(&[0xC0 | reg | register & 7]),
            Rm::Base { base, displacement } => {
                let (mode, size) = displacement_mode(base, displacement);
                if base & 7 == 4 {
                    self.raw(&[mode | reg | 4, sib(0, 4, base)]);
                } else {
                    self.raw(&[mode | reg | base & 7]);
                }
                self.raw(&displacement.to_le_bytes()[..size]);
            }
            Rm::BaseIndex { base, index, scale, displacement } => {
                let (mode, size) = displacement_mode(base, displacement);
                self.raw(&[mode | reg | 4, sib(scale, index, base)]);
                self.raw(&displacement.to_le_bytes()[..size]);
            }
            Rm::Index { index, scale, displacement } => {
                self.raw(&[reg | 4, sib(scale, index, 5)]);
                self.dword(displacement as u32);
            }
            Rm::Gs(displacement) => {
                self.raw(&[reg | 4, 0x25]);
                self.dword(displacement);
            }
            Rm::GsIndexed { base, displacement } => {
                self.raw(&[0x80 | reg | base & 7]);
                self.dword(displacement);
            }
        }
    }

    /// `mov destination, source`, 64 bits.
    pub fn mov(&mut self, destination: u8, source: u8) {
        if destination != source {
            self.op(true, &[0x89], source, Rm::Register(destination));
        }
    }

    /// `mov destination, source`, 32 bits (zero-extending).
    pub fn mov32(&mut self, destination: u8, source: u8) {
        self.op(false, &[0x89], source, Rm::Register(destination));
    }

    /// Loads 64 bits.
    pub fn load(&mut self, destination: u8, from: Rm) {
        self.op(true, &[0x8B], destination, from);
    }

    /// Stores 64 bits.
    pub fn store(&mut self, to: Rm, source: u8) {
        self.op(true, &[0x89], source, to);
    }

    /// Loads a constant in the shortest form; changes no flags.
    pub fn mov_imm(&mut self, destination: u8, value: u64) {
        let low = destination & 7;
        let extended = destination >> 3;
        if value <= u64::from(u32::MAX) {
            if extended != 0 {
                self.raw(&[0x41]);
            }
            self.raw(&[0xB8 | low]);
            self.dword(value as u32);
        } else if value as i64 as i32 as i64 == value as i64 {
            self.raw(&[0x48 | extended, 0xC7, 0xC0 | low]);
            self.dword(value as u32);
        } else {
            self.raw(&[0x48 | extended, 0xB8 | low]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// `lea destination, [from]`, 64 bits.
    pub fn lea(&mut self, destination: u8, from: Rm) {
        self.op(true, &[0x8D], destination, from);
    }

    /// `op rm, imm32` of group 1 (`extension`: 0 add, 1 or, 4 and, 5 sub, 7 cmp).
    pub fn group1(&mut self, wide: bool, extension: u8, rm: Rm, value: i32) {
        if let Ok(short) = i8::try_from(value) {
            self.op(wide, &[0x83], extension, rm);
            self.raw(&[short as u8]);
        } else if rm == Rm::Register(host::RAX) {
            if wide {
                self.raw(&[0x48]);
            }
            self.raw(&[extension << 3 | 5]);
            self.dword(value as u32);
        } else {
            self.op(wide, &[0x81], extension, rm);
            self.dword(value as u32);
        }
    }

    /// `jmp` to a known address.
    pub fn jmp(&mut self, target: u64) {
        self.raw(&[0xE9]);
        let after = self.here() + 4;
        self.dword(target.wrapping_sub(after) as u32);
    }

    /// `jmp` to a place to be named later.
    pub fn jmp_forward(&mut self) -> Fixup {
        self.raw(&[0xE9]);
        self.dword(0);
        Fixup(self.bytes.len() - 4)
    }

    /// `jcc` to a place to be named later.
    pub fn jcc_forward(&mut self, condition: u8) -> Fixup {
        self.raw(&[0x0F, 0x80 | condition]);
        self.dword(0);
        Fixup(self.bytes.len() - 4)
    }

    /// `jrcxz` to a near place to be named later.
    pub fn jrcxz_forward(&mut self) -> ShortFixup {
        self.raw(&[0xE3, 0]);
        ShortFixup(self.bytes.len() - 1)
    }

    /// Lets a short forward reference lead here: at most 127 bytes on.
    pub fn bind_short(&mut self, fixup: ShortFixup) {
        let distance = self.bytes.len() - fixup.0 - 1;
        assert!(distance <= 127, "a short jump over {distance} bytes");
        self.bytes[fixup.0] = distance as u8;
    }

    /// Lets a forward reference lead to a known address.
    pub fn bind_to(&mut self, fixup: Fixup, target: u64) {
        let distance = target.wrapping_sub(self.base + fixup.0 as u64 + 4) as u32;
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// Lets a forward reference lead here.
    pub fn bind(&mut self, fixup: Fixup) {
        let distance = (self.bytes.len() - fixup.0 - 4) as u32;
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// Offset of a forward reference's displacement in the code, for patching later.
    pub fn offset(&self, fixup: Fixup) -> u32 {
        fixup.0 as u32
    }
}

fn displacement_mode(base: u8, displacement: i32) -> (u8, usize) {
    if displacement == 0 && base & 7 != 5 {
        (0x00, 0)
    } else if i8::try_from(displacement).is_ok() {
        (0x40, 1)
    } else {
        (0x80, 4)
    }
}
