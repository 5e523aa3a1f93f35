use super::*;
use crate::{Dma, IrqLines};
use block::{Disk, Medium, RawFile};
use hv::{Bus, GuestMemory, Interrupts, Msi, Region};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

const RAM: u64 = 1 << 20;
const BUFFER: u32 = 0x2_0000;
const DOR_DRIVE_0: u8 = 0x1C;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Pin(AtomicBool);

impl Interrupts for Pin {
    fn set_line(&self, _: u32, high: bool) {
        self.0.store(high, Ordering::SeqCst);
    }
    fn signal_msi(&self, _: Msi) {}
}

struct Bench {
    memory: Arc<GuestMemory>,
    buses: Buses,
    pin: Arc<Pin>,
    medium: Arc<Medium>,
    file: File,
    floppy: Arc<Floppy>,
}

/// An image, each of whose sectors begins with its number, and its file.
fn image(kib: u64, readonly: bool) -> (Arc<dyn Disk>, File) {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..kib * 2)
        .flat_map(|sector| {
            let mut data = [sector as u8; 512];
            data[..2].copy_from_slice(&(sector as u16).to_le_bytes());
            data
        })
        .collect();
    file.write_all_at(&content, 0).unwrap();
    (Arc::new(RawFile::new(file.try_clone().unwrap(), readonly).unwrap()), file)
}

impl Bench {
    fn with(kib: u64, readonly: bool) -> Self {
        let region = Region { address: 0, size: RAM, offset: 0, readonly: false };
        let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
        let (buses, pin, dma) = (Buses::new(), Arc::new(Pin::default()), Dma::new(memory.clone()));
        dma.insert(&buses).unwrap();
        let (disk, file) = image(kib, readonly);
        let kind = FloppyKind::for_size(Some(disk.size()));
        let medium = Medium::new(Some(disk));
        let drive = FloppyDrive { kind, medium: medium.clone() };
        let line = IrqLines::new(pin.clone()).line(6).unwrap();
        let floppy = Floppy::new(line, dma.channel(2).unwrap(), [Some(drive), None]).unwrap();
        floppy.insert(&buses).unwrap();
        let bench = Bench { memory, buses, pin, medium, file, floppy };
        bench.out(0x3F2, DOR_DRIVE_0);
        bench.out(0x3F7, [0, 2][usize::from(kib == 720)]);
        bench
    }

    /// With a disk of 1.44 MB.
    fn new() -> Self {
        Self::with(1440, false)
    }

    fn out(&self, port: u16, value: u8) {
        self.buses.pio_write(port, 1, value.into());
    }

    fn input(&self, port: u16) -> u8 {
        self.buses.pio_read(port, 1) as u8
    }

    fn until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready(self) {
            assert!(Instant::now() < deadline, "{what} does not come");
            std::thread::yield_now();
        }
    }

    fn interrupt(&self) -> bool {
        self.pin.0.load(Ordering::SeqCst)
    }

    fn wait(&self) {
        self.until("the interrupt", Self::interrupt);
    }

    fn send(&self, bytes: &[u8]) {
        for &byte in bytes {
            assert_eq!(self.input(0x3F4) & 0xC0, 0x80, "it takes the bytes of {bytes:x?}");
            self.out(0x3F5, byte);
        }
    }

    fn result(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.input(0x3F4) & 0xF0 == 0xD0 && bytes.len() < 20 {
            bytes.push(self.input(0x3F5));
        }
        assert_eq!(self.input(0x3F4), 0x80, "it takes the next command");
        bytes
    }

    /// A command with an execution phase.
    fn run(&self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.wait();
        let result = self.result();
        assert!(!self.interrupt());
        result
    }

    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.result()
    }

    fn seek(&self, cylinder: u8) {
        self.send(&[0x0F, 0, cylinder]);
        self.wait();
        assert_eq!(self.ask(&[8]), [0x20, cylinder]);
    }

    fn set_up_dma(&self, mode: u8, bytes: u16) {
        self.out(0x0A, 6);
        self.out(0x0C, 0);
        self.out(0x0B, mode | 2);
        [BUFFER as u8, (BUFFER >> 8) as u8].into_iter().for_each(|byte| self.out(0x04, byte));
        self.out(0x81, (BUFFER >> 16) as u8);
        (bytes - 1).to_le_bytes().into_iter().for_each(|byte| self.out(0x05, byte));
        self.out(0x0A, 2);
    }

    /// The first bytes of sectors in the buffer.
    fn sectors(&self, count: u64) -> Vec<u16> {
        (0..count).map(|index| self.memory.load_u16(u64::from(BUFFER) + index * 512).unwrap()).collect()
    }

    fn on_disk(&self, sector: u64) -> [u8; 512] {
        let mut data = [0; 512];
        self.file.read_exact_at(&mut data, sector * 512).unwrap();
        data
    }

    fn device(&self) -> Arc<dyn Device> {
        self.buses.devices().into_iter().find(|device| device.name() == "floppy").unwrap()
    }
}

#[test]
fn a_reset_gives_one_interrupt_for_four_drives() {
    let bench = Bench::new();
    bench.out(0x3F2, 0x08);
    assert_eq!((bench.input(0x3F4), bench.input(0x3F2)), (0, 8));
    for again in [false, true] {
        if again {
            bench.out(0x3F4, 0x80);
        } else {
            bench.out(0x3F2, DOR_DRIVE_0);
        }
        bench.wait();
        for drive in 0..4 {
            assert_eq!(bench.ask(&[8]), [0xC0 | drive, 0]);
            assert!(!bench.interrupt());
        }
        assert_eq!(bench.ask(&[8]), [0x80]);
    }
}

#[test]
fn a_track_and_its_other_side_are_read_up_to_the_terminal_count() {
    let bench = Bench::new();
    bench.seek(5);
    bench.set_up_dma(0x44, 36 * 512);
    assert_eq!(bench.run(&[0xE6, 0, 5, 0, 1, 2, 18, 0x1B, 0xFF]), [0x04, 0, 0, 6, 0, 1, 2]);
    assert_eq!(bench.sectors(36), (180..216).collect::<Vec<u16>>());
    // It ends in the middle of a sector, on one side.
    bench.set_up_dma(0x44, 700);
    assert_eq!(bench.run(&[0x46, 0, 5, 0, 3, 2, 18, 0x1B, 0xFF]), [0, 0, 0, 5, 0, 5, 2]);
    // Nobody ends it: the cylinder does.
    bench.set_up_dma(0x44, 60000);
    assert_eq!(bench.run(&[0x46, 4, 5, 1, 17, 2, 18, 0x1B, 0xFF]), [0x44, 0x80, 0, 6, 1, 1, 2]);
    assert_eq!(bench.sectors(2), [214, 215]);
}

#[test]
fn written_sectors_are_in_the_image_and_a_protected_disk_stays_as_it_is() {
    let bench = Bench::new();
    bench.memory.write(BUFFER.into(), &[0xA5; 1024]).unwrap();
    bench.seek(1);
    bench.set_up_dma(0x48, 600);
    assert_eq!(bench.run(&[0xC5, 4, 1, 1, 18, 2, 18, 0x1B, 0xFF]), [0x44, 0x80, 0, 2, 0, 1, 2]);
    bench.set_up_dma(0x48, 600);
    assert_eq!(bench.run(&[0xC5, 0, 1, 0, 1, 2, 18, 0x1B, 0xFF]), [0, 0, 0, 1, 0, 3, 2]);
    assert_eq!((bench.on_disk(71), bench.on_disk(36)), ([0xA5; 512], [0xA5; 512]));
    assert_eq!((bench.on_disk(37)[87], bench.on_disk(37)[88]), (0xA5, 0), "the rest of the last sector is zero");
    assert_eq!(bench.ask(&[4, 0]), [0x28]);

    let bench = Bench::with(1440, true);
    bench.set_up_dma(0x48, 512);
    assert_eq!(bench.run(&[0xC5, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF])[..3], [0x40, 2, 0]);
    bench.set_up_dma(0x48, 4);
    assert_eq!(bench.run(&[0x4D, 0, 2, 1, 0x54, 0xF6])[..3], [0x40, 2, 0]);
    assert_eq!((bench.on_disk(0)[2], bench.ask(&[4, 0])), (0, vec![0x78]));
}

#[test]
fn what_is_not_on_the_disk_is_not_found() {
    let bench = Bench::new();
    let read = |unit: u8, id: [u8; 4]| {
        bench.set_up_dma(0x44, 512);
        bench.run(&[0x46, unit, id[0], id[1], id[2], id[3], 18, 0x1B, 0xFF])[..3].to_vec()
    };
    assert_eq!(read(0, [0, 0, 19, 2]), [0x40, 4, 0]);
    assert_eq!(read(0, [0, 0, 0, 2]), [0x40, 4, 0]);
    assert_eq!(read(0, [0, 1, 1, 2]), [0x40, 4, 0]);
    assert_eq!(read(0, [0, 0, 1, 3]), [0x40, 4, 0]);
    assert_eq!(read(0, [3, 0, 1, 2]), [0x40, 4, 0x10]);
    assert_eq!(read(0, [0xFF, 0, 1, 2]), [0x40, 4, 0x12]);
    assert_eq!(read(1, [0, 0, 1, 2]), [0x41, 1, 0], "there is no second drive");
    bench.out(0x3F7, 2);
    assert_eq!(read(0, [0, 0, 1, 2]), [0x40, 1, 0], "at half the data rate there are no marks");
    bench.out(0x3F7, 0);
    bench.seek(81);
    assert_eq!(read(0, [81, 0, 1, 2]), [0x40, 1, 0]);
    bench.seek(0);
    bench.medium.exchange(None);
    assert_eq!(read(0, [0, 0, 1, 2]), [0x40, 1, 0]);
    assert_eq!(bench.run(&[0x4A, 0])[..3], [0x40, 1, 0]);
}

#[test]
fn an_exchanged_disk_shows_until_the_head_steps() {
    let bench = Bench::new();
    assert_eq!(bench.input(0x3F7), 0x80);
    bench.send(&[7, 0]);
    bench.wait();
    assert_eq!((bench.ask(&[8]), bench.input(0x3F7)), (vec![0x20, 0], 0x80), "it was at track 0 before");
    bench.seek(1);
    assert_eq!(bench.input(0x3F7), 0);
    bench.medium.exchange(Some(image(720, false).0));
    assert_eq!(bench.input(0x3F7), 0x80);
    bench.seek(0);
    assert_eq!(bench.input(0x3F7), 0);
    // Of the size that it has now, at its rate.
    bench.out(0x3F7, 2);
    let seen: Vec<u8> = (0..10).map(|_| bench.run(&[0x4A, 4])[5]).collect();
    assert_eq!((seen.iter().min(), seen.iter().max()), (Some(&1), Some(&9)));
    bench.medium.exchange(None);
    bench.seek(3);
    assert_eq!(bench.input(0x3F7), 0x80);
}

#[test]
fn a_missing_drive_finds_no_track_0_and_seeks_end_for_each_drive() {
    let bench = Bench::new();
    bench.send(&[7, 1]);
    bench.send(&[0x0F, 0, 9]);
    bench.wait();
    bench.until("the end of both", |bench| bench.input(0x3F4) == 0x80);
    assert_eq!(bench.ask(&[8]), [0x20, 9]);
    assert!(bench.interrupt(), "the other drive's");
    assert_eq!(bench.ask(&[8]), [0x71, 0]);
    assert!(!bench.interrupt());
    // Relative seeks: inwards, outwards, and too far.
    for (first, steps, st0, cylinder) in [(0xCF, 3, 0x20, 12), (0x8F, 2, 0x20, 10), (0x8F, 11, 0x70, 0xFF)] {
        bench.send(&[first, 0, steps]);
        bench.wait();
        assert_eq!(bench.ask(&[8]), [st0, cylinder]);
    }
}

#[test]
fn a_track_is_formatted_verified_and_read_whole() {
    let bench = Bench::new();
    bench.seek(2);
    let ids: Vec<u8> = (1..=18).flat_map(|sector| [2, 1, sector, 2]).collect();
    bench.memory.write(BUFFER.into(), &ids).unwrap();
    bench.set_up_dma(0x48, 72);
    assert_eq!(bench.run(&[0x4D, 4, 2, 18, 0x54, 0xF6])[..3], [0x04, 0, 0]);
    assert!((90..108).all(|sector| bench.on_disk(sector) == [0xF6; 512]));
    assert_eq!((bench.on_disk(89)[5], bench.on_disk(108)[5]), (89, 108));
    // Another format than the image has.
    bench.memory.write(BUFFER.into(), &[2, 1, 19, 2]).unwrap();
    bench.set_up_dma(0x48, 4);
    assert_eq!(bench.run(&[0x4D, 4, 2, 21, 0x54, 0xF6])[..3], [0x54, 0, 0]);
    // Verify, without DMA: some sectors, and up to the end.
    assert_eq!(bench.run(&[0xD6, 0x84, 2, 1, 3, 2, 18, 0x1B, 5]), [4, 0, 0, 2, 1, 8, 2]);
    assert_eq!(bench.run(&[0xD6, 0, 2, 0, 3, 2, 18, 0x1B, 0xFF]), [4, 0, 0, 3, 0, 1, 2]);
    assert_eq!(bench.run(&[0x56, 0, 2, 0, 3, 2, 19, 0x1B, 0xFF])[..3], [0x40, 4, 0]);
    // A whole track, whose first sector is not the one asked for.
    bench.set_up_dma(0x44, 18 * 512);
    assert_eq!(bench.run(&[0x42, 0, 2, 0, 7, 2, 18, 0x1B, 0xFF])[..3], [0, 4, 0]);
    assert_eq!(bench.sectors(18), (72..90).collect::<Vec<u16>>());
}

#[test]
fn deleted_sectors_are_looked_for_and_there_are_none() {
    let bench = Bench::new();
    bench.set_up_dma(0x44, 1024);
    assert_eq!(bench.run(&[0x4C, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF]), [0, 0, 0x40, 0, 0, 1, 2]);
    assert_eq!(bench.sectors(1), [0]);
    bench.set_up_dma(0x44, 1024);
    assert_eq!(bench.run(&[0x6C, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF])[..3], [0x40, 0x80, 0]);
}

#[test]
fn the_host_moves_data_itself_without_dma() {
    let bench = Bench::new();
    bench.send(&[3, 0xAF, 0x03]);
    bench.send(&[0x46, 0, 0, 0, 17, 2, 18, 0x1B, 0xFF]);
    let mut data = Vec::new();
    for _ in 0..2 {
        bench.wait();
        while bench.input(0x3F4) == 0xF0 {
            data.push(bench.input(0x3F5));
        }
    }
    bench.wait();
    assert_eq!(bench.result(), [0x40, 0x80, 0, 1, 0, 1, 2]);
    assert_eq!(data, [&bench.on_disk(16)[..], &bench.on_disk(17)].concat());
    bench.send(&[0x45, 0, 0, 0, 18, 2, 18, 0x1B, 0xFF]);
    bench.until("the request for data", |bench| bench.input(0x3F4) == 0xB0);
    // In the middle of it, the state moves to another controller.
    (0..100).for_each(|_| bench.out(0x3F5, 0x11));
    let saved = bench.device().save();
    let other = Bench::new();
    other.device().load(&saved).unwrap();
    for bench in [&bench, &other] {
        (100..512).for_each(|_| bench.out(0x3F5, 0x11));
        bench.wait();
        assert_eq!(bench.result()[..3], [0x40, 0x80, 0]);
        assert_eq!(bench.on_disk(17), [0x11; 512]);
    }
}

#[test]
fn a_channel_that_is_set_up_late_is_waited_for_and_one_that_never_is_overruns() {
    let bench = Bench::new();
    bench.send(&[0x46, 0, 0, 0, 5, 2, 18, 0x1B, 0xFF]);
    bench.until("the request", |bench| bench.input(0x08) & 0x40 != 0);
    assert_eq!(bench.input(0x3F4), 0x10);
    bench.set_up_dma(0x44, 512);
    bench.wait();
    assert_eq!((bench.result()[..3].to_vec(), bench.sectors(1)), (vec![0, 0, 0], vec![4]));
    bench.set_up_dma(0x48, 512);
    assert_eq!(bench.run(&[0x46, 0, 0, 0, 5, 2, 18, 0x1B, 0xFF])[..3], [0x40, 0x10, 0]);
    assert_eq!(bench.input(0x08) & 0x40, 0);
}

#[test]
fn a_reset_in_the_middle_ends_the_command() {
    let bench = Bench::new();
    bench.send(&[0x46, 0, 0, 0, 5, 2, 18, 0x1B, 0xFF]);
    bench.out(0x3F2, 0x18);
    bench.out(0x3F2, DOR_DRIVE_0);
    bench.wait();
    assert_eq!(bench.ask(&[8]), [0xC0, 0]);
    bench.set_up_dma(0x44, 512);
    assert_eq!(bench.ask(&[0x10]), [0x90]);
    assert_eq!(bench.sectors(1), [0], "nothing of the old command comes");
    bench.send(&[0x46, 0, 0]);
    bench.device().reset();
    assert_eq!(bench.ask(&[0x10]), [0x90]);
}

#[test]
fn modes_are_told_and_survive_a_reset_when_they_are_locked() {
    let bench = Bench::new();
    let reset = || {
        bench.out(0x3F4, 0x80);
        bench.wait();
        (0..4).for_each(|_| _ = bench.ask(&[8]));
    };
    assert_eq!(bench.ask(&[0x18]), [0x41]);
    bench.send(&[3, 0xDF, 0x02]);
    bench.send(&[0x13, 0, 0x57, 9]);
    bench.send(&[0x12, 0x93]);
    bench.send(&[0x12, 0x02]);
    assert_eq!(bench.ask(&[0x0E]), [0, 0, 0, 0, 0xDF, 2, 0, 0x12, 0x57, 9]);
    assert_eq!(bench.ask(&[0x94]), [0x10]);
    reset();
    assert_eq!(bench.ask(&[0x0E]), [0, 0, 0, 0, 0xDF, 2, 0, 0x90, 0x07, 9]);
    assert_eq!(bench.ask(&[0x14]), [0]);
    reset();
    assert_eq!(bench.ask(&[0x0E])[8..], [0x20, 0]);
    // Implied seeks.
    bench.send(&[0x13, 0, 0x40, 0]);
    bench.set_up_dma(0x44, 512);
    assert_eq!(bench.run(&[0x46, 0, 7, 0, 1, 2, 18, 0x1B, 0xFF]), [0x20, 0, 0, 7, 0, 2, 2]);
    assert_eq!((bench.sectors(1), bench.ask(&[0x0E])[0]), (vec![252], 7));
}

#[test]
fn status_registers_a_and_b_show_what_the_drive_does() {
    let bench = Bench::with(1440, true);
    assert_eq!((bench.input(0x3F0), bench.input(0x3F1)), (0x44, 0xC1));
    bench.send(&[0x0F, 0, 1]);
    bench.wait();
    assert_eq!(bench.input(0x3F0), 0xD4);
    bench.out(0x3F2, 0x3D);
    assert_eq!((bench.input(0x3F0), bench.input(0x3F1)), (0xD6, 0xE3));
    bench.out(0x3F3, 0xFF);
    assert_eq!((bench.input(0x3F3), bench.input(0x3F6)), (3, 0xFF), "one port is the IDE channel's");
}

#[test]
fn a_disk_of_360_kib_has_every_second_cylinder_of_a_1200_drive() {
    let bench = Bench::with(1200, false);
    bench.medium.exchange(Some(image(360, false).0));
    bench.out(0x3F7, 1);
    bench.seek(6);
    bench.set_up_dma(0x44, 512);
    assert_eq!(bench.run(&[0x46, 0, 3, 0, 1, 2, 9, 0x1B, 0xFF])[..3], [0, 0, 0]);
    assert_eq!(bench.sectors(1), [54]);
    bench.seek(7);
    assert_eq!(bench.run(&[0x4A, 0])[..3], [0x40, 1, 0]);
}

#[test]
fn an_image_that_ends_early_reads_as_zeros_and_a_disk_of_ours_is_nothing_else() {
    let bench = Bench::new();
    bench.medium.exchange(Some(image(2, false).0));
    bench.memory.write(BUFFER.into(), &[9; 1024]).unwrap();
    bench.set_up_dma(0x44, 1024);
    assert_eq!(bench.run(&[0x46, 0, 0, 0, 4, 2, 18, 0x1B, 0xFF])[..3], [0, 0, 0]);
    assert_eq!(bench.sectors(2), [3, 0]);
    bench.set_up_dma(0x48, 512);
    assert_eq!(bench.run(&[0x45, 0, 0, 0, 5, 2, 18, 0x1B, 0xFF])[..3], [0x40, 0x20, 0x20]);
    bench.medium.exchange(Some(image(4000, false).0));
    assert_eq!(bench.run(&[0x4A, 0])[..3], [0x40, 1, 0]);
}

#[test]
fn no_command_overruns_the_fifo() {
    // CVE-2015-3456: commands whose end never came, so that bytes went on behind the buffer.
    let bench = Bench::new();
    for first in 0..=255 {
        bench.out(0x3F2, 0x18);
        bench.out(0x3F2, DOR_DRIVE_0);
        bench.out(0x3F5, first);
        for byte in 0..2000u16 {
            bench.out(0x3F5, byte as u8 | 1);
        }
        for _ in 0..20 {
            bench.input(0x3F5);
        }
    }
    bench.out(0x3F2, 0x18);
    bench.out(0x3F2, DOR_DRIVE_0);
    assert_eq!(bench.ask(&[0x10]), [0x90]);
}

#[test]
fn a_pause_holds_the_thread_and_a_dropped_machine_ends_it() {
    let bench = Bench::new();
    bench.floppy.pause();
    bench.set_up_dma(0x44, 512);
    bench.send(&[0x46, 0, 0, 0, 5, 2, 18, 0x1B, 0xFF]);
    let saved = bench.device().save();
    assert!(!bench.interrupt());
    let other = Bench::new();
    other.set_up_dma(0x44, 512);
    other.device().load(&saved).unwrap();
    other.wait();
    assert_eq!((other.result()[..3].to_vec(), other.sectors(1)), (vec![0, 0, 0], vec![4]));
    bench.floppy.resume();
    bench.wait();
    for length in 0..saved.len() {
        assert!(other.device().load(&saved[..length]).is_err());
    }
    assert_eq!(other.ask(&[0x10]), [0x90]);
}

proptest! {
    #[test]
    fn no_access_panics_and_it_always_recovers(
        steps in prop::collection::vec((0u16..9, any::<u8>(), any::<bool>()), 0..400),
        state in prop::collection::vec(0u8..12, 0..700),
    ) {
        let bench = Bench::new();
        let _ = bench.device().load(&[&1u32.to_le_bytes(), &state[..]].concat());
        for &(offset, value, read) in &steps {
            let port = [0x3F0 + offset, 0x3F5][usize::from(offset > 7)];
            if read {
                bench.input(port);
            } else {
                bench.out(port, value);
            }
        }
        prop_assert!(bench.device().load(&bench.device().save()).is_ok());
        bench.out(0x3F2, 0x18);
        bench.out(0x3F2, DOR_DRIVE_0);
        bench.wait();
        prop_assert_eq!(bench.ask(&[8]).len(), 2);
    }
}
