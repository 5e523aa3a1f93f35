//! Guests that mean harm: random code, tables and registers in every mode must end in a fault, a halt or a kick, and leave
//! the process as it was.
//!
//! `WIRT_HOSTILE_N` sets the number of guests, `WIRT_HOSTILE_SEED` the first of them.

use crate::state::{Bits, Core, cr0, cr4};
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

/// Page tables of any kind behind the first entries, which map the code: 64-bit ones, or 32-bit ones in either form.
fn map_wildly(core: &mut Core, bits: Bits, random: &mut Random) {
    let entry = |random: &mut Random| {
        let page = match random.below(4) {
            0 => random.next() & 0xF_FFFF_FFFF_F000,
            1 => [testing::PML4, testing::PDPT, testing::PAGE_DIRECTORY][random.below(3) as usize],
            _ => random.below(2 * RAM) & !0xFFF,
        };
        // Present more often than not; no execution seldom, and reserved bits.
        let rare = if random.below(16) == 0 { random.next() & 0xFFF0_0000_0000_0000 } else { 0 };
        page | random.next() & 0xFFE | u64::from(random.below(8) != 0) | rare
    };
    let put = |core: &Core, at: u64, random: &mut Random| {
        let value = entry(random);
        core.memory.write(at, &value.to_le_bytes()).expect("RAM");
    };
    if bits != Bits::B64 {
        const LARGE_USER_PAGE: u64 = 0xE7;
        core.memory.write(testing::PAGE_DIRECTORY, &LARGE_USER_PAGE.to_le_bytes()).expect("RAM");
        core.memory.write(testing::PDPT, &(testing::PAGE_DIRECTORY | 1).to_le_bytes()).expect("RAM");
        let extended = random.below(2) == 0;
        core.cr3 = if extended { testing::PDPT } else { testing::PAGE_DIRECTORY };
        core.cr4 |= if extended { cr4::PAE } else { cr4::PSE };
        core.pdpte = [testing::PAGE_DIRECTORY | 1; 4];
        core.cr0 |= cr0::PG;
    }
    for _ in 0..random.below(400) {
        let table = [testing::PML4, testing::PDPT, testing::PAGE_DIRECTORY][random.below(3) as usize];
        let first = if bits == Bits::B64 || table == testing::PAGE_DIRECTORY { 8 } else { 32 };
        put(core, table + first + 8 * random.below(500), random);
    }
    const SWITCHES: [u64; 5] = [cr4::SMEP, cr4::SMAP, cr4::PGE, cr4::UMIP, cr4::TSD];
    core.cr4 |= SWITCHES.into_iter().filter(|_| random.below(4) == 0).fold(0, |all, one| all | one);
    core.cr0 |= if random.below(2) == 0 { cr0::WP } else { 0 };
}

fn guest(seed: u64) -> RecompilerVcpu {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let bits = [Bits::B64, Bits::B64, Bits::B32, Bits::B16][random.below(4) as usize];
    let mut core = testing::core(bits, if random.below(4) == 0 { 3 } else { 0 });
    if random.below(2) == 0 {
        map_wildly(&mut core, bits, &mut random);
    }
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
            3 if random.below(2) == 0 => random.below(1 << 32) & !0xFFF | random.next() & 0xFFF,
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
