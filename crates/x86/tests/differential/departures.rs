//! What is not compared, each with its reason.

use super::state::{Exception, Outcome};
use iced_x86::{Code, Instruction, Mnemonic};
use x86::state::rflags;
use x86::table::{Privilege, Row};

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
        Int | Into | Int1 | Iret | Iretd | Iretq | Retf | Lds | Les | Lfs | Lgs | Lss => {
            "far transfer or segment load through the host's descriptor tables"
        }
        Sgdt | Sidt | Sldt | Str | Smsw => "UMIP: the host's kernel emulates it",
        Lar | Lsl | Verr | Verw | Arpl => "reads the host's descriptor tables",
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => "the host program's thread pointer",
        Xbegin | Xend | Xabort | Xtest => "transactional memory",
        In | Out | Insb | Insw | Insd | Outsb | Outsw | Outsd => {
            "the host's TSS decides about the port"
        }
        Mov | Push | Pop if moves_segment(row.code) => "loads or reads a segment selector",
        Jmp | Call if is_far(row.code) => {
            "far transfer or segment load through the host's descriptor tables"
        }
        Fxsave | Fxsave64 | Fxrstor | Fxrstor64 | Xsave | Xsave64 | Xsavec | Xsavec64
        | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 | Xsaves | Xsaves64 | Xrstors | Xrstors64 => {
            "the image depends on the host's features"
        }
        _ if info.code().op_code().amd_decoder64() && !info.intel_decoder64() && !info.mode32() => {
            "AMD processors only"
        }
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

fn moves_segment(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind::*;
    code.op_code()
        .op_kinds()
        .iter()
        .any(|k| matches!(k, seg_reg | es | cs | ss | ds | fs | gs))
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
    // For addresses of the kernel's half Linux sets P in the error code, to tell nothing of its
    // own mappings.
    if let Some(e) = &mut native.exception
        && e.vector == 14
        && e.address >= 0x7fff_ffff_f000
        && ours.exception.is_some_and(|o| o.address == e.address)
    {
        e.error &= !1;
    }
    // Linux does not tell #SS from #BP and the like by error code; #GP and #SS agree.
    if let (Some(Exception { vector: 3, .. }), Some(e)) = (native.exception, &mut ours.exception) {
        e.error = 0;
    }
    differed
}
