//! One check for several accesses off the same registers: `push` after `push`, the fields of one
//! structure. Where a run of instructions adds only constants to what its accesses are relative
//! to, their distances are known, and if the stretch they span lies in one page, that page is all
//! there is to check.
//!
//! Its place is kept in the area ([`crate::area::Area::group`]) if a stolen register takes R11 in
//! between, and loaded again for the next access.
//!
//! Where flags are live at the first access, the check comes earlier, in front of the instruction
//! that makes them, if nothing stands between that needs R11 or changes the address otherwise; so
//! does that of a single access. Else it is of the form that leaves them alone, or they are made
//! again behind it ([`super::remake`]).
//!
//! A check that fails, be it for the end of a page or for one that may be read and not written, is
//! a miss as that of a single access is: the interpreter does the first instruction, and what
//! follows is another block. Few do, so nothing more is made until it has happened to a block some
//! times ([`Source::copies`]). Then it is translated anew, as
//!
//! ```text
//!     check the stretch ── misses ──> the same instructions, each access with its own check,
//!     the instructions                behind the block ─┐
//!     go on <──────────────────────────────────────────┘
//! ```
//!
//! The other copy is of the same bytes: behind the check of one access R11 is made what the check
//! of the stretch would have made it. That check has no slow path of its own and changes nothing:
//! whatever it fails for is found out instruction by instruction in the other copy.
//!
//! [`Source::copies`]: super::Source::copies

use super::remake::bit;
use super::stack::Straddled;
use super::{
    Address, Building, Class, Holes, Slow, SlowPath, Translator, field, names_high_byte, sized,
    stolen,
};
use crate::block::STRETCH;
use crate::emit::{Mem, R11};
use core::ops::Range;
use iced_x86::{Code, Instruction, OpAccess, OpKind, Register};
use x86::mmu::Access;

/// The longest stretch. Longer ones would cross a page's end too often.
const SPAN: i32 = STRETCH as i32;

/// How many instructions before an access its check may come.
const REACH: usize = 6;

/// What the accesses of a group are relative to: base, index and scale.
type Key = (Register, Register, u32);

/// Accesses with one check.
pub(super) struct Group {
    /// The instructions, as places in the block.
    pub(super) members: Range<usize>,
    key: Key,
    /// Lowest displacement.
    low: i32,
    /// Bytes from there to the end of the last access.
    span: i32,
    access: Access,
    /// Its place is kept in the area.
    saved: bool,
}

/// An access that is checked with its group.
#[derive(Clone, Copy)]
pub(super) struct Member {
    /// Its distance from the group's lowest byte.
    at: i32,
    /// The group's place is no longer in R11.
    reload: bool,
}

/// What an instruction means for a group.
enum Role {
    /// It uses memory, and then adds a constant to its base. `last`: what it does afterwards
    /// needs the registers of the check.
    Access {
        key: Key,
        at: i32,
        size: i32,
        access: Access,
        moves: i32,
        last: bool,
    },
    /// It uses no memory.
    Neutral,
    /// Nor does this, but it takes R11.
    Clobbers,
    /// It adds a constant to a register.
    Moves(Register, i32),
    /// No group goes beyond it.
    End,
}

/// What an instruction writes: a bit for each operand that it does.
pub(super) type Written = u8;
/// And registers that are no operands of it.
const OTHERS: Written = 1 << 7;

/// The plan for a block, and vectors to be used again.
#[derive(Default)]
pub(super) struct Plan {
    /// Groups in the order of the block.
    pub(super) groups: Vec<Group>,
    /// For each instruction: its access, if that is in a group.
    pub(super) places: Vec<Option<Member>>,
}

impl Plan {
    /// No groups, for a block of so many instructions.
    pub(super) fn clear(&mut self, instructions: usize) {
        self.groups.clear();
        self.places.clear();
        self.places.resize(instructions, None);
    }
}

/// The check of an access.
pub(super) type Check = (Address, Access, u8);

/// A member's code in the first copy.
pub(super) struct Kept {
    /// Where it is.
    code: Range<usize>,
    /// The check that it left out, and the place it has taken from the group's.
    check: Option<(Check, i32)>,
    /// It could not be translated after all: it is the interpreter's.
    interpret: bool,
}

/// A group that is being put together.
struct Open {
    group: Group,
    /// What was added to the base since its start.
    moved: i32,
    accesses: usize,
    /// Its place is in R11.
    here: bool,
}

/// True if addresses are made of this register.
fn uses(key: Key, r: Register) -> bool {
    r != Register::None && (key.0 == r || key.1 == r)
}

impl Open {
    /// Takes another access in, if the stretch stays short enough.
    fn take(&mut self, n: usize, at: i32, size: i32, access: Access) -> bool {
        let g = &mut self.group;
        let low = g.low.min(at);
        let end = (g.low + g.span).max(at + size);
        if end - low > SPAN {
            return false;
        }
        (g.low, g.span) = (low, end - low);
        g.members.end = n + 1;
        if access == Access::Write {
            g.access = access;
        }
        self.accesses += 1;
        true
    }
}

impl Translator {
    /// Finds the groups of a block in 64-bit code. `needed`: the flags needed before each
    /// instruction.
    pub(super) fn plan(
        &mut self,
        list: &[(Instruction, Class, usize)],
        needed: &[u32],
        plan: &mut Plan,
    ) {
        plan.clear(list.len());
        let mut open: Option<Open> = None;
        for (n, (i, class, _)) in list.iter().enumerate() {
            // The poll behind STI's shadow uses the registers of the check.
            let shadow = n > 0 && list[n - 1].1 == Class::Sti;
            let role = match self.role(i, *class) {
                _ if shadow => Role::End,
                role => role,
            };
            match role {
                Role::End => close(&mut open, plan),
                Role::Neutral | Role::Clobbers => {
                    if let Some(o) = &mut open {
                        o.here &= matches!(role, Role::Neutral);
                        if self.writes(i, o.group.key) {
                            close(&mut open, plan);
                        }
                    }
                }
                Role::Moves(r, by) => {
                    if let Some(o) = &mut open
                        && uses(o.group.key, r)
                    {
                        let moved = o.moved.checked_add(by).filter(|m| m.abs() <= SPAN);
                        match moved {
                            Some(moved) if o.group.key.0 == r && o.group.key.1 != r => {
                                o.moved = moved;
                            }
                            _ => close(&mut open, plan),
                        }
                    }
                }
                Role::Access {
                    key,
                    at,
                    size,
                    access,
                    moves,
                    last,
                } => {
                    let joins = open.as_mut().is_some_and(|o| {
                        let place = at.checked_add(o.moved);
                        let fits = place.is_some_and(|p| p.abs() < 1 << 30);
                        o.group.key == key && fits && o.take(n, at + o.moved, size, access)
                    });
                    if !joins {
                        close(&mut open, plan);
                        let start = if at.abs() >= 1 << 30 {
                            None
                        } else if needed[n] == 0 {
                            Some((n, 0))
                        } else if moves != 0 && is_run(&list[n + 1..]) {
                            // [`super::stack`] does these better.
                            None
                        } else {
                            let here = (!last).then_some((n, 0));
                            self.start_before(list, needed, n, key).or(here)
                        };
                        open = start.map(|(start, moved)| Open {
                            group: Group {
                                members: start..n + 1,
                                key,
                                low: at + moved,
                                span: size,
                                access,
                                saved: false,
                            },
                            moved,
                            accesses: 1,
                            here: true,
                        });
                    }
                    if let Some(o) = &mut open {
                        plan.places[n] = Some(Member {
                            at: at + o.moved,
                            reload: !o.here,
                        });
                        o.group.saved |= !o.here;
                        o.here = true;
                        o.moved += moves;
                        let ends = last || moves == 0 && self.writes(i, o.group.key);
                        if ends {
                            close(&mut open, plan);
                        }
                    }
                }
            }
        }
        close(&mut open, plan);
    }

    /// For an access where flags are live: an instruction before it where they are dead, so that the
    /// check may come there, and what is added to the base from there on.
    fn start_before(
        &mut self,
        list: &[(Instruction, Class, usize)],
        needed: &[u32],
        n: usize,
        key: Key,
    ) -> Option<(usize, i32)> {
        if !self.switches.early_check {
            return None;
        }
        let mut moved = 0i32;
        for start in (n.saturating_sub(REACH)..n).rev() {
            let (i, class, _) = &list[start];
            match self.role(i, *class) {
                Role::Neutral if !self.writes(i, key) => {}
                Role::Moves(r, by) if key.0 == r && key.1 != r => {
                    moved = moved.checked_add(by).filter(|m| m.abs() <= SPAN)?;
                }
                Role::Moves(r, _) if key.1 != r => {}
                _ => return None,
            }
            // The poll behind STI's shadow uses the registers of the check.
            if start > 0 && list[start - 1].1 == Class::Sti {
                return None;
            }
            if needed[start] == 0 {
                return Some((start, moved));
            }
        }
        None
    }

    /// True if an instruction writes a register that addresses are made of.
    fn writes(&mut self, i: &Instruction, key: Key) -> bool {
        let (operands, others) = self.written_operands(i);
        let used = [key.0, key.1].into_iter().filter(|r| r.is_gpr());
        others || used.fold(0, |all, r| all | bit(r)) & operands != 0
    }

    /// The general registers among its operands that an instruction writes, a bit for each, and
    /// whether it writes others, too.
    pub(super) fn written_operands(&mut self, i: &Instruction) -> (u16, bool) {
        let written = self.written(i);
        let (mut rest, mut all) = (written & !OTHERS, 0);
        while rest != 0 {
            let k = rest.trailing_zeros();
            rest &= rest - 1;
            if i.op_kind(k) == OpKind::Register && i.op_register(k).is_gpr() {
                all |= bit(i.op_register(k));
            }
        }
        (all, written & OTHERS != 0)
    }

    pub(super) fn written(&mut self, i: &Instruction) -> Written {
        let place = i.code() as usize;
        if let Some(known) = self.written[place] {
            return known;
        }
        // The operands are made registers that no instruction means without naming them.
        let mut named = *i;
        for k in 0..i.op_count() {
            if i.op_kind(k) == OpKind::Register && i.op_register(k).is_gpr() {
                named.set_op_register(k, sized(R15_PARTS, i.op_register(k)));
            }
        }
        let info = self.info.info(&named);
        let writes = |a| {
            !matches!(
                a,
                OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
            )
        };
        let mut found = (0..i.op_count())
            .filter(|k| writes(info.op_access(*k)))
            .fold(0, |all, k| all | 1 << k);
        let other =
            |r: Register| r.full_register().is_gpr64() && r.full_register() != Register::R15;
        if info
            .used_registers()
            .iter()
            .any(|u| other(u.register()) && writes(u.access()))
        {
            found |= OTHERS;
        }
        self.written[place] = Some(found);
        found
    }

    fn role(&mut self, i: &Instruction, class: Class) -> Role {
        let stack = |at, access, moves, last| Role::Access {
            key: (Register::RSP, Register::None, 1),
            at,
            size: 8,
            access,
            moves,
            last,
        };
        match class {
            Class::Nothing => Role::Neutral,
            Class::Plain => {
                if (0..i.op_count()).any(|k| stolen_operand(i, k) == Some(R11)) {
                    return Role::Clobbers;
                }
                let by = match i.code() {
                    Code::Add_rm64_imm8 | Code::Add_rm64_imm32 => i.immediate(1) as i64,
                    Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => {
                        (i.immediate(1) as i64).wrapping_neg()
                    }
                    _ => return Role::Neutral,
                };
                i32::try_from(by).map_or(Role::Neutral, |by| Role::Moves(i.op0_register(), by))
            }
            Class::Lea => {
                let odd = [i.op0_register(), i.memory_base(), i.memory_index()]
                    .iter()
                    .any(|r| stolen(*r).is_some() || r.is_ip());
                let to = i.op0_register();
                match () {
                    () if odd && to.size() > 2 => Role::Clobbers,
                    () if odd => Role::End,
                    () if to.is_gpr64()
                        && i.memory_base() == to
                        && i.memory_index() == Register::None =>
                    {
                        i32::try_from(i.memory_displacement64() as i64)
                            .map_or(Role::Neutral, |by| Role::Moves(to, by))
                    }
                    () => Role::Neutral,
                }
            }
            Class::Push if i.op0_kind() == OpKind::Register => stack(-8, Access::Write, -8, false),
            Class::Pop if i.op0_register() != Register::RSP => stack(0, Access::Read, 8, false),
            Class::Return => stack(0, Access::Read, 0, true),
            Class::Call => stack(-8, Access::Write, 0, true),
            Class::Memory => self.operand(i),
            _ => Role::End,
        }
    }

    fn operand(&mut self, i: &Instruction) -> Role {
        let (base, index) = (i.memory_base(), i.memory_index());
        let plain = |r: Register| r.is_gpr64() && stolen(r).is_none();
        let based = matches!(i.memory_segment(), Register::FS | Register::GS);
        let disp = i32::try_from(i.memory_displacement64() as i64);
        let size = i.memory_size().size();
        let odd = !plain(base) || index != Register::None && !plain(index);
        let (Ok(at), Some(access), 1..=32) = (disp, self.memory_use(i), size) else {
            return Role::End;
        };
        if odd || based || names_high_byte(i) {
            return Role::End;
        }
        Role::Access {
            key: (base, index, i.memory_index_scale()),
            at,
            size: size as i32,
            access,
            moves: 0,
            last: false,
        }
    }
}

/// The parts of R15.
const R15_PARTS: [Register; 4] = [
    Register::R15L,
    Register::R15W,
    Register::R15D,
    Register::R15,
];

fn stolen_operand(i: &Instruction, k: u32) -> Option<u8> {
    (i.op_kind(k) == OpKind::Register).then(|| stolen(i.op_register(k)))?
}

/// Pushes, pops or a return without anything between them and what is before.
fn is_run(rest: &[(Instruction, Class, usize)]) -> bool {
    let next = rest.first().map(|l| l.1);
    matches!(next, Some(Class::Push | Class::Pop | Class::Return))
}

/// Ends a group. One access alone is none, unless its check comes earlier.
fn close(open: &mut Option<Open>, plan: &mut Plan) {
    let Some(Open {
        group, accesses, ..
    }) = open.take()
    else {
        return;
    };
    let places = &mut plan.places[group.members.clone()];
    if accesses < 2 && places[0].is_some() {
        places.fill(None);
        return;
    }
    for member in places.iter_mut().flatten() {
        member.at -= group.low;
    }
    plan.groups.push(group);
}

impl Building<'_, '_> {
    /// Checks a group's stretch: afterwards `[r11]` is its lowest byte. If there are to be
    /// other copies: where to go if it cannot be used as a whole.
    pub(super) fn check_group(&mut self, group: &Group) -> Option<Straddled> {
        let (base, index, scale) = group.key;
        let index =
            (index != Register::None).then(|| (index.number() as u8, scale.trailing_zeros() as u8));
        let low = Mem {
            base: Some(base.number() as u8),
            index,
            disp: group.low,
            segment: 0,
        };
        let retry = self.asm.here();
        let address = Address::Group(low);
        let (hole, restore) = self.look_up(&address, group.access, group.span);
        if group.saved {
            self.asm.store(field::group, R11);
        }
        if self.has_copies() {
            return Some(Straddled { hole, restore });
        }
        let site = self.access_site(group.access, group.span as u16, true, retry);
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore,
            site,
            what: SlowPath::Miss(address, group.access, self.stack_slot(&address)),
        });
        None
    }

    /// Groups have other copies in this block.
    fn has_copies(&self) -> bool {
        self.source.copies || !self.t.switches.late_copies
    }

    /// About to translate an instruction whose access is in a group, or that has none.
    pub(super) fn begin_member(&mut self, member: Option<Member>) {
        self.grouped = member.map(|m| m.at);
        if member.is_some_and(|m| m.reload) {
            self.asm.load(R11, field::group);
        }
    }

    /// Keeps the member just translated, whose code begins at `from`, for the other copy; `done`:
    /// the block ends with it.
    pub(super) fn keep(&mut self, from: usize, done: bool) {
        if !self.has_copies() {
            return;
        }
        let access_end = self.access_end.take();
        let check = self.left_out.take();
        self.kept.push(Kept {
            code: from..access_end.unwrap_or(self.asm.bytes.len()),
            check: check.zip(self.grouped),
            interpret: done && access_end.is_none(),
        });
    }

    /// The other copy of a member: the same code behind a check of its own.
    pub(super) fn other_copy(&mut self, kept: &Kept) {
        if kept.interpret {
            self.interpret();
            return;
        }
        if let Some(((address, access, size), at)) = kept.check {
            self.grouped = None;
            self.check(address, access, size);
            if at != 0 {
                self.asm.lea(R11, Mem::base(R11, -at));
            }
        }
        self.asm.bytes.extend_from_within(kept.code.clone());
    }

    /// Behind the other copy of a group's last member: on with what follows the first.
    pub(super) fn rejoin(&mut self, last: &Kept) {
        if !last.interpret {
            self.asm.jmp_to(self.asm.origin + last.code.end as u64);
        }
    }
}
