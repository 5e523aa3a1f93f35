//! Pieces of programs that go straight on: accesses, arithmetic, atomics, vectors, strings, the stack. What a piece leaves
//! undefined it defines before it ends.

use super::code::Builder;
use crate::translate::asm::host;
use crate::translate::encode::Rm;

/// Registers with any values.
pub(super) const SCRATCH: [u8; 6] = [0, 1, 2, 9, 10, 15];
/// Registers that point into data.
pub(super) const BASES: [u8; 6] = [3, 5, 6, 7, 8, 11];

const STRING_OPERATIONS: [&[u8]; 8] =
    [&[0xA4], &[0xA5], &[0x48, 0xA5], &[0xAA], &[0xAB], &[0x48, 0xAB], &[0x66, 0xA5], &[0x66, 0xAB]];

impl Builder<'_> {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    pub(super) fn one_in(&mut self, odds: u64) -> bool {
        self.random.below(odds) == 0
    }

    pub(super) fn scratch(&mut self) -> u8 {
        SCRATCH[self.below(6) as usize]
    }

    pub(super) fn base(&mut self) -> u8 {
        BASES[self.below(6) as usize]
    }

    /// Any register, to be read.
    fn source(&mut self) -> u8 {
        match self.below(16) {
            0 => host::RSP,
            1..=3 => 12 + self.below(3) as u8,
            4..=5 => self.base(),
            _ => self.scratch(),
        }
    }

    /// The address of some data.
    pub(super) fn place(&mut self, alignment: u64) -> u64 {
        let page = if self.one_in(24) { 56 + self.below(8) } else { (self.home + self.below(6)) & 63 };
        let page = if self.one_in(6) { self.below(56) } else { page };
        let offset = match self.below(8) {
            0..=1 => 0xFFF - self.below(48),
            2 => self.below(64),
            3 => 0xFE0 - self.below(16) * 32,
            _ => self.below(0x1000),
        };
        self.setting.data(page, offset & !(alignment - 1))
    }

    /// A base register points somewhere.
    pub(super) fn point(&mut self, register: u8, alignment: u64) {
        let place = self.place(alignment);
        match self.below(8) {
            0 => self.rip_lea(register, place),
            1 if alignment == 1 => {
                let other = self.base();
                self.asm.lea(register, Rm::Base { base: other, displacement: self.random.below(64) as i32 - 32 });
            }
            _ => self.asm.mov_imm(register, place),
        }
    }

    pub(super) fn displacement(&mut self) -> i32 {
        match self.below(8) {
            0..=3 => self.below(12) as i32 * 8 - 16,
            4..=5 => self.below(64) as i32 - 24,
            6 => self.below(256) as i32 * 2 - 128,
            _ => self.below(4096) as i32 - 2048,
        }
    }

    fn operand(&mut self) -> Rm {
        let base = self.base();
        Rm::Base { base, displacement: self.displacement() }
    }

    /// A byte register beside an operand.
    fn byte_register(&mut self, rm: Rm) -> u8 {
        let low = [0, 1, 2, 9, 10, 15][self.below(6) as usize];
        let high = [4, 5, 6][self.below(3) as usize];
        if rm.extension_bits() == (0, 0) && self.one_in(4) { high } else { low }
    }

    /// All flags get values.
    pub(super) fn define(&mut self) {
        let (a, b) = (self.source(), self.source());
        let wide = self.one_in(2);
        match self.below(4) {
            0 => self.asm.op(wide, &[0x85], a, Rm::Register(b)),
            1 => {
                let into = self.scratch();
                self.asm.op(wide, &[[0x01, 0x29][self.random.below(2) as usize]], a, Rm::Register(into));
            }
            _ => self.asm.op(wide, &[0x39], a, Rm::Register(b)),
        }
    }

    /// One access to memory by way of an operand, without undefined flags.
    pub(super) fn access(&mut self, rm: Rm) {
        let wide = self.one_in(2);
        let (into, from) = (self.scratch(), self.source());
        let kind = self.below(32);
        if self.reads_only && matches!(kind, 6..=19) {
            return self.asm.op(wide, &[0x8B], into, rm);
        }
        match kind {
            0..=3 => self.asm.op(wide, &[0x8B], into, rm),
            4 => self.asm.op(wide, &[0x0F, [0xB6, 0xB7, 0xBE, 0xBF][self.random.below(4) as usize]], into, rm),
            5 => self.asm.op(true, &[0x63], into, rm),
            6..=8 => self.asm.op(wide, &[0x89], from, rm),
            9 => {
                let register = self.byte_register(rm);
                self.asm.op(false, &[0x88], register, rm);
            }
            10 => {
                self.asm.raw(&[0x66]);
                self.asm.op(false, &[0x89], from, rm);
            }
            11 => {
                self.asm.op(wide, &[0xC7], 0, rm);
                self.asm.dword(self.random.next() as u32);
            }
            12 => {
                self.asm.op(false, &[0xC6], 0, rm);
                self.asm.raw(&[self.random.next() as u8]);
            }
            13..=15 => {
                const OPCODES: [u8; 7] = [0x01, 0x29, 0x31, 0x09, 0x21, 0x11, 0x19];
                self.asm.op(wide, &[OPCODES[self.random.below(7) as usize]], from, rm);
            }
            16 => self.asm.op(wide, &[0xFF], self.random.below(2) as u8, rm),
            17 => self.asm.op(wide, &[0xF7], 2 + self.random.below(2) as u8, rm),
            18 => {
                let extension = [0, 1, 4, 5, 6, 2, 3][self.random.below(7) as usize];
                self.asm.group1(wide, extension, rm, self.random.value() as i32);
            }
            19 => self.asm.op(false, &[0x0F, 0x90 | self.random.below(16) as u8], 0, rm),
            20..=22 => {
                const OPCODES: [u8; 8] = [0x03, 0x2B, 0x33, 0x0B, 0x23, 0x13, 0x1B, 0x3B];
                self.asm.op(wide, &[OPCODES[self.random.below(8) as usize]], into, rm);
            }
            23 => {
                let opcode = [0x39, 0x85][self.below(2) as usize];
                self.asm.op(wide, &[opcode], from, rm);
            }
            24 => self.asm.op(wide, &[0x0F, 0x40 | self.random.below(16) as u8], into, rm),
            25 => {
                let register = self.byte_register(rm);
                self.asm.op(false, &[0x8A], register, rm);
            }
            26 => {
                self.asm.op(wide, &[0x0F, 0xAF], into, rm);
                self.define();
            }
            27 => self.vector_access(rm),
            29 if self.avx => self.three_operands(rm),
            28 | 29 => {
                // The flags wait while something is loaded.
                self.define();
                self.asm.op(wide, &[0x8B], into, rm);
                self.consume_flags();
            }
            _ => self.asm.op(true, &[0x3B], into, rm),
        }
    }

    /// An unaligned access of a vector register.
    fn vector_access(&mut self, rm: Rm) {
        let register = self.below(16) as u8;
        let store = !self.reads_only && self.one_in(2);
        if self.avx && self.one_in(3) {
            return self.vex(1, 4 | 2, if store { 0x7F } else { 0x6F }, register, 0, rm);
        }
        match self.below(4) {
            0 => self.asm.op(false, &[0x0F, if store { 0x11 } else { 0x10 }], register, rm),
            1 => {
                self.asm.raw(&[0xF3]);
                self.asm.op(false, &[0x0F, if store { 0x7F } else { 0x6F }], register, rm);
            }
            2 => {
                // movq
                self.asm.raw(&[if store { 0x66 } else { 0xF3 }]);
                self.asm.op(false, &[0x0F, if store { 0xD6 } else { 0x7E }], register, rm);
            }
            _ => {
                // movd
                self.asm.raw(&[0x66]);
                self.asm.op(false, &[0x0F, if store { 0x7E } else { 0x6E }], register, rm);
            }
        }
    }

    /// SHLX, SARX, SHRX or PDEP, PEXT: general registers that may all live in the core, no flags.
    fn three_operands(&mut self, rm: Rm) {
        let [a, b] = [0; 2].map(|_| [0, 1, 2, 9, 10, 15, 15][self.random.below(7) as usize]);
        let counts = [b, 11, 12, 14, 15][self.below(5) as usize];
        let prefix = 1 + self.below(3) as u8;
        let opcode = if prefix == 1 || self.one_in(2) { 0xF7 } else { 0xF5 };
        let wide = self.below(2) as u8;
        // PDEP and PEXT have the operand in memory as the mask.
        self.vex(2, wide << 7 | prefix, opcode, a, counts, rm);
    }

    /// An instruction with VEX. `bits`: W, L and the prefix (1 for 66, 2 for F3, 3 for F2) where they are encoded.
    fn vex(&mut self, map: u8, bits: u8, opcode: u8, reg: u8, vvvv: u8, rm: Rm) {
        let (index, base) = rm.extension_bits();
        let inverted = (reg >> 3 << 7 | index << 6 | base << 5) ^ 0xE0;
        self.asm.raw(&[0xC4, inverted | map, (vvvv ^ 15) << 3 | bits, opcode]);
        self.asm.modrm(reg, rm);
    }

    /// Accesses off one register.
    pub(super) fn group(&mut self) {
        let base = self.base();
        if !self.one_in(3) {
            let alignment = [1, 1, 8, 8, 16, 64][self.below(6) as usize];
            self.point(base, alignment);
        }
        self.reads_only = self.one_in(3);
        for _ in 0..1 + self.below(6) {
            let rm = Rm::Base { base, displacement: self.displacement() };
            self.access(rm);
            match self.below(10) {
                0 => self.asm.group1(true, [0, 5][self.random.below(2) as usize], Rm::Register(base), 8),
                1 => self.asm.lea(base, Rm::Base { base, displacement: self.random.below(64) as i32 - 16 }),
                2 => self.arithmetic(),
                3 => self.consume_flags(),
                _ => {}
            }
        }
        self.reads_only = false;
    }

    /// Aligned vectors off one register.
    pub(super) fn aligned(&mut self) {
        let base = self.base();
        self.point(base, 16);
        if self.one_in(64) {
            self.asm.group1(true, 0, Rm::Register(base), 8);
        }
        for _ in 0..1 + self.below(4) {
            let rm = Rm::Base { base, displacement: self.random.below(16) as i32 * 16 - 64 };
            let register = self.below(16) as u8;
            match self.below(7) {
                0 => self.asm.op(false, &[0x0F, 0x28], register, rm),
                1 => self.asm.op(false, &[0x0F, 0x29], register, rm),
                2..=4 => {
                    const OPCODES: [u8; 8] = [0xD4, 0xFE, 0xEF, 0xFA, 0x6F, 0x7F, 0xDB, 0x76];
                    self.asm.raw(&[0x66]);
                    self.asm.op(false, &[0x0F, OPCODES[self.random.below(8) as usize]], register, rm);
                }
                5 => {
                    let rm = Rm::Base { base, displacement: self.displacement() };
                    self.access(rm);
                }
                _ => self.vector_access(rm),
            }
        }
    }

    /// Vector registers among themselves.
    pub(super) fn vectors(&mut self) {
        for _ in 0..1 + self.below(4) {
            let [a, b, c] = [0; 3].map(|_| self.below(16) as u8);
            let general = self.scratch();
            match self.below(8) {
                0 if self.avx => self.vex(1, 4 | 1, 0xFE, a, c, Rm::Register(b)),
                1 if self.avx => self.vex(1, 4 | 1, 0xEF, a, c, Rm::Register(b)),
                2 if self.avx && self.one_in(4) => self.asm.raw(&[0xC5, 0xF8, 0x77]),
                3 => {
                    self.asm.raw(&[0x66]);
                    self.asm.op(true, &[0x0F, [0x6E, 0x7E][self.random.below(2) as usize]], a, Rm::Register(general));
                }
                4 => self.asm.op(false, &[0x0F, 0x50], general, Rm::Register(b)), // movmskps
                5 => {
                    self.asm.raw(&[0x66]);
                    self.asm.op(false, &[0x0F, 0x70], a, Rm::Register(b));
                    self.asm.raw(&[self.random.next() as u8]);
                }
                6 => {
                    // ucomisd: unordered or not, the flags are defined
                    self.asm.raw(&[0x66]);
                    self.asm.op(false, &[0x0F, 0x2E], a, Rm::Register(b));
                }
                _ => {
                    const OPCODES: [u8; 6] = [0xD4, 0xFE, 0xEF, 0x6C, 0xDB, 0x62];
                    self.asm.raw(&[0x66]);
                    self.asm.op(false, &[0x0F, OPCODES[self.random.below(6) as usize]], a, Rm::Register(b));
                }
            }
        }
    }

    /// Registers only.
    pub(super) fn arithmetic(&mut self) {
        let (into, from) = (self.scratch(), self.source());
        let wide = self.one_in(2);
        let rm = Rm::Register(into);
        match self.below(14) {
            0..=3 => {
                const OPCODES: [u8; 10] = [0x01, 0x29, 0x31, 0x09, 0x21, 0x11, 0x19, 0x39, 0x85, 0x89];
                self.asm.op(wide, &[OPCODES[self.random.below(10) as usize]], from, rm);
            }
            4 => self.asm.op(wide, &[0xFF], self.random.below(2) as u8, rm),
            5 => self.asm.mov_imm(into, self.random.value()),
            6 => self.asm.op(wide, &[0xD1], [0, 1, 2, 3][self.random.below(4) as usize], rm),
            7 => {
                self.asm.op(wide, &[0xC1], [4, 5, 7][self.random.below(3) as usize], rm);
                self.asm.raw(&[1 + self.random.below(31) as u8]);
                self.define();
            }
            8 => {
                self.asm.op(wide, &[0xD3], [4, 5, 7][self.random.below(3) as usize], rm);
                self.define();
            }
            9 => self.asm.lea(into, Rm::BaseIndex { base: from, index: into, scale: 1, displacement: 5 }),
            10 => self.asm.op(wide, &[0x0F, 0xB6], into, Rm::Register([0, 1, 2][self.random.below(3) as usize])),
            11 => self.asm.raw(&[[0xF5, 0xF8, 0xF9][self.random.below(3) as usize]]), // cmc, clc, stc
            12 => {
                let extension = self.below(8) as u8;
                self.asm.group1(wide, extension, rm, self.random.value() as i32);
            }
            _ => self.asm.op(wide, &[0x87], self.random.below(3) as u8, rm),
        }
    }

    /// Something that depends on the flags, in a register or memory.
    pub(super) fn consume_flags(&mut self) {
        let into = self.scratch();
        let condition = self.below(16) as u8;
        match self.below(6) {
            0 => self.asm.op(true, &[0x0F, 0x40 | condition], into, Rm::Register(self.random.below(3) as u8)),
            1 => {
                self.asm.op(false, &[0x0F, 0x90 | condition], 0, Rm::Register([0, 1, 2][self.random.below(3) as usize]))
            }
            2 => self.asm.op(true, &[0x11], into, Rm::Register(into)),
            3 => {
                let rm = self.operand();
                self.asm.op(true, &[[0x13, 0x1B][self.random.below(2) as usize]], into, rm);
            }
            4 => {
                let rm = self.operand();
                self.asm.op(false, &[0x0F, 0x90 | condition], 0, rm);
            }
            _ => {
                let over = self.asm.jcc_forward(condition);
                let rm = self.operand();
                self.access(rm);
                self.asm.bind(over);
            }
        }
    }

    /// A base and an index, or an index alone.
    pub(super) fn indexed(&mut self) {
        let index = [0, 1, 2, 9, 10][self.below(5) as usize];
        let base = self.base();
        // movzx index, byte
        self.asm.op(false, &[0x0F, 0xB6], index, Rm::Register([0, 1, 2][self.random.below(3) as usize]));
        let scale = self.below(4) as u8;
        let rm = Rm::BaseIndex { base, index, scale, displacement: self.displacement() };
        for _ in 0..1 + self.below(3) {
            match self.below(3) {
                0 => self.asm.op(true, &[0x89], self.random.below(16) as u8, rm),
                1 => self.asm.op(true, &[0x03], 15, rm),
                _ => self.asm.op(true, &[0x8B], 15, rm),
            }
        }
    }

    /// LOCK, XCHG and their kind.
    pub(super) fn atomic(&mut self) {
        let base = self.base();
        let alignment = [8, 8, 16, 1][self.below(4) as usize];
        if !self.one_in(3) {
            self.point(base, alignment);
        }
        let rm = Rm::Base { base, displacement: self.random.below(8) as i32 * 8 };
        let (wide, from) = (self.one_in(2), self.scratch());
        let locked = !self.one_in(4);
        match self.below(8) {
            0 => self.asm.op(wide, &[0x87], from, rm),
            1 => {
                let rm = Rm::Base { base, displacement: 16 };
                self.point(base, 16);
                self.asm.raw(&[0xF0]);
                self.asm.op(wide, &[0x0F, 0xC7], 1, rm);
                // It keeps other flags than ZF.
            }
            2 => {
                self.asm.raw(if locked { &[0xF0] } else { &[] });
                self.asm.op(wide, &[0x0F, 0xBA], 5 + self.random.below(3) as u8, rm);
                self.asm.raw(&[self.random.next() as u8]);
                self.consume_carry();
            }
            3 => {
                self.asm.op(false, &[0x0F, 0xB6], from, Rm::Register([0, 1, 2][self.random.below(3) as usize]));
                self.asm.raw(if locked { &[0xF0] } else { &[] });
                self.asm.op(wide, &[0x0F, [0xAB, 0xB3, 0xBB][self.random.below(3) as usize]], from, rm);
                self.consume_carry();
            }
            other => {
                self.asm.raw(if locked { &[0xF0] } else { &[] });
                match other {
                    4 => self.asm.op(wide, &[0x0F, 0xC1], from, rm),
                    5 => self.asm.op(wide, &[0x0F, 0xB1], from, rm),
                    6 => self.asm.op(wide, &[[0x01, 0x29, 0x31, 0x11, 0x19][self.random.below(5) as usize]], from, rm),
                    _ => self.asm.op(wide, &[0xFF], self.random.below(2) as u8, rm),
                }
            }
        }
    }

    /// CF is all that is defined.
    fn consume_carry(&mut self) {
        self.asm.op(false, &[0x0F, 0x92 | self.random.below(2) as u8], 0, Rm::Register(self.random.below(3) as u8));
        self.define();
    }

    /// String instructions.
    pub(super) fn strings(&mut self) {
        let alignment = [1, 8][self.below(2) as usize];
        self.point(6, alignment);
        self.point(7, alignment);
        let count = match self.below(5) {
            0 => self.below(3),
            1 => self.below(700),
            2 if self.one_in(4) => self.below(5000),
            _ => self.below(64),
        };
        let down = self.one_in(6);
        if down {
            self.asm.raw(&[0xFD]);
        }
        if self.one_in(4) {
            // Compared, scanned, loaded: flags.
            self.asm.mov_imm(1, count & 63);
            let operation: &[u8] =
                [&[0xA6][..], &[0xA7], &[0xAE], &[0x48, 0xAF], &[0xAC], &[0x48, 0xAD]][self.below(6) as usize];
            let repeat: &[u8] = [&[][..], &[0xF3], &[0xF2]][self.below(3) as usize];
            self.define();
            self.asm.raw(repeat);
            self.asm.raw(operation);
            self.consume_flags();
        } else {
            self.asm.mov_imm(1, count);
            let repeat = !self.one_in(3);
            if self.one_in(2) {
                self.define();
            }
            let operation = STRING_OPERATIONS[self.below(8) as usize];
            match (repeat, operation[0]) {
                (true, 0x66) => self.asm.raw(&[0x66, 0xF3, operation[1]]),
                (true, _) => {
                    self.asm.raw(&[0xF3]);
                    self.asm.raw(operation);
                }
                _ => self.asm.raw(operation),
            }
            self.consume_flags();
        }
        if down {
            self.asm.raw(&[0xFC]);
        }
        self.point(6, 1);
        self.point(7, 1);
    }

    /// Pushed and popped again.
    pub(super) fn stack(&mut self) {
        let count = 1 + self.below(5);
        for _ in 0..count {
            match self.below(6) {
                0 => {
                    self.asm.raw(&[0x68]);
                    self.asm.dword(self.random.next() as u32);
                }
                1 => {
                    let rm = self.operand();
                    self.asm.op(false, &[0xFF], 6, rm);
                }
                _ => {
                    let register = self.source();
                    self.asm.raw(if register >= 8 { &[0x41] } else { &[] });
                    self.asm.raw(&[0x50 | register & 7]);
                }
            }
        }
        if self.one_in(2) {
            let rm = Rm::Base { base: host::RSP, displacement: self.random.below(count) as i32 * 8 };
            self.access(rm);
        }
        if self.one_in(4) {
            return self.asm.group1(true, 0, Rm::Register(host::RSP), count as i32 * 8);
        }
        for _ in 0..count {
            if self.one_in(8) {
                let rm = self.operand();
                self.asm.op(false, &[0x8F], 0, rm);
                continue;
            }
            let register = self.scratch();
            self.asm.raw(if register >= 8 { &[0x41] } else { &[] });
            self.asm.raw(&[0x58 | register & 7]);
        }
    }
}
