//! The checked mode: every run of a translated block is held against the interpreter, whatever
//! guest it belongs to. `--check-bt` switches it on; the dispatcher ([`crate::vcpu`]) calls here
//! before a block is entered and after it was left.
//!
//! Before: the interpreter rehearses the block ([`x86::rehearsal`]), which says what the processor
//! and the pages that are written must be afterwards, and leaves no trace. After: the translated
//! code has been left at some instruction of the block or behind it; if it came less far than the
//! rehearsal, that is done again as far as this. Then processor and pages must be the same. Blocks
//! are not linked, and pins that are always up keep them from going on by the branch table, so
//! that one run is one block.
//!
//! What is found different is tried once more from the same start, since somebody else may have
//! written to memory meanwhile (a device with a thread of its own); what differs again stops the
//! machine with a report. For machines with one processor.
//!
//! Not compared:
//! - FIP, FDP and FOP, which translated code does not keep;
//! - arithmetic flags that are lost because nobody reads them: instead the flags that differ are
//!   remembered and must be overwritten before an instruction that runs later reads them. Flags
//!   that the manuals leave undefined, and what an instruction makes of them;
//! - accessed and dirty bits in a page table that the block itself writes;
//! - what the interpreter does itself; among it RDTSC, which is not translated in this mode;
//! - bytes outside the pages that the interpreter writes: a store that translated code makes in
//!   excess elsewhere is not seen;
//! - the links between blocks, and the search that translated code makes by itself, which do not
//!   happen here: the random lockstep test (`tests/lockstep`) is for those.
//!
//! Beside the blocks it holds the branch tables against the page tables: an entry for RIP must
//! lead to the block that is found there.

use crate::area::{CODE_PAGE_ENTRIES, branch_slot};
use crate::block::Kind;
use crate::translate::{NO_SITE, reason};
use crate::vcpu::BtVcpu;
use iced_x86::{
    CodeSize, Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind,
};
use mem::{PAGE_SIZE, RamOffset};
use std::fmt::Write;
use std::sync::atomic::AtomicU32;
use x86::flags::Flags;
use x86::rehearsal::Rehearsal;
use x86::state::{Shadow, X87, gpr, rflags};
use x86::{CpuState, Stop};

/// Pins that are always up.
static RAISED: AtomicU32 = AtomicU32::new(!0);

/// What the checked mode has done.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    /// Runs of blocks, and of instructions in them, that were compared.
    blocks: u64,
    instructions: u64,
    /// Runs that left in front of their first instruction: nothing to compare.
    nothing: u64,
    /// Rehearsals done again because the block was left before its end.
    shorter: u64,
    /// Runs done again because of a difference that was then gone.
    again: u64,
    /// Differences in what was made of undefined flags.
    undefined: u64,
    /// Differences in accessed and dirty bits.
    accessed: u64,
    /// Runs after which flags were lost.
    lost_flags: u64,
    /// Lost flags that an exception or an interrupt may have pushed.
    pushed: u64,
    /// Entries of branch tables that were looked at.
    branches: u64,
}

/// The checked mode of one processor.
pub(crate) struct Check {
    rehearsal: Rehearsal,
    /// The block that was entered.
    block: u32,
    /// It was entered and has not been compared.
    waiting: bool,
    /// This is a second attempt.
    again: bool,
    /// Pages that the first, longest rehearsal has written, as they were before: translated code has
    /// written them by the time of the others.
    before: Vec<(RamOffset, Box<[u8; PAGE_SIZE as usize]>)>,
    /// Arithmetic flags that translated code has not kept.
    lost: u64,
    /// Exceptions and interrupts, and steps of the interpreter, when `lost` was last brought up to
    /// date.
    seen: (u64, u64),
    counts: Counts,
}

/// Why two outcomes count as the same although they are not.
enum Verdict {
    Same,
    Undefined,
    Accessed,
    Different,
}

impl Check {
    /// Keeps the pages of the first rehearsal, before there is another one.
    fn keep_before(&mut self) {
        if self.before.is_empty() {
            let written = self.rehearsal.written().iter();
            self.before = written.map(|p| (p.at, p.before.clone())).collect();
        }
    }

    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let Counts {
            blocks,
            instructions,
            nothing,
            shorter,
            again,
            undefined,
            accessed,
            lost_flags,
            pushed,
            branches,
        } = self.counts;
        [
            ("checked blocks", blocks),
            ("checked instructions", instructions),
            ("checked branch entries", branches),
            ("not checked: nothing done", nothing),
            ("check: rehearsed shorter", shorter),
            ("check: done again", again),
            ("check: undefined flags used", undefined),
            ("check: accessed bits", accessed),
            ("check: flags lost", lost_flags),
            ("check: lost flags at an event", pushed),
        ]
        .map(|(name, n)| (name.into(), n))
        .into()
    }
}

impl BtVcpu {
    /// Switches the checked mode on.
    pub(crate) fn check(&mut self) {
        // Those of other address spaces follow this one.
        self.area.pins = RAISED.as_ptr() as u64;
        // All ways out of a block must see them.
        self.translator.switches.forward = false;
        self.translator.switches.bell = false;
        // Left to the interpreter, which rehearses it.
        self.translator.switches.to_space = false;
        // What is in its initial state the host may see otherwise.
        self.translator.switches.save_state = false;
        self.check = Some(Box::new(Check {
            rehearsal: Rehearsal::default(),
            block: 0,
            waiting: false,
            again: false,
            before: Vec::new(),
            lost: 0,
            seen: (0, 0),
            counts: Counts::default(),
        }));
    }

    /// Before a lookup: the blocks to which translated code would find its way for RIP, by the
    /// branch table and by that of code pages.
    #[inline(always)]
    pub(crate) fn promised(&mut self) -> [Option<u32>; 2] {
        if self.check.is_some() {
            self.look_at_tables()
        } else {
            [None; 2]
        }
    }

    fn look_at_tables(&mut self) -> [Option<u32>; 2] {
        let view = self.view();
        let rip = self.interp.cpu().s.rip;
        let tables = &self.area.tables[view as usize];
        let entry = tables.code.branch[branch_slot(rip)];
        let known = entry.negated_rip.wrapping_add(rip) == 0 && entry.host != 0;
        let offset = entry.host.wrapping_sub(self.cache.range().0) as u32;
        let page = tables.code.pages[(rip >> 12) as usize % CODE_PAGE_ENTRIES];
        let into = page.negated_page.wrapping_add(rip);
        let key = (into < PAGE_SIZE).then(|| page.key.wrapping_add(into));
        [
            known.then(|| self.blocks.at_host(offset)).flatten(),
            key.and_then(|key| self.blocks.find(key)),
        ]
    }

    /// After the lookup: the block found must be the one that was promised.
    #[inline(always)]
    pub(crate) fn kept(&mut self, promised: [Option<u32>; 2], found: u32) -> Option<Stop> {
        promised
            .into_iter()
            .flatten()
            .find_map(|promised| self.compare_blocks(promised, found))
    }

    fn compare_blocks(&mut self, promised: u32, found: u32) -> Option<Stop> {
        let check = self.check.as_mut()?;
        check.counts.branches += 1;
        // Emptying the cache for the block found has made the numbers mean others.
        let old = self.blocks.get(promised)?;
        let new = &self.blocks[found];
        // What the interpreter has just made of the mode shows in the tables after the lookup.
        if promised == found || !old.valid() || old.mode() != new.mode() {
            return None;
        }
        Some(Stop::Broken(format!(
            "translator, checked: the branch tables lead from RIP {:#x} to the block at {:?}, the \
             page tables lead to {:?}",
            self.interp.cpu().s.rip,
            old.at(),
            new.at(),
        )))
    }

    /// Before a block is entered.
    #[inline(always)]
    pub(crate) fn rehearse(&mut self, block: u32) {
        if self.check.is_some() {
            self.rehearse_block(block);
        }
    }

    fn rehearse_block(&mut self, block: u32) {
        self.bring_vector_in();
        let steps = self.steps();
        let Some(mut check) = self.check.take() else {
            return;
        };
        let counters = self.interp.cpu().counters;
        let events = counters.exceptions + counters.interrupts;
        if check.seen != (events, steps) {
            // What has run meanwhile was not followed; frames hold the right flags.
            check.counts.pushed += u64::from(check.lost != 0);
            check.lost = 0;
        }
        check.block = block;
        check.waiting = true;
        check.before.clear();
        let limit = self.blocks[block].completes();
        let marks = self.interp.code_marks();
        self.interp.rehearse(&mut check.rehearsal, limit as u64);
        self.tell_marks(marks);
        self.check = Some(check);
    }

    /// After a block was left, with RIP at the instruction where it was: nothing if all is well.
    /// [`Stop::Budget`]: the processor is to start again from its state.
    #[inline(always)]
    pub(crate) fn settle(&mut self) -> Option<Stop> {
        if self.check.as_ref()?.waiting {
            self.compare()
        } else {
            None
        }
    }

    #[cold]
    fn compare(&mut self) -> Option<Stop> {
        self.bring_vector_in();
        let mut check = self.check.take()?;
        check.waiting = false;
        let stop = self.compare_with(&mut check);
        if stop.is_none() {
            check.counts.again += u64::from(std::mem::take(&mut check.again));
        }
        self.check = Some(check);
        stop
    }

    /// The instruction of the block at which translated code was left, if it was inside.
    fn left_at(&mut self, block: u32) -> Option<u64> {
        let rip = self.interp.cpu().s.rip;
        let into = rip.wrapping_sub(self.check_start(block));
        let map = self.blocks.map(block);
        let n = map.iter().position(|m| u64::from(m.1) == into)?;
        Some(n as u64)
    }

    /// RIP of a block's first instruction, in the page that translated code was in.
    fn check_start(&self, block: u32) -> u64 {
        let at = self.blocks[block].at();
        self.area.page.wrapping_add(at.0 & (PAGE_SIZE - 1))
    }

    fn compare_with(&mut self, check: &mut Check) -> Option<Stop> {
        let block = check.block;
        // The area's page is another one after a jump out of the block.
        self.area.page = check.rehearsal.start.rip & !(PAGE_SIZE - 1);
        let inside = self.left_at(block);
        let exact = match self.area.reason as i32 {
            reason::INTERPRET | reason::MISS | reason::FAULT => true,
            // The branch itself faults.
            reason::BRANCH => {
                self.area.site as u32 != NO_SITE && !x86::mmu::is_canonical(self.area.rip)
            }
            _ => false,
        };
        if exact && inside.is_none() {
            return Some(self.report(check, "it was left at no instruction of the block"));
        }
        let mut verdict = Verdict::Different;
        if !exact || inside == Some(check.rehearsal.done) {
            verdict = self.verdict(check);
        }
        if let (Verdict::Different, Some(n)) = (&verdict, inside)
            && n <= check.rehearsal.done
        {
            // Left before the end: for the interpreter, because pins are up, or in the middle of
            // a string instruction.
            check.counts.shorter += 1;
            self.rehearse_again(check, n, 0);
            verdict = self.verdict(check);
            if matches!(verdict, Verdict::Different) {
                let elements = self.elements(check, n);
                if elements != 0 {
                    self.rehearse_again(check, n, elements);
                    verdict = self.verdict_of_part(check, n);
                }
            }
            if matches!(verdict, Verdict::Different) && !exact {
                // Rather the whole block, for the report.
                let all = self.blocks[block].completes();
                self.rehearse_again(check, all as u64, 0);
            }
        }
        let done = check.rehearsal.done;
        match verdict {
            Verdict::Different if !check.again => {
                check.again = true;
                self.start_again(check);
                return Some(Stop::Budget);
            }
            Verdict::Different => return Some(self.report(check, "it differs")),
            Verdict::Same => {}
            Verdict::Undefined => check.counts.undefined += 1,
            Verdict::Accessed => check.counts.accessed += 1,
        }
        if done == 0 {
            check.counts.nothing += 1;
        } else {
            check.counts.blocks += 1;
            check.counts.instructions += done;
        }
        let stop = self.follow_flags(check, exact);
        let counters = self.interp.cpu().counters;
        check.seen = (counters.exceptions + counters.interrupts, self.steps());
        stop
    }

    /// How many elements of the string instruction behind `n` instructions have been done: 0 if
    /// it is none, or none of it was done.
    fn elements(&mut self, check: &Check, n: u64) -> u64 {
        let code = self.code_of(check.block);
        let Some(i) = code.get(n as usize).filter(|i| is_repeated(i)) else {
            return 0;
        };
        let narrow = i.code_size() != CodeSize::Code64 || is_narrow(i);
        let mask = if narrow { 0xffff_ffff } else { !0 };
        let (before, now) = (&check.rehearsal.end.gpr, &self.interp.cpu().s.gpr);
        before[gpr::RCX].wrapping_sub(now[gpr::RCX]) & mask
    }

    /// The verdict on a part of a string instruction; one that compares must not have met its end.
    fn verdict_of_part(&mut self, check: &mut Check, n: u64) -> Verdict {
        let code = self.code_of(check.block);
        let equal = check.rehearsal.end.rflags & rflags::ZF != 0;
        if code
            .get(n as usize)
            .is_some_and(|i| is_comparing(i) && equal == i.has_repne_prefix())
        {
            return Verdict::Different;
        }
        self.verdict(check)
    }

    /// Rehearses again from the same start, `limit` instructions and some elements of the next
    /// one; memory and processor stay.
    fn rehearse_again(&mut self, check: &mut Check, limit: u64, elements: u64) {
        let now = self.complete_state();
        check.keep_before();
        let mut pages = Vec::new();
        for (at, before) in &check.before {
            let mut bytes = Box::new([0; PAGE_SIZE as usize]);
            self.memory.copy_page_out(*at, &mut bytes);
            self.memory.copy_page_in(*at, before);
            pages.push((*at, bytes));
        }
        let start = check.rehearsal.start.clone();
        let cpu = self.interp.cpu();
        cpu.replace_state(&start);
        let attention = std::mem::take(&mut cpu.attention);
        self.interp
            .rehearse_part(&mut check.rehearsal, limit, elements);
        let cpu = self.interp.cpu();
        cpu.replace_state(&now);
        cpu.attention = attention;
        for (at, bytes) in pages {
            self.memory.copy_page_in(at, &bytes);
        }
    }

    /// Back to the state and memory before the block.
    fn start_again(&mut self, check: &mut Check) {
        check.keep_before();
        for (at, before) in &check.before {
            self.memory.copy_page_in(*at, before);
        }
        let cpu = self.interp.cpu();
        cpu.replace_state(&check.rehearsal.start);
        cpu.attention = 0;
    }

    fn complete_state(&mut self) -> CpuState {
        let cpu = self.interp.cpu();
        CpuState {
            rflags: cpu.rflags(),
            ..cpu.s.clone()
        }
    }

    /// Steps of the interpreter outside translated code.
    fn steps(&self) -> u64 {
        let stats = self.stats();
        stats.interpreted + stats.bursts
    }

    fn verdict(&mut self, check: &mut Check) -> Verdict {
        let faulted = self.area.reason as i32 == reason::FAULT;
        // VCVTPS2PH has set flags in MXCSR by the time its store faults.
        let done = check.rehearsal.done as usize;
        let early = faulted
            && (self.code_of(check.block).get(done))
                .is_some_and(|i| i.mnemonic() == Mnemonic::Vcvtps2ph);
        let cpu = self.interp.cpu();
        let (now, end) = (&cpu.s, &mut check.rehearsal.end);
        let (flags, mxcsr) = (end.rflags, end.mxcsr);
        if early {
            end.mxcsr |= now.mxcsr & 0x3f;
        }
        let (x87, shadow) = (end.x87, end.shadow);
        // What is not compared is made the same.
        end.rflags = end.rflags & !rflags::ARITHMETIC | now.rflags & rflags::ARITHMETIC;
        end.x87 = X87 {
            opcode: now.x87.opcode,
            ip: now.x87.ip,
            cs: now.x87.cs,
            dp: now.x87.dp,
            ds: now.x87.ds,
            ..x87
        };
        if faulted || now.shadow == Shadow::Sti {
            // Events wait for the fault without it. And a site behind an STI says that there is
            // one, even if interrupts were on before: it is for when they may be taken.
            end.shadow = now.shadow;
        }
        let same = now == end;
        (end.rflags, end.mxcsr) = (flags, mxcsr);
        (end.x87, end.shadow) = (x87, shadow);
        let memory = self.memory_verdict(check);
        match (same, memory) {
            (true, Verdict::Same) => Verdict::Same,
            (true, Verdict::Accessed) => Verdict::Accessed,
            _ if self.is_undefined(check) => Verdict::Undefined,
            _ => Verdict::Different,
        }
    }

    fn memory_verdict(&self, check: &Check) -> Verdict {
        let mut bytes = [0; PAGE_SIZE as usize];
        let mut verdict = Verdict::Same;
        for page in check.rehearsal.written() {
            if self.memory.page_holds(page.at, &page.after) {
                continue;
            }
            self.memory.copy_page_out(page.at, &mut bytes);
            verdict = Verdict::Accessed;
            if quads(&bytes, &page.after[..]).any(|(_, a, b)| (a ^ b) & !0x60 != 0) {
                return Verdict::Different;
            }
        }
        verdict
    }

    /// True if the block makes something of undefined flags, and only flag bits differ.
    fn is_undefined(&mut self, check: &Check) -> bool {
        let code = self.code_of(check.block);
        let mut undefined = 0;
        let mut used = false;
        for i in code.iter().take(check.rehearsal.done as usize) {
            used |= undefined & read(i) != 0;
            undefined = undefined & !modified(i) | from_iced(i.rflags_undefined());
        }
        if !used {
            return false;
        }
        let now = self.complete_state();
        let mut end = check.rehearsal.end.clone();
        let small = |a: u64, b: u64| (a ^ b) & !(rflags::ARITHMETIC | rflags::ARITHMETIC << 8) == 0;
        for (a, b) in end.gpr.iter_mut().zip(now.gpr) {
            if !small(*a, b) {
                return false;
            }
            *a = b;
        }
        end.rflags = now.rflags;
        end.x87 = now.x87;
        let mut bytes = [0; PAGE_SIZE as usize];
        end == now
            && check.rehearsal.written().iter().all(|page| {
                self.memory.copy_page_out(page.at, &mut bytes);
                quads(&bytes, &page.after[..]).all(|(_, a, b)| small(a, b))
            })
    }

    /// Goes on with the right flags, and sees to it that nobody reads the ones that were lost.
    fn follow_flags(&mut self, check: &mut Check, stepped: bool) -> Option<Stop> {
        let cpu = self.interp.cpu();
        let right = check.rehearsal.end.rflags;
        let different = (cpu.rflags() ^ right) & rflags::ARITHMETIC;
        if different | check.lost == 0 {
            return None;
        }
        cpu.flags = Flags::from_bits(right);
        let code = self.code_of(check.block);
        let done = check.rehearsal.done as usize;
        let mut undefined = 0;
        let mut lost = check.lost;
        for i in code.iter().take(done) {
            if lost & read(i) != 0 {
                let what = format!("`{i}` reads flags {lost:#x} that an earlier block has lost");
                return Some(self.report(check, &what));
            }
            lost &= !modified(i);
            undefined = undefined & !modified(i) | from_iced(i.rflags_undefined());
        }
        lost |= different & !undefined;
        check.counts.lost_flags += u64::from(different & !undefined != 0);
        // The interpreter does the next one.
        if let Some(i) = code.get(done).filter(|_| stepped) {
            if lost & read(i) != 0 {
                let what = format!("`{i}` reads flags {lost:#x} that the block has lost");
                return Some(self.report(check, &what));
            }
            lost &= !modified(i);
        }
        check.lost = lost;
        None
    }

    /// A block's guest instructions.
    fn code_of(&self, number: u32) -> Vec<Instruction> {
        let block = &self.blocks[number];
        let bits = self.targets.mode_of(block.mode()) as u32 & 0xff;
        let decode = |m: &(u16, u16)| {
            let at = (block.at().0 & (PAGE_SIZE - 1)) + u64::from(m.1);
            let bytes: [u8; 15] = core::array::from_fn(|n| self.guest_byte(number, at + n as u64));
            let ip = self.check_start(number).wrapping_add(m.1.into());
            Decoder::with_ip(bits, &bytes, ip, DecoderOptions::NONE).decode()
        };
        let count = block.count();
        self.blocks
            .map(number)
            .iter()
            .take(count)
            .map(decode)
            .collect()
    }

    /// A byte of a block's page or, behind its end, of the next one if the block needs that.
    fn guest_byte(&self, number: u32, at: u64) -> u8 {
        let (page, at) = match (at < PAGE_SIZE, self.blocks.second(number)) {
            (true, _) => (self.blocks[number].at().0 & !(PAGE_SIZE - 1), at),
            (false, Some((second, _))) => (second.0, at - PAGE_SIZE),
            (false, None) => return 0,
        };
        self.memory.load(RamOffset(page + at))
    }

    fn report(&mut self, check: &Check, what: &str) -> Stop {
        let mut text = format!("translator, checked: {what}\n");
        // Writing to a string cannot fail.
        let _ = self.describe(check, &mut text);
        Stop::Broken(text)
    }

    fn describe(&mut self, check: &Check, out: &mut String) -> std::fmt::Result {
        let r = &check.rehearsal;
        writeln!(
            out,
            "the interpreter did {} of {} instructions; the block was left for reason {}",
            r.done,
            self.blocks[check.block].count(),
            self.area.reason,
        )?;
        if let Some(Kind::Access { access, size, .. }) =
            self.blocks.site(self.area.site as u32).map(|s| s.kind)
            && self.area.reason as i32 == reason::MISS
        {
            writeln!(out, "{access:?} of {size} bytes at {:#x}", self.area.detail)?;
        }
        let now = self.complete_state();
        let text = |s: &CpuState| format!("{s:#x?}");
        writeln!(out, "processor: before, interpreter, translated")?;
        let (start, end, now) = (text(&r.start), text(&r.end), text(&now));
        let lines = start.lines().zip(end.lines()).zip(now.lines());
        let mut part = "";
        for ((a, b), c) in lines {
            if a.trim_start().len() + 4 >= a.len() && a.ends_with(['[', '{']) {
                part = a.trim_end_matches(['[', '{', ' ']);
            }
            if b != c {
                writeln!(
                    out,
                    "  {}: {} | {} | {}",
                    part.trim(),
                    a.trim(),
                    b.trim(),
                    c.trim()
                )?;
            }
        }
        let mut bytes = [0; PAGE_SIZE as usize];
        for page in r.written() {
            self.memory.copy_page_out(page.at, &mut bytes);
            for (at, a, b) in quads(&page.after[..], &bytes).take(32) {
                let at = page.at.0 + at as u64;
                writeln!(
                    out,
                    "memory at {at:#x}: interpreter {a:016x}, translated {b:016x}"
                )?;
            }
        }
        writeln!(
            out,
            "registers before: {:x?}, rflags {:#x}",
            r.start.gpr, r.start.rflags
        )?;
        writeln!(out, "guest, at {:?}:", self.blocks[check.block].at())?;
        for i in self.code_of(check.block) {
            line(&i, out)?;
        }
        let (host, size) = (self.host_of(check.block), self.blocks[check.block].size());
        writeln!(out, "host:")?;
        let code = self.cache.bytes(host, size as usize);
        let mut decoder = Decoder::with_ip(64, &code, host, DecoderOptions::NONE);
        while decoder.can_decode() {
            line(&decoder.decode(), out)?;
        }
        Ok(())
    }
}

/// MOVS, STOS, LODS, CMPS or SCAS with a REP prefix.
fn is_repeated(i: &Instruction) -> bool {
    (i.has_rep_prefix() || i.has_repne_prefix()) && i.is_string_instruction()
}

fn is_comparing(i: &Instruction) -> bool {
    i.is_string_instruction() && i.rflags_modified() != 0
}

/// A string instruction that counts in ECX although code is 64-bit.
fn is_narrow(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| {
        matches!(
            i.op_kind(n),
            OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
        )
    })
}

fn line(i: &Instruction, out: &mut String) -> std::fmt::Result {
    let mut text = String::new();
    IntelFormatter::new().format(i, &mut text);
    writeln!(out, "  {:x}  {text}", i.ip())
}

/// The quadwords in which two pages differ.
fn quads<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = (usize, u64, u64)> + 'a {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b));
    a.chunks(8)
        .zip(b.chunks(8))
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(move |(n, (a, b))| (8 * n, word(a), word(b)))
}

/// Arithmetic flags in RFLAGS, from iced's encoding.
fn from_iced(bits: u32) -> u64 {
    use iced_x86::RflagsBits as B;
    [
        (B::CF, rflags::CF),
        (B::PF, rflags::PF),
        (B::AF, rflags::AF),
        (B::ZF, rflags::ZF),
        (B::SF, rflags::SF),
        (B::OF, rflags::OF),
    ]
    .iter()
    .filter(|(b, _)| bits & b != 0)
    .map(|(_, f)| f)
    .sum()
}

/// The arithmetic flags that an instruction reads.
fn read(i: &Instruction) -> u64 {
    match i.mnemonic() {
        Mnemonic::Pushfq | Mnemonic::Pushfd | Mnemonic::Pushf | Mnemonic::Syscall => {
            rflags::ARITHMETIC
        }
        _ => from_iced(i.rflags_read()),
    }
}

/// The arithmetic flags that an instruction may change.
fn modified(i: &Instruction) -> u64 {
    match i.mnemonic() {
        Mnemonic::Popfq
        | Mnemonic::Popfd
        | Mnemonic::Iretq
        | Mnemonic::Sysretq
        | Mnemonic::Syscall => rflags::ARITHMETIC,
        _ => from_iced(i.rflags_modified()),
    }
}

#[cfg(test)]
mod tests {
    //! That the check can fail: wrong code, wrong memory, lost flags, stale tables are planted and
    //! found; and that it is silent where all is well.

    use super::*;
    use crate::area::{BranchEntry, TlbEntry, View};
    use crate::end_bus::{END, EndBus};
    use crate::engine::{Options, Peers};
    use crate::translate::way;
    use iced_x86::code_asm::*;
    use mem::{Gpa, GuestMemory};
    use std::sync::Arc;
    use x86::cpuid::CpuModel;
    use x86::state::{Attributes, Segment, cr0, cr4, efer};
    use x86::{Signals, Vcpu};

    const CODE: u64 = 0x8000;
    const DATA: u64 = 0x9000;

    /// A checked processor in 64-bit mode, memory mapped to itself, about to run the code.
    struct Rig {
        vcpu: BtVcpu,
        bus: EndBus,
        ram: Arc<GuestMemory>,
        base: u64,
    }

    /// Where memory is once more, as a kernel's large global page.
    const HIGH: u64 = 0xffff_ffff_8000_0000;

    type Code<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;

    impl Rig {
        fn new(code: impl Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Rig {
            Rig::at(0, &code)
        }

        /// With the code at this distance from its place in memory.
        fn at(base: u64, code: Code<'_>) -> Rig {
            let ram = Arc::new(GuestMemory::flat(2 << 20).unwrap());
            let put = |at, bytes: &[u8]| ram.write(Gpa(at), bytes).unwrap();
            // PML4, PDPT, PD, and a page table of 4 KiB pages; then those of the large page.
            for (at, entry) in [
                (0x1000, 0x2003u64),
                (0x2000, 0x3003),
                (0x3000, 0x4003),
                (0x1ff8, 0x5003),
                (0x5ff0, 0x6003),
                (0x6000, 0x183),
            ] {
                put(at, &entry.to_le_bytes());
            }
            for n in 0..256 {
                put(0x4000 + 8 * n, &(n << 12 | 3).to_le_bytes());
            }
            let mut a = CodeAssembler::new(64).unwrap();
            code(&mut a).unwrap();
            a.out(u32::from(END), al).unwrap();
            put(CODE, &a.assemble(base + CODE).unwrap());
            let signals = Arc::new(Signals::default());
            let model = CpuModel::everything();
            let peers = Arc::new(Peers::new(ram.page_count()));
            let mut vcpu = BtVcpu::new(
                0,
                &model,
                ram.clone(),
                signals.clone(),
                peers,
                &Options::default(),
            )
            .unwrap();
            vcpu.check();
            let mut rig = Rig {
                vcpu,
                bus: EndBus(signals),
                ram,
                base,
            };
            rig.restart();
            rig
        }

        fn restart(&mut self) {
            let mut s = CpuState::reset(0, true);
            let flat = |selector, attributes| Segment {
                selector,
                attributes: Attributes(attributes),
                limit: !0,
                base: 0,
            };
            s.seg = [flat(0x10, 0xc93); 6];
            s.seg[1] = flat(8, 0xa9b);
            s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
            s.cr3 = 0x1000;
            s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::PGE | cr4::FSGSBASE;
            s.efer = efer::LME | efer::LMA;
            s.rip = self.base + CODE;
            s.gpr[4] = self.base + 0x2_0000;
            self.vcpu.set_state(&s).unwrap();
        }

        /// To the end, or to a report.
        fn run(&mut self) -> Result<Counts, String> {
            match self.vcpu.run(&mut self.bus, u64::MAX) {
                Stop::Requested => {}
                Stop::Broken(report) => return Err(report),
                other => panic!("{other:?}"),
            }
            let check = self.vcpu.check.as_ref().unwrap();
            assert!(!check.waiting);
            Ok(check.counts)
        }

        /// Runs, and wants a report with these words.
        #[track_caller]
        fn caught(&mut self, words: &[&str]) {
            let report = self.run().expect_err("nothing was found");
            for word in words {
                assert!(report.contains(word), "no {word:?} in: {report}");
            }
        }

        /// From now on every translation has these bytes replaced.
        fn sabotage(&mut self, from: &'static [u8], to: &'static [u8]) {
            self.vcpu.translator.sabotage = Some((from, to));
        }
    }

    fn summing(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        a.mov(rbx, DATA)?;
        a.mov(ecx, 5)?;
        a.mov(eax, 0)?;
        a.set_label(&mut again)?;
        a.add(qword_ptr(rbx), rcx)?;
        a.mov(dword_ptr(rbx + 8), eax)?;
        a.push(rcx)?;
        a.pop(rdx)?;
        a.dec(ecx)?;
        a.jne(again)
    }

    #[test]
    fn a_right_translation_passes_and_is_counted() {
        let mut rig = Rig::new(summing);
        let counts = rig.run().unwrap();
        assert_eq!(rig.ram.read_word::<u64>(Gpa(DATA)), Ok(15));
        // Each round is a block of six instructions; the first has three more, the last is
        // followed by OUT, which is not translated.
        assert_eq!(counts.instructions, 33);
        assert!(counts.blocks >= 5, "{counts:?}");
        assert_eq!((counts.again, counts.undefined), (0, 0));
    }

    /// Accesses off RBX and RSP that are checked together, at every distance from a page's end.
    fn grouped(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
        let mut again = a.create_label();
        a.mov(ebx, DATA as u32 + 0xfe0)?;
        a.mov(esp, DATA as u32 + 0x1_0028)?;
        a.mov(ecx, 16)?;
        a.set_label(&mut again)?;
        a.mov(qword_ptr(rbx + 8), rcx)?;
        a.add(rax, qword_ptr(rbx + 12))?;
        a.adc(dword_ptr(rbx - 4), eax)?;
        a.mov(r10, qword_ptr(rbx + 16))?;
        a.push(rax)?;
        a.push(rcx)?;
        a.sub(rsp, 24)?;
        a.mov(qword_ptr(rsp + 32), rdx)?;
        a.pop(rdx)?;
        a.add(rsp, 16)?;
        a.pop(rsi)?;
        a.pop(rdi)?;
        a.add(rbx, 4)?;
        a.sub(rsp, 8)?;
        a.dec(ecx)?;
        a.jne(again)
    }

    #[test]
    fn accesses_checked_together_are_right_at_every_distance_from_a_page_end() {
        let mut rig = Rig::new(grouped);
        let counts = rig.run().unwrap();
        // Three and sixteen times sixteen, without those that cross a page themselves.
        assert!((240..=259).contains(&counts.instructions), "{counts:?}");
    }

    #[test]
    fn pushes_and_pops_together_are_right_at_every_distance_from_a_page_end() {
        let mut rig = Rig::new(|a| {
            let (mut again, mut function) = (a.create_label(), a.create_label());
            let mut end = a.create_label();
            a.mov(esp, DATA as u32 + 0x1_0040)?;
            a.mov(ebp, DATA as u32 + 0x1_1010)?;
            a.mov(ecx, 24)?;
            a.set_label(&mut again)?;
            a.call(function)?;
            a.jc(end)?;
            a.sub(rsp, 8)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.set_label(&mut end)?;
            a.out(u32::from(END), al)?;
            // Flags are live from the CMP of the caller to the RET, which keeps them.
            a.set_label(&mut function)?;
            a.cmp(ecx, 1)?;
            a.push(rbx)?;
            a.push(rbp)?;
            a.push(rcx)?;
            a.push(rdx)?;
            a.lea(rdx, qword_ptr(rdx + rcx + 1))?;
            a.pop(rsi)?;
            a.pop(rcx)?;
            a.pop(rbp)?;
            a.pop(rbx)?;
            a.ret()
        });
        let counts = rig.run().unwrap();
        assert!(counts.instructions > 24 * 14, "{counts:?}");
    }

    #[test]
    fn a_return_to_the_next_page_of_fixed_code_goes_no_further_than_was_rehearsed() {
        let count = HIGH + DATA + 0x2000;
        let code = |a: &mut CodeAssembler| {
            let (mut again, mut function) = (a.create_label(), a.create_label());
            a.mov(ecx, 20)?;
            a.mov(rbx, count)?;
            a.set_label(&mut again)?;
            let ahead = [0x90; (DATA - CODE) as usize - 20];
            a.db(&ahead)?;
            // Its last byte is the page's.
            a.call(function)?;
            a.inc(qword_ptr(rbx))?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.out(u32::from(END), al)?;
            a.set_label(&mut function)?;
            a.inc(qword_ptr(rbx + 8))?;
            a.ret()
        };
        let mut rig = Rig::at(HIGH, &code);
        let counts = rig.run().unwrap();
        assert!(rig.vcpu.stats().fixed > 0);
        assert_eq!(counts.again, 0);
        for at in [DATA + 0x2000, DATA + 0x2008] {
            assert_eq!(rig.ram.read_word::<u64>(Gpa(at)), Ok(20));
        }
    }

    /// Not a difference that the check would see: only user code through the window uses it.
    #[test]
    fn translated_code_that_sets_the_fs_base_finds_the_way_from_it() {
        for base in [
            0,
            0x40_0000,
            0xffff_fff0,
            1 << 32,
            1 << 45,
            0x7f00_1234_5000,
            HIGH,
        ] {
            for wide in [true, false] {
                let mut rig = Rig::new(|a| {
                    a.mov(rax, base)?;
                    if wide {
                        a.wrfsbase(rax)
                    } else {
                        a.wrfsbase(eax)
                    }
                });
                rig.run().unwrap();
                let set = if wide { base } else { base & 0xffff_ffff };
                assert_eq!(rig.vcpu.area.fs_base, set);
                assert_eq!(rig.vcpu.area.fs_way, way(set), "{set:x}");
            }
        }
    }

    #[test]
    fn a_wrong_other_copy_of_a_group_is_caught() {
        let mut rig = Rig::new(grouped);
        // lea r11, [r11-12], which is only there, becomes one of 11.
        rig.sabotage(&[0x4d, 0x8d, 0x5b, 0xf4], &[0x4d, 0x8d, 0x5b, 0xf5]);
        rig.caught(&["it differs", "memory at"]);
    }

    #[test]
    fn a_wrong_register_is_caught() {
        let mut rig = Rig::new(summing);
        // dec ecx becomes dec edx.
        rig.sabotage(&[0xff, 0xc9], &[0xff, 0xca]);
        rig.caught(&["it differs", "dec ecx", "dec edx", "gpr"]);
    }

    #[test]
    fn a_wrong_store_is_caught() {
        let mut rig = Rig::new(summing);
        // mov [r11+8], eax, in a group, becomes one of ecx.
        rig.sabotage(&[0x41, 0x89, 0x43, 8], &[0x41, 0x89, 0x4b, 8]);
        rig.caught(&["it differs", "memory at 0x9008"]);
    }

    #[test]
    fn a_store_by_a_stale_tlb_entry_is_caught() {
        let mut rig = Rig::new(summing);
        rig.run().unwrap();
        rig.restart();
        // The page was elsewhere once.
        let place = rig.ram.base() as u64 + 0x5_0000;
        let slot = (DATA >> 12) as usize;
        let planted = TlbEntry {
            negated_page: DATA.wrapping_neg(),
            host: place,
        };
        // Flushes come with the new state; the entry after them.
        rig.vcpu.keep_up();
        rig.vcpu.area.tables[View::Kernel as usize].data.write[slot] = planted;
        rig.caught(&["it differs", "memory at 0x9000"]);
    }

    #[test]
    fn flags_that_a_later_block_reads_must_not_be_lost() {
        let code = |a: &mut CodeAssembler| {
            let (mut second, mut end) = (a.create_label(), a.create_label());
            a.cmp(eax, 7)?;
            a.lea(rdx, qword_ptr(rdx + 0))?;
            a.jmp(second)?;
            a.nop()?;
            a.set_label(&mut second)?;
            a.lea(rsi, qword_ptr(rsi + 1))?;
            a.jb(end)?;
            a.mov(ebx, 1)?;
            a.set_label(&mut end)?;
            a.nop()
        };
        let lea: &[u8] = &[0x48, 0x8d, 0x12];
        let mut rig = Rig::new(code);
        rig.run().unwrap();
        let mut rig = Rig::new(code);
        // lea rdx, [rdx] becomes test rdx, rdx: the registers stay right.
        rig.sabotage(lea, &[0x48, 0x85, 0xd2]);
        rig.caught(&["jb", "flags", "that an earlier block has lost"]);
    }

    #[test]
    fn a_stale_branch_table_is_caught() {
        let mut rig = Rig::new(summing);
        rig.run().unwrap();
        rig.restart();
        rig.vcpu.keep_up();
        // What was translated last, promised for the start.
        let wrong = rig.vcpu.host_of(rig.vcpu.blocks.next() - 1);
        let table = &mut rig.vcpu.area.tables[View::Kernel as usize].code.branch;
        table[branch_slot(CODE)] = BranchEntry::new(CODE, wrong);
        rig.caught(&["branch table"]);
    }

    #[test]
    fn a_store_to_code_and_a_fault_end_the_rehearsal_and_nothing_is_different() {
        let mut rig = Rig::new(|a| {
            // Over an instruction ahead in the same block, then a read of no page.
            a.mov(rbx, CODE + 0x800)?;
            a.mov(qword_ptr(rbx), rcx)?;
            a.mov(eax, 3)?;
            a.mov(rbx, DATA + 0xffc)?;
            a.mov(qword_ptr(rbx), rax)?;
            a.inc(eax)
        });
        let counts = rig.run().unwrap();
        assert_eq!(rig.ram.read_word::<u64>(Gpa(DATA + 0xffc)), Ok(3));
        assert!(counts.instructions >= 4, "{counts:?}");
    }
}
