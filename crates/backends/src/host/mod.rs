//! The Linux host: files, the terminal, randomness.

mod entropy;
mod raw;
mod stdio;
pub mod terminal;

pub use entropy::HostEntropy;
pub use raw::{DiskError, RawDisk, open_disk};
pub use stdio::Stdio;
