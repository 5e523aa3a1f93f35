//! Runs 16-bit programs with the VGA BIOS and writes the pictures they take as PPM files.
//!
//! `cargo run --release -p vga --example render -- DIRECTORY [PROGRAM]`: PROGRAM is a file that is loaded at 0:7C00, as a
//! boot sector is. It takes a picture with `out 0x80, al` and ends with `out 0xF4, al`. Without one, a text screen and a
//! pattern of 800 by 600 pixels are shown.

#[path = "../tests/machine/mod.rs"]
mod machine;

use machine::{Picture, Program};
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, program) = match &arguments[..] {
        [directory] => (directory, demonstration()),
        [directory, program] => (directory, std::fs::read(program)?),
        _ => return Err("give a directory, and a program if you have one".into()),
    };
    let pictures = machine::run(&program).ok_or_else(|| format!("there is no {}", machine::BIOS))?;
    for (number, picture) in pictures.iter().enumerate() {
        write(&Path::new(directory).join(format!("{number}.ppm")), picture)?;
    }
    Ok(())
}

/// All characters in all colours, and stripes.
fn demonstration() -> Vec<u8> {
    let mut program = Program::default().int10(0x0003, 0, 0, 0).print(b"Wirt: text mode, 80 by 25\r\n", 7);
    for code in 0..=255u16 {
        let place = (3 + code / 64 * 2) << 8 | (8 + code % 64);
        program = program.int10(0x0200, 0, 0, place).int10(0x0900 | code, code, 1, 0);
    }
    program = program.int10(0x0200, 0, 0, 0x0C00).picture().int10(0x4F02, 0x0115, 0, 0);
    for bank in 0..21u16 {
        program = program.int10(0x4F05, 0, 0, bank);
        for stripe in 0..8u16 {
            program = program.fill(0xA000, stripe << 13, 0x2000, (bank * 8 + stripe) as u8);
        }
    }
    program.picture().exit()
}

fn write(path: &Path, picture: &Picture) -> std::io::Result<()> {
    let frame = &picture.frame;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    write!(file, "P6\n{} {}\n255\n", frame.width, frame.height)?;
    for pixel in &frame.pixels {
        file.write_all(&pixel.to_be_bytes()[1..])?;
    }
    file.flush()?;
    println!("{}: {}x{}", path.display(), frame.width, frame.height);
    if let Some(text) = &picture.text {
        println!("{}", text.trim_end());
    }
    Ok(())
}
