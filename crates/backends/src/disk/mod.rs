//! Disks that need no host: the copy-on-write overlay, and the text that names a disk.

mod cow;
mod spec;

pub use cow::{BLOCK, Cow};
pub use spec::{DiskSpec, DiskSpecError, Mode};
