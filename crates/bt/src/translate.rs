//! From guest instructions to host instructions.
//!
//! A block is a run of instructions inside one page up to a branch. An instruction without a
//! memory operand is copied as it is. One with a memory operand gets a software TLB check in
//! front and `[r10 + r11]` as its operand, or shares one with others ([`groups`]). Sensitive
//! instructions, and all that is rare, become an exit to the interpreter.
//!
//! Guest flags live in the host's flags. The check destroys them, so where they are still needed
//! (by liveness inside the block and a look into what follows) another check is made that does
//! not touch them. Flags that nobody reads before they are set again are lost by the short check;
//! a guest can see that only in the RFLAGS image that an exception pushes before they are set:
//! #PF, #GP, #DE, #MF, #XM. In the lockstep test's random programs, made to fault, about 23 % of
//! the frames differ so.

mod branch;
mod classify;
mod groups;
mod protected;
mod registers;
mod save_state;
mod sensitive;
mod shared;
mod stack;
mod strings;
mod strings_32;

pub use branch::FarLink;
use shared::{CODE_PAGE_INDEX, Way};
pub use shared::{Exits, NO_SITE, exits};

use crate::area::{Area, TLB_ENTRIES, View};
use crate::block::{FAR_SHIFT, Kind, Site};
use crate::dump::Treatment;
use crate::emit::{Asm, Hole, Mem, R10, R11, RCX, RSI, RSP};
use crate::pages::Liveness;
use crate::switches::Switches;
use classify::flags_before;
use core::cell::Cell;
use core::mem::{offset_of, take};
use groups::{Check, Kept, Plan, Written};
use iced_x86::{
    Code, CpuidFeature, Decoder, Encoder, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};
use x86::exec::Exec;
use x86::mmu::Access;
use x86::table::{self, Unit};

/// Instructions in a block at most.
const LONGEST: usize = 48;
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

/// Displacements of [`Area`] fields that code uses.
mod field {
    use super::{Area, Mem, offset_of};
    macro_rules! fields {
        ($($name:ident)*) => { $(pub const $name: Mem = Mem::gs(offset_of!(Area, $name) as i32);)* };
    }
    #[allow(non_upper_case_globals)]
    mod named {
        use super::*;
        fields!(page passes rip reason detail site spill value saved sites cache targets hash target pins pin_mask
            pins_off pins_on fs_base gs_base high high_off high_on ring syscall_bad iret_bad lstar
            kernel_cs kernel_ss user_cs user_ss cs ss ds es fs gs tsc_base tsc_factor tsc_add tsc_aux fs_bar gs_bar kernel_gs_base host_rsp
            cr0 cr2 cr3 cr4 xcr0 image image_last lahf);
    }
    pub use named::*;
    pub const TLB_MASK: i32 = offset_of!(Area, tlb_mask) as i32;
    pub const BRANCH_MASK: i32 = offset_of!(Area, branch_mask) as i32;
    pub const CODE_MASK: i32 = offset_of!(Area, code_mask) as i32;
    pub const PASS_MASK: i32 = offset_of!(Area, pass_mask) as i32;
    pub const PAGE_MASK: i32 = offset_of!(Area, page_mask) as i32;
    pub const HOST_FLAGS: i32 = offset_of!(Area, host_flags) as i32;
    pub const VALUE: i32 = offset_of!(Area, value) as i32;
    pub const BIT_MASK: i32 = offset_of!(Area, bit_mask) as i32;
    pub const PIN_MASK: i32 = offset_of!(Area, pin_mask) as i32;
}

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
    /// Pushes and pops are not to be checked together where flags are live.
    pub one_by_one: bool,
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
    /// Guest instructions.
    pub count: usize,
    /// As in [`crate::block::Block::completes`].
    pub completes: usize,
    /// Accesses among the sites.
    pub accesses: u32,
    /// What was done with each, if executions are counted.
    pub treatments: Vec<Treatment>,
}

/// How an instruction is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Copied.
    Plain,
    /// Copied with its memory operand replaced.
    Memory,
    /// LEA.
    Lea,
    /// Nothing to do.
    Nothing,
    Push,
    Pop,
    Leave,
    Jump,
    Conditional,
    Call,
    JumpIndirect,
    CallIndirect,
    Return,
    /// PUSHFQ.
    PushFlags,
    /// POPFQ.
    PopFlags,
    /// CLI in ring 0.
    Cli,
    /// STI in ring 0.
    Sti,
    SwapGs,
    /// MOV of a selector to a register or memory, in ring 0.
    Selector,
    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    Base,
    /// RDTSC and RDTSCP.
    Tsc,
    /// REP MOVS and REP STOS.
    Repeat,
    /// BT, BTS, BTR, BTC of 64 bits in memory, by a register.
    BitString,
    /// String instructions of 32-bit code.
    String,
    /// LOOP and JECXZ of 32-bit code.
    Loop,
    /// STAC and CLAC.
    UserAccess,
    /// MOV from CR0, CR2, CR3 and CR4, in ring 0.
    ReadControl,
    /// MOV to CR3, in ring 0.
    ToSpace,
    Syscall,
    Sysret,
    Iret,
    /// XSAVE, XSAVEC, XRSTOR and their kin.
    SaveState,
    /// Left to the interpreter.
    Interpret,
}

impl Class {
    /// The block ends behind it.
    fn ends(self) -> bool {
        matches!(
            self,
            Class::Interpret
                | Class::Syscall
                | Class::Sysret
                | Class::Iret
                | Class::UserAccess
                | Class::ToSpace
        )
    }

    /// For the listing.
    fn treatment(self) -> Treatment {
        match self {
            Class::PushFlags
            | Class::PopFlags
            | Class::Cli
            | Class::Sti
            | Class::SwapGs
            | Class::Selector
            | Class::Base
            | Class::Tsc
            | Class::UserAccess
            | Class::ReadControl
            | Class::ToSpace
            | Class::SaveState
            | Class::Syscall
            | Class::Sysret
            | Class::Iret => Treatment::Replaced,
            Class::Interpret => Treatment::Interpreted,
            _ => Treatment::Native,
        }
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
    /// How an instruction uses its memory operand, by its code.
    accesses: Box<[Option<MemoryUse>]>,
    /// What it writes, by its code.
    written: Box<[Option<Written>]>,
    /// Whether the host has what an instruction needs, by its code.
    natives: Box<[Cell<Option<bool>>]>,
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
    plan: Plan,
    kept: Vec<Kept>,
    slow: Vec<Slow>,
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
            accesses: vec![None; Code::values().len()].into_boxed_slice(),
            written: vec![None; Code::values().len()].into_boxed_slice(),
            natives: vec![Cell::new(None); Code::values().len()].into_boxed_slice(),
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
        let mut bytes = &source.page[start..];
        let (joined, mut longest) = (source.next.map(|next| [bytes, &next].concat()), LONGEST);
        if let Some(joined) = &joined {
            (bytes, longest) = (joined, 1);
        }
        let bits = source.view.bits();
        let mut decoder = Decoder::with_ip(bits, bytes, source.rip, x.model.decoder_options());
        let mut spare = core::mem::take(&mut self.spare);
        self.spare.output.cold = take(&mut spare.output.cold);
        let mut list = take(&mut spare.list);
        list.clear();
        while list.len() < longest && decoder.can_decode() {
            let at = decoder.position();
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
            self.spare = spare;
            return None;
        };
        let after = self.live_after(x, source, &last, last_class);
        let mut live = after.next | after.taken;
        let mut needed = take(&mut spare.needed);
        needed.clear();
        needed.resize(list.len(), 0);
        for (n, (i, class, _)) in list.iter().enumerate().rev() {
            live = flags_before(i, *class, live);
            needed[n] = live;
        }
        let mut plan = take(&mut spare.plan);
        let grouping = self.switches.group && self.switches.short_check && self.switches.liveness;
        if grouping && bits == 64 && joined.is_none() {
            self.plan(&list, &needed, &mut plan);
        } else {
            plan.clear(list.len());
        }
        let mut block = Building {
            t: self,
            source,
            asm: Asm::with_buffer(source.origin, take(&mut spare.output.code)),
            cold: Vec::new(),
            sites: take(&mut spare.output.sites),
            accesses: 0,
            slow: take(&mut spare.slow),
            live: false,
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
            kept: take(&mut spare.kept),
        };
        if let Some(counter) = source.counter {
            block.asm.count_at(counter);
        }
        let liveness = block.t.switches.liveness;
        if joined.is_some() {
            block.live = needed[0] != 0 || !liveness;
            block.guard_next_page();
        }
        let mut map = take(&mut spare.output.map);
        let mut done = false;
        let mut groups = plan.groups.iter().peekable();
        let mut apart = Vec::new();
        let mut together = 0;
        for (n, (i, class, at)) in list.iter().enumerate() {
            map.push((block.asm.bytes.len() as u16, *at as u16));
            if together > 0 {
                // Done with those before it.
                together -= 1;
                continue;
            }
            block.begin(i, needed[n]);
            let run = block.stack_run(&list[n..], &plan.places[n..]);
            if run > 1 {
                together = run - 1;
                block.grouped = None;
                done = block.stack_together(&list[n..n + run]);
                continue;
            }
            if let Some(group) = groups.peek().filter(|g| g.members.start == n) {
                apart.push((*group, block.check_group(group)));
            }
            block.grouped = plan.places[n];
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
        if !done {
            let next = list[count - 1].0.next_ip();
            block.go(next, after.next != 0);
        }
        block.shadow = false;
        let kept = take(&mut block.kept);
        let mut kept_of = kept.iter();
        for (group, hole) in apart {
            block.asm.bind(hole);
            let mut last = None;
            for (n, kept) in group.members.clone().zip(kept_of.by_ref()) {
                let (i, _, at) = &list[n];
                map.push((block.asm.bytes.len() as u16, *at as u16));
                block.begin(i, needed[n]);
                block.other_copy(kept);
                last = Some(kept);
            }
            if let Some(last) = last {
                block.rejoin(last);
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
            ..
        } = block;
        (spare.slow, spare.kept) = (slow, kept);
        spare.kept.clear();
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
        (spare.list, spare.needed, spare.plan) = (list, needed, plan);
        self.spare = spare;
        Some(Output {
            code: asm.bytes,
            cold,
            sites,
            map,
            count,
            completes: count - usize::from(left),
            accesses,
            treatments,
        })
    }
}

/// A slow path to be made behind the block.
struct Slow {
    holes: Holes,
    restore: Restore,
    site: u32,
    what: SlowPath,
}

/// Where a slow path is entered from. Nearly all have one, and want no memory for it.
enum Holes {
    One(Hole),
    Some(Vec<Hole>),
}

impl Holes {
    fn all(&self) -> &[Hole] {
        match self {
            Holes::One(hole) => core::slice::from_ref(hole),
            Holes::Some(holes) => holes,
        }
    }
}

/// What the hot path has borrowed, to be given back first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restore {
    Nothing,
    /// RCX, in [`Area::spill`].
    Rcx,
    /// The flags, in RAX, and RAX, in [`Area::saved`].
    Flags,
}

/// What a slow path does.
enum SlowPath {
    /// Looks further, because this address missed the TLB.
    Miss(Address, Access),
    /// Leaves the instruction to the interpreter.
    Interpret,
    /// Leaves to be linked.
    Link,
    /// Goes by the branch table to this offset from the page, and looks at the pins or not, or
    /// leaves to be linked.
    Far(u64, bool),
    /// Finds the block that is not behind the last call.
    Return,
    /// Leaves, to go on at this offset from the page.
    Leave(u64),
}

/// How the address of an access is worked out.
#[derive(Clone, Copy)]
enum Address {
    Operand(Instruction),
    /// The operand plus eight times the register shifted right by six.
    Bits(Instruction, u8),
    /// `[register + displacement]`.
    Stack(u8, i32),
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
    /// The last access checked: its distance from `[r10 + r11]`.
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

/// The number of a stolen register, if `r` is one or a part of one.
fn stolen(r: Register) -> Option<u8> {
    match r.full_register() {
        Register::R10 => Some(R10),
        Register::R11 => Some(R11),
        _ => None,
    }
}

fn gpr_number(r: Register) -> Option<u8> {
    (r.is_gpr64() || r.is_gpr32()).then(|| r.number() as u8)
}

/// Of the parts of a register, 1, 2, 4 and 8 bytes, the one in the size of `r`.
fn sized(parts: [Register; 4], r: Register) -> Register {
    parts[r.size().min(8).trailing_zeros() as usize]
}

/// The parts of R10.
const R10_PARTS: [Register; 4] = [
    Register::R10L,
    Register::R10W,
    Register::R10D,
    Register::R10,
];

/// An operand is AH, BH, CH or DH.
fn names_high_byte(i: &Instruction) -> bool {
    (0..i.op_count()).any(|k| {
        i.op_kind(k) == OpKind::Register
            && matches!(
                i.op_register(k),
                Register::AH | Register::BH | Register::CH | Register::DH
            )
    })
}

/// What RET adds to RSP.
fn popped(i: &Instruction) -> i32 {
    8 + i32::from(i.op_count() == 1) * i32::from(i.immediate16())
}

impl Building<'_, '_> {
    /// About to translate an instruction; the flags needed before it.
    fn begin(&mut self, i: &Instruction, needed: u32) {
        self.rip = i.ip();
        self.code = i.code();
        self.live = needed != 0 || !self.t.switches.liveness;
        // XSAVE and its kin are of no unit.
        self.vector = i.is_save_restore_instruction()
            || table::row(i.code()).is_none_or(|r| r.unit != Unit::Integer);
    }

    /// The place of the access that was checked last.
    fn place(&self) -> Mem {
        Mem {
            base: Some(R10),
            index: Some((R11, 0)),
            disp: self.at,
            gs: false,
        }
    }

    /// The site of an access whose check is at the host address `retry`.
    fn access_site(&mut self, access: Access, size: u8, retry: u64) -> u32 {
        self.accesses += 1;
        self.site(Kind::Access {
            access,
            size,
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
            Class::Memory => return self.memory(i),
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
                self.asm.load(R10, Mem::sum(R10, R11));
                self.asm.lea(RSP, Mem::base(5, 8));
                self.asm.mov(5, R10);
            }
            Class::Jump => {
                self.go(i.near_branch_target(), self.after.taken != 0);
                return true;
            }
            Class::Conditional => {
                self.conditional(i);
                return true;
            }
            Class::Call => {
                self.push_return(i.next_ip());
                self.access_end = Some(self.asm.bytes.len());
                let stub = self.remember_call(R10);
                self.go(i.near_branch_target(), self.after.taken != 0);
                self.returned(stub, i.next_ip());
                return true;
            }
            Class::JumpIndirect => {
                self.target(i);
                self.indirect_from(self.source.view, 0);
                return true;
            }
            Class::CallIndirect => {
                self.target(i);
                self.asm.store(field::value, R11);
                self.push_return(i.next_ip());
                let stub = self.remember_call(R10);
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

    /// The stolen registers an instruction uses besides in its address: number, read, written.
    fn stolen_operands(&mut self, i: &Instruction) -> Vec<(u8, bool)> {
        let mut found: Vec<(u8, bool)> = Vec::new();
        for k in 0..i.op_count() {
            if i.op_kind(k) != OpKind::Register {
                continue;
            }
            let Some(n) = stolen(i.op_register(k)) else {
                continue;
            };
            let access = self.t.info.info(i).op_access(k);
            let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            match found.iter_mut().find(|f| f.0 == n) {
                Some(f) => f.1 |= written,
                None => found.push((n, written)),
            }
        }
        found
    }

    fn plain(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let mut again = Vec::new();
        if is_scan(i) && i.has_rep_prefix() {
            let mut native = *i;
            native.set_has_rep_prefix(false);
            if self.t.encoder.encode(&native, 0).is_err() {
                drop(self.t.encoder.take_buffer());
                return self.interpret();
            }
            again = self.t.encoder.take_buffer();
        }
        let bytes = if again.is_empty() { bytes } else { &again };
        let used = self.stolen_operands(i);
        for &(n, _) in &used {
            self.asm.load(n, Mem::gs(Area::home(n)));
        }
        self.asm.raw(bytes);
        for &(n, written) in &used {
            if written {
                self.asm.store(Mem::gs(Area::home(n)), n);
            }
        }
        false
    }

    /// Appends an instruction that was encoded before, and keeps the vector.
    fn encoded(&mut self, mut bytes: Vec<u8>) {
        self.asm.raw(&bytes);
        bytes.clear();
        self.t.encoder.set_buffer(bytes);
    }

    /// Works out an operand's address in R11, without touching flags. R10 is lost.
    fn address(&mut self, i: &Instruction, segment: bool) {
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
                gs: false,
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
    fn linear(&mut self, register: u8, offset: u64) {
        self.asm.load(register, field::page);
        let mem = Mem::base(register, offset as i32);
        if self.source.view.is_32bit() {
            self.asm.lea32(register, mem);
        } else {
            self.asm.lea(register, mem);
        }
    }

    fn emit_address(&mut self, address: &Address) {
        match address {
            Address::Operand(i) => self.address(i, true),
            _ if self.source.view.is_32bit() => self.emit_address_32(address),
            Address::Bits(i, bit) => {
                self.address(i, true);
                // Arithmetic shift without flags: SARX by a register that holds six.
                self.asm.store(field::value, *bit);
                self.asm.mov_imm(R10, 6);
                // sarx r10, gs:[value], r10
                self.asm.sarx_gs(R10, field::VALUE, R10);
                let sum = Mem {
                    base: Some(R11),
                    index: Some((R10, 3)),
                    disp: 0,
                    gs: false,
                };
                self.asm.lea(R11, sum);
            }
            Address::Stack(register, disp) => self.asm.lea(R11, Mem::base(*register, *disp)),
        }
    }

    /// Checks an access, unless its group was: afterwards [`Building::place`] is where it goes in
    /// this process, and that is `[r10 + r11]` if it is in no group.
    fn check(&mut self, address: Address, access: Access, size: u8) {
        self.at = self.grouped.unwrap_or(0);
        if self.grouped.is_some() {
            self.left_out = Some((address, access, size));
            return;
        }
        let table = match access {
            Access::Write => Area::write_table(self.source.view),
            _ => Area::read_table(self.source.view),
        };
        let retry = self.asm.here();
        self.emit_address(&address);
        let site = self.access_site(access, size, retry);
        if !self.live && self.t.switches.short_check {
            let slow = self.compare(table, size.into());
            self.slow.push(Slow {
                holes: Holes::One(slow),
                restore: Restore::Nothing,
                site,
                what: SlowPath::Miss(address, access),
            });
            return;
        }
        // The same without flags: PEXT for the index, LEA for the sum, JRCXZ for the test.
        self.asm.store(field::spill, RCX);
        self.asm.pext_gs(R10, R11, field::TLB_MASK);
        self.asm.lea(R10, Mem::sum(R10, R10));
        self.asm.load(RCX, Mem::gs_index8(R10, table));
        self.asm.lea(R11, Mem::sum(R11, RCX));
        self.asm.lea(RCX, Mem::base(R11, i32::from(size) - 1));
        self.asm.pext_gs(RCX, RCX, field::PAGE_MASK);
        let hit = self.asm.jrcxz();
        let slow = self.asm.jmp();
        self.asm.bind(hit);
        self.asm.load(RCX, field::spill);
        self.asm.load(R10, Mem::gs_index8(R10, table + 8));
        self.slow.push(Slow {
            holes: Holes::One(slow),
            restore: Restore::Rcx,
            site,
            what: SlowPath::Miss(address, access),
        });
    }

    /// The short check of so many bytes at R11 by a table; where to go if it fails.
    fn compare(&mut self, table: i32, size: i32) -> Hole {
        self.asm.rorx(R10, R11, 8);
        self.asm.and_imm32(R10, TLB_INDEX);
        self.asm.add_mem(R11, Mem::gs_base(R10, table));
        self.asm.cmp_imm(R11, 4096 - size);
        let slow = self.asm.jcc(7); // above
        self.asm.load(R10, Mem::gs_base(R10, table + 8));
        slow
    }

    /// Makes the slow paths, apart from the code that runs.
    fn slow_paths(&mut self) {
        let buffer = take(&mut self.t.spare.output.cold);
        let cold = Asm::with_buffer(self.source.cold, buffer);
        let mut main = core::mem::replace(&mut self.asm, cold);
        // First the exits that ask for links, where the block's list has them
        // ([`crate::block::EXITS`]).
        let mut slow = take(&mut self.slow);
        let links = |slow: &&Slow| matches!(slow.what, SlowPath::Link);
        let others = |slow: &&Slow| !matches!(slow.what, SlowPath::Link);
        let ordered = slow.iter().filter(links).chain(slow.iter().filter(others));
        // Ends that others may share.
        let mut ends: [Option<(u64, u64)>; 4] = [None; 4];
        for slow in ordered {
            if let SlowPath::Far(..) = slow.what {
                self.place_far(slow.site);
            }
            for hole in slow.holes.all() {
                main.bind_to(*hole, self.asm.here());
            }
            match slow.restore {
                Restore::Nothing => {}
                Restore::Rcx => self.asm.load(RCX, field::spill),
                Restore::Flags => self.give_back(Restore::Flags),
            }
            let exit = match &slow.what {
                SlowPath::Miss(address, access) => {
                    self.emit_address(address);
                    self.t.exits.miss(self.source.view, *access)
                }
                SlowPath::Interpret => self.t.exits.interpret,
                SlowPath::Link => self.t.exits.link,
                SlowPath::Return => self.t.exits.way(self.source.view, Way::Return),
                SlowPath::Far(target, poll) => {
                    self.linear(R11, *target);
                    let way = if *poll {
                        Way::Unlinked
                    } else {
                        Way::UnlinkedForward
                    };
                    self.t.exits.way(self.source.view, way)
                }
                SlowPath::Leave(target) => {
                    self.linear(R11, *target);
                    self.asm.jmp_to(self.t.exits.poll);
                    continue;
                }
            };
            self.asm.mov_imm(R10, slow.site.into());
            let here = self.asm.here();
            let known = ends.iter().flatten().find(|(to, _)| *to == exit);
            match known {
                Some((_, end)) if here - end < 126 => self.asm.jmp_back(*end),
                _ => {
                    ends.rotate_right(1);
                    ends[0] = Some((exit, here));
                    self.asm.jmp_to(exit);
                }
            }
        }
        slow.clear();
        self.slow = slow;
        self.cold = core::mem::replace(&mut self.asm, main).bytes;
    }

    /// The next slow path is where the jump of a far site leads before it is linked.
    fn place_far(&mut self, site: u32) {
        let unit = 1 << FAR_SHIFT;
        let offset = self.asm.bytes.len().next_multiple_of(unit);
        self.asm.bytes.resize(offset, 0xcc);
        let word = &mut self.sites[(site - self.source.first_site) as usize];
        let mut of = Site::unpack(*word);
        if let Kind::Far { way, .. } = &mut of.kind {
            *way = (offset >> FAR_SHIFT) as u16;
        }
        *word = of.pack();
    }

    fn memory(&mut self, i: &Instruction) -> bool {
        let used = self.stolen_operands(i);
        let size = i.memory_size().size();
        let Some(access) = self.t.memory_use(i) else {
            return self.interpret();
        };
        if used.len() > 1 || size == 0 || size > 32 {
            return self.interpret();
        }
        let mut native = *i;
        native.set_code(without_offset(i.code()));
        if is_scan(i) {
            native.set_has_rep_prefix(false);
        }
        native.set_segment_prefix(Register::None);
        let at = if used.is_empty() {
            self.grouped.unwrap_or(0)
        } else {
            0
        };
        native.set_memory_displacement64(at as u64);
        native.set_memory_displ_size(u32::from(at != 0));
        native.set_memory_index_scale(1);
        if used.is_empty() {
            native.set_memory_base(Register::R10);
            native.set_memory_index(Register::R11);
        } else {
            // The address in R11 alone, the operand in R10.
            native.set_memory_base(Register::R11);
            native.set_memory_index(Register::None);
            for k in 0..i.op_count() {
                if i.op_kind(k) == OpKind::Register && stolen(i.op_register(k)).is_some() {
                    native.set_op_register(k, sized(R10_PARTS, i.op_register(k)));
                }
            }
        }
        // AH to BH exclude a REX prefix, and with it R10 and R11: RSI is borrowed.
        let borrow = names_high_byte(i);
        if borrow {
            native.set_memory_base(Register::RSI);
            native.set_memory_index(Register::None);
        }
        if self.t.encoder.encode(&native, 0).is_err() {
            drop(self.t.encoder.take_buffer());
            return self.interpret();
        }
        let bytes = self.t.encoder.take_buffer();
        self.check(Address::Operand(*i), access, size as u8);
        if borrow {
            self.asm.store(field::spill, RSI);
            self.asm.lea(RSI, Mem::sum(R10, R11));
            self.encoded(bytes);
            self.asm.load(RSI, field::spill);
            return false;
        }
        if let Some(&(n, written)) = used.first() {
            self.asm.lea(R11, self.place());
            self.asm.load(R10, Mem::gs(Area::home(n)));
            self.encoded(bytes);
            if written {
                self.asm.store(Mem::gs(Area::home(n)), R10);
            }
        } else {
            self.encoded(bytes);
        }
        false
    }

    /// A bit string in memory whose 64-bit word is chosen by a register.
    fn bit_string(&mut self, i: &Instruction) -> bool {
        let bit = i.op1_register();
        let (base, index) = (i.memory_base(), i.memory_index());
        let odd = |r: &Register| stolen(*r).is_some() || r.is_gpr32();
        if [bit, base, index].iter().any(odd) {
            return self.interpret();
        }
        let bit = bit.number() as u8;
        let writes = i.code() != Code::Bt_rm64_r64;
        let access = if writes { Access::Write } else { Access::Read };
        self.check(Address::Bits(*i, bit), access, 8);
        // Only the low six bits of the offset are meant inside the word.
        self.asm.lea(R11, Mem::sum(R10, R11));
        self.asm.mov(R10, bit);
        if writes {
            // In memory, so that a LOCK prefix holds: the offset must be reduced here.
            self.asm.pext_gs(R10, R10, field::BIT_MASK);
            let mut native = *i;
            native.set_segment_prefix(Register::None);
            native.set_memory_base(Register::R11);
            native.set_memory_index(Register::None);
            native.set_memory_index_scale(1);
            native.set_memory_displacement64(0);
            native.set_memory_displ_size(0);
            native.set_op1_register(Register::R10);
            let encoded = self.t.encoder.encode(&native, 0).is_ok();
            let bytes = self.t.encoder.take_buffer();
            if !encoded {
                return self.interpret();
            }
            self.asm.raw(&bytes);
        } else {
            // bt [r11], r10 would be slow: the word in a register, the offset taken modulo 64.
            self.asm.load(R11, Mem::base(R11, 0));
            self.asm.raw(&[0x4d, 0x0f, 0xa3, 0xd3]); // bt r11, r10
        }
        false
    }

    fn lea(&mut self, i: &Instruction, bytes: &[u8]) -> bool {
        let to = i.op0_register();
        let odd = i.memory_base() == Register::RIP
            || stolen(to).is_some()
            || stolen(i.memory_base()).is_some()
            || stolen(i.memory_index()).is_some();
        if !odd {
            self.asm.raw(bytes);
            return false;
        }
        let Some(number) = gpr_number(to) else {
            return self.interpret();
        };
        self.address(i, false);
        let register = if stolen(to).is_some() { R11 } else { number };
        if to.is_gpr32() {
            self.asm.lea32(register, Mem::base(R11, 0));
        } else if register != R11 {
            self.asm.mov(register, R11);
        }
        if let Some(home) = stolen(to) {
            self.asm.store(Mem::gs(Area::home(home)), R11);
        }
        false
    }

    fn push(&mut self, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register => {
                let from = i.op0_register();
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                match stolen(from) {
                    Some(home) => {
                        self.asm.lea(R11, self.place());
                        self.asm.load(R10, Mem::gs(Area::home(home)));
                        self.asm.store(Mem::base(R11, 0), R10);
                    }
                    None => self.asm.store(self.place(), from.number() as u8),
                }
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            OpKind::Memory => {
                self.check(Address::Operand(*i), Access::Read, 8);
                self.asm.load(R11, Mem::sum(R10, R11));
                self.asm.store(field::value, R11);
                self.check(Address::Stack(RSP, -8), Access::Write, 8);
                self.asm.lea(R11, Mem::sum(R10, R11));
                self.asm.load(R10, field::value);
                self.asm.store(Mem::base(R11, 0), R10);
                self.asm.lea(RSP, Mem::base(RSP, -8));
            }
            _ => self.push_constant(i.immediate(0)),
        }
    }

    fn push_constant(&mut self, value: u64) {
        self.check(Address::Stack(RSP, -8), Access::Write, 8);
        if let Ok(small) = i32::try_from(value as i64) {
            self.asm.store_imm(Mem::sum(R10, R11), small);
        } else {
            self.asm.lea(R11, Mem::sum(R10, R11));
            self.asm.mov_imm(R10, value);
            self.asm.store(Mem::base(R11, 0), R10);
        }
        self.asm.lea(RSP, Mem::base(RSP, -8));
    }
}

/// The form with a ModR/M byte of a move with an absolute offset.
fn without_offset(code: Code) -> Code {
    match code {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        other => other,
    }
}

/// BSF or BSR. A guest processor without TZCNT takes its prefix for nothing; the host does not.
fn is_scan(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr)
}
