//! Moinho's built-in guest: a small operating system for the x86-64 PC, to show and to test a machine.
//!
//! It has what a kernel has: an upper half with paging, user and kernel mode, interrupts, two tasks in address
//! spaces of their own, system calls, a console that answers. It needs little: a PIC, a PIT, a 16550 UART at
//! 0x3f8. It uses ACPI to switch off if there is ACPI.
//!
//! Read in this order: `boot.rs` (from the loader to here), `trap.rs` (the border to user mode), this file
//! (what happens at each crossing), `task.rs`, `paging.rs`; then the programs in `../user/`. `../abi.rs` is what
//! both sides agree on.
#![no_std]
#![no_main]

#[path = "../abi.rs"]
mod abi;
mod acpi;
mod boot;
mod bootinfo;
mod console;
mod cpu;
#[path = "../freestanding.rs"]
mod freestanding;
mod gdt;
mod irq;
mod paging;
mod syscall;
mod task;
mod trap;

use acpi::Power;
use bootinfo::BootInfo;
use paging::Frames;
use task::{State, Task};

/// The user programs, linked by `build.rs` of the crate `guests`.
static SHELL: &[u8] = include_bytes!(env!("MOINHO_GUEST_SHELL"));
static COUNTER: &[u8] = include_bytes!(env!("MOINHO_GUEST_COUNTER"));

/// All there is.
struct Kernel {
    boot: BootInfo,
    frames: Frames,
    power: Option<Power>,
    input: console::Input,
    tasks: [Task; 2],
    /// The task that ran last: the next in turn is the one after it.
    current: usize,
    ticks: u64,
    idle_ticks: u64,
    tsc_at_start: u64,
}

/// Called by `boot.rs` with the loader's registers.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(info: u64, magic: u64) -> ! {
    let input = console::init();
    gdt::load();
    trap::load();
    kprint!("\nMoinho's built-in guest {}\n", env!("MOINHO_VERSION"));
    let boot = BootInfo::read(info, magic as u32);
    let mut frames = Frames::new(&boot);
    kprint!(
        "64-bit kernel in the upper half, booted by {}, {} KiB free\n",
        boot.protocol,
        frames.free * 4
    );
    let power = Power::find(boot.rsdp);
    let tasks = [
        Task::start("shell", SHELL, &mut frames),
        Task::start("counter", COUNTER, &mut frames),
    ];
    irq::init();
    Kernel {
        boot,
        frames,
        power,
        input,
        tasks,
        current: 1,
        ticks: 0,
        idle_ticks: 0,
        tsc_at_start: cpu::rdtsc(),
    }
    .run()
}

impl Kernel {
    /// Round robin: each ready task in turn, for one tick at most; halted when there is none.
    fn run(&mut self) -> ! {
        loop {
            let count = self.tasks.len();
            let next = (1..=count)
                .map(|step| (self.current + step) % count)
                .find(|&n| self.tasks[n].state == State::Ready);
            let Some(next) = next else {
                let vector = trap::idle();
                self.idle_ticks += u64::from(vector == irq::TIMER);
                self.interrupt(vector);
                continue;
            };
            self.current = next;
            let task = &mut self.tasks[next];
            task.info.runs += 1;
            // SAFETY: the page table is the task's, with the kernel's half in it.
            unsafe {
                cpu::set_cr3(task.space.root);
                trap::enter_user(&mut task.context);
            }
            match task.context.vector {
                trap::SYSCALL => self.syscall(),
                vector @ trap::FIRST_IRQ.. => {
                    task.info.ticks += u64::from(vector == irq::TIMER);
                    self.interrupt(vector);
                }
                _ => self.fault(),
            }
        }
    }

    fn interrupt(&mut self, vector: u64) {
        if !irq::acknowledge(vector) {
            return;
        }
        match vector {
            irq::TIMER => {
                self.ticks += 1;
                for task in &mut self.tasks {
                    if matches!(task.state, State::Sleeping { until } if until <= self.ticks) {
                        task.state = State::Ready;
                    }
                }
            }
            irq::COM1 => self.input.interrupts += 1,
            _ => {}
        }
        self.feed_reader();
    }

    /// Takes input from the UART and gives it to the task that waits for it.
    fn feed_reader(&mut self) {
        self.input.pump();
        if let Some(task) = self
            .tasks
            .iter_mut()
            .find(|task| matches!(task.state, State::Reading { .. }))
            && !self.input.is_empty()
            && let State::Reading { address, len } = task.state
        {
            let mut count = 0;
            while count < len
                && let Some(byte) = self.input.take()
            {
                if !task.space.copy_in(address + count, &[byte], false) {
                    count = abi::BAD_CALL;
                    break;
                }
                count += 1;
            }
            task.context.rax = count;
            task.state = State::Ready;
        }
    }

    /// An exception in ring 3: the program's own affair if it said so, its end otherwise.
    fn fault(&mut self) {
        let task = &mut self.tasks[self.current];
        let context = &mut task.context;
        if task.catch != 0 {
            context.rax = 1 + context.vector + (context.error << 8);
            context.rip = task.catch;
            task.catch = 0;
            return;
        }
        let name = abi::text(&task.info.name);
        kprint!(
            "\n*** {} in task {} (ring {}) at rip {:#x}, error code {:#x}",
            trap::name(context.vector),
            name,
            context.cs & 3,
            context.rip,
            context.error
        );
        if context.vector == trap::PAGE_FAULT {
            let access = if context.error & 16 != 0 {
                "fetch from"
            } else if context.error & 2 != 0 {
                "write to"
            } else {
                "read of"
            };
            let reason = if context.error & 1 != 0 {
                "which is not the task's to touch"
            } else {
                "where nothing is mapped"
            };
            kprint!(": {access} {:#x}, {reason}", cpu::cr2());
        }
        kprint!("\n*** The task is killed and started again. The kernel goes on.\n");
        task.restart(&mut self.frames, self.ticks + 10);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    kprint!("\n*** kernel panic: {}\n*** Halted.\n", info.message());
    // SAFETY: QEMU's debug exit; elsewhere nobody listens.
    unsafe { cpu::out8(0xf4, 0x20) };
    cpu::halt_for_ever()
}
