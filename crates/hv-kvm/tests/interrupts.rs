//! Interrupts reach a halted guest by every way there is, and register writes signal eventfds.

mod machine;

use hv::{IoAddress, Msi, Segment, SegmentRegister, Vcpu, Vm};
use machine::{Access, DEVICE, EXIT_PORT, Machine, Mode, machine, run_to_end};
use std::os::fd::AsRawFd;
use vmm_sys_util::eventfd::EventFd;

const APIC: u64 = 0xFEE0_0000;
const IOAPIC: u64 = 0xFEC0_0000;
const READY: Access = Access::PioWrite(0x80, 1, 0);
/// Where the handler of [`guest`] lies.
const HANDLER: u16 = 0x1800;

/// A real-mode guest: DS is the local APIC's page, ES the IOAPIC's. It masks the
/// PICs, enables its local APIC, runs `setup`, writes
/// [`READY`] and sleeps. The handlers of vectors 0x20..0x60 run `end`, write their vector to [`EXIT_PORT`] and return.
fn guest(machine: &Machine, setup: &[u8], end: &[u8]) -> Box<dyn Vcpu> {
    for vector in 0x20..0x60u16 {
        let handler = HANDLER + 0x20 * (vector - 0x20);
        machine.memory.write(4 * u64::from(vector), &handler.to_le_bytes()).unwrap();
        let mut code = end.to_vec();
        code.extend([0xB0, vector as u8, 0xE6, EXIT_PORT as u8, 0xCF]); // mov al, vector; out 0xf4, al; iret
        machine.memory.write(handler.into(), &code).unwrap();
    }
    // The PICs begin unmasked; the registers of a disabled APIC do not take what is written to them.
    let mut program = vec![
        0xB0, 0xFF, 0xE6, 0x21, 0xE6, 0xA1, //                   mov al, 0xff; out 0x21, al; out 0xa1, al
        0x66, 0xC7, 0x06, 0xF0, 0x00, 0xFF, 0x01, 0x00, 0x00, // mov dword [0xf0], 0x1ff: spurious vector, enable
    ];
    program.extend(setup);
    program.extend([
        0xB0, 0x00, 0xE6, 0x80, //                               mov al, 0; out 0x80, al
        0xFB, 0xF4, 0xEB, 0xFD, //                               sti; hlt; jmp -3
    ]);
    let mut vcpu = machine.boot(Mode::Real, &program);
    let mut state = vcpu.state().unwrap();
    let page = |base| Segment { base, limit: 0xFFFF, selector: 0, access: 0x93 };
    state.segments[SegmentRegister::Ds as usize] = page(APIC);
    state.segments[SegmentRegister::Es as usize] = page(IOAPIC);
    vcpu.set_state(&state).unwrap();
    vcpu
}

/// `mov dword [0xb0], 0`: end of interrupt at the local APIC.
const APIC_EOI: [u8; 9] = [0x66, 0xC7, 0x06, 0xB0, 0x00, 0x00, 0x00, 0x00, 0x00];

/// Raises an interrupt once the guest sleeps and checks that the guest handles `vector`; then once more.
fn assert_delivered(machine: &Machine, vcpu: &mut dyn Vcpu, vector: u8, raise: impl Fn() + Sync) {
    let handled = Access::PioWrite(EXIT_PORT, 1, vector.into());
    for times in 1..=2 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                machine.bus.wait_for(&READY);
                std::thread::sleep(std::time::Duration::from_millis(5));
                raise();
            });
            run_to_end(vcpu);
        });
        let accesses = machine.bus.accesses();
        let count = accesses.iter().filter(|access| **access == handled).count();
        assert_eq!(count, times, "{accesses:x?}");
    }
}

#[test]
fn a_line_of_the_pic_wakes_the_guest() {
    let Some(machine) = machine(1) else { return };
    let setup = [
        0xB0, 0x11, 0xE6, 0x20, // mov al, 0x11; out 0x20, al: ICW1
        0xB0, 0x20, 0xE6, 0x21, // ICW2: vectors from 0x20
        0xB0, 0x04, 0xE6, 0x21, // ICW3
        0xB0, 0x01, 0xE6, 0x21, // ICW4
        0xB0, 0xEF, 0xE6, 0x21, // all masked but 4
    ];
    let mut vcpu = guest(&machine, &setup, &[0xB0, 0x20, 0xE6, 0x20]); // mov al, 0x20; out 0x20, al: EOI
    let interrupts = machine.vm.interrupts().unwrap();
    assert_delivered(&machine, &mut *vcpu, 0x24, || {
        interrupts.set_line(4, true);
        interrupts.set_line(4, false);
    });
}

#[test]
fn a_line_of_the_ioapic_wakes_the_guest_and_line_0_is_pin_2() {
    for (gsi, pin) in [(10, 10), (0, 2)] {
        let Some(machine) = machine(1) else { return };
        let low = 0x10 + 2 * pin;
        let setup = [
            0x26, 0x66, 0xC7, 0x06, 0x00, 0x00, low, 0x00, 0x00, 0x00, //  mov dword es:[0], low: select
            0x26, 0x66, 0xC7, 0x06, 0x10, 0x00, 0x43, 0x00, 0x00, 0x00, // mov dword es:[0x10], 0x43: edge, vector
        ];
        let mut vcpu = guest(&machine, &setup, &APIC_EOI);
        let interrupts = machine.vm.interrupts().unwrap();
        assert_delivered(&machine, &mut *vcpu, 0x43, || {
            interrupts.set_line(gsi, true);
            interrupts.set_line(gsi, false);
        });
    }
}

#[test]
fn the_timer_of_the_local_apic_wakes_the_guest() {
    let Some(machine) = machine(1) else { return };
    let setup = [
        0x66, 0xC7, 0x06, 0xE0, 0x03, 0x0B, 0x00, 0x00, 0x00, // mov dword [0x3e0], 0xb: divide by 1
        0x66, 0xC7, 0x06, 0x20, 0x03, 0x44, 0x00, 0x02, 0x00, // mov dword [0x320], 0x20044: periodic, vector 0x44
        0x66, 0xC7, 0x06, 0x80, 0x03, 0x00, 0x2D, 0x31, 0x01, // mov dword [0x380], 20_000_000: every 20 ms
    ];
    let mut vcpu = guest(&machine, &setup, &APIC_EOI);
    assert_delivered(&machine, &mut *vcpu, 0x44, || {});
}

#[test]
fn a_message_wakes_the_guest() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = guest(&machine, &[], &APIC_EOI);
    let interrupts = machine.vm.interrupts().unwrap();
    assert_delivered(&machine, &mut *vcpu, 0x41, || interrupts.signal_msi(Msi { address: APIC, data: 0x41 }));
}

#[test]
fn an_irqfd_delivers_its_message_and_can_change_it_and_end() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = guest(&machine, &[], &APIC_EOI);
    let eventfd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    for vector in [0x41, 0x42] {
        let msi = Msi { address: APIC, data: vector };
        assert!(machine.vm.register_irqfd(eventfd.as_raw_fd(), msi).unwrap());
        assert_delivered(&machine, &mut *vcpu, vector as u8, || eventfd.write(1).unwrap());
    }
    machine.vm.unregister_irqfd(eventfd.as_raw_fd()).unwrap();
    machine.vm.unregister_irqfd(eventfd.as_raw_fd()).unwrap();
    let before = machine.bus.accesses();
    eventfd.write(1).unwrap();
    let (_, _) = machine::kick_after(&mut *vcpu, std::time::Duration::from_millis(20));
    assert_eq!(machine.bus.accesses(), before);
    assert_eq!(eventfd.read().unwrap(), 1, "nobody took the signal");
}

#[test]
fn an_irqfd_whose_number_belongs_to_a_new_eventfd_works() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = guest(&machine, &[], &APIC_EOI);
    let msi = Msi { address: APIC, data: 0x45 };
    let number = {
        let closed = EventFd::new(0).unwrap();
        assert!(machine.vm.register_irqfd(closed.as_raw_fd(), msi).unwrap());
        closed.as_raw_fd()
    };
    let made: Vec<_> = (0..64).map(|_| EventFd::new(0).unwrap()).collect();
    let Some(eventfd) = made.iter().find(|eventfd| eventfd.as_raw_fd() == number) else {
        eprintln!("skipped: another thread took descriptor {number}");
        return;
    };
    assert!(machine.vm.register_irqfd(number, msi).unwrap());
    assert_delivered(&machine, &mut *vcpu, 0x45, || eventfd.write(1).unwrap());
}

#[test]
fn an_ioeventfd_takes_writes_of_its_size_only_until_it_ends() {
    let Some(machine) = machine(1) else { return };
    let program = [
        0xBA, 0x00, 0x50, //                               mov dx, 0x5000
        0xEF, 0xEE, //                                     out dx, ax; out dx, al
        0x66, 0xC7, 0x06, 0x10, 0x00, 1, 0, 0, 0, //       mov dword [0x10], 1
        0xC6, 0x06, 0x10, 0x00, 2, //                      mov byte [0x10], 2
        0xE6, 0xF4, //                                     out 0xf4, al
        0xEB, 0xEC, //                                     jmp -20: to the first OUT
    ];
    let mut vcpu = machine.boot(Mode::Real, &program);
    let mut state = vcpu.state().unwrap();
    state.segments[SegmentRegister::Ds as usize].base = DEVICE;
    vcpu.set_state(&state).unwrap();
    let word = (IoAddress::Port(0x5000), 2);
    let any = (IoAddress::Mmio(DEVICE + 0x10), 0);
    let events = [EventFd::new(libc::EFD_NONBLOCK).unwrap(), EventFd::new(libc::EFD_NONBLOCK).unwrap()];
    for (event, (address, size)) in events.iter().zip([word, any]) {
        assert!(machine.vm.register_ioeventfd(address, size, event.as_raw_fd()).unwrap());
    }
    run_to_end(&mut *vcpu);
    let byte = Access::PioWrite(0x5000, 1, 0);
    let exit = Access::PioWrite(EXIT_PORT, 1, 0);
    assert_eq!(machine.bus.accesses(), [byte.clone(), exit.clone()]);
    assert_eq!(events.each_ref().map(|event| event.read().unwrap()), [1, 2]);

    for (event, (address, size)) in events.iter().zip([word, any]) {
        machine.vm.unregister_ioeventfd(address, size, event.as_raw_fd()).unwrap();
    }
    run_to_end(&mut *vcpu);
    let expected = [
        Access::PioWrite(0x5000, 2, 0),
        byte,
        Access::MmioWrite(DEVICE + 0x10, vec![1, 0, 0, 0]),
        Access::MmioWrite(DEVICE + 0x10, vec![2]),
        exit,
    ];
    assert_eq!(machine.bus.accesses()[2..], expected);
}

#[test]
fn the_timer_chip_and_port_0x61_are_the_kernels() {
    let Some(machine) = machine(1) else { return };
    // in al, 0x61; in al, 0x40; out 0xf4, al
    let mut vcpu = machine.boot(Mode::Real, &[0xE4, 0x61, 0xE4, 0x40, 0xE6, 0xF4]);
    run_to_end(&mut *vcpu);
    assert_eq!(machine.bus.accesses().len(), 1, "only the exit reached the bus");
}

#[test]
fn a_disconnected_timer_chip_is_silent() {
    let Some(machine) = machine(1) else { return };
    let setup = [
        0xB0, 0x11, 0xE6, 0x20, // mov al, 0x11; out 0x20, al: ICW1
        0xB0, 0x20, 0xE6, 0x21, // ICW2: vectors from 0x20
        0xB0, 0x04, 0xE6, 0x21, // ICW3
        0xB0, 0x01, 0xE6, 0x21, // ICW4
        0xB0, 0xFE, 0xE6, 0x21, // all masked but 0
        0xB0, 0x34, 0xE6, 0x43, // counter 0, mode 2
        0xB0, 0xA9, 0xE6, 0x40, // 1193 ticks: 1 ms
        0xB0, 0x04, 0xE6, 0x40,
    ];
    let mut vcpu = guest(&machine, &setup, &[0xB0, 0x20, 0xE6, 0x20]); // mov al, 0x20; out 0x20, al: EOI
    let interrupts = machine.vm.interrupts().unwrap();
    interrupts.connect_pit(false);
    let mut before = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            machine.bus.wait_for(&READY);
            std::thread::sleep(std::time::Duration::from_millis(20));
            before = machine.bus.accesses();
            interrupts.connect_pit(true);
        });
        run_to_end(&mut *vcpu);
    });
    let handled = Access::PioWrite(EXIT_PORT, 1, 0x20);
    assert!(!before.contains(&handled));
    assert!(machine.bus.accesses().contains(&handled));
}

#[test]
fn a_start_up_ipi_starts_the_second_processor() {
    let Some(machine) = machine(2) else { return };
    let program = [
        0x66, 0xC7, 0x06, 0x10, 0x03, 0, 0, 0, 1, //       mov dword [0x310], 1 << 24: to APIC ID 1
        0x66, 0xC7, 0x06, 0x00, 0x03, 0x00, 0x45, 0, 0, // mov dword [0x300], 0x4500: INIT
        0x66, 0xC7, 0x06, 0x00, 0x03, 0x07, 0x46, 0, 0, // mov dword [0x300], 0x4607: start at 0x7000
    ];
    machine.memory.write(0x7000, &[0xB0, 0x99, 0xE6, 0xF4, 0xF4]).unwrap(); // mov al, 0x99; out 0xf4, al; hlt
    let mut second = machine.vcpu(1);
    let mut first = guest(&machine, &program, &[]);
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(move || {
            run_to_end(&mut *second);
            second.state().unwrap()
        });
        run_to_end(&mut *first);
        second.join().unwrap()
    });
    assert!(machine.bus.accesses().contains(&Access::PioWrite(EXIT_PORT, 1, 0x99)));
    let cs = second.segments[SegmentRegister::Cs as usize];
    assert_eq!((cs.selector, cs.base, second.rip), (0x700, 0x7000, 4));
}

#[test]
fn a_reset_puts_the_controllers_back_to_power_on() {
    let Some(machine) = machine(1) else { return };
    // mov al, 0x5a; out 0x21, al; out 0xf4, al; in al, 0x21; out 0xf4, al: the PIC's mask
    let program = [0xB0, 0x5A, 0xE6, 0x21, 0xE6, 0xF4, 0xE4, 0x21, 0xE6, 0xF4];
    let mut vcpu = machine.boot(Mode::Real, &program);
    run_to_end(&mut *vcpu);
    machine.vm.reset_interrupts().unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(machine.bus.accesses().last(), Some(&Access::PioWrite(EXIT_PORT, 1, 0)));
}
