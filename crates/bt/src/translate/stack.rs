//! Consecutive pushes, and pops with the return behind them, of 64-bit code: one check of all their
//! accesses. Functions begin and end so. Where flags are dead such pushes and pops are in a group
//! ([`super::groups`]), but a return must keep the flags, so they are live in what is before it. An
//! `add rsp, …` in front of the pops makes all flags: where they are dead before it the check comes
//! there.
//!
//! If the check fails, because the accesses do not lie in one page, say, the interpreter does the
//! first instruction, and what follows is another block. Where that happens twice, the block is
//! translated anew with another copy of these instructions behind it, with a check for each
//! ([`Source::copies`]): the stack of a function in a loop may lie there all the time, and that of
//! its next caller elsewhere.
//!
//! [`Source::copies`]: super::Source::copies

use super::access::{Address, Restore};
use super::groups::Member;
use super::{Building, Class, popped, stolen};
use crate::emit::{Hole, Mem, R10, R11, RSP};
use iced_x86::{Code, Instruction, OpKind, Register};
use x86::mmu::Access;

/// RBP.
const RBP: u8 = 5;
/// Accesses that are checked together at most.
const LONGEST: usize = 7;

/// A check that found pushes or pops not to lie in one page.
pub(super) struct Straddled {
    /// Its jump.
    pub(super) hole: Hole,
    /// What is to be given back there.
    pub(super) restore: Restore,
}

/// A PUSH or POP of a register that is the host's own.
fn is_plain(i: &Instruction) -> bool {
    i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr64()
        && i.op0_register() != Register::RSP
        && stolen(i.op0_register()).is_none()
}

/// The constant of `add rsp, …`.
fn room_given_back(i: &Instruction) -> Option<i32> {
    let adds = matches!(i.code(), Code::Add_rm64_imm8 | Code::Add_rm64_imm32)
        && i.op0_kind() == OpKind::Register
        && i.op0_register() == Register::RSP;
    let by = adds.then(|| i.immediate(1) as i64)?;
    i32::try_from(by)
        .ok()
        .filter(|by| (0..1 << 30).contains(by))
}

impl Building<'_, '_> {
    /// How many of the instructions from here on can be checked together. `places`: those that
    /// have one are in a group.
    pub(super) fn stack_run(
        &self,
        list: &[(Instruction, Class, usize)],
        places: &[Option<Member>],
    ) -> usize {
        let on = self.t.switches.stack_runs;
        if self.source.view.is_32bit() || self.shadow || !on {
            return 0;
        }
        let room = !self.live && room_given_back(&list[0].0).is_some();
        let longest = LONGEST + usize::from(room);
        let alone = places.iter().take(longest).take_while(|p| p.is_none());
        let list = &list[..alone.count()];
        if list.is_empty() {
            return 0;
        }
        let count = |class: Class, from: usize| {
            let same = |l: &&(Instruction, Class, usize)| l.1 == class && is_plain(&l.0);
            list[from..].iter().take_while(same).count()
        };
        match list[0].1 {
            Class::Push => count(Class::Push, 0),
            // The host may fault at any of them, and RBP must be as it was.
            Class::Leave if self.by_window() => 0,
            first @ (Class::Pop | Class::Leave) => {
                let start = usize::from(first == Class::Leave);
                let end = start + count(Class::Pop, start);
                // A RET alone, too, but for the pop of a register that is none of those.
                let returns = end > 0 && list.get(end).is_some_and(|l| l.1 == Class::Return);
                end + usize::from(returns)
            }
            Class::Plain if room => {
                let end = 1 + count(Class::Pop, 1);
                let returns = list.get(end).is_some_and(|l| l.1 == Class::Return);
                end + usize::from(returns)
            }
            _ => 0,
        }
    }

    /// The check of all accesses of a run. Where to go if it fails, if there is another copy.
    fn check_run(&mut self, address: Address, access: Access, size: i32) -> Option<Straddled> {
        if !self.source.copies || self.by_window() {
            self.check_bytes(address, access, size as u16, true);
            return None;
        }
        let (hole, restore) = self.look_up(&address, access, size);
        Some(Straddled { hole, restore })
    }

    /// Translates them. True if the block ends, and where to go if they have to be checked one by
    /// one.
    pub(super) fn stack_together(
        &mut self,
        run: &[(Instruction, Class, usize)],
    ) -> (bool, Option<Straddled>) {
        let register = |i: &Instruction| i.op0_register().number() as u8;
        let (first, class, _) = &run[0];
        let room = (*class == Class::Plain)
            .then(|| room_given_back(first))
            .flatten();
        let accesses = &run[usize::from(room.is_some())..];
        let size = 8 * accesses.len() as i32;
        let straddled;
        let mut made = 1;
        let by_window = self.by_window();
        match class {
            Class::Push => {
                straddled = self.check_run(Address::Stack(RSP, -size), Access::Write, size);
                for (n, (i, ..)) in run.iter().enumerate() {
                    let disp = size - 8 * (n as i32 + 1);
                    let place = self.place_at(disp);
                    self.asm.store(place, register(i));
                }
                self.asm.lea(RSP, Mem::base(RSP, -size));
                return (false, straddled);
            }
            Class::Plain => {
                let by = room.unwrap_or(0);
                straddled = self.check_run(Address::Stack(RSP, by), Access::Read, size);
                if by_window {
                    return (self.load_run(accesses, by + size, Some(by)), straddled);
                }
                self.asm.add_constant(RSP, by, false, true);
                self.asm.lea(RSP, Mem::base(RSP, size));
                made = 0;
            }
            Class::Leave => {
                straddled = self.check_run(Address::Stack(RBP, 0), Access::Read, size);
                // The load comes first: nothing has changed if the host faults at it.
                self.asm.load(R10, Mem::base(R11, 0));
                self.asm.lea(RSP, Mem::base(RBP, size));
                self.asm.mov(RBP, R10);
            }
            _ => {
                straddled = self.check_run(Address::Stack(RSP, 0), Access::Read, size);
                if by_window {
                    return (self.load_run(accesses, size, None), straddled);
                }
                self.asm.load(register(first), Mem::base(R11, 0));
                self.asm.lea(RSP, Mem::base(RSP, size));
            }
        }
        for (n, (i, class, _)) in accesses.iter().enumerate().skip(made) {
            let place = Mem::base(R11, 8 * n as i32);
            if *class != Class::Return {
                self.asm.load(register(i), place);
                continue;
            }
            (self.rip, self.code) = (i.ip(), i.code());
            let drop = popped(i) - 8;
            self.asm.load(R11, place);
            if drop != 0 {
                self.asm.lea(RSP, Mem::base(RSP, drop));
            }
            self.go_back(popped(i));
            return (true, straddled);
        }
        (false, straddled)
    }

    /// The pops of a run that goes through the window, and its return. The host may fault at any of
    /// them, and nothing must have changed then: the last is loaded first, into R10, and if the first
    /// can be loaded, too, so can what is between. The stack pointer moves at the end, by so many
    /// bytes, `room` of which an ADD in front adds. True if the block ends.
    fn load_run(
        &mut self,
        run: &[(Instruction, Class, usize)],
        moved: i32,
        room: Option<i32>,
    ) -> bool {
        let register = |i: &Instruction| i.op0_register().number() as u8;
        let [others @ .., (last, class, _)] = run else {
            return false;
        };
        let place = self.place_at(8 * others.len() as i32);
        self.asm.load(R10, place);
        for (n, (i, ..)) in others.iter().enumerate() {
            let place = self.place_at(8 * n as i32);
            self.asm.load(register(i), place);
        }
        if let Some(room) = room {
            self.asm.add_constant(RSP, room, false, true);
        }
        let returns = *class == Class::Return;
        let dropped = if returns { popped(last) - 8 } else { 0 };
        let rest = moved - room.unwrap_or(0) + dropped;
        self.asm.lea(RSP, Mem::base(RSP, rest));
        if !returns {
            self.asm.mov(register(last), R10);
            return false;
        }
        (self.rip, self.code) = (last.ip(), last.code());
        self.asm.mov(R11, R10);
        self.go_back(popped(last));
        true
    }
}
