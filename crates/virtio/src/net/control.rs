use super::{FEATURE_CTRL_MAC_ADDR, FEATURE_CTRL_RX, FEATURE_CTRL_RX_EXTRA, FEATURE_CTRL_VLAN};
use crate::Chain;
use board::{StateReader, StateWriter};

/// Classes and commands of orders. virtio 1.2, section 5.1.6.5. Others, those for several pairs of queues among them, are
/// refused.
const RX: u8 = 0;
const MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const VLAN: u8 = 2;
const VLAN_ADD: u8 = 0;
const VLAN_DEL: u8 = 1;

/// Modes of class RX, by command.
mod mode {
    pub const PROMISC: u8 = 0;
    pub const ALLMULTI: u8 = 1;
    pub const ALLUNI: u8 = 2;
    pub const NOMULTI: u8 = 3;
    pub const NOUNI: u8 = 4;
    pub const NOBCAST: u8 = 5;
    /// All of them.
    pub const MASK: u8 = 0x3F;
}

/// Addresses remembered of each kind. With more, all frames of the kind are received.
const MAX_ADDRESSES: usize = 64;
/// Type of a frame with a VLAN tag. IEEE 802.1Q.
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];

type Address = [u8; 6];

/// Which frames the driver wants. Until it says, that is all of them.
pub(super) struct Filter {
    /// Hardware address.
    pub mac: Address,
    /// A bit for each mode.
    modes: u8,
    unicast: Addresses,
    multicast: Addresses,
    /// A bit for each VLAN; `None` when the driver does not choose among them.
    vlans: Option<Box<[u64; 64]>>,
}

#[derive(Default)]
struct Addresses {
    known: Vec<Address>,
    /// There are more than are known.
    all: bool,
}

impl Addresses {
    fn has(&self, address: &Address) -> bool {
        self.all || self.known.contains(address)
    }
}

impl Filter {
    pub fn new(mac: Address) -> Self {
        let none = Addresses::default;
        Filter { mac, modes: 1 << mode::PROMISC, unicast: none(), multicast: none(), vlans: None }
    }

    /// Whether a frame is wanted.
    pub fn passes(&self, frame: &[u8]) -> bool {
        let Some(destination) = frame.first_chunk::<6>() else { return false };
        let is = |mode: u8| self.modes >> mode & 1 != 0;
        if is(mode::PROMISC) {
            return true;
        }
        if let (Some(vlans), Some([t0, t1, i0, i1])) = (&self.vlans, frame.get(12..16)) {
            let id = usize::from(u16::from_be_bytes([*i0, *i1]) & 0xFFF);
            // With number 0 a frame has a priority and is in no VLAN.
            if [*t0, *t1] == VLAN_TYPE && id != 0 && vlans[id / 64] >> (id % 64) & 1 == 0 {
                return false;
            }
        }
        match destination {
            [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF] => !is(mode::NOBCAST),
            [first, ..] if first & 1 != 0 => {
                !is(mode::NOMULTI) && (is(mode::ALLMULTI) || self.multicast.has(destination))
            }
            _ => !is(mode::NOUNI) && (is(mode::ALLUNI) || *destination == self.mac || self.unicast.has(destination)),
        }
    }

    /// Does what an order says, as far as the driver has taken the feature for it. False: it makes no sense.
    pub fn order(&mut self, chain: &Chain, features: u64) -> bool {
        let mut head = [0; 2];
        if chain.read(0, &mut head) < head.len() {
            return false;
        }
        let has = |feature: u64| features & feature != 0;
        match head {
            [RX, command @ (mode::PROMISC | mode::ALLMULTI)] if has(FEATURE_CTRL_RX) => self.set_mode(chain, command),
            [RX, command @ mode::ALLUNI..=mode::NOBCAST] if has(FEATURE_CTRL_RX_EXTRA) => self.set_mode(chain, command),
            [MAC, MAC_TABLE_SET] if has(FEATURE_CTRL_RX) => self.set_tables(chain),
            [MAC, MAC_ADDR_SET] if has(FEATURE_CTRL_MAC_ADDR) => match read(chain, 2) {
                Some(mac) => {
                    self.mac = mac;
                    true
                }
                None => false,
            },
            [VLAN, command @ (VLAN_ADD | VLAN_DEL)] if has(FEATURE_CTRL_VLAN) => self.set_vlan(chain, command),
            _ => false,
        }
    }

    fn set_mode(&mut self, chain: &Chain, mode: u8) -> bool {
        let Some([on]) = read(chain, 2) else { return false };
        self.modes = self.modes & !(1 << mode) | u8::from(on != 0) << mode;
        true
    }

    /// Two tables, each a number of addresses and the addresses.
    fn set_tables(&mut self, chain: &Chain) -> bool {
        let mut at = 2;
        let mut tables = [Addresses::default(), Addresses::default()];
        for table in &mut tables {
            let Some(count) = read(chain, at).map(u32::from_le_bytes) else { return false };
            let end = at + 4 + 6 * u64::from(count);
            if end > chain.readable() {
                return false;
            }
            table.all = count as usize > MAX_ADDRESSES;
            let known = if table.all { 0 } else { u64::from(count) };
            table.known = (0..known).filter_map(|index| read(chain, at + 4 + 6 * index)).collect();
            at = end;
        }
        [self.unicast, self.multicast] = tables;
        true
    }

    /// A driver that names VLANs wants no others.
    fn set_vlan(&mut self, chain: &Chain, command: u8) -> bool {
        let Some(id) = read(chain, 2).map(u16::from_le_bytes).filter(|id| *id < 4096) else { return false };
        let id = usize::from(id);
        let vlans = self.vlans.get_or_insert_with(|| Box::new([0; 64]));
        vlans[id / 64] = vlans[id / 64] & !(1 << (id % 64)) | u64::from(command == VLAN_ADD) << (id % 64);
        true
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.mac.iter().for_each(|byte| writer.u8(*byte));
        writer.u8(self.modes);
        for table in [&self.unicast, &self.multicast] {
            writer.u8(u8::from(table.all));
            writer.blob(&table.known.concat());
        }
        writer.u8(u8::from(self.vlans.is_some()));
        for bits in self.vlans.iter().flat_map(|vlans| vlans.iter()) {
            writer.u64(*bits);
        }
    }

    pub fn load(reader: &mut StateReader<'_>) -> Result<Self, String> {
        let mut mac = [0; 6];
        for byte in &mut mac {
            *byte = reader.u8()?;
        }
        let mut filter = Filter::new(mac);
        filter.modes = reader.u8()? & mode::MASK;
        for table in [&mut filter.unicast, &mut filter.multicast] {
            table.all = reader.bool()?;
            let known = reader.blob()?;
            if known.len() > 6 * MAX_ADDRESSES || known.len() % 6 != 0 {
                return Err(reader.invalid("it has addresses that no driver could set"));
            }
            table.known = known.chunks_exact(6).filter_map(|address| address.first_chunk().copied()).collect();
        }
        if reader.bool()? {
            let mut vlans = Box::new([0; 64]);
            for bits in vlans.iter_mut() {
                *bits = reader.u64()?;
            }
            filter.vlans = Some(vlans);
        }
        Ok(filter)
    }
}

/// The bytes of an order from `at` on, if there are as many.
fn read<const N: usize>(chain: &Chain, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (chain.read(at, &mut bytes) == N).then_some(bytes)
}
