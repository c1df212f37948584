//! VMs on a host: from what the user asked for ([`Config`]) to how it ended ([`Outcome`]).
//!
//! [`run`] checks everything, connects the board to files and the terminal, loads the guest,
//! gives every processor a thread and looks after the machine until it ends. `cli` calls it and
//! prints; nothing here prints to standard output by itself.
#![forbid(unsafe_code)]

mod config;
mod connect;
mod engines;
mod guest;
pub mod images;
mod lifecycle;
mod report;
mod threads;
mod translator;

pub use config::{Config, EngineChoice, Guest, TraceTo, UserError, cpu_models};
pub use connect::parse_disk;
pub use engines::{EngineReport, Speed, report as engines};
pub use lifecycle::{Finish, Outcome, run};
pub use machine::spec;
pub use machine::trace::Kinds as TraceKinds;
pub use report::{HostStats, Stats};
pub use translator::{Translator, optimisations, switches};
