/// Heads and sectors per track by which a host counts. ATA-4, section 6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// 1..=16.
    pub heads: u8,
    /// Sectors per track, positive.
    pub sectors: u8,
}

/// The most cylinders that the default geometry tells: what is larger is to be addressed otherwise.
const MAX_DEFAULT_CYLINDERS: u64 = 16_383;
/// The most there can be.
const MAX_CYLINDERS: u64 = 65_535;

impl Geometry {
    /// The one a disk has until its host chooses another.
    pub const DEFAULT: Geometry = Geometry { heads: 16, sectors: 63 };

    /// The geometry of these numbers, if it is one.
    pub fn new(heads: u8, sectors: u8) -> Option<Self> {
        ((1..=16).contains(&heads) && sectors > 0).then_some(Geometry { heads, sectors })
    }

    fn cylinder_size(self) -> u64 {
        u64::from(self.heads) * u64::from(self.sectors)
    }

    /// Cylinders of a disk of `total` sectors.
    pub fn cylinders(self, total: u64) -> u16 {
        let limit = if self == Self::DEFAULT { MAX_DEFAULT_CYLINDERS } else { MAX_CYLINDERS };
        (total / self.cylinder_size()).clamp(1, limit) as u16
    }

    /// Sectors that these addresses reach.
    pub fn capacity(self, total: u64) -> u64 {
        u64::from(self.cylinders(total)) * self.cylinder_size()
    }

    /// The sector at cylinder, head, and sector of the track, which counts from 1.
    pub fn lba(self, cylinder: u16, head: u8, sector: u8) -> Option<u64> {
        let exists = head < self.heads && (1..=self.sectors).contains(&sector);
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        exists.then(|| track * u64::from(self.sectors) + u64::from(sector) - 1)
    }

    /// The cylinder, head and sector of a sector; the cylinder's upper bits are lost where it has too many.
    pub fn chs(self, lba: u64) -> (u16, u8, u8) {
        let track = lba / u64::from(self.sectors);
        let sector = (lba % u64::from(self.sectors)) as u8 + 1;
        ((track / u64::from(self.heads)) as u16, (track % u64::from(self.heads)) as u8, sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_from_sector_1_and_lead_back() {
        let geometry = Geometry::new(15, 63).unwrap();
        assert_eq!(geometry.lba(0, 0, 1), Some(0));
        assert_eq!(geometry.lba(1, 2, 3), Some((15 + 2) * 63 + 2));
        assert_eq!([geometry.lba(0, 15, 1), geometry.lba(0, 0, 0), geometry.lba(0, 0, 64)], [None; 3]);
        for lba in [0, 62, 63, 944, 945, 1_000_000] {
            let (cylinder, head, sector) = geometry.chs(lba);
            assert_eq!(geometry.lba(cylinder, head, sector), Some(lba));
        }
        // One sector more than a byte holds would be sector 0.
        assert_eq!(Geometry::new(1, 255).unwrap().chs(254), (0, 0, 255));
    }

    #[test]
    fn nonsense_is_no_geometry_and_cylinders_are_bounded() {
        assert_eq!([Geometry::new(0, 63), Geometry::new(17, 63), Geometry::new(16, 0)], [None; 3]);
        assert_eq!(Geometry::DEFAULT.cylinders(u64::MAX), 16_383);
        assert_eq!(Geometry::new(1, 1).unwrap().cylinders(u64::MAX), 65_535);
        assert_eq!(Geometry::DEFAULT.cylinders(1), 1);
    }
}
