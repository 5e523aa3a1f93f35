//! ATA disks seen by a driver.
#![allow(missing_docs)]

mod harness;

use harness::{ACTIVE, BSY, DATA, DRQ, ERR, INTERRUPT, Pc, Port, Probe, READY, TABLE, disk, eventually, numbered};
use harness::{numbered_unit, numbered_units};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More than 28 heads and sectors make, less than a buffer twice over three times.
const SECTORS: u32 = 70_000;

const UNC: u8 = 0x40;
const IDNF: u8 = 0x10;
const ABRT: u8 = 0x04;

fn file() -> File {
    numbered(512, SECTORS)
}

fn one(file: &File) -> Pc {
    Pc::new([disk(file), None, None, None])
}

fn sectors(file: &File, first: u32, count: usize) -> Vec<u8> {
    let mut data = vec![0; count * 512];
    file.read_exact_at(&mut data, u64::from(first) * 512).unwrap();
    data
}

fn words(data: &[u8]) -> Vec<u16> {
    data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn text(words: &[u16]) -> String {
    words.iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect()
}

/// Reads PIO data in blocks of these sizes, each with its interrupt.
fn read_blocks(port: Port, sizes: &[usize]) -> Vec<u8> {
    let mut data = Vec::new();
    for size in sizes {
        assert_eq!(port.interrupted(), READY | DRQ);
        assert_eq!(port.status(), READY | DRQ);
        assert!(!port.interrupt());
        data.extend(port.read_block(*size));
    }
    assert_eq!(port.settled(), READY);
    data
}

#[test]
fn identify_tells_what_the_disk_is() {
    let file = file();
    let pc = Pc::new([disk(&file), disk(&file), None, None]);
    let port = pc.primary();
    let data = port.answer(0xEC);
    let words = words(&data);
    assert_eq!(text(&words[27..47]).trim_end(), "Wirt disk");
    assert_eq!(text(&words[10..20]).trim_end(), "WIRT-0001");
    assert_eq!((words[0] & 0x8000, words[1], words[3], words[6]), (0, (SECTORS / 1008) as u16, 16, 63));
    assert_eq!(u32::from(words[60]) | u32::from(words[61]) << 16, SECTORS);
    assert_eq!(words[100..104], [SECTORS as u16, (SECTORS >> 16) as u16, 0, 0]);
    assert_eq!((words[49] & 0x0300, words[83] & 0x0400, words[53] & 7), (0x0300, 0x0400, 7));
    assert_eq!((words[255] & 0xFF, data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))), (0xA5, 0));
    // SeaBIOS skips device 1 where device 0 answers for it, as word 93 says.
    assert_ne!(words[93] & 0xDF61, 0x4041);
    assert_eq!(self::words(&one(&file).primary().answer(0xEC))[93] & 0xDF61, 0x4041);
    port.select(1);
    assert_eq!(self::words(&port.answer(0xEC))[93] & 0xDF00, 0x4B00);
}

#[test]
fn pio_reads_give_the_sectors_with_an_interrupt_for_each() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    port.start(0x20, 0, 5, 3);
    assert_eq!(read_blocks(port, &[512; 3]), sectors(&file, 5, 3));
    assert_eq!((port.interrupts(), port.read(2), port.read(3)), (3, 0, 7));
    // Zero is 256, which the buffer does not hold at once.
    port.start(0x21, 0, 1000, 0);
    assert_eq!(read_blocks(port, &[512; 256]), sectors(&file, 1000, 256));
    port.start48(0x24, 60_000, 300);
    assert_eq!(read_blocks(port, &[512; 300]), sectors(&file, 60_000, 300));
}

#[test]
fn pio_reads_of_16_and_32_bits_give_the_same_bytes() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    port.start(0x20, 0, 77, 1);
    port.interrupted();
    assert_eq!(port.read_long(), 77);
    assert_eq!(port.read_block(4), [77; 4]);
    assert_eq!(port.read_byte(), 77);
    assert_eq!(port.read_block(502), [77; 502]);
    assert_eq!(port.read_block(2), [77, 0xFF]);
    assert_eq!(port.settled(), READY);
    assert_eq!(port.read_long(), u32::MAX);
    port.start(0x30, 0, 78, 1);
    assert_eq!(port.settled(), READY | DRQ);
    for value in 0..128 {
        port.write_long(value);
    }
    assert_eq!(port.interrupted(), READY);
    assert_eq!(sectors(&file, 78, 1), (0..128u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
}

#[test]
fn multiple_mode_makes_larger_blocks() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    for command in [0xC4, 0xC5] {
        assert_eq!((port.run(command, 0, 0, 1), port.read(1)), (READY | ERR, ABRT), "not set yet");
    }
    for count in [3, 32, 255] {
        assert_eq!(port.run(0xC6, 0, 0, count), READY | ERR);
    }
    assert_eq!(port.run(0xC6, 0, 0, 16), READY);
    assert_eq!(words(&port.answer(0xEC))[59], 0x0110);
    port.start(0xC4, 0, 100, 19);
    assert_eq!(read_blocks(port, &[16 * 512, 3 * 512]), sectors(&file, 100, 19));
    port.start48(0x29, 200, 150);
    let sizes: Vec<usize> = [vec![8192; 9], vec![6 * 512]].concat();
    assert_eq!(read_blocks(port, &sizes), sectors(&file, 200, 150));
    port.start(0xC5, 0, 300, 18);
    assert!(!port.interrupt());
    port.write_block(&[0xAA; 8192]);
    assert_eq!(port.interrupted(), READY | DRQ);
    port.status();
    port.write_block(&[0xBB; 1024]);
    assert_eq!(port.interrupted(), READY);
    assert_eq!(sectors(&file, 300, 18), [vec![0xAA; 8192], vec![0xBB; 1024]].concat());
}

#[test]
fn pio_writes_reach_the_file_before_the_last_interrupt() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    // More than the buffer holds.
    let data: Vec<u8> = (0..200 * 512).map(|at| (at % 251) as u8).collect();
    port.start(0x30, 0, 40, 200);
    assert_eq!((port.settled(), port.interrupt()), (READY | DRQ, false));
    for (index, sector) in data.chunks_exact(512).enumerate() {
        port.write_block(sector);
        let status = port.interrupted();
        assert_eq!((status, port.status()), if index < 199 { (READY | DRQ, READY | DRQ) } else { (READY, READY) });
    }
    assert_eq!(sectors(&file, 40, 200), data);
    assert_eq!(
        [sectors(&file, 39, 1), sectors(&file, 240, 1)].concat(),
        [numbered_unit(512, 39), numbered_unit(512, 240)].concat()
    );
    assert_eq!((port.read(2), port.read(3)), (0, 239));
}

#[test]
fn cylinders_heads_and_sectors_follow_the_geometry() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    let start = |command: u8, cylinder: u16, head: u8, sector: u8| {
        port.write(6, 0xA0 | head);
        port.write(2, 1);
        port.write(3, sector);
        port.write(4, cylinder as u8);
        port.write(5, (cylinder >> 8) as u8);
        port.write(7, command);
    };
    start(0x20, 3, 2, 1);
    assert_eq!(read_blocks(port, &[512]), sectors(&file, (3 * 16 + 2) * 63, 1));
    // INITIALIZE DEVICE PARAMETERS: 4 heads, 17 sectors.
    port.write(6, 0xA3);
    port.write(2, 17);
    port.write(7, 0x91);
    assert_eq!((port.interrupted(), port.status()), (READY, READY));
    let words = words(&port.answer(0xEC));
    assert_eq!(words[54..57], [(SECTORS / 68) as u16, 4, 17]);
    assert_eq!(u32::from(words[57]) | u32::from(words[58]) << 16, SECTORS / 68 * 68);
    start(0x20, 300, 3, 17);
    assert_eq!(read_blocks(port, &[512]), sectors(&file, 300 * 68 + 3 * 17 + 16, 1));
    for (head, sector) in [(4, 1), (0, 0), (0, 18)] {
        start(0x20, 0, head, sector);
        assert_eq!((port.interrupted(), port.read(1), port.status()), (READY | ERR, IDNF, READY | ERR));
    }
    // Nothing to divide by.
    port.write(2, 0);
    port.write(7, 0x91);
    assert_eq!((port.interrupted(), port.read(1)), (READY | ERR, ABRT));
    // SEEK there and beyond the end.
    start(0x70, 1000, 0, 1);
    assert_eq!(port.interrupted(), READY);
    start(0x70, 2000, 0, 1);
    assert_eq!((port.interrupted(), port.read(1)), (READY | ERR, IDNF));
}

#[test]
fn dma_moves_sectors_between_file_and_memory() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    pc.set_table(TABLE, &[(DATA + 2, 700, false), (0x20_0000, 836, true)]);
    port.start(0xC8, 0, 5, 3);
    assert_eq!(port.alternate() & BSY, BSY);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    assert!(!port.interrupt());
    let read = [pc.bytes(DATA + 2, 700), pc.bytes(0x20_0000, 836)].concat();
    assert_eq!(read, sectors(&file, 5, 3));
    // The other way round: start, then the command; a descriptor of 64 KiB.
    let data: Vec<u8> = (0..0x1_0000).map(|at| (at % 241) as u8).collect();
    pc.memory.write(DATA.into(), &data).unwrap();
    pc.set_table(TABLE, &[(DATA, 0, true)]);
    port.start_master(TABLE, false);
    assert_eq!(port.master_status(), ACTIVE);
    port.start48(0x35, 300, 128);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    assert_eq!(sectors(&file, 300, 128), data);
    assert_eq!(sectors(&file, 428, 1), numbered_unit(512, 428));
    // All that one command can move.
    let table: Vec<_> = (0..128).map(|index| (DATA + index % 8 * 0x1_0000, 0, index == 127)).collect();
    pc.set_table(TABLE, &table);
    port.start48(0x25, 1024, 16_384);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    assert_eq!(pc.bytes(DATA, 0x8_0000), sectors(&file, 16_384, 1024));
}

#[test]
fn what_cannot_be_is_refused_without_moving_anything() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    for (lba, count) in [(SECTORS, 1), (SECTORS - 1, 2), (0x0FFF_FFFF, 1)] {
        for command in [0x20, 0x30, 0x40, 0xC8, 0xCA] {
            assert_eq!(port.run(command, 0, lba, count), READY | ERR, "{command:#x} at {lba}");
            assert_eq!(port.read(1), IDNF);
        }
    }
    port.start48(0x25, (1 << 48) - 1, 0);
    assert_eq!((port.interrupted(), port.read(1)), (READY | ERR, IDNF));
    port.status();
    // READ and WRITE LONG, FORMAT TRACK, PACKET, SECURITY SET PASSWORD, NOP, DEVICE RESET.
    for command in [0x22, 0x32, 0x50, 0xA0, 0xA1, 0xF1, 0x00, 0x08] {
        assert_eq!((port.run(command, 0, 0, 1), port.read(1)), (READY | ERR, ABRT), "{command:#x}");
    }
    assert_eq!(sectors(&file, SECTORS - 1, 1), numbered_unit(512, SECTORS - 1));
    assert_eq!(file.metadata().unwrap().len(), u64::from(SECTORS) * 512);
    assert_eq!(port.run(0x40, 0, SECTORS - 4, 4), READY);
    // The error register is clear again.
    assert_eq!(port.read(1), 0);
}

#[test]
fn sectors_that_cannot_be_read_are_named_and_those_before_them_given() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    file.set_len(1000 * 512).unwrap();
    port.start(0x20, 0, 996, 8);
    for sector in 996..1000 {
        assert_eq!(port.interrupted(), READY | DRQ);
        port.status();
        assert_eq!(port.read_block(512), numbered_unit(512, sector));
    }
    assert_eq!((port.interrupted(), port.status()), (READY | ERR, READY | ERR));
    assert_eq!((port.read(1), port.read(3), port.read(4)), (UNC, 1000u16 as u8, (1000u16 >> 8) as u8));
    assert_eq!((port.run(0x40, 0, 999, 2), port.read(1), port.read(3)), (READY | ERR, UNC, 1000u16 as u8));
    pc.set_table(TABLE, &[(DATA, 1024, true)]);
    port.start(0xC8, 0, 999, 2);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY | ERR));
    assert_eq!(port.read(1), UNC);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let file = file();
    let readonly = ata::Attachment::Disk { disk: harness::image(&file), serial: String::new() };
    let pc = Pc::new([Some(readonly), None, None, None]);
    let port = pc.primary();
    for command in [0x30, 0x34, 0xCA, 0x35] {
        assert_eq!((port.run(command, 0, 3, 1), port.read(1)), (READY | ERR, ABRT));
    }
    assert_eq!((port.run(0x06, 1, 0, 1), port.run(0xE7, 0, 0, 0)), (READY | ERR, READY));
}

#[test]
fn without_a_write_cache_every_write_is_durable_first() {
    let file = file();
    let probe = Probe::new(&file);
    let drive = ata::Attachment::Disk { disk: probe.clone(), serial: String::new() };
    let pc = Pc::new([Some(drive), None, None, None]);
    let port = pc.primary();
    let flushes = || probe.flushes.swap(0, Ordering::SeqCst);
    let write = |command: u8| {
        port.start(command, 0, 9, 1);
        port.settled();
        port.write_block(&[9; 512]);
        assert_eq!(port.interrupted(), READY);
        port.status();
    };
    write(0x30);
    assert_eq!(flushes(), 0);
    assert_eq!((port.run(0xE7, 0, 0, 0), port.run(0xEA, 0, 0, 0), flushes()), (READY, READY, 2));
    pc.set_table(TABLE, &[(DATA, 512, true)]);
    let write_dma = |command: u8| {
        port.start(command, 0, 9, 1);
        port.start_master(TABLE, false);
        assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    };
    // Forced unit access.
    write_dma(0x3D);
    assert_eq!(flushes(), 1);
    write_dma(0xCA);
    assert_eq!(flushes(), 0);
    assert_eq!((port.run(0xEF, 0x82, 0, 0), flushes()), (READY, 1));
    assert_eq!(words(&port.answer(0xEC))[85] & 0x20, 0);
    write(0x30);
    write_dma(0xCA);
    assert_eq!(flushes(), 2);
    // A reset does not bring the cache back.
    port.reset();
    write(0x30);
    assert_eq!(flushes(), 1);
    assert_eq!(port.run(0xEF, 0x02, 0, 0), READY);
    write(0x30);
    assert_eq!((flushes(), port.run(0xE0, 0, 0, 0), flushes()), (0, READY, 1));
}

#[test]
fn a_busy_drive_is_left_alone_and_a_reset_waits_for_its_work() {
    let file = file();
    let probe = Probe::new(&file);
    let drive = ata::Attachment::Disk { disk: probe.clone(), serial: String::new() };
    let pc = Pc::new([Some(drive), disk(&file), None, None]);
    let port = pc.primary();
    probe.hold();
    port.start(0x20, 0, 100, 1);
    probe.wait_held();
    assert_eq!(port.alternate() & BSY, BSY);
    port.select(1);
    port.write(3, 0x55);
    port.write(7, 0xEC);
    assert_eq!((port.alternate() & BSY, port.read(6) & 0x10, port.read(3)), (BSY, 0, 100));
    port.control(0x04);
    assert_eq!(port.alternate(), BSY);
    port.control(0x00);
    assert_eq!(port.alternate(), BSY);
    probe.release();
    assert_eq!(port.settled(), READY);
    assert_eq!((port.read(1), port.read(2), port.read(3), port.read(4), port.read(5)), (1, 1, 1, 0, 0));
    assert_eq!((port.interrupt(), port.interrupts()), (false, 0));
    // DMA that a reset cuts short leaves memory alone from then on.
    probe.hold();
    pc.set_table(TABLE, &[(DATA, 0, false), (DATA, 0, true)]);
    port.start(0xC8, 0, 0, 0);
    port.start_master(TABLE, true);
    probe.wait_held();
    port.control(0x04);
    probe.release();
    port.control(0x00);
    assert_eq!(port.settled(), READY);
    port.stop_master();
    pc.memory.write(DATA.into(), &[0x55; 4096]).unwrap();
    port.start(0x20, 0, 1, 1);
    assert_eq!(read_blocks(port, &[512]), numbered_unit(512, 1));
    assert_eq!(pc.bytes(DATA, 4096), [0x55; 4096]);
}

#[test]
fn stopping_the_bus_master_ends_dma() {
    let file = file();
    let probe = Probe::new(&file);
    let drive = ata::Attachment::Disk { disk: probe.clone(), serial: String::new() };
    let pc = Pc::new([Some(drive), None, None, None]);
    let port = pc.primary();
    for bus_master in [true, false] {
        probe.hold();
        // Three pieces, of which the first is on its way.
        let table: Vec<_> = (0..48).map(|index| (DATA + index * 0x1_0000, 0, index == 47)).collect();
        pc.set_table(TABLE, &table);
        port.start48(0x25, 0, 6144);
        port.start_master(TABLE, true);
        probe.wait_held();
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| if bus_master { port.stop_master() } else { pc.set_master(false) });
            if bus_master {
                eventually("the end of activity", || port.master_status() & ACTIVE == 0);
            }
            assert!(!stopping.is_finished());
            probe.release();
            stopping.join().unwrap();
            // From now on memory stays as it is.
            pc.memory.write(DATA.into(), &[0x55; 0x1000]).unwrap();
            pc.memory.write(u64::from(DATA) + 0x10_0000, &[0x55; 0x1000]).unwrap();
        });
        assert_eq!(port.settled(), READY);
        if bus_master {
            assert_eq!((port.interrupt(), port.master_status() & INTERRUPT), (false, 0));
            assert_eq!(pc.bytes(DATA + 0x20_0000, 512), [0; 512], "the third piece is not read");
        }
        port.stop_master();
        pc.set_master(true);
        port.start(0x20, 0, 8, 1);
        assert_eq!(read_blocks(port, &[512]), numbered_unit(512, 8));
        assert_eq!([pc.bytes(DATA, 0x1000), pc.bytes(DATA + 0x10_0000, 0x1000)], [[0x55; 0x1000]; 2]);
    }
}

#[test]
fn an_interrupt_waits_while_it_is_disabled_or_its_drive_not_selected() {
    let file = file();
    let pc = Pc::new([disk(&file), disk(&file), None, None]);
    let port = pc.primary();
    port.control(0x02);
    port.start(0xE7, 0, 0, 0);
    assert_eq!((port.settled(), port.interrupt()), (READY, false));
    assert_eq!(port.master_status() & INTERRUPT, 0);
    port.control(0x00);
    assert!(port.interrupt());
    assert_eq!(port.master_status() & INTERRUPT, INTERRUPT);
    port.master_write(2, 1, INTERRUPT.into());
    assert_eq!((port.master_status() & INTERRUPT, port.interrupt()), (0, true));
    port.select(1);
    assert!(!port.interrupt());
    port.select(0);
    // The alternate status acknowledges nothing, the status does.
    assert_eq!((port.alternate(), port.interrupt(), port.status(), port.interrupt()), (READY, true, READY, false));
}

#[test]
fn absent_drives_have_no_status_and_an_empty_channel_floats() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    port.write(6, 0xB0);
    assert_eq!((port.alternate(), port.status(), port.read(6)), (0, 0, 0xB0));
    // Device 0 answers for it, so what is written can be read back.
    port.write(2, 0x55);
    port.write(3, 0xAA);
    assert_eq!((port.read(2), port.read(3)), (0x55, 0xAA));
    port.write(7, 0xEC);
    assert_eq!((port.alternate(), port.interrupt()), (0, false));
    port.reset();
    assert_eq!((port.read(6) & 0x10, port.status()), (0, READY));
    port.write(6, 0xB0);
    assert_eq!((port.status(), port.read(1), port.read(4), port.read(5)), (0, 1, 0, 0));

    let empty = pc.secondary();
    empty.write(6, 0xA0);
    empty.write(7, 0xEC);
    assert_eq!((empty.alternate(), (1..8).map(|at| empty.read(at)).all(|value| value == 0)), (0, true));

    let pc = Pc::new([None, disk(&file), None, None]);
    let port = pc.primary();
    assert_eq!((0..8).map(|at| port.read(at) & (BSY | DRQ)).collect::<Vec<_>>(), [136, 0, 0, 0, 0, 0, 0, 0]);
    port.select(1);
    assert_eq!(text(&words(&port.answer(0xEC))[27..31]), "Wirt dis");
    port.write(7, 0x90);
    assert_eq!((port.status(), port.interrupt()), (0, false));
    port.select(1);
    assert_eq!((port.status(), port.read(1)), (READY, 1));
}

#[test]
fn diagnostics_reset_both_and_select_device_0() {
    let file = file();
    let pc = Pc::new([disk(&file), disk(&file), None, None]);
    let port = pc.primary();
    port.select(1);
    port.write(4, 0x77);
    port.write(7, 0x90);
    assert_eq!((port.interrupted(), port.read(6) & 0x10, port.read(1)), (READY, 0, 1));
    assert_eq!((port.read(2), port.read(3), port.read(4), port.read(5)), (1, 1, 0, 0));
    port.select(1);
    assert_eq!((port.status(), port.read(1), port.read(4)), (READY, 1, 0));
}

#[test]
fn hob_shows_what_was_written_before() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    for value in [0x12, 0x34] {
        (2..6).for_each(|register| port.write(register, value + register as u8));
    }
    port.control(0x80);
    assert_eq!((2..6).map(|register| port.read(register)).collect::<Vec<_>>(), [0x14, 0x15, 0x16, 0x17]);
    // Any write ends that.
    port.write(1, 0);
    assert_eq!((2..6).map(|register| port.read(register)).collect::<Vec<_>>(), [0x36, 0x37, 0x38, 0x39]);
    // READ NATIVE MAX ADDRESS EXT tells 48 bits, the other 28.
    assert_eq!(port.run(0x27, 0, 0, 0), READY);
    let low = [port.read(3), port.read(4), port.read(5)];
    port.control(0x80);
    let high = [port.read(3), port.read(4), port.read(5)];
    assert_eq!((low, high), ([(SECTORS - 1) as u8, ((SECTORS - 1) >> 8) as u8, ((SECTORS - 1) >> 16) as u8], [0; 3]));
    assert_eq!(port.run(0xF8, 0, 0, 0), READY);
    assert_eq!([port.read(3), port.read(4), port.read(5)], low);
}

#[test]
fn trim_gives_back_all_ranges_or_none() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    // A command with 16 bits of count.
    let start = |features: u8, blocks: u8| {
        port.write(1, features);
        [0, blocks].into_iter().for_each(|count| port.write(2, count));
        port.write(7, 0x06);
    };
    let trim = |ranges: &[(u64, u64)], blocks: u8| {
        let mut data = vec![0; usize::from(blocks) * 512];
        for (entry, (lba, count)) in data.chunks_exact_mut(8).zip(ranges) {
            entry.copy_from_slice(&(lba | count << 48).to_le_bytes());
        }
        pc.memory.write(DATA.into(), &data).unwrap();
        pc.set_table(TABLE, &[(DATA, u32::from(blocks) * 512, true)]);
        start(1, blocks);
        port.start_master(TABLE, false);
        port.finish_dma()
    };
    assert_eq!(trim(&[(1024, 64), (0, 0), (SECTORS.into(), 0), (2048, 8)], 1), (INTERRUPT, READY));
    assert_eq!(sectors(&file, 1023, 1), numbered_unit(512, 1023));
    assert_eq!(sectors(&file, 1088, 1), numbered_unit(512, 1088));
    assert_eq!((sectors(&file, 1024, 64), sectors(&file, 2048, 8)), (vec![0; 64 * 512], vec![0; 4096]));
    assert_eq!(trim(&[(4096, 8), (u64::from(SECTORS) - 1, 2)], 8), (INTERRUPT, READY | ERR));
    assert_eq!(trim(&[(4096, 8), ((1 << 48) - 1, 0xFFFF)], 8), (INTERRUPT, READY | ERR));
    assert_eq!((port.read(1), sectors(&file, 4096, 1)), (IDNF, numbered_unit(512, 4096)));
    for (features, blocks) in [(0, 1), (1, 0), (1, 9)] {
        start(features, blocks);
        assert_eq!((port.interrupted(), port.read(1)), (READY | ERR, ABRT));
    }
}

#[test]
fn power_modes_and_features_are_remembered() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    let mode = || {
        assert_eq!(port.run(0xE5, 0, 0, 0), READY);
        port.read(2)
    };
    assert_eq!((mode(), port.run(0xE0, 0, 0, 0), mode()), (0xFF, READY, 0));
    assert_eq!((port.run(0x40, 0, 0, 1), mode()), (READY, 0xFF));
    assert_eq!((port.run(0xE2, 0, 0, 12), mode(), port.run(0xE1, 0, 0, 0), mode()), (READY, 0, READY, 0xFF));
    // A sleeping disk is woken by a reset alone.
    assert_eq!((port.run(0xE6, 0, 0, 0), port.run(0x40, 0, 0, 1)), (READY, READY | ERR));
    port.reset();
    assert_eq!(port.run(0x40, 0, 0, 1), READY);
    // Multiword DMA 2, Ultra DMA 4; modes that there are not.
    for (code, multiword, ultra) in [(0x22, 0x0407, 0x003F), (0x44, 0x0007, 0x103F)] {
        assert_eq!(port.run(0xEF, 0x03, 0, code), READY);
        let words = words(&port.answer(0xEC));
        assert_eq!((words[63], words[88]), (multiword, ultra));
    }
    for code in [0x23, 0x46, 0x80, 0x0D] {
        assert_eq!(port.run(0xEF, 0x03, 0, code), READY | ERR);
    }
    assert_eq!((port.run(0xEF, 0x55, 0, 0), words(&port.answer(0xEC))[85] & 0x40), (READY, 0));
    assert_eq!((port.run(0xEF, 0xFF, 0, 0), port.read(1)), (READY | ERR, ABRT));
}

#[test]
fn smart_says_that_the_disk_is_well() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    const KEY: u32 = 0xC2_4F00;
    assert_eq!((port.run(0xB0, 0xDA, KEY, 0), port.read(4), port.read(5)), (READY, 0x4F, 0xC2));
    for function in [0xD0, 0xD1] {
        port.start(0xB0, function, KEY, 1);
        let data = read_blocks(port, &[512]);
        assert_eq!((data[0], data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))), (0x10, 0));
    }
    assert_eq!(port.run(0xB0, 0xDA, 0, 0), READY | ERR);
    assert_eq!((port.run(0xB0, 0xD9, KEY, 0), port.run(0xB0, 0xDA, KEY, 0)), (READY, READY | ERR));
    assert_eq!((port.run(0xB0, 0xD8, KEY, 0), port.run(0xB0, 0xDA, KEY, 0)), (READY, READY));
}

#[test]
fn a_snapshot_in_the_middle_of_a_command_goes_on_elsewhere() {
    let file = file();
    let pc = one(&file);
    let port = pc.primary();
    assert_eq!(port.run(0xC6, 0, 0, 8), READY);
    // A read of which a part is in the buffer and a part of that is taken.
    port.start(0xC4, 0, 5000, 200);
    port.interrupted();
    port.status();
    let mut data = port.read_block(4096 + 100);
    let state = pc.snapshot();
    let other = Pc::with_memory([disk(&file), None, None, None], pc.memory.clone());
    other.load(&state).unwrap();
    let port = other.primary();
    assert_eq!(port.status(), READY | DRQ);
    data.extend(port.read_block(4096 - 100));
    data.extend(read_blocks(port, &[4096; 23]));
    assert_eq!(data, sectors(&file, 5000, 200));
    // DMA that waits for its start.
    other.set_table(TABLE, &[(DATA, 512, true)]);
    port.start(0xC8, 0, 77, 1);
    let state = other.snapshot();
    let third = Pc::with_memory([disk(&file), None, None, None], pc.memory.clone());
    third.load(&state).unwrap();
    third.primary().start_master(TABLE, true);
    assert_eq!(third.primary().finish_dma(), (INTERRUPT, READY));
    assert_eq!(pc.bytes(DATA, 512), numbered_unit(512, 77));
    // The machine has other drives.
    assert!(Pc::new([disk(&numbered(512, 8)), None, None, None]).load(&state).unwrap_err().contains("size"));
    assert!(Pc::new([disk(&file), disk(&file), None, None]).load(&state).is_err());
}

#[test]
fn nothing_happens_during_a_pause() {
    let file = file();
    let probe = Probe::new(&file);
    let drive = ata::Attachment::Disk { disk: probe.clone(), serial: String::new() };
    let pc = Pc::new([Some(drive), None, None, None]);
    let port = pc.primary();
    probe.hold();
    port.start(0x20, 0, 3, 1);
    probe.wait_held();
    std::thread::scope(|scope| {
        let pausing = scope.spawn(|| pc.pci.pause());
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(!pausing.is_finished());
        probe.release();
    });
    // What was begun is over; what comes now waits.
    assert_eq!(port.interrupted(), READY | DRQ);
    port.reset();
    port.start(0x20, 0, 4, 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(port.alternate() & BSY, BSY);
    pc.pci.resume();
    assert_eq!(read_blocks(port, &[512]), numbered_unit(512, 4));
}

#[test]
fn a_machine_reset_ends_everything() {
    let file = file();
    let probe = Probe::new(&file);
    let drive = ata::Attachment::Disk { disk: probe.clone(), serial: String::new() };
    let pc = Pc::new([Some(drive), None, None, None]);
    let port = pc.primary();
    assert_eq!(port.run(0xC6, 0, 0, 8), READY);
    port.start(0x30, 0, 3, 2);
    port.settled();
    port.write_block(&[0xEE; 700]);
    board::pci::PciFunction::reset(&*pc.ide);
    assert_eq!((port.status(), port.read(1), port.interrupt()), (READY, 1, false));
    assert_eq!((port.run(0xC4, 0, 0, 1), sectors(&file, 3, 2)), (READY | ERR, numbered_units(512, 3..5)));
    eventually("one who lets go", || Arc::strong_count(&probe) == 2);
}

#[test]
fn what_cannot_be_attached_is_refused_in_a_sentence() {
    let file = tempfile::tempfile().unwrap();
    let new = |drive| {
        let buses = Arc::new(board::Buses::new());
        let lines = Arc::new(harness::Lines::default());
        let irqs = board::IrqLines::new(lines.clone());
        let pci = board::pci::PciBus::new(&buses, lines, &irqs).unwrap();
        ata::Ide::insert([drive, None, None, None], &harness::memory(), &buses, &pci, &irqs).err().unwrap().to_string()
    };
    assert!(new(disk(&file)).contains("512"));
    let serial =
        |serial: &str| Some(ata::Attachment::Disk { disk: harness::image(&self::file()), serial: serial.into() });
    assert!(new(serial("123456789012345678901")).contains("serial"));
    assert!(new(serial("a\nb")).contains("serial"));
}
