//! Tasks: a user program, its address space, its registers, and what it waits for.

use crate::abi::{self, TaskInfo};
use crate::paging::{AddressSpace, Frames, NO_EXECUTE, PAGE, WRITABLE};
use crate::trap::Context;

const STACK_TOP: u64 = 0x7fff_0000_0000;
const STACK_PAGES: u64 = 16;

/// Why a task does not run.
#[derive(Clone, Copy, PartialEq)]
pub enum State {
    /// It can run.
    Ready,
    /// It waits in `read(address, length)`.
    Reading { address: u64, len: u64 },
    /// It waits for a tick.
    Sleeping { until: u64 },
}

/// A task.
pub struct Task {
    /// Its registers.
    pub context: Context,
    /// Its memory.
    pub space: AddressSpace,
    /// What it waits for.
    pub state: State,
    /// Where the next fault continues, or 0: see `abi::CATCH`.
    pub catch: u64,
    /// What `ps` shows.
    pub info: TaskInfo,
    image: &'static [u8],
}

impl Task {
    /// Loads `image`, an ELF executable, into a new address space.
    pub fn start(name: &str, image: &'static [u8], frames: &mut Frames) -> Task {
        let (space, context) = load(image, frames);
        let mut info = TaskInfo {
            cr3: space.root,
            ..TaskInfo::default()
        };
        info.name[..name.len()].copy_from_slice(name.as_bytes());
        Task {
            context,
            space,
            state: State::Ready,
            catch: 0,
            info,
            image,
        }
    }

    /// Throws the task's memory and registers away and starts it anew at tick `at`: a program that dies at once
    /// must not keep the kernel busy. Its counters stay.
    pub fn restart(&mut self, frames: &mut Frames, at: u64) {
        let (space, context) = load(self.image, frames);
        core::mem::replace(&mut self.space, space).free(frames);
        self.context = context;
        self.state = State::Sleeping { until: at };
        self.catch = 0;
        self.info.cr3 = self.space.root;
        self.info.restarts += 1;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        abi::text(&self.info.name)
    }

    /// What `abi::TASK` hands out.
    pub fn info(&self) -> TaskInfo {
        let state = match self.state {
            State::Ready => 0,
            State::Reading { .. } => 1,
            State::Sleeping { .. } => 2,
        };
        TaskInfo { state, ..self.info }
    }
}

/// Reads the program headers (ELF-64 specification, "Program Header") and maps each segment with its rights.
fn load(image: &'static [u8], frames: &mut Frames) -> (AddressSpace, Context) {
    let field = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let (entry, headers, header_size, count) = (field(24), field(32) as usize, half(54), half(56));
    let mut space = AddressSpace::new(frames);
    for header in (0..count).map(|n| headers + n * header_size) {
        if field(header) as u32 != 1 {
            continue; // PT_LOAD
        }
        let flags = (field(header) >> 32) as u32;
        let rights =
            if flags & 2 != 0 { WRITABLE } else { 0 } | if flags & 1 == 0 { NO_EXECUTE } else { 0 };
        let (offset, linear, in_file, in_memory) = (
            field(header + 8) as usize,
            field(header + 16),
            field(header + 32) as usize,
            field(header + 40),
        );
        for page in (linear & !(PAGE - 1)..linear + in_memory).step_by(PAGE as usize) {
            space.map(frames, page, rights);
        }
        assert!(
            space.copy_in(linear, &image[offset..offset + in_file], true),
            "the loader's own pages"
        );
    }
    for page in 1..=STACK_PAGES {
        space.map(frames, STACK_TOP - page * PAGE, WRITABLE | NO_EXECUTE);
    }
    (space, Context::new(entry, STACK_TOP))
}
