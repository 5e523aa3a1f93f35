//! ATAPI CD-ROM drives seen by a driver.
#![allow(missing_docs)]

mod harness;

use block::Medium;
use harness::{
    DATA, DRQ, ERR, INTERRUPT, Pc, READY, TABLE, cdrom, disk, image, numbered, numbered_unit, numbered_units,
};
use std::fs::File;
use std::sync::Arc;

const BLOCKS: u32 = 400;

const NO_MEDIUM: [u8; 3] = [2, 0x3A, 1];
const TRAY_OPEN: [u8; 3] = [2, 0x3A, 2];
const CHANGED: [u8; 3] = [6, 0x28, 0];
const OUT_OF_RANGE: [u8; 3] = [5, 0x21, 0];
const INVALID_FIELD: [u8; 3] = [5, 0x24, 0];

fn disc() -> File {
    numbered(2048, BLOCKS)
}

fn drive(file: &File) -> (Pc, Arc<Medium>) {
    let medium = Medium::new(Some(image(file)));
    (Pc::new([cdrom(&medium), None, None, None]), medium)
}

fn read10(lba: u32, count: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = count.to_be_bytes();
    [0x28, 0, a, b, c, d, 0, e, f, 0]
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from(u16_at(data, at)) << 16 | u32::from(u16_at(data, at + 2))
}

#[test]
fn a_drive_is_recognised_by_its_signature() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    let signature = || (port.read(1), port.read(2), port.read(3), port.read(4), port.read(5));
    assert_eq!((port.status(), signature()), (0, (1, 1, 1, 0x14, 0xEB)));
    // IDENTIFY DEVICE fails and shows it again.
    (2..6).for_each(|register| port.write(register, 0));
    assert_eq!(port.run(0xEC, 0, 0, 0), READY | ERR);
    assert_eq!(signature(), (4, 1, 1, 0x14, 0xEB));
    port.start(0xA1, 0, 0, 0);
    port.interrupted();
    port.status();
    let identity = port.read_block(512);
    assert_eq!((u16::from_le_bytes([identity[0], identity[1]]), &identity[54..66]), (0x85C0, &b"iWtrC -DOR M"[..]));
    assert_eq!(port.status(), READY);
    // DEVICE RESET, in the middle of a command as well; drive 1 is not there.
    port.packet(&read10(0, 3), 2048, false);
    port.interrupted();
    port.write(7, 0x08);
    assert_eq!((port.settled(), port.interrupt(), signature()), (0, false, (1, 1, 1, 0x14, 0xEB)));
    assert_eq!(port.packet_data(&[0x00]), []);
    port.reset();
    assert_eq!((port.status(), signature()), (0, (1, 1, 1, 0x14, 0xEB)));
    port.write(6, 0xB0);
    assert_eq!((port.status(), port.read(4), port.read(5)), (0, 0, 0));
    assert_eq!((port.run(0x08, 0, 0, 0), port.interrupt()), (0, false));
}

#[test]
fn inquiry_and_capacity_describe_drive_and_disc() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    let inquiry = port.packet_data(&[0x12, 0, 0, 0, 96]);
    assert_eq!((inquiry.len(), inquiry[0], inquiry[1], &inquiry[8..28]), (36, 5, 0x80, &b"WIRT    Wirt CD-ROM "[..]));
    assert_eq!(port.packet_data(&[0x12, 0, 0, 0, 5]), inquiry[..5]);
    assert_eq!(port.packet_data(&[0x12]), []);
    assert_eq!(port.packet_data(&[0x12, 1, 0x80, 0, 96]), [&[5, 0x80, 0, 7][..], b"CD-0001"].concat());
    assert_eq!(port.packet_fails(&[0x12, 1, 0x90, 0, 96]), INVALID_FIELD);
    let capacity = port.packet_data(&[0x25]);
    assert_eq!((u32_at(&capacity, 0), u32_at(&capacity, 4)), (BLOCKS - 1, 2048));
    assert_eq!(port.packet_fails(&[0xFF]), [5, 0x20, 0]);
}

#[test]
fn blocks_come_in_pieces_of_the_hosts_choice() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    let expected = numbered_units(2048, 3..73);
    for limit in [2048, 4096, 5000, 2, 100, 0xFFFE, 2049, 255] {
        let (data, status, _) = port.packet_in(&read10(3, 70), limit);
        assert_eq!((status, data.len()), (READY, expected.len()), "pieces of {limit}");
        assert!(data == expected, "pieces of {limit}");
    }
    // As SeaBIOS takes it: whole blocks, without looking at the count.
    port.packet(&read10(7, 40), 2048, false);
    for block in 7..47 {
        assert_eq!(port.settled(), READY | DRQ);
        assert_eq!(port.read_block(2048), numbered_unit(2048, block));
    }
    assert_eq!(port.settled(), READY);
    assert_eq!(port.packet_data(&[0xA8, 0, 0, 0, 1, 0x8F, 0, 0, 0, 1]), numbered_unit(2048, 399));
    // An odd limit is good for a last piece.
    assert_eq!(port.packet_in(&[0x12, 0, 0, 0, 5], 5).0.len(), 5);
    assert_eq!(port.packet_in(&[0x12, 0, 0, 0, 5], 3).0.len(), 5);
    assert_eq!(port.packet_in(&[0x12, 0, 0, 0, 5], 1).0.len(), 5);
    assert_eq!(port.packet_data(&read10(BLOCKS, 0)), []);
}

#[test]
fn a_host_that_takes_no_bytes_gets_none() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    assert_eq!(port.packet_in(&read10(0, 1), 0).1, READY | ERR);
    assert_eq!(port.sense(), INVALID_FIELD);
    assert_eq!(port.packet_in(&[0x00], 0).1, READY);
}

#[test]
fn dma_gives_blocks_and_answers() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    pc.set_table(TABLE, &[(DATA, 3000, false), (0x20_0000, 3144, true)]);
    port.packet(&read10(5, 3), 0, true);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    assert_eq!(port.read(2) & 7, 3);
    assert_eq!([pc.bytes(DATA, 3000), pc.bytes(0x20_0000, 3144)].concat(), numbered_units(2048, 5..8));
    pc.set_table(TABLE, &[(DATA, 96, true)]);
    port.packet(&[0x12, 0, 0, 0, 96], 0, true);
    port.start_master(TABLE, true);
    // Fewer bytes than the host expected.
    assert_eq!(port.finish_dma(), (INTERRUPT | harness::ACTIVE, READY));
    assert_eq!(pc.bytes(DATA + 8, 4), b"WIRT");
    // Headers and data.
    pc.set_table(TABLE, &[(DATA, 0, false), (DATA + 0x1_0000, 0, true)]);
    port.packet(&[0xBE, 0, 0, 0, 0, 16, 0, 0, 40, 0xF8], 0, true);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma().1, READY);
    assert_eq!(pc.bytes(DATA + 39 * 2352 + 12, 8), [0, 2, 0x55, 1, 55, 0, 0, 0]);
}

#[test]
fn read_cd_gives_the_parts_asked_for() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    let read_cd = |kind: u8, parts: u8, subchannel: u8| [0xBE, kind << 2, 0, 0, 0, 9, 0, 0, 2, parts, subchannel];
    assert_eq!(port.packet_data(&read_cd(0, 0x10, 0)), numbered_units(2048, 9..11));
    let raw = port.packet_data(&read_cd(2, 0xF8, 0));
    assert_eq!(
        (raw.len(), &raw[12..16], &raw[2352 + 12..2352 + 16]),
        (2 * 2352, &[0, 2, 9, 1][..], &[0, 2, 0x10, 1][..])
    );
    assert_eq!(raw[2352 + 16..2352 + 16 + 2048], numbered_unit(2048, 10));
    assert_eq!(port.packet_data(&read_cd(0, 0x20, 0)), [0, 2, 9, 1, 0, 2, 0x10, 1]);
    assert_eq!(port.packet_data(&read_cd(0, 0, 0)), []);
    // Audio, error flags, subchannels.
    assert_eq!(port.packet_fails(&read_cd(1, 0x10, 0)), [5, 0x64, 0]);
    assert_eq!(port.packet_fails(&read_cd(0, 0x12, 0)), INVALID_FIELD);
    assert_eq!(port.packet_fails(&read_cd(0, 0x10, 1)), INVALID_FIELD);
    // By time: 0:2:20 to 0:2:22.
    assert_eq!(port.packet_data(&[0xB9, 0, 0, 0, 2, 20, 0, 2, 22, 0x10]), numbered_units(2048, 20..22));
    for times in [[0, 1, 0, 0, 2, 0], [0, 2, 5, 0, 2, 4], [0, 99, 0, 0, 2, 0]] {
        let packet = [&[0xB9, 0, 0], &times[..], &[0x10]].concat();
        assert_eq!(port.packet_fails(&packet), INVALID_FIELD, "{times:?}");
    }
}

#[test]
fn what_is_not_on_the_disc_is_not_read() {
    let file = disc();
    let (pc, _) = drive(&file);
    let port = pc.primary();
    for packet in [read10(BLOCKS, 1), read10(BLOCKS - 1, 2), read10(u32::MAX, 0xFFFF), read10(0, 401)] {
        assert_eq!(port.packet_fails(&packet), OUT_OF_RANGE);
    }
    assert_eq!(port.packet_fails(&[0xA8, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]), OUT_OF_RANGE);
    assert_eq!(port.packet_fails(&[0xBE, 0, 0, 0, 1, 0x90, 0, 0, 1, 0xF8]), OUT_OF_RANGE);
    assert_eq!(port.packet_fails(&[0x2B, 0, 0, 0, 1, 0x90]), OUT_OF_RANGE);
    // A damaged disc gives what can be read, then names the block.
    file.set_len(100 * 2048).unwrap();
    let (data, status, error) = port.packet_in(&read10(95, 10), 2048);
    assert_eq!((data, status, error), (numbered_units(2048, 95..100), READY | ERR, 0x30));
    let sense = port.packet_data(&[0x03, 0, 0, 0, 18]);
    assert_eq!((sense[0], sense[2], u32_at(&sense, 3), sense[12]), (0xF0, 3, 100, 0x11));
    pc.set_table(TABLE, &[(DATA, 0, true)]);
    port.packet(&read10(99, 2), 0, true);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma().1, READY | ERR);
    assert_eq!(port.sense(), [3, 0x11, 0]);
    // It is told once.
    assert_eq!(port.sense(), [0, 0, 0]);
}

#[test]
fn an_exchange_is_told_as_an_empty_drive_then_as_a_change() {
    let (pc, medium) = drive(&disc());
    let port = pc.primary();
    let event = || {
        let data = port.packet_data(&[0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!((data.len(), u16_at(&data, 0), data[2]), (8, 6, 4));
        (data[4], data[5])
    };
    assert_eq!((port.packet_data(&[0x00]), event()), (vec![], (0, 2)));
    medium.exchange(Some(image(&numbered(2048, 7))));
    // Commands that tell about the drive are carried out.
    assert_eq!(port.packet_data(&[0x12, 0, 0, 0, 36]).len(), 36);
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&read10(0, 1))], [TRAY_OPEN, CHANGED]);
    assert_eq!(port.packet_data(&read10(0, 1)), numbered_unit(2048, 0));
    assert_eq!(u32_at(&port.packet_data(&[0x25]), 0), 6);
    assert_eq!([event(), event(), event()], [(3, 2), (2, 2), (0, 2)]);
    medium.exchange(None);
    assert_eq!(
        [port.packet_fails(&[0x00]), port.packet_fails(&[0x25]), port.packet_fails(&read10(0, 1))],
        [NO_MEDIUM; 3]
    );
    assert_eq!([event(), event()], [(3, 0), (0, 0)]);
    medium.exchange(Some(image(&disc())));
    assert_eq!(port.packet_fails(&[0x00]), TRAY_OPEN);
    assert_eq!(port.packet_fails(&[0x00]), CHANGED);
    assert_eq!(port.packet_data(&[0x00]), []);
    medium.request_eject();
    assert_eq!([event(), event(), event()], [(1, 2), (3, 2), (2, 2)]);
    // Only polled, and only this class.
    assert_eq!(port.packet_fails(&[0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8]), INVALID_FIELD);
    assert_eq!(port.packet_data(&[0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8]), [0, 2, 0x80, 0x10]);
}

#[test]
fn a_read_does_not_go_on_with_another_disc() {
    let (pc, medium) = drive(&disc());
    let port = pc.primary();
    // More than the buffer holds.
    port.packet(&read10(0, 100), 0x8000, false);
    for half in 0..2 {
        assert_eq!(port.interrupted(), READY | DRQ);
        port.status();
        if half == 1 {
            medium.exchange(Some(image(&disc())));
        }
        port.read_block(0x8000);
    }
    assert_eq!((port.interrupted(), port.sense()), (READY | ERR, NO_MEDIUM));
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&[0x00])], [TRAY_OPEN, CHANGED]);
}

#[test]
fn the_host_locks_and_ejects() {
    let (pc, medium) = drive(&disc());
    let port = pc.primary();
    assert_eq!(port.packet_data(&[0x1E, 0, 0, 0, 1]), []);
    assert!(medium.locked());
    assert_eq!(port.packet_fails(&[0x1B, 0, 0, 0, 2]), [5, 0x53, 2]);
    assert_eq!(port.packet_data(&[0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 64])[8 + 6] & 2, 2);
    assert_eq!((port.packet_data(&[0x1E]), medium.locked()), (vec![], false));
    assert_eq!((port.packet_data(&[0x1B, 0, 0, 0, 2]), medium.is_open()), (vec![], true));
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&read10(0, 1))], [TRAY_OPEN; 2]);
    assert_eq!(port.packet_data(&[0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8])[1] & 0x10, 0x10);
    // A new machine finds the tray as it was left.
    let again = Pc::new([cdrom(&medium), None, None, None]);
    assert_eq!(again.primary().packet_fails(&[0x00]), TRAY_OPEN);
    assert_eq!((port.packet_data(&[0x1B, 0, 0, 0, 3]), medium.is_open()), (vec![], false));
    assert_eq!((port.packet_fails(&[0x00]), port.packet_data(&[0x00])), (CHANGED, vec![]));
    // Start and stop without the tray, and power conditions, change nothing.
    for how in [0, 1, 0x32] {
        assert_eq!((port.packet_data(&[0x1B, 0, 0, 0, how]), medium.is_open()), (vec![], false));
    }
    port.packet_data(&[0x1E, 0, 0, 0, 1]);
    port.reset();
    assert!(!medium.locked());
}

#[test]
fn the_table_of_contents_has_one_track() {
    let (pc, _) = drive(&disc());
    let port = pc.primary();
    let toc = |msf: u8, format: u8, track: u8| port.packet_data(&[0x43, msf << 1, format, 0, 0, 0, track, 1, 0]);
    let blocks = BLOCKS.to_be_bytes();
    let lead_out = [&[0, 0x14, 0xAA, 0], &blocks[..]].concat();
    assert_eq!(toc(0, 0, 0), [&[0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0], &lead_out[..]].concat());
    assert_eq!(toc(0, 0, 0xAA), [&[0, 10, 1, 1], &lead_out[..]].concat());
    // 400 blocks after 2 s are 7 s and 25 frames.
    assert_eq!(toc(1, 0, 1)[4..], [0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xAA, 0, 0, 0, 7, 25]);
    assert_eq!(toc(0, 1, 0), [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    // The older place of the format.
    assert_eq!(port.packet_data(&[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0x40]), toc(0, 1, 0));
    let full = toc(0, 2, 0);
    assert_eq!((full.len(), u16_at(&full, 0)), (48, 46));
    let entries: Vec<_> = full[4..].chunks_exact(11).map(|entry| (entry[3], [entry[8], entry[9], entry[10]])).collect();
    assert_eq!(entries, [(0xA0, [1, 0, 0]), (0xA1, [1, 0, 0]), (0xA2, [0, 7, 25]), (1, [0, 2, 0])]);
    assert_eq!(port.packet_data(&[0x43, 0, 0, 0, 0, 0, 0, 0, 4]).len(), 4);
    for (format, track) in [(0, 2), (3, 0), (4, 0), (2, 2)] {
        assert_eq!(port.packet_fails(&[0x43, 0, format, 0, 0, 0, track, 1, 0]), INVALID_FIELD);
    }
    let track = port.packet_data(&[0x52, 1, 0, 0, 0, 1, 0, 0, 64]);
    assert_eq!((track.len(), track[2], u32_at(&track, 8), u32_at(&track, 24)), (36, 1, 0, BLOCKS));
    assert_eq!(port.packet_fails(&[0x52, 1, 0, 0, 0, 2, 0, 0, 64]), INVALID_FIELD);
    assert_eq!(port.packet_data(&[0x51, 0, 0, 0, 0, 0, 0, 0, 64])[..8], [0, 32, 0x0E, 1, 1, 1, 1, 0x20]);
    assert_eq!(port.packet_data(&[0x42, 0, 0x40, 1, 0, 0, 0, 0, 64])[..8], [0, 0x15, 0, 12, 1, 0x14, 1, 1]);
    assert_eq!(port.packet_data(&[0x42, 0, 0, 1, 0, 0, 0, 0, 64]), [0, 0x15, 0, 0]);
}

#[test]
fn features_and_mode_pages_say_what_the_drive_can_do() {
    let (pc, medium) = drive(&disc());
    let port = pc.primary();
    let configuration = |how: u8, start: u8| port.packet_data(&[0x46, how, 0, start, 0, 0, 0, 1, 0]);
    let all = configuration(0, 0);
    assert_eq!((u32_at(&all, 0) as usize, u16_at(&all, 6)), (all.len() - 4, 8));
    let codes = |data: &[u8]| {
        let mut codes = Vec::new();
        let mut at = 8;
        while at < data.len() {
            codes.push((u16_at(data, at), data[at + 2] & 1));
            at += 4 + usize::from(data[at + 3]);
        }
        assert_eq!(at, data.len());
        codes
    };
    assert!(codes(&all).contains(&(0x1E, 1)) && codes(&all).contains(&(0x1F, 0)));
    assert!(codes(&configuration(1, 0)).iter().all(|(_, current)| *current == 1));
    assert_eq!((codes(&configuration(2, 3)), codes(&configuration(2, 4))), (vec![(3, 1)], vec![]));
    medium.exchange(None);
    assert_eq!(u16_at(&configuration(0, 0), 6), 0);
    // More than a CD holds is a DVD.
    let large = tempfile::tempfile().unwrap();
    large.set_len(400_000 * 2048).unwrap();
    assert_eq!(port.packet_fails(&[0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4]), NO_MEDIUM);
    medium.exchange(Some(image(&large)));
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&[0x00])], [TRAY_OPEN, CHANGED]);
    assert_eq!(u16_at(&configuration(0, 0), 6), 0x10);
    let structure = port.packet_data(&[0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4]);
    assert_eq!((structure.len(), u16_at(&structure, 0), u32_at(&structure, 12)), (2052, 2050, 0x3_0000 + 399_999));
    medium.exchange(Some(image(&disc())));
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&[0x00])], [TRAY_OPEN, CHANGED]);
    assert_eq!(port.packet_fails(&[0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4]), [5, 0x30, 2]);

    let ten = port.packet_data(&[0x5A, 0, 0x3F, 0, 0, 0, 0, 1, 0]);
    let six = port.packet_data(&[0x1A, 0, 0x3F, 0, 255]);
    assert_eq!((usize::from(u16_at(&ten, 0)), usize::from(six[0])), (ten.len() - 2, six.len() - 1));
    assert_eq!((&ten[8..], ten[2], six[1]), (&six[4..], 1, 1));
    let capabilities = port.packet_data(&[0x5A, 0, 0x2A, 0, 0, 0, 0, 1, 0]);
    assert_eq!((capabilities.len(), capabilities[8], capabilities[9], capabilities[14] >> 5), (30, 0x2A, 0x14, 1));
    assert!(port.packet_data(&[0x5A, 0, 0x6A, 0, 0, 0, 0, 1, 0])[10..].iter().all(|byte| *byte == 0));
    assert_eq!(port.packet_fails(&[0x5A, 0, 0xEA, 0, 0, 0, 0, 1, 0]), [5, 0x39, 0]);
    assert_eq!(port.packet_fails(&[0x5A, 0, 0x11, 0, 0, 0, 0, 1, 0]), INVALID_FIELD);
}

#[test]
fn what_is_too_short_for_a_block_is_no_disc() {
    let short = tempfile::tempfile().unwrap();
    short.set_len(2047).unwrap();
    let (pc, medium) = drive(&short);
    assert_eq!(pc.primary().packet_fails(&[0x00]), [2, 0x30, 0]);
    short.set_len(5000).unwrap();
    medium.exchange(Some(image(&short)));
    let port = pc.primary();
    assert_eq!([port.packet_fails(&[0x00]), port.packet_fails(&[0x00])], [TRAY_OPEN, CHANGED]);
    assert_eq!(u32_at(&port.packet_data(&[0x25]), 0), 1);
}

#[test]
fn a_drive_and_a_disk_share_a_cable() {
    let file = numbered(512, 64);
    let medium = Medium::new(Some(image(&disc())));
    let pc = Pc::new([None, None, disk(&file), cdrom(&medium)]);
    let port = pc.secondary();
    port.select(1);
    assert_eq!((port.status(), port.read(5)), (0, 0xEB));
    assert_eq!(port.packet_data(&read10(2, 1)), numbered_unit(2048, 2));
    port.select(0);
    port.start(0x20, 0, 9, 1);
    assert_eq!(port.interrupted(), READY | DRQ);
    port.status();
    assert_eq!(port.read_block(512), numbered_unit(512, 9));
    port.select(1);
    assert_eq!((port.status(), port.run(0x20, 0, 0, 1), port.read(1)), (READY, READY | ERR, 4));
}

#[test]
fn a_snapshot_in_the_middle_of_a_packet_goes_on_elsewhere() {
    let file = disc();
    let (pc, medium) = drive(&file);
    let port = pc.primary();
    medium.set_locked(true);
    assert_eq!(port.packet_fails(&read10(BLOCKS, 1)), OUT_OF_RANGE);
    port.packet(&read10(0, 100), 0x8000, false);
    port.interrupted();
    port.status();
    let mut data = port.read_block(1000);
    let state = pc.snapshot();
    let medium = Medium::new(Some(image(&file)));
    let other = Pc::new([cdrom(&medium), None, None, None]);
    other.load(&state).unwrap();
    let port = other.primary();
    assert!(medium.locked());
    data.extend(port.read_block(0x8000 - 1000));
    while port.interrupted() & DRQ != 0 {
        port.status();
        let size = usize::from(port.read(4)) | usize::from(port.read(5)) << 8;
        data.extend(port.read_block(size));
    }
    assert!(data == numbered_units(2048, 0..100));
    assert_eq!((port.status(), port.packet_data(&[0x00])), (READY, vec![]));
    // A disc that is gone meanwhile is noticed.
    let other = Pc::new([cdrom(&Medium::new(None)), None, None, None]);
    other.load(&state).unwrap();
    other.primary().reset();
    assert_eq!(other.primary().packet_fails(&[0x00]), NO_MEDIUM);
}
