//! 32-bit code: protected mode and compatibility mode.
//!
//! EAX to EDI are the host's registers of the same numbers. No instruction of 32-bit code looks at
//! their upper halves here, since every address is cut to 32 bits as it is made. R8 to R15 are not
//! the guest's: R10 and R11 do what they do elsewhere, and R9 is a third scratch register
//! ([`crate::vcpu`] keeps what a 64-bit kernel has in them).
//!
//! Host code is 64-bit code, so instructions are encoded anew; the opcodes that mean something
//! else there (INC, DEC, stack and branches) have forms of their own, and those that do not exist
//! there (BOUND, AAA, PUSHA, LES …) are the interpreter's.
//!
//! CS, SS, DS and ES are flat, or the interpreter is at work. FS and GS have a base, and a bar on
//! top of it ([`crate::area::Area::fs_bar`]) where they have a limit or a right to be checked.

use super::plain::at_place;
use super::{Address, Building, Class, Translator, field, strings_32};
use crate::area::BARRED;
use crate::emit::{Mem, R10, R11, RSP};
use iced_x86::{Code, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register};
use x86::exec::Exec;
use x86::mmu::Access;
use x86::state::cr4;
use x86::table::{Privilege, Row, Sensitivity};

/// Third scratch register.
const R9: u8 = 9;
/// EBP.
const RBP: u8 = 5;

impl Translator {
    /// What is done with an instruction of 32-bit code that is valid now.
    pub(super) fn class_32(&self, x: &Exec<'_>, row: &Row, i: &Instruction) -> Class {
        if self.switches.inline_sensitive
            && let Some(class) = sensitive(x, i)
        {
            return class;
        }
        if matches!(i.code(), Code::Rdtsc | Code::Rdtscp) {
            return self.time_stamp(x);
        }
        if let Some(class) = strings_32::class(i) {
            return class;
        }
        let near = i.op_count() == 1 && i.op0_kind() == OpKind::NearBranch32;
        match i.flow_control() {
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch if near => return Class::Jump,
            FlowControl::ConditionalBranch if near && i.is_jcc_short_or_near() => {
                return Class::Conditional;
            }
            FlowControl::Call if near => return Class::Call,
            FlowControl::IndirectBranch if i.code() == Code::Jmp_rm32 => {
                return Class::JumpIndirect;
            }
            FlowControl::IndirectCall if i.code() == Code::Call_rm32 => {
                return Class::CallIndirect;
            }
            FlowControl::Return if matches!(i.code(), Code::Retnd | Code::Retnd_imm16) => {
                return Class::Return;
            }
            _ => return Class::Interpret,
        }
        if row.privilege != Privilege::Any || row.sensitivity != Sensitivity::Innocuous {
            return Class::Interpret;
        }
        // Code segments are not written.
        let memory = (0..i.op_count()).any(|k| i.op_kind(k) == OpKind::Memory);
        if memory && i.memory_segment() == Register::CS {
            return Class::Interpret;
        }
        match i.code() {
            Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm32 | Code::Pushd_imm8 => Class::Push,
            Code::Pop_r32 => Class::Pop,
            Code::Leaved => Class::Leave,
            Code::Pause => Class::Plain,
            Code::Bt_rm32_r32 | Code::Bts_rm32_r32 | Code::Btr_rm32_r32 | Code::Btc_rm32_r32
                if memory =>
            {
                Class::BitString
            }
            Code::Bt_rm16_r16 | Code::Bts_rm16_r16 | Code::Btr_rm16_r16 | Code::Btc_rm16_r16
                if memory =>
            {
                Class::Interpret
            }
            _ => match i.mnemonic() {
                Mnemonic::Aaa
                | Mnemonic::Aas
                | Mnemonic::Aad
                | Mnemonic::Aam
                | Mnemonic::Daa
                | Mnemonic::Das
                | Mnemonic::Salc
                | Mnemonic::Into
                | Mnemonic::Bound
                | Mnemonic::Arpl
                | Mnemonic::Lds
                | Mnemonic::Les => Class::Interpret,
                _ => self.ordinary(i),
            },
        }
    }
}

/// The sensitive instructions that are replaced by code of ours.
fn sensitive(x: &Exec<'_>, i: &Instruction) -> Option<Class> {
    let ring = x.s.cpl;
    Some(match i.code() {
        Code::Pushfd => Class::PushFlags,
        Code::Popfd if ring == 0 || ring == 3 => Class::PopFlags,
        Code::Cli if ring == 0 => Class::Cli,
        Code::Sti if ring == 0 => Class::Sti,
        Code::Mov_r32m16_Sreg if i.op0_kind() == OpKind::Register => Class::Selector,
        Code::Pushd_ES
        | Code::Pushd_CS
        | Code::Pushd_SS
        | Code::Pushd_DS
        | Code::Pushd_FS
        | Code::Pushd_GS => Class::Push,
        Code::Stac | Code::Clac if ring == 0 && x.s.cr4 & cr4::SMAP != 0 => Class::UserAccess,
        _ => return None,
    })
}

/// The same instruction in an encoding that 64-bit code has.
fn native_code(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        other => other,
    }
}

/// Where a selector is.
fn selector(segment: Register) -> Mem {
    match segment {
        Register::CS => field::cs,
        Register::SS => field::ss,
        Register::DS => field::ds,
        Register::ES => field::es,
        Register::FS => field::fs,
        _ => field::gs,
    }
}

impl Building<'_, '_> {
    /// Bytes that a push of the code's own size moves the stack.
    pub(super) fn stack_width(&self) -> i32 {
        if self.source.view.is_32bit() { 4 } else { 8 }
    }

    /// Adds to the stack pointer.
    pub(super) fn move_stack(&mut self, by: i32) {
        if self.source.view.is_32bit() {
            self.asm.lea32(RSP, Mem::base(RSP, by));
        } else {
            self.asm.lea(RSP, Mem::base(RSP, by));
        }
    }

    /// As [`Self::instruction`] for what differs in 32-bit code.
    pub(super) fn instruction_32(&mut self, i: &Instruction, class: Class) -> Option<bool> {
        match class {
            Class::Plain => return Some(self.plain_32(i)),
            Class::Lea => return Some(self.lea_32(i)),
            Class::BitString => return Some(self.bit_string_32(i)),
            Class::String => self.string_32(i),
            Class::Loop => {
                self.count(i);
                return Some(true);
            }
            Class::Push => self.push_32(i),
            Class::Pop => {
                self.check(Address::Stack(RSP, 0), Access::Read, 4);
                let to = i.op0_register().number() as u8;
                self.asm.load32(to, Mem::base(R11, 0));
                if to != RSP {
                    self.move_stack(4);
                }
            }
            Class::Leave => {
                self.check(Address::Stack(RBP, 0), Access::Read, 4);
                // The load comes first: nothing has changed if the host faults at it.
                self.asm.load32(R10, Mem::base(R11, 0));
                self.asm.lea32(RSP, Mem::base(RBP, 4));
                self.asm.mov(RBP, R10);
            }
            Class::Call => {
                self.push_return_32(i.next_ip());
                let stub = self.enter_call(R9);
                self.go(i.near_branch_target(), self.after.taken != 0);
                self.returned(stub, i.next_ip());
                return Some(true);
            }
            Class::JumpIndirect => {
                self.target_32(i);
                self.indirect(self.source.view);
                return Some(true);
            }
            Class::CallIndirect => {
                self.target_32(i);
                self.asm.store(field::value, R11);
                self.push_return_32(i.next_ip());
                let stub = self.enter_call(R9);
                self.asm.load(R11, field::value);
                self.indirect(self.source.view);
                self.returned(stub, i.next_ip());
                return Some(true);
            }
            Class::Return => {
                self.check(Address::Stack(RSP, 0), Access::Read, 4);
                let drop = if i.op_count() == 1 {
                    i32::from(i.immediate16())
                } else {
                    0
                };
                self.asm.load32(R11, Mem::base(R11, 0));
                self.move_stack(4 + drop);
                self.go_back(4 + drop);
                return Some(true);
            }
            Class::Selector => {
                let to = i.op0_register().number() as u8;
                self.asm.load(to, selector(i.op1_register()));
            }
            _ => return None,
        }
        Some(false)
    }

    fn plain_32(&mut self, i: &Instruction) -> bool {
        // 32-bit code means the eight registers it has; the host would clear all sixteen.
        match i.code() {
            Code::VEX_Vzeroupper => {
                for n in 0..8u8 {
                    self.asm.raw(&[0xc5, 0xf8, 0x28, 0xc0 | n << 3 | n]); // vmovaps xmmN, xmmN
                }
                return false;
            }
            Code::VEX_Vzeroall => {
                for n in 0..8u8 {
                    let second = 0x80 | (!n & 15) << 3;
                    self.asm.raw(&[0xc5, second, 0x57, 0xc0 | n << 3 | n]); // vxorps
                }
                return false;
            }
            _ => {}
        }
        let mut native = *i;
        native.set_code(native_code(i.code()));
        native.set_segment_prefix(Register::None);
        if super::is_scan(i) {
            native.set_has_rep_prefix(false);
        }
        self.copy_32(&native)
    }

    /// Appends an instruction as 64-bit code, or leaves it to the interpreter if there is none.
    fn copy_32(&mut self, native: &Instruction) -> bool {
        let encoder: &mut Encoder = &mut self.t.encoder;
        let encoded = encoder.encode(native, 0).is_ok();
        let bytes = encoder.take_buffer();
        if !encoded {
            return self.interpret();
        }
        self.asm.raw(&bytes);
        false
    }

    fn lea_32(&mut self, i: &Instruction) -> bool {
        let to = i.op0_register();
        if to.is_gpr32() && i.memory_base().size() != 2 && i.memory_index().size() != 2 {
            let mem = operand(i);
            self.asm.lea32(to.number() as u8, mem);
            return false;
        }
        self.address_32(&{
            let mut plain = *i;
            plain.set_segment_prefix(Register::None);
            plain
        });
        if to.is_gpr32() {
            self.asm.lea32(to.number() as u8, Mem::base(R11, 0));
            return false;
        }
        match Instruction::with2(Code::Mov_r16_rm16, to, Register::R11W) {
            Ok(moved) => self.copy_32(&moved),
            Err(_) => self.interpret(),
        }
    }

    /// Works out an operand's linear address in R11, without touching flags. R9 and R10 are lost.
    pub(super) fn address_32(&mut self, i: &Instruction) {
        let mem = operand(i);
        let more = i.memory_size().size().max(1) as u64 - 1;
        let constant = mem.base.is_none() && mem.index.is_none();
        if constant {
            self.asm.mov_imm(R11, u64::from(mem.disp as u32));
        } else {
            self.asm.lea32(R11, mem);
        }
        let short = i.memory_base().size() == 2 || i.memory_index().size() == 2;
        if short {
            self.asm.movzx16(R11, R11);
        }
        let (base, bar) = match i.memory_segment() {
            Register::FS => (field::fs_base, field::fs_bar),
            Register::GS => (field::gs_base, field::gs_bar),
            _ => return,
        };
        // An operand that ends beyond the segment's last byte is barred, too, wherever the base
        // puts it: bit 32 of its last byte's offset becomes bit 40.
        const { assert!(BARRED == 1 << 40) };
        let beyond = constant && (u64::from(mem.disp as u32) + more) >> 32 != 0;
        let may_be_beyond = !constant && !short && more != 0;
        if beyond {
            self.asm.mov_imm(R9, BARRED);
        } else if may_be_beyond {
            self.asm.lea(R9, Mem::base(R11, more as i32));
            self.asm.rorx(R9, R9, 32);
            self.asm.lea32(R9, Mem::base(R9, 0));
            self.asm.rorx(R9, R9, 24);
        }
        self.asm.load(R10, base);
        self.asm.lea32(R11, Mem::sum(R11, R10));
        self.asm.load(R10, bar);
        self.asm.lea(R11, Mem::sum(R11, R10));
        if beyond || may_be_beyond {
            self.asm.lea(R11, Mem::sum(R11, R9));
        }
    }

    pub(super) fn emit_address_32(&mut self, address: &Address) {
        match address {
            Address::Operand(i) => self.address_32(i),
            Address::Bits(i, bit) => {
                self.address_32(i);
                self.asm.mov_imm(R9, 5);
                self.asm.sarx32(R9, bit.number() as u8, R9);
                let sum = Mem {
                    base: Some(R11),
                    index: Some((R9, 2)),
                    disp: 0,
                    segment: 0,
                };
                self.asm.lea32(R11, sum);
            }
            Address::Stack(register, disp) => self.asm.lea32(R11, Mem::base(*register, *disp)),
            Address::Group(low) => self.asm.lea32(R11, *low),
        }
    }

    fn push_32(&mut self, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register if i.op0_register().is_segment_register() => {
                // 16 bits are written; the pointer moves by 32.
                self.check(Address::Stack(RSP, -4), Access::Write, 2);
                self.asm.load(R9, selector(i.op0_register()));
                self.asm.store16(Mem::base(R11, 0), R9);
            }
            OpKind::Register => {
                self.check(Address::Stack(RSP, -4), Access::Write, 4);
                let from = i.op0_register().number() as u8;
                self.asm.store32(Mem::base(R11, 0), from);
            }
            OpKind::Memory => {
                self.check(Address::Operand(*i), Access::Read, 4);
                self.asm.load32(R9, Mem::base(R11, 0));
                self.asm.store(field::value, R9);
                self.check(Address::Stack(RSP, -4), Access::Write, 4);
                self.asm.load(R9, field::value);
                self.asm.store32(Mem::base(R11, 0), R9);
            }
            _ => {
                self.check(Address::Stack(RSP, -4), Access::Write, 4);
                self.asm
                    .store_imm32(Mem::base(R11, 0), i.immediate(0) as i32);
            }
        }
        self.move_stack(-4);
    }

    fn push_return_32(&mut self, offset: u64) {
        self.check(Address::Stack(RSP, -4), Access::Write, 4);
        self.linear(R9, offset);
        self.asm.store32(Mem::base(R11, 0), R9);
    }

    /// The target of an indirect branch into R11.
    fn target_32(&mut self, i: &Instruction) {
        if i.op0_kind() == OpKind::Memory {
            self.check(Address::Operand(*i), Access::Read, 4);
            self.asm.load32(R11, Mem::base(R11, 0));
            return;
        }
        let from = i.op0_register().number() as u8;
        self.asm.lea32(R11, Mem::base(from, 0));
    }

    /// A bit string in memory whose 32-bit word is chosen by a register.
    fn bit_string_32(&mut self, i: &Instruction) -> bool {
        let bit = i.op1_register().number() as u8;
        let segment = i.memory_segment();
        let short = i.memory_base().size() == 2 || i.memory_index().size() == 2;
        if short || matches!(segment, Register::FS | Register::GS) {
            // The sum wraps elsewhere.
            return self.interpret();
        }
        let writes = i.code() != Code::Bt_rm32_r32;
        let access = if writes { Access::Write } else { Access::Read };
        self.check(Address::Bits(*i, i.op1_register()), access, 4);
        if writes {
            // In memory, so that a LOCK prefix holds: the offset must be reduced here.
            self.asm.mov_imm(R9, 31);
            self.asm.pext32(R10, bit, R9);
            let mut native = at_place(i, self.place());
            native.set_op1_register(Register::R10D);
            return self.copy_32(&native);
        }
        // bt [r11], r10d would be slow: the word in a register, the offset taken modulo 32.
        self.asm.mov(R10, bit);
        self.asm.load32(R11, Mem::base(R11, 0));
        self.asm.raw(&[0x45, 0x0f, 0xa3, 0xd3]); // bt r11d, r10d
        false
    }
}

/// The registers and the displacement of a memory operand; of a 16-bit one, too, whose sum is to
/// be cut.
fn operand(i: &Instruction) -> Mem {
    let number = |r: Register| (r != Register::None).then(|| r.number() as u8);
    let scale = i.memory_index_scale().trailing_zeros() as u8;
    Mem {
        base: number(i.memory_base()),
        index: number(i.memory_index()).map(|r| (r, scale)),
        disp: i.memory_displacement32() as i32,
        segment: 0,
    }
}
