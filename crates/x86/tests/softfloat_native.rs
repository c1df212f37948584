//! Holds `x86::softfloat` to the processor this test runs on: same operands, same control word, then
//! results and flags bit for bit. MOINHO_CASES sets the cases per operation (default 200 000),
//! MOINHO_SEED the seed, which is printed with every failure.
#![cfg(target_arch = "x86_64")]

use std::arch::asm;
use x86::softfloat::sse::{self, Negate};
use x86::softfloat::x87::{self, Constant, Operand};
use x86::softfloat::{Env, F80, Flags, Relation, Rounding, Signal};

fn cases() -> u64 {
    std::env::var("MOINHO_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(200_000)
}

fn seed() -> u64 {
    std::env::var("MOINHO_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0x9e37_79b9_7f4a_7c15)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(seed() | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
    fn pick<const N: usize>(&mut self, from: [u64; N]) -> u64 {
        from[self.below(N as u64) as usize]
    }
    /// A fraction of `bits` bits.
    fn fraction(&mut self, bits: u32) -> u64 {
        let mask = (1u64 << bits) - 1;
        let r = self.next();
        mask & match self.below(8) {
            0 => 0,
            1 => self.pick([
                1,
                2,
                3,
                mask,
                mask - 1,
                mask >> 1,
                1 << (bits - 1),
                1 << (bits - 2),
            ]),
            2 => r & self.next() & self.next() & self.next(),
            3 => !0 << self.below(bits as u64),
            4 => r << self.below(bits as u64),
            5 => r >> (64 - bits as u64 + self.below(bits as u64)),
            _ => r,
        }
    }
    /// A biased exponent; `max` is that of infinity.
    fn exponent(&mut self, max: u64, precision: u64) -> u64 {
        let bias = max / 2;
        let r = match self.below(10) {
            0 => 0,
            1 => max,
            2 => self.pick([1, 2, max - 1, max - 2, bias, bias - 1, bias + 1]),
            3 => bias - precision + self.below(2 * precision),
            4 => self.below(precision + 4),
            5 => max - self.below(precision + 4),
            6 => bias + self.below(80),
            7 => bias / 2 + self.below(8),
            8 => bias + bias / 2 - self.below(8),
            _ => self.next(),
        };
        r & max
    }
    fn f16(&mut self) -> u16 {
        self.next() as u16
    }
    fn f32(&mut self) -> u32 {
        (self.below(2) << 31 | self.exponent(0xff, 24) << 23 | self.fraction(23)) as u32
    }
    fn f64(&mut self) -> u64 {
        self.below(2) << 63 | self.exponent(0x7ff, 53) << 52 | self.fraction(52)
    }
    /// One in `odd` with the "wrong" integer bit.
    fn f80(&mut self, odd: u64) -> F80 {
        let e = self.exponent(0x7fff, 64);
        let integer = (e != 0) != (self.below(odd) == 0);
        F80::new(
            (self.below(2) << 15 | e) as u16,
            (integer as u64) << 63 | self.fraction(63),
        )
    }
    /// Rounding, DAZ, FTZ at random, everything masked.
    fn mxcsr(&mut self) -> u32 {
        let r = self.next() as u32;
        let control = if r & 7 == 0 { 0 } else { r & 0xe040 };
        0x1f80 | control
    }
    /// Rounding and precision at random; one in four with unmasked exceptions.
    fn fcw(&mut self) -> u16 {
        let rc_pc = (self.below(4) << 10 | self.pick([0, 2, 3]) << 8) as u16;
        let masks = if self.below(4) == 0 {
            self.below(64) as u16
        } else {
            0x3f
        };
        rc_pc | masks
    }
}

trait Bits: Copy + PartialEq + std::fmt::LowerHex {
    type Float: Copy;
    fn random(r: &mut Random) -> Self;
    fn float(self) -> Self::Float;
}
impl Bits for u32 {
    type Float = f32;
    fn random(r: &mut Random) -> Self {
        r.f32()
    }
    fn float(self) -> f32 {
        f32::from_bits(self)
    }
}
impl Bits for u64 {
    type Float = f64;
    fn random(r: &mut Random) -> Self {
        r.f64()
    }
    fn float(self) -> f64 {
        f64::from_bits(self)
    }
}

/// Operands of which the second (and third) are sometimes near the first.
fn related<T: Bits + TryFrom<u64>>(r: &mut Random, a: T, as_u64: u64) -> T {
    if r.below(6) == 0 {
        let near = as_u64 ^ r.pick([0, 1, 2, 3, 1 << 31, 1 << 22, 1 << 23, 1 << 24]);
        T::try_from(near).unwrap_or(a)
    } else {
        T::random(r)
    }
}

/// Runs an instruction with an MXCSR value; gives the sticky flags it leaves.
macro_rules! with_mxcsr {
    ($csr:expr, $insn:expr, $($operands:tt)*) => {{
        let csr: u32 = $csr;
        let mut after = 0u32;
        let mut saved = 0u32;
        unsafe {
            asm!(
                "stmxcsr [{saved}]", "ldmxcsr [{csr}]", $insn, "stmxcsr [{after}]", "ldmxcsr [{saved}]",
                saved = in(reg) &mut saved, csr = in(reg) &csr, after = in(reg) &mut after,
                $($operands)*
            );
        }
        let _ = saved;
        after & 0x3f
    }};
}

fn flags(env: &Env) -> u32 {
    env.flags.bits() as u32
}

macro_rules! binary {
    ($test:ident, $t:ty, $ours:path, $insn:literal) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr) = (<$t>::random(&mut r), r.mxcsr());
                let b: $t = related(&mut r, a, a as u64);
                let mut x = a.float();
                let native = with_mxcsr!(csr, concat!($insn, " {a}, {b}"), a = inout(xmm_reg) x, b = in(xmm_reg) b.float());
                let mut env = Env::from_mxcsr(csr);
                let ours = $ours(a, b, &mut env);
                assert_eq!((format!("{ours:x}"), flags(&env)), (format!("{:x}", x.to_bits()), native),
                    "ours, native; case {i} seed {:#x}: {} {a:x}, {b:x}, MXCSR {csr:x}", seed(), $insn);
                // The sticky-PE fast path.
                let mut env = Env { flags: Flags::PE, ..Env::from_mxcsr(csr) };
                assert_eq!((ours, native | 0x20), ($ours(a, b, &mut env), flags(&env)), "sticky PE: {} {a:x}, {b:x}, MXCSR {csr:x}", $insn);
                x = a.float();
                let _ = x;
            }
        }
    };
}

binary!(addss_is_the_processors, u32, sse::add, "addss");
binary!(subss_is_the_processors, u32, sse::sub, "subss");
binary!(mulss_is_the_processors, u32, sse::mul, "mulss");
binary!(divss_is_the_processors, u32, sse::div, "divss");
binary!(minss_is_the_processors, u32, sse::min, "minss");
binary!(maxss_is_the_processors, u32, sse::max, "maxss");
binary!(addsd_is_the_processors, u64, sse::add, "addsd");
binary!(subsd_is_the_processors, u64, sse::sub, "subsd");
binary!(mulsd_is_the_processors, u64, sse::mul, "mulsd");
binary!(divsd_is_the_processors, u64, sse::div, "divsd");
binary!(minsd_is_the_processors, u64, sse::min, "minsd");
binary!(maxsd_is_the_processors, u64, sse::max, "maxsd");

macro_rules! unary {
    ($test:ident, $from:ident, $in:ty, $out:ty, $ours:expr, $insn:literal) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr): ($in, u32) = (r.$from(), r.mxcsr());
                let mut x = <$out as Bits>::float(0);
                let native = with_mxcsr!(csr, concat!($insn), a = in(xmm_reg) a.float(), r = out(xmm_reg) x);
                let mut env = Env::from_mxcsr(csr);
                let f: fn($in, &mut Env) -> $out = $ours;
                let ours = f(a, &mut env);
                assert_eq!((format!("{ours:x}"), flags(&env)), (format!("{:x}", x.to_bits()), native),
                    "ours, native; case {i} seed {:#x}: {} {a:x}, MXCSR {csr:x}", seed(), $insn);
                x = <$out as Bits>::float(0);
                let _ = x;
            }
        }
    };
}

unary!(
    sqrtss_is_the_processors,
    f32,
    u32,
    u32,
    |a, e| sse::sqrt(a, e),
    "sqrtss {r}, {a}"
);
unary!(
    sqrtsd_is_the_processors,
    f64,
    u64,
    u64,
    |a, e| sse::sqrt(a, e),
    "sqrtsd {r}, {a}"
);
unary!(
    cvtss2sd_is_the_processors,
    f32,
    u32,
    u64,
    sse::f32_to_f64,
    "cvtss2sd {r}, {a}"
);
unary!(
    cvtsd2ss_is_the_processors,
    f64,
    u64,
    u32,
    sse::f64_to_f32,
    "cvtsd2ss {r}, {a}"
);
unary!(
    roundss_mxcsr_is_the_processors,
    f32,
    u32,
    u32,
    |a, e| sse::round_to_integral(a, e.rounding, false, e),
    "roundss {r}, {a}, 4"
);
unary!(
    roundss_up_quietly_is_the_processors,
    f32,
    u32,
    u32,
    |a, e| sse::round_to_integral(a, Rounding::Up, true, e),
    "roundss {r}, {a}, 10"
);
unary!(
    roundsd_mxcsr_is_the_processors,
    f64,
    u64,
    u64,
    |a, e| sse::round_to_integral(a, e.rounding, false, e),
    "roundsd {r}, {a}, 4"
);
unary!(
    roundsd_nearest_is_the_processors,
    f64,
    u64,
    u64,
    |a, e| sse::round_to_integral(a, Rounding::NearestEven, false, e),
    "roundsd {r}, {a}, 0"
);

macro_rules! to_int {
    ($test:ident, $from:ident, $ours:expr, $insn:literal, $native:ty, $out:ty) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr) = (r.$from(), r.mxcsr());
                let x: $native;
                let native = with_mxcsr!(csr, $insn, a = in(xmm_reg) a.float(), r = out(reg) x);
                let mut env = Env::from_mxcsr(csr);
                let ours: $out = $ours(a, &mut env);
                assert_eq!((ours, flags(&env)), (x as $out, native), "ours, native; case {i} seed {:#x}: {} {a:x}, MXCSR {csr:x}", seed(), $insn);
            }
        }
    };
}

to_int!(
    cvtss2si_32_is_the_processors,
    f32,
    |a: u32, e: &mut Env| sse::to_i32(a, e.rounding, e),
    "cvtss2si {r:e}, {a}",
    u64,
    i32
);
to_int!(
    cvtsd2si_32_is_the_processors,
    f64,
    |a: u64, e: &mut Env| sse::to_i32(a, e.rounding, e),
    "cvtsd2si {r:e}, {a}",
    u64,
    i32
);
to_int!(
    cvttsd2si_32_is_the_processors,
    f64,
    |a: u64, e: &mut Env| sse::to_i32(a, Rounding::Zero, e),
    "cvttsd2si {r:e}, {a}",
    u64,
    i32
);
to_int!(
    cvtss2si_64_is_the_processors,
    f32,
    |a: u32, e: &mut Env| sse::to_i64(a, e.rounding, e),
    "cvtss2si {r:r}, {a}",
    u64,
    i64
);
to_int!(
    cvtsd2si_64_is_the_processors,
    f64,
    |a: u64, e: &mut Env| sse::to_i64(a, e.rounding, e),
    "cvtsd2si {r:r}, {a}",
    u64,
    i64
);
to_int!(
    cvttss2si_64_is_the_processors,
    f32,
    |a: u32, e: &mut Env| sse::to_i64(a, Rounding::Zero, e),
    "cvttss2si {r:r}, {a}",
    u64,
    i64
);

fn has_avx512f() -> bool {
    let has = is_x86_feature_detected!("avx512f");
    if !has {
        eprintln!("skipped: the processor has no AVX-512");
    }
    has
}

macro_rules! to_unsigned {
    ($test:ident, $from:ident, $ours:expr, $insn:literal, $out:ty) => {
        #[test]
        fn $test() {
            if !has_avx512f() {
                return;
            }
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr) = (r.$from(), r.mxcsr());
                let x: u64;
                let native = with_mxcsr!(csr, $insn, a = in(xmm_reg) a.float(), r = out(reg) x);
                let mut env = Env::from_mxcsr(csr);
                let ours: $out = $ours(a, &mut env);
                assert_eq!((ours, flags(&env)), (x as $out, native), "ours, native; case {i} seed {:#x}: {} {a:x}, MXCSR {csr:x}", seed(), $insn);
            }
        }
    };
}
to_unsigned!(
    vcvtsd2usi_32_is_the_processors,
    f64,
    |a: u64, e: &mut Env| sse::to_u32(a, e.rounding, e),
    "vcvtsd2usi {r:e}, {a}",
    u32
);
to_unsigned!(
    vcvtsd2usi_64_is_the_processors,
    f64,
    |a: u64, e: &mut Env| sse::to_u64(a, e.rounding, e),
    "vcvtsd2usi {r:r}, {a}",
    u64
);
to_unsigned!(
    vcvttss2usi_64_is_the_processors,
    f32,
    |a: u32, e: &mut Env| sse::to_u64(a, Rounding::Zero, e),
    "vcvttss2usi {r:r}, {a}",
    u64
);

macro_rules! from_int {
    ($test:ident, $out:ty, $ours:expr, $insn:literal, $int:ty) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            for i in 0..cases() {
                let shift = r.below(64);
                let (n, csr) = (((r.next() as i64) >> shift) as $int, r.mxcsr());
                let x: <$out as Bits>::Float;
                let native = with_mxcsr!(csr, $insn, a = in(reg) n as i64, r = inout(xmm_reg) <$out as Bits>::float(0) => x);
                let mut env = Env::from_mxcsr(csr);
                let ours: $out = $ours(n, &mut env);
                assert_eq!((ours, flags(&env)), (x.to_bits(), native), "ours, native; case {i} seed {:#x}: {} {n}, MXCSR {csr:x}", seed(), $insn);
            }
        }
    };
}
from_int!(
    cvtsi2ss_32_is_the_processors,
    u32,
    sse::from_i32,
    "cvtsi2ss {r}, {a:e}",
    i32
);
from_int!(
    cvtsi2ss_64_is_the_processors,
    u32,
    sse::from_i64,
    "cvtsi2ss {r}, {a:r}",
    i64
);
from_int!(
    cvtsi2sd_64_is_the_processors,
    u64,
    sse::from_i64,
    "cvtsi2sd {r}, {a:r}",
    i64
);

#[test]
fn vcvtusi2sd_and_vcvtusi2ss_are_the_processors() {
    if !has_avx512f() {
        return;
    }
    let mut r = Random::new();
    for i in 0..cases() {
        let shift = r.below(64);
        let (n, csr) = (r.next() >> shift, r.mxcsr());
        macro_rules! one {
            ($insn:literal, $out:ty, $ours:expr) => {
                let x: <$out as Bits>::Float;
                let native = with_mxcsr!(csr, $insn, a = in(reg) n, r = inout(xmm_reg) <$out as Bits>::float(0) => x);
                let mut env = Env::from_mxcsr(csr);
                let ours: $out = $ours(n, &mut env);
                assert_eq!((ours, flags(&env)), (x.to_bits(), native), "ours, native; case {i} seed {:#x}: {} {n}, MXCSR {csr:x}", seed(), $insn);
            };
        }
        one!("vcvtusi2sd {r}, {r}, {a:r}", u64, sse::from_u64);
        one!("vcvtusi2ss {r}, {r}, {a:r}", u32, sse::from_u64);
        one!("vcvtusi2ss {r}, {r}, {a:e}", u32, |n: u64, e: &mut Env| {
            sse::from_u32(n as u32, e)
        });
    }
}

macro_rules! compare {
    ($test:ident, $t:ty, $signal:expr, $insn:literal) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr) = (<$t>::random(&mut r), r.mxcsr());
                let b: $t = related(&mut r, a, a as u64);
                let rflags: u64;
                let native = with_mxcsr!(csr, concat!($insn, " {a}, {b}\npushfq\npop {f}"), a = in(xmm_reg) a.float(), b = in(xmm_reg) b.float(), f = out(reg) rflags);
                let relation = match rflags & 0x45 {
                    0 => Relation::Greater,
                    1 => Relation::Less,
                    0x40 => Relation::Equal,
                    _ => Relation::Unordered,
                };
                let mut env = Env::from_mxcsr(csr);
                let ours = sse::compare(a, b, $signal, &mut env);
                assert_eq!((ours, flags(&env)), (relation, native), "ours, native; case {i} seed {:#x}: {} {a:x}, {b:x}, MXCSR {csr:x}", seed(), $insn);
            }
        }
    };
}
compare!(comiss_is_the_processors, u32, Signal::AnyNan, "comiss");
compare!(ucomiss_is_the_processors, u32, Signal::Snan, "ucomiss");
compare!(comisd_is_the_processors, u64, Signal::AnyNan, "comisd");
compare!(ucomisd_is_the_processors, u64, Signal::Snan, "ucomisd");

#[test]
fn vcmpsd_is_the_processors_for_all_predicates() {
    if !is_x86_feature_detected!("avx") {
        eprintln!("skipped: the processor has no AVX");
        return;
    }
    let mut r = Random::new();
    for i in 0..cases() / 8 {
        let (a, csr) = (r.f64(), r.mxcsr());
        let b = related(&mut r, a, a);
        macro_rules! predicates {
            ($($p:literal)*) => {$({
                let mut x = a.float();
                let native = with_mxcsr!(csr, concat!("vcmpsd {a}, {a}, {b}, ", $p), a = inout(xmm_reg) x, b = in(xmm_reg) b.float());
                let mut env = Env::from_mxcsr(csr);
                let ours = sse::cmp(a, b, $p, &mut env);
                assert_eq!((ours, flags(&env)), (x.to_bits() != 0, native), "ours, native; case {i} seed {:#x}: predicate {} {a:x}, {b:x}, MXCSR {csr:x}", seed(), $p);
                x = 0.0; let _ = x;
            })*};
        }
        predicates!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    }
}

macro_rules! fused {
    ($test:ident, $t:ty, $insn:literal, $order:expr, $product:literal, $addend:literal) => {
        #[test]
        fn $test() {
            if !is_x86_feature_detected!("fma") {
                eprintln!("skipped: the processor has no FMA");
                return;
            }
            let mut r = Random::new();
            for i in 0..cases() {
                let (a, csr) = (<$t>::random(&mut r), r.mxcsr());
                let b: $t = related(&mut r, a, a as u64);
                let mut c: $t = related(&mut r, a, a as u64);
                if r.below(3) == 0 {
                    // Near the product, so that the sum cancels.
                    c = (a.float() * b.float()).to_bits() ^ r.pick([0, 1, 1 << 31, 1 << 63 | 1, 1 << 31 | 2]) as $t;
                }
                // Operands in the order of the instruction: dest, second, third.
                let mut x = a.float();
                let native = with_mxcsr!(csr, concat!($insn, " {a}, {b}, {c}"), a = inout(xmm_reg) x, b = in(xmm_reg) b.float(), c = in(xmm_reg) c.float());
                let mut env = Env::from_mxcsr(csr);
                let (p, q, s): ($t, $t, $t) = $order(a, b, c);
                let ours = sse::mul_add(p, q, s, Negate { product: $product, addend: $addend }, &mut env);
                assert_eq!((format!("{ours:x}"), flags(&env)), (format!("{:x}", x.to_bits()), native),
                    "ours, native; case {i} seed {:#x}: {} {a:x}, {b:x}, {c:x}, MXCSR {csr:x}", seed(), $insn);
                x = a.float();
                let _ = x;
            }
        }
    };
}
fused!(
    vfmadd132ss_is_the_processors,
    u32,
    "vfmadd132ss",
    |a, b, c| (a, c, b),
    false,
    false
);
fused!(
    vfmadd213ss_is_the_processors,
    u32,
    "vfmadd213ss",
    |a, b, c| (b, a, c),
    false,
    false
);
fused!(
    vfmadd231ss_is_the_processors,
    u32,
    "vfmadd231ss",
    |a, b, c| (b, c, a),
    false,
    false
);
fused!(
    vfmsub132sd_is_the_processors,
    u64,
    "vfmsub132sd",
    |a, b, c| (a, c, b),
    false,
    true
);
fused!(
    vfnmadd213sd_is_the_processors,
    u64,
    "vfnmadd213sd",
    |a, b, c| (b, a, c),
    true,
    false
);
fused!(
    vfnmsub231sd_is_the_processors,
    u64,
    "vfnmsub231sd",
    |a, b, c| (b, c, a),
    true,
    true
);
fused!(
    vfmadd231sd_is_the_processors,
    u64,
    "vfmadd231sd",
    |a, b, c| (b, c, a),
    false,
    false
);

#[test]
fn vcvtps2ph_and_vcvtph2ps_are_the_processors() {
    if !is_x86_feature_detected!("f16c") {
        eprintln!("skipped: the processor has no F16C");
        return;
    }
    let mut r = Random::new();
    for i in 0..cases() {
        let csr = r.mxcsr();
        let mut a = r.f32();
        if r.below(2) == 0 {
            a = a & 0x807f_ffff | ((127 - 30 + r.below(50)) << 23) as u32;
        }
        let x: f32;
        let native = with_mxcsr!(csr, "vcvtps2ph {r}, {a}, 4", a = in(xmm_reg) a.float(), r = out(xmm_reg) x);
        let mut env = Env::from_mxcsr(csr);
        let ours = sse::f32_to_f16(a, &mut env);
        assert_eq!(
            (ours, flags(&env)),
            (x.to_bits() as u16, native),
            "ours, native; case {i} seed {:#x}: vcvtps2ph {a:x}, MXCSR {csr:x}",
            seed()
        );

        let h = r.f16();
        let x: f32;
        let native = with_mxcsr!(csr, "vcvtph2ps {r}, {a}", a = in(xmm_reg) f32::from_bits(h as u32), r = out(xmm_reg) x);
        let mut env = Env::from_mxcsr(csr);
        let ours = sse::f16_to_f32(h, &mut env);
        assert_eq!(
            (ours, flags(&env)),
            (x.to_bits(), native),
            "ours, native; case {i} seed {:#x}: vcvtph2ps {h:x}, MXCSR {csr:x}",
            seed()
        );
    }
}

// ---- SSE with unmasked exceptions: the processor's flags are read in a SIGFPE handler ----

#[cfg(target_os = "linux")]
mod unmasked {
    use super::*;
    use std::cell::Cell;
    use std::ffi::{c_int, c_void};

    thread_local! {
        static AT_FAULT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// struct sigaction of the C library on x86-64.
    #[repr(C)]
    struct SigAction {
        handler: extern "C" fn(c_int, *mut c_void, *mut c_void),
        mask: [u64; 16],
        flags: c_int,
        restorer: usize,
    }

    unsafe extern "C" {
        fn sigaction(signal: c_int, act: *const SigAction, old: *mut c_void) -> c_int;
    }

    /// Notes the flags, masks everything and lets the instruction run again.
    extern "C" fn on_sigfpe(_: c_int, _: *mut c_void, ucontext: *mut c_void) {
        unsafe {
            // ucontext_t: uc_flags, uc_link, uc_stack (40 bytes), gregs (23 × 8), then fpregs; MXCSR is
            // at byte 24 of the FXSAVE image.
            let fpregs = *ucontext.cast::<u8>().add(224).cast::<*mut u8>();
            let mxcsr = fpregs.add(24).cast::<u32>();
            AT_FAULT.set(Some(*mxcsr & 0x3f));
            *mxcsr |= 0x1f80;
        }
    }

    fn install() {
        const SIGFPE: c_int = 8;
        const SA_SIGINFO: c_int = 4;
        let act = SigAction {
            handler: on_sigfpe,
            mask: [0; 16],
            flags: SA_SIGINFO,
            restorer: 0,
        };
        assert_eq!(unsafe { sigaction(SIGFPE, &act, std::ptr::null_mut()) }, 0);
    }

    fn mxcsr(r: &mut Random) -> u32 {
        r.mxcsr() & !0x1f80 | (r.below(64) as u32) << 7
    }

    macro_rules! scalar {
        ($test:ident, $t:ty, $insn:literal, $ours:expr) => {
            #[test]
            fn $test() {
                install();
                let mut r = Random::new();
                let mut failures = Failures(Vec::new());
                // A signal costs microseconds.
                for _ in 0..cases() / 4 {
                    let (a, csr) = (<$t>::random(&mut r), mxcsr(&mut r));
                    let b: $t = related(&mut r, a, a as u64);
                    AT_FAULT.set(None);
                    let mut x = a.float();
                    let sticky = with_mxcsr!(csr, concat!($insn, " {a}, {b}"), a = inout(xmm_reg) x, b = in(xmm_reg) b.float());
                    let fault = AT_FAULT.get();
                    let mut env = Env::from_mxcsr(csr);
                    let f: fn($t, $t, &mut Env) -> u64 = $ours;
                    let ours = f(a, b, &mut env);
                    let native = (fault.is_some(), fault.unwrap_or(sticky), x.to_bits() as u64);
                    let mine = (env.fault(), flags(&env), if env.fault() { native.2 } else { ours });
                    if mine != native {
                        failures.note(format!("{} {a:x}, {b:x}, MXCSR {csr:x}: ours {mine:x?} native {native:x?}", $insn));
                    }
                    x = a.float();
                    let _ = x;
                }
            }
        };
    }
    scalar!(
        addss_faults_as_the_processor,
        u32,
        "addss",
        |a, b, e| sse::add(a, b, e) as u64
    );
    scalar!(subsd_faults_as_the_processor, u64, "subsd", |a, b, e| {
        sse::sub(a, b, e)
    });
    scalar!(
        mulss_faults_as_the_processor,
        u32,
        "mulss",
        |a, b, e| sse::mul(a, b, e) as u64
    );
    scalar!(mulsd_faults_as_the_processor, u64, "mulsd", |a, b, e| {
        sse::mul(a, b, e)
    });
    scalar!(
        divss_faults_as_the_processor,
        u32,
        "divss",
        |a, b, e| sse::div(a, b, e) as u64
    );
    scalar!(divsd_faults_as_the_processor, u64, "divsd", |a, b, e| {
        sse::div(a, b, e)
    });
    scalar!(
        sqrtss_faults_as_the_processor,
        u32,
        "sqrtss",
        |_, b, e| sse::sqrt(b, e) as u64
    );
    scalar!(minsd_faults_as_the_processor, u64, "minsd", |a, b, e| {
        sse::min(a, b, e)
    });
    scalar!(
        cvtsd2ss_faults_as_the_processor,
        u64,
        "cvtsd2ss",
        |a, b, e| a & !0xffff_ffff | sse::f64_to_f32(b, e) as u64
    );
    scalar!(
        roundsd_faults_as_the_processor,
        u64,
        "roundsd {a}, {b}, 4 #",
        |_, b, e| sse::round_to_integral(b, e.rounding, false, e)
    );

    scalar!(comisd_faults_as_the_processor, u64, "comisd", |a, b, e| {
        sse::compare(a, b, Signal::AnyNan, e);
        a
    });

    #[test]
    fn vfmadd213sd_faults_as_the_processor() {
        if !is_x86_feature_detected!("fma") {
            eprintln!("skipped: the processor has no FMA");
            return;
        }
        install();
        let mut r = Random::new();
        let mut failures = Failures(Vec::new());
        for _ in 0..cases() / 4 {
            let (a, b, csr) = (r.f64(), r.f64(), mxcsr(&mut r));
            let c = related(&mut r, a, a);
            AT_FAULT.set(None);
            let mut x = a.float();
            let sticky = with_mxcsr!(csr, "vfmadd213sd {a}, {b}, {c}", a = inout(xmm_reg) x, b = in(xmm_reg) b.float(), c = in(xmm_reg) c.float());
            let fault = AT_FAULT.get();
            let mut env = Env::from_mxcsr(csr);
            let ours = sse::mul_add(b, a, c, Negate::default(), &mut env);
            let native = (fault.is_some(), fault.unwrap_or(sticky), x.to_bits());
            let mine = (
                env.fault(),
                flags(&env),
                if env.fault() { native.2 } else { ours },
            );
            if mine != native {
                failures.note(format!("vfmadd213sd {a:x}, {b:x}, {c:x}, MXCSR {csr:x}: ours {mine:x?} native {native:x?}"));
            }
            x = 0.0;
            let _ = x;
        }
    }

    #[test]
    fn vcvtps2ph_faults_as_the_processor() {
        if !is_x86_feature_detected!("f16c") {
            eprintln!("skipped: the processor has no F16C");
            return;
        }
        install();
        let mut r = Random::new();
        let mut failures = Failures(Vec::new());
        for _ in 0..cases() / 4 {
            let csr = mxcsr(&mut r);
            let mut a = r.f32();
            if r.below(2) == 0 {
                a = a & 0x807f_ffff | ((127 - 30 + r.below(50)) << 23) as u32;
            }
            AT_FAULT.set(None);
            let x: f32;
            let sticky = with_mxcsr!(csr, "vcvtps2ph {r}, {a}, 4", a = in(xmm_reg) a.float(), r = out(xmm_reg) x);
            let fault = AT_FAULT.get();
            let mut env = Env::from_mxcsr(csr);
            let ours = sse::f32_to_f16(a, &mut env);
            let native = (fault.is_some(), fault.unwrap_or(sticky), x.to_bits() as u16);
            let mine = (
                env.fault(),
                flags(&env),
                if env.fault() { native.2 } else { ours },
            );
            if mine != native {
                failures.note(format!(
                    "vcvtps2ph {a:x}, MXCSR {csr:x}: ours {mine:x?} native {native:x?}"
                ));
            }
        }
    }

    #[test]
    fn divps_with_two_elements_faults_as_the_processor() {
        install();
        let mut r = Random::new();
        let mut failures = Failures(Vec::new());
        for _ in 0..cases() / 4 {
            let csr = mxcsr(&mut r);
            let a = [r.f32(), r.f32(), 0, 0];
            let b = [r.f32(), r.f32(), 0x3f80_0000, 0x3f80_0000];
            AT_FAULT.set(None);
            let mut x = a;
            let sticky = with_mxcsr!(csr, "movups {t}, [{x}]\nmovups {u}, [{b}]\ndivps {t}, {u}\nmovups [{x}], {t}",
                t = out(xmm_reg) _, u = out(xmm_reg) _, x = in(reg) &mut x, b = in(reg) &b);
            let fault = AT_FAULT.get();
            let mut env = Env::from_mxcsr(csr);
            let ours = [
                sse::div(a[0], b[0], &mut env),
                sse::div(a[1], b[1], &mut env),
                0,
                0,
            ];
            env.finish_packed();
            let native = (fault.is_some(), fault.unwrap_or(sticky), x);
            let mine = (env.fault(), flags(&env), if env.fault() { x } else { ours });
            if mine != native {
                failures.note(format!(
                    "divps {a:x?}, {b:x?}, MXCSR {csr:x}: ours {mine:x?} native {native:x?}"
                ));
            }
        }
    }
}

// ---- x87 ----

/// Runs an x87 instruction with ST(0) = a, ST(1) = b: the status word, then ST(0) and ST(1).
macro_rules! on_x87 {
    ($cw:expr, $a:expr, $b:expr, $insn:expr $(, ($($operands:tt)*))?) => {{
        let (a, b, cw) = ($a.to_le_bytes(), $b.to_le_bytes(), $cw as u16);
        let (mut st0, mut st1) = ([0u8; 10], [0u8; 10]);
        let sw: u16;
        unsafe {
            asm!(
                "fninit", "fldcw [{cw}]", "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]",
                $insn,
                "fnstsw ax", "fnclex", "fstp tbyte ptr [{st0}]", "fnclex", "fstp tbyte ptr [{st1}]", "fninit",
                a = in(reg) &a, b = in(reg) &b, cw = in(reg) &cw, st0 = in(reg) &mut st0, st1 = in(reg) &mut st1,
                out("ax") sw,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                $($($operands)*)?
            );
        }
        (sw, F80::from_le_bytes(st0), F80::from_le_bytes(st1))
    }};
}

/// The flags and C1 of a status word.
fn status(sw: u16) -> (u16, bool) {
    (sw & 0x3f, sw & 0x200 != 0)
}

fn our_status(env: &Env) -> (u16, bool) {
    (env.flags.bits() as u16, env.c1)
}

fn x87_pair(r: &mut Random) -> (F80, F80) {
    let a = r.f80(12);
    let b = match r.below(8) {
        0 => F80::new(
            a.sign_exponent ^ (r.below(4) as u16) ^ (r.below(2) as u16) << 15,
            a.significand ^ r.pick([0, 0, 1, 2, 1 << 62]),
        ),
        1 => {
            let e = (a.sign_exponent & 0x7fff)
                .wrapping_add(r.below(140) as u16)
                .wrapping_sub(70)
                & 0x7fff;
            F80::new(e | (r.below(2) as u16) << 15, 1 << 63 | r.fraction(63))
        }
        _ => r.f80(12),
    };
    (a, b)
}

/// Collects up to five failures before failing.
struct Failures(Vec<String>);
impl Failures {
    fn note(&mut self, s: String) {
        self.0.push(s);
        assert!(
            self.0.len() < 8,
            "seed {:#x}:\n{}",
            seed(),
            self.0.join("\n")
        );
    }
}
impl Drop for Failures {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.0.is_empty(),
                "seed {:#x}:\n{}",
                seed(),
                self.0.join("\n")
            );
        }
    }
}

macro_rules! x87_op {
    ($test:ident, $insn:literal, $ours:expr) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            for _ in 0..cases() {
                let ((a, b), cw) = (x87_pair(&mut r), r.fcw());
                let (sw, st0, _) = on_x87!(cw, a, b, $insn);
                let mut env = Env::from_fcw(cw);
                let f: fn(F80, F80, &mut Env) -> F80 = $ours;
                let ours = f(a, b, &mut env);
                let ours = if env.blocks_register_store() { a } else { ours };
                if (ours, our_status(&env)) != (st0, status(sw)) {
                    failures.note(format!(
                        "{} {a:x?}, {b:x?} FCW {cw:x}: ours {ours:x?} {:x?} native {st0:x?} {:x?}",
                        $insn,
                        our_status(&env),
                        status(sw)
                    ));
                }
            }
        }
    };
}

x87_op!(fadd_is_the_processors, "fadd st(0), st(1)", |a, b, e| {
    x87::add(a, b, e)
});
x87_op!(fsub_is_the_processors, "fsub st(0), st(1)", |a, b, e| {
    x87::sub(a, b, e)
});
x87_op!(fsubr_is_the_processors, "fsubr st(0), st(1)", |a, b, e| {
    x87::sub(b, a, e)
});
x87_op!(fmul_is_the_processors, "fmul st(0), st(1)", |a, b, e| {
    x87::mul(a, b, e)
});
x87_op!(fdiv_is_the_processors, "fdiv st(0), st(1)", |a, b, e| {
    x87::div(a, b, e)
});
x87_op!(fdivr_is_the_processors, "fdivr st(0), st(1)", |a, b, e| {
    x87::div(b, a, e)
});
x87_op!(fsqrt_is_the_processors, "fsqrt", |a, _, e| x87::sqrt(a, e));
x87_op!(frndint_is_the_processors, "frndint", |a, _, e| {
    x87::round_to_integral(a, e)
});
x87_op!(fscale_is_the_processors, "fscale", |a, b, e| x87::scale(
    a, b, e
));
x87_op!(fldpi_is_the_processors, "fldpi", |_, _, e| x87::constant(
    Constant::Pi,
    e
));
x87_op!(fldl2t_is_the_processors, "fldl2t", |_, _, e| x87::constant(
    Constant::Log2Of10,
    e
));
x87_op!(fldl2e_is_the_processors, "fldl2e", |_, _, e| x87::constant(
    Constant::Log2OfE,
    e
));
x87_op!(fldlg2_is_the_processors, "fldlg2", |_, _, e| x87::constant(
    Constant::Log10Of2,
    e
));
x87_op!(fldln2_is_the_processors, "fldln2", |_, _, e| x87::constant(
    Constant::LnOf2,
    e
));

macro_rules! x87_remainder {
    ($test:ident, $insn:literal, $ours:path) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            for _ in 0..cases() {
                let ((a, b), cw) = (x87_pair(&mut r), r.fcw());
                let (sw, st0, _) = on_x87!(cw, a, b, $insn);
                let mut env = Env::from_fcw(cw);
                let rem = $ours(a, b, &mut env);
                let ours = if env.blocks_register_store() {
                    a
                } else {
                    rem.value
                };
                let native_quotient =
                    ((sw >> 8 & 1) << 2 | (sw >> 14 & 1) << 1 | (sw >> 9 & 1)) as u8;
                let native = (st0, sw & 0x3f, native_quotient, sw & 0x400 != 0);
                let mine = (ours, env.flags.bits() as u16, rem.quotient, rem.incomplete);
                if mine != native {
                    failures.note(format!(
                        "{} {a:x?}, {b:x?} FCW {cw:x}: ours {mine:x?} native {native:x?}",
                        $insn
                    ));
                }
            }
        }
    };
}
x87_remainder!(fprem_is_the_processors, "fprem", x87::prem);
x87_remainder!(fprem1_is_the_processors, "fprem1", x87::prem1);

#[test]
fn fxtract_is_the_processors() {
    let mut r = Random::new();
    let mut failures = Failures(Vec::new());
    for _ in 0..cases() {
        let (a, cw) = (r.f80(8), r.fcw());
        let (sw, st0, st1) = on_x87!(cw, a, F80::ONE, "fxtract");
        let mut env = Env::from_fcw(cw);
        let (exponent, significand) = x87::extract(a, &mut env);
        let mine = if env.blocks_register_store() {
            (a, F80::ONE)
        } else {
            (significand, exponent)
        };
        if (mine, our_status(&env)) != ((st0, st1), status(sw)) {
            failures.note(format!(
                "fxtract {a:x?} FCW {cw:x}: ours {mine:x?} {:x?} native {st0:x?} {st1:x?} {:x?}",
                our_status(&env),
                status(sw)
            ));
        }
    }
}

macro_rules! x87_compare {
    ($test:ident, $insn:literal, $signal:expr) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            for _ in 0..cases() {
                let ((a, b), cw) = (x87_pair(&mut r), r.fcw());
                let (sw, _, _) = on_x87!(cw, a, b, $insn);
                let mut env = Env::from_fcw(cw);
                let ours = x87::compare(a, b, $signal, &mut env);
                let native = match sw & 0x4500 {
                    0 => Relation::Greater,
                    0x100 => Relation::Less,
                    0x4000 => Relation::Equal,
                    _ => Relation::Unordered,
                };
                if our_status(&env) != status(sw) || ours != native && !env.blocks_register_store()
                {
                    failures.note(format!(
                        "{} {a:x?}, {b:x?} FCW {cw:x}: ours {ours:?} {:x?} native {native:?} {:x?}",
                        $insn,
                        our_status(&env),
                        status(sw)
                    ));
                }
            }
        }
    };
}
x87_compare!(fcom_is_the_processors, "fcom st(1)", Signal::AnyNan);
x87_compare!(fucom_is_the_processors, "fucom st(1)", Signal::Snan);

/// Memory operands: one operation, all its forms judged by the instruction itself.
macro_rules! x87_memory {
    ($test:ident, $insn:literal, $t:ty, $random:ident, $ours:expr) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            for _ in 0..cases() {
                let ((a, _), cw) = (x87_pair(&mut r), r.fcw());
                let m = r.$random() as $t;
                let (sw, st0, _) = on_x87!(cw, a, F80::ONE, concat!($insn, " [{m}]"), (m = in(reg) &m));
                let mut env = Env::from_fcw(cw);
                let f: fn(F80, $t, &mut Env) -> F80 = $ours;
                let ours = f(a, m, &mut env);
                let load = $insn.starts_with("fld");
                let blocked = if load { env.blocks_load() } else { env.blocks_register_store() };
                let ours = if blocked { a } else { ours };
                if (ours, our_status(&env)) != (st0, status(sw)) {
                    failures.note(format!("{} {a:x?}, {m:x} FCW {cw:x}: ours {ours:x?} {:x?} native {st0:x?} {:x?}", $insn, our_status(&env), status(sw)));
                }
            }
        }
    };
}
x87_memory!(
    fadd_m32_is_the_processors,
    "fadd dword ptr",
    u32,
    f32,
    |a, m, e| x87::add(a, Operand::from_f32(m), e)
);
x87_memory!(
    fsubr_m64_is_the_processors,
    "fsubr qword ptr",
    u64,
    f64,
    |a, m, e| x87::sub(Operand::from_f64(m), a, e)
);
x87_memory!(
    fdiv_m64_is_the_processors,
    "fdiv qword ptr",
    u64,
    f64,
    |a, m, e| x87::div(a, Operand::from_f64(m), e)
);
x87_memory!(
    fimul_m16_is_the_processors,
    "fimul word ptr",
    u16,
    next,
    |a, m, e| x87::mul(a, Operand::from_i16(m as i16), e)
);
x87_memory!(
    fidivr_m32_is_the_processors,
    "fidivr dword ptr",
    u32,
    next,
    |a, m, e| x87::div(Operand::from_i32(m as i32), a, e)
);
x87_memory!(
    fld_m32_is_the_processors,
    "fld dword ptr",
    u32,
    f32,
    |_, m, e| x87::from_f32(m, e)
);
x87_memory!(
    fld_m64_is_the_processors,
    "fld qword ptr",
    u64,
    f64,
    |_, m, e| x87::from_f64(m, e)
);
x87_memory!(
    fild_m16_is_the_processors,
    "fild word ptr",
    u16,
    next,
    |_, m, _| x87::from_i16(m as i16)
);
x87_memory!(
    fild_m32_is_the_processors,
    "fild dword ptr",
    u32,
    next,
    |_, m, _| x87::from_i32(m as i32)
);
x87_memory!(
    fild_m64_is_the_processors,
    "fild qword ptr",
    u64,
    next,
    |_, m, _| x87::from_i64(m as i64)
);

/// Stores: memory keeps its pattern if the store is blocked.
macro_rules! x87_store {
    ($test:ident, $insn:literal, $t:ty, $untouched:expr, $exponents:expr, $ours:expr) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            for _ in 0..cases() {
                let (mut a, cw) = (r.f80(8), r.fcw());
                if r.below(2) == 0 {
                    let (low, span): (u64, u64) = $exponents;
                    a = F80::new(a.sign_exponent & 0x8000 | (low + r.below(span)) as u16, a.significand | 1 << 63);
                }
                let mut m: $t = $untouched;
                let (sw, _, _) = on_x87!(cw, a, F80::ONE, concat!($insn, " [{m}]"), (m = in(reg) &mut m));
                let mut env = Env::from_fcw(cw);
                let f: fn(F80, &mut Env) -> $t = $ours;
                let ours = f(a, &mut env);
                let ours = if env.blocks_memory_store() { $untouched } else { ours };
                if (ours, our_status(&env)) != (m, status(sw)) {
                    failures.note(format!("{} {a:x?} FCW {cw:x}: ours {ours:x?} {:x?} native {m:x?} {:x?}", $insn, our_status(&env), status(sw)));
                }
            }
        }
    };
}
x87_store!(
    fst_m32_is_the_processors,
    "fst dword ptr",
    u32,
    0x5555_5555,
    (0x3fff - 160, 320),
    x87::to_f32
);
x87_store!(
    fst_m64_is_the_processors,
    "fst qword ptr",
    u64,
    0x5555_5555,
    (0x3fff - 1090, 2200),
    x87::to_f64
);
x87_store!(
    fist_m16_is_the_processors,
    "fist word ptr",
    i16,
    0x5555,
    (0x3ffc, 20),
    |a, e| x87::to_i16(a, e.rounding, e)
);
x87_store!(
    fist_m32_is_the_processors,
    "fist dword ptr",
    i32,
    0x5555,
    (0x3ffc, 40),
    |a, e| x87::to_i32(a, e.rounding, e)
);
x87_store!(
    fistp_m64_is_the_processors,
    "fistp qword ptr",
    i64,
    0x5555,
    (0x3ffc, 70),
    |a, e| x87::to_i64(a, e.rounding, e)
);
x87_store!(
    fisttp_m16_is_the_processors,
    "fisttp word ptr",
    i16,
    0x5555,
    (0x3ffc, 20),
    |a, e| x87::to_i16(a, Rounding::Zero, e)
);
x87_store!(
    fisttp_m64_is_the_processors,
    "fisttp qword ptr",
    i64,
    0x5555,
    (0x3ffc, 70),
    |a, e| x87::to_i64(a, Rounding::Zero, e)
);
x87_store!(
    fbstp_is_the_processors,
    "fbstp tbyte ptr",
    [u8; 10],
    [0x55; 10],
    (0x3ffc, 66),
    x87::to_bcd
);

#[test]
fn fbld_is_the_processors_even_for_digits_above_nine() {
    let mut r = Random::new();
    let mut failures = Failures(Vec::new());
    for _ in 0..cases() {
        let mut m = [0u8; 10];
        let valid = r.below(4) != 0;
        for b in &mut m {
            *b = r.next() as u8;
            if valid {
                *b = (((*b >> 4) % 10) << 4) | ((*b & 15) % 10);
            }
        }
        let (_, st0, _) =
            on_x87!(0x37fu16, F80::ONE, F80::ONE, "fbld tbyte ptr [{m}]", (m = in(reg) &m));
        let ours = x87::from_bcd(m);
        if ours != st0 {
            failures.note(format!("fbld {m:x?}: ours {ours:x?} native {st0:x?}"));
        }
    }
}

// ---- transcendentals ----

/// Distance of two results in units in the last place; None if they are not comparable.
fn ulps(a: F80, b: F80) -> Option<u128> {
    let key = |f: F80| -> i128 {
        let magnitude =
            ((f.sign_exponent & 0x7fff) as i128) << 63 | (f.significand & !(1 << 63)) as i128;
        if f.sign() { -magnitude } else { magnitude }
    };
    let special = |f: F80| f.sign_exponent & 0x7fff == 0x7fff;
    if special(a) || special(b) {
        (a == b).then_some(0)
    } else {
        Some((key(a) - key(b)).unsigned_abs())
    }
}

/// At the border of the normal numbers.
fn at_an_end(f: F80) -> bool {
    matches!(
        (f.sign_exponent & 0x7fff, f.significand),
        (0, 0x7fff_ffff_ffff_ffff) | (1 | 0x7fff, 0x8000_0000_0000_0000) | (0x7ffe, u64::MAX)
    )
}

struct Pushed {
    st0: F80,
    st1: F80,
}

macro_rules! transcendental {
    ($test:ident, $insn:literal, $result:ident, $ours:expr) => {
        #[test]
        fn $test() {
            let mut r = Random::new();
            let mut failures = Failures(Vec::new());
            let mut off_by_one = 0u64;
            let mut c1_differs = 0u64;
            for _ in 0..cases() {
                let ((mut a, b), cw) = (x87_pair(&mut r), r.fcw());
                if r.below(2) == 0 {
                    a.sign_exponent = a.sign_exponent & 0x8000 | (0x3fff + 4 - r.below(16)) as u16;
                    a.significand |= 1 << 63;
                }
                let (sw, st0, st1) = on_x87!(cw, a, b, $insn);
                let pushed = Pushed { st0, st1 };
                // Where FPTAN pushed nothing the operand is still on top.
                let st0 = if sw & 0x400 != 0 { st0 } else { pushed.$result };
                let mut env = Env::from_fcw(cw);
                let f: fn(F80, F80, &mut Env) -> Option<F80> = $ours;
                let (ours, c2) = match f(a, b, &mut env) {
                    Some(f) if !env.blocks_register_store() => (f, false),
                    Some(_) => (st0, sw & 0x400 != 0),
                    None => (a, true),
                };
                let distance = ulps(ours, st0);
                // A unit in the last place can decide over overflow and underflow.
                let mut flags_differ = env.flags.bits() as u16 ^ sw & 0x3f;
                if at_an_end(ours) || at_an_end(st0) {
                    if flags_differ & 0x18 != 0 && cw & 0x18 != 0x18 {
                        continue;
                    }
                    flags_differ &= !0x18;
                }
                if c2 != (sw & 0x400 != 0) || flags_differ != 0 || distance.is_none_or(|d| d > 1) {
                    failures.note(format!("{} {a:x?}, {b:x?} FCW {cw:x}: ours {ours:x?} {:x?} native {st0:x?} {:x?} C2 {}", $insn, our_status(&env), status(sw), sw & 0x400 != 0));
                }
                off_by_one += (distance == Some(1)) as u64;
                c1_differs += (env.c1 != status(sw).1) as u64;
            }
            println!("{}: {off_by_one} of {} differ by one ulp, {c1_differs} in C1", $insn, cases());
        }
    };
}
transcendental!(fsin_is_within_an_ulp, "fsin", st0, |a, _, e| x87::sin(a, e));
transcendental!(fcos_is_within_an_ulp, "fcos", st0, |a, _, e| x87::cos(a, e));
transcendental!(
    fsincos_cosine_is_within_an_ulp,
    "fsincos",
    st0,
    |a, _, e| x87::sincos(a, e).map(|(_, c)| c)
);
transcendental!(fptan_is_within_an_ulp, "fptan", st1, |a, _, e| x87::tan(
    a, e
));
transcendental!(fpatan_is_within_an_ulp, "fpatan", st0, |a, b, e| Some(
    x87::atan(b, a, e)
));
transcendental!(f2xm1_is_within_an_ulp, "f2xm1", st0, |a, _, e| Some(
    x87::f2xm1(a, e)
));
transcendental!(fyl2x_is_within_an_ulp, "fyl2x", st0, |a, b, e| Some(
    x87::yl2x(a, b, e)
));
transcendental!(fyl2xp1_is_within_an_ulp, "fyl2xp1", st0, |a, b, e| Some(
    x87::yl2xp1(a, b, e)
));

/// Nanoseconds an operation; run with `--release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    use std::hint::black_box;
    let mut r = Random::new();
    let values: Vec<u64> = (0..1024)
        .map(|_| (0x3fd + r.below(8)) << 52 | r.next() >> 12)
        .collect();
    let extended: Vec<F80> = values
        .iter()
        .map(|v| x87::from_f64(*v, &mut Env::default()))
        .collect();
    macro_rules! measure {
        ($name:literal, $env:expr, $from:ident, $f:expr) => {{
            let mut env = $env;
            let start = std::time::Instant::now();
            let rounds = 200;
            for _ in 0..rounds {
                for pair in $from.windows(2) {
                    black_box($f(black_box(pair[0]), black_box(pair[1]), &mut env));
                    env.flags = $env.flags;
                }
            }
            println!(
                "{:<28}{:8.1} ns",
                $name,
                start.elapsed().as_nanos() as f64 / (rounds * 1023) as f64
            );
        }};
    }
    let sticky = Env {
        flags: Flags::PE,
        ..Env::DEFAULT
    };
    let down = Env {
        rounding: Rounding::Down,
        ..Env::DEFAULT
    };
    measure!("addsd sticky PE", sticky, values, sse::add::<u64>);
    measure!("addsd", Env::DEFAULT, values, sse::add::<u64>);
    measure!("addsd rounding down", down, values, sse::add::<u64>);
    measure!("mulsd sticky PE", sticky, values, sse::mul::<u64>);
    measure!("mulsd", Env::DEFAULT, values, sse::mul::<u64>);
    measure!("mulsd rounding down", down, values, sse::mul::<u64>);
    measure!("divsd sticky PE", sticky, values, sse::div::<u64>);
    measure!("divsd", Env::DEFAULT, values, sse::div::<u64>);
    measure!("divsd rounding down", down, values, sse::div::<u64>);
    measure!("sqrtsd", sticky, values, |a, _, e| sse::sqrt::<u64>(a, e));
    measure!(
        "vfmadd213sd",
        sticky,
        values,
        |a, b, e| sse::mul_add::<u64>(a, b, a, Negate::default(), e)
    );
    measure!("comisd", sticky, values, |a: u64, b: u64, e: &mut Env| {
        sse::compare(a, b, Signal::AnyNan, e)
    });
    measure!("cvttsd2si", sticky, values, |a: u64, _, e: &mut Env| {
        sse::to_i64(a, Rounding::Zero, e)
    });
    measure!("cvtsi2sd", sticky, values, |a: u64, _, e: &mut Env| {
        sse::from_i64::<u64>(a as i64 >> 20, e)
    });
    measure!("cvtsd2ss", sticky, values, |a: u64, _, e: &mut Env| {
        sse::f64_to_f32(a, e)
    });
    measure!("roundsd", sticky, values, |a: u64, _, e: &mut Env| {
        sse::round_to_integral(a, Rounding::Down, false, e)
    });
    measure!("fadd", sticky, extended, x87::add);
    measure!("fmul", sticky, extended, x87::mul);
    measure!("fdiv", sticky, extended, x87::div);
    measure!("fsqrt", sticky, extended, |a, _, e: &mut Env| x87::sqrt(
        a, e
    ));
    measure!(
        "fst m64",
        sticky,
        extended,
        |a, _, e: &mut Env| x87::to_f64(a, e)
    );
    measure!("fsin", sticky, extended, |a, _, e: &mut Env| x87::sin(a, e));
    measure!("fptan", sticky, extended, |a, _, e: &mut Env| x87::tan(
        a, e
    ));
    measure!("fpatan", sticky, extended, |a, b, e: &mut Env| x87::atan(
        a, b, e
    ));
    measure!("fyl2x", sticky, extended, |a, b, e: &mut Env| x87::yl2x(
        a, b, e
    ));
    measure!("f2xm1", sticky, extended, |a, _, e: &mut Env| x87::f2xm1(
        x87::scale(a, x87::from_i32(-4), e),
        e
    ));
}
