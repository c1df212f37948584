//! The engine's state of one processor as translated code sees it: a block of memory behind the
//! `gs` segment, with the homes of the two stolen registers, the software TLB and the cache of
//! indirect branch targets.

use crate::marks::{Flags, Marks};
use crate::vcpu::Program;
use core::mem::offset_of;
use x86::mmu::Access;

/// Entries of each software TLB table.
pub const TLB_ENTRIES: usize = 2048;
/// Binary logarithm of [`TLB_ENTRIES`].
pub const TLB_BITS: u32 = TLB_ENTRIES.ilog2();

/// Where a page's entry is looked for first.
pub fn tlb_slot(linear: u64) -> usize {
    (linear >> 12) as usize % TLB_ENTRIES
}

/// Where it is looked for next: elsewhere for pages that share the first place, so that two of
/// them do not push each other out all the time. An even number of places away: in the first place
/// of the page below, an access across the border would find the upper page, and a check that only
/// asks for the last byte would take that for the whole access's.
pub fn other_tlb_slot(linear: u64) -> usize {
    tlb_slot(linear) ^ (((linear >> (11 + TLB_BITS)) as usize % TLB_ENTRIES) & !1 | 2)
}
/// Entries for the stack alone, of each kind of access: a function whose frame lies across a page's
/// end shares none with most of its callers.
pub const STACK_SLOTS: usize = 4;
/// Entries of each indirect-branch table.
pub const BRANCH_ENTRIES: usize = 4096;
/// Entries of each table of code pages.
pub const CODE_PAGE_ENTRIES: usize = 1024;

/// The bits of a RIP below this do not choose its entry: targets of calls and jumps are mostly
/// aligned, and return addresses lie far enough apart.
pub const BRANCH_SHIFT: u32 = 3;

/// The entry of a RIP.
pub fn branch_slot(rip: u64) -> usize {
    (rip >> BRANCH_SHIFT) as usize % BRANCH_ENTRIES
}

/// Pages in the shared tables that an address space has for itself, remembered one by one.
const LOCAL_PAGES: usize = 32;

/// What a linear address that must not be used has on top: no page of 32-bit code is there.
pub const BARRED: u64 = 1 << 40;

/// A TLB entry: the page's linear address negated, so that adding it to an address leaves the
/// offset in the page, and where the page lies in this process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlbEntry {
    /// `-(linear page address)`.
    pub negated_page: u64,
    /// Host address of the page.
    pub host: u64,
}

/// An entry of the indirect-branch cache: the target RIP negated and its translation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BranchEntry {
    /// `-(guest RIP)`.
    pub negated_rip: u64,
    /// Host address of its block.
    pub host: u64,
    /// The RIP's page.
    pub page: u64,
}

impl BranchEntry {
    /// The way from a RIP to a block.
    pub fn new(rip: u64, host: u64) -> BranchEntry {
        BranchEntry {
            negated_rip: rip.wrapping_neg(),
            host,
            page: rip & !0xfff,
        }
    }
}

/// An entry of the table of code pages: what of a block's key ([`crate::targets`]) the page and
/// the mode make up.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CodePage {
    /// `-(linear page address)`.
    pub negated_page: u64,
    /// The key of the page's first byte.
    pub key: u64,
}

/// Slots of a view for calls that may return.
pub const CALLS: usize = 512;

/// What [`Tables::guards`] holds where no page is known: no number is a multiple of pages.
const NO_GUARD: u64 = 0;

/// The rights with which data is accessed and the size of code, each with its own tables: they
/// are part of a block's mode, so the displacement is a constant of its code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// CPL 0–2 without access to user pages where SMAP forbids it.
    Kernel = 0,
    /// CPL 0–2 with EFLAGS.AC, where SMAP is on.
    KernelUser = 1,
    /// CPL 3.
    User = 2,
    /// As [`View::Kernel`], 32-bit code.
    Kernel32 = 3,
    /// As [`View::KernelUser`], 32-bit code.
    KernelUser32 = 4,
    /// As [`View::User`], 32-bit code.
    User32 = 5,
    /// As [`View::User`], and accesses go through the window ([`crate::window`]): code of its own,
    /// with the software TLB of [`View::User`] for what does not.
    Window = 6,
}

/// How many views there are.
pub const VIEWS: usize = 7;

impl View {
    /// All of them, by their numbers.
    pub const ALL: [View; VIEWS] = [
        View::Kernel,
        View::KernelUser,
        View::User,
        View::Kernel32,
        View::KernelUser32,
        View::User32,
        View::Window,
    ];
    /// CPL 3.
    pub fn is_user(self) -> bool {
        matches!(self, View::User | View::User32 | View::Window)
    }
    /// The view whose software TLB this one uses.
    pub const fn data(self) -> View {
        match self {
            View::Window => View::User,
            other => other,
        }
    }
    /// 32-bit code: addresses and RIP wrap at 4 GiB.
    pub fn is_32bit(self) -> bool {
        matches!(self, View::Kernel32 | View::KernelUser32 | View::User32)
    }
    /// Size of the view's code, 32 or 64.
    pub fn bits(self) -> u32 {
        if self.is_32bit() { 32 } else { 64 }
    }
    /// The supervisor's view of the same code size, with EFLAGS.AC as given.
    pub fn with_access(self, allowed: bool) -> View {
        match (self.is_32bit(), allowed) {
            (false, false) => View::Kernel,
            (false, true) => View::KernelUser,
            (true, false) => View::Kernel32,
            (true, true) => View::KernelUser32,
        }
    }
    /// True if the view's data tables are the same memory in all areas of a processor: they are
    /// the kernel's, whose global pages are in every address space.
    pub fn shares_data(self) -> bool {
        matches!(self, View::Kernel | View::Kernel32)
    }
    /// The bits of a stack pointer that choose a call's slot. A kernel's code pushes single words,
    /// and its stacks are small and many: Linux has one of 16 KiB in every 32 for each task.
    pub const fn call_mask(self) -> u64 {
        match self {
            View::User | View::User32 | View::Window => 0x1ff0,
            _ => 0x87f8,
        }
    }
    /// True if its branch tables are.
    pub fn shares_code(self) -> bool {
        !self.is_user()
    }
    /// True if `linear` is in the half of the address space that kernels take for themselves.
    fn is_upper(self, linear: u64) -> bool {
        let top = if self.is_32bit() { 31 } else { 63 };
        linear >> top & 1 != 0
    }
}

/// One view's tables.
#[repr(C)]
pub struct Tables {
    /// For its data.
    pub data: DataTables,
    /// For its code.
    pub code: CodeTables,
}

/// The software TLBs of a view. In pages of their own, as [`CodeTables`] are: some are the same
/// memory in all areas of a processor ([`crate::areas`]).
#[repr(C, align(4096))]
pub struct DataTables {
    /// Pages that may be read.
    pub read: [TlbEntry; TLB_ENTRIES],
    /// Pages that may be written and hold no code.
    pub write: [TlbEntry; TLB_ENTRIES],
    /// The pages of the stack that were used last, to be read and to be written: checks of accesses
    /// off RSP each look at one of them alone. What is here is in the tables, too, or was.
    stack: [[TlbEntry; STACK_SLOTS]; 2],
    /// What of each may hold something, now or after a move to a page's other place.
    marks: [Marks<{ TLB_ENTRIES / 64 }>; 2],
}

/// Where a view's branches lead.
#[repr(C, align(4096))]
pub struct CodeTables {
    /// Indirect branch targets.
    pub branch: [BranchEntry; BRANCH_ENTRIES],
    /// Pages whose code may be executed: where a branch goes that its table does not know.
    pub pages: [CodePage; CODE_PAGE_ENTRIES],
    /// The same in one word, for the guard of a link to another page: the number of the key
    /// ([`crate::targets::Targets::number`]) less the linear page address. Both are told apart by
    /// the bits below the 22 that choose the entry, so no other pair has the same difference.
    pub guards: [u64; CODE_PAGE_ENTRIES],
    /// Return addresses of calls, inverted, each in the slot of the stack pointer before the call
    /// ([`View::call_mask`]).
    pub returns: [u64; CALLS],
    /// What may hold something; of branches by [`BRANCH_GROUP`] entries.
    page_marks: Marks<{ CODE_PAGE_ENTRIES / 64 }>,
    branch_marks: Flags<{ BRANCH_ENTRIES / BRANCH_GROUP / 8 }>,
    /// Where each of `returns` is in the code cache: code that expects the RIP in R11 and RCX in
    /// [`Area::spill`]. In slots that hold no call [`Area::no_stub`], whatever `returns` has there.
    /// Not a multiple of 4096 bytes from `returns`, which the host would take for the same address
    /// at first.
    pub stubs: [u64; CALLS],
}

const _: () = {
    let (returns, stubs) = (
        offset_of!(CodeTables, returns),
        offset_of!(CodeTables, stubs),
    );
    assert!(!(stubs - returns).is_multiple_of(4096));
    let masks = [View::User.call_mask(), View::Kernel.call_mask()];
    assert!(1 << masks[0].count_ones() <= CALLS && 1 << masks[1].count_ones() <= CALLS);
};

/// Entries of a branch table that are marked together.
pub const BRANCH_GROUP: usize = 8;

/// See [`Area::fault`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Fault {
    /// Of translated code.
    pub r10: u64,
    /// See `r10`.
    pub r11: u64,
    /// Host address of the access; zero if the host does not know it.
    pub address: u64,
    /// As the processor pushed it.
    pub code: u64,
    /// Host address of the instruction.
    pub at: u64,
}

/// See the module. Made by [`crate::areas`].
#[repr(C)]
pub struct Area {
    /// Guest general registers; valid outside translated code, and R10 and R11 always.
    pub gpr: [u64; 16],
    /// RFLAGS as the guest has them in the host's register (arithmetic bits and DF).
    pub flags: u64,
    /// Guest RIP on leaving.
    pub rip: u64,
    /// Linear address of the page that translated code is in: what it says of itself (RIP-relative
    /// operands, return addresses, branch targets) is relative to this. Fixed code knows by itself,
    /// and leaves anything here.
    pub page: u64,
    /// Why translated code was left; see [`crate::vcpu`].
    pub reason: u64,
    /// What goes with the reason: a linear address, a host address.
    pub detail: u64,
    /// The site in the code, an index of [`crate::block::Site`]s.
    pub site: u64,
    /// A value on its way from one memory operand to another.
    pub value: u64,
    /// Displacement of the stack's entry that a check has found to be another page's.
    pub slot: u64,
    /// Where accesses that are checked together are in this process, while R11 is needed.
    pub group: u64,
    /// Home of a third register while a check needs it.
    pub spill: u64,
    /// RAX, or another register, while a shared routine needs it.
    pub saved: u64,
    /// Address of the packed sites ([`crate::block::Site`]).
    pub sites: u64,
    /// Host address of the code cache.
    pub cache: u64,
    /// Address of the table of all blocks ([`crate::targets`]).
    pub targets: u64,
    /// Factor of that table's hash.
    pub hash: u64,
    /// Address of the processor's input pins ([`x86::Signals`]).
    pub pins: u64,
    /// Address of their bell.
    pub bell: u64,
    /// The pins that end translated code at the next poll.
    pub pin_mask: u64,
    /// That mask with interrupts disabled and enabled.
    pub pins_off: u64,
    /// See `pins_off`.
    pub pins_on: u64,
    /// RFLAGS without the bits that live in the host's register: IF, IOPL, NT, AC, ID, bit 1.
    pub high: u64,
    /// `high` with IF clear and set.
    pub high_off: u64,
    /// See `high_off`.
    pub high_on: u64,
    /// The bits of RFLAGS that live in the host's register, for PEXT and PDEP.
    pub host_flags: u64,
    /// The privilege level, 0 or 3, as SYSCALL, SYSRET and IRET change it; the segments follow
    /// when translated code is left.
    pub ring: u64,
    /// Not zero: SYSCALL and SYSRET are the interpreter's.
    pub syscall_bad: u64,
    /// Not zero: IRET is the interpreter's.
    pub iret_bad: u64,
    /// Target of SYSCALL.
    pub lstar: u64,
    /// Selectors of STAR, for both rings.
    pub kernel_cs: u64,
    /// See `kernel_cs`.
    pub kernel_ss: u64,
    /// See `kernel_cs`.
    pub user_cs: u64,
    /// See `kernel_cs`.
    pub user_ss: u64,
    /// Selectors in CS and SS while in ring 0.
    pub cs: u64,
    /// See `cs`.
    pub ss: u64,
    /// Selectors in DS and ES.
    pub ds: u64,
    /// See `ds`.
    pub es: u64,
    /// See `ds`.
    pub fs: u64,
    /// See `ds`.
    pub gs: u64,
    /// The host's TSC when the guest's was zero.
    pub tsc_base: u64,
    /// What the host's TSC is multiplied by, as a fraction of 2⁶⁴.
    pub tsc_factor: u64,
    /// What is added then: IA32_TSC_ADJUST.
    pub tsc_add: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// The guest's XCR0.
    pub xcr0: u64,
    /// Address of an image ([`crate::entry::Image`]) in which x87's pointers are cleared.
    pub image: u64,
    /// Bytes of an XSAVE image less one.
    pub image_last: u64,
    /// The flags as LAHF and SETO left them in AX, while an XSAVE or XRSTOR is done.
    pub lahf: u64,
    /// CR0, for reading.
    pub cr0: u64,
    /// CR2, for reading.
    pub cr2: u64,
    /// CR3, for reading.
    pub cr3: u64,
    /// CR4, for reading.
    pub cr4: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// The host's stack pointer.
    pub host_rsp: u64,
    /// Where to jump on entering.
    pub target: u64,
    /// Not zero: user code of this address space goes through the window.
    pub window: u64,
    /// What FS adds to an address while translated code runs: the way into the window, or, when the
    /// processor has it no more, nowhere; zero before.
    pub fs_adds: u64,
    /// That negated: added to an address of this process it makes one that FS leads back from.
    pub from_window: u64,
    /// The bit of an address that the window is for, for PEXT.
    pub window_bit: u64,
    /// The host's FS base.
    pub host_fs: u64,
    /// R10 and R11 at a host fault, its address and its error code (bit 1: a write), and where to go
    /// on: for code that goes through the window.
    pub fault: Fault,
    /// FS base of the guest.
    pub fs_base: u64,
    /// The same for accesses through the window: what FS leads to it from ([`crate::translate::way`]).
    pub fs_way: u64,
    /// GS base of the guest.
    pub gs_base: u64,
    /// Added to an address by way of FS in 32-bit code: zero, or [`BARRED`] where the segment does
    /// not reach all of the address space for reading and writing, so that the access misses.
    pub fs_bar: u64,
    /// The same for GS.
    pub gs_bar: u64,
    /// Bits of a TLB index in a linear address, for PEXT.
    pub tlb_mask: u64,
    /// Bits of a branch index in a RIP, for PEXT.
    pub branch_mask: u64,
    /// Bits of an index in the table of code pages in a linear address, for PEXT.
    pub code_mask: u64,
    /// Counts passes of branches between pages that are not linked.
    pub passes: u64,
    /// The bits of `passes` that are zero when such a branch asks to be linked, for PEXT.
    pub pass_mask: u64,
    /// All bits above the page offset, for PEXT.
    pub page_mask: u64,
    /// The bits of a bit offset inside a 64-bit word, for PEXT.
    pub bit_mask: u64,
    /// [`View::call_mask`] of each view.
    pub call_masks: [u64; VIEWS],
    /// What [`CodeTables::stubs`] holds in slots without a call: the way by the branch table.
    pub no_stub: [u64; VIEWS],
    /// MXCSR: the guest's and the host's.
    pub mxcsr: [u32; 2],
    /// The address space these tables are for ([`x86::mmu::History`]).
    pub space: u64,
    /// Single-page flushes these tables have seen.
    pub pages_seen: u64,
    /// The program of that address space.
    pub program: Program,
    /// The part of the mode that all views share, when the branch tables were filled.
    pub control: u64,
    /// The privilege level plus one for which each view's branch table was filled; 0: none.
    pub levels: [u64; VIEWS],
    /// Pages in the shared data tables that are this address space's own.
    local: [u64; LOCAL_PAGES],
    /// How many of `local` are used; more than there are places: too many.
    locals: usize,
    /// The shared branch tables lead to code that is this address space's own.
    local_code: bool,
    /// Views whose data tables are good for use, one bit each.
    data_ready: u32,
    /// Views whose branch tables are.
    code_ready: u32,
    /// Views whose data tables hold something.
    data_used: u32,
    /// Views whose branch tables do.
    branches_used: u32,
    /// Views in which calls may be remembered.
    calls_used: u32,
    /// Guest YMM0–YMM15, valid outside translated code.
    pub vector: [[u64; 4]; 16],
    /// One set of tables per view.
    pub tables: [Tables; VIEWS],
}

impl Area {
    /// Displacement of a view's tables.
    const fn tables(view: View) -> usize {
        offset_of!(Area, tables) + view as usize * size_of::<Tables>()
    }
    /// Displacement of the read table of a view.
    pub const fn read_table(view: View) -> i32 {
        (Self::tables(view.data()) + offset_of!(Tables, data.read)) as i32
    }
    /// The one of the two below for an access.
    pub const fn table(view: View, access: Access) -> i32 {
        match access {
            Access::Write => Self::write_table(view),
            _ => Self::read_table(view),
        }
    }
    /// Displacement of the write table of a view.
    pub const fn write_table(view: View) -> i32 {
        (Self::tables(view.data()) + offset_of!(Tables, data.write)) as i32
    }
    /// Displacement of one of the entries for the stack of a view.
    pub const fn stack_slot(view: View, access: Access, slot: usize) -> i32 {
        let write = matches!(access, Access::Write) as usize;
        let slots = Self::tables(view.data()) + offset_of!(Tables, data.stack);
        (slots + (write * STACK_SLOTS + slot) * size_of::<TlbEntry>()) as i32
    }
    /// Displacement of the branch table of a view.
    pub const fn branch_table(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.branch)) as i32
    }
    /// Displacement of the marks of a view's branch table, a byte for [`BRANCH_GROUP`] entries.
    pub const fn branch_marks(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.branch_marks)) as i32
    }
    /// Displacement of the table of code pages of a view.
    pub const fn code_table(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.pages)) as i32
    }
    /// Displacement of the bits of a stack pointer that choose a call's slot in a view.
    pub const fn call_mask(view: View) -> i32 {
        (offset_of!(Area, call_masks) + 8 * view as usize) as i32
    }
    /// Displacement of the return addresses of a view.
    pub const fn returns(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.returns)) as i32
    }
    /// Displacement of where they are in the code cache.
    pub const fn stubs(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.stubs)) as i32
    }
    /// Displacement of the guards of a view.
    pub const fn guard_table(view: View) -> i32 {
        (Self::tables(view) + offset_of!(Tables, code.guards)) as i32
    }
    /// Displacement of a general register's home.
    pub const fn home(n: u8) -> i32 {
        (offset_of!(Area, gpr) + 8 * n as usize) as i32
    }

    /// Empties all tables.
    pub fn flush(&mut self) {
        self.flush_where(|_| true, |_| true);
    }

    /// Empties those that are not the same in all areas of a processor.
    pub fn flush_own(&mut self) {
        self.flush_where(|view| !view.shares_data(), |view| !view.shares_code());
    }

    /// Empties those that are.
    pub fn flush_shared(&mut self) {
        self.flush_where(View::shares_data, View::shares_code);
    }

    /// Empties the branch tables.
    pub fn flush_branches(&mut self) {
        self.flush_where(|_| false, |_| true);
    }

    fn flush_where(&mut self, data: fn(View) -> bool, code: fn(View) -> bool) {
        for view in View::ALL {
            let (tables, bit) = (&mut self.tables[view as usize], 1 << view as u32);
            if data(view) && self.data_used & bit != 0 {
                tables.data.flush();
                self.data_used &= !bit;
            }
            if code(view) {
                if self.branches_used & bit != 0 {
                    tables.code.flush();
                    self.branches_used &= !bit;
                }
                self.forget_calls(view);
            }
        }
    }

    /// Forgets the calls: every return finds its block by the branch table.
    pub fn flush_calls(&mut self) {
        for view in View::ALL {
            self.forget_calls(view);
        }
    }

    fn forget_calls(&mut self, view: View) {
        let (n, bit) = (view as usize, 1 << view as u32);
        if self.calls_used & bit != 0 {
            self.tables[n].code.stubs.fill(self.no_stub[n]);
            self.calls_used &= !bit;
        }
    }

    /// Notes that code of a view is about to run: it may call, and so may what it reaches by a
    /// branch table.
    pub fn note_calls(&mut self, view: View) {
        self.calls_used |= self.branches_used | 1 << view as u32;
    }

    /// Empties the tables of pages that may be written.
    pub fn flush_writes(&mut self) {
        for (n, tables) in self.tables.iter_mut().enumerate() {
            if self.data_used & 1 << n != 0 {
                tables.data.flush_writes();
            }
        }
    }

    /// Notes that a view's data tables hold something of a page; `global`: it is in every address
    /// space.
    pub fn note_data(&mut self, view: View, linear: u64, global: bool) {
        self.data_used |= 1 << view as u32;
        let page = linear >> 12;
        let known = &self.local[..self.locals.min(LOCAL_PAGES)];
        if view.shares_data() && !(global && view.is_upper(linear)) && !known.contains(&page) {
            if let Some(place) = self.local.get_mut(self.locals) {
                *place = page;
            }
            self.locals += 1;
        }
    }

    /// The same of its branch tables.
    pub fn note_code(&mut self, view: View, linear: u64, global: bool) {
        self.branches_used |= 1 << view as u32;
        self.local_code |= view.shares_code() && !(global && view.is_upper(linear));
    }

    /// Takes what another address space must not find out of the shared tables.
    pub fn drop_local(&mut self) {
        if self.locals > LOCAL_PAGES {
            self.flush_where(View::shares_data, |_| false);
        } else {
            for page in &self.local[..self.locals] {
                for view in View::ALL.into_iter().filter(|view| view.shares_data()) {
                    self.tables[view as usize].data.drop_page(page << 12);
                }
            }
        }
        self.locals = 0;
        if std::mem::take(&mut self.local_code) {
            self.flush_where(|_| false, View::shares_code);
        }
    }

    /// Takes over from the area used until now what belongs to the processor, and what there is to
    /// know of the shared tables.
    pub fn follow(&mut self, last: &mut Area) {
        if self.control != last.control {
            self.flush_where(|_| false, |view| !view.shares_code());
            self.levels = [0; VIEWS];
            self.control = last.control;
        }
        for view in View::ALL {
            let (n, bit) = (view as usize, 1 << view as u32);
            let take = |to: &mut u32, from: u32| *to = *to & !bit | from & bit;
            if view.shares_data() {
                take(&mut self.data_used, last.data_used);
                take(&mut self.data_ready, last.data_ready);
            }
            if view.shares_code() {
                take(&mut self.branches_used, last.branches_used);
                take(&mut self.code_ready, last.code_ready);
                take(&mut self.calls_used, last.calls_used);
                // They are this area's to forget now.
                last.calls_used &= !bit;
                self.levels[n] = last.levels[n];
            }
        }
        (self.pins, self.bell) = (last.pins, last.bell);
        self.pass_mask = last.pass_mask;
        (self.tsc_base, self.tsc_factor) = (last.tsc_base, last.tsc_factor);
        self.vector = last.vector;
        self.mxcsr = last.mxcsr;
    }

    /// Sets what does not change in an area of zeroes, for a processor with its pins, their bell and
    /// its table of blocks at these addresses. `no_stub`: where a return goes, in each view, whose slot looks
    /// as if it held its call and holds none.
    pub fn begin(&mut self, pins: [u64; 2], targets: u64, no_stub: [u64; VIEWS]) {
        [self.pins, self.bell] = pins;
        self.targets = targets;
        self.hash = crate::targets::HASH;
        self.tlb_mask = (TLB_ENTRIES as u64 - 1) << 12;
        self.branch_mask = (BRANCH_ENTRIES as u64 - 1) << BRANCH_SHIFT;
        self.code_mask = (CODE_PAGE_ENTRIES as u64 - 1) << 12;
        self.page_mask = !0xfff;
        self.bit_mask = 63;
        self.window_bit = 1 << crate::window::BIT;
        self.from_window = crate::window::BASE.wrapping_neg();
        self.host_flags = crate::vcpu::HOST_FLAGS;
        self.call_masks = View::ALL.map(View::call_mask);
        self.no_stub = no_stub;
    }

    /// Makes the tables of the views of one code size good for use, which have been zeroes so far:
    /// to be called before code is looked for in one of them. In most address spaces that never
    /// happens for 32-bit code, and what nobody has touched costs no memory.
    pub fn prepare(&mut self, narrow: bool) {
        for view in View::ALL {
            let (n, bit) = (view as usize, 1 << view as u32);
            // The window's are prepared when the first address space gets it.
            if view.is_32bit() != narrow || view == View::Window && self.window == 0 {
                continue;
            }
            if self.data_ready & bit == 0 && view.data() == view {
                self.tables[n].data.fill();
            }
            if self.code_ready & bit == 0 {
                self.tables[n].code.fill(self.no_stub[n]);
            }
            self.data_ready |= bit;
            self.code_ready |= bit;
        }
    }
}

impl Area {
    /// The branch tables of the window's view become zeroes; true if they are not.
    pub fn forget_window(&mut self) -> bool {
        let bit = 1 << View::Window as u32;
        let ready = self.code_ready & bit != 0;
        self.code_ready &= !bit;
        self.branches_used &= !bit;
        self.calls_used &= !bit;
        ready
    }
}

impl TlbEntry {
    /// For a page that no canonical address is in, and a place that no process can reach: an
    /// access to such an address faults on the host and so gets to the interpreter. It matches
    /// no other page wherever it is moved.
    pub const NONE: TlbEntry = TlbEntry {
        negated_page: (1u64 << 62).wrapping_neg(),
        host: 1 << 63,
    };
}

/// What the places of a branch table and of a table of code pages hold that hold nothing: an entry
/// of zeroes matches nothing in any slot but the first; the first gets an address that belongs to
/// another.
fn no_branch(slot: usize) -> BranchEntry {
    let mut entry = BranchEntry::new(0, 0);
    if slot == 0 {
        // Not the next slot's: what pins that are up add to the sum would make RIP 0 a hit.
        entry.negated_rip = ((BRANCH_ENTRIES as u64 / 2) << BRANCH_SHIFT).wrapping_neg();
    }
    entry
}

/// See [`no_branch`].
fn no_code(slot: usize) -> CodePage {
    CodePage {
        negated_page: if slot == 0 {
            0x1000u64.wrapping_neg()
        } else {
            0
        },
        key: 0,
    }
}

impl DataTables {
    /// Makes zeroes empty tables.
    fn fill(&mut self) {
        self.read.fill(TlbEntry::NONE);
        self.write.fill(TlbEntry::NONE);
        self.stack = [[TlbEntry::NONE; STACK_SLOTS]; 2];
    }

    /// Enters a page in its first place; what was there moves to its own second one.
    pub fn enter_page(&mut self, access: Access, entry: TlbEntry) {
        let (n, table) = match access {
            Access::Write => (1, &mut self.write),
            _ => (0, &mut self.read),
        };
        let linear = entry.negated_page.wrapping_neg();
        let slot = tlb_slot(linear);
        let old = table[slot];
        if old.host != TlbEntry::NONE.host {
            table[other_tlb_slot(old.negated_page.wrapping_neg())] = old;
        }
        table[slot] = entry;
        // Translated code moves it between its two places.
        self.marks[n].set(slot);
        self.marks[n].set(other_tlb_slot(linear));
    }

    /// Empties the tables.
    fn flush(&mut self) {
        let read = &mut self.read;
        self.marks[0].take(|slot| read[slot] = TlbEntry::NONE);
        self.stack[0] = [TlbEntry::NONE; STACK_SLOTS];
        self.flush_writes();
    }

    /// Empties the table of pages that may be written.
    fn flush_writes(&mut self) {
        let write = &mut self.write;
        self.marks[1].take(|slot| write[slot] = TlbEntry::NONE);
        self.stack[1] = [TlbEntry::NONE; STACK_SLOTS];
    }

    /// Drops one page.
    pub fn drop_page(&mut self, linear: u64) {
        let page = (linear & !0xfff).wrapping_neg();
        let stack = self.stack.as_flattened_mut().iter_mut();
        stack
            .filter(|entry| entry.negated_page == page)
            .for_each(|entry| *entry = TlbEntry::NONE);
        for table in [&mut self.read, &mut self.write] {
            for slot in [tlb_slot(linear), other_tlb_slot(linear)] {
                if table[slot].negated_page == page {
                    table[slot] = TlbEntry::NONE;
                }
            }
        }
    }
}

impl CodeTables {
    /// Makes zeroes empty tables. `no_stub`: what slots without a call hold.
    fn fill(&mut self, no_stub: u64) {
        self.branch[0] = no_branch(0);
        self.pages[0] = no_code(0);
        self.stubs.fill(no_stub);
    }

    /// Enters a target in the branch table.
    pub fn enter_branch(&mut self, rip: u64, host: u64) {
        let slot = branch_slot(rip);
        self.branch[slot] = BranchEntry::new(rip, host);
        self.branch_marks.set(slot / BRANCH_GROUP);
    }

    /// Enters a page of code, with the key of its first byte and the number of that for guards, if
    /// it has one.
    pub fn enter_page(&mut self, linear: u64, key: u64, number: Option<u64>) {
        let slot = (linear >> 12) as usize % CODE_PAGE_ENTRIES;
        let negated_page = (linear & !0xfff).wrapping_neg();
        self.pages[slot] = CodePage { negated_page, key };
        self.guards[slot] = number.map_or(NO_GUARD, |number| number.wrapping_add(negated_page));
        self.page_marks.set(slot);
    }

    /// True if a page of code is known with this key.
    pub fn knows_page(&self, linear: u64, key: u64) -> bool {
        let entry = &self.pages[(linear >> 12) as usize % CODE_PAGE_ENTRIES];
        entry.negated_page == (linear & !0xfff).wrapping_neg() && entry.key == key
    }

    /// Empties the branch table and that of code pages.
    fn flush(&mut self) {
        let (branch, pages) = (&mut self.branch, &mut self.pages);
        self.branch_marks.take(|group| {
            let first = group * BRANCH_GROUP;
            for (n, entry) in branch[first..][..BRANCH_GROUP].iter_mut().enumerate() {
                *entry = no_branch(first + n);
            }
        });
        let guards = &mut self.guards;
        self.page_marks.take(|slot| {
            pages[slot] = no_code(slot);
            guards[slot] = NO_GUARD;
        });
    }
}
