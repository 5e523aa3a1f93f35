use crate::{MemoryError, PAGE_SIZE};
use std::ops::Range;

/// Guest physical addresses, and offsets in the backing memory, end here.
const LIMIT: u64 = 1 << 46;

/// A range of guest physical addresses that RAM or ROM answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First guest physical address; page-aligned.
    pub address: u64,
    /// Bytes; a multiple of the page size.
    pub size: u64,
    /// Where it lies in the backing memory; page-aligned.
    pub offset: u64,
    /// Guest writes do not change it (firmware); they go to the bus.
    pub readonly: bool,
}

/// What memory answers where at one time. Several regions may show the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Ascending, disjoint.
    regions: Vec<Region>,
}

impl Layout {
    /// A layout of regions in any order.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] when regions overlap, are empty, unaligned or reach above 2^46.
    pub fn new(regions: &[Region]) -> Result<Self, MemoryError> {
        let mut regions = regions.to_vec();
        regions.sort_by_key(|region| region.address);
        let mut previous_end = 0;
        for region in &regions {
            let unaligned = (region.address | region.size | region.offset) % PAGE_SIZE != 0;
            let beyond = region.size > LIMIT || region.address > LIMIT || region.offset > LIMIT;
            if unaligned || region.size == 0 || beyond {
                return Err(MemoryError::Layout(format!("a region that makes no sense: {region:x?}")));
            }
            if region.address < previous_end {
                return Err(MemoryError::Layout(format!("regions overlap at {:#x}", region.address)));
            }
            previous_end = region.address + region.size;
        }
        Ok(Layout { regions })
    }

    /// This layout without the regions that lie in one of the ranges `cleared`, and with those `placed`.
    ///
    /// # Errors
    /// As [`Layout::new`], and when a region lies in a range only in part.
    pub fn changed(&self, cleared: &[Range<u64>], placed: &[Region]) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(self.regions.len() + placed.len());
        for region in &self.regions {
            let end = region.address + region.size;
            if cleared.iter().any(|range| range.start <= region.address && end <= range.end) {
                continue;
            }
            if cleared.iter().any(|range| range.start < end && region.address < range.end) {
                return Err(MemoryError::Layout(format!("{region:x?} would be cut")));
            }
            regions.push(*region);
        }
        regions.extend(placed);
        Layout::new(&regions)
    }

    /// The regions, ascending by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of backing memory that the regions show, counted from its beginning.
    pub fn backing(&self) -> u64 {
        self.regions.iter().map(|region| region.offset + region.size).max().unwrap_or(0)
    }

    /// The region that holds `address`, if any.
    #[inline]
    pub fn region(&self, address: u64) -> Option<&Region> {
        let index = self.regions.partition_point(|region| region.address <= address);
        let region = &self.regions[index.checked_sub(1)?];
        (address - region.address < region.size).then_some(region)
    }

    /// Where `address` lies in the backing memory, when `size` bytes from there are within one region.
    #[inline]
    pub fn offset(&self, address: u64, size: u64) -> Option<u64> {
        let region = self.region(address)?;
        let within = address - region.address;
        (size <= region.size - within).then_some(region.offset + within)
    }

    /// The lowest guest physical address of a byte of the backing memory, or `None` when no region shows it.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.regions
            .iter()
            .find(|region| offset >= region.offset && offset - region.offset < region.size)
            .map(|region| region.address + (offset - region.offset))
    }
}
