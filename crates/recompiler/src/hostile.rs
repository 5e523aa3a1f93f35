//! Guests that mean harm: random code, tables and registers in every mode must end in a fault, a halt or a kick, and leave
//! the process as it was.
//!
//! `WIRT_HOSTILE_N` sets the number of guests, `WIRT_HOSTILE_SEED` the first of them.

use crate::state::Bits;
use crate::testing::{self, CODE, DATA, RAM, Random, environment};
use crate::vcpu::RecompilerVcpu;
use hv::{Exit, Kick, Vcpu};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Opcodes that lead somewhere more often than random bytes do.
const LIVELY: [&[u8]; 24] = [
    &[0xEB, 0xFE],
    &[0xE9],
    &[0xE8],
    &[0xC3],
    &[0xFF],
    &[0x0F, 0x01],
    &[0x0F, 0x22],
    &[0x0F, 0x20],
    &[0x0F, 0x30],
    &[0x0F, 0x05],
    &[0x48, 0xCF],
    &[0xCF],
    &[0xF3, 0xA4],
    &[0xF3, 0xAB],
    &[0x0F, 0xAE],
    &[0x0F, 0xC7],
    &[0xCD],
    &[0xEA],
    &[0x9A],
    &[0x8E],
    &[0xFB],
    &[0x9D],
    &[0xF0, 0x0F, 0xB1],
    &[0xC8],
];

fn guest(seed: u64) -> RecompilerVcpu {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let bits = [Bits::B64, Bits::B64, Bits::B32, Bits::B16][random.below(4) as usize];
    let mut core = testing::core(bits, if random.below(4) == 0 { 3 } else { 0 });
    let mut code = Vec::new();
    while code.len() < 0x2000 {
        if random.below(3) == 0 {
            code.extend(LIVELY[random.below(LIVELY.len() as u64) as usize]);
        }
        code.extend(&random.next().to_le_bytes()[..1 + random.below(8) as usize]);
    }
    core.memory.write(CODE, &code).expect("RAM");
    // Descriptors, gates and task states of any kind.
    let tables: Vec<u8> = (0..0x1000).flat_map(|_| random.next().to_le_bytes()).collect();
    core.memory.write(DATA, &tables).expect("RAM");
    for register in &mut core.gpr {
        *register = match random.below(4) {
            0 => random.next(),
            1 => CODE + random.below(0x2000),
            2 => random.below(0x10000),
            _ => DATA + random.below(RAM - DATA - 0x100),
        };
    }
    core.gdtr = hv::DescriptorTable { base: DATA + random.below(0x1000), limit: random.below(0x1_0000) as u16 };
    core.idtr = hv::DescriptorTable { base: DATA + random.below(0x4000), limit: random.below(0x1_0000) as u16 };
    core.tr.base = DATA + random.below(0x4000);
    core.tr.limit = random.below(0x200) as u32;
    core.fpu.0[24..26].copy_from_slice(&[[0x80, 0x1F], [0, 0]][random.below(2) as usize]);
    let shared = core.shared.clone();
    let id = core.id;
    let mut vcpu = RecompilerVcpu::new(core, crate::vm::kicker(&shared, id)).expect("a translator");
    if random.below(2) == 0 {
        vcpu.translate_after(0);
    }
    vcpu
}

#[test]
fn hostile_guests_end_at_worst_themselves() {
    let count = environment("WIRT_HOSTILE_N", 150);
    let first = environment("WIRT_HOSTILE_SEED", 1);
    let shown = std::env::var_os("WIRT_HOSTILE_SHOW").is_some();
    let mut ends = [0u32; 4];
    for seed in first..first + count {
        if shown {
            eprintln!("guest {seed}");
        }
        let mut vcpu = guest(seed);
        let kick: Arc<dyn Kick> = vcpu.kicker();
        let done = Arc::new(AtomicBool::new(false));
        let watch = done.clone();
        let killer = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(1));
                if watch.load(Ordering::SeqCst) {
                    return;
                }
            }
            kick.kick();
        });
        let end = match vcpu.run().expect("a run") {
            Exit::Kicked => 0,
            Exit::Shutdown => 1,
            Exit::Halted => 2,
            Exit::InternalError(_) => 3,
        };
        ends[end] += 1;
        done.store(true, Ordering::SeqCst);
        killer.join().expect("the watchdog");
        // The state is still one that can be taken and loaded again.
        let state = vcpu.state().expect("a state");
        vcpu.set_state(&state).unwrap_or_else(|error| panic!("guest {seed}: {error}"));
    }
    eprintln!("of {count} hostile guests {} were kicked, {} shut down, {} halted", ends[0], ends[1], ends[2]);
    assert_eq!(ends[3], 0);
    assert!(ends[0] > 0 && ends[1] > 0, "the guests are too tame: {ends:?}");
}
