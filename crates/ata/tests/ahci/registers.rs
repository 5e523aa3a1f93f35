use crate::driver::*;
use crate::harness::{cdrom, disk, image, numbered};
use block::Medium;

#[test]
fn the_function_is_the_ich9s() {
    let hba = Hba::new([disk(&numbered(512, 64)), None, None, disk(&numbered(512, 64)), None, None]);
    assert_eq!((hba.config(0, 4), hba.config(8, 4)), (0x2922_8086, 0x0106_0102));
    assert_eq!((hba.config(0x3D, 1), hba.config(0x90, 1), hba.config(0x92, 2)), (1, 0x40, 0x093F));
    assert_eq!(hba.abar() % 0x1000, 0);
    let registers: Vec<u32> = [0x00, GHC, IS, 0x0C, 0x10, 0x24].map(|offset| hba.read(offset)).to_vec();
    // 64 bits, NCQ, CLO, 3 Gbit/s, AHCI only, PMD, 32 slots, 6 ports; version 1.3.1.
    assert_eq!(registers, [0xC124_9F05, 0x8000_0002, 0, 0x3F, 0x0001_0301, 0]);
}

#[test]
fn ports_show_what_is_attached_once_they_receive() {
    let medium = Medium::new(Some(image(&numbered(2048, 16))));
    let hba = Hba::new([disk(&numbered(512, 64)), cdrom(&medium), None, None, None, None]);
    for (index, link, signature) in [(0, 0x123, 0x0000_0101), (1, 0x123, 0xEB14_0101), (2, 0, u32::MAX)] {
        let port = hba.port(index);
        assert_eq!((port.read(SSTS), port.read(SIG), port.read(CMD)), (link, u32::MAX, 0x6));
        assert_eq!(port.read(PXIS) & PCS != 0, link != 0);
        port.write(FB, RECEIVED as u32);
        port.write(CMD, FRE);
        assert_eq!((port.read(SIG), port.read(CMD)), (signature, FRE | FR | 6));
        port.write(SERR, u32::MAX);
        assert_eq!((port.read(PXIS), port.read(SERR)), (0, 0));
    }
    let [disk, cd, nothing] = [0, 1, 2].map(|index| hba.port(index).read(TFD));
    assert_eq!((disk, cd, nothing), (0x150, 0x100, 0x7F));
    // The last signature FIS, without an interrupt.
    assert_eq!(hba.bytes(RECEIVED + 0x40, 8), [0x34, 0, 0, 1, 1, 0x14, 0xEB, 0]);
}

#[test]
fn registers_hold_what_they_should() {
    let hba = Hba::new([disk(&numbered(512, 64)), None, None, None, None, None]);
    let port = hba.port(0);
    for (register, held) in [
        (CLB, 0xFFFF_FC00),
        (0x04, u32::MAX),
        (FB, 0xFFFF_FF00),
        (0x0C, u32::MAX),
        (PXIE, 0xFDC0_00FF),
        (0x3C, 0),
        (0x40, 0),
        (0x7C, 0),
        (SCTL, 0xFF3),
    ] {
        port.write(register, if register == SCTL { 0xFFFF_FFF3 } else { u32::MAX });
        assert_eq!(port.read(register), held, "{register:#x}");
    }
    // Of GHC only IE can be written, and read-only registers stay.
    hba.write(GHC, 0);
    assert_eq!(hba.read(GHC), 0x8000_0000);
    for offset in [0x00, 0x0C, 0x10, 0x14, 0x24, 0x28, 0xA0] {
        let before = hba.read(offset);
        hba.write(offset, !before);
        assert_eq!(hba.read(offset), before);
    }
    // Behind the last port there is nothing.
    hba.write(0x400, u32::MAX);
    assert_eq!((hba.read(0x400), hba.read(0xFFC)), (0, 0));
    // Commands cannot be issued before the port is started.
    port.write(CI, u32::MAX);
    port.write(SACT, u32::MAX);
    assert_eq!((port.read(CI), port.read(SACT)), (0, 0));
}

#[test]
fn accesses_of_any_size_touch_the_bytes_they_name() {
    let hba = Hba::new([disk(&numbered(512, 64)), None, None, None, None, None]);
    let port = hba.port(0);
    port.write(CLB, 0x1234_5400);
    port.write(0x04, 0x89AB_CDEF);
    assert_eq!(hba.read_bytes(0x100, 8), 0x89AB_CDEF_1234_5400_u64.to_le_bytes());
    hba.write_bytes(0x100, &0x1122_3344_5566_7788_u64.to_le_bytes());
    assert_eq!((port.read(CLB), port.read(0x04)), (0x5566_7400, 0x1122_3344));
    hba.write_bytes(0x102, &[0xAB]);
    hba.write_bytes(0x106, &[0xCD, 0xEF]);
    assert_eq!((port.read(CLB), port.read(0x04)), (0x55AB_7400, 0xEFCD_3344));
    assert_eq!((hba.read_bytes(0x102, 1), hba.read_bytes(0x106, 2)), (vec![0xAB], vec![0xCD, 0xEF]));
    // Bits that are cleared by a one: those beside the access stay.
    let before = port.read(SERR);
    assert_eq!(before, 1 << 26 | 1 << 16);
    hba.write_bytes(port.at(SERR) + 2, &[0xFF]);
    assert_eq!(port.read(SERR), 1 << 26);
    hba.write_bytes(GHC, &[0]);
    assert_eq!(hba.read(GHC), 0x8000_0000);
    // Every offset, every size: nothing is returned that four bytes would not give.
    for offset in 0..0x500u64 {
        for size in [1, 2, 4, 8].into_iter().filter(|size| offset % size == 0) {
            let expected: Vec<u8> =
                (offset..offset + size).map(|at| (hba.read(at & !3) >> (8 * (at % 4))) as u8).collect();
            assert_eq!(hba.read_bytes(offset, size as usize), expected, "{offset:#x}");
        }
    }
}

#[test]
fn an_interrupt_goes_by_the_pin_and_stays_until_both_registers_are_cleared() {
    let hba = Hba::new([disk(&numbered(512, 64)), None, None, None, None, None]);
    let port = hba.started(0);
    hba.write(IS, u32::MAX);
    assert!(!hba.interrupt());
    let verify = Command::new(0x42, 0, 0, 1);
    port.fill(0, &verify);
    port.issue(1);
    crate::harness::eventually("the interrupt", || hba.interrupt());
    assert_eq!((hba.read(IS), port.read(PXIS)), (1, DHRS));
    hba.write(IS, 1);
    assert!(hba.interrupt() && hba.read(IS) == 1, "the port still wants it");
    port.write(PXIS, DHRS);
    assert!(hba.interrupt());
    hba.write(IS, 1);
    assert!(!hba.interrupt() && hba.read(IS) == 0);
    // Disabled in the port, then in the adapter.
    port.write(PXIE, !DHRS);
    port.fill(0, &verify);
    port.issue(1);
    crate::harness::eventually("the end", || port.read(CI) == 0);
    assert!(!hba.interrupt() && hba.read(IS) == 0);
    hba.write(GHC, 0);
    port.write(PXIE, DHRS);
    assert!(!hba.interrupt() && hba.read(IS) == 1);
    hba.write(GHC, IE);
    assert!(hba.interrupt());
}

#[test]
fn a_message_comes_for_each_bit_that_is_set_anew() {
    let hba = Hba::new([disk(&numbered(512, 64)), disk(&numbered(512, 64)), None, None, None, None]);
    let ports = [hba.started(0), hba.started(1)];
    hba.write(IS, u32::MAX);
    hba.enable_msi();
    let run = |port: Port| {
        port.fill(0, &Command::new(0x42, 0, 0, 1));
        port.issue(1);
        crate::harness::eventually("the end", || port.read(CI) == 0 && port.read(PXIS) & DHRS != 0);
    };
    run(ports[0]);
    assert_eq!((hba.take_messages(), hba.interrupt()), (1, false));
    // The guest has not answered: no second one, but for another port.
    run(ports[0]);
    assert_eq!(hba.take_messages(), 0);
    run(ports[1]);
    assert_eq!(hba.take_messages(), 1);
    ports[0].write(PXIS, u32::MAX);
    hba.write(IS, 1);
    assert_eq!((hba.take_messages(), hba.read(IS)), (1, 2), "port 1 is left");
    // Cleared in the adapter alone, it comes back.
    hba.write(IS, 2);
    assert_eq!((hba.take_messages(), hba.read(IS)), (1, 2));
    ports[1].write(PXIS, u32::MAX);
    hba.write(IS, 2);
    assert_eq!((hba.take_messages(), hba.read(IS)), (0, 0));
}
