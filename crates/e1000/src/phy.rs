use board::{StateReader, StateWriter};

/// Registers. IEEE 802.3, section 22.2.4; from 16 on Marvell's. Manual, section 8.
mod register {
    pub const CONTROL: usize = 0;
    pub const STATUS: usize = 1;
    pub const ID1: usize = 2;
    pub const ID2: usize = 3;
    pub const ADVERTISEMENT: usize = 4;
    pub const PARTNER_ABILITY: usize = 5;
    pub const EXPANSION: usize = 6;
    pub const NEXT_PAGE: usize = 7;
    pub const GIGABIT_CONTROL: usize = 9;
    pub const GIGABIT_STATUS: usize = 10;
    pub const EXTENDED_STATUS: usize = 15;
    pub const SPECIFIC_CONTROL: usize = 16;
    pub const SPECIFIC_STATUS: usize = 17;
    pub const INTERRUPT_ENABLE: usize = 18;
    pub const EXTENDED_CONTROL: usize = 20;
    pub const LED_CONTROL: usize = 24;
    pub const PAGE: usize = 29;
    pub const PAGE_DATA: usize = 30;
}

const CONTROL_SPEED_HIGH: u16 = 1 << 6;
const CONTROL_DUPLEX: u16 = 1 << 8;
const CONTROL_RESTART: u16 = 1 << 9;
const CONTROL_POWER_DOWN: u16 = 1 << 11;
const CONTROL_AUTONEGOTIATE: u16 = 1 << 12;
const CONTROL_SPEED_LOW: u16 = 1 << 13;
const CONTROL_LOOPBACK: u16 = 1 << 14;
const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_UNUSED: u16 = 0x003F;

/// 10 and 100 Mb/s in both duplexes, extended status, preambles not needed, autonegotiation, extended registers.
const STATUS_ABILITIES: u16 = 0x7949;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_COMPLETE: u16 = 1 << 5;

const ADVERTISES_10: u16 = 3 << 5;
const ADVERTISES_100: u16 = 3 << 7;
const ADVERTISES_1000: u16 = 3 << 8;

/// What there is at the other end of the cable: everything, and our page acknowledged.
const PARTNER: u16 = 0x41E1;
/// 1000 Mb/s in both duplexes, and both receivers well.
const PARTNER_GIGABIT: u16 = 0x3C00;

/// As after power-on: M88E1011, autonegotiation of all there is.
const POWER_ON: [u16; 32] = {
    let mut registers = [0; 32];
    registers[register::CONTROL] = CONTROL_AUTONEGOTIATE | CONTROL_DUPLEX | CONTROL_SPEED_HIGH;
    registers[register::ID1] = 0x0141;
    registers[register::ID2] = 0x0C20;
    registers[register::ADVERTISEMENT] = 0x0DE1;
    registers[register::EXPANSION] = 0x0001;
    registers[register::NEXT_PAGE] = 0x2001;
    registers[register::GIGABIT_CONTROL] = ADVERTISES_1000;
    registers[register::EXTENDED_STATUS] = 0x3000;
    registers[register::SPECIFIC_CONTROL] = 0x0360;
    registers[register::EXTENDED_CONTROL] = 0x0D60;
    registers
};

/// A link as the two ends have agreed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// 0, 1 or 2: 10, 100 or 1000 Mb/s.
    pub speed: u32,
    pub full_duplex: bool,
}

/// The card's PHY, a Marvell M88E1011. Negotiation takes no time.
pub(crate) struct Phy {
    /// Those that are computed stay as after power-on in here.
    registers: [u16; 32],
    cable: bool,
    /// The link was down since somebody looked at its status, which keeps it until then.
    lost: bool,
}

impl Phy {
    /// With its cable plugged in.
    pub fn new() -> Self {
        Phy { registers: POWER_ON, cable: true, lost: false }
    }

    /// The link; `None` while it is down.
    pub fn link(&self) -> Option<Connection> {
        let control = self.registers[register::CONTROL];
        if !self.cable || control & CONTROL_POWER_DOWN != 0 {
            return None;
        }
        if control & CONTROL_AUTONEGOTIATE == 0 {
            let speed = match control & (CONTROL_SPEED_HIGH | CONTROL_SPEED_LOW) {
                0 => 0,
                CONTROL_SPEED_LOW => 1,
                _ => 2,
            };
            return Some(Connection { speed, full_duplex: control & CONTROL_DUPLEX != 0 });
        }
        // The higher bit of each pair is full duplex.
        let ten = self.registers[register::ADVERTISEMENT] & ADVERTISES_10;
        let hundred = self.registers[register::ADVERTISEMENT] & ADVERTISES_100;
        let thousand = self.registers[register::GIGABIT_CONTROL] & ADVERTISES_1000;
        let offers = [(2, thousand >> 8), (1, hundred >> 7), (0, ten >> 5)];
        let (speed, duplexes) = offers.into_iter().find(|(_, duplexes)| *duplexes != 0)?;
        Some(Connection { speed, full_duplex: duplexes & 2 != 0 })
    }

    /// Whether what is sent comes back.
    pub fn loopback(&self) -> bool {
        self.registers[register::CONTROL] & CONTROL_LOOPBACK != 0
    }

    /// Plugs the cable in or out; true when the link is another one now.
    pub fn set_cable(&mut self, plugged: bool) -> bool {
        self.change(|phy| phy.cable = plugged)
    }

    /// The reset pin: all registers, and negotiation anew.
    pub fn reset(&mut self) {
        self.registers = POWER_ON;
        self.lost = true;
    }

    pub fn read(&mut self, index: usize) -> u16 {
        let link = self.link();
        let negotiated = self.registers[register::CONTROL] & CONTROL_AUTONEGOTIATE != 0 && link.is_some();
        match index {
            register::STATUS => {
                let lost = std::mem::take(&mut self.lost);
                let up = if link.is_some() && !lost { STATUS_LINK } else { 0 };
                STATUS_ABILITIES | up | if negotiated { STATUS_COMPLETE } else { 0 }
            }
            register::PARTNER_ABILITY if negotiated => PARTNER,
            register::GIGABIT_STATUS if negotiated => PARTNER_GIGABIT,
            register::SPECIFIC_STATUS => match link {
                // Speed, duplex, both of them resolved, link, and a cable below 50 m.
                Some(link) => (link.speed as u16) << 14 | u16::from(link.full_duplex) << 13 | 0x0C00,
                None => 0,
            },
            _ => self.registers.get(index).copied().unwrap_or(0),
        }
    }

    /// Writes a register; true when the link is another one now, or was negotiated anew.
    pub fn write(&mut self, index: usize, value: u16) -> bool {
        match index {
            register::CONTROL => {
                let again = value & (CONTROL_RESET | CONTROL_RESTART) != 0;
                let kept = value & !(CONTROL_RESET | CONTROL_RESTART | CONTROL_UNUSED);
                // A reset by software keeps what was written: that is how new settings come into force.
                let changed = self.change(|phy| phy.registers[register::CONTROL] = kept);
                self.lost |= again;
                changed || again
            }
            // What is advertised counts from the next negotiation on, which here has always just been.
            register::ADVERTISEMENT
            | register::NEXT_PAGE
            | register::GIGABIT_CONTROL
            | register::SPECIFIC_CONTROL
            | register::INTERRUPT_ENABLE
            | register::EXTENDED_CONTROL
            | register::LED_CONTROL
            | register::PAGE
            | register::PAGE_DATA => self.change(|phy| phy.registers[index] = value),
            _ => false,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Self)) -> bool {
        let before = self.link();
        change(self);
        let after = self.link();
        self.lost |= before.is_some() && before != after;
        before != after
    }

    pub fn save(&self, writer: &mut StateWriter) {
        self.registers.iter().for_each(|register| writer.u16(*register));
        writer.u8(u8::from(self.cable));
        writer.u8(u8::from(self.lost));
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        for index in 0..self.registers.len() {
            let value = reader.u16()?;
            self.write(index, value);
        }
        self.cable = reader.bool()?;
        self.lost = reader.bool()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_up_at_once_and_remembers_that_it_was_down() {
        let mut phy = Phy::new();
        assert_eq!(phy.link(), Some(Connection { speed: 2, full_duplex: true }));
        assert_eq!((phy.read(2), phy.read(3), phy.read(1)), (0x0141, 0x0C20, 0x796D));
        assert!(phy.set_cable(false));
        assert_eq!((phy.read(1), phy.read(5), phy.read(10), phy.read(17)), (0x7949, 0, 0, 0));
        assert!(phy.set_cable(true));
        assert!(!phy.set_cable(true));
        assert_eq!(phy.read(1), 0x796D, "the loss was seen when the link was down");
        phy.set_cable(false);
        phy.set_cable(true);
        assert_eq!((phy.read(1), phy.read(1)), (0x7969, 0x796D));
        assert_eq!((phy.read(5), phy.read(10), phy.read(17)), (0x41E1, 0x3C00, 0xAC00));
    }

    #[test]
    fn reset_and_restart_clear_themselves_and_negotiate() {
        let mut phy = Phy::new();
        for bit in [CONTROL_RESET, CONTROL_RESTART] {
            assert!(phy.write(0, 0x1140 | bit));
            assert_eq!(phy.read(0), 0x1140);
            assert_eq!((phy.read(1) & STATUS_LINK, phy.read(1) & STATUS_LINK), (0, STATUS_LINK));
        }
        phy.write(16, 0x0068);
        phy.write(0, 0x9140);
        assert_eq!(phy.read(16), 0x0068, "kept by a software reset");
        phy.reset();
        assert_eq!(phy.read(16), 0x0360);
    }

    #[test]
    fn the_best_speed_advertised_or_the_one_forced_is_taken() {
        let mut phy = Phy::new();
        phy.write(9, 0);
        assert_eq!(phy.link(), Some(Connection { speed: 1, full_duplex: true }));
        phy.write(4, 0x0021);
        assert_eq!(phy.link(), Some(Connection { speed: 0, full_duplex: false }));
        phy.write(4, 0x0001);
        assert_eq!(phy.link(), None);
        phy.write(0, CONTROL_SPEED_LOW | CONTROL_DUPLEX);
        assert_eq!(phy.link(), Some(Connection { speed: 1, full_duplex: true }));
        assert_eq!(phy.read(1) & (STATUS_COMPLETE | STATUS_LINK), 0);
        assert_eq!(phy.read(1) & (STATUS_COMPLETE | STATUS_LINK), STATUS_LINK);
        phy.write(0, CONTROL_POWER_DOWN);
        assert_eq!(phy.link(), None);
    }

    #[test]
    fn identities_and_results_are_read_only() {
        let mut phy = Phy::new();
        for index in [1, 2, 3, 5, 6, 8, 10, 15, 17, 19, 31, 32, 1000] {
            let before = phy.read(index);
            assert!(!phy.write(index, 0x5A5A));
            assert_eq!(phy.read(index), before, "{index}");
        }
    }
}
