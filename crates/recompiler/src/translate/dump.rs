//! Instruments: guest code beside host code, and a map of translated blocks for `perf`.

use crate::blocks::Block;
use crate::mode::Mode;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

/// What is to be shown of the blocks that are translated.
pub struct Dump {
    /// Guest address inside the blocks to disassemble.
    address: Option<u64>,
    /// `/tmp/perf-PID.map`, where `perf report` looks for the names of code that no file holds.
    map: Option<File>,
}

impl Dump {
    /// As the environment asks: `WIRT_DUMP_BLOCK=ADDRESS` (hexadecimal), `WIRT_PERF_MAP=1`.
    pub fn from_environment() -> Option<Self> {
        let address = std::env::var("WIRT_DUMP_BLOCK").ok().and_then(|text| u64::from_str_radix(&text, 16).ok());
        let map = std::env::var_os("WIRT_PERF_MAP").and_then(|_| {
            let path = format!("/tmp/perf-{}.map", std::process::id());
            File::options().create(true).append(true).open(path).ok()
        });
        (address.is_some() || map.is_some()).then_some(Dump { address, map })
    }

    /// A block was translated to `code`, which lies at `base`.
    pub fn translated(&mut self, block: &Block, base: u64, code: &[u8]) {
        let rip = block.key.mode.linear(block.key.rip);
        if let Some(map) = &mut self.map {
            // A map with holes is still of use.
            let _ = writeln!(map, "{base:x} {:x} guest:{rip:x}", code.len());
        }
        if self.address.is_some_and(|address| address.wrapping_sub(rip) < u64::from(block.size)) {
            eprint!("{}", listing(block, base, code));
        }
    }
}

fn bits(mode: Mode) -> u32 {
    mode.bits() as u32
}

/// Guest code, then host code.
fn listing(block: &Block, base: u64, code: &[u8]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "guest {:#x}, {} bytes", block.key.rip, block.size);
    disassemble(&mut text, &block.bytes, bits(block.key.mode), block.key.rip);
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
