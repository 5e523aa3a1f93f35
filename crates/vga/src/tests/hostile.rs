use super::*;
use crate::crtc::Crtc;
use crate::state::State;
use board::Device;
use proptest::prelude::*;

/// Registers of the card through memory.
const REGISTERS: u64 = 0xE100_0000;
const FRAME_BUFFER: u64 = 0xE000_0000;

/// What a guest does to the card.
#[derive(Clone, Debug)]
enum Access {
    Port(u16, u8, u32),
    Indexed(u16, u8, u8),
    Dispi(u16, u16),
    Memory(u64, u8, u64),
    Config(u8, u32),
    Reset,
    Look(u32),
}

fn accesses() -> impl Strategy<Value = Access> {
    let size = prop_oneof![Just(1u8), Just(2), Just(4)];
    let address = prop_oneof![
        0xA_0000u64..0xC_0000,
        (0u64..0x1000).prop_map(|offset| REGISTERS + offset),
        (0u64..0x100_0000).prop_map(|offset| FRAME_BUFFER + offset),
        (0u64..0x1_0000).prop_map(|offset| 0xE200_0000 + offset),
    ];
    let place = prop_oneof![Just(0u32), Just(0xE000_0000), Just(0xE100_0000), Just(0xE200_0001), any::<u32>()];
    prop_oneof![
        4 => (prop_oneof![0x3B0u16..0x3E0, 0x1CEu16..0x1D2], size, any::<u32>())
            .prop_map(|(port, size, value)| Access::Port(port, size, value)),
        8 => (prop_oneof![Just(0x3C4u16), Just(0x3CE), Just(0x3D4)], 0u8..0x20, any::<u8>())
            .prop_map(|(port, index, value)| Access::Indexed(port, index, value)),
        2 => (0u8..0x15, any::<u8>()).prop_map(|(index, value)| Access::Indexed(0x3C0, index, value)),
        4 => (0u16..12, prop_oneof![any::<u16>(), 0u16..40, Just(0xFFFFu16)])
            .prop_map(|(index, value)| Access::Dispi(index, value)),
        6 => (address, 1u8..9, any::<u64>()).prop_map(|(address, size, value)| Access::Memory(address, size, value)),
        1 => (prop_oneof![Just(0x04u8), Just(0x10), Just(0x18), Just(0x30)], place)
            .prop_map(|(register, value)| Access::Config(register, value)),
        1 => Just(Access::Reset),
        2 => (0u32..2000).prop_map(Access::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest does, nothing panics, pictures are of a size that was promised, and a picture that was brought up
    /// to date is the same as a new one.
    #[test]
    fn random_accesses_break_nothing(sequence in prop::collection::vec(accesses(), 1..250)) {
        let rig = Rig::with_rom(vec![0x55; 0x9000]);
        rig.set(&MODE_3);
        for (register, value) in [(0x10, FRAME_BUFFER as u32), (0x18, REGISTERS as u32), (0x30, 0xE200_0001), (0x04, 3)] {
            rig.config(register, Some(value));
        }
        let mut frame = Frame::new();
        for access in sequence {
            match access {
                Access::Port(port, size, value) => {
                    rig.buses.pio_write(port, size, value);
                    rig.buses.pio_read(port, size);
                }
                Access::Indexed(0x3C0, index, value) => rig.attribute(index, value),
                Access::Indexed(port, index, value) => rig.indexed(port, index, value),
                Access::Dispi(index, value) => rig.dispi(index, value),
                Access::Memory(address, size, value) => {
                    let mut data = value.to_le_bytes();
                    let data = &mut data[..usize::from(size)];
                    rig.buses.mmio_write(address, data);
                    rig.buses.mmio_read(address, data);
                }
                Access::Config(register, value) => _ = rig.config(register, Some(value)),
                Access::Reset => rig.pci.reset(),
                Access::Look(milliseconds) => {
                    let time = Duration::from_millis(milliseconds.into());
                    let changes = rig.card.update_at(&mut frame, time);
                    prop_assert!((1..=2560).contains(&frame.width) && (1..=2048).contains(&frame.height));
                    let inside = |rect: &Rect| {
                        rect.width > 0 && rect.height > 0
                            && rect.x + rect.width <= frame.width && rect.y + rect.height <= frame.height
                    };
                    prop_assert!(changes.iter().all(inside));
                    let mut new = Frame::new();
                    rig.card.update_at(&mut new, time);
                    prop_assert!(new.pixels == frame.pixels);
                    rig.card.text();
                }
            }
        }
        let saved = rig.pci.save();
        prop_assert_eq!(rig.pci.load(&saved), Ok(()));
        prop_assert!(rig.pci.save() == saved);
    }

    /// Every change of a picture lies in a rectangle that was told.
    #[test]
    fn what_is_told_is_all_that_changed(
        writes in prop::collection::vec((0u64..0x4_0000, any::<u64>()), 1..20),
        mode in 0usize..4,
        milliseconds in 0u64..1000,
    ) {
        let rig = Rig::new();
        rig.set([&MODE_3, &MODE_12, &MODE_13, &MODE_4][mode]);
        let mut frame = rig.frame();
        let before = frame.pixels.clone();
        for (at, value) in writes {
            rig.memory.write_backing(RAM + at, &value.to_le_bytes()).unwrap();
        }
        let changes = rig.card.update_at(&mut frame, Duration::from_millis(milliseconds));
        for (y, x) in (0..frame.height).flat_map(|y| (0..frame.width).map(move |x| (y, x))) {
            if before[(y * frame.width + x) as usize] != frame.at(x, y) {
                let told = |rect: &Rect| {
                    (rect.x..rect.x + rect.width).contains(&x) && (rect.y..rect.y + rect.height).contains(&y)
                };
                prop_assert!(changes.iter().any(told), "{x} {y}");
            }
        }
    }

    /// Guests wait for the beam to be in the picture, outside of it and on its way back: it must come everywhere, whatever
    /// is in the registers, and within what a screen needs.
    #[test]
    fn the_beam_goes_everywhere(registers in prop::array::uniform25(any::<u8>()), wide: bool) {
        let mut crtc = Crtc::new();
        for (index, value) in registers.into_iter().enumerate() {
            crtc.set(index as u8, value);
        }
        let character = if wide { 18 } else { 8 };
        // 2049 lines of 260 characters at 25 MHz take 0.4 s; the shortest line takes 6 us.
        let mut seen = [false; 2];
        let mut time = Duration::ZERO;
        while seen != [true; 2] {
            let beam = crtc.beam(time, 25_175_000, character);
            prop_assert!(!beam.retrace || beam.blank);
            seen[usize::from(beam.retrace)] = true;
            time += Duration::from_micros(5);
            prop_assert!(time < Duration::from_millis(500));
        }
    }

    /// A state that was tampered with is refused or loads into a card that works.
    #[test]
    fn hostile_states_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let rig = Rig::new();
        rig.set(&MODE_13);
        rig.set_vbe(800, 600, 16);
        let state = board::pci::PciFunction::save(&*rig.card);
        let mut state = state;
        for (index, value) in changes {
            let at = index.index(state.len());
            state[at] = value;
        }
        if board::pci::PciFunction::load(&*rig.card, &state).is_ok() {
            rig.frame();
            rig.card.text();
            rig.poke(0xA_0000, &[1; 64]);
            rig.input(0x3C9);
        }
    }
}

#[test]
fn short_and_long_states_are_refused() {
    let state = State::new(VRAM_SIZE as u32).save();
    assert!(State::load(&state, VRAM_SIZE as u32).is_ok());
    for length in 0..state.len() {
        assert!(State::load(&state[..length], VRAM_SIZE as u32).is_err());
    }
    assert!(State::load(&[&state[..], &[0]].concat(), VRAM_SIZE as u32).is_err());
}

#[test]
fn standard_timings_have_their_frequencies() {
    for (mode, hertz) in [(&MODE_3, 70.09), (&MODE_12, 59.94), (&MODE_13, 70.09)] {
        let mut crtc = Crtc::new();
        for (index, value) in mode.crtc.iter().enumerate() {
            crtc.set(index as u8, *value);
        }
        let (clock, character) = if mode.misc & 0x0C != 0 { (28_322_000, 9) } else { (25_175_000, 8) };
        let retraces = (0..1_000_000)
            .map(|microsecond| crtc.beam(Duration::from_micros(microsecond), clock, character).retrace)
            .fold((0, true), |(count, before), now| (count + u32::from(now && !before), now))
            .0;
        assert!((f64::from(retraces) - hertz).abs() <= 1.0, "{retraces} {hertz}");
    }
}
