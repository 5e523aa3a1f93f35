/// Colours in the order of their first appearance, found again by a hash table.
pub(crate) struct Palette {
    colours: Vec<u32>,
    /// Index of a colour plus one; zero is free. Never more than half full.
    slots: [u16; Palette::SLOTS],
    limit: usize,
}

impl Palette {
    const SLOTS: usize = 512;
    /// The largest limit.
    pub(crate) const MOST: usize = 256;

    /// A palette of at most `limit` colours.
    pub(crate) fn new(limit: usize) -> Self {
        Palette { colours: Vec::new(), slots: [0; Self::SLOTS], limit: limit.min(Self::MOST) }
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.colours.clear();
        self.slots.fill(0);
    }

    /// The colour's index, after adding it where it is new. None: there are too many.
    pub(crate) fn add(&mut self, colour: u32) -> Option<u8> {
        let slot = self.slot(colour);
        if self.slots[slot] == 0 {
            if self.colours.len() == self.limit {
                return None;
            }
            self.colours.push(colour);
            self.slots[slot] = self.colours.len() as u16;
        }
        Some((self.slots[slot] - 1) as u8)
    }

    /// The index of a colour that was added; 0 for one that was not.
    pub(crate) fn index(&self, colour: u32) -> u8 {
        self.slots[self.slot(colour)].saturating_sub(1) as u8
    }

    pub(crate) fn colours(&self) -> &[u32] {
        &self.colours
    }

    /// Where the colour is, or would be.
    fn slot(&self, colour: u32) -> usize {
        let mut slot = (colour.wrapping_mul(0x9e37_79b1) >> 23) as usize;
        loop {
            match self.slots[slot] {
                0 => return slot,
                entry if self.colours[usize::from(entry) - 1] == colour => return slot,
                _ => slot = (slot + 1) % Self::SLOTS,
            }
        }
    }
}

/// Appends the bit fields of a row of palette indices, the leftmost in the most significant bits and the last byte
/// filled with zeros. `bits` is 1, 2, 4 or 8.
pub(crate) fn pack_indices(row: impl Iterator<Item = u8>, bits: u32, out: &mut Vec<u8>) {
    let mut byte = 0u32;
    let mut used = 0;
    for index in row {
        byte = byte << bits | u32::from(index);
        used += bits;
        if used == 8 {
            out.push(byte as u8);
            (byte, used) = (0, 0);
        }
    }
    if used != 0 {
        out.push((byte << (8 - used)) as u8);
    }
}
