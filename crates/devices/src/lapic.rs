//! The local APIC of one CPU, as xAPIC (a page of registers) and as x2APIC (MSRs): SDM volume 3,
//! "Advanced Programmable Interrupt Controller (APIC)".
//!
//! The interrupt hub owns one per CPU. It asks [`Lapic::matches`], hands over interrupts with
//! [`Lapic::accept`], drives LINT0 and LINT1, and looks at [`Lapic::pending`]; what the APIC does
//! to the rest of the machine goes through [`ApicWires`]. It reads no clock: every call that
//! involves the timer is told the machine time, and the machine arms [`Lapic::deadline_ns`] after
//! each call. One count of the timer is 1 ns (a bus clock of 1 GHz) times the divisor;
//! TSC-deadline goes through the relation [`TscClock`].
//!
//! Not modelled: SMI (ignored), the CMCI entry and the performance and thermal sources (their
//! entries are registers only), arbitration and delivery status (a message is accepted at once),
//! the polarity and remote IRR of the LINT pins. The APIC ID can't be written, as on processors
//! with x2APIC. Trigger mode "level" of an IPI counts for INIT de-assert only.

pub use crate::lapic_timer::TscClock;
use crate::lapic_timer::{Mode, Timer};
use crate::{Inspector, LoadError, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// IA32_APIC_BASE: this is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// Where the page of registers is after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// The first x2APIC MSR; the register at MMIO offset `16 * n` is MSR `X2APIC_MSR + n`.
pub const X2APIC_MSR: u32 = 0x800;
/// The destination that every APIC accepts.
pub const BROADCAST: u32 = u32::MAX;

/// Version 0x14, six local vectors, EOI-broadcast suppression.
const VERSION: u32 = 0x0105_0014;
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_ERROR: usize = 5;
/// Writable bits of the local vector table: timer, thermal, performance, LINT0, LINT1, error.
const LVT_BITS: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const LVT_MASKED: u32 = 1 << 16;
const SVR_ENABLE: u32 = 1 << 8;
const SVR_NO_BROADCAST: u32 = 1 << 12;
const SVR_BITS: u32 = 0x11ff;
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_REGISTER: u32 = 1 << 7;
/// Writable bits of the low half of the ICR.
const ICR_BITS: u32 = 0xc_cfff;

/// A delivery mode, as in the ICR, the local vectors and messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The vector, to all addressed.
    Fixed,
    /// The vector, to the addressed CPU of lowest priority.
    LowestPriority,
    /// System management interrupt; ignored.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, at page `vector`.
    StartUp,
    /// The vector comes from the 8259.
    ExtInt,
}

impl Delivery {
    /// Decodes the three-bit field; 3 is reserved.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            7 => Delivery::ExtInt,
            _ => return None,
        })
    }
}

/// Whom an IPI is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Those that [`Lapic::matches`] accepts; [`BROADCAST`] is everyone in either mode.
    Destination {
        /// APIC ID or logical mask.
        destination: u32,
        /// Logical destination mode.
        logical: bool,
    },
    /// The sender.
    Myself,
    /// All, the sender too.
    All,
    /// All but the sender.
    Others,
}

/// An interprocessor interrupt on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipi {
    /// Delivery mode. INIT level de-assert is not sent: it only set arbitration IDs once.
    pub delivery: Delivery,
    /// Vector, or page for start-up.
    pub vector: u8,
    /// Whom it is for.
    pub target: Target,
}

/// What an APIC does to the rest of the machine.
pub trait ApicWires {
    /// An IPI leaves.
    fn ipi(&mut self, ipi: Ipi);
    /// A level-triggered interrupt has ended: the broadcast to the I/O APICs.
    fn eoi(&mut self, vector: u8);
    /// This CPU gets an NMI from a local source.
    fn nmi(&mut self);
}

/// The access is illegal: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// 256 bits, one per vector.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let bit = 1u32 << (vector & 31);
        let word = &mut self.0[usize::from(vector >> 5)];
        *word = if on { *word | bit } else { *word & !bit };
    }
    fn get(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }
    fn highest(&self) -> Option<u8> {
        let word = (0..8).rev().find(|&i| self.0[i] != 0)?;
        Some(word as u8 * 32 + (31 - self.0[word].leading_zeros()) as u8)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    id: u32,
    base: u64,
    tpr: u8,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    svr: u32,
    /// The ESR as read, and the errors since its last write.
    esr: u32,
    errors: u32,
    lvt: [u32; 6],
    icr: u64,
    ldr: u32,
    dfr: u32,
    timer: Timer,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
}

impl State {
    fn new(id: u32, base: u64) -> Self {
        State {
            id,
            base,
            tpr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            svr: 0xff,
            esr: 0,
            errors: 0,
            lvt: [LVT_MASKED; 6],
            icr: 0,
            ldr: 0,
            dfr: u32::MAX,
            timer: Timer::default(),
            lint: [false; 2],
        }
    }
}

/// A local APIC.
pub struct Lapic {
    s: State,
}

impl Lapic {
    /// The APIC with this ID at power-on: enabled, in xAPIC mode, software-disabled. `bsp` marks
    /// the bootstrap processor.
    pub fn new(id: u32, bsp: bool) -> Self {
        let bsp = if bsp { BASE_BSP } else { 0 };
        Lapic {
            s: State::new(id, DEFAULT_BASE | BASE_ENABLE | bsp),
        }
    }

    /// Back to power-on.
    pub fn power_on(&mut self) {
        let base = DEFAULT_BASE | BASE_ENABLE | self.s.base & BASE_BSP;
        self.s = State {
            lint: self.s.lint,
            ..State::new(self.s.id, base)
        };
    }

    /// "Local APIC State After an INIT Reset": as at power-up, but ID and base register stay.
    pub fn init_reset(&mut self) {
        self.s = State {
            lint: self.s.lint,
            ..State::new(self.s.id, self.s.base)
        };
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.s.id
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.s.base
    }

    /// Writes IA32_APIC_BASE ("x2APIC State Transitions"). `physical_bits` is MAXPHYADDR.
    pub fn set_base(&mut self, value: u64, physical_bits: u32) -> Result<(), GeneralProtection> {
        let address = u64::MAX
            .checked_shr(64 - physical_bits.clamp(32, 52))
            .unwrap_or(0)
            & !0xfff;
        if value & !(address | BASE_BSP | BASE_EXTD | BASE_ENABLE) != 0 {
            return Err(GeneralProtection);
        }
        const OFF: u64 = 0;
        const INVALID: u64 = BASE_EXTD;
        const X2APIC: u64 = BASE_ENABLE | BASE_EXTD;
        let mode = |base: u64| base & X2APIC;
        match (mode(self.s.base), mode(value)) {
            (_, INVALID) | (OFF, X2APIC) | (X2APIC, BASE_ENABLE) => return Err(GeneralProtection),
            (BASE_ENABLE | X2APIC, OFF) => {
                self.init_reset();
            }
            (BASE_ENABLE, X2APIC) => self.s.icr &= 0xffff_ffff,
            _ => {}
        }
        self.s.base = value;
        Ok(())
    }

    /// Whether IA32_APIC_BASE enables it.
    pub fn enabled(&self) -> bool {
        self.s.base & BASE_ENABLE != 0
    }

    /// Whether it is in x2APIC mode.
    pub fn x2apic(&self) -> bool {
        self.s.base & (BASE_ENABLE | BASE_EXTD) == BASE_ENABLE | BASE_EXTD
    }

    /// The guest-physical address of its page of registers: only in xAPIC mode.
    pub fn mmio_page(&self) -> Option<u64> {
        (self.enabled() && !self.x2apic()).then_some(self.s.base & !0xfff)
    }

    /// Whether it is enabled by hardware and by the spurious-vector register: only then it takes
    /// fixed interrupts.
    pub fn software_enabled(&self) -> bool {
        self.enabled() && self.s.svr & SVR_ENABLE != 0
    }

    /// Whether it is addressed by `destination` ("Determining IPI Destination").
    pub fn matches(&self, destination: u32, logical: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if destination == BROADCAST {
            return true;
        }
        match (logical, self.x2apic()) {
            (false, _) => destination == self.s.id,
            (true, true) => {
                let ldr = self.x2apic_ldr();
                destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0
            }
            (true, false) => {
                let Ok(destination) = u8::try_from(destination) else {
                    return false;
                };
                let ldr = (self.s.ldr >> 24) as u8;
                if self.s.dfr >> 28 == 0xf {
                    destination & ldr != 0
                } else {
                    let same_cluster = destination >> 4 == ldr >> 4 || destination >> 4 == 0xf;
                    same_cluster && destination & ldr & 0x0f != 0
                }
            }
        }
    }

    /// What lowest-priority delivery compares: the processor priority.
    pub fn priority(&self) -> u8 {
        self.ppr()
    }

    /// Takes in a fixed interrupt.
    pub fn accept(&mut self, vector: u8, level: bool, wires: &mut dyn ApicWires) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL, wires);
            return;
        }
        self.s.irr.set(vector, true);
        self.s.tmr.set(vector, level);
    }

    /// The interrupt that INTR stands for: the highest requested one above the processor
    /// priority.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.s.irr.highest().filter(|_| self.enabled())?;
        (vector >> 4 > self.ppr() >> 4).then_some(vector)
    }

    /// The interrupt acknowledge: [`Self::pending`] goes into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.s.irr.set(vector, false);
        self.s.isr.set(vector, true);
        Some(vector)
    }

    /// Whether INTR of the 8259 reaches this CPU: through LINT0 as ExtINT, or past an APIC that
    /// is off.
    pub fn accepts_ext_int(&self) -> bool {
        let lint0 = self.s.lvt[LVT_LINT0];
        !self.enabled() || lint0 & LVT_MASKED == 0 && lint0 >> 8 & 7 == 7
    }

    /// Drives LINT0 (INTR of the 8259) or LINT1 (NMI).
    pub fn set_lint(&mut self, pin: u8, level: bool, wires: &mut dyn ApicWires) {
        let i = usize::from(pin & 1);
        let rising = level && !self.s.lint[i];
        self.s.lint[i] = level;
        if rising {
            if i == 1 && !self.enabled() {
                wires.nmi();
            } else {
                self.deliver_local(LVT_LINT0 + i, wires);
            }
        }
    }

    /// CR8: the upper half of the task priority.
    pub fn cr8(&self) -> u64 {
        u64::from(self.s.tpr >> 4)
    }

    /// Writes CR8; bits above 3 are the CPU's to refuse.
    pub fn set_cr8(&mut self, value: u64) {
        self.s.tpr = (value as u8 & 0x0f) << 4;
    }

    /// When the timer fires next, in machine time.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.s.timer.deadline_ns
    }

    /// The deadline has come, or may have: calls too early do nothing, late ones fire once.
    pub fn timer(&mut self, now_ns: u64, wires: &mut dyn ApicWires) {
        let mode = self.timer_mode();
        if self.s.timer.fire(mode, now_ns) {
            self.deliver_local(LVT_TIMER, wires);
        }
    }

    /// The TSC was changed: the TSC deadline moves with it.
    pub fn tsc_changed(&mut self, now_ns: u64, tsc: &TscClock) {
        let (mode, deadline) = (self.timer_mode(), self.s.timer.tsc_deadline);
        self.s.timer.set_tsc_deadline(mode, deadline, now_ns, tsc);
    }

    /// Reads the page of registers: 32 bits at each multiple of 16.
    pub fn mmio_read(&mut self, offset: u64, now_ns: u64, wires: &mut dyn ApicWires) -> u32 {
        if offset & 0x0f != 0 || offset > 0x3f0 {
            return 0;
        }
        match offset as u32 >> 4 {
            0x02 => self.s.id << 24,
            0x0d => self.s.ldr,
            0x0e => self.s.dfr,
            // EOI is write-only, remote read unused: neither is a reserved address.
            0x0b | 0x0c => 0,
            0x31 => (self.s.icr >> 32) as u32,
            index => self.register(index, now_ns).unwrap_or_else(|| {
                self.error(ESR_REGISTER, wires);
                0
            }),
        }
    }

    /// Writes the page of registers.
    pub fn mmio_write(&mut self, offset: u64, value: u32, now_ns: u64, wires: &mut dyn ApicWires) {
        if offset & 0x0f != 0 || offset > 0x3f0 {
            return;
        }
        match offset as u32 >> 4 {
            // Read-only registers: the write is ignored.
            0x02 | 0x03 | 0x09 | 0x0a | 0x10..=0x27 | 0x39 => {}
            0x08 => self.s.tpr = value as u8,
            0x0b => self.end_of_interrupt(wires),
            0x0d => self.s.ldr = value & 0xff00_0000,
            0x0e => self.s.dfr = value | 0x0fff_ffff,
            0x0f => self.set_svr(value & SVR_BITS),
            0x28 => self.latch_errors(),
            0x30 => {
                self.s.icr = self.s.icr & !0xffff_ffff | u64::from(value & ICR_BITS);
                self.send(wires);
            }
            0x31 => self.s.icr = self.s.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            index @ 0x32..=0x37 => {
                let which = (index - 0x32) as usize;
                self.set_lvt(which, value & LVT_BITS[which], wires);
            }
            0x38 => self
                .s
                .timer
                .set_initial_count(self.timer_mode(), value, now_ns),
            0x3e => self
                .s
                .timer
                .set_divide(self.timer_mode(), value & 0x0b, now_ns),
            _ => self.error(ESR_REGISTER, wires),
        }
    }

    /// Whether [`Self::read_msr`] and [`Self::write_msr`] answer for `msr` (beside
    /// IA32_APIC_BASE, which is [`Self::base`]): the x2APIC range and IA32_TSC_DEADLINE.
    pub fn owns_msr(msr: u32) -> bool {
        matches!(msr, 0x800..=0x8ff | 0x6e0)
    }

    /// Reads an x2APIC register or IA32_TSC_DEADLINE.
    pub fn read_msr(&self, msr: u32, now_ns: u64) -> Result<u64, GeneralProtection> {
        if msr == 0x6e0 {
            return Ok(self.s.timer.tsc_deadline);
        }
        if !self.x2apic() {
            return Err(GeneralProtection);
        }
        match msr.wrapping_sub(X2APIC_MSR) {
            0x02 => Ok(u64::from(self.s.id)),
            0x0d => Ok(u64::from(self.x2apic_ldr())),
            0x30 => Ok(self.s.icr),
            // There is no arbitration priority, remote read, DFR or upper half of the ICR.
            0x09 | 0x0b | 0x0c | 0x0e | 0x31 => Err(GeneralProtection),
            index => self
                .register(index, now_ns)
                .map(u64::from)
                .ok_or(GeneralProtection),
        }
    }

    /// Writes an x2APIC register or IA32_TSC_DEADLINE; reserved bits are #GP.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now_ns: u64,
        tsc: &TscClock,
        wires: &mut dyn ApicWires,
    ) -> Result<(), GeneralProtection> {
        if msr == 0x6e0 {
            self.s
                .timer
                .set_tsc_deadline(self.timer_mode(), value, now_ns, tsc);
            return Ok(());
        }
        if !self.x2apic() {
            return Err(GeneralProtection);
        }
        let within = |bits: u32| {
            if value & !u64::from(bits) == 0 {
                Ok(value as u32)
            } else {
                Err(GeneralProtection)
            }
        };
        match msr.wrapping_sub(X2APIC_MSR) {
            0x08 => self.s.tpr = within(0xff)? as u8,
            0x0b => {
                within(0)?;
                self.end_of_interrupt(wires);
            }
            0x0f => {
                let svr = within(SVR_BITS)?;
                self.set_svr(svr);
            }
            0x28 => {
                within(0)?;
                self.latch_errors();
            }
            0x30 => {
                // Delivery status may be written and is not kept.
                if value as u32 & !(ICR_BITS | 1 << 12) != 0 {
                    return Err(GeneralProtection);
                }
                self.s.icr = value & (!0xffff_ffff | u64::from(ICR_BITS));
                self.send(wires);
            }
            index @ 0x32..=0x37 => {
                let which = (index - 0x32) as usize;
                // The read-only status bits are no reserved bits.
                let lvt = within(LVT_BITS[which] | 0x5000)? & LVT_BITS[which];
                self.set_lvt(which, lvt, wires);
            }
            0x38 => self
                .s
                .timer
                .set_initial_count(self.timer_mode(), within(u32::MAX)?, now_ns),
            0x3e => self
                .s
                .timer
                .set_divide(self.timer_mode(), within(0x0b)?, now_ns),
            0x3f => {
                let vector = within(0xff)? as u8;
                self.send_fixed_to_self(vector, wires);
            }
            _ => return Err(GeneralProtection),
        }
        Ok(())
    }

    /// The registers that read alike in both modes.
    fn register(&self, index: u32, now_ns: u64) -> Option<u32> {
        Some(match index {
            0x03 => VERSION,
            0x08 => u32::from(self.s.tpr),
            0x09 => 0,
            0x0a => u32::from(self.ppr()),
            0x0f => self.s.svr,
            0x10..=0x17 => self.s.isr.0[(index & 7) as usize],
            0x18..=0x1f => self.s.tmr.0[(index & 7) as usize],
            0x20..=0x27 => self.s.irr.0[(index & 7) as usize],
            0x28 => self.s.esr,
            0x30 => self.s.icr as u32,
            0x32..=0x37 => self.s.lvt[(index - 0x32) as usize],
            0x38 => self.s.timer.initial,
            0x39 => self.s.timer.current_count(self.timer_mode(), now_ns),
            0x3e => self.s.timer.divide,
            _ => return None,
        })
    }

    fn x2apic_ldr(&self) -> u32 {
        (self.s.id >> 4) << 16 | 1 << (self.s.id & 0x0f)
    }

    /// "Processor Priority Register": the higher of the task's class and that in service.
    fn ppr(&self) -> u8 {
        let served = self.s.isr.highest().unwrap_or(0) & 0xf0;
        if self.s.tpr & 0xf0 >= served {
            self.s.tpr
        } else {
            served
        }
    }

    fn end_of_interrupt(&mut self, wires: &mut dyn ApicWires) {
        if let Some(vector) = self.s.isr.highest() {
            self.s.isr.set(vector, false);
            if self.s.tmr.get(vector) && self.s.svr & SVR_NO_BROADCAST == 0 {
                wires.eoi(vector);
            }
        }
    }

    fn set_svr(&mut self, svr: u32) {
        self.s.svr = svr;
        if svr & SVR_ENABLE == 0 {
            for lvt in &mut self.s.lvt {
                *lvt |= LVT_MASKED;
            }
        }
    }

    fn set_lvt(&mut self, which: usize, value: u32, wires: &mut dyn ApicWires) {
        let masked = if self.s.svr & SVR_ENABLE == 0 {
            LVT_MASKED
        } else {
            0
        };
        let old = core::mem::replace(&mut self.s.lvt[which], value | masked);
        if which == LVT_TIMER && (old ^ value) & 1 << 18 != 0 {
            // "Transitioning between TSC-deadline mode and other timer modes also disarms".
            self.s.timer.disarm();
        }
        let level_lint0 = which == LVT_LINT0 && value & 1 << 15 != 0 && self.s.lint[0];
        if level_lint0 && old & LVT_MASKED != 0 {
            self.deliver_local(LVT_LINT0, wires);
        }
    }

    fn latch_errors(&mut self) {
        self.s.esr = core::mem::take(&mut self.s.errors);
    }

    fn error(&mut self, bit: u32, wires: &mut dyn ApicWires) {
        self.s.errors |= bit;
        // An illegal vector in the entry itself must not raise an error for ever.
        if self.s.lvt[LVT_ERROR] as u8 >= 16 {
            self.deliver_local(LVT_ERROR, wires);
        }
    }

    /// A local source fires: "Local Vector Table".
    fn deliver_local(&mut self, which: usize, wires: &mut dyn ApicWires) {
        let lvt = self.s.lvt[which];
        if lvt & LVT_MASKED != 0 || !self.enabled() {
            return;
        }
        let fixed = which == LVT_TIMER || which == LVT_ERROR;
        match Delivery::from_bits(if fixed { 0 } else { lvt >> 8 }) {
            Some(Delivery::Fixed) => {
                let level = which == LVT_LINT0 && lvt & 1 << 15 != 0;
                self.accept(lvt as u8, level, wires);
            }
            Some(Delivery::Nmi) => wires.nmi(),
            // ExtINT is `accepts_ext_int`; SMI, INIT and the rest have no effect.
            _ => {}
        }
    }

    fn send_fixed_to_self(&mut self, vector: u8, wires: &mut dyn ApicWires) {
        if vector < 16 {
            self.error(ESR_SEND_ILLEGAL, wires);
        } else {
            self.accept(vector, false, wires);
        }
    }

    /// "Interrupt Command Register".
    fn send(&mut self, wires: &mut dyn ApicWires) {
        let low = self.s.icr as u32;
        let vector = low as u8;
        let Some(delivery) = Delivery::from_bits(low >> 8) else {
            return;
        };
        let shorthand = low >> 18 & 3;
        match delivery {
            Delivery::Smi | Delivery::ExtInt => return,
            // INIT level de-assert: trigger mode level, level 0.
            Delivery::Init if low & 0xc000 == 0x8000 => return,
            Delivery::Fixed | Delivery::LowestPriority if vector < 16 => {
                self.error(ESR_SEND_ILLEGAL, wires);
                return;
            }
            // "Self" is for fixed interrupts only.
            Delivery::Fixed => {}
            _ if shorthand == 1 => return,
            _ => {}
        }
        let target = match shorthand {
            0 => {
                let high = (self.s.icr >> 32) as u32;
                let destination = match (self.x2apic(), high >> 24) {
                    (true, _) => high,
                    (false, 0xff) => BROADCAST,
                    (false, id) => id,
                };
                Target::Destination {
                    destination,
                    logical: low & 1 << 11 != 0,
                }
            }
            1 => Target::Myself,
            2 => Target::All,
            _ => Target::Others,
        };
        wires.ipi(Ipi {
            delivery,
            vector,
            target,
        });
    }

    fn timer_mode(&self) -> Mode {
        match self.s.lvt[LVT_TIMER] >> 17 & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            _ => Mode::TscDeadline,
        }
    }

    /// The modelled state as one section.
    pub fn save(&self) -> Vec<u8> {
        let State {
            id,
            base,
            tpr,
            isr,
            tmr,
            irr,
            svr,
            esr,
            errors,
            lvt,
            icr,
            ldr,
            dfr,
            timer,
            lint,
        } = &self.s;
        let registers = (tpr, isr, tmr, irr, svr, esr, errors, lvt);
        save_state(1, &(id, base, registers, icr, ldr, dfr, timer, lint))
    }

    /// Takes over a saved state; the ID must be this APIC's.
    pub fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        type Registers = (u8, Vectors, Vectors, Vectors, u32, u32, u32, [u32; 6]);
        let (id, base, registers, icr, ldr, dfr, timer, lint): (
            u32,
            u64,
            Registers,
            u64,
            u32,
            u32,
            Timer,
            [bool; 2],
        ) = load_state(1, section)?;
        let (tpr, isr, tmr, irr, svr, esr, errors, lvt) = registers;
        let invalid = |field, value: u64| {
            Err(LoadError::Invalid {
                field,
                why: format!("{value:#x} is impossible"),
            })
        };
        if id != self.s.id {
            return invalid("id", u64::from(id));
        }
        let mode = base & (BASE_ENABLE | BASE_EXTD);
        if base & 0x2ff != 0 || base >> 52 != 0 || mode == BASE_EXTD {
            return invalid("base", base);
        }
        for (field, set) in [("isr", isr), ("irr", irr), ("tmr", tmr)] {
            if set.0[0] & 0xffff != 0 {
                return invalid(field, u64::from(set.0[0]));
            }
        }
        if svr & !SVR_BITS != 0 {
            return invalid("svr", u64::from(svr));
        }
        for (value, bits) in lvt.into_iter().zip(LVT_BITS) {
            if value & !bits != 0 || svr & SVR_ENABLE == 0 && value & LVT_MASKED == 0 {
                return invalid("lvt", u64::from(value));
            }
        }
        if icr as u32 & !ICR_BITS != 0 || timer.divide & !0x0b != 0 {
            return invalid("icr or divide", icr);
        }
        self.s = State {
            id,
            base,
            tpr,
            isr,
            tmr,
            irr,
            svr,
            esr,
            errors,
            lvt,
            icr,
            ldr,
            dfr,
            timer,
            lint,
        };
        Ok(())
    }

    /// The state as a readable tree.
    pub fn inspect(&self, out: &mut Inspector) {
        let s = &self.s;
        out.hex("id", u64::from(s.id));
        out.hex("base", s.base);
        out.hex("tpr", u64::from(s.tpr));
        out.hex("ppr", u64::from(self.ppr()));
        out.hex("svr", u64::from(s.svr));
        for (name, set) in [("isr", s.isr), ("irr", s.irr), ("tmr", s.tmr)] {
            let vectors: Vec<u8> = (0..=255).filter(|&v| set.get(v)).collect();
            out.value(name, format_args!("{vectors:x?}"));
        }
        let names = ["timer", "thermal", "performance", "lint0", "lint1", "error"];
        for (name, lvt) in names.into_iter().zip(s.lvt) {
            out.hex(&format!("lvt {name}"), u64::from(lvt));
        }
        out.hex("icr", s.icr);
        out.hex(
            "ldr",
            u64::from(if self.x2apic() {
                self.x2apic_ldr()
            } else {
                s.ldr
            }),
        );
        out.hex("dfr", u64::from(s.dfr));
        out.hex("esr", u64::from(s.esr));
        out.value("timer", format_args!("{:?}", s.timer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Random;

    #[derive(Default)]
    struct Log {
        ipis: Vec<Ipi>,
        eois: Vec<u8>,
        nmis: u32,
    }

    impl ApicWires for Log {
        fn ipi(&mut self, ipi: Ipi) {
            self.ipis.push(ipi);
        }
        fn eoi(&mut self, vector: u8) {
            self.eois.push(vector);
        }
        fn nmi(&mut self) {
            self.nmis += 1;
        }
    }

    const TSC: TscClock = TscClock {
        hz: 2_500_000_000,
        base_ns: 1000,
        base_tsc: 77,
    };

    fn enabled(id: u32) -> Lapic {
        let mut lapic = Lapic::new(id, id == 0);
        lapic.mmio_write(0xf0, 0x1ff, 0, &mut Log::default());
        lapic
    }

    fn x2apic(id: u32) -> Lapic {
        let mut lapic = enabled(id);
        lapic.set_base(lapic.base() | BASE_EXTD, 40).unwrap();
        lapic
    }

    fn write(lapic: &mut Lapic, offset: u64, value: u32, now_ns: u64) -> Log {
        let mut log = Log::default();
        lapic.mmio_write(offset, value, now_ns, &mut log);
        log
    }

    fn read(lapic: &mut Lapic, offset: u64, now_ns: u64) -> u32 {
        lapic.mmio_read(offset, now_ns, &mut Log::default())
    }

    #[test]
    fn power_on_values_are_the_manuals() {
        let mut lapic = Lapic::new(3, false);
        assert_eq!(lapic.base(), 0xfee0_0800);
        for (offset, value) in [
            (0x20, 0x0300_0000),
            (0x30, VERSION),
            (0xd0, 0),
            (0xe0, u32::MAX),
            (0xf0, 0xff),
            (0x320, 0x1_0000),
            (0x350, 0x1_0000),
        ] {
            assert_eq!(read(&mut lapic, offset, 0), value, "{offset:#x}");
        }
    }

    #[test]
    fn the_highest_class_above_the_processor_priority_is_delivered() {
        let mut lapic = enabled(0);
        let log = &mut Log::default();
        lapic.accept(0x31, false, log);
        lapic.accept(0x55, false, log);
        assert_eq!(lapic.acknowledge(), Some(0x55));
        assert_eq!(lapic.pending(), None, "0x31 is below 0x50");
        lapic.accept(0x5f, false, log);
        assert_eq!(lapic.pending(), None, "the same class does not nest");
        lapic.accept(0x60, false, log);
        assert_eq!(lapic.acknowledge(), Some(0x60));
        write(&mut lapic, 0xb0, 0, 0);
        write(&mut lapic, 0xb0, 0, 0);
        lapic.set_cr8(5);
        assert_eq!(lapic.pending(), None);
        lapic.set_cr8(4);
        assert_eq!(lapic.acknowledge(), Some(0x5f));
        write(&mut lapic, 0xb0, 0, 0);
        assert_eq!(lapic.pending(), None);
        lapic.set_cr8(2);
        assert_eq!(lapic.acknowledge(), Some(0x31));
    }

    #[test]
    fn the_eoi_of_a_level_interrupt_is_broadcast_unless_suppressed() {
        for (svr, eois) in [(0x1ff, &[0x41u8][..]), (0x11ff, &[])] {
            let mut lapic = enabled(0);
            write(&mut lapic, 0xf0, svr, 0);
            let log = &mut Log::default();
            lapic.accept(0x41, true, log);
            lapic.accept(0x61, false, log);
            assert_eq!(
                [lapic.acknowledge(), lapic.acknowledge()],
                [Some(0x61), None]
            );
            assert!(write(&mut lapic, 0xb0, 0, 0).eois.is_empty());
            assert_eq!(lapic.acknowledge(), Some(0x41));
            assert_eq!(write(&mut lapic, 0xb0, 0, 0).eois, eois);
        }
    }

    #[test]
    fn a_software_disabled_apic_masks_its_vectors_and_takes_no_interrupts() {
        let mut lapic = Lapic::new(0, true);
        write(&mut lapic, 0x350, 0x700, 0);
        assert_eq!(read(&mut lapic, 0x350, 0), 0x1_0700);
        assert!(!lapic.accepts_ext_int());
        lapic.accept(0x40, false, &mut Log::default());
        assert_eq!(lapic.pending(), None);
        write(&mut lapic, 0xf0, 0x1ff, 0);
        write(&mut lapic, 0x350, 0x700, 0);
        assert!(lapic.accepts_ext_int());
    }

    #[test]
    fn a_one_shot_timer_counts_down_and_fires_once() {
        let mut lapic = enabled(0);
        write(&mut lapic, 0x3e0, 0x3, 100);
        write(&mut lapic, 0x320, 0x40, 100);
        write(&mut lapic, 0x380, 1000, 100);
        assert_eq!(lapic.deadline_ns(), Some(100 + 16_000));
        assert_eq!(read(&mut lapic, 0x390, 100 + 1600), 900);
        lapic.timer(16_099, &mut Log::default());
        assert_eq!(lapic.pending(), None, "too early");
        lapic.timer(16_200, &mut Log::default());
        assert_eq!(lapic.acknowledge(), Some(0x40));
        assert_eq!(
            (lapic.deadline_ns(), read(&mut lapic, 0x390, 20_000)),
            (None, 0)
        );
    }

    #[test]
    fn a_periodic_timer_keeps_its_phase_however_late_it_is_called() {
        let mut lapic = enabled(0);
        write(&mut lapic, 0x3e0, 0xb, 0);
        write(&mut lapic, 0x320, 0x2_0040, 0);
        write(&mut lapic, 0x380, 10_000, 7);
        assert_eq!(lapic.deadline_ns(), Some(10_007));
        lapic.timer(10_007, &mut Log::default());
        assert_eq!(lapic.deadline_ns(), Some(20_007));
        assert_eq!(read(&mut lapic, 0x390, 41_007), 9_000, "the call is late");
        lapic.timer(41_007, &mut Log::default());
        assert_eq!(lapic.deadline_ns(), Some(50_007));
        assert_eq!(read(&mut lapic, 0x390, 41_007), 9_000);
    }

    #[test]
    fn a_period_too_short_for_the_host_skips_beats_and_keeps_the_phase() {
        let mut lapic = enabled(0);
        write(&mut lapic, 0x3e0, 0xb, 0);
        write(&mut lapic, 0x320, 0x2_0040, 0);
        write(&mut lapic, 0x380, 7, 0);
        lapic.timer(7, &mut Log::default());
        let next = lapic.deadline_ns().unwrap();
        assert!(next >= 10_000 && next.is_multiple_of(7), "{next}");
    }

    #[test]
    fn every_divide_code_divides() {
        for (code, divisor) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            let mut lapic = enabled(0);
            write(&mut lapic, 0x3e0, code, 0);
            write(&mut lapic, 0x380, 10, 0);
            assert_eq!(lapic.deadline_ns(), Some(10 * divisor));
        }
    }

    #[test]
    fn the_tsc_deadline_fires_when_the_tsc_gets_there() {
        let mut lapic = enabled(0);
        let log = &mut Log::default();
        lapic.write_msr(0x6e0, 5000, 0, &TSC, log).unwrap();
        assert_eq!(lapic.read_msr(0x6e0, 0), Ok(0), "another timer mode");
        write(&mut lapic, 0x320, 0x4_0040, 0);
        let deadline = TSC.tsc_at(5000) + 1;
        lapic.write_msr(0x6e0, deadline, 5000, &TSC, log).unwrap();
        assert_eq!(lapic.deadline_ns(), Some(5001));
        assert_eq!(lapic.read_msr(0x6e0, 0), Ok(deadline));
        lapic.timer(5001, log);
        assert_eq!(
            (lapic.acknowledge(), lapic.deadline_ns()),
            (Some(0x40), None)
        );
        assert_eq!(lapic.read_msr(0x6e0, 0), Ok(0));
        lapic.write_msr(0x6e0, 1, 6000, &TSC, log).unwrap();
        assert_eq!(lapic.deadline_ns(), Some(6000), "the past is now");
        lapic.write_msr(0x6e0, u64::MAX, 6000, &TSC, log).unwrap();
        lapic.write_msr(0x6e0, 0, 6000, &TSC, log).unwrap();
        assert_eq!(lapic.deadline_ns(), None);
    }

    #[test]
    fn base_transitions_follow_the_manuals_figure() {
        let (off, x, x2) = (0, BASE_ENABLE, BASE_ENABLE | BASE_EXTD);
        for (from, to, legal) in [
            (x, x2, true),
            (x, off, true),
            (x2, off, true),
            (x2, x, false),
            (off, x, true),
            (off, x2, false),
            (x, BASE_EXTD, false),
        ] {
            let mut lapic = Lapic::new(0, true);
            if from == off {
                lapic.set_base(0, 40).unwrap();
            } else {
                lapic.set_base(DEFAULT_BASE | from, 40).unwrap();
            }
            assert_eq!(
                lapic.set_base(DEFAULT_BASE | to, 40).is_ok(),
                legal,
                "{from:x} {to:x}"
            );
        }
        assert!(
            Lapic::new(0, true)
                .set_base(1 << 40 | BASE_ENABLE, 40)
                .is_err()
        );
        assert!(
            Lapic::new(0, true)
                .set_base(DEFAULT_BASE | BASE_ENABLE | 1, 40)
                .is_err()
        );
    }

    #[test]
    fn x2apic_registers_check_their_reserved_bits() {
        let mut lapic = x2apic(0x25);
        let log = &mut Log::default();
        assert_eq!(lapic.read_msr(0x802, 0), Ok(0x25));
        assert_eq!(lapic.read_msr(0x80d, 0), Ok(0x2_0020));
        for (msr, value, legal) in [
            (0x80b, 0, true),
            (0x80b, 1, false),
            (0x808, 0x100, false),
            (0x80f, 0x1ff, true),
            (0x80f, 0x21ff, false),
            (0x802, 0, false),
            (0x80d, 0, false),
            (0x80e, 0, false),
            (0x831, 0, false),
            (0x828, 1, false),
            (0x832, 0x2_0040, true),
            (0x832, 1 << 20, false),
            (0x830, 1 << 13, false),
            (0x83f, 0x100, false),
            (0x840, 0, false),
        ] {
            let got = lapic.write_msr(msr, value, 0, &TSC, log);
            assert_eq!(got.is_ok(), legal, "{msr:#x} {value:#x}");
        }
        assert!(lapic.read_msr(0x80b, 0).is_err());
        assert!(lapic.read_msr(0x83f, 0).is_err());
        assert!(enabled(0).read_msr(0x802, 0).is_err(), "xAPIC mode");
        lapic.write_msr(0x83f, 0x99, 0, &TSC, log).unwrap();
        assert_eq!(lapic.acknowledge(), Some(0x99));
    }

    #[test]
    fn the_icr_sends_every_mode_and_shorthand() {
        let mut lapic = enabled(0);
        write(&mut lapic, 0x310, 0x0300_0000, 0);
        let to = |destination, logical| Target::Destination {
            destination,
            logical,
        };
        for (low, delivery, target) in [
            (0x0_4041, Delivery::Fixed, to(3, false)),
            (0x0_4941, Delivery::LowestPriority, to(3, true)),
            (0x0_4400, Delivery::Nmi, to(3, false)),
            (0x0_c500, Delivery::Init, to(3, false)),
            (0x0_4608, Delivery::StartUp, to(3, false)),
            (0x4_0041, Delivery::Fixed, Target::Myself),
            (0x8_0041, Delivery::Fixed, Target::All),
            (0xc_4500, Delivery::Init, Target::Others),
        ] {
            let ipi = Ipi {
                delivery,
                vector: low as u8,
                target,
            };
            assert_eq!(write(&mut lapic, 0x300, low, 0).ipis, [ipi]);
        }
        for low in [0x8500, 0x4200, 0x4_0400, 0x0005] {
            assert!(write(&mut lapic, 0x300, low, 0).ipis.is_empty(), "{low:#x}");
        }
        write(&mut lapic, 0x280, 0, 0);
        assert_eq!(read(&mut lapic, 0x280, 0), ESR_SEND_ILLEGAL);
        write(&mut lapic, 0x310, 0xff00_0000, 0);
        assert_eq!(
            write(&mut lapic, 0x300, 0x41, 0).ipis[0].target,
            to(BROADCAST, false)
        );
    }

    #[test]
    fn destinations_match_in_every_model() {
        let mut flat = enabled(3);
        write(&mut flat, 0xd0, 0x0800_0000, 0);
        assert!(flat.matches(3, false) && !flat.matches(2, false));
        assert!(flat.matches(0x0c, true) && !flat.matches(0x04, true));
        let mut cluster = enabled(3);
        write(&mut cluster, 0xe0, 0, 0);
        write(&mut cluster, 0xd0, 0x2400_0000, 0);
        assert!(cluster.matches(0x24, true) && cluster.matches(0xf4, true));
        assert!(!cluster.matches(0x14, true) && !cluster.matches(0x23, true));
        let x2 = x2apic(0x123);
        assert!(x2.matches(0x123, false) && x2.matches(0x12_0008, true));
        assert!(!x2.matches(0x13_0008, true) && x2.matches(BROADCAST, true));
    }

    #[test]
    fn lint1_gives_an_nmi_and_an_error_raises_its_vector() {
        let mut lapic = enabled(0);
        write(&mut lapic, 0x360, 0x400, 0);
        let log = &mut Log::default();
        lapic.set_lint(1, true, log);
        lapic.set_lint(1, true, log);
        assert_eq!(log.nmis, 1);
        write(&mut lapic, 0x370, 0xfe, 0);
        lapic.accept(5, false, log);
        assert_eq!(lapic.acknowledge(), Some(0xfe));
        write(&mut lapic, 0x280, 0, 0);
        assert_eq!(read(&mut lapic, 0x280, 0), ESR_RECEIVE_ILLEGAL);
    }

    #[test]
    fn an_init_keeps_id_base_and_mode() {
        let mut lapic = x2apic(7);
        let log = &mut Log::default();
        lapic.accept(0x50, false, log);
        lapic.init_reset();
        assert_eq!(
            (lapic.id(), lapic.x2apic(), lapic.pending()),
            (7, true, None)
        );
        assert_eq!(lapic.read_msr(0x80f, 0), Ok(0xff));
    }

    #[test]
    fn random_use_never_panics_and_saves_and_loads_equal() {
        for seed in 0..64 {
            let mut random = Random::new(seed);
            let log = &mut Log::default();
            let (mut lapic, mut now) = (Lapic::new(seed as u32, seed == 0), 0u64);
            for _ in 0..300 {
                let scale = 10 + random.below(30);
                now = now.saturating_add(random.below(1 << scale));
                let value = random.next() >> random.below(64);
                match random.below(10) {
                    0..=3 => lapic.mmio_write(random.below(0x40) << 4, value as u32, now, log),
                    4 => drop(lapic.mmio_read(random.below(0x400), now, log)),
                    5 => drop(lapic.set_base(DEFAULT_BASE | value & 0xd00, 46)),
                    6 => drop(lapic.write_msr(
                        [0x6e0, 0x800 + random.below(0x40) as u32][random.below(2) as usize],
                        value,
                        now,
                        &TSC,
                        log,
                    )),
                    7 => lapic.accept(value as u8, value & 256 != 0, log),
                    8 => lapic.timer(now, log),
                    _ => drop(lapic.acknowledge()),
                }
                assert!(lapic.deadline_ns().is_none_or(|at| at <= now || at > 0));
            }
            let saved = lapic.save();
            let mut twin = Lapic::new(seed as u32, false);
            assert_eq!(twin.load(&saved), Ok(()), "seed {seed}");
            assert_eq!(saved, twin.save(), "seed {seed}");
            for _ in 0..100 {
                let mut bytes = saved.clone();
                let at = 1 + random.below(bytes.len() as u64 - 1) as usize;
                bytes[at] = random.next() as u8;
                if twin.load(&bytes).is_ok() {
                    for now in [0, now, u64::MAX] {
                        twin.timer(now, log);
                        for index in 0..0x40 {
                            twin.mmio_read(index << 4, now, log);
                        }
                        twin.mmio_write(0x3e0, 3, now, log);
                    }
                }
            }
        }
    }
}
