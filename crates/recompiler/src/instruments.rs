//! Instruments: guest code beside its host code, and a map of translated blocks for `perf`.

use crate::translate::Trace;
use hv::Error;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Listings kept: a block that is translated again and again would fill memory.
const MAX_LISTINGS: usize = 64;

/// What a machine is to tell of the blocks it translates.
///
/// Lock order: `listings` and `map` are taken alone.
#[derive(Default)]
pub struct Instruments {
    /// A linear guest address: blocks that hold it are listed.
    dump_block: Option<u64>,
    listings: Mutex<Vec<String>>,
    map: Option<Mutex<PerfMap>>,
}

/// `/tmp/perf-PID.map`, in which `perf report` looks up code that no file holds: start, size, name. Linux,
/// tools/perf/Documentation/jit-interface.txt.
struct PerfMap {
    file: File,
    /// Address and name, ascending.
    symbols: Vec<(u64, String)>,
}

impl Instruments {
    /// Lists the blocks that hold the linear address `dump_block`.
    pub fn dump_block(mut self, address: Option<u64>) -> Self {
        self.dump_block = address;
        self
    }

    /// Writes a map of all blocks for `perf`; `symbols` are addresses and names of guest code, in any order.
    ///
    /// # Errors
    /// [`Error::Os`] when the map cannot be made.
    pub fn perf_map(mut self, mut symbols: Vec<(u64, String)>) -> Result<Self, Error> {
        symbols.sort();
        let path = format!("/tmp/perf-{}.map", std::process::id());
        // The directory is everybody's: no link of somebody else's is followed.
        let file = File::options()
            .create(true)
            .append(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|source| Error::Os { action: "open the map for perf in /tmp", source })?;
        self.map = Some(Mutex::new(PerfMap { file, symbols }));
        Ok(self)
    }

    /// The listings so far: of each block first the guest's code, then the host's.
    pub fn listings(&self) -> String {
        lock(&self.listings).concat()
    }

    /// A block was translated to `code`, which lies at `base`.
    pub(crate) fn translated(&self, trace: &Trace, base: u64, code: &[u8]) {
        let start = trace.key.mode.linear(trace.key.rip);
        if let Some(map) = &self.map {
            let mut map = lock(map);
            let name = map.name(start);
            // A map with holes is still of use.
            let _ = writeln!(map.file, "{base:x} {:x} {name}", code.len());
        }
        if self.dump_block.is_some_and(|address| address.wrapping_sub(start) < u64::from(trace.size)) {
            let mut listings = lock(&self.listings);
            if listings.len() < MAX_LISTINGS {
                listings.push(listing(trace, base, code));
            }
        }
    }
}

/// Whoever panicked left whole entries.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PerfMap {
    /// The last symbol at or before an address, but none of another half of the address space.
    fn name(&self, address: u64) -> String {
        let behind = self.symbols.partition_point(|(start, _)| *start <= address);
        match behind.checked_sub(1).and_then(|index| self.symbols.get(index)) {
            Some((start, name)) if start >> 63 == address >> 63 => format!("guest:{name}"),
            _ => format!("guest:{address:x}"),
        }
    }
}

/// Guest code, then host code.
fn listing(trace: &Trace, base: u64, code: &[u8]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "guest {:#x}, {} bytes", trace.key.rip, trace.size);
    disassemble(&mut text, &trace.bytes, trace.key.mode.bits() as u32, trace.key.rip);
    let _ = writeln!(text, "host {base:#x}, {} bytes", code.len());
    disassemble(&mut text, code, 64, base);
    text
}

fn disassemble(text: &mut String, bytes: &[u8], bits: u32, address: u64) {
    let mut formatter = IntelFormatter::new();
    let mut instruction = Instruction::default();
    let mut decoder = Decoder::with_ip(bits, bytes, address, DecoderOptions::NONE);
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "  {:016x}  {line}", instruction.ip());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_name_of_the_symbol_before_it() {
        let file = File::open("/dev/null").expect("/dev/null");
        let symbols =
            vec![(0x1000, "low".into()), (0xFFFF_8000_0000_1000, "one".into()), (0xFFFF_8000_0000_2000, "two".into())];
        let map = PerfMap { file, symbols };
        let names = [0xFFF, 0x1FFF, 0xFFFF_8000_0000_0FFF, 0xFFFF_8000_0000_1FFF, 0xFFFF_8000_0000_2000];
        assert_eq!(
            names.map(|address| map.name(address)),
            ["guest:fff", "guest:low", "guest:ffff800000000fff", "guest:one", "guest:two"]
        );
    }
}
