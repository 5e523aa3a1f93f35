//! The I/O APIC: 24 inputs, each with a redirection entry. Intel 82093AA data sheet (290566); the EOI register as in
//! version 0x20 (Intel ICH data sheets, section "I/O APIC").

use crate::irqchip::{Delivery, Message};

/// Where its registers lie.
pub const IOAPIC_ADDRESS: u64 = 0xFEC0_0000;
/// Inputs.
pub const IOAPIC_PINS: usize = 24;
/// Bytes of [`Ioapic::save`]: the size of KVM's `kvm_ioapic_state`.
pub(crate) const IOAPIC_STATE_SIZE: usize = 24 + IOAPIC_PINS * 8;

const VERSION: u32 = 0x20 | (IOAPIC_PINS as u32 - 1) << 16;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Vector, delivery mode, destination mode, polarity, trigger, mask and destination.
const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;

/// The registers. Messages go out through a closure that says whether somebody took them.
#[derive(Debug)]
pub(crate) struct Ioapic {
    select: u8,
    id: u8,
    /// Logical levels of the inputs: high is asserted, whatever polarity an entry names.
    lines: u32,
    entries: [u64; IOAPIC_PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Ioapic { select: 0, id: 0, lines: 0, entries: [MASKED; IOAPIC_PINS] }
    }
}

impl Ioapic {
    /// Drives an input. A masked edge is lost, as the data sheet has it.
    pub(crate) fn set_pin(&mut self, pin: usize, high: bool, send: &mut dyn FnMut(Message) -> bool) {
        let Some(&entry) = self.entries.get(pin) else { return };
        let bit = 1 << pin;
        let rising = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if rising || (high && entry & LEVEL != 0) {
            self.service(pin, send);
        }
    }

    /// Sends the interrupt of an asserted input, unless it is masked or waits for an EOI.
    fn service(&mut self, pin: usize, send: &mut dyn FnMut(Message) -> bool) {
        let entry = self.entries[pin];
        if entry & MASKED != 0 || entry & REMOTE_IRR != 0 {
            return;
        }
        let Some(delivery) = Delivery::from_bits(entry as u32 >> 8) else { return };
        // Only fixed and lowest-priority interrupts can be level-triggered.
        let level = entry & LEVEL != 0 && matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        let message = Message {
            destination: (entry >> 56) as u32,
            logical: entry & 1 << 11 != 0,
            delivery,
            vector: entry as u8,
            level,
        };
        // The bit is set first: the EOI may come from another processor before `send` returns, but waits for our lock.
        if send(message) && level {
            self.entries[pin] |= REMOTE_IRR;
        }
    }

    /// A processor ended a level-triggered interrupt: inputs still asserted ask again.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(Message) -> bool) {
        for pin in 0..IOAPIC_PINS {
            let entry = self.entries[pin];
            if entry as u8 == vector && entry & REMOTE_IRR != 0 {
                self.entries[pin] &= !REMOTE_IRR;
                if self.lines & 1 << pin != 0 {
                    self.service(pin, send);
                }
            }
        }
    }

    /// Reads the register at `offset` of the page: 32 bits.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => match self.select {
                // Identification and arbitration.
                0 | 2 => u32::from(self.id) << 24,
                1 => VERSION,
                select => self.entry(select).map_or(0, |(pin, high)| {
                    let entry = self.entries[pin];
                    if high { (entry >> 32) as u32 } else { entry as u32 }
                }),
            },
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the page.
    pub(crate) fn write(&mut self, offset: u64, value: u32, send: &mut dyn FnMut(Message) -> bool) {
        match offset {
            SELECT => self.select = value as u8,
            WINDOW => match self.select {
                0 => self.id = (value >> 24) as u8 & 0xF,
                select => {
                    if let Some((pin, high)) = self.entry(select) {
                        self.write_entry(pin, high, value, send);
                    }
                }
            },
            EOI => self.end_of_interrupt(value as u8, send),
            _ => {}
        }
    }

    /// The redirection entry that `select` names, and whether it is the high half.
    fn entry(&self, select: u8) -> Option<(usize, bool)> {
        let index = usize::from(select.checked_sub(0x10)?);
        (index / 2 < IOAPIC_PINS).then_some((index / 2, index % 2 == 1))
    }

    fn write_entry(&mut self, pin: usize, high: bool, value: u32, send: &mut dyn FnMut(Message) -> bool) {
        let before = self.entries[pin];
        let value =
            if high { before & 0xFFFF_FFFF | u64::from(value) << 32 } else { before >> 32 << 32 | u64::from(value) };
        let mut entry = value & WRITABLE | before & REMOTE_IRR;
        if entry & LEVEL == 0 {
            // Software clears a stuck remote IRR by way of edge mode.
            entry &= !REMOTE_IRR;
        }
        self.entries[pin] = entry;
        if entry & LEVEL != 0 && self.lines & 1 << pin != 0 {
            self.service(pin, send);
        }
    }

    /// The state after reset; input lines keep their levels.
    pub(crate) fn reset(&mut self) {
        *self = Ioapic { lines: self.lines, ..Ioapic::default() };
    }

    /// The layout of KVM's `kvm_ioapic_state`: base address, select, ID, lines, padding, entries.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut state = Vec::with_capacity(IOAPIC_STATE_SIZE);
        state.extend(IOAPIC_ADDRESS.to_le_bytes());
        for word in [self.select.into(), self.id.into(), self.lines, 0] {
            state.extend(u32::to_le_bytes(word));
        }
        state.extend(self.entries.iter().flat_map(|entry| entry.to_le_bytes()));
        state
    }

    /// Loads what [`Self::save`] gave.
    ///
    /// # Errors
    /// One sentence when the size is wrong.
    pub(crate) fn load(&mut self, state: &[u8]) -> Result<(), String> {
        if state.len() != IOAPIC_STATE_SIZE {
            return Err(format!("The I/O APIC's state has {} bytes instead of {IOAPIC_STATE_SIZE}.", state.len()));
        }
        self.select = state[8];
        self.id = state[12] & 0xF;
        self.lines = u32::from_le_bytes([state[16], state[17], state[18], 0]);
        for (entry, bytes) in self.entries.iter_mut().zip(state[24..].chunks_exact(8)) {
            let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            *entry = value & (WRITABLE | REMOTE_IRR);
            if *entry & LEVEL == 0 {
                *entry &= !REMOTE_IRR;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(ioapic: &mut Ioapic, pin: u8, entry: u64, sent: &mut Vec<Message>) {
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            ioapic.write(SELECT, u32::from(0x10 + pin * 2 + half), &mut |_| true);
            ioapic.write(WINDOW, value, &mut |message| {
                sent.push(message);
                true
            });
        }
    }

    fn set(ioapic: &mut Ioapic, pin: usize, high: bool, sent: &mut Vec<Message>) {
        ioapic.set_pin(pin, high, &mut |message| {
            sent.push(message);
            true
        });
    }

    #[test]
    fn an_edge_is_sent_once_with_what_the_entry_says() {
        let (mut ioapic, mut sent) = (Ioapic::default(), Vec::new());
        program(&mut ioapic, 4, 0x0300_0000_0000_0831, &mut sent);
        set(&mut ioapic, 4, true, &mut sent);
        set(&mut ioapic, 4, true, &mut sent);
        let message = Message { destination: 3, logical: true, delivery: Delivery::Fixed, vector: 0x31, level: false };
        assert_eq!(sent, [message]);
        set(&mut ioapic, 4, false, &mut sent);
        set(&mut ioapic, 4, true, &mut sent);
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn a_masked_edge_is_lost_and_a_masked_level_waits() {
        let (mut ioapic, mut sent) = (Ioapic::default(), Vec::new());
        set(&mut ioapic, 4, true, &mut sent);
        set(&mut ioapic, 16, true, &mut sent);
        program(&mut ioapic, 4, 0x31, &mut sent);
        assert!(sent.is_empty());
        program(&mut ioapic, 16, LEVEL | 0x41, &mut sent);
        assert_eq!(sent.len(), 1);
    }

    #[test]
    fn a_level_waits_for_its_eoi_and_asks_again_while_high() {
        let (mut ioapic, mut sent) = (Ioapic::default(), Vec::new());
        program(&mut ioapic, 10, LEVEL | 0x51, &mut sent);
        set(&mut ioapic, 10, true, &mut sent);
        set(&mut ioapic, 10, false, &mut sent);
        set(&mut ioapic, 10, true, &mut sent);
        assert_eq!(sent.len(), 1, "remote IRR holds it back");
        let mut eoi = |ioapic: &mut Ioapic, offset| {
            let before = sent.len();
            ioapic.write(offset, 0x51, &mut |message| {
                sent.push(message);
                true
            });
            sent.len() - before
        };
        assert_eq!(eoi(&mut ioapic, EOI), 1);
        ioapic.set_pin(10, false, &mut |_| unreachable!("a falling level sends nothing"));
        assert_eq!(eoi(&mut ioapic, EOI), 0);
    }

    #[test]
    fn an_unaccepted_level_is_offered_again() {
        let (mut ioapic, mut sent) = (Ioapic::default(), Vec::new());
        program(&mut ioapic, 10, LEVEL | 0x51, &mut sent);
        ioapic.set_pin(10, true, &mut |_| false);
        set(&mut ioapic, 10, true, &mut sent);
        assert_eq!(sent.len(), 1);
    }

    #[test]
    fn remote_irr_is_read_only_and_edge_mode_clears_it() {
        let (mut ioapic, mut sent) = (Ioapic::default(), Vec::new());
        program(&mut ioapic, 10, LEVEL | 0x51, &mut sent);
        set(&mut ioapic, 10, true, &mut sent);
        ioapic.write(SELECT, 0x10 + 20, &mut |_| true);
        assert_eq!(u64::from(ioapic.read(WINDOW)), LEVEL | REMOTE_IRR | 0x51);
        program(&mut ioapic, 10, LEVEL | MASKED | 0x51, &mut sent);
        assert_ne!(u64::from(ioapic.read(WINDOW)) & REMOTE_IRR, 0);
        program(&mut ioapic, 10, MASKED | 0x51, &mut sent);
        assert_eq!(u64::from(ioapic.read(WINDOW)) & REMOTE_IRR, 0);
    }

    #[test]
    fn it_says_what_it_is() {
        let mut ioapic = Ioapic::default();
        ioapic.write(SELECT, 1, &mut |_| true);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
        ioapic.write(SELECT, 0, &mut |_| true);
        ioapic.write(WINDOW, 0xFF00_0000, &mut |_| true);
        assert_eq!(ioapic.read(WINDOW), 0x0F00_0000);
    }

    proptest! {
        #[test]
        fn no_access_panics_and_states_survive_saving(
            steps in prop::collection::vec((0u8..4, any::<u8>(), any::<u32>()), 0..200)
        ) {
            let mut ioapic = Ioapic::default();
            for (what, a, b) in steps {
                let mut send = |_| b & 1 != 0;
                match what {
                    0 => ioapic.write(SELECT, u32::from(a), &mut send),
                    1 => ioapic.write(u64::from(a), b, &mut send),
                    2 => ioapic.set_pin(usize::from(a), b & 2 != 0, &mut send),
                    _ => ioapic.write(WINDOW, b, &mut send),
                }
                ioapic.read(u64::from(a));
            }
            let mut copy = Ioapic::default();
            copy.load(&ioapic.save()).unwrap();
            prop_assert_eq!(copy.save(), ioapic.save());
        }

        #[test]
        fn a_hostile_state_is_refused_or_clamped(state in prop::collection::vec(any::<u8>(), 0..=IOAPIC_STATE_SIZE)) {
            let mut ioapic = Ioapic::default();
            prop_assert_eq!(ioapic.load(&state).is_ok(), state.len() == IOAPIC_STATE_SIZE);
        }
    }
}
