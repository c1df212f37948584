//! How the interrupt hub is wired: to the devices' lines, to the pins of the processors, to the
//! clock. The hub's lock is taken here and nowhere else. What the hub has for a processor is
//! carried to its [`Signals`] under the lock, so that the pins always say what the hub said last;
//! the wake follows after the lock.

use crate::board::HubPart;
use crate::bus::VcpuBus;
use crate::hub::{CpuSet, Hub};
use crate::machine::Machine;
use alloc::format;
use devices::Message;
use devices::lapic::TscClock;
use x86::Signals;

/// Where the board has the local APIC of whoever asks.
const LAPIC_PAGE: u64 = 0xfee0_0000;

/// The hub's number for a line of a device. They only have to differ on one GSI.
fn source(slot: usize, line: u8) -> u8 {
    ((slot * 4 + usize::from(line & 3)) % 64) as u8
}

impl Machine {
    /// Calls the hub, carries what it has for processors to their pins, wakes them.
    fn with_hub<R>(&self, call: impl FnOnce(&mut Hub) -> R) -> R {
        let (result, wake) = {
            let mut hub = self.hub.lock();
            let result = call(&mut hub);
            let changed = hub.take_changed();
            for cpu in changed.iter() {
                self.raise(&mut hub, cpu);
            }
            (result, changed)
        };
        self.wake(wake);
        result
    }

    /// As [`Self::with_hub`] on behalf of processor `cpu`, whose INTR may fall and whose timer
    /// may have been set.
    fn with_hub_of<R>(&self, cpu: u32, call: impl FnOnce(&mut Hub, usize) -> R) -> R {
        let (result, wake, deadline) = {
            let mut hub = self.hub.lock();
            let own = cpu as usize;
            let before = hub.next_deadline_ns(own);
            let result = call(&mut hub, own);
            let changed = hub.take_changed();
            for cpu in changed.iter() {
                self.raise(&mut hub, cpu);
            }
            if !hub.cpu_signals(own).intr {
                self.signals(cpu).lower(Signals::INTR);
            }
            let deadline = hub.next_deadline_ns(own);
            (result, changed, deadline.filter(|_| deadline != before))
        };
        self.wake(wake);
        if let Some(at) = deadline {
            self.armed(at);
        }
        result
    }

    /// Raises the pins of a processor for which the hub has something. Edges are taken out of
    /// the hub: they are the processor's from here on.
    fn raise(&self, hub: &mut Hub, cpu: usize) {
        let pins = self.signals(cpu as u32);
        if hub.cpu_signals(cpu).intr {
            pins.raise(Signals::INTR);
        }
        if hub.take_nmi(cpu) {
            pins.raise(Signals::NMI);
        }
        if hub.take_init(cpu) {
            // A start-up IPI from before it is void.
            pins.take_sipi();
            pins.raise(Signals::INIT);
        }
        if let Some(vector) = hub.take_sipi(cpu) {
            pins.raise_sipi(vector);
        }
    }

    fn wake(&self, cpus: CpuSet) {
        if !cpus.is_empty() {
            for cpu in cpus.iter() {
                self.host().wake(cpu as u32);
            }
        }
    }

    pub(crate) fn hub_reset(&self) {
        let mut hub = self.hub.lock();
        hub.reset();
        hub.take_changed();
    }
    pub(crate) fn hub_timers(&self, now_ns: u64) {
        self.with_hub(|hub| hub.timers(now_ns));
    }
    pub(crate) fn hub_deadline(&self) -> Option<u64> {
        self.hub.lock().earliest_deadline_ns()
    }
    pub(crate) fn hub_line(&self, slot: usize, line: u8, gsi: u8, level: bool) {
        self.with_hub(|hub| hub.set_source(source(slot, line), gsi, level));
    }
    pub(crate) fn hub_mute_legacy(&self, mute: bool) {
        let sources = self.board().legacy_slots.map(|slot| 1 << source(slot, 0));
        let sources = if mute { sources[0] | sources[1] } else { 0 };
        self.with_hub(|hub| hub.mute_legacy(sources));
    }
    pub(crate) fn hub_message(&self, message: Message) {
        self.with_hub(|hub| hub.message(message));
    }
}

impl VcpuBus<'_> {
    pub(crate) fn hub_read(&mut self, part: HubPart, region: u8, at: u64, size: u8) -> u64 {
        let now = self.machine.now_ns();
        self.machine.with_hub_of(self.cpu, |hub, cpu| match part {
            HubPart::Pics => hub.pic_read(region, at, size),
            HubPart::Ioapic => hub.ioapic_read(at),
            HubPart::Lapic => hub.lapic_read(cpu, at, now),
        })
    }
    pub(crate) fn hub_write(&mut self, part: HubPart, region: u8, at: u64, size: u8, value: u64) {
        let now = self.machine.now_ns();
        self.machine.with_hub_of(self.cpu, |hub, cpu| match part {
            HubPart::Pics => hub.pic_write(region, at, size, value),
            HubPart::Ioapic => hub.ioapic_write(at, value),
            HubPart::Lapic => hub.lapic_write(cpu, at, value, now),
        });
    }
    pub(crate) fn hub_msr_read(&mut self, index: u32) -> Option<u64> {
        if !Hub::owns_msr(index) {
            return None;
        }
        let now = self.machine.now_ns();
        self.machine
            .with_hub_of(self.cpu, |hub, cpu| hub.msr_read(cpu, index, now))
    }
    pub(crate) fn hub_msr_write(&mut self, index: u32, value: u64) -> bool {
        if !Hub::owns_msr(index) {
            return false;
        }
        let now = self.machine.now_ns();
        // The guest's TSC starts with machine time.
        let tsc = TscClock {
            hz: self.machine.spec().tsc_hz,
            base_ns: 0,
            base_tsc: 0,
        };
        let (done, moved) = self.machine.with_hub_of(self.cpu, |hub, cpu| {
            let before = hub.lapic_page(cpu);
            let done = hub.msr_write(cpu, index, value, now, &tsc);
            (
                done,
                hub.lapic_page(cpu).filter(|page| Some(*page) != before),
            )
        });
        // Departure: the page stays where it was. To follow it, every access to RAM would have to
        // ask whether the local APIC covers it now; no known system moves it.
        if let Some(page) = moved.filter(|page| *page != LAPIC_PAGE) {
            let cpu = self.cpu;
            self.machine.host().event(format!(
                "cpu{cpu}: the guest moves its local APIC to gpa {page:#x}; its registers stay at {LAPIC_PAGE:#x}"
            ));
        }
        done
    }
    pub(crate) fn hub_task_priority(&mut self) -> u8 {
        self.machine
            .with_hub_of(self.cpu, |hub, cpu| hub.task_priority(cpu))
    }
    pub(crate) fn hub_set_task_priority(&mut self, class: u8) {
        self.machine
            .with_hub_of(self.cpu, |hub, cpu| hub.set_task_priority(cpu, class));
    }
    pub(crate) fn hub_acknowledge(&mut self) -> Option<u8> {
        self.machine
            .with_hub_of(self.cpu, |hub, cpu| hub.acknowledge(cpu))
    }
}
