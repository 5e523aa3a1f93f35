use crate::irqchip::Placed;
use crate::pci::PciBus;
use crate::{
    Buses, CMOS_PORT, Cmos, CmosConfig, Device, Dma, Floppy, FloppyDrive, HPET_ADDRESS, HPET_SIZE, HostBridge, Hpet,
    I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, IrqLines, Irqchip, IsaBridge, KEYBOARD_IRQ, MOUSE_IRQ, PM_BASE,
    PM_SIZE, Pm, PmTimerWidth, Port92, PowerManagement, RTC_IRQ, SCI_IRQ, SHADOW_RANGE, Timers,
};
use hv::{GuestMemory, Interrupts, IoAddress, LocalApic, Tsc, Vm};
use std::sync::{Arc, OnceLock};

/// Slot of the PIIX: the ISA bridge and what is on the same chip.
const PIIX_SLOT: u8 = 1;
/// System control port A.
const PORT92: u16 = 0x92;
/// Function of the power management registers in it.
const PIIX_POWER_MANAGEMENT: u8 = 3;
/// The floppy controller's ISA interrupt and DMA channel.
const FLOPPY_IRQ: u32 = 6;
const FLOPPY_DMA: u8 = 2;

/// The chips of an i440FX/PIIX board: interrupt controllers (the accelerator's, or ours), timers, clock, keyboard
/// controller, power management, and PCI with its bridges. The bridge answers the reset control register, too.
pub struct Chipset {
    irqchip: Option<Arc<Irqchip>>,
    interrupts: Arc<dyn Interrupts>,
    lines: IrqLines,
    timers: Arc<Timers>,
    pci: Arc<PciBus>,
    pm: Arc<Pm>,
    clock: Arc<Cmos>,
    i8042: Arc<I8042>,
    dma: Arc<Dma>,
    floppy: OnceLock<Arc<Floppy>>,
}

impl Chipset {
    /// Puts the chips for `cmos.cpus` processors on the buses of a machine. `firmware` is for [`HostBridge::new`].
    ///
    /// # Errors
    /// One sentence when a range is taken, there are too many processors, or the timer thread cannot be started.
    pub fn new(
        vm: &Arc<dyn Vm>,
        memory: &Arc<GuestMemory>,
        buses: &Arc<Buses>,
        cmos: &CmosConfig,
        firmware: Option<u64>,
    ) -> Result<Self, String> {
        let timers = Timers::new().map_err(|error| format!("cannot start the timer thread: {error}"))?;
        let (irqchip, interrupts): (_, Arc<dyn Interrupts>) = match vm.interrupts() {
            Some(interrupts) => (None, interrupts),
            None => {
                let irqchip = Irqchip::new(cmos.cpus, &timers, Tsc::starting_at(0))?;
                irqchip.devices().into_iter().try_for_each(|placed| insert(buses, placed))?;
                (Some(irqchip.clone()), irqchip)
            }
        };
        let lines = IrqLines::new(interrupts.clone());
        let pci = PciBus::new(buses, interrupts.clone(), &lines).map_err(|error| error.to_string())?;
        let isa_bridge = IsaBridge::new(pci.pirqs().clone());
        let host_bridge = HostBridge::new(memory.clone(), firmware);
        buses.insert_mmio(SHADOW_RANGE, host_bridge.shadow()).map_err(|error| error.to_string())?;
        pci.add(0, 0, host_bridge).map_err(|error| error.to_string())?;
        pci.add(PIIX_SLOT, 0, isa_bridge).map_err(|error| error.to_string())?;
        pci.add(PIIX_SLOT, PIIX_POWER_MANAGEMENT, Arc::new(PowerManagement)).map_err(|error| error.to_string())?;
        let pm = Pm::new(&timers, lines.line(SCI_IRQ)?, PmTimerWidth::Bits24);
        let clock = Cmos::new(&timers, lines.line(RTC_IRQ)?, cmos);
        let i8042 = I8042::new(&timers, lines.line(KEYBOARD_IRQ)?, lines.line(MOUSE_IRQ)?);
        let ports: [(u16, u16, Arc<dyn Device>); 5] = [
            (I8042_DATA_PORT, 1, i8042.data_port()),
            (I8042_COMMAND_PORT, 1, i8042.command_port()),
            (CMOS_PORT, 2, clock.clone()),
            (PORT92, 1, Arc::new(Port92::new())),
            (PM_BASE, PM_SIZE, pm.clone()),
        ];
        for (first, size, device) in ports {
            buses.insert_port(first..=first + (size - 1), device).map_err(|error| error.to_string())?;
        }
        let dma = Dma::new(memory.clone());
        dma.insert(buses).map_err(|error| error.to_string())?;
        let floppy = OnceLock::new();
        Ok(Chipset { irqchip, interrupts, lines, timers, pci, pm, clock, i8042, dma, floppy })
    }

    /// Puts a floppy controller with one or two drives on the bus, and tells firmware of them. Once.
    ///
    /// # Errors
    /// One sentence when its ports are taken or its thread cannot be started.
    pub fn add_floppies(&self, buses: &Buses, drives: [Option<FloppyDrive>; 2]) -> Result<(), String> {
        let codes = drives.each_ref().map(|drive| drive.as_ref().map_or(0, |drive| drive.kind.code()));
        let channel = self.dma.channel(FLOPPY_DMA).ok_or("the floppy controller has no DMA channel")?;
        let floppy = Floppy::new(self.lines.line(FLOPPY_IRQ)?, channel, drives)
            .map_err(|error| format!("cannot start the floppy controller's thread: {error}"))?;
        floppy.insert(buses).map_err(|error| error.to_string())?;
        self.clock.set_floppies(codes);
        self.floppy.get_or_init(|| floppy);
        Ok(())
    }

    /// Stops what devices that are no PCI functions do by themselves: when this returns, none changes memory.
    pub fn pause(&self) {
        self.floppy.get().inspect(|floppy| floppy.pause());
    }

    /// Lets them go on after [`Chipset::pause`].
    pub fn resume(&self) {
        self.floppy.get().inspect(|floppy| floppy.resume());
    }

    /// Puts an HPET on the bus, which can take the interrupts of the interval timer and the clock. Once.
    ///
    /// # Errors
    /// One sentence when its addresses are taken.
    pub fn add_hpet(&self, buses: &Buses) -> Result<(), String> {
        let (interrupts, clock) = (self.interrupts.clone(), self.clock.clone());
        let replace_legacy = move |replaced: bool| {
            interrupts.connect_pit(!replaced);
            clock.connect(!replaced);
        };
        let hpet = Hpet::new(&self.timers, self.interrupts.clone(), &self.lines, replace_legacy)?;
        buses.insert_mmio(HPET_ADDRESS..=HPET_ADDRESS + (HPET_SIZE - 1), hpet).map_err(|error| error.to_string())
    }

    /// The local APIC for vCPU `id`; `None` where the accelerator has its own.
    pub fn lapic(&self, id: u32) -> Option<Arc<dyn LocalApic>> {
        self.irqchip.as_ref()?.lapic(id)
    }

    /// The interrupt controllers.
    pub fn interrupts(&self) -> &Arc<dyn Interrupts> {
        &self.interrupts
    }

    /// The interrupt lines, for devices.
    pub fn lines(&self) -> &IrqLines {
        &self.lines
    }

    /// The timers, for devices.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Presses the power button: the guest is asked to power off.
    pub fn press_power_button(&self) {
        self.pm.press_power_button();
    }

    /// Presses the NMI button: pulses the NMI pins of all processors. `false` where the accelerator has its own local
    /// APICs, which get it from [`hv::Vcpu::pulse_nmi`].
    pub fn press_nmi_button(&self) -> bool {
        self.irqchip.as_ref().inspect(|irqchip| irqchip.pulse_nmi()).is_some()
    }

    /// The keyboard controller, for keys and movements of the mouse.
    pub fn i8042(&self) -> &Arc<I8042> {
        &self.i8042
    }

    /// The PCI bus, for devices.
    pub fn pci(&self) -> &Arc<PciBus> {
        &self.pci
    }
}

fn insert(buses: &Buses, placed: Placed) -> Result<(), String> {
    let Placed { address, size, device } = placed;
    let inserted = match address {
        IoAddress::Port(first) => buses.insert_port(first..=first + (size - 1) as u16, device),
        IoAddress::Mmio(first) => buses.insert_mmio(first..=first + (size - 1), device),
    };
    inserted.map_err(|error| error.to_string())
}
