//! Accesses through the window ([`crate::window`]), where the host's MMU does the rest. What is left
//! to ask is on which side an address is: from 2⁴⁶ on, where FS finds it, or below 4 GiB, where it
//! is in this process as it is.
//!
//! An address without an index is as good as its base: what is added reaches no further than the
//! room that is kept free around the window. So a base is asked once, and then known for as long as
//! constants are all that is added to it; the operand stays as it is, with an FS prefix or none. Where
//! a base is not on the side it was on when the block was made ([`super::values`]), the block is left
//! for the one that begins with that instruction. Where nobody behind wants to know of the base, and in
//! a block's first instruction, the instruction stands twice instead, for either side, and the block
//! goes on. Of all other addresses the sum is worked out in R11 and asked, and where it is below 4 GiB
//! a constant is added that FS takes away again.
//!
//! The stack pointer always has the bit: nobody comes here from elsewhere with another one
//! ([`super::shared`], [`crate::vcpu`]), and what changes it by more than an access that follows would
//! find out is asked. Around the window there is room for what a push, or an ADD and the access behind
//! it, may add: none gets past that without a fault.
//!
//! Operands at constants off the FS base need none, either: where FS leads to them from is worked out
//! when the base is set ([`way`]).
//!
//! Operands off RIP need no question: which side a page of code is on is part of the block's mode.

use super::access::{Address, Holes, Restore, Slow, SlowPath};
use super::{Building, Class, NO_SITE, NOT_EQUAL, Translator, field, stolen};
use crate::emit::{Asm, FS, Hole, Mem, R10, R11, RCX, RSP};
use crate::window::{BASE, BIT};
use iced_x86::{Code, Instruction, OpKind, Register};

/// Condition of a jump: CF is clear.
const NOT_CARRY: u8 = 3;
/// What may be added to a base that is known: with a displacement, no more than is kept free.
const REACH: i32 = 1 << 29;

/// RSP among the registers an instruction writes.
const STACK: u16 = 1 << RSP;
/// RBP.
const RBP: u8 = 5;

/// On which side of the window an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It has the bit.
    High,
    /// Below 4 GiB.
    Low,
}

/// No address, wherever FS leads from it.
pub(super) const NO_WAY: u64 = 1 << 62;

/// The address from which FS leads to where a linear address is in this process, if it has a side;
/// else one that faults, and so do those around it.
pub fn way(linear: u64) -> u64 {
    match Side::of(linear) {
        Some(Side::High) => linear,
        Some(Side::Low) => linear.wrapping_sub(BASE),
        None => NO_WAY,
    }
}

impl Side {
    /// The side of a linear address, if it has one.
    pub fn of(linear: u64) -> Option<Side> {
        match linear {
            _ if linear >> 32 == 0 => Some(Side::Low),
            _ if linear >> BIT == 1 => Some(Side::High),
            _ => None,
        }
    }

    pub(super) fn other(self) -> Side {
        match self {
            Side::High => Side::Low,
            Side::Low => Side::High,
        }
    }

    /// The place at a displacement from a register that is on the side.
    pub(super) fn place(self, base: u8, disp: i32) -> Mem {
        let segment = match self {
            Side::High => FS,
            Side::Low => 0,
        };
        Mem {
            segment,
            ..Mem::base(base, disp)
        }
    }
}

/// What is known of the general registers: the side they were on when they were asked, and what has
/// been added since.
pub(super) type Sides = [Option<(Side, i32)>; 16];

impl Building<'_, '_> {
    /// Finds the place of an access, after the questions that it takes.
    pub(super) fn go_through(&mut self, address: &Address, site: impl FnOnce(&mut Self) -> u32) {
        if let Address::Operand(i) = address
            && let Some(place) = self.constant(i)
        {
            self.through = place;
            return;
        }
        if let Some((base, disp)) = base_of(address) {
            let known = self.sides[usize::from(base)].is_some();
            if !known && !self.first {
                self.ask_base(base);
            }
            if let Some(place) = self.known(base, disp) {
                self.through = place;
                return;
            }
        }
        let site = site(self);
        self.ask_sum(address, site);
        self.through = Mem {
            segment: FS,
            ..Mem::base(R11, 0)
        };
    }

    /// An operand that is to stand twice: as the base is expected to be, and, apart from the code that
    /// runs, as it is on the other side, so that nothing is known of the base afterwards. That is
    /// where nobody wants to know. Its base, displacement and expected side.
    pub(super) fn stands_twice(&self, address: &Address) -> Option<(u8, i32, Side)> {
        let (base, disp) = base_of(address)?;
        let known = self.sides[usize::from(base)].is_some();
        let twice = !known && (self.first || !self.again);
        twice.then(|| (base, disp, self.expected(address)))
    }

    /// True if an operand is going to be used as it is.
    pub(super) fn stays(&self, address: &Address) -> bool {
        self.by_window()
            && base_of(address).is_some_and(|(base, disp)| {
                let known = self.sides[usize::from(base)].is_some();
                !known || self.known(base, disp).is_some()
            })
    }

    /// The place of an operand whose address is a constant or at a constant distance from the code or
    /// from the FS base.
    fn constant(&mut self, i: &Instruction) -> Option<Mem> {
        let segment = i.memory_segment();
        if segment == Register::GS || i.memory_index() != Register::None {
            return None;
        }
        let disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
        if segment == Register::FS {
            let near = i.memory_base() == Register::None && disp.abs() < REACH;
            return near.then(|| {
                self.asm.load(R11, field::fs_way);
                Side::High.place(R11, disp)
            });
        }
        match i.memory_base() {
            Register::RIP if let Some(page) = self.source.fixed => {
                let linear = page.wrapping_add(i.memory_displacement64());
                let side = Side::of(linear)?;
                self.asm.mov_imm(R11, linear);
                Some(side.place(R11, 0))
            }
            Register::RIP => {
                let side = self.source.side?;
                self.asm.load(R11, field::page);
                Some(side.place(R11, disp))
            }
            Register::None if disp >= 0 => Some(Mem {
                base: None,
                ..Side::Low.place(0, disp)
            }),
            _ => None,
        }
    }

    /// The place at a displacement from a base that is known.
    fn known(&self, base: u8, disp: i32) -> Option<Mem> {
        let (side, moved) = self.sides[usize::from(base)]?;
        let near = moved.checked_add(disp)?.unsigned_abs() <= 2 * REACH as u32;
        near.then_some(side.place(base, disp))
    }

    /// The side to ask for first.
    fn expected(&self, address: &Address) -> Side {
        let known = self.address_known(address).and_then(Side::of);
        known.unwrap_or_else(|| match address {
            // A table of a program that is not position-independent.
            Address::Operand(i)
                if i.memory_base() == Register::None
                    && !matches!(i.memory_segment(), Register::FS | Register::GS)
                    && (1..1 << 31).contains(&i.memory_displacement64()) =>
            {
                Side::Low
            }
            _ => Side::High,
        })
    }

    /// What is given back behind a question that destroys flags, or, if they must be kept, borrows RCX.
    pub(super) fn borrowed(&self) -> Restore {
        match self.remake {
            _ if !self.live => Restore::Nothing,
            Some(remake) => Restore::Remade(remake),
            None => Restore::Rcx,
        }
    }

    /// Jumps if an address in a register is not on a side, far away or over less than 128 bytes. R10,
    /// or RCX if flags are kept, is lost.
    fn ask(&mut self, register: u8, side: Side, restore: Restore, far: bool) -> Hole {
        let unless = |asm: &mut Asm, condition| match far {
            true => asm.jcc(condition),
            false => asm.jcc_short(condition),
        };
        match side {
            Side::High if restore == Restore::Rcx => {
                self.asm.pext_gs(RCX, register, field::WINDOW_BIT);
                match far {
                    true => self.jump_on_zero(true),
                    false => self.asm.jrcxz(),
                }
            }
            Side::Low if restore == Restore::Rcx => {
                self.asm.rorx(RCX, register, 32);
                self.asm.raw(&[0x67]); // jecxz
                let zero = self.asm.jrcxz();
                let hole = self.asm.jmp();
                self.asm.bind(zero);
                hole
            }
            Side::High => {
                self.asm.bt(register, BIT);
                unless(&mut self.asm, NOT_CARRY)
            }
            Side::Low => {
                self.asm.lea32(R10, Mem::base(register, 0));
                self.asm.cmp(R10, register);
                unless(&mut self.asm, NOT_EQUAL)
            }
        }
    }

    /// The first question, with whatever it takes kept; what is to be given back behind it.
    pub(super) fn ask_first(&mut self, register: u8, side: Side) -> (Hole, Restore) {
        let restore = self.borrowed();
        if restore == Restore::Rcx {
            self.asm.store(field::spill, RCX);
        }
        (self.ask(register, side, restore, true), restore)
    }

    /// Asks on which side a register is, and leaves for the block that begins here if it is on the
    /// other. Not for the first instruction.
    fn ask_base(&mut self, base: u8) {
        let side = self.expected(&Address::Stack(base, 0));
        let (hole, restore) = self.ask_first(base, side);
        self.give_back(restore);
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore,
            site: NO_SITE,
            what: SlowPath::Begin(self.rip),
        });
        self.sides[usize::from(base)] = Some((side, 0));
    }

    /// Behind an instruction that has changed the stack pointer (`list` begins with it), unless its next
    /// access, with nothing but work on registers before, is there: leaves for the dispatcher if it
    /// does not have the bit any more. `live`: flags are needed behind it.
    pub(super) fn ask_stack(&mut self, list: &[(Instruction, Class, usize)], live: bool) {
        let (i, class, _) = &list[0];
        if matches!(
            class,
            Class::Push | Class::Call | Class::CallIndirect | Class::Return
        ) {
            return;
        }
        let constant = self.sides[usize::from(RSP)].is_some();
        let moves = self.t.registers_written(i, *class) & STACK != 0;
        if !moves || *class == Class::Pop && constant {
            return;
        }
        let touches = |(i, class, _): &(Instruction, Class, usize)| match class {
            Class::Push | Class::Pop | Class::Return | Class::Call => Some(true),
            Class::Memory => {
                Some(base_of(&Address::Operand(*i)).is_some_and(|(base, _)| base == RSP))
            }
            Class::Plain | Class::Lea | Class::Nothing => None,
            _ => Some(false),
        };
        if constant && list[1..].iter().find_map(touches) == Some(true) {
            return;
        }
        (self.live, self.remake) = (live, None);
        let (hole, restore) = self.ask_first(RSP, Side::High);
        self.give_back(restore);
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore,
            site: NO_SITE,
            what: SlowPath::Leave(i.next_ip()),
        });
        self.sides[usize::from(RSP)] = Some((Side::High, 0));
    }

    /// Works out an address in R11 and asks for its side: afterwards it is where FS finds it.
    fn ask_sum(&mut self, address: &Address, site: u32) {
        self.emit_address(address);
        let side = self.expected(address);
        let (hole, restore) = self.ask_first(R11, side);
        let back = self.lead_back(side, restore);
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore,
            site,
            what: SlowPath::Outside { back, side },
        });
    }

    /// An address in R11 becomes one that FS leads back from, where it is below 4 GiB; and what is to be
    /// given back is. Where the way of the other side joins it.
    fn lead_back(&mut self, side: Side, restore: Restore) -> usize {
        self.raise(side, restore);
        let back = self.asm.bytes.len();
        self.give_back(restore);
        back
    }

    /// An address in R11 that is below 4 GiB becomes one that FS leads back from.
    fn raise(&mut self, side: Side, restore: Restore) {
        match (side, restore) {
            (Side::High, _) => {}
            (Side::Low, Restore::Rcx) => {
                self.asm.load(RCX, field::from_window);
                self.asm.lea(R11, Mem::sum(R11, RCX));
            }
            (Side::Low, _) => self.asm.add_mem(R11, field::from_window),
        }
    }

    /// The slow path of a question about R11 that was answered no, up to where the interpreter is wanted.
    pub(super) fn outside(&mut self, restore: Restore, back: u64, side: Side) {
        let other = side.other();
        let neither = self.ask(R11, other, restore, false);
        self.raise(other, restore);
        self.asm.jmp_to(back);
        self.asm.bind(neither);
        self.give_back(restore);
    }

    /// The same where the instruction stands twice, with `code` for it on the other side.
    pub(super) fn twice(&mut self, restore: Restore, back: u64, base: u8, side: Side, code: &[u8]) {
        let neither = self.ask(base, side.other(), restore, false);
        self.give_back(restore);
        self.asm.raw(code);
        self.asm.jmp_to(back);
        self.asm.bind(neither);
        self.give_back(restore);
    }

    /// Asks now what instructions want to know in front of which flags are live that the first of
    /// `list` makes. `needed`: the flags needed before each.
    pub(super) fn ask_early(&mut self, list: &[(Instruction, Class, usize)], needed: &[u32]) {
        if !self.by_window() || self.first || self.live || !self.t.switches.early_check {
            return;
        }
        let mut written = self.t.registers_written(&list[0].0, list[0].1);
        for ((i, class, _), needed) in list.iter().zip(needed).skip(1) {
            if *needed == 0 {
                break;
            }
            let base = match class {
                Class::Memory | Class::CallIndirect | Class::JumpIndirect => {
                    base_of(&Address::Operand(*i))
                }
                Class::Push | Class::Pop | Class::Return | Class::Call => Some((RSP, 0)),
                _ => None,
            };
            if let Some((base, _)) = base
                && written >> base & 1 == 0
                && self.sides[usize::from(base)].is_none()
            {
                self.ask_base(base);
            }
            written |= self.t.registers_written(i, *class);
        }
    }

    /// Behind an instruction: what is known of the sides now.
    pub(super) fn keep_sides(&mut self, i: &Instruction, class: Class) {
        let register = |k: u32| {
            let r = i.op_register(k);
            (i.op_kind(k) == OpKind::Register && r.is_gpr64()).then(|| r.number())
        };
        let moved = |(side, by): (Side, i32), more: i64| {
            let by = i32::try_from(more).ok()?.checked_add(by)?;
            (by.abs() < REACH).then_some((side, by))
        };
        let immediate = || i.immediate(1) as i64;
        let stack = match class {
            Class::Push => Some(-8),
            Class::Pop if i.op0_register() != Register::RSP => Some(8),
            _ => None,
        };
        let result = match i.code() {
            Code::Add_rm64_imm8 | Code::Add_rm64_imm32 => {
                register(0).and_then(|r| self.sides[r].and_then(|known| moved(known, immediate())))
            }
            Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => register(0)
                .and_then(|r| self.sides[r].and_then(|k| moved(k, immediate().checked_neg()?))),
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => register(1).and_then(|r| self.sides[r]),
            Code::Lea_r64_m if i.memory_base().is_gpr64() && i.memory_index() == Register::None => {
                let known = self.sides[i.memory_base().number()];
                known.and_then(|known| moved(known, i.memory_displacement64() as i64))
            }
            _ => None,
        };
        let rsp = self.sides[usize::from(RSP)];
        let rbp = self.sides[usize::from(RBP)];
        let mut written = self.t.registers_written(i, class);
        while written != 0 {
            self.sides[written.trailing_zeros() as usize] = None;
            written &= written - 1;
        }
        if class == Class::Leave {
            self.sides[usize::from(RSP)] = rbp.and_then(|known| moved(known, 8));
        }
        if let Some(by) = stack {
            self.sides[usize::from(RSP)] = rsp.and_then(|known| moved(known, by));
        }
        if let Some(r) = register(0).filter(|_| result.is_some()) {
            self.sides[r] = result;
        }
    }
}

impl Translator {
    /// For each instruction, a bit: whether one behind it wants to know of its operand's base.
    pub(super) fn plan_again(&mut self, list: &[(Instruction, Class, usize)]) -> u64 {
        let mut again = 0;
        let mut soon = 0u16;
        for (n, (i, class, _)) in list.iter().enumerate().rev() {
            soon &= !self.registers_written(i, *class);
            let base = match class {
                Class::Memory | Class::CallIndirect | Class::JumpIndirect => {
                    base_of(&Address::Operand(*i))
                }
                Class::Leave => Some((RBP, 0)),
                _ => None,
            };
            if let Some((base, _)) = base {
                again |= u64::from(soon >> base & 1) << n;
                soon |= 1 << base;
            }
        }
        again
    }
}

/// The base of an address that has nothing else but a displacement, if the host has it in a register.
fn base_of(address: &Address) -> Option<(u8, i32)> {
    match address {
        Address::Operand(i) => {
            let base = i.memory_base();
            let based = matches!(i.memory_segment(), Register::FS | Register::GS);
            let plain = base.is_gpr64() && stolen(base).is_none();
            let alone = i.memory_index() == Register::None && !based;
            let disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
            let near = disp.abs() < REACH;
            (plain && alone && near).then_some((base.number() as u8, disp))
        }
        Address::Stack(register, disp) => Some((*register, *disp)),
        Address::Bits(..) | Address::Group(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Window;

    #[test]
    fn fs_leads_from_the_way_of_an_address_to_where_it_is_in_the_window() {
        for linear in [
            0x1_0000,
            0x60_0000,
            u32::MAX.into(),
            1 << BIT,
            0x7f00_1234_5678,
        ] {
            assert_eq!(Some(way(linear).wrapping_add(BASE)), Window::host(linear));
        }
        for linear in [1 << 32, (1 << BIT) - 1, 1 << (BIT + 1), !0] {
            // Not canonical, and nothing near it is.
            let led = way(linear).wrapping_add(BASE) >> BIT;
            assert!((3..0x3_fffe).contains(&led), "{linear:x}: {led:x}");
        }
    }
}
