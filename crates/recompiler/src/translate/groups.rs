//! Which memory accesses of a block share one check: those off one value in a register, a few bytes apart.
//!
//! A compiler reaches the fields of a structure, the slots of a stack frame and the registers it saves off one base, or an
//! array's elements off the same base and index. The
//! first access of such a *group* that runs, its *leader*, checks the page for all of them; the others follow with
//! neither check nor change of flags. What the registers hold is followed symbolically: a version, and what constants
//! have added to it since.

use super::form::{Memory, Plan, general};
use crate::blocks::Decoded;
use crate::state::Roams;
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

/// Bytes from the lowest to the highest access of a group. Wide groups more often lie across the end of a page.
const SPAN: i32 = 512;

/// Accesses off one value.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Lowest byte, relative to the value.
    pub low: i32,
    /// End of the highest byte.
    pub high: i32,
    /// One of them writes.
    pub write: bool,
    /// Address bits that have to be zero at `low`, which was chosen so.
    pub mask: i32,
    /// The value is the stack pointer's at the start of the block.
    pub stack: bool,
    /// One of them is known to go from page to page: see [`Roams::Far`].
    pub roams: bool,
    /// Number of accesses.
    pub count: u32,
    first: usize,
    last: usize,
    version: u32,
}

/// One access in its group.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Index of the group.
    pub group: usize,
    /// Distance from the group's value.
    pub displacement: i32,
}

/// What a register holds: what it held at some point, plus a constant.
#[derive(Clone, Copy)]
struct Value {
    version: u32,
    offset: i32,
}

/// What is added up in an operand that is more than a register and a displacement: versions of the segment's base, the
/// base and the index, 0 for none, and the index's scale.
type Sum = ([u32; 3], u32);

/// The groups of a block.
pub struct Groups {
    /// The groups.
    pub list: Vec<Group>,
    /// Per instruction: its explicit memory operand, and its implicit one (the stack).
    accesses: Vec<[Option<Access>; 2]>,
    /// The general registers and the bases of FS and GS.
    registers: [Value; REGISTERS],
    /// The sums seen so far, and the version of each.
    sums: Vec<(Sum, u32)>,
    versions: u32,
    /// Groups of one access are of use, and so are those off sums.
    lone: bool,
}

const REGISTERS: usize = 18;

/// The version that RSP has at the start of a block: versions begin with 1.
const STACK: u32 = 1 + 4;

impl Groups {
    /// Looks for the groups of a block of 64-bit code. `roams`: what is known of the instruction at an address. `lone`:
    /// groups of one access are of use, and so are groups off sums of registers.
    pub fn find<'a>(
        code: &[Decoded],
        plan: impl Fn(usize) -> &'a Plan,
        roams: impl Fn(u64) -> Option<Roams>,
        lone: bool,
    ) -> Self {
        let mut groups = Groups {
            list: Vec::new(),
            accesses: vec![[None; 2]; code.len()],
            registers: std::array::from_fn(|number| Value { version: 1 + number as u32, offset: 0 }),
            sums: Vec::new(),
            versions: 1 + REGISTERS as u32,
            lone,
        };
        for (index, decoded) in code.iter().enumerate() {
            groups.instruction(index, &decoded.instruction, plan(index), roams(decoded.instruction.ip()));
        }
        for access in groups.accesses.iter_mut().flatten() {
            let group = access.map(|access| groups.list[access.group]);
            if group.is_some_and(|group| group.count == 1 && (group.roams || !lone && !group.stack)) {
                *access = None;
            }
        }
        groups
    }

    /// No groups at all.
    pub fn none(instructions: usize) -> Self {
        Groups {
            list: Vec::new(),
            accesses: vec![[None; 2]; instructions],
            registers: [Value { version: 0, offset: 0 }; REGISTERS],
            sums: Vec::new(),
            versions: 0,
            lone: false,
        }
    }

    /// The access of instruction `index`: the one through its memory operand, or the implicit one.
    pub fn access(&self, index: usize, implicit: bool) -> Option<Access> {
        self.accesses[index][usize::from(implicit)]
    }

    /// Where translated code may go on when the instructions from `index`, the leader of `group`, are interpreted: behind
    /// the last access that could have relied on a leader among them. `open`: a group's leader ran before.
    pub fn resume(&self, index: usize, group: usize, open: impl Fn(usize) -> bool) -> usize {
        let mut last = self.list[group].last.max(index);
        let relies = |(number, other): (usize, &Group), last: usize| {
            (!open(number) && other.first <= last && other.last > last).then_some(other.last)
        };
        while let Some(later) = self.list.iter().enumerate().find_map(|entry| relies(entry, last)) {
            last = later;
        }
        last + 1
    }

    fn instruction(&mut self, index: usize, instruction: &Instruction, plan: &Plan, roams: Option<Roams>) {
        use Mnemonic::*;
        match plan {
            Plan::Nothing => {}
            Plan::Interpret => self.forget_all(),
            Plan::Copy(copied) => {
                if let Some(memory) = copied.memory {
                    self.explicit(index, instruction, memory, roams);
                }
                if self.constant(instruction) {
                    return;
                }
                for gpr in [copied.reg, copied.rm, copied.vvvv, copied.opcode].into_iter().flatten() {
                    if gpr.written {
                        self.forget(gpr.number);
                    }
                }
            }
            Plan::Rule => match instruction.mnemonic() {
                Lea => self.lea(instruction),
                // Of other sizes than the natural one there are few.
                Push | Pop | Call | Ret | Leave | Jmp if instruction.code().op_code().operand_size() == 16 => {
                    self.forget_all();
                }
                Push | Pop if instruction.op0_register().is_segment_register() => self.forget_all(),
                Push => {
                    self.explicit(index, instruction, READ, roams);
                    self.implicit(index, 4, -8, true, roams);
                    self.registers[4].offset -= 8;
                }
                Pop => {
                    self.implicit(index, 4, 0, false, roams);
                    self.registers[4].offset += 8;
                    self.forget(instruction.op0_register().full_register().number() as u8);
                }
                Call => {
                    self.explicit(index, instruction, READ, roams);
                    self.implicit(index, 4, -8, true, roams);
                }
                Ret => self.implicit(index, 4, 0, false, roams),
                Jmp => self.explicit(index, instruction, READ, roams),
                Leave => {
                    self.implicit(index, 5, 0, false, roams);
                    let Value { version, offset } = self.registers[5];
                    self.registers[4] = Value { version, offset: offset + 8 };
                    self.forget(5);
                }
                Mul | Imul | Div | Idiv => {
                    let size = instruction.memory_size().size() as u16;
                    self.explicit(index, instruction, Memory { size, ..READ }, roams);
                    self.forget(0);
                    self.forget(2);
                }
                Cbw | Cwde | Cdqe => self.forget(0),
                Cwd | Cdq | Cqo => self.forget(2),
                Pause | Ja | Jae | Jb | Jbe | Je | Jg | Jge | Jl | Jle | Jne | Jno | Jnp | Jns | Jo | Jp | Js => {}
                _ => self.forget_all(),
            },
        }
    }

    /// A memory operand off registers.
    fn explicit(&mut self, index: usize, instruction: &Instruction, memory: Memory, roams: Option<Roams>) {
        let has = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let locked = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        if !has || roams == Some(Roams::Alone) || locked {
            return;
        }
        // MOV at a fixed address may have a displacement of 64 bits.
        let Ok(displacement) = i32::try_from(instruction.memory_displacement64() as i64) else { return };
        let Some(value) = self.value(instruction) else { return };
        let mask = if memory.aligned { i32::from(memory.size) - 1 } else { 0 };
        self.accesses[index][0] = self.add(index, value, displacement, memory, mask, roams);
    }

    /// What the registers of a memory operand add up to. `None`: no group is for it.
    fn value(&mut self, instruction: &Instruction) -> Option<Value> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let segment = match instruction.memory_segment() {
            Register::FS => Some(16),
            Register::GS => Some(17),
            _ => None,
        };
        let plain = |register: Register| register == Register::None || register.is_gpr64();
        if !plain(base) || !plain(index) || instruction.is_ip_rel_memory_operand() {
            return None;
        }
        let held = |register: Register| (register != Register::None).then(|| self.registers[register.number() & 15]);
        let parts = [segment.map(|segment| self.registers[segment]), held(base), held(index)];
        match parts {
            [None, Some(base), None] => return Some(base),
            [None, None, None] => return None,
            _ if !self.lone => return None,
            _ => {}
        }
        let scale = instruction.memory_index_scale();
        let [segment, base, index] = parts.map(|part| part.unwrap_or(Value { version: 0, offset: 0 }));
        let offset = index.offset.checked_mul(scale as i32)?.checked_add(base.offset)?.checked_add(segment.offset)?;
        let sum = ([segment.version, base.version, index.version], scale);
        let known = self.sums.iter().find(|(known, _)| *known == sum).map(|&(_, version)| version);
        let version = known.unwrap_or_else(|| {
            self.versions += 1;
            self.sums.push((sum, self.versions - 1));
            self.versions - 1
        });
        Some(Value { version, offset })
    }

    fn implicit(&mut self, index: usize, register: u8, displacement: i32, write: bool, roams: Option<Roams>) {
        if roams != Some(Roams::Alone) {
            let value = self.registers[register as usize & 15];
            self.accesses[index][1] = self.add(index, value, displacement, Memory { write, ..READ }, 0, roams);
        }
    }

    fn add(
        &mut self,
        index: usize,
        value: Value,
        displacement: i32,
        memory: Memory,
        mask: i32,
        roams: Option<Roams>,
    ) -> Option<Access> {
        let Value { version, offset } = value;
        let Memory { size, write, .. } = memory;
        let roams = roams == Some(Roams::Far);
        let displacement = offset.checked_add(displacement)?;
        let high = displacement.checked_add(i32::from(size))?;
        let present = self.list.iter().rposition(|group| group.version == version);
        if let Some(number) = present {
            let group = &mut self.list[number];
            let (from, to) = (group.low.min(displacement), group.high.max(high));
            // Aligned accesses fit together when one test of the lowest address speaks for all.
            let aligned = if group.mask == 0 {
                Some((mask, from - (from.wrapping_sub(displacement) & mask)))
            } else if mask == 0 {
                Some((group.mask, from - (from.wrapping_sub(group.low) & group.mask)))
            } else if (displacement ^ group.low) & mask & group.mask == 0 && mask == group.mask {
                Some((mask, from))
            } else {
                None
            };
            if let Some((mask, from)) = aligned {
                if to.checked_sub(from).is_some_and(|span| span <= SPAN) {
                    *group = Group {
                        low: from,
                        high: to,
                        write: group.write || write,
                        roams: group.roams || roams,
                        mask,
                        count: group.count + 1,
                        last: index,
                        ..*group
                    };
                    return Some(Access { group: number, displacement });
                }
            }
        }
        self.list.push(Group {
            low: displacement,
            high,
            write,
            mask,
            stack: version == STACK && present.is_none(),
            roams,
            count: 1,
            first: index,
            last: index,
            version,
        });
        Some(Access { group: self.list.len() - 1, displacement })
    }

    /// Whether an instruction copies a register or adds a constant to one; then that is noted.
    fn constant(&mut self, instruction: &Instruction) -> bool {
        use Mnemonic::*;
        let Some(target) = general(instruction.op0_register(), OpAccess::Write) else { return false };
        if target.size != 8 || instruction.op0_kind() != OpKind::Register {
            return false;
        }
        let number = target.number as usize & 15;
        let added = match instruction.mnemonic() {
            Inc => Some(1),
            Dec => Some(-1),
            Add | Sub if !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory) => {
                let value = instruction.immediate(1) as i64;
                i32::try_from(if instruction.mnemonic() == Add { value } else { -value }).ok()
            }
            Mov if instruction.op1_kind() == OpKind::Register && instruction.op1_register().is_gpr64() => {
                self.registers[number] = self.registers[instruction.op1_register().number() & 15];
                return true;
            }
            _ => None,
        };
        let Some(offset) = added.and_then(|added| self.registers[number].offset.checked_add(added)) else {
            return false;
        };
        self.registers[number].offset = offset;
        true
    }

    fn lea(&mut self, instruction: &Instruction) {
        let target = instruction.op0_register();
        let number = target.full_register().number() as u8;
        let base = instruction.memory_base();
        if target.is_gpr64() && base.is_gpr64() && instruction.memory_index() == Register::None {
            let Value { version, offset } = self.registers[base.number() & 15];
            if let Some(offset) = offset.checked_add(instruction.memory_displacement64() as i32) {
                self.registers[number as usize & 15] = Value { version, offset };
                return;
            }
        }
        self.forget(number);
    }

    fn forget(&mut self, register: u8) {
        self.registers[usize::from(register)] = Value { version: self.versions, offset: 0 };
        self.versions += 1;
    }

    fn forget_all(&mut self) {
        (0..REGISTERS as u8).for_each(|register| self.forget(register));
    }
}

const READ: Memory = Memory { size: 8, write: false, aligned: false };
