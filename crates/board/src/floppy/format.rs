//! Kinds of drives, and the formats of disks by their size.

/// Bytes in a sector of every format.
pub(super) const SECTOR: usize = 512;
/// The code of that size in commands: 128 << N.
pub(super) const SECTOR_CODE: u8 = 2;

/// Data rates as CCR and DSR code them. 82078 data sheet, section 2.1.9.
mod rate {
    pub const KBPS_500: u8 = 0;
    pub const KBPS_300: u8 = 1;
    pub const KBPS_250: u8 = 2;
    pub const MBPS_1: u8 = 3;
}

/// A kind of floppy drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloppyKind {
    /// 5.25", 360 KiB.
    Kib360,
    /// 5.25", 1.2 MB; reads and writes disks of 360 KiB and less, too.
    Mb1200,
    /// 3.5", 1.44 MB and 720 KiB.
    Mb1440,
    /// 3.5", 2.88 MB, 1.44 MB and 720 KiB.
    Mb2880,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Inch5,
    Inch3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Density {
    Double,
    High,
    Extra,
}

/// How a disk is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    width: Width,
    density: Density,
    pub cylinders: u8,
    pub heads: u8,
    /// A track; they count from 1.
    pub sectors: u8,
}

const fn format(width: Width, density: Density, cylinders: u8, heads: u8, sectors: u8) -> Format {
    Format { width, density, cylinders, heads, sectors }
}

const FORMATS: [Format; 11] = [
    format(Width::Inch5, Density::Double, 40, 1, 8),
    format(Width::Inch5, Density::Double, 40, 1, 9),
    format(Width::Inch5, Density::Double, 40, 2, 8),
    format(Width::Inch5, Density::Double, 40, 2, 9),
    format(Width::Inch3, Density::Double, 80, 2, 9),
    format(Width::Inch5, Density::High, 80, 2, 15),
    format(Width::Inch3, Density::High, 80, 2, 18),
    // Those of software on many disks: 1,680, 1,722 and 1,760 KiB.
    format(Width::Inch3, Density::High, 80, 2, 21),
    format(Width::Inch3, Density::High, 82, 2, 21),
    format(Width::Inch3, Density::High, 80, 2, 22),
    format(Width::Inch3, Density::Extra, 80, 2, 36),
];

impl Format {
    /// The format of a disk of `size` bytes. One of another size is the beginning of the smallest disk of 1.44 or 2.88 MB that
    /// holds it. `None` for what is empty or too large.
    pub fn of(size: u64) -> Option<&'static Self> {
        let exact = FORMATS.iter().find(|format| format.size() == size);
        let holds = |format: &&Format| matches!(format.sectors, 18 | 36) && size > 0 && size <= format.size();
        exact.or_else(|| FORMATS.iter().find(holds))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR as u64
    }

    /// Where a sector lies in the image; `None` when there is no such.
    pub fn offset(&self, cylinder: u8, head: u8, sector: u8) -> Option<u64> {
        if cylinder >= self.cylinders || head >= self.heads || !(1..=self.sectors).contains(&sector) {
            return None;
        }
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        Some((track * u64::from(self.sectors) + u64::from(sector - 1)) * SECTOR as u64)
    }
}

impl FloppyKind {
    /// The drive for an image of `size` bytes, or for none.
    pub fn for_size(size: Option<u64>) -> Self {
        match size.and_then(Format::of).map(|format| (format.width, format.density)) {
            Some((Width::Inch5, Density::Double)) => FloppyKind::Kib360,
            Some((Width::Inch5, _)) => FloppyKind::Mb1200,
            Some((Width::Inch3, Density::Extra)) => FloppyKind::Mb2880,
            Some((Width::Inch3, _)) | None => FloppyKind::Mb1440,
        }
    }

    /// The code of the drive in CMOS memory.
    pub fn code(self) -> u8 {
        match self {
            FloppyKind::Kib360 => 1,
            FloppyKind::Mb1200 => 2,
            FloppyKind::Mb1440 => 4,
            FloppyKind::Mb2880 => 5,
        }
    }

    /// The last cylinder that the head reaches.
    pub(super) fn last_cylinder(self) -> u8 {
        if self == FloppyKind::Kib360 { 41 } else { 83 }
    }

    /// Whether a disk of that format can be read here, at a data rate as CCR has it. Disks of double density turn faster in a
    /// drive of 1.2 MB. In one of 360 KiB its true rate serves, and that other, which firmware asks for.
    pub(super) fn reads(self, format: &Format, rate: u8) -> bool {
        let rates: &[u8] = match (self, format.width, format.density) {
            (FloppyKind::Kib360, Width::Inch5, Density::Double) => &[rate::KBPS_250, rate::KBPS_300],
            (FloppyKind::Mb1200, Width::Inch5, Density::Double) => &[rate::KBPS_300],
            (FloppyKind::Mb1200, Width::Inch5, Density::High) => &[rate::KBPS_500],
            (FloppyKind::Mb1440 | FloppyKind::Mb2880, Width::Inch3, Density::Double) => &[rate::KBPS_250],
            (FloppyKind::Mb1440 | FloppyKind::Mb2880, Width::Inch3, Density::High) => &[rate::KBPS_500],
            (FloppyKind::Mb2880, Width::Inch3, Density::Extra) => &[rate::MBPS_1],
            _ => &[],
        };
        rates.contains(&rate)
    }

    /// The cylinder of a disk that lies under the head: a drive of 1.2 MB steps half a cylinder of a disk of 360 KiB.
    pub(super) fn cylinder(self, format: &Format, position: u8) -> Option<u8> {
        let cylinder = match (self, format.cylinders) {
            (FloppyKind::Mb1200, 40) if position % 2 == 1 => return None,
            (FloppyKind::Mb1200, 40) => position / 2,
            _ => position,
        };
        (cylinder < format.cylinders).then_some(cylinder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_formats_that_people_know() {
        let known = [160, 180, 320, 360, 720, 1200, 1440, 2880].map(|kib| Format::of(kib << 10).unwrap());
        let drives = known.map(|format| FloppyKind::for_size(Some(format.size())).code());
        assert_eq!(drives, [1, 1, 1, 1, 4, 2, 4, 5]);
        assert_eq!(known.map(|format| format.sectors), [8, 9, 8, 9, 9, 15, 18, 36]);
        assert_eq!(Format::of(1_720_320).unwrap().sectors, 21);
        assert_eq!(Format::of(150_000).unwrap().size(), 1440 << 10);
        assert_eq!(Format::of(2_000_000).unwrap().size(), 2880 << 10);
        assert!(Format::of(0).is_none() && Format::of((2880 << 10) + 1).is_none());
        assert_eq!(FloppyKind::for_size(None), FloppyKind::Mb1440);
    }

    #[test]
    fn sectors_are_in_the_image_in_the_order_of_tracks() {
        let format = Format::of(1440 << 10).unwrap();
        assert_eq!(format.offset(0, 0, 1), Some(0));
        assert_eq!(format.offset(0, 1, 1), Some(18 * 512));
        assert_eq!(format.offset(79, 1, 18), Some((1440 << 10) - 512));
        for outside in [(80, 0, 1), (0, 2, 1), (0, 0, 0), (0, 0, 19), (255, 255, 255)] {
            assert_eq!(format.offset(outside.0, outside.1, outside.2), None);
        }
    }

    #[test]
    fn drives_read_older_disks_at_their_rates() {
        let format = |kib: u64| Format::of(kib << 10).unwrap();
        assert!(FloppyKind::Mb1440.reads(format(1440), 0) && !FloppyKind::Mb1440.reads(format(1440), 2));
        assert!(FloppyKind::Mb1440.reads(format(720), 2) && !FloppyKind::Mb1440.reads(format(720), 0));
        assert!(FloppyKind::Mb2880.reads(format(2880), 3) && !FloppyKind::Mb1440.reads(format(2880), 3));
        assert!(FloppyKind::Mb1200.reads(format(360), 1) && !FloppyKind::Mb1440.reads(format(1200), 0));
        let [half, full] = [3, 4].map(|position| FloppyKind::Mb1200.cylinder(format(360), position));
        assert_eq!((half, full, FloppyKind::Mb1200.cylinder(format(1200), 3)), (None, Some(2), Some(3)));
    }
}
