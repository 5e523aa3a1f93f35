use super::*;
use crate::state::flag;
use proptest::prelude::*;

const IN_AL_DX: [u8; 1] = [0xEC];
const IN_EAX_DX: [u8; 1] = [0xED];

/// A user program whose TSS permits the ports whose bits are clear in `map`.
fn with_map(bits: Bits, map: &[u8]) -> Box<Core> {
    let mut core = machine(bits, 3);
    put(&core, TSS + 0x66, 0x80u16.to_le_bytes());
    core.memory.write(TSS + 0x80, map).expect("RAM");
    core.tr.limit = 0x80 + map.len() as u32 - 1;
    core
}

#[test]
fn the_permission_map_decides_port_by_port() {
    for bits in [Bits::B32, Bits::B64] {
        let mut core = with_map(bits, &[0b1111_0000, 0xFF, 0xFF]);
        core.gpr[0] = 0;
        core.gpr[2] = 3;
        assert_eq!(run(&mut core, &IN_AL_DX), Ok(()));
        assert_eq!(core.gpr[0], 0xFF);
        core.gpr[2] = 4;
        assert_eq!(run(&mut core, &IN_AL_DX), Err(Fault::GP0));
        core.gpr[2] = 0;
        assert_eq!(run(&mut core, &IN_EAX_DX), Ok(()));
        core.gpr[2] = 1;
        assert_eq!(run(&mut core, &IN_EAX_DX), Err(Fault::GP0), "ports 1 to 4");
    }
}

#[test]
fn the_last_byte_of_the_map_needs_one_behind_it() {
    let mut core = with_map(Bits::B32, &[0, 0]);
    core.gpr[2] = 7;
    assert_eq!(run(&mut core, &IN_AL_DX), Ok(()));
    core.gpr[2] = 8;
    assert_eq!(run(&mut core, &IN_AL_DX), Err(Fault::GP0));
}

#[test]
fn iopl_permits_all_ports_but_not_to_virtual_8086_programs() {
    let mut core = machine(Bits::B64, 3);
    assert_eq!(run(&mut core, &IN_AL_DX), Err(Fault::GP0));
    core.rflags |= flag::IOPL;
    assert_eq!(run(&mut core, &IN_AL_DX), Ok(()));
    let mut core = vm86_machine();
    core.rflags |= flag::IOPL;
    assert_eq!(run(&mut core, &IN_AL_DX), Err(Fault::GP0));
}

#[test]
fn a_narrow_input_keeps_the_rest_of_rax() {
    let mut core = machine(Bits::B64, 0);
    for (bytes, expected) in [(&[0xE4, 0x60][..], 0x1122_3344_5566_77FF), (&[0x66, 0xE5, 0x60], 0x1122_3344_5566_FFFF)]
    {
        core.gpr[0] = 0x1122_3344_5566_7788;
        assert_eq!(run(&mut core, bytes), Ok(()));
        assert_eq!(core.gpr[0], expected);
    }
    assert_eq!(run(&mut core, &[0xE5, 0x60]), Ok(()));
    assert_eq!(core.gpr[0], 0xFFFF_FFFF);
}

#[test]
fn repeated_input_fills_memory_in_chunks_and_stops_at_a_fault() {
    let mut core = machine(Bits::B64, 0);
    let target = testing::DATA + 0x1_0000;
    core.gpr[7] = target;
    core.gpr[1] = 2000;
    testing::execute_all(&mut core, &[0xF3, 0x66, 0x6D]).expect("no fault");
    assert_eq!((core.gpr[1], core.gpr[7]), (0, target + 4000));
    assert_eq!((get64(&core, target + 3992), get64(&core, target + 4000)), (u64::MAX, 0));

    core.gpr[7] = testing::RAM - 4;
    core.gpr[1] = 3;
    let rip = core.rip;
    let fault = run(&mut core, &[0xF3, 0x6D]).expect_err("unmapped");
    assert_eq!((fault.vector, fault.address), (14, testing::RAM));
    assert_eq!((core.gpr[1], core.gpr[7], core.rip), (2, testing::RAM, rip));
}

#[test]
fn string_output_walks_down_with_the_direction_flag() {
    let mut core = machine(Bits::B32, 0);
    core.rflags |= flag::DF;
    core.gpr[6] = testing::DATA + 0x8000;
    core.gpr[1] = 5;
    testing::execute_all(&mut core, &[0xF3, 0x6F]).expect("no fault");
    assert_eq!((core.gpr[6], core.gpr[1]), (testing::DATA + 0x8000 - 20, 0));
}

proptest! {
    /// The map against a plain reading of it.
    #[test]
    fn any_port_is_judged_by_its_bits(map in proptest::collection::vec(any::<u8>(), 1..40), port in 0u16..400, wide in any::<bool>()) {
        let mut core = with_map(Bits::B32, &map);
        core.gpr[2] = u64::from(port);
        let size = if wide { 4 } else { 1 };
        let within = usize::from(port / 8) + 1 < map.len();
        let clear = (port..port + size).all(|port| map.get(usize::from(port / 8)).is_some_and(|byte| byte >> (port % 8) & 1 == 0));
        let expected = if within && clear { Ok(()) } else { Err(Fault::GP0) };
        prop_assert_eq!(run(&mut core, if wide { &IN_EAX_DX } else { &IN_AL_DX }), expected);
    }
}
