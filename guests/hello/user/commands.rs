//! What the shell can do. Called by `shell.rs` with a trimmed line.

use crate::print;
use crate::privileged;
use crate::sys::abi::{self, MemoryInfo, SystemInfo, TaskInfo};
use crate::sys::{ask, call, is_prime, system};
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};

type Command = (&'static str, &'static str, fn(&str));

const COMMANDS: &[Command] = &[
    ("help", "this list", help),
    (
        "cpu",
        "who the processor says it is, and the hypervisor",
        cpu,
    ),
    ("mem", "the memory map and the kernel's use of it", mem),
    ("ps", "the tasks: state, ticks, system calls, restarts", ps),
    ("tasks", "what the tasks counted", tasks),
    ("time", "ticks and time-stamp counter", time),
    (
        "primes",
        "N: counts the primes up to N, to keep the processor busy (Ctrl-C stops)",
        primes,
    ),
    (
        "sleep",
        "N: waits N ticks, a hundredth of a second each",
        sleep,
    ),
    ("echo", "TEXT: prints it", echo),
    (
        "fault",
        "[ADDRESS]: reads memory that is not ours; the kernel must survive",
        fault,
    ),
    (
        "priv",
        "tries privileged instructions in ring 3 and shows what the kernel is told",
        privileged::show,
    ),
    (
        "peek",
        "ADDRESS: reads 4 bytes of guest-physical memory",
        peek,
    ),
    (
        "poke",
        "ADDRESS VALUE: writes 4 bytes of guest-physical memory",
        poke,
    ),
    ("in", "PORT: reads a byte from an I/O port", port_in),
    ("out", "PORT VALUE: writes a byte to an I/O port", port_out),
    ("reboot", "resets the machine", |_| {
        drop_result(call(abi::POWER, abi::POWER_REBOOT, 0, 0))
    }),
    ("poweroff", "switches the machine off", poweroff),
    ("panic", "makes the kernel panic", |_| {
        drop_result(call(abi::POWER, abi::POWER_PANIC, 0, 0))
    }),
];

/// Obeys one line.
pub fn run(line: &str) {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    match COMMANDS.iter().find(|(command, ..)| *command == name) {
        Some((.., command)) => command(rest.trim()),
        None if name.is_empty() => {}
        None => print!("There is no command `{name}`. Type `help`.\n"),
    }
}

fn drop_result(_: u64) {}

/// Decimal, or hexadecimal after 0x.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn help(_: &str) {
    for (name, what, _) in COMMANDS {
        print!("  {name:<9} {what}\n");
    }
    print!("Keys: backspace, Ctrl-U drops the line, Ctrl-C stops.\n");
}

fn sleep(text: &str) {
    match number(text) {
        Some(ticks) => drop_result(call(abi::SLEEP, ticks, 0, 0)),
        None => print!("Say how many ticks: `sleep 100`.\n"),
    }
}

fn echo(text: &str) {
    print!("{text}\n");
}

/// CPUID's registers as the text that some leaves hold.
fn print_text(registers: &[u32]) {
    for byte in registers
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .filter(|byte| (b' '..0x7f).contains(byte))
    {
        print!("{}", char::from(byte));
    }
}

fn cpu(_: &str) {
    let (basic, features) = (__cpuid(0), __cpuid(1));
    print!("vendor      ");
    print_text(&[basic.ebx, basic.edx, basic.ecx]);
    if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
        print!("\nbrand       ");
        for leaf in 0x8000_0002..=0x8000_0004 {
            let part = __cpuid(leaf);
            print_text(&[part.eax, part.ebx, part.ecx, part.edx]);
        }
    }
    let (eax, base_family) = (features.eax, features.eax >> 8 & 15);
    let family = if base_family == 15 {
        15 + (eax >> 20 & 0xff)
    } else {
        base_family
    };
    print!(
        "\nsignature   family {family}, model {}, stepping {}; highest leaf {:#x}\n",
        (eax >> 4 & 15) | (eax >> 12 & 0xf0),
        eax & 15,
        basic.eax
    );
    let seven = if basic.eax >= 7 {
        __cpuid_count(7, 0)
    } else {
        __cpuid(0)
    };
    let seven = if basic.eax >= 7 { seven.ebx } else { 0 };
    print!("features   ");
    let list = [
        ("sse2", features.edx, 26),
        ("sse3", features.ecx, 0),
        ("ssse3", features.ecx, 9),
        ("sse4.1", features.ecx, 19),
        ("sse4.2", features.ecx, 20),
        ("popcnt", features.ecx, 23),
        ("aes", features.ecx, 25),
        ("xsave", features.ecx, 26),
        ("avx", features.ecx, 28),
        ("rdrand", features.ecx, 30),
        ("x2apic", features.ecx, 21),
        ("vmx", features.ecx, 5),
        ("bmi1", seven, 3),
        ("avx2", seven, 5),
        ("smep", seven, 7),
        ("erms", seven, 9),
        ("avx512f", seven, 16),
        ("smap", seven, 20),
    ];
    for (name, register, bit) in list {
        if register >> bit & 1 != 0 {
            print!(" {name}");
        }
    }
    print!("\nhypervisor  ");
    if features.ecx >> 31 == 0 {
        print!("none (or it does not say so)\n");
        return;
    }
    let leaf = __cpuid(0x4000_0000);
    print!("\"");
    print_text(&[leaf.ebx, leaf.ecx, leaf.edx]);
    print!("\", highest leaf {:#x}\n", leaf.eax);
}

fn mem(_: &str) {
    let SystemInfo {
        kernel_end,
        free_frames,
        used_frames,
        rsdp,
        protocol,
        ..
    } = system();
    print!(
        "memory map from the boot loader ({}):\n",
        abi::text(&protocol)
    );
    for index in 0.. {
        let Some(MemoryInfo { start, len, kind }) = ask(abi::MEMORY, index) else {
            break;
        };
        let kind = match kind {
            1 => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI NVS",
            5 => "bad",
            _ => "other",
        };
        print!(
            "  {start:#012x} .. {:#012x} {:>9} KiB  {kind}\n",
            start.wrapping_add(len),
            len >> 10
        );
    }
    print!(
        "kernel 0x100000 .. {kernel_end:#x}; page frames: {used_frames} used, {free_frames} free ({} KiB)\n",
        free_frames * 4
    );
    match rsdp {
        0 => print!("ACPI: none\n"),
        _ => print!("ACPI: root pointer at {rsdp:#x}\n"),
    }
}

fn ps(_: &str) {
    print!("  task      state     ticks      runs  syscalls  restarts  cr3\n");
    for index in 0.. {
        let Some(TaskInfo {
            name,
            state,
            ticks,
            runs,
            syscalls,
            restarts,
            cr3,
            ..
        }) = ask(abi::TASK, index)
        else {
            break;
        };
        let state = ["ready", "reading", "sleeping"][state as usize % 3];
        print!(
            "  {:<9} {state:<8} {ticks:>6} {runs:>9} {syscalls:>9} {restarts:>9}  {cr3:#x}\n",
            abi::text(&name)
        );
    }
    let SystemInfo {
        ticks, idle_ticks, ..
    } = system();
    print!("  idle      -        {idle_ticks:>6}   of {ticks} ticks\n");
}

fn tasks(_: &str) {
    for index in 0.. {
        let Some(TaskInfo {
            name,
            report: [a, b],
            ..
        }) = ask(abi::TASK, index)
        else {
            break;
        };
        match abi::text(&name) {
            "counter" => print!("counter: {a} primes found, the largest is {b}\n"),
            name => print!("{name}: {a} searches for primes done\n"),
        }
    }
}

fn time(_: &str) {
    let SystemInfo {
        ticks,
        tsc_at_start,
        console_interrupts,
        ..
    } = system();
    // SAFETY: the kernel leaves the instruction open to ring 3.
    let cycles = unsafe { _rdtsc() } - tsc_at_start;
    print!(
        "{ticks} ticks of {} a second: up {}.{:02} s\n",
        abi::TICKS_PER_SECOND,
        ticks / abi::TICKS_PER_SECOND,
        ticks % abi::TICKS_PER_SECOND
    );
    print!("time-stamp counter: {cycles} cycles since the first tick");
    if ticks > 10 {
        print!(
            ", about {} MHz",
            cycles / ticks * abi::TICKS_PER_SECOND / 1_000_000
        );
    }
    print!("\nconsole interrupts: {console_interrupts}\n");
}

fn primes(text: &str) {
    let Some(limit) = number(text) else {
        return print!("Say how far: `primes 100000`.\n");
    };
    let start = system().ticks;
    let (mut found, mut largest) = (0u64, 0);
    for n in 2..=limit {
        if is_prime(n) {
            (found, largest) = (found + 1, n);
        }
        if n % 1024 == 0 && call(abi::INTERRUPTED, 0, 0, 0) == 1 {
            print!("^C\nstopped at {n}: ");
            break;
        }
    }
    let ticks = system().ticks - start;
    print!(
        "{found} primes, the largest is {largest}; {}.{:02} s\n",
        ticks / 100,
        ticks % 100
    );
    let done: u64 = ask::<TaskInfo>(abi::TASK, 0).map_or(0, |info| info.report[0]);
    call(abi::REPORT, done + 1, 0, 0);
}

fn fault(text: &str) {
    let address = number(text).unwrap_or(0);
    print!("reading {address:#x} in ring 3 ...\n");
    let value: u64;
    // SAFETY: not safe at all: the page fault is what the user asked for.
    unsafe {
        core::arch::asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly))
    };
    print!("no fault: it holds {value:#x}\n");
}

fn hardware(operation: u64, address: u64, value: u64) -> Option<u64> {
    let result = call(abi::HARDWARE, operation, address, value);
    if result == abi::BAD_CALL {
        print!("{address:#x} is out of reach.\n");
        return None;
    }
    Some(result)
}

fn peek(text: &str) {
    let Some(address) = number(text) else {
        return print!("Say where: `peek 0x100000`.\n");
    };
    if let Some(value) = hardware(abi::HW_PEEK, address, 0) {
        print!("{address:#x}: {value:#010x}\n");
    }
}

fn two_numbers(text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.split_once(' ')?;
    Some((number(a)?, number(b.trim())?))
}

fn poke(text: &str) {
    let Some((address, value)) = two_numbers(text) else {
        return print!("Say where and what: `poke 0xb8000 0x4d`.\n");
    };
    hardware(abi::HW_POKE, address, value);
}

fn port_in(text: &str) {
    let Some(port) = number(text) else {
        return print!("Say which port: `in 0x61`.\n");
    };
    if let Some(value) = hardware(abi::HW_IN, port, 0) {
        print!("port {port:#x}: {value:#04x}\n");
    }
}

fn port_out(text: &str) {
    let Some((port, value)) = two_numbers(text) else {
        return print!("Say which port and what: `out 0xe9 0x4d`.\n");
    };
    hardware(abi::HW_OUT, port, value);
}

fn poweroff(_: &str) {
    print!("Goodbye.\n");
    call(abi::POWER, abi::POWER_OFF, 0, 0);
}
