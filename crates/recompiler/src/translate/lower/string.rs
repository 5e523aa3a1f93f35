//! String instructions: one element of MOVS, STOS, LODS, SCAS and CMPS, and REP MOVS and REP STOS within a page.
//!
//! A repeated instruction runs on the host as it is, when all its elements lie in one page of each side; any other is
//! left to the interpreter, which goes page by page. The same is done where the direction flag is set.

use super::memo::TABLE;
use super::{HOMES, Home, Lowering, Unfit, home, place};
use crate::state::layout;
use crate::translate::SiteKind;
use crate::translate::asm::{Fixup, condition, host};
use crate::translate::encode::Rm;
use crate::translate::flags::Use;
use crate::translate::form::{Memory, string_address_size};
use hv::SegmentRegister;
use iced_x86::{Instruction, Mnemonic};

const _: () = assert!(HOMES[6] == host::RSI && HOMES[7] == host::RDI);

/// Bytes at RAX + RCX, which is where a lookup leaves the host's address.
const FOUND: Rm = Rm::BaseIndex { base: host::RAX, index: host::RCX, scale: 0, displacement: 0 };

/// The five string instructions, and whether they repeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Store,
    Load,
    Scan,
    Compare,
}

impl Lowering<'_> {
    pub(super) fn string(&mut self, instruction: &Instruction, flags: Use) -> Result<(), Unfit> {
        let kind = kind(instruction).ok_or(Unfit)?;
        let size = instruction.memory_size().size() as u16;
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        self.before_clobber(flags.live_in);
        let interpreted = self.site(instruction, SiteKind::Interpret, 0, false);
        // test byte gs:[RFLAGS + 1], DF
        self.asm.op(false, &[0xF6], 0, Rm::Gs(layout::RFLAGS + 1));
        self.asm.raw(&[4]);
        let mut unfit = vec![self.asm.jcc_forward(condition::NE)];
        let sites = match (kind, repeated) {
            (Kind::Move | Kind::Store, true) => self.repeated(instruction, kind, size, &mut unfit),
            (_, true) => return Err(Unfit),
            (_, false) => self.element(instruction, kind, size),
        };
        self.unfit(instruction, unfit, interpreted);
        self.after_op(&flags);
        sites.into_iter().flatten().chain([interpreted]).for_each(|site| self.finish_site(site));
        Ok(())
    }

    /// RAX + RCX = the host's address of the first element at a register.
    fn at(&mut self, instruction: &Instruction, register: u8, size: u16, kind: SiteKind) -> u32 {
        let address = string_address_size(instruction);
        match address {
            2 => self.asm.op(false, &[0x0F, 0xB7], host::RAX, Rm::Register(HOMES[usize::from(register)])),
            4 => self.asm.mov32(host::RAX, HOMES[usize::from(register)]),
            _ => self.asm.mov(host::RAX, HOMES[usize::from(register)]),
        }
        let write = kind != SiteKind::Read;
        let segment = if register == 7 { SegmentRegister::Es as usize } else { instruction.memory_segment().number() };
        let site = self.lookup_in(instruction, segment, address == 2, Memory { size, write, aligned: false });
        self.sites[site as usize].kind = kind;
        site
    }

    /// Moves RSI or RDI on, as much of it as an address has. May destroy RCX.
    fn advance(&mut self, instruction: &Instruction, register: u8, size: u16) {
        let register = HOMES[usize::from(register)];
        let address = string_address_size(instruction);
        let target = if address == 2 { host::RCX } else { register };
        self.asm.op(address == 8, &[0x8D], target, Rm::Base { base: register, displacement: i32::from(size) });
        if address == 2 {
            self.asm.sized(2, &[0x89], host::RCX, Rm::Register(register));
        }
    }

    fn element(&mut self, instruction: &Instruction, kind: Kind, size: u16) -> [Option<u32>; 2] {
        match kind {
            Kind::Move => {
                let from = self.at(instruction, 6, size, SiteKind::Read);
                self.sized(0x8A, size, host::RAX, FOUND);
                self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
                let to = self.at(instruction, 7, size, SiteKind::Write);
                let slot = self.combine(TABLE, host::RCX);
                self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
                self.sized(0x88, size, host::RAX, slot);
                self.advance(instruction, 6, size);
                self.advance(instruction, 7, size);
                [Some(from), Some(to)]
            }
            Kind::Store => {
                let to = self.at(instruction, 7, size, SiteKind::Write);
                let slot = self.combine(TABLE, host::RCX);
                self.asm.load(host::RAX, place(0));
                self.sized(0x88, size, host::RAX, slot);
                self.advance(instruction, 7, size);
                [Some(to), None]
            }
            Kind::Load => {
                let from = self.at(instruction, 6, size, SiteKind::Read);
                let slot = self.combine(TABLE, host::RCX);
                self.asm.load(host::RAX, place(0));
                self.sized(0x8A, size, host::RAX, slot);
                self.asm.store(place(0), host::RAX);
                self.advance(instruction, 6, size);
                [Some(from), None]
            }
            Kind::Scan => {
                let with = self.at(instruction, 7, size, SiteKind::Read);
                let slot = self.combine(TABLE, host::RCX);
                self.asm.load(host::RAX, place(0));
                self.sized(0x3A, size, host::RAX, slot);
                self.advance(instruction, 7, size);
                [Some(with), None]
            }
            Kind::Compare => {
                let from = self.at(instruction, 6, size, SiteKind::Read);
                self.sized(0x8A, size, host::RAX, FOUND);
                self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
                let with = self.at(instruction, 7, size, SiteKind::Read);
                let slot = self.combine(TABLE, host::RCX);
                self.asm.load(host::RAX, Rm::Gs(layout::SCRATCH));
                self.sized(0x3A, size, host::RAX, slot);
                self.advance(instruction, 6, size);
                self.advance(instruction, 7, size);
                [Some(from), Some(with)]
            }
        }
    }

    /// REP MOVS and REP STOS.
    fn repeated(
        &mut self,
        instruction: &Instruction,
        kind: Kind,
        size: u16,
        unfit: &mut Vec<Fixup>,
    ) -> [Option<u32>; 2] {
        let shift = size.trailing_zeros() as u8;
        let long = self.wide();
        let asm = &mut self.asm;
        // eax = bytes; none: nothing is touched
        asm.op(long, &[0x8B], host::RAX, place(1));
        asm.group1(true, 7, Rm::Register(host::RAX), 4096 >> shift);
        unfit.push(asm.jcc_forward(condition::A));
        asm.raw(&[0xC1, 0xE0, shift, 0x85, 0xC0]);
        let nothing = asm.jcc_forward(condition::E);
        let sides: &[u8] = if kind == Kind::Move { &[6, 7] } else { &[7] };
        for &side in sides {
            // ecx = bytes from the page's end: more than none is too many
            asm.mov32(host::RCX, HOMES[usize::from(side)]);
            asm.group1(false, 1, Rm::Register(host::RCX), -4096);
            asm.op(false, &[0x03], host::RCX, Rm::Register(host::RAX));
            unfit.push(asm.jcc_forward(condition::G));
        }
        let from = (kind == Kind::Move).then(|| {
            let from = self.at(instruction, 6, size, SiteKind::Read);
            self.combine(TABLE, host::RAX);
            self.asm.store(Rm::Gs(layout::SCRATCH), host::RAX);
            from
        });
        let to = self.at(instruction, 7, size, SiteKind::WriteRun);
        self.combine(TABLE, host::RAX);
        // The host's instruction works on its own registers: the guest's wait in the core.
        let asm = &mut self.asm;
        sides.iter().for_each(|&side| asm.store(Rm::Gs(layout::gpr(side)), HOMES[usize::from(side)]));
        asm.mov(host::RDI, host::RAX);
        match kind {
            Kind::Move => asm.load(host::RSI, Rm::Gs(layout::SCRATCH)),
            _ => asm.load(host::RAX, place(0)),
        }
        asm.op(long, &[0x8B], host::RCX, place(1));
        let opcode = if kind == Kind::Move { 0xA4 } else { 0xAA };
        asm.raw(match size {
            1 => &[0xF3],
            2 => &[0x66, 0xF3],
            4 => &[0xF3],
            _ => &[0xF3, 0x48],
        });
        asm.raw(&[opcode | u8::from(size > 1)]);
        let count = match home(1) {
            Home::Host(register) => register,
            Home::Core(_) => {
                asm.load(host::RCX, place(1));
                host::RCX
            }
        };
        for &side in sides {
            let register = HOMES[usize::from(side)];
            asm.load(register, Rm::Gs(layout::gpr(side)));
            let end = Rm::BaseIndex { base: register, index: count, scale: shift, displacement: 0 };
            asm.op(long, &[0x8D], register, end);
        }
        asm.raw(&[0x31, 0xC0]);
        asm.store(place(1), host::RAX);
        self.asm.bind(nothing);
        [from, Some(to)]
    }

    /// An instruction of the accumulator and memory: `opcode` is its byte form, the next one the wider.
    fn sized(&mut self, opcode: u8, size: u16, register: u8, rm: Rm) {
        if size == 2 {
            self.asm.raw(&[0x66]);
        }
        self.asm.op(size == 8, &[opcode | u8::from(size > 1)], register, rm);
    }
}

fn kind(instruction: &Instruction) -> Option<Kind> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Movsb | Movsw | Movsd | Movsq => Kind::Move,
        Stosb | Stosw | Stosd | Stosq => Kind::Store,
        Lodsb | Lodsw | Lodsd | Lodsq => Kind::Load,
        Scasb | Scasw | Scasd | Scasq => Kind::Scan,
        Cmpsb | Cmpsw | Cmpsd | Cmpsq => Kind::Compare,
        _ => return None,
    })
}
