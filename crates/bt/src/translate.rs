//! From guest instructions to host instructions.
//!
//! A block is a run of instructions inside one page up to a branch. An instruction without a
//! memory operand is copied as it is. One with a memory operand gets a software TLB check in
//! front and `[r11]` as its operand, or shares one with others ([`groups`]). Sensitive
//! instructions, and all that is rare, become an exit to the interpreter.
//!
//! Guest flags live in the host's flags. The check destroys them, so where they are still needed
//! (by liveness inside the block and a look into what follows) another check is made that does
//! not touch them, or they are made again behind it ([`remake`]). Flags that nobody reads before
//! they are set again are lost by the short check; a guest can see that only in the RFLAGS image
//! that an exception pushes before they are set: #PF, #GP, #DE, #MF, #XM. In the lockstep test's
//! random programs, made to fault, about 23 % of the frames differ so.

mod access;
mod branch;
mod classify;
mod field;
mod groups;
mod plain;
mod protected;
mod registers;
mod remake;
mod save_state;
mod sensitive;
mod shared;
mod stack;
mod strings;
mod strings_32;
mod through;
mod values;

use access::{Address, Checks, Holes, Restore, Slow, SlowPath};
use branch::Calls;
pub use branch::{FarLink, LISTEN};
use classify::{Class, Ordinary, flags_before};
use plain::{is_scan, names_high_byte, popped, sized, stolen};
use remake::Remake;
use shared::CODE_PAGE_INDEX;
pub use shared::{Exits, NO_SITE, exits};
pub use through::{Side, way};
pub use values::Entry;
use values::Values;

use crate::area::{Area, TLB_ENTRIES, VIEWS, View};
use crate::block::{COUNT_BITS, Kind, Site};
use crate::dump::Treatment;
use crate::emit::{Asm, Mem, Pattern, R10, R11, RSP};
use crate::pages::Liveness;
use crate::switches::Switches;
use core::cell::Cell;
use core::mem::take;
use groups::{Check, Kept, Plan, Written};
use iced_x86::{
    Code, CpuidFeature, Decoder, Encoder, FlowControl, Instruction, InstructionInfoFactory,
    OpAccess, RflagsBits,
};
use mem::{GuestMemory, RamOffset};
use x86::exec::Exec;
use x86::mmu::Access;
use x86::table::{self, Unit};

/// Instructions in a block at most.
const LONGEST: usize = 48;
const _: () = assert!(LONGEST <= u64::BITS as usize && LONGEST < 1 << COUNT_BITS);
/// The arithmetic flags in iced's encoding.
const FLAGS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// The bits of a TLB index, where [`Asm::rorx`] by eight leaves them: an entry has 16 bytes.
const TLB_INDEX: u32 = (TLB_ENTRIES as u32 - 1) << 4;

/// Conditions as in the opcode of Jcc.
const EQUAL: u8 = 4;
const NOT_EQUAL: u8 = 5;

/// Why translated code was left: the value of [`Area::reason`].
pub mod reason {
    /// An access missed the TLB; `site`, and the linear address in `detail`.
    pub const MISS: i32 = 1;
    /// The instruction of `site` is the interpreter's.
    pub const INTERPRET: i32 = 2;
    /// The jump of `site` wants to be linked.
    pub const LINK: i32 = 3;
    /// Go on at `rip`: an indirect branch missed its cache, or the pins want attention.
    pub const LOOK_UP: i32 = 4;
    /// The host faulted at the address in `detail`.
    pub const FAULT: i32 = 5;
    /// As [`LOOK_UP`], from the indirect branch of `site`, or from no such branch
    /// ([`super::NO_SITE`]).
    pub const BRANCH: i32 = 6;
    /// The MOV to CR3 of `site` is to be done.
    pub const SPACE: i32 = 7;
    /// Names for the statistics, by value.
    pub const NAMES: [&str; 8] = [
        "none",
        "tlb_miss",
        "interpret",
        "link",
        "pins",
        "fault",
        "branch",
        "space",
    ];
}

/// What is to be translated.
pub struct Source<'a> {
    /// RIP of the first instruction, relative to its page.
    pub rip: u64,
    /// The whole page that holds it.
    pub page: &'a [u8; 4096],
    /// Its linear address, if the code is for that alone.
    pub fixed: Option<u64>,
    /// What is behind the page in RAM may not be what is behind it in the linear address space: an
    /// instruction that crosses its end looks.
    pub guards: bool,
    /// Where pages are in RAM that fixed code may look into for the flags needed there, by their
    /// distance from this one.
    pub others: &'a dyn Fn(u64) -> Option<RamOffset>,
    /// A jump to this offset in the page is about to be linked.
    pub links_to: &'a dyn Fn(u16),
    /// The first bytes of the next page, if the block is one instruction that ends there.
    pub next: Option<[u8; 15]>,
    /// What is known of the flags needed in it, in this mode.
    pub live: &'a Liveness,
    /// The key of that page's first byte ([`crate::targets`]).
    pub next_key: u64,
    /// Data view of the mode.
    pub view: View,
    /// First site number that is free.
    pub first_site: u32,
    /// Host address for the code.
    pub origin: u64,
    /// Host address for the code that hardly ever runs.
    pub cold: u64,
    /// Host address of the code cache.
    pub cache: u64,
    /// Host address of the counter of its executions, if they are counted.
    pub counter: Option<u64>,
    /// Accesses that are checked together may well not lie in one page: there are to be other
    /// copies of them, with a check for each ([`groups`], [`stack`]).
    pub copies: bool,
    /// Which side of the window the page is on, in code of that view.
    pub side: Option<Side>,
    /// What is known where it begins to run, in the view that wants to know.
    pub entry: Option<Entry<'a>>,
}

/// The result.
#[derive(Default)]
pub struct Output {
    /// Host code.
    pub code: Vec<u8>,
    /// The part of it that hardly ever runs, for [`Source::cold`].
    pub cold: Vec<u8>,
    /// Its sites, packed, numbered from [`Source::first_site`].
    pub sites: Vec<u64>,
    /// For each instruction: offset of its host code, offset of its guest code.
    pub map: Vec<(u16, u16)>,
    /// What it depends on in another page.
    pub looked_at: Option<LookedAt>,
    /// Guest instructions.
    pub count: usize,
    /// As in [`crate::block::Block::completes`].
    pub completes: usize,
    /// Accesses among the sites.
    pub accesses: u32,
    /// What was done with each, if executions are counted.
    pub treatments: Vec<Treatment>,
}

/// Code in another page, that decided which flags a block need not keep.
#[derive(Clone, Copy)]
pub struct LookedAt {
    /// Where it is.
    pub at: RamOffset,
    /// Its bytes, as they were; zeroes beyond its page.
    bytes: [u8; 48],
}

impl LookedAt {
    fn read(ram: &GuestMemory, at: RamOffset) -> LookedAt {
        let mut looked_at = LookedAt { at, bytes: [0; 48] };
        for n in 0..looked_at.inside() {
            looked_at.bytes[n] = ram.load(RamOffset(at.0 + n as u64));
        }
        looked_at
    }

    /// How many of the bytes are in the page.
    fn inside(&self) -> usize {
        self.bytes.len().min(0x1000 - (self.at.0 & 0xfff) as usize)
    }

    /// True if it is as it was.
    pub fn holds(&self, ram: &GuestMemory) -> bool {
        LookedAt::read(ram, self.at).bytes == self.bytes
    }
}

/// Keeps what translation needs from block to block.
pub struct Translator {
    exits: Exits,
    info: InstructionInfoFactory,
    encoder: Encoder,
    native: Box<dyn Fn(CpuidFeature) -> bool + Send>,
    pub(crate) switches: Switches,
    /// Vectors of the last block, to be used again.
    spare: Spare,
    /// Code that is the same again and again: the checks of accesses, for reads and for writes, what
    /// is done to the calls that are remembered, by view, and the polls.
    checks: [[Checks; 2]; VIEWS],
    calls: [Calls; VIEWS],
    polls: [Pattern; 2],
    /// How an instruction uses its memory operand, by its code.
    accesses: Box<[Option<MemoryUse>]>,
    /// What it writes, by its code.
    written: Box<[Option<Written>]>,
    /// Whether the host has what an instruction needs, by its code.
    natives: Box<[Cell<Option<bool>>]>,
    /// The ordinary instructions of the modes of late, the current one first.
    ordinary: [Ordinary; 4],
    /// Bytes of host code that a test wants replaced by others of the same number.
    #[cfg(test)]
    pub sabotage: Option<(&'static [u8], &'static [u8])>,
    /// Bytes of an XSAVE image with the guest's XCR0.
    image: u64,
    /// The guest's TSC follows the host's ([`x86::Bus::tsc_rate`]).
    pub tsc: bool,
}

/// What is done to the memory operand of an instruction that has one: nothing if it is none of
/// these alone.
type MemoryUse = Option<Access>;

/// See [`Translator::spare`].
#[derive(Default)]
struct Spare {
    list: Vec<(Instruction, Class, usize)>,
    needed: Vec<u32>,
    remakes: Vec<Option<Remake>>,
    plan: Plan,
    kept: Vec<Kept>,
    slow: Vec<Slow>,
    others: Vec<u8>,
    output: Output,
}

impl Translator {
    /// A translator whose code leaves by `exits`; `native` says which features the host has.
    pub fn new(
        exits: Exits,
        native: Box<dyn Fn(CpuidFeature) -> bool + Send>,
        switches: Switches,
    ) -> Self {
        let encoder = Encoder::new(64);
        Translator {
            exits,
            info: InstructionInfoFactory::new(),
            encoder,
            native,
            switches,
            spare: Spare::default(),
            checks: Checks::all(),
            calls: View::ALL.map(|view| Calls::new(view, exits.no_stub[view as usize])),
            polls: branch::polls(),
            accesses: vec![None; Code::values().len()].into_boxed_slice(),
            written: vec![None; Code::values().len()].into_boxed_slice(),
            natives: vec![Cell::new(None); Code::values().len()].into_boxed_slice(),
            ordinary: [0; 4].map(Ordinary::new),
            #[cfg(test)]
            sabotage: None,
            image: 0,
            tsc: false,
        }
    }

    /// What an instruction does to its one memory operand.
    fn memory_use(&mut self, i: &Instruction) -> MemoryUse {
        let place = i.code() as usize;
        if let Some(known) = self.accesses[place] {
            return known;
        }
        let found = match self.info.info(i).used_memory() {
            [one] => match one.access() {
                OpAccess::Read | OpAccess::CondRead => Some(Access::Read),
                OpAccess::Write
                | OpAccess::CondWrite
                | OpAccess::ReadWrite
                | OpAccess::ReadCondWrite => Some(Access::Write),
                _ => None,
            },
            _ => None,
        };
        self.accesses[place] = Some(found);
        found
    }

    /// Takes the vectors of a block back that is done with.
    pub fn recycle(&mut self, mut output: Output) {
        output.sites.clear();
        output.map.clear();
        self.spare.output = output;
    }

    /// Translates the block at `source.rip`; `None` if the first instruction crosses the page.
    pub fn block(&mut self, x: &Exec<'_>, source: &Source<'_>) -> Option<Output> {
        let start = (source.rip & 0xfff) as usize;
        self.image = x86::xstate::image_size(x.s.xcr0);
        self.set_mode(x.mode_key());
        let mut bytes = &source.page[start..];
        let (joined, mut longest) = (source.next.map(|next| [bytes, &next].concat()), LONGEST);
        if let Some(joined) = &joined {
            (bytes, longest) = (joined, 1);
        }
        let bits = source.view.bits();
        // One for all: making one costs as much as an instruction.
        let decoder = |bytes| Decoder::with_ip(bits, bytes, source.rip, x.model.decoder_options());
        let mut of_page = decoder(&source.page[..]);
        of_page.set_position(start).ok()?;
        let mut of_joined = joined.as_deref().map(decoder);
        let (decoder, first) = match &mut of_joined {
            Some(joined) => (joined, 0),
            None => (&mut of_page, start),
        };
        let mut list = take(&mut self.spare.list);
        list.clear();
        while list.len() < longest && decoder.can_decode() {
            let at = decoder.position() - first;
            let i = decoder.decode();
            if joined.is_none() && i.is_invalid() && bytes.len() - at < 15 {
                break;
            }
            let class = self.class(x, &i);
            list.push((i, class, at));
            if class.ends() || i.flow_control() != FlowControl::Next {
                break;
            }
        }
        // The shadow of STI is this block's only if what follows is, too.
        if let [.., (_, class @ Class::Sti, _)]
        | [.., (_, class @ Class::Sti, _), (_, Class::Interpret, _)] = &mut list[..]
        {
            *class = Class::Interpret;
            let keep = list
                .iter()
                .position(|l| l.1 == Class::Interpret)
                .unwrap_or(0)
                + 1;
            list.truncate(keep);
        }
        let Some((last, last_class, _)) = list.last().copied() else {
            self.spare.list = list;
            return None;
        };
        let (after, looked_at) = self.live_after(x, source, &mut of_page, &last, last_class);
        let mut live = after.next | after.taken;
        let mut needed = take(&mut self.spare.needed);
        needed.clear();
        needed.resize(list.len(), 0);
        for (n, (i, class, _)) in list.iter().enumerate().rev() {
            live = flags_before(i, *class, live);
            needed[n] = live;
        }
        let mut remakes = take(&mut self.spare.remakes);
        if self.switches.remake_flags && joined.is_none() {
            self.plan_remakes(&list, &needed, &mut remakes);
        } else {
            remakes.clear();
            remakes.resize(list.len(), None);
        }
        let mut plan = take(&mut self.spare.plan);
        let grouping = self.switches.group && self.switches.short_check && self.switches.liveness;
        let through = source.view == View::Window;
        if grouping && bits == 64 && joined.is_none() && !through {
            self.plan(&list, &needed, &mut plan);
        } else {
            plan.clear(list.len());
        }
        let again = if through { self.plan_again(&list) } else { 0 };
        let spare = &mut self.spare;
        let mut map = take(&mut spare.output.map);
        let code = take(&mut spare.output.code);
        let sites = take(&mut spare.output.sites);
        let (slow, kept) = (take(&mut spare.slow), take(&mut spare.kept));
        let others = take(&mut spare.others);
        let mut block = Building {
            t: self,
            source,
            asm: Asm::with_buffer(source.origin, code),
            cold: Vec::new(),
            sites,
            accesses: 0,
            slow,
            live: false,
            remake: None,
            first: true,
            sides: core::array::from_fn(|n| (n == usize::from(RSP)).then_some((Side::High, 0))),
            through: Mem::base(R11, 0),
            again: false,
            others,
            by_tlb: false,
            values: source
                .entry
                .as_ref()
                .map_or([None; 16], |e| e.gpr.map(Some)),
            rip: source.rip,
            code: Code::INVALID,
            vector: false,
            shadow: false,
            links: 0,
            after,
            grouped: None,
            at: 0,
            left_out: None,
            access_end: None,
            kept,
        };
        if let Some(counter) = source.counter {
            block.asm.count_at(counter);
        }
        let liveness = block.t.switches.liveness;
        if joined.is_some() {
            block.live = needed[0] != 0 || !liveness;
            if source.guards {
                block.guard_next_page();
            }
        }
        let mut done = false;
        let mut groups = plan.groups.iter().peekable();
        let mut apart = Vec::new();
        let (mut together, mut runs) = (0, Vec::new());
        for (n, (i, class, at)) in list.iter().enumerate() {
            if let Some((last, class, _)) = n.checked_sub(1).and_then(|n| list.get(n)) {
                block.learn(last, *class);
                if through {
                    block.keep_sides(last, *class);
                    if together == 0 {
                        block.ask_stack(&list[n - 1..], needed[n] != 0);
                    }
                    block.first = false;
                }
            }
            map.push((block.asm.bytes.len() as u16, *at as u16));
            if together > 0 {
                // Done with those before it.
                together -= 1;
                continue;
            }
            block.begin(i, needed[n], remakes[n]);
            block.again = again >> n & 1 != 0;
            if joined.is_none() {
                block.ask_early(&list[n..], &needed[n..]);
            }
            let run = block.stack_run(&list[n..], &plan.places[n..]);
            if run > 1 {
                together = run - 1;
                block.grouped = None;
                let straddled;
                (done, straddled) = block.stack_together(&list[n..n + run]);
                if let Some(straddled) = straddled {
                    runs.push((n..n + run, straddled, block.asm.here()));
                }
                continue;
            }
            if let Some(group) = groups.peek().filter(|g| g.members.start == n) {
                apart.extend(block.check_group(group).map(|s| (*group, s)));
            }
            block.begin_member(plan.places[n]);
            let from = block.asm.bytes.len();
            done = block.instruction(i, *class, &bytes[*at..*at + i.len()]);
            if groups.peek().is_some_and(|g| g.members.contains(&n)) {
                block.keep(from, done);
                groups.next_if(|g| g.members.end == n + 1);
            }
            if done {
                break;
            }
            if block.shadow {
                block.poll(i.next_ip(), true);
            }
            block.shadow = *class == Class::Sti;
        }
        let count = map.len();
        // What ends a block and is no branch is left to the interpreter; STAC and CLAC go on
        // with other tables.
        let (last, class, _) = list[count - 1];
        let left = class == Class::Interpret
            || done && class != Class::UserAccess && last.flow_control() == FlowControl::Next;
        if !done && through {
            let last = &list[count - 1..count];
            block.keep_sides(&last[0].0, last[0].1);
            block.ask_stack(last, after.next != 0 || !liveness);
        }
        if !done {
            let next = list[count - 1].0.next_ip();
            block.go(next, after.next != 0);
        }
        block.shadow = false;
        let kept = take(&mut block.kept);
        let mut kept_of = kept.iter();
        for (group, straddled) in apart {
            block.asm.bind(straddled.hole);
            block.give_back(straddled.restore);
            let mut last = None;
            for (n, kept) in group.members.clone().zip(kept_of.by_ref()) {
                let (i, _, at) = &list[n];
                map.push((block.asm.bytes.len() as u16, *at as u16));
                block.begin(i, needed[n], remakes[n]);
                block.other_copy(kept);
                last = Some(kept);
            }
            if let Some(last) = last {
                block.rejoin(last);
            }
        }
        for (run, straddled, back) in runs {
            block.asm.bind(straddled.hole);
            block.give_back(straddled.restore);
            block.grouped = None;
            let mut ended = false;
            for n in run {
                let (i, class, at) = &list[n];
                map.push((block.asm.bytes.len() as u16, *at as u16));
                block.begin(i, needed[n], remakes[n]);
                ended = block.instruction(i, *class, &bytes[*at..*at + i.len()]);
            }
            if !ended {
                block.asm.jmp_to(back);
            }
        }
        block.slow_paths();
        #[cfg(test)]
        let asked = block.t.sabotage;
        #[cfg_attr(not(test), allow(unused_mut))]
        let Building {
            mut asm,
            cold,
            sites,
            accesses,
            slow,
            others,
            ..
        } = block;
        #[cfg(test)]
        if let Some((from, to)) = asked
            && let Some(at) = asm.bytes.windows(from.len()).position(|w| w == from)
        {
            asm.bytes[at..at + to.len()].copy_from_slice(to);
        }
        let treatments = match source.counter {
            Some(_) => list[..count].iter().map(|l| l.1.treatment()).collect(),
            None => Vec::new(),
        };
        let spare = &mut self.spare;
        (spare.slow, spare.kept) = (slow, kept);
        spare.kept.clear();
        spare.others = others;
        spare.others.clear();
        (spare.list, spare.needed, spare.plan) = (list, needed, plan);
        spare.remakes = remakes;
        Some(Output {
            code: asm.bytes,
            cold,
            sites,
            map,
            looked_at,
            count,
            completes: count - usize::from(left),
            accesses,
            treatments,
        })
    }
}

/// A block being made.
struct Building<'t, 's> {
    t: &'t mut Translator,
    source: &'s Source<'s>,
    asm: Asm,
    /// See [`Output::cold`].
    cold: Vec<u8>,
    sites: Vec<u64>,
    accesses: u32,
    slow: Vec<Slow>,
    /// Flags are needed by or after the current instruction.
    live: bool,
    /// How they can be made again.
    remake: Option<Remake>,
    /// It is the first instruction.
    first: bool,
    /// What is known of the sides of registers, and the place of the last access that went through
    /// the window.
    sides: through::Sides,
    through: Mem,
    /// What is behind the current instruction wants to know of its operand's base.
    again: bool,
    /// Code of instructions that stand twice.
    others: Vec<u8>,
    /// The current instruction's accesses go by the software TLB, whatever the view.
    by_tlb: bool,
    /// What registers hold the first time, where the view wants to know.
    values: Values,
    rip: u64,
    code: Code,
    vector: bool,
    /// The current instruction follows an STI.
    shadow: bool,
    /// Sites that are links, so far.
    links: u8,
    /// Flags that are needed behind the block.
    after: LiveAfter,
    /// The current instruction's access was checked with its group: its distance from there.
    grouped: Option<i32>,
    /// The last access checked: its distance from `[r11]`.
    at: i32,
    /// The check that was left out for that.
    left_out: Option<Check>,
    /// Where, in the code, the access of a branch is over and it only has to go on.
    access_end: Option<usize>,
    /// The members of groups, for their other copies.
    kept: Vec<Kept>,
}

/// The flags that may be read behind a block.
#[derive(Clone, Copy, Default)]
struct LiveAfter {
    /// Where it falls through.
    next: u32,
    /// At the target of its branch.
    taken: u32,
}

impl Building<'_, '_> {
    /// About to translate an instruction; the flags needed before it, and how they can be made again.
    fn begin(&mut self, i: &Instruction, needed: u32, remake: Option<Remake>) {
        self.rip = i.ip();
        self.code = i.code();
        self.live = needed != 0 || !self.t.switches.liveness;
        self.remake = remake;
        self.by_tlb = false;
        // XSAVE and its kin are of no unit, and XGETBV says which state is in use.
        self.vector = i.is_save_restore_instruction()
            || i.code() == Code::Xgetbv
            || table::row(i.code()).is_none_or(|r| r.unit != Unit::Integer);
    }

    /// The place of the access that was checked last.
    fn place(&self) -> Mem {
        self.place_at(0)
    }

    /// So many bytes from there.
    fn place_at(&self, more: i32) -> Mem {
        if self.by_window() {
            return Mem {
                disp: self.through.disp + more,
                ..self.through
            };
        }
        Mem::base(R11, self.at + more)
    }

    /// Accesses go through the window.
    fn by_window(&self) -> bool {
        self.source.view == View::Window && !self.by_tlb
    }

    /// The site of an access whose check is at the host address `retry`.
    fn access_site(&mut self, access: Access, size: u16, several: bool, retry: u64) -> u32 {
        self.accesses += 1;
        self.site(Kind::Access {
            access,
            size,
            several,
            retry: (retry - self.source.cache) as u32,
        })
    }

    fn site(&mut self, kind: Kind) -> u32 {
        self.site_at(self.rip as u16, kind)
    }

    fn site_at(&mut self, rip: u16, kind: Kind) -> u32 {
        let number = self.source.first_site + self.sites.len() as u32;
        let site = Site {
            rip,
            kind,
            code: self.code,
            vector: self.vector,
            shadow: self.shadow,
        };
        self.sites.push(site.pack());
        number
    }

    /// Leaves for the interpreter.
    fn interpret(&mut self) -> bool {
        let site = self.site(Kind::Interpret { more: 0 });
        self.asm.mov_imm(R10, site.into());
        let exit = self.t.exits.interpret;
        self.asm.jmp_to(exit);
        true
    }

    /// Translates one instruction; true if the block ends with it.
    fn instruction(&mut self, i: &Instruction, class: Class, bytes: &[u8]) -> bool {
        if self.source.view.is_32bit()
            && let Some(ends) = self.instruction_32(i, class)
        {
            return ends;
        }
        match class {
            // The last two are classes of 32-bit code only, which was dealt with.
            Class::Interpret | Class::String => return self.interpret(),
            Class::Loop => {
                self.count(i);
                return true;
            }
            Class::Nothing => {}
            Class::Plain => return self.plain(i, bytes),
            Class::Lea => return self.lea(i, bytes),
            Class::Memory => return self.memory(i, bytes),
            Class::Push => self.push(i),
            Class::Pop => {
                self.check(Address::Stack(RSP, 0), Access::Read, 8);
                let to = i.op0_register();
                let place = self.place();
                match stolen(to) {
                    Some(home) => {
                        self.asm.load(R10, place);
                        self.asm.store(Mem::gs(Area::home(home)), R10);
                        self.asm.lea(RSP, Mem::base(RSP, 8));
                    }
                    None => {
                        let to = to.number() as u8;
                        self.asm.load(to, place);
                        if to != RSP {
                            self.asm.lea(RSP, Mem::base(RSP, 8));
                        }
                    }
                }
            }
            Class::Leave => {
                self.check(Address::Stack(5, 0), Access::Read, 8);
                // The load comes first: nothing has changed if the host faults at it.
                let place = self.place();
                self.asm.load(R10, place);
                self.asm.lea(RSP, Mem::base(5, 8));
                self.asm.mov(5, R10);
            }
            Class::Jump => {
                self.go_first(i.near_branch_target(), self.after.taken != 0);
                return true;
            }
            Class::Conditional => {
                self.conditional(i);
                return true;
            }
            Class::Call => {
                let asked = self.listen(i.near_branch_target());
                self.push_return(i.next_ip());
                self.access_end = Some(self.asm.bytes.len());
                let stub = self.enter_call(R10);
                self.go_on(i.near_branch_target(), self.after.taken != 0, asked);
                self.returned(stub, i.next_ip());
                return true;
            }
            Class::JumpIndirect => {
                if let Some(target) = self.usual_target(i) {
                    self.jump_as_usual(i, target);
                    return true;
                }
                self.target(i);
                self.indirect_from(self.source.view, 0);
                return true;
            }
            Class::CallIndirect => {
                self.target(i);
                self.asm.store(field::value, R11);
                self.push_return(i.next_ip());
                let stub = self.enter_call(R10);
                self.asm.load(R11, field::value);
                self.indirect_from(self.source.view, -8);
                self.returned(stub, i.next_ip());
                return true;
            }
            Class::PushFlags => self.push_flags(),
            Class::PopFlags => {
                self.pop_flags();
                self.poll(i.next_ip(), true);
            }
            Class::Cli => self.interrupts(false),
            Class::Sti => self.interrupts(true),
            Class::Selector => self.selector(i),
            Class::Base => self.base(i),
            Class::Tsc => self.tsc(i.code() == Code::Rdtscp),
            Class::Repeat => self.repeat(i),
            Class::BitString => return self.bit_string(i),
            Class::SwapGs => {
                self.asm.load(R10, field::gs_base);
                self.asm.load(R11, field::kernel_gs_base);
                self.asm.store(field::gs_base, R11);
                self.asm.store(field::kernel_gs_base, R10);
            }
            Class::UserAccess => {
                self.user_access(i.code() == Code::Stac, i.next_ip());
                return true;
            }
            Class::ReadControl => self.read_control(i),
            Class::SaveState => return self.save_state(i, self.t.image - 1),
            Class::ToSpace => {
                let more = i.op1_register().number() | i.len() << 4;
                let site = self.site(Kind::Interpret { more: more as u32 });
                self.asm.mov_imm(R10, site.into());
                self.asm.jmp_to(self.t.exits.space);
                return true;
            }
            Class::Syscall => {
                self.syscall(i.next_ip());
                return true;
            }
            Class::Sysret => {
                self.sysret();
                return true;
            }
            Class::Iret => {
                self.iret();
                return true;
            }
            Class::Return => {
                self.check(Address::Stack(RSP, 0), Access::Read, 8);
                self.asm.load(R11, self.place());
                self.asm.lea(RSP, Mem::base(RSP, popped(i)));
                self.access_end = Some(self.asm.bytes.len());
                self.go_back(popped(i));
                return true;
            }
        }
        false
    }
}
