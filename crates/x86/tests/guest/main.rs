//! Small guest programs with expected outcomes, run by the interpreter through its public
//! contract. See `harness` for how to write one; a family has a module.

mod chaos;
mod events;
mod float;
mod harness;
mod modes;
mod paging;
mod segments;
mod system;
mod tasks;
