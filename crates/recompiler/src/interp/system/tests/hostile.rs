use super::*;
use crate::state::{cr0, cr4, flag};
use proptest::prelude::*;

/// Instructions that look at descriptors, gates and tasks; `ss` stands for a selector, `vv` for a vector.
const SHAPES: [&[u8]; 20] = [
    &[0xCD, 0xAA],
    &[0xCC],
    &[0xCF],
    &[0x66, 0xCF],
    &[0xCB],
    &[0xCA, 0x10, 0x00],
    &[0x8E, 0xD8],
    &[0x8E, 0xD0],
    &[0x8E, 0xE8],
    &[0x0F, 0x00, 0xD0],
    &[0x0F, 0x00, 0xD8],
    &[0x0F, 0x02, 0xC8],
    &[0x0F, 0x03, 0xC8],
    &[0x0F, 0x00, 0xE0],
    &[0x0F, 0x00, 0xE8],
    &[0xFF, 0x2B],
    &[0xFF, 0x1B],
    &[0x0F, 0xB2, 0x0B],
    &[0xEC],
    &[0xED],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever tables a guest builds, transfers through them end in a state or a fault, and the privilege level stays
    /// the one that SS says.
    #[test]
    fn random_descriptor_tables_never_panic(
        tables in proptest::collection::vec(any::<u8>(), 0x400),
        stack in proptest::collection::vec(any::<u8>(), 64),
        registers in proptest::collection::vec(any::<u64>(), 4),
        kind in 0usize..4,
        steps in proptest::collection::vec((0..SHAPES.len(), any::<u16>(), any::<u8>()), 1..12),
    ) {
        let mut core = match kind {
            0 => machine(Bits::B64, 0),
            1 => machine(Bits::B32, 0),
            2 => machine(Bits::B32, 3),
            _ => vm86_machine(),
        };
        core.memory.write(GDT, &tables[..0x100]).expect("RAM");
        core.memory.write(IDT, &tables[0x100..0x300]).expect("RAM");
        core.memory.write(TSS, &tables[0x300..]).expect("RAM");
        core.memory.write(rsp(&core) & 0x1F_FFF0, &stack).expect("RAM");
        core.gdtr.limit = registers[0] as u16;
        core.idtr.limit = registers[1] as u16;
        core.tr.limit = registers[2] as u32 & 0x1FF;
        core.tr.access = 0x81 | registers[3] as u16 & 0xA;
        for (shape, selector, vector) in steps {
            let mut bytes = SHAPES[shape].to_vec();
            if bytes[0] == 0xCD {
                bytes[1] = vector;
            }
            core.gpr[0] = u64::from(selector);
            core.gpr[2] = u64::from(selector);
            core.gpr[3] = testing::DATA + 0x9000;
            put64(&core, testing::DATA + 0x9000, u64::from(selector) << 32 | u64::from(selector) << 16 | 0x1234);
            let bits = core.bits() as u32;
            let instruction =
                iced_x86::Decoder::with_ip(bits, &bytes, core.rip, iced_x86::DecoderOptions::NONE).decode();
            let handler = crate::interp::handler(&instruction);
            if let Err(fault) = crate::interp::step(&mut core, &instruction, handler) {
                prop_assert!(fault.vector < 32);
                let _ = core.deliver_fault(fault);
            }
            let _ = core.deliver_interrupt(vector);
            prop_assert!(!(core.vm86() && core.cpl() != 3));
            prop_assert!(core.bits() == Bits::B64 || core.rip >> 32 == 0);
        }
    }

    /// Any control register values, in any order, keep the combinations that no processor can be in out.
    #[test]
    fn control_registers_stay_consistent(values in proptest::collection::vec((0u8..5, any::<u64>()), 1..40), long in any::<bool>()) {
        let mut core = machine(if long { Bits::B64 } else { Bits::B32 }, 0);
        for (target, value) in values {
            let narrow = value & 0xFFFF_FFFF;
            let _ = match target {
                0 => core.write_cr0(narrow),
                1 => core.write_cr0(core.cr0 ^ (1 << (value & 31))),
                2 => core.write_cr4(core.cr4 ^ (1 << (value & 31))),
                3 => core.write_cr3(value >> 18),
                _ => {
                    let _ = core.write_efer(core.efer ^ (1 << (value & 15)));
                    Ok(())
                }
            };
            let paging = core.cr0 & cr0::PG != 0;
            prop_assert!(!paging || core.cr0 & cr0::PE != 0);
            prop_assert_eq!(core.long_mode(), paging && core.efer & crate::state::efer::LME != 0);
            prop_assert!(!core.long_mode() || core.cr4 & cr4::PAE != 0);
            prop_assert!(core.cr4 & cr4::PCIDE == 0 || core.long_mode());
            prop_assert_eq!(core.rflags & flag::VM, 0);
        }
    }
}
