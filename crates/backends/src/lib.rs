//! What devices are connected to. The parts at the top are pure: a disk's overlay, the text that
//! names a disk, the escape keys of a terminal. [`host`] is the Linux host: files, terminals,
//! randomness; nothing else in the program below `vmm` touches those.
#![forbid(unsafe_code)]

pub mod disk;
pub mod escape;
pub mod host;
