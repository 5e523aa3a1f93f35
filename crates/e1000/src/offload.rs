//! What a receiver says of the checksums in a frame. Manual, sections 3.2.3 and 3.2.9.

use crate::checksum::{add, sum};
use crate::register::rxcsum;

/// Bits of the receive descriptor's status and errors.
pub(crate) const STATUS_IXSM: u8 = 1 << 2;
pub(crate) const STATUS_TCPCS: u8 = 1 << 5;
pub(crate) const STATUS_IPCS: u8 = 1 << 6;
pub(crate) const ERROR_TCPE: u8 = 1 << 5;
pub(crate) const ERROR_IPE: u8 = 1 << 6;

const ETHERTYPE_AT: usize = 12;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Which checksums were looked at, and which are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Bits of the descriptor's status.
    pub status: u8,
    /// Bits of its errors.
    pub errors: u8,
}

const IGNORE: Verdict = Verdict { status: STATUS_IXSM, errors: 0 };

/// Checks what RXCSUM asks for in a frame without its frame check sequence; `vlan_type` is VET.
pub(crate) fn check(frame: &[u8], control: u32, vlan_type: u16) -> Verdict {
    if control & (rxcsum::IPOFLD | rxcsum::TUOFLD) == 0 {
        return IGNORE;
    }
    let mut at = ETHERTYPE_AT;
    if half(frame, at) == Some(vlan_type) {
        at += 4;
    }
    let Some(packet) = frame.get(at + 2..) else { return IGNORE };
    match half(frame, at) {
        Some(IPV4) => check_ipv4(packet, control).unwrap_or(IGNORE),
        Some(IPV6) => check_ipv6(packet, control).unwrap_or(IGNORE),
        _ => IGNORE,
    }
}

fn check_ipv4(packet: &[u8], control: u32) -> Option<Verdict> {
    let first = packet.first()?;
    let header = packet.get(..usize::from(first & 0xF) * 4).filter(|header| first >> 4 == 4 && header.len() >= 20)?;
    let mut verdict = Verdict { status: 0, errors: 0 };
    if control & rxcsum::IPOFLD != 0 {
        verdict.status |= STATUS_IPCS;
        if sum(header) != 0xFFFF {
            verdict.errors |= ERROR_IPE;
        }
    }
    // A fragment has no checksum of its own.
    let fragment = half(header, 6)? & 0x3FFF != 0;
    if control & rxcsum::TUOFLD != 0 && !fragment {
        if let Some(payload) = packet.get(header.len()..usize::from(half(header, 2)?)) {
            check_payload(&mut verdict, header[9], sum(&header[12..20]), payload);
        }
    }
    Some(verdict)
}

/// Of IPv6 only packets without extension headers are known.
fn check_ipv6(packet: &[u8], control: u32) -> Option<Verdict> {
    let (header, rest) = packet.split_at_checked(40).filter(|(header, _)| header[0] >> 4 == 6)?;
    let wanted = rxcsum::TUOFLD | rxcsum::IPV6OFL;
    let payload = rest.get(..usize::from(half(header, 4)?))?;
    if control & wanted != wanted || !matches!(header[6], TCP | UDP) {
        return None;
    }
    let mut verdict = Verdict { status: 0, errors: 0 };
    check_payload(&mut verdict, header[6], sum(&header[8..40]), payload);
    Some(verdict)
}

/// Checks a TCP or UDP checksum; `addresses` is the sum of both addresses.
fn check_payload(verdict: &mut Verdict, protocol: u8, addresses: u16, payload: &[u8]) {
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    match half(payload, field) {
        None => return,
        // A UDP packet without a checksum.
        Some(0) if protocol == UDP => return,
        Some(_) => verdict.status |= STATUS_TCPCS,
    }
    let pseudo_header = add(add(addresses, u16::from(protocol)), payload.len() as u16);
    if add(pseudo_header, sum(payload)) != 0xFFFF {
        verdict.errors |= ERROR_TCPE;
    }
}

fn half(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: u32 = rxcsum::IPOFLD | rxcsum::TUOFLD;

    /// A UDP packet "abc" from 10.0.0.1:4660 to 10.0.0.2:80; its checksums come from Python's struct and arithmetic.
    const UDP4: &str = "525400123456 020000000001 0800 \
        4500001f00010000401166cb0a0000010a000002 12340050000b14ef616263";

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn verdict(status: u8, errors: u8) -> Verdict {
        Verdict { status, errors }
    }

    #[test]
    fn only_what_was_asked_for_is_looked_at() {
        let frame = bytes(UDP4);
        assert_eq!(check(&frame, 0, 0x8100), IGNORE);
        assert_eq!(check(&frame, BOTH, 0x8100), verdict(STATUS_IPCS | STATUS_TCPCS, 0));
        assert_eq!(check(&frame, rxcsum::TUOFLD, 0x8100), verdict(STATUS_TCPCS, 0));
        assert_eq!(check(&frame, rxcsum::IPOFLD, 0x8100), verdict(STATUS_IPCS, 0));
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(check(&tagged, BOTH, 0x8100), verdict(STATUS_IPCS | STATUS_TCPCS, 0));
        assert_eq!(check(&tagged, BOTH, 0x88A8), IGNORE);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let frame = bytes(UDP4);
        for bit in 0..8 * 20 {
            let mut damaged = frame.clone();
            damaged[14 + bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&damaged, BOTH, 0x8100), check(&frame, BOTH, 0x8100), "header bit {bit}");
        }
        for bit in 0..8 * 11 {
            let mut damaged = frame.clone();
            damaged[34 + bit / 8] ^= 1 << (bit % 8);
            let expected = verdict(STATUS_IPCS | STATUS_TCPCS, ERROR_TCPE);
            assert_eq!(check(&damaged, BOTH, 0x8100), expected, "payload bit {bit}");
        }
    }

    #[test]
    fn padding_does_not_count_and_fragments_have_no_checksum() {
        let mut frame = bytes(UDP4);
        frame.resize(60, 0xAA);
        assert_eq!(check(&frame, BOTH, 0x8100), verdict(STATUS_IPCS | STATUS_TCPCS, 0));
        frame[20] = 0x20;
        assert_eq!(check(&frame, BOTH, 0x8100), verdict(STATUS_IPCS, ERROR_IPE));
        let mut without = bytes(UDP4);
        without[40..42].fill(0);
        assert_eq!(check(&without, BOTH, 0x8100), verdict(STATUS_IPCS, 0));
    }

    #[test]
    fn ipv6_is_looked_at_when_asked_for() {
        let mut frame = bytes("525400123456 020000000001 86dd 6000000000141140");
        frame[20] = TCP;
        frame.extend([0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
        let mut segment = [0u8; 20];
        segment[12] = 0x50;
        // The complement of the rest: addresses, protocol 6, length 20, offset 5.
        let rest = [0xFE80, 1, 0xFE80, 1, 6, 20, 0x5000].into_iter().fold(0, add);
        segment[16..18].copy_from_slice(&(!rest).to_be_bytes());
        frame.extend(segment);
        assert_eq!(check(&frame, BOTH, 0x8100), IGNORE);
        assert_eq!(check(&frame, BOTH | rxcsum::IPV6OFL, 0x8100), verdict(STATUS_TCPCS, 0));
        frame[70] ^= 1;
        assert_eq!(check(&frame, BOTH | rxcsum::IPV6OFL, 0x8100), verdict(STATUS_TCPCS, ERROR_TCPE));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(mut frame in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3u8, control in any::<u32>()) {
            if frame.len() > 15 {
                frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xDD], [0x81, 0]][usize::from(kind)]);
                frame[14] = frame[14] & 0xF | [0x40, 0x60, 0][usize::from(kind)];
            }
            let verdict = check(&frame, control, 0x8100);
            prop_assert!(verdict.status & STATUS_IXSM == 0 || verdict.errors == 0);
        }
    }
}
