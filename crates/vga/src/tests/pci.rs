use super::*;

const FRAME_BUFFER: u32 = 0xE000_0000;
const REGISTERS: u32 = 0xE100_0000;

fn placed(rig: &Rig) {
    rig.config(0x10, Some(FRAME_BUFFER));
    rig.config(0x18, Some(REGISTERS));
    rig.config(0x04, Some(0x0000_0003));
}

#[test]
fn guests_find_the_card_that_their_drivers_are_for() {
    let rig = Rig::new();
    assert_eq!(rig.config(0x00, None), 0x1111_1234);
    assert_eq!(rig.config(0x08, None), 0x0300_0002);
    assert_eq!(rig.config(0x2C, None), 0x1100_1AF4);
    let size = |register| rig.config(register, Some(u32::MAX));
    assert_eq!([0x10, 0x14, 0x18, 0x30].map(size), [0xFF00_0008, 0, 0xFFFF_F000, 0]);
}

#[test]
fn the_bios_answers_in_its_own_range() {
    let rig = Rig::with_rom([&[0x55, 0xAA, 77], &[1; 0x97FD][..]].concat());
    assert_eq!(rig.config(0x30, Some(0xFFFF_FFFE)), 0xFFFF_0000);
    rig.config(0x30, Some(0xE200_0001));
    rig.config(0x04, Some(2));
    assert_eq!([0, 1, 2, 0x97FF, 0x9800, 0xFFFF].map(|at| rig.peek(0xE200_0000 + at)), [0x55, 0xAA, 77, 1, 0xFF, 0xFF]);
    rig.poke(0xE200_0000, &[0]);
    assert_eq!(rig.peek(0xE200_0000), 0x55);
    let memory = rig.memory.clone();
    assert!(Vga::new(memory.clone(), RAM, VRAM_SIZE, vec![0; 0x4_0001]).is_err());
    assert!(Vga::new(memory.clone(), RAM + 0x1000, VRAM_SIZE, Vec::new()).is_err());
    assert!(Vga::new(memory, RAM, 3 << 20, Vec::new()).is_err());
}

#[test]
fn video_memory_is_mapped_as_ram_is_and_follows_its_register() {
    let rig = Rig::new();
    placed(&rig);
    rig.set_vbe(800, 600, 32);
    rig.memory.write(u64::from(FRAME_BUFFER) + 4 * 800 + 8, &[0x33, 0x22, 0x11, 0xFF]).unwrap();
    assert_eq!(rig.frame().at(2, 1), 0x11_2233);
    rig.config(0x10, Some(0xD000_0000));
    assert!(rig.memory.read(FRAME_BUFFER.into(), &mut [0]).is_err());
    rig.memory.write(0xD0FF_FFFF, &[9]).unwrap();
    rig.config(0x04, Some(0));
    assert!(rig.memory.read(0xD000_0000, &mut [0]).is_err());
    rig.config(0x04, Some(2));
    board::Device::reset(&*rig.pci);
    assert!(rig.memory.read(0xD000_0000, &mut [0]).is_err());
}

#[test]
fn where_video_memory_cannot_be_mapped_the_bus_answers() {
    // The range holds the interrupt controllers'.
    let rig = Rig::new();
    rig.config(0x10, Some(0xFE00_0000));
    rig.config(0x04, Some(2));
    assert!(rig.memory.read(0xFE00_0000, &mut [0]).is_err());
    rig.poke(0xFE00_1000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(rig.peek(0xFE00_1007), 8);
    assert_eq!(rig.planes(0x400), [1, 2, 3, 4]);
    // And back to where it can.
    rig.config(0x10, Some(FRAME_BUFFER));
    let mut data = [0];
    rig.memory.read(u64::from(FRAME_BUFFER) + 0x1001, &mut data).unwrap();
    assert_eq!(data, [2]);
}

#[test]
fn registers_are_reached_through_memory_as_well() {
    let rig = Rig::new();
    placed(&rig);
    let base = u64::from(REGISTERS);
    let word = |offset: u64| u16::from_le_bytes([rig.peek(base + offset), rig.peek(base + offset + 1)]);
    // As bochs-drm does: interface and memory size, the miscellaneous output register, a mode.
    assert_eq!((word(0x500), word(0x514)), (0xB0C5, 256));
    rig.poke(base + 0x402, &[0x01]);
    rig.peek(base + 0x41A);
    rig.poke(base + 0x400, &[0x20]);
    for (index, value) in [(4, 0u16), (3, 32), (1, 1280), (2, 800), (4, 0x41)] {
        rig.buses.mmio_write(base + 0x500 + 2 * index, &value.to_le_bytes());
    }
    rig.memory.write(u64::from(FRAME_BUFFER), &[0x33, 0x22, 0x11, 0x00]).unwrap();
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height, frame.at(0, 0)), (1280, 800, 0x11_2233));
    // The other byte order, at a register of the extension.
    assert_eq!(rig.peek(base + 0x600), 8);
    let order = |value: u32| rig.buses.mmio_write(base + 0x604, &value.to_le_bytes());
    order(0xBEBE_BEBE);
    assert_eq!((rig.frame().at(0, 0), rig.peek(base + 0x607)), (0x22_1100, 0xBE));
    order(0x1234_5678);
    order(0x1E1E_1E1E);
    assert_eq!((rig.frame().at(0, 0), rig.peek(base + 0x604)), (0x11_2233, 0x1E));
    // A word at a VGA port is index and data.
    rig.buses.mmio_write(base + 0x40E, &[0x08, 0x55]);
    assert_eq!(rig.peek(base + 0x40F), 0x55);
    assert_eq!([rig.peek(base + 0x420), rig.peek(base + 0xFFF)], [0, 0]);
}

#[test]
fn the_monitor_prefers_1280_by_800() {
    let rig = Rig::new();
    placed(&rig);
    let edid: Vec<u8> = (0..128).map(|at| rig.peek(u64::from(REGISTERS) + at)).collect();
    assert_eq!(edid[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
    assert_eq!(edid.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    let timing = &edid[54..72];
    let twelve_bits = |low: u8, high: u8| u32::from(high >> 4) << 8 | u32::from(low);
    assert_eq!((twelve_bits(timing[2], timing[4]), twelve_bits(timing[5], timing[7])), (1280, 800));
    assert_eq!(rig.peek(u64::from(REGISTERS) + 128), 0);
}

#[test]
fn a_snapshot_brings_the_screen_back() {
    let rig = Rig::new();
    rig.set(&MODE_12);
    rig.poke(0xA_0000, &[0xA5; 8]);
    rig.indexed(0x3CE, 8, 0x3C);
    rig.out(0x3C8, 7);
    rig.out(0x3C9, 1);
    let expected = rig.frame().pixels;
    let saved = board::Device::save(&*rig.pci);
    board::Device::reset(&*rig.pci);
    assert!(rig.frame().pixels.iter().all(|pixel| *pixel == 0));
    board::Device::load(&*rig.pci, &saved).unwrap();
    assert!(rig.frame().pixels == expected);
    assert_eq!((rig.input(0x3CE), rig.input(0x3CF), rig.input(0x3C8)), (8, 0x3C, 7));
    [2, 3].iter().for_each(|component| rig.out(0x3C9, *component));
    rig.out(0x3C7, 7);
    assert_eq!([(); 3].map(|()| rig.input(0x3C9)), [1, 2, 3]);
}
