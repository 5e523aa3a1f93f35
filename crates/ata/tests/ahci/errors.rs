use crate::driver::*;
use crate::harness::{ROM, cdrom, disk, eventually, image, numbered, numbered_unit, numbered_units};
use block::Medium;

fn machine() -> Hba {
    let medium = Medium::new(Some(image(&numbered(2048, 64))));
    Hba::new([disk(&numbered(512, 4096)), cdrom(&medium), None, None, None, None])
}

/// The port has stopped with this bit in PxIS, and does nothing until it is started anew.
fn stopped(port: Port, bit: u32) {
    eventually("an error", || port.read(PXIS) & bit != 0);
    let before = (port.read(CI), port.read(PXIS));
    port.issue(1 << 7);
    port.hba.write(IS, u32::MAX);
    assert_eq!((port.read(CI), port.read(PXIS)), (before.0 | 1 << 7, before.1));
    assert_eq!(port.read(CMD) & (CR | ST), CR | ST);
    port.restart();
    assert_eq!((port.read(CI), port.read(SACT)), (0, 0));
}

fn works(port: Port) {
    port.ok(&Command::new(0x25, 0, 7, 2).with(DATA, 1024));
    assert_eq!(port.hba.bytes(DATA, 1024), numbered_units(512, 7..9));
}

#[test]
fn descriptors_that_name_no_memory_stop_the_port_and_devices_are_never_reached() {
    let hba = machine();
    let port = hba.started(0);
    for address in nowhere(&hba) {
        for command in [0x25, 0x35, 0x20, 0x30, 0xEC] {
            port.fill(0, &Command::new(command, 0, 7, 8).with(DATA, 256).with(address, 4096));
            port.issue(1);
            stopped(port, HBFS);
        }
        for write in [false, true] {
            port.enqueue(&[(6, Command::queued(write, 6, 7, 8).with(address, 4096))]);
            stopped(port, HBFS);
        }
    }
    // Across the end of RAM; into ROM, out of which can be read.
    port.fill(0, &Command::new(0x25, 0, 7, 8).with(crate::harness::RAM - 512, 4096));
    port.issue(1);
    stopped(port, HBFS);
    port.fill(0, &Command::new(0x25, 0, 7, 8).with(ROM, 4096));
    port.issue(1);
    stopped(port, HBFS);
    port.ok(&Command::new(0x35, 0, 100, 8).with(ROM, 4096));
    // The adapter's registers are as they were.
    assert_eq!((hba.read(0), port.read(CLB), port.read(FB)), (0xC124_9F05, LISTS as u32, RECEIVED as u32));
    works(port);
    let cd = hba.started(1);
    cd.fill(0, &Command::packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2], true).with(hba.abar(), 4096));
    cd.issue(1);
    stopped(cd, HBFS);
}

#[test]
fn a_command_list_or_table_that_is_in_no_memory_stops_the_port() {
    let hba = machine();
    let port = hba.started(0);
    for address in nowhere(&hba) {
        port.write(CMD, FRE);
        port.write(CLB, address as u32);
        port.write(0x04, (address >> 32) as u32);
        port.write(CMD, FRE | ST);
        port.issue(1 << 31);
        stopped(port, HBFS);
        port.write(CLB, port.list() as u32);
        port.write(0x04, 0);
        port.fill_header(0, 5, 1, address);
        port.issue(1);
        stopped(port, HBFS);
        // The descriptors, which would be behind the end.
        port.fill_header(0, 5, 1, crate::harness::RAM - 0x80);
        hba.put(crate::harness::RAM - 0x80, &Command::new(0xEC, 0, 0, 0).fis);
        port.issue(1);
        stopped(port, HBFS);
    }
    works(port);
}

#[test]
fn where_no_fis_can_be_received_the_port_stops() {
    let hba = machine();
    let port = hba.started(0);
    for address in nowhere(&hba).into_iter().chain([ROM]) {
        port.write(CMD, FRE);
        port.write(FB, address as u32);
        port.write(0x0C, (address >> 32) as u32);
        port.write(CMD, FRE | ST);
        for command in [Command::new(0x42, 0, 0, 1), Command::new(0xEC, 0, 0, 0).with(DATA, 512)] {
            port.fill(0, &command);
            port.issue(1);
            stopped(port, HBFS);
        }
        port.enqueue(&[(1, Command::queued(false, 1, 7, 1).with(DATA, 512))]);
        stopped(port, HBFS);
    }
    port.write(FB, port.received() as u32);
    port.write(0x0C, 0);
    works(port);
}

#[test]
fn what_is_no_command_fis_stops_the_port() {
    let hba = machine();
    let port = hba.started(0);
    for kind in (0..=255).filter(|kind| *kind != 0x27) {
        let mut command = Command::new(0x25, 0, 7, 1).with(DATA, 512);
        command.fis[0] = kind;
        port.fill(0, &command);
        port.issue(1);
        eventually("an error", || port.read(PXIS) & IFS != 0);
        assert_eq!(port.read(SERR), 1 << 10);
        port.restart();
    }
    for length in (0..32).filter(|length| !(2..=16).contains(length)) {
        port.fill(0, &Command::new(0x25, 0, 7, 1).with(DATA, 512));
        port.fill_header(0, length, 1, TABLES);
        port.issue(1);
        stopped(port, IFS);
    }
    // A FIS of two words has neither upper address bytes nor a count.
    let mut short = Command::new(0x25, 0, 0xFFFF_FF00_0007, 1).with(DATA, 1 << 22);
    short.fis.truncate(16);
    port.fill(0, &short);
    port.fill_header(0, 2, 1, TABLES);
    port.issue(1);
    eventually("an error", || port.read(PXIS) & TFES != 0);
    assert_eq!(port.read(TFD), 0x1051);
    port.restart();
    works(port);
}

#[test]
fn after_an_error_of_the_drive_the_command_keeps_its_slot_until_the_port_is_stopped() {
    let hba = machine();
    let port = hba.started(0);
    port.fill(4, &Command::new(0x25, 0, 4090, 8).with(DATA, 4096));
    port.issue(1 << 4);
    eventually("an error", || port.read(PXIS) & TFES != 0);
    assert_eq!((port.read(TFD), port.read(CI), port.read(CMD) >> 8 & 31), (0x1051, 1 << 4, 4));
    stopped(port, TFES);
    works(port);
}

#[test]
fn memory_is_left_alone_without_bus_mastering() {
    let hba = machine();
    let port = hba.started(0);
    hba.put(DATA, &[0; 512]);
    hba.put(port.received(), &[0xEE; 256]);
    hba.set_master(false);
    port.fill(0, &Command::new(0x25, 0, 7, 1).with(DATA, 512));
    port.issue(1);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(
        (port.read(CI), hba.bytes(DATA, 512), hba.bytes(port.received(), 256)),
        (1, vec![0; 512], vec![0xEE; 256])
    );
    hba.set_master(true);
    eventually("the end", || port.read(CI) == 0);
    assert_eq!(hba.bytes(DATA, 512), numbered_unit(512, 7));
}
