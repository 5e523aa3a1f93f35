//! Pieces of programs that change what others rely on: system calls that change mappings, stores into code, code in data
//! pages; and instructions that are interpreted in place.

use super::code::{Builder, Slot};
use super::kernel::call;
use super::machine::*;
use crate::translate::asm::host;
use crate::translate::encode::Rm;

impl Builder<'_> {
    /// Instructions that are interpreted in place, or nearly so.
    pub(super) fn odd(&mut self) {
        match self.below(if self.setting.ring == 0 { 17 } else { 12 }) {
            0 => {
                // Not leaf 1, which tells whether there is a local APIC.
                self.asm.mov_imm(0, [0, 4, 7][self.random.below(3) as usize]);
                self.asm.raw(&[0x31, 0xC9, 0x0F, 0xA2]); // xor ecx, ecx; cpuid
                self.point(3, 8);
            }
            1..=2 => {
                self.define();
                self.asm.raw(&[0x9C]);
                if self.one_in(2) {
                    self.asm.op(true, &[0x81], 6, Rm::Base { base: host::RSP, displacement: 0 });
                    let ac = if self.one_in(4) { 0x4_0000 } else { 0 };
                    self.asm.dword(self.random.next() as u32 & 0x8D5 | ac);
                    self.asm.raw(&[0x9D]);
                } else {
                    self.asm.raw(&[0x58]);
                }
            }
            3 => self.asm.raw(&[0x31, 0xC9, 0x0F, 0x01, 0xD0]), // xor ecx, ecx; xgetbv
            4 => {
                self.define();
                self.asm.raw(&[0x9F]); // lahf
                self.consume_flags();
                self.asm.raw(&[0x9E]); // sahf
            }
            5 => {
                let place = self.place(1);
                self.asm.mov_imm(3, place);
                self.asm.raw(&[0xD7]); // xlatb
            }
            6 => {
                let into = self.scratch();
                self.asm.op(true, &[0x8C], 3, Rm::Register(into)); // mov into, ds
            }
            7 => {
                // fs:[...]
                self.asm.raw(&[0x64]);
                let register = self.scratch();
                let opcode = [0x8B, 0x89, 0x01][self.below(3) as usize];
                self.asm.op(true, &[opcode], register, Rm::Index { index: 4, scale: 0, displacement: 0x40 });
            }
            8 => {
                self.point(7, 16);
                self.asm.raw(&[0x0F, 0xAE, 0x1F]); // stmxcsr [rdi]
            }
            9 => {
                // A 32-bit address, where the pages are there.
                if self.setting.user < 1 << 31 {
                    let base = self.base();
                    self.point(base, 8);
                    let register = self.scratch();
                    self.asm.raw(&[0x67]);
                    self.asm.op(true, &[0x8B], register, Rm::Base { base, displacement: self.random.below(64) as i32 });
                }
            }
            10 => {
                // div: the quotient fits
                self.asm.raw(&[0x31, 0xD2]);
                self.asm.mov_imm(9, 1 + self.random.below(1000));
                self.asm.op(true, &[0xF7], 6, Rm::Register(9));
                self.define();
            }
            11 => {
                // fxsave64 [rdi]; something; fxrstor64 [rdi]
                self.point(7, 16);
                self.asm.raw(&[0x48, 0x0F, 0xAE, 0x07]);
                self.vectors();
                self.asm.raw(&[0x48, 0x0F, 0xAE, 0x0F]);
            }
            12 => self.asm.raw(&[[0xFA, 0xFB][self.random.below(2) as usize]]), // cli, sti
            13 => {
                let opcode = [0xC0, 0xD0, 0xD8, 0xE0][self.below(4) as usize];
                self.asm.raw(&[0x0F, 0x20, opcode]); // mov rax, cr
            }
            14 if self.setting.smap => self.asm.raw(&[0x0F, 0x01, [0xCA, 0xCB][self.random.below(2) as usize]]),
            15 => {
                // invlpg of some page
                let base = self.base();
                self.asm.op(false, &[0x0F, 0x01], 7, Rm::Base { base, displacement: 0 });
            }
            _ => self.asm.raw(&[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8]), // mov rax, cr3; mov cr3, rax
        }
    }

    /// A system call.
    pub(super) fn system_call(&mut self) {
        use call::*;
        const CALLS: [u32; 20] = [
            FORK,
            FORK,
            SWITCH,
            SWITCH,
            SWAP,
            PROTECT,
            PROTECT,
            UNMAP,
            LEVEL,
            FLUSH,
            NO_EXECUTE,
            VERSION,
            VERSION,
            VERSION,
            VERSION,
            PATCH,
            STORE,
            GLOBAL,
            WRITE_PROTECT,
            NOTHING,
        ];
        let mut number = CALLS[self.below(20) as usize];
        match number {
            PATCH => match self.slot() {
                Some(slot) if slot.size == 4 => {
                    let copy = if self.one_in(3) { OTHER_CODE } else { CODE };
                    self.asm.mov_imm(2, slot.address - self.setting.user + copy);
                    self.asm.mov_imm(10, self.random.next() & 0xFFFF_FFFF);
                }
                _ => number = NOTHING,
            },
            STORE => {
                let place = self.place(1);
                self.asm.mov_imm(2, place);
            }
            VERSION | NO_EXECUTE => {
                // A page that is executed, more often than not.
                let here = (self.asm.here() - self.setting.user) >> 12;
                let page = match self.below(4) {
                    0 => self.below(64),
                    1 => here,
                    _ => self.function_page().unwrap_or(here),
                };
                self.asm.mov_imm(2, page);
            }
            _ => {
                // Pages that are used, more often than not.
                let page = |builder: &mut Self| match builder.below(4) {
                    0 => builder.below(64),
                    1 => 56 + builder.below(8),
                    _ => builder.home + builder.below(6),
                };
                let (low, high) = (page(self), self.home + self.random.below(6));
                // Stacks stay where they are.
                let low = if number == SWAP { self.home } else { low };
                self.asm.mov_imm(2, low & 63 | (high & 63) << 8);
            }
        }
        self.asm.mov_imm(0, self.random.next() << 4 & 0xFFFF_FFF0 | u64::from(number));
        self.asm.raw(&[0xCD, 0x80]);
        if self.setting.ring == 3 && self.one_in(2) {
            self.asm.bytes.truncate(self.asm.bytes.len() - 2);
            self.asm.raw(&[0x0F, 0x05]);
            self.point(11, 1);
        }
    }

    /// Code that is stored to: an instruction, and a store into it or another one.
    pub(super) fn patch(&mut self) {
        let own = self.one_in(2);
        if own {
            self.new_slot();
        }
        let Some(slot) = self.slot() else { return };
        let alias = if self.one_in(3) { ALIAS << 12 } else { 0 };
        let address = slot.address + alias;
        let value = match slot.size {
            4 => self.random.next() as u32,
            _ => u32::from(slot.one_of[self.below(4) as usize]),
        };
        let relative = self.one_in(2);
        if !relative {
            self.asm.mov_imm(3, address);
        }
        let wide = slot.size == 4;
        let opcode: &[u8] = if wide { &[0xC7] } else { &[0xC6] };
        if relative {
            self.rip_op(false, opcode, 0, address, slot.size);
        } else {
            self.asm.op(false, opcode, 0, Rm::Base { base: 3, displacement: 0 });
        }
        self.asm.raw(&value.to_le_bytes()[..slot.size as usize]);
        if !relative && self.one_in(2) {
            // Something beside it, off the same register.
            self.asm.op(true, &[0x8B], 0, Rm::Base { base: 3, displacement: self.random.below(32) as i32 - 16 });
        }
        if !relative {
            self.point(3, 1);
        }
        if self.one_in(3) {
            self.new_slot();
        }
    }

    /// Code that is written into a data page, called, changed, and called again.
    pub(super) fn written_code(&mut self) {
        let base = self.base();
        if !self.one_in(4) {
            self.point(base, 1);
        }
        let displacement = if self.one_in(2) { 0 } else { self.displacement() };
        let at = |offset: i32| Rm::Base { base, displacement: displacement + offset };
        // mov ecx, imm; add rdx, rcx; ret
        self.asm.mov_imm(0, 0xCA01_4800_0000_00B9 | (self.random.next() & 0xFFFF_FFFF) << 8);
        self.asm.store(at(0), 0);
        self.asm.op(false, &[0xC6], 0, at(8));
        self.asm.raw(&[0xC3]);
        let times = 1 + self.below(3);
        for time in 0..times {
            if self.one_in(2) {
                let rm = at(16 + self.random.below(64) as i32);
                self.access(rm);
            }
            self.asm.lea(0, at(0));
            self.asm.raw(&[0xFF, 0xD0]); // call rax
            if time + 1 < times {
                // Another number, or another instruction.
                match self.below(3) {
                    0 => self.asm.op(false, &[0x89], 9, at(1)),
                    1 => self.asm.op(false, &[0xFF], 0, at(1)),
                    _ => {
                        self.asm.op(false, &[0xC6], 0, at(6));
                        self.asm.raw(&[[0x29, 0x31, 0x11][self.random.below(3) as usize]]);
                    }
                }
            }
        }
    }

    /// An instruction that others may change.
    pub(super) fn new_slot(&mut self) {
        let register = self.scratch();
        if self.one_in(2) {
            self.asm.raw(if register >= 8 { &[0x41] } else { &[] });
            self.asm.raw(&[0xB8 | register & 7]);
            self.slots.push(Slot { address: self.asm.here(), size: 4, one_of: [0; 4] });
            self.asm.dword(self.random.next() as u32);
        } else {
            // add, sub, xor, cmp
            self.slots.push(Slot { address: self.asm.here(), size: 1, one_of: [0x01, 0x29, 0x31, 0x39] });
            self.asm.raw(&[0x01, 0xC0 | (self.random.below(3) as u8) << 3 | self.random.below(3) as u8]);
        }
    }

    fn slot(&mut self) -> Option<Slot> {
        let count = self.slots.len() as u64;
        // The latest more often than others.
        let back = if self.one_in(2) { 0 } else { self.below(count.max(1)) };
        (count > 0).then(|| self.slots[(count - 1 - back.min(count - 1)) as usize])
    }

    /// Data beside code, by its distance.
    pub(super) fn beside_code(&mut self) {
        let Some(&gap) = self.gaps.get(self.random.below(self.gaps.len().max(1) as u64) as usize) else { return };
        let address = gap + self.below(48);
        let register = self.scratch();
        let (wide, alias) = (self.one_in(2), if self.one_in(4) { ALIAS << 12 } else { 0 });
        const OPCODES: [u8; 6] = [0x89, 0x89, 0x8B, 0x01, 0x3B, 0x13];
        let opcode = OPCODES[self.below(6) as usize];
        if self.one_in(2) {
            self.rip_op(wide, &[opcode], register, address + alias, 0);
        } else {
            let base = self.base();
            self.asm.mov_imm(base, address + alias);
            self.asm.op(wide, &[opcode], register, Rm::Base { base, displacement: 0 });
            self.asm.op(wide, &[opcode], register, Rm::Base { base, displacement: 8 });
            self.point(base, 1);
        }
    }
}
