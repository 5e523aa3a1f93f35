/// Bytes of a block.
pub(crate) const EDID_SIZE: usize = 128;

/// What the monitor says of itself: 1280x800 is preferred. VESA E-EDID release A, revision 2 (EDID 1.4), section 3.
pub(crate) fn edid() -> [u8; EDID_SIZE] {
    let mut block = [0; EDID_SIZE];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00]);
    // Manufacturer WRT, product 1, no serial number, made in 2026.
    let letter = |letter: u8| u16::from(letter - b'A' + 1);
    put(8, &(letter(b'W') << 10 | letter(b'R') << 5 | letter(b'T')).to_be_bytes());
    put(10, &[1, 0, 0, 0, 0, 0, 0xFF, 2026u16.wrapping_sub(1990) as u8]);
    put(18, &[1, 4]);
    // Digital, 8 bits a colour, 33 cm by 21 cm, gamma 2.2; sRGB, the preferred timing is the native one.
    put(20, &[0xA5, 33, 21, 120, 0x06]);
    // The chromaticity of sRGB.
    put(25, &[0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54]);
    // 640x480, 800x600 and 1024x768 at 60 Hz.
    put(35, &[0x21, 0x08, 0x00]);
    // At 60 Hz: 1280x800, 1280x1024, 1440x900, 1600x1200, 1680x1050, 1920x1080, 1920x1200, 1280x720.
    let standard: [(u16, u8); 8] =
        [(1280, 0), (1280, 2), (1440, 0), (1600, 1), (1680, 0), (1920, 3), (1920, 0), (1280, 3)];
    for (index, (width, aspect)) in standard.into_iter().enumerate() {
        put(38 + 2 * index, &[(width / 8 - 31) as u8, aspect << 6]);
    }
    // 1280x800 with reduced blanking: 71 MHz; 160 and 23 blank, sync 48 and 3 behind, 32 and 6 long.
    put(
        54,
        &[0xBC, 0x1B, 0x00, 0xA0, 0x50, 0x20, 0x17, 0x30, 0x30, 0x20, 0x36, 0x00, 0x4A, 0xD2, 0x10, 0x00, 0x00, 0x1A],
    );
    // The name.
    put(72, &[0, 0, 0, 0xFC, 0]);
    put(77, b"Wirt\n        ");
    // 24 to 120 Hz, 15 to 160 kHz, up to 310 MHz.
    put(90, &[0, 0, 0, 0xFD, 0, 24, 120, 15, 160, 31, 0x01, 0x0A, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20]);
    // Nothing.
    put(108, &[0, 0, 0, 0x10]);
    block[127] = block.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    block
}
