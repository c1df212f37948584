//! Registers of the system that programs and kernels read all the time: selectors, the bases of
//! FS and GS, the time-stamp counter.

use super::through::NO_WAY;
use super::{Address, Building, EQUAL, NOT_EQUAL, field, stolen};
use crate::area::Area;
use crate::emit::{Mem, R10, R11, RAX, RCX, RDX};
use crate::window::BIT;
use iced_x86::{Code, Instruction, OpKind, Register};
use x86::mmu::Access;

impl Building<'_, '_> {
    /// MOV from a segment register, in 64-bit code.
    pub(super) fn selector(&mut self, i: &Instruction) {
        let from = match i.op1_register() {
            Register::CS => field::cs,
            Register::SS => field::ss,
            Register::DS => field::ds,
            Register::ES => field::es,
            Register::FS => field::fs,
            _ => field::gs,
        };
        if i.op0_kind() == OpKind::Memory {
            self.check(Address::Operand(*i), Access::Write, 2);
            self.asm.load(R10, from);
            let place = self.place();
            self.asm.store16(place, R10);
            return;
        }
        let to = i.op0_register();
        let home = stolen(to).map(|n| Mem::gs(Area::home(n)));
        match (home, to.size()) {
            (Some(home), 2) => {
                self.asm.load(R10, from);
                self.asm.store16(home, R10);
            }
            (Some(home), _) => self.copy_field(home, from),
            // The upper bits stay.
            (None, 2) => self.asm.load16(to.number() as u8, from),
            (None, _) => self.asm.load(to.number() as u8, from),
        }
    }

    /// MOV from CR0, CR2, CR3 and CR4, in 64-bit code.
    pub(super) fn read_control(&mut self, i: &Instruction) {
        let from = match i.op1_register() {
            Register::CR0 => field::cr0,
            Register::CR2 => field::cr2,
            Register::CR3 => field::cr3,
            _ => field::cr4,
        };
        let to = i.op0_register();
        match stolen(to) {
            Some(n) => self.copy_field(Mem::gs(Area::home(n)), from),
            None => self.asm.load(to.number() as u8, from),
        }
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    pub(super) fn base(&mut self, i: &Instruction) {
        let fs = matches!(
            i.code(),
            Code::Rdfsbase_r32 | Code::Rdfsbase_r64 | Code::Wrfsbase_r32 | Code::Wrfsbase_r64
        );
        let place = if fs { field::fs_base } else { field::gs_base };
        let register = i.op0_register();
        let home = stolen(register).map(|n| Mem::gs(Area::home(n)));
        let wide = register.is_gpr64();
        let read = matches!(
            i.code(),
            Code::Rdfsbase_r32 | Code::Rdfsbase_r64 | Code::Rdgsbase_r32 | Code::Rdgsbase_r64
        );
        if read {
            let to = if home.is_some() {
                R10
            } else {
                register.number() as u8
            };
            if wide {
                self.asm.load(to, place);
            } else {
                self.asm.load32(to, place);
            }
            if let Some(home) = home {
                self.asm.store(home, R10);
            }
            return;
        }
        match home {
            Some(home) => self.asm.load(R11, home),
            None => self.asm.mov(R11, register.number() as u8),
        }
        if wide {
            // A base that is not canonical is the interpreter's to refuse.
            let borrowed = self.borrow_flags();
            self.asm.mov(R10, R11);
            self.asm.shl(R10, 16);
            self.asm.sar(R10, 16);
            self.asm.cmp(R10, R11);
            let odd = self.asm.jcc(NOT_EQUAL);
            self.bail_after(vec![odd], borrowed);
            if fs {
                self.find_way();
            }
            self.give_back(borrowed);
        } else {
            self.asm.lea32(R11, Mem::base(R11, 0));
            if fs {
                self.way_below();
            }
        }
        self.asm.store(place, R11);
    }

    /// What [`super::through::way`] makes of the FS base in R11. Flags and R10 are lost.
    fn find_way(&mut self) {
        self.asm.mov(R10, R11);
        self.asm.shr(R10, 32);
        let above = self.asm.jcc(NOT_EQUAL);
        self.way_below();
        let done = self.asm.jmp();
        self.asm.bind(above);
        self.asm.shr(R10, BIT - 32);
        self.asm.cmp_imm(R10, 1);
        self.asm.mov(R10, R11);
        let high = self.asm.jcc(EQUAL);
        self.asm.mov_imm(R10, NO_WAY);
        self.asm.bind(high);
        self.asm.store(field::fs_way, R10);
        self.asm.bind(done);
    }

    /// The same of one below 4 GiB; flags stay.
    fn way_below(&mut self) {
        self.asm.load(R10, field::from_window);
        self.asm.lea(R10, Mem::sum(R10, R11));
        self.asm.store(field::fs_way, R10);
    }

    /// RDTSC, RDTSCP: the host's counter since the guest's was zero, times a factor
    /// ([`x86::TscRate`]).
    pub(super) fn tsc(&mut self, with_aux: bool) {
        if self.live {
            self.asm.lahf();
            self.asm.seto_al();
            self.asm.mov(R10, RAX);
        }
        self.asm.raw(&[0x0f, 0x31]); // rdtsc
        self.asm.shl(RDX, 32);
        self.asm.or(RAX, RDX);
        self.asm.sub_mem(RAX, field::tsc_base);
        self.asm.mul_mem(field::tsc_factor);
        self.asm.add_mem(RDX, field::tsc_add);
        if self.live {
            self.asm.mov(RAX, R10);
            self.asm.give_lahf();
        }
        self.asm.lea32(RAX, Mem::base(RDX, 0));
        self.asm.rorx(RDX, RDX, 32);
        self.asm.lea32(RDX, Mem::base(RDX, 0));
        if with_aux {
            self.asm.load32(RCX, field::tsc_aux);
        }
    }
}
