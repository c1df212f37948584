//! The binary translator: x86-64 guest code becomes x86-64 host code that runs in an ordinary
//! process, without hardware virtualization and without privileges.
//!
//! The theory: the hypervisor reads each basic block of the guest, looks for sensitive
//! instructions and replaces them; all others run on the real processor as they are. Here the
//! guest's registers are the host's (two are stolen, see [`area`]), a memory operand is led
//! through a software TLB ([`translate`]), and whatever is sensitive or rare leaves translated
//! code ([`entry`]) for the interpreter of `x86`, one instruction at a time ([`vcpu`]).
//!
//! Translated: 64-bit code, and 32-bit code with flat segments (protected and compatibility mode),
//! kernel and user. The interpreter does the rest: real and virtual-8086 mode, 16-bit code, segments
//! that have a base or a limit other than FS and GS with a base.
//!
//! Generated code reaches guest RAM through TLB entries only, or where the host's MMU has it mapped
//! for that ([`window`]), and its own [`area::Area`]; it is
//! never writable where it is executable ([`cache`]).
#![warn(missing_docs)]

pub mod area;
mod areas;
mod block;
mod blocks;
mod cache;
mod check;
mod dump;
mod emit;
mod engine;
mod entry;
mod eviction;
#[cfg(test)]
mod golden;
mod marks;
mod pages;
mod perfmap;
mod signal;
#[cfg(test)]
mod speed;
mod switches;
mod targets;
mod translate;
pub mod tsc;
mod turns;
mod vcpu;
mod window;

pub use dump::Dump;
pub use engine::{CODE_CACHE, CODE_CACHE_BOUNDS, Options, Translation};
pub use perfmap::PerfMap;
pub use switches::Switches;
pub use turns::window_possible;
pub use vcpu::{BtVcpu, Stats};

#[cfg(test)]
#[path = "../tests/support/end_bus.rs"]
mod end_bus;
