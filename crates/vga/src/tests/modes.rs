//! What the VGA's own modes show.

use super::*;

/// Pictures of characters.
const BOX: [u8; 16] = [0xFF, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0xFF];
const BAR: [u8; 16] = [0x0F; 16];
const NOTHING: [u8; 16] = [0; 16];

/// Text mode, cursor off, with pictures of `A` and of the code 0xC4, which lines are drawn with.
fn text() -> Rig {
    let rig = Rig::new();
    rig.set(&MODE_3);
    rig.load_font(0, b'A', &[BOX, BAR]);
    rig.load_font(0, 0xC4, &[BAR]);
    rig.indexed(0x3D4, 0x0A, 0x20);
    rig
}

fn entry(index: usize) -> u32 {
    colour(EGA_PALETTE[index].into())
}

#[test]
fn characters_show_in_their_colours_nine_dots_wide() {
    let rig = text();
    rig.poke(0xB_8000, b"A\x1E\xC4\x4F");
    rig.poke(0xB_8000 + 160 * 24 + 158, b"A\x02");
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (720, 400));
    let (yellow, blue, white, red) = (entry(14), entry(1), entry(15), entry(4));
    let middle = [&[yellow][..], &[blue; 6], &[yellow, blue]].concat();
    assert_eq!(frame.row(1, 0..9), middle);
    assert_eq!(frame.row(0, 0..9), [&[yellow; 8][..], &[blue]].concat());
    assert_eq!(frame.row(15, 0..9), frame.row(0, 0..9));
    // The line goes on into the ninth dot.
    assert_eq!(frame.row(7, 9..18), [[red; 4].as_slice(), &[white; 5]].concat());
    assert_eq!((frame.at(711, 384), frame.at(719, 384), frame.at(0, 16)), (entry(2), entry(0), entry(0)));
    rig.attribute(0x10, 0x08);
    assert_eq!(rig.frame().at(17, 7), red);
    // Eight dots.
    rig.indexed(0x3C4, 1, 0x01);
    let frame = rig.frame();
    assert_eq!((frame.width, frame.at(8, 7), frame.at(15, 7)), (640, red, white));
}

#[test]
fn forty_columns_are_as_wide_as_eighty() {
    let rig = text();
    rig.indexed(0x3D4, 0x11, 0x0E);
    rig.indexed(0x3D4, 1, 39);
    rig.indexed(0x3D4, 0x13, 0x14);
    rig.indexed(0x3C4, 1, 0x09);
    rig.poke(0xB_8000 + 80, b"A\x07");
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    assert_eq!(frame.row(17, 0..4), [entry(7), entry(7), entry(0), entry(0)]);
}

#[test]
fn attribute_bit_7_blinks_or_is_a_bright_background() {
    let rig = text();
    rig.poke(0xB_8000, b"A\xCF");
    let at = |milliseconds| {
        let mut frame = Frame::new();
        rig.card.update_at(&mut frame, Duration::from_millis(milliseconds));
        (frame.at(0, 0), frame.at(1, 1))
    };
    assert_eq!(at(0), (entry(15), entry(4)));
    assert_eq!(at(500), (entry(4), entry(4)));
    assert_eq!(at(1000), at(0));
    rig.attribute(0x10, 0x04);
    assert_eq!((at(0), at(500)), ((entry(15), entry(12)), (entry(15), entry(12))));
}

#[test]
fn the_cursor_has_a_place_a_shape_and_blinks() {
    let rig = text();
    rig.poke(0xB_8000 + 2 * 81, b" \x1E");
    for (index, value) in [(0x0A, 0x0D), (0x0B, 0x0E), (0x0E, 0x00), (0x0F, 81)] {
        rig.indexed(0x3D4, index, value);
    }
    let column = |frame: &Frame, x: u32| (16..32).map(|y| frame.at(x, y) == entry(14)).collect::<Vec<_>>();
    let shape: Vec<bool> = (0..16).map(|scan| (13..=14).contains(&scan)).collect();
    let mut frame = rig.frame();
    assert_eq!([9, 16, 17].map(|x| column(&frame, x) == shape), [true; 3]);
    assert!(!column(&frame, 8).contains(&true) && !column(&frame, 18).contains(&true));
    let changes = rig.card.update_at(&mut frame, Duration::from_millis(300));
    assert_eq!(changes, [Rect { x: 9, y: 29, width: 9, height: 2 }]);
    assert!(!column(&frame, 9).contains(&true));
    // One that ends before it begins, and one that is off.
    rig.indexed(0x3D4, 0x0B, 0x0C);
    assert!(!column(&rig.frame(), 9).contains(&true));
    rig.indexed(0x3D4, 0x0B, 0x0E);
    rig.indexed(0x3D4, 0x0A, 0x2D);
    assert!(!column(&rig.frame(), 9).contains(&true));
}

#[test]
fn attribute_bit_3_chooses_between_two_fonts() {
    let rig = text();
    rig.load_font(0x2000, b'A', &[BAR]);
    rig.poke(0xB_8000, b"A\x07A\x0F");
    assert_eq!((rig.frame().at(1, 1), rig.frame().at(9, 1)), (entry(0), entry(15)));
    // Map B, for attributes without bit 3, is the first; map A the fifth, 8 KiB on.
    rig.indexed(0x3C4, 3, 0x20);
    assert_eq!(rig.frame().row(1, 9..17), [[entry(0); 4], [entry(15); 4]].concat());
    rig.indexed(0x3C4, 3, 0x10);
    assert_eq!(rig.frame().row(1, 0..8), [[entry(0); 4], [entry(7); 4]].concat());
    // What Linux does then: the bit is no colour any more.
    rig.attribute(0x12, 0x07);
    assert_eq!(rig.frame().at(9, 1), entry(7));
}

#[test]
fn monochrome_attributes_underline() {
    let rig = text();
    rig.load_font(0, b' ', &[NOTHING]);
    rig.indexed(0x3D4, 0x14, 0x0D);
    rig.poke(0xB_8000, b" \x01 \x07");
    assert_eq!(rig.frame().row(13, 0..10), [&[entry(1); 9][..], &[entry(0)]].concat());
    assert_eq!(rig.frame().at(0, 12), entry(0));
}

#[test]
fn text_is_read_as_it_is_shown() {
    let rig = text();
    rig.poke(0xB_8000, b"H\x07i\x07 \x07!\x07 \x07\x00\x07");
    rig.poke(0xB_8000 + 160 * 24, b"\xC9\x07\xB0\x07\x01\x07");
    let text = rig.card.text().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1], lines[24]), (25, "Hi !", "", "╔░☺"));
    // Another start: the fourth row is the first.
    rig.indexed(0x3D4, 0x0D, 240);
    rig.poke(0xB_8000 + 480, b"4\x07");
    assert_eq!(rig.card.text().unwrap().lines().next(), Some("4"));
    // Dark screens are read, graphics are not.
    rig.indexed(0x3C4, 1, 0x20);
    assert!(rig.card.text().is_some() && rig.frame().pixels.iter().all(|pixel| *pixel == 0));
    rig.set(&MODE_12);
    assert_eq!(rig.card.text(), None);
    rig.set(&MODE_3);
    rig.set_vbe(640, 480, 8);
    assert_eq!(rig.card.text(), None);
}

#[test]
fn below_the_line_compare_memory_begins_again() {
    let rig = text();
    rig.poke(0xB_8000, b"A\x07");
    rig.poke(0xB_8000 + 160 * 10, b"B\x02");
    rig.indexed(0x3D4, 0x0C, ((80 * 10) >> 8) as u8);
    rig.indexed(0x3D4, 0x0D, ((80 * 10) & 0xFF) as u8);
    // Line 200 is the first of the lower screen.
    rig.indexed(0x3D4, 0x18, 199);
    rig.indexed(0x3D4, 0x07, 0x0F);
    rig.indexed(0x3D4, 0x09, 0x0F);
    let frame = rig.frame();
    assert_eq!((frame.at(4, 0), frame.at(0, 0), frame.at(0, 199), frame.at(0, 200)), (entry(2), 0x04, 0x04, entry(7)));
    assert_eq!((frame.at(0, 201), frame.at(1, 201)), (entry(7), entry(0)));
    assert_eq!(rig.card.text().unwrap().matches(['A', 'B']).collect::<String>(), "BAB");
    // The upper screen moves by two dots; with the mode control's bit 5 the lower one does not.
    rig.attribute(0x13, 1);
    let frame = rig.frame();
    assert_eq!((frame.at(2, 0), frame.at(1, 0), frame.at(0, 200)), (entry(2), 0x04, entry(7)));
    assert_eq!(frame.at(5, 201), entry(7));
    rig.attribute(0x10, 0x2C);
    assert_eq!((rig.frame().at(2, 0), rig.frame().at(7, 201)), (entry(2), entry(7)));
    // A preset row scan scrolls the upper screen by lines.
    rig.attribute(0x13, 8);
    rig.indexed(0x3D4, 0x08, 15);
    let frame = rig.frame();
    assert_eq!((frame.at(4, 0), frame.at(4, 1), frame.at(0, 200)), (entry(2), 0x04, entry(7)));
}

#[test]
fn sixteen_colours_come_from_four_planes() {
    let rig = Rig::new();
    rig.set(&MODE_12);
    for (plane, byte) in [0x0F, 0x33, 0x55, 0xF0].into_iter().enumerate() {
        rig.indexed(0x3C4, 2, 1 << plane);
        rig.poke(0xA_0000 + 80 * 479 + 79, &[byte]);
    }
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 480));
    let expected = [8, 12, 10, 14, 1, 5, 3, 7].map(colour);
    assert_eq!(frame.row(479, 632..640), expected);
    // Another palette for entries 8 and 12: bits 4 and 5, and 6 and 7, from the colour select register.
    rig.attribute(0x10, 0x81);
    rig.attribute(0x14, 0x0B);
    assert_eq!(rig.frame().row(479, 632..634), [0xB8, 0xBC].map(colour));
    rig.out(0x3C6, 0x0F);
    assert_eq!(rig.frame().row(479, 632..634), [8, 12].map(colour));
    // Panning by three dots brings in what lies behind the line.
    rig.attribute(0x13, 3);
    assert_eq!(rig.frame().row(479, 629..635), [8, 12, 10, 14, 1, 5].map(colour));
}

#[test]
fn mode_13_shows_bytes_twice_as_wide_and_high() {
    let rig = Rig::new();
    rig.set(&MODE_13);
    rig.poke(0xA_0000, &[200, 100]);
    rig.poke(0xA_0000 + 320 * 199 + 319, &[77]);
    let mut frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    for y in [0, 1] {
        assert_eq!(frame.row(y, 0..5), [200, 200, 100, 100, 0].map(colour));
    }
    assert_eq!(
        [(638, 398), (639, 399), (637, 399), (639, 397)].map(|(x, y)| frame.at(x, y)),
        [77, 77, 0, 0].map(colour)
    );
    rig.poke(0xA_0000 + 320 * 100 + 10, &[1, 2]);
    rig.poke(0xA_0000 + 320 * 150 + 310, &[3]);
    let changes = rig.update(&mut frame);
    let expected = [Rect { x: 20, y: 200, width: 4, height: 2 }, Rect { x: 620, y: 300, width: 2, height: 2 }];
    assert_eq!(changes, expected);
    assert_eq!(rig.update(&mut frame), []);
}

#[test]
fn unchained_planes_show_four_times_the_memory() {
    let rig = Rig::new();
    rig.set(&MODE_13);
    rig.indexed(0x3C4, 4, 0x06);
    rig.indexed(0x3D4, 0x14, 0x00);
    rig.indexed(0x3D4, 0x17, 0xE3);
    // The second page, whose last dot lies in plane 3.
    rig.indexed(0x3D4, 0x0C, 0x40);
    rig.indexed(0x3C4, 2, 0x08);
    rig.poke(0xA_4000 + 80 * 199 + 79, &[99]);
    rig.indexed(0x3C4, 2, 0x02);
    rig.poke(0xA_4000, &[98]);
    let frame = rig.frame();
    assert_eq!([(2, 0), (3, 1), (4, 0), (638, 399)].map(|(x, y)| frame.at(x, y)), [98, 98, 0, 99].map(colour));
}

#[test]
fn cga_modes_interleave_lines() {
    let rig = Rig::new();
    rig.set(&MODE_4);
    rig.poke(0xB_8000, &[0b00_01_10_11, 0b11_00_00_00]);
    rig.poke(0xB_A000, &[0b10_10_10_10]);
    rig.poke(0xB_8000 + 80, &[0b01_00_00_00]);
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    let pairs = [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 0].map(colour);
    assert_eq!((frame.row(0, 0..11), frame.row(1, 0..11)), (pairs.to_vec(), pairs.to_vec()));
    let odd = [2, 2, 2, 2, 2, 2, 2, 2, 0].map(colour);
    assert_eq!((frame.row(2, 0..9), frame.row(3, 0..9)), (odd.to_vec(), odd.to_vec()));
    assert_eq!(frame.row(4, 0..3), [1, 1, 0].map(colour));
    let rig = Rig::new();
    rig.set(&MODE_6);
    rig.poke(0xB_8000, &[0b1010_0000]);
    rig.poke(0xB_A000 + 79, &[0x01]);
    let frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    assert_eq!(frame.row(0, 0..4), [1, 0, 1, 0].map(colour));
    assert_eq!([(639, 1), (639, 2), (639, 3), (639, 4)].map(|(x, y)| frame.at(x, y)), [0, 1, 1, 0].map(colour));
}

#[test]
fn a_dark_screen_is_black_and_keeps_its_size() {
    let rig = Rig::new();
    let mut frame = rig.frame();
    assert_eq!((frame.width, frame.height), (640, 480));
    rig.set(&MODE_3);
    rig.load_font(0, b'A', &[BOX]);
    rig.poke(0xB_8000, b"A\x07");
    assert_eq!(rig.update(&mut frame), [Rect { x: 0, y: 0, width: 720, height: 400 }]);
    let lit = frame.pixels.clone();
    rig.input(0x3DA);
    rig.out(0x3C0, 0x00);
    assert_eq!(rig.update(&mut frame), [Rect { x: 0, y: 0, width: 720, height: 400 }]);
    assert!(frame.pixels.iter().all(|pixel| *pixel == 0));
    assert_eq!(rig.update(&mut frame), []);
    rig.input(0x3DA);
    rig.out(0x3C0, 0x20);
    rig.update(&mut frame);
    assert!(frame.pixels == lit);
    rig.indexed(0x3C4, 1, 0x20);
    rig.update(&mut frame);
    assert!(frame.pixels.iter().all(|pixel| *pixel == 0));
}

#[test]
fn every_viewer_has_a_picture_of_its_own() {
    let rig = Rig::new();
    rig.set(&MODE_13);
    let (mut first, mut second) = (rig.frame(), rig.frame());
    rig.poke(0xA_0000, &[1]);
    let changed = [Rect { x: 0, y: 0, width: 2, height: 2 }];
    assert_eq!(rig.update(&mut first), changed);
    rig.poke(0xA_0000, &[0]);
    assert_eq!((rig.update(&mut second), rig.update(&mut first)), (vec![], changed.to_vec()));
    // What a viewer does to its picture does no harm.
    first.pixels.truncate(7);
    first.width = 3;
    assert_eq!(rig.update(&mut first), [Rect { x: 0, y: 0, width: 640, height: 400 }]);
}

#[test]
fn registers_at_0x3b0_and_0x3d0_take_turns_and_timings_are_protected() {
    let rig = Rig::new();
    rig.set(&MODE_3);
    assert_eq!([0x3B4, 0x3B5, 0x3BA, 0x3D8].map(|port| rig.input(port)), [0xFF; 4]);
    rig.indexed(0x3D4, 0x11, 0x8E);
    rig.indexed(0x3D4, 0x01, 0x00);
    rig.indexed(0x3D4, 0x07, 0x00);
    rig.indexed(0x3D4, 0x0F, 0x12);
    let read = |index: u8| {
        rig.out(0x3D4, index);
        rig.input(0x3D5)
    };
    assert_eq!([0x01, 0x07, 0x0F].map(read), [0x4F, 0x0F, 0x12]);
    rig.out(0x3C2, 0x66);
    assert_eq!((rig.input(0x3D5), rig.input(0x3B5), rig.input(0x3CC)), (0xFF, 0x12, 0x66));
    // The attribute controller's index and data take turns; status reads begin anew.
    rig.input(0x3BA);
    rig.out(0x3C0, 0x33);
    rig.out(0x3C0, 0x0F);
    assert_eq!((rig.input(0x3C0), rig.input(0x3C1)), (0x33, 0x0F));
    rig.out(0x3C0, 0x05);
    rig.input(0x3BA);
    rig.out(0x3C0, 0x06);
    assert_eq!(rig.input(0x3C0), 0x06);
}

#[test]
fn the_dac_counts_components_and_colours() {
    let rig = Rig::new();
    rig.out(0x3C8, 254);
    for component in [1, 2, 0xFF, 4, 5, 6, 7, 8, 9] {
        rig.out(0x3C9, component);
    }
    assert_eq!((rig.input(0x3C7), rig.input(0x3C8)), (0, 1));
    rig.out(0x3C7, 255);
    assert_eq!([(); 6].map(|()| rig.input(0x3C9)), [4, 5, 6, 7, 8, 9]);
    assert_eq!(rig.input(0x3C7), 3);
    rig.out(0x3C7, 254);
    assert_eq!([(); 3].map(|()| rig.input(0x3C9)), [1, 2, 0x3F]);
    // The palette at 8 bits.
    rig.dispi(4, 0x20);
    rig.out(0x3C8, 0);
    [0xFF, 0x80, 0x01].iter().for_each(|component| rig.out(0x3C9, *component));
    rig.out(0x3C7, 0);
    assert_eq!([(); 3].map(|()| rig.input(0x3C9)), [0xFF, 0x80, 0x01]);
}
