//! Port and memory-mapped I/O of guests reach the bus and come back.

mod machine;

use hv::Gpr;
use machine::{Access, DEVICE, EXIT_PORT, LONG_DEVICE, Mode, ROM, machine, run_to_end};

fn exit_code(code: u8) -> Access {
    Access::PioWrite(EXIT_PORT, 1, code.into())
}

#[test]
fn port_accesses_of_every_size_reach_the_bus_and_the_register() {
    let Some(machine) = machine(1) else { return };
    let program = [
        0xB0, 0x12, 0xE6, 0x80, //                   mov al, 0x12; out 0x80, al
        0xBA, 0x34, 0x12, //                         mov dx, 0x1234
        0xB8, 0xCD, 0xAB, 0xEF, //                   mov ax, 0xabcd; out dx, ax
        0x66, 0xB8, 0x78, 0x56, 0x34, 0x12, //       mov eax, 0x12345678
        0x66, 0xEF, //                               out dx, eax
        0xEC, 0x88, 0xC3, //                         in al, dx; mov bl, al
        0xED, 0x89, 0xC1, //                         in ax, dx; mov cx, ax
        0x66, 0xED, //                               in eax, dx
        0xE6, 0xF4, //                               out 0xf4, al
    ];
    let mut vcpu = machine.boot(Mode::Real, &program);
    run_to_end(&mut *vcpu);
    let expected = [
        Access::PioWrite(0x80, 1, 0x12),
        Access::PioWrite(0x1234, 2, 0xABCD),
        Access::PioWrite(0x1234, 4, 0x1234_5678),
        Access::PioRead(0x1234, 1),
        Access::PioRead(0x1234, 2),
        Access::PioRead(0x1234, 4),
        exit_code(0xA5),
    ];
    assert_eq!(machine.bus.accesses(), expected);
    let state = vcpu.state().unwrap();
    assert_eq!(state.gpr[Gpr::Rbx as usize] & 0xFF, 0xA3);
    assert_eq!(state.gpr[Gpr::Rcx as usize] & 0xFFFF, 0xA4A4);
    assert_eq!(state.gpr[Gpr::Rax as usize], 0xA5A5_A5A5);
    assert_eq!(state.rip, machine::CODE + program.len() as u64, "the last instruction is complete");
}

#[test]
fn string_port_accesses_keep_their_element_size() {
    let Some(machine) = machine(1) else { return };
    machine.memory.write(0x6000, &[1, 0, 2, 0, 3, 0]).unwrap();
    let program = [
        0xFC, //                                     cld
        0xBE, 0x00, 0x60, 0xBA, 0x70, 0x01, //       mov si, 0x6000; mov dx, 0x170
        0xB9, 0x03, 0x00, 0xF3, 0x6F, //             mov cx, 3; rep outsw
        0xBF, 0x00, 0x70, 0xB9, 0x02, 0x00, //       mov di, 0x7000; mov cx, 2
        0xF3, 0x6C, //                               rep insb
        0xE6, 0xF4, //                               out 0xf4, al
    ];
    let mut vcpu = machine.boot(Mode::Real, &program);
    run_to_end(&mut *vcpu);
    let mut expected: Vec<_> = (1..=3).map(|value| Access::PioWrite(0x170, 2, value)).collect();
    expected.extend([Access::PioRead(0x170, 1), Access::PioRead(0x170, 1), exit_code(0)]);
    assert_eq!(machine.bus.accesses(), expected);
    let mut read = [0; 2];
    machine.memory.read(0x7000, &mut read).unwrap();
    assert_eq!(read, [0xA3, 0xA4]);
}

#[test]
fn mmio_reads_and_writes_reach_the_bus_in_protected_and_long_mode() {
    for (mode, address) in [(Mode::Protected, DEVICE), (Mode::Long, LONG_DEVICE)] {
        let Some(machine) = machine(1) else { return };
        let [a, b, c, d] = (address as u32).to_le_bytes();
        let program = [
            0xBE, a, b, c, d, //                         mov esi, DEVICE
            0xC7, 0x46, 0x08, 0x44, 0x33, 0x22, 0x11, // mov dword [esi+8], 0x11223344
            0xC6, 0x46, 0x0F, 0x55, //                   mov byte [esi+15], 0x55
            0x8B, 0x5E, 0x10, //                         mov ebx, [esi+16]
            0xE6, 0xF4, //                               out 0xf4, al
        ];
        let mut vcpu = machine.boot(mode, &program);
        run_to_end(&mut *vcpu);
        let expected = [
            Access::MmioWrite(DEVICE + 8, vec![0x44, 0x33, 0x22, 0x11]),
            Access::MmioWrite(DEVICE + 15, vec![0x55]),
            Access::MmioRead(DEVICE + 16, 4),
            exit_code(0),
        ];
        assert_eq!(machine.bus.accesses(), expected, "{mode:?}");
        assert_eq!(vcpu.state().unwrap().gpr[Gpr::Rbx as usize], 0x0403_0201, "{mode:?}");
    }
}

#[test]
fn a_write_to_read_only_memory_reaches_the_bus_and_changes_nothing() {
    let Some(machine) = machine(1) else { return };
    machine.memory.write_backing(ROM, &[0x5A; 16]).unwrap();
    let [a, b, c, d] = (ROM as u32).to_le_bytes();
    let program = [
        0xBE, a, b, c, d, //                         mov esi, ROM
        0xC6, 0x06, 0x77, //                         mov byte [esi], 0x77
        0x8A, 0x06, 0xE6, 0xF4, //                   mov al, [esi]; out 0xf4, al
    ];
    let mut vcpu = machine.boot(Mode::Protected, &program);
    run_to_end(&mut *vcpu);
    assert_eq!(machine.bus.accesses(), [Access::MmioWrite(ROM, vec![0x77]), exit_code(0x5A)]);
}

#[test]
fn exits_are_counted_by_kind() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(Mode::Real, &[0xE4, 0x80, 0xE4, 0x80, 0xE6, 0xF4]);
    run_to_end(&mut *vcpu);
    let statistics = vcpu.statistics();
    let count = |name| statistics.iter().find(|(known, _)| known == name).unwrap().1;
    assert_eq!((count("pio_in"), count("pio_out"), count("mmio_read")), (2, 1, 0));
    assert_eq!(count("interrupted"), 1);
}
