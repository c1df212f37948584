//! What registers hold where a block is about to run for the first time, as far as it can be told: so
//! much as says on which side of the window an access is ([`super::through`]). That side is asked for
//! first. It is a guess for all times after the first, and may be wrong.

use super::access::Address;
use super::{Building, Class};
use iced_x86::{Code, Instruction, OpKind, Register};

/// What is known where a block begins.
pub struct Entry<'a> {
    /// The general registers.
    pub gpr: [u64; 16],
    /// The linear address of the block's page.
    pub page: u64,
    /// Reads eight bytes of memory, if that leaves no trace.
    pub read: &'a dyn Fn(u64) -> Option<u64>,
}

/// Registers, and what of them is known.
pub(super) type Values = [Option<u64>; 16];

impl Building<'_, '_> {
    /// The linear address of an access, if it is known.
    pub(super) fn address_known(&self, address: &Address) -> Option<u64> {
        let value = |n: u8| self.values.get(usize::from(n)).copied().flatten();
        match address {
            Address::Operand(i) | Address::Bits(i, _) => self.operand_known(i),
            Address::Stack(register, disp) => {
                Some(value(*register)?.wrapping_add(i64::from(*disp) as u64))
            }
            Address::Group(low) => {
                let index = match low.index {
                    Some((register, shift)) => value(register)? << shift,
                    None => 0,
                };
                let sum = value(low.base?)?.wrapping_add(index);
                Some(sum.wrapping_add(i64::from(low.disp) as u64))
            }
        }
    }

    fn operand_known(&self, i: &Instruction) -> Option<u64> {
        if matches!(i.memory_segment(), Register::FS | Register::GS) {
            return None;
        }
        let value = |r: Register| match r {
            Register::None => Some(0),
            Register::RIP => self.source.entry.as_ref().map(|e| e.page),
            r if r.is_gpr64() => self.values[r.number()],
            _ => None,
        };
        let index = value(i.memory_index())?.wrapping_mul(i.memory_index_scale().into());
        let sum = value(i.memory_base())?.wrapping_add(index);
        Some(sum.wrapping_add(i.memory_displacement64()))
    }

    /// Behind an instruction: what is known now.
    pub(super) fn learn(&mut self, i: &Instruction, class: Class) {
        let Some(entry) = &self.source.entry else {
            return;
        };
        let source = |k: u32| match i.op_kind(k) {
            OpKind::Register => self.values[i.op_register(k).full_register().number() & 15],
            OpKind::Memory => self.operand_known(i).and_then(|a| (entry.read)(a)),
            _ => Some(i.immediate(k)),
        };
        let to = (i.op_count() > 0 && i.op0_kind() == OpKind::Register).then(|| i.op0_register());
        let result = match i.code() {
            Code::Mov_r64_rm64
            | Code::Mov_rm64_r64
            | Code::Mov_r64_imm64
            | Code::Mov_rm64_imm32 => source(1),
            Code::Mov_r32_rm32
            | Code::Mov_rm32_r32
            | Code::Mov_r32_imm32
            | Code::Mov_rm32_imm32 => source(1).map(|v| v & 0xffff_ffff),
            Code::Lea_r64_m => self.operand_known(i),
            Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_rm64_r64 => {
                source(0).zip(source(1)).map(|(a, b)| a.wrapping_add(b))
            }
            Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => {
                source(0).zip(source(1)).map(|(a, b)| a.wrapping_sub(b))
            }
            _ => None,
        };
        let stack = self.values[4];
        let moved = match class {
            Class::Push => -8,
            Class::Pop => 8,
            _ => 0,
        };
        let popped = (class == Class::Pop)
            .then(|| stack.and_then(|a| (entry.read)(a)))
            .flatten();
        let (mut written, others) = self.t.written_operands(i);
        if others && moved == 0 {
            self.values = [None; 16];
            return;
        }
        while written != 0 {
            self.values[written.trailing_zeros() as usize] = None;
            written &= written - 1;
        }
        if moved != 0 {
            self.values[4] = stack.map(|a| a.wrapping_add_signed(moved));
        }
        if let Some(to) = to.filter(|to| to.is_gpr64() || to.is_gpr32())
            && let Some(value) = result.or(popped)
        {
            self.values[to.full_register().number() & 15] = Some(value);
        }
    }
}
