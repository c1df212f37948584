//! XSAVE, XSAVEC, XRSTOR and their kin by the host's own: while translated code runs, the guest's
//! x87 and vector registers are the host's.
//!
//! The instruction itself is in code that all blocks share. It is given the host addresses of the
//! operand's first and last byte, which must lie in one piece; whatever is not usual goes to the
//! interpreter. The guest's XCR0 masks what is asked for, and no bit above it may be in the header
//! that is restored.
//!
//! - XSAVEOPT and XSAVES are done as XSAVE and XSAVEC: the host's own would take two linear addresses
//!   of one page for the same image and leave out what was not modified since.
//! - x87's pointers would be those of translated code. They are cleared first, where x87 is in use.
//! - XRSTOR faults on the host where it does for the guest, but for a bad MXCSR, which is looked for; [`Exits::restores`] are the places.
//! - A departure: an operand across a page's end whose second page only the AVX part reaches makes
//!   that page accessed (or dirty) even if the instruction's mask leaves AVX out.

use super::{Address, Building, Exits, NOT_EQUAL, field};
use crate::block::{Kind, RETRY_SHIFT};
use crate::emit::{Asm, Mem, R10, R11, RAX, RCX, RDX};
use iced_x86::{Code, Instruction, Register};
use x86::mmu::Access;
use x86::xstate::MXCSR_MASK;

/// Condition of a jump: not negative.
const NOT_SIGN: u8 = 9;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Save,
    SaveCompacted,
    Restore,
    /// XRSTORS: the compacted form only.
    RestoreCompacted,
}

impl Form {
    const ALL: [Form; 4] = [
        Form::Save,
        Form::SaveCompacted,
        Form::Restore,
        Form::RestoreCompacted,
    ];

    fn saves(self) -> bool {
        matches!(self, Form::Save | Form::SaveCompacted)
    }
}

/// The form of an instruction, and whether it has 64-bit x87 pointers.
pub(super) fn form(code: Code) -> Option<(Form, bool)> {
    Some(match code {
        Code::Xsave_mem | Code::Xsaveopt_mem => (Form::Save, false),
        Code::Xsave64_mem | Code::Xsaveopt64_mem => (Form::Save, true),
        Code::Xsavec_mem | Code::Xsaves_mem => (Form::SaveCompacted, false),
        Code::Xsavec64_mem | Code::Xsaves64_mem => (Form::SaveCompacted, true),
        Code::Xrstor_mem => (Form::Restore, false),
        Code::Xrstor64_mem => (Form::Restore, true),
        Code::Xrstors_mem => (Form::RestoreCompacted, false),
        Code::Xrstors64_mem => (Form::RestoreCompacted, true),
        _ => return None,
    })
}

/// Host addresses of the code for each form, with 32-bit and 64-bit pointers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveState {
    /// The site in R10, the host address of the operand's last byte in R11, that of its first in
    /// [`Area::value`].
    forms: [[u64; 2]; 4],
    /// Where the host's XRSTOR may fault.
    restores: [[u64; 2]; 4],
}

impl SaveState {
    /// True if the instruction at a host address is one that restores.
    pub fn restores_at(&self, host: u64) -> bool {
        self.restores.iter().flatten().any(|&at| at == host)
    }

    /// Makes the code; `interpret` leaves for the interpreter with the site in R10.
    pub(super) fn make(asm: &mut Asm, interpret: u64) -> SaveState {
        let mut made = SaveState::default();
        for form in Form::ALL {
            for wide in [false, true] {
                let place = (form as usize, usize::from(wide));
                made.forms[place.0][place.1] = asm.here();
                let at = one(asm, form, wide, interpret);
                if !form.saves() {
                    made.restores[place.0][place.1] = at;
                }
            }
        }
        made
    }

    fn of(&self, (form, wide): (Form, bool)) -> u64 {
        self.forms[form as usize][usize::from(wide)]
    }
}

/// One form; the host address of its XSAVE or XRSTOR.
fn one(asm: &mut Asm, form: Form, wide: bool, interpret: u64) -> u64 {
    asm.store(field::saved, RAX);
    asm.store(field::spill, RCX);
    asm.store(field::target, RDX);
    asm.store(field::site, R10);
    asm.lahf();
    asm.seto_al();
    asm.store(field::lahf, RAX);
    asm.load(R10, field::value);
    asm.sub(R11, R10);
    asm.cmp_mem(R11, field::image_last);
    let mut out = vec![asm.jcc(NOT_EQUAL)];
    asm.test_imm32(R10, 63);
    out.push(asm.jcc(NOT_EQUAL));
    let clear = if form.saves() {
        // XGETBV with 1: what is in use. Of x87 alone it matters, if it is asked for.
        asm.mov_imm(RCX, 1);
        asm.raw(&[0x0f, 0x01, 0xd0]);
        asm.and_mem32(RAX, field::saved);
        asm.test_imm32(RAX, 1);
        Some(asm.jcc(NOT_EQUAL))
    } else {
        // Header: XSTATE_BV and XCOMP_BV.
        asm.load(RAX, Mem::base(R10, 512));
        asm.load(RCX, Mem::base(R10, 520));
        if form == Form::RestoreCompacted {
            asm.raw(&[0x48, 0x85, 0xc9]); // test rcx, rcx
            out.push(asm.jcc(NOT_SIGN));
        }
        asm.shl(RCX, 1);
        asm.shr(RCX, 1);
        asm.or(RCX, RAX);
        asm.load(RDX, field::xcr0);
        asm.not(RDX);
        asm.raw(&[0x48, 0x85, 0xd1]); // test rcx, rdx
        out.push(asm.jcc(NOT_EQUAL));
        // A bad MXCSR is found out when x87 has been restored already.
        asm.load32(RCX, Mem::base(R10, 24));
        asm.test_imm32(RCX, !MXCSR_MASK);
        out.push(asm.jcc(NOT_EQUAL));
        None
    };
    let go = asm.here();
    asm.load32(RAX, field::saved);
    asm.and_mem32(RAX, field::xcr0);
    asm.raw(&[0x31, 0xd2]); // xor edx, edx
    let at = asm.here();
    let rex = if wide { 0x49 } else { 0x41 };
    let (opcode, operand) = match form {
        Form::Save => (0xae, 0x22),
        Form::SaveCompacted => (0xc7, 0x22),
        Form::Restore | Form::RestoreCompacted => (0xae, 0x2a),
    };
    asm.raw(&[rex, 0x0f, opcode, operand]); // [r10]
    asm.load(RDX, field::target);
    asm.load(R10, field::site);
    asm.load(RCX, field::sites);
    let behind = Mem {
        base: Some(RCX),
        index: Some((R10, 3)),
        disp: 0,
        segment: 0,
    };
    asm.load(R10, behind);
    asm.shr(R10, RETRY_SHIFT);
    asm.add_mem(R10, field::cache);
    asm.load(RCX, field::spill);
    asm.load(RAX, field::lahf);
    asm.give_lahf();
    asm.load(RAX, field::saved);
    asm.raw(&[0x41, 0xff, 0xe2]); // jmp r10
    if let Some(clear) = clear {
        asm.bind(clear);
        asm.load(R11, field::image);
        let image = |n| Mem::base(R11, n);
        asm.mov_imm(RAX, 1);
        asm.raw(&[0x31, 0xd2]); // xor edx, edx
        asm.xsave64(image(0));
        asm.store16(image(6), RDX);
        asm.store(image(8), RDX);
        asm.store(image(16), RDX);
        asm.xrstor64(image(0));
        asm.jmp_to(go);
    }
    for hole in out {
        asm.bind(hole);
    }
    asm.load(RDX, field::target);
    asm.load(RCX, field::spill);
    asm.load(R10, field::site);
    asm.load(RAX, field::lahf);
    asm.give_lahf();
    asm.load(RAX, field::saved);
    asm.jmp_to(interpret);
    at
}

impl Building<'_, '_> {
    /// One of the instructions; true if it ends the block, because it is the interpreter's.
    pub(super) fn save_state(&mut self, i: &Instruction, last: u64) -> bool {
        let Some(form) = form(i.code()) else {
            return self.interpret();
        };
        let access = if form.0.saves() {
            Access::Write
        } else {
            Access::Read
        };
        let mut end = *i;
        let disp = i.memory_displacement64();
        let far = disp.wrapping_add(last);
        let fits = i.memory_base() == Register::RIP
            || i32::try_from(far as i64).is_ok() && i.memory_base().is_gpr64();
        if !fits {
            return self.interpret();
        }
        end.set_memory_displacement64(far);
        end.set_memory_displ_size(8);
        // The shared code wants to know where it is in this process.
        self.by_tlb = true;
        self.check(Address::Operand(*i), access, 1);
        self.asm.store(field::value, R11);
        self.check(Address::Operand(end), access, 1);
        let number = self.source.first_site + self.sites.len() as u32;
        self.asm.mov_imm(R10, number.into());
        self.asm.jmp_to(self.t.exits.save_state.of(form));
        let more = (self.asm.here() - self.source.cache) as u32;
        self.site(Kind::Interpret { more });
        false
    }
}

impl Exits {
    /// True if the instruction at a host address is an XRSTOR of the shared code.
    pub fn restores_at(&self, host: u64) -> bool {
        self.save_state.restores_at(host)
    }
}
