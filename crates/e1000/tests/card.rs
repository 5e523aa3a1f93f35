//! What drivers rely on: identity, EEPROM, PHY, resets, interrupts, and frames in both directions.

mod driver;

use driver::*;
use e1000::register::{self, cause, ctrl, rctl, rxcsum, status, tctl};
use hv::Bus;

#[test]
fn the_card_is_an_82540em() {
    let driver = Driver::new();
    assert_eq!(driver.config(0x00, 4), 0x100E_8086);
    assert_eq!(driver.config(0x08, 4), 0x0200_0003);
    assert_eq!(driver.config(0x2C, 4), 0x1100_1AF4);
    assert_eq!(driver.config(0x3D, 1), 1);
    for (bar, size) in [(0x10, 0xFFFE_0000), (0x14, 0xFFFF_FFC1)] {
        driver.set_config(bar, 4, u32::MAX);
        assert_eq!(driver.config(bar, 4), size);
    }
}

#[test]
fn after_power_on_there_is_an_address_and_a_link() {
    let driver = Driver::new();
    assert_eq!((driver.read(register::RA), driver.read(register::RA + 4)), (0x1200_5452, 0x8000_5634));
    let wanted = status::LU | status::FD | 2 << status::SPEED_SHIFT;
    assert_eq!(driver.read(register::STATUS) & (wanted | 1 << 6), wanted);
    assert_eq!((driver.phy_read(2), driver.phy_read(3)), (0x0141, 0x0C20));
    assert_eq!(driver.phy_read(1), 0x796D);
    assert_eq!(driver.read(register::CTRL) & ctrl::SLU, ctrl::SLU);
    // Another PHY address is an error, and so is no operation at all.
    for value in [2 << 26 | 2 << 21, 1 << 21] {
        driver.write(register::MDIC, value);
        assert_eq!(driver.read(register::MDIC) >> 28, 5);
    }
}

#[test]
fn bytes_of_registers_can_be_read_and_only_whole_ones_written() {
    let driver = Driver::new();
    let mut bytes = [0; 6];
    for (at, byte) in (0u64..).zip(bytes.chunks_mut(1)) {
        driver.buses.mmio_read(driver.base + u64::from(register::RA) + at, byte);
    }
    assert_eq!(bytes, MAC);
    driver.buses.mmio_write(driver.base + u64::from(register::RA), &[0xAA]);
    driver.buses.mmio_write(driver.base + u64::from(register::RA), &[0xAA; 2]);
    assert_eq!(driver.read(register::RA), 0x1200_5452);
    // 8 bytes are two registers.
    driver.buses.mmio_write(driver.base + u64::from(register::RA), &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((driver.read(register::RA), driver.read(register::RA + 4)), (0x0403_0201, 0x0003_0605));
}

#[test]
fn the_rom_is_in_its_own_base_address_register() {
    let driver = Driver::new();
    driver.set_config(0x30, 4, 0xFFFF_FFFE);
    assert_eq!(driver.config(0x30, 4), 0xFFFF_F800);
    driver.set_config(0x30, 4, 0xE800_0001);
    let mut data = [0; 4];
    driver.buses.mmio_read(0xE800_0000, &mut data);
    assert_eq!(data, [ROM_IMAGE[0], ROM_IMAGE[1], ROM_IMAGE[2], 0xFF]);
    // Registers are written at the same offsets, and not from here.
    driver.buses.mmio_write(0xE800_0000 + u64::from(register::VET), &[1, 2, 3, 4]);
    assert_eq!(driver.read(register::VET), 0x8100);
}

#[test]
fn all_registers_are_reached_through_the_ports() {
    let driver = Driver::new();
    let access = |offset| driver.buses.pio_write(driver.port, 4, offset);
    access(register::STATUS);
    assert_eq!(driver.buses.pio_read(driver.port, 4), register::STATUS);
    assert_eq!(driver.buses.pio_read(driver.port + 4, 4), driver.read(register::STATUS));
    driver.buses.pio_write(driver.port, 2, 0);
    assert_eq!(driver.buses.pio_read(driver.port, 4), register::STATUS, "only a doubleword sets it");
    access(register::RCTL);
    driver.buses.pio_write(driver.port + 4, 4, rctl::BAM);
    assert_eq!(driver.read(register::RCTL), rctl::BAM);
    // Linux resets this card through the ports.
    access(register::CTRL);
    driver.buses.pio_write(driver.port + 4, 4, driver.read(register::CTRL) | ctrl::RST);
    assert_eq!((driver.read(register::RCTL), driver.read(register::CTRL) & ctrl::RST), (0, 0));
    for beyond in [register::SIZE, 0x8_0000, u32::MAX] {
        access(beyond);
        driver.buses.pio_write(driver.port + 4, 4, u32::MAX);
        assert_eq!(driver.buses.pio_read(driver.port + 4, 4), 0);
    }
}

/// The register test of Linux's `ethtool -t`: register, count, step, bits that are compared, bits that are written.
#[test]
fn registers_hold_the_patterns_of_a_self_test() {
    let driver = Driver::new();
    let registers = [
        (register::FCAL, 1, 4, u32::MAX, u32::MAX),
        (register::FCAH, 1, 4, 0xFFFF, u32::MAX),
        (register::FCT, 1, 4, 0xFFFF, u32::MAX),
        (register::VET, 1, 4, 0xFFFF, u32::MAX),
        (register::RDTR, 1, 4, 0xFFFF, u32::MAX),
        (register::RDBAH, 1, 4, u32::MAX, u32::MAX),
        (register::RDLEN, 1, 4, 0x000F_FF80, 0x000F_FFFF),
        (register::RDH, 1, 4, 0xFFFF, 0xFFFF),
        (register::RDT, 1, 4, 0xFFFF, 0xFFFF),
        (register::FCRTH, 1, 4, 0xFFF8, 0xFFF8),
        (register::FCTTV, 1, 4, 0xFFFF, 0xFFFF),
        (register::TIPG, 1, 4, 0x3FFF_FFFF, 0x3FFF_FFFF),
        (register::TDBAH, 1, 4, u32::MAX, u32::MAX),
        (register::TDLEN, 1, 4, 0x000F_FF80, 0x000F_FFFF),
        (register::RDBAL, 1, 4, 0xFFFF_FFF0, u32::MAX),
        (register::TXCW, 1, 4, 0xC000_FFFF, 0x0000_FFFF),
        (register::TDBAL, 1, 4, 0xFFFF_FFF0, u32::MAX),
        (register::TIDV, 1, 4, 0xFFFF, 0xFFFF),
        (register::RA, 16, 8, u32::MAX, u32::MAX),
        (register::RA + 4, 16, 8, 0x8003_FFFF, u32::MAX),
        (register::MTA, 128, 4, u32::MAX, u32::MAX),
        (register::VFTA, 128, 4, u32::MAX, u32::MAX),
        (register::FFVT, 128, 8, u32::MAX, u32::MAX),
    ];
    for (first, count, step, mask, writable) in registers {
        for index in 0..count {
            for pattern in [0x5A5A_5A5A, 0xA5A5_A5A5, 0, u32::MAX] {
                let offset = first + index * step;
                driver.write(offset, pattern & writable);
                assert_eq!(driver.read(offset) & mask, pattern & writable & mask, "{offset:#x}");
            }
        }
    }
    for value in [0, 0x06DF_B3FE, 0x003F_FFFB] {
        driver.write(register::RCTL, value & 0x06DF_B3FE);
        assert_eq!(driver.read(register::RCTL), value & 0x06DF_B3FE);
    }
    let before = driver.read(register::STATUS);
    driver.write(register::STATUS, !before);
    assert_eq!(driver.read(register::STATUS), before);
}

#[test]
fn causes_raise_the_pin_when_enabled_and_reading_clears_them() {
    let driver = Driver::new();
    driver.write(register::ICS, cause::LSC);
    assert!(!driver.line());
    driver.write(register::IMS, cause::LSC);
    assert!(driver.line());
    assert_eq!(driver.config(0x06, 2) & 8, 8);
    assert_eq!(driver.read(register::ICS), cause::LSC, "reading ICS clears nothing");
    driver.write(register::IMC, u32::MAX);
    assert!(!driver.line());
    driver.write(register::IMS, cause::LSC | cause::RXT0);
    assert_eq!(driver.read(register::ICR), cause::LSC);
    assert!(!driver.line());
    assert_eq!((driver.read(register::ICR), driver.read(register::IMS)), (0, cause::LSC | cause::RXT0));
    driver.write(register::ICS, u32::MAX);
    driver.write(register::ICR, !cause::LSC);
    assert!(driver.line());
    assert_eq!(driver.read(register::ICR), cause::LSC, "writing a one clears a cause");
}

#[test]
fn pulling_the_cable_changes_the_link() {
    let driver = Driver::started();
    driver.write(register::IMS, cause::LSC);
    driver.cable.set_plugged(false);
    assert!(driver.line());
    assert_eq!(driver.read(register::ICR), cause::LSC);
    assert_eq!((driver.read(register::STATUS) & status::LU, driver.phy_read(1) & 0x24), (0, 0));
    driver.network.deliver(&frame(60));
    driver.send(&frame(60));
    assert_eq!((driver.network.sent.lock().unwrap().len(), driver.read(0x4080)), (0, 0), "it went nowhere");
    driver.cable.set_plugged(true);
    assert_eq!((driver.read(register::ICR) & cause::LSC, driver.phy_read(1) & 0x24), (cause::LSC, 0x24));
    driver.send(&frame(61));
    assert_eq!(driver.network.sent(1), [frame(61)]);
    driver.network.deliver(&frame(62));
    assert_eq!(driver.received(0).length, 62, "what came while it was out is lost");
}

#[test]
fn the_phy_is_reset_and_restarted() {
    let driver = Driver::new();
    driver.phy_write(9, 0);
    assert_eq!(driver.read(register::STATUS) >> status::SPEED_SHIFT & 3, 1);
    driver.read(register::ICR);
    driver.phy_write(0, 0x1340);
    assert_eq!((driver.phy_read(0), driver.read(register::ICR)), (0x1140, cause::LSC));
    let control = driver.read(register::CTRL);
    driver.write(register::CTRL, control | ctrl::PHY_RST);
    driver.write(register::CTRL, control);
    assert_eq!((driver.phy_read(9), driver.read(register::ICR)), (0x0300, cause::LSC));
    driver.write(register::CTRL, control | ctrl::FRCSPD | ctrl::FRCDPLX);
    assert_eq!(driver.read(register::STATUS) >> status::SPEED_SHIFT & 3, control >> 8 & 3);
    driver.write(register::MDIC, 2 << 26 | 1 << 21 | 1 << 29);
    assert_eq!(driver.read(register::ICR), cause::MDAC);
}

#[test]
fn a_software_reset_keeps_the_link_and_the_packet_buffer_allocation() {
    let driver = Driver::started();
    driver.write(register::PBA, 0x0020);
    driver.write(register::RA, 0);
    driver.write(register::MTA, 5);
    driver.write(register::IMS, cause::TXDW);
    driver.write(register::TIPG, 7);
    driver.send(&frame(60));
    driver.phy_write(9, 0x0200);
    assert!(driver.line());
    driver.write(register::CTRL, driver.read(register::CTRL) | ctrl::RST);
    assert!(!driver.line());
    for cleared in [register::RCTL, register::TCTL, register::IMS, register::ICR, register::MTA, register::TIPG] {
        assert_eq!(driver.read(cleared), 0, "{cleared:#x}");
    }
    for ring in [register::RDBAL, register::RDLEN, register::TDH, register::TDT] {
        assert_eq!(driver.read(ring), 0);
    }
    assert_eq!((driver.read(0x40D4), driver.read(register::RA)), (0, 0x1200_5452));
    assert_eq!((driver.read(register::PBA), driver.phy_read(9)), (0x0010_0020, 0x0200));
    driver.start(0);
    driver.network.sent(1);
    driver.send(&frame(64));
    assert_eq!(driver.network.sent(1), [frame(64)]);
}

#[test]
fn legacy_descriptors_send_whole_frames() {
    let driver = Driver::started();
    driver.write(register::IMS, cause::TXDW);
    let whole = frame(100);
    driver.memory.write(DATA, &whole).unwrap();
    let pieces = [
        legacy(DATA, 14, 0),
        legacy(0, 50, RS),
        legacy(DATA + 14, 0, 0),
        legacy(DATA + 14, 80, RS),
        legacy(DATA + 94, 6, EOP | IFCS | RS),
    ];
    let last = driver.submit(&pieces);
    driver.wait_sent(last);
    assert_eq!(driver.network.sent(1), [whole]);
    eventually("the interrupt", || driver.line());
    assert_eq!(driver.read(register::ICR) & (cause::TXDW | cause::TXQE), cause::TXDW | cause::TXQE);
    assert_eq!(driver.read(register::TDH), 5);
    let done: Vec<u8> = (0..5).map(|n| driver.bytes(TX_RING + 16 * n + 12, 1)[0]).collect();
    assert_eq!(done, [0, 1, 0, 1, 1], "DD only where RS is");
    assert_eq!([0x40D4, 0x4080, 0x40C8, 0x4090].map(|at| driver.read(at)), [1, 1, 104, 104]);
}

#[test]
fn frames_go_round_the_ring() {
    let driver = Driver::started();
    for length in 60..60 + 3 * COUNT as usize {
        driver.send(&frame(length));
    }
    let sent: Vec<usize> = driver.network.sent(3 * COUNT as usize).iter().map(Vec::len).collect();
    assert_eq!(sent, (60..60 + 3 * COUNT as usize).collect::<Vec<_>>());
}

#[test]
fn short_frames_are_padded_when_asked_for() {
    let driver = Driver::started();
    driver.send(&frame(42));
    driver.write(register::TCTL, tctl::EN | tctl::PSP);
    driver.send(&frame(42));
    let mut padded = frame(42);
    padded.resize(60, 0);
    assert_eq!(driver.network.sent(2), [frame(42), padded]);
}

#[test]
fn a_legacy_checksum_is_inserted() {
    let driver = Driver::started();
    driver.memory.write(DATA, &frame(75)).unwrap();
    let mut first = legacy(DATA, 40, IC);
    (first[10], first[13]) = (50, 34);
    let last = driver.submit(&[first, legacy(DATA + 40, 35, EOP | IC | RS)]);
    driver.wait_sent(last);
    let sent = driver.network.sent(1).remove(0);
    let expected = !sum(&frame(75)[34..]) as u16;
    assert_eq!(sent[50..52], expected.to_be_bytes());
    // Out of the packet, nothing happens.
    for (start, offset) in [(75, 50), (34, 74), (255, 255)] {
        let mut one = legacy(DATA, 75, EOP | IC | RS);
        (one[10], one[13]) = (offset, start);
        driver.submit(&[one]);
        assert_eq!(driver.network.sent(1), [frame(75)]);
    }
}

#[test]
fn vlan_tags_are_inserted_and_stripped() {
    let driver = Driver::started();
    driver.write(register::CTRL, driver.read(register::CTRL) | ctrl::VME);
    let plain = frame(64);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x2A]);
    driver.memory.write(DATA, &plain).unwrap();
    let mut descriptor = legacy(DATA, 64, EOP | VLE);
    descriptor[14..].copy_from_slice(&0x602Au16.to_le_bytes());
    driver.submit(&[descriptor]);
    assert_eq!(driver.network.sent(1), [tagged.clone()]);
    driver.network.deliver(&tagged);
    let received = driver.received(0);
    assert_eq!((received.length, received.special, received.status & 0x0B), (64, 0x602A, 0x0B));
    assert_eq!(driver.buffer(0, 64), plain);
    driver.write(register::CTRL, driver.read(register::CTRL) & !ctrl::VME);
    driver.network.deliver(&tagged);
    let received = driver.received(1);
    assert_eq!((received.length, received.special, received.status & 0x0B), (68, 0, 0x03));
    assert_eq!(driver.buffer(1, 68), tagged);
}

#[test]
fn received_frames_lie_in_their_buffers() {
    let driver = Driver::started();
    driver.write(register::IMS, cause::RXT0);
    driver.network.deliver(&frame(100));
    let received = driver.received(0);
    assert_eq!((received.length, received.status, received.errors), (100, 0x07, 0));
    assert_eq!(u32::from(received.checksum), sum(&frame(100)));
    assert_eq!(driver.buffer(0, 101), [frame(100), vec![0xEE]].concat());
    eventually("the interrupt", || driver.line());
    assert_eq!(driver.read(register::ICR) & cause::RXT0, cause::RXT0);
    assert_eq!(driver.read(register::RDH), 1);
    // A short one is padded to what a cable carries; behind it comes the frame check sequence if it is kept.
    driver.write(register::RCTL, rctl::EN);
    driver.network.deliver(&frame(42));
    assert_eq!(driver.received(1).length, 64);
    let mut padded = frame(42);
    padded.resize(60, 0);
    let stored = driver.buffer(1, 64);
    assert_eq!(stored[..60], padded);
    // Python: zlib.crc32 of the 60 bytes.
    let crc = stored[..60].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0xEDB8_8320 } else { 0 })
    });
    assert_eq!(stored[60..], (!crc).to_le_bytes());
}

#[test]
fn frames_that_are_not_ours_are_dropped() {
    let driver = Driver::started();
    let mut other = frame(60);
    other[5] ^= 1;
    driver.network.deliver(&other);
    let mut group = frame(61);
    group[..6].copy_from_slice(&[0x01, 0x00, 0x5E, 0, 0xAB, 0xCD]);
    driver.network.deliver(&group);
    driver.network.deliver(&frame(62));
    assert_eq!(driver.received(0).length, 62);
    driver.write(register::MTA + 4 * (0xCDA >> 5), 1 << (0xCDA & 31));
    driver.network.deliver(&group);
    let received = driver.received(1);
    assert_eq!((received.length, received.status & 0x80), (61, 0x80));
    driver.write(register::RCTL, rctl::EN | rctl::UPE | rctl::SECRC);
    driver.network.deliver(&other);
    assert_eq!(driver.received(2).length, 60);
    assert_eq!([0x40D0, 0x4074, 0x407C].map(|at| driver.read(at)), [3, 3, 1]);
}

#[test]
fn every_buffer_size_splits_a_long_frame() {
    let sizes = [(256, 3, 0), (512, 2, 0), (1024, 1, 0), (2048, 0, 0), (4096, 3, 1), (8192, 2, 1), (16384, 1, 1)];
    for (size, code, extension) in sizes {
        let driver = Driver::new();
        let length = (3 * size + 7).min(9000);
        let extension = if extension == 1 { rctl::BSEX } else { 0 };
        driver.start(rctl::SECRC | rctl::LPE | code << rctl::BSIZE_SHIFT | extension);
        let long = frame(length);
        driver.network.deliver(&long);
        let pieces: Vec<&[u8]> = long.chunks(size).collect();
        driver.received(pieces.len() as u32 - 1);
        for (index, piece) in (0..).zip(&pieces) {
            let received = driver.received(index);
            let last = index as usize + 1 == pieces.len();
            assert_eq!((received.length as usize, received.status & 2 != 0), (piece.len(), last), "{size}");
            assert_eq!(driver.buffer(index, piece.len() + 1), [piece, &[0xEE][..]].concat(), "{size}");
        }
        assert_eq!(u32::from(driver.received(0).checksum), sum(&long));
    }
}

#[test]
fn frames_that_are_too_long_are_dropped_and_counted() {
    let driver = Driver::started();
    driver.network.deliver(&frame(1519));
    driver.network.deliver(&frame(1518));
    assert_eq!(driver.received(0).length, 1518);
    driver.write(register::RCTL, rctl::EN | rctl::LPE | rctl::SECRC);
    driver.network.deliver(&frame(16381));
    driver.network.deliver(&frame(20000));
    driver.network.deliver(&frame(16380));
    assert_eq!((1..=8).map(|index| usize::from(driver.received(index).length)).sum::<usize>(), 16380);
    assert_eq!(driver.read(0x40AC), 3);
}

#[test]
fn a_frame_waits_for_descriptors() {
    let driver = Driver::new();
    driver.start(rctl::LPE | rctl::SECRC);
    driver.write(register::RCTL, 0);
    driver.write(register::RDH, 0);
    driver.write(register::RDT, 1);
    driver.write(register::RCTL, rctl::EN | rctl::LPE | rctl::SECRC);
    let long = frame(5000);
    driver.network.deliver(&long);
    assert_eq!((driver.received(0).length, driver.received(0).status), (2048, 1));
    driver.network.deliver(&frame(60));
    driver.write(register::RDT, 3);
    assert_eq!((driver.received(2).length, driver.received(2).status & 3), (904, 3));
    assert_eq!([driver.buffer(0, 2048), driver.buffer(1, 2048), driver.buffer(2, 904)].concat(), long);
    driver.write(register::RDT, 4);
    assert_eq!(driver.received(3).length, 60);
    eventually("the threshold", || driver.read(register::ICR) & cause::RXDMT0 != 0);
}

#[test]
fn descriptors_without_a_buffer_are_passed() {
    let driver = Driver::new();
    driver.start(rctl::SECRC);
    driver.write(register::RCTL, 0);
    driver.set_receive_descriptor(0, 0);
    driver.write(register::RCTL, rctl::EN | rctl::SECRC);
    driver.network.deliver(&frame(77));
    assert_eq!((driver.received(0).status, driver.received(1).length), (1, 77));
}

/// An Ethernet frame with IPv4 and TCP headers, and a payload that counts.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut packet = vec![0; 54];
    packet[..14].copy_from_slice(&[MAC[0], MAC[1], MAC[2], MAC[3], MAC[4], MAC[5], 2, 0, 0, 0, 0, 1, 8, 0]);
    packet[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0xFF, 0xFF, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[34..54].copy_from_slice(&[0x12, 0x34, 0, 80, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|n| (n * 7) as u8));
    packet
}

/// Asserts that both checksums of an IPv4 and TCP or UDP frame are right.
fn assert_checksums(frame: &[u8]) {
    assert_eq!(sum(&frame[14..34]), 0xFFFF, "IP");
    let length = frame.len() - 34;
    assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), length + 20);
    let pseudo = [&frame[26..34], &[0, frame[23]], &(length as u16).to_be_bytes()].concat();
    assert_eq!(sum(&[&pseudo, &frame[34..]].concat()), 0xFFFF, "TCP or UDP");
}

/// Puts the pseudo-header's sum into a packet, with the length in it or not.
fn seed(packet: &mut [u8], field: usize, with_length: bool) {
    let length = if with_length { packet.len() as u16 - 34 } else { 0 };
    let pseudo = [&packet[26..34], &[0, packet[23]], &length.to_be_bytes()].concat();
    packet[field..field + 2].copy_from_slice(&(sum(&pseudo) as u16).to_be_bytes());
}

#[test]
fn context_descriptors_insert_ip_and_tcp_checksums() {
    let driver = Driver::started();
    for (payload, protocol, field) in [(0, 6, 50), (333, 6, 50), (1460, 6, 50), (17, 17, 40)] {
        let mut packet = tcp4(payload);
        packet[23] = protocol;
        let length = packet.len() as u16 - 14;
        packet[16..18].copy_from_slice(&length.to_be_bytes());
        seed(&mut packet, field, true);
        driver.memory.write(DATA, &packet).unwrap();
        let command = if protocol == 6 { 3 } else { 2 };
        let context = Context { ip: (14, 24, 33), tcp: (34, field as u8, 0), command, ..Context::default() };
        let half = packet.len() as u32 / 2;
        let last = driver.submit(&[
            context.bytes(),
            data(DATA, half, 0, 3, 0),
            // Options count in the first descriptor alone.
            data(DATA + u64::from(half), packet.len() as u32 - half, EOP | RS, 0, 0),
        ]);
        driver.wait_sent(last);
        let sent = driver.network.sent(1).remove(0);
        assert_eq!(sent.len(), packet.len());
        assert_checksums(&sent);
    }
    // The context stays, and nothing is inserted that is not asked for.
    let packet = tcp4(10);
    driver.memory.write(DATA, &packet).unwrap();
    driver.submit(&[data(DATA, packet.len() as u32, EOP, 0, 0)]);
    assert_eq!(driver.network.sent(1), [packet]);
}

#[test]
fn a_udp_checksum_is_never_zero() {
    let driver = Driver::started();
    let mut packet = vec![0; 60];
    packet[50..52].fill(0xFF);
    driver.memory.write(DATA, &packet).unwrap();
    for (command, checksum) in [(1, [0, 0]), (0, [0xFF, 0xFF])] {
        let context = Context { tcp: (34, 40, 0), command, ..Context::default() };
        driver.submit(&[context.bytes(), data(DATA, 60, EOP, 2, 0)]);
        assert_eq!(driver.network.sent(1)[0][40..42], checksum);
    }
}

#[test]
fn a_large_packet_is_cut_into_segments() {
    let driver = Driver::started();
    driver.write(register::CTRL, driver.read(register::CTRL) | ctrl::VME);
    let payload = 3 * 1000 + 123;
    let mut packet = tcp4(payload);
    seed(&mut packet, 50, false);
    driver.memory.write(DATA, &packet).unwrap();
    let context = Context {
        ip: (14, 24, 33),
        tcp: (34, 50, 0),
        payload: payload as u32,
        command: TSE | 3,
        header: 54,
        segment: 1000,
    };
    let last = driver.submit(&[
        context.bytes(),
        data(DATA, 54, TSE | VLE, 3, 9),
        data(DATA + 54, 2500, TSE, 0, 0),
        data(DATA + 2554, payload as u32 - 2500, TSE | EOP | RS, 0, 0),
    ]);
    driver.wait_sent(last);
    let sent = driver.network.sent(4);
    let mut whole = Vec::new();
    for (index, frame) in sent.iter().enumerate() {
        assert_eq!(frame[12..16], [0x81, 0, 0, 9]);
        let frame = [&frame[..12], &frame[16..]].concat();
        assert_eq!(frame.len(), if index < 3 { 1054 } else { 177 });
        assert_checksums(&frame);
        let identification = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(identification, 0xFFFFu16.wrapping_add(index as u16));
        let sequence = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
        assert_eq!(sequence, 0xFFFF_FF00u32.wrapping_add(1000 * index as u32));
        assert_eq!(frame[47], if index < 3 { 0x10 } else { 0x19 }, "FIN and PSH in the last alone");
        whole.extend_from_slice(&frame[54..]);
    }
    assert_eq!(whole, packet[54..]);
    assert_eq!((driver.read(0x40F8), driver.read(0x40FC), driver.read(0x4080)), (1, 0, 4));
}

#[test]
fn segments_of_ipv6_and_of_udp_have_their_own_lengths() {
    let driver = Driver::started();
    let mut packet = vec![0; 14 + 40 + 8 + 250];
    packet[12..14].copy_from_slice(&[0x86, 0xDD]);
    packet[14] = 0x60;
    packet[20] = 17;
    driver.memory.write(DATA, &packet).unwrap();
    let context = Context { ip: (14, 0, 0), tcp: (54, 60, 0), payload: 250, command: TSE, header: 62, segment: 100 };
    driver.submit(&[context.bytes(), data(DATA, packet.len() as u32, TSE | EOP, 2, 0)]);
    let sent = driver.network.sent(3);
    for (frame, payload) in sent.iter().zip([100u16, 100, 50]) {
        assert_eq!(frame.len(), 62 + usize::from(payload));
        assert_eq!(frame[18..20], (8 + payload).to_be_bytes(), "IPv6 counts what is behind it");
        assert_eq!(frame[58..60], (8 + payload).to_be_bytes());
        // With addresses of zero the seed was without the protocol.
        let lengths = u32::from(8 + payload);
        assert_eq!(sum(&[&frame[54..], &(lengths as u16).to_be_bytes()].concat()), 0xFFFF);
    }
}

#[test]
fn received_checksums_are_judged() {
    let driver = Driver::started();
    let mut packet = tcp4(100);
    let length = packet.len() as u16 - 14;
    packet[16..18].copy_from_slice(&length.to_be_bytes());
    seed(&mut packet, 50, true);
    let checksum = !sum(&packet[34..]) as u16;
    packet[50..52].copy_from_slice(&checksum.to_be_bytes());
    let checksum = !sum(&packet[14..34]) as u16;
    packet[24..26].copy_from_slice(&checksum.to_be_bytes());
    assert_checksums(&packet);
    driver.network.deliver(&packet);
    assert_eq!((driver.received(0).status, driver.received(0).errors), (0x07, 0), "IXSM");
    driver.write(register::RXCSUM, rxcsum::IPOFLD | rxcsum::TUOFLD | 14);
    driver.network.deliver(&packet);
    let received = driver.received(1);
    assert_eq!((received.status, received.errors), (0x63, 0));
    assert_eq!(u32::from(received.checksum), sum(&packet[14..]));
    packet[60] ^= 1;
    driver.network.deliver(&packet);
    assert_eq!((driver.received(2).status, driver.received(2).errors), (0x63, 0x20));
    packet[22] ^= 1;
    driver.network.deliver(&packet);
    assert_eq!(driver.received(3).errors, 0x60);
}

#[test]
fn loopback_returns_what_is_sent() {
    let driver = Driver::started();
    driver.phy_write(0, 0x4140);
    driver.send(&frame(80));
    assert_eq!(driver.received(0).length, 80);
    assert_eq!(driver.buffer(0, 80), frame(80));
    driver.phy_write(0, 0x1140);
    driver.write(register::RCTL, rctl::EN | rctl::SECRC | 1 << 6);
    driver.send(&frame(81));
    assert_eq!(driver.received(1).length, 81);
    assert_eq!(driver.network.sent.lock().unwrap().len(), 0);
}
