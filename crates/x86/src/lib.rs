//! The x86-64 processor: its state, one instruction table, the semantics of each instruction by
//! family, the MMU, exceptions and interrupts, CPUID and MSR tables, and the interpreter.
//!
//! Engines implement [`Engine`] and [`Vcpu`]; `machine` implements [`Bus`]. Nothing here names a
//! device.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bus;
pub mod cpuid;
pub mod event;
pub mod exec;
pub mod flags;
pub mod insn;
pub mod interp;
mod isa;
pub mod mmu;
pub mod msr;
pub mod rehearsal;
mod segment;
pub mod softfloat;
pub mod state;
pub mod table;
mod task;
pub mod trace;
pub mod trap;
pub mod xstate;

pub use bus::{
    Bus, Counters, Engine, Event, Kick, Signals, StateError, Stop, TscRate, Vcpu, wakes_on,
};
pub use state::CpuState;
