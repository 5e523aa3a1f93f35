use crate::register::{rah, rctl};

/// What decides whether a frame is received. Manual, sections 3.2.1, 9.3 and 13.5.
pub(crate) struct Filter {
    /// RAL and RAH in turn.
    pub addresses: [u32; 32],
    /// MTA: a bit for each hash of a group address.
    pub groups: [u32; 128],
    /// VFTA: a bit for each VLAN.
    pub vlans: [u32; 128],
}

/// How a frame passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It is this station's.
    Exact,
    /// It may not be: its hash is in the table, or everything is received.
    Inexact,
}

impl Filter {
    pub fn new() -> Self {
        Filter { addresses: [0; 32], groups: [0; 128], vlans: [0; 128] }
    }

    /// Whether a frame of at least 18 bytes is received with this RCTL; `vlan` is the TCI of a tagged one.
    pub fn passes(&self, control: u32, frame: &[u8], vlan: Option<u16>) -> Option<Pass> {
        if let Some(tci) = vlan.filter(|_| control & rctl::VFE != 0) {
            let id = usize::from(tci & 0xFFF);
            let canonical = tci >> 12 & 1 != 0;
            if self.vlans[id >> 5] >> (id & 31) & 1 == 0
                || control & rctl::CFIEN != 0 && canonical != (control & rctl::CFI != 0)
            {
                return None;
            }
        }
        let destination = frame.first_chunk::<6>()?;
        if self.is_ours(destination) {
            return Some(Pass::Exact);
        }
        if destination[0] & 1 == 0 {
            return (control & rctl::UPE != 0).then_some(Pass::Inexact);
        }
        if *destination == [0xFF; 6] && control & rctl::BAM != 0 {
            return Some(Pass::Exact);
        }
        let hash = self.hash(control, destination);
        let known = self.groups[hash >> 5] >> (hash & 31) & 1 != 0;
        (known || control & rctl::MPE != 0).then_some(Pass::Inexact)
    }

    fn is_ours(&self, destination: &[u8; 6]) -> bool {
        let [a, b, c, d, e, f] = destination.map(u32::from);
        let (low, high) = (a | b << 8 | c << 16 | d << 24, e | f << 8);
        // An entry whose address select is 0 is compared with destinations; the others with nothing.
        self.addresses
            .chunks_exact(2)
            .any(|entry| entry[0] == low && entry[1] & (rah::ASEL | 0xFFFF) == high && entry[1] & rah::AV != 0)
    }

    /// 12 of the highest 16 bits of a group address: which ones, RCTL.MO says.
    fn hash(&self, control: u32, destination: &[u8; 6]) -> usize {
        let shift = [4, 3, 2, 0][(control >> rctl::MO_SHIFT & 3) as usize];
        usize::from(u16::from_le_bytes([destination[4], destination[5]]) >> shift & 0xFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x7F, 0xAB, 0xCD];

    fn frame(destination: [u8; 6]) -> Vec<u8> {
        [&destination[..], &[0; 54]].concat()
    }

    #[test]
    fn addresses_broadcasts_and_promiscuous_modes() {
        let mut filter = Filter::new();
        (filter.addresses[30], filter.addresses[31]) = (0x1200_5452, 0x5634);
        assert_eq!(filter.passes(0, &frame(OURS), None), None, "not valid");
        filter.addresses[31] |= rah::AV;
        assert_eq!(filter.passes(0, &frame(OURS), None), Some(Pass::Exact));
        assert_eq!(filter.passes(0, &frame([0xFF; 6]), None), None);
        assert_eq!(filter.passes(rctl::BAM, &frame([0xFF; 6]), None), Some(Pass::Exact));
        let other = frame([2, 0, 0, 0, 0, 1]);
        assert_eq!(filter.passes(rctl::MPE | rctl::BAM, &other, None), None);
        assert_eq!(filter.passes(rctl::UPE, &other, None), Some(Pass::Inexact));
        assert_eq!(filter.passes(rctl::UPE | rctl::BAM, &frame(GROUP), None), None);
        assert_eq!(filter.passes(rctl::MPE, &frame(GROUP), None), Some(Pass::Inexact));
    }

    #[test]
    fn group_addresses_are_hashed_by_the_bits_that_are_chosen() {
        for (offset, hash) in [(0, 0xCDA), (1, 0x9B5), (2, 0x36A), (3, 0xDAB)] {
            let mut filter = Filter::new();
            let control = offset << rctl::MO_SHIFT;
            assert_eq!(filter.passes(control, &frame(GROUP), None), None);
            filter.groups[hash >> 5] = 1 << (hash & 31);
            assert_eq!(filter.passes(control, &frame(GROUP), None), Some(Pass::Inexact));
        }
    }

    #[test]
    fn vlans_that_are_not_in_the_table_are_dropped() {
        let mut filter = Filter::new();
        let pass = |filter: &Filter, control, vlan| filter.passes(control | rctl::MPE, &frame(GROUP), vlan).is_some();
        assert!(pass(&filter, 0, Some(0x0064)));
        assert!(pass(&filter, rctl::VFE, None));
        assert!(!pass(&filter, rctl::VFE, Some(0xE064)));
        filter.vlans[3] = 1 << 4;
        assert!(pass(&filter, rctl::VFE, Some(0xE064)));
        assert!(!pass(&filter, rctl::VFE | rctl::CFIEN, Some(0x1064)));
        assert!(pass(&filter, rctl::VFE | rctl::CFIEN | rctl::CFI, Some(0x1064)));
    }
}
