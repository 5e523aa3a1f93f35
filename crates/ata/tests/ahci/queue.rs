use crate::driver::*;
use crate::harness::{Probe, eventually, numbered, numbered_unit, numbered_units};
use ata::Attachment;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SECTORS: u32 = 4096;

fn held(file: &File) -> (Hba, Arc<Probe>) {
    let probe = Probe::new(file);
    let drive = Attachment::Disk { disk: probe.clone(), serial: "S".into() };
    (Hba::new([Some(drive), None, None, None, None, None]), probe)
}

fn buffer(tag: u8) -> u64 {
    DATA + u64::from(tag) * 0x1000
}

fn read(tag: u8, lba: u64, sectors: u16) -> (u8, Command) {
    (tag, Command::queued(false, tag, lba, sectors).with(buffer(tag), u32::from(sectors) * 512))
}

#[test]
fn the_disk_takes_32_commands_and_tells_of_each_when_it_is_done() {
    let file = numbered(512, SECTORS);
    let (hba, probe) = held(&file);
    let port = hba.started(0);
    probe.hold();
    let commands: Vec<_> = (0..32).map(|tag| read(tag, u64::from(tag) * 100, 8)).collect();
    port.enqueue(&commands);
    probe.wait_held();
    // All are in the disk's queue, and none is done; the host can look at the disk, which is not busy.
    eventually("all commands taken", || port.read(CI) == 0);
    assert_eq!((port.read(SACT), port.read(TFD), port.read(PXIS)), (u32::MAX, 0x50, 0));
    let setup = hba.bytes(port.received(), 28);
    assert_eq!((&setup[..5], &setup[20..24]), (&[0x41, 0x20, 0, 0, 0][..], &[0, 16, 0, 0][..]));
    probe.release();
    eventually("all done", || port.read(SACT) == 0);
    assert_eq!(port.read(PXIS), SDBS);
    assert_eq!(hba.bytes(port.received() + 0x58, 4), [0xA1, 0x40, 0x50, 0]);
    for tag in 0..32 {
        let first = u32::from(tag) * 100;
        assert_eq!(hba.bytes(buffer(tag), 4096), numbered_units(512, first..first + 8), "{tag}");
    }
    // Those that are not queued go on.
    port.write(PXIS, u32::MAX);
    port.ok(&Command::new(0x25, 0, 5, 1).with(DATA, 512));
}

#[test]
fn queued_writes_reach_the_file_and_forced_ones_are_durable() {
    let file = numbered(512, SECTORS);
    let (hba, probe) = held(&file);
    let port = hba.started(0);
    for (tag, fua) in [(5, 0), (6, 0x80)] {
        hba.put(buffer(tag), &[tag; 4096]);
        let write = Command::queued(true, tag, 64 * u64::from(tag), 8).with(buffer(tag), 4096).device(0x40 | fua);
        port.enqueue(&[(tag, write)]);
        eventually("the end", || port.read(SACT) == 0);
        let mut data = vec![0; 4096];
        file.read_exact_at(&mut data, 64 * u64::from(tag) * 512).unwrap();
        assert_eq!((data, probe.flushes.load(Ordering::SeqCst)), (vec![tag; 4096], u32::from(fua != 0)));
    }
    // A count of zero is 65536 sectors, which this disk has not.
    port.enqueue(&[read(7, 0, 0)]);
    eventually("an error", || port.read(PXIS) & TFES != 0);
    assert_eq!(port.read(TFD), 0x1051);
}

/// Reads the queue's error log by PIO or DMA.
fn error_log(port: Port, dma: bool) -> Vec<u8> {
    port.answer(&Command::new(if dma { 0x47 } else { 0x2F }, 0, 0x10, 1))
}

#[test]
fn an_error_gives_up_the_queue_until_its_log_is_read() {
    let file = numbered(512, SECTORS);
    let (hba, probe) = held(&file);
    let port = hba.started(0);
    assert_eq!(error_log(port, false)[0], 0x80);
    file.set_len(1000 * 512).unwrap();
    probe.hold();
    port.enqueue(&[read(9, 10, 8), read(20, 998, 4), read(30, 20, 8)]);
    // The first two are in the queue for certain when the third one is.
    probe.wait_held();
    eventually("all commands taken", || port.read(CI) == 0);
    probe.release();
    eventually("an error", || port.read(PXIS) & TFES != 0);
    // The one before is done; the one behind is not, and never will be.
    assert_eq!((port.read(SACT), port.read(TFD)), (1 << 20 | 1 << 30, 0x4051));
    assert_eq!(hba.bytes(port.received() + 0x58, 8), [0xA1, 0x40, 0x51, 0x40, 0, 0, 0, 0]);
    assert_eq!(hba.bytes(buffer(9), 512), numbered_unit(512, 10));
    port.restart();
    assert_eq!((port.read(SACT), port.read(CI)), (0, 0));
    // Nothing but the log is to be had.
    port.fails(&Command::new(0x25, 0, 0, 1).with(DATA, 512), 4);
    port.enqueue(&[read(1, 0, 1)]);
    eventually("an error", || port.read(PXIS) & TFES != 0);
    assert_eq!(port.read(TFD), 0x451);
    port.restart();
    // Tag, status, error and address of the first.
    let log = error_log(port, true);
    assert_eq!(log[..8], [20, 0, 0x51, 0x40, 0xE6, 3, 0, 0x40]);
    assert_eq!(log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(error_log(port, false)[0], 0x80);
    port.enqueue(&[read(30, 20, 8)]);
    eventually("the end", || port.read(SACT) == 0);
    assert_eq!((port.read(TFD), hba.bytes(buffer(30), 512)), (0x50, numbered_unit(512, 20)));
}

#[test]
fn a_tag_in_use_or_of_another_slot_is_refused_with_all_that_is_queued() {
    let file = numbered(512, SECTORS);
    for other in [4, 17] {
        let (hba, probe) = held(&file);
        let port = hba.started(0);
        probe.hold();
        port.enqueue(&[read(4, 10, 8)]);
        eventually("the command taken", || port.read(CI) == 0);
        probe.wait_held();
        // The same tag in its own slot, while that is in use; then another slot's tag.
        port.fill(4, &Command::queued(false, other, 100, 8).with(buffer(8), 4096));
        port.write(CI, 1 << 4);
        probe.release();
        eventually("an error or the end", || port.read(CI) == 0 || port.read(PXIS) & TFES != 0);
        // When the host has been told of the first in the meantime, its tag is free.
        if other != 4 {
            assert_eq!((port.read(TFD), port.read(CI)), (0x451, 1 << 4));
        }
        port.restart();
        let _ = error_log(port, false);
        port.enqueue(&[read(4, 10, 8)]);
        eventually("the end", || port.read(SACT) == 0);
    }
}

#[test]
fn a_command_that_is_not_queued_ends_the_queue() {
    let file = numbered(512, SECTORS);
    let (hba, probe) = held(&file);
    let port = hba.started(0);
    probe.hold();
    port.fill(2, &Command::new(0x25, 0, 0, 1).with(DATA, 512));
    port.enqueue(&[read(0, 10, 8), read(1, 20, 8)]);
    port.issue(1 << 2);
    probe.release();
    eventually("an error", || port.read(PXIS) & TFES != 0);
    assert_eq!((port.read(TFD), port.read(CI) & 1 << 2), (0x451, 1 << 2));
    port.restart();
    assert_eq!(error_log(port, false)[0], 2);
    port.ok(&Command::new(0x25, 0, 0, 1).with(DATA, 512));
}
