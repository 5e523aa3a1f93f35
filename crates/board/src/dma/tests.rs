use super::*;
use hv::Bus;
use proptest::prelude::*;

const RAM: u64 = 1 << 20;

struct Bench {
    memory: Arc<GuestMemory>,
    buses: Buses,
    dma: Arc<Dma>,
}

impl Bench {
    /// 1 MiB of RAM with a hole where a PC has its screen.
    fn new() -> Self {
        let region = |address, size, offset| hv::Region { address, size, offset, readonly: false };
        let memory =
            Arc::new(GuestMemory::new(&[region(0, 0xA_0000, 0), region(0xC_0000, RAM - 0xC_0000, 0xA_0000)]).unwrap());
        let (dma, buses) = (Dma::new(memory.clone()), Buses::new());
        dma.insert(&buses).unwrap();
        Bench { memory, buses, dma }
    }

    fn out(&self, port: u16, value: u8) {
        self.buses.pio_write(port, 1, value.into());
    }

    fn input(&self, port: u16) -> u8 {
        self.buses.pio_read(port, 1) as u8
    }

    fn word(&self, port: u16) -> u16 {
        u16::from_le_bytes([self.input(port), self.input(port)])
    }

    /// As a floppy driver does.
    fn set_up_channel_2(&self, mode: u8, address: u32, count: u16) {
        self.out(0x0A, 6);
        self.out(0x0C, 0);
        self.out(0x0B, mode | 2);
        for byte in [address as u8, (address >> 8) as u8] {
            self.out(0x04, byte);
        }
        self.out(0x81, (address >> 16) as u8);
        count.to_le_bytes().into_iter().for_each(|byte| self.out(0x05, byte));
        self.out(0x0A, 2);
    }

    fn read(&self, address: u64, size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        self.memory.read(address, &mut data).unwrap();
        data
    }
}

#[test]
fn a_channel_moves_what_was_programmed_and_then_masks_itself() {
    let bench = Bench::new();
    let channel = bench.dma.channel(2).unwrap();
    assert_eq!(channel.to_memory(&[1; 4]), Moved::default(), "all channels begin masked");
    bench.set_up_channel_2(0x44, 0x1_2345, 599);
    channel.request(true);
    assert_eq!(channel.to_memory(&[7; 512]), Moved { bytes: 512, terminal_count: false });
    assert_eq!((bench.input(0x08), bench.word(0x04), bench.word(0x05)), (0x40, 0x2545, 87));
    assert_eq!(channel.from_memory(&mut [0; 8]), Moved::default(), "it is set up for the other direction");
    assert_eq!(channel.to_memory(&[8; 512]), Moved { bytes: 88, terminal_count: true });
    assert_eq!(bench.read(0x1_2344, 602), [vec![0], vec![7; 512], vec![8; 88], vec![0]].concat());
    assert_eq!((bench.input(0x08), bench.input(0x08), bench.input(0x0F)), (0x44, 0x40, 0xF));
    assert_eq!((bench.word(0x04), bench.word(0x05)), (0x259D, 0xFFFF));
    assert_eq!(channel.to_memory(&[9; 8]), Moved::default());
    channel.request(false);
    bench.set_up_channel_2(0x48, 0x1_2545, 1);
    let mut data = [0; 4];
    assert_eq!(channel.from_memory(&mut data), Moved { bytes: 2, terminal_count: true });
    assert_eq!((data, bench.input(0x08)), ([8, 8, 0, 0], 0x04));
}

#[test]
fn autoinit_begins_again_verify_leaves_memory_alone_and_decrement_goes_down() {
    let bench = Bench::new();
    let channel = bench.dma.channel(2).unwrap();
    bench.set_up_channel_2(0x54, 0x4000, 3);
    for round in 1..=3 {
        assert_eq!(channel.to_memory(&[round, 2, 3, 4, 5]), Moved { bytes: 4, terminal_count: true });
    }
    assert_eq!((bench.read(0x4000, 5), bench.word(0x04)), (vec![3, 2, 3, 4, 0], 0x4000));
    bench.set_up_channel_2(0x40, 0x4000, 3);
    assert_eq!(channel.to_memory(&[9; 3]), Moved { bytes: 3, terminal_count: false });
    assert_eq!((bench.read(0x4000, 4), bench.word(0x05)), (vec![3, 2, 3, 4], 0));
    bench.set_up_channel_2(0x64, 0x5001, 0xFF);
    channel.to_memory(&[1, 2, 3]);
    assert_eq!((bench.read(0x4FFF, 3), bench.word(0x04)), (vec![3, 2, 1], 0x4FFE));
}

#[test]
fn addresses_wrap_within_a_page_register_and_never_leave_ram() {
    let bench = Bench::new();
    let channel = bench.dma.channel(2).unwrap();
    bench.set_up_channel_2(0x44, 0x1_FFFE, 0xFFFF);
    channel.to_memory(&[1, 2, 3, 4]);
    assert_eq!((bench.read(0x1_FFFE, 2), bench.read(0x1_0000, 2)), (vec![1, 2], vec![3, 4]));
    assert_eq!(bench.read(0x2_0000, 2), [0, 0]);
    // The screen's memory, and far above RAM: as if nobody were there.
    for address in [0xB_8000, 0xFF_FFF0] {
        bench.set_up_channel_2(0x44, address, 0xFFFF);
        assert_eq!(channel.to_memory(&[5; 512]).bytes, 512);
        bench.set_up_channel_2(0x48, address, 0xFFFF);
        let mut data = [0; 512];
        assert_eq!(channel.from_memory(&mut data).bytes, 512);
        assert_eq!(data, [0xFF; 512]);
    }
}

#[test]
fn words_count_from_even_pages() {
    let bench = Bench::new();
    let channel = bench.dma.channel(5).unwrap();
    bench.out(0xD8, 0);
    bench.out(0xD6, 0x45);
    [0u8, 0x80].into_iter().for_each(|byte| bench.out(0xC4, byte));
    [1u8, 0].into_iter().for_each(|byte| bench.out(0xC6, byte));
    bench.out(0x8B, 0x03);
    bench.out(0xD4, 1);
    assert_eq!(channel.to_memory(&[1, 2, 3, 4, 5]), Moved { bytes: 4, terminal_count: true });
    assert_eq!(bench.read(0x3_0000, 5), [1, 2, 3, 4, 0]);
    assert!(bench.dma.channel(4).is_none() && bench.dma.channel(8).is_none());
}

#[test]
fn the_first_controller_works_through_channel_4() {
    let bench = Bench::new();
    let channel = bench.dma.channel(2).unwrap();
    bench.set_up_channel_2(0x44, 0x4000, 99);
    bench.out(0xD4, 4);
    assert_eq!(channel.to_memory(&[1]).bytes, 0);
    bench.out(0xD4, 0);
    assert_eq!(channel.to_memory(&[1]).bytes, 1);
    // Disabled.
    bench.out(0x08, 4);
    assert_eq!(channel.to_memory(&[1]).bytes, 0);
    bench.out(0x0D, 0);
    assert_eq!((bench.input(0x0F), bench.input(0x08)), (0xF, 0));
    bench.out(0x0E, 0);
    assert_eq!(channel.to_memory(&[1]).bytes, 1);
}

#[test]
fn a_software_request_counts_to_its_end_in_block_mode() {
    let bench = Bench::new();
    bench.set_up_channel_2(0x44, 0x4000, 99);
    bench.out(0x09, 6);
    assert_eq!(bench.input(0x08), 0x40, "single mode: it waits");
    bench.out(0x0B, 0x86);
    assert_eq!((bench.input(0x08), bench.word(0x05)), (0x04, 0xFFFF));
}

#[test]
fn page_registers_and_the_flip_flop_hold_what_is_written() {
    let bench = Bench::new();
    for port in 0x80..0x90 {
        bench.out(port, port as u8 ^ 0x5A);
    }
    assert!((0x80..0x90).all(|port| bench.input(port) == port as u8 ^ 0x5A));
    bench.out(0x00, 0x11);
    bench.out(0x0C, 0);
    bench.out(0x00, 0x22);
    bench.out(0x00, 0x33);
    assert_eq!(bench.word(0x00), 0x3322);
    assert_eq!(bench.buses.pio_read(0x80, 4), 0xD9D8_DBDA, "wider accesses are cut");
}

#[test]
fn a_state_continues_and_a_damaged_one_is_refused() {
    let bench = Bench::new();
    bench.set_up_channel_2(0x44, 0x4000, 99);
    bench.dma.channel(2).unwrap().to_memory(&[1; 10]);
    let first = bench.buses.devices().into_iter().find(|device| device.name() == "dma").unwrap();
    let saved = first.save();
    let other = Bench::new();
    let into = other.buses.devices().into_iter().find(|device| device.name() == "dma").unwrap();
    into.load(&saved).unwrap();
    assert_eq!(other.dma.channel(2).unwrap().to_memory(&[2; 500]), Moved { bytes: 90, terminal_count: true });
    assert_eq!(other.read(0x400A, 1), [2]);
    for length in 0..saved.len() {
        assert!(into.load(&saved[..length]).is_err());
    }
    into.reset();
    assert_eq!(other.input(0x0F), 0xF);
}

proptest! {
    #[test]
    fn no_access_panics_or_moves_more_than_was_offered(
        steps in prop::collection::vec((0u8..4, any::<u16>(), any::<u8>()), 0..300),
        state in prop::collection::vec(any::<u8>(), 124),
    ) {
        let bench = Bench::new();
        let first = bench.buses.devices().into_iter().find(|device| device.name() == "dma").unwrap();
        let _ = first.load(&[&1u32.to_le_bytes(), &state[..]].concat());
        for &(what, port, value) in &steps {
            let port = [port % 0x10, 0x80 + port % 0x10, 0xC0 + port % 0x20][usize::from(port) % 3];
            let channel = bench.dma.channel([0, 1, 2, 3, 5, 6, 7][usize::from(value) % 7]).unwrap();
            match what {
                0 => bench.out(port, value),
                1 => { bench.input(port); }
                2 => prop_assert!(channel.to_memory(&[value; 512]).bytes <= 512),
                _ => prop_assert!(channel.from_memory(&mut [0; 512]).bytes <= 512),
            }
        }
        prop_assert!(first.load(&first.save()).is_ok());
    }
}
