//! The architectural state of one processor: what every engine can give and take, and what is
//! saved. Nothing here is a cache.

use serde::{Deserialize, Serialize};

/// Indices of the general registers in [`CpuState::gpr`], as instructions encode them.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// Indices of the segment registers in [`CpuState::seg`], as instructions encode them.
#[allow(missing_docs)]
pub mod seg {
    pub const ES: u8 = 0;
    pub const CS: u8 = 1;
    pub const SS: u8 = 2;
    pub const DS: u8 = 3;
    pub const FS: u8 = 4;
    pub const GS: u8 = 5;
}

/// RFLAGS bits (SDM volume 1, "EFLAGS Register").
#[allow(missing_docs)]
pub mod rflags {
    pub const CF: u64 = 1;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six flags that arithmetic sets.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every bit that can be one.
    pub const ALL: u64 =
        ARITHMETIC | FIXED | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

/// CR0 bits.
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits.
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// XCR0 bits.
#[allow(missing_docs)]
pub mod xcr0 {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 2;
    pub const AVX: u64 = 4;
}

/// A segment's access rights: bits 0–7 are descriptor bits 40–47 (type, S, DPL, P), bits 8–11
/// are descriptor bits 52–55 (AVL, L, D/B, G), as in a VMCB.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes(pub u16);

impl Attributes {
    /// Type field: 4 bits.
    pub const fn kind(self) -> u8 {
        (self.0 & 15) as u8
    }
    /// S: a code or data segment, not a system one.
    pub const fn is_code_or_data(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// A code segment.
    pub const fn is_code(self) -> bool {
        self.0 & 0x18 == 0x18
    }
    /// A conforming code segment.
    pub const fn is_conforming(self) -> bool {
        self.0 & 0x1c == 0x1c
    }
    /// A writable data segment.
    pub const fn is_writable(self) -> bool {
        self.0 & 0x1a == 0x12
    }
    /// A data segment or a readable code segment.
    pub const fn is_readable(self) -> bool {
        self.0 & 0x10 != 0 && self.0 & 0xa != 8
    }
    /// An expand-down data segment.
    pub const fn is_expand_down(self) -> bool {
        self.0 & 0x1c == 0x14
    }
    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        (self.0 >> 5 & 3) as u8
    }
    /// Present. A segment register that holds a null selector is not present.
    pub const fn present(self) -> bool {
        self.0 & 0x80 != 0
    }
    /// L: 64-bit code.
    pub const fn long(self) -> bool {
        self.0 & 0x200 != 0
    }
    /// D/B: 32-bit default size or big stack.
    pub const fn big(self) -> bool {
        self.0 & 0x400 != 0
    }
    /// G: the limit counts pages.
    pub const fn granular(self) -> bool {
        self.0 & 0x800 != 0
    }
    /// With another DPL.
    pub const fn with_dpl(self, dpl: u8) -> Self {
        Attributes(self.0 & !0x60 | (dpl as u16 & 3) << 5)
    }
}

impl core::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#05x}", self.0)
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Access rights.
    pub attributes: Attributes,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// An 80-bit x87 register.
pub use crate::softfloat::F80 as Register80;

/// The x87 state (SDM volume 1, "x87 FPU Execution Environment").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct X87 {
    /// R0–R7, the physical registers: ST(i) is `regs[(top + i) & 7]`.
    pub regs: [Register80; 8],
    /// Control word.
    pub control: u16,
    /// Status word, with TOP in bits 11–13.
    pub status: u16,
    /// One bit per physical register: set if it holds a value (the abridged tag of FXSAVE).
    pub valid: u8,
    /// Opcode of the last non-control instruction (11 bits).
    pub opcode: u16,
    /// Its address: offset and, outside 64-bit forms, selector.
    pub ip: u64,
    /// Selector part of `ip`.
    pub cs: u16,
    /// Address of its memory operand.
    pub dp: u64,
    /// Selector part of `dp`.
    pub ds: u16,
}

impl Default for X87 {
    /// The state after FNINIT and after reset.
    fn default() -> Self {
        X87 {
            regs: [Register80::default(); 8],
            control: 0x37f,
            status: 0,
            valid: 0,
            opcode: 0,
            ip: 0,
            cs: 0,
            dp: 0,
            ds: 0,
        }
    }
}

/// Model-specific registers that the processor itself owns. The local APIC's belong to the
/// machine, see [`crate::Bus::msr_read`].
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_adjust: u64,
    pub tsc_aux: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [[u64; 2]; 8],
    pub spec_ctrl: u64,
    pub mcg_status: u64,
}

/// What a processor is doing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Running,
    /// HLT: until an interrupt, NMI or INIT.
    Halted,
    /// After INIT on an application processor: until a start-up IPI.
    WaitForSipi,
    /// After a triple fault: until INIT or reset.
    Shutdown,
}

/// Whether events are held off for one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Shadow {
    /// No.
    #[default]
    None,
    /// After STI: external interrupts are held off.
    Sti,
    /// After MOV SS or POP SS: interrupts, NMIs and debug traps are held off.
    MovSs,
}

/// The complete architectural state of one processor at an instruction boundary.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15; see [`gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer, relative to CS.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS; see [`seg`].
    pub seg: [Segment; 6],
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table register.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table register.
    pub idtr: TableRegister,
    /// Current privilege level, 0–3.
    pub cpl: u8,
    /// Control registers. CR8 is the local APIC's.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table base, PCID.
    pub cr3: u64,
    /// Feature enables.
    pub cr4: u64,
    /// The PDPTE registers, loaded by MOV CR3 under PAE paging.
    pub pdpte: [u64; 4],
    /// Extended feature enable register.
    pub efer: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// DR0–DR3: breakpoint addresses.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// x87 and MMX.
    pub x87: X87,
    /// SSE control and status.
    pub mxcsr: u32,
    /// YMM0–YMM15, least significant quadword first; XMM is the lower half.
    pub vector: [[u64; 4]; 16],
    /// Model-specific registers.
    pub msr: Msrs,
    /// Running, halted, …
    pub activity: Activity,
    /// Interrupt shadow.
    pub shadow: Shadow,
    /// An NMI is being handled: further ones wait for IRET.
    pub nmi_blocked: bool,
}

impl CpuState {
    /// The state after power-up or RESET# (SDM volume 3, "Processor State After Reset");
    /// `signature` is what EDX holds: the CPUID family, model and stepping. Application
    /// processors wait for a start-up IPI, the bootstrap processor runs.
    pub fn reset(signature: u32, bootstrap: bool) -> CpuState {
        let data = Segment {
            selector: 0,
            attributes: Attributes(0x93),
            limit: 0xffff,
            base: 0,
        };
        let mut seg = [data; 6];
        seg[seg::CS as usize] = Segment {
            selector: 0xf000,
            attributes: Attributes(0x9b),
            limit: 0xffff,
            base: 0xffff_0000,
        };
        let mut gpr = [0; 16];
        gpr[gpr::RDX] = u64::from(signature);
        CpuState {
            gpr,
            rip: 0xfff0,
            rflags: rflags::FIXED,
            seg,
            ldtr: Segment {
                attributes: Attributes(0x82),
                ..data
            },
            tr: Segment {
                attributes: Attributes(0x8b),
                ..data
            },
            gdtr: TableRegister {
                base: 0,
                limit: 0xffff,
            },
            idtr: TableRegister {
                base: 0,
                limit: 0xffff,
            },
            cpl: 0,
            cr0: cr0::ET | cr0::NW | cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdpte: [0; 4],
            efer: 0,
            xcr0: xcr0::X87,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            // Reset, unlike FNINIT, leaves 0x40 in the control word and all tags at zero.
            x87: X87 {
                control: 0x40,
                valid: 0xff,
                ..X87::default()
            },
            mxcsr: 0x1f80,
            vector: [[0; 4]; 16],
            msr: Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                ..Msrs::default()
            },
            activity: if bootstrap {
                Activity::Running
            } else {
                Activity::WaitForSipi
            },
            shadow: Shadow::None,
            nmi_blocked: false,
        }
    }

    /// True in 64-bit mode (not in compatibility mode).
    pub fn is_64bit(&self) -> bool {
        self.efer & efer::LMA != 0 && self.seg[seg::CS as usize].attributes.long()
    }
}
