//! What is done with an instruction, and which flags are needed where.

use super::{FLAGS, LiveAfter, LookedAt, Source, Translator, save_state, strings};
use crate::dump::Treatment;
use core::cell::Cell;
use iced_x86::{Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register};
use mem::RamOffset;
use x86::cpuid::Feature;
use x86::exec::Exec;
use x86::state::{cr0, cr4};
use x86::table::{self, Privilege, Sensitivity};

/// How an instruction is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Copied.
    Plain,
    /// Copied with its memory operand replaced.
    Memory,
    /// LEA.
    Lea,
    /// Nothing to do.
    Nothing,
    Push,
    Pop,
    Leave,
    Jump,
    Conditional,
    Call,
    JumpIndirect,
    CallIndirect,
    Return,
    /// PUSHFQ.
    PushFlags,
    /// POPFQ.
    PopFlags,
    /// CLI in ring 0.
    Cli,
    /// STI in ring 0.
    Sti,
    SwapGs,
    /// MOV of a selector to a register or memory, in ring 0.
    Selector,
    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    Base,
    /// RDTSC and RDTSCP.
    Tsc,
    /// REP MOVS and REP STOS.
    Repeat,
    /// BT, BTS, BTR, BTC of 64 bits in memory, by a register.
    BitString,
    /// String instructions of 32-bit code.
    String,
    /// LOOP and JECXZ of 32-bit code.
    Loop,
    /// STAC and CLAC.
    UserAccess,
    /// MOV from CR0, CR2, CR3 and CR4, in ring 0.
    ReadControl,
    /// MOV to CR3, in ring 0.
    ToSpace,
    Syscall,
    Sysret,
    Iret,
    /// XSAVE, XSAVEC, XRSTOR and their kin.
    SaveState,
    /// Left to the interpreter.
    Interpret,
}

impl Class {
    /// The block ends behind it.
    pub(super) fn ends(self) -> bool {
        matches!(
            self,
            Class::Interpret
                | Class::Syscall
                | Class::Sysret
                | Class::Iret
                | Class::UserAccess
                | Class::ToSpace
        )
    }

    /// For the listing.
    pub(super) fn treatment(self) -> Treatment {
        match self {
            Class::PushFlags
            | Class::PopFlags
            | Class::Cli
            | Class::Sti
            | Class::SwapGs
            | Class::Selector
            | Class::Base
            | Class::Tsc
            | Class::UserAccess
            | Class::ReadControl
            | Class::ToSpace
            | Class::SaveState
            | Class::Syscall
            | Class::Sysret
            | Class::Iret => Treatment::Replaced,
            Class::Interpret => Treatment::Interpreted,
            _ => Treatment::Native,
        }
    }
}

/// The instructions that are known to be ordinary in one mode ([`Translator::ordinary`]) whatever
/// their operands are, a bit for each code.
pub(super) struct Ordinary {
    /// As [`Exec::mode_key`] has it, on which all depends that is asked of a code.
    mode: u32,
    codes: [Cell<u64>; 128],
}

impl Ordinary {
    pub(super) fn new(mode: u32) -> Ordinary {
        Ordinary {
            mode,
            codes: [const { Cell::new(0) }; 128],
        }
    }

    fn has(&self, code: Code) -> bool {
        self.codes[code as usize / 64].get() >> (code as usize % 64) & 1 != 0
    }

    fn insert(&self, code: Code) {
        let word = &self.codes[code as usize / 64];
        word.set(word.get() | 1 << (code as usize % 64));
    }
}

impl Translator {
    /// From now on instructions of this mode are classified.
    pub(super) fn set_mode(&mut self, mode: u32) {
        let all = &mut self.ordinary;
        if all[0].mode == mode {
            return;
        }
        let known = all.iter().position(|o| o.mode == mode);
        let place = known.unwrap_or(all.len() - 1);
        if known.is_none() {
            all[place] = Ordinary::new(mode);
        }
        all.swap(0, place);
    }

    pub(super) fn class(&self, x: &Exec<'_>, i: &Instruction) -> Class {
        if self.ordinary[0].has(i.code()) {
            return by_operands(i);
        }
        let Some(row) = table::row(i.code()) else {
            return Class::Interpret;
        };
        let handler = x86::insn::handler(x, i);
        if i.is_invalid() || !core::ptr::fn_addr_eq(handler, row.run) {
            return Class::Interpret;
        }
        if x.bits() == 32 {
            return self.class_32(x, row, i);
        }
        if self.switches.inline_sensitive
            && let Some(class) = sensitive(x, i)
        {
            return class;
        }
        if self.switches.save_state
            && save_state::form(i.code()).is_some()
            && (row.privilege == Privilege::Any || x.s.cpl == 0)
            && x.s.cr0 & cr0::TS == 0
            && x.s.cr4 & cr4::OSXSAVE != 0
            && x.model.feature(Feature::Xsavec)
        {
            return Class::SaveState;
        }
        if self.switches.to_space
            && i.code() == Code::Mov_cr_r64
            && i.op0_register() == Register::CR3
            && x.s.cpl == 0
        {
            return Class::ToSpace;
        }
        if matches!(i.code(), Code::Rdtsc | Code::Rdtscp) {
            return self.time_stamp(x);
        }
        match i.flow_control() {
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch if i.is_jmp_short_or_near() => return Class::Jump,
            FlowControl::ConditionalBranch if i.is_jcc_short_or_near() => {
                return Class::Conditional;
            }
            FlowControl::ConditionalBranch
                if matches!(
                    i.code(),
                    Code::Jrcxz_rel8_64
                        | Code::Jecxz_rel8_64
                        | Code::Loop_rel8_64_RCX
                        | Code::Loope_rel8_64_RCX
                        | Code::Loopne_rel8_64_RCX
                ) =>
            {
                return Class::Loop;
            }
            FlowControl::Call if i.is_call_near() => return Class::Call,
            FlowControl::IndirectBranch if i.code() == Code::Jmp_rm64 => {
                return Class::JumpIndirect;
            }
            FlowControl::IndirectCall if i.code() == Code::Call_rm64 => {
                return Class::CallIndirect;
            }
            FlowControl::Return if matches!(i.code(), Code::Retnq | Code::Retnq_imm16) => {
                return Class::Return;
            }
            _ => return Class::Interpret,
        }
        if row.privilege != Privilege::Any || row.sensitivity != Sensitivity::Innocuous {
            return Class::Interpret;
        }
        match i.code() {
            Code::Push_r64 | Code::Pushq_imm32 | Code::Pushq_imm8 => return Class::Push,
            Code::Push_rm64 => return Class::Push,
            Code::Pop_r64 => return Class::Pop,
            Code::Leaveq => return Class::Leave,
            Code::Pause => return Class::Plain,
            Code::Bt_rm64_r64 | Code::Bts_rm64_r64 | Code::Btr_rm64_r64 | Code::Btc_rm64_r64
                if i.op0_kind() == OpKind::Memory && i.memory_base() != Register::EIP =>
            {
                return Class::BitString;
            }
            // Their class depends on the operand, so they are not remembered.
            Code::Bt_rm16_r16
            | Code::Bt_rm32_r32
            | Code::Bt_rm64_r64
            | Code::Bts_rm16_r16
            | Code::Bts_rm32_r32
            | Code::Bts_rm64_r64
            | Code::Btr_rm16_r16
            | Code::Btr_rm32_r32
            | Code::Btr_rm64_r64
            | Code::Btc_rm16_r16
            | Code::Btc_rm32_r32
            | Code::Btc_rm64_r64 => {
                return match i.op0_kind() {
                    OpKind::Memory => Class::Interpret,
                    _ => self.ordinary(i),
                };
            }
            _ => {}
        }
        let class = self.ordinary(i);
        if matches!(class, Class::Plain | Class::Memory) {
            self.ordinary[0].insert(i.code());
        }
        class
    }

    /// The class of RDTSC and RDTSCP.
    pub(super) fn time_stamp(&self, x: &Exec<'_>) -> Class {
        let allowed = x.s.cpl == 0 || x.s.cr4 & cr4::TSD == 0;
        if self.tsc && allowed {
            Class::Tsc
        } else {
            Class::Interpret
        }
    }

    /// The host has what an instruction needs.
    fn is_native(&self, code: Code) -> bool {
        let known = &self.natives[code as usize];
        known.get().unwrap_or_else(|| {
            let native = code.cpuid_features().iter().all(|&f| (self.native)(f));
            known.set(Some(native));
            native
        })
    }

    /// The class of what is no branch, not sensitive, and does not use the stack.
    pub(super) fn ordinary(&self, i: &Instruction) -> Class {
        match i.mnemonic() {
            Mnemonic::Nop
            | Mnemonic::Endbr32
            | Mnemonic::Endbr64
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2 => return Class::Nothing,
            Mnemonic::Lea if i.memory_base() != Register::EIP => return Class::Lea,
            Mnemonic::Lea => return Class::Interpret,
            // Implicit or partial memory operands, and images that hold host addresses.
            Mnemonic::Xlatb
            | Mnemonic::Maskmovq
            | Mnemonic::Maskmovdqu
            | Mnemonic::Vmaskmovdqu
            | Mnemonic::Vmaskmovps
            | Mnemonic::Vmaskmovpd
            | Mnemonic::Vpmaskmovd
            | Mnemonic::Vpmaskmovq
            | Mnemonic::Fldenv
            | Mnemonic::Fnstenv
            | Mnemonic::Fstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fsave
            | Mnemonic::Frstor
            | Mnemonic::Clflush
            | Mnemonic::Clflushopt
            | Mnemonic::Clwb => return Class::Interpret,
            _ => {}
        }
        if !self.is_native(i.code())
            || i.is_stack_instruction()
            || i.is_save_restore_instruction()
            || i.is_vsib()
        {
            return Class::Interpret;
        }
        by_operands(i)
    }

    /// The flags that what follows the block may read. `decoder`: of the page.
    pub(super) fn live_after(
        &mut self,
        x: &Exec<'_>,
        s: &Source<'_>,
        decoder: &mut Decoder<'_>,
        last: &Instruction,
        class: Class,
    ) -> (LiveAfter, Option<LookedAt>) {
        let (mut next, mut taken) = (0, 0);
        let mut other = None;
        let mut peek = |rip| self.peek(x, s, decoder, rip, &mut other);
        match class {
            Class::Jump | Class::Call => taken = peek(last.near_branch_target()),
            Class::Conditional | Class::Loop => {
                taken = peek(last.near_branch_target());
                next = peek(last.next_ip());
            }
            Class::Interpret
            | Class::ToSpace
            | Class::Return
            | Class::JumpIndirect
            | Class::CallIndirect => {
                taken = FLAGS;
            }
            Class::Iret | Class::Sysret | Class::Syscall | Class::UserAccess => taken = FLAGS,
            _ => next = peek(last.next_ip()),
        }
        (LiveAfter { next, taken }, other)
    }

    /// Looks at a few instructions at `rip`: which flags may they read? In the same page, or of fixed
    /// code once in another one.
    fn peek(
        &mut self,
        x: &Exec<'_>,
        source: &Source<'_>,
        decoder: &mut Decoder<'_>,
        rip: u64,
        other: &mut Option<LookedAt>,
    ) -> u32 {
        if !self.switches.liveness {
            return FLAGS;
        }
        if rip >> 12 != 0 {
            let place = (source.others)(rip & !0xfff).filter(|_| other.is_none());
            let Some(page) = place else { return FLAGS };
            let looked_at = LookedAt::read(&x.ram, RamOffset(page.0 + (rip & 0xfff)));
            let bytes = &looked_at.bytes[..looked_at.inside()];
            let mut decoder = Decoder::new(64, bytes, x.model.decoder_options());
            let live = self.look(x, &mut decoder, 0);
            if live != FLAGS {
                *other = Some(looked_at);
            }
            return live;
        }
        match source.live[rip as usize].get() {
            0 => {
                let live = self.look(x, decoder, rip);
                source.live[rip as usize].set(live as u8 + 1);
                live
            }
            known => u32::from(known) - 1,
        }
    }

    fn look(&self, x: &Exec<'_>, decoder: &mut Decoder<'_>, rip: u64) -> u32 {
        if decoder.set_position(rip as usize).is_err() {
            return FLAGS;
        }
        decoder.set_ip(rip);
        let (mut read, mut open) = (0, FLAGS);
        for _ in 0..10 {
            if !decoder.can_decode() {
                break;
            }
            let i = decoder.decode();
            let class = self.class(x, &i);
            if class.ends() || i.flow_control() != FlowControl::Next {
                break;
            }
            if class == Class::PushFlags {
                return FLAGS;
            }
            read |= i.rflags_read() & open;
            open &= !kills(&i);
            if open == 0 {
                return read & FLAGS;
            }
        }
        (read | open) & FLAGS
    }
}

/// The class of an instruction that is ordinary but for its operands.
fn by_operands(i: &Instruction) -> Class {
    let mut memory = false;
    for k in 0..i.op_count() {
        match i.op_kind(k) {
            // EIP-relative: rare enough.
            OpKind::Memory if i.memory_base() == Register::EIP => return Class::Interpret,
            OpKind::Memory => memory = true,
            OpKind::Register => {
                let r = i.op_register(k);
                if r.is_segment_register() || r.is_cr() || r.is_dr() {
                    return Class::Interpret;
                }
            }
            OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI => return Class::Interpret,
            _ => {}
        }
    }
    if memory { Class::Memory } else { Class::Plain }
}

/// The sensitive instructions that are replaced by code of ours.
pub(super) fn sensitive(x: &Exec<'_>, i: &Instruction) -> Option<Class> {
    let ring = x.s.cpl;
    Some(match i.code() {
        Code::Pushfq => Class::PushFlags,
        Code::Popfq if ring == 0 || ring == 3 => Class::PopFlags,
        Code::Cli if ring == 0 => Class::Cli,
        Code::Sti if ring == 0 => Class::Sti,
        Code::Swapgs if ring == 0 => Class::SwapGs,
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg
            if ring == 0 && i.memory_base() != Register::EIP =>
        {
            Class::Selector
        }
        Code::Rdfsbase_r32
        | Code::Rdfsbase_r64
        | Code::Rdgsbase_r32
        | Code::Rdgsbase_r64
        | Code::Wrfsbase_r32
        | Code::Wrfsbase_r64
        | Code::Wrgsbase_r32
        | Code::Wrgsbase_r64
            if x.s.cr4 & cr4::FSGSBASE != 0 =>
        {
            Class::Base
        }
        code if strings::elements(code).is_some() && is_plain_repeat(i) => Class::Repeat,
        Code::Stac | Code::Clac if ring == 0 && x.s.cr4 & cr4::SMAP != 0 => Class::UserAccess,
        Code::Mov_r64_cr if ring == 0 => match i.op1_register() {
            Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4 => Class::ReadControl,
            _ => return None,
        },
        Code::Syscall if ring == 3 => Class::Syscall,
        Code::Sysretq if ring == 0 => Class::Sysret,
        Code::Iretq if ring == 0 => Class::Iret,
        _ => return None,
    })
}

/// REP with 64-bit addresses in flat segments.
fn is_plain_repeat(i: &Instruction) -> bool {
    let plain = |kind| {
        matches!(
            kind,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::Register
        )
    };
    let flat = !matches!(i.memory_segment(), Register::FS | Register::GS);
    i.has_rep_prefix()
        && !i.has_repne_prefix()
        && flat
        && plain(i.op0_kind())
        && plain(i.op1_kind())
}

/// The flags an instruction certainly overwrites.
pub(super) fn kills(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Popfq | Mnemonic::Popfd => FLAGS,
        Mnemonic::Sysretq | Mnemonic::Iretq => FLAGS,
        // Undefined behind moves of control registers by the manuals; processors leave them alone.
        Mnemonic::Mov => 0,
        // A count of zero leaves all flags alone.
        Mnemonic::Scasb
        | Mnemonic::Scasw
        | Mnemonic::Scasd
        | Mnemonic::Scasq
        | Mnemonic::Cmpsb
        | Mnemonic::Cmpsw
        | Mnemonic::Cmpsd
        | Mnemonic::Cmpsq
            if i.has_rep_prefix() || i.has_repne_prefix() =>
        {
            0
        }
        Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Sal
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd => 0,
        _ => i.rflags_modified() & FLAGS,
    }
}

pub(super) fn flags_before(i: &Instruction, class: Class, after: u32) -> u32 {
    if matches!(class, Class::Interpret | Class::ToSpace) {
        return FLAGS;
    }
    if matches!(class, Class::PushFlags | Class::Syscall) {
        return FLAGS;
    }
    i.rflags_read() & FLAGS | after & !kills(i)
}
