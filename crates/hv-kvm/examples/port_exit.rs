//! What an exit costs: `cargo run -p hv-kvm --example port_exit --release`.
//!
//! A real-mode guest writes a port in a loop; each write leaves the kernel, reaches the bus and goes back. The loop's
//! own two instructions are measured as well, as they count where KVM emulates.

use hv::{Bus, Exit, GuestMemory, Kick, Region, SegmentRegister, Vm};
use hv_kvm::KvmVm;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const CODE: u64 = 0x1000;
const ROUNDS: u16 = 1500;
const REPEATS: usize = 9;
/// mov cx, ROUNDS; out 0x80, al (or two NOPs); loop; out 0xf4, al; jmp to the start
const fn program(body: [u8; 2]) -> [u8; 11] {
    let [low, high] = ROUNDS.to_le_bytes();
    [0xB9, low, high, body[0], body[1], 0xE2, 0xFC, 0xE6, 0xF4, 0xEB, 0xF5]
}

#[derive(Default)]
struct Stop(OnceLock<Arc<dyn Kick>>);

impl Bus for Stop {
    fn pio_read(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }

    fn pio_write(&self, port: u16, _: u8, _: u32) {
        if let (0xF4, Some(kick)) = (port, self.0.get()) {
            kick.kick();
        }
    }

    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn mmio_write(&self, _: u64, _: &[u8]) {}
}

fn main() -> Result<(), hv::Error> {
    println!("{}", hv_kvm::probe());
    let with_exits = median(program([0xE6, 0x80]))?;
    let without = median(program([0x90, 0x90]))?;
    let exit = with_exits.saturating_sub(without).as_secs_f64() * 1e6 / f64::from(ROUNDS);
    let round = without.as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!(
        "port write: {exit:.2} us (median of {REPEATS} times {ROUNDS}; the loop without it: {round:.2} us a round)"
    );
    Ok(())
}

fn median(program: [u8; 11]) -> Result<Duration, hv::Error> {
    let memory = Arc::new(GuestMemory::new(&[Region { address: 0, size: 0x1_0000, offset: 0, readonly: false }])?);
    memory.write(CODE, &program)?;
    let bus = Arc::new(Stop::default());
    let vm = KvmVm::new(memory, bus.clone(), 1, hv::CpuModel::Host)?;
    let mut vcpu = vm.create_vcpu(0, None)?;
    let _ = bus.0.set(vcpu.kicker());
    let mut state = vcpu.state()?;
    let code = &mut state.segments[SegmentRegister::Cs as usize];
    (code.base, code.selector) = (0, 0);
    state.rip = CODE;
    vcpu.set_state(&state)?;
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let start = Instant::now();
        match vcpu.run()? {
            Exit::Kicked => times.push(start.elapsed()),
            exit => panic!("the guest ended with {exit:?}"),
        }
    }
    times.sort();
    Ok(times[REPEATS / 2])
}
