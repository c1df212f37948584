//! 64-bit instructions as 32-bit code has them: the generator writes programs once.

use iced_x86::{Code, CodeSize, Instruction, OpKind, Register};

/// The same operation with the operand size that 32-bit code has. What has none stays as it is
/// and does not encode.
fn code(code: Code) -> Code {
    macro_rules! pairs {
        ($($wide:ident $narrow:ident)*) => {
            match code { $(Code::$wide => Code::$narrow,)* other => other }
        };
    }
    pairs! {
        Mov_r64_rm64 Mov_r32_rm32
        Mov_rm64_r64 Mov_rm32_r32
        Mov_r64_imm64 Mov_r32_imm32
        Mov_rm64_imm32 Mov_rm32_imm32
        Movsx_r64_rm8 Movsx_r32_rm8
        Lea_r64_m Lea_r32_m
        Add_r64_rm64 Add_r32_rm32
        Add_rm64_r64 Add_rm32_r32
        Cmp_rm64_imm8 Cmp_rm32_imm8
        Cmp_r64_rm64 Cmp_r32_rm32
        And_r64_rm64 And_r32_rm32
        Adc_r64_rm64 Adc_r32_rm32
        Inc_rm32 Inc_r32
        Dec_rm64 Dec_rm32
        Neg_rm64 Neg_rm32
        Shl_rm64_imm8 Shl_rm32_imm8
        Sar_rm64_1 Sar_rm32_1
        Imul_r64_rm64 Imul_r32_rm32
        Mul_rm64 Mul_rm32
        Idiv_rm64 Idiv_rm32
        Push_r64 Push_r32
        Push_rm64 Push_rm32
        Pushq_imm8 Pushd_imm8
        Pushq_imm32 Pushd_imm32
        Pop_r64 Pop_r32
        Pop_rm64 Pop_rm32
        Leaveq Leaved
        Pushfq Pushfd
        Popfq Popfd
        Cmove_r64_rm64 Cmove_r32_rm32
        Bts_rm64_imm8 Bts_rm32_r32
        Bsf_r64_rm64 Bsf_r32_rm32
        Xchg_rm64_r64 Xchg_rm32_r32
        Cmpxchg_rm64_r64 Cmpxchg_rm32_r32
        Stosq_m64_RAX Stosd_m32_EAX
        Movsq_m64_m64 Movsd_m32_m32
        Jmp_rm64 Jmp_rm32
        Call_rm64 Call_rm32
        Retnq Retnd
        Retnq_imm16 Retnd_imm16
        Jmp_rel32_64 Jmp_rel32_32
        Call_rel32_64 Call_rel32_32
        Je_rel32_64 Je_rel32_32
        Jne_rel32_64 Jne_rel32_32
        Jb_rel32_64 Jb_rel32_32
        Jae_rel32_64 Jae_rel32_32
        Jl_rel32_64 Jl_rel32_32
        Jg_rel32_64 Jg_rel32_32
        Js_rel32_64 Js_rel32_32
        Jo_rel32_64 Jo_rel32_32
        Jp_rel32_64 Jp_rel32_32
        Jbe_rel32_64 Jbe_rel32_32
        Mov_r64_cr Mov_r32_cr
        Mov_cr_r64 Mov_cr_r32
        Iretq Iretd
        Fxsave64_m512byte Fxsave_m512byte
        Fxrstor64_m512byte Fxrstor_m512byte
    }
}

fn register(r: Register) -> Register {
    let number = r.number() as u32;
    // What is not there: another one, but not the stack pointer.
    let low = match number {
        12 => 1,
        n => n & 7,
    };
    match r {
        r if r.is_gpr64() => Register::EAX + low,
        r if r.is_gpr32() => Register::EAX + low,
        r if r.is_gpr16() => Register::AX + low,
        Register::SPL | Register::BPL | Register::SIL | Register::DIL => {
            Register::AH + (r as u32 - Register::SPL as u32)
        }
        r if r.is_xmm() => Register::XMM0 + (number & 7),
        r if r.is_ymm() => Register::YMM0 + (number & 7),
        r => r,
    }
}

/// Which code a generated instruction stands for in 32-bit code.
pub fn instruction(wide: &Instruction) -> Instruction {
    let mut i = *wide;
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let mut to = code(i.code());
    // INC has a short form of its own, for registers only.
    if to == Code::Inc_r32 && memory {
        to = Code::Inc_rm32;
    }
    if to == Code::Bts_rm32_r32 && i.op1_kind() != OpKind::Register {
        to = Code::Bts_rm32_imm8;
    }
    i.set_code(to);
    i.set_code_size(CodeSize::Code32);
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register => i.set_op_register(n, register(i.op_register(n))),
            OpKind::Immediate64 => {
                let value = i.immediate64() as u32;
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value);
            }
            OpKind::Immediate32to64 => {
                let value = i.immediate32to64() as u32;
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value);
            }
            OpKind::Immediate8to64 => i.set_op_kind(n, OpKind::Immediate8to32),
            OpKind::NearBranch64 => {
                let to = i.near_branch64() as u32;
                i.set_op_kind(n, OpKind::NearBranch32);
                i.set_near_branch32(to);
            }
            OpKind::MemorySegRSI => i.set_op_kind(n, OpKind::MemorySegESI),
            OpKind::MemorySegRDI => i.set_op_kind(n, OpKind::MemorySegEDI),
            OpKind::MemoryESRDI => i.set_op_kind(n, OpKind::MemoryESEDI),
            _ => {}
        }
    }
    if memory && !i.memory_base().is_gpr16() {
        i.set_memory_base(register(i.memory_base()));
        if !i.memory_index().is_gpr8() {
            i.set_memory_index(register(i.memory_index()));
        }
        if i.memory_displ_size() == 8 {
            i.set_memory_displ_size(4);
        }
        i.set_memory_displacement64(i.memory_displacement64() & 0xffff_ffff);
    }
    i
}
