//! Modes of the Bochs VBE interface.

use super::*;

#[test]
fn pixels_of_every_depth() {
    let bytes = [0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE, 0xF0];
    let cases = [
        (8, vec![colour(0x12), colour(0x34), colour(0x56)]),
        // 0x3412: 01101 00000 10010. 0x7856: 11110 00010 10110.
        (15, vec![0x6B_0094, 0xF7_10B5]),
        // 0x3412: 00110 100000 10010. 0x7856: 01111 000010 10110.
        (16, vec![0x31_8294, 0x7B_08B5]),
        (24, vec![0x56_3412, 0xBC_9A78]),
        (32, vec![0x56_3412, 0xDE_BC9A]),
    ];
    for (depth, expected) in cases {
        let rig = Rig::new();
        rig.set(&MODE_13);
        rig.set_vbe(640, 480, depth);
        rig.memory.write_backing(RAM, &bytes).unwrap();
        let frame = rig.frame();
        assert_eq!((frame.width, frame.height), (640, 480));
        assert_eq!(frame.row(0, 0..expected.len() as u32), expected, "{depth}");
    }
}

#[test]
fn the_palette_has_six_or_eight_bits() {
    let rig = Rig::new();
    rig.set_vbe(640, 480, 8);
    rig.out(0x3C8, 0);
    [0x3F, 0x20, 0x01].iter().for_each(|component| rig.out(0x3C9, *component));
    assert_eq!(rig.frame().at(5, 5), 0xFF_8204);
    rig.dispi(4, 0x61);
    rig.out(0x3C8, 0);
    [0xFF, 0x20, 0x01].iter().for_each(|component| rig.out(0x3C9, *component));
    let mut frame = rig.frame();
    assert_eq!(frame.at(5, 5), 0xFF_2001);
    // A change of the palette alone is seen.
    rig.out(0x3C8, 0);
    [0x00, 0x20, 0x02].iter().for_each(|component| rig.out(0x3C9, *component));
    assert_eq!(rig.update(&mut frame), [Rect { x: 0, y: 0, width: 640, height: 480 }]);
    assert_eq!(frame.at(639, 479), 0x00_2002);
}

#[test]
fn the_window_shows_bank_after_bank() {
    let rig = Rig::new();
    rig.set_vbe(1024, 768, 8);
    rig.dispi(5, 11);
    rig.poke(0xA_FFFF, &[0x77]);
    assert_eq!((rig.peek(0xA_FFFF), rig.peek(0xB_0000)), (0x77, 0xFF));
    rig.set(&MODE_13);
    rig.dispi(4, 0x81);
    assert_eq!(rig.frame().at(1023, 767), colour(0x77));
    rig.buses.pio_write(0x1CE, 2, 5);
    assert_eq!(rig.buses.pio_read(0x1CF, 2), 11);
    // The data port where a word is aligned, and all at once.
    assert_eq!(rig.buses.pio_read(0x1D0, 2), 11);
    rig.buses.pio_write(0x1CE, 4, 12 << 16 | 5);
    assert_eq!(rig.buses.pio_read(0x1CE, 4), 12 << 16 | 5);
    // Off: the VGA's own mode is back.
    rig.dispi(4, 0);
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
}

#[test]
fn a_mode_that_begins_clears_what_it_shows() {
    let rig = Rig::new();
    rig.memory.write_backing(RAM, &vec![0xAA; VRAM_SIZE as usize]).unwrap();
    rig.set_vbe(800, 600, 16);
    assert!(rig.frame().pixels.iter().all(|pixel| *pixel == 0));
    let shown = 800 * 600 * 2 / 4;
    assert_eq!((rig.planes(shown - 1), rig.planes(shown)), ([0; 4], [0xAA; 4]));
}

#[test]
fn the_picture_moves_within_a_larger_one() {
    let rig = Rig::new();
    rig.set_vbe(640, 480, 32);
    for (index, value) in [(6, 1000), (8, 100), (9, 200)] {
        rig.dispi(index, value);
    }
    let at = |x: u64, y: u64| RAM + 4 * (y * 1000 + x);
    rig.memory.write_backing(at(100, 200), &[1, 0, 0]).unwrap();
    rig.memory.write_backing(at(739, 679), &[2, 0, 0]).unwrap();
    rig.memory.write_backing(at(740, 200), &[3, 0, 0]).unwrap();
    let mut frame = rig.frame();
    assert_eq!((frame.at(0, 0), frame.at(639, 479), frame.at(0, 1)), (1, 2, 0));
    rig.dispi(9, 199);
    let changes = rig.update(&mut frame);
    assert_eq!(frame.at(0, 1), 1);
    assert_eq!((changes.len(), changes[0].y, changes[0].height), (2, 0, 2));
}

#[test]
fn only_what_changed_is_told() {
    let rig = Rig::new();
    for depth in [8u16, 16, 24, 32] {
        rig.set_vbe(101, 50, depth);
        let bytes = u64::from(depth / 8);
        let mut frame = rig.frame();
        assert_eq!(rig.update(&mut frame), []);
        let poke = |x: u64, y: u64| rig.memory.write_backing(RAM + (y * 101 + x) * bytes, &[0xFF]).unwrap();
        poke(100, 7);
        poke(50, 20);
        poke(60, 21);
        let changes = rig.update(&mut frame);
        assert_eq!(changes.len(), 2, "{depth}: {changes:?}");
        let (last, band) = (changes[0], changes[1]);
        assert_eq!((last.y, last.height, last.x + last.width, band.y, band.height), (7, 1, 101, 20, 2), "{depth}");
        assert!(last.width <= 8 && band.x <= 50 && band.x + band.width >= 61 && band.width <= 26, "{depth}: {band:?}");
        // Nothing was left out: a new picture is the same.
        assert!(rig.frame().pixels == frame.pixels);
    }
}

#[test]
fn planar_modes_beyond_the_vga() {
    let rig = Rig::new();
    rig.set(&MODE_12);
    rig.set_vbe(1024, 768, 4);
    rig.indexed(0x3C4, 2, 0x0F);
    // The second bank begins at line 512.
    rig.dispi(5, 1);
    rig.indexed(0x3C4, 2, 0x05);
    rig.poke(0xA_0000, &[0x80]);
    rig.poke(0xA_0000 + 128 * 255 + 127, &[0x01]);
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (1024, 768));
    assert_eq!([(0, 512), (1, 512), (1023, 767)].map(|(x, y)| frame.at(x, y)), [5, 0, 5].map(colour));
    assert_eq!(rig.peek(0xA_0000), 0x80);
    rig.dispi(9, 1);
    rig.dispi(8, 3);
    rig.dispi(6, 1056);
    rig.poke(0xA_0000, &[0x00]);
    rig.dispi(5, 0);
    rig.poke(0xA_0000 + 132, &[0x10]);
    assert_eq!((rig.frame().at(0, 0), rig.frame().at(1, 0)), (colour(5), 0x04));
}

#[test]
fn a_dark_screen_is_black_here_as_well() {
    let rig = Rig::new();
    rig.set_vbe(640, 480, 32);
    rig.memory.write_backing(RAM, &[0xFF; 64]).unwrap();
    let mut frame = rig.frame();
    assert_eq!(frame.at(0, 0), 0xFF_FFFF);
    rig.out(0x3C2, 1);
    rig.input(0x3DA);
    rig.out(0x3C0, 0);
    assert_eq!(rig.update(&mut frame), [Rect { x: 0, y: 0, width: 640, height: 480 }]);
    assert_eq!(frame.at(0, 0), 0);
    rig.out(0x3C0, 0);
    rig.out(0x3C0, 0x20);
    rig.update(&mut frame);
    assert_eq!(frame.at(0, 0), 0xFF_FFFF);
}
