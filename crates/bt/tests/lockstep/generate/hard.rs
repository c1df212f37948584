//! Pieces of programs aimed at what translators get wrong about memory: accesses by one base that
//! lie at the border of two pages with different rights, the stack there, REP across it, code that
//! is written by anything but a plain store, views and address spaces that change.

use super::{Builder, Fix};
use crate::world::{CODE_AT, CODE_PAGES, DATA_LOW, MOVING, SECOND_TABLES, TABLES};
use iced_x86::{Code, Instruction, MemoryOperand, Register};

/// Accesses by a base register: the code, bytes, and whether the other operand is a general
/// register, a vector register or a small constant.
const ACCESSES: &[(Code, u64, Other)] = &[
    (Code::Mov_r64_rm64, 8, Other::Load),
    (Code::Mov_r32_rm32, 4, Other::Load),
    (Code::Movzx_r32_rm8, 1, Other::Load),
    (Code::Movzx_r32_rm16, 2, Other::Load),
    (Code::Add_r64_rm64, 8, Other::Load),
    (Code::Cmp_r64_rm64, 8, Other::Load),
    (Code::Cmp_rm32_r32, 4, Other::Store),
    (Code::Mov_rm64_r64, 8, Other::Store),
    (Code::Mov_rm64_r64, 8, Other::Store),
    (Code::Mov_rm32_r32, 4, Other::Store),
    (Code::Mov_rm16_r16, 2, Other::Store),
    (Code::Add_rm64_r64, 8, Other::Store),
    (Code::Xchg_rm64_r64, 8, Other::Store),
    (Code::Xadd_rm32_r32, 4, Other::Store),
    (Code::Cmpxchg_rm64_r64, 8, Other::Store),
    (Code::Mov_rm64_imm32, 8, Other::Constant),
    (Code::Mov_rm8_imm8, 1, Other::Constant),
    (Code::Or_rm32_imm8, 4, Other::Constant),
    (Code::Movups_xmm_xmmm128, 16, Other::VectorLoad),
    (Code::Movsd_xmm_xmmm64, 8, Other::VectorLoad),
    (Code::Movups_xmmm128_xmm, 16, Other::VectorStore),
    (Code::Movd_rm32_xmm, 4, Other::VectorStore),
    (Code::VEX_Vmovups_ymmm256_ymm, 32, Other::VectorStore),
];

/// The operand beside the memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    Load,
    Store,
    Constant,
    VectorLoad,
    VectorStore,
}

impl Builder<'_> {
    /// One of the pieces of this file.
    pub(super) fn hard(&mut self) {
        match self.rng.below(16) {
            0..=5 => self.group(),
            6 | 7 => self.stack_border(),
            8..=10 => self.repeat_across(),
            11 | 12 => self.write_code_oddly(),
            13 if self.shape.spaces && self.rng.chance(40) => self.split(),
            13 if self.shape.spaces => self.switch_space(),
            13 | 14 if !self.shape.user => self.views(),
            _ => self.group(),
        }
    }

    /// A place near the border of two pages of data: there are all combinations of rights.
    fn border(&mut self) -> u64 {
        let base = self.rng.pick(&[self.shape.data(), DATA_LOW, DATA_LOW]);
        let page = match self.rng.below(8) {
            // What runs through is as important as what faults.
            0..=3 => 1 + self.rng.below(2),
            _ => 1 + self.rng.below(10),
        };
        let border = base + 0x1000 * page;
        match self.rng.below(20) {
            0 => MOVING + self.rng.pick(&[0, 0x1000]),
            1 => self.shape.stack() + 0x1000 * self.rng.below(3),
            _ => border,
        }
    }

    /// Accesses by one base register with other things between.
    fn group(&mut self) {
        let base = loop {
            let r = self.gpr();
            if r != Register::RSP {
                break r;
            }
        };
        let spread = self.rng.pick(&[8u64, 32, 64, 256, 0x1000]);
        let at = self
            .border()
            .wrapping_add(self.rng.below(2 * spread))
            .wrapping_sub(spread);
        let far = self.rng.pick(&[0u64, 0, 0x7000, 0x7fff_0000]);
        let segment = if self.shape.wide && self.rng.chance(8) {
            self.based_segment(at)
        } else {
            Register::None
        };
        let first = if segment == Register::None {
            at
        } else {
            self.rng.below(64)
        };
        self.imm64(base, first.wrapping_sub(far));
        let n = 2 + self.rng.below(7);
        let mut open = None;
        for k in 0..n {
            self.access(base, far, spread, segment);
            match self.rng.below(12) {
                0 => {
                    let by = self.rng.below(32) as i32 - 16;
                    let i = Instruction::with2(Code::Add_rm64_imm8, base, by);
                    self.put(i.unwrap());
                }
                1 => {
                    let by = self.rng.below(0x2000) as i64 - 0x1000;
                    let mem = MemoryOperand::with_base_displ(base, by);
                    self.put(Instruction::with2(Code::Lea_r64_m, base, mem).unwrap());
                }
                2 => self.random(),
                3 if open.is_none() && k + 1 < n => {
                    let l = self.label();
                    let condition = self.condition();
                    self.branch(condition, l);
                    open = Some(l);
                }
                4 => {
                    let (a, b) = (self.gpr(), self.gpr());
                    if a != Register::RSP {
                        self.with(Code::Mov_r64_rm64, a, b);
                    }
                }
                5 => {
                    // Through the base itself: it may be anything then.
                    let other = self.gpr();
                    self.put(Instruction::with1(Code::Push_r64, base).unwrap());
                    self.put(Instruction::with1(Code::Pop_r64, other).unwrap());
                }
                _ => {}
            }
        }
        if let Some(l) = open {
            self.bind(l);
        }
        self.put(Instruction::with(Code::Nopd));
    }

    fn access(&mut self, base: Register, far: u64, spread: u64, segment: Register) {
        let (code, size, other) = self.rng.pick(ACCESSES);
        let align = if self.rng.chance(60) { size } else { 1 };
        let offset = (self.rng.below(2 * spread) & !(align - 1)) as i64 - spread as i64;
        let displacement = (far as i64).wrapping_add(offset);
        let mut mem = MemoryOperand::with_base_displ(base, displacement);
        mem.segment_prefix = segment;
        let small = |r: Register| match size {
            8 => r,
            2 => Register::AX + r.number() as u32,
            _ => Register::EAX + r.number() as u32,
        };
        let vector = |n: u64| match size {
            32 => Register::YMM0 + n as u32,
            _ => Register::XMM0 + n as u32,
        };
        let r = self.gpr();
        let n = self.rng.below(8);
        let value = self.rng.next() as i8;
        let mut i = match other {
            Other::Load => Instruction::with2(code, small(r), mem),
            Other::Store => Instruction::with2(code, mem, small(r)),
            Other::Constant => Instruction::with2(code, mem, i32::from(value)),
            Other::VectorLoad => Instruction::with2(code, vector(n), mem),
            Other::VectorStore => Instruction::with2(code, mem, vector(n)),
        }
        .unwrap();
        let locks = matches!(
            code,
            Code::Add_rm64_r64 | Code::Xadd_rm32_r32 | Code::Cmpxchg_rm64_r64 | Code::Or_rm32_imm8
        );
        if locks && self.rng.chance(30) {
            i.set_has_lock_prefix(true);
        }
        if r != Register::RSP || other == Other::Store {
            self.put(i);
        }
    }

    /// FS or GS with its base at `at`, by WRFSBASE or WRGSBASE.
    fn based_segment(&mut self, at: u64) -> Register {
        let r = self
            .rng
            .pick(&[Register::RAX, Register::R10, Register::R11]);
        self.imm64(r, at);
        let (code, segment) = self.rng.pick(&[
            (Code::Wrfsbase_r64, Register::FS),
            (Code::Wrgsbase_r64, Register::GS),
        ]);
        self.put(Instruction::with1(code, r).unwrap());
        segment
    }

    /// The stack at the border of two pages.
    fn stack_border(&mut self) {
        if !self.has_own_stack() {
            return self.group();
        }
        let around = self.rng.below(0x60).wrapping_sub(0x30);
        let align = self.rng.pick(&[!7u64, !7, !1, !0]);
        let at = self.border().wrapping_add(around & align);
        self.imm64(Register::RSP, at);
        for _ in 0..2 + self.rng.below(6) {
            let r = loop {
                let r = self.gpr();
                if r != Register::RSP {
                    break r;
                }
            };
            match self.rng.below(9) {
                0 | 1 => {
                    self.put(Instruction::with1(Code::Push_r64, r).unwrap());
                }
                2 | 3 => {
                    self.put(Instruction::with1(Code::Pop_r64, r).unwrap());
                }
                4 => {
                    self.put(Instruction::with(Code::Pushfq));
                }
                5 => {
                    let mem = MemoryOperand::with_base_displ(Register::RSP, 8);
                    self.put(Instruction::with1(Code::Push_rm64, mem).unwrap());
                }
                6 => {
                    let mem = MemoryOperand::with_base_displ(Register::RSP, -16);
                    self.put(Instruction::with2(Code::Mov_rm64_r64, mem, r).unwrap());
                }
                7 => {
                    // A call to what follows; its return address stays.
                    let l = self.label();
                    self.branch(Code::Call_rel32_64, l);
                    self.bind(l);
                    self.put(Instruction::with(Code::Nopd));
                }
                _ => {
                    let mem = MemoryOperand::with_base_displ(Register::RSP, 8);
                    self.put(Instruction::with1(Code::Pop_rm64, mem).unwrap());
                }
            }
        }
        self.imm64(Register::RSP, self.shape.stack() + 0x1800);
    }

    /// REP MOVS, STOS, CMPS or SCAS from one page into the next, where something may be wrong.
    fn repeat_across(&mut self) {
        let code = self.rng.pick(&[
            Code::Movsb_m8_m8,
            Code::Movsq_m64_m64,
            Code::Movsd_m32_m32,
            Code::Movsw_m16_m16,
            Code::Stosb_m8_AL,
            Code::Stosq_m64_RAX,
            Code::Stosd_m32_EAX,
            Code::Scasb_AL_m8,
            Code::Cmpsb_m8_m8,
            Code::Lodsb_AL_m8,
        ]);
        let down = self.rng.chance(20);
        let length = 1 + self.rng.below(0x60);
        let place = |b: &mut Self| {
            let before = b.rng.below(2 * length);
            if down {
                b.border().wrapping_add(before)
            } else {
                b.border().wrapping_sub(before)
            }
        };
        let from = place(self);
        let to = match self.rng.below(4) {
            // Over itself.
            0 => from.wrapping_add(self.rng.below(24)).wrapping_sub(8),
            _ => place(self),
        };
        self.imm64(Register::RSI, from);
        self.imm64(Register::RDI, to);
        let count = match self.rng.below(10) {
            0 => 0,
            1 => self.rng.below(0x600),
            _ => length,
        };
        self.imm64(Register::RCX, count);
        if self.rng.chance(40) {
            let r = self.gpr();
            self.put(Instruction::with2(Code::Cmp_rm64_imm8, r, 3i32).unwrap());
        }
        if down {
            self.put(Instruction::with(Code::Std));
        }
        if !self.shape.wide {
            return self.random();
        }
        // `with` is for instructions without operands.
        let mut i = Instruction::default();
        i.set_code(code);
        for n in 0..i.op_count() {
            use iced_x86::OpCodeOperandKind as Kind;
            use iced_x86::OpKind;
            match code.op_code().op_kind(n) {
                Kind::seg_rSI => i.set_op_kind(n, OpKind::MemorySegRSI),
                Kind::es_rDI => i.set_op_kind(n, OpKind::MemoryESRDI),
                Kind::al => i.set_op_register(n, Register::AL),
                Kind::eax => i.set_op_register(n, Register::EAX),
                Kind::rax => i.set_op_register(n, Register::RAX),
                _ => {}
            }
        }
        let compares = matches!(code, Code::Scasb_AL_m8 | Code::Cmpsb_m8_m8);
        if compares && self.rng.chance(50) {
            i.set_has_repne_prefix(true);
        } else {
            i.set_has_rep_prefix(true);
        }
        self.put(i);
        self.put(Instruction::with(Code::Cld));
        if self.rng.chance(40) {
            let l = self.label();
            let condition = self.condition();
            self.branch(condition, l);
            self.random();
            self.bind(l);
            self.put(Instruction::with(Code::Nopd));
        }
    }

    /// Code of this block or another written by a string instruction, a vector register, a push, a
    /// compare-and-exchange, a device.
    fn write_code_oddly(&mut self) {
        let target = if !self.markers.is_empty() && self.rng.chance(30) {
            self.rng.pick(&self.markers)
        } else {
            let l = self.label();
            self.hungry.push(l);
            l
        };
        match self.rng.below(5) {
            0 if self.shape.wide => {
                self.fixed64(Register::RDI, Fix::Immediate(target, 0));
                self.imm64(Register::RCX, 1);
                let mut i = Instruction::default();
                i.set_code(Code::Stosd_m32_EAX);
                i.set_op_kind(0, iced_x86::OpKind::MemoryESRDI);
                i.set_op_register(1, Register::EAX);
                i.set_has_rep_prefix(true);
                self.put(i);
            }
            1 => {
                self.fixed64(Register::RBX, Fix::Immediate(target, 0));
                let mem = MemoryOperand::with_base(Register::RBX);
                self.put(Instruction::with2(Code::Movd_rm32_xmm, mem, Register::XMM3).unwrap());
            }
            2 => {
                self.fixed64(Register::RBX, Fix::Immediate(target, 0));
                let mem = MemoryOperand::with_base(Register::RBX);
                let mut i = Instruction::with2(Code::Xadd_rm32_r32, mem, Register::EDX).unwrap();
                i.set_has_lock_prefix(self.rng.chance(50));
                self.put(i);
            }
            _ => {
                // By a device: the port takes the place in memory.
                let at = CODE_AT.wrapping_sub(self.base);
                self.fixed64(Register::RAX, Fix::Immediate(target, at));
                let i = Instruction::with2(Code::Out_imm8_EAX, 0x85i32, Register::EAX);
                self.put(i.unwrap());
            }
        }
        if self.hungry.last() == Some(&target) && self.rng.chance(70) {
            self.randoms(2);
            self.marker();
        }
    }

    /// STAC, accesses, CLAC, accesses.
    fn views(&mut self) {
        let at = self.border();
        let base = self.rng.pick(&[Register::RBX, Register::RDX]);
        self.imm64(base, at);
        for code in [Code::Stac, Code::Clac] {
            self.put(Instruction::with(code));
            for _ in 0..1 + self.rng.below(3) {
                self.access(base, 0, 32, Register::None);
            }
        }
    }

    /// Another address space, in which [`MOVING`] is elsewhere, kept or flushed.
    /// The large page with the program becomes a table of small ones, or large again.
    fn split(&mut self) {
        let (entry, values) = self.entries.frame;
        let value = self.rng.pick(&values);
        let page = self.shape.code_high() + 0x1000 * self.rng.below(CODE_PAGES);
        self.imm64(Register::RDX, entry);
        self.imm64(Register::RAX, value);
        let mem = MemoryOperand::with_base(Register::RDX);
        self.put(Instruction::with2(Code::Mov_rm64_r64, mem, Register::RAX).unwrap());
        let mem = MemoryOperand::with_displ(page, 8);
        self.put(Instruction::with1(Code::Invlpg_m, mem).unwrap());
    }

    fn switch_space(&mut self) {
        let table = self.rng.pick(&[TABLES, SECOND_TABLES | 2]);
        let keep = if self.rng.chance(70) { 1 << 63 } else { 0 };
        self.imm64(Register::RAX, table | keep);
        self.with(Code::Mov_cr_r64, Register::CR3, Register::RAX);
        self.imm64(Register::RBX, MOVING + 0x40);
        for _ in 0..1 + self.rng.below(4) {
            self.access(Register::RBX, 0, 64, Register::None);
        }
    }
}
