use crate::eeprom::Eeprom;
use crate::filter::Filter;
use crate::held::Held;
use crate::phy::Phy;
use crate::register::{self, cause, ctrl, ctrl_ext, mdic, rctl, status, tctl};
use crate::ring::Ring;
use crate::statistics::Statistics;
use board::pci::Intx;
use board::{StateReader, StateWriter};

/// PHY address of the internal PHY.
const PHY_ADDRESS: u32 = 1;
/// CTRL after a reset: what the EEPROM and the PHY make of it. SLU is set as with APM, so that drivers which leave it
/// alone find a link.
const CTRL_RESET: u32 = ctrl::FD | ctrl::SLU | ctrl::SPEED_1000;
const RCTL_WRITABLE: u32 = 0x07FF_FFFE;
const RXCSUM_WRITABLE: u32 = 0x0000_07FF;
/// Bits of IOADDR: the registers, and what lies above them, where nothing answers.
const IOADDR_WRITABLE: u32 = 0x000F_FFFF;

/// What a write of a register asks of those who own the rest of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// There may be something to do for the I/O thread.
    Doorbell,
    /// RCTL.EN or TCTL.EN was set, or cleared.
    Enable,
    /// CTRL.RST: reset everything but PCI, the PHY and what [`Registers::reset`] keeps.
    Reset,
}

/// How frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the cable.
    Cable,
    /// Back to the receiver.
    Loopback,
    /// Not at all: the link is down.
    Down,
}

/// The registers of the card, and what reading and writing them does at once.
pub(crate) struct Registers {
    pub ctrl: u32,
    ctrl_ext: u32,
    mdic: u32,
    /// VET.
    pub vlan_type: u16,
    icr: u32,
    ims: u32,
    pub rctl: u32,
    pub tctl: u32,
    pub rxcsum: u32,
    pub receive: Ring,
    pub transmit: Ring,
    pub filter: Filter,
    pub statistics: Statistics,
    pub phy: Phy,
    eeprom: Eeprom,
    held: Held,
    ioaddr: u32,
    intx: Option<Intx>,
    /// Whether the pin is asserted.
    asserted: bool,
    /// A doorbell was rung since the I/O thread looked last.
    pub rung: bool,
    /// The I/O thread sleeps, and has to be woken.
    pub asleep: bool,
}

impl Registers {
    /// As after power-on, with the cable plugged in.
    pub fn new(eeprom: Eeprom) -> Self {
        let mut registers = Registers {
            ctrl: CTRL_RESET,
            ctrl_ext: 0,
            mdic: mdic::READY,
            vlan_type: 0x8100,
            icr: 0,
            ims: 0,
            rctl: 0,
            tctl: 0,
            rxcsum: 0,
            receive: Ring::default(),
            transmit: Ring::default(),
            filter: Filter::new(),
            statistics: Statistics::new(),
            phy: Phy::new(),
            eeprom,
            held: Held::new(),
            ioaddr: 0,
            intx: None,
            asserted: false,
            rung: false,
            asleep: false,
        };
        registers.load_address();
        registers
    }

    /// Gives the card its INTx pin.
    pub fn connect(&mut self, intx: Option<Intx>) {
        self.intx = intx;
    }

    /// What CTRL.RST does: all but PCI's registers, the PHY's, PBA and what was noted of a wake-up. Manual, sections
    /// 13.4.1 and 14.7.
    pub fn reset(&mut self) {
        self.ctrl = CTRL_RESET;
        self.ctrl_ext = 0;
        self.mdic = mdic::READY;
        self.vlan_type = 0x8100;
        (self.icr, self.ims) = (0, 0);
        (self.rctl, self.tctl, self.rxcsum) = (0, 0, 0);
        (self.receive, self.transmit) = (Ring::default(), Ring::default());
        self.filter = Filter::new();
        self.statistics = Statistics::new();
        self.eeprom.reset();
        self.held.reset();
        self.load_address();
        self.update();
    }

    /// What the machine's reset does. Whether the cable is in stays.
    pub fn reset_all(&mut self) {
        self.held = Held::new();
        self.phy.reset();
        // Nobody has seen a link yet, so none was lost.
        self.phy.read(1);
        self.ioaddr = 0;
        self.reset();
    }

    /// Whether the I/O thread has anything to do at all.
    pub fn enabled(&self) -> bool {
        self.receiving() || self.transmitting()
    }

    pub fn receiving(&self) -> bool {
        self.rctl & rctl::EN != 0
    }

    pub fn transmitting(&self) -> bool {
        self.tctl & tctl::EN != 0
    }

    pub fn way(&self) -> Way {
        if self.phy.loopback() || self.rctl & rctl::LBM != 0 {
            Way::Loopback
        } else if self.phy.link().is_some() {
            Way::Cable
        } else {
            Way::Down
        }
    }

    /// Whether a frame could be stored now.
    pub fn can_receive(&self) -> bool {
        self.receiving() && self.way() != Way::Down && self.receive.available() != 0
    }

    /// Bytes of a receive buffer. Manual, section 13.4.22, BSIZE and BSEX.
    pub fn buffer_size(&self) -> usize {
        let size = self.rctl >> rctl::BSIZE_SHIFT & 3;
        match (self.rctl & rctl::BSEX != 0, size) {
            // A reserved combination.
            (true, 0) => 2048,
            (true, _) => 32768 >> size,
            (false, _) => 2048 >> size,
        }
    }

    /// Sets interrupt causes.
    pub fn raise(&mut self, causes: u32) {
        self.icr |= causes & cause::ALL;
        self.update();
    }

    /// Lets the pin follow ICR and IMS.
    fn update(&mut self) {
        let asserted = self.icr & self.ims != 0;
        if asserted != self.asserted {
            self.asserted = asserted;
            if let Some(intx) = &self.intx {
                intx.set(asserted);
            }
        }
    }

    /// Plugs the cable in or out.
    pub fn set_cable(&mut self, plugged: bool) {
        if self.phy.set_cable(plugged) {
            self.raise(cause::LSC);
        }
    }

    /// RAL0 and RAH0 from the EEPROM.
    fn load_address(&mut self) {
        let [low, high] = self.eeprom.address();
        (self.filter.addresses[0], self.filter.addresses[1]) = (low, high | register::rah::AV);
    }

    /// STATUS. LU is the PHY's, whatever CTRL.SLU says.
    fn status(&self) -> u32 {
        let link = self.phy.link();
        let speed = link.map_or(0, |link| link.speed);
        let shown = if self.ctrl & ctrl::FRCSPD != 0 { self.ctrl >> ctrl::SPEED_SHIFT & 3 } else { speed };
        let full = match self.ctrl & ctrl::FRCDPLX {
            0 => link.is_none_or(|link| link.full_duplex),
            _ => self.ctrl & ctrl::FD != 0,
        };
        status::MTXCKOK
            | if link.is_some() { status::LU } else { 0 }
            | if full { status::FD } else { 0 }
            | shown << status::SPEED_SHIFT
            | speed << status::ASDV_SHIFT
    }

    /// Reads the register that holds the byte at `offset`.
    pub fn read(&mut self, offset: u32) -> u32 {
        let offset = offset & !3;
        match offset {
            register::CTRL | register::CTRL_DUP => self.ctrl,
            register::STATUS => self.status(),
            register::EECD => self.eeprom.eecd(),
            register::EERD => self.eeprom.eerd(),
            register::CTRL_EXT => self.ctrl_ext,
            register::MDIC => self.mdic,
            register::VET => u32::from(self.vlan_type),
            register::ICR => {
                let causes = std::mem::take(&mut self.icr);
                self.update();
                causes
            }
            // Write-only by the manual; cards show ICR here and clear nothing, and VxWorks' driver reads it.
            register::ICS => self.icr,
            register::IMS => self.ims,
            register::RCTL => self.rctl,
            register::TCTL => self.tctl,
            register::RDBAL..=register::RDT => self.receive.read(offset - register::RDBAL),
            register::TDBAL..=register::TDT => self.transmit.read(offset - register::TDBAL),
            register::STATISTICS..register::STATISTICS_END => self.statistics.read(offset),
            register::RXCSUM => self.rxcsum,
            register::MTA..register::MTA_END => self.filter.groups[word(offset, register::MTA)],
            register::RA..register::RA_END => self.filter.addresses[word(offset, register::RA)],
            register::VFTA..register::VFTA_END => self.filter.vlans[word(offset, register::VFTA)],
            _ => self.held.read(offset),
        }
    }

    /// Writes the register at `offset`, a multiple of 4.
    pub fn write(&mut self, offset: u32, value: u32) -> Effect {
        match offset {
            register::CTRL | register::CTRL_DUP => return self.write_ctrl(value),
            register::EECD => self.eeprom.set_eecd(value),
            register::EERD => self.eeprom.set_eerd(value),
            register::CTRL_EXT => {
                self.ctrl_ext = value & !ctrl_ext::EE_RST;
                if value & ctrl_ext::EE_RST != 0 {
                    self.load_address();
                }
            }
            register::MDIC => self.write_mdic(value),
            register::VET => self.vlan_type = value as u16,
            register::ICR => {
                self.icr &= !value;
                self.update();
            }
            register::ICS => self.raise(value),
            register::IMS => {
                self.ims |= value & cause::ALL;
                self.update();
            }
            register::IMC => {
                self.ims &= !value;
                self.update();
            }
            register::RCTL => {
                let before = std::mem::replace(&mut self.rctl, value & RCTL_WRITABLE);
                return if (before ^ value) & rctl::EN != 0 { Effect::Enable } else { Effect::Doorbell };
            }
            register::TCTL => {
                let before = std::mem::replace(&mut self.tctl, value);
                return if (before ^ value) & tctl::EN != 0 { Effect::Enable } else { Effect::Doorbell };
            }
            register::RDBAL..=register::RDT => {
                self.receive.write(offset - register::RDBAL, value);
                return Effect::Doorbell;
            }
            register::TDBAL..=register::TDT => {
                self.transmit.write(offset - register::TDBAL, value);
                return Effect::Doorbell;
            }
            register::RXCSUM => self.rxcsum = value & RXCSUM_WRITABLE,
            register::MTA..register::MTA_END => self.filter.groups[word(offset, register::MTA)] = value,
            register::RA..register::RA_END => {
                let index = word(offset, register::RA);
                let high = register::rah::AV | register::rah::ASEL | 0xFFFF;
                self.filter.addresses[index] = if index % 2 == 0 { value } else { value & high };
            }
            register::VFTA..register::VFTA_END => self.filter.vlans[word(offset, register::VFTA)] = value,
            _ => self.held.write(offset, value),
        }
        Effect::None
    }

    fn write_ctrl(&mut self, value: u32) -> Effect {
        if value & !self.ctrl & ctrl::PHY_RST != 0 {
            self.phy.reset();
            self.raise(cause::LSC);
        }
        if value & ctrl::RST != 0 {
            return Effect::Reset;
        }
        self.ctrl = value;
        Effect::None
    }

    /// An access to the PHY, which is done at once. Manual, section 13.4.6.
    fn write_mdic(&mut self, value: u32) {
        let phy = value >> mdic::PHYADD_SHIFT & 0x1F;
        let index = (value >> mdic::REGADD_SHIFT & 0x1F) as usize;
        self.mdic = value & !mdic::ERROR | mdic::READY;
        match value & mdic::OP {
            mdic::OP_READ if phy == PHY_ADDRESS => {
                self.mdic = self.mdic & !0xFFFF | u32::from(self.phy.read(index));
            }
            mdic::OP_WRITE if phy == PHY_ADDRESS => {
                if self.phy.write(index, value as u16) {
                    self.raise(cause::LSC);
                }
            }
            _ => self.mdic |= mdic::ERROR,
        }
        if value & mdic::INTERRUPT != 0 {
            self.raise(cause::MDAC);
        }
    }

    /// IOADDR, the register that IODATA shows.
    pub fn ioaddr(&self) -> u32 {
        self.ioaddr
    }

    pub fn set_ioaddr(&mut self, value: u32) {
        self.ioaddr = value & IOADDR_WRITABLE;
    }

    pub fn save(&self, writer: &mut StateWriter) {
        for value in [self.ctrl, self.ctrl_ext, self.mdic, self.icr, self.ims, self.rctl, self.tctl, self.rxcsum] {
            writer.u32(value);
        }
        writer.u16(self.vlan_type);
        writer.u32(self.ioaddr);
        self.receive.save(writer);
        self.transmit.save(writer);
        let Filter { addresses, groups, vlans } = &self.filter;
        addresses.iter().chain(groups).chain(vlans).for_each(|value| writer.u32(*value));
        self.statistics.save(writer);
        self.phy.save(writer);
        self.eeprom.save(writer);
        self.held.save(writer);
    }

    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.ctrl = reader.u32()? & !ctrl::RST;
        self.ctrl_ext = reader.u32()? & !ctrl_ext::EE_RST;
        self.mdic = reader.u32()? | mdic::READY;
        self.icr = reader.u32()? & cause::ALL;
        self.ims = reader.u32()? & cause::ALL;
        self.rctl = reader.u32()? & RCTL_WRITABLE;
        self.tctl = reader.u32()?;
        self.rxcsum = reader.u32()? & RXCSUM_WRITABLE;
        self.vlan_type = reader.u16()?;
        self.set_ioaddr(reader.u32()?);
        self.receive.load(reader)?;
        self.transmit.load(reader)?;
        let Filter { addresses, groups, vlans } = &mut self.filter;
        for value in addresses.iter_mut().chain(groups).chain(vlans) {
            *value = reader.u32()?;
        }
        self.statistics.load(reader)?;
        self.phy.load(reader)?;
        self.eeprom.load(reader)?;
        self.held.load(reader)?;
        self.update();
        Ok(())
    }
}

/// Which entry of an array of registers lies at `offset`, which is in it.
fn word(offset: u32, first: u32) -> usize {
    ((offset - first) / 4) as usize
}
