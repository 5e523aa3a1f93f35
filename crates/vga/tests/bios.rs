//! The modes as the VGA BIOS sets them, its text and its dots: software that was not written for this card.

mod machine;

use machine::{Picture, Program, run};

/// Runs a program; `None`, with a word on why, where there is no BIOS.
fn pictures(program: Program) -> Option<Vec<Picture>> {
    let pictures = run(&program.exit());
    if pictures.is_none() {
        eprintln!("skipped: there is no {}", machine::BIOS);
    }
    pictures
}

/// How many pixels of a picture have a colour.
fn count(picture: &Picture, colour: u32) -> usize {
    picture.frame.pixels.iter().filter(|pixel| **pixel == colour).count()
}

#[test]
fn text_modes() {
    let program = Program::default()
        .int10(0x0003, 0, 0, 0)
        .int10(0x0100, 0, 0x2000, 0)
        .print(b"Wirt\r\n", 7)
        // A white block on blue, three times, in row 3 from column 5.
        .int10(0x0200, 0, 0, 0x0305)
        .int10(0x09DB, 0x001F, 3, 0)
        .picture()
        .int10(0x0001, 0, 0, 0)
        .int10(0x0100, 0, 0x2000, 0)
        .print(b"forty", 7)
        .picture()
        // 50 rows of 8 dots.
        .int10(0x0003, 0, 0, 0)
        .int10(0x1112, 0, 0, 0)
        .int10(0x0200, 0, 0, 0x3100)
        .print(b"last row", 7)
        .picture();
    let Some(pictures) = pictures(program) else { return };
    let [plain, forty, fifty] = &pictures[..] else { panic!("{} pictures", pictures.len()) };
    let text = plain.text.as_deref().unwrap();
    assert_eq!(text.lines().next(), Some("Wirt"));
    assert_eq!(text.lines().nth(3), Some("     ███"));
    assert_eq!((plain.frame.width, plain.frame.height), (720, 400));
    assert_eq!(plain.frame.pixels[720 * 50 + 9 * 5..][..27], [0xFF_FFFF; 27]);
    assert!(count(plain, 0xAA_AAAA) > 50);
    let text = forty.text.as_deref().unwrap();
    assert_eq!((text.lines().next(), text.lines().count(), forty.frame.height), (Some("forty"), 25, 400));
    let text = fifty.text.as_deref().unwrap();
    assert_eq!((text.lines().nth(49), text.lines().count()), (Some("last row"), 50));
}

/// A graphics mode: its number, a colour and how that looks, the picture's size, pixels of a dot, lines of a character.
type Graphics = (u16, u8, u32, (u32, u32), (u32, u32), u32);

const GRAPHICS: [Graphics; 6] = [
    (0x04, 2, 0xFF_55FF, (640, 400), (2, 2), 8),
    (0x06, 1, 0xFF_FFFF, (640, 400), (1, 2), 8),
    (0x0D, 4, 0xAA_0000, (640, 400), (2, 2), 8),
    (0x10, 14, 0xFF_FF55, (640, 350), (1, 1), 14),
    (0x12, 9, 0x55_55FF, (640, 480), (1, 1), 16),
    (0x13, 40, 0xFF_0000, (640, 400), (2, 2), 8),
];

#[test]
fn graphics_modes() {
    // In each mode eight dots in the first line, and a block below.
    let program = GRAPHICS.into_iter().fold(Program::default(), |program, (mode, colour, ..)| {
        let dots =
            (0..8).fold(program.int10(mode, 0, 0, 0), |program, x| program.int10(0x0C00 | u16::from(colour), 0, x, 0));
        dots.int10(0x0200, 0, 0, 0x0101).int10(0x09DB, colour.into(), 1, 0).picture()
    });
    let Some(pictures) = pictures(program) else { return };
    assert_eq!(pictures.len(), GRAPHICS.len());
    for ((mode, _, rgb, size, (wide, high), lines), picture) in GRAPHICS.into_iter().zip(&pictures) {
        let frame = &picture.frame;
        assert_eq!((frame.width, frame.height), size, "mode {mode:#x}");
        let dots = frame.pixels.iter().take_while(|pixel| **pixel == rgb).count() as u32;
        assert_eq!(dots, 8 * wide, "mode {mode:#x}");
        assert_eq!(count(picture, rgb) as u32, (8 + 8 * lines) * wide * high, "mode {mode:#x}");
        assert_eq!(picture.text, None);
    }
}

#[test]
fn vbe_modes() {
    let mut program = Program::default();
    // 640x480 in 256 colours through banks; 800x600 in 16 colours; 1024x768 in 16 bits, 800x600 in 24, with a cleared screen.
    let modes = [(0x101, 640, 480), (0x102, 800, 600), (0x117, 1024, 768), (0x115, 800, 600)];
    for (mode, ..) in modes {
        program = program.int10(0x4F02, mode, 0, 0);
        // The second window, which lies at byte 65,536.
        program = program.int10(0x4F05, 0, 0, 1).fill(0xA000, 0, 6, 0x0F).picture();
    }
    let Some(pictures) = pictures(program) else { return };
    for ((mode, width, height), picture) in modes.into_iter().zip(&pictures) {
        assert_eq!((picture.frame.width, picture.frame.height), (width, height), "mode {mode:#x}");
    }
    let first = |index: usize| pictures[index].frame.pixels.iter().position(|pixel| *pixel != 0);
    let lit = |index: usize| pictures[index].frame.pixels.iter().filter(|pixel| **pixel != 0).count();
    assert_eq!([0, 2, 3].map(first), [65_536, 65_536 / 2, 65_536 / 3].map(Some));
    assert_eq!([2, 3].map(lit), [3, 3]);
    assert_eq!(pictures.len(), modes.len());
}
