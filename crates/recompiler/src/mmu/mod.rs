//! Guest linear memory: the software TLB's slow path, and accesses for the interpreter. `walk` reads the page tables.

mod devices;
#[cfg(test)]
mod tests;
mod walk;

pub use devices::DevicePages;

use crate::fault::Fault;
use crate::state::{Core, cr4, flag};
use crate::tlb::{View, slot};
use rustc_hash::FxHashSet;

/// What an access wants of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

pub use hv::PHYSICAL_BITS;

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest physical address.
    pub physical: u64,
    /// A write would be allowed and the dirty bit is already set.
    pub writable: bool,
    /// The mapping survives a write of CR3.
    pub global: bool,
    /// Bytes the mapping covers.
    pub page_size: u64,
}

/// A value that one guest instruction loads or stores.
pub trait Value: Copy + Default {
    /// Bytes.
    const SIZE: usize;
    /// From little-endian bytes; `bytes` has [`Self::SIZE`] of them.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// Little-endian bytes in the first [`Self::SIZE`].
    fn to_bytes(self) -> [u8; 16];
}

macro_rules! values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const SIZE: usize = size_of::<$type>();
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }
            fn to_bytes(self) -> [u8; 16] {
                let mut array = [0; 16];
                array[..size_of::<$type>()].copy_from_slice(&self.to_le_bytes());
                array
            }
        }
    )*};
}
values!(u8, u16, u32, u64, u128);

/// Where a read-modify-write finds its operand.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// In RAM, within one page: the host address. Writes were checked; call [`Core::stored`] behind the store.
    Ram(*mut u8),
    /// Not RAM, or across a page: use [`Core::read`] and [`Core::write`], or [`Core::pieces`].
    Slow,
}

impl Core {
    /// The view of explicit data accesses at the current privilege.
    #[inline]
    pub fn view(&self) -> View {
        if self.cpl() == 3 {
            View::User
        } else if self.cr4 & cr4::SMAP != 0 && self.rflags & flag::AC != 0 {
            View::SupervisorAc
        } else {
            View::Supervisor
        }
    }

    /// Reads a value at a linear address with the current privilege.
    #[inline]
    pub fn read<T: Value>(&mut self, linear: u64) -> Result<T, Fault> {
        self.read_view(self.view(), linear)
    }

    /// Writes a value at a linear address with the current privilege.
    #[inline]
    pub fn write<T: Value>(&mut self, linear: u64, value: T) -> Result<(), Fault> {
        self.write_view(self.view(), linear, value)
    }

    /// Reads as the processor itself does (descriptor tables, TSS): with supervisor privilege at any CPL.
    pub fn read_system<T: Value>(&mut self, linear: u64) -> Result<T, Fault> {
        self.read_view(View::Supervisor, linear)
    }

    /// Writes as the processor itself does.
    pub fn write_system<T: Value>(&mut self, linear: u64, value: T) -> Result<(), Fault> {
        self.write_view(View::Supervisor, linear, value)
    }

    /// Reads a value under an explicit view.
    #[inline]
    pub fn read_view<T: Value>(&mut self, view: View, linear: u64) -> Result<T, Fault> {
        let entry = &self.tlb.entries[view as usize][slot(linear)];
        let offset = linear.wrapping_sub(entry.read);
        if offset <= 4096 - T::SIZE as u64 {
            // SAFETY: a TLB entry's host page is RAM that stays mapped, and the access lies within it.
            return Ok(unsafe { ((entry.host + offset) as *const T).read_unaligned() });
        }
        let mut bytes = [0; 16];
        self.read_bytes_view(view, linear, &mut bytes[..T::SIZE])?;
        Ok(T::from_bytes(&bytes[..T::SIZE]))
    }

    /// Writes a value under an explicit view.
    #[inline]
    pub fn write_view<T: Value>(&mut self, view: View, linear: u64, value: T) -> Result<(), Fault> {
        let entry = &self.tlb.entries[view as usize][slot(linear)];
        let offset = linear.wrapping_sub(entry.write);
        if offset <= 4096 - T::SIZE as u64 {
            // SAFETY: as in `read_view`; the entry allows writing and the page holds no translated code.
            unsafe { ((entry.host + offset) as *mut T).write_unaligned(value) };
            return Ok(());
        }
        self.write_bytes_view(view, linear, &value.to_bytes()[..T::SIZE])
    }

    /// Reads up to a page of bytes with the current privilege.
    pub fn read_bytes(&mut self, linear: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.read_bytes_view(self.view(), linear, data)
    }

    /// Writes up to a page of bytes with the current privilege: all pages are checked before any byte is written.
    pub fn write_bytes(&mut self, linear: u64, data: &[u8]) -> Result<(), Fault> {
        self.write_bytes_view(self.view(), linear, data)
    }

    /// Whether `size` bytes (at most a page) could be accessed; faults as the access would. Sets accessed and dirty
    /// bits as the access would.
    pub fn probe(&mut self, linear: u64, size: u64, kind: Kind) -> Result<(), Fault> {
        let view = self.view();
        self.translate_page(view, linear, kind)?;
        if (linear & 0xFFF) + size > 4096 {
            self.translate_page(view, self.wrap_linear((linear | 0xFFF).wrapping_add(1)), kind)?;
        }
        Ok(())
    }

    /// Where a read-modify-write of `size` bytes goes; faults as a write would.
    pub fn target(&mut self, linear: u64, size: u64) -> Result<Target, Fault> {
        let view = self.view();
        let entry = &self.tlb.entries[view as usize][slot(linear)];
        let offset = linear.wrapping_sub(entry.write);
        if offset <= 4096 - size {
            return Ok(Target::Ram((entry.host + offset) as *mut u8));
        }
        self.probe(linear, size, Kind::Write)?;
        self.note_access(linear, size, true);
        if (linear & 0xFFF) + size > 4096 {
            return Ok(Target::Slow);
        }
        let found = self.translate_page(view, linear, Kind::Write)?;
        Ok(self.ram(found.physical, true).map_or(Target::Slow, Target::Ram))
    }

    /// The host addresses and lengths of `size` bytes of writable RAM that may cross a page; `None` when some are not.
    /// Faults as a write would; call [`Core::stored`] for each behind the store.
    pub(crate) fn pieces(&mut self, linear: u64, size: u64) -> Result<Option<[(*mut u8, usize); 2]>, Fault> {
        let view = self.view();
        let first = size.min(4096 - (linear & 0xFFF));
        let near = self.translate_page(view, linear, Kind::Write)?.physical;
        let far = match first < size {
            true => self.translate_page(view, self.wrap_linear(linear.wrapping_add(first)), Kind::Write)?.physical,
            false => near,
        };
        let (near, far) = (self.ram(near, true), self.ram(far, true));
        Ok(near.zip(far).map(|(near, far)| [(near, first as usize), (far, (size - first) as usize)]))
    }

    /// Reads bytes under an explicit view; at most a page.
    pub fn read_bytes_view(&mut self, view: View, linear: u64, data: &mut [u8]) -> Result<(), Fault> {
        let first = data.len().min(4096 - (linear & 0xFFF) as usize);
        let near = self.translate_page(view, linear, Kind::Read)?;
        let far = match first < data.len() {
            true => Some(self.translate_page(view, self.wrap_linear(linear.wrapping_add(first as u64)), Kind::Read)?),
            false => None,
        };
        self.note_access(linear, data.len() as u64, false);
        let (head, tail) = data.split_at_mut(first);
        self.physical_read(near.physical, head);
        if let Some(far) = far {
            self.physical_read(far.physical, tail);
        }
        Ok(())
    }

    /// Writes bytes under an explicit view; at most a page. All pages are checked first.
    pub fn write_bytes_view(&mut self, view: View, linear: u64, data: &[u8]) -> Result<(), Fault> {
        let first = data.len().min(4096 - (linear & 0xFFF) as usize);
        let near = self.translate_page(view, linear, Kind::Write)?;
        let far = match first < data.len() {
            true => {
                Some(self.translate_page(view, self.wrap_linear(linear.wrapping_add(first as u64)), Kind::Write)?)
            }
            false => None,
        };
        self.note_access(linear, data.len() as u64, true);
        let (head, tail) = data.split_at(first);
        self.physical_write(near.physical, head);
        if let Some(far) = far {
            self.physical_write(far.physical, tail);
        }
        Ok(())
    }

    /// Outside 64-bit mode linear addresses are 32 bits wide.
    #[inline]
    pub(crate) fn wrap_linear(&self, linear: u64) -> u64 {
        if self.long_mode() { linear } else { linear & 0xFFFF_FFFF }
    }

    /// Reads guest physical memory, RAM or not, within one page.
    pub fn physical_read(&mut self, physical: u64, data: &mut [u8]) {
        if let Some(host) = self.ram(physical, false) {
            // SAFETY: `ram` gives a host page that stays mapped; the bytes lie within one page.
            unsafe { copy_out(host, data) };
        } else if let Some((lapic, offset)) = self.lapic_at(physical) {
            lapic.mmio_read(offset, data);
        } else {
            self.device(|bus| bus.mmio_read(physical, data));
        }
    }

    /// Writes guest physical memory, RAM or not, within one page.
    pub fn physical_write(&mut self, physical: u64, data: &[u8]) {
        if let Some(host) = self.ram(physical, true) {
            // SAFETY: as in `physical_read`.
            unsafe { copy_in(host, data) };
            self.stored(host, data.len() as u64);
        } else if let Some((lapic, offset)) = self.lapic_at(physical) {
            lapic.mmio_write(offset, data);
        } else {
            self.device(|bus| bus.mmio_write(physical, data));
        }
    }

    fn lapic_at(&self, physical: u64) -> Option<(std::sync::Arc<dyn hv::LocalApic>, u16)> {
        // The compare comes first: the base is asked for only where an APIC is at all likely.
        if physical < 0xA_0000 {
            return None;
        }
        let lapic = self.lapic.as_ref()?;
        let base = lapic.base()?;
        (physical & !0xFFF == base).then(|| (lapic.clone(), (physical & 0xFFF) as u16))
    }

    /// The host address of `size` bytes of RAM or ROM, when one region holds them all.
    #[inline]
    pub(crate) fn host(&self, physical: u64, size: u64) -> Option<*mut u8> {
        let offset = self.layout.offset(physical, size)?;
        Some(self.memory.base().wrapping_add(offset as usize))
    }

    /// The host address of a byte of RAM (of writable RAM when `write`).
    fn ram(&self, physical: u64, write: bool) -> Option<*mut u8> {
        let region = self.layout.region(physical)?;
        if write && region.readonly {
            return None;
        }
        // An APIC page may be moved over RAM: the APIC wins.
        if let Some(lapic) = &self.lapic {
            if lapic.base() == Some(physical & !0xFFF) {
                return None;
            }
        }
        self.host(physical, 1)
    }

    /// Called behind a store to RAM within one page, by a path that the TLB did not clear: drops translations of what was
    /// there.
    pub(crate) fn stored(&mut self, host: *mut u8, size: u64) {
        let offset = host as u64 - self.memory.base() as u64;
        let (shared, memory, mut party) = self.smp();
        shared.stored(&mut party, memory, offset, size);
    }

    /// The same as [`Self::host_beside_code`] for a page that the TLB knows; `None` also where no code is left in the page,
    /// which then may be written without asking.
    pub(crate) fn known_beside_code(&self, view: View, linear: u64, size: u64) -> Option<u64> {
        let host = self.tlb.beside_code(view, linear, size)?;
        let offset = host - self.memory.base() as u64;
        let beside = self.shared.hit(offset & !0xFFF, 4096) && self.shared.may_store_beside(self.id, offset, size);
        beside.then_some(host)
    }

    /// The host address of RAM whose page holds translated code, when none lies in these bytes themselves: for a store that
    /// is done at once.
    pub(crate) fn host_beside_code(&self, physical: u64, size: u64) -> Option<*mut u8> {
        let host = self.ram(physical, true)?;
        let offset = self.layout.offset(physical, size)?;
        self.shared.may_store_beside(self.id, offset, size).then_some(host)
    }

    /// Translates one linear address, filling the TLB where RAM is behind it.
    pub fn translate_page(&mut self, view: View, linear: u64, kind: Kind) -> Result<Translation, Fault> {
        if let Some(found) = self.device_pages.lookup(view, linear, kind) {
            return Ok(found);
        }
        self.counters.walks[kind as usize] += 1;
        let found = self.walk(view, linear, kind, true)?;
        if kind == Kind::Fetch {
            self.itlb.fill(view == View::User, linear, found.physical, found.global);
            self.note_large(linear, found.page_size);
            self.note_code(linear, found.global);
            return Ok(found);
        }
        if self.page_watched(linear) {
            return Ok(found);
        }
        if let Some(offset) = self.layout.offset(found.physical & !0xFFF, 4096) {
            if let Some(host) = self.ram(found.physical & !0xFFF, false) {
                let mut writable = found.writable && self.ram(found.physical & !0xFFF, true).is_some();
                let mut code = false;
                if writable {
                    let (shared, memory, mut party) = self.smp();
                    writable = shared.page_free_of_code(&mut party, memory, offset >> 12);
                    code = !writable;
                }
                self.note_large(linear, found.page_size);
                self.tlb.fill(view, linear, host as u64, writable, found.global);
                if code {
                    self.tlb.note_code(view, linear);
                }
                return Ok(found);
            }
        }
        self.note_large(linear, found.page_size);
        self.device_pages.keep(view, linear, found);
        Ok(found)
    }

    /// Remembers a page of code for INVLPG. A guest that runs code in more pages than are worth remembering pays with a
    /// flush.
    fn note_code(&mut self, linear: u64, global: bool) {
        const MOST: usize = 1 << 16;
        if self.code_pages.iter().any(|pages| pages.len() >= MOST) {
            self.code_pages.iter_mut().for_each(FxHashSet::clear);
            self.code_map_flush = 2;
        }
        self.code_pages[usize::from(global)].insert(linear >> 12);
    }

    fn note_large(&mut self, linear: u64, page_size: u64) {
        if page_size > 4096 {
            let base = linear & !(page_size - 1);
            self.large_low = self.large_low.min(base);
            self.large_high = self.large_high.max(base + (page_size - 1));
        }
    }

    /// Drops all translations of linear addresses, or all but global ones.
    pub fn flush_tlb(&mut self, keep_global: bool) {
        self.counters.flushes[usize::from(keep_global)] += 1;
        self.tlb.flush(keep_global);
        self.itlb.flush(keep_global);
        self.device_pages.flush(keep_global);
        self.code_map_flush = self.code_map_flush.max(if keep_global { 1 } else { 2 });
        self.code_pages[0].clear();
        if !keep_global {
            self.code_pages[1].clear();
            self.large_low = u64::MAX;
            self.large_high = 0;
        }
    }

    /// Drops the translation of one linear address (INVLPG): the whole of a large page.
    pub fn flush_page(&mut self, linear: u64) {
        if (self.large_low..=self.large_high).contains(&linear) {
            return self.flush_tlb(false);
        }
        self.counters.flushes[2] += 1;
        self.tlb.flush_page(linear);
        self.device_pages.flush_page(linear);
        for global in 0..2 {
            if self.code_pages[global].remove(&(linear >> 12)) {
                self.itlb.flush_page(linear);
                self.code_map_flush = self.code_map_flush.max(1 + global as u8);
            }
        }
    }

    /// The physical address of the instruction byte at a linear address.
    #[inline]
    pub fn fetch_address(&mut self, linear: u64) -> Result<u64, Fault> {
        let user = self.cpl() == 3;
        if let Some(physical) = self.itlb.lookup(user, linear) {
            return Ok(physical);
        }
        let view = if user { View::User } else { View::Supervisor };
        Ok(self.translate_page(view, linear, Kind::Fetch)?.physical)
    }

    /// Translates without side effects or faults, with supervisor privilege, for debuggers.
    pub fn peek_translate(&mut self, linear: u64) -> Option<u64> {
        self.walk(View::SupervisorAc, linear, Kind::Read, false).ok().map(|found| found.physical)
    }
}

/// Copies out of guest RAM; accesses of one instruction's size in one piece.
///
/// # Safety
/// `host` is valid for `data.len()` bytes.
unsafe fn copy_out(host: *const u8, data: &mut [u8]) {
    // SAFETY: by the caller's promise; unaligned reads of exactly the slice's size.
    unsafe {
        match data.len() {
            1 => data[0] = host.read_volatile(),
            2 => data.copy_from_slice(&host.cast::<u16>().read_unaligned().to_ne_bytes()),
            4 => data.copy_from_slice(&host.cast::<u32>().read_unaligned().to_ne_bytes()),
            8 => data.copy_from_slice(&host.cast::<u64>().read_unaligned().to_ne_bytes()),
            _ => std::ptr::copy_nonoverlapping(host, data.as_mut_ptr(), data.len()),
        }
    }
}

/// Copies into guest RAM; accesses of one instruction's size in one piece.
///
/// # Safety
/// `host` is valid for `data.len()` bytes.
unsafe fn copy_in(host: *mut u8, data: &[u8]) {
    // SAFETY: by the caller's promise; the match arms know the slice's length.
    unsafe {
        match data.len() {
            1 => host.write_volatile(data[0]),
            2 => host.cast::<u16>().write_unaligned(u16::from_ne_bytes([data[0], data[1]])),
            4 => host.cast::<u32>().write_unaligned(u32::from_bytes(data)),
            8 => host.cast::<u64>().write_unaligned(u64::from_bytes(data)),
            _ => std::ptr::copy_nonoverlapping(data.as_ptr(), host, data.len()),
        }
    }
}
