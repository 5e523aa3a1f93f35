use crate::driver::*;
use crate::harness::{Probe, cdrom, disk, eventually, image, numbered, numbered_unit, numbered_units};
use ata::{Ahci, Attachment};
use block::Medium;
use board::pci::PciFunction;
use std::fs::File;
use std::sync::Arc;

fn held(file: &File) -> (Hba, Arc<Probe>) {
    let probe = Probe::new(file);
    let drive = Attachment::Disk { disk: probe.clone(), serial: "S".into() };
    (Hba::new([Some(drive), None, None, None, None, None]), probe)
}

fn works(port: Port) {
    port.ok(&Command::new(0x25, 0, 7, 2).with(DATA, 1024));
    assert_eq!(port.hba.bytes(DATA, 1024), numbered_units(512, 7..9));
}

/// Three pieces of 1 MiB, which all go to the same place.
fn long() -> Command {
    let mut command = Command::new(0x25, 0, 0, 6144);
    command.descriptors = vec![(DATA, 1 << 20, false); 3];
    command
}

#[test]
fn a_hard_reset_brings_a_new_signature() {
    let (hba, _) = held(&numbered(512, 8192));
    let port = hba.started(0);
    port.ok(&Command::new(0xEF, 0x82, 0, 0));
    port.write(CMD, FRE);
    port.write(SCTL, 0x301);
    assert_eq!((port.read(SSTS), port.read(TFD), port.read(SIG)), (0, 0x7F, u32::MAX));
    hba.put(port.received(), &[0; 256]);
    port.write(SCTL, 0x300);
    assert_eq!((port.read(SSTS), port.read(TFD), port.read(SIG)), (0x123, 0x150, 0x101));
    assert_eq!((port.read(SERR), port.read(PXIS) & PCS), (1 << 26 | 1 << 16, PCS));
    assert_eq!(hba.bytes(port.received() + 0x40, 8), [0x34, 0, 0x50, 1, 1, 0, 0, 0]);
    // Off, and on again.
    port.write(SCTL, 0x304);
    assert_eq!((port.read(SSTS), port.read(TFD)), (4, 0x7F));
    port.write(SCTL, 0x300);
    port.write(CMD, FRE | ST);
    // Settings stay.
    assert_eq!(port.answer(&Command::new(0xEC, 0, 0, 0))[170] & 0x20, 0);
    works(port);
}

#[test]
fn a_soft_reset_takes_two_commands() {
    let medium = Medium::new(Some(image(&numbered(2048, 64))));
    let hba = Hba::new([disk(&numbered(512, 64)), cdrom(&medium), None, None, None, None]);
    for (index, signature, file) in [(0, 0x0000_0101, 0x150), (1, 0xEB14_0101, 0x100)] {
        let port = hba.started(index);
        port.ok(&Command::new(0xE5, 0, 0, 0));
        port.fill(0, &Command::control(true));
        port.issue(1);
        eventually("the slot free", || port.read(CI) == 0);
        hba.put(port.received() + 0x40, &[0; 20]);
        port.fill(1, &Command::control(false));
        port.issue(2);
        eventually("the slot free", || port.read(CI) == 0);
        assert_eq!((port.read(SIG), port.read(TFD)), (signature, file));
        assert_eq!(hba.bytes(port.received() + 0x40, 2), [0x34, 0]);
        // One without the other is nothing.
        port.fill(1, &Command::control(false));
        port.issue(2);
        eventually("the slot free", || port.read(CI) == 0);
        port.ok(&Command::new(0xE5, 0, 0, 0));
    }
}

#[test]
fn a_port_that_is_stopped_in_the_middle_leaves_memory_alone() {
    for queued in [false, true] {
        let (hba, probe) = held(&numbered(512, 8192));
        let port = hba.started(0);
        probe.hold();
        if queued {
            let command = Command { descriptors: long().descriptors, ..Command::queued(false, 3, 0, 6144) };
            port.enqueue(&[
                (3, command.clone()),
                (4, Command { fis: Command::queued(false, 4, 0, 6144).fis, ..command }),
            ]);
        } else {
            port.fill(0, &long());
            port.issue(1);
        }
        probe.wait_held();
        port.write(CMD, FRE);
        // It runs until the thread has let go.
        assert_eq!((port.read(CI), port.read(SACT), port.read(CMD) & (CR | FR)), (0, 0, CR | FR));
        port.write(CMD, FRE | ST);
        port.fill(1, &Command::new(0x25, 0, 7, 1).with(DATA + 0x20_0000, 512));
        port.issue(2);
        port.write(CMD, FRE);
        probe.release();
        eventually("the end", || port.read(CMD) & CR == 0);
        hba.put(DATA, &[0x55; 0x1000]);
        assert_eq!(port.read(TFD) & 0x88, 0);
        port.restart();
        port.ok(&Command::new(0x25, 0, 9, 1).with(DATA + 0x20_0000, 512));
        assert_eq!(hba.bytes(DATA + 0x20_0000, 512), numbered_unit(512, 9));
        assert_eq!(hba.bytes(DATA, 0x1000), [0x55; 0x1000]);
    }
}

#[test]
fn resets_in_the_middle_of_a_command_wait_for_the_thread_and_nobody_for_them() {
    let (hba, probe) = held(&numbered(512, 8192));
    let port = hba.started(0);
    for adapter in [false, true] {
        probe.hold();
        port.fill(0, &long());
        port.issue(1);
        probe.wait_held();
        if adapter {
            hba.write(GHC, 1);
            assert_eq!((hba.read(GHC), port.read(PXIE), port.read(CI)), (0x8000_0001, 0, 0));
            assert_eq!((port.read(CLB), port.read(FB)), (LISTS as u32, RECEIVED as u32));
            port.write(CMD, FRE);
        } else {
            port.write(SCTL, 0x301);
            port.write(SCTL, 0x300);
        }
        assert_eq!(port.read(TFD) & 0x80, 0x80, "no signature before the thread is through");
        probe.release();
        eventually("the signature", || port.read(TFD) == 0x150);
        assert_eq!((hba.read(GHC) & HR, port.read(SIG)), (0, 0x101));
        hba.put(DATA, &[0x55; 0x1000]);
        hba.write(GHC, IE);
        port.start();
        port.ok(&Command::new(0x42, 0, 9, 1));
        assert_eq!(hba.bytes(DATA, 0x1000), [0x55; 0x1000]);
        works(port);
    }
}

#[test]
fn losing_the_bus_in_the_middle_stops_the_port() {
    let (hba, probe) = held(&numbered(512, 8192));
    let port = hba.started(0);
    probe.hold();
    port.fill(0, &long());
    port.issue(1);
    probe.wait_held();
    std::thread::scope(|scope| {
        let losing = scope.spawn(|| hba.set_master(false));
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(!losing.is_finished());
        probe.release();
        losing.join().unwrap();
        hba.put(DATA, &[0x55; 0x1000]);
    });
    assert_eq!(port.read(PXIS) & HBFS, HBFS);
    hba.set_master(true);
    port.restart();
    port.ok(&Command::new(0x42, 0, 9, 1));
    assert_eq!(hba.bytes(DATA, 0x1000), [0x55; 0x1000]);
}

#[test]
fn a_machine_reset_ends_everything() {
    let (hba, probe) = held(&numbered(512, 8192));
    let port = hba.started(0);
    probe.hold();
    port.fill(0, &long());
    port.issue(1);
    probe.wait_held();
    std::thread::scope(|scope| {
        let resetting = scope.spawn(|| hba.ahci.reset());
        probe.release();
        resetting.join().unwrap();
    });
    let registers = [CLB, FB, PXIE, CI, SACT, SIG, CMD].map(|register| port.read(register));
    assert_eq!(registers, [0, 0, 0, 0, 0, u32::MAX, 6]);
    assert_eq!((hba.read(GHC), hba.read(IS), hba.interrupt()), (0x8000_0000, 0, false));
    port.start();
    works(port);
}

#[test]
fn a_snapshot_in_the_middle_of_a_queue_goes_on_elsewhere() {
    let file = numbered(512, 8192);
    let (hba, probe) = held(&file);
    let port = hba.started(0);
    probe.hold();
    let read = |tag: u8| {
        let at = DATA + u64::from(tag) * 0x1000;
        (tag, Command::queued(false, tag, u64::from(tag) * 8, 8).with(at, 4096))
    };
    port.enqueue(&[read(1), read(2), read(3)]);
    probe.wait_held();
    eventually("all taken", || port.read(CI) == 0);
    let state = std::thread::scope(|scope| {
        let pausing = scope.spawn(|| hba.pci.pause());
        // Time to ask for the pause, before the thread can go on. Without, there is less left to do, and no less is true.
        std::thread::sleep(std::time::Duration::from_millis(20));
        probe.release();
        pausing.join().unwrap();
        hba.ahci.save()
    });
    // What is done is there, and during the pause nothing moves.
    let left = port.read(SACT);
    let moved = |hba: &Hba, tag: u8| hba.bytes(DATA + u64::from(tag) * 0x1000, 4096);
    let content = |tag: u8| numbered_units(512, u32::from(tag) * 8..u32::from(tag) * 8 + 8);
    for tag in 1..4 {
        let expected = if left >> tag & 1 == 0 { content(tag) } else { vec![0; 4096] };
        assert_eq!(moved(&hba, tag), expected, "{left:#x}, {tag}");
    }
    let (other, _) = held(&file);
    let port = other.port(0);
    // What is queued is in the state; of guest memory, descriptors alone are still read.
    for tag in 1..4 {
        let (_, command) = read(tag);
        port.fill(tag, &Command { fis: vec![0; 20], ..command });
    }
    other.load(&state).unwrap();
    eventually("the end", || port.read(SACT) == 0);
    assert_eq!((port.read(PXIS), other.interrupt()), (SDBS, true));
    for tag in 1..4 {
        let expected = if left >> tag & 1 != 0 { content(tag) } else { vec![0; 4096] };
        assert_eq!(moved(&other, tag), expected, "{left:#x}, {tag}");
    }
    hba.pci.resume();
}

#[test]
fn what_cannot_be_attached_is_refused_in_a_sentence() {
    let refused = |attachment| {
        let memory = crate::harness::memory();
        Ahci::new("ahci0", [None, Some(attachment), None, None, None, None], &memory).err().unwrap().to_string()
    };
    let empty = image(&numbered(511, 1));
    assert!(refused(Attachment::Disk { disk: empty, serial: String::new() }).contains("512 bytes"));
    let serial = "0123456789abcdefghijk".to_owned();
    assert!(refused(Attachment::Cdrom { medium: Medium::new(None), serial }).contains("20 characters"));
}
