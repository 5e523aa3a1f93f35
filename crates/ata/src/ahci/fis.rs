//! Frame information structures as a device sends them, and where they are put. Serial ATA 2.6, section 10.3; AHCI 1.3.1,
//! section 4.2.1.

use crate::registers::{TaskFile, status};

/// Offsets in the received FIS structure.
pub(crate) const DMA_SETUP_AT: u64 = 0x00;
pub(crate) const PIO_SETUP_AT: u64 = 0x20;
pub(crate) const REGISTER_AT: u64 = 0x40;
pub(crate) const SET_DEVICE_BITS_AT: u64 = 0x58;

const REGISTER: u8 = 0x34;
const DMA_SETUP: u8 = 0x41;
const PIO_SETUP: u8 = 0x5F;
const SET_DEVICE_BITS: u8 = 0xA1;

/// Second byte: data go to the host; raise an interrupt.
const TO_HOST: u8 = 1 << 5;
const INTERRUPT: u8 = 1 << 6;

fn flags(to_host: bool, interrupt: bool) -> u8 {
    (if to_host { TO_HOST } else { 0 }) | if interrupt { INTERRUPT } else { 0 }
}

/// The part that register and PIO setup FIS have in common.
fn registers(kind: u8, flags: u8, file: &TaskFile, device: u8) -> [u8; 20] {
    let [low0, low1] = file.lba_low.to_le_bytes();
    let [mid0, mid1] = file.lba_mid.to_le_bytes();
    let [high0, high1] = file.lba_high.to_le_bytes();
    let [count0, count1] = file.count.to_le_bytes();
    let mut fis = [0; 20];
    fis[..8].copy_from_slice(&[kind, flags, file.status, file.error, low0, mid0, high0, device]);
    fis[8..14].copy_from_slice(&[low1, mid1, high1, 0, count0, count1]);
    fis
}

/// Register, device to host.
pub(crate) fn register(file: &TaskFile, device: u8, interrupt: bool) -> [u8; 20] {
    registers(REGISTER, flags(false, interrupt), file, device)
}

/// PIO setup of a block of `size` bytes, with the status behind it.
pub(crate) fn pio_setup(file: &TaskFile, device: u8, to_host: bool, interrupt: bool, size: u16, after: u8) -> [u8; 20] {
    let during = TaskFile { status: status::READY | status::DRQ, ..*file };
    let mut fis = registers(PIO_SETUP, flags(to_host, interrupt), &during, device);
    fis[15] = after;
    fis[16..18].copy_from_slice(&size.to_le_bytes());
    fis
}

/// DMA setup of a queued command's `size` bytes.
pub(crate) fn dma_setup(tag: u8, to_host: bool, size: u32) -> [u8; 28] {
    let mut fis = [0; 28];
    fis[..2].copy_from_slice(&[DMA_SETUP, flags(to_host, false)]);
    fis[4] = tag;
    fis[20..24].copy_from_slice(&size.to_le_bytes());
    fis
}

/// Set device bits: the commands of these tags are done.
pub(crate) fn set_device_bits(status: u8, error: u8, tags: u32) -> [u8; 8] {
    let [t0, t1, t2, t3] = tags.to_le_bytes();
    [SET_DEVICE_BITS, flags(false, true), status & !(status::BSY | status::DRQ), error, t0, t1, t2, t3]
}
