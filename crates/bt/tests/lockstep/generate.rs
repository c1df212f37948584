//! Random programs: instruction streams from the table's rows, biased to what compilers emit and
//! to what breaks translators.

mod hard;

use crate::narrow;
use crate::rng::Rng;
use crate::shape::{BASED, LIMITED, READ_ONLY, Shape};
use crate::world::{CODE, CODE_PAGES, DATA_LOW, Entries, MOVING, TABLE, UDATA};
use iced_x86::{
    Code, Encoder, FlowControl, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind as Kind,
    OpKind, Register,
};
use x86::cpuid::CpuModel;
use x86::table::{self, Privilege, Row};

/// A program, placed.
pub struct Program {
    /// Bytes at offsets of the code pages.
    pub bytes: Vec<(u64, Vec<u8>)>,
    /// Starts of instructions, ascending.
    pub starts: Vec<u64>,
    pub syncs: Vec<u64>,
    /// Linear address of the code pages.
    pub base: u64,
    pub entry: u64,
}

thread_local! {
    /// An address of this process that programs try to reach; 0 for none.
    pub static HOST: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// What is added to an address on the way through the window ([`bt`]'s `window::BASE`).
const WINDOW_ADDS: u64 = (1u64 << 33).wrapping_sub(1 << 46);

type Label = usize;

#[derive(Clone, Copy)]
enum Fix {
    None,
    Branch(Label),
    /// An imm64: the label's address plus a constant.
    Address(Label, u64),
    /// An imm64: where the last four bytes of the label's instruction are, plus a constant.
    Immediate(Label, u64),
    /// An imm32 pushed: the label's address.
    Pushed(Label),
}

struct Item {
    insn: Instruction,
    fix: Fix,
    at: u64,
    len: u64,
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

/// What compilers emit most.
const COMMON: &[Code] = &[
    Code::Mov_r64_rm64,
    Code::Mov_rm64_r64,
    Code::Mov_r32_rm32,
    Code::Mov_rm32_r32,
    Code::Mov_r8_rm8,
    Code::Mov_rm8_r8,
    Code::Mov_rm32_imm32,
    Code::Mov_r32_imm32,
    Code::Movzx_r32_rm8,
    Code::Movzx_r32_rm16,
    Code::Movsx_r64_rm8,
    Code::Movsxd_r64_rm32,
    Code::Lea_r64_m,
    Code::Lea_r32_m,
    Code::Add_r64_rm64,
    Code::Add_rm32_imm8,
    Code::Add_rm64_r64,
    Code::Sub_r32_rm32,
    Code::Cmp_rm64_imm8,
    Code::Cmp_r64_rm64,
    Code::Test_rm32_r32,
    Code::Test_rm8_imm8,
    Code::And_r64_rm64,
    Code::Or_rm8_r8,
    Code::Xor_r32_rm32,
    Code::Adc_r64_rm64,
    Code::Sbb_rm32_r32,
    Code::Inc_rm32,
    Code::Dec_rm64,
    Code::Neg_rm64,
    Code::Not_rm32,
    Code::Shl_rm64_imm8,
    Code::Shr_rm32_CL,
    Code::Sar_rm64_1,
    Code::Imul_r64_rm64,
    Code::Imul_r32_rm32_imm8,
    Code::Mul_rm64,
    Code::Div_rm32,
    Code::Idiv_rm64,
    Code::Push_r64,
    Code::Push_rm64,
    Code::Pushq_imm8,
    Code::Pushq_imm32,
    Code::Pop_r64,
    Code::Pop_rm64,
    Code::Leaveq,
    Code::Pushfq,
    Code::Popfq,
    Code::Cmove_r64_rm64,
    Code::Cmovb_r32_rm32,
    Code::Setg_rm8,
    Code::Sete_rm8,
    Code::Setb_rm8,
    Code::Bt_rm32_r32,
    Code::Bts_rm64_imm8,
    Code::Bsf_r64_rm64,
    Code::Xchg_rm64_r64,
    Code::Xadd_rm32_r32,
    Code::Cmpxchg_rm64_r64,
    Code::Cmpxchg8b_m64,
    Code::Cmpxchg16b_m128,
    Code::Cdq,
    Code::Cqo,
    Code::Stosq_m64_RAX,
    Code::Stosb_m8_AL,
    Code::Movsb_m8_m8,
    Code::Movsq_m64_m64,
    Code::Scasb_AL_m8,
    Code::Cmpsb_m8_m8,
    Code::Lodsd_EAX_m32,
    Code::Lodsb_AL_m8,
    Code::Scasd_EAX_m32,
    Code::Cmpsw_m16_m16,
    Code::Movaps_xmm_xmmm128,
    Code::Movaps_xmmm128_xmm,
    Code::Movups_xmmm128_xmm,
    Code::Movdqu_xmm_xmmm128,
    Code::Movsd_xmm_xmmm64,
    Code::Addsd_xmm_xmmm64,
    Code::Mulss_xmm_xmmm32,
    Code::Divpd_xmm_xmmm128,
    Code::Pxor_xmm_xmmm128,
    Code::VEX_Vmovups_ymm_ymmm256,
    Code::VEX_Vmovups_ymmm256_ymm,
    Code::VEX_Vpaddd_ymm_ymm_ymmm256,
    Code::Fld_m64fp,
    Code::Fstp_m64fp,
    Code::Fadd_m32fp,
    Code::Faddp_sti_st0,
    Code::Fild_m64int,
    Code::Fistp_m32int,
    Code::Movq_mm_mmm64,
    Code::Paddb_mm_mmm64,
    Code::Emms,
    Code::Xsave_mem,
    Code::Xrstor_mem,
    Code::Fxrstor_m512byte,
    Code::Rdfsbase_r64,
    Code::Stmxcsr_m32,
    Code::Ldmxcsr_m32,
];

/// Instructions whose results are one unit in the last place apart.
pub fn is_approximate(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Fsin | Fcos
            | Fsincos
            | Fptan
            | Fpatan
            | F2xm1
            | Fyl2x
            | Fyl2xp1
            | Rcpps
            | Rcpss
            | Rsqrtps
            | Rsqrtss
            | Vrcpps
            | Vrcpss
            | Vrsqrtps
            | Vrsqrtss
    )
}

/// Instructions that store x87's pointers, which translated code does not keep. XSAVE is not among
/// them: where it is tried they are wiped.
pub fn is_storing_pointers(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Fnstenv
            | Fnsave
            | Fxsave
            | Fxsave64
            | Xsavec
            | Xsavec64
            | Xsaveopt
            | Xsaveopt64
            | Xsave64
            | Xsaves
            | Xsaves64
    )
}

/// Rows that are not tried: those, or they leave the program.
fn excluded(row: &Row, user: bool, wide: bool) -> bool {
    use Mnemonic::*;
    let code = row.code;
    let m = code.mnemonic();
    if is_approximate(m) || is_storing_pointers(m) {
        return true;
    }
    let info = code.op_code();
    let exists = if wide { info.mode64() } else { info.mode32() };
    if !exists || info.op_code_string().starts_with("9B ") {
        return true;
    }
    if row.privilege == Privilege::Cpl0 && !user {
        return true;
    }
    match m {
        // Words that the processor does not clear are not ours to compare.
        Hlt | Out | Sysenter | Sysexit | Sysexitq | Iret | Iretd | Iretq | Retf | Int | Int1
        | Into | Xbegin | Xabort | Sysret | Sysretq | Lldt | Ltr | Lidt | Lgdt => true,
        // Through the TSS's bitmap, at ports that this test uses.
        Outsb | Outsw | Outsd => true,
        // Segments that are not flat are the interpreter's.
        Lds | Les | Lss => !wide,
        Mov | Pop
            if (0..info.op_count()).any(|n| {
                matches!(
                    info.op_kind(n),
                    Kind::seg_reg | Kind::es | Kind::ss | Kind::ds | Kind::fs | Kind::gs
                )
            }) && m != Mnemonic::Nop =>
        {
            true
        }
        _ => {
            code.flow_control() != FlowControl::Next
                && !matches!(m, Loop | Loope | Loopne | Jrcxz | Jecxz)
                && !matches!(code.flow_control(), FlowControl::ConditionalBranch)
        }
    }
}

/// What the generator needs of the table, found once.
pub struct Rows {
    supervisor: Vec<Code>,
    user: Vec<Code>,
}

impl Rows {
    pub fn new(wide: bool) -> Rows {
        let model = CpuModel::everything();
        let fit = |user: bool| {
            table::rows()
                .filter(|r| model.has_all(r.code.cpuid_features()) && !excluded(r, user, wide))
                .filter(|r| r.code.flow_control() == FlowControl::Next)
                .map(|r| r.code)
                .collect()
        };
        Rows {
            supervisor: fit(false),
            user: fit(true),
        }
    }
}

struct Builder<'a> {
    rng: &'a mut Rng,
    rows: &'a Rows,
    shape: Shape,
    /// Linear address of the code.
    base: u64,
    items: Vec<Item>,
    labels: Vec<Option<usize>>,
    at: u64,
    encoder: Encoder,
    /// Labels that wait for an instruction with an immediate to be overwritten.
    hungry: Vec<Label>,
    markers: Vec<Label>,
    entries: Entries,
    counters: u64,
}

/// Makes a program.
pub fn program(rng: &mut Rng, rows: &Rows, shape: Shape, entries: Entries) -> Program {
    loop {
        if let Some(program) = attempt(rng, rows, shape, entries) {
            return program;
        }
    }
}

/// A program, if it fits.
fn attempt(rng: &mut Rng, rows: &Rows, shape: Shape, entries: Entries) -> Option<Program> {
    let base = if !shape.user && rng.chance(40) {
        shape.code_high()
    } else {
        CODE
    };
    let entry = rng.pick(&[0x100, 0xf00, 0xf80, 0xfc0, 0xfe0, 0xff8]) + rng.below(8);
    let mut b = Builder {
        rng,
        rows,
        shape,
        base,
        items: Vec::new(),
        labels: Vec::new(),
        at: base + entry,
        encoder: Encoder::new(shape.bits()),
        hungry: Vec::new(),
        markers: Vec::new(),
        entries,
        counters: 0,
    };
    let syncs = b.make()?;
    let constant = |i: &mut Instruction, value: u64| match shape.wide {
        true => i.set_immediate64(value),
        false => i.set_immediate32(value as u32),
    };
    let mut bytes = Vec::new();
    let mut starts = Vec::new();
    for n in 0..b.items.len() {
        let item = &b.items[n];
        let mut i = item.insn;
        let address = |l: Label| b.items[b.labels[l].expect("a bound label")].at;
        match item.fix {
            Fix::None => {}
            Fix::Branch(l) if shape.wide => i.set_near_branch64(address(l)),
            Fix::Branch(l) => i.set_near_branch32(address(l) as u32),
            Fix::Address(l, plus) => constant(&mut i, address(l).wrapping_add(plus)),
            Fix::Pushed(l) if shape.wide => i.set_immediate32to64(address(l) as i32 as i64),
            Fix::Pushed(l) => i.set_immediate32(address(l) as u32),
            Fix::Immediate(l, plus) => {
                let at = &b.items[b.labels[l].expect("a bound label")];
                constant(&mut i, (at.at + at.len - 4).wrapping_add(plus));
            }
        }
        let len = b.encoder.encode(&i, item.at).expect("encodes again") as u64;
        assert_eq!(len, item.len, "{i}");
        let offset = item.at - base;
        starts.push(offset);
        bytes.push((offset, b.encoder.take_buffer()));
    }
    starts.sort_unstable();
    let offset = |n: &usize| b.items[*n].at - base;
    Some(Program {
        bytes,
        starts,
        syncs: syncs.iter().map(offset).collect(),
        base,
        entry,
    })
}

impl Builder<'_> {
    fn label(&mut self) -> Label {
        self.labels.push(None);
        self.labels.len() - 1
    }
    fn bind(&mut self, l: Label) {
        self.labels[l] = Some(self.items.len());
    }

    /// Appends an instruction; false if it cannot be encoded.
    fn put_fixed(&mut self, insn: Instruction, fix: Fix) -> bool {
        let mut i = insn;
        if let Fix::Branch(_) = fix {
            i.set_near_branch64(self.at);
        }
        if !self.shape.wide {
            i = narrow::instruction(&i);
        }
        let insn = i;
        let Ok(len) = self.encoder.encode(&i, self.at) else {
            drop(self.encoder.take_buffer());
            return false;
        };
        drop(self.encoder.take_buffer());
        self.items.push(Item {
            insn,
            fix,
            at: self.at,
            len: len as u64,
        });
        self.at += len as u64;
        true
    }
    fn put(&mut self, insn: Instruction) -> bool {
        self.put_fixed(insn, Fix::None)
    }
    fn with(&mut self, code: Code, a: Register, b: Register) -> bool {
        self.put(Instruction::with2(code, a, b).unwrap())
    }
    fn imm64(&mut self, r: Register, v: u64) {
        let i = Instruction::with2(Code::Mov_r64_imm64, r, v).unwrap();
        assert!(self.put(i));
    }
    fn fixed64(&mut self, r: Register, fix: Fix) {
        let i = Instruction::with2(Code::Mov_r64_imm64, r, 0x1234_5678_9abcu64).unwrap();
        assert!(self.put_fixed(i, fix));
    }
    fn branch(&mut self, code: Code, l: Label) {
        let i = Instruction::with_branch(code, self.at).unwrap();
        assert!(self.put_fixed(i, Fix::Branch(l)));
    }

    /// Exceptions do not need the program's stack.
    fn has_own_stack(&self) -> bool {
        self.shape.user || self.shape.long
    }

    fn gpr(&mut self) -> Register {
        loop {
            // The stolen ones more often.
            let n = match self.shape.wide {
                false => self.rng.below(8),
                true if self.rng.chance(30) => 10 + self.rng.below(2),
                true => self.rng.below(16),
            };
            if n != 4 || self.rng.chance(4) && self.has_own_stack() {
                return GPR64[n as usize];
            }
        }
    }
    fn sized(&mut self, first: Register) -> Register {
        let r = self.gpr();
        first + r.number() as u32
    }

    /// Where data may be, `size` bytes of it.
    fn address(&mut self, size: u64) -> u64 {
        let rng = &mut *self.rng;
        let host = HOST.get();
        if host != 0 && rng.chance(20) {
            return self.beyond(host);
        }
        let shape = self.shape;
        let base = rng.pick(&[shape.data(), shape.data(), DATA_LOW]);
        let size = size.max(1);
        let align = size.next_power_of_two().min(64);
        match rng.below(100) {
            0..=39 => base + (rng.below(0x3000 - size) & !(align - 1)),
            40..=51 => base + rng.below(0x3000 - size),
            52..=58 => base + 0x1000 * (1 + rng.below(2)) - size,
            59..=68 => base + 0x1000 * (1 + rng.below(2)) - rng.below(size),
            // Read-only, into it, a hole, into it.
            69..=72 => base + 0x3000 + rng.below(0xf00),
            73..=74 => base + 0x3000 - rng.below(size),
            75 => base + 0x4000 - rng.below(size),
            76..=77 => base + 0x4000 + rng.below(0x1000),
            // Aliases, the supervisor's, a device's, the last page and off its end.
            78..=81 => base + 0x5000 + rng.below(0x1000),
            82..=83 => base + 0x6000 + rng.below(0x1000),
            84..=85 => base + 0x7000 + rng.below(0x1000),
            86 => base + 0x8000 + (rng.below(0x1000 - size.min(0x400)) & !7),
            87..=88 => base + 0xa000 - rng.below(size),
            89..=90 => MOVING + (rng.below(0x1000) & !(align - 1)).min(0x1000 - size),
            // Beside code.
            91..=94 => {
                let page = rng.pick(&[shape.code_alias(), self.base]) + 0x2f00;
                page + (rng.below(0x100) & !(align - 1)).min(0x100u64.saturating_sub(size))
            }
            95 => rng.pick(&[shape.stack(), shape.stack() + 0x2000]) - rng.below(size),
            96 => shape.high() + 0x9800 + 0x400,
            97 => rng.pick(&[0, 0u64.wrapping_sub(size), 1u64.wrapping_sub(size), 8]),
            98 => {
                let edge = 0x0000_8000_0000_0000u64;
                rng.pick(&[edge, edge - 1, edge - size, edge.wrapping_neg() - 1, !edge])
            }
            _ => rng.next(),
        }
    }

    /// Where this process may be reached, about an address of it; for what goes through the window also
    /// by what is added there, about its ends, and with other upper bits.
    fn beyond(&mut self, host: u64) -> u64 {
        let rng = &mut *self.rng;
        if !self.shape.window {
            return host + rng.below(0x8000);
        }
        let moved = [WINDOW_ADDS, WINDOW_ADDS.wrapping_neg()].map(|by| host.wrapping_add(by));
        let at = match rng.below(8) {
            0..=1 => host.wrapping_add(rng.below(0x8000)),
            2..=4 => rng.pick(&moved).wrapping_add(rng.below(0x8000)),
            5 => {
                rng.pick(&[1u64 << 46, 1 << 47, 1 << 32])
                    .wrapping_add(rng.below(0x40))
                    - 0x20
            }
            _ => self.shape.data() + rng.below(0x3000),
        };
        match rng.below(6) {
            0 => at | 1 << 46,
            1 => at ^ 1 << (32 + rng.below(32)),
            2 => at ^ (rng.next() & 0xffff << 48),
            _ => at,
        }
    }

    /// Gives an instruction a memory operand; instructions that make its address go before.
    fn memory(&mut self, i: &mut Instruction, size: u64) -> Option<()> {
        let ea = self.address(size);
        let wide = self.shape.wide;
        if !wide && self.rng.chance(2) {
            return self.short_memory(i);
        }
        let narrow = wide && ea < 1 << 32 && self.rng.chance(12);
        if self.rng.chance(4) {
            let cs = if wide { Register::DS } else { Register::CS };
            let segment = self
                .rng
                .pick(&[Register::DS, Register::SS, Register::ES, cs]);
            i.set_segment_prefix(segment);
        }
        let form = self.rng.below(20);
        if form == 0 || form == 1 && !wide {
            // Relative to FS or GS, wherever that is.
            let segment = self.rng.pick(&[Register::FS, Register::GS]);
            i.set_segment_prefix(segment);
            if self.rng.chance(50) {
                i.set_memory_displ_size(8);
                i.set_memory_displacement64(self.rng.below(0x1000));
                return Some(());
            }
            let base = self.gpr();
            let mut value = self.rng.below(0x1800);
            if !wide && self.rng.chance(30) {
                value = value.wrapping_neg();
            }
            self.imm64(base, value);
            i.set_memory_base(base);
            return Some(());
        }
        let near = ea.wrapping_sub(self.at) as i64;
        if wide && (form == 1 || form == 2) && near == i64::from(near as i32) {
            i.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
            i.set_memory_displ_size(if narrow { 4 } else { 8 });
            i.set_memory_displacement64(ea);
            return Some(());
        }
        if form == 3 && (!wide || ea as i64 == i64::from(ea as i32)) {
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(ea);
            return Some(());
        }
        let base = self.gpr();
        let mut rest = match self.rng.below(4) {
            0 => 0,
            1 | 2 => self.rng.next() as i8 as i64 as u64,
            _ => (self.rng.next() as i32 >> self.rng.below(20)) as i64 as u64,
        };
        let short = rest as i64 == i64::from(rest as i8);
        i.set_memory_displ_size(match rest {
            0 if base.number() & 7 != 5 => 0,
            _ if short => 1,
            _ if narrow => 4,
            _ => 8,
        });
        i.set_memory_displacement64(if narrow { rest & 0xffff_ffff } else { rest });
        let index = self.gpr();
        if self.rng.chance(40) && index != base && index != Register::RSP {
            let scale = 1u64 << self.rng.below(4);
            let value = if self.rng.chance(80) {
                self.rng.below(0x400).wrapping_sub(0x200)
            } else {
                self.rng.edge()
            };
            let value = if narrow { value & 0xffff_ffff } else { value };
            self.imm64(index, value);
            i.set_memory_index(if narrow {
                Register::EAX + index.number() as u32
            } else {
                index
            });
            i.set_memory_index_scale(scale as u32);
            rest = rest.wrapping_add(value.wrapping_mul(scale));
        }
        let mut value = ea.wrapping_sub(rest);
        if narrow {
            value = value & 0xffff_ffff | self.rng.next() << 32;
        }
        if base == Register::RSP {
            // Seldom: the stack is elsewhere from here to the next synchronisation.
        }
        self.imm64(base, value);
        i.set_memory_base(if narrow {
            Register::EAX + base.number() as u32
        } else {
            base
        });
        Some(())
    }

    /// A memory operand of 16-bit registers, in the first page.
    fn short_memory(&mut self, i: &mut Instruction) -> Option<()> {
        let base = self.rng.pick(&[Register::BX, Register::BP]);
        let index = self.rng.pick(&[Register::SI, Register::DI, Register::None]);
        let (b, x) = (self.rng.edge(), self.rng.edge());
        self.imm64(Register::RAX + base.number() as u32, b);
        let mut sum = b;
        if index != Register::None {
            self.imm64(Register::RAX + index.number() as u32, x);
            sum = sum.wrapping_add(x);
        }
        let displacement = self.rng.below(0x1000).wrapping_sub(sum) & 0xffff;
        i.set_memory_base(base);
        i.set_memory_index(index);
        i.set_memory_displ_size(2);
        i.set_memory_displacement64(displacement);
        Some(())
    }

    fn operand(&mut self, i: &mut Instruction, n: u32) -> Option<()> {
        let info = i.op_code();
        let kind = info.op_kind(n);
        let size = info.memory_size().size() as u64;
        let memory = self.rng.chance(60);
        let r = self.rng.below(16) as u32;
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
                i.set_op_kind(n, OpKind::Memory);
                return self.memory(i, size);
            }
            Kind::mem => {
                i.set_op_kind(n, OpKind::Memory);
                return self.memory(i, size);
            }
            Kind::mem_offs => {
                let at = self.address(size);
                let narrow = !self.shape.wide || at < 1 << 32 && self.rng.chance(30);
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_displ_size(if narrow { 4 } else { 8 });
                i.set_memory_displacement64(at);
                return Some(());
            }
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
                if self.rng.chance(30) {
                    self.rng
                        .pick(&[Register::AH, Register::BH, Register::CH, Register::DH])
                } else {
                    let r = self.gpr();
                    match r.number() {
                        n @ 0..4 => Register::AL + n as u32,
                        n => Register::SPL + (n as u32 - 4),
                    }
                }
            }
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_reg_mem
            | Kind::r16_rm
            | Kind::r16_opcode => self.sized(Register::AX),
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_reg_mem
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv => self.sized(Register::EAX),
            Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_reg_mem
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv => self.gpr(),
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => Register::MM0 + (r & 7),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                Register::XMM0 + r
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                Register::YMM0 + r
            }
            Kind::seg_reg => Register::ES + r % 6,
            Kind::cr_reg => self
                .rng
                .pick(&[Register::CR0, Register::CR3, Register::CR4]),
            Kind::dr_reg => Register::DR0 + (r & 7),
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
            Kind::sti_opcode => Register::ST0 + (r & 7),
            _ => return self.other(i, n, kind),
        };
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
        Some(())
    }

    fn other(&mut self, i: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
        let second = n > 0 && matches!(i.op_kind(n - 1), OpKind::Immediate16 | OpKind::Immediate8);
        let value = self.rng.edge();
        match kind {
            Kind::imm8 if second => {
                i.set_op_kind(n, OpKind::Immediate8_2nd);
                i.set_immediate8_2nd(value as u8);
            }
            Kind::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(value as u8);
            }
            Kind::imm4_m2z => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(value as u8 & 15);
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
                i.set_immediate16(value as u16 & 0x1ff);
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
            Kind::seg_rSI => {
                let at = self.address(8);
                self.imm64(Register::RSI, at);
                i.set_op_kind(n, OpKind::MemorySegRSI);
            }
            Kind::es_rDI => {
                let at = self.address(8);
                self.imm64(Register::RDI, at);
                i.set_op_kind(n, OpKind::MemoryESRDI);
            }
            Kind::seg_rDI => {
                let at = self.address(16);
                self.imm64(Register::RDI, at);
                i.set_op_kind(n, OpKind::MemorySegRDI);
            }
            Kind::seg_rBX_al => {
                let at = self.address(1);
                self.imm64(Register::RBX, at);
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(Register::RBX);
                i.set_memory_index(Register::AL);
            }
            _ => return None,
        }
        Some(())
    }

    /// One instruction of the table with random operands.
    fn random(&mut self) {
        for _ in 0..20 {
            let code = if self.rng.chance(65) {
                self.rng.pick(COMMON)
            } else if self.shape.user {
                self.rng.pick(&self.rows.user)
            } else {
                self.rng.pick(&self.rows.supervisor)
            };
            let leave = matches!(code, Code::Leavew | Code::Leaved | Code::Leaveq);
            let enter = matches!(code, Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8);
            if (leave || enter) && !self.has_own_stack() {
                continue;
            }
            if self.attempt(code).is_some() {
                return;
            }
        }
    }

    fn attempt(&mut self, code: Code) -> Option<()> {
        let (length, at) = (self.items.len(), self.at);
        let done = self.try_one(code);
        if done.is_none() {
            self.items.truncate(length);
            self.at = at;
        }
        done
    }

    fn try_one(&mut self, code: Code) -> Option<()> {
        let info = code.op_code();
        let mut i = Instruction::default();
        i.set_code(code);
        if self.shape.wide {
            i.set_code_size(iced_x86::CodeSize::Code64);
        }
        for n in 0..info.op_count() {
            self.operand(&mut i, n)?;
        }
        let memory = i.op_count() > 0 && i.op0_kind() == OpKind::Memory;
        if info.can_use_lock_prefix() && memory && self.rng.chance(25) {
            i.set_has_lock_prefix(true);
        }
        let string = (0..i.op_count())
            .any(|n| matches!(i.op_kind(n), OpKind::MemorySegRSI | OpKind::MemoryESRDI));
        if string && self.rng.chance(70) {
            if info.can_use_repne_prefix() && self.rng.chance(50) {
                i.set_has_repne_prefix(true);
            } else if info.can_use_rep_prefix() {
                i.set_has_rep_prefix(true);
            }
            let count = if self.rng.chance(90) {
                self.rng.below(40)
            } else {
                self.rng.below(0x900)
            };
            self.imm64(Register::RCX, count);
        }
        let m = info.mnemonic();
        if matches!(m, Mnemonic::Xsave | Mnemonic::Xrstor | Mnemonic::Fxrstor) {
            return self.image(m);
        }
        if m == Mnemonic::Popfq && self.rng.chance(80) {
            // A value that does not single-step.
            let odd = self.rng.pick(&[0u64, 0, 0x20_7000, 0x3000]);
            let mut v = self.rng.next() & (0xed5 | odd) & !0x100 | 2;
            if self.rng.chance(4) {
                v |= 0x100;
            }
            let i = Instruction::with1(Code::Pushq_imm32, v as u32 as i32).unwrap();
            self.put(i).then_some(())?;
        }
        if m == Mnemonic::Xgetbv && self.rng.chance(90) {
            // Which state is in use: x87's pointers alone, which are not kept, must not make it so.
            self.put(Instruction::with(Code::Fninit));
            if self.rng.chance(50) {
                self.put(Instruction::with(Code::Fld1));
            }
            let v = self.rng.below(2);
            self.imm64(Register::RCX, v);
        }
        if matches!(m, Mnemonic::Div | Mnemonic::Idiv) && self.rng.chance(70) {
            self.with(Code::Xor_r32_rm32, Register::EDX, Register::EDX);
        }
        self.put(i).then_some(())?;
        // What the manuals leave undefined is not compared: it is set anew.
        let undefined = i.rflags_undefined();
        let logic = matches!(
            m,
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test
        );
        if undefined != 0 && !logic {
            let r = self.gpr();
            self.put(Instruction::with2(Code::Cmp_rm64_imm8, r, 3i32).unwrap());
        }
        Some(())
    }

    /// XSAVE to a place of its own, its x87 pointers wiped, and back.
    fn image(&mut self, m: Mnemonic) -> Option<()> {
        if self.shape.wide && m != Mnemonic::Fxrstor && self.rng.chance(60) {
            return self.other_image();
        }
        let at = self.shape.data() + 0x1000 + (self.rng.below(0x800) & !0x3f);
        let r = match self.shape.wide {
            true => self.rng.pick(&[Register::RBX, Register::R10, Register::R9]),
            false => Register::RBX,
        };
        self.imm64(r, at);
        self.imm64(Register::RAX, 7);
        self.imm64(Register::RDX, 0);
        let mem = |d| MemoryOperand::with_base_displ(r, d);
        let (save, load) = match m {
            Mnemonic::Fxrstor => (Code::Fxsave64_m512byte, Code::Fxrstor64_m512byte),
            _ => (Code::Xsave_mem, Code::Xrstor_mem),
        };
        // The header's reserved bytes must be zero, and XSAVE does not write them.
        for d in (512..576).step_by(4) {
            if save == Code::Xsave_mem {
                self.put(Instruction::with2(Code::Mov_rm32_imm32, mem(d), 0i32).unwrap());
            }
        }
        self.put(Instruction::with1(save, mem(0)).unwrap());
        for d in [8, 12, 16, 20] {
            self.put(Instruction::with2(Code::Mov_rm32_imm32, mem(d), 0i32).unwrap());
        }
        self.put(Instruction::with2(Code::Mov_rm16_imm16, mem(6), 0i32).unwrap());
        if save == Code::Xsave_mem {
            // Which state is in its initial configuration is the processor's to say.
            self.put(Instruction::with2(Code::Or_rm8_imm8, mem(512), 7i32).unwrap());
        }
        let n = self.rng.below(3);
        for _ in 0..n {
            self.random();
        }
        if self.rng.chance(70) {
            self.imm64(r, at);
            self.imm64(Register::RAX, 7);
            self.imm64(Register::RDX, 0);
            self.put(Instruction::with1(load, mem(0)).unwrap());
        }
        Some(())
    }

    /// The same with the other forms, which leave out what is in its initial configuration: so the
    /// place is cleared first, and nothing but the vector registers saved, which are not. At times
    /// across a page's end, misaligned, or with a header that is refused.
    fn other_image(&mut self) -> Option<()> {
        let place = if self.rng.chance(80) { 0x1000 } else { 0xd00 };
        let at = self.shape.data() + place + (self.rng.below(0x800) & !0x3f);
        let mask = self.rng.pick(&[6u64, 6, 6, 2, 4, !1]);
        let (save, load) = self.rng.pick(&[
            (Code::Xsave64_mem, Code::Xrstor64_mem),
            (Code::Xsaveopt_mem, Code::Xrstor_mem),
            (Code::Xsaveopt64_mem, Code::Xrstor64_mem),
            (Code::Xsavec_mem, Code::Xrstor_mem),
            (Code::Xsavec64_mem, Code::Xrstor64_mem),
            (Code::Xsaves_mem, Code::Xrstors_mem),
            (Code::Xsaves64_mem, Code::Xrstors64_mem),
        ]);
        if self.shape.user && matches!(save, Code::Xsaves_mem | Code::Xsaves64_mem) {
            return None;
        }
        self.imm64(Register::RAX, 0);
        self.imm64(Register::RCX, 104);
        self.imm64(Register::RDI, at);
        let mut clear = Instruction::with_rep_stosq(64).unwrap();
        clear.set_has_rep_prefix(true);
        self.put(clear).then_some(())?;
        let r = self
            .rng
            .pick(&[Register::RBX, Register::R10, Register::R9, Register::R11]);
        let odd = self.rng.chance(4);
        self.imm64(r, at + if odd { 8 } else { 0 });
        self.imm64(Register::RAX, mask);
        self.imm64(Register::RDX, mask >> 32);
        // Not all of them may be zero.
        for ymm in [Register::YMM3, Register::YMM9] {
            let ones = Instruction::with3(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, ymm, ymm, ymm);
            self.put(ones.unwrap()).then_some(())?;
        }
        let mem = |d| MemoryOperand::with_base_displ(r, d);
        self.put(Instruction::with1(save, mem(0)).unwrap());
        let n = self.rng.below(3);
        for _ in 0..n {
            self.random();
        }
        self.imm64(r, at);
        let bits = self.rng.pick(&[0i32, 0, 0, 0, 0, 1, 8]);
        self.put(Instruction::with2(Code::Or_rm8_imm8, mem(512), bits).unwrap());
        if self.rng.chance(5) {
            let at = self.rng.pick(&[26, 513, 520, 521, 527, 530]);
            self.put(Instruction::with2(Code::Xor_rm8_imm8, mem(at), -128i32).unwrap());
        }
        let mask = self.rng.pick(&[7u64, 7, 6, 2, 4, 1, !0]);
        self.imm64(Register::RAX, mask);
        self.imm64(Register::RDX, mask >> 32);
        self.put(Instruction::with1(load, mem(0)).unwrap());
        Some(())
    }

    fn condition(&mut self) -> Code {
        self.rng.pick(&[
            Code::Je_rel32_64,
            Code::Jne_rel32_64,
            Code::Jb_rel32_64,
            Code::Jae_rel32_64,
            Code::Jl_rel32_64,
            Code::Jg_rel32_64,
            Code::Js_rel32_64,
            Code::Jo_rel32_64,
            Code::Jp_rel32_64,
            Code::Jbe_rel32_64,
        ])
    }

    fn randoms(&mut self, at_most: u64) {
        let n = self.rng.below(at_most + 1);
        for _ in 0..n {
            self.random();
        }
    }

    /// An instruction whose last four bytes may be overwritten.
    fn marker(&mut self) {
        let l = match self.hungry.pop() {
            Some(l) => l,
            None => self.label(),
        };
        self.bind(l);
        let r = self.sized(Register::EAX);
        let v = self.rng.next() as i32;
        let code = self.rng.pick(&[
            Code::Mov_r32_imm32,
            Code::Add_rm32_imm32,
            Code::Xor_rm32_imm32,
        ]);
        let i = Instruction::with2(code, r, v).unwrap();
        assert!(self.put(i));
        self.markers.push(l);
    }

    /// Writes to code: behind, ahead, the next instruction; directly or through an alias.
    fn self_modify(&mut self) {
        let next = self.rng.chance(30);
        let target = if !next && !self.markers.is_empty() && self.rng.chance(50) {
            self.rng.pick(&self.markers)
        } else {
            let l = self.label();
            self.hungry.push(l);
            l
        };
        let alias = match self.rng.below(3) {
            0 => 0,
            1 => self.shape.code_alias().wrapping_sub(self.base),
            _ if self.shape.user => 0,
            _ => self.shape.code_high().wrapping_sub(self.base),
        };
        let r = loop {
            let r = self.gpr();
            if r != Register::RSP {
                break r;
            }
        };
        self.fixed64(r, Fix::Immediate(target, alias));
        let mem = MemoryOperand::with_base(r);
        let v = self.rng.next() as i32;
        let i = match self.rng.below(5) {
            0 => Instruction::with2(Code::Mov_rm8_imm8, mem, v & 0x7f),
            1 => Instruction::with2(Code::Xor_rm32_imm32, mem, v),
            2 => {
                let mut i = Instruction::with2(Code::Add_rm16_imm16, mem, v & 0x7fff).unwrap();
                i.set_has_lock_prefix(true);
                Ok(i)
            }
            3 => Instruction::with2(Code::Xchg_rm32_r32, mem, Register::R8D),
            _ => Instruction::with2(Code::Mov_rm32_imm32, mem, v),
        };
        assert!(self.put(i.unwrap()));
        if next {
            self.marker();
        }
    }

    /// A jump to what follows, in one of its forms; the code goes on elsewhere.
    fn far_away(&mut self) {
        let l = self.label();
        match self.rng.below(6) {
            0 => {
                let r = self.gpr();
                self.fixed64(r, Fix::Address(l, 0));
                self.put(Instruction::with1(Code::Jmp_rm64, r).unwrap());
            }
            1 => {
                let i = Instruction::with1(Code::Pushq_imm32, 0x1234_5678i32).unwrap();
                self.put_fixed(i, Fix::Pushed(l));
                let ret = if self.rng.chance(30) {
                    Instruction::with1(Code::Retnq_imm16, 16u32).unwrap()
                } else {
                    Instruction::with(Code::Retnq)
                };
                self.put(ret);
            }
            2 => {
                let slot = TABLE + 0x800 + 8 * self.rng.below(64);
                self.fixed64(Register::R11, Fix::Address(l, 0));
                let mem = MemoryOperand::with_displ(slot, 8);
                self.put(Instruction::with2(Code::Mov_rm64_r64, mem, Register::R11).unwrap());
                self.put(Instruction::with1(Code::Jmp_rm64, mem).unwrap());
            }
            3 => {
                self.fixed64(Register::R10, Fix::Address(l, 0));
                let i = Instruction::with1(Code::Push_r64, Register::R10).unwrap();
                self.put(i);
                let mem = MemoryOperand::with_base(Register::RSP);
                self.put(Instruction::with1(Code::Jmp_rm64, mem).unwrap());
            }
            _ => self.branch(Code::Jmp_rel32_64, l),
        }
        // To the other pages or a little further.
        let offset = self.at - self.base;
        self.at = self.base
            + match offset {
                0..0x1200 => 0x1fa0 + self.rng.below(0x80),
                _ => offset + self.rng.below(0x40),
            };
        self.bind(l);
        self.put(Instruction::with(Code::Nopd));
    }

    /// Keeps code off the data beside it.
    fn avoid(&mut self) {
        let offset = self.at - self.base;
        if (0x2d00..0x3000).contains(&offset) {
            let l = self.label();
            self.branch(Code::Jmp_rel32_64, l);
            self.at = self.base + 0x3000;
            self.bind(l);
            self.put(Instruction::with(Code::Nopd));
        }
    }

    fn call(&mut self) {
        let (function, after) = (self.label(), self.label());
        match self.rng.below(5) {
            0 => {
                let r = self.gpr();
                self.fixed64(r, Fix::Address(function, 0));
                self.put(Instruction::with1(Code::Call_rm64, r).unwrap());
            }
            1 => {
                let slot = TABLE + 0x800 + 8 * self.rng.below(64);
                self.fixed64(Register::R11, Fix::Address(function, 0));
                let mem = MemoryOperand::with_displ(slot, 8);
                self.put(Instruction::with2(Code::Mov_rm64_r64, mem, Register::R11).unwrap());
                self.put(Instruction::with1(Code::Call_rm64, mem).unwrap());
            }
            _ => self.branch(Code::Call_rel32_64, function),
        }
        self.randoms(2);
        self.branch(Code::Jmp_rel32_64, after);
        self.bind(function);
        let push = Instruction::with1(Code::Push_r64, Register::RBP).unwrap();
        self.put(push);
        self.with(Code::Mov_rm64_r64, Register::RBP, Register::RSP);
        self.randoms(4);
        if self.rng.chance(60) {
            // Find the frame again, whatever has become of RBP.
            self.put(Instruction::with(Code::Leaveq));
        } else {
            let pop = Instruction::with1(Code::Pop_r64, Register::RBP).unwrap();
            self.put(pop);
        }
        self.put(Instruction::with(Code::Retnq));
        self.bind(after);
        self.put(Instruction::with(Code::Nopd));
    }

    /// A loop with its counter in memory.
    fn repeat(&mut self) {
        let slot = TABLE + 8 * (self.counters % 128);
        self.counters += 1;
        let mem = MemoryOperand::with_displ(slot, 8);
        let times = 2 + self.rng.below(6) as i32;
        self.put(Instruction::with2(Code::Mov_rm32_imm32, mem, times).unwrap());
        let l = self.label();
        self.bind(l);
        self.put(Instruction::with(Code::Nopd));
        let n = 1 + self.rng.below(6);
        for _ in 0..n {
            self.one();
        }
        self.put(Instruction::with1(Code::Dec_rm32, mem).unwrap());
        self.branch(Code::Jne_rel32_64, l);
    }

    /// What only the supervisor can do.
    fn supervisor(&mut self) {
        let al = |b: &mut Self, v: u64| {
            b.put(Instruction::with2(Code::Mov_r8_imm8, Register::AL, v as i32).unwrap());
        };
        let reload = |b: &mut Self| {
            b.with(Code::Mov_r64_cr, Register::RAX, Register::CR3);
            b.with(Code::Mov_cr_r64, Register::CR3, Register::RAX);
        };
        match self.rng.below(12) {
            0 => {
                self.put(Instruction::with(Code::Cli));
            }
            1 | 2 => {
                self.put(Instruction::with(Code::Sti));
            }
            3 => reload(self),
            4..=6 => {
                // The moving page: elsewhere, read-only, gone, the supervisor's.
                let entry = self.entries.moving;
                let at = crate::world::DATA_AT + 0x1000 * self.rng.below(4);
                let bits = self.rng.pick(&[7u64, 7, 5, 3, 0, 0x67]);
                self.imm64(Register::RDX, entry);
                self.imm64(Register::RAX, at | bits);
                let mem = MemoryOperand::with_base(Register::RDX);
                self.put(Instruction::with2(Code::Mov_rm64_r64, mem, Register::RAX).unwrap());
                // With spaces that are kept, only INVLPG is for all of them.
                if self.shape.spaces || self.rng.chance(60) {
                    let mem = MemoryOperand::with_displ(MOVING, 8);
                    self.put(Instruction::with1(Code::Invlpg_m, mem).unwrap());
                } else {
                    reload(self);
                }
            }
            7 if self.shape.wide => {
                self.put(Instruction::with(Code::Swapgs));
            }
            8 => {
                let code = if self.rng.chance(50) {
                    Code::Stac
                } else {
                    Code::Clac
                };
                self.put(Instruction::with(code));
            }
            9 => {
                // IRET to what follows, with flags of all kinds.
                let l = self.label();
                let odd = self.rng.pick(&[0u64, 0, 0x21_0000, 0x3000]);
                let flags = self.rng.next() & (0xed5 | odd) & !0x100 | 2;
                let frame = [0x10, self.shape.stack() + 0x1800, flags, 8];
                for v in &frame[if self.shape.long { 0 } else { 2 }..] {
                    let v = *v;
                    self.put(Instruction::with1(Code::Pushq_imm32, v as i32).unwrap());
                }
                self.fixed64(Register::R11, Fix::Address(l, 0));
                let i = Instruction::with1(Code::Push_r64, Register::R11).unwrap();
                self.put(i);
                self.put(Instruction::with(Code::Iretq));
                self.bind(l);
                self.put(Instruction::with(Code::Nopd));
            }
            10 => {
                // CR0.WP, CR4.SMAP and the like.
                self.with(Code::Mov_r64_cr, Register::RAX, Register::CR0);
                let i = Instruction::with2(Code::Xor_rm32_imm32, Register::EAX, 0x1_0000i32);
                self.put(i.unwrap());
                self.with(Code::Mov_cr_r64, Register::CR0, Register::RAX);
            }
            _ if !self.shape.wide => {
                self.put(Instruction::with(Code::Pushad));
                self.put(Instruction::with(Code::Popad));
            }
            _ => {
                let v = self.rng.below(16);
                al(self, v);
                self.with(Code::Mov_cr_r64, Register::CR8, Register::RAX);
            }
        }
    }

    /// FS or GS loaded: with a base, with a limit, not to be written, flat, null.
    fn segment(&mut self) {
        let all = [BASED, BASED, LIMITED, READ_ONLY, UDATA, 0];
        let selector = self.rng.pick(&all);
        let r = self.gpr();
        self.imm64(r, selector.into());
        let segment = self.rng.pick(&[Register::FS, Register::GS]);
        if self.rng.chance(50) {
            let r = Register::EAX + r.number() as u32;
            self.with(Code::Mov_Sreg_r32m16, segment, r);
        } else {
            self.put(Instruction::with1(Code::Push_r64, r).unwrap());
            let pop = match segment {
                Register::FS => Code::Popd_FS,
                _ => Code::Popd_GS,
            };
            self.put(Instruction::with1(pop, segment).unwrap());
        }
    }

    /// A loop by ECX.
    fn count(&mut self) {
        let times = self.rng.below(4);
        self.imm64(Register::RCX, times);
        let (l, after) = (self.label(), self.label());
        self.branch(Code::Jecxz_rel8_32, after);
        self.bind(l);
        let r = self
            .rng
            .pick(&[Register::EAX, Register::EBX, Register::EDX]);
        self.put(Instruction::with1(Code::Dec_rm32, r).unwrap());
        let code = self.rng.pick(&[
            Code::Loop_rel8_32_ECX,
            Code::Loope_rel8_32_ECX,
            Code::Loopne_rel8_32_ECX,
        ]);
        self.branch(code, l);
        self.bind(after);
        self.put(Instruction::with(Code::Nopd));
    }

    /// One piece of a program.
    fn one(&mut self) {
        self.avoid();
        match self.rng.below(100) {
            0..=61 => self.random(),
            62..=69 => self.marker(),
            70..=75 => self.self_modify(),
            76..=79 if !self.shape.user => self.supervisor(),
            80..=83 => {
                // An interrupt asked for, now or when IF is set.
                let v = if self.rng.chance(25) {
                    8
                } else {
                    self.rng.below(8)
                };
                let i = Instruction::with2(Code::Mov_r8_imm8, Register::AL, v as i32).unwrap();
                self.put(i);
                let i = Instruction::with2(Code::Out_imm8_AL, 0x81i32, Register::AL).unwrap();
                self.put(i);
            }
            84 => {
                self.put(Instruction::with(Code::Int3));
            }
            85 | 98 if !self.shape.wide => self.segment(),
            99 if !self.shape.wide => self.count(),
            85 | 98 if self.shape.user => {
                self.put(Instruction::with(Code::Syscall));
            }
            86 => {
                self.put(Instruction::with1(Code::Int_imm8, 0x40i32).unwrap());
            }
            87 => {
                self.put(Instruction::with(Code::Ud2));
            }
            88..=93 => {
                // A register on its way through the stack.
                let (a, b) = (self.gpr(), self.gpr());
                self.put(Instruction::with1(Code::Push_r64, a).unwrap());
                self.put(Instruction::with1(Code::Pop_r64, b).unwrap());
            }
            94..=96 => {
                // Exceptions of floating point that are not masked.
                let v = self.rng.next() as i32 & 0xffbf;
                let mem = MemoryOperand::with_base_displ(Register::RSP, -64);
                self.put(Instruction::with2(Code::Mov_rm32_imm32, mem, v).unwrap());
                if self.rng.chance(50) {
                    self.put(Instruction::with1(Code::Ldmxcsr_m32, mem).unwrap());
                } else {
                    self.put(Instruction::with1(Code::Fldcw_m2byte, mem).unwrap());
                }
            }
            97 => {
                self.put(Instruction::with(Code::Fninit));
            }
            _ => self.random(),
        }
    }

    fn make(&mut self) -> Option<Vec<usize>> {
        let mut syncs = Vec::new();
        let segments = 2 + self.rng.below(6);
        for _ in 0..segments {
            self.imm64(Register::RSP, self.shape.stack() + 0x1800);
            let host = HOST.get();
            if host != 0 && self.shape.window && self.rng.chance(20) {
                let to = self.beyond(host);
                self.imm64(Register::RSP, to);
            }
            for _ in 0..2 {
                let r = self.gpr();
                if r != Register::RSP {
                    let v = self.address(16);
                    self.imm64(r, v);
                }
            }
            let pieces = 3 + self.rng.below(10);
            let mut open: Vec<(Label, u64)> = Vec::new();
            for n in 0..pieces {
                for k in (0..open.len()).rev() {
                    if open[k].1 <= n {
                        let (l, _) = open.swap_remove(k);
                        self.bind(l);
                        self.put(Instruction::with(Code::Nopd));
                    }
                }
                match self.rng.below(20) {
                    0..=2 => {
                        let l = self.label();
                        let code = self.condition();
                        self.branch(code, l);
                        open.push((l, n + 1 + self.rng.below(4)));
                    }
                    3..=5 => self.repeat(),
                    6 => self.call(),
                    7 => self.far_away(),
                    8..=11 if self.shape.hard => self.hard(),
                    _ => self.one(),
                }
            }
            self.avoid();
            for (l, _) in open {
                self.bind(l);
            }
            syncs.push(self.items.len());
            let i = Instruction::with2(Code::Out_imm8_AL, 0x80i32, Register::AL).unwrap();
            assert!(self.put(i));
        }
        syncs.push(self.items.len());
        let i = Instruction::with2(Code::Out_imm8_AL, 0x84i32, Register::AL).unwrap();
        assert!(self.put(i));
        while !self.hungry.is_empty() {
            self.marker();
        }
        let end = self.at - self.base;
        (end < CODE_PAGES * 0x1000).then_some(syncs)
    }
}
