//! What writes and reads of the window at 0xA0000 do to the planes. VGA, "Graphics Controller Registers".

use super::*;

/// Mode 12h with known bytes at address 0x10, which are in the latches, and 0 at 0x11.
fn latched() -> Rig {
    let rig = Rig::new();
    rig.set(&MODE_12);
    for (plane, byte) in [0x0F, 0x33, 0x55, 0xF0].into_iter().enumerate() {
        rig.indexed(0x3C4, 2, 1 << plane);
        rig.poke(0xA_0010, &[byte]);
    }
    rig.indexed(0x3C4, 2, 0x0F);
    assert_eq!(rig.planes(0x10), [0x0F, 0x33, 0x55, 0xF0]);
    rig.peek(0xA_0010);
    rig
}

fn graphics(rig: &Rig, registers: &[(u8, u8)]) {
    registers.iter().for_each(|(index, value)| rig.indexed(0x3CE, *index, *value));
}

#[test]
fn write_mode_0_rotates_sets_combines_and_masks() {
    type Case = (&'static [(u8, u8)], u8, [u8; 4]);
    let cases: [Case; 7] = [
        (&[], 0xC1, [0xC1; 4]),
        (&[(3, 1)], 0xC1, [0xE0; 4]),
        // Set/reset in planes 0 and 1, the processor's data in the others.
        (&[(0, 0x05), (1, 0x03)], 0xC1, [0xFF, 0x00, 0xC1, 0xC1]),
        (&[(3, 0x08)], 0x3C, [0x0C, 0x30, 0x14, 0x30]),
        (&[(3, 0x10)], 0x3C, [0x3F, 0x3F, 0x7D, 0xFC]),
        (&[(3, 0x18)], 0x3C, [0x33, 0x0F, 0x69, 0xCC]),
        // Bits that are not in the mask are the latches'.
        (&[(8, 0xF0)], 0xA5, [0xAF, 0xA3, 0xA5, 0xA0]),
    ];
    for (registers, value, expected) in cases {
        let rig = latched();
        graphics(&rig, registers);
        rig.poke(0xA_0011, &[value]);
        assert_eq!(rig.planes(0x11), expected, "{registers:x?}");
    }
}

#[test]
fn write_modes_1_to_3() {
    let rig = latched();
    graphics(&rig, &[(5, 1), (8, 0x00)]);
    rig.poke(0xA_0011, &[0xFF]);
    assert_eq!(rig.planes(0x11), [0x0F, 0x33, 0x55, 0xF0], "the latches, whatever the mask says");
    graphics(&rig, &[(5, 2), (8, 0x0F)]);
    rig.poke(0xA_0011, &[0x06]);
    assert_eq!(rig.planes(0x11), [0x00, 0x3F, 0x5F, 0xF0], "a colour");
    graphics(&rig, &[(5, 3), (0, 0x09), (3, 0x04), (8, 0x3F)]);
    rig.poke(0xA_0011, &[0xF3]);
    assert_eq!(rig.planes(0x11), [0x3F, 0x00, 0x40, 0xFF], "rotated data and mask 0x3F, set/reset in all planes");
}

#[test]
fn only_planes_of_the_map_mask_are_written() {
    let rig = latched();
    rig.indexed(0x3C4, 2, 0x0A);
    rig.poke(0xA_0010, &[0x99]);
    assert_eq!(rig.planes(0x10), [0x0F, 0x99, 0x55, 0x99]);
    rig.indexed(0x3C4, 2, 0x00);
    rig.poke(0xA_0010, &[0xFF]);
    assert_eq!(rig.planes(0x10), [0x0F, 0x99, 0x55, 0x99]);
}

#[test]
fn reads_give_a_plane_or_compare_colours() {
    let rig = latched();
    let planes = [0, 1, 2, 3].map(|plane| {
        graphics(&rig, &[(4, plane)]);
        rig.peek(0xA_0010)
    });
    assert_eq!(planes, [0x0F, 0x33, 0x55, 0xF0]);
    // Dots are, from the left, of the colours 8 12 10 14 1 5 3 7.
    graphics(&rig, &[(5, 0x08), (2, 0x05), (7, 0x0F)]);
    assert_eq!(rig.peek(0xA_0010), 0b0000_0100);
    graphics(&rig, &[(7, 0x05)]);
    assert_eq!(rig.peek(0xA_0010), 0b0000_0101);
    graphics(&rig, &[(7, 0x00)]);
    assert_eq!(rig.peek(0xA_0010), 0xFF);
}

#[test]
fn chained_bytes_are_in_four_planes_in_turn() {
    let rig = Rig::new();
    rig.set(&MODE_13);
    rig.poke(0xA_0000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((rig.planes(0), rig.planes(4)), ([1, 2, 3, 4], [5, 6, 7, 8]));
    assert_eq!([0, 3, 6].map(|at| rig.peek(0xA_0000 + at)), [1, 4, 7]);
    // The last of the 64 KiB does not fall on the first.
    rig.poke(0xA_FFFC, &[9]);
    assert_eq!((rig.planes(0), rig.planes(0xFFFF)), ([1, 2, 3, 4], [9, 0, 0, 0]));
}

#[test]
fn odd_and_even_addresses_are_characters_and_attributes() {
    let rig = Rig::new();
    rig.set(&MODE_3);
    rig.poke(0xB_8000, b"A\x1FB\x2E");
    assert_eq!((rig.planes(0), rig.planes(1), rig.planes(2)), ([b'A', 0x1F, 0, 0], [0; 4], [b'B', 0x2E, 0, 0]));
    assert_eq!([0, 1, 2, 3].map(|at| rig.peek(0xB_8000 + at)), *b"A\x1FB\x2E");
}

#[test]
fn the_window_lies_where_the_memory_map_says() {
    let rig = Rig::new();
    rig.set(&MODE_12);
    let answers = |select: u8| {
        graphics(&rig, &[(6, select << 2 | 1)]);
        [0xA_0000, 0xA_FFFF, 0xB_0000, 0xB_7FFF, 0xB_8000, 0xB_FFFF].map(|at| {
            rig.poke(at, &[0x5A]);
            rig.peek(at) == 0x5A
        })
    };
    assert_eq!(answers(0), [true; 6]);
    assert_eq!(answers(1), [true, true, false, false, false, false]);
    assert_eq!(answers(2), [false, false, true, true, false, false]);
    assert_eq!(answers(3), [false, false, false, false, true, true]);
    rig.out(0x3C2, 0x61);
    assert_eq!(answers(0), [false; 6], "memory is disabled");
}
