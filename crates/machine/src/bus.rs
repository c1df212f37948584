//! The pins of one processor: [`VcpuBus`] carries an engine's questions to the board. From here
//! on there is one path, whatever the engine.
//!
//! An access that one region holds wholly goes to its device in one call; one that does not is
//! split into bytes, each for whoever answers there.

use crate::board::Part;
use crate::decode::{Claim, Decoder};
use crate::machine::Machine;
use crate::trace::Kinds;
use alloc::format;
use core::sync::atomic::Ordering;
use devices::coprocessor;
use mem::Gpa;
use x86::{Bus, Event};

/// The bus as processor `cpu` sees it.
pub struct VcpuBus<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) cpu: u32,
}

/// The low `size` bytes.
fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl<'m> VcpuBus<'m> {
    /// The bus of processor `cpu`.
    pub fn new(machine: &'m Machine, cpu: u32) -> Self {
        VcpuBus { machine, cpu }
    }

    fn read(&mut self, decoder: &Decoder, at: u64, size: u8) -> u64 {
        if let Some((claim, offset)) = decoder.find(at, size) {
            return self.read_claim(claim, offset, size) & mask(size);
        }
        let mut value = mask(size);
        if size > 1 {
            for i in 0..size {
                let here = at.wrapping_add(u64::from(i));
                if let Some((claim, offset)) = decoder.find(here, 1) {
                    let byte = self.read_claim(claim, offset, 1) & 0xff;
                    value = value & !(0xff << (8 * i)) | byte << (8 * i);
                }
            }
        }
        value
    }

    fn write(&mut self, decoder: &Decoder, at: u64, size: u8, value: u64) {
        if let Some((claim, offset)) = decoder.find(at, size) {
            return self.write_claim(claim, offset, size, value & mask(size));
        }
        if size > 1 {
            for i in 0..size {
                let here = at.wrapping_add(u64::from(i));
                if let Some((claim, offset)) = decoder.find(here, 1) {
                    self.write_claim(claim, offset, 1, value >> (8 * i) & 0xff);
                }
            }
        }
    }

    fn read_claim(&mut self, claim: Claim, offset: u64, size: u8) -> u64 {
        let slot = usize::from(claim.slot);
        let place = &self.machine.board().slots[slot];
        place.accesses.reads.fetch_add(1, Ordering::Relaxed);
        match &place.part {
            Part::Hub(part) => self.hub_read(*part, claim.region, offset, size),
            Part::Device(_) => self
                .machine
                .with_device(slot, |d, cx| d.read(cx, claim.region, offset, size))
                .unwrap_or(u64::MAX),
        }
    }

    fn write_claim(&mut self, claim: Claim, offset: u64, size: u8, value: u64) {
        let slot = usize::from(claim.slot);
        let place = &self.machine.board().slots[slot];
        place.accesses.writes.fetch_add(1, Ordering::Relaxed);
        match &place.part {
            Part::Hub(part) => self.hub_write(*part, claim.region, offset, size, value),
            Part::Device(_) => {
                self.machine
                    .with_device(slot, |d, cx| d.write(cx, claim.region, offset, size, value));
            }
        }
    }

    #[inline(always)]
    fn trace(&self, kind: Kinds, text: impl FnOnce() -> alloc::string::String) {
        if self.machine.trace.on(kind) {
            let now = self.machine.now_ns();
            self.machine.trace.event(kind, now, Some(self.cpu), text);
        }
    }
}

impl Bus for VcpuBus<'_> {
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64 {
        let value = self.read(&self.machine.board().memory, at.0, size);
        self.trace(Kinds::MMIO, || {
            format!("read{size} {:#x} = {value:#x}", at.0)
        });
        value
    }
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64) {
        self.trace(Kinds::MMIO, || {
            format!("write{size} {:#x} = {value:#x}", at.0)
        });
        self.write(&self.machine.board().memory, at.0, size, value);
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        let value = self.read(&self.machine.board().ports, u64::from(port), size) as u32;
        self.trace(Kinds::IO, || format!("in{size} {port:#x} = {value:#x}"));
        value
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.trace(Kinds::IO, || format!("out{size} {port:#x} = {value:#x}"));
        let ports = &self.machine.board().ports;
        self.write(ports, u64::from(port), size, u64::from(value));
    }
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        let value = self.hub_msr_read(index);
        self.trace(Kinds::MSR, || match value {
            Some(value) => format!("rdmsr {index:#x} = {value:#x}"),
            None => format!("rdmsr {index:#x}: #GP"),
        });
        value
    }
    fn msr_write(&mut self, index: u32, value: u64) -> bool {
        let done = self.hub_msr_write(index, value);
        self.trace(Kinds::MSR, || {
            let fault = if done { "" } else { ": #GP" };
            format!("wrmsr {index:#x} = {value:#x}{fault}")
        });
        done
    }
    fn tsc(&mut self) -> u64 {
        self.machine.tsc(self.machine.now_ns())
    }
    fn tsc_rate(&self) -> Option<x86::TscRate> {
        // Another frequency would round twice.
        let same = self.machine.spec().tsc_hz == crate::clock::TSC_HZ;
        self.machine.clock().tsc_rate().filter(|_| same)
    }
    fn task_priority(&mut self) -> u8 {
        self.hub_task_priority()
    }
    fn set_task_priority(&mut self, class: u8) {
        self.hub_set_task_priority(class);
    }
    fn acknowledge(&mut self) -> Option<u8> {
        self.hub_acknowledge()
    }
    fn ferr(&mut self, level: bool) -> bool {
        let slot = self.machine.board().coprocessor_slot;
        let ignne = self.machine.with_device(slot, |d, cx| {
            // Boards connect FERR# of the bootstrap processor only; IGNNE# goes to all.
            if self.cpu == 0 {
                d.write(cx, coprocessor::PINS, 0, 1, level.into());
            }
            d.read(cx, coprocessor::PINS, 0, 1)
        });
        ignne.is_some_and(|pin| pin & 1 != 0)
    }
    fn entropy(&mut self) -> Option<u64> {
        self.machine.host().entropy()
    }
    fn retired(&mut self, instructions: u64) {
        self.machine.clock().retired(instructions);
    }
    fn instruction(&mut self, retired: &x86::trace::Retired<'_>) {
        self.trace(Kinds::INSN, || format!("{retired}"));
    }
    fn event(&mut self, event: Event) {
        match event {
            Event::Exception { vector, code, rip } => self.trace(Kinds::FAULT, || match code {
                Some(code) => format!("exception {vector} code {code:#x} at {rip:#x}"),
                None => format!("exception {vector} at {rip:#x}"),
            }),
            Event::Interrupt { vector, rip } => {
                self.trace(Kinds::IRQ, || format!("interrupt {vector:#x} at {rip:#x}"));
            }
        }
    }
}
