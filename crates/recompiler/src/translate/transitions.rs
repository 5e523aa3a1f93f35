//! System calls, returns from them, and what changes the view of memory: translated and interpreted from the same state,
//! programs must end alike.

use crate::state::{Bits, Core, cr4, efer, flag};
use crate::testing::{self, CODE, DATA, Random};
use crate::vcpu::RecompilerVcpu;
use std::sync::Arc;

/// Where SYSCALL leads.
const KERNEL: u64 = CODE + 0x800;

struct NoKick;

impl hv::Kick for NoKick {
    fn kick(&self) {}
    fn interrupt(&self) {}
}

/// A program at privilege level 3 and the kernel it calls, in a state that is chosen by `seed`: some of them fault.
fn machine(seed: u64) -> Box<Core> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut core = testing::core(Bits::B64, 3);
    for register in &mut core.gpr {
        *register = random.value();
    }
    core.gpr[3] = DATA;
    core.gpr[4] = DATA + 0x1000;
    core.efer |= if random.below(8) == 0 { 0 } else { efer::SCE };
    core.msr.star = random.next();
    core.msr.lstar = if random.below(16) == 0 { DATA + 0x8000_0000 } else { KERNEL };
    core.msr.fmask = match random.below(4) {
        0 => random.next() & 0xFFFF_FFFF & !flag::TF,
        _ => 0x25_7FD5,
    };
    core.msr.kernel_gs_base = DATA + 0x2000;
    if random.below(4) != 0 {
        core.cr4 |= cr4::SMAP;
    }
    if random.below(4) == 0 {
        core.cr4 |= cr4::TSD;
    }
    let changed = flag::ARITHMETIC | flag::DF | flag::AC | flag::NT | flag::ID | flag::IOPL;
    core.rflags = core.rflags & !changed | random.next() & changed;
    // User: a loop of system calls, then an instruction that ends the machine.
    let user: &[&[u8]] = &[
        &[0x0F, 0x05],             // syscall
        &[0x49, 0x01, 0xC0],       // add r8, rax
        &[0x49, 0x83, 0xC7, 0x01], // add r15, 1
        &[0x41, 0x83, 0xFF, 0x0A], // cmp r15d, 10
        &[0x75, 0xF1],             // jne to the start
        &[0xF4],                   // hlt
    ];
    core.gpr[15] = 0;
    core.memory.write(CODE, &user.concat()).expect("RAM");
    // The kernel: pieces in any order, and a way back.
    let pieces: &[&[u8]] = &[
        &[0x0F, 0x01, 0xCB],                         // stac
        &[0x0F, 0x01, 0xCA],                         // clac
        &[0x48, 0x8B, 0x03],                         // mov rax, [rbx]
        &[0x48, 0x89, 0x43, 0x08],                   // mov [rbx + 8], rax
        &[0x48, 0xFF, 0x43, 0x10],                   // inc qword [rbx + 16]
        &[0x0F, 0x01, 0xF8],                         // swapgs
        &[0xFB],                                     // sti
        &[0xFA],                                     // cli
        &[0xFC],                                     // cld
        &[0xFD],                                     // std
        &[0x9C, 0x5A],                               // pushfq; pop rdx
        &[0x48, 0x11, 0xC8],                         // adc rax, rcx
        &[0x0F, 0x01, 0xE8],                         // serialize
        &[0x41, 0x81, 0xF3, 0xFF, 0x08, 0x00, 0x00], // xor r11d, 0x8FF
        &[0xEB, 0x00],                               // jmp to the next instruction
        &[0x74, 0x03, 0x0F, 0x01, 0xCB],             // je over stac
    ];
    let mut kernel = Vec::new();
    if random.below(2) == 0 {
        kernel.extend(pieces[0]);
    }
    for _ in 0..random.below(10) {
        let piece = pieces[random.below(pieces.len() as u64) as usize];
        kernel.extend(piece);
    }
    if random.below(8) == 0 {
        kernel.extend([0x48, 0x0F, 0xBA, 0xF9, 0x3F]); // btc rcx, 63
    }
    if random.below(8) == 0 {
        kernel.extend([0x41, 0x81, 0xCB, 0x00, 0x01, 0x00, 0x00]); // or r11d, TF
    }
    kernel.extend([0x48, 0x0F, 0x07]); // sysretq
    core.memory.write(KERNEL, &kernel).expect("RAM");
    core
}

/// Runs a machine to its end; the blocks are translated when they were met `after` times.
fn run(seed: u64, after: u32) -> RecompilerVcpu {
    let mut vcpu = RecompilerVcpu::new(machine(seed), Arc::new(NoKick)).expect("a translator");
    vcpu.translate_after(after);
    for _ in 0..100 {
        match vcpu.execute() {
            crate::vcpu::Stop::Shutdown => break,
            crate::vcpu::Stop::Poll => vcpu.core.poll.store(crate::smp::QUIET, std::sync::atomic::Ordering::SeqCst),
        }
    }
    vcpu
}

#[test]
fn system_calls_end_as_interpreted() {
    let count = testing::environment("WIRT_LOCKSTEP_N", 1500);
    let first = testing::environment("WIRT_LOCKSTEP_SEED", 1);
    let mut returned = 0;
    for seed in first..first + count {
        let interpreted = run(seed, u32::MAX);
        let expected = &interpreted.core;
        returned += u64::from(expected.gpr[15] == 10);
        for after in [0, 2] {
            let translated = run(seed, after);
            let found = &translated.core;
            let memory = |core: &Core| {
                let mut bytes = vec![0; 0x3000];
                core.memory.read(DATA, &mut bytes).expect("RAM");
                bytes
            };
            assert_eq!(expected.gpr, found.gpr, "seed {seed}, translated after {after}");
            assert_eq!(expected.rip, found.rip, "seed {seed}, translated after {after}");
            assert_eq!(expected.segments, found.segments, "seed {seed}, translated after {after}");
            assert!(memory(expected) == memory(found), "seed {seed}, translated after {after}");
            assert_eq!(expected.msr.kernel_gs_base, found.msr.kernel_gs_base, "seed {seed}, translated after {after}");
            // What the faulting instruction would have overwritten may be stale.
            let kept = !flag::ARITHMETIC;
            assert_eq!(expected.rflags & kept, found.rflags & kept, "seed {seed}, translated after {after}");
        }
    }
    assert!(returned > count / 4, "only {returned} of {count} programs came back ten times");
}
