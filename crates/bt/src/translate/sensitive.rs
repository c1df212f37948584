//! The sensitive instructions that are replaced by code of ours: the interrupt flag, RFLAGS, the
//! ways between user and kernel. Each does the usual case and leaves for the interpreter
//! otherwise.

use super::{Address, Building, EQUAL, Holes, NOT_EQUAL, Restore, Slow, SlowPath, field};
use crate::area::{Area, View};
use crate::block::Kind;
use crate::emit::{Hole, Mem, R10, R11, RAX, RCX, RSP};
use crate::vcpu::HOST_FLAGS;
use x86::mmu::Access;
use x86::state::rflags;

impl Building<'_, '_> {
    /// Leaves for the interpreter where `holes` lead.
    pub(super) fn bail(&mut self, holes: Vec<Hole>) {
        self.bail_after(holes, Restore::Nothing);
    }

    /// The same, and gives back what was borrowed.
    pub(super) fn bail_after(&mut self, holes: Vec<Hole>, restore: Restore) {
        let site = self.site(Kind::Interpret { more: 0 });
        self.slow.push(Slow {
            holes: Holes::Some(holes),
            restore,
            site,
            what: SlowPath::Interpret,
        });
    }

    /// Puts the flags where the code that follows may destroy them, if they are needed: RAX is
    /// lost, too. What [`Self::give_back`] or a slow path then gives back.
    pub(super) fn borrow_flags(&mut self) -> Restore {
        if !self.live {
            return Restore::Nothing;
        }
        self.asm.store(field::saved, RAX);
        self.asm.lahf();
        self.asm.seto_al();
        Restore::Flags
    }

    /// Gives back what was borrowed, by [`Self::borrow_flags`], say.
    pub(super) fn give_back(&mut self, borrowed: Restore) {
        match borrowed {
            Restore::Nothing => {}
            Restore::Rcx => self.asm.load(RCX, field::spill),
            Restore::Remade(remake) => self.remake(remake),
            Restore::Flags => {
                self.asm.give_lahf();
                self.asm.load(RAX, field::saved);
            }
        }
    }

    /// Copies one field of the area to another.
    pub(super) fn copy_field(&mut self, to: Mem, from: Mem) {
        self.asm.load(R10, from);
        self.asm.store(to, R10);
    }

    pub(super) fn interrupts(&mut self, on: bool) {
        let (high, pins) = if on {
            (field::high_on, field::pins_on)
        } else {
            (field::high_off, field::pins_off)
        };
        self.copy_field(field::high, high);
        self.copy_field(field::pin_mask, pins);
    }

    /// IF as the Z flag says (set: off), which stays.
    pub(super) fn interrupts_by_flag(&mut self) {
        self.asm.load(R10, field::high_off);
        self.asm.cmovnz(R10, field::high_on);
        self.asm.store(field::high, R10);
        self.asm.load(R10, field::pins_off);
        self.asm.cmovnz(R10, field::pins_on);
        self.asm.store(field::pin_mask, R10);
    }

    pub(super) fn push_flags(&mut self) {
        let width = self.stack_width();
        self.check(Address::Stack(RSP, -width), Access::Write, width as u8);
        self.asm.store(field::value, RSP);
        self.asm.load(RSP, field::host_rsp);
        self.asm.take_flags(R10);
        // AND and OR without touching flags; the two parts have no bit in common.
        self.asm.pext_gs(R10, R10, field::HOST_FLAGS);
        self.asm.pdep_gs(R10, R10, field::HOST_FLAGS);
        self.asm.load(RSP, field::high);
        self.asm.lea(
            R10,
            Mem {
                base: Some(RSP),
                index: Some((R10, 0)),
                disp: 0,
                segment: 0,
            },
        );
        self.asm.load(RSP, field::value);
        if width == 4 {
            let place = self.place();
            self.asm.store32(place, R10);
        } else {
            let place = self.place();
            self.asm.store(place, R10);
        }
        self.move_stack(-width);
    }

    /// The host's flags become those in R11, while RSP is the guest's.
    pub(super) fn load_flags(&mut self) {
        self.asm.and_imm32(R11, HOST_FLAGS as u32);
        self.asm.or_imm32(R11, 0x202);
        self.asm.store(field::value, RSP);
        self.asm.load(RSP, field::host_rsp);
        self.asm.give_flags(R11);
        self.asm.load(RSP, field::value);
    }

    pub(super) fn pop_flags(&mut self) {
        let width = self.stack_width();
        self.check(Address::Stack(RSP, 0), Access::Read, width as u8);
        if width == 4 {
            let place = self.place();
            self.asm.load32(R11, place);
        } else {
            let place = self.place();
            self.asm.load(R11, place);
        }
        // Only if no other bit than IF and the host's changes. In ring 3 IF is IOPL's to allow,
        // so that it must not change either.
        self.asm.mov(R10, R11);
        let (host, high) = if self.source.view.is_user() {
            (HOST_FLAGS, field::high)
        } else {
            (HOST_FLAGS | rflags::IF, field::high_off)
        };
        self.asm.and_imm32(R10, !host as u32);
        self.asm.cmp_mem(R10, high);
        let other = self.asm.jcc(NOT_EQUAL);
        self.bail(vec![other]);
        if !self.source.view.is_user() {
            self.asm.test_imm32(R11, rflags::IF as u32);
            self.interrupts_by_flag();
        }
        self.move_stack(width);
        self.load_flags();
    }

    pub(super) fn user_access(&mut self, allow: bool, next: u64) {
        let view = self.source.view.with_access(allow);
        if view != self.source.view {
            let change = if allow {
                rflags::AC as i32
            } else {
                -(rflags::AC as i32)
            };
            for high in [field::high, field::high_off, field::high_on] {
                self.asm.load(R10, high);
                self.asm.lea(R10, Mem::base(R10, change));
                self.asm.store(high, R10);
            }
        }
        self.linear(R11, next);
        self.indirect(view);
    }

    /// SYSCALL, where STAR, LSTAR and SFMASK are as a 64-bit system has them.
    pub(super) fn syscall(&mut self, next: u64) {
        self.asm.store(field::spill, RCX);
        self.asm.load(RCX, field::syscall_bad);
        self.asm.load(R10, field::high_off);
        // Zero if SYSCALL is ours and no odd flag (bit 1 is always set) is on.
        let sum = Mem {
            base: Some(RCX),
            index: Some((R10, 0)),
            disp: -2,
            segment: 0,
        };
        self.asm.lea(RCX, sum);
        let good = self.asm.jrcxz();
        self.asm.load(RCX, field::spill);
        self.interpret();
        self.asm.bind(good);
        self.asm.store(field::value, RSP);
        self.asm.load(RSP, field::host_rsp);
        self.asm.take_flags(R10);
        self.asm.load(RSP, field::value);
        self.asm.and_imm32(R10, HOST_FLAGS as u32);
        self.asm.load(R11, field::high);
        self.asm.lea(R10, Mem::sum(R10, R11));
        self.asm.store(Mem::gs(Area::home(R11)), R10);
        self.linear(RCX, next);
        self.interrupts(false);
        self.copy_field(field::cs, field::kernel_cs);
        self.copy_field(field::ss, field::kernel_ss);
        self.asm.store_imm(field::ring, 0);
        // SFMASK clears all arithmetic flags and DF: 1 is positive, not zero and of odd parity.
        self.asm.mov_imm(R10, 1);
        self.asm.test_imm32(R10, 1);
        self.asm.raw(&[0xfc]); // cld
        self.asm.load(R11, field::lstar);
        self.indirect(View::Kernel);
    }

    pub(super) fn sysret(&mut self) {
        self.asm.load(R11, Mem::gs(Area::home(R11)));
        self.asm.mov(R10, R11);
        self.asm
            .and_imm32(R10, !(HOST_FLAGS | rflags::FIXED | rflags::RF) as u32);
        self.asm.cmp_imm(R10, rflags::IF as i32);
        let flags = self.asm.jcc(NOT_EQUAL);
        self.asm.mov(R10, RCX);
        self.asm.shr(R10, 47);
        let high_half = self.asm.jcc(NOT_EQUAL);
        self.asm.cmp_mem_imm8(field::syscall_bad, 0);
        let bad = self.asm.jcc(NOT_EQUAL);
        self.asm.cmp_mem_imm8(field::high_off, rflags::FIXED as i8);
        let odd = self.asm.jcc(NOT_EQUAL);
        self.bail(vec![flags, high_half, bad, odd]);
        self.interrupts(true);
        self.asm.store_imm(field::ring, 3);
        self.load_flags();
        self.asm.mov(R11, RCX);
        self.indirect(View::User);
    }

    /// IRETQ to user code, or inside ring 0 with the same stack segment.
    pub(super) fn iret(&mut self) {
        self.by_tlb = true;
        self.check(Address::Stack(RSP, 0), Access::Read, 40);
        let frame = |n: i32| Mem::base(R11, 8 * n);
        let mut holes = Vec::new();
        self.asm.cmp_mem_imm8(field::iret_bad, 0);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.cmp_mem_imm8(field::high_off, rflags::FIXED as i8);
        holes.push(self.asm.jcc(NOT_EQUAL));
        // RF has no effect while no breakpoint is armed, and none is in translated code.
        self.asm.load(R10, frame(2));
        let usual = HOST_FLAGS | rflags::FIXED | rflags::IF | rflags::RF;
        self.asm.and_imm32(R10, !usual as u32);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.load(R10, frame(1));
        self.asm.cmp_mem(R10, field::user_cs);
        let inside = self.asm.jcc(NOT_EQUAL);
        self.asm.load(R10, frame(4));
        self.asm.cmp_mem(R10, field::user_ss);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.load(R10, frame(0));
        self.asm.shr(R10, 47);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.load(R10, frame(2));
        self.asm.test_imm32(R10, rflags::IF as u32);
        holes.push(self.asm.jcc(EQUAL));
        self.interrupts(true);
        self.asm.store_imm(field::ring, 3);
        self.leave_frame(View::User);
        self.asm.bind(inside);
        self.asm.cmp_mem(R10, field::cs);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.load(R10, frame(4));
        self.asm.cmp_mem(R10, field::ss);
        holes.push(self.asm.jcc(NOT_EQUAL));
        // A RIP that is not canonical faults here: plus half the address space it is no longer 48
        // bits.
        self.asm.mov_imm(R10, 1 << 47);
        self.asm.add_mem(R10, frame(0));
        self.asm.shr(R10, 48);
        holes.push(self.asm.jcc(NOT_EQUAL));
        self.asm.load(R10, frame(2));
        self.asm.test_imm32(R10, rflags::IF as u32);
        self.interrupts_by_flag();
        self.leave_frame(View::Kernel);
        self.bail(holes);
    }

    /// RFLAGS, RSP and RIP from the frame at R11.
    pub(super) fn leave_frame(&mut self, view: View) {
        self.asm.load(R10, Mem::base(R11, 16));
        self.asm.and_imm32(R10, HOST_FLAGS as u32);
        self.asm.or_imm32(R10, 0x202);
        self.asm.load(RSP, field::host_rsp);
        self.asm.give_flags(R10);
        self.asm.load(RSP, Mem::base(R11, 24));
        self.asm.load(R11, Mem::base(R11, 0));
        self.indirect(view);
    }
}
