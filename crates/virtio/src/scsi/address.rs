/// Addresses of units. virtio 1.2, section 5.6.6.1.
const TARGET_FORMAT: u8 = 1;

/// The unit that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub target: u8,
    pub unit: u16,
}

impl Address {
    /// Takes the field apart. `None`: it has none of the forms there are.
    pub fn parse(lun: [u8; 8]) -> Option<Self> {
        let [TARGET_FORMAT, target, high, low, 0, 0, 0, 0] = lun else { return None };
        // A single level structure: peripheral device addressing, of bus 0, or flat space. SAM-5, section 4.7.7.
        match high {
            0 => Some(Address { target, unit: low.into() }),
            0x40..=0x7F => Some(Address { target, unit: u16::from(high & 0x3F) << 8 | u16::from(low) }),
            _ => None,
        }
    }

    /// The field for unit 0 of a target.
    pub fn field(target: u8) -> [u8; 8] {
        [TARGET_FORMAT, target, 0, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_two_forms_of_address() {
        let parse = |field: [u8; 4]| {
            let [a, b, c, d] = field;
            Address::parse([a, b, c, d, 0, 0, 0, 0])
        };
        assert_eq!(parse([1, 7, 0, 3]), Some(Address { target: 7, unit: 3 }));
        assert_eq!(parse([1, 255, 0x40, 0]), Some(Address { target: 255, unit: 0 }));
        assert_eq!(parse([1, 0, 0x7F, 0xFF]), Some(Address { target: 0, unit: 0x3FFF }));
        assert_eq!([[0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0x80, 0], [0xC1, 1, 0, 0]].map(parse), [None; 5]);
        assert_eq!(Address::parse([1, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(Address::parse(Address::field(9)), Some(Address { target: 9, unit: 0 }));
    }
}
