//! The kernel: exceptions are logged, page faults mended in the page tables, and system calls change them.

use super::machine::*;
use crate::state::{Core, flag};
use crate::testing::RAM;
use crate::translate::asm::{Asm, condition, host};
use crate::translate::encode::Rm;

/// The vector of system calls.
pub(super) const CALL: u64 = 0x80;
const VECTORS: u64 = CALL + 1;

/// System calls, by the number in the low bits of EAX.
pub(super) mod call {
    /// All data pages are written to no more before they are copied.
    pub const FORK: u32 = 0;
    /// The other page tables.
    pub const SWITCH: u32 = 1;
    /// Two data pages (DL, DH) change places.
    pub const SWAP: u32 = 2;
    /// The data page DL is read-only, absent, or the other privilege's.
    pub const PROTECT: u32 = 3;
    pub const UNMAP: u32 = 4;
    pub const LEVEL: u32 = 5;
    /// CR3 is written as it is.
    pub const FLUSH: u32 = 6;
    /// The code page DL must not be executed until it faults.
    pub const NO_EXECUTE: u32 = 7;
    /// The code page DL is of the other version.
    pub const VERSION: u32 = 8;
    /// R10D is stored to the physical address in RDX, which is code.
    pub const PATCH: u32 = 9;
    /// R10 is stored to linear address RDX, and added to what is behind it.
    pub const STORE: u32 = 10;
    /// CR4.PGE changes twice.
    pub const GLOBAL: u32 = 11;
    /// CR0.WP changes.
    pub const WRITE_PROTECT: u32 = 12;
    /// Nothing.
    pub const NOTHING: u32 = 13;
    /// All registers are logged, and that is the end.
    pub const EXIT: u32 = 15;
}

pub(super) const LOG_POINTER: u64 = VARIABLES;
const POOL_POINTER: u64 = VARIABLES + 8;
const SAVED_STACK: u64 = VARIABLES + 16;
const USER_BASE: u64 = VARIABLES + 24;

/// Bytes that are logged: fifteen registers, vector and error, RIP, CS, RFLAGS, RSP, SS; and CR2.
pub(super) const ENTRY: u64 = 23 * 8;
/// Of them, before RFLAGS.
pub(super) const ENTRY_FLAGS: u64 = 19 * 8;
/// Pushed between the general registers and RIP.
const ERROR: i32 = 16 * 8;

use host::{RAX, RBX, RCX, RDI, RDX, RSI, RSP};
const R8: u8 = 8;
const R9: u8 = 9;

fn at(base: u8, displacement: i32) -> Rm {
    Rm::Base { base, displacement }
}

fn reg(number: u8) -> Rm {
    Rm::Register(number)
}

/// A variable of the kernel.
fn variable(address: u64) -> Rm {
    // SIB without an index.
    Rm::Index { index: RSP, scale: 0, displacement: address as i32 }
}

/// The kernel's code.
pub(super) struct Kernel {
    pub code: Vec<u8>,
    /// Handlers by vector.
    pub vectors: Vec<u64>,
    /// Where SYSCALL leads.
    pub system_call: u64,
    /// The handler of interrupts, which nobody notices.
    pub interrupt: u64,
}

/// The variables as they are at first.
pub(super) fn variables(core: &Core, setting: &Setting) {
    core.memory.write(USER_BASE, &setting.user.to_le_bytes()).expect("RAM");
    core.memory.write(LOG_POINTER, &LOG.to_le_bytes()).expect("RAM");
    core.memory.write(POOL_POINTER, &POOL.to_le_bytes()).expect("RAM");
}

/// Bytes of RAM in use.
pub(super) fn used(core: &Core) -> u64 {
    let mut pointer = [0; 8];
    core.memory.read(POOL_POINTER, &mut pointer).expect("RAM");
    u64::from_le_bytes(pointer).clamp(POOL, RAM)
}

impl Kernel {
    pub(super) fn new(base: u64, setting: &Setting) -> Kernel {
        let mut asm = Asm::new(base);
        let end = asm.here();
        asm.raw(&[0xF4]); // hlt
        let exception = exception(&mut asm, end, setting);
        let system_call = system_call(&mut asm, end);
        let mut vectors = Vec::new();
        for vector in 0..VECTORS {
            vectors.push(asm.here());
            if !matches!(vector, 8 | 10..=14 | 17 | 21) {
                asm.raw(&[0x6A, 0]);
            }
            asm.raw(&[0x68]);
            asm.dword(vector as u32);
            asm.jmp(if vector == CALL { system_call } else { exception });
        }
        let entry = asm.here();
        asm.store(variable(SAVED_STACK), RSP);
        asm.mov_imm(RSP, STACKS[0]);
        asm.raw(&[0x6A, DATA3 as u8]);
        asm.op(false, &[0xFF], 6, variable(SAVED_STACK));
        asm.raw(&[0x41, 0x53]); // push r11
        asm.raw(&[0x6A, CODE3 as u8]);
        asm.raw(&[0x51]); // push rcx
        asm.raw(&[0x6A, 0]);
        asm.raw(&[0x68]);
        asm.dword(CALL as u32 + 1);
        asm.jmp(system_call);
        let interrupt = asm.here();
        asm.raw(&[0x50, 0x58, 0x48, 0xCF]); // push rax; pop rax; iretq
        Kernel { code: asm.bytes, vectors, system_call: entry, interrupt }
    }
}

/// Jumps to a known address on a condition.
fn jcc(asm: &mut Asm, condition: u8, target: u64) {
    let fixup = asm.jcc_forward(condition);
    asm.bind_to(fixup, target);
}

/// Keeps the registers on the stack, and logs them with what the processor pushed. `masked`: the arithmetic flags may be
/// old ones.
fn enter(asm: &mut Asm, end: u64, masked: bool) {
    for number in (0..16u8).rev().filter(|&number| number != RSP) {
        asm.raw(if number >= 8 { &[0x41] } else { &[] });
        asm.raw(&[0x50 | number & 7]);
    }
    asm.raw(&[0xFC]); // cld
    asm.load(RDI, variable(LOG_POINTER));
    asm.group1(true, 7, reg(RDI), (LOG_END - ENTRY) as i32);
    jcc(asm, condition::A, end);
    asm.mov(RSI, RSP);
    asm.mov_imm(RCX, ENTRY / 8 - 1);
    asm.raw(&[0xF3, 0x48, 0xA5]); // rep movsq
    if masked {
        asm.group1(true, 4, at(RDI, ENTRY_FLAGS as i32 + 8 - ENTRY as i32), !(flag::ARITHMETIC as i32));
    }
    asm.raw(&[0x0F, 0x20, 0xD0]); // mov rax, cr2
    asm.store(at(RDI, 0), RAX);
    asm.group1(true, 0, reg(RDI), 8);
    asm.store(variable(LOG_POINTER), RDI);
}

/// Takes the registers back.
fn leave(asm: &mut Asm) {
    for number in (0..16u8).filter(|&number| number != RSP) {
        asm.raw(if number >= 8 { &[0x41] } else { &[] });
        asm.raw(&[0x58 | number & 7]);
    }
    asm.group1(true, 0, reg(RSP), 16);
}

fn invlpg(asm: &mut Asm) {
    asm.raw(&[0x0F, 0x01, 0x38]); // invlpg [rax]
}

/// The entry at RDX is RBX: where it is global, under the other root as well. Destroys RDX.
fn store_entry(asm: &mut Asm) {
    asm.store(at(RDX, 0), RBX);
    asm.op(false, &[0xF7], 0, reg(RBX));
    asm.dword(GLOBAL as u32);
    let local = asm.jcc_forward(condition::E);
    asm.group1(true, 6, reg(RDX), (ROOTS[0] ^ ROOTS[1]) as i32);
    asm.store(at(RDX, 0), RBX);
    asm.bind(local);
}

/// Exceptions: a page fault changes the entry of the page, so that the program can go on.
fn exception(asm: &mut Asm, end: u64, setting: &Setting) -> u64 {
    let start = asm.here();
    enter(asm, end, true);
    asm.group1(false, 7, at(RSP, ERROR - 8), 14);
    jcc(asm, condition::NE, end);
    // rdx = the entry, rbx = its value, ecx = the error
    asm.mov_imm(RBX, setting.user);
    asm.op(true, &[0x29], RBX, reg(RAX));
    asm.group1(true, 7, reg(RAX), 0x1F_FFFF);
    jcc(asm, condition::A, end);
    asm.raw(&[0xC1, 0xE8, 12]); // shr eax, 12
    asm.raw(&[0x0F, 0x20, 0xDA]); // mov rdx, cr3
    asm.lea(RDX, Rm::BaseIndex { base: RDX, index: RAX, scale: 3, displacement: TABLE as i32 });
    asm.load(RBX, at(RDX, 0));
    let test = |asm: &mut Asm, register: u8, bits: u64| {
        asm.op(false, &[0xF7], 0, reg(register));
        asm.dword(bits as u32);
    };
    test(asm, RBX, MENDED);
    jcc(asm, condition::E, end);
    asm.op(false, &[0x8B], RCX, at(RSP, ERROR));
    let mut done = Vec::new();
    // Not present.
    test(asm, RBX, PRESENT);
    let present = asm.jcc_forward(condition::NE);
    asm.group1(true, 1, reg(RBX), PRESENT as i32);
    done.push(asm.jmp_forward());
    asm.bind(present);
    // Written to, and not writable.
    test(asm, RCX, 2);
    let read = asm.jcc_forward(condition::E);
    test(asm, RBX, WRITABLE);
    let writable = asm.jcc_forward(condition::NE);
    test(asm, RBX, COPIED);
    let kept = asm.jcc_forward(condition::E);
    asm.load(RDI, variable(POOL_POINTER));
    asm.group1(true, 7, reg(RDI), RAM as i32 - 1);
    jcc(asm, condition::A, end);
    asm.mov(R8, RDI);
    asm.lea(RAX, at(RDI, 0x1000));
    asm.store(variable(POOL_POINTER), RAX);
    asm.mov_imm(RSI, 0x1F_F000);
    asm.op(true, &[0x21], RBX, reg(RSI));
    asm.op(true, &[0x31], RSI, reg(RBX));
    asm.op(true, &[0x09], R8, reg(RBX));
    asm.group1(true, 4, reg(RBX), !(COPIED as i32));
    asm.mov_imm(RCX, 512);
    asm.raw(&[0xF3, 0x48, 0xA5]); // rep movsq
    asm.bind(kept);
    asm.group1(true, 1, reg(RBX), WRITABLE as i32);
    done.push(asm.jmp_forward());
    asm.bind(read);
    asm.bind(writable);
    // Executed.
    test(asm, RCX, 16);
    let fetched = asm.jcc_forward(condition::E);
    asm.raw(&[0x48, 0x0F, 0xBA, 0xF3, 63]); // btr rbx, 63
    done.push(asm.jcc_forward(2));
    asm.bind(fetched);
    // The other privilege's.
    test(asm, RCX, 4);
    let supervisor = asm.jcc_forward(condition::E);
    test(asm, RBX, USER);
    jcc(asm, condition::NE, end);
    let user = asm.jmp_forward();
    asm.bind(supervisor);
    test(asm, RBX, USER);
    jcc(asm, condition::E, end);
    asm.bind(user);
    asm.group1(true, 6, reg(RBX), USER as i32);
    done.into_iter().for_each(|fixup| asm.bind(fixup));
    store_entry(asm);
    asm.raw(&[0x0F, 0x20, 0xD0]); // mov rax, cr2
    invlpg(asm);
    leave(asm);
    asm.raw(&[0x48, 0xCF]); // iretq
    start
}

/// RAX = the linear address of page EAX, whose entry is at R9 + 8 RAX, drops its translation. The stack may be on that page
/// and is not looked at: until it is dropped, nobody knows which translation counts.
fn drop_page(asm: &mut Asm) {
    asm.raw(&[0x48, 0xC1, 0xE0, 12]); // shl rax, 12
    asm.op(true, &[0x03], RAX, reg(host::R12));
    invlpg(asm);
}

/// EAX = a data page's number, from a byte of EDX.
fn data_page(asm: &mut Asm, high: bool) {
    asm.raw(&[0x0F, 0xB6, if high { 0xC6 } else { 0xC2 }]); // movzx eax, dl or dh
    asm.group1(false, 4, reg(RAX), DATA_PAGES as i32 - 1);
    asm.group1(false, 0, reg(RAX), FIRST_DATA as i32);
}

/// EAX = a code page's number: of the program or of its alias.
fn code_page(asm: &mut Asm) {
    asm.mov32(RAX, RDX);
    asm.group1(false, 4, reg(RAX), (ALIAS | (CODE_PAGES - 1)) as i32);
}

fn system_call(asm: &mut Asm, end: u64) -> u64 {
    let entry_of = |index: u8| Rm::BaseIndex { base: R9, index, scale: 3, displacement: 0 };
    let mut bodies = [end; 16];
    let mut finished = Vec::new();
    let mut body = |asm: &mut Asm, number: u32, emit: &mut dyn FnMut(&mut Asm)| {
        bodies[number as usize] = asm.here();
        emit(asm);
        finished.push(asm.jmp_forward());
    };
    let reload = |asm: &mut Asm| asm.raw(&[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8]); // mov rax, cr3; mov cr3, rax
    body(asm, call::FORK, &mut |asm| {
        asm.lea(RDI, at(R9, FIRST_DATA as i32 * 8));
        asm.mov_imm(RCX, DATA_PAGES);
        let again = asm.here();
        asm.load(RAX, at(RDI, 0));
        asm.op(false, &[0xF6], 0, reg(RAX));
        asm.raw(&[WRITABLE as u8]);
        let skip = asm.jcc_forward(condition::E);
        asm.group1(true, 4, reg(RAX), !(WRITABLE as i32));
        asm.group1(true, 1, reg(RAX), COPIED as i32);
        asm.store(at(RDI, 0), RAX);
        asm.bind(skip);
        asm.group1(true, 0, reg(RDI), 8);
        asm.op(false, &[0xFF], 1, reg(RCX));
        jcc(asm, condition::NE, again);
        reload(asm);
    });
    body(asm, call::SWITCH, &mut |asm| {
        asm.raw(&[0x0F, 0x20, 0xD8]);
        asm.group1(true, 6, reg(RAX), (ROOTS[0] ^ ROOTS[1]) as i32);
        asm.raw(&[0x0F, 0x22, 0xD8]);
    });
    body(asm, call::SWAP, &mut |asm| {
        data_page(asm, true);
        asm.mov32(RBX, RAX);
        data_page(asm, false);
        asm.load(RSI, entry_of(RAX));
        asm.load(RDI, entry_of(RBX));
        asm.store(entry_of(RAX), RDI);
        asm.store(entry_of(RBX), RSI);
        drop_page(asm);
        asm.mov32(RAX, RBX);
        drop_page(asm);
    });
    let changes = [(call::PROTECT, 4, !(WRITABLE as i32)), (call::UNMAP, 4, !(PRESENT as i32)), (call::LEVEL, 6, 4)];
    for (number, extension, value) in changes {
        body(asm, number, &mut |asm| {
            data_page(asm, false);
            asm.group1(true, extension, entry_of(RAX), value);
            drop_page(asm);
        });
    }
    body(asm, call::FLUSH, &mut |asm| reload(asm));
    body(asm, call::NO_EXECUTE, &mut |asm| {
        code_page(asm);
        asm.lea(RDX, entry_of(RAX));
        asm.load(RBX, at(RDX, 0));
        asm.raw(&[0x48, 0x0F, 0xBA, 0xEB, 63]); // bts rbx, 63
        store_entry(asm);
        drop_page(asm);
    });
    body(asm, call::VERSION, &mut |asm| {
        code_page(asm);
        asm.lea(RDX, entry_of(RAX));
        asm.load(RBX, at(RDX, 0));
        asm.mov32(RSI, RBX);
        asm.group1(false, 4, reg(RSI), 0x1E_0000);
        asm.group1(false, 7, reg(RSI), (CODE & OTHER_CODE) as i32);
        let copied = asm.jcc_forward(condition::NE);
        asm.group1(true, 6, reg(RBX), (CODE ^ OTHER_CODE) as i32);
        store_entry(asm);
        drop_page(asm);
        asm.bind(copied);
    });
    body(asm, call::PATCH, &mut |asm| asm.op(false, &[0x89], 10, at(RDX, 0)));
    body(asm, call::STORE, &mut |asm| {
        asm.store(at(RDX, 0), 10);
        asm.op(true, &[0x01], 10, at(RDX, 8));
    });
    body(asm, call::GLOBAL, &mut |asm| {
        for _ in 0..2 {
            asm.raw(&[0x0F, 0x20, 0xE0]); // mov rax, cr4
            asm.group1(true, 6, reg(RAX), 0x80);
            asm.raw(&[0x0F, 0x22, 0xE0]);
        }
    });
    body(asm, call::WRITE_PROTECT, &mut |asm| {
        asm.raw(&[0x0F, 0x20, 0xC0]); // mov rax, cr0
        asm.group1(true, 6, reg(RAX), 1 << 16);
        asm.raw(&[0x0F, 0x22, 0xC0]);
    });
    body(asm, call::NOTHING, &mut |_| {});
    let finish = asm.here();
    finished.into_iter().for_each(|fixup| asm.bind_to(fixup, finish));
    asm.group1(false, 7, at(RSP, ERROR - 8), CALL as i32);
    let fast = asm.jcc_forward(condition::NE);
    leave(asm);
    asm.raw(&[0x48, 0xCF]); // iretq
    asm.bind(fast);
    leave(asm);
    asm.load(RSP, at(RSP, 24));
    asm.raw(&[0x48, 0x0F, 0x07]); // sysretq

    let start = asm.here();
    enter(asm, end, false);
    asm.load(RAX, at(RSP, 0));
    asm.group1(false, 4, reg(RAX), 15);
    asm.raw(&[0x0F, 0x20, 0xDE]); // mov rsi, cr3
    asm.lea(R9, at(RSI, TABLE as i32));
    asm.load(host::R12, variable(USER_BASE));
    for (number, target) in (0..).zip(bodies) {
        asm.group1(false, 7, reg(RAX), number);
        jcc(asm, condition::E, target);
    }
    start
}
