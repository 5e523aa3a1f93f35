use crate::driver::*;
use crate::harness::{Probe, cdrom, disk, image, numbered, numbered_unit, numbered_units};
use ata::Attachment;
use block::Medium;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

const SECTORS: u32 = 4096;

fn one(file: &File) -> Hba {
    Hba::new([disk(file), None, None, None, None, None])
}

fn sectors(file: &File, first: u32, count: usize) -> Vec<u8> {
    let mut data = vec![0; count * 512];
    file.read_exact_at(&mut data, u64::from(first) * 512).unwrap();
    data
}

fn word(data: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([data[2 * index], data[2 * index + 1]])
}

#[test]
fn identify_tells_of_a_serial_disk_with_a_queue() {
    let hba = one(&numbered(512, SECTORS));
    let port = hba.started(0);
    let status = port.ok(&Command::new(0xEC, 0, 0, 0).with(DATA, 512));
    let answer = hba.bytes(DATA, 512);
    // 32 commands, NCQ at 1.5 and 3 Gbit/s, logs, forced unit access, TRIM, and nothing of a parallel cable.
    let words = [75, 76, 84, 87, 93, 169, 222].map(|index| word(&answer, index));
    assert_eq!(words, [31, 0x0106, 0x4060, 0x4060, 0, 1, 0x101F]);
    assert_eq!(u32::from(word(&answer, 60)) | u32::from(word(&answer, 61)) << 16, SECTORS);
    assert_eq!(answer.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    // PIO data came with a PIO setup FIS, which holds the status behind them; and no register FIS.
    assert_eq!((status, port.byte_count(3)), (PSS, 512));
    let setup = hba.bytes(port.received() + 0x20, 20);
    assert_eq!((&setup[..4], &setup[15..18]), (&[0x5F, 0x60, 0x58, 0][..], &[0x50, 0, 2][..]));
}

#[test]
fn data_of_every_protocol_move_between_file_and_memory() {
    let file = numbered(512, SECTORS);
    let hba = one(&file);
    let port = hba.started(0);
    // READ SECTORS, MULTIPLE (not set up), DMA, and the 48-bit forms, in two pieces of which one is odd.
    for command in [0x20, 0x24, 0xC8, 0x25] {
        let status = port.ok(&Command::new(command, 0, 9, 3).with(DATA + 2, 701).with(0x20_0001, 835));
        assert_eq!(status, if command < 0x25 { PSS } else { DHRS }, "{command:#x}");
        let read = [hba.bytes(DATA + 2, 701), hba.bytes(0x20_0000, 835)].concat();
        assert!(read == numbered_units(512, 9..12) && port.byte_count(3) == 1536);
    }
    port.fails(&Command::new(0xC4, 0, 9, 3).with(DATA, 1536), 4);
    for (command, lba) in [(0x30, 100), (0x34, 200), (0xCA, 300), (0x35, 400), (0x3D, 500)] {
        let data: Vec<u8> = (0..5 * 512).map(|at| (at as u64 * 7 + lba) as u8).collect();
        hba.put(DATA, &data);
        let status = port.ok(&Command::new(command, 0, lba, 5).with(DATA, 512).with(DATA + 512, 2048));
        assert_eq!((status, port.byte_count(3)), (DHRS, 2560));
        assert!(sectors(&file, lba as u32, 5) == data);
        assert_eq!(sectors(&file, lba as u32 + 5, 1), numbered_unit(512, lba as u32 + 5));
    }
    // All that one command can move, by the largest descriptors, one after the other to the same place.
    let mut all = Command::new(0x25, 0, 0, 4096);
    all.descriptors = vec![(DATA, 1 << 20, false), (DATA, 1 << 20, true)];
    assert_eq!(port.ok(&all), DHRS | DPS);
    assert!(hba.bytes(DATA, 1 << 20) == sectors(&file, 2048, 2048) && port.byte_count(3) == 2 << 20);
}

#[test]
fn commands_without_data_end_with_a_register_fis() {
    let file = numbered(512, SECTORS);
    let probe = Probe::new(&file);
    let drive = Attachment::Disk { disk: probe.clone(), serial: "S".into() };
    let hba = Hba::new([Some(drive), None, None, None, None, None]);
    let port = hba.started(0);
    assert_eq!((port.ok(&Command::new(0xE7, 0, 0, 0)), port.ok(&Command::new(0xEA, 0, 0, 0))), (DHRS, DHRS));
    assert_eq!(probe.flushes.load(Ordering::SeqCst), 2);
    // READ NATIVE MAX ADDRESS EXT tells an address in the FIS.
    port.ok(&Command::new(0x27, 0, 0, 0));
    let fis = hba.bytes(port.received() + 0x40, 14);
    assert_eq!((&fis[..4], &fis[4..7]), (&[0x34, 0x40, 0x50, 0][..], &[0xFF, 0x0F, 0][..]));
    port.ok(&Command::new(0x42, 0, 4000, 96));
    port.fails(&Command::new(0x42, 0, 4000, 97), 0x10);
    port.ok(&Command::new(0xEF, 0x03, 0, 0x45));
    // EXECUTE DEVICE DIAGNOSTIC tells in the error register that all is well.
    assert_eq!(port.run(&Command::new(0x90, 0, 0, 0).device(0)), (0x150, DHRS));
    // TRIM.
    let mut ranges = vec![0; 512];
    ranges[..8].copy_from_slice(&(1024u64 | 64 << 48).to_le_bytes());
    hba.put(DATA, &ranges);
    port.ok(&Command::new(0x06, 1, 0, 1).with(DATA, 512));
    assert!(sectors(&file, 1024, 64) == vec![0; 64 * 512] && sectors(&file, 1088, 1) == numbered_unit(512, 1088));
    ranges[..8].copy_from_slice(&(4000u64 | 97 << 48).to_le_bytes());
    hba.put(DATA, &ranges);
    port.fails(&Command::new(0x06, 1, 0, 1).with(DATA, 512), 0x10);
    assert_eq!(sectors(&file, 4000, 1), numbered_unit(512, 4000));
}

#[test]
fn slots_have_their_turn_one_after_the_other() {
    let hba = one(&numbered(512, SECTORS));
    let port = hba.started(0);
    let slots = [30u8, 2, 0, 31];
    for slot in slots {
        let at = DATA + u64::from(slot) * 512;
        port.fill(slot, &Command::new(0x25, 0, slot.into(), 1).with(at, 512));
    }
    port.issue(slots.iter().fold(0, |bits, slot| bits | 1 << slot));
    crate::harness::eventually("the end of all", || port.read(CI) == 0);
    for slot in slots {
        assert_eq!(hba.bytes(DATA + u64::from(slot) * 512, 512), numbered_unit(512, slot.into()));
    }
    // From slot 0 on: the last is 31.
    assert_eq!(port.read(CMD) >> 8 & 31, 31);
}

#[test]
fn data_lie_above_4_gib_as_well() {
    use hv::{GuestMemory, Region};
    let low = Region { address: 0, size: 16 << 20, offset: 0, readonly: false };
    let high = Region { address: HIGH, size: 1 << 20, offset: 16 << 20, readonly: false };
    let memory = std::sync::Arc::new(GuestMemory::new(&[low, high]).unwrap());
    let file = numbered(512, SECTORS);
    let hba = Hba::with_memory([disk(&file), None, None, None, None, None], memory);
    let port = hba.started(0);
    port.ok(&Command::new(0x25, 0, 5, 2).with(HIGH + 0x8000, 1024));
    assert_eq!(hba.bytes(HIGH + 0x8000, 1024), numbered_units(512, 5..7));
    // The command list, the command table and the received FISes, too.
    port.write(CMD, FRE);
    port.write(CMD, 0);
    for register in [0x04, 0x0C] {
        port.write(register, 1);
    }
    port.write(CMD, FRE | ST);
    port.fill(0, &Command::new(0x42, 0, 5, 2));
    hba.put(HIGH + 0x1_0000, &hba.bytes(port.list(), 32));
    hba.put(HIGH + 0x1_0000 + 12, &1u32.to_le_bytes());
    hba.put(HIGH + TABLES, &hba.bytes(TABLES, 64));
    port.issue(1);
    crate::harness::eventually("the end", || port.read(CI) == 0);
    assert_eq!(hba.bytes(HIGH + RECEIVED + 0x40, 4), [0x34, 0x40, 0x50, 0]);
}

#[test]
fn a_disc_is_read_by_packets() {
    let file = numbered(2048, 300);
    let medium = Medium::new(Some(image(&file)));
    let hba = Hba::new([None, cdrom(&medium), None, None, None, None]);
    let port = hba.started(1);
    let identity = port.answer(&Command::new(0xA1, 0, 0, 0));
    assert_eq!((word(&identity, 0), word(&identity, 76), &identity[54..66]), (0x85C0, 6, &b"iWtrC -DOR M"[..]));
    // INQUIRY by PIO: a PIO setup FIS for the data, then a register FIS.
    let status = port.ok(&Command::packet(&[0x12, 0, 0, 0, 36], false).with(DATA, 36));
    assert_eq!((status, port.byte_count(3), hba.bytes(DATA + 8, 4)), (PSS | DHRS, 36, b"WIRT".to_vec()));
    let received = hba.bytes(port.received() + 0x20, 0x34);
    assert_eq!((received[0], received[1], received[12], &received[16..18]), (0x5F, 0x60, 2, &[36, 0][..]));
    assert_eq!((received[0x20], received[0x20 + 12]), (0x34, 3));
    // READ(10) by DMA and by PIO.
    for dma in [true, false] {
        hba.put(DATA, &[0; 8192]);
        let read = Command::packet(&[0x28, 0, 0, 0, 0, 17, 0, 0, 3], dma).with(DATA, 2048).with(DATA + 2048, 4096);
        assert_eq!(port.ok(&read), if dma { DHRS } else { PSS | DHRS });
        assert_eq!((hba.bytes(DATA, 6144), port.byte_count(3)), (numbered_units(2048, 17..20), 6144));
    }
    // READ CD with header and user data.
    port.ok(&Command::packet(&[0xBE, 0, 0, 0, 0, 5, 0, 0, 2, 0x30], true).with(DATA, 2 * 2052));
    assert_eq!(hba.bytes(DATA + 2052, 6), [0, 2, 6, 1, 6, 0]);
    // Out of range: the sense key is in the error register, and REQUEST SENSE tells more.
    port.fails(&Command::packet(&[0x28, 0, 0, 0, 1, 44, 0, 0, 1], true).with(DATA, 2048), 0x54);
    port.ok(&Command::packet(&[0x03, 0, 0, 0, 18], false).with(DATA, 18));
    assert_eq!((hba.bytes(DATA + 2, 1), hba.bytes(DATA + 12, 1)), (vec![5], vec![0x21]));
    // A packet command that has no packet, and disks' commands.
    port.fails(&Command { packet: None, ..Command::packet(&[0], true) }, 4);
    port.fails(&Command::new(0x25, 0, 0, 1).with(DATA, 512), 4);
    port.fails(&Command::queued(false, 3, 0, 1).with(DATA, 512), 4);
    // IDENTIFY DEVICE shows the signature, and DEVICE RESET.
    let (file, _) = port.run(&Command::new(0xEC, 0, 0, 0).with(DATA, 512));
    assert_eq!((file, hba.bytes(port.received() + 0x44, 3)), (0x451, vec![1, 0x14, 0xEB]));
    port.restart();
    assert_eq!(port.run(&Command::new(0x08, 0, 0, 0)), (0x100, DHRS));
}

#[test]
fn a_descriptor_table_that_is_too_long_is_no_error_and_one_too_short_overflows() {
    let file = numbered(512, SECTORS);
    let hba = one(&file);
    let port = hba.started(0);
    port.ok(&Command::new(0x25, 0, 7, 1).with(DATA, 1 << 16).with(u64::MAX, 1 << 22));
    assert_eq!(port.byte_count(3), 512);
    // Of what is read, what has room is there.
    hba.put(DATA, &[0xEE; 2048]);
    let status = port.ok(&Command::new(0x25, 0, 7, 4).with(DATA, 700));
    assert_eq!((status, port.byte_count(3)), (DHRS | OFS, 700));
    assert_eq!(hba.bytes(DATA, 701), [&numbered_units(512, 7..9)[..700], &[0xEE]].concat());
    assert_eq!(port.ok(&Command::new(0xEC, 0, 0, 0).with(DATA, 20)) & (OFS | PSS), OFS | PSS);
    assert_eq!(port.ok(&Command::new(0x25, 0, 7, 4)), DHRS | OFS);
    // What is to be written fails, and leaves the disk as it was.
    let (file_register, status) = port.run(&Command::new(0x35, 0, 7, 4).with(DATA, 700));
    assert_eq!((file_register, status), (0x451, TFES | OFS | DHRS));
    assert_eq!(sectors(&file, 7, 4), numbered_units(512, 7..11));
    port.restart();
    port.ok(&Command::new(0x25, 0, 7, 4).with(DATA, 2048));
}
