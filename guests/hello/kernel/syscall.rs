//! System calls: what each number in `abi.rs` does. Called by the main loop with the caller's registers saved.

use crate::abi::{self, MemoryInfo, SystemInfo, TaskInfo};
use crate::paging::{DIRECT_MAP_END, kernel_end, read_physical, write_physical};
use crate::task::State;
use crate::{Kernel, acpi, console, cpu, kprint};

/// A structure of plain integers, which may be copied to a user as bytes.
trait Plain: Copy {}
impl Plain for TaskInfo {}
impl Plain for MemoryInfo {}
impl Plain for SystemInfo {}

impl Kernel {
    /// Serves the call of the current task.
    pub fn syscall(&mut self) {
        let context = &self.tasks[self.current].context;
        let (number, a, b, c) = (context.rax, context.rdi, context.rsi, context.rdx);
        self.tasks[self.current].info.syscalls += 1;
        let result = match number {
            abi::WRITE => self.write(a, b),
            abi::READ => {
                self.tasks[self.current].state = State::Reading { address: a, len: b };
                self.feed_reader(); // sets the result, now or later
                return;
            }
            abi::SLEEP => {
                self.tasks[self.current].state = State::Sleeping {
                    until: self.ticks.saturating_add(a),
                };
                0
            }
            abi::TASK => match self.tasks.get(a as usize).map(|task| task.info()) {
                Some(info) => self.give(b, info),
                None => 0,
            },
            abi::MEMORY => match self.boot.memory[..self.boot.regions]
                .get(a as usize)
                .copied()
            {
                Some(region) => self.give(b, region),
                None => 0,
            },
            abi::SYSTEM => self.give(a, self.system()),
            abi::REPORT => {
                self.tasks[self.current].info.report = [a, b];
                0
            }
            abi::INTERRUPTED => {
                self.feed_reader();
                self.input.interrupted().into()
            }
            abi::CATCH => {
                self.tasks[self.current].catch = a;
                0
            }
            abi::HARDWARE => hardware(a, b, c),
            abi::POWER => self.power(a),
            _ => abi::BAD_CALL,
        };
        self.tasks[self.current].context.rax = result;
    }

    fn write(&self, address: u64, len: u64) -> u64 {
        let mut piece = [0; 128];
        let mut done = 0;
        while done < len {
            let size = (len - done).min(piece.len() as u64);
            let piece = &mut piece[..size as usize];
            if !self.tasks[self.current]
                .space
                .copy_out(address.wrapping_add(done), piece)
            {
                return abi::BAD_CALL;
            }
            console::write(piece);
            done += size;
        }
        done
    }

    /// Copies a structure to the caller; 1, or `BAD_CALL`.
    fn give<T: Plain>(&self, address: u64, value: T) -> u64 {
        // SAFETY: `Plain` structures are integers without padding.
        let bytes =
            unsafe { core::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
        if self.tasks[self.current]
            .space
            .copy_in(address, bytes, false)
        {
            1
        } else {
            abi::BAD_CALL
        }
    }

    fn system(&self) -> SystemInfo {
        let mut protocol = [0; 16];
        protocol[..self.boot.protocol.len()].copy_from_slice(self.boot.protocol.as_bytes());
        SystemInfo {
            ticks: self.ticks,
            idle_ticks: self.idle_ticks,
            tsc_at_start: self.tsc_at_start,
            free_frames: self.frames.free,
            used_frames: self.frames.used,
            kernel_end: kernel_end(),
            rsdp: self.boot.rsdp,
            console_interrupts: self.input.interrupts,
            protocol,
        }
    }

    fn power(&self, what: u64) -> u64 {
        match what {
            abi::POWER_OFF => {
                acpi::power_off(self.power.as_ref());
                kprint!("The machine has no way to switch itself off. Halted.\n");
                cpu::halt_for_ever()
            }
            abi::POWER_REBOOT => acpi::reset(self.power.as_ref()),
            abi::POWER_PANIC => panic!("asked for by task {}", self.tasks[self.current].name()),
            _ => abi::BAD_CALL,
        }
    }
}

/// This is a machine to play with: any task may touch any hardware. A real kernel would ask who is calling.
fn hardware(operation: u64, address: u64, value: u64) -> u64 {
    let port = address as u16;
    // SAFETY: none is claimed; the user asked, and the machine is the user's.
    unsafe {
        match operation {
            abi::HW_PEEK if address < DIRECT_MAP_END - 8 => {
                return read_physical::<u32>(address).into();
            }
            abi::HW_POKE if address < DIRECT_MAP_END - 8 => write_physical(address, value as u32),
            abi::HW_IN if address < 0x1_0000 => return cpu::in8(port).into(),
            abi::HW_OUT if address < 0x1_0000 => cpu::out8(port, value as u8),
            _ => return abi::BAD_CALL,
        }
    }
    0
}
