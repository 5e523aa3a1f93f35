use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

const ADDRESS: u64 = 0xFFC0_0000;
const SIZE: u64 = 0x8000;
/// In the backing memory, behind a page of RAM.
const OFFSET: u64 = 0x1000;

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A file without a name.
fn file(contents: &[u8]) -> File {
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("wirt-pflash-{}-{number}", std::process::id()));
    std::fs::write(&path, contents).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// Counts changes of the layout.
struct Changes(Arc<AtomicU32>);

impl hv::MemoryWatcher for Changes {
    fn layout_changed(&self, _: &Arc<hv::Layout>) -> Result<(), hv::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Bench {
    flash: Arc<Pflash>,
    memory: Arc<GuestMemory>,
    file: File,
    changes: Arc<AtomicU32>,
}

/// Longer than a test.
const NEVER: Duration = Duration::from_secs(3600);

impl Bench {
    fn new(readonly: bool) -> Self {
        Self::showing_after(readonly, NEVER)
    }

    fn showing_after(readonly: bool, delay: Duration) -> Self {
        let mut contents = vec![0xFF; SIZE as usize];
        contents[..4].copy_from_slice(b"OVMF");
        let ram = Region { address: 0, size: OFFSET, offset: 0, readonly: false };
        let memory = Arc::new(GuestMemory::with_size(&[ram], OFFSET + SIZE).unwrap());
        let region = Region { address: ADDRESS, size: SIZE, offset: OFFSET, readonly: true };
        let file = file(&contents);
        let for_flash = file.try_clone().unwrap();
        let flash = Pflash::with_delay("flash", memory.clone(), region, for_flash, readonly, delay).unwrap();
        let changes = Arc::new(AtomicU32::new(0));
        assert!(memory.set_watcher(Box::new(Changes(changes.clone()))));
        Bench { flash, memory, file, changes }
    }

    /// As a guest's processor does: memory where there is some, else the device.
    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        if self.memory.read(ADDRESS + offset, &mut data).is_err() {
            self.flash.read(offset, &mut data);
        }
        data[0]
    }

    fn write(&self, writes: &[(u64, u8)]) {
        for &(offset, value) in writes {
            assert_eq!(self.flash.write(offset, &[value]), Action::None);
        }
    }

    fn is_memory(&self) -> bool {
        self.memory.region(ADDRESS).is_some_and(|region| region.readonly)
    }

    fn in_file(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.file.read_exact_at(&mut data, offset).unwrap();
        data
    }
}

#[test]
fn ovmf_finds_flash_and_stores_a_variable_with_one_change_of_the_layout() {
    let bench = Bench::new(false);
    assert!(bench.is_memory());
    // QemuFlashDetected, at a byte that is none of the commands.
    assert_eq!(bench.read(0), b'O');
    bench.write(&[(0, 0x50)]);
    assert_eq!(bench.read(0), b'O', "not RAM");
    bench.write(&[(0, 0x70)]);
    assert_eq!(bench.read(0), 0x00, "neither ROM nor RAM");
    bench.write(&[(0, 0xFF)]);
    assert_eq!(bench.read(0), b'O');
    // QemuFlashEraseBlock, then QemuFlashWrite, three times.
    bench.write(&[(0x1000, 0x20), (0x1000, 0xD0)]);
    for round in 0..3 {
        for (offset, byte) in (0x1000 + 8 * round..).zip(*b"variable") {
            bench.write(&[(offset, 0x10), (offset, byte)]);
        }
        bench.write(&[(0x1007 + 8 * round, 0xFF)]);
        assert_eq!(bench.read(0x1007 + 8 * round), b'e');
    }
    assert_eq!(bench.in_file(0x1000, 25), b"variablevariablevariable\xFF");
    assert_eq!(bench.changes.load(Ordering::SeqCst), 1);
}

#[test]
fn programming_clears_bits_and_erasing_sets_them() {
    let bench = Bench::new(false);
    bench.write(&[(0x2005, 0x40), (0x2005, 0x3C), (0x2005, 0x40), (0x2005, 0xF0), (0x2005, 0xFF)]);
    assert_eq!((bench.read(0x2005), bench.in_file(0x2005, 1)[0]), (0x30, 0x30));
    // A buffer whose bytes come in any order, one of them twice.
    bench.write(&[
        (0x2000, 0xE8),
        (0x2000, 2),
        (0x2009, 0x11),
        (0x2007, 0x22),
        (0x2009, 0x10),
        (0x2000, 0xD0),
        (0, 0xFF),
    ]);
    assert_eq!(bench.in_file(0x2006, 5), [0xFF, 0x22, 0xFF, 0x10, 0xFF]);
    bench.write(&[(0x2FFF, 0x20), (0x2FFF, 0xD0)]);
    assert_eq!(bench.read(0x2FFF), 0x80, "ready");
    bench.write(&[(0, 0xFF)]);
    assert_eq!((bench.read(0x2005), bench.in_file(0x2000, 4096)), (0xFF, vec![0xFF; 4096]));
    assert_eq!(bench.in_file(0, 4), b"OVMF");
}

#[test]
fn readonly_flash_refuses_and_is_memory_again_at_once() {
    let bench = Bench::new(true);
    bench.write(&[(0, 0x10), (0, 0x00)]);
    assert_eq!((bench.read(0), bench.is_memory()), (0x90, false));
    bench.write(&[(0, 0x20), (0, 0xD0)]);
    assert_eq!(bench.read(0), 0xB0);
    bench.write(&[(0, 0xFF)]);
    assert_eq!((bench.read(0), bench.is_memory()), (b'O', true));
    assert_eq!(bench.in_file(0, 4), b"OVMF");
}

#[test]
fn quiet_flash_becomes_memory_again_and_is_synced() {
    let bench = Bench::showing_after(false, Duration::from_millis(100));
    bench.write(&[(0x3000, 0x10), (0x3000, 0x55)]);
    let start = Instant::now();
    let wait_for = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(&|| bench.flash.shared.state.lock().unsynced.is_none());
    assert_eq!(
        (bench.read(0x3000), bench.is_memory(), bench.flash.failure()),
        (0x80, false, None),
        "not in array mode"
    );
    bench.write(&[(0x3000, 0xFF)]);
    wait_for(&|| bench.is_memory());
    assert_eq!(bench.read(0x3000), 0x55);
}

#[test]
fn what_was_put_in_the_place_of_hidden_flash_stays() {
    let bench = Bench::new(false);
    bench.write(&[(0, 0x70)]);
    let other = Region { address: ADDRESS + 0x1000, size: 0x1000, offset: 0, readonly: false };
    bench.memory.remap(&[], &[other]).unwrap();
    bench.flash.reset();
    assert_eq!(bench.memory.region(ADDRESS + 0x1000), Some(other));
    assert_eq!(bench.read(0), b'O');
}

#[test]
fn reset_in_the_middle_shows_the_array() {
    let bench = Bench::new(false);
    for writes in [[0x10, 0], [0x20, 0], [0xE8, 200], [0x98, 0x98]] {
        bench.write(&[(0, writes[0])]);
        bench.write(if writes[0] == 0xE8 { &[(0, 200), (0, 7)] } else { &[] });
        bench.flash.reset();
        assert!(bench.is_memory());
        assert_eq!(bench.read(1), b'V');
        // The next write is a command.
        bench.write(&[(0, 0x70)]);
        assert_eq!(bench.read(1), 0x80);
        bench.flash.reset();
    }
}

#[test]
fn a_wide_access_is_a_sequence_of_bytes() {
    let bench = Bench::new(false);
    assert_eq!(bench.flash.write(0x100, &[0x10, 0xA5, 0x10, 0x5A]), Action::None);
    let mut data = [0; 8];
    bench.flash.read(0x100, &mut data);
    assert_eq!(data, [0x80; 8]);
    assert_eq!(bench.in_file(0x100, 4), [0xFF, 0xA5, 0xFF, 0x5A]);
    bench.write(&[(0, 0x98)]);
    bench.flash.read(0x10, &mut data);
    assert_eq!(&data[..4], b"QRY\x01");
}

#[test]
fn a_saved_state_goes_on_and_a_damaged_one_is_refused() {
    let bench = Bench::new(false);
    bench.write(&[(0x1000, 0xE8), (0x1000, 1), (0x1000, 0x12)]);
    let saved = bench.flash.save();
    let other = Bench::new(false);
    other.flash.load(&saved).unwrap();
    assert!(!other.is_memory());
    other.write(&[(0x1001, 0x34), (0x1000, 0xD0), (0, 0xFF)]);
    assert_eq!(other.in_file(0x1000, 2), [0x12, 0x34]);
    assert!(other.flash.load(&saved[..saved.len() - 1]).is_err());
    // Step, mode, count, and the offset of what is in the buffer.
    for (at, value) in [(4, 9), (5, 9), (8, 9), (10, 3), (14, 0xFF), (16, 0xFF)] {
        let mut damaged = saved.clone();
        damaged[at] = value;
        assert!(other.flash.load(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_file_of_another_size_and_a_region_out_of_memory_are_refused() {
    let memory =
        Arc::new(GuestMemory::new(&[Region { address: 0, size: 0x2000, offset: 0, readonly: false }]).unwrap());
    let region = Region { address: ADDRESS, size: 0x1000, offset: 0x1000, readonly: true };
    let refused = |region, size| Pflash::new("flash", memory.clone(), region, file(&vec![0; size]), false).err();
    assert!(refused(region, 0xFFF).unwrap().contains("4095 bytes"));
    assert!(refused(Region { offset: 0x2000, ..region }, 0x1000).is_some());
    assert!(refused(Region { address: 0x1800, ..region }, 0x1000).is_some());
    assert!(refused(region, 0x1000).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_access_panics_and_file_and_memory_agree(
        steps in prop::collection::vec((0u8..16, 0..SIZE, any::<u8>(), 1usize..9), 0..200),
        state in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        const COMMANDS: [u8; 10] = [0x10, 0x20, 0x40, 0x50, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF];
        let bench = Bench::new(false);
        for (kind, offset, value, size) in steps {
            let value = COMMANDS.get(usize::from(kind)).copied().unwrap_or(value);
            match kind {
                14 => bench.flash.reset(),
                15 => bench.flash.read(offset.min(SIZE - 8), &mut vec![0; size]),
                13 => _ = bench.flash.write(offset, &vec![value; size]),
                _ => bench.write(&[(offset, value)]),
            }
        }
        let _ = bench.flash.load(&[&1u32.to_le_bytes(), &state[..]].concat());
        let saved = bench.flash.save();
        prop_assert!(bench.flash.load(&saved).is_ok());
        let mut array = vec![0; SIZE as usize];
        bench.memory.read_backing(OFFSET, &mut array).unwrap();
        prop_assert!(array == bench.in_file(0, SIZE as usize));
    }
}
