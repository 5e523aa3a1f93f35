//! The PCI function and its bus master seen by a driver.
#![allow(missing_docs)]

mod harness;

use block::Medium;
use harness::{ACTIVE, DATA, ERR, ERROR, INTERRUPT, Pc, RAM, READY, ROM, TABLE, cdrom, disk, image, numbered};
use harness::{numbered_unit, numbered_units};
use std::fs::File;

fn one() -> (Pc, File) {
    let file = numbered(512, 2048);
    (Pc::new([disk(&file), None, None, None]), file)
}

#[test]
fn the_function_is_the_piix3s() {
    let (pc, _) = one();
    assert_eq!((pc.config(0, 4), pc.config(8, 4) >> 8), (0x7010_8086, 0x01_0180));
    assert_eq!((pc.config(0x20, 4) & 3, pc.config(0x10, 4), pc.config(0x3D, 1)), (1, 0, 0));
    // Drivers see by IDETIM that the channels are on.
    assert_eq!((pc.config(0x41, 1) & 0x80, pc.config(0x43, 1) & 0x80), (0x80, 0x80));
    pc.set_config(0x40, 4, 0xE377_E377);
    assert_eq!(pc.config(0x40, 4), 0xE377_E377);
    let map = pc.buses.map();
    let ranges: Vec<_> = map.iter().filter(|row| row.3.starts_with("ide")).map(|row| (row.1, row.2)).collect();
    assert_eq!(ranges[..4], [(0x170, 0x177), (0x1F0, 0x1F7), (0x376, 0x376), (0x3F6, 0x3F6)]);
    assert_eq!(ranges[4].1 - ranges[4].0, 15);
}

#[test]
fn registers_of_both_channels_hold_what_they_should() {
    let (pc, _) = one();
    for port in [pc.primary(), pc.secondary()] {
        port.master_write(4, 4, 0x1234_5677);
        assert_eq!((port.master_read(4, 4), port.master_read(6, 2)), (0x1234_5674, 0x1234));
        port.master_write(5, 1, 0xAB);
        assert_eq!(port.master_read(4, 4), 0x1234_AB74);
        port.master_write(0, 1, 0xFE);
        assert_eq!(port.master_read(0, 1), 8);
        port.master_write(2, 1, 0xFF);
        assert_eq!(port.master_read(2, 1), 0x60);
        port.master_write(0, 1, 1);
        assert_eq!(port.master_status(), 0x60 | ACTIVE);
        port.master_write(0, 1, 0);
        assert_eq!(port.master_status(), 0x60);
        port.master_write(2, 1, 0);
        assert_eq!((port.master_status(), port.master_read(1, 1), port.master_read(3, 1)), (0, 0, 0));
    }
}

#[test]
fn more_and_fewer_descriptors_than_data_show() {
    let (pc, _) = one();
    let port = pc.primary();
    // More: an interrupt, and the bus master is active until it is stopped.
    pc.set_table(TABLE, &[(DATA, 1024, false), (DATA + 1024, 512, true)]);
    port.start(0xC8, 0, 7, 2);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT | ACTIVE, READY));
    assert_eq!(
        (pc.bytes(DATA, 1536), port.master_status() & ACTIVE),
        ([numbered_units(512, 7..9), vec![0; 512]].concat(), 0)
    );
    // Fewer: no interrupt, and the bus master is not active any more.
    pc.set_table(TABLE, &[(DATA, 700, true)]);
    for (command, to_memory) in [(0xC8, true), (0xCA, false)] {
        port.start(command, 0, 20, 2);
        port.start_master(TABLE, to_memory);
        harness::eventually("the end of the descriptors", || port.master_status() & ACTIVE == 0);
        assert_eq!((port.settled() & !0x10, port.interrupt(), port.master_status()), (0x40, false, 0));
        port.stop_master();
    }
    assert_eq!(pc.bytes(DATA, 700), numbered_units(512, 20..22)[..700]);
    port.start(0x20, 0, 20, 1);
    port.interrupted();
    port.status();
    assert_eq!(port.read_block(512), numbered_unit(512, 20));
}

#[test]
fn each_start_is_good_for_one_command() {
    let (pc, _) = one();
    let port = pc.primary();
    pc.set_table(TABLE, &[(DATA, 1024, true)]);
    port.start(0xC8, 0, 7, 1);
    port.start_master(TABLE, true);
    harness::eventually("the interrupt", || port.interrupt());
    port.status();
    // Not stopped: the next command waits.
    port.start(0xC8, 0, 8, 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!((port.alternate() & 0x80, pc.bytes(DATA, 512)), (0x80, numbered_unit(512, 7)));
    port.stop_master();
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma().1, READY);
    assert_eq!(pc.bytes(DATA, 512), numbered_unit(512, 8));
}

#[test]
fn memory_is_left_alone_without_bus_mastering() {
    let (pc, _) = one();
    let port = pc.primary();
    pc.set_master(false);
    pc.set_table(TABLE, &[(DATA, 512, true)]);
    port.start(0xC8, 0, 7, 1);
    port.start_master(TABLE, true);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!((port.alternate() & 0x80, pc.bytes(DATA, 512)), (0x80, vec![0; 512]));
    pc.set_master(true);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    assert_eq!(pc.bytes(DATA, 512), numbered_unit(512, 7));
}

#[test]
fn what_is_no_memory_is_an_error_and_devices_are_never_reached() {
    let file = numbered(512, 2048);
    let medium = Medium::new(Some(image(&file)));
    let pc = Pc::new([disk(&file), None, cdrom(&medium), None]);
    let port = pc.primary();
    let bus_error = |table: u32, command: u8| {
        port.start(command, 0, 7, 8);
        port.start_master(table, command == 0xC8);
        assert_eq!(port.finish_dma(), (INTERRUPT | ERROR, READY | ERR));
        assert_eq!(port.read(1), 4);
    };
    // The table itself; then data, in a device's registers and across the end of RAM.
    bus_error(0xC000_0000, 0xC8);
    bus_error(RAM as u32 - 4, 0xC8);
    for address in [0xFEC0_0000, 0xC000_0000, RAM as u32 - 512, 0xFFFF_FF00] {
        pc.set_table(TABLE, &[(address, 4096, true)]);
        bus_error(TABLE, 0xC8);
        bus_error(TABLE, 0xCA);
    }
    // ROM can be read and not written.
    pc.set_table(TABLE, &[(ROM as u32, 4096, true)]);
    bus_error(TABLE, 0xC8);
    port.start(0xCA, 0, 16, 8);
    port.start_master(TABLE, false);
    assert_eq!(port.finish_dma(), (INTERRUPT, READY));
    let port = pc.secondary();
    port.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 0, true);
    port.start_master(TABLE, true);
    assert_eq!(port.finish_dma(), (INTERRUPT | ERROR, READY | ERR));
    assert_eq!(port.sense(), [0xB, 0x4B, 0]);
}

#[test]
fn a_table_that_leads_into_its_own_data_ends() {
    let (pc, _) = one();
    let port = pc.primary();
    // Data overwrite the descriptors that come next; at most 64 KiB of them are looked at.
    pc.set_table(0x2_0000, &[(0x2_0000, 0x8000, false); 8192]);
    port.start(0xC8, 0, 0, 0);
    port.start_master(0x2_0000, true);
    port.settled();
    harness::eventually("an end", || port.master_status() & ACTIVE == 0 || port.interrupt());
    port.reset();
    port.stop_master();
    assert_eq!(port.run(0x40, 0, 0, 1), READY);
}
