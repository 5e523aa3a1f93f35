//! Guest instructions taken apart into prefixes, opcode, operands and immediate, and put together again with other
//! registers and another memory operand. Intel SDM volume 2, chapter 2.

use super::asm::Asm;
use crate::state::Bits;

/// What the r/m field of an instruction addresses on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// A register.
    Register(u8),
    /// `[base + displacement]`.
    Base { base: u8, displacement: i32 },
    /// `[base + index << scale + displacement]`.
    BaseIndex { base: u8, index: u8, scale: u8, displacement: i32 },
    /// `[index << scale + displacement]`.
    Index { index: u8, scale: u8, displacement: i32 },
    /// `gs:[displacement]`: a field of the core.
    Gs(u32),
    /// `gs:[base + displacement]`: an element of a table in the core.
    GsIndexed { base: u8, displacement: u32 },
}

impl Rm {
    /// REX.X and REX.B.
    pub fn extension_bits(self) -> (u8, u8) {
        match self {
            Rm::Register(register) => (0, register >> 3),
            Rm::Base { base, .. } | Rm::GsIndexed { base, .. } => (0, base >> 3),
            Rm::BaseIndex { base, index, .. } => (index >> 3, base >> 3),
            Rm::Index { index, .. } => (index >> 3, 0),
            Rm::Gs(_) => (0, 0),
        }
    }
}

/// A SIB byte.
pub fn sib(scale: u8, index: u8, base: u8) -> u8 {
    scale << 6 | (index & 7) << 3 | base & 7
}

/// The fields of VEX that are not registers.
#[derive(Clone, Copy, Debug)]
struct Vex {
    map: u8,
    wide: bool,
    long: bool,
    pp: u8,
    vvvv: u8,
}

/// An instruction taken apart.
#[derive(Clone, Debug)]
pub struct Raw {
    operand_size: bool,
    repeat: u8,
    lock: bool,
    wide: bool,
    vex: Option<Vex>,
    /// 0: one-byte, 1: 0F, 2: 0F 38, 3: 0F 3A.
    map: u8,
    opcode: u8,
    /// `reg` field with REX.R, when there is a ModRM.
    pub reg: u8,
    /// `rm` field with REX.B when it is a register.
    pub rm: u8,
    /// The rm field is a memory operand.
    pub memory: bool,
    has_modrm: bool,
    /// Opcode register (low three bits of the opcode with REX.B), when there is no ModRM.
    pub opcode_register: u8,
    immediate: [u8; 8],
    immediate_size: usize,
}

fn modrm_one_byte(opcode: u8) -> bool {
    match opcode {
        0x00..=0x3F => opcode & 7 < 4,
        0x62 | 0x63 | 0x69 | 0x6B | 0x80..=0x8F | 0xC0 | 0xC1 | 0xC6 | 0xC7 | 0xD0..=0xD3 | 0xD8..=0xDF => true,
        0xF6 | 0xF7 | 0xFE | 0xFF => true,
        _ => false,
    }
}

fn modrm_two_byte(opcode: u8) -> bool {
    !matches!(opcode, 0x04..=0x0C | 0x0E | 0x30..=0x37 | 0x77 | 0x80..=0x8F | 0xA0..=0xA2 | 0xA8..=0xAA | 0xC8..=0xCF)
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x40..=0x4F | 0x66 | 0x67 | 0xF0 | 0xF2 | 0xF3 | 0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65)
}

impl Raw {
    /// Takes apart one instruction of code of the given width. `None`: an encoding that is never copied (EVEX, XOP,
    /// 3DNow!).
    pub fn parse(bytes: &[u8], bits: Bits) -> Option<Raw> {
        let long = bits == Bits::B64;
        let mut at = 0;
        let mut raw = Raw {
            operand_size: false,
            repeat: 0,
            lock: false,
            wide: false,
            vex: None,
            map: 0,
            opcode: 0,
            reg: 0,
            rm: 0,
            memory: false,
            has_modrm: false,
            opcode_register: 0,
            immediate: [0; 8],
            immediate_size: 0,
        };
        let mut address_size = false;
        loop {
            match *bytes.get(at)? {
                0x66 => raw.operand_size = true,
                0x67 => address_size = true,
                prefix @ (0xF2 | 0xF3) => raw.repeat = prefix,
                0xF0 => raw.lock = true,
                0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65 => {}
                // A REX that is not the last prefix counts for nothing.
                0x40..=0x4F if long && is_prefix(*bytes.get(at + 1)?) => {}
                _ => break,
            }
            at += 1;
        }
        let short_addresses = !long && (bits == Bits::B16) != address_size;
        let mut rex = 0;
        if long && bytes[at] & 0xF0 == 0x40 {
            rex = bytes[at];
            at += 1;
        }
        raw.wide = rex & 8 != 0;
        let first = *bytes.get(at)?;
        let vex = matches!(first, 0xC4 | 0xC5) && (long || bytes.get(at + 1)? & 0xC0 == 0xC0);
        if first == 0x62 && (long || bytes.get(at + 1)? & 0xC0 == 0xC0) {
            return None;
        }
        if vex {
            let (second, third) = (*bytes.get(at + 1)?, *bytes.get(at + 2)?);
            let payload = if first == 0xC5 { second } else { third };
            let map = if first == 0xC5 { 1 } else { second & 0x1F };
            rex = 0x40 | (!second >> 7 & 1) << 2;
            // Outside 64-bit mode there are eight registers, whatever the bits for more say.
            if first == 0xC4 && long {
                rex |= (!second >> 6 & 1) << 1 | (!second >> 5 & 1);
            }
            raw.vex = Some(Vex {
                map,
                wide: first == 0xC4 && payload & 0x80 != 0,
                long: payload & 4 != 0,
                pp: payload & 3,
                vvvv: !payload >> 3 & if long { 15 } else { 7 },
            });
            raw.map = map;
            at += if first == 0xC5 { 2 } else { 3 };
        } else if first == 0x0F {
            at += 1;
            match *bytes.get(at)? {
                0x38 => raw.map = 2,
                0x3A => raw.map = 3,
                0x0F => return None,
                _ => raw.map = 1,
            }
            if raw.map > 1 {
                at += 1;
            }
        }
        raw.opcode = *bytes.get(at)?;
        at += 1;
        if !vex && raw.map == 0 && raw.opcode == 0x8F && *bytes.get(at)? & 0x38 != 0 {
            return None;
        }
        raw.has_modrm = match raw.map {
            0 => modrm_one_byte(raw.opcode),
            1 if vex => raw.opcode != 0x77,
            1 => modrm_two_byte(raw.opcode),
            _ => true,
        };
        if raw.has_modrm {
            let modrm = *bytes.get(at)?;
            at += 1;
            raw.reg = modrm >> 3 & 7 | (rex & 4) << 1;
            raw.memory = modrm < 0xC0;
            if raw.memory {
                let mut size = match (modrm >> 6, short_addresses) {
                    (1, _) => 1,
                    (2, false) => 4,
                    (2, true) => 2,
                    (_, false) if modrm & 7 == 5 => 4,
                    (_, true) if modrm & 7 == 6 => 2,
                    _ => 0,
                };
                if modrm & 7 == 4 && !short_addresses {
                    let sib = *bytes.get(at)?;
                    at += 1;
                    if modrm < 0x40 && sib & 7 == 5 {
                        size = 4;
                    }
                }
                at += size;
            } else {
                raw.rm = modrm & 7 | (rex & 1) << 3;
            }
        } else {
            raw.opcode_register = raw.opcode & 7 | (rex & 1) << 3;
        }
        let immediate = bytes.get(at..)?;
        if immediate.len() > 8 {
            return None;
        }
        raw.immediate[..immediate.len()].copy_from_slice(immediate);
        raw.immediate_size = immediate.len();
        if !vex && raw.map == 0 && raw.opcode == 0x82 {
            // The alias of 80 is gone on the host.
            raw.opcode = 0x80;
        }
        raw.spell_out(long);
        Some(raw)
    }

    /// Turns short forms into the ones with a ModRM: `op al/ax/eax/rax, imm` and `xchg eax, r`, as the guest's accumulator is
    /// not the host's, `mov` between the accumulator and a fixed address, and `inc r`/`dec r`, which are REX prefixes on
    /// the host.
    fn spell_out(&mut self, long: bool) {
        if self.map != 0 || self.vex.is_some() || self.has_modrm {
            return;
        }
        let (opcode, reg, rm) = match self.opcode {
            0x00..=0x3F if self.opcode & 6 == 4 => (0x80 | self.opcode & 1, self.opcode >> 3, 0),
            0xA8 | 0xA9 => (0xF6 | self.opcode & 1, 0, 0),
            0xA0..=0xA3 => {
                self.memory = true;
                self.immediate_size = 0;
                (0x88 | self.opcode & 1 | (self.opcode & 2 ^ 2), 0, 0)
            }
            0x40..=0x4F if !long => (0xFF, self.opcode >> 3 & 1, self.opcode_register),
            0x91..=0x97 => (0x87, 0, self.opcode_register),
            0x90 if self.opcode_register != 0 => (0x87, 0, self.opcode_register),
            _ => return,
        };
        (self.opcode, self.reg, self.rm) = (opcode, reg, rm);
        self.has_modrm = true;
    }

    /// Says what the operand-size prefix is to be on the host.
    pub fn set_operand_size(&mut self, prefix: bool) {
        self.operand_size = prefix;
    }

    /// Clears VEX.W, where code outside 64-bit mode may have set it without meaning.
    pub fn clear_vex_w(&mut self) {
        if let Some(vex) = &mut self.vex {
            vex.wide = false;
        }
    }

    /// Clears the bit of the immediate that extends a register's number, which means nothing outside 64-bit mode.
    pub fn narrow_immediate_register(&mut self) {
        self.immediate[0] &= 0x7F;
    }

    /// Whether operands are named by a ModRM.
    pub fn has_modrm(&self) -> bool {
        self.has_modrm
    }

    /// The register in VEX.vvvv.
    pub fn vvvv(&self) -> u8 {
        self.vex.map_or(0, |vex| vex.vvvv)
    }

    /// Emits the instruction with other operands. `byte_register`: one of them is SPL, BPL, SIL or DIL, which needs a REX.
    pub fn emit(&self, asm: &mut Asm, reg: u8, rm: Rm, vvvv: u8, byte_register: bool) {
        if let Some(vex) = self.vex {
            let (x, b) = rm.extension_bits();
            asm.raw(&[
                0xC4,
                (!reg >> 3 & 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | vex.map,
                u8::from(vex.wide) << 7 | (!vvvv & 15) << 3 | u8::from(vex.long) << 2 | vex.pp,
                self.opcode,
            ]);
        } else {
            self.legacy_prefixes(asm);
            let (x, b) = rm.extension_bits();
            let rex = 0x40 | u8::from(self.wide) << 3 | (reg >> 3) << 2 | x << 1 | b;
            if rex != 0x40 || byte_register {
                asm.raw(&[rex]);
            }
            self.opcode_bytes(asm, self.opcode);
        }
        if self.has_modrm {
            asm.modrm(reg, rm);
        }
        asm.raw(&self.immediate[..self.immediate_size]);
    }

    /// Emits the form that names a register in its opcode.
    pub fn emit_opcode_register(&self, asm: &mut Asm, register: u8, byte_register: bool) {
        self.legacy_prefixes(asm);
        let rex = 0x40 | u8::from(self.wide) << 3 | register >> 3;
        if rex != 0x40 || byte_register {
            asm.raw(&[rex]);
        }
        self.opcode_bytes(asm, self.opcode & !7 | register & 7);
        asm.raw(&self.immediate[..self.immediate_size]);
    }

    fn legacy_prefixes(&self, asm: &mut Asm) {
        if self.operand_size {
            asm.raw(&[0x66]);
        }
        if self.repeat != 0 {
            asm.raw(&[self.repeat]);
        }
        if self.lock {
            asm.raw(&[0xF0]);
        }
    }

    fn opcode_bytes(&self, asm: &mut Asm, opcode: u8) {
        match self.map {
            0 => asm.raw(&[opcode]),
            1 => asm.raw(&[0x0F, opcode]),
            2 => asm.raw(&[0x0F, 0x38, opcode]),
            _ => asm.raw(&[0x0F, 0x3A, opcode]),
        }
    }
}
