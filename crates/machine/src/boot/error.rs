//! Why an image could not be booted: one line each, with the field and the way out.

use alloc::string::String;
use mem::OutOfRam;

/// Why an image could not be booted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum BootError {
    #[error("kernel: {seems}; {way_out}")]
    NotBootable {
        seems: String,
        way_out: &'static str,
    },
    #[error(
        "kernel: truncated: {what} ends at byte {needs}, file has {has}; is the download complete?"
    )]
    Truncated { what: String, needs: u64, has: u64 },
    #[error(
        "kernel: truncated: setup says {sectors} sectors ({needs} bytes), file has {has}; is the download complete?"
    )]
    SetupTruncated { sectors: u32, needs: u64, has: u64 },
    #[error("kernel: {field}: {why}; is the file intact?")]
    Invalid { field: &'static str, why: String },
    #[error("kernel: {what} at {start:#x}..{end:#x} is not in free RAM; {way_out}")]
    OutsideRam {
        what: String,
        start: u64,
        end: u64,
        way_out: String,
    },
    #[error("kernel: {first} and {second} overlap at {at:#x}; is the file intact?")]
    Overlap {
        first: String,
        second: String,
        at: u64,
    },
    #[error("command line: {has} bytes, this kernel takes {limit}; shorten it")]
    CommandLineTooLong { has: u64, limit: u64 },
    #[error("command line: contains a zero byte; remove it")]
    CommandLineZero,
    #[error(
        "{what}: {size} bytes do not fit into {has_mib} MiB of memory; {needs_mib} MiB would do"
    )]
    InitrdNeedsMemory {
        what: &'static str,
        size: u64,
        has_mib: u64,
        needs_mib: u64,
    },
    #[error(
        "{what}: {size} bytes, and this kernel leaves room for {limit} whatever the memory; make it smaller"
    )]
    InitrdTooLarge {
        what: &'static str,
        size: u64,
        limit: u64,
    },
    #[error("modules: {has} are too many; give at most {limit}")]
    TooManyModules { has: usize, limit: usize },
    #[error("memory: {has_kib} KiB are too little for any kernel; give at least 2 MiB")]
    MemoryTooSmall { has_kib: u64 },
    #[error(
        "memory: low RAM to {low:#x} is no layout of a PC; give a multiple of 4 KiB, at most 3 GiB of it below 4 GiB"
    )]
    Layout { low: u64 },
    #[error(
        "memory: the board has no RAM where the loader writes ({0}); place RAM as MemoryLayout says"
    )]
    NoRam(OutOfRam),
}

impl From<OutOfRam> for BootError {
    fn from(e: OutOfRam) -> BootError {
        BootError::NoRam(e)
    }
}
