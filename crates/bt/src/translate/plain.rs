//! Instructions that are copied, with their memory operand or a stolen register replaced, and those
//! of the stack.

use super::access::Address;
use super::{Building, field};
use crate::area::Area;
use crate::emit::{Mem, R10, R11, RSI, RSP};
use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register};
use x86::mmu::Access;

/// The number of a stolen register, if `r` is one or a part of one.
pub(super) fn stolen(r: Register) -> Option<u8> {
    match r.full_register() {
        Register::R10 => Some(R10),
        Register::R11 => Some(R11),
        _ => None,
    }
}

pub(super) fn gpr_number(r: Register) -> Option<u8> {
    (r.is_gpr64() || r.is_gpr32()).then(|| r.number() as u8)
}

/// Of the parts of a register, 1, 2, 4 and 8 bytes, the one in the size of `r`.
pub(super) fn sized(parts: [Register; 4], r: Register) -> Register {
    parts[r.size().min(8).trailing_zeros() as usize]
}

/// The parts of R10.
const R10_PARTS: [Register; 4] = [
    Register::R10L,
    Register::R10W,
    Register::R10D,
    Register::R10,
];

/// An operand is AH, BH, CH or DH.
pub(super) fn names_high_byte(i: &Instruction) -> bool {
    (0..i.op_count()).any(|k| {
        i.op_kind(k) == OpKind::Register
            && matches!(
                i.op_register(k),
                Register::AH | Register::BH | Register::CH | Register::DH
            )
    })
}

/// What RET adds to RSP.
pub(super) fn popped(i: &Instruction) -> i32 {
    8 + i32::from(i.op_count() == 1) * i32::from(i.immediate16())
}

impl Building<'_, '_> {
    /// The stolen registers an instruction uses besides in its address: number, read, written.
    fn stolen_operands(&mut self, i: &Instruction) -> Vec<(u8, bool)> {
        let mut found: Vec<(u8, bool)> = Vec::new();
        for k in 0..i.op_count() {
            if i.op_kind(k) != OpKind::Register {
                continue;
            }
            let Some(n) = stolen(i.op_register(k)) else {
                continue;
            };
            let access = self.t.info.info(i).op_access(k);
            let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            match found.iter_mut().find(|f| f.0 == n) {
                Some(f) => f.1 |= written,
                None => found.push((n, written)),
            }
        }
        found
    }

    pub(super) fn plain(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let mut again = Vec::new();
        if is_scan(i) && i.has_rep_prefix() {
            let mut native = *i;
            native.set_has_rep_prefix(false);
            if self.t.encoder.encode(&native, 0).is_err() {
                drop(self.t.encoder.take_buffer());
                return self.interpret();
            }
            again = self.t.encoder.take_buffer();
        }
        let bytes = if again.is_empty() { bytes } else { &again };
        let used = self.stolen_operands(i);
        for &(n, _) in &used {
            self.asm.load(n, Mem::gs(Area::home(n)));
        }
        self.asm.raw(bytes);
        for &(n, written) in &used {
            if written {
                self.asm.store(Mem::gs(Area::home(n)), n);
            }
        }
        false
    }

    /// Appends an instruction that was encoded before, and keeps the vector.
    pub(super) fn encoded(&mut self, mut bytes: Vec<u8>) {
        self.asm.raw(&bytes);
        bytes.clear();
        self.t.encoder.set_buffer(bytes);
    }

    pub(super) fn memory(&mut self, i: &Instruction) -> bool {
        let used = self.stolen_operands(i);
        let size = i.memory_size().size();
        let Some(access) = self.t.memory_use(i) else {
            return self.interpret();
        };
        if used.len() > 1 || size == 0 || size > 32 {
            return self.interpret();
        }
        let mut native = *i;
        native.set_code(without_offset(i.code()));
        if is_scan(i) {
            native.set_has_rep_prefix(false);
        }
        native.set_segment_prefix(Register::None);
        let at = self.grouped.unwrap_or(0);
        native.set_memory_displacement64(at as u64);
        native.set_memory_displ_size(u32::from(at != 0));
        native.set_memory_index_scale(1);
        native.set_memory_base(Register::R11);
        native.set_memory_index(Register::None);
        // The address in R11, a stolen operand in R10.
        for k in 0..i.op_count() {
            if i.op_kind(k) == OpKind::Register && stolen(i.op_register(k)).is_some() {
                native.set_op_register(k, sized(R10_PARTS, i.op_register(k)));
            }
        }
        // AH to BH exclude a REX prefix, and with it R10 and R11: RSI is borrowed.
        let borrow = names_high_byte(i);
        if borrow {
            native.set_memory_base(Register::RSI);
        }
        if self.t.encoder.encode(&native, 0).is_err() {
            drop(self.t.encoder.take_buffer());
            return self.interpret();
        }
        let bytes = self.t.encoder.take_buffer();
        self.check(Address::Operand(*i), access, size as u8);
        if borrow {
            self.asm.store(field::spill, RSI);
            self.asm.mov(RSI, R11);
            self.encoded(bytes);
            self.asm.load(RSI, field::spill);
            return false;
        }
        if let Some(&(n, written)) = used.first() {
            self.asm.load(R10, Mem::gs(Area::home(n)));
            self.encoded(bytes);
            if written {
                self.asm.store(Mem::gs(Area::home(n)), R10);
            }
        } else {
            self.encoded(bytes);
        }
        false
    }

    /// A bit string in memory whose 64-bit word is chosen by a register.
    pub(super) fn bit_string(&mut self, i: &Instruction) -> bool {
        let bit = i.op1_register();
        if i.memory_base().is_gpr32() || i.memory_index().is_gpr32() {
            // The sum wraps at 4 GiB.
            return self.interpret();
        }
        let writes = i.code() != Code::Bt_rm64_r64;
        let access = if writes { Access::Write } else { Access::Read };
        self.check(Address::Bits(*i, bit), access, 8);
        // Only the low six bits of the offset are meant inside the word.
        match stolen(bit) {
            Some(home) => self.asm.load(R10, Mem::gs(Area::home(home))),
            None => self.asm.mov(R10, bit.number() as u8),
        }
        if writes {
            // In memory, so that a LOCK prefix holds: the offset must be reduced here.
            self.asm.pext_gs(R10, R10, field::BIT_MASK);
            let mut native = *i;
            native.set_segment_prefix(Register::None);
            native.set_memory_base(Register::R11);
            native.set_memory_index(Register::None);
            native.set_memory_index_scale(1);
            native.set_memory_displacement64(0);
            native.set_memory_displ_size(0);
            native.set_op1_register(Register::R10);
            let encoded = self.t.encoder.encode(&native, 0).is_ok();
            let bytes = self.t.encoder.take_buffer();
            if !encoded {
                return self.interpret();
            }
            self.asm.raw(&bytes);
        } else {
            // bt [r11], r10 would be slow: the word in a register, the offset taken modulo 64.
            self.asm.load(R11, Mem::base(R11, 0));
            self.asm.raw(&[0x4d, 0x0f, 0xa3, 0xd3]); // bt r11, r10
        }
        false
    }

    pub(super) fn lea(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let to = i.op0_register();
        let odd = i.memory_base() == Register::RIP
            || stolen(to).is_some()
            || stolen(i.memory_base()).is_some()
            || stolen(i.memory_index()).is_some();
        if !odd {
            self.asm.raw(bytes);
            return false;
        }
        let Some(number) = gpr_number(to) else {
            return self.interpret();
        };
        self.address(i, false);
        let register = if stolen(to).is_some() { R11 } else { number };
        if to.is_gpr32() {
            self.asm.lea32(register, Mem::base(R11, 0));
        } else if register != R11 {
            self.asm.mov(register, R11);
        }
        if let Some(home) = stolen(to) {
            self.asm.store(Mem::gs(Area::home(home)), R11);
        }
        false
    }

    pub(super) fn push(&mut self, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register => {
                let from = i.op0_register();
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                match stolen(from) {
                    Some(home) => {
                        self.asm.load(R10, Mem::gs(Area::home(home)));
                        self.asm.store(self.place(), R10);
                    }
                    None => self.asm.store(self.place(), from.number() as u8),
                }
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            OpKind::Memory => {
                self.check(Address::Operand(*i), Access::Read, 8);
                self.asm.load(R11, Mem::base(R11, 0));
                self.asm.store(field::value, R11);
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                self.asm.load(R10, field::value);
                self.asm.store(Mem::base(R11, 0), R10);
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            _ => self.push_constant(i.immediate(0)),
        }
    }

    fn push_constant(&mut self, value: u64) {
        self.check(Address::Stack(RSP, -8), Access::Write, 8);
        if let Ok(small) = i32::try_from(value as i64) {
            self.asm.store_imm(Mem::base(R11, 0), small);
        } else {
            self.asm.mov_imm(R10, value);
            self.asm.store(Mem::base(R11, 0), R10);
        }
        self.asm.lea(RSP, Mem::base(RSP, -8));
    }
}
/// The form with a ModR/M byte of a move with an absolute offset.
fn without_offset(code: Code) -> Code {
    match code {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        other => other,
    }
}

/// BSF or BSR. A guest processor without TZCNT takes its prefix for nothing; the host does not.
pub(super) fn is_scan(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr)
}
