use super::*;
use crate::fault::vector;
use crate::state::{cr0, cr4, efer, flag};

/// MOV CRn, RAX.
fn to_cr(number: u8) -> [u8; 3] {
    [0x0F, 0x22, 0xC0 | number << 3]
}

fn set_cr(core: &mut Core, number: u8, value: u64) -> Result<(), Fault> {
    core.gpr[0] = value;
    run(core, &to_cr(number))
}

#[test]
fn cr0_refuses_impossible_combinations() {
    let gp = Err(Fault::GP0);
    let mut core = machine(Bits::B64, 0);
    let now = core.cr0;
    assert_eq!(set_cr(&mut core, 0, now | 1 << 32), gp);
    assert_eq!(set_cr(&mut core, 0, now & !cr0::PE), gp, "paging without protection");
    assert_eq!(set_cr(&mut core, 0, (now | cr0::NW) & !cr0::CD), gp);
    assert_eq!(set_cr(&mut core, 0, now & !cr0::PG), gp, "not from 64-bit code");
    assert_eq!(core.cr0, now);
    assert_eq!(set_cr(&mut core, 0, now & !cr0::ET | cr0::WP), Ok(()));
    assert_eq!(core.cr0, now | cr0::ET | cr0::WP);
    assert_eq!(run(&mut machine(Bits::B64, 3), &to_cr(0)), gp);
}

#[test]
fn long_mode_begins_with_paging_and_ends_with_it() {
    let mut core = machine(Bits::B32, 0);
    core.efer = efer::LME;
    let now = core.cr0;
    assert_eq!(set_cr(&mut core, 0, now | cr0::PG), Err(Fault::GP0), "without PAE");
    core.cr4 |= cr4::PAE;
    assert_eq!(set_cr(&mut core, 0, now | cr0::PG), Ok(()));
    assert!(core.long_mode());
    assert_eq!(core.bits(), Bits::B32, "compatibility mode");
    assert!(!core.write_efer(0), "LME cannot change under paging");
    assert_eq!(core.write_cr0(now), Ok(()));
    assert!(!core.long_mode());
}

#[test]
fn cr4_knows_its_bits_and_their_conditions() {
    let mut core = machine(Bits::B64, 0);
    let now = core.cr4;
    for bad in [now | 1 << 12, now | 1 << 22, now | 1 << 40, now & !cr4::PAE] {
        assert_eq!(set_cr(&mut core, 4, bad), Err(Fault::GP0), "{bad:#x}");
    }
    core.cr3 |= 1;
    assert_eq!(set_cr(&mut core, 4, now | cr4::PCIDE), Err(Fault::GP0), "a PCID is in the way");
    core.cr3 &= !1;
    assert_eq!(set_cr(&mut core, 4, now | cr4::PCIDE | cr4::SMEP | cr4::SMAP), Ok(()));
}

#[test]
fn cr3_bit_63_is_for_pcids() {
    let mut core = machine(Bits::B64, 0);
    let root = core.cr3;
    assert_eq!(set_cr(&mut core, 3, root | 1 << 63), Err(Fault::GP0));
    assert_eq!(set_cr(&mut core, 3, root | 1 << 50), Err(Fault::GP0));
    core.cr4 |= cr4::PCIDE;
    assert_eq!(set_cr(&mut core, 3, root | 1 << 63 | 5), Ok(()));
    assert_eq!(core.cr3, root | 5);
}

#[test]
fn pae_paging_loads_and_checks_the_pointers() {
    let mut core = machine(Bits::B32, 0);
    core.cr4 |= cr4::PAE;
    core.cr3 = 0x5_0000;
    put64(&core, 0x5_0000, 0x6_0001);
    put64(&core, 0x5_0018, 0x7_0001);
    let now = core.cr0;
    assert_eq!(set_cr(&mut core, 0, now | cr0::PG), Ok(()));
    assert_eq!(core.pdpte, [0x6_0001, 0, 0, 0x7_0001]);
    put64(&core, 0x5_1000, 0x6_0003);
    assert_eq!(core.write_cr3(0x5_1000), Err(Fault::GP0), "a reserved bit");
    assert_eq!(core.cr3, 0x5_0000);
}

#[test]
fn lmsw_sets_pe_but_never_clears_it() {
    let mut core = testing::real_mode();
    core.gpr[0] = 1;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0xF0]), Ok(()));
    assert!(core.protected());
    core.gpr[0] = 0xE;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0xF0]), Ok(()));
    assert_eq!(core.cr0 & 0xF, 0xF);
}

#[test]
fn interrupt_flag_instructions_follow_iopl() {
    let (cli, sti) = ([0xFA], [0xFB]);
    let mut core = machine(Bits::B64, 0);
    assert_eq!(run(&mut core, &cli), Ok(()));
    assert_eq!(core.rflags & flag::IF, 0);
    assert_eq!(run(&mut core, &sti), Ok(()));
    assert!(core.interrupt_shadow && core.rflags & flag::IF != 0);
    core.interrupt_shadow = false;
    assert_eq!(run(&mut core, &sti), Ok(()));
    assert!(!core.interrupt_shadow, "IF was on already");

    let mut core = machine(Bits::B32, 3);
    assert_eq!(run(&mut core, &cli), Err(Fault::GP0));
    core.cr4 |= cr4::PVI;
    core.rflags |= flag::VIF;
    assert_eq!(run(&mut core, &cli), Ok(()));
    assert_eq!(core.rflags & (flag::VIF | flag::IF), flag::IF);
    core.rflags |= flag::VIP;
    assert_eq!(run(&mut core, &sti), Err(Fault::GP0));
}

#[test]
fn user_mode_instruction_prevention_hides_the_tables() {
    let reads: [&[u8]; 5] =
        [&[0x0F, 0x01, 0x00], &[0x0F, 0x01, 0x08], &[0x0F, 0x01, 0xE0], &[0x0F, 0x00, 0xC0], &[0x0F, 0x00, 0xC8]];
    for read in reads {
        let mut core = machine(Bits::B64, 3);
        core.gpr[0] = testing::DATA + 0x8000;
        assert_eq!(run(&mut core, read), Ok(()), "{read:x?}");
        core.gpr[0] = testing::DATA + 0x8000;
        core.cr4 |= cr4::UMIP;
        assert_eq!(run(&mut core, read), Err(Fault::GP0), "{read:x?}");
    }
}

#[test]
fn descriptor_tables_are_stored_as_they_were_loaded() {
    let mut core = machine(Bits::B64, 0);
    let at = testing::DATA + 0x8000;
    core.gpr[3] = at;
    put(&core, at, [0x34, 0x12, 0x00, 0x10, 0, 0, 0, 0x80, 0xFF, 0xFF]);
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0x13]), Ok(()));
    assert_eq!(core.gdtr, DescriptorTable { base: 0xFFFF_8000_0000_1000, limit: 0x1234 });
    core.gpr[3] = at + 16;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0x03]), Ok(()));
    assert_eq!(get::<10>(&core, at + 16), get::<10>(&core, at));
    put(&core, at, [0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0]);
    core.gpr[3] = at;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0x13]), Err(Fault::GP0), "not canonical");

    let mut core = machine(Bits::B32, 0);
    core.gpr[3] = at;
    put(&core, at, [0xFF, 0x0F, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(run(&mut core, &[0x66, 0x0F, 0x01, 0x1B]), Ok(()));
    assert_eq!(core.idtr, DescriptorTable { base: 0x22_3344, limit: 0xFFF }, "a 16-bit operand has a 24-bit base");
}

#[test]
fn invpcid_checks_its_descriptor() {
    let mut core = machine(Bits::B64, 0);
    let at = testing::DATA + 0x8000;
    core.gpr[3] = at;
    let mut invpcid = |kind: u64, low: u64, linear: u64| {
        put64(&core, at, low);
        put64(&core, at + 8, linear);
        core.gpr[0] = kind;
        run(&mut core, &[0x66, 0x0F, 0x38, 0x82, 0x03])
    };
    assert_eq!(invpcid(0, 0, 0x1000), Ok(()));
    assert_eq!(invpcid(2, 0, 0), Ok(()));
    assert_eq!(invpcid(4, 0, 0), Err(Fault::GP0));
    assert_eq!(invpcid(0, 1, 0x1000), Err(Fault::GP0), "PCIDs are off");
    assert_eq!(invpcid(3, 1 << 12, 0), Err(Fault::GP0));
    assert_eq!(invpcid(0, 0, 1 << 63), Err(Fault::GP0));
}

#[test]
fn a_changed_mapping_is_seen_after_invlpg() {
    let mut core = machine(Bits::B64, 0);
    let linear = 0x2000_0000 + testing::DATA;
    put64(&core, testing::DATA, 77);
    assert_eq!(core.read::<u64>(linear), Ok(77));
    put64(&core, 0x3000 + 8 * (0x2000_0000 >> 21), 0);
    core.gpr[0] = linear;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0x38]), Ok(()));
    assert_eq!(core.read::<u64>(linear).map_err(|fault| fault.vector), Err(vector::PF));
}

#[test]
fn system_registers_of_user_code_need_their_enable_bits() {
    let mut core = machine(Bits::B64, 3);
    let wrfsbase = [0xF3, 0x48, 0x0F, 0xAE, 0xD0];
    core.gpr[0] = 0x7000_0000_0000;
    assert_eq!(run(&mut core, &wrfsbase), Err(Fault::UD));
    core.cr4 |= cr4::FSGSBASE;
    assert_eq!(run(&mut core, &wrfsbase), Ok(()));
    assert_eq!(core.segments[4].base, 0x7000_0000_0000);
    core.gpr[0] = 1 << 50;
    assert_eq!(run(&mut core, &wrfsbase), Err(Fault::GP0));
    core.cr4 |= cr4::TSD;
    assert_eq!(run(&mut core, &[0x0F, 0x31]), Err(Fault::GP0));
    for privileged in [&[0xF4][..], &[0x0F, 0x06], &[0x0F, 0x08], &[0x0F, 0x09], &[0x0F, 0x32], &[0x0F, 0x01, 0xF8]] {
        assert_eq!(run(&mut core, privileged), Err(Fault::GP0), "{privileged:x?}");
    }
}

#[test]
fn swapgs_exchanges_and_hlt_waits() {
    let mut core = machine(Bits::B64, 0);
    core.segments[5].base = 1;
    core.msr.kernel_gs_base = 2;
    assert_eq!(run(&mut core, &[0x0F, 0x01, 0xF8]), Ok(()));
    assert_eq!((core.segments[5].base, core.msr.kernel_gs_base), (2, 1));
    let rip = core.rip;
    assert_eq!(run(&mut core, &[0xF4]), Ok(()));
    assert!(core.halted && core.rip == rip + 1);
    core.rflags &= !flag::IF;
    assert_eq!(run(&mut core, &[0xFB]), Ok(()));
    assert_eq!(run(&mut core, &[0xF4]), Ok(()));
    assert!(!core.interrupt_shadow, "an interrupt wakes STI; HLT");
}

#[test]
fn xsetbv_keeps_x87_and_wants_sse_with_avx() {
    let mut core = machine(Bits::B64, 0);
    let xsetbv = [0x0F, 0x01, 0xD1];
    core.gpr[2] = 0;
    core.gpr[1] = 0;
    for (value, expected) in
        [(1, Ok(())), (3, Ok(())), (2, Err(Fault::GP0)), (5, Err(Fault::GP0)), (0x203, Err(Fault::GP0))]
    {
        core.gpr[0] = value;
        assert_eq!(run(&mut core, &xsetbv), expected, "{value:#x}");
    }
    core.cr4 &= !cr4::OSXSAVE;
    assert_eq!(run(&mut core, &xsetbv), Err(Fault::UD));
}

#[test]
fn debug_registers_have_aliases_fixed_bits_and_a_guard() {
    let mut core = machine(Bits::B64, 0);
    core.gpr[0] = 0xFFFF_FFFF;
    assert_eq!(run(&mut core, &[0x0F, 0x23, 0xF8]), Ok(()));
    assert_eq!(core.dr7, 0xFFFF_27FF);
    assert_eq!(run(&mut core, &[0x0F, 0x21, 0xF8]), Err(Fault::plain(vector::DB)), "DR7.GD");
    assert_eq!((core.dr6 >> 13 & 1, core.dr7 >> 13 & 1), (1, 0));
    assert_eq!(run(&mut core, &[0x0F, 0x21, 0xE8]), Ok(()), "DR5 is DR7");
    assert_eq!(core.gpr[0], core.dr7);
    core.cr4 |= cr4::DE;
    assert_eq!(run(&mut core, &[0x0F, 0x21, 0xE8]), Err(Fault::UD));
    core.gpr[0] = 1 << 32;
    assert_eq!(run(&mut core, &[0x0F, 0x23, 0xF0]), Err(Fault::GP0));
}

#[test]
fn instructions_of_absent_extensions_are_undefined() {
    let mut core = machine(Bits::B64, 0);
    let absent: [&[u8]; 6] = [
        &[0x0F, 0x01, 0xC8],
        &[0x0F, 0x01, 0xC9],
        &[0x0F, 0x01, 0xC1],
        &[0x0F, 0x0B],
        &[0x0F, 0xAA],
        &[0x0F, 0x01, 0xD9],
    ];
    for bytes in absent {
        assert_eq!(run(&mut core, bytes), Err(Fault::UD), "{bytes:x?}");
    }
}
