//! How long an update of a picture takes, in milliseconds: `cargo run --release -p vga --example update_time`.

use board::pci::PciFunction;
use hv::{GuestMemory, Region};
use std::sync::Arc;
use std::time::Instant;
use vga::{Frame, Vga};

const MEMORY: u64 = 16 << 20;
const ROUNDS: u32 = 100;

fn main() {
    let region = Region { address: 0, size: 0x1000, offset: 0, readonly: false };
    let memory = Arc::new(GuestMemory::with_size(&[region], 0x1000 + MEMORY).expect("there is memory"));
    let card = Vga::new(memory.clone(), 0x1000, MEMORY, Vec::new()).expect("the memory is the card's");
    for (width, height, depth) in [(1024, 768, 32), (1024, 768, 16), (1024, 768, 8), (1024, 768, 4), (1920, 1200, 32)] {
        let registers =
            |index: u64, value: u16| _ = PciFunction::bar_write(&*card, 2, 0x500 + 2 * index, &value.to_le_bytes());
        [(4, 0), (3, depth), (1, width), (2, height), (4, 0x41)].iter().for_each(|(at, value)| registers(*at, *value));
        _ = PciFunction::bar_write(&*card, 2, 0x400, &[0x20]);
        let mut frame = Frame::new();
        card.update(&mut frame);
        let mut times = [0.0f64; 2];
        for round in 0..ROUNDS {
            let bytes = vec![round as u8 + 1; MEMORY as usize];
            memory.write_backing(0x1000, &bytes).expect("it is inside");
            for time in &mut times {
                let begin = Instant::now();
                card.update(&mut frame);
                *time += begin.elapsed().as_secs_f64() * 1000.0 / f64::from(ROUNDS);
            }
        }
        println!("{width}x{height}x{depth}: all changed {:.2}, nothing {:.2}", times[0], times[1]);
    }
}
