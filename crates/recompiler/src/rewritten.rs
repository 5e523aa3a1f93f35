//! Code that is rewritten again and again: a guest's own just-in-time compiler at work, a patched constant.
//!
//! Dropping and protecting such code at each store costs more than it saves. Once single stores have dropped blocks of
//! the same 64-byte granule often enough, blocks there are *checked*: stores are not watched, and the bytes are compared
//! each time the block is entered. A checked block is interpreted, and ends behind an instruction that may store, as it
//! could store into what follows. When it was entered often without a change, it becomes an ordinary block again.

use iced_x86::{Instruction, OpKind};
use rustc_hash::FxHashMap;

/// Stores into a granule with code that make its blocks checked ones.
const OFTEN: u8 = 8;

/// Entries without a change that make a checked block an ordinary one.
pub const PATIENCE: u32 = 64;

/// Bytes of the largest store that counts: pages that are filled with new code are not rewritten code.
const SINGLE_STORE: u64 = 16;

/// Granules that are remembered.
const MOST: usize = 4096;

/// How often code was rewritten, by granule of the RAM file.
#[derive(Default)]
pub struct Rewritten {
    stores: FxHashMap<u64, u8>,
}

impl Rewritten {
    /// A store of `size` bytes dropped blocks.
    pub fn dropped_by(&mut self, offset: u64, size: u64) {
        if size > SINGLE_STORE {
            return self.forget(offset, size);
        }
        if self.stores.len() >= MOST {
            self.stores.clear();
        }
        for granule in granules(offset, size) {
            let stores = self.stores.entry(granule).or_default();
            *stores = stores.saturating_add(1);
        }
    }

    /// Whether code in these bytes is to be checked rather than watched.
    pub fn often(&self, offset: u64, size: u64) -> bool {
        !self.stores.is_empty()
            && granules(offset, size).any(|granule| self.stores.get(&granule).is_some_and(|&stores| stores >= OFTEN))
    }

    /// The code in these bytes is left alone now: one more store, and it is checked again.
    pub fn settled(&mut self, offset: u64, size: u64) {
        for granule in granules(offset, size) {
            if let Some(stores) = self.stores.get_mut(&granule) {
                *stores = OFTEN - 1;
            }
        }
    }

    fn forget(&mut self, offset: u64, size: u64) {
        if !self.stores.is_empty() {
            granules(offset, size).for_each(|granule| {
                self.stores.remove(&granule);
            });
        }
    }
}

fn granules(offset: u64, size: u64) -> std::ops::RangeInclusive<u64> {
    offset >> 6..=(offset + size.max(1) - 1) >> 6
}

/// Whether an instruction may store to memory. Loads are taken for stores.
pub fn may_store(instruction: &Instruction) -> bool {
    let memory = |operand| {
        let register = matches!(
            instruction.op_kind(operand),
            OpKind::Register
                | OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        );
        !register
    };
    instruction.is_stack_instruction() || (0..instruction.op_count()).any(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Bits;
    use crate::testing::{self, CODE, DATA};
    use crate::vcpu::RecompilerVcpu;
    use hv::{Exit, Vcpu};
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn only_single_stores_make_code_checked() {
        let mut rewritten = Rewritten::default();
        (0..OFTEN).for_each(|_| rewritten.dropped_by(0x1000, 4096));
        assert!(!rewritten.often(0x1000, 1));
        (0..OFTEN).for_each(|_| rewritten.dropped_by(0x103C, 8));
        assert!(rewritten.often(0x1000, 1) && rewritten.often(0x1070, 1) && !rewritten.often(0x1080, 64));
        rewritten.settled(0x1000, 64);
        assert!(!rewritten.often(0x1000, 1) && rewritten.often(0x1040, 1));
        rewritten.dropped_by(0x1000, 1);
        assert!(rewritten.often(0x1000, 1));
        rewritten.dropped_by(0x1000, 4096);
        assert!(!rewritten.often(0x1000, 4096));
    }

    #[test]
    fn what_touches_memory_may_store() {
        let cases: [(&[u8], bool); 7] = [
            (&[0xB8, 1, 2, 3, 4], false),
            (&[0x01, 0xC8], false),
            (&[0x01, 0x08], true),
            (&[0x50], true),
            (&[0xAA], true),
            (&[0xC3], true),
            (&[0x0F, 0xC8], false),
        ];
        for (bytes, expected) in cases {
            let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
            assert_eq!(may_store(&instruction), expected, "{instruction}");
        }
    }
    #[test]
    fn a_function_that_is_rewritten_before_each_call_always_does_what_it_says() {
        let mut core = testing::core(Bits::B64, 0);
        let program: &[&[u8]] = &[
            &[0xB9, 0xE8, 0x03, 0x00, 0x00], // mov ecx, 1000
            &[0x89, 0x4B, 0x01],             // rewrite: mov [rbx + 1], ecx
            &[0xFF, 0xD3],                   // call rbx
            &[0x48, 0x01, 0xC2],             // add rdx, rax
            &[0xFF, 0xC9],                   // dec ecx
            &[0x75, 0xF4],                   // jnz rewrite
            &[0xB9, 0xC8, 0x00, 0x00, 0x00], // mov ecx, 200
            &[0xFF, 0xD3],                   // again: call rbx
            &[0x48, 0x01, 0xC2],             // add rdx, rax
            &[0xFF, 0xC9],                   // dec ecx
            &[0x75, 0xF7],                   // jnz again
            &[0xF4],                         // hlt
        ];
        core.memory.write(CODE, &program.concat()).expect("RAM");
        // mov eax, 0; ret
        core.memory.write(DATA, &[0xB8, 0, 0, 0, 0, 0xC3]).expect("RAM");
        (core.gpr[2], core.gpr[3]) = (0, DATA);
        let kick = crate::vm::kicker(&core.shared, core.id);
        let mut vcpu = RecompilerVcpu::new(core, kick).expect("a translator");
        assert!(matches!(vcpu.run(), Ok(Exit::Halted)));
        assert_eq!(vcpu.core.gpr[2], (1..=1000).sum::<u64>() + 200);
        assert!(vcpu.blocks.invalidations < 20, "{} blocks were dropped", vcpu.blocks.invalidations);
        assert!(vcpu.blocks.rechecked > 900);
        let settled = vcpu.blocks.list.iter().any(|block| block.key.rip == DATA && block.translated.is_some());
        assert!(settled, "code that is left alone is translated");
    }
}
