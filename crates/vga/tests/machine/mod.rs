//! A machine that runs 16-bit programs with the VGA BIOS of Debian's package seabios, and takes pictures for them.

use board::{Action, Buses, Chipset, CmosConfig, DEBUG_EXIT_PORT, DebugExit, Device, Event, Machine};
use hv::{CpuModel, CpuState, Gpr, GuestMemory, Region, Segment, SegmentRegister, Vm};
use recompiler::{Instruments, RecompilerVm};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vga::{Frame, Vga};

pub const BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";
/// Where a program begins, as a boot sector does.
pub const PROGRAM: u16 = 0x7C00;
/// A write to this port takes a picture.
const CAMERA_PORT: u16 = 0xE8;
const SLOT: u8 = 2;
const RAM: u64 = 2 << 20;
const VRAM: u64 = 16 << 20;
/// Where the BIOS is called from, and its segment.
const START: u64 = 0x7800;
const BIOS_SEGMENT: u16 = 0xC000;
/// Where an IRET lies, as a far pointer to segment 0.
const IRET: u32 = 0x7700;

/// The screen at one time.
pub struct Picture {
    pub frame: Frame,
    pub text: Option<String>,
}

struct Camera {
    card: Arc<Vga>,
    pictures: Mutex<Vec<Picture>>,
}

impl Device for Camera {
    fn name(&self) -> &str {
        "camera"
    }

    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Action {
        let mut frame = Frame::new();
        self.card.update(&mut frame);
        self.pictures.lock().unwrap().push(Picture { frame, text: self.card.text() });
        Action::None
    }
}

/// Runs a program from [`PROGRAM`] on, behind the BIOS's own start, until it writes to [`DEBUG_EXIT_PORT`]. Returns the
/// pictures it took; `None` when there is no BIOS on this host.
pub fn run(program: &[u8]) -> Option<Vec<Picture>> {
    let bios = std::fs::read(BIOS).ok()?;
    let ram = |address, size| Region { address, size, offset: address, readonly: false };
    let regions = [ram(0, 0xA_0000), ram(0xC_0000, 0x4_0000), ram(0x10_0000, RAM - 0x10_0000)];
    let memory = Arc::new(GuestMemory::with_size(&regions, RAM + VRAM).unwrap());
    let buses = Arc::new(Buses::new());
    let model = CpuModel::from_name("host").unwrap();
    let vm: Arc<dyn Vm> = RecompilerVm::new(memory.clone(), buses.clone(), 1, model, Instruments::default()).unwrap();
    let cmos = CmosConfig { memory_below_4g: RAM, memory_above_4g: 0, cpus: 1 };
    let chipset = Chipset::new(&vm, &memory, &buses, &cmos, None).unwrap();
    let card = Vga::new(memory.clone(), RAM, VRAM, bios.clone()).unwrap();
    card.attach(&buses, chipset.pci(), SLOT).unwrap();
    let camera = Arc::new(Camera { card, pictures: Mutex::default() });
    buses.insert_port(CAMERA_PORT..=CAMERA_PORT, camera.clone()).unwrap();
    buses.insert_port(DEBUG_EXIT_PORT..=DEBUG_EXIT_PORT + 3, Arc::new(DebugExit)).unwrap();
    chipset.pci().assign_resources().unwrap();

    // All interrupts return, as a BIOS has it before it knows better.
    memory.write(IRET.into(), &[0xCF]).unwrap();
    (0..256u64).for_each(|vector| memory.write(4 * vector, &IRET.to_le_bytes()).unwrap());
    memory.write(u64::from(BIOS_SEGMENT) << 4, &bios).unwrap();
    // mov ax, slot; call far BIOS:3; jmp far 0:PROGRAM
    let start =
        [&[0xB8, SLOT << 3, 0, 0x9A, 3, 0][..], &BIOS_SEGMENT.to_le_bytes(), &[0xEA], &PROGRAM.to_le_bytes(), &[0, 0]];
    memory.write(START, &start.concat()).unwrap();
    memory.write(PROGRAM.into(), program).unwrap();

    let machine = Machine::new(memory, buses, vm);
    machine.add_vcpu(chipset.lapic(0), Arc::new(|life| life())).unwrap();
    let mut state = CpuState::reset();
    let code = &mut state.segments[SegmentRegister::Cs as usize];
    (code.base, code.selector) = (0, 0);
    state.rip = START;
    // The BIOS reads the card's registers behind 64 KiB, so SeaBIOS calls it with segments of 4 GiB.
    for segment in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Ss] {
        let segment = &mut state.segments[segment as usize];
        (segment.limit, segment.access) = (u32::MAX, segment.access | Segment::G);
    }
    state.gpr[Gpr::Rsp as usize] = 0x7000;
    machine.with_vcpu(0, move |vcpu| vcpu.set_state(&state)).unwrap().unwrap();
    machine.start().unwrap();
    let event = machine.wait(Some(Duration::from_secs(10)));
    // A program that does not end: where it is.
    let place = event.is_none().then(|| machine.with_vcpu(0, |vcpu| vcpu.state().unwrap()).unwrap());
    machine.close();
    assert!(matches!(event.as_deref(), Some(Event::Exit(_))), "{event:?} {place:x?}");
    let pictures = std::mem::take(&mut *camera.pictures.lock().unwrap());
    Some(pictures)
}

/// A 16-bit program under construction.
#[derive(Default)]
pub struct Program(pub Vec<u8>);

impl Program {
    /// Calls the video BIOS.
    pub fn int10(mut self, ax: u16, bx: u16, cx: u16, dx: u16) -> Self {
        for (opcode, value) in [(0xB8, ax), (0xBB, bx), (0xB9, cx), (0xBA, dx)] {
            self.0.push(opcode);
            self.0.extend(value.to_le_bytes());
        }
        self.0.extend([0xCD, 0x10]);
        self
    }

    /// Writes `count` times the byte `value` from `segment:offset` on.
    pub fn fill(mut self, segment: u16, offset: u16, count: u16, value: u8) -> Self {
        self.0.push(0xB8);
        self.0.extend(segment.to_le_bytes());
        self.0.extend([0x8E, 0xC0, 0xBF]);
        self.0.extend(offset.to_le_bytes());
        self.0.push(0xB9);
        self.0.extend(count.to_le_bytes());
        // cld; mov al, value; rep stosb
        self.0.extend([0xFC, 0xB0, value, 0xF3, 0xAA]);
        self
    }

    /// Prints text at the cursor, in graphics modes in this colour.
    pub fn print(mut self, text: &[u8], colour: u8) -> Self {
        for character in text {
            self = self.int10(0x0E00 | u16::from(*character), colour.into(), 0, 0);
        }
        self
    }

    /// Takes a picture.
    pub fn picture(mut self) -> Self {
        self.0.extend([0xE6, CAMERA_PORT as u8]);
        self
    }

    /// Ends the machine.
    pub fn exit(mut self) -> Vec<u8> {
        self.0.extend([0xE6, DEBUG_EXIT_PORT as u8]);
        self.0
    }
}
