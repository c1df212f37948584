//! A decoded instruction in the form the interpreter runs: the handler and its operands, taken
//! from iced-x86 once and cached.

use crate::exec::Exec;
use crate::table;
use crate::trap::{Done, Trap};
use iced_x86::{Code, Instruction, OpKind, Register};

/// The semantics of one table row.
pub type Handler = fn(&mut Exec<'_>, &Insn) -> Done;

/// Operand code: the memory operand.
pub const MEM: u8 = 0xff;
/// Operand code: the immediate.
pub const IMM: u8 = 0xfe;
/// Operand code of AH; CH, DH and BH follow.
pub const HIGH_BYTE: u8 = 16;
/// No base or index register.
pub const NO_REG: u8 = 0x80;

/// One decoded instruction.
///
/// Its operand places (registers, memory, immediate) are in `ops` in Intel order. A register is
/// its number within its class (the [`Code`] says which class): 0–15, with AH, CH, DH, BH as
/// 16–19.
#[derive(Clone, Copy)]
pub struct Insn {
    /// What executes it.
    pub run: Handler,
    /// Immediate, sign-extended as the instruction says; the absolute target of a near branch;
    /// the offset of a far pointer; the 11 opcode bits of an x87 instruction, which has none of
    /// these.
    pub imm: u64,
    /// Displacement (RIP-relative ones already absolute); or the selector of a far pointer; or
    /// ENTER's second immediate.
    pub disp: u64,
    /// The encoding.
    pub code: Code,
    /// Length in bytes, 1–15.
    pub len: u8,
    /// Operand places.
    pub ops: [u8; 4],
    /// Base register number or [`NO_REG`].
    pub base: u8,
    /// Index register number or [`NO_REG`]; a vector register for VSIB.
    pub index: u8,
    /// The index is shifted left by this.
    pub scale: u8,
    /// Segment register of the memory operand (and the source of a string instruction).
    pub seg: u8,
    /// Address size: 16, 32 or 64 bits.
    pub address_bits: u8,
    /// LOCK prefix.
    pub lock: bool,
    /// F3 prefix as REP/REPE.
    pub rep: bool,
    /// F2 prefix as REPNE.
    pub repne: bool,
}

impl Insn {
    /// True if operand `k` is memory.
    #[inline(always)]
    pub fn is_mem(&self, k: usize) -> bool {
        self.ops[k] == MEM
    }

    /// All ones in the address size.
    #[inline(always)]
    pub fn address_mask(&self) -> u64 {
        u64::MAX >> (64 - self.address_bits)
    }
}

/// The number of a register in its class, with the high bytes apart.
fn number(register: Register) -> u8 {
    match register {
        Register::None => NO_REG,
        r if r.is_gpr8() => match (r as u32 - Register::AL as u32) as u8 {
            low @ 0..=3 => low,
            // iced counts AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8L …
            high @ 4..=7 => HIGH_BYTE + high - 4,
            rest => rest - 4,
        },
        r => r.number() as u8,
    }
}

/// Turns iced's instruction into ours; `run` is the row's handler (or the one that raises what
/// the mode demands).
pub(crate) fn lower(i: &Instruction, run: Handler, bits: u32) -> Insn {
    let mut out = Insn {
        run,
        imm: 0,
        disp: 0,
        code: i.code(),
        len: i.len() as u8,
        ops: [NO_REG; 4],
        base: NO_REG,
        index: NO_REG,
        scale: 0,
        seg: crate::state::seg::DS,
        address_bits: bits as u8,
        lock: i.has_lock_prefix(),
        rep: i.has_rep_prefix(),
        repne: i.has_repne_prefix(),
    };
    let mut second = false;
    for k in 0..i.op_count().min(4) {
        out.ops[k as usize] = match i.op_kind(k) {
            OpKind::Register => number(i.op_register(k)),
            OpKind::Memory => {
                out.base = match i.memory_base() {
                    Register::RIP | Register::EIP => NO_REG,
                    r => number(r),
                };
                out.index = number(i.memory_index());
                out.scale = i.memory_index_scale().trailing_zeros() as u8;
                out.disp = i.memory_displacement64();
                out.seg = segment(i, bits);
                out.address_bits = address_bits(i, bits);
                MEM
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                out.imm = i.near_branch_target();
                IMM
            }
            OpKind::FarBranch16 => {
                out.imm = i.far_branch16().into();
                out.disp = i.far_branch_selector().into();
                IMM
            }
            OpKind::FarBranch32 => {
                out.imm = i.far_branch32().into();
                out.disp = i.far_branch_selector().into();
                IMM
            }
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
                out.address_bits = 16;
                out.seg = string_segment(i, out.seg);
                MEM
            }
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => {
                out.address_bits = 32;
                out.seg = string_segment(i, out.seg);
                MEM
            }
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => {
                out.address_bits = 64;
                out.seg = string_segment(i, out.seg);
                MEM
            }
            OpKind::Immediate8_2nd => {
                out.disp = i.immediate8_2nd().into();
                IMM
            }
            _ => {
                debug_assert!(!second, "two immediates that are not told apart");
                second = true;
                out.imm = i.immediate(k);
                IMM
            }
        };
    }
    out
}

/// [`lower`] for an instruction whose bytes are at hand: x87 instructions get their opcode.
pub(crate) fn lower_with_bytes(i: &Instruction, run: Handler, bits: u32, bytes: &[u8]) -> Insn {
    let mut out = lower(i, run, bits);
    if table::row(i.code()).is_some_and(|row| row.unit == table::Unit::X87) {
        // The first byte of an x87 opcode is no prefix, so it is the first of its kind.
        let opcode = bytes.windows(2).find(|pair| pair[0] & 0xf8 == 0xd8);
        out.imm = opcode.map_or(0, |p| u64::from(p[0] & 7) << 8 | u64::from(p[1]));
    }
    out
}

/// The segment register of a memory operand. 64-bit code ignores ES, CS, SS and DS prefixes, so
/// that a non-canonical address raises #SS if the base is rSP or rBP and #GP otherwise.
fn segment(i: &Instruction, bits: u32) -> u8 {
    let named = i.memory_segment();
    if bits != 64 || matches!(named, Register::FS | Register::GS) {
        return named.number() as u8;
    }
    match i.memory_base() {
        Register::RSP | Register::ESP | Register::RBP | Register::EBP => crate::state::seg::SS,
        _ => crate::state::seg::DS,
    }
}

fn string_segment(i: &Instruction, current: u8) -> u8 {
    match i.segment_prefix() {
        Register::None => current,
        r => r.number() as u8,
    }
}

/// The address size of a memory operand, from its registers or its displacement.
fn address_bits(i: &Instruction, bits: u32) -> u8 {
    let of = |r: Register| match r {
        Register::None => None,
        Register::RIP => Some(64),
        Register::EIP => Some(32),
        r if r.is_gpr16() => Some(16),
        r if r.is_gpr32() => Some(32),
        r if r.is_gpr64() => Some(64),
        _ => None,
    };
    of(i.memory_base())
        .or_else(|| of(i.memory_index()))
        .unwrap_or(match i.memory_displ_size() {
            2 => 16,
            4 => 32,
            8 => 64,
            _ => bits as u8,
        })
}

/// Raises #UD.
pub(crate) fn undefined(_: &mut Exec<'_>, _: &Insn) -> Done {
    Err(Trap::UD)
}

/// Raises #NM.
pub(crate) fn not_available(_: &mut Exec<'_>, _: &Insn) -> Done {
    Err(Trap::NM)
}

/// Raises #GP(0).
pub(crate) fn protection(_: &mut Exec<'_>, _: &Insn) -> Done {
    Err(Trap::GP0)
}

/// Known to the decoder and the CPU model, not done here: stops the VM with a report.
pub(crate) fn not_done(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.stop(alloc::format!(
        "instruction {:?} at {:#x} is known and not implemented; please report it",
        i.code,
        x.s.rip
    ))
}

/// The handler that runs `code` now: its row's, or what the processor's mode makes of it.
pub fn handler(x: &Exec<'_>, i: &Instruction) -> Handler {
    let code = i.code();
    let exists = x.model.has_all(code.cpuid_features()) || crate::cpuid::is_hint(code);
    if i.is_invalid() || !exists {
        return undefined;
    }
    let Some(row) = table::row(code) else {
        return not_done;
    };
    if let Some(refused) = row.unit.refuses(x) {
        return refused;
    }
    if row.privilege == table::Privilege::Cpl0 && x.s.cpl != 0 {
        return protection;
    }
    row.run
}
