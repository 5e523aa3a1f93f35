//! The hand-made code around translated blocks: getting in, getting out, and calling Rust from within.
//!
//! Translated code runs with RSP being the guest's; [`store_registers`] goes back to the host's stack. The frame there (16-byte
//! aligned):
//! ```text
//! [rsp +   0 .. 512]  XMM0..15, or YMM0..15, while Rust is called with x87 state left where it is
//! [rsp + 512]         the host's MXCSR
//! [rsp + 516]         nonzero: the upper halves of the YMM registers are in use
//! [rsp + 520]         the site being worked on
//! ```

use super::Leader;
use super::asm::{Asm, condition, host};
use super::attend::attend_at_link;
use super::callbacks::resolve_memory;
use super::encode::Rm;
use super::in_place::{interpret_light, interpret_site, interpret_steady};
use super::jumps::find_target;
use super::lower::{HOMES, Home, home};
use crate::state::layout;
use crate::tlb;
use std::mem::offset_of;

const FRAME: i32 = 536;
const MXCSR: i32 = 512;
const UPPER: i32 = 516;
const SITE: i32 = 520;

/// What `memory` gets from Rust instead of an address when translated code is to be left: RIP is right.
pub const LEAVE: u64 = 1;

/// Reasons for leaving translated code, as in [`crate::state::Core::exit`].
pub mod exit {
    /// RIP is right; look at everything.
    pub const DISPATCH: u32 = 0;
    /// A link leads to a block that was not linked yet.
    pub const LINK: u32 = 1;
    /// The poll word was set at a link.
    pub const POLL: u32 = 2;
    /// An indirect jump: RIP is the target.
    pub const INDIRECT: u32 = 3;
}

/// Addresses of the stubs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stubs {
    /// `extern "C" fn(core, host address)`: runs translated code until it leaves.
    pub enter: u64,
    /// RAX = linear address, ECX = site: a lookup missed.
    pub memory: u64,
    /// RAX = linear address, ECX = leader: the check against its memo failed.
    pub memo: u64,
    /// ECX = site: interpret its instruction.
    pub interpret: u64,
    /// The same for an instruction that does not use vector or x87 state.
    pub interpret_light: u64,
    /// The same for one that is steady, too.
    pub interpret_steady: u64,
    /// ECX = link.
    pub link: u64,
    /// ECX = link.
    pub poll: u64,
    /// The same where an interrupt may be delivered with vector state left in the registers.
    pub attend: u64,
    /// RAX = guest address, ECX = site of the branch (or `u32::MAX`).
    pub indirect: u64,
}

/// For the SSE instructions of the host's code.
const VZEROUPPER: [u8; 3] = [0xC5, 0xF8, 0x77];

fn stack(displacement: i32) -> Rm {
    Rm::Base { base: host::RSP, displacement }
}

/// Emits the stubs.
pub fn emit(asm: &mut Asm, vectors: Vectors) -> Stubs {
    let mask = if vectors.avx { 7 } else { 3 };
    let mut stubs = Stubs { enter: asm.here(), ..Stubs::default() };
    let saved = [host::RBX, host::RBP, host::R12, host::R13, host::R14, host::R15];
    for register in saved {
        push(asm, register);
    }
    asm.group1(true, 5, Rm::Register(host::RSP), FRAME);
    // stmxcsr [rsp + MXCSR]
    asm.op(false, &[0x0F, 0xAE], 3, stack(MXCSR));
    asm.store(Rm::Gs(layout::HOST_STACK), host::RSP);
    asm.store(Rm::Gs(layout::RESUME), host::RSI);
    restore_vectors(asm, mask);
    load_registers(asm);
    asm.op(false, &[0xFF], 4, Rm::Gs(layout::RESUME));

    // The exits: registers and vectors into the core, then back to the caller of `enter`.
    stubs.link = asm.here();
    asm.op(false, &[0x89], host::RCX, Rm::Gs(layout::EXIT_LINK));
    let leave_link = leave_with(asm, exit::LINK);
    stubs.poll = asm.here();
    asm.op(false, &[0x89], host::RCX, Rm::Gs(layout::EXIT_LINK));
    let leave_poll = leave_with(asm, exit::POLL);
    asm.bind(leave_link);
    asm.bind(leave_poll);
    store_registers(asm);
    save_vectors(asm, mask);
    let tail = asm.here();
    asm.group1(true, 0, Rm::Register(host::RSP), FRAME);
    for register in saved.into_iter().rev() {
        pop(asm, register);
    }
    asm.raw(&[0xC3]);

    // The jump table has no entry: ask for one, and leave when there is none.
    stubs.indirect = asm.here();
    asm.store(Rm::Gs(layout::RIP), host::RAX);
    store_registers(asm);
    asm.mov32(host::RSI, host::RCX);
    vectors.save(asm);
    call(asm, find_target as *const () as u64);
    vectors.restore(asm);
    asm.op(true, &[0x85], host::RAX, Rm::Register(host::RAX));
    let not_found = asm.jcc_forward(4);
    asm.store(Rm::Gs(layout::RESUME), host::RAX);
    load_registers(asm);
    asm.op(false, &[0xFF], 4, Rm::Gs(layout::RESUME));
    asm.bind(not_found);
    save_vectors(asm, mask);
    asm.op(false, &[0xC7], 0, Rm::Gs(layout::EXIT));
    asm.dword(exit::INDIRECT);
    asm.jmp(tail);

    // A lookup missed: ask Rust for the bytes' host address, with only the vector registers in the way.
    stubs.memory = asm.here();
    store_registers(asm);
    asm.op(false, &[0x89], host::RCX, stack(SITE));
    asm.mov(host::RSI, host::RAX);
    vectors.save(asm);
    asm.op(false, &[0x8B], host::RDX, stack(SITE));
    call(asm, resolve_memory as *const () as u64);
    vectors.restore(asm);
    // test rax, rax; jz unresolved
    asm.op(true, &[0x85], host::RAX, Rm::Register(host::RAX));
    let unresolved = asm.jcc_forward(4);
    // cmp rax, LEAVE
    asm.group1(true, 7, Rm::Register(host::RAX), LEAVE as i32);
    let left = asm.jcc_forward(4);
    asm.store(Rm::Gs(layout::RESUME), host::RAX);
    asm.store(Rm::Gs(layout::SCRATCH2), host::RDX);
    // Where the instruction was interpreted, it goes on behind it.
    load_flags(asm);
    load_registers(asm);
    asm.load(host::RAX, Rm::Gs(layout::SCRATCH2));
    // mov ecx, 0
    asm.raw(&[0xB9, 0, 0, 0, 0]);
    asm.op(false, &[0xFF], 4, Rm::Gs(layout::RESUME));

    stubs.memo = memo(asm, stubs.memory);

    // Some that leave the vector state in the registers: interpret one instruction, and deliver an interrupt.
    let mut lefts = vec![left];
    for (stub, function) in [
        (&mut stubs.interpret_light, interpret_light as *const ()),
        (&mut stubs.interpret_steady, interpret_steady as *const ()),
        (&mut stubs.attend, attend_at_link as *const ()),
    ] {
        *stub = asm.here();
        store_registers(asm);
        asm.mov32(host::RSI, host::RCX);
        vectors.save(asm);
        call(asm, function as u64);
        vectors.restore(asm);
        asm.op(true, &[0x85], host::RAX, Rm::Register(host::RAX));
        lefts.push(asm.jcc_forward(4));
        asm.store(Rm::Gs(layout::RESUME), host::RAX);
        load_flags(asm);
        load_registers(asm);
        asm.op(false, &[0xFF], 4, Rm::Gs(layout::RESUME));
    }
    lefts.into_iter().for_each(|left| asm.bind(left));
    save_vectors(asm, mask);
    asm.op(false, &[0xC7], 0, Rm::Gs(layout::EXIT));
    asm.dword(exit::DISPATCH);
    asm.jmp(tail);

    // Interpret one instruction, and come back behind it where that is still right.
    stubs.interpret = asm.here();
    store_registers(asm);
    asm.op(false, &[0x89], host::RCX, stack(SITE));
    asm.bind(unresolved);
    save_vectors(asm, mask);
    asm.op(false, &[0x8B], host::RSI, stack(SITE));
    call(asm, interpret_site as *const () as u64);
    asm.op(true, &[0x85], host::RAX, Rm::Register(host::RAX));
    let resumed = asm.jcc_forward(5);
    asm.op(false, &[0xC7], 0, Rm::Gs(layout::EXIT));
    asm.dword(exit::DISPATCH);
    asm.jmp(tail);
    asm.bind(resumed);
    asm.store(Rm::Gs(layout::RESUME), host::RAX);
    restore_vectors(asm, mask);
    load_flags(asm);
    load_registers(asm);
    asm.op(false, &[0xFF], 4, Rm::Gs(layout::RESUME));
    stubs
}

/// The check of a leader failed: fills its memo from the TLB and lets it check again, or goes to `memory`.
fn memo(asm: &mut Asm, memory: u64) -> u64 {
    let start = asm.here();
    let spilled = [(host::RDX, layout::SPILL), (host::RSI, layout::SPILL + 8)];
    let field = |offset: usize| Rm::Base { base: host::RDX, displacement: offset as i32 };
    let rsi = Rm::Register(host::RSI);
    for (register, place) in spilled {
        asm.store(Rm::Gs(place), register);
    }
    // rdx = the leader's record: imul edx, ecx, size; add rdx, gs:[..]
    asm.op(false, &[0x69], host::RDX, Rm::Register(host::RCX));
    asm.dword(size_of::<Leader>() as u32);
    asm.op(true, &[0x03], host::RDX, Rm::Gs(layout::LEADERS));
    // inc dword
    asm.op(false, &[0xFF], 0, field(offset_of!(Leader, misses)));
    asm.group1(false, 5, Rm::Gs(layout::MEMO_BUDGET), 1);
    let exhausted = asm.jcc_forward(condition::S);
    // test eax, mask
    asm.op(false, &[0x85], host::RAX, field(offset_of!(Leader, mask)));
    let unaligned = asm.jcc_forward(condition::NE);
    asm.mov32(host::RCX, host::RAX);
    asm.raw(&[0xC1, 0xE9, 0x07]);
    asm.group1(false, 4, Rm::Register(host::RCX), ((tlb::ENTRIES - 1) << 5) as i32);
    asm.op(false, &[0x03], host::RCX, field(offset_of!(Leader, tag)));
    // rsi = offset in the page
    asm.mov(host::RSI, host::RAX);
    asm.op(true, &[0x2B], host::RSI, Rm::GsIndexed { base: host::RCX, displacement: 0 });
    asm.op(true, &[0x3B], host::RSI, field(offset_of!(Leader, most)));
    let missed = asm.jcc_forward(condition::A);
    // rsi = minus the page; rcx = the addend of the entry, whose tag RCX points at
    asm.op(true, &[0x29], host::RAX, rsi);
    asm.group1(false, 4, Rm::Register(host::RCX), -(size_of::<tlb::Entry>() as i32));
    asm.load(host::RCX, Rm::GsIndexed { base: host::RCX, displacement: layout::TLB_ADDEND });
    asm.op(false, &[0x8B], host::RAX, field(offset_of!(Leader, memo)));
    asm.store(Rm::GsIndexed { base: host::RAX, displacement: layout::MEMO_MINUS }, host::RSI);
    asm.store(Rm::GsIndexed { base: host::RAX, displacement: layout::MEMO_ADDEND }, host::RCX);
    asm.op(false, &[0x8B], host::RAX, field(offset_of!(Leader, used)));
    // mov byte [used], 1
    asm.op(false, &[0xC6], 0, Rm::GsIndexed { base: host::RAX, displacement: 0 });
    asm.raw(&[1]);
    asm.op(false, &[0x8B], host::RAX, field(offset_of!(Leader, join)));
    asm.op(true, &[0x03], host::RAX, Rm::Gs(layout::CODE_BASE));
    for (register, place) in spilled {
        asm.load(register, Rm::Gs(place));
    }
    asm.op(false, &[0xFF], 4, Rm::Register(host::RAX));
    asm.bind(exhausted);
    asm.bind(unaligned);
    asm.bind(missed);
    asm.op(false, &[0x8B], host::RCX, field(offset_of!(Leader, site)));
    for (register, place) in spilled {
        asm.load(register, Rm::Gs(place));
    }
    asm.jmp(memory);
    start
}

/// The flags both in the core and in the host's. Destroys RAX.
fn load_flags(asm: &mut Asm) {
    // movzx eax, word gs:[FLAGS]; add al, 0x7F; sahf
    asm.raw(&[0x65, 0x0F, 0xB7, 0x04, 0x25]);
    asm.dword(layout::FLAGS);
    asm.raw(&[0x04, 0x7F, 0x9E]);
}

fn push(asm: &mut Asm, register: u8) {
    if register > 7 {
        asm.raw(&[0x41]);
    }
    asm.raw(&[0x50 | register & 7]);
}

fn pop(asm: &mut Asm, register: u8) {
    if register > 7 {
        asm.raw(&[0x41]);
    }
    asm.raw(&[0x58 | register & 7]);
}

fn leave_with(asm: &mut Asm, reason: u32) -> super::asm::Fixup {
    asm.op(false, &[0xC7], 0, Rm::Gs(layout::EXIT));
    asm.dword(reason);
    asm.jmp_forward()
}

/// Guest registers from the core into their host registers, RSP among them; changes no flags.
fn load_registers(asm: &mut Asm) {
    for number in 0..HOMES.len() as u8 {
        if let Home::Host(register) = home(number) {
            asm.load(register, Rm::Gs(layout::gpr(number)));
        }
    }
}

/// Guest registers into the core, and back to the host's stack; changes no flags.
fn store_registers(asm: &mut Asm) {
    for number in 0..HOMES.len() as u8 {
        if let Home::Host(register) = home(number) {
            asm.store(Rm::Gs(layout::gpr(number)), register);
        }
    }
    asm.load(host::RSP, Rm::Gs(layout::HOST_STACK));
}

/// `call` of a Rust function with the core as its first argument.
fn call(asm: &mut Asm, function: u64) {
    asm.load(host::RDI, Rm::Gs(layout::THIS));
    asm.mov_imm(host::RAX, function);
    asm.op(false, &[0xFF], 2, Rm::Register(host::RAX));
}

/// x87, SSE and AVX state into the core; the host's defaults instead. Destroys RAX, RCX, RDX, RSI.
fn save_vectors(asm: &mut Asm, mask: u8) {
    asm.mov_imm(host::RAX, u64::from(mask));
    asm.raw(&[0x31, 0xD2]);
    asm.load(host::RCX, Rm::Gs(layout::THIS));
    // The pointers to the last instruction and its operand are the host's, and nothing that a guest may see. Translated
    // code keeps the guest's pointer to the instruction where it belongs.
    asm.load(host::RSI, Rm::Gs(layout::X87_POINTER));
    // xsave64 [rcx + FPU]; fninit; ldmxcsr [rsp + MXCSR]
    asm.op(true, &[0x0F, 0xAE], 4, Rm::Base { base: host::RCX, displacement: layout::FPU as i32 });
    asm.store(Rm::Gs(layout::X87_POINTER), host::RSI);
    asm.op(true, &[0xC7], 0, Rm::Gs(layout::X87_POINTER + 8));
    asm.dword(0);
    asm.raw(&[0xDB, 0xE3]);
    asm.op(false, &[0x0F, 0xAE], 2, stack(MXCSR));
    if mask & 4 != 0 {
        asm.raw(&VZEROUPPER);
    }
}

/// x87, SSE and AVX state from the core. Destroys RAX, RCX, RDX.
fn restore_vectors(asm: &mut Asm, mask: u8) {
    asm.mov_imm(host::RAX, u64::from(mask));
    asm.raw(&[0x31, 0xD2]);
    asm.load(host::RCX, Rm::Gs(layout::THIS));
    // xrstor64 [rcx + FPU]
    asm.op(true, &[0x0F, 0xAE], 5, Rm::Base { base: host::RCX, displacement: layout::FPU as i32 });
}

/// How the vector registers are kept in the frame while Rust is called.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// There are YMM registers.
    avx: bool,
}

impl Vectors {
    /// What this host has.
    pub fn of_host() -> Self {
        Vectors { avx: is_x86_feature_detected!("avx") }
    }

    /// Into the frame. Destroys RAX and the flags, and of YMM registers all.
    fn save(self, asm: &mut Asm) {
        move_registers(asm, self.avx, true);
        if self.avx {
            // Are upper halves in use? Their OR tells in a fraction of the time of XGETBV.
            for half in [8, 4, 2, 1] {
                (0..half).for_each(|register| or_wide(asm, register, register + half));
            }
            // vextractf128 xmm0, ymm0, 1; xor eax, eax; vptest xmm0, xmm0; setnz al
            asm.raw(&[0xC4, 0xE3, 0x7D, 0x19, 0xC0, 1, 0x31, 0xC0, 0xC4, 0xE2, 0x79, 0x17, 0xC0, 0x0F, 0x95, 0xC0]);
            asm.op(false, &[0x89], host::RAX, stack(UPPER));
            asm.raw(&VZEROUPPER);
        }
    }

    /// Back from the frame. Where only lower halves are in use, nothing touches the upper ones: SSE is slower as long as
    /// the processor has to keep these. Destroys the flags.
    fn restore(self, asm: &mut Asm) {
        let mut lower = None;
        if self.avx {
            asm.group1(false, 7, stack(UPPER), 0);
            lower = Some(asm.jcc_forward(4));
        }
        move_registers(asm, self.avx, false);
        if let Some(lower) = lower {
            let done = asm.jmp_forward();
            asm.bind(lower);
            move_registers(asm, false, false);
            asm.bind(done);
        }
    }
}

/// `vorps ymm, other, ymm` for a register below 8.
fn or_wide(asm: &mut Asm, register: u8, other: u8) {
    asm.raw(&[0xC5, 0x84 | !other << 3 & 0x78, 0x56, 0xC0 | register << 3 | register]);
}

/// YMM0..15 (`wide`) or XMM0..15 to or from the frame.
fn move_registers(asm: &mut Asm, wide: bool, store: bool) {
    for register in 0..16u8 {
        let slot = stack(i32::from(register) * 32);
        if wide {
            // vmovdqu ymm: VEX.256.F3.0F 6F/7F
            let r = u8::from(register < 8) << 7;
            asm.raw(&[0xC5, r | 0x7E, if store { 0x7F } else { 0x6F }]);
        } else {
            // movups
            if register > 7 {
                asm.raw(&[0x44]);
            }
            asm.raw(&[0x0F, if store { 0x11 } else { 0x10 }]);
        }
        asm.modrm(register, slot);
    }
}
