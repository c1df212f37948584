//! The perf map: a line for each block, so that `perf report` names guest code.
//!
//! perf reads `/tmp/perf-PID.map` when it reports: host address, size and name of each piece of
//! code that was made at run time. It looks there only for memory that has no file, so the code
//! cache is mapped accordingly ([`crate::cache`]). An address that was used again after the cache
//! was emptied has a line for each of its blocks.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Where the lines go; shared by the processors of an engine.
pub struct PerfMap(Mutex<Box<dyn Write + Send>>);

impl std::fmt::Debug for PerfMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PerfMap")
    }
}

impl PerfMap {
    /// A map in this file.
    pub fn new(file: Box<dyn Write + Send>) -> PerfMap {
        PerfMap(Mutex::new(file))
    }

    /// Names host code. What cannot be written does not stop the guest.
    pub(crate) fn name(&self, host: u64, size: usize, name: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{host:x} {size:x} {name}");
    }

    /// Names a block by where it was met first and in which ring.
    pub(crate) fn block(&self, host: u64, size: usize, rip: u64, ring: u8) {
        let side = if ring == 3 { "user" } else { "kernel" };
        self.name(host, size, &format!("guest_{side}_{rip:x}"));
    }
}
