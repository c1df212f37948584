//! What is not compared, each with its reason.

use super::state::Outcome;
use iced_x86::{Code, Instruction, Mnemonic};
use x86::state::rflags;
use x86::table::{Privilege, Row};

/// True if the decoder never makes this row's instruction: the waiting forms of x87 are WAIT and
/// another instruction. Such rows count in no total.
pub fn never_decoded(row: &Row) -> bool {
    row.code.op_code().op_code_string().starts_with("9B ")
        || (row.code.op_code().amd_decoder64()
            && !row.code.op_code().intel_decoder64()
            && !row.code.op_code().mode32())
}

/// True if this host has what the row needs. Such rows are not compared on a host without.
pub fn host_has(row: &Row) -> bool {
    use std::arch::is_x86_feature_detected as has;
    row.code.cpuid_features().iter().all(|f| {
        match format!("{f:?}").as_str() {
            "AVX2" => has!("avx2"),
            "FMA" => has!("fma"),
            "F16C" => has!("f16c"),
            "BMI1" => has!("bmi1"),
            "BMI2" => has!("bmi2"),
            "LZCNT" => has!("lzcnt"),
            "MOVBE" => has!("movbe"),
            "ADX" => has!("adx"),
            "AES" => has!("aes"),
            "PCLMULQDQ" => has!("pclmulqdq"),
            "VPCLMULQDQ" => has!("vpclmulqdq"),
            "VAES" => has!("vaes"),
            "SHA" => has!("sha"),
            "GFNI" => has!("gfni"),
            "XSAVEC" => has!("xsavec"),
            // The rest is in every x86-64-v2 processor, or not in the table.
            _ => true,
        }
    })
}

/// Why a row is not run natively; `None` if it is.
pub fn skipped(row: &Row) -> Option<&'static str> {
    use Mnemonic::*;
    let info = row.code.op_code();
    Some(match row.code.mnemonic() {
        Rdtsc | Rdtscp | Rdpmc => "reads a counter",
        Rdpid => "reads the host's TSC_AUX",
        Rdrand | Rdseed => "random by definition",
        Cpuid | Xgetbv => "describes the host, not the model",
        Syscall | Sysenter | Sysret | Sysretq | Sysexit | Sysexitq => "enters the host's kernel",
        Int1 | Iret | Iretd | Iretq | Retf | Lds | Les | Lfs | Lgs | Lss => {
            "far transfer or segment load through the host's descriptor tables"
        }
        Sgdt | Sidt | Sldt | Str | Smsw => "UMIP: the host's kernel emulates it",
        Lar | Lsl | Verr | Verw => "reads the host's descriptor tables",
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => "the host program's thread pointer",
        Xbegin | Xend | Xabort | Xtest => "transactional memory",
        Mov | Pop if loads_segment(row.code) => "loads a segment register",
        Jmp | Call if is_far(row.code) => {
            "far transfer or segment load through the host's descriptor tables"
        }
        Xsaveopt | Xsaveopt64 => "the processor leaves out what it knows to be unchanged",
        _ if row.privilege == Privilege::Cpl0 => "privileged",
        _ if !(info.mode64() || info.mode32()) => "16-bit code only",
        _ => return None,
    })
}

fn is_far(code: Code) -> bool {
    format!("{code:?}").contains("_m1616")
        || format!("{code:?}").contains("_m1632")
        || format!("{code:?}").contains("_m1664")
        || format!("{code:?}").contains("_ptr16")
}

fn loads_segment(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind::*;
    matches!(code.op_code().op_kind(0), seg_reg | es | ss | ds | fs | gs)
}

/// Flags that the manuals leave undefined after this instruction, as RFLAGS bits.
fn undefined_flags(i: &Instruction) -> u64 {
    use iced_x86::RflagsBits as B;
    let bits = i.rflags_undefined();
    let mut mask = 0;
    for (theirs, ours) in [
        (B::OF, rflags::OF),
        (B::SF, rflags::SF),
        (B::ZF, rflags::ZF),
        (B::AF, rflags::AF),
        (B::CF, rflags::CF),
        (B::PF, rflags::PF),
    ] {
        if bits & theirs != 0 {
            mask |= ours;
        }
    }
    mask
}

fn is_masked(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        i.mnemonic(),
        Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq
    )
}

fn is_transcendental(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        i.mnemonic(),
        Fsin | Fcos | Fsincos | Fptan | Fpatan | F2xm1 | Fyl2x | Fyl2xp1
    )
}

/// Takes over results that are one unit in the last place away.
fn transcendental(native: &Outcome, ours: &mut Outcome) {
    let (a, b) = (&native.registers.x87, &mut ours.registers.x87);
    for (a, b) in a.regs.iter().zip(&mut b.regs) {
        let wide = |r: &x86::state::Register80| {
            u128::from(r.sign_exponent) << 63 | u128::from(r.significand & !(1 << 63))
        };
        if wide(a).abs_diff(wide(b)) == 1 {
            *b = *a;
        }
    }
    b.status = b.status & !0x200 | a.status & 0x200;
}

/// A case that says nothing: the instruction set TF, and the step is the harness's.
pub fn void(i: &Instruction, native: &Outcome) -> bool {
    matches!(
        i.mnemonic(),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq
    ) && native.exception.is_some_and(|e| e.vector == 1)
}

/// Makes equal what is not to be compared. Returns true if a flag that the manuals leave
/// undefined differed.
pub fn reconcile(i: &Instruction, native: &mut Outcome, ours: &mut Outcome) -> bool {
    // RF: the kernel's frame shows it set at a fault.
    native.registers.rflags &= !rflags::RF;
    ours.registers.rflags &= !rflags::RF;
    let mut differed = false;
    if native.exception.is_none() {
        let mask = undefined_flags(i);
        let difference = (native.registers.rflags ^ ours.registers.rflags) & mask;
        differed = difference != 0;
        ours.registers.rflags ^= difference;
    }
    // Which byte of a masked access that faults is in CR2 differs between processors: the page is
    // compared.
    if is_masked(i)
        && let (Some(e), Some(o)) = (&mut native.exception, &mut ours.exception)
    {
        e.address &= !0xfff;
        o.address &= !0xfff;
    }
    // For addresses of the kernel's half Linux sets P in the error code, to tell nothing of its
    // own mappings.
    if let Some(e) = &mut native.exception
        && e.vector == 14
        && e.address >= 0x7fff_ffff_f000
        && ours.exception.is_some_and(|o| o.address == e.address)
    {
        e.error &= !1;
    }
    // INT3 and INTO: our IDT is empty, so that they end in #GP of their gate.
    if let (Some(e), Some(o)) = (native.exception, ours.exception)
        && matches!(e.vector, 3 | 4)
        && o.vector == 13
        && o.error == u32::from(e.vector) << 3 | 2
    {
        native.exception = ours.exception;
        native.registers.rip = ours.registers.rip;
    }
    // Processors sign-extend FIP and FDP from the width of their linear addresses when they load
    // them; the model keeps 64 bits, and has 48.
    if matches!(i.mnemonic(), Mnemonic::Fxrstor64 | Mnemonic::Xrstor64) {
        for registers in [&mut native.registers, &mut ours.registers] {
            registers.x87.ip &= 0xffff_ffff_ffff;
            registers.x87.dp &= 0xffff_ffff_ffff;
        }
    }
    // 1 ulp of the transcendental instructions, and the C1 that goes with it.
    if is_transcendental(i) {
        transcendental(native, ours);
    }
    differed
}
