//! The pair of 8259A interrupt controllers of the PC, with the edge/level control registers of the PIIX.
//! Intel 8259A data sheet (231468); ELCR: Intel 82371AB data sheet (290562), section 4.2.4.

/// Where one controller's state lies in [`Pic::save`]: the layout of KVM's `kvm_pic_state`.
pub(crate) const PIC_STATE_SIZE: usize = 16;

/// The IRQs of each controller whose trigger ELCR may make level: not 0, 1, 2, 8 and 13.
const ELCR_WRITABLE: [u8; 2] = [0xF8, 0xDE];
const CASCADE: u8 = 2;

/// Which initialization command word is expected next at the odd port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Initialization {
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    /// Edges latched; level-triggered inputs follow `lines`.
    irr: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    /// Vector of IR0, a multiple of 8.
    base: u8,
    /// The input with the highest priority.
    first: u8,
    initialization: Initialization,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    fully_nested: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
}

/// Both controllers: the slave hangs on input 2 of the master. All of it is logic: no clock, no lock.
#[derive(Debug, Default)]
pub(crate) struct Pic {
    chips: [Chip; 2],
}

impl Chip {
    /// The rank of the best bit in `set`: 0 is the highest priority, 8 none.
    fn rank(&self, set: u8) -> u32 {
        set.rotate_right(self.first.into()).trailing_zeros()
    }

    fn input(&self, rank: u32) -> u8 {
        (self.first + rank as u8) & 7
    }

    /// The input whose interrupt is to be signalled now.
    fn request(&self, master: bool) -> Option<u8> {
        let rank = self.rank(self.irr & !self.imr);
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if self.fully_nested && master {
            // Special fully nested mode: the slave may interrupt its own service with something better.
            blocking &= !(1 << CASCADE);
        }
        (rank < self.rank(blocking)).then(|| self.input(rank))
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << input;
        if self.elcr & bit != 0 {
            self.irr = if high { self.irr | bit } else { self.irr & !bit };
        } else if high && self.lines & bit == 0 {
            // The 8259A forgets an edge whose line falls again before the acknowledge. Devices here may pulse, so
            // the edge is kept.
            self.irr |= bit;
        }
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
    }

    /// The acknowledge cycle for `input`.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1.
            let level = self.elcr & self.lines;
            *self = Chip {
                lines: self.lines,
                irr: level,
                elcr: self.elcr,
                base: self.base,
                initialization: Initialization::Icw2,
                wants_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Chip::default()
            };
        } else if value & 8 != 0 {
            // OCW3.
            match value & 3 {
                2 => self.read_isr = false,
                3 => self.read_isr = true,
                _ => {}
            }
            self.poll |= value & 4 != 0;
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        let input = match (specific, eoi) {
            (true, _) => Some(value & 7),
            (false, true) => {
                // A non-specific EOI does not see what special mask mode has masked.
                let visible = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let rank = self.rank(visible);
                (rank < 8).then(|| self.input(rank))
            }
            (false, false) => {
                self.rotate_on_auto_eoi = rotate;
                return;
            }
        };
        let Some(input) = input else { return };
        if eoi {
            self.isr &= !(1 << input);
        }
        if rotate {
            self.first = (input + 1) & 7;
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.wants_icw4 { Initialization::Icw4 } else { Initialization::Done };
        self.initialization = match self.initialization {
            Initialization::Done => {
                self.imr = value;
                Initialization::Done
            }
            Initialization::Icw2 => {
                self.base = value & 0xF8;
                if self.single { after_icw3 } else { Initialization::Icw3 }
            }
            // The cascade is wired.
            Initialization::Icw3 => after_icw3,
            Initialization::Icw4 => {
                self.auto_eoi = value & 2 != 0;
                self.fully_nested = value & 0x10 != 0;
                Initialization::Done
            }
        };
    }
}

impl Pic {
    /// The state of the cascade after any change.
    fn cascade(&mut self) {
        let high = self.chips[1].request(false).is_some();
        let master = &mut self.chips[0];
        // The slave's output is a level that its acknowledge takes away: no edge is latched.
        master.irr = if high { master.irr | 1 << CASCADE } else { master.irr & !(1 << CASCADE) };
    }

    /// The level of INTR.
    pub(crate) fn output(&self) -> bool {
        self.chips[0].request(true).is_some()
    }

    /// Drives IRQ `irq` (0..=15, not 2).
    pub(crate) fn set_line(&mut self, irq: u8, high: bool) {
        if irq < 16 && irq != CASCADE {
            self.chips[usize::from(irq >> 3)].set_line(irq & 7, high);
            self.cascade();
        }
    }

    /// The INTA cycles: returns the vector. With nothing requested it is that of the spurious IRQ 7 or 15.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let [master, slave] = &mut self.chips;
        let Some(input) = master.request(true) else {
            return master.base | 7;
        };
        master.acknowledge(input);
        let vector = if input == CASCADE {
            match slave.request(false) {
                Some(input) => {
                    slave.acknowledge(input);
                    slave.base | input
                }
                None => slave.base | 7,
            }
        } else {
            master.base | input
        };
        self.cascade();
        vector
    }

    /// Reads port `odd` (0x20 or 0x21 and 0xA0 or 0xA1) of controller `chip` (0 master, 1 slave).
    pub(crate) fn read(&mut self, chip: usize, odd: bool) -> u8 {
        let this = &mut self.chips[chip];
        if this.poll {
            // The poll takes the place of the acknowledge cycle.
            this.poll = false;
            let request = this.request(chip == 0);
            let value = request.map_or(0, |input| {
                this.acknowledge(input);
                0x80 | input
            });
            self.cascade();
            return value;
        }
        match (odd, this.read_isr) {
            (true, _) => this.imr,
            (false, true) => this.isr,
            (false, false) => this.irr,
        }
    }

    /// Writes port `odd` of controller `chip`.
    pub(crate) fn write(&mut self, chip: usize, odd: bool, value: u8) {
        let this = &mut self.chips[chip];
        if odd {
            this.write_data(value)
        } else {
            this.write_command(value)
        }
        self.cascade();
    }

    pub(crate) fn elcr(&self, chip: usize) -> u8 {
        self.chips[chip].elcr
    }

    pub(crate) fn set_elcr(&mut self, chip: usize, value: u8) {
        let this = &mut self.chips[chip];
        let value = value & ELCR_WRITABLE[chip];
        // An input that becomes level-triggered follows its line from now on; one that leaves forgets the level.
        this.irr = this.irr & !(this.elcr | value) | this.lines & value;
        this.elcr = value;
        self.cascade();
    }

    /// The state after reset; input lines keep their levels.
    pub(crate) fn reset(&mut self) {
        self.chips = self.chips.map(|chip| Chip { lines: chip.lines, ..Chip::default() });
    }

    pub(crate) fn save(&self, chip: usize) -> [u8; PIC_STATE_SIZE] {
        let this = &self.chips[chip];
        [
            this.lines,
            this.irr,
            this.imr,
            this.isr,
            this.first,
            this.base,
            this.read_isr.into(),
            this.poll.into(),
            this.special_mask.into(),
            match this.initialization {
                Initialization::Done => 0,
                Initialization::Icw2 => 1,
                Initialization::Icw3 => 2,
                Initialization::Icw4 => 3,
            },
            this.auto_eoi.into(),
            this.rotate_on_auto_eoi.into(),
            this.fully_nested.into(),
            u8::from(this.wants_icw4) | u8::from(this.single) << 1,
            this.elcr,
            ELCR_WRITABLE[chip],
        ]
    }

    pub(crate) fn load(&mut self, chip: usize, state: &[u8; PIC_STATE_SIZE]) {
        let elcr = state[14] & ELCR_WRITABLE[chip];
        self.chips[chip] = Chip {
            lines: state[0],
            irr: state[1] & !elcr | state[0] & elcr,
            imr: state[2],
            isr: state[3],
            elcr,
            base: state[5] & 0xF8,
            first: state[4] & 7,
            initialization: match state[9] & 3 {
                0 => Initialization::Done,
                1 => Initialization::Icw2,
                2 => Initialization::Icw3,
                _ => Initialization::Icw4,
            },
            wants_icw4: state[13] & 1 != 0,
            single: state[13] & 2 != 0,
            auto_eoi: state[10] != 0,
            rotate_on_auto_eoi: state[11] != 0,
            fully_nested: state[12] != 0,
            special_mask: state[8] != 0,
            poll: state[7] != 0,
            read_isr: state[6] != 0,
        };
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Initialized as a PC's firmware does it, nothing masked: vectors 0x20 and 0x28.
    fn pic() -> Pic {
        pic_with_icw4(1, 1)
    }

    fn pic_with_icw4(master: u8, slave: u8) -> Pic {
        let mut pic = Pic::default();
        for (chip, base, wiring, icw4) in [(0, 0x20, 4, master), (1, 0x28, 2, slave)] {
            pic.write(chip, false, 0x11);
            for value in [base, wiring, icw4, 0] {
                pic.write(chip, true, value);
            }
        }
        pic
    }

    fn pulse(pic: &mut Pic, irq: u8) {
        pic.set_line(irq, true);
        pic.set_line(irq, false);
    }

    #[test]
    fn the_lowest_input_wins_and_blocks_the_others_until_eoi() {
        let mut pic = pic();
        pulse(&mut pic, 4);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x21);
        assert!(!pic.output(), "4 is below 1");
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x20, "0 interrupts 1");
        pic.write(0, false, 0x20);
        pic.write(0, false, 0x20);
        assert_eq!(pic.acknowledge(), 0x24);
    }

    #[test]
    fn the_slave_comes_in_at_input_2() {
        let mut pic = pic();
        pulse(&mut pic, 12);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x2C);
        pulse(&mut pic, 8);
        assert!(!pic.output(), "outside special fully nested mode the slave blocks itself at the master");
        pic.write(1, false, 0x20);
        pic.write(0, false, 0x20);
        assert_eq!(pic.acknowledge(), 0x28);
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
        let mut pic = pic_with_icw4(0x11, 1);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x2C);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), 0x28);
    }

    #[test]
    fn rotation_on_eoi_makes_the_served_input_the_last() {
        let mut pic = pic();
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), 0x24);
        pic.write(0, false, 0xA0);
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x25);
        // Set priority: input 5 last, 6 first.
        pic.write(0, false, 0x20);
        pic.write(0, false, 0xC5);
        pulse(&mut pic, 6);
        assert_eq!(pic.acknowledge(), 0x26);
    }

    #[test]
    fn specific_eoi_ends_the_named_input_only() {
        let mut pic = pic();
        for irq in [5, 1] {
            pulse(&mut pic, irq);
            pic.acknowledge();
        }
        pic.write(0, false, 0x60 | 5);
        pic.write(0, false, 0x0B);
        assert_eq!(pic.read(0, false), 1 << 1);
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service_and_may_rotate() {
        let mut pic = pic_with_icw4(3, 3);
        pic.write(0, false, 0x80);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x20);
        pic.write(0, false, 0x0B);
        assert_eq!(pic.read(0, false), 0);
        pulse(&mut pic, 0);
        pulse(&mut pic, 7);
        assert_eq!(pic.acknowledge(), 0x27, "0 went to the end of the queue");
    }

    #[test]
    fn special_mask_mode_unblocks_lower_inputs() {
        let mut pic = pic();
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x23);
        pulse(&mut pic, 6);
        assert!(!pic.output());
        pic.write(0, true, 1 << 3);
        pic.write(0, false, 0x68);
        assert_eq!(pic.acknowledge(), 0x26);
        pic.write(0, false, 0x20);
        pic.write(0, false, 0x0B);
        assert_eq!(pic.read(0, false), 1 << 3, "the non-specific EOI skipped the masked one");
    }

    #[test]
    fn a_request_that_went_away_is_spurious_and_not_in_service() {
        let mut pic = pic();
        assert_eq!(pic.acknowledge(), 0x27);
        pic.write(0, false, 0x0B);
        assert_eq!(pic.read(0, false), 0);
        // The slave's goes away between the two cycles: its master has served input 2.
        pulse(&mut pic, 10);
        pic.chips[1].imr = 0xFF;
        assert_eq!(pic.acknowledge(), 0x2F);
        assert_eq!(pic.read(0, false), 1 << 2);
    }

    #[test]
    fn a_level_input_asks_again_after_eoi_while_it_is_high() {
        let mut pic = pic();
        pic.set_elcr(1, 0xFF);
        assert_eq!(pic.elcr(1), 0xDE);
        pic.set_line(11, true);
        assert_eq!(pic.acknowledge(), 0x2B);
        assert!(!pic.output());
        for chip in [1, 0] {
            pic.write(chip, false, 0x20);
        }
        assert_eq!(pic.acknowledge(), 0x2B);
        pic.set_line(11, false);
        for chip in [1, 0] {
            pic.write(chip, false, 0x20);
        }
        assert!(!pic.output());
    }

    #[test]
    fn a_high_edge_input_asks_once() {
        let mut pic = pic();
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x24);
        pic.write(0, false, 0x20);
        pic.set_line(4, true);
        assert!(!pic.output());
    }

    #[test]
    fn polling_takes_the_place_of_the_acknowledge_cycle() {
        let mut pic = pic();
        pic.write(0, false, 0x0C);
        assert_eq!(pic.read(0, false), 0);
        pulse(&mut pic, 5);
        pic.write(0, false, 0x0C);
        assert_eq!(pic.read(0, false), 0x85);
        assert!(!pic.output());
        assert_eq!(pic.read(0, false), 0, "IRR: the request was taken");
    }

    #[test]
    fn masked_requests_wait() {
        let mut pic = pic();
        pic.write(0, true, 0xFF);
        pulse(&mut pic, 1);
        assert!(!pic.output());
        pic.write(0, true, 0xFD);
        assert_eq!(pic.acknowledge(), 0x21);
    }

    #[test]
    fn initialization_without_icw4_ends_after_icw3() {
        let mut pic = Pic::default();
        pic.write(0, false, 0x10);
        for value in [0x47, 4, 0xAB] {
            pic.write(0, true, value);
        }
        assert_eq!(pic.read(0, true), 0xAB, "the third byte is the mask");
        pic.write(0, true, 0);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x40);
    }

    proptest! {
        #[test]
        fn no_access_panics_and_states_survive_saving(steps in prop::collection::vec((0u8..5, any::<u8>(), any::<u8>()), 0..200)) {
            let mut pic = Pic::default();
            for (what, a, b) in steps {
                let (chip, odd) = (usize::from(a & 1), a & 2 != 0);
                match what {
                    0 => pic.write(chip, odd, b),
                    1 => _ = pic.read(chip, odd),
                    2 => pic.set_line(a, b & 1 != 0),
                    3 => pic.set_elcr(chip, b),
                    _ => _ = pic.acknowledge(),
                }
                let mut copy = Pic::default();
                for chip in 0..2 {
                    copy.load(chip, &pic.save(chip));
                }
                prop_assert_eq!(copy.save(0), pic.save(0));
                prop_assert_eq!(copy.save(1), pic.save(1));
                prop_assert_eq!(copy.output(), pic.output());
            }
        }
    }
}
