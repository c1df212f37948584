//! Where a block goes on: linked jumps inside the page, the branch table for all others, and the
//! poll for interrupts.

use super::shared::Way;
use super::{
    Address, Building, CODE_PAGE_INDEX, EQUAL, Holes, NO_SITE, NOT_EQUAL, Restore, Slow, SlowPath,
    Translator, field, stolen,
};
use crate::area::{Area, View};
use crate::block::{Kind, NO_NEXT};
use crate::emit::{Asm, Hole, Mem, Pattern, R10, R11, RCX, RSP};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use x86::mmu::Access;

/// Where a jump by a word in memory leads.
pub(super) struct Usual {
    target: u64,
    /// From the page of the jump.
    distance: u64,
}

impl Building<'_, '_> {
    /// Writes the return address at this offset from the page to the stack, and leaves it in R10;
    /// [`Self::enter_call`] moves the stack pointer.
    pub(super) fn push_return(&mut self, offset: u64) {
        self.check(Address::Stack(RSP, -8), Access::Write, 8);
        self.linear(R10, offset);
        self.asm.store(self.place(), R10);
    }

    /// The target of an indirect branch into R11.
    pub(super) fn target(&mut self, i: &Instruction) {
        if i.op0_kind() == OpKind::Memory {
            self.check(Address::Operand(*i), Access::Read, 8);
            self.asm.load(R11, self.place());
            return;
        }
        match stolen(i.op0_register()) {
            Some(home) => self.asm.load(R11, Mem::gs(Area::home(home))),
            None => self.asm.mov(R11, i.op0_register().number() as u8),
        }
    }

    /// Where a jump by a word at a constant address leads now, in settled code: to a function of
    /// another library, mostly, and for ever.
    pub(super) fn usual_target(&self, i: &Instruction) -> Option<Usual> {
        let page = self.source.fixed?;
        let entry = self.source.entry.as_ref()?;
        let constant = i.memory_base() == Register::RIP;
        if !self.t.switches.usual || !constant || !self.t.switches.far {
            return None;
        }
        let target = (entry.read)(self.address_known(&Address::Operand(*i))?)?;
        let distance = target.wrapping_sub(page);
        // Links reach so far.
        let reaches = i32::try_from(distance as i64 >> 12).is_ok();
        (target >> 47 == 0 && reaches).then_some(Usual { target, distance })
    }

    /// Goes there by a jump that can be linked, if it still leads there.
    pub(super) fn jump_as_usual(&mut self, i: &Instruction, usual: Usual) {
        let asked = self.listen(usual.distance);
        self.target(i);
        self.asm.store(field::spill, RCX);
        self.asm.mov_imm(R10, !usual.target);
        let difference = Mem {
            disp: 1,
            ..Mem::sum(R10, R11)
        };
        self.asm.lea(RCX, difference);
        let same = self.asm.jrcxz();
        let other = self.asm.jmp();
        self.asm.bind(same);
        self.asm.load(RCX, field::spill);
        let site = self.site(Kind::Branch { moved: 0 });
        self.slow.push(Slow {
            holes: Holes::One(other),
            restore: Restore::Rcx,
            site,
            what: SlowPath::Indirect,
        });
        self.go_on(usual.distance, true, asked);
    }

    /// Goes on at the RIP in R11 in a view, without touching flags.
    pub(super) fn indirect(&mut self, view: View) {
        let way = match view {
            // From the kernel, which does not know how user code goes to memory.
            View::User if !self.source.view.is_user() => self.t.exits.to_user,
            view => self.t.exits.way(view, Way::Any),
        };
        self.asm.jmp_to(way);
    }

    /// The same for an indirect branch that has added `moved` to RSP, for its exception if that
    /// RIP is not canonical.
    pub(super) fn indirect_from(&mut self, view: View, moved: i32) {
        let site = self.site(Kind::Branch { moved });
        self.asm.mov_imm(R10, site.into());
        let way = self.t.exits.way(view, Way::Indirect);
        self.asm.jmp_to(way);
    }

    /// Moves the stack pointer over the return address that was written there, which is in a
    /// register (R10 or R9), and remembers the call; where it returns to is to be bound. R10 and
    /// R11 are lost.
    pub(super) fn enter_call(&mut self, from: u8) -> Option<Hole> {
        let view = self.source.view;
        if !self.t.switches.returns {
            self.move_stack(-self.stack_width());
            return None;
        }
        self.asm.pext_gs(R11, RSP, Area::call_mask(view));
        self.move_stack(-self.stack_width());
        self.asm.not(from);
        let calls = &self.t.calls[view as usize];
        self.asm.store(calls.return_address, from);
        Some(self.asm.copy(&calls.remember))
    }

    /// Where a call returns to, with the RIP in R11 and RCX in its spill: at `target` in this page,
    /// or by the branch table.
    pub(super) fn returned(&mut self, stub: Option<Hole>, target: u64) {
        let Some(stub) = stub else { return };
        self.asm.bind(stub);
        self.asm.load(RCX, field::spill);
        let switches = &self.t.switches;
        // To another page the way by the branch table, until it is linked: as nobody has polled, only
        // where that need not be.
        let leads = self.is_near(target) || switches.far && switches.forward;
        if self.source.fixed.is_some() && leads {
            let hole = self.asm.jmp();
            return self.lead(hole, target);
        }
        if !self.is_near(target) {
            let way = self.t.exits.way(self.source.view, Way::Any);
            self.asm.jmp_to(way);
            return;
        }
        let page = Mem::base(R11, -(target as i32));
        if self.source.view.is_32bit() {
            self.asm.lea32(R11, page);
        } else {
            self.asm.lea(R11, page);
        }
        self.asm.store(field::page, R11);
        let hole = self.asm.jmp();
        self.link(hole, target);
    }

    /// Returns to the RIP in R11, with `moved` added to RSP, without touching flags. No poll where
    /// the slot of the stack pointer holds the call it returns behind: that empties the slot, so
    /// each call returns once so, behind itself. Without a poll code goes back only thus, and a
    /// call is made again only after a return behind one at a lower address: the lowest is not
    /// made again, nor the next for more times than there were calls below it, and so on. So no
    /// loop is made of such returns and of jumps forward alone.
    pub(super) fn go_back(&mut self, moved: i32) {
        let view = self.source.view;
        if !self.t.switches.returns {
            if view.is_32bit() {
                self.indirect(view);
            } else {
                self.indirect_from(view, moved);
            }
            return;
        }
        let site = self.site(Kind::Branch { moved });
        let dropped = moved - self.stack_width();
        let mut pointer = RSP;
        if dropped != 0 {
            self.asm.lea(R10, Mem::base(RSP, -dropped));
            pointer = R10;
        }
        self.asm.pext_gs(R10, pointer, Area::call_mask(view));
        let other = self.asm.copy(&self.t.calls[view as usize].go_back);
        self.slow.push(Slow {
            holes: Holes::One(other),
            restore: Restore::Nothing,
            site,
            what: SlowPath::Return,
        });
    }

    /// Leaves for the dispatcher unless the page behind this one is mapped to where the rest of
    /// the block's one instruction was read from, in this mode: it has a mapping of its own, which
    /// nobody looked at on the way here.
    pub(super) fn guard_next_page(&mut self) {
        let code = Area::code_table(self.source.view);
        let borrowed = self.borrow_flags();
        self.linear(R11, 0x1000);
        self.asm.rorx(R10, R11, 8);
        self.asm.and_imm32(R10, CODE_PAGE_INDEX);
        self.asm.add_mem(R11, Mem::gs_base(R10, code));
        let elsewhere = self.asm.jcc(NOT_EQUAL);
        self.asm.mov_imm(R11, self.source.next_key);
        self.asm.cmp_mem(R11, Mem::gs_base(R10, code + 8));
        let other = self.asm.jcc(NOT_EQUAL);
        self.give_back(borrowed);
        self.slow.push(Slow {
            holes: Holes::Some(vec![elsewhere, other]),
            restore: borrowed,
            site: NO_SITE,
            what: SlowPath::Leave(self.source.rip),
        });
    }

    /// True if a block at `target` may be reached by a linked jump: it lies in this page, so it
    /// is mapped exactly as long as this block is.
    pub(super) fn is_near(&self, target: u64) -> bool {
        if target >> 12 != 0 {
            return false;
        }
        // Not if what is there may end in the next page, which has a mapping of its own.
        let bytes = &self.source.page[target as usize..];
        bytes.len() >= 15
            || !Decoder::with_ip(self.source.view.bits(), bytes, target, DecoderOptions::NONE)
                .decode()
                .is_invalid()
    }

    /// Goes on at a constant RIP behind what an instruction does; `live`: flags are needed there.
    pub(super) fn go(&mut self, target: u64, live: bool) {
        self.go_on(target, live, false);
    }

    /// The same in front of it, or where it does nothing else.
    pub(super) fn go_first(&mut self, target: u64, live: bool) {
        let asked = self.listen(target);
        self.go_on(target, live, asked);
    }

    /// In front of all that an instruction does which goes on at a constant RIP: if that must look at
    /// the pins and can be done again, faults once they were raised ([`x86::Signals::bell`]), and is
    /// true. R10 is lost. Not behind STI or what else has just changed which of them matter: those
    /// that did not were answered before.
    pub(super) fn listen(&mut self, target: u64) -> bool {
        let back = if self.is_near(target) {
            target <= self.rip
        } else {
            self.t.switches.far && self.polls(target)
        };
        let listens = back && !self.shadow && self.t.switches.bell;
        if listens {
            self.asm.load(R10, field::bell);
            self.asm.load(R10, Mem::base(R10, 0));
            self.asm.raw(&LISTEN);
        }
        listens
    }

    /// Goes on at a constant RIP; `asked`: the pins were looked at.
    pub(super) fn go_on(&mut self, target: u64, live: bool, asked: bool) {
        if !self.is_near(target) {
            if self.t.switches.far {
                let polls = self.polls(target) && !asked;
                if self.source.fixed.is_some() && polls {
                    self.poll(target, live);
                }
                let hole = self.asm.jmp();
                self.far(hole, target, polls);
                return;
            }
            self.linear(R11, target);
            let way = if self.polls(target) {
                Way::Any
            } else {
                Way::Forward
            };
            let way = self.t.exits.way(self.source.view, way);
            self.asm.jmp_to(way);
            return;
        }
        if (target <= self.rip || self.shadow) && !asked {
            self.poll(target, live);
        }
        let hole = self.asm.jmp();
        self.link(hole, target);
    }

    /// As [`Self::go`] from the midst of a block, which may do so any number of times: only the first
    /// is a link, so that the end of the block still has its own ([`Kind::Link`]).
    pub(super) fn go_again(&mut self, target: u64, live: bool) {
        if self.links == 0 {
            return self.go(target, live);
        }
        self.linear(R11, target);
        let way = self.t.exits.way(self.source.view, Way::Any);
        self.asm.jmp_to(way);
    }

    /// True if a jump to another page must look at the pins.
    fn polls(&self, target: u64) -> bool {
        target as i64 <= self.rip as i64 || self.shadow || !self.t.switches.forward
    }

    /// Makes the first destination of a jump out of the page: the way by the branch table, which
    /// asks now and then to be linked. `polls`: it must look at the pins; fixed code has done so.
    fn far(&mut self, hole: Hole, target: u64, polls: bool) {
        let (Hole::Near(at) | Hole::Short(at)) = hole;
        let patch = self.asm.origin + at as u64;
        let poll = self.source.fixed.is_none() && polls;
        let site = self.site(Kind::Far {
            patch: (patch - self.source.cache) as u32,
            // Not known before the slow paths are made.
            way: 0,
            next: NO_NEXT,
            poll,
        });
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore: Restore::Nothing,
            site,
            what: SlowPath::Far(target, poll),
        });
    }

    /// Makes a jump's first destination: an exit that asks to be linked.
    pub(super) fn link(&mut self, hole: Hole, target: u64) {
        let (Hole::Near(at) | Hole::Short(at)) = hole;
        let patch = self.asm.origin + at as u64;
        let kind = Kind::Link {
            patch: (patch - self.source.cache) as u32,
            exit: self.links,
            next: NO_NEXT,
        };
        self.links += 1;
        (self.source.links_to)(target as u16);
        let site = self.site_at(target as u16, kind);
        self.slow.push(Slow {
            holes: Holes::One(hole),
            restore: Restore::Nothing,
            site,
            what: SlowPath::Link,
        });
    }

    /// Leaves, to go on at `target`, if pins are up; `live`: flags are needed there.
    pub(super) fn poll(&mut self, target: u64, live: bool) {
        let up = self.asm.copy(&self.t.polls[usize::from(live)]);
        self.slow.push(Slow {
            holes: Holes::One(up),
            restore: if live { Restore::Rcx } else { Restore::Nothing },
            site: NO_SITE,
            what: SlowPath::Leave(target),
        });
    }

    /// Jumps if RCX is zero, or ECX.
    pub(super) fn jump_on_zero(&mut self, wide: bool) -> Hole {
        if !wide {
            self.asm.raw(&[0x67]);
        }
        // Over a short jump over the near one.
        self.asm.raw(&[0xe3, 2, 0xeb, 5]);
        self.asm.jmp()
    }

    /// LOOP, LOOPE, LOOPNE, JRCXZ, JECXZ.
    pub(super) fn count(&mut self, i: &Instruction) {
        let (next, taken) = (self.after.next != 0, self.after.taken != 0);
        let wide = matches!(
            i.code(),
            Code::Jrcxz_rel8_64
                | Code::Loop_rel8_64_RCX
                | Code::Loope_rel8_64_RCX
                | Code::Loopne_rel8_64_RCX
        );
        if matches!(
            i.code(),
            Code::Jrcxz_rel8_64 | Code::Jecxz_rel8_64 | Code::Jecxz_rel8_32
        ) {
            let zero = self.jump_on_zero(wide);
            self.go(i.next_ip(), next);
            self.asm.bind(zero);
            self.go(i.near_branch_target(), taken);
            return;
        }
        if wide {
            self.asm.lea(RCX, Mem::base(RCX, -1));
        } else {
            self.asm.lea32(RCX, Mem::base(RCX, -1));
        }
        let mut out = vec![self.jump_on_zero(wide)];
        match i.mnemonic() {
            Mnemonic::Loope => out.push(self.asm.jcc(NOT_EQUAL)),
            Mnemonic::Loopne => out.push(self.asm.jcc(EQUAL)),
            _ => {}
        }
        self.go(i.near_branch_target(), taken);
        for hole in out {
            self.asm.bind(hole);
        }
        self.go(i.next_ip(), next);
    }

    pub(super) fn conditional(&mut self, i: &Instruction) {
        let condition = condition_number(i);
        let (next, target) = (i.next_ip(), i.near_branch_target());
        if self.is_direct(target) {
            let taken = self.asm.jcc(condition);
            self.go(next, self.after.next != 0);
            self.lead(taken, target);
        } else if self.is_direct(next) {
            // A loop goes round by one jump.
            let out = self.asm.jcc(condition ^ 1);
            self.go_first(target, self.after.taken != 0);
            self.lead(out, next);
        } else {
            let taken = self.asm.jcc(condition);
            self.go(next, self.after.next != 0);
            self.asm.bind(taken);
            self.go_first(target, self.after.taken != 0);
        }
    }

    /// True if a jump alone goes on at a constant RIP: it needs no look at the pins before.
    fn is_direct(&self, target: u64) -> bool {
        if self.is_near(target) {
            target > self.rip && !self.shadow
        } else {
            self.t.switches.far && (self.source.fixed.is_none() || !self.polls(target))
        }
    }

    /// Makes a jump go on there.
    fn lead(&mut self, hole: Hole, target: u64) {
        if self.is_near(target) {
            self.link(hole, target);
        } else {
            self.far(hole, target, self.polls(target));
        }
    }
}

/// `mov r10d, ds:[r10]`, of which the translator makes no other.
pub const LISTEN: [u8; 4] = [0x3e, 0x45, 0x8b, 0x12];

/// The polls: where flags are dead, and where they are live.
pub(super) fn polls() -> [Pattern; 2] {
    let mut asm = Asm::new(0);
    asm.load(R11, field::pins);
    asm.load32(R11, Mem::base(R11, 0));
    asm.test_mem32(R11, field::pin_mask);
    let up = asm.jcc(NOT_EQUAL);
    let dead = asm.pattern(None, Some(up));
    let mut asm = Asm::new(0);
    asm.store(field::spill, RCX);
    asm.load(RCX, field::pins);
    asm.load32(RCX, Mem::base(RCX, 0));
    asm.pext_gs(RCX, RCX, field::PIN_MASK);
    let quiet = asm.jrcxz();
    let up = asm.jmp();
    asm.bind(quiet);
    asm.load(RCX, field::spill);
    [dead, asm.pattern(None, Some(up))]
}

/// What is done to the calls of a view that are remembered.
pub(super) struct Calls {
    /// The return address in the slot in R11.
    return_address: Mem,
    /// Remembers that a call, its slot in R11, returns to the place of the hole.
    remember: Pattern,
    /// Returns to the RIP in R11; to the hole if the slot in R10 has another.
    go_back: Pattern,
}

impl Calls {
    /// `no_stub`: what the slots hold that hold no call.
    pub(super) fn new(view: View, no_stub: u64) -> Calls {
        let mut asm = Asm::new(0);
        let stub = asm.lea_ahead(R10);
        asm.store(Mem::gs_index8(R11, Area::stubs(view)), R10);
        let remember = asm.pattern(None, Some(stub));
        let mut asm = Asm::new(0);
        let stub = Mem::gs_index8(R10, Area::stubs(view));
        asm.store(field::spill, RCX);
        asm.load(RCX, Mem::gs_index8(R10, Area::returns(view)));
        let difference = Mem {
            disp: 1,
            ..Mem::sum(RCX, R11)
        };
        asm.lea(RCX, difference);
        let same = asm.jrcxz();
        let other = asm.jmp();
        asm.bind(same);
        asm.load(RCX, stub);
        // The upper halves of addresses in the code cache are all the same.
        asm.store_imm32(stub, no_stub as i32);
        asm.jmp_reg(RCX);
        Calls {
            return_address: Mem::gs_index8(R11, Area::returns(view)),
            remember,
            go_back: asm.pattern(None, Some(other)),
        }
    }
}

/// A jump from page to page that is to be linked.
pub struct FarLink {
    /// Of the mode.
    pub view: View,
    /// The page of the jump, if its code is fixed.
    pub page: Option<u64>,
    /// From this page to the other.
    pub pages: i32,
    /// The target in the other page.
    pub offset: i32,
    /// It looks at the pins.
    pub poll: bool,
    /// The number of the other page's key ([`crate::targets::Targets::number`]) and the host address
    /// of the block; `None` to go by the branch table for good.
    pub to: Option<(i32, u64)>,
}

impl Translator {
    /// The code at `origin` of such a link. The jump's block and the other one belong together
    /// while the page at this distance from the first block's is the one whose number is given
    /// ([`crate::area::Tables::guards`]). Flags stay.
    pub fn far_link(&self, origin: u64, link: &FarLink) -> Vec<u8> {
        let mut asm = Asm::new(origin);
        let narrow = link.view.is_32bit();
        let add = |asm: &mut Asm, to: i32| {
            let mem = Mem::base(R11, to);
            if narrow {
                asm.lea32(R11, mem);
            } else {
                asm.lea(R11, mem);
            }
        };
        match link.page {
            Some(page) => asm.mov_imm(R11, page.wrapping_add(i64::from(link.pages) as u64)),
            None => {
                asm.load(R11, field::page);
                add(&mut asm, link.pages);
            }
        }
        let mut hit = None;
        if let Some((number, host)) = link.to {
            asm.store(field::spill, RCX);
            asm.pext_gs(R10, R11, field::CODE_MASK);
            asm.load(RCX, Mem::gs_index8(R10, Area::guard_table(link.view)));
            let difference = Mem {
                disp: -number,
                ..Mem::sum(RCX, R11)
            };
            asm.lea(RCX, difference);
            if link.poll {
                // Less than the step of numbers.
                asm.load(R10, field::pins);
                asm.load32(R10, Mem::base(R10, 0));
                asm.pext_gs(R10, R10, field::PIN_MASK);
                asm.lea(RCX, Mem::sum(RCX, R10));
            }
            hit = Some((asm.jrcxz(), host));
            asm.load(RCX, field::spill);
        }
        add(&mut asm, link.offset);
        let way = if link.poll { Way::Any } else { Way::Forward };
        asm.jmp_to(self.exits.way(link.view, way));
        if let Some((hit, host)) = hit {
            asm.bind(hit);
            asm.load(RCX, field::spill);
            asm.store(field::page, R11);
            asm.jmp_to(host);
        }
        asm.bytes
    }
}

/// The condition of a Jcc as in its opcode.
fn condition_number(i: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match i.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}
