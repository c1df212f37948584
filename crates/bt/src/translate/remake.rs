//! Flags that can be made again: those that a comparison, a logical operation or the addition of a
//! constant has left, as long as its operands or its result are what they were. In front of such an
//! access the flags need not be kept: the short check destroys them, and an instruction or two
//! behind it, and at the beginning of its slow path, make them again, all six and bit by bit. So
//! nobody but the check itself ever runs with other flags.

use super::{Building, Class, FLAGS, Translator, stolen};
use crate::emit::{Mem, R10};
use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register};

/// How to make flags again. R10 is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remake {
    /// By the same comparison: offset in the page, bytes.
    Compare { at: u16, len: u8 },
    /// As a logical operation leaves them, whose result is in this register: AND with itself. (AF,
    /// undefined by the manual, is zero behind all of these.)
    Logic(Register),
    /// As XOR or SUB of a register with itself leaves them, whatever becomes of it.
    Zero,
    /// Subtract the constant from the register and add it again, or the other way round.
    Sum {
        register: Register,
        by: i32,
        subtracts: bool,
    },
}

/// What is known of the flags, and the registers that this depends on, a bit for each.
type Known = Option<(Remake, u16)>;

/// RSP.
const STACK: u16 = 1 << 4;

/// The bit of a general register.
pub(super) fn bit(r: Register) -> u16 {
    1 << (r.full_register().number() & 15)
}

impl Translator {
    /// For each instruction of a block: how the flags in front of it can be made again. `needed`:
    /// those that are needed there.
    pub(super) fn plan_remakes(
        &mut self,
        list: &[(Instruction, Class, usize)],
        needed: &[u32],
        remakes: &mut Vec<Option<Remake>>,
    ) {
        remakes.clear();
        let mut known: Known = None;
        for (n, (i, class, _)) in list.iter().enumerate() {
            remakes.push(known.map(|k| k.0));
            if needed.get(n + 1).is_none_or(|needed| *needed == 0) {
                known = None;
            } else if i.rflags_modified() & FLAGS != 0 {
                known = known_behind(i, *class);
            } else if let Some((_, uses)) = known
                && self.registers_written(i, *class) & uses != 0
            {
                known = None;
            }
        }
    }

    /// The general registers that an instruction may write.
    pub(super) fn registers_written(&mut self, i: &Instruction, class: Class) -> u16 {
        let (operands, others) = self.written_operands(i);
        let others = match class {
            _ if !others => 0,
            Class::Push | Class::Pop | Class::Call | Class::CallIndirect | Class::Return => STACK,
            Class::Interpret => !0,
            _ => {
                let used = self.info.info(i).used_registers().iter();
                let written = used.filter(|u| {
                    let read = matches!(u.access(), OpAccess::Read | OpAccess::CondRead);
                    !read && u.register().full_register().is_gpr64()
                });
                written.fold(0, |all, u| all | bit(u.register()))
            }
        };
        operands | others
    }
}

/// What is known of the flags behind an instruction that changes them.
fn known_behind(i: &Instruction, class: Class) -> Known {
    let to = (i.op0_kind() == OpKind::Register).then(|| i.op0_register())?;
    let zero = matches!(i.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && i.op1_kind() == OpKind::Register
        && i.op1_register() == to;
    if zero {
        return Some((Remake::Zero, 0));
    }
    if stolen(to).is_some() || i.op_count() != 2 {
        return None;
    }
    let other = match i.op1_kind() {
        OpKind::Register if class == Class::Plain => Some(i.op1_register()),
        OpKind::Memory if class == Class::Memory => None,
        _ if class == Class::Plain => Some(Register::None),
        _ => return None,
    };
    match (i.mnemonic(), other) {
        (Mnemonic::And | Mnemonic::Or | Mnemonic::Xor, _) => Some((Remake::Logic(to), bit(to))),
        // An encoding that 64-bit code does not have.
        _ if i.code() == Code::Cmp_rm8_imm8_82 => None,
        (Mnemonic::Cmp | Mnemonic::Test, Some(other)) if stolen(other).is_none() => {
            let uses = match other {
                Register::None => 0,
                other => bit(other),
            };
            let (at, len) = ((i.ip() & 0xfff) as u16, i.len() as u8);
            Some((Remake::Compare { at, len }, bit(to) | uses))
        }
        (Mnemonic::Add | Mnemonic::Sub, Some(Register::None)) => {
            let by = match to.size() {
                8 => i32::try_from(i.immediate(1) as i64).ok()?,
                4 => i.immediate(1) as i32,
                _ => return None,
            };
            // What goes back must be a displacement, too.
            by.checked_neg()?;
            let sum = Remake::Sum {
                register: to,
                by,
                subtracts: i.mnemonic() == Mnemonic::Sub,
            };
            Some((sum, bit(to)))
        }
        _ => None,
    }
}

impl Building<'_, '_> {
    /// Makes flags again.
    pub(super) fn remake(&mut self, remake: Remake) {
        match remake {
            Remake::Compare { at, len } => {
                let at = usize::from(at);
                self.asm.raw(&self.source.page[at..at + usize::from(len)]);
            }
            Remake::Zero => self.asm.cmp(R10, R10),
            Remake::Logic(register) => self.asm.test_with_itself(register),
            Remake::Sum {
                register,
                by,
                subtracts,
            } => {
                let wide = register.is_gpr64();
                let before = if subtracts { by } else { -by };
                let before = Mem::base(register.number() as u8, before);
                if wide {
                    self.asm.lea(R10, before);
                } else {
                    self.asm.lea32(R10, before);
                }
                self.asm.add_constant(R10, by, subtracts, wide);
            }
        }
    }
}
