//! The interrupt hub: the i8259 pair, the I/O APIC, every CPU's local APIC, and the wires between
//! them and the CPUs. It implements no register itself; it routes:
//!
//! ```text
//! device line ─ set_source ─┬─> i8259 pair ── INTR ──> LINT0 of every local APIC, I/O APIC pin 0
//!                           └─> I/O APIC ──┐
//! device message ───────────── message ────┴─> local APICs ──> cpu_signals, acknowledge
//! CPU: registers, MSRs ──> its local APIC ── IPI ──> others;  EOI broadcast ──> I/O APIC
//! ```
//!
//! The machine wraps it in a lock, and after each call asks [`Hub::take_changed`] which CPUs have
//! something new to look at, and [`Hub::next_deadline_ns`] when a timer is due. Sources: SDM
//! volume 3, "APIC", and "Message Address Register Format"; MultiProcessor Specification 1.4,
//! "Virtual Wire Mode"; ISA IRQ 0 goes to I/O APIC pin 2, as MADT overrides say.
//!
//! Not modelled: interrupt remapping; SMI.

use alloc::format;
use alloc::vec::Vec;
use devices::i8259::Pics;
use devices::ioapic::{Ioapic, PINS};
use devices::lapic::{ApicWires, BROADCAST, Delivery, Ipi, Lapic, Target, TscClock};
use devices::{Device, Inspector, LoadError, Message, Power, Wires, load_state, save_state};

/// IA32_APIC_BASE.
const IA32_APIC_BASE: u32 = 0x1b;
/// The most CPUs a hub has.
pub const MAX_CPUS: usize = 256;

/// What a CPU's interrupt inputs say now. `nmi`, `init` and `sipi` stay until they are taken.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CpuSignals {
    /// INTR: [`Hub::acknowledge`] has a vector.
    pub intr: bool,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// INIT: the local APIC has been reset, the CPU must be, and then wait for a start-up IPI.
    pub init: bool,
    /// A start-up IPI: begin at `sipi << 12` if waiting for one; else drop it. An `init` beside
    /// it came first.
    pub sipi: Option<u8>,
}

impl CpuSignals {
    /// Whether there is anything to look at.
    pub fn any(&self) -> bool {
        self.intr || self.nmi || self.init || self.sipi.is_some()
    }
}

/// A set of CPU indices.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    /// Whether it holds `cpu`.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0
            .get(cpu / 64)
            .is_some_and(|word| word & 1 << (cpu % 64) != 0)
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_CPUS / 64]
    }
    /// Its CPUs in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(i, mut word)| {
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

struct Cpu {
    lapic: Lapic,
    nmi: bool,
    init: bool,
    sipi: Option<u8>,
    /// An ExtINT message has asked for one acknowledge from the 8259.
    ext_int: bool,
}

/// What a local APIC did while it was called; carried out afterwards.
#[derive(Default)]
struct Effects {
    ipi: Option<Ipi>,
    eoi: Option<u8>,
    nmi: bool,
}

impl ApicWires for Effects {
    fn ipi(&mut self, ipi: Ipi) {
        self.ipi = Some(ipi);
    }
    fn eoi(&mut self, vector: u8) {
        self.eoi = Some(vector);
    }
    fn nmi(&mut self) {
        self.nmi = true;
    }
}

/// The local APICs and what connects them: it carries messages and IPIs.
struct Fabric {
    cpus: Vec<Cpu>,
    changed: CpuSet,
    /// Where the search for the CPU of lowest priority begins, so that equals take turns.
    turn: u8,
}

impl Fabric {
    /// Sends an interrupt from `sender`, or from outside.
    fn deliver(&mut self, sender: Option<usize>, ipi: Ipi, level: bool, lowest: bool) {
        let addressed = |cpu: usize, lapic: &Lapic| match ipi.target {
            Target::Destination {
                destination,
                logical,
            } => lapic.matches(destination, logical),
            Target::Myself => Some(cpu) == sender,
            Target::All => lapic.enabled(),
            Target::Others => Some(cpu) != sender && lapic.enabled(),
        };
        if lowest {
            let count = self.cpus.len();
            let first = usize::from(self.turn);
            let chosen = (first..first + count)
                .map(|cpu| cpu % count)
                .filter(|&cpu| {
                    let lapic = &self.cpus[cpu].lapic;
                    lapic.software_enabled() && addressed(cpu, lapic)
                })
                .min_by_key(|&cpu| self.cpus[cpu].lapic.priority());
            if let Some(cpu) = chosen {
                self.turn = ((cpu + 1) % count) as u8;
                self.receive(cpu, ipi.delivery, ipi.vector, level);
            }
            return;
        }
        for cpu in 0..self.cpus.len() {
            if addressed(cpu, &self.cpus[cpu].lapic) {
                self.receive(cpu, ipi.delivery, ipi.vector, level);
            }
        }
    }

    /// `cpu` takes in an interrupt.
    fn receive(&mut self, cpu: usize, delivery: Delivery, vector: u8, level: bool) {
        let to = &mut self.cpus[cpu];
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                let mut effects = Effects::default();
                to.lapic.accept(vector, level, &mut effects);
                to.nmi |= effects.nmi;
            }
            Delivery::Nmi => to.nmi = true,
            Delivery::Init => {
                to.lapic.init_reset();
                to.init = true;
                to.nmi = false;
                to.sipi = None;
                to.ext_int = false;
            }
            Delivery::StartUp => to.sipi = Some(vector),
            Delivery::ExtInt => to.ext_int = true,
            Delivery::Smi => {}
        }
        self.changed.insert(cpu);
    }
}

impl Wires for Fabric {
    fn set_line(&mut self, _line: u8, _level: bool) {}
    fn message(&mut self, message: Message) {
        let Message { address, data } = message;
        if address & 0xfff0_0000 != 0xfee0_0000 {
            return;
        }
        let Some(delivery) = Delivery::from_bits(data >> 8) else {
            return;
        };
        // Bits 31:8 of an x2APIC ID travel in the upper half of the address (as KVM's x2APIC
        // format) or, the lowest seven of them, in bits 11:5 (KVM_FEATURE_MSI_EXT_DEST_ID).
        let id = (address >> 12 & 0xff | (address >> 5 & 0x7f) << 8 | address >> 32 & 0xffff_ff00)
            as u32;
        let destination = if id == 0xff { BROADCAST } else { id };
        let logical = address & 1 << 2 != 0;
        let hint = address & 1 << 3 != 0;
        let level = data & 1 << 15 != 0;
        if level && data & 1 << 14 == 0 {
            // The de-assertion of a level message.
            return;
        }
        let ipi = Ipi {
            delivery,
            vector: data as u8,
            target: Target::Destination {
                destination,
                logical,
            },
        };
        let lowest = delivery == Delivery::LowestPriority || hint && delivery == Delivery::Fixed;
        self.deliver(None, ipi, level, lowest);
    }
    fn arm(&mut self, _timer: u8, _at_ns: Option<u64>) {}
    fn power(&mut self, _what: Power) {}
}

/// The hub of one machine. CPUs are named by their index in the list given to [`Hub::new`].
pub struct Hub {
    pics: Pics,
    ioapic: Ioapic,
    fabric: Fabric,
    /// Which sources assert each GSI: a wired OR.
    sources: [u64; PINS as usize],
    /// Sources that do not reach ISA IRQ 0 and 8.
    muted: u64,
    /// INTR of the 8259 as the CPUs have seen it.
    pic_output: bool,
    physical_bits: u32,
}

impl Hub {
    /// A hub for CPUs with these APIC IDs, the first of them the bootstrap processor.
    /// `physical_bits` is MAXPHYADDR of the CPU model.
    ///
    /// # Panics
    /// If there are no CPUs or more than [`MAX_CPUS`].
    pub fn new(apic_ids: &[u32], physical_bits: u32) -> Self {
        assert!(
            (1..=MAX_CPUS).contains(&apic_ids.len()),
            "{} CPUs",
            apic_ids.len()
        );
        let cpu = |(i, &id): (usize, &u32)| Cpu {
            lapic: Lapic::new(id, i == 0),
            nmi: false,
            init: false,
            sipi: None,
            ext_int: false,
        };
        Hub {
            pics: Pics::new(),
            ioapic: Ioapic::new(),
            fabric: Fabric {
                cpus: apic_ids.iter().enumerate().map(cpu).collect(),
                changed: CpuSet::default(),
                turn: 0,
            },
            sources: [0; PINS as usize],
            muted: 0,
            pic_output: false,
            physical_bits,
        }
    }

    /// RESET#: controllers and local APICs as at power-on. Lines keep their levels (devices lower
    /// them in their own reset).
    pub fn reset(&mut self) {
        self.pics.power_on();
        self.ioapic.power_on();
        for cpu in &mut self.fabric.cpus {
            cpu.lapic.power_on();
            cpu.nmi = false;
            cpu.init = false;
            cpu.sipi = None;
            cpu.ext_int = false;
        }
        self.fabric.turn = 0;
        self.pic_output = false;
    }

    // ---- what comes in -----------------------------------------------------------------------

    /// Drives global system interrupt `gsi` from the one source it has.
    pub fn set_gsi(&mut self, gsi: u8, level: bool) {
        self.set_source(0, gsi, level);
    }

    /// Drives `gsi` from `source` (0..63, the machine's numbering): the line is asserted while
    /// any source asserts it. GSIs below 16 are the ISA IRQs: they reach the 8259 pair too, and
    /// IRQ 0 arrives at pin 2 of the I/O APIC.
    pub fn set_source(&mut self, source: u8, gsi: u8, level: bool) {
        let Some(sources) = self.sources.get_mut(usize::from(gsi)) else {
            return;
        };
        let bit = 1u64 << (source & 63);
        if level {
            *sources |= bit;
        } else {
            *sources &= !bit;
        }
        self.drive(gsi);
    }

    /// The HPET's legacy replacement (IA-PC HPET 1.0a, "LegacyReplacement Route"): while it is
    /// on, the sources in this bit mask (the PIT and the RTC) do not reach IRQ 0 and 8.
    pub fn mute_legacy(&mut self, sources: u64) {
        self.muted = sources;
        self.drive(0);
        self.drive(8);
    }

    /// A message-signalled interrupt of a device.
    pub fn message(&mut self, message: Message) {
        self.fabric.message(message);
    }

    /// The NMI line of the board, which is LINT1 of every CPU.
    pub fn set_nmi_line(&mut self, level: bool) {
        for cpu in 0..self.fabric.cpus.len() {
            self.with_lapic(cpu, |lapic, wires| lapic.set_lint(1, level, wires));
        }
    }

    /// Gives `cpu` an NMI past its local APIC, as a debugger's button does.
    pub fn inject_nmi(&mut self, cpu: usize) {
        if cpu < self.fabric.cpus.len() {
            self.fabric.receive(cpu, Delivery::Nmi, 0, false);
        }
    }

    // ---- what a CPU sees ---------------------------------------------------------------------

    /// The interrupt inputs of `cpu`.
    pub fn cpu_signals(&self, cpu: usize) -> CpuSignals {
        let Some(c) = self.fabric.cpus.get(cpu) else {
            return CpuSignals::default();
        };
        CpuSignals {
            intr: c.lapic.pending().is_some() || self.ext_int(c),
            nmi: c.nmi,
            init: c.init,
            sipi: c.sipi,
        }
    }

    /// The interrupt acknowledge of `cpu`: the vector, from its local APIC or, through ExtINT,
    /// from the 8259. None if the request has gone.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        let c = self.fabric.cpus.get_mut(cpu)?;
        if let Some(vector) = c.lapic.acknowledge() {
            return Some(vector);
        }
        if !self.ext_int(&self.fabric.cpus[cpu]) {
            return None;
        }
        self.fabric.cpus[cpu].ext_int = false;
        let vector = self.pics.acknowledge();
        // INT falls during INTA; what else waits is a new edge.
        self.drive_intr(false);
        self.sync_pics();
        Some(vector)
    }

    /// Takes a waiting NMI.
    pub fn take_nmi(&mut self, cpu: usize) -> bool {
        self.fabric
            .cpus
            .get_mut(cpu)
            .is_some_and(|c| core::mem::take(&mut c.nmi))
    }

    /// Takes a waiting INIT.
    pub fn take_init(&mut self, cpu: usize) -> bool {
        self.fabric
            .cpus
            .get_mut(cpu)
            .is_some_and(|c| core::mem::take(&mut c.init))
    }

    /// Takes a waiting start-up IPI: the page number of the entry.
    pub fn take_sipi(&mut self, cpu: usize) -> Option<u8> {
        self.fabric.cpus.get_mut(cpu)?.sipi.take()
    }

    /// The CPUs that have got something since the last call and have signals up: those to kick.
    pub fn take_changed(&mut self) -> CpuSet {
        let touched = core::mem::take(&mut self.fabric.changed);
        let mut changed = CpuSet::default();
        for cpu in touched.iter().filter(|&cpu| self.cpu_signals(cpu).any()) {
            changed.insert(cpu);
        }
        changed
    }

    // ---- timers ------------------------------------------------------------------------------

    /// When the timer of `cpu` fires next, in machine time.
    pub fn next_deadline_ns(&self, cpu: usize) -> Option<u64> {
        self.fabric.cpus.get(cpu)?.lapic.deadline_ns()
    }

    /// The earliest deadline of all CPUs.
    pub fn earliest_deadline_ns(&self) -> Option<u64> {
        self.fabric
            .cpus
            .iter()
            .filter_map(|cpu| cpu.lapic.deadline_ns())
            .min()
    }

    /// Fires the timer of `cpu` if it is due.
    pub fn timer(&mut self, cpu: usize, now_ns: u64) {
        self.with_lapic(cpu, |lapic, wires| lapic.timer(now_ns, wires));
    }

    /// Fires every timer that is due.
    pub fn timers(&mut self, now_ns: u64) {
        for cpu in 0..self.fabric.cpus.len() {
            if self.next_deadline_ns(cpu).is_some_and(|at| at <= now_ns) {
                self.timer(cpu, now_ns);
            }
        }
    }

    /// The TSC of `cpu` was written: its TSC deadline moves.
    pub fn tsc_changed(&mut self, cpu: usize, now_ns: u64, tsc: &TscClock) {
        self.with_lapic(cpu, |lapic, _| lapic.tsc_changed(now_ns, tsc));
    }

    // ---- registers ---------------------------------------------------------------------------

    /// A read of the 8259 pair's ports: regions as in [`devices::i8259`].
    pub fn pic_read(&mut self, region: u8, offset: u64, size: u8) -> u64 {
        let value = (0..u64::from(size.min(8))).fold(0, |value, i| {
            let byte = self.pics.port_read(region, offset.wrapping_add(i));
            value | u64::from(byte) << (8 * i)
        });
        // A poll acknowledges.
        self.sync_pics();
        value
    }

    /// A write to the 8259 pair's ports.
    pub fn pic_write(&mut self, region: u8, offset: u64, size: u8, value: u64) {
        for i in 0..u64::from(size.min(8)) {
            let byte = (value >> (8 * i)) as u8;
            self.pics.port_write(region, offset.wrapping_add(i), byte);
        }
        self.sync_pics();
    }

    /// A read of the I/O APIC's window.
    pub fn ioapic_read(&mut self, offset: u64) -> u64 {
        u64::from(self.ioapic.window_read(offset))
    }

    /// A write to the I/O APIC's window.
    pub fn ioapic_write(&mut self, offset: u64, value: u64) {
        self.ioapic
            .window_write(offset, value as u32, &mut self.fabric);
    }

    /// The page at which `cpu` finds its local APIC; none in x2APIC mode or when it is off.
    pub fn lapic_page(&self, cpu: usize) -> Option<u64> {
        self.fabric.cpus.get(cpu)?.lapic.mmio_page()
    }

    /// A read by `cpu` in the page of its local APIC; all ones if that is not there.
    pub fn lapic_read(&mut self, cpu: usize, offset: u64, now_ns: u64) -> u64 {
        if self.lapic_page(cpu).is_none() {
            return u64::MAX;
        }
        // Registers are 32 bits wide; narrower reads see their part.
        let part = 8 * (offset & 3);
        let value = self
            .with_lapic(cpu, |lapic, wires| {
                lapic.mmio_read(offset & !3, now_ns, wires)
            })
            .unwrap_or(u32::MAX);
        u64::from(value) >> part
    }

    /// A write by `cpu` in the page of its local APIC.
    pub fn lapic_write(&mut self, cpu: usize, offset: u64, value: u64, now_ns: u64) {
        if self.lapic_page(cpu).is_some() {
            self.with_lapic(cpu, |lapic, wires| {
                lapic.mmio_write(offset, value as u32, now_ns, wires);
            });
        }
    }

    /// Whether `msr` is the hub's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800..0x8FF.
    pub fn owns_msr(msr: u32) -> bool {
        msr == IA32_APIC_BASE || Lapic::owns_msr(msr)
    }

    /// RDMSR by `cpu`; none is #GP(0).
    pub fn msr_read(&mut self, cpu: usize, msr: u32, now_ns: u64) -> Option<u64> {
        let lapic = &self.fabric.cpus.get(cpu)?.lapic;
        match msr {
            IA32_APIC_BASE => Some(lapic.base()),
            _ if Lapic::owns_msr(msr) => lapic.read_msr(msr, now_ns).ok(),
            _ => None,
        }
    }

    /// WRMSR by `cpu`; false is #GP(0). `tsc` is its TSC, for IA32_TSC_DEADLINE.
    pub fn msr_write(
        &mut self,
        cpu: usize,
        msr: u32,
        value: u64,
        now_ns: u64,
        tsc: &TscClock,
    ) -> bool {
        let bits = self.physical_bits;
        self.with_lapic(cpu, |lapic, wires| match msr {
            IA32_APIC_BASE => lapic.set_base(value, bits).is_ok(),
            _ if Lapic::owns_msr(msr) => lapic.write_msr(msr, value, now_ns, tsc, wires).is_ok(),
            _ => false,
        })
        .unwrap_or(false)
    }

    /// CR8 of `cpu`: the task priority class.
    pub fn task_priority(&self, cpu: usize) -> u8 {
        self.fabric.cpus.get(cpu).map_or(0, |c| c.lapic.cr8() as u8)
    }

    /// Writes CR8 of `cpu`.
    pub fn set_task_priority(&mut self, cpu: usize, class: u8) {
        self.with_lapic(cpu, |lapic, _| lapic.set_cr8(u64::from(class)));
    }

    // ---- state -------------------------------------------------------------------------------

    /// The state of the hub and all it owns, as one section.
    pub fn save(&self) -> Vec<u8> {
        let Hub {
            pics,
            ioapic,
            fabric,
            sources,
            muted,
            pic_output,
            physical_bits: _,
        } = self;
        let Fabric {
            cpus,
            changed: _,
            turn,
        } = fabric;
        let cpus: Vec<_> = cpus
            .iter()
            .map(
                |Cpu {
                     lapic,
                     nmi,
                     init,
                     sipi,
                     ext_int,
                 }| { (lapic.save(), *nmi, *init, *sipi, *ext_int) },
            )
            .collect();
        save_state(
            1,
            &(
                pics.save(),
                ioapic.save(),
                cpus,
                turn,
                sources,
                muted,
                pic_output,
            ),
        )
    }

    /// Takes over a saved state of a machine with the same CPUs. On an error the hub is
    /// unchanged. All CPUs count as changed afterwards.
    pub fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        type SavedCpu = (Vec<u8>, bool, bool, Option<u8>, bool);
        type Saved = (
            Vec<u8>,
            Vec<u8>,
            Vec<SavedCpu>,
            u8,
            [u64; PINS as usize],
            u64,
            bool,
        );
        let (saved_pics, saved_ioapic, saved_cpus, turn, sources, muted, pic_output): Saved =
            load_state(1, section)?;
        let count = self.fabric.cpus.len();
        if saved_cpus.len() != count || usize::from(turn) >= count {
            let why = format!(
                "{} CPUs, turn {turn}; the machine has {count}",
                saved_cpus.len()
            );
            return Err(LoadError::Invalid { field: "cpus", why });
        }
        let (mut pics, mut ioapic) = (Pics::new(), Ioapic::new());
        pics.load(&saved_pics)?;
        ioapic.load(&saved_ioapic)?;
        let mut cpus = Vec::with_capacity(count);
        for (old, (bytes, nmi, init, sipi, ext_int)) in self.fabric.cpus.iter().zip(saved_cpus) {
            let mut lapic = Lapic::new(old.lapic.id(), false);
            lapic.load(&bytes)?;
            cpus.push(Cpu {
                lapic,
                nmi,
                init,
                sipi,
                ext_int,
            });
        }
        let mut changed = CpuSet::default();
        (0..count).for_each(|cpu| changed.insert(cpu));
        let fabric = Fabric {
            cpus,
            changed,
            turn,
        };
        let physical_bits = self.physical_bits;
        *self = Hub {
            pics,
            ioapic,
            fabric,
            sources,
            muted,
            pic_output,
            physical_bits,
        };
        Ok(())
    }

    /// The state as a readable tree.
    pub fn inspect(&self, out: &mut Inspector) {
        out.tree("i8259", |out| self.pics.inspect(out));
        out.tree("ioapic", |out| self.ioapic.inspect(out));
        for (i, cpu) in self.fabric.cpus.iter().enumerate() {
            out.tree(&format!("cpu {i}"), |out| {
                out.value("signals", format_args!("{:?}", self.cpu_signals(i)));
                cpu.lapic.inspect(out);
            });
        }
    }

    // ---- inside ------------------------------------------------------------------------------

    fn ext_int(&self, cpu: &Cpu) -> bool {
        (cpu.ext_int || cpu.lapic.accepts_ext_int()) && self.pics.output()
    }

    /// The level of `gsi` goes to the controllers.
    fn drive(&mut self, gsi: u8) {
        let level_of = |gsi: u8| {
            let muted = if matches!(gsi, 0 | 8) { self.muted } else { 0 };
            self.sources[usize::from(gsi)] & !muted != 0
        };
        let level = level_of(gsi);
        let (pin, pin_level) = match gsi {
            0 | 2 => (2, level_of(0) || level_of(2)),
            _ => (gsi, level),
        };
        if gsi < 16 {
            // IRQ 2 is the cascade: `set_irq` ignores it.
            self.pics.set_irq(gsi, level);
            self.sync_pics();
        }
        self.ioapic.set_gsi(pin, pin_level, &mut self.fabric);
    }

    /// INTR of the 8259 may have changed.
    fn sync_pics(&mut self) {
        let output = self.pics.output();
        if output != self.pic_output {
            self.drive_intr(output);
        }
    }

    fn drive_intr(&mut self, level: bool) {
        self.pic_output = level;
        for cpu in 0..self.fabric.cpus.len() {
            self.with_lapic(cpu, |lapic, wires| lapic.set_lint(0, level, wires));
        }
        self.ioapic.set_gsi(0, level, &mut self.fabric);
    }

    /// Calls the local APIC of `cpu` and carries out what it does.
    fn with_lapic<R>(
        &mut self,
        cpu: usize,
        call: impl FnOnce(&mut Lapic, &mut Effects) -> R,
    ) -> Option<R> {
        let mut effects = Effects::default();
        let c = self.fabric.cpus.get_mut(cpu)?;
        let result = call(&mut c.lapic, &mut effects);
        let Effects { ipi, eoi, nmi } = effects;
        c.nmi |= nmi;
        self.fabric.changed.insert(cpu);
        if let Some(ipi) = ipi {
            let lowest = ipi.delivery == Delivery::LowestPriority;
            self.fabric.deliver(Some(cpu), ipi, false, lowest);
        }
        if let Some(vector) = eoi {
            self.ioapic.eoi(vector, &mut self.fabric);
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::lapic::BASE_EXTD;

    const TSC: TscClock = TscClock {
        hz: 1_000_000_000,
        base_ns: 0,
        base_tsc: 0,
    };

    /// A hub whose CPUs have enabled their local APICs.
    fn hub(cpus: u32) -> Hub {
        let ids: Vec<u32> = (0..cpus).collect();
        let mut hub = Hub::new(&ids, 40);
        for cpu in 0..cpus as usize {
            hub.lapic_write(cpu, 0xf0, 0x1ff, 0);
            hub.lapic_write(cpu, 0xd0, 1 << (24 + cpu as u32), 0);
        }
        hub.take_changed();
        hub
    }

    fn pics_as_linux(hub: &mut Hub) {
        for (region, base, icw3) in [(0, 0x20, 4), (1, 0x28, 2)] {
            for (port, value) in [(0, 0x11), (1, base), (1, icw3), (1, 1), (1, 0)] {
                hub.pic_write(region, port, 1, value);
            }
        }
    }

    fn entry(hub: &mut Hub, pin: u64, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            hub.ioapic_write(0, 0x10 + 2 * pin + half);
            hub.ioapic_write(0x10, value);
        }
    }

    fn changed(hub: &mut Hub) -> Vec<usize> {
        hub.take_changed().iter().collect()
    }

    #[test]
    fn a_set_of_cpus_lists_its_members_in_order() {
        let mut set = CpuSet::default();
        for cpu in [255, 0, 63, 64, 64, 300] {
            set.insert(cpu);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert!(set.contains(64) && !set.contains(65) && !set.is_empty());
    }

    #[test]
    fn an_isa_interrupt_reaches_the_cpu_through_extint() {
        let mut hub = hub(2);
        pics_as_linux(&mut hub);
        hub.lapic_write(0, 0x350, 0x700, 0);
        changed(&mut hub);
        hub.set_gsi(4, true);
        assert_eq!(changed(&mut hub), [0], "LINT0 of the other CPU is masked");
        assert!(hub.cpu_signals(0).intr && !hub.cpu_signals(1).intr);
        assert_eq!(hub.acknowledge(0), Some(0x24));
        assert_eq!(hub.acknowledge(0), None);
        hub.set_gsi(4, false);
        hub.pic_write(0, 0, 1, 0x20);
        assert!(!hub.cpu_signals(0).intr);
    }

    #[test]
    fn an_interrupt_reaches_a_cpu_whose_apic_is_off() {
        let mut hub = Hub::new(&[0], 40);
        pics_as_linux(&mut hub);
        hub.set_gsi(1, true);
        assert!(!hub.cpu_signals(0).intr);
        assert!(hub.msr_write(0, 0x1b, 0, 0, &TSC));
        assert_eq!(hub.acknowledge(0), Some(0x21));
    }

    #[test]
    fn a_second_request_of_the_pic_is_a_new_edge_for_lint0() {
        let mut hub = hub(1);
        pics_as_linux(&mut hub);
        hub.lapic_write(0, 0x350, 0x700, 0);
        hub.set_gsi(3, true);
        hub.set_gsi(1, true);
        assert_eq!(hub.acknowledge(0), Some(0x21));
        hub.pic_write(0, 0, 1, 0x20);
        assert_eq!(changed(&mut hub), [0]);
        assert_eq!(hub.acknowledge(0), Some(0x23));
    }

    #[test]
    fn irq_0_arrives_at_pin_2_and_takes_the_flat_destination() {
        let mut hub = hub(4);
        entry(&mut hub, 2, 0x0a << 56 | 0x0830);
        hub.set_gsi(0, true);
        assert_eq!(changed(&mut hub), [1, 3]);
        assert_eq!((hub.acknowledge(1), hub.acknowledge(0)), (Some(0x30), None));
    }

    #[test]
    fn a_level_interrupt_comes_again_after_the_cpus_eoi_while_asserted() {
        let mut hub = hub(2);
        entry(&mut hub, 10, 1 << 56 | 0x8040);
        hub.set_source(3, 10, true);
        hub.set_source(5, 10, true);
        assert_eq!(hub.acknowledge(1), Some(0x40));
        hub.set_source(3, 10, false);
        hub.lapic_write(1, 0xb0, 0, 0);
        assert_eq!(hub.acknowledge(1), Some(0x40), "source 5 still asserts it");
        hub.set_source(5, 10, false);
        hub.lapic_write(1, 0xb0, 0, 0);
        assert_eq!(hub.acknowledge(1), None);
    }

    #[test]
    fn lowest_priority_takes_the_idlest_cpu_and_equals_in_turn() {
        let mut hub = hub(3);
        hub.set_task_priority(1, 8);
        let msi = Message {
            address: 0xfee0_700c,
            data: 0x0141,
        };
        let mut taken = Vec::new();
        for _ in 0..4 {
            hub.message(msi);
            taken.extend(changed(&mut hub));
            for cpu in 0..3 {
                if hub.acknowledge(cpu).is_some() {
                    hub.lapic_write(cpu, 0xb0, 0, 0);
                }
            }
            changed(&mut hub);
        }
        assert_eq!(taken, [0, 2, 0, 2]);
    }

    #[test]
    fn messages_go_to_physical_destinations_and_to_all() {
        let mut hub = hub(3);
        hub.message(Message {
            address: 0xfee0_2000,
            data: 0x51,
        });
        assert_eq!(changed(&mut hub), [2]);
        hub.message(Message {
            address: 0xfeef_f000,
            data: 0x0400,
        });
        assert_eq!(changed(&mut hub), [0, 1, 2]);
        assert!(hub.take_nmi(0) && !hub.take_nmi(0));
        hub.message(Message {
            address: 0x1000,
            data: 0x51,
        });
        assert!(changed(&mut hub) == [] as [usize; 0]);
    }

    #[test]
    fn init_and_startup_wake_the_other_processors() {
        let mut hub = hub(3);
        hub.lapic_write(0, 0x300, 0xc_4500, 0);
        assert_eq!(changed(&mut hub), [1, 2]);
        assert!(hub.take_init(1) && hub.take_init(2) && !hub.take_init(0));
        hub.lapic_write(0, 0x310, 0x0200_0000, 0);
        hub.lapic_write(0, 0x300, 0x0_8500, 0);
        assert!(!hub.cpu_signals(2).init, "INIT de-assert does nothing");
        hub.lapic_write(0, 0x300, 0x0_4699, 0);
        assert_eq!(
            (hub.take_sipi(2), hub.take_sipi(2), hub.take_sipi(1)),
            (Some(0x99), None, None)
        );
        assert_eq!(hub.lapic_read(2, 0xf0, 0), 0xff, "its APIC was reset");
    }

    #[test]
    fn x2apic_ipis_reach_by_id_cluster_and_shorthand() {
        let ids: Vec<u32> = (0..20).map(|i| i * 3).collect();
        let mut hub = Hub::new(&ids, 40);
        for cpu in 0..20 {
            hub.lapic_write(cpu, 0xf0, 0x1ff, 0);
            assert!(hub.msr_write(cpu, 0x1b, 0xfee0_0800 | BASE_EXTD, 0, &TSC));
            assert_eq!(hub.lapic_page(cpu), None);
        }
        changed(&mut hub);
        assert!(hub.msr_write(0, 0x830, 57 << 32 | 0x41, 0, &TSC));
        assert_eq!(hub.acknowledge(19), Some(0x41));
        // Cluster 1, members 0x12 (CPU 6) and 0x15 (CPU 7).
        assert!(hub.msr_write(0, 0x830, 0x1_0024 << 32 | 0x842, 0, &TSC));
        assert_eq!(
            (hub.acknowledge(6), hub.acknowledge(7)),
            (Some(0x42), Some(0x42))
        );
        assert_eq!(hub.acknowledge(8), None);
        assert!(hub.msr_write(3, 0x830, 0xc_0043, 0, &TSC));
        assert_eq!((hub.acknowledge(3), hub.acknowledge(4)), (None, Some(0x43)));
        assert!(!hub.msr_write(3, 0x80e, 0, 0, &TSC));
        assert_eq!(hub.msr_read(3, 0x802, 0), Some(9));
    }

    #[test]
    fn each_cpus_timer_fires_on_its_own_deadline() {
        let mut hub = hub(2);
        hub.lapic_write(1, 0x320, 0x4_0060, 0);
        assert!(hub.msr_write(1, 0x6e0, 5000, 0, &TSC));
        assert_eq!(
            (hub.next_deadline_ns(0), hub.next_deadline_ns(1)),
            (None, Some(5000))
        );
        changed(&mut hub);
        hub.timers(5000);
        assert_eq!(changed(&mut hub), [1]);
        assert_eq!(
            (hub.acknowledge(1), hub.earliest_deadline_ns()),
            (Some(0x60), None)
        );
    }

    #[test]
    fn legacy_replacement_disconnects_the_pit() {
        let mut hub = hub(1);
        entry(&mut hub, 2, 0x30);
        hub.mute_legacy(1 << 7);
        hub.set_source(7, 0, true);
        assert_eq!(hub.acknowledge(0), None);
        hub.set_source(9, 0, true);
        assert_eq!(hub.acknowledge(0), Some(0x30));
    }

    #[test]
    fn the_virtual_wire_and_the_nmi_line_reach_their_lints() {
        let mut hub = hub(1);
        pics_as_linux(&mut hub);
        hub.lapic_write(0, 0x350, 0x31, 0);
        hub.lapic_write(0, 0x360, 0x400, 0);
        hub.set_gsi(0, true);
        assert_eq!(hub.acknowledge(0), Some(0x31));
        hub.set_nmi_line(true);
        assert!(hub.cpu_signals(0).nmi);
    }

    #[test]
    fn random_use_never_panics_and_saves_and_loads_equal() {
        for seed in 1..40u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let (mut hub, mut now) = (hub(3), 0u64);
            for _ in 0..500 {
                now += random() % 10_000;
                let (a, value) = (random(), random() >> (random() % 64));
                let cpu = (a % 4) as usize;
                match random() % 12 {
                    0 => hub.set_source(a as u8, (a >> 8) as u8 % 26, value & 1 != 0),
                    1 => hub.message(Message {
                        address: 0xfee0_0000 | a & 0xf_ffff,
                        data: value as u32,
                    }),
                    2 => hub.pic_write(a as u8 % 3, (a >> 8) % 2, 1, value),
                    3 => drop(hub.pic_read(a as u8 % 3, (a >> 8) % 3, 2)),
                    4 => hub.ioapic_write([0, 0x10, 0x10, 0x40][cpu], value),
                    5 | 6 => hub.lapic_write(cpu, (a >> 8) & 0x3f0, value, now),
                    7 => drop(hub.lapic_read(cpu, (a >> 8) & 0xfff, now)),
                    8 => {
                        let msr = [0x1b, 0x6e0, 0x830, 0x800 + (a as u32 >> 8 & 0x3f)][cpu];
                        let _ = hub.msr_write(cpu, msr, value, now, &TSC);
                    }
                    9 => hub.timers(now),
                    10 => drop((hub.take_init(cpu), hub.take_sipi(cpu), hub.take_nmi(cpu))),
                    _ => {
                        let intr = hub.cpu_signals(cpu).intr;
                        assert_eq!(hub.acknowledge(cpu).is_some(), intr, "seed {seed}");
                    }
                }
            }
            let saved = hub.save();
            let mut twin = Hub::new(&[0, 1, 2], 40);
            assert_eq!(twin.load(&saved), Ok(()), "seed {seed}");
            assert_eq!(saved, twin.save());
            assert!(Hub::new(&[0, 1], 40).load(&saved).is_err());
            for _ in 0..200 {
                let mut bytes = saved.clone();
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
                if twin.load(&bytes).is_ok() {
                    for cpu in 0..3 {
                        twin.lapic_write(cpu, 0xb0, 0, now);
                        twin.acknowledge(cpu);
                        twin.timers(u64::MAX);
                    }
                }
            }
        }
    }
}
