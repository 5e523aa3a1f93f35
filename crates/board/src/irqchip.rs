//! The interrupt controllers of the PC in user space: PIC, I/O APIC and local APICs, wired together.

use crate::coprocessor_error::{COPROCESSOR_ERROR_PORT, CoprocessorError, CoprocessorErrorPort};
use crate::device::{AccessSizes, Action, Device};
use crate::ioapic::{IOAPIC_ADDRESS, Ioapic};
use crate::lapic::{Lapic, LapicHandle};
use crate::pic::{PIC_STATE_SIZE, Pic};
use crate::pit::Pit;
use crate::timer::Timers;
use hv::{Interrupts, IoAddress, LocalApic, Msi, Tsc};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// The most processors: 8-bit APIC IDs, less the broadcast ID.
pub const MAX_CPUS: u32 = 255;

/// How an interrupt message is to be delivered. Intel SDM volume 3A, section 11.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl Delivery {
    /// The mode that the low three bits name, unless it is the reserved one.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            7 => Delivery::ExtInt,
            _ => return None,
        })
    }
}

/// An interrupt message to one destination, which is not the broadcast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) destination: u32,
    pub(crate) logical: bool,
    pub(crate) delivery: Delivery,
    pub(crate) vector: u8,
    pub(crate) level: bool,
}

/// A device model and where it belongs.
pub struct Placed {
    /// The first port or guest physical address.
    pub address: IoAddress,
    /// Ports or bytes.
    pub size: u64,
    /// The model.
    pub device: Arc<dyn Device>,
}

/// PIC, PIT, I/O APIC and one local APIC a processor.
///
/// Lock order: the PIT's, `pic`, `ioapic`. Local APICs are posted to without a lock, also with these held;
/// [`hv::Kick::interrupt`] is called from there and must not call back.
pub struct Irqchip {
    lapics: Vec<Arc<Lapic>>,
    pic: Mutex<Pic>,
    ioapic: Mutex<Ioapic>,
    /// Where the search among equals begins in lowest-priority delivery.
    turn: AtomicUsize,
    pit: Arc<Pit>,
    coprocessor_error: CoprocessorError,
}

impl Irqchip {
    /// The controllers of a machine with `cpus` processors (1..=[`MAX_CPUS`]), as after power-on. `tsc` is the guest's
    /// time-stamp counter until [`LocalApic::set_tsc`] says otherwise.
    ///
    /// # Errors
    /// One sentence when the number of processors makes no sense.
    pub fn new(cpus: u32, timers: &Arc<Timers>, tsc: Tsc) -> Result<Arc<Self>, String> {
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(format!("A machine has 1 to {MAX_CPUS} processors, not {cpus}."));
        }
        Ok(Arc::new_cyclic(|me: &Weak<Irqchip>| {
            let irq0 = {
                let irqchip = me.clone();
                move |high| {
                    if let Some(irqchip) = irqchip.upgrade() {
                        irqchip.set_line(0, high);
                    }
                }
            };
            Irqchip {
                lapics: (0..cpus).map(|id| Lapic::new(id, timers, tsc)).collect(),
                pic: Mutex::new(Pic::default()),
                ioapic: Mutex::new(Ioapic::default()),
                turn: AtomicUsize::new(0),
                pit: Pit::new(timers, irq0),
                coprocessor_error: CoprocessorError::default(),
            }
        }))
    }

    /// The local APIC of processor `id`, or `None` when there is no such processor.
    pub fn lapic(self: &Arc<Self>, id: u32) -> Option<Arc<dyn LocalApic>> {
        let lapic = self.lapics.get(id as usize)?.clone();
        Some(Arc::new(LapicHandle { lapic, irqchip: self.clone() }))
    }

    /// The devices that answer for these controllers, to be put on the buses. Local APICs are not among them:
    /// each processor reaches its own.
    pub fn devices(self: &Arc<Self>) -> Vec<Placed> {
        let ports =
            |port: u16, size: u64, device: Arc<dyn Device>| Placed { address: IoAddress::Port(port), size, device };
        let pic = |chip| Arc::new(PicPorts { irqchip: self.clone(), chip });
        vec![
            ports(0x20, 2, pic(0)),
            ports(0xA0, 2, pic(1)),
            ports(0x4D0, 2, Arc::new(ElcrPorts { irqchip: self.clone() })),
            ports(0x40, 4, self.pit.clone()),
            ports(0x61, 1, self.pit.port_b()),
            ports(COPROCESSOR_ERROR_PORT, 1, Arc::new(CoprocessorErrorPort(self.clone()))),
            Placed {
                address: IoAddress::Mmio(IOAPIC_ADDRESS),
                size: 0x1000,
                device: Arc::new(IoapicPage { irqchip: self.clone() }),
            },
        ]
    }

    /// The state after a machine reset of the local APICs; the devices of [`Self::devices`] are reset by the bus's
    /// owner. The processors must not run meanwhile.
    pub fn reset_lapics(&self) {
        let intr = self.pic.lock().output();
        for lapic in &self.lapics {
            lapic.power_on();
            lapic.set_lint0(intr);
        }
    }

    /// The logic behind the processor's pins FERR# and IGNNE#.
    pub(crate) fn coprocessor_error(&self) -> &CoprocessorError {
        &self.coprocessor_error
    }

    /// Pulses the NMI pin (LINT1) of every processor, as a server's NMI button does.
    pub fn pulse_nmi(&self) {
        self.lapics.iter().for_each(|lapic| lapic.pulse_lint1());
    }

    /// Sends a message to the processors it names. True when one took it.
    pub(crate) fn deliver(&self, message: Message) -> bool {
        let Message { destination, logical, delivery, vector, level } = message;
        let targets = self.lapics.iter().filter(|lapic| {
            if logical { lapic.matches_logical(destination) } else { lapic.matches_physical(destination) }
        });
        if delivery == Delivery::LowestPriority {
            return self.lowest_priority(targets).is_some_and(|lapic| lapic.accept(delivery, vector, level));
        }
        targets.fold(false, |taken, lapic| lapic.accept(delivery, vector, level) | taken)
    }

    /// Sends to every processor but `except`. True when one took it.
    pub(crate) fn broadcast(&self, delivery: Delivery, vector: u8, except: Option<u32>) -> bool {
        self.broadcast_message(delivery, vector, false, except)
    }

    fn broadcast_message(&self, delivery: Delivery, vector: u8, level: bool, except: Option<u32>) -> bool {
        let all = || {
            (0u32..)
                .zip(&self.lapics)
                .filter(|(id, lapic)| Some(*id) != except && lapic.hardware_enabled())
                .map(|(_, lapic)| lapic)
        };
        if delivery == Delivery::LowestPriority {
            return self.lowest_priority(all()).is_some_and(|lapic| lapic.accept(delivery, vector, level));
        }
        all().fold(false, |taken, lapic| lapic.accept(delivery, vector, level) | taken)
    }

    /// The processor with the lowest priority; equals take turns. Section 11.6.2.4.
    fn lowest_priority<'a>(&self, targets: impl Iterator<Item = &'a Arc<Lapic>>) -> Option<&'a Arc<Lapic>> {
        let candidates: Vec<_> = targets.filter_map(|lapic| Some((lapic.arbitration_priority()?, lapic))).collect();
        let lowest = candidates.iter().map(|(priority, _)| *priority).min()?;
        let equals: Vec<_> = candidates.into_iter().filter(|(priority, _)| *priority == lowest).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Some(equals[turn % equals.len()].1)
    }

    /// A message with an 8-bit destination, where 0xFF means everybody.
    fn send(&self, message: Message) -> bool {
        if message.destination == 0xFF {
            return self.broadcast_message(message.delivery, message.vector, message.level, None);
        }
        self.deliver(message)
    }

    /// A local APIC ended a level-triggered interrupt.
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.lock().end_of_interrupt(vector, &mut |message| self.send(message));
    }

    /// Runs the PIC's acknowledge cycle if INTR is high, or in any case when `forced` (an ExtINT message was taken:
    /// a request that went away is then a spurious one).
    pub(crate) fn acknowledge_pic(&self, forced: bool) -> Option<u8> {
        let mut pic = self.pic.lock();
        if !forced && !pic.output() {
            return None;
        }
        let vector = pic.acknowledge();
        // INTR falls with every acknowledge and rises again for the next request: that is an edge.
        self.drive_intr(false);
        if pic.output() {
            self.drive_intr(true);
        }
        Some(vector)
    }

    /// Changes the PIC and carries its output on.
    fn with_pic<R>(&self, change: impl FnOnce(&mut Pic) -> R) -> R {
        let mut pic = self.pic.lock();
        let before = pic.output();
        let result = change(&mut pic);
        let after = pic.output();
        if before != after {
            self.drive_intr(after);
        }
        result
    }

    /// Carries the PIC's output to LINT0 of every local APIC and to pin 0 of the I/O APIC. Called with `pic` locked, so
    /// that levels arrive in the order in which they came about.
    fn drive_intr(&self, high: bool) {
        for lapic in &self.lapics {
            lapic.set_lint0(high);
        }
        self.set_ioapic_pin(0, high);
    }

    fn set_ioapic_pin(&self, pin: usize, high: bool) {
        self.ioapic.lock().set_pin(pin, high, &mut |message| self.send(message));
    }
}

impl Interrupts for Irqchip {
    /// ISA interrupt 0 (the PIT) arrives at pin 2 of the I/O APIC, as the MADT's override says; pin 0 belongs to the
    /// PIC's output.
    fn set_line(&self, gsi: u32, high: bool) {
        if gsi < 16 {
            self.with_pic(|pic| pic.set_line(gsi as u8, high));
        }
        match gsi {
            0 => self.set_ioapic_pin(2, high),
            2 => {}
            _ => self.set_ioapic_pin(gsi as usize, high),
        }
    }

    fn signal_msi(&self, msi: Msi) {
        if let Some(message) = Message::from_msi(msi) {
            self.send(message);
        }
    }

    fn connect_pit(&self, connected: bool) {
        self.pit.connect(connected);
    }
}

/// The two ports of one 8259A.
struct PicPorts {
    irqchip: Arc<Irqchip>,
    chip: usize,
}

impl Device for PicPorts {
    fn name(&self) -> &str {
        ["pic-master", "pic-slave"][self.chip]
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(self.irqchip.with_pic(|pic| pic.read(self.chip, offset == 1)));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if let &[value] = data {
            self.irqchip.with_pic(|pic| pic.write(self.chip, offset == 1, value));
        }
        Action::None
    }

    fn reset(&self) {
        self.irqchip.with_pic(Pic::reset);
    }

    fn save(&self) -> Vec<u8> {
        self.irqchip.pic.lock().save(self.chip).to_vec()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        let state: &[u8; PIC_STATE_SIZE] = state
            .try_into()
            .map_err(|_| format!("The PIC's state has {} bytes instead of {PIC_STATE_SIZE}.", state.len()))?;
        self.irqchip.with_pic(|pic| pic.load(self.chip, state));
        Ok(())
    }
}

/// The edge/level control registers; saved with the PICs.
struct ElcrPorts {
    irqchip: Arc<Irqchip>,
}

impl Device for ElcrPorts {
    fn name(&self) -> &str {
        "elcr"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 1 }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(self.irqchip.pic.lock().elcr((offset & 1) as usize));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if let &[value] = data {
            self.irqchip.with_pic(|pic| pic.set_elcr((offset & 1) as usize, value));
        }
        Action::None
    }
}

/// The I/O APIC's page.
struct IoapicPage {
    irqchip: Arc<Irqchip>,
}

impl Device for IoapicPage {
    fn name(&self) -> &str {
        "ioapic"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let register = self.irqchip.ioapic.lock().read(offset & !3).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(&register[(offset & 3) as usize..]) {
            *byte = *value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        // Registers are 32 bits wide; narrower writes carry their low part, as to the select register.
        if offset & 3 == 0 {
            let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            self.irqchip.ioapic.lock().write(offset, value, &mut |message| self.irqchip.send(message));
        }
        Action::None
    }

    fn reset(&self) {
        self.irqchip.ioapic.lock().reset();
    }

    fn save(&self) -> Vec<u8> {
        self.irqchip.ioapic.lock().save()
    }

    fn load(&self, state: &[u8]) -> Result<(), String> {
        self.irqchip.ioapic.lock().load(state)
    }
}
