//! What all blocks share, at the start of the code cache: the ends of their exits, and the way of
//! a branch from a linear address to the block there.

use super::save_state::SaveState;
use super::{EQUAL, NOT_EQUAL, TLB_INDEX, field, reason};
use crate::area::{
    Area, BRANCH_GROUP, BranchEntry, CODE_PAGE_ENTRIES, STACK_SLOTS, TLB_BITS, TlbEntry, VIEWS,
    View,
};
use crate::block::RETRY_SHIFT;
use crate::emit::{Asm, Mem, R10, R11, RAX, RCX, RDX, RSP};
use crate::switches::Switches;
use crate::targets;
use x86::mmu::Access;

/// The value of [`Area::site`] for a branch without a site.
pub const NO_SITE: u32 = u32::MAX;

/// The bits of an index in the table of code pages, where [`Asm::rorx`] by eight leaves them.
pub(super) const CODE_PAGE_INDEX: u32 = (CODE_PAGE_ENTRIES as u32 - 1) << 4;

/// Host addresses of what blocks share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exits {
    /// An access missed its first place in the TLB: its linear address in R11, its site in R10.
    /// For reads and writes of each view.
    miss: [[u64; 2]; VIEWS],
    /// The same for one off RSP that missed one of the stack's entries.
    stack_miss: [[[u64; STACK_SLOTS]; 2]; VIEWS],
    /// The instruction of the site in R10 is the interpreter's.
    pub(super) interpret: u64,
    /// The MOV to CR3 of the site in R10.
    pub(super) space: u64,
    /// The jump of the site in R10 wants to be linked.
    pub(super) link: u64,
    /// Where a branch goes whose target is no longer there: the target in [`Area::rip`].
    pub look_up: u64,
    /// Goes on at the linear address in R11, for each view and each [`Way`].
    ways: [[u64; WAYS]; VIEWS],
    /// The same at the distance in R11 from [`Area::page`], which takes fewer bytes where it hardly
    /// ever happens; for some ways.
    from_page: [[u64; WAYS]; VIEWS],
    /// Where the signal handler resumes.
    pub fault: u64,
    /// Goes on where the host has faulted ([`Area::fault`]).
    pub again: u64,
    /// From the kernel to user code at the linear address in R11.
    pub(super) to_user: u64,
    /// XSAVE, XRSTOR and their kin.
    pub(super) save_state: SaveState,
    /// Goes on at the linear address in [`Area::rip`], for each view.
    resume: [u64; VIEWS],
    /// The stub of a call that is none ([`crate::area::CodeTables::stubs`]), for each view.
    pub no_stub: [u64; VIEWS],
}

impl Exits {
    /// Where an access goes that missed the TLB, or one of the stack's entries.
    pub(super) fn miss(&self, view: View, access: Access, slot: Option<usize>) -> u64 {
        let (view, write) = (view as usize, usize::from(access == Access::Write));
        match slot {
            Some(slot) => self.stack_miss[view][write][slot],
            None => self.miss[view][write],
        }
    }

    /// Where the dispatcher enters to go on at the linear address in [`Area::rip`].
    pub fn resume(&self, view: View) -> u64 {
        self.resume[view as usize]
    }

    /// The way to the block at the linear address in R11.
    pub(super) fn way(&self, view: View, way: Way) -> u64 {
        self.ways[view as usize][way as usize]
    }

    /// The way to the block at the distance in R11 from the page.
    pub(super) fn way_from_page(&self, view: View, way: Way) -> u64 {
        self.from_page[view as usize][way as usize]
    }
}

/// Kinds of ways to another block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Any.
    Any,
    /// To a higher address: no loop has these alone, so that nobody looks at the pins here.
    Forward,
    /// By an indirect branch, whose site is in R10.
    Indirect,
    /// As `Any`, by a direct jump whose site is in R10, which may be linked.
    Unlinked,
    /// As `Forward`, by such a jump.
    UnlinkedForward,
    /// As `Indirect` (`Any` of 32-bit code), by a return whose call is not in its slot, with RCX
    /// in [`Area::spill`].
    Return,
    /// By the dispatcher.
    Leave,
}
/// How many there are.
const WAYS: usize = 7;

/// Makes what blocks share. `ways`: host addresses of counters, of branches that look into a
/// branch table and of those that then search all blocks.
pub fn exits(
    origin: u64,
    leave: u64,
    ways: Option<[u64; 2]>,
    switches: &Switches,
) -> (Exits, Vec<u8>) {
    let mut asm = Asm::new(origin);
    let mut one = |why: i32, stores: &[(Mem, u8)]| {
        let at = asm.here();
        for &(to, register) in stores {
            asm.store(to, register);
        }
        asm.store_imm(field::reason, why);
        asm.mov_imm(R10, leave);
        asm.raw(&[0x41, 0xff, 0xe2]); // jmp r10
        at
    };
    let mut exits = Exits {
        interpret: one(reason::INTERPRET, &[(field::site, R10)]),
        space: one(reason::SPACE, &[(field::site, R10)]),
        link: one(reason::LINK, &[(field::site, R10)]),
        look_up: one(reason::LOOK_UP, &[]),
        fault: one(reason::FAULT, &[(field::detail, R10)]),
        ..Exits::default()
    };
    let leave = one(reason::LOOK_UP, &[(field::rip, R11)]);
    let unknown = one(reason::BRANCH, &[]);
    let missing = one(reason::MISS, &[]);
    let missed = one(reason::MISS, &[(field::detail, R11), (field::site, R10)]);
    let wanted = one(reason::LINK, &[(field::rip, R11), (field::site, R10)]);
    for view in View::ALL {
        for (n, access) in [Access::Read, Access::Write].into_iter().enumerate() {
            let other = view.data();
            let miss = if other != view {
                exits.miss[other as usize][n]
            } else if switches.second_place {
                second_place(&mut asm, Area::table(view, access), missing)
            } else {
                missed
            };
            exits.miss[view as usize][n] = miss;
            if other != view {
                exits.stack_miss[view as usize][n] = exits.stack_miss[other as usize][n];
            } else if !view.is_32bit() {
                exits.stack_miss[view as usize][n] =
                    stack_slots(&mut asm, view, access, miss, missing);
            }
        }
        let search = search(&mut asm, view, unknown, ways);
        let [any, forward, indirect] = [Way::Any, Way::Forward, Way::Indirect].map(|way| {
            let start = asm.here();
            table(&mut asm, view, way, search, ways);
            start
        });
        exits.resume[view as usize] = asm.here();
        asm.load(R11, field::rip);
        asm.jmp_to(any);
        let [unlinked, unlinked_forward] = [any, forward].map(|way| {
            let start = asm.here();
            pass(&mut asm, way, wanted);
            start
        });
        let after = if view.is_32bit() { any } else { indirect };
        let [other_return, no_stub] = [after, any].map(|way| {
            let start = asm.here();
            asm.load(RCX, field::spill);
            asm.jmp_to(way);
            start
        });
        exits.no_stub[view as usize] = no_stub;
        let ways = [
            any,
            forward,
            indirect,
            unlinked,
            unlinked_forward,
            other_return,
            leave,
        ];
        exits.ways[view as usize] = ways;
        for way in [Way::Any, Way::Unlinked, Way::UnlinkedForward, Way::Leave] {
            exits.from_page[view as usize][way as usize] = asm.here();
            add_page(&mut asm, view);
            asm.jmp_to(ways[way as usize]);
        }
    }
    exits.to_user = asm.here();
    asm.store(field::spill, RCX);
    // Nor where its stack is elsewhere: see [`super::through`].
    asm.load(RCX, field::window);
    let without = asm.jrcxz();
    asm.pext_gs(RCX, RSP, field::WINDOW_BIT);
    let elsewhere = asm.jrcxz();
    asm.load(RCX, field::spill);
    asm.jmp_to(exits.way(View::Window, Way::Any));
    asm.bind(without);
    asm.bind(elsewhere);
    asm.load(RCX, field::spill);
    asm.jmp_to(exits.way(View::User, Way::Any));
    exits.again = asm.here();
    asm.load(R10, field::FAULT_R10);
    asm.load(R11, field::FAULT_R11);
    asm.jmp_mem(field::FAULT_AT);
    exits.save_state = SaveState::make(&mut asm, exits.interpret);
    (exits, asm.bytes)
}

/// Looks for the page of the address in R11 in its second place of a TLB table, brings it to the
/// first and goes back to the check of the site in R10; to `missing` with the two in the area if
/// it is not there. Flags stay.
fn second_place(asm: &mut Asm, table: i32, missing: u64) -> u64 {
    let start = asm.here();
    keep_missed(asm);
    asm.mov(R10, R11);
    first_and_second(asm, R10, RCX);
    asm.and_page(R11);
    asm.add_mem(R11, Mem::gs_base(RCX, table));
    let out = asm.jcc(NOT_EQUAL);
    // The second place becomes free: an access across the page's end misses again, and must not
    // come here for ever. What is in the first place goes to its own second one. RDX is one more
    // register.
    asm.store(field::target, RDX);
    asm.load(RDX, Mem::gs_base(RCX, table + 8));
    asm.mov_imm(R11, TlbEntry::NONE.negated_page);
    asm.store(Mem::gs_base(RCX, table), R11);
    asm.load(R11, Mem::gs_base(R10, table));
    asm.neg(R11);
    first_and_second(asm, R11, RCX);
    asm.load(R11, Mem::gs_base(R10, table));
    asm.store(Mem::gs_base(RCX, table), R11);
    asm.load(R11, Mem::gs_base(R10, table + 8));
    asm.store(Mem::gs_base(RCX, table + 8), R11);
    asm.store(Mem::gs_base(R10, table + 8), RDX);
    asm.load(R11, field::detail);
    asm.and_page(R11);
    asm.neg(R11);
    asm.store(Mem::gs_base(R10, table), R11);
    asm.load(RDX, field::target);
    retry(asm);
    asm.bind(out);
    give_back(asm);
    asm.jmp_to(missing);
    start
}

/// The same for the stack's entries, the way to each: brings the page there, if its first place in
/// the TLB knows it. `miss`: looks at the second one.
fn stack_slots(
    asm: &mut Asm,
    view: View,
    access: Access,
    miss: u64,
    missing: u64,
) -> [u64; STACK_SLOTS] {
    let table = Area::table(view, access);
    let common = asm.here();
    keep_missed(asm);
    asm.rorx(R10, R11, 8);
    asm.and_imm32(R10, TLB_INDEX);
    asm.and_page(R11);
    asm.add_mem(R11, Mem::gs_base(R10, table));
    let other = asm.jcc(NOT_EQUAL);
    asm.load(RCX, field::slot);
    asm.load(R11, Mem::gs_base(R10, table));
    // It is there already: the access crosses the page's end.
    asm.cmp_mem(R11, Mem::gs_base(RCX, 0));
    let crosses = asm.jcc(EQUAL);
    asm.store(Mem::gs_base(RCX, 0), R11);
    asm.load(R11, Mem::gs_base(R10, table + 8));
    asm.store(Mem::gs_base(RCX, 8), R11);
    retry(asm);
    asm.bind(other);
    give_back(asm);
    asm.load(R11, field::detail);
    asm.load(R10, field::site);
    asm.jmp_to(miss);
    asm.bind(crosses);
    give_back(asm);
    asm.jmp_to(missing);
    core::array::from_fn(|slot| {
        let start = asm.here();
        asm.store_imm(field::slot, Area::stack_slot(view, access, slot));
        asm.jmp_to(common);
        start
    })
}

/// Keeps what an access has missed with, the registers that are borrowed and the flags.
fn keep_missed(asm: &mut Asm) {
    asm.store(field::detail, R11);
    asm.store(field::site, R10);
    asm.store(field::saved, RAX);
    asm.store(field::spill, RCX);
    asm.lahf();
    asm.seto_al();
}

/// Gives back the registers and the flags.
fn give_back(asm: &mut Asm) {
    asm.give_lahf();
    asm.load(RAX, field::saved);
    asm.load(RCX, field::spill);
}

/// Gives them back and goes to the check that has missed.
fn retry(asm: &mut Asm) {
    asm.load(R10, field::site);
    asm.load(RCX, field::sites);
    let retry = Mem {
        base: Some(RCX),
        index: Some((R10, 3)),
        disp: 0,
        segment: 0,
    };
    asm.load(R10, retry);
    asm.shr(R10, RETRY_SHIFT);
    asm.add_mem(R10, field::cache);
    give_back(asm);
    asm.raw(&[0x41, 0xff, 0xe2]); // jmp r10
}

/// From a linear address in `first`: the offsets in a table of its first place, there, and of its
/// second, in `second` ([`crate::area::other_tlb_slot`]).
fn first_and_second(asm: &mut Asm, first: u8, second: u8) {
    asm.rorx(second, first, (7 + TLB_BITS) as u8);
    asm.and_imm32(second, TLB_INDEX & !0x10);
    asm.or_imm32(second, 0x20);
    asm.shr(first, 8);
    asm.and_imm32(first, TLB_INDEX);
    asm.xor(second, first);
}

/// Makes the distance from the page in R11 the linear address. Flags and R10 stay.
fn add_page(asm: &mut Asm, view: View) {
    asm.store(field::spill, RCX);
    asm.load(RCX, field::page);
    let sum = Mem::sum(R11, RCX);
    if view.is_32bit() {
        asm.lea32(R11, sum);
    } else {
        asm.lea(R11, sum);
    }
    asm.load(RCX, field::spill);
}

/// Goes a way with a direct jump that is not linked, or, each time so many have passed, to
/// `wanted`. Flags stay.
fn pass(asm: &mut Asm, way: u64, wanted: u64) {
    asm.store(field::spill, RCX);
    asm.load(RCX, field::passes);
    asm.lea(RCX, Mem::base(RCX, 1));
    asm.store(field::passes, RCX);
    asm.pext_gs(RCX, RCX, field::PASS_MASK);
    let linked = asm.jrcxz();
    asm.load(RCX, field::spill);
    asm.jmp_to(way);
    asm.bind(linked);
    asm.load(RCX, field::spill);
    asm.jmp_to(wanted);
}

/// Jumps by the view's branch table to the linear address in R11, without touching flags; to
/// `search` with the address in [`Area::rip`] and RCX in [`Area::spill`] if the table does not
/// know it or, unless the way is forward, the pins want attention.
fn table(asm: &mut Asm, view: View, way: Way, search: u64, ways: Option<[u64; 2]>) {
    let table = Area::branch_table(view);
    if way == Way::Indirect {
        asm.store(field::site, R10);
    }
    asm.store(field::rip, R11);
    if let Some([looks, _]) = ways {
        asm.count_at(looks);
        asm.load(R11, field::rip);
    }
    asm.store(field::spill, RCX);
    branch_index(asm);
    asm.load(RCX, Mem::gs_index8(R10, table));
    asm.lea(RCX, Mem::sum(RCX, R11));
    if way != Way::Forward {
        // Pins that are up make the sum wrong: added eightfold they are a small multiple of
        // eight, and the difference of two RIPs in one slot is less than eight or more than the
        // table.
        asm.load(R11, field::pins);
        asm.load32(R11, Mem::base(R11, 0));
        asm.pext_gs(R11, R11, field::PIN_MASK);
        let sum = Mem {
            base: Some(RCX),
            index: Some((R11, 3)),
            disp: 0,
            segment: 0,
        };
        asm.lea(RCX, sum);
    }
    let hit = asm.jrcxz();
    if way != Way::Indirect {
        asm.store_imm(field::site, NO_SITE as i32);
    }
    asm.jmp_to(search);
    asm.bind(hit);
    // The page that the code says is its own.
    asm.load(R11, Mem::gs_index8(R10, table + 16));
    asm.store(field::page, R11);
    asm.load(RCX, field::spill);
    asm.jmp_mem(Mem::gs_index8(R10, table + 8));
}

/// From the RIP in R11 the index in a branch table, in eighths of it, into R10.
fn branch_index(asm: &mut Asm) {
    const { assert!(size_of::<BranchEntry>() == 24) };
    asm.pext_gs(R10, R11, field::BRANCH_MASK);
    let triple = Mem {
        base: Some(R10),
        index: Some((R10, 1)),
        disp: 0,
        segment: 0,
    };
    asm.lea(R10, triple);
}

/// Finds the block by the tables of code pages and of all blocks, enters it in the branch table
/// and goes there; `unknown` if they do not know it either, or the pins want attention.
fn search(asm: &mut Asm, view: View, unknown: u64, ways: Option<[u64; 2]>) -> u64 {
    let (table, code) = (Area::branch_table(view), Area::code_table(view));
    let start = asm.here();
    if let Some([_, searches]) = ways {
        asm.count_at(searches);
    }
    asm.store(field::saved, RAX);
    asm.lahf();
    asm.seto_al();
    let mut out = Vec::new();
    asm.load(R11, field::pins);
    asm.load32(R11, Mem::base(R11, 0));
    asm.test_mem32(R11, field::pin_mask);
    out.push(asm.jcc(NOT_EQUAL));
    // The page's part of the key and the offset in it.
    asm.load(R11, field::rip);
    asm.rorx(R10, R11, 8);
    asm.and_imm32(R10, CODE_PAGE_INDEX);
    asm.add_mem(R11, Mem::gs_base(R10, code));
    asm.cmp_imm(R11, 0xfff);
    out.push(asm.jcc(7)); // above
    asm.add_mem(R11, Mem::gs_base(R10, code + 8));
    // Its two places.
    asm.load(RCX, field::hash);
    asm.imul(RCX, R11);
    asm.shr(RCX, 64 - targets::BITS as u8);
    asm.shl(RCX, 4);
    asm.mov(R10, RCX);
    asm.add_mem(RCX, field::targets);
    asm.cmp_mem(R11, Mem::base(RCX, 0));
    let found = asm.jcc(EQUAL);
    asm.xor_imm8(R10, 16);
    asm.mov(RCX, R10);
    asm.add_mem(RCX, field::targets);
    asm.cmp_mem(R11, Mem::base(RCX, 0));
    out.push(asm.jcc(NOT_EQUAL));
    asm.bind(found);
    asm.load(RCX, Mem::base(RCX, 8));
    asm.store(field::target, RCX);
    asm.load(R11, field::rip);
    asm.pext_gs(R10, R11, field::BRANCH_MASK);
    asm.shr(R10, BRANCH_GROUP.ilog2() as u8);
    asm.store_imm8(Mem::gs_base(R10, Area::branch_marks(view)), 1);
    branch_index(asm);
    asm.store(Mem::gs_index8(R10, table + 8), RCX);
    asm.mov(RCX, R11);
    asm.neg(RCX);
    asm.store(Mem::gs_index8(R10, table), RCX);
    asm.and_page(R11);
    asm.store(Mem::gs_index8(R10, table + 16), R11);
    asm.store(field::page, R11);
    give_back(asm);
    asm.jmp_mem(field::target);
    for hole in out {
        asm.bind(hole);
    }
    give_back(asm);
    asm.jmp_to(unknown);
    start
}
