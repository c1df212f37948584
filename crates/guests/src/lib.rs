//! Our own guests, as bytes: the built-in system of `moinho run`, and the guest test programs.
//!
//! Their sources are in `guests/` at the top of the repository; `build.rs` builds them for x86-64 whatever the
//! host is. Used by `vmm` and `cli` (the built-in guest) and by tests (the programs). Calls nobody.
#![no_std]
#![forbid(unsafe_code)]

/// Moinho's built-in guest: an ELF64 image that three loaders can start, all at the same 32-bit entry.
///
/// - PVH: by its note `XEN_ELFNOTE_PHYS32_ENTRY`; `ebx` = `hvm_start_info`.
/// - multiboot 1: by the header within the first 8 KiB, whose address fields spare a loader the ELF64.
/// - A loader that enters an ELF at `e_entry` in 32-bit protected mode, as the two above do.
///
/// It is loaded at 1 MiB, and wants 4 MiB of RAM, a PIC, a PIT and a 16550 UART at 0x3f8 with IRQ 4. Its console
/// is that UART; its prompt is `moinho> `.
pub static BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/built_in"));

/// The guest test programs, sorted by name.
pub static PROGRAMS: &[Program] = include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// What a test program writes to port [`DEBUG_EXIT_PORT`] when all its checks passed. Any other value is the
/// number of the check that failed, or [`CODE_UNEXPECTED`], or [`CODE_SKIPPED`].
pub const CODE_SUCCESS: u8 = 0x10;
/// Written when an exception came that no check expected.
pub const CODE_UNEXPECTED: u8 = 0x7f;
/// Written when the processor lacks, by its CPUID, what the program checks.
pub const CODE_SKIPPED: u8 = 0x7e;
/// What a program with [`Ends::Shutdown`] prints just before.
pub const BEFORE_SHUTDOWN: &str = "ends by shutdown";
/// QEMU's `isa-debug-exit,iobase=0xf4,iosize=4`: the emulator ends with status `2 * value + 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Where a [`Kind::Real16`] image is loaded and entered, as a BIOS does with a boot sector.
pub const REAL16_ADDRESS: u64 = 0x7c00;

/// How a program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A flat image at [`REAL16_ADDRESS`], entered there in real mode with cs = ds = es = ss = 0. It is also a
    /// bootable disk: if only its first sector is in memory it reads the others through the BIOS.
    Real16,
    /// An ELF64 with a PVH note, entered in 32-bit protected mode without paging.
    Pvh32,
}

/// How a program that passes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It writes [`CODE_SUCCESS`].
    Checks,
    /// It prints [`BEFORE_SHUTDOWN`] and shuts the processor down by a triple fault.
    Shutdown,
}

/// A guest test program: it does its checks, prints on port 0xe9 and COM1, and ends by a write to
/// [`DEBUG_EXIT_PORT`].
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its file's name without the extension.
    pub name: &'static str,
    /// What it checks, in a sentence.
    pub about: &'static str,
    /// How it is started.
    pub kind: Kind,
    /// Features it needs beside the baseline, as its author named them (`# needs: sse4.2 apic`).
    pub needs: &'static [&'static str],
    /// Why the reference machine, QEMU, is known to fail it (`# reference: differs (why)`).
    pub reference_differs: Option<&'static str>,
    /// How it ends (`# expect: shutdown`).
    pub ends: Ends,
    /// The bytes to load as its [`Kind`] says.
    pub image: &'static [u8],
    /// The same as a kernel for any loader that knows PVH: for [`Kind::Real16`] the image behind a piece of code
    /// that goes to real mode.
    pub kernel: &'static [u8],
}

impl Program {
    /// How many processors it runs on (`# needs: cpus=2`).
    pub fn cpus(&self) -> u32 {
        let cpus = |need: &&str| need.strip_prefix("cpus=")?.parse().ok();
        self.needs.iter().find_map(cpus).unwrap_or(1)
    }
}

/// The program of that name.
pub fn program(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}
