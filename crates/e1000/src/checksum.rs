//! Checksums of packets: the Internet's, and Ethernet's frame check sequence.

/// The ones' complement sum of `data` taken as big-endian 16-bit words, an odd last byte as a high one. RFC 1071.
pub fn sum(data: &[u8]) -> u16 {
    // The sum does not depend on the order of bytes within words, but for its own: so they are added as they lie.
    let mut words = data.chunks_exact(4);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u64::from(u32::from_ne_bytes(last));
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// The ones' complement sum of two numbers.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The CRC of bytes with a bit of their own place each: `TABLES[n][b]` is that of `b` followed by `n` zero bytes.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xEDB8_8320 } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
};

/// The frame check sequence of a frame; its bytes follow the frame in little-endian order. IEEE 802.3, section 3.2.9.
pub fn frame_check_sequence(frame: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let mut words = frame.chunks_exact(8);
    for word in words.by_ref() {
        let low = crc ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let [a, b, c, d] = low.to_le_bytes();
        let bytes = [a, b, c, d, word[4], word[5], word[6], word[7]];
        crc = bytes.iter().zip(TABLES.iter().rev()).fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
    }
    for byte in words.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_rfc_1071() {
        // The example of its section 3.
        assert_eq!(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]), 0xDDF2);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xFF; 65535]), add(0xFFFF, 0xFF00));
        assert_eq!(add(0xFFFF, 1), 1);
    }

    #[test]
    fn the_frame_check_sequence_is_ieee_802_3s() {
        // The check value of CRC-32, and its residue: that of any frame with its own sequence behind.
        assert_eq!(frame_check_sequence(b"123456789"), 0xCBF4_3926);
        for length in 0..70u8 {
            let mut frame: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37)).collect();
            frame.extend(frame_check_sequence(&frame).to_le_bytes());
            assert_eq!(frame_check_sequence(&frame), 0x2144_DF1C);
        }
    }
}
