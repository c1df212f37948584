//! Paging: the walk of the guest's page tables with its faults and accessed/dirty bits, and the
//! software TLB in front of it.
//!
//! Source: SDM volume 3, "Paging"; error code in "Page-Fault Exceptions".

use crate::exec::Exec;
use crate::state::{cr0, cr4, efer, rflags};
use crate::trap::{Done, Trap, vector};
use alloc::boxed::Box;
use mem::{Gpa, RamOffset, Word};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// With whose rights an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// The running program's: user if CPL is 3.
    Program,
    /// Implicit supervisor access: descriptor tables, TSS.
    System,
    /// An explicit supervisor access whatever the CPL: frames that a gate pushes.
    Supervisor,
    /// A user access whatever the CPL.
    User,
}

/// Entries per table.
const ENTRIES: usize = 1024;

/// One cached translation.
#[derive(Clone, Copy)]
struct Entry {
    /// Linear page number xor the context in the top 12 bits; `u64::MAX` in no context.
    tag: u64,
    /// Where the page is in RAM.
    at: u64,
    /// Bytes the paging entry maps.
    size: u64,
    /// In every address space.
    global: bool,
}

const EMPTY: Entry = Entry {
    tag: u64::MAX,
    at: 0,
    size: 0,
    global: false,
};

/// The software TLB: direct-mapped tables for reads, writes and fetches. An entry is only in the
/// table whose access it allows, with the accessed (and for writes dirty) bit already set; it is
/// tagged by a context (address space and privilege view), so that switching contexts costs a
/// register write and a flush costs a new context number.
pub struct Tlb {
    tables: [Box<[Entry; ENTRIES]>; 3],
    /// The current context, in the top 12 bits.
    context: u64,
    /// Number of the current address space; the context is four times that plus the view.
    space: u64,
    next_space: u64,
    /// Recently used PCIDs with their space numbers.
    pcids: [Option<(u16, u64)>; 8],
    evict: usize,
    large: bool,
    history: History,
}

/// A table of pages that may be written, to stand in for the TLB's own.
pub(crate) struct WriteTable(Box<[Entry; ENTRIES]>);

impl WriteTable {
    /// Drops the page of `linear`.
    pub(crate) fn forget(&mut self, linear: u64) {
        self.0[Tlb::slot(linear)] = EMPTY;
    }
}

impl Default for WriteTable {
    fn default() -> Self {
        WriteTable(Box::new([EMPTY; ENTRIES]))
    }
}

/// What has been dropped from the TLB so far, for an engine that keeps translations of its own:
/// it compares two of these.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct History {
    /// Identity of the current address space as the TLB keeps it: what is flushed whole gets a
    /// new one, what is entered again without a flush its old one.
    pub space: u64,
    /// Times everything was dropped, global pages included.
    pub globals: u64,
    /// Single pages dropped (INVLPG).
    pub pages: u64,
    /// The last of them.
    pub last_page: u64,
}

/// Space numbers that fit the tag beside two bits of view; the last is never used.
const SPACES: u64 = 1023;

impl Default for Tlb {
    fn default() -> Self {
        Tlb {
            tables: core::array::from_fn(|_| Box::new([EMPTY; ENTRIES])),
            context: 0,
            space: 0,
            next_space: 1,
            pcids: [None; 8],
            evict: 0,
            large: false,
            history: History::default(),
        }
    }
}

impl Tlb {
    #[inline(always)]
    fn tag(&self, linear: u64) -> u64 {
        (linear >> 12) ^ self.context
    }

    #[inline(always)]
    fn slot(linear: u64) -> usize {
        (linear >> 12) as usize % ENTRIES
    }

    /// The place in RAM of `linear`, if an access of `len` bytes hits and stays in the page.
    #[inline(always)]
    pub(crate) fn hit(&self, access: Access, linear: u64, len: u64) -> Option<RamOffset> {
        let entry = &self.tables[access as usize][Self::slot(linear)];
        let into = linear & 0xfff;
        (entry.tag == self.tag(linear) && into <= 0x1000 - len).then(|| RamOffset(entry.at + into))
    }

    fn install(&mut self, access: Access, linear: u64, at: RamOffset, from: &Translation) {
        let size = from.size;
        self.large |= size > 0x1000;
        let tag = self.tag(linear);
        self.tables[access as usize][Self::slot(linear)] = Entry {
            tag,
            at: at.0 & !0xfff,
            size,
            global: from.global,
        };
    }

    /// Puts another table of pages that may be written in the place of the current one.
    pub(crate) fn swap_writable(&mut self, other: &mut WriteTable) {
        core::mem::swap(&mut self.tables[Access::Write as usize], &mut other.0);
    }

    /// The current address space and view, to go back to by [`Self::go_back`].
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.space, self.context)
    }

    /// Goes back to an address space and view that have not been dropped since.
    pub(crate) fn go_back(&mut self, (space, context): (u64, u64)) {
        (self.space, self.context) = (space, context);
    }

    /// True if the page of `linear` is cached for an access and is in every address space.
    pub fn is_global(&self, access: Access, linear: u64) -> bool {
        self.cached(access, linear).is_some_and(|e| e.global)
    }

    /// Bytes mapped by the paging entry of `linear`, if it is cached for an access.
    pub fn size(&self, access: Access, linear: u64) -> Option<u64> {
        self.cached(access, linear).map(|e| e.size)
    }

    fn cached(&self, access: Access, linear: u64) -> Option<&Entry> {
        let entry = &self.tables[access as usize][Self::slot(linear)];
        (entry.tag == self.tag(linear)).then_some(entry)
    }

    /// Selects the view (0–3) within the current space.
    pub(crate) fn set_view(&mut self, view: u64) {
        self.context = (self.space % SPACES * 4 + view) << 52;
    }

    fn fresh_space(&mut self) -> u64 {
        // The numbers themselves never come again; the tags made of them do.
        if self.next_space.is_multiple_of(SPACES) {
            self.pcids = [None; 8];
            self.tables.iter_mut().for_each(|t| t.fill(EMPTY));
            self.large = false;
        }
        self.next_space += 1;
        self.next_space - 1
    }

    /// See [`History`].
    pub fn history(&self) -> History {
        History {
            space: self.space,
            ..self.history
        }
    }

    fn enter(&mut self, space: u64) {
        let view = self.context >> 52 & 3;
        self.space = space;
        self.set_view(view);
    }

    /// Drops everything, of every PCID.
    pub(crate) fn flush_all(&mut self) {
        self.history.globals += 1;
        self.pcids = [None; 8];
        let space = self.fresh_space();
        self.enter(space);
    }

    /// MOV to CR3: enters the space of `pcid`, dropping its translations unless `keep`.
    pub(crate) fn load_cr3(&mut self, pcid: u16, keep: bool) {
        let known = self
            .pcids
            .iter()
            .position(|p| p.is_some_and(|(id, _)| id == pcid));
        let slot = known.unwrap_or_else(|| {
            self.evict = (self.evict + 1) % 8;
            self.evict
        });
        let space = match (known, self.pcids[slot]) {
            (Some(_), Some((_, space))) if keep => space,
            _ => self.fresh_space(),
        };
        self.pcids[slot] = Some((pcid, space));
        self.enter(space);
    }

    /// INVPCID of a whole PCID that may not be the current one.
    pub(crate) fn flush_pcid(&mut self, pcid: u16, current: u16) {
        if pcid == current {
            self.load_cr3(pcid, false);
        } else if let Some(slot) = self
            .pcids
            .iter_mut()
            .find(|p| p.is_some_and(|p| p.0 == pcid))
        {
            *slot = None;
        }
    }

    /// INVLPG: drops the page of `linear` in every context.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        self.history.pages += 1;
        self.history.last_page = linear;
        let slot = Self::slot(linear);
        for table in &mut self.tables {
            table[slot] = EMPTY;
            if self.large {
                for entry in table.iter_mut().filter(|e| e.size > 0x1000) {
                    // Shifting the tag back drops the context.
                    if ((entry.tag << 12) ^ linear) & !(entry.size - 1) == 0 {
                        *entry = EMPTY;
                    }
                }
            }
        }
    }
}

/// Page-fault error code bits.
mod code {
    pub const PRESENT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const USER: u16 = 4;
    pub const RESERVED: u16 = 8;
    pub const FETCH: u16 = 16;
}

/// Paging-structure entry bits.
mod pte {
    pub const P: u64 = 1;
    pub const RW: u64 = 2;
    pub const US: u64 = 4;
    pub const A: u64 = 0x20;
    pub const D: u64 = 0x40;
    pub const PS: u64 = 0x80;
    pub const G: u64 = 0x100;
    pub const NX: u64 = 1 << 63;
}

/// The result of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Where the access goes.
    pub gpa: Gpa,
    /// Bytes mapped by the entry: 4 KiB, 2 MiB, 4 MiB or 1 GiB (4 KiB without paging).
    pub size: u64,
    /// Every address space has it (G, with CR4.PGE); true without paging.
    pub global: bool,
}

/// How one level of a paging structure is read.
#[derive(Clone, Copy)]
struct Level {
    shift: u32,
    index_bits: u32,
    /// Entries of this level may map a page (with PS, or always at the last level).
    large: bool,
}

const fn level(shift: u32, index_bits: u32, large: bool) -> Level {
    Level {
        shift,
        index_bits,
        large,
    }
}

const FOUR_LEVEL: &[Level] = &[
    level(39, 9, false),
    level(30, 9, true),
    level(21, 9, true),
    level(12, 9, true),
];
const PAE: &[Level] = &[level(21, 9, true), level(12, 9, true)];
const TWO_LEVEL: &[Level] = &[level(22, 10, true), level(12, 10, true)];

/// True if `linear` is canonical with 48 address bits.
#[inline(always)]
pub fn is_canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

impl Exec<'_> {
    /// Walks the page tables for one access, sets accessed and dirty bits, raises #PF with CR2.
    pub fn translate(&mut self, linear: u64, access: Access, rights: Rights) -> Done<Translation> {
        let user = match rights {
            Rights::Program => self.s.cpl == 3,
            Rights::User => true,
            Rights::System | Rights::Supervisor => false,
        };
        match self.walk(linear, access, user, rights, true) {
            Ok(found) => Ok(found),
            Err(fault) => {
                self.s.cr2 = linear;
                let mut bits = fault;
                if access == Access::Write {
                    bits |= code::WRITE;
                }
                if user {
                    bits |= code::USER;
                }
                let nx = self.s.efer & efer::NXE != 0 && self.s.cr4 & cr4::PAE != 0;
                if access == Access::Execute && (nx || self.s.cr4 & cr4::SMEP != 0) {
                    bits |= code::FETCH;
                }
                Err(Trap::with_code(vector::PF, bits))
            }
        }
    }

    /// What a supervisor's access would find, without a trace of it: nothing if it would fault or
    /// set an accessed or dirty bit, or if a paging entry is not in RAM.
    pub fn probe(&mut self, linear: u64, access: Access) -> Option<Translation> {
        self.walk(linear, access, false, Rights::Supervisor, false)
            .ok()
    }

    /// The same of an access in ring 3.
    pub fn probe_user(&mut self, linear: u64, access: Access) -> Option<Translation> {
        self.walk(linear, access, true, Rights::User, false).ok()
    }

    /// `marks`: accessed and dirty bits are set where they are not yet. Without, that is a fault.
    fn walk(
        &mut self,
        linear: u64,
        access: Access,
        user: bool,
        rights: Rights,
        marks: bool,
    ) -> Result<Translation, u16> {
        if self.s.cr0 & cr0::PG == 0 {
            // Without paging A20 is the only thing between linear and physical; it is always on.
            return Ok(Translation {
                gpa: Gpa(linear & 0xffff_ffff),
                size: 0x1000,
                global: true,
            });
        }
        self.counters.page_walks += 1;
        let long = self.s.efer & efer::LMA != 0;
        let pae = self.s.cr4 & cr4::PAE != 0;
        let nxe = self.s.efer & efer::NXE != 0;
        let wide = long || pae;
        let beyond = !0u64 << self.model.physical_bits & 0x000f_ffff_ffff_f000;
        let (levels, mut table) = if long {
            (FOUR_LEVEL, self.s.cr3 & 0x000f_ffff_ffff_f000)
        } else if pae {
            let entry = self.s.pdpte[(linear >> 30 & 3) as usize];
            if entry & pte::P == 0 {
                return Err(0);
            }
            (PAE, entry & 0x000f_ffff_ffff_f000)
        } else {
            (TWO_LEVEL, self.s.cr3 & 0xffff_f000)
        };
        let (mut writable, mut for_user, mut executable) = (true, true, true);
        for (depth, level) in levels.iter().enumerate() {
            let index = linear >> level.shift & ((1 << level.index_bits) - 1);
            let at = Gpa(table + index * if wide { 8 } else { 4 });
            if !marks && self.ram.lookup(at).is_none() {
                return Err(0);
            }
            let entry = self.read_entry(at, wide);
            if entry & pte::P == 0 {
                return Err(0);
            }
            let last = depth + 1 == levels.len();
            let pse = wide || self.s.cr4 & cr4::PSE != 0;
            let leaf = last || level.large && pse && entry & pte::PS != 0;
            if wide {
                let mut reserved = beyond;
                if level.shift == 30 && !self.model.feature(crate::cpuid::Feature::Page1gb) {
                    reserved |= pte::PS;
                }
                if !nxe {
                    reserved |= pte::NX;
                }
                if !long {
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if leaf && !last {
                    // Bits between PAT (12) and the page frame.
                    reserved |= (1 << level.shift) - (1 << 13);
                }
                if !level.large {
                    reserved |= pte::PS;
                }
                if entry & reserved != 0 {
                    return Err(code::RESERVED | code::PRESENT);
                }
            } else if leaf && !last && entry & 1 << 21 != 0 {
                // PSE-36: bits 13–20 are physical bits 32–39, bit 21 is reserved.
                return Err(code::RESERVED | code::PRESENT);
            }
            writable &= entry & pte::RW != 0;
            for_user &= entry & pte::US != 0;
            executable &= !(wide && entry & pte::NX != 0);
            if !leaf {
                if entry & pte::A == 0 {
                    if !marks {
                        return Err(0);
                    }
                    self.set_entry_bits(at, entry, pte::A, wide);
                }
                table = entry
                    & if wide {
                        0x000f_ffff_ffff_f000
                    } else {
                        0xffff_f000
                    };
                continue;
            }
            self.permit(access, user, rights, writable, for_user, executable)?;
            let mut set = pte::A;
            if access == Access::Write {
                set |= pte::D;
            }
            if entry & set != set {
                if !marks {
                    return Err(0);
                }
                self.set_entry_bits(at, entry, set, wide);
            }
            let size = 1u64 << level.shift;
            let frame = if wide {
                entry & 0x000f_ffff_ffff_f000 & !(size - 1)
            } else if last {
                entry & 0xffff_f000
            } else {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            };
            return Ok(Translation {
                gpa: Gpa(frame | linear & (size - 1)),
                size,
                global: entry & pte::G != 0 && self.s.cr4 & cr4::PGE != 0,
            });
        }
        Err(0)
    }

    fn permit(
        &self,
        access: Access,
        user: bool,
        rights: Rights,
        writable: bool,
        for_user: bool,
        executable: bool,
    ) -> Result<(), u16> {
        let smap = self.s.cr4 & cr4::SMAP != 0
            && (rights == Rights::System || self.s.rflags & rflags::AC == 0);
        let allowed = match access {
            Access::Execute => {
                executable
                    && if user {
                        for_user
                    } else {
                        !(for_user && self.s.cr4 & cr4::SMEP != 0)
                    }
            }
            Access::Read if user => for_user,
            Access::Read => !(for_user && smap),
            Access::Write if user => for_user && writable,
            Access::Write => (writable || self.s.cr0 & cr0::WP == 0) && !(for_user && smap),
        };
        if allowed { Ok(()) } else { Err(code::PRESENT) }
    }

    fn read_entry(&mut self, at: Gpa, wide: bool) -> u64 {
        match self.ram.lookup(at) {
            Some(page) if wide => self.ram.load::<u64>(page.at),
            Some(page) => self.ram.load::<u32>(page.at).into(),
            None => self.bus.mmio_read(at, if wide { 8 } else { 4 }),
        }
    }

    /// Sets bits in a paging entry, unless another processor changed the entry meanwhile: then
    /// nothing is set, and the access (which is allowed to use the old entry) goes on.
    fn set_entry_bits(&mut self, at: Gpa, old: u64, set: u64, wide: bool) {
        let Some(page) = self.ram.lookup(at).filter(|p| p.writable) else {
            return;
        };
        let mut old = old;
        loop {
            let seen = if wide {
                self.ram
                    .compare_exchange::<u64>(page.at, old, old | set)
                    .err()
            } else {
                let (from, to) = (old as u32, (old | set) as u32);
                self.ram
                    .compare_exchange::<u32>(page.at, from, to)
                    .err()
                    .map(u64::from)
            };
            match seen {
                // Another processor set A or D: try again. Anything else: its business.
                Some(now) if (now ^ old) & !(pte::A | pte::D) == 0 => old = now,
                _ => return,
            }
        }
    }

    /// Translates with the running program's or the system's rights, and caches the page if it
    /// is RAM that nothing watches.
    pub fn locate(&mut self, linear: u64, access: Access, rights: Rights) -> Done<Place> {
        let found = self.translate(linear, access, rights)?;
        let page = self.ram.lookup(found.gpa);
        if self.journal.is_some() {
            self.rehearse_access(linear, access, page)?;
        }
        match page {
            Some(page) if page.writable || access != Access::Write => {
                if rights == Rights::Program && !self.is_watched_page(linear) {
                    self.cpu.tlb.install(access, linear, page.at, &found);
                }
                Ok(Place::Ram(page.at))
            }
            Some(_) => Ok(Place::Rom),
            None => Ok(Place::Device(found.gpa)),
        }
    }
}

/// Where a translated byte is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// RAM (or ROM, when reading).
    Ram(RamOffset),
    /// ROM, when writing: the store is dropped.
    Rom,
    /// Whatever the bus has there.
    Device(Gpa),
}

impl Place {
    /// The same place `n` bytes on, inside the page.
    pub(crate) fn plus(self, n: u64) -> Place {
        match self {
            Place::Ram(at) => Place::Ram(RamOffset(at.0 + n)),
            Place::Device(at) => Place::Device(Gpa(at.0 + n)),
            Place::Rom => Place::Rom,
        }
    }
}

impl Exec<'_> {
    /// Reads at a place, inside one page.
    pub(crate) fn read_place<T: Word>(&mut self, place: Place) -> T {
        match place {
            Place::Ram(at) => self.ram.load(at),
            Place::Device(at) => {
                self.counters.mmio += 1;
                T::from_u64(self.bus.mmio_read(at, T::SIZE as u8))
            }
            Place::Rom => T::default(),
        }
    }

    /// Writes at a place, inside one page.
    pub(crate) fn write_place<T: Word>(&mut self, place: Place, value: T) {
        match place {
            Place::Ram(at) => {
                if self.ram.store(at, value) {
                    self.code_changed();
                }
            }
            Place::Device(at) => {
                self.counters.mmio += 1;
                self.bus.mmio_write(at, T::SIZE as u8, value.to_u64());
            }
            Place::Rom => {}
        }
    }
}
