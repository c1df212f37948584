//! A random case for one row: the encoding, the registers, the memory it meets.
//!
//! Memory operands are aimed at a window of two writable pages, a read-only page and, around them,
//! nothing: most lie inside, some cross a page, some run into the read-only page or off the end.

use super::rng::{Flavour, Rng};
use super::state::Registers;
use iced_x86::{
    Code, CodeSize, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, MemorySize,
    Mnemonic, OpCodeInfo, OpCodeOperandKind as Kind, OpKind, Register,
};
use x86::state::{Register80, X87, gpr, rflags};

/// The data window.
pub const WINDOW: u64 = 0x1000_0000;
/// Its writable bytes.
pub const WINDOW_RW: usize = 0x2000;
/// The read-only bytes behind them.
pub const WINDOW_RO: usize = 0x1000;
/// The code pages.
pub const CODE: u64 = 0x4000_0000;
/// Their size.
pub const CODE_SIZE: usize = 0x2000;
/// The jump that ends a case that falls through.
pub const EXIT_JUMP: usize = 5;

/// One case.
pub struct Case {
    pub bits: u32,
    pub at: u64,
    pub bytes: Vec<u8>,
    pub instruction: Instruction,
    pub registers: Registers,
    /// Bytes put into the window: offset, bytes.
    pub patches: Vec<(usize, Vec<u8>)>,
    /// It cannot jump: an exit jump may follow it.
    pub falls_through: bool,
}

const GPR64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

fn nth(first: Register, n: u64) -> Register {
    first + n as u32
}

/// What is being built.
struct Builder<'a> {
    rng: &'a mut Rng,
    info: &'static OpCodeInfo,
    bits: u32,
    i: Instruction,
    registers: Registers,
    patches: Vec<(usize, Vec<u8>)>,
    /// Registers whose values are spoken for, one bit each.
    fixed: u32,
    flavour: Flavour,
    at: u64,
}

/// A random case of `code` for code of `bits`; `None` if it has none there.
pub fn case(code: Code, bits: u32, rng: &mut Rng) -> Option<Case> {
    let info = code.op_code();
    for _ in 0..40 {
        if let Some(case) = attempt(code, info, bits, rng) {
            return Some(case);
        }
    }
    None
}

fn attempt(code: Code, info: &'static OpCodeInfo, bits: u32, rng: &mut Rng) -> Option<Case> {
    let mut i = Instruction::default();
    i.set_code(code);
    i.set_code_size(if bits == 64 {
        CodeSize::Code64
    } else {
        CodeSize::Code32
    });
    let at = if rng.chance(3) {
        CODE + 0x1000 - rng.below(16)
    } else {
        CODE + 0x200 + rng.below(0xd00)
    };
    let flavour = flavour(code, info, rng);
    let registers = registers(bits, flavour, rng);
    let mut b = Builder {
        rng,
        info,
        bits,
        i,
        registers,
        patches: Vec::new(),
        fixed: 0,
        flavour,
        at,
    };
    b.implicit();
    for n in 0..info.op_count() {
        b.operand(n)?;
    }
    b.prefixes();
    b.semantics();
    let Builder {
        i,
        mut registers,
        patches,
        ..
    } = b;
    let mut encoder = Encoder::new(bits);
    encoder.set_prevent_vex2(rng.chance(50));
    encoder.set_vex_wig(rng.below(2) as u32);
    encoder.set_vex_lig(rng.below(2) as u32);
    encoder.encode(&i, at).ok()?;
    let bytes = encoder.take_buffer();
    let instruction = Decoder::with_ip(bits, &bytes, at, DecoderOptions::NONE).decode();
    if instruction.code() != code || instruction.len() != bytes.len() {
        return None;
    }
    if instruction.mnemonic() == Mnemonic::Int && matches!(instruction.immediate8(), 3 | 4 | 0x80) {
        // The gates that Linux opens to programs.
        return None;
    }
    let falls_through = matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::Exception
    );
    if bits == 32 {
        for r in &mut registers.gpr {
            *r &= 0xffff_ffff;
        }
    }
    Some(Case {
        bits,
        at,
        bytes,
        instruction,
        registers,
        patches,
        falls_through,
    })
}

/// The data the row works on.
fn flavour(code: Code, info: &OpCodeInfo, rng: &mut Rng) -> Flavour {
    use MemorySize::*;
    let name = format!("{:?}", info.mnemonic());
    if rng.chance(10) {
        return Flavour::Bits;
    }
    if name.starts_with('F') && !name.starts_with("Fx") {
        return match info.memory_size() {
            Float32 => Flavour::Single,
            Float64 => Flavour::Double,
            Float80 => Flavour::Extended,
            Bcd => Flavour::Bcd,
            _ => Flavour::Integers,
        };
    }
    let mixed = code.op_code().memory_size();
    match mixed {
        Float32 | Packed128_Float32 | Packed256_Float32 | Packed64_Float32 => Flavour::Single,
        Float64 | Packed128_Float64 | Packed256_Float64 => Flavour::Double,
        _ if name.ends_with("ps") || name.ends_with("ss") => Flavour::Single,
        _ if name.ends_with("pd") || name.ends_with("sd") => Flavour::Double,
        _ => Flavour::Integers,
    }
}

/// Random registers.
fn registers(bits: u32, flavour: Flavour, rng: &mut Rng) -> Registers {
    let mut r = Registers {
        rflags: rng.next() & rflags::ARITHMETIC | rflags::FIXED | rflags::IF,
        ..Registers::default()
    };
    for value in &mut r.gpr {
        *value = rng.edge();
    }
    if bits == 32 {
        r.gpr[8..].fill(0);
    }
    for (bit, percent) in [(rflags::DF, 15), (rflags::AC, 3), (rflags::ID, 10)] {
        if rng.chance(percent) {
            r.rflags |= bit;
        }
    }
    let mut bytes = [0; 32];
    for v in &mut r.vector {
        let kind = if rng.chance(5) {
            Flavour::Bits
        } else {
            flavour
        };
        rng.fill(kind, &mut bytes);
        for (n, q) in v.iter_mut().enumerate() {
            *q = u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().unwrap());
        }
    }
    // Mostly masked: a result is more to compare than an exception.
    let masks = if rng.chance(70) {
        0x3f
    } else {
        rng.next() as u32 & 0x3f
    };
    r.mxcsr = masks << 7 | (rng.below(4) as u32) << 13;
    if rng.chance(30) {
        r.mxcsr |= rng.next() as u32 & 0x3f;
    }
    if rng.chance(20) {
        r.mxcsr |= rng.next() as u32 & 0x8040;
    }
    r.x87 = x87(rng);
    r
}

fn x87(rng: &mut Rng) -> X87 {
    let masks = if rng.chance(70) {
        0x3f
    } else {
        rng.next() as u16 & 0x3f
    };
    let control = 0x40 | masks | rng.pick(&[0u16, 2, 3]) << 8 | (rng.below(4) as u16) << 10;
    let mut status = rng.next() as u16 & 0x7f00;
    if rng.chance(20) {
        // C1 with a stack fault, sticky flags.
        status |= rng.next() as u16 & 0x7f;
    }
    if !rng.chance(5) {
        // Nothing pending.
        status &= !0x3f | masks;
    }
    if status & 0x3f & !masks != 0 {
        status |= 0x8080;
    }
    let mut x = X87 {
        control,
        status,
        valid: match rng.below(4) {
            0 => rng.next() as u8,
            1 => 0,
            _ => 0xff,
        },
        ..X87::default()
    };
    for r in &mut x.regs {
        let (significand, sign_exponent) = rng.extended();
        *r = Register80 {
            significand,
            sign_exponent,
        };
    }
    x
}

impl Builder<'_> {
    fn set(&mut self, n: usize, value: u64) {
        self.registers.gpr[n] = value;
        self.fixed |= 1 << n;
    }

    /// An address in or near the window for `size` bytes.
    fn address(&mut self, size: u64) -> u64 {
        let size = size.max(1);
        let rng = &mut *self.rng;
        let rw = WINDOW_RW as u64;
        let align = size.next_power_of_two().min(64);
        let inside = WINDOW + rng.below(rw - size);
        match rng.below(100) {
            0..=44 => inside & !(align - 1),
            45..=64 => inside,
            // The last bytes of a page, the first of the next, across them.
            65..=70 => WINDOW + 0x1000 - size,
            71..=74 => WINDOW + 0x1000,
            75..=86 => (WINDOW + 0x1000 - rng.below(size)).min(WINDOW + rw - size),
            87..=88 => WINDOW,
            89..=90 => WINDOW + rw - size,
            // Read-only, across into read-only, off either end.
            91..=92 => WINDOW + rw + rng.below(0x1000 - size.min(0x800)),
            93..=95 => WINDOW + rw - rng.below(size),
            96 => WINDOW - 1 - rng.below(size),
            97 => WINDOW + rw + 0x1000 - rng.below(size),
            98 => WINDOW + rw + 0x1000 + rng.below(0x1000),
            _ if self.bits == 64 => {
                let edge = 0x0000_8000_0000_0000u64;
                rng.pick(&[edge, edge - 1, edge.wrapping_neg() - 1, edge + 0x1234_5678])
            }
            _ => WINDOW + rw + 0x1000 + rng.below(0x1000),
        }
    }

    /// Puts data of the case's kind at `at`, as far as the window is writable there.
    fn data(&mut self, at: u64, size: usize) {
        let mut bytes = vec![0; size];
        self.rng.fill(self.flavour, &mut bytes);
        self.patch(at, &bytes);
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        let end = WINDOW + WINDOW_RW as u64;
        if at < WINDOW || at >= end {
            return;
        }
        let n = bytes.len().min((end - at) as usize);
        self.patches
            .push(((at - WINDOW) as usize, bytes[..n].to_vec()));
    }

    /// Registers that instructions use without naming them.
    fn implicit(&mut self) {
        use Mnemonic::*;
        let mnemonic = self.info.mnemonic();
        let kinds = self.info.op_kinds();
        let size = self.info.memory_size().size() as u64;
        let upper = if self.rng.chance(50) {
            0
        } else {
            self.rng.next() << 32
        };
        let narrow = self.info.address_size() == 32 || self.rng.chance(10);
        let upper = if narrow { upper } else { 0 };
        let string = kinds.iter().any(|k| {
            matches!(k, Kind::seg_rSI | Kind::es_rDI) // MASKMOVQ is none
        });
        if string {
            self.registers.rflags &= !rflags::DF;
            if self.rng.chance(50) {
                self.registers.rflags |= rflags::DF;
            }
            for n in [gpr::RSI, gpr::RDI] {
                let at = self.address(size);
                self.set(n, at ^ upper);
            }
            // Often the two overlap.
            if self.rng.chance(30) {
                let near = self.registers.gpr[gpr::RSI]
                    .wrapping_add(self.rng.below(65))
                    .wrapping_sub(32);
                self.set(gpr::RDI, near);
            }
            let count = match self.rng.below(4) {
                0 => self.rng.below(4),
                1 => self.rng.below(200),
                _ => self.rng.below(24),
            };
            self.set(gpr::RCX, count ^ upper);
            if self.rng.chance(50) {
                // Equal elements, so that compares go on.
                let byte = self.rng.below(256) as u8;
                for n in [gpr::RSI, gpr::RDI] {
                    let at = (self.registers.gpr[n] ^ upper).wrapping_sub(64).max(WINDOW);
                    self.patch(at, &[byte; 128]);
                }
                self.registers.gpr[gpr::RAX] = u64::from(byte) * 0x0101_0101_0101_0101;
            }
        }
        if kinds.contains(&Kind::seg_rDI) {
            let at = self.address(size);
            self.set(gpr::RDI, at ^ upper);
        }
        if kinds.contains(&Kind::seg_rBX_al) {
            let at = self.address(1);
            let al = self.registers.gpr[gpr::RAX] & 0xff;
            self.set(gpr::RBX, at.wrapping_sub(al));
            self.fixed |= 1;
        }
        let stack = self.i.is_stack_instruction()
            || matches!(mnemonic, Enter | Leave | Pusha | Pushad | Popa | Popad);
        if stack {
            let width = if matches!(mnemonic, Pusha | Pushad | Popa | Popad) {
                32
            } else {
                8
            };
            let at = self.address(width) & if self.rng.chance(80) { !7 } else { !0 };
            self.set(gpr::RSP, at);
            if matches!(mnemonic, Enter | Leave) {
                let at = self.address(width);
                self.set(gpr::RBP, at);
            }
            self.data(at, 32);
        }
    }

    fn operand(&mut self, n: u32) -> Option<()> {
        let kind = self.info.op_kind(n);
        let wide = if self.bits == 64 { 16 } else { 8 };
        let r = self.rng.below(wide);
        let memory = self.rng.chance(50);
        let r8 = |b: &mut Self| {
            let all = if b.bits == 64 { 20 } else { 8 };
            nth(Register::AL, b.rng.below(all))
        };
        let register = match kind {
            Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
                if memory =>
            {
                return self.memory(n);
            }
            Kind::mem
            | Kind::mem_vsib32x
            | Kind::mem_vsib32y
            | Kind::mem_vsib64x
            | Kind::mem_vsib64y => return self.memory(n),
            Kind::mem_offs => {
                let size = self.info.memory_size().size();
                let at = self.address(size as u64);
                self.data(at, size);
                let narrow = self.bits == 32 || self.rng.chance(30);
                self.i.set_op_kind(n, OpKind::Memory);
                self.i.set_memory_displ_size(if narrow { 4 } else { 8 });
                self.i
                    .set_memory_displacement64(if narrow { at & 0xffff_ffff } else { at });
                return Some(());
            }
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => r8(self),
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_reg_mem
            | Kind::r16_rm
            | Kind::r16_opcode => nth(Register::AX, r),
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_reg_mem
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv => nth(Register::EAX, r),
            Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_reg_mem
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv => nth(Register::RAX, r),
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => nth(Register::MM0, r & 7),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                nth(Register::XMM0, r)
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                nth(Register::YMM0, r)
            }
            Kind::seg_reg => nth(Register::ES, self.rng.below(6)),
            Kind::cr_reg => self.rng.pick(&[
                Register::CR0,
                Register::CR2,
                Register::CR3,
                Register::CR4,
                Register::CR8,
            ]),
            Kind::dr_reg => nth(Register::DR0, self.rng.below(8)),
            Kind::es => Register::ES,
            Kind::cs => Register::CS,
            Kind::ss => Register::SS,
            Kind::ds => Register::DS,
            Kind::fs => Register::FS,
            Kind::gs => Register::GS,
            Kind::al => Register::AL,
            Kind::cl => Register::CL,
            Kind::ax => Register::AX,
            Kind::dx => Register::DX,
            Kind::eax => Register::EAX,
            Kind::rax => Register::RAX,
            Kind::st0 => Register::ST0,
            Kind::sti_opcode => nth(Register::ST0, r & 7),
            _ => return self.other(n, kind),
        };
        self.i.set_op_kind(n, OpKind::Register);
        self.i.set_op_register(n, register);
        Some(())
    }

    /// Immediates, branch targets, implicit memory.
    fn other(&mut self, n: u32, kind: Kind) -> Option<()> {
        let second = n > 0
            && matches!(
                self.i.op_kind(n - 1),
                OpKind::Immediate16 | OpKind::Immediate8
            );
        let value = self.rng.edge();
        let byte = if self.rng.chance(60) {
            (value as u8) & 0x1f
        } else {
            value as u8
        };
        let string64 = self.bits == 64;
        let narrow = self.rng.chance(15) && string64;
        let wide = string64 && !narrow;
        let i = &mut self.i;
        match kind {
            Kind::imm8 if second => {
                i.set_op_kind(n, OpKind::Immediate8_2nd);
                i.set_immediate8_2nd(byte);
            }
            Kind::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(byte);
            }
            Kind::imm4_m2z => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(byte & 15);
            }
            Kind::imm8_const_1 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(1);
            }
            Kind::imm8sex16 => {
                i.set_op_kind(n, OpKind::Immediate8to16);
                i.set_immediate8to16((value as i8).into());
            }
            Kind::imm8sex32 => {
                i.set_op_kind(n, OpKind::Immediate8to32);
                i.set_immediate8to32((value as i8).into());
            }
            Kind::imm8sex64 => {
                i.set_op_kind(n, OpKind::Immediate8to64);
                i.set_immediate8to64((value as i8).into());
            }
            Kind::imm16 => {
                i.set_op_kind(n, OpKind::Immediate16);
                // ENTER, RET: bytes of stack.
                let stack = self.info.mnemonic() == Mnemonic::Enter
                    || self.info.mnemonic() == Mnemonic::Ret;
                i.set_immediate16(if stack {
                    value as u16 & 0x1ff
                } else {
                    value as u16
                });
            }
            Kind::imm32 => {
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value as u32);
            }
            Kind::imm32sex64 => {
                i.set_op_kind(n, OpKind::Immediate32to64);
                i.set_immediate32to64((value as i32).into());
            }
            Kind::imm64 => {
                i.set_op_kind(n, OpKind::Immediate64);
                i.set_immediate64(value);
            }
            Kind::br16_1 | Kind::br16_2 => {
                let near = self.landing(kind == Kind::br16_1);
                self.i.set_op_kind(n, OpKind::NearBranch16);
                self.i.set_near_branch16(near as u16);
            }
            Kind::br32_1 | Kind::br32_4 => {
                let near = self.landing(kind == Kind::br32_1);
                self.i.set_op_kind(n, OpKind::NearBranch32);
                self.i.set_near_branch32(near as u32);
            }
            Kind::br64_1 | Kind::br64_4 => {
                let near = self.landing(kind == Kind::br64_1);
                self.i.set_op_kind(n, OpKind::NearBranch64);
                self.i.set_near_branch64(near);
            }
            Kind::seg_rSI => i.set_op_kind(
                n,
                if wide {
                    OpKind::MemorySegRSI
                } else {
                    OpKind::MemorySegESI
                },
            ),
            Kind::es_rDI => i.set_op_kind(
                n,
                if wide {
                    OpKind::MemoryESRDI
                } else {
                    OpKind::MemoryESEDI
                },
            ),
            Kind::seg_rDI => i.set_op_kind(
                n,
                if wide {
                    OpKind::MemorySegRDI
                } else {
                    OpKind::MemorySegEDI
                },
            ),
            Kind::seg_rBX_al => {
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(if wide { Register::RBX } else { Register::EBX });
                i.set_memory_index(Register::AL);
            }
            _ => return None,
        }
        // Two string operands have one address size.
        if n > 0 {
            let first = self.i.op_kind(0);
            let is64 = matches!(
                first,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI
            );
            let other = match (self.i.op_kind(n), is64) {
                (OpKind::MemorySegESI, true) => Some(OpKind::MemorySegRSI),
                (OpKind::MemoryESEDI, true) => Some(OpKind::MemoryESRDI),
                (OpKind::MemorySegRSI, false) if string_kind(first) => Some(OpKind::MemorySegESI),
                (OpKind::MemoryESRDI, false) if string_kind(first) => Some(OpKind::MemoryESEDI),
                _ => None,
            };
            if let Some(kind) = other {
                self.i.set_op_kind(n, kind);
            }
        }
        Some(())
    }

    /// Where a branch goes: near the instruction, never into it.
    fn landing(&mut self, short: bool) -> u64 {
        loop {
            let to = if short {
                self.at.wrapping_add(self.rng.below(250)).wrapping_sub(120)
            } else {
                CODE + self.rng.below(CODE_SIZE as u64)
            };
            if !(self.at..self.at + 15).contains(&to)
                && (CODE..CODE + CODE_SIZE as u64).contains(&to)
            {
                return to;
            }
        }
    }

    /// An explicit memory operand.
    fn memory(&mut self, n: u32) -> Option<()> {
        let kind = self.info.op_kind(n);
        let size = self.info.memory_size().size();
        let vsib = match kind {
            Kind::mem_vsib32x | Kind::mem_vsib64x => Some(Register::XMM0),
            Kind::mem_vsib32y | Kind::mem_vsib64y => Some(Register::YMM0),
            _ => None,
        };
        let long = self.bits == 64;
        let narrow = !long || self.rng.chance(12);
        let mask = if narrow { 0xffff_ffff } else { !0u64 };
        let wide = if long { 16 } else { 8 };
        let ea = self.address(size as u64);
        self.data(ea, size);
        self.i.set_op_kind(n, OpKind::Memory);
        if self.rng.chance(5) {
            let prefix = self
                .rng
                .pick(&[Register::ES, Register::CS, Register::SS, Register::DS]);
            self.i.set_segment_prefix(prefix);
        }
        let name = |r: u64| {
            if narrow {
                nth(Register::EAX, r)
            } else {
                GPR64[r as usize]
            }
        };
        let full = if narrow { 4 } else { 8 };
        let form = if vsib.is_some() {
            1
        } else {
            self.rng.below(10)
        };
        if form == 9 {
            // RIP-relative, or absolute in 32-bit code.
            if long {
                self.i
                    .set_memory_base(if narrow { Register::EIP } else { Register::RIP });
            }
            self.i.set_memory_displ_size(full);
            self.i.set_memory_displacement64(ea & mask);
            return Some(());
        }
        if form == 8 {
            if ea > 0x7fff_ffff {
                return None;
            }
            self.i.set_memory_displ_size(full);
            self.i.set_memory_displacement64(ea);
            return Some(());
        }
        let base = self.rng.below(wide);
        let displacement: i64 = match self.rng.below(5) {
            0 | 1 => 0,
            2 | 3 => i64::from(self.rng.next() as i8),
            _ => i64::from(self.rng.edge() as i32),
        };
        let mut offset = displacement as u64;
        let taken = self.fixed >> base & 1 != 0;
        // A register whose value is spoken for serves as it is.
        if taken {
            offset = u64::from(self.rng.next() as u8 & 0x3f);
        }
        let index = self.rng.below(wide);
        let scale = self.rng.below(4) as u32;
        let mut rest = offset;
        let scaled = match vsib {
            Some(first) => {
                let v = self.rng.below(wide);
                self.i.set_memory_index(nth(first, v));
                let is32 = matches!(kind, Kind::mem_vsib32x | Kind::mem_vsib32y);
                for quad in &mut self.registers.vector[v as usize] {
                    let near = |rng: &mut Rng| match rng.below(40) {
                        0 => rng.next() as i16 as i64,
                        _ => rng.next() as i8 as i64,
                    };
                    *quad = if is32 {
                        let low = near(self.rng) as u32;
                        u64::from(low) | (near(self.rng) as u64) << 32
                    } else {
                        near(self.rng) as u64
                    };
                }
                true
            }
            None => (4..8).contains(&form) && index != 4 && index != base && !taken,
        };
        if scaled {
            self.i.set_memory_index_scale(1 << scale);
            if vsib.is_none() {
                self.i.set_memory_index(name(index));
                if self.fixed >> index & 1 == 0 && self.rng.chance(50) {
                    self.registers.gpr[index as usize] = self.rng.below(0x1000).wrapping_sub(0x800);
                }
                self.fixed |= 1 << index;
                rest = rest.wrapping_add(self.registers.gpr[index as usize] << scale);
            }
        }
        self.i.set_memory_base(name(base));
        let short = offset as i64 == i64::from(offset as i8);
        let none = offset == 0 && base & 7 != 5 && self.rng.chance(80);
        self.i.set_memory_displ_size(if none {
            0
        } else if short && self.rng.chance(80) {
            1
        } else {
            full
        });
        self.i.set_memory_displacement64(offset & mask);
        if !taken {
            let garbage = if narrow && long {
                self.rng.next() << 32
            } else {
                0
            };
            let value = ea.wrapping_sub(rest);
            self.set(
                base as usize,
                if narrow {
                    value & mask | garbage
                } else {
                    value
                },
            );
        }
        Some(())
    }

    fn prefixes(&mut self) {
        let memory = self.i.op_count() > 0 && self.i.op0_kind() == OpKind::Memory;
        if self.info.can_use_lock_prefix() && memory && self.rng.chance(35) {
            self.i.set_has_lock_prefix(true);
        }
        let string = (0..self.i.op_count()).any(|n| string_kind(self.i.op_kind(n)));
        if string && self.rng.chance(65) {
            if self.info.can_use_repne_prefix() && self.rng.chance(50) {
                self.i.set_has_repne_prefix(true);
            } else if self.info.can_use_rep_prefix() {
                self.i.set_has_rep_prefix(true);
            }
        }
    }

    /// The memory operand's address, if it has one of the plain kind.
    fn target(&self) -> Option<u64> {
        (0..self.i.op_count())
            .find(|&n| self.i.op_kind(n) == OpKind::Memory)
            .and_then(|n| {
                self.i.virtual_address(n, 0, |r, _, _| {
                    if r.is_segment_register() {
                        return Some(0);
                    }
                    let full = r.full_register();
                    let at = GPR64.iter().position(|&g| g == full)?;
                    let value = self.registers.gpr[at];
                    Some(if r.size() == 4 {
                        value & 0xffff_ffff
                    } else {
                        value
                    })
                })
            })
    }

    /// Values that make the instruction do something.
    fn semantics(&mut self) {
        use Mnemonic::*;
        let half = self.rng.chance(70);
        match self.info.mnemonic() {
            Div | Idiv if half && self.fixed & 5 == 0 => {
                // A quotient that fits: the upper half small.
                let negative = self.rng.chance(30);
                let small = if negative { !0 } else { self.rng.below(3) };
                self.registers.gpr[gpr::RDX] = small;
                if self.rng.chance(50) {
                    let al = self.registers.gpr[gpr::RAX];
                    self.registers.gpr[gpr::RAX] = al & !0xff00 | (small & 0xff) << 8;
                }
            }
            Cmpxchg if half => {
                let rax = self.registers.gpr[gpr::RAX].to_le_bytes();
                if let Some(at) = self.target() {
                    self.patch(at, &rax);
                } else if self.fixed & 1 == 0 {
                    let r = self.i.op0_register().full_register();
                    if let Some(n) = GPR64.iter().position(|&g| g == r) {
                        self.registers.gpr[gpr::RAX] = self.registers.gpr[n];
                    }
                }
            }
            Cmpxchg8b | Cmpxchg16b if half => {
                if let Some(at) = self.target() {
                    let r = &self.registers.gpr;
                    let (a, d) = (r[gpr::RAX].to_le_bytes(), r[gpr::RDX].to_le_bytes());
                    let n = if self.info.mnemonic() == Cmpxchg8b {
                        4
                    } else {
                        8
                    };
                    let both = [&a[..n], &d[..n]].concat();
                    self.patch(at, &both);
                }
            }
            Bt | Bts | Btr | Btc if self.i.op1_kind() == OpKind::Register => {
                let r = self.i.op1_register().full_register();
                if let Some(n) = GPR64.iter().position(|&g| g == r)
                    && self.fixed >> n & 1 == 0
                {
                    let near = self.rng.below(1 << 14).wrapping_sub(1 << 13);
                    self.registers.gpr[n] = near;
                }
            }
            Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz if half => {
                let upper = if self.rng.chance(50) {
                    self.rng.next() << 32
                } else {
                    0
                };
                self.registers.gpr[gpr::RCX] = self.rng.below(3) | upper;
            }
            Jmp | Call => {
                let to = match self.rng.below(20) {
                    0 => self.rng.next() >> 17,
                    1 => self.rng.edge(),
                    _ => self.landing(false),
                };
                match self.i.op0_kind() {
                    OpKind::Register => {
                        let r = self.i.op0_register().full_register();
                        if let Some(n) = GPR64.iter().position(|&g| g == r) {
                            self.registers.gpr[n] = to;
                        }
                    }
                    OpKind::Memory => {
                        if let Some(at) = self.target() {
                            self.patch(at, &to.to_le_bytes());
                        }
                    }
                    _ => {}
                }
            }
            Ret => {
                let to = match self.rng.below(20) {
                    0 => self.rng.next() >> 17,
                    1 => self.rng.edge(),
                    _ => self.landing(false),
                };
                let at = self.registers.gpr[gpr::RSP];
                self.patch(at, &to.to_le_bytes());
            }
            _ => {}
        }
        if matches!(
            self.info.mnemonic(),
            Xsave | Xsave64 | Xsavec | Xsavec64 | Xrstor | Xrstor64
        ) {
            // What the model has of the components the host has.
            self.registers.gpr[gpr::RAX] = self.rng.below(8);
            self.registers.gpr[gpr::RDX] = 0;
        }
        let image = match self.info.mnemonic() {
            Fxrstor | Fxrstor64 => 512,
            Xrstor | Xrstor64 => crate::parts::state::XSAVE,
            _ => 0,
        };
        if image != 0 && self.rng.chance(85) {
            // An image that is accepted.
            let mut bytes = [0; 1024];
            registers(64, self.flavour, self.rng).store_xsave(&mut bytes);
            if self.rng.chance(30) {
                bytes[512] = self.rng.below(8) as u8;
            }
            if let Some(at) = self.target() {
                self.patch(at, &bytes[..image]);
            }
        }
        // Flags from the stack: no single step, no nested task.
        if matches!(self.info.mnemonic(), Popf | Popfd | Popfq) {
            let value = self.rng.next() & !(rflags::TF | rflags::NT);
            let at = self.registers.gpr[gpr::RSP];
            self.patch(at, &value.to_le_bytes());
        }
    }
}

fn string_kind(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegRSI
            | OpKind::MemorySegESI
            | OpKind::MemoryESRDI
            | OpKind::MemoryESEDI
            | OpKind::MemorySegRDI
            | OpKind::MemorySegEDI
    )
}
