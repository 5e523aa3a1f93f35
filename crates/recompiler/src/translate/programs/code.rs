//! Random programs: functions of three levels that call the ones below, made of pieces, branches and loops.

use super::kernel::call;
use super::machine::*;
use crate::testing::Random;
use crate::translate::asm::{Asm, host};
use crate::translate::encode::Rm;

/// Bytes in an instruction that are stored to.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub address: u64,
    /// 1 or 4.
    pub size: u64,
    /// What a slot of one byte may hold.
    pub one_of: [u8; 4],
}

/// A program under construction.
pub(super) struct Builder<'a> {
    pub random: &'a mut Random,
    pub asm: Asm,
    pub setting: Setting,
    /// Instructions that are stored to.
    pub slots: Vec<Slot>,
    /// Data between code, 64 bytes each.
    pub gaps: Vec<u64>,
    /// The data page around which the present function works.
    pub home: u64,
    pub avx: bool,
    /// The present accesses do not write.
    pub reads_only: bool,
    /// Functions by level.
    functions: [Vec<u64>; 2],
    /// Tables of their addresses, in code.
    tables: Vec<(u64, usize)>,
    /// Level of the present function: those it calls are below.
    level: usize,
    /// Loops around the present piece.
    loops: u8,
}

/// A program: its code in both versions, and where it begins.
pub(super) struct Program {
    pub code: [Vec<u8>; 2],
    pub start: u64,
    pub stack: u64,
}

impl Program {
    pub(super) fn new(random: &mut Random, setting: &Setting) -> Program {
        let avx = std::arch::is_x86_feature_detected!("avx2");
        let mut builder = Builder {
            random,
            asm: Asm::new(setting.user),
            setting: *setting,
            slots: Vec::new(),
            gaps: Vec::new(),
            home: 0,
            avx,
            reads_only: false,
            functions: [Vec::new(), Vec::new()],
            tables: Vec::new(),
            level: 0,
            loops: 0,
        };
        let start = builder.program();
        let stack = builder.stack_top();
        let Builder { random, asm, slots, .. } = builder;
        let bytes = asm.bytes;
        assert!(bytes.len() <= (CODE_PAGES << 12) as usize, "{:#x} bytes of code", bytes.len());
        // The other version differs in what is stored to anyway.
        let mut other = bytes.clone();
        for slot in slots.iter().filter(|slot| slot.size == 4) {
            let at = (slot.address - setting.user) as usize;
            other[at..at + 4].copy_from_slice(&(random.next() as u32).to_le_bytes());
        }
        Program { code: [bytes, other], start, stack }
    }
}

impl Builder<'_> {
    fn program(&mut self) -> u64 {
        for level in 0..2 {
            self.level = level;
            for _ in 0..2 + self.below(3) {
                self.space();
                let alias = if self.one_in(6) { ALIAS << 12 } else { 0 };
                let address = self.function();
                self.functions[level].push(address + alias);
            }
            self.space();
            // A table of four.
            while self.asm.bytes.len() % 8 != 0 {
                self.asm.raw(&[0xCC]);
            }
            self.tables.push((self.asm.here(), level));
            for _ in 0..4 {
                let functions = &self.functions[level];
                let function = functions[self.random.below(functions.len() as u64) as usize];
                self.asm.raw(&function.to_le_bytes());
            }
        }
        self.space();
        self.level = 2;
        let start = self.asm.here();
        self.new_home();
        self.body(6);
        self.asm.mov_imm(0, u64::from(call::EXIT));
        let fast = self.setting.ring == 3 && self.one_in(2);
        self.asm.raw(if fast { &[0x0F, 0x05] } else { &[0xCD, 0x80] });
        start
    }

    /// Data between functions, so that some lie across the ends of pages.
    fn space(&mut self) {
        let length = self.asm.bytes.len();
        let to_end = 0x1000 - (length & 0xFFF);
        // There is room for some pages that are hardly used.
        if length < 0x5000 && self.one_in(2) {
            let before = (self.below(96) as usize).min(to_end);
            self.asm.bytes.resize(length + to_end - before, 0xCC);
        }
        if self.one_in(2) {
            self.gaps.push(self.asm.here());
            for _ in 0..8 {
                self.asm.raw(&self.random.next().to_le_bytes());
            }
        }
    }

    /// The top of a stack: near a page's end as well.
    fn stack_top(&mut self) -> u64 {
        let page = FIRST_STACK - FIRST_DATA + 1 + self.below(7);
        let offset = match self.below(4) {
            0 => self.below(16) * 8,
            1 => 0x800 + self.below(64),
            _ => 0xFF8 - self.below(64) * 8,
        };
        self.setting.data(page, offset)
    }

    fn new_home(&mut self) {
        self.home = self.below(50);
        for register in super::pieces::BASES {
            self.point(register, 8);
        }
    }

    fn function(&mut self) -> u64 {
        let start = self.asm.here();
        if self.one_in(2) {
            self.new_home();
        }
        if self.one_in(2) {
            self.new_slot();
        }
        let frame = self.below(4);
        match frame {
            0 => {
                // push rbp; mov rbp, rsp; sub rsp, 64
                self.asm.raw(&[0x55, 0x48, 0x89, 0xE5]);
                self.asm.group1(true, 5, Rm::Register(host::RSP), 64);
            }
            1 => self.asm.raw(&[0xC8, 0x40, 0, self.random.below(3) as u8]), // enter 64, level
            _ => {}
        }
        if frame < 2 {
            for _ in 0..2 {
                let rm = Rm::Base { base: 5, displacement: -8 - self.random.below(7) as i32 * 8 };
                self.access(rm);
            }
        }
        let size = 1 + self.level as u64 + self.below(3);
        // RBP is the frame's.
        self.body(if frame < 2 { 0 } else { size });
        if frame < 2 {
            for _ in 0..size {
                self.straight_beside_frame();
            }
            self.asm.raw(&[0xC9]); // leave
            self.point(5, 1);
        }
        self.return_();
        start
    }

    /// The page of some function.
    pub(super) fn function_page(&mut self) -> Option<u64> {
        let functions = &self.functions[self.random.below(2) as usize];
        let count = functions.len() as u64;
        (count > 0).then(|| (functions[self.random.below(count) as usize] - self.setting.user) >> 12)
    }

    /// Pieces that leave RBP alone.
    fn straight_beside_frame(&mut self) {
        match self.below(4) {
            0 => self.arithmetic(),
            1 => self.stack(),
            2 => {
                let rm = Rm::Base { base: 5, displacement: -8 - self.random.below(7) as i32 * 8 };
                self.access(rm);
            }
            _ => self.consume_flags(),
        }
    }

    fn return_(&mut self) {
        match self.below(10) {
            0 => {
                // pop rdx; jmp rdx
                self.asm.raw(&[0x5A, 0xFF, 0xE2]);
            }
            1 => self.asm.raw(&[0xFF, 0x34, 0x24, 0xC2, 8, 0]), // push [rsp]; ret 8
            2 => {
                // To somewhere else first, with the caller's address below.
                self.asm.raw(&[0x48, 0x8D, 0x05]); // lea rax, [rip + 2 + ...]
                self.asm.dword(2 + 3);
                self.asm.raw(&[0x50, 0xC3]); // push rax; ret
                self.asm.raw(&[0x48, 0xFF, 0xC2]); // inc rdx, left out
                self.asm.raw(&[0xC3]);
            }
            _ => self.asm.raw(&[0xC3]),
        }
    }

    /// Pieces, with branches and loops around them.
    fn body(&mut self, size: u64) {
        for _ in 0..size {
            match self.below(12) {
                0..=2 => {
                    // A branch forwards.
                    if self.one_in(2) {
                        self.define();
                    }
                    let over = self.asm.jcc_forward(self.random.below(16) as u8);
                    self.straight();
                    if self.one_in(2) {
                        let end = self.asm.jmp_forward();
                        self.asm.bind(over);
                        self.straight();
                        self.asm.bind(end);
                    } else {
                        self.asm.bind(over);
                    }
                }
                3..=6 if self.loops < 2 => self.repeat(),
                7..=8 if self.level > 0 => self.call(),
                9 => self.jump(),
                10 if self.level == 2 => self.other_stack(),
                _ => {
                    for _ in 0..1 + self.below(3) {
                        self.straight();
                    }
                }
            }
        }
    }

    fn repeat(&mut self) {
        // Each level has its counters: R12, R13, R14, and bytes of them for loops in loops.
        let counter = 12 + self.level as u8;
        let inner = self.loops == 1;
        let times = if inner { 2 + self.below(3) } else { 2 + self.below(12) };
        if inner {
            self.asm.group1(true, 0, Rm::Register(counter), (times << 8) as i32);
        } else {
            self.asm.mov_imm(counter, times);
        }
        self.loops += 1;
        let again = self.asm.here();
        let size = 1 + self.below(3);
        self.body(size);
        let rm = Rm::Register(counter);
        if inner {
            self.asm.group1(true, 5, rm, 1 << 8);
            self.asm.raw(&[0x41, 0xF7, 0xC0 | counter & 7]); // test counter, 0xFF00
            self.asm.dword(0xFF00);
        } else {
            match self.below(3) {
                0 => self.asm.op(true, &[0xFF], 1, rm),
                1 => self.asm.group1(true, 5, rm, 1),
                _ => {
                    // mov ecx, counter; loop's way
                    self.asm.lea(counter, Rm::Base { base: counter, displacement: -1 });
                    self.asm.op(true, &[0x85], counter, rm);
                }
            }
        }
        if self.one_in(3) {
            // The flags go past an access.
            let register = self.scratch();
            self.asm.op(true, &[0x8B], register, Rm::Base { base: 5, displacement: 8 });
        }
        let back = self.asm.jcc_forward(5);
        self.asm.bind_to(back, again);
        self.loops -= 1;
    }

    fn call(&mut self) {
        let level = self.below(self.level as u64) as usize;
        let functions = &self.functions[level];
        let function = functions[self.random.below(functions.len() as u64) as usize];
        // At a distance, the alias calls the alias.
        let near = self.setting.user + ((function - self.setting.user) & !(ALIAS << 12));
        let (table, of) = self.tables[level];
        debug_assert_eq!(of, level);
        let entry = self.below(4) * 8;
        match self.below(6) {
            0 => {
                self.asm.mov_imm(0, function);
                self.asm.raw(&[0xFF, 0xD0]); // call rax
            }
            1 => self.rip_op(false, &[0xFF], 2, table + entry, 0),
            2 => {
                self.asm.mov_imm(0, table);
                self.asm.op(false, &[0xFF], 2, Rm::Base { base: 0, displacement: entry as i32 });
            }
            3 => {
                // A random one of the table.
                self.asm.mov_imm(0, table);
                self.asm.group1(false, 4, Rm::Register(1), 3);
                self.asm.op(false, &[0xFF], 2, Rm::BaseIndex { base: 0, index: 1, scale: 3, displacement: 0 });
            }
            4 => {
                // By way of a stub: call it, which jumps.
                self.asm.raw(&[0xE8]);
                self.asm.dword(5); // over the jump below
                let over = self.asm.jmp_forward();
                self.asm.jmp(near);
                self.asm.bind(over);
            }
            _ => {
                self.asm.raw(&[0xE8]);
                let after = self.asm.here() + 4;
                self.asm.dword(near.wrapping_sub(after) as u32);
            }
        }
        if self.one_in(2) {
            self.new_home();
        }
    }

    /// An indirect jump over something, or back to the next instruction.
    fn jump(&mut self) {
        let skipped = self.below(24) as u32;
        let register = self.scratch();
        let modrm = 0x05 | (register & 7) << 3;
        self.asm.raw(&[0x48 | (register >> 3) << 2, 0x8D, modrm]); // lea register, [rip + ...]
        let prefix: &[u8] = if register >= 8 { &[0x41] } else { &[] };
        let how = self.below(3);
        let length = prefix.len() as u32 + [2, 2, 5][how as usize];
        self.asm.dword(length + skipped);
        self.asm.raw(prefix);
        match how {
            0 => self.asm.raw(&[0xFF, 0xE0 | register & 7]),
            1 => self.asm.raw(&[0x50 | register & 7, 0xC3]),
            _ => {
                // push register; jmp [rsp]: the stack pointer is put right behind it
                self.asm.raw(&[0x50 | register & 7, 0x90, 0xFF, 0x24, 0x24]);
            }
        }
        (0..skipped).for_each(|_| self.asm.raw(&[self.random.next() as u8]));
        if how == 2 {
            self.asm.lea(host::RSP, Rm::Base { base: host::RSP, displacement: 8 });
        }
    }

    /// Something on another stack.
    fn other_stack(&mut self) {
        self.asm.mov(15, host::RSP);
        let place = if self.one_in(2) { self.stack_top() } else { self.place(8) };
        self.asm.mov_imm(host::RSP, place);
        self.asm.raw(&[0x41, 0x57]); // push r15
        for _ in 0..1 + self.below(2) {
            self.stack();
        }
        if self.one_in(2) {
            self.call();
        }
        self.asm.raw(&[0x5C]); // pop rsp
    }

    /// One piece that goes straight on.
    fn straight(&mut self) {
        match self.below(40) {
            0..=10 => self.group(),
            11..=13 => self.aligned(),
            14..=16 => self.arithmetic(),
            17..=18 => self.consume_flags(),
            19..=20 => self.indexed(),
            21..=22 => self.atomic(),
            23 => self.strings(),
            24..=26 => self.stack(),
            27..=28 => self.odd(),
            29..=30 => self.system_call(),
            31 => self.patch(),
            32..=33 => self.written_code(),
            34..=35 => self.beside_code(),
            36 => self.vectors(),
            37 => self.new_slot(),
            _ => {
                let register = super::pieces::BASES[self.below(6) as usize];
                self.point(register, 1);
            }
        }
    }

    /// An instruction with an operand at a distance; `behind`: bytes of it that follow.
    pub(super) fn rip_op(&mut self, wide: bool, opcode: &[u8], reg: u8, target: u64, behind: u64) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2;
        if rex != 0x40 {
            self.asm.raw(&[rex]);
        }
        self.asm.raw(opcode);
        self.asm.raw(&[5 | (reg & 7) << 3]);
        let after = self.asm.here() + 4 + behind;
        self.asm.dword(target.wrapping_sub(after) as u32);
    }

    /// LEA of an address at a distance.
    pub(super) fn rip_lea(&mut self, register: u8, target: u64) {
        self.rip_op(true, &[0x8D], register, target, 0);
    }
}
