//! Random programs of many blocks, under a kernel that mends their page faults and changes their page tables: translated
//! and interpreted from the same state they must end alike. What single blocks cannot show is here: what blocks share,
//! links and tables between them, code and mappings that change while they exist, faults in the middle and the way back.
//!
//! `WIRT_LOCKSTEP_N` sets the number of programs, `WIRT_LOCKSTEP_SEED` where the sequence starts. `WIRT_LOCKSTEP_SHOW` tells of
//! each program and its instructions before it runs translated: of the last one, where the process dies.

mod changes;
mod code;
mod kernel;
mod machine;
mod pieces;
mod ringer;

use super::lockstep;
use crate::blocks::{self, Decoded};
use crate::fault::vector;
use crate::interp::{self, Delivered};
use crate::smp::Request;
use crate::state::{Core, Roams, flag};
use crate::testing::{Random, environment};
use crate::vcpu::RecompilerVcpu;
use code::Program;
use hv::{Exit, Vcpu};
use iced_x86::{CpuidFeature, Instruction, Mnemonic, RflagsBits};
use machine::{LOG, ROOTS, STACKS, Setting};
use ringer::Ringer;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Instructions after which a program is given up.
const MOST: u64 = 8_000;

/// Time after which a run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processor and its program.
fn machine(seed: u64) -> Box<Core> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let setting = Setting::new(&mut random);
    let mut core = machine::core(&setting, &mut random);
    let program = Program::new(&mut random, &setting);
    core.memory.write(machine::CODE, &program.code[0]).expect("RAM");
    core.memory.write(machine::OTHER_CODE, &program.code[1]).expect("RAM");
    // Instructions that are known to roam.
    if random.below(3) == 0 {
        let places = (0..program.code[0].len() as u64).flat_map(|at| [at, at + (machine::ALIAS << 12)]);
        for at in places {
            if random.below(4) == 0 {
                let roams = if random.below(2) == 0 { Roams::Far } else { Roams::Alone };
                core.roaming.insert(setting.user + at, roams);
            }
        }
    }
    core.rip = program.start;
    core.gpr[4] = program.stack;
    core
}

/// How a program ended.
struct Outcome {
    gpr: [u64; 16],
    rip: u64,
    control: [u64; 4],
    rflags: u64,
    segments: [hv::Segment; 6],
    vectors: Vec<u8>,
    memory: Vec<u8>,
}

fn outcome(core: &Core) -> Outcome {
    let mut memory = vec![0; kernel::used(core) as usize];
    core.memory.read(0, &mut memory).expect("RAM");
    // Frames of exceptions hold flags that nobody reads.
    memory[STACKS[0] as usize - 0x1000..STACKS[2] as usize].fill(0);
    let mut vectors = core.fpu.0[..832].to_vec();
    // The pointers of x87, which are not kept, MXCSR_MASK, and which parts are in use.
    vectors[6..24].fill(0);
    vectors[28..32].fill(0);
    vectors[512..576].fill(0);
    let Core { gpr, rip, rflags, cr0, cr2, cr3, cr4, segments, .. } = *core;
    // RF is looked at by breakpoints alone, and only those clear it.
    let rflags = rflags & !flag::RF;
    Outcome { gpr, rip, control: [cr0, cr2, cr3, cr4], rflags, segments, vectors, memory }
}

/// One instruction after the other, decoded anew each time; the number of them. `None`: there is no end, or the program
/// looks at something that is not defined, as those do that a return leads astray.
fn stepped(seed: u64) -> Option<(Box<Core>, u64)> {
    let mut core = machine(seed);
    let shown = std::env::var_os("WIRT_LOCKSTEP_SHOW").is_some();
    if shown {
        eprintln!("program {seed}");
    }
    let mut undefined = 0;
    for count in 0..MOST {
        let mut decoded = blocks::fetch_one(&mut core);
        if let Ok(Decoded { instruction, .. }) = &decoded {
            if shown {
                eprintln!("{count} {:#x} {instruction}", core.rip);
            }
            undefined = defined(instruction, undefined)?;
        }
        core.interrupt_shadow = false;
        let stepped = decoded.as_mut().map_err(|fault| *fault);
        if let Err(fault) = stepped.and_then(|decoded| interp::step(&mut core, &decoded.instruction, decoded.handler)) {
            // Translated, a call to no canonical address faults behind its push: see ARCHITECTURE.md, "Hacks, admitted".
            let calls = matches!(&decoded, Ok(decoded) if decoded.instruction.is_call_near_indirect());
            if calls && fault.vector == vector::GP {
                return None;
            }
            if let Delivered::TripleFault = core.deliver_fault(fault) {
                return Some((core, count));
            }
        }
        if core.halted {
            return Some((core, count));
        }
        if blocks::debugged(&core) {
            return None;
        }
    }
    None
}

/// The undefined flags behind an instruction; `None` where what it does is not defined, or not the same twice.
fn defined(instruction: &Instruction, undefined: u32) -> Option<u32> {
    use Mnemonic::*;
    let pushes = matches!(instruction.mnemonic(), Int | Syscall) && undefined != 0;
    let varies = matches!(instruction.mnemonic(), Rdtsc | Rdtscp | Rdrand | Rdseed | Bsf | Bsr);
    // The pointers of x87 are not kept.
    let x87 = instruction.cpuid_features().contains(&CpuidFeature::FPU);
    if pushes || varies || x87 || lockstep::result_undefined(instruction) {
        return None;
    }
    let behind = lockstep::undefined_behind(undefined, instruction)?;
    // A shift by one defines OF, and logic clears AF everywhere.
    let by_one = instruction.op_count() == 2 && matches!(instruction.try_immediate(1), Ok(1));
    let overflow = if by_one { RflagsBits::OF } else { 0 };
    let adjust = if matches!(instruction.mnemonic(), And | Or | Xor | Test) { RflagsBits::AF } else { 0 };
    Some(behind & !overflow & !adjust)
}

/// A program run by a vCPU that translates what it met this often. `disturbed`: others want it to stop all the time, drop its
/// code, look at its pages afresh, and interrupt it, none of which the program may notice.
fn run_program(seed: u64, after: u32, disturbed: bool) -> RecompilerVcpu {
    let mut core = machine(seed);
    let (shared, id) = (core.shared.clone(), core.id);
    let kick = crate::vm::kicker(&shared, id);
    let ringer = Ringer::new(kick.clone());
    if disturbed {
        core.lapic = Some(ringer.clone());
    }
    let mut vcpu = RecompilerVcpu::new(core, kick.clone()).expect("a translator");
    vcpu.translate_after(after);
    let (done, wait) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let mut random = Random(seed | 1);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let pause = if disturbed { Duration::ZERO } else { PATIENCE };
            if wait.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            (0..random.below(1000)).for_each(|_| std::hint::spin_loop());
            let page = random.below(machine::POOL >> 12) + 16;
            match random.below(8) {
                0 => drop(shared.mailbox(id).post(Request::Everything)),
                1 => drop(shared.mailbox(id).post(Request::Protect { page })),
                2..=3 => drop(shared.mailbox(id).post(Request::Invalidate { offset: page << 12, size: 4096 })),
                4..=6 => ringer.ring(),
                _ => kick.kick(),
            }
        }
        kick.kick();
    });
    let start = Instant::now();
    // The kernel halts with interrupts off, at the end.
    while let (Exit::Kicked, false) = (vcpu.run().expect("a run"), vcpu.core.halted) {
        assert!(start.elapsed() < PATIENCE, "seed {seed} translated after {after} does not end");
    }
    drop(done);
    other.join().expect("the other thread");
    vcpu
}

/// What differs, in words.
fn differences(expected: &Outcome, found: &Outcome) -> Vec<String> {
    let mut list = Vec::new();
    let mut differs = |what: &str, a: u64, b: u64| {
        if a != b {
            list.push(format!("{what}: {a:#x}, translated {b:#x}"));
        }
    };
    differs("rip", expected.rip, found.rip);
    differs("rflags", expected.rflags, found.rflags);
    for (number, (&a, &b)) in expected.gpr.iter().zip(&found.gpr).enumerate() {
        differs(&format!("register {number}"), a, b);
    }
    for (name, (&a, &b)) in ["cr0", "cr2", "cr3", "cr4"].iter().zip(expected.control.iter().zip(&found.control)) {
        differs(name, a, b);
    }
    if let Some(at) = (0..expected.vectors.len()).find(|&at| expected.vectors[at] != found.vectors[at]) {
        differs(&format!("vector state at {at}"), expected.vectors[at].into(), found.vectors[at].into());
    }
    let mut shown = 0;
    differs("bytes of memory in use", expected.memory.len() as u64, found.memory.len() as u64);
    for at in (0..expected.memory.len().min(found.memory.len())).step_by(8) {
        let word = |outcome: &Outcome| u64::from_le_bytes(outcome.memory[at..at + 8].try_into().expect("eight bytes"));
        // Whoever fetches fifteen bytes sets the accessed bit of a page behind.
        let accessed =
            ROOTS.iter().any(|root| at as u64 & !0xFFF == root + machine::TABLE) && word(expected) & 0x20 != 0;
        let differ = word(expected) != word(found) | if accessed { 0x20 } else { 0 };
        if differ && shown < 6 {
            shown += 1;
            let entry =
                at.checked_sub(LOG as usize).map(|at| (at / kernel::ENTRY as usize, at % kernel::ENTRY as usize / 8));
            differs(&format!("memory at {at:#x}, in the log {entry:?}"), word(expected), word(found));
        }
    }
    for (name, (a, b)) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(expected.segments.iter().zip(&found.segments))
    {
        if a != b {
            list.push(format!("{name}: {a:x?}, translated {b:x?}"));
        }
    }
    list
}

/// Instructions that the interpreter ran, in the dispatcher and in the middle of translated code.
fn interpreted(vcpu: &RecompilerVcpu) -> u64 {
    let statistics = vcpu.statistics();
    let counted = |(name, _): &&(String, u64)| name == "interpreted" || name == "interpreted-in-place";
    statistics.iter().filter(counted).map(|(_, count)| count).sum()
}

#[test]
fn random_programs_end_as_interpreted() {
    let count = environment("WIRT_LOCKSTEP_N", 600);
    let first = environment("WIRT_LOCKSTEP_SEED", 1);
    let (mut run, mut ended, mut faulted, mut failures) = (0, 0, 0, 0);
    let (mut instructions, mut in_rust, mut faults, mut interrupts) = (0, 0, 0, 0);
    for seed in first..first + count {
        let Some((core, steps)) = stepped(seed) else { continue };
        let expected = outcome(&core);
        let page_faults = core.counters.faults[usize::from(vector::PF)];
        run += 1;
        ended += u64::from(end_of(&expected) == kernel::CALL);
        faulted += u64::from(page_faults > 0);
        faults += page_faults;
        instructions += steps;
        for after in [u32::MAX, 0, 1, 2] {
            let vcpu = run_program(seed, after, after == 2);
            if after == 0 {
                in_rust += interpreted(&vcpu);
            }
            interrupts += vcpu.core.counters.interrupts;
            let differences = differences(&expected, &outcome(&vcpu.core));
            if !differences.is_empty() {
                failures += 1;
                eprintln!("seed {seed}, translated after {after}, {steps} instructions:");
                differences.iter().for_each(|difference| eprintln!("    {difference}"));
            }
        }
        if failures > 12 {
            break;
        }
    }
    eprintln!(
        "{run} of {count} random programs compared, {ended} came to their end, {faulted} took page faults ({faults})"
    );
    eprintln!("{instructions} instructions, {in_rust} of them in Rust; {interrupts} interrupts");
    assert_eq!(failures, 0, "programs that end differently when translated");
    assert!(run > count / 2 && ended > run / 2 && faulted > run / 2, "the programs are too tame, or too wild");
    // How many come in time depends on what else the host does.
    assert!(interrupts > run / 10, "the programs are hardly interrupted");
    assert!(in_rust < instructions / 3, "{in_rust} of {instructions} instructions were not translated");
}

/// The vector of the last entry of the log: system call or exception.
fn end_of(outcome: &Outcome) -> u64 {
    let word = |at: usize| u64::from_le_bytes(outcome.memory[at..at + 8].try_into().expect("eight bytes"));
    match word(kernel::LOG_POINTER as usize) {
        LOG => 0,
        end => word((end - kernel::ENTRY) as usize + 15 * 8) & !1,
    }
}
