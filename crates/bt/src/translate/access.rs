//! Accesses to memory: how an address is worked out, the check of the software TLB in its two forms,
//! and the slow paths, of these and of all else that hardly ever runs.

use super::field;
use super::plain::{gpr_number, stolen};
use super::remake::Remake;
use super::shared::Way;
use super::through::Side;
use super::{Building, NO_SITE, TLB_INDEX};
use crate::area::{Area, STACK_SLOTS, VIEWS, View};
use crate::block::{Kind, Site};
use crate::emit::{Asm, Hole, Mem, Pattern, R10, R11, RCX, RSP};
use core::mem::take;
use core::ops::Range;
use iced_x86::{Instruction, Register};
use x86::mmu::Access;

/// A slow path to be made behind the block.
pub(super) struct Slow {
    pub(super) holes: Holes,
    pub(super) restore: Restore,
    pub(super) site: u32,
    pub(super) what: SlowPath,
}

/// Where a slow path is entered from. Nearly all have one, and want no memory for it.
pub(super) enum Holes {
    One(Hole),
    Some(Vec<Hole>),
}

impl Holes {
    pub(super) fn all(&self) -> &[Hole] {
        match self {
            Holes::One(hole) => core::slice::from_ref(hole),
            Holes::Some(holes) => holes,
        }
    }
}

/// What the hot path has borrowed, to be given back first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Restore {
    Nothing,
    /// RCX, in [`Area::spill`].
    Rcx,
    /// The flags, in RAX, and RAX, in [`Area::saved`].
    Flags,
    /// The flags, which can be made again.
    Remade(Remake),
}

/// What a slow path does.
pub(super) enum SlowPath {
    /// Looks further, because this address missed the TLB or one of the stack's entries.
    Miss(Address, Access, Option<usize>),
    /// The address in R11 is not on the side that the window was asked for ([`super::through`]): goes
    /// back with it as FS wants it, if it is on the other, and leaves the instruction to the
    /// interpreter if not.
    Outside {
        /// Offset of what is behind the question.
        back: usize,
        /// That side.
        side: Side,
    },
    /// The same where the instruction stands twice: does it as it is on the other side.
    Twice {
        /// Offset of what is behind it.
        back: usize,
        base: u8,
        side: Side,
        /// Its code, in [`Building::others`].
        code: Range<usize>,
    },
    /// Goes to the block that begins at this offset from the page.
    Begin(u64),
    /// Leaves the instruction to the interpreter.
    Interpret,
    /// Leaves to be linked.
    Link,
    /// Goes by the branch table to this offset from the page, and looks at the pins or not, or
    /// leaves to be linked.
    Far(u64, bool),
    /// Finds the block that is not behind the last call.
    Return,
    /// Goes where an indirect branch leads, with that in R11.
    Indirect,
    /// Leaves, to go on at this offset from the page.
    Leave(u64),
}

impl SlowPath {
    /// Their order behind a block.
    fn rank(&self) -> u8 {
        match self {
            SlowPath::Link => 0,
            SlowPath::Far(..) => 1,
            _ => 2,
        }
    }
}

/// The checks of the address in R11 by one table of the TLB.
pub(super) struct Checks {
    /// The short one; its number is the last offset in a page that passes.
    short: Pattern,
    /// The one that leaves the flags alone, before and after RCX is made the last byte's address.
    flagless: [Pattern; 2],
    /// What of that asks if the last byte's offset, in RCX, is in the page, and gives RCX back; and
    /// if the first one's page, which is in R10, is zero.
    in_page: Pattern,
}

impl Checks {
    /// Of each view, for reads and for writes.
    pub(super) fn all() -> [[Checks; 2]; VIEWS] {
        View::ALL.map(|view| [Area::read_table(view), Area::write_table(view)].map(Checks::new))
    }

    fn new(table: i32) -> Checks {
        let mut asm = Asm::new(0);
        asm.rorx(R10, R11, 8);
        asm.and_imm32(R10, TLB_INDEX);
        asm.add_mem(R11, Mem::gs_base(R10, table));
        asm.cmp_imm(R11, 0);
        let number = asm.bytes.len() - 4;
        let slow = asm.jcc(7); // above
        asm.add_mem(R11, Mem::gs_base(R10, table + 8));
        let short = asm.pattern(Some(number), Some(slow));
        // The same without flags: PEXT for the index, LEA for the sum, JRCXZ for the test.
        let mut asm = Asm::new(0);
        asm.store(field::spill, RCX);
        asm.pext_gs(R10, R11, field::TLB_MASK);
        asm.lea(R10, Mem::sum(R10, R10));
        asm.load(RCX, Mem::gs_index8(R10, table));
        asm.lea(R11, Mem::sum(R11, RCX));
        let before = asm.pattern(None, None);
        let in_page = |asm: &mut Asm, first: bool| {
            asm.pext_gs(RCX, RCX, field::PAGE_MASK);
            if first {
                asm.lea(RCX, Mem::sum(RCX, R10));
            }
            let hit = asm.jrcxz();
            let slow = asm.jmp();
            asm.bind(hit);
            asm.load(RCX, field::spill);
            slow
        };
        let mut asm = Asm::new(0);
        let slow = in_page(&mut asm, true);
        let known = asm.pattern(None, Some(slow));
        let mut asm = Asm::new(0);
        let slow = in_page(&mut asm, false);
        asm.load(R10, Mem::gs_index8(R10, table + 8));
        asm.lea(R11, Mem::sum(R11, R10));
        let after = asm.pattern(None, Some(slow));
        Checks {
            short,
            flagless: [before, after],
            in_page: known,
        }
    }
}

/// An address off RSP.
fn off_stack(address: &Address) -> Mem {
    match address {
        Address::Operand(i) | Address::Bits(i, _) => {
            Mem::base(RSP, i.memory_displacement64() as i32)
        }
        Address::Stack(_, disp) => Mem::base(RSP, *disp),
        Address::Group(low) => *low,
    }
}

/// How the address of an access is worked out.
#[derive(Clone, Copy)]
pub(super) enum Address {
    Operand(Instruction),
    /// The operand plus eight times the register shifted right by six.
    Bits(Instruction, Register),
    /// `[register + displacement]`.
    Stack(u8, i32),
    /// The lowest byte of a group's.
    Group(Mem),
}

impl Building<'_, '_> {
    /// Works out an operand's address in R11, without touching flags. R10 is lost.
    pub(super) fn address(&mut self, i: &Instruction, segment: bool) {
        if self.source.view.is_32bit() {
            return self.address_32(i);
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let disp = i.memory_displacement64();
        let short = base.is_gpr32()
            || index.is_gpr32()
            || base == Register::None
                && index == Register::None
                && i.memory_displ_size() == 4
                && disp >> 32 == 0
                && (disp as i32) < 0;
        if base == Register::RIP {
            self.linear(R11, disp);
        } else if base == Register::None && index == Register::None {
            self.asm.mov_imm(R11, disp);
        } else {
            let mut place = |r: Register, scratch: u8| {
                let home = stolen(r);
                if let Some(home) = home {
                    self.asm.load(scratch, Mem::gs(Area::home(home)));
                    return Some(scratch);
                }
                gpr_number(r)
            };
            let base = place(base, R11);
            let index =
                place(index, R10).map(|r| (r, i.memory_index_scale().trailing_zeros() as u8));
            let mem = Mem {
                base,
                index,
                disp: disp as i32,
                segment: 0,
            };
            if short {
                self.asm.lea32(R11, mem);
            } else {
                self.asm.lea(R11, mem);
            }
        }
        let from = match i.memory_segment() {
            Register::FS if segment => field::fs_base,
            Register::GS if segment => field::gs_base,
            _ => return,
        };
        self.asm.load(R10, from);
        self.asm.lea(R11, Mem::sum(R11, R10));
    }

    /// A linear address of the page's surroundings into a register, from its distance to the page.
    pub(super) fn linear(&mut self, register: u8, offset: u64) {
        if let Some(page) = self.source.fixed {
            return self.asm.mov_imm(register, page.wrapping_add(offset));
        }
        self.asm.load(register, field::page);
        if self.source.view.is_32bit() {
            let mem = Mem::base(register, offset as i32);
            return self.asm.lea32(register, mem);
        }
        // Two GiB forwards from the instruction may be more than that from the page.
        let offset = offset as i64;
        let near = offset.min(i32::MAX.into());
        self.asm.lea(register, Mem::base(register, near as i32));
        if near != offset {
            let rest = Mem::base(register, (offset - near) as i32);
            self.asm.lea(register, rest);
        }
    }

    pub(super) fn emit_address(&mut self, address: &Address) {
        match address {
            Address::Operand(i) => self.address(i, true),
            _ if self.source.view.is_32bit() => self.emit_address_32(address),
            Address::Bits(i, bit) => {
                self.address(i, true);
                // Arithmetic shift without flags: SARX by a register that holds six.
                let from = match stolen(*bit) {
                    Some(home) => Area::home(home),
                    None => {
                        self.asm.store(field::value, bit.number() as u8);
                        field::VALUE
                    }
                };
                self.asm.mov_imm(R10, 6);
                // sarx r10, gs:[from], r10
                self.asm.sarx_gs(R10, from, R10);
                let sum = Mem {
                    base: Some(R11),
                    index: Some((R10, 3)),
                    disp: 0,
                    segment: 0,
                };
                self.asm.lea(R11, sum);
            }
            Address::Stack(register, disp) => self.asm.lea(R11, Mem::base(*register, *disp)),
            Address::Group(low) => self.asm.lea(R11, *low),
        }
    }

    /// Checks an access, unless its group was: afterwards [`Building::place`] is where it goes in
    /// this process, and that is `[r11]` if it is in no group. R10 is lost.
    pub(super) fn check(&mut self, address: Address, access: Access, size: u8) {
        self.at = self.grouped.unwrap_or(0);
        if self.grouped.is_some() {
            self.left_out = Some((address, access, size));
            return;
        }
        self.check_bytes(address, access, size.into(), false);
    }

    /// Checks so many bytes, of one access or of `several`.
    pub(super) fn check_bytes(
        &mut self,
        address: Address,
        access: Access,
        size: u16,
        several: bool,
    ) {
        self.at = 0;
        let retry = self.asm.here();
        if self.by_window() {
            let site = |b: &mut Self| b.access_site(access, size, several, retry);
            return self.go_through(&address, site);
        }
        let site = self.access_site(access, size, several, retry);
        let (slow, restore) = self.look_up(&address, access, size.into());
        self.slow.push(Slow {
            holes: Holes::One(slow),
            restore,
            site,
            what: SlowPath::Miss(address, access, self.stack_slot(&address)),
        });
    }

    /// Looks for so many bytes in the TLB: they are at `[r11]` then, if it knows them. Where to go
    /// if not, and what is to be given back there.
    pub(super) fn look_up(
        &mut self,
        address: &Address,
        access: Access,
        size: i32,
    ) -> (Hole, Restore) {
        let free = !self.live || self.remake.is_some();
        if free && self.t.switches.short_check {
            return self.compare(address, access, size);
        }
        let (view, write) = (
            self.source.view as usize,
            usize::from(access == Access::Write),
        );
        if let Some(slot) = self.stack_slot(address) {
            let entry = Area::stack_slot(self.source.view, access, slot);
            let place = Mem {
                index: Some((RCX, 0)),
                ..off_stack(address)
            };
            self.asm.store(field::spill, RCX);
            self.asm.load(RCX, Mem::gs(entry));
            self.asm.lea(R11, place);
            // The first byte may be in the page below, which the TLB has in another place.
            self.asm.pext_gs(R10, R11, field::PAGE_MASK);
            self.asm.lea(RCX, Mem::base(R11, size - 1));
            let slow = self.asm.copy(&self.t.checks[view][write].in_page);
            self.asm.load(R10, Mem::gs(entry + 8));
            self.asm.lea(R11, Mem::sum(R11, R10));
            return (slow, Restore::Rcx);
        }
        self.emit_address(address);
        let checks = &self.t.checks[view][write];
        let _ = self.asm.copy(&checks.flagless[0]);
        self.asm.lea(RCX, Mem::base(R11, size - 1));
        let slow = self.asm.copy(&checks.flagless[1]);
        (slow, Restore::Rcx)
    }

    /// The short check of so many bytes, with the flags made again behind it if they are needed;
    /// where to go if it fails, and what is to be given back there.
    pub(super) fn compare(
        &mut self,
        address: &Address,
        access: Access,
        size: i32,
    ) -> (Hole, Restore) {
        self.emit_address(address);
        let slow = if let Some(slot) = self.stack_slot(address) {
            let entry = Area::stack_slot(self.source.view, access, slot);
            self.asm.add_mem(R11, Mem::gs(entry));
            self.asm.cmp_imm(R11, 4096 - size);
            let slow = self.asm.jcc(7); // above
            self.asm.add_mem(R11, Mem::gs(entry + 8));
            slow
        } else {
            let view = self.source.view as usize;
            let checks = &self.t.checks[view][usize::from(access == Access::Write)];
            self.asm.copy_with(&checks.short, 4096 - size)
        };
        let restore = self.borrowed();
        self.give_back(restore);
        (slow, restore)
    }

    /// The entry of the stack that a check of this address looks at, if it is off RSP.
    pub(super) fn stack_slot(&self, address: &Address) -> Option<usize> {
        let usual = !self.source.view.is_32bit() && self.t.switches.stack_slots;
        let off_stack = match address {
            Address::Operand(i) => {
                i.memory_base() == Register::RSP
                    && i.memory_index() == Register::None
                    && !matches!(i.memory_segment(), Register::FS | Register::GS)
            }
            Address::Stack(register, _) => *register == RSP,
            Address::Group(low) => low.base == Some(RSP) && low.index.is_none(),
            Address::Bits(..) => false,
        };
        (usual && off_stack).then_some((self.source.rip >> 4) as usize % STACK_SLOTS)
    }

    /// Makes the slow paths, apart from the code that runs.
    pub(super) fn slow_paths(&mut self) {
        let buffer = take(&mut self.t.spare.output.cold);
        let cold = Asm::with_buffer(self.source.cold, buffer);
        let mut main = core::mem::replace(&mut self.asm, cold);
        // First the exits that ask for links, where the block's list has them
        // ([`crate::block::EXITS`]), then the ways of far links, which are in a site's reach there.
        let mut slow = take(&mut self.slow);
        let of = |rank| slow.iter().filter(move |slow| slow.what.rank() == rank);
        let ordered = of(0).chain(of(1)).chain(of(2));
        // Ends that others may share.
        let mut ends = [(0, 0); 4];
        let mut made = 0;
        for slow in ordered {
            if let SlowPath::Far(..) = slow.what {
                self.place_far(slow.site);
            }
            for hole in slow.holes.all() {
                main.bind_to(*hole, self.asm.here());
            }
            match &slow.what {
                SlowPath::Outside { back, side } => {
                    self.outside(slow.restore, main.origin + *back as u64, *side);
                }
                SlowPath::Twice {
                    back,
                    base,
                    side,
                    code,
                } => {
                    let back = main.origin + *back as u64;
                    let others = take(&mut self.others);
                    let code = &others[code.clone()];
                    self.twice(slow.restore, back, *base, *side, code);
                    self.others = others;
                }
                _ => self.give_back(slow.restore),
            }
            let exit = match &slow.what {
                SlowPath::Miss(address, access, slot) => {
                    self.emit_address(address);
                    self.t.exits.miss(self.source.view, *access, *slot)
                }
                SlowPath::Interpret | SlowPath::Outside { .. } | SlowPath::Twice { .. } => {
                    self.t.exits.interpret
                }
                SlowPath::Link => self.t.exits.link,
                SlowPath::Indirect => self.t.exits.way(self.source.view, Way::Indirect),
                SlowPath::Return => self.t.exits.way(self.source.view, Way::Return),
                SlowPath::Far(target, poll) => {
                    let way = if *poll {
                        Way::Unlinked
                    } else {
                        Way::UnlinkedForward
                    };
                    self.offset_for(*target, way)
                }
                SlowPath::Begin(target) => self.offset_for(*target, Way::Any),
                SlowPath::Leave(target) => self.offset_for(*target, Way::Leave),
            };
            if slow.site != NO_SITE {
                self.asm.mov_imm(R10, slow.site.into());
            }
            let here = self.asm.here();
            let known = ends.iter().find(|(to, at)| *to == exit && here - at < 126);
            match known {
                Some((_, end)) => self.asm.jmp_back(*end),
                None => {
                    ends[made % ends.len()] = (exit, here);
                    made += 1;
                    self.asm.jmp_to(exit);
                }
            }
        }
        slow.clear();
        self.slow = slow;
        self.cold = core::mem::replace(&mut self.asm, main).bytes;
    }

    /// Works out in R11 what a way wants to know that goes on at this offset from the page: where it
    /// begins.
    fn offset_for(&mut self, target: u64, way: Way) -> u64 {
        let (exits, view) = (&self.t.exits, self.source.view);
        let (number, way) = match self.source.fixed {
            Some(page) => (page.wrapping_add(target), exits.way(view, way)),
            None => (target, exits.way_from_page(view, way)),
        };
        self.asm.mov_imm(R11, number);
        way
    }

    /// The next slow path is where the jump of a far site leads before it is linked.
    fn place_far(&mut self, site: u32) {
        let word = &mut self.sites[(site - self.source.first_site) as usize];
        let mut of = Site::unpack(*word);
        if let Kind::Far { way, .. } = &mut of.kind {
            *way = self.asm.bytes.len() as u16;
        }
        *word = of.pack();
    }
}
