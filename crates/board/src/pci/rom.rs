use super::Bar;

/// Bytes of the smallest and the largest that the register can decode.
const SMALLEST: usize = 1 << 11;
const LARGEST: usize = 1 << 24;

/// Places in an image's header, and in its PCI data structure, to which the header points.
const POINTER: usize = 0x18;
const VENDOR: usize = 0x04;
const DEVICE: usize = 0x06;
const LENGTH: usize = 0x10;
const CODE_TYPE: usize = 0x14;
const INDICATOR: usize = 0x15;
/// Code type: the PC's BIOS. Such an image's bytes add up to 0.
const TYPE_PC: u8 = 0;
/// A byte of a BIOS image's header that is there to make them do so; by custom, as in iPXE's.
const CHECKSUM: usize = 0x06;
/// Indicator: no image follows.
const LAST: u8 = 0x80;
/// Images that are looked at.
const MAX_IMAGES: usize = 16;

/// An expansion ROM: images of code for a function, each for another kind of firmware. PCI Local Bus 3.0, section 6.3.
pub struct ExpansionRom(Vec<u8>);

impl ExpansionRom {
    /// A ROM for the function with these identities; empty: none. Images that name another function are made to name this
    /// one, as firmware passes over others, and one driver often serves several.
    ///
    /// # Errors
    /// When it has more than 16 MiB.
    pub fn new(mut data: Vec<u8>, vendor: u16, device: u16) -> Result<Self, String> {
        if data.len() > LARGEST {
            return Err(format!("an expansion ROM of {} bytes is too large: 16 MiB are possible", data.len()));
        }
        let mut at = 0;
        for _ in 0..MAX_IMAGES {
            match data.get_mut(at..).and_then(|image| adopt(image, vendor, device)) {
                Some(length) => at += length,
                None => break,
            }
        }
        Ok(ExpansionRom(data))
    }

    /// What the base address register decodes; `None`: there is no ROM.
    pub fn bar(&self) -> Option<Bar> {
        let size = self.0.len().next_power_of_two().max(SMALLEST);
        (!self.0.is_empty()).then_some(Bar::Rom(size as u32))
    }

    /// Reads at `offset`. Behind the end all bits are set.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let count = rest.len().min(data.len());
        data[..count].copy_from_slice(&rest[..count]);
    }
}

/// Makes the image that `data` begins with name a function; returns where the next image begins, if there is one.
fn adopt(data: &mut [u8], vendor: u16, device: u16) -> Option<usize> {
    let half = |data: &[u8], at: usize| Some(u16::from_le_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let structure = usize::from(half(data, POINTER)?);
    if data[..2] != [0x55, 0xAA] || data.get(structure..structure + 4)? != b"PCIR" {
        return None;
    }
    let length = usize::from(half(data, structure + LENGTH)?) * 512;
    let (code_type, indicator) = (*data.get(structure + CODE_TYPE)?, *data.get(structure + INDICATOR)?);
    let mut changed = 0u8;
    for (at, value) in [(structure + VENDOR, vendor), (structure + DEVICE, device)] {
        for (byte, value) in data[at..at + 2].iter_mut().zip(value.to_le_bytes()) {
            changed = changed.wrapping_add(*byte).wrapping_sub(value);
            *byte = value;
        }
    }
    if code_type == TYPE_PC {
        data[CHECKSUM] = data[CHECKSUM].wrapping_add(changed);
    }
    (indicator & LAST == 0 && length != 0).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of 512 bytes that adds up to 0.
    fn image(code_type: u8, indicator: u8) -> Vec<u8> {
        let mut image = vec![0; 512];
        image[..3].copy_from_slice(&[0x55, 0xAA, 1]);
        image[POINTER] = 0x1C;
        image[0x1C..0x24].copy_from_slice(b"PCIR\xF4\x1A\x41\x10");
        (image[0x1C + LENGTH], image[0x1C + CODE_TYPE], image[0x1C + INDICATOR]) = (1, code_type, indicator);
        image[511] = 0u8.wrapping_sub(sum(&image));
        image
    }

    fn sum(image: &[u8]) -> u8 {
        image.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn read(rom: &ExpansionRom, offset: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        rom.read(offset, &mut data);
        data
    }

    #[test]
    fn all_images_name_the_function_and_a_bios_still_adds_up() {
        let images = [image(0, 0), image(3, LAST), image(0, LAST)].concat();
        let same = ExpansionRom::new(images.clone(), 0x1AF4, 0x1041).unwrap();
        assert_eq!(read(&same, 0, images.len()), images);
        let rom = ExpansionRom::new(images.clone(), 0x8086, 0x100E).unwrap();
        for start in [0, 512] {
            assert_eq!(read(&rom, start + 0x1C, 8), b"PCIR\x86\x80\x0E\x10");
        }
        assert_eq!((sum(&read(&rom, 0, 512)), read(&rom, 6, 1) == [0]), (0, false));
        assert_eq!(read(&rom, 1024, 512), images[1024..], "behind the last");
    }

    #[test]
    fn its_range_is_a_power_of_two_and_ends_with_ones() {
        assert_eq!(ExpansionRom::new(Vec::new(), 1, 2).unwrap().bar(), None);
        let rom = ExpansionRom::new(image(0, LAST), 1, 2).unwrap();
        assert_eq!(rom.bar(), Some(Bar::Rom(2048)));
        assert_eq!(read(&rom, 510, 4)[2..], [0xFF, 0xFF]);
        assert_eq!((read(&rom, 2040, 8), read(&rom, u64::MAX, 1)), (vec![0xFF; 8], vec![0xFF]));
        assert_eq!(ExpansionRom::new(vec![0; 249_856], 1, 2).unwrap().bar(), Some(Bar::Rom(1 << 18)));
        assert!(ExpansionRom::new(vec![0; LARGEST + 1], 1, 2).is_err());
    }

    #[test]
    fn what_is_no_image_is_left_as_it_is() {
        let whole = image(0, 0);
        for size in 0..whole.len() {
            // Cut images follow a whole one.
            let data = [&whole[..], &whole[..size]].concat();
            let rom = ExpansionRom::new(data.clone(), 3, 4).unwrap();
            assert_eq!(read(&rom, 512 + 0x34, size.saturating_sub(0x34)), data[(512 + 0x34).min(data.len())..]);
        }
        for (at, value) in [(0, 0), (1, 0), (POINTER + 1, 0xFF), (0x1C, 0)] {
            let mut data = whole.clone();
            data[at] = value;
            assert_eq!(read(&ExpansionRom::new(data.clone(), 3, 4).unwrap(), 0, 512), data);
        }
    }
}
