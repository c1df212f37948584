//! What both sides start from and what both sides end with, and how it is compared and printed.

use std::fmt::Write;
use x86::state::{Register80, X87};

/// The registers a user program can see.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub x87: X87,
    pub mxcsr: u32,
    pub vector: [[u64; 4]; 16],
}

/// An exception, as the processor reports it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Exception {
    pub vector: u8,
    pub error: u32,
    /// CR2, for a page fault.
    pub address: u64,
}

/// The state after the instruction (at the fault, if there was one).
#[derive(Clone, Debug)]
pub struct Outcome {
    pub registers: Registers,
    pub exception: Option<Exception>,
    /// The data window.
    pub memory: Vec<u8>,
    /// The engine gave up: its words.
    pub broken: Option<String>,
}

/// Size of an XSAVE image with x87, SSE and AVX.
pub const XSAVE: usize = 576 + 256;

fn u16_at(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([image[at], image[at + 1]])
}
fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

impl Registers {
    /// Takes x87, SSE and AVX from an XSAVE image (standard form, 64-bit pointers).
    pub fn load_xsave(&mut self, image: &[u8]) {
        let present = u64_at(image, 512);
        self.x87 = X87::default();
        if present & 1 != 0 {
            let x = &mut self.x87;
            x.control = u16_at(image, 0);
            x.status = u16_at(image, 2);
            x.valid = image[4];
            x.opcode = u16_at(image, 6) & 0x7ff;
            x.ip = u64_at(image, 8);
            x.dp = u64_at(image, 16);
            let top = usize::from(x.status >> 11 & 7);
            for n in 0..8 {
                x.regs[(top + n) & 7] = Register80 {
                    significand: u64_at(image, 32 + 16 * n),
                    sign_exponent: u16_at(image, 40 + 16 * n),
                };
            }
        }
        self.mxcsr = u32::from_le_bytes(image[24..28].try_into().unwrap());
        for n in 0..16 {
            let mut v = [0; 4];
            if present & 2 != 0 {
                v[0] = u64_at(image, 160 + 16 * n);
                v[1] = u64_at(image, 168 + 16 * n);
            }
            if present & 4 != 0 {
                v[2] = u64_at(image, 576 + 16 * n);
                v[3] = u64_at(image, 584 + 16 * n);
            }
            self.vector[n] = v;
        }
    }

    /// Writes x87, SSE and AVX as an XSAVE image.
    pub fn store_xsave(&self, image: &mut [u8]) {
        image[..XSAVE].fill(0);
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let x = &self.x87;
        put(0, &x.control.to_le_bytes());
        put(2, &x.status.to_le_bytes());
        put(4, &[x.valid]);
        put(6, &x.opcode.to_le_bytes());
        put(8, &x.ip.to_le_bytes());
        put(16, &x.dp.to_le_bytes());
        put(24, &self.mxcsr.to_le_bytes());
        let top = usize::from(x.status >> 11 & 7);
        for n in 0..8 {
            let r = &x.regs[(top + n) & 7];
            put(32 + 16 * n, &r.significand.to_le_bytes());
            put(40 + 16 * n, &r.sign_exponent.to_le_bytes());
        }
        for (n, v) in self.vector.iter().enumerate() {
            put(160 + 16 * n, &v[0].to_le_bytes());
            put(168 + 16 * n, &v[1].to_le_bytes());
            put(576 + 16 * n, &v[2].to_le_bytes());
            put(584 + 16 * n, &v[3].to_le_bytes());
        }
        put(512, &7u64.to_le_bytes());
    }

    /// Every register by name.
    fn list(&self) -> Vec<(String, u128)> {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        let mut all: Vec<(String, u128)> = Vec::new();
        for (name, value) in NAMES.iter().zip(self.gpr) {
            all.push((name.to_string(), value.into()));
        }
        let x = &self.x87;
        let mut add = |name: &str, value: u64| all.push((name.into(), value.into()));
        add("rip", self.rip);
        add("rflags", self.rflags);
        add("mxcsr", self.mxcsr.into());
        add("fcw", x.control.into());
        add("fsw", x.status.into());
        add("ftw", x.valid.into());
        add("fop", x.opcode.into());
        add("fip", x.ip);
        add("fdp", x.dp);
        for (n, r) in x.regs.iter().enumerate() {
            all.push((
                format!("r{n}(st{})", (n as u16).wrapping_sub(x.status >> 11) & 7),
                u128::from(r.sign_exponent) << 64 | u128::from(r.significand),
            ));
        }
        for (n, v) in self.vector.iter().enumerate() {
            let wide = |a: u64, b: u64| u128::from(b) << 64 | u128::from(a);
            all.push((format!("xmm{n}"), wide(v[0], v[1])));
            all.push((format!("ymm{n}.high"), wide(v[2], v[3])));
        }
        all
    }

    /// The registers as text: the general ones, and those of the units asked for.
    pub fn text(&self, x87: bool, vector: bool) -> String {
        let mut out = String::new();
        let shown = self
            .list()
            .into_iter()
            .enumerate()
            .filter(|(n, _)| match n {
                0..=17 => true,
                18 => vector,
                19..=32 => x87,
                _ => vector,
            });
        for (n, (_, (name, value))) in shown.enumerate() {
            let end = if n % 6 == 5 { "\n" } else { "" };
            let _ = write!(out, "  {name}={value:x}{end}");
        }
        out + "\n"
    }
}

/// The differences of two outcomes as lines; empty if there are none.
pub fn differences(native: &Outcome, ours: &Outcome, window: u64) -> String {
    let mut out = String::new();
    if let Some(why) = &ours.broken {
        let _ = writeln!(out, "  the interpreter stopped: {why}");
    }
    if native.exception != ours.exception {
        let _ = writeln!(
            out,
            "  exception: native {:x?}, ours {:x?}",
            native.exception, ours.exception
        );
    }
    let (a, b) = (&native.registers, &ours.registers);
    if a != b {
        for ((name, x), (_, y)) in a.list().into_iter().zip(b.list()) {
            if x != y {
                let _ = writeln!(out, "  {name}: native {x:x}, ours {y:x}");
            }
        }
    }
    if native.memory != ours.memory {
        let mut shown = 0;
        for (n, (x, y)) in native.memory.iter().zip(&ours.memory).enumerate() {
            if x != y && shown < 16 {
                shown += 1;
                let at = window + n as u64;
                let _ = writeln!(out, "  [{at:#x}]: native {x:02x}, ours {y:02x}");
            }
        }
    }
    out
}
